"""Deltas of tuned weights: their algebra commutes with drawing, and their files are checked before they are
believed.
"""

from __future__ import annotations

import json
import math

import pytest
import torch
from conftest import make_tiny_generator
from safetensors.torch import load_file
from torch.testing import assert_close

from latentopt.checkpoints.delta import Delta, load_deltas
from latentopt.checkpoints.delta_files import FORMAT, MAX_VALUES, read_delta
from latentopt.checkpoints.networks import load_generator, save_generator, save_rosinality
from latentopt.errors import CheckpointError, UsageError
from latentopt.files.storage import save_tensors
from latentopt.types import GeneratorInputs

CONV = "synthesis.b8.conv0.weight"
SAME_IMAGE = {"rtol": 1e-4, "atol": 1e-4}  # images are about [-1,1]; sums in another order


def random_delta(generator, seed=0, size=0.1, about=None) -> Delta:
    """A delta of every tunable weight."""
    rng = torch.Generator().manual_seed(seed)
    tensors = {name: torch.randn(shape, generator=rng) * size for name, shape in generator.tunable.items()}
    return Delta(tensors, generator.fingerprint, generator.name, about or {"method": "weights"})


def low_rank_delta(generator, rank=2, seed=0) -> Delta:
    """A delta of that rank of every 3x3 weight; the low-rank form is not known yet."""
    rng = torch.Generator().manual_seed(seed)
    tensors = {}
    for name, shape in generator.tunable.items():
        if shape[2:] == (3, 3):
            up, down = (torch.randn(n, rank, generator=rng) for n in (shape[0], math.prod(shape[1:])))
            tensors[name] = (up @ down.T).reshape(shape) * 0.05
    return Delta(tensors, generator.fingerprint, generator.name, {"method": "lowrank", "rank": rank})


def draw(generator, inputs, delta=None):
    return generator.synthesis(inputs if delta is None else inputs.replace(deltas=delta.deltas()))


# algebra -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [random_delta, low_rank_delta])
@pytest.mark.parametrize("strength", [1.0, 0.5, -0.7, 1.6])
def test_baking_and_scaling_commute_with_drawing(make, strength, tiny_generator, tiny_inputs):
    delta = make(tiny_generator)
    expected = draw(tiny_generator, tiny_inputs.replace(deltas={k: strength * x for k, x in delta.deltas().items()}))
    assert_close(draw(tiny_generator, tiny_inputs, delta.scaled(strength)), expected, **SAME_IMAGE)
    assert_close(draw(delta.scaled(strength).bake(tiny_generator), tiny_inputs), expected, **SAME_IMAGE)
    assert (expected - draw(tiny_generator, tiny_inputs)).abs().max() > 0.01


def test_composing_commutes_with_drawing(tiny_generator, tiny_inputs):
    a, b = random_delta(tiny_generator, 1), low_rank_delta(tiny_generator, seed=2)
    total = Delta.compose([a, b.scaled(0.5)])
    own = {name: x + 0.5 * b.tensors[name] if name in b.tensors else x for name, x in a.tensors.items()}
    expected = draw(tiny_generator, tiny_inputs.replace(deltas={name: x[None] for name, x in own.items()}))
    assert_close(draw(tiny_generator, tiny_inputs, total), expected, **SAME_IMAGE)
    assert_close(draw(total.bake(tiny_generator), tiny_inputs), expected, **SAME_IMAGE)
    assert_close(draw(Delta.compose([b.scaled(0.5), a]).bake(tiny_generator), tiny_inputs), expected, **SAME_IMAGE)


@pytest.mark.parametrize("zero", [lambda d: d.scaled(0.0), lambda d: Delta.compose([d, d.scaled(-1.0)])])
def test_nothing_added_is_the_base_generator_exactly(zero, tiny_generator, tiny_inputs):
    delta = zero(random_delta(tiny_generator))
    baked = delta.bake(tiny_generator)
    assert baked.fingerprint == tiny_generator.fingerprint
    expected = draw(tiny_generator, tiny_inputs)
    assert torch.equal(draw(baked, tiny_inputs), expected)
    assert torch.equal(draw(tiny_generator, tiny_inputs, delta), expected)


