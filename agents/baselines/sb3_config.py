"""Settings of Stable-Baselines3's SAC, TD3 and PPO, under the library's own names."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from surefoot.agents.interface import Budget, Plan
from surefoot.agents.parts.budget import (
    counted,
    require_room,
    require_updates,
    require_warm_up,
    rounded_up,
    whole_iterations,
)
from surefoot.agents.parts.ranges import AT_LEAST_0, POSITIVE, UNIT_INTERVAL, Rule, check_ranges, optional


@dataclass(frozen=True)
class SB3SACConfig:
    """Defaults: `stable_baselines3.SAC`."""

    net_arch: tuple[int, ...] = (256, 256)
    """Hidden layer widths of actor and critics."""
    learning_rate: float = 3e-4
    """Learning rate of all networks and of the entropy coefficient (Adam)."""
    buffer_size: int = 1_000_000
    """Replay buffer capacity in transitions."""
    learning_starts: int = 100
    """Environment steps with uniformly random actions, without updates, at the start."""
    batch_size: int = 256
    """Transitions per update."""
    tau: float = 0.005
    """Polyak averaging rate of the target critics (τ): the weight of the current parameters."""
    gamma: float = 0.99
    """Discount factor."""
    train_freq: int = 1
    """Vector-environment steps between two rounds of updates."""
    gradient_steps: int = 1
    """Gradient updates per round; -1: as many as environment steps were taken."""
    ent_coef: str = "auto"
    """Entropy coefficient: a number, `auto` (learned) or `auto_0.1` (learned, starting from 0.1)."""
    target_update_interval: int = 1
    """Updates between two updates of the target critics."""
    target_entropy: str = "auto"
    """Target entropy: a number, or `auto`: −dim(A)."""

    def __post_init__(self) -> None:
        _check(self)


@dataclass(frozen=True)
class SB3TD3Config:
    """Defaults: `stable_baselines3.TD3`, but for `action_noise`: TD3 does not explore without it."""

    net_arch: tuple[int, ...] = (400, 300)
    """Hidden layer widths of actor and critics."""
    learning_rate: float = 1e-3
    """Learning rate (Adam)."""
    buffer_size: int = 1_000_000
    """Replay buffer capacity in transitions."""
    learning_starts: int = 100
    """Environment steps with uniformly random actions, without updates, at the start."""
    batch_size: int = 256
    """Transitions per update."""
    tau: float = 0.005
    """Polyak averaging rate of the target networks (τ): the weight of the current parameters."""
    gamma: float = 0.99
    """Discount factor."""
    train_freq: int = 1
    """Vector-environment steps between two rounds of updates."""
    gradient_steps: int = 1
    """Gradient updates per round; -1: as many as environment steps were taken."""
    policy_delay: int = 2
    """Critic updates per actor update."""
    target_policy_noise: float = 0.2
    """Standard deviation of the target policy smoothing noise."""
    target_noise_clip: float = 0.5
    """Clipping bound of the smoothing noise."""
    action_noise: float = 0.1
    """Standard deviation of the Gaussian exploration noise (TD3's paper, section 6.1; the library's default is
    none)."""

    def __post_init__(self) -> None:
        _check(self)


@dataclass(frozen=True)
class SB3PPOConfig:
    """Defaults: `stable_baselines3.PPO`."""

    net_arch: tuple[int, ...] = (64, 64)
    """Hidden layer widths of actor and critic."""
    learning_rate: float = 3e-4
    """Learning rate (Adam)."""
    n_steps: int = 2048
    """Vector-environment steps per rollout."""
    batch_size: int = 64
    """Transitions per minibatch."""
    n_epochs: int = 10
    """Epochs over each rollout; the library counts these as updates."""
    gamma: float = 0.99
    """Discount factor."""
    gae_lambda: float = 0.95
    """λ of generalised advantage estimation (GAE)."""
    clip_range: float = 0.2
    """Clipping range of the probability ratio."""
    normalize_advantage: bool = True
    """Normalise the advantages of each minibatch."""
    ent_coef: float = 0.0
    """Coefficient of the entropy bonus."""
    vf_coef: float = 0.5
    """Coefficient of the value loss."""
    max_grad_norm: float = 0.5
    """Gradient norm that gradients are clipped to."""
    target_kl: float | None = None
    """Stop the epochs of a rollout when the KL divergence exceeds 1.5 times this; None: never."""

    def __post_init__(self) -> None:
        _check(self)


SB3Config = SB3SACConfig | SB3TD3Config | SB3PPOConfig


def _check(config: Any) -> None:
    """Raise `ValueError` where the library would fail later and less clearly."""
    positive = ("buffer_size", "train_freq", "n_steps", "n_epochs", "target_update_interval", "max_grad_norm")
    not_negative = ("clip_range", "ent_coef", "vf_coef", "action_noise", "target_policy_noise")
    rules: dict[str, Rule] = dict.fromkeys(positive, POSITIVE) | dict.fromkeys(not_negative, AT_LEAST_0)
    rules |= {"gae_lambda": UNIT_INTERVAL, "target_kl": optional(POSITIVE)}
    rules["gradient_steps"] = (lambda x: x == -1 or x >= 1, "at least 1, or -1")
    if isinstance(getattr(config, "ent_coef", None), str):
        rules["ent_coef"] = (_is_number_or_auto, "auto, auto_NUMBER or a number")
        rules["target_entropy"] = (lambda x: x == "auto" or _is_number(x), "auto or a number")
    check_ranges(config, rules)


def _is_number_or_auto(text: str) -> bool:
    return text == "auto" or _is_number(text.removeprefix("auto_"))


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


def plan_off_policy(config: SB3SACConfig | SB3TD3Config, budget: Budget) -> Plan:
    """Return what will run: rounds of `train_freq` vector steps, and their updates once learning starts."""
    require_warm_up(config, budget.steps)
    freq = config.train_freq * budget.num_envs
    require_room(config, freq, "buffer_size")
    steps, idle = rounded_up(budget.steps, freq), config.learning_starts // freq * freq
    updates = (steps - idle) // freq * (freq if config.gradient_steps < 0 else config.gradient_steps)
    require_updates(updates, budget.steps, f"--agent.gradient-steps is {config.gradient_steps}")
    acting = f"{steps:,} environment steps, the first {config.learning_starts:,} random and without updates"
    return Plan(steps, updates, (acting, counted(updates, "update")))


def plan_ppo(config: SB3PPOConfig, budget: Budget) -> Plan:
    """Return what will run: whole rollouts, each with its epochs."""
    rollout = config.n_steps * budget.num_envs
    iterations = whole_iterations(budget, rollout, f"--agent.n-steps {config.n_steps} in every environment")
    if config.batch_size > rollout:
        raise ValueError(
            f"--agent.batch-size is {config.batch_size}, more than a rollout of {rollout} steps (--agent.n-steps "
            f"{config.n_steps}); lower it to {rollout}"
        )
    updates = None if config.target_kl else iterations * config.n_epochs
    unit = f"{counted(iterations, 'rollout')} of {rollout:,} steps with {counted(config.n_epochs, 'epoch')} each"
    return Plan(iterations * rollout, updates, (unit,))
