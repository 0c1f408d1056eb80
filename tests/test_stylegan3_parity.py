"""The StyleGAN3 generator against golden tensors of NVIDIA's: filters, operators, T, R and a conditional net.

Tolerances are relative to the largest value; those of the reference's README are 2e-5 for outputs (here 1e-5) and 1e-4
for gradients.
"""

from __future__ import annotations

import copy
import gzip
import json
from functools import cache
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from conftest import REFERENCE
from safetensors import safe_open
from safetensors.torch import load_file

from latentopt.checkpoints import stylegan3
from latentopt.checkpoints.model_files import Checkpoint
from latentopt.checkpoints.networks import generator_from
from latentopt.checkpoints.restricted_pickle import module_state, read_pickle
from latentopt.checkpoints.weights import build
from latentopt.errors import UsageError
from latentopt.generators import filtered
from latentopt.generators.filtered import Filters
from latentopt.generators.lowpass import lowpass
from latentopt.generators.ops import LRELU_SLOPE, SQRT2, modulated_conv2d, upfirdn
from latentopt.generators.stylegan3_config import StyleGAN3Config
from latentopt.generators.stylegan3_layer import EPSILON, normalized
from latentopt.geometry.moves import PictureMove, inverse_move
from latentopt.types import GeneratorInputs

FOLDER = REFERENCE / "stylegan3_nvidia"
OUTPUT, GRADIENT = 1e-5, 1e-4
NETS = ("t32", "r32", "t64_14layers_cond")


def assert_close(actual, expected, tolerance=OUTPUT):
    assert actual.shape == expected.shape
    error = (actual.detach() - expected).abs().max().item() / expected.abs().max().item()
    assert error <= tolerance, f"relative error {error:.2e}"


@cache
def reference(name):
    path = FOLDER / f"{name}.safetensors"
    with safe_open(path, "pt") as file:
        return load_file(path), file.metadata()


@cache
def net(name):
    """As a bare state dict is read: whatever the configuration is, is told by names and shapes."""
    tensors, _ = reference(name)
    state = {key.removeprefix("state/"): x for key, x in tensors.items() if key.startswith("state/")}
    return build(stylegan3.weights_of_state(state, None, name), name)


# Filters and operators ---------------------------------------------------------------------------------------------

OPS, CASES = reference("ops")[0], json.loads(reference("ops")[1]["cases"])
FILTERED = {  # case: (up filter, down filter)
    "flrelu_sep": ("fu", "fd"),
    "flrelu_sep_up4": ("fu4", "fd"),
    "flrelu_radial": ("fu", "fr"),
    "flrelu_torgb": (None, None),
    "flrelu_crop": ("fu", None),
}


@pytest.mark.parametrize("name", [name for name in CASES if name.startswith("lowpass")])
def test_filter_design(name):
    case = CASES[name]
    f = lowpass(case["numtaps"], case["cutoff"], case["width"], case["fs"], case["radial"])
    assert_close(torch.from_numpy(f).float(), OPS[name], 1e-6)


def naive(x, up_filter, down_filter, up, down, pad, gain, slope, clamp):
    """The same with inserted zeros and convolutions."""
    one = torch.ones(1, 1)
    x = upfirdn(x, one if up_filter is None else up_filter, up=up, pad=pad, gain=up**2)
    x = F.leaky_relu(x, slope) * gain
    x = x if clamp is None else x.clamp(-clamp, clamp)
    return upfirdn(x, one if down_filter is None else down_filter, down=down)


def filtered_as(function, name, x):
    case = CASES[name]
    filters = [None if f is None else OPS[f] for f in FILTERED[name]]
    how = (case.get("gain", SQRT2), case.get("slope", LRELU_SLOPE), case.get("clamp"))
    resampled = (*filters, case["up"], case["down"], case["padding"])
    return function(x, *resampled, *how)


def fast(x, *arguments):
    return Filters.of(x.shape[2:], *arguments[:5], x.dtype, arguments[5])(x, *arguments[6:])


