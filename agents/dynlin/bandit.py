"""What the linear bandits share: the problem, its replicates and the interaction loop."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple, Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor

from surefoot.agents.interface import Budget, Plan, Progress, Setting, Spaces
from surefoot.agents.parts.regret import Regret
from surefoot.agents.parts.state import pack, unpack


class RepeatedAction(Protocol):
    """What repeating an action for some rounds gave, all (N,)."""

    @property
    def last_reward(self) -> Tensor: ...
    @property
    def total_reward(self) -> Tensor: ...
    @property
    def steady_state_reward(self) -> Tensor: ...


class LinearSystem(Protocol):
    """The true matrices, from which the bounds that a learner is given are derived, float64."""

    @property
    def A(self) -> np.ndarray: ...
    @property
    def B(self) -> np.ndarray: ...
    @property
    def omega(self) -> np.ndarray: ...
    @property
    def theta(self) -> np.ndarray: ...
    @property
    def output_noise(self) -> float: ...


class BanditEnv(Protocol):
    """A linear bandit with N replicates, such as `surefoot/DynamicalLinear-v0`."""

    num_envs: int
    system: LinearSystem
    actions: np.ndarray | None  # (K, d); None on a ball
    ball: float | None  # its radius
    h: np.ndarray  # (d,) cumulative Markov parameter
    optimum: float  # J*

    def reset(self, *, seed: int | None = None) -> tuple[Tensor, dict[str, Any]]: ...
    def step(self, actions: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, dict[str, Any]]: ...
    def repeat(self, action: Tensor, rounds: int) -> RepeatedAction: ...
    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state: dict[str, Any]) -> None: ...


@dataclass(frozen=True)
class BanditConfig:
    """The settings of every bandit agent."""

    horizon: int | None = None
    """Horizon T that the constants are computed for, in rounds; None: the run's `steps`. The last epoch is cut
    there."""
    path: Literal["epochs", "rounds"] = "epochs"
    """`epochs`: repeated actions are simulated in one draw from their exact distribution; `rounds`: round by round."""
    rounds_per_step: int = 100
    """An agent step plays up to the next multiple of this many rounds."""

    @property
    def needs_horizon(self) -> bool:
        """Whether a constant is computed for T rounds."""
        return True


C = TypeVar("C", bound=BanditConfig)


def derive(config: C, budget: Budget) -> C:
    """Return the config with T the rounds of the run, where it is needed and not given."""
    return replace(config, horizon=budget.steps) if config.needs_horizon and config.horizon is None else config


def plan(config: BanditConfig, budget: Budget) -> Plan:
    """Return what will run: rounds, none of them after the horizon, where what the constants promise has ended."""
    if config.needs_horizon and (config.horizon or 0) < budget.steps:
        raise ValueError(
            f"--agent.horizon is {config.horizon}, but the run has {budget.steps} rounds (--steps), and the "
            f"constants are computed for the former; start a run with --agent.horizon {budget.steps}, or None"
        )
    made_for = f", constants for {config.horizon:,}" if config.horizon not in (None, budget.steps) else ""
    return Plan(budget.steps, None, (f"{budget.steps:,} rounds{made_for}",))


class Learner(Protocol):
    """One method, all replicates at once. `STATEFUL` names the attributes that are its state."""

    @property
    def STATEFUL(self) -> tuple[str, ...]: ...

    def choose(self, t: int) -> tuple[Tensor, int]:
        """Return the next action, indices (N,) or vectors (N, d), and for how many rounds; t rounds are done."""
        ...

    def observe(self, action: Tensor, last: Tensor, mean: Tensor) -> None:
        """Learn from the last and the mean reward (N,) of the rounds for which the action was repeated."""
        ...

    def greedy(self) -> Tensor:
        """Return the action now believed to be best in each replicate, as `choose` does."""
        ...

    def metrics(self) -> dict[str, Tensor]:
        """Return what to log."""
        ...


class BanditProblem(NamedTuple):
    """What a learner is built from, in addition to its config."""

    env: BanditEnv
    seed: int
    device: torch.device


class ConstantPolicy:
    """The action each replicate would now repeat forever; environment i of an evaluation acts as replicate i mod N."""

    def __init__(self) -> None:
        self.action = torch.zeros(0)  # (N,) or (N, d)

    def act(self, obs: Tensor, *, explore: bool = False) -> Tensor:
        """Return the constant actions for obs (M, 1): observations are empty, so nothing depends on them."""
        if not len(self.action):
            raise ValueError("the policy holds no action yet; load its state first")
        return self.action[torch.arange(len(obs), device=self.action.device) % len(self.action)].to(obs.device)

    def state_dict(self) -> dict[str, Any]:
        return {"action": self.action.clone()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.action = state["action"].clone()


def make_constant_policy(config: Any, spaces: Spaces) -> ConstantPolicy:
    """Return an empty policy, to be loaded."""
    return ConstantPolicy()


class Bandit:
    """A learner in N replicates of a problem; one `step` is at least `rounds_per_step` rounds of each."""

    STATEFUL = ("env", "regret", "action", "length", "left", "reward", "cut")

    def __init__(
        self, make_learner: Callable[[Any, BanditProblem], Learner], config: BanditConfig, setting: Setting
    ) -> None:
        env: Any = setting.env
        if not hasattr(env, "repeat"):
            raise ValueError("a bandit plays surefoot/DynamicalLinear-v0; pass --env.id surefoot/DynamicalLinear-v0")
        self.config, self.env = config, env
        self.env.reset(seed=setting.seed)
        self.learner = make_learner(config, BanditProblem(env, setting.seed, setting.device))
        self.regret = Regret(env.optimum, env.num_envs, setting.device)
        self.action = torch.empty(0)  # (N,) or (N, d), being repeated
        self.length, self.left = 0, 0  # rounds of this epoch, and those still to play
        self.cut = False  # the horizon ends this epoch: it gives no sample
        self.reward = torch.zeros(env.num_envs, dtype=torch.float64, device=setting.device)  # of the epoch so far

    @property
    def policy(self) -> ConstantPolicy:
        policy = ConstantPolicy()
        policy.action = self.learner.greedy()
        return policy

    def act(self, obs: Tensor, *, explore: bool = False) -> Tensor:
        """Return the believed-best actions for obs (M, 1); the bandit explores in `step`, not here."""
        return self.policy.act(obs)

    def step(self) -> Progress:
        """Play whole epochs, or rounds on the round path, up to the next multiple of `rounds_per_step`, or to T."""
        began, updates, before = self.regret.t, 0, self.regret.total.clone()
        every = self.config.rounds_per_step
        until = (began // every + 1) * every
        if began < (self.config.horizon or 0):
            until = min(until, self.config.horizon or 0)
        while self.regret.t < until:
            if self.left == 0:
                self.begin_epoch()
            last = self.play()
            if self.left == 0 and not self.cut:
                self.learner.observe(self.action, last, self.reward / self.length)
                updates += 1
        rounds = self.regret.t - began
        gap = (self.regret.total - before) / rounds
        return Progress(rounds, updates, {"gap": gap, **self.learner.metrics()})

    def begin_epoch(self) -> None:
        self.action, planned = self.learner.choose(self.regret.t)
        ahead = (self.config.horizon or 0) - self.regret.t
        self.cut = 0 < ahead < planned
        self.length = self.left = ahead if self.cut else planned
        self.reward = torch.zeros_like(self.reward)

    def play(self) -> Tensor:
        """Play the rest of the epoch at once, or one round of it; return the last reward (N,)."""
        last: Tensor
        if self.config.path == "epochs":
            repeated, rounds = self.env.repeat(self.action, self.left), self.left
            last, total, steady = repeated.last_reward, repeated.total_reward, repeated.steady_state_reward
        else:
            _, last, _, _, info = self.env.step(self.action)
            total, steady, rounds = last, info["steady_state_reward"], 1
        self.left -= rounds
        self.reward = self.reward + total
        self.regret.add(self.regret.optimum - steady, rounds, total)
        return last

    def state_dict(self) -> dict[str, Any]:
        return {**pack(self, self.STATEFUL), "learner": pack(self.learner, self.learner.STATEFUL)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.action = torch.empty_like(state["action"], device=self.reward.device)  # its kind and shape are the state's
        unpack(self, self.STATEFUL, state)
        unpack(self.learner, self.learner.STATEFUL, state["learner"])