def test_each_image_of_a_batch_has_its_own(tiny_generator, tiny_inputs):
    """A batch drawn with per-image deltas: row i is the generator with delta i baked in."""
    parts = [random_delta(tiny_generator, seed) for seed in range(3)]
    deltas = {name: torch.stack([part.tensors[name] for part in parts]) for name in tiny_generator.tunable}
    shared = torch.randn(1, *tiny_generator.tunable[CONV], generator=torch.Generator().manual_seed(5)) * 0.1
    inputs = tiny_inputs.replace(deltas=deltas | {CONV: shared})
    images = tiny_generator.synthesis(inputs)
    for row in range(3):
        delta = Delta.of(inputs, tiny_generator, row, method="weights", steps=4)
        assert delta.about == {"method": "weights", "steps": 4}
        assert torch.equal(delta.tensors[CONV], shared[0])
        image = draw(delta.bake(tiny_generator), tiny_inputs.index([row]))
        assert_close(image, images[row : row + 1], **SAME_IMAGE)
    with pytest.raises(ValueError, match="change no weights"):
        Delta.of(tiny_inputs, tiny_generator)


def test_baking_leaves_the_base_alone_and_keeps_its_settings(tiny_generator_copy, tiny_inputs):
    base, delta = tiny_generator_copy.set_precision(torch.bfloat16), random_delta(tiny_generator_copy)
    base.card = {"data": "drawn"}
    before = draw(base, tiny_inputs)
    baked = delta.scaled(0.5).bake(base)
    assert base.card == {"data": "drawn"} and torch.equal(draw(base, tiny_inputs), before)
    entry = {"sha256": delta.parts[0][0], "strength": 0.5, "base": base.fingerprint}
    assert baked.card == {"data": "drawn", "baked": [entry]}
    assert baked.fingerprint != base.fingerprint and not baked.training
    assert baked.precision == torch.bfloat16 and not any(p.requires_grad for p in baked.parameters())
    assert all(x.dtype == torch.float32 for x in baked.state_dict().values())
    difference = draw(baked, tiny_inputs) - draw(base, tiny_inputs, delta.scaled(0.5))
    moved = draw(baked, tiny_inputs) - before
    assert difference.square().mean().sqrt() < 0.05 * moved.square().mean().sqrt()  # bf16 rounds at 2^-8


def test_a_generator_held_in_bf16(tiny_generator, tiny_inputs, tmp_path):
    """Weights rounded to bf16 are other weights; a delta of theirs is baked in float32."""
    save_generator(tiny_generator, tmp_path / "g.safetensors")
    rounded = load_generator(tmp_path / "g.safetensors", dtype=torch.bfloat16)
    with pytest.raises(CheckpointError, match="made for generator"):
        random_delta(tiny_generator).bake(rounded)
    delta = random_delta(rounded)
    baked, name = delta.bake(rounded), CONV
    assert torch.equal(baked.get_parameter(name), rounded.get_parameter(name).float() + delta.tensors[name])
    assert draw(baked, tiny_inputs).dtype == torch.float32


# taking out again --------------------------------------------------------------------------------------------------


def test_what_was_baked_comes_out_again(tiny_generator, tiny_inputs):
    a, b = random_delta(tiny_generator, 1), low_rank_delta(tiny_generator).compact(2)
    both = Delta.compose([a, b]).scaled(0.5)
    baked = both.bake(tiny_generator)
    without_a = a.scaled(0.5).unbake(baked)
    assert [entry["sha256"] for entry in without_a.card["baked"]] == [b.parts[0][0]]
    assert_close(draw(without_a, tiny_inputs), draw(tiny_generator, tiny_inputs, b.scaled(0.5)), **SAME_IMAGE)
    for plain in (both.unbake(baked), b.scaled(0.5).unbake(without_a)):
        assert "baked" not in plain.card
        for name in tiny_generator.tunable:
            base = tiny_generator.get_parameter(name)
            largest = base.abs().max() + both.tensors[name].abs().max()
            assert (plain.get_parameter(name) - base).abs().max() <= 1e-6 * largest


