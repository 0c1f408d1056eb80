"""Aligned pictures back in their photographs, and the commands on the way: align, invert --align, edit, paste."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import finished
from PIL import Image

import latentopt as package
from latentopt import api
from latentopt.errors import ImageError, InversionFailed, UsageError
from latentopt.faces import poisson
from latentopt.faces.aligning import align, levels_of
from latentopt.faces.alignment import Alignment
from latentopt.faces.blending import Seam, paste_face
from latentopt.faces.cutting import cut
from latentopt.faces.edited import alignment_for
from latentopt.faces.pasting import paste
from latentopt.faces.poisson import harmonic
from latentopt.faces.quads import box_quad, projected
from latentopt.files.shards import in_shard, shard_folder
from latentopt.geometry.moves import move_matrix
from latentopt.pictures.decoding import MAX_PIXELS, decode
from latentopt.pictures.images import from_uint8, to_uint8

SEAMS = [
    Seam(part, feather, blend, colour)
    for part in ("crop", "face")
    for blend, feather in (("feather", 0.1), ("feather", 0.0), ("poisson", 0.2))
    for colour in ("match", "keep")
]


def soft(seed: int, size=(80, 100)) -> np.ndarray:
    """A smooth coloured photograph, levels [H,W,3]."""
    small = np.random.default_rng(seed).integers(30, 226, (5, 6, 3), np.uint8)
    return np.asarray(Image.fromarray(small).resize(size[::-1], Image.Resampling.BICUBIC))


def turned(angle: float, x: float = 52.0, y: float = 41.0, side: float = 40.0) -> torch.Tensor:
    move = move_matrix(torch.tensor([angle]), torch.tensor([[x, y]]))[0].double()
    return projected(move, box_quad(-side / 2, -side / 2, side))


# ---- blending


@pytest.mark.parametrize("seam", SEAMS, ids=str)
@pytest.mark.parametrize("quad", [turned(0.3), turned(-2.0, x=3.0), turned(0.0, y=79.0, side=200.0)])
def test_outside_the_mask_every_level_is_as_it_was(seam, quad):
    photo, image = soft(0), torch.rand(3, 16, 16, generator=torch.Generator().manual_seed(1)) * 2 - 1
    before = photo.copy()
    pasted, mask = paste_face(photo, image, quad, seam)
    assert (photo == before).all(), "what was given is not changed"
    assert (pasted[mask == 0] == photo[mask == 0]).all()
    assert (pasted[mask > 0] != photo[mask > 0]).any()
    assert mask.shape == photo.shape[:2] and mask.min() >= 0 and mask.max() <= 1


@pytest.mark.parametrize("angle", [0.0, 0.5, -2.0])
@pytest.mark.parametrize("seam", [Seam(), Seam(blend="poisson"), Seam(part="face", colour="keep")], ids=str)
def test_what_was_cut_out_goes_back_where_it_was(tmp_path, angle, seam):
    Image.fromarray(soft(2)).save(tmp_path / "a.png")
    quad = turned(angle)
    rows = tuple((x, y) for x, y in quad.tolist())
    (boxed,) = align(tmp_path / "a.png", "box:30,20,40", size=16)
    alignment = Alignment("a.png", boxed.alignment.file, boxed.alignment.sha256, (80, 100), "box", rows)
    image = from_uint8(levels_of(cut(decode(tmp_path / "a.png", None, MAX_PIXELS), alignment, 80)))
    pasted, _ = paste_face(soft(2), image, quad, seam)
    assert np.abs(pasted.astype(int) - soft(2)).max() <= 4


def test_matched_colours_have_the_photographs_mean_and_contrast():
    photo = soft(3)
    dim = torch.from_numpy(photo[20:60, 30:70] / 127.5 - 1).permute(2, 0, 1).float() * 0.6 - 0.2
    quad = box_quad(30, 20, 40)
    error = {}
    for colour in ("match", "keep"):
        pasted, mask = paste_face(photo, dim, quad, Seam(colour=colour))
        error[colour] = np.abs(pasted.astype(int) - photo)[mask == 1].mean()
    assert error["match"] < 3 < 15 < error["keep"]


def test_poisson_takes_away_a_constant_difference():
    photo = soft(4)
    bright = torch.from_numpy(photo[20:60, 30:70] / 127.5 - 1).permute(2, 0, 1).float() * 0.8 + 0.15
    pasted, mask = paste_face(photo, bright, box_quad(30, 20, 40), Seam(blend="poisson", colour="keep"))
    plain, _ = paste_face(photo, bright, box_quad(30, 20, 40), Seam(feather=0.0, colour="keep"))
    inside = mask > 0
    assert np.abs(pasted.astype(int) - photo)[inside].mean() < 0.5 * np.abs(plain.astype(int) - photo)[inside].mean()


def test_an_opaque_picture_alone_covers():
    image = torch.ones(4, 8, 8)
    image[3, :, :4] = -1
    pasted, mask = paste_face(soft(5), image, box_quad(30, 20, 40), Seam(feather=0.0, colour="keep"))
    assert mask[25:55, 32:45].max() == 0 and (pasted[25:55, 55:68] == 255).all()


@pytest.mark.parametrize("settings", [{"part": "x"}, {"blend": "x"}, {"colour": "x"}, {"feather": 0.6}])
def test_other_seams_are_refused(settings):
    with pytest.raises(UsageError):
        Seam(**settings)


# ---- Poisson's equation


@pytest.mark.parametrize("direct", [10_000, 30], ids=["at once", "from half the size"])
@pytest.mark.parametrize("shape", [(31, 40), (40, 33)])
def test_harmonic_functions_are_found_from_their_outline(monkeypatch, direct, shape):
    monkeypatch.setattr(poisson, "DIRECT", direct)
    y, x = np.mgrid[: shape[0], : shape[1]].astype(float)
    true = np.stack([x - 2 * y, (x * x - y * y) / 40, 0 * x + 5], axis=-1)
    inside = np.hypot(x - 18, y - 15) < 13
    found = harmonic(inside, np.where(inside[..., None], 999.0, true))
    assert np.abs(found - true).max() < 0.1 and (found[~inside] == true[~inside]).all()


def test_where_nothing_is_known_nothing_changes():
    assert not harmonic(np.ones((4, 5), bool), np.ones((4, 5, 3))).any()
    assert (harmonic(np.zeros((4, 5), bool), np.ones((4, 5, 3))) == 1).all()


def test_the_edge_of_the_picture_is_no_outline():
    """A strip that ends at the picture's edge: constant along it, since nothing pulls there."""
    inside = np.zeros((6, 20), bool)
    inside[:, 5:] = True
    assert np.allclose(harmonic(inside, np.where(inside[..., None], 0.0, 7.0)), 7.0)


