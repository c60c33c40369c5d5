"""Behaviour cloning: the policy under which the recorded actions are most likely.

The comparison every method with offline data must beat (docs/derivations/h2o.md §9.3).

| derivation | paper | here |
|---|---|---|
| (9.6) minus the mean log-likelihood | – | `cloning_loss` |
| (2.3) at recorded actions | – | `parts.networks.TanhGaussianPolicy.log_prob` |
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from surefoot.agents.interface import AgentSpec, Batch, Progress, Setting, Style
from surefoot.agents.parts.acceleration import accelerate, adam, take_step
from surefoot.agents.parts.budget import plan_updates
from surefoot.agents.parts.h2o_family import H2OHeads
from surefoot.agents.parts.networks import TanhGaussianPolicy
from surefoot.agents.parts.random import make_generator
from surefoot.agents.parts.state import Stateful
from surefoot.agents.sac import PolicyConfig, make_policy, make_real_replay


@dataclass(frozen=True)
class BCConfig(H2OHeads, PolicyConfig):
    """Behaviour cloning with H2O's policy network (§7.2)."""

    batch_size: int = 256
    """Real transitions per update."""


def cloning_loss(policy: TanhGaussianPolicy, batch: Batch) -> Tensor:
    """Return −mean_B log π(a|s) of the recorded actions."""
    return -policy.log_prob(batch.obs, batch.action).mean()


class BC(Stateful):
    """Maximum likelihood on the data; one `step` is one update."""

    STATEFUL = ("policy", "optimiser", "real", "noise_generator")

    def __init__(self, config: BCConfig, setting: Setting) -> None:
        self.config = config
        self.policy = make_policy(config, setting.spaces, make_generator(setting.seed, "networks")).to(setting.device)
        self.optimiser = adam(self.policy.parameters(), config.policy_lr, setting)
        self.real = make_real_replay(setting)
        self.noise_generator = make_generator(setting.seed, "acting", setting.device)
        self.update = accelerate(self.update_eager, setting, [self.policy, self.optimiser])

    def act(self, obs: Tensor, *, explore: bool = False) -> Tensor:
        """Return actions (N, act) for obs (N, obs): tanh(mean), or a sample."""
        return self.policy.act(obs, explore=explore, generator=self.noise_generator)

    def step(self) -> Progress:
        """One update."""
        return Progress(0, 1, self.update(self.real.sample(self.config.batch_size)))

    def update_eager(self, batch: Batch) -> dict[str, Tensor]:
        """One gradient step."""
        loss = cloning_loss(self.policy, batch)
        take_step([self.optimiser], loss)
        return {"cloning_loss": loss.detach()}


BC_SPEC = AgentSpec(
    BCConfig(),
    BC,
    make_policy,
    "behaviour cloning of the data",
    offline=True,
    needs_data=True,
    plan=plan_updates,
    page="h2o",
    style=Style("#000000", "-"),
    tiny={"hidden": (8, 8), "batch_size": 8},
)
