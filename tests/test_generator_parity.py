"""The StyleGAN2 generator and discriminator against golden tensors of the two existing implementations.

Tolerances are relative to the largest value: 1e-5 for outputs, 1e-4 for gradients (float32; see the READMEs of the
reference folders, also for the cases with tolerances of their own).
"""

from __future__ import annotations

import gzip
import json
import math
from functools import cache

import pytest
import torch
from conftest import REFERENCE, make_tiny_generator
from safetensors import safe_open
from safetensors.torch import load_file

from latentopt.checkpoints import rosinality
from latentopt.checkpoints.weights import NetworkWeights, build, single_filter
from latentopt.files.storage import save_tensors
from latentopt.generators.discriminator import Discriminator, DiscriminatorConfig, minibatch_std
from latentopt.generators.layers import FullyConnected
from latentopt.generators.ops import (
    bias_act,
    conv2d_resample,
    downsample2d,
    modulated_conv2d,
    normalize_second_moment,
    upfirdn,
    upsample2d,
)
from latentopt.generators.stylegan2 import StyleGAN2, StyleGAN2Config
from latentopt.types import GeneratorInputs

NVIDIA, ROSINALITY = REFERENCE / "stylegan2_nvidia", REFERENCE / "stylegan2_rosinality"
OUTPUT, GRADIENT = 1e-5, 1e-4


def assert_close(actual, expected, tolerance=OUTPUT):
    assert actual.shape == expected.shape
    assert torch.isfinite(actual).all()
    error = (actual.detach() - expected).abs().max().item() / expected.abs().max().item()
    assert error <= tolerance, f"relative error {error:.2e}"


@cache
def reference(folder, name):
    return load_file(folder / f"{name}.safetensors")


def state_of(tensors):
    return {key.removeprefix("state/"): value for key, value in tensors.items() if key.startswith("state/")}


def nvidia_weights(name, config):
    state = state_of(reference(NVIDIA, name))
    filters = {key: value for key, value in state.items() if key.endswith("resample_filter")}
    return NetworkWeights(
        config, {k: v.clone() for k, v in state.items() if k not in filters}, single_filter(filters, name)
    )


def nvidia(name, config):
    return build(nvidia_weights(name, config), name)


def nvidia_g64(**changes):
    settings = {"z_dim": 32, "w_dim": 32, "channels": (32, 32, 32, 32, 16), "mapping_layers": 4}
    return nvidia("g64", StyleGAN2Config(**settings | changes))


def rosinality_g64():
    tensors = reference(ROSINALITY, "g64")
    return build(rosinality.generator_weights(state_of(tensors), tensors["io/latent_avg"], "g64"), "g64")


@pytest.fixture(scope="module")
def g64():
    return nvidia_g64()


# Single operations -------------------------------------------------------------------------------------------------


def _ops():
    with safe_open(NVIDIA / "ops.safetensors", "pt") as file:
        return json.loads(file.metadata()["cases"])


OPS = _ops()


def _modulated(case, x, w, s, f, noise):
    half = "dtype" in case
    weight = w if case.get("fused", True) is False else w.expand(len(x), *w.shape)  # fused: the grouped form
    x = x.half() if half else x
    y = modulated_conv2d(x, weight, s, f, case.get("up", 1), case["demodulate"]).float()
    return y if noise is None else y + noise


def _run(case, t):
    f = t["f"] if case.get("filter") else None
    up, down = case.get("up", 1), case.get("down", 1)
    match case["op"]:
        case "upfirdn2d":
            return upfirdn(t["x"], f, up, down, case["padding"], case["gain"], case["flip_filter"])
        case "upsample2d":
            return upsample2d(t["x"], f)
        case "downsample2d":
            return downsample2d(t["x"], f)
        case "filter2d":
            return upfirdn(t["x"], f, pad=case["padding_expected"])
        case "conv2d_resample":
            flipped = up == 2 and case["flip_weight"]
            return conv2d_resample(t["x"], t["w"].flip(2, 3) if flipped else t["w"], f, up, down)
        case "bias_act":
            gain = math.sqrt(0.5) if "gain" in case else 1.0
            clamp = case["clamp"] / gain if "clamp" in case else None
            return bias_act(t["x"], t["b"], case["act"], gain, clamp)
        case "modulated_conv2d":
            return _modulated(case, t["x"], t["w"], t["s"], f, t.get("noise"))
        case "minibatch_std":
            return minibatch_std(t["x"], case["group_size"], case["num_channels"])
        case "normalize_2nd_moment":
            return normalize_second_moment(t["x"])
        case "FullyConnected":
            layer = FullyConnected(10, 7, case["activation"], case["lr_multiplier"])
            layer.load_state_dict({"weight": t["w"], "bias": t["b"]})
            return layer(t["x"])


