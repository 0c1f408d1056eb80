"""The metric: its blocks against whole Jacobians, its coordinates, its files, which is found, and what needs one."""

from __future__ import annotations

import copy
import math
import sys
from pathlib import Path

import pytest
import torch
from conftest import make_tiny_generator

from latentopt.checkpoints.describe import describe
from latentopt.checkpoints.networks import load_generator, save_generator
from latentopt.commands import main
from latentopt.errors import StatisticsError, UsageError
from latentopt.files.storage import load_tensors, save_tensors
from latentopt.inverting.measured import ensure_metrics
from latentopt.inverting.work import invert
from latentopt.parameterizations.metric import KroneckerWhitening
from latentopt.recipe.recipe import Recipe
from latentopt.registry import PARAMETERIZATIONS
from latentopt.statistics.curvature import Draws, random_signs
from latentopt.statistics.metric import LEFT, RIGHT, Metric, Roots, pack, unpack
from latentopt.statistics.metric_files import METRIC, metric_at_hand
from latentopt.statistics.metric_fit import PURPOSE, Distance, MetricFit, fit_metric
from latentopt.statistics.pnorm import SLOPE
from latentopt.types import GeneratorInputs

NET = {"net": "bundled", "size": 16}
CONV, BIAS = "synthesis.b16.conv1.weight", "synthesis.b16.conv1.bias"


@pytest.fixture(scope="module")
def small():
    """16x16 pixels, 6 rows of w [8]."""
    return make_tiny_generator(channels=(8, 6, 4), z_dim=8, w_dim=8)


@pytest.fixture(scope="module")
def metric(small) -> Metric:
    return fit_metric(small, **NET, layers="all", probes=200, batch=50)


def jacobians(generator, distance, ws, name=None):
    """Of the coordinates [B,N] of each picture by its ws, [B,N,L,C], or by a weight, [B,N,*shape], whole."""

    def drawn(x, row):
        inputs = GeneratorInputs(x[None]) if name is None else GeneratorInputs(row[None], deltas={name: x[None]})
        return torch.cat([x.flatten() for x in distance.outputs(generator.synthesis(inputs))])

    at = [row if name is None else ws.new_zeros(generator.tunable[name]) for row in ws]
    return torch.stack([torch.func.jacfwd(drawn)(x, row) for x, row in zip(at, ws, strict=True)])


pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit.script:FutureWarning")  # torch's forward mode asks for it


@pytest.mark.parametrize("name", [CONV, BIAS], ids=["conv", "bias"])
def test_blocks_are_those_of_whole_jacobians(small, name):
    """The same pictures and signs, with every derivative by itself."""
    distance, b = Distance.of(small, "none"), 2
    found = MetricFit(small, distance, b, layers=name, batch=1)
    list(found.run())
    ws, streams = Draws(small, 0, PURPOSE).mixed_ws(range(b))
    signs = torch.cat([random_signs(x, streams).flatten(1) for x in distance.outputs(torch.empty(b, 3, 16, 16))], 1)
    g = torch.einsum("bn,bnlc->blc", signs, jacobians(small, distance, ws))
    G = torch.einsum("bn,bn...->b...", signs, jacobians(small, distance, ws, name))
    G = G if G.ndim == 5 else G[:, :, None, None, None]  # [B,O,I,k,k]
    slope = torch.where(ws >= 0, 1.0, SLOPE)
    expected = {
        "ws": torch.einsum("blc,bld->lcd", g, g) / b,
        "w": torch.einsum("blc,bkd->cd", g, g) / b,
        "slopes": torch.einsum("blc,bld->cd", slope, slope) / (b * ws.shape[1]),
        LEFT + name: torch.einsum("boixy,bpixy->op", G, G) / b,
        RIGHT + name: torch.einsum("boixy,bojxy->ij", G, G) / b,
    }
    blocks = found.result().blocks
    assert blocks.keys() == expected.keys()
    for key, block in expected.items():
        torch.testing.assert_close(blocks[key], block, rtol=1e-3, atol=1e-3 * block.abs().max().item(), msg=key)


