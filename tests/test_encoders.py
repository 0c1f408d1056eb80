"""Encoder networks against golden outputs, their files, and encoding: ReStyle's steps, bootstrapping, mixing."""

from __future__ import annotations

import argparse
import gzip
import json
import zlib
from functools import cache
from itertools import pairwise

import numpy as np
import pytest
import torch
from conftest import REFERENCE, make_encoder, make_tiny_generator
from safetensors.torch import load_file, save_file

from latentopt.checkpoints import trained_files
from latentopt.checkpoints.describe import describe
from latentopt.checkpoints.networks import load_generator, save_generator
from latentopt.checkpoints.rosinality import exported
from latentopt.data.portraits import TEST_SEEDS, portraits
from latentopt.encoders import files
from latentopt.encoders.building import build_net
from latentopt.encoders.changes import MeanChange, heat_maps, image_change, latent_change
from latentopt.encoders.config import EncoderConfig
from latentopt.encoders.encoder import Encoder, EncoderNet
from latentopt.encoders.files import holds_generator, load_encoder, save_encoder
from latentopt.encoders.heads import resized
from latentopt.encoders.inference import Encoding
from latentopt.errors import CheckpointError, MissingWeightsError, UsageError
from latentopt.evaluation.latents import latent_variation
from latentopt.initializers.encoder import EncoderStart
from latentopt.pictures.images import read_png
from latentopt.recipe.files import recipe_paths
from latentopt.recipe.recipe import Recipe
from latentopt.results.distortion import metrics
from latentopt.types import GeneratorInputs

KINDS = ("psp", "e4e", "restyle-psp", "restyle-e4e", "w")
CLASSES = {  # released class: kind, backbone, heads, rows
    "psp.GradualStyleEncoder": ("psp", "ir-se-50", "pyramid", 18),
    "psp.BackboneEncoderUsingLastLayerIntoW": ("w", "ir-se-50", "w", 18),
    "psp.BackboneEncoderUsingLastLayerIntoWPlus": ("psp", "ir-se-50", "w+", 18),
    "e4e.Encoder4Editing": ("e4e", "ir-se-50", "pyramid", 18),
    "e4e.Encoder4Editing_512": ("e4e", "ir-se-50", "pyramid", 16),
    "e4e.BackboneEncoderUsingLastLayerIntoW": ("w", "ir-se-50", "w", 18),
    "restyle.BackboneEncoder": ("restyle-psp", "ir-se-50", "simple", 18),
    "restyle.ResNetBackboneEncoder": ("restyle-psp", "resnet-34", "simple", 18),
    "restyle.ProgressiveBackboneEncoder": ("restyle-e4e", "ir-se-50", "simple", 18),
    "restyle.ResNetProgressiveBackboneEncoder": ("restyle-e4e", "resnet-34", "simple", 18),
    "restyle.GradualStyleEncoder": ("restyle-psp", "ir-se-50", "pyramid", 18),
    "restyle.ResNetGradualStyleEncoder": ("restyle-psp", "resnet-34", "pyramid", 18),
}
PARITY = 1e-4


def released_config(kind, backbone, heads, num_ws, w_dim=512, **changes) -> EncoderConfig:
    channels = 6 if kind.startswith("restyle") else 3
    return EncoderConfig(kind, num_ws, w_dim, backbone, heads, channels, (256, 256), **changes)


def on_meta(config: EncoderConfig) -> EncoderNet:
    with torch.device("meta"):
        return EncoderNet(config)


def shapes_of(net: EncoderNet) -> dict[str, torch.Tensor]:
    """Weights by their released names."""
    state = net.state_dict()
    return {official: state[name] for name, official in net.official_names().items()}


# ---- parity


@cache
def released_keys() -> dict[str, dict[str, list[int]]]:
    with gzip.open(REFERENCE / "encoders" / "encoder_keys.json.gz") as stream:
        return json.load(stream)


@cache
def golden() -> dict[str, torch.Tensor]:
    return load_file(REFERENCE / "encoders" / "encoder_outputs.safetensors")


def uniform(tag: str, shape: tuple[int, ...]) -> np.ndarray:
    raw = np.random.Philox(key=zlib.crc32(tag.encode())).random_raw(int(np.prod(shape)))
    return ((raw >> np.uint64(11)) * 2.0**-53).reshape(shape)


