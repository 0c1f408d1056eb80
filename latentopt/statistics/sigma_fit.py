"""Estimating sigma from a generator's own samples, without data or training.

A weight on which the picture depends strongly gets a small sigma, and the other way round: sigma_i = c / sqrt(h_i), h
from `latentopt.statistics.curvature`, so that every weight's epsilon counts the same in the picture. It stands in for
the adversarial training by which WRanGAN learns sigma, and is not in that paper.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from latentopt.errors import StatisticsError, UsageError
from latentopt.files.outputs import clear_write_errors
from latentopt.protocols import Generator
from latentopt.statistics.at_hand import first_at_hand
from latentopt.statistics.curvature import FEATURES, Draws, batches, outputs_of, squared_gradients
from latentopt.statistics.sampling import drawn_at_once
from latentopt.statistics.sigma import SIGMA, Sigma
from latentopt.types import GeneratorInputs
from latentopt.watching.phases import phase, tell

SAMPLES = 256  # pictures from which h is estimated, by default
MEASURED = 64  # pictures on which the amount is measured
TOLERANCE = 0.005  # of the amount, relative
SEARCHES = 12  # steps of the search for the scale; it needs two to four
SMALL = 0.01  # of the amount: there a change of the picture is linear in the scale


def fit_sigma(
    generator: Generator,
    *,
    layers: str = "convs:6",
    samples: int = SAMPLES,
    probes: int = 1,
    amount: float = 0.1,
    features: str = "image",
    damping: float = 0.1,
    seed: int = 0,
    batch: int = 4,
    on_progress: Callable[[int], object] | None = None,
) -> Sigma:
    """`sigma_i = c / sqrt(h_i + damping * mean of h in the weight's layer)` for the weights that `layers` chooses.

    samples   pictures drawn; probes: backward passes for each
    amount    root-mean-square change of a pixel, images [-1,1], when every epsilon ~ N(0,1) at once: fixes c. It is
              measured on pictures and met within 0.5 % there
    features  what h is measured in: `image` (pixels) or `perceptual` (the features of the perceptual distance)
    damping   0 would let a weight without influence move without bound

    A weight tensor without any influence gets 0. Works in float32 whatever the generator's precision. `on_progress` is
    called with the number of samples after each batch. Deterministic; `batch` only changes speed and memory.

    Raises UsageError for options out of range, StatisticsError where the amount cannot be reached.
    """
    from latentopt.generators.tunable import choose_weights

    _check(samples, probes, amount, features, damping, batch)
    names = choose_weights(generator, layers)
    full = generator.in_float32()  # squares of gradients would underflow in 16 bits
    outputs, network = outputs_of(full, features)
    halves = squared_gradients(
        full, names, outputs, samples=samples, probes=probes, seed=seed, batch=batch, on_progress=on_progress
    )
    h = {name: (halves[0][name] + halves[1][name]) / 2 for name in names}
    unit = {name: inverse_root(h[name], damping) for name in names}  # sigma for c = 1
    c, measured, first_order = scale_to(full, unit, amount, seed=seed, batch=batch)
    roots = [[inverse_root(half[name], damping) for name in names] for half in halves]
    card = {
        "layers": layers,
        "samples": samples,
        "probes": probes,
        "features": features,
        "network": network,
        "damping": damping,
        "seed": seed,
        "amount": amount,
        "measured": measured,
        "first_order": first_order,
        "scale": c,
        "halves": correlation_within(*roots),
        "shares": _shares({name: (unit[name].square() * h[name]).sum().item() for name in names}),
    }
    return Sigma({name: c * unit[name] for name in names}, "estimated", generator.fingerprint, card=card)


def ensure_sigma(generator: Generator, layers: str) -> tuple[Sigma, Path]:
    """The sigma of `generator` and its file.

    Where the generator has none, one is estimated for `layers` from `SAMPLES` pictures and kept in the working folder.
    Raises as `fit_sigma` and `latentopt.statistics.at_hand.at_hand` do, LatentoptError where it cannot be kept.
    """
    found = first_at_hand(SIGMA, generator)
    if found is not None:
        return found
    path = SIGMA.new_path(generator)
    with clear_write_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    tell(f"{generator.name} has no sigma yet: estimating it on {SAMPLES} pictures, kept in {path}")
    with phase("estimating sigma", SAMPLES, "pictures") as advance:
        sigma = fit_sigma(generator, layers=layers, batch=drawn_at_once(generator, 4), on_progress=advance)
    with clear_write_errors(path):
        sigma.save(path)
    return sigma, path


def _check(samples: int, probes: int, amount: float, features: str, damping: float, batch: int) -> None:
    for name, value, least in (("samples", samples, 2), ("probes", probes, 1), ("batch", batch, 1)):
        if value < least:
            raise UsageError(f"{name} must be at least {least}, not {value}")
    if not 0 < amount < math.inf:
        raise UsageError(f"amount is a change of the picture, above 0 on the [-1,1] scale, not {amount}")
    if not 0 < damping < math.inf:
        raise UsageError(f"damping must be above 0, not {damping}")
    if features not in FEATURES:
        raise UsageError(f"features {features!r} is not one of {', '.join(FEATURES)}")


def inverse_root(h: Tensor, damping: float) -> Tensor:
    """`1 / sqrt(h + damping * mean(h))`; 0 where the whole tensor has no influence."""
    level = h.mean()
    return torch.zeros_like(h) if level == 0 else (h + damping * level).rsqrt()


def correlation_within(a: list[Tensor], b: list[Tensor]) -> float | None:
    """Correlation of log a and log b, each less its mean in the tensor; None where nothing varies."""
    pairs = [(x.log().flatten(), y.log().flatten()) for x, y in zip(a, b, strict=True) if (x * y).all()]
    if not pairs:
        return None
    x, y = (torch.cat([part - part.mean() for part in parts]) for parts in zip(*pairs, strict=True))
    norm = (x.norm() * y.norm()).item()
    return (x @ y).item() / norm if norm else None


def _shares(values: dict[str, float]) -> dict[str, float]:
    total = sum(values.values())
    return {name: value / total if total else 0.0 for name, value in values.items()}


def scale_to(
    generator: Generator, unit: dict[str, Tensor], amount: float, *, seed: int = 0, batch: int = 4
) -> tuple[float, float, float]:
    """The scale c at which sigma = c * unit changes the picture by `amount`; the change, measured and to first order.

    Every measurement draws the same w and epsilon, so that the search is for the root of one smooth function: in
    logarithms, the secant through the last two points. Raises StatisticsError where it does not end.
    """

    def change(c: float) -> float:
        return picture_change(generator, {name: c * x for name, x in unit.items()}, seed=seed, batch=batch)

    root = math.sqrt(sum(x.numel() for x in unit.values()))
    c = SMALL * amount / root  # with h of pixels this is SMALL * amount, or a little more
    moved = change(c)
    if not moved > 0:
        raise StatisticsError("the chosen weights have no influence on the picture; choose other layers")
    slope_at_zero, power = moved / c, 1.0  # the change grows as c^power
    points = [(math.log(c), math.log(moved))]
    for _ in range(SEARCHES):
        c = math.exp(points[-1][0] + (math.log(amount) - points[-1][1]) / power)
        moved = change(c)
        if not 0 < moved < math.inf:
            break
        if abs(moved / amount - 1) <= TOLERANCE:
            return c, moved, slope_at_zero * c
        points.append((math.log(c), math.log(moved)))
        (x0, y0), (x1, y1) = points[-2:]
        power = min(max((y1 - y0) / (x1 - x0), 0.2), 2.0)
    raise StatisticsError(
        f"no scale of sigma changes the picture by {amount:g} (last: {moved:.3g}); choose a smaller amount or more "
        "layers"
    )


@torch.no_grad()
def picture_change(
    generator: Generator, sigma: dict[str, Tensor], *, pictures: int = MEASURED, seed: int = 0, batch: int = 4
) -> float:
    """Root-mean-square change of a pixel by sigma * epsilon, epsilon ~ N(0,1) for every picture and weight anew."""
    draws, total, numbers = Draws(generator, seed, purpose=1), 0.0, 0
    for indices in batches(pictures, batch):
        ws, streams = draws.ws(indices)
        deltas = {
            name: torch.stack([torch.randn(x.shape, generator=rng) for rng in streams]).to(ws) * x.to(ws)
            for name, x in sigma.items()
        }
        moved = generator.synthesis(GeneratorInputs(ws, deltas=deltas)) - generator.synthesis(GeneratorInputs(ws))
        total += moved.cpu().double().square().sum().item()
        numbers += moved.numel()
    return math.sqrt(total / numbers)
