"""The warm start: a portrait for every latent, a mapping that begins there, regression; its scripts and trials."""

from __future__ import annotations

import importlib.util
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from conftest import make_tiny_generator, make_tiny_stylegan3
from test_command_train import assert_same

from latentopt.checkpoints.networks import load_generator, load_stylegan2
from latentopt.data.portraits import (
    CORRELATIONS,
    MIRRORED,
    NAMES,
    TEST_SEEDS,
    attributes_of,
    flip,
    independent_normals,
    portraits,
    render,
    sample_attributes,
)  # fmt: skip
from latentopt.errors import CheckpointError, UsageError
from latentopt.evaluation.distribution import ks_statistics
from latentopt.generators.layers import MappingNetwork
from latentopt.generators.stylegan2 import StyleGAN2
from latentopt.generators.stylegan3 import StyleGAN3, StyleGAN3Config
from latentopt.perceptual.network import PerceptualNet, load_perceptual_net
from latentopt.training import mapping_fit
from latentopt.training.mapping_fit import LinearW, fit_mapping, known_w, random_w, read_w
from latentopt.training.mixing import first_styles
from latentopt.training.portrait_latents import PortraitLatents, portrait_latents
from latentopt.training.regression import Regression, RegressionTrainer
from latentopt.training.starts import check_pair, load_start
from latentopt.training.streams import DrawnStream, LabelledStream, stream_with_normals

SETTINGS = Regression(images=16, batch=4, precision="float32", fitted=64, mapping_steps=2)


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
def stream(tmp_path_factory) -> LabelledStream:
    return stream_with_normals(tmp_path_factory.mktemp("data"), 16, 64)


def tiny() -> StyleGAN2:
    return make_tiny_generator(z_dim=32)


def test_portraits_of_random_z_are_those_of_the_domain():
    latents = PortraitLatents(128, 10)
    torch.manual_seed(0)
    drawn = attributes_of(latents.parts(torch.randn(4000, 128))[0])
    assert max(ks_statistics(sample_attributes(TEST_SEEDS[:4000]), drawn, NAMES).values()) < 0.05
    first, second = (drawn[:, [NAMES.index(pair[i]) for pair in CORRELATIONS]] for i in range(2))
    for x, y, wanted in zip(first.T, second.T, CORRELATIONS.values(), strict=True):
        assert abs(np.corrcoef(x, y)[0, 1] - wanted) < 0.15


@pytest.mark.parametrize("num_ws", [10, 4])
def test_each_attribute_follows_the_style_of_its_layer(num_ws):
    """Of the two z of a portrait, the one that drives an attribute's layer holds its variable."""
    latents, normals = PortraitLatents(64, num_ws), torch.randn(32, len(NAMES), generator=torch.manual_seed(0))
    first = first_styles(32, num_ws, 1.0)
    z = latents.of(normals, first)
    torch.testing.assert_close(z.square().sum(dim=2), torch.full((2, 32), 64.0))
    held = torch.stack([latents.parts(part)[0] for part in z])  # [2,B,A]
    own = first[:, latents.rows]
    torch.testing.assert_close(torch.where(own, held[0], held[1]), normals)
    assert (torch.where(own, held[1], held[0]) - normals).abs().mean() > 0.5
    for one, other in CORRELATIONS:
        assert latents.rows[NAMES.index(one)] == latents.rows[NAMES.index(other)]


def test_z_needs_more_dimensions_than_there_are_attributes():
    with pytest.raises(UsageError, match="z has 24 dimensions"):
        PortraitLatents(24, 10)


def test_kept_and_new_portraits_have_the_variables_behind_them(stream, tmp_path):
    """Mirrored ones, too."""
    for portraits_, tolerance in ((stream, 2 / 255), (DrawnStream(64), 1e-6)):
        images, normals = portraits_.labelled_batch(3, 8)
        torch.testing.assert_close(render(attributes_of(normals), 64), images, rtol=0, atol=tolerance)
        again = portraits_.labelled_batch(3, 8)
        assert torch.equal(images, again[0]) and torch.equal(normals, again[1])
        assert not torch.equal(images, portraits_.batch(4, 8))
    assert isinstance(stream_with_normals(tmp_path, 0, 64), DrawnStream)
    normals = independent_normals(TEST_SEEDS[:4])
    sign = torch.tensor([-1.0 if name in MIRRORED else 1.0 for name in NAMES])
    mirrored = flip(*portraits(TEST_SEEDS[:4], 16))[1]
    torch.testing.assert_close(attributes_of(normals * sign), mirrored, rtol=0, atol=1e-6)


