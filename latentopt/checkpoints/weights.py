"""A network as configuration and weights, checked against each other before anything is built."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Generic

import torch
from torch import Tensor, nn

from latentopt.errors import CheckpointError
from latentopt.generators.config import Network, NetworkConfig
from latentopt.generators.network import GeneratorNetwork
from latentopt.generators.ops import fir_filter

LISTED = 5  # keys named in a message
W_AVG_SAMPLES = 10_000
FILTER = "resample_filter"


@dataclass(frozen=True)
class NetworkWeights(Generic[Network]):
    """One network of a file: state-dict names in the stylegan2-ada layout, the FIR filter apart.

    `resample_filter` is [4,4] with sum 1; `notes` say what the file lacked and what was put in its place.
    """

    config: NetworkConfig[Network]
    state: dict[str, Tensor]
    resample_filter: Tensor
    notes: tuple[str, ...] = ()


def looks_like(keys: Collection[str]) -> str:
    """What a state dict with these keys probably is, in words, for messages."""
    for marks, kind in MARKS:
        if any(key.startswith(marks) for key in keys):
            return kind
    return UNKNOWN


def described(contents: Mapping[str, Any]) -> str:
    """What the contents of a file look like, in words."""
    for key, value in contents.items():
        if isinstance(value, Mapping):
            if isinstance(value.get("latent"), Tensor):
                return "it looks like the latents of a projector, which latentopt edit takes"
            looks = looks_like([str(name) for name in value])
            if looks != UNKNOWN:
                return f"{str(key)!r} in it looks like {looks}"
    return f"it looks like {looks_like([str(key) for key in contents])}"


UNKNOWN = "no kind of model that latentopt knows"
MARKS = (
    (("model.diffusion_model.", "first_stage_model.", "down_blocks.", "unet.", "text_model."), "Stable Diffusion-like"),
    (("synthesis.input.", "synthesis.L0_"), "a StyleGAN3 generator"),
    (("synthesis.b4.", "mapping.fc0."), "a StyleGAN2 generator in NVIDIA's layout"),
    (("b4.conv.", "b4.fc."), "a StyleGAN2 discriminator in NVIDIA's layout"),
    (("style.1.", "to_rgb1."), "a StyleGAN2 generator in rosinality's layout"),
    (("final_conv.", "final_linear."), "a StyleGAN2 discriminator in rosinality's layout"),
    (("encoder.", "input_layer.", "body.0.", "styles.0."), "an encoder (pSp, e4e, ReStyle) or a face recogniser"),
    (("layer1.0.", "features.0.", "classifier.", "fc.weight", "lin0."), "an image classifier or perceptual network"),
)


def has_encoder(contents: Mapping[str, Any]) -> bool:
    """Whether a torch file has the weights of a released encoder (pSp, e4e, ReStyle, or the e4e of StyleRes)."""
    return _has(contents, "encoder.") or isinstance(contents.get("e4e"), dict)


def has_decoder(contents: Mapping[str, Any]) -> bool:
    """Whether an encoder's file has its generator too."""
    return _has(contents, "decoder.")


def _has(contents: Mapping[str, Any], prefix: str) -> bool:
    state = contents.get("state_dict")
    return isinstance(state, dict) and any(str(key).startswith(prefix) for key in state)


def without_filters(state: Mapping[str, Tensor], where: str) -> tuple[dict[str, Tensor], Tensor]:
    """The weights apart from the filters of NVIDIA's layout, and the one filter. Raises CheckpointError."""
    filters = {name: tensor for name, tensor in state.items() if name.split(".")[-1] == FILTER}
    return {name: x for name, x in state.items() if name not in filters}, single_filter(filters, where)


def single_filter(filters: Mapping[str, Tensor], where: str) -> Tensor:
    """The FIR filter that all layers share, [4,4]. Raises CheckpointError when they differ or have another size."""
    if not filters:
        return fir_filter()
    name, first = next(iter(filters.items()))
    if first.shape != (4, 4):
        raise CheckpointError(f"{where}: {name} has shape {tuple(first.shape)}; only 4x4 filters are supported")
    for other, f in filters.items():
        if f.shape != first.shape or not torch.allclose(f.float(), first.float(), rtol=1e-6, atol=1e-7):
            raise CheckpointError(f"{where}: the filters {name} and {other} differ; one for all layers is supported")
    return first


def build(weights: NetworkWeights[Network], where: str, may_lack: Collection[str] = ()) -> Network:
    """The network in evaluation mode, float32, on the CPU, without gradients; every weight comes from `weights`, but
    those named in `may_lack` are zero where they are not there.

    Raises CheckpointError for keys that are missing or left over, for other shapes and for values that are not finite.
    """
    config = weights.config
    try:
        if config.least_tensors() > len(weights.state):
            raise CheckpointError(f"{where}: its configuration asks for more layers than it has weights")
        with torch.device("meta"):  # takes no memory, whatever the configuration asks for
            network = config.build()
    except (TypeError, ValueError, RuntimeError, AttributeError, OverflowError, IndexError) as error:
        raise CheckpointError(f"{where}: its configuration cannot be built ({error})") from error
    empty = {name: torch.zeros_like(x, device="cpu") for name, x in network.state_dict().items() if name in may_lack}
    state = empty | weights.state | ({config.FILTER: weights.resample_filter} if config.FILTER else {})
    _check(network, state, where)
    network.load_state_dict({k: v.detach().float().contiguous() for k, v in state.items()}, strict=True, assign=True)
    return network.eval().requires_grad_(False)


def _check(network: nn.Module, state: Mapping[str, Tensor], where: str) -> None:
    wanted = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    missing, extra = sorted(wanted.keys() - state.keys()), sorted(state.keys() - wanted.keys())
    if missing or extra:
        parts = [
            f"{len(keys)} {word}: {_first(keys)}"
            for keys, word in ((missing, "missing"), (extra, "unexpected"))
            if keys
        ]
        raise CheckpointError(
            f"{where}: the weights do not fit: {'; '.join(parts)}. They look like {looks_like(state)}"
        )
    wrong = [
        f"{k} {tuple(state[k].shape)} instead of {shape}" for k, shape in wanted.items() if state[k].shape != shape
    ]
    if wrong:
        raise CheckpointError(f"{where}: {len(wrong)} weights have other shapes: {_first(wrong)}")
    broken = [k for k in wanted if not torch.isfinite(state[k]).all()]
    if broken:
        raise CheckpointError(f"{where}: {len(broken)} weights are not finite: {_first(broken)}; the file is damaged")


def _first(items: list[str]) -> str:
    return ", ".join(items[:LISTED]) + (", ..." if len(items) > LISTED else "")


def estimate_w_avg(generator: GeneratorNetwork, seed: int = 0) -> Tensor:
    """The mean of w over 10,000 seeded samples, [C]; labels of a conditional generator are drawn evenly."""
    rng = torch.Generator().manual_seed(seed)
    z = torch.randn(W_AVG_SAMPLES, generator.z_dim, generator=rng)
    c = None
    if generator.c_dim:
        c = torch.eye(generator.c_dim)[torch.arange(W_AVG_SAMPLES) % generator.c_dim]
    return generator.mapping(z, c).mean(dim=0)
