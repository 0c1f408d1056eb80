"""Refiners: warping by known flows, no edit is no flow, residuals computed anew for each edit, files, results."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from conftest import make_encoder, make_tiny_generator, rows

from latentopt.checkpoints.describe import describe
from latentopt.checkpoints.networks import load_generator
from latentopt.editing.direction import Direction
from latentopt.editing.files import save_directions
from latentopt.editing.latents import find_sources, open_sources, read_latent
from latentopt.editing.mixing import DrawnWay, mix_drawn
from latentopt.encoders.files import save_encoder
from latentopt.errors import CheckpointError, MissingWeightsError, UsageError
from latentopt.evaluation.framework import evaluate
from latentopt.evaluation.subject import Amounts
from latentopt.inverting.work import encode, invert, tune
from latentopt.recipe.recipe import Recipe
from latentopt.refiners import FORMS, KINDS
from latentopt.refiners.config import RefinerConfig, tap_layers
from latentopt.refiners.files import load_refiner, save_refiner
from latentopt.refiners.flow import FlowNet
from latentopt.refiners.network import RefinerNet, TrainedRefiner
from latentopt.refiners.refiner import NetworkRefiner
from latentopt.refiners.warping import near_correlation, places, resized_flow, warp, whole_correlation
from latentopt.results.inversion import Inversion
from latentopt.results.redrawing import redraw_of
from latentopt.types import GeneratorInputs


def make_refiner(generator, kind: str = "warpres", seed: int = 0, **changes) -> TrainedRefiner:
    """An untrained refiner of narrow layers, whose residuals show."""
    settings = {"width": 8, "read_width": 8, "flow_width": 6} | changes
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = RefinerNet(RefinerConfig.for_generator(generator, kind, **settings)).eval().requires_grad_(False)
        for weight in net.fusion.parameters():
            weight.mul_(1.5)
    return TrainedRefiner(net, generator.fingerprint, kind)


@pytest.fixture(scope="module")
def generator():
    return make_tiny_generator()


@pytest.fixture(scope="module")
def targets(generator) -> torch.Tensor:
    return torch.rand(2, 3, *generator.resolution, generator=torch.Generator().manual_seed(3)) * 2 - 1


@pytest.fixture(scope="module")
def latents(generator) -> GeneratorInputs:
    z = torch.randn(2, generator.z_dim, generator=torch.Generator().manual_seed(4))
    return GeneratorInputs(generator.broadcast(generator.mapping(z)))


@pytest.fixture
def file(generator, tmp_path):
    def saved(kind: str = "warpres", **changes):
        path = tmp_path / f"{kind}.safetensors"
        save_refiner(make_refiner(generator, kind, **changes), path)
        return path

    return saved


def close(one: torch.Tensor, other: torch.Tensor, tolerance: float = 1e-4) -> bool:
    """Up to the rounding of batches of other sizes."""
    return bool((one - other).abs().max() <= tolerance * max(1.0, other.abs().max().item()))


def moved(latents: GeneratorInputs, by: float = 0.5) -> GeneratorInputs:
    return latents.replace(ws=latents.ws + by * torch.linspace(-1, 1, latents.ws.shape[2]))


# ---- warping and flow


def test_no_flow_leaves_everything_as_it_is():
    x = torch.randn(2, 3, 5, 7)
    assert torch.allclose(warp(x, torch.zeros(2, 2, 5, 7)), x, atol=1e-6)


@pytest.mark.parametrize("flow", [(1, 0), (0, -2), (3, 1)], ids=str)
def test_a_whole_flow_moves_by_pixels(flow):
    """What is at p afterwards was at p + flow before; beyond the border, what is on it."""
    x = torch.randn(1, 2, 6, 8)
    found = warp(x, torch.tensor(flow).float().view(1, 2, 1, 1).expand(1, 2, 6, 8))
    columns = (torch.arange(8) + flow[0]).clamp(0, 7)
    lines = (torch.arange(6) + flow[1]).clamp(0, 5)
    assert torch.allclose(found, x[:, :, lines][..., columns], atol=1e-5)


def test_half_a_pixel_is_the_mean_of_two():
    x = torch.arange(8.0).view(1, 1, 1, 8).expand(1, 1, 4, 8)
    found = warp(x, torch.tensor([0.5, 0.0]).view(1, 2, 1, 1).expand(1, 2, 4, 8))
    assert torch.allclose(found[..., :-1], x[..., :-1] + 0.5)


def test_a_flow_in_another_size_counts_that_ones_pixels():
    flow = torch.full((1, 2, 8, 8), 2.0)
    assert torch.allclose(resized_flow(flow, (4, 4)), torch.ones(1, 2, 4, 4))
    assert torch.allclose(resized_flow(flow, (16, 8))[:, 1], torch.full((1, 16, 8), 4.0))


def test_correlations_point_at_what_is_alike():
    x = torch.nn.functional.normalize(torch.randn(1, 16, 5, 5), dim=1)
    shifted = warp(x, torch.tensor([1.0, 0.0]).view(1, 2, 1, 1).expand(1, 2, 5, 5))
    best = whole_correlation(shifted, x).argmax(dim=1)[0, :, :-1]  # the border repeats
    assert (best == (places(x)[0, 1] * 5 + places(x)[0, 0])[:, :-1] + 1).all()
    near = near_correlation(shifted, x, 2)[0, :, 2, 2].argmax()
    assert near == 2 * 5 + 3, "the middle row, one column to the right"


def test_between_equal_features_there_is_no_flow_and_it_grows_with_the_difference():
    net = FlowNet((4, 5, 6), 8)
    maps = [torch.randn(2, c, s, s) for c, s in ((4, 4), (5, 8), (6, 16))]
    other = [x + torch.randn_like(x) for x in maps]
    assert net(maps, maps).abs().max() == 0
    little = [x + 1e-3 * (y - x) for x, y in zip(maps, other, strict=True)]
    assert 0 < net(maps, little).abs().max() < 0.1 * net(maps, other).abs().max()


# ---- where a refiner sits


@pytest.mark.parametrize(
    ("channels", "tap", "names"),
    [
        ((12, 10, 8, 6), None, ["b4.conv1", "b8.conv1", "b16.conv0"]),
        ((12, 10, 8, 6), 32, ["b8.conv1", "b16.conv1", "b32.conv0"]),
        ((8, 6, 4), None, ["b4.conv1", "b8.conv1", "b16.conv0"]),
        ((8,) * 7, None, ["b16.conv1", "b32.conv1", "b64.conv0"]),
    ],
)
def test_the_layers_that_are_read(channels, tap, names):
    found = tap_layers(make_tiny_generator(channels=channels), tap)
    assert [layer.name for layer in found] == names


def test_a_tap_that_is_not_there_is_refused(generator):
    with pytest.raises(UsageError, match="allow 16, 32"):
        tap_layers(generator, 8)


def test_a_wide_generator_is_refined(targets):
    wide = make_tiny_generator(const_size=(4, 8))
    target = torch.rand(1, 3, 32, 64) * 2 - 1
    inputs = GeneratorInputs(wide.broadcast(wide.w_avg[None]))
    found = NetworkRefiner(wide, make_refiner(wide))(target, inputs, inputs)
    assert found.residuals["b16.conv0"].shape == (1, 8, 16, 32)


@pytest.mark.parametrize(
    "wrong",
    [
        {"kind": "x"},
        {"form": "x"},
        {"width": 0},
        {"width": 1 << 20},
        {"image_size": (48, 48)},
        {"layers": ("b16.conv0",)},
        {"reader": "ir-se-50"},
        {"sizes": (4, 4)},
    ],
    ids=str,
)
def test_what_cannot_be_built_is_refused(generator, wrong):
    with pytest.raises(ValueError, match=r"."):
        replace(RefinerConfig.for_generator(generator, "warpres"), **wrong)


# ---- what a refiner does


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", KINDS)
def test_a_refiner_adds_at_its_layer_alone(generator, targets, latents, kind, form):
    refiner = NetworkRefiner(generator, make_refiner(generator, kind, form=form))
    found = refiner(targets, latents, latents)
    assert found.changed(latents) == {"residuals/b16.conv0"}
    assert refiner.layer == "b16.conv0"
    assert (generator.synthesis(found) - generator.synthesis(latents)).abs().max() > 1e-3


@pytest.mark.parametrize("kind", KINDS)
def test_a_refiner_does_not_depend_on_the_batch_and_serves_many_edits_of_one_image(generator, targets, latents, kind):
    refiner = NetworkRefiner(generator, make_refiner(generator, kind))
    both = refiner(targets, latents, moved(latents)).residuals["b16.conv0"]
    one = refiner(targets[1:], latents.index([1]), moved(latents).index([1])).residuals["b16.conv0"]
    assert close(both[1:], one)
    first = latents.index([0])
    edits = first.with_latents(torch.cat([first.ws, moved(first).ws]))
    several = refiner(targets[:1], first, edits).residuals["b16.conv0"]
    assert close(several[1:], both[:1])


@pytest.mark.parametrize("kind", KINDS)
def test_an_unedited_call_is_the_path_without_edit_and_going_back_returns(generator, targets, latents, kind):
    refiner = NetworkRefiner(generator, make_refiner(generator, kind))
    plain = refiner(targets, latents, latents).residuals["b16.conv0"]
    there = moved(latents)
    assert (refiner(targets, latents, there).residuals["b16.conv0"] - plain).abs().max() > 1e-3
    back = there.replace(ws=latents.ws.clone())
    assert torch.equal(refiner(targets, latents, back).residuals["b16.conv0"], plain)


def test_the_residual_follows_a_known_flow(generator, targets, latents):
    """With a teacher that sees everything two pixels to the right, the residual comes from there."""
    trained = make_refiner(generator)

    class Right:
        def __call__(self, before, after):
            return torch.tensor([2.0, 0.0]).view(1, 2, 1, 1).expand(len(after), 2, *after.shape[2:])

    refiner = NetworkRefiner(generator, trained, Right())
    _, missing, found, flow = refiner._found(targets, latents, moved(latents), "const")
    assert torch.allclose(flow[:, 0], torch.ones(())), "half the picture's size: half the pixels"
    assert torch.allclose(found[..., :-1], missing[..., 1:], atol=1e-5)


def test_a_layer_that_has_residuals_is_refused(generator, targets, latents):
    refiner = NetworkRefiner(generator, make_refiner(generator))
    taken = latents.replace(residuals={"b16.conv0": torch.zeros(2, 8, 16, 16)})
    with pytest.raises(UsageError, match=r"residuals at b16\.conv0 already"):
        refiner(targets, taken, taken)


def test_changed_weights_and_noise_are_seen(generator, targets, latents):
    """The residual is what the drawn features lack, however they are drawn."""
    refiner = NetworkRefiner(generator, make_refiner(generator))
    plain = refiner(targets, latents, latents).residuals["b16.conv0"]
    name = "synthesis.b8.conv1.weight"
    tuned = latents.replace(deltas={name: torch.full((1, *generator.tunable[name]), 0.1)})
    for other in (tuned, latents.replace(noise={"b8.conv0": torch.randn(2, 1, 8, 8)})):
        assert (refiner(targets, other, other).residuals["b16.conv0"] - plain).abs().max() > 1e-4


@pytest.mark.parametrize(("kind", "names"), [("styleres", {"residual"}), ("warpres", {"residual", "flow", "warped"})])
def test_pictures_of_how_it_went(generator, targets, latents, kind, names):
    found = NetworkRefiner(generator, make_refiner(generator, kind)).pictures(targets, latents, moved(latents))
    assert found.keys() == names
    for picture in found.values():
        assert picture.shape[:2] == (2, 3)
        assert picture.isfinite().all()
        assert picture.abs().max() <= 1


# ---- files


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("kind", KINDS)
def test_a_file_holds_the_refiner(generator, targets, latents, kind, dtype, tmp_path):
    refiner, path = make_refiner(generator, kind, form="gated"), tmp_path / "r.safetensors"
    save_refiner(refiner, path, dtype)
    again = load_refiner(path, generator)
    assert again.config == refiner.config
    if dtype == torch.float32:
        assert again.fingerprint == refiner.fingerprint
    one, other = (NetworkRefiner(generator, r)(targets, latents, latents) for r in (refiner, again))
    assert close(one.residuals["b16.conv0"], other.residuals["b16.conv0"], 1e-2)
    facts = describe(path)
    assert (facts["kind"], facts["layer"], facts["generator"]) == (
        f"{kind} refiner",
        "b16.conv0",
        generator.fingerprint,
    )


def test_a_refiner_of_another_generator_is_refused(file):
    path, other = file(), make_tiny_generator(seed=5)
    with pytest.raises(CheckpointError, match="trained for generator"):
        load_refiner(path, other)
    assert load_refiner(path, other, force=True)
    small = make_tiny_generator(channels=(8, 6, 4))
    with pytest.raises(CheckpointError, match="refines 12 channels"):
        load_refiner(path, small, force=True)


def test_what_is_no_refiner_is_named(generator, tmp_path, file):
    encoder = tmp_path / "e.safetensors"
    save_encoder(make_encoder(generator, "e4e"), encoder)
    with pytest.raises(CheckpointError, match="no refiner: a file of format latentopt-encoder-1"):
        load_refiner(encoder)
    with pytest.raises(CheckpointError, match="a refiner's file or one of styleres, warpres"):
        load_refiner(tmp_path / "none.safetensors")
    with pytest.raises(MissingWeightsError, match="latentopt train refiner --kind warpres"):
        load_refiner("warpres", generator)
    broken = file()
    broken.write_bytes(broken.read_bytes()[:-100])
    with pytest.raises(CheckpointError):
        load_refiner(broken)


# ---- recipes and results


def recipe_with(path, steps: int = 2) -> Recipe:
    recipe = Recipe.load("i2s").in_every_stage(steps=steps, terms=[{"name": "l2"}])
    return recipe.refined({"name": "file", "path": str(path)})


@pytest.mark.parametrize(
    ("stage", "words"),
    [
        ({"refine": "warpre"}, "did you mean 'warpres'"),
        ({"refine": {"name": "file"}}, "needs path"),
        ({"refine": "warpres", "steps": 5}, "optimises or refines: leave steps out"),
        ({"refine": "warpres", "optimize": ["w+"]}, "leave optimize out"),
        ({"refine": "warpres", "operator": "down"}, "leave operator out"),
        ({"refine": {"name": "styleres", "flow": "raft"}}, "no such option"),
        ({"refine": {"name": "warpres", "flow": 3}}, "must be str"),
    ],
    ids=str,
)
def test_a_stage_that_cannot_be_meant_is_refused(stage, words):
    table = Recipe.load("i2s").table()
    table["stages"].append({"terms": ["l2"], **stage})
    with pytest.raises(UsageError, match=words):
        Recipe.from_table(table)


def test_refining_is_the_last_stage():
    table = Recipe.load("i2s").refined("warpres").table()
    with pytest.raises(UsageError, match="make it the last"):
        Recipe.from_table(table | {"stages": [*table["stages"], Recipe.load("i2s").table()["stages"][0]]})


def test_a_refining_stage_keeps_out_of_what_is_asked_of_optimisations():
    recipe = Recipe.load("i2s").refined("warpres")
    assert recipe.in_every_stage(steps=7).stages[-1].steps == 0
    assert recipe.refined("styleres").stages[-1].refine["name"] == "styleres"
    assert len(recipe.refined("styleres").stages) == 2
    assert Recipe.parse(recipe.dump()) == recipe
    assert Recipe.load("i2s").digest == Recipe.parse(Recipe.load("i2s").dump()).digest != recipe.digest


@pytest.mark.parametrize("kind", KINDS)
def test_a_result_is_refined_last_and_remembers_it(generator, targets, file, tmp_path, kind):
    path = file(kind)
    found = invert(generator, targets, recipe_with(path), out=tmp_path / "out", names=["a", "b"])
    result = Inversion.load(tmp_path / "out" / "a")
    assert result.manifest["refiner"]["layer"] == "b16.conv0"
    assert [(entry["stage"], entry["step"]) for entry in result.history] == [(0, 0), (0, 1), (0, 2), (1, 0)]
    assert torch.allclose(generator.synthesis(result.inputs)[0].clamp(-1, 1), result.image, atol=0.01)
    assert result.base.residuals is None
    expected = NetworkRefiner(generator, load_refiner(path, generator))(targets[:1], result.base, result.base)
    assert close(expected.residuals["b16.conv0"], found[0].inputs.residuals["b16.conv0"], 1e-3)
    assert found[0].manifest["metrics"]["l2"] == pytest.approx(result.history[-1]["l2"])


def test_the_result_does_not_depend_on_how_it_was_batched(generator, targets, file):
    recipe = recipe_with(file())
    both = invert(generator, targets, recipe)
    alone = invert(generator, targets, recipe, exact=True)
    for one, other in zip(both, alone, strict=True):
        assert close(one.inputs.residuals["b16.conv0"], other.inputs.residuals["b16.conv0"], 1e-4)


def test_encoding_refines_too(generator, targets, file, tmp_path):
    encoder, path = tmp_path / "e.safetensors", file()
    save_encoder(make_encoder(generator, "e4e"), encoder)
    refine = {"name": "file", "path": str(path)}
    (result, _) = encode(generator, targets, encoder, refine=refine, terms=[{"name": "l2"}], keep_steps=True)
    assert result.manifest["refiner"]["fingerprint"] == load_refiner(path).fingerprint
    plain = encode(generator, targets, encoder, terms=[{"name": "l2"}])[0]
    assert torch.equal(result.inputs.ws, plain.inputs.ws)
    assert result.inputs.residuals.keys() == {"b16.conv0"}
    redraw = redraw_of(result, generator)
    assert torch.allclose(
        redraw(redraw.base).residuals["b16.conv0"], result.inputs.residuals["b16.conv0"], atol=1e-3
    ), "8-bit levels are not between them: the target is as it was given"


def test_a_refiner_that_has_changed_or_gone_is_refused(generator, targets, file):
    path = file()
    (result, _) = invert(generator, targets, recipe_with(path))
    save_refiner(make_refiner(generator, seed=9), path)
    with pytest.raises(CheckpointError, match="refine the image again"):
        redraw_of(result, generator)
    path.unlink()
    with pytest.raises(CheckpointError, match="drawn through the refiner 'file', which cannot be had"):
        redraw_of(result, generator)


def test_tuning_starts_without_what_the_refiner_added(generator, targets, file):
    results = invert(generator, targets, recipe_with(file()))
    method = Recipe.load("weights").in_every_stage(steps=1, terms=[{"name": "l2"}])
    (tuned, _) = tune(generator, results, method)
    assert tuned.inputs.residuals is None
    assert "refiner" not in tuned.manifest
    again = tune(generator, results, method.refined({"name": "file", "path": str(file())}))
    assert again[0].inputs.residuals.keys() == {"b16.conv0"}
    assert again[0].inputs.deltas


@pytest.fixture
def results(generator, targets, file, tmp_path):
    found = invert(generator, targets, recipe_with(file()), out=tmp_path / "run", names=["a", "b"])
    return found, tmp_path / "run"


def test_an_edit_is_drawn_through_the_refiner_and_back_again(generator, results):
    found, folder = results
    redraw = redraw_of(found[0], generator)
    there = redraw(moved(redraw.base))
    assert (there.residuals["b16.conv0"] - found[0].inputs.residuals["b16.conv0"]).abs().max() > 1e-3
    latent = read_latent(find_sources(folder / "a")[0], generator)
    assert latent.inputs.residuals is None
    assert latent.redraw.refiner is not None
    (source,) = open_sources(find_sources(folder / "a" / "inputs.safetensors"), generator)
    named = read_latent(source, generator)
    assert named.inputs.residuals is None, "a result's file knows the result too"
    assert torch.equal(
        named.redraw(named.inputs).residuals["b16.conv0"], latent.redraw(latent.inputs).residuals["b16.conv0"]
    )


def test_mixtures_go_through_the_refiner_of_the_image_that_gives_its_layer(generator, results):
    found, _ = results
    a, b = (redraw_of(result, generator) for result in found)
    row = generator.row_of("b16.conv0")
    for split, own in ((row + 1, a), (row, b)):
        mixed = mix_drawn(a, b, split, generator)
        bare = mixed.without_residual("b16.conv0")
        assert torch.equal(mixed.residuals["b16.conv0"], own(bare).residuals["b16.conv0"])
    plain = replace(b, refiner=None)
    assert mix_drawn(a, plain, row, generator).residuals is None


def test_interpolation_fades_from_one_refiner_to_the_other(generator, results):
    found, _ = results
    a, b = (redraw_of(result, generator) for result in found)
    for t, end in ((0.0, found[0]), (1.0, found[1])):
        at = DrawnWay(a, b)(t)
        assert torch.allclose(generator.synthesis(at), generator.synthesis(end.inputs), atol=1e-2)
    half = DrawnWay(a, b)(0.5)
    bare = half.without_residual("b16.conv0")
    expected = (a(bare).residuals["b16.conv0"] + b(bare).residuals["b16.conv0"]) / 2
    assert close(half.residuals["b16.conv0"], expected, 1e-5)


def test_evaluation_draws_edits_through_the_refiner(generator, results, monkeypatch):
    found, _ = results
    direction = Direction("yaw", "w", torch.linspace(-1, 1, 16), generator.fingerprint)
    drawn = []
    plain = NetworkRefiner.__call__
    monkeypatch.setattr(
        NetworkRefiner, "__call__", lambda self, *a, **k: (drawn.append(len(a[2])), plain(self, *a, **k))[1]
    )
    for part in ("paths", "lec"):
        drawn.clear()
        evaluate(
            found,
            generator,
            directions={"yaw": direction},
            parts=[part],
            metrics=["bundled"],
            amounts=Amounts(samples=8, paths=1, steps=1, partners=1, lec=2),
            partners="embeddings",
        )
        assert drawn, part


# ---- commands


@pytest.fixture
def refined(folder, latentopt):
    generator = load_generator("net/tiny.safetensors")
    save_refiner(make_refiner(generator), folder / "r.safetensors")
    direction = Direction("turn", "w", torch.linspace(-1, 1, 16), generator.fingerprint)
    save_directions(folder / "directions" / "tiny.safetensors", [direction])
    recipe = ("--recipe", "i2s", "--steps", "1", "--terms", "l2")
    code, _, err = latentopt(
        "invert", "photos", "--network", "net/tiny.safetensors", *recipe, "--refine", "r.safetensors", "-q"
    )
    assert code == 0, err
    return folder


def test_edits_and_edits_of_edits_are_drawn_through_the_refiner(refined, latentopt):
    code, _, err = latentopt("edit", "out", "--do", "turn=1", "--explain")
    assert code == 0, err
    own = refined / "out" / "edits" / "a"
    names = {path.name for path in own.iterdir()}
    assert {"turn+1.png", "turn+1.safetensors", "turn+1.flow.png", "turn+1.residual.png", "turn+1.warped.png"} <= names
    code, _, err = latentopt("edit", str(own / "turn+1.safetensors"), "--do", "turn=-1")
    assert (code, err) == (0, "")
    back = GeneratorInputs.load(own / "edits" / "turn+1" / "turn-1.safetensors")
    first = Inversion.load(refined / "out" / "a")
    assert close(back.residuals["b16.conv0"], first.inputs.residuals["b16.conv0"], 1e-3), "back again"


def test_an_edit_whose_result_is_gone_keeps_its_residual_with_a_note(refined, latentopt):
    latentopt("edit", "out", "--do", "turn=1")
    (refined / "out" / "a" / "run.json").unlink()
    file = refined / "out" / "edits" / "a" / "turn+1.safetensors"
    code, _, err = latentopt("edit", str(file), "--do", "turn=-1")
    assert code == 0
    assert "does not move with edits" in err


@pytest.mark.parametrize("command", ["mix", "interpolate", "evaluate"])
def test_other_commands_take_refined_results(refined, latentopt, command):
    more = ("--parts", "reconstruction", "--metrics", "bundled") if command == "evaluate" else ()
    code, _, err = latentopt(command, "out", *more)
    assert code == 0, err


def test_a_second_run_does_nothing_again_and_another_refiner_makes_it_stale(refined, latentopt):
    before = rows(refined / "out")
    run = json.loads((refined / "out" / "a" / "run.json").read_text())
    save_refiner(make_refiner(load_generator("net/tiny.safetensors"), seed=7), refined / "r.safetensors")
    arguments = ("invert", "photos", "--network", "net/tiny.safetensors", "--recipe", "i2s", "--steps", "1")
    code, _, err = latentopt(*arguments, "--terms", "l2", "--refine", "r.safetensors", "-q")
    assert code == 0, err
    after = json.loads((refined / "out" / "a" / "run.json").read_text())
    assert after["refiner"]["fingerprint"] != run["refiner"]["fingerprint"]
    assert before.keys() == rows(refined / "out").keys()


def test_a_bundled_refiner_that_is_not_there_is_said_at_once(folder, latentopt):
    code, _, err = latentopt("encode", "photos", "--refine", "warpres", "--network", "net/tiny.safetensors")
    assert code == 1
    assert "train refiner --kind warpres" in err or "no bundled e4e" in err


# ---- StyleRes's released layout, with few channels


BLOCK = "synthesis.b64."


@pytest.fixture(scope="module")
def released(tmp_path_factory):
    """A file as StyleRes's: the generator with E1 and E2 in it, the encoder, the average; and its generator."""
    generator = make_tiny_generator(channels=(8,) * 7, w_dim=8, z_dim=8, mapping_layers=2)
    config = RefinerConfig.for_generator(
        generator, "styleres", 64, form="gated", reader="ir-se-50", read_width=128, width=6
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2)
        own = RefinerNet(config).eval().requires_grad_(False).state_dict()
    names = {"difference.alignment": "modify_feature_alignment", "difference.extraction": "modify_feature_extraction"}
    names["fusion"] = "modify_feature_gates"
    inside = {}
    for key, value in own.items():
        for ours, theirs in names.items():
            if key.startswith(f"{ours}."):
                inside[f"{BLOCK}{theirs}{key.removeprefix(ours)}"] = value
    inside[f"{BLOCK}modify_feature_alignment.dconv3.0.res_layer.0.weight"] = torch.zeros(6, 6, 3, 3)
    e4e = {key.removeprefix("reader."): value for key, value in own.items() if key.startswith("reader.")}
    e4e["body.20.res_layer.1.weight"] = torch.zeros(2, 2)
    path = tmp_path_factory.mktemp("released") / "styleres.pt"
    smooth = {k: v for k, v in generator.state_dict().items() if not k.endswith("resample_filter")} | inside
    torch.save({"generator_smooth": smooth, "e4e": e4e, "latent_avg": torch.zeros(14, 8)}, path)
    return path, generator, inside