@pytest.mark.parametrize("blocks", [False, True], ids=["whole", "in blocks"])
@pytest.mark.parametrize("name", FILTERED)
def test_filtered_leaky_relu(name, blocks, monkeypatch):
    """As the reference, and with the gradient of the same operators written naively."""
    if blocks:
        monkeypatch.setattr(filtered, "DENSE", 2)
        monkeypatch.setattr(filtered, "BLOCK", 2)
    x = (OPS["x"] + OPS["b"][:, None, None]).requires_grad_()
    drawn = filtered_as(fast, name, x)
    assert_close(drawn, OPS[name])
    towards = torch.randn(drawn.shape, generator=torch.Generator().manual_seed(0))
    gradients = [torch.autograd.grad((filtered_as(f, name, x) * towards).sum(), x)[0] for f in (fast, naive)]
    assert_close(*gradients)


def test_large_canvases_are_done_in_blocks(monkeypatch):
    monkeypatch.setattr(filtered, "DENSE", 128)
    x = torch.randn(1, 2, 150, 150, generator=torch.Generator().manual_seed(1))
    arguments = (OPS["fu4"], OPS["fr"], 4, 2, (-6, -9, -6, -9), SQRT2, LRELU_SLOPE, 256.0)
    made = Filters.of(x.shape[2:], *arguments[:5], x.dtype)
    assert made.up[0].blocks > 1 < made.down[0].blocks
    assert_close(fast(x, *arguments), naive(x, *arguments))


def test_modulated_convolution():
    weight, styles = normalized(OPS["mc_w"], 3), normalized(OPS["mc_s"], 1)
    y = modulated_conv2d(OPS["mc_x"], weight, styles, epsilon=EPSILON, gain=OPS["mc_gain"], padding=2)
    assert_close(y, OPS["mc_demod"])
    styles = OPS["mc_s"] * OPS["mc_gain"]
    assert_close(modulated_conv2d(OPS["mc_x"], OPS["mc_w"], styles, demodulate=False, padding=0), OPS["mc_nodemod"])


OFFICIAL = json.loads(gzip.decompress((FOLDER / "official_configs.json.gz").read_bytes()))
THEIRS = {  # of a layer: our name -> theirs
    "name": "name", "is_torgb": "is_torgb", "is_critical": "is_critically_sampled", "in_channels": "in_channels",
    "out_channels": "out_channels", "in_rate": "in_sampling_rate", "out_rate": "out_sampling_rate",
    "between_rate": "tmp_sampling_rate", "in_cutoff": "in_cutoff", "out_cutoff": "out_cutoff",
    "in_half_width": "in_half_width", "out_half_width": "out_half_width", "kernel": "conv_kernel", "up": "up_factor",
    "down": "down_factor", "up_taps": "up_taps", "down_taps": "down_taps", "radial": "down_radial",
}  # fmt: skip


@pytest.mark.parametrize("name", OFFICIAL)
def test_official_configurations(name):
    """Every attribute of every layer, every key and shape, without a weight."""
    about = OFFICIAL[name]
    theirs = about["kwargs"]
    size = theirs["img_resolution"]
    channels = StyleGAN3Config.planned(size, theirs["channel_base"], theirs["channel_max"], 14)
    kinds = {"conv_kernel": theirs.get("conv_kernel", 3), "radial_filters": theirs.get("use_radial_filters", False)}
    config = StyleGAN3Config(512, 512, size, channels, **kinds)
    for ours, layer in zip(config.layers, about["layers"], strict=True):
        assert {key: getattr(ours, key) for key in THEIRS} == {key: layer[value] for key, value in THEIRS.items()}
        assert [*ours.pad, *ours.pad] == layer["padding"]
        assert ([ours.in_size] * 2, [ours.out_size] * 2) == (layer["in_size"], layer["out_size"])
    assert (config.sizes[0], config.rates[0]) == (about["input"]["size"][0], about["input"]["sampling_rate"])
    with torch.device("meta"):
        network = config.build()
    assert {k: list(x.shape) for k, x in network.state_dict().items()} == dict(about["shapes"].items())
    assert sum(p.numel() for p in network.parameters()) == about["params"]


# Networks ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NETS)
def test_mapping(name):
    (io, _), g = reference(name), net(name)
    w = g.mapping(io["io/z"], io.get("io/c"))
    assert_close(g.broadcast(w), io["io/ws_psi1"])
    assert_close(g.truncate(w, 0.7), io["io/ws_psi0.7"])
    assert_close(g.truncate(w, 0.7, cutoff=5), io["io/ws_psi0.7_cut5"])


