"""The arithmetic of DηN: the stock's features, scores, relabelling and the loss; the table is in `agent.py`.

docs/derivations/distributional.md §7.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from surefoot.agents.distributional.vectors import AnyObjective, VectorObjective, parse_any
from surefoot.agents.interface import Budget, Plan
from surefoot.agents.parts.budget import counted, require_room, require_updates, require_warm_up, rounded_up
from surefoot.agents.parts.interaction import whole
from surefoot.agents.parts.ranges import (
    AT_LEAST_0,
    AT_LEAST_1,
    FRACTION,
    POSITIVE,
    UNIT_INTERVAL,
    WIDTHS,
    check_ranges,
    optional,
    unread_where,
)

LARGEST = 69.0  # log of the largest stock, 1e30: its square is no float32, but z·c is small again
TIE_BREAK = 1e-3  # ε_tie, the weight of the mean return where the utility has flat parts, eq. (7.4)


@dataclass(frozen=True)
class DHNConfig:
    """Defaults: ours, for small grids (§8.1); the paper's own numbers were not found."""

    objective: str = "cvar(0.25)"
    """Objective to maximise: mean, cvar(tau), upper-cvar(tau), mean-cvar(lam, tau), target(g), homeostasis(set-point),
    shortfall(b), probability(b), ... Its utility f decides what is learned. Its numbers can be changed at evaluation if
    f stays the same: cvar serves every tau and shortfall(b), target every g. Of several `rewards`: targets(a, b, ...),
    shortfalls(a, b, ...), joint-probability(a, b, ...)."""
    rewards: tuple[str, ...] = ()
    """Names of the rewards that an objective of several is of, as the task's steps report them (Larder: `food water`),
    with a stock for each; `stock_range` is that of every one. None: the reward."""
    stock: bool = True
    """Condition the networks on the stock; without it the objective must be the mean (QR-DQN)."""
    stock_range: tuple[float, float] = (-10.0, 10.0)
    """Range [c_lo, c_hi] of the initial stock c_0, in discounted return; it should cover -G_max ... -G_min."""
    gamma: float = 0.95
    """Discount factor of return and stock."""
    horizon: int | None = None
    """Time limit H of the task, which then is its end: nothing is bootstrapped there, and the network sees the steps
    that are left and γ^t. Serves every objective, also at γ = 1; needs `env.time_aware`. None: a time limit does not
    end the return."""
    quantiles: int = 32
    """Quantiles per action (N); use 64 for tau at most 0.1."""
    categories: int | None = None
    """Learn chances of this many returns, evenly over `return_range`, in place of quantiles, and take the cross-entropy
    as the loss: for episodes that seldom fail, which N quantiles leave out if a step has less than 1/(2N) of it."""
    huber_threshold: float = 0.0
    """Threshold κ of the quantile Huber loss; 0: the plain quantile loss. A large κ biases CVaR."""
    hidden: tuple[int, ...] = (128, 128)
    """Hidden layer widths."""
    image_shape: tuple[int, int, int] | None = None
    """Frames, height and width of observations that are flattened byte images, for DQN's convolutional network; with
    sides below 36 for MinAtar's, whose images are zeros and ones."""
    lr: float = 1e-3
    """Initial learning rate (Adam)."""
    final_lr: float = 0.05
    """Final learning rate as a fraction of `lr`, reached linearly after `decay_steps`."""
    decay_steps: int | None = 24_000
    """Environment steps over which the learning rate decays; None: constant."""
    adam_eps: float = 1e-5
    """ε of Adam."""
    max_grad_norm: float | None = None
    """Gradient norm that gradients are clipped to; None: no clipping."""
    batch_size: int = 128
    """Transitions per update."""
    replay_capacity: int = 50_000
    """Replay buffer capacity in transitions; the oldest are overwritten."""
    learning_starts: int = 2_000
    """Environment steps before the first update."""
    updates_per_step: float = 0.25
    """Gradient updates per environment step: 0.25 with 16 environments are 4 per vector step."""
    target_update_interval: int = 200
    """Updates between two updates of the target network. Each carries values one step further back: a run needs more of
    them than an episode has steps, or 1/(1 − gamma) several times over, eq. (7.17)."""
    tau: float = 1.0
    """Polyak averaging rate of the target network; 1: a hard update."""
    double: bool = False
    """Double Q-learning: the online network selects the action of the target."""
    epsilon: float = 1.0
    """Initial exploration rate ε."""
    final_epsilon: float = 0.05
    """Exploration rate ε after `exploration_steps`."""
    exploration_steps: int = 12_000
    """Environment steps over which ε is annealed linearly: the first half of a run on the grids."""
    relabel: Literal["free", "trajectory"] = "free"
    """How the stock of a replayed transition is relabelled: `free`, with a fresh stock, or `trajectory`, with the one
    that a fresh c_0 would have led to."""
    relabel_probability: float = 0.9
    """Probability that the stock of a replayed transition is relabelled; 0: never."""
    n_step: int = 1
    """n of n-step returns; above 1 only without relabelling, which would make such targets wrong."""
    return_range: tuple[float, float] | None = None
    """Bounds that the return from every state keeps, to which targets are clipped, eq. (7.18): with rewards from 0 to 1
    for ever 0 and 1/(1 − gamma). None: estimates may exceed what can be earned."""
    clip_reward: float | None = None
    """Clip rewards to ± this for learning (QR-DQN on Atari: 1). Not allowed with a stock, which needs the unclipped
    rewards."""

    def __post_init__(self) -> None:
        rules = dict.fromkeys(["quantiles", "target_update_interval", "n_step"], AT_LEAST_1)
        rules |= dict.fromkeys(["huber_threshold", "exploration_steps"], AT_LEAST_0)
        rules |= dict.fromkeys(["gamma", "final_lr"], FRACTION)
        rules |= dict.fromkeys(["epsilon", "final_epsilon", "relabel_probability"], UNIT_INTERVAL)
        rules |= dict.fromkeys(
            ["max_grad_norm", "clip_reward", "decay_steps"], optional((POSITIVE[0], "positive, or None"))
        )
        rules["horizon"] = optional(AT_LEAST_1)
        rules["categories"] = optional((lambda x: x >= 2, "at least 2, or None"))
        rules["image_shape"] = optional(WIDTHS)
        rules["stock_range"] = (lambda x: x[0] < x[1] and max(map(abs, x)) < float("inf"), "finite, its low end first")
        rules["return_range"] = optional((rules["stock_range"][0], "finite, its low end first, or None"))
        check_ranges(self, rules)
        self._check_together()

    def unread(self) -> dict[str, str]:
        """Return what the loss, and the lack of a stock or of a decay, leave without effect, and why."""
        return unread_where(
            (self.categories is not None, ("quantiles", "huber_threshold"), "with --agent.categories"),
            (self.decay_steps is None, ("final_lr",), "without --agent.decay-steps"),
            (not self.relabel_probability, ("relabel",), "with --agent.relabel-probability 0"),
            (not self.stock, ("stock_range", "relabel", "relabel_probability"), "without --agent.stock"),
        )

    def _check_together(self) -> None:
        objective = parse_any(self.objective)
        self._check_rewards(objective)
        if self.categories is not None and self.return_range is None:
            raise ValueError("--agent.categories needs --agent.return-range: it is what they are spread over")
        if self.horizon is not None and self.image_shape is not None:
            raise ValueError("--agent.horizon does not go with --agent.image-shape: bytes do not hold every step")
        largest = max(map(abs, self.stock_range))
        if self.horizon is not None and self.horizon * -math.log(self.gamma) + math.log1p(largest) > LARGEST:
            raise ValueError(
                f"--agent.horizon {self.horizon} with --agent.gamma {self.gamma}: gamma^-{self.horizon} is too large "
                "for a float32 stock; leave the horizon out, for nothing that late counts"
            )
        if self.stock and self.clip_reward is not None:
            raise ValueError("--agent.clip-reward does not go with --agent.stock, which adds up the real rewards")
        if self.stock and self.relabel_probability > 0 and self.n_step > 1:
            raise ValueError(
                f"--agent.n-step {self.n_step} with relabelling: the recorded actions belong to another stock; set "
                "--agent.n-step 1 or --agent.relabel-probability 0"
            )
        if not self.stock and objective.name != "mean":
            raise ValueError(f"--agent.objective {self.objective} needs --agent.stock; else there is only the mean")

    def _check_rewards(self, objective: AnyObjective) -> None:
        """Raise `ValueError` unless there is a reward for every number of an objective of several, and for no other."""
        if not isinstance(objective, VectorObjective):
            if self.rewards:
                raise ValueError(f"--agent.rewards has no meaning for {objective.name}, which is of one reward")
            return
        numbers, named = len(objective.stock.entries), len(self.rewards)
        if numbers != named:
            raise ValueError(
                f"--agent.objective {objective.name!r} is of {numbers} rewards, --agent.rewards names {named}: "
                "name one for each number"
            )
        alone = {"categories": None, "n_step": 1, "huber_threshold": 0.0}
        if wrong := [name for name, value in alone.items() if getattr(self, name) != value]:
            flag = wrong[0].replace("_", "-")
            raise ValueError(f"--agent.{flag} is for one reward, --agent.objective {objective.name!r} of {numbers}")


