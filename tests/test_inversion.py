"""The result folder: complete or not there, what it says, what it refuses."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import time
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from torchmetrics.functional.image import structural_similarity_index_measure

from latentopt.errors import CheckpointError, LatentoptError, UsageError
from latentopt.files import storage
from latentopt.files.outputs import check_outdir, sweep
from latentopt.files.storage import load_tensors
from latentopt.pictures.images import DELTA_FILE, RUN_FILES, from_uint8, read_image, save_png
from latentopt.results.distortion import PSNR_CAP, metrics
from latentopt.results.inversion import Inversion, is_complete
from latentopt.results.manifest import manifest, run_key
from latentopt.types import GeneratorInputs

KEY = {"image_sha256": "ab", "recipe_digest": "cd", "generator_fingerprint": "ef", "seed": 0}


def picture(seed=0, size=32) -> torch.Tensor:
    rng = np.random.default_rng(seed)
    return from_uint8(rng.integers(0, 256, (size, size, 3), np.uint8))


@pytest.fixture
def inversion(tmp_path, tiny_generator, tiny_inputs) -> Inversion:
    save_png(tmp_path / "photo.png", picture())
    target = read_image(tmp_path / "photo.png", (32, 32))
    inputs = tiny_inputs.index([0]).replace(
        noise={"b4.conv1": torch.randn(1, 1, 4, 4)}, deltas={"b4.conv1.weight": torch.randn(1, 5, 5)}
    )
    record = manifest(
        key=run_key(**KEY),
        source=tmp_path / "photo.png",
        target=target,
        recipe_name="ii2s",
        recipe_digest="cd",
        generator=tiny_generator,
        seed=0,
        dtype=torch.float32,
        seconds={"optimise": 1.5},
        steps=2,
        stop_reason="steps",
        metrics={"psnr": 20.0, "radius": float("inf"), "tensor": torch.tensor(0.5)},
    )
    history = [{"step": 0, "loss": 2.0}, {"step": 1, "loss": float("nan")}]
    return Inversion("photo", target.image, picture(1), inputs, "name = 'ii2s'\n", history, record)


@pytest.fixture
def folder(tmp_path) -> Path:
    return tmp_path / "out" / "été, a b"


# ---- saving and loading


def test_roundtrip(inversion, folder):
    inversion.save(folder)
    assert {path.name for path in folder.iterdir()} == {*RUN_FILES, DELTA_FILE}
    back = Inversion.load(folder)
    assert back.name == "photo" and back.recipe_toml == inversion.recipe_toml
    assert torch.equal(back.image, inversion.image) and torch.equal(back.target, inversion.target)
    assert torch.equal(back.inputs.ws, inversion.inputs.ws)
    for group in ("noise", "deltas"):
        for name, tensor in getattr(inversion.inputs, group).items():
            assert torch.equal(getattr(back.inputs, group)[name], tensor)
    assert back.history == [{"step": 0, "loss": 2.0}, {"step": 1, "loss": None}]
    assert back.manifest["metrics"] == {"psnr": 20.0, "radius": None, "tensor": 0.5}
    assert is_complete(folder, run_key(**KEY))


def test_manifest_says_what_is_needed(inversion, folder, tiny_generator):
    inversion.save(folder)
    run = json.loads((folder / "run.json").read_text(), parse_constant=lambda name: pytest.fail(f"{name} in run.json"))
    assert run["schema"] == 1
    assert run["generator"] == {"name": "tiny", "fingerprint": tiny_generator.fingerprint, "source": "tiny"}
    assert {"latentopt", "torch", "numpy", "pillow", "python"} <= run["versions"].keys()
    assert run["source"]["size"] == [32, 32] and len(run["source"]["sha256"]) == 64
    assert (run["device"], run["dtype"], run["seed"], run["stop_reason"]) == ("cpu", "float32", 0, "steps")
    _, metadata = load_tensors(folder / "inputs.safetensors")
    assert metadata == {"fingerprint": tiny_generator.fingerprint, "name": "tiny"}


def test_projected_w_is_as_nvidias_tools_read_it(inversion, folder):
    inversion.save(folder)
    with np.load(folder / "projected_w.npz", allow_pickle=False) as file:
        assert list(file) == ["w"] and file["w"].dtype == np.float32
        assert file["w"].shape == (1, *inversion.inputs.ws.shape[1:])
        assert torch.equal(torch.from_numpy(file["w"]), inversion.inputs.ws)


def test_one_image_a_folder(inversion, folder, tiny_inputs):
    with pytest.raises(ValueError, match="one image"):
        dataclasses.replace(inversion, inputs=tiny_inputs).save(folder)
    assert not folder.exists()


def test_another_generator_is_refused(inversion, tiny_generator):
    inversion = dataclasses.replace(inversion, inputs=inversion.inputs.replace(deltas=None, noise=None))
    inversion.check_generator(tiny_generator)
    other = dataclasses.replace(inversion, manifest={"generator": {"name": "other", "fingerprint": "00"}})
    with pytest.raises(CheckpointError, match=r"'other'.*name the one it was made with"):
        other.check_generator(tiny_generator)


@pytest.mark.parametrize("name", (*RUN_FILES, DELTA_FILE))
def test_a_missing_file_is_not_done(inversion, folder, name):
    inversion.save(folder)
    (folder / name).unlink()
    assert not is_complete(folder, run_key(**KEY))


@pytest.mark.parametrize("name", [name for name in (*RUN_FILES, DELTA_FILE) if name != "projected_w.npz"])
@pytest.mark.parametrize("damage", ["missing", "empty", "junk"])
def test_load_names_the_damaged_file(inversion, folder, name, damage):
    inversion.save(folder)
    if damage == "missing":
        (folder / name).unlink()
    else:
        (folder / name).write_bytes(b"" if damage == "empty" else b"\xff\xfe[not json")
    if damage == "empty" and name in ("recipe.toml", "history.jsonl"):
        Inversion.load(folder)  # empty ones are legal
        return
    with pytest.raises(CheckpointError) as caught:
        Inversion.load(folder)
    assert str(folder) in str(caught.value) and name in str(caught.value)


@pytest.mark.parametrize("text", ['{"schema": 2}', "[]", "{}", '"schema"'])
def test_a_foreign_run_json_is_refused(inversion, folder, text):
    inversion.save(folder)
    (folder / "run.json").write_text(text)
    with pytest.raises(CheckpointError, match=r"run\.json"):
        Inversion.load(folder)
    assert not is_complete(folder, run_key(**KEY))


# ---- the key


def test_the_key_changes_with_whatever_decides_the_result():
    variants = [
        KEY,
        KEY | {"image_sha256": "ac"},
        KEY | {"recipe_digest": "ce"},
        KEY | {"generator_fingerprint": "ee"},
        KEY | {"seed": 1},
        KEY | {"options": {"fit": "pad"}},
        KEY | {"options": {"fit": "crop"}},
        KEY | {"code_version": "9.9"},
    ]
    assert len({run_key(**variant) for variant in variants}) == len(variants)
    assert run_key(**KEY) == run_key(**KEY)
    options = [("a", 1), ("b", 2)]
    assert run_key(**KEY, options=dict(options)) == run_key(**KEY, options=dict(reversed(options)))


def test_a_changed_input_is_not_done(inversion, folder):
    inversion.save(folder)
    assert not is_complete(folder, run_key(**KEY | {"image_sha256": "changed"}))
    assert not is_complete(folder / "absent", run_key(**KEY))


# ---- faults while writing

WRITES = [name for name in RUN_FILES if name != "run.json"]


class Killed(BaseException):
    pass


def failing(error, at: str):
    """storage.write_atomically as it is, but for the file named `at`, which fails half-way through."""
    real = storage.write_atomically

    def write(path, write_file):
        def half(temporary):
            temporary.write_bytes(b"half")
            raise error

        return real(path, half if Path(path).name == at else write_file)

    return write


def patch_writes(monkeypatch, write) -> None:
    for module in ("files.writing", "files.storage", "pictures.images", "results.inversion"):
        monkeypatch.setattr(f"latentopt.{module}.write_atomically", write)


@pytest.mark.parametrize("name", RUN_FILES)
def test_a_full_disk_stops_clearly_at_any_file(inversion, folder, monkeypatch, name):
    earlier = folder.with_name("earlier")
    inversion.save(earlier)
    patch_writes(monkeypatch, failing(OSError(errno.ENOSPC, "No space left on device"), name))
    with pytest.raises(LatentoptError, match="disk is full") as caught:
        inversion.save(folder)
    assert str(folder / name) in str(caught.value)
    assert not [path for path in folder.iterdir() if path.name.startswith(".")]
    assert not (folder / name).exists() and not is_complete(folder, run_key(**KEY))
    assert is_complete(earlier, run_key(**KEY))


def test_a_full_disk_inside_safetensors(inversion, folder, monkeypatch):
    def full(*args, **kwargs):
        raise safetensors.SafetensorError("I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(storage, "save_file", full)
    with pytest.raises(LatentoptError, match=r"inputs\.safetensors.*disk is full"):
        inversion.save(folder)


@pytest.mark.parametrize("name", WRITES)
def test_a_run_killed_while_redoing_is_not_taken_for_done(inversion, folder, monkeypatch, name):
    inversion.save(folder)
    with monkeypatch.context() as context:
        patch_writes(context, failing(Killed(), name))
        with pytest.raises(Killed):
            inversion.save(folder)
    assert not is_complete(folder, run_key(**KEY))
    inversion.save(folder)
    assert is_complete(folder, run_key(**KEY))


# ---- the output folder


def test_check_outdir_makes_it_and_leaves_nothing(tmp_path):
    check_outdir(tmp_path / "a" / "b")
    assert list((tmp_path / "a" / "b").iterdir()) == []


@pytest.mark.parametrize("place", ["file", "file/below"])
def test_an_outdir_that_is_a_file(tmp_path, place):
    (tmp_path / "file").write_text("x")
    with pytest.raises(UsageError) as caught:
        check_outdir(tmp_path / place)
    assert str(tmp_path / place) in str(caught.value)


@pytest.mark.parametrize("code", [errno.EACCES, errno.EROFS, errno.ENOSPC])
def test_an_outdir_that_takes_no_files(tmp_path, monkeypatch, code):
    def refuse(*args, **kwargs):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr("latentopt.files.outputs.tempfile.mkstemp", refuse)
    with pytest.raises(UsageError, match="cannot write") as caught:
        check_outdir(tmp_path)
    assert str(tmp_path) in str(caught.value)


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_outdir(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(UsageError, match="cannot write"):
        check_outdir(tmp_path)
    tmp_path.chmod(0o700)


def test_sweep_takes_stale_temporary_files_only(tmp_path):
    leavings = []

    def killed(temporary):
        leavings.append(temporary.with_name(temporary.name))
        raise Killed

    for name in (*RUN_FILES, "summary.csv", "index.html", "grid.png"):
        with pytest.raises(Killed):
            storage.write_atomically(tmp_path / "a b" / name, killed)
    young = tmp_path / ".unfinished-abcdefgh.png"
    for path in (*leavings, young):
        path.write_bytes(b"half")
    others = [tmp_path / name for name in (".target.png", ".unfinished-abc", "target-abcdefgh.png", ".bashrc")]
    for path in others:
        path.write_bytes(b"mine")
    long_ago = time.time() - 7200
    for path in (*leavings, *others):
        os.utime(path, (long_ago, long_ago))
    assert set(sweep(tmp_path)) == set(leavings)
    assert young.exists() and all(path.exists() for path in others)
    assert sweep(tmp_path, older_than=0) == [young]
    assert sweep(tmp_path / "absent") == []


def test_sweep_reads_each_folder_once(tmp_path, monkeypatch):
    """However many kinds of temporary files there are: results are thousands of folders on a network disk."""
    for name in ("a", "b", "b/c"):
        (tmp_path / name).mkdir()
    stale = [tmp_path / "b" / "c" / ".unfinished-abcdefgh.json", tmp_path / "a" / ".unfinished-abcdefgh.png"]
    for path in stale:
        path.write_bytes(b"half")
    read, scandir = [], os.scandir
    monkeypatch.setattr(os, "scandir", lambda folder: (read.append(str(folder)), scandir(folder))[1])
    assert sweep(tmp_path, older_than=0) == sorted(stale)
    assert sorted(read) == sorted(str(tmp_path / name) for name in ("", "a", "b", "b/c"))


# ---- foreign latents


# ---- metrics


def test_metrics_against_their_definitions():
    target = torch.stack([picture(0), picture(1)])
    image = torch.stack([picture(0) * 0.5, picture(1) * 0.9 + 0.05])
    got = metrics(image, target)
    x, y = (((v * 127.5 + 127.5).clamp(0, 255) + 0.5).floor().double() for v in (image, target))
    mse = (x - y).square().mean((1, 2, 3))
    torch.testing.assert_close(got["mse"].double(), mse / 255**2, rtol=1e-5, atol=0)
    torch.testing.assert_close(got["psnr"].double(), 10 * torch.log10(255**2 / mse), rtol=1e-5, atol=0)
    assert got["ssim"].shape == (2,) and 0 < got["ssim"][0] < got["ssim"][1] < 1
    library = structural_similarity_index_measure(x, y, data_range=255.0, reduction="none")
    torch.testing.assert_close(got["ssim"].double(), library, rtol=0, atol=1e-7)


def test_metrics_of_an_image_do_not_depend_on_its_companions():
    images, targets = torch.stack([picture(i) for i in range(3)]), torch.stack([picture(i + 5) for i in range(3)])
    together = metrics(images, targets)
    for i in range(3):
        for name, value in metrics(images[i : i + 1], targets[i : i + 1]).items():
            torch.testing.assert_close(value[0], together[name][i], rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("level", [-1.0, 0.0, 1.0])
def test_constant_images_give_finite_figures(level):
    flat = torch.full((1, 3, 32, 32), level)
    same = metrics(flat, flat)
    assert same["psnr"].item() == PSNR_CAP and same["ssim"].item() == pytest.approx(1) and same["mse"].item() == 0
    for value in metrics(flat, picture()[None]).values():
        assert value.isfinite().all()


def test_metrics_see_what_is_saved():
    """Beyond white and between two levels, the saved pictures are equal."""
    white = torch.ones(1, 3, 32, 32)
    assert metrics(white * 3, white - 0.001)["psnr"].item() == PSNR_CAP


def test_small_images_have_no_ssim():
    small = torch.zeros(2, 3, 4, 4)
    assert set(metrics(small, small)) == {"mse", "psnr"}


def test_inputs_of_another_kind_are_refused(inversion, folder):
    inversion.save(folder)
    storage.save_tensors(folder / "inputs.safetensors", {"weight": torch.zeros(2)})
    with pytest.raises(CheckpointError, match=r"inputs\.safetensors.*'ws'"):
        GeneratorInputs.load(folder / "inputs.safetensors")
