"""A measured number with what is needed to judge it: how many images, how sure, by which network."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch
from torch import Tensor

Better = Literal["lower", "higher", "neither"]

RESAMPLES = 1000
GROUPS = 20  # sets of images left out in turn, at most
UNREAD = "could not be read"


@dataclass(frozen=True)
class Measure:
    """One figure of an evaluation.

    low, high: its 95 % interval over the images, None where there are too few to tell; n: images that it is of
    (pictures of one image belong together); extractor: the network behind it, with the hash of its weights, "" where
    there is none; better: which way is good; note: what to keep in mind, such as a set too small for its features.
    """

    name: str
    value: float
    low: float | None
    high: float | None
    n: int
    extractor: str = ""
    better: Better = "neither"
    note: str = ""

    @property
    def interval(self) -> tuple[float, float] | None:
        """(low, high), where there is one."""
        return None if self.low is None or self.high is None else (self.low, self.high)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def measure_mean(
    name: str, values: Tensor, *, extractor: str = "", better: Better = "neither", seed: int = 0, note: str = ""
) -> Measure:
    """The mean of one value an image [N], with its bootstrap interval. Raises ValueError for none."""
    return measure_ratio(
        name, values, torch.ones_like(values), extractor=extractor, better=better, seed=seed, note=note
    )


def measure_ratio(
    name: str,
    above: Tensor,
    below: Tensor,
    *,
    extractor: str = "",
    better: Better = "neither",
    seed: int = 0,
    note: str = "",
) -> Measure:
    """The sum of `above` over the sum of `below`, one entry an image each [N], with its bootstrap interval.

    Images without a value (NaN: a judge found nothing to read) do not count, and the note says how many; NaN where
    none has one. Raises ValueError for no image.
    """
    if not len(above):
        raise ValueError(f"{name}: no image to measure")
    above, below = above.cpu().double(), below.cpu().double()
    has = above.isfinite() & below.isfinite()
    lost = len(has) - int(has.sum())
    if lost:
        above, below = above[has], below[has]
        note = "; ".join(filter(None, (note, f"{lost} of {len(has)} images {UNREAD}")))
    value = ratio(above, below).item() if len(above) else math.nan
    low, high = bootstrap_interval(above, below, seed)
    return Measure(name, value, low, high, len(above), extractor, better, note)


def ratio(above: Tensor, below: Tensor) -> Tensor:
    """Sums over the last dimension, divided; 0 / 0 is 0."""
    return above.sum(dim=-1) / below.sum(dim=-1).clamp(min=1e-12)


def bootstrap_interval(
    above: Tensor, below: Tensor | None = None, seed: int = 0, resamples: int = RESAMPLES
) -> tuple[float | None, float | None]:
    """95 % percentile interval (Efron 1979) of a mean, or of a `ratio`, when images [N] are drawn anew, whole.

    It is that of `scipy.stats.bootstrap`, whose own random numbers would change every interval on record. (None,
    None) for one image.
    """
    n = len(above)
    if n < 2:
        return None, None
    below = torch.ones_like(above) if below is None else below
    picks = torch.randint(n, (resamples, n), generator=torch.Generator().manual_seed(seed))
    found = ratio(above[picks].double(), below[picks].double())  # [R]
    low, high = torch.quantile(found, torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    return low, high


def jackknife_interval(
    value: float,
    n: int,
    without: Callable[[Tensor], float],
    groups: int = GROUPS,
    bounds: tuple[float, float] = (-math.inf, math.inf),
) -> tuple[float | None, float | None]:
    """95 % interval of a distance between sets, by the delete-a-group jackknife (Quenouille 1956; Tukey 1958).

    The bootstrap is no use there: an image drawn twice is at distance 0 from itself and biases the result. `without`
    takes the rows that are kept, of n, and gives the distance without the others; bounds: what the distance can be at
    all. (None, None) for fewer than 4 images.
    """
    if n < 4:
        return None, None
    parts = torch.arange(n).tensor_split(min(n, groups))
    found = torch.tensor([without(_others(n, part)) for part in parts], dtype=torch.float64)
    g = len(found)
    error = ((g - 1) / g * (found - found.mean()).square().sum()).sqrt().item()
    return max(value - 1.96 * error, bounds[0]), min(value + 1.96 * error, bounds[1])


def _others(n: int, left_out: Tensor) -> Tensor:
    kept = torch.ones(n, dtype=torch.bool)
    kept[left_out] = False
    return kept.nonzero().flatten()


def as_dict(measures: Sequence[Measure]) -> dict[str, Measure]:
    """By name."""
    return {measure.name: measure for measure in measures}
