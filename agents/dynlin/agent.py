"""DynLin-UCB: optimism for actions that take effect later, through a hidden linear state.

Mussi, Metelli, Restelli, "Dynamical Linear Bandits", ICML 2023, arXiv 2211.08997.

| paper (brief, section 3) | here |
|---|---|
| 0. c₁, c₂, σ̃² | `parts.oracle.constants` |
| 3. radius β | `radius` |
| 4. argmax over a finite set, or the vertices of a polytope | `optimistic_values`, `parts.ridge.first_best` |
| 4. argmax over a ball | `best_on_ball` |
| 5. H = ⌊ln m / ln(1/ρ̄)⌋ | `parts.oracle.epoch_hold` |
| 6. hold for H + 1 rounds, keep the last reward | `DynLinUCB.choose`, `DynLinUCB.observe` |
| 7. V, b, ĥ | `parts.ridge.Ridge` |

Where this differs from the authors' code, and why:
- The epoch m = 1 lasts one round, as the equations say; theirs lasts two (`double_first_epoch=True`).
- |ρ| is used where theirs passes a complex eigenvalue on; Φ includes τ = 0.
- V is factorised anew at every epoch and never inverted: nothing drifts, so nothing needs a refresh.
- Held actions are simulated by the exact joint law of the next state, the last reward and the sum of the others
  (`path="epochs"`); theirs, and `path="rounds"`, go round by round. The same law, 10⁶ rounds in 1.4·10⁵ steps.
- The proof bounds the bias with ρ̄^H ≤ 1/m, which the floor does not give: `epoch_rounding="ceil"` does.
- Polytopes are searched by their vertices only: the optimistic value is convex. No linear-oracle heuristic is offered.
- δ = 1/T and λ = ln T need the horizon; it is asked for. There is no any-time variant.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from torch import Tensor

from surefoot.agents.dynlin.bandit import Bandit, BanditConfig, Game, make_constant_policy
from surefoot.agents.dynlin.bounds import Bounds, Constants, constants, epoch_hold, from_system, stationary_radius
from surefoot.agents.dynlin.ridge import ActionTable, Ridge, first_best, total
from surefoot.agents.interface import AgentSpec
from surefoot.agents.parts.random import ReplicateUniforms
from surefoot.agents.parts.ranges import AT_LEAST_0, AT_LEAST_1, POSITIVE, check_ranges, optional


@dataclass(frozen=True)
class DynLinUCBConfig(BanditConfig):
    """Defaults: the authors' better variant ("log"); bounds left out are the true system's (brief, section 5)."""

    lam: float | None = None
    """λ of the ridge regression; None: ln T."""
    delta: float | None = None
    """δ, probability that the confidence set fails; None: 1/T."""
    epoch_rounding: Literal["floor", "ceil"] = "floor"
    """Rounding of ln m / ln(1/ρ̄)."""
    first_action: Literal["random", "optimistic"] = "random"
    """The first epoch's action: uniform, as the authors' code has it, or the first of those with the largest norm."""
    double_first_epoch: bool = False
    """The first epoch lasts two rounds, as in the authors' code."""

    rho_bar: float | None = None
    """ρ̄ ≥ ρ(A), in [0, 1). Sets the epoch lengths."""
    phi_bar: float | None = None
    """Φ̄ ≥ sup ‖A^τ‖₂/ρ(A)^τ."""
    omega_bound: float | None = None
    """Ω ≥ ‖ω‖₂."""
    theta_bound: float | None = None
    """Θ ≥ ‖θ‖₂."""
    b_bound: float | None = None
    """B̄ ≥ ‖B‖₂."""
    u_bound: float | None = None
    """Ū ≥ ‖u‖₂."""
    x_bound: float | None = None
    """X̄ ≥ ‖x‖₂; None: Ū/(1 − ρ̄)."""
    sigma: float | None = None
    """σ, noise scale; None: that of one output."""

    def __post_init__(self) -> None:
        bounds = ["omega_bound", "theta_bound", "b_bound", "u_bound", "x_bound", "sigma"]
        rules = dict.fromkeys(bounds, optional(AT_LEAST_0)) | {"phi_bar": optional(AT_LEAST_1)}
        rules |= {"lam": optional(POSITIVE), "rounds_per_step": AT_LEAST_1, "horizon": optional(AT_LEAST_1)}
        rules |= {"rho_bar": optional((lambda x: 0 <= x < 1, "in [0, 1)"))}
        check_ranges(self, rules | {"delta": optional((lambda x: 0 < x < 1, "in (0, 1)"))})
        needs = [name for name in ("lam", "delta") if getattr(self, name) is None]
        if self.horizon is not None and self.horizon < 2 and needs:
            raise ValueError(f"agent.horizon is {self.horizon}; ln T and 1/T need at least 2")

    def confidence(self) -> tuple[float, float]:
        """Return λ and δ; `ValueError` where they are to come from a horizon that is not given."""
        if self.horizon is None and (self.lam is None or self.delta is None):
            raise ValueError("agent.horizon is missing: delta = 1/T and lam = ln T need it; give it, or both of them")
        T = float(self.horizon or 0)
        return math.log(T) if self.lam is None else self.lam, 1 / T if self.delta is None else self.delta

    def bounds(self, game: Game) -> Bounds:
        """Return the bounds of the game's system, those given here in their place."""
        given = {"rho": self.rho_bar, "phi": self.phi_bar, "sigma": self.sigma}
        given |= {name: getattr(self, f"{name}_bound") for name in ("omega", "theta", "b", "u", "x")}
        return from_system(game.env.system, largest_action(game), given)


