"""`latentopt invert`: what it writes, its exit codes, and what is left after it was stopped, killed or refused."""

from __future__ import annotations

import errno
import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import finished, interrupt, photo, rows, w
from PIL import Image

import latentopt.checkpoints.networks as checkpoints
from latentopt.commands.batches import VIDEO_HEIGHT, side_by_side
from latentopt.errors import UsageError
from latentopt.files import outputs
from latentopt.files.resources import resource_folder
from latentopt.files.storage import load_tensors
from latentopt.generators.synthesis import SynthesisNetwork
from latentopt.initializers.simple import Mean
from latentopt.inverting import items
from latentopt.pictures import finding
from latentopt.pictures.images import RUN_FILES
from latentopt.recipe.recipe import Recipe
from latentopt.registry import PARAMETERIZATIONS

ROOT = Path(__file__).parent.parent
PLAIN = {"l2": 0.0, "std_floor": 0.0}  # the defaults of w and w+, which a recipe writes out
PNORM = PLAIN | {"sphere": False}
QUICK = ("--network", "net/tiny.safetensors", "--recipe", "i2s", "--terms", "l2=1", "--steps", "3", "-q")


def test_a_batch_of_pictures(folder, latentopt):
    code, out, _ = latentopt("invert", "photos", *QUICK, "--outdir", "results")
    assert code == 0
    assert "3 of 3 images in results/" in out
    for name in "abc":
        assert {path.name for path in (folder / "results" / name).iterdir()} == set(RUN_FILES)
        record = json.loads((folder / "results" / name / "run.json").read_text())
        assert record["source"]["path"] == f"photos/{name}.png"
        assert record["steps"] == 3
        recipe = Recipe.load(str(folder / "results" / name / "recipe.toml"))
        assert recipe.stages[0].terms == ({"name": "l2", "weight": 1.0},)
        history = (folder / "results" / name / "history.jsonl").read_text().splitlines()
        assert [json.loads(line)["step"] for line in history] == [0, 1, 2, 3]
        assert w(folder / "results" / name).shape == (1, 6, 16)
    made = {"summary.csv", "grid.png", "index.html", ".lock"}
    assert {p.name for p in (folder / "results").iterdir()} == {*"abc", *made}
    assert {row["status"] for row in rows(folder / "results").values()} == {"ok"}
    assert float(rows(folder / "results")["a"]["psnr"]) > 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--clipp", "2"], "No such option"),
        (["--clip", "abc"], "not a valid float"),
        (["--steps", "1.5"], "not a valid integer"),
        (["--fit", "squeeze"], "crop"),
        (["--recipe", "i2z"], "unknown recipe 'i2z'; did you mean 'i2s'?"),
        (["--recipe", "typo.toml"], "unknown key 'lrr'; did you mean 'lr'?"),
        (["--set", "stages.0.stepss=3"], "did you mean 'steps'?"),
        (["--set", "stages.0.steps"], "write it as"),
        (["--set", "stages.7.steps=3"], "has no"),
        (["--space", "x+"], "unknown space 'x+'; did you mean 'z+'?"),
        (["--space", "noise"], "not a latent space"),
        (["--recipe", "i2s", "--space", "noise"], "not a latent space"),
        (["--space", "z", "--clip", "2"], "--space.clip"),
        (["--recipe", "sg2", "--clip", "2", "--set", "stages.0.optimize.1.clip=2"], "no such option"),
        (["--terms", "l2=much"], "write it as perceptual=1,l2=0.5"),
        (["--terms", "l3=1"], "unknown term 'l3'"),
        (["--steps", "-1"], "at least 0"),
        (["--batch", "0"], "at least 1"),
        (["--init", "meen"], "did you mean 'mean'?"),
        (["--init", "file"], "needs path"),
        (["--space", "pnorm+", "--clip", "inf"], "clip must be a finite number, not inf"),
        (["--recipe", "pulse", "--set", "stages.0.init.n=0"], "n must be at least 1"),
        (["--recipe", "i2s", "--terms", "l2=1", "--set", "stages.0.terms.0.size=0"], "size must be at least 1"),
        (["--outdir", "photos/a.png"], "the output folder is a file"),
        (["--device", "cuda:99"], "device"),
        (["--device", "tpu"], "unknown device"),
        (["nowhere.png"], "nowhere.png: no such file"),
        (["empty"], "no images found"),
    ],
    ids=lambda x: " ".join(x) if isinstance(x, list) else "",
)
def test_what_cannot_be_meant_is_refused_with_2(folder, latentopt, arguments, words):
    (folder / "empty").mkdir()
    recipe = Recipe.load("i2s").dump().replace("lr =", "lrr =")
    (folder / "typo.toml").write_text(recipe)
    given = [] if arguments[0] in ("nowhere.png", "empty") else ["photos/a.png"]
    code, _, err = latentopt("invert", *given, *arguments, "--network", "net/tiny.safetensors", "-q")
    assert code == 2, err
    assert words in err
    assert "Traceback" not in err
    assert not list(folder.rglob("run.json"))


