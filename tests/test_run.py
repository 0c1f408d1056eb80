"""Runs through a recipe's stages: saved anywhere and gone on with, they end in the same bits. And the inverter
over them.
"""

from __future__ import annotations

import copy
import hashlib
import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import make_tiny_generator
from torch import Tensor

from latentopt.errors import CheckpointError, ImageError, UsageError
from latentopt.files.storage import load_tensors, save_tensors
from latentopt.initializers.simple import Mean
from latentopt.inverting.batch import Batch
from latentopt.inverting.events import Failed, Finished, Noted, Progressed
from latentopt.inverting.inverter import Inverter
from latentopt.inverting.items import Item, Unread, tensor_items
from latentopt.inverting.saved_run import checksum
from latentopt.loop.building import make_optimizer
from latentopt.perceptual.network import load_perceptual_net, weights_hash
from latentopt.recipe.recipe import Recipe
from latentopt.registry import OPTIMIZERS
from latentopt.statistics.pnorm_fit import fit_pnorm
from latentopt.statistics.streams import image_seed
from latentopt.types import GeneratorInputs

KEYS = ("a", "b/c", "d")
RECIPES = {
    "sg2 then w+": [
        {
            "init": "mean",
            "steps": 4,
            "lr": 0.1,
            "schedule": "karras",
            "jitter": {"scale": 0.05, "ramp": 0.5},
            "optimize": ["w", {"name": "noise", "lr": 0.05}],
            "terms": ["l2", {"name": "noise", "weight": 1e3}],
            "noise_mode": "random",
        },
        {
            "steps": 3,
            "lr": 0.5,
            "optimizer": {"name": "sgd", "momentum": 0.9},
            "optimize": ["w+"],
            "terms": ["l1"],
            "stop": {"patience": 2, "tolerance": 0.2},
            "keep": "last",
        },
    ],
    "p-norm": [
        {
            "init": {"name": "best-of", "n": 3},
            "steps": 4,
            "lr": 0.05,
            "batch": 2,
            "optimize": [{"name": "p-norm+", "clip": 1.0, "l2": 1e-3}],
            "terms": ["l2"],
            "stop": {"below": 0.1},
        },
        {"init": "p-mean", "steps": 4, "lr": 0.05, "optimizer": "nadam", "optimize": ["z"], "terms": ["l2"]},
    ],
    "lbfgs": [
        {
            "init": "mean",
            "steps": 7,
            "lr": 20.0,  # too far, so that trials fail
            "optimizer": {"name": "lbfgs", "history": 2},
            "optimize": [{"name": "w+", "clip": 3.0}],
            "terms": ["l2"],
            "stop": {"below": 0.03},
        },
        {"steps": 3, "lr": 0.05, "optimizer": "lbfgs", "optimize": [{"name": "weights", "l2": 1e-3}], "terms": ["l2"]},
    ],
}
FEW = Recipe.from_table(
    {"name": "few", "stages": [{"init": "mean", "steps": 4, "lr": 0.05, "optimize": ["w+"], "terms": ["l2"]}]}
)


@pytest.fixture(scope="module")
def generator():
    """8x8 pixels, 4 rows of w [16]."""
    return make_tiny_generator(channels=(8, 6))


@pytest.fixture(scope="module")
def targets(generator) -> Tensor:
    z = torch.randn(3, 16, generator=torch.Generator().manual_seed(9))
    images = generator.synthesis(GeneratorInputs(generator.broadcast(generator.mapping(z))))
    return images.clamp(-1, 1)


@pytest.fixture(scope="module")
def statistics(generator):
    return fit_pnorm(generator, 2000, batch=1000)


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch, statistics) -> Path:
    statistics.save(tmp_path / "pnorm_stats" / "tiny.safetensors")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(params=RECIPES)
def recipe(request) -> Recipe:
    return Recipe.from_table({"name": "r", "stages": RECIPES[request.param]})


def start(generator, recipe, targets) -> Batch:
    return Batch(generator, recipe, targets, KEYS, tuple(image_seed(0, key) for key in KEYS))


def timeless(history: list[list[dict]]) -> list[list[dict]]:
    return [[{k: v for k, v in entry.items() if k != "seconds"} for entry in image] for image in history]


