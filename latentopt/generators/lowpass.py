"""Low-pass filters by the Kaiser window, separable and radial, designed in float64 without torch's arithmetic.

Source: Karras et al. 2021, Alias-Free Generative Adversarial Networks, appendix C: windowed sinc, and its rotationally
symmetric counterpart, the jinc.
"""

from __future__ import annotations

import math

import numpy as np
import torch


def lowpass(taps: int, cutoff: float, width: float, rate: float, radial: bool = False) -> np.ndarray:
    """[taps] or, radial, [taps,taps], with sum 1. cutoff, width of the transition band and sampling rate: one unit."""
    if taps == 1:
        return np.ones(1)
    places = (np.arange(taps) - (taps - 1) / 2) / rate
    window = np.kaiser(taps, kaiser_beta(taps, width, rate))
    if not radial:
        f = window * np.sinc(2 * cutoff * places)
        return f / f.sum()
    distance = np.hypot(places[:, None], places[None, :])
    nearest = np.maximum(distance, 1e-9 / rate)  # an odd number of taps has one in the centre
    f = _bessel_j1(2 * cutoff * math.pi * nearest) / (math.pi * nearest) * np.outer(window, window)
    return f / f.sum()


def kaiser_beta(taps: int, width: float, rate: float) -> float:
    """Kaiser's rule: the shape of the window whose attenuation `taps` taps reach over that transition band."""
    attenuation = 2.285 * (taps - 1) * math.pi * width / (rate / 2) + 7.95
    if attenuation > 50:
        return 0.1102 * (attenuation - 8.7)
    if attenuation > 21:
        return 0.5842 * (attenuation - 21) ** 0.4 + 0.07886 * (attenuation - 21)
    return 0.0


def _bessel_j1(x: np.ndarray) -> np.ndarray:
    return torch.special.bessel_j1(torch.from_numpy(x)).numpy()
