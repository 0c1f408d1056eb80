"""What is done to a picture by hand: points dragged, faces cut out."""

from __future__ import annotations

import base64
import binascii
import hashlib
import io
from typing import TYPE_CHECKING, Any

from PIL import Image

from latentopt.api import Recipe, align, drag_latent, read_mask
from latentopt.errors import UsageError
from latentopt.files.outputs import workplace
from latentopt.pictures.images import save_png
from latentopt.studio.keeping import files_of, keep
from latentopt.studio.lines import line, option
from latentopt.studio.messages import Align, Drag
from latentopt.studio.places import ALIGNED, picture_path
from latentopt.studio.works import Run

if TYPE_CHECKING:
    from latentopt.studio.jobs import Watch
    from latentopt.studio.session import Session

LARGEST_MASK = 4096  # pixels a side


def dragging(session: Session, asked: Drag) -> tuple[Run, int, str, str]:
    """As `latentopt drag LATENTS --point ...`; edits that the picture has are written first."""
    mask = _mask(asked.mask)
    told = repr((asked.points, asked.mask, asked.steps)).encode()
    name = f"dragged-{hashlib.sha256(told).hexdigest()[:8]}"
    recipe = Recipe.load("drag").in_every_stage(steps=asked.steps)

    def run(watch: Watch) -> dict[str, Any]:
        kept = keep(session, asked.look)
        place, latent = session.place(kept["base"]), session.latent(kept["base"])

        def on_step(step: Any) -> None:
            watch.job.total = step.steps + 1
            watch.stepped(float(step.distances.max()), step.seconds, step.step + 1)
            if watch.due():
                watch.show(session.drawn(latent, step.inputs))
            watch.pause()
            if watch.interrupted():
                raise KeyboardInterrupt

        with workplace((place if place.is_dir() else place.parent) / "dragged") as folder:
            file = None if mask is None else folder / latent.name / f"{name}.mask.png"
            if file is not None and mask is not None:
                save_png(file, mask)
            moving = None if file is None else read_mask(file, session.generator)
            points = list(asked.points)
            made = drag_latent(session.generator, latent, points, folder, moving, recipe, name=name, on_step=on_step)
        words = [word for x, y, a, b in points for word in ("--point", f"{x:g},{y:g}:{a:g},{b:g}")]
        options = [*words, *option("--mask", file), *option("--steps", asked.steps), "--name", name]
        command = line("drag", place, *options, "--network", session.generator.source)
        base = made.picture.with_suffix(".safetensors").relative_to(session.root).as_posix()
        far = float(made.last.distances.max())
        note = "all points arrived" if made.last.arrived else f"the farthest point is {far:.1f} pixels from its target"
        commands = [*kept["commands"], command]
        return {"base": base, "files": files_of(session, base), "commands": commands, "note": note}

    return run, 0, f"{len(asked.points)} point{'s' * (len(asked.points) != 1)} dragged", ""


def _mask(text: str) -> Image.Image | None:
    """The picture that a page has painted. Raises UsageError for what is none."""
    if not text:
        return None
    try:
        with Image.open(io.BytesIO(base64.b64decode(text, validate=True)), formats=("PNG",)) as picture:
            if max(picture.size) > LARGEST_MASK:
                raise ValueError(f"{picture.size} pixels")
            return picture.convert("L")
    except (binascii.Error, OSError, ValueError, SyntaxError) as error:
        raise UsageError(f"the mask is no PNG: {error}") from None


def aligning(session: Session, asked: Align) -> tuple[Run, int, str, str]:
    """As `latentopt align PICTURE`: every face becomes a picture of its own."""
    path = picture_path(session.root, asked.picture)
    out = session.root / ALIGNED

    def run(watch: Watch) -> dict[str, Any]:
        found = align([path], out=out, overwrite=True)
        pictures = [face.path.relative_to(session.root).as_posix() for face in found if face.path is not None]
        return {"pictures": pictures, "commands": [line("align", path, "--outdir", out, "--overwrite")]}

    return run, 0, f"{path.stem}: looking for faces", asked.picture
