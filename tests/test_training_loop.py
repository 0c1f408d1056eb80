"""The loop of every training, on the smallest of trainers; snapshots of earlier releases; calls from Python."""

from __future__ import annotations

import json
import os
import signal
from dataclasses import asdict, dataclass
from types import SimpleNamespace

import pytest
import torch
from conftest import make_tiny_generator
from torch import nn

from latentopt.checkpoints.networks import load_discriminator, load_generator
from latentopt.commands.interrupting import interruptible
from latentopt.data.portraits import portraits
from latentopt.encoders.config import EncoderConfig
from latentopt.encoders.files import load_encoder
from latentopt.errors import CheckpointError, UsageError
from latentopt.judge.network import Judge, JudgeConfig
from latentopt.protocols import Generator
from latentopt.training import loop
from latentopt.training.attributes import BINARY, NAMES, AttributeTrainer, AttributeTraining
from latentopt.training.encoder import EncoderTrainer
from latentopt.training.encoder_data import SampleStream
from latentopt.training.encoder_settings import settings_for
from latentopt.training.generator import GeneratorTrainer
from latentopt.training.generator_settings import GeneratorTraining
from latentopt.training.loop import Trainer, Training, average_
from latentopt.training.streams import ArrayStream, step_seed
from latentopt.training.train_encoder import train_encoder
from latentopt.training.train_generator import train_generator, train_wrangan
from latentopt.watching.interruption import StopNow, holding, released


@dataclass(frozen=True)
class Counting:
    steps: int = 6
    rate: float = 0.5


class Counter(Trainer[int]):
    """Adds its rate to one weight at each step."""

    parts = ("net",)
    free = frozenset({"steps"})

    def __init__(self, **changes) -> None:
        self.settings, self.device, self.net = Counting(**changes), torch.device("cpu"), nn.Linear(1, 1, bias=False)
        nn.init.zeros_(self.net.weight)

    @property
    def steps(self) -> int:
        return self.settings.steps

    @torch.no_grad()
    def update(self) -> int:
        self.net.weight += self.settings.rate
        self.step += 1
        return self.step

    @property
    def weight(self) -> float:
        return self.net.weight.item()


@pytest.fixture
def clock(monkeypatch) -> SimpleNamespace:
    """A clock that stands until a test moves it."""
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr(loop, "time", SimpleNamespace(monotonic=lambda: clock.now))
    return clock


def kept(training: Training) -> list[int]:
    """Fills up with the step of each snapshot, as it is exported."""
    steps: list[int] = []
    training.export = lambda: steps.append(torch.load(training.snapshot)["step"])
    return steps


# The loop


def test_snapshots_come_by_the_clock_and_at_the_end(clock, tmp_path):
    training = Training(Counter(), tmp_path / "snapshot.pt", every=10)
    steps = kept(training)
    for step in training:
        clock.now += 6 if step < 5 else 0
    assert steps == [3, 5, 6]


def test_a_stop_is_kept_and_gone_on_with(clock, tmp_path):
    snapshot = tmp_path / "snapshot.pt"
    training = Training(Counter(), snapshot)
    steps = kept(training)
    assert list(training.run(interrupted=lambda: training.trainer.step == 3)) == [1, 2, 3]
    assert steps == [3]
    training = Training(Counter(), snapshot)
    assert list(training.run(minutes=0)) == [4, 5, 6], "the clock stands"
    assert training.trainer.weight == 3.0


def test_time_runs_out(clock):
    made = []
    for step in Training(Counter()).run(minutes=1):
        made.append(step)
        clock.now += 25
    assert made == [1, 2, 3, 4]


def test_where_no_step_is_left_its_files_are_written_again(tmp_path):
    list(Training(Counter(), tmp_path / "snapshot.pt"))
    training = Training(Counter(), tmp_path / "snapshot.pt")
    steps = kept(training)
    assert (list(training), steps) == ([], [6])
    assert list(Training(Counter(steps=8), tmp_path / "snapshot.pt")) == [7, 8], "more steps are free to ask for"


def test_processes_but_the_first_read_and_do_not_write(tmp_path):
    snapshot = tmp_path / "snapshot.pt"
    list(Training(Counter(steps=2), snapshot))
    before = snapshot.read_bytes()
    other = Training(Counter(), snapshot, lambda: pytest.fail("exported"), writes=False)
    assert list(other) == [3, 4, 5, 6]
    assert snapshot.read_bytes() == before


