"""Fresh on-policy experience for several seeds at once, and whether their episodes succeed.

The environments are divided among the seeds: seed s acts in s·n … (s + 1)·n − 1. Tensors here are (T, S, n, …): time,
seed, environment of the seed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from surefoot.agents.interface import Episodes, OfflineData, VectorEnv
from surefoot.agents.parts.heads import Head
from surefoot.agents.parts.interaction import Interaction
from surefoot.agents.parts.ranges import unread_where


class RolloutBatch(NamedTuple):
    """T steps of S seeds in n environments each."""

    obs: Tensor  # (T, S, n, obs)
    action: Tensor  # (T, S, n, act) as drawn from the policy
    reward: Tensor  # (T, S, n)
    next_obs: Tensor  # (T, S, n, obs), the true successor
    terminated: Tensor  # (T, S, n), 1 where the task ended
    ended: Tensor  # (T, S, n) bool, also time-outs


def collect_rollout(
    interaction: Interaction, draw: Callable[[Tensor, int], Tensor], head: Head, seeds: int, steps: int
) -> tuple[RolloutBatch, list[Episodes]]:
    """Act for `steps` vector steps; `draw` maps observations (S, n, obs) and the step to actions (S, n, act)."""
    columns, episodes = [], []
    for t in range(steps):
        action = draw(interaction.obs.unflatten(0, (seeds, -1)), t)
        batch, ended = interaction.step(head.to_task(action).flatten(0, 1))
        rows = (batch.obs, batch.reward, batch.next_obs, batch.terminated, ended.ended)
        obs, reward, next_obs, terminated, over = (x.unflatten(0, (seeds, -1)) for x in rows)
        columns.append(RolloutBatch(obs, action, reward, next_obs, terminated, over))
        episodes.append(ended)
    return RolloutBatch(*(torch.stack(column) for column in zip(*columns, strict=True))), episodes


def join_waves(rollouts: list[RolloutBatch]) -> RolloutBatch:
    """Return waves of the same length as one batch of more environments."""
    return RolloutBatch(*(torch.cat(fields, dim=2) for fields in zip(*rollouts, strict=True)))


def require_horizon(env: VectorEnv, horizon: int, seed: int) -> None:
    """Raise `ValueError` where the task's episodes do not end at their H-th step while the action 0 is held.

    Other actions may end them earlier: `require_whole` sees that in what is collected.
    """
    obs, _ = env.reset(seed=seed)
    shape = env.single_action_space.shape or ()
    dtype = torch.float32 if shape else torch.int64  # Discrete actions have no shape
    still = torch.zeros((env.num_envs, *shape), dtype=dtype, device=obs.device)
    ended = []
    for step in range(1, horizon + 1):
        _, _, terminated, truncated, _ = env.step(still)
        ended.append(terminated | truncated)
        if bool(ended[-1].any()) and step < horizon:
            break
    require_whole(torch.stack(ended), horizon)


def require_whole(ended: Tensor, horizon: int) -> None:
    """Raise `ValueError` unless every episode of ended (T, …), begun together, ends at its H-th step and no earlier."""
    early = ended[: horizon - 1].flatten(1).any(1).nonzero()
    if len(early):
        raise ValueError(
            f"--agent.horizon is {horizon}, but an episode of this task ended after {int(early[0]) + 1} steps; the "
            "finite-horizon form needs episodes of one length: set it to that, or to None for the discounted form"
        )
    if not bool(ended[horizon - 1].all()):
        raise ValueError(
            f"--agent.horizon is {horizon}, but episodes of this task continue after {horizon} steps; set it "
            f"to their length, cut them with --env.max-episode-steps {horizon}, or set it to None (discounted form)"
        )


def episode_grid(data: OfflineData, horizon: int) -> int:
    """Return the number of episodes of offline data that all take H steps; `ValueError` where they do not."""
    ends = data.episode_end.nonzero().squeeze(-1)
    lengths = ends.diff(prepend=ends.new_tensor([-1]))
    wrong = (lengths != horizon).nonzero()
    if len(wrong):
        first = int(wrong[0])
        raise ValueError(
            f"the data's episode {first} takes {int(lengths[first])} steps, but the horizon is {horizon}; choose "
            "data recorded in a task of this horizon, whole episodes only (--data.fraction 1)"
        )
    if bool((data.obs[:, -1].view(-1, horizon) != torch.arange(horizon, device=data.obs.device)).any()):
        raise ValueError(
            "the last coordinate of the data's observations is not the step; record it with --env.time-aware"
        )
    return len(ends)


@dataclass(frozen=True)
class SuccessConfig:
    """When an episode counts as a success and a run as solved (docs/derivations/hnpg.md §8.6)."""

    success_return: float | None = None
    """Return from which an episode counts as a success; None: success is not measured."""
    solved_at: float = 0.5
    """Success rate, as a moving average, above which the task counts as solved."""
    solved_window: int = 50
    """Iterations in the moving average (all so far while there are fewer), of which those count that end an episode."""
    stop_when_solved: bool = False
    """End the run once all seeds have solved the task."""

    def unread(self) -> dict[str, str]:
        """Return what is left without effect where success is not measured, and why."""
        of_success = ("solved_at", "solved_window", "stop_when_solved")
        return unread_where((self.success_return is None, of_success, "without --agent.success-return"))


def mean_of_finite(values: Tensor) -> Tensor:
    """Return the mean over the first axis of what is finite there; infinity where nothing is."""
    finite = values.isfinite()
    count = finite.sum(0)
    return torch.where(count > 0, torch.where(finite, values, 0.0).sum(0) / count.clamp(min=1), torch.inf)


class SuccessMeter:
    """Success rates of the last iterations, seed by seed, and the sample count at which each seed was solved."""

    def __init__(self, config: SuccessConfig, seeds: int, device: torch.device) -> None:
        self.config, self.seeds = config, seeds
        self.recent = torch.zeros(0, seeds, device=device)  # (≤ window, S); infinity: no episode ended
        self.solved_steps = torch.full((seeds,), -1.0, device=device)  # −1: not yet

    def add(self, episodes: list[Episodes], env_steps: int) -> dict[str, Tensor]:
        """Take in the episodes of one iteration, which ended at `env_steps` samples per seed; return metrics."""
        if self.config.success_return is None:
            return {}
        ended = torch.stack([e.ended for e in episodes]).unflatten(1, (self.seeds, -1))  # (T, S, n)
        returns = torch.stack([e.episode_return for e in episodes]).unflatten(1, (self.seeds, -1))
        wins = ended & (returns >= self.config.success_return - 1e-6)
        count = ended.sum((0, 2))
        rate = torch.where(count > 0, wins.sum((0, 2)) / count.clamp(min=1), torch.inf)
        self.recent = torch.cat([self.recent, rate[None]])[-self.config.solved_window :]
        average = mean_of_finite(self.recent)
        newly = average.isfinite() & (average > self.config.solved_at) & (self.solved_steps < 0)
        self.solved_steps = torch.where(newly, float(env_steps), self.solved_steps)
        return self._metrics(rate, average)

    def _metrics(self, rate: Tensor, average: Tensor) -> dict[str, Tensor]:
        """Return what to log; no rate of a seed without an episode that ended, and no `solved_at` before there is one.

        A number in its place would go into the mean of a log interval.
        """
        solved_at = torch.where(self.solved_steps >= 0, self.solved_steps, torch.inf)
        named = {"success": rate, "success_average": average, "solved_at": solved_at}
        if self.seeds == 1:
            found = {name: value[0] for name, value in named.items()}
        else:
            found = {name: mean_of_finite(value) for name, value in named.items() if name != "solved_at"}
            found |= {f"{name}/seed-{s}": value[s] for s in range(self.seeds) for name, value in named.items()}
        known = torch.stack(list(found.values())).isfinite().tolist()
        return {name: value for (name, value), is_known in zip(found.items(), known, strict=True) if is_known}

    @property
    def done(self) -> bool:
        """Whether the run has reached what it was to stop at."""
        return self.config.stop_when_solved and bool((self.solved_steps >= 0).all())

    def state_dict(self) -> dict[str, Any]:
        return {"recent": self.recent.clone(), "solved_steps": self.solved_steps.clone()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.recent = state["recent"].to(self.recent.device)
        self.solved_steps = state["solved_steps"].to(self.solved_steps.device)
