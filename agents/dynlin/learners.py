"""What the learners of linear bandits share."""

from __future__ import annotations

import torch
from torch import Tensor

from surefoot.agents.dynlin.bandit import BanditConfig, BanditProblem
from surefoot.agents.dynlin.bounds import (
    Bounds,
    from_system,
)
from surefoot.agents.dynlin.ridge import ActionTable
from surefoot.agents.parts.random import ReplicateUniforms


def require_horizon(config: BanditConfig) -> int:
    """Return T; `ValueError` where it is missing."""
    if config.horizon is None or config.horizon < 2:
        raise ValueError("--agent.horizon is missing (or below 2): the constants of this bandit are made for T rounds")
    return config.horizon


def table_of(problem: BanditProblem) -> ActionTable:
    """Return the problem's finite set of actions; `ValueError` on a ball."""
    if problem.env.actions is None:
        raise ValueError("this bandit needs a finite set of actions (or a polytope); only dynlin-ucb plays on a ball")
    return ActionTable(torch.tensor(problem.env.actions, device=problem.device), problem.env.num_envs)


def bounds_of(problem: BanditProblem) -> Bounds:
    """Return the true system's bounds."""
    return from_system(problem.env.system, float(table_of(problem).actions.square().sum(1).max().sqrt()))


def replicate_uniforms(problem: BanditProblem, stream: str) -> ReplicateUniforms:
    """Return uniform random numbers, a stream of its own for each replicate."""
    return ReplicateUniforms(problem.seed, stream, problem.env.num_envs, problem.device)


def sample_arm(uniforms: ReplicateUniforms, arms: int) -> Tensor:
    """Return uniformly random arms (N,)."""
    return (uniforms.next() * arms).long()
