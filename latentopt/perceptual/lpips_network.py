"""The network of the `lpips` package (Zhang et al. 2018), its backbone from a file or downloaded once."""

from __future__ import annotations

import pickle
import warnings
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from latentopt.checkpoints.restricted_pickle import read_torch_file
from latentopt.errors import CheckpointError, MissingWeightsError

NETWORKS = {"vgg": "vgg16", "alex": "alexnet"}  # backbones, and what torchvision calls them


def load_lpips(backbone: str, weights: str | None = None) -> nn.Module:
    """The `lpips` package's network, frozen, in evaluation mode.

    Its backbone comes from the file `weights`, or is downloaded once by torchvision. The weights are looked for before
    the network is built, which takes a second or two.
    Raises MissingWeightsError when the backbone's weights cannot be had, CheckpointError when `weights` are none.
    """
    state = _downloaded(backbone) if weights is None else read_torch_file(Path(weights))
    import lpips

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="torchvision")  # lpips asks for weights in a deprecated way
        model = lpips.LPIPS(net=backbone, verbose=False, pnet_rand=True)
    _load_backbone(model.net, state, weights or f"torchvision's weights of {backbone}")
    return model.eval().requires_grad_(False)


def _downloaded(backbone: str) -> Mapping[str, Tensor]:
    """torchvision's weights of the backbone, by its own cache."""
    from torchvision.models import get_model_weights

    first = next(iter(get_model_weights(NETWORKS[backbone])))
    try:
        return first.get_state_dict(progress=False, check_hash=True)
    except (OSError, RuntimeError, pickle.UnpicklingError, EOFError) as error:  # offline, or a broken file
        raise missing_weights(f"LPIPS-{backbone}", NETWORKS[backbone], error) from error


def missing_weights(title: str, network: str, error: Exception) -> MissingWeightsError:
    """For torchvision's weights of `network` that cannot be had: what would help, whoever asks for them."""
    from torchvision.models import get_model_weights

    folder = Path(torch.hub.get_dir())
    file = folder / "checkpoints" / Path(next(iter(get_model_weights(network))).url).name
    return MissingWeightsError(
        f"the weights of {title} are not on this machine and could not be downloaded, or torchvision's copy under "
        f"{folder} is damaged ({error}). Connect once, or copy torchvision's file to {file}",
        network=title.lower(),
    )


def _load_backbone(net: nn.Module, state: Mapping[str, Tensor], source: str) -> None:
    """torchvision's weights (`features.N.weight`) into the slices of lpips (`sliceK.N.weight`)."""
    try:
        for name, parameter in net.named_parameters():
            parameter.data.copy_(state[f"features.{name.split('.', 1)[1]}"])
    except (KeyError, RuntimeError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{source}: not torchvision's weights of this backbone ({error})") from error
