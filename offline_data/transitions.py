"""Recorded transitions: the one record that every reader returns and every agent takes."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from surefoot.offline_data.stored_rows import StoredRows, fill

ROUNDING = 1e-3  # actions this little beyond [-1, 1] are float noise of a tanh and are clipped without asking


@dataclass(frozen=True, eq=False)
class Transitions:
    """N transitions in recorded order, episodes one after the other; fields as in `surefoot.agents.interface.Batch`.

    Make one with `Transitions.from_arrays`, which checks everything; the constructor trusts its arguments.
    """

    obs: Tensor  # (N, obs) float32
    action: Tensor  # (N, act) float32; (N, 1), the number of the action, where they are discrete
    reward: Tensor  # (N,) float32
    next_obs: Tensor  # (N, obs) float32, the successor in the same episode
    terminated: Tensor  # (N,) float32, 1 where the task itself ended; the only mask of a bootstrap
    truncated: Tensor  # (N,) bool, a time limit ended the episode here
    episode_end: Tensor  # (N,) bool, last row of an episode: terminated, truncated, or where the recording stops
    source: str  # where the data came from, for messages and for the run folder

    @classmethod
    def from_arrays(
        cls,
        *,
        obs: Any,
        action: Any,
        reward: Any,
        next_obs: Any,
        terminated: Any,
        truncated: Any = None,
        episode_end: Any = None,
        source: str = "arrays",
    ) -> Transitions:
        """Return checked transitions on the CPU from arrays, CPU tensors or `StoredRows`, copied into new memory.

        The numbers are columns of one array, a row a transition, which a replay takes as it is. Columns (N, 1) are
        squeezed. Left out, `truncated` is nowhere true and `episode_end` is where either flag is. A row with both
        flags counts as terminated. The last row always ends an episode. Raises `ValueError` when shapes disagree, a
        value is NaN or infinite, a flag is not 0 or 1, or nothing is there.
        """
        numbers = {
            "obs": _matrix("obs", obs, source),
            "action": _matrix("action", action, source),
            "reward": _column("reward", reward, source),
            "next_obs": _matrix("next_obs", next_obs, source),
        }
        n = len(numbers["obs"])
        flags = {"terminated": _flags("terminated", terminated, source)}
        flags["truncated"] = np.zeros(n, bool) if truncated is None else _flags("truncated", truncated, source)
        flags["episode_end"] = np.zeros(n, bool) if episode_end is None else _flags("episode_end", episode_end, source)
        _check_lengths(numbers, flags, source)
        flags["truncated"] = flags["truncated"] & ~flags["terminated"]
        flags["episode_end"] = flags["episode_end"] | flags["terminated"] | flags["truncated"]
        flags["episode_end"][-1] = True
        fields = _as_columns(numbers, flags.pop("terminated"), source)
        return cls(**fields, **{name: torch.from_numpy(values) for name, values in flags.items()}, source=source)

    def __len__(self) -> int:
        return len(self.reward)

    def to(self, device: torch.device | str) -> Transitions:
        """Return the same rows on another device."""
        return replace(self, **{name: value.to(device) for name, value in self._tensors().items()})

    def rows(self, index: Tensor) -> Transitions:
        """Return the rows of an increasing index (K,); the last kept row of each episode becomes its end."""
        episode = self.episode_index()[index]
        kept = {name: value[index] for name, value in self._tensors().items()}
        kept["episode_end"] = torch.ones_like(kept["episode_end"])
        kept["episode_end"][:-1] = episode[1:] != episode[:-1]
        return replace(self, **kept)

    def subsample(self, fraction: float, generator: torch.Generator) -> Transitions:
        """Return a uniform sample of transitions without replacement, in recorded order.

        Episodes have holes afterwards: `episode_returns` of the result sums only what was kept.
        """
        if not 0 < fraction <= 1:
            raise ValueError(f"--data.fraction must be in (0, 1], got {fraction}")
        if fraction == 1:
            return self
        count = max(1, int(fraction * len(self)))
        chosen = torch.randperm(len(self), generator=generator, device=generator.device)[:count]
        return self.rows(chosen.sort().values.to(self.reward.device))

    def episode_index(self) -> Tensor:
        """Return (N,) int64: the number of each row's episode, from 0."""
        return self.episode_end.cumsum(0) - self.episode_end.long()

    def episode_returns(self) -> Tensor:
        """Return (E,) float64 undiscounted returns, a cut last episode included."""
        index = self.episode_index()
        sums = torch.zeros(int(index[-1]) + 1, dtype=torch.float64, device=index.device)
        return sums.index_add_(0, index, self.reward.double())

    def breaks(self) -> Tensor:
        """Return (N − 1,) bool, where inside an episode a row's `next_obs` is not the next row's `obs`."""
        return (self.next_obs[:-1] != self.obs[1:]).any(1) & ~self.episode_end[:-1]

    def episode_lengths(self) -> Tensor:
        """Return (E,) int64 numbers of steps, a cut last episode included."""
        return torch.bincount(self.episode_index())

    def _tensors(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if isinstance(value, Tensor)}


