"""Saved generator inputs, checked against the generator that is to draw them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from latentopt.checkpoints.delta_files import check_fit
from latentopt.errors import CheckpointError
from latentopt.geometry.moves import is_move
from latentopt.protocols import Generator
from latentopt.types import GeneratorInputs, LayerTensors, place_of

Shapes = Mapping[str, Sequence[tuple[int, ...]]]


def check_inputs(inputs: GeneratorInputs, generator: Generator, where: str) -> None:
    """Raise CheckpointError, naming `where`, for inputs that `generator` does not have or has in other shapes."""
    takes = [len(inputs), generator.num_ws, generator.w_dim]
    if list(inputs.ws.shape) != takes:
        raise CheckpointError(f"{where}: ws are {list(inputs.ws.shape)}; {generator.name!r} takes {takes}")
    if inputs.deltas is not None:
        check_fit({name: tuple(x.shape[1:]) for name, x in inputs.deltas.items()}, generator, where)
    check_transform(inputs, generator, where)
    if inputs.noise is not None:
        _check("noise", inputs.noise, {k: [(1, *size)] for k, size in generator.noise_shapes.items()}, generator, where)
    if inputs.styles is not None:
        styles = {place_of(name): x for name, x in inputs.styles.items()}
        _check("styles", styles, _style_shapes(generator), generator, where)
    if inputs.residuals is not None:
        residuals = {place_of(name): x for name, x in inputs.residuals.items()}
        known = [name for name in residuals if name in generator.activations]
        _check("residuals", residuals, _activation_shapes(generator, known), generator, where)


def check_transform(inputs: GeneratorInputs, generator: Generator, where: str) -> None:
    """Raise CheckpointError, naming `where`, for a transform that `generator` does not draw, or that is no move."""
    if inputs.transform is None:
        return
    if not generator.takes_transform:
        raise CheckpointError(f"{where}: a move of the picture, which {generator.name!r} does not draw")
    if not is_move(inputs.transform):
        raise CheckpointError(f"{where}: its transform is no move of a picture ([B,3,3], its last row 0, 0, 1)")


def _check(kind: str, given: LayerTensors, shapes: Shapes, generator: Generator, where: str) -> None:
    for layer, x in given.items():
        if layer not in shapes:
            raise CheckpointError(f"{where}: {kind} of {layer[:80]!r}, which {generator.name!r} does not have")
        if tuple(x.shape[1:]) not in shapes[layer]:
            one = " or ".join(str(list(shape)) for shape in shapes[layer])
            raise CheckpointError(f"{where}: {kind} of {layer} are {list(x.shape[1:])} an image, not {one}")


def _style_shapes(generator: Generator) -> Shapes:
    """One style for each input channel or, of convolutions, for each filter too."""
    shapes: dict[str, list[tuple[int, ...]]] = {}
    for layer, style in generator.styles(_centre(generator)).items():
        shapes[layer] = [(style.shape[1],)]
        if layer in generator.convolutions:
            shapes[layer].append((generator.tunable[generator.convolutions[layer]][0], style.shape[1]))
    return shapes


@torch.no_grad()
def _activation_shapes(generator: Generator, names: Sequence[str]) -> Shapes:
    _, found = generator.features(_centre(generator), names)
    return {name: [tuple(x.shape[1:])] for name, x in found.items()}


def _centre(generator: Generator) -> GeneratorInputs:
    return GeneratorInputs(generator.broadcast(generator.w_avg[None]))