@pytest.mark.parametrize("name", NETS)
def test_images_features_and_gradient(name):
    (io, _), g = reference(name), net(name)
    ws = io["io/wplus"].clone().requires_grad_()
    image, features = g.features(GeneratorInputs(ws), list(g.activations))
    assert_close(image, io["out/img"])
    kept = [key for key in io if key.startswith("feat/")]
    assert len(kept) == 6
    for key in kept:
        assert_close(features[key.removeprefix("feat/").partition("[")[0]][:1, :4], io[key])
    assert_close(torch.autograd.grad((image * io["io/R"]).sum(), ws)[0], io["grad/ws"], GRADIENT)
    assert_close(g.synthesis(GeneratorInputs(io["io/wplus"][:1])), io["out/img_first_only"])
    assert_close(g.synthesis(GeneratorInputs(io["io/ws_psi0.7"])), io["out/img_psi0.7"])


@pytest.mark.parametrize("name", NETS)
def test_a_move_of_the_picture(name):
    """As an input an image, and as the buffer that NVIDIA's tools set, which holds its inverse."""
    (io, _), g = reference(name), copy.deepcopy(net(name))
    move = PictureMove(20.0, (0.1, -0.05)).matrix
    assert_close(inverse_move(move)[0], io["io/transform_inv"], 1e-6)
    inputs = GeneratorInputs(io["io/wplus"])
    assert_close(g.synthesis(inputs.replace(transform=move.expand(2, 3, 3))), io["out/img_transformed"])
    g.synthesis.input.transform = io["io/transform_inv"].clone()
    assert_close(g.synthesis(inputs), io["out/img_transformed"])
    back = g.synthesis(inputs.replace(transform=inverse_move(move).expand(2, 3, 3)))
    assert_close(back, io["out/img"], 1e-4)


@pytest.mark.parametrize("name", NETS)
def test_the_filters_are_those_of_its_configuration(name):
    io, _ = reference(name)
    drawn = net(name).config.build().state_dict()
    for key in (key for key in drawn if key.endswith("_filter")):
        assert_close(drawn[key], io[f"state/{key}"], 1e-6)


def test_noise_maps_are_refused_in_words():
    inputs = GeneratorInputs(reference("t32")[0]["io/wplus"], noise={"b8.conv0": torch.zeros(2, 1, 8, 8)})
    with pytest.raises(UsageError, match=r"no noise maps; given are b8\.conv0"):
        net("t32").synthesis(inputs)


# A snapshot --------------------------------------------------------------------------------------------------------


@cache
def snapshot():
    tensors = load_file(REFERENCE / "pickles" / "sg3_snapshot.safetensors")
    return read_pickle(tensors["pickle_bytes"].numpy().tobytes(), "sg3.pkl"), tensors


def snapshot_generator():
    return generator_from(Checkpoint(Path("sg3.pkl"), "pickle", snapshot()[0], {}), "sg3")


def test_a_snapshot_is_read_to_the_bit():
    contents, tensors = snapshot()
    found = {f"expect/{n}/{k}": x for n in ("G", "D", "G_ema") for k, x in module_state(contents[n]).items()}
    assert set(found) == {key for key in tensors if key.startswith("expect/")}
    assert all(torch.equal(found[key], tensors[key]) for key in found)


def test_a_snapshots_generator():
    g, tensors = snapshot_generator(), snapshot()[1]
    state = g.state_dict()
    expected = {k.removeprefix("expect/G_ema/"): x for k, x in tensors.items() if k.startswith("expect/G_ema/")}
    assert set(state) == set(expected)
    assert all(torch.equal(state[key], expected[key]) for key in expected)
    assert torch.allclose(g.mapping(tensors["io/z"]), tensors["io/ws"][:, 0], atol=1e-6)
    assert_close(g.synthesis(GeneratorInputs(tensors["io/ws"])), tensors["out/img"])


def test_a_compiled_generator_draws_the_same():
    g, tensors = snapshot_generator(), snapshot()[1]
    seen = []

    def backend(graph, example_inputs):
        seen.append(graph)
        return graph

    g.synthesis.compile(backend=backend)
    assert_close(g.synthesis(GeneratorInputs(tensors["io/ws"])), tensors["out/img"])
    assert seen
