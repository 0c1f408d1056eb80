"""L-BFGS with a history, a line search and an end of its own for every image of a batch.

Source: Nocedal and Wright 2006, algorithms 3.1 (backtracking) and 7.4; the product with the inverse Hessian in the
compact form of Byrd, Nocedal and Schnabel 1994, theorem 2.2, which reads the history in a few large products.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from latentopt.errors import UsageError
from latentopt.loop.state import over
from latentopt.protocols import IMAGES, Generator, Memory, Optimizer
from latentopt.types import Variables

SHORTEST, LONGEST = 0.1, 0.5  # of the length that failed: what quadratic interpolation is held to
ROUNDING = 1e-3  # relative rise of the loss that is no failure where the generator runs in 16 bits
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
    `gradient` accepted last and the `way` from there, [b,D] over all variables; the pairs `s` and `y` [b,H,D], of which
    `pairs` were found since the history was empty; `sy` and `yy`, the products of all s with all y, and of all y.
    """

    compares = True
    examples = ({}, {"history": 2})

    def __init__(self, generator: Generator, *, history: int = 10, c1: float = 1e-4, tries: int = 6) -> None:
        for name, value in (("history", history), ("tries", tries)):
            if value < 1:
                raise UsageError(f"lbfgs: {name} must be at least 1, not {value}")
        if not 0 <= c1 < 1:
            raise UsageError(f"lbfgs: c1 must be from 0 to 1, not {c1}")
        self.history, self.c1, self.tries = history, c1, tries
        self.rounding = ROUNDING if generator.precision.itemsize < 4 else 0.0

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
        x = _joined(variables)
        kept = memory.setdefault(IMAGES, {}) or self._empty(x, loss)
        memory[IMAGES] = kept
        first = next(iter(lr.values())) * scale  # [b]
        new = x.new_empty(len(x), 3, x.shape[1])  # s, y and the gradient, side by side for the products with history
        torch.sub(x, kept["point"], out=new[:, 0])
        _joined({name: gradients[name] for name in variables}, out=new[:, 2])
        torch.sub(new[:, 2], kept["gradient"], out=new[:, 1])
        products = torch.bmm(new, new.mT)  # [b,3,3]
        slope = products[:, 0, 2] - products[:, 0, 1]  # of the gradient there was along s, as the one there is less y
        low = loss <= kept["loss"] * (1 + self.rounding) + self.c1 * slope.clamp_max(0)
        measured, begun = loss.isfinite(), kept["begun"] > 0
        accepted, failed = measured & (low | ~begun), measured & begun & ~low
        if accepted.any():
            self._accept(x, new, products, loss, kept, accepted, first)
        if failed.any():
            self._shorten(loss, slope, kept, failed, first)
        moved = torch.addcmul(kept["point"], kept["length"][:, None], kept["way"])
        _put(moved if measured.all() else torch.where(measured[:, None], moved, x), variables)

    def _empty(self, x: Tensor, loss: Tensor) -> dict[str, Tensor]:
        b, h = len(loss), self.history
        return (
            {name: loss.new_zeros(b) for name in ("begun", "loss", "length", "tries", "pairs")}
            | {name: loss.new_zeros(b, h, h) for name in ("sy", "yy")}
            | {name: torch.zeros_like(x) for name in ("point", "gradient", "way")}
            | {name: x.new_zeros(b, h, x.shape[1]) for name in ("s", "y")}
        )

    def _accept(
        self,
        x: Tensor,
        new: Tensor,
        products: Tensor,
        loss: Tensor,
        kept: dict[str, Tensor],
        accepted: Tensor,
        first: Tensor,
    ) -> None:
        """Take the measured points x [b,D] of the rows in `accepted` as theirs, and turn to a new way.

        new [b,3,D]: the step s to there, the change y of the gradient, and the gradient; products [b,3,3] of these.
        """
        (ss, sy, _), (_, yy, _), (_, _, gg) = (row.unbind(1) for row in products.unbind(1))
        curved = accepted & (kept["begun"] > 0) & (sy > CURVED * (ss * yy).sqrt())
        at = curved.nonzero()[:, 0]
        slots = (kept["pairs"][at] % self.history).long()
        for row, slot in zip(at.tolist(), slots.tolist(), strict=True):
            kept["s"][row, slot], kept["y"][row, slot] = new[row, 0], new[row, 1]
        kept["pairs"] += curved
        for name, value in (("point", x), ("gradient", new[:, 2]), ("loss", loss)):
            _choose(kept[name], accepted, value)
        kept["begun"].masked_fill_(accepted, 1)
        kept["tries"].masked_fill_(accepted, 0)
        of_s = self._with_history(new[:, 1:], kept, "s")  # [b,2,H]: of y and the gradient
        of_y = self._with_history(new, kept, "y")  # [b,3,H]
        kept["sy"][at, :, slots], kept["sy"][at, slots] = of_s[at, 0], of_y[at, 0]
        kept["yy"][at, :, slots] = kept["yy"][at, slots] = of_y[at, 1]
        self._turn(kept, accepted, gg, of_s[:, 1], of_y[:, 2], first)

    def _filled(self, kept: dict[str, Tensor]) -> int:
        """Slots of the history that any image has filled: they are filled in order, and the others not read."""
        return min(int(kept["pairs"].max()), self.history)

    def _with_history(self, new: Tensor, kept: dict[str, Tensor], name: str) -> Tensor:
        """Products of new [b,N,D] with every s or y: [b,N,H]."""
        filled = self._filled(kept)
        return F.pad(torch.bmm(new, kept[name][:, :filled].mT), (0, self.history - filled))

    def _turn(
        self, kept: dict[str, Tensor], turned: Tensor, gg: Tensor, s_g: Tensor, y_g: Tensor, first: Tensor
    ) -> None:
        """A new way for the rows in `turned`: the history's, or the gradient's where there is none.

        gg [b], s_g and y_g [b,H] are the products of their gradients with themselves and with the history.
        """
        of_g, of_s, of_y = _coefficients(kept["sy"], kept["yy"], kept["pairs"], s_g, y_g)
        falls = of_g * gg + (of_s * s_g).sum(dim=1) + (of_y * y_g).sum(dim=1)  # gradient . way
        known = turned & (kept["pairs"] > 0) & (falls < 0)
        if known.any():
            way = kept["way"] if known.all() else torch.empty_like(kept["way"])
            torch.mul(of_g[:, None], kept["gradient"], out=way)
            filled = self._filled(kept)
            for name, factors in (("s", of_s), ("y", of_y)):
                way[:, None].baddbmm_(factors[:, None, :filled], kept[name][:, :filled])
            if way is not kept["way"]:
                _choose(kept["way"], known, way)
            kept["length"].masked_fill_(known, 1)
        self._start_anew(kept, turned & ~known, first)

    def _shorten(self, loss: Tensor, slope: Tensor, kept: dict[str, Tensor], failed: Tensor, first: Tensor) -> None:
        """The rows in `failed` try again, nearer: at the lowest point of the parabola through what was measured."""
        kept["tries"] += failed
        share = -slope / (2 * (loss - kept["loss"] - slope))
        share = share.nan_to_num(SHORTEST).clamp(SHORTEST, LONGEST)
        kept["length"] *= torch.where(failed, share, 1)
        self._start_anew(kept, failed & (kept["tries"] >= self.tries), first)

    def _start_anew(self, kept: dict[str, Tensor], rows: Tensor, first: Tensor) -> None:
        """Those in `rows` forget their history and go against the gradient, as far as `first`."""
        if not rows.any():
            return
        for name in ("pairs", "tries", "sy", "yy"):
            kept[name].masked_fill_(over(rows, kept[name]), 0)
        norm = _dot(kept["gradient"], kept["gradient"]).sqrt()
        _choose(kept["length"], rows, first / norm.clamp_min(1e-30))
        _choose(kept["way"], rows, -kept["gradient"])


