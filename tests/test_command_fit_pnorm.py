"""`latentopt fit-pnorm`: files, exit codes, what it says; and the progress and device helpers that it uses."""

from __future__ import annotations

import io
import os
import pkgutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import make_tiny_generator

import latentopt
from latentopt.checkpoints.networks import save_generator
from latentopt.commands import main
from latentopt.commands.progress import Progress
from latentopt.devices import choose_device
from latentopt.errors import UsageError
from latentopt.statistics.pnorm import PNorm


@pytest.fixture
def folder(tmp_path, monkeypatch, tiny_generator):
    """An otherwise empty current folder with a generator file."""
    monkeypatch.chdir(tmp_path)
    save_generator(tiny_generator, Path("tiny.safetensors"))
    return tmp_path


@pytest.fixture
def run(monkeypatch, capsys):
    """Run the command line as a user does: exit code, stdout, stderr."""

    def call(*arguments):
        given = [] if "--network" in arguments else ["--network", "tiny.safetensors"]
        monkeypatch.setattr(sys, "argv", ["latentopt", "fit-pnorm", *given, *map(str, arguments)])
        with pytest.raises(SystemExit) as stop:
            main()
        return stop.value.code, *capsys.readouterr()

    return call


STATS = Path("pnorm_stats/tiny.safetensors")


def left_over():
    return sorted(path.name for path in STATS.parent.iterdir())


def test_fit_in_an_empty_folder(folder, run, tiny_generator):
    code, out, err = run("--samples", "2e3", "--batch", 500)
    assert code == 0
    pnorm = PNorm.load(STATS, tiny_generator)
    assert (pnorm.n, pnorm.seed) == (2000, 0)
    for words in ("2,000, seed 0", tiny_generator.fingerprint, "condition number", "99 % of the variance", str(STATS)):
        assert words in out
    assert "2,000/2,000 (100 %)" in err
    assert left_over() == ["tiny.safetensors"]


def test_a_finished_fit_is_not_repeated(folder, run):
    assert run("--samples", 2000, "-q")[2] == ""
    before = STATS.stat().st_mtime_ns
    code, out, _ = run("--samples", 2000)
    assert code == 0 and "already fitted" in out and STATS.stat().st_mtime_ns == before
    assert run("--samples", 2000, "--seed", 1)[0] == 0
    assert STATS.stat().st_mtime_ns != before and PNorm.load(STATS).seed == 1


def test_another_generators_file_is_kept(folder, run, tmp_path):
    run("--samples", 500)
    save_generator(make_tiny_generator(seed=4), Path("other/tiny.safetensors"))
    before = STATS.read_bytes()
    assert run("--network", "other/tiny.safetensors", "--samples", 500)[0] == 0, "it is kept beside it"
    assert STATS.read_bytes() == before
    named = ("--network", "other/tiny.safetensors", "--samples", 500, "--out", STATS)
    code, _, err = run(*named)
    assert code == 1 and "--overwrite" in err and STATS.read_bytes() == before
    assert run(*named, "--overwrite")[0] == 0
    assert STATS.read_bytes() != before
    STATS.write_bytes(b"something else")
    assert run("--samples", 500, "--out", STATS)[0] == 1
    assert STATS.read_bytes() == b"something else"


WRONG = {
    "no samples": ["--samples", "0"],
    "negative samples": ["--samples", "-5"],
    "half a sample": ["--samples", "1.5"],
    "words for samples": ["--samples", "many"],
    "not a number": ["--samples", "nan"],
    "endless": ["--samples", "1e999999999"],
    "too few samples": ["--samples", "16"],
    "shard past the end": ["--shard", "2/2"],
    "no shard": ["--shard", "1"],
    "negative seed": ["--seed", "-1"],
    "suffix": ["--out", "x.npz"],
    "two sources": ["--npz", "x.npz", "--merge"],
    "figure of a shard": ["--shard", "0/2", "--figure", "x.png"],
    "device": ["--device", "tpu"],
    "absent device": ["--device", "cuda:99"],
    "option": ["--sample", "1e3"],
}


@pytest.mark.parametrize("arguments", WRONG.values(), ids=WRONG)
def test_usage_errors_write_nothing(folder, run, arguments):
    code, out, err = run(*arguments)
    assert code == 2 and err and not out
    assert sorted(path.name for path in folder.iterdir()) == ["tiny.safetensors"]


