"""The evaluation as a whole, on generators and judges whose answers are known."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from latentopt.api import tune
from latentopt.editing.direction import Direction
from latentopt.errors import CheckpointError, UsageError
from latentopt.evaluation import evaluation_files, framework, mixtures
from latentopt.evaluation.corruption import change_by
from latentopt.evaluation.editing_consistency import latent_stages
from latentopt.evaluation.framework import METRICS, PARTS, evaluate
from latentopt.evaluation.measure import Measure
from latentopt.evaluation.subject import Amounts
from latentopt.inverting.inverter import Inverter
from latentopt.inverting.items import tensor_items
from latentopt.judge.network import Judge, load_judge
from latentopt.judge.protocol import AttributeJudge, check_judge, judge_name, load_attribute_judge
from latentopt.perceptual.network import weights_hash
from latentopt.recipe.recipe import Recipe
from latentopt.results.inversion import Inversion
from latentopt.statistics.pnorm_fit import fit_pnorm
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
    """w of 4 numbers; the picture's channels are tanh of three, averaged over rows: far off, edits do nothing."""

    name, source, card, fingerprint = "plane", "nowhere", {}, "f" * 16
    resolution, img_channels, num_ws, w_dim, z_dim, c_dim = (16, 16), 3, 5, 4, 4, 0
    device = torch.device("cpu")
    w_avg = torch.zeros(4)

    def mapping(self, z, c=None):
        return z

    def broadcast(self, w):
        return w[:, None].expand(-1, self.num_ws, -1)

    def synthesis(self, inputs, noise_mode="const", rng=None, beginning=None):
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
    """An edit of yaw and smile alike drifts as much in one of two others: half its own movement, up to the scales."""
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


class Partly(Channels):
    """A landmark function that finds nothing in pictures that are too red."""

    def read(self, image):
        return torch.where(image.mean(dim=(2, 3))[:, :1] > 0.7, torch.nan, super().read(image))


def test_pictures_in_which_nothing_is_found_do_not_count():
    """tanh(w + 0.5 s) is above 0.7 for the second image under every edit, for the first at w = 0 under yaw +2 alone."""
    results = [inversion(Plane(), name, at(w, 0, 0.3, 0)) for name, w in (("a", 0), ("b", 3), ("c", -0.3))]
    found = measured(results, ["attributes", "pose"], judge=Partly())
    assert [found.measures[f"{name}_hat"].n for name in ("response", "drift", "flipped", "accuracy")] == [2] * 4
    assert found.measures["flipped_hat"].value == found.measures["accuracy_hat"].value == 1
    assert found.measures["response_yaw"].n == 1
    assert found.measures["pose_range"].n == 0  # +2 is too red for all of them
    assert found.curves["pose"]["mean"][:4] == pytest.approx([math.tanh(s / 2) for s in (-2, -1, 0, 1)], abs=1 / 127)
    assert math.isnan(found.images[1]["edit_response"])
    whole = measured(results[::2], ["attributes"], judge=Channels()).measures
    scale = whole["response_hat"].value / found.measures["response_hat"].value
    assert 0.2 < scale < 5  # the samples' deviation is that of those that were read
    assert any("response_yaw" in note and "nothing to read" in note for note in found.notes)


def test_sets_go_without_what_was_not_found():
    results = [*planar(0.1, n=6), inversion(Plane(), "red", at(3, 0, 0, 0))]
    found, whole = (measured(some, ["reconstruction"], judge=Partly()) for some in (results, results[:6]))
    for name in ("reconstruction_frechet", "reconstruction_kernel", "reconstruction_precision"):
        assert found.measures[name].value == whole.measures[name].value
        assert (found.measures[name].n, whole.measures[name].note) == (6, "")
        assert "1 of 7 images could not be read" in found.measures[name].note
    assert found.measures["reconstruction_swd"].n == 7


