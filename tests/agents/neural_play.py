"""Contextual bandits at play, for the tests of the neural bandits."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from surefoot import agents
from surefoot.agents.interface import Setting, Spaces
from surefoot.envs import EnvConfig, make_vec, spaces_of

ID = "surefoot/ContextualBandit-v0"


def make(name: str, *, num_envs: int = 1, seed: int = 0, env: dict[str, Any] | None = None, **changes: Any) -> Any:
    """Return a contextual bandit; by default each of three arms has two features."""
    spec, config = agents.get(name), EnvConfig(ID, num_envs=num_envs, kwargs=env or {"arms": 3, "features": 2})
    setting = Setting(Spaces(*spaces_of(config)), seed, torch.device("cpu"), make_vec(config))
    return spec.make_agent(replace(spec.default, **changes), setting)


def play(agent: Any, rounds: int) -> Any:
    """Return the agent after so many rounds."""
    while agent.regret.t < rounds:
        agent.play()
    return agent
