"""Episodes of one task under many parameter vectors at once: one policy call a step for all of them.

A job is an episode with its own parameters and reset seed. Environments take the next job as soon as theirs ends, so it
does not matter how many there are.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple, Protocol

import gymnasium as gym
import numpy as np
import torch
from gymnasium.vector import AutoresetMode
from gymnasium.vector.utils import batch_space
from torch import Tensor

from surefoot.envs.config import EnvConfig
from surefoot.envs.divergence import quiet_mujoco
from surefoot.envs.make import as_one_batch, make_single, make_vec
from surefoot.envs.parameters import UncertaintySet, check_task
from surefoot.envs.task_parameters import TaskParameters, full_vector
from surefoot.envs.tensor_env import TensorEnv
from surefoot.envs.uncertainty.robots import ROBOTS, Moved, MujocoRobots
from surefoot.envs.warp import require_installed
from surefoot.envs.warp.tasks import require_served

LONGEST_EPISODE = 100_000  # steps; a task without a time limit would otherwise never return
NUM_ENVS = 128  # episodes side by side: beyond it a batch saves little, and one of the largest robot takes 1 MB


class Robots(Protocol):
    """Environments that can be started and stepped one apart from another."""

    spaces: tuple[gym.Space[Any], gym.Space[Any]]
    parameters: TaskParameters

    # Parameters (n, d) and reset seeds (n,) of those that begin -> observations (n, obs) float32.
    def begin(self, indices: np.ndarray, values: np.ndarray, seeds: Sequence[int]) -> np.ndarray: ...
    def advance(self, indices: np.ndarray, actions: np.ndarray) -> Moved: ...
    def close(self) -> None: ...


class BatchedEpisodes(gym.vector.VectorEnv):
    """A queue of jobs behind the vector interface; parameters (J, d), reset seeds (J,).

    SAME_STEP autoreset: where an episode ends, the environment begins the next job. Without one it rests: its
    observation stays, its reward is 0 and no flag is raised. `info["job"]` (N,) is the job that a step belonged to, -1
    for none. Where the physics diverges (MuJoCo resets such a state silently) the step pays nothing and the episode
    ends with it, as `terminated` with `info["broken"]`; the other environments continue.

    Raises:
        ValueError: a set for another task, or with parameters or values that the task does not have.
    """

    metadata = {"autoreset_mode": AutoresetMode.SAME_STEP}  # noqa: RUF012 - Gymnasium's own declaration

    def __init__(
        self,
        config: EnvConfig,
        uncertainty: UncertaintySet,
        params: np.ndarray,
        seeds: Sequence[int],
        *,
        num_envs: int = NUM_ENVS,
        threads: int | None = None,
        device: str | torch.device = "cpu",
    ):
        self.params, self.seeds = np.asarray(params, np.float64), list(seeds)
        self.num_envs = min(num_envs, len(self.seeds))
        self.device = torch.device(device)
        one = replace(config, num_envs=1, vectorization="sync")
        self.robots = _robots(one, uncertainty, self.num_envs, threads, self.device)
        self.robots.parameters.check_rows(self.params)
        self.single_observation_space, self.single_action_space = self.robots.spaces
        self.observation_space, self.action_space = (batch_space(space, self.num_envs) for space in self.robots.spaces)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Tensor, dict[str, Any]]:
        """Start the queue from its first job; every job has its own seed."""
        self._next = 0
        self._job = np.full(self.num_envs, -1)
        self._obs = np.zeros((self.num_envs, *(self.single_observation_space.shape or ())), np.float32)
        with quiet_mujoco():
            self._begin(np.arange(self.num_envs))
        return self._tensor(self._obs), {"job": self._tensor(self._job)}

    @property
    def job(self) -> Tensor:
        """The job (N,) that each environment is in, -1 for none."""
        return self._tensor(self._job)

    @property
    def finished(self) -> bool:
        """Whether every job has ended."""
        return bool((self._job < 0).all())

    def step(self, actions: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, dict[str, Any]]:
        """As `TensorVectorEnv.step`, with `job` and `broken` (N,) in the info."""
        job, final_obs = self._job.copy(), self._obs.copy()
        reward = np.zeros(self.num_envs, np.float32)
        terminated, truncated, broken = np.zeros((3, self.num_envs), bool)
        busy = np.flatnonzero(job >= 0)
        with quiet_mujoco():
            if len(busy):
                moved = self.robots.advance(busy, actions.numpy(force=True)[busy])
                final_obs[busy] = np.where(moved.broken[:, None], final_obs[busy], moved.obs)
                reward[busy] = np.where(moved.broken, 0.0, moved.reward)
                terminated[busy] = moved.terminated | moved.broken
                truncated[busy], broken[busy] = moved.truncated, moved.broken
            self._obs = final_obs.copy()
            self._begin(np.flatnonzero(terminated | truncated))
        info = {"final_obs": final_obs, "_final_obs": terminated | truncated, "job": job, "broken": broken}
        obs, reward_, terminated_, truncated_ = map(self._tensor, (self._obs, reward, terminated, truncated))
        return obs, reward_, terminated_, truncated_, {name: self._tensor(column) for name, column in info.items()}

    def _begin(self, indices: np.ndarray) -> None:
        """Let these take the next jobs, as far as there are any."""
        jobs = np.arange(self._next, min(self._next + len(indices), len(self.seeds)))
        taking = indices[: len(jobs)]
        self._job[indices], self._job[taking] = -1, jobs
        self._next += len(jobs)
        if len(jobs):
            self._obs[taking] = self.robots.begin(taking, self.params[jobs], [self.seeds[job] for job in jobs])

    def _tensor(self, array: np.ndarray) -> Tensor:
        return torch.from_numpy(array.copy()).to(self.device)

    def close_extras(self, **kwargs: Any) -> None:
        self.robots.close()


def _robots(
    config: EnvConfig, uncertainty: UncertaintySet, num_envs: int, threads: int | None, device: torch.device
) -> Robots:
    if config.backend == "warp":
        require_served(config)
        require_installed()
        from surefoot.envs.uncertainty.world_robots import WorldRobots

        return WorldRobots(config, uncertainty, num_envs, device)
    plain = not config.time_aware and config.physics.action_noise == 0.0 and config.action_repeat == 1
    if config.id in ROBOTS and plain:
        return MujocoRobots(config, uncertainty, num_envs, threads)
    return GymRobots(config, uncertainty, num_envs)


# --- any task of Gymnasium's, the environments stepped one after the other --------------------------------------------


class GymRobots:
    """Environments with `WithParameters`, one after the other."""

    def __init__(self, config: EnvConfig, uncertainty: UncertaintySet, num_envs: int):
        self.envs = [make_single(config, uncertainty=uncertainty) for _ in range(num_envs)]
        self.spaces = (self.envs[0].observation_space, self.envs[0].action_space)
        self.parameters: TaskParameters = self.envs[0].get_wrapper_attr("parameters")

    def begin(self, indices: np.ndarray, values: np.ndarray, seeds: Sequence[int]) -> np.ndarray:
        jobs = zip(indices.tolist(), values, seeds, strict=True)
        return np.stack([self.envs[i].reset(seed=seed, options={"params": row})[0] for i, row, seed in jobs])

    def advance(self, indices: np.ndarray, actions: np.ndarray) -> Moved:
        rows = [self._step(self.envs[i], action) for i, action in zip(indices, actions, strict=True)]
        return Moved(*(np.array(column) for column in zip(*rows, strict=True)))

    def _step(self, env: gym.Env, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, bool]:
        obs, reward, terminated, truncated, info = env.step(action)
        return obs, float(reward), bool(terminated), bool(truncated), info["broken"]

    def close(self) -> None:
        for env in self.envs:
            env.close()


# --- playing all jobs -------------------------------------------------------------------------------------------------


class JobOutcomes(NamedTuple):
    """One entry per job, in the order of the jobs."""

    returns: np.ndarray  # (J,) float64, undiscounted; up to the last good step where the physics diverged
    lengths: np.ndarray  # (J,) int64, steps; the one in which the physics diverged is the last of them
    broken: np.ndarray  # (J,) bool, the physics diverged
    terminated: np.ndarray  # (J,) bool, the task itself ended the episode, at a goal or a fall, be it in its last step


@torch.inference_mode()
def play(
    act: Callable[[Tensor], Tensor],
    config: EnvConfig,
    uncertainty: UncertaintySet,
    params: np.ndarray,
    seeds: Sequence[int],
    *,
    num_envs: int = NUM_ENVS,
    threads: int | None = None,
    device: str | torch.device = "cpu",
) -> JobOutcomes:
    """Return the outcome of one episode per job of `act`, (N, obs) -> (N, action): parameters (J, d), reset seeds (J,).

    A job's outcome depends on its own row, its seed and `act` alone, not on `num_envs` or threads, except that a matrix
    product over another number of rows may round its last bit differently. Our batched tensor tasks draw all
    environments from one generator, seeded by the first job of each wave of environments.

    A stateful `act` (`agents.interface.StatefulPolicy`) is reset and observes rewards and ends of episodes; where an
    episode ended, the environment continues with another. Before each step a method `track(job, jobs)` receives the job
    (N,) of each environment, -1 for none, and the number of jobs.

    Raises:
        ValueError: as `BatchedEpisodes`; actions that are not finite, or of another number of rows than observations.
    """
    check_task(uncertainty, config.id)
    params = np.asarray(params, np.float64)
    if as_one_batch(config, uncertainty):
        return _play_waves(act, config, uncertainty, params, seeds, min(num_envs, len(seeds)), device)
    env = BatchedEpisodes(config, uncertainty, params, seeds, num_envs=num_envs, threads=threads, device=device)
    played = _blank(len(seeds))
    try:
        obs, _ = env.reset()
        _notify(act, "reset")
        while not env.finished:
            _notify(act, "track", env.job, len(seeds))
            obs, reward, terminated, _, info = env.step(_actions(act, obs))
            _notify(act, "observe", reward, info["_final_obs"])
            job = info["job"].numpy(force=True)
            busy = job >= 0
            played.returns[job[busy]] += reward.numpy(force=True)[busy]
            played.lengths[job[busy]] += 1
            played.broken[job[busy]] |= info["broken"].numpy(force=True)[busy]
            played.terminated[job[busy]] |= (terminated & ~info["broken"]).numpy(force=True)[busy]
            _check_length(played.lengths)
    finally:
        env.close()
    return played


def _actions(act: Callable[[Tensor], Tensor], obs: Tensor) -> Tensor:
    """Return the actions of a policy; one that is not a number would count as physics that diverge, or as none."""
    actions = act(obs)
    if len(actions) != len(obs):
        raise ValueError(f"the policy gave {len(actions)} actions for {len(obs)} observations")
    if not actions.isfinite().all():
        raise ValueError(
            "the policy gave an action that is not finite (NaN or infinite); its returns would mean nothing"
        )
    return actions


def _notify(act: Any, name: str, *what: Tensor | int) -> None:
    if hasattr(act, name):
        getattr(act, name)(*what)


def _blank(jobs: int) -> JobOutcomes:
    return JobOutcomes(np.zeros(jobs), np.zeros(jobs, np.int64), np.zeros(jobs, bool), np.zeros(jobs, bool))


def _check_length(lengths: np.ndarray) -> None:
    if lengths.max() > LONGEST_EPISODE:
        raise ValueError(
            f"no end of an episode after {LONGEST_EPISODE} steps; set a limit with --env.max-episode-steps N"
        )


def _play_waves(
    act: Callable[[Tensor], Tensor],
    config: EnvConfig,
    uncertainty: UncertaintySet,
    params: np.ndarray,
    seeds: Sequence[int],
    num_envs: int,
    device: str | torch.device,
) -> JobOutcomes:
    """Play the jobs in a task that is a tensor program: a wave of environments at a time, the first episode of each."""
    env: Any = make_vec(replace(config, num_envs=num_envs), device=device)
    full = full_vector(env, uncertainty)
    played = _blank(len(seeds))
    for first in range(0, len(seeds), num_envs):
        jobs = np.arange(first, min(first + num_envs, len(seeds)))
        rows = np.resize(jobs, num_envs)  # the last wave is filled up with jobs of its own, which are not counted
        env.set_params(torch.from_numpy(full(params[rows])).to(env.device))
        returns, lengths, ended = _first_episodes(act, env, seeds[first], jobs, len(seeds))
        played.returns[jobs], played.lengths[jobs] = returns[: len(jobs)], lengths[: len(jobs)]
        played.broken[jobs] = ~np.isfinite(played.returns[jobs])
        played.terminated[jobs] = ended[: len(jobs)] & ~played.broken[jobs]
    return played


def _first_episodes(
    act: Callable[[Tensor], Tensor], env: TensorEnv, seed: int, jobs: np.ndarray, of: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return (N,) returns, lengths and whether the task ended it, of each environment's first episode.

    The first environments have the `jobs`, of so many.
    """
    job = torch.full((env.num_envs,), -1, device=env.device)
    job[: len(jobs)] = torch.from_numpy(jobs)
    obs, _ = env.reset(seed=seed)
    _notify(act, "reset")
    running = torch.ones(env.num_envs, dtype=torch.bool, device=env.device)
    returns = torch.zeros(env.num_envs, dtype=torch.float64, device=env.device)
    lengths = torch.zeros(env.num_envs, dtype=torch.int64, device=env.device)
    by_task = torch.zeros_like(running)
    while running.any():
        _notify(act, "track", torch.where(running, job, -1), of)
        obs, reward, terminated, truncated, _ = env.step(_actions(act, obs))
        returns += torch.where(running, reward.double(), 0.0)
        lengths += running
        by_task |= running & terminated
        ended = terminated | truncated
        running &= ~ended
        _notify(act, "observe", reward, ended)
        _check_length(lengths.numpy(force=True))
    return returns.numpy(force=True), lengths.numpy(force=True), by_task.numpy(force=True)
