"""Axes of plots: ranges, round ticks, linear or logarithmic."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

MARGIN = 0.08  # share of the range left free at either end
STEPS = (1.0, 2.0, 2.5, 5.0, 10.0)


@dataclass(frozen=True)
class Scale:
    """Maps [low, high] onto pixels [start, end]."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    @staticmethod
    def of(values: Sequence[float], start: float, end: float, log: bool = False, margin: float = MARGIN) -> Scale:
        """Wide enough for `values`, finite numbers (above 0 for `log`), with a margin; equal values get room too.

        Raises ValueError for none.
        """
        if not values:
            raise ValueError("an axis needs a value")
        low, high = min(values), max(values)
        if log:
            low, high = math.log10(low), math.log10(high)
        spread = high - low or max(abs(low), 1.0) * 0.2
        low, high = low - margin * spread, high + margin * spread
        return Scale(10**low if log else low, 10**high if log else high, start, end, log)

    def __call__(self, value: float) -> float:
        low, high, value = (math.log10(x) if self.log else x for x in (self.low, self.high, value))
        return self.start + (value - low) / (high - low) * (self.end - self.start)

    def ticks(self, about: int = 5) -> list[float]:
        """Round numbers within the range, about so many."""
        if self.log:
            found = _log_ticks(self.low, self.high)
            if len(found) >= 2:
                return found
        rough = (self.high - self.low) / about
        power = 10.0 ** math.floor(math.log10(rough))
        step = next(step * power for step in STEPS if step * power >= rough * (1 - 1e-9))
        first, last = math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9)
        return [i * step for i in range(first, last + 1)]


def _log_ticks(low: float, high: float) -> list[float]:
    """1, 2, 5 of each power of ten, or only powers where those would be many."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for digits in ((1, 2, 5), (1,)):
        found = [digit * 10.0**power for power in powers for digit in digits if low <= digit * 10.0**power <= high]
        if len(found) <= 8:
            break
    return found


def short(value: float) -> str:
    """A tick's or a figure's text: three significant digits, no exponent where it can be helped."""
    if value == 0:
        return "0"
    if not 1e-4 <= abs(value) < 1e6:
        return f"{value:.2e}"
    digits = max(0, 2 - math.floor(math.log10(abs(value))))
    text = f"{value:,.{digits}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def figure(value: float) -> str:
    """A figure in a table: three significant digits, trailing zeros kept so that columns line up."""
    if value == 0:
        return "0"
    if not 1e-4 <= abs(value) < 1e6:
        return f"{value:.1e}"
    return f"{value:,.{max(0, 2 - math.floor(math.log10(abs(value))))}f}"
