"""What sigma is and does: figure 8 and tables 6 and 7 of the WRanGAN paper, epsilon after inversion, table 1,
table 3.
"""

from __future__ import annotations

import torch
from portraits import BATCH, Judged, compare, judged, samples
from tables import markdown_table
from torch import Tensor
from tuning_measures import layer_of
from tuning_strategies import BASE, WRANGAN
from tunings import Bench, Result

from latentopt.data.portraits import TEST_SEEDS, portraits
from latentopt.generators.stylegan2 import StyleGAN2
from latentopt.generators.tunable import choose_weights
from latentopt.statistics.sampling import sample_w
from latentopt.statistics.sigma import Sigma
from latentopt.types import GeneratorInputs

SMALL = 1e-3  # table 6
NUDGE = 0.1  # standard deviation of the equal change of every layer, in units of the stored weights
PICTURES = 64
LAYERS = (4, 6, 8)
TABLE_1 = {4: 0.07, 6: 0.23, 8: 0.39}
TABLE_3 = {"base": (4.27, 0.70, 0.42), "WRanGAN": (5.61, 0.65, 0.45)}  # FFHQ: FID, precision, recall


def sigma_table(sigmas: dict[str, Sigma]) -> str:
    """Quartiles of sigma and the share of small ones by layer (figure 8, table 6)."""
    rows = []
    for origin, sigma in sigmas.items():
        for name, values in sigma.tensors.items():
            x = values.flatten().double()
            spread = x.quantile(torch.tensor([0.0, 0.25, 0.5, 0.75, 1.0], dtype=torch.double)).tolist()
            rows.append([origin, layer_of(name), *spread, 100 * (x < SMALL).double().mean().item()])
    columns = ["sigma", "layer", "least", "q25", "median", "q75", "largest", f"% below {SMALL:g}"]
    return markdown_table(columns, rows)


@torch.no_grad()
def influence_table(generator: StyleGAN2, sigmas: dict[str, Sigma], seed: int = 0) -> str:
    """Mean squared change of the picture, [-1,1], when one layer's weights are changed at random (table 7)."""
    layers = next(iter(sigmas.values())).tensors
    columns = ["layer", f"equal change of {NUDGE:g}", *(f"{origin} sigma x epsilon" for origin in sigmas)]
    rows = []
    for name, values in layers.items():
        scales = [torch.full_like(values, NUDGE), *(sigma.tensors[name] for sigma in sigmas.values())]
        rows.append([layer_of(name), *(picture_mse(generator, {name: scale}, seed) for scale in scales)])
    return markdown_table(columns, rows)


def picture_mse(generator: StyleGAN2, scales: dict[str, Tensor], seed: int) -> float:
    """Mean over PICTURES random pictures, each with weights changed by scale * epsilon of its own."""
    rng = torch.Generator().manual_seed(seed)
    total = 0.0
    for w in sample_w(generator, seed, PICTURES).split(16):
        inputs = GeneratorInputs(generator.broadcast(w))
        changed = generator.synthesis(inputs.replace(deltas=draw_deltas(scales, len(w), rng, generator.device)))
        total += (changed - generator.synthesis(inputs)).square().mean(dim=(1, 2, 3)).sum().item()
    return total / PICTURES


def draw_deltas(scales: dict[str, Tensor], n: int, rng: torch.Generator, device: torch.device) -> dict[str, Tensor]:
    """scale * epsilon, epsilon ~ N(0,1) anew for each of n images: {weight: [n,*shape]}."""
    return {k: (s.cpu() * torch.randn(n, *s.shape, generator=rng)).to(device) for k, s in scales.items()}


def epsilon_table(results: dict[str, Result]) -> str:
    """Deviation of epsilon by layer after inversion, mean over the images (appendix C; 1 in training)."""
    found = {name: r for name, r in results.items() if any(k.startswith("epsilon/") for k in r.values)}
    layers = sorted({k for r in found.values() for k in r.values if k.startswith("epsilon/")}, key=_size_of)
    rows = [[name, *(r.mean(layer) for layer in layers)] for name, r in found.items()]
    return markdown_table(["strategy", *map(layer_of, layers)], rows)


def _size_of(layer: str) -> tuple[int, str]:
    block, _, rest = layer_of(layer).partition(".")
    return int(block.removeprefix("b")), rest


def parameters_table(generator: StyleGAN2) -> str:
    """How many parameters N randomised layers add (table 1)."""
    total = sum(p.numel() for p in generator.parameters())
    rows = []
    for n in LAYERS:
        added = sum(torch.Size(generator.tunable[name]).numel() for name in choose_weights(generator, f"convs:{n}"))
        rows.append([n, added, f"{100 * added / total:.0f} %", f"{100 * TABLE_1[n]:.0f} %"])
    return markdown_table(["randomised layers", "sigmas", "increase", "paper"], rows)


@torch.no_grad()
def random_samples(generator: StyleGAN2, sigma: Sigma, n: int, seed: int) -> Tensor:
    """n pictures [n,3,H,W] with weights mu + sigma * epsilon, epsilon anew for each picture; the latents of
    `samples`.
    """
    torch.manual_seed(seed)
    rng = torch.Generator().manual_seed(seed)
    images = []
    for start in range(0, n, BATCH):
        w = generator.mapping(torch.randn(min(BATCH, n - start), generator.z_dim).to(generator.device))
        for part in generator.broadcast(w).split(16):
            deltas = draw_deltas(sigma.tensors, len(part), rng, generator.device)
            images.append(generator.synthesis(GeneratorInputs(part, deltas=deltas)).float().clamp(-1, 1).cpu())
    return torch.cat(images)


def generation_table(bench: Bench, n: int) -> str:
    """Frechet distance, precision and recall of base and WRanGAN against n fresh portraits (table 3)."""
    resolution = bench.networks[BASE].resolution
    reference = judged(bench.judge, portraits(TEST_SEEDS[:n], resolution)[0])
    drawn: dict[str, Judged] = {"base": judged(bench.judge, samples(bench.networks[BASE], n, "const", 0))}
    if bench.wrangan:
        network = bench.networks[WRANGAN]
        drawn["WRanGAN, epsilon 0"] = judged(bench.judge, samples(network, n, "const", 0))
        drawn["WRanGAN"] = judged(bench.judge, random_samples(network, bench.load_sigma("learned"), n, 0))
    drawn["base, estimated sigma"] = judged(
        bench.judge, random_samples(bench.networks[BASE], bench.load_sigma("estimated"), n, 0)
    )
    drawn["other real portraits"] = judged(bench.judge, portraits(TEST_SEEDS[n : 2 * n], resolution)[0])
    rows = []
    for name, one in drawn.items():
        found, paper = compare(reference, one), TABLE_3.get(name, (None, None, None))
        rows.append([name, found.frechet, found.precision, found.recall, *paper])
    columns = ["pictures", "frechet", "precision", "recall", "FID, paper", "precision, paper", "recall, paper"]
    return markdown_table(columns, rows)
