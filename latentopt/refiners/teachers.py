"""Flow between pictures, by networks that know nothing of generators: teachers of WarpRes, or in place of its flow."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from latentopt.checkpoints.describe import described_card
from latentopt.checkpoints.model_files import BUNDLED, Checkpoint
from latentopt.checkpoints.restricted_pickle import read_torch_file
from latentopt.encoders.heads import resized
from latentopt.errors import CheckpointError, MissingWeightsError
from latentopt.files.kinds import check_file
from latentopt.files.text import to_run
from latentopt.perceptual.lpips_network import missing_weights
from latentopt.perceptual.network_file import load_network
from latentopt.pictures.channels import in_colour
from latentopt.protocols import FlowTeacher, Generator
from latentopt.refiners.flow import FlowNet, Pyramid
from latentopt.refiners.warping import resized_flow

FORMAT = "latentopt-flow-1"
RAFT, RAFT_SIDE = "raft_small", 256  # pixels; RAFT takes 128 at least, in multiples of 8


@dataclass(frozen=True)
class WarpFlowConfig:
    """`widths`: channels of the picture's features, from half its size on; `width`: within the levels; `size`: the
    longer side that pictures are brought to, at most.
    """

    widths: tuple[int, int, int] = (16, 32, 48)
    width: int = 32
    size: int = 64


class WarpFlowNet(nn.Module):
    """The flow network of WarpRes on features of pictures: two pictures [B,3,H,W] -> flow [B,2,h,w] at half their size
    (half of `size`, where they are larger), in pixels of that.
    """

    def __init__(self, config: WarpFlowConfig) -> None:
        super().__init__()
        self.config = config
        self.pyramid = Pyramid(config.widths)
        self.flow = FlowNet(config.widths[::-1], config.width)

    def forward(self, before: Tensor, after: Tensor) -> Tensor:
        pair = torch.cat([self._sized(before), self._sized(after)])
        maps = self.pyramid(pair)
        return self.flow([x[: len(before)] for x in maps], [x[len(before) :] for x in maps])

    def _sized(self, image: Tensor) -> Tensor:
        height, width = image.shape[2:]
        share = min(self.config.size / max(height, width), 1.0)
        size = tuple(max(8, 8 * round(side * share / 8)) for side in (height, width))
        return resized(in_colour(image.float()), (size[0], size[1]))


class Warps(FlowTeacher):
    """A network trained on pictures that were warped by known flows (`latentopt train flow`).

    path: its file; without one the bundled network.
    """

    reads = {"path": "flow network"}

    def __init__(self, generator: Generator, *, path: str | None = None) -> None:
        self.net = load_flow(flow_path(path, generator)).to(generator.device)

    def __call__(self, before: Tensor, after: Tensor) -> Tensor:
        return resized_flow(self.net(before, after), (after.shape[2], after.shape[3]))


class Raft(FlowTeacher):
    """RAFT, the small one of torchvision (Teed and Deng 2020), which it downloads once.

    weights: torchvision's file, where it should not be downloaded. What it finds between a picture and itself is taken
    off, so that no edit is no flow. Raises MissingWeightsError where the weights cannot be had, CheckpointError where
    `weights` are none.
    """

    reads = {"weights": "file"}
    reads_if = {"weights": ("weights",)}

    def __init__(self, generator: Generator, *, weights: str | None = None) -> None:
        from torchvision.models.optical_flow import raft_small

        state = _downloaded() if weights is None else read_torch_file(Path(weights))
        self.net = raft_small(weights=None)
        try:
            self.net.load_state_dict(dict(state))
        except (RuntimeError, TypeError, AttributeError) as error:
            raise CheckpointError(f"{weights}: not torchvision's weights of RAFT (small): {error}") from error
        self.net.eval().requires_grad_(False).to(generator.device)

    def __call__(self, before: Tensor, after: Tensor) -> Tensor:
        height, width = after.shape[2:]
        scale = RAFT_SIDE / min(height, width)
        size = [max(128, 8 * round(side * scale / 8)) for side in (height, width)]
        first, second = (
            interpolate(in_colour(x.float()).clamp(-1, 1), size=size, mode="bilinear") for x in (after, before)
        )
        flow = self.net(torch.cat([first, second]), torch.cat([second, second]))[-1]
        return resized_flow(flow[: len(after)] - flow[len(after) :], (height, width))


def _downloaded() -> Mapping[str, Tensor]:
    """torchvision's weights of RAFT, by its own cache."""
    from torchvision.models import get_model_weights

    try:
        return next(iter(get_model_weights(RAFT))).get_state_dict(progress=False, check_hash=True)
    except (OSError, RuntimeError, pickle.UnpicklingError, EOFError) as error:  # offline, or a broken file
        raise missing_weights("RAFT", RAFT, error) from error


def load_flow(path: Path) -> WarpFlowNet:
    """The network of `latentopt train flow`, frozen, on the CPU. Raises CheckpointError for a file of another kind."""
    return load_network(path, FORMAT, "a flow network", WarpFlowConfig, WarpFlowNet)


def flow_path(named: str | None, generator: Generator) -> Path:
    """The file that is named, or that of the bundled domain. Raises MissingWeightsError or CheckpointError."""
    if named is not None:
        return check_file(named, "a flow network's file")
    if generator.card.get("data") == "portraits" and (path := BUNDLED / "portraits" / "flow.safetensors").is_file():
        return path
    raise MissingWeightsError(
        f"no flow network for pictures of {generator.name!r} is bundled; train one: "
        f"{to_run('train flow', generator.source)}, and name its file"
    )


def flow_file(generator: Generator, named: str | None, part: Mapping[str, Any]) -> list[Path]:
    """The file of a flow network (a finder of `latentopt.registry.FILES`)."""
    if part.get("flow") == "raft":
        return [] if named is None else [Path(named)]
    return [flow_path(named, generator)]


def describe_flow(checkpoint: Checkpoint, name: str) -> dict[str, Any]:
    """What `latentopt info` tells of a flow network's file (see `latentopt.registry.FORMATS`)."""
    net = load_flow(checkpoint.path)
    return {
        "kind": "flow network",
        "size": net.config.size,
        "parameters": sum(parameter.numel() for parameter in net.parameters()),
        **described_card(checkpoint),
        "use": "latentopt train refiner --teacher warps --teacher-file FILE",
    }
