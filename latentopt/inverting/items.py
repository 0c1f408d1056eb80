"""Images on their way to be inverted: read, or still to be read."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from os import PathLike
from pathlib import Path

from torch import Tensor

from latentopt.errors import CheckpointError, ImageError, UsageError
from latentopt.faces.aligner import Aligner, Placed
from latentopt.faces.cutting import cut
from latentopt.files.shards import Shard, in_shard
from latentopt.inverting.events import Failed, Finished
from latentopt.inverting.names import check_names
from latentopt.inverting.placing import named_places
from latentopt.pictures.finding import ImageSource
from latentopt.pictures.images import Alpha, Fit, TargetImage, read_image
from latentopt.protocols import Generator
from latentopt.results.inversion import Inversion, read_run
from latentopt.types import GeneratorInputs

LARGEST_VALUE = 2.0  # of an image in [-1,1], which resizing may have let overshoot
WARNING = "looks "  # how the preflight's notes on a picture begin

Look = Callable[[ImageSource, TargetImage, bool], TargetImage]
"""What looks at a picture that was read (its source; whether it has a result already) and may add notes to it."""


@dataclass(frozen=True)
class Start:
    """Where the work on an image begins: an earlier result's inputs, batch of 1.

    `digest` identifies the inputs; `record` goes into the new result's manifest.
    """

    inputs: GeneratorInputs
    digest: str
    record: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True)
class Item:
    """One image to invert: `name` is its result's place under the output folder, `source` where it came from.

    `start` is what a recipe whose first stage has init = "previous" begins with.
    """

    name: str
    source: str
    target: TargetImage
    start: Start | None = None


@dataclass(frozen=True)
class Unread:
    """An image that is read only when its turn comes, so that any number fits into memory. `read` may raise
    ImageError. `sha256` is that of its file, where it is known before.
    """

    name: str
    source: str
    read: Callable[[], TargetImage]
    start: Callable[[], Start] | None = None
    sha256: str = ""

    def item(self) -> Item:
        return Item(self.name, self.source, self.read(), None if self.start is None else self.start())


def read(waiting: Item | Unread) -> Item:
    """The image, read if it was not. Raises ImageError, or CheckpointError for its start."""
    return waiting.item() if isinstance(waiting, Unread) else waiting


def in_batches(
    waiting: Iterable[Item | Unread], size: int, done: Callable[[Item], Inversion | None]
) -> Iterator[list[Item] | Finished | Failed]:
    """Lists of `size` images to work on (the last may be shorter), as soon as they are read; and in between, what
    needs no work: images that an earlier run did (`done` gives their results), and those that cannot be read.
    """
    batch: list[Item] = []
    for entry in waiting:
        try:
            item = read(entry)
        except (ImageError, CheckpointError) as error:
            yield Failed(entry.name, entry.source, str(error), unreadable=True)
            continue
        if (inversion := done(item)) is not None:
            yield Finished(inversion, again=True)
            continue
        batch.append(item)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch


def tensor_items(images: Tensor, names: Sequence[str] | None = None, mask: Tensor | None = None) -> list[Item]:
    """Items from images [B,3,H,W] in [-1,1] that are the generator's size already; mask [B,1,H,W] in [0,1]."""
    items = []
    for i, image in enumerate(images.detach().float().cpu()):
        own_mask = None if mask is None else mask[i].detach().float().cpu()
        digest = hashlib.sha256(image.contiguous().numpy().tobytes())
        digest.update(b"" if own_mask is None else own_mask.contiguous().numpy().tobytes())
        target = TargetImage(image, own_mask, (), digest.hexdigest(), tuple(image.shape[1:]))
        name = f"{i:04d}" if names is None else names[i]
        items.append(Item(name, name, target))
    return items


