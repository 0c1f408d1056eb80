"""The figures of the P-norm paper's tables (Zhu et al. 2020), and which of ours stand for them.

What cannot be the same: the paper's generator has L = 18 layers of C = 512. Project-n bounds the norm of one coordinate
over the layers: n is scaled by sqrt(L/18). The L2 weight multiplies a sum over L x C: it is scaled by 18*512 / (L*C).
Clip-n needs nothing.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

PAPER_LAYERS, PAPER_W_DIM = 18, 512
Figures = dict[str, tuple[float | None, ...]]


@dataclass(frozen=True)
class Table:
    """columns: {heading: our measure}; rows: the paper's figures by method, in that order."""

    title: str
    columns: dict[str, str]
    rows: Figures


I2S, PULSE, S2E, SG2, OURS = "I2S", "PULSE", "S2E", "SG2", "II2S"
RECONSTRUCTION = {"SSIM": "ssim", "RMSE": "rmse", "PSNR": "psnr", "VGG": "perceptual", "LPIPS": "judge"}
STYLE_MIX = {"StyleMix FID": "mixing_frechet"}
INTERPOLATION = {"W+ FID": "interpolation_w+_frechet", "P-norm+ FID": "interpolation_p-norm+_frechet"}
POSE = {"pose range": "pose_range"}  # of the paper: the reading at -2 deviations less that at +2

TABLES = (
    Table(
        "Table 1: reconstruction",
        RECONSTRUCTION,
        {
            I2S: (0.85, 0.07, 23.30, 0.63, 0.20),
            PULSE: (0.83, 0.09, 21.04, 1.10, 0.37),
            S2E: (0.85, 0.08, 21.46, 0.99, 0.33),
            SG2: (0.80, 0.13, 18.73, 0.85, 0.21),
            OURS: (0.86, 0.07, 23.80, 0.70, 0.16),
        },
    ),
    Table(
        "Table 2: interpolation",
        INTERPOLATION,
        {
            I2S: (54.032, 73.844),
            PULSE: (84.404, 83.391),
            S2E: (91.439, 93.375),
            SG2: (55.724, 61.494),
            OURS: (52.824, 51.143),
        },
    ),
    Table(
        "Table 3: path length, style mixing, a binary attribute",
        {"PPL random all": "path_length_end_all", "PPL random": "path_length_end"}
        | STYLE_MIX
        | {"attribute accuracy": "flipped_glasses"},
        {
            I2S: (66.9, 115.0, 78.0, 0.35),
            PULSE: (26.7, 61.2, 81.3, 0.40),
            S2E: (87.5, 155.4, 90.8, 0.70),
            SG2: (17.9, 36.7, 63.6, 0.10),
            OURS: (72.4, 135.1, 72.6, 0.50),
        },
    ),
    Table(
        "Table 4: pose",
        POSE,
        {I2S: (33.92,), PULSE: (35.13,), S2E: (49.85,), SG2: (24.86,), OURS: (42.32,)},
    ),
    Table(
        "Table 5: spaces and clipping",
        RECONSTRUCTION | STYLE_MIX | INTERPOLATION | POSE,
        {
            "P-norm+": (0.79, 0.07, 22.53, 0.77, 0.21, 124.29, 123.11, 116.05, 46.15),
            "P-norm+ Clip": (0.78, 0.08, 21.98, 0.80, 0.23, 124.08, 119.86, 114.05, 47.84),
            "W+": (0.83, 0.06, 24.43, 0.61, 0.14, 136.79, 118.07, 223.59, 41.12),
            "W+ Clip": (0.79, 0.07, 22.53, 0.75, 0.21, 124.87, 121.83, 130.84, 47.14),
        },
    ),
    Table(
        "Tables 6 and 7: regularisers",
        RECONSTRUCTION | STYLE_MIX | POSE | INTERPOLATION,
        {
            "none, lr x 10": (0.82, 0.07, 24.08, 0.63, 0.15, 154.82, 11.73, 129.44, 266.72),
            "none": (0.83, 0.06, 24.43, 0.61, 0.14, 136.79, 41.12, 116.33, 223.34),
            "Clip-1": (0.77, 0.09, 20.88, 0.86, 0.26, 126.30, 47.01, 121.71, 122.12),
            "Clip-2": (0.79, 0.07, 22.53, 0.76, 0.21, 124.87, 47.13, 121.83, 130.84),
            "Clip-5": (0.82, 0.07, 23.43, 0.68, 0.17, 135.97, 45.71, 119.89, 142.22),
            "Clip-7": (0.82, 0.07, 23.77, 0.67, 0.17, 138.14, 45.48, 120.56, 136.08),
            "Clip-10": (0.82, 0.07, 23.77, 0.66, 0.16, 135.01, 43.30, 119.01, 158.41),
            "Project-1": (0.78, 0.09, 21.06, 0.87, 0.26, 125.46, 43.21, 117.78, 124.11),
            "Project-2": (0.78, 0.09, 21.51, 0.84, 0.24, 126.95, 45.09, 123.47, 124.26),
            "Project-5": (0.80, 0.08, 22.48, 0.77, 0.21, None, 38.30, 129.77, None),  # not legible in our copy
            "Project-7": (0.81, 0.07, 22.87, 0.73, 0.20, 136.35, 38.47, 125.72, 291.69),
            "Project-10": (0.82, 0.07, 23.57, 0.68, 0.17, 140.52, 38.43, 121.58, 372.70),
            "L2-1e-4": (0.66, 0.19, 14.32, 1.45, 0.53, 208.72, 41.36, 217.87, 218.07),
            "L2-1e-5": (0.70, 0.14, 16.97, 1.22, 0.43, 152.51, 41.46, 161.67, 161.35),
            "L2-1e-6": (0.74, 0.11, 19.32, 0.96, 0.31, 120.25, 50.93, 123.68, 122.70),
            "L2-1e-7": (0.80, 0.08, 21.71, 0.80, 0.22, 122.81, 51.85, 118.23, 118.44),
            "L2-1e-8": (0.82, 0.06, 23.91, 0.64, 0.16, 137.43, 45.05, 116.31, 177.42),
        },
    ),
)
SAME_RUN = {"W+": "none", "W+ Clip": "Clip-2"}  # rows of two tables that are one run


def space(name: str, layers: int, w_dim: int) -> dict[str, object]:
    """The `optimize` entry of a row of the tables, its number carried over to L = layers, C = w_dim."""
    if name.startswith("P-norm+"):
        return {"name": "p-norm+", **({"clip": 2.0} if name.endswith("Clip") else {})}
    kind, _, number = name.partition("-")
    options = {
        "Clip": lambda n: {"clip": n},
        "Project": lambda n: {"project": n * math.sqrt(layers / PAPER_LAYERS)},
        "L2": lambda n: {"l2": n * PAPER_LAYERS * PAPER_W_DIM / (layers * w_dim)},
    }
    return {"name": "w+", **(options[kind](float(number)) if kind in options else {})}
