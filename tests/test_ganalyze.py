"""Directions learned from a judge's gradient."""

from __future__ import annotations

import json

import pytest
import torch

from latentopt.editing import ganalyze
from latentopt.editing.ganalyze import find_ganalyze
from latentopt.editing.spaces import EditingSpace
from latentopt.errors import UsageError
from latentopt.registry import COORDINATES
from latentopt.statistics.pnorm_fit import fit_pnorm
from latentopt.statistics.sampling import sample_w
from latentopt.types import GeneratorInputs


class Colours:
    """Reads how red, green and blue pictures are; `reddish` is binary."""

    attributes = ("red", "green", "blue", "reddish")
    binary_attributes = ("reddish",)

    def read(self, image):
        means = image.mean(dim=(2, 3))  # [B,3]
        return torch.cat([means, torch.sigmoid(8 * (means[:, :1] - means[:, 1:2]))], dim=1)


class Changed(Colours):
    """Colours with what it reads changed by `change`."""

    def __init__(self, change):
        self.change = change

    def read(self, image):
        return self.change(super().read(image))


@pytest.fixture(autouse=True)
def few_samples(monkeypatch):
    monkeypatch.setattr(ganalyze, "POOL", 200)


@pytest.fixture(scope="module")
def pnorm(tiny_generator):
    return fit_pnorm(tiny_generator, samples=2000)


def readings(generator, ws):
    with torch.no_grad():
        return Colours().read(generator.synthesis(GeneratorInputs(ws)).clamp(-1, 1))


@pytest.mark.parametrize("space", COORDINATES)
@pytest.mark.parametrize("name", ["red", "reddish"])
def test_fresh_samples_change_as_it_was_learned(tiny_generator, pnorm, space, name):
    space = EditingSpace(space, tiny_generator, pnorm)
    (direction,) = find_ganalyze(space, Colours(), names=[name], steps=60)
    direction.check(tiny_generator)
    assert direction.method == "ganalyze" and direction.about["unit"] == "attribute"
    fresh = GeneratorInputs(tiny_generator.broadcast(sample_w(tiny_generator, 321, 40)))
    column = Colours.attributes.index(name)
    less, start, more = (readings(tiny_generator, direction.edit(fresh, s).ws)[:, column] for s in (-1, 0, 1))
    assert (more > less).float().mean() > 0.9 and direction.score > 0.9
    if name == "red":
        response = ((more - less).mean() / 2 / start.std()).item()
        assert 0.3 < response < 1.3
        assert direction.about["response"] == pytest.approx(response, abs=0.25)


def test_other_attributes_stay_where_they_can(tiny_generator):
    space = EditingSpace("w+", tiny_generator)
    (direction,) = find_ganalyze(space, Colours(), names=["red"], steps=100)
    fresh = tiny_generator.broadcast(sample_w(tiny_generator, 5, 40))
    start, spread = readings(tiny_generator, fresh), readings(tiny_generator, fresh).std(dim=0)
    moved = ((readings(tiny_generator, direction.edit(GeneratorInputs(fresh), 1).ws) - start) / spread).mean(dim=0)
    assert moved[1:3].abs().max() < 0.5 * moved[0]


def test_only_the_rows_asked_for_move(tiny_generator):
    space = EditingSpace("w+", tiny_generator)
    (direction,) = find_ganalyze(space, Colours(), names=["green"], layers=[2, 3], steps=3)
    still = [row for row in range(tiny_generator.num_ws) if row not in (2, 3)]
    assert direction.layers == (2, 3)
    assert not direction.vector[still].any() and direction.vector[[2, 3]].any(dim=1).all()


def test_repeatable_and_counted(tiny_generator):
    space, counted = EditingSpace("w", tiny_generator), []
    first, second = (
        find_ganalyze(space, Colours(), names=["red", "blue"], steps=3, seed=4, on_progress=counted.append)
        for _ in range(2)
    )
    assert [d.name for d in first] == ["red", "blue"] and len(counted) == 12
    assert all(torch.equal(a.vector, b.vector) for a, b in zip(first, second, strict=True))
    (other,) = find_ganalyze(space, Colours(), names=["red"], steps=3, seed=5)
    assert not torch.equal(other.vector, first[0].vector)


def test_pictures_in_which_nothing_is_found_do_not_count(tiny_generator):
    def some(found):
        return torch.where(found[:, :1] > 0.02, found, torch.nan)

    (direction,) = find_ganalyze(EditingSpace("w", tiny_generator), Changed(some), names=["blue"], steps=40)
    fresh = GeneratorInputs(tiny_generator.broadcast(sample_w(tiny_generator, 321, 20)))
    assert (readings(tiny_generator, direction.edit(fresh, 1).ws) - readings(tiny_generator, fresh.ws))[:, 2].mean() > 0


@pytest.mark.parametrize(
    ("judge", "names", "message"),
    [
        (Colours(), ["rde"], "does not read 'rde'.*red"),
        (Changed(lambda found: found.detach()), ["red"], "no gradient.*--method interfacegan"),
        (Changed(lambda found: found.detach().numpy()), ["red"], "no gradient"),
        (Changed(lambda found: found * 0 + 1), ["blue"], "blue: the judge reads the same"),
        (Changed(lambda found: found * torch.nan), ["blue"], "blue: the judge reads the same, or nothing"),
    ],
)
def test_refuses(tiny_generator, judge, names, message):
    with pytest.raises(UsageError, match=message):
        find_ganalyze(EditingSpace("w", tiny_generator), judge, names=names, steps=2)


NETWORK = ("--network", "net/tiny.safetensors")


def test_found_by_the_command(folder, latentopt):
    find = ("directions", "find", "--method", "ganalyze", *NETWORK, "--attributes", "yaw, smile", "--steps", "2", "-q")
    code, out, err = latentopt(*find, "--space", "w+", "--layers", "0-1")
    assert (code, err) == (0, "") and "yaw" in out
    _, listed, _ = latentopt("directions", "list", *NETWORK, "--json")
    assert [(d["name"], d["layers"], d["about"]["steps"]) for d in json.loads(listed)] == [
        (name, [0, 1], 2) for name in ("yaw", "smile")
    ]
    assert (folder / "directions" / "tiny-ganalyze.png").is_file()


def test_what_is_there_or_not_is_warned_of(folder, latentopt):
    find = ("directions", "find", "--method", "ganalyze", *NETWORK, "--attributes", "glasses,yaw", "--steps", "1", "-q")
    code, _, err = latentopt(*find, "--no-sheet")
    assert code == 0 and err.startswith("glasses: is there or not") and "yaw" not in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--method", "sefa", "--steps", "3"), "--steps goes with --method ganalyze"),
        (("--method", "ganalyze", "--samples", "3"), "--samples goes with --method interfacegan or ganspace"),
        (("--method", "ganalyze", "--attributes", "yaaw", "--steps", "1"), "does not read 'yaaw'"),
    ],
)
def test_options_of_other_methods(folder, latentopt, arguments, message):
    code, _, err = latentopt("directions", "find", *NETWORK, *arguments)
    assert code == 2 and message in " ".join(err.split())
