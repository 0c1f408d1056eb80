"""How exactly are faces aligned, and do pasted pictures leave the rest alone?

    python benchmarks/alignment.py
    python benchmarks/alignment.py --n 20 --out out/trial

Fresh portraits, whose eyes and mouths are known, are put into larger pictures, turned, scaled and shifted by known
amounts; some stick out. The quad of each is found from its exact points and by the detector (left out where the extra
`faces` is missing), and compared with the true one. Then a picture is pasted back at each quad.
"""

from __future__ import annotations

import argparse
import math
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from scipy.ndimage import gaussian_filter
from tables import markdown_table, provenance, write_report
from torch import Tensor

from latentopt.data.portrait_points import portrait_points
from latentopt.data.portraits import TEST_SEEDS, portraits
from latentopt.errors import ImageError
from latentopt.faces.aligner import Aligner
from latentopt.faces.alignment import Alignment
from latentopt.faces.blending import Seam, paste_face
from latentopt.faces.cutting import cut, resample
from latentopt.faces.litert import has_networks
from latentopt.faces.quads import face_quad, projected, side_of
from latentopt.pictures.decoding import MAX_PIXELS, decode
from latentopt.pictures.finding import ImageSource
from latentopt.pictures.images import from_uint8, to_uint8

SIDE = 256  # pixels of a portrait before it is placed
SIZES = ((240, 320), (300, 200), (400, 520))  # H, W of the pictures
SEAMS = {
    "feather": Seam(),
    "face, feather": Seam(part="face"),
    "poisson": Seam(blend="poisson"),
}


@dataclass(frozen=True)
class Photo:
    """A portrait in a larger picture: levels [H,W,3], the points of its face [4,2], and its quad [4,2] from before it
    was moved, moved as it was.
    """

    levels: np.ndarray
    points: Tensor
    quad: Tensor


def photos(n: int, turn: float) -> Iterator[Photo]:
    """Portraits placed by their own seeds, turned by up to `turn` degrees."""
    for seed in TEST_SEEDS[:n]:
        images, attributes = portraits([seed], SIDE)
        rng = np.random.default_rng(seed)
        size = SIZES[rng.integers(len(SIZES))]
        move = placement(rng, size, turn)
        levels = placed(to_uint8(images[0]), backdrop(rng, size), move)
        points = portrait_points(attributes, (SIDE, SIDE))[0]
        yield Photo(levels, projected(move, points), projected(move, face_quad(points)))


def placement(rng: np.random.Generator, size: tuple[int, int], turn: float) -> Tensor:
    """The matrix [3,3] from the portrait's pixels to the picture's: its middle lies within the picture's."""
    angle, scale = math.radians(rng.uniform(-turn, turn)), rng.uniform(0.35, 0.95) * min(size) / SIDE
    x, y = rng.uniform(0.3, 0.7) * size[1], rng.uniform(0.35, 0.65) * size[0]
    c, s, half = scale * math.cos(angle), scale * math.sin(angle), SIDE / 2
    rows = [[c, -s, x - c * half + s * half], [s, c, y - s * half - c * half], [0, 0, 1]]
    return torch.tensor(rows, dtype=torch.float64)


def backdrop(rng: np.random.Generator, size: tuple[int, int]) -> np.ndarray:
    """Soft coloured clouds, levels [H,W,3]."""
    noise = rng.normal(size=(*size, 3))
    soft = np.stack([gaussian_filter(noise[..., c], 25) for c in range(3)], axis=-1)
    return np.clip(128 + 45 * soft / soft.std(), 0, 255).astype(np.uint8)


def placed(portrait: np.ndarray, behind: np.ndarray, move: Tensor) -> np.ndarray:
    back = torch.linalg.inv(move)
    planes = [portrait[..., c].astype(np.float32) for c in range(3)] + [np.full(portrait.shape[:2], 1, np.float32)]
    # Finely drawn pictures are made smaller first, as a lens would.
    scale = float(torch.linalg.det(move[:2, :2]).sqrt())
    planes = [gaussian_filter(plane, max(0.4 / scale - 0.4, 0)) for plane in planes]
    *colours, cover = (np.asarray(resample(Image.fromarray(x), back, behind.shape[:2])) for x in planes)
    mask = np.clip(cover, 0, 1)[..., None]
    mixed = behind + mask * (np.stack(colours, axis=-1) - behind)
    return np.clip(np.round(mixed), 0, 255).astype(np.uint8)


def corner_error(found: Tensor, true: Tensor) -> float:
    """The mean distance of the corners, as a share of the true side."""
    return float((found - true).norm(dim=1).mean() / side_of(true))


