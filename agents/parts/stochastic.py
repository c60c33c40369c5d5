"""Stacks of stochastic policies and of critics: one member per time step and seed, all in one batched call.

Zhou et al., arXiv 2311.08384, experiments; architecture and initialisation from the authors' code
(docs/derivations/hnpg.md §6).

| derivation | paper | here |
|---|---|---|
| §6 networks | – | `PolicyStack`, `CriticStack` |
| (3.4) fit of the critics, gradient written out | (49) | `fit_values`, `parts.regression.squared_error_gradients` |
| (3.6) state values | – | `state_values` |
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from surefoot.agents.parts.heads import CategoricalHead, GaussianHead, Head
from surefoot.agents.parts.networks import StackedMLP
from surefoot.agents.parts.regression import Adam, squared_error_gradients

LAST_SCALE = 0.1  # of the output layers at the start: policies near N(0, 1) or uniform, critics near 0


class PolicyStack(nn.Module):
    """E policies of one shape: tanh networks, with a state-independent log σ from 0 where actions are continuous."""

    def __init__(
        self, stack_size: int, obs_dim: int, head: Head, hidden: Sequence[int], generator: torch.Generator
    ) -> None:
        super().__init__()
        self.head = head
        options = {"last_scale": LAST_SCALE, "activation": "tanh"}
        self.net = StackedMLP(stack_size, obs_dim, hidden, head.dim, generator=generator, **options)  # type: ignore[arg-type]
        gaussian = isinstance(head, GaussianHead)
        self.log_std = nn.Parameter(torch.zeros(stack_size, 1, head.dim)) if gaussian else None

    def forward(self, obs: Tensor, parameters: Sequence[Tensor] | None = None) -> Tensor:
        """Map (E, B, obs) to the head's outputs (E, B, width); `parameters` as `members` or `split` return them."""
        own = self.members() if parameters is None else parameters
        if isinstance(self.head, CategoricalHead):
            logits: Tensor = self.net(obs, own)
            return logits
        mean = self.net(obs, own[1:])
        return torch.cat([mean, own[0].expand_as(mean)], -1)

    def members(self, chosen: slice = slice(None)) -> list[Tensor]:
        """Return the parameters of some members."""
        return [parameter[chosen] for parameter in self.parameters()]

    def only(self, chosen: slice) -> PolicyStack:
        """Return a copy of some members as a stack of their own."""
        copied = copy.deepcopy(self).requires_grad_(False)
        for parameter in copied.parameters():
            parameter.data = parameter.data[chosen].clone()
        return copied

    def vector(self) -> Tensor:
        """Return θ (E, P), a copy, one row per member."""
        return torch.cat([parameter.detach().flatten(1) for parameter in self.parameters()], 1)

    def split(self, vector: Tensor) -> list[Tensor]:
        """Return views of θ (E, P) in the shapes of the parameters."""
        shapes = [parameter.shape[1:] for parameter in self.parameters()]
        parts = vector.split([shape.numel() for shape in shapes], 1)
        return [part.reshape(-1, *shape) for part, shape in zip(parts, shapes, strict=True)]

    @torch.no_grad()
    def assign(self, vector: Tensor) -> None:
        """Set θ (E, P)."""
        for parameter, value in zip(self.parameters(), self.split(vector), strict=True):
            parameter.copy_(value)


class CriticStack(StackedMLP):
    """E values f(s, a): tanh networks."""

    def __init__(
        self, stack_size: int, obs_dim: int, action_dim: int, hidden: Sequence[int], generator: torch.Generator
    ) -> None:
        width = obs_dim + action_dim
        super().__init__(stack_size, width, hidden, 1, generator=generator, last_scale=LAST_SCALE, activation="tanh")

    def value(self, obs: Tensor, action: Tensor, chosen: slice = slice(None)) -> Tensor:
        """Map (E, B, obs) and (E, B, act) to (E, B), by the chosen members."""
        parameters = [parameter[chosen] for parameter in self.parameters()]
        values: Tensor = self(torch.cat([obs, action], -1), parameters)
        return values.squeeze(-1)


@torch.no_grad()
def fit_values(
    critic: CriticStack, chosen: slice, x: Tensor, target: Tensor, weight: Tensor, *, lr: float, steps: int
) -> Tensor:
    """Take `steps` full-batch steps of a new Adam on Σ_B w·(f − z)² for the chosen members; return (f − z)² (E, B).

    x (E, B, obs + act), z (E, B), w (B,): members do not share parameters, so their losses add up without mixing. What
    is returned belongs to the parameters before the last step.
    """
    layers = len(critic.weights)
    fitted = [parameter[chosen].clone() for parameter in critic.parameters()]
    adam = Adam(fitted, lr)
    error = torch.zeros_like(target)
    for _ in range(steps):
        error, gradients = squared_error_gradients(fitted[:layers], fitted[layers:], x, target, weight)
        adam.step(gradients)
    for parameter, new in zip(critic.parameters(), fitted, strict=True):
        parameter[chosen] = new
    return error


@torch.no_grad()
def state_values(
    critic: CriticStack, policy: PolicyStack, obs: Tensor, *, samples: int, generator: torch.Generator
) -> Tensor:
    """Return V(s) (E, B) = mean of f(s, a_j) over `samples` actions a_j ~ π(·|s); obs (E, B, obs)."""
    rows = obs.shape[1]
    outputs = policy(obs).repeat(1, samples, 1)
    action = policy.head.to_critic(policy.head.sample(outputs, generator))
    values = critic.value(obs.repeat(1, samples, 1), action)
    return torch.unflatten(values, 1, (samples, rows)).mean(1)
