"""The perceptual network, the judge and their training: tiny networks from nothing, and the bundled ones."""

from __future__ import annotations

import ast
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import latentopt
from latentopt.data.portraits import NAMES, TEST_SEEDS, portraits, render, sample_attributes
from latentopt.errors import CheckpointError, MissingWeightsError, UsageError
from latentopt.files.storage import save_tensors
from latentopt.judge.network import Judge, JudgeConfig, load_judge, save_judge
from latentopt.perceptual.network import (
    PerceptualNet,
    PerceptualNetConfig,
    load_perceptual_net,
    perceptual_distance,
    save_perceptual_net,
)
from latentopt.training import attributes as training
from latentopt.training import train_networks
from latentopt.training.degradations import degrade
from latentopt.training.loop import Training
from latentopt.training.streams import ArrayStream

BUNDLED = Path(latentopt.__file__).parent / "bundled" / "portraits"
COLUMN = {name: i for i, name in enumerate(NAMES)}


def tiny(kind):
    torch.manual_seed(0)
    if kind == "perceptual":
        return PerceptualNet(PerceptualNetConfig(NAMES, training.BINARY, (4, 8, 8), resolution=16))
    return Judge(JudgeConfig(NAMES, training.BINARY, (8, 16), num_features=8, identity_dim=4, resolution=16))


@pytest.fixture(scope="module")
def stream():
    images, attributes = portraits(range(32), 16)
    return ArrayStream(((images + 1) * 127.5).round().to(torch.uint8).numpy(), attributes)


SETTINGS = training.AttributeTraining(steps=6, batch=8, identity_weight=0.5, partners=4, precision="float32")


@pytest.mark.parametrize("kind", ["perceptual", "judge"])
@pytest.mark.parametrize("size", [(16, 16), (32, 32), (40, 24)])
def test_any_image_size_is_read(kind, size):
    assert tiny(kind).read(torch.randn(2, 3, *size).clamp(-1, 1)).shape == (2, len(NAMES))


def test_features_halve_from_stage_to_stage():
    stages = tiny("perceptual").features(torch.randn(2, 3, 32, 24))
    assert [tuple(x.shape[1:]) for x in stages] == [(4, 32, 24), (8, 16, 12), (8, 8, 6)]


def test_binary_attributes_are_probabilities_and_others_have_their_own_units():
    net = tiny("perceptual")
    net.mean.fill_(100.0)
    net.std.fill_(1e-3)
    read, glasses = net.read(torch.randn(4, 3, 16, 16)), COLUMN["glasses"]
    assert ((read[:, glasses] > 0) & (read[:, glasses] < 1)).all()
    assert torch.allclose(read[:, COLUMN["yaw"]], torch.tensor(100.0), atol=0.1)


def test_distance_by_hand():
    """Opposite, equal and orthogonal unit features: squared distances 4, 0 and 2, whatever their lengths."""
    net = tiny("perceptual")
    net.stage_weights.copy_(torch.tensor([1.0, 10.0, 0.5]))
    e = torch.eye(4)[None, :, :, None]  # [1,4,4,1]: unit vector i at location i
    a, b = [e[:, :, :1], e[:, :, :1], e[:, :, :1]], [-3 * e[:, :, :1], 7 * e[:, :, :1], 5 * e[:, :, 1:2]]
    assert perceptual_distance(net, a, b).item() == pytest.approx(1.0 * 4 + 10 * 0 + 0.5 * 2, abs=1e-5)


def test_distance_of_an_image_to_itself_is_zero_with_a_finite_gradient():
    net, image = tiny("perceptual"), torch.zeros(2, 3, 16, 16, requires_grad=True)
    features = net.features(image)
    distance = perceptual_distance(net, features, [f.detach() for f in features])
    distance.sum().backward()
    assert distance.abs().max() == 0
    assert image.grad.isfinite().all()


