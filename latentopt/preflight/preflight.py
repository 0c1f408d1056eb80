"""Before the optimisation: does a picture look misaligned, or unlike anything that the generator draws?

Not from a paper. A warm start (see latentopt.preflight.warm_start) is read for the picture and for the generator's
own samples: how far off it is, and how far out in P-norm+. The samples say what is usual; there are no thresholds in
absolute units. A warning, never a refusal.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from latentopt.errors import CheckpointError, StatisticsError
from latentopt.files.storage import STATISTICS_LIMIT, load_tensors, save_tensors
from latentopt.pictures.images import from_levels, from_uint8, to_uint8
from latentopt.preflight.moves import MOVES, Move
from latentopt.preflight.warm_start import NearestSample, WarmStart, draw, find_warm_start, sample_count
from latentopt.protocols import Generator
from latentopt.statistics.at_hand import FOLDERS, FileKind, files_of
from latentopt.watching.phases import phase

FORMAT = "latentopt-preflight-1"
SUFFIX = ".preflight.safetensors"
SEED = 11
FAR = 2.0  # in units of the way from the samples' median to their farthest 1 %, in logarithms
AT_ONCE = 1 << 17  # pixels: 32 small pictures
GAIN = 0.25  # how much nearer, in the same units, a move has to bring a misaligned picture


@dataclass(frozen=True)
class Scale:
    """What is usual: readings of the generator's own samples, [n]."""

    samples: Tensor

    @property
    def is_whole(self) -> bool:
        """Whether the readings can be a scale at all."""
        return self.samples.ndim == 1 and len(self.samples) >= 2 and bool(self.samples.isfinite().all())

    @cached_property
    def middle(self) -> float:
        return max(self.samples.median().item(), 1e-12)

    @cached_property
    def far(self) -> float:
        """What 1 % of the samples exceed."""
        return max(self.samples.quantile(0.99).item(), self.middle * (1 + 1e-6))

    def reach(self, value: float) -> float:
        """0: as the median sample; 1: as the farthest 1 %; 2: as far beyond those again, in logarithms."""
        return math.log(max(value, 1e-12) / self.middle) / math.log(self.far / self.middle)

    def percentile(self, value: float) -> float:
        return 100 * (self.samples < value).double().mean().item()


@dataclass(frozen=True)
class Verdict:
    """On one picture. looks: "usual", "misaligned" or "out of domain"; warning: what to tell and to do, "" for usual.

    distance of the warm start's picture, radius of its code (None: not known) and the percentiles among the samples.
    """

    looks: str
    warning: str
    distance: float
    distance_percentile: float
    radius: float | None
    radius_percentile: float | None
    short: str = ""  # the warning in a few words


