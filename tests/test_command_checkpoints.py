"""`latentopt info`, `convert` and `sample`, run as on the command line."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest
import torch
from conftest import REFERENCE, make_tiny_generator
from pickle_writer import dumps, network, tensor_call
from PIL import Image
from safetensors.torch import load_file

from latentopt.checkpoints.delta import Delta
from latentopt.checkpoints.networks import load_discriminator, load_generator, save_generator
from latentopt.checkpoints.restricted_pickle import read_pickle
from latentopt.commands import main
from latentopt.files.storage import save_tensors
from latentopt.pictures.images import to_uint8
from latentopt.types import GeneratorInputs


@pytest.fixture
def run(monkeypatch, capsys):
    """Runs a command line in-process: (exit code, stdout, stderr)."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["latentopt", *map(str, arguments)])
        with pytest.raises(SystemExit) as caught:
            main()
        return caught.value.code, *capsys.readouterr()

    return run


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    snapshot = load_file(REFERENCE / "pickles" / "sg2ada_snapshot.safetensors")
    (folder / "ada.pkl").write_bytes(snapshot["pickle_bytes"].numpy().tobytes())
    (folder / "sg3.pkl").write_bytes(
        load_file(REFERENCE / "pickles" / "sg3_snapshot.safetensors")["pickle_bytes"].numpy().tobytes()
    )
    (folder / "hostile.pkl").write_bytes(b"\x80\x04\x8c\x05posix\x8c\x06system\x93\x8c\x04true\x85R.")
    (folder / "text.pkl").write_text("not a model")
    save_generator(make_tiny_generator(), folder / "tiny.safetensors", {"data": "drawn"})
    save_generator(make_tiny_generator(c_dim=3, conv_clamp=2.0), folder / "labels.safetensors")
    inputs = GeneratorInputs(torch.zeros(2, 8, 16), deltas={"synthesis.b4.const": torch.zeros(2, 12, 4, 4)})
    inputs.save(folder / "inputs.safetensors")
    save_tensors(
        folder / "pnorm.safetensors", {"std": torch.tensor([2.0, 0.5])}, {"format": "latentopt-pnorm-1", "n": "9"}
    )
    save_tensors(
        folder / "judge.safetensors", {"x": torch.zeros(5)}, {"format": "latentopt-judge-1", "card": '{"seed": 3}'}
    )
    save_deltas(folder)
    return folder


def save_deltas(folder):
    """Of the tiny generator: `full.safetensors` (two weights), `low.safetensors` (rank 2), `result/`; and a
    foreign one.
    """
    generator, rng = load_generator(folder / "tiny.safetensors"), torch.Generator().manual_seed(4)
    full = {name: torch.randn(generator.tunable[name], generator=rng) * 0.2 for name in (CONV, TORGB)}
    low = {CONV: (torch.randn(10, 2, generator=rng) @ torch.randn(2, 108, generator=rng)).reshape(10, 12, 3, 3) * 0.1}
    about = {"method": "lowrank", "recipe": "tune-lowrank"}
    Delta(full, generator.fingerprint, "tiny", {"method": "weights"}).save(folder / "full.safetensors")
    Delta(full, "0123456789abcdef", "stranger").save(folder / "foreign.safetensors")
    Delta(low, generator.fingerprint, "tiny", about).compact(2).save(folder / "low.safetensors")
    Delta(low, generator.fingerprint, "tiny", about).compact(2).save(folder / "result" / "delta.safetensors")


CONV, TORGB = "synthesis.b8.conv0.weight", "synthesis.b32.torgb.weight"


