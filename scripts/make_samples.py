"""Draw the sample pictures: 16 portraits that no network was trained on, and four pictures that are no portraits."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
import torch.nn.functional as F

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from sklearn.datasets import load_sample_images  # noqa: E402

from latentopt.data.drawings import drawings  # noqa: E402
from latentopt.data.portraits import SAMPLE_SEEDS, portraits  # noqa: E402
from latentopt.pictures.images import save_png  # noqa: E402

SIZE = 192
ABOUT = """\
Sample pictures of latentopt, made by `scripts/make_samples.py`.

- `portrait-00.png` ... `portrait-15.png`: procedural portraits with seeds outside the training range (Apache-2.0).
- `out-house.png`, `out-cat.png`: drawings by the project (Apache-2.0).
- `out-temple.png`, `out-flower.png`: the two sample photographs of scikit-learn, cropped: "china.jpg" and "flower.jpg",
  CC BY 2.0, by danielbuechele and vultilion (flickr), as scikit-learn's datasets/images/README.txt says.
"""


def photo(pixels: torch.Tensor) -> torch.Tensor:
    """The centre square of a photo [H,W,3] uint8 as [3,SIZE,SIZE] in [-1,1]."""
    x = pixels.permute(2, 0, 1).float() / 127.5 - 1
    side = min(x.shape[1:])
    top, left = (x.shape[1] - side) // 2, (x.shape[2] - side) // 2
    x = x[:, top : top + side, left : left + side]
    return F.interpolate(x[None], (SIZE, SIZE), mode="bicubic", antialias=True)[0].clamp(-1, 1)


def main() -> None:
    out = ROOT / "latentopt" / "bundled" / "samples"
    images, _ = portraits(SAMPLE_SEEDS, SIZE)
    for i, image in enumerate(images):
        save_png(out / f"portrait-{i:02d}.png", image)
    names = ("out-house", "out-cat", "out-temple", "out-flower")
    photos = [photo(torch.from_numpy(pixels.copy())) for pixels in load_sample_images().images]
    for name, image in zip(names, [*drawings(2, SIZE), *photos], strict=True):
        save_png(out / f"{name}.png", image)
    (out / "README.md").write_text(ABOUT, encoding="utf-8")


if __name__ == "__main__":
    main()
