"""Very many images: parts, a ledger, workers that die, actors on Ray, and the merging of parts."""

from __future__ import annotations

import csv
import json
import os
import pickle
import signal
import threading
import time
from pathlib import Path

import pytest
import torch
from conftest import make_tiny_generator
from kills import contents

import latentopt
from latentopt.errors import InversionFailed, UsageError
from latentopt.files.plan import write_plan
from latentopt.files.shards import array_shard, in_shard, shard_folder
from latentopt.files.storage import load_tensors
from latentopt.recipe.recipe import Recipe
from latentopt.results.inversion import Inversion
from latentopt.scale.ledger import Ledger
from latentopt.scale.owners import is_gone, machine, owner
from latentopt.scale.shelves import FolderShelf, FsspecShelf
from latentopt.scale.workers import Workers, worker_devices

STAGE = {"init": "mean", "steps": 3, "optimize": ["w"], "lr": 0.05, "terms": ["l2"], "batch": 1}
RECIPE = Recipe.from_table({"name": "short", "stages": [STAGE]})
NAMES = [f"image {i}" for i in range(8)]


@pytest.fixture(scope="module")
def generator():
    return make_tiny_generator(channels=(4, 4), z_dim=4, w_dim=4, mapping_layers=2)


@pytest.fixture(scope="module")
def targets():
    return torch.rand(len(NAMES), 3, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1


def invert(generator, targets, out, **options):
    settings = {"names": NAMES, "out": out, "keep": False} | options
    return latentopt.invert(generator, targets, settings.pop("recipe", RECIPE), **settings)


# ---- parts


def test_an_image_keeps_its_part():
    names = [f"{i:04d}" for i in range(1000)]
    parts = [{name for name in names if in_shard(name, (i, 7))} for i in range(7)]
    assert sum(map(len, parts)) == 1000 and set.union(*parts) == set(names)
    assert min(map(len, parts)) > 100
    assert [in_shard("anna", (i, 4)) for i in range(4)] == [False, False, True, False]  # on no account to change


@pytest.mark.parametrize(
    ("variables", "shard"),
    [
        ({}, None),
        ({"ID": "3", "COUNT": "16"}, (3, 16)),
        ({"ID": "3", "COUNT": "3", "MIN": "1"}, (2, 3)),
        ({"ID": "7", "COUNT": "3", "MIN": "1", "STEP": "3"}, (2, 3)),
        ({"ID": "5", "COUNT": "1", "MIN": "5"}, None),
    ],
)
def test_a_task_of_an_array_has_its_part(variables, shard):
    assert array_shard({f"SLURM_ARRAY_TASK_{key}": value for key, value in variables.items()}) == shard


def test_an_array_with_gaps_is_refused():
    variables = {"ID": "9", "COUNT": "3", "MIN": "1"}
    with pytest.raises(UsageError, match="--shard i/N"):
        array_shard({f"SLURM_ARRAY_TASK_{key}": value for key, value in variables.items()})


def test_parts_merged_are_one_run_to_the_bit(generator, targets, tmp_path):
    pytest.importorskip("pyarrow")
    invert(generator, targets, tmp_path / "one")
    for i in range(3):
        invert(generator, targets, shard_folder(tmp_path / "parts", (i, 3)), shard=(i, 3))
    one, parts = (latentopt.merge([tmp_path / kind], tmp_path / f"{kind} merged") for kind in ("one", "parts"))
    assert one.whole and parts.whole and len(parts.rows) == len(NAMES)
    whole = contents(tmp_path / "one")
    found = {}
    for folder in (tmp_path / "parts").iterdir():
        found |= contents(folder)
    assert found == whole
    packed = [load_tensors(into / "latents-00000.safetensors")[0]["ws"] for into in (one.into, parts.into)]
    assert torch.equal(*packed) and packed[0].shape == (8, generator.num_ws, 4)
    tables = [list(csv.DictReader((into / "summary.csv").open())) for into in (one.into, parts.into)]
    for row in (row for table in tables for row in table):
        row.pop("seconds")
    assert tables[0] == tables[1]


def test_merging_tells_what_is_missing_or_failed(generator, targets, tmp_path, latentopt_command):
    parquet = pytest.importorskip("pyarrow.parquet")
    for i in range(2):
        invert(generator, targets, shard_folder(tmp_path / "out", (i, 3)), shard=(i, 3))
    done = sorted((tmp_path / "out").glob("*/*/run.json"))
    (done[0].parent / "proj.png").unlink()  # no result any more
    done[1].unlink()
    code, out, err = latentopt_command("merge", str(tmp_path / "out"), "--into", str(tmp_path / "merged"))
    assert code == 3 and "part 2/3: not there" in err
    assert f"{done[0].parent.name}: " in err and "lacks proj.png" in err
    assert f"{done[1].parent.name}: no result" in err and "1 failed, 1 missing" in out
    table = parquet.read_table(tmp_path / "merged" / "manifest.parquet").to_pylist()
    assert [row["status"] for row in table].count("ok") == len(done) - 2
    ok = next(row for row in table if row["status"] == "ok")
    packed = load_tensors(tmp_path / "merged" / ok["latents"])[0]["ws"][ok["row"]]
    assert torch.equal(packed, Inversion.load(tmp_path / "merged" / ok["folder"]).inputs.ws[0])
    page = (tmp_path / "merged" / "index.html").read_text()
    assert "../out/shard-" in page and "1 missing" in page


@pytest.fixture
def latentopt_command(latentopt):
    return latentopt


def test_a_damaged_list_of_images_is_named(tmp_path):
    pytest.importorskip("pyarrow")
    write_plan(tmp_path, ["a"])
    (tmp_path / ".ledger" / "images.jsonl").write_text("[1]\n")
    with pytest.raises(latentopt.errors.CheckpointError, match=r"images\.jsonl: damaged"):
        latentopt.merge([tmp_path], tmp_path)


# ---- the ledger


def shelf_of(kind: str, folder: Path):
    if kind == "folder":
        return FolderShelf(folder)
    pytest.importorskip("fsspec")
    return FsspecShelf(f"memory://{folder}" if kind == "memory" else f"file://{folder}")


def other(ledger: Ledger, name: str) -> Ledger:
    """The same, as another machine sees it."""
    return Ledger(ledger.shelf, ledger.plan, ledger.lease, ledger.retries, ledger.progress, _mine=f"{name} 1 0")


@pytest.mark.parametrize("kind", ["folder", "file", "memory"])
def test_a_batch_is_held_by_one(kind, tmp_path):
    ledger = Ledger(shelf_of(kind, tmp_path), [("a", "b"), ("c",)])
    ledger.begin()
    b = other(ledger, "b")
    first, second = ledger.claim(), b.claim()
    assert {first.entry.id, second.entry.id} == {"0", "1"} and ledger.claim() is None and b.claim() is None
    ledger.finish(first, [{"name": "a"}])
    b.release(second)
    assert ledger.claim().entry.id == second.entry.id
    assert [id_ for id_, _ in b.finished(set())] == [first.entry.id] and not list(b.finished({first.entry.id}))


@pytest.mark.parametrize("kind", ["folder", "file", "memory"])
def test_a_batch_is_taken_over_when_its_holder_is_silent(kind, tmp_path):
    ledger = Ledger(shelf_of(kind, tmp_path), [("a",)], lease=0.5)
    a, b = other(ledger, "a"), other(ledger, "b")
    claim = a.claim()
    for _ in range(4):
        time.sleep(0.2)
        assert a.beat(claim) and b.claim() is None
    time.sleep(0.8)
    taken = b.claim()
    assert taken.attempt == 2 and not a.beat(claim)
    a.release(claim)  # holds it no longer: nothing happens
    assert a.claim() is None and b.beat(taken)


def test_an_image_that_kills_its_workers_is_set_aside(tmp_path):
    states = {"0-1": "0"}
    progress = lambda entry: states.get(entry.id, "")  # noqa: E731
    ledger = Ledger(FolderShelf(tmp_path), [("good", "bad")], retries=2, progress=progress)
    dead = f"{machine()} {2**22 + 1} 1"
    tried = []
    for i in range(12):
        states["0-1"] = str(min(i, 5))  # it gets on for a while, which does not count
        mine = Ledger(ledger.shelf, ledger.plan, retries=2, progress=progress, _mine=dead)
        claim = mine.claim()
        if claim is None:
            continue
        tried.append(claim.entry.id)
        if claim.entry.names == ("good",):
            mine.finish(claim, [{"name": "good", "status": "ok"}])
    rows = [row for _, record in ledger.finished(set()) for row in record["rows"]]
    assert tried == ["0", "0", "0-0", "0-1", "0-1", "0-1"]
    assert [row["status"] for row in rows] == ["ok", "failed"]
    assert rows[1]["error"] == "set aside after 2 attempts: its worker ended without a word"


def test_the_dead_are_told_from_the_living():
    assert not is_gone(owner()) and not is_gone("another machine 1 2") and not is_gone("")
    child = os.fork()
    if child == 0:
        os._exit(0)
    time.sleep(0.1)
    assert is_gone(f"{machine()} {child} 1")  # nobody has waited for it yet
    os.waitpid(child, 0)
    assert is_gone(f"{machine()} {child} 1")


# ---- workers


def test_workers_do_what_one_process_does(generator, targets, tmp_path):
    """To the bit; what one process has begun is gone on with."""
    invert(generator, targets, tmp_path / "one")
    invert(generator, targets[:3], tmp_path / "two", names=NAMES[:3])
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "two").rglob("run.json")}
    rows, again = [], []

    def told(event):
        if isinstance(event, latentopt.inverting.events.Finished):
            rows.append(event.row["psnr"])
            again.append(event.again)

    results = invert(generator, targets, tmp_path / "two", engine=Workers(2, "cpu"), keep=True, on_event=told)
    assert [result.name for result in results] == NAMES and sorted(again) == [False] * 5 + [True] * 3
    assert contents(tmp_path / "two") == contents(tmp_path / "one")
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert [path.name for path in (tmp_path / "two" / ".ledger").iterdir()] == ["images.jsonl"]
    summaries = [list(csv.DictReader((tmp_path / kind / "summary.csv").open())) for kind in ("one", "two")]
    assert [row["name"] for row in summaries[1]] == [row["name"] for row in summaries[0]] == NAMES


