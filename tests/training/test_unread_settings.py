"""Settings of a run that are said to be read by nothing are read by nothing; the others have been looked at."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from sameness import rows

from surefoot import agents
from surefoot.configs.casting import flattened, nested, overlay, plain
from surefoot.envs import EnvConfig
from surefoot.evaluation.policy_files import load_policy
from surefoot.training.config.presets import default_config
from surefoot.training.config.run import RunConfig
from surefoot.training.config.unread import unread_of
from surefoot.training.loop.setup import training_env
from surefoot.training.session import train

INSTALLED = sorted(name for name in agents.REGISTRY if name not in agents.REFERENCES)
OTHER = {  # than the defaults
    "data.fraction": 0.5,
    "data.view": "qlearning",
    "data.max_episode_steps": 40,  # as in the file that some read all the same
    "data.clip_actions": True,
    "env.num_envs": 2,
    "env.termination": "surefoot.envs.termination:inverted_pendulum",  # another task's: whoever asks it is refused
    "env.physics.gravity": 2.0,
    "env.physics.action_noise": 1.0,
    "env.physics.parameters": ["control_delay=2"],
    "eval.every": 11,
    "eval.episodes": 3,
    "eval.seed": 7,
    "eval.worlds": 5,
    "eval.grid_closed": True,
    "eval.objective_episodes": 9,
    "resume_episodes": "fresh",
}
OF_MUJOCO = {  # refused in the tasks of the tiny runs
    **{"env.backend": "warp", "env.nconmax": 9, "env.njmax": 9},
    **{"env.physics.friction": 0.5, "env.physics.mass": 2.0, "env.physics.damping": 2.0},
}
# Every run reads these: its task, its budget, where it runs, what it writes, how it is evaluated.
READ = {"env.id", "env.vectorization", "env.max_episode_steps", "env.action_repeat", "env.time_aware", "env.flatten"}
READ |= {"env.action_bound", "env.kwargs", "uncertainty", "eval.objectives", "eval.grid", "eval.patience"}
READ |= {"steps", "seed", "num_seeds", "device", "threads", "logger", "log_every", "checkpoint_every"}
READ |= {"keep_checkpoints", "keep_finished", "engine", "precision", "compile", "cudagraph", "baselines"}


def changed(config: RunConfig[Any], values: dict[str, Any]) -> RunConfig[Any]:
    return overlay(config, nested(values), "test")


def settings(name: str, config: RunConfig[Any]) -> set[str]:
    """Return what nothing reads, but for the agent's own, which have a test of theirs."""
    return {key for key in unread_of(name, config) if not key.startswith("agent.")}


def test_every_setting_of_a_run_is_read_by_all_or_has_been_looked_at():
    every = {key for key in flattened(plain(default_config("sac"))) if not key.startswith("agent.")}
    sometimes = {*OTHER, *OF_MUJOCO, "data.source"}
    assert set().union(*(settings(name, default_config(name)) for name in agents.REGISTRY)) <= sometimes
    always = {key for key in every - sometimes if key.startswith("eval.physics.")} | READ
    assert every == sometimes | always


@pytest.mark.parametrize("name", INSTALLED)
def test_what_is_said_to_have_no_effect_has_none(name, config_of, data_file, tmp_path):
    config = config_of(name)
    idle = settings(name, config) - OF_MUJOCO.keys()
    assert idle >= {"eval.grid_closed", "eval.objective_episodes"}
    values = {key: str(data_file) if key == "data.source" else OTHER[key] for key in idle}
    if agents.get(name).tiny_env:  # data of another task would be refused
        values.pop("data.source", None)
    folders = [train(name, run, out=tmp_path, name=f"{k}") for k, run in enumerate((config, changed(config, values)))]
    for file in ("metrics.csv", "evaluations.csv"):
        first, second = (rows(folder / file) for folder in folders)
        assert first == second
    one, other = (load_policy(folder).policy.state_dict() for folder in folders)
    torch.testing.assert_close(one, other, rtol=0, atol=0)


def test_what_never_acts_has_no_task_of_mujoco_either(config_of):
    """And what it is evaluated in has the physics of the evaluations, in C."""
    config = changed(config_of("bc"), OF_MUJOCO)
    assert OF_MUJOCO.keys() <= settings("bc", config)
    assert training_env("bc", agents.get("bc"), config, torch.device("cpu")) == (None, None)
    measured_in = replace(config.env.in_c(), physics=config.eval.physics)
    assert measured_in == EnvConfig("Pendulum-v1", max_episode_steps=15)
