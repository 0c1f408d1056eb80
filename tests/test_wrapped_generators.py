"""Good weights in other wrappings than usual: every layout, by every writer, wrapped in whatever tools wrap them in."""

from __future__ import annotations

import argparse
import collections
import math
import pathlib
import pickle
import sys
import types
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch
from conftest import REFERENCE, make_tiny_generator
from pickle_writer import Call, Name, dumps, network
from safetensors.torch import load_file, save_file

from latentopt.checkpoints import rosinality
from latentopt.checkpoints.describe import describe
from latentopt.checkpoints.networks import load_discriminator, load_generator, save_generator
from latentopt.checkpoints.restricted_pickle import read_pickle, read_torch_contents
from latentopt.errors import CheckpointError, UntrustedFileError
from latentopt.generators.discriminator import Discriminator, DiscriminatorConfig
from latentopt.types import GeneratorInputs


@cache
def tiny(seed=0, **changes):
    return make_tiny_generator(seed, **changes)


@cache
def rosinality_state(seed=0):
    return rosinality.exported(tiny(seed))[0]


def our_state(seed=0, **changes):
    return {name: x.clone() for name, x in tiny(seed, **changes).state_dict().items()}


def nvidia_state(seed=0, **changes):
    """As NVIDIA's networks name their weights: each layer has the filter."""
    state = our_state(seed, **changes)
    f = state.pop("synthesis.resample_filter")
    layers = [name.removesuffix(".noise_const") for name in state if name.endswith(".noise_const")]
    return state | {f"{layer}.resample_filter": f.clone() for layer in layers}


def basicsr_state(seed=0):
    """Named as in BasicSR's StyleGAN2Generator, whose filters are no part of the state."""
    names = {
        "style.": "style_mlp.",
        "convs.": "style_convs.",
        "conv1.": "style_conv1.",
        "input.input": "constant_input.weight",
    }
    state = {}
    for name, value in rosinality_state(seed).items():
        if name.endswith(".kernel"):
            continue
        start = next((start for start in names if name.startswith(start)), "")
        name = names.get(start, "") + name.removeprefix(start)
        name = name.replace(".conv.", ".modulated_conv.").replace(".noise.weight", ".weight")
        state[name.replace("noises.noise_", "noises.noise")] = value
    return state


LAYOUTS = {"basicsr": basicsr_state, "rosinality": rosinality_state, "nvidia": nvidia_state, "ours": our_state}


def prefixed(state, prefix):
    return {prefix + name: value for name, value in state.items()}


class Wrapped(torch.nn.Module):
    """What a state dict of torch itself is: ordered, with the versions of modules."""

    def __init__(self, state):
        super().__init__()
        for name, value in state.items():
            self.register_buffer(name.replace(".", "~"), value)

    def state(self):
        named = self.state_dict()
        found = collections.OrderedDict((name.replace("~", "."), value) for name, value in named.items())
        found._metadata = named._metadata
        return found


def with_settings(state, _):
    settings = {
        "loss": np.float64(0.25),
        "step": np.int64(3),
        "curve": np.arange(3.0),
        "path": pathlib.PurePosixPath("/data/faces"),
        "windows": pathlib.PureWindowsPath(r"C:\data"),
        "args": argparse.Namespace(size=32, path=pathlib.PurePosixPath("x")),
        "device": torch.device("cuda", 1),
        "dtype": torch.float16,
        "shape": torch.Size((1, 2)),
    }
    return {"g_ema": state, **settings}


