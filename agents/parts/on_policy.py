"""What on-policy agents with stacked networks share: one policy and critic per time step, acting, returns, advantages.

Two forms. With a horizon H: networks for every step, no discount, episodes of exactly H steps (HNPG's experiments).
Without: one stationary pair, discounted, any episodes. Members of a stack are step-major: step h of seed s is h·S + s.
Derivation: docs/derivations/hnpg.md.

| derivation | paper | here |
|---|---|---|
| (3.1) a batch of experience | algorithm 5, line 2 | `OnPolicy.collect` |
| (3.2), stationary (5.2): returns | – | `OnPolicy.returns` |
| (3.6) state values | – | `OnPolicy.values` |
| (4.1), (4.2), stationary (5.3): advantages | GAE, (16) | `OnPolicy.advantages` |
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

import gymnasium as gym
import torch
from torch import Tensor, nn

from surefoot.agents.interface import Episodes, Setting, Spaces
from surefoot.agents.parts.episodes import (
    RolloutBatch,
    SuccessConfig,
    SuccessMeter,
    collect_rollout,
    join_waves,
    require_horizon,
    require_whole,
)
from surefoot.agents.parts.gae import backward_sums, generalised_advantages
from surefoot.agents.parts.heads import head_for
from surefoot.agents.parts.interaction import Interaction
from surefoot.agents.parts.random import make_generator
from surefoot.agents.parts.ranges import AT_LEAST_1, UNIT_INTERVAL, WIDTHS, Rule, check_ranges, optional
from surefoot.agents.parts.state import Stateful
from surefoot.agents.parts.stochastic import CriticStack, PolicyStack, state_values
from surefoot.agents.parts.trust_region import TrustRegionConfig


@dataclass(frozen=True)
class OnPolicyConfig(SuccessConfig, TrustRegionConfig):
    """Defaults: HNPG's paper and code (§6, §7.1)."""

    horizon: int | None = None
    """Horizon H: one network per time step, for tasks whose episodes all last H steps; needs `env.time_aware`. None:
    one stationary policy, discounted."""
    policy_hidden: tuple[int, ...] = (16, 16)
    """Hidden layer widths of the policies."""
    critic_hidden: tuple[int, ...] = (64, 64)
    """Hidden layer widths of the critics."""
    batch_steps: int = 1_000
    """Environment steps per iteration and seed, rounded up to whole episodes (without a horizon, to whole vector
    steps)."""
    gae_lambda: float = 0.97
    """λ of generalised advantage estimation (GAE); τ in the derivation, where λ is another weight."""
    gamma: float = 0.99
    """Discount factor of the stationary form; with a horizon there is none."""
    critic_lr: float = 3e-4
    """Learning rate of the critics (Adam); the optimiser is reset at every fit."""
    critic_steps: int = 30
    """Full-batch gradient steps per fit of the critics."""
    value_samples: int = 10
    """Actions sampled to average V(s) from f(s, a)."""

    def __post_init__(self) -> None:
        check_ranges(self, ON_POLICY_RANGES)


# Of these fields the task and the budget are made, not the method; baseline runs take what a run changes of them.
TASK_FIELDS = ("horizon", *(field.name for field in fields(SuccessConfig)))
ON_POLICY_RANGES: dict[str, Rule] = {
    **dict.fromkeys(
        ["batch_steps", "critic_steps", "value_samples", "cg_iterations", "line_search_steps", "solved_window"],
        AT_LEAST_1,
    ),
    "horizon": optional(AT_LEAST_1),
    **dict.fromkeys(["policy_hidden", "critic_hidden"], WIDTHS),
    **dict.fromkeys(["kl_limit", "critic_lr"], (lambda x: 0 < x < math.inf, "positive")),
    **dict.fromkeys(["gae_lambda", "gamma", "accept_ratio", "solved_at"], UNIT_INTERVAL),
    **dict.fromkeys(["damping", "cg_tolerance"], (lambda x: 0 <= x < math.inf, "at least 0")),
    "kl_slack": optional((lambda x: x >= 1, "at least 1, or None for no test")),
}


