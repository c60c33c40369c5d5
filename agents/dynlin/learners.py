"""Small things that the learners of linear bandits share."""

from __future__ import annotations

import torch
from torch import Tensor

from surefoot.agents.dynlin.bandit import BanditConfig, Game
from surefoot.agents.dynlin.bounds import (
    Bounds,
    from_system,
)
from surefoot.agents.dynlin.ridge import ActionTable
from surefoot.agents.parts.random import ReplicateUniforms


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