def test_the_ledger_may_lie_at_an_address(generator, targets, tmp_path):
    pytest.importorskip("fsspec")
    from latentopt.inverting.inverter import Inverter
    from latentopt.scale.job import job_of

    engine = Workers(1, "cpu", ledger=f"file://{tmp_path}/claims")
    results = invert(generator, targets[:2], tmp_path / "out", names=NAMES[:2], engine=engine, keep=True)
    assert [result.name for result in results] == NAMES[:2]
    assert [path.name for path in (tmp_path / "claims").iterdir()] == [], "cleared at the end"
    assert [path.name for path in (tmp_path / "out" / ".ledger").iterdir()] == ["images.jsonl"]
    runs = [job_of(Inverter(generator, RECIPE, out=tmp_path / name), [], 60.0, 3, ledger="memory://x") for name in "ab"]
    assert runs[0].ledger.shelf.root != runs[1].ledger.shelf.root, "two runs over the same images"
    with pytest.raises(latentopt.errors.UsageError, match="no place for a ledger"):
        invert(generator, targets[:2], tmp_path / "out", names=NAMES[:2], engine=Workers(1, ledger="nowhere://x"))


def test_a_ledger_without_hands_is_refused(latentopt, folder):
    code, _, err = latentopt("invert", "photos", "--ledger", "file://claims", "-q")
    assert (code, "--workers or --ray" in err) == (2, True)