def test_saved_at_any_step_and_gone_on_with_is_the_same_to_the_bit(generator, recipe, targets, folder):
    whole = start(generator, recipe, targets)
    records = [(stage, step.step) for stage, step in whole.steps()]
    assert {stage for stage, _ in records} == {0, 1}
    assert whole.finished
    path = folder / "state.safetensors"
    for stop_after in range(1, len(records) + 1):
        broken = start(generator, recipe, targets)
        for _, _ in zip(range(stop_after), broken.steps(), strict=False):
            pass
        broken.save(path)
        resumed = Batch.load(path, generator, recipe, targets)
        rest = [(stage, step.step) for stage, step in resumed.steps()]
        assert rest == records[stop_after:]
        assert torch.equal(resumed.inputs.ws, whole.inputs.ws), stop_after
        if whole.inputs.noise is not None:
            assert all(torch.equal(resumed.inputs.noise[k], v) for k, v in whole.inputs.noise.items())
        assert torch.equal(resumed.images(), whole.images())
        assert resumed.status == whole.status
        assert resumed.best_step == whole.best_step
        assert timeless(resumed.history) == timeless(whole.history)


def test_a_resumed_stage_does_not_start_anew(generator, targets, folder, monkeypatch):
    """Its start is on record: an initialiser may be slow, or its file gone by now. The next stage has its own."""
    plain, calls = Mean.__call__, []

    def call(self, target, seeds):
        calls.append(len(target))
        return plain(self, target, seeds)

    monkeypatch.setattr(Mean, "__call__", call)
    recipe = Recipe.from_table({"name": "r", "stages": [stage_table("w+"), stage_table("w")]})
    run = start(generator, recipe, targets)
    next(iter(run.steps()))
    run.save(folder / "state.safetensors")
    assert calls == [3]
    resumed = Batch.load(folder / "state.safetensors", generator, recipe, targets)
    for stage, _ in resumed.steps():
        assert calls == [3] * (stage + 1)
    assert resumed.finished
    assert calls == [3, 3]


@pytest.mark.parametrize(
    "table",
    [
        {"name": "adam", "betas": [2.0, 0.9]},
        {"name": "adam", "betas": [0.9]},
        {"name": "nadam", "betas": [0.9, 0.99, 0.999]},
        {"name": "adamw", "betas": ["a", "b"]},
        {"name": "radam", "eps": -1.0},
        {"name": "adamw", "weight_decay": -1.0},
        {"name": "sgd", "momentum": -1.0},
        {"name": "sgd", "nesterov": True},
    ],
    ids=str,
)
def test_options_that_an_optimiser_refuses(generator, targets, table):
    stage = FEW.table()["stages"][0] | {"optimizer": table}
    run = start(generator, Recipe.from_table({"name": "r", "stages": [stage]}), targets)
    with pytest.raises(UsageError, match=f"optimizer '{table['name']}' refuses"):
        next(run.steps())


@pytest.mark.parametrize("name", OPTIMIZERS.targets)
def test_optimisers_take_their_defaults(generator, name):
    make_optimizer(
        generator, Recipe.from_table({"stages": [stage_table("w") | {"optimizer": name}]}).stages[0].optimizer
    )


def test_a_second_stage_goes_on_from_the_first(generator, targets):
    recipe = Recipe.from_table({"name": "r", "stages": RECIPES["sg2 then w+"]})
    run = start(generator, recipe, targets)
    stages = [(stage, step) for stage, step in run.steps()]
    first_of_second = next(step for stage, step in stages if stage == 1)
    assert first_of_second.encoding_cost == pytest.approx([0, 0, 0], abs=1e-6)
    assert set(run.inputs.noise) == set(generator.noise_shapes), "the noise of stage 0 is carried along"
    assert all(entry["stage"] == 1 for entry in (image[-1] for image in run.history))


def test_best_parts_are_those_of_the_kept_point(generator, targets):
    run = start(generator, FEW, targets)
    for _ in run.steps():
        pass
    for row in range(3):
        error = (run.images()[row] - targets[row]).square().mean().item()
        assert run.best_parts(row) == pytest.approx({"loss": error, "l2": error}, rel=1e-4)


