"""TD3+BC: TD3 on recorded data alone, with a behaviour-cloning term that keeps the policy near the data.

Fujimoto, Gu, "A Minimalist Approach to Offline Reinforcement Learning", NeurIPS 2021, arXiv 2106.06860.

| derivation | paper | here |
|---|---|---|
| – | (3) the policy maximises λ·Q(s, π(s)) − (π(s) − a)² | `policy_objective` |
| – | (4) states standardised by mean and standard deviation of the data | `fitted_normaliser`, `standardised` |
| – | (5) λ = α divided by the mean absolute Q, not differentiated | `value_weight` |
| – | TD3: smoothed target, two critics; policy and targets delayed | `parts.td3`, `TD3BC.step` |

Where this differs, and why:
- |Q| in (5) is taken at (s, π(s)) of the minibatch, and (π(s) − a)² is a mean over actions' components as well as
  rows: both as in the authors' code, not as in the paper's formulas.
- The constants of (4) are part of the policy, so that a policy file takes observations as a task gives them.
- Rows that end by a time-out are used where the data has their true successor; D4RL's own conversion drops them.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from surefoot.agents.interface import AgentSpec, Batch, Progress, Setting, Spaces, Style
from surefoot.agents.parts.acceleration import accelerate, take_step
from surefoot.agents.parts.budget import plan_updates
from surefoot.agents.parts.normaliser import Normaliser
from surefoot.agents.parts.random import make_generator, normal
from surefoot.agents.parts.ranges import AT_LEAST_0, check_ranges
from surefoot.agents.parts.state import Stateful
from surefoot.agents.parts.td3 import DeterministicPolicy, TD3Nets, TD3UpdateConfig, make_td3_policy, policy_loss
from surefoot.agents.sac import box_dims, make_real_replay, twin_q_loss

EPSILON = 1e-3  # of (4)


@dataclass(frozen=True)
class TD3BCConfig(TD3UpdateConfig):
    """Defaults: the paper's (table 4), which are TD3's."""

    alpha: float = 2.5
    """Weight of the Q term relative to the behaviour-cloning term (α); 0: pure behaviour cloning."""

    def __post_init__(self) -> None:
        check_ranges(self, {"alpha": AT_LEAST_0})


# --- the mathematics -------------------------------------------------------------------------------------------------


def fitted_normaliser(obs: Tensor) -> Normaliser:
    """Return s ↦ (s − μ)/(σ + ε), with μ and σ of each component over the rows of obs (N, obs): (4)."""
    normaliser = Normaliser(obs.shape[1])
    normaliser.mean.copy_(obs.mean(0))
    normaliser.std.copy_(obs.std(0, correction=0) + EPSILON)
    return normaliser


def standardised(batch: Batch, normaliser: Normaliser) -> Batch:
    """Return the transitions with both of their states standardised."""
    return batch._replace(obs=normaliser(batch.obs), next_obs=normaliser(batch.next_obs))


def value_weight(q: Tensor, alpha: float) -> Tensor:
    """Return λ = α / mean_B |Q₁(s, π(s))| of q (2, B), without a gradient: (5)."""
    return alpha / q[0].detach().abs().mean()


def policy_objective(q: Tensor, action: Tensor, recorded: Tensor, alpha: float) -> tuple[Tensor, dict[str, Tensor]]:
    """Return −λ·mean_B Q₁(s, π(s)) + mean (π(s) − a)² of q (2, B) and actions (B, act), and what to log: (3)."""
    weight, error = value_weight(q, alpha), F.mse_loss(action, recorded)
    loss = weight * policy_loss(q) + error
    return loss, {"policy_loss": loss.detach(), "cloning_error": error.detach(), "value_weight": weight}


# --- the agent -------------------------------------------------------------------------------------------------------


class StandardisedPolicy(nn.Module):
    """A policy of standardised states together with what standardises them."""

    def __init__(self, normaliser: Normaliser, policy: DeterministicPolicy) -> None:
        super().__init__()
        self.normaliser, self.policy = normaliser, policy

    def act(self, obs: Tensor, *, explore: bool = False, generator: torch.Generator | None = None) -> Tensor:
        """Return actions (N, act) in [−1, 1] of observations (N, obs) as the task gives them."""
        return self.policy.act(self.normaliser(obs), explore=explore, generator=generator)


class TD3BC(Stateful):
    """TD3 on the data alone; one `step` is one update of the critics, every second one of the policy as well."""

    STATEFUL = ("nets", "normaliser", "real", "noise_generator", "updates")

    def __init__(self, config: TD3BCConfig, setting: Setting) -> None:
        self.config = config
        self.real = make_real_replay(setting)
        self.normaliser = fitted_normaliser(self.real.everything().obs)
        self.nets = TD3Nets(config, setting, box_dims(setting.spaces), stream="networks")
        self.policy = StandardisedPolicy(self.normaliser, self.nets.policy).to(setting.device)
        self.noise_generator = make_generator(setting.seed, "update noise", setting.device)
        self.updates = 0
        self.update_critics = accelerate(self.update_critics_eager, setting, self.nets.owners())
        self.update_policy = accelerate(self.update_policy_eager, setting, self.nets.owners())

    def act(self, obs: Tensor, *, explore: bool = False) -> Tensor:
        """Return actions (N, act) for obs (N, obs)."""
        return self.policy.act(obs, explore=explore, generator=self.noise_generator)

    def step(self) -> Progress:
        """One update."""
        batch = standardised(self.real.sample(self.config.batch_size), self.normaliser)
        metrics = self.update_critics(batch, *normal(self.noise_generator, batch.action.shape))
        self.updates += 1
        if self.updates % self.config.policy_delay == 0:
            metrics |= self.update_policy(batch)
        return Progress(0, 1, metrics)

    def update_critics_eager(self, batch: Batch, noise: Tensor) -> dict[str, Tensor]:
        """One gradient step on both critics."""
        y = self.nets.td_target(batch, noise)
        q = self.nets.critic(batch.obs, batch.action)
        loss = twin_q_loss(q, y)
        take_step([self.nets.critic_optimiser], loss)
        return {"critic_loss": loss.detach(), "q": q.detach().mean()}

    def update_policy_eager(self, batch: Batch) -> dict[str, Tensor]:
        """One gradient step on the policy, then all targets move."""
        action = self.nets.policy(batch.obs)
        q = self.nets.critic(batch.obs, action, frozen=True)
        loss, metrics = policy_objective(q, action, batch.action, self.config.alpha)
        take_step([self.nets.policy_optimiser], loss)
        self.nets.move_targets()
        return metrics


def make_policy(config: TD3BCConfig, spaces: Spaces) -> StandardisedPolicy:
    """Return the policy a config describes; its weights and constants are only there to be loaded over."""
    dims = box_dims(spaces)
    return StandardisedPolicy(Normaliser(dims[0]), make_td3_policy(config, dims, torch.Generator()))


TD3_BC_SPEC = AgentSpec(
    TD3BCConfig(),
    TD3BC,
    make_policy,
    "TD3 on the data alone, with a behaviour-cloning term (arXiv 2106.06860)",
    offline=True,
    needs_data=True,
    plan=plan_updates,
    page="td3_bc",
    style=Style("#56B4E9", "--"),
    tiny={"hidden": (8, 8), "batch_size": 8},
)
