"""Any function of images, by the name of its module."""

from __future__ import annotations

import importlib

import torch
from torch import Tensor

from latentopt.errors import LatentoptError, UsageError
from latentopt.protocols import Operator, Source


class Call(Operator):
    """What a function makes of images [B,C,H,W] in [-1,1]: a tensor [B,...], differentiable, each image by itself.

    function  `package.module:function`. It is imported and runs, so that only the one who starts the work may name it:
              a recipe that is read from a file is refused

    Raises UsageError for a name that cannot be imported, and for a function that makes something else.
    """

    runs_code = True
    examples = ({"function": "torch:tanh"},)

    def __init__(self, source: Source, *, function: str) -> None:
        module, _, name = function.partition(":")
        try:
            self.function = getattr(importlib.import_module(module), name)
        except (ImportError, AttributeError, ValueError) as error:
            raise UsageError(f"operator {function}: cannot be imported: {error}") from error
        self.name = function
        self(torch.zeros(1, source.img_channels, *source.resolution, device=source.device))

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
        return measured
