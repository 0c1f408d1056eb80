"""`latentopt train encoder`: the papers' losses and schedules by hand, exact resumption, several processes as one."""

from __future__ import annotations

import json
import math
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import make_tiny_generator
from torch import Tensor, nn

from latentopt.checkpoints.networks import load_generator
from latentopt.encoders.backbone import IRSE50
from latentopt.encoders.config import EncoderConfig
from latentopt.encoders.files import load_encoder, save_encoder
from latentopt.errors import CheckpointError, UsageError
from latentopt.perceptual.features import PerceptualFeatures
from latentopt.training.encoder import PARTS, EncoderTrainer, mean_w
from latentopt.training.encoder_data import SampleStream, training_data
from latentopt.training.encoder_files import averaged_encoder, validate
from latentopt.training.encoder_losses import Distortion, delta_regularization
from latentopt.training.encoder_settings import EncoderTraining, make_optimizer, settings_for
from latentopt.training.feature_nets import load_feature_net
from latentopt.training.latent_discriminator import CodePool, LatentDiscriminator, latent_r1_penalty, random_rows
from latentopt.types import GeneratorInputs

ROOT = Path(__file__).resolve().parent.parent
SMALL = {"widths": (8, 8, 8, 16), "head_width": 8}
QUICK = {"steps": 6, "batch": 2, "precision": "float32", "perceptual_net": "bundled", "progressive_until": 0.6}


def trainer_of(generator, kind: str, heads: str | None = None, data: str = "x", **changes) -> EncoderTrainer:
    settings = settings_for(kind, **QUICK | ({"restyle_steps": 2} if "restyle" in kind else {}) | changes)
    shape = SMALL | {"image_size": generator.resolution} | ({} if heads is None else {"heads": heads})
    config = EncoderConfig.for_generator(generator, kind, **shape)
    stream = SampleStream(generator, generator.resolution)
    return EncoderTrainer(settings, config, generator, stream, described={"data": data})


@pytest.fixture(scope="module")
def generator():
    """16x16, 6 rows of w [16]."""
    return make_tiny_generator(channels=(8, 6, 4))


def flat(value: object, name: str = "") -> dict[str, object]:
    if not isinstance(value, dict):
        return {name: value}
    return {k: v for key, part in value.items() for k, v in flat(part, f"{name}/{key}").items()}


def assert_same(a: EncoderTrainer, b: EncoderTrainer) -> None:
    """To the bit."""
    for part in PARTS:
        one, other = (flat(getattr(trainer, part).state_dict()) for trainer in (a, b))
        assert one.keys() == other.keys()
        for name, value in one.items():
            assert torch.equal(value, other[name]) if isinstance(value, Tensor) else value == other[name], (part, name)


def untimed(record: dict) -> dict:
    return {name: value for name, value in record.items() if name != "seconds"}


# Settings


@pytest.mark.parametrize(
    ("step", "stage"),
    [(0, 0), (19_999, 0), (20_000, 1), (21_999, 1), (22_000, 2), (51_999, 16), (52_000, 17), (199_999, 17)],
)
def test_the_schedule_is_the_papers_at_its_number_of_steps(step, stage):
    assert settings_for("e4e", steps=200_000).stage(step, 18) == stage


def test_without_the_schedule_all_rows_are_trained_from_the_start():
    assert settings_for("e4e", progressive=False).stage(0, 18) is None
    assert settings_for("psp").stage(0, 18) is None


@pytest.mark.parametrize("num_ws", [2, 10, 18])
@pytest.mark.parametrize("steps", [1, 7, 100])
def test_stages_rise_one_by_one_or_faster_and_reach_the_last_row(num_ws, steps):
    stages = [settings_for("e4e", steps=steps).stage(step, num_ws) for step in range(steps)]
    assert stages == sorted(stages)
    assert stages[0] == 0
    assert stages[-1] == (num_ws - 1 if steps > 3 else 0 if steps == 1 else stages[-1])


def test_the_rate_falls_to_nothing_over_the_last_share():
    settings = EncoderTraining(steps=100, lr=0.2, decay=0.4)
    assert [settings.rate(step) for step in (0, 60)] == pytest.approx([0.2, 0.2])
    assert settings.rate(80) == pytest.approx(0.1)
    assert 0 < settings.rate(99) < 1e-3
    assert EncoderTraining(steps=100, lr=0.2, decay=0).rate(99) == pytest.approx(0.2)


