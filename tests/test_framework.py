"""The evaluation as a whole, on generators and judges whose answers are known."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from latentopt.editing.direction import Direction
from latentopt.errors import CheckpointError, UsageError
from latentopt.evaluation import evaluation_files, framework, mixtures
from latentopt.evaluation.again import latent_stages
from latentopt.evaluation.framework import METRICS, PARTS, evaluate
from latentopt.evaluation.judge import Judge, load_judge
from latentopt.evaluation.judge_protocol import AttributeJudge, load_attribute_judge
from latentopt.evaluation.measure import Measure
from latentopt.evaluation.subject import Amounts
from latentopt.inversion import Inversion
from latentopt.inverter import Inverter
from latentopt.items import tensor_items
from latentopt.pnorm_fit import fit_pnorm
from latentopt.recipe import Recipe
from latentopt.types import GeneratorInputs

FEW = Amounts(samples=16, paths=2, steps=2, partners=2, lec=2, corruption=8)
RECIPE = Recipe.from_table(
    {
        "name": "tiny",
        "stages": [
            {"init": "mean", "steps": 2, "lr": 0.02, "optimize": ["w+"], "terms": ["l2"]},
            {"init": "previous", "steps": 2, "lr": 0.01, "optimize": ["weights"], "terms": ["l2"]},
        ],
    }
)


class Plane:
    """w of 4 numbers; the picture's channels are tanh of the first three, averaged over rows: far off, edits have no effect."""

    name, source, card, fingerprint = "plane", "nowhere", {}, "f" * 16
    resolution, num_ws, w_dim, z_dim, c_dim = (16, 16), 5, 4, 4, 0
    device = torch.device("cpu")
    w_avg = torch.zeros(4)

    def mapping(self, z, c=None):
        return z

    def broadcast(self, w):
        return w[:, None].expand(-1, self.num_ws, -1)

    def synthesis(self, inputs, noise_mode="const"):
        return torch.tanh(inputs.ws.mean(dim=1)[:, :3])[..., None, None].expand(-1, -1, 16, 16)


class Channels:
    """Reads the channels' means; the last as the probability of a hat."""

    attributes, binary_attributes = ("yaw", "smile", "hat"), ("hat",)
    name = "channels"

    def read(self, image):
        means = image.mean(dim=(2, 3))
        return torch.stack([means[:, 0], means[:, 1], (4 * means[:, 2]).sigmoid()], dim=1)


DIRECTIONS = {
    name: Direction(name, "w", 0.5 * torch.eye(4)[k], Plane.fingerprint, method="known")
    for k, name in enumerate(("yaw", "smile", "hat"))
}


def inversion(generator, name, ws, target=None, **record):
    inputs = GeneratorInputs(ws[None])
    image = generator.synthesis(inputs)[0]
    about = {
        "recipe": {"name": "given", "digest": "0"},
        "generator": {"name": generator.name, "fingerprint": generator.fingerprint},
        "seed": 0,
        "noise_mode": "const",
        "metrics": {},
    } | record
    return Inversion(name, image if target is None else target, image, inputs, "", [], about)


def at(*w):
    return Plane().broadcast(torch.tensor([w], dtype=torch.float32))[0]


def planar(spread, n=6):
    """n inversions at w of that spread, with the targets a little off."""
    w = spread * torch.randn(n, 4, generator=torch.Generator().manual_seed(3))
    plane = Plane()
    rows = zip(plane.broadcast(w), plane.synthesis(GeneratorInputs(plane.broadcast(w + 0.05))), strict=True)
    return [inversion(plane, f"im{i}", ws, target) for i, (ws, target) in enumerate(rows)]


def measured(results, parts, directions=DIRECTIONS, **options):
    options = {"judge": Channels(), "metrics": ["bundled"], "amounts": FEW} | options
    return evaluate(results, Plane(), directions=directions, parts=parts, **options)


# ---- known answers


def test_pose_is_set_and_read():
    """The coordinate is set to s deviations from w_avg: yaw reads tanh(0.5 s), wherever the embedding was."""
    found = measured([inversion(Plane(), "a", at(0.9, 0, 0, 0)), inversion(Plane(), "b", at(-0.2, 0, 0, 0))], ["pose"])
    assert found.curves["pose"]["mean"] == pytest.approx([math.tanh(s / 2) for s in (-2, -1, 0, 1, 2)], abs=1 / 127)
    assert found.images[0]["yaw@+2"] == pytest.approx(math.tanh(1), abs=1 / 127)
    assert found.measures["pose_range"].value == pytest.approx(2 * math.tanh(1), abs=1 / 60)
    assert found.measures["pose_range"].extractor == "channels"
    assert found.measures["pose_share"].value == pytest.approx(1, abs=0.02)


