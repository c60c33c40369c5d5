"""The pattern for our own tasks: N copies at a time, in torch, on any device, and nothing written twice."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
import torch
from gymnasium.vector import AutoresetMode
from gymnasium.vector.utils import batch_space
from torch import Tensor

from surefoot.envs.finite import FiniteGuard
from surefoot.envs.physics import UNMODIFIED, Physics, check_supported

State = tuple[Tensor, ...]  # every field (N, …)


class TensorEnv(gym.vector.VectorEnv, ABC):
    """A batched task is three functions of tensors, `draw_state`, `advance` and `observe`; this adds what all share.

    That is: the count of steps, the time limit, SAME_STEP autoreset by masks (no host sync; `info["final_obs"]` is the
    true successor of every environment), action noise, an owned generator and `state_dict`. One generator serves all
    environments, so the episodes of each depend on the seed *and* on their number.
    """

    metadata: ClassVar[dict[str, Any]] = {"autoreset_mode": AutoresetMode.SAME_STEP}  # type: ignore[misc]
    physics_factors: ClassVar[tuple[str, ...]] = ()  # fields of Physics that the task's own `advance` takes care of

    def __init__(
        self,
        observation_space: gym.Space[Any],
        action_space: gym.Space[Any],
        num_envs: int = 1,
        *,
        device: str | torch.device = "cpu",
        max_episode_steps: int | None = None,
        physics: Physics = UNMODIFIED,
        time_aware: bool = False,
    ):
        noisy = ("action_noise",) if isinstance(action_space, gym.spaces.Box) else ()
        check_supported(physics, (*self.physics_factors, *noisy), type(self).__name__)
        self.num_envs = num_envs
        self.device = torch.device(device)
        self.guard = FiniteGuard(type(self).__name__)
        self.time_aware = time_aware
        self.single_observation_space = time_aware_space(observation_space) if time_aware else observation_space
        self.single_action_space = action_space
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(action_space, num_envs)
        self.physics = physics
        self.generator = torch.Generator(device=self.device)
        self.generator.seed()
        self._state: State = ()
        self._elapsed_steps = torch.zeros(num_envs, dtype=torch.int64, device=self.device)
        self._limit = max_episode_steps or torch.iinfo(torch.int64).max
        self.extra_info: dict[str, Tensor] = {}  # (N,) each; what `advance` puts here becomes part of the step's info

    @property
    def episode_limit(self) -> int | None:
        """Steps after which an episode is truncated; None: unlimited."""
        return None if self._limit == torch.iinfo(torch.int64).max else self._limit

    @abstractmethod
    def draw_state(self) -> State:
        """Initial states of all environments, drawn from `self.generator`."""

    @abstractmethod
    def advance(self, state: State, action: Tensor) -> tuple[State, Tensor, Tensor]:
        """Next state, reward (N,), terminated (N,) bool."""

    @abstractmethod
    def observe(self, state: State) -> Tensor:
        """Observations (N, obs)."""

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Tensor, dict[str, Any]]:
        """Start an episode in every environment; a seed restarts the generator, no seed continues it."""
        if seed is not None:
            self.generator.manual_seed(seed)
        self._state = self.draw_state()
        self._elapsed_steps = torch.zeros_like(self._elapsed_steps)
        obs = self._shown(self._state, self._elapsed_steps)
        self.guard.check_reset(obs)
        return obs, {}

    def step(self, actions: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, dict[str, Any]]:
        """Observation (N, obs), reward, terminated, truncated (N,), and `final_obs`, `_final_obs` in the info.

        Raises:
            TaskError: a reward or an observation is not finite; on an accelerator within 1,000 steps.
            ValueError: on the CPU, a number of an action that the task does not have.
        """
        self._require_known(actions)
        successor, reward, terminated = self.advance(self._state, self._executed(actions))
        elapsed = self._elapsed_steps + 1
        truncated = elapsed >= self._limit
        ended = terminated | truncated
        self._state = tuple(map(partial(_where, ended), self.draw_state(), successor))
        self._elapsed_steps = elapsed.masked_fill(ended, 0)
        final_obs, obs = self._shown(successor, elapsed), self._shown(self._state, self._elapsed_steps)
        self.guard.check_tensors(actions, reward, final_obs, obs)
        info = {"final_obs": final_obs, "_final_obs": ended} | self.extra_info
        return obs, reward, terminated, truncated, info

    def _require_known(self, actions: Tensor) -> None:
        """Raise for an index (N,) out of range, which would read another row of a table: from the end, or beyond."""
        space = self.single_action_space
        if not isinstance(space, gym.spaces.Discrete) or actions.is_floating_point() or actions.device.type != "cpu":
            return
        low, high = actions.aminmax()  # one pass; a look at an accelerator would have to be waited for
        if low.item() < 0 or high.item() >= space.n:
            env = int(((actions < 0) | (actions >= int(space.n))).int().argmax())
            raise ValueError(
                f"{self.guard.task}: the action of environment {env} is {int(actions[env])}; actions go from 0 to "
                f"{int(space.n) - 1}"
            )

    def _shown(self, state: State, elapsed: Tensor) -> Tensor:
        obs = self.observe(state)
        return torch.cat([obs, elapsed[:, None].to(obs.dtype)], -1) if self.time_aware else obs

    def _executed(self, actions: Tensor) -> Tensor:
        if self.physics.action_noise == 0.0:
            return actions
        noise = torch.randn(actions.shape, generator=self.generator, device=self.device, dtype=actions.dtype)
        return actions + self.physics.action_noise * noise

    def can_resume(self) -> bool:
        """True: the state holds all there is."""
        return True

    def state_dict(self) -> dict[str, Any]:
        own = {"state": list(self._state), "elapsed_steps": self._elapsed_steps, "steps": self.guard.steps}
        return own | {"generator": self.generator.get_state()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if len(state["elapsed_steps"]) != self.num_envs:
            raise ValueError(
                f"the saved state has {len(state['elapsed_steps'])} environments, this one {self.num_envs}"
            )
        self._state = tuple(field.to(self.device) for field in state["state"])
        self._elapsed_steps = state["elapsed_steps"].to(self.device)
        self.guard.steps = state.get("steps", 0)  # not counted yet by the first versions
        self.generator.set_state(state["generator"].cpu())


def time_aware_space(space: gym.Space[Any]) -> gym.spaces.Box:
    """Return an observation space with one more coordinate, the number of steps since the reset."""
    if not isinstance(space, gym.spaces.Box) or len(space.shape) != 1:
        raise ValueError(f"observations are {space}; --env.time-aware needs one-dimensional Box observations")
    low, high = np.append(space.low, 0).astype(space.dtype), np.append(space.high, np.inf).astype(space.dtype)
    return gym.spaces.Box(low, high, dtype=space.dtype.type)


class TimeAwareObservation(gym.ObservationWrapper, gym.utils.RecordConstructorArgs):
    """Appends the number of steps since the reset to the observations of a NumPy task."""

    def __init__(self, env: gym.Env):
        gym.utils.RecordConstructorArgs.__init__(self)
        super().__init__(env)
        self.observation_space = time_aware_space(env.observation_space)
        self.steps = 0

    def reset(self, **kwargs: Any) -> tuple[np.ndarray, dict[str, Any]]:
        self.steps = 0
        return super().reset(**kwargs)

    def step(self, action: Any) -> tuple[np.ndarray, Any, bool, bool, dict[str, Any]]:
        self.steps += 1
        return super().step(action)

    def observation(self, observation: np.ndarray) -> np.ndarray:
        return np.append(observation, np.asarray(self.steps, observation.dtype))


def _where(mask: Tensor, yes: Tensor, no: Tensor) -> Tensor:
    return torch.where(mask.view(-1, *[1] * (yes.ndim - 1)), yes, no)


class SingleEnv(gym.Env):
    """A batch of one as an ordinary NumPy environment: what `gymnasium.make` returns for our own tasks.

    Every episode takes its seed from `np_random`, as Gymnasium's tools expect. The time limit is Gymnasium's wrapper.
    """

    def __init__(self, make_batch: Callable[..., TensorEnv], **kwargs: Any):
        self.batch = make_batch(num_envs=1, **kwargs)
        self.observation_space = self.batch.single_observation_space
        self.action_space = self.batch.single_action_space

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        obs, _ = self.batch.reset(seed=int(self.np_random.integers(2**63)))
        return obs[0].cpu().numpy(), {}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        actions = torch.as_tensor(action, device=self.batch.device)[None]
        _, reward, terminated, truncated, info = self.batch.step(actions)
        extra = {name: float(value[0]) for name, value in self.batch.extra_info.items()}
        return info["final_obs"][0].cpu().numpy(), float(reward[0]), bool(terminated[0]), bool(truncated[0]), extra


def register(env_id: str, make_batch: Callable[..., TensorEnv], max_episode_steps: int | None) -> None:
    """Let `gymnasium.make` and `gymnasium.make_vec` find a task of ours under one id."""
    gym.register(
        id=env_id,
        entry_point=partial(SingleEnv, make_batch),
        vector_entry_point=make_batch,
        max_episode_steps=max_episode_steps,
    )
