"""A measured number with what is needed to judge it: how many images, how sure, by which network."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch
from torch import Tensor

Better = Literal["lower", "higher", "neither"]

RESAMPLES = 1000
GROUPS = 20  # sets of images left out in turn, at most


@dataclass(frozen=True)
class Measure:
    """One figure of an evaluation.

    low, high: its 95 % interval over the images, None where there are too few to tell; n: images that it is of (pictures
    of one image belong together); extractor: the network behind it, with the hash of its weights, "" where there is none;
    better: which way is good; note: what to keep in mind, such as a set too small for its features.
    """

    name: str
    value: float
    low: float | None
    high: float | None
    n: int
    extractor: str = ""
    better: Better = "neither"
    note: str = ""

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def measure_mean(
    name: str, values: Tensor, *, extractor: str = "", better: Better = "neither", seed: int = 0, note: str = ""
) -> Measure:
    """The mean of one value an image [N], with its bootstrap interval. Raises ValueError for none."""
    return measure_statistic(name, values, torch.mean, extractor=extractor, better=better, seed=seed, note=note)


def measure_statistic(
    name: str,
    rows: Tensor,
    statistic: Callable[[Tensor], Tensor],
    *,
    extractor: str = "",
    better: Better = "neither",
    seed: int = 0,
    note: str = "",
) -> Measure:
    """`statistic` of rows [N,...], one an image, with its bootstrap interval: images are drawn anew, whole.

    Raises ValueError for no image.
    """
    if not len(rows):
        raise ValueError(f"{name}: no image to measure")
    rows = rows.double().cpu()
    low, high = bootstrap_interval(rows, statistic, seed)
    return Measure(name, float(statistic(rows)), low, high, len(rows), extractor, better, note)


def bootstrap_interval(
    rows: Tensor, statistic: Callable[[Tensor], Tensor], seed: int = 0, resamples: int = RESAMPLES
) -> tuple[float | None, float | None]:
    """95 % percentile interval (Efron 1979) of `statistic` over resampled rows [N,...]; (None, None) for one row."""
    n = len(rows)
    if n < 2:
        return None, None
    picks = torch.randint(n, (resamples, n), generator=torch.Generator().manual_seed(seed))
    if statistic is torch.mean and rows.ndim == 1:
        found = rows[picks].double().mean(dim=1)  # the usual case, all at once
    else:
        found = torch.stack([statistic(rows[pick]).double() for pick in picks])
    low, high = torch.quantile(found[~found.isnan()], torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    return low, high


def jackknife_interval(
    value: float, n: int, without: Callable[[Tensor], float], groups: int = GROUPS
) -> tuple[float | None, float | None]:
    """95 % interval of a distance between sets, by the delete-a-group jackknife (Quenouille 1956; Tukey 1958).

    The bootstrap is no use there: an image drawn twice is at distance 0 from itself and biases the result. `without` takes
    the rows that are kept, of n, and gives the distance without the others. (None, None) for fewer than 4 images.
    """
    if n < 4:
        return None, None
    parts = torch.arange(n).tensor_split(min(n, groups))
    found = torch.tensor([without(_others(n, part)) for part in parts], dtype=torch.float64)
    g = len(found)
    error = ((g - 1) / g * (found - found.mean()).square().sum()).sqrt().item()
    return value - 1.96 * error, value + 1.96 * error


def _others(n: int, left_out: Tensor) -> Tensor:
    kept = torch.ones(n, dtype=torch.bool)
    kept[left_out] = False
    return kept.nonzero().flatten()


def as_dict(measures: Sequence[Measure]) -> dict[str, Measure]:
    """By name."""
    return {measure.name: measure for measure in measures}
