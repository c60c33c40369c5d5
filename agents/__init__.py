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
    "dr-sac": "surefoot.agents.dr_sac:DR_SAC_SPEC",
    "rarl": "surefoot.agents.rarl:RARL_SPEC",
    "m2td3": "surefoot.agents.m2td3:M2TD3_SPEC",
    "cql": "surefoot.agents.cql:CQL_SPEC",
    "darc": "surefoot.agents.darc:DARC_SPEC",
    "darc-plus": "surefoot.agents.darc:DARC_PLUS_SPEC",
    "bc": "surefoot.agents.bc:BC_SPEC",
    "hnpg": "surefoot.agents.hnpg:HNPG_SPEC",
    "trpo": "surefoot.agents.trpo:TRPO_SPEC",
    "rlpd": "surefoot.agents.rlpd:RLPD_SPEC",
    "dhn": "surefoot.agents.dhn:DHN_SPEC",
    "qr-dqn": "surefoot.agents.dhn:QR_DQN_SPEC",
    "iwocs": "surefoot.agents.iwocs.agent:IWOCS_SPEC",
    "nora-deep": "surefoot.agents.nora.deep:NORA_DEEP_SPEC",
    "dynlin-ucb": "surefoot.agents.dynlin_ucb:DYNLIN_UCB_SPEC",
    "linucb": "surefoot.agents.linear_bandits:LINUCB_SPEC",
    "linucb-paper": "surefoot.agents.linear_bandits:LINUCB_PAPER_SPEC",
    "linucb-log": "surefoot.agents.linear_bandits:LINUCB_LOG_SPEC",
    "d-linucb": "surefoot.agents.linear_bandits:D_LINUCB_SPEC",
    "d-linucb-paper": "surefoot.agents.linear_bandits:D_LINUCB_PAPER_SPEC",
    "d-linucb-log": "surefoot.agents.linear_bandits:D_LINUCB_LOG_SPEC",
    "exp3": "surefoot.agents.linear_bandits:EXP3_SPEC",
    "batch-exp3": "surefoot.agents.linear_bandits:BATCH_EXP3_SPEC",
    "batch-exp3-paper": "surefoot.agents.linear_bandits:BATCH_EXP3_PAPER_SPEC",
    "ar2": "surefoot.agents.linear_bandits:AR2_SPEC",
    "expert": "surefoot.agents.linear_bandits:EXPERT_SPEC",
    "clairvoyant": "surefoot.agents.linear_bandits:CLAIRVOYANT_SPEC",
    "uniform": "surefoot.agents.linear_bandits:UNIFORM_SPEC",
    "nora": "surefoot.agents.nora.agent:NORA_SPEC",
    "mbpo": "surefoot.agents.lipschitz_mbrl:MBPO_SPEC",
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
