"""Plots as inline SVG, coloured by the page's style sheet, with labels beside what they name and no legend."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from markupsafe import Markup

from latentopt.report.scales import Scale, short

WIDTH, HEIGHT = 560, 380
LEFT, RIGHT, TOP, BOTTOM = 62, 24, 18, 52
COLOURS = 8  # that the style sheet has
LETTER, LINE = 7.6, 12  # width and height of a label's letter, pixels
BETTER = {"lower": " (lower is better)", "higher": " (higher is better)"}

Interval = tuple[float, float]
Box = tuple[float, float, float, float]  # left, top, width, height


@dataclass(frozen=True)
class Axis:
    """`better`: "lower" or "higher", said on the axis; "neither" says nothing."""

    title: str
    better: str = "neither"
    log: bool = False


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
    """Through points (x, y). `label` stands beside the last; `marks` name the points; `band` is an interval at each."""

    label: str
    points: tuple[tuple[float, float], ...]
    colour: int = 0
    marks: tuple[str, ...] = ()
    band: tuple[Interval, ...] = ()
    dashed: bool = False
    dots: bool = True


@dataclass
class Canvas:
    """The scales of a plot, and where labels stand already."""

    x: Scale
    y: Scale
    taken: list[Box] = field(default_factory=list)

    def free(self, box: Box) -> bool:
        left, top, width, height = box
        inside = left >= LEFT and left + width <= WIDTH and top >= 0 and top + height <= HEIGHT - BOTTOM + 4
        return inside and not any(_overlap(box, other) for other in self.taken)


def plot(x: Axis, y: Axis, points: Sequence[Point] = (), lines: Sequence[Line] = (), room: int = RIGHT) -> Markup:
    """One plot. room: pixels kept free to the right, for labels beside the ends of lines.

    What is not finite is left out, as is what is not above 0 on a logarithmic axis. Returns "" where nothing is left.
    """
    points = [p for p in points if _drawable(p.x, x) and _drawable(p.y, y)]
    xs = [p.x for p in points] + [a for line in lines for a, _ in line.points]
    ys = [p.y for p in points] + [b for line in lines for _, b in line.points]
    ys += [bound for p in points for bound in p.y_interval or () if _drawable(bound, y)]
    ys += [bound for line in lines for interval in line.band for bound in interval]
    if not xs:
        return Markup("")
    canvas = Canvas(Scale.of(xs, LEFT, WIDTH - room, x.log), Scale.of(ys, HEIGHT - BOTTOM, TOP, y.log))
    canvas.taken += [_around(canvas.x(a), canvas.y(b), 5) for a, b in [(p.x, p.y) for p in points]]
    canvas.taken += [_around(canvas.x(a), canvas.y(b), 3) for line in lines if line.dots for a, b in line.points]
    parts = [*_frame(x, y, canvas, room)]
    parts += [part for line in lines for part in _line(line, canvas)]
    parts += _ends([line for line in lines if line.label], canvas)
    parts += [_interval(p, canvas) for p in points if p.y_interval]
    parts += [part for p in points for part in _point(p, canvas)]
    head = _tag("svg", viewBox=f"0 0 {WIDTH} {HEIGHT}", role="img", aria_label=f"{y.title} by {x.title}", cls="plot")
    return _joined([head, *parts, Markup("</svg>")])


def _drawable(value: float, axis: Axis) -> bool:
    return math.isfinite(value) and (value > 0 or not axis.log)


def _frame(x: Axis, y: Axis, canvas: Canvas, room: int) -> Iterable[Markup]:
    """Grid, ticks and titles."""
    bottom, right = HEIGHT - BOTTOM, WIDTH - room
    for tick in canvas.x.ticks():
        at = canvas.x(tick)
        yield _shape("line", "grid", x1=at, x2=at, y1=TOP, y2=bottom)
        yield _text(at, bottom + 17, short(tick), "tick", "middle")
    for tick in canvas.y.ticks():
        at = canvas.y(tick)
        yield _shape("line", "grid", x1=LEFT, x2=right, y1=at, y2=at)
        yield _text(LEFT - 8, at + 4, short(tick), "tick", "end")
    yield _shape("path", "axis", d=f"M{LEFT} {TOP} V{bottom} H{right}")
    yield _text((LEFT + right) / 2, HEIGHT - 12, x.title + BETTER.get(x.better, ""), "title", "middle")
    turned = f"translate(14 {(TOP + bottom) / 2}) rotate(-90)"
    yield _text(0, 0, y.title + BETTER.get(y.better, ""), "title", "middle", transform=turned)


def _line(line: Line, canvas: Canvas) -> Iterable[Markup]:
    places = [(canvas.x(a), canvas.y(b)) for a, b in line.points]
    colour = f"c{line.colour % COLOURS}"
    if line.band:
        low, high = ([(x, canvas.y(i[k])) for (x, _), i in zip(places, line.band, strict=True)] for k in (0, 1))
        yield _shape("polygon", f"band {colour}", points=_path([*low, *reversed(high)]))
    yield _shape("polyline", f"line {colour}" + " dashed" * line.dashed, points=_path(places))
    for x, y in places if line.dots else ():
        yield _shape("circle", f"dot {colour}", cx=x, cy=y, r=3)
    for (x, y), mark in zip(places, line.marks, strict=False):
        if mark:
            yield _placed(mark, x, y, "mark" if line.dots else f"label {colour}", canvas)


def _interval(p: Point, canvas: Canvas) -> Markup:
    low, high = (canvas.y(bound if _finite_on(bound, canvas.y) else p.y) for bound in p.y_interval)
    x = canvas.x(p.x)
    return _shape("line", f"interval c{p.colour % COLOURS}", x1=x, x2=x, y1=low, y2=high)


def _finite_on(bound: float, scale: Scale) -> bool:
    return math.isfinite(bound) and (bound > 0 or not scale.log)


def _point(p: Point, canvas: Canvas) -> Iterable[Markup]:
    x, y, colour = canvas.x(p.x), canvas.y(p.y), f"c{p.colour % COLOURS}"
    yield _shape("circle", f"dot {colour}", cx=x, cy=y, r=5)
    yield _placed(p.label, x, y, f"label {colour}", canvas)


def _placed(text: str, x: float, y: float, kind: str, canvas: Canvas) -> Markup:
    """A label beside (x, y), on the first side that is free; above or below it on a line, which would run through it."""
    places = [(x + 9, y + 4, "start"), (x - 9, y + 4, "end"), (x, y - 10, "middle"), (x, y + 20, "middle")]
    places = [*places[2:], *places[:2]] if kind == "mark" else places
    places += [(x + side * 9, y + d, "start" if side > 0 else "end") for d in (-12, 20, -26, 34) for side in (1, -1)]
    for a, b, anchor in places:
        if canvas.free(box := _box(text, a, b, anchor)):
            canvas.taken.append(box)
            return _text(a, b, text, kind, anchor)
    return _text(x + 9, y + 4, text, kind, "start")


def _ends(lines: Sequence[Line], canvas: Canvas) -> list[Markup]:
    """Labels beside the last points of lines, from top to bottom in the lines' order, pushed apart where they meet."""
    ends = sorted(((canvas.y(line.points[-1][1]), line) for line in lines), key=lambda pair: pair[0])
    at: list[float] = []
    for y, _ in ends:
        at.append(max(y, at[-1] + LINE + 2) if at else y)
    lift = max(0.0, at[-1] - (HEIGHT - BOTTOM)) if at else 0.0
    return [
        _text(canvas.x(line.points[-1][0]) + 8, y - lift + 4, line.label, f"label c{line.colour % COLOURS}", "start")
        for y, (_, line) in zip(at, ends, strict=True)
    ]


