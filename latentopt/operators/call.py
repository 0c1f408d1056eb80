"""Any function of images: as it is, or by the name of its module."""

from __future__ import annotations

import importlib
from collections.abc import Callable

import torch
from torch import Tensor

from latentopt.errors import LatentoptError, UsageError
from latentopt.protocols import Operator, Source


class Function(Operator):
    """What `function` makes of images [B,C,H,W] in [-1,1]: a tensor [B,...], differentiable, each image by itself.

    Called, it raises UsageError where the function fails or makes something else.
    """

    def __init__(self, function: Callable[[Tensor], Tensor], name: str = "") -> None:
        self.function = function
        self.name = name or getattr(function, "__qualname__", type(function).__qualname__)

    def __call__(self, image: Tensor) -> Tensor:
        try:
            measured = self.function(image)
        except LatentoptError:
            raise
        except Exception as error:  # code of someone else
            raise UsageError(
                f"operator {self.name} fails on images {list(image.shape)}: {type(error).__name__}: {error}"
            ) from error
        if not isinstance(measured, Tensor) or measured.ndim < 2 or len(measured) != len(image):
            made = list(measured.shape) if isinstance(measured, Tensor) else type(measured).__name__
            raise UsageError(
                f"operator {self.name} makes {made} of {len(image)} images; wanted is a tensor with a row for each"
            )
        if not measured.is_floating_point():
            kind = str(measured.dtype).removeprefix("torch.")
            raise UsageError(
                f"operator {self.name} makes {kind} numbers; wanted are real ones (of complex ones, torch.view_as_real)"
            )
        return measured


class Call(Function):
    """As `Function`, of `package.module:function`.

    It is imported and runs, so that only the one who starts the work may name it: a recipe that is read from a file is
    refused. Raises UsageError for a name that cannot be imported, and for a function that fails on a grey image.
    """

    runs_code = True
    examples = ({"function": "torch:tanh"},)

    def __init__(self, source: Source, *, function: str) -> None:
        module, _, name = function.partition(":")
        try:
            found = getattr(importlib.import_module(module), name)
        except (ImportError, AttributeError, ValueError) as error:
            raise UsageError(f"operator {function}: cannot be imported: {error}") from error
        super().__init__(found, function)
        self(torch.zeros(1, source.img_channels, *source.resolution, device=source.device))
