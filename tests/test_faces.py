"""Faces in photographs: the quad of four points, cutting it out, and the points given by hand or found."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from latentopt.data.portrait_points import portrait_points
from latentopt.data.portraits import NAMES, portraits, render, sample_attributes
from latentopt.errors import ImageError, InversionFailed, UsageError
from latentopt.faces import litert
from latentopt.faces.aligner import Aligner, placed
from latentopt.faces.aligning import align
from latentopt.faces.alignment import Alignment, from_record
from latentopt.faces.blazeface import kept
from latentopt.faces.cutting import cut
from latentopt.faces.given import given_points
from latentopt.faces.quads import box_quad, face_quad, into_quad, projected, side_of
from latentopt.geometry.moves import move_matrix
from latentopt.pictures.decoding import MAX_PIXELS, decode
from latentopt.pictures.finding import ImageSource
from latentopt.pictures.images import to_uint8
from latentopt.protocols import FaceDetector
from latentopt.registry import DETECTORS
from latentopt.types import Face

UPRIGHT = torch.tensor([[-1.0, 0], [1, 0], [-1, 2], [1, 2]], dtype=torch.float64)


# ---- the quad


def test_the_quad_is_as_the_papers_formula_has_it():
    """Across (2,0), down (0,2): x is along (4,0), half a side max(4, 3.6), the centre a tenth of the way down."""
    assert face_quad(UPRIGHT).tolist() == [[-4.0, -3.8], [-4.0, 4.2], [4.0, 4.2], [4.0, -3.8]]


def test_a_long_face_is_as_large_as_its_height_asks():
    long = UPRIGHT * torch.tensor([1.0, 5.0])
    assert side_of(face_quad(long)) == pytest.approx(2 * 1.8 * 10)


@pytest.mark.parametrize("angle", [0.0, 0.4, -2.5])
@pytest.mark.parametrize("scale", [0.1, 30.0])
def test_the_quad_turns_with_the_face(angle, scale):
    points = UPRIGHT + torch.tensor([[0.1, 0], [0, 0.2], [0, -0.3], [0.2, 0]])
    shift, log_scale = torch.tensor([[7.0, -3]]), torch.tensor([scale]).log()
    move = move_matrix(torch.tensor([angle]), shift, log_scale)[0].double()
    torch.testing.assert_close(face_quad(projected(move, points)), projected(move, face_quad(points)))


def test_points_on_each_other_are_no_face():
    with pytest.raises(UsageError, match="lie on each other"):
        face_quad(torch.ones(4, 2))


def test_the_homography_takes_the_unit_square_to_any_quad():
    quad = torch.tensor([[3.0, 1], [2, 9], [12, 11], [9, 0]], dtype=torch.float64)
    corners = torch.tensor([[0.0, 0], [0, 1], [1, 1], [1, 0]], dtype=torch.float64)
    torch.testing.assert_close(projected(into_quad(quad), corners), quad)


def test_eyes_of_drawn_portraits_are_where_they_are_said_to_be():
    """Around the middle of an open eye lies the pupil: darker than the skin below it."""
    attributes = sample_attributes(range(6))
    for name, value in {"eye_opening": 1, "glasses": 0, "skin_tone": 0, "fringe": 0, "iris_tone": 0}.items():
        attributes[:, NAMES.index(name)] = value
    attributes[:, NAMES.index("yaw")] = torch.linspace(-0.6, 0.6, 6)
    levels = to_uint8(render(attributes, 256)).astype(float).mean(-1)
    for grey, points in zip(levels, portrait_points(attributes, (256, 256)), strict=True):
        for x, y in points[:2].tolist():
            around = grey[int(y) - 2 : int(y) + 3, int(x) - 2 : int(x) + 3]
            assert around.mean() < 90 < grey[int(y) + 28, int(x)]


# ---- cutting


def ramp(path: Path, size=(90, 120)) -> Path:
    """Levels that rise linearly: x to the right in red, y down in green."""
    y, x = np.mgrid[: size[0], : size[1]].astype(np.float64)
    levels = np.stack([40 + x, 60 + 1.5 * y, 0 * x + 100], axis=-1)
    Image.fromarray(levels.round().astype(np.uint8)).save(path)
    return path


def box_of(path: Path, quad: torch.Tensor) -> Alignment:
    picture = decode(path, None, MAX_PIXELS)
    rows = tuple((x, y) for x, y in quad.tolist())
    return Alignment(path.name, str(path), picture.sha256, picture.size, "box", rows)


@pytest.mark.parametrize("size", [12, 40, 130])
@pytest.mark.parametrize("angle", [0.0, 0.3, -1.2])
def test_what_is_cut_out_lies_where_the_quad_says(tmp_path, size, angle):
    path = ramp(tmp_path / "a.png")
    turn = move_matrix(torch.tensor([angle]), torch.tensor([[61.0, 44.0]]))[0].double()
    quad = projected(turn, box_quad(-20, -20, 40))
    found = cut(decode(path, None, MAX_PIXELS), box_of(path, quad), size)
    at = (torch.arange(size, dtype=torch.float64) + 0.5) / size
    v, u = torch.meshgrid(at, at, indexing="ij")
    x, y = projected(into_quad(quad), torch.stack([u, v], -1)).unbind(-1)  # pixels' middles at half numbers
    for channel, wanted in zip(found.channels[:2], (40 + (x - 0.5), 60 + 1.5 * (y - 0.5)), strict=True):
        assert np.abs(np.asarray(channel) - wanted.numpy()).max() < 1.2


@pytest.mark.parametrize("corner", [(-30, -20), (100, 60), (-10, 60)])
def test_outside_the_photograph_it_is_mirrored_not_black(tmp_path, corner):
    path = tmp_path / "a.png"
    Image.new("RGB", (120, 90), (80, 130, 200)).save(path)
    found = cut(decode(path, None, MAX_PIXELS), box_of(path, box_quad(*corner, 50)), 32)
    for channel, level in zip(found.channels, (80, 130, 200), strict=True):
        assert np.abs(np.asarray(channel) - level).max() < 0.01
    assert any("mirrored" in note for note in found.notes)


def test_inside_the_photograph_nothing_is_blurred(tmp_path):
    path = tmp_path / "a.png"
    noise = np.random.default_rng(0).integers(0, 256, (90, 120, 3), np.uint8)
    Image.fromarray(noise).save(path)
    found = cut(decode(path, None, MAX_PIXELS), box_of(path, box_quad(30, 20, 40)), 40)
    assert np.abs(np.asarray(found.channels[0]) - noise[20:60, 30:70, 0]).max() < 0.01


def test_transparency_is_cut_out_too(tmp_path):
    levels = np.full((60, 60, 4), 200, np.uint8)
    levels[:, :30, 3] = 0
    Image.fromarray(levels).save(tmp_path / "a.png")
    (found,) = align(tmp_path / "a.png", "box:20,10,20", size=20)
    opacity = found.image[3]
    assert (opacity[:, :9] == -1).all() and (opacity[:, 11:] > 0.5).all()


@pytest.mark.parametrize("box", ["box:500,10,20", "box:0,0,1", "box:0,0,5000"])
def test_squares_that_show_nothing_are_refused(tmp_path, box):
    ramp(tmp_path / "a.png")
    with pytest.raises(InversionFailed, match=r"a\.png: .*square"):
        align(tmp_path / "a.png", box)


@pytest.mark.parametrize("how", ["face", "box", "box:1,2", "box:a,b,c", "box:1,2,nan", ""])
def test_other_words_are_refused(how):
    with pytest.raises(UsageError, match="faces, none or box"):
        Aligner(how)


# ---- points from elsewhere

FOUR = [[30, 30], [50, 30], [32, 50], [48, 50]]
FLAT = [n for point in FOUR for n in point]
FIVE = [*FOUR[:2], [40, 40], *FOUR[2:]]
DLIB = [[0, 0]] * 36 + [[30, 30]] * 6 + [[50, 30]] * 6 + [[32, 50]] + [[0, 0]] * 5 + [[48, 50]] + [[0, 0]] * 13


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.json", json.dumps({"a.png": FOUR})),
        ("a.json", json.dumps({"a.png": [FIVE]})),
        ("a.json", json.dumps({"a.png": DLIB})),
        ("a.csv", "a.png," + ",".join(map(str, FLAT))),
        ("a.csv", "name,x,y,...\n\na.png," + ",".join(map(str, FLAT)) + "\n"),
    ],
)
def test_points_from_files(tmp_path, name, content):
    (tmp_path / name).write_text(content)
    ((found,),) = given_points(str(tmp_path / name)).values()
    assert found.tolist() == FOUR


def test_points_as_text_are_those_of_the_one_picture(tmp_path):
    given = given_points("30,30 50,30 32,50 48,50")
    ramp(tmp_path / "a.png")
    (found,) = align(tmp_path / "a.png", points=given, size=16)
    assert found.alignment.how == "points" and found.alignment.points == tuple(map(tuple, FOUR))
    ramp(tmp_path / "b.png")
    with pytest.raises(UsageError, match="2 are named"):
        align([tmp_path / "a.png", tmp_path / "b.png"], points=given)


@pytest.mark.parametrize(
    ("name", "content", "match"),
    [
        ("a.json", "{", "no points can be read"),
        ("a.json", '{"a.png": 5}', r"a\.png"),
        ("a.json", '{"a.png": [[1, 2]]}', "2 numbers"),
        ("a.json", '{"a.png": [[1, 2], [3, "x"], [5, 6], [7, 8]]}', r"a\.png"),
        ("a.csv", "a.png,1,2,x,4,5,6,7,8", "line 1: 'x' is no number"),
        ("a.csv", "a.png,1,2,nan,4,5,6,7,8", "not finite"),
        ("a.csv", "a.png,1,2,3", "3 numbers"),
        ("a.csv", "name,x,y\n", "holds no points"),
        ("a.csv", "\0", "holds no points"),
        ("a.json", "{}", "holds no points"),
        ("a.csv", "a.png," + "1" * 200_000, "no points can be read"),
    ],
)
def test_damaged_points_are_named(tmp_path, name, content, match):
    (tmp_path / name).write_text(content)
    with pytest.raises(UsageError, match=match):
        given_points(str(tmp_path / name))


def test_points_of_no_picture_that_is_named_are_refused(tmp_path):
    ramp(tmp_path / "a.png")
    with pytest.raises(UsageError, match=r"'b\.png' is none"):
        align(tmp_path, "box:10,10,20", points={"b.png": [UPRIGHT]})


# ---- records


def test_a_record_comes_back_as_it_was(tmp_path):
    ramp(tmp_path / "a.png")
    (found,) = align(tmp_path / "a.png", points="30,30 50,30.123456789 32,50 48,50", size=16, out=tmp_path / "out")
    assert Alignment.load(tmp_path / "out" / "a.json") == found.alignment
    assert from_record(found.alignment.record) == found.alignment


@pytest.mark.parametrize(
    "change",
    [{"schema": "x"}, {"quad": [[0, 0]] * 4}, {"quad": None}, {"size": [0, 5]}, {"more": 1}, {"quad": [[0, 0]] * 3}],
)
def test_damaged_records_are_refused(tmp_path, change):
    ramp(tmp_path / "a.png")
    (found,) = align(tmp_path / "a.png", "box:10,10,20", size=16)
    (tmp_path / "a.json").write_text(json.dumps(found.alignment.record | change))
    with pytest.raises(ImageError, match=r"a\.json"):
        Alignment.load(tmp_path / "a.json")


# ---- finding


class TwoFaces(FaceDetector):
    """Finds two, the larger first; in dark pictures none."""

    def __call__(self, picture):
        points = torch.tensor(FOUR, dtype=torch.float64)
        bright = float(picture.mean()) > -0.9
        return [Face(points * 1.2, 0.9), Face(points, 0.8)] if bright else []


@pytest.fixture
def two_faces(monkeypatch):
    monkeypatch.setitem(DETECTORS.own, "two", f"{__name__}:TwoFaces")


def test_several_faces_get_numbers_that_are_free(tmp_path, two_faces):
    for name in ("a.png", "a-1.png", "dark.png"):
        ramp(tmp_path / name)
    Image.new("RGB", (50, 50)).save(tmp_path / "dark.png")
    sources = [ImageSource(tmp_path / name, Path(name).stem) for name in ("a.png", "dark.png", "a-1.png")]
    found = list(placed(sources, Aligner(detector="two"), lambda count: None))
    assert [place.key for place in found] == ["a-face-1", "a-face-2", "dark", "a-1-1", "a-1-2"]
    assert "no face was found" in str(found[2].error) and "--points" in str(found[2].error)
    sides = [side_of(place.alignment.corners) for place in found[:2]]
    assert sides[0] > sides[1]
    (largest,) = placed(sources[:1], Aligner(detector="two", largest=True), lambda count: None)
    assert largest.key == "a" and largest.alignment.faces == 2


def test_without_the_extra_its_remedy_is_named(monkeypatch, tmp_path):
    monkeypatch.setattr(litert, "find_spec", lambda name: None)
    ramp(tmp_path / "a.png")
    with pytest.raises(UsageError, match=r"latentopt\[faces\].*--points"):
        align(tmp_path / "a.png")


def test_boxes_that_overlap_are_one_face():
    box = torch.tensor([[10.0, 10, 8, 8], [11, 10, 8, 8], [30, 10, 8, 8]])
    assert kept(box, torch.tensor([0.7, 0.9, 0.8])) == [1, 2]
    assert kept(box[:0], torch.zeros(0)) == []


needs_networks = pytest.mark.skipif(not litert.has_networks(), reason="the extra faces is not installed")


@needs_networks
def test_drawn_faces_are_found_where_they_are(tmp_path):
    images, attributes = portraits([10_000_000, 10_000_003], 256)
    for image, points in zip(images, portrait_points(attributes, (256, 256)), strict=True):
        Image.fromarray(to_uint8(image)).save(tmp_path / "a.png")
        (found,) = align(tmp_path / "a.png", size=64)
        true = face_quad(points)
        assert (found.alignment.corners - true).norm(dim=1).mean() < 0.12 * side_of(true)


@needs_networks
@pytest.mark.skipif(importlib.util.find_spec("skimage") is None, reason="scikit-image has the photograph")
def test_a_photograph(tmp_path):
    """Eyes and corners of the mouth as read off the picture by eye."""
    spec = importlib.util.find_spec("skimage")
    path = Path(spec.submodule_search_locations[0], "data", "astronaut.png")
    (found,) = align(path, size=64)
    by_eye = torch.tensor([[204.0, 101], [247, 104], [200, 139], [247, 142]], dtype=torch.float64)
    assert (torch.tensor(found.alignment.points) - by_eye).abs().max() < 4
