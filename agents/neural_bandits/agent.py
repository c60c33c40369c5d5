"""NeuSquareCB and NeuFastCB: contextual bandits by online regression with a neural network.

After Deb, Ban, Zuo, He, Banerjee, "Contextual Bandits with Online Neural Regression", ICLR 2024, arXiv 2312.07145.

Equations and sections: docs/derivations/neural_bandits.md. Of the paper its abstract and public reviews were at hand,
not its tables: nothing here claims to reproduce them (§15).

| derivation | paper | here |
|---|---|---|
| (3.1), (3.2) | NeuSquareCB | `allocation.inverse_gap` |
| (3.4), (3.5) | NeuFastCB | `allocation.reweighted_inverse_gap` |
| (3.3), (3.6), (3.8), (3.9) | – | `InverseGap.rate` |
| (4.1) to (4.4) | – | `network.Network` |
| (5.1) to (5.8) | – | `regression.NetworkRegression` |
| (7.1), (7.4) | – | `linear.Ridge`, `linear.Logistic` |
| §3.1 | – | `InverseGap.choose`, `InverseGap.learn` |

Where this differs from what is known of the paper, and why:
- The perturbation is taken in closed form, as the penalty that it is in the mean (`perturbation="expected"`); the draws
  are an option. In tests their gradients agree in the mean.
- γ grows as c·√t: the regret of the network, which the theory's γ needs, is not known (`gamma_rule="theory"` takes a
  guess of it).
- Several SGD steps on replayed samples follow each round; one step on the newest, as in the theory, learns slowly
  (`updates_per_round=1`, `replay=False`).
- Weights are initialised and scaled as is usual in practice; `initialisation="theory"` has the factors m^(−1/2).
- Layers are kept in a ball only if `radius` is given.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from functools import partial
from typing import Literal

import torch
from torch import Tensor

from surefoot.agents.interface import AgentSpec, Budget, Plan, Style
from surefoot.agents.neural_bandits.allocation import (
    doubled,
    draw_arm,
    fast_rate,
    growing_rate,
    inverse_gap,
    reweighted_inverse_gap,
    square_rate,
)
from surefoot.agents.neural_bandits.bandit import (
    ContextualAgent,
    ContextualProblem,
    make_greedy_policy,
    require_rewards,
    rounds_of,
)
from surefoot.agents.neural_bandits.linear import Logistic, Ridge
from surefoot.agents.neural_bandits.real import RealContextualBandit
from surefoot.agents.neural_bandits.regression import NetworkRegression, PerturbedConfig
from surefoot.agents.parts.random import ReplicateUniforms
from surefoot.agents.parts.ranges import (
    AT_LEAST_0,
    AT_LEAST_1,
    POSITIVE,
    UNIT_INTERVAL,
    check_ranges,
    optional,
    unread_where,
)
from surefoot.agents.parts.state import Stateful


@dataclass(frozen=True)
class InverseGapConfig(PerturbedConfig):
    """A class of functions, a loss, and how predicted losses become probabilities."""

    loss: Literal["square", "kl"] = "square"
    """`square`: squared loss and inverse-gap weighting (NeuSquareCB); `kl`: log loss and re-weighted inverse-gap
    weighting (NeuFastCB)."""
    oracle: Literal["network", "linear", "logistic"] = "network"
    """Class of functions that is regressed with: a network, linear functions of a context by ridge regression, or
    σ of linear functions by online Newton steps."""
    ridge: float = 1.0
    """Ridge parameter λ of `linear` and `logistic`."""
    gamma_rule: Literal["growing", "constant", "theory"] = "growing"
    """`growing`: γ_t = c·t^q; `constant`: γ = c; `theory`: from the horizon, or from the best loss so far (`kl`)."""
    gamma_scale: float = 20.0
    """c of γ_t = c·t^q, or the constant γ itself."""
    gamma_power: float = 0.5
    """q of γ_t = c·t^q."""
    oracle_regret: float = 10.0
    """Guess of the regression's regret in `theory`: its factor of ln T."""
    failure_probability: float = 0.05
    """δ of `theory` with the squared loss."""
    horizon: int | None = None
    """Horizon T of `theory` with the squared loss, in rounds; None: the run's `steps`."""
    rounds_per_step: int = 10
    """An agent step plays up to the next multiple of this many rounds."""

    def __post_init__(self) -> None:
        rules = {"rounds_per_step": AT_LEAST_1, "ridge": POSITIVE, "horizon": optional(AT_LEAST_1)}
        rules |= {"gamma_scale": POSITIVE, "gamma_power": UNIT_INTERVAL, "oracle_regret": POSITIVE}
        rules |= {"failure_probability": ((lambda x: 0 < x < 1), "in (0, 1)"), "perturbation_scale": AT_LEAST_0}
        check_ranges(self, self.rules() | rules)

    def unread(self) -> dict[str, str]:
        """Return what the class of functions and the rule of γ leave without effect, and why."""
        of_network = [field.name for field in fields(PerturbedConfig)]
        rule, oracle = f"with --agent.gamma-rule {self.gamma_rule}", f"with --agent.oracle {self.oracle}"
        return super().unread() | unread_where(
            (self.gamma_rule == "theory", ("gamma_scale", "gamma_power"), rule),
            (self.gamma_rule != "theory", ("oracle_regret", "failure_probability", "horizon"), rule),
            (self.gamma_rule == "constant", ("gamma_power",), rule),
            (self.loss == "kl", ("failure_probability", "horizon"), "with --agent.loss kl"),
            (self.oracle == "network", ("ridge",), oracle),
            (self.oracle != "network", of_network, oracle),
        )

    @property
    def needs_horizon(self) -> bool:
        return self.gamma_rule == "theory" and self.loss == "square"


