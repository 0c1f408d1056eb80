"""Generators and discriminators read from files of every kind, and written back."""

from __future__ import annotations

import json
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
from conftest import REFERENCE, make_tiny_generator
from safetensors.torch import load_file, save_file

from latentopt.checkpoints import model_files, networks, nvidia, rosinality
from latentopt.checkpoints.describe import describe
from latentopt.checkpoints.networks import (
    bundled_path,
    load_discriminator,
    load_generator,
    load_stylegan2,
    save_discriminator,
    save_generator,
    save_rosinality,
)
from latentopt.checkpoints.restricted_pickle import read_pickle
from latentopt.checkpoints.weights import estimate_w_avg
from latentopt.errors import CheckpointError, MissingWeightsError, UntrustedFileError
from latentopt.files.storage import load_tensors
from latentopt.generators.discriminator import Discriminator, DiscriminatorConfig
from latentopt.types import GeneratorInputs

PICKLES = REFERENCE / "pickles"
HOSTILE = b"cos\nsystem\n(S'echo broken'\ntR."


def stream(name, key="pickle_bytes"):
    return load_file(PICKLES / f"{name}.safetensors")[key].numpy().tobytes()


def rosinality_contents():
    """A dict as rosinality saves it: g_ema, latent_avg and d, from the golden files."""
    tensors = load_file(REFERENCE / "stylegan2_rosinality" / "g64.safetensors")
    critic = load_file(REFERENCE / "stylegan2_rosinality" / "d32.safetensors")
    states = [
        {key.removeprefix("state/"): value for key, value in t.items() if key.startswith("state/")}
        for t in (tensors, critic)
    ]
    return {"g_ema": states[0], "latent_avg": tensors["io/latent_avg"], "d": states[1]}


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoints")
    (folder / "ada.pkl").write_bytes(stream("sg2ada_snapshot"))
    (folder / "sg3.pkl").write_bytes(stream("sg3_snapshot"))
    (folder / "pti.pt").write_bytes(stream("pti_style_pt", "pt_bytes"))
    torch.save(rosinality_contents(), folder / "rosinality.pt")
    return folder


def images_of(generator, rows=2):
    rng = torch.Generator().manual_seed(5)
    z = torch.randn(rows, generator.z_dim, generator=rng)
    c = torch.eye(generator.c_dim)[:rows] if generator.c_dim else None
    return generator.synthesis(GeneratorInputs(generator.broadcast(generator.mapping(z, c))))


# NVIDIA ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["ada.pkl", "pti.pt"])
def test_snapshot(files, name):
    generator = load_generator(files / name)
    expected = load_file(PICKLES / "sg2ada_snapshot.safetensors")
    image = generator.synthesis(GeneratorInputs(expected["io/ws"]))
    wanted = expected["out/img_const_force_fp32"]
    assert (image - wanted).abs().max() / wanted.abs().max() < 1e-5
    assert torch.allclose(generator.broadcast(generator.mapping(expected["io/z"])), expected["io/ws"], atol=1e-6)
    for key, tensor in generator.state_dict().items():
        key = "synthesis.b4.resample_filter" if key.endswith("resample_filter") else key
        assert torch.equal(tensor, expected[f"expect/G_ema/{key}"]), key
    config = generator.config
    assert (config.mapping_layers, config.conv_clamp, config.num_fp16_res, config.architecture) == (2, 256, 2, "skip")
    assert not generator.training
    assert not any(parameter.requires_grad for parameter in generator.parameters())
    assert generator.name == name.split(".")[0]
    assert generator.notes == ()


def test_snapshot_discriminators(files):
    """StyleGAN3 snapshots carry StyleGAN2 discriminators."""
    expected = load_file(PICKLES / "sg2ada_snapshot.safetensors")
    discriminator = load_discriminator(files / "ada.pkl")
    assert torch.equal(discriminator.b4.fc.weight, expected["expect/D/b4.fc.weight"])
    assert discriminator.config.mbstd_group_size == 4
    assert discriminator.config.conv_clamp == 256
    assert load_discriminator(files / "sg3.pkl")(torch.zeros(1, 3, 16, 16)).shape == (1, 1)


