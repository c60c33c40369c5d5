"""M2TD3 and SoftM2TD3: TD3 for the worst of a few parameter vectors that adversaries have found.

Tanabe, Sato, Fukuchi, Sakuma, Akimoto, "Max-Min Off-Policy Actor-Critic Method Focusing on Worst-Case Robustness to
Model Misspecification", NeurIPS 2022, arXiv 2211.03413; numbers and rules of their code (akimotolab/M2TD3);
docs/derivations/iwocs.md §8.4.

| derivation | paper | here |
|---|---|---|
| (8.7) y of Q(s, a, ω), with a' and ω' smoothed alike | – | `m2td3.M2TD3.update_critic_eager` |
| (8.8) K adversary vectors ω̂_k, bounded | – | `m2td3.positions` |
| (8.9) l_k = −mean_B Q₁(s, π(s), ω̂_k) | – | `m2td3.adversary_losses` |
| (8.10) the policy lowers max l_k, or softly Σ p_k l_k | – | `m2td3.robust_loss` |
| (8.11) the worst ω̂_k alone lowers mean_B Q₁ | – | `m2td3.M2TD3.update_policy_eager`, `m2td3.adam_step_of` |
| (8.12) p_k: how often ω̂_k was the worst | – | `m2td3.moved_probability` |
| (8.13) ω of an episode, (8.14) its noise | – | `m2td3.sampled_parameters`, `m2td3.M2TD3.noise_scale` |
| (8.15), (8.16) restarts | – | `m2td3.superfluous`, `m2td3.restarted_probability` |
| §6.2 | – | `m2td3.M2TD3Config` |

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

from surefoot.agents.interface import AgentSpec, Episodes, Progress, Setting, Spaces, Style, UncertainEnv
from surefoot.agents.parts.acceleration import accelerate, take_step
from surefoot.agents.parts.budget import plan_collector
from surefoot.agents.parts.env_parameters import BatchWithParameters, ParameterScaling, replay_with_parameters
from surefoot.agents.parts.interaction import RolloutConfig
from surefoot.agents.parts.random import make_generator, normal
from surefoot.agents.parts.ranges import AT_LEAST_0, POSITIVE, check_ranges, optional
from surefoot.agents.parts.state import Stateful
from surefoot.agents.parts.td3 import DeterministicPolicy, TD3Config, TD3Nets, make_td3_policy, smoothed
from surefoot.agents.sac import SAC_SPEC, box_dims, make_collector, twin_q_loss

MIN_PARAMETER_NOISE = 0.1  # where its decay ends


@dataclass(frozen=True)
class M2TD3Config(RolloutConfig, TD3Config):
    """Defaults: the authors' code (§6.2)."""

    soft: bool = False
    """SoftM2TD3: train the policy against the mixture of adversaries instead of the worst one."""
    adversaries: int = 5
    """Number of adversary vectors (K)."""
    adversary_lr: float = 3e-4
    """Learning rate of the adversary vectors (Adam)."""
    restart_probability: float = 0.05
    """Restart an adversary vector that is the worst one less often than this."""
    restart_distance: float = 0.1
    """Restart one of two adversary vectors that are closer than this, in the parameters' own units."""
    parameter_noise: float = 1.0
    """Standard deviation of the noise on the parameters of an episode, as a fraction of half their range."""
    parameter_noise_updates: int | None = None
    """Updates over which the parameter noise is annealed linearly to 0.1 (the authors' SoftM2TD3: half of the budget);
    None: constant."""
    batch_size: int = 100
    """Transitions per update."""
    learning_starts: int = 100_000
    """Environment steps before the first update."""
    random_steps: int = 100_000
    """Environment steps with uniformly random actions and parameters at the start."""

    def __post_init__(self) -> None:
        check_ranges(
            self,
            {
                "adversaries": (lambda x: x >= 2, "at least 2"),
                "adversary_lr": POSITIVE,
                "restart_probability": (lambda x: 0 <= x < 1, "in [0, 1)"),
                "restart_distance": AT_LEAST_0,
                "parameter_noise": (lambda x: x >= MIN_PARAMETER_NOISE, f"at least {MIN_PARAMETER_NOISE}"),
                "parameter_noise_updates": optional(POSITIVE),
            },
        )
        if self.restart_probability * self.adversaries > 1:
            raise ValueError(
                f"--agent.restart-probability {self.restart_probability:g} would restart each of {self.adversaries} "
                f"adversaries after every episode; it must be at most 1/{self.adversaries}, what each has at first"
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


def sampled_parameters(points: Tensor, probability: Tensor, uniform: Tensor, noise: Tensor) -> Tensor:
    """Return parameters (N, d) in [−1, 1]: ω̂_k (K, d), k by uniform numbers (N,) in [0, 1), plus noise (N, d)."""
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
    """TD3 whose critic also takes the parameters; those of every episode are an adversary's."""

    STATEFUL = (
        "nets",
        "raw",
        "m",
        "v",
        "counts",
        "probability",
        "last_length",
        "replay",
        "collector",
        "noise_generator",
        "parameter_generator",
        "updates",
        "restarts",
    )

    def __init__(self, config: M2TD3Config, setting: Setting) -> None:
        assert setting.perturbed_envs is not None, "M2TD3 trains in an uncertainty set"
        self.config, device = config, setting.device
        self.env = cast(UncertainEnv, setting.env)
        self.scaling = ParameterScaling(self.env)
        obs_dim, self.action_dim = box_dims(setting.spaces)
        self.nets = TD3Nets(
            config, setting, (obs_dim, self.action_dim), stream="networks", parameter_dim=self.scaling.dims
        )
        self.parameter_generator = make_generator(setting.seed, "worlds", device)
        self.raw = self.fresh()
        self.m, self.v = torch.zeros_like(self.raw), torch.zeros_like(self.raw)
        self.counts = torch.zeros(config.adversaries, 1, device=device)
        self.probability = torch.full((config.adversaries,), 1 / config.adversaries, device=device)
        self.last_length = torch.tensor(float(self.env.episode_limit or 1000), device=device)
        replay_generator = make_generator(setting.seed, "replay", device)
        dims = (obs_dim, self.action_dim, self.scaling.dims)
        self.replay = replay_with_parameters(config.replay_capacity, dims, replay_generator, device)
        self.env.set_params(self.scaling.params(self.next_parameters(self.env.num_envs, explored=False)))
        self.collector = make_collector(config, setting)
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
        """One step in every environment and the updates it is due."""
        episodes = self.collector.advance(self.policy, self.replay, self.enter)
        for ended in episodes:
            if ended.ended.any():
                self.after(ended)
        update, env_steps = self.collector.take_update()
        if not update:
            return Progress(env_steps, 0, {}, episodes)
        batch = self.replay.sample(self.config.batch_size)
        shapes = [(self.config.batch_size, width) for width in (self.action_dim, self.scaling.dims)]
        metrics = self.update_critic(batch, *normal(self.noise_generator, *shapes))
        self.updates += 1
        if self.updates % self.config.policy_delay == 0:
            metrics |= self.update_policy(batch.obs, 1 / self.last_length)
        return Progress(env_steps, 1, metrics, episodes)

    # --- parameters ---

    def enter(self, obs: Tensor) -> Tensor:
        """Return the parameters (N, d) of the step to come, and set those of the next episodes."""
        explored = self.collector.env_steps >= self.config.random_steps
        self.env.set_params(self.scaling.params(self.next_parameters(len(obs), explored=explored)))
        return self.scaling.scaled(self.env.params)

    def next_parameters(self, num_envs: int, *, explored: bool) -> Tensor:
        """Return parameters (N, d) for episodes to come: the adversaries', or uniform ones at the start."""
        shape = (num_envs, self.scaling.dims)
        if not explored:
            return 2 * torch.rand(shape, generator=self.parameter_generator, device=self.raw.device) - 1
        (noise,) = normal(self.parameter_generator, shape)
        uniform = torch.rand(num_envs, generator=self.parameter_generator, device=self.raw.device)
        return sampled_parameters(positions(self.raw), self.probability, uniform, self.noise_scale() * noise)

    def noise_scale(self) -> float:
        """Return the standard deviation of the noise on parameters, in half ranges."""
        if self.config.parameter_noise_updates is None:
            return self.config.parameter_noise
        left = max(0.0, 1 - self.updates / self.config.parameter_noise_updates)
        return MIN_PARAMETER_NOISE + left * (self.config.parameter_noise - MIN_PARAMETER_NOISE)

    def fresh(self) -> Tensor:
        """Return free numbers (K, d) of adversary vectors drawn uniformly from the box."""
        shape = (self.config.adversaries, self.scaling.dims)
        return torch.rand(shape, generator=self.parameter_generator, device=self.env.low.device).logit(1e-5)

    def after(self, episodes: Episodes) -> None:
        """Take the length of an episode that ended, and restart the adversaries that are of no use."""
        lengths = torch.where(episodes.ended, episodes.length, 0).sum() / episodes.ended.sum()
        self.last_length.copy_(lengths)
        points = self.scaling.params(positions(self.raw))
        limits = {"distance": self.config.restart_distance, "least": self.config.restart_probability}
        stale = superfluous(points, self.probability, **limits)
        self.probability.copy_(restarted_probability(self.probability, stale))
        self.raw.copy_(torch.where(stale[:, None], self.fresh(), self.raw))
        for moment in (self.m, self.v, self.counts):
            moment.masked_fill_(stale[:, None], 0.0)
        self.restarts += int(stale.sum())

    # --- updates ---

    def update_critic_eager(
        self, batch: BatchWithParameters, noise: Tensor, parameter_noise: Tensor
    ) -> dict[str, Tensor]:
        """One gradient step on both critics."""
        config = self.config
        next_parameters = smoothed(batch.parameters, parameter_noise, config.target_noise, config.target_noise_clip)
        next_seen = torch.cat([batch.next_obs, next_parameters], -1)
        y = self.nets.td_target(batch.transitions, noise, next_seen)
        q = self.nets.critic(torch.cat([batch.obs, batch.parameters], -1), batch.action)
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

    def q_in(self, obs: Tensor, action: Tensor, points: Tensor) -> Tensor:
        """Return Q₁(s, a, ω_k) (K, B), without a gradient into the critics."""
        many = len(points)
        seen = torch.cat([obs.repeat(many, 1), points.repeat_interleave(len(obs), 0)], -1)
        q: Tensor = self.nets.critic(seen, action.repeat(many, 1), frozen=True)
        return q[0].view(many, -1)


def make_policy(config: M2TD3Config, spaces: Spaces) -> DeterministicPolicy:
    """Return the policy a config describes; its weights are only there to be loaded over."""
    return make_td3_policy(config, box_dims(spaces), torch.Generator())


M2TD3_SPEC = AgentSpec(
    M2TD3Config(),
    M2TD3,
    make_policy,
    "TD3 against worst-case parameters, found by adversary vectors; --agent.soft: SoftM2TD3 (arXiv 2211.03413)",
    needs_uncertainty_set=True,
    goal="worst case",
    plan=plan_collector,
    page="robust_baselines",
    style=Style("#56B4E9", "-."),
    tiny=SAC_SPEC.tiny
    | {
        "adversaries": 3,
    },
    tiny_env={"id": "surefoot/Pendulum-v0", "max_episode_steps": 15},
)