@pytest.mark.parametrize(
    ("kind", "delta", "latent", "progressive", "steps"),
    [
        ("psp", 0, 0, False, 1),
        ("e4e", 2e-4, 0.1, True, 1),
        ("restyle-psp", 0, 0, False, 5),
        ("restyle-e4e", 2e-4, 0.1, True, 5),
    ],
)
def test_each_kind_has_the_papers_losses(kind, delta, latent, progressive, steps):
    s = settings_for(kind)
    assert (s.l2_weight, s.perceptual_weight, s.similarity_weight) == (1, 0.8, 0.1)
    assert (settings_for(kind, lr=1e-4).latent_rate, s.latent_r1) == (pytest.approx(2e-5), 10)
    assert (s.delta_weight, s.latent_weight, s.progressive, s.restyle_steps) == (delta, latent, progressive, steps)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"kind": "w"}, "'w' is not one of psp, e4e"),
        ({"progressive": True}, "a psp encoder has no offsets"),
        ({"restyle_steps": 2}, "a psp encoder takes one step"),
        ({"batch": 3}, "cannot be split evenly among 2 processes"),
        ({"steps": 0}, "at least 1"),
        ({"progressive_from": 0.5}, "in this order"),
    ],
)
def test_settings_that_do_not_go_together(generator, changes, words):
    with pytest.raises(UsageError, match=words):
        EncoderTraining(**changes).check(generator, 2)


def test_generators_with_labels_are_refused():
    with pytest.raises(UsageError, match="takes labels"):
        EncoderTraining().check(make_tiny_generator(channels=(8, 6), c_dim=3))


def test_ranger_has_the_papers_constants():
    pytest.importorskip("pytorch_optimizer")
    group = make_optimizer("ranger", [nn.Parameter(torch.ones(2))], 1e-4).param_groups[0]
    expected = {"lr": 1e-4, "betas": (0.95, 0.999), "eps": 1e-5, "k": 6, "alpha": 0.5}
    assert {name: group[name] for name in expected} == expected


def test_ranger_without_its_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "pytorch_optimizer", None)
    with pytest.raises(UsageError, match=r"pip install 'latentopt\[train\]'"):
        make_optimizer("ranger", [nn.Parameter(torch.ones(2))], 1e-4)


# Losses


def test_delta_regularization_by_hand():
    codes = torch.zeros(2, 4, 3)
    codes[0, 1] = torch.tensor([3.0, 4.0, 0.0])
    codes[1, 2] = torch.tensor([0.0, 0.0, 2.0])
    codes[:, 3] = 100.0  # beyond the rows that are trained
    codes += torch.tensor([5.0, -1.0, 2.0])  # the base does not count
    assert float(delta_regularization(codes, 3)) == pytest.approx((5 + 2) / 2)
    assert float(delta_regularization(codes, 1)) == 0


def test_no_offset_has_no_gradient():
    codes = torch.ones(2, 4, 3, requires_grad=True)
    delta_regularization(codes, 4).backward()
    assert torch.equal(codes.grad, torch.zeros_like(codes))


class FirstPixels(nn.Module):
    def forward(self, image: Tensor) -> Tensor:
        return image[:, :, 0, 0]


