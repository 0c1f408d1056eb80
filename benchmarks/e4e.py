"""e4e's own claims on fresh portraits: configurations A to D (Tov et al. 2021, Tables 2, 3, 5 and 6; section 8.2).

    latentopt train encoder --kind e4e --steps 2500 --delta-weight 0 --latent-weight 0 --no-progressive \\
        --outdir work/e4e-A
    latentopt train encoder --kind e4e --steps 2500 --latent-weight 0 --outdir work/e4e-B
    latentopt train encoder --kind e4e --steps 2500 --delta-weight 0 --no-progressive --outdir work/e4e-C
    latentopt train encoder --kind e4e --steps 2500 --outdir work/e4e-D
    python benchmarks/e4e.py --folders work/e4e-

A has neither of the editing losses, B delta regularisation (with progressive training), C the latent discriminator, D
both. Frechet distances are of the judge's features, SWD of patches. Writes `e4e.md` and `e4e.png` into the results.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import click
import torch
from encoder_arms import measured
from inversions import Bench
from tables import markdown_table, provenance, write_report
from torch import Tensor

from latentopt.editing.direction import Direction
from latentopt.editing.files import find_directions
from latentopt.encoders.encoder import Encoder
from latentopt.encoders.files import load_encoder
from latentopt.evaluation.distribution import frechet_distance
from latentopt.evaluation.editing_consistency import editing_distances, lec, trimmed_lec
from latentopt.evaluation.latents import latent_variation
from latentopt.evaluation.sliced_wasserstein import picture_swd
from latentopt.pictures.contact_sheet import contact_sheet
from latentopt.statistics.sampling import sample_w
from latentopt.types import GeneratorInputs

CONFIGURATIONS = "ABCD"
EDITS = (("yaw", 2.0), ("yaw", -2.0), ("smile", 2.0), ("smile", -2.0))
W_SAMPLES = 5000  # as in section 8.2
W_SEED = 4321
SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)
PICTURES = 5
TABLE_6 = {  # faces: L2, LPIPS, FID, SWD of inversions, FID, SWD of edits
    "A": (0.03, 0.17, 25.17, 48.72, 62.46, 48.75),
    "B": (0.04, 0.18, 28.09, 39.98, 149.85, 69.86),
    "C": (0.04, 0.19, 27.36, 33.96, 143.03, 41.94),
    "D": (0.05, 0.23, 30.96, 40.54, 81.08, 43.63),
}
COLUMNS = ("l2", "perceptual", "frechet", "swd", "edited frechet", "edited swd")


@dataclass
class Configuration:
    """One encoder on all portraits: codes [N,L,C], pictures [N,3,H,W], and its figures."""

    encoder: Encoder
    codes: GeneratorInputs
    images: Tensor
    edited: dict[tuple[str, float], Tensor]
    figures: dict[str, float]


@torch.no_grad()
def drawn(bench: Bench, inputs: GeneratorInputs) -> Tensor:
    parts = [bench.generator.synthesis(inputs.index(rows)) for rows in torch.arange(len(inputs)).split(bench.batch)]
    return torch.cat(parts).float().clamp(-1, 1)


@torch.no_grad()
def features(bench: Bench, images: Tensor) -> Tensor:
    return torch.cat([bench.judge.features(part) for part in images.split(100)])


@torch.no_grad()
def distance_to_w(bench: Bench, encoder: Encoder, n: int) -> float:
    """Mean of ||E(G(w)) - w|| over n random w, in all rows together (section 8.2)."""
    total = 0.0
    for w in sample_w(bench.generator, W_SEED, n).split(50):
        ws = bench.generator.broadcast(w)
        found = encoder.encode(bench.generator, bench.generator.synthesis(GeneratorInputs(ws)).float())[-1].ws
        total += (found - ws).double().flatten(1).norm(dim=1).sum().item()
    return total / n


def consistency(bench: Bench, encoder: Encoder, codes: GeneratorInputs, edit: Direction, strength: float) -> Tensor:
    """Equation 8 of every image before the mean, [N]."""

    def invert(images: Tensor, rows: Sequence[int]) -> Tensor:
        return torch.cat([encoder.encode(bench.generator, part)[-1].ws for part in images.split(bench.batch)])

    one_by_one = [codes.index([i]) for i in range(len(codes))]
    return editing_distances(bench.generator, one_by_one, edit, strength, invert)


def work(bench: Bench, path: Path, directions: dict[str, Direction], w_samples: int) -> Configuration:
    encoder = load_encoder(str(path), bench.generator)
    codes = encoded(bench, encoder)
    found = Configuration(encoder, codes, *pictures(bench, codes, directions), {})
    found.figures |= qualities(bench, codes, found.images, found.edited)
    found.figures["distance to W"] = distance_to_w(bench, encoder, w_samples)
    for name, strength in EDITS:
        distances = consistency(bench, encoder, codes, directions[name], strength)
        found.figures[f"LEC {name}{strength:+g}"] = lec(distances)
        found.figures[f"trimmed LEC {name}{strength:+g}"] = trimmed_lec(distances)
    return found


def encoded(bench: Bench, encoder: Encoder) -> GeneratorInputs:
    return GeneratorInputs.cat([encoder.encode(bench.generator, x)[-1] for x in bench.targets.split(bench.batch)])


def pictures(
    bench: Bench, codes: GeneratorInputs, directions: dict[str, Direction]
) -> tuple[Tensor, dict[tuple[str, float], Tensor]]:
    """What codes draw, and what they draw after each edit, [N,3,H,W]."""
    edited = {(name, s): drawn(bench, directions[name].edit(codes, s)) for name, s in EDITS}
    return drawn(bench, codes), edited


def qualities(
    bench: Bench, codes: GeneratorInputs, images: Tensor, edited: dict[tuple[str, float], Tensor]
) -> dict[str, float]:
    """Distortion, perceptual quality and editability, as e4e's Table 3 has them, and the variation of the codes."""
    real = features(bench, bench.targets)
    values, _ = measured(bench, codes, bench.targets)
    figures = {name: sum(values[name]) / len(codes) for name in ("l2", "perceptual", "psnr", "identity")}
    figures |= {
        "frechet": frechet_distance(real, features(bench, images)),
        "swd": picture_swd(bench.targets, images)[0],
    }
    figures["edited frechet"] = frechet_distance(real, features(bench, torch.cat(list(edited.values()))))
    swds = [picture_swd(bench.targets, images, splits=0)[0] for images in edited.values()]
    figures["edited swd"] = sum(swds) / len(swds)
    figures["variation"] = latent_variation(codes.ws).mean().item()
    return figures