@pytest.mark.parametrize("begun", [0, 1])
def test_saved_before_a_stage_begins_and_gone_on_with(generator, targets, folder, monkeypatch, begun):
    recipe, plain, count = Recipe.from_table({"name": "r", "stages": RECIPES["sg2 then w+"]}), Batch._begin, []
    whole = start(generator, recipe, targets)
    for _ in whole.steps():
        pass

    def stopped(self):
        count.append(1)
        if len(count) == begun + 1:
            raise KeyboardInterrupt
        return plain(self)

    run = start(generator, recipe, targets)
    monkeypatch.setattr(Batch, "_begin", stopped)
    with pytest.raises(KeyboardInterrupt):
        for _ in run.steps():
            pass
    run.save(folder / "state.safetensors")
    again = Batch.load(folder / "state.safetensors", generator, recipe, targets)
    assert (again.stage, again.state) == (begun, None)
    for _ in again.steps():
        pass
    assert torch.equal(again.result.ws, whole.result.ws)


def test_an_image_that_fails_in_one_stage_is_left_out_of_the_next(generator, targets, monkeypatch):
    monkeypatch.setattr(Mean, "__call__", spoiled_start(1))
    recipe = Recipe.from_table({"name": "r", "stages": [*map(stage_table, ("w+", "w+"))]})
    run = start(generator, recipe, targets)
    rows = [(stage, step.rows) for stage, step in run.steps()]
    assert rows[0] == (0, [0, 1, 2])
    assert all(r == [0, 2] for _, r in rows[1:])
    assert [text.split(":")[0] for text in run.status] == ["done", "failed", "done"]


def stage_table(space: str) -> dict:
    return {"init": "mean", "steps": 2, "lr": 0.1, "optimize": [space], "terms": ["l2"]}


def spoiled_start(row: int):
    plain = Mean.__call__

    def call(self, target, seeds):
        inputs = plain(self, target, seeds)
        inputs.ws[row] = math.nan
        return inputs

    return call


def test_files_of_other_runs_are_refused(generator, targets, folder):
    run = start(generator, FEW, targets)
    next(iter(run.steps()))
    path = folder / "state.safetensors"
    run.save(path)
    assert Batch.read_keys(path) == KEYS
    Batch.load(path, generator, FEW.override(["name=renamed", "stages.0.batch=1"]), targets)
    with pytest.raises(CheckpointError, match="another recipe or generator"):
        Batch.load(path, generator, FEW.override(["stages.0.lr=0.01"]), targets)
    with pytest.raises(CheckpointError, match="another recipe or generator"):
        Batch.load(path, make_tiny_generator(5, channels=(8, 6)), FEW, targets)


@pytest.mark.parametrize("kind", ["missing", "text", "cut", "other"])
def test_files_that_are_no_saved_run(generator, targets, folder, kind):
    path = folder / "state.safetensors"
    if kind == "text":
        path.write_text("hello")
    elif kind == "other":
        save_tensors(path, {"x": torch.zeros(2)})
    elif kind == "cut":
        run = start(generator, FEW, targets)
        next(iter(run.steps()))
        run.save(path)
        path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match=r"state\.safetensors"):
        Batch.load(path, generator, FEW, targets)


def stripped(*keys: str):
    """Take entries out of the record."""

    def change(tensors, meta):
        return tensors, {key: value for key, value in meta.items() if key not in keys}

    return change


def set_to(**values):
    return lambda tensors, meta: (tensors, meta | values)


def without(prefix: str):
    return lambda tensors, meta: ({k: v for k, v in tensors.items() if not k.startswith(prefix)}, meta)


def reshaped(tensors, part: str, change):
    """The tensors whose names have `part` in them, changed."""
    return {k: change(v).contiguous() if part in k and v.ndim > 1 else v for k, v in tensors.items()}


def text_tensor(text: str) -> Tensor:
    return torch.frombuffer(bytearray(text.encode()), dtype=torch.uint8)


def without_moments(tensors):
    return {k: v for k, v in tensors.items() if not k.endswith("exp_avg_sq")}


