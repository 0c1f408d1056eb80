"""BlazeFace finds faces, Face Mesh their points. Sources: Bazarevsky et al. 2019; Kartynnik et al. 2019.

The networks are Google's, of MediaPipe; what goes in and what comes out is as its documentation says.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from latentopt.errors import UsageError
from latentopt.faces.cutting import warp
from latentopt.faces.litert import Network
from latentopt.faces.quads import face_quad, into_quad, projected, side_of, turned_quad
from latentopt.protocols import FaceDetector
from latentopt.types import Face

GRIDS = ((16, 2), (8, 6))  # cells a side, boxes a cell
WINDOW = 512  # pixels of a picture's longer side from which on parts of it are searched as well
OVERLAP = 0.3  # intersection over union of two boxes that are one face's
MESH_SHARE = 1.5  # of the face's box: what the mesh sees
LEFT_EYE = (33, 7, 163, 144, 145, 153, 154, 155, 133, 173, 157, 158, 159, 160, 161, 246)  # points of the mesh
RIGHT_EYE = (263, 249, 390, 373, 374, 380, 381, 382, 362, 398, 384, 385, 386, 387, 388, 466)
MOUTH = (61, 291)  # its corners


@dataclass(frozen=True)
class Found:
    """Candidates: box [n,4] (middle, width and height), the eyes [n,2,2], score [n]; pixels."""

    box: Tensor
    eyes: Tensor
    score: Tensor


class BlazeFace(FaceDetector):
    """Google's BlazeFace for the whole picture and, where that is large, for overlapping parts of it; then Face Mesh.

    threshold: the least score of a face, in [0,1]; of both networks.
    """

    def __init__(self, *, threshold: float = 0.5) -> None:
        if not 0 < threshold < 1:
            raise UsageError(f"threshold {threshold:g}: a number between 0 and 1")
        self.threshold = threshold
        self.finder, self.mesh = Network("face_detection_back.tflite"), Network("face_landmark.tflite")
        self.centres = _centres()

    def __call__(self, picture: Tensor) -> list[Face]:
        levels = ((picture.clamp(-1, 1) + 1) * 127.5).round().byte().permute(1, 2, 0).numpy()
        image = Image.fromarray(levels)
        parts = [self._search(image, *window) for window in _windows(*image.size)]
        found = Found(*(torch.cat([getattr(part, name) for part in parts]) for name in ("box", "eyes", "score")))
        faces = []
        for i in kept(found.box, found.score):
            points = self._points(image, found.box[i], found.eyes[i])
            if points is not None:
                faces.append(Face(points, float(found.score[i])))
        return sorted(faces, key=lambda face: -side_of(face_quad(face.points)))

    def _search(self, image: Image.Image, left: int, top: int, side: int) -> Found:
        """The faces in a square window of the picture; what lies outside the picture is black."""
        window = image.crop((left, top, left + side, top + side))
        window = window.resize((self.finder.side,) * 2, Image.Resampling.BILINEAR, reducing_gap=3)
        numbers, logits = self.finder(np.asarray(window, np.float32) / 127.5 - 1)
        score = logits[:, 0].sigmoid()
        numbers, centres, score = (x[score > self.threshold] for x in (numbers, self.centres, score))
        places = numbers.double().view(-1, 8, 2) / self.finder.side  # middle, size, two eyes and four more points
        shifted = (places + centres[:, None]) * side + places.new_tensor([left, top])
        return Found(torch.cat([shifted[:, 0], places[:, 1] * side], dim=1), shifted[:, 2:4], score)

    def _points(self, image: Image.Image, box: Tensor, eyes: Tensor) -> Tensor | None:
        """The four points [4,2] of one face; None where the mesh sees none."""
        quad = turned_quad(box[:2], float(box[2:].max()) * MESH_SHARE, eyes[1] - eyes[0])
        for _ in range(2):  # the second time about what was found
            mesh, sure = self._mesh(image, quad)
            if sure < self.threshold:
                return None
            low, high = mesh.amin(dim=0), mesh.amax(dim=0)
            across = mesh[list(RIGHT_EYE)].mean(dim=0) - mesh[list(LEFT_EYE)].mean(dim=0)
            quad = turned_quad((low + high) / 2, float((high - low).max()) * MESH_SHARE, across)
        eyes = torch.stack([mesh[list(LEFT_EYE)].mean(dim=0), mesh[list(RIGHT_EYE)].mean(dim=0)])
        return torch.cat([eyes, mesh[list(MOUTH)]])

    def _mesh(self, image: Image.Image, quad: Tensor) -> tuple[Tensor, float]:
        """The mesh [468,2] in the picture, and how sure a face is there."""
        into, side = into_quad(quad), self.mesh.side
        finest = image
        if (factor := math.floor(side_of(quad) / side)) > 1:
            finest = image.reduce(factor)
        scale = torch.diag(into.new_tensor([finest.width / image.width, finest.height / image.height, 1.0]))
        seen = np.stack([np.asarray(warp(channel, scale @ into, side)) for channel in finest.split()], axis=-1)
        mesh, logit = self.mesh(seen.astype(np.float32) / 255)
        places = mesh.flatten().double().view(-1, 3)[:, :2] / side
        return projected(into, places), float(logit.flatten()[0].sigmoid())


def _centres() -> Tensor:
    """Where the finder's boxes lie before it moves them, [896,2] in [0,1]."""
    grids = []
    for cells, boxes in GRIDS:
        at = (torch.arange(cells).double() + 0.5) / cells
        y, x = torch.meshgrid(at, at, indexing="ij")
        grids.append(torch.stack([x, y], dim=-1).view(-1, 2).repeat_interleave(boxes, dim=0))
    return torch.cat(grids)


def _windows(width: int, height: int) -> list[tuple[int, int, int]]:
    """Squares (left, top, side) that are searched: one around the picture, and halves of a large one, overlapping."""
    side = max(width, height)
    windows = [((width - side) // 2, (height - side) // 2, side)]
    if side >= WINDOW:
        half = side // 2
        columns, rows = (sorted({*range(0, max(n - half, 0), half // 2), max(n - half, 0)}) for n in (width, height))
        windows += [(left, top, half) for top in rows for left in columns]
    return windows


def kept(box: Tensor, score: Tensor) -> list[int]:
    """The best of the boxes [n,4] that overlap, by score, best first."""
    low, high = box[:, :2] - box[:, 2:] / 2, box[:, :2] + box[:, 2:] / 2
    area, found = box[:, 2] * box[:, 3], list[int]()
    for i in score.argsort(descending=True).tolist():
        both = (torch.minimum(high[i], high[found]) - torch.maximum(low[i], low[found])).clamp_min(0).prod(dim=1)
        if not bool((both > OVERLAP * (area[i] + area[found] - both)).any()):
            found.append(i)
    return found
