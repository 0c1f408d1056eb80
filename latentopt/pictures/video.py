"""Frames to a film: animated WebP with Pillow alone, MP4 where PyAV (the extra `video`) is installed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path

import numpy as np
from PIL import Image

from latentopt.errors import LatentoptError, UsageError
from latentopt.files.outputs import clear_write_errors
from latentopt.files.storage import write_atomically

CRF = 17  # H.264's quality: visually lossless


def save_video(frames: Iterable[np.ndarray], path: str | Path, fps: int = 10) -> None:
    """Write uint8 frames [H,W,3], all of one size, to a .webp or .mp4 file: complete, or not at all.

    The frames are taken one by one; MP4 needs even sides, so an odd one gets its last row or column twice.
    Raises UsageError for another suffix, LatentoptError where PyAV is missing, there is no frame, or the disk refuses.
    """
    path = Path(path)
    check_video(path)
    writers = {".webp": _write_webp, ".mp4": _write_mp4}
    stream = iter(frames)
    first = next(stream, None)
    if first is None:
        raise LatentoptError(f"{path}: no frames to write")
    checked = _checked(chain((first,), stream), first.shape)
    with clear_write_errors(path):
        write_atomically(path, lambda temporary: writers[path.suffix.lower()](checked, temporary, fps))


def check_video(path: Path) -> None:
    """Raise UsageError for a suffix that is no film's, LatentoptError where PyAV is missing."""
    if path.suffix.lower() not in (".webp", ".mp4"):
        raise UsageError(f"{path}: a film is .webp or .mp4")
    if path.suffix.lower() == ".mp4":
        _require_av(path)


def _checked(frames: Iterable[np.ndarray], shape: tuple[int, ...]) -> Iterator[np.ndarray]:
    for frame in frames:
        if frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[-1] != 3 or frame.shape != shape:
            raise ValueError(f"a frame is {frame.dtype} {frame.shape}; expected uint8 [H,W,3] like the first, {shape}")
        yield frame


def _write_webp(frames: Iterator[np.ndarray], path: Path, fps: int) -> None:
    pictures = map(Image.fromarray, frames)
    first = next(pictures)
    first.save(path, format="WEBP", save_all=True, append_images=pictures, duration=round(1000 / fps), quality=90)


def _require_av(path: Path) -> None:
    try:
        import av  # noqa: F401
    except ImportError:
        raise LatentoptError(f"{path}: MP4 needs PyAV: pip install 'latentopt[video]', or name a .webp file") from None


def _write_mp4(frames: Iterator[np.ndarray], path: Path, fps: int) -> None:
    import av

    with av.open(str(path), "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=fps, options={"crf": str(CRF)})
        for i, frame in enumerate(frames):
            even = np.pad(frame, ((0, frame.shape[0] % 2), (0, frame.shape[1] % 2), (0, 0)), mode="edge")
            if i == 0:
                stream.height, stream.width, stream.pix_fmt = *even.shape[:2], "yuv420p"
            container.mux(stream.encode(av.VideoFrame.from_ndarray(even, format="rgb24")))
        container.mux(stream.encode(None))