def test_the_mean_of_probes_is_the_gauss_newton_matrix(small):
    """Two ways to the same numbers: J^T J in full, and many probes of it."""
    distance, pictures = Distance.of(small, "none"), 12
    by_ws = jacobians(small, distance, Draws(small, 5, PURPOSE).mixed_ws(range(pictures))[0])
    exact = torch.einsum("bnlc,bnld->lcd", by_ws, by_ws) / pictures
    probed = fit_metric(small, net="none", layers="", probes=1000, seed=1, batch=100).blocks["ws"]
    for mine, theirs in zip(probed, exact, strict=True):
        cosine = (mine * theirs).sum() / (mine.norm() * theirs.norm())
        assert cosine > 0.9
        assert 0.6 < mine.trace() / theirs.trace() < 1.6  # other pictures of a tiny generator


def test_style_mixing_cuts_everywhere(small):
    ws, _ = Draws(small, 0, PURPOSE).mixed_ws(range(200))
    cuts = (ws[:, 1:] != ws[:, :-1]).any(dim=2).sum(dim=1)
    assert set(cuts.tolist()) == {0, 1}
    changed = (ws[:, 1:] != ws[:, :-1]).any(dim=2).any(dim=0)
    assert changed.all()


def test_in_its_coordinates_the_metric_is_the_identity_but_for_the_damping(metric):
    for name in ("ws", "w"):
        roots = metric.roots(name, 1e-3)
        block = metric.blocks[name].double().reshape(roots.forward.shape)
        level = 1e-3 * block.diagonal(dim1=1, dim2=2).mean()
        inside = roots.forward @ (block + level * torch.eye(8)) @ roots.forward
        torch.testing.assert_close(inside, torch.eye(8).double().expand_as(inside), rtol=1e-3, atol=1e-3)
        torch.testing.assert_close(roots.forward @ roots.inverse, torch.eye(8).double().expand_as(inside))


def test_the_factors_keep_the_trace(metric, small):
    """Their Kronecker product, for all K numbers a pair of channels, has the trace of the metric."""
    for name in metric.weights:
        shape = small.tunable[name]
        left, right = metric.weight_roots(name, shape, 1e-9)
        traces = [torch.linalg.inv(roots.forward @ roots.forward).trace() for roots in (left, right)]
        total = traces[0] * traces[1] * math.prod(shape[2:])
        torch.testing.assert_close(total, metric.blocks[LEFT + name].double().trace(), rtol=1e-3, atol=0)


@pytest.mark.parametrize("layers", ["convs:2", "synthesis.b16.torgb.weight"])
def test_squared_coordinates_of_weights_say_how_far_pictures_move(metric, small, layers):
    """The mean over pictures of |r(U) - r(0)|^2 is about |U|^2, for random U, without a picture drawn."""
    lens = PARAMETERIZATIONS.create("weights", small, layers=layers, metric=True, metric_net="bundled", metric_size=16)
    rng, size, distance = torch.Generator().manual_seed(0), 1e-2, Distance.of(small, **NET)
    ws, _ = Draws(small, 3, PURPOSE).mixed_ws(range(300))
    inputs = GeneratorInputs(ws)
    u = {name: size * torch.randn(1, *shape, generator=rng) for name, shape in lens.shapes.items()}
    before, after = (distance.outputs(small.synthesis(x)) for x in (inputs, lens.decode(u, inputs)))
    moved = sum((a - b).square().flatten(1).sum(dim=1) for a, b in zip(after, before, strict=True)).mean()
    assert 0.4 < moved / sum(x.square().sum() for x in u.values()) < 2


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch, metric, request):
    """A current folder with the small generator's metric, unless a test asks for an empty one."""
    monkeypatch.chdir(tmp_path)
    if "empty" not in request.fixturenames:
        metric.save(tmp_path / "pnorm_stats" / "tiny.metric.safetensors")
    return tmp_path