@cache
def filled(key: str, shape: tuple[int, ...], norm: bool) -> torch.Tensor:
    """The reference's values; `norm`: a batch norm's weight, not a PReLU's."""
    if key.endswith("num_batches_tracked"):
        return torch.zeros(shape, dtype=torch.int64)
    x = (2 * uniform(key, shape) - 1) * np.sqrt(3)
    if key.endswith("running_var"):
        x = 1 + 0.3 * x
    elif key.endswith((".bias", "running_mean")):
        x *= 0.1
    elif len(shape) == 1:
        x = 1 + 0.2 * x if norm else 0.25 + 0.05 * x
    elif len(shape) == 4 or not key.endswith("linear.weight"):
        x /= np.sqrt(np.prod(shape[1:]))
    return torch.from_numpy(x.astype(np.float32))


def filled_net(config: EncoderConfig, rows: dict[int, int]) -> EncoderNet:
    """A net filled as the released one whose head `rows[i]` is head i here."""
    net = on_meta(config)
    shapes = {key: value.shape for key, value in shapes_of(net).items()}
    state = {}
    for key, shape in shapes.items():
        tag = key
        if key.startswith("styles."):
            _, row, rest = key.split(".", 2)
            tag = f"styles.{rows[int(row)]}.{rest}"
        norm = key.endswith(".weight") and key.removesuffix("weight") + "running_var" in shapes
        state[key] = filled(tag, tuple(shape), norm)
    return build_net(config, state, "golden")


@cache
def golden_input(channels: int) -> torch.Tensor:
    coarse = 2 * uniform("input.coarse", (2, channels, 16, 16)) - 1
    fine = 2 * uniform("input.fine", (2, channels, 256, 256)) - 1
    x = 0.7 * coarse.repeat(16, axis=2).repeat(16, axis=3) + 0.3 * fine
    return torch.from_numpy(x[:1].astype(np.float32))


def assert_close(actual, expected, tolerance=PARITY):
    torch.testing.assert_close(actual, expected, rtol=0, atol=tolerance)


@pytest.mark.parametrize("name", CLASSES)
def test_every_weight_of_the_released_classes_has_its_name_and_shape(name):
    net = on_meta(released_config(*CLASSES[name]))
    assert {key: list(value.shape) for key, value in shapes_of(net).items()} == released_keys()[name]


def check_maps(net, x, name):
    maps = net.backbone(x)
    for unit, features in zip(net.backbone.taps, maps, strict=True):
        assert_close(features.mean(dim=1), golden()[f"{name}/body{unit}_chmean"])
    return maps


@torch.no_grad()
def test_psp_e4e_and_w_codes_equal_the_released_ones():
    rows = {0: 0, 1: 3, 2: 7}  # one head of each map
    picked = list(rows.values())
    x = golden_input(3)
    net = filled_net(released_config("psp", "ir-se-50", "pyramid", 3, groups=(1, 2)), rows)
    maps = check_maps(net, x, "psp.GradualStyleEncoder")
    net.backbone.forward = lambda x: maps
    assert_close(net(x), golden()["psp.GradualStyleEncoder/out"][:, picked])

    e4e = on_meta(released_config("e4e", "ir-se-50", "pyramid", 3, groups=(1, 2)))
    e4e.backbone, e4e.heads = net.backbone, net.heads
    assert_close(e4e(x), golden()["e4e.Encoder4Editing/out"][:, picked])
    assert_close(e4e(x, 0), golden()["e4e.Encoder4Editing/out_stage0"][:, picked])
    assert_close(
        e4e(x, 1), golden()["e4e.Encoder4Editing/out_stage5"][:, picked]
    )  # row 3 has its offset, row 7 has not

    single = filled_net(released_config("w", "ir-se-50", "w", 2), {})
    single.backbone.forward = lambda x: maps
    assert_close(single(x), golden()["e4e.BackboneEncoderUsingLastLayerIntoW/out"])
    assert_close(single(x)[:, 0], golden()["psp.BackboneEncoderUsingLastLayerIntoW/out"])


@torch.no_grad()
def test_restyle_codes_equal_the_released_ones():
    x = golden_input(6)
    net = filled_net(released_config("restyle-psp", "resnet-34", "simple", 2), {0: 0, 1: 1})
    check_maps(net, x, "restyle.ResNetBackboneEncoder")
    assert_close(net(x), golden()["restyle.ResNetBackboneEncoder/out"][:, :2])
    progressive = on_meta(released_config("restyle-e4e", "resnet-34", "simple", 2))
    progressive.backbone, progressive.heads = net.backbone, net.heads
    assert_close(progressive(x), golden()["restyle.ResNetProgressiveBackboneEncoder/out"][:, :2])


