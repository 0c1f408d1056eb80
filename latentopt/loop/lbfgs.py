"""L-BFGS with a history, a line search and an end of its own for every image of a batch.

Source: Nocedal and Wright 2006, algorithms 3.1 (backtracking) and 7.4; the product with the inverse Hessian in the
compact form of Byrd, Nocedal and Schnabel 1994, theorem 2.2, which reads the history in a few large products.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from latentopt.errors import UsageError
from latentopt.loop.lbfgs_tables import Array, beside, coefficients, dot, host, with_history
from latentopt.loop.state import over
from latentopt.protocols import IMAGES, Generator, Memory, Optimizer
from latentopt.types import Variables

SHORTEST, LONGEST = 0.1, 0.5  # of the length that failed: what quadratic interpolation is held to
ROUNDING = 1e-3  # relative rise of the loss that is no failure where the generator runs in 16 bits
LINE = ("begun", "loss", "length", "tries", "pairs", "sy", "yy", "s_g", "y_g")  # small tables of the memory
CURVED = 1e-8  # a pair is kept if s.y is above this times |s||y|


class LBFGS(Optimizer):
    """One measurement a step: a trial point. An image whose trial fails tries a shorter way from its last accepted
    point in the next step, while the others go on.

    history  pairs kept of each image; a pair takes twice the memory of the variables
    c1       share of the promised fall of the loss that a trial must show (Armijo)
    tries    failed trials in a row after which an image's history is forgotten

    The stage's `lr` is the length of the first step, along the gradient; after that the history gives the length. Where
    the space pulls a trial back (a clip), the trial is judged by the way that it really went.

    Memory: `begun`, whether a point is accepted; `loss`, `length` and `tries` of the line search; the `point` and
    `gradient` accepted last and the `way` from there, of which `length` times is tried, [b,D] over all variables; the
    pairs `s` and `y` [b,<=H,D], of which `pairs` were found since the history was empty; `sy` and `yy` [b,H,H], the
    products of all s with all y, and of all y; `s_g` and `y_g` [b,H], those with the gradient.
    """

    compares = True
    grows = frozenset({"s", "y"})
    examples = ({}, {"history": 2})

    def __init__(self, generator: Generator, *, history: int = 10, c1: float = 1e-4, tries: int = 6) -> None:
        for name, value in (("history", history), ("tries", tries)):
            if value < 1:
                raise UsageError(f"lbfgs: {name} must be at least 1, not {value}")
        if not 0 <= c1 < 1:
            raise UsageError(f"lbfgs: c1 must be from 0 to 1, not {c1}")
        self.history, self.c1, self.tries = history, c1, tries
        self.rounding = ROUNDING if generator.precision.itemsize < 4 else 0.0

    @np.errstate(all="ignore")  # as torch: what is not finite is told by the comparisons
    def step(
        self,
        variables: Variables,
        gradients: Variables,
        loss: Tensor,
        memory: Memory,
        lr: Mapping[str, float],
        scale: Tensor,
    ) -> None:
        if len({len(v) for v in variables.values()}) > 1:
            raise UsageError(
                "lbfgs searches along one line for all variables of an image, and some of these belong to all images: "
                "share all variables or none, or use another optimizer"
            )
        x, gradient = _joined(variables), _joined({name: gradients[name] for name in variables})
        kept = memory[IMAGES] = memory.get(IMAGES) or self._empty(x, gradient, loss)
        line = {name: host(kept[name]) for name in LINE}
        s = x - kept["point"]
        value, slope = host(loss), host(dot(s, kept["gradient"]))
        low = value <= line["loss"] * (1 + self.rounding) + self.c1 * np.minimum(slope, 0)
        measured, begun = np.isfinite(value), line["begun"] > 0
        accepted, failed = measured & (low | ~begun), measured & begun & ~low
        first = next(iter(lr.values())) * host(scale)  # [b]
        if accepted.any():
            self._accept(x, gradient, s, value, kept, line, accepted, first)
        if failed.any():
            self._shorten(value, slope, kept, line, failed, first)
        kept |= {name: beside(loss, table) for name, table in line.items()}
        _move(variables, kept, measured)

    def _empty(self, x: Tensor, gradient: Tensor, loss: Tensor) -> dict[str, Tensor]:
        b, h = len(loss), self.history
        return (
            {name: loss.new_zeros(b) for name in ("begun", "loss", "length", "tries", "pairs")}
            | {name: loss.new_zeros(b, h, h) for name in ("sy", "yy")}
            | {name: loss.new_zeros(b, h) for name in ("s_g", "y_g")}
            | {"point": x, "gradient": gradient, "way": gradient}
            | {name: x.new_zeros(b, 0, x.shape[1]) for name in ("s", "y")}
        )

    def _make_room(self, kept: dict[str, Tensor], slots: int) -> None:
        """At least so many slots for pairs. A run that ends after few steps never pays for a whole history."""
        there = kept["s"].shape[1]
        if slots > there:
            more = min(self.history, max(slots, 2 * there)) - there
            kept |= {name: F.pad(kept[name], (0, 0, 0, more)) for name in ("s", "y")}

    def _accept(
        self,
        x: Tensor,
        gradient: Tensor,
        s: Tensor,
        value: Array,
        kept: dict[str, Tensor],
        line: dict[str, Array],
        accepted: Array,
        first: Array,
    ) -> None:
        """Take the measured points x [b,D] of the rows in `accepted` as theirs, s [b,D] further, and turn to a new
        way.
        """
        if line["begun"].any():
            self._remember(s, gradient, kept, line, accepted & (line["begun"] > 0))
        _choose(kept, accepted, point=x, gradient=gradient)
        for name, found in {"loss": value, "begun": np.ones_like(value), "tries": np.zeros_like(value)}.items():
            line[name][accepted] = found[accepted]
        self._turn(kept, line, accepted, first)

    def _remember(
        self, s: Tensor, gradient: Tensor, kept: dict[str, Tensor], line: dict[str, Array], rows: Array
    ) -> None:
        """The pair of the step s [b,D] of each of `rows`, where the loss is curved along it; and its products.

        Products of the pairs with the change of the gradient are differences of those with the gradients, which are
        there anyway: the history is read three times.
        """
        y = gradient - kept["gradient"]
        s_y, y_y, s_s = (host(dot(*two)) for two in ((s, y), (y, y), (s, s)))
        at = (rows & (s_y > CURVED * np.sqrt(s_s * y_y))).nonzero()[0]
        slots = line["pairs"][at].astype(int) % self.history
        self._make_room(kept, slots.max(initial=-1) + 1)
        for row, slot in zip(at.tolist(), slots.tolist(), strict=True):
            kept["s"][row, slot], kept["y"][row, slot] = s[row], y[row]
        line["pairs"][at] += 1
        filled = self._filled(kept, line)
        s_g, y_g, y_s = (
            with_history(v, kept[n][:, :filled], self.history) for v, n in ((gradient, "s"), (gradient, "y"), (s, "y"))
        )
        line["sy"][at, :, slots], line["sy"][at, slots] = (s_g - line["s_g"])[at], y_s[at]
        line["yy"][at, :, slots] = line["yy"][at, slots] = (y_g - line["y_g"])[at]
        line["sy"][at, slots, slots], line["yy"][at, slots, slots] = s_y[at], y_y[at]
        line["s_g"][rows], line["y_g"][rows] = s_g[rows], y_g[rows]

    def _filled(self, kept: dict[str, Tensor], line: dict[str, Array]) -> int:
        """Slots of the history that any image has filled: they are filled in order, and the others not read."""
        return min(int(line["pairs"].max()), kept["s"].shape[1], kept["y"].shape[1])

    def _turn(self, kept: dict[str, Tensor], line: dict[str, Array], turned: Array, first: Array) -> None:
        """A new way for the rows in `turned`: the history's, or the gradient's where there is none."""
        if not line["pairs"].any():
            return self._start_anew(kept, line, turned, first)
        gradient, s_g, y_g = kept["gradient"], line["s_g"], line["y_g"]
        of_g, of_s, of_y = coefficients(line["sy"], line["yy"], line["pairs"], s_g, y_g)
        falls = of_g * host(dot(gradient, gradient)) + (of_s * s_g + of_y * y_g).sum(axis=1)  # gradient . way
        known = turned & (line["pairs"] > 0) & (falls < 0)
        if known.any():
            way, filled = beside(gradient, of_g)[:, None] * gradient, self._filled(kept, line)
            for name, factors in (("s", of_s), ("y", of_y)):
                way[:, None].baddbmm_(beside(gradient, factors)[:, None, :filled], kept[name][:, :filled])
            _choose(kept, known, way=way)
            line["length"][known] = 1
        self._start_anew(kept, line, turned & ~known, first)

    def _shorten(
        self,
        value: Array,
        slope: Array,
        kept: dict[str, Tensor],
        line: dict[str, Array],
        failed: Array,
        first: Array,
    ) -> None:
        """The rows in `failed` try again, nearer: at the lowest point of the parabola through what was measured."""
        rise = value[failed] - line["loss"][failed] - slope[failed]
        share = -slope[failed] / np.where(rise == 0, 1, 2 * rise)
        line["tries"][failed] += 1
        line["length"][failed] *= np.clip(np.nan_to_num(share, nan=SHORTEST), SHORTEST, LONGEST)
        self._start_anew(kept, line, failed & (line["tries"] >= self.tries), first)

    def _start_anew(self, kept: dict[str, Tensor], line: dict[str, Array], rows: Array, first: Array) -> None:
        """Those in `rows` forget their history and go against the gradient, as far as `first`."""
        if not rows.any():
            return
        for name in ("pairs", "tries", "sy", "yy"):
            line[name][rows] = 0
        norm = np.sqrt(host(dot(kept["gradient"], kept["gradient"])))
        line["length"][rows] = -(first / np.maximum(norm, 1e-30))[rows]  # backwards along the gradient itself
        _choose(kept, rows, way=kept["gradient"])


def _joined(variables: Variables) -> Tensor:
    """All variables as one [b,D], in the order of their names, which does not depend on where they come from."""
    return torch.cat([v.reshape(len(v), -1) for _, v in sorted(variables.items())], dim=1)


def _move(variables: Variables, kept: dict[str, Tensor], moving: Array) -> None:
    """Put the variables of the rows in `moving` at their trial points."""
    start = 0
    for _, v in sorted(variables.items()):
        end = start + v[0].numel()
        point, way = (kept[name][:, start:end].reshape(v.shape) for name in ("point", "way"))
        length, start = over(kept["length"], v), end
        if moving.all():
            torch.addcmul(point, length, way, out=v)
        else:
            v.copy_(torch.where(over(beside(v, moving, torch.bool), v), torch.addcmul(point, length, way), v))


def _choose(kept: dict[str, Tensor], rows: Array, **new: Tensor) -> None:
    """Replace what stands in `rows`; tensors that are new in every row are taken as they are, not copied."""
    for name, value in new.items():
        chosen = over(beside(value, rows, torch.bool), value)
        kept[name] = value if rows.all() else torch.where(chosen, value, kept[name])
