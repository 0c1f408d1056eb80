"""What an evaluation asks of a judge, so that other domains can bring their own attribute network or landmark function."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from latentopt.errors import UsageError
from latentopt.evaluation.judge import load_judge
from latentopt.terms.perceptual import weights_hash


@runtime_checkable
class AttributeJudge(Protocol):
    """Reads attributes of pictures. `read` is all that is needed; what lacks the other two is measured without them.

    attributes: names, in the order of `read`'s columns; binary_attributes: those read as probabilities.
    Two optional methods: `embed(image) -> [B,E]`, unit vectors that tell persons (or individuals) apart, for `identity`;
    `features(image) -> [B,F]` for distances between sets of pictures, in whose place else the readings themselves are taken.
    """

    attributes: tuple[str, ...]
    binary_attributes: tuple[str, ...]

    def read(self, image: Tensor) -> Tensor:
        """[B,3,H,W] in [-1,1] -> [B,A], in whatever units; of binary attributes probabilities in [0,1]."""


def load_attribute_judge(name: str, device: torch.device | str = "cpu") -> AttributeJudge:
    """A judge by the name of a bundled domain, a judge's `.safetensors` file, or `package.module:function`.

    The last imports a module of the user's (the current folder is searched too) and calls `function()`, which returns the
    judge: their own code runs, so it must come from their own command line and never from a file.

    Raises UsageError for a module, function or judge that is no such; MissingWeightsError, CheckpointError as `load_judge`.
    """
    if ":" not in name or Path(name).exists():
        return load_judge(name).to(device)
    judge = _call(name)
    check_judge(judge, name)
    return judge.to(device) if isinstance(judge, nn.Module) else judge


def _call(name: str) -> object:
    module, _, function = name.partition(":")
    here = str(Path.cwd())
    sys.path.insert(0, here)
    try:
        return getattr(importlib.import_module(module), function)()
    except (ImportError, AttributeError, TypeError, ValueError) as error:
        raise UsageError(f"judge {name!r}: cannot be had: {error}; name package.module:function") from error
    finally:
        sys.path.remove(here)


def check_judge(judge: object, name: str = "judge") -> None:
    """Raise UsageError where `judge` is none, saying what it lacks."""
    for field in ("attributes", "binary_attributes"):
        words = getattr(judge, field, None)
        if not isinstance(words, (tuple, list)) or not all(isinstance(word, str) for word in words):
            raise UsageError(f"judge {name!r}: {field} must be a tuple of names, not {words!r}")
    if not judge.attributes or not callable(getattr(judge, "read", None)):
        raise UsageError(f"judge {name!r}: needs attributes and a method read(image) -> [B,A]")
    if unknown := set(judge.binary_attributes) - set(judge.attributes):
        raise UsageError(f"judge {name!r}: binary attributes that it does not read: {', '.join(sorted(unknown))}")


@torch.no_grad()
def read(judge: AttributeJudge, images: Tensor, batch: int = 64) -> Tensor:
    """Attributes [B,A] on the CPU in float64. Raises UsageError where a judge of the user's gives something else."""
    found = torch.cat([judge.read(part).cpu().double() for part in images.split(batch)])
    if found.shape != (len(images), len(judge.attributes)):
        raise UsageError(
            f"the judge read {list(found.shape)} from {len(images)} pictures, with {len(judge.attributes)} attributes"
        )
    return found


@torch.no_grad()
def features(judge: AttributeJudge, images: Tensor, batch: int = 64) -> Tensor:
    """Features [B,F] of pictures [B,3,H,W] for set distances, on the CPU in float64."""
    extract = getattr(judge, "features", judge.read)
    return torch.cat([extract(part).cpu().double() for part in images.split(batch)])


def judge_name(judge: AttributeJudge) -> str:
    """What goes on record: kind and hash of the weights, or the name of what is no network."""
    if isinstance(judge, nn.Module):
        return f"{type(judge).__name__.lower()} {weights_hash(judge)}"
    return str(getattr(judge, "name", type(judge).__name__))
