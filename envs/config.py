"""What task to make: the part of a run's configuration that concerns the environment."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from surefoot.envs.physics import Physics


@dataclass(frozen=True)
class EnvConfig:
    """One task and how many copies of it.

    Raises:
        ValueError: a number out of its range, named.
    """

    id: str = "HalfCheetah-v5"
    """A Gymnasium id; `module:EnvId` imports `module`, which registers the id, first."""
    physics: Physics = field(default_factory=Physics)
    """How the dynamics differ from the stock task."""
    num_envs: int = 1
    """Copies ("lanes") stepped together."""
    vectorization: Literal["sync", "async"] = "sync"
    """`async` gives every lane a process of its own. Batched tensor tasks ignore it."""
    max_episode_steps: int | None = None
    """Time limit of an episode; None keeps the task's own."""
    clock: bool = False
    """Append the number of steps since the reset to the observation, for policies of a finite horizon."""
    kwargs: dict[str, Any] = field(default_factory=dict)
    """Further keyword arguments of the task's constructor: plain values, also lists; laid over those of a preset."""
    termination: str | None = None
    """When the task ends, for agents that imagine its course: `module:function` of tensors (obs, action, next_obs) to
    (N,) bool. None: the rule known for the id. Checked against the task at the start of a run."""

    def __post_init__(self) -> None:
        if self.num_envs < 1:
            raise ValueError(f"env.num_envs must be at least 1, got {self.num_envs}")
        if self.max_episode_steps is not None and self.max_episode_steps < 1:
            raise ValueError(f"env.max_episode_steps must be at least 1, got {self.max_episode_steps}")
        if self.vectorization not in ("sync", "async"):
            raise ValueError(f"env.vectorization must be sync or async, got {self.vectorization!r}")
