"""What DynLin-UCB is compared with: linear, adversarial and auto-regressive bandits, and three that learn nothing.

Settings and traps: brief dynamical_linear_bandits.md, section 9. Papers: LinUCB/OFUL (Abbasi-Yadkori et al. 2011),
D-LinUCB (Russac, Vernade, Cappé, arXiv 1909.09146), Exp3 (Auer et al. 2002), AR2 (Chen, Golrezaei, Bouneffouf,
NeurIPS 2023).

| agent | bonus or rule | here |
|---|---|---|
| linucb | OFUL: Θ√λ + σ√(2 ln(1/δ) + d ln(1 + tŪ²/(dλ))) | `oful_radius` |
| linucb-paper | the authors' "1": no σ, constant in t, L = 1.5 | `constant_radius` |
| linucb-log | the authors' "log": DynLin-UCB without epochs and without c₁ | `parts.oracle.stationary_radius` |
| d-linucb, -paper | discounted OFUL; "-paper" has λγ^{-t} for λ and L = 1.5 | `discounted_radius` |
| d-linucb-log | the authors' "log": LinUCB-log with another bonus; it discounts nothing | `misnamed_radius` |
| exp3, batch-exp3 | exponential weights; actions held for k rounds | `exp3_rate`, `batch_length` |
| batch-exp3-paper | the authors' slip: updated after 2 rounds, with rewards of the batch before | `BatchExp3Paper` |
| ar2 | arm-wise AR(1) estimates; triggered arms are never released, as in the authors' code | `AR2` |
| expert, clairvoyant, uniform | a fixed split of the budget; argmax J; a fair die | `make_expert`, … |
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from surefoot.agents.interface import AgentSpec
from surefoot.agents.parts.bandit import Bandit, BanditConfig, Game, make_constant_policy
from surefoot.agents.parts.oracle import (
    Bounds,
    constants,
    epochs_within,
    from_system,
    spectral_radius,
    stationary_radius,
)
from surefoot.agents.parts.random import ReplicateUniforms
from surefoot.agents.parts.ranges import AT_LEAST_1, POSITIVE, check_ranges, optional
from surefoot.agents.parts.ridge import ActionTable, Ridge, backward, cholesky, first_best, quadratic_form, total
from surefoot.agents.parts.state import pack, unpack

# --- the radii -------------------------------------------------------------------------------------------------------


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
    told = constants(bounds)
    log_det = 0.5 * d * math.log1p(t * bounds.u**2 / (d * lam) * discounted_sum(t, gamma))
    return told.c2 * math.sqrt(lam) + math.sqrt(2 * told.sigma2 * (math.log(horizon) + log_det))


# --- shared by the learners ------------------------------------------------------------------------------------------


def require_horizon(config: BanditConfig) -> int:
    """Return T; `ValueError` where it is missing."""
    if config.horizon is None or config.horizon < 2:
        raise ValueError("agent.horizon is missing (or below 2): the constants of this bandit are made for T rounds")
    return config.horizon


def table_of(game: Game) -> ActionTable:
    """Return the game's finite set of actions; `ValueError` on a ball."""
    if game.env.actions is None:
        raise ValueError("this bandit needs a finite set of actions (or a polytope); only dynlin-ucb plays on a ball")
    return ActionTable(torch.tensor(game.env.actions, device=game.device), game.env.num_envs)


def bounds_of(game: Game) -> Bounds:
    """Return the true system's bounds."""
    return from_system(game.env.system, float(table_of(game).actions.square().sum(1).max().sqrt()))


def die(game: Game, stream: str) -> ReplicateUniforms:
    return ReplicateUniforms(game.seed, stream, game.env.num_envs, game.device)


def throw(uniforms: ReplicateUniforms, sides: int) -> Tensor:
    """Return a uniform arm (N,)."""
    return (uniforms.next() * sides).long()


# --- linear bandits --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class LinUCBConfig(BanditConfig):
    """A regression of every round's reward on its action."""

    variant: Literal["textbook", "paper", "log"] = "textbook"
    """OFUL; or the authors' two variants, "paper" (theirs with λ = 1) and "log" (DynLin-UCB's c₂, σ̃ and λ = ln T)."""
    lam: float | None = None
    """λ; None: 1, or ln T for "log"."""
    action_bound: float = 1.5
    """L of "paper": the daily budget."""
    gamma: float | None = None
    """Discount γ of D-LinUCB; None for LinUCB. Theory: 1 − (B_T/(dT))^{2/3} for a total variation B_T."""

    def __post_init__(self) -> None:
        rules = {"rounds_per_step": AT_LEAST_1, "action_bound": POSITIVE}
        rules |= {"lam": optional(POSITIVE)}
        check_ranges(self, rules | {"gamma": optional((lambda x: 0 < x < 1, "in (0, 1)"))})


