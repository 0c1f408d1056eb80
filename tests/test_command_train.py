"""`latentopt train generator`: stopped anywhere and gone on with, it ends in the same bits; and the losses by hand."""

from __future__ import annotations

import json
import math
import os
import signal
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from latentopt.checkpoints.networks import load_discriminator, load_generator
from latentopt.commands import main
from latentopt.data.portraits import portraits
from latentopt.errors import CheckpointError
from latentopt.files.storage import load_tensors
from latentopt.pictures.images import save_png
from latentopt.training import loop
from latentopt.training.building import family_of, random_generator, settle_magnitudes
from latentopt.training.generator import PARTS, GeneratorTrainer
from latentopt.training.generator_settings import GeneratorTraining
from latentopt.training.losses import discriminator_loss, generator_loss, path_lengths, r1_penalty
from latentopt.training.snapshots import load_snapshot, save_snapshot
from latentopt.training.streams import ArrayStream, portrait_stream

STEPS = 8
TINY = (
    "--resolution", "16", "--channel-base", "128", "--channel-max", "8", "--w-dim", "8", "--mapping-layers", "2",
    "--images", "64", "--batch", "8", "--precision", "float32", "--device", "cpu",
)  # fmt: skip
DRAWN = ("--drawn", "32")
MADE = {"snapshot.pt", "generator.safetensors", "discriminator.safetensors", "samples.png", "log.jsonl"}


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def train(monkeypatch, capsys):
    """Run the command line as `main` does: (exit code, stdout, stderr). The signals' handlers are put back."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def call(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["latentopt", "train", "generator", *TINY, *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        for number, handler in handlers.items():
            signal.signal(number, handler)
        return ended.value.code or 0, *capsys.readouterr()

    return call


def interrupt(monkeypatch, after: int, *numbers: int) -> None:
    """Send this process signals in the middle of step `after`."""
    plain = GeneratorTrainer._update_ema

    def update(self):
        plain(self)
        if self.step + 1 == after:
            for number in numbers:
                os.kill(os.getpid(), number)

    monkeypatch.setattr(GeneratorTrainer, "_update_ema", update)


def snapshot(folder: str | Path) -> dict:
    return torch.load(Path(folder) / "snapshot.pt", weights_only=True)


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


def card(folder: str | Path) -> dict:
    return json.loads(load_tensors(Path(folder) / "generator.safetensors")[1]["card"])


def test_a_training_stopped_and_gone_on_with_is_the_whole_one(train, monkeypatch, folder):
    """By the clock, by Ctrl-C and by SIGTERM; what is kept on the way can be used."""
    assert train(*DRAWN, "--outdir", "whole", "--name", "tiny", "-q")[0] == 0
    assert {path.name for path in Path("whole").iterdir()} == MADE
    assert snapshot("whole")["step"] == STEPS
    arguments = (*DRAWN, "--outdir", "out", "--name", "tiny")
    assert train(*arguments, "--minutes", "0")[0] == 0
    assert {path.name for path in Path("out").iterdir()} == MADE
    assert snapshot("out")["step"] == 1
    for step, number in ((3, signal.SIGINT), (5, signal.SIGTERM)):
        with monkeypatch.context() as patch:
            interrupt(patch, step, number)
            code, _, err = train(*arguments)
        assert code == 130
        assert f"going on after {8 * {3: 1, 5: 3}[step]} images" in err
        assert snapshot("out")["step"] == step
        assert card("out")["images_seen"] == 8 * step
        assert load_generator("out/generator.safetensors").resolution == (16, 16)
    code, _, err = train(*arguments)
    assert code == 0
    assert "going on after 40 images" in err
    assert_same(snapshot("out"), snapshot("whole"))
    for name in ("generator", "discriminator"):
        ours, theirs = (load_tensors(Path(f) / f"{name}.safetensors")[0] for f in ("out", "whole"))
        assert_same(ours, theirs)
    assert train(*arguments, "-q")[0] == 0, "nothing is left to do"
    assert_same(snapshot("out"), snapshot("whole"))
    assert train(*arguments, "--images", "80", "-q")[0] == 0
    assert snapshot("out")["step"] == 10, "more images may be asked for"


def test_what_a_training_leaves(train, folder):
    assert train(*DRAWN, "--outdir", "out", "--name", "tiny", "--seed", "5", "-q")[0] == 0
    generator = load_generator("out/generator.safetensors")
    assert (generator.card["name"], generator.resolution, generator.w_dim) == ("tiny", (16, 16), 8)
    assert generator.config.channels == (8, 8, 8)
    known = {key: generator.card[key] for key in ("data", "drawn", "images_seen", "steps", "seed")}
    assert known == {"data": "portraits", "drawn": 32, "images_seen": 64, "steps": STEPS, "seed": 5}
    assert generator.card["command"].startswith("latentopt train generator --resolution 16")
    average = snapshot("out")["ema"]
    assert all(torch.equal(x, average[name]) for name, x in generator.state_dict().items() if name in average)
    logits = load_discriminator("out/discriminator.safetensors")(torch.zeros(4, 3, 16, 16))
    assert logits.isfinite().all()


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("--drawn", "33"), 2, "'drawn': 33}; use another --outdir"),
        (("--drawn", "32", "--data", "pictures"), 2, "was trained on {'data': 'portraits', 'drawn': 32}, not on"),
        (("--drawn", "32", "--lr", "0.1"), 1, "made with other settings (lr 0.0025, not 0.1); use another folder"),
        (("--drawn", "32", "--resolution", "24"), 2, "power of 2"),
        (("--drawn", "32", "--resolution", "4"), 2, "power of 2"),
    ],
    ids=lambda x: " ".join(x) if isinstance(x, tuple) else "",
)
def test_what_does_not_go_on(train, folder, arguments, code, words):
    draw_pictures(folder / "pictures", 4)
    assert train(*DRAWN, "--minutes", "0", "--outdir", "out", "-q")[0] == 0
    before = (folder / "out" / "snapshot.pt").read_bytes()
    found, _, err = train(*arguments, "--outdir", "out", "-q")
    assert (found, words in err, "Traceback" in err) == (code, True, False), err
    assert (folder / "out" / "snapshot.pt").read_bytes() == before


def draw_pictures(folder: Path, n: int) -> None:
    images, _ = portraits(range(n), 20)
    for i, image in enumerate(images):
        save_png(folder / f"{i}.png", image)


def test_a_folder_of_pictures(train, folder):
    draw_pictures(folder / "faces", 5)
    draw_pictures(folder / "others", 5)
    (folder / "faces" / "broken.png").write_text("not a picture")
    arguments = ("--data", "faces", "--outdir", "out", "--cache", "cache", "-q")
    code, _, err = train(*arguments, "--minutes", "0")
    assert code == 0, err
    assert "skipped: faces/broken.png" in err
    assert card("out")["data"] == "folder faces"
    assert "drawn" not in card("out")
    assert train(*arguments)[0] == 0
    assert snapshot("out")["step"] == STEPS
    code, _, err = train("--data", "others", *arguments[2:])
    assert (code, "was trained on {'data': 'folder faces'}, not on {'data': 'folder others'}" in err) == (2, True)
    assert len(list((folder / "cache").glob("*.npy"))) == 2, "read once each"


def test_folders_without_pictures(train, folder):
    (folder / "empty").mkdir()
    (folder / "broken").mkdir()
    (folder / "broken" / "a.png").write_text("not a picture")
    for data, code, words in (("empty", 2, "no images found"), ("nowhere", 2, "no such"), ("broken", 1, "none of its")):
        found, _, err = train("--data", data, "-q")
        assert (found, words in err, "Traceback" in err) == (code, True, False), err


def test_time_that_runs_out_between_two_looks_at_the_clock_loses_nothing(train, folder, monkeypatch):
    """Kept, then ended: never ended without having been kept."""
    times = iter([0.0] * 2)
    monkeypatch.setattr(loop, "time", SimpleNamespace(monotonic=lambda: next(times, 100.0)))
    assert train(*DRAWN, "--minutes", "1", "--outdir", "out", "-q")[0] == 0
    assert snapshot("out")["step"] == 2


# The trainer


def settings(**changes) -> GeneratorTraining:
    tiny = {"resolution": 16, "channel_base": 128, "channel_max": 8, "w_dim": 8, "mapping_layers": 2, "batch": 4}
    return GeneratorTraining(**(tiny | {"images": 24, "precision": "float32", "r1_interval": 2} | changes))


@pytest.fixture(scope="module")
def stream(tmp_path_factory) -> ArrayStream:
    return portrait_stream(tmp_path_factory.mktemp("data"), 16, 16)


def states(trainer: GeneratorTrainer) -> dict:
    return {name: getattr(trainer, name).state_dict() for name in PARTS} | {"path_mean": trainer.path_mean}


def parts_of(trainer: GeneratorTrainer) -> dict[str, dict]:
    return {name: dict(getattr(trainer, name).named_parameters()) for name in ("generator", "ema", "discriminator")}


def differ(first: dict, second: dict) -> bool:
    return any(not torch.equal(x, second[key]) for key, x in first.items())


def untimed(record) -> list:
    return [repr(getattr(record, name)) for name in ("step", "images", "d_loss", "g_loss", "r1", "path")]


CHANGES = (
    {},
    {"path_weight": 2.0, "path_interval": 2, "noise_from": 8},
    {"discriminator_first": 12},
    {"family": "stylegan3-t", "layers": 4},
    {"family": "stylegan3-r", "layers": 4, "discriminator_first": 12},
)


@pytest.mark.parametrize("changes", CHANGES, ids=str)
def test_saved_after_any_step_and_gone_on_with_is_the_same_to_the_bit(stream, changes, folder):
    whole = GeneratorTrainer(settings(**changes), stream)
    records = []
    for record in whole.train():
        records.append(untimed(record))
        whole.save(folder / f"{record.step}.pt")
    assert len(records) == 6
    for step in (1, 2, 5):
        resumed = GeneratorTrainer(settings(**changes), stream)
        resumed.load(folder / f"{step}.pt")
        assert [untimed(record) for record in resumed.train()] == records[step:]
        assert_same(states(resumed), states(whole))
    other = GeneratorTrainer(settings(**changes, seed=1), stream)
    assert untimed(next(other.train())) != records[0]


def test_noise_joins_late(stream):
    """Before, the images do not depend on it, and its strengths stay at zero."""
    trainer, modes, strengths = GeneratorTrainer(settings(noise_from=8, path_weight=2.0), stream), [], []
    trainer.generator.synthesis.register_forward_pre_hook(lambda module, arguments: modes.append(arguments[1]))
    for record in trainer.train():
        modes, seen = [], set(modes)
        assert seen == {"none" if record.step <= 2 else "random"}
        named = trainer.generator.named_parameters()
        strengths.append(sum(x.abs().sum().item() for name, x in named if name.endswith("noise_strength")))
    assert strengths[:2] == [0, 0]
    assert all(strength > 0 for strength in strengths[2:])


def test_noise_is_never_weaker_than_asked(stream):
    """Weaker ones of a start are raised, in the generator and its average; the training keeps them there."""
    start = GeneratorTrainer(settings(), stream)
    strongest = next(iter(start.generator.synthesis.layers.values())).noise_strength
    strongest.data.fill_(-0.5)
    trainer = GeneratorTrainer(settings(noise_strength=0.01), stream)
    trainer.start_from(start.generator, start.discriminator)
    for network in (trainer.generator, trainer.ema):
        strengths = [layer.noise_strength.item() for layer in network.synthesis.layers.values()]
        assert strengths == pytest.approx([-0.5] + [0.01] * (len(strengths) - 1))
    for _ in trainer.train():
        strengths = [layer.noise_strength.item() for layer in trainer.generator.synthesis.layers.values()]
        assert min(map(abs, strengths)) >= 0.01 - 1e-9


def test_the_discriminator_may_learn_alone_first(stream):
    trainer = GeneratorTrainer(settings(discriminator_first=8), stream)
    before = {name: {k: x.clone() for k, x in state.items()} for name, state in parts_of(trainer).items()}
    for record in trainer.train():
        changed = {name for name, state in parts_of(trainer).items() if differ(state, before[name])}
        alone = record.step <= 2
        assert changed == {"discriminator"} | (set() if alone else {"generator", "ema"})
        assert math.isnan(record.g_loss) == alone


def test_first_moments_that_forget_are_not_kept(stream, folder):
    """A snapshot with all of Adam's state, as earlier releases wrote, is continued as one without."""
    trainer = GeneratorTrainer(settings(), stream)
    next(trainer.train())
    state = trainer.state()
    assert all(moments.keys() == {"step", "exp_avg_sq"} for moments in state["g_optimizer"]["state"].values())
    whole = state | {name: getattr(trainer, name).state_dict() for name in ("g_optimizer", "d_optimizer")}
    records = []
    for saved in (state, whole):
        save_snapshot(folder / "snapshot.pt", saved)
        resumed = GeneratorTrainer(settings(), stream)
        resumed.load(folder / "snapshot.pt")
        records.append([untimed(record) for record in resumed.train()])
    assert records[0] == records[1]


