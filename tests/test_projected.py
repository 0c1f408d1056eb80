"""The discriminator on frozen features, and the losses beside the plain one: by hand, and in a training."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from test_command_train import TINY, assert_same, card, settings, untimed

from latentopt.commands.train import command
from latentopt.errors import UsageError
from latentopt.training import FEATURES, LOSSES
from latentopt.training.generator import GeneratorTrainer
from latentopt.training.losses import (
    ADVERSARIAL,
    hinge_discriminator_loss,
    hinge_generator_loss,
    r1_penalty,
    relativistic_discriminator_loss,
    relativistic_generator_loss,
)
from latentopt.training.projected import ProjectedDiscriminator
from latentopt.training.streams import ArrayStream, portrait_stream


@pytest.fixture(scope="module")
def stream(tmp_path_factory) -> ArrayStream:
    return portrait_stream(tmp_path_factory.mktemp("data"), 16, 16)


def images(n: int = 8, side: int = 64, seed: int = 0) -> torch.Tensor:
    return torch.rand(n, 3, side, side, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def test_relativistic_losses():
    real, fake = torch.tensor([[2.0], [-1.0]]), torch.tensor([[0.5], [0.0]])
    assert relativistic_discriminator_loss(real, fake).item() == pytest.approx(
        (math.log1p(math.exp(-1.5)) + math.log1p(math.exp(1))) / 2
    )
    assert relativistic_generator_loss(real, fake).item() == pytest.approx(
        (math.log1p(math.exp(1.5)) + math.log1p(math.exp(-1))) / 2
    )
    generator_side = ADVERSARIAL["relativistic"].generator(lambda: real, fake)
    assert torch.equal(generator_side, relativistic_generator_loss(real, fake))
    assert tuple(ADVERSARIAL) == LOSSES


def test_hinge_losses():
    real, fake = torch.tensor([[2.0, 0.5]]), torch.tensor([[-3.0, 0.0]])
    assert hinge_discriminator_loss(real, fake).item() == 0.5 / 2 + 1 / 2
    assert hinge_generator_loss(fake).item() == 1.5


@pytest.mark.parametrize("kind", FEATURES[1:])
def test_heads_on_frozen_features(kind):
    """Sixteen logits a scale; gradients reach the image; only heads learn; made again, the frozen part is the same."""
    sample, image = images(16, seed=1), images().requires_grad_()
    first, second = (ProjectedDiscriminator(kind, sample, torch.float32) for _ in range(2))
    scales = 8 if kind == "both" else 4
    features = first.features(image)
    assert [x.shape[-1] for x in features] == [32, 16, 8, 4] * (scales // 4)
    logits = first(features)
    assert logits.shape == (8, 16 * scales)
    logits.mean().backward()
    assert image.grad.abs().min(dim=0).values.sum() > 0
    trained = {name for name, p in first.named_parameters() if p.requires_grad}
    assert trained
    assert all(name.startswith("heads.") for name in trained)
    assert_same(first.state_dict(), first.state_dict() | second.frozen.state_dict(prefix="frozen."))


def test_features_are_standardised():
    """On the pictures that it was made with, the mixtures have about zero mean and unit size."""
    sample = images(64, seed=1)
    features = ProjectedDiscriminator("perceptual", sample, torch.float32).features(sample)
    for x in features:
        assert x.mean().abs() < 0.1
        assert 0.3 < x.std() < 3


@pytest.mark.parametrize(("setting", "known"), [("features", FEATURES), ("loss", LOSSES)])
def test_unknown_features_and_losses_are_refused(setting, known):
    with pytest.raises(UsageError, match=f"{setting} 'judge' is not one of {', '.join(known)}"):
        settings(**{setting: "judge"})


@pytest.mark.parametrize("changes", [{"features": "both"}, {"loss": "relativistic"}], ids=str)
def test_gone_on_with_it_is_the_same_to_the_bit(stream, changes, tmp_path: Path):
    changes |= {"images": 12}
    whole = GeneratorTrainer(settings(**changes), stream)
    records = []
    for record in whole.train():
        records.append([*untimed(record), repr(record.h_loss)])
        whole.save(tmp_path / f"{record.step}.pt")
    resumed = GeneratorTrainer(settings(**changes), stream)
    resumed.load(tmp_path / "1.pt")
    assert [[*untimed(record), repr(record.h_loss)] for record in resumed.train()] == records[1:]
    for name in whole.parts:
        assert_same(getattr(resumed, name).state_dict(), getattr(whole, name).state_dict())
    assert ("heads" in whole.parts) == ("features" in changes)
    assert math.isfinite(float(records[-1][-1])) == ("features" in changes)


def test_relativistic_steps_penalise_both_sides(stream, monkeypatch):
    """R1 on real and R2 on generated images, at the same steps; the plain loss has R1 alone."""
    for loss, calls in (("relativistic", 2), ("logistic", 1)):
        seen = []

        def penalty(discriminator, image, seen=seen):
            seen.append(image)
            return r1_penalty(discriminator, image)

        monkeypatch.setattr("latentopt.training.generator.r1_penalty", penalty)
        next(GeneratorTrainer(settings(loss=loss), stream).train())
        assert len(seen) == calls


@pytest.mark.parametrize(
    "chosen", [{}, {"loss": "relativistic", "features": "random", "feature_weight": 0.5, "feature_lr": 0.001}], ids=str
)
def test_chosen_on_the_command_line(chosen, tmp_path, monkeypatch):
    """The card says what was chosen; the log has the loss of heads where there are any."""
    monkeypatch.setattr("latentopt.training.train_generator.LOGGED_EVERY", 1)
    options = [word for key, value in chosen.items() for word in (f"--{key.replace('_', '-')}", str(value))]
    arguments = ["generator", *TINY, "--images", "8", "--drawn", "16", "--outdir", str(tmp_path), "-q", *options]
    result = CliRunner().invoke(command, [*arguments, "--cache", str(tmp_path / "data")])
    assert result.exit_code == 0, result.output
    assert chosen.items() <= card(tmp_path)["settings"].items()
    (line,) = (tmp_path / "log.jsonl").read_text().splitlines()
    assert ("h_loss" in json.loads(line)) == bool(chosen)
