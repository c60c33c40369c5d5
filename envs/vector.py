"""Any Gymnasium task as N sub-environments with tensors in and out, stepped by one of two small classes."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

import gymnasium as gym
import numpy as np
import torch
from gymnasium.vector import AsyncVectorEnv, AutoresetMode
from gymnasium.vector.utils import batch_space
from torch import Tensor

from surefoot.envs.finite import FiniteGuard, as_float32
from surefoot.envs.resumable import NotReproducibleError

MakeEnv = Callable[[], gym.Env]
EpisodeState = dict[str, Any] | None  # of `Resumable`


class Stepped(NamedTuple):
    """What one vector step gave, as arrays of our own; `final_obs` holds only the rows whose episode ended."""

    obs: np.ndarray  # (N, obs) float32
    reward: np.ndarray  # (N,) float64
    terminated: np.ndarray  # (N,) bool
    truncated: np.ndarray  # (N,) bool
    final_obs: dict[int, np.ndarray]
    broken: Sequence[int] = ()  # rows whose episode ended because the physics diverged


class SubEnvs(Protocol):
    """N numpy environments with SAME_STEP autoreset."""

    spaces: tuple[gym.Space[Any], gym.Space[Any]]  # observation and action, of one environment

    def reset(self, seed: int | None, options: dict[str, Any] | None) -> np.ndarray: ...
    def step(self, actions: np.ndarray) -> Stepped: ...
    def episode_states(self) -> Sequence[EpisodeState]: ...
    def send(self, name: str, values: Sequence[Any]) -> None: ...  # assign an attribute, each environment its own value
    def render(self) -> tuple[Any, ...]: ...
    def close(self) -> None: ...


class SyncEnvs:
    """One after the other in this process. Gymnasium's SyncVectorEnv does the same and, for one environment, takes
    longer than a HalfCheetah step: it copies observations deeply and merges the info dictionaries, which no agent
    reads."""

    def __init__(self, make_env: MakeEnv, num_envs: int):
        self.envs = [make_env() for _ in range(num_envs)]
        self.spaces = (self.envs[0].observation_space, self.envs[0].action_space)
        self._shape = (num_envs, *(self.spaces[0].shape or ()))

    def reset(self, seed: int | None, options: dict[str, Any] | None) -> np.ndarray:
        seeds = [None if seed is None else seed + i for i in range(len(self.envs))]
        return np.stack([env.reset(seed=s, options=options)[0] for env, s in zip(self.envs, seeds, strict=True)])

    def step(self, actions: np.ndarray) -> Stepped:
        n = len(self.envs)
        obs, reward = np.empty(self._shape, np.float32), np.empty(n)
        terminated, truncated = np.empty(n, np.bool_), np.empty(n, np.bool_)
        final_obs, broken = {}, []
        for i, env in enumerate(self.envs):
            obs[i], reward[i], terminated[i], truncated[i], info = env.step(actions[i])
            if terminated[i] or truncated[i]:
                final_obs[i] = obs[i].copy()
                if info.get("broken"):
                    broken.append(i)
                obs[i], _ = env.reset()
        return Stepped(obs, reward, terminated, truncated, final_obs, broken)

    def episode_states(self) -> list[EpisodeState]:
        return [env.get_wrapper_attr("episode_state") for env in self.envs]

    def send(self, name: str, values: Sequence[Any]) -> None:
        for env, value in zip(self.envs, values, strict=True):
            env.set_wrapper_attr(name, value)

    def render(self) -> tuple[Any, ...]:
        return tuple(env.render() for env in self.envs)

    def close(self) -> None:
        for env in self.envs:
            env.close()


class AsyncEnvs:
    """A process for every environment, by Gymnasium's AsyncVectorEnv."""

    def __init__(self, make_env: MakeEnv, num_envs: int):
        make = _deaf_to_ctrl_c(make_env)
        self._envs: AsyncVectorEnv = AsyncVectorEnv([make] * num_envs, autoreset_mode=AutoresetMode.SAME_STEP)
        self.spaces = (self._envs.single_observation_space, self._envs.single_action_space)

    def reset(self, seed: int | None, options: dict[str, Any] | None) -> np.ndarray:
        obs: np.ndarray = self._envs.reset(seed=seed, options=options)[0]
        return obs

    def step(self, actions: np.ndarray) -> Stepped:
        obs, reward, terminated, truncated, info = self._envs.step(actions)
        final_obs = {int(i): info["final_obs"][i] for i in np.flatnonzero(terminated | truncated)}
        broken = np.flatnonzero(info.get("final_info", {}).get("broken", ())).tolist()
        return Stepped(obs, reward, terminated, truncated, final_obs, broken)

    def episode_states(self) -> Sequence[EpisodeState]:
        return self._envs.get_attr("episode_state")

    def send(self, name: str, values: Sequence[Any]) -> None:
        self._envs.set_attr(name, list(values))

    def render(self) -> tuple[Any, ...]:
        return tuple(self._envs.render() or ())

    def close(self) -> None:
        self._envs.close()


def _deaf_to_ctrl_c(make_env: MakeEnv) -> MakeEnv:
    """Ctrl-C reaches every process of the terminal; workers must outlive it, or there is nothing left to save."""
    owner = os.getpid()

    def make() -> gym.Env:
        if os.getpid() != owner:
            signal.signal(signal.SIGINT, signal.SIG_IGN)
        return make_env()

    return make


