"""How steep a value is, by three estimates, and what a model's error costs in value.

The paper plots "the estimated Lipschitz constant" and does not say how it is estimated: each of these has its own name.
Derivation: docs/derivations/lipschitz_mbrl.md §9.

| derivation | paper | here |
|---|---|---|
| (9.1) the mean in it, which bounds (2.1) by (2.2) | – (the authors' page) | `value_aware_error` |
| (9.2) | – | `log_upper_bound` |
| (9.3) before the mean | – | `local_slopes` |
| (9.4) | – | `ball_slope` |
"""

from __future__ import annotations

import torch
from torch import Tensor

from surefoot.agents.lipschitz_mbrl.smoothing import Ball, Value, slope, steepest
from surefoot.agents.lipschitz_mbrl.spectral_norm import spectral_norms
from surefoot.agents.parts.networks import StackedMLP


def log_upper_bound(net: StackedMLP) -> Tensor:
    """Return ln Π_l σ_max(W_l) (E,), exact: with ReLU a bound of each network's slope everywhere."""
    return spectral_norms(net).log().sum(0)


def local_slopes(value: Value, obs: Tensor) -> Tensor:
    """Return ‖∇_s V(s)‖₂ (B,) at states (B, obs) of a value that maps (B, obs) to (B,)."""
    slopes: Tensor = slope(value, obs)[1].norm(dim=-1)
    return slopes


@torch.no_grad()
def ball_slope(value: Value, obs: Tensor, ball: Ball) -> Tensor:
    """Return max |V(s + δ) − V(s)|/‖δ‖₂ over states (B, obs) and over both δ = ±d of the attack: what it controls.

    A state where the value has no gradient has no such δ and does not count.
    """
    v, gradient = slope(value, obs)
    d = steepest(gradient, ball)
    length = d.norm(dim=-1).clamp(min=torch.finfo(d.dtype).tiny)
    return torch.stack([(value(obs + side) - v).abs() / length for side in (d, -d)]).amax()


def value_aware_error(value: Tensor, predicted: Tensor) -> Tensor:
    """Return mean (V(ŝ') − V(s'))² of values (B,) at true and predicted next states: bounds L_vame/γ²."""
    return (predicted - value).square().mean()
