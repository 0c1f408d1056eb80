"""Procedural portraits with exactly known attributes: the bundled domain, for training and for measuring.

Every image is a pure function of its attribute vector, and every attribute vector of its own seed. Some attributes
are correlated on purpose, as in photographs (`CORRELATIONS`); all others are independent, so that entanglement of an
edit can be told from correlation in the data.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.lib.format import open_memmap
from scipy.special import ndtr
from torch import Tensor
from torch.nn.functional import avg_pool2d

from latentopt.data.portrait_renderer import draw
from latentopt.errors import ImageError, UsageError
from latentopt.files.outputs import refuse_link

VERSION = 1  # of the pictures: raise it whenever the same seed gives other pixels or attributes

DEVICE_PIXELS = 1 << 23  # drawn at once by a device other than a CPU: some 30 planes of 4 bytes in all, 1 GB

TRAIN_SEEDS = range(0, 1_000_000)
TEST_SEEDS = range(10_000_000, 11_000_000)
SAMPLE_SEEDS = range(20_000_000, 20_000_016)


@dataclass(frozen=True)
class Attribute:
    """One number of a portrait: its range and what its low and high ends mean."""

    name: str
    kind: Literal["continuous", "binary"]
    low: float
    high: float
    meaning: str


def _real(name: str, low: float, meaning: str) -> Attribute:
    return Attribute(name, "continuous", low, 1.0, meaning)


ATTRIBUTES: tuple[Attribute, ...] = (
    _real("yaw", -1, "turn of the head: -1 to the left of the picture, 1 to its right, about 36 degrees each"),
    _real("smile", -1, "-1 corners of the mouth down, 0 straight, 1 open smile with teeth"),
    Attribute("glasses", "binary", 0, 1, "0 none, 1 worn; values between are drawn half transparent"),
    _real("beard", 0, "0 none, through stubble to 1, full and long"),
    _real("hair_length", 0, "0 cropped, 1 below the shoulders"),
    _real("hair_tone", 0, "0 black, 1 blond"),
    _real("hair_red", 0, "0 no red, 1 red at the same tone"),
    _real("fringe", 0, "0 bare forehead, 1 hair down to the brows"),
    _real("skin_tone", 0, "0 light, 1 dark"),
    _real("eye_opening", 0, "0 nearly closed, 1 wide open"),
    _real("brow_tilt", -1, "-1 inner ends raised (worried), 1 outer ends raised (stern)"),
    _real("face_width", 0, "0 narrow, 1 wide"),
    _real("face_height", 0, "0 short, 1 long"),
    _real("light_direction", -1, "-1 lit from the left of the picture, 1 from its right"),
    *(_real(f"background_{c}", 0, f"{c} of the background") for c in ("red", "green", "blue")),
    *(_real(f"shirt_{c}", 0, f"{c} of the shirt") for c in ("red", "green", "blue")),
    _real("position_x", -1, "head moved left or right by up to 0.04 of the shorter side"),
    _real("position_y", -1, "head moved up or down by up to 0.03 of the shorter side"),
    _real("scale", -1, "8 percent smaller to 8 percent larger"),
    _real("iris_tone", 0, "0 brown, through green to 1, blue"),
)
NAMES: tuple[str, ...] = tuple(attribute.name for attribute in ATTRIBUTES)

# Correlations of the Gaussian variables behind the attributes; every pair that is not named here is independent.
CORRELATIONS: dict[tuple[str, str], float] = {
    ("hair_length", "beard"): -0.6,
    ("face_width", "beard"): 0.4,
    ("glasses", "beard"): 0.3,
    ("skin_tone", "hair_tone"): -0.6,
    ("smile", "eye_opening"): -0.4,
}
GLASSES_SHARE = 0.3
MIRRORED = ("yaw", "light_direction", "position_x")


def _uniforms(seeds: np.ndarray, columns: int) -> np.ndarray:
    """Uniform numbers [B,columns] in (0,1), each a hash (splitmix64) of its seed and column alone."""
    golden = np.uint64(0x9E3779B97F4A7C15)

    def scramble(x: np.ndarray) -> np.ndarray:
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return x ^ (x >> np.uint64(31))

    stream = scramble((seeds.astype(np.uint64) + np.uint64(1)) * golden)[:, None]
    counter = np.arange(1, columns + 1, dtype=np.uint64) * golden
    return ((scramble(stream + counter) >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53


def _correlation_factor() -> np.ndarray:
    """Cholesky factor [A,A] of the correlation matrix."""
    matrix = np.eye(len(NAMES))
    for (first, second), value in CORRELATIONS.items():
        i, j = NAMES.index(first), NAMES.index(second)
        matrix[i, j] = matrix[j, i] = value
    return np.linalg.cholesky(matrix)


def independent_normals(seeds: Tensor | Sequence[int]) -> Tensor:
    """Independent standard normal variables [B,A], float64, that decide the attributes of these seeds' portraits.

    Args:
        seeds: B whole numbers of at least 0. A row depends on its own seed alone.

    Raises:
        UsageError: seeds are not whole numbers of at least 0.
    """
    numbers = np.asarray(seeds.cpu() if isinstance(seeds, Tensor) else list(seeds))
    if numbers.size and (numbers.ndim != 1 or numbers.dtype.kind not in "iu" or numbers.min() < 0):
        raise UsageError("portrait seeds must be a flat list of whole numbers of at least 0")
    # Box-Muller transform: exactly normal from two uniforms.
    u = _uniforms(numbers.reshape(-1), 2 * len(NAMES))
    u1, u2 = u[:, ::2], u[:, 1::2]
    return torch.from_numpy(np.sqrt(-2 * np.log(u1)) * np.cos(2 * np.pi * u2))


def attributes_of(normals: Tensor) -> Tensor:
    """Attributes [B,A], float32 in the order of `NAMES`, that independent standard normal variables [B,A] decide.

    Each is within its `ATTRIBUTES` range. Uniform, but: yaw, position and scale favour the middle, beard and hair_red
    favour 0, glasses are worn by `GLASSES_SHARE`. A mirrored portrait has `MIRRORED` variables of the other sign.
    """
    # einsum, not BLAS: the result of a row must not depend on how many rows there are.
    normal = np.einsum("bi,ji->bj", normals.double().cpu().numpy(), _correlation_factor())  # [B,A]
    level = ndtr(normal)  # uniform in (0,1)
    for name in ("yaw", "position_x", "position_y", "scale"):
        level[:, NAMES.index(name)] = ndtr(0.75 * normal[:, NAMES.index(name)])
    for name in ("beard", "hair_red"):
        level[:, NAMES.index(name)] **= 2
    worn = NAMES.index("glasses")
    level[:, worn] = level[:, worn] > 1 - GLASSES_SHARE
    low = np.array([attribute.low for attribute in ATTRIBUTES])
    high = np.array([attribute.high for attribute in ATTRIBUTES])
    return torch.from_numpy((low + (high - low) * level).astype(np.float32)).to(normals.device)


def sample_attributes(seeds: Tensor | Sequence[int]) -> Tensor:
    """Attributes [B,A] of the portraits with these seeds, as `attributes_of` describes them.

    Raises UsageError for seeds that are not whole numbers of at least 0.
    """
    return attributes_of(independent_normals(seeds))


@torch.no_grad()
def render(
    attributes: Tensor,
    resolution: int | tuple[int, int],
    supersample: int = 2,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Draw portraits, on the device of the attributes.

    Args:
        attributes: [B,A] in the order of `NAMES`, within their ranges.
        resolution: side of a square picture, or (height, width); the shorter side sets the size of the head.
        supersample: each pixel is the mean of supersample x supersample drawn ones (edges are anti-aliased anyway).
        dtype: of the result; drawing itself is in float32.

    Returns:
        [B,3,H,W] in [-1,1].

    Raises:
        UsageError: attributes of another shape, or a resolution or supersample below 1.
    """
    height, width = (resolution, resolution) if isinstance(resolution, int) else resolution
    if attributes.ndim != 2 or attributes.shape[1] != len(NAMES):
        raise UsageError(f"attributes must be [B,{len(NAMES)}], got {tuple(attributes.shape)}")
    if min(height, width, supersample) < 1:
        raise UsageError(f"resolution {height}x{width} and supersample {supersample} must be at least 1")
    pixel = 2.0 / (supersample * min(height, width))
    rows, columns = height * supersample, width * supersample
    y = (torch.arange(rows, device=attributes.device) - 0.5 * (rows - 1)) * pixel
    x = (torch.arange(columns, device=attributes.device) - 0.5 * (columns - 1)) * pixel
    images = attributes.new_empty(len(attributes), 3, height, width, dtype=dtype)
    # A few planes of this size stay in a core's cache; elsewhere, the fewer calls the better.
    batch = max(1, (65536 if attributes.device.type == "cpu" else DEVICE_PIXELS) // (rows * columns))
    for start in range(0, len(attributes), batch):
        part = attributes[start : start + batch].float()
        drawn = draw(dict(zip(NAMES, part.unbind(1), strict=True)), x, y, pixel)
        images[start : start + batch] = avg_pool2d(drawn, supersample).mul_(2).sub_(1)
    return images


def portraits(
    seeds: Tensor | Sequence[int], resolution: int | tuple[int, int], supersample: int = 2
) -> tuple[Tensor, Tensor]:
    """Images [B,3,H,W] in [-1,1] and attributes [B,A] of the portraits with these seeds."""
    attributes = sample_attributes(seeds)
    return render(attributes, resolution, supersample), attributes


def flip(images: Tensor, attributes: Tensor) -> tuple[Tensor, Tensor]:
    """Mirror portraits: images [B,3,H,W] left to right, and the attributes [B,A] of the mirrored pictures."""
    sign = torch.tensor([-1.0 if name in MIRRORED else 1.0 for name in NAMES])
    return images.flip(-1), attributes * sign.to(attributes)


def cached(
    directory: Path | str, n: int, resolution: int, start_seed: int = 0, chunk: int = 1000
) -> tuple[np.ndarray, Tensor]:
    """Portraits with seeds start_seed ... start_seed+n-1, drawn once and kept as an 8-bit file.

    An interrupted drawing goes on where it stopped. The file's name holds all that it depends on.

    Returns:
        uint8 images [n,3,H,W], memory-mapped read-only, 0 for -1 and 255 for 1; float32 attributes [n,A].

    Raises:
        ImageError: a file of that name is not such an array.
        UsageError: n, resolution or chunk below 1, or start_seed below 0.
    """
    if min(n, resolution, chunk) < 1 or start_seed < 0:
        raise UsageError(f"cannot draw {n} portraits of {resolution} pixels from seed {start_seed}, {chunk} at a time")
    name = f"portraits-v{VERSION}-{resolution}px-{start_seed}-{n}.npy"
    path, partial = Path(directory) / name, Path(directory) / f"{name}.partial"
    if not path.exists():
        Path(directory).mkdir(parents=True, exist_ok=True)
        _draw_to(partial, n, resolution, start_seed, chunk)
        partial.replace(path)
    return _mapped(path, (n, 3, resolution, resolution), "r"), sample_attributes(range(start_seed, start_seed + n))


def _mapped(path: Path, shape: tuple[int, ...], mode: Literal["r", "r+"]) -> np.memmap:
    try:
        array = open_memmap(path, mode=mode)
    except Exception as error:  # numpy raises ValueError, OSError, EOFError, SyntaxError ... for damaged files
        raise ImageError(f"{path} is not a readable array ({error}): delete it, and it is drawn again") from error
    if array.shape != shape or array.dtype != np.uint8:
        raise ImageError(f"{path} holds {array.dtype} {array.shape}, not uint8 {shape}: delete it to draw it again")
    return array


def _draw_to(partial: Path, n: int, resolution: int, start_seed: int, chunk: int) -> None:
    """Fill the array of a partial file; the count of finished images lies beside it."""
    progress = partial.with_suffix(".done")
    for path in (partial, progress):
        refuse_link(path)
    shape = (n, 3, resolution, resolution)
    count = progress.read_bytes() if progress.exists() and partial.exists() else b""
    done = min(int(count), n) if count.isdigit() and len(count) < 20 else 0  # no number: a crash left the file empty
    if done:
        _mapped(partial, shape, "r")  # opening to write would lengthen a file cut short with zeros
    array = _mapped(partial, shape, "r+") if done else open_memmap(partial, "w+", np.uint8, shape)
    for start in range(done, n, chunk):
        stop = min(start + chunk, n)
        images, _ = portraits(range(start_seed + start, start_seed + stop), resolution)
        array[start:stop] = images.add_(1).mul_(127.5).round_().to(torch.uint8).numpy()
        array.flush()
        progress.write_text(str(stop))
    progress.unlink(missing_ok=True)
