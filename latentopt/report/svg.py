"""A figure of matplotlib as SVG within a page, coloured by the page's style sheet.

Every colour is drawn as a stand-in that no picture has, which then gives way to a variable of the style sheet: so a
plot can be read in light and in dark. Text stays text.
"""

from __future__ import annotations

import io
import re
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLOURS = 8  # of series, that the style sheet has
INKS = ("soft", "faint", "line", *(f"c{i}" for i in range(COLOURS)))  # variables of the style sheet
STAND_IN = re.compile("#0b0f([0-9a-f]{2})")  # of the variable with that number
STYLE: dict[Any, Any] = {  # of matplotlib, while a figure is made and saved
    "svg.fonttype": "none",
    "text.usetex": False,
    "text.parse_math": False,  # a name may hold dollars
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],  # matplotlib's own, to measure by: wider than most
}


def ink(name: str) -> str:
    """The stand-in of a variable of the style sheet."""
    return f"#0b0f{INKS.index(name):02x}"


def series(number: int) -> str:
    """The stand-in of the colour of a series; there are COLOURS, then they come again."""
    return ink(f"c{number % COLOURS}")


def inline(figure: Figure, description: str) -> Markup:
    """What a page can hold: without head, definitions and ids, which several plots in one page would share."""
    stream = io.StringIO()
    figure.savefig(stream, format="svg")
    text = stream.getvalue()
    body = text[text.index("<g ") : text.rindex("</svg>")]
    body = re.sub(r"<defs>.*?</defs>", "", body, flags=re.DOTALL)
    body = re.sub(r"<[^>]*>", lambda tag: _of_the_page(tag[0]), body)  # text holds no <, so that it is left alone
    width, height = figure.bbox.size
    head = '<svg class="plot" viewBox="0 0 {:g} {:g}" role="img" aria-label="{}">'
    return Markup(head).format(width, height, description) + Markup(body) + Markup("</svg>")


def _of_the_page(tag: str) -> str:
    """A tag without id and clipping, its colours from the style sheet."""
    tag = re.sub(r' (id|clip-path)="[^"]*"', "", tag)
    return STAND_IN.sub(lambda found: f"var(--{INKS[int(found[1], 16)]})", tag)