def test_sets_of_few_images_are_left_out_and_said_so():
    parts = ["reconstruction", "attributes", "interpolation", "mixing"]
    found = measured(planar(0.3, n=3), parts)
    assert not any(name.endswith(("frechet", "swd")) for name in found.measures)
    assert sorted(note.split(":")[0] for note in found.notes) == sorted(parts)
    assert measured(planar(0.3, n=4), parts).notes == [
        "interpolation in p-norm+: left out, no P-norm statistics; run latentopt fit-pnorm --network nowhere"
    ]


def test_results_with_and_without_noise_maps_are_mixed(tiny_generator):
    """A folder may hold results of several recipes, which optimise different things."""
    ws = tiny_generator.broadcast(
        tiny_generator.mapping(torch.randn(5, 16, generator=torch.Generator().manual_seed(0)))
    )
    results = [inversion(tiny_generator, f"im{i}", row) for i, row in enumerate(ws)]
    name, (h, w) = next(iter(tiny_generator.noise_shapes.items()))
    for i in (1, 3):
        noisy = results[i].inputs.replace(noise={name: torch.ones(1, 1, h, w)})
        results[i] = replace(
            results[i], inputs=noisy, manifest=results[i].manifest | {"recipe": {"name": "sg2", "digest": "1"}}
        )
    found = evaluate(
        results,
        tiny_generator,
        parts=["mixing", "interpolation", "lec"],
        directions={"up": Up()},
        metrics=["bundled"],
        amounts=FEW,
    )
    assert found.measures["mixing_frechet"].n == 5
    assert "results of 2 recipes (given, sg2) are measured as one set" in found.notes
    assert "lec: left out, the results were made by several recipes; evaluate those of one" in found.notes


class Up:
    def edit(self, inputs, strength):
        return inputs.replace(ws=inputs.ws + strength)


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
    every = measured(results, ["lec"], invert=lambda *x: perfect(*x) + torch.rand(6, 1, 1), amounts=replace(FEW, lec=6))
    trimmed = every.measures["lec_trimmed"]
    assert trimmed.value == pytest.approx(every.measures["lec"].value)
    assert 0 <= trimmed.low < trimmed.value < trimmed.high


# ---- on a real (tiny) generator


@pytest.fixture(scope="module")
def made(tiny_generator):
    """Four images inverted in two steps and tuned in two."""
    targets = torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(5)) * 2 - 1
    inverter = Inverter(tiny_generator, RECIPE, seed=1, change=change_by(8))
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
    assert everything.images[2]["corruption_frechet"] != made[2].manifest["metrics"]["frechet"], "around the image"
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


def test_lec_of_results_that_were_tuned_in_a_run_of_their_own(made, tiny_generator, tmp_path):
    """Their record keeps the inversion that they started from: its recipe is run again, its folder is not needed."""
    inverting, tuning = RECIPE.split()
    targets = torch.stack([result.target for result in made])
    inverter = Inverter(tiny_generator, inverting, seed=1)
    first = [event.inversion for event in inverter.invert(tensor_items(targets)) if hasattr(event, "inversion")]
    later = tune(tiny_generator, first, tuning, seed=3, out=tmp_path / "tuned", corruption=0)
    assert all(torch.equal(a.inputs.ws, b.inputs.ws) for a, b in zip(made, later, strict=True))
    edit = Direction(
        "yaw", "w", torch.randn(16, generator=torch.Generator().manual_seed(2)), tiny_generator.fingerprint
    )
    common = {"parts": ["lec"], "directions": {"yaw": edit}, "metrics": ["bundled"], "amounts": FEW}
    found = evaluate(later, tiny_generator, **common)
    saved = evaluate([Inversion.load(tmp_path / "tuned" / r.name) for r in later], tiny_generator, **common)
    once = evaluate(made, tiny_generator, **common)
    assert found.notes == saved.notes == [] and found.measures["lec"].value > 0
    assert found.measures["lec"].value == pytest.approx(
        once.measures["lec"].value, rel=0.05
    )  # other seeds of the tuning
    assert saved.measures["lec"].value == pytest.approx(found.measures["lec"].value, rel=1e-4)


