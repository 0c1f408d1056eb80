"""`latentopt train refiner` and `train flow`: the paper's two paths, known flows, exact resumption."""

from __future__ import annotations

import json

import pytest
import torch
from conftest import make_encoder, make_tiny_generator

from latentopt.checkpoints.networks import load_generator, save_discriminator, save_generator
from latentopt.data.portraits import NAMES, render, sample_attributes
from latentopt.data.warps import affine_flow, grid, head_flow, spline_flow
from latentopt.encoders.files import save_encoder
from latentopt.errors import CheckpointError, MissingWeightsError, UsageError
from latentopt.generators.discriminator import DiscriminatorConfig
from latentopt.refiners.config import RefinerConfig
from latentopt.refiners.files import load_refiner
from latentopt.refiners.refiner import NetworkRefiner, WarpRes, make_teacher
from latentopt.refiners.teachers import WarpFlowConfig, WarpFlowNet, load_flow
from latentopt.refiners.warping import warp
from latentopt.training.encoder_data import SampleStream
from latentopt.training.flow import FlowTrainer, FlowTraining
from latentopt.training.refiner import RefinerTrainer
from latentopt.training.refiner_files import validate
from latentopt.training.refiner_settings import RefinerTraining
from latentopt.training.train_flow import train_flow
from latentopt.training.train_refiner import own_discriminator

QUICK = {"steps": 8, "batch": 4, "precision": "float32", "perceptual_net": "bundled", "lr": 3e-3}


@pytest.fixture(scope="module")
def generator():
    return make_tiny_generator()


@pytest.fixture(scope="module")
def discriminator_file(tmp_path_factory):
    config = DiscriminatorConfig((8, 8, 6, 6), const_size=(4, 4), mbstd_group_size=4)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        path = tmp_path_factory.mktemp("d") / "discriminator.safetensors"
        save_discriminator(config.build(), path, {})
    return path


class Sideways:
    """A teacher that sees everything half a pixel to the right, unless nothing has changed."""

    def __call__(self, before, after):
        changed = (before != after).flatten(1).any(dim=1).float()
        return changed[:, None, None, None] * torch.tensor([0.5, 0.0]).view(1, 2, 1, 1).expand(
            len(after), 2, *after.shape[2:]
        )


def make_trainer(generator, teacher=None, critic=None, **changes) -> RefinerTrainer:
    settings = RefinerTraining(**QUICK | changes)
    narrow = {"width": 8, "read_width": 8, "flow_width": 6, "form": settings.form}
    config = RefinerConfig.for_generator(generator, settings.kind, **narrow)
    encoder, stream = make_encoder(generator, "e4e"), SampleStream(generator, generator.resolution)
    return RefinerTrainer(settings, config, generator, encoder, stream, critic, teacher)


# ---- settings


def test_the_rate_is_halved_at_each_quarter_as_after_5000_of_20000_steps():
    settings = RefinerTraining(steps=20_000)
    assert [settings.rate(step) for step in (0, 4999, 5000, 9999, 10_000, 15_000, 19_999)] == [
        1, 1, 0.5, 0.5, 0.25, 0.125, 0.125,
    ]  # fmt: skip


@pytest.mark.parametrize(("cycle", "expected"), [(0.0, 0), (0.25, 5), (0.5, 10), (1.0, 20)])
def test_so_many_of_the_steps_edit(cycle, expected):
    assert sum(RefinerTraining(cycle=cycle).edits(step) for step in range(20)) == expected


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"kind": "x"}, "styleres, warpres"),
        ({"form": "x"}, "plain, gated"),
        ({"steps": 0}, "at least 1"),
        ({"alpha": 0.6}, "alpha below alpha_max"),
        ({"cycle": 1.5}, "cycle must lie"),
    ],
    ids=str,
)
def test_settings_that_cannot_be_meant_are_refused(generator, wrong, words):
    with pytest.raises(UsageError, match=words):
        RefinerTraining(**wrong).check(generator)


# ---- the two paths


