"""What an evaluation asks of a judge, so that other domains can bring an attribute network or landmark function."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from latentopt.errors import LatentoptError, UsageError
from latentopt.judge.network import load_judge
from latentopt.perceptual.network import weights_hash
from latentopt.pictures.channels import in_colour

TOLERANCE = 1e-3  # of probabilities, for rounding
RAREST = 1e-4  # of probabilities, whose log-odds have no bound
UNTOUCHED = (LatentoptError, MemoryError, torch.OutOfMemoryError)  # errors that are not the fault of a user's code


@runtime_checkable
class AttributeJudge(Protocol):
    """Reads attributes of pictures. `read` is all that is needed; what lacks the other two is measured without them.

    attributes: names, in the order of `read`'s columns; binary_attributes: those read as probabilities. Two optional
    methods: `embed(image) -> [B,E]`, vectors that tell persons (or individuals) apart, for `identity`;
    `features(image) -> [B,F]` for distances between sets of pictures, in whose place else the readings themselves are
    taken. All may give tensors or NumPy arrays. A row of NaN says that nothing was found in that picture (as a
    landmark function may): it does not count. An optional `name` goes on record.
    """

    @property
    def attributes(self) -> tuple[str, ...]: ...
    @property
    def binary_attributes(self) -> tuple[str, ...]: ...

    def read(self, image: Tensor) -> Tensor:
        """[B,3,H,W] in [-1,1] -> [B,A], in any units; binary attributes as probabilities in [0,1]; NaN: not found."""


def load_attribute_judge(name: str, device: torch.device | str = "cpu") -> AttributeJudge:
    """A judge by the name of a bundled domain, a judge's `.safetensors` file, or `package.module:function`.

    The last imports a module of the user's (the current folder is searched too) and calls `function()`, which returns
    the judge: their own code runs, so it must come from their own command line and never from a file.

    Raises UsageError for a module, function or judge that is no such; MissingWeightsError, CheckpointError as
    `load_judge`.
    """
    if ":" not in name or Path(name).exists():
        return load_judge(name).to(device)
    judge = _call(name)
    check_judge(judge, name)
    if isinstance(judge, nn.Module):
        judge.to(device)
    return judge


def _call(name: str) -> Any:
    module, _, function = name.partition(":")
    here = str(Path.cwd())
    sys.path.insert(0, here)
    try:
        return getattr(importlib.import_module(module), function)()
    except UNTOUCHED:
        raise
    except Exception as error:
        reason = f"{type(error).__name__}: {error}"
        raise UsageError(f"judge {name!r}: cannot be had ({reason}); name package.module:function") from error
    finally:
        sys.path.remove(here)


def check_judge(judge: Any, name: str = "judge") -> None:
    """Raise UsageError where `judge` is none, saying what it lacks."""
    for field in ("attributes", "binary_attributes"):
        words = getattr(judge, field, None)
        if not isinstance(words, (tuple, list)) or not all(isinstance(word, str) for word in words):
            raise UsageError(f"judge {name!r}: {field} must be a tuple of names, not {words!r}")
    if not judge.attributes or not callable(getattr(judge, "read", None)):
        raise UsageError(f"judge {name!r}: needs attributes and a method read(image) -> [B,A]")
    if len({plain(word) for word in judge.attributes}) < len(judge.attributes):
        raise UsageError(f"judge {name!r}: two attributes of one name: {', '.join(judge.attributes)}")
    if unknown := set(judge.binary_attributes) - set(judge.attributes):
        raise UsageError(f"judge {name!r}: binary attributes that it does not read: {', '.join(sorted(unknown))}")


@torch.no_grad()
def read(judge: AttributeJudge, images: Tensor, batch: int = 64) -> Tensor:
    """Attributes [B,A] on the CPU in float64, NaN where there is no number.

    Raises UsageError where a judge of the user's gives something else.
    """
    found = _rows(judge, "read", images, batch)
    if found.shape[1] != len(judge.attributes):
        raise UsageError(
            f"the judge read {list(found.shape)} from {len(images)} pictures, with {len(judge.attributes)} attributes"
        )
    for name in judge.binary_attributes:
        column = found[:, list(judge.attributes).index(name)]
        if ((column < -TOLERANCE) | (column > 1 + TOLERANCE)).any():
            raise UsageError(
                f"the judge read {name} from {column.nan_to_num().min():.3g} to {column.nan_to_num().max():.3g}; "
                "binary attributes are probabilities in [0,1]: give its sigmoid, or leave it out of binary_attributes"
            )
    return found


def log_odds(judge: AttributeJudge, readings: Tensor, rarest: float = RAREST) -> Tensor:
    """Readings [...,A] with the log-odds of probabilities (of `rarest` at least), which hardly move near 0 and 1."""
    binary = torch.tensor([name in judge.binary_attributes for name in judge.attributes], device=readings.device)
    return torch.where(binary, readings.logit(eps=rarest), readings)


@torch.no_grad()
def features(judge: AttributeJudge, images: Tensor, batch: int = 64) -> Tensor:
    """Features [B,F] of pictures [B,3,H,W] for set distances, on the CPU in float64. Raises UsageError as `read`."""
    return _rows(judge, "features" if hasattr(judge, "features") else "read", images, batch)


@torch.no_grad()
def embeddings(judge: AttributeJudge, images: Tensor, batch: int = 64) -> Tensor:
    """Unit vectors [B,E] of pictures [B,3,H,W], on the CPU in float64. Raises UsageError as `read`."""
    return normalize(_rows(judge, "embed", images, batch), dim=1)


def _rows(judge: AttributeJudge, method: str, images: Tensor, batch: int) -> Tensor:
    """What a method of the judge answers to all pictures, [B,D], a batch at a time; NaN where there is no number."""
    parts = []
    for part in images.split(batch):
        answer = _asked(judge, method, in_colour(part))
        try:
            found = torch.as_tensor(answer).detach().cpu().double()
        except (TypeError, ValueError, RuntimeError) as error:
            raise UsageError(f"the judge's {method}() gave no array of numbers: {error}") from error
        if found.ndim != 2 or len(found) != len(part):
            raise UsageError(f"the judge's {method}() gave {list(found.shape)} for {len(part)} pictures, not [B,...]")
        parts.append(torch.where(found.isfinite(), found, torch.nan))
    return torch.cat(parts)


def _asked(judge: AttributeJudge, method: str, images: Tensor) -> Any:
    """What a method of the judge answers. Raises UsageError, naming the judge, where their code fails."""
    try:
        return getattr(judge, method)(images)
    except UNTOUCHED:
        raise
    except Exception as error:
        reason = f"{type(error).__name__}: {error}"
        where = f"judge {given_name(judge)!r}: {method}()"
        raise UsageError(f"{where} failed for pictures {list(images.shape)} ({reason})") from error


def given_name(judge: AttributeJudge) -> str:
    """What a judge is called in messages: its own name, else its type's."""
    return str(getattr(judge, "name", type(judge).__name__))


def judge_name(judge: AttributeJudge) -> str:
    """What goes on record: kind and weights' hash; of what is no network its name, and the hashes of those it holds."""
    if isinstance(judge, nn.Module):
        return f"{type(judge).__name__.lower()} {weights_hash(judge)}"
    held = [weights_hash(value) for value in getattr(judge, "__dict__", {}).values() if isinstance(value, nn.Module)]
    return " ".join([given_name(judge), *held])


def plain(name: str) -> str:
    """Names of directions and attributes mean the same with hyphens and with underscores."""
    return name.replace("-", "_")
