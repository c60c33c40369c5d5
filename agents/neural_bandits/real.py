"""A contextual bandit that drives a real system: asked with the contexts of a round, told the reward of the arm.

docs/derivations/neural_bandits.md §6.3. The learners are those of the simulator: told its rewards, one asks for the
simulator's arms.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from surefoot.agents.neural_bandits.bandit import (
    ContextualLearner,
    ContextualProblem,
    require_contexts,
    require_rewards,
    shape_from,
)
from surefoot.agents.neural_bandits.network import Shape
from surefoot.agents.neural_bandits.regression import NetworkRegression
from surefoot.agents.parts.ask_tell import BanditRequest, Decision, given_rewards

OPEN = 1000  # rounds of which rewards may be missing; the oldest are given up
NEVER = float("inf")  # in place of a reward that will not come; NaN: not yet
LONG = 10.0  # of a context: networks and their step sizes are made for lengths of about 1


class RealContextualBandit:
    """Learner, made at the first contexts, the round under way, and rounds whose rewards may come yet.

    Each arm has a context, (K, d), or with actions {"arms": K} all K share one, (d,). With N replicates they have a
    first axis N, and a round is learnt from when the rewards of all are there.
    """

    def __init__(
        self,
        make_learner: Callable[[Any, ContextualProblem], ContextualLearner],
        config: Any,
        request: BanditRequest,
        device: torch.device,
    ) -> None:
        self.make_learner, self.config, self.device, self.seed = make_learner, config, device, request.seed
        self.replicates, self.arms = _checked(request)
        # Arms and features come with the first contexts; settings that make no learner are refused before.
        make_learner(config, ContextualProblem(Shape(1, 2, 1, shared=False), request.seed, device))
        self.learner: ContextualLearner | None = None
        self.shape: Shape | None = None
        self.asked = 0  # rounds
        self.learnt = 0
        self.given_up = 0
        self.longest = 0.0  # length of a context so far
        self.open: list[dict[str, Any]] = []  # rounds that are not wholly told, the oldest first
        self.under_way = False  # the last one has not been told at all

    @property
    def pending(self) -> Decision | None:
        """The decision of this round, until it is told."""
        return self._decision(self.open[-1]) if self.under_way else None

    def ask(self, contexts: Any = None) -> Decision:
        """Return the arm to play in these contexts; `ValueError` for others than before, or before the last is told."""
        if self.under_way:
            raise ValueError(f"the decision of round {self.asked} is under way; tell its reward first")
        given, shape = self._contexts(contexts)
        learner = self.learner or self.make_learner(self.config, ContextualProblem(shape, self.seed, self.device))
        self._require_finite(learner, given, "no prediction in these contexts is a number")
        self.learner, self.shape = learner, shape
        arm = learner.choose(given)
        self._measure(given)
        self.asked += 1
        rewards = torch.full((self.replicates,), torch.nan, dtype=torch.float64, device=self.device)
        self.open.append({"round": self.asked, "contexts": given, "arm": arm, "rewards": rewards})
        self.under_way = True
        if len(self.open) > OPEN:
            self.open.pop(0)
            self.given_up += 1
        return self._decision(self.open[-1])

    def tell(self, reward: Any, of: int | None = None) -> None:
        """Take in the reward of the round under way, or of the earlier round number `of`; in [0, 1]."""
        values, there = (torch.from_numpy(x).to(self.device) for x in given_rewards(reward, self.replicates))
        require_rewards(torch.where(there, values, 0.0))
        one = self._round(of)
        wanted = one["rewards"].isnan()
        before = self.state_dict() if self._is_long(one["contexts"]) else None
        if of is not None and not bool((wanted if reward is None else wanted[there]).any()):
            raise ValueError(f"the reward of round {of} is known already")
        never = of is not None and reward is None
        told = torch.full_like(values, NEVER) if never else values
        one["rewards"] = torch.where(wanted & (there | never), told, one["rewards"])
        if one["round"] == self.asked:
            self.under_way = False
        self._take(one)
        if before is not None:
            try:
                assert self.learner is not None
                self._require_finite(
                    self.learner, one["contexts"], f"the reward of round {one['round']} makes the network diverge"
                )
            except ValueError:
                self.load_state_dict(before)
                raise

    def _is_long(self, contexts: Tensor) -> bool:
        """Whether contexts (N, d) or (N, K, d) are longer than a network can be trusted with."""
        return self._network and _length(contexts) > LONG

    @property
    def _network(self) -> bool:
        return self.learner is not None and isinstance(self.learner.oracle, NetworkRegression)

    def _measure(self, contexts: Tensor) -> None:
        """Keep the length of the longest context; warn of the first that is too long for a network."""
        first = self._is_long(contexts) and self.longest <= LONG
        self.longest = max(self.longest, _length(contexts))
        if first:
            warnings.warn(self._warning(), stacklevel=4)

    def _warning(self) -> str:
        return f"contexts are up to {self.longest:.3g} long, and a network learns from lengths of about 1: scale them"

    def _require_finite(self, learner: ContextualLearner, contexts: Tensor, what: str) -> None:
        if not bool(learner.predicted_losses(contexts).isfinite().all()):
            longest = max(self.longest, _length(contexts))
            raise ValueError(
                f"{what}, and nothing was changed: contexts are up to {longest:.3g} long; scale them to lengths of "
                "about 1 and start another learner"
            )

    def _round(self, of: int | None) -> dict[str, Any]:
        if of is None and not self.under_way:
            raise ValueError("no decision is under way; ask for one before telling a reward")
        number = self.asked if of is None else of
        found = [one for one in self.open if one["round"] == number]
        if isinstance(number, bool) or not isinstance(number, int) or not 1 <= number <= self.asked:
            raise ValueError(f"round {number!r} has not been asked for; {self.asked} round(s) have")
        if not found:
            raise ValueError(f"the reward of round {number} is known already, or was given up")
        return found[0]

    def _take(self, one: dict[str, Any]) -> None:
        """Learn from a round whose rewards are all there; forget it when no more can come."""
        if bool(one["rewards"].isnan().any()):
            return
        if bool(one["rewards"].isfinite().all()):
            assert self.learner is not None
            self.learner.learn(one["contexts"], one["arm"], one["rewards"])
            self.learnt += 1
        else:
            self.given_up += 1
        self.open = [other for other in self.open if other is not one]

    def _contexts(self, contexts: Any) -> tuple[Tensor, Shape]:
        """Return contexts (N, d) or (N, K, d), float32, and the shape of the problem that they are of."""
        single = "(d,), which all arms share" if self.arms else "(K, d), one row per arm"
        if contexts is None:
            raise ValueError(f"this learner chooses among contexts; ask with contexts {single}")
        try:
            array = np.asarray(contexts, dtype=np.float64)
        except (TypeError, ValueError) as error:
            raise ValueError(f"contexts are no array of numbers ({error}); ask with contexts {single}") from error
        if self.replicates == 1 and array.ndim == (1 if self.arms else 2):
            array = array[None]
        if array.ndim != (2 if self.arms else 3):
            ahead = "" if self.replicates == 1 else ", after an axis of replicates"
            raise ValueError(f"contexts have shape {array.shape}; ask with contexts {single}{ahead}")
        arms = self.arms or array.shape[1]
        found = Shape(self.replicates, arms, array.shape[-1], self.arms > 0)
        if self.shape is None and not self.arms and array.shape[1] == 1:
            raise ValueError("contexts have one row: there is nothing to choose from; give two arms at least")
        given = torch.tensor(array, dtype=torch.float32, device=self.device)
        require_contexts(self.shape or found, given)
        return given, found

    def _here(self, value: Any) -> Any:
        return value.to(self.device) if isinstance(value, Tensor) else value

    def _decision(self, one: dict[str, Any]) -> Decision:
        arm, contexts = one["arm"], one["contexts"]
        chosen = contexts if self.arms else contexts[torch.arange(len(arm), device=arm.device), arm]
        index, action = arm.cpu().numpy().copy(), chosen.double().cpu().numpy()
        if self.replicates == 1:
            return Decision(one["round"], 1, int(index[0]), action[0])
        return Decision(one["round"], 1, index, action)

    def summary(self) -> dict[str, Any]:
        """Return how it stands as plain values: rounds, what is open, what the learner logs."""
        metrics = {} if self.learner is None else self.learner.metrics()
        shown = {name: float(value.double().mean()) for name, value in metrics.items()}
        shape = None if self.shape is None else {"arms": self.shape.arms, "features": self.shape.features}
        counts = {"rounds": self.asked, "learnt": self.learnt, "open": len(self.open), "given_up": self.given_up}
        said = [self._warning()] if self._network and self.longest > LONG else []
        return {**counts, "replicates": self.replicates, "contexts": shape, **shown, "warnings": said}

    def state_dict(self) -> dict[str, Any]:
        counts = {"asked": self.asked, "learnt": self.learnt, "given_up": self.given_up, "under_way": self.under_way}
        learner = None if self.learner is None else self.learner.state_dict()
        shape = None if self.shape is None else list(self.shape)
        kept = [dict(one) for one in self.open]
        return {**counts, "longest": self.longest, "open": kept, "shape": shape, "learner": learner}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a state of the same learner; `ValueError` for one of another problem, and nothing is changed."""
        learner, shape = None, None
        if state["shape"] is not None:
            shape = shape_from(state["shape"])
            arms = shape.arms if shape.shared else 0
            if (shape.replicates, arms) != (self.replicates, self.arms):
                own = f"{self.replicates} replicate(s), {self.arms or 'any number of'} arms"
                raise ValueError(f"the state is of {shape}, this learner of {own}")
            learner = self.make_learner(self.config, ContextualProblem(shape, self.seed, self.device))
            learner.load_state_dict(state["learner"])
        self.learner, self.shape = learner, shape
        self.open = [{name: self._here(value) for name, value in one.items()} for one in state["open"]]
        self.asked, self.learnt, self.given_up = state["asked"], state["learnt"], state["given_up"]
        self.under_way, self.longest = state["under_way"], state["longest"]


def _length(contexts: Tensor) -> float:
    """Return the length of the longest context; float32 cannot hold every square."""
    return float(contexts.double().norm(dim=-1).max())


def _checked(request: BanditRequest) -> tuple[int, int]:
    """Return replicates, and the arms that share a context (0: each has its own); `ValueError` for other requests."""
    if request.replicates < 1:
        raise ValueError(f"replicates is {request.replicates}; there is at least one system")
    if request.bounds:
        raise ValueError("bounds are of linear systems; a contextual bandit takes none")
    if request.actions is None:
        return request.replicates, 0
    arms = request.actions.get("arms") if isinstance(request.actions, Mapping) and len(request.actions) == 1 else None
    if isinstance(arms, bool) or not isinstance(arms, int) or arms < 2:
        raise ValueError(
            'actions: a contextual bandit takes {"arms": K}, K arms (two at least) that share a context, or none where '
            "each arm has a context of its own"
        )
    return request.replicates, arms