@pytest.fixture
def empty():
    """Asks for a folder without a metric."""


def test_a_weight_without_influence_has_plain_coordinates(small):
    blocks = blocks_of(small) | {LEFT + CONV: torch.zeros(4, 4), RIGHT + CONV: torch.zeros(4, 4)}
    roots = KroneckerWhitening.of(Metric(blocks, "pixels", "", 1, 0), CONV, small.weight(CONV), 0.1)
    delta = torch.randn(2, 4, 4, 3, 3)
    torch.testing.assert_close(roots.into(delta), delta)


def test_triangles_are_packed_and_unpacked():
    block = torch.randn(3, 5, 5)
    block = block + block.mT
    assert pack(block).shape == (3, 15)
    assert torch.equal(unpack(pack(block)), block)
    with pytest.raises(ValueError, match="no triangle"):
        unpack(torch.zeros(14))


def test_roots_of_a_singular_matrix():
    x = torch.tensor([1.0, 2.0])
    roots = Roots.of(x[:, None] * x, 0.5)
    torch.testing.assert_close(roots.inverse @ roots.inverse, (x[:, None] * x + 0.5 * torch.eye(2)).double())


# --- the fit: batches, shards, interruptions


def fit(small, **options):
    task = MetricFit(small, Distance.of(small, "none"), 10, layers="convs:2", **({"batch": 3} | options))
    list(task.run())
    return task


def same(a: Metric, b: Metric, rtol: float = 1e-5) -> None:
    assert a.blocks.keys() == b.blocks.keys() and (a.n, a.seed, a.distance) == (b.n, b.seed, b.distance)
    for name, block in a.blocks.items():
        torch.testing.assert_close(b.blocks[name], block, rtol=rtol, atol=rtol * block.abs().max().item())


def test_the_seed_decides_and_the_batch_does_not(small):
    whole = fit(small).result()
    same(whole, fit(small, batch=10).result(), 1e-3)
    other = fit(small, seed=1).result().blocks["ws"]
    assert not torch.allclose(whole.blocks["ws"], other, rtol=1e-2)


def test_an_interrupted_fit_goes_on_to_the_same(small, tmp_path, monkeypatch):
    """At whatever call the interruption comes, whole batches are kept."""
    whole, partial = fit(small).result(), tmp_path / "p.safetensors"
    measure, calls = MetricFit._measure, []

    def interrupted(self, indices):
        calls.append(indices)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return measure(self, indices)

    monkeypatch.setattr(MetricFit, "_measure", interrupted)
    with pytest.raises(KeyboardInterrupt):
        fit(small, partial=partial)
    assert fit(small, partial=tmp_path / "other.safetensors").done == 10  # not that one's
    del calls[:]
    again = fit(small, partial=partial)
    assert [len(x) for x in calls] == [3, 1]
    same(whole, again.result(), 1e-7)
    monkeypatch.setattr(MetricFit, "_measure", measure)
    partial.write_bytes(b"damaged")
    same(whole, fit(small, partial=partial).result(), 1e-7)


@pytest.mark.parametrize("settings", [{"seed": 1}, {"batch": 4}], ids=str)
def test_what_another_fit_left_is_not_taken(small, tmp_path, settings):
    fit(small, partial=tmp_path / "p.safetensors")
    distance, kept = (
        Distance.of(small, "none"),
        {"layers": "convs:2", "batch": 3, "partial": tmp_path / "p.safetensors"},
    )
    assert MetricFit(small, distance, 10, **kept).done == 10
    assert MetricFit(small, distance, 10, **(kept | settings)).done == 0


@pytest.mark.parametrize(
    "changes", [{"const_size": (2, 3)}, {"c_dim": 3}, {"architecture": "resnet"}, {"architecture": "orig"}], ids=str
)
def test_any_architecture(changes):
    generator = make_tiny_generator(channels=(8, 6, 4), z_dim=8, w_dim=8, **changes)
    found = fit_metric(generator, net="none", layers="all", probes=4)
    assert set(found.weights) == set(generator.tunable)
    assert found.blocks["ws"].shape == (generator.num_ws, 8, 8)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.bfloat16, 0.1), (torch.float16, 1e-7)], ids=str)
