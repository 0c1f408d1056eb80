"""Reading foreign `.npz` files: no pickled objects, no more memory than a fixed limit."""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from latentopt.errors import CheckpointError, LatentoptError, UntrustedFileError
from latentopt.files.kinds import check_file, kind_of, refusal

WANTED = "an .npz file of arrays"
NPZ_LIMIT = 256 << 20  # bytes, inflated
# What numpy writes. Python inflates the others, bz2 and lzma, a block at a time, however large the block turns out.
NPZ_COMPRESSIONS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)


def read_npz(path: Path, names: Sequence[str]) -> dict[str, np.ndarray]:
    """The arrays of those names, of real numbers. Others in the file are not read.

    Raises UntrustedFileError for arrays of Python objects, and CheckpointError, naming the file, where an array is
    missing or holds no numbers, for a file that inflates to more than `NPZ_LIMIT`, and for what is no `.npz` file.
    """
    path = check_file(path, WANTED)
    if (kind := kind_of(path)).name != "npz":
        raise CheckpointError(refusal(path, WANTED, kind))
    try:
        check_archive(path)
        with np.load(path, allow_pickle=False) as arrays:
            if missing := [name for name in names if name not in arrays.files]:
                raise CheckpointError(f"{path}: holds no array {missing[0]!r}; expected {', '.join(names)}")
            found = {name: arrays[name] for name in names}
    except LatentoptError:
        raise
    except Exception as error:  # zipfile, zlib, tokenize and numpy each raise their own kinds for a damaged file
        if "allow_pickle" in str(error):
            raise UntrustedFileError(f"{path}: holds Python objects, which could run code; refused") from None
        raise CheckpointError(f"{path}: not a readable .npz file ({error})") from error
    for name, array in found.items():
        if not isinstance(array, np.ndarray) or array.dtype.kind not in "biuf":
            raise CheckpointError(f"{path}: {name!r} holds no real numbers")
    return found


def check_archive(path: Path) -> None:
    """Raise CheckpointError for a file that inflates to more than `NPZ_LIMIT`, or is compressed as numpy does not."""
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
    if sum(member.file_size for member in members) > NPZ_LIMIT:
        raise CheckpointError(f"{path}: inflates to more than {NPZ_LIMIT >> 20} MiB; refused")
    if any(member.compress_type not in NPZ_COMPRESSIONS for member in members):
        raise CheckpointError(f"{path}: compressed as numpy does not; save it again with numpy.savez")
