"""The dynamical linear bandit for N replicates at a time (Mussi, Metelli, Restelli, ICML 2023, arXiv 2211.08997).

The task: docs/derivations/dynlin.md §1.1 and §9; repeated actions: §5.2.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor

from surefoot.envs.tasks.linear_system import SYSTEMS, cumulative_markov, make_actions, make_system, repeat_distribution
from surefoot.envs.tasks.replicate_noise import ReplicateNoise
from surefoot.envs.tensor_env import State, TensorEnv

MATRICES = ("A", "B", "omega", "theta", "C", "D", "weights")
ACTION_SETS = ("actions", "polytope", "ball")


class _DeviceDistribution(NamedTuple):
    """A `RepeatDistribution` ready to be multiplied; the action part has <h, u> as a last row."""

    state: Tensor  # (n + 2, n, 1)
    action: Tensor  # (n + 3, d, 1)
    noise: Tensor  # (n + 2, n + 2, 1), or (n + 2, 1) where it is diagonal
    table: Tensor | None  # (n + 3, K), the action part of every action


class RepeatedRounds(NamedTuple):
    """What repeating an action for some rounds gave, all (N,)."""

    last_reward: Tensor
    total_reward: Tensor
    steady_state_reward: Tensor  # <h, u>, of one round


class DynamicalLinear(TensorEnv):
    """y = <ω, x> + <θ, u> + η, then x ← A x + B u + ε. The state is hidden: the observation is a constant zero (N, 1).

    The system is one of `linear_system.SYSTEMS` by name, its entries replaced by those given here, or all given here.
    With a table of actions (or the vertices of a polytope) an action is a row number, (N,) integers; on a ball it is a
    vector of the unit ball, (N, d), scaled by the radius. Vectors (N, d) are taken with a table, too: as they are.

    `info` holds `steady_state_reward` <h, u>, `optimal_steady_state_reward` J* and `mean_reward` given the hidden
    state, each (N,). Environments are replicates: what happens in environment i is a function of (seed, i, actions), to
    the last bit, however many there are. Hence sums are written term by term, each term one operation over all of them;
    a matrix product may round differently for another number of columns.
    """

    def __init__(
        self,
        num_envs: int = 1,
        *,
        system: str | None = None,
        noise: float | None = None,
        state_noise: float | None = None,
        output_noise: float | None = None,
        n_outputs: int | None = None,
        x0: Any = None,
        **kwargs: Any,
    ):
        own = {name: kwargs.pop(name) for name in (*MATRICES, *ACTION_SETS) if name in kwargs}
        own |= {"noise": noise, "state_noise": state_noise, "output_noise": output_noise, "n_outputs": n_outputs}
        description = _describe(system, {name: value for name, value in own.items() if value is not None})
        self.system = make_system(description)
        self.h = cumulative_markov(self.system)
        n, d = self.system.B.shape
        actions = make_actions(description, d)
        self.actions = actions if isinstance(actions, np.ndarray) else None  # (K, d)
        self.ball = None if isinstance(actions, np.ndarray) else actions  # radius
        self.optimum = float((self.actions @ self.h).max() if self.ball is None else self.ball * np.linalg.norm(self.h))
        space: gym.Space[Any] = gym.spaces.Box(-1.0, 1.0, (d,), np.float32)
        if self.actions is not None:
            space = gym.spaces.Discrete(len(self.actions))
        super().__init__(gym.spaces.Box(-1.0, 1.0, (1,), np.float32), space, num_envs, **kwargs)
        x = np.zeros(n) if x0 is None else np.asarray(x0, dtype=np.float64)
        if x.shape != (n,):
            raise ValueError(f"x0 is {x.tolist()}; the state has {n} component(s)")
        self._start = self._tensor(x)[:, None].expand(n, num_envs).T
        self._distributions: dict[int, _DeviceDistribution] = {}
        self._table = None if self.actions is None else self._tensor(self.actions.T)  # (d, K)
        self._never = torch.zeros(num_envs, dtype=torch.bool, device=self.device)
        self._optimum = torch.full((num_envs,), self.optimum, dtype=torch.float64, device=self.device)
        self._draw_noise(0)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Tensor, dict[str, Any]]:
        """Start every environment at x0; a seed restarts the noise, no seed draws a new one."""
        result = super().reset(seed=seed, options=options)
        key = torch.randint(2**62, (), generator=self.generator, device=self.device)
        self._draw_noise(int(key))
        return result

    def draw_state(self) -> State:
        return (self._start,)

    def observe(self, state: State) -> Tensor:
        return torch.zeros(self.num_envs, 1, device=self.device)

    def advance(self, state: State, action: Tensor) -> tuple[State, Tensor, Tensor]:
        """One round: an action repeated once."""
        x, reward, _, mean, steady = self._apply(1, state[0].T, action)
        self.extra_info = {
            "steady_state_reward": steady,
            "optimal_steady_state_reward": self._optimum,
            "mean_reward": mean,
        }
        return (x.T,), reward, self._never

    def repeat(self, action: Tensor, rounds: int) -> RepeatedRounds:
        """Play `action` for `rounds` rounds at once: the same distribution as that many steps, from other noise."""
        if self._limit < torch.iinfo(torch.int64).max:
            raise ValueError("a repeated action cannot cross an episode's end; set no --env.max-episode-steps")
        x, last, earlier, _, steady = self._apply(rounds, self._state[0].T, action)
        self._state = (x.T,)
        self._elapsed_steps = self._elapsed_steps + rounds  # not in place: a state that was taken keeps its own
        return RepeatedRounds(last, earlier + last, steady)

    def vectors(self, action: Tensor) -> Tensor:
        """Return the action vectors u (d, N) that `action` stands for."""
        if not action.is_floating_point() and self._table is not None:
            return self._table.index_select(1, action)
        if self.ball is None:
            return action.double().T.contiguous()
        unit = action.double().T.contiguous()
        length = _sum([row.square() for row in unit]).sqrt()
        return self.ball * unit / length.clamp(min=1.0)  # a longer vector is put on the sphere

    def _apply(self, rounds: int, x: Tensor, action: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Return x (n, N) after the rounds, the last reward, the earlier ones' sum, the last mean reward, <h, u>."""
        distribution = self._distribution(rounds)
        if distribution.table is not None and not action.is_floating_point():
            driven = distribution.table.index_select(1, action)
        else:
            driven = _combine(distribution.action, self.vectors(action))
        n = len(x)
        mean = driven[:-1] + _combine(distribution.state, x)
        noise = self.noise.next()
        out = mean + (
            distribution.noise * noise if distribution.noise.ndim == 2 else _combine(distribution.noise, noise)
        )
        return out[:n], out[n], out[n + 1], mean[n], driven[-1]

    def _distribution(self, rounds: int) -> _DeviceDistribution:
        if rounds not in self._distributions:
            self._distributions[rounds] = self._make_distribution(rounds)
        return self._distributions[rounds]

    def _make_distribution(self, rounds: int) -> _DeviceDistribution:
        distribution = repeat_distribution(self.system, rounds)
        action = self._tensor(np.vstack([distribution.action, self.h]))
        table = None if self._table is None else _combine(action[..., None], self._table)
        state, noise = self._tensor(distribution.state)[..., None], self._tensor(distribution.noise)[..., None]
        if rounds == 1:  # ε and η are independent
            noise = noise.diagonal().T.contiguous()
        return _DeviceDistribution(state, action[..., None], noise, table)

    def _tensor(self, values: np.ndarray) -> Tensor:
        return torch.tensor(values, dtype=torch.float64, device=self.device)

    def _draw_noise(self, key: int) -> None:
        self.noise = ReplicateNoise(key, self.num_envs, len(self.system.A) + 2, self.device)

    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | {"noise_key": self.noise.key, "noise_position": self.noise.position}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self._draw_noise(state["noise_key"])
        self.noise.position = state["noise_position"]


def _describe(system: str | None, own: dict[str, Any]) -> dict[str, Any]:
    """Return the named system with `own` entries laid over it; S1 by default."""
    if system is None and any(name in own for name in MATRICES):
        return own
    system = system or "s1"
    if system not in SYSTEMS:
        raise ValueError(f"unknown system {system!r}; choose one of {', '.join(SYSTEMS)}, or give A, B, omega, theta")
    replaced = any(name in own for name in ACTION_SETS)
    named = {name: value for name, value in SYSTEMS[system].items() if not (replaced and name in ACTION_SETS)}
    return named | own


def _combine(matrix: Tensor, columns: Tensor) -> Tensor:
    """Return matrix (m, k, 1) times columns (k, N), summed term by term in a fixed order (see the class)."""
    return _sum((matrix * columns).unbind(1))


def _sum(terms: Sequence[Tensor]) -> Tensor:
    total = terms[0]
    for term in terms[1:]:
        total = total + term
    return total