def _as_columns(numbers: dict[str, StoredRows], terminated: np.ndarray, source: str) -> dict[str, Tensor]:
    """Return all float32 fields by name, as columns of one array."""
    widths = [rows.values.shape[1] if rows.values.ndim == 2 else 1 for rows in numbers.values()]
    table = torch.empty(len(terminated), sum(widths) + 1)  # not NumPy's: its huge pages can take seconds to find
    packed = table.numpy()
    places = np.split(packed, np.cumsum(widths), axis=1)
    fill(dict(zip(numbers, places[:-1], strict=True)), numbers, source)
    packed[:, -1] = terminated
    columns = table.split([*widths, 1], 1)
    fields = dict(zip((*numbers, "terminated"), columns, strict=True))
    return fields | {name: fields[name].squeeze(1) for name in ("reward", "terminated")}


def _column(name: str, values: Any, source: str) -> StoredRows:
    """Return what is (N,), or (N, 1)."""
    rows = _numeric(name, values, source)
    shape = rows.values.shape
    if len(shape) != 1 and shape[1:] != (1,):
        raise ValueError(f"{source}: {name} must have shape (N,) or (N, 1), got {shape}")
    return rows


def _matrix(name: str, values: Any, source: str) -> StoredRows:
    """Return what is (N, D), or discrete actions (N,)."""
    rows = _numeric(name, values, source)
    discrete = name == "action" and rows.values.ndim == 1 and rows.values.dtype.kind in "iu"
    if rows.values.ndim != 2 and not discrete:
        raise ValueError(f"{source}: {name} must have shape (N, D), got {rows.values.shape}")
    return rows


def _flags(name: str, values: Any, source: str) -> np.ndarray:
    """Return an (N,) bool array from booleans or from numbers that are exactly 0 or 1."""
    array = squeeze_column(_column(name, values, source).values)
    if array.dtype == bool:
        return array
    column = np.empty((len(array), 1), np.float32)
    fill({name: column}, {name: StoredRows(array)}, source)
    wrong = np.flatnonzero((column != 0) & (column != 1))
    if wrong.size:
        raise ValueError(f"{source}: {name} must be 0 or 1, but row {wrong[0]} holds {array[wrong[0]]:g}")
    return array.astype(bool)


def _numeric(name: str, values: Any, source: str) -> StoredRows:
    rows = values if isinstance(values, StoredRows) else StoredRows(np.asarray(values))
    if rows.values.dtype.kind not in "biuf":
        raise ValueError(f"{source}: {name} must hold numbers, got dtype {rows.values.dtype}")
    return rows


def _check_lengths(numbers: dict[str, StoredRows], flags: dict[str, np.ndarray], source: str) -> None:
    lengths = {name: len(values) for name, values in (numbers | flags).items()}
    if len(set(lengths.values())) > 1:
        raise ValueError(f"{source}: arrays differ in length: {', '.join(f'{k} {v}' for k, v in lengths.items())}")
    if lengths["obs"] == 0:
        raise ValueError(f"{source}: no transitions in it")
    obs, next_obs = (numbers[name].values.shape[1:] for name in ("obs", "next_obs"))
    if obs != next_obs:
        n = lengths["obs"]
        raise ValueError(f"{source}: obs {(n, *obs)} and next_obs {(n, *next_obs)} differ in shape")


def squeeze_column(array: np.ndarray) -> np.ndarray:
    """Return (N,) for a column stored as (N, 1), else the array itself."""
    return array[:, 0] if array.ndim == 2 and array.shape[1] == 1 else array


def are_numbers(actions: np.ndarray) -> bool:
    """Return whether actions, (N,) or (N, 1), are whole numbers from 0 on: those of a Discrete space."""
    column = squeeze_column(actions)
    return column.ndim == 1 and len(column) > 0 and bool(((column >= 0) & (column == np.round(column))).all())
