"""Every training takes steps on a GPU and goes on from its snapshot; commands and scripts there."""

from __future__ import annotations

import math
from dataclasses import asdict, is_dataclass

import pytest
import torch
from click.testing import CliRunner
from conftest import make_tiny_generator
from on_device import DEVICE, MARKS, NAME, exact_arithmetic, on
from test_attribute_nets import tiny as attribute_net
from test_encoder_training import trainer_of as encoder_trainer
from test_refiner_training import Sideways, make_trainer
from test_warm_start import ROOT, script
from test_warm_start import tiny as latents_generator
from test_wrangan_training import random_pair, settings

from latentopt.checkpoints.networks import load_generator
from latentopt.data.portraits import NAMES
from latentopt.editing.direction import Direction
from latentopt.editing.files import save_directions
from latentopt.encoders import KINDS as ENCODERS
from latentopt.generators.discriminator import DiscriminatorConfig
from latentopt.perceptual.network import load_perceptual_net
from latentopt.refiners import FORMS, KINDS
from latentopt.training.attributes import AttributeTrainer, AttributeTraining
from latentopt.training.encoder_data import SampleStream
from latentopt.training.flow import FlowTrainer, FlowTraining
from latentopt.training.generator import GeneratorTrainer
from latentopt.training.loop import Trainer
from latentopt.training.regression import Regression, RegressionTrainer
from latentopt.training.streams import DrawnStream, portrait_stream

pytestmark = MARKS


@pytest.fixture(autouse=True)
def arithmetic():
    with exact_arithmetic():
        yield


@pytest.fixture(scope="module")
def generator():
    """16x16, 6 rows of w [16]."""
    return on(make_tiny_generator(channels=(8, 6, 4)))


@pytest.fixture(scope="module")
def stream(tmp_path_factory):
    return portrait_stream(tmp_path_factory.mktemp("data"), 16, 16)


def figures(record) -> dict[str, float]:
    """The numbers of a record that are there."""
    found = asdict(record) if is_dataclass(record) else record
    numbers = {name: value for name, value in found.items() if isinstance(value, float) and name != "seconds"}
    return {name: value for name, value in numbers.items() if not math.isnan(value)}


def adversarial(stream, *, architecture=True, **changes) -> GeneratorTrainer:
    pair = random_pair()
    made = GeneratorTrainer(
        settings(**changes), stream, DEVICE, architecture=(pair[0].config, pair[1].config) if architecture else None
    )
    if architecture:
        made.start_from(*pair)
    return made


def teacher(before, after):
    return on(Sideways()(before.cpu(), after.cpu()))


def refining(generator, kind: str, form: str, **changes):
    critic = DiscriminatorConfig((8, 6, 4), mbstd_group_size=2).build()
    return make_trainer(generator, teacher, critic, kind=kind, form=form, batch=2, **changes)


LOW = {"precision": "bfloat16"}
MADE = {
    "generator": lambda g, s: adversarial(s, randomized=0, noise_from=0, path_weight=2.0, path_interval=1),
    "generator in bfloat16": lambda g, s: adversarial(s, randomized=0, noise_from=0, **LOW),
    "generator on features": lambda g, s: adversarial(
        s, architecture=False, resolution=16, randomized=0, features="both", loss="relativistic"
    ),
    "wrangan": lambda g, s: adversarial(s, keep_level=True),
    "wrangan in bfloat16": lambda g, s: adversarial(s, **LOW),
    **{f"encoder {kind}": lambda g, s, kind=kind: encoder_trainer(g, kind) for kind in ENCODERS if kind != "w"},
    "encoder in bfloat16": lambda g, s: encoder_trainer(g, "e4e", **LOW),
    **{
        f"refiner {kind} {form}": lambda g, s, kind=kind, form=form: refining(g, kind, form)
        for kind in KINDS
        for form in FORMS
    },
    "refiner in bfloat16": lambda g, s: refining(g, "warpres", "gated", **LOW),
    "flow": lambda g, s: FlowTrainer(
        FlowTraining(steps=3, batch=2, size=16, precision="float32"), g, SampleStream(g, (16, 16)), True
    ),
    "flow in bfloat16": lambda g, s: FlowTrainer(
        FlowTraining(steps=3, batch=2, size=16), g, SampleStream(g, (16, 16)), True
    ),
    "regression": lambda g, s: regressing(precision="float32"),
    "regression in bfloat16": lambda g, s: regressing(),
    "regression, known": lambda g, s: regressing(known=True),
    **{
        kind: lambda g, s, kind=kind: AttributeTrainer(
            AttributeTraining(steps=3, batch=8, identity_weight=float(kind == "judge"), partners=4),
            attribute_net(kind),
            s,
            DEVICE,
        )
        for kind in ("perceptual", "judge")
    },
}