def test_what_attributes_are_in_w():
    """A generator whose w are its pictures, and a net that reads a plane of them: that plane is found, and no direction
    of it is weak; what is left over is at right angles to it.
    """
    a, rng = len(NAMES), torch.manual_seed(0)
    basis = torch.linalg.qr(torch.randn(40, 40, generator=rng))[0]
    strengths = torch.linspace(0.3, 3.0, a)  # of the attributes in w
    generator = SimpleNamespace(
        z_dim=40, device="cpu", broadcast=lambda w: w[:, None], synthesis=lambda inputs, noise: inputs.ws[:, 0],
        mapping=lambda z: torch.cat([z[:, :a] * strengths, 0.01 * z[:, a:]], dim=1) @ basis.T / 10,
    )  # fmt: skip
    reader = SimpleNamespace(
        read=lambda image: 10 * image @ basis[:, :a] / strengths, mean=torch.zeros(a), std=torch.ones(a)
    )
    found = read_w(generator, reader, 2000)
    map_ = found.of_attributes[:-1]
    least = torch.linalg.svdvals(map_)
    torch.testing.assert_close(least, torch.full_like(least, mapping_fit.STRENGTH), rtol=1e-3, atol=0)
    assert (map_ @ basis[:, a:]).abs().max() < 0.05 > found.of_attributes[-1].abs().max()
    assert found.of_free.shape == (40 - a, 40) and (found.of_free @ map_.T).abs().max() < 1e-4 < found.of_free.norm()


def test_a_mapping_learns_where_portraits_are(net):
    """And where one has learnt it exactly, that is found in it again."""
    mapping, latents = MappingNetwork(32, 0, 64, 3), PortraitLatents(32, 8)
    torch.manual_seed(0)
    of_attributes = torch.cat([0.3 * torch.randn(len(NAMES), 64), torch.zeros(1, 64)])
    goal = LinearW(of_attributes, 0.1 * torch.randn(32 - len(NAMES), 64))
    losses = fit_mapping(mapping, goal, net, latents, 150)
    assert losses[-1] < 0.3 * losses[0]

    def exact(z: torch.Tensor) -> torch.Tensor:
        normals, free = latents.parts(z)
        return goal((attributes_of(normals) - net.mean) / net.std, free)

    found = known_w(SimpleNamespace(z_dim=32, device="cpu", mapping=exact), net, latents, 500)
    for kept, wanted in zip(found, goal, strict=True):
        torch.testing.assert_close(kept, wanted, rtol=0, atol=1e-3)


def test_a_warm_start_goes_on_to_the_bit(net, stream, tmp_path):
    start = load_stylegan2("portraits")
    trainer, records = RegressionTrainer(start, net, stream, SETTINGS), []
    for record in trainer.train():
        records.append(record)
        if record.step == 2:
            trainer.save(tmp_path / "snapshot.pt")
    assert trainer.step == len(records) == trainer.steps == 4
    assert all(np.isfinite([r.l1, r.distance, r.reading]).all() for r in records)
    resumed = RegressionTrainer(start, net, stream, SETTINGS)
    resumed.load(tmp_path / "snapshot.pt")
    assert [record.l1 for record in resumed.train()] == [record.l1 for record in records[2:]]
    assert_same(resumed.generator.state_dict(), trainer.generator.state_dict())
    assert resumed.averaged().fingerprint not in (start.fingerprint, trainer.generator.fingerprint)
    with pytest.raises(CheckpointError, match="other settings"):
        RegressionTrainer(start, net, stream, Regression(batch=8)).load(tmp_path / "snapshot.pt")
    with pytest.raises(CheckpointError, match="base"):
        RegressionTrainer(load_stylegan2("portraits-wrangan"), net, stream, SETTINGS).load(tmp_path / "snapshot.pt")


def test_a_stylegan3_is_warm_started_from_random_weights(net, tmp_path):
    """The mapping goes to directions at random, magnitudes to those of pictures; it learns, and goes on to the bit."""
    start = make_tiny_stylegan3(z_dim=32, img_resolution=32, channels=(16,) * 4)
    settings = replace(SETTINGS, images=120, batch=8, mapping_steps=40, mixing=0.0, lr=1e-2, fresh=True)
    images, normals = DrawnStream(32).labelled_batch(0, 8)
    same = SimpleNamespace(labelled_batch=lambda step, size: (images, normals))
    trainer, losses = RegressionTrainer(start, net, same, settings), []
    for record in trainer.train():
        losses.append(record.l1)
        if record.step == 13:
            trainer.save(tmp_path / "snapshot.pt")
    assert losses[-1] < 0.8 * losses[0], losses
    resumed = RegressionTrainer(start, net, same, settings)
    resumed.load(tmp_path / "snapshot.pt")
    assert [record.l1 for record in resumed.train()] == losses[13:]
    assert_same(resumed.generator.state_dict(), trainer.generator.state_dict())
    average = resumed.averaged()
    assert average.synthesis.magnitude_decay is None
    assert all(not torch.equal(now, then) for now, then in zip(magnitudes(average), magnitudes(start), strict=True))


def magnitudes(generator: StyleGAN3) -> list[torch.Tensor]:
    return [layer.magnitude_ema for layer in generator.synthesis.layers.values()]