def test_embeddings_far_off_answer_less():
    """Where the other rows have driven the picture to its limit, the edit of one row cannot move it."""
    near, far = at(0, 0, 0, 0), at(0, 0, 0, 0).clone()
    far[1:, 0] = 9.0
    edit = {"yaw": Direction("yaw", "w", 0.5 * torch.eye(4)[0], Plane.fingerprint, layers=(0,))}
    shares = [
        measured([inversion(Plane(), "x", ws)], ["pose"], edit).measures["pose_share"].value for ws in (near, far)
    ]
    assert shares[0] > 1 > 0.1 > shares[1]


def test_edits_move_their_attribute_and_no_other():
    """At w = 0 with step 0.5: yaw reads +-tanh(0.5); the scale is the deviation of tanh(z) over the samples."""
    found = measured([inversion(Plane(), "a", at(0, 0, 0, 0))], ["attributes"])
    samples = torch.tanh(torch.randn(16, 4, generator=torch.Generator().manual_seed(77)))[:, 0]
    response = math.tanh(1) / 2 / samples.std().item()
    assert found.measures["response_yaw"].value == pytest.approx(response, rel=0.03)
    assert found.measures["drift_yaw"].value == pytest.approx(0, abs=1e-9)
    assert found.measures["entanglement_yaw"].value == pytest.approx(0, abs=1e-9)
    means = [found.measures[f"response_{name}"].value for name in DIRECTIONS]
    assert found.measures["edit_response"].value == pytest.approx(sum(means) / 3)
    assert found.images[0]["edit_response"] == pytest.approx(sum(means) / 3)
    assert found.curves["edits"]["yaw"]["others"]["smile"] == pytest.approx(0, abs=1e-9)


def test_entanglement_counts_what_else_moves():
    """An edit of yaw and smile alike has as much drift in one of two others: half its own movement, up to the scales."""
    both = {"yaw": Direction("yaw", "w", torch.tensor([0.5, 0.5, 0, 0]), Plane.fingerprint)}
    found = measured([inversion(Plane(), "a", at(0, 0, 0, 0))], ["attributes"], both)
    samples = torch.tanh(torch.randn(16, 4, generator=torch.Generator().manual_seed(77))).std(dim=0)
    assert found.measures["entanglement_yaw"].value == pytest.approx((samples[0] / samples[1] / 2).item(), rel=0.03)


@pytest.mark.parametrize(
    ("w", "flipped", "both", "at_two"),
    [
        (0.3, 1, 1, 1),  # wears one; 0.5 away is over the border
        (-0.3, 1, 1, 1),
        (0.7, 0, 0.5, 1),  # a step too short, two are enough
        (-1.4, 0, 0.5, 0),
    ],
)
def test_binary_edits_flip_the_class(w, flipped, both, at_two):
    found = measured([inversion(Plane(), "a", at(0, 0, w, 0))], ["attributes"])
    assert found.measures["flipped_hat"].value == flipped
    assert found.measures["accuracy_hat"].value == both
    assert found.curves["flips"]["hat"]["mean"][:2] == [flipped, at_two]


def test_perfect_reconstructions():
    results = [inversion(Plane(), f"im{i}", at(i / 3, -i / 5, 0.1, 0)) for i in range(5)]
    found = measured(results, ["reconstruction"]).measures
    assert (found["mse"].value, found["psnr"].value, found["bundled"].value) == (0, 100, 0)
    assert (found["reconstruction_frechet"].value, found["reconstruction_kernel"].value) == (0, 0)
    assert "identity" not in found  # these channels cannot tell persons apart
    assert found["reconstruction_frechet"].note == ""  # 5 images, 3 readings in place of features


def test_sets_drawn_far_from_the_targets_are_farther():
    near, far = (measured(planar(s), ["mixing", "interpolation"]) for s in (0.3, 0.3))
    assert near.measures == far.measures
    results = planar(0.3)
    moved = [inversion(Plane(), r.name, r.inputs.ws[0] + 2, r.target) for r in results]
    off = measured(moved, ["mixing", "interpolation"]).measures
    for name in ("mixing_frechet", "mixing_kernel", "interpolation_w+_frechet", "interpolation_w+_kernel"):
        assert off[name].value > near.measures[name].value
    assert off["mixing_recall"].value == 0


