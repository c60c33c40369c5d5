"""A natural-gradient step of bounded length: damped Fisher products, conjugate gradients, line search.

Schulman et al., "Trust Region Policy Optimization", arXiv 1502.05477, appendix C, for E policies at once: every
quantity has one row a policy, and every product of vectors is taken row by row. Derivation: docs/derivations/hnpg.md.

| derivation | paper | here |
|---|---|---|
| (4.4) surrogate of the advantages | HNPG, (48) | `surrogate` |
| (4.9) product with the damped Fisher matrix | appendix C | `FisherProduct` |
| (4.11) direction by conjugate gradients | appendix C; HNPG, (48) | `conjugate_gradients` |
| (4.12) length from the KL limit | appendix C | `scale_to_limit` |
| (4.13), (4.14) line search | HNPG, (50) | `line_search` |
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from surefoot.agents.parts.stochastic import PolicyStack

Product = Callable[[Tensor], Tensor]  # (E, P) -> (E, P)
TINY = 1e-30  # keeps 0/0 out of rows without a gradient


@dataclass(frozen=True)
class TrustRegionConfig:
    """The policy step. Defaults: HNPG's paper (table of hyper-parameters) and code (§7.1)."""

    kl_limit: float = 0.01
    """Trust region size δ: quadratic KL of the full step, for each policy of the stack."""
    damping: float = 0.1
    """Damping ξ, added to the diagonal of the Fisher matrix; it enters the step's length."""
    cg_iterations: int = 10
    """Maximum number of conjugate gradient iterations."""
    cg_tolerance: float = 1e-10
    """Squared residual at which conjugate gradients stop."""
    line_search_steps: int = 10
    """Maximum number of halvings in the line search; then the old parameters are kept."""
    accept_ratio: float = 0.1
    """Minimum improvement of the surrogate, as a fraction of the predicted one."""
    kl_slack: float | None = 1.5
    """Reject steps whose measured KL exceeds kl_slack·δ; None: no test, as in HNPG's code."""


class StepRows(NamedTuple):
    """What a policy step is computed from; E policies, B samples each."""

    obs: Tensor  # (E, B, obs)
    action: Tensor  # (E, B, act)
    advantage: Tensor  # (E, B)
    weight: Tensor  # (B,), sums to 1


def dot(a: Tensor, b: Tensor) -> Tensor:
    """Return the products of rows (E, 1)."""
    return (a * b).sum(-1, keepdim=True)


def conjugate_gradients(product: Product, g: Tensor, iterations: int, tolerance: float) -> Tensor:
    """Return x (E, P) with F x ≈ g, from x = 0; a row whose squared residual is below `tolerance` stays as it is."""
    x, residual, direction = torch.zeros_like(g), g.clone(), g.clone()
    square = dot(residual, residual)
    for _ in range(iterations):
        going = square >= tolerance
        curved = product(direction)
        alpha = torch.where(going, square / (dot(direction, curved) + TINY), 0.0)
        x = x + alpha * direction
        residual = residual - alpha * curved
        following = dot(residual, residual)
        direction = torch.where(going, residual + following / (square + TINY) * direction, direction)
        square = torch.where(going, following, square)
    return x


def scale_to_limit(x: Tensor, curved: Tensor, kl_limit: float) -> Tensor:
    """Return x·√(2δ / xᵀFx), whose quadratic KL ½xᵀFx is δ; `curved` is Fx, damping included."""
    return x * (2 * kl_limit / (dot(x, curved) + TINY)).sqrt()


