"""LinUCB (OFUL) and D-LinUCB, on the system as if it had no hidden state.

docs/derivations/dynlin.md §10.1, §10.2, §10.3, §10.4.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from surefoot.agents.dynlin.bandit import BanditConfig, BanditProblem
from surefoot.agents.dynlin.bounds import (
    Bounds,
    constants,
    stationary_radius,
)
from surefoot.agents.dynlin.learners import (
    LearnerDefaults,
    bounds_of,
    replicate_uniforms,
    require_horizon,
    sample_arm,
    table_of,
)
from surefoot.agents.dynlin.ridge import Ridge, backward, cholesky, first_best, quadratic_form
from surefoot.agents.parts.ranges import AT_LEAST_1, POSITIVE, check_ranges, optional, unread_where


def oful_radius(t: int, bounds: Bounds, d: int, lam: float, delta: float) -> float:
    """Return Θ√λ + σ√(2 ln(1/δ) + d·ln(1 + tŪ²/(dλ))) after t rounds."""
    log_det = d * math.log1p(t * bounds.u**2 / (d * lam))
    return bounds.theta * math.sqrt(lam) + bounds.sigma * math.sqrt(2 * math.log(1 / delta) + log_det)


def constant_radius(horizon: int, theta: float, d: int, lam: float, action_bound: float) -> float:
    """Return Θ√λ + √(2 ln T + d·ln((dλ + TL²)/(dλ))): as if σ = 1, the same in every round."""
    log_det = d * math.log1p(horizon * action_bound**2 / (d * lam))
    return theta * math.sqrt(lam) + math.sqrt(2 * math.log(horizon) + log_det)


def discounted_sum(t: int, gamma: float) -> float:
    """Return (1 − γ^{2t})/(1 − γ²), without cancellation for γ near 1."""
    rate = math.log(gamma)
    return math.expm1(2 * t * rate) / math.expm1(2 * rate)


def discounted_radius(
    t: int, bounds: Bounds, d: int, lam: float, gamma: float, delta: float, action_bound: float
) -> float:
    """Return Θ√λ + σ√(2 ln(1/δ) + d·ln(1 + L²(1 − γ^{2t})/(dλ(1 − γ²)))) (Russac et al.)."""
    log_det = d * math.log1p(action_bound**2 * discounted_sum(t, gamma) / (d * lam))
    return bounds.theta * math.sqrt(lam) + bounds.sigma * math.sqrt(2 * math.log(1 / delta) + log_det)


def misnamed_radius(t: int, bounds: Bounds, d: int, lam: float, gamma: float, horizon: int) -> float:
    """Return c₂√λ + √(2σ̃²[ln T + (d/2)·ln(1 + (tŪ²/(dλ))·(1 − γ^{2t})/(1 − γ²))]): "D-LinUCB log"."""
    known = constants(bounds)
    log_det = 0.5 * d * math.log1p(t * bounds.u**2 / (d * lam) * discounted_sum(t, gamma))
    return known.c2 * math.sqrt(lam) + math.sqrt(2 * known.sigma2 * (math.log(horizon) + log_det))


@dataclass(frozen=True)
class LinUCBConfig(BanditConfig):
    """A regression of every round's reward on its action."""

    variant: Literal["textbook", "paper", "log"] = "textbook"
    """`textbook` OFUL, or the authors' variants: `paper` (λ = 1, their constants) and `log` (λ = ln T, DynLin-UCB's c₂
    and σ̃)."""
    ridge: float | None = None
    """Ridge parameter λ; None: 1, or ln T for `log`."""
    action_bound: float = 1.5
    """Action bound L of `paper`: the daily budget."""
    gamma: float | None = None
    """Discount factor γ in the radius of `log`, as in the authors' D-LinUCB "log", which discounts nothing else."""

    def __post_init__(self) -> None:
        rules = {"rounds_per_step": AT_LEAST_1, "action_bound": POSITIVE}
        rules |= {"ridge": optional(POSITIVE)}
        check_ranges(self, rules | {"gamma": optional((lambda x: 0 < x < 1, "in (0, 1)"))})

    def unread(self) -> dict[str, str]:
        """Return what the variant leaves without effect, and why."""
        why = f"with --agent.variant {self.variant}"
        return super().unread() | unread_where(
            (self.variant != "paper", ("action_bound",), why),
            (self.variant != "log", ("gamma",), f"{why}; d-linucb discounts"),
        )


@dataclass(frozen=True)
class DLinUCBConfig(LinUCBConfig):
    """A regression that forgets."""

    variant: Literal["textbook", "paper"] = "textbook"
    """`textbook`: λ stays; `paper`, the authors' code: λγ^{-t}, and the action bound L. Their "log" is d-linucb-log."""
    ridge: float | None = None
    """Ridge parameter λ; None: 1."""
    gamma: float = 1 - 1e-4
    """Discount factor γ. Theory: 1 − (B_T/(dT))^{2/3} for a total variation B_T."""

    def unread(self) -> dict[str, str]:
        """Return what the variant leaves without effect, and why: γ is read by both."""
        return {name: why for name, why in super().unread().items() if name != "gamma"}