def test_the_path_without_edit_has_the_losses_of_equation_9(generator):
    trainer = make_trainer(generator, cycle=0.0)
    target = trainer.stream.batch(0, 4)
    base = trainer.encoder.encode(generator, target)[-1]
    image, losses = trainer._plain(target, base)
    refined = NetworkRefiner(generator, trainer.trained())(target, base, base)
    added = refined.residuals["b16.conv0"]
    assert torch.allclose(image, generator.synthesis(refined), atol=1e-4)
    assert losses["l2"].item() == pytest.approx((image - target).square().mean().item(), rel=1e-4)
    assert losses["feature"].item() == pytest.approx(added.abs().mean().item(), rel=1e-3)
    expected = losses["l2"] + losses["perceptual"] + 0.1 * losses["similarity"] + 0.01 * losses["feature"]
    assert losses["loss"].item() == pytest.approx(expected.item(), rel=1e-5)


def test_the_cycle_edits_by_a_share_of_the_way_to_a_sample_and_back(generator, monkeypatch):
    trainer = make_trainer(generator, Sideways())
    target = trainer.stream.batch(0, 4)
    base = trainer.encoder.encode(generator, target)[-1]
    random = generator.broadcast(generator.w_avg[None]).expand(4, -1, -1)
    calls = []
    plain = RefinerTrainer._refined
    monkeypatch.setattr(RefinerTrainer, "_refined", lambda self, *a: (calls.append(a), plain(self, *a))[1])
    image, losses = trainer._cycle(target, base, torch.full((4, 1, 1), 0.45), random)
    (x, first, edited), (shown, again, returned) = calls
    assert torch.equal(x, target)
    assert torch.allclose(edited.ws, torch.lerp(first.ws, random, 0.45), atol=1e-5), "equation 2"
    assert shown is image
    assert torch.equal(again.ws, trainer.encoder.encode(generator, image.detach())[-1].ws)
    assert torch.allclose(returned.ws - again.ws, first.ws - edited.ws, atol=1e-5), "the step back"
    expected = 0.1 * losses["perceptual"] + 0.01 * losses["similarity"] + 0.01 * losses["feature"]
    assert losses["loss"].item() == pytest.approx((expected + 0.1 * losses["flow"]).item(), rel=1e-4)
    losses["loss"].backward()
    assert trainer.net.reader.conv.weight.grad.abs().max() > 0


def test_it_learns_what_the_codes_lack_and_the_teachers_flow(generator):
    trainer = make_trainer(generator, Sideways(), steps=16, cycle=0.5, flow_weight=1.0, lr=5e-3)
    images = trainer.stream.batch(99, 4)
    before, records = validate(trainer, images), list(trainer.train())
    after = validate(trainer, images)
    assert after["base_l2"] == before["base_l2"]
    assert after["l2"] < 0.97 * before["l2"], "of the average, which lags behind"
    flows = [record["flow"] for record in records if record["edits"]]
    assert sum(flows[-3:]) < 0.9 * sum(flows[:3])


@pytest.mark.parametrize(("kind", "form"), [("styleres", "gated"), ("warpres", "plain")])
def test_a_training_that_was_resumed_is_that_which_was_not(generator, discriminator_file, kind, form, tmp_path):
    def made():
        critic, _ = own_discriminator(generator, str(discriminator_file), 4)
        return make_trainer(generator, Sideways() if kind == "warpres" else None, critic, kind=kind, form=form, steps=4)

    whole, first = made(), made()
    for _ in range(4):
        last = whole.update()
    for _ in range(2):
        first.update()
    first.save(tmp_path / "s.pt")
    again = made()
    again.load(tmp_path / "s.pt")
    records = list(again.train())
    assert {k: v for k, v in records[-1].items() if k != "seconds"} == {k: v for k, v in last.items() if k != "seconds"}
    for name, tensor in whole.ema.state_dict().items():
        assert torch.equal(tensor, again.ema.state_dict()[name]), name
    other = make_trainer(generator, None, None, kind=kind, form=form, steps=5)
    with pytest.raises(CheckpointError, match="made with other settings"):
        other.load(tmp_path / "s.pt")


