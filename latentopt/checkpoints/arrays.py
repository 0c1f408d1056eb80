"""Arrays in files of other tools, told by content: `.npy`, `.npz`, torch files and safetensors. Nothing is run.

What comes out is a tensor, or lists and dicts of tensors and plain values; what they mean is for others to say.
"""

from __future__ import annotations

import json
import math
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import torch
from torch import Tensor

from latentopt.checkpoints.npz import check_archive
from latentopt.checkpoints.persistence import ArrayRecord, Record
from latentopt.checkpoints.restricted_pickle import read_torch_contents
from latentopt.checkpoints.weights import looks_like
from latentopt.errors import CheckpointError, UntrustedFileError
from latentopt.files.kinds import Kind, check_file, kind_of, refusal
from latentopt.files.storage import load_tensors
from latentopt.files.text import one_line
from latentopt.types import GROUPS

ARRAY_LIMIT = 1 << 30  # bytes; 27,000 latents of a 1024x1024 generator
PICTURE_REMEDY = "run latentopt invert first, and give its result"
NETWORKS = (b"torch_utils", b"dnnlib", b"legacy")  # modules that pickled networks name
LISTED = 4  # entries named in a message
DEEPEST = 6


@dataclass(frozen=True)
class Arrays:
    """`contents`: a tensor, or lists and dicts of tensors and plain values. `metadata`: those of a safetensors file.
    `left_out`: entries that are Python objects, or of no kind of number that torch has.
    """

    contents: Any
    metadata: Mapping[str, str] = field(default_factory=dict)
    left_out: tuple[str, ...] = ()


def read_arrays(source: str | Path, wanted: str) -> Arrays:
    """The arrays of a file of any kind that is read. `wanted`: what they should be, such as "latents", for messages.

    Raises UntrustedFileError, with how to save them again, for pickled arrays, and CheckpointError, naming what it is
    and the remedy, for a file of another kind, a damaged one, and one of more than `ARRAY_LIMIT` bytes.
    """
    path = check_file(source, wanted)
    kind = kind_of(path)
    if kind.name in READERS and (size := path.stat().st_size) > ARRAY_LIMIT:
        raise CheckpointError(f"{path}: {size:,} bytes are too many for {wanted} (limit {ARRAY_LIMIT:,}); split it")
    if kind.name == "pickle":
        _refuse_pickle(path, wanted)
    if kind.name not in READERS:
        raise CheckpointError(refusal(path, wanted, _told(kind, wanted)))
    arrays = READERS[kind.name](path, wanted)
    if model := model_words(arrays):
        raise CheckpointError(f"{path}: {model}, not {wanted}; models are given with --network")
    return arrays


def _told(kind: Kind, wanted: str) -> Kind:
    inverted = kind.name == "picture" and wanted == "latents"
    return Kind(kind.name, kind.words, PICTURE_REMEDY) if inverted else kind


def model_words(arrays: Arrays) -> str | None:
    """What a file of weights is, in words; None for what looks like no model."""
    contents, form = arrays.contents, arrays.metadata.get("format", "")
    if form in ("latentopt-generator-1", "latentopt-discriminator-1"):
        return f"a {form.split('-')[1]} of latentopt"
    if isinstance(contents, Record) or (
        isinstance(contents, dict) and any(isinstance(value, Record) for value in contents.values())
    ):
        return "a model (NVIDIA's)"
    if not isinstance(contents, dict):
        return None
    inner = [key for key, value in contents.items() if isinstance(value, dict) and _has_weights(value)]
    if inner:
        return f"a model (it has weights under {one_line(str(inner[0]))!r})"
    if "ws" in contents:  # saved inputs of ours, whose `deltas/` are called after weights
        contents = {key: x for key, x in contents.items() if str(key).partition("/")[0] not in GROUPS}
    return looks_like([str(key) for key in contents]) if _has_weights(contents) else None


def _has_weights(state: Mapping[Any, Any]) -> bool:
    return any(str(key).endswith((".weight", ".bias")) and isinstance(x, Tensor) for key, x in state.items())


def _read_npy(path: Path, wanted: str) -> Arrays:
    try:
        with path.open("rb") as stream:
            version = np.lib.format.read_magic(stream)
            read_header = np.lib.format.read_array_header_1_0
            if version != (1, 0):
                read_header = np.lib.format.read_array_header_2_0
            shape, _, dtype = read_header(stream)
            held = path.stat().st_size - stream.tell()
    except Exception as error:  # numpy parses the header as Python: ValueError, SyntaxError, TokenError, ...
        raise CheckpointError(f"{path}: a damaged .npy file ({one_line(str(error))[:200]}); get it again") from error
    if dtype.hasobject:
        held_in = "numpy.load({file}, allow_pickle=True)"
        how = f"d = {held_in}.item(); {_NAMED}" if shape == () else f"d = {held_in}; numpy.savez({{to}}, *d)"
        _refuse_objects(path, "a pickled dict or other Python objects", f"import numpy; {how}")
    if (wants := math.prod(shape) * dtype.itemsize) > held:
        raise CheckpointError(f"{path}: not whole: {held:,} of {wants:,} bytes of numbers; get it again")
    try:
        return Arrays(_tensor(np.load(path, allow_pickle=False)))
    except (ValueError, EOFError, OSError, MemoryError) as error:
        raise CheckpointError(f"{path}: a damaged .npy file ({one_line(str(error))[:200]}); get it again") from error