def nearest(found: list[Alignment], true: Tensor) -> Alignment | None:
    """The face that is meant, where one was found there: its middle lies within a quarter of the side."""
    near = [a for a in found if (a.corners.mean(dim=0) - true.mean(dim=0)).norm() < side_of(true) / 4]
    return min(near, key=lambda a: corner_error(a.corners, true), default=None)


def summary(name: str, errors: list[float], n: int, extra: int) -> list[object]:
    found = torch.tensor(errors, dtype=torch.float64)
    known = len(errors) > 0
    return [
        name,
        f"{len(errors)} of {n}",
        extra,
        *([100 * float(found.quantile(q)) for q in (0.5, 0.95)] + [100 * float(found.max())] if known else [None] * 3),
    ]


def measured(n: int, turn: float, work: Path) -> tuple[list[list[object]], list[list[object]], list[np.ndarray]]:
    """Rows on quads, rows on pasting, and the first aligned pictures."""
    exact: list[float] = []
    detected: list[float] = []
    extra = 0
    kept = {name: [] for name in SEAMS}
    back: list[float] = []
    shown: list[np.ndarray] = []
    detector = Aligner() if has_networks() else None
    path = work / "photo.png"
    for photo in photos(n, turn):
        Image.fromarray(photo.levels).save(path)
        source, true = ImageSource(path, "photo"), photo.quad
        (alignment,) = Aligner("none", {"photo": [photo.points]})(source)
        exact.append(corner_error(alignment.corners, true))
        if detector is not None:
            found = faces_of(detector, source)
            hit = nearest(found, true)
            extra += len(found) - (hit is not None)
            if hit is not None:
                detected.append(corner_error(hit.corners, true))
        aligned = cut(decode(path, None, MAX_PIXELS), alignment, max(64, math.ceil(side_of(true))))
        image = from_uint8(
            np.stack([np.asarray(c).clip(0, 255).round().astype(np.uint8) for c in aligned.channels], -1)
        )
        for name, seam in SEAMS.items():
            pasted, mask = paste_face(photo.levels, image.flip(2), true, seam)
            kept[name].append(bool((pasted == photo.levels)[mask == 0].all()))
        pasted, mask = paste_face(photo.levels, image, true, Seam(colour="keep", feather=0))
        back.append(psnr_inside(pasted, photo.levels, mask))
        if len(shown) < 8:
            shown.append(np.asarray(Image.fromarray(to_uint8(image)).resize((128, 128))))
    rows = [summary("exact points", exact, n, 0)]
    if detector is not None:
        rows.append(summary("found by blazeface", detected, n, extra))
    pasting: list[list[object]] = [[name, f"{sum(same)} of {n}", None] for name, same in kept.items()]
    pasting.append(["the aligned picture itself, no feather", None, float(np.median(back))])
    return rows, pasting, shown


def faces_of(detector: Aligner, source: ImageSource) -> list[Alignment]:
    try:
        return detector(source)
    except ImageError:  # no face
        return []


def psnr_inside(pasted: np.ndarray, photo: np.ndarray, mask: np.ndarray) -> float:
    gap = (pasted.astype(np.float64) - photo)[mask > 0]
    return 10 * math.log10(255**2 / max(float((gap**2).mean()), 1e-9))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, default=100, help="portraits")
    parser.add_argument("--turn", type=float, default=30.0, help="degrees, at most, either way")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as work:
        rows, pasting, shown = measured(args.n, args.turn, Path(work))
    Image.fromarray(np.concatenate(shown, axis=1)).save(args.out / "alignment.png")
    columns = ("points", "found", "other faces", "median error, %", "95 %", "largest")
    write_report(
        args.out / "alignment.md",
        "Alignment",
        f"{args.n} fresh portraits in larger pictures, turned by up to {args.turn:g} degrees, 35 to 95 % of the "
        "shorter side. The error is the mean distance of the quad's corners from the true ones, in per cent of its "
        "side. Faces are drawn, and their networks were trained on photographs.",
        markdown_table(columns, rows),
        "Pasting a mirrored picture, so that everything inside would change; and the aligned picture itself. PSNR of "
        "all that lies inside the quad, dB, median.",
        markdown_table(("seam", "bit-equal outside the mask", "psnr inside"), pasting),
        "![Aligned by the exact points](alignment.png)",
        provenance(torch.device("cpu"), f"portraits TEST_SEEDS[:{args.n}]"),
    )


if __name__ == "__main__":
    main()
