"""DynLin-UCB: optimism for actions that take effect later, through a hidden linear state.

Mussi, Metelli, Restelli, "Dynamical Linear Bandits", ICML 2023, arXiv 2211.08997.

Equations and sections: docs/derivations/dynlin.md. The paper's own numbers are second-hand (§15).

| derivation | paper | here |
|---|---|---|
| (3.1), (3.2), (3.3) | – | `bounds.constants`: c₁, c₂, σ̃² |
| (3.4) | Theorem 3.1 | `radius`: β |
| (3.5), (4.1) | Algorithm 1 | `optimistic_values`, `ridge.first_best`: a finite set, or the vertices of a polytope |
| (4.4), (4.5), (4.7) | – | `best_on_ball` |
| (4.6) | – | `secular_root` |
| (3.6) | Algorithm 1 | `bounds.epoch_repeats`: H |
| §3.1 | Algorithm 1 | `DynLinUCB.choose`, `DynLinUCB.observe`: repeat for H + 1 rounds, keep the last reward |
| (3.7) | Algorithm 1 | `ridge.Ridge`: V, b, ĥ |
| §6.1 | Assumptions 2.1, 2.2 | `DynLinUCBConfig.bounds`, `bounds.from_system` |

Where this differs from the authors' code, and why:
- The epoch m = 1 lasts one round, as in the equations; theirs lasts two (`double_first_epoch=True`).
- |ρ| is used where theirs passes a complex eigenvalue on; Φ includes τ = 0.
- V is factorised anew at every epoch and never inverted: nothing drifts, so nothing needs a refresh.
- Repeated actions are simulated by eq. (5.2), the exact joint distribution of the next state, the last reward and the
  sum of the others (`path="epochs"`); theirs, and `path="rounds"`, go round by round. The same distribution, 10⁶ rounds
  in 1.4·10⁵ steps.
- The proof bounds the bias with ρ̄^H ≤ 1/m, which the floor does not give: `epoch_rounding="ceil"` does (§3.2).
- Polytopes are searched by their vertices only: the optimistic value is convex. No linear-oracle heuristic is offered.
- δ = 1/T and λ = ln T need the horizon, which is a setting; `doubling` makes do without one.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

import torch
from torch import Tensor

from surefoot.agents.dynlin.bandit import Bandit, BanditConfig, BanditProblem, derive, make_constant_policy, plan
from surefoot.agents.dynlin.bounds import Bounds, Constants, bias_radius, constants, epoch_repeats, stationary_radius
from surefoot.agents.dynlin.diagnosis import dominance
from surefoot.agents.dynlin.learners import LearnerDefaults, bounds_of, table_of
from surefoot.agents.dynlin.real import RealBandit
from surefoot.agents.dynlin.ridge import ActionTable, Ridge, first_best, total
from surefoot.agents.interface import AgentSpec, Style
from surefoot.agents.parts.random import ReplicateUniforms
from surefoot.agents.parts.ranges import AT_LEAST_0, AT_LEAST_1, POSITIVE, check_ranges, optional


@dataclass(frozen=True)
class DynLinUCBConfig(BanditConfig):
    """Defaults: the authors' better variant ("log"); bounds left out are the true system's (§6.1)."""

    ridge: float | None = None
    """Ridge parameter λ; None: ln T."""
    failure_probability: float | None = None
    """Failure probability δ of the confidence set; None: 1/T."""
    epoch_rounding: Literal["floor", "ceil"] = "floor"
    """Rounding of the epoch length ln m / ln(1/ρ̄)."""
    bias_scale: float = 1.0
    """Scale of the bias term of β, (c₁/√λ)·ln(e(t+1)). 1 is what the proof needs; less explores less, where the bounds
    are far above the system's."""
    first_action: Literal["random", "optimistic"] = "random"
    """Action of the first epoch: uniformly random (the authors' code), or the first of those with the largest norm."""
    double_first_epoch: bool = False
    """The first epoch lasts two rounds, as in the authors' code."""

    spectral_radius_bound: float | None = None
    """Bound ρ̄ ≥ ρ(A) on the spectral radius, in [0, 1); sets the epoch lengths."""
    non_normality_bound: float | None = None
    """Bound Φ̄ ≥ sup ‖A^τ‖₂/ρ(A)^τ on the non-normality of A."""
    state_weight_bound: float | None = None
    """Bound Ω ≥ ‖ω‖₂."""
    action_weight_bound: float | None = None
    """Bound Θ ≥ ‖θ‖₂."""
    input_matrix_bound: float | None = None
    """Bound B̄ ≥ ‖B‖₂."""
    action_norm_bound: float | None = None
    """Bound Ū ≥ ‖u‖₂."""
    state_norm_bound: float | None = None
    """Bound X̄ ≥ ‖x‖₂; None: Ū/(1 − ρ̄)."""
    noise_std: float | None = None
    """Noise standard deviation σ; None: that of one output."""

    def __post_init__(self) -> None:
        norms = ["state_weight", "action_weight", "input_matrix", "action_norm", "state_norm"]
        rules = dict.fromkeys([f"{name}_bound" for name in norms] + ["noise_std"], optional(AT_LEAST_0))
        rules |= {"non_normality_bound": optional(AT_LEAST_1)}
        rules |= {
            "bias_scale": AT_LEAST_0,
            "ridge": optional(POSITIVE),
            "rounds_per_step": AT_LEAST_1,
            "horizon": optional(AT_LEAST_1),
        }
        rules |= {"spectral_radius_bound": optional((lambda x: 0 <= x < 1, "in [0, 1)"))}
        check_ranges(self, rules | {"failure_probability": optional((lambda x: 0 < x < 1, "in (0, 1)"))})
        needs = [name for name in ("ridge", "failure_probability") if getattr(self, name) is None]
        if self.horizon is not None and self.horizon < 2 and needs:
            raise ValueError(f"--agent.horizon is {self.horizon}; ln T and 1/T need at least 2")

    @property
    def needs_horizon(self) -> bool:
        return self.ridge is None or self.failure_probability is None

    def confidence(self) -> tuple[float, float]:
        """Return λ and δ; `ValueError` where they are to come from a horizon that is not given."""
        if self.horizon is None and self.needs_horizon:
            raise ValueError(
                "--agent.horizon is missing: δ = 1/T and λ = ln T need it; give it, or both "
                "--agent.failure-probability and --agent.ridge"
            )
        T = float(self.horizon or 0)
        lam = math.log(T) if self.ridge is None else self.ridge
        return lam, 1 / T if self.failure_probability is None else self.failure_probability

    def bounds(self, problem: BanditProblem, rho: float | None = None) -> Bounds:
        """Return the bounds of the problem's system, with those given here in their place, and ρ̄ in place of all."""
        given = {
            "rho": self.spectral_radius_bound if rho is None else rho,
            "phi": self.non_normality_bound,
            "omega": self.state_weight_bound,
            "theta": self.action_weight_bound,
            "b": self.input_matrix_bound,
            "u": self.action_norm_bound,
            "x": self.state_norm_bound,
            "sigma": self.noise_std,
        }
        return bounds_of(problem, given=given)


