"""`latentopt compare` and what is behind it: same pictures for every method, resumable, one page."""

from __future__ import annotations

import json
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from conftest import finished, make_tiny_generator
from test_report import Page

from latentopt import api
from latentopt.checkpoints.networks import load_generator, save_generator
from latentopt.editing.direction import Direction
from latentopt.editing.files import save_directions
from latentopt.errors import UsageError
from latentopt.evaluation import comparison, kept_evaluation
from latentopt.evaluation.comparison import common
from latentopt.evaluation.dial import DIALS, PENALTIES, along, find_dial
from latentopt.evaluation.kept_evaluation import EVALUATION_FILE
from latentopt.evaluation.methods import capped, load_recipes
from latentopt.evaluation.subject import Amounts
from latentopt.inverting import preparing
from latentopt.inverting.events import Failed, Finished
from latentopt.inverting.inverter import Inverter
from latentopt.preflight.preflight import SUFFIX, Preflight
from latentopt.recipe.recipe import Recipe
from latentopt.report import comparison_files
from latentopt.statistics.pnorm_fit import fit_pnorm
from latentopt.types import GeneratorInputs

TINY = """
name = "%s"
source = "<i>someone</i>"
[[stages]]
init = "mean"
steps = 3
lr = 0.05
optimize = ["w+"]
terms = ["l2"]
"""
TUNING = """
[[stages]]
steps = 2
lr = 0.01
optimize = [{ name = "weights", layers = "convs:1" }]
terms = ["l2"]
"""
SMALL = Amounts(samples=8, paths=1, steps=1, partners=1, lec=1, corruption=4)
NAME = "<script>alert(1)</script>"


@pytest.fixture
def project(folder, monkeypatch):
    """Recipes, a generator that draws "portraits" with a direction `yaw`, pictures, one of them with a hostile name."""
    monkeypatch.setattr(comparison, "AMOUNTS", SMALL)
    monkeypatch.setattr(comparison_files, "AMOUNTS", SMALL)
    generator = make_tiny_generator(channels=(8, 6, 4))
    generator.card = {"data": "portraits"}
    save_generator(generator, folder / "net" / "tiny.safetensors")
    generator = load_generator("net/tiny.safetensors")
    fit_pnorm(generator, 500, batch=500).save(folder / "pnorm_stats" / "tiny.safetensors")
    Preflight.of(generator).save(folder / "pnorm_stats" / f"tiny{SUFFIX}")
    direction = Direction("yaw", "w", torch.ones(16), generator.fingerprint)
    save_directions(folder / "net" / "directions.safetensors", [direction])
    (folder / "a.toml").write_text(TINY % "a")
    (folder / "b.toml").write_text(TINY % "b" + TUNING)
    (folder / "photos" / "b.png").rename(folder / "photos" / f"{NAME.replace('/', '')}.png")
    return folder


@pytest.fixture
def quick(project, monkeypatch):
    """The same, measuring little."""
    plain = kept_evaluation.evaluate
    monkeypatch.setattr(kept_evaluation, "evaluate", lambda *a, **k: plain(*a, **(k | {"parts": ("latents",)})))
    return project


def compare(latentopt, *arguments: str):
    return latentopt("compare", "photos", "--network", "net/tiny.safetensors", "-q", *arguments)


def test_one_page_of_two_recipes(project, latentopt):
    code, out, err = compare(latentopt, "--recipes", "a.toml,b.toml", "--dial", "w-to-w+", "--steps", "2")
    assert code == 0, err
    assert "report.html" in out and "PSNR" in out
    page = Page((project / "compared" / "report.html").read_text(encoding="utf-8"))
    assert "script" not in page.tags and "i" not in page.tags
    name = NAME.replace("/", "")
    assert name in page.text and "<i>someone</i>" in page.text and "yaw+2" in page.text
    assert page.tags.count("img") == 3 * (1 + 2 * 2), "target, and by two methods the reconstruction and an edit"
    assert "2 in every stage" in page.text and "From W to W+" in page.text and "1 samples" not in page.text
    table = json.loads((project / "compared" / "comparison.json").read_text())
    assert set(table["methods"]) == {"a", "b"}
    for entry in table["methods"].values():
        assert {row["name"] for row in entry["images"]} == {"a", name, "c"}
        assert {"psnr", "perceptual", "lec", "radius", "seconds", "pose_range"} <= set(entry["measures"])
        assert all(stage["steps"] == 2 for stage in entry["recipe"]["stages"])
    assert "corruption_frechet" in table["methods"]["b"]["measures"]
    assert list(table["dials"]["From W to W+"]["settings"]) == ["W", "25 %", "50 %", "75 %", "W+"]


