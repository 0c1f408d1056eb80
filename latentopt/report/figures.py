"""The plots of a report, made of measures and curves."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from latentopt.evaluation.measure import Measure
from latentopt.report.charts import Axis, Line, Point, plot
from latentopt.report.page import Dial, Figure, Method
from latentopt.report.tables import table

DISTORTION = ("perceptual", "lpips_vgg", "lpips_alex", "bundled", "rmse")  # the first that there is
EDITABILITY = ("pose_share", "edit_response", "radius")
TITLES = {
    "pose_share": "pose response",
    "edit_response": "response to edits",
    "radius": "P-norm radius (samples: 1)",
    "rmse": "RMSE",
}
NEUTRAL = 7  # colour of what is no method
MEANINGS = {
    "pose_share": "Pose response: range of poses under the same edit, as a share of that of the generator's own "
    "samples.",
    "edit_response": "Response: how far an edited attribute moves, in deviations of the generator's own samples.",
    "radius": "No edits were at hand: the radius says how far from the generator's own samples the latents lie.",
}
LABELS = 92  # pixels right of lines for their names

Measures = Mapping[str, Measure]


def figures(methods: Sequence[Method]) -> list[Figure]:
    """All that the methods' measures and curves are enough for."""
    found = [quality_time(methods), distortion_editability(methods), pose_response(methods), latent_density(methods)]
    return [figure for figure in found if figure is not None and figure.plot]


def quality_time(methods: Sequence[Method]) -> Figure | None:
    name = _first(DISTORTION, [m.measures for m in methods])
    if name is None or any("seconds" not in m.measures for m in methods):
        return None
    points = [
        Point(m.name, m.measures["seconds"].value, m.measures[name].value, i, m.measures[name].interval)
        for i, m in enumerate(methods)
    ]
    markup = plot(Axis("seconds an image", "lower", log=True), _axis(name, methods[0].measures), points)
    return Figure(
        "Quality and time", markup, "Optimisation alone, on this machine. Bars: 95 % interval over the images."
    )


def distortion_editability(methods: Sequence[Method]) -> Figure | None:
    sets = [m.measures for m in methods]
    x, y = _first(DISTORTION, sets), _first(EDITABILITY, sets)
    if x is None or y is None:
        return None
    points = [
        Point(m.name, s[x].value, s[y].value, i, s[y].interval)
        for i, (m, s) in enumerate(zip(methods, sets, strict=True))
    ]
    markup = plot(_axis(x, sets[0]), _axis(y, sets[0]), points)
    caption = f"{MEANINGS[y]} Bars: 95 % interval over the images."
    return Figure("Distortion and editability", markup, caption)


def pose_response(methods: Sequence[Method]) -> Figure | None:
    """Table 4 of the P-norm paper as curves."""
    curves = [(i, m.name, m.curves["pose"]) for i, m in enumerate(methods) if "pose" in m.curves]
    curves = [curve for curve in curves if all(map(math.isfinite, (*curve[2]["mean"], *curve[2]["samples"])))]
    if not curves:
        return None
    lines = [Line(name, tuple(zip(c["strengths"], c["mean"], strict=True)), i) for i, name, c in curves]
    first = curves[0][2]
    lines.append(Line("samples", tuple(zip(first["strengths"], first["samples"], strict=True)), NEUTRAL, dashed=True))
    title = f"{first['attribute']}, as the judge reads it"
    markup = plot(Axis("pose set to, standard deviations"), Axis(title), lines=lines, room=LABELS)
    caption = "Steeper is better, up to the generator's own samples (dashed)."
    return Figure("Response to the pose edit", markup, caption)


def latent_density(methods: Sequence[Method]) -> Figure | None:
    """Figures 6 to 8 of the P-norm paper in one: the density of all coordinates in P-norm+."""
    curves = [(i, m.name, m.curves["p-norm"]) for i, m in enumerate(methods) if "p-norm" in m.curves]
    if not curves:
        return None
    centres = [(a + b) / 2 for a, b in pairwise(curves[0][2]["edges"])]
    centres = centres[1:-1]  # the outermost bins count all that lies beyond
    lines = [_density_line(name, centres, c["embeddings"]["all"][1:-1], i) for i, name, c in curves]
    samples = _density_line("samples", centres, curves[0][2]["samples"]["all"][1:-1], NEUTRAL)
    markup = plot(
        Axis("coordinate in P-norm+, standard deviations"),
        Axis("density"),
        lines=[*lines, Line(samples.label, samples.points, NEUTRAL, dashed=True, dots=False)],
    )
    caption = (
        "The generator's own samples are dashed: latents that spread wider lie where it never drew. "
        f"Beyond {curves[0][2]['edges'][-1]:g} deviations: {_beyond(curves)} of the coordinates."
    )
    return Figure("Where the latents lie", markup, caption)


def _beyond(curves: Sequence[tuple[int, str, Mapping[str, Any]]]) -> str:
    """The share of the outermost bins, by method."""
    shares = []
    for _, name, curve in curves:
        edges, values = curve["edges"], curve["embeddings"]["all"]
        share = values[0] * (edges[1] - edges[0]) + values[-1] * (edges[-1] - edges[-2])
        shares.append(f"{name} {100 * share:.2g} %")
    return ", ".join(shares)


def _density_line(name: str, centres: Sequence[float], values: Sequence[float], colour: int) -> Line:
    """Without a label at its end, where all curves meet; named at its top instead."""
    top = max(range(len(values)), key=values.__getitem__)
    marks = tuple(name if k == top else "" for k in range(len(values)))
    return Line("", tuple(zip(centres, values, strict=True)), colour, marks, dots=False)


def dial_figure(title: str, about: str, settings: Mapping[str, Measures], methods: Sequence[Method]) -> Dial | None:
    """One dial as a curve through its settings, the compared methods beside it; and its table."""
    sets = list(settings.values())
    x, y = _first(DISTORTION, sets), _first(EDITABILITY, sets)
    if x is None or y is None:
        return None
    line = Line("", tuple((s[x].value, s[y].value) for s in sets), NEUTRAL, tuple(settings))
    points = [
        Point(m.name, m.measures[x].value, m.measures[y].value, i)
        for i, m in enumerate(methods)
        if _known(m.measures, x) and _known(m.measures, y)
    ]
    markup = plot(_axis(x, sets[0]), _axis(y, sets[0]), points, [line])
    columns = [name for name in dict.fromkeys((x, "psnr", y, "edit_drift", "radius")) if any(name in s for s in sets)]
    return Dial(Figure(title, markup, about), table(title, settings, columns))


def _first(names: Sequence[str], sets: Sequence[Measures]) -> str | None:
    return next((name for name in names if sets and all(_known(measures, name) for measures in sets)), None)


def _known(measures: Measures, name: str) -> bool:
    """Whether it was measured, and on some picture at least: a judge may find nothing in any of them."""
    return name in measures and math.isfinite(measures[name].value)


def _axis(name: str, measures: Measures) -> Axis:
    title = TITLES.get(name, f"{name.replace('_', ' ')} distance" if name in DISTORTION else name)
    return Axis(title, measures[name].better, log=name == "radius")