class LinUCB:
    """Optimism with a regression on every round. One class, three radii."""

    STATEFUL = ("ridge", "uniforms", "beta")

    def __init__(self, config: LinUCBConfig, game: Game) -> None:
        self.config, self.horizon = config, require_horizon(config)
        self.table, self.bounds = table_of(game), bounds_of(game)
        self.d = self.table.actions.shape[1]
        self.lam = config.lam or (math.log(self.horizon) if config.variant == "log" else 1.0)
        self.ridge = Ridge(self.d, game.env.num_envs, self.lam, game.device)
        self.uniforms = die(game, "first action")
        self.beta = 0.0

    def choose(self, t: int) -> tuple[Tensor, int]:
        """Return the action of the next round: uniform in the first."""
        self.beta = self.radius(t)
        return (self.optimistic() if t else throw(self.uniforms, len(self.table.actions))), 1

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


class DLinUCB:
    """LinUCB that forgets: V = Σ γ^{t−s} u uᵀ + rI, Ṽ with γ², b with γ; bonus √(uᵀV⁻¹ṼV⁻¹u)·β.

    r = λ in the textbook, λγ^{-t} in the authors' code.
    """

    STATEFUL = ("ridge", "squared", "uniforms", "beta", "t")

    def __init__(self, config: LinUCBConfig, game: Game) -> None:
        self.config, self.horizon = config, require_horizon(config)
        self.gamma = 1 - 1e-4 if config.gamma is None else config.gamma
        self.table, self.bounds = table_of(game), bounds_of(game)
        self.d = self.table.actions.shape[1]
        self.lam = config.lam or 1.0
        self.ridge = Ridge(self.d, game.env.num_envs, self.lam, game.device)
        self.squared = self.ridge.gram.clone()  # Ṽ
        self.identity = torch.eye(self.d, dtype=torch.float64, device=game.device)[..., None]
        self.uniforms = die(game, "first action")
        self.beta, self.t = 0.0, 0

    def regulariser(self) -> float:
        """Return r after t rounds."""
        return self.lam * self.gamma**-self.t if self.config.variant == "paper" else self.lam

    def choose(self, t: int) -> tuple[Tensor, int]:
        """Return the action of the next round: uniform in the first."""
        bound = self.config.action_bound if self.config.variant == "paper" else self.bounds.u
        self.beta = discounted_radius(t, self.bounds, self.d, self.regulariser(), self.gamma, 1 / self.horizon, bound)
        return (self.optimistic() if t else throw(self.uniforms, len(self.table.actions))), 1

    def optimistic(self) -> Tensor:
        factor = cholesky(self.ridge.gram)
        mean, whitened = self.table.whiten(factor, self.ridge.moment)
        inverse = backward(factor, whitened)  # V⁻¹ a
        squared = quadratic_form(self.squared, inverse)
        return first_best(mean + self.beta * squared.clamp(min=0.0).sqrt())

    def observe(self, action: Tensor, last: Tensor, mean: Tensor) -> None:
        """Discount what is known, then take in the round."""
        self.t += 1
        u, r = self.table.vectors(action), self.regulariser()
        outer = u[:, None] * u
        for gram, gamma in ((self.ridge.gram, self.gamma), (self.squared, self.gamma**2)):
            gram.mul_(gamma).add_((1 - gamma) * r * self.identity).add_(outer)
        self.ridge.moment.mul_(self.gamma).add_(u * last)

    def greedy(self) -> Tensor:
        """Return the action that the estimate alone ranks first."""
        return first_best(self.table.values(self.ridge)[0])

    def metrics(self) -> dict[str, Tensor]:
        return {"beta": torch.tensor(self.beta)}


# --- adversarial bandits ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Exp3Config(BanditConfig):
    """Exponential weights."""

    hold: int | None = None
    """Rounds k an action is held; None: ⌈ln M_T / ln(1/ρ)⌉ for the batched agents, M_T epochs of DynLin-UCB."""

    def __post_init__(self) -> None:
        check_ranges(self, {"rounds_per_step": AT_LEAST_1, "hold": optional(AT_LEAST_1)})


def exp3_rate(arms: int, rounds: float) -> float:
    """Return γ = min(1, √(K ln K / ((e − 1)·(2/3)·T)))."""
    return min(1.0, math.sqrt(arms * math.log(arms) / ((math.e - 1) * 2 / 3 * rounds)))