def test_it_goes_on_where_it_was(quick, latentopt, monkeypatch):
    arguments = ("--recipes", "a.toml,b.toml")
    assert compare(latentopt, *arguments)[0] == 0
    before, page = finished(quick / "compared"), (quick / "compared" / "report.html").read_bytes()
    monkeypatch.setattr(kept_evaluation, "evaluate", lambda *_, **__: pytest.fail("measured again"))
    assert compare(latentopt, *arguments)[0] == 0
    assert finished(quick / "compared") == before
    assert (quick / "compared" / "report.html").read_bytes() == page, "the same page for the same results"


def test_a_recipe_that_fails_on_a_picture_costs_that_picture_for_all(quick, latentopt, monkeypatch):
    plain = Inverter.invert

    def invert(self, items, interrupted):
        for event in plain(self, items, interrupted):
            unlucky = self.out.name == "b" and isinstance(event, Finished) and event.inversion.name == "c"
            yield Failed("c", "photos/c.png", "no <b>luck</b>") if unlucky else event

    monkeypatch.setattr(Inverter, "invert", invert)
    code, _, err = compare(latentopt, "--recipes", "a.toml,b.toml")
    assert code == 3 and "b failed on c" in err
    page = Page((quick / "compared" / "report.html").read_text(encoding="utf-8"))
    assert "no <b>luck</b>" in page.text and page.tags.count("img") == 2 * 5


def test_pictures_that_cannot_be_read_are_left_out(quick, latentopt):
    (quick / "photos" / "broken.png").write_bytes(b"nothing")
    code, _, err = compare(latentopt, "--recipes", "a.toml")
    assert code == 3 and "skipped" in err and "broken.png" in err
    page = (quick / "compared" / "report.html").read_text(encoding="utf-8")
    assert "broken.png" in page


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("--recipes", "a.tom"), 2, "unknown recipe"),
        (("--recipes", ","), 2, "no recipe"),
        (("--recipes", "a.toml", "--dial", "klip"), 2, "clip"),
        (("--recipes", "a.toml", "--do", "smile"), 2, "smile=+2"),
        (("--recipes", "a.toml", "--do", "yav=1"), 2, "yaw"),
        (("--recipes", "a.toml", "--metrics", "lpip"), 2, "unknown metric"),
        (("--recipes", "a.toml", "--steps", "0"), 2, "steps"),
        (("--recipes", "a.toml,hybrid-e4e"), 1, "encoder"),
    ],
)
def test_what_cannot_be_meant_is_refused_before_the_work(project, latentopt, arguments, code, words):
    found, _, err = compare(latentopt, *arguments)
    assert found == code and words in err
    assert not list((project / "compared").glob("*/*")) if (project / "compared").exists() else True


def test_recipes_of_the_default_that_lack_a_file_are_left_out_with_a_note(quick, latentopt, monkeypatch):
    monkeypatch.setattr("latentopt.commands.compare.command.params", latentopt_params(recipes="a.toml,hybrid-e4e"))
    code, _, err = compare(latentopt)
    assert code == 0 and "hybrid-e4e: left out" in err
    assert "hybrid-e4e: left out" in (quick / "compared" / "report.html").read_text()