def test_an_output_folder_that_cannot_be_written_to_is_found_before_the_model_is_read(folder, latentopt, monkeypatch):
    def denied(*arguments, **options):
        raise PermissionError(13, "Permission denied")

    def load(*arguments, **options):
        raise AssertionError("the model was read")

    monkeypatch.setattr(outputs.tempfile, "mkstemp", denied)
    monkeypatch.setattr(checkpoints, "load_generator", load)
    code, _, err = latentopt("invert", "photos", *QUICK, "--outdir", "results")
    assert code == 2
    assert "results: cannot write to the output folder: Permission denied" in err


def test_one_unreadable_picture_among_good_ones(folder, latentopt):
    (folder / "photos" / "b.png").write_text("<html>not a picture</html>")
    (folder / "photos" / "d.jpg").write_bytes(b"")
    code, out, err = latentopt("invert", "photos", *QUICK)
    assert code == 3
    assert "skipped: photos/b.png" in err
    assert "failed: b, d" in err
    assert "2 of 4 images" in out
    assert {name: row["status"] for name, row in rows(folder / "out").items()} == {
        "a": "ok",
        "c": "ok",
        "b": "failed",
        "d": "failed",
    }
    assert "b.png" in rows(folder / "out")["b"]["error"]
    assert set(finished(folder / "out")) == {"a", "c"}


def test_an_image_that_cannot_be_inverted_among_good_ones(folder, latentopt, monkeypatch):
    plain = Mean.__call__

    def spoiled(self, target, seeds):
        inputs = plain(self, target, seeds)
        inputs.ws[1] = float("nan")
        return inputs

    monkeypatch.setattr(Mean, "__call__", spoiled)
    code, _, err = latentopt("invert", "photos", *QUICK, "--save-video")
    assert code == 3
    assert "failed: b" in err
    assert rows(folder / "out")["b"]["error"] == "the loss is not finite at the start"
    assert set(finished(folder / "out")) == {"a", "c"}


def test_pictures_are_read_in_their_turn(folder, latentopt, monkeypatch):
    """One image a batch: each is read when the one before it is done, so any number fits into memory."""
    plain, done = items.read_image, []

    def read_image(path, *arguments, **options):
        done.append((Path(path).stem, sorted(finished(folder / "out"))))
        return plain(path, *arguments, **options)

    monkeypatch.setattr(items, "read_image", read_image)
    (folder / "photos" / "b.png").write_text("no")
    assert latentopt("invert", "photos", *QUICK, "--batch", "1")[0] == 3
    assert done == [("a", []), ("b", ["a"]), ("c", ["a"])]


def test_a_second_run_in_the_same_folder_is_refused_at_once(folder, latentopt):
    (folder / "out").mkdir()
    with outputs.locked(folder / "out"):
        code, _, err = latentopt("invert", "photos", *QUICK)
        assert code == 2
        assert "out: another latentopt is at work there" in err
        assert not finished(folder / "out")
        assert latentopt("invert", "photos/a.png", *QUICK, "--outdir", "elsewhere")[0] == 0
    assert latentopt("invert", "photos", *QUICK)[0] == 0, "free again"


