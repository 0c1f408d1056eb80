"""Recipes: what is refused and how, what survives writing and reading, what changes the digest."""

from __future__ import annotations

import copy
import json
from dataclasses import replace

import pytest

from latentopt.errors import UsageError
from latentopt.recipe.named_recipes import recipe_names
from latentopt.recipe.recipe import Recipe
from latentopt.recipe.spaces import space_recipe, with_space
from latentopt.registry import OPTIMIZERS, PARAMETERIZATIONS, SCHEDULES, Registry, check_type, nearest

TABLE = {
    "name": "two",
    "about": "A test.",
    "stages": [
        {
            "init": "mean",
            "steps": 10,
            "lr": 0.1,
            "optimize": ["w"],
            "terms": [{"name": "l2", "weight": 2}, "l1"],
            "jitter": {"scale": 0.1},
        },
        {
            "steps": 5,
            "lr": 0.05,
            "optimize": [{"name": "w+", "clip": 2.0, "lr": 0.01}, "noise"],
            "terms": ["mse"],
            "optimizer": {"name": "sgd", "momentum": 0.5},
            "schedule": {"name": "karras", "rampup": 0.1},
            "stop": {"term": "l2", "below": 0.01},
            "keep": "last",
        },
    ],
}


def table(path: str = "", value: object = None) -> dict:
    """TABLE with one entry set, or (value ...) taken away."""
    made = copy.deepcopy(TABLE)
    *parents, last = path.split(".")
    node = made
    for key in parents:
        node = node[int(key)] if isinstance(node, list) else node[key]
    if isinstance(node, list):
        node[int(last)] = value
    elif value is ...:
        del node[last]
    elif last:
        node[last] = value
    return made


PNORM_PLUS = {"name": "p-norm+", "sphere": False, "l2": 0.0, "std_floor": 0.0}


@pytest.fixture
def recipe() -> Recipe:
    return Recipe.from_table(TABLE)


@pytest.mark.parametrize("name", recipe_names())
def test_every_shipped_recipe_holds_and_survives_its_dump(name, tmp_path):
    recipe = Recipe.load(name)
    path = tmp_path / "again.toml"
    path.write_text(recipe.dump(), encoding="utf-8")
    assert Recipe.load(str(path)) == recipe
    assert (recipe.name, bool(recipe.about), bool(recipe.source)) == (name, True, True)


def test_defaults_and_aliases_are_resolved(recipe):
    first, second = recipe.stages
    assert first.init == {"name": "mean"}
    assert second.init == {"name": "previous"}
    assert first.optimize == ({"name": "w", "l2": 0.0, "std_floor": 0.0},), "but nothing that is None"
    assert second.optimize[0] == {"name": "w+", "clip": 2.0, "l2": 0.0, "std_floor": 0.0, "lr": 0.01}
    assert first.terms == ({"name": "l2", "weight": 2}, {"name": "l1"})
    assert second.terms == ({"name": "l2"},), "mse is l2"
    assert first.optimizer == {"name": "adam", "betas": [0.9, 0.999], "eps": 1e-8}
    assert second.optimizer == {"name": "sgd", "momentum": 0.5, "nesterov": False}
    assert second.schedule == {"name": "karras", "rampup": 0.1, "rampdown": 0.25}
    assert (first.jitter.scale, first.jitter.ramp) == (0.1, 0.75)
    assert (second.stop.below, second.stop.patience) == (0.01, None)


@pytest.mark.parametrize(
    "text", ["plain", 'quote " and \\ backslash', "two\nlines\ttab", "été 微笑 🙂", "\x7f\x01"], ids=ascii
)
def test_any_text_survives_the_dump(recipe, text, tmp_path):
    noted = Recipe.from_table(recipe.table() | {"about": text})
    path = tmp_path / "again.toml"
    path.write_text(noted.dump(), encoding="utf-8")
    assert Recipe.load(str(path)) == noted