FATAL = {
    "no network": ["--network", "absent.pkl"],
    "no npz": ["--npz", "absent.npz"],
    "no shards": ["--merge"],
}
UNWRITABLE = {
    "output is a folder": ["--out", "folder.safetensors"],
    "folder is a file": ["--out", "tiny.safetensors/x.safetensors"],
}


@pytest.mark.parametrize("arguments", FATAL.values(), ids=FATAL)
def test_fatal_errors_name_the_file(folder, run, arguments):
    Path("folder.safetensors").mkdir()
    code, _, err = run("--samples", 500, *arguments)
    assert code == 1 and arguments[-1].removeprefix("--merge") in err
    assert not STATS.exists()


@pytest.mark.parametrize("arguments", UNWRITABLE.values(), ids=UNWRITABLE)
def test_targets_that_cannot_be_written_are_noticed_before_the_network_is_read(folder, run, arguments):
    Path("folder.safetensors").mkdir()
    code, _, err = run("--samples", 500, "--network", "absent.pkl", *arguments)
    assert code == 2 and arguments[-1] in err and "absent" not in err


@pytest.mark.parametrize("text", ["1e3", "1000", "1_000", "1.0e3"])
def test_ways_to_write_samples(folder, run, text):
    assert run("--samples", text, "-q")[0] == 0
    assert PNorm.load(STATS).n == 1000


def test_shards_and_merge(folder, run, tiny_generator):
    assert run("--samples", 1500, "--batch", 250)[0] == 0
    whole = PNorm.load(STATS)
    STATS.unlink()
    for i in range(2):
        assert run("--samples", 1500, "--batch", 250, "--shard", f"{i}/2")[0] == 0
        assert not STATS.exists()
        assert run("--merge")[0] == int(i == 0)
    torch.testing.assert_close(PNorm.load(STATS, tiny_generator).std, whole.std, rtol=1e-9, atol=0)
    assert left_over() == ["tiny.safetensors"]


def test_npz_is_taken_over_after_a_test(folder, run, tiny_generator):
    run("--samples", 5000, "-q")
    pnorm = PNorm.load(STATS)
    arrays = {"X_mean": pnorm.mean.float(), "X_comp": pnorm.components, "X_stdev": pnorm.std}
    np.savez("good.npz", **arrays)
    np.savez("other.npz", **(arrays | {"X_stdev": pnorm.std * 3}))
    STATS.unlink()
    code, out, _ = run("--npz", "good.npz")
    assert code == 0 and "unknown" in out
    assert PNorm.load(STATS, tiny_generator).fingerprint == tiny_generator.fingerprint
    STATS.unlink()
    code, _, err = run("--npz", "other.npz")
    assert code == 1 and "other.npz" in err and not STATS.exists()
    assert "--network tiny.safetensors" in err  # as it was given, not the generator's name
    np.savez("objects.npz", **(arrays | {"X_mean": np.array([{}], object)}))
    code, _, err = run("--npz", "objects.npz")
    assert code == 4 and "objects.npz" in err and not STATS.exists()


