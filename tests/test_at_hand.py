"""Files that belong to a generator are found by its fingerprint, in one order for every kind of them."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest
import torch
from conftest import make_tiny_generator

from latentopt.checkpoints.networks import load_generator, save_generator
from latentopt.editing.direction import Direction
from latentopt.editing.files import DIRECTIONS, save_directions
from latentopt.errors import LatentoptError, StatisticsError
from latentopt.files.storage import load_metadata, load_tensors, save_tensors
from latentopt.preflight.preflight import PREFLIGHT, Preflight
from latentopt.statistics.at_hand import FileKind, at_hand, first_at_hand, given_or_found
from latentopt.statistics.linear_prior import PRIOR, LinearPrior
from latentopt.statistics.metric import Metric
from latentopt.statistics.metric_files import METRIC
from latentopt.statistics.moments import StatisticsWarning
from latentopt.statistics.pnorm import PNORM
from latentopt.statistics.pnorm_fit import fit_pnorm
from latentopt.statistics.sigma import SIGMA, Sigma

KINDS = {kind.word: kind for kind in (PNORM, PRIOR, SIGMA, METRIC, DIRECTIONS, PREFLIGHT)}
CHANNELS = (8, 6, 4)
CARD = {"n": 8, "seed": 0, "ridge": 1.0, "share": 0.5}


def prior_of(generator) -> LinearPrior:
    """One that predicts nothing, of two features."""
    rows, dim = generator.num_ws, generator.w_dim
    shapes = {
        "reduce": (2, 1),
        "expand": (1, rows, dim),
        "intercept": (rows, dim),
        "feature_mean": (2,),
        "mean": (dim,),
    }
    tensors = {name: torch.zeros(shape) for name, shape in shapes.items()}
    tensors |= {
        "feature_scale": torch.ones(2),
        "components": torch.eye(dim),
        "std": torch.ones(dim),
        "r2": torch.zeros(dim),
    }
    return LinearPrior(**tensors, fingerprint=generator.fingerprint, network="some", grids=(1,), card=CARD)


def write(kind: FileKind, generator, path: Path) -> None:
    if kind is PNORM:
        fit_pnorm(generator, 200, batch=100).save(path)
    elif kind is PRIOR:
        prior_of(generator).save(path)
    elif kind is SIGMA:
        names = list(generator.tunable)[:1]
        Sigma({name: torch.ones(generator.tunable[name]) for name in names}, "estimated", generator.fingerprint).save(
            path
        )
    elif kind is METRIC:  # for the distance that spaces ask for where no other is named
        blocks = {"ws": torch.zeros(generator.num_ws, generator.w_dim, generator.w_dim)}
        blocks |= {name: torch.eye(generator.w_dim) for name in ("w", "slopes")}
        Metric(blocks, "lpips-vgg 0 at 256 pixels", generator.fingerprint, 1, 0).save(path)
    elif kind is DIRECTIONS:
        save_directions(path, [Direction("smile", "w", torch.ones(generator.w_dim), generator.fingerprint)])
    else:
        Preflight.of(generator).save(path)


@pytest.fixture
def places(tmp_path, monkeypatch) -> dict[str, Path]:
    """The folders where files are looked for, nearest first; the working folder is one of them."""
    monkeypatch.setattr("latentopt.preflight.warm_start.FEWEST", 8)
    monkeypatch.setattr("latentopt.preflight.warm_start.MOST", 8)
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    monkeypatch.setattr("latentopt.statistics.at_hand.BUNDLED", tmp_path / "bundled")
    monkeypatch.setattr("latentopt.statistics.at_hand.resource_folder", lambda name: tmp_path / "shipped" / name)
    return {
        "beside": tmp_path / "models",
        **{folder: work / folder for folder in ("pnorm_stats", "sigma", "directions")},
        "shipped": tmp_path / "shipped" / "pnorm_stats",
        "bundled": tmp_path / "bundled" / "some",
    }


@pytest.fixture
def generator(places):
    save_generator(make_tiny_generator(channels=CHANNELS), places["beside"] / "mine.safetensors")
    return load_generator(places["beside"] / "mine.safetensors")


def file_in(place: str, folder: Path, kind: FileKind) -> Path:
    """A name that says nothing of the generator, where any name will do."""
    return folder / (f"{kind.word}.safetensors" if place in ("beside", "bundled") else "any.safetensors")


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_every_kind_is_found_in_every_place_in_one_order(kind, generator, places):
    """From far to near: what is written last is found. Another generator's files lie in all places."""
    other = make_tiny_generator(seed=1, channels=CHANNELS)
    original = places["beside"] / "original.safetensors"
    write(kind, generator, original)
    for place, folder in places.items():
        if place != "beside":
            write(kind, other, folder / "others.safetensors")
    assert first_at_hand(kind, generator) is None and kind(generator, None, {}) == []
    tensors, metadata = load_tensors(original)
    for place, folder in reversed(places.items()):
        path = file_in(place, folder, kind)
        save_tensors(path, tensors, metadata)
        assert next(iter(at_hand(kind, generator)))[1].resolve() == path
        assert [where.resolve() for where in kind(generator, None, {})] == [path]
    assert len(list(at_hand(kind, generator))) == len(places)
    assert given_or_found(kind, generator, str(original))[1] == original
    assert kind(generator, "named.safetensors", {}) == [Path("named.safetensors")]


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_two_generators_of_one_name_do_not_disturb_each_other(kind, places):
    """The second one's file is kept under another name than the first one's, and each finds its own."""
    pair = [make_tiny_generator(seed=seed, channels=CHANNELS) for seed in (0, 1)]
    with warnings.catch_warnings():
        warnings.simplefilter("error", StatisticsWarning)
        for generator in pair:
            assert generator.name == "tiny"
            if kind.make is None:
                with pytest.raises(
                    StatisticsError, match=f"no {kind.title} of 'tiny'.*run: latentopt {kind.command} --network"
                ):
                    given_or_found(kind, generator)
            write(kind, generator, kind.new_path(generator))
        found = [given_or_found(kind, generator)[1] for generator in pair]
    assert [load_metadata(path)["fingerprint"] for path in found] == [generator.fingerprint for generator in pair]
    assert found[0] == Path(kind.folder) / f"tiny{kind.suffix}"
    assert found == [kind.new_path(generator) for generator in pair]


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
@pytest.mark.filterwarnings("ignore:passed over")
def test_unreadable_files(kind, generator, places):
    """Those beside the generator's own file are an error, those elsewhere a warning."""
    write(kind, generator, places["directions"] / "good.safetensors")
    places["sigma"].mkdir()
    (places["sigma"] / "bad.safetensors").write_bytes(b"nothing")
    with pytest.warns(StatisticsWarning, match=r"bad\.safetensors"):
        assert first_at_hand(kind, generator)[1].name == "good.safetensors"
    beside = places["beside"] / f"mine.{kind.word}.safetensors"
    for contents in ({}, {"format": kind.format}, {"format": kind.format, "fingerprint": generator.fingerprint}):
        save_tensors(beside, {"x": torch.zeros(1)}, contents)
        if contents.get("format") is None or "fingerprint" in contents:
            with pytest.raises(LatentoptError, match=rf"mine\.{kind.word}\.safetensors"):
                first_at_hand(kind, generator)
    beside.write_bytes(b"nothing")
    with pytest.raises(LatentoptError, match=rf"mine\.{kind.word}\.safetensors"):
        first_at_hand(kind, generator)


def test_the_file_called_after_the_generator_goes_before_others_of_the_same_folder(generator, places):
    for name in ("a.safetensors", "mine.safetensors"):
        write(PNORM, generator, places["pnorm_stats"] / name)
    assert first_at_hand(PNORM, generator)[1] == Path("pnorm_stats/mine.safetensors")


def test_why_the_file_called_after_the_generator_is_not_its_own(generator, places):
    other = make_tiny_generator(seed=1, channels=CHANNELS)
    write(SIGMA, other, places["sigma"] / "mine.safetensors")
    with pytest.raises(StatisticsError, match=f"{other.fingerprint}"):
        given_or_found(SIGMA, generator)


def test_statistics_without_a_fingerprint_go_by_the_name(generator, places):
    path = places["pnorm_stats"] / "mine.safetensors"
    write(PNORM, generator, path)
    tensors, metadata = load_tensors(path)
    metadata.pop("fingerprint")
    save_tensors(path, tensors, metadata)
    save_tensors(path.with_name("theirs.safetensors"), tensors, metadata)
    assert [where.name for _, where in at_hand(PNORM, generator)] == ["mine.safetensors"]