# --- the mathematics -------------------------------------------------------------------------------------------------


def radius(t: int, known: Constants, d: int, u: float, lam: float, delta: float, bias_scale: float = 1.0) -> float:
    """Return β after t rounds: (c₁/√λ)·ln(e(t+1)) + c₂√λ + √(2σ̃²[ln(1/δ) + (d/2)·ln(1 + tŪ²/(dλ))])."""
    return bias_radius(t, known, lam, bias_scale) + stationary_radius(t, known, d, u, lam, delta)


def optimistic_values(table: ActionTable, ridge: Ridge, beta: float) -> Tensor:
    """Return <ĥ, a> + β‖a‖_{V⁻¹} (K, N) of every action."""
    mean, squared_width = table.values(ridge)
    return mean + beta * squared_width.sqrt()


def best_on_ball(gram: Tensor, estimate: Tensor, beta: float) -> tuple[Tensor, Tensor]:
    """Return argmax and max of <ĥ, v> + β‖v‖_{V⁻¹} over the unit ball: (N, d) and (N,), of gram (N, d, d), ĥ (N, d).

    The value is the largest ‖g‖ with (g − ĥ)ᵀV(g − ĥ) ≤ β², eq. (4.4). With V = Q diag(ℓ) Qᵀ, c = Qᵀĥ and
    g = Q(c + z), z_i = c_i/(μℓ_i − 1) for the root μ > 1/ℓ_min of Σ ℓ_i z_i² = β². In the hard case, c = 0 where ℓ is
    smallest, μ = 1/ℓ_min and one direction there takes what the others leave of β².
    """
    eigenvalues, axes = torch.linalg.eigh(gram)  # ascending
    c = total((axes * estimate[..., None]).unbind(1))  # (N, d)
    lowest = eigenvalues[:, :1]
    stretch = eigenvalues / lowest
    s = secular_root(eigenvalues * c.square(), stretch, beta)
    z = c / (stretch * (1 + s) - 1).clamp(min=1e-300)
    flat = stretch < 1 + 1e-12  # the eigenspace of ℓ_min
    left = beta**2 - total(torch.where(flat, 0.0, eigenvalues * z.square()).unbind(1))
    filled = (left.clamp(min=0.0)[:, None] / lowest).sqrt()
    first = torch.zeros_like(z)
    first[:, 0] = torch.where(c[:, 0] < 0, -1.0, 1.0)
    hard = s < 1e-12
    z = torch.where(hard, torch.where(flat, first * filled, z), z)
    g = total((axes * (c + z)[:, None]).unbind(2))
    value = total(g.square().unbind(1)).sqrt()
    return g / value[:, None].clamp(min=1e-300), value


