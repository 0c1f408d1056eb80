"""Model corruption (Sevriugov and Oseledets, WRanGAN, section 3.1): how far tuning to one image changed all the others.

The image's latent is shifted at random; the pictures of the tuned generator are compared with those of the untouched
one, drawn from the same latents and noise. It measures change, not quality: without a delta both distances are 0
exactly.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import sqrt
from typing import Any

import torch
from torch import Tensor

from latentopt.errors import UsageError
from latentopt.evaluation.distribution import frechet_distance, paired_kernel_distance
from latentopt.evaluation.measure import measure_mean
from latentopt.evaluation.subject import Found, Subject
from latentopt.inverting.outcome import Change
from latentopt.judge.network import Judge, load_judge
from latentopt.perceptual.network import weights_hash
from latentopt.protocols import Generator
from latentopt.recipe.recipe import Recipe
from latentopt.statistics.sampling import drawn_at_once, sample_w, w_std
from latentopt.types import GeneratorInputs, LayerTensors

DIRECTIONS = ("samples", "isotropic")
FEWEST_PICTURES, MOST_PICTURES = 16, 64  # that `latentopt tune` draws by itself
BATCH = 25

OnProgress = Callable[[int], object]


def nobody(count: int) -> None:
    """Is told of progress, and does nothing; a lambda could not go to another process."""


@dataclass(frozen=True)
class Corruption:
    """Distances of n shifted pictures of the tuned generator from the same ones of the untouched, in judge features.

    frechet: Frechet distance (n of a few hundred at least, or the covariances mean nothing); kernel: kernel distance
    of paired sets, mean over subsets, and its deviation `kernel_std`; extractor: the network, its weights' hash, what
    it reads.
    """

    frechet: float
    kernel: float
    kernel_std: float
    n: int
    extractor: str


def change_by(n: int, on_progress: OnProgress = nobody) -> Change | None:
    """What the Inverter records of a tuned generator (`Inverter.change`): corruption by `n` pictures. None for 0."""
    return SampleCorruption(n, on_progress) if n else None


def fitting_pictures(tuning: Recipe) -> int:
    """How many pictures are drawn for the record where nobody says it: a few per cent of the tuning's work; 0 if few.

    A step draws a picture and its gradient, and reads it: the work of four or five pictures that are only drawn.
    """
    n = min(MOST_PICTURES, sum(stage.steps for stage in tuning.stages if stage.spaces("deltas")) // 8)
    return n if n >= FEWEST_PICTURES else 0


class SampleCorruption:
    """How far tuning moved `n` samples of the generator, the same ones for all images.

    It differs from `corruption`, the paper's, in where it looks: there around the image's own latent. The untouched
    pictures are drawn once. on_progress: called with the number of pictures after each batch.
    """

    def __init__(self, n: int, on_progress: OnProgress = nobody, seed: int = 0) -> None:
        if n < 4:
            raise UsageError(f"corruption needs at least 4 pictures, not {n}")
        self.n, self.on_progress, self.seed = n, on_progress, seed
        self._untouched: tuple[str, Judge, Tensor] | None = None  # of the generator with this fingerprint
        self._last: tuple[LayerTensors, Corruption] | None = None

    def __call__(self, generator: Generator, inputs: GeneratorInputs) -> tuple[dict[str, float], dict[str, object]]:
        found = self.of(generator, inputs.deltas or {})
        how: dict[str, object] = {"images": self.n, "extractor": found.extractor, "around": "samples"}
        return {"frechet": found.frechet, "kernel": found.kernel}, {"corruption": how}

    def of(self, generator: Generator, deltas: LayerTensors) -> Corruption:
        """Of one change of the weights, first dimensions 1; asked for the same tensors again, it does not draw."""
        if self._last is not None and _same_tensors(self._last[0], deltas):
            return self._last[1]
        if self._untouched is None or self._untouched[0] != generator.fingerprint:
            judge = load_judge("portraits").to(generator.device)
            self._untouched = generator.fingerprint, judge, self._features(generator, judge, None)
        _, judge, untouched = self._untouched
        tuned = self._features(generator, judge, deltas)
        self._last = deltas, compare(untouched, tuned, extractor_name(judge, generator), self.seed)
        return self._last[1]

    def _features(self, generator: Generator, judge: Judge, deltas: LayerTensors | None) -> Tensor:
        """[n,F]"""
        w = sample_w(generator, self.seed, self.n)
        origin = GeneratorInputs(torch.zeros_like(generator.broadcast(w[:1])), deltas=deltas)
        return shifted_features(generator, origin, w, judge, drawn_at_once(generator, BATCH), self.on_progress)


def _same_tensors(first: LayerTensors, second: LayerTensors) -> bool:
    return first.keys() == second.keys() and all(x.data_ptr() == second[name].data_ptr() for name, x in first.items())


def corruption(
    generator: Generator,
    inputs: GeneratorInputs,
    *,
    n: int = 1000,
    seed: int = 0,
    judge: Judge | None = None,
    batch: int = BATCH,
    directions: str = "samples",
    on_progress: OnProgress = nobody,
) -> Corruption:
    """Draw 2n pictures around one image's latent, with its weight deltas and without, and compare them.

    Args:
        inputs: one image's, deltas included; explicit noise maps and residuals are used in both sets, other noise is
            the generator's constant.
        seed: of the shifts; the same seed gives all images and strategies the same shifts.
        judge: the bundled portraits' by default; it resizes other generators' pictures, and means less there.
        batch: pictures drawn at once; the result depends on it by rounding only.
        directions: see `random_shifts`.
        on_progress: called with the number of pictures after each batch, 2n in all.

    Raises:
        UsageError: inputs of more than one image, fewer than 4 pictures, or unknown directions.
    """
    if len(inputs) != 1:
        raise UsageError(f"corruption is measured for one image at a time, not {len(inputs)}")
    if n < 4 or batch < 1:
        raise UsageError(f"corruption needs at least 4 pictures in batches of at least 1, not {n} in {batch}")
    judge = judge or load_judge("portraits").to(generator.device)
    shifts = random_shifts(generator, n, seed, directions)
    tuned, untouched = (
        shifted_features(generator, source, shifts, judge, batch, on_progress)
        for source in (inputs, inputs.replace(deltas=None))
    )
    return compare(untouched, tuned, extractor_name(judge, generator), seed)


def random_shifts(generator: Generator, n: int, seed: int, directions: str = "samples") -> Tensor:
    """n shifts of w [n,C] whose root mean square norm is the radius of the cloud of w.

    The paper says: random directions, norm as the characteristic size of the style space. `samples` reads this as the
    difference of two random w over sqrt(2), which has the covariance of W: a shift is what a typical edit looks like.
    `isotropic` takes directions uniformly from the sphere, all of that norm; most of them lead out of W.

    Raises UsageError for directions of another name.
    """
    if directions == "samples":
        first, second = sample_w(generator, seed, 2 * n).chunk(2)
        return (first - second) / sqrt(2)
    if directions == "isotropic":
        normal = torch.randn(n, generator.w_dim, generator=torch.Generator().manual_seed(seed))
        return (normal / normal.norm(dim=1, keepdim=True) * w_std(generator)).to(generator.device)
    raise UsageError(f"directions {directions!r} is not one of {', '.join(DIRECTIONS)}")


@torch.no_grad()
def shifted_features(
    generator: Generator,
    inputs: GeneratorInputs,
    shifts: Tensor,
    judge: Judge,
    batch: int = BATCH,
    on_progress: OnProgress = nobody,
) -> Tensor:
    """Judge features [n,F] of one image's `inputs` with each of shifts [n,C] added to every row of its ws."""
    parts = []
    for part in shifts.split(batch):
        moved = inputs.with_latents(inputs.ws + part[:, None])  # [b,L,C]; deltas of first dimension 1 stay shared
        parts.append(judge.features(generator.synthesis(moved).float().clamp(-1, 1)))
        on_progress(len(part))
    return torch.cat(parts)


