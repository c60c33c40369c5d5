"""Soft Actor-Critic with a learned temperature: the backbone of the suite.

Haarnoja et al., "Soft Actor-Critic Algorithms and Applications", arXiv 1812.05905. Derivation:
docs/derivations/h2o.md §2.

| derivation | paper | here |
|---|---|---|
| (2.1), (2.2) tanh-Gaussian policy | appendix C | `parts.networks.TanhGaussianPolicy` |
| (2.3), (2.4) its log-density | appendix C | `parts.networks.tanh_gaussian_log_prob` |
| (2.5), without entropy (2.6): soft value in the target | (3), (6) | `soft_target` |
| (2.7) critic loss J_Q; over two domains (H2O) in (4.8) | (5) | `twin_q_loss`; `two_domain_loss` |
| (2.8) policy loss J_π | (7) | `policy_loss` |
| (2.9) temperature loss J(α) | (17), (18) | `temperature_loss` |
| (2.10) target critics | – | `parts.networks.soft_update` |

Where this differs, and why:
- The critic loss has no factor ½ (H2O's weights β and w are read against that scale); Adam does not notice.
- All losses of an update are computed from the same parameters before any of them moves, so that one policy sample of
  `obs` serves actor and temperature, and so that H2O without its additions is this update bit for bit.
- J(α) uses log α in place of α, as the authors' later code and Stable-Baselines3 do: α cannot become negative.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import gymnasium as gym
import torch
from torch import Tensor, nn

from surefoot.agents.interface import AgentSpec, Batch, Progress, Setting, Spaces, Style
from surefoot.agents.parts.acceleration import accelerate, adam, step_all, take_step
from surefoot.agents.parts.budget import plan_collector
from surefoot.agents.parts.engine import actor_critic
from surefoot.agents.parts.interaction import Collector, Interaction, RolloutConfig
from surefoot.agents.parts.networks import LOG_STD_MIN, TanhGaussianPolicy, TwinQ, soft_update
from surefoot.agents.parts.random import make_generator, normal
from surefoot.agents.parts.ranges import check_ranges
from surefoot.agents.parts.replay import FixedReplay, Replay
from surefoot.agents.parts.seeds import Due
from surefoot.agents.parts.state import Stateful


@dataclass(frozen=True)
class PolicyConfig:
    """The tanh-Gaussian policy."""

    hidden: tuple[int, ...] = (256, 256)
    """Hidden layer widths of every network."""
    policy_lr: float = 3e-4
    """Learning rate of the policy (Adam)."""
    log_std_offset: float = 0.0
    """c₂ in log std = c₁·raw + c₂, raw the network's output."""
    learn_log_std_affine: bool = False
    """Learn c₁ and c₂ along with the weights."""
    log_std_min: float = LOG_STD_MIN
    """Lower bound of the policy's log std."""
    last_layer_gain: float | None = None
    """Gain of the Xavier initialisation of the output layers of policy and critics; None: PyTorch's default."""

    def __post_init__(self) -> None:
        check_ranges(self)


@dataclass(frozen=True)
class ActorCriticConfig(PolicyConfig):
    """Policy, twin critics and temperature. Defaults: arXiv 1812.05905, table 1 (appendix D)."""

    gamma: float = 0.99
    """Discount factor."""
    tau: float = 0.005
    """Polyak averaging rate of the target critics, applied at every update: the weight of the current parameters."""
    critic_lr: float = 3e-4
    """Learning rate of both critics (Adam)."""
    alpha_lr: float = 3e-4
    """Learning rate of log α (Adam)."""
    adam_eps: float = 1e-8
    """ε of the Adam optimisers."""
    initial_alpha: float = 1.0
    """Initial temperature α."""
    target_entropy: float | None = None
    """Target entropy H̄ of the temperature loss; None: −dim(A)."""
    entropy_in_target: bool = True
    """Include the entropy term −α·log π(a'|s') in the TD targets."""


@dataclass(frozen=True)
class SACConfig(RolloutConfig, ActorCriticConfig):
    """Soft Actor-Critic."""

    batch_size: int = 256
    """Transitions per update."""
    replay_capacity: int = 1_000_000
    """Replay buffer capacity in transitions; the oldest are overwritten."""


# --- the mathematics -------------------------------------------------------------------------------------------------