WRONG = {  # what is set in TABLE: (value, words that the message must have)
    "stagess": ([], "unknown key 'stagess'; did you mean 'stages'?"),
    "stages": ([], "at least one"),
    "stages.0": ("fast", "stages.0"),
    "about": (3, "about must be str"),
    "stages.0.init": (..., "first stage needs init"),
    "stages.0.lrr": (1, "did you mean 'lr'?"),
    "stages.0.steps": (2.5, "stages.0.steps must be int, not 2.5"),
    "stages.1.steps": (-1, "at least 0"),
    "stages.1.lr": (float("nan"), "stages.1.lr"),
    "stages.0.lr": ("fast", "must be float"),
    "stages.1.batch": (0, "at least 1"),
    "stages.1.keep": ("worst", "best, last"),
    "stages.1.noise_mode": ("constant", "const, random, none"),
    "stages.0.terms": ([], "at least one term"),
    "stages.0.terms.1": ("l3", "unknown term 'l3'; did you mean"),
    "stages.0.terms.0.weight": ("much", "weight must be float"),
    "stages.0.terms.0.sise": (8, "did you mean 'size'?"),
    "stages.0.terms.0.size": (8.5, "size must be int | None"),
    "stages.0.terms.0.name": (3, "name of a term"),
    "stages.1.terms.0": ({}, "name of a term"),
    "stages.0.optimize": (["w", "w"], "named twice"),
    "stages.0.optimize.0": ("w*", "unknown space 'w*'"),
    "stages.1.optimize.0.clip": (True, "clip must be float | None"),
    "stages.1.optimize.1": ("w", "both write"),
    "stages.1.optimizer.momentun": (1, "did you mean 'momentum'?"),
    "stages.1.optimizer": ("newton", "unknown optimizer"),
    "stages.1.schedule.rampupp": (1, "did you mean 'rampup'?"),
    "stages.0.jitter": (0.05, "must be a table"),
    "stages.0.jitter.ramp": (0, "ramp"),
    "stages.0.jitter.skale": (1, "did you mean 'scale'?"),
    "stages.1.stop.term": ("l1", "'l1' is not a term of this stage"),
    "stages.1.stop.patience": (0, "patience"),
    "stages.1.init": ({"name": "previous", "n": 3}, "takes no options"),
}


@pytest.mark.parametrize("path", WRONG)
def test_wrong_entries_are_refused_by_place(path):
    value, words = WRONG[path]
    with pytest.raises(UsageError) as caught:
        Recipe.from_table(table(path, value), "mine.toml")
    assert words in str(caught.value)
    assert "mine.toml" in str(caught.value) or "unknown" in str(caught.value)


def test_a_first_stage_may_go_on_from_an_earlier_result_but_says_so():
    assert Recipe.from_table(table("stages.0.init", "previous")).needs_start
    with pytest.raises(UsageError, match="first stage needs init"):
        Recipe.from_table(table("stages.0.init", ...))


def test_a_needed_option_is_asked_for():
    with pytest.raises(UsageError, match=r"stages\.0\.init: initialiser 'file' needs path"):
        Recipe.from_table(table("stages.0.init", "file"))


@pytest.mark.parametrize("key", ["steps", "lr", "optimize", "terms"])
def test_a_needed_key_is_asked_for(key):
    with pytest.raises(UsageError, match=f"needs {key}"):
        Recipe.from_table(table(f"stages.1.{key}", ...))


@pytest.mark.parametrize(
    ("text", "words"),
    [("stages = [", "not a readable recipe"), ("stages = 3", "at least one"), (b"\xff\xfe", "not a readable recipe")],
)
def test_files_that_are_no_recipe(tmp_path, text, words):
    path = tmp_path / "r.toml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(UsageError, match=words) as caught:
        Recipe.load(str(path))
    assert str(path) in str(caught.value)


def test_missing_recipes():
    with pytest.raises(UsageError, match="did you mean 'i"):
        Recipe.load("i2z")
    with pytest.raises(UsageError, match="no such file; give a recipe"):
        Recipe.load("nowhere.toml")