def conv(x, state, name, stride=1):
    weight = state[f"{BLOCK}{name}.weight"]
    return torch.nn.functional.conv2d(x, weight, state.get(f"{BLOCK}{name}.bias"), stride, weight.shape[2] // 2)


def block(x, state, name, stride=1):
    short = f"{name}.shortcut_layer.0"
    shortcut = conv(x, state, short, stride) if f"{BLOCK}{short}.weight" in state else x
    inner = torch.nn.functional.leaky_relu(conv(x, state, f"{name}.res_layer.0"), 0.2)
    return shortcut + conv(inner, state, f"{name}.res_layer.2", stride)


def large(x):
    return torch.nn.functional.interpolate(x, scale_factor=2, mode="bilinear", align_corners=True)


def test_the_released_layout_is_called_in_its_order(released):
    """From the names in the file alone: align, extract, then gate * delta."""
    path, generator, s = released
    refiner = load_refiner(path, generator)
    net, read, drawn, edited = refiner.net, torch.randn(1, 128, 64, 64), *torch.randn(2, 1, 8, 64, 64)
    a, e, g = (f"modify_feature_{part}" for part in ("alignment", "extraction", "gates"))
    f1 = block(conv(torch.cat([read, drawn], 1), s, f"{a}.first_layer"), s, f"{a}.conv1.0")
    f2 = block(block(f1, s, f"{a}.conv2.0", 2), s, f"{a}.conv2.1")
    f3 = block(block(f2, s, f"{a}.conv3.0", 2), s, f"{a}.conv3.1")
    x = large(f3) + f2
    for i in range(2):
        x = block(x, s, f"{a}.dconv1.{i}")
    x = large(x) + f1
    for i in range(2):
        x = block(x, s, f"{a}.dconv2.{i}")
    x = conv(conv(x, s, f"{a}.out_layer"), s, f"{e}.first_layer")
    for i in range(3):
        x = block(x, s, f"{e}.convs.{i}")
    both = torch.cat([conv(edited, s, f"{g}.down1"), conv(x, s, f"{g}.down2")], 1)
    delta = gate = both
    for i in range(3):
        delta, gate = block(delta, s, f"{g}.convs.{i}"), block(gate, s, f"{g}.convs2.{i}")
    assert close(net.added(net.difference(read, drawn), edited), gate.sigmoid() * delta)


def test_the_released_file_refines_with_its_own_generator(released):
    path, generator, _ = released
    own = load_generator(path)
    assert torch.equal(own.w_avg, generator.w_avg)
    refiner = NetworkRefiner(own, load_refiner(path, own))
    target = torch.rand(1, 3, 256, 256) * 2 - 1
    inputs = GeneratorInputs(own.broadcast(own.w_avg[None]))
    assert refiner(target, inputs, inputs).residuals["b64.conv0"].isfinite().all()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda c: c.pop("e4e"), "has no 'e4e'"),
        (lambda c: c["generator_smooth"].pop(f"{BLOCK}modify_feature_gates.down1.bias"), "do not fit"),
        (lambda c: c["generator_smooth"].pop(f"{BLOCK}modify_feature_alignment.out_layer.weight"), "no first or last"),
        (lambda c: c["generator_smooth"].update({f"{BLOCK}modify_feature_x.a": torch.zeros(1)}), "no part of StyleRes"),
        (
            lambda c: c["generator_smooth"][f"{BLOCK}modify_feature_gates.down1.bias"].fill_(torch.nan),
            "not finite; the file is damaged",
        ),
    ],
    ids=range(5),
)
def test_a_released_file_that_lacks_something_is_refused(released, tmp_path, change, words):
    contents = torch.load(released[0], weights_only=True)
    change(contents)
    torch.save(contents, tmp_path / "x.pt")
    with pytest.raises(CheckpointError, match=words):
        load_refiner(tmp_path / "x.pt")
