"""Shared fixtures: a tiny StyleGAN2 and its inputs. They are made once a session: copy one before changing it."""

from __future__ import annotations

import copy
import csv
import os
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from latentopt.checkpoints.networks import save_generator
from latentopt.commands import main
from latentopt.encoders.config import EncoderConfig
from latentopt.encoders.encoder import Encoder, EncoderNet
from latentopt.generators.stylegan2 import StyleGAN2, StyleGAN2Config
from latentopt.generators.stylegan3 import StyleGAN3, StyleGAN3Config
from latentopt.loop.state import State
from latentopt.pictures.images import save_png
from latentopt.preflight.preflight import SUFFIX, Preflight
from latentopt.statistics.pnorm_fit import fit_pnorm
from latentopt.types import GeneratorInputs
from latentopt.watching import phases

REFERENCE = Path(__file__).parent / "reference"

if "PYTEST_XDIST_WORKER" in os.environ:  # a process a core: threads of one would wait for those of the others
    os.environ["OMP_NUM_THREADS"] = "1"
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def nobody_listens():
    """A command that an earlier test gave up half-way may still listen to phases: no test hears it."""
    phases._listeners.set(())


def make_tiny_generator(seed: int = 0, **changes) -> StyleGAN2:
    """A seeded StyleGAN2, 32x32 with 8 rows of w [16] unless `changes` to its configuration say otherwise.

    No weight is trivial: biases, noise strengths and w_avg are drawn too, so that a forgotten one shows.
    """
    settings = {"z_dim": 16, "w_dim": 16, "channels": (12, 10, 8, 6), "mapping_layers": 3} | changes
    config = StyleGAN2Config(**settings)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        generator = StyleGAN2(config, name="tiny").eval().requires_grad_(False)
        for name, tensor in generator.state_dict().items():
            if name.startswith("mapping.fc") and name.endswith("bias"):
                tensor.copy_(torch.randn_like(tensor) * 0.3 / config.lr_multiplier)
            elif name.endswith(("noise_strength", "bias")):
                tensor.add_(torch.randn_like(tensor) * 0.2)
        c = torch.randn(512, config.c_dim) if config.c_dim else None
        generator.w_avg.copy_(generator.mapping(torch.randn(512, config.z_dim), c).mean(dim=0))
    return generator


def make_tiny_stylegan3(seed: int = 0, **changes) -> StyleGAN3:
    """A seeded StyleGAN3-T, 16x16 with 6 rows of w [16] unless `changes` to its configuration say otherwise.

    No weight is trivial. Biases and the mean squares of activations are set from the data, layer by layer, as a trained
    network has them: plain random weights draw nearly flat images.
    """
    settings = {"z_dim": 16, "w_dim": 16, "img_resolution": 16, "channels": (8, 7, 6, 5)} | changes
    config = StyleGAN3Config(**settings)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        generator = StyleGAN3(config, name="tiny").eval().requires_grad_(False)
        for name, tensor in generator.state_dict().items():
            if name.startswith("mapping.fc") and name.endswith("bias"):
                tensor.copy_(torch.randn_like(tensor) * 0.3 / config.lr_multiplier)
            elif "input.affine" in name:
                tensor.add_(torch.randn_like(tensor) * 0.1)
            elif name.endswith("affine.bias"):
                tensor.add_(torch.randn_like(tensor) * 0.2)
        c = torch.randn(64, config.c_dim) if config.c_dim else None
        w = generator.mapping(torch.randn(64, config.z_dim), c)
    generator.w_avg.copy_(w.mean(dim=0))
    inputs, before = GeneratorInputs(generator.broadcast(w[:16])), "input"
    for name, layer in generator.synthesis.layers.items():
        layer.magnitude_ema.copy_(generator.features(inputs, [before])[1][before].square().mean())
        drawn = generator.features(inputs, [name])[1][name]
        layer.bias.sub_(drawn.mean(dim=(0, 2, 3)))
        before = name
    return generator


def make_encoder(generator: StyleGAN2, kind: str, seed: int = 0, **changes) -> Encoder:
    """An untrained encoder of narrow layers, whose codes differ clearly between pictures."""
    settings = {"widths": (8, 8, 8, 8), "head_width": None} | changes
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = EncoderNet(EncoderConfig.for_generator(generator, kind, **settings)).eval().requires_grad_(False)
        for name, weight in net.named_parameters():
            if name.endswith("conv2.weight") or ".convs." in name:
                weight.mul_(2)
    average = generator.w_avg.expand(generator.num_ws, -1).clone()
    return Encoder(net, average, generator.fingerprint, kind)


@pytest.fixture(scope="session")
def tiny_generator() -> StyleGAN2:
    """32x32, 8 rows of w [16]; shared by the session, so do not change it."""
    return make_tiny_generator()


@pytest.fixture
def tiny_generator_copy(tiny_generator) -> StyleGAN2:
    """A copy of `tiny_generator` that a test may change."""
    return copy.deepcopy(tiny_generator)


@pytest.fixture(scope="session")
def tiny_inputs(tiny_generator) -> GeneratorInputs:
    """Three images' inputs with every row of ws different: [3,8,16]."""
    rng = torch.Generator().manual_seed(1)
    z = torch.randn(3 * tiny_generator.num_ws, tiny_generator.z_dim, generator=rng)
    return GeneratorInputs(tiny_generator.mapping(z).unflatten(0, (3, -1)))


# ---- the command line on a tiny generator and three small photos


@pytest.fixture(scope="session")
def prepared(tmp_path_factory) -> Path:
    """A folder with net/tiny.safetensors (16x16 pixels), its statistics, and three small photos."""
    folder = tmp_path_factory.mktemp("prepared")
    generator = make_tiny_generator(channels=(8, 6, 4))
    save_generator(generator, folder / "net" / "tiny.safetensors")
    fit_pnorm(generator, 2000, batch=1000).save(folder / "pnorm_stats" / "tiny.safetensors")
    Preflight.of(generator).save(folder / "pnorm_stats" / f"tiny{SUFFIX}")
    for i, name in enumerate("abc"):
        photo(folder / "photos" / f"{name}.png", i)
    return folder


def photo(path: Path, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    blocks = torch.rand(3, 4, 4, generator=torch.Generator().manual_seed(seed)) * 2 - 1
    save_png(path, blocks.repeat_interleave(5, 1).repeat_interleave(5, 2))


@pytest.fixture
def folder(tmp_path, monkeypatch, prepared) -> Path:
    shutil.copytree(prepared, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def latentopt(monkeypatch, capsys):
    """Batch the command line as `main` does: (exit code, stdout, stderr)."""

    def call(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["latentopt", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main()
        out, err = capsys.readouterr()
        return ended.value.code or 0, out, err

    return call


def rows(folder: Path) -> dict[str, dict]:
    with (folder / "summary.csv").open(newline="") as stream:
        return {row["name"]: row for row in csv.DictReader(stream)}


def w(folder: Path) -> np.ndarray:
    with np.load(folder / "projected_w.npz") as arrays:
        return arrays["w"]


def finished(folder: Path) -> dict[str, int]:
    """The images that count as done, with the time of their record."""
    return {p.parent.name: p.stat().st_mtime_ns for p in folder.rglob("run.json")}


def interrupt(monkeypatch, after: int, *numbers: int) -> None:
    """Send this process signals once `after` measurements were made."""
    plain, count = State.note, [0]

    def note(self, *measured):
        plain(self, *measured)
        count[0] += 1
        if count[0] == after:
            for number in numbers:
                os.kill(os.getpid(), number)

    monkeypatch.setattr(State, "note", note)
