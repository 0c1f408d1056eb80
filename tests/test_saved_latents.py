"""Latents that commands have written: every command opens them again, and names the file where they do not fit."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import make_tiny_generator
from safetensors import safe_open
from safetensors.torch import save_file

from latentopt import api
from latentopt.checkpoints.networks import load_generator
from latentopt.editing.latents import find_sources, open_sources, read_latent
from latentopt.editing.mixing import interpolate, mix
from latentopt.editing.pictures import draw
from latentopt.errors import CheckpointError
from latentopt.pictures.images import read_png
from latentopt.recipe.recipe import Recipe
from latentopt.registry import PARAMETERIZATIONS
from latentopt.results.inversion import Inversion

NETWORK = ("--network", "net/tiny.safetensors")
TUNED = ("synthesis.b4.conv1.bias", "synthesis.b8.conv1.weight", "synthesis.b16.torgb.bias")


@pytest.fixture(scope="module")
def once(prepared, tmp_path_factory):
    """A folder with results of two pictures: tuned in tuned/, in style space in styled/."""
    folder = tmp_path_factory.mktemp("saved")
    shutil.copytree(prepared, folder, dirs_exist_ok=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        generator = load_generator("net/tiny.safetensors")
        recipe = Recipe.load("i2s").override(["stages.0.steps=1", 'stages.0.terms=[{name="l2"}]'])
        rng = torch.Generator().manual_seed(0)
        lens = PARAMETERIZATIONS.create("s", generator)
        for result in api.invert(generator, ["photos/a.png", "photos/b.png"], recipe, out="out"):
            plain = result.inputs.replace(ws=result.inputs.ws + torch.randn(1, 6, 16, generator=rng))
            deltas = {name: 0.3 * torch.randn(1, *generator.tunable[name], generator=rng) for name in TUNED}
            styles = {name: v + torch.randn(v.shape, generator=rng) for name, v in lens.encode(plain).items()}
            for kind, inputs in (("tuned", plain.replace(deltas=deltas)), ("styled", lens.decode(styles, plain))):
                image = generator.synthesis(inputs)[0].clamp(-1, 1)
                replace(result, inputs=inputs, image=image).save(folder / kind / result.name)
    return folder


@pytest.fixture
def results(once, tmp_path, monkeypatch):
    shutil.copytree(once, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def generator():
    return make_tiny_generator(channels=(8, 6, 4))


@pytest.mark.parametrize(
    ("made", "file", "expected"),
    [
        (("mix", "tuned", "--to", "made"), "made/a+b", lambda a, b, g: mix(a, b, None, g)),
        (("interpolate", "tuned", "--steps", "3", "--to", "made"), "made/a-to-b,-w+/001",
         lambda a, b, g: interpolate(a, b, 0.5)),
    ],
    ids=["mix", "interpolate"],
)  # fmt: skip
def test_what_is_made_of_tuned_results_is_opened_again(made, file, expected, results, latentopt):
    assert latentopt(*made)[0] == 0
    generator = load_generator("net/tiny.safetensors")
    first, second = (Inversion.load(results / "tuned" / name).inputs for name in "ab")
    drawn = draw(generator, expected(first, second, generator))
    plain = draw(generator, expected(first, second, generator).replace(deltas=None))
    assert (drawn - plain).abs().max() > 0.1
    path, name = f"{file}.safetensors", file.split("/")[-1]
    (results / "one").mkdir()
    shutil.copy(path, results / "one")
    shutil.copy("out/a/projected_w.npz", results / "one")
    start = ("--recipe", "i2s", "--steps", "1", "--lr", "1e-9", "--terms", "l2=1", "--no-preflight", "-q")
    for arguments, written in (
        (("edit", path, "--to", "to1"), f"to1/{name}/unedited.png"),
        (("edit", f"to1/{name}/unedited.safetensors", "--to", "to2"), "to2/unedited/unedited.png"),
        (("edit", "one", "--to", "to3"), f"to3/{name}/unedited.png"),
        (("sample", "--latents", path, "--outdir", "to4"), f"to4/{name}.png"),
        (("invert", "photos/c.png", "--init", f"file:{path}", *start, "--outdir", "to5"), "to5/c/proj.png"),
    ):
        code, _, err = latentopt(*arguments, *NETWORK)
        assert code == 0, err
        torch.testing.assert_close(read_png(results / written), drawn, rtol=0, atol=0.03)
        assert "left out" not in err


def test_latents_keep_their_own_weights_where_others_lie_beside(results, latentopt):
    assert latentopt("mix", "tuned", "--to", "made")[0] == 0
    shutil.copy("made/a+b.safetensors", "tuned/a")
    assert latentopt("edit", "tuned/a/a+b.safetensors", "--to", "to", *NETWORK)[0] == 0
    assert latentopt("edit", "to/a+b/unedited.safetensors", "--to", "again", *NETWORK)[0] == 0
    mixed = read_png(results / "made" / "a+b.png")
    assert torch.equal(read_png(results / "to" / "a+b" / "unedited.png"), mixed)
    assert torch.equal(read_png(results / "again" / "unedited" / "unedited.png"), mixed)


def test_other_tools_tensors_among_weights_are_still_a_model(tmp_path, generator):
    save_file({"ws": torch.zeros(1, 6, 16), "mapping.fc0.weight": torch.zeros(2, 2)}, tmp_path / "m.safetensors")
    with pytest.raises(CheckpointError, match=r"m\.safetensors: .*not latents"):
        open_sources(find_sources(tmp_path / "m.safetensors"), generator)


# ---- what does not fit

CHANGES: dict[str, tuple[str, Callable, str]] = {  # the tensor, what becomes of it, and what is said
    "a style of another width": ("styles/+b16.conv1", lambda x: torch.zeros(1, 3), r"styles of b16.conv1 are \[3\]"),
    "a style of other filters": ("styles/+b16.conv1", lambda x: torch.zeros(1, 9, 4), r"styles of b16.conv1 are"),
    "a style of toRGB a filter": ("styles/+b16.torgb", lambda x: torch.zeros(1, 3, 4), r"styles of b16.torgb are"),
    "whole numbers": ("styles/+b16.conv1", lambda x: x.long(), "styles/.* not finite numbers"),
    "one dimension": ("styles/+b16.conv1", lambda x: x[0], r"styles/\+b16.conv1 is \[4\], not one for each image"),
    "a batch of three": ("styles/+b16.conv1", lambda x: x.repeat(3, 1), r"styles/.* is \[3, 4\], not one for each"),
    "not a number": ("styles/+b16.conv1", lambda x: x * float("nan"), "styles/.* not finite numbers"),
    "infinite": ("styles/+b16.conv1", lambda x: x + float("inf"), "styles/.* not finite numbers"),
    "infinite in float32": ("styles/+b16.conv1", lambda x: x.double() + 1e300, "styles/.* not finite numbers"),
    "a layer that is not there": ("styles/+b99.conv1", lambda x: torch.zeros(1, 4), "'b99.conv1', which 'tiny' does"),
    "a residual": ("residuals/b16", lambda x: torch.zeros(1, 3, 3, 3), "residuals of b16 are"),
    "a residual's place": ("residuals/b64", lambda x: torch.zeros(1, 3, 3, 3), "'b64', which 'tiny' does not have"),
    "noise": ("noise/b4.conv1", lambda x: torch.zeros(1, 1, 3, 3), r"noise of b4.conv1 are \[1, 3, 3\]"),
    "noise of another layer": ("noise/b64.conv1", lambda x: torch.zeros(1, 1, 4, 4), "'b64.conv1', which 'tiny' does"),
    "weights": ("deltas/synthesis.b8.conv1.bias", lambda x: torch.zeros(1, 99), "conv1.bias has shape"),
    "weights of another": ("deltas/synthesis.b64.conv1.bias", lambda x: torch.zeros(1, 9), "no tunable weight"),
    "a move": ("transform", lambda x: torch.eye(3)[None], "a move of the picture, which 'tiny' does not draw"),
}  # fmt: skip


def spoil(path, name, change) -> None:
    with safe_open(path, "pt") as file:
        tensors, metadata = {key: file.get_tensor(key) for key in file.keys()}, file.metadata()  # noqa: SIM118
    tensors[name] = change(tensors.get(name)).contiguous()
    save_file(tensors, path, metadata)


@pytest.mark.parametrize("kind", CHANGES)
@pytest.mark.parametrize("place", ["file", "folder"])
def test_saved_inputs_that_do_not_fit_are_refused_by_name(kind, place, once, tmp_path, generator):
    name, change, words = CHANGES[kind]
    shutil.copytree(once / "styled" / "a", tmp_path / "a")
    path = tmp_path / "a" / "inputs.safetensors"
    spoil(path, name, change)
    with pytest.raises(CheckpointError, match=words) as caught:
        (source,) = open_sources(find_sources(path if place == "file" else path.parent), generator)
        read_latent(source, generator)
    assert str(caught.value).startswith(f"{path}: ") and "\n" not in str(caught.value)


def test_tuned_weights_that_do_not_fit_are_refused_by_name(once, tmp_path, generator):
    result = Inversion.load(once / "tuned" / "a")
    inputs = result.inputs.replace(deltas={TUNED[0]: torch.zeros(1, 99)})
    replace(result, inputs=inputs).save(tmp_path / "a")
    with pytest.raises(CheckpointError, match=r"a/delta\.safetensors: .*bias has shape \(99,\)"):
        read_latent(find_sources(tmp_path / "a")[0], generator)


@pytest.mark.parametrize(
    "command",
    [
        ("edit", "styled/a", "--do", "s:b8.conv1:3=2"),
        ("edit", "styled/a/inputs.safetensors", "--do", "s:b8.conv1:3=2"),
        ("mix", "styled"),
        ("mix", "styled/b", "styled/a/inputs.safetensors"),
        ("interpolate", "styled"),
        ("interpolate", "styled/b", "styled/a/inputs.safetensors", "--steps", "3"),
        ("sample", "--latents", "styled/a"),
        ("drag", "styled/a", "--point", "4,5:6,5", "--steps", "1"),
    ],
    ids=" ".join,
)
def test_every_command_refuses_them_in_one_line(command, results, latentopt):
    spoil("styled/a/inputs.safetensors", "styles/+b8.conv1", lambda x: torch.zeros(1, 5))
    code, _, err = latentopt(*command, *NETWORK)
    assert code == 1 and "styled/a/inputs.safetensors: styles of b8.conv1 are [5]" in err
    assert "Traceback" not in err and len(err.strip().splitlines()) == 1


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16])
@pytest.mark.parametrize("place", ["styled/a", "styled/a/inputs.safetensors"])
def test_every_float_draws(dtype, place, results, latentopt):
    before = draw(load_generator("net/tiny.safetensors"), Inversion.load(results / "styled" / "a").inputs)
    for name in ("ws", "styles/+b8.conv1"):
        spoil("styled/a/inputs.safetensors", name, lambda x: x.to(dtype))
    code, _, err = latentopt("edit", place, "--to", "to", *NETWORK)
    assert code == 0, err
    torch.testing.assert_close(read_png(next(results.glob("to/*/unedited.png"))), before, rtol=0, atol=0.03)


def test_fields_of_ours_that_are_no_numbers(tmp_path, generator):
    path = tmp_path / "x.npz"
    np.savez(path, **{"ws": np.zeros((1, 6, 16), np.float32), "noise/b4.conv1": np.array(["a", "b"])})
    with pytest.raises(CheckpointError, match=r"x\.npz: noise/b4\.conv1 holds values that are not finite numbers"):
        open_sources(find_sources(path), generator)
