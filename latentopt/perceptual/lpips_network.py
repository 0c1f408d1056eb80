"""The network of the `lpips` package (Zhang et al. 2018), its backbone from a file or downloaded once."""

from __future__ import annotations

import pickle
import warnings
from pathlib import Path

import torch
from torch import nn

from latentopt.checkpoints.restricted_pickle import read_torch_file
from latentopt.errors import CheckpointError, MissingWeightsError


def load_lpips(backbone: str, weights: str | None = None) -> nn.Module:
    """The `lpips` package's network, frozen, in evaluation mode.

    Its backbone comes from the file `weights`, or is downloaded once by torchvision.
    Raises MissingWeightsError when the backbone's weights cannot be had, CheckpointError when `weights` are none.
    """
    import lpips

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="torchvision")  # lpips asks for weights in a deprecated way
        if weights is not None:
            model = lpips.LPIPS(net=backbone, verbose=False, pnet_rand=True)
            _load_backbone(model.net, Path(weights))
            return model.eval().requires_grad_(False)
        try:
            model = lpips.LPIPS(net=backbone, verbose=False)
        except (OSError, RuntimeError, pickle.UnpicklingError, EOFError) as error:  # offline, or a broken file
            raise MissingWeightsError(
                f"the weights of LPIPS-{backbone} are not on this machine and could not be downloaded, or "
                f"torchvision's copy under {torch.hub.get_dir()} is damaged ({error}). Connect once; or name "
                f"torchvision's file with weights = '...' in the perceptual term; or use another distance: "
                "--terms l2=1, or net = 'bundled'"
            ) from error
    return model.eval().requires_grad_(False)


def _load_backbone(net: nn.Module, path: Path) -> None:
    """torchvision's weights (`features.N.weight`) into the slices of lpips (`sliceK.N.weight`)."""
    state = read_torch_file(path)
    try:
        for name, parameter in net.named_parameters():
            parameter.data.copy_(state[f"features.{name.split('.', 1)[1]}"])
    except (KeyError, RuntimeError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{path}: not torchvision's weights of this backbone ({error})") from error
