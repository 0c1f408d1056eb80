"""Data-parallel training: processes started by torchrun that share every batch and end in the same weights."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from latentopt.errors import UsageError

Network = TypeVar("Network", bound=nn.Module)


@dataclass(frozen=True)
class Processes:
    """This process's number and how many there are; every method is the identity where there is only one."""

    rank: int = 0
    count: int = 1

    @property
    def first(self) -> bool:
        """Whether this is the process that writes files and reports."""
        return self.rank == 0

    def share(self, x: Tensor) -> Tensor:
        """This process's rows of a batch [B,...]: [B/count,...]."""
        return x.chunk(self.count)[self.rank]

    def gather(self, x: Tensor) -> Tensor:
        """The rows of all processes, in order: [B/count,...] -> [B,...]. No gradient passes."""
        if self.count == 1:
            return x.detach()
        parts = [torch.empty_like(x) for _ in range(self.count)]
        dist.all_gather(parts, x.detach().contiguous())
        return torch.cat(parts)

    def mean(self, x: Tensor) -> Tensor:
        """The mean of a tensor over the processes. No gradient passes."""
        if self.count == 1:
            return x.detach()
        total = x.detach().clone()
        dist.all_reduce(total)
        return total / self.count

    def average_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Replace every gradient by its mean over the processes: the whole batch's, for losses that are means."""
        if self.count == 1:
            return
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        mean = self.mean(torch.cat([gradient.flatten() for gradient in gradients]))
        for gradient, part in zip(gradients, mean.split([g.numel() for g in gradients]), strict=True):
            gradient.copy_(part.view_as(gradient))

    def share_norms(self, network: Network, device: torch.device) -> Network:
        """The network with batch normalisation over the whole batch. Raises UsageError on a CPU, which cannot do it."""
        if self.count == 1 or not any(isinstance(module, nn.BatchNorm2d) for module in network.modules()):
            return network
        if device.type != "cuda":
            raise UsageError(
                "torchrun: this backbone has batch normalisation, which several processes can share on GPUs only; "
                "use one process, or --backbone small"
            )
        return nn.SyncBatchNorm.convert_sync_batchnorm(network)

    def agree(self, asked: bool, device: torch.device) -> bool:
        """Whether any process says yes, the same answer in all of them."""
        if self.count == 1:
            return asked
        votes = torch.tensor(float(asked), device=device)
        dist.all_reduce(votes)
        return bool(votes)

    def wait(self) -> None:
        """Until all processes are here."""
        if self.count > 1:
            dist.barrier()

    def leave(self) -> None:
        """Take leave of the others, at the end."""
        if self.count > 1 and dist.is_initialized():
            dist.destroy_process_group()


def join_processes(device: torch.device) -> tuple[Processes, torch.device]:
    """The processes that torchrun started (one where it did not), and this process's device: GPU number LOCAL_RANK.

    Raises UsageError on devices that processes cannot share work on.
    """
    count = int(os.environ.get("WORLD_SIZE", "1"))
    if count == 1:
        return Processes(), device
    if device.type not in ("cpu", "cuda"):
        raise UsageError(f"torchrun: {device.type} cannot be used by several processes; use --device cpu or cuda")
    if device.type == "cuda":
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(device)
    if not dist.is_initialized():
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    return Processes(dist.get_rank(), dist.get_world_size()), device
