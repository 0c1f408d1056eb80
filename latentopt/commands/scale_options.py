"""The options of work on very many images: a part of them, several processes, many machines."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

from latentopt.commands.numbers import Shard
from latentopt.errors import UsageError
from latentopt.files.shards import array_shard
from latentopt.watching.phases import tell

if TYPE_CHECKING:
    from latentopt.inverting.engine import Engine

shard_option = click.option(
    "--shard",
    type=Shard(),
    help="Only part i of N of the images (i from 0), by their names; in a SLURM array its task's part. See merge.",
)


class WorkerCount(click.ParamType):
    """A positive number, or auto, which is 0."""

    name = "N|auto"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if value == "auto":
            return 0
        if str(value).isdecimal() and 1 <= int(str(value)) <= 4096:
            return int(str(value))
        self.fail(f"{value!r} is neither auto nor a number of processes, such as 2", param, ctx)


def worker_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """--workers, --ray, --ledger and --retries."""
    for option in (
        click.option("--retries", default=3, show_default=True, type=click.IntRange(1),
                     help="With --workers or --ray: attempts before an image is set aside."),
        click.option("--ledger", metavar="ADDRESS",
                     help="Where they keep who does what, such as s3://bucket/run; by default in the output folder."),
        click.option("--ray", metavar="auto|ADDRESS", help="Work on a Ray cluster, an actor a GPU (or a CPU)."),
        click.option("--workers", type=WorkerCount(), help="Processes; auto: one a GPU, or by the CPU's cores."),
    ):  # fmt: skip
        command = option(command)
    return command


def chosen_shard(given: tuple[int, int] | None) -> tuple[int, int] | None:
    """The part that is asked for; in a SLURM array the task's own, with a line. 0/1 is all, in an array too."""
    if given is not None:
        return None if given == (0, 1) else given
    found = array_shard(os.environ)
    if found is not None:
        tell(f"a task of a SLURM array: part {found[0]}/{found[1]} of the images (--shard 0/1 takes all)")
    return found


@dataclass(frozen=True)
class Hands:
    """Who does the work: this process where neither is given."""

    workers: int | None
    ray: str | None
    retries: int
    ledger: str | None = None

    def __post_init__(self) -> None:
        if self.workers is not None and self.ray is not None:
            raise UsageError("--workers is for one machine and --ray for a cluster: leave one of them out")
        if self.ledger is not None and not self.others:
            raise UsageError("--ledger is where --workers or --ray keep who does what: give one of them")

    @property
    def others(self) -> bool:
        return self.workers is not None or self.ray is not None

    def device(self, device: str) -> str:
        """Where this process has its own generator: others have the accelerators."""
        return "cpu" if self.others else device

    def engine(self, device: str, compiled: bool = False) -> Engine | None:
        if self.ray is not None:
            from latentopt.scale.on_ray import OnRay

            return OnRay(self.ray, retries=self.retries, compiled=compiled, ledger=self.ledger)
        if self.workers is not None:
            from latentopt.scale.workers import Workers

            return Workers(self.workers or None, device, retries=self.retries, compiled=compiled, ledger=self.ledger)
        return None