DAMAGE = {  # what becomes of a saved state: tensors, record -> tensors, record
    "no record": lambda tensors, meta: (tensors, None),
    "half a record": lambda tensors, meta: (tensors, json.dumps(meta)[:40]),
    "a list": lambda tensors, meta: (tensors, []),
    "a number": lambda tensors, meta: (tensors, 3),
    "no keys": stripped("keys"),
    "no seeds": stripped("seeds"),
    "no stage": stripped("stage"),
    "no digest": stripped("digest"),
    "keys of another kind": set_to(keys=5),
    "keys that are lists": set_to(keys=[[]]),
    "keys of too many": set_to(keys=["a", "b", "c", "d"]),
    "a seed too few": set_to(seeds=[1, 2]),
    "seeds of another kind": set_to(seeds=["1", "2", "3"]),
    "huge seeds": set_to(seeds=[10**30] * 3),
    "a stage beyond": set_to(stage=7),
    "a stage below": set_to(stage=-1),
    "a step beyond": set_to(state={"step": 10**6, "chunk": 3, "status": ["running"] * 3}),
    "no chunk": set_to(state={"step": 1, "chunk": 0, "status": ["running"] * 3}),
    "a status too few": set_to(state={"step": 1, "chunk": 3, "status": ["running"]}),
    "status of another kind": set_to(status=[1, 2, 3]),
    "deep networks": set_to(networks={"x": "x"} | {"deep": json.loads("[" * 90 + "]" * 90)}),
    "rows of others": lambda tensors, meta: (tensors | {"state|rows": torch.tensor([0, 1, 7])}, meta),
    "rows twice": lambda tensors, meta: (tensors | {"state|rows": torch.tensor([0, 1, 1])}, meta),
    "rows in halves": lambda tensors, meta: (tensors | {"state|rows": torch.tensor([0.0, 1.0, 2.0])}, meta),
    "rates that are not": lambda tensors, meta: (tensors | {"state|rate": torch.full((3,), torch.nan)}, meta),
    "rates too few": lambda tensors, meta: (tensors | {"state|rate": torch.ones(2)}, meta),
    "latents of another shape": lambda tensors, meta: (reshaped(tensors, "w+", lambda x: x[:, :1]), meta),
    "latents too few": lambda tensors, meta: (reshaped(tensors, "w+", lambda x: x[:1]), meta),
    "whole latents": lambda tensors, meta: (reshaped(tensors, "w+", torch.Tensor.long), meta),
    "moments of another shape": lambda tensors, meta: (reshaped(tensors, "exp_avg", lambda x: x[:, :1]), meta),
    "a start of another shape": lambda tensors, meta: (reshaped(tensors, "start|ws", lambda x: x[:, :1]), meta),
    "half the moments": lambda tensors, meta: (without_moments(tensors), meta),
    "half a history": lambda tensors, meta: (tensors | {"history": tensors["history"][:-9]}, meta),
    "a history in floats": lambda tensors, meta: (tensors | {"history": tensors["history"].float()}, meta),
    "a history of others": lambda tensors, meta: (tensors | {"history": text_tensor("[[], []]")}, meta),
    "a history of texts": lambda tensors, meta: (tensors | {"history": text_tensor('[["x"], [], []]')}, meta),
    "state of another kind": set_to(state=[1]),
    "state of another version": set_to(state={"step": 1, "chunk": 3, "status": ["running"] * 3, "extra": 1}),
    "a missing tensor": without("state|safe"),
    "no history": without("history"),
    "half a start": lambda tensors, meta: (tensors | {"start|noise|x": tensors.pop("start|ws")}, meta),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_record_is_named_and_the_work_begins_anew(generator, targets, folder, damage):
    out, asked = folder / "out", iter([False, True])
    with pytest.raises(KeyboardInterrupt):
        list(Inverter(generator, FEW, out=out).invert(items_of(targets), lambda: next(asked)))
    (path,) = (out / ".resume").iterdir()
    tensors, metadata = load_tensors(path)
    tensors, meta = DAMAGE[damage](tensors, json.loads(metadata.pop("meta")))
    if meta is not None:
        metadata["meta"] = meta if isinstance(meta, str) else json.dumps(meta)
        metadata["checksum"] = checksum(tensors, metadata["meta"])
    save_tensors(path, tensors, metadata)
    with pytest.raises(CheckpointError, match=rf"{path.name}: damaged"):
        Batch.load(path, generator, FEW, targets)
    found = events(Inverter(generator, FEW, out=out), items_of(targets))
    assert found["Progressed"][0].step.step == 0
    assert [e.inversion.name for e in found["Finished"]] == list(KEYS)
    assert [e.text for e in found["Noted"]] and path.name in found["Noted"][0].text
    assert [left.name for left in (out / ".resume").iterdir()] == [f"{path.stem}.damaged"]


def test_seeds_are_the_images_own():
    assert image_seed(0, "a") == image_seed(0, "a")
    assert len({image_seed(seed, key) for seed in (0, 1) for key in ("a", "b", "0:a")}) == 6
    assert 0 <= image_seed(3, "x") < 2**56


# The inverter


def events(inverter: Inverter, items: list[Item]) -> dict[str, list]:
    found = list(inverter.invert(items))
    kinds = {kind: [e for e in found if isinstance(e, kind)] for kind in (Progressed, Finished, Failed, Noted)}
    return {kind.__name__: group for kind, group in kinds.items()}


def items_of(targets: Tensor) -> list[Item]:
    return tensor_items(targets, KEYS)


def test_results_do_not_depend_on_batches_or_order(generator, targets):
    def result(order, batch):
        recipe = FEW.override([f"stages.0.batch={batch}", "stages.0.jitter={scale = 0.1, ramp = 0.5}"])
        items = [items_of(targets)[i] for i in order]
        finished = events(Inverter(generator, recipe, seed=3), items)["Finished"]
        return {e.inversion.name: e.inversion.inputs.ws for e in finished}

    first = result([0, 1, 2], 3)
    for order, batch in (([2, 0, 1], 3), ([0, 1, 2], 1), ([1, 2, 0], 2)):
        other = result(order, batch)
        for name in KEYS:
            torch.testing.assert_close(other[name], first[name], rtol=0, atol=1e-4)


def test_one_failing_image_leaves_the_others_alone(generator, targets, folder, monkeypatch):
    """Its pictures hold NaN: they must not spoil the figures of the batch either."""
    monkeypatch.setattr(Mean, "__call__", spoiled_start(1))
    found = events(Inverter(generator, FEW, out=folder / "out"), items_of(targets))
    assert [e.inversion.name for e in found["Finished"]] == ["a", "d"]
    assert [(e.name, e.reason) for e in found["Failed"]] == [("b/c", "the loss is not finite at the start")]
    assert not (folder / "out" / "b" / "c" / "run.json").exists()


def test_results_are_drawn_within_the_memory_that_there_is(generator, targets, monkeypatch):
    plain = type(generator.synthesis).forward

    def crowded(self, inputs, *arguments, **options):
        if len(inputs) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return plain(self, inputs, *arguments, **options)

    expected = events(Inverter(generator, FEW), items_of(targets))["Finished"]
    monkeypatch.setattr(type(generator.synthesis), "forward", crowded)
    found = events(Inverter(generator, FEW), items_of(targets))["Finished"]
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a.inversion.image, b.inversion.image, rtol=0, atol=1e-4)


