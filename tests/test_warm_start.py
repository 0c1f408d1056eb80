"""Readings carried to a distribution; the warm start, a regression of pictures on redrawn portraits; its trials."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from conftest import make_tiny_generator
from test_command_train import assert_same

from latentopt.checkpoints.networks import load_stylegan2
from latentopt.data.portraits import NAMES, TEST_SEEDS, TRAIN_SEEDS, portraits, sample_attributes
from latentopt.errors import CheckpointError
from latentopt.evaluation.distribution import ks_statistics
from latentopt.perceptual.network import PerceptualNet, load_perceptual_net
from latentopt.training.regression import Regression, RegressionTrainer
from latentopt.training.starts import check_pair, load_start
from latentopt.training.transport import Transport, gaussian_transport

SETTINGS = Regression(images=16, batch=4, precision="float32", fitted=32)


ROOT = Path(__file__).parent.parent


def script(path: str) -> ModuleType:
    """A program that lies beside the package."""
    spec = importlib.util.spec_from_file_location(Path(path).stem, ROOT / path)
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def net() -> PerceptualNet:
    return load_perceptual_net("portraits")


@pytest.fixture(scope="module")
def real() -> torch.Tensor:
    return portraits(TRAIN_SEEDS[:64], 64)[0]


def test_transport_reaches_the_goal():
    rng = np.random.default_rng(0)
    start, goal = (np.cov(rng.standard_normal((5, 40))) for _ in range(2))
    map_ = gaussian_transport(start, goal)
    np.testing.assert_allclose(map_, map_.T, atol=1e-9)
    np.testing.assert_allclose(map_ @ start @ map_, goal, atol=1e-9)
    np.testing.assert_allclose(gaussian_transport(goal, goal), np.eye(5), atol=1e-6)


def test_squeezed_and_correlated_readings_get_the_distribution_of_the_goal():
    """Others than those it was fitted on, too; and who smiled more still does."""
    start, goal, true = (sample_attributes(TEST_SEEDS[i * 3000 : (i + 1) * 3000]) for i in range(3))
    rng = torch.manual_seed(0)
    squeezed = [0.4 * x + 0.1 * x.roll(1, dims=1) + 0.05 * torch.randn(x.shape, generator=rng) for x in (start, true)]
    moved = Transport(squeezed[0], goal)(squeezed[1])
    assert max(ks_statistics(true, moved, NAMES).values()) < 0.06
    kept = [i for i, name in enumerate(NAMES) if name != "glasses"]
    assert np.abs(np.corrcoef(moved.T[kept]) - np.corrcoef(true.T[kept])).max() < 0.1
    smile = NAMES.index("smile")
    assert np.corrcoef(moved[:, smile], squeezed[1][:, smile])[0, 1] > 0.9


def test_readings_of_portraits_are_redrawn_as_those_portraits(net, real):
    """Where nothing is to be spread, a picture's target is nearly the picture."""
    trainer = RegressionTrainer(load_stylegan2("portraits"), net, real, SETTINGS)
    with torch.no_grad():
        readings = net(real)[0][:, : len(NAMES)]
    trainer.transport = Transport(readings, readings)
    drawn = trainer.redrawn(readings)
    assert (drawn - real).abs().mean() < 0.06 < (drawn - real.roll(1, dims=0)).abs().mean()


def test_a_warm_start_goes_on_to_the_bit(net, real, tmp_path):
    start = load_stylegan2("portraits")
    trainer, records = RegressionTrainer(start, net, real, SETTINGS), []
    for record in trainer.train():
        records.append(record)
        if record.step == 2:
            trainer.save(tmp_path / "snapshot.pt")
    assert trainer.step == len(records) == trainer.steps == 4
    assert all(np.isfinite([r.l1, r.distance, r.reading]).all() for r in records)
    resumed = RegressionTrainer(start, net, real, SETTINGS)
    resumed.load(tmp_path / "snapshot.pt")
    assert [record.l1 for record in resumed.train()] == [record.l1 for record in records[2:]]
    assert_same(resumed.generator.state_dict(), trainer.generator.state_dict())
    assert resumed.averaged().fingerprint not in (start.fingerprint, trainer.generator.fingerprint)
    with pytest.raises(CheckpointError, match="other settings"):
        RegressionTrainer(start, net, real, Regression(batch=8, fitted=32)).load(tmp_path / "snapshot.pt")
    with pytest.raises(CheckpointError, match="base"):
        RegressionTrainer(load_stylegan2("portraits-wrangan"), net, real, SETTINGS).load(tmp_path / "snapshot.pt")


def test_another_resolution_is_no_obstacle(net):
    """A tiny generator of 32 pixels, none of whose pictures is a portrait."""
    trainer = RegressionTrainer(make_tiny_generator(), net, portraits(TRAIN_SEEDS[:64], 32)[0], SETTINGS)
    assert np.isfinite(next(trainer.train()).l1)


def test_its_script_leaves_a_pair_to_train_on(tmp_path, monkeypatch):
    """In two parts, as in one; `latentopt train generator --start FOLDER` takes what it leaves."""
    module, settings = script("scripts/warm_start.py"), ["--fitted", "32", "--drawn", "32"]
    monkeypatch.setattr(module, "LOGGED_EVERY", 1)
    for images in (32, 64):
        folders = ["--outdir", str(tmp_path / "warm"), "--cache", str(tmp_path / "data")]
        result = CliRunner().invoke(module.main, [*settings, *folders, "--images", str(images)])
        assert result.exit_code == 0, result.output
    assert len((tmp_path / "warm" / "log.jsonl").read_text().splitlines()) == 2
    generator, discriminator = load_start(str(tmp_path / "warm"))
    assert generator.card["images_seen"] == 64
    assert check_pair("warm", generator, discriminator) == 64


def test_trials_are_judged_side_by_side(tmp_path, monkeypatch):
    """A line for each folder, kept for later calls; a sheet of samples."""
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    module, folder = script("benchmarks/generator_trials.py"), ROOT / "latentopt" / "bundled" / "portraits"
    arguments = ["--n", "64", "--cache", str(tmp_path)]
    result = CliRunner().invoke(module.main, [f"shipped={folder}", *arguments])
    assert result.exit_code == 0, result.output
    (line,) = result.output.splitlines()[2:]
    cells = dict(zip(module.COLUMNS, line.strip("| ").split(" | "), strict=True))
    assert (cells["trial"], cells["images"], cells["noise rms"]) == ("shipped", "234448", "0")
    assert 1 >= float(cells["precision"]) > float(cells["recall"]) > 0
    assert (tmp_path / "shipped-234448.png").exists()
    assert CliRunner().invoke(module.main, arguments).output == result.output


def test_the_rate_of_a_trial_is_the_median_of_its_log(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    log, rate = tmp_path / "log.jsonl", script("benchmarks/generator_trials.py").images_a_second
    assert np.isnan(rate(log, 16))
    log.write_text("".join(f'{{"seconds": {seconds}}}\n' for seconds in (0.5, 2.0, 0.25)))
    assert rate(log, 16) == 32


def test_noise_without_strength_has_no_effect(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    module, generator = script("benchmarks/generator_trials.py"), make_tiny_generator()
    for strength, moved in ((0.0, False), (0.5, True)):
        for layer in generator.synthesis.layers.values():
            layer.noise_strength.fill_(strength)
        assert (module.noise_effect(generator, n=4) > 0) == moved