LOCKS = """
import sys
from pathlib import Path
from latentopt.files.outputs import locked
with locked(Path("out")):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_killed_process_lets_go_of_its_folder(folder):
    (folder / "out").mkdir()
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", LOCKS], env=environment, **pipes) as other:
        assert other.stdout.readline() == b"held\n"
        with pytest.raises(UsageError, match="another latentopt"), outputs.locked(folder / "out"):
            pass
        other.kill()
    with outputs.locked(folder / "out"):
        pass


def test_a_file_system_without_locks_is_worked_on_all_the_same(folder, latentopt, monkeypatch):
    def flock(*arguments):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(outputs.fcntl, "flock", flock)
    assert latentopt("invert", "photos/a.png", *QUICK)[0] == 0


def test_the_lock_is_not_taken_for_a_picture(folder):
    with outputs.locked(folder / "photos"):
        assert (folder / "photos" / ".lock").exists()
        assert [source.key for source in finding.find_images(["photos"])] == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("setting", "words"), [("betas=[2.0, 0.9]", "beta"), ("betas=[0.9]", "betas"), ("eps=-1.0", "epsilon")]
)
def test_options_that_an_optimiser_refuses(folder, latentopt, setting, words):
    table = "stages.0.optimizer={name = 'adam', " + setting + "}"
    code, _, err = latentopt("invert", "photos/a.png", *QUICK, "--set", table)
    assert code == 2
    assert "optimizer 'adam' refuses" in err
    assert words in err
    assert "Traceback" not in err


def test_nothing_readable(folder, latentopt):
    for name in "abc":
        (folder / "photos" / f"{name}.png").write_text("no")
    code, _, err = latentopt("invert", "photos", *QUICK)
    assert code == 1
    assert "none of the 3 pictures could be read" in err


@pytest.mark.parametrize(
    "arguments", [("--space", "pnorm+", "--clip", "2"), ("--recipe", "ii2s"), ("--init", "p-mean")]
)
def test_missing_statistics(folder, latentopt, arguments):
    shutil.rmtree(folder / "pnorm_stats")
    code, _, err = latentopt("invert", "photos", *QUICK[:2], "--terms", "l2=1", "--steps", "2", *arguments)
    assert code == 0, err
    told = [line for line in err.splitlines() if "no P-norm statistics yet" in line]
    assert told == ["tiny has no P-norm statistics yet: measuring them on 100,000 codes, kept in "
                    "pnorm_stats/tiny.safetensors"]  # fmt: skip
    assert (folder / "pnorm_stats" / "tiny.safetensors").is_file()
    code, _, err = latentopt(
        "invert", "photos", *QUICK[:2], "--terms", "l2=1", "--steps", "2", *arguments, "--overwrite"
    )
    assert code == 0 and "no P-norm" not in err, "kept where the next run finds them"


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("--terms", "perceptual=1"), 1, "weights of LPIPS-vgg"),
        (("--terms", "l2=1", "--set", "stages.0.optimizer.beta1=2"), 2, "optimizer"),
        (("--terms", "l2=1", "--init", "file:nowhere.safetensors"), 1, "nowhere.safetensors"),
        (("--terms", "l2=1", "--init", "e4e"), 1, "e4e"),
    ],
    ids=["weights", "option", "start", "encoder"],
)
def test_what_cannot_work_is_told_before_anything_is_drawn(folder, latentopt, monkeypatch, arguments, code, words):
    """Missing networks and files and refused options come before statistics are measured and pictures drawn."""
    shutil.rmtree(folder / "pnorm_stats")

    def offline(*_, **__):
        raise OSError("offline")

    monkeypatch.setattr("torch.hub.load_state_dict_from_url", offline)
    monkeypatch.setattr(SynthesisNetwork, "forward", lambda *_: pytest.fail("drawn"))
    got, _, err = latentopt("invert", "photos", *QUICK[:2], "-q", "--space", "pnorm+", *arguments)
    assert (got, words in err) == (code, True), err
    assert not (folder / "pnorm_stats").exists()


def test_missing_networks(folder, latentopt):
    code, _, err = latentopt("invert", "photos", "--network", "nothing.pkl", *QUICK[2:])
    assert code in (1, 2)
    assert "nothing.pkl" in err


class Hostile:
    def __reduce__(self):
        return os.system, ("touch ran",)


def test_a_hostile_network_is_refused_with_4(folder, latentopt):
    (folder / "evil.pkl").write_bytes(pickle.dumps({"G_ema": Hostile()}))
    code, _, err = latentopt("invert", "photos", "--network", "evil.pkl", *QUICK[2:])
    assert code == 4
    assert "evil.pkl" in err
    assert "system" in err
    assert not (folder / "ran").exists()


def test_finished_images_are_not_done_again(folder, latentopt):
    latentopt("invert", "photos", *QUICK)
    before = finished(folder / "out")
    code, out, _ = latentopt("invert", "photos", *QUICK, "--batch", "1")
    assert code == 0
    assert "3 of 3" in out
    assert finished(folder / "out") == before
    assert set(rows(folder / "out")) == set("abc")
    latentopt("invert", "photos", *QUICK, "--overwrite")
    assert all(time > before[name] for name, time in finished(folder / "out").items())


def test_a_picture_that_changed_under_its_name_is_done_again(folder, latentopt):
    latentopt("invert", "photos", *QUICK)
    before, old = finished(folder / "out"), w(folder / "out" / "b")
    photo(folder / "photos" / "b.png", 99)
    photo(folder / "photos" / "e.png", 100)
    assert latentopt("invert", "photos", *QUICK)[0] == 0
    after = finished(folder / "out")
    assert {name for name in after if after[name] != before.get(name)} == {"b", "e"}
    assert not np.array_equal(w(folder / "out" / "b"), old)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_stopped_once_it_saves_and_goes_on(folder, latentopt, monkeypatch, number):
    """Two images a batch: the second batch is interrupted. The rest is as if nothing had happened, to the bit."""
    arguments = ("invert", "photos", *QUICK, "--batch", "2")
    assert latentopt(*arguments, "--outdir", "whole")[0] == 0
    handlers = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    with monkeypatch.context() as patch:
        interrupt(patch, 6, number)
        code, _, err = latentopt(*arguments)
    assert code == 130
    assert "interrupted" in err
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == handlers
    before = finished(folder / "out")
    assert set(before) == {"a", "b"}
    (state,) = (folder / "out" / ".resume").iterdir()
    assert json.loads(load_tensors(state)[1]["meta"])["state"]["step"] == 2
    assert latentopt(*arguments)[0] == 0
    after = finished(folder / "out")
    assert {name for name in after if after[name] != before.get(name)} == {"c"}
    assert not (folder / "out" / ".resume").exists()
    for name in "abc":
        assert np.array_equal(w(folder / "out" / name), w(folder / "whole" / name))
    assert set(rows(folder / "out")) == set("abc")


def test_stopped_twice_it_ends_at_once(folder, latentopt, monkeypatch):
    with monkeypatch.context() as patch:
        interrupt(patch, 2, signal.SIGINT, signal.SIGINT)
        code, _, _ = latentopt("invert", "photos", *QUICK)
    assert code == 130
    assert not (folder / "out" / ".resume").exists()
    assert not finished(folder / "out")
    assert latentopt("invert", "photos", *QUICK)[0] == 0


KILLED = """
import os, signal, sys
from pathlib import Path
from latentopt.files import storage
from latentopt.inverting import batch as run
from latentopt.commands import main