# info --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("ada.pkl", {"kind": "StyleGAN2 generator", "resolution": [16, 16], "num_ws": 6, "mapping_layers": 2}),
        ("ada.pkl", {"networks": ["G", "D", "G_ema", "augment_pipe"], "fp16_blocks": 2, "conv_clamp": 256}),
        ("sg3.pkl", {"kind": "StyleGAN3 generator", "resolution": [16, 16], "num_ws": 6, "conv_kernel": 3}),
        ("tiny.safetensors", {"channels": [12, 10, 8, 6], "card": {"data": "drawn"}, "labels": None}),
        ("labels.safetensors", {"labels": 3, "conv_clamp": 2.0}),
        ("inputs.safetensors", {"kind": "saved generator inputs", "images": 2, "num_ws": 8, "changed_weights": 1}),
        ("pnorm.safetensors", {"kind": "P-norm statistics", "w_dim": 2, "largest_std": 2.0, "n": "9"}),
        ("full.safetensors", {"kind": "delta of tuned weights", "weights": 2, "values": 1098, "rank": None}),
        ("low.safetensors", {"generator": "tiny", "weights": 1, "values": 236, "rank": 2}),
        ("low.safetensors", {"about": {"method": "lowrank", "recipe": "tune-lowrank"}}),
        ("judge.safetensors", {"kind": "latentopt judge", "numbers": 5, "card": {"seed": 3}}),
    ],
)
def test_info(name, expected, files, run):
    code, out, _ = run("info", files / name, "--json")
    facts = json.loads(out)
    assert code == 0
    assert {key: facts[key] for key in expected} == expected


def test_info_for_people(files, run):
    code, out, _ = run("info", files / "ada.pkl")
    assert code == 0
    fingerprint = load_generator(files / "ada.pkl").fingerprint
    for text in ("16x16", "7,722", fingerprint, "dataset.zip", "G D G_ema augment_pipe"):
        assert text in out


def test_info_of_deltas_for_people(files, run, tmp_path):
    out = run("info", files / "low.safetensors")[1]
    fingerprint = load_generator(files / "tiny.safetensors").fingerprint
    for text in (
        fingerprint,
        "tiny",
        "method  lowrank",
        "236",
        f"{(files / 'low.safetensors').stat().st_size:,}",
        "--delta",
    ):
        assert text in " ".join(out.split()) or text in out
    baked = tmp_path / "b.safetensors"
    run("convert", files / "tiny.safetensors", baked, "--delta", files / "low.safetensors", "--strength", 0.5)
    sha256 = Delta.load(files / "low.safetensors").parts[0][0]
    assert f"sha256 {sha256}, strength 0.5, base {fingerprint}" in run("info", baked)[1]


def test_info_does_not_expand_what_small_factors_claim(run, tmp_path):
    """A terabyte of a delta in four megabytes."""
    side = 500_000
    factors = {f"{CONV}/up": torch.ones(side, 1), f"{CONV}/down": torch.ones(1, side)}
    metadata = {"format": "latentopt-delta-1", "fingerprint": "f", "shapes": json.dumps({CONV: [side, side]})}
    save_tensors(tmp_path / "d.safetensors", factors, metadata)
    code, out, _ = run("info", tmp_path / "d.safetensors", "--json")
    assert code == 0 and json.loads(out)["rms"] == pytest.approx(1)
    assert run("sample", "--delta", tmp_path / "d.safetensors", "--outdir", tmp_path / "out", "--force-delta")[0] == 1


@pytest.mark.parametrize(
    ("name", "code", "message"),
    [
        ("hostile.pkl", 4, "posix.system"),
        ("text.pkl", 1, "a text ('not a model' ...), not a model file"),
        ("absent.pkl", 1, "no such file"),
    ],
)
@pytest.mark.parametrize("command", ["info", "convert", "sample"])
def test_files_that_are_refused(command, name, code, message, files, run, tmp_path):
    arguments = {
        "info": ["info", files / name],
        "convert": ["convert", files / name, tmp_path / "out.safetensors"],
        "sample": ["sample", "--network", files / name, "--outdir", tmp_path / "out"],
    }
    found, out, err = run(*arguments[command])
    assert (found, out) == (code, "")
    assert message in err
    assert name in err
    assert len(err.splitlines()) == 1
    assert not list(tmp_path.iterdir())


