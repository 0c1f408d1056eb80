"""Plots for a page, drawn by matplotlib, with labels beside what they name and no legend."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from latentopt.files.text import as_unicode
from latentopt.report.numbers import short
from latentopt.report.svg import STYLE, ink, inline, series

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.backend_bases import RendererBase
    from matplotlib.figure import Figure
    from matplotlib.text import Annotation
    from matplotlib.transforms import Bbox

WIDTH, HEIGHT = 560, 380
LEFT, RIGHT, TOP, BOTTOM = 62, 24, 18, 52
MARGIN = 0.08  # share of an axis's range left free at either end
MANY_DECADES = 300  # highest over lowest value of a logarithmic axis on which only powers of ten are marked
LINE = 14  # from one label at the end of a line to the next
DPI = 72  # so that a point is a pixel of the page
BETTER = {"lower": " (lower is better)", "higher": " (higher is better)"}
BESIDE = ((9, 0), (-9, 0), (0, 14), (0, -16))  # places of a label around its point: right, left, above, below
AROUND = tuple((side * 9, up) for up in (16, -16, 30, -30) for side in (1, -1))
BOLD = {"fontsize": 12.5, "fontweight": "bold"}

Interval = tuple[float, float]


@dataclass(frozen=True)
class Axis:
    """`better`: "lower" or "higher", said on the axis; "neither" says nothing."""

    title: str
    better: str = "neither"
    log: bool = False

    @property
    def words(self) -> str:
        """The title, with which way is better."""
        return as_unicode(self.title) + BETTER.get(self.better, "")

    def holds(self, value: float) -> bool:
        """Whether a value has a place on the axis."""
        return math.isfinite(value) and (value > 0 or not self.log)


@dataclass(frozen=True)
class Point:
    """A dot with its name; `colour` numbers the series."""

    label: str
    x: float
    y: float
    colour: int = 0
    y_interval: Interval | None = None


@dataclass(frozen=True)
class Line:
    """Through points (x, y). `label` stands beside the last; `marks` name the points."""

    label: str
    points: tuple[tuple[float, float], ...]
    colour: int = 0
    marks: tuple[str, ...] = ()
    dashed: bool = False
    dots: bool = True


@dataclass
class Canvas:
    """The axes that are drawn on, and what stands there already, in pixels."""

    axes: Axes
    renderer: RendererBase
    taken: list[Bbox] = field(default_factory=list)

    def at(self, point: tuple[float, float]) -> tuple[float, float]:
        x, y = self.axes.transData.transform(point)
        return float(x), float(y)

    def dot(self, point: tuple[float, float], radius: float, colour: int) -> None:
        """A circle of so many pixels. A marker would refer to its shape by an id, which other plots of a page share."""
        from matplotlib.patches import Circle
        from matplotlib.transforms import Bbox, IdentityTransform

        x, y = self.at(point)
        circle = Circle((x, y), radius, transform=IdentityTransform(), color=series(colour), linewidth=0, zorder=2.5)
        self.axes.add_artist(circle)
        self.taken.append(Bbox.from_extents(x - radius, y - radius, x + radius, y + radius))

    def label(self, text: str, point: tuple[float, float], colour: str, **style: Any) -> Annotation:
        return self.axes.annotate(
            as_unicode(text), point, (0, 0), textcoords="offset points", va="center", color=colour, **style
        )

    def name(
        self, text: str, point: tuple[float, float], colour: str, places: Sequence[tuple[int, int]], **style: Any
    ) -> None:
        """A label at the first of the places around a point, in pixels right and up of it, that is free."""
        label = self.label(text, point, colour, **style)
        for right, up in (*places, places[0]):  # where none is free, the first
            label.set(position=(right, up), ha="left" if right > 0 else "right" if right < 0 else "center")
            box = label.get_window_extent(self.renderer)
            if self.free(box):
                self.taken.append(box)
                return

    def free(self, box: Bbox) -> bool:
        inside = box.x0 >= LEFT and box.x1 <= WIDTH and box.y0 >= BOTTOM - 4 and box.y1 <= HEIGHT
        return inside and not any(box.overlaps(other) for other in self.taken)


def plot(x: Axis, y: Axis, points: Sequence[Point] = (), lines: Sequence[Line] = (), room: int = RIGHT) -> Markup:
    """One plot. room: pixels kept free to the right, for labels beside the ends of lines.

    Points that an axis does not hold are left out: what is not finite, or not above 0 on a logarithmic axis. Returns ""
    where nothing is left.
    """
    import matplotlib

    points = [p for p in points if x.holds(p.x) and y.holds(p.y)]
    if not points and not any(line.points for line in lines):
        return Markup("")
    with matplotlib.rc_context(STYLE), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph")  # of a name in a script that the font for measuring lacks
        return inline(drawn(x, y, points, lines, room), f"{y.title} by {x.title}")


def drawn(x: Axis, y: Axis, points: Sequence[Point], lines: Sequence[Line], room: int = RIGHT) -> Figure:
    """The figure, all in stand-in colours."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH / DPI, HEIGHT / DPI), dpi=DPI, frameon=False)
    width, height = WIDTH - LEFT - room, HEIGHT - TOP - BOTTOM
    axes = figure.add_axes((LEFT / WIDTH, BOTTOM / HEIGHT, width / WIDTH, height / HEIGHT))
    _frame(axes, x, y)
    for line in lines:
        _draw_line(axes, line)
    for point in points:
        _draw_interval(axes, point, y)
    if points:
        axes.update_datalim([(point.x, point.y) for point in points])
    axes.autoscale_view()
    _locate_ticks(axes, x, y)
    canvas = Canvas(axes, FigureCanvasAgg(figure).get_renderer())
    for line in lines:
        for place in line.points if line.dots else ():
            canvas.dot(place, 3, line.colour)
    for point in points:
        canvas.dot((point.x, point.y), 5, point.colour)
    for line in lines:
        _name_marks(canvas, line)
    _name_ends(canvas, [line for line in lines if line.label])
    for point in points:
        canvas.name(point.label, (point.x, point.y), series(point.colour), BESIDE + AROUND, **BOLD)
    return figure


