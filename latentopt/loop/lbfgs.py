"""L-BFGS with a history, a line search and an end of its own for every image of a batch.

Source: Nocedal and Wright 2006, algorithms 3.1 (backtracking) and 7.4; the product with the inverse Hessian in the
compact form of Byrd, Nocedal and Schnabel 1994, theorem 2.2, which reads the history in a few large products.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import torch
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

    Memory, of images: `begun`, whether a point is accepted; `loss`, `length` and `tries` of the line search; `pairs`,
    how many there have been since the history was empty; `sy` and `yy`, the products of all s with all y, and of all y.
    Of variables: `point` and `gradient` accepted last, `way`, the direction of the search, and the pairs `s` and `y`
    [b,H,...].
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
        variables = dict(sorted(variables.items()))  # sums over them round alike, whatever order a file had them in
        if not memory:
            memory.update(self._empty(variables, loss))
        rows, measured = memory[IMAGES], loss.isfinite()
        first = next(iter(lr.values())) * scale  # [b]
        slope = _total(_dot(memory[name]["gradient"], v - memory[name]["point"]) for name, v in variables.items())
        low = loss <= rows["loss"] * (1 + self.rounding) + self.c1 * slope.clamp_max(0)
        begun = rows["begun"] > 0
        accepted, failed = measured & (low | ~begun), measured & begun & ~low
        if accepted.any():
            self._accept(variables, gradients, loss, memory, accepted)
            self._turn(memory, accepted, first)
        if failed.any():
            self._shorten(loss, slope, memory, failed, first)
        for name, v in variables.items():
            own = memory[name]
            moved = torch.addcmul(own["point"], over(rows["length"], v), own["way"])
            v.copy_(moved if measured.all() else torch.where(over(measured, v), moved, v))

    def _empty(self, variables: Variables, loss: Tensor) -> Memory:
        b, h = len(loss), self.history
        memory: Memory = {
            name: {kind: torch.zeros_like(v) for kind in ("point", "gradient", "way")}
            | {kind: v.new_zeros(b, h, *v.shape[1:]) for kind in ("s", "y")}
            for name, v in variables.items()
        }
        memory[IMAGES] = {name: loss.new_zeros(b) for name in ("begun", "loss", "length", "tries", "pairs")}
        memory[IMAGES] |= {name: loss.new_zeros(b, h, h) for name in ("sy", "yy")}
        return memory

    def _accept(
        self, variables: Variables, gradients: Variables, loss: Tensor, memory: Memory, accepted: Tensor
    ) -> None:
        """Take the measured points of the rows in `accepted` as theirs, and the steps to them into the history."""
        rows = memory[IMAGES]
        s = {name: v - memory[name]["point"] for name, v in variables.items()}
        y = {name: gradients[name] - memory[name]["gradient"] for name in variables}
        sy, ss, yy = (_total(_dot(a[name], b[name]) for name in a) for a, b in ((s, y), (s, s), (y, y)))
        kept = accepted & (rows["begun"] > 0) & (sy > CURVED * (ss * yy).sqrt())
        at = kept.nonzero()[:, 0]
        slot = (rows["pairs"][at] % self.history).long()
        for name in variables:
            memory[name]["s"][at, slot], memory[name]["y"][at, slot] = s[name][at], y[name][at]
        if len(at):
            self._multiply(memory, s, y, at, slot)
        rows["pairs"] += kept
        for name, v in variables.items():
            for kind, x in (("point", v), ("gradient", gradients[name])):
                old = memory[name][kind]
                old.copy_(x if accepted.all() else torch.where(over(accepted, x), x, old))
        rows["loss"].copy_(torch.where(accepted, loss, rows["loss"]))
        rows["begun"].masked_fill_(accepted, 1)
        rows["tries"].masked_fill_(accepted, 0)

    def _multiply(self, memory: Memory, s: Variables, y: Variables, at: Tensor, slot: Tensor) -> None:
        """Put the products of the newest pair with the whole history into the tables of the rows `at`."""
        rows = memory[IMAGES]
        s_y = _total(_products(memory[name]["s"], [y[name]]) for name in y)[at, :, 0]  # [r,H]
        both = _total(_products(memory[name]["y"], [s[name], y[name]]) for name in y)[at]  # [r,H,2]
        rows["sy"][at, :, slot], rows["sy"][at, slot] = s_y, both[:, :, 0]
        rows["yy"][at, :, slot] = rows["yy"][at, slot] = both[:, :, 1]

    def _turn(self, memory: Memory, turned: Tensor, first: Tensor) -> None:
        """A new direction for the rows in `turned`: the history's, or the gradient's where there is none."""
        rows, names = memory[IMAGES], _variables(memory)
        s_g, y_g = (
            _total(_products(memory[name][kind], [memory[name]["gradient"]]) for name in names)[:, :, 0]
            for kind in ("s", "y")
        )
        of_g, of_s, of_y = _coefficients(rows["sy"], rows["yy"], rows["pairs"], s_g, y_g)
        falls = of_g * _total(_dot(memory[name]["gradient"], memory[name]["gradient"]) for name in names)
        falls = falls + (of_s * s_g).sum(dim=1) + (of_y * y_g).sum(dim=1)  # gradient . direction
        known = (rows["pairs"] > 0) & (falls < 0)
        self._forget(memory, turned & ~known)
        if known.any():
            for name in names:
                own = memory[name]
                way = over(of_g, own["way"]) * own["gradient"]
                for kind, factors in (("s", of_s), ("y", of_y)):
                    way += torch.bmm(factors[:, None], _flat(own[kind]))[:, 0].reshape(way.shape)
                chosen = turned & known
                own["way"].copy_(way if chosen.all() else torch.where(over(chosen, way), way, own["way"]))
        rows["length"].masked_fill_(turned & known, 1)
        self._along_gradient(memory, turned & ~known, first)

    def _shorten(self, loss: Tensor, slope: Tensor, memory: Memory, failed: Tensor, first: Tensor) -> None:
        """The rows in `failed` try again, nearer: at the lowest point of the parabola through what was measured."""
        rows = memory[IMAGES]
        rows["tries"] += failed
        share = -slope / (2 * (loss - rows["loss"] - slope))
        share = share.nan_to_num(SHORTEST).clamp(SHORTEST, LONGEST)
        rows["length"] *= torch.where(failed, share, 1)
        given_up = failed & (rows["tries"] >= self.tries)
        self._forget(memory, given_up)
        self._along_gradient(memory, given_up, first)

    def _forget(self, memory: Memory, forgotten: Tensor) -> None:
        for name in ("pairs", "tries", "sy", "yy"):
            memory[IMAGES][name].masked_fill_(over(forgotten, memory[IMAGES][name]), 0)

    def _along_gradient(self, memory: Memory, turned: Tensor, first: Tensor) -> None:
        """The rows in `turned` go against the gradient, as far as `first`."""
        if not turned.any():
            return
        own = [memory[name] for name in _variables(memory)]
        norm = _total(_dot(x["gradient"], x["gradient"]) for x in own).sqrt()
        memory[IMAGES]["length"].copy_(torch.where(turned, first / norm.clamp_min(1e-30), memory[IMAGES]["length"]))
        for x in own:
            x["way"].copy_(torch.where(over(turned, x["way"]), -x["gradient"], x["way"]))


def _variables(memory: Memory) -> list[str]:
    return sorted(name for name in memory if name != IMAGES)


def _dot(a: Tensor, b: Tensor) -> Tensor:
    """[b], of tensors [b,...]."""
    return torch.linalg.vecdot(a.reshape(len(a), -1), b.reshape(len(b), -1))


def _products(kept: Tensor, vectors: Sequence[Tensor]) -> Tensor:
    """Of a history [b,H,...] with n vectors [b,...]: [b,H,n]."""
    return torch.bmm(_flat(kept), torch.stack([v.reshape(len(v), -1) for v in vectors], dim=2))


def _flat(kept: Tensor) -> Tensor:
    """A history [b,H,...] as [b,H,n]."""
    return kept.reshape(*kept.shape[:2], -1)


def _total(parts: Iterable[Tensor]) -> Tensor:
    first, *others = parts
    return sum(others, first)


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