def die():
    os.kill(os.getpid(), signal.SIGKILL)

if sys.argv.pop(1) == "between steps":
    plain, seen = run.minimise, []
    def minimise(problem, state):
        for step in plain(problem, state):
            seen.append(step)
            if len(seen) == 6:
                die()
            yield step
    run.minimise = minimise
else:
    replace = Path.replace
    def killed(self, target):
        if Path(target).name == "projected_w.npz" and Path(target).parent.name == "b":
            die()
        return replace(self, target)
    Path.replace = killed
main()
"""


@pytest.mark.parametrize("moment", ["between steps", "before renaming"])
def test_killed_it_leaves_nothing_half_written(folder, latentopt, moment):
    """One image a batch: the second is under way, or its result half written, when the process is killed."""
    arguments = ("invert", "photos", *QUICK, "--batch", "1")
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": str(torch.get_num_threads())}
    killed = subprocess.run([sys.executable, "-c", KILLED, moment, *arguments], env=environment, capture_output=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()
    before = finished(folder / "out")
    assert set(before) == {"a"}
    left = list((folder / "out").rglob(".*-????????.*"))
    assert len(left) == (moment == "before renaming")
    for path in left:
        os.utime(path, (0, 0))  # long ago
    assert latentopt(*arguments)[0] == 0
    after = finished(folder / "out")
    assert set(after) == set("abc")
    assert after["a"] == before["a"]
    assert not any(path.exists() for path in left), "what the killed run left is swept"
    assert latentopt(*arguments, "--outdir", "whole")[0] == 0
    assert all(np.array_equal(w(folder / "out" / name), w(folder / "whole" / name)) for name in "abc")


@pytest.mark.parametrize("steps", [3, 60])
def test_save_video(folder, latentopt, steps):
    quick = [str(steps) if part == "3" else part for part in QUICK]
    assert latentopt("invert", "photos/a.png", *quick, "--save-video")[0] == 0
    with Image.open(folder / "out" / "a" / "proj.webp") as film:
        assert film.size == (32, 16)
        assert film.n_frames > 1


def test_of_finished_images_there_is_no_film(folder, latentopt):
    arguments = ("invert", "photos/a.png", *QUICK[:-1], "--save-video")
    latentopt(*arguments[:-1])
    code, _, err = latentopt(*arguments)
    assert code == 0
    assert "a: done already; no film of it: --overwrite makes it again" in err
    assert not (folder / "out" / "a" / "proj.webp").exists()
    assert "film" not in latentopt(*arguments[:-1])[2]
    assert "film" not in latentopt(*arguments, "--overwrite")[2]
    assert (folder / "out" / "a" / "proj.webp").exists()


@pytest.mark.parametrize(
    ("height", "width", "shown"),
    [(16, 24, (16, 48)), (VIDEO_HEIGHT, 256, (256, 512)), (1024, 1024, (256, 512)), (512, 384, (256, 384))],
)
def test_films_are_no_higher_than_256_pixels(height, width, shown):
    """Target left in white, the result right in black, where it is not a number in grey."""
    image = torch.full((3, height, width), -1.0)
    image[:, : height // 2] = float("nan")
    frame = side_by_side(torch.ones(3, height, width), image)
    assert frame.shape == (*shown, 3)
    middle = shown[1] // 2
    assert (frame[:, : middle - 1] == 255).all()
    assert (frame[: shown[0] // 2 - 1, middle + 1 :] == 128).all()
    assert (frame[shown[0] // 2 + 1 :, middle + 1 :] == 0).all()


@pytest.mark.parametrize("path", ["out/a", "out/a/inputs.safetensors", "out/a/projected_w.npz", "été 🙂 '1'/a.npz"])
def test_a_saved_start(folder, latentopt, path):
    """A run's folder or files; the name may hold anything."""
    assert latentopt("invert", "photos/a.png", *QUICK)[0] == 0
    if not (folder / path).exists():
        (folder / path).parent.mkdir()
        shutil.copy(folder / "out" / "a" / "projected_w.npz", folder / path)
    quick = ["0" if part == "3" else part for part in QUICK]
    code, _, err = latentopt("invert", "photos/b.png", *quick, "--init", f"file:{path}", "--outdir", "again")
    assert code == 0, err
    assert np.array_equal(w(folder / "again" / "b"), w(folder / "out" / "a"))
    record = json.loads((folder / "again" / "b" / "run.json").read_text())
    assert [name.startswith(path) for name in record["statistics"]] == [True]


