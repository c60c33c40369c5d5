"""What learns nothing: one action for ever, the best one, the human experts' budget, a uniform draw."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from surefoot.agents.dynlin.bandit import BanditConfig, Game
from surefoot.agents.dynlin.learners import die, table_of, throw
from surefoot.agents.parts.ranges import AT_LEAST_1, check_ranges


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
