"""DηN: one quantile network of the return, conditioned on a stock, greedy for an objective other than the mean.

Ávila Pires, Rowland, Borsa, Guo, Khetarpal, Barreto, Abel, Munos, Dabney, "Optimizing Return Distributions with
Distributional Dynamic Programming", JMLR 26(185), 2025, arXiv 2501.13028. The paper joins DQN with distributional
dynamic programming under stock augmentation; its network, loss and constants were not found. What is here is the
recipe of the brief distributional_dp.md, section 7, in its step numbers; the exact solvers: `distributional_dp/`.

| brief | here |
|---|---|
| (1) stock c' = (c + r)/γ, clamped (5) | `parts.objectives.next_stock`, `clamped` |
| 7.1 features φ(c); Z(s, c, ·), quantiles of G | `stock_features`, `QuantileNetwork` |
| 7.2 score E f(c + Z) and its tie-break | `scores` |
| 7.3 relabelling, free or along the trajectory | `relabelled` |
| D2, D3 target, with the stock c' of the successor | `DHN.target_quantiles` |
| D4 quantile Huber loss | `quantile_huber_loss`, `pull` |
| 7.5 n-step targets | `NStep` |
| 7.6 choice of c_0 at test time | `QuantilePolicy.outer` |

QR-DQN (Dabney et al. 2018, arXiv 1710.10044) is this agent with objective `mean` and the stock off.

Where this differs from the brief, and why:
- D4 is computed from sorted targets and prefix sums: the same loss and gradient without its table of N × N pairs.
- The torso is linear up to the first hidden layer, where the features of the stock are added; the rest is the brief's.
- c' is not stored but computed from c and r, so that a relabelled c and the next episode's c_0 can never leak into it.
- "Target averaging" over tied actions (brief, 7.4) is left out: with real-valued quantiles no two actions tie.
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import gymnasium as gym
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from surefoot.agents.interface import AgentSpec, Episodes, Progress, Setting, Spaces
from surefoot.agents.parts.acceleration import accelerate, adam, set_lr
from surefoot.agents.parts.interaction import Interaction
from surefoot.agents.parts.networks import MLP, soft_update, uniform_
from surefoot.agents.parts.objectives import Objective, next_stock, parse, soundness
from surefoot.agents.parts.random import make_generator
from surefoot.agents.parts.ranges import AT_LEAST_0, AT_LEAST_1, FRACTION, POSITIVE, SHARE, check_ranges, optional
from surefoot.agents.parts.replay import PictureRing, Ring
from surefoot.agents.parts.state import Stateful

TIE_BREAK = 1e-3  # ε_tie, the weight of the mean return where the utility has flat parts (brief, 7.2)
STARTS = 64  # start states over which the outer search takes its mean
GRID = 401  # stocks at which the outer search looks (brief 7.6: at least 201)


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


# --- the mathematics -------------------------------------------------------------------------------------------------


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


# --- the network -----------------------------------------------------------------------------------------------------


class QuantileNetwork(nn.Module):
    """Z(s, c, ·): N quantile estimates of G an action; not of c + G. `stock_range` None: no stock goes in."""

    def __init__(
        self,
        obs_dim: int,
        actions: int,
        config: DHNConfig,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        self.actions, self.stock_range = actions, config.stock_range if config.stock else None
        width = config.hidden[0]
        self.torso: nn.Module = (
            PictureTorso(config, obs_dim, generator)
            if config.pictures is not None
            else MLP(obs_dim, (), width, generator=generator)
        )
        self.head = MLP(width, config.hidden[1:], actions * config.quantiles, generator=generator)
        if config.stock:
            self.scale = max(map(abs, config.stock_range))
            self.of_stock = MLP(3, (width // 2 or 1,), width, generator=generator)

    def forward(self, obs: Tensor, stock: Tensor) -> Tensor:
        """Map obs (B, obs) and clamped stock (B,) to quantiles (B, A, N)."""
        x = self.torso(obs)
        if self.stock_range is not None:
            x = x + self.of_stock(stock_features(stock, self.scale))
        return self.head(x.relu_()).unflatten(-1, (self.actions, -1))


class PictureTorso(nn.Module):
    """DQN's three convolutions and a linear layer, for pictures (frames, height, width) of bytes, flattened."""

    def __init__(self, config: DHNConfig, obs_dim: int, generator: torch.Generator) -> None:
        super().__init__()
        assert config.pictures is not None
        self.shape = config.pictures
        if math.prod(self.shape) != obs_dim:
            raise ValueError(f"agent.pictures {self.shape} are not the {obs_dim} numbers of an observation")
        layers = [(self.shape[0], 32, 8, 4), (32, 64, 4, 2), (64, 64, 3, 1)]  # channels in, out, kernel, stride
        self.convolutions = nn.ModuleList(_convolution(*layer, generator) for layer in layers)
        with torch.no_grad():
            features = self.seen(torch.zeros(1, obs_dim)).shape[1]
        self.last = MLP(features, (), config.hidden[0], generator=generator)

    def seen(self, obs: Tensor) -> Tensor:
        """Return the features (B, …) of the convolutions."""
        x = obs.unflatten(-1, self.shape) / 255
        for convolution in self.convolutions:
            x = convolution(x).relu_()
        return x.flatten(1)

    def forward(self, obs: Tensor) -> Tensor:
        """Map (B, obs) to (B, width), before the activation."""
        return self.last(self.seen(obs))