@pytest.mark.parametrize(
    ("setting", "look", "expected"),
    [
        ("stages.0.lr=0.25", lambda r: r.stages[0].lr, 0.25),
        ("stages.1.steps = 7", lambda r: r.stages[1].steps, 7),
        ("name=other", lambda r: r.name, "other"),
        ("stages.0.terms.0.size=16", lambda r: r.stages[0].terms[0]["size"], 16),
        ("stages.0.terms.1.name=l2", None, "named twice"),
        ('stages.0.terms=["l1"]', lambda r: r.stages[0].terms, ({"name": "l1"},)),
        ("stages.0.terms.1=perceptual", lambda r: r.stages[0].terms[1], {"name": "perceptual", "net": "auto"}),
        ("stages.0.jitter={scale = 0.5}", lambda r: r.stages[0].jitter.scale, 0.5),
        ("stages.0.init=p-mean", lambda r: r.stages[0].init, {"name": "p-mean"}),
        ("stages.0.lr", None, "write it as"),
        ("stages.9.lr=1", None, "has no"),
        ("stages.x.lr=1", None, "has no"),
        ("stages.0.lr.a=1", None, "has no"),
        ("stages.0.terms.5=l1", None, "has no"),
        ("stages.0.lr=fast", None, "must be float"),
        ("stages.0.stebs=3", None, "did you mean 'steps'?"),
        ("stages.0.lr=", None, "must be float"),
    ],
)
def test_settings(recipe, setting, look, expected):
    if look is None:
        with pytest.raises(UsageError, match=expected.replace("?", r"\?")):
            recipe.override([setting])
    else:
        assert look(recipe.override([setting])) == expected


def test_override_leaves_the_original(recipe):
    before = recipe.table()
    recipe.override(["stages.0.terms.0.weight=9", "stages.0.optimize.0.clip=1"])
    assert recipe.table() == before


@pytest.mark.parametrize(
    ("path", "entry", "files", "needs"),
    [
        ("init", "mean", [], False),
        ("init", {"name": "file", "path": "a.npz"}, ["a.npz"], False),
        ("init", "p-mean", [], True),
        ("init", {"name": "p-mean", "stats": "s.safetensors"}, ["s.safetensors"], False),
        ("init", {"name": "linear", "prior": "p.safetensors"}, ["p.safetensors"], False),
        ("optimize.0", {"name": "weights", "l2": 1e-6}, [], False),
        ("optimize.0", "w+", [], False),
        ("optimize.0", {"name": "w", "clip": 2.0}, [], True),
        ("optimize.0", {"name": "w+", "clip": 0.0}, [], True),
        ("optimize.0", {"name": "w+", "project": 1.0}, [], True),
        ("optimize.0", {"name": "w+", "l2": 0.1}, [], True),
        ("optimize.0", {"name": "w+", "clip": 2.0, "stats": "s.npz"}, ["s.npz"], False),
        ("optimize.0", "p-norm+", [], True),
        ("optimize.0", {"name": "p-norm", "stats": "s.npz"}, ["s.npz"], False),
        ("optimize.0", "z", [], False),
        ("terms.0", "p-norm", [], True),
        ("terms.0", {"name": "perceptual", "weights": "vgg16.pth"}, ["vgg16.pth"], False),
    ],
    ids=str,
)
def test_the_files_that_a_recipe_reads(recipe, path, entry, files, needs):
    """Named ones, and whether it looks up the generator's statistics by itself. Every stage counts: the second here."""
    plain = recipe.override(["stages.1.optimize.0=w+"])
    assert (plain.files, plain.looks_for("p-norm"), plain.named("p-norm")) == ([], False, None)
    made = plain.table()
    if path == "init":
        made["stages"][1]["init"] = entry
    else:
        made["stages"][1][path.removesuffix(".0")][0] = entry
    made["stages"][1]["stop"] = None
    changed = Recipe.from_table(made)
    assert (changed.files, changed.looks_for("p-norm")) == (files, needs)
    assert changed.named("p-norm") == (entry.get("stats") if isinstance(entry, dict) else None)


READ = {  # the kinds of files that each shipped recipe looks for
    "bdinvert": {"p-norm"},
    "brgm": set(),
    "dhr": {"encoder"},
    "drag": set(),
    "sg3": set(),
    "encode": {"encoder"},
    "fast": {"start at hand", "metric"},
    "fast-pnorm": {"p-norm"},
    "fast-tune": {"start at hand", "metric"},
    "hybrid-e4e": {"encoder"},
    "hybrid-psp": {"encoder"},
    "hybrid-restyle": {"encoder"},
    "i2s": set(),
    "ilo": set(),
    "ii2s": {"p-norm"},
    "ii2s-pnorm": {"p-norm"},
    "lowrank": set(),
    "pnorm-map": {"p-norm"},
    "pti": set(),
    "pulse": {"p-norm"},
    "robust": set(),
    "s2e": {"encoder"},
    "sg2": set(),
    "styleres": {"encoder", "refiner"},
    "warpres": {"encoder", "refiner"},
    "weights": set(),
    "wrangan": {"sigma"},
    "wrangan-pivot": {"sigma"},
}