def test_all_processes_stop_where_one_is_asked_to():
    trainer = Counter()
    trainer.agree = lambda asked: trainer.step == 4
    assert list(Training(trainer)) == [1, 2, 3, 4]


def test_records_are_logged_and_added_to(tmp_path):
    def logged(step: int) -> dict | None:
        return {"step": step} if step % 2 else None

    log = tmp_path / "log.jsonl"
    for steps in (3, 6):
        list(Training(Counter(steps=steps), tmp_path / "snapshot.pt", log=log, logged=logged))
    assert [json.loads(line)["step"] for line in log.read_text().splitlines()] == [1, 3, 5]


def test_the_average_of_weights_and_the_copy_of_buffers():
    average, network = nn.BatchNorm1d(2), nn.BatchNorm1d(2)
    nn.init.zeros_(average.weight)
    network.running_mean.fill_(3.0)
    for decay, expected in ((0.75, 0.25), (0.5, 0.625)):
        average_(average, network, decay)
        assert average.weight.tolist() == [expected] * 2
    assert average.running_mean.tolist() == [3.0, 3.0]
    assert network.weight.tolist() == [1.0, 1.0]
    average_(nn.ReLU(), nn.ReLU(), 0.5)


def test_the_seeds_of_steps_are_those_of_earlier_releases():
    assert [step_seed(seed, step) for seed, step in ((0, 0), (0, 7), (3, 11))] == [0, 7, 3_000_020]


# Interruptions


def test_the_first_ctrl_c_waits_for_the_step_and_the_second_does_not(capfd):
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    with interruptible() as interrupted, holding(interrupted):
        assert not interrupted()
        os.kill(os.getpid(), signal.SIGINT)
        assert interrupted()
        with pytest.raises(StopNow):
            os.kill(os.getpid(), signal.SIGINT)
    with interruptible() as interrupted, holding(interrupted):
        os.kill(os.getpid(), signal.SIGTERM)
        assert interrupted()
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before
    assert capfd.readouterr().err.count("once more stops now") == 2


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_where_no_step_is_at_work_a_signal_stops_at_once(number, capfd):
    with interruptible() as interrupted:
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), number)
        assert interrupted() and not capfd.readouterr().err
    with interruptible() as interrupted, holding(interrupted), pytest.raises(KeyboardInterrupt), released(interrupted):
        os.kill(os.getpid(), number)


def test_a_request_that_waited_is_answered_where_work_is_released():
    with interruptible() as interrupted, holding(interrupted):
        os.kill(os.getpid(), signal.SIGINT)
        with pytest.raises(KeyboardInterrupt), released(interrupted):
            pytest.fail("went on")


# Snapshots of earlier releases


def pictures(labelled: bool = False) -> ArrayStream:
    images, attributes = portraits(range(16), 16)
    array = ((images + 1) * 127.5).round().to(torch.uint8).numpy()
    return ArrayStream(array, attributes if labelled else None)


def wrangan() -> GeneratorTrainer:
    tiny = {"resolution": 16, "channel_base": 128, "channel_max": 8, "w_dim": 8, "mapping_layers": 2, "batch": 4}
    trainer = GeneratorTrainer(GeneratorTraining(**tiny, images=12, precision="float32", randomized=2), pictures())
    trainer.base = "0123456789abcdef"
    return trainer


def encoder() -> EncoderTrainer:
    generator = make_tiny_generator(channels=(8, 6, 4))
    shape = {"widths": (8, 8, 8, 16), "head_width": 8, "image_size": (16, 16)}
    quick = {"steps": 3, "batch": 2, "precision": "float32", "perceptual_net": "bundled"}
    config = EncoderConfig.for_generator(generator, "e4e", **shape)
    stream = SampleStream(generator, (16, 16))
    return EncoderTrainer(settings_for("e4e", **quick), config, generator, stream, described={"data": "samples"})


def judge() -> AttributeTrainer:
    torch.manual_seed(0)
    net = Judge(JudgeConfig(NAMES, BINARY, (8, 16), num_features=8, identity_dim=4, resolution=16))
    return AttributeTrainer(AttributeTraining(steps=3, batch=4, precision="float32"), net, pictures(labelled=True))


def base_beside(trainer: Trainer, state: dict) -> dict:
    """As adversarial trainings were kept, those from before weights could be randomised included."""
    return state | {"base": trainer.base}


