"""Pictures side by side on one sheet, at one scale, with headings."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from math import ceil
from pathlib import Path

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from latentopt.pictures.images import save_png, to_pil

SMALLEST_CELL = 128  # pixels; smaller pictures are enlarged by a whole factor
LARGEST_CELL = 512  # larger ones are reduced by a whole factor
FONT = Path("fonts", "ttf", "DejaVuSans.ttf")
FONT_SIZE = 13
LINE = 20
GAP = 4
INK, PAPER = (32, 32, 32), (255, 255, 255)


def contact_sheet(
    rows: Sequence[Sequence[Tensor]],
    path: str | Path,
    *,
    columns: Sequence[str] = (),
    labels: Sequence[str] = (),
) -> None:
    """Write a PNG of `rows` of images [3,H,W] (or [1,H,W]) in [-1,1], cells of equal size.

    columns: headings; labels: one name above each row. Rows may differ in length.
    Raises ValueError when there is no image.
    """
    height, width = _cell_size(rows)
    factor = _scale(height, width)
    cell_h, cell_w = _scaled(height, factor), _scaled(width, factor)
    row_h = cell_h + GAP + (LINE if labels else 0)
    top = LINE + GAP if columns else GAP
    count = max(len(row) for row in rows)
    sheet = Image.new("RGB", (GAP + count * (cell_w + GAP), top + len(rows) * row_h), PAPER)
    draw, font = ImageDraw.Draw(sheet), _font()
    for j, heading in enumerate(columns[:count]):
        draw.text((GAP + j * (cell_w + GAP), GAP), _shortened(heading, cell_w, font), fill=INK, font=font)
    for i, row in enumerate(rows):
        y = top + i * row_h
        if labels:
            name = _shortened(labels[i], sheet.width - 2 * GAP, font)
            draw.text((GAP, y), name, fill=INK, font=font)
            y += LINE
        for j, image in enumerate(row):
            sheet.paste(_resized(to_pil(image), factor), (GAP + j * (cell_w + GAP), y))
    save_png(path, sheet)


def comparison_grid(
    targets: Sequence[Tensor],
    images: Sequence[Tensor],
    path: str | Path,
    *,
    labels: Sequence[str] = (),
    amplify: float = 4.0,
    rows_per_sheet: int = 16,
) -> list[Path]:
    """Write target, reconstruction and `amplify` times their absolute difference, one row an image [3,H,W] in [-1,1].

    At most `rows_per_sheet` rows go on `path`, the following ones on <stem>-2.png, <stem>-3.png ... Returns the sheets.
    """
    path = Path(path)
    sheets = []
    for number, start in enumerate(range(0, len(targets), rows_per_sheet), 1):
        part = slice(start, start + rows_per_sheet)
        sheet = path if number == 1 else path.with_name(f"{path.stem}-{number}{path.suffix}")
        rows = [
            (target, image, difference(target, image, amplify))
            for target, image in zip(targets[part], images[part], strict=True)
        ]
        columns = ("target", "reconstruction", f"difference x{amplify:g}")
        contact_sheet(rows, sheet, columns=columns, labels=labels[part])
        sheets.append(sheet)
    return sheets


def difference(target: Tensor, image: Tensor, amplify: float) -> Tensor:
    """`amplify` |image - target| as a picture in [-1,1], black where they agree; both clipped to what can be shown."""
    gap = (image.clamp(-1, 1) - target.to(image).clamp(-1, 1)).abs()  # [3,H,W] in [0,2]
    return (gap * amplify - 1).clamp(max=1)


def _cell_size(rows: Sequence[Sequence[Tensor]]) -> tuple[int, int]:
    sizes = torch.tensor([image.shape[-2:] for row in rows for image in row])
    if not len(sizes):
        raise ValueError("a contact sheet needs an image")
    height, width = sizes.amax(0).tolist()
    return height, width


def _scale(height: int, width: int) -> int:
    """The whole factor for all cells: positive enlarges, negative reduces, 1 leaves alone."""
    side = max(height, width)
    if side > LARGEST_CELL:
        return -ceil(side / LARGEST_CELL)
    return max(1, ceil(SMALLEST_CELL / side))


def _scaled(size: int, factor: int) -> int:
    return size * factor if factor > 0 else ceil(size / -factor)


def _resized(picture: Image.Image, factor: int) -> Image.Image:
    if factor < 0:
        return picture.reduce(-factor)
    return picture.resize((picture.width * factor, picture.height * factor), Image.Resampling.NEAREST)


def _font() -> ImageFont.FreeTypeFont:
    """DejaVu Sans, which comes with matplotlib: the font in Pillow has no accents, Greek or Cyrillic."""
    spec = find_spec("matplotlib")  # where it lies: to import it takes longer than to draw the sheet
    assert spec is not None and spec.origin is not None
    path = Path(spec.origin).parent / "mpl-data" / FONT
    if not path.is_file():  # a system's package keeps its data elsewhere
        import matplotlib

        path = Path(matplotlib.get_data_path()) / FONT
    return ImageFont.truetype(path, FONT_SIZE)


def _shortened(text: str, width: int, font: ImageFont.FreeTypeFont) -> str:
    text = " ".join(text.split())
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "...") > width:
        text = text[:-1]
    return text + "..."