SPACE = """
from latentopt.parameterizations.latent import W

class Scaled(W):
    def __init__(self, generator, *, factor: float = 0.5) -> None:
        super().__init__(generator)
        self.factor = factor

    def encode(self, inputs):
        return {"w": super().encode(inputs)["w"] / self.factor}

    def decode(self, variables, inputs):
        return super().decode({"w": variables["w"] * self.factor}, inputs)
"""


def test_a_space_of_ones_own(folder, latentopt, monkeypatch):
    """Registered by whoever runs the command; --space knows it, its options are those of its constructor."""
    (folder / "own_space.py").write_text(SPACE)
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.setitem(PARAMETERIZATIONS.own, "scaled", "own_space:Scaled")
    arguments = ("invert", "photos/a.png", *QUICK, "--space", "scaled", "--set")
    code, _, err = latentopt(*arguments, "stages.0.optimize.0.factor=2.0", "--outdir", "results")
    assert code == 0, err
    recipe = Recipe.load("results/a/recipe.toml")
    assert recipe.stages[0].optimize == ({"name": "scaled", "factor": 2.0},)
    rows = w(folder / "results" / "a")[0]
    assert (rows == rows[0]).all()
    code, _, err = latentopt(*arguments, "stages.0.optimize.0.faktor=2.0")
    assert (code, "did you mean 'factor'?" in err) == (2, True)