def test_interpolation_is_even_and_without_its_ends(monkeypatch):
    """Two pictures a partner: a third and two thirds of the way from the embedding, every sample in its turn."""
    seen = []

    def draw(generator, images, noise_mode):
        seen.append(torch.cat([inputs.ws for inputs in images]))
        return generator.synthesis(GeneratorInputs(seen[-1]))

    monkeypatch.setattr(mixtures, "draw_each", draw)
    results = planar(0.3, n=4)
    measured(results, ["interpolation"])
    samples = torch.randn(16, 4, generator=torch.Generator().manual_seed(77))
    for i, ws in enumerate(seen):
        start, ends = results[i].inputs.ws[0, 0], samples[2 * i : 2 * i + 2]
        ways = [start + t * (end - start) for end in ends for t in (1 / 3, 2 / 3)]
        torch.testing.assert_close(ws, Plane().broadcast(torch.stack(ways)))
    del seen[:]
    measured(results, ["mixing"])
    assert len(seen) == 4
    for i, ws in enumerate(seen):  # 2 of 5 rows are the first image's
        own = results[i].inputs.ws[0, 0].expand(2, -1)
        assert all(torch.equal(ws[:, row], own) == (row < 2) for row in range(5))


def test_lec_of_a_perfect_inverse_is_zero_and_of_a_known_miss_is_known():
    results = planar(0.3)

    def perfect(pictures, rows):
        w = torch.stack([results[i].inputs.ws[0, 0] for i in rows])
        w[:, :3] = torch.atanh(pictures[..., 0, 0])
        return Plane().broadcast(w)

    found = measured(results, ["lec"], invert=perfect)
    assert found.measures["lec"].value < 1e-4
    assert found.measures["lec"].n == FEW.lec
    assert [("lec" in image) for image in found.images] == [True, True, False, False, False, False]
    missed = measured(results, ["lec"], invert=lambda pictures, rows: perfect(pictures, rows) + torch.eye(4)[3])
    assert missed.measures["lec"].value == pytest.approx(5**0.5, rel=1e-3)
    assert missed.measures["lec"].extractor == "yaw +1"


# ---- on a real (tiny) generator


@pytest.fixture(scope="module")
def made(tiny_generator):
    """Four images inverted in two steps and tuned in two."""
    targets = torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(5)) * 2 - 1
    inverter = Inverter(tiny_generator, RECIPE, seed=1, corruption=8)
    return [event.inversion for event in inverter.invert(tensor_items(targets)) if hasattr(event, "inversion")]


@pytest.fixture(scope="module")
def everything(made, tiny_generator):
    vector = torch.randn(16, generator=torch.Generator().manual_seed(2))
    directions = {
        name: Direction(name, "w", sign * vector, tiny_generator.fingerprint)
        for name, sign in (("yaw", 1), ("glasses", -1))
    }
    return evaluate(
        made,
        tiny_generator,
        judge=load_judge("portraits"),
        directions=directions,
        metrics=["bundled"],
        amounts=FEW,
        pnorm=fit_pnorm(tiny_generator, 2000, batch=1000),
    )


def test_every_part_measures_a_tuned_run(everything, made):
    expected = {
        "psnr", "bundled", "identity", "reconstruction_swd", "radius", "outliers", "latent_variation", "pose_share",
        "response_glasses", "flipped_glasses", "edited_kernel", "path_length_end", "path_length_full_all",
        "interpolation_w+_frechet", "interpolation_p-norm+_frechet", "mixing_kernel", "lec", "lec_trimmed",
        "corruption_frechet",
    }  # fmt: skip
    assert expected <= set(everything.measures)
    assert everything.notes == []
    assert all(math.isfinite(measure.value) for measure in everything.measures.values())
    assert [image["name"] for image in everything.images] == ["0000", "0001", "0002", "0003"]
    assert everything.images[0]["psnr"] == pytest.approx(made[0].manifest["metrics"]["psnr"], rel=1e-5)
    assert everything.images[2]["corruption_frechet"] == made[2].manifest["metrics"]["frechet"]
    assert everything.measures["corruption_frechet"].note == "of 8 pictures an image"


def test_every_figure_of_a_network_says_which(everything):
    for measure in everything.measures.values():
        if measure.extractor and not measure.name.endswith("_swd") and not measure.name.startswith("lec"):
            assert any(len(word.strip(",")) == 16 for word in measure.extractor.split()), measure
        assert measure.n in (FEW.lec, 4)
    assert everything.measures["reconstruction_frechet"].extractor.endswith("resized to 64x64")
    assert "fewer images than features" in everything.measures["mixing_frechet"].note


def test_lec_runs_the_recipe_again_without_the_tuning(everything, made):
    """The second stage tunes weights and cannot move the latents."""
    assert len(latent_stages(RECIPE).stages) == 1
    assert everything.measures["lec"].value > 0
    with pytest.raises(UsageError, match="earlier result"):
        latent_stages(Recipe.from_table(RECIPE.table() | {"stages": [RECIPE.table()["stages"][1]]}))


def test_the_same_seed_gives_the_same_figures():
    parts = ["paths", "mixing", "interpolation"]
    first, second, other = (measured(planar(0.3), parts, seed=seed) for seed in (0, 0, 1))
    assert first == second
    for name in ("path_length_end", "mixing_frechet"):
        assert other.measures[name].value != first.measures[name].value