@pytest.mark.parametrize(
    ("terms", "left"),
    [
        (["pyramid", "l2", "rows-spread"], ["l2", "rows-spread"]),
        (["saturated-l2", "p-norm"], ["l2", "p-norm"]),
        (["perceptual", "l1", "w-prior", "rows-cosine", "noise"], ["l1", "w-prior", "rows-cosine", "noise"]),
        (["perceptual"], ["l2"]),
    ],
    ids=str,
)
def test_recipes_for_what_is_no_picture(terms, left):
    """With the weights that they had; a stop by a term that is gone is gone too."""
    tables = [{"name": name, "weight": 3.0} for name in terms]
    recipe = Recipe.load("i2s").in_every_stage(terms=tables)
    for name in (terms[0], left[0]):
        stop = {"term": name, "below": 0.1, "patience": None}
        if name in terms:
            made = recipe.changed({("stages", 0, "stop"): stop}).comparing_numbers().stages[0]
            assert [term["name"] for term in made.terms] == left
            assert {term["weight"] for term in made.terms if term["name"] in terms} <= {3.0}
            assert (made.stop is None) == (name not in left)


@pytest.mark.parametrize("name", recipe_names())
def test_what_shipped_recipes_read(name):
    """None names a file; weights of a perceptual network (`file`) are read only where they are named."""
    recipe = Recipe.load(name)
    assert recipe.files == []
    assert {reading.kind for reading in recipe.reads} - {"file"} == READ[name]


@pytest.mark.parametrize(
    ("optimize", "rank"),
    [
        ([{"name": "p-norm+", "rank": 5}], None),
        ([{"name": "lowrank", "rank": 3}], 3),
        ([{"name": "p-norm+", "rank": 5}, {"name": "lowrank", "rank": 3}], 3),
        (["w", "weights"], None),
    ],
    ids=str,
)
def test_the_rank_of_a_delta_is_that_of_spaces_that_write_deltas(recipe, optimize, rank):
    """The `rank` of p-norm+ counts components of its statistics."""
    stage = recipe.table()["stages"][0] | {"optimize": optimize}
    assert Recipe.from_table(recipe.table() | {"stages": [stage]}).rank == rank


def test_digest_is_of_what_is_done(recipe):
    same = [recipe.override(["name=x", "about=y", "source=z"]), Recipe.from_table(recipe.table())]
    other = [recipe.override([s]) for s in ("stages.0.lr=0.2", "stages.1.keep=best", "stages.0.terms.0.weight=3")]
    assert {r.digest for r in same} == {recipe.digest}
    assert len({recipe.digest, *(r.digest for r in other)}) == 4


def test_digest_changes_with_a_default(recipe, monkeypatch):
    """What was made with another default is another result, though the recipe file is the same."""
    plain = Registry.options

    def options(self, name):
        found = plain(self, name)
        return found | {"rampdown": replace(found["rampdown"], default=0.5)} if name == "karras" else found

    monkeypatch.setattr(Registry, "options", options)
    assert Recipe.from_table(TABLE).digest != recipe.digest
    assert Recipe.from_table(recipe.table()).digest == recipe.digest, "a dumped recipe goes on meaning what it meant"


def test_digest_does_not_depend_on_the_batch(recipe):
    """Batch is only speed: a run that is repeated with smaller batches finds its results done."""
    assert recipe.override(["stages.0.batch=2"]).digest == recipe.digest


def test_table_is_plain_json(recipe):
    assert json.loads(json.dumps(recipe.table())) == recipe.table()