def derive(config: InverseGapConfig, budget: Budget) -> InverseGapConfig:
    """Return the config with T the rounds of the run, where it is needed and not given."""
    return replace(config, horizon=budget.steps) if config.needs_horizon and config.horizon is None else config


def plan(config: InverseGapConfig, budget: Budget) -> Plan:
    """Return what will run: rounds, none of them after the horizon that γ is computed for."""
    if config.needs_horizon and (config.horizon or 0) < budget.steps:
        raise ValueError(
            f"--agent.horizon is {config.horizon}, but the run has {budget.steps} rounds (--steps), and γ is computed "
            f"for the former; start a run with --agent.horizon {budget.steps}, or None"
        )
    return rounds_of(config, budget)


class InverseGap(Stateful):
    """Regression of losses, and an arm drawn by how far its predicted loss lies above the smallest."""

    STATEFUL = ("oracle", "uniforms", "best_loss", "best_probability", "loss", "t")

    def __init__(self, config: InverseGapConfig, problem: ContextualProblem) -> None:
        shape, seed, device, engine = problem
        if config.needs_horizon and config.horizon is None:
            raise ValueError("--agent.horizon is missing: γ of the theory is computed for T rounds")
        self.config, self.shape = config, shape
        if config.oracle == "network":
            self.oracle: NetworkRegression | Ridge | Logistic = NetworkRegression(
                config, config.loss, shape, seed, device, engine
            )
        else:
            self.oracle = (Ridge if config.oracle == "linear" else Logistic)(shape, config.ridge, device)
        self.uniforms = ReplicateUniforms(seed, "arms", shape.replicates, device)
        self.best_loss = torch.zeros(shape.replicates, dtype=torch.float64, device=device)  # Σ min_a ŷ_a
        self.best_probability = torch.zeros_like(self.best_loss)
        self.loss = torch.zeros_like(self.best_loss)
        self.t = 0  # rounds done
        self.gamma = torch.zeros((), dtype=torch.float64)  # of the last round

    def rate(self) -> Tensor | float:
        """Return γ of the next round, a number or (N,)."""
        config = self.config
        if config.gamma_rule == "constant":
            return config.gamma_scale
        if config.gamma_rule == "growing":
            return growing_rate(config.gamma_scale, config.gamma_power, self.t + 1)
        regret = config.oracle_regret * float(torch.tensor(self.t + 2.0 if self._anytime else config.horizon).log())
        if config.loss == "square":
            assert config.horizon is not None
            return square_rate(self.shape.arms, config.horizon, regret, config.failure_probability)
        return fast_rate(self.shape.arms, doubled(self.best_loss), regret)

    @property
    def _anytime(self) -> bool:
        return self.config.loss == "kl"

    def probabilities(self, contexts: Tensor) -> Tensor:
        """Return the probability (N, K) with which each arm is played in contexts (N, d) or (N, K, d)."""
        return self.allocate(self.oracle.predict(contexts), self.rate())

    def allocate(self, losses: Tensor, gamma: Tensor | float) -> Tensor:
        rule = inverse_gap if self.config.loss == "square" else reweighted_inverse_gap
        return rule(losses, gamma)

    def choose(self, contexts: Tensor) -> Tensor:
        """Return arms (N,) drawn from `probabilities`."""
        losses = self.oracle.predict(contexts)
        gamma = self.rate()
        p = self.allocate(losses, gamma)
        self.gamma = torch.as_tensor(gamma, dtype=torch.float64)
        self.best_loss += losses.amin(1)
        self.best_probability = p.amax(1).double()
        return draw_arm(p, self.uniforms.next())

    def learn(self, contexts: Tensor, arm: Tensor, reward: Tensor) -> None:
        """Regress the loss 1 − reward of the arm played."""
        require_rewards(reward)
        self.t += 1
        self.loss = self.oracle.learn(contexts, arm, 1 - reward).double()

    def predicted_losses(self, contexts: Tensor) -> Tensor:
        return self.oracle.predict(contexts)

    def metrics(self) -> dict[str, Tensor]:
        """Return γ, the probability of the arm played most, and the regression's loss, of the last round."""
        return {"rate": self.gamma, "best_probability": self.best_probability, "regression_loss": self.loss}


NEU_SQUARE_CB_SPEC = AgentSpec(
    InverseGapConfig(),
    partial(ContextualAgent, InverseGap),
    partial(make_greedy_policy, InverseGap),
    "contextual bandit by online regression with a network, squared loss (after arXiv 2312.07145)",
    actions=("Discrete",),
    regret="round",
    task_fields=("horizon",),
    derive=derive,
    plan=plan,
    make_ask_tell=partial(RealContextualBandit, InverseGap),
    has_compiled_form=False,
    page="neural_bandits",
    style=Style("#0072B2", "-"),
    tiny={"hidden": (4,), "lr": 0.01, "batch_size": 4, "updates_per_round": 2, "rounds_per_step": 1},
    tiny_env={
        "id": "surefoot/ContextualBandit-v0",
        "num_envs": 3,
        "kwargs": {"arms": 3, "features": 1},
    },
)
NEU_FAST_CB_SPEC = replace(
    NEU_SQUARE_CB_SPEC,
    default=InverseGapConfig(loss="kl", gamma_scale=10.0),
    summary="the same with log loss and re-weighted inverse gaps: regret shrinks with the best loss",
    style=Style("#D55E00", "-"),
)
LINEAR_SQUARE_CB_SPEC = replace(
    NEU_SQUARE_CB_SPEC,
    default=InverseGapConfig(oracle="linear"),
    summary="SquareCB with linear functions of the context (arXiv 2002.04926)",
    style=Style("#56B4E9", "--"),
)
