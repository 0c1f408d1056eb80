"""The refiners of recipes: StyleRes and WarpRes, bundled or from a file. B images."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import ClassVar

import torch
from torch import Tensor

from latentopt.errors import UsageError
from latentopt.protocols import FlowTeacher, Generator, Refiner
from latentopt.refiners.files import load_refiner
from latentopt.refiners.network import TrainedRefiner
from latentopt.refiners.views import arrows, strength
from latentopt.refiners.warping import resized_flow
from latentopt.registry import FLOWS
from latentopt.types import REPLACES, GeneratorInputs

OWN = "own"


class NetworkRefiner(Refiner):
    """A trained network at work for a generator.

    teacher: finds the flow between the drawn pictures, in place of WarpRes's own flow network.
    """

    def __init__(self, generator: Generator, trained: TrainedRefiner, teacher: FlowTeacher | None = None) -> None:
        if teacher is not None and trained.config.kind != "warpres":
            raise UsageError(f"{trained.name}: a {trained.config.kind} refiner warps nothing; leave its flow out")
        self.generator, self.trained, self.teacher = generator, trained, teacher
        self.net, self.layer = trained.net, trained.config.tap.name

    @cached_property
    def record(self) -> Mapping[str, object]:
        config = self.trained.config
        return {"kind": config.kind, "form": config.form, "fingerprint": self.trained.fingerprint}

    @torch.no_grad()
    def __call__(
        self, target: Tensor, inputs: GeneratorInputs, edited: GeneratorInputs, noise_mode: str = "const"
    ) -> GeneratorInputs:
        added, _, _, _ = self._found(target, inputs, edited, noise_mode)
        return edited.replace(residuals={**(edited.residuals or {}), self.layer: added.to(edited.ws.device)})

    @torch.no_grad()
    def pictures(
        self, target: Tensor, inputs: GeneratorInputs, edited: GeneratorInputs, noise_mode: str = "const"
    ) -> dict[str, Tensor]:
        _, missing, moved, flow = self._found(target, inputs, edited, noise_mode)
        drawn = self(target, inputs, edited, noise_mode).to(self.generator.device)
        image = self.generator.synthesis(drawn, noise_mode).float()
        peak = missing.norm(dim=1).flatten(1).amax(dim=1).view(-1, 1, 1)
        found = {"residual": strength(missing, peak, image)}
        if flow is not None:
            found |= {"flow": arrows(image, flow), "warped": strength(moved, peak, image)}
        return found

    def _found(
        self, target: Tensor, inputs: GeneratorInputs, edited: GeneratorInputs, noise_mode: str
    ) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        """What is added [B,c,h,w], the residual before and after the warp, and the flow."""
        for one in (inputs, edited):
            if any(name.removeprefix(REPLACES) == self.layer for name in one.residuals or ()):
                raise UsageError(
                    f"{self.trained.name}: there are residuals at {self.layer} already, where it adds its own; take a "
                    "refiner of another layer, or leave out what wrote them"
                )
        count = len(edited)
        before = self._drawn(inputs, noise_mode)
        after = before if edited is inputs else self._drawn(edited, noise_mode)
        missing = _as_many(self.net.missing(target.to(before[-1].device), before[-1]), count)
        flow = None
        if self.trained.config.kind == "warpres" and self.teacher is None:
            flow = self.net.flow([_as_many(x, count) for x in before], after)
        elif self.trained.config.kind == "warpres":
            flow = self._taught(inputs, edited, noise_mode)
        moved = self.net.moved(missing, flow)
        return self.net.added(moved, after[-1]), missing, moved, flow

    def _drawn(self, inputs: GeneratorInputs, noise_mode: str) -> list[Tensor]:
        """The features that the network reads, coarse to fine."""
        names = self.trained.config.layers
        found = self.generator.activations_of(inputs.to(self.generator.device), names, noise_mode)
        return [found[name].float() for name in names]

    def _taught(self, inputs: GeneratorInputs, edited: GeneratorInputs, noise_mode: str) -> Tensor:
        """The teacher's flow between the pictures, at the size of the tap."""
        assert self.teacher is not None
        pictures = [self.generator.synthesis(x.to(self.generator.device), noise_mode).float() for x in (inputs, edited)]
        flow = self.teacher(_as_many(pictures[0], len(edited)), pictures[1])
        return resized_flow(flow, self.trained.config.tap.size)


def _as_many(x: Tensor, count: int) -> Tensor:
    """One image's, for each of `count` edits of it."""
    return x if len(x) == count else x.expand(count, *x.shape[1:])


class StyleRes(NetworkRefiner):
    """StyleRes (Pehlivan et al. 2023): the residual is fitted to the edited features by convolutions alone.

    path   its file, ours or the released one; without one the bundled refiner for the generator
    force  also take one that was trained for another generator
    """

    reads: ClassVar[Mapping[str, str]] = {"path": "refiner"}

    def __init__(self, generator: Generator, *, path: str | None = None, force: bool = False) -> None:
        super().__init__(generator, load_refiner(path or "styleres", generator, force=force))


class WarpRes(NetworkRefiner):
    """WarpRes (Yildirim et al.): the residual is warped along the flow that the edit makes, then fitted.

    path       its file; without one the bundled refiner for the generator
    flow       own: from the generator's features; or a teacher (warps, raft), which looks at the drawn pictures
    flow_path  the teacher's weights, where they are not found by themselves
    force      also take one that was trained for another generator
    """

    reads: ClassVar[Mapping[str, str]] = {"path": "refiner", "flow_path": "flow network"}
    reads_if = {"flow_path": ("flow",)}

    def __init__(
        self,
        generator: Generator,
        *,
        path: str | None = None,
        flow: str = OWN,
        flow_path: str | None = None,
        force: bool = False,
    ) -> None:
        if flow_path is not None and flow == OWN:
            raise UsageError("flow_path goes with flow = 'warps' or 'raft'; the refiner's own flow network has no file")
        trained = load_refiner(path or "warpres", generator, force=force)
        super().__init__(generator, trained, make_teacher(flow, generator, flow_path))


class FromFile(WarpRes):
    """A refiner of any kind, from its file `path`; the other options are those of WarpRes."""

    reads: ClassVar[Mapping[str, str]] = {"path": "refiner", "flow_path": "flow network"}
    reads_if = {"flow_path": ("flow",)}

    def __init__(
        self,
        generator: Generator,
        *,
        path: str,
        flow: str = OWN,
        flow_path: str | None = None,
        force: bool = False,
    ) -> None:
        super().__init__(generator, path=path, flow=flow, flow_path=flow_path, force=force)


def make_teacher(name: str, generator: Generator, path: str | None = None) -> FlowTeacher | None:
    """A teacher by its name, with its weights where they are named; None for the refiner's own flow network."""
    if name == OWN:
        return None
    options = FLOWS.options(name)
    option = next((key for key in ("path", "weights") if key in options), None)
    given = {} if path is None or option is None else {option: path}
    return FLOWS.create(name, generator, **given)