def plan(config: DHNConfig, budget: Budget) -> Plan:
    """Return what will run: steps until learning starts, then updates for every one."""
    require_warm_up(config, budget.steps)
    require_room(config, budget.num_envs)
    steps = rounded_up(budget.steps, budget.num_envs)
    idle = config.learning_starts // budget.num_envs * budget.num_envs
    if config.learning_starts < (least := (config.n_step - 1) * budget.num_envs):
        raise ValueError(
            f"--agent.learning-starts is {config.learning_starts}, but with --agent.n-step {config.n_step} nothing is "
            f"there to learn from before step {least}; raise it to {least}"
        )
    updates = whole((steps - idle) * config.updates_per_step)
    require_updates(updates, budget.steps, f"--agent.updates-per-step is {config.updates_per_step}")
    epsilon = fading(steps, config.epsilon, config.final_epsilon, config.exploration_steps)
    acting = f"{steps:,} environment steps, learning from step {idle:,} on, exploration falls to {epsilon:.2g}"
    return Plan(steps, updates, (acting, counted(updates, "update")))


def fading(step: int, start: float, end: float, over: int) -> float:
    """Return what is left of `start` at a step on the straight way to `end`, which is reached after `over` steps."""
    return start + (end - start) * min(1.0, step / over) if over else end