def test_pictures_of_the_same_name_get_results_of_their_own(folder, latentopt):
    for i, place in enumerate(("one", "two", "one/deep")):
        photo(folder / place / "x.png", i)
    assert latentopt("invert", "one/x.png", "two/x.png", *QUICK)[0] == 0
    assert set(rows(folder / "out")) == {"x", "x-2"}
    assert not np.array_equal(w(folder / "out" / "x"), w(folder / "out" / "x-2"))
    assert latentopt("invert", "one", *QUICK, "--outdir", "tree")[0] == 0
    assert set(rows(folder / "tree")) == {"x", "deep/x"}


def test_dry_run_prints_a_recipe_and_does_nothing(folder, latentopt):
    arguments = ("--space", "pnorm+", "--clip", "1.5", "--steps", "7", "--batch", "3", "--set", "stages.0.lr=0.25")
    code, out, _ = latentopt("invert", *arguments, "-n", "--network", "nothing")
    assert code == 0
    (folder / "printed.toml").write_text(out)
    stage = Recipe.load("printed.toml").stages[0]
    assert stage.optimize == (PNORM | {"name": "p-norm+", "clip": 1.5},)
    assert (stage.steps, stage.batch, stage.lr) == (7, 3, 0.25)
    assert not (folder / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "name", "optimize"),
    [
        ((), "ii2s", PLAIN | {"name": "w+", "clip": 2.0}),
        (("--clip", "3"), "ii2s", PLAIN | {"name": "w+", "clip": 3.0}),
        (("--space", "w"), "i2s", PLAIN | {"name": "w"}),
        (("--space", "w", "--clip", "3"), "ii2s", PLAIN | {"name": "w", "clip": 3.0}),
        (("--space", "pnorm+"), "fast-pnorm", PNORM | {"name": "p-norm+", "clip": 2.0}),
        (("--space", "pnorm", "--clip", "1"), "ii2s-pnorm", PNORM | {"name": "p-norm", "clip": 1.0}),
        (("--space", "z"), "ii2s-pnorm", {"name": "z", "sphere": True, "label": 0}),
        (("--recipe", "pulse", "--space", "z"), "pulse", {"name": "z", "sphere": True, "label": 0}),
    ],
    ids=lambda x: " ".join(x) if isinstance(x, tuple) else "",
)
def test_the_recipe_that_the_options_mean(latentopt, tmp_path, arguments, name, optimize):
    _, out, _ = latentopt("invert", *arguments, "-n")
    (tmp_path / "r.toml").write_text(out)
    recipe = Recipe.load(str(tmp_path / "r.toml"))
    assert (recipe.name, recipe.stages[0].optimize) == (name, (optimize,))