@pytest.mark.parametrize("other", ["strength", "delta", "base", "twice", "card"])
def test_what_was_not_baked_does_not_come_out(other, tiny_generator):
    delta = random_delta(tiny_generator)
    baked = delta.bake(tiny_generator)
    if other == "strength":
        delta = delta.scaled(0.5)
    elif other == "delta":
        delta = random_delta(tiny_generator, seed=9)
    elif other == "base":
        baked = tiny_generator
    elif other == "twice":
        delta = Delta.compose([delta, delta])
    else:
        baked.card = {"baked": [["no", "entry"], {"sha256": 3}]}
    with pytest.raises(CheckpointError, match=r"was not baked into it at strength .*card lists"):
        delta.unbake(baked)


# files -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [random_delta, lambda g: low_rank_delta(g).compact(2)], ids=["full", "low rank"])
def test_round_trip(make, tiny_generator, tmp_path):
    delta = make(tiny_generator)
    delta.save(tmp_path / "delta.safetensors")
    for path in (tmp_path / "delta.safetensors", tmp_path):  # a result folder stands for its delta
        loaded = Delta.load(path, tiny_generator)
        assert (loaded.fingerprint, loaded.name, loaded.about) == (delta.fingerprint, delta.name, delta.about)
        assert loaded.tensors.keys() == delta.tensors.keys() and loaded.factors.keys() == delta.factors.keys()
        assert all(torch.equal(loaded.tensors[name], x) for name, x in delta.tensors.items())
        assert loaded.parts == delta.parts


def test_low_rank_is_stored_small(tiny_generator, tmp_path):
    full = low_rank_delta(tiny_generator, rank=2)
    small = full.compact(2)
    assert small.factors.keys() == full.tensors.keys()
    for name, x in full.tensors.items():
        assert (small.tensors[name] - x).norm() <= 2e-6 * x.norm()
    full.save(tmp_path / "full.safetensors")
    small.scaled(0.5).save(tmp_path / "small.safetensors")
    values = {name: read_delta(tmp_path / f"{name}.safetensors").values for name in ("full", "small")}
    assert values["small"] < 0.5 * values["full"]
    assert not full.compact(1).factors  # nothing of rank 2 is squeezed into rank 1
    assert not random_delta(tiny_generator).compact(2).factors.keys() & full.tensors.keys()
    half, whole = read_delta(tmp_path / "small.safetensors"), read_delta(tmp_path / "full.safetensors")
    assert half.rank == 2 and whole.rank is None
    assert half.rms == pytest.approx(0.5 * whole.rms, rel=1e-5)
    values = torch.cat([x.flatten() for x in full.tensors.values()])
    assert whole.rms == pytest.approx(values.square().mean().sqrt().item(), rel=1e-5)


def test_ranks_add_up(tiny_generator, tmp_path):
    a, b = (low_rank_delta(tiny_generator, 1, seed).compact(1) for seed in (1, 2))
    total = Delta.compose([a, b.scaled(-0.5)])
    total.save(tmp_path / "sum.safetensors")
    loaded = Delta.load(tmp_path / "sum.safetensors", tiny_generator)
    assert total.factors.keys() == loaded.factors.keys() == a.tensors.keys()
    for name, x in loaded.tensors.items():
        assert_close(x, a.tensors[name] - 0.5 * b.tensors[name])
    mixed = Delta.compose([a, random_delta(tiny_generator)])
    assert not mixed.factors


