"""What every plug-in may declare of itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from typing import Any, ClassVar


class Plugin:
    """What every plug-in may declare, as literals in its class body: the recipe layer reads them from the source text,
    without importing it.

    owns      the fields of GeneratorInputs that a space writes; two that own the same field are not joined
    reads     {option: kind of file}: the option names a file that is read. Left out, the file of that kind that
              belongs to the generator is looked for (`latentopt.registry.FILES` has the kinds); results depend on its
              contents
    reads_if  {option: other options}: without a name for it, that file is looked for only where one of these is not at
              its default
    shares    the option that makes all images share the variables
    rank      the option that bounds the rank of what a space adds to a weight
    recipe    the recipe that goes with the space where only the space is named
    exact     whether a space holds every value of the fields that it owns
    varies    whether a term's value at the same point differs from step to step
    compares  whether an optimiser compares the losses of different steps, so that nothing but the variables may change
              them
    runs_code whether an operator imports and runs what an option names: a recipe from a file must not have it
    examples  tables of options that the laws of its kind are tried with
    """

    owns: Set[str] = frozenset()
    reads: ClassVar[Mapping[str, str]] = {}
    reads_if: ClassVar[Mapping[str, tuple[str, ...]]] = {}
    shares: ClassVar[str] = ""
    rank: ClassVar[str] = ""
    recipe: ClassVar[str] = ""
    exact: ClassVar[bool] = False
    varies: ClassVar[bool] = False
    compares: ClassVar[bool] = False
    runs_code: ClassVar[bool] = False
    examples: ClassVar[Sequence[Mapping[str, Any]]] = ({},)
