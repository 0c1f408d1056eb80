"""A folder of pictures as training data: read once, kept as one 8-bit array."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np

from latentopt.errors import ImageError
from latentopt.files.schema import parse_json, read_text
from latentopt.files.storage import write_atomically, write_text
from latentopt.pictures.finding import find_images, passed_over
from latentopt.pictures.images import read_image, to_uint8


def folder_images(folder: Path, cache: Path, resolution: int) -> tuple[np.ndarray, list[str]]:
    """The pictures of `folder`, centre-cropped and resized: uint8 [n,3,H,W], memory-mapped; and what was skipped.

    The array lies in `cache`, the list beside it; their name holds the files' names, sizes and times, so that a changed
    folder is read again. Raises ImageError when no picture can be read, or the array is damaged.
    """
    sources = find_images([folder])
    digest = hashlib.sha256(str(resolution).encode())
    for source in sources:
        stat = source.path.stat()
        digest.update(f"{source.path}:{stat.st_size}:{stat.st_mtime_ns}\n".encode(errors="surrogateescape"))
    path = cache / f"folder-{resolution}px-{digest.hexdigest()[:16]}.npy"
    notes = path.with_suffix(".json")
    if not path.exists() or not notes.exists():
        images = []
        skipped = [others] if (others := passed_over([folder])) else []
        for source in sources:
            try:
                image = read_image(source.path, (resolution, resolution)).image
            except ImageError as error:
                skipped.append(str(error))
                continue
            images.append(np.moveaxis(to_uint8(image), -1, 0))
        if not images:
            raise ImageError(f"{folder}: none of its {len(sources)} pictures can be read")
        write_atomically(path, lambda temporary: np.save(temporary, np.stack(images)))
        write_text(notes, json.dumps(skipped))
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
        if array.dtype != np.uint8 or array.ndim != 4 or array.shape[1:] != (3, resolution, resolution):
            raise ValueError(f"{array.dtype} {array.shape}")
        return array, parse_json(read_text(notes), list[str])
    except Exception as error:  # numpy raises ValueError, OSError, EOFError, SyntaxError ... for damaged files
        raise ImageError(
            f"{path} or {notes.name} is damaged ({error}): delete both, and the folder is read again"
        ) from error