class FisherProduct:
    """v ↦ (Σ_i w_i J_iᵀ M_i J_i + ξ) v, the Hessian of Σ_i w_i KL(π_old ‖ π) at π_old, plus damping.

    M is the head's Fisher matrix in the network's outputs (the expectation over actions is exact), J the Jacobian of
    the outputs. The graph of Jᵀu is built once; Jv is its derivative in u, so each product is two backward passes.
    """

    def __init__(self, policy: PolicyStack, outputs: Tensor, theta: Tensor, weight: Tensor, damping: float) -> None:
        self.policy, self.outputs, self.theta = policy, outputs, theta
        self.weight, self.damping = weight[:, None], damping
        self.u = torch.zeros_like(outputs, requires_grad=True)
        (self.pulled,) = torch.autograd.grad(outputs, theta, self.u, create_graph=True)

    def __call__(self, v: Tensor) -> Tensor:
        (pushed,) = torch.autograd.grad(self.pulled, self.u, v, retain_graph=True)
        weighed = self.weight * self.policy.head.fisher(self.outputs.detach(), pushed)
        (back,) = torch.autograd.grad(self.outputs, self.theta, weighed, retain_graph=True)
        return back + self.damping * v


def surrogate(log_prob: Tensor, old_log_prob: Tensor, advantage: Tensor, weight: Tensor) -> Tensor:
    """Return L (E, 1) = Σ_i w_i Â_i π(a_i|s_i)/π_old(a_i|s_i)."""
    return (weight * advantage * (log_prob - old_log_prob).exp()).sum(-1, keepdim=True)


def trust_region_step(policy: PolicyStack, rows: StepRows, config: TrustRegionConfig) -> dict[str, Tensor]:
    """Move every policy of the stack by one natural-gradient step, or not at all; return metrics (E,)."""
    old = policy.vector()
    theta = old.clone().requires_grad_()
    outputs = policy(rows.obs, policy.split(theta))
    log_prob = policy.head.log_prob(outputs, rows.action)
    gain = surrogate(log_prob, log_prob.detach(), rows.advantage, rows.weight)
    (g,) = torch.autograd.grad(gain.sum(), theta, retain_graph=True)
    product = FisherProduct(policy, outputs, theta, rows.weight, config.damping)
    x = conjugate_gradients(product, g, config.cg_iterations, config.cg_tolerance)
    step = scale_to_limit(x, product(x), config.kl_limit)

    @torch.no_grad()
    def evaluate(candidate: Tensor) -> tuple[Tensor, Tensor]:
        new = policy(rows.obs, policy.split(candidate))
        improvement = surrogate(policy.head.log_prob(new, rows.action), log_prob, rows.advantage, rows.weight) - gain
        return improvement, (rows.weight * policy.head.kl(outputs, new)).sum(-1, keepdim=True)

    found = line_search(evaluate, old, step, dot(g, step), config)
    policy.assign(found.theta)
    return {"kl": found.kl, "step_fraction": found.fraction, "gradient_norm": g.norm(dim=-1)}


class Found(NamedTuple):
    """Where a line search ended; a fraction of 0 is the start, bit for bit."""

    theta: Tensor  # (E, P)
    fraction: Tensor  # (E,)
    kl: Tensor  # (E,) measured


@torch.no_grad()
def line_search(
    evaluate: Callable[[Tensor], tuple[Tensor, Tensor]],
    start: Tensor,
    step: Tensor,
    slope: Tensor,
    config: TrustRegionConfig,
) -> Found:
    """Return, row by row, the first start + 2^−j·step that improves enough (and stays within the KL test).

    `evaluate` maps candidates (E, P) to improvements and KLs (E, 1); `slope` (E, 1) = gᵀ·step is the predicted gain.
    """
    theta, fraction, kl = start, torch.zeros_like(slope), torch.zeros_like(slope)
    for j in range(config.line_search_steps):
        scale = 0.5**j
        candidate = start + scale * step
        improvement, distance = evaluate(candidate)
        good = (improvement > 0) & (improvement > config.accept_ratio * scale * slope) & (fraction == 0)
        if config.kl_slack is not None:
            good &= distance <= config.kl_slack * config.kl_limit
        theta = torch.where(good, candidate, theta)
        fraction, kl = torch.where(good, scale, fraction), torch.where(good, distance, kl)
        if bool((fraction > 0).all()):  # a wait for the device, once or twice per policy step, saves nine evaluations
            break
    return Found(theta, fraction.squeeze(-1), kl.squeeze(-1))
