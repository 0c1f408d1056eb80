"""A method is a recipe: a list of stages, checked before any weight is read, and stored with the result.

No torch here: a recipe that cannot work is refused in a fraction of a second.
"""

from __future__ import annotations

import hashlib
import json
import math
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from latentopt.errors import UsageError
from latentopt.registry import INITIALIZERS, OPTIMIZERS, PARAMETERIZATIONS, TERMS, Registry, check_type, nearest
from latentopt.resources import resource_folder
from latentopt.schedules import SCHEDULES

NOISE_MODES = ("const", "random", "none")
KEEP = ("best", "last")


@dataclass(frozen=True)
class Jitter:
    """Noise on ws before the generator, std `scale * w_std * max(0, 1 - t/ramp)^2` (Karras et al. 2020, appendix D)."""

    scale: float = 0.05
    ramp: float = 0.75


@dataclass(frozen=True)
class Stop:
    """Leave early: when the part `term` (or `loss`) is at most `below`, checked before the update; or when the loss has
    not fallen by the fraction `tolerance` within `patience` steps.
    """

    term: str = "loss"
    below: float | None = None
    patience: int | None = None
    tolerance: float = 1e-3


@dataclass(frozen=True)
class Stage:
    """One optimisation: where it starts, what is free, what is asked of the image, and how long.

    `optimize` and `terms` are tables with the plug-in's name and options; an entry of `optimize` may carry its own `lr`,
    one of `terms` its `weight` (1 by default).
    """

    init: dict
    optimize: tuple[dict, ...]
    terms: tuple[dict, ...]
    steps: int
    lr: float
    optimizer: dict = field(default_factory=lambda: {"name": "adam"})
    schedule: dict = field(default_factory=lambda: {"name": "constant"})
    jitter: Jitter | None = None
    stop: Stop | None = None
    keep: str = "best"
    batch: int = 8
    noise_mode: str = "const"


@dataclass(frozen=True)
class Recipe:
    """A named list of stages; `source` is the paper it follows, `about` what it does and where it differs."""

    name: str
    stages: tuple[Stage, ...]
    about: str = ""
    source: str = ""

    @staticmethod
    def load(name: str) -> Recipe:
        """A recipe by its name (`ii2s`) or the path of a TOML file. Raises UsageError."""
        path = Path(name)
        if path.suffix != ".toml":
            path = resource_folder("recipes") / f"{name}.toml"
            if not path.is_file():
                raise UsageError(f"unknown recipe {name!r}{nearest(name, recipe_names())}")
        try:
            table = tomllib.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise UsageError(f"{path}: no such recipe file") from None
        except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
            raise UsageError(f"{path}: not a readable recipe: {error}") from error
        return Recipe.from_table(table, str(path))

    @staticmethod
    def from_table(table: Mapping[str, Any], place: str = "recipe") -> Recipe:
        """Check a parsed TOML table whole: every key, type, name and option. Raises UsageError naming the place."""
        _check_keys(table, Recipe, place)
        stages = table.get("stages")
        if not isinstance(stages, list) or not stages:
            raise UsageError(f"{place}: needs at least one [[stages]] table")
        checked = tuple(_stage(stage, f"{place}: stages.{i}", first=i == 0) for i, stage in enumerate(stages))
        texts = {key: str(table.get(key, "")) for key in ("about", "source")}
        return Recipe(str(table.get("name", "unnamed")), checked, **texts)

    def override(self, settings: Sequence[str]) -> Recipe:
        """Apply `stages.0.lr=0.02` settings; the value is read as TOML, or as text where it is none. Checked again."""
        table = self.table()
        for setting in settings:
            path, separator, text = setting.partition("=")
            if not separator:
                raise UsageError(f"--set {setting}: write it as stages.0.lr=0.02")
            _assign(table, path.strip(), _value(text.strip()), setting)
        return Recipe.from_table(table, self.name)

    def table(self) -> dict[str, Any]:
        """The whole recipe as plain values, defaults written out."""
        return json.loads(json.dumps(asdict(self)))

    def dump(self) -> str:
        """The whole recipe as TOML: `Recipe.load` of it is this recipe again."""
        table = self.table()
        lines = [f"{key} = {_toml(table[key])}" for key in ("name", "about", "source")]
        for stage in table["stages"]:
            lines += [
                "",
                "[[stages]]",
                *(f"{key} = {_toml(value)}" for key, value in stage.items() if value is not None),
            ]
        return "\n".join(lines) + "\n"

    @property
    def digest(self) -> str:
        """Identifies what the recipe does: equal for recipes that differ in `name`, `about`, `source` and `batch` only."""
        stages = [{key: value for key, value in s.items() if key != "batch"} for s in self.table()["stages"]]
        return hashlib.sha256(json.dumps(stages, sort_keys=True).encode()).hexdigest()[:16]


