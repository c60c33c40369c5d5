"""Linear MDPs: P_h(s'|s, a) = <φ(s, a), μ_h(s')> and r_h(s, a) = <φ(s, a), θ_h>, with known features.

The one that is written out: docs/derivations/nora.md eq. (9.4).
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from surefoot.envs.tasks.finite import FiniteEnv, Outcomes, require, sum_range


class LinearMDP(FiniteEnv):
    """A linear MDP whose features lie on the simplex; rewards are deterministic, in [0, 1], episodes start in state 0.

    Without `task_seed` it is one that is written out without chance (10 states, 3 actions, d = 4, H = 5, and no other
    size); with it features, next states (all Dirichlet, flat) and θ (uniform on [0, 1]) are drawn.
    """

    horizon: int

    def __init__(
        self,
        num_envs: int = 1,
        *,
        task_seed: int | None = None,
        states: int = 10,
        actions: int = 3,
        dim: int = 4,
        horizon: int = 5,
        **kwargs: Any,
    ):
        sizes = (states, actions, dim, horizon)
        require("states, actions, dim, horizon", min(sizes), min(sizes) >= 1, "at least 1")
        if task_seed is None and sizes != (10, 3, 4, 5):
            raise ValueError(
                "--env.kwargs task_seed is missing: only the linear MDPs drawn from a seed come in other sizes"
            )
        parts = explicit_parts() if task_seed is None else random_parts(*sizes, task_seed)
        self.phi, self.mu, self.theta = (part.to(kwargs.get("device", "cpu")) for part in parts)
        super().__init__(linear_outcomes(*parts), num_envs, horizon=horizon, **kwargs)

    def features(self, state: Tensor) -> Tensor:
        """Return φ(s, ·) (…, A, d) of state indices (…)."""
        return self.phi[state]

    @property
    def value_range(self) -> tuple[Tensor, Tensor]:
        """Least and largest sum of rewards from each step on, (H,) each, that features and θ of this size allow."""
        return sum_range(self.horizon, 0.0, 1.0, self.device)


def explicit_parts() -> tuple[Tensor, Tensor, Tensor]:
    """Return φ (10, 3, 4), μ (5, 4, 10) and θ (5, 4), given by formulas."""
    s, a, i, h = (torch.arange(n, dtype=torch.float64) for n in (10, 3, 4, 5))
    phi = 1 + ((s[:, None, None] + 1) * (a[:, None] + 2) * (i + 1)) % 7
    mu = (1 + (h[:, None, None] + 2 * i[:, None] + 3 * s) % 5).square()
    theta = ((h[:, None] + i) % 3) / 2
    return phi / phi.sum(-1, keepdim=True), mu / mu.sum(-1, keepdim=True), theta


def random_parts(states: int, actions: int, dim: int, horizon: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return φ (S, A, d), μ (H, d, S) and θ (H, d) drawn from a seed."""
    generator = torch.Generator().manual_seed(seed)

    def flat_dirichlet(*shape: int) -> Tensor:
        weight = torch.empty(shape, dtype=torch.float64).exponential_(generator=generator)
        return weight / weight.sum(-1, keepdim=True)

    theta = torch.rand(horizon, dim, generator=generator, dtype=torch.float64)
    return flat_dirichlet(states, actions, dim), flat_dirichlet(horizon, dim, states), theta


def linear_outcomes(phi: Tensor, mu: Tensor, theta: Tensor) -> Outcomes:
    """Return the table (H, S, A, S)."""
    probability = torch.einsum("sai,hit->hsat", phi, mu)
    reward = torch.einsum("sai,hi->hsa", phi, theta)[..., None].expand_as(probability)
    next_state = torch.arange(len(phi)).expand(probability.shape)
    return Outcomes(F.one_hot(torch.tensor(0), len(phi)).double(), next_state, probability, reward)
