"""Long work is told as it goes, costs no more than it may where nobody asked for it, and stops at a signal."""

from __future__ import annotations

import io
import logging
import os
import signal
import time

import pytest
import torch
from conftest import make_tiny_generator
from torch import Tensor

import latentopt
from latentopt.commands.progress import Progress
from latentopt.evaluation.corruption import SampleCorruption, corruption, fitting_pictures
from latentopt.generators.synthesis import SynthesisNetwork
from latentopt.preflight import picture_check
from latentopt.preflight.picture_check import PictureCheck, Work
from latentopt.preflight.preflight import SUFFIX
from latentopt.recipe.recipe import Recipe
from latentopt.statistics.sampling import drawn_at_once
from latentopt.types import GeneratorInputs
from latentopt.watching.phases import counted, listening, phase, tell

NETWORK = ("--network", "net/tiny.safetensors")
QUICK = (*NETWORK, "--terms", "l2=1", "-q")


class Listener:
    """Keeps what it is told."""

    def __init__(self):
        self.lines, self.phases = [], []

    def tell(self, text):
        self.lines.append(text)

    def phase(self, label, total, unit):
        entry = [label, total, 0]
        self.phases.append(entry)

        class Counting:
            def __enter__(self):
                return lambda count: entry.__setitem__(2, entry[2] + count)

            def __exit__(self, *_):
                pass

        return Counting()


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_without_a_listener_lines_go_to_the_log(caplog):
    caplog.set_level(logging.INFO, "latentopt")
    tell("measured")
    with phase("work", 3) as advance:
        advance(3)
    assert [record.message for record in caplog.records] == ["measured"]


def test_a_generator_that_is_given_up_leaves_no_listener(caplog):
    """Its own listener ends when it is collected: after that of the command that it was part of."""

    def work():
        with listening(Listener()):
            yield

    caplog.set_level(logging.INFO, "latentopt")
    with listening(Listener()):
        given_up = work()
        next(given_up)
    given_up.close()
    tell("measured")
    assert [record.message for record in caplog.records] == ["measured"]


def test_a_listener_hears_of_phases_and_lines_until_its_end():
    listener = Listener()
    with listening(listener):
        tell("a")
        assert list(counted("xyz", "spelling", "letters")) == list("xyz")
    tell("b")
    assert listener.lines == ["a"] and listener.phases == [["spelling", 3, 3]]


