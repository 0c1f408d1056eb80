"""What does `fit-pnorm` cost beyond the mapping passes, and how exact is it?

    python benchmarks/fit_pnorm.py
    python benchmarks/fit_pnorm.py --samples 1e5 --threads 2

The networks have random weights: their cost does not depend on them. The three ways take turns batch by batch, so that
other work on the machine slows all alike.
"""

from __future__ import annotations

import time
from pathlib import Path

import click
import numpy as np
import torch
from tables import machine_name, markdown_table, provenance, write_report

from latentopt.commands.fit_pnorm import Count
from latentopt.generators.stylegan2 import StyleGAN2, StyleGAN2Config
from latentopt.statistics.moments import Moments
from latentopt.statistics.pnorm import w_to_p
from latentopt.statistics.pnorm_fit import BATCH, PNormFit, draw_codes

SIZES = ((128, 4), (512, 8))  # w_dim and mapping layers: the bundled generator, StyleGAN2


def make_generator(dim: int, layers: int) -> StyleGAN2:
    torch.manual_seed(0)
    return StyleGAN2(StyleGAN2Config(dim, dim, (4, 4), mapping_layers=layers)).eval()


def measure(generator: StyleGAN2, samples: int) -> tuple[float, float, float]:
    """Seconds of mapping given z, of drawing z too, and of the whole fit, for that many samples."""
    seconds = np.zeros(3)
    z = torch.randn(BATCH, generator.z_dim)
    fit = PNormFit(generator, samples)
    steps = fit.run()
    for i in fit.batches:
        times = [time.perf_counter()]
        with torch.no_grad():
            generator.mapping(z)
        times.append(time.perf_counter())
        draw_codes(generator, i)
        times.append(time.perf_counter())
        next(steps)
        times.append(time.perf_counter())
        seconds += np.diff(times)
    return tuple(seconds)


def accuracy(generator: StyleGAN2, batches: int = 5) -> float:
    """Largest error of the streamed eigenvalues against numpy's two-pass float64, over the largest eigenvalue."""
    moments, parts = Moments(generator.w_dim), []
    for i in range(batches):
        parts.append(w_to_p(draw_codes(generator, i).double()))
        moments.update(parts[-1])
    expected = np.linalg.eigvalsh(np.cov(torch.cat(parts).numpy(), rowvar=False))
    found = np.linalg.eigvalsh(moments.covariance)
    return float(np.abs(found - expected).max() / expected[-1])


def row(dim: int, layers: int, samples: int) -> list[object]:
    """One line of the table."""
    generator = make_generator(dim, layers)
    mapping, drawn, fit = measure(generator, samples)
    return [dim, layers, mapping, drawn, fit, fit / mapping, fit / drawn, f"{accuracy(generator):.1e}"]


@click.command()
@click.option("--samples", type=Count(), default="1e6", show_default=True, help="Codes to draw.")
@click.option("--threads", type=click.IntRange(min=1), default=1, show_default=True, help="Set OMP_NUM_THREADS too.")
@click.option("--out", default="benchmarks/results", show_default=True, type=click.Path(path_type=Path))
def main(samples: int, threads: int, out: Path) -> None:
    """Time the P-norm fit against the mapping network alone, and compare its eigenvalues with numpy's."""
    torch.set_num_threads(threads)
    text = markdown_table(COLUMNS, [row(dim, layers, samples) for dim, layers in SIZES])
    device = torch.device("cpu")
    facts = provenance(device, 0, samples=f"{samples:,}", batch=f"{BATCH:,}", clock="wall clock")
    path = out / f"fit-pnorm-{machine_name(device)}.md"
    write_report(path, "Cost of the P-norm fit", text, MEANING, facts)
    click.echo(f"{text}\n\nwritten to {path}")


COLUMNS = (
    "w_dim",
    "layers",
    "mapping, s",
    "+ z, s",
    "fit, s",
    "fit / mapping",
    "fit / (mapping + z)",
    "eigenvalue error",
)
MEANING = (
    "Seconds for all samples: `mapping` is the network on given z, `+ z` draws them too, `fit` is the whole fit. The "
    "error is the largest of the streamed eigenvalues against numpy's two-pass float64 ones, "
    "over the largest eigenvalue."
)


if __name__ == "__main__":
    main()
