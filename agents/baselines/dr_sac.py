"""SAC under domain randomisation: one policy for all parameters, which it does not observe.

Every episode of every environment has parameters drawn uniformly from the uncertainty set, as the environments of a set
do of themselves; the parameters are not observed: docs/derivations/iwocs.md eq. (8.1). Everything else is `sac.py`:
this name only insists on a set, and brings the presets of the comparison (§6.2; the published comparator is TD3).
"""

from __future__ import annotations

from surefoot.agents.interface import AgentSpec, Style
from surefoot.agents.parts.budget import plan_collector
from surefoot.agents.sac import SAC, SAC_SPEC, SACConfig, make_policy

DR_SAC_SPEC = AgentSpec(
    SACConfig(),
    SAC,
    make_policy,
    "Soft Actor-Critic under domain randomisation in an uncertainty set",
    needs_uncertainty_set=True,
    goal="worst case",
    plan=plan_collector,
    page="robust_baselines",
    style=Style("#0072B2", "-."),
    tiny=SAC_SPEC.tiny,
    tiny_env={"id": "surefoot/Pendulum-v0", "max_episode_steps": 15},
)
