"""What the learners of linear bandits share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor

from surefoot.agents.dynlin.bandit import BanditConfig, BanditProblem
from surefoot.agents.dynlin.bounds import Bounds, from_given, from_system
from surefoot.agents.dynlin.ridge import ActionTable
from surefoot.agents.parts.random import ReplicateUniforms


def require_horizon(config: BanditConfig) -> int:
    """Return T; `ValueError` where it is missing."""
    if config.horizon is None or config.horizon < 2:
        raise ValueError("--agent.horizon is missing (or below 2): the constants of this bandit are made for T rounds")
    return config.horizon


def table_of(problem: BanditProblem) -> ActionTable:
    """Return the problem's finite set of actions; `ValueError` on a ball."""
    if problem.actions is None:
        raise ValueError("this bandit needs a finite set of actions (or a polytope); only dynlin-ucb plays on a ball")
    return ActionTable(torch.tensor(problem.actions, device=problem.device), problem.replicates)


def largest_action(problem: BanditProblem) -> float:
    """Return Ū = max ‖u‖₂ of the problem's actions."""
    if problem.actions is None:
        assert problem.ball is not None
        return problem.ball
    return float((problem.actions**2).sum(1).max() ** 0.5)


def bounds_of(
    problem: BanditProblem, needs: Sequence[str] = Bounds._fields, given: Mapping[str, float | None] | None = None
) -> Bounds:
    """Return the bounds of the problem's system: the true one's or, of a real system, what is known of it.

    needs: the fields that the learner uses. given: in place of those of the system.
    """
    own = {name: value for name, value in (given or {}).items() if value is not None}
    if problem.system is not None:
        return from_system(problem.system, largest_action(problem), own)
    return from_given({**problem.known, **own}, largest_action(problem), needs)


class LearnerDefaults:
    """What most learners do with rewards that are missing or late, and with a horizon that moves."""

    needs: Literal["last", "mean"] = "last"
    misses = True  # whether it can go on without a reward
    holds_bounds = False  # whether it is DynLin-UCB, whose ρ̄, constants and ridge can be checked and changed

    def memo(self) -> Tensor | None:
        return None

    def skip(self, action: Tensor) -> None:
        """Learn nothing."""

    def late(self, action: Tensor, reward: Tensor, memo: Tensor | None, age: int) -> None:
        """Learn as in time: a sum does not depend on the order of its terms."""
        self.observe(action, reward, reward)

    def observe(self, action: Tensor, last: Tensor, mean: Tensor) -> None:
        raise NotImplementedError

    def note(self, t: int) -> str | None:
        return None

    def extend(self, horizon: int) -> None:
        """Stay: no constant depends on the horizon."""


def replicate_uniforms(problem: BanditProblem, stream: str) -> ReplicateUniforms:
    """Return uniform random numbers, a stream of its own for each replicate."""
    return ReplicateUniforms(problem.seed, stream, problem.replicates, problem.device)


def sample_arm(uniforms: ReplicateUniforms, arms: int) -> Tensor:
    """Return uniformly random arms (N,)."""
    return (uniforms.next() * arms).long()
