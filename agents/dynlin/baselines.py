"""What DynLin-UCB is compared with: linear, adversarial and auto-regressive bandits, and three that learn nothing.

Settings and traps: docs/derivations/dynlin.md §10. Papers: LinUCB/OFUL (Abbasi-Yadkori et al. 2011),
D-LinUCB (Russac, Vernade, Cappé, arXiv 1909.09146), Exp3 (Auer et al. 2002), AR2 (Chen, Golrezaei, Bouneffouf,
NeurIPS 2023).

| derivation | paper | here |
|---|---|---|
| (10.1) | Abbasi-Yadkori et al. | `linucb.oful_radius`: linucb |
| (10.2) | – | `linucb.constant_radius`: linucb-paper, the authors' "1": no σ, constant in t, L = 1.5 |
| (3.8), §10.2 | – | `bounds.stationary_radius`: linucb-log, the authors' "log": DynLin-UCB without epochs and c₁ |
| (10.3), (10.4), (10.5) | Russac et al. | `linucb.DLinUCB`: d-linucb, -paper; the latter's λ is λγ^{-t}, its L 1.5 |
| (10.6) | Russac et al. | `linucb.discounted_radius`: d-linucb, -paper |
| (10.8) | – | `linucb.misnamed_radius`: d-linucb-log, the authors' "log", which discounts nothing |
| (10.9) | Auer et al. | `exp3.exp3_rate`: exp3 |
| (10.10), (10.11), (10.12) | Auer et al. | `exp3.reward_bound`, `exp3.Exp3`, `exp3.arm_probabilities`: exp3 |
| (10.13) | – | `exp3.batch_length`: batch-exp3, actions repeated for k rounds |
| §10.5 | – | `exp3.BatchExp3Paper`: batch-exp3-paper, the authors' slip, updates with rewards of the batch before |
| (10.14), (10.15), (10.16), (10.17) | Chen et al. | `ar2.AR2`: ar2; as in the authors' code no arm is released |
| (10.18), (10.19) | – | `fixed.human_budget_action`: human-budget, a fixed split of the budget |
| §10.7 | – | `fixed.make_oracle`, `fixed.Uniform`: oracle, argmax J; uniform, a random action per round |
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

from surefoot.agents.dynlin.agent import DYNLIN_UCB_SPEC
from surefoot.agents.dynlin.ar2 import AR2, AR2Config
from surefoot.agents.dynlin.bandit import Bandit, BanditConfig, BanditProblem
from surefoot.agents.dynlin.exp3 import BatchExp3Config, BatchExp3Paper, Exp3, Exp3Config, make_batch_exp3
from surefoot.agents.dynlin.fixed import FixedConfig, HumanBudgetConfig, Uniform, make_human_budget, make_oracle
from surefoot.agents.dynlin.linucb import DLinUCB, DLinUCBConfig, LinUCB, LinUCBConfig
from surefoot.agents.dynlin.real import RealBandit
from surefoot.agents.interface import AgentSpec, Style


def spec(
    config: BanditConfig, make_learner: Callable[[Any, BanditProblem], Any], summary: str, style: Style
) -> AgentSpec:
    made = partial(Bandit, make_learner), partial(RealBandit, make_learner)
    return replace(
        DYNLIN_UCB_SPEC, default=config, summary=summary, style=style, make_agent=made[0], make_ask_tell=made[1]
    )


LINUCB_SPEC = spec(LinUCBConfig(), LinUCB, "linear UCB (OFUL) on every round's reward", style=Style("#E69F00", "-"))
LINUCB_PAPER_SPEC = spec(
    LinUCBConfig(variant="paper"),
    LinUCB,
    "linear UCB with the authors' constants and λ = 1",
    style=Style("#E69F00", "--"),
)
LINUCB_LOG_SPEC = spec(
    LinUCBConfig(variant="log"), LinUCB, "linear UCB with DynLin-UCB's c₂ and σ̃, λ = ln T", style=Style("#E69F00", ":")
)
D_LINUCB_SPEC = spec(DLinUCBConfig(), DLinUCB, "discounted linear UCB (arXiv 1909.09146)", style=Style("#CC79A7", "-"))
D_LINUCB_PAPER_SPEC = spec(
    DLinUCBConfig(variant="paper", gamma=1 - 1e-9),
    DLinUCB,
    "discounted linear UCB with the authors' constants",
    style=Style("#CC79A7", "--"),
)
D_LINUCB_LOG_SPEC = spec(
    LinUCBConfig(variant="log", gamma=0.999999),
    LinUCB,
    'the authors\' D-LinUCB "log", which discounts nothing',
    style=Style("#CC79A7", ":"),
)
EXP3_SPEC = spec(Exp3Config(), Exp3, "exponential weights over the actions", style=Style("#56B4E9", "-"))
BATCH_EXP3_SPEC = spec(
    BatchExp3Config(),
    make_batch_exp3,
    "Exp3 with repeated actions, updated at the end of each batch",
    style=Style("#009E73", "-"),
)
BATCH_EXP3_PAPER_SPEC = spec(
    BatchExp3Config(),
    BatchExp3Paper,
    "Exp3 with repeated actions and the authors' indexing slip",
    style=Style("#009E73", "--"),
)
AR2_SPEC = spec(AR2Config(), AR2, "auto-regressive arms with triggers (NeurIPS 2023)", style=Style("#D55E00", "-"))
HUMAN_BUDGET_SPEC = spec(
    HumanBudgetConfig(),
    make_human_budget,
    "the human experts' budget allocation, a constant action",
    style=Style("#7F7F7F", "-"),
)
ORACLE_SPEC = replace(
    spec(
        FixedConfig(),
        make_oracle,
        "the best constant action, computed from the true system",
        style=Style("#000000", "-"),
    ),
    make_ask_tell=None,
)
UNIFORM_SPEC = spec(FixedConfig(), Uniform, "a uniformly random action every round", style=Style("#7F7F7F", ":"))