def items_of(
    generator: Generator,
    images: Tensor | str | Path | Sequence[str | Path],
    names: Sequence[str] | None = None,
    mask: Tensor | None = None,
    fit: Fit = "crop",
    alpha: Alpha = "composite",
    look: Look | None = None,
    folders: Sequence[Path] = (),
    overwrite: bool = False,
    align: Aligner | None = None,
    shard: Shard | None = None,
) -> list[Item | Unread]:
    """The images to work on, given as for `latentopt.invert`; files are read when their turn comes.

    folders: where their results go. A picture without a name given gets one that no other picture's result has there,
    and one that has a result there is not looked at again, unless that is to be overwritten. align: what is cut out of
    files; faces are found before the first is worked on. shard: only those of a part, of faces by the names of these.
    Raises UsageError for what cannot be meant.
    """
    if names is not None:
        check_names(names)
    check_kind(images)
    if isinstance(images, Tensor):
        expected = (generator.img_channels, *generator.resolution)
        if images.ndim != 4 or tuple(images.shape[1:]) != expected:
            raise UsageError(
                f"images are {list(images.shape)}; this generator takes [B, {', '.join(map(str, expected))}]"
            )
        if names is not None and len(names) != len(images):
            raise UsageError(f"{len(names)} names for {len(images)} images")
        check_values(images, mask)
        return [item for item in tensor_items(images, names, mask) if in_shard(item.name, shard)]
    if mask is not None:
        raise UsageError(
            "mask= goes with images given as a tensor; transparent pictures: latentopt invert --alpha mask"
        )
    places = named_places(images, names, folders, shard, generator, align)
    reading = PictureReader(generator.resolution, generator.img_channels, fit, alpha, look, tuple(folders), overwrite)
    return [Unread(key, str(p.source.path), partial(reading, p, key, names is None)) for p, key in places]


@dataclass(frozen=True)
class PictureReader:
    """Reads pictures for a generator of a `resolution` (H,W) and so many `channels`; the rest is as for `items_of`. It
    can be sent to another process.
    """

    resolution: tuple[int, int]
    channels: int
    fit: Fit
    alpha: Alpha
    look: Look | None
    folders: tuple[Path, ...]
    overwrite: bool

    def __call__(self, place: Placed, key: str, found: bool) -> TargetImage:
        """found: the name was looked for, and not given. Raises ImageError, also where nothing can be cut out."""
        target = self._read(place)
        if key != place.key and found:
            note = f"its result is named {key}: {place.key} is another picture's"
            target = replace(target, notes=(*target.notes, note))
        earlier = None if self.overwrite else warnings_on_record(target, [folder / key for folder in self.folders])
        seen = target if self.look is None else self.look(place.source, target, earlier is not None)
        return replace(seen, notes=(*seen.notes, *(note for note in earlier or () if note not in seen.notes)))

    def _read(self, place: Placed) -> TargetImage:
        """The picture, or the square of it."""
        if place.error is not None:
            raise place.error
        where = place.alignment
        square = None if where is None else partial(cut, alignment=where, size=self.resolution[0])
        target = read_image(
            place.source.path, self.resolution, fit=self.fit, alpha=self.alpha, channels=self.channels, cut=square
        )
        return target if where is None else replace(target, alignment=where.record)


def check_kind(images: object) -> None:
    """Raise UsageError for what is neither a tensor of real numbers nor paths of pictures."""
    if isinstance(images, Tensor):
        if not images.is_floating_point():
            kind = str(images.dtype).removeprefix("torch.")
            raise UsageError(
                f"images are real numbers in [-1,1], not {kind} (levels in 0..255: x / 127.5 - 1; complex numbers: "
                "torch.view_as_real)"
            )
        return
    paths = [images] if isinstance(images, str | PathLike) else images
    if not isinstance(paths, Sequence) or not all(isinstance(path, str | PathLike) for path in paths):
        raise UsageError(f"images are a tensor [B,C,H,W] or paths of pictures, not {type(images).__name__}")


def check_values(images: Tensor, mask: Tensor | None) -> None:
    """Raise UsageError for images of another range than [-1,1], and for masks in which nothing counts."""
    if len(images) and images.abs().amax() > LARGEST_VALUE:
        raise UsageError(f"images have values up to {images.abs().amax():g}; they are given in [-1,1], not in 0..255")
    if mask is not None:
        check_mask(mask, [len(images), 1, *images.shape[2:]])


def check_mask(mask: Tensor, wanted: list[int]) -> None:
    """Raise UsageError for a mask that is not of that shape, or of which an image shows nothing."""
    if list(mask.shape) != wanted:
        raise UsageError(f"mask is {list(mask.shape)}; these images take {wanted}")
    if not ((mask >= 0) & (mask <= 1)).all():
        raise UsageError("mask holds values outside [0,1], of which 1 counts and 0 does not")
    if len(empty := [i for i, one in enumerate(mask) if not one.any()]):
        raise UsageError(f"mask of image {empty[0]} is zero everywhere: nothing of the image would count")


def warnings_on_record(target: TargetImage, folders: Sequence[Path]) -> list[str] | None:
    """What the preflight found of exactly this picture when an earlier result was made of it; None without one."""
    for folder in folders:
        with suppress(CheckpointError):
            run = read_run(folder)
            if run["source"]["sha256"] == target.sha256 and run.get("alignment") == target.alignment:
                return [note for note in run["source"]["notes"] if note.startswith(WARNING)]
    return None
