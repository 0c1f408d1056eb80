"""Folders of pictures as training data: read once, read again when changed, broken pictures passed over."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from latentopt.data import folders
from latentopt.data.folders import folder_images
from latentopt.errors import ImageError, UsageError

COLOURS = {"a.png": (255, 0, 10), "b.png": (0, 255, 20), "deep/c.png": (0, 0, 255)}


@pytest.fixture
def pictures(tmp_path) -> Path:
    """Three pictures of one colour each, of different sizes; the middle square of the wide one alone is green."""
    for i, (name, colour) in enumerate(COLOURS.items()):
        path = tmp_path / "pictures" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8 + 4 * i, 8 + 4 * i), colour).save(path)
    wide = Image.new("RGB", (64, 16), (255, 255, 255))
    wide.paste(COLOURS["b.png"], (24, 0, 40, 16))
    wide.save(tmp_path / "pictures" / "b.png")
    return tmp_path / "pictures"


@pytest.fixture
def reads(monkeypatch) -> list[str]:
    """Names of the pictures read from now on."""
    names = []
    read = folders.read_image

    def counted(path, resolution):
        names.append(path.name)
        return read(path, resolution)

    monkeypatch.setattr(folders, "read_image", counted)
    return names


def test_pictures_in_name_order(pictures, tmp_path):
    images, skipped = folder_images(pictures, tmp_path / "cache", 8)
    assert (images.dtype, images.shape, skipped) == (np.uint8, (3, 3, 8, 8), [])
    for image, colour in zip(images, COLOURS.values(), strict=True):
        assert np.abs(image[:, 2:6, 2:6].astype(int) - np.array(colour)[:, None, None]).max() <= 1
    assert not images.flags.writeable


def test_an_unchanged_folder_is_read_once(pictures, tmp_path, reads):
    first, _ = folder_images(pictures, tmp_path / "cache", 8)
    again, _ = folder_images(pictures, tmp_path / "cache", 8)
    assert reads == ["a.png", "b.png", "c.png"]
    assert np.array_equal(first, again)
    assert sorted(path.suffix for path in (tmp_path / "cache").iterdir()) == [".json", ".npy"]


def touched(folder: Path) -> None:
    os.utime(folder / "a.png", (1, 1))


def added(folder: Path) -> None:
    Image.new("RGB", (8, 8)).save(folder / "d.png")


def removed(folder: Path) -> None:
    (folder / "a.png").unlink()


def renamed(folder: Path) -> None:
    (folder / "a.png").rename(folder / "z.png")


@pytest.mark.parametrize("change", [touched, added, removed, renamed])
def test_a_changed_folder_is_read_again(pictures, tmp_path, reads, change):
    folder_images(pictures, tmp_path / "cache", 8)
    reads.clear()
    change(pictures)
    images, _ = folder_images(pictures, tmp_path / "cache", 8)
    assert len(images) == len(reads) == {added: 4, removed: 2}.get(change, 3)


def test_resolutions_do_not_mix(pictures, tmp_path):
    assert [folder_images(pictures, tmp_path / "cache", side)[0].shape[-1] for side in (8, 16, 8)] == [8, 16, 8]


def test_broken_pictures_are_passed_over_and_named(pictures, tmp_path):
    (pictures / "a.png").write_text("not a picture")
    images, skipped = folder_images(pictures, tmp_path / "cache", 8)
    assert images.shape == (2, 3, 8, 8)
    assert len(skipped) == 1
    assert "a.png" in skipped[0]
    assert folder_images(pictures, tmp_path / "cache", 8)[1] == skipped, "named again when the array is there already"


@pytest.mark.parametrize("suffix", [".npy", ".json"])
def test_a_damaged_cache_names_the_file_and_the_remedy(pictures, tmp_path, suffix):
    folder_images(pictures, tmp_path / "cache", 8)
    damaged = next((tmp_path / "cache").glob(f"*{suffix}"))
    damaged.write_bytes(b"half")
    with pytest.raises(ImageError, match=r"damaged.*delete both"):
        folder_images(pictures, tmp_path / "cache", 8)


def test_a_folder_without_a_readable_picture(pictures, tmp_path):
    for name in COLOURS:
        (pictures / name).write_text("not a picture")
    with pytest.raises(ImageError, match="none of its 3 pictures can be read"):
        folder_images(pictures, tmp_path / "cache", 8)
    assert not list(tmp_path.glob("cache/*"))


def test_a_folder_without_pictures(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match="no images found there"):
        folder_images(tmp_path / "empty", tmp_path / "cache", 8)


def test_an_interrupted_reading_leaves_no_array(pictures, tmp_path, monkeypatch):
    def full(path, array):
        path.write_bytes(b"half")
        raise OSError("No space left on device")

    with monkeypatch.context() as patch, pytest.raises(OSError, match="No space left"):
        patch.setattr(folders.np, "save", full)
        folder_images(pictures, tmp_path / "cache", 8)
    assert not list((tmp_path / "cache").iterdir())
    assert len(folder_images(pictures, tmp_path / "cache", 8)[0]) == 3