def soft_target(
    batch: Batch, policy: TanhGaussianPolicy, target: TwinQ, noise: Tensor, gamma: float, alpha: Tensor | None
) -> Tensor:
    """Return y = r + γ(1 − d)·(min_j Q̄_j(s', a') − α log π(a'|s')) (B,), a' ~ π; no entropy for alpha None."""
    with torch.no_grad():
        next_action, next_log_prob = policy.sample(batch.next_obs, noise)
        next_value: Tensor = target(batch.next_obs, next_action).amin(0)
        if alpha is not None:
            next_value = next_value - alpha * next_log_prob
        return batch.reward + gamma * (1 - batch.terminated) * next_value


def twin_q_loss(q: Tensor, y: Tensor, weight: Tensor | None = None) -> Tensor:
    """Return Σ_j mean_B w·(Q_j − y)² of q (2, B) and y (B,); the mean divides by B, not by Σw."""
    error = (q - y).square()
    return (error if weight is None else weight * error).mean(-1).sum()


def two_domain_loss(q: Tensor, y: Tensor, real_rows: int, sim_weight: Tensor | None = None) -> Tensor:
    """Return Σ_j of mean_real (Q_j − y)² + mean_sim w·(Q_j − y)²; `real_rows` rows of q (2, B), y (B,) come first.

    Two means (H2O, arXiv 2206.13464): each domain weighs the same, whatever its fraction of the batch.
    """
    sim = twin_q_loss(q[:, real_rows:], y[real_rows:], sim_weight)
    return twin_q_loss(q[:, :real_rows], y[:real_rows]) + sim if real_rows else sim


def policy_loss(log_prob: Tensor, q: Tensor, alpha: Tensor) -> Tensor:
    """Return mean_B of α·log π(ã|s) − min_j Q_j(s, ã), q (2, B)."""
    return (alpha * log_prob - q.amin(0)).mean()


def temperature_loss(log_alpha: Tensor, log_prob: Tensor, target_entropy: float) -> Tensor:
    """Return −log α · mean_B(log π(ã|s) + H̄); no gradient into the policy."""
    return -log_alpha * (log_prob.detach() + target_entropy).mean()


# --- networks and their optimisers -----------------------------------------------------------------------------------


def box_dims(spaces: Spaces) -> tuple[int, int]:
    """Return (obs, act) widths; `ValueError` for a task whose actions are not a continuous vector."""
    observation, action = spaces
    if not isinstance(action, gym.spaces.Box):
        raise ValueError(f"this agent needs a continuous (Box) action space, not {action}; choose another --env.id")
    if not isinstance(observation, gym.spaces.Box) or len(observation.shape) != 1:
        raise ValueError(f"this agent needs vector (Box) observations, not {observation}; choose another --env.id")
    return observation.shape[0], action.shape[0]


def make_policy(config: Any, spaces: Spaces, generator: torch.Generator | None = None) -> TanhGaussianPolicy:
    """Return the policy a config describes; without a generator its weights are only there to be loaded over."""
    obs_dim, action_dim = box_dims(spaces)
    return TanhGaussianPolicy(
        obs_dim,
        action_dim,
        config.hidden,
        generator=generator or torch.Generator(),
        log_std_offset=config.log_std_offset,
        learn_log_std_affine=config.learn_log_std_affine,
        log_std_min=config.log_std_min,
        last_gain=config.last_layer_gain,
    )


