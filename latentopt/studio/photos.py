"""Pictures that pages send: checked, named and kept; shown upright, and cut by hand."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path

from PIL import Image

from latentopt.editing.latents import file_name
from latentopt.errors import ImageError, UsageError
from latentopt.files.outputs import clear_write_errors
from latentopt.files.storage import write_atomically
from latentopt.pictures.decoding import MIN_SIDE, decode
from latentopt.pictures.finding import suffixes
from latentopt.pictures.images import save_png
from latentopt.studio.places import PICTURES

MOST_BYTES = 30 << 20  # of a picture that a page sends
MOST_PIXELS = 50_000_000
SHOWN_SIDE = 1024  # pixels of a picture on the page


def upright(path: Path) -> Image.Image:
    """A picture of any kind as one sees it, RGB or RGBA. Raises ImageError."""
    picture = decode(path, None, MOST_PIXELS)
    levels = [channel.convert("L") for channel in picture.channels]
    bands = levels if picture.alpha is None else [*levels, picture.alpha]
    return Image.merge("RGB" if picture.alpha is None else "RGBA", bands)


def shown(path: Path) -> bytes:
    """A picture as the page shows it, a PNG. Raises ImageError."""
    image, stream = upright(path), io.BytesIO()
    image.thumbnail((SHOWN_SIDE, SHOWN_SIDE))
    image.save(stream, format="PNG", compress_level=1)
    return stream.getvalue()


def received(root: Path, name: str, data: bytes) -> str:
    """Keep a picture that a page has sent, and return its key. One that is there already is not kept twice.

    Raises UsageError for a name of another kind of file, ImageError for what is no picture.
    """
    given = Path(name.replace("\\", "/"))
    stem, suffix = file_name(given.stem), given.suffix.lower()
    if suffix not in suffixes():
        kinds = " ".join(sorted(suffixes()))
        raise UsageError(f"{file_name(given.name)}: not a kind of picture that is read ({kinds})")
    return _kept(root / PICTURES, stem, suffix, data)


def _kept(folder: Path, stem: str, suffix: str, data: bytes) -> str:
    path, number = folder / f"{stem}{suffix}", 1
    while path.is_file() and _digest(path.read_bytes()) != _digest(data):
        number += 1
        path = folder / f"{stem}-{number}{suffix}"

    def write(temporary: Path) -> None:
        temporary.write_bytes(data)
        try:
            upright(temporary)  # what is no picture is not kept
        except ImageError as error:
            raise ImageError(str(error).replace(str(temporary), path.name)) from None

    if not path.is_file():
        with clear_write_errors(path):
            write_atomically(path, write)
    return f"{PICTURES}/{path.name}"


def _digest(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


def cropped(root: Path, path: Path, box: tuple[float, float, float, float]) -> str:
    """Cut a box (left, top, right, bottom, as shares of the sides) out of a picture, and return the new one's key.

    Raises UsageError for a box that holds nothing.
    """
    image = upright(path)
    sides = (image.width, image.height) * 2
    left, top, right, bottom = (round(min(max(share, 0.0), 1.0) * side) for share, side in zip(box, sides, strict=True))
    if min(right - left, bottom - top) < MIN_SIDE:
        raise UsageError(f"the box is {right - left}x{bottom - top} pixels; draw a larger one")
    folder = root / PICTURES
    name = f"{file_name(path.stem)}-{left}-{top}-{right}-{bottom}.png"
    save_png(folder / name, image.crop((left, top, right, bottom)))
    return f"{PICTURES}/{name}"