def test_calibration_gives_each_stage_the_same_share():
    net, images = tiny("perceptual"), portraits(range(24), 16)[0]
    training.calibrate_stages(net, images)
    features = net.features(images)
    assert perceptual_distance(net, features, [f.roll(1, 0) for f in features]).mean().item() == pytest.approx(
        training.RANDOM_PAIR_DISTANCE, rel=1e-4
    )


@pytest.mark.parametrize("kind", ["perceptual", "judge"])
def test_training_lowers_the_loss(kind, stream):
    weight = 0.5 if kind == "judge" else 0.0
    settings = replace(SETTINGS, steps=60, batch=16, lr=1e-2, identity_weight=weight)
    losses = [step.attributes for step in training.AttributeTrainer(settings, tiny(kind), stream).train()]
    assert sum(losses[-10:]) < 0.8 * sum(losses[:10])


def test_a_resumed_training_ends_with_the_same_weights(stream, tmp_path):
    whole, resumed = tiny("judge"), tiny("judge")
    list(training.AttributeTrainer(SETTINGS, whole, stream).train())
    snapshot = tmp_path / "judge.snapshot.pt"
    interrupted = iter(Training(training.AttributeTrainer(SETTINGS, tiny("judge"), stream), snapshot, every=0))
    assert [next(interrupted).step for _ in range(3)] == [1, 2, 3]
    assert [s.step for s in Training(training.AttributeTrainer(SETTINGS, resumed, stream), snapshot)] == [4, 5, 6]
    for name, tensor in whole.state_dict().items():
        assert torch.equal(tensor, resumed.state_dict()[name]), name


def test_a_snapshot_of_other_settings_is_refused(stream, tmp_path):
    snapshot = tmp_path / "judge.snapshot.pt"
    training.AttributeTrainer(SETTINGS, tiny("judge"), stream).save(snapshot)
    other = training.AttributeTrainer(replace(SETTINGS, lr=1e-4), tiny("judge"), stream)
    with pytest.raises(
        CheckpointError, match=r"judge\.snapshot\.pt: made with other settings \(lr 0.002, not 0.0001\)"
    ):
        Training(other, snapshot)


@pytest.mark.parametrize(
    ("train", "load"),
    [(train_networks.train_perceptual, load_perceptual_net), (train_networks.train_judge, load_judge)],
)
def test_training_writes_a_loadable_file_with_a_card(train, load, tmp_path, monkeypatch):
    monkeypatch.setattr(train_networks, "TEST_SEEDS", range(TEST_SEEDS.start, TEST_SEEDS.start + 20))
    out = tmp_path / "net.safetensors"
    assert [s.step for s in train(out, tmp_path, steps=2, images=20, resolution=32)] == [1, 2]
    images = portraits(range(3), 32)[0]
    assert load(str(out)).read(images).isfinite().all()
    assert not list(tmp_path.glob("*.snapshot.pt"))
    assert list(train(out, tmp_path, steps=2, images=20, resolution=32)) == []  # it is there already


def test_the_portraits_of_the_judge_are_kept_for_it(tmp_path):
    with pytest.raises(UsageError, match="kept for the judge"):
        train_networks.train_perceptual(tmp_path / "p.safetensors", tmp_path, images=train_networks.JUDGE_START + 1)


def test_partners_share_identity_and_nothing_else():
    attributes = sample_attributes(range(10))
    same = attributes == training.partners(attributes)
    for name, column in COLUMN.items():
        assert same[:, column].all() == (name in training.IDENTITY), name


def test_identity_loss_prefers_the_right_partner():
    persons = torch.eye(6)
    right = training.identity_loss(torch.cat([persons, persons[:3]]), 6, 0.1)
    wrong = training.identity_loss(torch.cat([persons, persons[3:]]), 6, 0.1)
    assert right < 0.01 < 1 < wrong


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_degradations_change_the_chosen_share(share):
    images = portraits(range(8), 32)[0]
    degraded, strengths = degrade(images, torch.Generator().manual_seed(3), share)
    changed = (degraded - images).abs().amax(dim=(1, 2, 3)) > 0
    assert changed.all() if share else not changed.any()
    assert (strengths > 0).all() if share else not strengths.any()
    again = degrade(images, torch.Generator().manual_seed(3), share)[0]
    assert torch.equal(degraded, again)


