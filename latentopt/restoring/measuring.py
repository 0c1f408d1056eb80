"""Measurements on their way to be restored: read, checked against the operator, or made of good pictures."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from latentopt.errors import ImageError, UsageError
from latentopt.files.shards import Shard, in_shard
from latentopt.inverting.items import Item, Unread, check_kind, check_mask, tensor_items
from latentopt.inverting.names import Beside, check_names, none_beside
from latentopt.inverting.placing import named_pictures
from latentopt.loop.building import build_operator, masked, wants_masks
from latentopt.loop.chain import Chain, blank
from latentopt.operators.call import Function
from latentopt.operators.mask import Mask, resized_mask
from latentopt.pictures.channels import LUMA, in_colour
from latentopt.pictures.images import Fit, TargetImage, read_image
from latentopt.protocols import Generator, Operator
from latentopt.statistics.streams import image_seed

PICTURE_CHANNELS = (1, 3, 4)
Exact = Literal["exact"]


@dataclass(frozen=True)
class Measuring:
    """What measures: an operator of the recipe's tables, or one that was `given` as it is."""

    generator: Generator
    tables: Sequence[dict]
    given: Operator | None = None

    def operator(self, mask: Tensor | None = None) -> Operator:
        """For images with the masks [B,1,H,W]."""
        given = None if self.given is None else masked(self.given, mask)
        found = given or build_operator(self.generator, self.tables, mask)
        if found is None:
            raise UsageError("nothing measures: name an operator, such as down:8; without one it is latentopt invert")
        return found

    @property
    def parts(self) -> Sequence[Operator]:
        """The operators one after the other."""
        operator = self.operator()
        return operator.operators if isinstance(operator, Chain) else [operator]

    @torch.no_grad()
    def shape(self) -> tuple[int, ...]:
        """Of one image's measurement, without the batch."""
        return tuple(self.operator()(blank(self.generator)).shape[1:])

    @torch.no_grad()
    def digest(self) -> str:
        """Tells two functions of one name apart: a hash of what is measured of a certain image."""
        shape = (1, self.generator.img_channels, *self.generator.resolution)
        probe = torch.rand(shape, generator=torch.Generator().manual_seed(0)) * 2 - 1
        measured = self.operator()(probe.to(self.generator.device)).float().cpu().round(decimals=3)
        return hashlib.sha256(measured.contiguous().numpy().tobytes()).hexdigest()[:16]

    def stand_in(self, measured: Tensor) -> Tensor:
        """A measurement [...] shown as a picture of the generator's size, [C,H,W], its parts in their places."""
        return stand_in(self.operator().shown(measured[None])[0], self.generator)

    @property
    def name(self) -> str:
        """In words, as on the command line."""
        if self.given is not None:
            return ",".join(part.name if isinstance(part, Function) else type(part).__name__ for part in self.parts)
        return ",".join(":".join(str(value) for value in table.values()) for table in self.tables)


def is_picture(shape: Sequence[int]) -> bool:
    """Whether measurements of that shape, without the batch, are pictures."""
    return len(shape) == 3 and shape[0] in PICTURE_CHANNELS


def stand_in(measured: Tensor, generator: Generator) -> Tensor:
    """A measurement [...] shown as a picture of the generator's size, [C,H,W]: stretched; grey where it is none."""
    if not is_picture(measured.shape):
        return blank(generator)[0].cpu()
    shown = interpolate(measured[None].float(), generator.resolution, mode="bilinear", antialias=True)
    return _with_channels(shown, generator.img_channels)[0].clamp(-1, 1)


def _with_channels(image: Tensor, channels: int) -> Tensor:
    """[B,C,H,W] with another number of channels."""
    if image.shape[1] == channels:
        return image
    colours = in_colour(image)
    if channels == 1:
        return (colours * colours.new_tensor(LUMA).reshape(3, 1, 1)).sum(dim=1, keepdim=True)
    return colours if channels == 3 else torch.cat([colours, torch.ones_like(colours[:, :1])], dim=1)


def items_of(
    measuring: Measuring,
    images: Tensor | str | Path | Sequence[str | Path],
    names: Sequence[str] | None,
    seed: int,
    simulate: bool,
    fit: Fit | Exact,
    folder: Path | None,
    mask: Tensor | None = None,
    shard: Shard | None = None,
    beside: Beside = none_beside,
) -> list[Item | Unread]:
    """The measurements to work on; `images` are these or, to `simulate`, the pictures that they are made of. mask
    [B or 1,1,H,W]: what was seen of the pictures (tensors only); shard: only those of a part; beside: the names of a
    picture's further results.

    Raises UsageError for what cannot be meant.
    """
    if names is not None:
        check_names(names)
    check_kind(images)
    if isinstance(images, Tensor):
        found = _tensor_items(measuring, images, names, seed, simulate, mask)
        return [item for item in found if in_shard(item.name, shard)]
    if mask is not None:
        raise UsageError(
            "mask= goes with measurements given as a tensor; for files, operator mask takes their transparency, and "
            "mask:FILE one mask for all"
        )
    if not simulate and not is_picture(measuring.shape()):
        raise UsageError(
            f"operator {measuring.name}: its measurements {list(measuring.shape())} are no pictures; give them to "
            "latentopt.restore in Python as a tensor, or --simulate them of good pictures"
        )
    sources = named_pictures(images, names, [] if folder is None else [folder], shard, beside)
    read = _reader(measuring, seed, simulate, fit)
    return [Unread(key, str(s.path), partial(read, s.path, key)) for s, key in sources]