# ---- networks


def test_e4e_stages_add_offsets_row_by_row(tiny_generator):
    net = make_encoder(tiny_generator, "e4e").net
    x = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    whole, base = net(x), net(x, 0)
    assert torch.equal(base, base[:, :1].expand_as(base))
    assert (whole[:, 1:] - base[:, 1:]).abs().amin(dim=(0, 2)).min() >= 0
    for stage in range(tiny_generator.num_ws):
        found = net(x, stage)
        assert_close(found[:, : stage + 1], whole[:, : stage + 1], 1e-6)
        assert_close(found[:, stage + 1 :], base[:, stage + 1 :], 1e-6)
    assert not torch.allclose(net(x, 1), base)


@pytest.mark.parametrize("kind", KINDS)
def test_every_weight_of_a_small_encoder_gets_a_gradient(kind, tiny_generator):
    net = make_encoder(tiny_generator, kind).net.requires_grad_(True).train()
    x = torch.randn(3, net.config.in_channels, 32, 32)
    net(x).square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() and p.grad.any() for p in net.parameters())
    alone = net(x[1:2])
    assert_close(alone, net(x)[1:2], 1e-5)  # in training too, images do not influence each other


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"kind": "sg3"}, "none of psp"),
        ({"in_channels": 6}, "takes 3 channels"),
        ({"kind": "w"}, "do not go with"),
        ({"num_ws": 0}, "num_ws 0 is not from 1"),
        ({"num_ws": 10**9}, "is not from 1"),
        ({"w_dim": 1.5}, "whole number"),
        ({"widths": (8, 8, 9, 8)}, "multiples of 8"),
        ({"stage": 8}, "rows of the code"),
        ({"heads": "w+", "kind": "e4e"}, "one head a row"),
        ({"image_size": (64,)}, "image_size"),
    ],
)
def test_configurations_that_cannot_be_built(changes, words):
    with pytest.raises(ValueError, match=words):
        EncoderConfig(**({"kind": "psp", "num_ws": 8, "w_dim": 16} | changes))


def test_configurations_survive_json(tiny_generator):
    config = EncoderConfig.for_generator(tiny_generator, "restyle-e4e", stage=3)
    assert EncoderConfig.from_json(config.to_json()) == config
    assert (config.in_channels, config.heads, config.image_size) == (6, "simple", (32, 32))


def test_pictures_are_averaged_down_cropped_to_the_aspect_and_enlarged():
    image = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    assert_close(resized(image, (32, 32)), torch.nn.functional.avg_pool2d(image, 2), 1e-6)
    cars = resized(image, (24, 32))  # as 512x512 -> rows 64 to 448 -> 192x256
    assert_close(cars, torch.nn.functional.avg_pool2d(image[:, :, 8:56], 2), 1e-6)
    assert resized(image, (64, 64)) is image
    assert resized(image, (128, 128)).shape == (1, 3, 128, 128)


# ---- our files


@pytest.mark.parametrize("kind", KINDS)
def test_what_was_saved_is_read_back(kind, tiny_generator, tmp_path):
    encoder = make_encoder(tiny_generator, kind)
    encoder.card = {"data": "portraits"}
    save_encoder(encoder, tmp_path / "e.safetensors")
    again = load_encoder(tmp_path / "e.safetensors", tiny_generator)
    assert again.config == encoder.config
    assert again.fingerprint == encoder.fingerprint
    assert (again.generator, again.card) == (tiny_generator.fingerprint, {"data": "portraits"})
    target = torch.randn(2, 3, 32, 32)
    assert torch.equal(again.encode(tiny_generator, target)[-1].ws, encoder.encode(tiny_generator, target)[-1].ws)
    save_encoder(encoder, tmp_path / "half.safetensors", torch.float16)
    half = load_encoder(tmp_path / "half.safetensors")
    assert (tmp_path / "half.safetensors").stat().st_size < 0.75 * (tmp_path / "e.safetensors").stat().st_size
    assert_close(half.encode(tiny_generator, target)[-1].ws, encoder.encode(tiny_generator, target)[-1].ws, 0.05)


