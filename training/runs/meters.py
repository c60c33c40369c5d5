"""Running means of what an agent reports, kept as tensors until a log row is written."""

from __future__ import annotations

import math
from collections.abc import Container
from typing import Any

import torch
from torch import Tensor

from surefoot.agents.interface import Episodes, Progress


class Meter:
    """Means over one log interval: of every metric, and of the episodes that ended in it. Part of a checkpoint."""

    def __init__(self, device: torch.device) -> None:
        self.device, self.on_cpu = device, device.type == "cpu"
        self.zero: float | Tensor = 0.0 if self.on_cpu else torch.zeros((), dtype=torch.float64, device=device)
        self._clear()

    def _clear(self) -> None:
        self.sums: dict[str, float | Tensor] = {}  # float64; numbers on a CPU, where adding to a tensor takes 10 µs
        self.counts: dict[str, int] = {}
        self.episodes = torch.zeros(3, dtype=torch.float64, device=self.device)  # number, Σ return, Σ length

    def add(self, progress: Progress) -> None:
        """Take in one agent step, without waiting for the device."""
        for name, value in progress.metrics.items():
            one = value if value.ndim == 0 else value.double().mean()
            self.sums[name] = self.sums.get(name, self.zero) + (one.item() if self.on_cpu else one)
            self.counts[name] = self.counts.get(name, 0) + 1
        for episodes in progress.episodes:
            if not self.on_cpu or episodes.ended.any():
                self.episodes += _totals(episodes)

    def read(self) -> dict[str, float]:
        """Return the means and start anew: one transfer from the device. No episode ended: no return, no length."""
        values = self._numbers()
        number, returns, lengths = values[-3:]
        row = {"episodes": number}
        if number:
            row |= {"episode_return": returns / number, "episode_length": lengths / number}
        row |= {name: total / self.counts[name] for name, total in zip(self.sums, values[:-3], strict=True)}
        self._clear()
        return row

    def _numbers(self) -> list[float]:
        """Return every sum and, of episodes, number, Σ return and Σ length."""
        sums = [torch.as_tensor(total, dtype=torch.float64) for total in self.sums.values()]
        numbers: list[float] = torch.stack([*sums, *self.episodes]).tolist()
        return numbers

    def not_finite(self, unbounded: Container[str] = ()) -> list[str]:
        """Return the names of what is not finite so far, NaN where ∞ is a value; nothing is cleared."""
        *values, _, returns, _ = self._numbers()
        found = zip([*self.sums, "episode_return"], [*values, returns], strict=True)
        return [name for name, value in found if math.isnan(value) or (math.isinf(value) and name not in unbounded)]

    def state_dict(self) -> dict[str, Any]:
        sums = {name: torch.as_tensor(total, dtype=torch.float64) for name, total in self.sums.items()}
        return {"sums": sums, "counts": self.counts, "episodes": self.episodes}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        sums = state["sums"].items()
        self.sums = {name: total.item() if self.on_cpu else total.to(self.device) for name, total in sums}
        self.counts = dict(state["counts"])
        self.episodes = state["episodes"].to(self.device)


def _totals(episodes: Episodes) -> Tensor:
    """Return (3,): how many episodes ended, their summed returns and lengths."""
    columns = torch.stack(
        [torch.ones_like(episodes.ended, dtype=torch.float64), episodes.episode_return, episodes.length]
    )
    return torch.where(episodes.ended, columns, 0.0).sum(1)