def dial(bench: Bench, directions: dict[str, Direction]) -> str:
    """From the bundled pSp's codes to the bundled e4e's (Figure 10)."""
    first, second = (encoded(bench, load_encoder(kind, bench.generator)) for kind in ("psp", "e4e"))
    rows = []
    for share in SHARES:
        codes = GeneratorInputs(torch.lerp(first.ws, second.ws, share))
        figures = qualities(bench, codes, *pictures(bench, codes, directions))
        rows.append([share, *(figures[column] for column in (*COLUMNS, "variation"))])
    return markdown_table(["share of e4e", *COLUMNS, "variation"], rows)


def table_6(found: dict[str, Configuration]) -> str:
    columns = [f"{name} ({who})" for name in COLUMNS for who in ("ours", "paper")]
    rows = []
    for name, configuration in found.items():
        pairs = zip((configuration.figures[c] for c in COLUMNS), TABLE_6[name], strict=True)
        rows.append([name, *(value for pair in pairs for value in pair)])
    return markdown_table(["", *columns], rows)


def other_figures(found: dict[str, Configuration]) -> str:
    names = [name for name in next(iter(found.values())).figures if name not in COLUMNS]
    return markdown_table(["", *names], [[n, *(c.figures[name] for name in names)] for n, c in found.items()])


def mean_lec(configuration: Configuration) -> float:
    values = [value for name, value in configuration.figures.items() if name.startswith("LEC")]
    return sum(values) / len(values)


