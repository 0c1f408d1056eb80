"""StyleGAN3 generators from files: NVIDIA's pickles (T, R, conditional), state dicts in wrappers, ours; refusals."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from functools import cache
from typing import Any

import pytest
import torch
from conftest import REFERENCE
from pickle_writer import dumps
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from latentopt.checkpoints.describe import describe
from latentopt.checkpoints.networks import load_generator, save_generator, save_rosinality
from latentopt.checkpoints.persistence import Record
from latentopt.errors import CheckpointError
from latentopt.types import GeneratorInputs

NETS = ("t32", "r32", "t64_14layers_cond")
BUFFERS = ("w_avg", "freqs", "phases", "transform", "magnitude_ema", "up_filter", "down_filter")


@cache
def reference(name: str) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    path = REFERENCE / "stylegan3_nvidia" / f"{name}.safetensors"
    with safe_open(path, "pt") as file:
        return load_file(path), file.metadata()


def state_of(name: str) -> dict[str, torch.Tensor]:
    return {k.removeprefix("state/"): x.clone() for k, x in reference(name)[0].items() if k.startswith("state/")}


def record_of(name: str, changes: Mapping[tuple[str, str], Any] | None = None) -> Record:
    """The network as NVIDIA's code writes it; `changes` are to attributes: {(module, attribute): value}."""
    about = {key: json.loads(reference(name)[1][key]) for key in ("layers", "input", "init_kwargs")}
    kwargs, layers = about["init_kwargs"], about["layers"]
    synthesis = {"layer_names": [layer["name"] for layer in layers], "img_resolution": kwargs["img_resolution"]}
    synthesis |= {"num_critical": 2, "margin_size": 10, "output_scale": 0.25, "num_fp16_res": 4, "_init_kwargs": kwargs}
    attributes: dict[str, dict] = {"": {}, "mapping": {}, "synthesis": synthesis, "synthesis.input": about["input"]}
    attributes |= {f"synthesis.{layer['name']}": layer for layer in layers}
    state = state_of(name)
    for key in state:
        module, _, last = key.rpartition(".")
        if last == "weight" and module.split(".")[-1] in ("fc0", "fc1", "affine", "embed"):
            gain = 0.01 if ".fc" in module else 1.0
            activation = "lrelu" if ".fc" in module else "linear"
            scale = gain / math.sqrt(state[key].shape[1])
            attributes[module] = {"bias_gain": gain, "weight_gain": scale, "activation": activation}
    for (module, attribute), value in (changes or {}).items():
        attributes[module] = attributes[module] | {attribute: value}
    return _record("", attributes, state)


def _record(path: str, attributes: Mapping[str, dict], state: Mapping[str, torch.Tensor]) -> Record:
    before = f"{path}." if path else ""
    own = {k.removeprefix(before): x for k, x in state.items() if k.startswith(before)}
    children = dict.fromkeys(key.partition(".")[0] for key in own if "." in key)
    tables: dict[str, Any] = {
        "_parameters": {k: x for k, x in own.items() if "." not in k and k not in BUFFERS},
        "_buffers": {k: x for k, x in own.items() if k in BUFFERS},
        "_modules": {name: _record(before + name, attributes, state) for name in children},
        "_non_persistent_buffers_set": set(),
        "_init_kwargs": {},
    }
    return Record("Generator", tables | attributes.get(path, {}), 6)


def drawn_as(path, name: str):
    """The generator of a file, found to draw what the reference does."""
    g, (io, _) = load_generator(path), reference(name)
    for inputs, image in (("io/wplus", "out/img"), ("io/ws_psi0.7", "out/img_psi0.7")):
        found = g.synthesis(GeneratorInputs(io[inputs]))
        assert (found - io[image]).abs().max() <= 1e-5 * io[image].abs().max()
    assert torch.allclose(g.broadcast(g.mapping(io["io/z"], io.get("io/c"))), io["io/ws_psi1"], atol=1e-5)
    return g


