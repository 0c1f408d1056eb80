"""The tables of `tuning.py`: distortion and corruption, what edits do afterwards, what was expected, and the paper."""

from __future__ import annotations

import torch
from tables import markdown_table
from torch import Tensor
from torch.nn.functional import cosine_similarity
from tuning_edits import EDITS
from tuning_strategies import ESTIMATED, JOINT, LEARNED, PTI, SIMPLE
from tunings import Bench, Result

from latentopt.data.portraits import ATTRIBUTES, TEST_SEEDS, portraits, sample_attributes
from latentopt.evaluation.distribution import frechet_distance, kernel_distance, paired_kernel_distance

REFERENCE = 1000  # fresh portraits that edited pictures are compared with
MEASURES = ("mse", "perceptual", "judge", "identity", "ms-ssim", "psnr", "frechet", "kernel", "seconds")

# WRanGAN paper, table 2, FFHQ: PTI, WRanGAN. MSE there is of other pictures and LPIPS of other networks: compare
# ratios.
PAPER = {
    "mse": (0.024, 0.007),
    "perceptual": (0.293, 0.085),  # LPIPS-VGG, the network of the paper's loss or nearest to it
    "judge": (0.06, 0.083),  # LPIPS-Alex, another network
    "ms-ssim": (0.776, 0.929),
    "memory": (3133.0, 2557.0),
    "seconds": (35.46, 23.27),
}


def main_table(results: dict[str, Result], rows: slice, memory: dict[str, float | None]) -> str:
    """Means over the images in `rows`."""
    columns = ["strategy", *MEASURES, "peak memory, MiB", "tuned parameters"]
    lines = [
        [name, *(r.mean(m, rows) for m in MEASURES), memory.get(name), r.mean("parameters", rows)]
        for name, r in results.items()
    ]
    return markdown_table(columns, lines)


def medians(results: dict[str, Result], rows: slice) -> str:
    def median(values: list[float]) -> float | None:
        return torch.tensor(values[rows]).quantile(0.5).item() if values[rows] else None

    lines = [[name, *(median(r.values.get(m, [])) for m in MEASURES)] for name, r in results.items()]
    return markdown_table(["strategy", *MEASURES], lines)


@torch.no_grad()
def edit_table(bench: Bench, results: dict[str, Result], rows: slice) -> str:
    """What the four edits do to the tuned generator's pictures, next to the untouched generator's from the same
    latents.
    """
    judge, device = bench.judge, bench.judge.mean.device
    target = bench.judge.embed(bench.targets[rows])  # [N,E]
    real = judge.features(portraits(TEST_SEEDS[-REFERENCE:], judge.config.resolution)[0].to(device))
    spread = sample_attributes(TEST_SEEDS[-REFERENCE:]).std(dim=0).to(device)  # [A]
    columns = ["strategy", "frechet", "kernel", "kernel to portraits", "attribute drift", "identity", "of untouched"]
    lines = []
    for name, result in results.items():
        own, plain = (_stack(result, key, rows, device) for key in ("edits", "plain edits"))  # [N,4,3,H,W]
        a, b = judge.features(own.flatten(0, 1)), judge.features(plain.flatten(0, 1))  # [4N,F]
        effects = [
            judge.read(edits.flatten(0, 1)).unflatten(0, (-1, EDITS))
            - judge.read(_stack(result, key, rows, device))[:, None]
            for edits, key in ((own, "image"), (plain, "plain"))
        ]
        drift = ((effects[0] - effects[1]).abs() / spread).mean()
        whole = len(a) > judge.config.num_features  # fewer points do not span the features: no covariance
        identities = [
            cosine_similarity(judge.embed(x.flatten(0, 1)).unflatten(0, (-1, EDITS)), target[:, None], dim=2).mean()
            for x in (own, plain)
        ]
        kernel = paired_kernel_distance(b, a, subset_size=len(a)).mean
        to_real = kernel_distance(real, a, subset_size=min(len(a), len(real))).mean
        lines.append(
            [name, frechet_distance(b, a) if whole else None, kernel, to_real, drift.item(), *map(float, identities)]
        )
    return markdown_table(columns, lines)


def _stack(result: Result, key: str, rows: slice, device: torch.device) -> Tensor:
    return torch.stack(result.pictures[key][rows]).to(device)