def _convolution(inside: int, outside: int, kernel: int, stride: int, generator: torch.Generator) -> nn.Conv2d:
    layer = nn.utils.skip_init(nn.Conv2d, inside, outside, kernel, stride)
    for parameter in layer.parameters():
        uniform_(parameter, inside * kernel**2, generator)
    return layer


class QuantilePolicy(nn.Module):
    """Greedy for an objective: the network, what it was trained for, and the search for a stock to start with."""

    def __init__(self, config: DHNConfig, spaces: Spaces, generator: torch.Generator) -> None:
        super().__init__()
        obs_dim, actions, self.first = dims(spaces)
        self.config = config
        self.objective = parse(config.objective)
        self.net = QuantileNetwork(obs_dim, actions, config, generator)

    def greedy(self, obs: Tensor, stock: Tensor) -> tuple[Tensor, Tensor]:
        """Return the best actions (B,), counted from 0, and their quantiles (B, N) at clamped stocks (B,)."""
        quantiles = self.net(obs, stock)
        action = scores(quantiles, stock, self.objective).argmax(-1)
        return action, chosen(quantiles, action)

    def act(self, obs: Tensor, *, explore: bool = False, generator: torch.Generator | None = None) -> Tensor:
        """Return the first actions (N,) of episodes that start in obs (N, obs); `player` goes on with them."""
        return self.player(explore=explore, generator=generator)(obs)

    @torch.no_grad()
    def choose(self, obs: Tensor, stock: Tensor, share: float, generator: torch.Generator | None) -> Tensor:
        """Return actions (N,), counted from 0: greedy for the trained objective, but for a `share` of random ones."""
        greedy, _ = self.greedy(obs, stock)
        if share == 0:
            return greedy
        anything = torch.randint(self.net.actions, greedy.shape, generator=generator, device=greedy.device)
        explores = torch.rand(greedy.shape, generator=generator, device=greedy.device) < share
        return torch.where(explores, anything, greedy)

    @torch.no_grad()
    def outer(self, obs: Tensor, objective: Objective | None = None) -> Outer:
        """Return the stock to start with from the start states (S, obs), one for all, and what it promises; 7.6."""
        objective = objective or self.objective
        low, high = self.config.stock_range if self.config.stock else (0.0, 0.0)
        if objective.stock is None:
            grid = torch.linspace(low, high, GRID, device=obs.device)
        else:
            grid = torch.full((1,), float(objective.stock), device=obs.device)
        states, counts = obs[:STARTS].unique(dim=0, return_counts=True)
        at_each = [self.expected_utility(state.expand(len(grid), -1), grid, objective) for state in states]
        expected = torch.stack(at_each)  # (S, C)
        promised = objective.score(grid, (counts[:, None] * expected).sum(0) / counts.sum())
        best = promised.argmin() if objective.outer == "min" else promised.argmax()
        return Outer(float(grid[best]), float(promised[best]), grid, promised)

    def expected_utility(self, obs: Tensor, stock: Tensor, objective: Objective) -> Tensor:
        """Return mean_i f(c + Z_i(s, c, a)) (B,) of the greedy action."""
        clipped = clamped(stock, self.config.stock_range)
        quantiles = self.greedy(obs, clipped)[1]
        return objective.utility(stock[:, None] + quantiles).mean(-1)

    def require_served(self, objective: Objective) -> None:
        """Raise `ValueError` unless the network was trained for the utility of this objective."""
        points = torch.linspace(-5.0, 5.0, 41, dtype=torch.float64)
        own, other = (u / u.abs().amax() for u in (one.utility(points) for one in (self.objective, objective)))
        if not torch.allclose(own, other):
            raise ValueError(
                f"this network was trained for {self.objective.name}, whose utility is another than that of "
                f"{objective.name}; choose one of the same utility (cvar serves every tau and shortfall(b), target "
                f"every g), or train with --agent.objective {objective.name!r}"
            )

    def player(
        self,
        objective: Objective | None = None,
        stock: float | None = None,
        *,
        explore: bool = False,
        generator: torch.Generator | None = None,
    ) -> StockPlayer:
        """Return what plays whole episodes for an objective from a stock; None: the trained one, the best one.

        `explore`: with the share of random actions that training ends with.
        """
        return StockPlayer(self, objective or self.objective, stock, self.config.final_epsilon * explore, generator)


