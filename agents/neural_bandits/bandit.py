"""What the contextual bandits share: the problem, its replicates, the interaction loop and the policy that is deployed.

Equations: docs/derivations/neural_bandits.md.

| derivation | paper | here |
|---|---|---|
| (1.2), (1.3) | – | `ContextualAgent.step`, `parts.regret.Regret` |
| §6.2 | – | `ContextualAgent` |
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from surefoot.agents.interface import Budget, Plan, Progress, Setting, Spaces
from surefoot.agents.neural_bandits.network import Shape
from surefoot.agents.parts.budget import rounded_up
from surefoot.agents.parts.regret import Regret
from surefoot.agents.parts.state import pack, unpack


class ContextualEnv(Protocol):
    """A contextual bandit with N replicates, such as `surefoot/ContextualBandit-v0`; rewards are in [0, 1]."""

    num_envs: int
    arms: int
    features: int  # of an arm
    shared: bool  # whether all arms share one context: observations (N, d), otherwise (N, K·d)

    def reset(self, *, seed: int | None = None) -> tuple[Tensor, dict[str, Any]]: ...
    def step(self, actions: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, dict[str, Any]]: ...
    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state: dict[str, Any]) -> None: ...


class ContextualProblem(NamedTuple):
    """What a learner is built from, in addition to its config; no environment is needed."""

    shape: Shape
    seed: int
    device: torch.device
    engine: str = "eager"  # `native`: networks that a kernel can train are trained by it


class Oracle(Protocol):
    """What predicts; `deployed` is all that its predictions depend on."""

    def deployed(self) -> dict[str, Any]: ...
    def load_deployed(self, state: dict[str, Any]) -> None: ...


class ContextualLearner(Protocol):
    """One method, all replicates at once."""

    @property
    def oracle(self) -> Oracle: ...

    def choose(self, contexts: Tensor) -> Tensor:
        """Return the next arm (N,), given contexts (N, d) that all arms share, or (N, K, d)."""
        ...

    def learn(self, contexts: Tensor, arm: Tensor, reward: Tensor) -> None:
        """Learn from the reward (N,), in [0, 1], of the arm (N,) played in these contexts."""
        ...

    def predicted_losses(self, contexts: Tensor) -> Tensor:
        """Return the loss (N, K) now expected of every arm."""
        ...

    def metrics(self) -> dict[str, Tensor]:
        """Return what to log."""
        ...

    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state: dict[str, Any]) -> None: ...


def require_contexts(shape: Shape, contexts: Tensor) -> None:
    """Raise `ValueError` unless contexts are finite and (N, d), or (N, K, d), as the learner was made for.

    Messages speak of (d,) or (K, d) where there is one replicate, as it is asked.
    """
    n, arms, features, shared = shape
    needed = (features,) if shared else (arms, features)
    shown, needed = (contexts[0], needed) if n == len(contexts) == 1 else (contexts, (n, *needed))
    if 0 in contexts.shape:
        raise ValueError(f"contexts have shape {tuple(shown.shape)}: there is nothing to choose from")
    if tuple(shown.shape) != needed:
        raise ValueError(
            f"contexts have shape {tuple(shown.shape)}, and this learner was made for {needed}; arms and features "
            "cannot change, start another one"
        )
    if not bool(shown.isfinite().all()):
        where = tuple(shown.isfinite().logical_not().nonzero()[0].tolist())
        raise ValueError(f"contexts{list(where)} is {shown[where].item()}; contexts must be finite numbers")


def require_rewards(reward: Tensor) -> None:
    """Raise `ValueError` for a reward that is not in [0, 1]: log losses and predicted losses are made for those."""
    outside = ~((reward >= 0) & (reward <= 1))
    if bool(outside.any()):
        place = int(outside.nonzero()[0])
        raise ValueError(
            f"the reward of replicate {place} is {reward[place].item():g}; rewards must be in [0, 1] (loss = 1 − "
            "reward), so scale them first"
        )


def shape_of(env: Any) -> Shape:
    """Return the shape of an environment's problem; `ValueError` where it is no contextual bandit."""
    if not all(hasattr(env, name) for name in ("arms", "features", "shared")):
        raise ValueError(
            "a contextual bandit plays surefoot/ContextualBandit-v0; pass --env.id surefoot/ContextualBandit-v0"
        )
    return Shape(env.num_envs, env.arms, env.features, env.shared)