def test_new_portraits_at_each_step(train, folder):
    """None is kept; the training goes on with them alone."""
    code, _, err = train("--drawn", "0", "--outdir", "new", "--cache", "data")
    assert code == 0, err
    assert json.loads(load_tensors(folder / "new" / "generator.safetensors")[1]["card"])["drawn"] == 0
    assert not (folder / "data").exists()
    code, _, err = train("--outdir", "new", *DRAWN)
    assert code == 2 and "was trained on {'data': 'portraits', 'drawn': 0}" in err


def test_the_average_follows_the_weights(stream):
    """beta = 0.5^(batch / half-life), the half-life growing with the images seen: half of them here, at least 1."""
    trainer = GeneratorTrainer(settings(ema_rampup=0.5, images=16), stream)
    expected = [x.detach().clone() for x in trainer.ema.parameters()]
    for record in trainer.train():
        beta = 0.5 ** (4 / max(0.5 * (record.images - 4), 1))
        expected = [
            e * beta + x.detach() * (1 - beta) for e, x in zip(expected, trainer.generator.parameters(), strict=True)
        ]
    for average, value in zip(trainer.ema.parameters(), expected, strict=True):
        torch.testing.assert_close(average, value, rtol=1e-4, atol=1e-6)
    assert torch.equal(trainer.ema.w_avg, trainer.generator.w_avg)