def expectations(results: dict[str, Result], rows: slice, memory: dict[str, float | None]) -> str:
    """What was expected of WRanGAN, and whether it held."""
    pti, simple = results[PTI], results[SIMPLE]
    claims: dict[str, bool] = {}
    for name in (JOINT, LEARNED, ESTIMATED):
        if name not in results:
            continue
        own = results[name]
        for measure in ("mse", "perceptual", "judge"):
            a, b = own.mean(measure, rows), pti.mean(measure, rows)
            claims[f"{name}: {measure} ({a:.4g}) is at most PTI's ({b:.4g})"] = a <= b
        few, many = own.mean("parameters", rows), pti.mean("parameters", rows)
        claims[f"{name}: tunes {many / few:.2f} times fewer parameters than PTI; 3 expected"] = many >= 3 * few
        a, b = own.mean("seconds", rows), pti.mean("seconds", rows)
        claims[f"{name}: {a:.1f} s an image, PTI {b:.1f} s"] = a <= b
        for measure in ("frechet", "kernel"):
            a, b = own.mean(measure, rows), simple.mean(measure, rows)
            claims[f"{name}: corruption, {measure} ({a:.4g}), is under half the simple tune's ({b:.4g})"] = a < b / 2
        if memory.get(name) and memory.get(PTI):
            claims[f"{name}: peak memory {memory[name]:.0f} MiB, PTI {memory[PTI]:.0f} MiB"] = (
                memory[name] <= memory[PTI]
            )
    return "\n".join(f"- {'held' if held else 'NOT held'}: {text}" for text, held in claims.items())


def paper_table(results: dict[str, Result], rows: slice, memory: dict[str, float | None]) -> str:
    """WRanGAN over PTI: the paper's ratios (table 2, FFHQ) and ours."""
    names = [name for name in (JOINT, LEARNED, ESTIMATED) if name in results]

    def ratio(name: str, measure: str) -> float | None:
        if measure == "memory":
            pair = memory.get(name), memory.get(PTI)
        else:
            pair = results[name].mean(measure, rows), results[PTI].mean(measure, rows)
        return pair[0] / pair[1] if all(pair) else None

    lines = [[m, theirs / base, *(ratio(name, m) for name in names)] for m, (base, theirs) in PAPER.items()]
    disagree = []
    for measure, theirs, *ours in lines:
        other = [
            f"{n} {x:.3g}" for n, x in zip(names, ours, strict=True) if x is not None and (x - 1) * (theirs - 1) < 0
        ]
        disagree += [f"{measure} (paper {theirs:.3g}): {', '.join(other)}"] if other else []
    table = markdown_table(["WRanGAN / PTI", "paper, FFHQ", *names], lines)
    said = "; ".join(disagree) or "none"
    return f"{table}\n\nOn another side of 1 than the paper: {said}."


MEANING = (
    "mse: of 8-bit pictures as [0,1] (a quarter of the [-1,1] figure); perceptual: LPIPS form on the network of the "
    "loss; judge: squared distance of the judge's unit-length features; identity: cosine of the judge's identity "
    "embeddings; ms-ssim: 3 scales with the window of 11 at 64 pixels, exponents scaled to sum to 1 (the paper's five "
    "scales need 176 pixels). frechet, kernel: corruption as of section 3.1, against the untouched generator with the "
    "same latents and noise, so that 0 is none; both measure change, not quality. Shifts: differences of two random w "
    "over sqrt(2). seconds: of tuning alone, wall clock an image in its batch. tuned parameters: of the generator, an "
    "image; the latent is not counted. peak memory: of one image and 5 steps in a process of its "
    "own, above what the loaded networks occupy."
)
EDIT_MEANING = (
    f"{EDITS} orthogonal directions in which the picture of the untouched generator changes most at the pivot (leading "
    "right singular vectors of the Jacobian of the picture), two standard deviations of W each. frechet, kernel: of "
    "the edited pictures against the untouched generator's edited pictures, paired. kernel to portraits: of the edited "
    "pictures to fresh portraits (unpaired): how real they are. attribute drift: mean absolute difference between what "
    f"an edit does to the judge's {len(ATTRIBUTES)} attribute readings in the tuned generator and in the untouched, in "
    "standard deviations of the portraits. identity: cosine of edited picture and target, and "
    "the same for the untouched generator's edited pictures."
)
