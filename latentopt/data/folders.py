"""A folder of pictures as training data: read once, kept as one 8-bit array."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np

from latentopt.errors import ImageError
from latentopt.images import find_images, read_image, to_uint8
from latentopt.storage import write_atomically


def folder_images(folder: Path, cache: Path, resolution: int) -> tuple[np.ndarray, list[str]]:
    """The pictures of `folder`, centre-cropped and resized: uint8 [n,3,H,W] (memory-mapped), and what was skipped and why.

    The array lies in `cache`; its name holds the files' names, sizes and times, so that a changed folder is read again.
    Raises ImageError when no picture can be read.
    """
    sources = find_images([folder])
    digest = hashlib.sha256(str(resolution).encode())
    for source in sources:
        stat = source.path.stat()
        digest.update(f"{source.path}:{stat.st_size}:{stat.st_mtime_ns}\n".encode(errors="surrogateescape"))
    path, skipped = cache / f"folder-{resolution}px-{digest.hexdigest()[:16]}.npy", []
    if not path.exists():
        images = []
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
    return np.load(path, mmap_mode="r", allow_pickle=False), skipped