def _set(path, **attributes):
    def change(record):
        for name in path.split(".") if path else []:
            record = record.state["_modules"][name]
        record.state.update(attributes)

    return change


def _buffer(path, name, change_tensor):
    def change(record):
        for part in path.split("."):
            record = record.state["_modules"][part]
        record.state["_buffers"][name] = change_tensor(record.state["_buffers"][name])

    return change


def _drop(path):
    def change(record):
        *parents, name = path.split(".")
        for part in parents:
            record = record.state["_modules"][part]
        del record.state["_modules"][name]

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_buffer("synthesis.b8", "resample_filter", lambda f: f * 2), "filters .* differ"),
        (_set("synthesis.b8.conv0", conv_clamp=1.0), "differ in conv_clamp"),
        (_set("synthesis.b8.conv0", conv_clamp="much"), "differ in conv_clamp"),
        (_set("synthesis.b8.conv0", activation="relu"), "activation 'relu'"),
        (_set("synthesis.b8.conv0", use_noise=False), "use_noise False"),
        (_set("synthesis.b8.conv0.affine", bias_gain=0.5), "bias_gain 0.5"),
        (_set("synthesis.b8.torgb", weight_gain=1.0), "weight_gain 1.0"),
        (_set("synthesis.b8", architecture="resnet"), "differ in architecture"),
        (_set("mapping.fc1", bias_gain=0.5), "weight_gain"),
        (_set("mapping.fc1", bias_gain="0.5"), "weight_gain"),
        (_drop("synthesis.b8.torgb"), "3 missing: synthesis.b8.torgb|4 missing: synthesis.b8.torgb"),
        (_drop("synthesis.b8"), "missing: synthesis.b8.conv0"),
        (_drop("synthesis.b4.conv1"), "not a whole StyleGAN2 network"),
        (_drop("mapping"), "not a whole StyleGAN2 network"),
        (_drop("synthesis"), "no StyleGAN2 generator"),
        (_buffer("mapping", "w_avg", lambda x: x * torch.nan), "not finite: mapping.w_avg"),
    ],
)
def test_records_that_would_draw_something_else(change, message, monkeypatch, files):
    contents = read_pickle(stream("sg2ada_snapshot"), "snapshot")
    change(contents["G_ema"])
    monkeypatch.setattr(model_files, "read_pickle", lambda data, name, foreign=None: contents)
    with pytest.raises(CheckpointError, match=message):
        load_generator(files / "ada.pkl")


def test_settings_come_from_the_attributes():
    record = read_pickle(stream("sg2ada_snapshot"), "snapshot")["G_ema"]
    modules = record.state["_modules"]
    for layer in modules["mapping"].state["_modules"].values():
        layer.state["bias_gain"] = 0.02
        layer.state["weight_gain"] = layer.state["weight_gain"] * 2
    for block in modules["synthesis"].state["_modules"].values():
        block.state["use_fp16"] = False
        for layer in block.state["_modules"].values():
            layer.state["conv_clamp"] = None
    config = nvidia.generator_weights(record, "changed").config
    assert (config.lr_multiplier, config.conv_clamp, config.num_fp16_res) == (0.02, None, 0)


def test_missing_w_avg_is_estimated(monkeypatch, files):
    contents = read_pickle(stream("sg2ada_snapshot"), "snapshot")
    contents["G_ema"].state["_modules"]["mapping"].state["_buffers"]["w_avg"] = None
    monkeypatch.setattr(model_files, "read_pickle", lambda data, name, foreign=None: contents)
    generator = load_generator(files / "ada.pkl")
    assert torch.equal(generator.w_avg, estimate_w_avg(generator))
    assert "10,000 samples" in generator.notes[0]