# What is read ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("protocol", [3, 4])
@pytest.mark.parametrize("name", NETS)
def test_pickles(name, protocol, tmp_path):
    contents = {"G": None, "D": None, "G_ema": record_of(name), "training_set_kwargs": {"path": "x.zip"}}
    (tmp_path / "net.pkl").write_bytes(dumps(contents, protocol))
    g = drawn_as(tmp_path / "net.pkl", name)
    assert g.notes == ()
    assert (g.config.img_resolution, g.c_dim) == ((64, 3) if "cond" in name else (32, 0))
    assert g.fingerprint == drawn_as_state(name, tmp_path).fingerprint


def drawn_as_state(name, folder):
    save_file(state_of(name), folder / "state.safetensors")
    return drawn_as(folder / "state.safetensors", name)


WRAPPED = {
    "bare": lambda state: state,
    "G_ema": lambda state: {"G_ema": state},
    "module.": lambda state: {"g_ema": {f"module.{key}": x for key, x in state.items()}, "iteration": 3},
    "deep": lambda state: {"model": {"ema": state}},
}


@pytest.mark.parametrize("form", WRAPPED)
@pytest.mark.parametrize("name", NETS)
def test_state_dicts(name, form, tmp_path):
    torch.save(WRAPPED[form](state_of(name)), tmp_path / "net.pt")
    g = drawn_as(tmp_path / "net.pt", name)
    assert "a state dict without settings" in " ".join(g.notes)
    assert g.config.radial_filters == (name == "r32")


@pytest.mark.parametrize("name", NETS)
def test_ours(name, tmp_path):
    save_file(state_of(name), tmp_path / "theirs.safetensors")
    g = load_generator(tmp_path / "theirs.safetensors")
    save_generator(g, tmp_path / "ours.safetensors")
    assert drawn_as(tmp_path / "ours.safetensors", name).config == g.config


@pytest.mark.parametrize("name", NETS)
def test_what_a_state_dict_lacks_is_put_in_with_a_note(name, tmp_path):
    state = state_of(name)
    lacking = [key for key in state if key.endswith(("_filter", "input.transform", "w_avg"))]
    kept = {key: x for key, x in state.items() if key not in lacking}
    torch.save({"g_ema": kept, "w_avg": state["mapping.w_avg"]}, tmp_path / "net.pt")
    notes = " ".join(drawn_as(tmp_path / "net.pt", name).notes)
    for text in (f"{len(lacking) - 2} filters are not in the file", "no transform of the input"):
        assert text in notes


def test_a_stored_transform_moves_every_picture(tmp_path):
    io, _ = reference("t32")
    save_file(state_of("t32") | {"synthesis.input.transform": io["io/transform_inv"]}, tmp_path / "net.safetensors")
    image = load_generator(tmp_path / "net.safetensors").synthesis(GeneratorInputs(io["io/wplus"]))
    assert (image - io["out/img_transformed"]).abs().max() < 1e-5 * image.abs().max()


def test_filters_of_another_design_are_used_and_noted(tmp_path):
    state, io = state_of("t32"), reference("t32")[0]
    state["synthesis.L0_36_16.up_filter"] *= 0.5
    save_file(state, tmp_path / "net.safetensors")
    g = load_generator(tmp_path / "net.safetensors")
    assert any("1 filters are not of the usual design" in note for note in g.notes)
    assert not torch.allclose(g.synthesis(GeneratorInputs(io["io/wplus"])), io["out/img"], atol=1e-3)


def test_it_is_described(tmp_path):
    (tmp_path / "net.pkl").write_bytes(dumps({"G_ema": record_of("r32")}))
    facts = describe(tmp_path / "net.pkl")
    expected = {"kind": "StyleGAN3 generator", "num_ws": 10, "conv_kernel": 1, "radial_filters": True, "labels": None}
    assert {key: facts[key] for key in expected} == expected


def test_rosinalitys_layout_cannot_hold_it(tmp_path):
    save_file(state_of("t32"), tmp_path / "net.safetensors")
    with pytest.raises(CheckpointError, match="cannot hold a StyleGAN3 generator"):
        save_rosinality(load_generator(tmp_path / "net.safetensors"), tmp_path / "out.pt")


# What is refused ---------------------------------------------------------------------------------------------------

FIRST, LAST = "synthesis.L0_36_16", "synthesis.L8_32_3"