def test_another_generators_delta(tiny_generator, tiny_inputs, tmp_path):
    other = make_tiny_generator(seed=1)
    delta = random_delta(other)
    delta.save(tmp_path / "d.safetensors")
    for refused in (
        lambda: Delta.load(tmp_path / "d.safetensors", tiny_generator),
        lambda: delta.bake(tiny_generator),
        lambda: Delta.compose([delta, random_delta(tiny_generator)]),
    ):
        with pytest.raises(CheckpointError) as caught:
            refused()
        assert other.fingerprint in str(caught.value) and tiny_generator.fingerprint in str(caught.value)
    forced = load_deltas([tmp_path / "d.safetensors"], tiny_generator, 0.5, force=True)
    assert forced.about["forced"] == {"fingerprint": other.fingerprint, "name": "tiny"}
    baked = forced.bake(tiny_generator)
    assert_close(draw(baked, tiny_inputs), draw(tiny_generator, tiny_inputs, delta.scaled(0.5)), **SAME_IMAGE)
    delta.scaled(0.5).unbake(baked)  # the card goes by contents
    with pytest.raises(CheckpointError, match=r"d\.safetensors: .*shape"):
        Delta.load(tmp_path / "d.safetensors", make_tiny_generator(channels=(12, 10, 8, 4)), force=True)


WEIGHT = torch.zeros(10, 12, 3, 3)  # of CONV
META = {"format": FORMAT, "fingerprint": "f", "name": "n", "about": "{}"}
UP, DOWN = torch.zeros(10, 2), torch.zeros(2, 108)


def low(up=UP, down=DOWN, shape=(10, 12, 3, 3), **meta):
    tensors = {f"{CONV}/up": up, f"{CONV}/down": down}
    return tensors, META | {"shapes": json.dumps({CONV: list(shape)})} | meta


DAMAGED = {
    "another format": ({CONV: WEIGHT}, META | {"format": "latentopt-sigma-1"}, "not that of a delta"),
    "no format": ({CONV: WEIGHT}, {}, "not that of a delta"),
    "no fingerprint": ({CONV: WEIGHT}, {"format": FORMAT}, "no fingerprint"),
    "no weights": ({}, META, "without any weights"),
    "empty weight": ({CONV: torch.zeros(0, 3)}, META, "without any weights"),
    "nan": ({CONV: WEIGHT / 0}, META, "not finite"),
    "too large for float32": ({CONV: torch.full((2,), 1e300, dtype=torch.float64)}, META, "not finite"),
    "integers": ({CONV: WEIGHT.int()}, META, "not finite numbers"),
    "about is not JSON": ({CONV: WEIGHT}, META | {"about": "{"}, "damaged delta"),
    "about nests too deeply": ({CONV: WEIGHT}, META | {"about": "[" * 100_000}, "damaged delta"),
    "shapes are a list": ({CONV: WEIGHT}, META | {"shapes": "[1]"}, "damaged delta"),
    "shapes of shapes": (*low(shape=([1],)), "damaged delta"),
    "no shape": (low()[0], META, "has factors"),
    "no up": ({f"{CONV}/down": DOWN}, META, "needs up and down"),
    "third factor": (low()[0] | {f"{CONV}/middle": DOWN}, low()[1], "needs up and down"),
    "factors and full": (low()[0] | {CONV: WEIGHT}, low()[1], "needs up and down"),
    "ranks differ": (*low(up=torch.zeros(10, 3)), "has factors"),
    "another product": (*low(shape=(10, 11, 3, 3)), "do not make"),
    "factors of one dimension": (*low(up=torch.zeros(10)), "has factors"),
    "negative shape": (*low(shape=(-10, -12, 3, 3)), "a shape of"),
    "product overflows": (*low(up=UP + 1e38, down=DOWN + 10), "not finite"),
    "small factors of a giant": (
        *low(torch.zeros(MAX_VALUES >> 10, 1), torch.zeros(1, 2048), (MAX_VALUES >> 10, 2048)),
        "refused (limit",
    ),
}


