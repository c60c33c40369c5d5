"""M2TD3 and SoftM2TD3: TD3 for the worst of the worlds that a few free adversary vectors have found.

Tanabe, Sato, Fukuchi, Sakuma, Akimoto, "Max-Min Off-Policy Actor-Critic Method Focusing on Worst-Case Robustness to
Model Misspecification", NeurIPS 2022, arXiv 2211.03413; numbers and rules of their code (akimotolab/M2TD3).

| what | here |
|---|---|
| the critic sees the world: Q(s, a, ω); y with a' and ω' smoothed alike | `M2TD3.update_critic_eager` |
| K adversary vectors ω̂_k, bounded outputs of free numbers | `positions` |
| l_k = −mean_B Q₁(s, π(s), ω̂_k); the policy lowers max l_k, or softly Σ p_k l_k | `adversary_losses`, `robust_loss` |
| the worst ω̂_k alone lowers mean_B Q₁ | `M2TD3.update_policy_eager`, `adam_step_of` |
| p_k: moving average of "was the worst", rate 1 / length of the last episode | `moved_probability` |
| ω of an episode: ω̂_k with probability p_k, plus noise, clipped | `drawn_worlds` |
| restart of ω̂_k where p_k < 0.05, or where two are close | `superfluous`, `restarted_probability` |

Where this differs from their code, and why:
- ω is in [−1, 1]^d wherever a network sees it: masses up to 31 would drown the observations. Closeness of two ω̂ is the
  L1 distance of the parameters themselves, as theirs.
- Exploration noise is drawn for every component of an action; theirs adds one number to all of them.
- All ω̂ that are to restart do so at once and take the mean probability of the others; theirs go one after the other.
- A time-out does not end the bootstrap; episodes start from fresh states (theirs re-seeds every one alike).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor

from surefoot.agents.interface import AgentSpec, Episodes, Progress, Setting, Spaces, UncertainEnv
from surefoot.agents.parts.acceleration import accelerate, take_step
from surefoot.agents.parts.interaction import RolloutConfig
from surefoot.agents.parts.random import make_generator, normal
from surefoot.agents.parts.ranges import AT_LEAST_0, POSITIVE, check_ranges, optional
from surefoot.agents.parts.state import Stateful
from surefoot.agents.parts.td3 import DeterministicPolicy, TD3Config, TD3Nets, make_td3_policy, smoothed
from surefoot.agents.parts.worlds import Box, WorldBatch, world_replay
from surefoot.agents.sac import box_dims, make_rollout, twin_q_loss

LEAST_WORLD_NOISE = 0.1  # where its decay ends


@dataclass(frozen=True)
class M2TD3Config(RolloutConfig, TD3Config):
    """Defaults: the authors' code (brief iwocs.md, section 10)."""

    soft: bool = False
    """SoftM2TD3: the policy is trained for the adversaries' mixture in place of the worst of them."""
    adversaries: int = 5
    """K, adversary vectors."""
    adversary_lr: float = 3e-4
    """Adam step size of the adversary vectors."""
    restart_probability: float = 0.05
    """An adversary vector that is the worst less often than this restarts."""
    restart_distance: float = 0.1
    """Of two adversary vectors that are this close, in the parameters' own units, the first restarts."""
    world_noise: float = 1.0
    """Standard deviation of the noise on the world of an episode, in half ranges."""
    world_noise_updates: int | None = None
    """Updates over which it falls linearly to 0.1, as their SoftM2TD3 does over half of the budget; None: it stays."""
    batch_size: int = 100
    """Transitions an update."""
    learning_starts: int = 100_000
    """Environment steps before the first update."""
    random_steps: int = 100_000
    """Environment steps with uniform actions and uniform worlds at the start."""

    def __post_init__(self) -> None:
        check_ranges(
            self,
            {
                "adversaries": (lambda x: x >= 2, "at least 2"),
                "adversary_lr": POSITIVE,
                "restart_probability": (lambda x: 0 <= x < 1, "in [0, 1)"),
                "restart_distance": AT_LEAST_0,
                "world_noise": (lambda x: x >= LEAST_WORLD_NOISE, f"at least {LEAST_WORLD_NOISE}"),
                "world_noise_updates": optional(POSITIVE),
            },
        )


# --- the mathematics -------------------------------------------------------------------------------------------------


def positions(raw: Tensor) -> Tensor:
    """Return the adversary vectors ω̂ (K, d) in [−1, 1] of free numbers (K, d)."""
    return 2 * raw.sigmoid() - 1


def adversary_losses(q: Tensor) -> Tensor:
    """Return l_k = −mean_B Q₁(s, π(s), ω̂_k) (K,) of q (K, B)."""
    return -q.mean(-1)


def robust_loss(losses: Tensor, probability: Tensor, *, soft: bool) -> Tensor:
    """Return what the policy lowers: max_k l_k, or Σ_k p_k·l_k; both (K,)."""
    return (probability * losses).sum() if soft else losses.max()


def moved_probability(probability: Tensor, worst: Tensor, rate: Tensor) -> Tensor:
    """Return (1 − rate)·p + rate·1[k is the worst] (K,)."""
    return torch.lerp(probability, torch.nn.functional.one_hot(worst, len(probability)).to(probability), rate)


