"""The plug-ins by name, imported when first used, so that a recipe can be checked without importing torch.

The options of a plug-in are the keyword-only arguments of its constructor; they are read from the source text.
"""

from __future__ import annotations

import ast
import difflib
import importlib
import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from latentopt.errors import UsageError


@dataclass(frozen=True)
class Option:
    """One key of a plug-in's table: the type as written in its constructor, and the default."""

    type: str
    default: Any
    required: bool


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
    """Raise UsageError, naming `place`, unless `value` is of the annotated type, such as `float | None`."""
    allowed = tuple(t for part in annotation.split("|") for t in TYPES[part.strip().split("[")[0]])
    if not isinstance(value, allowed) or (isinstance(value, bool) and bool not in allowed):
        raise UsageError(f"{place} must be {annotation}, not {value!r}")


@dataclass
class Registry:
    """Plug-ins of one kind: name -> `module:Class`, with aliases."""

    kind: str
    targets: dict[str, str] = field(default_factory=dict)
    aliases: dict[str, str] = field(default_factory=dict)

    def register(self, name: str, target: str, *aliases: str) -> None:
        """Add a plug-in; `target` is `module:Class`. A later registration of the same name replaces the earlier one."""
        self.targets[name] = target
        self.aliases.update(dict.fromkeys(aliases, name))

    def resolve(self, name: str) -> str:
        """The registered name of `name` or its alias. Raises UsageError with the nearest name."""
        name = self.aliases.get(name, name)
        if name not in self.targets:
            raise UsageError(f"unknown {self.kind} {name!r}{nearest(name, self.targets)}")
        return name

    def options(self, name: str) -> dict[str, Option]:
        """The options of a plug-in, without importing it."""
        return _constructor_options(self.targets[self.resolve(name)])

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

    def create(self, name: str, *arguments: object, **options: object) -> Any:
        """Import and construct a plug-in."""
        module, _, attribute = self.targets[self.resolve(name)].partition(":")
        return getattr(importlib.import_module(module), attribute)(*arguments, **options)


@cache
def _constructor_options(target: str) -> dict[str, Option]:
    module, _, attribute = target.partition(":")
    spec = importlib.util.find_spec(module)
    tree = ast.parse(Path(spec.origin).read_text(encoding="utf-8"))
    return _read_options({node.name: node for node in tree.body if hasattr(node, "name")}, attribute)


def _read_options(definitions: Mapping[str, ast.AST], name: str) -> dict[str, Option]:
    """The keyword-only arguments of a function, or of a class's constructor, its own or inherited in the same module."""
    definition = definitions.get(name)
    if isinstance(definition, ast.ClassDef):
        constructors = [n for n in definition.body if isinstance(n, ast.FunctionDef) and n.name == "__init__"]
        bases = [base.id for base in definition.bases if isinstance(base, ast.Name)]
        if not constructors:
            return _read_options(definitions, bases[0]) if bases else {}
        definition = constructors[0]
    if definition is None:
        return {}
    pairs = zip(definition.args.kwonlyargs, definition.args.kw_defaults, strict=True)
    return {arg.arg: _option(arg, default) for arg, default in pairs}


def _option(argument: ast.arg, default: ast.expr | None) -> Option:
    value = None if default is None else ast.literal_eval(default)
    return Option(ast.unparse(argument.annotation), value, default is None)


PARAMETERIZATIONS = Registry(
    "space",
    {
        "w": "latentopt.parameterizations.latent:W",
        "w+": "latentopt.parameterizations.latent:WPlus",
        "z": "latentopt.parameterizations.latent:Z",
        "p-norm": "latentopt.parameterizations.pnorm:PNormSpace",
        "p-norm+": "latentopt.parameterizations.pnorm:PNormPlus",
        "noise": "latentopt.parameterizations.noise:NoiseMaps",
        "weights": "latentopt.parameterizations.weights:Weights",
        "epsilon": "latentopt.parameterizations.epsilon:Epsilon",
        "lowrank": "latentopt.parameterizations.lowrank:LowRank",
    },
    {"wplus": "w+", "pnorm": "p-norm", "pnorm+": "p-norm+", "p-norm-plus": "p-norm+", "low-rank": "lowrank"},
)
TERMS = Registry(
    "term",
    {
        "l2": "latentopt.terms.pixel:L2",
        "l1": "latentopt.terms.pixel:L1",
        "perceptual": "latentopt.terms.perceptual:Perceptual",
        "p-norm": "latentopt.terms.priors:PNormPenalty",
        "noise": "latentopt.terms.priors:NoiseAutocorrelation",
        "locality": "latentopt.terms.locality:Locality",
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
        "encoder": "latentopt.initializers.encoder:EncoderStart",
        "psp": "latentopt.initializers.encoder:psp",
        "e4e": "latentopt.initializers.encoder:e4e",
        "restyle-psp": "latentopt.initializers.encoder:restyle_psp",
        "restyle-e4e": "latentopt.initializers.encoder:restyle_e4e",
    },
    {"pmean": "p-mean", "w_avg": "mean"},
)
OPTIMIZERS = Registry(
    "optimizer",
    {
        "adam": "latentopt.optimizers:adam",
        "adamw": "latentopt.optimizers:adamw",
        "nadam": "latentopt.optimizers:nadam",
        "radam": "latentopt.optimizers:radam",
        "sgd": "latentopt.optimizers:sgd",
    },
)
