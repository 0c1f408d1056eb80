"""The scripts of `benchmarks/` are run by hand and rarely; here each is at least loaded, and says what it takes."""

import importlib
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

FOLDER = Path(__file__).parents[1] / "benchmarks"


@pytest.mark.parametrize("name", sorted(path.stem for path in FOLDER.glob("*.py")))
def test_a_script_loads_and_tells_its_options(name, monkeypatch):
    monkeypatch.syspath_prepend(FOLDER)
    main = getattr(importlib.import_module(name), "main", None)
    if isinstance(main, click.Command):
        assert CliRunner().invoke(main, ["--help"]).exit_code == 0