class Outer(NamedTuple):
    """What the search over the initial stock found."""

    stock: float  # c_0
    promised: float  # the objective's figure there, as the network sees it
    grid: Tensor  # (C,) where it looked
    figures: Tensor  # (C,)


class StockPlayer:
    """A policy and the stock of every lane it plays: call it for actions, `see` what they brought."""

    def __init__(
        self,
        policy: QuantilePolicy,
        objective: Objective,
        start: float | None,
        share: float,
        generator: torch.Generator | None,
    ) -> None:
        policy.require_served(objective)
        self.policy, self.objective, self.start = policy, objective, start
        self.share, self.generator = share, generator
        self.stock: Tensor | None = None  # (N,)

    def restart(self) -> None:
        """Begin new episodes in all lanes at the next call."""
        self.stock = None

    def __call__(self, obs: Tensor) -> Tensor:
        """Return actions (N,) for obs (N, obs)."""
        if self.start is None:
            self.start = self.policy.outer(obs, self.objective).stock
        if self.stock is None:
            self.stock = clamped(torch.full_like(obs[:, 0], self.start), self.policy.config.stock_range)
        return self.policy.choose(obs, self.stock, self.share, self.generator) + self.policy.first

    def see(self, reward: Tensor, ended: Tensor) -> None:
        """Take in the rewards (N,) of a step and which episodes ended (N,) in it."""
        assert self.stock is not None, "rewards come after actions"
        config = self.policy.config
        following = clamped(next_stock(self.stock, reward.to(self.stock), config.gamma), config.stock_range)
        fresh = clamped(torch.full_like(following, self.start or 0.0), config.stock_range)
        self.stock = torch.where(ended, fresh, following)


def chosen(quantiles: Tensor, action: Tensor) -> Tensor:
    """Return the quantiles (B, N) of the actions (B,), int64."""
    return quantiles.gather(1, action[:, None, None].expand(-1, 1, quantiles.shape[-1])).squeeze(1)


def dims(spaces: Spaces) -> tuple[int, int, int]:
    """Return the width of an observation, the number of actions and the first one's; `ValueError` for other spaces."""
    if not isinstance(spaces.action, gym.spaces.Discrete):
        raise ValueError(f"this agent needs Discrete actions, not {spaces.action}; choose another env.id")
    if not isinstance(spaces.observation, gym.spaces.Box) or len(spaces.observation.shape) != 1:
        raise ValueError(f"this agent needs one-dimensional Box observations, not {spaces.observation}")
    return spaces.observation.shape[0], int(spaces.action.n), int(spaces.action.start)


def make_policy(config: DHNConfig, spaces: Spaces, generator: torch.Generator | None = None) -> QuantilePolicy:
    """Return a policy for the spaces."""
    return QuantilePolicy(config, spaces, generator or make_generator(0, "networks"))


# --- the agent -------------------------------------------------------------------------------------------------------


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


