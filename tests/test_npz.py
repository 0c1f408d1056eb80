"""Foreign `.npz` files, as both of their readers take them."""

from __future__ import annotations

import io
import zipfile

import numpy as np
import pytest
from conftest import make_tiny_generator

from latentopt.checkpoints.latent_files import read_latents
from latentopt.checkpoints.npz import read_npz
from latentopt.errors import CheckpointError, LatentoptError, UntrustedFileError
from latentopt.statistics.pnorm import PNorm


def load_latents(path):
    return read_latents(path, make_tiny_generator())


NAMES = ("w", "X_mean", "X_comp", "X_stdev")


def npy(array) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


def write(path, contents, compression=zipfile.ZIP_STORED):
    """An `.npz` with the same member under every name that a reader asks for."""
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name in NAMES:
            archive.writestr(f"{name}.npy", contents)
    return path


def test_only_what_is_asked_for_is_read(tmp_path):
    np.savez_compressed(tmp_path / "a.npz", w=np.arange(3.0), other=np.array([{}], object))
    found = read_npz(tmp_path / "a.npz", ["w"])
    assert list(found) == ["w"] and found["w"].tolist() == [0, 1, 2]
    with pytest.raises(CheckpointError, match="no array 'v'; expected v, w"):
        read_npz(tmp_path / "a.npz", ["v", "w"])


HUGE = npy(np.zeros(4)).replace(b"(4,), }" + b" " * 15, b"(1000000000000000,), }")
DAMAGED = {
    "a cut array": npy(np.ones((8, 16)))[:-9],
    "a claim of petabytes": HUGE,
    "no array": b"text",
    "a damaged header": npy(np.ones(3)).replace(b"{", b"("),
    "words": npy(np.array(["a", "b"])),
    "complex numbers": npy(np.ones(3, complex)),
}


@pytest.mark.parametrize("read", [load_latents, PNorm.load], ids=["latent", "statistics"])
@pytest.mark.parametrize("contents", DAMAGED.values(), ids=DAMAGED)
def test_damaged_members(tmp_path, read, contents):
    path = write(tmp_path / "a.npz", contents)
    with pytest.raises(LatentoptError) as caught:
        read(path)
    assert str(path) in str(caught.value) and caught.value.exit_code == 1


def test_the_claim_of_petabytes_is_one():
    assert b"1000000000000000" in HUGE


@pytest.mark.parametrize("read", [load_latents, PNorm.load], ids=["latent", "statistics"])
def test_python_objects(tmp_path, read):
    path = write(tmp_path / "a.npz", npy(np.array([{}], object)))
    with pytest.raises(UntrustedFileError, match=r"a\.npz.*Python objects"):
        read(path)


@pytest.mark.parametrize("read", [load_latents, PNorm.load], ids=["latent", "statistics"])
def test_swollen_files(tmp_path, monkeypatch, read):
    """Refused by the sizes in the index, before anything is inflated."""
    path = write(tmp_path / "a.npz", npy(np.zeros((1, 512, 512))), zipfile.ZIP_DEFLATED)
    assert path.stat().st_size < 50_000
    monkeypatch.setattr("latentopt.checkpoints.npz.NPZ_LIMIT", 1 << 20)
    monkeypatch.setattr("latentopt.checkpoints.npz.np.load", lambda *args, **kwargs: pytest.fail("it was opened"))
    with pytest.raises(LatentoptError, match="inflates to more than 1 MiB"):
        read(path)


@pytest.mark.parametrize("compression", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA], ids=["bz2", "lzma"])
def test_compressions_that_inflate_without_limit(tmp_path, compression):
    with pytest.raises(CheckpointError, match=r"a\.npz: compressed as numpy does not"):
        load_latents(write(tmp_path / "a.npz", npy(np.ones((8, 16))), compression))


@pytest.mark.parametrize("data", [b"", b"junk", b"PK\x03\x04junk", None], ids=["empty", "junk", "cut", "absent"])
def test_other_files(tmp_path, data):
    path = tmp_path / "a.npz"
    if data is not None:
        path.write_bytes(data)
    with pytest.raises(CheckpointError, match=r"a\.npz"):
        read_npz(path, ["w"])