def shape_from(values: Sequence[Any]) -> Shape:
    """Return the shape that a state holds as plain values."""
    n, arms, features, shared = values
    return Shape(int(n), int(arms), int(features), bool(shared))


def as_contexts(shape: Shape, obs: Tensor) -> Tensor:
    """Return observations (M, d) or (M, K·d) as contexts (M, d) or (M, K, d)."""
    return obs if shape.shared else obs.unflatten(1, (shape.arms, shape.features))


class GreedyPolicy:
    """The arm of smallest predicted loss; environment i of an evaluation acts as replicate i mod N."""

    def __init__(self, config: Any, make_learner: Callable[[Any, ContextualProblem], ContextualLearner]) -> None:
        self.config, self.make_learner = config, make_learner
        self.learner: ContextualLearner | None = None
        self.shape = Shape(0, 0, 0, True)

    def act(self, obs: Tensor, *, explore: bool = False) -> Tensor:
        """Return arms (M,) for obs (M, obs)."""
        if self.learner is None:
            raise ValueError("the policy holds no learner yet; load its state first")
        n, arms = self.shape.replicates, []
        padded = torch.cat([obs, obs.new_zeros(-len(obs) % n, obs.shape[1])])
        for rows in padded.split(n):
            arms.append(self.learner.predicted_losses(as_contexts(self.shape, rows)).argmin(1))
        return torch.cat(arms)[: len(obs)]

    def state_dict(self) -> dict[str, Any]:
        if self.learner is None:
            return {}
        return {"shape": list(self.shape), "oracle": self.learner.oracle.deployed()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.shape = shape_from(state["shape"])
        self.learner = self.make_learner(self.config, ContextualProblem(self.shape, 0, torch.device("cpu")))
        self.learner.oracle.load_deployed(state["oracle"])


class ContextualAgent:
    """A learner in N replicates of a problem; one `step` is `rounds_per_step` rounds of each."""

    STATEFUL = ("env", "regret", "obs", "learner")

    def __init__(
        self,
        make_learner: Callable[[Any, ContextualProblem], ContextualLearner],
        config: Any,
        setting: Setting,
    ) -> None:
        env: Any = setting.env
        self.shape = shape_of(env)
        self.config, self.env, self.make_learner = config, env, make_learner
        self.obs, _ = self.env.reset(seed=setting.seed)
        problem = ContextualProblem(self.shape, setting.seed, setting.device, setting.engine)
        self.learner = make_learner(config, problem)
        # J* is another in every round, so rewards are counted from it.
        self.regret = Regret(0.0, env.num_envs, setting.device)

    @property
    def policy(self) -> GreedyPolicy:
        policy = GreedyPolicy(self.config, self.make_learner)
        policy.learner, policy.shape = self.learner, self.shape
        return policy

    def act(self, obs: Tensor, *, explore: bool = False) -> Tensor:
        """Return the arms believed to be best for obs (M, obs); the bandit explores in `step`, not here."""
        return self.policy.act(obs)

    def step(self) -> Progress:
        """Play rounds up to the next multiple of `rounds_per_step`."""
        every, began, before = self.config.rounds_per_step, self.regret.t, self.regret.total.clone()
        until = (began // every + 1) * every
        while self.regret.t < until:
            self.play()
        rounds = self.regret.t - began
        return Progress(rounds, rounds, {"gap": (self.regret.total - before) / rounds, **self.learner.metrics()})

    def play(self) -> None:
        """Play one round of every replicate."""
        contexts = as_contexts(self.shape, self.obs)
        arm = self.learner.choose(contexts)
        self.obs, reward, _, _, info = self.env.step(arm)
        self.learner.learn(contexts, arm, reward)
        self.regret.add(info["gap"], 1, reward - info["best_mean_reward"])

    def state_dict(self) -> dict[str, Any]:
        return pack(self, self.STATEFUL)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        unpack(self, self.STATEFUL, state)


def rounds_of(config: Any, budget: Budget) -> Plan:
    """Return what will run: rounds, up to a multiple of `rounds_per_step`."""
    rounds = rounded_up(budget.steps, config.rounds_per_step)
    return Plan(rounds, None, (f"{rounds:,} rounds",))


def make_greedy_policy(
    make_learner: Callable[[Any, ContextualProblem], ContextualLearner], config: Any, spaces: Spaces
) -> GreedyPolicy:
    """Return an empty policy, to be loaded."""
    return GreedyPolicy(config, make_learner)
