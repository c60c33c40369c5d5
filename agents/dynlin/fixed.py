"""Policies that do not learn: a constant action, the best one, the human experts' budget, uniformly random ones.

docs/derivations/dynlin.md §10.7.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from surefoot.agents.dynlin.bandit import BanditConfig, BanditProblem
from surefoot.agents.dynlin.learners import LearnerDefaults, replicate_uniforms, sample_arm, table_of
from surefoot.agents.parts.ranges import AT_LEAST_1, POSITIVE, check_ranges


@dataclass(frozen=True)
class FixedConfig(BanditConfig):
    """A policy that does not learn."""

    def __post_init__(self) -> None:
        rules = {"rounds_per_step": AT_LEAST_1, "daily_budget": POSITIVE}
        check_ranges(self, rules | {"budgets": (lambda x: len(x) > 0 and min(x) > 0, "one or more positive numbers")})

    @property
    def needs_horizon(self) -> bool:
        return False


@dataclass(frozen=True)
class HumanBudgetConfig(FixedConfig):
    """The human experts' budget allocation."""

    budgets: tuple[float, ...] = (1_641_952.0, 259_591_273.0, 716_354_611.0)
    """Budget that the human experts spent on each campaign (docs/derivations/dynlin.md §8)."""
    daily_budget: float = 1.5
    """Sum of the components of an action; each is at most 1."""


def human_budget_action(budgets: tuple[float, ...], daily_budget: float) -> np.ndarray:
    """Return the action (d,): fractions clipped at 1/budget, the others rescaled to fill up, times the budget.

    What rescaling lifts above the bound is clipped in its turn, so that no component exceeds 1.
    """
    fractions = np.array(budgets) / sum(budgets)
    clipped = np.zeros(len(fractions), bool)
    while not clipped.all() and (fractions[~clipped] > 1 / daily_budget).any():
        clipped |= fractions > 1 / daily_budget
        fractions[clipped] = 1 / daily_budget
        fractions[~clipped] *= (1 - fractions[clipped].sum()) / fractions[~clipped].sum() if not clipped.all() else 1
    return fractions * daily_budget


class Constant(LearnerDefaults):
    """One action forever."""

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


def make_human_budget(config: HumanBudgetConfig, problem: BanditProblem) -> Constant:
    """Return the learner that always plays `human_budget_action`; it needs no row of the table."""
    d = problem.d
    if len(config.budgets) != d:
        raise ValueError(f"--agent.budgets names {len(config.budgets)} campaigns, but actions have {d} components")
    action = torch.tensor(human_budget_action(config.budgets, config.daily_budget), device=problem.device)
    return Constant(action.expand(problem.replicates, d).contiguous())


def make_oracle(config: FixedConfig, problem: BanditProblem) -> Constant:
    """Return the learner that plays argmax J, computed from the true system: its pseudo-regret is 0."""
    if problem.h is None:
        raise ValueError("oracle computes the best action from the true system, which only a simulator has")
    value = table_of(problem).actions @ torch.tensor(problem.h, device=problem.device)
    return Constant(torch.full((problem.replicates,), int(value.argmax()), device=problem.device))


class Uniform(LearnerDefaults):
    """A uniformly random action every round."""

    STATEFUL = ("uniforms",)

    def __init__(self, config: FixedConfig, problem: BanditProblem) -> None:
        self.uniforms, self.arms = replicate_uniforms(problem, "arms"), len(table_of(problem).actions)

    def choose(self, t: int) -> tuple[Tensor, int]:
        return sample_arm(self.uniforms, self.arms), 1

    def observe(self, action: Tensor, last: Tensor, mean: Tensor) -> None:
        """Learn nothing."""

    def greedy(self) -> Tensor:
        """Return action 0: all are believed to be equal."""
        return torch.zeros_like(self.uniforms.keys)

    def metrics(self) -> dict[str, Tensor]:
        return {}
