"""Distributions on the reals as weighted atoms: tails, distances, and projections on what an algorithm can carry.

A distribution is `values` (…, K) with `weights` (…, K) that sum to 1 along the last axis; leading axes are a batch.
docs/derivations/distributional.md §3.2 (tails) and §6.1 (projections); sources: Bellemare, Dabney, Rowland,
Distributional Reinforcement Learning (MIT Press 2023), chapters 5 and 7.
"""

from __future__ import annotations

import torch
from torch import Tensor

ROUNDING = 1e-12  # a level that weights reach but for the rounding of their sum counts as cumulative


def midpoints(count: int, like: Tensor) -> Tensor:
    """Return the levels (2i − 1)/(2m), i = 1 … m, at which m quantiles are taken."""
    return (torch.arange(count, dtype=like.dtype, device=like.device) + 0.5) / count


def mean(values: Tensor, weights: Tensor) -> Tensor:
    """Return E[X] (…)."""
    return (weights * values).sum(-1)


def quantile(values: Tensor, weights: Tensor, levels: Tensor) -> Tensor:
    """Return inf{x: P(X ≤ x) ≥ level} (…, L) at the `levels` (L,), each in (0, 1]."""
    values, order = values.sort(-1)
    cumulative = weights.gather(-1, order).cumsum(-1)
    wanted = (levels - ROUNDING).expand(*cumulative.shape[:-1], len(levels)).contiguous()
    first = torch.searchsorted(cumulative, wanted).clamp(max=values.shape[-1] - 1)
    return values.gather(-1, first)


def lower_cvar(values: Tensor, weights: Tensor, tau: float) -> Tensor:
    """Return (1/τ)·∫₀^τ F⁻¹(u) du (…), the mean of the worst fraction τ: eq. (3.2)."""
    values, order = values.sort(-1)
    mass = weights.gather(-1, order)
    cumulative = mass.cumsum(-1)
    within = (tau - (cumulative - mass)).clamp(min=0).minimum(mass)
    return (within * values).sum(-1) / tau


def upper_cvar(values: Tensor, weights: Tensor, tau: float) -> Tensor:
    """Return the mean of the best fraction τ (…): eq. (3.3)."""
    return -lower_cvar(-values, weights, tau)


def variance(values: Tensor, weights: Tensor) -> Tensor:
    """Return Var[X] (…)."""
    return mean((values - mean(values, weights)[..., None]).square(), weights)


def project_quantiles(values: Tensor, weights: Tensor, count: int) -> Tensor:
    """Return `count` quantiles at the midpoints (…, m), of equal weight, eq. (6.1): w₁ moves by ≤ (max − min)/(2m)."""
    return quantile(values, weights, midpoints(count, values))


def project_categorical(values: Tensor, weights: Tensor, support: Tensor) -> Tensor:
    """Return weights (…, m) on the evenly spaced `support` (m,): every atom is shared by its two neighbours, eq. (6.2).

    The mean stays what it was and w₁ moves by at most half a spacing; atoms beyond the ends are clipped to them.
    """
    spacing = (support[-1] - support[0]) / (len(support) - 1)
    place = ((values - support[0]) / spacing).clamp(0, len(support) - 1)
    low = place.floor().clamp(max=len(support) - 2)
    high_weight = place - low
    projected = values.new_zeros(*values.shape[:-1], len(support))
    projected.scatter_add_(-1, low.long(), weights * (1 - high_weight))
    return projected.scatter_add_(-1, low.long() + 1, weights * high_weight)
