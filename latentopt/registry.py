"""The plug-ins by name, imported when first used, so that a recipe can be checked without importing torch.

A plug-in says of itself, in its source text, what the recipe layer must know: its options are the keyword-only
arguments of its constructor, and what it writes, reads and shares are class literals (`Declared`). Other packages bring
plug-ins of their own by entry points of the group `latentopt.plugins` (docs/extending.md).
"""

from __future__ import annotations

import difflib
import importlib
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from latentopt.declarations.declared import Declared, Option, declared, options_of
from latentopt.errors import UsageError

GROUP = "latentopt.plugins"  # entry points, named `kind.name` (space.tilted), whose values are `module:Class`

TYPES: dict[str, tuple[type, ...]] = {
    "float": (float, int),
    "int": (int,),
    "bool": (bool,),
    "str": (str,),
    "list": (list, tuple),
    "dict": (dict,),
    "None": (type(None),),
}


def nearest(word: str, known: Mapping[str, Any] | list[str]) -> str:
    """`; did you mean 'x'?` for the closest known word, or the list of all."""
    close = difflib.get_close_matches(word, list(known), 1, cutoff=0.5)
    return f"; did you mean {close[0]!r}?" if close else f"; known: {', '.join(sorted(known)) or 'none'}"


def check_type(value: object, annotation: str, place: str) -> None:
    """Raise UsageError, naming `place`, unless `value` is of the annotated type, such as `float | None`, and finite."""
    names = [part.strip().split("[")[0] for part in annotation.split("|")]
    if unknown := [name for name in names if name not in TYPES]:
        raise UsageError(f"{place}: its type {annotation!r} is none that TOML has ({', '.join(unknown)})")
    allowed = tuple(t for name in names for t in TYPES[name])
    if not isinstance(value, allowed) or (isinstance(value, bool) and bool not in allowed):
        raise UsageError(f"{place} must be {annotation}, not {value!r}")
    if isinstance(value, float) and not math.isfinite(value):
        raise UsageError(f"{place} must be a finite number, not {value}")


@cache
def _points() -> tuple[EntryPoint, ...]:
    return tuple(entry_points(group=GROUP))  # once: it looks at every installed package


@cache
def brought(kind: str) -> Mapping[str, list[str]]:
    """{name: what other packages' entry points for a plug-in of that name mean}; several where packages disagree."""
    found: dict[str, set[str]] = {}
    for point in _points():
        of, _, name = point.name.partition(".")
        if of == kind and name:
            found.setdefault(name, set()).add(point.value)
    return {name: sorted(values) for name, values in found.items()}


@dataclass
class Registry:
    """Plug-ins of one kind: name -> `module:Class`, with aliases."""

    kind: str
    own: dict[str, str] = field(default_factory=dict)
    aliases: dict[str, str] = field(default_factory=dict)

    def register(self, name: str, target: str, *aliases: str) -> None:
        """Add a plug-in; `target` is `module:Class`. A later registration of the same name replaces the earlier one."""
        self.own[name] = target
        self.aliases.update(dict.fromkeys(aliases, name))

    @property
    def targets(self) -> dict[str, str]:
        """Ours and those of other packages, without the names that `resolve` refuses."""
        ours = self.own.keys() | self.aliases.keys()
        others = {name: found[0] for name, found in brought(self.kind).items() if len(found) == 1 and name not in ours}
        return self.own | others

    def __iter__(self) -> Iterator[str]:
        return iter(self.targets)

    def resolve(self, name: str) -> str:
        """The registered name of `name` or its alias.

        Raises UsageError, with the nearest name, for one that is not known, and for one that could mean two plug-ins:
        another package brings a name of ours, or two packages bring it.
        """
        found = brought(self.kind).get(name, [])
        if found and (name in self.own or name in self.aliases):
            raise UsageError(f"{found[0]}: latentopt has a {self.kind} {name!r} already; give it another name")
        if len(found) > 1:
            raise UsageError(f"two packages bring a {self.kind} {name!r}: {' and '.join(found)}; remove one")
        name = self.aliases.get(name, name)
        if name not in self.targets:
            raise UsageError(f"unknown {self.kind} {name!r}{nearest(name, self.targets)}")
        return name

    def target(self, name: str) -> str:
        return self.targets[self.resolve(name)]

    def options(self, name: str) -> dict[str, Option]:
        """The options of a plug-in, without importing it."""
        return options_of(self.target(name))

    def declared(self, name: str) -> Declared:
        """What a plug-in says of itself, without importing it."""
        return declared(self.target(name))

    def check(self, name: str, options: Mapping[str, Any], place: str) -> None:
        """Raise UsageError for an unknown name, key or a wrong type, naming `place` and the nearest valid word."""
        known = self.options(name)
        for key, value in options.items():
            if key not in known:
                raise UsageError(f"{place}.{key}: {self.kind} {name!r} has no such option{nearest(key, known)}")
            check_type(value, known[key].type, f"{place}.{key}")
        missing = [key for key, option in known.items() if option.required and key not in options]
        if missing:
            raise UsageError(f"{place}: {self.kind} {name!r} needs {', '.join(missing)}")

    def load(self, name: str) -> Any:
        """Import a plug-in's class or function."""
        target = self.target(name)
        module, _, attribute = target.partition(":")
        try:
            return getattr(importlib.import_module(module), attribute)
        except (ImportError, AttributeError) as error:
            raise UsageError(f"{self.kind} {name!r}: {target} cannot be imported: {error}") from error

    def create(self, name: str, *arguments: object, **options: object) -> Any:
        """Import and construct a plug-in."""
        return self.load(name)(*arguments, **options)


