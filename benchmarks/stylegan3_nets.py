"""The StyleGAN3 nets that the benchmarks are about: the reference's, of random weights, and official sizes."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file

from latentopt.checkpoints.networks import load_generator
from latentopt.checkpoints.stylegan3 import weights_of_state
from latentopt.checkpoints.weights import build
from latentopt.generators.stylegan3 import StyleGAN3
from latentopt.generators.stylegan3_config import StyleGAN3Config

REFERENCE = Path(__file__).parent.parent / "tests" / "reference" / "stylegan3_nvidia"
NAMES = {"T": "t32", "R": "r32"}
CONTRAST = 0.25  # of the random nets' own: their pictures exceed [-1,1]
PORTRAITS = "portraits"  # the T net that `stylegan3_train.py` trains


def small_net(kind: str) -> StyleGAN3:
    """At 32 pixels: T or R of random weights, or the one that draws portraits."""
    if kind == PORTRAITS:
        return load_generator(Path(__file__).parent / "nets" / "portraits-t32.safetensors")
    generator = reference_net(kind)
    generator.synthesis.output_scale *= CONTRAST
    return generator


def reference_net(kind: str) -> StyleGAN3:
    """T or R at 32 pixels, whose biases and mean squares were set from the data, as in trained nets."""
    tensors = load_file(REFERENCE / f"{NAMES[kind]}.safetensors")
    state = {key.removeprefix("state/"): x for key, x in tensors.items() if key.startswith("state/")}
    generator = build(weights_of_state(state, None, kind), kind)
    generator.name = NAMES[kind]
    return generator


def official_net(kind: str, size: int, channel_base: int) -> StyleGAN3:
    """The paper's T or R of random weights; R has twice the channels, 1x1 convolutions and radial filters."""
    wide = 2 if kind == "R" else 1
    channels = StyleGAN3Config.planned(size, wide * channel_base, wide * 512, 14)
    torch.manual_seed(0)
    config = StyleGAN3Config(512, 512, size, channels, conv_kernel=1 if kind == "R" else 3, radial_filters=kind == "R")
    return config.build().eval().requires_grad_(False)
