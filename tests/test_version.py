"""The release that the command line and every record name, and text made fit for a terminal."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import pytest

from latentopt.files import versions as version
from latentopt.files.text import escape_controls
from latentopt.results.manifest import versions

ROOT = Path(__file__).parent.parent


@pytest.fixture
def not_installed(monkeypatch):
    def missing(name):
        raise PackageNotFoundError(name)

    monkeypatch.setattr(version, "version", missing)


def test_a_checkout_knows_its_release(not_installed):
    assert version.package_version() == tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert version.package_version("torch") == "unknown"


@pytest.mark.parametrize("text", [None, "", "[project", "[project]", '[project]\nname = "other"\nversion = "3"\n'])
def test_no_project_file_of_ours(not_installed, monkeypatch, tmp_path, text):
    monkeypatch.setattr(version, "PACKAGE", tmp_path / "latentopt")
    if text is not None:
        (tmp_path / "pyproject.toml").write_text(text)
    assert version.package_version() == "unknown"


def test_an_installed_release_goes_first(monkeypatch):
    monkeypatch.setattr(version, "version", lambda name: f"{name} 7")
    assert version.package_version() == "latentopt 7"


def test_the_command_line_and_the_records_agree_without_torch():
    text = (
        "import sys; sys.argv = ['latentopt', '--version'];"
        "from latentopt.commands import cli; cli.main(standalone_mode=False); print('torch' in sys.modules)"
    )
    lines = subprocess.run([sys.executable, "-c", text], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert lines.splitlines() == [f"latentopt, version {versions()['latentopt']}", "False"]


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("été 写真 a b", "été 写真 a b"),
        ("\x1b[31mred\r\t\x07", r"\x1b[31mred\r\t\x07"),
        ("\u202egnp", r"\u202egnp"),
        ("\ud800", r"\ud800"),
        ("two\nlines", "two\nlines"),
    ],
)
def test_control_characters_are_escaped(text, shown):
    assert escape_controls(text) == shown
