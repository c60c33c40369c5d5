"""Acting in a vector environment: what was seen, what ended, and where to continue."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from surefoot.agents.interface import Batch, Episodes, VectorEnv
from surefoot.agents.parts.env_parameters import BatchWithParameters
from surefoot.agents.parts.random import uniform
from surefoot.agents.parts.replay import Ring
from surefoot.agents.parts.state import Stateful, unpack


class Explorer(Protocol):
    """A policy with continuous actions that can explore with a generator of its user's."""

    @property
    def action_dim(self) -> int: ...
    def act(self, obs: Tensor, *, explore: bool, generator: torch.Generator | None) -> Tensor: ...


def whole(due: float) -> int:
    """Return how many updates are due, of a sum of fractions that rounding may have left a little short of it."""
    return int(due + 1e-9)


class Interaction(Stateful):
    """A vector environment between two steps; owns the current observation and the running episode sums."""

    STATEFUL = ("env", "obs", "episode_return", "length")

    def __init__(self, env: VectorEnv, seed: int) -> None:
        self.env = env
        self.obs, _ = env.reset(seed=seed)  # (N, obs)
        self.episode_return = torch.zeros(env.num_envs, dtype=torch.float64, device=self.obs.device)
        self.length = torch.zeros(env.num_envs, dtype=torch.int64, device=self.obs.device)
        self.begun_anew = False  # whether loading a state began new episodes
        self.info: dict[str, Any] = {}  # of the last step

    def step(self, action: Tensor) -> tuple[Batch, Episodes]:
        """Take `action` (N, act) in every environment; `next_obs` is the true successor, also at an episode's end."""
        obs, reward, terminated, truncated, info = self.env.step(action)
        self.info = info
        batch = Batch(self.obs, action, reward.float(), info["final_obs"], terminated.float())
        none_ended = info["final_obs"] is obs  # as on most steps of a CPU: each operation left out saves 10 µs
        ended = terminated if none_ended else terminated | truncated
        episodes = Episodes(ended, self.episode_return + reward, self.length + 1)
        self.episode_return, self.length = episodes[1:]
        if not none_ended:
            self.episode_return = torch.where(ended, 0.0, episodes.episode_return)
            self.length = torch.where(ended, 0, episodes.length)
        self.obs = obs
        return batch, episodes

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take the state back; where the environment begins new episodes instead, so do the sums."""
        begun = self.env.load_state_dict(state["env"])
        unpack(self, self.STATEFUL[1:], state)
        self.begun_anew = begun is not None
        if begun is not None:
            self.obs = begun
            self.episode_return.zero_()
            self.length.zero_()


def rewards_of(info: dict[str, Any], reward: Tensor, names: Sequence[str]) -> Tensor:
    """Return the rewards (N, m) of these names in the info of a step, or without names the reward (N,)."""
    return torch.stack([info[name].to(reward.dtype) for name in names], -1) if names else reward


def require_rewards(env: Any, names: Sequence[str]) -> None:
    """Raise `ValueError` unless the steps of a task report rewards of these names."""
    known = list(getattr(env, "parts", ()))
    if wrong := [name for name in names if name not in known]:
        has = f"the rewards {', '.join(known)}" if known else "one reward alone; Larder has food and water"
        raise ValueError(f"--agent.rewards names {wrong[0]!r}, but this task has {has}")


@dataclass(frozen=True)
class RolloutConfig:
    """How an off-policy agent alternates between acting and learning."""

    rollout_steps: int = 1
    """Environment steps between two rounds of updates (rounded to whole vector steps)."""
    updates_per_step: float = 1.0
    """Gradient updates per environment step."""
    learning_starts: int = 5_000
    """Environment steps before the first round of updates."""
    random_steps: int = 5_000
    """Environment steps with uniformly random actions at the start (SAC's authors: 1,000 to 10,000, depending on the
    task)."""


class Collector(Stateful):
    """Collects the transitions of an off-policy agent; the updates due for a rollout are made before the next one.

    Environment steps are counted as their updates are spent, so that "10,000 steps" always means with their updates.
    """

    STATEFUL = ("interaction", "generator", "env_steps", "uncounted", "updates_due")

    def __init__(self, interaction: Interaction, generator: torch.Generator, config: RolloutConfig) -> None:
        self.interaction, self.generator, self.config = interaction, generator, config
        self.env_steps = 0
        self.uncounted = 0
        self.updates_due = 0.0

    @property
    def due(self) -> int:
        """How many updates are due."""
        return whole(self.updates_due)

    def advance(
        self, policy: Explorer, replay: Ring[Any], enter: Callable[[Tensor], Tensor] | None = None
    ) -> tuple[Episodes, ...]:
        """Unless updates are due, act and push to `replay`; return what ended in those steps.

        `enter` sees the observations before every step, may set the parameters of the environments, and returns what is
        stored of them with the transitions, (N, d).
        """
        if self.due:
            return ()
        num_envs = self.interaction.env.num_envs
        ended = []
        for _ in range(max(1, self.config.rollout_steps // num_envs)):
            parameters = enter(self.interaction.obs) if enter else None
            batch, episodes = self.interaction.step(self.choose(policy))
            replay.push(batch if parameters is None else BatchWithParameters(*batch, parameters))
            ended.append(episodes)
            self.env_steps += num_envs
        steps = num_envs * len(ended)
        self.uncounted += steps
        if self.env_steps > self.config.learning_starts:
            self.updates_due += steps * self.config.updates_per_step
        return tuple(ended)

    def take_update(self) -> tuple[bool, int]:
        """Spend one update if one is due; return whether it was, and the environment steps that are counted with it."""
        due = self.due
        steps = self.uncounted // due if due else self.uncounted
        self.uncounted -= steps
        self.updates_due -= due > 0
        return due > 0, steps

    def choose(self, policy: Explorer) -> Tensor:
        """Return exploring actions (N, act): uniform in the first `random_steps`, then sampled from the policy."""
        obs = self.interaction.obs
        if self.env_steps >= self.config.random_steps:
            return policy.act(obs, explore=True, generator=self.generator)
        return uniform(self.generator, (len(obs), policy.action_dim))


def crosses(before: int, after: int, every: int) -> bool:
    """Whether a multiple of `every` lies in (before, after]; an agent may take many steps at once."""
    return after // every > before // every