class DeployedPolicy(nn.Module):
    """The policy of one seed. With a horizon an observation's last coordinate is the step, which picks the network."""

    def __init__(self, stack: PolicyStack, horizon: int | None) -> None:
        super().__init__()
        self.stack, self.horizon = stack, horizon

    @torch.no_grad()
    def act(self, obs: Tensor, *, explore: bool = False, generator: torch.Generator | None = None) -> Tensor:
        """Return actions for obs (N, obs): the mode, or a sample if `explore`."""
        head = self.stack.head
        if self.horizon is None:
            outputs = self.stack(obs[None])[0]
        else:
            every = self.stack(obs[None, :, :-1].expand(self.horizon, -1, -1))
            step = obs[:, -1].long().clamp(0, self.horizon - 1)
            outputs = every.gather(0, step[None, :, None].expand_as(every[:1]))[0]
        return head.to_task(head.sample(outputs, generator) if explore else head.mode(outputs))


def make_policy(config: OnPolicyConfig, spaces: Spaces, generator: torch.Generator | None = None) -> DeployedPolicy:
    """Return the policy a config describes; without a generator its weights are only there to be loaded over."""
    stack = make_stack(config, spaces, config.horizon or 1, generator or torch.Generator())
    return DeployedPolicy(stack, config.horizon)


def make_stack(config: OnPolicyConfig, spaces: Spaces, stack_size: int, generator: torch.Generator) -> PolicyStack:
    return PolicyStack(stack_size, obs_width(config, spaces), head_for(spaces.action), config.policy_hidden, generator)


def obs_width(config: OnPolicyConfig, spaces: Spaces) -> int:
    """Return what the networks see: the observation, less the step."""
    if not isinstance(spaces.observation, gym.spaces.Box):
        raise ValueError(
            f"this agent needs vector (Box) observations, not {spaces.observation}; choose another --env.id"
        )
    return spaces.observation.shape[0] - (config.horizon is not None)


