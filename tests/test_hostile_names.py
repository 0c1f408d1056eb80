"""Names and links that would leave the output folder, forge output or be computed by a spreadsheet."""

from __future__ import annotations

import csv

import pytest
import torch
from conftest import make_tiny_generator, photo

import latentopt as package
from latentopt.errors import UsageError
from latentopt.files.outputs import check_inside, locked, sweep, workplace
from latentopt.files.text import cell, escape_controls, one_line
from latentopt.recipe.recipe import Recipe
from latentopt.results.rows import failed_row
from latentopt.results.summary import write_summary

STAGE = {"init": "mean", "steps": 1, "lr": 0.05, "optimize": ["w+"], "terms": ["l2"]}
RECIPE = Recipe.from_table({"name": "one", "stages": [STAGE]})
QUICK = ("--network", "net/tiny.safetensors", "--recipe", "i2s", "--terms", "l2=1", "--steps", "1", "--no-preflight")

REFUSED = [
    "../x",
    "a/../../x",
    "/etc/x",
    "..",
    ".",
    "",
    "a//b",
    "a/",
    "a\0b",
    "a\\b",
    "x" * 300,
    "half \ud800",
    5,
    None,
    ".resume",
    ".lock",
    "summary.csv",
    "grid.png/x",
    "index.html",
]


@pytest.fixture(scope="module")
def generator():
    return make_tiny_generator(channels=(8, 6))


@pytest.mark.parametrize("name", REFUSED, ids=ascii)
def test_names_that_are_no_paths_below_the_output_folder(generator, tmp_path, name):
    images = torch.zeros(1, 3, 8, 8)
    with pytest.raises(UsageError, match="name"):
        package.invert(generator, images, RECIPE, names=[name], out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["a", "deep/er/b", "été 写真", "a b", "[red]x", "=1+1", "a..b", "...c"])
def test_names_that_are_taken_as_they_are(generator, tmp_path, name):
    (found,) = package.invert(generator, torch.zeros(1, 3, 8, 8), RECIPE, names=[name], out=tmp_path / "out")
    assert found.name == name and (tmp_path / "out" / name / "run.json").is_file()


def test_a_lock_that_is_a_link_leaves_what_it_points_to_alone(tmp_path):
    precious = tmp_path / "precious.txt"
    precious.write_text("precious")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / ".lock").symlink_to(precious)
    with pytest.raises(UsageError, match="symbolic link"), locked(tmp_path / "out"):
        pass
    assert precious.read_text() == "precious"


def test_a_lock_keeps_its_contents(tmp_path):
    (tmp_path / ".lock").write_text("kept")
    with locked(tmp_path) as held:
        assert held
    assert (tmp_path / ".lock").read_text() == "kept"


@pytest.mark.parametrize("link", ["a", "deep"])
@pytest.mark.parametrize("overwrite", [False, True])
def test_a_result_folder_that_leads_out_is_not_written_through(generator, tmp_path, link, overwrite):
    victim = tmp_path / "victim"
    victim.mkdir()
    (victim / "run.json").write_text("mine")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / link).symlink_to(victim)
    images, names = torch.zeros(2, 3, 8, 8), ["a", "deep/b"]
    with pytest.raises(UsageError, match="leads out of the output folder"):
        package.invert(generator, images, RECIPE, names=names, out=tmp_path / "out", overwrite=overwrite)
    assert [path.name for path in victim.iterdir()] == ["run.json"]
    assert (victim / "run.json").read_text() == "mine"


def test_a_link_within_the_output_folder_and_an_output_folder_that_is_one_are_no_harm(tmp_path):
    (tmp_path / "real" / "x").mkdir(parents=True)
    (tmp_path / "real" / "y").symlink_to(tmp_path / "real" / "x")
    (tmp_path / "out").symlink_to(tmp_path / "real")
    check_inside(tmp_path / "out", ["x", "y", "new/z"])


@pytest.mark.parametrize("name", ["[red]x", "x[/]y", "a\x1b[31mb", "a\nb", "\u202egnp", "=cmd|calc!A1"])
def test_file_names_forge_nothing_on_the_terminal(folder, latentopt, name):
    photo(folder / "given" / f"{name}.png", 1)
    code, out, err = latentopt("invert", "given", *QUICK)
    assert code == 0, err
    assert one_line(name)[:6] in out.replace("\n", "")
    assert not set("\x1b\u202e") & set(out + err)
    assert not any(line.startswith("b") for line in out.splitlines())


NASTY = "[red]x[/] \x1b[31m\x9b2J\u202e\rb\n=1+1"
AFTER = {
    "invert again": ("invert", "given", *QUICK),
    "tune": ("tune", "out", "--method", "weights", "--steps", "1", "--terms", "l2=1", "--corruption", "0"),
    "edit": ("edit", "out"),
    "mix": ("mix", "out"),
    "interpolate": ("interpolate", "out", "--steps", "3"),
    "evaluate": ("evaluate", "out", "--parts", "reconstruction", "--metrics", "lpips-alex"),
    "nothing to tune": ("tune", f"out/{NASTY}/none"),
    "no such picture": ("invert", f"given/{NASTY}.jpg"),
    "no such network": ("sample", "--network", f"{NASTY}.pkl"),
    "no such recipe": ("invert", "given", "--recipe", NASTY),
    "no such entry": ("invert", "given", "--set", f"{NASTY}=1"),
    "not a folder": ("sample", "--outdir", f"given/{NASTY}.png"),
}


@pytest.mark.parametrize("line", AFTER.values(), ids=AFTER)
def test_no_command_shows_a_name_raw(folder, latentopt, line):
    for name in ("plain", NASTY):
        photo(folder / "given" / f"{name}.png", 1)
    assert latentopt("invert", "given", *QUICK)[0] == 0
    code, out, err = latentopt(*line)
    assert code in (0, 1, 2), err
    assert all(c.isprintable() or c == "\n" for c in out + err), ascii(out + err)
    assert not any(text.startswith("=1") for text in (out + err).splitlines())


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@SUM(1+1)", "=cmd|' /C calc'!A1"])
def test_no_cell_is_a_formula(tmp_path, text):
    write_summary(tmp_path, [failed_row("a", text), failed_row(text, "no")])
    with (tmp_path / "summary.csv").open(newline="", encoding="utf-8") as stream:
        cells = [value for row in csv.reader(stream) for value in row]
    assert f"'{text}" in cells and text not in cells
    assert cell("x=1") == "x=1" and cell("1-2") == "1-2"


@pytest.mark.parametrize("text", ["a\rb", "a\r\nb", "a\x0bb", "a\u2028b", "a\x85b"])
def test_no_name_splits_a_row(tmp_path, text):
    write_summary(tmp_path, [failed_row(text, "no"), failed_row("b", "no")])
    lines = (tmp_path / "summary.csv").read_text(encoding="utf-8").splitlines()
    assert len(lines) == 3 + text.count("\n")
    assert "\r" not in escape_controls(text)


def test_what_a_killed_run_left_is_swept_at_once_but_not_below_another_lock(tmp_path):
    mine, other = tmp_path / "a" / ".unfinished-abcdefgh.json", tmp_path / "tuned" / ".unfinished-abcdefgh.json"
    for path in (mine, other):
        path.parent.mkdir()
        path.write_text("{")
    (tmp_path / "tuned" / ".lock").touch()
    with workplace(tmp_path):
        assert not mine.exists() and other.exists()
    assert sweep(tmp_path) == []
