"""The report's page: figures right, ranks right, names harmless, nothing from elsewhere."""

from __future__ import annotations

import base64
import html
import io
import math
import re
from dataclasses import replace
from html.parser import HTMLParser
from itertools import combinations

import pytest
import torch
from markupsafe import Markup
from PIL import Image

from latentopt.errors import LatentoptError
from latentopt.evaluation.measure import Measure
from latentopt.pictures.images import to_uint8
from latentopt.report.charts import HEIGHT, WIDTH, Axis, Line, Point, drawn, plot
from latentopt.report.figures import dial_figure, distortion_editability, figures, pose_response, quality_time
from latentopt.report.numbers import figure, short
from latentopt.report.page import LARGEST, PAGE, Figure, Method, Report, Strip, data_uri, render, write_report
from latentopt.report.tables import groups, overview, ranks, table

HOSTILE = [
    "<script>alert(1)</script>",
    '" onerror="alert(1)',
    "' onload='alert(1)",
    "</title></style><img src=x onerror=alert(1)>",
    "{{ 7*7 }}{% raw %}",
    "javascript:alert(1)",
    "a b/été & co ☃ #1?x=%41",
    "]]>--><!--",
]
POSE = {"attribute": "yaw", "strengths": [-2, 0, 2], "mean": [-0.5, 0.0, 0.5], "samples": [-0.6, 0.0, 0.6]}


