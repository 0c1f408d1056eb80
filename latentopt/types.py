"""The values that flow through latentopt. B images, L = num_ws, C = w_dim."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path

import torch
from torch import Tensor

from latentopt.errors import CheckpointError

Variables = dict[str, Tensor]
"""What is optimised: named leaf tensors, first dimension B (or 1 where all images share one)."""

LayerTensors = Mapping[str, Tensor]


@dataclass(frozen=True)
class GeneratorInputs:
    """Everything a generator needs to draw images, changed weights included.

    ws        [B,L,C]                           one style vector per layer
    noise     {layer: [B or 1,1,h,w]} or None   explicit noise maps; other layers follow the noise mode
    deltas    {weight: [B or 1,*shape]} or None added to the generator's weights; 1 = one delta for all images
    features  {layer: [B,c,h,w]} or None        replace that layer's output
    """

    ws: Tensor
    noise: LayerTensors | None = None
    deltas: LayerTensors | None = None
    features: LayerTensors | None = None

    def __len__(self) -> int:
        return self.ws.shape[0]

    def replace(self, **changes: object) -> GeneratorInputs:
        return replace(self, **changes)

    def map(self, function: Callable[[Tensor], Tensor]) -> GeneratorInputs:
        """`function` on every tensor."""
        ws, groups = self.ws, {}
        for name in GROUPS:
            group = getattr(self, name)
            groups[name] = None if group is None else {key: function(value) for key, value in group.items()}
        return GeneratorInputs(function(ws), **groups)

    def index(self, rows: Tensor | Sequence[int]) -> GeneratorInputs:
        """The images in `rows`; entries shared by all images (first dimension 1) stay shared."""
        rows = torch.as_tensor(rows, device=self.ws.device)
        if len(self) == 1:
            return self.map(lambda x: x[rows])
        return self.map(lambda x: x if x.shape[0] == 1 else x[rows])

    def to(self, *args: object, **kwargs: object) -> GeneratorInputs:
        return self.map(lambda x: x.to(*args, **kwargs))

    def detach(self) -> GeneratorInputs:
        return self.map(Tensor.detach)

    @staticmethod
    def cat(parts: Sequence[GeneratorInputs]) -> GeneratorInputs:
        """Join batches. Shared entries are repeated for each image of their part.

        Raises ValueError where one part has an entry that another lacks.
        """
        groups: dict[str, dict[str, Tensor] | None] = {}
        for name in GROUPS:
            keys = [frozenset(getattr(part, name) or ()) for part in parts]
            if len(set(keys)) != 1:
                raise ValueError(f"cannot join inputs whose {name} differ in their entries")
            groups[name] = {
                key: torch.cat([_rows(getattr(part, name)[key], len(part)) for part in parts]) for key in keys[0]
            } or None
        return GeneratorInputs(torch.cat([part.ws for part in parts]), **groups)

    def save(self, path: Path, metadata: Mapping[str, str] | None = None) -> None:
        """Write a safetensors file whose tensors are `ws`, `noise/<layer>`, `deltas/<weight>`, `features/<layer>`."""
        from latentopt.storage import save_tensors

        tensors = {"ws": self.ws}
        for name in GROUPS:
            tensors |= {f"{name}/{key}": value for key, value in (getattr(self, name) or {}).items()}
        save_tensors(path, tensors, metadata)

    @staticmethod
    def load(path: Path) -> GeneratorInputs:
        """Read what `save` wrote. Raises CheckpointError for a file of another kind."""
        from latentopt.storage import load_tensors

        tensors, _ = load_tensors(path)
        if "ws" not in tensors or tensors["ws"].ndim != 3:
            raise CheckpointError(f"{path}: not saved generator inputs: no tensor 'ws' of shape [B,L,C]")
        groups = {
            name: {k.removeprefix(f"{name}/"): v for k, v in tensors.items() if k.startswith(f"{name}/")} or None
            for name in GROUPS
        }
        return GeneratorInputs(tensors["ws"], **groups)


GROUPS = tuple(field.name for field in fields(GeneratorInputs) if field.name != "ws")


def _rows(x: Tensor, batch: int) -> Tensor:
    return x if x.shape[0] == batch else x.expand(batch, *x.shape[1:])


@dataclass(frozen=True)
class View:
    """What a term may look at: one step of one batch.

    image, target [B,3,H,W] in [-1,1]; mask [B,1,H,W] in [0,1] or None: outside it the image equals the target already;
    t in [0,1], the fraction of the stage that is done; step, its number; seeds, one an image: what a term draws at random
    depends on an image's own seed and the step alone.
    """

    image: Tensor
    target: Tensor
    inputs: GeneratorInputs
    variables: Variables
    t: float
    mask: Tensor | None = None
    seeds: tuple[int, ...] = ()
    step: int = 0
