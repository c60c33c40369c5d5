"""Stable-Baselines3's SAC, TD3 and PPO: reference implementations, trained, evaluated and resumed like any agent.

Names and defaults of the hyper-parameters are Stable-Baselines3's own, except `action_noise` (see `SB3TD3Config`). One
`step` is one `learn` call of the library: `train_freq` steps of every environment with their updates for SAC and TD3,
one rollout and its epochs for PPO. This module holds what the command line needs and imports without the library;
`sb3_bridge` does the work.
"""

from __future__ import annotations

from types import ModuleType

from surefoot.agents.baselines.sb3_config import (
    SB3Config,
    SB3PPOConfig,
    SB3SACConfig,
    SB3TD3Config,
    plan_off_policy,
    plan_ppo,
)
from surefoot.agents.interface import Agent, AgentSpec, Policy, Setting, Spaces, Style


def load_bridge() -> ModuleType:
    """Return the module that needs Stable-Baselines3; `ImportError` names the extra where it is missing."""
    try:
        from surefoot.agents.baselines import sb3_bridge
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] != "stable_baselines3":
            raise
        raise ImportError('Stable-Baselines3 is not installed: pip install "surefoot[sb3]"') from error
    return sb3_bridge


def make_agent(config: SB3Config, setting: Setting) -> Agent:
    agent: Agent = load_bridge().SB3Agent(config, setting)
    return agent


def make_policy(config: SB3Config, spaces: Spaces) -> Policy:
    policy: Policy = load_bridge().make_policy(config, spaces)
    return policy


SB3_SAC_SPEC = AgentSpec(
    SB3SACConfig(),
    make_agent,
    make_policy,
    "Stable-Baselines3's SAC, a reference implementation",
    plan=plan_off_policy,
    has_compiled_form=False,
    page="stable_baselines3",
    style=Style("#E69F00", "--"),
    tiny={"net_arch": (8, 8), "batch_size": 8, "learning_starts": 16, "buffer_size": 400},
)
SB3_TD3_SPEC = AgentSpec(
    SB3TD3Config(),
    make_agent,
    make_policy,
    "Stable-Baselines3's TD3, a reference implementation",
    plan=plan_off_policy,
    has_compiled_form=False,
    page="stable_baselines3",
    style=Style("#7F7F7F", "--"),
    tiny={"net_arch": (8, 8), "batch_size": 8, "learning_starts": 16, "buffer_size": 400},
)
SB3_PPO_SPEC = AgentSpec(
    SB3PPOConfig(),
    make_agent,
    make_policy,
    "Stable-Baselines3's PPO, a reference implementation",
    actions=("Box", "Discrete"),
    plan=plan_ppo,
    has_compiled_form=False,
    page="stable_baselines3",
    style=Style("#7F7F7F", ":"),
    tiny={"net_arch": (8, 8), "batch_size": 8, "n_steps": 16, "n_epochs": 2},
)
