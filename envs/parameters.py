"""Physical parameters by name: boxes of them, and how one gets into a task."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np

LARGEST_GRID = 100_000  # points; 10 per dimension fit for 5 dimensions


@runtime_checkable
class Uncertain(Protocol):
    """What a task of one's own offers to be put into an uncertainty set.

    A NumPy task gets (d,) values, before each reset. A `TensorEnv` gets a tensor (N, d), one row per environment, and
    keeps it.
    """

    param_names: tuple[str, ...]
    low: np.ndarray  # (d,)
    high: np.ndarray  # (d,)
    nominal: np.ndarray  # (d,)

    def set_params(self, values: Any) -> None: ...


class Parameter(NamedTuple):
    """One axis of the box; without a `nominal` it is what the task has of itself, be it inside the range or not."""

    name: str
    low: float
    high: float
    nominal: float | None = None


@dataclass(frozen=True)
class UncertaintySet:
    """A box of parameters of one task.

    Raises:
        ValueError: an empty set, a name twice, a range that is inverted or not finite, a nominal value outside of it.
    """

    name: str
    env: str
    """Gymnasium id of the task; other versions of the same task are accepted too."""
    parameters: tuple[Parameter, ...]
    recompute_constants: bool = False
    """Derive sub-tree masses and inverse weights anew from changed masses; RRLS and M2TD3 leave them as compiled."""
    scale_inertia: bool = False
    """Let the inertia of a body follow its mass; RRLS and M2TD3 leave it as compiled."""

    def __post_init__(self) -> None:
        if not self.parameters:
            raise ValueError(f"{self.name}: an uncertainty set needs at least one parameter")
        if len(set(self.param_names)) < len(self.parameters):
            raise ValueError(f"{self.name}: a parameter is named twice in {', '.join(self.param_names)}")
        for name, low, high, nominal in self.parameters:
            if not (math.isfinite(low) and math.isfinite(high) and low < high):
                raise ValueError(f"{self.name}: {name} has the range [{low}, {high}]; give finite numbers, low < high")
            if nominal is not None and not low <= nominal <= high:
                raise ValueError(f"{self.name}: the nominal {name}, {nominal}, lies outside of [{low}, {high}]")

    @property
    def param_names(self) -> tuple[str, ...]:
        return tuple(parameter.name for parameter in self.parameters)

    @property
    def low(self) -> np.ndarray:
        return np.array([parameter.low for parameter in self.parameters])

    @property
    def high(self) -> np.ndarray:
        return np.array([parameter.high for parameter in self.parameters])

    def axes(self, n: int = 10, *, closed: bool = False) -> list[np.ndarray]:
        """Return the `n` grid values of every parameter.

        Half-open, as RRLS and IWOCS evaluate: low + k·(high − low)/n, so `high` itself is never tested. Closed, as
        M2TD3 does: both ends are in. docs/derivations/iwocs.md eq. (5.2), eq. (5.3).
        """
        if n < 2:
            raise ValueError(f"a grid needs at least 2 values per parameter, not {n}")
        if n ** len(self.parameters) > LARGEST_GRID:
            raise ValueError(
                f"{self.name}: {n} values of {len(self.parameters)} parameters are {n ** len(self.parameters)} points, "
                f"more than {LARGEST_GRID}; take a smaller --n"
            )
        return [np.linspace(p.low, p.high, n, endpoint=closed) for p in self.parameters]

    def grid(self, n: int = 10, *, closed: bool = False) -> np.ndarray:
        """Return all points (n^d, d), the last parameter changing fastest."""
        return np.stack(np.meshgrid(*self.axes(n, closed=closed), indexing="ij"), -1).reshape(-1, len(self.parameters))


def check_task(uncertainty: UncertaintySet, env_id: str) -> None:
    """Raise ValueError where a set is for another task; its version does not matter."""
    theirs, ours = (one.rpartition(":")[2].rpartition("-v")[0] or one for one in (uncertainty.env, env_id))
    if theirs != ours:
        raise ValueError(f"the uncertainty set {uncertainty.name} is for {uncertainty.env}, not for {env_id}")