def compare(untouched: Tensor, tuned: Tensor, extractor: str, seed: int = 0) -> Corruption:
    """The distances of two sets of features [n,F] whose rows belong together; `seed` draws the subsets."""
    kernel = paired_kernel_distance(untouched, tuned, seed=seed)
    return Corruption(frechet_distance(untouched, tuned), kernel.mean, kernel.std, len(tuned), extractor)


def extractor_name(judge: Judge, generator: Generator) -> str:
    """The network behind the features, its weights' hash, and whether pictures were resized for it."""
    side = judge.config.resolution
    resized = "" if generator.resolution == (side, side) else f", pictures resized to {side}x{side}"
    return f"judge features {weights_hash(judge)}{resized}"


def tuned_corruption(subject: Subject) -> Found:
    """How far tuning moved the generator's other pictures (WRanGAN, Table 4): the recorded figures, or measured now."""
    tuned = [i for i, inputs in enumerate(subject.inputs) if inputs.deltas]
    rows: list[dict[str, Any]] = [{} for _ in subject.inputs]
    if not tuned:
        return Found()
    kinds, extractors = set(), set()
    for i in tuned:
        record = subject.results[i].manifest
        known = record.get("corruption") or {}
        figures = {name: record["metrics"].get(name) for name in ("frechet", "kernel")}
        if None not in figures.values() and known.get("images") and known.get("around") != "samples":
            rows[i] = {f"corruption_{name}": value for name, value in figures.items()}
            kinds.add(known["images"])
            extractors.add(known["extractor"])
        elif subject.amounts.corruption:
            judge = subject.extract if isinstance(subject.extract, Judge) else None
            found = corruption(
                subject.generator, subject.inputs[i], n=subject.amounts.corruption, seed=subject.seed, judge=judge
            )
            rows[i] = {"corruption_frechet": found.frechet, "corruption_kernel": found.kernel}
            kinds.add(found.n)
            extractors.add(found.extractor)
    measures = []
    for name in ("corruption_frechet", "corruption_kernel"):
        values = torch.tensor([row[name] for row in rows if name in row], dtype=torch.float64)
        if len(values):
            note = f"of {' or '.join(map(str, sorted(kinds)))} pictures an image"
            extractor = "; ".join(sorted(extractors))
            measures.append(
                measure_mean(name, values, extractor=extractor, better="lower", seed=subject.seed, note=note)
            )
    return Found(measures, rows)
