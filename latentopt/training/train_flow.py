"""Training a flow network, as one call."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch.nn.functional import interpolate

from latentopt.files.outputs import check_outdir
from latentopt.perceptual.network_file import save_network
from latentopt.pictures.contact_sheet import contact_sheet
from latentopt.protocols import Generator
from latentopt.refiners.teachers import FORMAT
from latentopt.refiners.views import arrows
from latentopt.refiners.warping import resized_flow, warp
from latentopt.training import DRAWN
from latentopt.training.encoder_data import training_data
from latentopt.training.flow import FlowRecord, FlowTrainer, FlowTraining
from latentopt.training.loop import Training

LOGGED_EVERY = 50  # steps
HELD_OUT = 1 << 30  # steps from which held-out pairs are drawn
SHOWN = 6


def train_flow(
    outdir: Path,
    generator: Generator,
    settings: FlowTraining,
    *,
    data: str = "portraits",
    drawn: int = DRAWN,
    cache: Path | None = None,
    command: str = "",
) -> Training[FlowRecord]:
    """Train the teacher of WarpRes's flow for pictures like a generator's; the same call goes on.

    Each snapshot leaves flow.safetensors (the moving average of the weights) and flow.png in `outdir`. data, drawn,
    cache, command: as for `train_encoder`. Raises UsageError, ImageError and CheckpointError as that does.
    """
    check_outdir(outdir)
    found = training_data(data, drawn, cache or outdir / "data", generator, generator.resolution, settings.seed)
    trainer = FlowTrainer(settings, generator, found.stream, data == "portraits", found.described)
    card = {"name": "flow", **found.described, **({"command": command} if command else {})}

    def leave() -> None:
        net = trainer.ema
        made_for = {"generator": trainer.generator.fingerprint}
        save_network(outdir / "flow.safetensors", net, net.config, _card(trainer, card), FORMAT, **made_for)
        _sheet(trainer, outdir / "flow.png")

    def logged(record: FlowRecord) -> dict[str, Any] | None:
        return record if record["step"] % LOGGED_EVERY < 3 or trainer.done else None

    notes = tuple(f"skipped: {reason}" for reason in found.skipped)
    return Training(trainer, outdir / "flow.snapshot.pt", leave, notes, outdir / "flow.jsonl", logged)


def _card(trainer: FlowTrainer, card: dict[str, object]) -> dict[str, object]:
    return {
        **card,
        "generator": trainer.generator.fingerprint,
        "steps": trainer.step,
        "seed": trainer.settings.seed,
        "settings": asdict(trainer.settings),
        "held_out": validate(trainer),
        "licence": "Apache-2.0",
    }


@torch.no_grad()
def validate(trainer: FlowTrainer) -> dict[str, float]:
    """Mean length, in pixels, of the flow and of the difference from it, of pairs of each kind that were not trained
    with.
    """
    found = {}
    for k, kind in enumerate(("pictures", "samples", "turned")[: 3 if trainer.portraits else 2]):
        pairs = trainer.pairs(_held_out(trainer, k))
        size = (pairs.flow.shape[2], pairs.flow.shape[3])
        error = resized_flow(trainer.ema(pairs.before, pairs.after), size) - pairs.flow
        weight = pairs.known.sum().clamp_min(1)
        found[kind] = ((error.norm(dim=1, keepdim=True) * pairs.known).sum() / weight).item()
        found[f"{kind}_length"] = ((pairs.flow.norm(dim=1, keepdim=True) * pairs.known).sum() / weight).item()
    return found


def _held_out(trainer: FlowTrainer, kind: int) -> int:
    kinds = 3 if trainer.portraits else 2
    return HELD_OUT - HELD_OUT % kinds + kind


@torch.no_grad()
def _sheet(trainer: FlowTrainer, path: Path) -> None:
    """Pairs of each kind: before, after, the true flow where it is known, the found one, and before warped by it."""
    rows = []
    for k in range(3 if trainer.portraits else 2):
        pairs = trainer.pairs(_held_out(trainer, k))
        before, after, true = (x[:SHOWN] for x in (pairs.before, pairs.after, pairs.flow * pairs.known))
        found = resized_flow(trainer.ema(before, after), (true.shape[2], true.shape[3]))
        shown = [arrows(after, true), arrows(after, found)]
        plain = [interpolate(x, size=shown[0].shape[2:]) for x in (before, after, warp(before, found))]
        rows += [*plain[:2], *shown, plain[2]]
    contact_sheet([list(row.float().cpu().clamp(-1, 1)) for row in rows], path)
