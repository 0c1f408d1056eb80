"""Files that operators read: one value a pixel, from a picture or an array."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from latentopt.errors import ImageError, UsageError
from latentopt.pictures.channels import to_grey
from latentopt.pictures.decoding import MAX_PIXELS, decode


def levels_of(path: Path) -> np.ndarray:
    """What is in a picture or a .npy file: [h,w]. Of a picture the opacity, where parts are transparent, else the grey
    levels, both in [0,1].

    Raises ImageError for a file that is not there or cannot be read, UsageError for an array that is no such thing.
    """
    if path.suffix == ".npy":
        return _array(path)
    picture = decode(path, None, MAX_PIXELS, any_shape=True)
    if picture.alpha is not None:
        return np.asarray(picture.alpha, np.float32) / 255
    return to_grey(np.stack([np.asarray(channel, np.float32) for channel in picture.channels]))[0] / 255


def _array(path: Path) -> np.ndarray:
    try:
        values = np.load(path, allow_pickle=False)
    except (OSError, ValueError) as error:
        raise ImageError(f"{path}: not a readable .npy array ({error})") from error
    if not isinstance(values, np.ndarray) or values.ndim != 2 or values.dtype.kind not in "fiub":
        raise UsageError(f"{path}: wanted is an array [h,w] of numbers")
    if values.size > MAX_PIXELS:
        raise UsageError(f"{path}: {values.size} values, more than {MAX_PIXELS}")
    return values.astype(np.float32)