def test_an_interrupted_batch_goes_on_where_it_was(generator, targets, folder):
    recipe = Recipe.from_table({"name": "r", "stages": RECIPES["sg2 then w+"]})
    plain = events(Inverter(generator, recipe), items_of(targets))
    out, asked = folder / "out", iter([False] * 6 + [True])
    first = []
    with pytest.raises(KeyboardInterrupt):
        first.extend(Inverter(generator, recipe, out=out).invert(items_of(targets), lambda: next(asked)))
    assert len(list((out / ".resume").iterdir())) == 1
    assert not list(out.rglob("run.json"))
    second = events(Inverter(generator, recipe, out=out), items_of(targets))
    assert (second["Progressed"][0].stage, second["Progressed"][0].step.step) == (1, 2)
    assert not (out / ".resume").exists()
    for a, b in zip(second["Finished"], plain["Finished"], strict=True):
        assert torch.equal(a.inversion.inputs.ws, b.inversion.inputs.ws)
        assert len(a.inversion.history) == len(b.inversion.history)
    third = events(Inverter(generator, recipe, out=out), items_of(targets))
    assert not third["Progressed"]
    assert [e.again for e in third["Finished"]] == [True] * 3


def test_a_killed_run_goes_on_from_its_last_save(generator, targets, folder, monkeypatch):
    """No farewell: the generator of events is dropped. Saved after every step here, every ten seconds by default."""
    out = folder / "out"
    for count, _ in enumerate(Inverter(generator, FEW, out=out, save_every=0.0).invert(items_of(targets))):
        if count == 2:
            break
    assert events(Inverter(generator, FEW, out=out), items_of(targets))["Progressed"][0].step.step == 2