# rosinality --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", ["[C]", "[1,C]", "[n,C]"])
def test_latent_avg_shapes(shape, tmp_path):
    contents = rosinality_contents()
    average = contents["latent_avg"]
    contents["latent_avg"] = {"[C]": average, "[1,C]": average[None], "[n,C]": average.repeat(10, 1)}[shape]
    torch.save(contents, tmp_path / "r.pt")
    generator = load_generator(tmp_path / "r.pt")
    assert torch.equal(generator.w_avg, average)
    assert generator.notes == ()
    assert generator.config.demodulation == "scaled"


def test_latent_avg_of_different_rows(tmp_path):
    contents = rosinality_contents()
    contents["latent_avg"] = torch.randn(10, 32)
    torch.save(contents, tmp_path / "r.pt")
    generator = load_generator(tmp_path / "r.pt")
    assert torch.allclose(generator.w_avg, contents["latent_avg"].mean(dim=0))
    assert "10 different rows" in generator.notes[0]


def test_latent_avg_of_another_size(tmp_path):
    torch.save(rosinality_contents() | {"latent_avg": torch.zeros(31)}, tmp_path / "r.pt")
    with pytest.raises(CheckpointError, match=r"latent_avg has shape \(31,\)"):
        load_generator(tmp_path / "r.pt")


@pytest.mark.parametrize("average", ["absent", None])
def test_absent_latent_avg_is_estimated(average, tmp_path):
    contents = rosinality_contents()
    contents["latent_avg"] = None
    if average == "absent":
        del contents["latent_avg"]
    torch.save(contents, tmp_path / "r.pt")
    first, again = (load_generator(tmp_path / "r.pt") for _ in range(2))
    w = first.mapping(torch.randn(20_000, 32, generator=torch.Generator().manual_seed(9)))
    assert ((first.w_avg - w.mean(dim=0)) / w.std(dim=0)).abs().max() < 0.05
    assert torch.equal(first.w_avg, again.w_avg)
    assert "10,000 samples" in first.notes[0]


def test_files_without_noise_get_seeded_noise(tmp_path):
    contents = rosinality_contents()
    noises = [key for key in contents["g_ema"] if key.startswith("noises.")]
    for key in noises:
        del contents["g_ema"][key]
    torch.save(contents, tmp_path / "old.pt")
    first, again = (load_generator(tmp_path / "old.pt") for _ in range(2))
    assert "no noise maps" in first.notes[0]
    assert first.fingerprint == again.fingerprint
    assert all(noise.std() > 0.5 for noise in first.noise_const.values())
    contents = rosinality_contents()
    del contents["g_ema"][noises[3]]
    torch.save(contents, tmp_path / "damaged.pt")
    with pytest.raises(CheckpointError, match=r"1 missing: synthesis\.b16\.conv0\.noise_const"):
        load_generator(tmp_path / "damaged.pt")


def test_decoder_of_an_encoder_file(tmp_path):
    contents = rosinality_contents()
    state = {f"decoder.{key}": value for key, value in contents["g_ema"].items()}
    state["encoder.input_layer.0.weight"] = torch.zeros(1)
    torch.save({"state_dict": state, "latent_avg": contents["latent_avg"].repeat(10, 1)}, tmp_path / "psp.pt")
    torch.save(contents, tmp_path / "r.pt")
    generator = load_generator(tmp_path / "psp.pt")
    assert generator.fingerprint == load_generator(tmp_path / "r.pt").fingerprint
    assert "encoder" in generator.notes[0]


def _without(key):
    return lambda state: state.pop(key)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_without("convs.3.activate.bias"), r"1 missing: synthesis\.b16\.conv1\.bias"),
        (lambda state: state.update({"extra.thing": torch.zeros(1)}), "1 unexpected: extra.thing"),
        (lambda state: state.update({"convs.3.activate.bias": torch.zeros(31)}), r"\(31,\) instead of \(32,\)"),
        (lambda state: state["convs.3.activate.bias"].fill_(torch.inf), "not finite"),
        (lambda state: state.update({"convs.2.conv.blur.kernel": torch.ones(4, 4)}), "filters .* differ"),
        (
            lambda state: state.update({"conv1.conv.weight": torch.zeros(2, 32, 32, 3, 3)}),
            "conv1.conv.weight has shape",
        ),
        (lambda state: state.update({"style.1.weight": "text"}), "not a rosinality network"),
        (_without("style.1.weight"), "not a rosinality network"),
        (lambda state: [state.pop(key) for key in list(state)[4:]], "without a generator"),
    ],
)
def test_damaged_rosinality_files(change, message, tmp_path):
    contents = rosinality_contents()
    change(contents["g_ema"])
    torch.save(contents, tmp_path / "r.pt")
    with pytest.raises(CheckpointError, match=message) as caught:
        load_generator(tmp_path / "r.pt")
    assert "r.pt" in str(caught.value)


