"""What finds faces in a photograph."""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor

from latentopt.protocols.plugin import Plugin
from latentopt.types import Face


class FaceDetector(Plugin, ABC):
    """Finds the faces in a photograph. Its constructor takes nothing but options."""

    @abstractmethod
    def __call__(self, picture: Tensor) -> list[Face]:
        """The faces in a picture [3,H,W] in [-1,1], on the CPU; the largest first."""