def recipe_names() -> list[str]:
    """The recipes that are shipped."""
    return sorted(path.stem for path in resource_folder("recipes").glob("*.toml"))


def with_space(recipe: Recipe, space: str, options: Mapping[str, Any]) -> Recipe:
    """The same recipe with its latent space replaced in every stage that has one.

    What the recipe asks of its own space (its clip, its learning rate) goes along where the new space knows it too, a
    default of the old space does not;
    `options` that are not None come on top. Raises UsageError.
    """
    space = PARAMETERIZATIONS.resolve(space)
    if space not in LATENT_SPACES:
        raise UsageError(f"--space {space}: not a latent space; known: {', '.join(LATENT_SPACES)}")
    given = {key: value for key, value in options.items() if value is not None}
    PARAMETERIZATIONS.check(space, given, "--space")
    known = {"lr", *PARAMETERIZATIONS.options(space)}

    def swap(stage: Stage) -> Stage:
        latent = [part for part in stage.optimize if part["name"] in LATENT_SPACES]
        if not latent:
            return stage
        old = PARAMETERIZATIONS.options(latent[0]["name"])
        asked = {key: value for key, value in latent[0].items() if key not in old or value != old[key].default}
        kept = {key: value for key, value in asked.items() if key in known}
        others = (part for part in stage.optimize if part["name"] not in LATENT_SPACES)
        part = _plugin({"name": space, **kept, **given}, PARAMETERIZATIONS, "--space", extra="lr")
        return replace(stage, optimize=(part, *others))

    return replace(recipe, stages=tuple(swap(stage) for stage in recipe.stages))


LATENT_SPACES = ("w", "w+", "z", "p-norm", "p-norm+")


def _check_keys(table: Mapping[str, Any], record: type, place: str) -> None:
    known = {f.name: f for f in fields(record)}
    for key, value in table.items():
        if key not in known:
            raise UsageError(f"{place}: unknown key {key!r}{nearest(key, known)}")
        if known[key].type in ("int", "float", "str", "float | None", "int | None"):
            check_type(value, known[key].type, f"{place}.{key}")
    required = [f.name for f in fields(record) if f.default is MISSING and f.default_factory is MISSING]
    missing = [key for key in required if key not in table and key not in ("name", "init")]
    if missing:
        raise UsageError(f"{place}: needs {', '.join(missing)}")


def _stage(table: Mapping[str, Any], place: str, first: bool) -> Stage:
    if not isinstance(table, Mapping):
        raise UsageError(f"{place} must be a table, not {table!r}")
    table = {key: value for key, value in table.items() if value is not None}
    _check_keys(table, Stage, place)
    if first and "init" not in table:
        raise UsageError(f"{place}: the first stage needs init, such as init = 'mean'")
    values = dict(table)
    values["init"] = _plugin(table.get("init", "previous"), INITIALIZERS, f"{place}.init", ("previous",))
    if first and values["init"]["name"] == "previous":
        raise UsageError(f"{place}.init: the first stage has no previous one to start from")
    values["optimize"] = _plugins(table["optimize"], PARAMETERIZATIONS, f"{place}.optimize", "lr")
    values["terms"] = _plugins(table["terms"], TERMS, f"{place}.terms", "weight")
    values["optimizer"] = _plugin(table.get("optimizer", "adam"), OPTIMIZERS, f"{place}.optimizer")
    values["schedule"] = _plugin(table.get("schedule", "constant"), SCHEDULES, f"{place}.schedule")
    for key, record in (("jitter", Jitter), ("stop", Stop)):
        if key in table:
            if not isinstance(table[key], Mapping):
                raise UsageError(f"{place}.{key} must be a table")
            given = {k: v for k, v in table[key].items() if v is not None}
            _check_keys(given, record, f"{place}.{key}")
            values[key] = record(**given)
    stage = Stage(**values)
    for key, allowed in (("keep", KEEP), ("noise_mode", NOISE_MODES)):
        if getattr(stage, key) not in allowed:
            raise UsageError(f"{place}.{key} must be one of {', '.join(allowed)}, not {getattr(stage, key)!r}")
    _check_values(stage, place)
    return stage