def test_distortion_by_hand(generator):
    a, b = torch.rand(2, 2, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
    distortion = Distortion(generator, "bundled", FirstPixels())
    found = distortion(a, distortion.target(b))
    assert float(found["l2"]) == pytest.approx(float((a - b).square().mean()), rel=1e-5)
    expected = PerceptualFeatures(generator, "bundled").distance(a, b).mean()
    assert float(found["perceptual"]) == pytest.approx(float(expected), rel=1e-4)
    cosine = torch.cosine_similarity(a[:, :, 0, 0], b[:, :, 0, 0]).mean()
    assert float(found["similarity"]) == pytest.approx(1 - float(cosine), rel=1e-5)
    plain = Distortion(generator, "bundled")
    assert [float(x) for x in plain(b, plain.target(b)).values()] == pytest.approx([0, 0, 0], abs=1e-5)


# The latent discriminator


def test_the_discriminator_is_an_mlp_of_four_layers():
    discriminator = LatentDiscriminator(5)
    assert [tuple(p.shape) for p in discriminator.parameters()] == [(5, 5), (5,)] * 3 + [(1, 5), (1,)]
    w = torch.randn(2, 5)
    x = w
    for i in range(3):
        x = nn.functional.leaky_relu(x @ discriminator.layers[i].weight.T + discriminator.layers[i].bias, 0.2)
    expected = x @ discriminator.layers[3].weight.T + discriminator.layers[3].bias
    assert torch.allclose(discriminator(w), expected, atol=1e-6)


def test_r1_of_a_linear_discriminator():
    discriminator = LatentDiscriminator(3, layers=1)
    with torch.no_grad():
        discriminator.layers[0].weight.copy_(torch.tensor([[1.0, 2.0, -2.0]]))
    penalty = latent_r1_penalty(discriminator, torch.randn(7, 3))
    penalty.backward()
    assert float(penalty.detach()) == pytest.approx(9)
    assert torch.allclose(discriminator.layers[0].weight.grad, torch.tensor([[2.0, 4.0, -4.0]]))


def test_the_pool_gives_back_what_it_was_given():
    pool, rng = CodePool(1, size=4), torch.Generator().manual_seed(0)
    codes = torch.arange(400.0)[:, None]
    assert torch.equal(pool.exchange(codes[:4], rng), codes[:4])
    given = pool.exchange(codes[4:], rng)
    earlier = given != codes[4:]
    assert 0.4 < float(earlier.float().mean()) < 0.6
    assert bool((given[earlier] < codes[4:][earlier]).all())
    everything = torch.cat([given, pool.codes]).flatten()
    assert torch.equal(everything.sort().values, codes.flatten()), "each is kept or given once"


def test_rows_shown_to_the_discriminator_are_those_trained():
    codes = torch.arange(5.0).expand(300, 5)[:, :, None]
    shown = random_rows(codes, 3, torch.Generator().manual_seed(0)).flatten()
    assert sorted(set(shown.tolist())) == [0, 1, 2]


# The trainer


@pytest.mark.parametrize(
    ("kind", "stop", "changes"),
    [
        ("psp", 3, {"optimizer": "ranger"}),
        ("e4e", 2, {"precision": "bfloat16"}),
        ("restyle-e4e", 3, {}),
        ("restyle-psp", 5, {}),
    ],
)
def test_a_training_gone_on_with_is_the_whole_one(generator, tmp_path, kind, stop, changes):
    if "optimizer" in changes:
        pytest.importorskip("pytorch_optimizer")
    whole = trainer_of(generator, kind, **changes)
    records = [untimed(record) for record in whole.train()]
    assert [record["step"] for record in records] == [1, 2, 3, 4, 5, 6]
    stopped = trainer_of(generator, kind, **changes)
    for record in stopped.train():
        if record["step"] == stop:
            break
    stopped.save(tmp_path / "snapshot.pt")
    resumed = trainer_of(generator, kind, **changes)
    torch.rand(5)  # nothing hangs on the global generator
    resumed.load(tmp_path / "snapshot.pt")
    assert [untimed(record) for record in resumed.train()] == records[stop:]
    assert_same(resumed, whole)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"lr": 0.5}, "(lr 0.001, not 0.5); use another folder"),
        ({"steps": 7}, "(steps 6, not 7)"),
        ({"heads": "simple"}, "(encoder's heads pyramid, not simple)"),
        ({"data": "y"}, "(data x, not y)"),
        ({"lr": 0.5, "batch": 4}, "(batch 2, not 4; lr 0.001, not 0.5)"),
    ],
)
def test_what_does_not_go_on(generator, tmp_path, changes, words):
    trainer_of(generator, "psp").save(tmp_path / "snapshot.pt")
    with pytest.raises(CheckpointError, match=re.escape(words)):
        trainer_of(generator, "psp", **changes).load(tmp_path / "snapshot.pt")


def test_another_generators_snapshot_is_refused(generator, tmp_path):
    trainer_of(generator, "psp").save(tmp_path / "snapshot.pt")
    other = make_tiny_generator(seed=1, channels=(8, 6, 4))
    with pytest.raises(CheckpointError, match=f"generator {generator.fingerprint}, not {other.fingerprint}"):
        trainer_of(other, "psp").load(tmp_path / "snapshot.pt")


