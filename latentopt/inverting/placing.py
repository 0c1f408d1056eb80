"""Which pictures are worked on, or which squares of them, each with the name of its result."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from latentopt.errors import UsageError
from latentopt.faces.aligner import Aligner, Placed, placed
from latentopt.files.shards import Shard, in_shard
from latentopt.inverting.names import Beside, Picture, file_hash, free_names, none_beside
from latentopt.pictures.finding import ImageSource, find_images
from latentopt.protocols import Generator
from latentopt.watching.phases import phase

Images = str | Path | Sequence[str | Path]


def named_pictures(
    images: Images,
    names: Sequence[str] | None,
    folders: Sequence[Path],
    shard: Shard | None = None,
    beside: Beside = none_beside,
) -> list[tuple[ImageSource, str]]:
    """Pictures with the names of their results; names, folders and shard as for `latentopt.inverting.items.items_of`.
    beside: the names of a picture's further results.

    Raises UsageError for another number of names.
    """
    places = [Placed(source, source.key) for source in _sources(images)]
    return [(place.source, key) for place, key in _named(places, names, folders, shard, beside)]


def named_places(
    images: Images,
    names: Sequence[str] | None,
    folders: Sequence[Path],
    shard: Shard | None,
    generator: Generator,
    align: Aligner | None,
) -> list[tuple[Placed, str]]:
    """What is cut out of pictures for a generator, or these as they are, with the names of the results.

    Faces are looked for in all pictures, and then those of the part are kept: how many a picture has says what they are
    named. Raises UsageError for another number of names, and where squares would be cut out and the generator's
    pictures are none.
    """
    return _named(_places(_sources(images), generator, align), names, folders, shard)


def _sources(images: Images) -> list[ImageSource]:
    return find_images([images] if isinstance(images, str | Path) else list(images))


def _places(sources: Sequence[ImageSource], generator: Generator, align: Aligner | None) -> list[Placed]:
    """What is cut out of each picture. Raises UsageError where that would be square and the generator's are not."""
    if align is None or align.idle:
        return [Placed(source, source.key) for source in sources]
    height, width = generator.resolution
    if height != width:
        raise UsageError(f"{generator.name} draws {width}x{height} pixels, and aligned pictures are square")
    with phase("aligning", len(sources), "pictures") as advance:
        return list(placed(sources, align, advance))


def _named(
    places: Sequence[Placed],
    names: Sequence[str] | None,
    folders: Sequence[Path],
    shard: Shard | None,
    beside: Beside = none_beside,
) -> list[tuple[Placed, str]]:
    """Those of the part, each with the name of its result. Raises UsageError for another number of names."""
    if names is not None:
        if len(names) != len(places):
            raise UsageError(f"{len(names)} names for {len(places)} pictures")
        return [(place, name) for place, name in zip(places, names, strict=True) if in_shard(name, shard)]
    own = [place for place in places if in_shard(place.key, shard)]
    pictures = [Picture(place.key, place.source.path, partial(file_hash, place.source.path)) for place in own]
    return list(zip(own, free_names(pictures, folders, beside), strict=True))