def test_files_come_back(everything, tmp_path):
    written = evaluation_files.save_evaluation(everything, tmp_path)
    assert [path.name for path in written] == ["evaluation.json", "evaluation.csv", "pnorm-histogram.png"]
    again = evaluation_files.load_evaluation(tmp_path)
    assert again.measures == everything.measures
    assert again.images == everything.images
    table = np.genfromtxt(tmp_path / "evaluation.csv", delimiter=",", names=True, dtype=None, encoding="utf-8")
    assert table["psnr"].tolist() == [image["psnr"] for image in everything.images]
    (tmp_path / "evaluation.json").write_text('{"format": "else"}')
    with pytest.raises(CheckpointError, match=r"evaluation\.json"):
        evaluation_files.load_evaluation(tmp_path)


def test_what_is_not_finite_becomes_null(tmp_path):
    odd = framework.Evaluation([{"name": "a\udcff", "x": math.nan}], {"x": Measure("x", math.nan, None, None, 1)})
    evaluation_files.save_evaluation(odd, tmp_path)
    assert json.loads((tmp_path / "evaluation.json").read_text())["measures"]["x"]["value"] is None
    assert (tmp_path / "evaluation.csv").read_text() == "name,x\na?,\n"


# ---- what cannot be done


def test_without_a_judge_or_directions_the_rest_is_measured():
    found = measured(planar(0.3), ["pose", "attributes", "lec", "interpolation", "latents"], {}, judge=None)
    assert "interpolation_w+_frechet" in found.measures
    told = " ".join(found.notes)
    assert all(word in told for word in ("--judge", "directions find", "fit-pnorm"))


def test_directions_that_no_attribute_is_named_after_are_no_error():
    found = measured(planar(0.3), ["pose", "attributes"], {"frown": DIRECTIONS["smile"]})
    assert not found.measures
    assert len(found.notes) == 2


def test_hyphens_in_the_names_of_directions():
    class Hair(Channels):
        attributes = ("hair_tone", "smile", "hat")

    found = measured(planar(0.3), ["attributes"], {"hair-tone": DIRECTIONS["yaw"]}, judge=Hair())
    assert found.measures["response_hair_tone"].value > 0.2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"parts": ["posee"]}, "did you mean 'pose'"),
        ({"metrics": ["lpip-vgg"]}, "did you mean 'lpips-vgg'"),
        ({"metrics": []}, "at least one"),
        ({"results": []}, "no results"),
        ({"judge": object()}, "attributes must be"),
    ],
)
def test_unusable_requests_are_refused(change, message):
    options = {"results": planar(0.3), "parts": ["pose"]} | change
    with pytest.raises(UsageError, match=message):
        measured(options.pop("results"), **options)


def test_results_of_another_generator_are_refused():
    other = planar(0.3)
    other[1].manifest["generator"]["fingerprint"] = "0" * 16
    with pytest.raises(CheckpointError, match="im1"):
        measured(other, ["latents"])


@pytest.mark.parametrize("field", ["samples", "paths", "steps", "partners", "lec", "corruption"])
def test_amounts_have_a_least(field):
    with pytest.raises(UsageError, match=field):
        Amounts(**{field: -1})


def test_the_parts_and_metrics_are_documented():
    text = (Path(__file__).parents[1] / "docs" / "evaluation.md").read_text()
    assert all(f"`{word}`" in text for word in (*PARTS, *METRICS))


# ---- judges


def test_the_bundled_judge_is_one():
    judge = load_attribute_judge("portraits")
    assert isinstance(judge, AttributeJudge)
    assert isinstance(judge, Judge)
    assert judge.binary_attributes == ("glasses",)


def test_a_judge_of_the_user_s_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "their_judge.py").write_text(
        "import torch\n"
        "class Mine:\n"
        "    attributes, binary_attributes = ('yaw',), ()\n"
        "    def read(self, image): return image.mean(dim=(1, 2, 3))[:, None]\n"
        "def make(): return Mine()\n"
        "def broken(): return 3\n"
        "def wide():\n    mine = Mine(); mine.read = lambda image: torch.zeros(len(image), 2); return mine\n"
    )
    judge = load_attribute_judge("their_judge:make")
    assert measured(planar(0.3), ["pose"], judge=judge).measures["pose_range"].value > 0
    with pytest.raises(UsageError, match="attributes must be"):
        load_attribute_judge("their_judge:broken")
    with pytest.raises(UsageError, match="no attribute 'missing'"):
        load_attribute_judge("their_judge:missing")
    with pytest.raises(UsageError, match="no_such_module"):
        load_attribute_judge("no_such_module:make")
    with pytest.raises(UsageError, match=r"\[5, 2\]"):
        measured(planar(0.3), ["pose"], judge=load_attribute_judge("their_judge:wide"))