def test_workers_that_are_killed_are_replaced(generator, targets, tmp_path):
    recipe = RECIPE.override(["stages.0.steps=60"])
    whole = invert(generator, targets[:4], None, names=NAMES[:4], recipe=recipe, keep=True)
    killed, lines = [], []

    def told(event):
        if isinstance(event, latentopt.inverting.events.Noted):
            lines.append(event.text)

    def kill():
        claims = tmp_path / "out" / ".ledger"
        while len(killed) < 2:
            time.sleep(0.05)
            for path in claims.glob("*/*/[0-9].[0-9]"):
                number = int(json.loads(path.read_text())["owner"].split()[1])
                if number not in killed and len(killed) < 2 and not path.with_suffix(".done").exists():
                    killed.append(number)
                    os.kill(number, signal.SIGKILL)

    killer = threading.Thread(target=kill, daemon=True)
    killer.start()
    engine = Workers(2, "cpu")
    results = invert(generator, targets[:4], tmp_path / "out", names=NAMES[:4], recipe=recipe, engine=engine,
                     keep=True, on_event=told)  # fmt: skip
    killer.join()
    assert sum("is replaced" in line for line in lines) == 2
    for ours, theirs in zip(whole, results, strict=True):
        assert torch.equal(ours.inputs.ws, theirs.inputs.ws)


class Fatal:
    """What kills whoever reads it."""

    def __call__(self, source, target, done):
        if "bad" in str(source.path):
            os.kill(os.getpid(), signal.SIGKILL)
        return target


def test_a_poisoned_picture_is_set_aside_and_the_rest_goes_on(generator, targets, tmp_path):
    from latentopt.pictures.images import save_png

    for name in ("bad", "good"):
        save_png(tmp_path / "photos" / f"{name}.png", targets[0])
    engine = Workers(1, "cpu", retries=1)
    recipe = RECIPE.override(["stages.0.batch=2"])
    with pytest.raises(InversionFailed, match="set aside after 1 attempts: its worker ended"):
        latentopt.invert(generator, [tmp_path / "photos"], recipe, out=tmp_path / "out", look=Fatal(), engine=engine)
    table = {row["name"]: row["status"] for row in csv.DictReader((tmp_path / "out" / "summary.csv").open())}
    assert table == {"bad": "failed", "good": "ok"}