def snapshot_with(settings, path):
    """A snapshot with the golden generator and those `training_set_kwargs`."""
    snapshot = load_file(REFERENCE / "pickles" / "sg2ada_snapshot.safetensors")
    network = read_pickle(snapshot["pickle_bytes"].numpy().tobytes(), "golden")["G_ema"]
    path.write_bytes(dumps({"training_set_kwargs": settings, "G_ema": network}))
    return path


def itself():
    """A dict that holds itself, by the memo of a pickle."""
    table = {"path": "loop"}
    table["self"] = table
    return table


def doubled():
    """2^25 items, in a pickle of 25 lists."""
    items = ["x"]
    for _ in range(25):
        items = [items, items]
    return items


FOREIGN = {
    "a dict in itself": itself(),
    "a list that doubles": {"path": "p", "many": doubled()},
    "a set": {"path": "p", "colours": {"a", "b"}},
    "bytes": {"path": "p", "key": b"12"},
    "a tensor": {"path": "p", "mean": tensor_call((2, 3), (3, 1))},
    "a network": {"path": "p", "net": network({})},
    "no number": {"path": "p", "scale": float("nan")},
    "number as a key": {"path": "p", 3: "three"},
}


@pytest.mark.parametrize("settings", FOREIGN.values(), ids=FOREIGN)
def test_foreign_settings_of_any_kind(settings, run, tmp_path):
    path = snapshot_with(settings, tmp_path / "g.pkl")
    assert run("info", path)[0] == 0
    code, out, _ = run("info", path, "--json")
    shown = json.loads(out, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))["training_set_kwargs"]
    assert code == 0 and shown["path"] == settings["path"]
    assert len(json.dumps(shown)) < 100
    assert run("convert", path, tmp_path / "g.safetensors")[0] == 0
    assert load_generator(tmp_path / "g.safetensors").card["training_set_kwargs"]["path"] == settings["path"]


def test_foreign_text_cannot_control_the_terminal(files, run, tmp_path):
    hostile = "\x1b[2J\u202e\ud800\nfile  trusted"
    path = snapshot_with({"path": hostile, hostile: "x", "list": [hostile]}, tmp_path / "g.pkl")
    code, out, _ = run("info", path)
    assert code == 0 and r"\x1b[2J\u202e\ud800\nfile" in out
    assert all(c.isprintable() for c in out.replace("\n", "")) and "\nfile  trusted" not in out
    assert json.loads(run("info", path, "--json")[1])["training_set_kwargs"]["path"] == hostile

    generator = make_tiny_generator()
    generator.notes = ("\x1b[31mred",)
    save_generator(generator, tmp_path / "g.safetensors", {"by": "\x1b]0;title\x07"})
    commands = (
        ["info", tmp_path / "g.safetensors"],
        ["convert", tmp_path / "g.safetensors", tmp_path / "h.safetensors"],
        ["sample", "--network", tmp_path / "g.safetensors", "--seeds", "0", "--outdir", tmp_path / "out"],
    )
    for command in commands:
        code, out, err = run(*command)
        assert code == 0 and r"\x1b[31mred" in out + err and "\x1b" not in out + err

    save_tensors(tmp_path / "x.safetensors", {"x": torch.zeros(1)}, {"format": "latentopt-\x1b[31mred-1"})
    code, _, err = run("sample", "--network", tmp_path / "x.safetensors", "--outdir", tmp_path / "out")
    assert code == 1 and r"\x1b[31mred" in err and "\x1b" not in err


def test_metadata_cannot_change_what_info_says(run, tmp_path):
    metadata = {"format": "latentopt-pnorm-1", "kind": "StyleGAN2 generator", "file": "other", "seed": "5"}
    save_tensors(tmp_path / "p.safetensors", {"std": torch.tensor([2.0, 0.5])}, metadata)
    facts = json.loads(run("info", tmp_path / "p.safetensors", "--json")[1])
    assert facts["kind"] == "P-norm statistics" and facts["file"] == str(tmp_path / "p.safetensors")
    assert facts["seed"] == "5"


