"""Damaged and hostile files of every kind: one clear error, or what was there is left out and said. And links."""

from __future__ import annotations

import os
import struct
import subprocess
import sys
import warnings
import zipfile
import zlib
from pathlib import Path
from random import Random

import pytest
import torch
from file_kinds import KINDS, World, make_world, outcome, trainer
from hypothesis import given, settings
from hypothesis import strategies as st
from mutants import form_of, mutant
from safetensors.torch import save_file

from latentopt.checkpoints.networks import load_generator
from latentopt.data.portraits import cached
from latentopt.errors import CheckpointError, LatentoptError, UntrustedFileError, UsageError
from latentopt.files.schema import conform, parse_json, read_text
from latentopt.files.storage import load_tensors
from latentopt.files.toml import TOML_LIMIT, parse_toml
from latentopt.pictures.images import read_image, read_png
from latentopt.training.loop import Training
from latentopt.training.snapshots import load_snapshot

EXAMPLES = {
    "saved batch": 5,
    "encoder": 8,
    "rosinality": 10,
    "snapshot": 8,
    "tuned delta": 10,
}  # slower than the others
ROOM = TOML_LIMIT - 100


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> World:
    return make_world(tmp_path_factory.mktemp("world"))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", KINDS)
def test_damaged_files_are_refused_or_read_but_break_nothing(world, name):
    kind = KINDS[name]
    good = (world.folder / kind.path).read_bytes()
    assert outcome(world, kind, good) == "read"
    found = set()

    @settings(max_examples=EXAMPLES.get(name, 16), deadline=None, derandomize=True, database=None)
    @given(st.integers(0, 2**32))
    def damaged(seed: int) -> None:
        found.add(outcome(world, kind, mutant(good, form_of(kind.path), Random(seed))))

    damaged()
    assert kind.forgiven or found != {"read"}, "no mutant was worth the name"


# Sizes before contents


def sparse(path: Path, size: int) -> Path:
    with path.open("wb") as stream:
        stream.truncate(size)
    return path


@pytest.mark.parametrize(
    ("name", "read"),
    [
        ("x.png", lambda path: read_image(path, (8, 8))),
        ("run.json", lambda path: read_text(path)),
        ("x.safetensors", load_tensors),
    ],
)
def test_files_of_gigabytes_are_refused_unread(tmp_path, name, read):
    with pytest.raises((LatentoptError, ValueError), match=r"\d{10,} bytes"):
        read(sparse(tmp_path / name, 9 << 30))