class ActorCritic(Stateful):
    """Policy, twin critics, their targets and the temperature, each with its optimiser."""

    STATEFUL = (
        "policy",
        "critic",
        "target",
        "log_alpha",
        "policy_optimiser",
        "critic_optimiser",
        "alpha_optimiser",
    )

    def __init__(self, config: ActorCriticConfig, setting: Setting) -> None:
        self.config = config
        obs_dim, action_dim = box_dims(setting.spaces)
        generator = make_generator(setting.seed, "networks")  # on the CPU: the same start on every device
        self.policy = make_policy(config, setting.spaces, generator).to(setting.device)
        critic = TwinQ(obs_dim, action_dim, config.hidden, generator=generator, last_gain=config.last_layer_gain)
        self.critic = critic.to(setting.device)
        self.target = copy.deepcopy(self.critic).requires_grad_(False)
        self.log_alpha = nn.Parameter(torch.tensor(config.initial_alpha, device=setting.device).log())
        self.target_entropy = -float(action_dim) if config.target_entropy is None else config.target_entropy
        eps = config.adam_eps
        self.policy_optimiser = adam(self.policy.parameters(), config.policy_lr, setting, eps)
        self.critic_optimiser = adam(self.critic.parameters(), config.critic_lr, setting, eps)
        self.alpha_optimiser = adam([self.log_alpha], config.alpha_lr, setting, eps)

    @property
    def alpha(self) -> Tensor:
        """α, without a gradient."""
        return self.log_alpha.detach().exp()

    def td_target(self, batch: Batch, noise: Tensor) -> Tensor:
        """Return y (B,), with the entropy if the config includes it."""
        alpha = self.alpha if self.config.entropy_in_target else None
        return soft_target(batch, self.policy, self.target, noise, self.config.gamma, alpha)

    def actor_loss(self, obs: Tensor, noise: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Return policy loss plus temperature loss, from one sample ã ~ π(·|s) per row, and what to log."""
        alpha = self.alpha
        action, log_prob = self.policy.sample(obs, noise)
        of_policy = policy_loss(log_prob, self.critic(obs, action, frozen=True), alpha)
        of_alpha = temperature_loss(self.log_alpha, log_prob, self.target_entropy)
        metrics = {"policy_loss": of_policy.detach(), "alpha": alpha, "entropy": -log_prob.detach().mean()}
        return of_policy + of_alpha, metrics

    def descend(self, loss: Tensor) -> None:
        """Take one step of every optimiser down the sum of all losses, then move the targets.

        No two losses reach the same parameters, so one backward pass gives each its own gradient: of several, all but
        the first would be computed outside of what `torch.compile` made.
        """
        take_step([self.alpha_optimiser, self.policy_optimiser, self.critic_optimiser], loss)
        soft_update(self.target.parameters(), self.critic.parameters(), self.config.tau)

    # -- the same by hand, on kernels: gradients are added to those of the parameters, which begin at zero. Of S seeds
    # side by side (`parts.seeds`) rows have a first axis S, and losses and metrics are (S,)

    def native_td_target(self, batch: Batch, noise: Tensor) -> Tensor:
        """Return what `td_target` does."""
        action, log_prob, _ = self.policy.record(batch.next_obs, noise, keep=False)
        q, _ = self.target.record(_seen(batch.next_obs, action), keep=False)
        log_alpha = self.log_alpha if self.config.entropy_in_target else None
        return actor_critic.soft_target(batch, q, log_prob, self.config.gamma, log_alpha)

    def backpropagate_critic(self, obs: Tensor, action: Tensor, y: Tensor) -> dict[str, Tensor]:
        """Do what `twin_q_loss` and its backward pass do; return what to log."""
        q, tape = self.critic.record(_seen(obs, action))
        by_q, loss, mean = actor_critic.squared_error(q, y)
        self.critic.backpropagate(tape, by_q)
        return {"critic_loss": loss, "q": mean}

    def backpropagate_through(
        self, obs: Tensor, action: Tensor, loss: Callable[[Tensor], tuple[Tensor, dict[str, Tensor]]]
    ) -> dict[str, Tensor]:
        """Add the gradient of any `loss` of Q (2, B), which returns it and what to log; autograd sees nothing else."""
        q, tape = self.critic.record(_seen(obs, action))
        values = q.view(*obs.shape[:-2], 2, -1).requires_grad_()
        value, metrics = loss(values)
        value.sum().backward()
        assert values.grad is not None
        self.critic.backpropagate(tape, values.grad.view(q.shape))
        return metrics

    def backpropagate_actor(self, obs: Tensor, noise: Tensor) -> dict[str, Tensor]:
        """Do what `actor_loss` and its backward pass do; return what to log."""
        action, log_prob, policy_tape = self.policy.record(obs, noise)
        q, tape = self.critic.record(_seen(obs, action))
        by_q, by_log_prob, metrics = actor_critic.actor_objective(q, log_prob, self.log_alpha, self.target_entropy)
        columns = (obs.shape[-1], obs.shape[-1] + action.shape[-1])
        by_action = self.critic.backpropagate(tape, by_q, weights=False, columns=columns)
        of_each = by_action.view(*obs.shape[:-2], 2, *action.shape[-2:])
        self.policy.backpropagate(policy_tape, of_each.select(-3, 0) + of_each.select(-3, 1), by_log_prob)
        return metrics

    def step(self) -> None:
        """Take one step of every optimiser along the gradients there are, then move the targets."""
        step_all([self.alpha_optimiser, self.policy_optimiser])
        self.critic_optimiser.take(self.target.weights[0].flat.values, self.config.tau)  # type: ignore[attr-defined]

    def owners(self) -> list[Any]:
        """All that `descend` changes (for `accelerate`)."""
        return [getattr(self, name) for name in self.STATEFUL]


def _seen(obs: Tensor, action: Tensor) -> Tensor:
    """Return what both critics see (B, obs + act), or what each of S pairs of critics does (S·2, B, obs + act)."""
    rows = torch.cat([obs, action], -1)
    return rows if rows.dim() == 2 else rows.repeat_interleave(2, 0)


# --- the agent -------------------------------------------------------------------------------------------------------


class SACNoise(NamedTuple):
    """Standard normal numbers of one update."""

    policy: Tensor  # (B, act)
    target: Tensor  # (B, act)


class SAC(Stateful):
    """Off-policy maximum-entropy actor-critic on one vector environment."""

    STATEFUL = ("nets", "replay", "collector", "noise_generator")
    PER_SEED = ()

    def __init__(self, config: SACConfig, setting: Setting) -> None:
        self.config = config
        self.nets = ActorCritic(config, setting)
        _, self.action_dim = box_dims(setting.spaces)
        self.replay = make_replay(config.replay_capacity, setting)
        self.collector = make_collector(config, setting)
        self.noise_generator = make_generator(setting.seed, "update noise", setting.device)
        self.update = accelerate(self.update_eager, setting, self.nets.owners(), by_hand=self.update_by_hand)

    @property
    def policy(self) -> TanhGaussianPolicy:
        return self.nets.policy

    def act(self, obs: Tensor, *, explore: bool = False) -> Tensor:
        """Return actions (N, act) for obs (N, obs): tanh(mean), or a sample."""
        return self.policy.act(obs, explore=explore, generator=self.noise_generator)

    def step(self) -> Progress:
        """One step in every environment and the updates it is due."""
        due = self.gather()
        return due.progress({} if due.inputs is None else self.update(*due.inputs))

    def gather(self) -> Due:
        """`step` but for the update."""
        episodes = self.collector.advance(self.policy, self.replay)
        update, env_steps = self.collector.take_update()
        if not update:
            return Due(None, env_steps, episodes)
        batch = self.replay.sample(self.config.batch_size)
        shape = (self.config.batch_size, self.action_dim)
        return Due((batch, SACNoise(*normal(self.noise_generator, shape, shape))), env_steps, episodes)

    def update_eager(self, batch: Batch, noise: SACNoise) -> dict[str, Tensor]:
        """One gradient step on everything."""
        nets = self.nets
        y = nets.td_target(batch, noise.target)
        q = nets.critic(batch.obs, batch.action)
        critic_loss = twin_q_loss(q, y)
        actor_loss, metrics = nets.actor_loss(batch.obs, noise.policy)
        nets.descend(critic_loss + actor_loss)
        return {"critic_loss": critic_loss.detach(), "q": q.detach().mean(), **metrics}

    def update_by_hand(self, batch: Batch, noise: SACNoise) -> dict[str, Tensor]:
        """`update_eager` without autograd."""
        nets = self.nets
        y = nets.native_td_target(batch, noise.target)
        metrics = nets.backpropagate_critic(batch.obs, batch.action, y)
        metrics |= nets.backpropagate_actor(batch.obs, noise.policy)
        nets.step()
        return metrics


def make_replay(capacity: int, setting: Setting) -> Replay:
    """Return an empty replay for what the agent will experience."""
    generator = make_generator(setting.seed, "replay", setting.device)
    return Replay(capacity, *box_dims(setting.spaces), generator, setting.device)


def make_real_replay(setting: Setting) -> FixedReplay:
    """Return the offline data of a setting as a replay."""
    assert setting.data is not None, "an agent that reads data needs some"
    return FixedReplay(setting.data, make_generator(setting.seed, "real replay", setting.device), setting.device)


def make_collector(config: Any, setting: Setting) -> Collector:
    """Return the acting half of an off-policy agent."""
    assert setting.env is not None, "an online agent needs an environment"
    return Collector(
        Interaction(setting.env, setting.seed),
        make_generator(setting.seed, "acting", setting.device),
        config,
    )


SAC_SPEC = AgentSpec(
    SACConfig(),
    SAC,
    make_policy,
    "Soft Actor-Critic, on any task with continuous actions",
    plan=plan_collector,
    page="sac",
    style=Style("#E69F00", "-"),
    tiny={
        "hidden": (8, 8),
        "batch_size": 8,
        "learning_starts": 16,
        "random_steps": 10,
        "rollout_steps": 4,
        "replay_capacity": 400,
    },
)