def reward_bound(bounds: Bounds) -> float:
    """Return M = (Θ + ΩB̄/(1 − ρ))Ū, by which rewards are scaled."""
    return (bounds.theta + bounds.omega * bounds.b / (1 - bounds.rho)) * bounds.u


def batch_length(horizon: int, rho: float) -> int:
    """Return k = ⌈ln M_T / ln(1/ρ)⌉, at least 1."""
    return 1 if rho == 0.0 else max(1, math.ceil(math.log(epochs_within(horizon, rho)) / math.log(1 / rho)))


def arm_probabilities(gains: Tensor, gamma: float) -> Tensor:
    """Return (1 − γ)·softmax(γG/K) + γ/K (K, N); the largest gain is taken off first, which the authors do not."""
    arms = len(gains)
    weights = (gamma / arms * (gains - gains.max(0).values)).exp()
    return (1 - gamma) * weights / total(weights.unbind()) + gamma / arms


class Exp3:
    """Exponential weights; an action is held for `length` rounds and updated with their mean reward."""

    STATEFUL = ("gains", "probabilities", "uniforms")

    def __init__(self, config: Exp3Config, game: Game, *, length: int = 1) -> None:
        self.length = length
        self.bound, self.arms = reward_bound(bounds_of(game)), len(table_of(game).actions)
        self.gamma = exp3_rate(self.arms, require_horizon(config) / length)
        self.gains = torch.zeros(self.arms, game.env.num_envs, dtype=torch.float64, device=game.device)
        self.probabilities = arm_probabilities(self.gains, self.gamma)
        self.uniforms = die(game, "arms")

    def choose(self, t: int) -> tuple[Tensor, int]:
        """Return arms drawn from the probabilities, for `length` rounds."""
        return self.draw(), self.length

    def draw(self) -> Tensor:
        cumulative = self.probabilities.cumsum(0)  # (K, N)
        return (self.uniforms.next() * cumulative[-1] >= cumulative[:-1]).sum(0)

    def observe(self, action: Tensor, last: Tensor, mean: Tensor) -> None:
        """Add r/p to the gain of the arm held, r = (mean + 2M)/(4M)."""
        scaled = (mean + 2 * self.bound) / (4 * self.bound)
        arm = action[None]
        self.gains.scatter_add_(0, arm, scaled / self.probabilities.gather(0, arm))
        self.probabilities = arm_probabilities(self.gains, self.gamma)

    def greedy(self) -> Tensor:
        """Return the most probable arm."""
        return first_best(self.probabilities)

    def metrics(self) -> dict[str, Tensor]:
        return {"best_probability": self.probabilities.amax(0)}

    def state_dict(self) -> dict[str, Any]:
        return pack(self, self.STATEFUL)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        unpack(self, self.STATEFUL, state)


def make_batch_exp3(config: Exp3Config, game: Game) -> Exp3:
    """Return Exp3 with held actions: one update at the end of each batch, with its own rewards."""
    return Exp3(config, game, length=held_rounds(config, game))


def held_rounds(config: Exp3Config, game: Game) -> int:
    return config.hold or batch_length(require_horizon(config), spectral_radius(game.env.system.A))


class BatchExp3Paper:
    """The authors' Batch-Exp3: the update comes after the 2nd round of a batch, with the last k rewards.

    All but two of those belong to the batch before, whose action may have been another; at the very first update there
    are two rewards, and they are divided by k.
    """

    STATEFUL = ("weights", "recent", "arm", "played")

    def __init__(self, config: Exp3Config, game: Game) -> None:
        self.length = held_rounds(config, game)
        self.weights = Exp3(config, game, length=self.length)
        shape = self.length, game.env.num_envs
        self.recent = torch.zeros(shape, dtype=torch.float64, device=game.device)  # ring of the last k rewards
        self.arm = torch.zeros(game.env.num_envs, dtype=torch.int64, device=game.device)
        self.played = 0

    def choose(self, t: int) -> tuple[Tensor, int]:
        """Return the batch's arm for one more round."""
        if self.played % self.length == 0:
            self.arm = self.weights.draw()
        return self.arm, 1

    def observe(self, action: Tensor, last: Tensor, mean: Tensor) -> None:
        """Keep the reward; after a batch's second round, update."""
        self.recent[self.played % self.length] = last
        self.played += 1
        if self.played % self.length == min(2, self.length) % self.length:
            self.weights.observe(action, last, total(self.recent.unbind()) / self.length)

    def greedy(self) -> Tensor:
        return self.weights.greedy()

    def metrics(self) -> dict[str, Tensor]:
        return self.weights.metrics()


