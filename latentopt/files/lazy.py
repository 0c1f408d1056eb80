"""Names of a module that are imported when they are first used, so that importing it costs nothing."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from typing import Any


def lazily(module: str, namespace: dict[str, Any], exports: Mapping[str, str]) -> Callable[[str], Any]:
    """The `__getattr__` of a module, for exports {name: the module that defines it}.

    What was imported stays in `namespace`.
    """

    def get(name: str) -> Any:
        if name not in exports:
            raise AttributeError(f"module {module!r} has no attribute {name!r}")
        namespace[name] = getattr(importlib.import_module(exports[name]), name)
        return namespace[name]

    return get