# convert -----------------------------------------------------------------------------------------------------------


def test_convert(files, run, tmp_path):
    first, second, third = tmp_path / "a.safetensors", tmp_path / "a.pt", tmp_path / "b.safetensors"
    assert run("convert", files / "ada.pkl", first)[0] == 0
    code, _, err = run("convert", first, second)
    assert code == 0
    assert "clamp of activations at 256 is lost" in err
    assert run("convert", second, third)[0] == 0
    fingerprints = {load_generator(path).fingerprint for path in (files / "ada.pkl", first, second, third)}
    assert len(fingerprints) == 1
    card = load_generator(first).card
    assert card["training_set_kwargs"]["path"] == "dataset.zip"


def test_convert_a_discriminator(files, run, tmp_path):
    assert run("convert", files / "ada.pkl", tmp_path / "d.safetensors", "--discriminator")[0] == 0
    image = torch.randn(4, 3, 16, 16)
    converted, original = load_discriminator(tmp_path / "d.safetensors"), load_discriminator(files / "ada.pkl")
    assert torch.equal(converted(image), original(image))


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["out.pkl"], 2, "must end in"),
        (["out.pt", "--discriminator"], 2, "as .safetensors only"),
        (["exists.pt"], 2, "--force"),
        (["out.pt"], 1, "takes labels"),
        (["out.safetensors", "--revert"], 2, "--revert needs the delta"),
        (["out.safetensors", "--revert", "--delta", "d", "--force-delta"], 2, "leave --force-delta out"),
        (["out.safetensors", "--discriminator", "--delta", "d"], 2, "leave --discriminator out"),
    ],
)
def test_convert_refuses(arguments, code, message, files, run, tmp_path):
    (tmp_path / "exists.pt").write_text("precious")
    found, _, err = run("convert", files / "labels.safetensors", tmp_path / arguments[0], *arguments[1:])
    assert found == code
    assert message in err
    assert [path.name for path in tmp_path.iterdir()] == ["exists.pt"]
    assert (tmp_path / "exists.pt").read_text() == "precious"


def test_convert_overwrites_when_told(files, run, tmp_path):
    (tmp_path / "out.pt").write_text("old")
    assert run("convert", files / "tiny.safetensors", tmp_path / "out.pt", "--force")[0] == 0
    assert load_generator(tmp_path / "out.pt").resolution == (32, 32)