def test_the_discriminator_is_found_beside_its_generator_or_said_to_be_missing(generator, discriminator_file, tmp_path):
    save_generator(generator, tmp_path / "generator.safetensors")
    alone = load_generator(str(tmp_path / "generator.safetensors"))
    found, note = own_discriminator(alone, None, 4)
    assert found is None
    assert "--discriminator FILE" in note
    (tmp_path / "discriminator.safetensors").write_bytes(discriminator_file.read_bytes())
    found, note = own_discriminator(alone, None, 4)
    assert found is not None
    assert not note
    with pytest.raises(UsageError, match="groups of 4"):
        own_discriminator(alone, str(discriminator_file), 6)
    with pytest.raises(CheckpointError, match="judges pictures of"):
        own_discriminator(make_tiny_generator(channels=(8, 6, 4)), str(discriminator_file), 4)


# ---- known flows


def test_an_affine_flow_is_affine_and_a_spline_goes_through_its_shifts():
    like, size = torch.zeros(1), (12, 16)
    flow = affine_flow(3, size, torch.Generator().manual_seed(0), like)
    at = torch.cat([grid(size, like).reshape(-1, 2), torch.ones(12 * 16, 1)], dim=1)
    for one in flow:
        values = one.reshape(2, -1).T
        fit = torch.linalg.lstsq(at, values).solution
        assert torch.allclose(at @ fit, values, atol=1e-4)
    bent = spline_flow(2, (4, 4), torch.Generator().manual_seed(1), like)  # the knots themselves
    shifts = torch.randn(2, 16, 2, generator=torch.Generator().manual_seed(1)) * 0.06 * 2
    assert torch.allclose(bent.flatten(2).transpose(1, 2), shifts, atol=1e-3)


def test_the_flow_of_a_turned_head_brings_the_one_picture_to_the_other():
    first = sample_attributes(range(40, 46))
    for name in ("glasses", "fringe", "beard"):
        first[:, NAMES.index(name)] = 0
    second = first.clone()
    second[:, NAMES.index("yaw")] = -first[:, NAMES.index("yaw")]
    second[:, NAMES.index("position_x")] += 0.5
    one, other = render(first, 64), render(second, 64)
    flow, known = head_flow(first, second, (64, 64))
    assert 0.05 < known.mean() < 0.5
    assert flow.abs().mul(known).amax() > 4

    def error(x):
        return ((x - other).square() * known).sum() / known.sum()

    assert error(warp(one, flow)) < 0.4 * error(one)


def test_pairs_are_warped_by_their_flow_and_differ_from_step_to_step(generator):
    trainer = FlowTrainer(FlowTraining(steps=4, batch=2, size=32), generator, SampleStream(generator, (32, 32)), True)
    for step in range(3):
        pairs = trainer.pairs(step)
        again = trainer.pairs(step)
        assert torch.equal(pairs.after, again.after)
        assert torch.equal(pairs.flow, again.flow)
        assert not torch.equal(pairs.flow, trainer.pairs(step + 3).flow)
        assert pairs.before.shape == pairs.after.shape == (2, 3, 32, 32)
        assert set(pairs.known.unique().tolist()) <= {0.0, 1.0}


def test_a_flow_network_learns_resumes_and_is_read_back(generator, tmp_path):
    settings = FlowTraining(steps=24, batch=4, size=32, lr=3e-3, precision="float32")
    training = train_flow(tmp_path, generator, settings, data="samples")
    records = list(training)
    assert sum(r["error"] for r in records[-6:]) < 0.9 * sum(r["error"] for r in records[:6])
    net = load_flow(tmp_path / "flow.safetensors")
    x = torch.rand(2, 3, 32, 32)
    assert net(x, x).abs().max() == 0, "a picture has not moved from itself"
    done = train_flow(tmp_path, generator, settings, data="samples")
    assert list(done) == []
    assert (tmp_path / "flow.png").is_file()


@pytest.mark.parametrize("size", [(32, 32), (64, 32), (128, 128), (40, 56)], ids=str)
def test_a_teacher_takes_pictures_of_any_size(generator, size, tmp_path):
    from latentopt.perceptual.network_file import save_network
    from latentopt.refiners.teachers import FORMAT

    config = WarpFlowConfig((4, 4, 4), 4, 32)
    save_network(tmp_path / "f.safetensors", WarpFlowNet(config), config, {}, FORMAT)
    teacher = make_teacher("warps", generator, str(tmp_path / "f.safetensors"))
    assert teacher(torch.rand(2, 3, *size), torch.rand(2, 3, *size)).shape == (2, 2, *size)


