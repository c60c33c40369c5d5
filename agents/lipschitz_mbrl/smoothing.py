"""Robust regularisation of critics: how far a state in a small ball can move a value, and the loss that keeps it near.

Zheng, Wang, Xu, Huang, arXiv 2302.01244 (equations as on the authors' page; docs/derivations/lipschitz_mbrl.md §6).
E critics are one stack; each has points of its own, δ_j of critic j never sees critic i.

| derivation | paper | here |
|---|---|---|
| (6.4) the ball around a state | – | `Ball` |
| (6.5) maximiser of a linear function over it | – | `steepest` |
| (6.6) fgsm, (6.7) two-sided, (6.9) uniform | – | `find_perturbation`, `draw_in_ball` |
| (6.8) gradients of all critics at once | – | `slope` |
| (6.10) for (6.1) | – (the authors' page) | `robust_loss` |
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple

import torch
from torch import Tensor

Value = Callable[
    [Tensor], Tensor
]  # states (…, obs) to values (…): g_j(x_j) = Q_j(x_j, π̄(x_j)) of E critics side by side
Norm = Literal["inf", "2"]
Attack = Literal["two-sided", "fgsm", "uniform", "none"]


class Ball(NamedTuple):
    """{x : ‖S⁻¹(x − s)‖_α ≤ ε} around a state s."""

    radius: float  # ε
    norm: Norm  # α
    scale: Tensor  # (obs,), the diagonal of S: ones, or the spread of the observations


def steepest(gradient: Tensor, ball: Ball) -> Tensor:
    """Return the δ (…, obs) of the ball by which a linear function rises most, given its gradient; 0 for gradient 0."""
    if ball.norm == "inf":
        return ball.radius * ball.scale * gradient.sign()
    scaled = ball.scale * gradient
    return ball.radius * ball.scale * torch.nn.functional.normalize(scaled, dim=-1, eps=1e-30)


def draw_in_ball(generator: torch.Generator, shape: tuple[int, ...], norm: Norm) -> Tensor:
    """Return points (…, obs), uniform in the unit ball of the norm."""
    device = generator.device
    if norm == "inf":
        return torch.rand(shape, generator=generator, device=device) * 2 - 1
    direction = torch.nn.functional.normalize(torch.randn(shape, generator=generator, device=device), dim=-1)
    return direction * torch.rand((*shape[:-1], 1), generator=generator, device=device) ** (1 / shape[-1])


def slope(value: Value, x: Tensor) -> tuple[Tensor, Tensor]:
    """Return g(x) (…) and ∇_x g (…, obs) of x (…, obs); touches the `.grad` of nothing.

    The sum over critics and rows has the gradients of all of them: no point reaches another's value.
    """
    x = x.detach().requires_grad_()
    with torch.enable_grad():
        g = value(x)
        (gradient,) = torch.autograd.grad(g.sum(), x)
    return g.detach(), gradient


def find_perturbation(
    value: Value,
    centre: Tensor,
    reference: Tensor,
    ball: Ball,
    attack: Attack = "two-sided",
    noise: Tensor | None = None,
) -> Tensor:
    """Return δ (E, B, obs) of the ball that makes (g(centre + δ) − reference)² large.

    Centre (B, obs), reference (E, B).
    - fgsm: one step of the fast gradient sign method on that square. Its gradient carries g − reference, which is 0
      where the reference is g itself: the attack then does nothing.
    - two-sided: both ±d along ∇g, and of them the one with the larger square. Exact for a linear g, without that trap.
    - uniform: `noise` (E, B, obs), points of the unit ball; no gradient is taken. none: 0.
    """
    x = centre.expand(*reference.shape, -1)
    if attack == "none":
        return torch.zeros_like(x)
    if attack == "uniform":
        assert noise is not None, "uniform noise is drawn by the caller, from a generator of its own"
        return ball.radius * ball.scale * noise
    g, gradient = slope(value, x)
    d = steepest(gradient, ball)
    if attack == "fgsm":
        return (g - reference).sign()[..., None] * d
    with torch.no_grad():
        plus, minus = value(torch.cat([x + d, x - d], 1)).chunk(2, 1)
        better = (plus - reference).square() >= (minus - reference).square()
    return torch.where(better[..., None], d, -d)


def robust_loss(perturbed: Tensor, reference: Tensor, detach_reference: bool = False) -> Tensor:
    """Return Σ_j mean_B (g_j(s̃_j) − c_j)² of perturbed and reference values (E, B), L_reg of the page.

    No stop-gradient is printed there: both terms move the critic, unless `detach_reference`.
    """
    return (perturbed - (reference.detach() if detach_reference else reference)).square().mean(-1).sum()
