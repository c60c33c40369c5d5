"""What the linear bandits share: the problem, its replicates and the interaction loop."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal, NamedTuple, Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor

from surefoot.agents.interface import Budget, Plan, Progress, Setting, Spaces
from surefoot.agents.parts.budget import rounded_up
from surefoot.agents.parts.ranges import unread_where
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
    doubling: bool = False
    """Any-time: `horizon` is only the first one, 64 where it is left out; whenever it is over, twice as many rounds are
    planned for, and the constants are computed anew. What has been learned stays."""
    path: Literal["epochs", "rounds"] = "epochs"
    """`epochs`: repeated actions are simulated in one draw from their exact distribution; `rounds`: round by round."""
    rounds_per_step: int = 100
    """An agent step plays up to the next multiple of this many rounds."""

    @property
    def needs_horizon(self) -> bool:
        """Whether a constant is computed for T rounds."""
        return True

    def unread(self) -> dict[str, str]:
        """Return what is left without effect where no constant is computed for T rounds, and why."""
        return unread_where((not self.needs_horizon, ("doubling",), "where no constant is computed for a horizon"))


C = TypeVar("C", bound=BanditConfig)
FIRST_HORIZON = 64  # of `doubling`


def derive(config: C, budget: Budget) -> C:
    """Return the config with T the rounds of the run where it is not given; the first T for `doubling`.

    Also where no constant needs it: the last step and the last epoch are cut there.
    """
    if config.horizon is not None:
        return config
    return replace(config, horizon=FIRST_HORIZON if config.doubling and config.needs_horizon else budget.steps)


def plan(config: BanditConfig, budget: Budget) -> Plan:
    """Return what will run: rounds, none of them after the horizon, where what the constants promise has ended."""
    rounds = rounded_up(budget.steps, config.rounds_per_step)
    if config.doubling:
        return Plan(rounds, None, (f"{rounds:,} rounds, constants for {config.horizon}, doubled when over",))
    if config.needs_horizon and (config.horizon or 0) < budget.steps:
        raise ValueError(
            f"--agent.horizon is {config.horizon}, but the run has {budget.steps} rounds (--steps), and the "
            f"constants are computed for the former; start a run with --agent.horizon {budget.steps}, or None"
        )
    made_for = f", constants for {config.horizon:,}" if config.needs_horizon and config.horizon != budget.steps else ""
    if budget.steps <= (config.horizon or 0):
        rounds = min(rounds, config.horizon or 0)
    return Plan(rounds, None, (f"{rounds:,} rounds{made_for}",))


class Learner(Protocol):
    """One method, all replicates at once. `STATEFUL` names the attributes that are its state."""

    @property
    def STATEFUL(self) -> tuple[str, ...]: ...
    @property
    def needs(self) -> Literal["last", "mean"]: ...  # which of the rewards of a repeated action it learns from
    @property
    def misses(self) -> bool: ...  # whether it can go on without a reward

    def choose(self, t: int) -> tuple[Tensor, int]:
        """Return the next action, indices (N,) or vectors (N, d), and for how many rounds; t rounds are done."""
        ...

    def observe(self, action: Tensor, last: Tensor, mean: Tensor) -> None:
        """Learn from the last and the mean reward (N,) of the rounds for which the action was repeated."""
        ...

    def memo(self) -> Tensor | None:
        """Return what has to be kept of the moment of the last choice (N,), should its reward come late."""
        ...

    def skip(self, action: Tensor) -> None:
        """Let the rounds pass, their reward being unknown."""
        ...

    def late(self, action: Tensor, reward: Tensor, memo: Tensor | None, age: int) -> None:
        """Learn from a reward that was skipped `age` rounds ago."""
        ...

    def extend(self, horizon: int) -> None:
        """Compute the constants for `horizon` rounds from the first one on, and keep what has been learned."""
        ...

    def greedy(self) -> Tensor:
        """Return the action now believed to be best in each replicate, as `choose` does."""
        ...

    def metrics(self) -> dict[str, Tensor]:
        """Return what to log."""
        ...

    def note(self, t: int) -> str | None:
        """Return a line for people on what is wrong after t rounds, if anything is."""
        ...


class BanditProblem(NamedTuple):
    """What a learner is built from, in addition to its config."""

    actions: np.ndarray | None  # (K, d); None on a ball
    ball: float | None  # its radius
    d: int
    replicates: int
    seed: int
    device: torch.device
    system: LinearSystem | None = None  # the true one, of a simulator
    known: Mapping[str, float] = {}  # fields of `bounds.Bounds`, of a real system
    h: np.ndarray | None = None  # (d,), of a simulator


def simulated(env: BanditEnv, seed: int, device: torch.device) -> BanditProblem:
    """Return the problem that a simulator poses."""
    d = env.system.B.shape[1]
    return BanditProblem(env.actions, env.ball, d, env.num_envs, seed, device, env.system, {}, env.h)


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


class Turns:
    """A learner's decisions, one after the other: the action under way, its rewards, and the horizon."""

    STATEFUL = ("t", "horizon", "action", "length", "left", "reward", "cut")

    def __init__(self, learner: Learner, config: BanditConfig, replicates: int, device: torch.device) -> None:
        self.learner, self.doubling = learner, config.doubling
        self.t = 0  # rounds done
        self.horizon = config.horizon
        self.action = torch.empty(0)  # (N,) or (N, d), being repeated
        self.length, self.left = 0, 0  # rounds of this epoch, and those still to play
        self.cut = False  # the horizon ends this epoch: it gives no sample
        self.reward = torch.zeros(replicates, dtype=torch.float64, device=device)  # of the epoch so far

    def begin(self) -> None:
        """Choose the next action and for how many rounds."""
        while self.doubling and self.horizon is not None and self.t >= self.horizon:
            self.horizon *= 2
            self.learner.extend(self.horizon)
        self.action, planned = self.learner.choose(self.t)
        ahead = 0 if self.doubling else (self.horizon or 0) - self.t
        self.cut = 0 < ahead < planned
        self.length = self.left = ahead if self.cut else planned
        self.reward = torch.zeros_like(self.reward)

    def played(self, rounds: int, last: Tensor, total: Tensor, known: Tensor | None = None) -> bool:
        """Count rounds of the action with their last reward and their sum (N,); return whether they gave a sample.

        known: in which replicates (N,) that sample is there; None: in all.
        """
        self.t += rounds
        self.left -= rounds
        self.reward = self.reward + total
        if self.left or self.cut:
            return False
        mean = self.reward / self.length
        if known is None or bool(known.all()):
            self.learner.observe(self.action, last, mean)
        else:
            skip = partial(self.learner.skip, self.action)
            where_known(self.learner, known, partial(self.learner.observe, self.action, last, mean), skip)
        return True

    def state_dict(self) -> dict[str, Any]:
        return {**pack(self, self.STATEFUL), "learner": pack(self.learner, self.learner.STATEFUL)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.action = torch.empty_like(state["action"], device=self.reward.device)  # its kind and shape are the state's
        unpack(self, self.STATEFUL, state)
        unpack(self.learner, self.learner.STATEFUL, state["learner"])


def where_known(
    learner: Learner, known: Tensor, observe: Callable[[], None], skip: Callable[[], None] = lambda: None
) -> None:
    """Do `observe` in the replicates known (N,), and `skip` in the others: their axis is the last of every tensor."""
    before = pack(learner, learner.STATEFUL)
    skip()
    skipped = pack(learner, learner.STATEFUL)
    unpack(learner, learner.STATEFUL, before)
    observe()
    unpack(learner, learner.STATEFUL, _merged(known, pack(learner, learner.STATEFUL), skipped))


def _merged(known: Tensor, one: Any, other: Any) -> Any:
    if isinstance(one, Tensor):
        return torch.where(known, one, other) if one.ndim else one
    if isinstance(one, dict):
        return {name: _merged(known, value, other[name]) for name, value in one.items()}
    return one


class Bandit:
    """A learner in N replicates of a problem; one `step` is at least `rounds_per_step` rounds of each."""

    STATEFUL = ("env", "regret", "turns", "noted")

    def __init__(
        self, make_learner: Callable[[Any, BanditProblem], Learner], config: BanditConfig, setting: Setting
    ) -> None:
        env: Any = setting.env
        if not hasattr(env, "repeat"):
            raise ValueError("a bandit plays surefoot/DynamicalLinear-v0; pass --env.id surefoot/DynamicalLinear-v0")
        self.config, self.env = config, env
        self.env.reset(seed=setting.seed)
        self.learner = make_learner(config, simulated(env, setting.seed, setting.device))
        self.regret = Regret(env.optimum, env.num_envs, setting.device)
        self.turns = Turns(self.learner, config, env.num_envs, setting.device)
        self.noted = False  # that half of the horizon is over and bounds still decide

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
        every, horizon = self.config.rounds_per_step, 0 if self.config.doubling else self.config.horizon or 0
        until = (began // every + 1) * every
        if began < horizon:
            until = min(until, horizon)
        while self.regret.t < until:
            if self.turns.left == 0:
                self.turns.begin()
            updates += self.play()
        rounds = self.regret.t - began
        gap = (self.regret.total - before) / rounds
        return Progress(rounds, updates, {"gap": gap, **self.learner.metrics()}, notes=self.notes())

    def notes(self) -> tuple[str, ...]:
        """Return what the learner has to say, once, when half of the horizon is over."""
        if self.noted or self.regret.t < (self.turns.horizon or 0) / 2:
            return ()
        line = self.learner.note(self.regret.t)
        self.noted = line is not None
        return (line,) if line is not None else ()

    def play(self) -> bool:
        """Play the rest of the epoch at once, or one round of it; return whether the learner got a sample."""
        turns = self.turns
        last: Tensor
        if self.config.path == "epochs":
            repeated, rounds = self.env.repeat(turns.action, turns.left), turns.left
            last, total, steady = repeated.last_reward, repeated.total_reward, repeated.steady_state_reward
        else:
            _, last, _, _, info = self.env.step(turns.action)
            total, steady, rounds = last, info["steady_state_reward"], 1
        self.regret.add(self.regret.optimum - steady, rounds, total)
        return turns.played(rounds, last, total)

    def state_dict(self) -> dict[str, Any]:
        return pack(self, self.STATEFUL)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if "turns" not in state:
            raise ValueError("a checkpoint of an older Surefoot, whose bandits kept another state; train again")
        unpack(self, self.STATEFUL, state)
