"""Linear and logistic classes for the same reductions: ridge regression and the online Newton step, N replicates.

Equations: docs/derivations/neural_bandits.md.

| derivation | paper | here |
|---|---|---|
| (7.1), (7.2) | – | `Ridge` |
| (7.3) | – | `Ridge.squared_widths` |
| (7.4) | – | `Logistic` |
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from surefoot.agents.neural_bandits.network import Shape
from surefoot.agents.parts.state import Stateful


class Weights(Stateful):
    """Weights w (N, K', d) and the inverse of a matrix V (N, K', d, d) for each block of arms, float64."""

    STATEFUL = ("inverse", "weights")

    def __init__(self, shape: Shape, ridge: float, device: torch.device) -> None:
        self.shape = shape
        n, blocks, d = shape.replicates, shape.blocks, shape.features
        identity = torch.eye(d, dtype=torch.float64, device=device) / ridge
        self.inverse = identity.repeat(n, blocks, 1, 1)
        self.weights = torch.zeros(n, blocks, d, dtype=torch.float64, device=device)
        self.rows = torch.arange(n, device=device)

    def deployed(self) -> dict[str, Any]:
        """Return what predictions depend on."""
        return {"weights": self.weights.clone()}

    def load_deployed(self, state: dict[str, Any]) -> None:
        self.weights.copy_(state["weights"])

    def widen(self, contexts: Tensor) -> Tensor:
        """Return contexts as they are regressed on, float64."""
        return contexts.double()

    def of(self, contexts: Tensor, arm: Tensor) -> tuple[Tensor, Tensor]:
        """Return the context (N, d) of the arm played and its block (N,)."""
        x = self.widen(contexts)
        return (x, arm) if self.shape.shared else (x[self.rows, arm], torch.zeros_like(arm))

    def outputs(self, contexts: Tensor) -> Tensor:
        """Return <w, x> (N, K) of every arm."""
        x = self.widen(contexts)
        return (self.weights @ x[..., None] if self.shape.shared else x @ self.weights.mT).squeeze(-1)

    def add(self, x: Tensor, block: Tensor, curvature: Tensor) -> Tensor:
        """Add c·xxᵀ to V, c (N,), by Sherman and Morrison's formula; return V⁻¹x (N, d) after that."""
        inverse = self.inverse[self.rows, block]
        solved = (inverse @ x[..., None]).squeeze(-1)
        shrink = 1 + curvature * (x * solved).sum(-1)
        step = (curvature / shrink)[:, None, None] * solved[:, :, None] * solved[:, None]
        self.inverse[self.rows, block] = inverse - step
        return solved / shrink[:, None]


class Ridge(Weights):
    """Least squares with ridge λ and an intercept: the estimate of every round's targets, exactly."""

    def __init__(self, shape: Shape, ridge: float, device: torch.device) -> None:
        super().__init__(shape._replace(features=shape.features + 1), ridge, device)

    def widen(self, contexts: Tensor) -> Tensor:
        return torch.nn.functional.pad(contexts.double(), (0, 1), value=1.0)

    def predict(self, contexts: Tensor) -> Tensor:
        """Return the predicted target (N, K) of every arm, clipped to [0, 1]."""
        return self.outputs(contexts).clamp(0.0, 1.0)

    def squared_widths(self, contexts: Tensor) -> Tensor:
        """Return xᵀV⁻¹x (N, K) of every arm."""
        x = self.widen(contexts)
        if self.shape.shared:
            return ((self.inverse @ x[:, None, :, None]).squeeze(-1) * x[:, None]).sum(-1)
        return (x @ self.inverse[:, 0] * x).sum(-1)

    def learn(self, contexts: Tensor, arm: Tensor, target: Tensor) -> Tensor:
        """Take in a sample of each replicate; return its loss ½(f − y)² (N,) before."""
        x, block = self.of(contexts, arm)
        error = target.double() - (self.weights[self.rows, block] * x).sum(-1)
        gain = self.add(x, block, torch.ones_like(error))
        self.weights[self.rows, block] += gain * error[:, None]
        return 0.5 * error.square()


class Logistic(Weights):
    """σ(<w, x>) by online Newton steps: V ← V + σ'xxᵀ, w ← w − V⁻¹x(σ − y)."""

    def predict(self, contexts: Tensor) -> Tensor:
        """Return the predicted target (N, K) of every arm."""
        return self.outputs(contexts).sigmoid()

    def learn(self, contexts: Tensor, arm: Tensor, target: Tensor) -> Tensor:
        """Take in a sample of each replicate; return its log loss (N,) before."""
        x, block = self.of(contexts, arm)
        output = (self.weights[self.rows, block] * x).sum(-1)
        p = output.sigmoid()
        gain = self.add(x, block, p * (1 - p))
        self.weights[self.rows, block] -= gain * (p - target.double())[:, None]
        return torch.nn.functional.softplus(output) - target.double() * output
