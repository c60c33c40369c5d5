"""Sums along time: discounted returns and generalised advantages (Schulman et al., arXiv 1506.02438).

Derivation: docs/derivations/hnpg.md.

| derivation | paper | here |
|---|---|---|
| (3.2), stationary (5.2) | – | `backward_sums` |
| (4.1), (4.2), stationary (5.3) | (16) | `generalised_advantages` |
"""

from __future__ import annotations

import torch
from torch import Tensor


def backward_sums(x: Tensor, keep: Tensor) -> Tensor:
    """Return y (T, …) with y_t = x_t + keep_t·y_{t+1} and y_T = 0: a return, where keep is γ inside an episode."""
    total = torch.zeros_like(x[0])
    sums = torch.empty_like(x)
    for t in range(len(x) - 1, -1, -1):
        total = x[t] + keep[t] * total
        sums[t] = total
    return sums


def generalised_advantages(
    reward: Tensor, value: Tensor, next_value: Tensor, ended: Tensor, *, gamma: float, gae_lambda: float
) -> Tensor:
    """Return Â (T, …): Â_t = δ_t + γλ·Â_{t+1} inside an episode, δ_t = r_t + γV(s_{t+1}) − V(s_t).

    `next_value` is 0 where the task ended; `ended` (T, …) is where nothing follows, also at a time-out or a cut.
    """
    delta = reward + gamma * next_value - value
    return backward_sums(delta, gamma * gae_lambda * (1.0 - ended.to(delta.dtype)))