class StockLanes(Stateful):
    """The lanes of an environment, each with the stock of its episode; it starts uniformly within `stock_range`."""

    STATEFUL = ("interaction", "stock", "earned", "scale", "generator")

    def __init__(self, config: DHNConfig, setting: Setting) -> None:
        assert setting.env is not None, "an agent that acts needs an environment"
        self.config, self.interaction = config, Interaction(setting.env, setting.seed)
        self.generator = make_generator(setting.seed, "stock", setting.device)
        lanes = setting.env.num_envs
        self.stock = self.draw(lanes)
        self.earned, self.scale = torch.zeros_like(self.stock), torch.ones_like(self.stock)

    def draw(self, count: int) -> Tensor:
        """Return fresh c_0 (count,), uniform within the range."""
        low, high = self.config.stock_range
        random = torch.rand(count, generator=self.generator, device=self.generator.device)
        return low + (high - low) * random

    def step(self, action: Tensor, first: int) -> tuple[Stocked, Episodes]:
        """Take the actions (N,), numbered from `first` by the task, and move the stocks with what they earn."""
        config, (stock, earned, scale) = self.config, (self.stock, self.earned, self.scale)
        batch, episodes = self.interaction.step(action + first)
        if not torch.isfinite(batch.reward).all():
            raise ValueError("the task gave a reward that is not finite; the stock and every target would be lost")
        reward, bound = batch.reward, config.clip_reward
        if bound is not None:
            reward = reward.clamp(-bound, bound)
        gamma = torch.full_like(reward, config.gamma)
        rows = Stocked(batch.obs, action.float(), reward, batch.next_obs, batch.terminated, gamma, stock, earned, scale)
        following = clamped(next_stock(stock, batch.reward, config.gamma), config.stock_range)
        self.stock = torch.where(episodes.ended, self.draw(len(stock)), following)
        self.earned = torch.where(episodes.ended, 0.0, earned + scale * batch.reward)
        self.scale = torch.where(episodes.ended, 1.0, scale * config.gamma)
        return rows, episodes