def test_what_workers_cannot_do_is_said_at_once(generator, targets, tmp_path):
    engine = Workers(1, "cpu")
    with pytest.raises(UsageError, match="out="):
        invert(generator, targets, None, engine=engine)
    with pytest.raises(UsageError, match="at least 1"):
        worker_devices(0)
    with pytest.raises(UsageError, match="cannot be sent"):
        latentopt.invert(generator, _photo(tmp_path, targets), RECIPE, out=tmp_path / "o",
                         engine=engine, look=lambda source, target, done: target)  # fmt: skip


def _photo(folder, targets):
    from latentopt.pictures.images import save_png

    save_png(folder / "a.png", targets[0])
    return [folder / "a.png"]


def test_what_other_processes_get_grows_with_the_images_alone(generator, tmp_path):
    """Each image is a view of the batch that was given, and must not bring it along."""
    from latentopt.inverting.inverter import Inverter
    from latentopt.inverting.items import tensor_items
    from latentopt.scale.job import job_of

    def packed(count: int) -> bytes:
        items = tensor_items(torch.zeros(count, 3, 8, 8))
        return job_of(Inverter(generator, RECIPE, out=tmp_path), items, 60.0, 3).packed()

    sizes = [len(packed(count)) for count in (10, 40, 70)]
    assert sizes[2] - sizes[1] < 1.2 * (sizes[1] - sizes[0])
    assert pickle.loads(packed(10)).items[3].target.image.shape == (3, 8, 8)


# ---- Ray


def test_an_actor_takes_batches_until_it_is_stopped(generator, targets, tmp_path):
    """What runs in an actor, here without Ray."""
    from latentopt.inverting.inverter import Inverter
    from latentopt.inverting.items import tensor_items
    from latentopt.scale.job import job_of
    from latentopt.scale.on_ray import Seat

    job = job_of(Inverter(generator, RECIPE, out=tmp_path), tensor_items(targets[:3], NAMES[:3]), 60.0, 3)
    seat = Seat(job.packed, "cpu", 1)
    told, answer = seat.next()
    assert (told, answer.kind, answer.record["rows"][0]["status"]) == ([], "done", "ok")
    seat.stop()
    assert seat.next()[1].kind == "idle" and not list(tmp_path.glob(".ledger/*/*/1.1")), "given back"
    assert [path.parent.name for path in tmp_path.glob("*/run.json")] == [NAMES[0]]
    assert "shared disk" in Seat(job_of(Inverter(generator, RECIPE, out=tmp_path / "not"), [], 60.0, 3).packed,
                                 "cpu", 1).next()[1].text  # fmt: skip


RAY_STARTS = 30.0  # seconds in which a cluster of this machine has to be there


def started_cluster():
    """A cluster of three raylets, and the two that may be lost. Skips the test where Ray does not get them started."""
    from ray.cluster_utils import Cluster

    def late(number, frame):
        pytest.skip(f"Ray has started no cluster on this machine within {RAY_STARTS:g} s")

    before = signal.signal(signal.SIGALRM, late)  # Ray begins in the main thread only
    signal.setitimer(signal.ITIMER_REAL, RAY_STARTS, 1.0)  # again, where Ray takes it for an error of its own
    cluster = Cluster()
    try:
        cluster.add_node(num_cpus=1, object_store_memory=80 << 20, include_dashboard=False)
        return cluster, [cluster.add_node(num_cpus=1, object_store_memory=80 << 20) for _ in range(2)]
    except BaseException as error:
        signal.setitimer(signal.ITIMER_REAL, 0)
        cluster.shutdown()
        if not isinstance(error, Exception):  # late, or Ctrl-C
            raise
        pytest.skip(f"Ray starts no cluster on this machine: {type(error).__name__}: {error}")
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def test_actors_do_what_one_process_does(generator, targets, tmp_path, monkeypatch):
    """On a cluster of three raylets, one of which is lost with its actor."""
    ray = pytest.importorskip("ray")
    from latentopt.scale.on_ray import OnRay

    monkeypatch.setenv("PYTHONPATH", str(Path(latentopt.__file__).parent.parent))
    recipe = RECIPE.override(["stages.0.steps=40"])
    invert(generator, targets, tmp_path / "one", recipe=recipe)
    cluster, nodes = started_cluster()
    try:
        ray.init(address=cluster.address, log_to_driver=False, logging_level="error")
        lost = []

        def told(event):
            if isinstance(event, latentopt.inverting.events.Finished) and not lost:
                lost.append(cluster.remove_node(nodes[0], allow_graceful=False))

        invert(generator, targets, tmp_path / "ray", recipe=recipe, engine=OnRay(cluster.address), on_event=told)
        assert lost and contents(tmp_path / "ray") == contents(tmp_path / "one")
    finally:
        ray.shutdown()
        cluster.shutdown()