def test_sixteen_bits(small, dtype, tolerance):
    """bfloat16 does nearly as well; float16 is left aside."""
    half = copy.deepcopy(small).set_precision(dtype)
    same(fit(small).result(), fit(half).result(), tolerance)
    assert half.precision == dtype


# --- files


def blocks_of(generator) -> dict:
    dim = generator.w_dim
    return {"ws": torch.eye(dim).repeat(generator.num_ws, 1, 1), "w": torch.eye(dim), "slopes": torch.eye(dim)}


def test_round_trip(tmp_path, small, metric):
    path = tmp_path / "deep" / "m.safetensors"
    metric.save(path)
    back = Metric.load(path, small)
    same(metric, back, 1e-6)
    assert set(back.weights) == set(small.tunable)
    facts = describe(path)
    assert facts["distance"] == metric.distance and facts["pictures"] == 200


def rewrite(path, change=lambda tensors: None, **metadata):
    tensors, fields = load_tensors(path)
    change(tensors)
    save_tensors(path, tensors, {k: v for k, v in (fields | metadata).items() if v is not None})


def without(name):
    return lambda tensors: tensors.pop(name)


def changed(name, value):
    return lambda tensors: tensors.update({name: value})


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda path: path.unlink(), "no such file"),
        (lambda path: path.write_bytes(path.read_bytes()[:-8]), "not a readable|not whole|empty file"),
        (lambda path: path.write_bytes(b""), "not a readable|not whole|empty file"),
        (lambda path: rewrite(path, format="latentopt-sigma-1"), "its format is 'latentopt-sigma-1'"),
        (lambda path: rewrite(path, format=None), "its format is None"),
        (lambda path: rewrite(path, distance=None), "lacks 'distance'"),
        (lambda path: rewrite(path, fingerprint=None), "lacks 'fingerprint'"),
        (lambda path: rewrite(path, n="many"), "not a usable metric"),
        (lambda path: rewrite(path, card="{"), "not a usable metric"),
        (lambda path: rewrite(path, card="[1]"), "not a table"),
        (lambda path: rewrite(path, without("ws")), "lacks ws"),
        (lambda path: rewrite(path, changed("w", torch.zeros(7))), "no triangle"),
        (lambda path: rewrite(path, changed("w", torch.tensor([math.nan]))), "not finite"),
        (lambda path: rewrite(path, changed("w", torch.tensor([-1.0]))), "not positive semidefinite"),
        (lambda path: rewrite(path, changed("w", torch.zeros(2, 3))), "no square matrix"),
        (lambda path: rewrite(path, changed("w", torch.zeros(3))), r"w is of \(2,\)"),
        (lambda path: rewrite(path, changed("ws", torch.zeros(2, 36))), r"ws is of \(2, 8\)"),
        (lambda path: rewrite(path, changed(f"left/{CONV}", torch.zeros(3))), rf"{CONV} is of \(2,\)"),
        (lambda path: rewrite(path, without(f"right/{CONV}")), "is of None"),
        (lambda path: rewrite(path, changed("left/synthesis.b64.x", torch.zeros(3))), "does not have"),
    ],
)
def test_damaged_files_are_refused_by_name(tmp_path, small, metric, damage, message):
    path = tmp_path / "m.safetensors"
    metric.save(path)
    damage(path)
    with pytest.raises(StatisticsError, match=message) as caught:
        Metric.load(path, small)
    assert str(caught.value).startswith(f"{path}: ")


