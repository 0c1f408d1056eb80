"""The values that flow through latentopt. B images, L = num_ws, C = w_dim."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from latentopt.errors import CheckpointError

Variables = dict[str, Tensor]
"""What is optimised: named leaf tensors, first dimension B (or 1 where all images share one)."""

LayerTensors = Mapping[str, Tensor]


@dataclass(frozen=True)
class GeneratorInputs:
    """Everything a generator needs to draw images, changed weights included.

    ws         [B,L,C]                             one style vector per layer
    noise      {layer: [B or 1,1,h,w]} or None     explicit noise maps; other layers follow the noise mode
    deltas     {weight: [B or 1,*shape]} or None   added to the generator's weights; 1 = one delta for all images
    styles     {layer: [B,I] or [B,O,I]} or None   in place of the layer's affine output; [B,O,I]: one style a filter;
                                                   under the name `+layer` (ADDS): added to it
    residuals  {activation: [B,c,h,w]} or None     added to a layer's or a block's output; zero means untouched
    transform  [B,3,3] or None                     the move of the picture, drawn by the network (StyleGAN3 alone has
                                                   one); see `latentopt.geometry.moves`

    Files written before residuals were added held whole outputs (`features`). They are read as residuals under the name
    `=activation` (REPLACES), which still replaces the output: such a result is drawn as it was.
    """

    ws: Tensor
    noise: LayerTensors | None = None
    deltas: LayerTensors | None = None
    styles: LayerTensors | None = None
    residuals: LayerTensors | None = None
    transform: Tensor | None = None

    def __len__(self) -> int:
        return self.ws.shape[0]

    def replace(self, **changes: Any) -> GeneratorInputs:
        return replace(self, **changes)

    def map(self, function: Callable[[Tensor], Tensor]) -> GeneratorInputs:
        """`function` on every tensor."""
        groups = {
            name: None if group is None else {k: function(v) for k, v in group.items()} for name, group in self.groups
        }
        transform = None if self.transform is None else function(self.transform)
        return GeneratorInputs(function(self.ws), **groups, transform=transform)

    @property
    def groups(self) -> list[tuple[str, LayerTensors | None]]:
        """The fields that hold several tensors by name, with their names."""
        return [(name, getattr(self, name)) for name in GROUPS]

    def index(self, rows: Tensor | Sequence[int]) -> GeneratorInputs:
        """The images in `rows`; entries shared by all images (first dimension 1) stay shared."""
        rows = torch.as_tensor(rows, device=self.ws.device)
        if len(self) == 1:
            return self.map(lambda x: x[rows])
        return self.map(lambda x: x if x.shape[0] == 1 else x[rows])

    def with_latents(self, ws: Tensor) -> GeneratorInputs:
        """One image's inputs with each of the latents ws [V,L,C]; all its other fields are shared by the V images."""

        def shared(group: LayerTensors | None) -> LayerTensors | None:
            return None if group is None else {name: x.expand(len(ws), *x.shape[1:]) for name, x in group.items()}

        transform = None if self.transform is None else self.transform.expand(len(ws), 3, 3)
        return replace(self, ws=ws, styles=shared(self.styles), residuals=shared(self.residuals), transform=transform)

    def without_residual(self, layer: str) -> GeneratorInputs:
        """The same without what is added at an activation."""
        if self.residuals is None or layer not in self.residuals:
            return self
        return replace(self, residuals={name: x for name, x in self.residuals.items() if name != layer} or None)

    def changed(self, after: GeneratorInputs) -> frozenset[str]:
        """What `after`, which was made of these, has another tensor for: `ws`, `transform`, `deltas/<weight>`, ..."""
        found = {name for name in ("ws", "transform") if getattr(self, name) is not getattr(after, name)}
        for name, group in self.groups:
            old, new = group or {}, getattr(after, name) or {}
            found |= {f"{name}/{key}" for key in old.keys() | new.keys() if old.get(key) is not new.get(key)}
        return frozenset(found)

    def to(self, where: torch.device | torch.dtype | str) -> GeneratorInputs:
        """Every tensor on that device, or in that type."""
        return self.map(lambda x: x.to(where))

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
        if len({part.transform is None for part in parts}) != 1:
            raise ValueError("cannot join inputs of which only some have a transform")
        moves = [_rows(part.transform, len(part)) for part in parts if part.transform is not None]
        return GeneratorInputs(
            torch.cat([part.ws for part in parts]), **groups, transform=torch.cat(moves) if moves else None
        )

    def save(self, path: Path, metadata: Mapping[str, str] | None = None) -> None:
        """Write a safetensors file whose tensors are `ws`, `transform`, `noise/<layer>`, `deltas/<weight>`, ...: one
        folder a field.
        """
        from latentopt.files.storage import save_tensors

        tensors = {"ws": self.ws} | ({} if self.transform is None else {"transform": self.transform})
        for name, group in self.groups:
            tensors |= {f"{name}/{key}": value for key, value in (group or {}).items()}
        save_tensors(path, tensors, metadata)

    @staticmethod
    def load(path: Path) -> GeneratorInputs:
        """Read what `save` wrote, now or in an earlier release, as float32.

        Raises CheckpointError for a file of another kind, and for values that cannot be inputs of any generator.
        """
        from latentopt.files.storage import load_tensors

        tensors, _ = load_tensors(path)
        if "ws" not in tensors or tensors["ws"].ndim != 3 or not len(tensors["ws"]):
            raise CheckpointError(f"{path}: not saved generator inputs: no tensor 'ws' of shape [B,L,C]")
        check_tensors(tensors, len(tensors["ws"]), str(path))
        return GeneratorInputs.from_tensors(tensors).to(torch.float32)

    @staticmethod
    def from_tensors(tensors: Mapping[str, Tensor]) -> GeneratorInputs:
        """The inputs whose tensors have the names of a file's: `ws`, `noise/<layer>`, ..."""
        names = {f"residuals/{REPLACES}{k.removeprefix(EARLIER)}" if k.startswith(EARLIER) else k: k for k in tensors}
        groups = {
            group: {k.removeprefix(f"{group}/"): tensors[v] for k, v in names.items() if k.startswith(f"{group}/")}
            or None
            for group in GROUPS
        }
        return GeneratorInputs(tensors["ws"], **groups, transform=tensors.get("transform"))


