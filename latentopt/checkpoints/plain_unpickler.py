"""The plain data inside foreign pickles: containers, numbers of numpy, settings, paths, sizes. All of it inert.

Nothing is called by name from the file: every value is rebuilt here, with its size checked against the data there is.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from pathlib import PurePosixPath, PureWindowsPath
from typing import ClassVar, TypeGuard

import numpy as np

from latentopt.checkpoints.persistence import ArrayRecord
from latentopt.checkpoints.pickle_limits import Global
from latentopt.checkpoints.restricted_unpickler import RestrictedUnpickler

MAX_DIMENSIONS = 16

_NUMPY_KINDS = {"b1", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8"}

_EASY_DICT, _NAMESPACE = Global("dnnlib.util", "EasyDict"), Global("argparse", "Namespace")
PLAIN_GLOBALS: dict[Global, str | None] = {
    _EASY_DICT: None,
    _NAMESPACE: None,
    Global("types", "SimpleNamespace"): "namespace",
    Global("collections", "OrderedDict"): "ordered_dict",
    Global("builtins", "set"): "make_set",
    Global("__builtin__", "set"): "make_set",
    Global("_codecs", "encode"): "encode",
    Global("torch", "Size"): "sizes",
    Global("torch", "device"): "device",
    **{Global("torch", f"{kind}{bits}"): None for kind in ("float", "int") for bits in (16, 32, 64)},
    Global("torch", "bfloat16"): None,
    **{
        Global(module, f"{pure}{system}Path"): f"{system.lower()}_path"
        for module in ("pathlib", "pathlib._local")
        for pure in ("", "Pure")
        for system in ("Posix", "Windows")
    },
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


def is_counts(values: object) -> TypeGuard[tuple[int, ...]]:
    """Whether `values` is a short tuple of non-negative integers, as sizes and strides are."""
    return (
        type(values) is tuple
        and len(values) <= MAX_DIMENSIONS
        and all(type(n) is int and 0 <= n < 2**63 for n in values)
    )


class NumpyType:
    """A numpy dtype by its name, "f8"; the byte order follows by BUILD."""

    __slots__ = ("kind", "order")

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.order = "="

    def numpy(self) -> np.dtype:
        return np.dtype(self.order + self.kind)


class PlainUnpickler(RestrictedUnpickler):
    """Containers, numpy scalars and arrays, and the settings that training code keeps beside its weights."""

    globals = PLAIN_GLOBALS
    newobj: ClassVar[dict[Global, Callable[[], object]]] = {_EASY_DICT: dict, _NAMESPACE: argparse.Namespace}

    def build(self, instance: object, state: object) -> None:
        if type(instance) is NumpyType:
            self._build_dtype(instance, state)
        elif type(instance) is ArrayRecord:
            self._build_array(instance, state)
        elif type(instance) is argparse.Namespace and type(state) is dict:
            if not all(type(name) is str for name in state):
                self.damaged("settings whose names are no text")
            vars(instance).update(state)
        elif not (type(instance) is dict and type(state) is dict and state.keys() == {"_metadata"}):
            super().build(instance, state)  # else the versions of modules, which a state dict carries: dropped

    def namespace(self) -> argparse.Namespace:
        return argparse.Namespace()

    def sizes(self, values: object) -> tuple[int, ...]:
        if not is_counts(values):
            self.damaged("a size that is none")
        return values

    def device(self, kind: object, index: object = None) -> str:
        if type(kind) is not str or not (index is None or type(index) is int):
            self.damaged("a device that is none")
        return kind if index is None else f"{kind}:{index}"

    def posix_path(self, *parts: object) -> str:
        return str(PurePosixPath(*self._texts(parts)))

    def windows_path(self, *parts: object) -> str:
        return str(PureWindowsPath(*self._texts(parts)))

    def _texts(self, parts: tuple[object, ...]) -> list[str]:
        texts = [part for part in parts if type(part) is str]
        if len(texts) != len(parts):
            self.damaged("a path that is no text")
        self.budget.charge("paths", sum(map(len, texts)))
        return texts

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