@pytest.mark.parametrize(("family", "kernel", "filters"), [("stylegan3-t", 3, 1), ("stylegan3-r", 1, 2)])
def test_what_a_stylegan3_is_made_of(family, kernel, filters):
    """The kernels and filters of the paper's two forms, and R's wider layers; the seed alone gives its weights."""
    generator = random_generator(settings(family=family, layers=4))
    assert generator.config.channels == {3: (8, 8, 8, 8), 1: (16, 16, 16, 16)}[kernel]
    first = next(iter(generator.synthesis.layers.values()))
    assert (first.weight.shape[-1], first.down_filter.ndim) == (kernel, filters)
    assert family_of(generator) == family
    assert random_generator(settings(family=family, layers=4)).fingerprint == generator.fingerprint


def test_magnitudes_of_activations_are_followed(stream):
    """magnitude_ema goes towards the mean square of what comes in, 0.999 a step of 32; the frequencies stay."""
    trainer, taken = GeneratorTrainer(settings(family="stylegan3-t", layers=4), stream), []
    layer = trainer.generator.synthesis.layers[trainer.generator.synthesis.layer_names[2]]
    layer.register_forward_pre_hook(lambda module, arguments: taken.append(arguments[0].square().mean()))
    freqs = trainer.generator.synthesis.input.freqs.clone()
    for record in trainer.train():
        decay, expected = 0.5 ** (4 / 20_000), 1.0
        for square in taken:
            expected = decay * expected + (1 - decay) * square
        torch.testing.assert_close(layer.magnitude_ema, expected, rtol=1e-6, atol=0)
        assert len(taken) == record.step
    average = trainer.ema.state_dict()
    for name, x in trainer.generator.named_buffers():
        assert torch.equal(x, average[name]), name
    assert torch.equal(trainer.generator.synthesis.input.freqs, freqs)
    settle_magnitudes(trainer.generator)
    last, decay = taken[-1], trainer.generator.synthesis.magnitude_decay
    torch.testing.assert_close(layer.magnitude_ema, last, rtol=1e-4, atol=0)
    assert decay == 0.5 ** (4 / 20_000)
    assert trainer.ema.synthesis.magnitude_decay is None


