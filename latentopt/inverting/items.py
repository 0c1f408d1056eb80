"""Images on their way to be inverted: read, or still to be read."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from torch import Tensor

from latentopt.errors import CheckpointError, ImageError, UsageError
from latentopt.inverting.events import Failed, Finished
from latentopt.pictures.images import Alpha, Fit, ImageSource, TargetImage, find_images, read_image
from latentopt.protocols import Generator
from latentopt.results.inversion import Inversion
from latentopt.types import GeneratorInputs

LONGEST_NAME = 200  # bytes; a file system takes 255, and temporary names are longer than the file's
OWN_FILES = (".lock", ".resume", "summary.csv", "index.html", "grid.png", "steps.csv", "heat-maps.png")

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
    ImageError.
    """

    name: str
    source: str
    read: Callable[[], TargetImage]
    start: Callable[[], Start] | None = None

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


def check_names(names: Sequence[str], taken: Sequence[str] = OWN_FILES) -> None:
    """Raise UsageError for names that are no paths below the output folder, or that `taken` has: files of ours."""
    for name in names:
        if not isinstance(name, str):
            raise UsageError(f"names= are texts, not {name!r}")
        parts = name.split("/")
        try:
            long = max(len(part.encode()) for part in parts) > LONGEST_NAME
        except UnicodeEncodeError:
            raise UsageError(f"the name {name!a} has half a surrogate pair in it; choose another") from None
        if long or "\0" in name or "\\" in name or any(part in ("", ".", "..") for part in parts):
            raise UsageError(
                f"the name {name[:80]!a} is no path below the output folder: parts of 1 to {LONGEST_NAME} bytes "
                "joined by single slashes, without '.', '..', backslash or NUL"
            )
        if parts[0] in taken:
            raise UsageError(f"the name {name!r} is that of a file that latentopt writes itself; choose another")


def items_of(
    generator: Generator,
    images: Tensor | str | Path | Sequence[str | Path],
    names: Sequence[str] | None = None,
    mask: Tensor | None = None,
    fit: Fit = "crop",
    alpha: Alpha = "composite",
    look: Look | None = None,
    out: str | Path | None = None,
) -> list[Item | Unread]:
    """The images to work on, given as for `latentopt.invert`; files are read when their turn comes.

    `look` is told whether a picture has a result in `out` already. Raises UsageError for what cannot be meant.
    """
    if names is not None:
        check_names(names)
    if isinstance(images, Tensor):
        expected = (generator.img_channels, *generator.resolution)
        if images.ndim != 4 or tuple(images.shape[1:]) != expected:
            raise UsageError(
                f"images are {list(images.shape)}; this generator takes [B, {', '.join(map(str, expected))}]"
            )
        if names is not None and len(names) != len(images):
            raise UsageError(f"{len(names)} names for {len(images)} images")
        wanted = (len(images), 1, *generator.resolution)
        if mask is not None and tuple(mask.shape) != wanted:
            raise UsageError(f"mask is {list(mask.shape)}; these images take {list(wanted)}")
        return list(tensor_items(images, names, mask))
    if mask is not None:
        raise UsageError(
            "mask= goes with images given as a tensor; transparent pictures: latentopt invert --alpha mask"
        )
    sources = find_images([images] if isinstance(images, str | Path) else list(images))
    if names is not None and len(names) != len(sources):
        raise UsageError(f"{len(names)} names for {len(sources)} pictures")

    def picture(source: ImageSource, key: str) -> TargetImage:
        target = read_image(source.path, generator.resolution, fit=fit, alpha=alpha, channels=generator.img_channels)
        done = out is not None and (Path(out) / key / "run.json").is_file()
        return target if look is None else look(source, target, done)

    keys = [source.key for source in sources] if names is None else list(names)
    return [Unread(key, str(s.path), partial(picture, s, key)) for key, s in zip(keys, sources, strict=True)]
