"""A start by linear regression on the generator's own samples: for any measurement, with nothing fitted beforehand."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from latentopt.errors import UsageError
from latentopt.pictures.resizing import shrink
from latentopt.protocols import Generator, Initializer, Operator
from latentopt.statistics.pnorm import p_to_w, w_to_p
from latentopt.statistics.ridge import predictions
from latentopt.statistics.sampling import check_label, drawn_at_once, sample_w
from latentopt.types import GeneratorInputs
from latentopt.watching.phases import phase

SAMPLES = 512
SAMPLES_SEED = 0  # every picture is compared with the same samples, so that its start depends on nothing else
MOST = 1 << 14  # numbers of a measurement that are compared; larger ones are sketched
STRENGTHS = 10.0 ** -torch.arange(0, 6.5, 0.5)  # of the regression, in squares of the largest singular value

Seen = Callable[[Tensor], Tensor]


class LMMSE(Initializer):
    """The w that is expected, linearly, of what was measured: the linear minimum mean square error estimate.

    `n` samples are drawn and measured as the picture was (pictures are compared at `size` pixels), and ridge regression
    of their w, its last leaky ReLU undone, on their measurements predicts its w. (Of w itself it would predict values
    beyond the bend that no sample has: in P-norm coordinates some are thousands of deviations off.) How strong the
    ridge must be depends on the noise, which is not known: several are tried, and the w is taken whose own measurement,
    once it is drawn, is nearest.
    """

    examples = ({"n": 12, "batch": 5}, {"n": 10, "size": 8})

    def __init__(
        self, generator: Generator, *, n: int = SAMPLES, size: int = 32, label: int = 0, batch: int = 32
    ) -> None:
        for name, value, least in (("n", n, 2), ("size", size, 1), ("batch", batch, 1)):
            if value < least:
                raise UsageError(f"lmmse: {name} must be at least {least}, not {value}")
        check_label(generator, label)
        self.generator, self.n, self.size, self.label, self.batch = generator, n, size, label, batch

    def __call__(self, target: Tensor, seeds: Sequence[int]) -> GeneratorInputs:
        return self._start(self._values(target), [self._values])

    def of_measurement(
        self, measured: Tensor, operator: Operator, picture: Tensor, seeds: Sequence[int]
    ) -> GeneratorInputs:
        rows = [operator.index(torch.tensor([row], device=picture.device)) for row in range(len(measured))]
        alike = all(one is operator for one in rows)
        return self._start(self._values(measured), [self._seen_by(one, alike) for one in (rows[:1] if alike else rows)])

    def _seen_by(self, operator: Operator, alike: bool) -> Seen:
        def seen(image: Tensor) -> Tensor:
            return self._values(operator(image) if alike else torch.cat([operator(x[None]) for x in image]))

        return seen

    def _values(self, measured: Tensor) -> Tensor:
        """What is compared of measurements [B,...], as [B,M]: pictures shrunk, others sketched where they are large."""
        return sketch((shrink(measured, self.size) if measured.ndim == 4 else measured).flatten(1).float())

    @torch.no_grad()
    def _start(self, wanted: Tensor, seen: Sequence[Seen]) -> GeneratorInputs:
        """wanted [B,M]; seen: what is compared with its rows of pictures [n,C,H,W], for each row or one for all."""
        w = sample_w(self.generator, SAMPLES_SEED, self.n, self.label)  # [n,C]
        draws = self.n + len(STRENGTHS) * len(wanted)
        with phase("looking for a start", draws, "samples") as advance:
            samples = self._drawn(w, seen, advance)
            rows = [wanted] if len(seen) == 1 else wanted.split(1)
            found = []
            for x, row, look in zip(samples, rows, seen, strict=True):
                tried = p_to_w(predictions(x, w_to_p(w), row, STRENGTHS))  # [S,B,C]
                near = self._drawn(tried.flatten(0, 1), [look], advance)[0].reshape(*tried.shape[:2], -1)
                nearest = (near - row).square().mean(dim=2).argmin(dim=0)
                found.append(tried[nearest, torch.arange(len(row))])
        return GeneratorInputs(self.generator.broadcast(torch.cat(found)).clone())

    def _drawn(self, w: Tensor, seen: Sequence[Seen], advance: Callable[[int], object]) -> list[Tensor]:
        """What is seen of the pictures of w [n,C]: one [n,M] for each of `seen`."""
        found: list[list[Tensor]] = [[] for _ in seen]
        for part in w.split(drawn_at_once(self.generator, self.batch)):
            drawn = self.generator.synthesis(GeneratorInputs(self.generator.broadcast(part)))
            for values, look in zip(found, seen, strict=True):
                values.append(look(drawn))
            advance(len(part))
        return [torch.cat(values) for values in found]


def sketch(x: Tensor) -> Tensor:
    """Rows [n,M] as [n,MOST] with nearly the same inner products, where M is larger: every number is added to a random
    one of them with a random sign (Charikar, Chen and Farach-Colton 2002, count sketch).
    """
    if x.shape[1] <= MOST:
        return x
    rng = torch.Generator().manual_seed(SAMPLES_SEED)
    places = torch.randint(MOST, (x.shape[1],), generator=rng).to(x.device)
    signs = (torch.randint(2, (x.shape[1],), generator=rng) * 2 - 1).to(x)
    return x.new_zeros(len(x), MOST).index_add_(1, places, x * signs)
