"""Which arm to play, given predicted losses: inverse-gap weighting in both forms, and its learning rate γ.

Foster, Rakhlin, ICML 2020, arXiv 2002.04926 (SquareCB); Foster, Krishnamurthy, NeurIPS 2021, arXiv 2107.02237 (FastCB).
Losses, not rewards: the best arm has the smallest. Equations: docs/derivations/neural_bandits.md.

| derivation | paper | here |
|---|---|---|
| (3.1), (3.2) | SquareCB | `inverse_gap` |
| (3.4), (3.5) | FastCB | `reweighted_inverse_gap` |
| (3.3) | SquareCB | `square_rate` |
| (3.6) | FastCB | `fast_rate` |
| (3.8) | – | `growing_rate` |
| (3.9) | – | `doubled` |
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

FLOOR = 1e-6  # below it the best arm's loss counts as 0


def inverse_gap(losses: Tensor, gamma: Tensor | float) -> Tensor:
    """Return p (…, K): 1/(K + γ(ŷ_a − ŷ_b)) for a ≠ b, what is left for b = argmin ŷ; γ is a number or (…,)."""
    gap = losses - losses.amin(-1, keepdim=True)
    return _with_best(1 / (losses.shape[-1] + _column(gamma, losses) * gap), losses)


def reweighted_inverse_gap(losses: Tensor, gamma: Tensor | float) -> Tensor:
    """Return p (…, K): ŷ_b/(Kŷ_b + γ(ŷ_a − ŷ_b)) for a ≠ b, what is left for b = argmin ŷ; losses are at least 0.

    Where ŷ_b is 0, or below 10⁻⁶, what the other arms leave is divided among all that are.
    """
    losses = losses.clamp(min=FLOOR)
    best = losses.amin(-1, keepdim=True)
    p = best / (losses.shape[-1] * best + _column(gamma, losses) * (losses - best))
    lowest = losses <= FLOOR
    left = 1 - p.masked_fill(lowest, 0.0).sum(-1, keepdim=True)
    shared = torch.where(lowest, left / lowest.sum(-1, keepdim=True).clamp(min=1), p)
    return torch.where(lowest.any(-1, keepdim=True), shared, _with_best(p, losses))


def _with_best(p: Tensor, losses: Tensor) -> Tensor:
    """Give the first arm of smallest loss what the others leave, which rounding may put below 0."""
    best = losses.argmin(-1, keepdim=True)
    others = p.scatter(-1, best, 0.0)
    p = others.scatter(-1, best, (1 - others.sum(-1, keepdim=True)).clamp(min=0.0))
    return p / p.sum(-1, keepdim=True)


def _column(gamma: Tensor | float, losses: Tensor) -> Tensor | float:
    return gamma.to(losses.dtype)[..., None] if isinstance(gamma, Tensor) else gamma


def draw_arm(p: Tensor, uniform: Tensor) -> Tensor:
    """Return an arm (N,) drawn from p (N, K), given a uniform number (N,) in [0, 1)."""
    cumulative = p.double().cumsum(-1)
    return (uniform[:, None] * cumulative[:, -1:] >= cumulative[:, :-1]).sum(-1)


# --- the learning rate γ ----------------------------------------------------------------------------------------------


def square_rate(arms: int, horizon: int, regret: float, delta: float) -> float:
    """Return γ = √(KT/(Reg + ln(2/δ))), given the oracle's regret in squared loss after T rounds."""
    return math.sqrt(arms * horizon / (regret + math.log(2 / delta)))


def fast_rate(arms: int, best_loss: Tensor, regret: float) -> Tensor:
    """Return γ = max(√(K·L*/(3 Reg)), 10K) (N,), given L* (N,) and the oracle's regret in log loss."""
    return (arms * best_loss / (3 * regret)).sqrt().clamp(min=10.0 * arms)


def growing_rate(scale: float, power: float, t: int) -> float:
    """Return γ_t = c·t^q in round t, from 1."""
    return float(scale * t**power)


def doubled(total: Tensor) -> Tensor:
    """Return the smallest power of 2 that is at least 1 and a running total (N,): an upper guess of L*."""
    return torch.exp2(total.clamp(min=1.0).log2().ceil())