@pytest.mark.parametrize("name", OPS)
def test_operation(name):
    tensors, case = reference(NVIDIA, "ops"), OPS[name]
    t = {key.removeprefix(f"{name}/"): value for key, value in tensors.items() if key.startswith(f"{name}/")}
    if case.get("filter"):
        t["f"] = tensors[f"filter/{case['filter']}"]
    y = _run(case, t)
    if name == "modconv_fp16_prenorm":
        assert (y - t["y"]).abs().max() <= 5e-3
    else:
        assert_close(y, t["y"])


@pytest.mark.parametrize(("epsilon", "expected"), [(1e-8, "y_nvidia"), (1e-8 * 6 * 9, "y_rosinality")])
def test_epsilon_of_the_demodulation(epsilon, expected):
    t = reference(ROSINALITY, "modconv_eps")
    for weight in (t["w"], t["w"].expand(len(t["x"]), *t["w"].shape)):
        assert_close(modulated_conv2d(t["x"], weight, t["s"], epsilon=epsilon), t[expected])


# Generators --------------------------------------------------------------------------------------------------------


def test_mapping_and_truncation(g64):
    t = reference(NVIDIA, "g64")
    w = g64.mapping(t["io/z"])
    assert_close(g64.broadcast(w), t["io/ws_psi1"])
    assert_close(g64.truncate(w, 0.7), t["io/ws_psi0.7"])
    assert_close(g64.truncate(w, 0.7, cutoff=4), t["io/ws_psi0.7_cut4"])


@pytest.mark.parametrize(
    ("ws", "noise_mode", "clamp", "expected"),
    [
        ("io/wplus", "const", None, "out/img_const"),
        ("io/wplus", "none", None, "out/img_none"),
        ("io/ws_psi0.7", "const", None, "out/img_psi0.7_const"),
        ("io/wplus", "const", 1.5, "out/img_const_clamp1.5"),
    ],
)
def test_image(ws, noise_mode, clamp, expected):
    t = reference(NVIDIA, "g64")
    assert_close(nvidia_g64(conv_clamp=clamp).synthesis(GeneratorInputs(t[ws]), noise_mode), t[expected])


def test_image_in_half_precision():
    t = reference(NVIDIA, "g64")
    generator = nvidia_g64(conv_clamp=256).set_precision(torch.float16, 2)
    image = generator.synthesis(GeneratorInputs(t["io/wplus"]))
    assert image.dtype == torch.float32
    assert (image - t["out/img_const_fp16res2"]).abs().max() <= 2e-2
    assert not torch.equal(image, generator.set_precision(None).synthesis(GeneratorInputs(t["io/wplus"])))


def test_features(g64):
    t = reference(NVIDIA, "g64")
    names = [f"b{4 << i}{part}" for i in range(5) for part in ("", ".img")]
    _, features = g64.features(GeneratorInputs(t["io/wplus"]), names)
    for name in names:
        expected = t[f"feat/{name}" if name.endswith(".img") else f"feat/{name}.x"]
        assert_close(features[name][: expected.shape[0], : expected.shape[1]], expected)


def test_styles(g64):
    t, rows = reference(NVIDIA, "g64"), {}
    for n in range(5):
        rows |= {f"b{4 << n}.conv1": 2 * n, f"b{4 << n}.torgb": 2 * n + 1}
        rows |= {f"b{4 << n}.conv0": 2 * n - 1} if n else {}
    for name, row in rows.items():
        layer = g64.synthesis.get_submodule(name)
        assert_close(layer.affine(t["io/wplus"][:, row]), t[f"style/{name}"])


def test_gradients():
    t, generator = reference(NVIDIA, "g64"), nvidia_g64().requires_grad_(True)
    ws = t["io/wplus"].clone().requires_grad_()
    noise = {name: value.clone().requires_grad_() for name, value in generator.noise_const.items()}
    scalar = (generator.synthesis(GeneratorInputs(ws, noise=noise)) * t["io/R"]).sum()
    assert_close(scalar, t["grad/scalar"], GRADIENT)
    parameters = dict(generator.named_parameters())
    leaves = {"ws": ws} | {f"synthesis.{name}.noise_const": value for name, value in noise.items()}
    wanted = [
        key.removeprefix("grad/") for key in t if key.startswith("grad/") and key not in ("grad/scalar", "grad/z")
    ]
    assert len(wanted) == 16
    gradients = torch.autograd.grad(scalar, [leaves[k] if k in leaves else parameters[k] for k in wanted])
    for key, gradient in zip(wanted, gradients, strict=True):
        assert_close(gradient.reshape(t[f"grad/{key}"].shape), t[f"grad/{key}"], GRADIENT)