def test_bundled_encoders_are_found_by_the_generator(tiny_generator, tmp_path, monkeypatch):
    monkeypatch.setattr(trained_files, "BUNDLED", tmp_path)
    other = make_tiny_generator(seed=1)
    for i, generator in enumerate((other, tiny_generator)):
        save_encoder(make_encoder(generator, "e4e", seed=i), tmp_path / "abc"[i] / "encoder-e4e.safetensors")
    assert load_encoder("e4e", tiny_generator).fingerprint == make_encoder(tiny_generator, "e4e", seed=1).fingerprint
    with pytest.raises(MissingWeightsError, match=r"latentopt train encoder --kind psp --network tiny"):
        load_encoder("psp", tiny_generator)
    with pytest.raises(MissingWeightsError, match="no bundled e4e encoder for generator 'tiny'"):
        load_encoder("e4e", make_tiny_generator(seed=2))


@pytest.mark.parametrize(
    ("init", "wanted"),
    [
        ({"name": "mean"}, []),
        ({"name": "e4e"}, ["portraits/encoder-e4e"]),
        ({"name": "encoder", "kind": "psp", "mix": "e4e"}, ["portraits/encoder-psp", "portraits/encoder-e4e"]),
        (
            {"name": "encoder", "kind": "restyle-psp", "bootstrap": "e4e", "bootstrap_network": "portraits"},
            ["portraits/encoder-restyle-psp", "portraits/generator", "portraits/encoder-e4e"],
        ),
    ],
)
def test_a_start_names_all_the_files_that_it_reads(init, wanted):
    generator = load_generator("portraits")
    stage = {"init": init, "steps": 1, "lr": 0.1, "optimize": ["w+"], "terms": ["l2"]}
    found = recipe_paths(Recipe.from_table({"stages": [stage]}), generator)
    assert {f"{path.parent.name}/{path.stem}" for path in found} == set(wanted)


@pytest.mark.parametrize("kind", KINDS[:4])
def test_bundled_encoders_encode_fresh_portraits(kind):
    """About 22 dB and more, from 12.7 of the mean; e4e's codes are near W, ReStyle gains with its steps."""
    generator = load_generator("portraits")
    target = portraits(TEST_SEEDS[5000:5016], generator.resolution)[0]
    encoder = load_encoder(kind, generator)
    assert not any(word in json.dumps(dict(encoder.card)) for word in ("/tmp", "/work", "/home", "/opt"))
    found = encoder.encode(generator, target)
    psnr = [metrics(generator.synthesis(inputs), target)["psnr"].mean().item() for inputs in found]
    assert psnr[-1] > 21.5
    assert all(later >= earlier - 0.1 for earlier, later in pairwise(psnr))
    if "e4e" in kind:
        other = load_encoder(kind.replace("e4e", "psp"), generator).encode(generator, target)[-1]
        assert latent_variation(found[-1].ws).mean() < latent_variation(other.ws).mean() / 2


def test_an_encoder_is_refused_on_another_generator(tiny_generator, tmp_path):
    save_encoder(make_encoder(tiny_generator, "psp"), tmp_path / "e.safetensors")
    other = make_tiny_generator(seed=1)
    with pytest.raises(CheckpointError, match="trained for generator"):
        load_encoder(tmp_path / "e.safetensors", other)
    assert load_encoder(tmp_path / "e.safetensors", other, force=True).config.kind == "psp"
    with pytest.raises(CheckpointError, match=r"makes codes \[8,16\]; generator 'tiny' takes \[6,16\]"):
        load_encoder(tmp_path / "e.safetensors", make_tiny_generator(channels=(8, 6, 4)), force=True)


def damage(tensors, metadata, how):
    config = json.loads(metadata["config"])
    first = "styles.0.linear.weight"
    if how == "missing":
        del tensors[first]
    elif how == "extra":
        tensors["styles.99.linear.weight"] = tensors[first].clone()
    elif how == "shape":
        tensors[first] = tensors[first][:, :1].contiguous()
    elif how == "nan":
        tensors[first][0, 0] = torch.nan
    elif how == "average":
        tensors["latent_avg"] = torch.zeros(3, 16)
    elif how == "wide":
        config["widths"] = [1024] * 4
    elif how == "huge":
        config |= {"num_ws": 1024, "head_width": 1024}
    elif how == "kind":
        config["kind"] = "sg3"
    elif how == "json":
        return tensors, metadata | {"config": "{"}
    return tensors, metadata | {"config": json.dumps(config)}


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("missing", "1 missing: styles.0.linear.weight"),
        ("extra", "1 unexpected: styles.99"),
        ("shape", r"styles.0.linear.weight \(16, 1\) instead of \(16, 16\)"),
        ("nan", "not finite: styles.0.linear.weight"),
        ("average", r"latent_avg is \[3, 16\]"),
        ("wide", "other shapes"),
        ("huge", "more than 1,073,741,824 are not read"),
        ("kind", "configuration cannot be read"),
        ("json", "configuration cannot be read"),
    ],
)
def test_damaged_files_say_what_is_wrong(how, words, tiny_generator, tmp_path):
    encoder = make_encoder(tiny_generator, "psp")
    save_encoder(encoder, tmp_path / "e.safetensors")
    metadata = {"format": files.FORMAT, "config": encoder.config.to_json()}
    tensors, metadata = damage(load_file(tmp_path / "e.safetensors"), metadata, how)
    save_file(tensors, tmp_path / "bad.safetensors", metadata)
    with pytest.raises(CheckpointError, match=words) as error:
        load_encoder(tmp_path / "bad.safetensors")
    assert "bad.safetensors" in str(error.value)


