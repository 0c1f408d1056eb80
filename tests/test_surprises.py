"""What nobody would notice until it is too late: results that take another's place, files passed over, steps lost."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import make_tiny_generator, photo, rows
from PIL import Image

import latentopt as package
from latentopt.errors import ImageError, UsageError
from latentopt.pictures import finding, heic
from latentopt.pictures.finding import find_images, passed_over
from latentopt.pictures.images import read_image
from latentopt.recipe.recipe import Recipe

QUICK = ("--network", "net/tiny.safetensors", "--recipe", "i2s", "--terms", "l2=1", "--steps", "1", "--no-preflight")
TUNE = ("--method", "weights", "--set", "stages.0.steps=1", "--set", "stages.0.terms=['l2']", "--corruption", "0")
ROOT = Path(__file__).parent.parent


# Pictures of one name


@pytest.fixture
def namesakes(folder) -> Path:
    for i, person in enumerate(("ann", "bob")):
        photo(folder / person / "face.png", i)
    return folder


def source_of(folder: Path) -> str:
    return json.loads((folder / "run.json").read_text())["source"]["path"]


@pytest.mark.parametrize("command", ["invert", "encode"])
def test_two_pictures_of_one_name_have_two_results(namesakes, latentopt, command, monkeypatch):
    line = ("invert", *QUICK) if command == "invert" else ("encode", "--encoder", "e4e", "--terms", "l2=1")
    for person in ("ann", "bob", "ann", "bob"):
        code, _, err = latentopt(line[0], f"{person}/face.png", *line[1:])
        assert code == 0, err
        assert ("another picture's" in err) == (person == "bob")
    assert [source_of(Path("out") / name) for name in ("face", "face-2")] == ["ann/face.png", "bob/face.png"]
    assert sorted(path.parent.name for path in Path("out").rglob("run.json")) == ["face", "face-2"]


def test_a_picture_that_was_changed_or_moved_is_the_same_picture(namesakes, latentopt):
    assert latentopt("invert", "ann/face.png", *QUICK)[0] == 0
    photo(namesakes / "ann" / "face.png", 7)
    assert latentopt("invert", "ann/face.png", *QUICK)[0] == 0
    shutil.move("ann", "anna")
    code, _, err = latentopt("invert", "anna/face.png", *QUICK)
    assert code == 0 and "done already" in err
    assert [path.parent.name for path in Path("out").rglob("run.json")] == ["face"]


def test_the_same_name_in_another_working_folder_is_another_picture(namesakes, latentopt, monkeypatch):
    quick = [str(namesakes / part) if part.startswith("net/") else part for part in QUICK]
    for person in ("ann", "bob"):
        monkeypatch.chdir(namesakes / person)
        assert latentopt("invert", "face.png", *quick, "--outdir", namesakes / "out")[0] == 0
    assert len(list((namesakes / "out").rglob("run.json"))) == 2


def test_tunings_of_namesakes_have_two_results(namesakes, latentopt):
    for person in ("ann", "bob", "ann"):
        assert latentopt("invert", f"{person}/face.png", *QUICK, "--outdir", f"of-{person}")[0] == 0
        code, _, err = latentopt("tune", f"of-{person}", *TUNE, "--to", "tuned")
        assert code == 0, err
    assert [source_of(Path("tuned") / name) for name in ("face", "face-2")] == ["ann/face.png", "bob/face.png"]


# Kinds that are not read, and HEIC


def test_files_of_other_kinds_are_counted_in_one_line(folder, latentopt, monkeypatch):
    monkeypatch.setattr(finding, "has_heic", lambda: False)
    for name in ("a.HEIC", "deep/b.heic", "c.jp2", "notes.txt", "noext", ".hidden.jp2"):
        (folder / "photos" / name).parent.mkdir(exist_ok=True)
        (folder / "photos" / name).write_text("x")
    code, _, err = latentopt("invert", "photos", *QUICK)
    (line,) = [line for line in err.splitlines() if "passed over" in line]
    assert code == 0
    assert line.startswith("passed over 5 files of kinds that are not read: 2 .heic, ")
    assert "1 .jp2" in line and "pip install 'latentopt[heic]'" in line
    assert passed_over(["photos/a.png"]) == ""
    (folder / "only").mkdir()
    (folder / "only" / "x.heic").write_text("x")
    with pytest.raises(UsageError, match=r"no images found.*1 \.heic.*pip install"):
        find_images(["only"])


def test_the_sheet_of_samples_is_no_picture(tmp_path):
    """latentopt sample --outdir samples, then latentopt invert samples; a picture of that name elsewhere counts."""
    for name in ("samples/seed0000.png", "samples/grid.png", "mine/grid.png", "mine/seedling.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.new("RGB", (4, 4)).save(tmp_path / name)
    assert [source.key for source in find_images([tmp_path / "samples"])] == ["seed0000"]
    assert [source.key for source in find_images([tmp_path / "mine"])] == ["grid", "seedling"]
    assert [source.key for source in find_images([tmp_path / "samples" / "grid.png"])] == ["grid"]


def test_heic_without_its_extra_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setattr("latentopt.pictures.decoding.has_heic", lambda: False)
    (tmp_path / "x.heic").write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(100))
    with pytest.raises(ImageError, match=r"x\.heic: a HEIC picture; pip install 'latentopt\[heic\]'"):
        read_image(tmp_path / "x.heic", (8, 8))


def test_heic_is_read_with_its_extra(tmp_path):
    pytest.importorskip("pillow_heif")
    heic.register_heic()
    picture = Image.linear_gradient("L").convert("RGB").resize((64, 48))
    picture.save(tmp_path / "x.heic", quality=95)
    shutil.copy(tmp_path / "x.heic", tmp_path / "misnamed.jpg")
    exif = Image.Exif()
    exif[0x0112] = 6
    picture.save(tmp_path / "turned.heif", exif=exif.tobytes(), quality=95)  # as a phone held upright writes it
    assert {source.key for source in find_images([tmp_path])} == {"x", "misnamed", "turned"}
    plain = read_image(tmp_path / "x.heic", (48, 64))
    assert plain.original_size == (48, 64)
    expected = torch.from_numpy(np.asarray(picture).copy()).movedim(2, 0) / 127.5 - 1
    assert (plain.image - expected).abs().mean() < 0.05
    assert torch.equal(read_image(tmp_path / "misnamed.jpg", (48, 64)).image, plain.image)
    assert read_image(tmp_path / "turned.heif", (64, 48)).original_size == (64, 48)
    (tmp_path / "cut.heic").write_bytes((tmp_path / "x.heic").read_bytes()[:400])
    with pytest.raises(ImageError, match=r"cut\.heic"):
        read_image(tmp_path / "cut.heic", (8, 8))


# Steps without a finite loss


def test_steps_without_a_finite_loss_are_said(folder, latentopt):
    steps = ("--lr", "1e30", "--steps", "3")
    for again in (False, True):
        code, out, err = latentopt("invert", "photos/a.png", *QUICK, *steps)
        assert code == 3 and "a: unsteady: no finite loss in " in err, again
        assert "1 of 1 images" in out
    assert rows(folder / "out")["a"]["stop_reason"].startswith("unsteady: no finite loss in ")


# Small and narrow generators


@pytest.mark.parametrize(
    ("channels", "const_size"),
    [((4,), (1, 1)), ((4,), (2, 2)), ((4,), (4, 4)), ((4, 4, 4), (1, 8)), ((4, 4, 4), (8, 1)), ((4,), (12, 4))],
)
def test_small_and_narrow_generators_and_the_perceptual_net(channels, const_size):
    generator = make_tiny_generator(channels=channels, const_size=const_size, mapping_layers=2)
    stage = {
        "init": "mean",
        "steps": 1,
        "lr": 0.05,
        "optimize": ["w+"],
        "terms": [{"name": "perceptual", "net": "bundled"}],
    }
    (found,) = package.invert(
        generator, torch.zeros(1, 3, *generator.resolution), Recipe.from_table({"stages": [stage]})
    )
    assert found.manifest["metrics"]["perceptual"] > 0


# One image at a time


def test_exact_results_do_not_depend_on_the_batch(tiny_generator, tmp_path):
    images = torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    names = ["a", "b", "c", "d"]
    recipe = Recipe.load("i2s").override(["stages.0.steps=4", "stages.0.terms=['l2']", "stages.0.batch=4"])
    together = package.invert(tiny_generator, images, recipe, names=names, exact=True, out=tmp_path)
    apart = package.invert(tiny_generator, images[2:3], recipe, names=["c"], exact=True)
    assert torch.equal(together[2].inputs.ws, apart[0].inputs.ws) and torch.equal(together[2].image, apart[0].image)
    batch = package.invert(tiny_generator, images, recipe, names=names, out=tmp_path)
    assert batch[2].manifest["key"] != together[2].manifest["key"], "one is not taken for the other"


@pytest.mark.parametrize("line", [("invert", "photos", *QUICK), ("tune", "--shared", *TUNE)], ids=lambda line: line[0])
def test_exact_does_not_go_with_what_needs_a_batch(folder, latentopt, line):
    more = ("--batch", "4") if line[0] == "invert" else ()
    assert latentopt("invert", "photos", *QUICK)[0] == 0
    code, _, err = latentopt(*line, *more, "--exact")
    assert code == 2 and "--exact" in err


# What the preflight has found


def test_a_warning_survives_that_its_picture_is_done_again(tiny_generator, tmp_path):
    photo(tmp_path / "a.png", 1)
    recipe = Recipe.load("i2s").override(["stages.0.steps=1", "stages.0.terms=['l2']"])
    seen = []

    def look(source, target, done):
        seen.append(done)
        return target if done else replace(target, notes=(*target.notes, "looks odd"))

    for steps in (1, 2, 2):
        changed = recipe.override([f"stages.0.steps={steps}"])
        (found,) = package.invert(tiny_generator, tmp_path / "a.png", changed, look=look, out=tmp_path / "out")
        assert "looks odd" in found.manifest["source"]["notes"]
    assert seen == [False, True, True]


# Images and masks of another range


@pytest.mark.parametrize(
    ("images", "mask", "words"),
    [
        (torch.full((1, 3, 32, 32), 200.0), None, "not in 0..255"),
        (torch.zeros(1, 3, 32, 32), torch.zeros(1, 1, 32, 32), "zero everywhere"),
        (torch.zeros(1, 3, 32, 32), torch.full((1, 1, 32, 32), 255.0), r"outside \[0,1\]"),
        (torch.zeros(1, 3, 32, 32), torch.full((1, 1, 32, 32), torch.nan), r"outside \[0,1\]"),
    ],
)
def test_images_and_masks_of_another_range_are_refused(tiny_generator, images, mask, words):
    with pytest.raises(UsageError, match=words):
        package.invert(tiny_generator, images, "i2s", mask=mask)


# Targets that cannot be written, before anything is loaded


UNWRITABLE = {
    "invert": ("invert", "photos", "--outdir", "file/x"),
    "encode": ("encode", "photos", "--outdir", "file/x"),
    "tune images": ("tune", "photos", "--method", "weights", "--to", "file/x"),
    "tune a run": ("tune", "out", "--method", "weights", "--to", "file/x"),
    "edit": ("edit", "out", "--do", "smile=1", "--to", "file/x"),
    "mix": ("mix", "out", "--to", "file/x"),
    "interpolate": ("interpolate", "out", "--to", "file/x"),
    "evaluate": ("evaluate", "out", "--to", "file/x"),
    "compare": ("compare", "photos", "--recipes", "i2s", "--outdir", "file/x"),
    "sample": ("sample", "--outdir", "file/x"),
    "convert": ("convert", "absent.pkl", "file/x.safetensors"),
    "directions find": ("directions", "find", "--method", "sefa", "--out", "file/x.safetensors"),
    "fit-pnorm": ("fit-pnorm", "--out", "file/x.safetensors"),
    "fit-sigma": ("fit-sigma", "--out", "file/x.safetensors"),
    "train generator": ("train", "generator", "--outdir", "file/x"),
    "train encoder": ("train", "encoder", "--kind", "e4e", "--outdir", "file/x"),
    "train wrangan": ("train", "wrangan", "--start", "absent", "--outdir", "file/x"),
    "train judge": ("train", "judge", "--outdir", "file/x"),
}


@pytest.mark.parametrize("line", UNWRITABLE.values(), ids=UNWRITABLE)
def test_targets_that_cannot_be_written_are_noticed_before_anything_is_loaded(folder, latentopt, line):
    Path("file").write_text("a file")
    if "out" in line:
        assert latentopt("invert", "photos", *QUICK)[0] == 0
    network = ("--network", "absent.pkl") if line[0] not in ("convert", "train") else ()
    code, _, err = latentopt(*line, *network)
    assert code == 2 and "file" in err and "absent" not in err, err


# The command line from its first moment


def run_python(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    settings = os.environ | {"PYTHONPATH": str(ROOT)} | environment
    return subprocess.run([sys.executable, "-c", code], env=settings, capture_output=True, text=True, encoding="utf-8")


def test_ctrl_c_during_imports_leaves_no_traceback(tmp_path):
    (tmp_path / "slow.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGINT)\nraise ImportError")
    code = f"""
import sys, signal
sys.path.insert(0, {str(tmp_path)!r})
from latentopt.__main__ import interrupt
signal.signal(signal.SIGINT, interrupt)
import slow
"""
    done = run_python(code)
    assert (done.returncode, done.stderr) == (130, "interrupted\n")


def test_a_terminal_without_unicode_is_no_reason_to_fail(tmp_path):
    code = """
import sys
from latentopt.commands import batches, cli, main
from latentopt.errors import UsageError
def show(*arguments, **options):
    batches.print_table([{"name": "été", "status": "ok"}], "写真")
    print("été")
    raise UsageError("unknown recipe 写真")
cli.main = show
main()
"""
    done = run_python(code, PYTHONIOENCODING="ascii")
    assert done.returncode == 2 and "unknown recipe" in done.stderr and "Traceback" not in done.stderr


def test_messages_are_no_longer_than_a_screen(latentopt, folder):
    code, _, err = latentopt("invert", "photos", "--set", "a." * 20_000 + "a=1")
    assert code == 2 and len(err) < 5000