def clamped(stock: Tensor, config: DHNConfig) -> Tensor:
    """Return the stock within ±2·max|c_0|, eq. (7.1): beyond the range of G the best action is constant in c (§6.3).

    Without this |c| grows like γ^-t once a target is out of reach. With a horizon it stays as it is: utilities that are
    not homogeneous go on bending, and γ^t·c does not grow.
    """
    if config.horizon is not None:
        return stock
    limit = 2 * max(map(abs, config.stock_range))
    return stock.clamp(-limit, limit)


def elapsed_scale(obs: Tensor, config: DHNConfig) -> Tensor | None:
    """Return z = γ^t (…) of time-aware observations (…, obs); None without a horizon, where z is not carried."""
    if config.horizon is None:
        return None
    return torch.pow(torch.full_like(obs[..., -1], config.gamma), obs[..., -1])


def beside(x: Tensor, like: Tensor) -> Tensor:
    """Return x (B,) in the shape (B, 1, …) that broadcasts to `like` (B, …)."""
    return x.view(-1, *[1] * (like.ndim - 1))


def stock_features(stock: Tensor, scale: float) -> Tensor:
    """Return φ(c) = (clip(x, ±1.5), tanh 4x, tanh 16x), (…, 3), of x = c/scale (…)."""
    x = stock / scale
    return torch.stack([x.clamp(-1.5, 1.5), (4 * x).tanh(), (16 * x).tanh()], -1)


def whole_stock_features(stock: Tensor, z: Tensor, scale: float) -> Tensor:
    """Return φ (…, 3) of x = z·c/scale (…), the whole return so far; x itself, for f may bend anywhere: eq. (7.15)."""
    x = beside(z, stock) * stock / scale
    return torch.stack([x, (4 * x).tanh(), (16 * x).tanh()], -1)


def time_features(obs: Tensor, z: Tensor, horizon: int) -> Tensor:
    """Return ψ(t) = ((H − t)/H, 1/(H − t), γ^t), (…, 3), of time-aware observations (…, obs): eq. (7.15)."""
    left = (horizon - obs[..., -1]).clamp(min=0)
    return torch.stack([left / horizon, 1 / left.clamp(min=1), z], -1)


class Law(NamedTuple):
    """Distributions of returns."""

    values: Tensor  # (…, N), or (N,) where all have the same; of several rewards (…, N, m)
    weights: Tensor | None  # (…, N); None: all values weigh the same
    several: bool = False  # rewards

    @property
    def mean(self) -> Tensor:
        """E G (…); of several rewards that of their sum."""
        values = self.values.sum(-1) if self.several else self.values
        return values.mean(-1) if self.weights is None else (self.weights * values).sum(-1)


