"""Starts by an encoder: what pSp, e4e or ReStyle make of the picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from torch import Tensor

from latentopt.checkpoints.networks import load_generator
from latentopt.encoders.files import load_encoder
from latentopt.encoders.inference import Encoding
from latentopt.errors import UsageError
from latentopt.protocols import Generator, Initializer
from latentopt.types import GeneratorInputs


class EncoderStart(Initializer):
    """An encoder's codes.

    path               the encoder's file; without one the bundled encoder of that `kind` for the generator
    steps              of ReStyle, by default as many as it was trained with
    bootstrap          an encoder (kind or file) whose result ReStyle's steps begin with
    bootstrap_network  the generator of that encoder
    stage              of e4e: the last row with an offset of its own; 0: one code for all rows
    mix, share         an encoder (kind or file) whose codes are mixed in, and how much of them
    force              also take encoders that were trained for another generator

    Raises what `load_encoder` and `load_generator` raise, and UsageError for what cannot be joined.
    """

    reads = {"path": "encoder", "mix": "encoder", "bootstrap": "bootstrap encoder", "bootstrap_network": "generator"}
    reads_if = {"mix": ("mix",), "bootstrap": ("bootstrap",), "bootstrap_network": ("bootstrap_network",)}
    examples: ClassVar[Sequence[Mapping[str, Any]]] = (
        {"kind": "restyle-psp", "bootstrap": "e4e", "mix": "psp", "share": 0.25},
    )

    def __init__(
        self,
        generator: Generator,
        *,
        kind: str = "e4e",
        path: str | None = None,
        steps: int | None = None,
        bootstrap: str | None = None,
        bootstrap_network: str | None = None,
        mix: str | None = None,
        share: float = 0.5,
        stage: int | None = None,
        force: bool = False,
    ) -> None:
        if bootstrap_network is not None and bootstrap is None:
            raise UsageError("the bootstrap's network needs an encoder to bootstrap with")
        first = None
        if bootstrap is not None:
            other = generator
            if bootstrap_network is not None:
                other = load_generator(bootstrap_network, device=generator.device)
            first = (load_encoder(bootstrap, other, force=force), other)
        second = None if mix is None else load_encoder(mix, generator, force=force)
        encoder = load_encoder(path or kind, generator, force=force)
        self.encoding = Encoding(generator, encoder, steps, first, second, share, stage)

    def __call__(self, target: Tensor, seeds: Sequence[int]) -> GeneratorInputs:
        return self.encoding(target)[-1]


class PSP(EncoderStart):
    """The bundled pSp encoder's codes."""

    examples = ({},)

    def __init__(self, generator: Generator) -> None:
        super().__init__(generator, kind="psp")


class E4E(EncoderStart):
    """The bundled e4e encoder's codes; stage: the last row with an offset of its own."""

    examples = ({"stage": 2},)

    def __init__(self, generator: Generator, *, stage: int | None = None) -> None:
        super().__init__(generator, kind="e4e", stage=stage)


class RestylePSP(EncoderStart):
    """The codes of the bundled ReStyle encoder over pSp after `steps` steps."""

    examples = ({"steps": 2},)

    def __init__(self, generator: Generator, *, steps: int | None = None) -> None:
        super().__init__(generator, kind="restyle-psp", steps=steps)


class RestyleE4E(EncoderStart):
    """The codes of the bundled ReStyle encoder over e4e after `steps` steps."""

    examples = ({"steps": 1},)

    def __init__(self, generator: Generator, *, steps: int | None = None, stage: int | None = None) -> None:
        super().__init__(generator, kind="restyle-e4e", steps=steps, stage=stage)
