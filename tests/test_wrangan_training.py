"""`latentopt train wrangan`: weights mu + sigma * epsilon, what is trained of them, and the files that come of it."""

from __future__ import annotations

import json
import math
import signal
import sys
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from latentopt.checkpoints.networks import (
    load_discriminator,
    load_generator,
    save_discriminator,
    save_generator,
)
from latentopt.commands import main
from latentopt.errors import CheckpointError, UsageError
from latentopt.files.storage import load_tensors
from latentopt.generators.discriminator import Discriminator, DiscriminatorConfig
from latentopt.generators.stylegan2 import StyleGAN2, StyleGAN2Config
from latentopt.statistics.at_hand import given_or_found
from latentopt.statistics.sigma import SIGMA, Sigma
from latentopt.training.export import export, sample_sheet
from latentopt.training.generator import PARTS, GeneratorTrainer
from latentopt.training.generator_settings import GeneratorTraining
from latentopt.training.randomized import RandomizedWeights, last_convolutions
from latentopt.training.streams import ArrayStream, portrait_stream
from latentopt.types import GeneratorInputs

CHANNELS = (8, 6, 4)  # 16x16, five convolutions; no channel_base and channel_max give these
LAST_FOUR = ("b8.conv0", "b8.conv1", "b16.conv0", "b16.conv1")
MADE = {
    "snapshot.pt", "generator.safetensors", "discriminator.safetensors", "sigma.safetensors", "samples.png",
    "log.jsonl",
}  # fmt: skip
CARD = {"data": "portraits", "drawn": 32, "settings": {"batch": 8, "lr": 2e-3, "precision": "float32", "seed": 9}}


def random_pair(seed: int = 0, channels: tuple[int, ...] = CHANNELS, **changes) -> tuple[StyleGAN2, Discriminator]:
    torch.manual_seed(seed)
    return StyleGAN2(StyleGAN2Config(7, 6, channels, mapping_layers=3, **changes)), Discriminator(
        DiscriminatorConfig(channels, mbstd_group_size=2)
    )


def settings(**changes) -> GeneratorTraining:
    tiny = {"resolution": 16, "w_dim": 6, "batch": 4, "images": 24, "precision": "float32", "r1_interval": 2}
    return GeneratorTraining(**(tiny | {"randomized": 4} | changes))


def trainer_of(stream: ArrayStream, pair: tuple[StyleGAN2, Discriminator] | None = None, **changes) -> GeneratorTrainer:
    generator, discriminator = pair or random_pair()
    architecture = (generator.config, discriminator.config)
    trainer = GeneratorTrainer(settings(**changes), stream, architecture=architecture)
    trainer.start_from(generator, discriminator)
    return trainer


@pytest.fixture(scope="module")
def stream(tmp_path_factory) -> ArrayStream:
    return portrait_stream(tmp_path_factory.mktemp("data"), 16, 16)


def flat(value: object, name: str = "") -> dict[str, object]:
    if not isinstance(value, dict):
        return {name: value}
    return {k: v for key, part in value.items() for k, v in flat(part, f"{name}/{key}").items()}


def assert_same(a: dict, b: dict) -> None:
    """To the bit."""
    a, b = flat(a), flat(b)
    assert a.keys() == b.keys()
    for name, value in a.items():
        assert torch.equal(value, b[name]) if isinstance(value, Tensor) else value == b[name], name


def states(trainer: GeneratorTrainer) -> dict:
    return {name: getattr(trainer, name).state_dict() for name in trainer.parts} | {"path_mean": trainer.path_mean}


def untimed(record) -> list[str]:
    return [repr(value) for name, value in asdict(record).items() if name != "seconds"]


# The weights


@pytest.mark.parametrize("n", [1, 4, 5])
def test_the_last_convolutions(n):
    names = ("b4.conv1", *LAST_FOUR)[-n:]
    assert last_convolutions(random_pair()[0], n) == tuple(f"synthesis.{name}.weight" for name in names)