def test_a_state_that_does_not_fit_what_is_to_be_done_is_not_used(generator, targets, folder):
    out, asked = folder / "out", iter([False, True])
    with pytest.raises(KeyboardInterrupt):
        list(Inverter(generator, FEW, out=out).invert(items_of(targets), lambda: next(asked)))
    (state,) = (out / ".resume").iterdir()
    (out / ".resume" / "damaged.safetensors").write_text("hello")
    found = events(Inverter(generator, FEW, out=out), items_of(targets)[:2])
    assert found["Progressed"][0].step.step == 0, "two of the three images: another batch"
    assert len(found["Finished"]) == 2
    left = {path.name for path in (out / ".resume").iterdir()}
    assert left == {state.name, "damaged.damaged"}, "the three's is left, the damaged set aside"
    found = events(Inverter(generator, FEW, out=out), items_of(targets))
    assert found["Progressed"][0].step.step == 2, "the three go on where they were"
    assert [path.name for path in (out / ".resume").iterdir()] == ["damaged.damaged"]


@pytest.mark.parametrize("change", ["recipe", "seed", "image"])
def test_a_stale_state_of_the_same_images_is_removed(generator, targets, folder, change):
    out, asked = folder / "out", iter([False, True])
    inverter, items = Inverter(generator, FEW, out=out), items_of(targets)
    with pytest.raises(KeyboardInterrupt):
        list(inverter.invert(items, lambda: next(asked)))
    if change == "image":
        items = tensor_items(targets.flip(3), KEYS)
    else:
        changes = {"recipe": {"recipe": FEW.override(["stages.0.lr=0.1"])}, "seed": {"seed": 1}}
        inverter = replace(inverter, **changes[change])
    found = events(inverter, items)
    assert found["Progressed"][0].step.step == 0
    assert not (out / ".resume").exists()


def test_a_state_whose_images_are_all_finished_is_removed(generator, targets, folder):
    """As a process leaves it that is killed when the last result is written and the state not yet removed."""
    out = folder / "out"
    inverter = Inverter(generator, FEW, out=out, save_every=0.0)
    kept = [(out / ".resume").rename(folder / "kept") for e in inverter.invert(items_of(targets)) if is_last(e)]
    assert len(kept) == 1
    (folder / "kept").rename(out / ".resume")
    found = events(inverter, items_of(targets))
    assert not found["Progressed"]
    assert [e.again for e in found["Finished"]] == [True] * 3
    assert not list((out / ".resume").iterdir())


def is_last(event) -> bool:
    return isinstance(event, Finished) and event.inversion.name == KEYS[-1]


def test_unread_images_are_read_in_their_turn(generator, targets, folder):
    """Each when the batch before it is done; one that cannot be read is passed over."""
    read, items = [], items_of(targets)

    def unread(item: Item, broken: bool = False) -> Unread:
        def reads():
            read.append(item.name)
            if broken:
                raise ImageError(f"{item.name}.png: not a picture")
            return item.target

        return Unread(item.name, item.source, reads)

    inverter = Inverter(generator, FEW.override(["stages.0.batch=1"]), out=folder / "out")
    waiting = [unread(items[0]), unread(items[1], broken=True), unread(items[2])]
    seen = []
    for event in inverter.invert(waiting):
        if isinstance(event, Failed):
            assert (event.name, event.reason, event.unreadable) == ("b/c", "b/c.png: not a picture", True)
        if not isinstance(event, Progressed):
            seen.append((type(event).__name__, list(read)))
    assert seen == [("Finished", ["a"]), ("Failed", ["a", "b/c"]), ("Finished", ["a", "b/c", "d"])]
    again = events(inverter, waiting)
    assert [(e.inversion.name, e.again) for e in again["Finished"]] == [("a", True), ("d", True)]
    assert [e.unreadable for e in again["Failed"]] == [True]


def test_an_image_that_cannot_be_read_any_more_does_not_hold_up_its_batch(generator, targets, folder):
    out, asked, items = folder / "out", iter([False, True]), items_of(targets)
    with pytest.raises(KeyboardInterrupt):
        list(Inverter(generator, FEW, out=out).invert(items, lambda: next(asked)))

    def broken():
        raise ImageError("gone")

    found = events(Inverter(generator, FEW, out=out), [items[0], Unread("b/c", "b/c.png", broken), items[2]])
    assert [e.inversion.name for e in found["Finished"]] == ["a", "d"]
    assert [e.name for e in found["Failed"]] == ["b/c"]
    assert not (out / ".resume").exists()


CHANGES = ["image", "recipe", "seed", "precision", "statistics", "option", "damage", "missing"]