def test_files_of_other_kinds_are_refused(tiny_generator, tmp_path):
    save_generator(tiny_generator, tmp_path / "g.safetensors")
    for source, words in (
        (tmp_path / "g.safetensors", "latentopt-generator-1"),
        (tmp_path / "none.pt", "no such file"),
        (tmp_path, "a folder"),
        ("efe", "one of psp, e4e"),
    ):
        with pytest.raises(CheckpointError, match=words):
            load_encoder(source)


# ---- released files


@cache
def constant_state(kind, backbone, heads, num_ws, w_dim=16) -> dict[str, torch.Tensor]:
    """Every weight one number, stored once: a released file's names and shapes without its size."""
    net = on_meta(released_config(kind, backbone, heads, num_ws, w_dim))
    state = shapes_of(net)
    return {
        key: torch.zeros((), dtype=torch.int64)
        if value.dtype == torch.int64
        else torch.tensor(0.01).expand(value.shape)
        for key, value in state.items()
    }


def released(path, encoder=None, **contents):
    state = {f"encoder.{key}": value for key, value in (encoder or {}).items()}
    torch.save({"state_dict": state, **contents}, path)
    return path


E4E = ("e4e", "ir-se-50", "pyramid", 4)
RESTYLE = ("restyle-psp", "resnet-34", "simple", 4)
PSP_OPTIONS = {"encoder_type": "GradualStyleEncoder", "output_size": 8, "start_from_latent_avg": True}
ROW = torch.linspace(-1, 1, 16)


@pytest.mark.parametrize(
    ("average", "expected"),
    [
        (ROW, ROW.expand(4, -1)),
        (ROW[None], ROW.expand(4, -1)),
        (torch.outer(torch.arange(4.0), ROW),) * 2,
        (None, None),
    ],
    ids=["C", "1,C", "K,C", "absent"],
)
def test_latent_avg_in_its_shapes(average, expected, tmp_path):
    path = released(
        tmp_path / "e.pt", constant_state(*RESTYLE), latent_avg=average, opts={"encoder_type": "ResNetBackboneEncoder"}
    )
    encoder = load_encoder(path)
    assert encoder.config.start_from_average
    if expected is None:
        generator = make_tiny_generator(channels=(8, 6))
        assert torch.equal(encoder.average(generator), generator.w_avg.expand(1, 4, -1))
        assert "generator's mean of w" in encoder.notes[0]
    else:
        assert torch.equal(encoder.latent_avg, expected)


@pytest.mark.parametrize(
    ("shape", "options", "expected"),
    [
        (E4E, {"encoder_type": "Encoder4Editing", "stylegan_size": 8}, {"kind": "e4e", "start_from_average": True}),
        (E4E, {"stylegan_size": 8, "start_from_latent_avg": False}, {"kind": "e4e", "start_from_average": False}),
        (E4E, PSP_OPTIONS, {"kind": "psp", "heads": "pyramid", "backbone": "ir-se-50"}),
        (E4E, {"output_size": 8, "dataset_type": "cars_encode"}, {"kind": "psp", "image_size": (192, 256)}),
        (RESTYLE, {"encoder_type": "ResNetProgressiveBackboneEncoder"}, {"kind": "restyle-e4e", "in_channels": 6}),
        (RESTYLE, {"encoder_type": "ResNetBackboneEncoder"}, {"kind": "restyle-psp", "backbone": "resnet-34"}),
    ],
)
@pytest.mark.parametrize("form", [dict, lambda options: argparse.Namespace(**options)], ids=["dict", "namespace"])
def test_what_a_released_encoder_is_comes_from_weights_and_options(shape, options, expected, form, tmp_path):
    path = released(tmp_path / "e.pt", constant_state(*shape), latent_avg=ROW, opts=form(options))
    encoder = load_encoder(path)
    assert {key: getattr(encoder.config, key) for key in expected} == expected
    assert (encoder.config.num_ws, encoder.config.w_dim, encoder.default_steps) == (4, 16, 5 if shape is RESTYLE else 1)


