"""The arithmetic of DηN: the stock's features, scores, relabelling and the loss; the table is in `agent.py`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from surefoot.agents.distributional.objectives import Objective, parse
from surefoot.agents.parts.ranges import AT_LEAST_0, AT_LEAST_1, FRACTION, POSITIVE, SHARE, check_ranges, optional

TIE_BREAK = 1e-3  # ε_tie, the weight of the mean return where the utility has flat parts (brief, 7.2)


@dataclass(frozen=True)
class DHNConfig:
    """Defaults: the brief's gridworld column (section 7.7), which is ours; the paper's own numbers were not found."""

    objective: str = "cvar(0.25)"
    """What to maximise: mean, cvar(tau), upper-cvar(tau), mean-cvar(lam, tau), target(g), homeostasis(set-point),
    shortfall(b), probability(b), ... Its utility f decides what is learned; the numbers can be changed at evaluation as
    long as they leave f alone: cvar serves every tau and shortfall(b), target every g."""
    stock: bool = True
    """Whether networks see the stock; without it the objective must be the mean (QR-DQN)."""
    stock_range: tuple[float, float] = (-10.0, 10.0)
    """[c_lo, c_hi] of the stock an episode starts with, in discounted return; it should cover -G_max ... -G_min."""
    gamma: float = 0.95
    """Discount, of the return and of the stock."""
    quantiles: int = 32
    """N, quantiles an action (64 for tau at most 0.1)."""
    kappa: float = 0.0
    """Where the Huber loss turns linear; 0: the plain quantile loss. Large ones bias CVaR."""
    hidden: tuple[int, ...] = (128, 128)
    """Hidden layer widths."""
    pictures: tuple[int, int, int] | None = None
    """Frames, height and width of observations that are flattened pictures of bytes: DQN's convolutions see them."""
    lr: float = 1e-3
    """Adam step size at the start."""
    final_lr: float = 0.05
    """Share of `lr` that is left after `decay_steps`, linearly."""
    decay_steps: int | None = 24_000
    """Environment steps over which the step size decays; None: constant."""
    adam_eps: float = 1e-5
    """ε of Adam."""
    max_grad_norm: float | None = None
    """Longest gradient; longer ones are scaled down. None: any length."""
    batch_size: int = 128
    """Transitions an update."""
    replay_capacity: int = 50_000
    """Transitions kept; the oldest are overwritten."""
    learning_starts: int = 2_000
    """Environment steps before the first update."""
    updates_per_step: float = 0.25
    """Gradient updates an environment step: 4 for a step of 16 lanes."""
    target_every: int = 200
    """Updates between two moves of the target network."""
    tau: float = 1.0
    """Weight of the new parameters when the target network moves; 1: a copy."""
    double: bool = False
    """Let the online network choose the action of the target."""
    epsilon: float = 1.0
    """Share of random actions at the start."""
    final_epsilon: float = 0.05
    """Share of random actions after `exploration_steps`."""
    exploration_steps: int = 12_000
    """Environment steps over which the share of random actions falls linearly (brief: the first half)."""
    relabel: Literal["free", "trajectory"] = "free"
    """How a replayed stock is replaced: by a fresh one, or by the one that a fresh c_0 would have led to."""
    relabel_share: float = 0.9
    """Share of replayed transitions whose stock is replaced; 0: none."""
    n_step: int = 1
    """Rewards summed before the bootstrap; more than 1 only without relabelling, which makes longer targets wrong."""
    clip_reward: float | None = None
    """Learn from rewards clipped to ± this (QR-DQN on Atari: 1). Refused beside a stock, which needs the real ones."""

    def __post_init__(self) -> None:
        rules = dict.fromkeys(["quantiles", "target_every", "n_step"], AT_LEAST_1)
        rules |= dict.fromkeys(["kappa", "exploration_steps"], AT_LEAST_0)
        rules |= dict.fromkeys(["lr", "adam_eps"], POSITIVE)
        rules |= dict.fromkeys(["gamma", "final_lr"], FRACTION)
        rules |= dict.fromkeys(["epsilon", "final_epsilon", "relabel_share"], SHARE)
        rules |= dict.fromkeys(
            ["max_grad_norm", "clip_reward", "decay_steps"], optional((POSITIVE[0], "positive, or None"))
        )
        rules["stock_range"] = (lambda x: x[0] < x[1] and max(map(abs, x)) < float("inf"), "finite, its low end first")
        check_ranges(self, rules)
        self._check_together()

    def _check_together(self) -> None:
        objective = parse(self.objective)
        if self.stock and self.clip_reward is not None:
            raise ValueError("agent.clip_reward does not go with agent.stock: the stock is in the real rewards' scale")
        if self.stock and self.relabel_share > 0 and self.n_step > 1:
            raise ValueError(
                f"agent.n_step {self.n_step} with relabelling: the recorded actions belong to another stock; set "
                "agent.n_step 1 or agent.relabel_share 0"
            )
        if not self.stock and objective.name != "mean":
            raise ValueError(f"agent.objective {self.objective} needs agent.stock; without it there is only the mean")


