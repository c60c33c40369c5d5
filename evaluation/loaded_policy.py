"""A policy as people use it: observations in, actions in the task's own units out, memory included."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, overload

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor

from surefoot.agents.interface import Spaces
from surefoot.envs import EnvConfig
from surefoot.evaluation.episodes import Act
from surefoot.evaluation.policies import AnyPolicy, bound_to, fitted


class LoadedPolicy:
    """What `surefoot.load_policy` returns.

    `predict` takes one observation (obs,) or a batch (N, obs), NumPy or tensor, and answers alike: Box actions within
    the task's own bounds, Discrete ones as the task numbers them. A policy with a memory must know where episodes
    begin, and some what their actions earned:

        policy.reset()                                   # at the start of every episode
        action = policy.predict(obs)
        obs, reward, terminated, truncated, _ = env.step(action)
        policy.observe(reward, terminated or truncated)  # after every step

    For policies without a memory (`stateful` False) `reset` and `observe` do nothing and may be left out. In a batch
    each row is an episode of its own, and `observe` takes (N,) rewards and ends: where one ended, the next begins.

    Attributes:
        agent_name: the agent that was trained, or `sb3-…`, `onnx`, `torchscript` or `function`.
        spaces: of observations, and of actions in the task's own units.
        env: the task it was trained for, in the dynamics its run was evaluated in; None where that is not known.
        trained_on: the id that its file names where `env` is a newer version of it, such as `Ant-v3`; else None.
        step: of the training.
        path: where it was read from.
        source: the same in words, with the revision where it was downloaded.
        sha256: of its file, of a run folder that of the checkpoint; None for a function without a file.
        wrappers: what stands between the task and the network of an archive, outermost last.
        notes: what a reader of its numbers must know, a line each.
        stateful: whether it has a memory, and so needs `reset`.
        needs_rewards: whether it also needs `observe`.
    """

    def __init__(self, policy: AnyPolicy, device: torch.device | str = "cpu") -> None:
        if policy.env_config is None and policy.needs_task:
            raise ValueError(f"{policy.label}: answers in its task's own units; which task? pass env")
        self._opened = policy
        if policy.env_config is not None:
            policy = fitted(policy, policy.env_config)
        self.agent_name, self.step, self.path = policy.agent_name, policy.step, Path(policy.label)
        self.spaces = Spaces(policy.spaces.observation, policy.own_action)
        self.env: EnvConfig | None = policy.env_config
        self.trained_on, self.sha256, self.source = policy.trained_on, policy.sha256, policy.source
        self.wrappers, self.notes = policy.wrappers, policy.notes
        self.device = torch.device(device)
        self.act: Act = policy.act  # (N, obs) -> (N, act), Box actions in [-1, 1]
        self.stateful = hasattr(policy.act, "reset")
        self.needs_rewards = bool(getattr(policy.act, "needs_rewards", False))
        self._time_aware = bool(policy.env_config and policy.env_config.time_aware)
        self._started, self._observed = False, True
        self._rows: int | None = None
        self._elapsed = torch.zeros(0)

    def __repr__(self) -> str:
        task = f" on {self.env.id}" if self.env else ""
        return f"<LoadedPolicy of {self.agent_name}{task} at step {self.step}, {self.path}>"

    def fitted_to(self, task: EnvConfig) -> LoadedPolicy:
        """Return the policy ready for a task; `ValueError` where it sees or does something else."""
        return LoadedPolicy(bound_to(self._opened, task), self.device)

    @overload
    def predict(self, obs: Tensor) -> Tensor: ...
    @overload
    def predict(self, obs: Any) -> Any: ...
    def predict(self, obs: Any) -> Any:
        """Return the deterministic action for one observation (obs,) or the actions for a batch (N, obs).

        Tensors give tensors on their device; everything else gives NumPy, and an `int` for one Discrete action.

        Raises:
            ValueError: another number of values than the observation has, or of rows than in the step before.
            RuntimeError: a policy with a memory was not reset, or did not observe the reward of its last action.
        """
        if isinstance(obs, Mapping):
            raise ValueError(
                f"{self.path}: predict takes the vector that make_env of the policy's task shows, not parts"
            )
        batch = torch.as_tensor(obs, dtype=torch.float32, device=self.device)
        single = batch.ndim == 1
        rows = batch[None] if single else batch
        self._require_order(rows)
        with torch.inference_mode():
            action = self.act(self._with_time(rows))
        self._started, self._observed = True, False
        return self._answer(
            to_own_units(action, self.spaces.action)[0] if single else to_own_units(action, self.spaces.action), obs
        )

    def reset(self) -> None:
        """Begin new episodes in all rows."""
        if self.stateful:
            self.act.reset()  # type: ignore[union-attr]
        self._started, self._observed, self._rows = True, True, None

    def observe(self, reward: Any, ended: Any = False) -> None:
        """Take in what the last actions earned and which episodes ended in that step: numbers, or (N,) for a batch."""
        if self._rows is None:
            raise RuntimeError("observe() comes after predict(): there is no action whose reward this could be")
        earned, over = (
            torch.as_tensor(value, device=self.device).reshape(-1).expand(self._rows) for value in (reward, ended)
        )
        if self.stateful:
            self.act.observe(earned.float(), over.bool())  # type: ignore[union-attr]
        self._elapsed = torch.where(over.bool(), 0.0, self._elapsed + 1)
        self._observed = True

    # --- what predict is made of --------------------------------------------------------------------------------------

    def _require_order(self, rows: Tensor) -> None:
        """Raise where a call before this one was forgotten, instead of acting on a wrong memory."""
        width = int(np.prod(self.spaces.observation.shape or ()))
        widths = (width, width - 1) if self._time_aware else (width,)
        if rows.ndim != 2 or rows.shape[1] not in widths:
            raise ValueError(
                f"{self.path}: observations have {width} values; expected ({width},) or (N, {width}), got the shape "
                f"{tuple(rows.shape)}"
            )
        if self.stateful and not self._started:
            raise RuntimeError(f"{self.agent_name} remembers its episode: call reset() where one begins")
        if self.needs_rewards and not self._observed:
            raise RuntimeError(
                f"{self.agent_name} acts on the rewards so far: call observe(reward, ended) after every step, or "
                "reset() where a new episode begins"
            )
        if self.stateful and self._rows not in (None, len(rows)):
            raise ValueError(f"{self._rows} rows in the step before, {len(rows)} now; call reset() to begin anew")
        self._continue(rows)

    def _continue(self, rows: Tensor) -> None:
        """Continue the episodes of the step before, or begin with as many as there are rows."""
        if self._rows != len(rows):
            self._rows, self._elapsed = len(rows), torch.zeros(len(rows), device=self.device)
        elif not self._observed:
            self.observe(0.0)

    def _with_time(self, rows: Tensor) -> Tensor:
        """Append the steps since the reset where a time-aware policy is given the task's plain observation."""
        plain = self._time_aware and rows.shape[1] < int(np.prod(self.spaces.observation.shape or ()))
        return torch.cat([rows, self._elapsed[:, None]], 1) if plain else rows

    def _answer(self, action: Tensor, obs: Any) -> Any:
        if isinstance(obs, Tensor):
            return action.to(obs.device)
        array = action.numpy(force=True)
        return array.item() if array.ndim == 0 else array


def to_own_units(action: Tensor, space: gym.Space[Any]) -> Tensor:
    """Return Box actions in [-1, 1] in the units of a task's own space, others as they are."""
    if not isinstance(space, gym.spaces.Box) or not space.is_bounded():
        return action
    low, high = (torch.as_tensor(bound).to(action) for bound in (space.low, space.high))
    return (low + (action + 1) * (high - low) / 2).clamp(low, high)