@pytest.mark.parametrize(("average", "options", "rows"), [(ROW.expand(6, -1), {}, 6), (ROW, {"output_size": 64}, 10)])
def test_an_encoder_into_w_takes_its_rows_from_the_file(average, options, rows, tmp_path):
    state = constant_state("w", "resnet-34", "w", 2) | {
        "conv1.weight": torch.tensor(0.01).expand(64, 3, 7, 7),
    }
    encoder = load_encoder(released(tmp_path / "e.pt", state, latent_avg=average, opts=options))
    assert (encoder.config.kind, encoder.config.num_ws) == ("w", rows)


@pytest.mark.parametrize(("step", "stage"), [(0, 0), (25, 1), (10_000, None), (None, None)])
def test_rows_that_were_not_trained_yet_are_left_alone(step, stage, tmp_path):
    options = {"stylegan_size": 8, "progressive_steps": [0, 20, 40, 60]}
    path = released(tmp_path / "e.pt", constant_state(*E4E), latent_avg=ROW, opts=options, global_step=step)
    encoder = load_encoder(path)
    assert encoder.config.stage == stage
    assert any("not trained" in note for note in encoder.notes) == (stage is not None)


def without(state, key):
    return {k: v for k, v in state.items() if k != key}


@pytest.mark.parametrize(
    ("encoder", "contents", "words"),
    [
        (None, {"state_dict": {"decoder.style.1.weight": ROW}}, "no encoder in it.*expected a pSp"),
        (None, {"state_dict": {"hypernet.conv1.weight": ROW}}, "HyperStyle"),
        (None, {"state_dict": None, "g_ema": {"style.1.weight": ROW}}, "'g_ema' looks like a StyleGAN2 generator"),
        (None, {"state_dict": None, "layer1.0.conv1.weight": ROW}, "an image classifier"),
        ({"stem.weight": ROW}, {}, "unknown make"),
        (without(constant_state(*RESTYLE), "bn1.bias"), {"opts": {"output_size": 8}}, "1 missing: bn1.bias"),
        (constant_state(*RESTYLE), {"opts": {}}, "whether it is pSp or e4e"),
        (constant_state(*RESTYLE), {"opts": {"output_size": 1024}}, r"4 heads, but its options say 18 \(size 1024\)"),
        (constant_state(*RESTYLE), {"opts": {"output_size": "8"}}, "size as '8'"),
        (
            constant_state(*RESTYLE),
            {"opts": {"output_size": 8}, "latent_avg": torch.ones(5, 16)},
            r"latent_avg is \[5, 16\]",
        ),
        (constant_state(*RESTYLE) | {"conv1.weight": torch.ones(64, 19, 7, 7)}, {"opts": {}}, "19-channel"),
        (
            constant_state(*RESTYLE) | {"bn1.bias": torch.ones(3)},
            {"opts": {"output_size": 8}},
            r"bn1.bias \(3,\) instead",
        ),
        (constant_state(*RESTYLE) | {"bn1.bias": "x"}, {"opts": {"output_size": 8}}, "bn1.bias str instead"),
    ],
)
def test_a_wrong_file_says_what_it_is_and_what_was_expected(encoder, contents, words, tmp_path):
    path = tmp_path / "wrong.pt"
    released(path, encoder, **contents)
    with pytest.raises(CheckpointError, match=words) as error:
        load_encoder(path)
    assert "wrong.pt" in str(error.value)


def test_a_decoder_in_the_file_serves_as_the_generator(tmp_path):
    generator = make_tiny_generator(channels=(512, 512), w_dim=16, z_dim=16)
    decoder = {f"decoder.{key}": value for key, value in exported(generator)[0].items()}
    state = {f"encoder.{key}": value for key, value in constant_state(*RESTYLE).items()}
    options = {"encoder_type": "ResNetBackboneEncoder", "output_size": 8}
    torch.save({"state_dict": state | decoder, "latent_avg": ROW.expand(4, -1), "opts": options}, tmp_path / "whole.pt")
    assert holds_generator(tmp_path / "whole.pt")
    own = load_generator(tmp_path / "whole.pt")
    found = load_encoder(tmp_path / "whole.pt", own).encode(own, torch.zeros(1, 3, 8, 8), 2)
    assert [x.ws.shape for x in found] == [(1, 4, 16)] * 2
    facts = describe(tmp_path / "whole.pt")
    assert (facts["kind"], facts["encoder"]["kind"]) == ("StyleGAN2 generator", "restyle-psp encoder")