class NStep:
    """The last n transitions of every lane; each takes in the rewards that follow, until n or its episode's end."""

    def __init__(self, steps: int) -> None:
        self.steps = steps
        self.window: list[tuple[Stocked, Tensor]] = []  # transitions (N, …), and which lanes (N,) still add to theirs

    def add(self, rows: Stocked, ended: Tensor) -> list[Stocked]:
        """Take in what the lanes did and which episodes ended (N,); return the transitions that are complete."""
        if self.steps == 1:
            return [rows]
        longer = [(_prolonged(one, rows), open_) for one, open_ in self.window] + [(rows, torch.ones_like(ended))]
        full = len(longer) == self.steps
        complete = [open_ if full and i == 0 else open_ & ended for i, (_, open_) in enumerate(longer)]
        self.window = [(one, open_ & ~ended) for one, open_ in longer[full:]]
        return [Stocked(*(field[mask] for field in one)) for (one, _), mask in zip(longer, complete, strict=True)]

    def state_dict(self) -> dict[str, Any]:
        return {"window": [{**one._asdict(), "open": open_} for one, open_ in self.window]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.window = [(Stocked(*(row[name] for name in Stocked._fields)), row["open"]) for row in state["window"]]


def _prolonged(earlier: Stocked, last: Stocked) -> Stocked:
    """Return transitions that go on with the one that followed."""
    reward, discount = earlier.reward + earlier.discount * last.reward, earlier.discount * last.discount
    return earlier._replace(reward=reward, discount=discount, next_obs=last.next_obs, terminated=last.terminated)


class DHN(Stateful):
    """One `step` is one step of every lane and the updates it is due."""

    STATEFUL = (
        "policy",
        "target",
        "optimiser",
        "replay",
        "lanes",
        "n_step",
        "acting_generator",
        "relabel_generator",
        "env_steps",
        "updates",
        "updates_due",
    )

    def __init__(self, config: DHNConfig, setting: Setting) -> None:
        self.config, self.device = config, setting.device
        self.policy = make_policy(config, setting.spaces, make_generator(setting.seed, "networks")).to(self.device)
        self.check_sound(setting)
        self.target = copy.deepcopy(self.policy.net).requires_grad_(False)
        self.optimiser = adam(self.policy.parameters(), config.lr, setting, eps=config.adam_eps)
        self.lanes, self.n_step = StockLanes(config, setting), NStep(config.n_step)
        obs_dim, _, _ = dims(setting.spaces)
        widths = [obs_dim, None, None, obs_dim, None, None, None, None, None]
        ring = make_generator(setting.seed, "replay", self.device)
        size = config.replay_capacity, ring, self.device
        self.replay: Ring[Stocked] = (
            Ring(Stocked, widths, *size)
            if config.pictures is None
            else PictureRing(Stocked, widths, ("obs", "next_obs"), *size)
        )
        self.acting_generator = make_generator(setting.seed, "acting", self.device)
        self.relabel_generator = make_generator(setting.seed, "relabel", self.device)
        self.env_steps, self.updates, self.updates_due = 0, 0, 0.0
        self.update = accelerate(self.update_eager, setting, [self.policy, self.target, self.optimiser])

    def check_sound(self, setting: Setting) -> None:
        """Raise `ValueError` where stock alone cannot optimise the objective."""
        limit = getattr(setting.env, "episode_limit", None)
        sound = soundness(self.policy.objective, self.config.gamma, limit)
        if sound.scaled:
            raise ValueError(f"{sound.line}; this agent does not carry it: set agent.gamma 1, or solve it exactly")

    def act(self, obs: Tensor, *, explore: bool = False) -> Tensor:
        """Return the first actions (N,) of episodes that start in obs (N, obs); `player` goes on with them."""
        return self.policy.act(obs, explore=explore, generator=self.acting_generator)

    def player(self, *, explore: bool = False) -> StockPlayer:
        """Return what plays whole episodes for the configured objective."""
        return self.policy.player(explore=explore, generator=self.acting_generator)

    def step(self) -> Progress:
        """Act once in every lane, then make the updates that are due."""
        count = len(self.lanes.stock)
        share = fading(self.env_steps, self.config.epsilon, self.config.final_epsilon, self.config.exploration_steps)
        obs, stock = self.lanes.interaction.obs, self.lanes.stock
        action = self.policy.choose(obs, stock, share, self.acting_generator)
        rows, episodes = self.lanes.step(action, self.policy.first)
        for complete in self.n_step.add(rows, episodes.ended):
            self.replay.push(complete)
        self.env_steps += count
        if self.env_steps > self.config.learning_starts:
            self.updates_due += count * self.config.updates_per_step
        made = []
        while self.updates_due >= 1:
            made.append(self.learn())
            self.updates_due -= 1
        metrics = {name: torch.stack([each[name] for each in made]) for name in (made[0] if made else ())}
        return Progress(count, len(made), metrics, (episodes,))

    def learn(self) -> dict[str, Tensor]:
        """Make one update from a fresh batch; move the target network when it is due."""
        config = self.config
        if config.decay_steps is not None:
            lr = fading(self.env_steps, config.lr, config.lr * config.final_lr, config.decay_steps)
            set_lr(self.optimiser, lr)
        batch = self.replay.sample(config.batch_size)
        low, high = config.stock_range
        random = torch.rand(2, config.batch_size, generator=self.relabel_generator, device=self.device)
        metrics = self.update(batch, low + (high - low) * random[0], random[1] < config.relabel_share)
        self.updates += 1
        if self.updates % config.target_every == 0:
            soft_update(self.target.parameters(), self.policy.net.parameters(), config.tau)
        return metrics

    def update_eager(self, batch: Stocked, fresh: Tensor, replaced: Tensor) -> dict[str, Tensor]:
        """One gradient step (D1 to D5); `fresh` (B,) are new c_0, `replaced` (B,) says whose stock they change."""
        config, stock = self.config, batch.stock
        if config.stock:
            stock = clamped(relabelled(batch, fresh, replaced, config.relabel), config.stock_range)
        y = self.target_quantiles(batch, stock)
        z = chosen(self.policy.net(batch.obs, stock), batch.action.long())
        loss = quantile_huber_loss(z, y, config.kappa).mean()
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        if config.max_grad_norm is not None:
            nn.utils.clip_grad_norm_(self.policy.parameters(), config.max_grad_norm, foreach=True)
        self.optimiser.step()
        z, n = z.detach(), config.quantiles
        return {"loss": loss.detach(), "q": z.mean(), "spread": (z[:, 3 * n // 4] - z[:, n // 4]).mean()}

    @torch.no_grad()
    def target_quantiles(self, batch: Stocked, stock: Tensor) -> Tensor:
        """Return y (B, N) = r + γ(1 − d)·Z⁻(s', c', a'), a' greedy at the successor's own stock c'."""
        following = clamped(next_stock(stock, batch.reward, batch.discount), self.config.stock_range)
        quantiles = self.target(batch.next_obs, following)
        choosing = self.policy.net(batch.next_obs, following) if self.config.double else quantiles
        action = scores(choosing, following, self.policy.objective).argmax(-1)
        discount = batch.discount * (1 - batch.terminated)
        return batch.reward[:, None] + discount[:, None] * chosen(quantiles, action)


def fading(step: int, start: float, end: float, over: int) -> float:
    """Return what is left of `start` at a step on the straight way to `end`, which is reached after `over` steps."""
    return start + (end - start) * min(1.0, step / over) if over else end


DHN_SPEC = AgentSpec(
    DHNConfig(),
    DHN,
    make_policy,
    "DηN: CVaR, targets and budgets by a stock-augmented quantile network (arXiv 2501.13028)",
)
QR_DQN_SPEC = AgentSpec(
    DHNConfig(objective="mean", stock=False, relabel_share=0.0),
    DHN,
    make_policy,
    "QR-DQN (arXiv 1710.10044): DηN for the mean, without a stock",
)
