"""The methods: one file a paper, found by name."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from surefoot.agents.interface import AgentSpec

# name -> "module:attribute"; modules are imported when asked for, so that `--help` stays quick.
REGISTRY = {
    "h2o": "surefoot.agents.h2o:H2O_SPEC",
    "sac-mix": "surefoot.agents.h2o:SAC_MIX_SPEC",
    "sac": "surefoot.agents.sac:SAC_SPEC",
    "dr-sac": "surefoot.agents.baselines.dr_sac:DR_SAC_SPEC",
    "rarl": "surefoot.agents.baselines.rarl:RARL_SPEC",
    "m2td3": "surefoot.agents.baselines.m2td3:M2TD3_SPEC",
    "cql": "surefoot.agents.baselines.cql:CQL_SPEC",
    "darc": "surefoot.agents.baselines.darc:DARC_SPEC",
    "darc-plus": "surefoot.agents.baselines.darc:DARC_PLUS_SPEC",
    "bc": "surefoot.agents.baselines.bc:BC_SPEC",
    "hnpg": "surefoot.agents.hnpg.agent:HNPG_SPEC",
    "trpo": "surefoot.agents.baselines.trpo:TRPO_SPEC",
    "rlpd": "surefoot.agents.baselines.rlpd:RLPD_SPEC",
    "dhn": "surefoot.agents.distributional.dhn.agent:DHN_SPEC",
    "qr-dqn": "surefoot.agents.distributional.dhn.agent:QR_DQN_SPEC",
    "iwocs": "surefoot.agents.iwocs.agent:IWOCS_SPEC",
    "nora-deep": "surefoot.agents.nora.deep_agent:NORA_DEEP_SPEC",
    "dynlin-ucb": "surefoot.agents.dynlin.agent:DYNLIN_UCB_SPEC",
    "linucb": "surefoot.agents.dynlin.baselines:LINUCB_SPEC",
    "linucb-paper": "surefoot.agents.dynlin.baselines:LINUCB_PAPER_SPEC",
    "linucb-log": "surefoot.agents.dynlin.baselines:LINUCB_LOG_SPEC",
    "d-linucb": "surefoot.agents.dynlin.baselines:D_LINUCB_SPEC",
    "d-linucb-paper": "surefoot.agents.dynlin.baselines:D_LINUCB_PAPER_SPEC",
    "d-linucb-log": "surefoot.agents.dynlin.baselines:D_LINUCB_LOG_SPEC",
    "exp3": "surefoot.agents.dynlin.baselines:EXP3_SPEC",
    "batch-exp3": "surefoot.agents.dynlin.baselines:BATCH_EXP3_SPEC",
    "batch-exp3-paper": "surefoot.agents.dynlin.baselines:BATCH_EXP3_PAPER_SPEC",
    "ar2": "surefoot.agents.dynlin.baselines:AR2_SPEC",
    "expert": "surefoot.agents.dynlin.baselines:EXPERT_SPEC",
    "clairvoyant": "surefoot.agents.dynlin.baselines:CLAIRVOYANT_SPEC",
    "uniform": "surefoot.agents.dynlin.baselines:UNIFORM_SPEC",
    "nora": "surefoot.agents.nora.agent:NORA_SPEC",
    "mbpo": "surefoot.agents.lipschitz_mbrl.agent:MBPO_SPEC",
    "sb3-sac": "surefoot.agents.baselines.sb3:SB3_SAC_SPEC",
    "sb3-td3": "surefoot.agents.baselines.sb3:SB3_TD3_SPEC",
    "sb3-ppo": "surefoot.agents.baselines.sb3:SB3_PPO_SPEC",
}


def get(name: str) -> AgentSpec:
    """Return the registry entry of an agent; `ValueError` names the known ones."""
    if name not in REGISTRY:
        raise ValueError(f"unknown agent {name!r}; choose one of {', '.join(sorted(REGISTRY))}")
    module, attribute = REGISTRY[name].split(":")
    return getattr(import_module(module), attribute)