def test_info_on_encoders(tiny_generator, tmp_path):
    save_encoder(make_encoder(tiny_generator, "e4e"), tmp_path / "e.safetensors")
    facts = describe(tmp_path / "e.safetensors")
    assert (facts["kind"], facts["backbone"], facts["num_ws"]) == ("e4e encoder", "small", 8)
    assert facts["generator"] == tiny_generator.fingerprint
    facts = describe(released(tmp_path / "e.pt", constant_state(*RESTYLE), latent_avg=ROW, opts={"output_size": 8}))
    assert (facts["kind"], facts["steps"], facts["average"]) == ("restyle-psp encoder", 5, "in the file")


# ---- encoding


class Recorder(torch.nn.Module):
    """A net that keeps what it is given, and answers with half of the first picture's mean."""

    def __init__(self, config):
        super().__init__()
        self.config, self.seen = config, []

    def forward(self, x, stage=None):
        self.seen.append(x)
        return x[:, :3].mean(dim=(1, 2, 3))[:, None, None].expand(-1, self.config.num_ws, self.config.w_dim) / 2


@pytest.fixture
def target(tiny_generator, tiny_inputs):
    return tiny_generator.synthesis(tiny_inputs)


def test_restyle_corrects_its_code_from_the_picture_and_its_reconstruction(tiny_generator, target):
    """ReStyle, equations 1 to 4: picture first, reconstruction second; changes are added to the whole previous code."""
    config = EncoderConfig.for_generator(tiny_generator, "restyle-psp", image_size=(16, 16))
    encoder = Encoder(Recorder(config), torch.randn(8, 16), name="recorder")
    found = encoder.encode(tiny_generator, target, 3)
    x = torch.nn.functional.avg_pool2d(target, 2)
    change = x.mean(dim=(1, 2, 3))[:, None, None] / 2
    shown = [tiny_generator.synthesis(GeneratorInputs(encoder.latent_avg[None])).expand(3, -1, -1, -1)]
    shown += [tiny_generator.synthesis(inputs) for inputs in found[:-1]]
    for step, (inputs, seen, image) in enumerate(zip(found, encoder.net.seen, shown, strict=True), 1):
        assert_close(inputs.ws, encoder.latent_avg + step * change.expand(-1, 8, 16), 1e-5)
        assert torch.equal(seen[:, :3], x)
        assert_close(seen[:, 3:], torch.nn.functional.avg_pool2d(image, 2), 1e-6)
    assert_close(encoder.start_image(tiny_generator), encoder.net.seen[0][:1, 3:], 1e-6)


def test_one_pass_encoders_add_the_average_only_if_they_start_from_it(tiny_generator, target):
    for relative in (True, False):
        encoder = make_encoder(tiny_generator, "psp", start_from_average=relative)
        average = encoder.latent_avg if relative else torch.zeros(8, 16)
        [inputs] = encoder.encode(tiny_generator, target)
        assert_close(inputs.ws, encoder.net(target) + average, 1e-6)
        assert not inputs.ws.requires_grad


def test_training_sees_gradients(tiny_generator, target):
    encoder = make_encoder(tiny_generator, "restyle-e4e")
    encoder.net.requires_grad_(True)
    start = encoder.start_image(tiny_generator)
    encoder.codes(target, encoder.average(tiny_generator), start, stage=1).sum().backward()
    styles = encoder.net.heads.styles
    assert styles[1].linear.weight.grad.any()
    assert styles[2].linear.weight.grad is None  # not asked for at that stage


def test_bootstrapping_starts_from_the_other_encoders_code_and_picture(tiny_generator, target):
    """ReStyle 4.4: the code and the picture of the first encoder's own generator begin the second one's steps."""
    other = make_tiny_generator(seed=5)
    first = make_encoder(other, "e4e", seed=3)
    config = EncoderConfig.for_generator(tiny_generator, "restyle-psp")
    second = Encoder(Recorder(config), torch.randn(8, 16), name="recorder")
    encoding = Encoding(tiny_generator, second, steps=2, bootstrap=(first, other))
    found = encoding(target)
    [start] = first.encode(other, target)
    change = target.mean(dim=(1, 2, 3))[:, None, None] / 2
    assert_close(found[0].ws, start.ws + change, 1e-5)
    assert_close(second.net.seen[0][:, 3:], other.synthesis(start), 1e-5)
    assert_close(second.net.seen[1][:, 3:], tiny_generator.synthesis(found[0]), 1e-5)
    begun, image = encoding.begin(target)
    assert torch.equal(begun.ws, start.ws)
    assert_close(image, other.synthesis(start), 1e-6)


