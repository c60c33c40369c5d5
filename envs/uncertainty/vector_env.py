"""Training in an uncertainty set: environments whose parameters are drawn at every reset, or set by an agent."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor

from surefoot.envs.config import EnvConfig
from surefoot.envs.make import as_one_batch, make_vec
from surefoot.envs.parameters import UncertaintySet, check_task
from surefoot.envs.physics import Physics
from surefoot.envs.task_parameters import full_vector
from surefoot.envs.uncertainty.batched_episodes import NUM_ENVS, JobOutcomes, play
from surefoot.envs.uncertainty.probe import nominal_params


class UncertainVectorEnv(gym.vector.VectorWrapper):
    """`make_vec` with the parameters of a set: `agents.interface.UncertainEnv`.

    As made, it is domain randomisation (docs/derivations/iwocs.md §8.1): every episode of every environment has
    parameters drawn uniformly from the box by an owned generator. `set_params` fixes them, `randomise` goes back to
    drawing. All of it is in `state_dict`.

    Raises:
        ValueError: a set for another task, or with parameters that the task does not have.
    """

    def __init__(self, config: EnvConfig, uncertainty: UncertaintySet, *, device: str | torch.device = "cpu"):
        check_task(uncertainty, config.id)
        env: Any = make_vec(config, device=device, uncertainty=uncertainty)
        super().__init__(env)
        self.env: Any = env
        self.device = env.device
        self.param_names = uncertainty.param_names
        self.low, self.high = (torch.from_numpy(x).to(self.device) for x in (uncertainty.low, uncertainty.high))
        self._full = full_vector(env, uncertainty) if as_one_batch(config, uncertainty) else None
        self.generator = torch.Generator(self.device)
        self.generator.seed()
        self.random = True
        self.params = self._next = self._draw()

    @property
    def episode_limit(self) -> int | None:
        """Steps after which an episode is truncated; None: unlimited."""
        limit: int | None = self.env.episode_limit
        return limit

    def set_params(self, values: Tensor, *, now: bool = False) -> None:
        """Fix the parameters, (d,) for all or (N, d), from each environment's next reset on; `now`: at once as well."""
        self.random = False
        self._let_next(values.to(self.low).expand(self.num_envs, -1).clone())
        if now:
            self.params = self._next
            self._write("params")

    def randomise(self) -> None:
        """Draw parameters again, from each environment's next reset on."""
        self.random = True
        self._let_next(self._draw())

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Tensor, dict[str, Any]]:
        """Start an episode in every environment; a seed restarts the generator of the parameters too."""
        if seed is not None:
            self.generator.manual_seed(seed)
        if self.random:
            self._let_next(self._draw())
        self._begin(torch.ones(self.num_envs, dtype=torch.bool, device=self.device))
        started: tuple[Tensor, dict[str, Any]] = self.env.reset(seed=seed, options=options)
        if self.random:
            self._let_next(self._draw())
        return started

    def step(self, actions: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, dict[str, Any]]:
        """As the task's; `params` (N, d) are those of this step until it returns, then those of the next one."""
        stepped: tuple[Tensor, Tensor, Tensor, Tensor, dict[str, Any]] = self.env.step(actions)
        ended = stepped[-1]["_final_obs"]
        if ended.any():
            self._begin(ended)
            if self.random:
                self._let_next(torch.where(ended[:, None], self._draw(), self._next))
        return stepped

    def _draw(self) -> Tensor:
        unit = torch.rand(
            self.num_envs, len(self.low), generator=self.generator, device=self.device, dtype=torch.float64
        )
        return self.low + unit * (self.high - self.low)

    def _let_next(self, values: Tensor) -> None:
        """Stage the parameters (N, d) of the episodes to come; a tensor task receives them when they begin."""
        self._next = values
        self._write("next_params")

    def _begin(self, fresh: Tensor) -> None:
        """Let those (N,) that begin an episode have what was staged; a Gymnasium task reads it at its reset."""
        self.params = torch.where(fresh[:, None], self._next, self.params)
        if self._full is not None:
            self._write("params")

    def _write(self, name: str) -> None:
        values = self.params if name == "params" else self._next
        if self._full is None:
            self.env.send(name, values)
        elif name == "params":
            self.env.set_params(torch.from_numpy(self._full(values.numpy(force=True))).to(self.device))

    def can_resume(self) -> bool:
        """As the task's."""
        can: bool = self.env.can_resume()
        return can

    def state_dict(self) -> dict[str, Any]:
        own = {"params": self.params, "next": self._next, "random": self.random}
        return {"env": self.env.state_dict(), **own, "generator": self.generator.get_state()}

    def load_state_dict(self, state: dict[str, Any]) -> Tensor | None:
        """Take the state back; return what `TensorVectorEnv.load_state_dict` does."""
        self.random, self.params, following = state["random"], state["params"].to(self.low), state["next"].to(self.low)
        self.generator.set_state(state["generator"].cpu())
        self._let_next(following)
        begun: Tensor | None = self.env.load_state_dict(state["env"])
        if begun is not None:  # new episodes, with the parameters that were staged
            self.params = following
            following = self._draw() if self.random else following
        self._let_next(following)  # a replay has staged others
        if self._full is not None:
            self._write("params")
        return begun


class BatchedPerturbedEnvs:
    """Runs policies in the environments of an uncertainty set: `agents.interface.PerturbedEnvs`.

    Raises:
        ValueError: as `play`.
    """

    def __init__(
        self,
        config: EnvConfig,
        uncertainty: UncertaintySet,
        *,
        device: str | torch.device = "cpu",
        num_envs: int = NUM_ENVS,
    ):
        self.config, self.uncertainty, self.device, self.num_envs = config, uncertainty, device, num_envs
        self.names, self.low, self.high = uncertainty.param_names, uncertainty.low, uncertainty.high
        self.nominal = nominal_params(config, uncertainty)

    def in_dynamics(self, physics: Physics) -> BatchedPerturbedEnvs:
        """Return the same in other dynamics around the parameters of the set, stepped by MuJoCo in C."""
        config = replace(self.config.in_c(), physics=physics)
        return BatchedPerturbedEnvs(config, self.uncertainty, device=self.device, num_envs=self.num_envs)

    def play(self, act: Any, points: np.ndarray, seeds: Sequence[int]) -> JobOutcomes:
        """Return what `act` gets at each of the points (P, d) from each of E reset seeds; every column is (P, E)."""
        jobs, starts = np.repeat(points, len(seeds), axis=0), list(seeds) * len(points)
        played = play(act, self.config, self.uncertainty, jobs, starts, num_envs=self.num_envs, device=self.device)
        return JobOutcomes(*(column.reshape(len(points), len(seeds)) for column in played))