def test_figure(folder, run):
    assert run("--samples", 500, "--figure", "figure.png", "-q")[0] == 0
    from PIL import Image

    with Image.open("figure.png") as image:
        pixels = np.asarray(image.convert("RGB"))
    height, width = pixels.shape[:2]
    for row in range(3):
        for column in range(3):  # a picture in each of the nine panels
            panel = pixels[row * height // 3 : (row + 1) * height // 3, column * width // 3 : (column + 1) * width // 3]
            assert panel.std() > 10


def test_a_killed_fit_goes_on(folder, run, tiny_generator):
    """SIGKILL while it works: only the partial moments are there, and the next run goes on from them."""
    text = (
        "import sys, latentopt.statistics.pnorm_fit as f; f.SAVE_INTERVAL = 0; from latentopt.commands import main;"
        "sys.argv = ['latentopt', 'fit-pnorm', '--network', 'tiny.safetensors', '--samples', '1e9', '--batch', '100'];"
        "main()"
    )
    root = Path(latentopt.__file__).parent.parent
    process = subprocess.Popen(
        [sys.executable, "-c", text], env={**os.environ, "PYTHONPATH": str(root)}, stderr=subprocess.PIPE
    )
    partial = STATS.parent / ".tiny.partial.safetensors"
    for _ in range(1200):
        if partial.exists() or process.poll() is not None:
            break
        time.sleep(0.05)
    time.sleep(0.2)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert partial.exists() and not STATS.exists()

    from latentopt.statistics.pnorm_fit import PNormFit

    fit = PNormFit(tiny_generator, 10**9, batch=100, partial=partial)
    assert fit.done > 0 and fit.done == 100 * fit.next
    once = PNormFit(tiny_generator, fit.done, batch=100)
    for _ in once.run():
        pass
    np.testing.assert_array_equal(once.moments.scatter, fit.moments.scatter)


@pytest.mark.parametrize("place", ["scipy.linalg.blas.dsyrk", "latentopt.commands.progress.Progress.advance"])
def test_ctrl_c_saves_and_exits_with_130(folder, run, tiny_generator, monkeypatch, place):
    """While a batch is added, and between two."""
    from latentopt.statistics.pnorm_fit import PNormFit, fit_pnorm

    original, calls = pkgutil.resolve_name(place), iter(range(1, 100))

    def third_interrupted(*args, **kwargs):
        if next(calls) == 3:
            raise KeyboardInterrupt
        return original(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(place, third_interrupted)
        code, _, err = run("--samples", 1000, "--batch", 100)
    kept = 200 if place.endswith("dsyrk") else 300
    assert code == 130 and f"{kept} codes are kept" in err and not STATS.exists()
    assert PNormFit(tiny_generator, 1000, batch=100, partial=STATS.parent / ".tiny.partial.safetensors").done == kept
    assert run("--samples", 1000, "--batch", 100)[0] == 0
    assert torch.equal(PNorm.load(STATS).components, fit_pnorm(tiny_generator, 1000, batch=100).components)


def test_going_on_is_said_and_exact(folder, run, tiny_generator):
    from latentopt.statistics.pnorm_fit import PNormFit, fit_pnorm

    steps = PNormFit(tiny_generator, 1000, batch=100, partial=STATS.parent / ".tiny.partial.safetensors").run()
    for _ in range(3):
        next(steps)
    steps.close()
    code, _, err = run("--samples", 1000, "--batch", 100)
    assert code == 0 and "going on from 300" in err
    assert torch.equal(PNorm.load(STATS).components, fit_pnorm(tiny_generator, 1000, batch=100).components)
    assert left_over() == ["tiny.safetensors"]


def test_warnings_are_one_line(folder, run):
    code, _, err = run("--samples", 20, "-q")
    assert code == 0 and err.startswith("warning: 20 samples for 16 dimensions") and err.count("\n") == 1


# --- devices and progress


@pytest.mark.parametrize(("name", "kind"), [("cpu", "cpu"), ("auto", None)])
def test_devices(name, kind):
    device = choose_device(name)
    assert torch.zeros(1, device=device).device.type == (kind or device.type)


@pytest.mark.parametrize("name", ["gpu", "cuda:", "cuda:x", "", "cuda:99"])
def test_devices_that_are_not_there(name):
    with pytest.raises(UsageError, match="device"):
        choose_device(name)


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_progress_as_lines():
    stream = io.StringIO()
    with Progress(10, "fitting", done=2, unit="step", interval=0, stream=stream) as progress:
        progress.advance(3, loss=0.123456, image="a.png")
        progress.note("a note")
        progress.advance(5)
    first, note, last = stream.getvalue().splitlines()
    assert first.startswith("fitting 5/10 (50 %)") and "step/s" in first and first.endswith("loss=0.1235  image=a.png")
    assert note == "a note"
    assert last.startswith("fitting 10/10 (100 %)")


def test_progress_as_a_bar():
    stream = Terminal()
    with Progress(4, "fitting", stream=stream) as progress:
        progress.advance(4, loss=0.5)
        progress.note("[a] note")
    assert "4/4" in stream.getvalue() and "loss=0.5" in stream.getvalue() and "[a] note" in stream.getvalue()


@pytest.mark.parametrize("stream", [io.StringIO(), Terminal()])
def test_quiet_progress(stream):
    with Progress(4, "fitting", quiet=True, interval=0, stream=stream) as progress:
        progress.advance(2)
        progress.note("a note")
    assert stream.getvalue() == ""