def _check_values(stage: Stage, place: str) -> None:
    for key, low in (("steps", 0), ("batch", 1), ("lr", 0)):
        if not low <= getattr(stage, key) < math.inf:
            raise UsageError(f"{place}.{key} must be at least {low}, not {getattr(stage, key)}")
    latent = [part["name"] for part in stage.optimize if part["name"] in LATENT_SPACES]
    if len(latent) > 1:
        raise UsageError(f"{place}.optimize: {' and '.join(latent)} both write the latents; keep one of them")
    if stage.jitter is not None and not stage.jitter.ramp > 0:
        raise UsageError(f"{place}.jitter.ramp must be above 0, not {stage.jitter.ramp}")
    if stage.stop is None:
        return
    if stage.stop.patience is not None and stage.stop.patience < 1:
        raise UsageError(f"{place}.stop.patience must be at least 1, not {stage.stop.patience}")
    if stage.stop.term not in ("loss", *(part["name"] for part in stage.terms)):
        raise UsageError(f"{place}.stop.term: {stage.stop.term!r} is not a term of this stage")


def _plugin(
    entry: object, registry: Registry, place: str, also: Sequence[str] = (), extra: str | None = None
) -> dict[str, Any]:
    """A name or a table with `name` and options, checked; `extra` is a numeric key of the stage, not the plug-in."""
    table = {"name": entry} if isinstance(entry, str) else dict(entry) if isinstance(entry, Mapping) else {}
    name = table.pop("name", None)
    if not isinstance(name, str):
        raise UsageError(f"{place} must be the name of a {registry.kind}, or a table with a name")
    number = {extra: table.pop(extra)} if extra in table else {}
    for key, value in number.items():
        check_type(value, "float", f"{place}.{key}")
    table = {key: value for key, value in table.items() if value is not None}
    if name not in also:
        name = registry.resolve(name)
        registry.check(name, table, place)
        defaults = {key: option.default for key, option in registry.options(name).items()}
        plain = {key: list(value) if isinstance(value, tuple) else value for key, value in defaults.items()}
        table = {key: value for key, value in plain.items() if value is not None} | table
    elif table:
        raise UsageError(f"{place}: {name!r} takes no options")
    return {"name": name, **table, **number}


def _plugins(entries: object, registry: Registry, place: str, extra: str) -> tuple[dict[str, Any], ...]:
    if not isinstance(entries, list | tuple) or not entries:
        raise UsageError(f"{place} must be a list of at least one {registry.kind}")
    parts = tuple(_plugin(entry, registry, f"{place}.{i}", extra=extra) for i, entry in enumerate(entries))
    names = [part["name"] for part in parts]
    if len(set(names)) != len(names):
        raise UsageError(f"{place}: {registry.kind} named twice: {', '.join(names)}")
    return parts


def _value(text: str) -> object:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def _assign(table: Any, path: str, value: object, setting: str) -> None:
    *parents, last = path.split(".")
    for key in parents:
        try:
            table = table[int(key)] if isinstance(table, list) else table[key]
        except (KeyError, IndexError, ValueError, TypeError):
            raise UsageError(f"--set {setting}: the recipe has no {path!r}") from None
    if isinstance(table, list):
        if not last.isdigit() or int(last) >= len(table):
            raise UsageError(f"--set {setting}: the recipe has no {path!r}")
        table[int(last)] = value
    elif isinstance(table, dict):
        table[last] = value
    else:
        raise UsageError(f"--set {setting}: the recipe has no {path!r}")


def _toml(value: Any) -> str:
    if isinstance(value, Mapping):
        inner = (f"{key} = {_toml(entry)}" for key, entry in value.items() if entry is not None)
        return "{ " + ", ".join(inner) + " }"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_toml(entry) for entry in value) + "]"
    if isinstance(value, str):  # a JSON string is a TOML string, but for surrogate pairs and a bare DEL
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    return json.dumps(value)