def test_gradient_of_z(g64):
    t = reference(NVIDIA, "g64")
    z = t["io/z"].clone().requires_grad_()
    loss = (g64.synthesis(GeneratorInputs(g64.broadcast(g64.mapping(z)))) * t["io/R"]).sum()
    assert_close(torch.autograd.grad(loss, z)[0], t["grad/z"], 10 * GRADIENT)  # 5e-4 on some processors


@pytest.mark.parametrize("architecture", ["resnet", "orig"])
def test_other_architectures(architecture):
    t = reference(NVIDIA, f"g16_{architecture}")
    widths = [t[f"state/synthesis.b{4 << i}.conv1.weight"].shape[0] for i in range(3)]
    layers = sum(key.startswith("state/mapping.fc") for key in t) // 2
    config = StyleGAN2Config(16, 16, widths, mapping_layers=layers, img_channels=1, architecture=architecture)
    generator = nvidia(f"g16_{architecture}", config)
    assert_close(generator.broadcast(generator.mapping(t["io/z"])), t["io/ws_psi1"])
    assert_close(generator.synthesis(GeneratorInputs(t["io/ws_psi1"])), t["out/img_const"])


def test_conditional_generator():
    t = reference(NVIDIA, "g32_cond")
    widths = (24, 24, 24, 16)
    config = StyleGAN2Config(
        16, 24, widths, 3, mapping_layers=3, embed_features=20, layer_features=28, lr_multiplier=0.02
    )
    generator = nvidia("g32_cond", config)
    w = generator.mapping(t["io/z"], t["io/c"])
    assert_close(generator.broadcast(w), t["io/ws_psi1"])
    assert_close(generator.truncate(w, 0.7), t["io/ws_psi0.7"])
    assert_close(generator.synthesis(GeneratorInputs(t["io/ws_psi1"])), t["out/img_const"])
    assert_close(generator.synthesis(GeneratorInputs(t["io/ws_psi1"]), "none"), t["out/img_none"])
    assert_close(generator.synthesis(GeneratorInputs(t["io/ws_psi0.7"])), t["out/img_psi0.7_const"])
    with pytest.raises(ValueError, match="labels"):
        generator.mapping(t["io/z"])


def test_rosinality_generator():
    t, generator = reference(ROSINALITY, "g64"), rosinality_g64()
    assert_close(generator.mapping(t["io/z"]), t["io/w"])
    assert_close(generator.truncate(t["io/w"], 0.7), t["io/latent_z_trunc0.7"])
    given = {name: t[f"io/noise_{i}"] for i, name in enumerate(generator.noise_shapes)}
    for latent, noise, expected in (
        ("latent", None, "buffers"),
        ("latent", given, "given_noise"),
        ("latent_z_trunc0.7", None, "z_trunc0.7_buffers"),
        ("latent_mix_inject3", None, "mix_inject3"),
    ):
        image = generator.synthesis(GeneratorInputs(t[f"io/{latent}"], noise=noise))
        assert_close(image, t[f"out/img_{expected}"])
    latent = t["io/latent"].clone().requires_grad_()
    loss = (generator.synthesis(GeneratorInputs(latent)) * t["io/R"]).sum()
    assert_close(torch.autograd.grad(loss, latent)[0], t["grad/latent"], GRADIENT)


# Conversion --------------------------------------------------------------------------------------------------------


def test_nvidia_to_rosinality(g64):
    """The exported state is complete, and read back it draws what rosinality's own code drew from a converted state."""
    state, _ = rosinality.exported(g64)
    theirs = state_of(reference(ROSINALITY, "g64"))
    assert {k: v.shape for k, v in state.items()} == {k: v.shape for k, v in theirs.items()}
    converted = build(rosinality.generator_weights(state, g64.w_avg, "converted"), "converted")
    t = reference(NVIDIA, "g64")
    image = converted.synthesis(GeneratorInputs(t["io/wplus"]))
    assert_close(image, reference(ROSINALITY, "g64")["out/img_from_sg2ada_g64_wplus"])
    assert_close(image, t["out/img_const"])
    assert_close(converted.broadcast(converted.mapping(t["io/z"])), t["io/ws_psi1"])