def test_many_missing_keys_are_cut_to_five(tmp_path):
    contents = rosinality_contents()
    for key in [key for key in contents["g_ema"] if key.endswith("modulation.bias")]:
        del contents["g_ema"][key]
    torch.save(contents, tmp_path / "r.pt")
    with pytest.raises(CheckpointError) as caught:
        load_generator(tmp_path / "r.pt")
    assert "14 missing" in str(caught.value)
    assert str(caught.value).count("affine.bias") == 5


# Files that are something else ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("keys", "kind"),
    [
        (["final_conv.0.weight", "convs.0.0.weight"], "discriminator in rosinality"),
        (["encoder.input_layer.0.weight"], "an encoder"),
        (["model.diffusion_model.out.0.weight"], "Stable Diffusion"),
        (["layer1.0.conv1.weight", "fc.weight"], "classifier"),
        (["mapping.fc0.weight", "synthesis.b4.const"], "NVIDIA's layout"),
        (["something"], "no kind of model"),
    ],
)
@pytest.mark.parametrize("wrap", ["bare", "g_ema", "state_dict", "safetensors"])
def test_other_state_dicts(keys, kind, wrap, tmp_path):
    path, state = tmp_path / "model.bin", {key: torch.zeros(2, 2) for key in keys}
    if wrap == "safetensors":
        save_file(state, path)
    else:
        torch.save(state if wrap == "bare" else {wrap: state}, path)
    for read, message in ((load_generator, kind), (describe, f"{kind}|asks for|weights do not fit")):
        with pytest.raises(CheckpointError, match=message):
            read(path)


@pytest.mark.parametrize(
    ("contents", "error", "message"),
    [
        (b"", CheckpointError, "empty file"),
        (b"just text\n", CheckpointError, "a text .'just text'"),
        (b"\x89PNG\r\n\x1a\n" + bytes(100), CheckpointError, "a picture .PNG."),
        (b"PK\x03\x04" + bytes(50), CheckpointError, "file"),
        (bytes([200, 0, 0, 0, 0, 0, 0, 0]) + b'{"a": ', CheckpointError, "safetensors"),
        (b"\x80\x03}q\x00.", CheckpointError, "without a generator"),
        (b"\x80\x03K\x05.", CheckpointError, "holds a int"),
        (b"\x80\x03X\x10\x00", CheckpointError, "damaged"),
        (HOSTILE, UntrustedFileError, r"os\.system"),
        (b"\x80\x02" + HOSTILE, UntrustedFileError, r"os\.system"),
        (b"\x80\x04\x8c\x08builtins\x8c\x04eval\x93.", UntrustedFileError, r"builtins\.eval"),
    ],
)
def test_other_files(contents, error, message, tmp_path):
    path = tmp_path / "file.safetensors"  # the name says nothing
    path.write_bytes(contents)
    for read in (load_generator, load_discriminator, describe):
        with pytest.raises(error, match=message.replace("generator", "(generator|discriminator)")) as caught:
            read(path)
        assert str(path) in str(caught.value)


def test_another_family_is_named_where_a_network_of_one_is_trained(files):
    assert load_generator(files / "sg3.pkl").family == "StyleGAN3"
    with pytest.raises(CheckpointError, match="a StyleGAN3 generator, where a StyleGAN2 generator is asked for"):
        load_stylegan2(files / "sg3.pkl")