class OnPolicy(Stateful):
    """Policies, critics and the environments they act in, for S seeds; what is common to HNPG and its TRPO baseline."""

    STATEFUL = ("policy", "critic", "interaction", "generator", "success", "env_steps")

    def __init__(self, config: OnPolicyConfig, setting: Setting) -> None:
        env = setting.env
        assert env is not None, "an on-policy agent needs an environment"
        self.config, self.seeds, self.device = config, setting.num_seeds, setting.device
        if config.horizon is not None:
            require_time_aware(setting.spaces)
            require_horizon(env, config.horizon, setting.seed)
        self.envs_per_seed = env.num_envs // self.seeds
        width, stack_size = obs_width(config, setting.spaces), (config.horizon or 1) * self.seeds
        start = make_generator(setting.seed, "networks")  # on the CPU: the same start on every device
        self.policy = make_stack(config, setting.spaces, stack_size, start).to(self.device)
        self.head = self.policy.head
        self.critic = CriticStack(stack_size, width, self.head.dim, config.critic_hidden, start).to(self.device)
        self.interaction = Interaction(env, setting.seed)
        self.generator = make_generator(setting.seed, "acting", self.device)
        self.success = SuccessMeter(config, self.seeds, self.device)
        self.env_steps = 0  # of one seed

    # --- layout -------------------------------------------------------------------------------------------------------

    def by_member(self, x: Tensor) -> Tensor:
        """Return (T, S, n, …) as rows of each member: (H·S, n, …), or (S, T·n, …) without a horizon."""
        return x.transpose(0, 1).flatten(1, 2) if self.config.horizon is None else x.flatten(0, 1)

    def by_time(self, x: Tensor) -> Tensor:
        """Undo `by_member`."""
        if self.config.horizon is None:
            return torch.unflatten(x, 1, (-1, self.envs_per_seed)).transpose(0, 1)
        return torch.unflatten(x, 0, (self.config.horizon, self.seeds))

    def members(self, h: int) -> slice:
        """Return the members of step h, one per seed."""
        return slice(h * self.seeds, (h + 1) * self.seeds)

    # --- acting -------------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def collect(self) -> tuple[RolloutBatch, list[Episodes], dict[str, Tensor]]:
        """Return one batch of experience under the current policies, what ended in it, and success metrics.

        `ValueError` where an episode does not last the horizon: networks, returns and advantages go by the step.
        """
        config = self.config
        steps = config.horizon or -(-config.batch_steps // self.envs_per_seed)
        waves = -(-config.batch_steps // (steps * self.envs_per_seed))
        taken = [collect_rollout(self.interaction, self.draw, self.head, self.seeds, steps) for _ in range(waves)]
        rollout = join_waves([rollout for rollout, _ in taken])
        episodes = [entry for _, entries in taken for entry in entries]
        if config.horizon is not None:  # the step has selected the networks and is not an input
            require_whole(rollout.ended, config.horizon)
            rollout = rollout._replace(obs=rollout.obs[..., :-1], next_obs=rollout.next_obs[..., :-1])
        self.env_steps += steps * waves * self.envs_per_seed
        return rollout, episodes, self.success.add(episodes, self.env_steps)

    def draw(self, obs: Tensor, t: int) -> Tensor:
        """Return actions (S, n, act) at step t of a rollout."""
        h = 0 if self.config.horizon is None else t
        seen = obs if self.config.horizon is None else obs[..., :-1]
        outputs = self.policy(seen, self.policy.members(self.members(h)))
        return self.head.sample(outputs, self.generator)

    # --- returns and advantages ---------------------------------------------------------------------------------------

    def values(self, obs: Tensor) -> Tensor:
        """Return V (E, B) of rows (E, B, obs)."""
        return state_values(self.critic, self.policy, obs, samples=self.config.value_samples, generator=self.generator)

    def returns(self, rollout: RolloutBatch) -> Tensor:
        """Return y (E, B), Monte-Carlo returns: to the episode's end, never bootstrapped within it.

        Without a horizon they are discounted, and where a time-out or the end of the batch cuts an episode, V stands
        for what would have followed.
        """
        if self.config.horizon is not None:
            return self.by_member(backward_sums(rollout.reward, torch.ones_like(rollout.reward)))
        gamma, cut = self.config.gamma, cut_ends(rollout)
        tail = self.by_time(self.values(self.by_member(rollout.next_obs))) * cut * (1 - rollout.terminated)
        return self.by_member(backward_sums(rollout.reward + gamma * tail, gamma * (1 - cut)))

    def advantages(self, rollout: RolloutBatch) -> Tensor:
        """Return Â (E, B), generalised advantages under the current critics, not normalised."""
        value = self.by_time(self.values(self.by_member(rollout.obs)))
        if self.config.horizon is not None:
            following = torch.cat([value[1:], torch.zeros_like(value[:1])])  # V_H = 0
            ended, gamma = torch.zeros_like(value), 1.0
        else:
            following = self.by_time(self.values(self.by_member(rollout.next_obs))) * (1 - rollout.terminated)
            ended, gamma = cut_ends(rollout), self.config.gamma
        advantages = generalised_advantages(
            rollout.reward, value, following, ended, gamma=gamma, gae_lambda=self.config.gae_lambda
        )
        return self.by_member(advantages)

    # --- deployment ---------------------------------------------------------------------------------------------------

    def deployed(self) -> DeployedPolicy:
        """Return the policy of the first seed; it shares no memory with the stack."""
        return DeployedPolicy(self.policy.only(slice(0, None, self.seeds)), self.config.horizon)

    def act(self, obs: Tensor, *, explore: bool = False) -> Tensor:
        """Return actions of the first seed's policy for obs (N, obs): its mode, or a sample."""
        return self.deployed().act(obs, explore=explore, generator=self.generator)


def cut_ends(rollout: RolloutBatch) -> Tensor:
    """Return (T, S, n), 1 where nothing of the same episode follows in the batch."""
    cut = rollout.ended.to(rollout.reward.dtype)
    cut[-1] = 1.0
    return cut


def require_time_aware(spaces: Spaces) -> None:
    """Raise unless the last coordinate of an observation can be the step (a number from 0 up, without bound)."""
    box = spaces.observation
    if not (isinstance(box, gym.spaces.Box) and box.low[-1] == 0 and box.high[-1] == float("inf")):
        raise ValueError("--agent.horizon needs time-aware observations: add --env.time-aware")


def mean_sigma(policy: PolicyStack) -> dict[str, Tensor]:
    """Return the mean σ over all policies, where they have one."""
    return {} if policy.log_std is None else {"sigma": policy.log_std.detach().exp().mean()}