@pytest.mark.parametrize(
    ("module", "attribute", "value"),
    [
        (FIRST, "padding", [8, 9, 8, 9]),
        (FIRST, "in_cutoff", 2.5),
        (FIRST, "out_half_width", 5.0),
        (FIRST, "conv_clamp", 100),
        (FIRST, "up_factor", 4),
        (FIRST, "conv_kernel", 5),
        (LAST, "is_torgb", False),
        (LAST, "out_sampling_rate", 64),
        ("synthesis.input", "bandwidth", 3.0),
        ("synthesis.input", "size", [40, 36]),
        ("synthesis", "margin_size", 12),
        ("synthesis", "num_critical", 9),
        ("synthesis", "layer_names", ["L0_36_16"]),
        ("synthesis", "img_resolution", 0),
        ("synthesis", "output_scale", "quarter"),
        ("mapping.fc1", "activation", "relu"),
        ("mapping.fc0", "bias_gain", 0.1),
    ],
)
def test_records_that_would_draw_something_else(module, attribute, value, tmp_path):
    (tmp_path / "net.pkl").write_bytes(dumps({"G_ema": record_of("t32", {(module, attribute): value})}))
    with pytest.raises(CheckpointError, match=r"net\.pkl: "):
        load_generator(tmp_path / "net.pkl")


def without(*ends):
    return lambda state: {k: x for k, x in state.items() if not k.endswith(ends)}


DAMAGED = {
    "a layer is missing": (without("L3_52_16.weight"), "layers of its StyleGAN3 are missing"),
    "a bias is missing": (without("L3_52_16.bias"), "1 missing"),
    "no mapping": (lambda state: {k: x for k, x in state.items() if "mapping" not in k}, "no mapping network"),
    "the input's weight only": (lambda state: {k: x for k, x in state.items() if "input" in k}, "mapping"),
    "sizes of none": (
        lambda state: {k.replace("L3_52", "L3_50"): x for k, x in state.items()},
        "sizes of its layers .* are those of no StyleGAN3",
    ),
    "a channel less": (lambda state: state | {f"{FIRST}.bias": state[f"{FIRST}.bias"][:-1]}, "other shapes"),
    "not finite": (lambda state: state | {f"{FIRST}.bias": state[f"{FIRST}.bias"] * math.nan}, "not finite"),
    "no mean of squares": (
        lambda state: state | {f"{FIRST}.magnitude_ema": torch.zeros([])},
        "magnitude_ema is 0.0, where a mean of squares belongs",
    ),
    "more than it has": (lambda state: state | {"synthesis.b4.weight": torch.ones(1)}, "1 unexpected"),
    "a huge name": (
        lambda state: {k.replace("L8_32_3", "L8_99999_3"): x for k, x in state.items()},
        "are those of no StyleGAN3",
    ),
}


@pytest.mark.parametrize("damage", DAMAGED)
def test_damaged_state_dicts(damage, tmp_path):
    change, message = DAMAGED[damage]
    save_file(change(state_of("t32")), tmp_path / "net.safetensors")
    with pytest.raises(CheckpointError, match=message) as caught:
        load_generator(tmp_path / "net.safetensors")
    assert "net.safetensors" in str(caught.value)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("filter_size", 1 << 20),
        ("lrelu_upsampling", 1000),
        ("img_resolution", 1 << 20),
        ("num_critical", 8),
        ("first_cutoff", 0.0),
        ("first_cutoff", 1e9),
        ("last_stopband_rel", -1.0),
        ("channels", [16]),
        ("channels", []),
        ("conv_kernel", 0),
        ("margin_size", 1 << 19),
        ("output_scale", math.inf),
        ("unknown", 3),
    ],
)
def test_configurations_of_ours_that_cannot_be(key, value, tmp_path):
    """Refused in a message, whatever they would have built."""
    save_file(state_of("t32"), tmp_path / "theirs.safetensors")
    g = load_generator(tmp_path / "theirs.safetensors")
    config = json.dumps(json.loads(g.config.to_json()) | {key: value})
    metadata = {"format": "latentopt-generator-1", "family": "stylegan3", "config": config}
    save_file(g.state_dict(), tmp_path / "ours.safetensors", metadata)
    with pytest.raises(CheckpointError, match=r"ours\.safetensors"):
        load_generator(tmp_path / "ours.safetensors")
