"""ReStyle's ablations on fresh portraits: naive re-feeding (Figure 16), and simple against pyramid heads (Table 1).

    latentopt train encoder --kind restyle-psp --restyle-steps 3 --steps 400 --outdir work/restyle-simple
    latentopt train encoder --kind restyle-psp --restyle-steps 3 --steps 400 --heads pyramid \\
        --outdir work/restyle-pyramid
    python benchmarks/restyle.py --simple work/restyle-simple/encoder-restyle-psp.safetensors \\
        --pyramid work/restyle-pyramid/encoder-restyle-psp.safetensors

Naive re-feeding gives a one-pass encoder its own reconstruction, again and again. Writes `restyle.md` and `restyle.png`
into the results. Without the two files, Table 1 is left out.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import click
import torch
from encoder_arms import MEASURES, Found, encoding, work_through
from inversions import Bench
from tables import markdown_table, provenance, write_report
from torch import Tensor

from latentopt.encoders.encoder import Encoder
from latentopt.encoders.files import load_encoder
from latentopt.generators.stylegan2 import StyleGAN2
from latentopt.pictures.contact_sheet import contact_sheet
from latentopt.types import GeneratorInputs

BASES = ("psp", "e4e")
STEPS = 10
TABLE_STEPS = 5  # of Table 1
PICTURES = 4


def re_feeding(encoder: Encoder, generator: StyleGAN2, steps: int) -> Callable[[Tensor], list[GeneratorInputs]]:
    """A one-pass encoder whose output picture is its next input (ReStyle, appendix C, "naive")."""

    def encode(target: Tensor) -> list[GeneratorInputs]:
        found, x = [], target
        for _ in range(steps):
            found += encoder.encode(generator, x)
            with torch.no_grad():
                x = generator.synthesis(found[-1]).float().clamp(-1, 1)
        return found

    return encode


def iterating(encoder: Encoder, generator: StyleGAN2, steps: int) -> Callable[[Tensor], list[GeneratorInputs]]:
    return lambda target: encoder.encode(generator, target, steps)


def figure_16(bench: Bench) -> dict[str, Found]:
    """Each base re-fed, and ReStyle over it, by steps."""
    found, generator = {}, bench.generator
    for base in BASES:
        for name, kind, scheme in (
            (f"{base}, re-fed", base, re_feeding),
            (f"ReStyle over {base}", f"restyle-{base}", iterating),
        ):
            encoder = load_encoder(kind, generator)
            key = [scheme.__name__, encoder.fingerprint, STEPS]
            found[name] = work_through(bench, name, key, encoding(scheme(encoder, generator, STEPS)))
    return found


def table_1(bench: Bench, files: dict[str, Path]) -> str:
    """Two encoders of equal training after five steps: quality, and processor time an image."""
    rows = []
    for name, path in files.items():
        encoder = load_encoder(str(path), bench.generator)
        key = ["iterating", encoder.fingerprint, TABLE_STEPS]
        scheme = iterating(encoder, bench.generator, TABLE_STEPS)
        point = work_through(bench, name, key, encoding(scheme)).points[TABLE_STEPS]
        weights = sum(p.numel() for p in encoder.net.parameters())
        rows.append([name, weights, *map(point.mean, MEASURES), point.mean("seconds")])
    return markdown_table(["heads", "weights", *MEASURES, "seconds"], rows)


def by_step(found: dict[str, Found], measure: str) -> str:
    rows = [[name, *(r.points[s].mean(measure) for s in range(1, STEPS + 1))] for name, r in found.items()]
    return f"{measure}:\n\n" + markdown_table(["scheme", *(f"step {s}" for s in range(1, STEPS + 1))], rows)


def expectations(found: dict[str, Found], trained: int) -> str:
    """Figure 16: what happens from the first step to the last that ReStyle was trained with, and to the tenth."""
    lines = []
    for name, result in found.items():
        values = {step: point.mean("l2") for step, point in result.points.items()}
        worse = "re-fed" in name
        held = (values[trained] > values[1]) == worse
        text = f"{name} gets {'worse' if worse else 'better'} with the steps: l2 "
        text += ", ".join(f"{values[step]:.4g} after {step}" for step in sorted({1, trained, TABLE_STEPS, STEPS}))
        lines.append(f"- {'held' if held else 'NOT held'}: {text}")
    return "\n".join(lines)


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--network", default="portraits", show_default=True, help="A bundled generator or a file.")
@click.option("--n", default=200, show_default=True, type=click.IntRange(min=1), help="Portraits.")
@click.option("--batch", default=8, show_default=True, type=click.IntRange(min=1))
@click.option("--simple", type=click.Path(path_type=Path, exists=True), help="ReStyle encoder with simple heads.")
@click.option("--pyramid", type=click.Path(path_type=Path, exists=True), help="The same with pyramid heads.")
@click.option("--out", default="benchmarks/results", show_default=True, type=click.Path(path_type=Path))
def main(network: str, n: int, batch: int, simple: Path | None, pyramid: Path | None, out: Path) -> None:
    """Naive re-feeding against ReStyle, and simple against pyramid heads."""
    bench = Bench(network, n, batch, "cpu")
    found, trained = figure_16(bench), load_encoder("restyle-psp", bench.generator).default_steps
    parts = [
        f"Expected:\n\n{expectations(found, trained)}",
        *(by_step(found, measure) for measure in ("l2", "perceptual")),
    ]
    if simple and pyramid:
        parts += ["## Heads (Table 1)", table_1(bench, {"simple": simple, "pyramid": pyramid})]
    facts = provenance(bench.generator.device, f"portraits TEST_SEEDS[:{n}]", batch=batch)
    write_report(out / "restyle.md", "ReStyle's ablations", *parts, MEANING, facts)
    rows = [[image.cpu(), *(result.images[i] for result in found.values())] for i, image in enumerate(bench.targets)]
    contact_sheet(
        rows[:PICTURES], out / "restyle.png", columns=["target", *(f"{name}: step {STEPS}" for name in found)]
    )
    click.echo("\n\n".join(parts))


MEANING = (
    "Means over the images, of 8-bit pictures; measures as in encoders.md. seconds: of the processor (one thread), an "
    "image, all five steps with the pictures between them.\n\n![after the last step](restyle.png)"
)


if __name__ == "__main__":
    main()