def test_restyle_sums_the_gradients_of_steps_with_detached_inputs(generator, monkeypatch):
    trainer = trainer_of(generator, "restyle-psp", restyle_steps=3, decay=0)
    monkeypatch.setattr(trainer.optimizer, "step", lambda: None)
    batch, rng = trainer.stream.batch(0, 2), torch.Generator().manual_seed(0)
    next(trainer.train())
    found = [p.grad.clone() for p in trainer.net.parameters()]
    trainer.net.zero_grad()
    average = trainer.encoder.latent_avg
    ws, shown = average.expand(2, -1, -1), generator.synthesis(GeneratorInputs(average[None])).expand(2, -1, -1, -1)
    target = trainer.distortion.target(batch)
    for _ in range(3):
        codes = ws + trainer.net(torch.cat([batch, shown], dim=1))
        noise = {name: torch.randn(2, 1, *size, generator=rng) for name, size in generator.noise_shapes.items()}
        image = generator.synthesis(GeneratorInputs(codes, noise=noise))
        losses = trainer.distortion(image, target)
        (losses["l2"] + 0.8 * losses["perceptual"] + 0.1 * losses["similarity"]).backward()
        ws, shown = codes.detach(), image.detach()
    for gradient, parameter in zip(found, trainer.net.parameters(), strict=True):
        assert torch.allclose(gradient, parameter.grad, rtol=1e-3, atol=1e-6)


def test_offsets_join_row_by_row(generator):
    trainer = trainer_of(generator, "e4e", steps=10, progressive_from=0.2, progressive_until=0.7)
    before = {name: p.clone() for name, p in trainer.net.named_parameters()}
    stages = []
    for record in trainer.train():
        stages.append(record["stage"])
        moved = {
            int(name.split(".")[2])
            for name, p in trainer.net.named_parameters()
            if name.startswith("heads.styles.") and not torch.equal(p, before[name])
        }
        assert moved == set(range(record["stage"] + 1))
        stage = averaged_encoder(trainer).config.stage
        assert stage == (None if record["stage"] == 5 else record["stage"])
    assert stages == [0, 0, 1, 2, 3, 4, 5, 5, 5, 5]


@pytest.mark.parametrize(
    ("name", "changes", "losses"),
    [
        ("A", {"delta_weight": 0.0, "latent_weight": 0.0, "progressive": False}, set()),
        ("B", {"latent_weight": 0.0}, {"delta"}),
        ("C", {"delta_weight": 0.0, "progressive": False}, {"latent", "d_loss"}),
        ("D", {}, {"delta", "latent", "d_loss"}),
    ],
)
def test_e4es_configurations(generator, name, changes, losses):
    record = next(trainer_of(generator, "e4e", **changes).train())
    known = {"step", "loss", "l2", "perceptual", "similarity", "stage", "seconds"}
    assert set(record) - known == losses, name
    terms = {"l2": 1, "perceptual": 0.8, "similarity": 0.1, "delta": 2e-4, "latent": 0.1}
    total = sum(weight * record.get(term, 0.0) for term, weight in terms.items())
    assert record["loss"] == pytest.approx(total, rel=1e-5)


def test_the_discriminator_learns_to_tell_codes_from_ws(generator):
    trainer = trainer_of(generator, "e4e", steps=30, lr=1e-9, latent_lr=0.02, latent_r1=0.1, progressive=False)
    records = list(trainer.train())
    assert records[0]["d_loss"] == pytest.approx(2 * math.log(2), abs=0.2)
    assert records[-1]["d_loss"] < 0.7 * records[0]["d_loss"]


@pytest.mark.parametrize("kind", ["psp", "restyle-e4e"])
def test_training_reconstructs_better(generator, kind):
    trainer = trainer_of(generator, kind, steps=30, lr=0.01, batch=4, ema=0.8)
    images = SampleStream(generator, (16, 16), seed=9).batch(0, 8)
    before = validate(trainer, images)
    for _ in trainer.train():
        pass
    after = validate(trainer, images)
    assert len(after["l2"]) == (5 if "restyle" in kind else 1)
    trained = trainer.settings.restyle_steps - 1
    assert after["l2"][trained] < 0.5 * before["l2"][trained]


