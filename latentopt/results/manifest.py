"""What is on record about one result: where it came from, and the key that says whether it is up to date."""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from latentopt.files.storage import to_json
from latentopt.files.versions import package_version
from latentopt.pictures.images import TargetImage
from latentopt.protocols import Generator
from latentopt.results.records import SCHEMA

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
            "file": file_of(source),
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
        **({} if target.alignment is None else {"alignment": dict(target.alignment)}),
        **more,
    }


def file_of(path: str | Path) -> str:
    """Where a picture lies, whatever the working folder is; "" where it is no file."""
    return str(Path(path).absolute()) if Path(path).is_file() else ""


def versions() -> dict[str, str]:
    """The releases that a result depends on."""
    return {"python": platform.python_version()} | {name: package_version(name) for name in PACKAGES}


def _device_name(device: torch.device) -> str:
    return f"{device} ({torch.cuda.get_device_name(device)})" if device.type == "cuda" else str(device)
