"""A method is a recipe: a list of stages, checked before any weight is read, and stored with the result.

No torch here: a recipe that cannot work is refused in a fraction of a second.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from latentopt.errors import UntrustedFileError, UsageError
from latentopt.files.addresses import address_of
from latentopt.files.kinds import check_file, kind_of, refusal
from latentopt.files.schema import read_text
from latentopt.files.text import as_unicode
from latentopt.files.toml import TOML_LIMIT, parse_toml
from latentopt.recipe.entries import checked_operators
from latentopt.recipe.named_recipes import recipe_file
from latentopt.recipe.settings import assign, read_value
from latentopt.recipe.stage import PREVIOUS, Reading, Stage, check_keys, checked_stage
from latentopt.registry import PARAMETERIZATIONS, TERMS

Key = tuple[str | int, ...]
ABSENT = (("operator", None), ("refine", None))  # entries that recipes of earlier releases did not have
COMPARE_NUMBERS = ("l2", "l1")  # terms that compare whatever was measured
WANTED = "a recipe (a TOML file, or the name of a shipped one)"


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
        if path.suffix != ".toml" and not address_of(name):
            path = recipe_file(name)
        if (kind := kind_of(check_file(path, WANTED, UsageError))).name != "text":
            raise UsageError(refusal(path, WANTED, kind))
        try:
            text = read_text(path, 4 * TOML_LIMIT)
        except (OSError, ValueError) as error:
            raise UsageError(f"{path}: not a readable recipe: {error}") from error
        return Recipe.parse(text, str(path))

    @staticmethod
    def parse(text: str, place: str = "recipe", runs: bool = False) -> Recipe:
        """A recipe from TOML, checked as `from_table` does. `runs`: it may name code that is run.

        Raises UsageError naming the place, UntrustedFileError for a name of code in what comes from a file.
        """
        try:
            table = parse_toml(text)
        except ValueError as error:
            raise UsageError(f"{place}: not a readable recipe: {error}") from error
        recipe = Recipe.from_table(table, place)
        if (code := [part for stage in recipe.stages for part in stage.code]) and not runs:
            raise UntrustedFileError(
                f"{place}: names code of its own, {code[0]}, and a recipe from a file does not run any; if you trust "
                f"it, name it yourself: latentopt restore --operator, or --set stages.0.operator"
            )
        return recipe

    @staticmethod
    def from_table(table: Mapping[str, Any], place: str = "recipe") -> Recipe:
        """Check a parsed TOML table whole: every key, type, name and option. Raises UsageError naming the place."""
        check_keys(table, Recipe, place)
        stages = table.get("stages")
        if not isinstance(stages, list) or not stages:
            raise UsageError(f"{place}: needs at least one [[stages]] table")
        checked = tuple(checked_stage(stage, f"{place}: stages.{i}", first=i == 0) for i, stage in enumerate(stages))
        for i, stage in enumerate(checked[:-1]):
            if stage.refine is not None:
                raise UsageError(f"{place}: stages.{i} refines what later stages would change: make it the last")
        texts = {key: str(table.get(key, "")) for key in ("about", "source")}
        return Recipe(str(table.get("name", "unnamed")), checked, **texts)

    def override(self, settings: Sequence[str], values: Mapping[Key, object] | None = None) -> Recipe:
        """Apply `values` as `changed` does and then settings such as `stages.0.lr=0.02`; checked again once, at the
        end.

        A setting's value is read as TOML, or as text where it is none. Raises UsageError.
        """
        table = self.table()
        for key, value in (values or {}).items():
            assign(table, key, value)
        for setting in settings:
            path, separator, text = setting.partition("=")
            if not separator:
                raise UsageError(f"--set {setting}: write it as stages.0.lr=0.02")
            assign(table, path.strip().split("."), read_value(text.strip()))
        return Recipe.from_table(table, self.name)

    def changed(self, values: Mapping[Key, object]) -> Recipe:
        """The recipe with some entries replaced: `{("stages", 0, "lr"): 0.02}`. Checked again. Raises UsageError."""
        return self.override([], values)

    def in_every_stage(
        self, *, steps: int | None = None, terms: Sequence[Mapping[str, object]] | None = None
    ) -> Recipe:
        """The recipe with that many steps and those terms in every stage; None leaves them as they are.

        A stage that stops by a term that it no longer has stops by nothing. Checked again. Raises UsageError.
        """
        table = self.table()
        for stage in table["stages"]:
            if steps is not None and stage["refine"] is None:
                stage["steps"] = steps
            if terms is not None:
                _set_terms(stage, terms)
        return Recipe.from_table(table, self.name)

    def comparing_numbers(self) -> Recipe:
        """The recipe for measurements that are no pictures: without the terms that compare pictures.

        `l2` compares in their place where no l2 or l1 is left; terms that do not look at the image stay.
        """
        table = self.table()
        for stage in table["stages"]:
            compare = [term for term in stage["terms"] if term["name"] in COMPARE_NUMBERS]
            priors = [term for term in stage["terms"] if not TERMS.load(term["name"]).sees_image]
            _set_terms(stage, [*(compare or [{"name": COMPARE_NUMBERS[0]}]), *priors])
        return Recipe.from_table(table, self.name)

    def measuring(self, operator: object) -> Recipe:
        """The recipe whose every stage compares what `operator` makes of the image (`down:8,jpeg:12`, tables).

        Raises UsageError.
        """
        checked = checked_operators(operator, "operator")
        return replace(self, stages=tuple(replace(stage, operator=checked) for stage in self.stages))

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

    def refined(self, refine: object) -> Recipe:
        """The same recipe with a last stage that refines, measured by the terms of the one before it.

        Raises UsageError for what is no refiner.
        """
        table = self.table()
        last = table["stages"][-1]
        if last["refine"] is not None:
            last["refine"] = refine
        else:
            kept = {key: last[key] for key in ("terms", "batch", "noise_mode")}
            table["stages"].append({"refine": refine, **kept})
        return Recipe.from_table(table, self.name)

    @property
    def refines(self) -> bool:
        """Whether the last stage refines."""
        return self.stages[-1].refine is not None

    @property
    def reads(self) -> list[Reading]:
        """The files that plug-ins read, named or looked for, as they declare (`latentopt.protocols.Plugin`)."""
        return [reading for stage in self.stages for reading in stage.reads]

    @property
    def files(self) -> list[str]:
        """The files that plug-ins are told to read."""
        return [reading.named for reading in self.reads if reading.named is not None]

    def named(self, kind: str) -> str | None:
        """The first file of a kind that the recipe names itself, if it does."""
        return next((reading.named for reading in self.reads if reading.kind == kind and reading.named), None)

    def looks_for(self, kind: str) -> bool:
        """Whether some plug-in looks for the generator's own file of a kind."""
        return any(reading.kind == kind and reading.named is None for reading in self.reads)

    @property
    def needs_start(self) -> bool:
        """Whether the first stage goes on from an earlier result."""
        return self.stages[0].init["name"] == PREVIOUS

    @property
    def shares(self) -> bool:
        """Whether all images have some variables in common: then they are one batch, done together or not at all."""
        parts = [part for stage in self.stages for part in stage.optimize]
        return any(part.get(PARAMETERIZATIONS.declared(part["name"]).shares) for part in parts)

    def sharing(self, images: int) -> Recipe:
        """The same recipe with one change of the weights for all `images`, which then are one batch."""

        def share(part: dict) -> dict:
            option = PARAMETERIZATIONS.declared(part["name"]).shares
            return part | {option: True} if option else part

        stages = (replace(s, optimize=tuple(share(p) for p in s.optimize), batch=images) for s in self.stages)
        return replace(self, stages=tuple(stages))

    def alone(self) -> Recipe:
        """The same recipe for one image at a time. Raises UsageError where all images share variables."""
        if self.shares:
            raise UsageError("one change of the weights for all images needs them together: leave exact or shared out")
        return replace(self, stages=tuple(replace(stage, batch=1) for stage in self.stages))

    @property
    def rank(self) -> int | None:
        """The highest rank that a change of a weight can have, where all that change weights say it."""
        tuning = [part for stage in self.stages for part in stage.spaces("deltas")]
        bounds = [part.get(PARAMETERIZATIONS.declared(part["name"]).rank) for part in tuning]
        known = [bound for bound in bounds if isinstance(bound, int)]
        return sum(known) if known and len(known) == len(bounds) else None

    def split(self) -> tuple[Recipe | None, Recipe | None]:
        """What finds the latents, and what tunes the generator from there on: None for a part that is missing."""
        tunes = [bool(stage.spaces("deltas")) for stage in self.stages]
        first = tunes.index(True) if any(tunes) else len(tunes)
        inverting, tuning = self.stages[:first], self.stages[first:]
        if tuning and inverting:
            tuning = (replace(tuning[0], init={"name": PREVIOUS}), *tuning[1:])
        return (
            replace(self, name=f"{self.name} (inversion)", stages=inverting) if inverting else None,
            replace(self, stages=tuning) if tuning else None,
        )

    @property
    def digest(self) -> str:
        """What the recipe does: equal for recipes that differ in `name`, `about`, `source` and `batch` only."""
        stages = [
            {key: value for key, value in stage.items() if key != "batch" and (key, value) not in ABSENT}
            for stage in self.table()["stages"]
        ]
        return hashlib.sha256(json.dumps(stages, sort_keys=True).encode()).hexdigest()[:16]


def _set_terms(stage: dict[str, Any], terms: Sequence[Mapping[str, object]]) -> None:
    """Give a stage's table other terms. One that stops by a term that it no longer has stops by nothing."""
    stage["terms"] = list(terms)
    names = {"loss", *(TERMS.resolve(str(term["name"])) for term in terms)}
    if stage["stop"] is not None and stage["stop"]["term"] not in names:
        stage["stop"] = None


def _toml(value: Any) -> str:
    if isinstance(value, Mapping):
        inner = (f"{key} = {_toml(entry)}" for key, entry in value.items() if entry is not None)
        return "{ " + ", ".join(inner) + " }"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_toml(entry) for entry in value) + "]"
    if isinstance(value, str):  # a JSON string is a TOML string, but for what TOML and terminals do not take raw
        text = json.dumps(as_unicode(value), ensure_ascii=False)
        return "".join(c if c.isprintable() else f"\\U{ord(c):08x}" for c in text)
    return json.dumps(value)