def latentopt_params(recipes: str):
    """The command's options with another default of --recipes."""
    from copy import copy

    from latentopt.commands.compare import command

    found = [copy(param) for param in command.params]
    next(param for param in found if param.name == "recipes").default = recipes
    return found


# ---- from Python


def test_compare_as_one_call(quick):
    """Nothing is printed; the callbacks tell what happens."""
    generator = load_generator("net/tiny.safetensors")
    told, parts, watched = [], [], []

    def watch(work, images, steps, name):
        watched.append((name, images, steps))
        comparison.follow_silently(work, images, steps, name)

    callbacks = comparison.Callbacks(watch=watch, on_note=told.append, on_part=lambda *part: parts.append(part))
    (quick / "photos" / "broken.png").write_bytes(b"nothing")
    found = api.compare(
        generator,
        "photos",
        {"mine": Recipe.load("a.toml"), "tuned": Recipe.load("b.toml")},
        out="compared",
        steps=2,
        edits=["yaw=+1"],
        dials=["w-to-w+"],
        callbacks=callbacks,
    )
    assert [entry.name for entry in found.compared] == ["mine", "tuned"]
    assert all(len(entry.results) == 3 and "radius" in entry.measures for entry in found.compared)
    assert [swept.title for swept in found.swept] == ["From W to W+"]
    assert found.failed == 1 and found.notes == told and "broken.png" in told[0]
    assert watched[:2] == [("mine", 3, 3), ("tuned", 3, 6)], "two steps a stage, and the last point measured"
    assert ("mine", "latents") in parts and len(parts) == 2 + 5
    assert "yaw+1" in (quick / "compared" / "report.html").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", ["../../x", "/x", "a//b", "", "summary.csv", "report.html", "comparison.json"])
def test_methods_are_names_below_the_output_folder(quick, name):
    generator = load_generator("net/tiny.safetensors")
    with pytest.raises(UsageError, match="the name"):
        api.compare(generator, "photos", {name: Recipe.load("a.toml")}, out="deep/compared")
    assert not (quick / "deep").exists() and not (quick / "x").exists()


def test_a_recipe_that_reads_a_sigma_gets_one(quick, monkeypatch):
    made = []
    monkeypatch.setattr(preparing, "ensure_sigma", lambda generator, layers: made.append((generator.name, layers)))
    generator = load_generator("net/tiny.safetensors")
    work = comparison.Comparison(generator, quick, 0, "float32", {}, {})
    assert list(work.runnable({"i2s": Recipe.load("i2s")}, optional=False)) == ["i2s"] and not made
    tuning = Recipe.load("a.toml").override(['stages.0.optimize=["w", {name="epsilon", layers="convs:1"}]'])
    monkeypatch.setattr(preparing, "build_lens", lambda *_: SimpleNamespace(lenses={}))
    assert work.runnable({"mine": tuning}, optional=False) == {"mine": tuning}
    assert made == [("tiny", "convs:1")]


# ---- recipes


def test_recipes_have_distinct_names_and_the_steps_that_are_asked_for(tmp_path):
    (tmp_path / "ii2s.toml").write_text(Recipe.load("i2s").dump())
    found = load_recipes(["ii2s", str(tmp_path / "ii2s.toml"), "pti"], steps=100)
    assert list(found) == ["ii2s", "ii2s-2", "pti"]
    assert [stage.steps for stage in found["pti"].stages] == [100, 100]
    assert capped(found["pti"], 1000) == found["pti"], "a cap, not a length"
    with pytest.raises(UsageError, match="at least 1"):
        load_recipes(["pti"], steps=0)


def test_a_recipe_that_goes_on_from_elsewhere_is_refused(tmp_path):
    (tmp_path / "x.toml").write_text((TINY % "x").replace('init = "mean"', 'init = "previous"'))
    with pytest.raises(UsageError, match="goes on"):
        load_recipes([str(tmp_path / "x.toml")])


# ---- measuring