def test_clipped_results_are_within_the_clip(folder, latentopt):
    """In float32 and P-norm+, whichever space was optimised in."""
    from latentopt.statistics.pnorm import PNorm

    pnorm = PNorm.load(folder / "pnorm_stats" / "tiny.safetensors")
    for space in ("w+", "pnorm+"):
        code, _, _ = latentopt(
            "invert", "photos", *QUICK[:2], "--terms", "l2=1", "--space", space, "--clip", "0.5", "--steps", "8",
            "--lr", "0.5", "--outdir", space, "-q",
        )  # fmt: skip
        assert code == 0
        v = pnorm.whiten(torch.from_numpy(w(folder / space / "a")).double())
        assert 0.45 < v.abs().max() < 0.5 + 1e-3


def test_other_precision_is_on_record(folder, latentopt):
    assert latentopt("invert", "photos/a.png", *QUICK, "--dtype", "bfloat16")[0] == 0
    assert json.loads((folder / "out" / "a" / "run.json").read_text())["dtype"] == "bfloat16"


@pytest.mark.skipif(not (resource_folder("bundled") / "samples").is_dir(), reason="no sample pictures are shipped yet")
def test_without_an_image_the_samples_are_taken(folder, latentopt):
    code, out, err = latentopt("invert", *QUICK)
    assert code == 0
    assert "bundled sample" in err
    assert " of " in out


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["--help"], 0),
        (["--version"], 0),
        (["invert", "--help"], 0),
        (["fit-pnorm", "--help"], 0),
        (["invrt"], 2),
        (["invert", "--clip", "abc"], 2),
        (["invert", "--recipe", "i2z"], 2),
        (["invert", "--recipe", "ii2s", "--set", "stages.0.optimize.0.clipp=1"], 2),
        (["invert", "--recipe", "pulse", "--dry-run"], 0),
    ],
    ids=lambda x: " ".join(x) if isinstance(x, list) else "",
)
def test_quick_answers_do_not_wait_for_torch(arguments, code):
    script = (
        "import sys\nfrom latentopt.commands import main\n"
        "try:\n    main()\nexcept SystemExit as ended:\n    print()\n"
        "    print(ended.code, 'torch' in sys.modules, 'numpy' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script, *arguments], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == f"{code} False False", done.stderr


@pytest.mark.parametrize(
    ("init", "expected"),
    [
        ("mean", {"name": "mean"}),
        ("{name = 'best-of', n = 5}", {"name": "best-of", "n": 5}),
        ("file:a.npz", {"name": "file", "path": "a.npz"}),
    ],
)
def test_a_start_on_the_command_line(latentopt, folder, init, expected):
    code, out, err = latentopt("invert", "--recipe", "i2s", "--init", init, "--dry-run")
    assert code == 0, err
    (folder / "printed.toml").write_text(out)
    assert Recipe.load("printed.toml").stages[0].init.items() >= expected.items()


def test_a_summary_that_cannot_be_written_loses_no_figures(folder, latentopt):
    (folder / "out" / "summary.csv").mkdir(parents=True)
    code, out, err = latentopt("invert", "photos", *QUICK)
    assert code == 1 and "summary.csv: could not be written" in err
    assert "finished before the error" in out and all(name in out for name in "abc")
    assert set(finished(folder / "out")) == set("abc")


def test_profile_tells_where_the_time_went(folder, latentopt):
    code, out, _ = latentopt("invert", "photos/a.png", *QUICK, "--profile")
    assert code == 0
    lines = [line.split(",") for line in (folder / "out" / "profile.csv").read_text().splitlines()]
    assert lines[0] == ["part", "seconds", "share"]
    parts = {name: float(seconds) for name, seconds, _ in lines[1:]}
    assert parts.keys() >= {"generator", "terms", "optimizer", "records", "files", "networks and start", "rest"}
    assert sum(float(share) for _, _, share in lines[1:]) == pytest.approx(1, abs=1e-4)
    assert all(f"{name} " in out for name in parts)
