"""Latents of other tools in every command that takes latents."""

from __future__ import annotations

import numpy as np
import pytest
import torch

NETWORK = ("--network", "net/tiny.safetensors")


@pytest.fixture
def foreign(folder):
    rng = torch.Generator().manual_seed(0)
    torch.save(torch.randn(3, 6, 16, generator=rng), folder / "latents.pt")
    torch.save({"a.png": {"latent": torch.randn(6, 16, generator=rng), "noise": []}}, folder / "projector.pt")
    return folder


@pytest.mark.parametrize(
    ("arguments", "written"),
    [
        (
            ("edit", "latents.pt", "--to", "to"),
            ["to/latents-0/unedited.png", "to/latents-2/unedited.safetensors", "to/unedited.png"],
        ),
        (("edit", "projector.pt", "--to", "to"), ["to/a/unedited.png"]),
        (("mix", "latents.pt", "projector.pt", "--to", "to"), ["to/latents-0+a.png", "to/mixed.png"]),
        (("interpolate", "latents.pt", "--pictures", "3", "--to", "to"), ["to/interpolated-w+.png"]),
        (("sample", "--latents", "latents.pt", "--outdir", "to"), ["to/latents-1.png", "to/grid.png"]),
        (("sample", "--projected-w", "projector.pt", "--outdir", "to"), ["to/a.png"]),
        (
            ("invert", "photos/a.png", "--init", "file:projector.pt", "--recipe", "i2s", "--steps", "1",
             "--terms", "l2=1", "--no-preflight", "-q", "--outdir", "to"),
            ["to/a/run.json"],
        ),
    ],
)  # fmt: skip
def test_latents_of_other_tools(foreign, latentopt, arguments, written):
    code, _, err = latentopt(*arguments, *NETWORK)
    assert code == 0, err
    assert all((foreign / path).is_file() for path in written)


@pytest.mark.parametrize("command", [("edit",), ("mix",), ("interpolate",), ("sample", "--latents")])
@pytest.mark.parametrize(
    ("file", "code", "words"),
    [
        ("photos/a.png", 1, "a picture (PNG), not latents; run latentopt invert first"),
        ("net/tiny.safetensors", 1, "a generator of latentopt, not latents"),
        ("pnorm_stats/tiny.safetensors", 1, "P-norm statistics, not latents"),
        ("pickled.npy", 4, "save the arrays again"),
        ("photos", 1, "run latentopt invert first"),
    ],
)
def test_what_are_no_latents(foreign, latentopt, command, file, code, words):
    np.save(foreign / "pickled.npy", {"a": np.zeros((6, 16))}, allow_pickle=True)
    found, _, err = latentopt(*command, file, *NETWORK)
    assert (found, words in err) == (code, True), err


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (("evaluate", "latents.pt"), "latents.pt"),
        (("tune", "latents.pt", "--terms", "l2=1"), "latents.pt: a torch file, not a picture"),
        (("invert", "latents.pt", "--terms", "l2=1", "--no-preflight"), "latents.pt: a torch file, not a picture"),
    ],
)
def test_commands_that_need_the_pictures_say_so(foreign, latentopt, command, words):
    """Latents alone are nothing to compare with or to tune to."""
    code, _, err = latentopt(*command, *NETWORK)
    assert code == 1 and words in err, err
