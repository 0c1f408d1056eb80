"""Persistence records of StyleGAN2-ADA and StyleGAN3 as inert data, and the walks that read weights and settings out.

In an NVIDIA snapshot every network and sub-module is `torch_utils.persistence._reconstruct_persistent_obj(meta)`,
where `meta["state"]` is the module's `__dict__`. The original code rebuilds the class by executing the source text that
travels with it; here only the state is kept.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from latentopt.errors import CheckpointError

MAX_DEPTH = 32
MAX_MODULES = 10_000
MAX_ENTRIES = 1_000  # of one table of one module; a dozen in practice
MAX_NAME = 200
MAX_TENSORS = 100_000
MAX_ATTRIBUTE_VALUES = 200_000


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Record:
    """One persistent object: its class name (without module path) and its `__dict__`. Holds no code and runs none."""

    class_name: str
    state: dict
    version: int

    def __repr__(self) -> str:
        return f"Record({self.class_name!r}, {len(self.state)} attributes)"


class ArrayRecord:
    """A numpy array from a pickle; `array` is None until its contents have been read."""

    __slots__ = ("array",)

    def __init__(self) -> None:
        self.array: np.ndarray | None = None


def walk_modules(record: Record) -> Iterator[tuple[str, Record]]:
    """Yields (module path, record) of `record` ("") and of every sub-module, parents first.

    Raises CheckpointError for a record that occurs twice (a cycle or a shared sub-tree, which memo references can make
    exponentially large), for more than 10 000 modules, or for nesting deeper than 32.
    """
    seen: set[int] = set()
    waiting = [("", record, 0)]
    while waiting:
        path, module, depth = waiting.pop()
        if id(module) in seen:
            raise CheckpointError(f"module {path or '(root)'} occurs twice in the checkpoint: damaged or made up")
        seen.add(id(module))
        if len(seen) > MAX_MODULES or depth > MAX_DEPTH:
            raise CheckpointError(
                f"module {path}: over {MAX_MODULES} modules or {MAX_DEPTH} levels: not a StyleGAN file"
            )
        yield path, module
        children = []
        for name, child in _table(module, "_modules", path).items():
            if child is None:
                continue
            child_path = _join(path, name)
            if not isinstance(child, Record):
                raise CheckpointError(f"module {child_path} is a {type(child).__name__}, not a persistence record")
            children.append((child_path, child, depth + 1))
        if len(waiting) + len(children) > MAX_MODULES:
            raise CheckpointError(f"module {path}: over {MAX_MODULES} modules: not a StyleGAN file")
        waiting.extend(reversed(children))


def module_state(record: Record) -> dict[str, Tensor]:
    """The `state_dict` of a recorded module: every parameter and persistent buffer by its dotted name.

    Raises CheckpointError when the record is no module, holds something else than tensors, or breaks the limits of
    `walk_modules`.
    """
    state: dict[str, Tensor] = {}
    for path, module in walk_modules(record):
        skipped = module.state.get("_non_persistent_buffers_set") or ()
        if not isinstance(skipped, (set, frozenset, list, tuple)):
            raise CheckpointError(f"module {path or '(root)'}: _non_persistent_buffers_set is not a set")
        for kind in ("_parameters", "_buffers"):
            for name, value in _table(module, kind, path).items():
                if value is None or (kind == "_buffers" and name in skipped):
                    continue
                key = _join(path, name)
                if not isinstance(value, Tensor):
                    raise CheckpointError(f"{key} is a {type(value).__name__}, not a tensor: damaged checkpoint")
                if key in state:
                    raise CheckpointError(f"{key} occurs twice: damaged checkpoint")
                state[key] = value
                if len(state) > MAX_TENSORS:
                    raise CheckpointError(f"over {MAX_TENSORS} tensors: not a StyleGAN checkpoint")
    return state


def module_attributes(record: Record) -> dict[str, dict]:
    """Module path ("" for the root) -> the plain attributes that its constructor had set.

    Kept are int, float, bool, str, None, and lists, tuples and dicts of them (EasyDict comes back as dict, a numpy
    array as nested list), `_init_args` and `_init_kwargs` included. torch's own underscored bookkeeping and values of
    any other type are left out. Raises CheckpointError like `walk_modules`, or when values nest too deeply or are
    too many.
    """
    budget = [MAX_ATTRIBUTE_VALUES]
    attributes: dict[str, dict] = {}
    for path, module in walk_modules(record):
        plain: dict = {}
        for name, value in module.state.items():
            if not isinstance(name, str) or (name.startswith("_") and name not in ("_init_args", "_init_kwargs")):
                continue
            try:
                plain[name] = _plain(value, budget, depth=0)
            except _NotPlain:
                continue
        attributes[path] = plain
    return attributes


def plain_entries(table: dict) -> dict:
    """The entries of a foreign dict that are plain data, as in `module_attributes`, without what nests too deeply."""
    budget = [MAX_ATTRIBUTE_VALUES]
    plain: dict = {}
    for name, value in table.items():
        try:
            plain[name] = _plain(value, budget, depth=0)
        except (_NotPlain, CheckpointError):
            continue
    return plain


class _NotPlain(Exception):
    """The value is, or holds, something else than plain data."""


def _plain(value: object, budget: list[int], depth: int) -> object:
    budget[0] -= value.array.size if isinstance(value, ArrayRecord) and value.array is not None else 1
    if depth > MAX_DEPTH or budget[0] < 0:  # memo references can make a list hold itself, or double at every level
        raise CheckpointError("attributes nest too deeply or are too many: not a StyleGAN checkpoint")
    if value is None or type(value) in (int, float, bool, str):
        return value
    if type(value) is list:
        return [_plain(item, budget, depth + 1) for item in value]
    if type(value) is tuple:
        return tuple(_plain(item, budget, depth + 1) for item in value)
    if type(value) is dict:
        return {key: _plain(item, budget, depth + 1) for key, item in value.items()}
    if isinstance(value, ArrayRecord) and value.array is not None:
        return value.array.tolist()
    raise _NotPlain


def _table(module: Record, kind: str, path: str) -> dict:
    table = module.state.get(kind)
    if type(table) is not dict or max(len(table), len(module.state)) > MAX_ENTRIES:
        raise CheckpointError(f"{path or '(root)'}: no {kind} table, so this record is not a network module")
    if not all(isinstance(name, str) and len(name) <= MAX_NAME for name in table):
        raise CheckpointError(f"{path or '(root)'}: {kind} has names that no module can have: damaged checkpoint")
    return table


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name
