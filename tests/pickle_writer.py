"""Writes pickle streams by name, well-formed or hostile, without the modules that the names belong to."""

from __future__ import annotations

import io
import pickle
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from latentopt.checkpoints.persistence import ArrayRecord, Record


@dataclass(frozen=True)
class Name:
    """A global, written as it stands."""

    module: str
    name: str

    def __call__(self) -> None:
        """The pickler wants callables."""


@dataclass(eq=False)
class Call:
    """REDUCE of a named global, with BUILD when there is a state."""

    function: Name
    arguments: tuple
    state: Any = None


@dataclass(eq=False)
class PersistentId:
    value: Any


PERSISTENT = Name("torch_utils.persistence", "_reconstruct_persistent_obj")
TENSOR = Name("torch._utils", "_rebuild_tensor_v2")
LOAD_FROM_BYTES = Name("torch.storage", "_load_from_bytes")


class EasyDict(dict):
    """Written as dnnlib.util.EasyDict, by NEWOBJ and SETITEMS."""


EasyDict.__module__ = "dnnlib.util"


def network(state: dict[str, Any], class_name: str = "Generator", version: int = 6, source: str = "raise") -> Call:
    """A persistence record; the tables that `state` does not give are empty."""
    tables = {"_parameters": {}, "_buffers": {}, "_modules": {}, "_non_persistent_buffers_set": set()}
    meta = {"type": "class", "version": version, "module_src": source, "class_name": class_name}
    return Call(PERSISTENT, ({**meta, "state": {**tables, **state}},))


class Writer(pickle._Pickler):
    """Protocols 2 to 5. `core` is how numpy's private package is spelled: core (numpy 1) or _core (numpy 2)."""

    def __init__(self, file: io.BytesIO, protocol: int, core: str) -> None:
        super().__init__(file, protocol)
        self.core = core

    def save(self, obj: Any, save_persistent_id: bool = True) -> None:
        module = getattr(obj, "__module__", "") if callable(obj) else ""
        if isinstance(obj, Name):
            self._save_name(obj.module, obj.name)
        elif isinstance(obj, type) and obj is EasyDict:
            self._save_name("dnnlib.util", "EasyDict")
        elif (module or "").startswith("numpy._core."):
            self._save_name(module.replace("_core", self.core), obj.__name__)
        elif isinstance(obj, PersistentId):
            self.save(obj.value)
            self.write(pickle.BINPERSID)
        elif isinstance(obj, ArrayRecord):
            self.save(obj.array)
        elif isinstance(obj, (Record, Call)) and id(obj) not in self.memo:
            call = rewritten(obj) if isinstance(obj, Record) else obj
            self.save_reduce(call.function, call.arguments, call.state, obj=obj)
        else:
            super().save(obj, save_persistent_id)

    def _save_name(self, module: str, name: str) -> None:
        if self.proto >= 4:
            super().save(module)
            super().save(name)
            self.write(pickle.STACK_GLOBAL)
        else:
            self.write(b"c" + f"{module}\n{name}\n".encode())


def rewritten(record: Record) -> Call:
    """A record as the original code writes it: parameters, ordered tables, EasyDict arguments."""
    state = dict(record.state)
    state["_parameters"] = OrderedDict(
        (name, value if value is None else torch.nn.Parameter(value, requires_grad=False))
        for name, value in state["_parameters"].items()
    )
    state["_modules"] = OrderedDict(state["_modules"])
    state["_init_kwargs"] = EasyDict(state["_init_kwargs"])
    return network(state, record.class_name)


def dumps(obj: Any, protocol: int = 3, core: str = "core") -> bytes:
    file = io.BytesIO()
    Writer(file, protocol, core).dump(obj)
    return file.getvalue()


def storage_blob(
    data: bytes,
    numel: int,
    *,
    kind: Name = Name("torch", "FloatStorage"),
    stated: int | None = None,
    keys: Sequence[str] = ("0",),
) -> bytes:
    """A legacy torch file with one storage. `stated` is the length in front of the data."""
    system = {
        "protocol_version": 1001,
        "little_endian": True,
        "type_sizes": {"short": 2, "int": 4, "long": 4},
    }
    reference = PersistentId(("storage", kind, "0", "cuda:0", numel, None))
    parts = [dumps(part, 2) for part in (0x1950A86A20F9469CFC6C, 1001, system, reference, list(keys))]
    return b"".join(parts) + (numel if stated is None else stated).to_bytes(8, "little") + data


def tensor_call(size: tuple, stride: tuple, offset: int = 0, blob: bytes | None = None) -> Call:
    """A tensor of the given geometry over a storage of 6 floats."""
    storage = Call(LOAD_FROM_BYTES, (storage_blob(bytes(24), 6) if blob is None else blob,))
    return Call(TENSOR, (storage, offset, size, stride, False, OrderedDict()))