def test_teachers_that_cannot_be_had_say_what_would_help(generator, monkeypatch, tmp_path):
    with pytest.raises(MissingWeightsError, match="latentopt train flow"):
        make_teacher("warps", generator)
    with pytest.raises(UsageError, match="did you mean 'raft'"):
        make_teacher("raf", generator)

    def offline(*arguments, **options):
        raise OSError("no network")

    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", offline)
    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", offline)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(MissingWeightsError, match="RAFT are not on this machine"):
        make_teacher("raft", generator)


def test_raft_reads_torchvisions_file(generator, tmp_path):
    from torchvision.models.optical_flow import raft_small

    torch.save(raft_small(weights=None).state_dict(), tmp_path / "raft.pth")
    teacher = make_teacher("raft", generator, str(tmp_path / "raft.pth"))
    x = torch.rand(1, 3, 32, 32)
    found = teacher(x, torch.rand(1, 3, 32, 32))
    assert found.shape == (1, 2, 32, 32)
    assert teacher(x, x).abs().max() == 0
    torch.save({"a": torch.zeros(1)}, tmp_path / "other.pth")
    with pytest.raises(CheckpointError, match="not torchvision's weights of RAFT"):
        make_teacher("raft", generator, str(tmp_path / "other.pth"))


# ---- commands


def test_from_training_to_an_edited_picture(folder, latentopt):
    generator = load_generator("net/tiny.safetensors")
    save_encoder(make_encoder(generator, "e4e"), folder / "e4e.safetensors")
    network = ("--network", "net/tiny.safetensors")
    code, _, err = latentopt("train", "flow", *network, "--data", "samples", "--steps", "2", "--batch", "2", "-q")
    assert code == 0, err
    train = ("train", "refiner", "--kind", "warpres", *network, "--encoder", "e4e.safetensors", "--data", "samples")
    small = ("--steps", "2", "--batch", "2", "--width", "8", "--perceptual", "bundled", "-q")
    code, _, err = latentopt(*train, *small)
    assert (code, "train flow" in err) == (1, True), "no teacher yet"
    code, _, err = latentopt(*train, *small, "--teacher-file", "train/flow.safetensors")
    assert code == 0, err
    assert "no discriminator at hand" in err
    made = load_refiner("train/refiner-warpres.safetensors", generator)
    assert made.card["teacher"] == "warps"
    assert (folder / "train" / "refiner-warpres.png").is_file()
    lines = [json.loads(line) for line in (folder / "train" / "refiner-warpres.jsonl").read_text().splitlines()]
    assert lines[-1]["held_out"].keys() == {"l2", "perceptual", "base_l2", "base_perceptual"}
    begin = ("--start", "train/refiner-warpres.safetensors", "--teacher", "none", "--lr", "1e-9")
    code, _, err = latentopt(*train, *small, *begin, "--outdir", "further")
    assert code == 0, err
    further = load_refiner("further/refiner-warpres.safetensors", generator)
    assert further.card["start"] == "refiner-warpres.safetensors"
    for one, other in zip(made.net.parameters(), further.net.parameters(), strict=True):
        assert torch.allclose(one, other, atol=1e-6), "it began with those weights"
    code, _, err = latentopt(*train, *small, *begin, "--width", "4", "--outdir", "narrow")
    assert (code, "another architecture" in err) == (1, True)
    encode = ("encode", "photos", *network, "--encoder", "e4e.safetensors", "--terms", "l2", "-q")
    code, _, err = latentopt(*encode, "--refine", "train/refiner-warpres.safetensors")
    assert code == 0, err
    taught = 'flow = "warps", flow_path = "train/flow.safetensors"'
    again = f'{{name = "file", path = "train/refiner-warpres.safetensors", {taught}}}'
    code, _, err = latentopt(*encode, "--refine", again, "--outdir", "taught")
    assert code == 0, err


def test_the_options_of_a_teacher_go_with_one(generator, tmp_path):
    with pytest.raises(UsageError, match="no file"):
        WarpRes(generator, flow_path=str(tmp_path))