@pytest.mark.parametrize("change", CHANGES)
def test_what_decides_a_result_makes_it_stale(generator, targets, folder, change):
    out = folder / "out"
    recipe = FEW.override(["stages.0.optimize.0.clip=2.0"]) if change == "statistics" else FEW
    inverter, items = Inverter(generator, recipe, out=out), items_of(targets)
    events(inverter, items)
    if change == "image":
        items = [*tensor_items(targets[[1]], KEYS[:1]), *items[1:]]
    elif change == "damage":
        (out / "a" / "proj.png").write_bytes(b"hello")
    elif change == "missing":
        (out / "a" / "proj.png").unlink()
    elif change == "statistics":
        refit(generator, "pnorm_stats/tiny.safetensors")
        inverter = Inverter(generator, recipe, out=out)
    elif change == "precision":
        inverter = Inverter(copy.deepcopy(generator).set_precision(torch.bfloat16), FEW, out=out)
    else:
        changes = {"recipe": {"recipe": FEW.override(["stages.0.lr=0.1"])}, "seed": {"seed": 1}}
        inverter = replace(inverter, **changes.get(change, {"options": (("fit", "pad"),)}))
    found = events(inverter, items)
    redone = [e.inversion.name for e in found["Finished"] if not e.again]
    assert redone == (["a"] if change in ("image", "damage", "missing") else list(KEYS))


def refit(generator, path: str) -> None:
    fit_pnorm(generator, 3000, batch=1000).save(Path(path))


def with_entry(**entries) -> Recipe:
    return Recipe.from_table({"name": "few", "stages": [FEW.table()["stages"][0] | entries]})


MINE = {"stats": "mine.safetensors"}
CLIPPED = {"name": "w+", "clip": 2.0}


@pytest.mark.parametrize(
    ("entries", "refitted", "stale"),
    [
        ({}, "pnorm_stats/tiny.safetensors", False),
        ({"optimize": [CLIPPED]}, "pnorm_stats/tiny.safetensors", True),
        ({"optimize": [CLIPPED | {"clip": 0.0}]}, "pnorm_stats/tiny.safetensors", True),
        ({"init": "p-mean"}, "pnorm_stats/tiny.safetensors", True),
        ({"terms": ["l2", "p-norm"]}, "pnorm_stats/tiny.safetensors", True),
        ({"optimize": [CLIPPED | MINE]}, "pnorm_stats/tiny.safetensors", False),
        ({"optimize": [CLIPPED | MINE]}, "mine.safetensors", True),
        ({"terms": ["l2", {"name": "p-norm", **MINE}]}, "mine.safetensors", True),
        ({"init": "p-mean", "optimize": [CLIPPED | MINE]}, "pnorm_stats/tiny.safetensors", True),
        ({"init": "p-mean", "optimize": [CLIPPED | MINE]}, "mine.safetensors", True),
    ],
    ids=str,
)
def test_statistics_make_stale_what_was_made_with_them(generator, targets, statistics, entries, refitted, stale):
    """What a recipe does not read does not matter to it; a file that it names counts by its contents."""
    statistics.save(Path("mine.safetensors"))
    inverter, item = Inverter(generator, with_entry(**entries)), items_of(targets)[0]
    before = inverter.run_key(item)
    assert replace(inverter).run_key(item) == before
    refit(generator, refitted)
    assert (replace(inverter).run_key(item) != before) == stale


@pytest.mark.parametrize("path", ["start.safetensors", "start.npz", "folder"])
def test_another_start_under_the_same_name_is_another_result(generator, targets, path):
    def save(ws: Tensor) -> None:
        if path.endswith("npz"):
            np.savez(path, w=ws.numpy())
        else:
            GeneratorInputs(ws).save(Path(path) / "inputs.safetensors" if path == "folder" else Path(path))

    inverter, item = Inverter(generator, with_entry(init={"name": "file", "path": path})), items_of(targets)[0]
    save(torch.zeros(1, 4, 16))
    before = inverter.run_key(item)
    save(torch.ones(1, 4, 16))
    assert replace(inverter).run_key(item) != before
    (inversion,) = (e.inversion for e in events(replace(inverter), [item])["Finished"])
    (name,) = inversion.manifest["statistics"]
    assert name == (f"{path}/inputs.safetensors" if path == "folder" else path)


def test_other_weights_under_the_same_name_are_another_result(generator, targets, folder):
    term = {"name": "perceptual", "net": "lpips-alex", "weights": "alexnet.pth"}
    inverter, item = Inverter(generator, with_entry(terms=[term])), items_of(targets)[0]
    missing = inverter.run_key(item)
    (folder / "alexnet.pth").write_bytes(b"some")
    some = replace(inverter).run_key(item)
    (folder / "alexnet.pth").write_bytes(b"others")
    assert len({missing, some, replace(inverter).run_key(item)}) == 3


