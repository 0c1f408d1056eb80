"""The preflight: what it says of pictures, what it is calibrated by, and that it never stands in the way."""

from __future__ import annotations

import json
import math

import pytest
import torch
from conftest import make_encoder, make_tiny_generator, photo

import latentopt
from latentopt.api import PictureCheck
from latentopt.checkpoints.networks import load_generator
from latentopt.data.portraits import TEST_SEEDS, portraits
from latentopt.errors import StatisticsError
from latentopt.files.resources import PACKAGE
from latentopt.pictures.images import read_image
from latentopt.preflight import warm_start
from latentopt.preflight.preflight import MOVES, PREFLIGHT, SUFFIX, Move, Preflight, Scale, find_preflight
from latentopt.preflight.warm_start import EncoderGuess, LinearGuess, NearestSample, find_warm_start, sample_count
from latentopt.recipe.recipe import Recipe
from latentopt.statistics.moments import StatisticsWarning
from latentopt.statistics.pnorm_fit import fit_pnorm
from latentopt.statistics.sampling import sample_w
from latentopt.types import GeneratorInputs

NETWORK = ("--network", "net/tiny.safetensors")
QUICK = ("--recipe", "i2s", "--steps", "1", "--terms", "l2=1", "-q")


@pytest.fixture(scope="module")
def bundled() -> Preflight:
    return find_preflight(load_generator("portraits"))


@pytest.fixture(scope="module")
def fresh() -> torch.Tensor:
    return portraits(range(TEST_SEEDS.start + 500, TEST_SEEDS.start + 504), 64)[0]


def sample(generator, n: int = 1, seed: int = 3) -> torch.Tensor:
    w = sample_w(generator, seed, n)
    return generator.synthesis(GeneratorInputs(generator.broadcast(w))).clamp(-1, 1)


def test_the_shipped_calibration_is_that_of_the_shipped_generator(bundled):
    assert isinstance(bundled.start, LinearGuess)
    assert len(bundled.distance.samples) == len(bundled.radius.samples) == sample_count(bundled.start.generator) == 256


def test_fresh_portraits_are_usual(bundled, fresh):
    verdicts = bundled.check(fresh)
    assert [(verdict.looks, verdict.warning) for verdict in verdicts] == [("usual", "")] * len(fresh)


@pytest.mark.parametrize("move", [Move("", right=0.15), Move("", down=-0.15), Move("", turn=90), Move("", zoom=0.65)])
def test_misaligned_portraits_are_told_with_what_to_do(bundled, fresh, move):
    verdicts = bundled.check(move(fresh))
    words = {(0.15, 0): "to the left", (0, -0.15): "moved down", (0, 0): "turned anticlockwise by 90"}
    expected = "closer" if move.zoom < 1 else words[move.right, move.down]
    told = [verdict for verdict in verdicts if verdict.looks == "misaligned" and expected in verdict.warning]
    assert len(told) >= len(verdicts) // 2, [verdict.warning for verdict in verdicts]


@pytest.mark.parametrize("name", ["cat", "flower", "house", "temple"])
def test_other_pictures_are_out_of_domain(bundled, name):
    image = read_image(PACKAGE / "bundled" / "samples" / f"out-{name}.png", (64, 64)).image
    (verdict,) = bundled.check(image[None])
    assert verdict.looks == "out of domain" and verdict.distance_percentile == verdict.radius_percentile == 100
    assert "latentopt tune" in verdict.warning and f"{verdict.radius:.2g}" in verdict.warning


def test_a_verdict_does_not_depend_on_companions(bundled, fresh):
    together = bundled.check(fresh[:3])
    for image, verdict in zip(fresh, together, strict=False):
        (alone,) = bundled.check(image[None])
        assert alone.looks == verdict.looks
        assert alone.distance == pytest.approx(verdict.distance, rel=1e-3)


@pytest.mark.parametrize(
    ("move", "place"),
    [
        (Move("", right=0.25), (2, 6)),
        (Move("", right=-0.25), (2, 2)),
        (Move("", down=0.25), (4, 4)),
        (Move("", turn=90), (4, 5)),
        (Move("", turn=-90), (3, 2)),
        (Move("", turn=180), (5, 3)),
    ],
)
def test_moves_go_where_their_words_say(move, place):
    """A bright pixel at row 2, column 4 of 8x8."""
    image = torch.full((1, 3, 8, 8), -1.0)
    image[:, :, 2, 4] = 1
    flat = move(image)[0, 0].argmax().item()
    assert divmod(flat, 8) == place


def test_a_turn_of_a_wide_picture_keeps_shapes():
    """A disc stays a disc: the aspect of the picture is minded."""
    y, x = torch.meshgrid(torch.arange(32.0), torch.arange(64.0), indexing="ij")
    disc = ((y - 15.5) ** 2 + (x - 31.5) ** 2 < 64).float()[None, None].expand(1, 3, -1, -1) * 2 - 1
    assert (Move("", turn=30)(disc) - disc).abs().mean() < 0.02


def test_the_scale_is_that_of_the_samples():
    scale = Scale(torch.linspace(1, 2, 1001))
    assert scale.reach(scale.middle) == 0 and scale.reach(scale.far) == pytest.approx(1)
    assert scale.reach(scale.far**2 / scale.middle) == pytest.approx(2)
    assert scale.percentile(1.25) == pytest.approx(25, abs=0.2)
    assert math.isfinite(Scale(torch.zeros(4)).reach(1.0)), "samples that are all alike"