WRAPPINGS = {  # name: (the weights and other weights of the same shapes -> contents of a file, part of the notes)
    "g_ema": (lambda s, _: {"g_ema": s}, ""),
    "G_ema": (lambda s, _: {"G_ema": s}, ""),
    "bare": (lambda s, _: s, ""),
    "ordered, with versions": (lambda s, _: {"g_ema": Wrapped(s).state()}, ""),
    "parameters": (lambda s, _: {"g_ema": {k: torch.nn.Parameter(v) for k, v in s.items()}}, ""),
    "g": (lambda s, _: {"g": s}, "'g' of the file, which has no EMA copy"),
    "G": (lambda s, _: {"G": s}, "'G' of the file, which has no EMA copy"),
    "g_ema is None": (lambda s, _: {"g_ema": None, "g": s}, "'g' of the file"),
    "g_ema is empty": (lambda s, _: {"g_ema": {}, "g": s}, "'g' of the file"),
    "g before g_ema": (lambda s, o: {"g": o, "g_ema": s}, ""),
    "params_ema": (
        lambda s, o: {"params": o, "params_ema": s},
        "'params_ema' of the file, its EMA copy (also in it: 'p",
    ),
    "generator_smooth": (
        lambda s, o: {"generator": o, "generator_smooth": s},
        "'generator_smooth' of the file, its EMA",
    ),
    "netG_ema": (lambda s, o: {"netG_ema": s, "netG": o}, "'netG_ema'"),
    "ema": (lambda s, o: {"model": o, "ema": s}, "'ema'"),
    "EMA": (lambda s, o: {"model": o, "modelEMA": s}, "'modelEMA'"),
    "Gs": (lambda s, o: {"G": o, "Gs": s}, "'Gs'"),
    "g_running": (lambda s, o: {"generator": o, "g_running": s}, "'g_running'"),
    "avg_model": (lambda s, o: {"model": o, "avg_model": s}, "'avg_model'"),
    "state_dict": (lambda s, _: {"state_dict": s, "epoch": 3}, "'state_dict' of the file"),
    "model": (lambda s, _: {"model": s, "optimizer": {"state": {0: {"step": torch.ones(1)}}}}, "'model' of the file"),
    "nested": (
        lambda s, o: {"model": {"generator": o, "generator_ema": s}},
        "'model.generator_ema' of the file, its EMA",
    ),
    "nested deeper": (lambda s, _: {"a": {"b": {"c": {"net": s}}}}, "'a.b.c.net' of the file"),
    "a list": (lambda s, _: [s], "'item 0' of the file"),
    "in a list": (lambda s, o: {"models": [o, {"ema": s}]}, "'models.1.ema'"),
    "module.": (lambda s, _: {"g_ema": prefixed(s, "module.")}, "'module.' was left out"),
    "generator.": (lambda s, _: {"g_ema": prefixed(s, "generator.")}, "'g_ema.generator'"),
    "module.generator.": (lambda s, _: prefixed(s, "module.generator."), "'generator' of the file"),
    "_orig_mod.": (lambda s, _: {"g_ema": prefixed(s, "_orig_mod.")}, "'_orig_mod.' was left out"),
    "any prefix": (lambda s, _: prefixed(s, "the.net_of_mine."), "'the.net_of_mine'"),
    "Lightning": (lambda s, o: {"state_dict": prefixed(o, "G.") | prefixed(s, "G_ema.")}, "'state_dict.G_ema'"),
    "flat, EMA beside": (lambda s, o: prefixed(o, "gen.") | prefixed(s, "gen_ema."), "'gen_ema'"),
    "wrapped inside": (
        lambda s, _: {"g_ema": {k.replace("synthesis.", "synthesis.module."): v for k, v in s.items()}},
        "",
    ),
    "half": (lambda s, _: {"g_ema": {k: v.clone() for k, v in s.items()}}, ""),
    "transposed in memory": (
        lambda s, _: {"g_ema": {k: v.T.contiguous().T if v.ndim == 2 else v for k, v in s.items()}},
        "",
    ),
    "shared by two names": (lambda s, _: {"g": {k: v.view_as(v) for k, v in s.items()}, "g_ema": s}, ""),
    "settings beside it": (with_settings, ""),
}
WRITERS = {
    "torch": torch.save,
    "old torch": lambda contents, path: torch.save(contents, path, _use_new_zipfile_serialization=False),
    "pickle": lambda contents, path: path.write_bytes(pickle.dumps(contents, 4)),
}


@cache
def expected_image(**changes):
    return image_of(tiny(**changes))


def image_of(generator):
    z = torch.randn(2, generator.z_dim, generator=torch.Generator().manual_seed(5))
    c = torch.eye(generator.c_dim)[:2] if generator.c_dim else None
    return generator.synthesis(GeneratorInputs(generator.broadcast(generator.mapping(z, c))))


def assert_same(found, **changes):
    assert torch.allclose(image_of(found), expected_image(**changes), atol=2e-4)


@pytest.mark.parametrize("wrapping", WRAPPINGS)
@pytest.mark.parametrize("layout", ["rosinality", "nvidia"])
def test_every_wrapping_of_every_layout(wrapping, layout, tmp_path):
    wrap, said = WRAPPINGS[wrapping]
    torch.save(wrap(LAYOUTS[layout](), LAYOUTS[layout](seed=9)), tmp_path / "net.pt")
    generator = load_generator(tmp_path / "net.pt")
    assert_same(generator)
    assert said in "; ".join(generator.notes)
    assert said or not any("of the file" in note for note in generator.notes)