def test_a_stylegan3_begins_with_the_discriminator_of_a_stylegan2(train, folder):
    """A pair that it has left itself is begun with as a whole; what family it is must be said."""
    assert train(*DRAWN, "--minutes", "0", "--outdir", "first", "-q")[0] == 0
    family = ("--family", "stylegan3-t", "--synthesis-layers", "4", "--r1-gamma", "0", "--discriminator-first", "1000")
    arguments = (*DRAWN, *family, "--start", "first", "--outdir", "second", "--lr", "0", "-q")
    assert train(*arguments, "--minutes", "0")[0] == 0
    assert train(*arguments)[0] == 0, "goes on"
    first, second = (load_tensors(Path(name) / "discriminator.safetensors")[0] for name in ("first", "second"))
    assert_same(first, second)
    generator = load_generator("second/generator.safetensors")
    assert (generator.family, generator.config.channels, generator.resolution) == ("StyleGAN3", (8, 8, 8, 8), (16, 16))
    arguments = (*DRAWN, "--minutes", "0", "--start", "second", "--outdir", "third", "-q")
    code, _, err = train(*arguments)
    assert code == 2 and "give --family stylegan3-t" in err
    assert train(*arguments, *family)[0] == 0
    assert_same(*(load_tensors(Path(name) / "generator.safetensors")[0] for name in ("second", "third")))


