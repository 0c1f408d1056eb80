"""Cost of `fit-pnorm` against the mapping passes alone, and its accuracy. Prints a table.

    python benchmarks/fit_pnorm.py [--samples 1000000] [--threads 1]

Time in seconds for all samples. `mapping` is the network on given z; `+ z` draws them too; `fit` is the whole fit.
"""

from __future__ import annotations

import argparse
import time

import numpy as np
import torch

from latentopt.generators.stylegan2 import StyleGAN2, StyleGAN2Config
from latentopt.moments import Moments
from latentopt.pnorm import w_to_p
from latentopt.pnorm_fit import BATCH, PNormFit, sample_w

SIZES = ((128, 4), (512, 8))  # w_dim and mapping layers: the bundled generator, StyleGAN2


def make_generator(dim: int, layers: int) -> StyleGAN2:
    torch.manual_seed(0)
    return StyleGAN2(StyleGAN2Config(dim, dim, (4, 4), mapping_layers=layers)).eval()


def measure(generator: StyleGAN2, samples: int) -> tuple[float, float, float]:
    """Seconds of mapping, mapping with drawing z, and fit. The three take turns, so that a busy machine slows all alike."""
    seconds = np.zeros(3)
    z = torch.randn(BATCH, generator.z_dim)
    fit = PNormFit(generator, samples)
    steps = fit.run()
    for i in fit.batches:
        times = [time.perf_counter()]
        with torch.no_grad():
            generator.mapping(z)
        times.append(time.perf_counter())
        sample_w(generator, i)
        times.append(time.perf_counter())
        next(steps)
        times.append(time.perf_counter())
        seconds += np.diff(times)
    return tuple(seconds)


def accuracy(generator: StyleGAN2, batches: int = 5) -> float:
    """Largest error of the streamed eigenvalues against numpy's two-pass float64, over the largest eigenvalue."""
    moments, parts = Moments(generator.w_dim), []
    for i in range(batches):
        parts.append(w_to_p(sample_w(generator, i).double()))
        moments.update(parts[-1])
    expected = np.linalg.eigvalsh(np.cov(torch.cat(parts).numpy(), rowvar=False))
    found = np.linalg.eigvalsh(moments.covariance)
    return float(np.abs(found - expected).max() / expected[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=1_000_000)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    print(f"{arguments.samples:,} samples, batches of {BATCH:,}, {arguments.threads} threads (set OMP_NUM_THREADS too)")
    print("w_dim layers  mapping     + z     fit  fit/mapping  fit/(mapping + z)  eigenvalue error")
    for dim, layers in SIZES:
        generator = make_generator(dim, layers)
        mapping, drawn, fit = measure(generator, arguments.samples)
        ratios = f"{fit / mapping:12.2f} {fit / drawn:18.2f}"
        print(f"{dim:5} {layers:6} {mapping:8.1f} {drawn:7.1f} {fit:7.1f} {ratios} {accuracy(generator):17.1e}")


if __name__ == "__main__":
    main()
