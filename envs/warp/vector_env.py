"""Worlds of MuJoCo Warp as a vector environment: tensors in and out, on the device that steps them."""

from __future__ import annotations

from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
import torch
from gymnasium.vector import AutoresetMode
from gymnasium.vector.utils import batch_space
from torch import Tensor

from surefoot.envs.config import EnvConfig
from surefoot.envs.finite import FiniteGuard
from surefoot.envs.parameters import UncertaintySet
from surefoot.envs.warp.worlds import Moved, Worlds


class WarpVectorEnv(gym.vector.VectorEnv):
    """`config.num_envs` worlds as `surefoot.agents.interface.VectorEnv`: SAME_STEP autoreset.

    As `TensorVectorEnv`, but that the observations have never left the device. A world whose physics diverges ends
    alone, as `terminated` with the last good observation and no reward, and is marked in `info["broken"]` (N,). The
    info also has the task's own terms, such as `reward_ctrl` (N,).

    Args:
        env: one of `make_single` without fixed parameters, whose model the worlds get.
        limit: steps after which an episode is truncated; None: unlimited.

    Raises:
        ValueError: as `Worlds`.
    """

    metadata: ClassVar[dict[str, Any]] = {"autoreset_mode": AutoresetMode.SAME_STEP}  # type: ignore[misc]

    def __init__(
        self,
        env: gym.Env,
        config: EnvConfig,
        uncertainty: UncertaintySet | None,
        *,
        limit: int | None,
        device: str | torch.device = "cpu",
    ):
        self.num_envs, self.device, self.episode_limit = config.num_envs, torch.device(device), limit
        self.worlds = Worlds(env, config, uncertainty, config.num_envs, self.device, limit)
        self.guard = FiniteGuard(config.id)
        self.single_observation_space, self.single_action_space = self.worlds.spaces
        self.observation_space, self.action_space = (batch_space(space, self.num_envs) for space in self.worlds.spaces)
        self.next_params = np.repeat(self.worlds.rows.nominal[None], self.num_envs, axis=0)  # of the episodes to come
        self._none = torch.zeros(self.num_envs, dtype=torch.bool, device=self.device)

    def send(self, name: str, values: Tensor) -> None:
        """Take parameters (N, d) of a set: `next_params` of the episodes to come, or `params` at once."""
        if name == "next_params":
            self.next_params = values.numpy(force=True).copy()
        else:
            self.worlds.rows.change(self.worlds.simulation, values)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Tensor, dict[str, Any]]:
        """Start an episode in every world i, with `seed + i`."""
        seeds = None if seed is None else [seed + i for i in range(self.num_envs)]
        obs = self.worlds.begin(np.arange(self.num_envs), self.next_params, seeds)
        self.guard.check_reset(obs)
        return obs, {}

    def step(self, actions: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, dict[str, Any]]:
        """Observation (N, obs), reward, terminated, truncated (N,); in the info `final_obs`, `_final_obs`, `broken`.

        Raises:
            TaskError: an action that is not finite, or a buffer of contacts or constraints that is too small.
        """
        moved = self.worlds.advance(actions)
        self.guard.steps += 1
        ended = moved.terminated | moved.truncated
        worlds = np.flatnonzero(ended.numpy(force=True))
        info = {"final_obs": moved.obs, "_final_obs": ended, "broken": moved.broken, **moved.info}
        if not len(worlds):
            return moved.obs, moved.reward, self._none, self._none, info
        self._check_actions(actions, moved)
        obs = self.worlds.begin(worlds, self.next_params[worlds])
        return obs, moved.reward, moved.terminated, moved.truncated, info

    def _check_actions(self, actions: Tensor, moved: Moved) -> None:
        """Raise `TaskError` where a world broke because the policy did."""
        if (wrong := moved.broken & ~actions.isfinite().all(1)).any():
            lost = moved.reward.masked_fill(wrong, torch.nan).numpy(force=True)
            self.guard.steps -= 1
            self.guard.check_step(actions, lost, *[moved.obs.numpy(force=True)] * 2)

    def can_resume(self) -> bool:
        """True: the state holds all there is."""
        return True

    def state_dict(self) -> dict[str, Any]:
        """All that the running episodes and those to come depend on, as tensors and plain values."""
        state = {"worlds": self.worlds.state_dict(), "next_params": self.next_params, "steps": self.guard.steps}
        tensors: dict[str, Any] = _converted(state, np.ndarray, torch.tensor)  # copies
        return tensors

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Undo `state_dict`; `ValueError` for another number of worlds."""
        if (saved := len(state["next_params"])) != self.num_envs:
            raise ValueError(f"the saved state has {saved} environments, this one {self.num_envs}")
        self.next_params, self.guard.steps = state["next_params"].numpy(force=True).copy(), state["steps"]
        on_host = _converted(state["worlds"]["rows"], Tensor, lambda tensor: tensor.numpy(force=True).copy())
        self.worlds.load_state_dict({**state["worlds"], "rows": on_host})


def _converted(value: Any, kind: type, convert: Any) -> Any:
    """Return a nest of dictionaries and lists with everything of one kind converted."""
    if isinstance(value, dict):
        return {name: _converted(part, kind, convert) for name, part in value.items()}
    if isinstance(value, list):
        return [_converted(part, kind, convert) for part in value]
    return convert(value) if isinstance(value, kind) else value
