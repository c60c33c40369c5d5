"""What a stochastic policy's network outputs mean: a diagonal Gaussian, or a softmax over discrete actions.

The two classes have the same methods, functions of outputs (…, width) and actions (…, dim). Actions are what densities
are taken of: raw Gaussian samples, one-hot vectors. `to_task` makes of them what the environment takes, `to_critic`
what a critic sees. Derivation: docs/derivations/hnpg.md §4.2.

| derivation | paper | here |
|---|---|---|
| (4.6), (4.7) density and KL of Gaussians | – | `GaussianHead.log_prob`, `GaussianHead.kl` |
| (4.8) KL of softmax policies | – | `CategoricalHead.kl` |
| (4.10) Fisher matrices in the outputs | – | `GaussianHead.fisher`, `CategoricalHead.fisher` |
"""

from __future__ import annotations

import math
from typing import Any

import gymnasium as gym
import torch
import torch.nn.functional as F
from torch import Tensor


class GaussianHead:
    """N(mean, diag σ²), outputs mean and log σ side by side (…, 2A); clipped for a task whose actions are bounded."""

    def __init__(self, dim: int, bounded: bool) -> None:
        self.dim, self.bounded = dim, bounded

    def sample(self, outputs: Tensor, generator: torch.Generator | None) -> Tensor:
        mean, log_std = outputs.chunk(2, -1)
        noise = torch.randn(mean.shape, generator=generator, device=mean.device, dtype=mean.dtype)
        return mean + log_std.exp() * noise

    def mode(self, outputs: Tensor) -> Tensor:
        return outputs.chunk(2, -1)[0]

    def log_prob(self, outputs: Tensor, action: Tensor) -> Tensor:
        mean, log_std = outputs.chunk(2, -1)
        z = (action - mean) * (-log_std).exp()
        return (-0.5 * z.square() - log_std).sum(-1) - 0.5 * self.dim * math.log(2 * math.pi)

    def kl(self, old: Tensor, new: Tensor) -> Tensor:
        """Return KL(π_old ‖ π_new) (…)."""
        (m0, s0), (m1, s1) = old.chunk(2, -1), new.chunk(2, -1)
        return (s1 - s0 + ((2 * s0).exp() + (m0 - m1).square()) / (2 * (2 * s1).exp()) - 0.5).sum(-1)

    def fisher(self, outputs: Tensor, v: Tensor) -> Tensor:
        """Return M·v (…, 2A), M the Fisher matrix in the outputs: σ⁻² for the means, 2 for the log σ."""
        v_mean, v_log_std = v.chunk(2, -1)
        return torch.cat([v_mean * (-2 * outputs.chunk(2, -1)[1]).exp(), 2 * v_log_std], -1)

    def to_task(self, action: Tensor) -> Tensor:
        return action.clamp(-1, 1) if self.bounded else action

    def to_critic(self, action: Tensor) -> Tensor:
        return self.to_task(action)

    def from_data(self, action: Tensor) -> Tensor:
        return action


class CategoricalHead:
    """softmax of the outputs (…, n); actions are one-hot."""

    def __init__(self, n: int, start: int = 0) -> None:
        self.dim, self.start = n, start  # `start` is the task's number of the first action

    def sample(self, outputs: Tensor, generator: torch.Generator | None) -> Tensor:
        race = torch.empty_like(outputs).exponential_(generator=generator)
        return self._one_hot((outputs.softmax(-1) / race).argmax(-1), outputs)

    def mode(self, outputs: Tensor) -> Tensor:
        return self._one_hot(outputs.argmax(-1), outputs)

    def log_prob(self, outputs: Tensor, action: Tensor) -> Tensor:
        return (outputs.log_softmax(-1) * action).sum(-1)

    def kl(self, old: Tensor, new: Tensor) -> Tensor:
        """Return KL(π_old ‖ π_new) (…)."""
        log_old, log_new = old.log_softmax(-1), new.log_softmax(-1)
        return (log_old.exp() * (log_old - log_new)).sum(-1)

    def fisher(self, outputs: Tensor, v: Tensor) -> Tensor:
        """Return M·v (…, n), M = diag p − ppᵀ."""
        p = outputs.softmax(-1)
        return p * (v - (p * v).sum(-1, keepdim=True))

    def to_task(self, action: Tensor) -> Tensor:
        return action.argmax(-1) + self.start

    def to_critic(self, action: Tensor) -> Tensor:
        return action

    def from_data(self, action: Tensor) -> Tensor:
        """Return one-hot actions (N, n) of recorded numbers (N, 1)."""
        return F.one_hot(action.squeeze(-1).long() - self.start, self.dim).to(action.dtype)

    def _one_hot(self, index: Tensor, like: Tensor) -> Tensor:
        return F.one_hot(index, self.dim).to(like.dtype)


Head = GaussianHead | CategoricalHead


def head_for(space: gym.Space[Any] | Any) -> Head:
    """Return the head of an action space: one-dimensional Box (clipped if it is bounded) or Discrete."""
    if isinstance(space, gym.spaces.Discrete):
        return CategoricalHead(int(space.n), int(space.start))
    if isinstance(space, gym.spaces.Box) and len(space.shape) == 1:
        return GaussianHead(space.shape[0], bool(space.is_bounded()))
    raise ValueError(f"this agent needs Box or Discrete actions, not {space}; choose another --env.id")