@pytest.mark.parametrize("writer", WRITERS)
@pytest.mark.parametrize(
    "wrapping", ["g_ema", "bare", "ordered, with versions", "shared by two names", "settings beside it"]
)
def test_every_writer(writer, wrapping, tmp_path):
    path = tmp_path / "net.bin"
    WRITERS[writer](WRAPPINGS[wrapping][0](rosinality_state(), rosinality_state(seed=9)), path)
    assert_same(load_generator(path))
    assert describe(path)["kind"] == "StyleGAN2 generator"


@pytest.mark.parametrize("prefix", ["", "g_ema.", "module.", "model.generator."])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_safetensors(layout, prefix, tmp_path):
    """What the refusal of a pickle advises."""
    state = prefixed(LAYOUTS[layout](), prefix)
    save_file(
        {name: value.contiguous() for name, value in state.items()}, tmp_path / "net.safetensors", {"format": "pt"}
    )
    assert_same(load_generator(tmp_path / "net.safetensors"))


def test_settings_come_back_as_plain_data(tmp_path):
    for writer in WRITERS.values():
        writer(with_settings(torch.ones(1), None), tmp_path / "net.bin")
        path = tmp_path / "net.bin"
        plain = writer is WRITERS["pickle"]
        contents = read_pickle(path.read_bytes(), "net.bin") if plain else read_torch_contents(path)
        assert (contents["loss"], contents["step"], contents["path"]) == (0.25, 3, "/data/faces")
        assert (contents["args"].size, contents["args"].path, contents["windows"]) == (32, "x", r"C:\data")
        assert (contents["device"], contents["shape"]) == ("cuda:1", (1, 2))


# what a state dict lacks ---------------------------------------------------------------


LACKING = {  # name: (changes to the configuration, names that are left out, part of the notes)
    "learning rate 1": ({"lr_multiplier": 1.0}, (), "multiplier of 1 in the mapping"),
    "learning rate 0.1": ({"lr_multiplier": 0.1}, (), "multiplier of 0.1 in the mapping"),
    "labels": ({"c_dim": 3}, (), "multiplier of 0.01"),
    "labels, other widths": ({"c_dim": 3, "embed_features": 5, "layer_features": 7}, (), ""),
    "one layer of mapping": ({"mapping_layers": 1}, (), ""),
    "z of another width": ({"z_dim": 9}, (), ""),
    "not square": ({"const_size": (4, 2)}, (), ""),
    "resnet": ({"architecture": "resnet"}, (), "architecture 'resnet'"),
    "orig": ({"architecture": "orig"}, (), "architecture 'orig'"),
    "grey": ({"img_channels": 1}, (), ""),
    "no filters": ({}, ("resample_filter",), "no filter for up-sampling"),
}


@pytest.mark.parametrize("name", LACKING)
def test_settings_are_inferred_from_shapes(name, tmp_path):
    changes, left_out, said = LACKING[name]
    state = {k: v for k, v in nvidia_state(**changes).items() if not k.endswith(left_out or ("~",))}
    torch.save({"g_ema": state}, tmp_path / "net.pt")
    generator = load_generator(tmp_path / "net.pt")
    assert_same(generator, **changes)
    found, config = generator.config, tiny(**changes).config
    widths = {"layer_features": found.layer_features, "embed_features": found.embed_features}
    assert found == replace(config, **widths)  # which are said by None where they are usual
    assert said in "; ".join(generator.notes)
    assert "no clamp" in generator.notes[0]


@pytest.mark.parametrize("layout", ["rosinality", "nvidia"])
def test_buffers_that_are_missing_are_put_in_and_said(layout, tmp_path):
    marks = ("noise_const", "noises.", "w_avg")
    state = {k: v for k, v in LAYOUTS[layout]().items() if not any(mark in k for mark in marks)}
    torch.save({"g_ema": state}, tmp_path / "net.pt")
    generator = load_generator(tmp_path / "net.pt")
    notes = "; ".join(generator.notes)
    assert "no noise maps: seeded ones" in notes and "no mean of w: estimated" in notes
    assert (generator.w_avg - tiny().w_avg).abs().max() < 0.3
    without = {k: v for k, v in state.items() if not k.endswith(("noise_strength", "noise.weight"))}
    torch.save({"g_ema": without}, tmp_path / "net.pt")
    generator = load_generator(tmp_path / "net.pt")
    assert "drawn without noise" in "; ".join(generator.notes)
    ws = tiny().w_avg.expand(1, tiny().num_ws, -1)
    expected = tiny().synthesis(GeneratorInputs(ws), "none")
    assert torch.allclose(generator.synthesis(GeneratorInputs(ws)), expected, atol=2e-4)