def test_a_pickle_too_large_is_not_read(files, monkeypatch):
    monkeypatch.setattr("latentopt.checkpoints.restricted_pickle.MAX_FILE_BYTES", 1000)
    monkeypatch.setattr(
        model_files, "read_pickle", lambda data, name, foreign=None: pytest.fail(f"{len(data)} bytes were read")
    )
    with pytest.raises(CheckpointError, match=r"ada\.pkl: \d+ bytes, more than"):
        load_generator(files / "ada.pkl")


def test_paths_that_are_no_file(tmp_path):
    with pytest.raises(CheckpointError, match="no such file"):
        load_generator(tmp_path / "absent.pkl")
    with pytest.raises(CheckpointError, match="folder"):
        load_generator(tmp_path)


@pytest.mark.parametrize("name", ["ada.pkl", "pti.pt", "rosinality.pt"])
def test_the_name_of_a_file_says_nothing(name, files, tmp_path):
    expected = load_generator(files / name).fingerprint
    for other in ("a.pkl", "a.pt", "a.safetensors", "a"):
        (tmp_path / other).write_bytes((files / name).read_bytes())
        assert load_generator(tmp_path / other).fingerprint == expected


def test_global_random_numbers_are_left_alone(files):
    before = torch.get_rng_state()
    load_generator(files / "ada.pkl")
    load_discriminator(files / "ada.pkl")
    assert torch.equal(torch.get_rng_state(), before)


# Our own files -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"const_size": (4, 2)},
        {"c_dim": 3, "embed_features": 5, "layer_features": 7, "lr_multiplier": 0.02},
        {"architecture": "resnet", "conv_clamp": 2.0, "img_channels": 1},
        {"architecture": "orig", "demodulation": "scaled", "num_fp16_res": 2, "z_dim": 9},
    ],
)
def test_generator_round_trip(changes, tmp_path):
    generator, path = make_tiny_generator(**changes), tmp_path / "g.safetensors"
    generator.notes = ("w_avg was estimated",)
    generator.synthesis.resample_filter.mul_(1.5)
    save_generator(generator, path, {"data": "portraits", "images": 3})
    loaded = load_generator(path)
    assert loaded.config == generator.config
    assert loaded.fingerprint == generator.fingerprint
    assert loaded.notes == generator.notes
    assert loaded.card == {"data": "portraits", "images": 3}
    assert loaded.name == "g"
    assert torch.equal(images_of(loaded), images_of(generator))
    save_generator(loaded, tmp_path / "again.safetensors")
    assert load_tensors(tmp_path / "again.safetensors")[1] == load_tensors(path)[1]


def test_the_family_of_a_file(tmp_path, tiny_generator):
    """A file names its family; one of before there were families is a StyleGAN2; an unknown family is refused."""
    path = tmp_path / "g.safetensors"
    save_generator(tiny_generator, path)
    tensors, metadata = load_tensors(path)
    del metadata["family"]
    save_file(tensors, path, metadata)
    assert load_generator(path).fingerprint == tiny_generator.fingerprint
    save_file(tensors, path, metadata | {"family": "stylegan9"})
    with pytest.raises(CheckpointError, match="of family 'stylegan9'; this latentopt knows stylegan2"):
        load_generator(path)


def test_what_a_network_of_another_family_is_refused_for(tmp_path, monkeypatch, tiny_generator):
    """Training asks for the network itself, saving for one of ours, rosinality's layout for a StyleGAN2."""
    other = SimpleNamespace(family="StyleGAN9", name="other")
    path = tmp_path / "g.safetensors"
    save_generator(tiny_generator, path)
    assert load_stylegan2(path).fingerprint == tiny_generator.fingerprint
    monkeypatch.setattr(networks, "generator_from", lambda *_: other)
    with pytest.raises(CheckpointError, match="a StyleGAN9 generator, where a StyleGAN2 generator is asked for"):
        load_stylegan2(path)
    with pytest.raises(CheckpointError, match="only latentopt's own networks are written"):
        save_generator(other, tmp_path / "other.safetensors")
    with pytest.raises(CheckpointError, match="cannot hold a StyleGAN9 generator"):
        save_rosinality(other, tmp_path / "other.pt")


