"""What task to make: the part of a run's configuration that concerns the environment."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from surefoot.configs.ranges import require_between, require_finite
from surefoot.envs.physics import Physics

MOST_ENVS = 10_000_000
MOST_REPEATS = 1000
MOST_ROWS = 100_000  # of contacts or constraints of an environment


@dataclass(frozen=True)
class EnvConfig:
    """One task and how many copies of it.

    Raises:
        ValueError: a number out of its range, named.
    """

    id: str = "HalfCheetah-v5"
    """Gymnasium id of the task; `module:EnvId` first imports `module`, which registers the id."""
    physics: Physics = field(default_factory=Physics)
    """How the dynamics differ from the unmodified task."""
    num_envs: int = 1
    """Number of environments stepped in parallel."""
    vectorization: Literal["sync", "async"] = "sync"
    """`async` runs each environment in a process of its own; batched tensor tasks and the backend warp ignore it."""
    max_episode_steps: int | None = None
    """Time limit of an episode, in the task's own steps; None: the task's own."""
    action_repeat: int = 1
    """Steps of the task that every action is held for: one step of the agent, whose reward is their sum."""
    time_aware: bool = False
    """Time-aware observation: append the number of steps since the reset, which finite-horizon policies need."""
    flatten: bool = False
    """Make one vector of observations that are none (Dict, Tuple, images; Discrete ones one-hot), and one vector or one
    number of actions that are neither."""
    action_bound: float | None = None
    """Largest action to take, in the task's own units, where its own bounds are infinite or larger."""
    kwargs: dict[str, Any] = field(default_factory=dict)
    """Further keyword arguments of the task's constructor: plain values or lists; merged over those of a preset or run
    of the same task."""
    termination: str | None = None
    """Termination rule for model-based agents: `module:function` of tensors (obs, action, next_obs) to (N,) bool. None:
    the rule known for the id. It is checked against the task at the start of a run."""
    backend: Literal["mujoco", "warp"] = "mujoco"
    """What steps MuJoCo's tasks: MuJoCo in C, or MuJoCo Warp, all environments at once on `--device`, in single
    precision; for thousands of environments on a GPU (docs/guides/warp.md)."""
    nconmax: int | None = None
    """warp: contacts per environment that there is room for, on average; None: a number that suits the task."""
    njmax: int | None = None
    """warp: rows of constraints in an environment that there is room for; None: a number that suits the task."""

    def __post_init__(self) -> None:
        require_finite(self, "env.")
        if self.num_envs < 1:
            raise ValueError(f"--env.num-envs must be at least 1, got {self.num_envs}")
        if self.max_episode_steps is not None and self.max_episode_steps < 1:
            raise ValueError(f"--env.max-episode-steps must be at least 1, got {self.max_episode_steps}")
        if self.action_bound is not None and not 0 < self.action_bound < math.inf:
            raise ValueError(f"--env.action-bound must be positive and finite, got {self.action_bound}")
        rows = (1, MOST_ROWS)
        bounds = {"num_envs": (1, MOST_ENVS), "action_repeat": (1, MOST_REPEATS), "nconmax": rows, "njmax": rows}
        require_between(self, bounds, "env.")
        if self.backend not in ("mujoco", "warp"):
            raise ValueError(f"--env.backend must be mujoco or warp, got {self.backend!r}")
        if self.vectorization not in ("sync", "async"):
            raise ValueError(f"--env.vectorization must be sync or async, got {self.vectorization!r}")

    def in_c(self) -> EnvConfig:
        """Return the same task, stepped by MuJoCo in C: what evaluations measure in unless they are told otherwise."""
        return replace(self, backend="mujoco", nconmax=None, njmax=None)