def test_the_radius_is_measured_with_the_statistics_that_the_recipe_names(generator, targets, folder):
    (folder / "pnorm_stats" / "tiny.safetensors").unlink()
    refit(generator, "mine.safetensors")
    (plain,) = events(Inverter(generator, FEW), items_of(targets)[:1])["Finished"]
    assert "radius" not in plain.inversion.manifest["metrics"]
    recipe = with_entry(optimize=[CLIPPED | MINE])
    (clipped,) = events(Inverter(generator, recipe), items_of(targets)[:1])["Finished"]
    assert 0 < clipped.inversion.manifest["metrics"]["radius"] <= 2


def test_the_manifest_names_networks_files_and_noise(targets, statistics, generator, folder):
    """By their contents, so that a result tells what it was measured with."""
    larger = make_tiny_generator(channels=(8, 6, 4))
    terms = ["l2", {"name": "perceptual", "net": "bundled"}]
    recipe = with_entry(terms=terms, noise_mode="none", optimize=["w"], steps=1)
    (found,) = events(Inverter(larger, recipe), tensor_items(torch.zeros(1, 3, 16, 16)))["Finished"]
    record = found.inversion.manifest
    assert record["networks"] == {"perceptual": f"bundled {weights_hash(load_perceptual_net('portraits'))}"}
    assert (record["noise_mode"], record["statistics"]) == ("none", {})
    (found,) = events(Inverter(generator, with_entry(optimize=[CLIPPED])), items_of(targets)[:1])["Finished"]
    record = found.inversion.manifest
    digest = hashlib.sha256((folder / "pnorm_stats" / "tiny.safetensors").read_bytes()).hexdigest()[:16]
    assert (record["networks"], record["noise_mode"]) == ({}, "const")
    assert record["statistics"] == {"pnorm_stats/tiny.safetensors": digest}


def test_the_manifest_says_what_was_done(generator, targets, folder, statistics):
    found = events(Inverter(generator, FEW, seed=4, out=folder / "out"), items_of(targets)[:1])
    record = json.loads((folder / "out" / "a" / "run.json").read_text())
    assert record["seed"] == 4
    assert record["steps"] == 4
    assert record["stop_reason"] == "done"
    assert record["recipe"] == {"name": "few", "digest": FEW.digest}
    assert record["generator"]["fingerprint"] == generator.fingerprint
    assert record["statistics"] == {}
    assert record["dtype"] == "float32"
    inversion = found["Finished"][0].inversion
    v = statistics.whiten(inversion.inputs.ws.double())
    assert record["metrics"]["radius"] == pytest.approx(v.square().mean().sqrt().item(), rel=1e-4)
    assert record["metrics"]["l2"] == pytest.approx((inversion.image - targets[0]).square().mean().item(), rel=1e-3)


def test_the_manifest_names_the_precision(targets, folder):
    generator = make_tiny_generator(channels=(8, 6)).set_precision(torch.bfloat16)
    events(Inverter(generator, FEW, out=folder / "out"), items_of(targets)[:1])
    assert json.loads((folder / "out" / "a" / "run.json").read_text())["dtype"] == "bfloat16"


def test_images_with_and_without_a_mask_in_one_batch(generator, targets):
    mask = torch.ones(3, 1, 8, 8)
    mask[1, :, :4] = 0
    masked = tensor_items(targets, KEYS, mask)
    plain = items_of(targets)
    mixed = events(Inverter(generator, FEW), [plain[0], masked[1], plain[2]])["Finished"]
    alone = [events(Inverter(generator, FEW), [item])["Finished"][0] for item in (plain[0], masked[1], plain[2])]
    for a, b in zip(mixed, alone, strict=True):
        torch.testing.assert_close(a.inversion.inputs.ws, b.inversion.inputs.ws, rtol=0, atol=1e-4)


def test_a_saved_run_holds_no_code(generator, targets, folder):
    run = start(generator, FEW, targets)
    next(iter(run.steps()))
    run.save(folder / "state.safetensors")
    tensors, metadata = load_tensors(folder / "state.safetensors")
    assert set(metadata) == {"format", "meta", "checksum"}
    assert tensors["state|variables|w+/w"].shape == (3, 4, 16)