def largest_action(game: Game) -> float:
    """Return Ū = max ‖u‖₂ of the game's actions."""
    if game.env.actions is None:
        assert game.env.ball is not None
        return game.env.ball
    return float((game.env.actions**2).sum(1).max() ** 0.5)


# --- the mathematics -------------------------------------------------------------------------------------------------


def radius(t: int, told: Constants, d: int, u: float, lam: float, delta: float) -> float:
    """Return β after t rounds: (c₁/√λ)·ln(e(t+1)) + c₂√λ + √(2σ̃²[ln(1/δ) + (d/2)·ln(1 + tŪ²/(dλ))])."""
    truncation_bias = told.c1 / math.sqrt(lam) * (1 + math.log1p(t))
    return truncation_bias + stationary_radius(t, told, d, u, lam, delta)


def optimistic_values(table: ActionTable, ridge: Ridge, beta: float) -> Tensor:
    """Return <ĥ, a> + β‖a‖_{V⁻¹} (K, N) of every action."""
    mean, squared_width = table.values(ridge)
    return mean + beta * squared_width.sqrt()


def best_on_ball(gram: Tensor, estimate: Tensor, beta: float) -> tuple[Tensor, Tensor]:
    """Return argmax and max of <ĥ, v> + β‖v‖_{V⁻¹} over the unit ball: (N, d) and (N,), of gram (N, d, d), ĥ (N, d).

    The value is the largest ‖g‖ with (g − ĥ)ᵀV(g − ĥ) ≤ β² (brief, section 4.3). With V = Q diag(ℓ) Qᵀ, c = Qᵀĥ and
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


class DynLinUCB:
    """The choice of an action and of its epoch's length, and one regression sample an epoch."""

    STATEFUL = ("ridge", "uniforms", "epoch", "beta")

    def __init__(self, config: DynLinUCBConfig, game: Game) -> None:
        self.config = config
        self.lam, self.delta = config.confidence()
        self.bounds = config.bounds(game)
        self.told = constants(self.bounds)
        replicates, self.d = game.env.num_envs, game.env.system.B.shape[1]
        self.ridge = Ridge(self.d, replicates, self.lam, game.device)
        self.uniforms = ReplicateUniforms(game.seed, "first action", replicates, game.device)
        self.ball = game.env.ball
        self.table = None
        if game.env.actions is not None:
            self.table = ActionTable(torch.tensor(game.env.actions, device=game.device), replicates)
        self.epoch = 0  # m, of the epoch under way
        self.beta = 0.0

    def choose(self, t: int) -> tuple[Tensor, int]:
        """Return the action of the next epoch and its length H + 1."""
        self.epoch += 1
        length = epoch_hold(self.epoch, self.bounds.rho, self.config.epoch_rounding) + 1
        self.beta = radius(t, self.told, self.d, self.bounds.u, self.lam, self.delta)
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
        """Take in the epoch's last reward; the earlier ones are transient and thrown away."""
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

    def metrics(self) -> dict[str, Tensor]:
        """Return the radius β and the epoch's number m."""
        return {"beta": torch.tensor(self.beta), "epoch": torch.tensor(float(self.epoch))}


DYNLIN_UCB_SPEC = AgentSpec(
    DynLinUCBConfig(),
    partial(Bandit, DynLinUCB),
    make_constant_policy,
    "optimism where actions act later, through a hidden linear state (arXiv 2211.08997)",
    regret="round",
)