@dataclass(frozen=True)
class Preflight:
    """A warm start and its readings of the generator's own samples."""

    start: WarmStart
    distance: Scale
    radius: Scale | None
    fingerprint: str

    @staticmethod
    def of(generator: Generator, samples: int | None = None) -> Preflight:
        """Calibrate on `samples` of `generator`; by default as latentopt.preflight.warm_start.sample_count says."""
        start, n = find_warm_start(generator), samples or sample_count(generator)
        return _calibrated(generator, NearestSample(generator, n) if isinstance(start, NearestSample) else start, n)

    @torch.no_grad()
    def check(self, images: Tensor) -> list[Verdict]:
        """images [B,3,H,W] in [-1,1], of the generator's size and on its device."""
        distances, radii = self.start(images)
        values = [None] * len(images) if radii is None else radii.tolist()
        return [self._judge(image[None], d, r) for image, d, r in zip(images, distances.tolist(), values, strict=True)]

    def _judge(self, image: Tensor, distance: float, radius: float | None) -> Verdict:
        reach = self.distance.reach(distance)
        outness = 0.0 if radius is None or self.radius is None else self.radius.reach(radius)
        looks, warning, short = "usual", "", ""
        move, moved = self._best_move(image) if max(reach, outness) > 1 else (None, distance)
        if move is not None and reach - self.distance.reach(moved) > GAIN:
            looks, short = "misaligned", f"looks misaligned ({move.words} it fits better)"
            warning = (
                f"looks misaligned: {move.words}, its warm start fits {distance / max(moved, 1e-12):.2g} times better; "
                "crop and align it as the generator's training pictures were"
            )
        elif max(reach, outness) > FAR:
            looks, short = "out of domain", "looks out of the generator's domain"
            warning = self._out_of_domain(distance, radius)
        among = None if radius is None or self.radius is None else self.radius.percentile(radius)
        return Verdict(looks, warning, distance, self.distance.percentile(distance), radius, among, short)

    def _best_move(self, image: Tensor) -> tuple[Move, float]:
        """image [1,3,H,W]. Large pictures are looked at one by one, so that they fit into memory."""
        at_once = max(1, AT_ONCE // image[0, 0].numel())
        moved = torch.cat([move(image) for move in MOVES])
        distances = torch.cat([self.start(part)[0] for part in moved.split(at_once)]).tolist()
        best = min(range(len(MOVES)), key=distances.__getitem__)
        return MOVES[best], distances[best]

    def _out_of_domain(self, distance: float, radius: float | None) -> str:
        text = (
            f"looks out of the generator's domain: its warm start is {distance / self.distance.middle:.2g} times as "
            f"far off as a sample's (1 % of samples exceed {self.distance.far / self.distance.middle:.2g})"
        )
        if radius is not None and self.radius is not None:
            text += f", P-norm radius {radius:.2g} (samples {self.radius.middle:.2g}, 1 % exceed {self.radius.far:.2g})"
        return (
            f"{text}; expect a poor likeness or poor edits: check that it is the right generator, use a space without "
            "a bound (recipe i2s) for likeness, or tune the weights too (latentopt tune)"
        )

    def save(self, path: Path) -> None:
        """Write the samples' readings as a `latentopt-preflight-1` safetensors file, atomically."""
        tensors = {"distance": self.distance.samples}
        if isinstance(self.start, NearestSample):
            tensors["pool"] = torch.from_numpy(to_uint8(self.start.pool)).movedim(-1, -3)
        if self.radius is not None:
            tensors["radius"] = self.radius.samples
        metadata = {"format": FORMAT, "fingerprint": self.fingerprint, "start": self.start.name, "seed": str(SEED)}
        save_tensors(path, tensors, metadata)

    @staticmethod
    def load(path: Path, start: WarmStart, generator: Generator) -> Preflight:
        """Read what `save` wrote. Raises StatisticsError for another generator's, another start's or a damaged file."""
        try:
            tensors, metadata = load_tensors(path, STATISTICS_LIMIT)
        except CheckpointError as error:
            raise StatisticsError(f"{error}; remove it, and it is made again") from error
        wanted = {"format": FORMAT, "fingerprint": generator.fingerprint, "start": start.name}
        wrong = [
            f"{key} {metadata.get(key)!r}, not {value!r}" for key, value in wanted.items() if metadata.get(key) != value
        ]
        if wrong:
            raise StatisticsError(f"{path}: calibration of another preflight ({'; '.join(wrong)})")
        scales = {key: Scale(tensors[key].float()) for key in ("distance", "radius") if key in tensors}
        if "distance" not in scales or not all(scale.is_whole for scale in scales.values()):
            raise StatisticsError(f"{path}: damaged: no readings [n] of samples in it; remove it, and it is made again")
        if isinstance(start, NearestSample):
            start = _pooled(path, generator, tensors)
        return Preflight(start, scales["distance"], scales.get("radius"), generator.fingerprint)


def _pooled(path: Path, generator: Generator, tensors: dict[str, Tensor]) -> NearestSample:
    """The nearest of the samples that are kept in the file. Raises StatisticsError where there are none."""
    pool, shape = tensors.get("pool"), NearestSample(generator).shape
    if pool is None or pool.dtype != torch.uint8 or tuple(pool.shape[1:]) != shape or not len(pool):
        raise StatisticsError(f"{path}: damaged: no samples [n,c,h,w] in it; remove it, and it is made again")
    return NearestSample(generator, len(pool), from_levels(pool).to(generator.device))


def find_preflight(generator: Generator) -> Preflight | None:
    """The calibration kept for `generator` as it is set up now, None where there is none.

    One that was made with another warm start (a linear prior fitted since) does not count, nor does a damaged one.
    """
    start = find_warm_start(generator)
    for path in files_of(PREFLIGHT, generator):
        try:
            return Preflight.load(path, start, generator)
        except StatisticsError:
            continue
    return None


@torch.no_grad()
def _calibrated(generator: Generator, start: WarmStart, n: int) -> Preflight:
    with phase("preflight", n, "samples") as advance:
        return _read(generator, start, draw(generator, SEED, n, advance))


def _read(generator: Generator, start: WarmStart, samples: Iterable[Tensor]) -> Preflight:
    distances, radii = [], []
    for images in samples:
        levels = torch.stack([from_uint8(to_uint8(image)) for image in images]).to(images)  # as targets are: 8-bit
        distance, radius = start(levels)
        distances.append(distance)
        radii += [] if radius is None else [radius]
    usual = Scale(torch.cat(radii)) if radii else None
    return Preflight(start, Scale(torch.cat(distances)), usual, generator.fingerprint)


PREFLIGHT = FileKind(
    "preflight",
    FORMAT,
    "preflight",
    FOLDERS[0],
    SUFFIX,
    "invert",
    lambda path, generator: Preflight.load(path, find_warm_start(generator), generator),
)
