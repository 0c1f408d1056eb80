"""What ships belongs together: every file names the generator that ships with it."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parent.parent / "scripts"


@pytest.fixture(scope="module")
def make_bundled():
    sys.path.insert(0, str(SCRIPTS))
    try:
        spec = importlib.util.spec_from_file_location("make_bundled", SCRIPTS / "make_bundled.py")
        module = importlib.util.module_from_spec(spec)
        sys.modules["make_bundled"] = module
        spec.loader.exec_module(module)
        yield module
    finally:
        sys.path.remove(str(SCRIPTS))
        sys.modules.pop("make_bundled", None)


def test_every_bundled_file_is_of_the_bundled_generators(make_bundled):
    parts = make_bundled.all_parts()
    assert {part.model for part in parts} == {"portraits", "portraits-wrangan"}
    assert len({part.file for part in parts}) == len(parts)
    assert [part.file.name for part in parts if not part.up_to_date] == []


def test_what_belongs_to_another_generator_is_made_again(make_bundled, monkeypatch, tmp_path):
    """Only those, in their order, with the trainings in a folder of that generator."""
    asked = []
    monkeypatch.setattr(make_bundled, "latentopt", lambda *arguments: asked.append(arguments))
    monkeypatch.setattr(make_bundled, "fingerprint", lambda model: "0" * 16)
    settings = make_bundled.Settings(tmp_path, "cpu", "1e4", 8, 2, 2, None)
    for part in make_bundled.all_parts():
        assert not part.up_to_date
        if part.name in ("pnorm", "metric"):
            part.make(settings)
    assert [(a[0], a[2]) for a in asked] == [
        (command, model) for model in ("portraits", "portraits-wrangan") for command in ("fit-pnorm", "fit-metric")
    ]
    assert settings.folder() == tmp_path / ("0" * 16)


def test_bundled_files_stay_small(make_bundled):
    """A wheel that installs in seconds: 40 MB in all."""
    folders = (make_bundled.BUNDLED, make_bundled.STATISTICS)
    assert sum(f.stat().st_size for folder in folders for f in folder.rglob("*") if f.is_file()) < 40e6
