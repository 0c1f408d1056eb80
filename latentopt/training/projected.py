"""A second discriminator, on frozen features at several scales: small heads that learn in a few thousand pictures.

Source: Sauer et al. 2021, "Projected GANs Converge Faster", sections 3.2 (random mixing across channels and scales) and
3.3 (one head a scale, spectral normalisation, hinge loss). Differences: the frozen networks are small (the bundled
perceptual net, one of random weights, or both); features are standardised first; heads see the spread within the batch
and have no batch normalisation; pictures are not augmented; the image discriminator stays beside them.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from latentopt.generators.discriminator import minibatch_std
from latentopt.perceptual.network import PerceptualNet, PerceptualNetConfig, load_perceptual_net
from latentopt.training.precision import autocast

WIDTH, FINEST = 64, 1024  # channels of the mixed features: min(FINEST / side, WIDTH)
HEAD_WIDTH, GROUP, SPREADS = 64, 8, 8
SEED = 20_211


class MixedFeatures(nn.Module):
    """Frozen features of `net`, mixed by random weights across channels (1x1) and, from coarse to fine, scales (3x3).

    Images [B,3,H,W] give S tensors [B,widths[s],H/2**(s+1),W/2**(s+1)]; the net's stage of full size is left out.
    """

    def __init__(self, net: PerceptualNet, sample: Tensor) -> None:
        """`sample` [N,3,H,W] are the images that the features are standardised on."""
        super().__init__()
        self.net = net
        stages = net.features(sample)[1:]
        self.widths = tuple(min(FINEST // stage.shape[-1], WIDTH) for stage in stages)
        self.sides = tuple(stage.shape[-1] for stage in stages)
        self.across_channels = nn.ModuleList()
        self.across_scales = nn.ModuleList()
        coarser = self.widths[-1]
        for stage, width in zip(reversed(stages), reversed(self.widths), strict=True):
            self.across_channels.append(_standardising(stage, coarser))
            mix = nn.Conv2d(coarser, width, 3, padding=1, bias=False)
            nn.init.normal_(mix.weight, std=(coarser * 9) ** -0.5)
            self.across_scales.append(mix)
            coarser = width
        self.eval().requires_grad_(False)

    def forward(self, image: Tensor) -> list[Tensor]:
        """The mixtures, the finest first."""
        stages = self.net.features(image)[1:]
        mixed: list[Tensor] = []
        for stage, channels, scales in zip(reversed(stages), self.across_channels, self.across_scales, strict=True):
            x = channels(stage)
            if mixed:
                x = (x + F.interpolate(mixed[-1], scale_factor=2.0, mode="bilinear")) * 0.5**0.5
            mixed.append(scales(x))
        return mixed[::-1]


def _standardising(stage: Tensor, width: int) -> nn.Conv2d:
    """A random 1x1 convolution of features like `stage` [N,C,h,w], whose channels it makes standard first."""
    mean, std = stage.mean(dim=(0, 2, 3)), stage.std(dim=(0, 2, 3)) + 1e-3  # [C]
    weight = torch.randn(width, len(mean)) * len(mean) ** -0.5 / std.cpu()  # [width,C]
    mix = nn.Conv2d(len(mean), width, 1)
    mix.load_state_dict({"weight": weight[:, :, None, None], "bias": -weight @ mean.cpu()})
    return mix.to(stage.device)


class FeatureHead(nn.Module):
    """The discriminator of one scale: features [B,C,h,h] give a logit for each of at most 4x4 places, [B,16]."""

    def __init__(self, channels: int, side: int) -> None:
        super().__init__()
        self.down = nn.ModuleList()
        while side > 4:
            self.down.append(spectral_norm(nn.Conv2d(channels, HEAD_WIDTH, 4, stride=2, padding=1)))
            channels, side = HEAD_WIDTH, side // 2
        self.spread = SPREADS if channels % SPREADS == 0 else 1
        self.join = spectral_norm(nn.Conv2d(channels + self.spread, HEAD_WIDTH, 3, padding=1))
        self.out = spectral_norm(nn.Conv2d(HEAD_WIDTH, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        for convolution in self.down:
            x = F.leaky_relu(convolution(x), 0.2)
        x = minibatch_std(x, GROUP, self.spread)
        return self.out(F.leaky_relu(self.join(x), 0.2)).float().flatten(1)


class FeatureHeads(nn.Module):
    """One head for each scale of each mixture: features, mixture after mixture, give logits [B,16 S]."""

    def __init__(self, mixtures: Sequence[MixedFeatures]) -> None:
        super().__init__()
        sizes = [size for mixture in mixtures for size in zip(mixture.widths, mixture.sides, strict=True)]
        self.heads = nn.ModuleList(FeatureHead(channels, side) for channels, side in sizes)

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        return torch.cat([head(x) for head, x in zip(self.heads, features, strict=True)], dim=1)


class ProjectedDiscriminator(nn.Module):
    """Frozen features and their heads: called on the `features` of images [B,3,H,W], it gives logits [B,16 S].

    Only the heads are trained, and a snapshot holds only them: the rest is made again from seeds and files.
    """

    frozen: nn.ModuleList
    heads: FeatureHeads

    def __init__(self, kind: str, sample: Tensor, precision: torch.dtype) -> None:
        """`kind` is one of FEATURES but none, `sample` [N,3,H,W] what the features are standardised on."""
        super().__init__()
        self.precision = precision
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(SEED)
            mixtures = [MixedFeatures(net.to(sample.device), sample) for net in frozen_nets(kind)]
            self.heads = FeatureHeads(mixtures).to(sample.device)
        self.frozen = nn.ModuleList(mixtures)
        self.frozen.to(sample.device, precision).to(memory_format=torch.channels_last)

    def features(self, image: Tensor) -> list[Tensor]:
        """What the heads see of images [B,3,H,W]; differentiable."""
        image = image.to(self.precision)
        return [x for mixture in self.frozen for x in mixture(image)]

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        with autocast(features[0].device, self.precision):
            return self.heads(features)


def frozen_nets(kind: str) -> list[PerceptualNet]:
    """The networks behind features of `kind`: the bundled perceptual net, one of random weights, or both."""
    nets = [load_perceptual_net("portraits")] if kind in ("perceptual", "both") else []
    if kind in ("random", "both"):
        nets.append(PerceptualNet(PerceptualNetConfig(attributes=())).eval().requires_grad_(False))
    return nets