def test_lec_of_images_of_one_name_from_two_folders(made, tiny_generator, everything):
    """Each is inverted again from its own picture, by the seed of the name that it had."""
    lec = [image["lec"] for image in everything.images[:2]]
    same = [replace(inverted, name="x", manifest=inverted.manifest | {"name": "x"}) for inverted in made[:2]]
    edit = Direction(
        "yaw", "w", torch.randn(16, generator=torch.Generator().manual_seed(2)), tiny_generator.fingerprint
    )
    found = evaluate(same, tiny_generator, parts=["lec"], directions={"yaw": edit}, metrics=["bundled"], amounts=FEW)
    assert [image["lec"] for image in found.images] == pytest.approx(lec, rel=1e-6)


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


def test_a_name_is_no_formula_of_a_spreadsheet(tmp_path):
    odd = framework.Evaluation([{"name": "=1+1\x1b[31m", "x": -1.5}], {})
    evaluation_files.save_evaluation(odd, tmp_path)
    assert (tmp_path / "evaluation.csv").read_text() == "name,x\n'=1+1\\x1b[31m,-1.5\n"


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


def test_hyphens_in_the_names_of_attributes_and_of_the_pose():
    class Turned(Channels):
        attributes = ("head-yaw", "smile", "hat")

    known = {"frown": DIRECTIONS["smile"], "head_yaw": DIRECTIONS["yaw"]}
    results = planar(0.3)
    for pose in ("head-yaw", "head_yaw"):
        found = measured(results, ["pose", "attributes", "lec"], known, judge=Turned(), pose=pose,
                         invert=lambda images, rows: Plane().broadcast(torch.zeros(len(rows), 4)))  # fmt: skip
        assert {"pose_share", "response_head-yaw"} <= set(found.measures)
        assert found.measures["lec"].extractor == "head_yaw +1"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"parts": []}, "nothing to measure"),
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


def test_a_judge_may_answer_in_numpy_and_embed_at_any_length():
    class Plain(Channels):
        def read(self, image):
            return super().read(image).numpy()

        def features(self, image):
            return image.mean(dim=(2, 3)).tolist()

        def embed(self, image):
            return 7 * image.mean(dim=(2, 3)).numpy()

    class Torch(Channels):
        def features(self, image):
            return image.mean(dim=(2, 3))

        def embed(self, image):
            return torch.nn.functional.normalize(image.mean(dim=(2, 3)), dim=1)

    parts = ["reconstruction", "attributes", "pose"]
    ours, theirs = (measured(planar(0.3), parts, judge=judge).measures for judge in (Torch(), Plain()))
    assert ours.keys() == theirs.keys()
    assert {name: m.value for name, m in theirs.items()} == pytest.approx({name: m.value for name, m in ours.items()})
    assert -1 <= theirs["identity"].value <= 1


@pytest.mark.parametrize(
    ("method", "answer", "message"),
    [
        ("read", lambda image: torch.zeros(len(image)), r"read\(\) gave \[5\] for 5"),
        ("read", lambda image: None, r"read\(\) gave no array"),
        ("read", lambda image: torch.full((len(image), 3), 2.5), "hat from 2.5 to 2.5; binary"),
        ("features", lambda image: torch.zeros(len(image), 3, 1), r"features\(\) gave \[6, 3, 1\] for 6"),
        ("embed", lambda image: [["a"]] * len(image), r"embed\(\) gave no array"),
    ],
)
def test_judges_that_answer_something_else(method, answer, message):
    judge = Channels()
    setattr(judge, method, answer)
    with pytest.raises(UsageError, match=message):
        measured(planar(0.3), ["pose", "reconstruction"], judge=judge)


def test_the_networks_that_a_judge_holds_are_on_record():
    judge = Channels()
    judge.net = torch.nn.Linear(2, 2)
    assert judge_name(judge) == f"channels {weights_hash(judge.net)}"
    assert judge_name(load_judge("portraits")).startswith("judge ")


def test_a_judge_with_two_attributes_of_one_name_is_refused():
    judge = Channels()
    judge.attributes = ("hair-tone", "hair_tone", "hat")
    with pytest.raises(UsageError, match="two attributes of one name"):
        check_judge(judge)


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
