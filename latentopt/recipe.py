"""A method is a recipe: a list of stages, checked before any weight is read, and stored with the result.

No torch here: a recipe that cannot work is refused in a fraction of a second.
"""

from __future__ import annotations

import hashlib
import json
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from latentopt.errors import UsageError
from latentopt.registry import PARAMETERIZATIONS, nearest
from latentopt.resources import resource_folder
from latentopt.stage import OTHER_SPACES, WEIGHT_SPACES, Stage, check_keys, checked_plugin, checked_stage


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
        check_keys(table, Recipe, place)
        stages = table.get("stages")
        if not isinstance(stages, list) or not stages:
            raise UsageError(f"{place}: needs at least one [[stages]] table")
        checked = tuple(checked_stage(stage, f"{place}: stages.{i}", first=i == 0) for i, stage in enumerate(stages))
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
    def files(self) -> list[str]:
        """The files that plug-ins are told to read."""
        parts = [part for stage in self.stages for part in _parts(stage)]
        return [part[key] for part in parts for key in ("path", "stats", "sigma", "weights") if part.get(key)]

    @property
    def statistics_file(self) -> str | None:
        """The statistics that the recipe names itself, if it does."""
        named = (part.get("stats") for stage in self.stages for part in _parts(stage))
        return next((name for name in named if name), None)

    @property
    def needs_statistics(self) -> bool:
        """Whether some plug-in looks up the generator's P-norm statistics itself."""
        parts = [part for stage in self.stages for part in _parts(stage) if not part.get("stats")]
        return any(part["name"].startswith("p-") or _is_held(part) for part in parts)

    @property
    def needs_start(self) -> bool:
        """Whether the first stage goes on from an earlier result."""
        return self.stages[0].init["name"] == "previous"

    @property
    def needs_sigma(self) -> bool:
        """Whether some plug-in looks up the generator's sigma itself."""
        return any(part["name"] == "epsilon" and not part.get("sigma") for s in self.stages for part in s.optimize)

    @property
    def shares(self) -> bool:
        """Whether all images have some variables in common: then they are one batch, done together or not at all."""
        return any(part.get("shared") for stage in self.stages for part in stage.optimize)

    def split(self) -> tuple[Recipe | None, Recipe | None]:
        """What finds the latents, and what tunes the generator from there on: None for a part that is missing."""
        tunes = [any(part["name"] in WEIGHT_SPACES for part in stage.optimize) for stage in self.stages]
        first = tunes.index(True) if any(tunes) else len(tunes)
        inverting, tuning = self.stages[:first], self.stages[first:]
        if tuning and inverting:
            tuning = (replace(tuning[0], init={"name": "previous"}), *tuning[1:])
        return (
            replace(self, name=f"{self.name} (inversion)", stages=inverting) if inverting else None,
            replace(self, stages=tuning) if tuning else None,
        )

    @property
    def digest(self) -> str:
        """Identifies what the recipe does: equal for recipes that differ in `name`, `about`, `source` and `batch` only."""
        stages = [{key: value for key, value in s.items() if key != "batch"} for s in self.table()["stages"]]
        return hashlib.sha256(json.dumps(stages, sort_keys=True).encode()).hexdigest()[:16]


def _parts(stage: Stage) -> list[dict]:
    return [stage.init, *stage.optimize, *stage.terms]


def _is_held(part: dict) -> bool:
    """Whether a space, W or W+ too, is held near the centre of P-norm+; a clip of 0 holds it at the centre."""
    return part.get("clip") is not None or part.get("project") is not None or bool(part.get("l2"))


def recipe_names() -> list[str]:
    """The recipes that are shipped."""
    return sorted(path.stem for path in resource_folder("recipes").glob("*.toml"))


def with_space(recipe: Recipe, space: str, options: Mapping[str, Any]) -> Recipe:
    """The same recipe with its latent space replaced in every stage that has one.

    What the recipe asks of its own space (its clip, its learning rate) goes along where the new space knows it too;
    a default of the old space does not. `options` that are not None come on top. Raises UsageError.
    """
    space = PARAMETERIZATIONS.resolve(space)
    if space in OTHER_SPACES:
        known = (name for name in PARAMETERIZATIONS.targets if name not in OTHER_SPACES)
        raise UsageError(f"--space {space}: not a latent space; known: {', '.join(known)}")
    given = {key: value for key, value in options.items() if value is not None}
    PARAMETERIZATIONS.check(space, given, "--space")
    known = {"lr", *PARAMETERIZATIONS.options(space)}

    def swap(stage: Stage) -> Stage:
        latent = [part for part in stage.optimize if part["name"] not in OTHER_SPACES]
        if not latent:
            return stage
        old = PARAMETERIZATIONS.options(latent[0]["name"])
        asked = {key: value for key, value in latent[0].items() if key not in old or value != old[key].default}
        kept = {key: value for key, value in asked.items() if key in known}
        others = (part for part in stage.optimize if part["name"] in OTHER_SPACES)
        part = checked_plugin({"name": space, **kept, **given}, PARAMETERIZATIONS, "--space", extra="lr")
        return replace(stage, optimize=(part, *others))

    return replace(recipe, stages=tuple(swap(stage) for stage in recipe.stages))


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
