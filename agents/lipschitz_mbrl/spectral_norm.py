"""Spectral normalisation of stacked networks, as a PyTorch parametrisation (docs/derivations/lipschitz_mbrl.md §7).

Miyato et al. 2018, as arXiv 2302.01244 uses it. `torch.nn.utils.parametrizations.spectral_norm` has one matrix, one
bound (1) and a power iteration in *every* forward; here a stack shares one product, the bound is β, and iterations are
asked for: `power_iterate`, once per update, so that the numbers do not depend on how often a value is read.

| derivation | paper | here |
|---|---|---|
| (7.1) power iteration | – | `SpectralBound.iterate`, `power_iterate` |
| (7.2), gradient (7.3): the weight in use | – | `SpectralBound.forward` |
| (7.4) what it bounds; choice of β (7.5) | – | `bound_layers` |
| σ_max in (9.2) | – | `spectral_norms` |
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from surefoot.agents.parts.acceleration import uncompiled
from surefoot.agents.parts.networks import StackedMLP

Bounding = Literal["normalise", "clip"]
Layers = Literal["all", "hidden"]
FIRST_ITERATIONS = 100  # PyTorch takes 15; that leaves fresh 256 x 256 layers up to 3 % above the bound


class SpectralBound(nn.Module):
    """W (E, in, out) ↦ β·W/σ̂ ("normalise"), or W/max(1, σ̂/β) ("clip"), a member at a time; σ̂ = vᵀWu.

    u and v are buffers: no gradient reaches them, and they travel with the weights.
    """

    u: Tensor  # (E, out, 1)
    v: Tensor  # (E, in, 1)

    def __init__(self, weight: Tensor, beta: float, mode: Bounding, generator: torch.Generator) -> None:
        super().__init__()
        self.beta, self.mode = beta, mode
        ensemble_size, fan_in, fan_out = weight.shape
        start = torch.randn(ensemble_size, fan_out, 1, generator=generator).to(weight)
        self.register_buffer("u", nn.functional.normalize(start, dim=1))
        self.register_buffer("v", weight.new_zeros(ensemble_size, fan_in, 1))
        self.iterate(weight, FIRST_ITERATIONS)

    @torch.no_grad()
    def iterate(self, weight: Tensor, times: int = 1) -> None:
        """Bring u and v nearer to the first singular vectors of the raw weight."""
        for _ in range(times):
            self.v.copy_(nn.functional.normalize(weight @ self.u, dim=1))
            self.u.copy_(nn.functional.normalize(weight.mT @ self.v, dim=1))

    def forward(self, weight: Tensor) -> Tensor:
        sigma = self.v.mT @ weight @ self.u  # (E, 1, 1); the gradient goes through the weight alone
        if self.mode == "normalise":
            return weight * (self.beta / sigma)
        return weight / (sigma / self.beta).clamp(min=1.0)


def bound_layers(
    net: StackedMLP, beta: float, mode: Bounding, generator: torch.Generator, layers: Layers = "all"
) -> None:
    """Bound the spectral norm of the layers of `net` by β each; "hidden" leaves the output layer free.

    The raw weights stay the parameters: an optimiser made before stays valid, and a target averages *them* (Polyak).
    """
    count = len(net.weights) - (layers == "hidden")
    for name in map(str, range(count)):
        weight = getattr(net.weights, name)
        bound = SpectralBound(weight.detach(), beta, mode, generator)
        parametrize.register_parametrization(net.weights, name, bound)


@uncompiled  # walking modules breaks the traced code into pieces; the products in here are small
def power_iterate(net: nn.Module, times: int = 1) -> None:
    """Let every bounded layer take power iterations on its raw weight. A target needs this as its online network does.

    A frozen u, v under a weight that moves under-estimates σ, and the bound is then no bound.
    """
    for module in net.modules():
        if isinstance(module, parametrize.ParametrizationList):
            bound: SpectralBound = module[0]  # type: ignore[assignment]  # what `bound_layers` registered
            bound.iterate(module.original, times)


def spectral_norms(net: StackedMLP) -> Tensor:
    """Return the exact spectral norms (layers, E) of the weights that are used, by singular values."""
    return torch.stack([torch.linalg.matrix_norm(weight.detach(), 2) for weight in net.weights])