def test_the_average_latent(generator):
    assert torch.allclose(mean_w(generator), generator.w_avg, atol=0.15 * float(generator.w_avg.norm()))
    trainer = trainer_of(generator, "psp")
    assert torch.equal(trainer.encoder.latent_avg, mean_w(generator).expand(6, -1))


# Data and similarity networks


def test_samples_are_new_each_step_and_the_same_again(generator):
    stream = SampleStream(generator, (16, 16))
    assert torch.equal(stream.batch(3, 2), stream.batch(3, 2))
    assert not torch.equal(stream.batch(3, 2), stream.batch(4, 2))
    assert SampleStream(generator, (8, 8)).batch(0, 2).shape == (2, 3, 8, 8)


def test_a_folders_last_pictures_are_held_out(folder, generator):
    found = training_data("photos", 0, folder / "cache", generator, (16, 16), 0)
    assert (len(found.stream.images), len(found.held_out)) == (2, 1)
    with pytest.raises(UsageError, match="made square"):
        training_data("photos", 0, folder / "cache", generator, (16, 8), 0)
    (folder / "photos" / "a.png").rename(folder / "a.png")
    (folder / "photos" / "b.png").unlink()
    with pytest.raises(UsageError, match="at least two"):
        training_data("photos", 0, folder / "cache", generator, (16, 16), 0)


def test_similarity_networks(tmp_path):
    from torchvision.models import resnet50

    image = torch.rand(2, 3, 32, 32)
    own = load_feature_net(ROOT / "latentopt/bundled/portraits/perceptual.safetensors")
    assert own(image).shape == (2, 128 * 16)
    net = resnet50().eval()
    moco = {f"module.encoder_q.{name}": value for name, value in net.state_dict().items()}
    torch.save({"state_dict": moco | {"module.queue": torch.ones(2)}}, tmp_path / "moco.pth.tar")
    net.fc = nn.Identity()
    expected = net(nn.functional.interpolate(image, (224, 224)))
    assert torch.allclose(load_feature_net(tmp_path / "moco.pth.tar")(image), expected, atol=1e-5)


def test_arcface_looks_at_the_face_alone(tmp_path):
    net = IRSE50(3)
    state = net.state_dict() | {
        f"output_layer.{name}": value
        for name, value in nn.Sequential(
            nn.BatchNorm2d(512), nn.Dropout(), nn.Flatten(), nn.Linear(512 * 49, 512), nn.BatchNorm1d(512)
        ).state_dict().items()
    }  # fmt: skip
    torch.save(state, tmp_path / "model_ir_se50.pth")
    arcface, image = load_feature_net(tmp_path / "model_ir_se50.pth"), torch.rand(1, 3, 256, 256)
    identity = arcface(image)
    assert torch.allclose(identity.norm(dim=1), torch.ones(1))
    around = torch.rand(1, 3, 256, 256)
    around[..., 35:223, 32:220] = image[..., 35:223, 32:220]
    assert torch.equal(arcface(around), identity)
    assert not torch.equal(arcface(image.flip(2)), identity)


def test_the_judge_is_no_similarity_network(tmp_path):
    with pytest.raises(CheckpointError, match="judge"):
        load_feature_net(ROOT / "latentopt/bundled/portraits/judge.safetensors")
    torch.save({"conv.weight": torch.ones(2)}, tmp_path / "other.pth")
    with pytest.raises(CheckpointError, match="ResNet-50"):
        load_feature_net(tmp_path / "other.pth")


# The command

COMMAND = (
    "train", "encoder", "--network", "net/tiny.safetensors", "--data", "samples", "--batch", "2", "--steps", "4",
    "--perceptual", "bundled", "--precision", "float32", "--cache", "cache",
)  # fmt: skip


