"""A picture file of any allowed kind as upright channels, levels 0..255. Nothing is changed in silence."""

from __future__ import annotations

import hashlib
import io
import warnings
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image, ImageCms, ImageOps, UnidentifiedImageError

from latentopt.errors import ImageError
from latentopt.files.kinds import check_file, refusal
from latentopt.pictures.heic import INSTALL, has_heic, is_heic, register_heic

FORMATS = ("PNG", "JPEG", "WEBP", "TIFF", "BMP", "GIF", "AVIF")  # others (EPS, FITS ...) are never handed to a decoder
MAX_PIXELS = 89_478_485  # Pillow's own warning level: 256 MiB of RGB
MAX_BYTES = 8 * MAX_PIXELS  # four channels of 16 bits, not compressed
MIN_SIDE = 8  # pixels
WANTED = f"a picture that can be read ({', '.join(FORMATS)})"
MAX_ASPECT = 10


@dataclass
class Picture:
    """`channels`: red, green, blue, modes L or F, levels 0..255; `alpha`: mode L, or None when opaque."""

    channels: tuple[Image.Image, Image.Image, Image.Image]
    alpha: Image.Image | None
    size: tuple[int, int]  # H, W
    sha256: str
    notes: list[str] = field(default_factory=list)


def decode(
    path: Path,
    background: tuple[int, int, int] | None,
    max_pixels: int,
    *,
    any_shape: bool = False,
    only_hidden: bool = False,
) -> Picture:
    """Read `path`, composited on `background`, if one is given; with `only_hidden`, that is put only where nothing of
    the picture is seen. any_shape: small and narrow ones are taken, too. Raises ImageError, naming `path` and the
    remedy.
    """
    data = _read_bytes(path)
    notes: list[str] = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's size warning comes before our own, stricter check
        image = _open(path, data)
        _check_size(path, image, max_pixels, any_shape)
        try:
            image = _upright_frame(image, notes)
            channels, alpha = _channels(image, background, only_hidden, notes)
        except ImageError as error:
            raise ImageError(f"{path}: {error}") from error
        except Exception as error:  # a decoder fed a hostile file may raise anything; one picture must not end a batch
            reason = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
            raise ImageError(f"{path}: damaged or incomplete ({reason}); get the file again") from error
    return Picture(channels, alpha, image.size[::-1], hashlib.sha256(data).hexdigest(), notes)


def _read_bytes(path: Path) -> bytes:
    try:
        if (size := check_file(path, WANTED, ImageError).stat().st_size) > MAX_BYTES:
            raise ImageError(f"{path}: {size} bytes, over the limit of {MAX_BYTES}; refused unread. Make it smaller")
        return path.read_bytes()
    except OSError as error:
        raise ImageError(f"{path}: cannot be read: {error.strerror}") from error


def _open(path: Path, data: bytes) -> Image.Image:
    formats: tuple[str, ...] = FORMATS
    if is_heic(data):
        if not has_heic():
            raise ImageError(f"{path}: a HEIC picture; {INSTALL}")
        register_heic()
        formats = ("HEIF",)
    try:
        return Image.open(io.BytesIO(data), formats=formats)
    except UnidentifiedImageError:
        raise ImageError(refusal(path, WANTED)) from None
    except Image.DecompressionBombError:
        raise ImageError(f"{path}: claims more pixels than Pillow decodes; refused unread. Make it smaller") from None
    except Exception as error:  # as above: headers are hostile too
        raise ImageError(f"{path}: damaged header ({error}); get the file again") from error


def _check_size(path: Path, image: Image.Image, max_pixels: int, any_shape: bool) -> None:
    w, h = image.size
    if w * h > max_pixels:
        raise ImageError(f"{path}: {w}x{h} pixels, over the limit of {max_pixels}; refused unread. Make it smaller")
    if any_shape:
        return
    if min(w, h) < MIN_SIDE:
        raise ImageError(f"{path}: {w}x{h} pixels; a target needs {MIN_SIDE} on each side. Use a larger picture")
    if max(w, h) > MAX_ASPECT * min(w, h):
        raise ImageError(f"{path}: {w}x{h} pixels is longer than {MAX_ASPECT}:1; crop it to what matters first")


def _upright_frame(image: Image.Image, notes: list[str]) -> Image.Image:
    """Frame 0, decoded and turned as its EXIF says."""
    if getattr(image, "is_animated", False) and image.format not in ("MPO", "HEIF"):  # a photo and its previews
        notes.append("several frames or pages: the first is used")
        image.seek(0)
    if _cuts_to_high_byte(image):
        notes.append("16 bits a channel: only the high byte of each can be read")
    image.load()
    try:
        orientation = image.getexif().get(0x0112, 1)
    except Exception:  # the pixels are good: a broken EXIF block is no reason to refuse them
        notes.append("EXIF data unreadable: not rotated")
        return image
    if orientation in range(2, 9):
        notes.append("turned upright as its EXIF says")
        return ImageOps.exif_transpose(image)
    return image