def test_convert_bakes_deltas(files, run, tmp_path):
    """Files and result folders, summed and scaled; what is written draws as the base does with the sum as its
    deltas.
    """
    base, full = load_generator(files / "tiny.safetensors"), Delta.load(files / "full.safetensors")
    low = Delta.load(files / "low.safetensors")
    inputs = GeneratorInputs(torch.randn(2, 8, 16, generator=torch.Generator().manual_seed(1)))
    expected = base.synthesis(inputs.replace(deltas=Delta.compose([full, low]).scaled(0.5).deltas()))
    options = ["--delta", files / "full.safetensors", "--delta", files / "result", "--strength", "0.5"]
    for name in ("baked.safetensors", "baked.pt"):
        code, _, err = run("convert", files / "tiny.safetensors", tmp_path / name, *options)
        assert code == 0 and ("--revert works on a .safetensors" in err) == (name == "baked.pt")
        torch.testing.assert_close(load_generator(tmp_path / name).synthesis(inputs), expected, rtol=1e-4, atol=1e-4)
    assert (expected - base.synthesis(inputs)).abs().max() > 0.01

    assert run("convert", tmp_path / "baked.safetensors", tmp_path / "plain.safetensors", *options, "--revert")[0] == 0
    plain = load_generator(tmp_path / "plain.safetensors")
    assert plain.card == base.card
    for name in (CONV, TORGB):
        weight = base.get_parameter(name)
        assert (plain.get_parameter(name) - weight).abs().max() <= 1e-6 * weight.abs().max()
    line = ["convert", tmp_path / "baked.safetensors", tmp_path / "x.safetensors", "--revert", *options[:-1]]
    code, _, err = run(*line, "0.4")
    assert code == 1 and "was not baked into it at strength 0.4" in err
    code, _, err = run("convert", tmp_path / "baked.pt", tmp_path / "y.safetensors", *options, "--revert")
    assert code == 1 and "baked.pt" in err and "card lists: none" in err


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--strength", "0.5"], 2, "--strength needs a delta"),
        (["--force-delta"], 2, "--force-delta needs a delta"),
        (["--delta", "full.safetensors", "--strength", "nan"], 2, "finite"),
        (["--delta", "full.safetensors", "--strength", "much"], 2, "much"),
        (["--delta", "full.safetensors", "--strength", "1e300"], 2, "finite"),
        (
            ["--delta", "foreign.safetensors"],
            1,
            "foreign.safetensors: made for generator 'stranger' (0123456789abcdef)",
        ),
        (["--delta", "tiny.safetensors"], 1, "tiny.safetensors: its format is 'latentopt-generator-1'"),
        (["--delta", "absent.safetensors"], 1, "absent.safetensors: no such file"),
        (["--delta", "."], 1, "no delta.safetensors in this folder"),
    ],
)
@pytest.mark.parametrize("command", ["convert", "sample"])
def test_deltas_that_are_refused(command, arguments, code, message, files, run, tmp_path):
    arguments = [files / text if text.endswith(".safetensors") or text == "." else text for text in arguments]
    target, network = tmp_path / "out.safetensors", files / "tiny.safetensors"
    line = (
        ["convert", network, target] if command == "convert" else ["sample", "--network", network, "--outdir", target]
    )
    found, _, err = run(*line, *arguments)
    assert found == code and message in err
    assert not list(tmp_path.iterdir())


def test_a_foreign_delta_by_force(files, run, tmp_path):
    options = ["--delta", files / "foreign.safetensors", "--force-delta"]
    assert run("convert", files / "tiny.safetensors", tmp_path / "a.safetensors", *options)[0] == 0
    own = ["--delta", files / "full.safetensors"]  # the same weights
    assert run("convert", files / "tiny.safetensors", tmp_path / "b.safetensors", *own)[0] == 0
    a, b = (load_generator(tmp_path / name) for name in ("a.safetensors", "b.safetensors"))
    assert a.fingerprint == b.fingerprint


# sample ------------------------------------------------------------------------------------------------------------


def pixels(path):
    return np.asarray(Image.open(path))


def test_sample(files, run, tmp_path):
    """z is NVIDIA's `RandomState(seed).randn(1, z_dim)`, w is truncated, pixels are rounded."""
    network = files / "tiny.safetensors"
    code, out, _ = run("sample", "--network", network, "--seeds", "3,7-8", "--trunc", 0.5, "--outdir", tmp_path)
    assert code == 0
    assert "3 images" in out
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "grid.png",
        "seed0003.png",
        "seed0007.png",
        "seed0008.png",
    ]
    generator = load_generator(network)
    z = torch.from_numpy(np.random.RandomState(7).randn(1, 16)).float()
    w = generator.mapping(z)
    ws = generator.broadcast(generator.w_avg + 0.5 * (w - generator.w_avg))
    expected = to_uint8(generator.synthesis(GeneratorInputs(ws)))[0]
    assert np.abs(pixels(tmp_path / "seed0007.png").astype(int) - expected.astype(int)).max() <= 1
    assert (pixels(tmp_path / "seed0007.png") == expected).mean() > 0.999


