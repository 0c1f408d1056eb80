"""The networks inside foreign pickles: what each allowed global of a checkpoint is answered with.

No function of torch or of a StyleGAN repository is called by name from the file: tensors and persistence records are
rebuilt here, with every size checked against the data that is there.
"""

from __future__ import annotations

import math
import warnings

import torch
from torch import Tensor

from latentopt.checkpoints.persistence import Record
from latentopt.checkpoints.pickle_limits import Global, printable
from latentopt.checkpoints.plain_unpickler import PLAIN_GLOBALS, PlainUnpickler, is_counts
from latentopt.checkpoints.storages import Storage
from latentopt.errors import CheckpointError

PERSISTENCE_VERSION = 6

NETWORK_GLOBALS: dict[Global, str | None] = {
    **PLAIN_GLOBALS,
    Global("torch_utils.persistence", "_reconstruct_persistent_obj"): "persistent_object",
    Global("torch._utils", "_rebuild_parameter"): "parameter",
    Global("torch._utils", "_rebuild_parameter_with_state"): "parameter",
    Global("torch._utils", "_rebuild_tensor"): "tensor",
    Global("torch._utils", "_rebuild_tensor_v2"): "tensor",
}


class NetworkUnpickler(PlainUnpickler):
    """The outer level: persistence records and tensors, among plain data."""

    globals = NETWORK_GLOBALS
    max_repeated = 0  # bytes, if they were written out
    repeated = 0

    def find_class(self, module: str, name: str) -> Global:
        if module == "dnnlib.tflib.network":
            raise CheckpointError(
                f"{self.budget.source}: a TensorFlow-era pickle ({module}.{printable(name)}). Convert it first with "
                "legacy.py of stylegan2-ada-pytorch or stylegan3 (--source, --dest); that code runs what the file says"
            )
        for suffix in ("torch_utils.persistence", "dnnlib.util"):  # forks move these packages
            if module.endswith(f".{suffix}"):
                module = suffix
        return super().find_class(module, name)

    def persistent_object(self, meta: object) -> Record:
        if type(meta) is not dict or not {"type", "version", "module_src", "class_name", "state"} <= meta.keys():
            self.damaged("a persistence record without its five keys")
        if meta["type"] != "class" or type(meta["class_name"]) is not str or type(meta["state"]) is not dict:
            self.damaged("a persistence record that describes no class")
        if type(meta["version"]) is not int:
            self.damaged("a persistence record without a version")
        if meta["version"] != PERSISTENCE_VERSION:
            warnings.warn(
                f"{self.budget.source}: persistence version {meta['version']}, written for {PERSISTENCE_VERSION}",
                stacklevel=2,
            )
        return Record(meta["class_name"], meta["state"], meta["version"])  # module_src is dropped unread

    def parameter(self, tensor: object, *_: object) -> Tensor:
        if not isinstance(tensor, Tensor):
            self.damaged("a parameter that is no tensor")
        return tensor

    def _may_repeat(self, bytes_: int) -> bool:
        """Whether a tensor may say its numbers many times over, as `expand` makes one; it stays a view."""
        self.repeated += bytes_
        return self.repeated <= self.max_repeated

    def tensor(
        self,
        storage: object,
        offset: int,
        size: tuple,
        stride: tuple,
        *_: object,
    ) -> Tensor:
        """Contiguous, unless it repeats its numbers; honours size and stride (channels_last), stays in its storage."""
        if type(storage) is not Storage or not (is_counts(size) and is_counts(stride) and is_counts((offset,))):
            self.damaged("a tensor without a storage, or of negative size")
        if len(size) != len(stride):
            self.damaged("a tensor whose size and stride differ in length")
        numel, available = math.prod(size), storage.flat.numel()
        if numel == 0:
            return torch.empty(size, dtype=storage.flat.dtype)
        last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
        if last >= available or (numel > available and not self._may_repeat(numel * storage.flat.itemsize)):
            self.damaged("a tensor larger than its storage")
        view = storage.flat.as_strided(size, stride, offset)
        if numel > available or (view.is_contiguous() and numel == available):
            return view
        self.budget.charge("tensors", numel * storage.flat.itemsize)
        return view.clone(memory_format=torch.contiguous_format)
