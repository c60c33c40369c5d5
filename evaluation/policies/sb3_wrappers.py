"""What stood between the task and a network of Stable-Baselines3, in RL Zoo's order.

The time feature first, then the normalisation, then the stack of observations; where the statistics are as wide as the
stack they came last.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from surefoot.evaluation.episodes import Act
from surefoot.evaluation.policies.vecnormalize import Normalizer

LONGEST_EPISODE = 1000  # steps that the time feature counts down where the task has no limit, as in sb3-contrib


class Wrappers(NamedTuple):
    """Which there are, for a network that sees `width` numbers."""

    width: int
    time_feature: bool = False
    normalizer: Normalizer | None = None
    stack: int = 1

    @property
    def normalizes_last(self) -> bool:
        """Whether the statistics are of the stacked observations."""
        return self.stack > 1 and self.normalizer is not None and len(self.normalizer.mean) == self.width

    @property
    def seen(self) -> int:
        """How many numbers the task shows."""
        return self.width // self.stack - self.time_feature

    def check(self) -> None:
        """Raise `ValueError` where the widths do not agree."""
        if self.width % self.stack or self.seen < 1:
            raise ValueError(f"the network sees {self.width} numbers, which are not {self.stack} observations")
        if self.normalizer is not None:
            wide, wanted = len(self.normalizer.mean), (self.width // self.stack, self.width)
            if wide not in wanted:
                raise ValueError(f"the statistics are of {wide} numbers, and the network sees {wanted[0]} at a time")

    def in_words(self) -> tuple[str, ...]:
        """Return their names, innermost first."""
        names = [("time feature", self.time_feature), ("normalised", self.normalizer and not self.normalizes_last)]
        names += [(f"stack of {self.stack}", self.stack > 1), ("normalised", self.normalizes_last)]
        return tuple(name for name, there in names if there)


def wrapped(network: Callable[[Tensor], Tensor], wrappers: Wrappers, limit: int | None) -> Act:
    """Return the network behind its wrappers; with a memory where one of them has.

    Args:
        network: of (N, width).
        wrappers: those of its training.
        limit: steps of an episode of the task, which the time feature counts down.
    """
    normalizer = wrappers.normalizer
    if wrappers.time_feature or wrappers.stack > 1:
        return Remembering(network, wrappers, limit or LONGEST_EPISODE)
    return network if normalizer is None else lambda obs: network(normalizer(obs))


class Remembering:
    """A network that sees the time that is left, or the last observations: an `agents.interface.StatefulPolicy`."""

    needs_rewards = False

    def __init__(self, network: Callable[[Tensor], Tensor], wrappers: Wrappers, limit: int) -> None:
        self.network, self.wrappers, self.limit = network, wrappers, limit
        self.reset()

    def reset(self) -> None:
        """Begin an episode in every row."""
        self.elapsed = self.frames = torch.zeros(0)

    def __call__(self, obs: Tensor) -> Tensor:
        if len(self.elapsed) != len(obs):
            self.elapsed = torch.zeros(len(obs), device=obs.device)
            self.frames = torch.zeros(len(obs), self.wrappers.width, device=obs.device)
        normalizer, last = self.wrappers.normalizer, self.wrappers.normalizes_last
        if self.wrappers.time_feature:
            obs = torch.cat([obs, 1 - self.elapsed[:, None] / self.limit], 1)
        if normalizer is not None and not last:
            obs = normalizer(obs)
        if self.wrappers.stack > 1:
            self.frames = torch.cat([self.frames[:, obs.shape[1] :], obs], 1)
            obs = self.frames
        return self.network(normalizer(obs) if normalizer is not None and last else obs)

    def observe(self, reward: Tensor, ended: Tensor) -> None:
        """Count the step, and begin anew where an episode ended."""
        self.elapsed = torch.where(ended, 0.0, self.elapsed + 1)
        self.frames = torch.where(ended[:, None], 0.0, self.frames)