def test_type_of_the_weights(tmp_path, tiny_generator_copy):
    save_generator(tiny_generator_copy.half(), tmp_path / "g.safetensors")
    assert load_generator(tmp_path / "g.safetensors").w_avg.dtype == torch.float32
    double = load_generator(tmp_path / "g.safetensors", dtype=torch.float64)
    assert {tensor.dtype for tensor in double.state_dict().values()} == {torch.float64}


@pytest.mark.parametrize(
    "changes", [{}, {"c_dim": 2, "cmap_dim": 5}, {"architecture": "skip", "mbstd_group_size": None}]
)
def test_discriminator_round_trip(changes, tmp_path):
    discriminator = Discriminator(DiscriminatorConfig((8, 8, 6), mapping_layers=2, **changes))
    save_discriminator(discriminator, tmp_path / "d.safetensors", {"images": 1})
    loaded = load_discriminator(tmp_path / "d.safetensors")
    image, c = torch.randn(4, 3, 16, 16), torch.eye(2)[[0, 1, 1, 0]] if changes.get("c_dim") else None
    assert torch.equal(loaded(image, c), discriminator(image, c))
    assert describe(tmp_path / "d.safetensors")["card"] == {"images": 1}
    with pytest.raises(CheckpointError, match="where a generator is asked for"):
        load_generator(tmp_path / "d.safetensors")


def test_header_that_begins_like_a_pickle(tmp_path, tiny_generator):
    path = tmp_path / "g.safetensors"
    for padding in range(0, 256, 8):
        save_generator(tiny_generator, path, {"padding": "x" * padding})
        if path.read_bytes()[0] == 0x80:
            break
    assert path.read_bytes()[0] == 0x80
    assert load_generator(path).fingerprint == tiny_generator.fingerprint


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (None, "configuration cannot be read"),
        ("{", "configuration cannot be read"),
        ("[]", "configuration cannot be read"),
        ({"colour": 1}, "configuration cannot be read"),
        ({"channels": 5}, "configuration cannot be read"),
        ({"channels": [12, 10, 8]}, "unexpected"),
        ({"channels": [10**6] * 4}, "other shapes"),
        ({"channels": [0] * 10**5}, "configuration cannot be read"),
        ({"mapping_layers": 10**9}, "configuration cannot be read"),
        ({"mapping_layers": 10**6}, "asks for"),
        ({"const_size": [10**5, 10**5]}, "other shapes"),
        ({"img_channels": 5 * 10**5}, "other shapes"),
        ({"w_dim": 10**6, "mapping_layers": 1}, "unexpected"),
        ({"lr_multiplier": float("nan")}, "configuration cannot be read"),
        ({"lr_multiplier": 0.0}, "configuration cannot be read"),
        ({"conv_clamp": [1]}, "configuration cannot be read"),
        ({"conv_clamp": "256"}, "configuration cannot be read"),
        ({"channels": []}, "configuration cannot be read"),
        ({"channels": ["a", "b", "c", "d"]}, "configuration cannot be read"),
        ({"architecture": "modern"}, "cannot be built"),
        ({"w_dim": 15}, "other shapes"),
    ],
)
def test_configurations_that_do_not_fit(config, message, tmp_path, tiny_generator):
    path = tmp_path / "g.safetensors"
    if isinstance(config, dict):
        config = json.dumps(json.loads(tiny_generator.config.to_json()) | config)
    metadata = {"format": "latentopt-generator-1"} | ({} if config is None else {"config": config})
    save_file({name: tensor.contiguous() for name, tensor in tiny_generator.state_dict().items()}, path, metadata)
    with pytest.raises(CheckpointError, match=message):
        load_generator(path)