def superfluous(points: Tensor, probability: Tensor, *, distance: float, least: float) -> Tensor:
    """Return which of points (K, d) restart, (K,): rarely the worst, or the first of two within an L1 distance."""
    close = (points[:, None] - points[None]).abs().sum(-1) <= distance
    return close.triu(1).any(1) | (probability < least)


def restarted_probability(probability: Tensor, fresh: Tensor) -> Tensor:
    """Return p (K,) with the mean of the others in place of that of the fresh ones, summing to 1."""
    others = (1 - probability) / (len(probability) - 1)
    mixed = torch.where(fresh, others, probability)
    return mixed / mixed.sum()


def drawn_worlds(points: Tensor, probability: Tensor, uniform: Tensor, noise: Tensor) -> Tensor:
    """Return worlds (N, d) in [−1, 1]: ω̂_k (K, d), k by uniform numbers (N,) in [0, 1), plus noise (N, d)."""
    index = (uniform[:, None] >= probability.cumsum(0)).sum(-1).clamp(max=len(points) - 1)
    return (points[index] + noise).clamp(-1, 1)


def adam_step_of(chosen: Tensor, value: Tensor, grad: Tensor, moments: tuple[Tensor, ...], lr: float) -> None:
    """Take one step of Adam on row `chosen` of value (K, d) alone, in place; moments: m, v (K, d) and counts (K, 1).

    An optimiser of one tensor would move the other rows too, by their momentum.
    """
    m, v, count = moments
    row = torch.zeros_like(count).index_fill(0, chosen, 1.0)  # (K, 1)
    count += row
    m.lerp_(grad, 0.1 * row)
    v.lerp_(grad.square(), 0.001 * row)
    step = (m / (1 - 0.9**count)) / ((v / (1 - 0.999**count)).sqrt() + 1e-8)
    value -= torch.where(row > 0, lr * step, 0.0)


# --- the agent -------------------------------------------------------------------------------------------------------