@pytest.mark.parametrize("place", ["beside", "outside", "inside", "w_avg"])
def test_a_mean_of_w_is_found(place, tmp_path):
    state, average = rosinality_state(), torch.randn(16)
    contents = {
        "beside": {"a": {"g_ema": state, "latent_avg": average}},
        "outside": {"a": {"g_ema": state}, "latent_avg": average},
        "inside": {"g_ema": state | {"latent_avg": average}},
        "w_avg": {"g_ema": state, "w_avg": average},
    }[place]
    torch.save(contents, tmp_path / "net.pt")
    assert torch.equal(load_generator(tmp_path / "net.pt").w_avg, average)


# networks that were saved whole ---------------------------------------------------------------


@cache
def snapshot():
    data = load_file(REFERENCE / "pickles" / "sg2ada_snapshot.safetensors")["pickle_bytes"].numpy().tobytes()
    return read_pickle(data, "snapshot")


def records(kind):
    g, ema, d = (snapshot()[name] for name in ("G", "G_ema", "D"))
    return {
        "G_ema": {"G_ema": ema},
        "G only": {"G": ema},
        "G_ema is None": {"G": ema, "G_ema": None, "D": d},
        "list": [ema],
        "G, D, Gs": (g, d, ema),
        "alone": ema,
        "nested": {"models": {"ema": ema, "G": g}},
        "other names": {"generator": g, "generator_ema": ema},
        "wrapped": {"G_ema": Call(network({}).function, network({"_modules": {"module": ema}}).arguments)},
        "with settings": {
            "G_ema": ema,
            "args": Call(Name("types", "SimpleNamespace"), (), {"a": 1}),
            "path": Call(Name("pathlib", "PosixPath"), ("/", "data")),
        },
    }[kind]


SAID = {"G only": "'G' of", "G_ema is None": "'G' of", "list": "'item 0' of", "G, D, Gs": "(Gs)' of the file, its EMA"}
RECORDS = [
    "G_ema",
    "G only",
    "G_ema is None",
    "list",
    "G, D, Gs",
    "alone",
    "nested",
    "other names",
    "wrapped",
    "with settings",
]


@pytest.mark.parametrize("kind", RECORDS)
def test_records_in_other_places(kind, tmp_path):
    path = tmp_path / "net.pkl"
    path.write_bytes(dumps(records(kind)))
    generator = load_generator(path)
    expected = load_file(REFERENCE / "pickles" / "sg2ada_snapshot.safetensors")
    assert torch.equal(generator.w_avg, expected["expect/G_ema/mapping.w_avg"])
    assert SAID.get(kind, "") in "; ".join(generator.notes)
    assert generator.notes or kind in ("G_ema", "alone", "with settings", "wrapped")


def persistent(record):
    """The same network as an object that torch.save writes as NVIDIA's code would."""
    names = ("torch_utils", "torch_utils.persistence", "dnnlib", "dnnlib.util")
    for name in names:
        sys.modules.setdefault(name, types.ModuleType(name))

    def rebuild(meta):
        raise RuntimeError

    rebuild.__module__, rebuild.__qualname__ = "torch_utils.persistence", "_reconstruct_persistent_obj"
    sys.modules["torch_utils.persistence"]._reconstruct_persistent_obj = rebuild

    class Saved:
        def __init__(self, record):
            self.record = record

        def __reduce__(self):
            state = dict(self.record.state)
            state["_modules"] = {name: child and Saved(child) for name, child in state["_modules"].items()}
            state = {key: value for key, value in state.items() if type(value).__name__ != "ArrayRecord"}
            meta = {"type": "class", "version": 6, "module_src": "raise", "class_name": self.record.class_name}
            return rebuild, ({**meta, "state": state},)

    return Saved(record), lambda: [sys.modules.pop(name) for name in names]