class LinUCB(LearnerDefaults):
    """Optimism with a regression on every round. One class, three radii."""

    STATEFUL = ("ridge", "uniforms", "beta", "horizon", "lam")

    def __init__(self, config: LinUCBConfig, problem: BanditProblem) -> None:
        self.config, self.horizon = config, require_horizon(config)
        self.table = table_of(problem)
        self.bounds = bounds_of(problem, Bounds._fields if config.variant == "log" else ("theta", "u", "sigma"))
        self.d = self.table.actions.shape[1]
        self.lam = self.regulariser()
        self.ridge = Ridge(self.d, problem.replicates, self.lam, problem.device)
        self.uniforms = replicate_uniforms(problem, "first action")
        self.beta = 0.0

    def choose(self, t: int) -> tuple[Tensor, int]:
        """Return the action of the next round: uniform in the first."""
        self.beta = self.radius(t)
        return (self.optimistic() if t else sample_arm(self.uniforms, len(self.table.actions))), 1

    def regulariser(self) -> float:
        """Return λ for the horizon."""
        return self.config.ridge or (math.log(self.horizon) if self.config.variant == "log" else 1.0)

    def extend(self, horizon: int) -> None:
        """Compute the constants for another horizon; λ of `log` moves with it."""
        self.horizon, before = horizon, self.lam
        self.lam = self.regulariser()
        self.ridge.regularise(self.lam - before)

    def radius(self, t: int) -> float:
        config, bounds = self.config, self.bounds
        if config.variant == "paper":
            return constant_radius(self.horizon, bounds.theta, self.d, self.lam, config.action_bound)
        if config.variant == "textbook":
            return oful_radius(t, bounds, self.d, self.lam, 1 / self.horizon)
        if config.gamma is None:
            return stationary_radius(t, constants(bounds), self.d, bounds.u, self.lam, 1 / self.horizon)
        return misnamed_radius(t, bounds, self.d, self.lam, config.gamma, self.horizon)

    def optimistic(self) -> Tensor:
        mean, squared_width = self.table.values(self.ridge)
        return first_best(mean + self.beta * squared_width.sqrt())

    def observe(self, action: Tensor, last: Tensor, mean: Tensor) -> None:
        """Take in the round."""
        self.ridge.update(self.table.vectors(action), last)

    def greedy(self) -> Tensor:
        """Return the action that the estimate alone ranks first."""
        return first_best(self.table.values(self.ridge)[0])

    def metrics(self) -> dict[str, Tensor]:
        return {"beta": torch.tensor(self.beta)}


class DLinUCB(LearnerDefaults):
    """LinUCB that forgets: V = Σ γ^{t−s} u uᵀ + rI, Ṽ with γ², b with γ; bonus √(uᵀV⁻¹ṼV⁻¹u)·β.

    r = λ in the textbook, λγ^{-t} in the authors' code.
    """

    STATEFUL = ("ridge", "squared", "uniforms", "beta", "t", "horizon")

    def __init__(self, config: DLinUCBConfig, problem: BanditProblem) -> None:
        self.config, self.horizon, self.gamma = config, require_horizon(config), config.gamma
        self.table, self.bounds = table_of(problem), bounds_of(problem, ("theta", "u", "sigma"))
        self.d = self.table.actions.shape[1]
        self.lam = config.ridge or 1.0
        self.ridge = Ridge(self.d, problem.replicates, self.lam, problem.device)
        self.squared = self.ridge.gram.clone()  # Ṽ
        self.identity = torch.eye(self.d, dtype=torch.float64, device=problem.device)[..., None]
        self.uniforms = replicate_uniforms(problem, "first action")
        self.beta, self.t = 0.0, 0

    def regulariser(self) -> float:
        """Return r after t rounds."""
        return self.lam * self.gamma**-self.t if self.config.variant == "paper" else self.lam

    def choose(self, t: int) -> tuple[Tensor, int]:
        """Return the action of the next round: uniform in the first."""
        bound = self.config.action_bound if self.config.variant == "paper" else self.bounds.u
        self.beta = discounted_radius(t, self.bounds, self.d, self.regulariser(), self.gamma, 1 / self.horizon, bound)
        return (self.optimistic() if t else sample_arm(self.uniforms, len(self.table.actions))), 1

    def optimistic(self) -> Tensor:
        factor = cholesky(self.ridge.gram)
        mean, whitened = self.table.whiten(factor, self.ridge.moment)
        inverse = backward(factor, whitened)  # V⁻¹ a
        squared = quadratic_form(self.squared, inverse)
        return first_best(mean + self.beta * squared.clamp(min=0.0).sqrt())

    def observe(self, action: Tensor, last: Tensor, mean: Tensor) -> None:
        """Discount what is known, then take in the round."""
        self.skip(action)
        self.late(action, last, None, 0)

    def skip(self, action: Tensor) -> None:
        """Discount what is known."""
        self.t += 1
        r = self.regulariser()
        for gram, gamma in ((self.ridge.gram, self.gamma), (self.squared, self.gamma**2)):
            gram.mul_(gamma).add_((1 - gamma) * r * self.identity)
        self.ridge.moment.mul_(self.gamma)

    def late(self, action: Tensor, reward: Tensor, memo: Tensor | None, age: int) -> None:
        """Take in a round with the discount that it would have by now."""
        u, weight = self.table.vectors(action), self.gamma**age
        outer = u[:, None] * u
        self.ridge.gram.add_(weight * outer)
        self.squared.add_(weight**2 * outer)
        self.ridge.moment.add_(weight * (u * reward))

    def extend(self, horizon: int) -> None:
        """Compute the constants for another horizon."""
        self.horizon = horizon

    def greedy(self) -> Tensor:
        """Return the action that the estimate alone ranks first."""
        return first_best(self.table.values(self.ridge)[0])

    def metrics(self) -> dict[str, Tensor]:
        return {"beta": torch.tensor(self.beta)}