class TensorVectorEnv(gym.vector.VectorEnv):
    """Environments of one task as `surefoot.agents.interface.VectorEnv`: SAME_STEP autoreset.

    `info["final_obs"]` (N, obs) is the true successor in every environment, `info["_final_obs"]` (N,) marks whose
    episode ended, `info["broken"]` (N,) whose did because the physics diverged. Where none did, `final_obs` *is* the
    returned observation and all flags are one tensor: read them, do not write into them. (Each small tensor costs 2 to
    3 µs after a physics step has filled the caches.)
    """

    metadata = {"autoreset_mode": AutoresetMode.SAME_STEP}  # noqa: RUF012 - Gymnasium's own declaration

    def __init__(
        self,
        sub_envs: SubEnvs,
        num_envs: int,
        device: str | torch.device,
        *,
        task: str = "the task",
        make_env: MakeEnv | None = None,
        episode_limit: int | None = None,
    ):
        self.sub_envs = sub_envs
        self.guard = FiniteGuard(task)
        self.make_env = make_env
        self.fresh_episodes = False  # on loading a state, begin new episodes instead of replaying those it holds
        self.num_envs = num_envs
        self.episode_limit = episode_limit  # steps after which an episode is truncated; None: unlimited
        self.device = torch.device(device)
        self._none = torch.zeros(num_envs, dtype=torch.bool, device=self.device)
        self.single_observation_space, self.single_action_space = sub_envs.spaces
        self.observation_space, self.action_space = (batch_space(space, num_envs) for space in sub_envs.spaces)

    def send(self, name: str, values: Tensor) -> None:
        """Assign an attribute of every environment, each its own row (N, …): `params` of a set, or `next_params`."""
        self.sub_envs.send(name, [*values.numpy(force=True)])

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Tensor, dict[str, Any]]:
        """Start an episode in every environment i, with `seed + i`."""
        obs = self.sub_envs.reset(seed, options)
        self.guard.check_reset(obs)
        return self._tensor(obs), {}

    def step(self, actions: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, dict[str, Any]]:
        """Observation (N, obs), reward (N,), terminated, truncated (N,) bool, {"final_obs", "_final_obs", "broken"}.

        Raises:
            TaskError: a reward or an observation is not finite, or beyond float32; an action that broke the physics.
        """
        given = actions.numpy(force=True)
        stepped = self.sub_envs.step(given)
        rewards = _rewards(given, stepped)
        final_obs = stepped.obs.copy() if stepped.final_obs else stepped.obs
        for i, row in stepped.final_obs.items():
            final_obs[i] = row
        self.guard.check_step(given, rewards, final_obs, stepped.obs)
        obs, reward = self._tensor(stepped.obs), self._tensor(rewards)
        none = self._none
        if not stepped.final_obs:
            return obs, reward, none, none, {"final_obs": obs, "_final_obs": none, "broken": none}
        terminated, truncated = self._tensor(stepped.terminated), self._tensor(stepped.truncated)
        info = {"final_obs": self._tensor(final_obs), "_final_obs": terminated | truncated, "broken": none}
        if stepped.broken:
            info["broken"] = none.clone()
            info["broken"][stepped.broken] = True
        return obs, reward, terminated, truncated, info

    def _tensor(self, array: np.ndarray) -> Tensor:
        tensor = torch.from_numpy(array)
        return tensor if self.device.type == "cpu" else tensor.to(self.device)  # .to() costs as much as from_numpy()

    def render(self) -> tuple[Any, ...]:
        """A frame of every environment."""
        return self.sub_envs.render()

    def state_dict(self) -> dict[str, Any]:
        """The running episode of every environment (see `Resumable`), as tensors and plain values."""
        episodes = [_with_tensors(state) for state in self.sub_envs.episode_states()]
        return {"sub_envs": episodes, "steps": self.guard.steps}

    def load_state_dict(self, state: dict[str, Any]) -> Tensor | None:
        """Replay the saved episodes, or where `fresh_episodes` is set begin new ones and return what they show.

        Raises:
            NotReproducibleError: a replay does not give the saved observations, bit for bit.
            ValueError: another number of environments.
        """
        if len(state["sub_envs"]) != self.num_envs:
            raise ValueError(f"the saved state has {len(state['sub_envs'])} environments, this one {self.num_envs}")
        episodes = [_with_arrays(episode) for episode in state["sub_envs"]]
        if self.fresh_episodes:
            episodes = [episode and {**episode, "fresh": True} for episode in episodes]
        self.sub_envs.send("episode_state", episodes)
        begun = self.reset()[0] if self.fresh_episodes else None
        self.guard.steps = state.get("steps", 0)  # not counted yet by the first versions
        return begun

    def can_resume(self) -> bool:
        """Whether the first environment's episode, replayed in a fresh copy of the task, comes to the same state."""
        if self.make_env is None:
            return False
        copy = self.make_env()
        try:
            copy.set_wrapper_attr("episode_state", self.sub_envs.episode_states()[0])
        except NotReproducibleError:
            return False
        finally:
            copy.close()
        return True

    def close_extras(self, **kwargs: Any) -> None:
        self.sub_envs.close()


def _rewards(given: np.ndarray, stepped: Stepped) -> np.ndarray:
    """Return the rewards (N,) float32: NaN, which the guard names, where it was not the physics but the policy."""
    rewards = as_float32(stepped.reward)
    for i in stepped.broken:
        if not np.isfinite(given[i]).all():
            rewards[i] = np.nan
    return rewards


def _with_tensors(state: EpisodeState) -> EpisodeState:
    return state and {k: torch.from_numpy(v) if isinstance(v, np.ndarray) else v for k, v in state.items()}


def _with_arrays(state: EpisodeState) -> EpisodeState:
    return state and {k: v.cpu().numpy() if isinstance(v, Tensor) else v for k, v in state.items()}