def _cuts_to_high_byte(image: Image.Image) -> bool:
    tiles = getattr(image, "tile", ())  # of a picture that is read from a file
    return not image.mode.startswith(("I", "F")) and any(";16" in str(tile[3]) for tile in tiles)


Channels = tuple[Image.Image, Image.Image, Image.Image]


def _channels(
    image: Image.Image, background: tuple[int, int, int] | None, only_hidden: bool, notes: list[str]
) -> tuple[Channels, Image.Image | None]:
    if image.mode.startswith("I") or image.mode == "F":
        grey = _grey_levels(image, notes)
        return (grey, grey, grey), None
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        alpha = rgba.getchannel("A")
        rgb = _to_srgb(Image.merge("RGB", rgba.split()[:3]), image.info.get("icc_profile"), notes)
        if alpha.getextrema() == (255, 255):
            return _three(rgb), None
        if background is None:
            return _three(rgb), alpha
        if not only_hidden:
            notes.append(f"transparency composited on {background}")
        canvas = Image.new("RGB", rgb.size, background)
        canvas.paste(rgb, mask=alpha.point(_seen) if only_hidden else alpha)
        return _three(canvas), alpha
    profile = image.info.get("icc_profile")
    if image.mode == "CMYK":
        return _three(_cmyk_to_srgb(image, profile, notes)), None
    rgb = image.convert("RGB")
    return _three(_to_srgb(rgb, profile, notes) if image.mode in ("RGB", "P") else rgb), None


def _seen(level: int) -> int:
    return 255 if level else 0


def _three(rgb: Image.Image) -> Channels:
    red, green, blue = rgb.split()
    return red, green, blue


def _grey_levels(image: Image.Image, notes: list[str]) -> Image.Image:
    """16-bit, 32-bit and float grey as mode F, levels 0..255 (Pillow's own conversion clips instead of scaling)."""
    x = np.asarray(image).astype(np.float64)
    if not np.isfinite(x).all():
        raise ImageError("holds values that are not finite; repair it first")
    low, high = float(x.min()), float(x.max())
    if image.mode.startswith("I;16"):
        scale, what = 257.0, "16-bit grey scaled by 1/257"
    elif low >= 0 and high <= 1 and image.mode == "F":
        scale, what = 1 / 255, "float grey: [0,1] taken as black to white"
    elif low >= 0 and high <= 255:
        scale, what = 1.0, f"{_kind(image)}: [0,255] taken as black to white"
    elif low >= 0 and high <= 65535:
        scale, what = 257.0, f"{_kind(image)}: [0,65535] taken as black to white"
    else:
        x, scale, what = (
            x - low,
            (high - low or 1) / 255,
            f"{_kind(image)}: [{low:g},{high:g}] stretched, black to white",
        )
    notes.append(what)
    return Image.fromarray((x / scale).astype(np.float32))


def _kind(image: Image.Image) -> str:
    return "float grey" if image.mode == "F" else "32-bit grey"


def _cmyk_to_srgb(image: Image.Image, profile: bytes | None, notes: list[str]) -> Image.Image:
    if profile:
        try:
            converted = _convert_profile(image, profile)
        except (ImageCms.PyCMSError, OSError):
            notes.append("CMYK: its ICC profile is unusable, converted without one")
            return image.convert("RGB")
        notes.append("CMYK converted through its ICC profile")
        return converted
    notes.append("CMYK without an ICC profile: converted by the plain formula, colours are approximate")
    return image.convert("RGB")


def _to_srgb(rgb: Image.Image, profile: bytes | None, notes: list[str]) -> Image.Image:
    """Colours of another RGB space (a phone's Display P3, Adobe RGB) in sRGB."""
    if not profile:
        return rgb
    try:
        opened = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        name = ImageCms.getProfileDescription(opened).strip()
        if "srgb" in name.lower() or opened.profile.xcolor_space.strip() != "RGB":
            return rgb
        converted = _convert_profile(rgb, profile)
    except (ImageCms.PyCMSError, OSError):
        notes.append("its ICC profile is unusable: colours taken as sRGB")
        return rgb
    notes.append(f"converted from {name} to sRGB")
    return converted


def _convert_profile(image: Image.Image, profile: bytes) -> Image.Image:
    source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
    converted = ImageCms.profileToProfile(image, source, ImageCms.createProfile("sRGB"), outputMode="RGB")
    assert converted is not None  # only a conversion in place gives nothing
    return converted
