"""Frozen networks of the similarity loss, from files: ArcFace, ResNet-50 (MoCo v2, torchvision), our perceptual one.

Source: pSp's identity loss for faces (ArcFace on IR-SE-50); e4e, equation 4, for all else: C is a ResNet-50 trained
with MoCo v2, at 224 pixels, without the statistics of ImageNet (as in the authors' code).
"""

from __future__ import annotations

from pathlib import Path

from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d, interpolate, normalize

from latentopt.checkpoints.restricted_pickle import read_torch_file
from latentopt.encoders.backbone import IRSE50
from latentopt.errors import CheckpointError
from latentopt.perceptual.network import PerceptualNet, at_resolution, load_perceptual_net

MOCO_PREFIX = "module.encoder_q."
MOCO_SIZE = 224
ARCFACE_SIZE = 112
FACE = (35 / 256, 223 / 256, 32 / 256, 220 / 256)  # top, bottom, left, right of the face in aligned pictures


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


class ArcFace(nn.Module):
    """Identity of aligned faces: [B,3,H,W] in [-1,1] -> [B,512] of unit length."""

    def __init__(self, state: dict[str, Tensor]) -> None:
        super().__init__()
        self.trunk = IRSE50(3)
        width, side = self.trunk.channels[-1], ARCFACE_SIZE // 16
        self.output_layer = nn.Sequential(
            nn.BatchNorm2d(width), nn.Dropout(), nn.Flatten(), nn.Linear(width * side**2, 512), nn.BatchNorm1d(512)
        )
        own = {k if k.startswith("output_layer.") else f"trunk.{k}": v for k, v in state.items()}
        self.load_state_dict(own)

    def forward(self, image: Tensor) -> Tensor:
        height, width = image.shape[2:]
        top, bottom, left, right = (
            round(f * side) for f, side in zip(FACE, (height, height, width, width), strict=True)
        )
        return self.embed(adaptive_avg_pool2d(image[..., top:bottom, left:right], ARCFACE_SIZE))

    def embed(self, face: Tensor) -> Tensor:
        """A cropped face [B,3,112,112] -> [B,512]."""
        return normalize(self.output_layer(self.trunk(face)[-1]), dim=1)


def load_feature_net(path: Path) -> nn.Module:
    """A frozen network, in evaluation mode, on the CPU.

    Args:
        path: `.safetensors`: a perceptual network, as `latentopt train perceptual` writes; else the weights of
        ArcFace's
            IR-SE-50 or of a ResNet-50, MoCo's (`state_dict` with `module.encoder_q.*`) or torchvision's.

    Raises:
        CheckpointError: other files, a judge among them: what judges results must not be trained on.
    """
    if path.suffix == ".safetensors":
        net: nn.Module = TopFeatures(load_perceptual_net(str(path)))
        return net.eval().requires_grad_(False)
    contents = read_torch_file(path)
    state = contents.get("state_dict")
    state = state if isinstance(state, dict) else contents
    moco = {k.removeprefix(MOCO_PREFIX): v for k, v in state.items() if str(k).startswith(MOCO_PREFIX)}
    weights = {str(k): v for k, v in (moco or state).items() if isinstance(v, Tensor) and not str(k).startswith("fc.")}
    kind = ArcFace if "output_layer.3.weight" in weights else ResNetFeatures
    try:
        return kind(weights).eval().requires_grad_(False)
    except RuntimeError as error:
        raise CheckpointError(
            f"{path}: not the weights of ArcFace's IR-SE-50 or of a ResNet-50 (MoCo's, torchvision's): "
            f"{str(error)[:200]}"
        ) from error