# ---- photographs


def test_size_and_transparency_stay(tmp_path):
    alpha = np.random.default_rng(0).integers(0, 256, (80, 100, 1), np.uint8)
    Image.fromarray(np.concatenate([soft(6), alpha], axis=-1)).save(tmp_path / "a.png")
    (one,) = align(tmp_path / "a.png", "box:30,20,40", size=32)
    (pasted,) = paste((one.image[:3].flip(2), one.alignment), out=tmp_path / "out")
    levels = np.asarray(Image.open(tmp_path / "out" / "a.png"))
    assert (levels == to_uint8(pasted.image)).all()
    assert (levels[..., 3:] == alpha).all()
    assert (levels[..., :3] == soft(6))[pasted.mask[0].numpy() == 0].all()


def test_a_turned_photograph_is_pasted_into_upright(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(soft(7)).save(tmp_path / "a.png", exif=exif)
    (one,) = align(tmp_path / "a.png", "box:10,20,40", size=32)
    assert one.alignment.size == (100, 80)
    (pasted,) = paste((one.image.flip(2), one.alignment), seam=Seam(colour="keep"))
    upright = np.rot90(soft(7), -1)
    same = (to_uint8(pasted.image) == upright).all(axis=-1)
    assert same[pasted.mask[0].numpy() == 0].all() and not same.all()


def test_photographs_that_moved_or_changed(tmp_path):
    Image.fromarray(soft(8)).save(tmp_path / "a.png")
    (one,) = align(tmp_path / "a.png", "box:30,20,40", size=32)
    Image.fromarray(soft(9)).save(tmp_path / "a.png")
    with pytest.raises(InversionFailed, match="has changed since"):
        paste((one.image, one.alignment))
    (tmp_path / "a.png").rename(tmp_path / "b.png")
    with pytest.raises(InversionFailed, match="--photo"):
        paste((one.image, one.alignment))
    (pasted,) = paste((one.image, one.alignment), tmp_path / "b.png")
    outside = pasted.mask[0].numpy() == 0
    assert (to_uint8(pasted.image) == soft(9))[outside].all()
    Image.fromarray(soft(8, (80, 101))).save(tmp_path / "c.png")
    with pytest.raises(InversionFailed, match="101x80 pixels, and the photograph had 100x80"):
        paste((one.image, one.alignment), tmp_path / "c.png")


# ---- the commands

QUICK = (
    "--network",
    "net/tiny.safetensors",
    "--recipe",
    "i2s",
    "--terms",
    "l2=1",
    "--steps",
    "1",
    "--no-preflight",
    "-q",
)
CSV = "a.png,5,6,12,6,6,13,11,13\na.png,9,7,15,7,10,13,14,13\nb.png,5,6,12,6,6,13,11,13\n"


def test_align_writes_pictures_and_records(folder, latentopt):
    Path("p.csv").write_text(CSV)
    code, out, err = latentopt("align", "photos", "--points", "p.csv", "--size", "16", "-q", "--align", "none")
    assert code == 3 and "c.png: no points are given for it" in err and "3 aligned pictures" in out
    assert sorted(p.name for p in Path("aligned").iterdir() if p.suffix) == [
        f"{name}.{kind}" for name in ("a-1", "a-2", "b") for kind in ("json", "png")
    ]
    assert Image.open("aligned/b.png").size == (16, 16)
    assert json.loads(Path("aligned/a-2.json").read_text())["face"] == 2
    code, out, _ = latentopt("align", "photos/a.png", "--align", "box:2,2,10", "--size", "8", "--outdir", "boxes")
    assert code == 0 and "cut out as the box says" in out


def test_align_loses_no_other_picture(folder, latentopt):
    arguments = ("align", "photos/a.png", "--align", "box:2,2,10", "--size", "8")
    assert latentopt(*arguments)[0] == 0
    kept = Path("aligned/a.png").read_bytes()
    Path("more").mkdir()
    shutil.copy("photos/b.png", "more/a.png")
    other = ("align", "more/a.png", "--align", "box:2,2,10", "--size", "8")
    code, _, err = latentopt(*other)
    assert code == 1 and "another picture's" in err and Path("aligned/a.png").read_bytes() == kept
    assert latentopt(*other, "--overwrite")[0] == 0 and Path("aligned/a.png").read_bytes() != kept
    Path("aligned/b.png").write_bytes(b"mine")
    assert latentopt("align", "photos/b.png", "--align", "box:2,2,10")[0] == 1
    assert Path("aligned/b.png").read_bytes() == b"mine"


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("align", "photos", "--align", "none"), 2, "nothing to do"),
        (("align", "photos", "--align", "boxes"), 2, "faces, none or box"),
        (("align", "photos", "--detector", "blazefaze"), 2, "did you mean 'blazeface'"),
        (("align", "photos/a.png", "--align", "box:90,0,5"), 1, "outside the picture"),
        (("align", "photos/a.png", "--points", "nothing.csv"), 2, "nothing.csv"),
        (("invert", "photos", *QUICK, "--align", "boxes"), 2, "faces, none or box"),
        (("paste", "photos"), 1, "none of its pictures is on record"),
        (("paste", "photos/a.png"), 1, "--alignment FILE"),
        (("paste", "nowhere"), 2, "nowhere"),
        (("paste", "photos/a.png", "--alignment", "photos/a.png"), 1, "no alignment can be read"),
    ],
)
def test_what_cannot_be_meant(folder, latentopt, arguments, code, words):
    found, _, err = latentopt(*arguments)
    assert (found, words in err) == (code, True), err


