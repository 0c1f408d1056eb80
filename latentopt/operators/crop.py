"""A window of the image."""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import interpolate, pad

from latentopt.errors import UsageError
from latentopt.protocols import Operator, Source


class Crop(Operator):
    """`height` x `width` pixels (a square where no width is given) of the image [B,C,H,W].

    top, left  of the window's corner; in the middle where they are not given

    Raises UsageError for a window that does not lie within the image.
    """

    linear = True
    examples = ({"height": 16}, {"height": 8, "width": 12, "top": 0, "left": 20})

    def __init__(
        self, source: Source, *, height: int, width: int | None = None, top: int | None = None, left: int | None = None
    ) -> None:
        width = height if width is None else width
        sides = source.resolution
        corner = [(side - part) // 2 for side, part in zip(sides, (height, width), strict=True)]
        top, left = corner[0] if top is None else top, corner[1] if left is None else left
        if min(height, width) < 1 or min(top, left) < 0 or top + height > sides[0] or left + width > sides[1]:
            raise UsageError(
                f"crop: {height}x{width} pixels from row {top} and column {left} do not lie within a "
                f"{'x'.join(map(str, sides))} image"
            )
        self.rows, self.columns = slice(top, top + height), slice(left, left + width)
        self.around = (left, sides[1] - left - width, top, sides[0] - top - height)  # pixels, as `pad` takes them

    def __call__(self, image: Tensor) -> Tensor:
        return image[..., self.rows, self.columns]

    def shown(self, measured: Tensor) -> Tensor:
        """In its place; around it, the pixels at the window's edge go on."""
        if measured.ndim != 4:
            return measured
        window = (self.rows.stop - self.rows.start, self.columns.stop - self.columns.start)
        if tuple(measured.shape[2:]) != window:
            measured = interpolate(measured, window, mode="bilinear", antialias=True)
        return pad(measured, self.around, mode="replicate")
