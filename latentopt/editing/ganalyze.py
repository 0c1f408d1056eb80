"""Directions that a judge's gradient finds (Goetschalckx et al. 2019, "GANalyze").

A hyperplane tells pictures with an attribute from those without, yet moving along its normal need not change the
attribute: whatever goes with it does as well. Here the step is learned for what it does to pictures: the attribute is
to rise by a for a steps, and the other attributes are to stay.

Deviations from the paper: the step is one of W, W+ or P (the paper: z), limited to rows of ws if asked for; what the
other attributes do is penalised, and so is the length of the step.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from latentopt.editing.direction import Direction
from latentopt.editing.scaling import in_deviations, reading_scales
from latentopt.editing.spaces import EditingSpace
from latentopt.errors import UsageError
from latentopt.judge.protocol import AttributeJudge, judge_name, log_odds
from latentopt.registry import nearest
from latentopt.statistics.sampling import sample_w, w_std
from latentopt.types import GeneratorInputs

STEPS, BATCH = 200, 8
REACH = 2.0  # strengths are drawn from -REACH to REACH
LR, FALL = 0.003, 1 / 3  # in radii of the cloud of w; the rate falls to 0 over the last third
DRIFT = 0.1  # of the squared changes of the other attributes, beside the squared error of its own
LENGTH = 0.5  # of the squared length of the step, in radii of the cloud
RAREST = 1e-7  # of probabilities: beyond it their log-odds have no gradient
POOL, HELD = 1024, 64  # samples to learn on, and to try the direction on


@dataclass(frozen=True, eq=False)
class Pool:
    """Samples, and what the judge reads of them. ws [n,L,C]; readings [n,A], binary attributes as log-odds; scales [A].

    An attribute whose scale is 0 has no unit, and counts for nothing.
    """

    ws: Tensor
    readings: Tensor
    scales: Tensor

    def in_deviations(self, change: Tensor) -> Tensor:
        """[B,A]; 0 for what is not known."""
        found = in_deviations(change, self.scales)
        return torch.where(found.isfinite(), found, 0.0)


def find_ganalyze(
    space: EditingSpace,
    judge: AttributeJudge,
    *,
    names: Sequence[str] | None = None,
    layers: Sequence[int] | None = None,
    steps: int = STEPS,
    seed: int = 0,
    label: int = 0,
    on_progress: Callable[[int], object] | None = None,
) -> list[Direction]:
    """A direction for each attribute of the judge in `names` (all by default), in `space`.

    Strength 1 is learned to change the attribute by one standard deviation of the generator's samples (binary ones: of
    their log-odds). What samples that it was not learned on do is recorded in deviations: `about["response"]`, its own
    change from strength -1 to 1, halved; `about["drift"]`, the root of the sum of the others' squared; and `score`, the
    share of samples that change the right way.

    layers: rows of ws that move, all by default. on_progress: called with 1 after each step, `steps` times a name.
    Raises UsageError for unknown names, rows that are not there, and a judge that gives no gradient or no numbers.
    """
    names = list(judge.attributes if names is None else names)
    for name in names:
        if name not in judge.attributes:
            raise UsageError(f"the judge does not read {name!r}{nearest(name, list(judge.attributes))}")
    rows = tuple(range(space.generator.num_ws) if layers is None else layers)
    pool = _pool(space, judge, seed, label)
    radius = w_std(space.generator)
    found = []
    for name in names:
        column = list(judge.attributes).index(name)
        if not pool.scales[column] > 0:
            raise UsageError(
                f"{name}: the judge reads the same, or nothing, of all samples; no direction can be learned"
            )
        step = _learned(space, judge, pool, column, rows, steps, seed, radius, on_progress)
        about = {"judge": judge_name(judge), "samples": len(pool.ws), "steps": steps, "seed": seed, "unit": "attribute"}
        vector = space.kind.whole(step, rows, space.generator.num_ws)
        moved = None if layers is None else rows
        direction = space.made(name, vector, layers=moved, method="ganalyze", about=about)
        found.append(_tried(space, judge, pool, name, column, direction))
    return found


def _pool(space: EditingSpace, judge: AttributeJudge, seed: int, label: int) -> Pool:
    ws = space.generator.broadcast(sample_w(space.generator, seed, POOL + HELD, label))
    with torch.no_grad():
        readings = torch.cat([_readings(space, judge, part) for part in ws.split(BATCH)])
    return Pool(ws, readings, reading_scales(readings))


def _readings(space: EditingSpace, judge: AttributeJudge, ws: Tensor) -> Tensor:
    """[B,A], with a gradient where ws [B,L,C] have one."""
    pictures = space.generator.synthesis(GeneratorInputs(ws)).float().clamp(-1, 1)
    found = judge.read(pictures)
    if not isinstance(found, Tensor) or (pictures.requires_grad and not found.requires_grad):
        raise UsageError(
            "the judge's read() has no gradient, which ganalyze needs; --method interfacegan asks for its labels alone"
        )
    return log_odds(judge, found, RAREST)


def _learned(
    space: EditingSpace,
    judge: AttributeJudge,
    pool: Pool,
    column: int,
    rows: tuple[int, ...],
    steps: int,
    seed: int,
    radius: float,
    on_progress: Callable[[int], object] | None,
) -> Tensor:
    """The step [r,C] in W+, [C] else: GANalyze's equation 1, with the two penalties."""
    shape = space.kind.shape(len(rows), space.generator.w_dim)
    step = torch.zeros(shape, device=pool.ws.device, requires_grad=True)
    optimizer = torch.optim.Adam([step], lr=LR * radius)
    rate = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda k: min(1.0, (steps - k) / (FALL * steps)))
    rng = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        picked = torch.randint(POOL, (BATCH,), generator=rng).to(pool.ws.device)
        strength = (REACH * (2 * torch.rand(BATCH, generator=rng) - 1)).to(step)
        moved = space.kind.move(GeneratorInputs(pool.ws[picked]), rows, strength[:, None, None] * step).ws
        change = pool.in_deviations(_readings(space, judge, moved) - pool.readings[picked])  # [B,A]
        others = change.square().sum(dim=1) - change[:, column].square()
        error = (change[:, column] - strength).square() + DRIFT * others
        loss = error.mean() + LENGTH * step.square().sum() / radius**2
        (step.grad,) = torch.autograd.grad(loss, [step])  # of the step alone, whatever else has gradients
        optimizer.step()
        rate.step()
        if on_progress is not None:
            on_progress(1)
    return step.detach()


@torch.no_grad()
def _tried(
    space: EditingSpace, judge: AttributeJudge, pool: Pool, name: str, column: int, direction: Direction
) -> Direction:
    """`direction` with its score, response and drift on the samples held out."""
    held = pool.ws[POOL:]
    more, less = (
        torch.cat([_readings(space, judge, direction.edit(GeneratorInputs(part), s).ws) for part in held.split(BATCH)])
        for s in (1, -1)
    )
    change = pool.in_deviations((more - less) / 2)  # [HELD,A]
    slope = change.mean(dim=0)
    drift = (slope.square().sum() - slope[column].square()).clamp(min=0).sqrt()
    found = {"response": round(slope[column].item(), 4), "drift": round(drift.item(), 4)}
    own = change[:, column]
    score = ((own > 0).float() + (own == 0).float() / 2).mean().item()  # no change is a guess
    return replace(direction, score=round(score, 4), about=direction.about | found)
