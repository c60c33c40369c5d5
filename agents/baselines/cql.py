"""CQL(H): offline actor-critic with values pushed down on actions the data does not hold.

Kumar, Zhou, Tucker, Levine, "Conservative Q-Learning for Offline Reinforcement Learning", NeurIPS 2020,
arXiv 2006.04779; as the baseline of H2O (docs/derivations/h2o.md §9.1).

| derivation | paper | here |
|---|---|---|
| (9.1), (9.3) CQL(H): log Σ_a exp Q − Q(data) | (4) | `conservative_gap` |
| (9.2) log-sum-exp by importance sampling | appendix F | `importance_corrected` |
| (9.3) actions from three sources | appendix F | `CQL.sampled_values` |

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
from surefoot.agents.parts.ranges import AT_LEAST_0, AT_LEAST_1, POSITIVE, check_ranges
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
    """Weight of the conservative (CQL) term."""
    sampled_actions: int = 10
    """Actions sampled from each of three sources: uniform, π(s), π(s')."""
    temperature: float = 1.0
    """Temperature of the log-sum-exp."""

    def __post_init__(self) -> None:
        rules = {"min_q_weight": AT_LEAST_0, "sampled_actions": AT_LEAST_1, "temperature": POSITIVE}
        check_ranges(self, rules)


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
        self.update = accelerate(self.update_eager, setting, self.nets.owners())

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
        many = (self.config.sampled_actions, *one)
        policy, target, current, following = normal(self.noise_generator, one, one, many, many)
        return CQLNoise(policy, target, uniform(self.noise_generator, many), current, following)

    def sampled_values(self, batch: Batch, noise: CQLNoise) -> Tensor:
        """Return corrected Q (2, 3·A, B) of uniform actions and of the policy's at s and at s', all taken in s."""
        samples, rows = noise.uniform.shape[:2]
        with torch.no_grad():
            current, log_current = self.nets.policy.sample(batch.obs, noise.current)
            following, log_following = self.nets.policy.sample(batch.next_obs, noise.following)
            log_uniform = torch.full_like(log_current, -self.action_dim * math.log(2.0))
            log_density = torch.cat([log_uniform, log_following, log_current])
            actions = torch.cat([noise.uniform, following, current])  # (3A, B, act)
        obs = batch.obs.expand(3 * samples, -1, -1).flatten(0, 1)
        q = self.nets.critic(obs, actions.flatten(0, 1)).view(2, 3 * samples, rows)
        return importance_corrected(q, log_density)

    def update_eager(self, batch: Batch, noise: CQLNoise) -> dict[str, Tensor]:
        """One gradient step on everything."""
        nets, config = self.nets, self.config
        y = nets.td_target(batch, noise.target)
        q = nets.critic(batch.obs, batch.action)
        td_loss = twin_q_loss(q, y)
        gap = conservative_gap(self.sampled_values(batch, noise), q, config.temperature)
        actor_loss, metrics = nets.actor_loss(batch.obs, noise.policy)
        nets.descend(td_loss + config.min_q_weight * gap.sum() + actor_loss)
        mine = {"td_loss": td_loss.detach(), "conservative_gap": gap.detach().mean(), "q": q.detach().mean()}
        return mine | metrics


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