def law_of(head: Tensor, config: DHNConfig) -> Law:
    """Return the distributions that outputs of the network (…, N), of m rewards (…, N·m), stand for."""
    if config.rewards:
        return Law(torch.unflatten(head, -1, (-1, len(config.rewards))), None, True)
    return Law(head, None) if config.categories is None else Law(support_of(config, head), head.softmax(-1))


def support_of(config: DHNConfig, like: Tensor) -> Tensor:
    """Return the returns (N,) of which the network gives the chances."""
    assert config.categories is not None
    assert config.return_range is not None
    return torch.linspace(*config.return_range, config.categories, dtype=like.dtype, device=like.device)


def scores(law: Law, stock: Tensor, objective: AnyObjective, z: Tensor | None = None) -> Tensor:
    """Return (B, A) = E f(c + Z) + ε_tie·E Z of distributions (B, A, N) of Z and stocks (B,), eq. (7.4).

    With z = γ^t (B,) the same of the whole return, f(z·(c + Z)), eq. (7.16). Of m rewards the stocks are (B, m).
    """
    mean, total = law.mean, stock[:, None, None] + law.values
    if z is not None:
        mean, total = beside(z, mean) * mean, beside(z, total) * total
    value = objective.expected(total, law.weights)
    return value + TIE_BREAK * mean if objective.flat else value


def relabelled(batch: Stocked, fresh: Tensor, replaced: Tensor, config: DHNConfig) -> Tensor:
    """Return the stock (B,) of replayed rows: as it was, or where `replaced` (B,) as a fresh c_0 (B,) makes it.

    Of m rewards stocks are (B, m).

    The task never looks at the stock, so a transition holds for every one of them. `free`: the fresh one itself, with
    a horizon γ^-t·c_0. `trajectory`: γ^-t·(c_0 + Σ_{k<t} γ^k r), what the same rewards would have made of it.
    """
    scale = beside(batch.scale, fresh)
    if config.relabel == "trajectory":
        new = (fresh + batch.earned) / scale
    else:
        new = fresh if config.horizon is None else fresh / scale
    return torch.where(beside(replaced, new), new, batch.stock)


def energy_distance(z: Tensor, y: Tensor) -> Tensor:
    """Return (B,) 2·E‖Z − Y‖ − E‖Z − Z'‖ of equally likely points z (B, N, m) and targets y (B, M, m), eq. (7.22).

    Least, over distributions of Z, where Z is distributed as Y; and what is left out depends on Y alone.
    """
    plainly = "donot_use_mm_for_euclid_dist"  # the other way loses digits of small distances
    apart, among = (torch.cdist(z, other, compute_mode=plainly).mean((1, 2)) for other in (y, z))
    return 2 * apart - among


def cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    """Return −Σ_i m_i log p_i (B,) of logits (B, N) and the chances m (B, N) of the target, eq. (7.21)."""
    return -(target * logits.log_softmax(-1)).sum(-1)


def quantile_huber_loss(z: Tensor, y: Tensor, kappa: float) -> Tensor:
    """Return (B,) Σ_i (1/M) Σ_j |τ̂_i − 1{y_j < z_i}|·H_κ(y_j − z_i)/κ of z (B, N) and targets y (B, M).

    Value and slope come without a table of pairs or a graph of operations; the line through them carries the gradient.
    """
    with torch.no_grad():
        value, slope = pull(z, y, kappa)
    return value + (slope * (z - z.detach())).sum(-1)


def pull(z: Tensor, y: Tensor, kappa: float) -> tuple[Tensor, Tensor]:
    """Return the loss of eq. (7.9) (B,) and its derivatives (B, N) in z, from sorted targets and their prefix sums.

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
    reward: Tensor  # (B,), the discounted sum of n rewards; of m rewards (B, m)
    next_obs: Tensor  # (B, obs), the true successor n steps on
    terminated: Tensor  # (B,), 1 where the task ended; a time-out is 0 and does not mask a bootstrap
    discount: Tensor  # (B,), γ^n
    stock: Tensor  # (B,), of m rewards (B, m); clamped
    earned: Tensor  # (B,), of m rewards (B, m): Σ_{k<t} γ^k r of the episode so far
    scale: Tensor  # (B,), γ^t
