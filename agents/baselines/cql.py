"""CQL(H): offline actor-critic with values pushed down on actions the data does not hold.

Kumar, Zhou, Tucker, Levine, "Conservative Q-Learning for Offline Reinforcement Learning", NeurIPS 2020,
arXiv 2006.04779; as the baseline of H2O (docs/derivations/h2o.md §9.1).

| derivation | paper | here |
|---|---|---|
| (9.1), (9.3) CQL(H): log Σ_a exp Q − Q(data) | (4) | `conservative_gap` |
| (9.2) log-sum-exp by importance sampling | appendix F | `importance_corrected` |
| (9.3) actions from three sources | appendix F | `CQL.candidates` |

`sac-offline` is the same without the conservative term: SAC on the data alone (control).

Where this differs: no Lagrange form, no entropy in the target, as in H2O's comparison.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from surefoot.agents.interface import AgentSpec, Batch, Progress, Setting, Style
from surefoot.agents.parts.acceleration import accelerate
from surefoot.agents.parts.budget import plan_updates
from surefoot.agents.parts.h2o_family import H2OHeads
from surefoot.agents.parts.networks import TanhGaussianPolicy
from surefoot.agents.parts.random import make_generator, normal, uniform
from surefoot.agents.parts.ranges import AT_LEAST_0, AT_LEAST_1, POSITIVE, check_ranges, unread_where
from surefoot.agents.parts.state import Stateful
from surefoot.agents.sac import (
    ActorCritic,
    ActorCriticConfig,
    box_dims,
    make_policy,
    make_real_replay,
    twin_q_loss,
)


@dataclass(frozen=True)
class CQLConfig(H2OHeads, ActorCriticConfig):
    """Defaults: those of H2O's authors (§7.2)."""

    batch_size: int = 256
    """Real transitions per update."""
    entropy_in_target: bool = False
    """Include the entropy term −α·log π(a'|s') in the TD targets."""
    min_q_weight: float = 2.0
    """Weight of the conservative (CQL) term; 0 leaves it out."""
    sampled_actions: int = 10
    """Actions sampled from each of three sources: uniform, π(s), π(s')."""
    temperature: float = 1.0
    """Temperature of the log-sum-exp."""

    def __post_init__(self) -> None:
        rules = {"min_q_weight": AT_LEAST_0, "sampled_actions": AT_LEAST_1, "temperature": POSITIVE}
        check_ranges(self, rules)

    def unread(self) -> dict[str, str]:
        """Return what is left without effect where there is no conservative term, and why."""
        no_term = self.min_q_weight <= 0
        return unread_where((no_term, ("sampled_actions", "temperature"), "with --agent.min-q-weight 0"))

    @property
    def rows_sampled(self) -> int:
        """Actions from each source that an update samples for a row."""
        return self.sampled_actions if self.min_q_weight > 0 else 0


def importance_corrected(q: Tensor, log_density: Tensor) -> Tensor:
    """Return Q − log p for actions drawn from p: their exp averages to ∫ exp Q, up to the number drawn (appendix F)."""
    return q - log_density


def conservative_gap(q_sampled: Tensor, q_data: Tensor, temperature: float = 1.0) -> Tensor:
    """Return mean_B of T·log Σ_a exp(Q/T) − Q(s, a_data) for each critic (2,); q_sampled (2, A, B), q_data (2, B)."""
    return (temperature * (q_sampled / temperature).logsumexp(1) - q_data).mean(-1)


class CQLNoise(NamedTuple):
    """Random numbers of one update."""

    policy: Tensor  # (B, act) normal
    target: Tensor  # (B, act) normal
    uniform: Tensor  # (A, B, act) uniform in [-1, 1]
    current: Tensor  # (A, B, act) normal
    following: Tensor  # (A, B, act) normal