PARAMETERIZATIONS = Registry(
    "space",
    {
        "w": "latentopt.parameterizations.latent:W",
        "w+": "latentopt.parameterizations.latent:WPlus",
        "w++": "latentopt.parameterizations.styles:WPlusPlus",
        "w+coarse": "latentopt.parameterizations.coarse:Coarse",
        "s": "latentopt.parameterizations.styles:S",
        "f": "latentopt.parameterizations.features:F",
        "z": "latentopt.parameterizations.latent:Z",
        "z+": "latentopt.parameterizations.latent:ZPlus",
        "p-norm": "latentopt.parameterizations.pnorm:PNormSpace",
        "p-norm+": "latentopt.parameterizations.pnorm:PNormPlus",
        "noise": "latentopt.parameterizations.noise:NoiseMaps",
        "placement": "latentopt.parameterizations.placement:Placement",
        "weights": "latentopt.parameterizations.weights:Weights",
        "epsilon": "latentopt.parameterizations.epsilon:Epsilon",
        "lowrank": "latentopt.parameterizations.lowrank:LowRank",
    },
    {
        "wplus": "w+",
        "zplus": "z+",
        "stylespace": "s",
        "features": "f",
        "pnorm": "p-norm",
        "pnorm+": "p-norm+",
        "p-norm-plus": "p-norm+",
        "low-rank": "lowrank",
    },
)
TERMS = Registry(
    "term",
    {
        "l2": "latentopt.terms.pixel:L2",
        "l1": "latentopt.terms.pixel:L1",
        "perceptual": "latentopt.terms.perceptual:Perceptual",
        "pyramid": "latentopt.terms.pyramid:Pyramid",
        "p-norm": "latentopt.terms.priors:PNormPenalty",
        "w-prior": "latentopt.terms.priors:WPrior",
        "rows-cosine": "latentopt.terms.priors:RowsCosine",
        "noise": "latentopt.terms.priors:NoiseAutocorrelation",
        "locality": "latentopt.terms.locality:Locality",
        "inside": "latentopt.terms.domain:Inside",
        "outside": "latentopt.terms.domain:Outside",
        "drag": "latentopt.terms.drag:Drag",
        "stays": "latentopt.terms.drag:Stays",
    },
    {"mse": "l2", "lpips": "perceptual", "pnorm": "p-norm"},
)
INITIALIZERS = Registry(
    "initialiser",
    {
        "mean": "latentopt.initializers.simple:Mean",
        "p-mean": "latentopt.initializers.simple:PMean",
        "sample": "latentopt.initializers.simple:Sample",
        "best-of": "latentopt.initializers.simple:BestOf",
        "file": "latentopt.initializers.simple:File",
        "linear": "latentopt.initializers.linear:Linear",
        "placement": "latentopt.initializers.placement:PlacementStart",
        "at-hand": "latentopt.initializers.at_hand:AtHand",
        "encoder": "latentopt.initializers.encoder:EncoderStart",
        "psp": "latentopt.initializers.encoder:PSP",
        "e4e": "latentopt.initializers.encoder:E4E",
        "restyle-psp": "latentopt.initializers.encoder:RestylePSP",
        "restyle-e4e": "latentopt.initializers.encoder:RestyleE4E",
    },
    {"pmean": "p-mean", "w_avg": "mean"},
)
OPERATORS = Registry(
    "operator",
    {
        "identity": "latentopt.operators.identity:Identity",
        "mask": "latentopt.operators.mask:Mask",
        "down": "latentopt.operators.down:Down",
        "blur": "latentopt.operators.blur:Blur",
        "gray": "latentopt.operators.gray:Gray",
        "jpeg": "latentopt.operators.jpeg:Jpeg",
        "noise": "latentopt.operators.noise:Noise",
        "crop": "latentopt.operators.crop:Crop",
        "rows": "latentopt.operators.fourier:Rows",
        "columns": "latentopt.operators.fourier:Columns",
        "call": "latentopt.operators.call:Call",
    },
    {"function": "call"},
)
OPTIMIZERS = Registry(
    "optimizer",
    {
        "adam": "latentopt.loop.optimizers:adam",
        "adamw": "latentopt.loop.optimizers:adamw",
        "nadam": "latentopt.loop.optimizers:nadam",
        "radam": "latentopt.loop.optimizers:radam",
        "sgd": "latentopt.loop.optimizers:sgd",
        "momentum": "latentopt.loop.optimizers:Momentum",
        "ngd": "latentopt.loop.optimizers:NormalizedGradient",
        "lbfgs": "latentopt.loop.lbfgs:LBFGS",
    },
)
SCHEDULES = Registry(
    "schedule",
    {
        "constant": "latentopt.loop.schedules:Constant",
        "karras": "latentopt.loop.schedules:Karras",
        "cosine": "latentopt.loop.schedules:Cosine",
    },
)
REFINERS = Registry(
    "refiner",
    {
        "styleres": "latentopt.refiners.refiner:StyleRes",
        "warpres": "latentopt.refiners.refiner:WarpRes",
        "file": "latentopt.refiners.refiner:FromFile",
    },
)
FLOWS = Registry(  # what finds the flow between two pictures
    "flow",
    {
        "warps": "latentopt.refiners.teachers:Warps",
        "raft": "latentopt.refiners.teachers:Raft",
    },
)
DETECTORS = Registry(  # what finds faces in photographs
    "detector",
    {
        "blazeface": "latentopt.faces.blazeface:BlazeFace",
    },
)
FILES = Registry(  # what a plug-in may read: finders (generator, named, part) -> list of paths
    "kind of file",
    {
        "file": "latentopt.statistics.at_hand:named_file",
        "inputs": "latentopt.statistics.at_hand:saved_inputs",
        "p-norm": "latentopt.statistics.pnorm:PNORM",
        "sigma": "latentopt.statistics.sigma:SIGMA",
        "metric": "latentopt.statistics.metric_files:METRIC",
        "linear prior": "latentopt.statistics.linear_prior:PRIOR",
        "encoder": "latentopt.encoders.files:encoder_file",
        "bootstrap encoder": "latentopt.encoders.files:bootstrap_file",
        "generator": "latentopt.encoders.files:generator_file",
        "start at hand": "latentopt.initializers.at_hand:start_at_hand",
        "refiner": "latentopt.refiners.files:refiner_file",
        "flow network": "latentopt.refiners.teachers:flow_file",
    },
)
COORDINATES = Registry(  # in which directions are found, and straight
    "coordinates",
    {
        "w": "latentopt.editing.coordinates:W",
        "w+": "latentopt.editing.coordinates:WPlus",
        "p-norm": "latentopt.editing.coordinates:PNormAxes",
    },
)
FORMATS = Registry(  # what `latentopt info` tells of our files: functions (checkpoint, name) -> facts
    "file format",
    {
        "latentopt-generator-1": "latentopt.checkpoints.describe:describe_generator",
        "latentopt-discriminator-1": "latentopt.checkpoints.describe:describe_discriminator",
        "latentopt-encoder-1": "latentopt.encoders.files:describe_encoder",
        "latentopt-pnorm-1": "latentopt.statistics.pnorm_files:describe_statistics",
        "latentopt-delta-1": "latentopt.checkpoints.delta_files:describe_delta",
        "latentopt-sigma-1": "latentopt.statistics.sigma:describe_sigma",
        "latentopt-metric-1": "latentopt.statistics.metric:describe_metric",
        "latentopt-directions-1": "latentopt.editing.files:describe_directions",
        "latentopt-refiner-1": "latentopt.refiners.files:describe_refiner",
        "latentopt-flow-1": "latentopt.refiners.teachers:describe_flow",
    },
)
