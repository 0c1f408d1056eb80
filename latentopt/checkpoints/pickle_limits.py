"""What an untrusted pickle may ask for: names that stay inert tokens, and a budget of work and memory."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field

from latentopt.errors import CheckpointError, UntrustedFileError

MAX_OPCODES = 2_000_000  # a 16x16 snapshot has 22 000; only the number of layers adds to it
RUNS_CODE = sys.stdlib_module_names | {"__builtin__", "torch", "torchvision", "numpy", "scipy", "cloudpickle", "joblib"}
NETWORKS = "torch.nn.modules."  # of which the networks of other packages are made

_REMEDY = (
    "Nothing was run. If you trust its source, load it with the code that wrote it, save the state dict "
    "as .safetensors, or by torch.save(G_ema.state_dict(), 'net.pt'), and open that"
)


@dataclass(frozen=True, slots=True)
class Global:
    """The name of a global that a stream asked for and the reader allows. Not callable."""

    module: str
    name: str


@dataclass(frozen=True, slots=True)
class Foreign:
    """In the place of an object of another package: its name, and nothing of what was in it."""

    of: Global


@dataclass(slots=True)
class Budget:
    """Work and memory that one file may cause, nested streams included. Bytes are limited to the size of the file.

    Objects of other packages are left out, and their classes noted in `foreign`, where that is given.
    """

    source: str
    file_bytes: int
    foreign: set[Global] | None = None
    opcodes: int = 0
    spent: dict[str, int] = field(default_factory=dict)

    def step(self, count: int = 1) -> None:
        """Counts opcodes, and the items of work that grows with a memoised argument."""
        self.opcodes += count
        if self.opcodes > MAX_OPCODES:
            raise CheckpointError(f"{self.source}: over {MAX_OPCODES} pickle opcodes: not a StyleGAN checkpoint")

    def charge(self, kind: str, amount: int) -> None:
        """Raises CheckpointError when objects of this kind would take more bytes than the file has."""
        self.spent[kind] = self.spent.get(kind, 0) + amount
        if self.spent[kind] > self.file_bytes:
            raise CheckpointError(f"{self.source}: its {kind} would take more memory than the file has bytes: refused")


def untrusted(source: str, asked_for: str) -> UntrustedFileError:
    """The error for a file that asks for something outside the allow-list; names it."""
    return UntrustedFileError(
        f"{source}: refused, it asks for {asked_for}, no part of a StyleGAN checkpoint. {_REMEDY}"
    )


def of_another_package(module: str) -> bool:
    """Whether a name of this module is a class that some training code brought, by where it says that it is from.

    What Python, torch or numpy bring and the reader does not know is asked for to run something.
    """
    return module.startswith(NETWORKS) or module.partition(".")[0] not in RUNS_CODE


def printable(text: str) -> str:
    """`text` made fit for a terminal: escaped and shortened."""
    shown = text[:200]
    return shown if shown.isascii() and shown.isprintable() else ascii(shown)
