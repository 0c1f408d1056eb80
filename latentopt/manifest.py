"""What is on record about one result: where it came from, and the key that says whether it is up to date."""

from __future__ import annotations

import hashlib
import json
import math
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from latentopt.images import TargetImage
from latentopt.protocols import Generator
from latentopt.version import package_version

SCHEMA = 1
PACKAGES = ("latentopt", "torch", "torchvision", "numpy", "pillow", "lpips")


def run_key(
    image_sha256: str,
    recipe_digest: str,
    generator_fingerprint: str,
    seed: int,
    options: Mapping[str, object] | None = None,
    code_version: str | None = None,
) -> str:
    """A hash of all that decides one image's result; `options` are those outside the recipe, such as the fit.

    A file changed under the same name, another recipe, generator, seed or release gives another key: nothing stale is
    taken for done.
    """
    code_version = code_version or package_version("latentopt")
    parts = [image_sha256, recipe_digest, generator_fingerprint, int(seed), dict(options or {}), code_version]
    return hashlib.sha256(to_json(parts).encode()).hexdigest()


def manifest(
    *,
    key: str,
    source: str | Path,
    target: TargetImage,
    recipe_name: str,
    recipe_digest: str,
    generator: Generator,
    seed: int,
    dtype: torch.dtype | str,
    seconds: Mapping[str, float],
    steps: int,
    stop_reason: str,
    metrics: Mapping[str, float],
    statistics: Mapping[str, str] | None = None,
    **more: object,
) -> dict[str, Any]:
    """What run.json holds: all that is needed to repeat and to judge one result.

    seconds: {part: wall clock}; metrics: {name: value}, see `metrics`; statistics: {file name: hash} of what the
    recipe read besides the generator; `more` is added as it is.
    """
    return {
        "schema": SCHEMA,
        "key": key,
        "source": {
            "path": str(source),
            "sha256": target.sha256,
            "size": list(target.original_size),
            "notes": list(target.notes),
        },
        "recipe": {"name": recipe_name, "digest": recipe_digest},
        "generator": {"name": generator.name, "fingerprint": generator.fingerprint, "source": generator.source},
        "statistics": dict(statistics or {}),
        "seed": int(seed),
        "device": _device_name(generator.device),
        "dtype": str(dtype).removeprefix("torch."),
        "versions": versions(),
        "seconds": dict(seconds),
        "steps": int(steps),
        "stop_reason": stop_reason,
        "metrics": dict(metrics),
        **more,
    }


def versions() -> dict[str, str]:
    """The releases that a result depends on."""
    return {"python": platform.python_version()} | {name: package_version(name) for name in PACKAGES}


def _device_name(device: torch.device) -> str:
    return f"{device} ({torch.cuda.get_device_name(device)})" if device.type == "cuda" else str(device)


def to_json(value: object, indent: int | None = None) -> str:
    """Standard JSON, the same for equal values; what is not finite becomes null."""
    return json.dumps(_plain(value), indent=indent, allow_nan=False, sort_keys=isinstance(value, list))


def _plain(value: object) -> object:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, (Tensor, np.ndarray, np.generic)):
        return _plain(value.tolist())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, (str, int, bool)) else str(value)