def test_rosinality_to_nvidia():
    t, generator = reference(ROSINALITY, "g64"), rosinality_g64()
    config = StyleGAN2Config(32, 32, (32, 32, 32, 32, 16), mapping_layers=4)
    state = {key: value for key, value in generator.state_dict().items() if not key.endswith("resample_filter")}
    ours = set(state_of(reference(NVIDIA, "g64")))
    assert set(state) == {key for key in ours if not key.endswith("resample_filter")}
    converted = build(NetworkWeights(config, state, generator.synthesis.resample_filter), "converted")
    assert_close(converted.synthesis(GeneratorInputs(t["io/latent"])), t["out/img_buffers"])


def test_rosinality_round_trip_is_exact():
    theirs = state_of(reference(ROSINALITY, "g64"))
    state, _ = rosinality.exported(rosinality_g64())
    assert state.keys() == theirs.keys()
    for key, tensor in theirs.items():
        assert torch.equal(state[key], tensor), key


def test_converted_discriminator():
    discriminator, t = nvidia("d32", DISCRIMINATORS["d32"]), reference(ROSINALITY, "d32")
    logits = discriminator(reference(NVIDIA, "d32")["io/img"])
    assert_close(logits, t["out/logits_from_sg2ada_d32"])


# Discriminators ----------------------------------------------------------------------------------------------------


def _widths(name):
    state = state_of(reference(NVIDIA, name))
    return (state["b4.conv.weight"].shape[0], *(state[f"b{r}.conv0.weight"].shape[0] for r in (8, 16, 32)))


DISCRIMINATORS = {
    name: DiscriminatorConfig(_widths(name), **settings)
    for name, settings in {
        "d32": {},
        "d32_cond": {
            "c_dim": 3,
            "mapping_layers": 2,
            "lr_multiplier": 0.02,
            "mbstd_group_size": 2,
            "mbstd_num_channels": 2,
        },
        "d32_orig": {"architecture": "orig", "conv_clamp": 2.0},
        "d32_skip": {"architecture": "skip", "mbstd_group_size": None},
    }.items()
}


@pytest.mark.parametrize("name", [*DISCRIMINATORS, "rosinality"])
def test_discriminator(name):
    if name == "rosinality":
        t = reference(ROSINALITY, "d32")
        discriminator = build(rosinality.discriminator_weights(state_of(t), name), name)
    else:
        t, discriminator = reference(NVIDIA, name), nvidia(name, DISCRIMINATORS[name])
    c = t.get("io/c")
    image = t["io/img"].clone().requires_grad_()
    logits = discriminator(image, c)
    assert_close(logits, t["out/logits"])
    assert_close(torch.autograd.grad(logits.sum(), image)[0], t["grad/img"], GRADIENT)
    assert_close(discriminator(t["io/img"][:1], None if c is None else c[:1]), t["out/logits_first1"])
    for key in (key for key in t if key.startswith("feat/")):
        blocks = {"feat/b16.x": 2, "feat/b8.x": 3}[key]
        assert_close(discriminator.features(t["io/img"], blocks), t[key])


# Official configurations -------------------------------------------------------------------------------------------


def _configurations(folder):
    return json.loads(gzip.decompress((folder / "official_configs.json.gz").read_bytes()))


OFFICIAL = _configurations(NVIDIA)
OFFICIAL_ROSINALITY = _configurations(ROSINALITY)


def shapes(network):
    return {
        key: list(tensor.shape) for key, tensor in network.state_dict().items() if not key.endswith("resample_filter")
    }


def count(network):
    return sum(parameter.numel() for parameter in network.parameters())