class M2TD3(Stateful):
    """TD3 with a critic of worlds, in lanes that begin every episode in a world of the adversaries'."""

    STATEFUL = (
        "nets",
        "raw",
        "m",
        "v",
        "counts",
        "probability",
        "last_length",
        "replay",
        "rollout",
        "noise_generator",
        "world_generator",
        "updates",
        "restarts",
    )

    def __init__(self, config: M2TD3Config, setting: Setting) -> None:
        assert setting.worlds is not None, "M2TD3 trains in an uncertainty set"
        self.config, device = config, setting.device
        self.env = cast(UncertainEnv, setting.env)
        self.box = Box(self.env)
        obs_dim, self.action_dim = box_dims(setting.spaces)
        self.nets = TD3Nets(config, setting, (obs_dim, self.action_dim), stream="networks", world_dim=self.box.dims)
        self.world_generator = make_generator(setting.seed, "worlds", device)
        self.raw = self.fresh()
        self.m, self.v = torch.zeros_like(self.raw), torch.zeros_like(self.raw)
        self.counts = torch.zeros(config.adversaries, 1, device=device)
        self.probability = torch.full((config.adversaries,), 1 / config.adversaries, device=device)
        self.last_length = torch.tensor(float(self.env.episode_limit or 1000), device=device)
        replay_generator = make_generator(setting.seed, "replay", device)
        dims = (obs_dim, self.action_dim, self.box.dims)
        self.replay = world_replay(config.replay_capacity, dims, replay_generator, device)
        self.env.set_params(self.box.params(self.next_worlds(self.env.num_envs, explored=False)))
        self.rollout = make_rollout(config, setting)
        self.noise_generator = make_generator(setting.seed, "update noise", device)
        self.updates = self.restarts = 0
        owners = [*self.nets.owners(), self.raw, self.m, self.v, self.counts, self.probability]
        self.update_critic = accelerate(self.update_critic_eager, setting, owners)
        self.update_policy = accelerate(self.update_policy_eager, setting, owners)

    @property
    def policy(self) -> DeterministicPolicy:
        return self.nets.policy

    def act(self, obs: Tensor, *, explore: bool = False) -> Tensor:
        """Return actions (N, act) for obs (N, obs)."""
        return self.policy.act(obs, explore=explore, generator=self.noise_generator)

    def step(self) -> Progress:
        """One environment step in every lane and the updates it is due."""
        episodes = self.rollout.advance(self.policy, self.replay, self.enter)
        for ended in episodes:
            if ended.ended.any():
                self.after(ended)
        update, env_steps = self.rollout.take_update()
        if not update:
            return Progress(env_steps, 0, {}, episodes)
        batch = self.replay.sample(self.config.batch_size)
        shapes = [(self.config.batch_size, width) for width in (self.action_dim, self.box.dims)]
        metrics = self.update_critic(batch, *normal(self.noise_generator, *shapes))
        self.updates += 1
        if self.updates % self.config.policy_every == 0:
            metrics |= self.update_policy(batch.obs, 1 / self.last_length)
        return Progress(env_steps, 1, metrics, episodes)

    # --- worlds ---

    def enter(self, obs: Tensor) -> Tensor:
        """Return the worlds (N, d) of the step to come, and say which are next should an episode end in it."""
        explored = self.rollout.env_steps >= self.config.random_steps
        self.env.set_params(self.box.params(self.next_worlds(len(obs), explored=explored)))
        return self.box.world(self.env.params)

    def next_worlds(self, lanes: int, *, explored: bool) -> Tensor:
        """Return worlds (N, d) for episodes to come: the adversaries', or uniform ones at the start."""
        shape = (lanes, self.box.dims)
        if not explored:
            return 2 * torch.rand(shape, generator=self.world_generator, device=self.raw.device) - 1
        (noise,) = normal(self.world_generator, shape)
        uniform = torch.rand(lanes, generator=self.world_generator, device=self.raw.device)
        return drawn_worlds(positions(self.raw), self.probability, uniform, self.noise_scale() * noise)

    def noise_scale(self) -> float:
        """Return the standard deviation of the noise on worlds, in half ranges."""
        if self.config.world_noise_updates is None:
            return self.config.world_noise
        left = max(0.0, 1 - self.updates / self.config.world_noise_updates)
        return LEAST_WORLD_NOISE + left * (self.config.world_noise - LEAST_WORLD_NOISE)

    def fresh(self) -> Tensor:
        """Return free numbers (K, d) of adversary vectors drawn uniformly from the box."""
        shape = (self.config.adversaries, self.box.dims)
        return torch.rand(shape, generator=self.world_generator, device=self.env.low.device).logit(1e-5)

    def after(self, episodes: Episodes) -> None:
        """Take the length of an episode that ended, and restart the adversaries that are of no use."""
        lengths = torch.where(episodes.ended, episodes.length, 0).sum() / episodes.ended.sum()
        self.last_length.copy_(lengths)
        points = self.box.params(positions(self.raw))
        limits = {"distance": self.config.restart_distance, "least": self.config.restart_probability}
        stale = superfluous(points, self.probability, **limits)
        self.probability.copy_(restarted_probability(self.probability, stale))
        self.raw.copy_(torch.where(stale[:, None], self.fresh(), self.raw))
        for moment in (self.m, self.v, self.counts):
            moment.masked_fill_(stale[:, None], 0.0)
        self.restarts += int(stale.sum())

    # --- updates ---

    def update_critic_eager(self, batch: WorldBatch, noise: Tensor, world_noise: Tensor) -> dict[str, Tensor]:
        """One gradient step on both critics."""
        config = self.config
        next_world = smoothed(batch.world, world_noise, config.target_noise, config.target_noise_clip)
        next_seen = torch.cat([batch.next_obs, next_world], -1)
        y = self.nets.td_target(batch.transitions, noise, next_seen)
        q = self.nets.critic(torch.cat([batch.obs, batch.world], -1), batch.action)
        loss = twin_q_loss(q, y)
        take_step([self.nets.critic_optimiser], loss)
        return {"critic_loss": loss.detach(), "q": q.detach().mean()}

    def update_policy_eager(self, obs: Tensor, rate: Tensor) -> dict[str, Tensor]:
        """One gradient step on the policy and on the worst adversary; p_k and the targets move."""
        action = self.nets.policy(obs)
        losses = adversary_losses(self.q_in(obs, action, positions(self.raw)))
        worst = losses.argmax()
        take_step([self.nets.policy_optimiser], robust_loss(losses, self.probability, soft=self.config.soft))
        raw = self.raw.clone().requires_grad_()
        its_q = self.q_in(obs, action.detach(), positions(raw).index_select(0, worst[None])).mean()
        (grad,) = torch.autograd.grad(its_q, raw)
        adam_step_of(worst[None], self.raw, grad, (self.m, self.v, self.counts), self.config.adversary_lr)
        self.probability.copy_(moved_probability(self.probability, worst, rate))
        self.nets.move_targets()
        return {
            "policy_loss": losses.detach().max(),
            "policy_loss_spread": losses.detach().max() - losses.detach().min(),
            "largest_probability": self.probability.max(),
        }

    def q_in(self, obs: Tensor, action: Tensor, worlds: Tensor) -> Tensor:
        """Return Q₁(s, a, ω_k) (K, B), without a gradient into the critics."""
        many = len(worlds)
        seen = torch.cat([obs.repeat(many, 1), worlds.repeat_interleave(len(obs), 0)], -1)
        return self.nets.critic(seen, action.repeat(many, 1), frozen=True)[0].view(many, -1)


def make_policy(config: M2TD3Config, spaces: Spaces) -> DeterministicPolicy:
    """Return the policy a config describes; its weights are only there to be loaded over."""
    return make_td3_policy(config, box_dims(spaces), torch.Generator())


M2TD3_SPEC = AgentSpec(
    M2TD3Config(),
    M2TD3,
    make_policy,
    "TD3 for the worst of the worlds that adversary vectors find; --agent.soft: SoftM2TD3 (arXiv 2211.03413)",
    needs_worlds=True,
)
