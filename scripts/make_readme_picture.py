"""Lay out the README's picture from a run: `python scripts/make_readme_picture.py out docs/inversions.png`."""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from latentopt.pictures.contact_sheet import contact_sheet, difference  # noqa: E402
from latentopt.results.inversion import Inversion  # noqa: E402

SHOWN = (*(f"portrait-{i:02d}" for i in (0, 1, 2, 7, 9, 11)), "out-cat", "out-house", "out-flower", "out-temple")


def main(run: str, picture: str) -> None:
    results = [Inversion.load(Path(run) / name) for name in SHOWN]
    rows = [
        [result.target for result in results],
        [result.image for result in results],
        [difference(result.target, result.image, 4.0) for result in results],
    ]
    contact_sheet(rows, picture)


if __name__ == "__main__":
    main(*sys.argv[1:])