@pytest.mark.parametrize("made", [io.StringIO, Terminal])
def test_phases_within_a_progress_line_do_not_count_in_its_rate(made, monkeypatch):
    stream, now = made(), [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    with Progress(4, "tuning", stream=stream) as progress:
        now[0] += 1
        progress.advance(1)
        with phase("measuring [x]", 2, "pictures") as advance:
            for _ in range(2):
                now[0] += 50
                advance(1)
        tell("a [line]")
        assert progress.rate == pytest.approx(1)
        now[0] += 1
        progress.advance(1)
        progress.reach(4)
        assert progress.done == 4 and progress.rate == pytest.approx(1)
    text = stream.getvalue()
    assert ("measuring [x]" in text and "a [line]" in text and "50 s left" in text) or made is Terminal


def test_short_phases_are_not_told_and_quiet_ones_neither():
    stream = io.StringIO()
    with Progress(4, "tuning", stream=stream):
        list(counted(range(3), "quick", "things"))
    with Progress(4, "tuning", stream=stream, quiet=True), phase("slow", 1) as advance:
        advance(1)
    assert stream.getvalue() == ""


def test_large_pictures_are_drawn_one_by_one():
    class Sized:
        def __init__(self, side):
            self.resolution = side, side

    assert [drawn_at_once(Sized(side), 16) for side in (64, 256, 512, 1024)] == [16, 4, 1, 1]


# Effort nobody asked for


def test_the_look_at_pictures_fits_the_work(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(picture_check, "MOMENT", 0.0)
    generator, listener = make_tiny_generator(channels=(8, 6, 4)), Listener()
    drawn = []
    plain = SynthesisNetwork.forward
    monkeypatch.setattr(
        SynthesisNetwork, "forward", lambda self, x, *rest: drawn.append(len(x)) or plain(self, x, *rest)
    )
    with listening(listener):
        assert PictureCheck(generator, Work(images=1, steps=100)).preflight is None
    assert "no preflight" in listener.lines[0] and "--preflight" in listener.lines[0]
    assert sum(drawn) <= 1 and not (tmp_path / "pnorm_stats").exists()
    work = Work(images=2, steps=300)
    made = PictureCheck(generator, work).preflight
    assert made is not None and sum(drawn) - 2 <= work.draws < 3 * sum(drawn)
    drawn.clear()
    assert PictureCheck(generator, Work(images=1, steps=1)).preflight is not None, "kept, and it draws nothing"
    assert sum(drawn) <= 1
    assert PictureCheck(make_tiny_generator(seed=1, channels=(8, 6, 4))).preflight is not None, "no work: no limit"


@pytest.mark.parametrize(("steps", "pictures"), [(10, 0), (127, 0), (128, 16), (500, 62), (5000, 64)])
def test_corruption_is_a_few_per_cent_of_a_tuning(steps, pictures):
    method = Recipe.load("wrangan").override([f"stages.1.steps={steps}", "stages.0.steps=9999"])
    assert fitting_pictures(method) == pictures


def test_the_untouched_pictures_are_shared(monkeypatch):
    generator, counts, drawn = make_tiny_generator(channels=(8, 6, 4)), [], []
    plain = SynthesisNetwork.forward
    monkeypatch.setattr(
        SynthesisNetwork, "forward", lambda self, x, *rest: drawn.append(len(x)) or plain(self, x, *rest)
    )
    change = SampleCorruption(6, counts.append)
    name, shape = next((name, shape) for name, shape in generator.tunable.items() if len(shape) == 4)

    def tuned(scale: float) -> GeneratorInputs:
        delta = torch.randn(1, *shape, generator=torch.Generator().manual_seed(0))
        return GeneratorInputs(generator.broadcast(generator.w_avg[None]), deltas={name: scale * delta})

    nothing, little, much = (change(generator, tuned(scale))[0]["frechet"] for scale in (0.0, 0.1, 1.0))
    assert nothing == pytest.approx(0, abs=1e-6) and nothing < little < much
    assert sum(drawn) == sum(counts) == 6 * 4, "three tuned sets and one untouched"
    one = tuned(0.3)
    figures, how = change(generator, one)
    assert change(generator, one)[0] == figures and sum(drawn) == 6 * 5, "one change for all images: drawn once"
    assert how["corruption"]["images"] == 6 and how["corruption"]["around"] == "samples"


# Signals


def slow(monkeypatch, target, name, after: int = 1):
    """Ask this process to end when `target.name` is called for the `after`-th time; it must not come back from it."""
    plain, calls = getattr(target, name), []

    def call(*arguments, **options):
        calls.append(1)
        if len(calls) == after:
            os.kill(os.getpid(), signal.SIGTERM)
            pytest.fail("went on after SIGTERM")
        return plain(*arguments, **options)

    monkeypatch.setattr(target, name, call)


PHASES = {
    "checks": ("latentopt.inverting.preparing", "build_objective", ()),
    "statistics": ("latentopt.statistics.pnorm_fit", "draw_codes", ("--space", "pnorm+")),
    "preflight": ("latentopt.preflight.preflight", "draw", ("--preflight",)),
    "start": ("latentopt.loop.building", "build_lens", ()),
    "summary": ("latentopt.inverting.following", "write_summary", ()),
}


@pytest.mark.parametrize(("module", "name", "options"), PHASES.values(), ids=PHASES)
def test_sigterm_stops_every_phase_at_once(folder, latentopt, monkeypatch, module, name, options):
    import importlib
    import shutil

    (folder / "pnorm_stats" / f"tiny{SUFFIX}").unlink(missing_ok=True)
    if name == "draw_codes":
        shutil.rmtree(folder / "pnorm_stats")
    arguments = ("invert", "photos/a.png", *QUICK, "--steps", "2", *options)
    with monkeypatch.context() as patch:
        slow(patch, importlib.import_module(module), name)
        code, _, err = latentopt(*arguments)
    assert code == 130 and "Traceback" not in err
    assert latentopt(*arguments)[0] == 0, "the same command goes on"


def test_sigterm_while_results_are_drawn_keeps_the_steps(folder, latentopt, monkeypatch):
    """After the last step the state is saved, and no step is done again."""
    from latentopt.inverting.batch import Batch

    arguments = ("invert", "photos", *QUICK, "--steps", "2", "--recipe", "i2s")
    with monkeypatch.context() as patch:
        slow(patch, Batch, "images")
        assert latentopt(*arguments)[0] == 130
    assert list((folder / "out" / ".resume").iterdir())
    with monkeypatch.context() as patch:
        patch.setattr("latentopt.inverting.batch.minimise", lambda *_: pytest.fail("a step was done again"))
        assert latentopt(*arguments)[0] == 0


def test_a_measured_start_stops_in_python_too(monkeypatch):
    """`interrupted` of the API may be a plain function: it is asked after each step."""
    generator = make_tiny_generator(channels=(8, 6, 4))
    target: Tensor = torch.zeros(1, 3, 16, 16)
    recipe = Recipe.load("i2s").override(["stages.0.steps=5", 'stages.0.terms=["l2"]'])
    events = []
    with pytest.raises(KeyboardInterrupt):
        latentopt.invert(generator, target, recipe, on_event=events.append, interrupted=lambda: len(events) == 2)
    assert len(events) == 2


def test_the_papers_corruption_stays_around_the_image(tiny_generator):
    inputs = GeneratorInputs(tiny_generator.broadcast(tiny_generator.w_avg[None]))
    assert corruption(tiny_generator, inputs, n=4).frechet == pytest.approx(0, abs=1e-6)