def test_directions_at_random_are_at_right_angles():
    torch.manual_seed(0)
    of_attributes, of_free = random_w(40, 48)
    assert of_attributes.shape == (len(NAMES) + 1, 48) and not of_attributes[-1].any()
    rows = torch.cat([of_attributes[:-1] / mapping_fit.STRENGTH, of_free / mapping_fit.LEFT_OVER])
    torch.testing.assert_close(rows @ rows.T, torch.eye(40), rtol=0, atol=1e-5)


def test_a_stylegan3_has_more_rows_before_the_shapes():
    latents, earlier = (portrait_latents(g) for g in (make_tiny_stylegan3(z_dim=32, channels=(4,) * 10), tiny()))
    assert (latents.rows.min(), latents.rows.max()) == (3, 9)
    assert (earlier.rows.min(), earlier.rows.max()) == (1, 7)


def test_a_later_round_keeps_the_mapping(net, stream):
    """A tiny generator of 32 pixels: another resolution is no obstacle."""
    settings = Regression(images=4, batch=4, precision="float32", mapping_steps=0, lr=0.0)
    start = tiny()
    trainer = RegressionTrainer(start, net, DrawnStream(32), settings)
    assert np.isfinite(next(trainer.train()).l1)
    assert_same(trainer.generator.mapping.state_dict(), start.mapping.state_dict())


def test_its_script_leaves_a_pair_to_train_on(tmp_path, monkeypatch):
    """In two parts, as in one; `latentopt train generator --start FOLDER` takes what it leaves."""
    module, settings = script("scripts/warm_start.py"), ["--fitted", "64", "--mapping-steps", "2", "--drawn", "32"]
    monkeypatch.setattr(module, "LOGGED_EVERY", 1)
    for images in (16, 32):
        folders = ["--outdir", str(tmp_path / "warm"), "--cache", str(tmp_path / "data")]
        result = CliRunner().invoke(module.main, [*settings, *folders, "--images", str(images)])
        assert result.exit_code == 0, result.output
    assert len((tmp_path / "warm" / "log.jsonl").read_text().splitlines()) == 2
    generator, discriminator = load_start(str(tmp_path / "warm"))
    assert generator.card["images_seen"] == 32
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
    seen = load_generator("portraits").card["images_seen"]
    assert (cells["trial"], cells["images"]) == ("shipped", str(seen))
    assert float(cells["noise rms"]) >= 0.01
    assert 1 >= float(cells["precision"]) > 0.4 and 1 >= float(cells["recall"]) > 0.4
    assert (tmp_path / f"shipped-{seen}.png").exists()
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


def test_one_command_from_a_start_to_an_adversarial_end(tmp_path, monkeypatch):
    """On any device; stopped in the middle, it goes on with what was left."""
    monkeypatch.syspath_prepend(ROOT / "scripts")
    module = script("scripts/train_domain_gpu.py")
    options = ["--warm-images", "10", "--images", "8", "--batch", "4", "--discriminator-first", "4", "--device", "cpu"]
    options += ["--precision", "float32", "--fitted", "64", "--mapping-steps", "2", "--outdir", str(tmp_path)]
    result = CliRunner().invoke(module.main, [*options, "--minutes", "0"])
    assert result.exit_code == 0, result.output
    assert [path.name for path in tmp_path.iterdir()] == ["warm"]
    result = CliRunner().invoke(module.main, options)
    assert result.exit_code == 0, result.output
    assert "going on after" in result.output
    generator, discriminator = load_start(str(tmp_path / "plain"))
    assert (generator.card["images_seen"], generator.card["start"]) == (8, "settled")
    assert check_pair("plain", generator, discriminator) == 64
    assert all(path.stat().st_size < 16e6 for path in tmp_path.rglob("*.*"))


def test_one_command_for_a_stylegan3(tmp_path, monkeypatch):
    """Each training has its share of the minutes, whatever its speed; what is over is not gone on with."""
    monkeypatch.syspath_prepend(ROOT / "scripts")
    module = script("scripts/train_domain_gpu.py")
    monkeypatch.setattr(StyleGAN3Config, "planned", staticmethod(lambda *arguments: (4,) * 4))
    options = ["--family", "stylegan3-t", "--batch", "4", "--device", "cpu", "--precision", "float32", "--fitted", "64"]
    options += ["--mapping-steps", "2", "--minutes", "0", "--shares", "5", "1", "4", "--outdir", str(tmp_path)]
    for done in (1, 2):
        result = CliRunner().invoke(module.main, options)
        assert result.exit_code == 0, result.output
        cards = {name: load_start(str(tmp_path / name))[0].card for name in ("warm", "settled", "plain")}
        assert {name: card["steps"] for name, card in cards.items()} == {"warm": 1, "settled": 1, "plain": done}
    assert cards["plain"]["settings"]["family"] == "stylegan3-t"