@pytest.fixture(scope="module")
def inverted():
    generator = make_tiny_generator(channels=(8, 6, 4))
    generator.card = {"data": "portraits"}
    recipe = Recipe.load("i2s").override(["stages.0.steps=2", 'stages.0.terms=["l2"]'])
    images = torch.rand(3, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
    return generator, api.invert(generator, images, recipe, names=["a", "b", "c"])


def test_only_pictures_that_all_methods_finished_are_compared(inverted):
    _, (a, b, c) = inverted
    found = common({"x": [c, a], "y": [a, b, c]})
    assert [[r.name for r in rs] for rs in found.values()] == [["a", "c"], ["a", "c"]]
    assert common({"x": [a], "y": [b]}) == {"x": [], "y": []}


def test_an_evaluation_is_kept_until_something_changes(inverted, tmp_path, monkeypatch):
    generator, results = inverted
    options = {"parts": ("reconstruction",), "amounts": SMALL, "directions": {}}
    first = kept_evaluation.kept_evaluation(results, generator, tmp_path, **options)
    calls = []
    plain = kept_evaluation.evaluate
    monkeypatch.setattr(kept_evaluation, "evaluate", lambda *a, **k: calls.append(1) or plain(*a, **k))
    again = kept_evaluation.kept_evaluation(results, generator, tmp_path, **options)
    assert not calls and again.measures == first.measures and again.images == first.images
    yaw = Direction("yaw", "w", torch.ones(16), generator.fingerprint)
    other = replace(results[0], inputs=GeneratorInputs(results[0].inputs.ws + 1))
    for changed in (
        {"seed": 1},
        {"directions": {"yaw": yaw}},
        {"directions": {"yaw": replace(yaw, vector=2 * torch.ones(16))}},
        {"amounts": replace(SMALL, samples=9)},
        {"parts": ("reconstruction", "latents")},
    ):
        kept_evaluation.kept_evaluation(results, generator, tmp_path, **(options | changed))
    kept_evaluation.kept_evaluation([other, *results[1:]], generator, tmp_path, **options)
    assert len(calls) == 6
    (tmp_path / EVALUATION_FILE).write_text("{damaged")
    kept_evaluation.kept_evaluation(results, generator, tmp_path, **options)
    assert len(calls) == 7


# ---- dials


@pytest.mark.parametrize("kind", DIALS)
def test_every_dial_sweeps_recipes_that_differ(kind, tiny_generator):
    dial = find_dial(kind)(tiny_generator)
    assert len({recipe.digest for recipe in dial.recipes.values()}) == len(dial.recipes) >= 2
    for recipe in dial.recipes.values():
        assert Recipe.from_table(recipe.table()).digest == recipe.digest


def test_the_penalty_is_of_the_mean_square(tiny_generator):
    entries = [recipe.stages[0].optimize[0] for recipe in find_dial("penalty")(tiny_generator).recipes.values()]
    assert [entry["l2"] * 8 * 16 for entry in entries] == pytest.approx(PENALTIES)


def test_the_clip_dial_ends_without_a_clip(tiny_generator):
    *clipped, last = find_dial("clip")(tiny_generator).recipes.values()
    assert all("clip" in recipe.stages[0].optimize[0] for recipe in clipped)
    assert "clip" not in last.stages[0].optimize[0]


def test_the_way_from_w_to_wplus(inverted):
    generator, results = inverted
    flat = [
        replace(r, inputs=r.inputs.replace(ws=r.inputs.ws.mean(1, keepdim=True).expand_as(r.inputs.ws)))
        for r in results
    ]
    start, middle, end = (along(flat, results, share, generator) for share in (0.0, 0.5, 1.0))
    for s, m, e, f, r in zip(start, middle, end, flat, results, strict=True):
        assert torch.equal(s.inputs.ws, f.inputs.ws)
        assert (e.inputs.ws - r.inputs.ws).abs().max() < 1e-6
        assert (m.inputs.ws - (f.inputs.ws + r.inputs.ws) / 2).abs().max() < 1e-6
        assert (m.image - generator.synthesis(m.inputs)[0].clamp(-1, 1)).abs().max() < 1e-6