def test_an_index_of_a_hundred_thousand_tensors_is_refused_before_it_is_parsed(tmp_path):
    entry = '"{}":{{"dtype":"F32","shape":[0],"data_offsets":[0,0]}}'
    header = ("{" + ",".join(entry.format(i) for i in range(100_000)) + "}").encode()
    path = tmp_path / "many.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header)
    with pytest.raises(CheckpointError, match="100000 tensors"):
        load_tensors(path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes here")
@pytest.mark.parametrize("read", [load_tensors, read_png, read_text], ids=lambda read: read.__name__)
def test_a_pipe_is_not_waited_for(tmp_path, read):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises((LatentoptError, FileNotFoundError)):
        read(tmp_path / "pipe")


def test_pictures_of_ours_that_claim_more_pixels_than_a_generator_draws(tmp_path, world):
    data = (world.folder / "out" / "a" / "target.png").read_bytes()
    header = (13_000).to_bytes(4, "big") * 2 + data[24:29]
    checked = struct.pack(">I", zlib.crc32(b"IHDR" + header))
    (tmp_path / "target.png").write_bytes(data[:16] + header + checked + data[33:])
    with pytest.raises(LatentoptError, match="13000x13000 pixels"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        read_png(tmp_path / "target.png")


@pytest.mark.parametrize(
    "text",
    [
        "a=" + "9" * ROOM,
        ".".join("a" * (ROOM // 2)) + "=1",
        " . ".join("a" * (ROOM // 4)) + "=1",
        ".".join(['"a"'] * (ROOM // 4)) + "=1",
        "[" + ".".join("a" * (ROOM // 2)) + "]",
        "a=" + "[" * ROOM,
        "a=" + "{b=" * (ROOM // 3),
        "a={" + ".".join("b" * (ROOM // 2)) + "=1}",
        '"' * ROOM,
        "a=" + '"""' * (ROOM // 3),
        'a="' + "\\" * ROOM,
        "\n".join(f"k{i}=1" for i in range(1_000_000)),
        "x = " + "9" * 30,
    ],
    ids=lambda text: f"{text[:6]!a}",
)
def test_recipes_that_would_take_a_parser_minutes(text):
    with pytest.raises(ValueError, match=r"more than|too deeply|nterminated|xpected|nvalid"):
        parse_toml(text)


def test_strings_in_recipes_may_hold_anything():
    about = "a." * 50 + "9" * 500 + " [[[ ''' #"
    assert parse_toml(f'about = """{about}"""\nx.y = "{"d." * 30}"') == {"about": about, "x": {"y": "d." * 30}}


# One check for all kinds of JSON


@pytest.mark.parametrize(
    ("text", "expected", "words"),
    [
        ("[" * 100_000, list, "too deeply"),
        ("[" * 90 + "]" * 90, list, "levels deep"),
        ("9" * 100_000, int, "limit"),
        ("99999999999999999999", int, "64 bits"),
        ("NaN", float, "finite number"),
        ("1e999", float, "finite number"),
        ("true", int, "whole number"),
        ('{"a": [1, "x"]}', dict[str, list[int]], r"a\.1 is 'x', not a whole number"),
        ("[1, 2, 3]", tuple[int, int], "3 entries, not 2"),
        ("{", dict, "property name"),
    ],
)
def test_json_of_other_types_sizes_and_depths(text, expected, words):
    with pytest.raises(ValueError, match=words):
        parse_json(text, expected)


def test_json_that_is_as_it_should_be():
    assert conform({"a": [1, 2.5, None]}, dict[str, list[float | None]]) == {"a": [1, 2.5, None]}
    assert conform([4, 4], tuple[int, ...]) == (4, 4)


# Links


@pytest.mark.parametrize("name", ["partial", "done"])
def test_a_cache_that_is_a_link_is_not_written_through(tmp_path, name):
    precious = tmp_path / "precious"
    precious.write_text("precious")
    stem = next(iter(_cache_names(tmp_path)))
    (tmp_path / f"{stem}.{name}").symlink_to(precious)
    with pytest.raises(UsageError, match="symbolic link"):
        cached(tmp_path, 2, 8)
    assert precious.read_text() == "precious"


def _cache_names(folder: Path) -> list[str]:
    made = folder / "made"
    cached(made, 2, 8)
    return [path.name for path in made.glob("*.npy")]


def test_a_log_that_is_a_link_is_not_added_to(tmp_path, world):
    precious = tmp_path / "precious"
    precious.write_text("precious")
    (tmp_path / "log.jsonl").symlink_to(precious)
    with pytest.raises(UsageError, match="symbolic link"):
        Training(trainer(), log=tmp_path / "log.jsonl")
    assert precious.read_text() == "precious"


def test_a_generator_that_asks_for_the_memory_of_a_city(tmp_path, world):
    """Its configuration is held against the weights before anything is made of it."""
    tensors, metadata = load_tensors(world.folder / "tiny.safetensors")
    for entry, value in (("img_channels", 50_000_000), ("w_dim", 1_000_000), ("img_channels", 1_000_000)):
        config = metadata["config"].replace(f'"{entry}": {3 if entry == "img_channels" else 4}', f'"{entry}": {value}')
        save_file(tensors, tmp_path / "big.safetensors", metadata | {"config": config})
        with pytest.raises(CheckpointError, match=r"configuration|shapes"):
            load_generator(str(tmp_path / "big.safetensors"))


# Kills


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no forks here")
def test_killed_runs_go_on_as_if_nothing_had_happened(tmp_path):
    """Nothing is lost, done twice or left behind, and all is the same to the bit: see tests/kills.py."""
    here = Path(__file__).parent
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(here.parent), str(here)]), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(here / "kills.py"), str(tmp_path), "6", "1"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("as if nothing had happened") == 6


class Code:
    """What a hostile snapshot would have run."""

    def __reduce__(self):
        return os.system, ("touch ran",)


def test_a_snapshot_runs_nothing_and_nothing_in_it_inflates(tmp_path, world, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"settings": "{}", "step": Code()}, "snapshot.pt")
    with pytest.raises(UntrustedFileError, match=r"snapshot\.pt: asks for .*system"):
        load_snapshot(Path("snapshot.pt"))
    assert not Path("ran").exists()
    with (
        zipfile.ZipFile(world.folder / "snapshot.pt") as good,
        zipfile.ZipFile("big.pt", "w", zipfile.ZIP_DEFLATED) as big,
    ):
        for name in good.namelist():
            big.writestr(name, good.read(name))
    with pytest.raises(CheckpointError, match=r"big\.pt: not a readable snapshot.*compressed"):
        load_snapshot(Path("big.pt"))
