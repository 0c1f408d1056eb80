"""Several lenses at once: each one's variables under its own prefix."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from latentopt.errors import UsageError
from latentopt.protocols import Parameterization
from latentopt.types import GeneratorInputs, Variables


class Joint(Parameterization):
    """Lenses by name; the variables of `w+` are named `w+/w`. They must own different fields of the inputs.

    Those that write ws write last, whatever the order: spaces of styles write differences to what the ws before makes,
    so that a move of ws comes on top of theirs.
    """

    def __init__(self, lenses: Mapping[str, Parameterization]) -> None:
        self.lenses = dict(sorted(lenses.items(), key=lambda lens: "ws" in lens[1].owns))
        owned = [field for lens in self.lenses.values() for field in lens.owns]
        if len(set(owned)) != len(owned):
            raise UsageError(f"spaces that write the same inputs cannot be joined: {', '.join(self.lenses)}")
        self.owns = frozenset(owned)

    def _own(self, name: str, variables: Variables) -> Variables:
        return {key.removeprefix(f"{name}/"): v for key, v in variables.items() if key.startswith(f"{name}/")}

    def encode(self, inputs: GeneratorInputs) -> Variables:
        return {f"{name}/{key}": v for name, lens in self.lenses.items() for key, v in lens.encode(inputs).items()}

    def decode(self, variables: Variables, inputs: GeneratorInputs) -> GeneratorInputs:
        for name, lens in self.lenses.items():
            inputs = lens.decode(self._own(name, variables), inputs)
        return inputs

    def project_(self, variables: Variables) -> None:
        for name, lens in self.lenses.items():
            lens.project_(self._own(name, variables))

    def penalty(self, variables: Variables) -> Tensor | None:
        penalties = (lens.penalty(self._own(name, variables)) for name, lens in self.lenses.items())
        parts = [penalty for penalty in penalties if penalty is not None]
        return sum(parts[1:], parts[0]) if parts else None