def _tensor_items(
    measuring: Measuring,
    images: Tensor,
    names: Sequence[str] | None,
    seed: int,
    simulate: bool,
    mask: Tensor | None,
) -> list[Item]:
    generator = measuring.generator
    wanted = (generator.img_channels, *generator.resolution) if simulate else measuring.shape()
    what = "images" if simulate else f"measurements by {measuring.name}"
    if images.ndim < 2 or tuple(images.shape[1:]) != wanted:
        raise UsageError(f"{what} are [B, {', '.join(map(str, wanted))}] for this generator, not {list(images.shape)}")
    if not images.isfinite().all():
        raise UsageError(f"these {what} hold values that are not finite numbers")
    if names is not None and len(names) != len(images):
        raise UsageError(f"{len(names)} names for {len(images)} images")
    if mask is not None:
        shape = [1, *generator.resolution]
        mask = mask.expand(len(images), *shape) if list(mask.shape) == [1, *shape] else mask
        check_mask(mask, [len(images), *shape])
    if simulate:
        items = tensor_items(images, names, mask)
        return [replace(i, target=_simulated(measuring, i.target, image_seed(seed, i.name))) for i in items]
    found = []
    for i, measured in enumerate(images.detach().float().cpu()):
        name = f"{i:04d}" if names is None else names[i]
        own = None if mask is None else mask[i].detach().float().cpu()
        digest = hashlib.sha256(measured.contiguous().numpy().tobytes())
        digest.update(b"" if own is None else own.contiguous().numpy().tobytes())
        shown = measuring.stand_in(measured)
        target = TargetImage(shown, own, (), digest.hexdigest(), generator.resolution, measured)
        found.append(Item(name, name, target))
    return found


def _reader(measuring: Measuring, seed: int, simulate: bool, fit: Fit | Exact) -> Callable[[Path, str], TargetImage]:
    generator = measuring.generator
    last = measuring.parts[-1]
    alpha: Literal["mask", "composite"] = "mask" if any(map(wants_masks, measuring.parts)) else "composite"
    cut: Fit = "crop" if fit == "exact" else fit

    def read_truth(path: Path, key: str) -> TargetImage:
        channels = generator.img_channels
        masks = alpha == "mask"
        target = read_image(path, generator.resolution, fit=cut, alpha=alpha, channels=channels, uncovered=masks)
        if target.mask is not None:
            target = replace(target, notes=(*target.notes, "the truth is what its file has beneath the transparency"))
        return _simulated(measuring, target, image_seed(seed, key))

    def read_measurement(path: Path, key: str) -> TargetImage:
        channels, *size = measuring.shape()
        target = read_image(path, (size[0], size[1]), fit=cut, alpha=alpha, channels=channels, any_shape=True)
        if fit == "exact" and list(target.original_size) != size:
            is_so, wanted = ("x".join(map(str, sides)) for sides in (target.original_size, size))
            raise ImageError(
                f"{path}: {is_so} pixels (height x width); what {measuring.name} makes of this generator's pictures "
                f"has {wanted}. Give a picture of that size, --fit crop to resize it, or --simulate if it is a good "
                "picture that is to be degraded first"
            )
        measured, mask = target.image, None
        if target.mask is not None:
            mask = resized_mask(target.mask[None], generator.resolution)[0]
            measured = measured * target.mask  # grey, as what is hidden of the drawn picture
        elif isinstance(last, Mask):
            measured = last(measured[None].to(generator.device))[0].cpu()
        return replace(target, image=measuring.stand_in(measured), mask=mask, measured=measured)

    return read_truth if simulate else read_measurement


@torch.no_grad()
def _simulated(measuring: Measuring, target: TargetImage, seed: int) -> TargetImage:
    """The true picture replaced by what is measured of it."""
    mask = None if target.mask is None else target.mask[None].to(measuring.generator.device)
    truth = target.image[None].to(measuring.generator.device)
    measured = measuring.operator(mask).simulate(truth, (seed,))[0].float().cpu()
    return replace(target, image=measuring.stand_in(measured), measured=measured, truth=target.image)