def test_sample_noise_modes(files, run, tmp_path):
    base = ["sample", "--network", files / "tiny.safetensors", "--seeds", "1", "--no-grid"]
    images = {}
    for name, mode in (("a", "const"), ("b", "random"), ("c", "none"), ("again", "random")):
        assert run(*base, "--noise-mode", mode, "--outdir", tmp_path / name)[0] == 0
        assert [path.name for path in (tmp_path / name).iterdir()] == ["seed0001.png"]
        images[name] = pixels(tmp_path / name / "seed0001.png").tobytes()
    assert len(set(images.values())) == 3
    assert images["b"] == images["again"]


def test_sample_with_deltas(files, run, tmp_path):
    """What `--delta` draws is what the converted generator draws; strength 0 is the base, byte for byte."""
    base = ["sample", "--network", files / "tiny.safetensors", "--seeds", "1", "--no-grid"]
    deltas = ["--delta", files / "full.safetensors", "--delta", files / "low.safetensors"]
    baked = tmp_path / "baked.safetensors"
    assert run("convert", files / "tiny.safetensors", baked, *deltas, "--strength", "0.5")[0] == 0
    lines = {
        "plain": base,
        "zero": [*base, *deltas, "--strength", "0"],
        "half": [*base, *deltas, "--strength", "0.5"],
        "whole": [*base, *deltas],
        "baked": ["sample", "--network", baked, *base[3:]],
    }
    for name, line in lines.items():
        assert run(*line, "--outdir", tmp_path / name)[0] == 0
    images = {name: pixels(tmp_path / name / "seed0001.png").tobytes() for name in lines}
    assert images["plain"] == images["zero"] and images["half"] == images["baked"]
    assert len(set(images.values())) == 3


def test_sample_classes(files, run, tmp_path):
    base = ["sample", "--network", files / "labels.safetensors", "--seeds", "1", "--trunc", "1"]
    for label in (0, 2):
        assert run(*base, "--class", label, "--outdir", tmp_path / str(label))[0] == 0
    first, other = (pixels(tmp_path / name / "seed0001.png") for name in "02")
    assert not np.array_equal(first, other)


@pytest.mark.parametrize(
    ("network", "arguments", "message"),
    [
        ("tiny", ["--class", "1"], "takes no labels"),
        ("labels", [], "--class with 0 to 2"),
        ("labels", ["--class", "3"], "--class with 0 to 2"),
        ("tiny", ["--seeds", "5-3"], "5-3"),
        ("tiny", ["--seeds", "a"], "list of seeds"),
        ("tiny", ["--seeds", ""], "list of seeds"),
        ("tiny", ["--seeds", "4294967296"], "4294967295"),
        ("tiny", ["--seeds", "0-99999999"], "100000 seeds"),
        ("tiny", ["--trunc", "nan"], "finite"),
        ("tiny", ["--noise-mode", "loud"], "loud"),
        ("tiny", ["--device", "abacus"], "abacus"),
    ],
)
def test_sample_usage_errors(network, arguments, message, files, run, tmp_path):
    code, _, err = run("sample", "--network", files / f"{network}.safetensors", *arguments, "--outdir", tmp_path)
    assert code == 2
    assert message in err
    assert not list(tmp_path.iterdir())


def test_sample_says_what_the_file_lacked(files, run, tmp_path):
    assert run("convert", files / "tiny.safetensors", tmp_path / "r.pt")[0] == 0
    contents = torch.load(tmp_path / "r.pt", weights_only=True)
    del contents["latent_avg"]
    torch.save(contents, tmp_path / "r.pt")
    code, _, err = run("sample", "--network", tmp_path / "r.pt", "--seeds", "0", "--outdir", tmp_path / "out")
    assert code == 0
    assert "estimated from 10,000 samples" in err


@pytest.mark.parametrize("command", ["info", "convert", "sample"])
def test_help_ends_with_an_example(command, run):
    code, out, _ = run(command, "--help")
    assert code == 0
    assert f"latentopt {command}" in out.split("Example:")[1]