def all_in_one(trainer: Trainer, state: dict) -> dict:
    """As encoders' trainings were kept."""
    del state["settings"]
    return state | {"made": json.dumps(asdict(trainer.settings) | trainer.made_from)}


def settings_alone(trainer: Trainer, state: dict) -> dict:
    """As trainings of attributes were kept, by a release that lacked a setting."""
    settings = json.loads(state["settings"])
    del settings["temperature"]
    return state | {"settings": json.dumps(settings)}


@pytest.mark.parametrize(
    ("make", "earlier", "other"),
    [
        (wrangan, base_beside, {"base": "f" * 16}),
        (encoder, all_in_one, {"described": {"data": "faces"}}),
        (judge, settings_alone, {"settings": AttributeTraining(steps=3, batch=4, temperature=0.2)}),
    ],
    ids=lambda x: getattr(x, "__name__", ""),
)
def test_snapshots_of_earlier_releases_go_on(make, earlier, other, tmp_path):
    whole, path = make(), tmp_path / "snapshot.pt"
    next(whole.train())
    state = earlier(whole, {name: value for name, value in whole.state().items() if name != "made"})
    torch.save(state, path)
    list(whole.train())
    resumed = make()
    resumed.load(path)
    assert resumed.step == 1
    list(resumed.train())
    for name in whole.parts[:2]:
        mine, theirs = (getattr(trainer, name).state_dict() for trainer in (resumed, whole))
        assert mine.keys() == theirs.keys()
        assert all(torch.equal(mine[key], theirs[key]) for key in mine if isinstance(mine[key], torch.Tensor))
    changed = make()
    for name, value in other.items():
        setattr(changed, name, value)
    with pytest.raises(CheckpointError, match=r"snapshot\.pt: made with other settings \(.*\); use another folder"):
        changed.load(path)


# Trainings called from Python


class Contract:
    """A generator that has what `protocols.Generator` names and nothing else."""

    MEMBERS = frozenset(name for name in dir(Generator) if not name.startswith("_")) | set(Generator.__annotations__)

    def __init__(self, generator) -> None:
        self.__dict__["inner"] = generator

    def __getattr__(self, name: str) -> object:
        if name not in self.MEMBERS:
            raise AttributeError(name)
        return getattr(self.__dict__["inner"], name)

    def __deepcopy__(self, memo: dict) -> Contract:
        return Contract(make_tiny_generator(channels=(8, 6, 4)))


@pytest.mark.parametrize("kind", ["e4e", "restyle-psp"])
def test_encoders_are_trained_for_whatever_meets_the_contract(kind, tmp_path):
    generator = Contract(make_tiny_generator(channels=(8, 6, 4)))
    with pytest.raises(AttributeError):
        _ = generator.config
    settings = settings_for(kind, steps=2, batch=2, precision="float32", perceptual_net="bundled")
    training = train_encoder(tmp_path, generator, settings, data="samples", validate_every=1)
    assert [record["step"] for record in training] == [1, 2]
    assert load_encoder(tmp_path / f"encoder-{kind}.safetensors", generator).card["steps"] == 2
    logged = [json.loads(line) for line in (tmp_path / f"encoder-{kind}.jsonl").read_text().splitlines()]
    assert all(len(entry["held_out"]["l2"]) == (5 if "restyle" in kind else 1) for entry in logged)


def test_a_generator_then_a_wrangan(tmp_path):
    tiny = {"resolution": 16, "channel_base": 128, "channel_max": 8, "w_dim": 8, "mapping_layers": 2, "batch": 4}
    settings = GeneratorTraining(**tiny, images=8, precision="float32")
    training = train_generator(tmp_path / "first", settings, drawn=16, name="tiny")
    assert (training.trainer.step, training.notes) == (0, ())
    assert [record.images for record in training] == [4, 8]
    card = load_generator(str(tmp_path / "first" / "generator.safetensors")).card
    assert (card["name"], card["images_seen"], "command" in card) == ("tiny", 8, False)
    rates = {"images": 4, "lr": 1e-3}
    training = train_wrangan(tmp_path / "second", str(tmp_path / "first"), layers=2, settings=rates)
    assert (training.trainer.settings.lr, training.trainer.settings.batch) == (1e-3, 4)
    assert len(list(training)) == 1
    load_discriminator(str(tmp_path / "second" / "discriminator.safetensors"))
    assert (tmp_path / "second" / "sigma.safetensors").exists()
    with pytest.raises(UsageError, match="power of 2"):
        train_generator(tmp_path / "third", GeneratorTraining(resolution=24))
