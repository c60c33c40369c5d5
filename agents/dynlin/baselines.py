"""What DynLin-UCB is compared with: linear, adversarial and auto-regressive bandits, and three that learn nothing.

Settings and traps: brief dynamical_linear_bandits.md, section 9. Papers: LinUCB/OFUL (Abbasi-Yadkori et al. 2011),
D-LinUCB (Russac, Vernade, Cappé, arXiv 1909.09146), Exp3 (Auer et al. 2002), AR2 (Chen, Golrezaei, Bouneffouf,
NeurIPS 2023).

| agent | bonus or rule | here |
|---|---|---|
| linucb | OFUL: Θ√λ + σ√(2 ln(1/δ) + d ln(1 + tŪ²/(dλ))) | `oful_radius` |
| linucb-paper | the authors' "1": no σ, constant in t, L = 1.5 | `constant_radius` |
| linucb-log | the authors' "log": DynLin-UCB without epochs and without c₁ | `parts.oracle.stationary_radius` |
| d-linucb, -paper | discounted OFUL; "-paper" has λγ^{-t} for λ and L = 1.5 | `discounted_radius` |
| d-linucb-log | the authors' "log": LinUCB-log with another bonus; it discounts nothing | `misnamed_radius` |
| exp3, batch-exp3 | exponential weights; actions held for k rounds | `exp3_rate`, `batch_length` |
| batch-exp3-paper | the authors' slip: updated after 2 rounds, with rewards of the batch before | `BatchExp3Paper` |
| ar2 | arm-wise AR(1) estimates; triggered arms are never released, as in the authors' code | `AR2` |
| expert, clairvoyant, uniform | a fixed split of the budget; argmax J; a fair die | `make_expert`, … |
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from surefoot.agents.dynlin.ar2 import AR2, AR2Config
from surefoot.agents.dynlin.bandit import Bandit, BanditConfig, Game, make_constant_policy
from surefoot.agents.dynlin.exp3 import BatchExp3Paper, Exp3, Exp3Config, make_batch_exp3
from surefoot.agents.dynlin.fixed import ExpertConfig, FixedConfig, Uniform, make_clairvoyant, make_expert
from surefoot.agents.dynlin.linucb import DLinUCB, LinUCB, LinUCBConfig
from surefoot.agents.interface import AgentSpec


def spec(config: BanditConfig, make_learner: Callable[[Any, Game], Any], summary: str) -> AgentSpec:
    return AgentSpec(config, partial(Bandit, make_learner), make_constant_policy, summary, regret="round")


LINUCB_SPEC = spec(LinUCBConfig(), LinUCB, "linear UCB (OFUL) on every round's reward")
LINUCB_PAPER_SPEC = spec(LinUCBConfig(variant="paper"), LinUCB, "linear UCB with the authors' constants and λ = 1")
LINUCB_LOG_SPEC = spec(LinUCBConfig(variant="log"), LinUCB, "linear UCB with DynLin-UCB's c₂ and σ̃, λ = ln T")
D_LINUCB_SPEC = spec(LinUCBConfig(gamma=1 - 1e-4), DLinUCB, "discounted linear UCB (arXiv 1909.09146)")
D_LINUCB_PAPER_SPEC = spec(
    LinUCBConfig(variant="paper", gamma=1 - 1e-9),
    DLinUCB,
    "discounted linear UCB with the authors' constants",
)
D_LINUCB_LOG_SPEC = spec(
    LinUCBConfig(variant="log", gamma=0.999999), LinUCB, 'the authors\' D-LinUCB "log", which discounts nothing'
)
EXP3_SPEC = spec(Exp3Config(), Exp3, "exponential weights over the actions")
BATCH_EXP3_SPEC = spec(Exp3Config(), make_batch_exp3, "Exp3 with held actions, updated at the end of each batch")
BATCH_EXP3_PAPER_SPEC = spec(Exp3Config(), BatchExp3Paper, "Exp3 with held actions and the authors' indexing slip")
AR2_SPEC = spec(AR2Config(), AR2, "auto-regressive arms with triggers (NeurIPS 2023)")
EXPERT_SPEC = spec(ExpertConfig(), make_expert, "the human experts' split of the budget")
CLAIRVOYANT_SPEC = spec(FixedConfig(), make_clairvoyant, "the best constant action, known beforehand")
UNIFORM_SPEC = spec(FixedConfig(), Uniform, "a fair die every round")