def test_from_a_photograph_to_an_edit_in_it(folder, latentopt):
    Path("p.csv").write_text(CSV)
    run = ("invert", "photos/a.png", "photos/b.png", *QUICK, "--points", "p.csv")
    assert latentopt(*run)[0] == 0
    before = finished(Path("out"))
    assert sorted(before) == ["a-1", "a-2", "b"]
    record = json.loads(Path("out/a-2/run.json").read_text())
    assert record["alignment"]["face"] == 2 and "face 2 of 2" in record["source"]["notes"][0]
    assert latentopt(*run)[0] == 0 and finished(Path("out")) == before, "done already"
    Path("p.csv").write_text(CSV.replace("b.png,5", "b.png,4"))
    assert latentopt(*run)[0] == 0
    changed = finished(Path("out"))
    assert {name for name in before if changed[name] != before[name]} == {"b"}

    assert (
        latentopt("tune", "--method", "weights", "--steps", "1", "--terms", "l2=1", "--corruption", "0", "-q")[0] == 0
    )
    tuned = json.loads(Path("out/tuned-weights/b/run.json").read_text())
    assert tuned["alignment"] == json.loads(Path("out/b/run.json").read_text())["alignment"]

    code, _, err = latentopt("paste")
    assert code == 0, err
    assert sorted(p.name for p in Path("out/pasted").glob("*.png")) == ["a-1.png", "a-2.png", "b.png"]
    code, _, err = latentopt("paste", "out", "--together", "--to", "both")
    assert code == 0 and sorted(p.name for p in Path("both").glob("*.png")) == ["a.png", "b.png"], err

    assert latentopt("edit", "out/b")[0] == 0 and latentopt("edit", "out")[0] == 0
    edits = [p for p in Path("out").rglob("edits/**/*.png") if p.parent.name == "b"]
    assert edits
    for edit in edits:
        assert alignment_for(edit) == api.named_alignment(Path("out/b"))
    code, _, err = latentopt("paste", edits[0], "--to", "edited", "--blend", "poisson")
    assert code == 0, err
    photo, pasted = np.asarray(Image.open("photos/b.png")), np.asarray(Image.open(next(Path("edited").glob("*.png"))))
    assert pasted.shape == photo.shape and (pasted != photo).any()

    shutil.copy(edits[0], "alone.png")
    assert latentopt("paste", "alone.png", "--alignment", "out/b", "--to", "alone")[0] == 0
    shutil.move("photos", "elsewhere")
    code, _, err = latentopt("paste", "out/b")
    assert code == 1 and "--photo FILE" in err
    assert latentopt("paste", "out/b", "--photo", "elsewhere/b.png")[0] == 0
    code, _, err = latentopt("paste", "out", "--photo", "elsewhere/b.png")
    assert code == 2 and "of several" in err