@pytest.mark.parametrize("n", [0, 6, -1])
def test_too_many_convolutions(n):
    with pytest.raises(UsageError, match="this generator has 5"):
        last_convolutions(random_pair()[0], n)


def test_gradients_reach_mu_and_sigma():
    """theta = mu + sigma epsilon: dL/dmu = dL/dtheta, dL/dsigma = dL/dtheta epsilon, and on through sigma's factors."""
    generator, _ = random_pair()
    randomized = RandomizedWeights(generator, last_convolutions(generator, 4), 0.25)
    with torch.no_grad():
        for parameter in randomized.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    ws = torch.randn(3, generator.num_ws, 6)
    deltas = randomized.draw(torch.Generator().manual_seed(5))
    image = generator.synthesis(GeneratorInputs(ws, deltas=deltas), "none")
    image.square().sum().backward()
    rng = torch.Generator().manual_seed(5)
    factors = (randomized.weights, randomized.level, randomized.outputs, randomized.inputs)
    for name, weight, level, outputs, inputs in zip(randomized.names, *factors, strict=True):
        gradient, shape = generator.get_parameter(name).grad, weight.shape
        epsilon, scale = torch.randn(shape, generator=rng), torch.exp(level + outputs + inputs)
        torch.testing.assert_close(deltas[name], (weight * scale * epsilon)[None])
        torch.testing.assert_close(weight.grad, gradient * epsilon * scale, rtol=1e-4, atol=1e-5)
        each = gradient * epsilon * scale * weight  # dL / d log sigma
        torch.testing.assert_close(level.grad, each.sum(), rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(outputs.grad, each.sum((1, 2, 3), keepdim=True), rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(inputs.grad, each.sum((0, 2, 3), keepdim=True), rtol=1e-3, atol=1e-4)
        assert gradient.abs().max() > 0
        generator.get_parameter(name).data += deltas[name][0].detach()
    torch.testing.assert_close(generator.synthesis(GeneratorInputs(ws), "none"), image, rtol=1e-4, atol=1e-5)


def test_the_level_is_kept():
    """Whatever the factors: the mean of log sigma over all weights, apart from `weights` of root mean square 1."""
    generator, _ = random_pair()
    randomized = RandomizedWeights(generator, last_convolutions(generator, 4), 0.25, keep_level=True)
    with torch.no_grad():
        for parameter in randomized.parameters():
            parameter += torch.randn_like(parameter) - 2
        logs, squares = [], []
        for sigma, weight in zip(randomized.sigma, randomized.weights, strict=True):
            logs.append((sigma / weight * weight.square().mean().sqrt()).log().flatten())
            squares.append((sigma / logs[-1].exp().reshape(sigma.shape)).square().mean())
    assert torch.cat(logs).mean().item() == pytest.approx(math.log(0.25), abs=1e-4)
    assert torch.cat(logs).std() > 0.5, "they may differ"
    torch.testing.assert_close(torch.stack(squares), torch.ones(4), rtol=1e-4, atol=0)
    torch.stack([sigma.square().sum() for sigma in randomized.sigma]).sum().backward()
    assert all(parameter.grad.abs().max() > 0 for parameter in randomized.parameters())


def test_figures_by_hand():
    generator, _ = random_pair()
    randomized = RandomizedWeights(generator, ["synthesis.b16.conv1.weight"], 0.5)  # 144 weights
    with torch.no_grad():
        randomized.weights[0].copy_(torch.linspace(-1, 1, 144).reshape(4, 4, 3, 3))
        randomized.weights[0].view(-1)[:36] = 1e-4
    (figures,) = randomized.figures().values()
    values = sorted([0.5e-4] * 36 + [abs(x) / 2 for x in torch.linspace(-1, 1, 144).tolist()[36:]])
    expected = {"q25": values[36], "median": values[72], "q75": values[107], "largest": 0.5, "small": 0.25}
    assert figures == pytest.approx(expected, rel=1e-5)


# The training


def test_without_randomised_weights_nothing_is_added(stream, tmp_path):
    """Neither to the snapshot nor to the draws; a snapshot from before there were any can be gone on with."""
    trainer = trainer_of(stream, randomized=0)
    assert not list(trainer.sigma.parameters())
    first = next(trainer.train())
    trainer.save(tmp_path / "snapshot.pt")
    state = torch.load(tmp_path / "snapshot.pt", weights_only=True)
    assert state.keys() == {*PARTS, "step", "path_mean", "settings", "made"}
    assert len(state["g_optimizer"]["state"]) == sum(p.grad is not None for p in trainer.generator.parameters())
    earlier = {
        k: v for k, v in json.loads(state["settings"]).items() if k not in ("randomized", "sigma_init", "keep_level")
    }
    torch.save(state | {"settings": json.dumps(earlier)}, tmp_path / "snapshot.pt")
    resumed = trainer_of(stream, random_pair(3), randomized=0)
    resumed.load(tmp_path / "snapshot.pt")
    assert_same(resumed.state(), trainer.state())
    tiny = trainer_of(stream, sigma_init=1e-30)
    assert untimed(next(tiny.train()))[2:4] == untimed(first)[2:4], "epsilon is drawn after the images' z"


@pytest.mark.parametrize(
    "changes", [{}, {"path_weight": 2.0, "path_interval": 2, "noise_from": 8, "keep_level": True}], ids=str
)
def test_saved_after_any_step_and_gone_on_with_is_the_same_to_the_bit(stream, changes, tmp_path):
    whole, records = trainer_of(stream, **changes), []
    for record in whole.train():
        records.append(untimed(record))
        whole.save(tmp_path / f"{record.step}.pt")
    for step in (1, 4):
        resumed = trainer_of(stream, **changes)
        next(resumed.train())  # whatever it holds is replaced
        resumed.load(tmp_path / f"{step}.pt")
        assert [untimed(record) for record in resumed.train()] == records[step:]
        assert_same(states(resumed), states(whole))


def test_all_is_trained_and_averaged(stream):
    """mu, every factor of sigma and the discriminator move; sigma's average follows it."""
    pair = random_pair()
    trainer = trainer_of(stream, pair, noise_from=0, ema_rampup=0.5, sigma_init=0.5)
    start = [p.clone() for p in trainer.sigma.parameters()]
    average = [p.clone() for p in trainer.sigma_ema.parameters()]
    for record in trainer.train():
        beta = 0.5 ** (4 / max(0.5 * (record.images - 4), 1))
        average = [a * beta + p.detach() * (1 - beta) for a, p in zip(average, trainer.sigma.parameters(), strict=True)]
    for before, now in zip(start, trainer.sigma.parameters(), strict=True):
        assert (before != now).any()
    for a, b in zip(average, trainer.sigma_ema.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)
    for network, before in zip((trainer.generator, trainer.discriminator), pair, strict=True):
        for a, b in zip(network.parameters(), before.parameters(), strict=True):
            assert (a != b).any()


def test_each_step_has_an_epsilon_of_its_own_that_all_its_images_share(stream):
    trainer, seen = trainer_of(stream), []
    trainer.generator.synthesis.register_forward_pre_hook(lambda module, arguments: seen.append(arguments[0].deltas))
    for _ in trainer.train():
        pass
    assert len(seen) == 6
    assert all(delta.shape[0] == 1 for deltas in seen for delta in deltas.values())
    first = [deltas["synthesis.b16.conv1.weight"].flatten() for deltas in seen]
    assert torch.corrcoef(torch.stack(first).detach()).triu(1).abs().max() < 0.5


# The files


@pytest.mark.parametrize("n", [4, 6, 8])
def test_exported(stream, n, tmp_path):
    """At every snapshot: the fingerprint is that of the generator beside it."""
    pair = random_pair(channels=(4, 4, 4, 4, 4))
    images = torch.zeros(1, 3, 64, 64, dtype=torch.uint8).numpy()
    trainer = trainer_of(ArrayStream(images), pair, resolution=64, randomized=n, images=8)
    blocks = ("b4.conv1", *(f"b{r}.{conv}" for r in (8, 16, 32, 64) for conv in ("conv0", "conv1")))
    for record in trainer.train():
        export(trainer, tmp_path, "tiny", {"data": "none"})
        generator = load_generator(tmp_path / "generator.safetensors")
        sigma = Sigma.load(tmp_path / "sigma.safetensors", generator)
        assert list(sigma.tensors) == sorted(f"synthesis.{name}.weight" for name in blocks[-n:])
        assert (sigma.origin, sigma.fingerprint) == ("learned", generator.fingerprint)
        assert sigma.base == pair[0].fingerprint != generator.fingerprint
        assert load_tensors(tmp_path / "generator.safetensors")[1]["fingerprint"] == generator.fingerprint
        assert sigma.card["images_seen"] == record.images
        assert sigma.card["settings"]["randomized"] == n
        assert sigma.card["figures"].keys() == sigma.tensors.keys()
        assert "channel_base" not in sigma.card["settings"]
    Sigma.load(tmp_path / "sigma.safetensors", pair[0])
    with torch.no_grad():
        for parameter in trainer.sigma_ema.weights:
            parameter.neg_()
    export(trainer, tmp_path, "tiny", {})
    assert_same(Sigma.load(tmp_path / "sigma.safetensors").tensors, sigma.tensors)


def test_the_sheet_shows_random_weights_and_the_means(stream, tmp_path):
    trainer = trainer_of(stream, sigma_init=0.5)
    sample_sheet(trainer, tmp_path / "a.png", side=3)
    sample_sheet(trainer, tmp_path / "b.png", side=3)
    first = pixels(tmp_path / "a.png")
    assert np.array_equal(first, pixels(tmp_path / "b.png"))
    sample_sheet(trainer_of(stream, sigma_init=1e-20), tmp_path / "c.png", side=3)
    changed = [(a != b).any() for a, b in zip(np.split(first, 5), np.split(pixels(tmp_path / "c.png"), 5), strict=True)]
    assert changed == [True] * 3 + [False] * 2


def pixels(path: Path) -> np.ndarray:
    """Without the border above: rows of equal height."""
    image = np.asarray(Image.open(path))
    return image[len(image) % 5 :]


# The command


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    write_pair(tmp_path / "first")
    return tmp_path


def write_pair(folder: Path, seed: int = 0, card: dict | None = None) -> tuple[StyleGAN2, Discriminator]:
    generator, discriminator = random_pair(seed)
    save_generator(generator, folder / "generator.safetensors", CARD if card is None else card)
    save_discriminator(discriminator, folder / "discriminator.safetensors", card)
    return generator, discriminator


@pytest.mark.parametrize("keep_level", [False, True])
def test_begun_with_an_earlier_sigma(keep_level):
    generator, _ = random_pair()
    names = last_convolutions(generator, 4)
    earlier, randomized = (RandomizedWeights(generator, names, 0.25, keep_level) for _ in range(2))
    with torch.no_grad():
        for parameter in earlier.parameters():
            parameter += 0.3 * torch.randn_like(parameter)
    randomized.begin_with(earlier.magnitudes())
    found, wanted = (torch.cat([x.flatten() for x in r.magnitudes().values()]) for r in (randomized, earlier))
    ratio = found / wanted
    assert (ratio / ratio.mean() - 1).abs().max() < 1e-4 and (keep_level or abs(ratio.mean() - 1) < 1e-4)
    with pytest.raises(UsageError, match="none for synthesis"):
        randomized.begin_with({})


@pytest.fixture
def train(folder, monkeypatch, capsys):
    """Run the command line as `main` does: (exit code, stderr). The signals' handlers are put back."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def call(*arguments: object) -> tuple[int, str]:
        fixed = ("--device", "cpu", "-q", "--layers", "4", "--images", "32", "--outdir", "out")
        monkeypatch.setattr(sys, "argv", ["latentopt", "train", "wrangan", *fixed, *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        for number, handler in handlers.items():
            signal.signal(number, handler)
        return ended.value.code or 0, capsys.readouterr().err

    return call


def snapshot(folder: str) -> dict:
    return torch.load(Path(folder) / "snapshot.pt", weights_only=True)


def test_from_a_folder_stopped_and_gone_on_with(train):
    """Data, batch and rate are the start's, precision is not; what comes of it is found as this generator's sigma."""
    code, err = train("--start", "first", "--outdir", "whole", "--sigma-init", "0.5")
    assert code == 0, err
    assert {path.name for path in Path("whole").iterdir()} == MADE
    assert snapshot("whole")["step"] == 4
    used = json.loads(snapshot("whole")["settings"])
    expected = {"batch": 8, "lr": 2e-3, "precision": "auto", "seed": 0, "randomized": 4, "sigma_init": 0.5}
    assert expected.items() <= used.items()
    assert train("--start", "first", "--sigma-init", "0.5", "--minutes", "0")[0] == 0
    assert snapshot("out")["step"] == 1
    code, err = train("--start", "first", "--sigma-init", "0.5")
    assert (code, "going on after 8 images" in err) == (0, True)
    assert_same(snapshot("out"), snapshot("whole"))
    generator = load_generator("out/generator.safetensors")
    sigma, path = given_or_found(SIGMA, generator)
    assert path == Path("out/sigma.safetensors")
    base = load_generator("first/generator.safetensors").fingerprint
    known = {"start": "first", "base": base, "layers": 4, "data": "portraits", "drawn": 32, "images_seen": 32}
    assert known.items() <= generator.card.items()
    assert known.items() <= sigma.card.items()
    assert sigma.base == base
    assert generator.config.channels == CHANNELS
    assert load_discriminator("out/discriminator.safetensors")(torch.zeros(2, 3, 16, 16)).isfinite().all()
    assert train("--start", "out", "--outdir", "again", "--minutes", "0")[0] == 0, "what was trained is a start too"
    assert train("--start", "first", "--sigma", "out/sigma.safetensors", "--outdir", "more", "--minutes", "0")[0] == 0
    assert load_generator("more/generator.safetensors").card["sigma"] == "sigma.safetensors"


def test_a_card_that_makes_no_sense_is_passed_over(train, folder):
    write_pair(
        folder / "first", card={"data": "portraits", "drawn": "many", "settings": {"batch": "x", "precision": "a"}}
    )
    code, err = train("--start", "first", "--drawn", "32", "--minutes", "0")
    assert code == 0, err
    used = json.loads(snapshot("out")["settings"])
    assert (used["batch"], used["precision"]) == (GeneratorTraining.batch, GeneratorTraining.precision)


def test_noise_joins_at_once_where_the_start_uses_it(train, folder):
    generator, _ = write_pair(folder / "first")
    assert train("--start", "first", "--minutes", "0")[0] == 0
    assert json.loads(snapshot("out")["settings"])["noise_from"] == GeneratorTraining.noise_from
    with torch.no_grad():
        generator.synthesis.b8.conv1.noise_strength.fill_(-0.5)
    del generator.fingerprint
    save_generator(generator, folder / "first" / "generator.safetensors", CARD)
    assert train("--start", "first", "--minutes", "0", "--outdir", "noisy")[0] == 0
    assert json.loads(snapshot("noisy")["settings"])["noise_from"] == 0


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("--start", "alone"), 2, "a training begins with a generator and its discriminator"),
        (("--start", "first/generator.safetensors"), 2, "give a folder with generator.safetensors and discriminator"),
        (("--start", "nowhere"), 1, "nowhere: no such file"),
        (("--start", "strange"), 2, "where its training data are; give --data"),
        (("--start", "faces"), 2, "it was trained on: folder faces"),
        (("--start", "larger"), 2, "its discriminator takes (32, 32)"),
        (("--start", "labelled"), 2, "takes labels"),
        (("--start", "oblong"), 2, "the training data are square"),
        (("--start", "first", "--layers", "6"), 2, "this generator has 5"),
        (("--start", "first", "--layers", "0"), 2, "this generator has 5"),
        (("--start", "first", "--sigma-init", "0"), 2, "--sigma-init"),
        ((), 2, "--start"),
    ],
    ids=lambda x: " ".join(x) if isinstance(x, tuple) else "",
)
def test_what_is_no_start(train, folder, arguments, code, words):
    write_pair(folder / "alone")
    (folder / "alone" / "discriminator.safetensors").unlink()
    write_pair(folder / "strange", card={})
    write_pair(folder / "faces", card={"data": "folder faces"})
    for name in ("larger", "labelled", "oblong"):
        write_pair(folder / name)
    larger = Discriminator(DiscriminatorConfig((4, 4, 4, 4)))
    save_discriminator(larger, folder / "larger" / "discriminator.safetensors")
    labelled, _ = random_pair(c_dim=2)
    save_generator(labelled, folder / "labelled" / "generator.safetensors", CARD)
    oblong, _ = random_pair(const_size=(4, 2))
    save_generator(oblong, folder / "oblong" / "generator.safetensors", CARD)
    narrow = Discriminator(DiscriminatorConfig(CHANNELS, const_size=(4, 2)))
    save_discriminator(narrow, folder / "oblong" / "discriminator.safetensors")
    found, err = train(*arguments)
    assert (found, words in " ".join(err.split()), "Traceback" in err) == (code, True, False), err
    assert not (folder / "out").exists() or not list((folder / "out").iterdir())


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("--layers", "3"), 1, "made with other settings (randomized 4, not 3); use another folder"),
        (("--sigma-init", "0.5"), 1, "made with other settings (sigma_init 1.0, not 0.5)"),
        (("--keep-level",), 1, "made with other settings (keep_level False, not True)"),
        (("--start", "second"), 1, "made with other settings (base "),
        (("--drawn", "33"), 2, "'drawn': 33}; use another --outdir"),
    ],
    ids=lambda x: " ".join(x) if isinstance(x, tuple) else "",
)
def test_what_does_not_go_on(train, folder, arguments, code, words):
    write_pair(folder / "second", seed=1)
    assert train("--start", "first", "--minutes", "0")[0] == 0
    before = (folder / "out" / "snapshot.pt").read_bytes()
    found, err = train("--start", "first", *arguments)
    assert (found, words in err, "Traceback" in err) == (code, True, False), err
    assert (folder / "out" / "snapshot.pt").read_bytes() == before


def test_a_plain_snapshot_is_not_gone_on_with(stream, tmp_path):
    trainer_of(stream, randomized=0).save(tmp_path / "snapshot.pt")
    with pytest.raises(CheckpointError, match=r"other settings \(randomized 0, not 4; base None"):
        trainer_of(stream).load(tmp_path / "snapshot.pt")
    trainer_of(stream).save(tmp_path / "snapshot.pt")
    with pytest.raises(CheckpointError, match=r"other settings \(randomized 4, not 0\)"):
        trainer_of(stream, randomized=0).load(tmp_path / "snapshot.pt")


@pytest.mark.parametrize("keep_level", [False, True])
def test_sigma_starts_at_what_is_asked_for(keep_level):
    generator, _ = random_pair()
    randomized = RandomizedWeights(generator, last_convolutions(generator, 5), 0.3, keep_level)
    for name, sigma in randomized.magnitudes().items():
        assert tuple(sigma.shape) == generator.tunable[name]
        assert sigma.min().item() == pytest.approx(0.3, rel=1e-6)
        assert math.isclose(sigma.max().item(), sigma.min().item())