# --- auto-regressive arms --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class AR2Config(BanditConfig):
    """Arms with AR(1) rewards."""

    def __post_init__(self) -> None:
        check_ranges(self, {"rounds_per_step": AT_LEAST_1})


class AR2:
    """Alternate between the better of the last two arms and the arm that was triggered first.

    An arm is triggered once its reward may have drifted above the superior one's. As in the authors' code a triggered
    arm is never released, so the odd rounds draw from the arms that were triggered first.
    """

    STATEFUL = ("estimates", "drift", "triggered", "recent", "uniforms", "t")

    def __init__(self, config: AR2Config, game: Game) -> None:
        bounds, arms, replicates = bounds_of(game), len(table_of(game).actions), game.env.num_envs
        alpha, sigma = bounds.rho, bounds.sigma
        if alpha == 0.0 or sigma == 0.0:
            raise ValueError(f"AR2 divides by the spectral radius {alpha:g} and the noise {sigma:g}; both must be > 0")
        self.alpha, self.arms = alpha, arms
        self.epoch = math.ceil(arms * alpha**-3 * sigma**-3)
        c0 = math.sqrt(4 * math.log(1 / (alpha * sigma)) + 4 * math.log(self.epoch) + 2 * math.log(4 * arms))
        self.threshold = 24 * c0 * sigma
        like = {"dtype": torch.float64, "device": game.device}
        self.estimates = torch.zeros(arms, replicates, **like)  # type: ignore[call-overload]
        self.drift = torch.full((arms, replicates), alpha**2, **like)  # type: ignore[call-overload]  # α^{2(t − τ + 1)}
        self.triggered = torch.full((arms, replicates), math.inf, **like)  # type: ignore[call-overload]  # round
        self.recent = torch.zeros(2, replicates, dtype=torch.int64, device=game.device)  # arms, the last one first
        self.rows = torch.arange(arms, device=game.device)[:, None]
        self.uniforms = die(game, "ties")
        self.t = 0

    def choose(self, t: int) -> tuple[Tensor, int]:
        """Return the arm of the next round: each once at the start of an epoch, in reverse order, then by turns."""
        place = self.t % self.epoch
        if place < self.arms:
            return torch.full_like(self.recent[0], self.arms - 1 - place), 1
        superior, value = self.superior()
        width = ((self.alpha**2 - self.drift).clamp(min=0.0) / (1 - self.alpha**2)).sqrt()
        due = (value - self.estimates <= self.threshold * width) & (self.rows != superior)
        self.triggered = torch.where(due, self.triggered.clamp(max=float(self.t)), self.triggered)
        return (superior if self.t % 2 else self.earliest(superior)), 1

    def superior(self) -> tuple[Tensor, Tensor]:
        """Return the better-estimated of the last two arms and its estimate, both (N,)."""
        last, previous = self.estimates.gather(0, self.recent)
        return torch.where(last >= previous, self.recent[0], self.recent[1]), torch.maximum(last, previous)

    def earliest(self, otherwise: Tensor) -> Tensor:
        """Return the arm that was triggered first, drawn among equals; `otherwise` where none was."""
        first = self.triggered.amin(0)
        candidates = (self.triggered == first).long().cumsum(0)  # 1, 2, … at the candidates
        wanted = (self.uniforms.next() * candidates[-1]).long()
        chosen = (candidates <= wanted).sum(0)
        return torch.where(first.isfinite(), chosen, otherwise)

    def observe(self, action: Tensor, last: Tensor, mean: Tensor) -> None:
        """Decay every estimate by α; that of the arm played is α·y."""
        self.estimates = (self.alpha * self.estimates).scatter(0, action[None], self.alpha * last[None])
        started = self.drift * self.alpha**2
        self.drift = started.scatter(0, action[None], torch.full_like(last[None], self.alpha**4))
        self.recent = torch.stack([action, self.recent[0]])
        self.t += 1

    def greedy(self) -> Tensor:
        """Return the better of the last two arms."""
        return self.superior()[0]

    def metrics(self) -> dict[str, Tensor]:
        return {"triggered": self.triggered.isfinite().double().sum(0)}


# --- those that learn nothing ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class FixedConfig(BanditConfig):
    """A rule that does not learn."""

    def __post_init__(self) -> None:
        check_ranges(self, {"rounds_per_step": AT_LEAST_1})


@dataclass(frozen=True)
class ExpertConfig(FixedConfig):
    """The advertiser's own split."""

    budgets: tuple[float, ...] = (1_641_952.0, 259_591_273.0, 716_354_611.0)
    """What the human experts spent on each campaign (brief, section 7.2)."""
    daily_budget: float = 1.5
    """Sum of an action's components; each is at most 1."""


