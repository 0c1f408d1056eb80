"""The start that a linear regression predicts from the target's features: for any generator, with nothing to train."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from latentopt.errors import StatisticsError
from latentopt.protocols import Generator, Initializer
from latentopt.statistics.at_hand import given_or_found
from latentopt.statistics.linear_prior import PRIOR, PooledFeatures
from latentopt.types import GeneratorInputs


class Linear(Initializer):
    """One code a layer, predicted by the linear prior that `latentopt fit-pnorm --prior` measured.

    prior    its file, instead of the one found for the generator
    weights  torchvision's file of the LPIPS backbone, where the features are LPIPS's and it should not be downloaded

    Raises StatisticsError where there is no prior, or the network that is here is not the one it was fitted with.
    """

    reads = {"prior": "linear prior", "weights": "file"}

    def __init__(self, generator: Generator, *, prior: str | None = None, weights: str | None = None) -> None:
        self.prior, path = given_or_found(PRIOR, generator, prior)
        self.features = PooledFeatures(generator, self.prior.network.partition(" ")[0], weights, self.prior.grids)
        wanted, here = (
            f"the {dim} features of {network}"
            for dim, network in (
                (len(self.prior.feature_mean), self.prior.network),
                (self.features.dim, self.features.network),
            )
        )
        if wanted != here:
            raise StatisticsError(
                f"{path}: linear prior for {wanted}; here they are {here}: "
                f"run {PRIOR.to_make(generator, '--overwrite')}"
            )

    def __call__(self, target: Tensor, seeds: Sequence[int]) -> GeneratorInputs:
        return self.prior.predict(self.features(target))
