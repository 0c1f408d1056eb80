"""Grey and transparent generators (1 and 4 channels): every command, and what pictures and networks get to see."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import make_encoder, make_tiny_generator, photo
from PIL import Image

from latentopt import api
from latentopt.checkpoints.networks import load_generator, save_discriminator, save_generator
from latentopt.commands import COMMANDS
from latentopt.editing import ganalyze
from latentopt.editing import work as work_of_edits
from latentopt.editing.direction import Direction
from latentopt.editing.files import save_directions
from latentopt.encoders.files import save_encoder
from latentopt.evaluation import comparison
from latentopt.evaluation.subject import Amounts
from latentopt.generators.discriminator import Discriminator, DiscriminatorConfig
from latentopt.perceptual.features import PerceptualFeatures
from latentopt.pictures.channels import in_colour, on_white
from latentopt.pictures.contact_sheet import difference
from latentopt.pictures.images import read_image, read_png, save_png
from latentopt.preflight.preflight import SUFFIX, Preflight
from latentopt.report import comparison_files
from latentopt.statistics.pnorm_fit import fit_pnorm
from latentopt.training import encoder_data

CHANNELS = {1: "L", 4: "RGBA"}  # and the mode of their PNG files
NET = ("--network", "net/tiny.safetensors")
QUICK = (
    "--samples",
    "8",
    "--paths",
    "1",
    "--steps",
    "1",
    "--partners",
    "1",
    "--lec",
    "1",
    "-q",
    "--metrics",
    "bundled",
)
TUNE = ("--steps", "1", "-q", "--corruption", "4", "--batch", "4")
NEW = ("--steps", "1", "-q", "--outdir", "new")
FIND = ("directions", "find", *NET, "-q", "--method")
L2_ONLY = {
    "name": "l2",
    "stages": [{"init": "mean", "steps": 60, "lr": 0.05, "optimize": ["w+"], "terms": ["l2"]}],
}
QUICK_TUNING = """
name = "quick"
[[stages]]
init = "mean"
steps = 1
lr = 0.05
optimize = ["w"]
terms = ["perceptual", "l2"]
[[stages]]
steps = 1
lr = 0.01
optimize = [{ name = "lowrank", rank = 1 }]
terms = ["perceptual", "l2"]
"""
COMMAND_LINES = [  # each on a folder where out/ holds an inversion of three pictures
    ("info", "net/tiny.safetensors"),
    ("sample", *NET, "--seeds", "0-1", "--outdir", "drawn"),
    ("fit-pnorm", *NET, "--samples", "600", "--batch", "300", "--out", "p.safetensors"),
    ("fit-metric", *NET, "--probes", "16", "-q"),
    ("invert", "photos/a.png", *NET, "--recipe", "fast", "--set", "stages.0.optimize.0.metric=false", *NEW),
    ("fit-sigma", *NET, "--samples", "2", "-q"),
    ("invert", "photos", *NET, "--space", "pnorm+", "--clip", "2", "--save-video", *NEW),
    ("invert", "photos", *NET, "--recipe", "sg2", "--alpha", "mask", "--fit", "pad", *NEW),
    ("invert", "photos", *NET, "--recipe", "pulse", *NEW),
    ("restore", "photos", *NET, "--operator", "down:2", "--simulate", "--recipe", "i2s", *NEW),
    ("encode", "photos", *NET, "--encoder", "e4e.safetensors", "-q", "--heat-maps", "--outdir", "new"),
    ("tune", "out", "--method", "wrangan", *TUNE),
    ("tune", "photos/a.png", *NET, "--method", "quick.toml", *TUNE),
    ("directions", "list", *NET),
    (*FIND, "ganspace", "--samples", "100", "--components", "1"),
    (*FIND, "sefa", "--components", "1"),
    (*FIND, "interfacegan", "--samples", "200", "--attributes", "smile"),
    (*FIND, "ganalyze", "--steps", "1", "--attributes", "smile"),
    ("align", "photos/a.png", "--align", "box:2,2,30", "--size", "16"),
    ("invert", "photos/a.png", *NET, "--recipe", "i2s", "--align", "box:2,2,30", *NEW),
    ("drag", "out/a", "--point", "4,5:6,5", "--steps", "2"),
    ("edit", "out", "--do", "yaw=1", "--sweep", "yaw=-1..1", "--animate"),
    ("mix", "out"),
    ("interpolate", "out", "--steps", "3", "--animate"),
    ("evaluate", "out", *QUICK),
    ("compare", "photos", *NET, "--recipes", "i2s", "--steps", "1", "-q", "--outdir", "compared"),
    ("convert", "net/tiny.safetensors", "again.safetensors"),
    ("push", "out", "someone/results", "--dry-run"),
    ("push", "net/tiny.safetensors", "someone/tiny", "--dry-run"),
    ("train", "encoder", *NET, "--kind", "e4e", "--data", "samples", "--steps", "1", "--batch", "2", "-q"),
]


def picture(path: Path, mode: str) -> None:
    """One that is half transparent to the right, where the mode has that."""
    photo(path, seed=3)
    with Image.open(path) as opened:
        image = opened.convert("RGB").resize((40, 40))
    image.putalpha(Image.fromarray(np.repeat(np.arange(40, dtype=np.uint8)[None] * 6, 40, 0)))
    image.convert(mode).save(path)


@pytest.fixture
def little(monkeypatch):
    """Little work where a command has no option for it."""
    monkeypatch.setattr(ganalyze, "POOL", 60)
    monkeypatch.setattr(ganalyze, "HELD", 20)
    monkeypatch.setattr(work_of_edits, "FRAMES", 2)
    monkeypatch.setattr(encoder_data, "HELD_OUT", 2)
    for module in (comparison, comparison_files):
        monkeypatch.setattr(module, "AMOUNTS", Amounts(samples=8, paths=1, steps=1, partners=1, lec=1, corruption=4))


@pytest.fixture(scope="module", params=CHANNELS)
def work(request, tmp_path_factory, module_latentopt):
    """(channels, a folder with a generator, its statistics and a finished inversion)."""
    channels, folder = request.param, tmp_path_factory.mktemp(f"channels{request.param}")
    generator = make_tiny_generator(channels=(8, 6, 4), img_channels=channels)
    generator.card = {"data": "portraits"}
    save_generator(generator, folder / "net" / "tiny.safetensors")
    generator = load_generator(folder / "net" / "tiny.safetensors")
    fit_pnorm(generator, 500, batch=500).save(folder / "pnorm_stats" / "tiny.safetensors")
    Preflight.of(generator).save(folder / "pnorm_stats" / f"tiny{SUFFIX}")
    save_encoder(make_encoder(generator, "e4e"), folder / "e4e.safetensors")
    vector = torch.randn(16, generator=torch.Generator().manual_seed(0))
    save_directions(folder / "net" / "directions.safetensors", [Direction("yaw", "w", vector, generator.fingerprint)])
    (folder / "quick.toml").write_text(QUICK_TUNING)
    photo(folder / "photos" / "a.png", 1)
    picture(folder / "photos" / "alpha.png", "RGBA")
    picture(folder / "photos" / "grey.png", "L")
    code, _, err = module_latentopt(folder, "invert", "photos", *NET, "--recipe", "i2s", "--steps", "2", "-q")
    assert code == 0, err
    return channels, folder


@pytest.fixture(scope="module")
def module_latentopt():
    """Run a command line in a folder: (exit code, stdout, stderr)."""
    import contextlib
    import io
    import sys

    from latentopt.commands import main

    def call(folder, *arguments):
        out, err = io.StringIO(), io.StringIO()
        argv, sys.argv = sys.argv, ["latentopt", *arguments]
        try:
            with contextlib.chdir(folder), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
                main()
        except SystemExit as ended:
            return ended.code or 0, out.getvalue(), err.getvalue()
        finally:
            sys.argv = argv

    return call


@pytest.mark.parametrize("arguments", COMMAND_LINES, ids=" ".join)
def test_every_command_takes_every_number_of_channels(arguments, work, module_latentopt, tmp_path, little):
    channels, prepared = work
    shutil.copytree(prepared, tmp_path, dirs_exist_ok=True)
    before = set(tmp_path.rglob("*.png"))
    code, out, err = module_latentopt(tmp_path, *arguments)
    assert code == 0, out + err
    drawn = [path for path in set(tmp_path.rglob("*.png")) - before if path.name in ("proj.png", "seed0000.png")]
    for path in drawn:
        with Image.open(path) as opened:
            assert opened.mode == CHANNELS[channels], path
    assert drawn or arguments[0] not in ("invert", "encode", "tune", "sample", "compare")


def test_every_command_is_tried():
    others = {"studio", "merge", "paste"}  # a server; what looks into no picture; what needs aligned results
    assert {line[0] for line in COMMAND_LINES} >= set(COMMANDS) - others


def test_results_keep_their_channels(work):
    channels, folder = work
    for name in ("a", "alpha", "grey"):
        for kind in ("target", "proj"):
            assert read_png(folder / "out" / name / f"{kind}.png").shape == (channels, 16, 16)
    record = json.loads((folder / "out" / "alpha" / "run.json").read_text())
    notes = " ".join(record["source"]["notes"])
    assert ("colours turned to grey" in notes, "composited" in notes) == (channels == 1, channels == 1)
    with Image.open(folder / "out" / "grid.png") as opened:
        assert opened.mode == "RGB"


def test_info_says_the_channels(work, module_latentopt):
    channels, folder = work
    out = module_latentopt(folder, "info", "net/tiny.safetensors", "--json")[1]
    assert json.loads(out)["img_channels"] == channels


@pytest.mark.parametrize("channels", CHANNELS)
def test_all_channels_are_inverted(channels):
    """A picture of the generator's own comes nearer in every channel, opacity among them."""
    generator = make_tiny_generator(channels=(8, 6, 4), img_channels=channels)
    generator.card = {"data": "portraits"}
    z = torch.randn(1, 16, generator=torch.Generator().manual_seed(3))
    ws = generator.broadcast(generator.mapping(z))
    target = generator.synthesis(api.GeneratorInputs(ws)).clamp(-1, 1)
    start = generator.synthesis(api.GeneratorInputs(generator.broadcast(generator.w_avg[None]))).clamp(-1, 1)
    recipe = api.Recipe.from_table(L2_ONLY)
    (result,) = api.invert(generator, target, recipe)
    before, after = ((x - target[0]).square().mean(dim=(1, 2)) for x in (start[0], result.image.clamp(-1, 1)))
    assert (after < 0.6 * before).all()


