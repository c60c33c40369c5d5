"""Short rollouts of a learned model from states that were visited (MBPO; docs/derivations/lipschitz_mbrl.md §4).

| derivation | paper | here |
|---|---|---|
| (4.1) k(e), the length of a rollout in epoch e | – | `rollout_length` |
| (4.2) capacity of D_model, made anew when k changes | – | `model_capacity`, `Imagination.set_length` |
| (4.3) one call, as in §4.2 | – | `Imagination.roll_out`, `Imagination.imagine` |
| (4.4) rows that the model threw out of reach | – | `plausible_bounds`, `is_lost` |
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from surefoot.agents.interface import Batch, Setting
from surefoot.agents.parts.random import make_generator
from surefoot.agents.parts.ranges import AT_LEAST_1, Rule
from surefoot.agents.parts.replay import Replay
from surefoot.agents.parts.state import Stateful


@dataclass(frozen=True)
class ImaginationConfig:
    """When the model is rolled out, for how long and from how many states. Defaults: MBPO's code."""

    epoch_length: int = 1_000
    """Environment steps per epoch, the unit of the rollout schedule."""
    rollout_schedule: tuple[int, int, int, int] = (20, 150, 1, 1)
    """e₀, e₁, k_min, k_max: the rollout length grows linearly from k_min at epoch e₀ to k_max at epoch e₁."""
    rollout_starts: int = 100_000
    """Start states of the rollouts after each training call of the model."""
    model_interval: int = 250
    """Environment steps between two training calls of the model, each followed by rollouts."""
    retain_epochs: int = 1
    """Epochs for which model rollouts are kept."""
    runaway_factor: float = 10.0
    """Drop predicted states that are further from the centre of the real ones than this multiple of their half
    range."""


IMAGINATION_RANGES: dict[str, Rule] = {
    **dict.fromkeys(["epoch_length", "rollout_starts", "model_interval", "retain_epochs"], AT_LEAST_1),
    "runaway_factor": AT_LEAST_1,
    "rollout_schedule": (
        lambda x: 0 <= x[0] < x[1] and 1 <= x[2] <= x[3],
        "e0, e1, k_min, k_max with 0 <= e0 < e1 and 1 <= k_min <= k_max",
    ),
}


# --- the mathematics -------------------------------------------------------------------------------------------------


def rollout_length(epoch: int, schedule: tuple[int, int, int, int]) -> int:
    """Return k(e) = ⌊k_min + (e − e₀)/(e₁ − e₀)·(k_max − k_min)⌋, held at both ends."""
    first, last, shortest, longest = schedule
    passed = min(max(epoch - first, 0), last - first)
    return shortest + passed * (longest - shortest) // (last - first)


def model_capacity(length: int, config: ImaginationConfig) -> int:
    """Return how many imagined transitions are kept: `retain_epochs` epochs of whole rollouts of `length` steps."""
    return max(1, config.retain_epochs * length * config.rollout_starts * config.epoch_length // config.model_interval)


class StateBounds(NamedTuple):
    """Where states may lie, dimension by dimension, both (obs,)."""

    middle: Tensor
    half: Tensor


def plausible_bounds(rows: Batch, factor: float) -> StateBounds:
    """Return the range of all states in `rows`, `factor` times as wide; a dimension that never varies counts as ±1."""
    low, high = torch.stack([rows.obs, rows.next_obs]).flatten(0, 1).aminmax(dim=0)
    half = 0.5 * (high - low)
    return StateBounds(0.5 * (high + low), factor * torch.where(half < 1e-12, 1.0, half))


def is_lost(reward: Tensor, next_obs: Tensor, bounds: StateBounds) -> Tensor:
    """Return which imagined successors (B,) are not finite or outside the bounds."""
    inside = ((next_obs - bounds.middle).abs() <= bounds.half).all(-1)  # false for NaN
    return ~(inside & reward.isfinite())


# --- rolling out ------------------------------------------------------------------------------------------------------


class Acts(Protocol):
    """A policy that samples."""

    def act(self, obs: Tensor, *, explore: bool = False, generator: torch.Generator | None = None) -> Tensor: ...


class Predicts(Protocol):
    """A model of the dynamics."""

    def predict(self, obs: Tensor, action: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]: ...


class Imagination(Stateful):
    """D_model, a replay of imagined transitions, and the generator of all that is random in them."""

    STATEFUL = ("replay", "generator", "length")

    def __init__(self, config: ImaginationConfig, setting: Setting, obs_dim: int, action_dim: int) -> None:
        """Raises `ValueError` for a setting without a termination rule."""
        if setting.termination is None:
            raise ValueError(
                "this agent rolls out a learned model: its setting needs `termination`, the task's termination function"
            )
        self.config, self.termination = config, setting.termination
        self.length = rollout_length(0, config.rollout_schedule)
        sampling = make_generator(setting.seed, "model replay", setting.device)
        capacity = model_capacity(self.length, config)
        self.replay = Replay(capacity, obs_dim, action_dim, sampling, setting.device)
        self.generator = make_generator(setting.seed, "imagination", setting.device)

    def begin_epoch(self, epoch: int) -> None:
        """Set the rollout length of an epoch and, where it changed, the capacity; the newest rows stay."""
        self.set_length(rollout_length(epoch, self.config.rollout_schedule))

    def set_length(self, length: int) -> None:
        self.length, capacity = length, model_capacity(length, self.config)
        if capacity != self.replay.capacity:
            self.replay.resize(capacity)

    def roll_out(self, policy: Acts, model: Predicts, real: Replay) -> dict[str, Tensor]:
        """Start from states of `real` drawn with replacement, act, predict, and push every transition that is sound.

        A rollout continues from successors that are neither terminal nor lost; its length ends nothing.
        """
        rows = real.everything()
        bounds = plausible_bounds(rows, self.config.runaway_factor)
        device = rows.obs.device
        starts = torch.randint(len(real), (self.config.rollout_starts,), generator=self.generator, device=device)
        obs = rows.obs.index_select(0, starts)
        pushed, lost, ended = 0, torch.zeros((), device=device), torch.zeros((), device=device)
        for _ in range(self.length):
            batch, bad = self.imagine(policy, model, obs, bounds)
            batch = Batch(*(field[~bad] for field in batch))
            self.replay.push(batch)
            pushed += len(batch.obs)
            lost, ended = lost + bad.sum(), ended + batch.terminated.sum()
            obs = batch.next_obs[batch.terminated == 0]
        return {
            "rollout_length": torch.tensor(float(self.length)),
            "rollout_rows": torch.tensor(float(pushed)),
            "rollout_mean_length": torch.tensor(pushed / self.config.rollout_starts),
            "rollout_ended": ended / self.config.rollout_starts,
            "rollout_dropped": lost,
        }

    @torch.no_grad()
    def imagine(self, policy: Acts, model: Predicts, obs: Tensor, bounds: StateBounds) -> tuple[Batch, Tensor]:
        """Return one imagined step from every state (B, obs), and which of them are lost (B,)."""
        action = policy.act(obs, explore=True, generator=self.generator)
        reward, next_obs = model.predict(obs, action, self.generator)
        ended = self.termination(obs, action, next_obs)
        return Batch(obs, action, reward, next_obs, ended.float()), is_lost(reward, next_obs, bounds)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.set_length(state["length"])  # the replay takes back as many rows as it held
        super().load_state_dict(state)
