"""The actor: mirror ascent on a critic, π ∝ π·exp(η Q̄), as a softmax in closed form.

With resets the critic is frozen between them, so the policy is softmax(η k Q̄) and k is all there is to keep
(docs/derivations/nora.md §2.5). Without resets the exponents of different critics add up in a table.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from surefoot.agents.parts.state import Stateful
from surefoot.agents.parts.tabular import greedy


def soft_policy(exponent: Tensor, epsilon: float = 0.0) -> Tensor:
    """Return softmax(exponent) (…, A), mixed with the uniform policy with weight ε; exponents of any size are safe."""
    # Actions first: torch's softmax over a short last axis takes ten times as long.
    policy = torch.softmax(exponent.movedim(-1, 0).contiguous(), 0).movedim(0, -1)
    return policy if epsilon == 0.0 else (1 - epsilon) * policy + epsilon / exponent.shape[-1]


def greedy_policy(values: Tensor, epsilon: float = 0.0) -> Tensor:
    """Return the first best action of values (…, A) with probability 1 (η = ∞), but ε-greedy."""
    return (1 - epsilon) * greedy(values) + epsilon / values.shape[-1]


class Actor(Stateful):
    """Mirror ascent of N replicates with resets: k steps on the critic in force since the last one."""

    STATEFUL = ("steps",)

    def __init__(self, replicates: int, eta: float, epsilon: float, device: torch.device) -> None:
        self.eta, self.epsilon = eta, epsilon
        self.steps = torch.zeros(replicates, dtype=torch.float64, device=device)  # k (N,)

    def reset(self, which: Tensor) -> None:
        """Go back to the uniform policy in the replicates `which` (M,): their critic is another one now."""
        self.steps[which] = 0.0

    def ascend(self, values: Tensor | None) -> None:
        """Take one step on the critic in force."""
        self.steps += 1

    def policy(self, values: Tensor) -> Tensor:
        """Return π (N, …, A) of the critic's values Q̄ of that shape."""
        if math.isinf(self.eta):
            return greedy_policy(values, self.epsilon)
        return soft_policy(self.eta * self.steps.view(-1, *[1] * (values.ndim - 1)) * values, self.epsilon)


class AccumulatingActor(Stateful):
    """Mirror ascent without resets: Σ_t η Q̄^(t) (N, H, S, A), over all critics there were."""

    STATEFUL = ("exponent",)

    def __init__(self, shape: tuple[int, int, int, int], eta: float, epsilon: float, device: torch.device) -> None:
        self.eta, self.epsilon = eta, epsilon
        self.exponent = torch.zeros(shape, dtype=torch.float64, device=device)

    def reset(self, which: Tensor) -> None:
        """Old exponents stay: this is what NORA's resets are compared with."""

    def ascend(self, values: Tensor | None) -> None:
        """Add η Q̄ of the critic in force, values (N, H, S, A)."""
        assert values is not None, "a table of values is what this actor is for"
        self.exponent += self.eta * values

    def policy(self, values: Tensor) -> Tensor:
        """Return π (N, H, S, A)."""
        return soft_policy(self.exponent, self.epsilon)