class CQL(Stateful):
    """SAC on the data alone, with the conservative term; one `step` is one update."""

    STATEFUL = ("nets", "real", "noise_generator")

    def __init__(self, config: CQLConfig, setting: Setting) -> None:
        self.config = config
        _, self.action_dim = box_dims(setting.spaces)
        self.nets = ActorCritic(config, setting)
        self.real = make_real_replay(setting)
        self.noise_generator = make_generator(setting.seed, "update noise", setting.device)
        self.update = accelerate(self.update_eager, setting, self.nets.owners(), by_hand=self.update_by_hand)

    @property
    def policy(self) -> TanhGaussianPolicy:
        return self.nets.policy

    def act(self, obs: Tensor, *, explore: bool = False) -> Tensor:
        """Return actions (N, act) for obs (N, obs): tanh(mean), or a sample."""
        return self.policy.act(obs, explore=explore, generator=self.noise_generator)

    def step(self) -> Progress:
        """One update."""
        batch = self.real.sample(self.config.batch_size)
        return Progress(0, 1, self.update(batch, self.draw_noise()))

    def draw_noise(self) -> CQLNoise:
        one = (self.config.batch_size, self.action_dim)
        many = (self.config.rows_sampled, *one)
        policy, target, current, following = normal(self.noise_generator, one, one, many, many)
        return CQLNoise(policy, target, uniform(self.noise_generator, many), current, following)

    def candidates(self, batch: Batch, noise: CQLNoise) -> tuple[Tensor, Tensor]:
        """Return actions (3·A, B, act), uniform, of π(s') and of π(s), and their log densities (3·A, B)."""
        with torch.no_grad():
            current, log_current = self.nets.policy.sample(batch.obs, noise.current)
            following, log_following = self.nets.policy.sample(batch.next_obs, noise.following)
            log_uniform = torch.full_like(log_current, -self.action_dim * math.log(2.0))
            log_density = torch.cat([log_uniform, log_following, log_current])
            return torch.cat([noise.uniform, following, current]), log_density

    def rows_of(self, batch: Batch, noise: CQLNoise) -> tuple[Tensor, Tensor, Tensor]:
        """Return states and actions to take the critics of, the data's B first, and the others' log densities."""
        if not self.config.rows_sampled:
            return batch.obs, batch.action, batch.reward.new_zeros(0, len(batch.reward))
        actions, log_density = self.candidates(batch, noise)
        obs = batch.obs.expand(1 + len(actions), -1, -1).flatten(0, 1)
        return obs, torch.cat([batch.action, actions.flatten(0, 1)]), log_density

    def critic_loss(self, q: Tensor, y: Tensor, log_density: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the critics' loss of q (2, B + 3·A·B), the data's rows first, and y (B,), and what to log of it."""
        config, q_data, q_sampled = self.config, q[:, : len(y)], q[:, len(y) :]
        td_loss = twin_q_loss(q_data, y)
        metrics = {"td_loss": td_loss.detach(), "q": q_data.detach().mean()}
        if not config.rows_sampled:
            return td_loss, metrics
        corrected = importance_corrected(q_sampled.view(2, *log_density.shape), log_density)
        gap = conservative_gap(corrected, q_data, config.temperature)
        return td_loss + config.min_q_weight * gap.sum(), metrics | {"conservative_gap": gap.detach().mean()}

    def update_eager(self, batch: Batch, noise: CQLNoise) -> dict[str, Tensor]:
        """One gradient step on everything."""
        nets = self.nets
        y = nets.td_target(batch, noise.target)
        obs, action, log_density = self.rows_of(batch, noise)
        loss, metrics = self.critic_loss(nets.critic(obs, action), y, log_density)
        actor_loss, actor_metrics = nets.actor_loss(batch.obs, noise.policy)
        nets.descend(loss + actor_loss)
        return metrics | actor_metrics

    def update_by_hand(self, batch: Batch, noise: CQLNoise) -> dict[str, Tensor]:
        """`update_eager`, autograd between the critics' values and their loss alone."""
        nets = self.nets
        y = nets.native_td_target(batch, noise.target)
        obs, action, log_density = self.rows_of(batch, noise)
        metrics = nets.backpropagate_through(obs, action, lambda q: self.critic_loss(q, y, log_density))
        metrics |= nets.backpropagate_actor(batch.obs, noise.policy)
        nets.step()
        return metrics


CQL_SPEC = AgentSpec(
    CQLConfig(),
    CQL,
    make_policy,
    "conservative Q-learning on the data alone (arXiv 2006.04779)",
    offline=True,
    needs_data=True,
    plan=plan_updates,
    page="h2o",
    style=Style("#009E73", "-"),
    tiny={"hidden": (8, 8), "batch_size": 8, "sampled_actions": 3},
)
SAC_OFFLINE_SPEC = AgentSpec(
    CQLConfig(min_q_weight=0.0),
    CQL,
    make_policy,
    "SAC on the data alone: CQL without its conservative term (control)",
    offline=True,
    needs_data=True,
    plan=plan_updates,
    page="h2o",
    style=Style("#009E73", ":"),
    tiny=CQL_SPEC.tiny,
)
