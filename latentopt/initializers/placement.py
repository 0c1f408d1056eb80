"""A start that finds where a picture lies, for generators that draw a move of the picture themselves (StyleGAN3)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from latentopt.errors import UsageError
from latentopt.geometry.moves import check_takes_transform, fitted_move, move_matrix
from latentopt.initializers.places import grid_of_places, unexplained, unlikeness_of_drawn
from latentopt.initializers.simple import File, Mean
from latentopt.pictures.images import difference_as_saved
from latentopt.pictures.resizing import shrink
from latentopt.protocols import Generator, Initializer
from latentopt.statistics.sampling import check_label, drawn_at_once, sample_w, w_std
from latentopt.types import GeneratorInputs
from latentopt.watching.phases import Advance, phase

BETAS = (0.9, 0.99)
CODE_RATE = 2.0  # of the code, in units of the variables of the move


class PlacementStart(Initializer):
    """The placement that is the best of several short runs: angle and shift, with latents that fit better there.

    The runs begin at places of a grid where samples of the generator explain best what is seen of the picture, once it
    is moved back from there, with the w that they suggest; or, of latents that are known, where these are drawn most
    alike.

    path            latents to start from, instead of the mean of w: a file, or a result's folder
    samples, label  how many are drawn, and of which class, where no latents are given
    seed            of these samples: every picture is compared with the same, so that its start depends on nothing else
    angle, shift    how far is looked: degrees to either side, widths in every direction
    angles, shifts  how many places of the grid, over each range
    runs, steps     of the best, how many are optimised, and how long; rate: of angle (radians) and shift (widths)
    halvings        how often the nearer half of the runs goes on for as many steps again (sequential halving)
    code            whether latents move too: one change of all rows
    size            pixels at which is compared
    landmarks       points of the picture [[x, y], ...] (fractions of its width, from the top left), which then are
                    fitted instead, to where the generator draws them, `places`

    Where the latents do not move, what is found depends on the picture alone, and on its own seed nothing.
    """

    reads = {"path": "inputs"}
    reads_if = {"path": ("path",)}
    examples = (
        {"angles": 2, "shifts": 2, "runs": 2, "steps": 2},
        {"angles": 1, "shifts": 3, "runs": 1, "steps": 0},
        {"landmarks": [[0.3, 0.4], [0.6, 0.5]], "places": [[0.35, 0.45], [0.65, 0.45]]},
    )

    def __init__(
        self,
        generator: Generator,
        *,
        path: str | None = None,
        samples: int = 64,
        seed: int = 0,
        label: int = 0,
        angle: float = 25.0,
        shift: float = 0.3,
        angles: int = 5,
        shifts: int = 5,
        runs: int = 4,
        steps: int = 30,
        halvings: int = 0,
        rate: float = 0.03,
        code: bool = True,
        size: int = 64,
        batch: int = 16,
        landmarks: list[Any] | None = None,
        places: list[Any] | None = None,
    ) -> None:
        check_takes_transform(generator)
        counts = {"angles": angles, "shifts": shifts, "runs": runs, "size": size, "batch": batch, "samples": samples}
        for name, value in counts.items():
            if value < (least := 2 if name == "samples" else 1):
                raise UsageError(f"placement: {name} must be at least {least}, not {value}")
        for name, number in {
            "steps": steps,
            "halvings": halvings,
            "rate": rate,
            "angle": angle,
            "shift": shift,
        }.items():
            if not 0 <= number < math.inf:
                raise UsageError(f"placement: {name} must be at least 0, not {number}")
        self.generator, self.rate, self.code = generator, rate, code
        self.rounds = [max(1, runs >> k) for k in range(halvings + 1)]  # runs that are left in each
        self.steps, self.size, self.batch = steps, size, batch
        self.samples, self.seed, self.label = samples, seed, label
        self.unit = max(w_std(generator) / math.sqrt(generator.w_dim), torch.finfo(torch.float32).tiny)
        check_label(generator, label)
        self.known = path is not None
        self.start: Initializer = Mean(generator) if path is None else File(generator, path=path)
        self.grid = grid_of_places(math.radians(angle), shift, angles, shifts).to(generator.device)  # [P,3]
        self.given = None if landmarks is None and places is None else _of_landmarks(landmarks, places)

    def __call__(self, target: Tensor, seeds: Sequence[int]) -> GeneratorInputs:
        inputs = self.start(target, seeds)
        if self.given is not None:
            return inputs.replace(transform=self.given.to(target).expand(len(target), 3, 3))
        looked = len(self.grid) + (0 if self.known else self.samples)
        work = len(target) * sum(self.rounds) * (self.steps + 1) + looked
        with phase("looking for the placement", work, "pictures") as advance:
            places = self._where_drawn_alike if self.known else self._where_explained
            begun = zip(*places(target, inputs, advance), strict=True)
            found = [
                self._best(target[[i]], inputs.index([i]), move, code, advance) for i, (move, code) in enumerate(begun)
            ]
        return GeneratorInputs.cat(found)

    @torch.no_grad()
    def _where_drawn_alike(self, target: Tensor, inputs: GeneratorInputs, advance: Advance) -> tuple[Tensor, Tensor]:
        """Moves [B,R,3] at which known latents look most like the pictures, and no change of the code [B,R,1,C]."""
        first = inputs.index([0])  # the latents are the same for all pictures
        drawn = self._drawn([_moved(first, moves) for moves in self._parts(self.grid)], advance)
        unlike = unlikeness_of_drawn(shrink(target, self.size), drawn)
        move = self.grid[self._least(unlike)]
        return move, move.new_zeros(*move.shape[:2], 1, inputs.ws.shape[2])

    @torch.no_grad()
    def _where_explained(self, target: Tensor, inputs: GeneratorInputs, advance: Advance) -> tuple[Tensor, Tensor]:
        """Moves [B,R,3] at which samples explain the pictures best, and the change of code [B,R,1,C] they suggest."""
        w = sample_w(self.generator, self.seed, self.samples, self.label)
        drawn = self._drawn([GeneratorInputs(self.generator.broadcast(part)) for part in self._parts(w)], advance)
        errors, codes = unexplained(shrink(target, self.size), self.grid, drawn, w, advance)
        places = self._least(errors)  # [B,R]
        code = torch.stack([of_one[rows] for of_one, rows in zip(codes, places, strict=True)])  # [B,R,C]
        change = (code - inputs.ws.mean(dim=1, keepdim=True)) / self.unit * self.code
        return self.grid[places], change[:, :, None]

    def _least(self, unlike: Tensor) -> Tensor:
        """The places [B,R] of the first round, by [B,P]."""
        return unlike.topk(min(self.rounds[0], len(self.grid)), largest=False).indices

    def _parts(self, x: Tensor) -> tuple[Tensor, ...]:
        return x.split(drawn_at_once(self.generator, self.batch))

    def _drawn(self, parts: Sequence[GeneratorInputs], advance: Advance) -> Tensor:
        """Their pictures, small, [N,3,h,w]."""
        drawn = []
        for inputs in parts:
            drawn.append(shrink(self._draw(inputs), self.size))
            advance(len(inputs))
        return torch.cat(drawn)

    def _draw(self, inputs: GeneratorInputs) -> Tensor:
        return self.generator.synthesis(inputs).float()

    def _best(
        self, image: Tensor, inputs: GeneratorInputs, move: Tensor, code: Tensor, advance: Advance
    ) -> GeneratorInputs:
        """The nearest to the picture [1,3,H,W] of short runs from moves [R,3] and codes [R,1,C]."""
        for runs in self.rounds:
            parts = torch.arange(len(move), device=move.device).split(drawn_at_once(self.generator, runs))
            ends = [self._run(image, inputs, move[rows], code[rows], advance) for rows in parts]
            distance, move, code = (torch.cat(of_parts) for of_parts in zip(*ends, strict=True))
            nearest = distance.argsort()[: max(1, len(move) // 2)]
            move, code = move[nearest], code[nearest]
        return self._at(inputs.index([0]), move[:1], code[:1])

    def _run(
        self, target: Tensor, inputs: GeneratorInputs, move: Tensor, code: Tensor, advance: Advance
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The distances [R] of the nearest that descents from moves [R,3] and codes [R,1,C] come to the target
        [1,3,H,W], and these: each by itself.
        """
        move, code = move.clone().requires_grad_(), code.clone().requires_grad_(self.code)
        free = [{"params": [move], "lr": self.rate}]
        if self.code:
            free.append({"params": [code], "lr": self.rate * CODE_RATE})
        optimizer = torch.optim.Adam(free, betas=BETAS)
        inputs = inputs.index([0] * len(move))
        best = torch.full((len(move),), math.inf, device=target.device)
        kept = [move.detach().clone(), code.detach().clone()]
        for step in range(self.steps + 1):
            with torch.set_grad_enabled(step < self.steps):
                off = difference_as_saved(self._draw(self._at(inputs, move, code)), target)
                distance = shrink(off, self.size).square().mean(dim=(1, 2, 3))  # [R]
            nearer = distance.detach() < best
            best = torch.where(nearer, distance.detach(), best)
            for old, new in zip(kept, (move, code), strict=True):
                old[nearer] = new.detach()[nearer]
            if step < self.steps:
                optimizer.zero_grad()
                distance.sum().backward()
                optimizer.step()
            advance(len(move))
        return best, kept[0], kept[1]

    def _at(self, inputs: GeneratorInputs, move: Tensor, code: Tensor) -> GeneratorInputs:
        return inputs.replace(ws=inputs.ws + self.unit * code, transform=move_matrix(move[:, 0], move[:, 1:]))


def _moved(inputs: GeneratorInputs, moves: Tensor) -> GeneratorInputs:
    """One image's inputs at each of the moves [N,3]; a transform that they have is replaced."""
    return inputs.index([0] * len(moves)).replace(transform=move_matrix(moves[:, 0], moves[:, 1:]))


def _of_landmarks(landmarks: list[Any] | None, places: list[Any] | None) -> Tensor:
    """The move [1,3,3] from where the generator draws the landmarks to where they are. Raises UsageError."""
    if landmarks is None or places is None or len(landmarks) != len(places):
        raise UsageError("placement: landmarks of the picture need as many places, where the generator draws them")
    try:
        points, wanted = (torch.tensor(x, dtype=torch.float64).reshape(len(x), 2) - 0.5 for x in (places, landmarks))
    except (TypeError, ValueError, RuntimeError):
        raise UsageError(
            "placement: landmarks and places are lists of [x, y], such as [[0.4, 0.5], [0.6, 0.5]]"
        ) from None
    if len(points) < 2 or float((points - points[0]).norm(dim=1).max()) < 1e-6 or not bool(wanted.isfinite().all()):
        raise UsageError("placement: landmarks and places must be two different points at least")
    return fitted_move(points, wanted, scaled=False)