class Page(HTMLParser):
    """Tags, addresses, event handlers and text of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags, self.links, self.handlers, self.text, self.best, self.second = [], [], [], "", [], []
        self._open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        attributes = dict(attributes)
        self._open = [attributes.get("class", "")]
        self.links += [attributes[key] for key in ("href", "src", "xlink:href", "data") if key in attributes]
        self.handlers += [key for key in attributes if key.startswith("on")]

    def handle_data(self, data):
        self.text += data
        for kind in ("best", "second"):
            if self._open == [kind]:
                getattr(self, kind).append(data)
        self._open = []


def measure(name: str, value: float, better: str = "lower", low: float | None = None, high: float | None = None):
    return Measure(name, value, low, high, 6, "judge 12ab", better)


def method(name: str, **values: float) -> Method:
    better = {"psnr": "higher", "pose_share": "higher", "response_yaw": "higher", "radius": "neither"}
    measures = {key: measure(key, value, better.get(key, "lower")) for key, value in values.items()}
    return Method(name, f"source of {name}", f"name = {name!r}", measures, {"pose": POSE}, [f"note of {name}"])


def methods(*names: str) -> list[Method]:
    return [
        method(n, perceptual=0.01 * (k + 1), psnr=30 - k, pose_share=0.5 + k / 10, radius=1 + k, seconds=2.0**k)
        for k, n in enumerate(names or ("a", "b", "c"))
    ]


def hostile_report() -> Report:
    made = methods(*HOSTILE)
    image = torch.zeros(3, 8, 8)
    strips = [
        Strip(name, image, {m.name: [image, image] for m in made}, {made[0].name: name}, [name]) for name in HOSTILE
    ]
    dial = dial_figure(HOSTILE[0], HOSTILE[1], {m.name: m.measures for m in made}, made)
    about = {name: [(name, name)] for name in HOSTILE}
    return Report(
        HOSTILE[0], HOSTILE[1], made, figures(made), [dial], strips, ["reconstruction", HOSTILE[2]], about, HOSTILE
    )


def test_hostile_names_are_text_wherever_they_stand(tmp_path):
    path = tmp_path / "report.html"
    write_report(path, hostile_report())
    text = path.read_text(encoding="utf-8")
    page = Page(text)
    allowed = {
        "html", "head", "meta", "title", "style", "body", "main", "header", "h1", "h2", "h3", "p", "b", "u", "ul", "li",
        "div", "table", "thead", "tbody", "tr", "th", "td", "small", "span", "figure", "figcaption", "svg", "g", "path",
        "text", "img", "details", "summary", "pre", "dl", "dt", "dd",
    }  # fmt: skip
    assert set(page.tags) <= allowed
    assert page.handlers == []
    assert page.tags.count("title") == page.tags.count("style") == 1
    for name in HOSTILE:
        assert page.text.count(name) >= 5, name


def test_nothing_comes_from_elsewhere_and_nothing_runs(tmp_path):
    text = render(hostile_report())
    page = Page(text)
    assert page.links and all(link.startswith("data:image/png;base64,") for link in page.links)
    assert not re.search(r"https?://|url\(|@import|src=\"//", text)
    assert "default-src 'none'" in text, "should anything slip through, the browser refuses it"


def test_a_title_that_is_not_unicode(tmp_path):
    write_report(tmp_path / "report.html", Report("caf\udce9", "", []))
    assert "caf?" in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_a_page_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(LatentoptError, match=r"report\.html"):
        write_report(tmp_path / "file" / "report.html", Report("x", "", []))


def test_best_is_bold_and_second_underlined():
    page = Page(render(Report("x", "", methods("a", "b", "c"))))
    assert {"0.0100", "30.0", "0.700", "1.00"} <= set(page.best)
    assert {"0.0200", "29.0", "0.600", "2.00"} <= set(page.second)
    assert "radius" not in page.best and "3.00" not in page.best + page.second, "a radius is neither good nor bad"


@pytest.mark.parametrize(
    ("values", "better", "expected"),
    [
        ([3, 1, 2], "lower", ["", "best", "second"]),
        ([3, 1, 2], "higher", ["best", "", "second"]),
        ([1, 1, 2], "lower", ["best", "best", "second"]),
        ([1, 2, 2], "lower", ["best", "second", "second"]),
        ([1, 1], "lower", ["", ""]),
        ([1], "lower", [""]),
        ([1, 2], "neither", ["", ""]),
        ([math.nan, 2, 1], "lower", ["", "second", "best"]),
        ([None, 2, 1], "lower", ["", "second", "best"]),
        ([None, None], "lower", ["", ""]),
    ],
)
def test_ranks(values, better, expected):
    assert ranks([None if v is None else measure("x", v, better) for v in values]) == expected


def test_a_missing_measure_is_a_dash():
    found = table("x", {"a": {"psnr": measure("psnr", 30, "higher", 29, 31)}, "b": {}}, ["psnr"])
    assert [row[0].text for row in found.cells] == ["30.0", "\N{EN DASH}"]
    assert found.cells[0][0].interval == "29.0 \N{EN DASH} 31.0" and found.cells[0][0].rank == ""


def test_every_measure_has_its_place_and_none_is_lost():
    listed = (
        "mse rmse psnr ssim ms_ssim perceptual lpips_vgg identity reconstruction_frechet pose_range pose_share "
        "response_yaw flipped_glasses accuracy_glasses edited_kernel drift_yaw edit_drift edit_response "
        "latent_variation radius radius_first outliers outliers_last lec lec_trimmed path_length_end "
        "interpolation_w+_swd mixing_frechet corruption_frechet seconds something_new"
    )
    names = listed.split()
    found = groups({"a": {name: measure(name, 1.0) for name in names}})
    assert sorted(column.name for t in found for column in t.columns) == sorted(names)
    by_title = {t.title: [column.name for column in t.columns] for t in found}
    assert by_title["Other measures"] == ["something_new"]
    assert by_title["Cost"] == ["corruption_frechet", "seconds"] and "lec" in by_title["Latents"]


def test_the_overview_has_what_some_method_has_in_its_own_order():
    methods = {"a": {"seconds": measure("seconds", 1)}, "b": {"psnr": measure("psnr", 30), "mse": measure("mse", 1)}}
    assert [column.name for column in overview(methods).columns] == ["psnr", "seconds"]


@pytest.mark.parametrize(
    ("value", "text", "shown"),
    [
        (0, "0", "0"),
        (0.5, "0.5", "0.500"),
        (12.345, "12.3", "12.3"),
        (1234.5, "1,234", "1,234"),
        (-0.0312, "-0.0312", "-0.0312"),
        (2e-7, "2.00e-07", "2.0e-07"),
    ],
)
def test_numbers_are_short(value, text, shown):
    assert short(value) == text and figure(value) == shown


@pytest.mark.parametrize(
    ("values", "log"),
    [
        ([0, 1], False),
        ([5], False),
        ([0.0], False),
        ([-3, 7], False),
        ([1, 1000], True),
        ([2, 3], True),
        ([4], True),
        ([1e-7, 1], True),
    ],
)
def test_ticks_are_round_and_within(values, log):
    axes = drawn(Axis("x", log=log), Axis("y"), [Point("", value, 1) for value in values], []).axes[0]
    low, high = axes.get_xlim()
    ticks = [tick for tick in axes.get_xticks() if low <= tick <= high]
    assert 2 <= len(ticks) <= 12 and ticks == sorted(ticks)
    assert low < min(values) and max(values) < high
    texts = [text.get_text() for text in axes.get_xticklabels()]
    assert all(len(short(tick)) <= 8 and short(tick) in texts for tick in ticks), "no more digits than are read"


def dots(markup: str) -> list[tuple[float, float]]:
    """The middles of all that is filled."""
    found = []
    for path in re.findall(r'<path d="([^"]+)" style="fill: var\(--c\d\)', markup):
        numbers = torch.tensor([float(number) for number in re.findall(r"-?[\d.]+", path)]).view(-1, 2)
        found.append(tuple(((numbers.amin(0) + numbers.amax(0)) / 2).tolist()))
    return found


def test_a_plot_puts_its_points_where_they_belong():
    markup = plot(
        Axis("x", log=True), Axis("y", "lower"), [Point("low", 1, 5), Point("high", 100, 1), Point("mid", 10, 3)]
    )
    (x1, y1), (x2, y2), (x3, y3) = dots(markup)
    assert x3 == pytest.approx((x1 + x2) / 2, abs=0.2), "logarithmic"
    assert y1 < y3 < y2, "larger is higher up"
    assert all(0 <= x <= WIDTH and 0 <= y <= HEIGHT for x, y in dots(markup))
    assert "lower is better" in markup


def test_every_colour_of_a_plot_is_one_of_the_style_sheet():
    """So that it can be read in light and in dark."""
    points, lines = [Point(f"p{k}", k, k, k, (k - 1, k + 1)) for k in range(1, 10)], [Line("l", ((0, 0), (2, 1)), 3)]
    markup = plot(Axis("x"), Axis("y"), points, lines)
    colours = set(re.findall(r"(?:fill|stroke): ([^;\"]+)", markup))
    assert {f"var(--c{k})" for k in range(8)} <= colours
    defined = {f"var({name})" for name in re.findall(r"(--\w+):", PAGE.read_text(encoding="utf-8"))}
    assert colours <= defined | {"none"}
    assert " id=" not in markup, "plots of one page would share it"


def test_labels_do_not_cover_one_another():
    points = [Point(f"method {k}", 1 + 0.001 * k, 1 + 0.001 * k) for k in range(5)]
    lines = [Line(f"line {k}", ((0, 0), (2, 1 + 0.0001 * k))) for k in range(4)]
    made = drawn(Axis("x"), Axis("y"), [*points, Point("far", 2, 2)], lines, room=90)
    labels = {text.get_text(): text.get_window_extent() for text in made.axes[0].texts}
    assert len(labels) == 10
    assert not [(a, b) for a, b in combinations(labels, 2) if labels[a].overlaps(labels[b])]
    ends = sorted((box.y0, name) for name, box in labels.items() if name.startswith("line"))
    assert [name for _, name in ends] == ["line 0", "line 1", "line 2", "line 3"], "in the order of the lines"


@pytest.mark.parametrize("name", ["$x^2$", "\N{SNOWMAN} \u4eba", "caf\udce9", "#0b0f03", '" id="x"'])
def test_a_name_is_drawn_as_it_is_written(name, recwarn):
    markup = plot(Axis(name), Axis(name), [Point(name, 1, 1)])
    assert html.unescape(markup).count(name.replace("\udce9", "?")) >= 3
    assert not recwarn.list


def test_what_cannot_be_drawn_is_left_out():
    assert plot(Axis("x"), Axis("y")) == ""
    assert plot(Axis("x"), Axis("y"), [Point("a", math.nan, 1)]) == ""
    markup = plot(Axis("x", log=True), Axis("y"), [Point("zero", 0, 1), Point("ok", 1, 1, y_interval=(0.5, math.inf))])
    assert "ok" in markup and "zero" not in markup and "nan" not in markup and "inf" not in markup


def test_figures_are_made_of_what_there_is():
    made = methods()
    assert [f.title for f in figures(made)] == [
        "Quality and time",
        "Distortion and editability",
        "Response to the pose edit",
    ]
    assert "pose response" in distortion_editability(made).plot
    assert "P-norm radius" in distortion_editability([method("a", rmse=0.1, radius=2.0)]).plot
    assert (
        quality_time([method("a", perceptual=0.1)]) is None and distortion_editability([method("a", seconds=1)]) is None
    )
    assert pose_response([Method("a", "", "", {})]) is None
    assert figures([]) == []


def test_a_dial_is_a_curve_with_its_settings_and_a_table():
    made = methods("i2s")
    settings = {f"clip {c}": method("", perceptual=0.1 / c, pose_share=1 / c).measures for c in (1, 2, 4)}
    dial = dial_figure("Clip", "how", settings, made)
    page = Page(render(Report("x", "", made, dials=[dial])))
    assert len(re.findall(r"stroke: var\(--c7\)", dial.figure.plot)) == 1, "one curve"
    assert all(page.text.count(name) == 2 for name in settings), "at its point and in the table"
    assert dial_figure("Clip", "how", {"1": {}}, made) is None


def test_pictures_are_in_the_page_as_they_are():
    image = torch.rand(3, 16, 24, generator=torch.Generator().manual_seed(0)) * 2 - 1
    page = Page(render(Report("x", "", [], strips=[Strip("a", image, {})])))
    (link,) = page.links
    picture = Image.open(io.BytesIO(base64.b64decode(link.partition(",")[2])))
    assert picture.size == (24, 16)
    assert (torch.from_numpy(to_uint8(image)) == torch.tensor(list(picture.tobytes())).view(16, 24, 3)).all()
    large = Image.open(io.BytesIO(base64.b64decode(data_uri(torch.zeros(3, 600, 300)).partition(",")[2])))
    assert large.size == (LARGEST // 2, LARGEST)


def test_markup_of_a_plot_is_markup_and_its_words_are_not():
    markup = plot(Axis("<b>"), Axis("&"), [Point("<i>", 1, 1)])
    assert isinstance(markup, Markup) and "<b>" not in markup and "<i>" not in markup
    page = Page(render(Report("x", "", methods(), [Figure("<em>", markup)])))
    assert "<i>" in page.text and "em" not in page.tags and "svg" in page.tags


def test_what_a_judge_could_not_read_is_left_out(tmp_path):
    """A landmark function may find nothing in any picture of a method."""
    first, second = methods("a", "b")
    nothing = {"attribute": "yaw", "strengths": [-2, 0, 2], "mean": [math.nan] * 3, "samples": [-0.6, 0.0, 0.6]}
    second = replace(
        second,
        measures=second.measures | {"pose_share": measure("pose_share", math.nan, "higher")},
        curves={"pose": nothing},
    )
    dial = dial_figure("Clip", "how", {"1": first.measures, "2": second.measures}, [first, second])
    path = tmp_path / "report.html"
    write_report(path, Report("x", "", [first, second], figures([first, second]), [dial]))
    text = Page(path.read_text(encoding="utf-8")).text
    assert (
        "nan" not in path.read_text(encoding="utf-8")
        and "P-norm radius" in text
        and "Response to the pose edit" in text
    )
