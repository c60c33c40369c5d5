"""Exp3 and Batch-Exp3 on a finite set of actions (docs/derivations/dynlin.md §10.5)."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor

from surefoot.agents.dynlin.bandit import BanditConfig, BanditProblem
from surefoot.agents.dynlin.bounds import Bounds, epochs_within
from surefoot.agents.dynlin.learners import (
    LearnerDefaults,
    bounds_of,
    replicate_uniforms,
    require_horizon,
    table_of,
)
from surefoot.agents.dynlin.ridge import first_best, total
from surefoot.agents.parts.ranges import AT_LEAST_1, check_ranges, optional
from surefoot.agents.parts.state import pack, unpack


@dataclass(frozen=True)
class Exp3Config(BanditConfig):
    """Exponential weights."""

    repeat: int | None = None
    """Rounds per batch (k) of the batched agents: how often an action is repeated. None: ⌈ln M_T / ln(1/ρ)⌉, with M_T
    epochs of DynLin-UCB."""

    def __post_init__(self) -> None:
        check_ranges(self, {"rounds_per_step": AT_LEAST_1, "repeat": optional(AT_LEAST_1)})

    def unread(self) -> dict[str, str]:
        """Return what is left without effect where no action is repeated, and why."""
        return super().unread() | {"repeat": "on exp3, which repeats no action; batch-exp3 does"}


@dataclass(frozen=True)
class BatchExp3Config(Exp3Config):
    """Exponential weights with repeated actions."""

    def unread(self) -> dict[str, str]:
        """Return what is left without effect, and why: a batch has a length."""
        return BanditConfig.unread(self)


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


class Exp3(LearnerDefaults):
    """Exponential weights; an action is repeated for `length` rounds and updated with their mean reward."""

    STATEFUL = ("gains", "probabilities", "chance", "uniforms", "gamma", "length")
    needs: Literal["last", "mean"] = "mean"

    def __init__(self, config: Exp3Config, problem: BanditProblem, *, batched: bool = False) -> None:
        horizon = require_horizon(config)
        self.batched: Callable[[int], int] = partial(rounds_per_batch, config, problem) if batched else lambda _: 1
        self.length = self.batched(horizon)
        needs = ("rho", "theta", "omega", "b", "u")
        self.bound, self.arms = reward_bound(bounds_of(problem, needs)), len(table_of(problem).actions)
        self.gamma = exp3_rate(self.arms, horizon / self.length)
        self.gains = torch.zeros(self.arms, problem.replicates, dtype=torch.float64, device=problem.device)
        self.probabilities = arm_probabilities(self.gains, self.gamma)
        self.chance = self.probabilities[0].clone()  # (N,) that the arms under way were drawn with
        self.uniforms = replicate_uniforms(problem, "arms")

    def choose(self, t: int) -> tuple[Tensor, int]:
        """Return arms drawn from the probabilities, for `length` rounds."""
        return self.draw(), self.length

    def draw(self) -> Tensor:
        cumulative = self.probabilities.cumsum(0)  # (K, N)
        arm = (self.uniforms.next() * cumulative[-1] >= cumulative[:-1]).sum(0)
        self.chance = self.probabilities.gather(0, arm[None])[0]  # late rewards of others may move it before this one's
        return arm

    def observe(self, action: Tensor, last: Tensor, mean: Tensor) -> None:
        """Add r/p to the gain of the arm drawn last, r = (mean + 2M)/(4M)."""
        self.late(action, mean, self.chance, 0)

    def memo(self) -> Tensor:
        """Return the probability p of the arm, at the time of its choice."""
        return self.chance.clone()

    def late(self, action: Tensor, reward: Tensor, memo: Tensor | None, age: int) -> None:
        """Add r/p with the p that the arm was drawn with."""
        assert memo is not None
        scaled = (reward + 2 * self.bound) / (4 * self.bound)
        self.gains.scatter_add_(0, action[None], (scaled / memo)[None])
        self.probabilities = arm_probabilities(self.gains, self.gamma)

    def extend(self, horizon: int) -> None:
        """Compute batches and rate for another horizon; the gains stay, as where the rate falls from round to round."""
        self.length = self.batched(horizon)
        self.gamma = exp3_rate(self.arms, horizon / self.length)
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


def make_batch_exp3(config: BatchExp3Config, problem: BanditProblem) -> Exp3:
    """Return Exp3 with repeated actions: one update at the end of each batch, with its own rewards."""
    return Exp3(config, problem, batched=True)


def rounds_per_batch(config: Exp3Config, problem: BanditProblem, horizon: int) -> int:
    return config.repeat or batch_length(horizon, bounds_of(problem, ("rho",)).rho)


class BatchExp3Paper(LearnerDefaults):
    """The authors' Batch-Exp3: the update comes after the 2nd round of a batch, with the last k rewards.

    All but two of those belong to the batch before, whose action may have been another; at the very first update there
    are two rewards, and they are divided by k.
    """

    STATEFUL = ("weights", "recent", "arm", "played")
    misses = False

    def __init__(self, config: BatchExp3Config, problem: BanditProblem) -> None:
        if config.doubling:
            raise ValueError("batch-exp3-paper needs a horizon: its batches cannot change; take batch-exp3")
        self.weights = Exp3(config, problem, batched=True)
        self.length = self.weights.length
        shape = self.length, problem.replicates
        self.recent = torch.zeros(shape, dtype=torch.float64, device=problem.device)  # ring of the last k rewards
        self.arm = torch.zeros(problem.replicates, dtype=torch.int64, device=problem.device)
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

    def skip(self, action: Tensor) -> None:
        raise ValueError("batch-exp3-paper mixes rewards of two batches and cannot do without one; take batch-exp3")

    def greedy(self) -> Tensor:
        return self.weights.greedy()

    def metrics(self) -> dict[str, Tensor]:
        return self.weights.metrics()
