"""Stable-Baselines3's SAC, TD3 and PPO as yardsticks: trained, logged, evaluated and resumed like any other agent.

Names and defaults of the hyper-parameters are Stable-Baselines3's own, except `action_noise` (see `SB3TD3Config`). One
`step` is one `learn` call of the library: `train_freq` steps of every lane with their updates for SAC and TD3, one
rollout and its epochs for PPO. This module holds what the command line needs and imports without the library;
`sb3_bridge` does the work.
"""

from __future__ import annotations

from types import ModuleType

from surefoot.agents.baselines.sb3_config import SB3Config, SB3PPOConfig, SB3SACConfig, SB3TD3Config
from surefoot.agents.interface import Agent, AgentSpec, Policy, Setting, Spaces


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
    return load_bridge().SB3Agent(config, setting)


def make_policy(config: SB3Config, spaces: Spaces) -> Policy:
    return load_bridge().make_policy(config, spaces)


SB3_SAC_SPEC = AgentSpec(SB3SACConfig(), make_agent, make_policy, "Stable-Baselines3's SAC, as a yardstick")
SB3_TD3_SPEC = AgentSpec(SB3TD3Config(), make_agent, make_policy, "Stable-Baselines3's TD3, as a yardstick")
SB3_PPO_SPEC = AgentSpec(SB3PPOConfig(), make_agent, make_policy, "Stable-Baselines3's PPO, as a yardstick")
