"""Perceptual distance by VGG-16 activations (Abdal et al. 2019, Image2StyleGAN, equation 2): II2S's "VGG"."""

from __future__ import annotations

import operator
import pickle
from functools import reduce

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from latentopt.perceptual.lpips_network import missing_weights
from latentopt.perceptual.network import weights_hash
from latentopt.pictures.channels import in_colour
from latentopt.pictures.resizing import shrink

LAYERS = (0, 2, 12, 19)  # conv1_1, conv1_2, conv3_2, conv4_2 in torchvision's `features`
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet, for pictures in [0,1]


class VGGDistance:
    """Sum over four layers of the mean squared difference of their activations (before the ReLU; all weights 1).

    II2S does not say which layers; these are those of Image2StyleGAN, its baseline. `name` says network, hash and size.
    Raises MissingWeightsError when torchvision's weights are neither here nor to be had.
    """

    def __init__(self, device: torch.device | str = "cpu", size: int = 256) -> None:
        self.layers = _vgg16()[: LAYERS[-1] + 1].to(device).eval().requires_grad_(False)
        self.size = size
        self.name = f"vgg16 {weights_hash(self.layers)}, pictures of at most {size} pixels"

    def __call__(self, first: Tensor, second: Tensor) -> Tensor:
        """[B] of pictures [B,3,H,W] in [-1,1]."""
        pairs = zip(self.activations(first), self.activations(second), strict=True)
        return reduce(operator.add, ((a - b).square().mean(dim=(1, 2, 3)) for a, b in pairs))

    def activations(self, image: Tensor) -> list[Tensor]:
        """Of the four layers, [B,C,h,w] each."""
        x = _standardised(shrink(in_colour(image), self.size))
        found = []
        for k, layer in enumerate(self.layers):
            # torchvision's ReLUs work in place and would overwrite what is kept
            x = F.relu(x) if isinstance(layer, nn.ReLU) else layer(x)
            if k in LAYERS:
                found.append(x)
        return found


def _standardised(image: Tensor) -> Tensor:
    """image in [-1,1] -> with the mean and deviation that the network was trained with."""
    mean, std = (image.new_tensor(x)[:, None, None] for x in (MEAN, STD))
    return ((image + 1) / 2 - mean) / std


def _vgg16() -> nn.Sequential:
    """The convolutional part."""
    from torchvision.models import VGG16_Weights, vgg16

    try:
        return vgg16(weights=VGG16_Weights.IMAGENET1K_V1).features
    except (OSError, RuntimeError, pickle.UnpicklingError, EOFError) as error:  # offline, or a broken file
        raise missing_weights("VGG", "vgg16", error) from error