@pytest.mark.parametrize(
    ("space", "options", "expected"),
    [
        ("pnorm+", {"clip": 3.0}, PNORM_PLUS | {"clip": 3.0}),
        ("p-norm+", {"clip": None}, PNORM_PLUS | {"clip": 2.0}),
        ("w+", {}, {"name": "w+", "clip": 2.0, "l2": 0.0, "std_floor": 0.0}),
        ("z", {}, {"name": "z", "sphere": True, "label": 0}),
    ],
)
def test_another_space_takes_over_the_options_it_knows(space, options, expected, tmp_path):
    changed = with_space(Recipe.load("ii2s"), space, options)
    assert changed.stages[0].optimize == (expected,)
    (tmp_path / "again.toml").write_text(changed.dump(), encoding="utf-8")
    assert Recipe.load(str(tmp_path / "again.toml")) == changed


@pytest.mark.parametrize(
    ("own", "space", "expected"),
    [
        ({"name": "p-norm+"}, "z", {"name": "z", "sphere": True, "label": 0}),
        ({"name": "p-norm+", "sphere": True, "lr": 0.3}, "z", {"name": "z", "sphere": True, "label": 0, "lr": 0.3}),
        ({"name": "z"}, "p-norm+", PNORM_PLUS),
        ({"name": "z", "sphere": False}, "p-norm+", PNORM_PLUS),
        ({"name": "w+", "l2": 0.5}, "p-norm+", PNORM_PLUS | {"l2": 0.5}),
    ],
    ids=str,
)
def test_a_default_of_the_old_space_is_not_taken_over(recipe, own, space, expected):
    """p-norm+ has no sphere unless asked, z has one: each keeps its own default."""
    mine = Recipe.from_table(recipe.table() | {"stages": [recipe.table()["stages"][0] | {"optimize": [own]}]})
    assert with_space(mine, space, {}).stages[0].optimize == (expected,)


def test_another_space_keeps_the_noise_and_the_rest():
    changed = with_space(Recipe.load("sg2"), "w+", {})
    assert [part["name"] for part in changed.stages[0].optimize] == ["w+", "noise"]
    assert changed.stages[0].terms == Recipe.load("sg2").stages[0].terms


@pytest.mark.parametrize(
    ("space", "options", "words"),
    [("z", {"clip": 2.0}, "--space.clip"), ("w+++", {}, "unknown space"), ("noise", {}, "not a latent space")],
)
def test_spaces_that_cannot_be_had(space, options, words):
    with pytest.raises(UsageError, match=words):
        with_space(Recipe.load("i2s"), space, options)


def test_a_space_of_ones_own_is_a_latent_space(recipe, monkeypatch):
    monkeypatch.setitem(PARAMETERIZATIONS.own, "mine", "latentopt.parameterizations.latent:Z")
    changed = with_space(recipe, "mine", {"label": 1})
    names = [[part["name"] for part in stage.optimize] for stage in changed.stages]
    assert names == [["mine"], ["mine", "noise"]]
    with pytest.raises(UsageError, match="mine and w both write the latents"):
        changed.override(['stages.0.optimize=["mine", "w"]'])
    with pytest.raises(
        UsageError, match=r"not a latent space; known: w, w\+, w\+\+, w\+coarse, s, z, z\+, p-norm, p-norm\+, mine"
    ):
        with_space(recipe, "noise", {})


def test_registry_reads_options_of_inherited_constructors():
    assert PARAMETERIZATIONS.options("w") == PARAMETERIZATIONS.options("w+")
    clip = PARAMETERIZATIONS.options("w+")["clip"]
    assert (clip.type, clip.default, clip.required) == ("float | None", None, False)


def test_registered_names_can_be_replaced():
    registry = Registry("thing")
    registry.register("a", "latentopt.loop.schedules:Constant", "alpha")
    registry.register("a", "latentopt.loop.schedules:Cosine")
    assert registry.resolve("alpha") == "a"
    assert registry.create("a", final=0.5)(1.0) == 0.5
    assert list(registry.options("alpha")) == ["final"]


def test_nearest_lists_what_is_known_when_nothing_is_near():
    assert nearest("zzz", ["a", "b"]) == "; known: a, b"
    assert nearest("zzz", []) == "; known: none"


