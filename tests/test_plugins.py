"""Plug-ins of other packages: installed, found by entry points, used by name; and what is refused, in which words."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
from dataclasses import fields
from pathlib import Path

import pytest
import torch
from test_recipe import TABLE

from latentopt.declarations import source_text
from latentopt.declarations.declared import Declared, declared, options_of
from latentopt.errors import UsageError
from latentopt.loop.building import build_problem
from latentopt.loop.loop import minimise
from latentopt.loop.state import State
from latentopt.recipe.named_recipes import recipe_names
from latentopt.recipe.recipe import Recipe
from latentopt.recipe.spaces import with_space
from latentopt.registry import INITIALIZERS, OPERATORS, OPTIMIZERS, PARAMETERIZATIONS, SCHEDULES, TERMS, registry

ROOT = Path(__file__).parent.parent
EXAMPLE = Path(__file__).parent / "example_plugin"
KINDS = {
    "coarse": PARAMETERIZATIONS,
    "brightness": TERMS,
    "near": INITIALIZERS,
    "grey": OPERATORS,
    "rmsprop": OPTIMIZERS,
    "halves": SCHEDULES,
}
CACHED = (registry._points, registry.brought, source_text.source, source_text.definition_of, options_of, declared)


def install(project: Path, site: Path) -> None:
    """What `pip install --target site project` leaves there, without the network and a build backend."""
    about = tomllib.loads((project / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    shutil.copytree(project, site, dirs_exist_ok=True, ignore=shutil.ignore_patterns("pyproject.toml", "__pycache__"))
    points = "".join(f"{name} = {value}\n" for name, value in about["entry-points"]["latentopt.plugins"].items())
    write(site, about["name"], points, version=about["version"])


def write(site: Path, name: str, points: str, version: str = "1.0") -> None:
    """The record of an installed package that brings these entry points."""
    record = site / f"{name.replace('-', '_')}-{version}.dist-info"
    record.mkdir(parents=True)
    (record / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    (record / "entry_points.txt").write_text(f"[latentopt.plugins]\n{points}")


@pytest.fixture
def site(tmp_path, monkeypatch):
    """An empty folder that packages are looked for in; what is known of earlier ones is forgotten, before and after."""
    folder = tmp_path / "site"
    folder.mkdir()
    monkeypatch.syspath_prepend(str(folder))
    for function in CACHED:
        function.cache_clear()
    yield folder
    for function in CACHED:
        function.cache_clear()
    for name in [name for name in sys.modules if name.startswith(("latentopt_example", "brought_"))]:
        del sys.modules[name]


@pytest.fixture
def example(site) -> Path:
    install(EXAMPLE, site)
    return site


def run(site: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": f"{site}{os.pathsep}{ROOT}", "OMP_NUM_THREADS": "1"}
    return subprocess.run([sys.executable, *arguments], env=environment, capture_output=True, text=True)


# ---- the example package


def test_every_part_of_the_example_is_found_beside_ours(example):
    for name, kind in KINDS.items():
        assert name in kind.targets
        assert kind.own.keys() < kind.targets.keys()
    assert PARAMETERIZATIONS.options("coarse")["rows"].default == 4, "a constant of its module"
    assert PARAMETERIZATIONS.declared("coarse").owns == {"ws"}
    assert "coarse-grey" in recipe_names()


QUICK = ("--network", "net/tiny.safetensors", "--steps", "3", "--no-preflight", "--quiet")
PARTS = ["near", "coarse", "l2", "brightness", "grey", "rmsprop", "halves"]


def parts_of(result: str) -> list[str]:
    """The plug-ins that a result was made with."""
    (stage,) = Recipe.load(f"{result}/recipe.toml").stages
    parts = (stage.init, *stage.optimize, *stage.terms, *stage.operators, stage.optimizer, stage.schedule)
    return [part["name"] for part in parts if part is not None]


def test_invert_with_a_space_of_another_package(example, folder):
    """By the command line as it stands; the space names its recipe."""
    ended = run(example, str(ROOT / "cli.py"), "invert", "photos/a.png", *QUICK, "--space", "coarse")
    assert ended.returncode == 0, ended.stderr
    assert parts_of("out/a") == PARTS


def test_invert_with_a_recipe_of_another_package(example, folder, latentopt):
    code, _, err = latentopt("invert", "photos/a.png", *QUICK, "--recipe", "coarse-grey")
    assert code == 0, err
    assert parts_of("out/a") == PARTS


def test_invert_with_its_parts_in_a_recipe_of_ones_own(example, folder, latentopt):
    Path("mine.toml").write_text(Recipe.load("i2s").override(['stages.0.terms=["brightness"]']).dump())
    code, _, err = latentopt("invert", "photos/a.png", *QUICK, "--recipe", "mine.toml", "--init", "near")
    assert code == 0, err
    assert parts_of("out/a")[:3] == ["near", "w+", "brightness"]


def test_a_recipe_with_it_is_checked_without_torch(example):
    code = "import sys; from latentopt.commands import cli; cli.main(sys.argv[1:], standalone_mode=False)"
    code += "; assert 'torch' not in sys.modules and 'latentopt_example.plugins' not in sys.modules"
    ended = run(example, "-c", code, "invert", "--space", "coarse", "--dry-run")
    assert ended.returncode == 0, ended.stderr
    assert 'name = "coarse"' in ended.stdout


def test_the_parts_of_the_example_lower_the_loss(example, tiny_generator):
    stage = Recipe.load("coarse-grey").override(["stages.0.steps=30"]).stages[0]
    target = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    problem = build_problem(tiny_generator, stage, target, seeds=(0, 1))
    losses = torch.tensor([step.loss for step in minimise(problem, State.initial(problem))])
    assert (losses[-1] < losses[0]).all()


def test_its_options_are_checked_as_ours_are(example, latentopt):
    code, _, err = latentopt("invert", "--space", "coarse", "--set", "stages.0.optimize.0.row=2", "--dry-run")
    assert code == 2
    assert "did you mean 'rows'?" in err
    code, _, err = latentopt("invert", "--space", "coarce", "--dry-run")
    assert (code, "did you mean 'coarse'?" in err) == (2, True)


# ---- what is refused

REFUSED = {  # (entry points, the module brought_a, arguments, words)
    "our name": ("space.w = brought_a:A\n", "", ("--space", "w"), "latentopt has a space 'w' already"),
    "an alias of ours": ("space.wplus = brought_a:A\n", "", ("--space", "wplus"), "space 'wplus' already"),
    "our recipe": ("recipe.pti = brought_a:pti\n", "", ("--recipe", "pti"), "latentopt has a recipe 'pti' already"),
    "no module": ("space.a = brought_none:A\n", "", ("--space", "a"), "brought_none:A is not there"),
    "no class": ("space.a = brought_a:B\n", "class A: owns = {'ws'}\n", ("--space", "a"), "brought_a:B is not there"),
    "no Python": ("space.a = brought_a:A\n", "class A(\n", ("--space", "a"), "cannot be read as Python"),
    "no recipe": ("recipe.a = brought_a:a\n", "", ("--recipe", "a"), "the recipe brought_a:a is not there"),
    "an option without a type": (
        "space.a = brought_a:A\n",
        "class A:\n    owns = {'ws'}\n    def __init__(self, generator, *, much=1): pass\n",
        ("--space", "a"),
        "option much: write its type",
    ),
    "a default that must be computed": (
        "space.a = brought_a:A\n",
        "class A:\n    owns = {'ws'}\n    def __init__(self, generator, *, much: float = 2 * K): pass\n",
        ("--space", "a"),
        "'2 * K' is no literal and no constant of brought_a",
    ),
    "a type that TOML has not": (
        "space.a = brought_a:A\n",
        "class A:\n    owns = {'ws'}\n    def __init__(self, generator, *, at: complex = 1): pass\n",
        ("--space", "a", "--set", "stages.0.optimize.0.at=2"),
        "its type 'complex' is none that TOML has",
    ),
    "a kind of file that is not known": (
        "space.a = brought_a:A\n",
        "class A:\n    owns = {'ws'}\n    reads = {'of': 'horoscope'}\n    def __init__(self, *, of: str = ''): pass\n",
        ("--space", "a"),
        "unknown kind of file 'horoscope'",
    ),
    "a declared option that is not there": (
        "space.a = brought_a:A\n",
        "class A:\n    owns = {'ws'}\n    shares = 'all'\n    def __init__(self, generator, *, al: int = 0): pass\n",
        ("--space", "a"),
        "brought_a:A declares something of 'all', which is no option of its constructor",
    ),
    "a space that writes no latents": (
        "space.a = brought_a:A\n",
        "class A:\n    owns = {'deltas'}\n",
        ("--space", "a"),
        "not a latent space",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused_in_words(case, site, folder, latentopt):
    points, source, arguments, words = REFUSED[case]
    (site / "brought_a.py").write_text(source)
    write(site, "brought", points)
    code, _, err = latentopt("invert", "photos/a.png", "--network", "net/tiny.safetensors", "--steps", "1", *arguments)
    assert (code, words in err) == (2, True), err


@pytest.fixture
def disputed(site) -> Path:
    """Two packages bring the same space and recipe, and both bring our `w` and `pti`."""
    for module in ("brought_a", "brought_b"):
        write(site, module, "".join(f"{name} = {module}:A\n" for name in ("space.same", "space.w", "recipe.same")))
    return site


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--space", "same"), "two packages bring a space 'same': brought_a:A and brought_b:A; remove one"),
        (("--recipe", "same"), "two packages bring a recipe 'same': brought_a:A and brought_b:A; remove one"),
        (("--space", "w"), "brought_a:A: latentopt has a space 'w' already"),
    ],
)
def test_a_name_that_could_mean_two_is_refused_where_it_is_used(disputed, latentopt, arguments, words):
    code, _, err = latentopt("invert", *arguments, "--dry-run")
    assert (code, words in err) == (2, True), err


def test_names_beside_a_disputed_one_go_on_working(disputed, latentopt):
    for arguments in (("--space", "w+"), ("--recipe", "ii2s")):
        code, _, err = latentopt("invert", *arguments, "--dry-run")
        assert code == 0, err
    assert "same" not in {*PARAMETERIZATIONS, *recipe_names()}
    assert PARAMETERIZATIONS.targets["w"] == PARAMETERIZATIONS.own["w"]


def test_a_module_that_fails_when_it_is_imported(site, folder, latentopt):
    """Its source text can be read, so the recipe holds; the failure is told in words all the same."""
    (site / "brought_a.py").write_text("import nowhere_at_all\n\nclass A:\n    owns = {'ws'}\n")
    write(site, "brought", "space.a = brought_a:A\n")
    code, _, err = latentopt("invert", "photos/a.png", "--network", "net/tiny.safetensors", "--space", "a")
    assert code == 2, err
    assert "space 'a': brought_a:A cannot be imported: No module named 'nowhere_at_all'" in err


# ---- what a plug-in declares

BASES = """
from latentopt.protocols import Parameterization