def _read_npz(path: Path, wanted: str) -> Arrays:
    found: dict[str, object] = {}
    left: list[str] = []
    try:
        check_archive(path)
        with np.load(path, allow_pickle=False) as arrays:
            for name in arrays.files:
                try:
                    found[name] = _tensor(arrays[name])
                except ValueError as error:
                    if "allow_pickle" not in str(error):
                        raise
                    left.append(f"{name!r} (Python objects)")
    except CheckpointError:
        raise
    except Exception as error:  # zipfile, zlib, tokenize and numpy each raise their own kinds for a damaged file
        raise CheckpointError(f"{path}: a damaged .npz file ({one_line(str(error))[:200]}); get it again") from error
    if left and not found:
        how = "import numpy; d = numpy.load({file}, allow_pickle=True); "
        how += "numpy.savez({to}, **{{k: numpy.array(v.tolist()) for k, v in d.items()}})"
        _refuse_objects(path, "arrays of Python objects", how)
    if list(found) == [f"arr_{i}" for i in range(len(found))] and found:  # numpy's names for arrays without one
        return Arrays(list(found.values()) if len(found) > 1 else found["arr_0"], left_out=tuple(left))
    return Arrays(found, left_out=tuple(left))


def _tensor(array: np.ndarray) -> object:
    """Numbers as a tensor; a single number and texts as they are; other arrays as arrays."""
    if array.dtype.kind in "US":
        return array.tolist()
    if array.ndim == 0 and array.dtype.kind in "biuf":
        return array.item()
    if array.dtype.kind == "f" and array.dtype.itemsize > 8:
        array = array.astype(np.float64)
    if array.dtype.kind not in "biufc":
        return array
    return torch.from_numpy(np.array(array, dtype=array.dtype.newbyteorder("="), order="C"))


def _read_torch(path: Path, wanted: str) -> Arrays:
    try:
        return Arrays(_plain(read_torch_contents(path), DEEPEST))
    except UntrustedFileError:
        how = 'import numpy, torch; d = torch.load({file}, map_location="cpu", weights_only=False); ' + _NAMED
        _refuse_objects(path, "more than tensors", how)


def _plain(contents: Any, depth: int) -> Any:
    """The same with numpy's arrays as tensors."""
    if isinstance(contents, ArrayRecord):
        return None if contents.array is None else _tensor(contents.array)
    if isinstance(contents, dict) and depth:
        return {key: _plain(value, depth - 1) for key, value in contents.items()}
    if isinstance(contents, list | tuple) and depth:
        return [_plain(value, depth - 1) for value in contents]
    return contents


def _read_safetensors(path: Path, wanted: str) -> Arrays:
    return Arrays(*load_tensors(path))


READERS = {
    "npy": _read_npy,
    "npz": _read_npz,
    "torch": _read_torch,
    "torch-legacy": _read_torch,
    "safetensors": _read_safetensors,
}
_NAMED = "numpy.savez({to}, **{{str(k): v for k, v in d.items()}})"


def _refuse_pickle(path: Path, wanted: str) -> NoReturn:
    with path.open("rb") as stream:
        start = stream.read(1 << 20)
    if any(module in start for module in NETWORKS):
        raise CheckpointError(f"{path}: a model (NVIDIA's pickle), not {wanted}; models are given with --network")
    how = 'import numpy, pickle; d = pickle.load(open({file}, "rb")); '
    how += _NAMED if _first_opcode(start) == b"}" else "numpy.savez({to}, numpy.array(d))"
    _refuse_objects(path, "a Python pickle", how)


def _first_opcode(start: bytes) -> bytes:
    """The first opcode that makes something: `}` is a dict."""
    body = start[2:] if start[:1] == b"\x80" else start
    body = body[9:] if body[:1] == b"\x95" else body  # a frame and its length
    return body.lstrip(b"(")[:1]


def _refuse_objects(path: Path, what: str, how: str) -> NoReturn:
    """`how`: Python that saves the arrays again, {file} and {to} left open."""
    to = path.with_suffix(".npz")
    to = to.with_name(f"{to.stem}-arrays.npz") if to.exists() else to
    code = how.format(file=json.dumps(str(path)), to=json.dumps(str(to)))
    raise UntrustedFileError(
        f"{path}: {what}, which could run code; refused, and nothing was run. If you trust its source, save the arrays "
        f"again:\n  python -c {shlex.quote(code)}\nand give {to}"
    )


def summary(contents: Any) -> str:
    """What is there, in a few words, for messages."""
    if isinstance(contents, Tensor):
        return f"{str(contents.dtype).removeprefix('torch.')} {list(contents.shape)}"
    if isinstance(contents, np.ndarray):
        return f"{contents.dtype} {list(contents.shape)}"
    if isinstance(contents, dict):
        inner = [f"{one_line(repr(str(key)[:40]))}: {summary(value)}" for key, value in list(contents.items())[:LISTED]]
        more = ", ..." if len(contents) > LISTED else ""
        return f"a dict of {', '.join(inner)}{more}" if inner else "an empty dict"
    if isinstance(contents, list | tuple):
        first = f" of {summary(contents[0])}" if contents else ""
        return f"a list of {len(contents)}{first}" if first else "an empty list"
    return type(contents).__name__