# The losses, by hand


def test_logistic_losses():
    real, fake = torch.tensor([[2.0], [-1.0]]), torch.tensor([[0.5], [0.0]])

    def log_sigmoid(x: float) -> float:
        return -math.log1p(math.exp(-x))

    expected = -(log_sigmoid(2) + log_sigmoid(-1)) / 2 - (log_sigmoid(-0.5) + log_sigmoid(0)) / 2
    assert discriminator_loss(real, fake).item() == pytest.approx(expected)
    assert generator_loss(fake).item() == pytest.approx(-(log_sigmoid(0.5) + log_sigmoid(0)) / 2)


def test_r1_penalty():
    """D(x) = |x|^2 / 2 has the gradient x: the penalty is the batch mean of |x|^2, and its own gradient 2 x / B."""
    rng = torch.Generator().manual_seed(0)
    real, scale = torch.randn(5, 3, 4, 6, generator=rng), torch.tensor(1.5, requires_grad=True)
    logits, penalty = r1_penalty(lambda x: scale * x.square().sum(dim=(1, 2, 3))[:, None] / 2, real)
    energy = real.square().sum(dim=(1, 2, 3))
    torch.testing.assert_close(logits, 1.5 * energy[:, None] / 2)
    torch.testing.assert_close(penalty, 1.5**2 * energy.mean())
    torch.testing.assert_close(torch.autograd.grad(penalty, scale)[0], 2 * 1.5 * energy.mean())
    assert not real.requires_grad


def test_path_lengths():
    """An image that is linear in ws, x = A ws: |A^T y| for y ~ N(0, 1 / (H W)), root mean square over the layers."""
    rng = torch.Generator().manual_seed(0)
    matrix = torch.randn(3 * 4 * 6, 5 * 7, generator=rng).requires_grad_()
    ws = torch.randn(2, 5, 7, generator=rng).requires_grad_()
    image = (ws.flatten(1) @ matrix.T).reshape(2, 3, 4, 6)
    torch.manual_seed(3)
    lengths = path_lengths(image, ws)
    torch.manual_seed(3)
    y = torch.randn(2, 3, 4, 6).flatten(1) / math.sqrt(4 * 6)
    expected = (y @ matrix).reshape(2, 5, 7).square().sum(dim=2).mean(dim=1).sqrt()
    torch.testing.assert_close(lengths, expected)
    assert torch.autograd.grad(lengths.sum(), matrix)[0].abs().max() > 0, "it can be trained on"


@pytest.mark.parametrize("seed", [0, 1])
def test_streams_give_the_same_batch_for_the_same_step(stream, seed):
    other = ArrayStream(stream.images, stream.attributes, stream.mirrored, seed)
    again = ArrayStream(stream.images, stream.attributes, stream.mirrored, seed)
    images, attributes = other.labelled_batch(3, 12)
    assert torch.equal(images, again.batch(3, 12))
    assert not torch.equal(images, other.batch(4, 12))
    assert torch.equal(images, stream.batch(3, 12)) == (seed == 0)
    assert images.abs().max() <= 1
    assert attributes.shape == (12, stream.attributes.shape[1])


def test_a_training_may_begin_with_trained_weights(train):
    assert train(*DRAWN, "--outdir", "first")[0] == 0
    assert train(*DRAWN, "--outdir", "second", "--start", "first", "--minutes", "0")[0] == 0
    before, after = (load_generator(f"{name}/generator.safetensors") for name in ("first", "second"))
    moved = [(a - b).abs().max().item() for a, b in zip(before.parameters(), after.parameters(), strict=True)]
    assert max(moved) < 0.5  # random weights would be several units away
    assert after.card["start"] == "first"


def test_weights_of_another_size_are_no_start(train):
    assert train(*DRAWN, "--outdir", "first")[0] == 0
    code, _, error = train(*DRAWN, "--channel-max", "4", "--outdir", "second", "--start", "first")
    assert code == 1 and "another size" in error


@pytest.mark.parametrize("content", [b"", b"half", b"PK\x03\x04 but no more"])
def test_a_damaged_snapshot_names_the_file_and_the_remedy(tmp_path, content):
    path = tmp_path / "snapshot.pt"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"snapshot\.pt: not a readable snapshot.*remove it"):
        load_snapshot(path)


def test_a_torch_file_that_is_no_snapshot_is_refused(tmp_path):
    torch.save({"weights": torch.zeros(2)}, tmp_path / "other.pt")
    with pytest.raises(CheckpointError, match="no snapshot of a training"):
        load_snapshot(tmp_path / "other.pt")