def secular_root(weight: Tensor, stretch: Tensor, beta: float, halvings: int = 100) -> Tensor:
    """Return s = μℓ_min − 1 ≥ 0 (N, 1) with Σ w_i/(r_i(1 + s) − 1)² = β², by bisection; 0 in the hard case.

    weight (N, d) is ℓ_i c_i², stretch (N, d) is r_i = ℓ_i/ℓ_min ≥ 1. Since r_i(1 + s) − 1 ≥ s, s ≤ √(Σ w)/β.
    """
    low = torch.zeros_like(weight[:, :1])
    high = total(weight.unbind(1)).sqrt()[:, None] / beta
    for _ in range(halvings):
        s = 0.5 * (low + high)
        left = total((weight / (stretch * (1 + s) - 1).clamp(min=1e-300).square().clamp(min=1e-300)).unbind(1))
        beyond = left[:, None] > beta**2  # decreasing in s: the root lies above
        low, high = torch.where(beyond, s, low), torch.where(beyond, high, s)
    return 0.5 * (low + high)


# --- the learner -----------------------------------------------------------------------------------------------------


class DynLinUCB(LearnerDefaults):
    """The choice of an action and of its epoch's length, and one regression sample per epoch."""

    STATEFUL = ("ridge", "uniforms", "epoch", "beta", "lam", "delta", "rho", "prior_rounds")
    holds_bounds = True

    def __init__(self, config: DynLinUCBConfig, problem: BanditProblem) -> None:
        self.config, self.problem = config, problem
        self.lam, self.delta = config.confidence()
        self.bounds = config.bounds(problem)
        self.known = constants(self.bounds)
        replicates, self.d = problem.replicates, problem.d
        self.ridge = Ridge(self.d, replicates, self.lam, problem.device)
        self.uniforms = ReplicateUniforms(problem.seed, "first action", replicates, problem.device)
        self.ball = problem.ball
        self.table = table_of(problem) if problem.actions is not None else None
        self.epoch = 0  # m, of the epoch under way
        self.beta = 0.0
        self.prior_rounds = 0  # that a warm start is worth

    @property
    def rho(self) -> float:
        """ρ̄, which sets the epochs' lengths and the constants; writing it computes them anew."""
        return self.bounds.rho

    @rho.setter
    def rho(self, value: float) -> None:
        if value != self.bounds.rho:
            self.bounds = self.config.bounds(self.problem, value)
            self.known = constants(self.bounds)

    def extend(self, horizon: int) -> None:
        """Compute λ and δ for another horizon; V moves with λ."""
        before = self.lam
        self.lam, self.delta = replace(self.config, horizon=horizon).confidence()
        self.ridge.regularise(self.lam - before)

    def choose(self, t: int) -> tuple[Tensor, int]:
        """Return the action of the next epoch and its length H + 1."""
        self.epoch += 1
        length = epoch_repeats(self.epoch, self.bounds.rho, self.config.epoch_rounding) + 1
        known, scale = self.known, self.config.bias_scale
        self.beta = radius(t + self.prior_rounds, known, self.d, self.bounds.u, self.lam, self.delta, scale)
        if self.epoch > 1:
            return self.optimistic(), length
        action = self.optimistic() if self.config.first_action == "optimistic" else self.random()
        return action, 2 if self.config.double_first_epoch else length

    def optimistic(self) -> Tensor:
        """Return the action of largest optimistic value in each replicate."""
        if self.table is not None:
            return first_best(optimistic_values(self.table, self.ridge, self.beta))
        return best_on_ball(self.ridge.gram.permute(2, 0, 1), self.ridge.estimate().T, self.beta)[0]

    def random(self) -> Tensor:
        """Return a uniform action of the table, or one end of an axis of the ball."""
        choices = 2 * self.d if self.table is None else len(self.table.actions)
        index = (self.uniforms.next() * choices).long()
        if self.table is not None:
            return index
        axes = torch.eye(self.d, dtype=torch.float64, device=index.device)
        return torch.cat([axes, -axes]).index_select(0, index)

    def observe(self, action: Tensor, last: Tensor, mean: Tensor) -> None:
        """Take in the epoch's last reward; the earlier ones are transient and discarded."""
        self.ridge.update(self.vectors(action), last)

    def vectors(self, action: Tensor) -> Tensor:
        """Return u (d, N) of an action."""
        return self.table.vectors(action) if self.table is not None else self.ball * action.T  # type: ignore[operator]

    def greedy(self) -> Tensor:
        """Return the action that ĥ alone ranks first."""
        estimate = self.ridge.estimate()
        if self.table is not None:
            return first_best(total((self.table.columns[..., None] * estimate[:, None]).unbind()))
        length = total(estimate.square().unbind()).sqrt().clamp(min=1e-300)
        return (estimate / length).T.contiguous()

    def note(self, t: int) -> str | None:
        """Say where bounds, and not data, decide."""
        return dominance(self, t)

    def metrics(self) -> dict[str, Tensor]:
        """Return the radius β and the epoch's number m."""
        return {"beta": torch.tensor(self.beta), "epoch": torch.tensor(float(self.epoch))}


DYNLIN_UCB_SPEC = AgentSpec(
    DynLinUCBConfig(),
    partial(Bandit, DynLinUCB),
    make_constant_policy,
    "optimism for actions with delayed effects through a hidden linear state (arXiv 2211.08997)",
    actions=("Box", "Discrete"),
    regret="round",
    make_ask_tell=partial(RealBandit, DynLinUCB),
    task_fields=("horizon",),
    derive=derive,
    plan=plan,
    has_compiled_form=False,
    page="dynlin_ucb",
    style=Style("#0072B2", "-"),
    tiny={"horizon": 80, "path": "rounds", "rounds_per_step": 1},
    tiny_env={"id": "surefoot/DynamicalLinear-v0", "num_envs": 3, "kwargs": {"system": "real-data"}},
)