def logged(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_what_a_training_leaves(latentopt, folder):
    assert latentopt(*COMMAND, "--kind", "restyle-e4e", "--restyle-steps", "2", "--outdir", "out", "-q")[0] == 0
    made = {path.name for path in (folder / "out").iterdir()}
    assert made == {f"encoder-restyle-e4e.{end}" for end in ("safetensors", "snapshot.pt", "png", "jsonl")}
    generator = load_generator("net/tiny.safetensors")
    encoder = load_encoder(folder / "out" / "encoder-restyle-e4e.safetensors", generator)
    card = encoder.card
    assert (card["steps"], card["images_seen"], card["data"], card["licence"]) == (
        4,
        8,
        "samples of tiny",
        "Apache-2.0",
    )
    assert card["command"].startswith("latentopt train encoder --network net/tiny.safetensors")
    assert [len(card["held_out"][name]) for name in ("l2", "perceptual", "variation")] == [5, 5, 5]
    assert torch.equal(encoder.latent_avg, mean_w(generator).expand(6, -1))
    images = SampleStream(generator, (16, 16)).batch(0, 2)
    assert encoder.encode(generator, images, steps=2)[-1].ws.shape == (2, 6, 16)


def test_a_command_stopped_and_given_again(latentopt, folder):
    arguments = (*COMMAND, "--kind", "e4e")
    assert latentopt(*arguments, "--outdir", "whole", "-q")[0] == 0
    for _ in range(4):
        code, _, err = latentopt(*arguments, "--outdir", "parts", "--minutes", "0")
        assert code == 0
    assert "going on after 3 steps" in err
    whole, parts = (load_encoder(folder / name / "encoder-e4e.safetensors") for name in ("whole", "parts"))
    assert whole.fingerprint == parts.fingerprint
    assert latentopt(*arguments, "--outdir", "parts", "-q")[0] == 0, "nothing is left to do"
    code, _, err = latentopt(*arguments, "--data", "photos", "--outdir", "parts", "-q")
    assert (code, "data samples of tiny, not folder photos" in err) == (1, True)


def test_a_start_from_a_trained_encoder(latentopt, folder, generator):
    trainer = trainer_of(generator, "psp")
    trained = averaged_encoder(trainer)
    save_encoder(trained, folder / "trained.safetensors")
    other = trainer_of(generator, "psp", seed=1)
    other.start_from(trained)
    assert all(torch.equal(a, b) for a, b in zip(other.net.parameters(), trainer.ema.parameters(), strict=True))
    code, _, err = latentopt(*COMMAND, "--kind", "psp", "--start", "trained.safetensors", "-q")
    assert (code, "another architecture" in err) == (1, True), "of other widths"
    first = (*COMMAND, "--kind", "psp", "--outdir", "first", "-q")
    assert latentopt(*first)[0] == 0
    started = ("--start", "first/encoder-psp.safetensors", "--lr", "1e-9", "--outdir", "second")
    assert latentopt(*first, *started)[0] == 0
    one, two = (load_encoder(folder / name / "encoder-psp.safetensors") for name in ("first", "second"))
    image = torch.rand(1, 3, 16, 16)
    assert torch.allclose(one.net(image), two.net(image), atol=1e-4)
    assert two.card["start"] == "encoder-psp.safetensors"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--kind", "psp", "--progressive"), "no offsets"),
        (("--kind", "psp", "--restyle-steps", "3"), "takes one step"),
        (("--kind", "e4e", "--heads", "w"), "is not one of"),
    ],
)
def test_options_that_do_not_go_together(latentopt, folder, arguments, words):
    code, _, err = latentopt(*COMMAND, *arguments)
    assert (code, words in err) == (2, True), err
    assert not (folder / "cache").exists()


def test_two_processes_train_as_one(latentopt, folder):
    arguments = (*COMMAND, "--kind", "e4e", "--validate-every", "1", "--batch", "4")
    assert latentopt(*arguments, "--outdir", "one", "-q")[0] == 0
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command = [*torchrun, str(ROOT / "cli.py"), *arguments, "--outdir", "two", "-q"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    one, two = (logged(folder / name / "encoder-e4e.jsonl") for name in ("one", "two"))
    assert len(one) == len(two) == 4
    for a, b in zip(one, two, strict=True):
        assert a.keys() == b.keys()
        for name in a.keys() - {"seconds", "held_out"}:
            assert a[name] == pytest.approx(b[name], rel=1e-4), name
        assert a["held_out"]["l2"] == pytest.approx(b["held_out"]["l2"], rel=1e-4)