def expectations(found: dict[str, Configuration]) -> str:
    a, d = found["A"].figures, found["D"].figures
    claims = {
        f"{label} of D below A's ({d[key]:.4g}, {a[key]:.4g}; paper {paper})": d[key] < a[key]
        for label, key, paper in (
            ("variation (8.2)", "variation", "20.2, 324.8"),
            ("distance of re-encoded W samples (8.2)", "distance to W", "57.7, 364.5"),
        )
    }
    claims |= {
        f"distortion of A below D's in {key} ({a[key]:.4g}, {d[key]:.4g}; Table 3)": a[key] < d[key]
        for key in ("l2", "perceptual")
    }
    both = mean_lec(found["D"]), mean_lec(found["A"])
    claims[f"LEC of D below A's (Table 5: {both[0]:.4g}, {both[1]:.4g}; paper 22.3, 54.7)"] = both[0] < both[1]
    for column, i in (("frechet", 2), ("swd", 3), ("edited frechet", 4), ("edited swd", 5)):
        ours, paper = d[column] < a[column], TABLE_6["D"][i] < TABLE_6["A"][i]
        lower = "D" if paper else "A"
        claims[f"{column}: {lower} lower, as in the paper ({a[column]:.4g} A, {d[column]:.4g} D)"] = ours == paper
    return "\n".join(f"- {'held' if held else 'NOT held'}: {text}" for text, held in claims.items())


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--folders", required=True, help="Beginning of the four folders' names; A, B, C, D are put behind it.")
@click.option("--network", default="portraits", show_default=True, help="A bundled generator or a file.")
@click.option("--n", default=200, show_default=True, type=click.IntRange(min=4), help="Portraits.")
@click.option("--w-samples", default=W_SAMPLES, show_default=True, type=click.IntRange(min=1))
@click.option("--batch", default=8, show_default=True, type=click.IntRange(min=1))
@click.option("--out", default="benchmarks/results", show_default=True, type=click.Path(path_type=Path))
def main(folders: str, network: str, n: int, w_samples: int, batch: int, out: Path) -> None:
    """Compare e4e's configurations."""
    bench = Bench(network, n, batch, "cpu")
    directions = find_directions(bench.generator)
    found = {}
    for name in CONFIGURATIONS:
        path = Path(f"{folders}{name}") / "encoder-e4e.safetensors"
        found[name] = work(bench, path, directions, w_samples)
        click.echo(f"{name}: {found[name].figures}")
    card = found["D"].encoder.card
    facts = provenance(
        bench.generator.device,
        f"portraits TEST_SEEDS[:{n}]; w samples {W_SEED}",
        network=f"{bench.generator.name} ({bench.generator.fingerprint})",
        encoders=f"{card.get('steps')} steps each, {card.get('images_seen')} images",
        edits=", ".join(f"{name} {strength:+g}" for name, strength in EDITS) + " standard deviations",
    )
    text = [
        f"Expected:\n\n{expectations(found)}",
        "## Tables 3 and 6",
        table_6(found),
        "## Table 5 and section 8.2",
        other_figures(found),
    ]
    text += ["## From pSp to e4e (Figure 10)", dial(bench, directions)]
    write_report(out / "e4e.md", "e4e's configurations", *text, MEANING, facts)
    shown = list(EDITS[::2])
    columns = ["target", *(h for c in found for h in (c, *(f"{c}: {name} {s:+g}" for name, s in shown)))]
    rows = [
        [target, *(x for c in found.values() for x in (c.images[i], *(c.edited[edit][i] for edit in shown)))]
        for i, target in enumerate(bench.targets[:PICTURES])
    ]
    contact_sheet(rows, out / "e4e.png", columns=columns)
    click.echo("\n\n".join(text))


MEANING = (
    "l2: mean square in [-1,1]; perceptual: LPIPS form on the training's network; frechet: of judge features, "
    "inversions or edited inversions (all edits together) against the portraits; swd: x1000, edits averaged. variation "
    "and distances are Euclidean norms over all entries of a code; their unit is that of this generator's w, so only "
    "orders compare with the paper. LEC: equation 8; trimmed: as in the released code."
    "\n\n![targets, inversions and edits](e4e.png)"
)


if __name__ == "__main__":
    main()
