"""The registry of agents: a folder for each method, found by name."""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from surefoot.agents.interface import AgentSpec  # not at run time: it takes PyTorch, and `--help` must be quick

# name -> "module:attribute", in the groups of the README. Modules are imported when asked for, so `--help` stays quick.
METHODS = {  # the eight papers
    "h2o": "surefoot.agents.h2o:H2O_SPEC",
    "hnpg": "surefoot.agents.hnpg.agent:HNPG_SPEC",
    "nora": "surefoot.agents.nora.agent:NORA_SPEC",
    "nora-deep": "surefoot.agents.nora.deep_agent:NORA_DEEP_SPEC",
    "iwocs": "surefoot.agents.iwocs.agent:IWOCS_SPEC",
    "dhn": "surefoot.agents.distributional.dhn.agent:DHN_SPEC",
    "mbpo": "surefoot.agents.lipschitz_mbrl.agent:MBPO_SPEC",
    "dynlin-ucb": "surefoot.agents.dynlin.agent:DYNLIN_UCB_SPEC",
    "neusquarecb": "surefoot.agents.neural_bandits.agent:NEU_SQUARE_CB_SPEC",
    "neufastcb": "surefoot.agents.neural_bandits.agent:NEU_FAST_CB_SPEC",
}
BASELINES = {  # what they are compared with, and the SAC backbone
    "sac-mix": "surefoot.agents.h2o:SAC_MIX_SPEC",
    "sac": "surefoot.agents.sac:SAC_SPEC",
    "dr-sac": "surefoot.agents.baselines.dr_sac:DR_SAC_SPEC",
    "rarl": "surefoot.agents.baselines.rarl:RARL_SPEC",
    "m2td3": "surefoot.agents.baselines.m2td3:M2TD3_SPEC",
    "cql": "surefoot.agents.baselines.cql:CQL_SPEC",
    "sac-offline": "surefoot.agents.baselines.cql:SAC_OFFLINE_SPEC",
    "darc": "surefoot.agents.baselines.darc:DARC_SPEC",
    "darc-plus": "surefoot.agents.baselines.darc:DARC_PLUS_SPEC",
    "bc": "surefoot.agents.baselines.bc:BC_SPEC",
    "td3-bc": "surefoot.agents.baselines.td3_bc:TD3_BC_SPEC",
    "trpo": "surefoot.agents.baselines.trpo:TRPO_SPEC",
    "rlpd": "surefoot.agents.baselines.rlpd:RLPD_SPEC",
    "qr-dqn": "surefoot.agents.distributional.dhn.agent:QR_DQN_SPEC",
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
    "human-budget": "surefoot.agents.dynlin.baselines:HUMAN_BUDGET_SPEC",
    "oracle": "surefoot.agents.dynlin.baselines:ORACLE_SPEC",
    "uniform": "surefoot.agents.dynlin.baselines:UNIFORM_SPEC",
    "linear-squarecb": "surefoot.agents.neural_bandits.agent:LINEAR_SQUARE_CB_SPEC",
    "contextual-linucb": "surefoot.agents.neural_bandits.baselines:CONTEXTUAL_LINUCB_SPEC",
    "neural-ucb": "surefoot.agents.neural_bandits.baselines:NEURAL_UCB_SPEC",
    "neural-ts": "surefoot.agents.neural_bandits.baselines:NEURAL_TS_SPEC",
    "neural-epsilon-greedy": "surefoot.agents.neural_bandits.baselines:NEURAL_EPSILON_GREEDY_SPEC",
    "ee-net": "surefoot.agents.neural_bandits.baselines:EE_NET_SPEC",
}
REFERENCES = {  # other people's implementations
    "sb3-sac": "surefoot.agents.baselines.sb3:SB3_SAC_SPEC",
    "sb3-td3": "surefoot.agents.baselines.sb3:SB3_TD3_SPEC",
    "sb3-ppo": "surefoot.agents.baselines.sb3:SB3_PPO_SPEC",
}
REGISTRY = METHODS | BASELINES | REFERENCES


def get(name: str) -> AgentSpec:
    """Return the registry entry of an agent; `ValueError` names the known ones."""
    if name not in REGISTRY:
        raise ValueError(f"unknown agent {name!r}; choose one of {', '.join(sorted(REGISTRY))}")
    module, attribute = REGISTRY[name].split(":")
    spec: AgentSpec = getattr(import_module(module), attribute)
    return spec


def taking(actions: str) -> list[str]:
    """Return the agents for any task with `Box` or `Discrete` actions; imports all of them, which takes seconds."""
    specs = {name: get(name) for name in REGISTRY}
    return sorted(name for name, spec in specs.items() if actions in spec.actions and spec.regret is None)


class AgentRegistry(ModuleType):
    """This module: `surefoot.agents()` lists the agents that can be trained."""

    __file__: str
    METHODS: dict[str, str]
    BASELINES: dict[str, str]
    REFERENCES: dict[str, str]
    REGISTRY: dict[str, str]
    get = staticmethod(get)
    taking = staticmethod(taking)

    def __call__(self) -> list[str]:
        """Return the names of all agents: methods, then baselines, then reference implementations."""
        return list(self.REGISTRY)


# A package and a function of the public API have one name; a module whose class has __call__ is both.
sys.modules[__name__].__class__ = AgentRegistry
