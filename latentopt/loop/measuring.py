"""One measurement of every live image: loss, its parts, the gradients, and which of them count."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from latentopt.errors import LatentoptError, UsageError
from latentopt.loop.problem import Pieces, Problem, total
from latentopt.loop.state import Measurement, State
from latentopt.types import Variables

Found = tuple[Tensor, dict[str, Tensor], Variables, Variables]
"""Loss [b], parts, gradients, and what the terms remember anew."""


def measure(problem: Problem, state: State) -> Measurement:
    """Measure the live images of `state`. Raises LatentoptError when memory does not even hold one of them."""
    loss, parts, gradients, remembered = _in_memory(problem, state)
    finite = loss.isfinite() & _all_finite(gradients, len(loss))
    judged, hopeless = loss, ~finite & (state.step == 0)
    if state.shared:  # one gradient, which one image spoils for all; it is that image's fault if its loss is not finite
        hopeless &= ~loss.isfinite()
        judged, finite = loss.mean().expand_as(loss), finite.all().expand_as(finite)
    clean = problem.jitter_std(state.step) == 0
    return Measurement(loss, parts, gradients, judged, finite, hopeless, clean, remembered)


def _in_memory(problem: Problem, state: State) -> Found:
    """In chunks of `state.chunk` images; the chunk is halved when memory runs out."""
    while True:
        try:
            return _measure_chunks(problem, state)
        except (torch.OutOfMemoryError, RuntimeError) as error:
            if not _out_of_memory(error):
                raise
            size = min(state.chunk, len(state.rows))
        if size == 1:
            raise LatentoptError(
                "out of memory with one image at a time: use --dtype bfloat16, a smaller size for the perceptual term, "
                "or a device with more memory"
            )
        state.chunk = (size + 1) // 2
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def _out_of_memory(error: Exception) -> bool:
    text = str(error).lower()
    return isinstance(error, torch.OutOfMemoryError) or "out of memory" in text or "can't allocate memory" in text


def _measure_chunks(problem: Problem, state: State) -> Found:
    b = len(state.rows)
    losses, parts, changes = [], [], []
    whole = state.chunk >= b
    gradients = {} if whole else {name: torch.zeros_like(v) for name, v in state.variables.items()}
    for rows in torch.arange(b, device=state.rows.device).split(state.chunk):
        part = problem if whole else problem.index(rows)
        at = {name: state.own(name, rows) for name in state.variables}
        variables = {
            name: (v if whole else v[at[name]]).detach().requires_grad_() for name, v in state.variables.items()
        }
        with problem.profile.part("terms"):
            view, changed = part.view(variables, state.step, state.remembered_of(rows))
            pieces, named = part.pieces(view)
            loss = total(pieces)
            if not loss.requires_grad:
                raise UsageError(
                    "nothing that is optimised reaches the loss: add a term of the image, or another space"
                )
            for name, gradient in _gradients(pieces, variables):
                if whole:
                    so_far = gradients[name] + gradient if name in gradients else gradient
                    gradients[name] = _laid_out(so_far, variables[name])
                else:
                    gradients[name][at[name]] += gradient
        losses.append(loss.detach())
        parts.append({name: value.detach() for name, value in named.items()})
        changes.append(changed)
    untouched = {name: torch.zeros_like(v) for name, v in state.variables.items() if name not in gradients}
    return torch.cat(losses), _joined(parts), gradients | untouched, _joined(changes)


def _laid_out(gradient: Tensor, v: Tensor) -> Tensor:
    """The gradient with the strides of its variable: optimisers in one kernel go through both as they lie in memory."""
    return gradient if gradient.stride() == v.stride() else torch.empty_like(v).copy_(gradient)


def _joined(chunks: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    return {name: torch.cat([chunk[name] for chunk in chunks]) for name in chunks[0]}


def _gradients(pieces: Pieces, variables: Variables) -> Iterator[tuple[str, Tensor]]:
    """Of each piece of the loss, for the variables of the spaces that it moves."""
    reaching = {spaces: loss for spaces, loss in pieces.items() if loss.requires_grad}
    for left, (spaces, loss) in zip(reversed(range(len(reaching))), reaching.items(), strict=True):
        own = {name: v for name, v in variables.items() if spaces is None or name.partition("/")[0] in spaces}
        found = torch.autograd.grad(loss.sum(), list(own.values()), retain_graph=left > 0, allow_unused=True)
        yield from ((name, gradient) for name, gradient in zip(own, found, strict=True) if gradient is not None)


def _all_finite(tensors: Variables, b: int) -> Tensor:
    """[b], whether an image's entries are finite in every tensor."""
    rows = [x.reshape(len(x), -1) for x in tensors.values()]
    sums = torch.stack([x.sum(dim=1).expand(b) for x in rows])  # finite only if all entries are, and read but once
    if sums.isfinite().all():
        return sums.new_ones(b, dtype=torch.bool)
    return torch.stack([x.isfinite().all(dim=1).expand(b) for x in rows]).all(dim=0)
