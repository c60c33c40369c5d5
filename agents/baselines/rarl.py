"""RARL: an agent and an adversary that changes the parameters at every step, both learning off-policy.

Pinto, Davidson, Sukthankar, Gupta, "Robust Adversarial Reinforcement Learning", ICML 2017, arXiv 1703.02702; as it is
compared on uncertainty sets: both players are TD3 (code SuReLI/TCRMDP, companion of arXiv 2406.08395);
docs/derivations/iwocs.md §8.3.

| derivation | paper | here |
|---|---|---|
| (8.5) the adversary's x in [−1, 1]^d as parameters | – | `parts.env_parameters.ParameterScaling.params` |
| §8.3 it acts at every step, on the agent's observation; nominal at a reset | – | `rarl.RARL.disturb` |
| (8.6) its reward is −r | – | `rarl.against` |
| (8.2), (8.3), (8.4) both players learn by TD3 | TD3 (9), (10), (14) | `parts.td3` |
| §6.2 | – | `rarl.RARLConfig` |

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

from surefoot.agents.interface import AgentSpec, Batch, Progress, Setting, Spaces, Style, UncertainEnv
from surefoot.agents.parts.acceleration import accelerate, take_step
from surefoot.agents.parts.budget import plan_collector
from surefoot.agents.parts.env_parameters import BatchWithParameters, ParameterScaling, replay_with_parameters
from surefoot.agents.parts.interaction import RolloutConfig
from surefoot.agents.parts.random import make_generator, normal, uniform
from surefoot.agents.parts.ranges import check_ranges
from surefoot.agents.parts.state import Stateful
from surefoot.agents.parts.td3 import DeterministicPolicy, TD3Config, TD3Nets, make_td3_policy, policy_loss
from surefoot.agents.sac import SAC_SPEC, box_dims, make_collector, twin_q_loss


@dataclass(frozen=True)
class RARLConfig(RolloutConfig, TD3Config):
    """Defaults: that code's (§6.2)."""

    learning_starts: int = 25_000
    """Environment steps before the first update."""
    random_steps: int = 25_000
    """Environment steps with uniformly random actions and parameters at the start."""

    def __post_init__(self) -> None:
        check_ranges(self)


def against(batch: BatchWithParameters) -> Batch:
    """Return the transitions as the adversary sees them: its action is the parameters, its reward −r."""
    return Batch(batch.obs, batch.parameters, -batch.reward, batch.next_obs, batch.terminated)


class RARL(Stateful):
    """Two TD3 learners in environments whose parameters one of them sets."""

    STATEFUL = ("agent", "adversary", "replay", "collector", "noise_generator", "parameter_generator", "updates")

    def __init__(self, config: RARLConfig, setting: Setting) -> None:
        assert setting.perturbed_envs is not None, "RARL trains in an uncertainty set"
        self.config = config
        self.env = cast(UncertainEnv, setting.env)
        self.scaling = ParameterScaling(self.env)
        self.nominal = torch.from_numpy(setting.perturbed_envs.nominal)
        self.env.set_params(self.nominal)
        obs_dim, action_dim = box_dims(setting.spaces)
        self.agent = TD3Nets(config, setting, (obs_dim, action_dim), stream="networks")
        self.adversary = TD3Nets(config, setting, (obs_dim, self.scaling.dims), stream="adversary")
        replay_generator = make_generator(setting.seed, "replay", setting.device)
        dims = (obs_dim, action_dim, self.scaling.dims)
        self.replay = replay_with_parameters(config.replay_capacity, dims, replay_generator, setting.device)
        self.collector = make_collector(config, setting)
        self.noise_generator = make_generator(setting.seed, "update noise", setting.device)
        self.parameter_generator = make_generator(setting.seed, "worlds", setting.device)
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
        """Let the adversary set the parameters of every environment's next step; return them (N, d) in [−1, 1]."""
        if self.collector.env_steps < self.config.random_steps:
            parameters = uniform(self.parameter_generator, (len(obs), self.scaling.dims))
        else:
            parameters = self.adversary.policy.act(obs, explore=True, generator=self.parameter_generator)
        self.env.set_params(self.scaling.params(parameters), now=True)
        self.env.set_params(self.nominal)  # from the next reset on, until the adversary acts there
        return parameters

    def step(self) -> Progress:
        """One step in every environment and the updates it is due."""
        episodes = self.collector.advance(self.policy, self.replay, self.disturb)
        update, env_steps = self.collector.take_update()
        if not update:
            return Progress(env_steps, 0, {}, episodes)
        batch = self.replay.sample(self.config.batch_size)
        shapes = [(len(batch.reward), width) for width in (batch.action.shape[1], self.scaling.dims)]
        metrics = self.update_critics(batch, *normal(self.noise_generator, *shapes))
        self.updates += 1
        if self.updates % self.config.policy_delay == 0:
            metrics |= self.update_policies(batch.obs)
        return Progress(env_steps, 1, metrics, episodes)

    def update_critics_eager(
        self, batch: BatchWithParameters, noise: Tensor, parameter_noise: Tensor
    ) -> dict[str, Tensor]:
        """One gradient step on both players' critics."""
        metrics: dict[str, Tensor] = {}
        mine, its = (
            (self.agent, batch.transitions, noise, ""),
            (self.adversary, against(batch), parameter_noise, "adversary_"),
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
    "TD3 against an adversary that changes the parameters at every step (arXiv 1703.02702)",
    needs_uncertainty_set=True,
    goal="worst case",
    plan=plan_collector,
    page="robust_baselines",
    style=Style("#D55E00", "-."),
    tiny=SAC_SPEC.tiny,
    tiny_env={"id": "surefoot/Pendulum-v0", "max_episode_steps": 15},
)