def regressing(**changes) -> RegressionTrainer:
    asked = Regression(images=12, batch=4, fitted=64, mapping_steps=2, **changes)
    return RegressionTrainer(on(latents_generator()), load_perceptual_net("portraits"), DrawnStream(32, DEVICE), asked)


def stepped(trainer: Trainer, steps: int) -> list[dict[str, float]]:
    return [figures(trainer.update()) for _ in range(steps)]


@pytest.mark.parametrize("name", MADE)
def test_trainings(name, generator, stream, tmp_path):
    trainer = MADE[name](generator, stream)
    records = stepped(trainer, 2)
    trainer.save(tmp_path / "snapshot.pt")
    records += stepped(trainer, 1)
    assert all(math.isfinite(value) for record in records for value in record.values())
    assert all(record for record in records)
    resumed = MADE[name](generator, stream)
    resumed.load(tmp_path / "snapshot.pt")
    assert stepped(resumed, 1)[0] == pytest.approx(records[-1], rel=0.05, abs=0.02)


# ---- commands and scripts


@pytest.fixture
def directed(folder):
    """The tiny generator of portraits, with a direction."""
    generator = load_generator("net/tiny.safetensors")
    directions = [Direction("yaw", "w", torch.ones(generator.w_dim), generator.fingerprint)]
    save_directions(folder / "directions" / "tiny.safetensors", directions)
    return folder


def test_commands(directed, latentopt):
    """Invert, tune, edit, evaluate, compare."""
    network, quick = ("--network", "net/tiny.safetensors"), ("--terms", "l2=1", "--steps", "2", "-q")
    few = ("--samples", "8", "--paths", "1", "--partners", "1", "--lec", "2", "--metrics", "bundled")
    for arguments in (
        ("invert", "photos", *network, *quick, "--recipe", "i2s", "--batch", "2"),
        ("invert", "photos", *network, *quick, "--recipe", "i2s", "--dtype", "bfloat16", "--outdir", "low"),
        ("edit", "out", "--do", "yaw=+2", *network),
        ("tune", "out", *network, *quick, "--method", "pti", "--outdir", "tuned"),
        ("evaluate", "out", *network, "-q", "--steps", "1", *few),
        ("fit-pnorm", *network, "--samples", "2000", "--out", "p.safetensors", "-q"),
        ("compare", "photos", *network, "--recipes", "i2s,ii2s", "--metrics", "bundled", *quick),
    ):
        code, out, err = latentopt(*arguments, "--device", NAME)
        assert code == 0, (arguments, out, err)


def test_the_portraits_generator_by_one_command(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "scripts")
    options = ["--warm-images", "10", "--images", "16", "--batch", "4", "--discriminator-first", "4", "--device", NAME]
    options += ["--fitted", "64", "--mapping-steps", "2", "--outdir", str(tmp_path)]
    result = CliRunner().invoke(script("scripts/train_domain_gpu.py").main, options, catch_exceptions=False)
    assert result.exit_code == 0, result.output


def test_the_generators_benchmark(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    options = ["--n", "64", "--device", NAME, "--out", str(tmp_path)]
    result = CliRunner().invoke(script("benchmarks/portraits.py").main, options, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    assert all(name in (tmp_path / "table.md").read_text() for name in NAMES)