LIMIT = 3.0
FILES = {"stats": "p-norm"}


class Base(Parameterization):
    owns = {"ws"}
    reads = FILES
    shares = "shared"

    def __init__(self, generator, *, limit: float = LIMIT, shared: bool = False, stats: str | None = None): ...
"""
DERIVED = """
import brought_bases
from brought_bases import Base as Plain


class Same(Plain): ...


class Dotted(brought_bases.Base):
    reads: dict[str, str] = {}


class Other(Plain):
    owns = {"deltas"}
    shares = ""
    rank = "r"

    def __init__(self, generator, *, r: int = 2): ...


def optimizer(groups, *, much: float): ...
"""


@pytest.fixture
def modules(site, monkeypatch) -> None:
    (site / "brought_bases.py").write_text(BASES)
    (site / "brought_derived.py").write_text(DERIVED)
    for name in ("Same", "Dotted", "Other"):
        monkeypatch.setitem(PARAMETERIZATIONS.own, name.lower(), f"brought_derived:{name}")


def test_options_and_literals_are_inherited_from_another_module(modules):
    same, dotted, other = (f"brought_derived:{name}" for name in ("Same", "Dotted", "Other"))
    assert options_of(same) == options_of(dotted) == options_of("brought_bases:Base")
    assert {name: option.default for name, option in options_of(same).items()} == {
        "limit": 3.0,
        "shared": False,
        "stats": None,
    }
    assert options_of("brought_derived:optimizer")["much"].required
    assert declared(same) == declared("brought_bases:Base")
    assert (declared(same).owns, declared(same).reads, declared(same).shares) == ({"ws"}, {"stats": "p-norm"}, "shared")
    assert declared(dotted).reads == {}, "its own literal stands before the inherited one"
    assert (declared(other).owns, declared(other).rank, list(options_of(other))) == ({"deltas"}, "r", ["r"])


def joined(*spaces: object) -> Recipe:
    stage = TABLE["stages"][0] | {"optimize": list(spaces)}
    return Recipe.from_table(TABLE | {"stages": [stage]})


@pytest.mark.parametrize(
    ("spaces", "what"),
    [(("same", "w"), "latents"), (("dotted", "same"), "latents"), (("weights", "other"), "generator's weights")],
    ids=str,
)
def test_two_that_own_one_field_are_not_joined(modules, spaces, what):
    with pytest.raises(UsageError, match=f"{spaces[0]} and {spaces[1]} both write the {what}"):
        joined(*spaces)


def test_one_that_owns_deltas_stands_beside_w_and_is_tuning(modules):
    both = joined("w", "other")
    assert both.split() == (None, both)
    assert both.rank == 2
    finding, tuning = Recipe.from_table(
        TABLE | {"stages": [TABLE["stages"][0], TABLE["stages"][0] | {"optimize": ["other"]}]}
    ).split()
    assert [part["name"] for part in finding.stages[0].optimize] == ["w"]
    assert [part["name"] for part in tuning.stages[0].optimize] == ["other"]
    assert tuning.needs_start


def test_sharing_asks_those_that_can_share(modules):
    shared = joined("same", "other").sharing(3)
    assert shared.shares
    assert [part.get("shared") for part in shared.stages[0].optimize] == [True, None]
    assert not joined("other").shares


def test_a_space_of_another_module_takes_the_place_of_ours(modules):
    changed = with_space(joined("w+", "noise"), "same", {"limit": 1.0})
    assert [part["name"] for part in changed.stages[0].optimize] == ["same", "noise"]
    assert changed.looks_for("p-norm")


# ---- the page about it

PAGE = (ROOT / "docs" / "extending.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```(python|toml)\n(.*?)```", PAGE, flags=re.DOTALL)
SOURCES = "\n".join(
    path.read_text(encoding="utf-8") for path in sorted(EXAMPLE.rglob("*")) if path.suffix in (".py", ".toml")
)


@pytest.mark.parametrize(("language", "block"), BLOCKS, ids=[block.splitlines()[0] for _, block in BLOCKS])
def test_the_code_of_the_page_is_that_of_the_example_or_runs(language, block, example, monkeypatch):
    if block not in SOURCES:
        assert language == "python"
        monkeypatch.setattr(PARAMETERIZATIONS, "own", dict(PARAMETERIZATIONS.own))
        names: dict[str, object] = {}
        exec(block, names)
        assert names["recipe"].stages[0].optimize == ({"name": "rough", "rows": 2},)


def test_the_page_names_every_literal_that_is_read():
    assert {field.name for field in fields(Declared)} == set(re.findall(r"^\| `(\w+)` \|", PAGE, flags=re.MULTILINE))