@pytest.mark.parametrize("kind", ["perceptual", "judge"])
@pytest.mark.parametrize("fault", ["missing", "unbundled", "other", "shapes"])
def test_unusable_files_are_refused_by_name(kind, fault, tmp_path):
    load, save = (load_perceptual_net, save_perceptual_net) if kind == "perceptual" else (load_judge, save_judge)
    path = tmp_path / "net.safetensors"
    if fault == "unbundled":
        with pytest.raises(MissingWeightsError, match=r"no bundled .* 'nowhere'"):
            load("nowhere")
        return
    if fault == "other":
        save_tensors(path, {"ws": torch.zeros(1)}, {"format": "something-else"})
    if fault == "shapes":
        net = tiny(kind)
        net.config = replace(net.config, attributes=NAMES[:-1])
        save(path, net, {})
    with pytest.raises(CheckpointError, match=r"net\.safetensors"):
        load(str(path))


def test_only_evaluation_and_its_own_trainer_import_the_judge():
    root = Path(latentopt.__file__).parent
    importers = set()
    for path in root.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            modules = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            modules += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if any(module.startswith("latentopt.judge") for module in modules):
                importers.add(path.relative_to(root).as_posix())
    optimising = ("terms/", "parameterizations/", "initializers/", "encoders/", "generators/", "loop/", "perceptual/")
    assert "training/attributes.py" in importers
    assert not [path for path in importers if path.startswith(optimising)]


@pytest.fixture(scope="module")
def fresh_portraits():
    return portraits(TEST_SEEDS[5000:5060], 64)


@pytest.mark.parametrize(("load", "limit"), [(load_perceptual_net, 2e6), (load_judge, 3e6)])
def test_bundled_networks_read_portraits(load, limit, fresh_portraits):
    images, truth = fresh_portraits
    net = load("portraits")
    accuracy = training.accuracy(net, images, truth)
    assert accuracy["glasses"] > 0.95
    for name in ("yaw", "hair_tone", "skin_tone", "background_red", "position_x", "smile"):
        assert accuracy[name] > 0.7, name
    kind = "judge" if load is load_judge else "perceptual"
    assert (BUNDLED / f"{kind}.safetensors").stat().st_size < limit


def test_bundled_distance_orders_changes(fresh_portraits):
    """Nothing < a slight change of expression < another person; and blur does not go unnoticed."""
    images, truth = fresh_portraits
    net = load_perceptual_net("portraits")
    smiling = truth.clone()
    smiling[:, COLUMN["smile"]] = (truth[:, COLUMN["smile"]] + 0.3).clamp(max=1)
    soft = torch.nn.functional.avg_pool2d(images, 3, stride=1, padding=1, count_include_pad=False)
    features = net.features(images)

    def distance(other):
        return perceptual_distance(net, features, net.features(other)).mean().item()

    expression, person, blur = distance(render(smiling, 64)), distance(images.roll(1, 0)), distance(soft)
    assert 0 < expression < 0.2 * person
    assert 0.4 < person < 0.6
    assert blur > 0.02


def test_judge_tells_persons_apart(fresh_portraits):
    """The same person in another pose, light and expression is nearer than any other person, nearly always."""
    images, truth = fresh_portraits
    judge = load_judge("portraits")
    similarity = judge.embed(images) @ judge.embed(render(training.partners(truth), 64)).T  # [B,B]
    assert (similarity.argmax(dim=1) == torch.arange(len(images))).float().mean() > 0.8
    assert torch.allclose(judge.embed(images).norm(dim=1), torch.ones(len(images)), atol=1e-5)