def expert_action(budgets: tuple[float, ...], daily_budget: float) -> np.ndarray:
    """Return the action (d,): fractions clipped at 1/budget, the others rescaled to fill up, times the budget."""
    fractions = np.array(budgets) / sum(budgets)
    clipped = fractions > 1 / daily_budget
    fractions[clipped] = 1 / daily_budget
    fractions[~clipped] *= (1 - fractions[clipped].sum()) / fractions[~clipped].sum()
    return fractions * daily_budget


class Constant:
    """One action for ever."""

    STATEFUL: tuple[str, ...] = ()

    def __init__(self, action: Tensor) -> None:
        self.action = action  # (N,) or (N, d)

    def choose(self, t: int) -> tuple[Tensor, int]:
        return self.action, 1

    def observe(self, action: Tensor, last: Tensor, mean: Tensor) -> None:
        """Learn nothing."""

    def greedy(self) -> Tensor:
        return self.action

    def metrics(self) -> dict[str, Tensor]:
        return {}


def make_expert(config: ExpertConfig, game: Game) -> Constant:
    """Return the learner that always plays `expert_action`; it needs no row of the table."""
    d = game.env.system.B.shape[1]
    if len(config.budgets) != d:
        raise ValueError(f"agent.budgets names {len(config.budgets)} campaigns, but actions have {d} components")
    action = torch.tensor(expert_action(config.budgets, config.daily_budget), device=game.device)
    return Constant(action.expand(game.env.num_envs, d).contiguous())


def make_clairvoyant(config: FixedConfig, game: Game) -> Constant:
    """Return the learner that plays argmax J, which it is told: its pseudo-regret is 0."""
    value = table_of(game).actions @ torch.tensor(game.env.h, device=game.device)
    return Constant(torch.full((game.env.num_envs,), int(value.argmax()), device=game.device))


class Uniform:
    """A fair die every round."""

    STATEFUL = ("uniforms",)

    def __init__(self, config: FixedConfig, game: Game) -> None:
        self.uniforms, self.arms = die(game, "arms"), len(table_of(game).actions)

    def choose(self, t: int) -> tuple[Tensor, int]:
        return throw(self.uniforms, self.arms), 1

    def observe(self, action: Tensor, last: Tensor, mean: Tensor) -> None:
        """Learn nothing."""

    def greedy(self) -> Tensor:
        """Return action 0: all are believed to be equal."""
        return torch.zeros_like(self.uniforms.keys)

    def metrics(self) -> dict[str, Tensor]:
        return {}


def spec(config: BanditConfig, make_learner: Callable[[Any, Game], Any], summary: str) -> AgentSpec:
    return AgentSpec(config, partial(Bandit, make_learner), make_constant_policy, summary, regret="round")


LINUCB_SPEC = spec(LinUCBConfig(), LinUCB, "linear UCB (OFUL) on every round's reward")
LINUCB_PAPER_SPEC = spec(LinUCBConfig(variant="paper"), LinUCB, "linear UCB with the authors' constants and λ = 1")
LINUCB_LOG_SPEC = spec(LinUCBConfig(variant="log"), LinUCB, "linear UCB with DynLin-UCB's c₂ and σ̃, λ = ln T")
D_LINUCB_SPEC = spec(LinUCBConfig(gamma=1 - 1e-4), DLinUCB, "discounted linear UCB (arXiv 1909.09146)")
D_LINUCB_PAPER_SPEC = spec(
    LinUCBConfig(variant="paper", gamma=1 - 1e-9),
    DLinUCB,
    "discounted linear UCB with the authors' constants",
)
D_LINUCB_LOG_SPEC = spec(
    LinUCBConfig(variant="log", gamma=0.999999), LinUCB, 'the authors\' D-LinUCB "log", which discounts nothing'
)
EXP3_SPEC = spec(Exp3Config(), Exp3, "exponential weights over the actions")
BATCH_EXP3_SPEC = spec(Exp3Config(), make_batch_exp3, "Exp3 with held actions, updated at the end of each batch")
BATCH_EXP3_PAPER_SPEC = spec(Exp3Config(), BatchExp3Paper, "Exp3 with held actions and the authors' indexing slip")
AR2_SPEC = spec(AR2Config(), AR2, "auto-regressive arms with triggers (NeurIPS 2023)")
EXPERT_SPEC = spec(ExpertConfig(), make_expert, "the human experts' split of the budget")
CLAIRVOYANT_SPEC = spec(FixedConfig(), make_clairvoyant, "the best constant action, known beforehand")
UNIFORM_SPEC = spec(FixedConfig(), Uniform, "a fair die every round")