@pytest.mark.parametrize("as_zip", [True, False])
@pytest.mark.parametrize(
    "wrap", [lambda g: g, lambda g: {"G_ema": g}, lambda g: {"G": g, "G_ema": None}, lambda g: [g]]
)
def test_whole_networks_by_torch_save(wrap, as_zip, tmp_path):
    saved, forget = persistent(snapshot()["G_ema"])
    torch.save(wrap(saved), tmp_path / "net.pt", _use_new_zipfile_serialization=as_zip)
    forget()
    expected = load_file(REFERENCE / "pickles" / "sg2ada_snapshot.safetensors")
    generator = load_generator(tmp_path / "net.pt")
    assert torch.equal(generator.w_avg, expected["expect/G_ema/mapping.w_avg"])
    image = generator.synthesis(GeneratorInputs(expected["io/ws"]))
    assert (image - expected["out/img_const_force_fp32"]).abs().max() < 1e-4


# what is refused ---------------------------------------------------------------


def foreign(name="vision_module.Critic", arguments=(), state=None):
    module, _, attribute = name.rpartition(".")
    return Call(Name(module, attribute), arguments, state)


MODULES = {
    "_modules": {"conv": foreign("torch.nn.modules.conv.Conv2d", (), {"training": False})},
    "scale": torch.ones(2),
}


@pytest.mark.parametrize(
    ("beside", "named"),
    [
        ({"D": foreign()}, "vision_module.Critic"),
        (
            {"D": foreign(arguments=(1, "two", [3.0]), state=MODULES)},
            "torch.nn.modules.conv.Conv2d, vision_module.Critic",
        ),
        ({"D": foreign(state={"feature": torch.ones(3), "inner": foreign("timm.models.VisionTransformer")})}, "timm"),
        ({"D": Name("vision_module", "Critic")}, "vision_module.Critic"),
        ({"augment_pipe": [foreign("diffaug.Pipe"), {"p": foreign("diffaug.P")}]}, "diffaug.P, diffaug.Pipe"),
        ({"training_set_kwargs": {"path": "/data", "sampler": foreign("data.Sampler")}}, "data.Sampler"),
    ],
)
def test_objects_of_other_packages_are_left_out(beside, named, tmp_path):
    """They stand beside a generator that is whole without them; a note names them."""
    path = tmp_path / "net.pkl"
    path.write_bytes(dumps({"G_ema": snapshot()["G_ema"], **beside}))
    expected = load_file(REFERENCE / "pickles" / "sg2ada_snapshot.safetensors")
    generator = load_generator(path)
    image = generator.synthesis(GeneratorInputs(expected["io/ws"]))
    assert (image - expected["out/img_const_force_fp32"]).abs().max() < 1e-4
    assert any("left out" in note and named in note for note in generator.notes)
    assert describe(path)["kind"] == "StyleGAN2 generator"


class Tracker(dict):
    """A class that a training left in its checkpoint: a dict with a state."""


@pytest.mark.parametrize("as_zip", [True, False])
def test_objects_of_other_packages_in_torch_files(as_zip, tmp_path):
    tracker = Tracker(loss=torch.ones(2))
    tracker.steps = [1, 2]
    contents = {"g_ema": rosinality_state(), "tracker": tracker, "d": torch.nn.Sequential(torch.nn.Linear(2, 2))}
    torch.save(contents, tmp_path / "net.pt", _use_new_zipfile_serialization=as_zip)
    torch.save({"g_ema": rosinality_state()}, tmp_path / "alone.pt")
    generator = load_generator(tmp_path / "net.pt")
    assert generator.fingerprint == load_generator(tmp_path / "alone.pt").fingerprint
    assert any("Tracker" in note and "torch.nn.modules.linear.Linear" in note for note in generator.notes)


@pytest.mark.parametrize(
    "contents",
    [
        lambda: {"G_ema": foreign()},
        lambda: {"model": foreign(state={"weight": torch.ones(2)})},
        lambda: {"G_ema": network({"_modules": {"mapping": foreign(), "synthesis": foreign()}})},
        lambda: {"G_ema": snapshot()["G_ema"], "D": foreign("os.system", ("true",))},
        lambda: {"G_ema": snapshot()["G_ema"], "D": foreign("builtins.eval", ("1",))},
        lambda: {"G_ema": snapshot()["G_ema"], "D": foreign("torch.hub.load", ("a", "b"))},
        lambda: {"G_ema": snapshot()["G_ema"], "D": foreign(arguments=(foreign("posix.system", ("true",)),))},
        lambda: {"G_ema": snapshot()["G_ema"], "D": foreign("numpy.load", ("a.npy",))},
    ],
)
def test_what_is_no_network_without_them_is_refused(contents, tmp_path):
    path = tmp_path / "net.pkl"
    path.write_bytes(dumps(contents()))
    with pytest.raises(UntrustedFileError, match="Nothing was run") as e:
        load_generator(path)
    assert e.value.exit_code == 4
    with pytest.raises(UntrustedFileError):
        load_discriminator(path)