@pytest.mark.parametrize(
    ("key", "text", "message"),
    [
        ("notes", "[" * 100_000, "configuration cannot be read"),
        ("notes", "5", "configuration cannot be read"),
        ("card", "[" * 100_000, "card is not JSON"),
        ("card", "{", "card is not JSON"),
    ],
)
def test_metadata_that_is_no_plain_json(key, text, message, tmp_path, tiny_generator):
    save_generator(tiny_generator, tmp_path / "g.safetensors")
    tensors, metadata = load_tensors(tmp_path / "g.safetensors")
    save_file(tensors, tmp_path / "g.safetensors", metadata | {key: text})
    with pytest.raises(CheckpointError, match=message):
        load_generator(tmp_path / "g.safetensors")


# rosinality files written ---------------------------------------------------------------------------------------------


def test_written_rosinality_file(files, tmp_path):
    generator, contents = load_generator(files / "rosinality.pt"), rosinality_contents()
    notes = save_rosinality(generator, tmp_path / "out.pt")
    written = torch.load(tmp_path / "out.pt", weights_only=True)
    assert written.keys() == {"g_ema", "latent_avg"}
    assert written["g_ema"].keys() == contents["g_ema"].keys()
    assert all(torch.equal(written["g_ema"][key], value) for key, value in contents["g_ema"].items())
    assert torch.equal(written["latent_avg"], contents["latent_avg"])
    assert len(notes) == 1
    assert "table of channels" in notes[0]


def test_other_learning_rate_multiplier_is_absorbed(tmp_path):
    generator = make_tiny_generator(lr_multiplier=0.05, conv_clamp=256.0)
    notes = save_rosinality(generator, tmp_path / "r.pt")
    assert "clamp" in notes[0]
    assert "rescaled" in notes[1]
    assert torch.allclose(images_of(load_generator(tmp_path / "r.pt")), images_of(generator), atol=1e-4)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"c_dim": 2}, "labels"),
        ({"const_size": (4, 2)}, "4x2"),
        ({"architecture": "orig"}, "'orig'"),
        ({"img_channels": 1}, "1 channels"),
        ({"z_dim": 9}, "width"),
        ({"layer_features": 7}, "width"),
    ],
)
def test_generators_that_rosinality_cannot_hold(changes, message, tmp_path):
    with pytest.raises(CheckpointError, match=message):
        save_rosinality(make_tiny_generator(**changes), tmp_path / "r.pt")
    assert not list(tmp_path.iterdir())


def test_official_channels_need_no_note():
    generator = make_tiny_generator(channels=(512, 512), mapping_layers=1)
    assert rosinality.exported(generator)[1] == ()


# Bundled models ----------------------------------------------------------------------------------------------------


def test_bundled_names(tmp_path, monkeypatch, tiny_generator):
    monkeypatch.setattr(model_files, "BUNDLED", tmp_path)
    save_generator(tiny_generator, tmp_path / "toys" / "generator.safetensors")
    save_discriminator(Discriminator(DiscriminatorConfig((4, 4))), tmp_path / "toys" / "discriminator.safetensors")
    assert bundled_path("toys") == tmp_path / "toys" / "generator.safetensors"
    generator = load_generator("toys")
    assert (generator.name, generator.fingerprint) == ("toys", tiny_generator.fingerprint)
    assert load_discriminator("toys").config.channels == (4, 4)
    with pytest.raises(MissingWeightsError, match=r"'judge'|judge named 'toys'.*toys"):
        bundled_path("toys", "judge")
    with pytest.raises(CheckpointError, match=r"no such file.*bundled model \(toys\)"):
        load_generator("toyz")


def test_to_load_networks_does_not_load_torchs_compiler():
    """Arithmetic on the meta device would, and takes seconds."""
    code = (
        "import sys; from latentopt.checkpoints.networks import load_discriminator, load_generator; "
        "from latentopt.encoders.files import load_encoder; from latentopt.judge.network import load_judge; "
        "from latentopt.perceptual.network import load_perceptual_net; "
        "[load('portraits') for load in (load_generator, load_discriminator, load_perceptual_net, load_judge)]; "
        "[load_encoder(kind) for kind in ('psp', 'restyle-e4e')]; "
        "print(sorted({'sympy', 'torch._dynamo', 'scipy', 'matplotlib'} & sys.modules.keys()))"
    )
    made = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert made.stdout.strip() == "[]"
