"""The procedural portraits: pure functions of the seed, attributes that mean what they say, pixels that never drift."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from conftest import REFERENCE
from PIL import Image
from scipy.stats import norm, rankdata, spearmanr
from torch import Tensor
from torch.nn.functional import avg_pool2d

from latentopt.data import portraits as module
from latentopt.data.portraits import (
    ATTRIBUTES,
    CORRELATIONS,
    GLASSES_SHARE,
    MIRRORED,
    NAMES,
    SAMPLE_SEEDS,
    TEST_SEEDS,
    TRAIN_SEEDS,
    VERSION,
    cached,
    flip,
    portraits,
    render,
    sample_attributes,
)
from latentopt.errors import ImageError, UsageError

LEVEL = 2 / 255  # one 8-bit level of an image in [-1,1]
GEOMETRY = ("yaw", "position_x", "position_y", "scale")
REFERENCE_SEEDS = [
    *(seeds[i] for seeds in (TRAIN_SEEDS, TEST_SEEDS, SAMPLE_SEEDS) for i in (0, 1, -1)),
    123_456,
    10_654_321,
    20_000_007,
]


def changed(attributes: Tensor, **values: float) -> Tensor:
    """A copy of attributes [B,A] with some columns set to one value."""
    attributes = attributes.clone()
    for name, value in values.items():
        attributes[:, NAMES.index(name)] = value
    return attributes


def ends(attributes: Tensor, name: str, resolution: int = 64) -> tuple[Tensor, Tensor]:
    """The portraits with one attribute at its low end and at its high end, all else alike."""
    attribute = ATTRIBUTES[NAMES.index(name)]
    low, high = (changed(attributes, **{name: end}) for end in (attribute.low, attribute.high))
    return render(low, resolution), render(high, resolution)


@pytest.fixture(scope="module")
def drawn() -> tuple[Tensor, Tensor]:
    """Images [12,3,64,64] and attributes [12,A]; shared, so do not change them."""
    return portraits(range(12), 64)


@pytest.fixture(scope="module")
def frontal() -> Tensor:
    """Attributes [12,A] of heads that look ahead, in the middle of the picture."""
    return changed(sample_attributes(range(12)), **dict.fromkeys(GEOMETRY, 0.0))


@pytest.fixture(scope="module")
def sample() -> np.ndarray:
    """Attributes [60000,A] in double precision."""
    return sample_attributes(range(60_000)).double().numpy()


# One seed, one picture


def test_the_same_seed_gives_the_same_portrait(drawn):
    images, attributes = portraits(torch.arange(12), 64)
    assert torch.equal(images, drawn[0])
    assert torch.equal(attributes, drawn[1])
    assert images.shape == (12, 3, 64, 64)
    assert images.dtype == attributes.dtype == torch.float32
    assert -1 <= images.min() < -0.9
    assert 0.9 < images.max() <= 1


def test_every_seed_gives_another_portrait(drawn):
    images, attributes = drawn
    assert len(attributes.unique(dim=0)) == 12
    i, j = torch.triu_indices(12, 12, 1)
    assert (images[i] - images[j]).abs().mean((1, 2, 3)).min() > 0.1


@pytest.mark.parametrize("rows", [[5], [11, 5], [3, 5, 5, 0, 7], [8, 10, 2, 1, 5, 9, 4]], ids=str)
def test_a_portrait_does_not_depend_on_its_companions(drawn, rows):
    images, attributes = portraits(rows, 64)
    assert torch.equal(attributes, drawn[1][rows])
    torch.testing.assert_close(images, drawn[0][rows], rtol=0, atol=1e-5)


def test_the_seed_ranges_share_no_seed():
    ranges = sorted((TRAIN_SEEDS, TEST_SEEDS, SAMPLE_SEEDS), key=lambda seeds: seeds.start)
    assert all(a.stop <= b.start for a, b in pairwise(ranges))


def test_drawing_leaves_its_attributes_and_the_random_state_alone(drawn):
    attributes, state = drawn[1].clone(), torch.get_rng_state()
    render(attributes, 16)
    assert torch.equal(attributes, drawn[1])
    assert torch.equal(torch.get_rng_state(), state)


def test_the_frozen_pixels_have_not_drifted():
    """Means of 2x2 pixels of 64-pixel portraits, kept as a strip of 8-bit pictures; another VERSION needs its own."""
    path = REFERENCE / "portraits" / f"v{VERSION}.png"
    strip = torch.from_numpy(np.asarray(Image.open(path)).astype(np.int16))  # [32,12*32,3]
    images = avg_pool2d(portraits(REFERENCE_SEEDS, 64)[0], 2)
    found = torch.cat(images.unbind(), -1).add(1).mul(127.5).round().to(torch.int16).permute(1, 2, 0)
    assert found.shape == strip.shape
    off = (found - strip).abs()
    assert off.max() <= 1, f"{(off > 1).sum()} values differ: raise VERSION, and keep the pictures of the new one"
    assert (off > 0).float().mean() < 0.01


# Laws of the picture


def test_mirrored_attributes_give_the_mirrored_picture(drawn):
    images, attributes = flip(*drawn)
    torch.testing.assert_close(render(attributes, 64), images, rtol=0, atol=1e-5)
    back = flip(images, attributes)
    assert torch.equal(back[0], drawn[0])
    assert torch.equal(back[1], drawn[1])


@pytest.mark.parametrize("name", MIRRORED)
def test_each_mirrored_attribute_is_needed_for_the_mirrored_picture(drawn, name):
    images, attributes = flip(*drawn)
    attributes[:, NAMES.index(name)] *= -1
    assert (render(attributes, 64) - images).abs().amax((1, 2, 3)).min() > 4 * LEVEL


def test_a_larger_picture_shows_the_same(drawn):
    images, attributes = drawn
    off = (avg_pool2d(render(attributes, 128), 2) - images).abs().mean((1, 2, 3))
    assert off.max() < LEVEL
    off = (avg_pool2d(images, 2) - render(attributes, 32)).abs().mean((1, 2, 3))
    assert off.max() < 1.5 * LEVEL


def test_more_samples_a_pixel_show_the_same(drawn):
    images, attributes = drawn
    off = (render(attributes, 64, supersample=4) - images).abs().mean((1, 2, 3))
    assert 0 < off.max() < LEVEL


@pytest.mark.parametrize("resolution", [(64, 96), (100, 64)], ids=str)
def test_the_middle_of_a_longer_picture_is_the_square_one(drawn, resolution):
    images = render(drawn[1], resolution)
    assert images.shape == (12, 3, *resolution)
    top, left = (resolution[0] - 64) // 2, (resolution[1] - 64) // 2
    middle = images[:, :, top : top + 64, left : left + 64]
    torch.testing.assert_close(middle, drawn[0], rtol=0, atol=1e-5)


def test_half_precision_is_the_rounded_picture(drawn):
    assert torch.equal(render(drawn[1], 64, dtype=torch.float16), drawn[0].half())


# What the attributes mean


@pytest.mark.parametrize("name", NAMES)
def test_every_attribute_alone_changes_the_picture(drawn, name):
    low, high = ends(drawn[1], name)
    assert (high - low).abs().amax((1, 2, 3)).min() > 0.1  # in each of the 12 portraits


# Bounds of what an attribute may touch on a frontal head: top, bottom and half width; the picture spans [-1,1].
REGIONS = {
    "glasses": (-0.41, 0.0, 0.57),
    "eye_opening": (-0.57, -0.03, 0.54),
    "iris_tone": (-0.32, -0.12, 0.32),
    "brow_tilt": (-0.60, -0.25, 0.41),
    "fringe": (-0.70, -0.31, 0.51),
    "smile": (-0.13, 0.48, 0.44),
    "beard": (-0.32, 0.73, 0.57),
    "shirt_red": (0.70, 1.0, 0.86),
    "shirt_green": (0.70, 1.0, 0.86),
    "shirt_blue": (0.70, 1.0, 0.86),
}


@pytest.mark.parametrize("name", REGIONS)
def test_an_attribute_changes_its_own_place_only(frontal, name):
    top, bottom, half_width = REGIONS[name]
    low, high = ends(frontal, name)
    place = (torch.arange(64) - 31.5) / 32
    inside = ((place >= top) & (place <= bottom))[:, None] & (place.abs() <= half_width)
    off = (high - low).abs().amax(1)  # [B,H,W]
    assert off[:, ~inside].max() < 0.5 * LEVEL
    assert off[:, inside].amax(1).min() > 0.1


@pytest.mark.parametrize("thing", ["background", "shirt"])
@pytest.mark.parametrize("channel", range(3))
def test_a_colour_changes_its_own_channel_only(frontal, thing, channel):
    low, high = ends(frontal, f"{thing}_{('red', 'green', 'blue')[channel]}")
    off = (high - low).abs().amax((2, 3))  # [B,3]
    assert off[:, channel].min() > 0.5
    assert off[:, [c for c in range(3) if c != channel]].max() == 0


def test_the_background_is_outside_the_head(frontal):
    low, high = ends(frontal, "background_green")
    off = (high - low)[:, 1]
    assert off[:, 12:38, 26:38].abs().max() == 0, "the face"
    assert off[:, :48, [0, 1, 62, 63]].min() > 0.5, "both edges above the shoulders"


# Boxes (rows, columns of 64) whose brightness goes up (1) or down (-1) from the low end of an attribute to its high.
BRIGHTNESS = {
    "skin_tone": (slice(28, 36), slice(24, 40), -1),
    "hair_tone": (slice(5, 10), slice(28, 36), 1),
    "light_direction": (slice(0, 48), slice(60, 64), 1),
}


@pytest.mark.parametrize("name", BRIGHTNESS)
def test_an_attribute_brightens_or_darkens_its_place(frontal, name):
    rows, columns, sign = BRIGHTNESS[name]
    low, high = (images[:, :, rows, columns].mean((1, 2, 3)) for images in ends(frontal, name))
    assert (sign * (high - low)).min() > 0


def middle_of_change(attributes: Tensor, name: str) -> Tensor:
    """Mean place (x,y) [B,2] of what the attribute changes, in pixels of 64."""
    low, high = ends(attributes, name)
    weight = (high - low).abs().mean(1)  # [B,H,W]
    weight = weight / weight.sum((1, 2), keepdim=True)
    place = torch.arange(64.0)
    return torch.stack([(weight.sum(1) * place).sum(1), (weight.sum(2) * place).sum(1)], 1)


@pytest.mark.parametrize(
    ("name", "axis", "least"),
    [("yaw", 0, 6.0), ("position_x", 0, 4.5), ("position_y", 1, 3.0)],
)
def test_the_features_move_with_the_head(frontal, name, axis, least):
    before, after = (middle_of_change(changed(frontal, **{name: end}), "iris_tone") for end in (-1.0, 1.0))
    assert (after - before)[:, axis].min() > least
    assert (after - before)[:, 1 - axis].abs().max() < 0.5


def test_a_scaled_head_is_larger(frontal):
    small, large = (changed(frontal, scale=end) for end in (-1.0, 1.0))
    covered = [ends(attributes, "skin_tone") for attributes in (small, large)]
    areas = [((high - low).abs().amax(1) > 0.1).float().mean((1, 2)) for low, high in covered]
    assert (areas[1] / areas[0]).min() > 1.1


# Distribution of the attributes


def test_attributes_stay_in_their_ranges_and_fill_them(sample):
    for column, attribute in zip(sample.T, ATTRIBUTES, strict=True):
        assert column.min() >= attribute.low
        assert column.max() <= attribute.high
        span = attribute.high - attribute.low
        assert column.min() < attribute.low + 0.01 * span, attribute.name
        assert column.max() > attribute.high - 0.01 * span, attribute.name
        if attribute.kind == "binary":
            assert set(column) == {attribute.low, attribute.high}


def test_shapes_of_the_distributions(sample):
    """Share of a sample below a quarter of each range: 1/4 where uniform."""
    middling = norm.cdf(norm.ppf(0.25) / 0.75)
    expected = dict.fromkeys(NAMES, 0.25) | dict.fromkeys(GEOMETRY, middling)
    expected |= {"beard": 0.5, "hair_red": 0.5, "glasses": 1 - GLASSES_SHARE}
    for column, attribute in zip(sample.T, ATTRIBUTES, strict=True):
        share = (column < attribute.low + 0.25 * (attribute.high - attribute.low)).mean()
        assert share == pytest.approx(expected[attribute.name], abs=0.01), attribute.name


def test_the_stated_correlations_hold_and_all_else_is_independent(sample):
    scores = norm.ppf((rankdata(sample, axis=0) - 0.5) / len(sample))  # the Gaussian variables behind
    worn = NAMES.index("glasses")
    scores[:, worn] = sample[:, worn]
    found = np.corrcoef(scores.T)
    expected = np.eye(len(NAMES))
    # Correlation of a Gaussian with another one cut to 0 and 1 at the quantile of the share.
    cut = norm.pdf(norm.ppf(GLASSES_SHARE)) / np.sqrt(GLASSES_SHARE * (1 - GLASSES_SHARE))
    for (first, second), value in CORRELATIONS.items():
        i, j = NAMES.index(first), NAMES.index(second)
        expected[i, j] = expected[j, i] = value * (cut if worn in (i, j) else 1)
    worst = np.unravel_index(np.abs(found - expected).argmax(), found.shape)
    assert np.abs(found - expected).max() < 0.02, [NAMES[i] for i in worst]


@pytest.mark.parametrize("lag", [1, 2, 1000])
def test_neighbouring_seeds_are_independent(sample, lag):
    pairs = np.concatenate([sample[:-lag], sample[lag:]], axis=1)[:20_000]
    across = spearmanr(pairs).statistic[: len(NAMES), len(NAMES) :]
    assert np.abs(across).max() < 0.035  # 5 standard errors


# Refusals


@pytest.mark.parametrize(
    "seeds", [[-1], [0.5], [True], [[1, 2]], torch.tensor([1.0]), torch.zeros(2, 2, dtype=torch.int64)], ids=str
)
def test_seeds_that_are_none(seeds):
    with pytest.raises(UsageError, match="whole numbers of at least 0"):
        sample_attributes(seeds)


@pytest.mark.parametrize(
    ("shape", "resolution", "supersample", "words"),
    [
        ((2, len(NAMES) - 1), 16, 2, r"must be \[B,24\], got \(2, 23\)"),
        ((len(NAMES),), 16, 2, r"must be \[B,24\], got \(24,\)"),
        ((1, len(NAMES)), 0, 2, "at least 1"),
        ((1, len(NAMES)), (16, 0), 2, "resolution 16x0"),
        ((1, len(NAMES)), 16, 0, "supersample 0"),
    ],
)
def test_pictures_that_cannot_be_drawn(shape, resolution, supersample, words):
    with pytest.raises(UsageError, match=words):
        render(torch.zeros(shape), resolution, supersample)


def test_no_portraits():
    images, attributes = portraits([], 16)
    assert (images.shape, attributes.shape) == ((0, 3, 16, 16), (0, len(NAMES)))


# Portraits kept in a file


@pytest.fixture
def draws(monkeypatch) -> list[int]:
    """The first seed of every chunk that is drawn from now on."""
    starts = []

    def counted(seeds, resolution):
        starts.append(seeds[0])
        return portraits(seeds, resolution)

    monkeypatch.setattr(module, "portraits", counted)
    return starts


def eight_bit(images: Tensor) -> np.ndarray:
    return ((images + 1) * 127.5).round().to(torch.uint8).numpy()


def test_kept_portraits_are_drawn_once(tmp_path, draws):
    images, attributes = cached(tmp_path / "deep" / "folder", 10, 16, start_seed=1000, chunk=4)
    assert draws == [1000, 1004, 1008]
    again, same = cached(tmp_path / "deep" / "folder", 10, 16, start_seed=1000, chunk=3)
    assert draws == [1000, 1004, 1008], "the second time they are read"
    expected, known = portraits(range(1000, 1010), 16)
    for found, names in ((images, attributes), (again, same)):
        assert (found.dtype, found.shape) == (np.uint8, (10, 3, 16, 16))
        assert np.array_equal(found, eight_bit(expected))
        assert torch.equal(names, known)
        assert not found.flags.writeable
    assert len(list((tmp_path / "deep" / "folder").iterdir())) == 1, "no partial file is left"


def test_other_portraits_have_other_files(tmp_path, draws):
    for n, resolution, start_seed in ((4, 8, 0), (5, 8, 0), (4, 8, 1), (4, 16, 0)):
        images, attributes = cached(tmp_path, n, resolution, start_seed)
        expected, known = portraits(range(start_seed, start_seed + n), resolution)
        assert np.array_equal(images, eight_bit(expected))
        assert torch.equal(attributes, known)
    assert len(list(tmp_path.iterdir())) == len(draws) == 4


def interrupted(folder, monkeypatch) -> None:
    """Leave a drawing of 10 portraits from seed 1000 that stopped after its first 4."""

    def stopping(seeds, resolution):
        if seeds[0] > 1000:
            raise KeyboardInterrupt
        return portraits(seeds, resolution)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(module, "portraits", stopping)
        cached(folder, 10, 16, start_seed=1000, chunk=4)


@pytest.mark.parametrize(
    ("name", "content", "starts"),
    [
        (None, None, [1004, 1008]),
        ("*.done", b"", [1000, 1004, 1008]),
        ("*.done", b"\xff\x00", [1000, 1004, 1008]),
    ],
    ids=["goes on", "empty count", "damaged count"],
)
def test_an_interrupted_drawing(tmp_path, monkeypatch, draws, name, content, starts):
    interrupted(tmp_path, monkeypatch)
    if name:
        next(tmp_path.glob(name)).write_bytes(content)
    images, _ = cached(tmp_path, 10, 16, start_seed=1000, chunk=4)
    assert draws == starts
    assert np.array_equal(images, eight_bit(portraits(range(1000, 1010), 16)[0]))
    assert len(list(tmp_path.iterdir())) == 1


def cut(path) -> None:
    path.write_bytes(path.read_bytes()[:-1000])


def emptied(path) -> None:
    path.write_bytes(b"")


def foreign(path) -> None:
    path.write_text("not an array")


def reshaped(path) -> None:
    with path.open("wb") as file:
        np.save(file, np.zeros((3, 3, 16, 16), np.uint8))


def retyped(path) -> None:
    with path.open("wb") as file:
        np.save(file, np.zeros((10, 3, 16, 16), np.float32))


@pytest.mark.parametrize("damage", [cut, emptied, foreign, reshaped, retyped])
@pytest.mark.parametrize("finished", [True, False], ids=["finished", "partial"])
def test_a_damaged_file_is_named_and_not_read(tmp_path, monkeypatch, damage, finished):
    if finished:
        cached(tmp_path, 10, 16, start_seed=1000)
    else:
        interrupted(tmp_path, monkeypatch)
    path = next(tmp_path.glob("*.npy" if finished else "*.partial"))
    damage(path)
    with pytest.raises(ImageError, match=rf"{path.name} .*delete it"):
        cached(tmp_path, 10, 16, start_seed=1000)
    path.unlink()
    images, _ = cached(tmp_path, 10, 16, start_seed=1000)
    assert np.array_equal(images, eight_bit(portraits(range(1000, 1010), 16)[0]))


@pytest.mark.parametrize("numbers", [(0, 8, 0, 4), (4, 0, 0, 4), (4, 8, -1, 4), (4, 8, 0, 0)], ids=str)
def test_drawings_that_cannot_be_kept(tmp_path, numbers):
    with pytest.raises(UsageError, match="cannot draw"):
        cached(tmp_path / "folder", *numbers)
    assert not (tmp_path / "folder").exists()
