"""HEIC, the photos of phones: read by pillow-heif, an extra, which is imported when there is one to read."""

from __future__ import annotations

import importlib.util
from functools import cache

HEIC_SUFFIXES = frozenset((".heic", ".heif", ".hif"))
BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
INSTALL = "pip install 'latentopt[heic]', or convert them to JPEG"


def is_heic(data: bytes) -> bool:
    """Whether a file begins as one of the HEIF family that Pillow does not read itself."""
    return data[4:8] == b"ftyp" and data[8:12] in BRANDS


def has_heic() -> bool:
    """Whether HEIC can be read here."""
    return importlib.util.find_spec("pillow_heif") is not None


@cache
def register_heic() -> None:
    """Teach Pillow the format HEIF."""
    import pillow_heif

    pillow_heif.register_heif_opener(thumbnails=False, aux_images=False, depth_images=False)
