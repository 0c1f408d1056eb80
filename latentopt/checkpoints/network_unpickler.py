"""The networks inside foreign pickles: what each allowed global of a checkpoint is answered with.

No function of torch, numpy or a StyleGAN repository is called by name from the file: tensors, numpy values and
persistence records are rebuilt here, with every size checked against the data that is there.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import ClassVar, TypeGuard

import numpy as np
import torch
from torch import Tensor

from latentopt.checkpoints.persistence import ArrayRecord, Record
from latentopt.checkpoints.restricted_unpickler import Global, RestrictedUnpickler, printable
from latentopt.checkpoints.storages import Storage
from latentopt.errors import CheckpointError

MAX_DIMENSIONS = 16
PERSISTENCE_VERSION = 6

_NUMPY_KINDS = {"b1", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8"}

_EASY_DICT = Global("dnnlib.util", "EasyDict")
NETWORK_GLOBALS: dict[Global, str | None] = {
    Global("torch_utils.persistence", "_reconstruct_persistent_obj"): "persistent_object",
    _EASY_DICT: None,
    Global("collections", "OrderedDict"): "ordered_dict",
    Global("builtins", "set"): "make_set",
    Global("__builtin__", "set"): "make_set",
    Global("torch._utils", "_rebuild_parameter"): "parameter",
    Global("torch._utils", "_rebuild_tensor_v2"): "tensor",
    Global("_codecs", "encode"): "encode",
    Global("numpy", "dtype"): "dtype",
    Global("numpy", "ndarray"): None,
    **{
        Global(f"numpy.{core}.{module}", name): method
        for core in ("core", "_core")
        for module, name, method in (
            ("multiarray", "scalar", "scalar"),
            ("multiarray", "_reconstruct", "empty_array"),
            ("numeric", "_frombuffer", "array_from_buffer"),  # protocol 5, the default from Python 3.14
        )
    },
}


class NumpyType:
    """A numpy dtype by its name, "f8"; the byte order follows by BUILD."""

    __slots__ = ("kind", "order")

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.order = "="

    def numpy(self) -> np.dtype:
        return np.dtype(self.order + self.kind)


def is_counts(values: object) -> TypeGuard[tuple[int, ...]]:
    """Whether `values` is a short tuple of non-negative integers, as sizes and strides are."""
    return (
        type(values) is tuple
        and len(values) <= MAX_DIMENSIONS
        and all(type(n) is int and 0 <= n < 2**63 for n in values)
    )


class NetworkUnpickler(RestrictedUnpickler):
    """The outer level: persistence records, tensors, numpy scalars and arrays."""

    globals = NETWORK_GLOBALS
    newobj: ClassVar[dict[Global, Callable[[], object]]] = {_EASY_DICT: dict}

    def find_class(self, module: str, name: str) -> Global:
        if module == "dnnlib.tflib.network":
            raise CheckpointError(
                f"{self.budget.source}: a TensorFlow-era pickle ({module}.{printable(name)}). Convert it first with "
                "legacy.py of stylegan2-ada-pytorch or stylegan3 (--source, --dest); that code runs what the file says"
            )
        for suffix in ("torch_utils.persistence", "dnnlib.util"):  # forks move these packages
            if module.endswith(f".{suffix}"):
                module = suffix
        return super().find_class(module, name)

    def build(self, instance: object, state: object) -> None:
        if type(instance) is NumpyType:
            self._build_dtype(instance, state)
        elif type(instance) is ArrayRecord:
            self._build_array(instance, state)
        else:
            super().build(instance, state)

    def persistent_object(self, meta: object) -> Record:
        if type(meta) is not dict or not {"type", "version", "module_src", "class_name", "state"} <= meta.keys():
            self.damaged("a persistence record without its five keys")
        if meta["type"] != "class" or type(meta["class_name"]) is not str or type(meta["state"]) is not dict:
            self.damaged("a persistence record that describes no class")
        if type(meta["version"]) is not int:
            self.damaged("a persistence record without a version")
        if meta["version"] != PERSISTENCE_VERSION:
            warnings.warn(
                f"{self.budget.source}: persistence version {meta['version']}, written for {PERSISTENCE_VERSION}",
                stacklevel=2,
            )
        return Record(meta["class_name"], meta["state"], meta["version"])  # module_src is dropped unread

    def ordered_dict(self) -> dict:
        return {}

    def make_set(self, items: list | None = None) -> set:
        if items is not None and type(items) is not list:
            self.damaged("a set made from something else than a list")
        self.budget.step(len(items or []))
        self._check_keys(items or [])
        return set(items or [])

    def encode(self, text: object, encoding: object = None) -> bytes:
        if type(text) is not str or encoding != "latin1":  # how protocol 2 writes bytes
            self.refuse("_codecs.encode with something else than text and latin1")
        self.budget.charge("byte strings", len(text))
        return text.encode("latin1")

    def parameter(self, tensor: object, requires_grad: object = None, hooks: object = None) -> Tensor:
        if not isinstance(tensor, Tensor):
            self.damaged("a parameter that is no tensor")
        return tensor

    def tensor(
        self,
        storage: object,
        offset: int,
        size: tuple,
        stride: tuple,
        requires_grad: object,
        hooks: object,
        metadata: object = None,
    ) -> Tensor:
        """A contiguous tensor; honours size and stride (channels_last), stays inside the storage."""
        if type(storage) is not Storage or not (is_counts(size) and is_counts(stride) and is_counts((offset,))):
            self.damaged("a tensor without a storage, or of negative size")
        if len(size) != len(stride):
            self.damaged("a tensor whose size and stride differ in length")
        numel, available = math.prod(size), storage.flat.numel()
        if numel == 0:
            return torch.empty(size, dtype=storage.flat.dtype)
        last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
        if numel > available or last >= available:
            self.damaged("a tensor larger than its storage")
        self.budget.charge("tensors", numel * storage.flat.itemsize)
        view = storage.flat.as_strided(size, stride, offset)
        return (
            view if view.is_contiguous() and numel == available else view.clone(memory_format=torch.contiguous_format)
        )

    def dtype(self, kind: object, align: object = False, copy: object = True) -> NumpyType:
        if type(kind) is not str or kind not in _NUMPY_KINDS:
            self.damaged("a numpy type that is no plain number")
        return NumpyType(kind)

    def _build_dtype(self, instance: NumpyType, state: object) -> None:
        if (
            type(state) is not tuple
            or len(state) < 2
            or type(state[1]) is not str
            or state[1] not in ("<", ">", "|", "=")
        ):
            self.damaged("a numpy type without byte order")
        instance.order = state[1]

    def scalar(self, dtype: object, data: object) -> float | int | bool:
        return self._array(dtype, data, (), fortran=False).item()

    def empty_array(self, cls: object, shape: object, kind: object) -> ArrayRecord:
        if cls != Global("numpy", "ndarray"):
            self.damaged("an array of another class")
        return ArrayRecord()

    def _build_array(self, instance: ArrayRecord, state: object) -> None:
        if type(state) is not tuple or len(state) != 5:
            self.damaged("an array without version, shape, type, order and data")
        _, shape, dtype, fortran, data = state
        instance.array = self._array(dtype, data, shape, fortran is True)

    def array_from_buffer(
        self, data: object, dtype: object, shape: object, order: object, axes: object = None
    ) -> ArrayRecord:
        if axes is not None:
            self.damaged("an array with permuted axes")
        record = ArrayRecord()
        record.array = self._array(dtype, data, shape, order == "F")
        return record

    def _array(self, dtype: object, data: object, shape: object, fortran: bool) -> np.ndarray:
        if type(dtype) is not NumpyType or type(data) is not bytes or not is_counts(shape):
            self.damaged("a numpy value without type, shape or data")
        if math.prod(shape) * dtype.numpy().itemsize != len(data):
            self.damaged("a numpy value whose data do not fill its shape")
        self.budget.charge("arrays", len(data))
        return np.frombuffer(data, dtype.numpy()).reshape(shape, order="F" if fortran else "C")