def lens(small, name="w+", **options):
    options = {"metric_net": "bundled", "metric_size": 16} | options
    return PARAMETERIZATIONS.create(name, small, metric=True, **options)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        (
            {"metric_size": 32},
            StatisticsError,
            "no metric of 'tiny'.* for bundled at 32 pixels; run latentopt fit-metric",
        ),
        ({"metric_net": None, "metric_size": None}, StatisticsError, "for lpips-vgg at 256 pixels; run latentopt fit"),
        ({"metric_net": "none"}, StatisticsError, "for pixels; run latentopt fit-metric --net none --network tiny"),
        (
            {"metric_file": "m.safetensors", "metric_size": 32},
            StatisticsError,
            "m.safetensors: a metric for the distance",
        ),
        ({"metric_file": "absent.safetensors"}, StatisticsError, "absent.safetensors"),
        (
            {"metric_file": "few.safetensors", "name": "weights"},
            StatisticsError,
            "lacks synthesis.*fit-metric.*--layers",
        ),
        ({"metric_file": "theirs.safetensors"}, StatisticsError, "metric of generator 'tiny' .*, not of 'tiny'"),
        ({"metric_net": "vgg"}, UsageError, "not one of auto, bundled"),
        ({"metric_size": 8}, UsageError, "at least 16 pixels"),
        ({"damping": 0.0}, UsageError, "damping must be a number above 0"),
        ({"damping": math.nan}, UsageError, "damping must be a number above 0"),
    ],
    ids=str,
)
def test_what_a_space_refuses(small, metric, options, error, message):
    metric.save(Path("m.safetensors"))
    fit_metric(small, **NET, layers="", probes=2).save(Path("few.safetensors"))
    Metric(blocks_of(small), metric.distance, "f" * 16, 1, 0, "tiny").save(Path("theirs.safetensors"))
    with pytest.raises(error, match=message):
        lens(small, **options)


def test_of_several_the_one_for_the_distance_and_the_weights_is_found(small):
    latents, pixels = (fit_metric(small, **net, layers="", probes=2) for net in (NET, {"net": "none"}))
    pixels.save(Path("pnorm_stats/a.safetensors"))
    latents.save(Path("pnorm_stats/b.safetensors"))
    names = {
        size: [metric_at_hand(small, net, size, weights) for weights in ((), (CONV,))]
        for net, size in (("none", 16), ("bundled", 16))
    }
    assert metric_at_hand(small, "none")[1].name == "a.safetensors"
    assert metric_at_hand(small, "none", None, (CONV,)) is None
    assert [pair[1].name for pair in names[16]] == ["tiny.metric.safetensors"] * 2
    Path("pnorm_stats/tiny.metric.safetensors").unlink()
    assert metric_at_hand(small, **NET)[1].name == "b.safetensors"
    assert METRIC(small, None, {"metric_net": "none", "layers": "convs"}) == []


# --- recipes that need one


def recipe(**space) -> Recipe:
    part = {"name": "w+", "metric": True, "metric_net": "bundled", "metric_size": 16, **space}
    tune = {"name": "weights", "layers": "convs:2", **{k: v for k, v in part.items() if k != "name"}}
    terms = [{"name": "perceptual", "net": "bundled", "size": 16}, {"name": "l2"}]
    stage = {"optimize": [part], "terms": terms, "steps": 2, "lr": 1.0, "optimizer": "lbfgs"}
    return Recipe.from_table({"name": "quick", "stages": [{"init": "mean", **stage}, stage | {"optimize": [tune]}]})


@pytest.fixture
def few(monkeypatch):
    """Six pictures are enough."""
    monkeypatch.setattr(MetricFit.__init__, "__defaults__", (6,))