def test_the_warm_start_is_the_best_that_there_is(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    generator = make_tiny_generator(channels=(8, 6, 4))
    assert isinstance(find_warm_start(generator), NearestSample)
    encoder = make_encoder(generator, "e4e")
    monkeypatch.setattr("latentopt.initializers.encoder.load_encoder", lambda *_, **__: encoder)
    start = find_warm_start(generator)
    assert isinstance(start, EncoderGuess) and start(sample(generator, 2))[1] is None
    fit_pnorm(generator, 200, batch=100).save(tmp_path / "pnorm_stats" / "tiny.safetensors")
    distance, radius = find_warm_start(generator)(sample(generator, 2))
    assert distance.shape == radius.shape == (2,)


def test_the_nearest_sample_of_a_sample_in_the_pool_is_itself():
    generator = make_tiny_generator(channels=(8, 6, 4))
    start = NearestSample(generator)
    distance, radius = start(sample(generator, 4, warm_start.POOL_SEED))
    assert distance.max() < 1e-3 and radius is None
    assert Preflight.of(generator).check(torch.randn(1, 3, 16, 16).clamp(-1, 1))[0].radius is None


def test_saved_and_read_again(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    generator = make_tiny_generator(channels=(8, 6, 4))
    made, path = Preflight.of(generator), PREFLIGHT.new_path(generator)
    made.save(path)
    found = find_preflight(generator)
    assert torch.equal(found.distance.samples, made.distance.samples) and found.radius is None
    assert find_preflight(make_tiny_generator(seed=1, channels=(8, 6, 4))) is None, "another generator's"
    path.write_bytes(b"damaged")
    with pytest.warns(StatisticsWarning, match=r"tiny\.preflight"):
        assert find_preflight(generator) is None
    with pytest.raises(StatisticsError, match="remove it"):
        Preflight.load(path, made.start, generator)


# ---- in latentopt invert


def test_a_suspect_picture_is_inverted_with_a_warning_on_record(folder, latentopt, monkeypatch):
    monkeypatch.setattr("latentopt.preflight.preflight.FAR", -99.0)
    monkeypatch.setattr("latentopt.preflight.preflight.GAIN", 99.0)
    code, _, err = latentopt("invert", "photos/a.png", *NETWORK, *QUICK)
    assert code == 0 and "photos/a.png: looks out of the generator's domain" in err
    notes = json.loads((folder / "out" / "a" / "run.json").read_text())["source"]["notes"]
    assert any("out of the generator's domain" in note for note in notes)
    code, _, err = latentopt("invert", "photos/a.png", *NETWORK, *QUICK)
    assert code == 0 and "looks" not in err, "done already: not looked at again"
    code, _, err = latentopt("invert", "photos/a.png", *NETWORK, *QUICK, "--overwrite", "--no-preflight")
    assert code == 0 and "looks" not in err


def test_the_calibration_is_made_once_and_kept(folder, latentopt, monkeypatch):
    path = folder / "pnorm_stats" / f"tiny{SUFFIX}"
    path.unlink(missing_ok=True)
    assert latentopt("invert", "photos/a.png", *NETWORK, *QUICK)[0] == 0 and path.is_file()
    monkeypatch.setattr(Preflight, "of", lambda *_: pytest.fail("made again"))
    assert latentopt("invert", "photos/b.png", *NETWORK, *QUICK)[0] == 0


def test_a_preflight_that_cannot_be_made_or_kept_stops_nothing(folder, latentopt, monkeypatch):
    (folder / "pnorm_stats" / f"tiny{SUFFIX}").unlink(missing_ok=True)

    def unwritable(*_):
        raise OSError("read-only")

    monkeypatch.setattr(Preflight, "save", unwritable)
    code, _, err = latentopt("invert", "photos/a.png", *NETWORK, *QUICK)
    assert code == 0 and "not kept" in err

    def impossible(*_):
        raise StatisticsError("no samples")

    monkeypatch.setattr(Preflight, "of", impossible)
    code, _, err = latentopt("invert", "photos/b.png", *NETWORK, *QUICK)
    assert code == 0 and "no preflight: no samples" in err


def test_masked_pictures_are_not_judged(folder, latentopt, monkeypatch):
    monkeypatch.setattr(Preflight, "check", lambda *_: pytest.fail("judged"))
    photo(folder / "wide.png", 9)
    from PIL import Image

    Image.open(folder / "wide.png").convert("RGBA").crop((0, 0, 20, 10)).save(folder / "wide.png")
    code, _, err = latentopt("invert", "wide.png", *NETWORK, *QUICK, "--fit", "pad", "--alpha", "mask")
    assert code == 0, err


def test_every_move_says_what_it_does():
    assert len({move.words for move in MOVES}) == len(MOVES)


def test_the_check_is_a_look_of_invert(folder, monkeypatch):
    """`latentopt.invert(..., look=PictureCheck(g))`: a warning on record, and nothing asked of what is done."""
    monkeypatch.setattr("latentopt.preflight.preflight.FAR", -99.0)
    monkeypatch.setattr("latentopt.preflight.preflight.GAIN", 99.0)
    generator = load_generator("net/tiny.safetensors")
    recipe = Recipe.load("i2s").override(["stages.0.steps=1", 'stages.0.terms=["l2"]'])
    (result,) = latentopt.invert(generator, "photos/a.png", recipe, look=PictureCheck(generator), out="out")
    assert any("out of the generator's domain" in note for note in result.manifest["source"]["notes"])
    monkeypatch.setattr(Preflight, "check", lambda *_: pytest.fail("done already"))
    assert latentopt.invert(generator, "photos/a.png", recipe, look=PictureCheck(generator), out="out")