@pytest.mark.parametrize(
    ("card", "steps"),
    [
        ({}, 5),
        ({"settings": {"restyle_steps": 2}}, 2),
        ({"settings": {"restyle_steps": "2"}}, 5),
        ({"settings": {"restyle_steps": 10**9}}, 5),
    ],
)
def test_restyle_takes_the_steps_that_it_was_trained_with(card, steps, tiny_generator, target):
    encoder = make_encoder(tiny_generator, "restyle-psp")
    encoder.card = card
    assert len(encoder.encode(tiny_generator, target)) == steps


@pytest.mark.parametrize("share", [0.0, 0.25, 1.0])
def test_mixing_interpolates_between_two_encoders_codes(share, tiny_generator, target):
    psp, e4e = (make_encoder(tiny_generator, kind, seed=i) for i, kind in enumerate(("psp", "e4e")))
    [mixed] = Encoding(tiny_generator, psp, mix=e4e, share=share)(target)
    a, b = (encoder.encode(tiny_generator, target)[-1].ws for encoder in (psp, e4e))
    assert_close(mixed.ws, (1 - share) * a + share * b, 1e-6)


@pytest.mark.parametrize(
    ("kind", "options", "words"),
    [
        ("psp", {"steps": 2}, "takes no steps"),
        ("restyle-psp", {"steps": 0}, "at least 1"),
        ("psp", {"stage": 1}, "no stages"),
        ("e4e", {"stage": -1}, "at least 0"),
    ],
)
def test_steps_and_stages_that_an_encoder_cannot_take(kind, options, words, tiny_generator, target):
    with pytest.raises(UsageError, match=words):
        make_encoder(tiny_generator, kind).encode(tiny_generator, target, **options)


def test_encodings_that_cannot_be_joined(tiny_generator, tmp_path):
    psp = make_encoder(tiny_generator, "psp")
    with pytest.raises(UsageError, match="one-pass"):
        Encoding(tiny_generator, psp, bootstrap=(psp, tiny_generator))
    with pytest.raises(UsageError, match="between 0 and 1"):
        Encoding(tiny_generator, psp, mix=psp, share=1.5)
    with pytest.raises(UsageError, match="needs an encoder"):
        EncoderStart(tiny_generator, kind="psp", bootstrap_network="portraits")


# ---- what steps change


def test_changes_of_pictures_and_of_groups_of_latents():
    before = torch.zeros(2, 3, 4, 4)
    after = before.clone()
    after[1, :, 0, 0] = 2.0
    change = image_change(before, after)
    assert (change[0].max(), change[1, 0, 0], change[1].sum()) == (0, 4, 4)
    ws = torch.zeros(1, 10, 4)
    moved = ws.clone()
    moved[:, :4], moved[:, 4:8], moved[:, 8:] = 1.0, -2.0, 3.0
    assert {k: v.item() for k, v in latent_change(ws, moved).items()} == {"coarse": 1, "medium": 2, "fine": 3}
    assert list(latent_change(ws[:, :6], moved[:, :6])) == ["coarse", "medium"]


def test_heat_maps_are_scaled_together_or_each_by_itself(tmp_path):
    changes = torch.zeros(2, 4, 4)
    changes[0, 0, 0], changes[1, 1, 1] = 1.0, 0.25
    together, apart = heat_maps(changes), heat_maps(changes, together=False)
    assert torch.equal(together[0][:, 0, 0], apart[0][:, 0, 0])
    assert torch.equal(apart[1][:, 1, 1], apart[0][:, 0, 0])  # each has its own reddest pixel
    assert not torch.equal(together[1][:, 1, 1], together[0][:, 0, 0])
    assert all(torch.isfinite(x).all() for x in heat_maps(torch.zeros(2, 4, 4), together=False))
    mean = MeanChange()
    mean.add(changes[None].repeat(3, 1, 1, 1))
    mean.add(torch.zeros(1, 2, 4, 4))
    assert_close(mean.total / mean.count, changes * 0.75)
    mean.draw(tmp_path / "maps.png")
    assert read_png(tmp_path / "maps.png").shape[0] == 3
