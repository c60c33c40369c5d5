"""Bandits at play, for the tests of DynLin-UCB and its baselines."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from surefoot import agents
from surefoot.agents.interface import Setting, Spaces
from surefoot.envs import EnvConfig, make_vec, spaces_of

ID = "surefoot/DynamicalLinear-v0"
BANDITS = [name for name in agents.REGISTRY if not name.startswith("sb3-") and agents.get(name).regret == "round"]
NAMES = [name for name in BANDITS if agents.get(name).tiny_env["id"] == ID]  # the linear ones


def make(name: str, *, num_envs: int = 1, seed: int = 0, env: dict[str, Any] | None = None, **changes: Any) -> Any:
    """Return a bandit, on S1 unless `env` names another."""
    spec, config = agents.get(name), EnvConfig(ID, num_envs=num_envs, kwargs=env or {"system": "s1"})
    setting = Setting(Spaces(*spaces_of(config)), seed, torch.device("cpu"), make_vec(config))
    return spec.make_agent(replace(spec.default, **changes), setting)


def play(agent: Any, rounds: int) -> Any:
    """Return the agent after so many rounds (or the end of the step that passes them)."""
    while agent.regret.t < rounds:
        agent.step()
    return agent


def regret(name: str, rounds: int, num_envs: int = 20, **rest: Any) -> torch.Tensor:
    """Return the pseudo-regret (N,) of a bandit after its horizon."""
    return play(make(name, num_envs=num_envs, horizon=rounds, rounds_per_step=1000, **rest), rounds).regret.total