def official_generator(res, base, layers, c_dim=0):
    channels = tuple(min(base // (4 << i), 512) for i in range(int(math.log2(res)) - 1))
    with torch.device("meta"):
        return StyleGAN2(StyleGAN2Config(512, 512, channels, c_dim, mapping_layers=layers))


@pytest.mark.parametrize("name", OFFICIAL)
def test_official_configuration(name):
    entry = OFFICIAL[name]
    settings = entry["kwargs"]
    generator = official_generator(settings["res"], settings["base"], settings["map"], settings.get("c", 0))
    without_filters = {
        kind: {key: shape for key, shape in entry[kind].items() if not key.endswith("resample_filter")} for kind in "GD"
    }
    assert shapes(generator) == without_filters["G"]
    assert generator.num_ws == entry["num_ws"]
    assert count(generator) == entry["G_params"]
    assert generator.resolution == (settings["res"], settings["res"])
    layers = sum(key.startswith("mapping.fc") for key in entry["D"]) // 2
    architecture = "resnet" if any(".skip." in key for key in entry["D"]) else "orig"
    config = DiscriminatorConfig(
        generator.config.channels, c_dim=settings.get("c", 0), mapping_layers=layers, architecture=architecture
    )
    with torch.device("meta"):
        discriminator = Discriminator(config)
    assert shapes(discriminator) == without_filters["D"]
    assert count(discriminator) == entry["D_params"]


@pytest.mark.parametrize("name", OFFICIAL_ROSINALITY)
def test_official_rosinality_configuration(name):
    """`size1024_cm2_mlp8`: size, channel multiplier, mapping layers."""
    entry = OFFICIAL_ROSINALITY[name]
    size, multiplier, layers = (int("".join(filter(str.isdigit, part))) for part in name.split("_"))
    generator = official_generator(size, 16384 * multiplier, layers)
    ours, blocks = shapes(generator), len(generator.config.channels)
    names = rosinality.generator_names(layers, blocks)
    expected = {key: [*[1] * before, *ours[name], *[1] * after] for key, (name, before, after) in names.items()}
    expected |= {key: [4, 4] for key in rosinality.kernel_names(blocks)}
    assert expected == entry["G"]
    assert {ours for ours, _, _ in names.values()} | {"mapping.w_avg"} == set(ours)
    assert generator.num_ws == entry["n_latent"]
    assert len(generator.noise_shapes) == entry["num_noise"]


# What no reference draws, beyond the contract of every family (test_generator_contract.py) ---------------------------


def test_residuals_are_added(tiny_generator, tiny_inputs):
    """With the differences to B's activations and skip image at 16x16 and B's styles above them, A's image is B's."""
    a, b = tiny_inputs.index([0]), tiny_inputs.index([1])
    ws = torch.cat([a.ws[:, :5], b.ws[:, 5:]], dim=1)
    expected, wanted = tiny_generator.features(b, ["b16", "b16.img"])
    plain, own = tiny_generator.features(GeneratorInputs(ws), ["b16", "b16.img"])
    residuals = {"b16": wanted["b16"] - own["b16"]}
    _, half = tiny_generator.features(GeneratorInputs(ws, residuals=residuals), ["b16.img"])
    residuals["b16.img"] = wanted["b16.img"] - half["b16.img"]
    assert_close(tiny_generator.synthesis(GeneratorInputs(ws, residuals=residuals)), expected)
    assert not torch.allclose(plain, expected)


def test_whole_outputs_of_earlier_files_replace_the_layers(tiny_generator, tiny_inputs, tmp_path):
    """A file that an earlier release wrote, with `features`, is drawn as it was then, and again when saved anew."""
    a, b = tiny_inputs.index([0]), tiny_inputs.index([1])
    ws = torch.cat([a.ws[:, :5], b.ws[:, 5:]], dim=1)
    expected, features = tiny_generator.features(b, ["b16", "b16.img"])
    save_tensors(tmp_path / "old.safetensors", {"ws": ws, **{f"features/{name}": x for name, x in features.items()}})
    found = GeneratorInputs.load(tmp_path / "old.safetensors")
    assert torch.equal(tiny_generator.synthesis(found), expected)
    found.save(tmp_path / "new.safetensors")
    assert torch.equal(tiny_generator.synthesis(GeneratorInputs.load(tmp_path / "new.safetensors")), expected)


def test_constant_that_is_not_square(tiny_inputs):
    """A 4x2 constant draws the transpose of what the transposed network draws from a 2x4 one."""
    tall, wide = make_tiny_generator(const_size=(4, 2)), make_tiny_generator(const_size=(2, 4))
    transposed = {
        name: value.transpose(-1, -2).contiguous()
        if "affine" not in name and "mapping" not in name and value.ndim > 1
        else value
        for name, value in tall.state_dict().items()
    }
    wide.load_state_dict(transposed)
    image = tall.synthesis(tiny_inputs)
    assert image.shape == (3, 3, *tall.resolution) == (3, 3, 32, 16)
    assert tall.noise_shapes["b32.conv1"] == (32, 16)
    assert_close(wide.synthesis(tiny_inputs).transpose(2, 3), image)
