"""The linear prior: a ridge regression from a picture's features to P-norm+, fitted on the generator's own samples.

Not from a paper: the regression counterpart of an encoder, for generators that have none. x [D] are pooled features of
a perceptual network, v [L,C] the whitened codes of the layers (`latentopt.statistics.pnorm`).
B images, L = num_ws, C = w_dim.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, TypedDict

import torch
import torch.nn.functional as F
from torch import Tensor

from latentopt.errors import CheckpointError, StatisticsError
from latentopt.files.schema import parse_json
from latentopt.files.storage import STATISTICS_LIMIT, load_tensors, save_tensors
from latentopt.files.text import to_run
from latentopt.perceptual.features import PerceptualFeatures
from latentopt.protocols import Generator
from latentopt.statistics.at_hand import FOLDERS, FileKind
from latentopt.statistics.pnorm import SLOPE, PNormBasis, check_slope
from latentopt.types import GeneratorInputs

FORMAT = "latentopt-prior-1"
SUFFIX = ".prior.safetensors"
HALVES = ("reduce", "expand")  # stored in 16 bits: by far the largest, and no more exact than the samples make them
SHAPES = {
    "reduce": "DR",
    "expand": "RLC",
    "intercept": "LC",
    "feature_mean": "D",
    "feature_scale": "D",
    "mean": "C",
    "components": "CC",
    "std": "C",
    "r2": "C",
}


class PooledFeatures:
    """Averages of a perceptual network's stages over a few grids: image [B,3,H,W] in [-1,1] -> x [B,D].

    `net` and `weights` as in `latentopt.perceptual.features.PerceptualFeatures`; `grids`: a side for each stage, by
    default `default_grids`. `network` names the network with its weights' hash.
    """

    def __init__(
        self,
        generator: Generator,
        net: str = "auto",
        weights: str | None = None,
        grids: Sequence[int] | None = None,
    ) -> None:
        self.perceptual = PerceptualFeatures(generator, net, weights=weights)
        widths = self.perceptual.widths
        self.grids = tuple(grids or default_grids(widths))
        if len(self.grids) != len(widths) or min(self.grids) < 1:
            raise StatisticsError(f"grids {self.grids} do not fit the {len(widths)} stages of {self.network}")
        self.dim = sum(width * n * n for width, n in zip(widths, self.grids, strict=True))  # D

    @property
    def network(self) -> str:
        return self.perceptual.network

    @torch.no_grad()
    def __call__(self, image: Tensor) -> Tensor:
        stages = self.perceptual.extract(image.float())
        return torch.cat([_pool(x, n).flatten(1) for x, n in zip(stages, self.grids, strict=True)], dim=1)


class PriorCard(TypedDict):
    """What the card of a prior says of its fit, at least."""

    n: int
    seed: int
    ridge: float
    share: float


MOST_FEATURES = 4096


def default_grids(widths: Sequence[int]) -> tuple[int, ...]:
    """How finely each stage is averaged: 4x4 and 2x2 for the two deepest stages where that is at most 4096 numbers.

    Deep stages on fine grids predict best; the other stages and the small image itself add next to nothing.
    """
    early = (1,) * max(len(widths) - 2, 0)
    choices = [(*early, *last)[-len(widths) :] for last in ((2, 4), (1, 2), (1, 1))]
    sizes = [sum(w * n * n for w, n in zip(widths, choice, strict=True)) for choice in choices]
    return next((choice for choice, size in zip(choices, sizes, strict=True) if size <= MOST_FEATURES), choices[-1])


def _pool(x: Tensor, n: int) -> Tensor:
    return F.adaptive_avg_pool2d(x.float(), n)


@dataclass(frozen=True, eq=False)
class LinearPrior:
    """v = intercept + (x - feature_mean) / feature_scale @ reduce @ expand, pulled into the ball of radius sqrt(C).

    reduce [D,R], expand [R,L,C], intercept [L,C]; feature_mean, feature_scale [D]; mean [C], components [C,C], std [C]:
    the P-norm statistics that v is measured in, carried along so that others found later cannot be confused with them;
    r2 [C]: share of each component's variance explained, cross-validated, mean over the layers. All float32.

    `network` made the features, averaged over `grids`, of samples of the generator with this `fingerprint`; `card`
    tells how it was fitted (n, seed, ridge, share: of the variance in P, the folds ...).

    Raises StatisticsError for what cannot be one.
    """

    reduce: Tensor
    expand: Tensor
    intercept: Tensor
    feature_mean: Tensor
    feature_scale: Tensor
    mean: Tensor
    components: Tensor
    std: Tensor
    r2: Tensor
    fingerprint: str
    network: str
    grids: tuple[int, ...]
    slope: float = SLOPE
    card: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        sizes: dict[str, int] = {}
        for name, letters in SHAPES.items():
            values = getattr(self, name).detach().to("cpu", torch.float32)
            wanted = [sizes.setdefault(x, n) for x, n in zip(letters, values.shape, strict=False)]
            if values.ndim != len(letters) or list(values.shape) != wanted or 0 in wanted:
                raise StatisticsError(
                    f"{name} is {list(values.shape)}, which does not fit the rest (D, R, L, C: {sizes})"
                )
            if not values.isfinite().all():
                raise StatisticsError(f"{name} holds values that are not finite")
            object.__setattr__(self, name, values)
        if (self.std <= 0).any() or (self.feature_scale <= 0).any():
            raise StatisticsError("std and feature_scale must be positive")
        check_slope(self.slope)

    @property
    def share(self) -> float:
        """The expected share of the variance in P that a prediction explains, on samples of the generator."""
        return float(self.card.get("share", float("nan")))

    @cached_property
    def basis(self) -> PNormBasis:
        return PNormBasis(self.mean, self.components, self.std, self.slope)

    def codes(self, x: Tensor) -> Tensor:
        """x [B,D] -> v [B,L,C], each layer at most as far from the origin as a typical sample, sqrt(C).

        The predictions are shorter than samples, as those of every regression; they are not stretched: that made the
        pictures worse.
        """
        v = self.regress(x)
        return v * (v.shape[2] ** 0.5 / v.norm(dim=2, keepdim=True).clamp_min(1e-12)).clamp_max(1)

    def regress(self, x: Tensor) -> Tensor:
        """x [B,D] -> v [B,L,C] as the regression has it, however far out."""
        scaled = (x.cpu().float() - self.feature_mean) / self.feature_scale
        return self.intercept + (scaled @ self.reduce @ self.expand.flatten(1)).unflatten(1, self.intercept.shape)

    def predict(self, x: Tensor) -> GeneratorInputs:
        """x [B,D] -> the latents, on the device of x."""
        return GeneratorInputs(self.basis.unwhiten(self.codes(x)).to(x.device))

    def save(self, path: Path) -> None:
        """Write a safetensors file, atomically; `reduce` and `expand` in float16."""
        tensors = {name: getattr(self, name) for name in SHAPES}
        tensors |= {name: tensors[name].half() for name in HALVES}
        metadata = {"fingerprint": self.fingerprint, "network": self.network, "slope": str(self.slope)}
        metadata |= {"grids": json.dumps(self.grids)}
        save_tensors(Path(path), tensors, {"format": FORMAT, **metadata, "card": json.dumps(self.card)})

    @staticmethod
    def load(path: Path, generator: Generator | None = None) -> LinearPrior:
        """Read what `save` wrote; with a generator given, another one's is refused.

        Raises StatisticsError, naming file and remedy.
        """
        path = Path(path)
        try:
            tensors, metadata = load_tensors(path, 4 * STATISTICS_LIMIT)
            if metadata.get("format") != FORMAT:
                raise StatisticsError(f"its format is {metadata.get('format')!r}, not {FORMAT!r}")
            prior = LinearPrior(
                **{name: tensors[name] for name in SHAPES},
                fingerprint=metadata["fingerprint"],
                network=metadata["network"],
                grids=parse_json(metadata["grids"], tuple[int, ...]),
                slope=float(metadata["slope"]),
                card=parse_json(metadata["card"], PriorCard),
            )
        except (StatisticsError, CheckpointError, KeyError, ValueError, TypeError) as error:
            text = f"it lacks {error}" if isinstance(error, KeyError) else str(error).removeprefix(f"{path}: ")
            raise StatisticsError(f"{path}: not a usable linear prior: {text}") from error
        if generator is not None and prior.fingerprint != generator.fingerprint:
            raise StatisticsError(
                f"{path}: linear prior of generator {prior.fingerprint}, not of {generator.name!r} "
                f"({generator.fingerprint}); run {to_run('fit-pnorm --prior', generator.source)}"
            )
        return prior


def prior_path(statistics: Path) -> Path:
    """Where the prior lies: beside the P-norm statistics, `<name>.prior.safetensors`."""
    return statistics.with_name(statistics.stem + SUFFIX)


PRIOR = FileKind("linear prior", FORMAT, "prior", FOLDERS[0], SUFFIX, "fit-pnorm --prior", LinearPrior.load)