# ---- what pictures become


def test_a_grey_target_keeps_its_levels(tmp_path):
    levels = np.arange(256, dtype=np.uint8).reshape(16, 16)
    Image.fromarray(levels).save(tmp_path / "grey.png")
    Image.fromarray(levels.astype(np.uint16) * 257).save(tmp_path / "deep.png")
    expected = torch.from_numpy(levels.astype(np.float32)) / 127.5 - 1
    for name in ("grey.png", "deep.png"):
        target = read_image(tmp_path / name, (16, 16), channels=1)
        assert torch.allclose(target.image, expected[None], atol=1e-6)
        assert "colours" not in " ".join(target.notes)


def test_colours_become_grey_as_pillow_does_it(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    target = read_image(tmp_path / "a.png", (16, 16), channels=1)
    expected = torch.from_numpy(np.asarray(Image.fromarray(pixels).convert("L"), np.float32)) / 127.5 - 1
    assert (target.image[0] - expected).abs().max() < 1.01 / 127.5
    assert "colours turned to grey" in target.notes


def test_transparency_is_the_last_channel(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (16, 16, 4), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    target = read_image(tmp_path / "a.png", (16, 16), channels=4)
    assert torch.allclose(target.image, torch.from_numpy(pixels).float().movedim(-1, 0) / 127.5 - 1, atol=1e-6)
    assert target.notes == () and target.mask is None
    save_png(tmp_path / "b.png", target.image)
    assert np.array_equal(np.asarray(Image.open(tmp_path / "b.png")), pixels)
    opaque = read_image(_saved(tmp_path / "c.png", pixels[..., :3]), (16, 16), channels=4)
    assert (opaque.image[3] == 1).all()


def _saved(path, pixels):
    Image.fromarray(pixels).save(path)
    return path


@pytest.mark.parametrize("fit", ["crop", "pad", "stretch"])
def test_what_is_transparent_does_not_colour_its_neighbours(fit, tmp_path):
    """A red square on transparent green, made smaller: what can be seen of it stays red."""
    pixels = np.zeros((64, 96, 4), np.uint8)
    pixels[..., 1] = 255
    pixels[20:44, 30:66] = (255, 0, 0, 255)
    target = read_image(_saved(tmp_path / "a.png", pixels), (16, 16), channels=4, fit=fit)
    red, green, _, opacity = (target.image + 1) / 2
    seen = opacity > 0.2
    assert seen.any() and (red[seen] > 0.98).all() and (green[seen] < 0.02).all()
    assert fit != "pad" or (opacity[0] == 0).all()


# ---- what networks and people see


def test_networks_see_colours():
    grey, rgba = torch.rand(2, 1, 4, 4), torch.rand(2, 4, 4, 4)
    assert torch.equal(in_colour(grey), grey.repeat(1, 3, 1, 1))
    assert torch.equal(in_colour(rgba), rgba[:, :3])
    for channels in CHANNELS:
        generator = make_tiny_generator(img_channels=channels)
        generator.card = {"data": "portraits"}
        features = PerceptualFeatures(generator)
        a, b = torch.rand(2, 2, channels, 32, 32) * 2 - 1
        assert torch.allclose(features.distance(a, b), features.distance(in_colour(a), in_colour(b)))
        image = a.clone().requires_grad_(True)
        features.distance(image, b).sum().backward()
        assert image.grad[:, :3].abs().amax(dim=(2, 3)).min() > 0


def test_people_see_transparency_on_white():
    image = torch.tensor([-1.0, 0.0, 1.0, -1.0])[:, None, None].expand(4, 2, 2)
    assert (on_white(image) == 1).all()
    opaque = torch.cat([image[:3], torch.ones(1, 2, 2)])
    assert torch.equal(on_white(opaque), image[:3])
    assert (difference(image, opaque, 1.0) == 1).all()  # they differ in opacity alone
    assert (difference(image, image, 4.0) == -1).all()


@pytest.mark.parametrize("channels", [1, 4])
def test_a_training_on_photos_asks_for_colours(channels, tmp_path, latentopt):
    save_generator(make_tiny_generator(img_channels=channels), tmp_path / "generator.safetensors")
    critic = Discriminator(DiscriminatorConfig((12, 10, 8, 6), img_channels=channels))
    save_discriminator(critic, tmp_path / "discriminator.safetensors")
    code, _, err = latentopt("train", "wrangan", "--start", tmp_path, "--outdir", tmp_path / "out")
    assert code == 2 and f"draws {channels} channels; the training data are in colour" in err