@pytest.mark.parametrize(
    ("value", "annotation", "fits"),
    [
        (1, "float", True),
        (True, "float", False),
        (True, "int", False),
        (True, "bool", True),
        (1.0, "int", False),
        (None, "float | None", True),
        (None, "str", False),
        ([1], "list[float]", True),
    ],
)
def test_types(value, annotation, fits):
    if fits:
        check_type(value, annotation, "x")
    else:
        with pytest.raises(UsageError, match="x must be"):
            check_type(value, annotation, "x")


@pytest.mark.parametrize(
    "setting",
    ["0=1", "stages.0.5=1", "stages.0.init.5=1", "stages.9.lr=1", "stages.x.lr=1", "stages.-1.lr=1", "stages.0.lr.1=2"],
)
def test_settings_of_entries_that_are_not_there(recipe, setting):
    with pytest.raises(UsageError, match=r"unknown key|no such entry|takes no options|no such option"):
        recipe.override([setting])


def test_settings_and_values_are_checked_together_at_the_end(recipe):
    """What a value breaks, a setting may mend; settings come after values."""
    with pytest.raises(UsageError):
        recipe.changed({("stages", 0, "lr"): -1.0})
    mended = recipe.override(["stages.0.lr=0.02"], {("stages", 0, "lr"): -1.0, ("stages", 0, "steps"): 3})
    assert (mended.stages[0].lr, mended.stages[0].steps) == (0.02, 3)


def test_statistics_that_are_named_count_even_where_nothing_is_held(recipe):
    """The radius of a result is measured with them."""
    named = recipe.override(['stages.0.optimize=[{name="w+", stats="mine.safetensors"}]'])
    assert named.named("p-norm") == "mine.safetensors" and named.files == ["mine.safetensors"]


# What plug-ins declare

SPACES = """
class Bounded:
    owns = {"ws"}
    reads = {"stats": "p-norm"}
    reads_if = {"stats": ("clip",)}
    recipe = "ii2s-pnorm"

    def __init__(self, generator, *, clip: float | None = None, stats: str | None = None): ...


class Always(Bounded):
    reads_if = {}


class Otherwise(Bounded):
    reads_if = {"stats": ("scale",)}

    def __init__(self, generator, *, clip: float | None = None, scale: int = 0, stats: str | None = None): ...


class Unclipped(Bounded):
    def __init__(self, generator, *, stats: str | None = None): ...


class Falling:
    reads = {"path": "file"}
    reads_if = {"path": ("times",)}

    def __init__(self, *, times: int = 0, path: str | None = None): ...


def steps(groups, *, rate: float = 0.5): ...
"""


@pytest.fixture
def declaring(tmp_path, monkeypatch):
    """The plug-ins of SPACES, registered."""
    (tmp_path / "declaring_parts.py").write_text(SPACES)
    monkeypatch.syspath_prepend(str(tmp_path))
    for name in ("Bounded", "Always", "Otherwise", "Unclipped"):
        monkeypatch.setitem(PARAMETERIZATIONS.own, name.lower(), f"declaring_parts:{name}")
    monkeypatch.setitem(SCHEDULES.own, "falling", "declaring_parts:Falling")
    monkeypatch.setitem(OPTIMIZERS.own, "steps", "declaring_parts:steps")


@pytest.mark.parametrize(
    ("space", "free", "held"),
    [
        ("bounded", "ii2s-pnorm", "ii2s"),
        ("always", "ii2s-pnorm", "ii2s-pnorm"),
        ("otherwise", "ii2s-pnorm", "ii2s-pnorm"),
        ("unclipped", "ii2s-pnorm", "ii2s-pnorm"),
        ("w+", "i2s", "ii2s"),
        ("pnorm+", "fast-pnorm", "fast-pnorm"),
    ],
)
def test_only_a_space_whose_clip_reads_a_file_takes_ii2s_when_held(declaring, space, free, held):
    assert (space_recipe(space, held=False), space_recipe(space, held=True)) == (free, held)


def test_schedules_and_optimizers_may_read_files(declaring):
    def recipe(**schedule: object) -> Recipe:
        stage = TABLE["stages"][0] | {"optimizer": "steps", "schedule": {"name": "falling", **schedule}}
        return Recipe.from_table(TABLE | {"stages": [stage]})

    assert recipe(path="a.csv").files == ["a.csv"]
    assert recipe(times=2).looks_for("file")
    assert not recipe(times=0).looks_for("file")
