"""Numbers as a reader wants them: three significant digits, no exponent where it can be helped."""

from __future__ import annotations

import math


def short(value: float) -> str:
    """A tick's text: without trailing zeros."""
    if value == 0:
        return "0"
    if not 1e-4 <= abs(value) < 1e6:
        return f"{value:.2e}"
    text = f"{value:,.{_decimals(value)}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def figure(value: float) -> str:
    """A figure in a table: trailing zeros are kept, so that columns line up."""
    if value == 0:
        return "0"
    if not 1e-4 <= abs(value) < 1e6:
        return f"{value:.1e}"
    return f"{value:,.{_decimals(value)}f}"


def _decimals(value: float) -> int:
    return max(0, 2 - math.floor(math.log10(abs(value))))