def test_a_missing_metric_is_measured_once_and_said(small, empty, few, caplog):
    """One for both stages; from Python the log says it. Results depend on its contents."""
    target = small.synthesis(GeneratorInputs(Draws(small, 1, 0).ws(range(2))[0])).clamp(-1, 1)
    caplog.set_level("INFO", "latentopt")
    first = invert(small, target, recipe())
    assert "measuring it, kept in pnorm_stats/tiny.bundled-16.metric.safetensors" in caplog.text
    made = Path("pnorm_stats/tiny.bundled-16.metric.safetensors")
    assert Metric.load(made, small).n == 6 and [x.name for x in made.parent.iterdir()] == [made.name]
    caplog.clear()
    again = invert(small, target, recipe())
    assert not caplog.text
    assert all(torch.equal(a.inputs.ws, b.inputs.ws) for a, b in zip(first, again, strict=True))
    assert first[0].inputs.deltas.keys() == {"synthesis.b16.conv0.weight", CONV}
    fit_metric(small, **NET, layers="convs", probes=8).save(made)
    assert invert(small, target, recipe())[0].manifest["key"] != first[0].manifest["key"]


def test_all_layers_are_covered_and_nothing_is_replaced(small, empty, few):
    path = Path("pnorm_stats/tiny.bundled-16.metric.safetensors")
    fit_metric(small, **NET, layers="", probes=2).save(path)
    wanted = recipe().changed({("stages", 1, "optimize", 0, "layers"): BIAS})
    made = ensure_metrics(small, wanted)
    assert made == [Path("pnorm_stats/tiny.bundled-16-2.metric.safetensors")] and Metric.load(path).n == 2
    assert set(Metric.load(made[0]).weights) == {*small.convolutions.values(), BIAS}
    assert ensure_metrics(small, wanted) == []


@pytest.mark.parametrize("present", [True, False], ids=["measured", "missing"])
@pytest.mark.parametrize(
    ("space", "message"),
    [
        ({"metric_size": 32}, "bundled at 32 pixels; its stage compares by bundled .* at 16 pixels"),
        ({"metric_net": "none"}, "pixels; its stage compares by bundled .* at 16 pixels: set metric_net"),
    ],
    ids=str,
)
def test_a_metric_for_another_distance_is_refused_before_it_is_measured(small, empty, few, present, space, message):
    if present:
        net, size = space.get("metric_net", "bundled"), space.get("metric_size", 16)
        fit_metric(small, net=net, size=size, probes=2).save(Path("pnorm_stats/x.safetensors"))
        message = message.replace("its stage", "this stage").replace("at 32 pixels", ".* at 32 pixels")
    with pytest.raises(UsageError, match=message):
        invert(small, torch.zeros(1, 3, 16, 16), recipe(**space))


def test_a_stage_of_pixels_alone_has_its_own_metric(small, empty, few, caplog):
    pixels = recipe(metric_net="none").changed({("stages", i, "terms"): [{"name": "l2"}] for i in range(2)})
    caplog.set_level("INFO", "latentopt")
    invert(small, torch.zeros(1, 3, 16, 16), pixels)
    assert "tiny.none.metric" in caplog.text


def test_metric_false_reads_nothing(small, empty):
    assert not recipe(metric=False).looks_for("metric") and recipe().looks_for("metric")
    invert(small, torch.zeros(1, 3, 16, 16), recipe(metric=False))
    assert not Path("pnorm_stats").exists()


# --- the command


