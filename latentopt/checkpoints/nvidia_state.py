"""Networks in NVIDIA's layout as bare state dicts: their settings, which travel with a pickle, are inferred."""

from __future__ import annotations

import math
from collections.abc import Mapping

from torch import Tensor

from latentopt.checkpoints.missing import with_missing
from latentopt.checkpoints.nvidia import Settings, block_names, discriminator_config, generator_config, whole
from latentopt.checkpoints.weights import NetworkWeights, without_filters
from latentopt.errors import CheckpointError
from latentopt.generators.discriminator import Discriminator
from latentopt.generators.stylegan2 import StyleGAN2

REFINER = ".modify_feature_"  # in the names of what StyleRes put into a generator's block


def generator_weights(theirs: Mapping[str, Tensor], average: Tensor | None, where: str) -> NetworkWeights[StyleGAN2]:
    """Configuration and weights of a generator; `notes` say what was inferred.

    `average`, a mean of w [C], is used where the state has none. Raises CheckpointError for weights that are not one's.
    """
    refiner = [name for name in theirs if REFINER in name]
    theirs = {name: value for name, value in theirs.items() if REFINER not in name}
    state, f = without_filters(theirs, where)
    with whole(state, where):
        if "mapping.fc0.weight" not in state:
            raise CheckpointError(
                f"{where}: its synthesis network has no mapping network beside it; save both together"
            )
        names = [f"synthesis.{name}" for name in block_names(state, "synthesis.b", "conv1.weight")]
        multiplier = likely_lr_multiplier(state["mapping.fc0.weight"])
        config = generator_config(state, Settings(multiplier, _architecture(state, names, "torgb", "skip")))
    notes = (
        f"a state dict without settings: taken are a learning-rate multiplier of {multiplier:g} in the mapping (by the "
        f"size of its weights), architecture {config.architecture!r}, and no clamp of activations",
        *(["StyleRes's refiner in it is left out: --refine FILE takes it"] if refiner else []),
    )
    state, more = with_missing(state, config, average, where, len(theirs) - len(state))
    return NetworkWeights(config, state, f, notes + more)


def discriminator_weights(theirs: Mapping[str, Tensor], where: str) -> NetworkWeights[Discriminator]:
    """As `generator_weights`, for a discriminator."""
    state, f = without_filters(theirs, where)
    with whole(state, where):
        names = block_names(state, "b", "conv0.weight")
        mapped = state.get("mapping.fc0.weight")
        multiplier = 0.01 if mapped is None else likely_lr_multiplier(mapped)
        architecture = _architecture(state, ["b4", *names], "fromrgb", "skip")
        config = discriminator_config(state, Settings(multiplier, architecture), where)
    return NetworkWeights(config, state, f, ("a state dict without settings: NVIDIA's usual ones are taken",))


def likely_lr_multiplier(weight: Tensor) -> float:
    """The power of ten whose inverse is nearest to the spread of the weights, which begin at that."""
    spread = float(weight.float().std())
    if not (math.isfinite(spread) and spread > 0):
        return 0.01
    return float(min(max(10.0 ** round(-math.log10(spread)), 1e-4), 1.0))


def _architecture(state: Mapping[str, Tensor], blocks: list[str], layer: str, all_of_them: str) -> str:
    """`skip` where every block has its layer to or from colours, `resnet` where there are skips, else `orig`."""
    if all(f"{block}.{layer}.weight" in state for block in blocks) and len(blocks) > 1:
        return all_of_them
    return "resnet" if any(name.endswith(".skip.weight") for name in state) else "orig"
