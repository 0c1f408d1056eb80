"""Which portrait belongs to which latent: some directions of z stand for the variables behind the attributes.

The variables are independent and normal, as z is, so every z has a portrait and the portraits of random z are those of
the domain. Where two styles are mixed, each attribute follows the style of one layer, coarse ones that of an early one
(Karras et al. 2019, section 3.1); attributes that are correlated share a layer, so mixed portraits are those of the
domain too.
"""

from __future__ import annotations

import torch
from torch import Tensor

from latentopt.data.portraits import NAMES
from latentopt.errors import UsageError
from latentopt.generators.network import GeneratorNetwork

COLOURS = tuple(f"{what}_{channel}" for what in ("background", "shirt") for channel in ("red", "green", "blue"))
# The side of the first block whose style decides an attribute; shapes are all those that no block is named for. The
# shipped generator, where every layer's style was swapped in turn, has them about there.
SHAPES_SIDE = 8
NUM_WS = 10  # of that generator
SIDES = {16: ("skin_tone", "hair_tone", "light_direction", "iris_tone"), 32: ("hair_red",), 64: COLOURS}


def portrait_latents(generator: GeneratorNetwork, seed: int = 0) -> PortraitLatents:
    """Those for a generator. A StyleGAN3 has more rows before its shapes are decided: the first only places."""
    later = max(generator.num_ws - NUM_WS, 0) if generator.family == "StyleGAN3" else 0
    return PortraitLatents(generator.z_dim, generator.num_ws, seed, later)


class PortraitLatents:
    """The z of portraits, for a generator with z [B,Z] and `num_ws` layers.

    The directions are an orthonormal basis at random: no coordinate of z stands for an attribute.

    rotation  [Z,Z], row i < A is the direction of variable i
    rows      [A], the row of ws whose style decides each attribute
    """

    def __init__(self, z_dim: int, num_ws: int, seed: int = 0, later: int = 0) -> None:
        """later: by how many rows each attribute's is moved, for a family that has more of them.

        Raises UsageError where z has no dimension left for what no attribute decides."""
        if z_dim <= len(NAMES):
            raise UsageError(f"z has {z_dim} dimensions; the portraits' {len(NAMES)} attributes need more")
        self.z_dim = z_dim
        rng = torch.Generator().manual_seed(seed)
        self.rotation = torch.linalg.qr(torch.randn(z_dim, z_dim, generator=rng, dtype=torch.float64))[0].float()
        side_of = {name: side for side, names in SIDES.items() for name in names}
        sides = [side_of.get(name, SHAPES_SIDE) for name in NAMES]
        self.rows = torch.tensor([min(2 * side.bit_length() - 7 + later, num_ws - 1) for side in sides])

    def of(self, normals: Tensor, first: Tensor) -> Tensor:
        """Two z for each portrait [2,B,Z], of which its picture is drawn.

        What the portrait does not decide is drawn from torch's own generator of random numbers.

        Args:
            normals: [B,A], the variables behind the attributes (`latentopt.data.portraits.independent_normals`).
            first: [B,L], the layers that take the first style.
        """
        own = first[:, self.rows.to(first.device)]  # [B,A]
        other = torch.randn_like(normals)
        decided = torch.stack([torch.where(own, normals, other), torch.where(own, other, normals)])  # [2,B,A]
        free = torch.randn(*decided.shape[:2], self.z_dim - decided.shape[2]).to(normals)
        # The mapping gives every z the length sqrt(Z): with it from the start, the portrait's part keeps its own.
        left = (self.z_dim - decided.square().sum(dim=2, keepdim=True)).clamp_min(1.0)
        free = free * (left / free.square().sum(dim=2, keepdim=True)).sqrt()
        return torch.cat([decided, free], dim=2) @ self.rotation.to(normals)

    def parts(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """The variables [B,A] behind the portrait of z [B,Z], and what it does not decide [B,Z-A]."""
        length = z.square().mean(dim=1, keepdim=True).sqrt()
        turned = z / length @ self.rotation.to(z).T
        return turned[:, : len(NAMES)], turned[:, len(NAMES) :]
