"""TRPO with per-step networks and a critic of Monte-Carlo returns: HNPG's baseline, which sees no offline data.

Schulman et al., "Trust Region Policy Optimization", arXiv 1502.05477, as HNPG's experiments run it (arXiv 2311.08384;
docs/derivations/hnpg.md §9). Of HNPG's equations those for λ = ∞:

| derivation | paper | here |
|---|---|---|
| (3.2), (3.4) regression of f on returns | – | `parts.on_policy.OnPolicy.returns`, `parts.stochastic.fit_values` |
| (3.6), (4.1), (4.2) V(s), advantages | GAE, (16) | `parts.on_policy.OnPolicy.advantages` |
| (4.4) to (4.14) policy step | appendix C | `parts.trust_region.trust_region_step` |

Where this differs: the baseline is a mean of Q(s, a) over actions, as in HNPG, so that only the data tells them apart.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from surefoot.agents.interface import AgentSpec, Progress, Setting, Style
from surefoot.agents.parts.budget import plan_on_policy
from surefoot.agents.parts.on_policy import (
    TASK_FIELDS,
    DeployedPolicy,
    OnPolicy,
    OnPolicyConfig,
    make_policy,
    mean_sigma,
)
from surefoot.agents.parts.state import Stateful
from surefoot.agents.parts.stochastic import fit_values
from surefoot.agents.parts.trust_region import StepRows, trust_region_step


@dataclass(frozen=True)
class TRPOConfig(OnPolicyConfig):
    """HNPG's settings without those of the offline data (§7.1)."""


class TRPO(Stateful):
    """One `step` is one batch of experience, one fit of the critics and one policy step."""

    STATEFUL = ("nets",)

    def __init__(self, config: TRPOConfig, setting: Setting) -> None:
        self.config = config
        self.nets = OnPolicy(config, setting)

    @property
    def policy(self) -> DeployedPolicy:
        return self.nets.deployed()

    def act(self, obs: Tensor, *, explore: bool = False) -> Tensor:
        """Return actions of the first seed's policy for obs (N, obs): its mode, or a sample."""
        return self.nets.act(obs, explore=explore)

    def step(self) -> Progress:
        """One iteration; environment steps are counted for one seed."""
        nets, config = self.nets, self.config
        before = nets.env_steps
        rollout, episodes, success = nets.collect()
        obs, action = nets.by_member(rollout.obs), nets.by_member(rollout.action)
        weight = torch.full((obs.shape[1],), 1.0 / obs.shape[1], device=obs.device)
        x = torch.cat([obs, nets.head.to_critic(action)], -1)
        error = fit_values(
            nets.critic, slice(None), x, nets.returns(rollout), weight, lr=config.critic_lr, steps=config.critic_steps
        )
        rows = StepRows(obs, action, nets.advantages(rollout), weight)
        metrics = trust_region_step(nets.policy, rows, config)
        metrics |= {"on_policy_loss": error.mean(1), **mean_sigma(nets.policy), **success}
        return Progress(nets.env_steps - before, 1, metrics, tuple(episodes), nets.success.done)


TRPO_SPEC = AgentSpec(
    TRPOConfig(),
    TRPO,
    make_policy,
    "trust-region policy optimisation, also with a policy for every time step (arXiv 1502.05477)",
    actions=("Box", "Discrete"),
    stacks_seeds=True,
    task_fields=TASK_FIELDS,
    shown=("success",),
    plan=plan_on_policy,
    has_compiled_form=False,
    page="hnpg",
    style=Style("#D55E00", "--"),
    tiny={"policy_hidden": (8, 8), "critic_hidden": (8, 8), "batch_steps": 10, "critic_steps": 2, "value_samples": 2},
)
