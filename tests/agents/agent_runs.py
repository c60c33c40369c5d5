"""Agents of every kind at sizes that train in milliseconds, without a run around them, and all that they hold."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import Tensor

from surefoot import agents
from surefoot.agents.interface import Setting, Spaces
from surefoot.envs import EnvConfig, spaces_of
from surefoot.envs.termination import never
from surefoot.offline_data import DataConfig, load_for
from surefoot.training.config.run import RunConfig
from surefoot.training.loop.setup import training_env


def run_config(name: str, data: str, **changes: Any) -> RunConfig[Any]:
    spec = agents.get(name)
    env = dict(spec.tiny_env or {"id": "Pendulum-v1", "max_episode_steps": 15})
    if "horizon" in changes and spec.regret is None:
        env["time_aware"] = True
    return RunConfig(
        agent=dataclasses.replace(spec.default, **{**spec.tiny, **changes}),
        env=EnvConfig(**env),
        uncertainty="pendulum-2" if spec.needs_uncertainty_set else None,
        data=DataConfig(source=data) if spec.needs_data else DataConfig(),
    )


def make(name: str, config: RunConfig[Any], engine: str, seed: int = 0) -> Any:
    spec, spaces = agents.get(name), Spaces(*spaces_of(config.env))
    env, perturbed_envs = training_env(name, spec, config, torch.device("cpu"))
    data = load_for(config.data, *spaces, seed=0) if spec.needs_data else None
    setting = Setting(
        spaces, seed, torch.device("cpu"), env, data, termination=never, perturbed_envs=perturbed_envs, engine=engine
    )
    return spec.make_agent(config.agent, setting)


def tensors(state: Any, where: str = "") -> dict[str, Tensor]:
    """Return the floating-point tensors of a nested state."""
    if isinstance(state, Tensor):
        return {where: state.clone()} if state.is_floating_point() else {}
    children = state.items() if isinstance(state, dict) else enumerate(state) if isinstance(state, list | tuple) else ()
    found: dict[str, Tensor] = {}
    for key, child in children:
        found |= tensors(child, f"{where}.{key}")
    return found
