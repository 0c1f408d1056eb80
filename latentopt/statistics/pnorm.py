"""P space and P-norm space of a mapping network (Zhu et al. 2020, "Improved StyleGAN Embedding", section 3).

P undoes the last leaky ReLU of the mapping network; P-norm is P whitened by its principal components, so that the
generator's own codes have mean 0 and unit covariance there. B images, C = w_dim, k kept components.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import leaky_relu

from latentopt.errors import CheckpointError, StatisticsError
from latentopt.files.storage import save_tensors
from latentopt.files.text import to_run
from latentopt.protocols import Generator
from latentopt.statistics.at_hand import FOLDERS, UNFINISHED, FileKind
from latentopt.statistics.moments import Moments, StatisticsWarning, principal_components
from latentopt.statistics.pnorm_files import FORMAT, read_pca_npz, read_safetensors

LARGEST = 4096  # dimensions of w
SLOPES = (1e-4, 1e4)
SLOPE = 0.2  # of the leaky ReLU in StyleGAN's mapping networks
ORTHONORMAL_TOLERANCE = 1e-4  # existing files hold components computed in float32


def w_to_p(w: Tensor, slope: float = SLOPE) -> Tensor:
    """`w` where w >= 0, `w / slope` elsewhere: the leaky ReLU undone.

    The mapping's activation also multiplies by sqrt(2). Like every implementation we leave that factor in P; mean and
    std are measured with it, so P-norm does not depend on it.
    """
    return leaky_relu(w, 1 / slope)


def p_to_w(p: Tensor, slope: float = SLOPE) -> Tensor:
    """The inverse of `w_to_p`."""
    return leaky_relu(p, slope)


def check_slope(slope: float) -> None:
    """Raise StatisticsError for what is no slope of a leaky ReLU."""
    if not SLOPES[0] <= slope <= SLOPES[1]:
        raise StatisticsError(f"the slope of a leaky ReLU is from {SLOPES[0]:g} to {SLOPES[1]:g}, not {slope}")


@dataclass(frozen=True, eq=False)
class PNormBasis:
    """The map between w and P-norm in one dtype, on one device; differentiable both ways.

    mean [C], components [k,C] with orthonormal rows, std [k]. In float32 whitening has absolute errors up to about
    6e-8 |P| / min(std), 0.004 for published statistics (std down to 2.6e-4): use float64, `std_floor` or `rank`
    where that matters.
    """

    mean: Tensor
    components: Tensor
    std: Tensor
    slope: float = SLOPE

    def whiten(self, w: Tensor) -> Tensor:
        """`((P - mean) components^T) / std`: w [...,C] -> v [...,k]."""
        return (w_to_p(w, self.slope) - self.mean) @ self.components.T / self.std

    def unwhiten(self, v: Tensor) -> Tensor:
        """v [...,k] -> w [...,C]; components that were cut off get their mean."""
        return p_to_w((v * self.std) @ self.components + self.mean, self.slope)


@dataclass(frozen=True, eq=False)
class PNorm:
    """P-norm statistics of one generator, float64 on the CPU. Raises StatisticsError for values that cannot be such.

    mean [C]; components [C,C], orthonormal rows by falling std; std [C] (ddof 1). `n` samples were drawn with `seed`
    from the generator of that fingerprint; None where a file does not say.
    """

    mean: Tensor
    components: Tensor
    std: Tensor
    n: int | None = None
    seed: int | None = None
    slope: float = SLOPE
    fingerprint: str | None = None
    name: str = "generator"

    def __post_init__(self) -> None:
        dim = self.mean.numel()
        shapes = tuple(tuple(x.shape) for x in (self.mean, self.components, self.std))
        if shapes != ((dim,), (dim, dim), (dim,)) or dim == 0:
            raise StatisticsError(f"mean, components and std must be [C], [C,C], [C], not {shapes}")
        if dim > LARGEST:
            raise StatisticsError(f"statistics of {dim} dimensions; no generator has more than {LARGEST}")
        for field in ("mean", "components", "std"):
            values = getattr(self, field).detach().to("cpu", torch.float64)
            if not values.isfinite().all():
                raise StatisticsError(f"{field} holds values that are not finite")
            object.__setattr__(self, field, values)
        error = (self.components @ self.components.T - torch.eye(dim, dtype=torch.float64)).abs().max().item()
        if error > ORTHONORMAL_TOLERANCE:
            raise StatisticsError(f"the rows of components are not orthonormal (off by {error:.2g})")
        if self.std[-1] <= 0 or (self.std.diff() > 0).any():
            raise StatisticsError("std must be positive and falling")
        check_slope(self.slope)

    @staticmethod
    def from_moments(moments: Moments, **provenance: Any) -> PNorm:
        """Statistics from the moments of P; `provenance` are seed, slope, fingerprint and name.

        Raises StatisticsError for fewer than C + 1 samples; warns where the small std cannot be trusted.
        """
        dim = len(moments.mean)
        if moments.count <= dim:
            raise StatisticsError(
                f"{moments.count} samples cannot span {dim} dimensions; draw more (100 times as many is good)"
            )
        if moments.count < 10 * dim:
            warnings.warn(
                f"{moments.count} samples for {dim} dimensions: the smallest std are too small by up to "
                f"{100 * (dim / moments.count) ** 0.5:.0f} %; draw more",
                StatisticsWarning,
                stacklevel=2,
            )
        components, std = principal_components(moments.covariance)
        return PNorm(
            torch.from_numpy(moments.mean.copy()),
            torch.from_numpy(components),
            torch.from_numpy(std),
            n=moments.count,
            **provenance,
        )

    @property
    def condition_number(self) -> float:
        """Largest over smallest eigenvalue of P's covariance."""
        return (self.std[0] / self.std[-1]).item() ** 2

    @property
    def w_origin(self) -> Tensor:
        """The w [C] at the origin of P-norm, where clipped optimisation starts. It is not the mean of w."""
        return p_to_w(self.mean, self.slope)

    def components_for(self, share: float) -> int:
        """How many leading components hold `share` of P's variance."""
        held = self.std.square().cumsum(0) / self.std.square().sum()
        return min(int((held < share).sum()) + 1, len(self.std))

    def basis(
        self,
        *,
        std_floor: float = 0.0,
        rank: int | None = None,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> PNormBasis:
        """The map as tensors to compute with.

        `std_floor` raises every std to that fraction of the largest: without one, published statistics let the last few
        of 512 components dominate any norm. `rank` keeps only the first k components. Raises StatisticsError for
        values out of range.
        """
        dim = len(self.std)
        if not 0 <= std_floor <= 1:
            raise StatisticsError(f"std_floor is a fraction of the largest std, from 0 to 1, not {std_floor}")
        if rank is not None and not 1 <= rank <= dim:
            raise StatisticsError(f"rank must be from 1 to {dim}, not {rank}")
        std = self.std.clamp(min=std_floor * self.std[0].item())
        mean, components, std = (x.to(device, dtype) for x in (self.mean, self.components[:rank], std[:rank]))
        return PNormBasis(mean, components, std, self.slope)

    def whiten(self, w: Tensor, *, std_floor: float = 0.0, rank: int | None = None) -> Tensor:
        """w [...,C] -> v [...,k] in w's own dtype, on its device; see `basis`."""
        return self.basis(std_floor=std_floor, rank=rank, dtype=w.dtype, device=w.device).whiten(w)

    def unwhiten(self, v: Tensor, *, std_floor: float = 0.0, rank: int | None = None) -> Tensor:
        """v [...,k] -> w [...,C]; see `basis`."""
        return self.basis(std_floor=std_floor, rank=rank, dtype=v.dtype, device=v.device).unwhiten(v)

    def save(self, path: Path) -> None:
        """Write a safetensors file (mean, components, std in float64; the rest as metadata), atomically."""
        tensors = {"mean": self.mean, "components": self.components, "std": self.std}
        fields = {key: getattr(self, key) for key in ("n", "seed", "slope", "fingerprint", "name")}
        metadata = {key: str(value) for key, value in fields.items() if value is not None}
        save_tensors(path, tensors, {"format": FORMAT, **metadata})

    @staticmethod
    def load(path: Path, generator: Generator | None = None, force: bool = False) -> PNorm:
        """Read our safetensors file, or the `.npz` of existing implementations (X_mean, X_comp, X_stdev).

        With a generator given, statistics of another one are refused. `force` takes them all the same, as long as
        their dimension fits: for a generator whose mapping network is that of the one measured, such as a copy with
        only its synthesis tuned. A `.npz` carries no fingerprint and is refused only where its dimension does not fit.

        Raises StatisticsError, naming file and remedy, and UntrustedFileError for a `.npz` with Python objects.
        """
        path = Path(path)
        try:
            pnorm = PNorm(**(read_pca_npz(path) if path.suffix == ".npz" else read_safetensors(path)))
        except (StatisticsError, CheckpointError, ValueError) as error:
            text = str(error).removeprefix(f"{path}: ")
            raise StatisticsError(f"{path}: not usable P-norm statistics: {text}") from error
        if generator is not None:
            _check_fits(pnorm, path, generator, force)
        return pnorm


def _check_fits(pnorm: PNorm, path: Path, generator: Generator, force: bool) -> None:
    dim = len(pnorm.mean)
    if dim != generator.w_dim:
        raise StatisticsError(f"{path}: statistics of {dim} dimensions; {generator.name!r} has w_dim {generator.w_dim}")
    if pnorm.fingerprint not in (None, generator.fingerprint) and not force:
        raise StatisticsError(
            f"{path}: P-norm statistics of generator {pnorm.name!r} ({pnorm.fingerprint}), not of {generator.name!r} "
            f"({generator.fingerprint}); run {to_run('fit-pnorm', generator.source)}"
        )


def _measure(generator: Generator, path: Path) -> None:
    from latentopt.statistics.pnorm_measure import measure_now

    measure_now(generator, path)


PNORM = FileKind(
    "P-norm statistics", FORMAT, "pnorm", FOLDERS[0], ".safetensors", "fit-pnorm", PNorm.load, _measure, UNFINISHED
)