@pytest.mark.parametrize(("tensors", "metadata", "message"), DAMAGED.values(), ids=DAMAGED)
def test_damaged_files(tensors, metadata, message, tmp_path):
    path = tmp_path / "bad.safetensors"
    save_tensors(path, tensors, metadata)
    with pytest.raises(CheckpointError) as caught:
        Delta.load(path)
    assert str(path) in str(caught.value) and message in str(caught.value)


def test_files_that_are_no_delta(tiny_generator, tiny_inputs, tmp_path):
    (tmp_path / "text.safetensors").write_text("not a model")
    random_delta(tiny_generator).save(tmp_path / "cut.safetensors")
    (tmp_path / "cut.safetensors").write_bytes((tmp_path / "cut.safetensors").read_bytes()[:-100])
    tiny_inputs.save(tmp_path / "inputs.safetensors")
    (tmp_path / "folder").mkdir()
    for name in ("text.safetensors", "cut.safetensors", "inputs.safetensors", "absent.safetensors", "folder"):
        with pytest.raises(CheckpointError, match=name):
            Delta.load(tmp_path / name)


@pytest.mark.parametrize(
    ("weight", "message"),
    [
        ("synthesis.b8.conv9.weight", "did you mean 'synthesis.b8.conv"),
        ("mapping.fc0.weight", "no tunable weight"),
        ("synthesis.b4.conv1.weight", r"takes \(12, 12, 3, 3\)"),
    ],
)
def test_weights_that_do_not_fit(weight, message, tiny_generator, tmp_path):
    Delta({weight: WEIGHT}, tiny_generator.fingerprint).save(tmp_path / "d.safetensors")
    with pytest.raises(CheckpointError, match=message) as caught:
        Delta.load(tmp_path / "d.safetensors", tiny_generator)
    assert "d.safetensors" in str(caught.value)
    with pytest.raises(CheckpointError, match=message):
        Delta({weight: WEIGHT}, tiny_generator.fingerprint).bake(tiny_generator)
    inputs = GeneratorInputs(torch.zeros(1, 8, 16), deltas={weight: WEIGHT[None]})
    with pytest.raises(CheckpointError, match=message):
        Delta.of(inputs, tiny_generator)


@pytest.mark.parametrize("strength", [math.nan, math.inf, -math.inf, 1e39])
def test_strengths_that_are_no_numbers(strength, tiny_generator):
    with pytest.raises(UsageError, match="finite"):
        random_delta(tiny_generator).scaled(strength)
    with pytest.raises(CheckpointError, match="not finite"):
        Delta({CONV: WEIGHT + 1e38}, "f").scaled(1e10)


def test_foreign_text_in_about_is_only_data(tiny_generator, tmp_path):
    random_delta(tiny_generator, about={"method": "weights", "loss": float("nan"), "size": torch.tensor(2)}).save(
        tmp_path / "d.safetensors"
    )
    assert Delta.load(tmp_path / "d.safetensors").about == {"method": "weights", "loss": None, "size": 2}
    save_tensors(tmp_path / "e.safetensors", {CONV: WEIGHT}, META | {"about": '["a list"]'})
    assert Delta.load(tmp_path / "e.safetensors").about == {}


def test_rosinality_file_of_a_tuned_generator(tiny_generator, tiny_inputs, tmp_path):
    delta = random_delta(tiny_generator)
    save_rosinality(delta.bake(tiny_generator), tmp_path / "tuned.pt")
    image = draw(load_generator(tmp_path / "tuned.pt"), tiny_inputs)
    assert_close(image, draw(tiny_generator, tiny_inputs, delta), **SAME_IMAGE)


def test_a_file_of_a_baked_generator_has_its_own_fingerprint(tiny_generator, tmp_path):
    baked = random_delta(tiny_generator).bake(tiny_generator)
    save_generator(baked, tmp_path / "b.safetensors")
    loaded = load_generator(tmp_path / "b.safetensors")
    assert loaded.fingerprint == baked.fingerprint != tiny_generator.fingerprint
    assert loaded.card["baked"] == baked.card["baked"]
    assert load_file(tmp_path / "b.safetensors")[CONV].dtype == torch.float32
