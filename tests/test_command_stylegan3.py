"""Every command on a StyleGAN3 file: NVIDIA's own snapshot, 16x16, as it is."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import REFERENCE, make_encoder, photo
from PIL import Image
from safetensors.torch import load_file
from test_command_evaluate import JUDGE, OWN, QUICK

from latentopt.checkpoints.networks import load_generator
from latentopt.editing.direction import Direction
from latentopt.editing.files import save_directions
from latentopt.encoders.files import save_encoder
from latentopt.evaluation import comparison
from latentopt.evaluation.subject import Amounts
from latentopt.geometry.moves import PictureMove, parts_of
from latentopt.report import comparison_files
from latentopt.results.inversion import Inversion
from latentopt.statistics.pnorm_fit import fit_pnorm
from latentopt.statistics.sigma_fit import fit_sigma
from latentopt.types import GeneratorInputs

NETWORK = ("--network", "net/sg3.pkl")
SHORT = ("--terms", "l2", "--steps", "2", "-q")
SEARCH = ("angles=2", "shifts=2", "runs=1", "steps=1")
SHORT_SEARCH = tuple(part for option in SEARCH for part in ("--set", f"stages.0.init.{option}"))
TWO = ("--components", "2", "--samples", "200")
COMPARED = ("--recipes", "i2s", "--metrics", "bundled", "--lec", "0")
SMALL = Amounts(samples=8, paths=1, steps=1, partners=1, lec=1, corruption=4)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory) -> Path:
    """A folder with the snapshot, its statistics, sigma and an encoder, directions, two photos, and an inversion."""
    folder = tmp_path_factory.mktemp("sg3")
    snapshot = load_file(REFERENCE / "pickles" / "sg3_snapshot.safetensors")["pickle_bytes"]
    (folder / "net").mkdir()
    (folder / "net" / "sg3.pkl").write_bytes(snapshot.numpy().tobytes())
    generator = load_generator(folder / "net" / "sg3.pkl")
    fit_pnorm(generator, 500, batch=500).save(folder / "pnorm_stats" / "sg3.safetensors")
    fit_sigma(generator, layers="convs:6", samples=2).save(folder / "sigma" / "sg3.safetensors")
    save_encoder(make_encoder(generator, "e4e"), folder / "e4e.safetensors")
    vector = torch.randn(generator.w_dim, generator=torch.Generator().manual_seed(0))
    directions = [Direction("yaw", "w", vector, generator.fingerprint)]
    save_directions(folder / "directions" / "sg3.safetensors", directions)
    (folder / "brightness.py").write_text(JUDGE)
    for i, name in enumerate("ab"):
        photo(folder / "photos" / f"{name}.png", i)
    w = generator.mapping(torch.randn(1, 16, generator=torch.Generator().manual_seed(1)))
    inputs = PictureMove(10, (0.1, 0))(GeneratorInputs(generator.broadcast(w)))
    inputs.save(folder / "moved.safetensors", {"fingerprint": generator.fingerprint})
    return folder


@pytest.fixture
def folder(tmp_path, monkeypatch, prepared) -> Path:
    shutil.copytree(prepared, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(comparison, "AMOUNTS", SMALL)
    monkeypatch.setattr(comparison_files, "AMOUNTS", SMALL)
    return tmp_path


INVERT = ("invert", "photos", *NETWORK, *SHORT, "--recipe", "i2s")
ROWS = {  # name: (command lines, one after the other; what the last one leaves)
    "info": ([("info", "net/sg3.pkl")], None),
    "convert": ([("convert", "net/sg3.pkl", "sg3.safetensors"), ("info", "sg3.safetensors")], "sg3.safetensors"),
    "sample": ([("sample", *NETWORK, "--seeds", "0-1")], "out/seed0001.png"),
    "sample a file": ([("sample", *NETWORK, "--latents", "moved.safetensors", "--rotate", "5")], "out/moved.png"),
    "fit-pnorm": ([("fit-pnorm", *NETWORK, "--samples", "500", "--out", "p.safetensors")], "p.safetensors"),
    "fit-sigma": (
        [("fit-sigma", *NETWORK, "--samples", "2", "--layers", "all", "--out", "s.safetensors")],
        "s.safetensors",
    ),
    "fit-metric": (
        [("fit-metric", *NETWORK, "--net", "bundled", "--out", "m.safetensors", "--probes", "4")],
        "m.safetensors",
    ),
    "invert": ([INVERT], "out/a/projected_w.npz"),
    "invert in P-norm": ([(*INVERT, "--space", "pnorm+", "--clip", "2")], "out/b/run.json"),
    "invert with noise maps": ([(*INVERT[:-1], "sg2")], "out/b/run.json"),
    "invert by samples": ([(*INVERT[:-1], "pulse", "--init", "sample")], "out/b/run.json"),
    "invert by sg3": ([(*INVERT[:-1], "sg3", *SHORT_SEARCH)], "out/b/run.json"),
    "invert with placement": ([(*INVERT, "--placement", *SHORT_SEARCH)], "out/b/run.json"),
    "invert from a moved start": ([(*INVERT, "--init", "file:moved.safetensors")], "out/b/run.json"),
    "invert in 16 bits": ([(*INVERT, "--dtype", "bfloat16", "--low-memory")], "out/b/run.json"),
    "encode": ([("encode", "photos", *NETWORK, "--encoder", "e4e.safetensors", "--terms", "l2")], "out/a/run.json"),
    "hybrid": ([(*INVERT, "--init", "encoder:e4e.safetensors")], "out/a/run.json"),
    "edit": ([INVERT, ("edit", "--do", "yaw=1", "--sweep", "yaw=-1..1:3")], "out/edits/a/yaw+1.png"),
    "edit a move": (
        [INVERT, ("edit", "out/a", "--rotate", "20", "--translate", "0.1,0")],
        "out/a/edits/a/rotate+20_translate+0.1,+0.safetensors",
    ),
    "mix": ([INVERT, ("mix", "out")], "out/mixed/mixed.png"),
    "interpolate": ([INVERT, ("interpolate", "out", "--steps", "3")], "out/interpolated/interpolated-w+.png"),
    "sefa": ([("directions", "find", "--method", "sefa", *NETWORK, "--components", "2")], None),
    "ganspace": (
        [("directions", "find", "--method", "ganspace", *NETWORK, *TWO)],
        None,
    ),
    "ganspace of a layer": (
        [
            ("directions", "find", "--method", "ganspace", *NETWORK, *TWO, "--layer", "L1_36_8"),
        ],
        None,
    ),
    "interfacegan": (
        [("directions", "find", "--method", "interfacegan", *NETWORK, *OWN, "--samples", "200")],
        "directions/sg3-interfacegan.safetensors",
    ),
    "evaluate": ([INVERT, ("evaluate", *QUICK, *OWN)], "out/evaluation.json"),
    "compare": (
        [("compare", "photos", *NETWORK, *COMPARED, "--placement", *SHORT, *SHORT_SEARCH)],
        "compared/report.html",
    ),
}  # fmt: skip
for method in ("weights", "wrangan", "lowrank", "pti"):
    line = ("tune", "--method", method, *SHORT, "--corruption", "0")
    ROWS[f"tune by {method}"] = ([INVERT, line], f"out/tuned-{method}/a/delta.safetensors")


ROWS["tune photos, placed first"] = (
    [("tune", "photos", *NETWORK, "--method", "quick.toml", "--placement", "-q", "--corruption", "0")],
    "out/quick/tuned-quick/a/delta.safetensors",
)
QUICK_TUNING = """
[[stages]]
init = "mean"
optimize = ["w"]
terms = ["l2"]
steps = 1
lr = 0.01
[[stages]]
optimize = ["weights"]
terms = ["l2"]
steps = 1
lr = 0.01
"""


@pytest.mark.parametrize("name", ROWS)
def test_commands(name, folder, latentopt):
    (folder / "quick.toml").write_text(QUICK_TUNING)
    lines, left = ROWS[name]
    for line in lines:
        code, out, err = latentopt(*line)
        assert code == 0, f"{line}: {out}{err}"
    if left is not None:
        assert (folder / left).is_file(), sorted(str(path) for path in folder.rglob("*"))


def test_noise_maps_are_missed_in_one_line(folder, latentopt):
    err = latentopt(*INVERT[:-1], "sg2")[2]
    assert err.count("has no noise maps: sg2 goes on without them") == 1


def pictures(folder: Path, pattern: str = "seed*.png") -> np.ndarray:
    return np.stack([np.asarray(Image.open(path)) for path in sorted(folder.glob(pattern))])


def test_samples_are_turned_and_shifted_by_the_network(folder, latentopt):
    assert latentopt("sample", *NETWORK, "--seeds", "0-1", "--outdir", "plain")[0] == 0
    assert latentopt("sample", *NETWORK, "--seeds", "0-1", "--rotate", "0", "--outdir", "same")[0] == 0
    assert latentopt("sample", *NETWORK, "--seeds", "0-1", "--rotate", "20", "--translate", "0.1,0")[0] == 0
    generator = load_generator("net/sg3.pkl")
    z = torch.from_numpy(np.stack([np.random.RandomState(seed).randn(16) for seed in (0, 1)])).float()
    inputs = PictureMove(20, (0.1, 0))(GeneratorInputs(generator.truncate(generator.mapping(z), 0.7)))
    expected = (generator.synthesis(inputs) * 127.5 + 128).clamp(0, 255).byte().permute(0, 2, 3, 1).numpy()
    assert np.abs(pictures(folder / "out").astype(int) - expected).max() <= 1
    assert np.abs(pictures(folder / "plain").astype(int) - pictures(folder / "same")).max() <= 1


def test_an_edit_moves_a_result_from_where_it_lies(folder, latentopt):
    """With an edit and without; the written latents hold the move, and can be moved on."""
    assert latentopt(*INVERT, "--placement", *SHORT_SEARCH)[0] == 0
    before = Inversion.load(folder / "out" / "a").inputs
    assert latentopt("edit", "out/a", "--do", "yaw=1", "--rotate", "20", "--translate", "0.1,-0.2")[0] == 0
    path = folder / "out" / "a" / "edits" / "a" / "yaw+1_rotate+20_translate+0.1,-0.2.safetensors"
    moved = GeneratorInputs.load(path)
    torch.testing.assert_close(moved.transform, PictureMove(20, (0.1, -0.2))(before).transform)
    assert not torch.equal(moved.ws, before.ws)
    assert latentopt("edit", str(path), "--rotate", "-20", "--to", "on")[0] == 0
    on = GeneratorInputs.load(next((folder / "on").rglob("rotate-20.safetensors")))
    angle, _, _ = parts_of(on.transform)
    torch.testing.assert_close(angle, parts_of(before.transform)[0], atol=1e-5, rtol=1e-5)


def test_a_result_keeps_its_placement(folder, latentopt):
    """Through tuning, whose recipe knows nothing of it, and as proj.png shows."""
    assert latentopt(*INVERT, "--placement", *SHORT_SEARCH)[0] == 0
    assert latentopt("tune", "out/a", "--method", "weights", *SHORT, "--corruption", "0")[0] == 0
    first, tuned = (Inversion.load(path).inputs for path in (folder / "out" / "a", next(folder.rglob("tuned*/a"))))
    assert torch.equal(first.transform, tuned.transform)
    assert first.transform[:, :2].sub(torch.eye(3)[:2]).abs().max() > 0.01
    assert not any("input" in name for name in tuned.deltas)
    drawn = load_generator("net/sg3.pkl").synthesis(first)[0].clamp(-1, 1)
    shown = torch.from_numpy(pictures(folder / "out" / "a", "proj.png")[0]).permute(2, 0, 1)
    assert (drawn * 127.5 + 128 - shown).abs().max() <= 1.5


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("sample", "--rotate", "20", "--seeds", "0"), 2, "cannot draw a picture turned or shifted"),
        (("sample", *NETWORK, "--rotate", "nan"), 2, "--rotate must be a finite number"),
        (("sample", *NETWORK, "--translate", "0.1"), 2, "write X,Y in widths"),
        (("sample", *NETWORK, "--translate", "0.1,0.2,0.3"), 2, "write X,Y in widths"),
        (("sample", *NETWORK, "--translate", "left,0"), 2, "write X,Y in widths"),
        (("sample", *NETWORK, "--translate", "nan,0"), 2, "at most 100 widths"),
        (("sample", *NETWORK, "--translate", "1e9,0"), 2, "at most 100 widths"),
        (("edit", "moved.safetensors", "--network", "portraits", "--rotate", "1"), 1, "made with generator"),
        (("invert", "photos", "--placement", *SHORT), 2, "cannot draw a picture turned or shifted"),
        (("invert", "photos", "--recipe", "sg3", *SHORT), 2, "leave the placement out"),
        (
            ("invert", "photos", *NETWORK, "--recipe", "encode", "--init", "mean", "--space", "placement"),
            2,
            "latent space",
        ),
        (("convert", "net/sg3.pkl", "out.pt"), 1, "cannot hold a StyleGAN3 generator"),
        ((*INVERT, "--init", "e4e"), 1, "encoder"),
        (
            ("tune", "photos", "--method", "weights", "--placement", *SHORT),
            2,
            "cannot draw a picture turned or shifted",
        ),
    ],
)
def test_what_cannot_be(arguments, code, message, folder, latentopt):
    found, _, err = latentopt(*arguments)
    assert (found, message in err) == (code, True), err


@pytest.mark.parametrize(
    ("transform", "message"),
    [
        (torch.zeros(1, 3, 3), "its transform is no move"),
        (torch.eye(2)[None], "its transform is no move"),
        (torch.full((1, 3, 3), 2.0), "its transform is no move"),
    ],
)
def test_files_with_a_transform_that_is_none(transform, message, folder, latentopt):
    generator = load_generator("net/sg3.pkl")
    inputs = GeneratorInputs(generator.broadcast(generator.w_avg[None]), transform=transform)
    inputs.save(folder / "bad.safetensors", {"fingerprint": generator.fingerprint})
    code, _, err = latentopt(*INVERT, "--init", "file:bad.safetensors")
    assert code in (1, 3) and message in err, err
    code, _, err = latentopt("sample", *NETWORK, "--latents", "bad.safetensors")
    assert code == 1 and message in err, err


def test_the_dumped_recipe_says_what_was_done(folder, latentopt):
    assert latentopt(*INVERT, "--placement", *SHORT_SEARCH)[0] == 0
    text = (folder / "out" / "a" / "recipe.toml").read_text()
    assert text.count("[[stages]]") == 2 and 'name = "placement"' in text
    code, out, _ = latentopt(*INVERT, "--placement", "--dry-run")
    assert code == 0 and out.count('name = "placement"') == 3