@dataclass(frozen=True)
class Beginning:
    """What a generator has drawn of its coarse part, for images of which only something finer changes.

    after  the block that it ends with; x [B,c,h,w] and image [B,img_channels,h,w] (if there is one yet) come out of it
    """

    after: str
    x: Tensor
    image: Tensor | None = None

    def index(self, rows: Tensor) -> Beginning:
        return Beginning(self.after, self.x[rows], None if self.image is None else self.image[rows])

    @staticmethod
    def cat(parts: Sequence[Beginning]) -> Beginning:
        images = [part.image for part in parts if part.image is not None]
        x = torch.cat([part.x for part in parts])
        return Beginning(parts[0].after, x, torch.cat(images) if images else None)


@dataclass(frozen=True, eq=False)
class Face:
    """A face in a photograph: its points [4,2] (`latentopt.faces.quads.POINTS`), and how sure it is, in [0,1]."""

    points: Tensor
    score: float


REPLACES = "="
ADDS = "+"
EARLIER = "features/"
GROUPS = ("noise", "deltas", "styles", "residuals")
FIELDS = tuple(each.name for each in fields(GeneratorInputs))


def place_of(name: str) -> str:
    """The layer or activation that an entry of `styles` or `residuals` is for."""
    return name.removeprefix(REPLACES).removeprefix(ADDS)


def check_tensors(tensors: Mapping[str, Any], images: int, where: str) -> None:
    """Raise CheckpointError, naming `where`, for what cannot be the saved inputs of so many images of any generator."""
    for name, x in tensors.items():
        if not isinstance(x, Tensor) or not x.is_floating_point() or not x.float().isfinite().all():
            raise CheckpointError(f"{where}: {name} holds values that are not finite numbers; the file is damaged")
        if x.ndim < 2 or len(x) not in (1, images):
            raise CheckpointError(f"{where}: {name} is {list(x.shape)}, not one for each image or for all")


def _rows(x: Tensor, batch: int) -> Tensor:
    return x if x.shape[0] == batch else x.expand(batch, *x.shape[1:])


@dataclass(frozen=True)
class View:
    """What a term may look at: one step of one batch.

    image, target  [B,3,H,W] in [-1,1], or what the stage's operator makes of both; where no term looks at the image
                   (`Term.sees_image`), it is not drawn, and the target stands for it
    mask           [B,1,H,W] in [0,1] or None; outside it the image equals the target already
    t              in [0,1], the fraction of the stage that is done; step is its number
    seeds          one an image: what a term draws at random depends on an image's own seed and the step alone
    features       {activation: [B,c,h,w]}: those that the stage's terms ask for (`Term.activations`)
    remembered     {name: [B,...]}: what the term that looks remembers of each image (`Term.follow`)
    """

    image: Tensor
    target: Tensor
    inputs: GeneratorInputs
    variables: Variables
    t: float
    mask: Tensor | None = None
    seeds: tuple[int, ...] = ()
    step: int = 0
    features: LayerTensors = field(default_factory=dict)
    remembered: LayerTensors = field(default_factory=dict)
