"""A learner of linear bandits that drives a real system: asked for actions, told rewards, no matrices.

Equations and sections: docs/derivations/dynlin.md §16.

| derivation | paper | here |
|---|---|---|
| §16.2 | – | `RealBandit.ask`, `RealBandit.tell`: rewards in time, late, or never |
| (16.6), §16.4 | – | `RealBandit.examine`: ρ̄ against the data, and raised where it was not given |
| (16.7) | – | `RealBandit.warm_start` |

Learner, epochs and numbers are those of the simulator (`bandit.Turns`): told the simulator's rewards, round by round, a
learner asks for the simulator's actions to the last bit.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from surefoot.agents.dynlin.bandit import FIRST_HORIZON, BanditConfig, BanditProblem, Learner, Turns, where_known
from surefoot.agents.dynlin.bounds import named
from surefoot.agents.dynlin.diagnosis import radius_parts
from surefoot.agents.dynlin.identification import Identified, excess, identify
from surefoot.agents.parts.ask_tell import BanditRequest, Decision, given_rewards
from surefoot.agents.parts.state import pack, unpack

FIRST_RHO = 0.5  # ρ̄ where none is given; 1 − ρ̄ halves whenever the data refute it
LAST_RHO = 1 - 2.0**-7
FIRST_CHECK = 256  # rounds; then whenever their number has doubled
WINDOW = 2048  # rounds that ρ̄ is checked with
CHECK_LAGS = 24
OPEN = 1000  # decisions of which rewards may be missing; the oldest are given up
NEVER = float("inf")  # in place of a reward that will not come; NaN: not yet


def posed(request: BanditRequest, device: torch.device) -> BanditProblem:
    """Return the problem of a request; `ValueError` for actions, bounds or numbers that make none."""
    if request.replicates < 1:
        raise ValueError(f"replicates is {request.replicates}; there is at least one system")
    known = named(request.bounds)
    rest = request.replicates, request.seed, device, None, known
    if isinstance(request.actions, Mapping):
        radius: Any = request.actions.get("ball")
        d: Any = request.actions.get("dimension")
        plain = type(radius) in (int, float) and type(d) is int and len(request.actions) == 2  # True is no number
        if not plain or not 0 < radius < NEVER or d < 1:
            raise ValueError('actions: a ball is {"ball": RADIUS, "dimension": D}, both positive, and no more')
        return BanditProblem(None, float(radius), d, *rest)
    try:
        table = np.array(request.actions if request.actions is not None else [], dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError("actions: not a table of numbers, a row per action") from error
    if table.ndim != 2 or not table.size or not np.isfinite(table).all():
        raise ValueError(f"actions: a table (K, d) of finite numbers is needed, this one is {table.shape}")
    if len(np.unique(table, axis=0)) < 2:
        raise ValueError("actions: there is nothing to choose from; give two different ones at least")
    return BanditProblem(table, None, table.shape[1], *rest)


def deployable(config: Any) -> Any:
    """Return the config with doubling where it needs a horizon and has none."""
    if config.horizon is None and config.needs_horizon:
        return replace(config, doubling=True, horizon=FIRST_HORIZON)
    return config


class RealBandit:
    """Learner, decision under way, rewards that are still missing, and the last rounds for the check of ρ̄."""

    STATEFUL = ("turns", "first", "rewards", "open", "given_up", "past", "next_check", "warned", "raised")

    def __init__(
        self,
        make_learner: Callable[[Any, BanditProblem], Learner],
        config: BanditConfig,
        request: BanditRequest,
        device: torch.device,
    ) -> None:
        config, problem = deployable(config), posed(request, device)
        self.adaptive = "rho" not in problem.known and getattr(config, "spectral_radius_bound", 0.0) is None
        if self.adaptive:
            problem = problem._replace(known={**problem.known, "rho": FIRST_RHO})
        self.config, self.problem, self.device = config, problem, device
        self.learner: Any = make_learner(config, problem)
        self.turns = Turns(self.learner, config, problem.replicates, device)
        self.first = 1  # round of the decision under way
        self.rewards = self._rewards(0)  # of its rounds so far
        self.memo: Tensor | None = None
        self.open: list[dict[str, Any]] = []  # decisions with rewards that may come yet, the oldest first
        self.given_up = 0
        self.past = torch.full((WINDOW, problem.d + 1, problem.replicates), torch.nan, dtype=torch.float64)
        self.next_check = FIRST_CHECK
        self.warned: list[str] = []
        self.raised: list[list[float]] = []  # round and new ρ̄

    @property
    def replicates(self) -> int:
        return self.problem.replicates

    @property
    def pending(self) -> Decision | None:
        """The decision under way, until all of its rounds are told."""
        return self._decision() if self.turns.left else None

    # --- asking ---------------------------------------------------------------------------------------------------

    def ask(self, contexts: Any = None) -> Decision:
        """Return the next action and for how many rounds to hold it; `ValueError` while rounds are not told."""
        if contexts is not None:
            raise ValueError("this learner chooses among the actions it was made with, not among contexts")
        if self.turns.left:
            at = self.turns.t + 1
            raise ValueError(f"the decision of round {self.first} is under way; tell the reward of round {at} first")
        if self.config.needs_horizon and not self.config.doubling and self.turns.t == self.turns.horizon:
            self._warn("horizon", f"{self.turns.t} rounds are over, and the constants were made for no more")
        self.turns.begin()
        self.first = self.turns.t + 1
        self.rewards = self._rewards(self.turns.length)
        self.memo = self.learner.memo()
        return self._decision()

    def _decision(self) -> Decision:
        action, vectors = self.turns.action, self._vectors(self.turns.action).T.cpu().numpy().copy()  # (N, d)
        index = None if action.is_floating_point() else action.cpu().numpy().copy()
        if self.replicates == 1:
            return Decision(self.first, self.turns.length, None if index is None else int(index[0]), vectors[0])
        return Decision(self.first, self.turns.length, index, vectors)

    def _vectors(self, action: Tensor) -> Tensor:
        """Return the vectors (d, N) that are played."""
        if not action.is_floating_point():
            table = torch.tensor(self.problem.actions, dtype=torch.float64, device=self.device)
            return table.T.index_select(1, action)
        return action.T.double() * (1.0 if self.problem.ball is None else self.problem.ball)

    def _rewards(self, rounds: int) -> Tensor:
        return torch.full((rounds, self.replicates), torch.nan, dtype=torch.float64, device=self.device)

    # --- telling --------------------------------------------------------------------------------------------------

    def tell(self, reward: Any, of: int | None = None) -> None:
        """Take in the reward of the next round of the decision, or of the earlier round number `of`."""
        values, there = given_rewards(reward, self.replicates)
        told = torch.tensor(values, device=self.device), torch.tensor(there, device=self.device)
        if of is not None:
            self._tell_late(*told, of, never=reward is None)
            return
        if not self.turns.left:
            raise ValueError("no decision is under way; ask for one before telling a reward")
        if not there.all() and not self.learner.misses:
            self.learner.skip(self.turns.action)  # says why it cannot
        self._tell_next(*told)
        if self.turns.t >= self.next_check and not self.turns.left:
            self.examine()

    def _tell_next(self, values: Tensor, there: Tensor) -> None:
        turns = self.turns
        self.rewards[turns.length - turns.left] = torch.where(there, values, torch.nan)
        self._remember(turns.t, torch.cat([self._vectors(turns.action), torch.where(there, values, torch.nan)[None]]))
        if turns.left > 1:
            turns.played(1, values, values)
            return
        known = self._complete(self.rewards) & ~self.rewards.isinf().any(0)
        turns.played(1, values, values, known)
        if not bool(self.rewards.isfinite().all()):
            self._keep_open(known)

    def _complete(self, rewards: Tensor) -> Tensor:
        """Return where (N,) the learner has what it needs of a decision's rewards (L, N)."""
        needed = rewards[-1:] if self.learner.needs == "last" else rewards
        return ~needed.isnan().any(0) & needed.isfinite().any(0)

    def _keep_open(self, known: Tensor) -> None:
        """Keep the decision just ended for rewards to come; what is complete but for rounds given up counts now."""
        nothing_more = torch.ones_like(known) if self.turns.cut else known
        kept = {"first": self.first, "action": self.turns.action, "memo": self.memo}
        self.open.append({**kept, "rewards": self.rewards, "taken": nothing_more})
        self._take(self.open[-1])
        if len(self.open) > OPEN:
            self.open.pop(0)
            self.given_up += 1

    def _tell_late(self, values: Tensor, there: Tensor, of: int, *, never: bool) -> None:
        if not isinstance(of, int) or isinstance(of, bool) or not 1 <= of <= self.turns.t:
            raise ValueError(f"round {of!r} has not been told; {self.turns.t} round(s) have")
        under_way = self.turns.left > 0 and of >= self.first
        found = [one for one in self.open if one["first"] <= of < one["first"] + len(one["rewards"])]
        rewards = self.rewards if under_way else found[0]["rewards"] if found else None
        row = None if rewards is None else rewards[of - (self.first if under_way else found[0]["first"])]
        wanted = torch.ones_like(there) if never else there
        if row is None or not bool(row[wanted].isnan().all() if not never else row.isnan().any()):
            raise ValueError(f"the reward of round {of} is known already, or was given up")
        row.copy_(torch.where(row.isnan() & wanted, torch.full_like(values, NEVER) if never else values, row))
        self._recall(of, values, there)
        if under_way:
            self.turns.reward += torch.where(there, values, 0.0)
        else:
            self._take(found[0])

    def _take(self, one: dict[str, Any]) -> None:
        """Let the learner have the decisions' rewards that have become complete; forget it when none can come."""
        ready = self._complete(one["rewards"]) & ~one["taken"]
        if bool(ready.any()):
            finite = one["rewards"].isfinite()
            mean = torch.where(finite, one["rewards"], 0.0).sum(0) / finite.sum(0).clamp(min=1)
            reward = mean if self.learner.needs == "mean" else torch.where(finite[-1], one["rewards"][-1], 0.0)
            age = self.turns.t - (one["first"] + len(one["rewards"]) - 1)
            where_known(self.learner, ready, lambda: self.learner.late(one["action"], reward, one["memo"], age))
            one["taken"] = one["taken"] | ready
        if not bool(one["rewards"].isnan().any()):
            self.open = [other for other in self.open if other is not one]

    # --- the last rounds, and what they say of ρ̄ --------------------------------------------------------------------

    def _remember(self, t: int, row: Tensor) -> None:
        self.past[t % WINDOW] = row.cpu()

    def _recall(self, of: int, values: Tensor, there: Tensor) -> None:
        if self.turns.t - of < WINDOW:
            place = self.past[(of - 1) % WINDOW, -1]
            place.copy_(torch.where(there, values, place))

    def log(self, replicate: int = 0) -> tuple[np.ndarray, np.ndarray]:
        """Return actions (T, d) and rewards (T,) of the last rounds, 2048 at most, NaN where a reward is missing."""
        t = self.turns.t
        order = [i % WINDOW for i in range(max(0, t - WINDOW), t)]
        rows = self.past[order, :, replicate].numpy()
        return rows[:, :-1].copy(), rows[:, -1].copy()

    def examine(self) -> None:
        """Hold the bounds against the last rounds; raise ρ̄ where it was not given, warn where it was."""
        self.next_check = 2 * max(self.turns.t, self.next_check)
        if self.learner.holds_bounds:
            bounds = self.learner.bounds
            height = bounds.omega * bounds.b * bounds.phi
            broken = sorted({lag for i in range(self.replicates) for lag in self._excess(i, height, bounds)})
            if broken and self.adaptive and bounds.rho < LAST_RHO:
                self.learner.rho = min(LAST_RHO, (1 + bounds.rho) / 2)
                self.raised = [*self.raised, [self.turns.t, self.learner.rho]]  # a state taken before keeps its own
            elif broken:
                self._warn("bounds", self._broken(broken, bounds))
        if line := self.learner.note(self.turns.t):
            self._warn("dominance", line)

    def _excess(self, replicate: int, height: float, bounds: Any) -> list[int]:
        actions, rewards = self.log(replicate)
        lags = min(CHECK_LAGS, len(actions) // (10 * self.problem.d) - 1)  # ten rounds per parameter
        if lags < 1:
            return []
        try:
            found = identify(actions, rewards, lags=lags)
        except ValueError:  # too few rounds with a reward
            return []
        return excess(found, height, bounds.rho)

    def _broken(self, lags: list[int], bounds: Any) -> str:
        say = "effects of actions after " + ", ".join(map(str, lags)) + " round(s) are above what the bounds allow"
        return (
            f"after {self.turns.t} rounds: {say}: spectral_radius {bounds.rho:g} or input_matrix {bounds.b:g} "
            "is too small, and epochs may end before the system settles"
        )

    def _warn(self, about: str, line: str) -> None:
        known = [one for one in self.warned if not one.startswith(f"{about}: ")]
        first = len(known) == len(self.warned)
        self.warned = [*known, f"{about}: {line}"]
        if first:
            warnings.warn(line, stacklevel=4)

    # --- from logs ------------------------------------------------------------------------------------------------

    def warm_start(self, found: Identified) -> None:
        """Start from what logs say of h, as if it came from rounds of its own; `ValueError` after the first round.

        The error of ĥ has the covariance C; so many samples of noise σ̃ would add σ̃²C⁻¹ to V. For DynLin-UCB only.
        """
        learner = self.learner
        if not learner.holds_bounds:
            raise ValueError("a warm start is for dynlin-ucb, whose estimate is that of h")
        if self.turns.t or self.turns.left:
            raise ValueError("a warm start comes before the first decision")
        if found.markov.shape[1] != self.problem.d:
            raise ValueError(f"the logs have actions of {found.markov.shape[1]} components, not {self.problem.d}")
        found.require_decided()
        noise = max(learner.known.sigma2, found.noise_std**2)
        information = noise * np.linalg.pinv(found.h_covariance, hermitian=True)
        estimate = information @ np.array([one.value for one in found.h])
        learner.ridge.gram += torch.tensor(information, device=self.device)[..., None]
        learner.ridge.moment += torch.tensor(estimate, device=self.device)[:, None]
        learner.prior_rounds = int(np.ceil(np.trace(information) / max(learner.bounds.u**2, 1e-300)))
        learner.epoch = max(learner.epoch, 1)  # the first action need not be a random one

    # --- for people, and for files --------------------------------------------------------------------------------

    def summary(self) -> dict[str, Any]:
        """Return how it stands as plain values."""
        best, pending = self.learner.greedy(), self.pending
        vectors = self._vectors(best).T.tolist()
        facts: dict[str, Any] = {"rounds": self.turns.t, "replicates": self.replicates}
        if self.config.needs_horizon:
            facts |= {"horizon": self.turns.horizon, "doubling": self.config.doubling}
        facts |= {"best": vectors[0] if self.replicates == 1 else vectors}
        if pending is not None:
            facts["pending"] = {"round": self.turns.t + 1, "left": self.turns.left}
        told = [self.rewards[: self.turns.length - self.turns.left]] if self.turns.left else []
        waited_for = [*told, *(one["rewards"] for one in self.open)]
        facts |= {"missing": sum(int(rewards.isnan().any(1).sum()) for rewards in waited_for)}
        facts |= {"given_up": self.given_up}
        if self.learner.holds_bounds:
            estimate = self.learner.ridge.estimate().T.tolist()
            facts |= {"estimate": estimate[0] if self.replicates == 1 else estimate, "epoch": self.learner.epoch}
            facts |= {"radius": radius_parts(self.learner, self.turns.t)}
            facts |= {"spectral_radius_bound": self.learner.rho, "raised": [list(one) for one in self.raised]}
        return facts | {"warnings": list(self.warned)}

    def state_dict(self) -> dict[str, Any]:
        state = pack(self, self.STATEFUL)
        opened = [{name: _copy(value) for name, value in one.items()} for one in self.open]
        return {**state, "open": opened, "memo": _copy(self.memo)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.rewards = torch.empty_like(state["rewards"], device=self.device)  # as many rounds as it has
        unpack(self, self.STATEFUL, {**state, "warned": list(state["warned"])})
        self.memo = _copy(state["memo"], self.device)
        self.open = [{name: _copy(value, self.device) for name, value in one.items()} for one in state["open"]]


def _copy(value: Any, device: torch.device | None = None) -> Any:
    return value.to(device or value.device, copy=True) if isinstance(value, Tensor) else value