def _frame(axes: Axes, x: Axis, y: Axis) -> None:
    """Grid, scales and titles."""
    axes.patch.set_visible(False)
    axes.margins(MARGIN)
    axes.set_axisbelow(True)
    axes.set_xscale("log" if x.log else "linear")
    axes.set_yscale("log" if y.log else "linear")
    axes.grid(color=ink("line"), linewidth=1)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set(color=ink("faint"), linewidth=1)
    axes.tick_params(which="both", bottom=False, left=False, labelsize=11.5, labelcolor=ink("soft"), pad=8)
    axes.set_xlabel(x.words, fontsize=12.5, color=ink("soft"))
    axes.set_ylabel(y.words, fontsize=12.5, color=ink("soft"))
    axes.xaxis.set_label_coords(0.5, (21 - BOTTOM) / axes.bbox.height)
    axes.yaxis.set_label_coords((18 - LEFT) / axes.bbox.width, 0.5)


def _locate_ticks(axes: Axes, x: Axis, y: Axis) -> None:
    """About five round ticks; on a logarithmic axis 1, 2 and 5 of each power of ten, or of many powers those alone."""
    from matplotlib.ticker import FuncFormatter, Locator, LogLocator, MaxNLocator, NullFormatter

    for scale, axis, (low, high) in ((x, axes.xaxis, axes.get_xlim()), (y, axes.yaxis, axes.get_ylim())):
        locator: Locator = MaxNLocator(5, steps=[1, 2, 2.5, 5, 10])
        if scale.log:
            locator = LogLocator(subs=(1.0, 2.0, 5.0) if high / low < MANY_DECADES else (1.0,))
        axis.set_major_locator(locator)
        axis.set_major_formatter(FuncFormatter(lambda value, _: short(value)))
        axis.set_minor_formatter(NullFormatter())


def _draw_line(axes: Axes, line: Line) -> None:
    dashes = (0, (2.5, 2)) if line.dashed else "-"
    xs, ys = zip(*line.points, strict=True)
    axes.plot(xs, ys, color=series(line.colour), linewidth=2, linestyle=dashes, clip_on=False)


def _draw_interval(axes: Axes, point: Point, scale: Axis) -> None:
    if point.y_interval is not None:
        low, high = (bound if scale.holds(bound) else point.y for bound in point.y_interval)
        axes.vlines(point.x, low, high, color=series(point.colour), linewidth=1.5, alpha=0.55, clip_on=False)


def _name_marks(canvas: Canvas, line: Line) -> None:
    """Above or below a line's points, since it would run through a name beside them; in bold at the top of a curve."""
    for place, mark in zip(line.points, line.marks, strict=False):
        if mark and line.dots:
            canvas.name(mark, place, ink("soft"), BESIDE[2:] + BESIDE[:2] + AROUND, fontsize=11.5)
        elif mark:
            canvas.name(mark, place, series(line.colour), BESIDE + AROUND, **BOLD)


def _name_ends(canvas: Canvas, lines: Sequence[Line]) -> None:
    """Names beside the last points of lines, from top to bottom in the lines' order, pushed apart where they meet."""
    ends = sorted(((canvas.at(line.points[-1])[1], line) for line in lines), key=lambda end: -end[0])
    at: list[float] = []
    for y, _ in ends:
        at.append(min(y, at[-1] - LINE) if at else y)
    lift = max(0.0, BOTTOM - at[-1]) if at else 0.0
    for height, (y, line) in zip(at, ends, strict=True):
        label = canvas.label(line.label, line.points[-1], series(line.colour), **BOLD)
        label.set(position=(8, height + lift - y), ha="left")
