"""What is measured of a tuned generator: distortion, pictures after edits, corruption, and the size of what was
tuned.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn.functional import normalize
from tuning_edits import edited

from latentopt.evaluation.corruption import compare, extractor_name, random_shifts, shifted_features
from latentopt.evaluation.image_metrics import ms_ssim
from latentopt.generators.stylegan2 import StyleGAN2
from latentopt.inverting.batch import Batch
from latentopt.judge.network import Judge
from latentopt.loop.building import build_problem
from latentopt.results.distortion import metrics
from latentopt.terms.perceptual import Perceptual
from latentopt.types import GeneratorInputs, View


@torch.no_grad()
def pictures_of(generator: StyleGAN2, inputs: GeneratorInputs, edits: Tensor) -> dict[str, Tensor]:
    """Pictures of the tuned generator and (`plain`) the untouched: [b,3,H,W]; with edits [b,4,C]: [b,4,3,H,W]."""
    untouched = inputs.replace(deltas=None)
    return {
        "image": generator.synthesis(inputs).float(),
        "plain": generator.synthesis(untouched).float(),
        "edits": edited(generator, inputs, edits),
        "plain edits": edited(generator, untouched, edits),
    }


@torch.no_grad()
def distortion(generator: StyleGAN2, judge: Judge, image: Tensor, target: Tensor) -> dict[str, list[float]]:
    """How far images [b,3,H,W] are from their targets, by several measures."""
    a, b = (normalize(judge.features(x.clamp(-1, 1)), dim=1) for x in (image, target))
    figures, nowhere = (
        metrics(image, target),
        GeneratorInputs(image.new_zeros(len(image), generator.num_ws, generator.w_dim)),
    )
    values = {
        "mse": figures["mse"],
        "psnr": figures["psnr"],
        "ms-ssim": ms_ssim(image, target),
        "perceptual": Perceptual(generator, target)(View(image, target, nowhere, {}, 1.0)),
        "judge": (a - b).square().sum(dim=1),
        "identity": (judge.embed(image.clamp(-1, 1)) * judge.embed(target)).sum(dim=1),
    }
    return {name: value.tolist() for name, value in values.items()}


@dataclass
class Corruptions:
    """Corruption by `n` shifts, image by image. The untouched generator's features around the last `keep` latents are
    kept, for strategies that share a pivot.
    """

    judge: Judge
    n: int
    keep: int
    kept: dict[str, Tensor] = field(default_factory=dict)

    def __call__(
        self, generator: StyleGAN2, inputs: GeneratorInputs, on_progress: Callable[[int], None]
    ) -> dict[str, list[float]]:
        shifts, name = random_shifts(generator, self.n, seed=0), extractor_name(self.judge, generator)
        found = []
        for i in range(len(inputs)):
            one = inputs.index([i])
            tuned = shifted_features(generator, one, shifts, self.judge, on_progress=on_progress)
            found.append(compare(self._untouched(generator, one.ws, shifts), tuned, name))
        return {name: [getattr(c, name) for c in found] for name in ("frechet", "kernel")}

    def _untouched(self, generator: StyleGAN2, ws: Tensor, shifts: Tensor) -> Tensor:
        """Features [n,F] around ws [1,L,C]."""
        key = f"{generator.fingerprint} {hashlib.sha256(ws.cpu().numpy().tobytes()).hexdigest()}"
        if key not in self.kept:
            self.kept[key] = shifted_features(generator, GeneratorInputs(ws), shifts, self.judge)
            while len(self.kept) > self.keep:
                del self.kept[next(iter(self.kept))]
        self.kept[key] = self.kept.pop(key)  # the latest used go last
        return self.kept[key]


def variables_of(run: Batch) -> dict[str, list[float]]:
    """How many parameters the last stage tunes an image, and the deviation of epsilon in each weight, from a
    finished run.
    """
    problem = build_problem(run.generator, run.recipe.stages[-1], run.target, run.seeds, start=run.inputs)
    variables = problem.lens.encode(run.inputs)
    spaces = {part["name"] for part in run.recipe.stages[-1].spaces("deltas")}
    weights = {name: v for name, v in variables.items() if name.partition("/")[0] in spaces}
    found = {"parameters": [float(sum(v[0].numel() for v in weights.values()))] * len(run.keys)}
    for name, v in weights.items():
        if name.startswith("epsilon/"):
            found[name] = v.flatten(1).std(dim=1).tolist()
    return found


def layer_of(weight: str) -> str:
    """`b64.conv1` of `epsilon/synthesis.b64.conv1.weight`."""
    return re.sub(r"^(epsilon/)?(synthesis\.)?|\.weight$", "", weight)
