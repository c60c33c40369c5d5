"""The methods: one file a paper, found by name."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from surefoot.agents.interface import AgentSpec  # not at run time: it takes PyTorch, and `--help` must be quick

# name -> "module:attribute"; modules are imported when asked for, so that `--help` stays quick.
REGISTRY = {
    "h2o": "surefoot.agents.h2o:H2O_SPEC",
    "sac-mix": "surefoot.agents.h2o:SAC_MIX_SPEC",
    "sac": "surefoot.agents.sac:SAC_SPEC",
    "cql": "surefoot.agents.cql:CQL_SPEC",
    "darc": "surefoot.agents.darc:DARC_SPEC",
    "darc-plus": "surefoot.agents.darc:DARC_PLUS_SPEC",
    "bc": "surefoot.agents.bc:BC_SPEC",
    "hnpg": "surefoot.agents.hnpg:HNPG_SPEC",
    "trpo": "surefoot.agents.trpo:TRPO_SPEC",
    "rlpd": "surefoot.agents.rlpd:RLPD_SPEC",
    "sb3-sac": "surefoot.agents.sb3:SB3_SAC_SPEC",
    "sb3-td3": "surefoot.agents.sb3:SB3_TD3_SPEC",
    "sb3-ppo": "surefoot.agents.sb3:SB3_PPO_SPEC",
}


def get(name: str) -> AgentSpec:
    """Return the registry entry of an agent; `ValueError` names the known ones."""
    if name not in REGISTRY:
        raise ValueError(f"unknown agent {name!r}; choose one of {', '.join(sorted(REGISTRY))}")
    module, attribute = REGISTRY[name].split(":")
    return getattr(import_module(module), attribute)