def test_faces_in_parts_and_by_other_processes(folder, latentopt):
    """A face is in the part that its own name says, and its square is cut out by another process too."""
    Path("p.csv").write_text(CSV)
    run = ("invert", "photos/a.png", "photos/b.png", *QUICK, "--points", "p.csv")
    assert latentopt(*run, "--outdir", "one")[0] == 0
    whole = {name: Path("one", name, "target.png").read_bytes() for name in ("a-1", "a-2", "b")}
    for part in ("0/2", "1/2"):
        assert latentopt(*run, "--outdir", "parts", "--shard", part)[0] == 0
    parts = {(p.parent.parent.name, p.parent.name) for p in Path("parts").rglob("run.json")}
    assert parts == {(shard_folder(Path(), (i, 2)).name, n) for n in whole for i in range(2) if in_shard(n, (i, 2))}
    code, _, err = latentopt(*run, "--outdir", "workers", "--workers", "1")
    assert code == 0, err
    for root in (*sorted(Path("parts").iterdir()), Path("workers")):
        for path in root.rglob("target.png"):
            assert path.read_bytes() == whole[path.parent.name]
    runs = [json.loads(Path(root, "a-2", "run.json").read_text()) for root in ("one", "workers")]
    assert runs[0]["key"] == runs[1]["key"] and runs[0]["alignment"] == runs[1]["alignment"]


def test_from_python(folder, tiny_generator):
    recipe = package.Recipe.load("i2s").in_every_stage(steps=1, terms=[{"name": "l2", "weight": 1.0}])
    found = package.invert(tiny_generator, "photos/b.png", recipe, align="box:2,3,14")
    (pasted,) = api.paste(found)
    assert pasted.image.shape == (3, 20, 20) and pasted.path is None
    with pytest.raises(ImageError, match="not aligned"):
        api.paste(package.invert(tiny_generator, "photos/b.png", recipe))


def test_aligned_pictures_that_another_program_edited(folder, latentopt):
    assert latentopt("align", "photos/a.png", "--align", "box:2,2,10", "--size", "16")[0] == 0
    Image.new("RGB", (32, 32), (255, 0, 0)).save("aligned/a.png")
    code, _, err = latentopt("paste", "aligned", "--colour", "keep", "--to", "done")
    assert code == 0, err
    levels = np.asarray(Image.open("done/a.png"))
    assert levels[7, 7].tolist() == [255, 0, 0] and (levels == np.asarray(Image.open("photos/a.png")))[:2].all()