@pytest.fixture
def run(monkeypatch, capsys, small, tmp_path):
    save_generator(small, Path("net/tiny.safetensors"))

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["latentopt", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as stop:
            main()
        return stop.value.code, *capsys.readouterr()

    return call


FIT = ("fit-metric", "--network", "net/tiny.safetensors", "--net", "bundled", "--size", 16, "--probes", 6, "--batch", 2)
OUT = Path("pnorm_stats/tiny.bundled-16.metric.safetensors")


def test_the_command(run, small, empty):
    code, out, err = run(*FIT)
    assert code == 0 and "6/6 (100 %)" in err
    for words in (small.fingerprint, "bundled", "at 16 pixels, and pixels", "6, seed 0", "6 blocks of 8 x 8", str(OUT)):
        assert words in out
    metric, before = Metric.load(OUT, load_generator("net/tiny.safetensors")), OUT.stat().st_mtime_ns
    assert set(metric.weights) == set(small.convolutions.values())
    code, out, _ = run(*FIT, "-q")
    assert code == 0 and "already fitted" in out and OUT.stat().st_mtime_ns == before
    assert run(*FIT, "--seed", 1)[0] == 0 and OUT.stat().st_mtime_ns != before


def test_shards_are_merged_to_the_same(run, empty, small):
    run(*FIT, "--out", "whole.safetensors")
    for i in range(2):
        code, out, _ = run(*FIT, "--shard", f"{i}/2")
        assert code == 0 and f"shard-{i}-of-2" in out
    assert run(*FIT, "--merge")[0] == 0
    same(Metric.load(Path("whole.safetensors")), Metric.load(OUT), 1e-6)
    assert [path.name for path in OUT.parent.iterdir()] == [OUT.name]


def test_a_killed_fit_is_kept_and_goes_on(run, empty, monkeypatch):
    measure, calls = MetricFit._measure, []

    def interrupted(self, indices):
        calls.append(indices)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return measure(self, indices)

    monkeypatch.setattr(MetricFit, "_measure", interrupted)
    code, _, err = run(*FIT)
    assert code == 130 and "2 pictures are kept; the same command goes on from there" in err
    code, _, err = run(*FIT)
    assert code == 0 and "going on from 2 pictures" in err and len(calls) == 4
    assert [path.name for path in OUT.parent.iterdir()] == [OUT.name]


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("--out", "x.npz"), 2, "written as .safetensors"),
        (("--probes", "0"), 2, "--probes"),
        (("--size", "8"), 2, "--size"),
        (("--net", "vgg"), 2, "--net"),
        (("--layers", "synthesis.b99.*"), 2, "matches no weight"),
        (("--shard", "0/2", "--merge"), 2, "exclude one another"),
        (("--shard", "2/2"), 2, "--shard"),
        (("--merge",), 1, "run latentopt fit-metric --shard i/N"),
        (("--network", "absent.pkl"), 1, "absent.pkl"),
    ],
    ids=str,
)
def test_what_the_command_refuses(run, empty, arguments, code, message):
    found, out, err = run(*FIT, *arguments)
    assert (found, out) == (code, "") and message in err
    assert not Path("pnorm_stats").exists()


@pytest.mark.parametrize("what", ["another distance", "another generator", "something else"])
def test_a_file_that_must_not_be_replaced(run, small, empty, what):
    made = Metric(blocks_of(small), "pixels", small.fingerprint if what == "another distance" else "f" * 16, 1, 0)
    OUT.parent.mkdir()
    OUT.write_bytes(b"something else") if what == "something else" else made.save(OUT)
    before = OUT.read_bytes()
    code, _, err = run(*FIT, "--out", OUT)
    assert code == 1 and "--overwrite" in err and str(OUT) in err and OUT.read_bytes() == before
    if what == "another generator":  # of the same name: this one's is kept beside it
        assert run(*FIT)[0] == 0 and metric_at_hand(small, **NET)[1].name == f"tiny-{small.fingerprint}{OUT.name[4:]}"
    assert run(*FIT, "--out", OUT, "--overwrite")[0] == 0 and OUT.read_bytes() != before


def test_a_recipe_that_needs_one_says_so_in_one_line(run, empty, few, small):
    from conftest import photo

    photo(Path("photos/a.png"), 0)
    Path("quick.toml").write_text(recipe().dump())
    command = (
        "invert",
        "photos",
        "--network",
        "net/tiny.safetensors",
        "--recipe",
        "quick.toml",
        "--no-preflight",
        "-q",
    )
    code, _, err = run(*command)
    assert code == 0 and err.count("has no metric for this recipe yet: measuring it, kept in") == 1
    assert "metric" not in run(*command, "--overwrite")[2]
    wrong = ("--set", "stages.0.terms.0.size=32")
    code, _, err = run(*command, "--outdir", "other", *wrong)
    assert code == 2 and "set metric_net and metric_size" in err
