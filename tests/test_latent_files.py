"""Latents of other tools: every kind of file and every shape, told by content, and what is said of the rest."""

from __future__ import annotations

import pickle
import shlex
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import make_tiny_generator
from safetensors.torch import save_file

from latentopt.checkpoints.latent_files import read_latents
from latentopt.checkpoints.networks import save_generator
from latentopt.editing.latents import find_sources, open_sources
from latentopt.errors import CheckpointError, UntrustedFileError
from latentopt.initializers.simple import File
from latentopt.pictures.images import save_png
from latentopt.statistics.pnorm_fit import fit_pnorm
from latentopt.types import GeneratorInputs

ROWS, DIM = 8, 16
W = torch.randn(3, ROWS, DIM, generator=torch.Generator().manual_seed(0))
ONE, CODE = W[:1], W[:, 0]  # [1,L,C], [N,C]
EACH = CODE[:, None].expand(-1, ROWS, -1)
NOISE = [torch.randn(1, 1, 4 << (i + 1) // 2, 4 << (i + 1) // 2) for i in range(7)]  # rosinality's, of 32x32
ENTRY = {"img": torch.zeros(3, 32, 32), "latent": W[0], "noise": NOISE}

SAVERS: dict[str, Callable[[Path, torch.Tensor], object]] = {
    "npy": lambda path, x: np.save(path.open("wb"), x.numpy()),
    "npz, w": lambda path, x: np.savez(path.open("wb"), w=x.numpy()),
    "npz, dlatents": lambda path, x: np.savez_compressed(path.open("wb"), dlatents=x.numpy()),
    "npz, another name": lambda path, x: np.savez(path.open("wb"), arr_0=x.numpy()),
    "npz, among others": lambda path, x: np.savez(path.open("wb"), latent_in=x.numpy(), loss=1.5, img=np.zeros((3, 9))),
    "pt": lambda path, x: torch.save(x, path),
    "pt, a parameter": lambda path, x: torch.save(torch.nn.Parameter(x), path),
    "pt, old": lambda path, x: torch.save(x, path, _use_new_zipfile_serialization=False),
    "pt, a dict": lambda path, x: torch.save({"latent": x, "step": 5, "args": "none"}, path),
    "safetensors": lambda path, x: save_file({"w_plus": x.contiguous()}, path),
}  # fmt: skip
SHAPES = {
    "[L,C]": (W[0], ONE),
    "[1,L,C]": (ONE, ONE),
    "[N,L,C]": (W, W),
    "[N,1,L,C]": (W[:, None], W),
    "[1,N,L,C]": (W[None], W),
    "[C]": (CODE[0], EACH[:1]),
    "[1,C]": (CODE[:1], EACH[:1]),
    "[N,C]": (CODE, EACH),
    "[N,1,C]": (CODE[:, None], EACH),
    "[1,1,C]": (CODE[None, :1], EACH[:1]),
    "[N,L*C]": (W.flatten(1), W),
    "[L*C]": (W[0].flatten(), ONE),
}


@pytest.fixture
def path(tmp_path) -> Path:
    return tmp_path / "latents"  # no suffix: the content tells


def images(path: Path, generator) -> torch.Tensor:
    found = read_latents(path, generator).images
    return torch.cat([inputs.ws for _, inputs in found])


@pytest.mark.parametrize("saver", SAVERS)
def test_every_kind_of_file_in_every_shape(saver, path, tiny_generator):
    for shape, (given, expected) in SHAPES.items():
        SAVERS[saver](path, given)
        assert torch.equal(images(path, tiny_generator), expected), shape


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_every_float_becomes_float32(dtype, path, tiny_generator):
    torch.save(W.to(dtype), path)
    found = images(path, tiny_generator)
    assert found.dtype == torch.float32 and torch.equal(found, W.to(dtype).float())


def test_big_endian_and_fortran_order(path, tiny_generator):
    np.save(path.open("wb"), np.asfortranarray(W.double().numpy().astype(">f8")))
    assert torch.equal(images(path, tiny_generator), W)


@pytest.mark.parametrize(
    ("contents", "names"),
    [
        ({"a.png": ENTRY}, ["a"]),  # rosinality's projector
        ({"/home/me/a.png": ENTRY, "b.jpg": {**ENTRY, "latent": W[1]}}, ["a", "b"]),
        ({"a.png": W[0], "b.png": W[1:2], "c.x": CODE[0]}, ["a", "b", "c.x"]),
        ({"a": {"w": W[0]}, "d": {"w": W[1]}}, ["a", "d"]),
        ({"latents": W, "names": ["x.png", "y.png", "z.png"]}, ["x", "y", "z"]),
        ([W[0], W[1:2], CODE[:1]], ["", "", ""]),
        ([{"latent": W[0]}, {"latent": W[1]}], ["", ""]),
        ({"latents": [W[0], W[1]]}, ["", ""]),
        ({"a": [W[0], W[1]]}, ["a", "a"]),  # ReStyle: the steps of a picture
    ],
)
def test_dicts_and_lists(contents, names, path, tiny_generator):
    torch.save(contents, path)
    assert [name for name, _ in read_latents(path, tiny_generator).images] == names


@pytest.mark.parametrize("latent", [W[0], CODE[0]], ids=["W+", "W"])
def test_the_noise_of_rosinalitys_projector_draws_the_picture(latent, path, tiny_generator):
    torch.save({"a.png": {**ENTRY, "latent": latent}}, path)
    ((_, inputs),) = read_latents(path, tiny_generator).images
    assert list(inputs.noise) == list(tiny_generator.noise_shapes)
    assert all(torch.equal(x, y) for x, y in zip(inputs.noise.values(), NOISE, strict=True))
    plain = inputs.replace(noise=None)
    assert not torch.equal(tiny_generator.synthesis(inputs), tiny_generator.synthesis(plain))


@pytest.mark.parametrize("noise", [NOISE[:3], [x[..., :2] for x in NOISE], [x * float("nan") for x in NOISE], "none"])
def test_noise_that_does_not_fit_is_left_out_and_said(noise, path, tiny_generator):
    torch.save({"a.png": {**ENTRY, "noise": noise}}, path)
    held = read_latents(path, tiny_generator)
    assert held.images[0][1].noise is None and "noise maps" in held.notes[0]


def test_what_does_not_fit_is_left_out_and_said(path, tiny_generator):
    np.savez(path.open("wb"), a=W[0], b=np.zeros((3, 5)), names=np.array(["x", None], object))
    held = read_latents(path, tiny_generator)
    assert [name for name, _ in held.images] == ["a"]
    assert any("'names'" in note for note in held.notes) and any("'b'" in note for note in held.notes)
    np.savez(path.open("wb"), latent_in=ONE, latent_F=np.zeros((1, 4, 4, 4)))  # Barbershop's F space
    assert any("'latent_F'" in note for note in read_latents(path, tiny_generator).notes)


def npy(**changes):
    return lambda path: np.save(path.open("wb"), *changes.values(), allow_pickle=True)


def saved(contents):
    return lambda path: torch.save(contents, path)


REFUSED = {  # what writes it, words of the message
    "not a number": (saved(W * float("nan")), "not finite"),
    "infinite in float32": (saved(W.double() * 1e300), "not finite"),
    "whole numbers": (saved(torch.ones(3, ROWS, DIM, dtype=torch.int64)), "int64 .*no real numbers"),
    "bytes": (npy(x=np.ones((ROWS, DIM), np.uint8)), "uint8 .*no real numbers"),
    "truth values": (npy(x=np.ones((ROWS, DIM), bool)), "bool .*no real numbers"),
    "complex": (npy(x=np.ones((ROWS, DIM), np.complex64)), "no real numbers"),
    "texts": (npy(x=np.array(["a", "b"])), "no latents"),
    "raw bytes": (npy(x=np.zeros((ROWS, DIM), "V2")), "no latents"),
    "a record array": (npy(x=np.zeros(3, [("a", "f4"), ("b", "f4")])), "no latents"),
    "a number": (npy(x=np.float32(1)), "no latents"),
    "empty": (saved(torch.zeros(0, ROWS, DIM)), "is empty"),
    "an empty list": (saved([]), "an empty list"),
    "an empty dict": (saved({}), "an empty dict"),
    "a dict of texts": (saved({"a": "b", "c": None}), "no latents"),
    "another width": (saved(torch.zeros(1, ROWS, 512)), r"\[1, 8, 512\]; 'tiny' takes \[8,16\].*--network"),
    "other rows": (saved(torch.zeros(1, 18, DIM)), r"\[1, 18, 16\]; 'tiny' takes.*--network"),
    "a wider code": (saved(torch.zeros(512)), r"\[512\]; 'tiny' takes.*--network"),
    "transposed": (saved(W.transpose(1, 2)), "axes are in another order.*transposed"),
    "one transposed": (saved(W[0].T), "axes are in another order.*transposed"),
    "rows first": (saved(W.permute(1, 2, 0)), "axes are in another order.*transposed"),
    "a picture's numbers": (saved(torch.zeros(1, 3, 64, 64)), "looks like a picture.*latentopt invert"),
    "a list with one of another shape": (saved([W[0], W[0, :3, :5]]), r"\[1\]' is \[3, 5\]|\[1\] is \[3, 5\]"),
    "z": (saved({"z": torch.zeros(1, DIM)}), "mapping network"),
    "cut": (lambda path: (np.save(path.open("wb"), W.numpy()), path.write_bytes(path.read_bytes()[:400])), "not whole"),
    "cut pt": (lambda path: (torch.save(W, path), path.write_bytes(path.read_bytes()[:400])), "end is missing"),
    "cut safetensors": (lambda p: (save_file({"w": W}, p), p.write_bytes(p.read_bytes()[:300])), "not whole"),
    "a header of lies": (lambda path: path.write_bytes(
        b"\x93NUMPY\x01\x00\x46\x00" + b"{'descr': '<f4', 'fortran_order': False, 'shape': (1000000000000,)}   \n"),
        "not whole"),
    "a damaged header": (lambda path: path.write_bytes(b"\x93NUMPY\x01\x00\x10\x00{'descr': nothing}"), "damaged"),
    "nothing": (lambda path: path.write_bytes(b""), "an empty file"),
    "a picture": (lambda path: save_png(path, torch.zeros(3, 8, 8)), "a picture.*run latentopt invert first"),
    "a web page": (lambda path: path.write_text("<!DOCTYPE html><html><body>Sign in</body></html>"), "a web page"),
    "a text": (lambda path: path.write_text("0.1, 0.2"), "a text"),
    "HDF5": (lambda path: path.write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(64)), "HDF5"),
    "a generator": (lambda path: save_generator(make_tiny_generator(), path), "a generator.*--network"),
    "a torch generator": (saved({"g_ema": {"style.1.weight": W, "to_rgb1.bias": W}}), "a model.*--network"),
    "a state dict": (saved({"state_dict": {"encoder.body.0.weight": W}}), "a model.*--network"),
    "a bare state dict": (saved({"mapping.fc0.weight": W, "synthesis.b4.const": W}), "a StyleGAN2.*--network"),
    "a pickled network": (lambda path: path.write_bytes(
        b"\x80\x03}q\x00X\x05\x00\x00\x00G_emactorch_utils.persistence\n_reconstruct_persistent_obj\n."), "a model"),
    "statistics": (lambda path: fit_pnorm(make_tiny_generator(), 100, batch=50).save(path), "P-norm statistics"),
}  # fmt: skip


@pytest.mark.parametrize("kind", REFUSED)
@pytest.mark.filterwarnings("ignore")
def test_what_holds_no_latents_is_named_for_what_it_is(kind, path, tiny_generator):
    write, words = REFUSED[kind]
    write(path)
    with pytest.raises(CheckpointError, match=words) as caught:
        read_latents(path, tiny_generator)
    assert str(caught.value).startswith(str(path))


PICKLED = {
    "a dict (pSp, ReStyle, HyperStyle)": (npy(x={"a.png": W[0].numpy(), "b.png": W[1].numpy()}), W[:2]),
    "a dict of steps (ReStyle)": (npy(x={"a.png": [W[0].numpy(), W[1].numpy()]}), W[:2]),
    "an object array": (npy(x=np.array([W[0].numpy(), CODE[0].numpy(), None], object)[:2]), None),
    "a pickle of a dict": (lambda path: path.write_bytes(pickle.dumps({"w": W.numpy(), 3: 5})), W),
    "a pickle of an array": (lambda path: path.write_bytes(pickle.dumps(W.numpy(), 2)), W),
    "a pickle of a list": (lambda path: path.write_bytes(pickle.dumps([W[0].numpy(), W[1].numpy()], 4)), W[:2]),
    "objects in npz": (lambda path: np.savez(path.open("wb"), w=np.array([W[0].numpy().tolist()], object)), None),
    "objects in pt": (saved({"w": W, "when": pytest.importorskip("fractions").Fraction(1, 2)}), None),
}


@pytest.mark.parametrize("kind", PICKLED)
def test_pickled_arrays_are_refused_and_the_remedy_works(kind, path, tiny_generator, monkeypatch):
    write, expected = PICKLED[kind]
    write(path)
    with pytest.raises(UntrustedFileError, match="could run code; refused") as caught:
        read_latents(path, tiny_generator)
    line = next(line for line in str(caught.value).splitlines() if line.startswith("  python -c"))
    monkeypatch.chdir(path.parent)
    exec(shlex.split(line)[2], {})
    named = str(caught.value).splitlines()[-1].removeprefix("and give ")
    if expected is not None:
        assert torch.equal(images(Path(named), tiny_generator), expected)
    else:
        assert Path(named).is_file()


def test_a_pickle_that_would_run_something_is_only_refused(path, tiny_generator):
    class Attack:
        def __reduce__(self):
            return (exec, ("raise SystemExit",))

    for write in (
        npy(x=np.array(Attack(), object)),
        lambda p: p.write_bytes(pickle.dumps(Attack())),
        saved([Attack()]),
    ):
        write(path)
        with pytest.raises(UntrustedFileError, match="nothing was run"):
            read_latents(path, tiny_generator)


# ---- sources: one an image, of files and folders


def test_an_entry_an_image_with_a_name_of_its_own(tmp_path, tiny_generator):
    torch.save(W, tmp_path / "latents.pt")
    torch.save({"../a.png": W[0], "a.jpg": W[1]}, tmp_path / "named.pt")
    sources = [*find_sources(tmp_path / "latents.pt"), *find_sources(tmp_path / "named.pt")]
    opened = open_sources(sources, tiny_generator)
    assert [source.name for source in opened] == ["latents-0", "latents-1", "latents-2", "a", "a-2"]
    assert torch.equal(torch.cat([source.inputs.ws for source in opened]), torch.cat([W, W[:2]]))


def test_a_folder_of_latents(tmp_path, tiny_generator):
    """PTI keeps a pivot a picture, Barbershop an array."""
    for name in ("anna", "ben"):
        (tmp_path / name).mkdir()
        torch.save(ONE, tmp_path / name / "0.pt")
    np.save(tmp_path / "carl.npy", W[1].numpy())
    assert [s.name for s in open_sources(find_sources(tmp_path), tiny_generator)] == ["anna/0", "ben/0", "carl"]
    (tmp_path / "edits").mkdir()
    torch.save(ONE, tmp_path / "edits" / "x.pt")
    torch.save({"g": {"a.weight": W}}, tmp_path / "model.pt")
    notes: list[str] = []
    opened = open_sources(find_sources(tmp_path), tiny_generator, notes.append)
    assert [s.name for s in opened] == ["anna/0", "ben/0", "carl"] and "model.pt" in notes[0]
    (tmp_path / "none").mkdir()
    with pytest.raises(CheckpointError, match="no finished inversion"):
        find_sources(tmp_path / "none")


def test_saved_inputs_of_several_images(tmp_path, tiny_generator):
    inputs = GeneratorInputs(W, noise={"b4.conv1": torch.zeros(3, 1, 4, 4)})
    inputs.save(tmp_path / "inputs.safetensors", {"fingerprint": tiny_generator.fingerprint, "name": "tiny"})
    opened = open_sources(find_sources(tmp_path / "inputs.safetensors"), tiny_generator)
    assert [len(source.inputs) for source in opened] == [1, 1, 1]
    other = make_tiny_generator(5)
    with pytest.raises(CheckpointError, match=r"made with generator 'tiny'.*--network FILE"):
        open_sources(find_sources(tmp_path / "inputs.safetensors"), other)


def test_saved_inputs_that_name_no_generator_come_back_whole(tmp_path, tiny_generator):
    GeneratorInputs(ONE, noise={"b4.conv1": torch.ones(1, 1, 4, 4)}).save(tmp_path / "inputs.safetensors")
    ((_, inputs),) = read_latents(tmp_path / "inputs.safetensors", tiny_generator).images
    assert torch.equal(inputs.ws, ONE) and torch.equal(inputs.noise["b4.conv1"], torch.ones(1, 1, 4, 4))


@pytest.mark.parametrize(("entry", "row"), [(0, 0), (1, 1), ("b", 1)])
def test_a_start_is_one_of_several(entry, row, tmp_path, tiny_generator):
    torch.save({"a.png": W[0], "b.png": W[1]}, tmp_path / "two.pt")
    start = File(tiny_generator, path=str(tmp_path / "two.pt"), entry=entry)(torch.zeros(2, 3, 32, 32), [0, 1])
    assert torch.equal(start.ws, W[[row, row]])


@pytest.mark.parametrize(
    ("entry", "words"), [(None, r"holds 2 latents \(a, b\)"), (2, "none of them is 2"), ("c", "'c'")]
)
def test_a_start_of_several_must_be_chosen(entry, words, tmp_path, tiny_generator):
    torch.save({"a.png": W[0], "b.png": W[1]}, tmp_path / "two.pt")
    with pytest.raises(CheckpointError, match=words):
        File(tiny_generator, path=str(tmp_path / "two.pt"), entry=entry)(torch.zeros(1, 3, 32, 32), [0])
