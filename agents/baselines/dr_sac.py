"""SAC under domain randomisation: one policy for all worlds, which it is not told apart.

Every episode of every lane has parameters drawn uniformly from the uncertainty set, as the lanes of a set do of
themselves; the parameters are not observed. Everything else is `sac.py`: this name only insists on a set, and brings
the presets of the comparison (brief iwocs.md, section 10; the published comparator is TD3).
"""

from __future__ import annotations

from surefoot.agents.interface import AgentSpec
from surefoot.agents.sac import SAC, SACConfig, make_policy

DR_SAC_SPEC = AgentSpec(
    SACConfig(),
    SAC,
    make_policy,
    "Soft Actor-Critic under domain randomisation in an uncertainty set",
    needs_worlds=True,
)
