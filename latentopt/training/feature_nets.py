"""Frozen networks of the similarity loss, from files: ResNet-50 (MoCo v2, torchvision) or a perceptual network of ours.

Source: e4e, equation 4: C is a ResNet-50 trained with MoCo v2, at 224 pixels, without the statistics of ImageNet (as in the
authors' code).
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d, interpolate

from latentopt.errors import CheckpointError
from latentopt.generators.restricted_pickle import read_torch_file
from latentopt.terms.perceptual_net import PerceptualNet, at_resolution, load_perceptual_net

MOCO_PREFIX = "module.encoder_q."
MOCO_SIZE = 224


class TopFeatures(nn.Module):
    """The last features of a perceptual network, pooled to 4x4: [B,3,H,W] in [-1,1] -> [B,16 C]."""

    def __init__(self, net: PerceptualNet) -> None:
        super().__init__()
        self.net = net

    def forward(self, image: Tensor) -> Tensor:
        features = self.net.features(at_resolution(image, self.net.config.resolution))[-1]
        return adaptive_avg_pool2d(features, 4).flatten(1)


class ResNetFeatures(nn.Module):
    """ResNet-50 without its classifier: [B,3,H,W] in [-1,1] -> [B,2048]."""

    def __init__(self, state: dict[str, Tensor]) -> None:
        super().__init__()
        from torchvision.models import resnet50

        self.net = resnet50(weights=None)
        self.net.fc = nn.Identity()
        self.net.load_state_dict(state)

    def forward(self, image: Tensor) -> Tensor:
        return self.net(interpolate(image, (MOCO_SIZE, MOCO_SIZE)))


def load_feature_net(path: Path) -> nn.Module:
    """A frozen network, in evaluation mode, on the CPU.

    Args:
        path: `.safetensors`: a perceptual network, as `latentopt train perceptual` writes; else a ResNet-50's weights,
            MoCo's (`state_dict` with `module.encoder_q.*`) or torchvision's.

    Raises:
        CheckpointError: other files, a judge among them: what judges results must not be trained on.
    """
    if path.suffix == ".safetensors":
        net: nn.Module = TopFeatures(load_perceptual_net(str(path)))
        return net.eval().requires_grad_(False)
    contents = read_torch_file(path)
    state = contents.get("state_dict", contents)
    moco = {k.removeprefix(MOCO_PREFIX): v for k, v in state.items() if str(k).startswith(MOCO_PREFIX)}
    weights = {k: v for k, v in (moco or state).items() if isinstance(v, torch.Tensor) and not k.startswith("fc.")}
    try:
        return ResNetFeatures(weights).eval().requires_grad_(False)
    except RuntimeError as error:
        raise CheckpointError(
            f"{path}: not the weights of a ResNet-50 (MoCo's or torchvision's): {str(error)[:200]}"
        ) from error
