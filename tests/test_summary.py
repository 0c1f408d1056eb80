"""The batch's table, page and film: figures right, hostile names harmless."""

from __future__ import annotations

import builtins
import csv
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import numpy as np
import pytest
import torch
from PIL import Image

from latentopt.errors import LatentoptError, UsageError
from latentopt.pictures.images import save_png
from latentopt.pictures.video import save_video
from latentopt.results.rows import COLUMNS
from latentopt.results.summary import write_summary

HOSTILE = [
    "<script>alert(1)</script>",
    '" onerror="alert(1)',
    "javascript:alert(1)",
    "a b/été & co #1?x=%41",
    "{{ 7*7 }}{% raw %}",
    "line\nbreak,comma;'quote'",
]


class Page(HTMLParser):
    """Tags, links and text of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags, self.links, self.handlers, self.text = [], [], [], ""
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        for key, value in attributes:
            if key in ("href", "src"):
                self.links.append(value)
            if key.startswith("on"):
                self.handlers.append(value)

    def handle_data(self, data):
        self.text += data


def result(outdir: Path, name: str, **figures) -> dict:
    for kind in ("target", "proj"):
        save_png(outdir / name / f"{kind}.png", torch.zeros(3, 16, 16))
    return {"name": name, "status": "ok", "psnr": 20.5, "seconds": 1.25, "steps": 7, "stop_reason": "steps"} | figures


def failed(name: str) -> dict:
    return {"name": name, "status": "failed", "error": f"{name}: damaged <b>"}


def test_the_table_holds_every_row(tmp_path):
    rows = [result(tmp_path, name) for name in HOSTILE] + [failed("bad"), result(tmp_path, "x", identity=0.5)]
    files = write_summary(tmp_path, rows)
    assert [path.name for path in files] == ["summary.csv", "index.html", "grid.png"]
    with (tmp_path / "summary.csv").open(newline="", encoding="utf-8") as stream:
        table = list(csv.DictReader(stream))
    assert list(table[0]) == [*COLUMNS, "identity"]
    assert [row["name"] for row in table] == [row["name"] for row in rows]
    assert table[0]["psnr"] == "20.5" and table[0]["ssim"] == "" and table[-1]["identity"] == "0.5"
    assert (table[-2]["status"], table[-2]["error"]) == ("failed", "bad: damaged <b>")


def test_hostile_names_are_text_and_their_links_work(tmp_path):
    rows = [result(tmp_path, name) for name in HOSTILE] + [failed("<img src=x onerror=alert(1)>")]
    write_summary(tmp_path, rows, title="<i>mine</i>")
    page = Page((tmp_path / "index.html").read_text(encoding="utf-8"))
    assert not {"script", "i", "b"} & set(page.tags) and page.handlers == []
    for row in rows:
        assert row["name"] in page.text
    assert "49" not in page.text
    assert page.tags.count("img") == 2 * len(HOSTILE)
    for link in page.links:
        parts = urlsplit(link)
        assert not (parts.scheme or parts.netloc or parts.query or parts.fragment)
        assert (tmp_path / unquote(parts.path)).is_file(), link
    assert "6 of 7 images finished, 1 failed" in page.text


def test_the_page_needs_nothing_from_elsewhere(tmp_path):
    write_summary(tmp_path, [result(tmp_path, "a")])
    text = (tmp_path / "index.html").read_text()
    assert "http://" not in text and "https://" not in text and 'src="//' not in text


def test_names_that_are_not_unicode(tmp_path):
    write_summary(tmp_path, [{"name": "a", "status": "failed", "error": "caf\udce9.png: damaged"}])
    assert "caf?.png" in (tmp_path / "summary.csv").read_text(encoding="utf-8")


def test_nothing_finished_gives_no_grid(tmp_path):
    assert len(write_summary(tmp_path, [failed("a")])) == 2
    page = (tmp_path / "index.html").read_text()
    assert "grid.png" not in page and "0 of 1" in page


def test_the_grid_is_of_the_first_images(tmp_path, monkeypatch):
    monkeypatch.setattr("latentopt.results.summary.GRID_ROWS", 3)
    monkeypatch.setattr("latentopt.results.pages.PAGE_ROWS", 4)
    rows = [result(tmp_path, f"{i}") for i in range(5)]
    (tmp_path / "1" / "proj.png").unlink()
    write_summary(tmp_path, rows)
    page = (tmp_path / "index.html").read_text()
    assert "the first 3" in page and "page 1: " in page and page.count("<tr") == 5
    second = (tmp_path / ".pages" / "2.html").read_text()
    assert second.count("<tr") == 2 and 'src="../4/target.png"' in second and "../index.html" in second
    assert Image.open(tmp_path / "grid.png").height == 24 + 2 * 152  # one picture had gone


def test_a_full_disk_is_named(tmp_path, monkeypatch):
    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(LatentoptError, match=r"summary\.csv.*disk is full"):
        write_summary(tmp_path, [failed("a")])
    assert list(tmp_path.iterdir()) == []


# ---- films


def frames(count=4, size=(31, 33)):
    for i in range(count):
        yield np.full((*size, 3), 40 * i, np.uint8)


def test_webp_film(tmp_path):
    save_video(frames(), tmp_path / "a.webp", fps=5)
    film = Image.open(tmp_path / "a.webp")
    assert film.n_frames == 4 and film.size == (33, 31)
    for i in range(4):
        film.seek(i)
        film.load()
        assert film.info["duration"] == 200 and film.convert("RGB").getpixel((9, 9))[0] == pytest.approx(40 * i, abs=4)


def test_mp4_film(tmp_path):
    av = pytest.importorskip("av")
    save_video(frames(), tmp_path / "a.mp4", fps=5)
    with av.open(str(tmp_path / "a.mp4")) as film:
        pictures = [frame.to_ndarray(format="rgb24") for frame in film.decode(video=0)]
        assert film.streams.video[0].average_rate == 5
    assert [picture.shape for picture in pictures] == [(32, 34, 3)] * 4
    for i, picture in enumerate(pictures):
        assert picture.mean() == pytest.approx(40 * i, abs=6)


def test_mp4_without_pyav_says_what_to_install(tmp_path, monkeypatch):
    real = builtins.__import__

    def without_av(name, *args, **kwargs):
        if name == "av":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without_av)
    with pytest.raises(LatentoptError, match=r"a\.mp4.*pip install 'latentopt\[video\]'"):
        save_video(frames(), tmp_path / "a.mp4")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "given", "error", "message"),
    [
        ("a.gif", frames(), UsageError, r"\.webp or \.mp4"),
        ("a.webp", [], LatentoptError, "no frames"),
        ("a.webp", [np.zeros((8, 8, 3), np.uint8), np.zeros((8, 9, 3), np.uint8)], ValueError, "like the first"),
        ("a.webp", [np.zeros((8, 8, 3))], ValueError, "uint8"),
    ],
)
def test_bad_films_leave_nothing(tmp_path, name, given, error, message):
    with pytest.raises(error, match=message):
        save_video(given, tmp_path / name)
    assert list(tmp_path.iterdir()) == []