def test_the_advice_of_a_refusal_works(tmp_path):
    """A generator of another package: refused, with two ways to save it again."""
    path = tmp_path / "net.pkl"
    path.write_bytes(dumps({"G_ema": foreign()}))
    with pytest.raises(
        UntrustedFileError, match=r"vision_module\.Critic.*\.safetensors.*torch\.save\(G_ema\.state_dict"
    ):
        load_generator(path)
    expected = load_file(REFERENCE / "pickles" / "sg2ada_snapshot.safetensors")
    state = {k.removeprefix("expect/G_ema/"): v for k, v in expected.items() if k.startswith("expect/G_ema/")}
    torch.save(state, tmp_path / "net.pt")
    save_file(state, tmp_path / "net.safetensors")
    for again in ("net.pt", "net.safetensors"):
        image = load_generator(tmp_path / again).synthesis(GeneratorInputs(expected["io/ws"]))
        assert (image - expected["out/img_const_force_fp32"]).abs().max() < 1e-4


@pytest.mark.parametrize(
    ("contents", "message"),
    [
        ({"G_ema": {k: v for k, v in nvidia_state().items() if k.startswith("synthesis.")}}, "no mapping network"),
        ({"g_ema": {"synthesis.input.freqs": torch.ones(3)}}, "not a whole StyleGAN3 network|no mapping network"),
        ({"g_ema": torch.ones(3)}, "without a generator"),
        (torch.ones(1, 8, 16), "a single tensor, as latents"),
        ({"a.png": {"latent": torch.ones(8, 16), "noise": []}}, "the latents of a projector"),
        ({"g_ema": dict(list(rosinality_state().items())[:40])}, "7 unexpected"),
        ({"g": {}, "d": {"final_conv.0.weight": torch.ones(1)}}, "discriminator in rosinality's layout"),
        (3, "holds a int, not networks"),
    ],
)
def test_what_is_no_generator_is_named(contents, message, tmp_path):
    torch.save(contents, tmp_path / "net.pt")
    with pytest.raises(CheckpointError, match=message):
        load_generator(tmp_path / "net.pt")


@pytest.mark.parametrize("channels", [2, 5, 96])
def test_images_of_other_channels_are_refused_at_loading(channels, tmp_path):
    save_generator(make_tiny_generator(img_channels=channels), tmp_path / "g.safetensors")
    with pytest.raises(CheckpointError, match=f"draws images of {channels} channels; latentopt takes generators of 1"):
        load_generator(tmp_path / "g.safetensors")


def test_contents_without_end_are_left(tmp_path):
    """A list in itself, and dicts that double at every level, by the memo of a pickle."""
    loop: list = [snapshot()["G_ema"]]
    loop.append(loop)
    doubled: object = {"x": torch.ones(1)}
    for _ in range(30):
        doubled = {"a": doubled, "b": doubled}
    path = tmp_path / "net.pkl"
    path.write_bytes(dumps({"G_ema": snapshot()["G_ema"], "loop": loop, "doubled": doubled}))
    assert load_generator(path).notes == ()


@pytest.mark.parametrize("labels", [0, 3])
def test_a_discriminator_in_a_state_dict(labels, tmp_path):
    discriminator = Discriminator(DiscriminatorConfig((8, 8, 6), mapping_layers=2, c_dim=labels)).eval()
    torch.save({"D": discriminator.state_dict()}, tmp_path / "d.pt")
    loaded = load_discriminator(tmp_path / "d.pt")
    image, c = torch.randn(4, 3, 16, 16), torch.eye(3)[[0, 1, 2, 0]] if labels else None
    assert torch.allclose(loaded(image, c), discriminator(image, c), atol=1e-5)
    assert describe(tmp_path / "d.pt")["kind"] == "StyleGAN2 discriminator"


@pytest.mark.parametrize("value", [math.nan, 0.0])
def test_a_mapping_whose_weights_say_nothing(value, tmp_path):
    state = nvidia_state()
    state["mapping.fc0.weight"].fill_(value)
    torch.save(state, tmp_path / "net.pt")
    if value == 0:
        assert load_generator(tmp_path / "net.pt").config.lr_multiplier == 0.01
    else:
        with pytest.raises(CheckpointError, match="not finite"):
            load_generator(tmp_path / "net.pt")
