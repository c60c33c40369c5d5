"""RARL: an agent and an adversary that changes the world at every step, both learning off-policy.

Pinto, Davidson, Sukthankar, Gupta, "Robust Adversarial Reinforcement Learning", ICML 2017, arXiv 1703.02702; as it is
compared on uncertainty sets: both players are TD3 (code SuReLI/TCRMDP, companion of arXiv 2406.08395).

| what | here |
|---|---|
| the adversary's x in [−1, 1]^d is the world low + (x + 1)(high − low)/2 | `parts.worlds.Box.params` |
| it acts at every step, in the middle of episodes, on the same observation as the agent | `RARL.disturb` |
| at a reset the parameters are the nominal ones | `RARL.disturb` |
| its reward is −r | `against` |
| TD3's equations, for both | `parts.td3` |

Where this differs from that code, and why:
- Both players learn from the same batch of one replay, which holds every transition once; theirs keeps two.
- A time-out does not end the bootstrap.
- The paper itself takes turns in training the players, by TRPO, and pushes bodies by forces (sets `ROBOT-force`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor

from surefoot.agents.interface import AgentSpec, Batch, Progress, Setting, Spaces, UncertainEnv
from surefoot.agents.parts.acceleration import accelerate, take_step
from surefoot.agents.parts.interaction import RolloutConfig
from surefoot.agents.parts.random import make_generator, normal, uniform
from surefoot.agents.parts.ranges import check_ranges
from surefoot.agents.parts.state import Stateful
from surefoot.agents.parts.td3 import DeterministicPolicy, TD3Config, TD3Nets, make_td3_policy, policy_loss
from surefoot.agents.parts.worlds import Box, WorldBatch, world_replay
from surefoot.agents.sac import box_dims, make_rollout, twin_q_loss


@dataclass(frozen=True)
class RARLConfig(RolloutConfig, TD3Config):
    """Defaults: that code's (brief iwocs.md, section 10)."""

    learning_starts: int = 25_000
    """Environment steps before the first update."""
    random_steps: int = 25_000
    """Environment steps with uniform actions and uniform worlds at the start."""

    def __post_init__(self) -> None:
        check_ranges(self)


def against(batch: WorldBatch) -> Batch:
    """Return the transitions as the adversary sees them: its action is the world, its reward −r."""
    return Batch(batch.obs, batch.world, -batch.reward, batch.next_obs, batch.terminated)


class RARL(Stateful):
    """Two TD3 learners in lanes whose parameters one of them sets."""

    STATEFUL = ("agent", "adversary", "replay", "rollout", "noise_generator", "world_generator", "updates")

    def __init__(self, config: RARLConfig, setting: Setting) -> None:
        assert setting.worlds is not None, "RARL trains in an uncertainty set"
        self.config = config
        self.env = cast(UncertainEnv, setting.env)
        self.box = Box(self.env)
        self.nominal = torch.from_numpy(setting.worlds.nominal)
        self.env.set_params(self.nominal)
        obs_dim, action_dim = box_dims(setting.spaces)
        self.agent = TD3Nets(config, setting, (obs_dim, action_dim), stream="networks")
        self.adversary = TD3Nets(config, setting, (obs_dim, self.box.dims), stream="adversary")
        replay_generator = make_generator(setting.seed, "replay", setting.device)
        dims = (obs_dim, action_dim, self.box.dims)
        self.replay = world_replay(config.replay_capacity, dims, replay_generator, setting.device)
        self.rollout = make_rollout(config, setting)
        self.noise_generator = make_generator(setting.seed, "update noise", setting.device)
        self.world_generator = make_generator(setting.seed, "worlds", setting.device)
        self.updates = 0
        owners = [*self.agent.owners(), *self.adversary.owners()]
        self.update_critics = accelerate(self.update_critics_eager, setting, owners)
        self.update_policies = accelerate(self.update_policies_eager, setting, owners)

    @property
    def policy(self) -> DeterministicPolicy:
        return self.agent.policy

    def act(self, obs: Tensor, *, explore: bool = False) -> Tensor:
        """Return actions (N, act) for obs (N, obs)."""
        return self.policy.act(obs, explore=explore, generator=self.noise_generator)

    def disturb(self, obs: Tensor) -> Tensor:
        """Let the adversary set the world of every lane's next step; return it (N, d) in [−1, 1]."""
        if self.rollout.env_steps < self.config.random_steps:
            world = uniform(self.world_generator, (len(obs), self.box.dims))
        else:
            world = self.adversary.policy.act(obs, explore=True, generator=self.world_generator)
        self.env.set_params(self.box.params(world), now=True)
        self.env.set_params(self.nominal)  # from the next reset on, until the adversary acts there
        return world

    def step(self) -> Progress:
        """One environment step in every lane and the updates it is due."""
        episodes = self.rollout.advance(self.policy, self.replay, self.disturb)
        update, env_steps = self.rollout.take_update()
        if not update:
            return Progress(env_steps, 0, {}, episodes)
        batch = self.replay.sample(self.config.batch_size)
        shapes = [(len(batch.reward), width) for width in (batch.action.shape[1], self.box.dims)]
        metrics = self.update_critics(batch, *normal(self.noise_generator, *shapes))
        self.updates += 1
        if self.updates % self.config.policy_every == 0:
            metrics |= self.update_policies(batch.obs)
        return Progress(env_steps, 1, metrics, episodes)

    def update_critics_eager(self, batch: WorldBatch, noise: Tensor, world_noise: Tensor) -> dict[str, Tensor]:
        """One gradient step on both players' critics."""
        metrics: dict[str, Tensor] = {}
        mine, its = (
            (self.agent, batch.transitions, noise, ""),
            (self.adversary, against(batch), world_noise, "adversary_"),
        )
        for nets, rows, smoothing, name in (mine, its):
            y = nets.td_target(rows, smoothing)
            q = nets.critic(rows.obs, rows.action)
            loss = twin_q_loss(q, y)
            take_step([nets.critic_optimiser], loss)
            metrics |= {f"{name}critic_loss": loss.detach(), f"{name}q": q.detach().mean()}
        return metrics

    def update_policies_eager(self, obs: Tensor) -> dict[str, Tensor]:
        """One gradient step on both policies, then all targets move."""
        metrics: dict[str, Tensor] = {}
        for nets, name in (self.agent, ""), (self.adversary, "adversary_"):
            loss = policy_loss(nets.critic(obs, nets.policy(obs), frozen=True))
            take_step([nets.policy_optimiser], loss)
            nets.move_targets()
            metrics[f"{name}policy_loss"] = loss.detach()
        return metrics


def make_policy(config: RARLConfig, spaces: Spaces) -> DeterministicPolicy:
    """Return the policy a config describes; its weights are only there to be loaded over."""
    return make_td3_policy(config, box_dims(spaces), torch.Generator())


RARL_SPEC = AgentSpec(
    RARLConfig(),
    RARL,
    make_policy,
    "TD3 against an adversary that changes the world at every step (arXiv 1703.02702)",
    needs_worlds=True,
)