def _box(text: str, x: float, y: float, anchor: str) -> Box:
    width = len(text) * LETTER
    return x - {"start": 0.0, "middle": width / 2, "end": width}[anchor], y - 10, width, LINE


def _around(x: float, y: float, radius: float) -> Box:
    return x - radius, y - radius, 2 * radius, 2 * radius


def _overlap(a: Box, b: Box) -> bool:
    return a[0] < b[0] + b[2] and b[0] < a[0] + a[2] and a[1] < b[1] + b[3] and b[1] < a[1] + a[3]


def _path(places: Sequence[tuple[float, float]]) -> str:
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in places)


def _shape(name: str, kind: str, **attributes: object) -> Markup:
    return _tag(name, cls=kind, closed=True, **attributes)


def _text(x: float, y: float, text: str, kind: str, anchor: str, **attributes: object) -> Markup:
    head = _tag("text", cls=kind, x=x, y=y, text_anchor=anchor, **attributes)
    return Markup("{}{}</text>").format(head, text)


def _tag(name: str, *, cls: str, closed: bool = False, **attributes: object) -> Markup:
    """<name class="..." key="value">; all values escaped, underscores in keys are hyphens, numbers have one decimal."""
    pairs = {"class": cls} | {key.replace("_", "-"): value for key, value in attributes.items()}
    text = _joined(
        Markup(' {}="{}"').format(key, f"{value:.1f}" if isinstance(value, float) else value)
        for key, value in pairs.items()
    )
    return Markup("<{}{}{}>").format(name, text, Markup("/" if closed else ""))


def _joined(parts: Iterable[Markup]) -> Markup:
    return Markup("").join(parts)