def clamped(stock: Tensor, stock_range: tuple[float, float]) -> Tensor:
    """Return the stock within ±2·max|c_0|: beyond the range of G the best action is constant in c (brief, section 5).

    Without this |c| grows like γ^-t once a target is out of reach.
    """
    limit = 2 * max(map(abs, stock_range))
    return stock.clamp(-limit, limit)


def stock_features(stock: Tensor, scale: float) -> Tensor:
    """Return φ(c) = (clip(x, ±1.5), tanh 4x, tanh 16x), (…, 3), of x = c/scale (…)."""
    x = stock / scale
    return torch.stack([x.clamp(-1.5, 1.5), (4 * x).tanh(), (16 * x).tanh()], -1)


def scores(quantiles: Tensor, stock: Tensor, objective: Objective) -> Tensor:
    """Return (…, A) = mean_i f(c + Z_i) + ε_tie·mean_i Z_i of quantiles (…, A, N) and stock (…)."""
    value = objective.utility(stock[..., None, None] + quantiles).mean(-1)
    return value + TIE_BREAK * quantiles.mean(-1) if objective.flat else value


def relabelled(batch: Stocked, fresh: Tensor, replaced: Tensor, how: str) -> Tensor:
    """Return the stock (B,) of replayed rows: as it was, or where `replaced` (B,) as a fresh c_0 (B,) makes it.

    The task never looks at the stock, so a transition holds for every one of them. `free`: the fresh one itself.
    `trajectory`: γ^-t·(c_0 + Σ_{k<t} γ^k r), what the same rewards would have made of it.
    """
    new = fresh if how == "free" else (fresh + batch.earned) / batch.scale
    return torch.where(replaced, new, batch.stock)


def quantile_huber_loss(z: Tensor, y: Tensor, kappa: float) -> Tensor:
    """Return (B,) Σ_i (1/M) Σ_j |τ̂_i − 1{y_j < z_i}|·H_κ(y_j − z_i)/κ of z (B, N) and targets y (B, M); D4.

    Value and slope come without a table of pairs or a graph of operations; the line through them carries the gradient.
    """
    with torch.no_grad():
        value, slope = pull(z, y, kappa)
    return value + (slope * (z - z.detach())).sum(-1)


def pull(z: Tensor, y: Tensor, kappa: float) -> tuple[Tensor, Tensor]:
    """Return D4 (B,) and its derivatives (B, N) in z, from sorted targets and their prefix sums.

    These give every Σ_j at once: over the y below z − κ, from there to z, from z to z + κ, and above.
    """
    n, m = z.shape[-1], y.shape[-1]
    tau = (torch.arange(n, dtype=z.dtype, device=z.device) + 0.5) / n
    centre = y.mean(-1, keepdim=True)  # differences of prefix sums lose digits to a common offset
    y, z = (y - centre).sort(-1).values, z - centre
    sums = F.pad(y.cumsum(-1), (1, 0))  # (B, M + 1)
    total = sums[:, -1:]
    if kappa == 0:
        less = torch.searchsorted(y, z)  # how many y_j < z_i
        slope = less / m - tau
        return (slope * z + (tau * total - sums.gather(-1, less)) / m).sum(-1), slope
    edges = torch.searchsorted(y, torch.cat([z - kappa, z, z + kappa], -1))  # (B, 3N)
    squares = F.pad(y.square().cumsum(-1), (1, 0))
    low, high, under = edges[:, :n], edges[:, -n:], sums.gather(-1, edges)
    # The two ranges next to z, below and above it, where the loss is (y_j − z)²/2κ: (B, 2N)
    count, linear, square = (table[:, n:] - table[:, :-n] for table in (edges, under, squares.gather(-1, edges)))
    twice, weight = torch.cat([z, z], -1), torch.cat([1 - tau, tau]) / m
    near = ((count * twice - 2 * linear) * twice + square) / (2 * kappa)
    below, above = low * (z - kappa / 2) - under[:, :n], total - under[:, -n:] - (m - high) * (z + kappa / 2)
    value = (weight * (near + torch.cat([below, above], -1))).sum(-1)
    slopes = weight * ((count * twice - linear) / kappa + torch.cat([low, high - m], -1))
    return value, slopes[:, :n] + slopes[:, n:]


class Stocked(NamedTuple):
    """Transitions and the stock they were made with, side by side; all float32."""

    obs: Tensor  # (B, obs)
    action: Tensor  # (B,), counted from 0
    reward: Tensor  # (B,), the discounted sum of n rewards
    next_obs: Tensor  # (B, obs), the true successor n steps on
    terminated: Tensor  # (B,), 1 where the task ended; a time-out is 0 and does not mask a bootstrap
    discount: Tensor  # (B,), γ^n
    stock: Tensor  # (B,), clamped
    earned: Tensor  # (B,), Σ_{k<t} γ^k r of the episode so far
    scale: Tensor  # (B,), γ^t
