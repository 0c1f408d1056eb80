"""What work on many images costs and survives: `python benchmarks/scale.py --only parts,kills,overhead,merge,report`.

parts      64 small images as 16 shards, by 2 workers and by 3 actors on Ray, against one process, to the bit
kills      a run of 200 images of 20 steps, in which workers, actors and the one who called are killed 100 times
overhead   what the ledger costs for each batch, in a folder of 100,000 batches
merge      100,000 simulated results in 16 parts, merged

Each part keeps its figures in work/benchmarks/scale, so that a stopped one goes on; `report` writes results/scale.md.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path

WORK = Path("work/benchmarks/scale")
RESULTS = Path(__file__).parent / "results" / "scale.md"
PARTS = ("parts", "kills", "overhead", "merge", "report")
CALLERS = 0.12  # the share of kills that hit the one who called
ROOT = Path(__file__).resolve().parent.parent
TESTS = ROOT / "tests"
RUN_FILES = ("target.png", "proj.png", "projected_w.npz", "inputs.safetensors", "recipe.toml", "history.jsonl")


def run_of(images: int, steps: int, out: Path, engine: str, **options: object) -> None:
    """One run over the first so many images of noise, by `engine`: "", workers:N or ray:ADDRESS."""
    import torch

    sys.path.insert(0, str(TESTS))
    from conftest import make_tiny_generator

    import latentopt
    from latentopt.commands.interrupting import interruptible

    torch.set_num_threads(1)
    generator = make_tiny_generator(channels=(4, 4), z_dim=4, w_dim=4, mapping_layers=2)
    targets = torch.rand(images, 3, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1
    stage = {"init": "mean", "steps": steps, "optimize": ["w"], "lr": 0.05, "terms": ["l2"], "batch": 1}
    recipe = latentopt.Recipe.from_table({"name": "short", "stages": [stage]})
    kind, _, value = engine.partition(":")
    hands = None
    if kind == "workers":
        hands = latentopt.Workers(int(value), "cpu", retries=100)
    elif kind == "ray":
        hands = latentopt.OnRay(value, retries=100)
    with interruptible() as interrupted:
        latentopt.invert(
            generator, targets, recipe, out=out, keep=False, engine=hands, interrupted=interrupted, **options
        )


def process(*arguments: object) -> subprocess.Popen:
    """This script in a process of its own, for one run."""
    variables = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    return subprocess.Popen([sys.executable, __file__, "--run", *map(str, arguments)], env=variables)


def contents(out: Path) -> dict[str, object]:
    """All of the results that does not depend on the clock."""
    sys.path.insert(0, str(TESTS))
    from kills import contents as exactly

    return exactly(out)


def parts(args: argparse.Namespace) -> dict[str, object]:
    import latentopt

    folder = WORK / "parts"
    shutil.rmtree(folder, ignore_errors=True)
    seconds: dict[str, float] = {}

    def timed(name: str, work: Callable[[], object]) -> None:
        began = time.perf_counter()
        work()
        seconds[name] = round(time.perf_counter() - began, 1)

    size = (args.images, args.steps)
    timed("one process", lambda: run_of(*size, folder / "one", ""))

    def sharded() -> None:
        for i in range(args.shards):
            run_of(*size, folder / "shards" / f"shard-{i:02d}-of-{args.shards}", "", shard=(i, args.shards))

    timed(f"{args.shards} shards, one after the other", sharded)
    timed("2 workers", lambda: run_of(*size, folder / "workers", "workers:2"))
    if find_spec("ray"):
        with cluster() as address:
            timed("3 actors", lambda: run_of(*size, folder / "ray", f"ray:{address}"))
    whole = contents(folder / "one")
    shards: dict[str, object] = {}
    for shard in (folder / "shards").iterdir():
        shards |= contents(shard)
    found = {"shards": shards, "workers": contents(folder / "workers")}
    found |= {"actors": contents(folder / "ray")} if (folder / "ray").exists() else {}
    merged = [latentopt.merge([folder / name], folder / f"{name}-merged") for name in ("one", "shards")]
    packed = [(one.into / "latents-00000.safetensors").read_bytes() for one in merged]
    return {
        "images": args.images,
        "steps": args.steps,
        "entries": len(whole),
        "different": {
            name: sum(one.get(k) != whole.get(k) for k in whole.keys() | one.keys()) for name, one in found.items()
        },
        "packed equal": packed[0] == packed[1],
        "seconds": seconds,
    }


def different(one: dict[str, object], other: dict[str, object]) -> int:
    """Entries that are not equal."""
    return sum(one.get(key) != other.get(key) for key in one.keys() | other.keys())


class cluster:
    """Three raylets with one CPU each on this machine."""

    def __enter__(self) -> str:
        import ray
        from ray.cluster_utils import Cluster

        os.environ["PYTHONPATH"] = str(ROOT)
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        self.cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "object_store_memory": 80 << 20})
        for _ in range(2):
            self.cluster.add_node(num_cpus=1, object_store_memory=80 << 20)
        self.ray = ray
        return self.cluster.address

    def __exit__(self, *error: object) -> None:
        self.ray.shutdown()
        self.cluster.shutdown()


def kills(args: argparse.Namespace) -> dict[str, object]:
    """Kill at random moments until enough are killed, giving the command again when the caller was; then let it end."""
    folder = WORK / "kills"
    shutil.rmtree(folder, ignore_errors=True)
    rng = random.Random(args.seed)
    found: dict[str, object] = {}
    began = time.perf_counter()
    process(args.kill_images, args.steps, folder / "one", "").wait()
    found["seconds of one process"] = round(time.perf_counter() - began, 1)
    whole = contents(folder / "one")
    engines = {"workers": args.kills} if args.no_ray or not find_spec("ray") else {
        "workers": args.kills - args.kills * 3 // 10, "ray": args.kills * 3 // 10}  # fmt: skip
    for kind, count in engines.items():
        if kind == "ray":
            with cluster() as address:
                found[kind] = killed_run(args, folder / kind, f"ray:{address}", count, rng, whole)
        else:
            found[kind] = killed_run(args, folder / kind, "workers:2", count, rng, whole)
        print(kind, found[kind], flush=True)
    return found | {"images": args.kill_images, "steps": args.steps}


def killed_run(
    args: argparse.Namespace, out: Path, engine: str, count: int, rng: random.Random, whole: dict[str, object]
) -> dict[str, object]:
    began, seen = time.perf_counter(), dict[str, int]()
    killed: Counter[str] = Counter()
    half: set[str] = set()
    twice: set[str] = set()
    caller = process(args.kill_images, args.steps, out, engine)
    ended_by_itself = 0
    while caller.poll() is None or caller.returncode != 0:
        if caller.poll() is not None:
            ended_by_itself += caller.returncode != -signal.SIGKILL
            caller = process(args.kill_images, args.steps, out, engine)
        time.sleep(rng.uniform(0.02, args.pause))
        look(out, seen, half, twice)
        hands = claimants(out)
        if killed.total() >= count or not hands:
            continue
        target = "caller" if rng.random() < CALLERS else "hand"
        if target == "caller":
            caller.kill()
        else:
            os.kill(rng.choice(hands), signal.SIGKILL)
        killed[target] += 1
    look(out, seen, half, twice)
    found = contents(out)
    left = [path.name for path in out.rglob(".*") if path.name not in (".lock", ".ledger")]
    return {
        "killed": dict(killed),
        "lost": args.kill_images - len(seen),
        "done twice": len(twice),
        "half-written": len(half),
        "different from one process": different(found, whole),
        "left behind": left,
        "ended otherwise": ended_by_itself,
        "seconds": round(time.perf_counter() - began, 1),
    }


def claimants(out: Path) -> list[int]:
    """The processes of this machine that hold a batch, or did when they ended."""
    numbers = set()
    for path in (out / ".ledger").glob("*/*/*.[0-9]*"):
        try:
            if not path.name.startswith(".") and not (path.parent / f"{path.name.partition('.')[0]}.done").exists():
                number = int(json.loads(path.read_text())["owner"].split()[1])
                os.kill(number, 0)
                numbers.add(number)
        except (OSError, ValueError, KeyError):
            continue
    return sorted(numbers)


def look(out: Path, seen: dict[str, int], half: set[str], twice: set[str]) -> None:
    """Results that are there: whole, and the same file as before."""
    for path in out.glob("*/run.json"):
        name = path.parent.name
        try:
            node = path.stat().st_ino
            json.loads(path.read_text())
        except ValueError:
            half.add(name)
            continue
        except FileNotFoundError:
            continue
        if seen.setdefault(name, node) != node:
            twice.add(name)
        if any(not (path.parent / file).exists() for file in RUN_FILES):
            half.add(name)


def overhead(args: argparse.Namespace) -> dict[str, object]:
    """Seconds a batch of claiming, touching and finishing, and of beginning, in a ledger of so many batches."""
    from latentopt.scale.ledger import Ledger
    from latentopt.scale.owners import machine
    from latentopt.scale.shelves import FolderShelf

    folder = WORK / "ledger"
    shutil.rmtree(folder, ignore_errors=True)
    row = {"name": "image", "status": "ok", "psnr": 30.1234, "ssim": 0.9, "seconds": 1.0, "steps": 100}
    plan = [(f"image {i}",) for i in range(args.results)]
    ledger = Ledger(FolderShelf(folder), plan)
    ledger._mine = f"{machine()} 1 before"  # of a process that has ended, when the run begins anew
    began = time.perf_counter(), time.process_time()
    marks = []
    for i in range(args.results):
        claim = ledger.claim()
        ledger.finish(claim, [row])
        if i in (args.results // 100, args.results - 1):
            marks.append((time.perf_counter() - began[0]) / (i + 1))
    cpu = (time.process_time() - began[1]) / args.results
    fresh = Ledger(FolderShelf(folder), plan)
    start = time.perf_counter()
    assert fresh.claim() is None
    looked = time.perf_counter() - start
    start = time.perf_counter()
    fresh.begin()
    result = {"batches": args.results, "ms a batch, the first": 1e3 * marks[0], "ms a batch, all": 1e3 * marks[1],
              "CPU ms a batch": 1e3 * cpu, "to find that all is done, s": looked,
              "to begin anew, s": time.perf_counter() - start}  # fmt: skip
    shutil.rmtree(folder)
    return result


def simulate(args: argparse.Namespace, out: Path) -> None:
    """So many results in 16 parts, copies of one true result under other names; the files of a part are links to one of
    its own, since a file system has a limit of links.
    """
    if not (WORK / "model" / "0000" / "run.json").exists():
        run_of(1, args.steps, WORK / "model", "")
    model = WORK / "model" / "0000"
    record = json.loads((model / "run.json").read_text())
    for i in range(args.results):
        folder = out / f"shard-{i % 16:02d}-of-16" / f"face {i:06d}"
        folder.mkdir(parents=True)
        first = out / f"shard-{i % 16:02d}-of-16" / f"face {i % 16:06d}"
        for name in RUN_FILES:
            if folder == first:
                shutil.copyfile(model / name, folder / name)
            else:
                os.link(first / name, folder / name)
        record["name"] = folder.name
        record["metrics"]["psnr"] = 20 + i % 1000 / 100
        (folder / "run.json").write_text(json.dumps(record, indent=2) + "\n")
    for i in range(16):
        names = sorted(path.name for path in (out / f"shard-{i:02d}-of-16").iterdir())
        (out / f"shard-{i:02d}-of-16" / ".ledger").mkdir()
        (out / f"shard-{i:02d}-of-16" / ".ledger" / "images.jsonl").write_text("".join(f'"{n}"\n' for n in names))


def merge(args: argparse.Namespace) -> dict[str, object]:
    out, into = WORK / "simulated", WORK / "merged"
    if len(list(out.glob("*/*"))) < args.results:
        shutil.rmtree(out, ignore_errors=True)
        simulate(args, out)
    shutil.rmtree(into, ignore_errors=True)
    began = time.perf_counter()
    command = [sys.executable, "-m", "latentopt", "merge", str(out), "--into", str(into)]
    code = subprocess.run(command, check=False, stdout=subprocess.DEVNULL).returncode
    seconds = time.perf_counter() - began
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    pages = sorted((into / ".pages").glob("*.html"))
    return {
        "results": args.results,
        "exit code": code,
        "seconds": seconds,
        "CPU seconds": used.ru_utime + used.ru_stime,
        "peak MB": used.ru_maxrss / 1e3,
        "pages": 1 + len(pages),
        "index.html kB": (into / "index.html").stat().st_size / 1e3,
        "rows on the first page": (into / "index.html").read_text().count("<tr class"),
        "summary rows": sum(1 for _ in (into / "summary.csv").open()) - 1,
        "latent files": len(list(into.glob("latents-*.safetensors"))),
    }


def report(args: argparse.Namespace) -> None:
    kept = {name: WORK / f"{name}.json" for name in PARTS[:-1]}
    found = {name: json.loads(path.read_text()) for name, path in kept.items() if path.exists()}
    lines = ["# Many images: parts, kills, ledger, merging", ""]
    for name, figures in found.items():
        lines += [f"## {name}", "", "| what | figure |", "|---|---|"]
        lines += [f"| {key} | {_text(value)} |" for key, value in figures.items()] + [""]
    if absent := [name for name in kept if name not in found]:
        lines += [f"**Not measured yet: {', '.join(absent)}** (`--only {','.join(absent)}`).", ""]
    lines += [
        "CPU seconds are those of the process; seconds are wall clock, and mean little where other work has the cores.",
        "",
        "- command: `python benchmarks/scale.py`, each part with the sizes that it names",
        f"- machine: {platform.machine()}, {os.cpu_count()} cores shared with other work, one thread a process",
        f"- python {platform.python_version()}",
        f"- date: {datetime.now(UTC):%Y-%m-%d}",
    ]
    RESULTS.write_text("\n".join(lines) + "\n")


def _text(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key}: {_text(one)}" for key, one in value.items()) or "none"
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "nothing"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default=",".join(PARTS))
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--shards", type=int, default=16)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--kill-images", type=int, default=200)
    parser.add_argument("--pause", type=float, default=3.0, help="seconds between kills, at most")
    parser.add_argument("--results", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--no-ray", action="store_true")
    parser.add_argument("--run", nargs=4, metavar=("IMAGES", "STEPS", "OUT", "ENGINE"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.run:
        images, steps, out, engine = args.run
        run_of(int(images), int(steps), Path(out), engine)
        return
    WORK.mkdir(parents=True, exist_ok=True)
    work = {"parts": parts, "kills": kills, "overhead": overhead, "merge": merge}
    for name in args.only.split(","):
        if name == "report":
            report(args)
            continue
        figures = work[name](args)
        (WORK / f"{name}.json").write_text(json.dumps(figures, indent=1))
        print(name, json.dumps(figures, indent=1), flush=True)


if __name__ == "__main__":
    main()
