"""One stage of a recipe, and the checks that refuse what it cannot mean, naming the place and the nearest word."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields
from typing import Any

from latentopt.errors import UsageError
from latentopt.recipe.entries import checked_operators, checked_plugin, checked_plugins, checked_terms
from latentopt.registry import (
    FILES,
    INITIALIZERS,
    OPERATORS,
    OPTIMIZERS,
    PARAMETERIZATIONS,
    REFINERS,
    SCHEDULES,
    TERMS,
    Registry,
    check_type,
    nearest,
)

PREVIOUS = "previous"  # the start that an earlier stage, or an earlier result, ended with
NOISE_MODES = ("const", "random", "none")
KEEP = ("best", "last")
WRITTEN = {
    "ws": "latents",
    "deltas": "generator's weights",
    "noise": "noise maps",
    "residuals": "features",
    "transform": "placement",
}  # other fields in their own words


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

    Or a refinement: a stage with `refine` optimises nothing, and its terms only measure.

    `optimize` and `terms` are tables with the plug-in's name and options; an entry of `optimize` may carry its own
    `lr`, one of `terms` its `weight` (1 by default) and the spaces of `optimize` that it `moves` (all by default). With
    an `operator`, terms compare what it makes of image and target; a list of them is done in that order.
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
    operator: dict | list[dict] | None = None
    refine: dict | None = None

    @property
    def operators(self) -> list[dict]:
        """The operators one after the other, none for the images themselves."""
        if self.operator is None:
            return []
        return [self.operator] if isinstance(self.operator, dict) else self.operator

    @property
    def parts(self) -> list[tuple[Registry, dict]]:
        """Every plug-in of the stage, with the registry of its kind."""
        pairs = [(INITIALIZERS, self.init), *((PARAMETERIZATIONS, p) for p in self.optimize)]
        pairs += [(TERMS, p) for p in self.terms] + [(OPERATORS, p) for p in self.operators]
        pairs += [] if self.refine is None else [(REFINERS, self.refine)]
        pairs += [(OPTIMIZERS, self.optimizer), (SCHEDULES, self.schedule)]
        return [(registry, part) for registry, part in pairs if part["name"] != PREVIOUS]

    @property
    def code(self) -> list[str]:
        """What its operators import and run."""
        runs = [part for part in self.operators if OPERATORS.declared(part["name"]).runs_code]
        return [" ".join(str(value) for key, value in part.items() if key != "name") for part in runs]

    def spaces(self, field: str) -> list[dict]:
        """The entries of `optimize` that write this field of GeneratorInputs."""
        return [part for part in self.optimize if field in PARAMETERIZATIONS.declared(part["name"]).owns]

    @property
    def reads(self) -> list[Reading]:
        """The files that its plug-ins read, as they declare."""
        return [reading for registry, part in self.parts for reading in readings(registry, part)]


@dataclass(frozen=True)
class Reading:
    """A file that a plug-in reads: its kind (of `registry.FILES`), and its name where the recipe says it.

    Without a name, the file of that kind that belongs to the generator is looked for. `part` are the plug-in's options.
    """

    kind: str
    named: str | None
    part: Mapping[str, Any]


def readings(registry: Registry, part: Mapping[str, Any]) -> list[Reading]:
    """What the plug-in `part` of a recipe reads. Raises UsageError for a kind of file that is not known."""
    declared, options = registry.declared(part["name"]), registry.options(part["name"])
    found = []
    for option, kind in declared.reads.items():
        FILES.resolve(kind)
        conditions = declared.reads_if.get(option)
        if part.get(option) or conditions is None or any(_is_set(part, key, options) for key in conditions):
            found.append(Reading(kind, part.get(option) or None, part))
    return found


def _is_set(part: Mapping[str, Any], key: str, options: Mapping[str, Any]) -> bool:
    default = options[key].default if key in options else None
    value = part.get(key)
    return value is not None and value is not False and value != default


def check_keys(table: Mapping[str, Any], record: type, place: str) -> None:
    known = {f.name: f for f in fields(record)}
    for key, value in table.items():
        if key not in known:
            raise UsageError(f"{place}: unknown key {key!r}{nearest(key, known)}")
        annotation = str(known[key].type)
        if annotation in ("int", "float", "str", "float | None", "int | None"):
            check_type(value, annotation, f"{place}.{key}")
    required = [f.name for f in fields(record) if f.default is MISSING and f.default_factory is MISSING]
    missing = [key for key in required if key not in table and key not in ("name", "init")]
    if missing:
        raise UsageError(f"{place}: needs {', '.join(missing)}")


def checked_stage(table: Mapping[str, Any], place: str, first: bool) -> Stage:
    if not isinstance(table, Mapping):
        raise UsageError(f"{place} must be a table, not {table!r}")
    table = {key: value for key, value in table.items() if value is not None}
    refines = "refine" in table
    if refines:
        table = _refining(table, place)
    check_keys(table, Stage, place)
    if first and "init" not in table:
        raise UsageError(f"{place}: the first stage needs init, such as init = 'mean' ('previous': an earlier result)")
    values = dict(table)
    values["init"] = checked_plugin(table.get("init", PREVIOUS), INITIALIZERS, f"{place}.init", (PREVIOUS,))
    if refines:
        values |= {"optimize": (), "refine": checked_plugin(table["refine"], REFINERS, f"{place}.refine")}
    else:
        values["optimize"] = checked_plugins(table["optimize"], PARAMETERIZATIONS, f"{place}.optimize", "lr")
    values["terms"] = checked_terms(table["terms"], [part["name"] for part in values["optimize"]], f"{place}.terms")
    values["optimizer"] = checked_plugin(table.get("optimizer", "adam"), OPTIMIZERS, f"{place}.optimizer")
    if "operator" in table:
        values["operator"] = checked_operators(table["operator"], f"{place}.operator")
    values["schedule"] = checked_plugin(table.get("schedule", "constant"), SCHEDULES, f"{place}.schedule")
    for key, record in (("jitter", Jitter), ("stop", Stop)):
        if key in table:
            if not isinstance(table[key], Mapping):
                raise UsageError(f"{place}.{key} must be a table")
            given = {k: v for k, v in table[key].items() if v is not None}
            check_keys(given, record, f"{place}.{key}")
            values[key] = record(**given)
    stage = Stage(**values)
    for key, allowed in (("keep", KEEP), ("noise_mode", NOISE_MODES)):
        if getattr(stage, key) not in allowed:
            raise UsageError(f"{place}.{key} must be one of {', '.join(allowed)}, not {getattr(stage, key)!r}")
    _check_values(stage, place)
    return stage


def _refining(table: Mapping[str, Any], place: str) -> dict[str, Any]:
    """The table of a stage that refines, with what it does not optimise. Raises UsageError where it would."""
    for key in ("optimize", "steps", "jitter", "stop", "operator"):
        if table.get(key):
            raise UsageError(f"{place}: a stage optimises or refines: leave {key} out, or refine")
    return {"lr": 0.0, **table, "optimize": (), "steps": 0}


def _check_values(stage: Stage, place: str) -> None:
    for key, low in (("steps", 0), ("batch", 1), ("lr", 0)):
        if not low <= getattr(stage, key) < math.inf:
            raise UsageError(f"{place}.{key} must be at least {low}, not {getattr(stage, key)}")
    _check_comparable(stage, place)
    writers: dict[str, str] = {}
    for part in stage.optimize:
        for owned in sorted(PARAMETERIZATIONS.declared(part["name"]).owns):
            if owned in writers:
                what = WRITTEN.get(owned, owned)
                raise UsageError(
                    f"{place}.optimize: {writers[owned]} and {part['name']} both write the {what}; keep one of them"
                )
            writers[owned] = part["name"]
    if stage.jitter is not None and not stage.jitter.ramp > 0:
        raise UsageError(f"{place}.jitter.ramp must be above 0, not {stage.jitter.ramp}")
    if stage.stop is None:
        return
    if stage.stop.patience is not None and stage.stop.patience < 1:
        raise UsageError(f"{place}.stop.patience must be at least 1, not {stage.stop.patience}")
    if stage.stop.term not in ("loss", *(part["name"] for part in stage.terms)):
        raise UsageError(f"{place}.stop.term: {stage.stop.term!r} is not a term of this stage")


def _check_comparable(stage: Stage, place: str) -> None:
    """Raise UsageError where an optimiser compares losses of different steps and something else changes them too."""
    name = stage.optimizer["name"]
    if not OPTIMIZERS.declared(name).compares:
        return
    varying = [part["name"] for part in stage.terms if TERMS.declared(part["name"]).varies]
    noisy = [part["name"] for part in stage.operators if OPERATORS.declared(part["name"]).varies]
    changing = {
        "jitter": stage.jitter is not None,
        "noise_mode = 'random'": stage.noise_mode == "random",
        f"the term {varying[0]}" if varying else "": bool(varying),
        f"the operator {noisy[0]}" if noisy else " ": bool(noisy),
    }
    for what, there in changing.items():
        if there:
            raise UsageError(
                f"{place}: {name} compares the losses of its steps, and {what} changes them from step to step: "
                f"leave it out, or take another optimizer, such as adam"
            )
    ignored = {
        "terms that move some spaces only": any("moves" in part for part in stage.terms),
        "a schedule": stage.schedule["name"] != "constant",
        "keep = 'last'": stage.keep == "last",
        "a rate for one space": any("lr" in part for part in stage.optimize),
    }
    for what, there in ignored.items():
        if there:
            raise UsageError(
                f"{place}: {name} finds the length of its steps itself (lr is that of the first) and may end with a "
                f"failed trial: it goes without {what}"
            )