def _joined(variables: Variables, out: Tensor | None = None) -> Tensor:
    """All variables as one [b,D], in the order of their names, which does not depend on where they come from."""
    return torch.cat([v.reshape(len(v), -1) for _, v in sorted(variables.items())], dim=1, out=out)


def _put(x: Tensor, variables: Variables) -> None:
    """Write x [b,D] into the variables, in place."""
    ordered = [v for _, v in sorted(variables.items())]
    for v, part in zip(ordered, x.split([v[0].numel() for v in ordered], dim=1), strict=True):
        v.copy_(part.reshape(v.shape))


def _choose(old: Tensor, rows: Tensor, new: Tensor) -> None:
    """Replace, in place, what stands in `rows`."""
    old.copy_(new if rows.all() else torch.where(over(rows, old), new, old))


def _dot(a: Tensor, b: Tensor) -> Tensor:
    """[b], of tensors [b,D]."""
    return torch.bmm(a[:, None], b[:, :, None])[:, 0, 0]


def _coefficients(sy: Tensor, yy: Tensor, pairs: Tensor, s_g: Tensor, y_g: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The direction -H g of L-BFGS as factors of the gradient [b], of every s and of every y [b,H].

    With the pairs from the newest to the oldest, R = s_i.y_j for j <= i in time order and D its diagonal: alpha solves
    R alpha = S g, q = g - Y alpha, and beta, the part of S, solves R^T c = D alpha - gamma Y.q; the direction is
    -(gamma q + S c), gamma = s.y / y.y of the newest pair.
    """
    b, h = s_g.shape
    exact = s_g.dtype if s_g.device.type == "mps" else torch.float64  # Apple's GPUs have no float64
    age = torch.arange(h, device=sy.device)
    order = (pairs.long()[:, None] - 1 - age) % h  # [b,H]: the slot of each pair, the newest first
    valid = age < pairs[:, None]
    both = valid[:, :, None] & valid[:, None]

    def ordered(table: Tensor) -> Tensor:
        across = order[:, None].expand(b, h, h)
        picked = table.to(exact).gather(1, order[:, :, None].expand(b, h, h)).gather(2, across)
        return torch.where(both, picked, 0)

    products, squares = ordered(sy), ordered(yy)
    p, q = (torch.where(valid, x.to(exact).gather(1, order), 0)[:, :, None] for x in (s_g, y_g))  # [b,H,1]
    diagonal = products.diagonal(dim1=1, dim2=2)  # a view, [b,H]
    gamma = torch.where(valid[:, 0], diagonal[:, 0] / squares[:, 0, 0], 1)[:, None, None]
    lower = products.tril() + torch.diag_embed((~valid).to(exact))  # s_i.y_j of newer or the same j
    alpha = torch.linalg.solve_triangular(lower, p, upper=False)
    right = diagonal[:, :, None] * alpha - gamma * (q - squares @ alpha)
    c = torch.linalg.solve_triangular(lower.mT, right, upper=True)
    of_s, of_y = -torch.where(valid, c[:, :, 0], 0), torch.where(valid, (gamma * alpha)[:, :, 0], 0)
    slots = torch.zeros_like(of_s)
    back = [slots.scatter(1, order, x).to(s_g) for x in (of_s, of_y)]
    return -gamma[:, 0, 0].to(s_g), back[0], back[1]
