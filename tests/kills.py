"""Runs that are killed at some moment and given again: `python kills.py FOLDER ROUNDS [SEED]` prints a line a round.

Each round is a process of its own, forked, which kills itself (or asks itself to stop) when it opens, renames or
removes its n-th file, or makes its n-th measurement. Then the same run is given until it ends.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from random import Random

import torch
from conftest import make_tiny_generator
from file_kinds import TUNING

from latentopt.commands.interrupting import interruptible
from latentopt.files.storage import load_tensors
from latentopt.inverting.following import follow
from latentopt.inverting.inverter import Inverter
from latentopt.inverting.items import tensor_items
from latentopt.inverting.tuning import common_recipe, tuning_items, tuning_recipe
from latentopt.loop.state import State
from latentopt.recipe.recipe import Recipe
from latentopt.results.earlier import find_results

NAMES = ("a", "b", "c", "d", "e")
STAGE = {"lr": 0.05, "terms": ["l2"], "batch": 3, "jitter": {"scale": 0.1, "ramp": 0.5}}
RECIPE = Recipe.from_table(
    {
        "name": "two stages",
        "stages": [
            STAGE | {"init": "mean", "steps": 3, "optimize": ["w"]},
            STAGE | {"init": "previous", "steps": 2, "optimize": ["w+", "noise"]},
        ],
    }
)
EVENTS = ("open", "os.rename", "os.remove", "os.rmdir", "os.mkdir")
KEPT = ("projected_w.npz", "inputs.safetensors", "delta.safetensors", "proj.png", "target.png", "recipe.toml")


def invert(out: Path) -> None:
    """Five images in batches of three, the state saved after every step."""
    generator = make_tiny_generator(channels=(4, 4), z_dim=4, w_dim=4, mapping_layers=2)
    targets = torch.rand(len(NAMES), 3, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1
    inverter = Inverter(generator, RECIPE, out=out, save_every=0)
    with interruptible() as interrupted:
        follow(inverter.invert, tensor_items(targets, NAMES), out, False, None, interrupted, keep=False)


def tune(out: Path) -> None:
    """Those images, inverted before, with weights of their own."""
    generator = make_tiny_generator(channels=(4, 4), z_dim=4, w_dim=4, mapping_layers=2)
    earlier = find_results(out.parent / "inverted")
    recipe = tuning_recipe(TUNING, common_recipe(earlier)).override(["stages.0.batch=3", "stages.0.steps=3"])
    inverter = Inverter(generator, recipe, out=out, save_every=0)
    with interruptible() as interrupted:
        follow(inverter.invert, tuning_items(earlier, generator), out, False, None, interrupted, keep=False)


WORK: dict[str, Callable[[Path], None]] = {"invert": invert, "tune": tune}


def in_a_process(work: Callable[[], None]) -> int:
    """Do it in a fork: the exit code, or minus the signal that ended it."""
    if (child := os.fork()) == 0:
        code = 1
        try:
            work()
            code = 0
        except KeyboardInterrupt:
            code = 130
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def dying(work: Callable[[Path], None], out: Path, after: int, number: int) -> None:
    """The work, in which signal `number` comes at the event number `after`."""
    count, plain = [0], State.note

    def happened() -> None:
        count[0] += 1
        if count[0] == after:
            os.kill(os.getpid(), number)

    def audit(event: str, arguments: tuple) -> None:
        if event in EVENTS and str(out) in str(arguments[0]):
            happened()

    def note(self, *measured) -> None:
        happened()
        plain(self, *measured)

    sys.addaudithook(audit)
    State.note = note
    os.fsync = lambda handle: None  # a process is killed, not the machine
    work(out)


def contents(out: Path) -> dict[str, object]:
    """All that does not depend on the clock."""
    found: dict[str, object] = {}
    for folder in sorted(path.parent for path in out.rglob("run.json")):
        name = folder.relative_to(out).as_posix()
        found |= {f"{name}/{file}": _exactly(folder / file) for file in KEPT if (folder / file).exists()}
        lines = [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]
        found[f"{name}/history"] = [{k: v for k, v in line.items() if k != "seconds"} for line in lines]
        run = json.loads((folder / "run.json").read_text())
        run["metrics"].pop("peak_mb", None)
        found[f"{name}/run"] = {k: v for k, v in run.items() if k not in ("seconds", "tuned_from")}
    return found


def _exactly(path: Path) -> object:
    """To the bit; safetensors write their entries in any order."""
    if path.suffix != ".safetensors":
        return path.read_bytes()
    tensors, metadata = load_tensors(path)
    return {key: (tuple(x.shape), x.numpy().tobytes()) for key, x in tensors.items()} | metadata


def finished(out: Path) -> dict[str, int]:
    """The results that are there, and which file each is: one that was done again is another."""
    return {path.parent.name: path.stat().st_ino for path in out.rglob("run.json")}


def round_of(kind: str, folder: Path, whole: dict[str, object], after: int, number: int) -> str:
    """One round: what went wrong, or ''."""
    out = folder / f"{kind}-{after}-{number}"
    ended = in_a_process(lambda: dying(WORK[kind], out, after, number))
    before = finished(out) if out.exists() else {}
    if ended not in (0, 130, -number):
        return f"ended with {ended}"
    for _ in range(3):
        if (code := in_a_process(lambda: WORK[kind](out))) != 130:
            break
    wrong = [] if code == 0 else [f"given again, it ended with {code}"]
    after_all = finished(out)
    wrong += [f"{name} was done twice" for name, node in before.items() if after_all.get(name) != node]
    found = contents(out)
    wrong += [f"{key} differs" for key in whole.keys() | found.keys() if whole.get(key) != found.get(key)]
    left = [path.name for path in out.rglob(".*") if path.name != ".lock"]
    wrong += [f"left behind: {', '.join(left)}"] if left else []
    wrong += [] if (out / "summary.csv").exists() else ["no summary"]
    shutil.rmtree(out)
    return "; ".join(wrong)


def rounds(folder: Path, count: int, seed: int = 0) -> list[str]:
    """So many rounds at random moments, half of them by SIGKILL; what went wrong in each."""
    whole: dict[str, dict[str, object]] = {}
    for kind, out in (("invert", folder / "inverted"), ("tune", folder / "tuned")):
        WORK[kind](out)  # here, so that the forks have imported everything
        whole[kind] = contents(out)
    rng, found = Random(seed), []
    for i in range(count):
        kind = "invert" if i % 3 else "tune"
        number = signal.SIGKILL if i % 2 else signal.SIGTERM
        after = rng.randrange(1, 160)
        found.append(round_of(kind, folder, whole[kind], after, number))
        print(
            f"{kind:6} {signal.Signals(number).name:8} at event {after:3}: {found[-1] or 'as if nothing had happened'}"
        )
    return found


if __name__ == "__main__":
    torch.set_num_threads(1)
    failed = [text for text in rounds(Path(sys.argv[1]), *map(int, sys.argv[2:4])) if text]
    print(f"{len(failed)} failed")
    sys.exit(bool(failed))
