"""TD3's pieces: deterministic policy, smoothed target, delayed updates; for agents whose critics may see more.

Fujimoto, van Hoof, Meger, "Addressing Function Approximation Error in Actor-Critic Methods", arXiv 1802.09477;
docs/derivations/iwocs.md §8.2.

| derivation | paper | here |
|---|---|---|
| (8.2) ã = π̄(s') + clip(ε, −c, c), clipped to the bounds | (14) | `td3.smoothed` |
| (8.3) y = r + γ·min_j Q̄_j(s', ã) | (10), (14) | `td3.TD3Nets.td_target` |
| (8.3) loss of both critics | – | `sac.twin_q_loss` |
| (8.4) deterministic policy gradient, of Q₁ alone | (9) | `td3.policy_loss` |
| (4.8) moving targets, at every second update as the policy | algorithm 1 | `td3.TD3Nets.move_targets` |
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from surefoot.agents.interface import Batch, Setting
from surefoot.agents.parts.acceleration import adam
from surefoot.agents.parts.networks import MLP, TwinQ, soft_update
from surefoot.agents.parts.random import make_generator
from surefoot.agents.parts.state import Stateful


@dataclass(frozen=True)
class TD3UpdateConfig:
    """Defaults: arXiv 1802.09477, with the step sizes and layers of the robust methods that build on it."""

    hidden: tuple[int, ...] = (256, 256)
    """Hidden layer widths of every network."""
    gamma: float = 0.99
    """Discount factor."""
    tau: float = 0.005
    """Polyak averaging rate of the target networks: the weight of the current parameters."""
    policy_lr: float = 3e-4
    """Learning rate of the policy (Adam)."""
    critic_lr: float = 3e-4
    """Learning rate of both critics (Adam)."""
    policy_delay: int = 2
    """Critic updates per update of policy and target networks."""
    exploration_noise: float = 0.1
    """Standard deviation of the exploration noise; actions are in [−1, 1]."""
    target_noise: float = 0.2
    """Standard deviation of the target policy smoothing noise."""
    target_noise_clip: float = 0.5
    """Clipping bound of the smoothing noise."""
    batch_size: int = 256
    """Transitions per update."""


@dataclass(frozen=True)
class TD3Config(TD3UpdateConfig):
    """TD3 that keeps what it experiences."""

    replay_capacity: int = 1_000_000
    """Replay buffer capacity in transitions; the oldest are overwritten."""


def smoothed(x: Tensor, noise: Tensor, std: float, clip: float) -> Tensor:
    """Return clip(x + clip(std·noise, −clip, clip), −1, 1), all of one shape."""
    return (x + (std * noise).clamp(-clip, clip)).clamp(-1, 1)


def policy_loss(q: Tensor) -> Tensor:
    """Return −mean_B Q₁(s, π(s)) of q (2, B)."""
    return -q[0].mean()


class DeterministicPolicy(nn.Module):
    """π(s) = tanh(network); explores by Gaussian noise on the action, clipped to [−1, 1]."""

    def __init__(
        self,
        obs_dim: int,
        action_dim: int,
        hidden: tuple[int, ...],
        exploration_noise: float,
        *,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        self.action_dim, self.exploration_noise = action_dim, exploration_noise
        self.net = MLP(obs_dim, hidden, action_dim, generator=generator)

    def forward(self, obs: Tensor) -> Tensor:
        """Return actions (B, act) of obs (B, obs)."""
        raw: Tensor = self.net(obs)
        return raw.tanh()

    @torch.no_grad()
    def act(self, obs: Tensor, *, explore: bool = False, generator: torch.Generator | None = None) -> Tensor:
        """Return actions (N, act) in [−1, 1]."""
        action: Tensor = self(obs)
        if not explore:
            return action
        noise = torch.randn(action.shape, generator=generator, device=action.device)
        return (action + self.exploration_noise * noise).clamp(-1, 1)


def make_td3_policy(config: TD3UpdateConfig, dims: tuple[int, int], generator: torch.Generator) -> DeterministicPolicy:
    """Return the policy a config describes, for dims of observation and action."""
    return DeterministicPolicy(*dims, config.hidden, config.exploration_noise, generator=generator)


class TD3Nets(Stateful):
    """Policy and twin critics, their targets and optimisers; the critics may see `parameter_dim` numbers more."""

    STATEFUL = ("policy", "target_policy", "critic", "target_critic", "policy_optimiser", "critic_optimiser")

    def __init__(
        self, config: TD3UpdateConfig, setting: Setting, dims: tuple[int, int], *, stream: str, parameter_dim: int = 0
    ) -> None:
        self.config = config
        obs_dim, action_dim = dims
        generator = make_generator(setting.seed, stream)  # on the CPU: the same start on every device
        policy = make_td3_policy(config, dims, generator)
        critic = TwinQ(obs_dim + parameter_dim, action_dim, config.hidden, generator=generator)
        self.policy, self.critic = policy.to(setting.device), critic.to(setting.device)
        self.target_policy, self.target_critic = (
            copy.deepcopy(net).requires_grad_(False) for net in (self.policy, self.critic)
        )
        self.policy_optimiser = adam(self.policy.parameters(), config.policy_lr, setting)
        self.critic_optimiser = adam(self.critic.parameters(), config.critic_lr, setting)

    def owners(self) -> list[Any]:
        """All that an update changes (for `accelerate`)."""
        return [getattr(self, name) for name in self.STATEFUL]

    def td_target(self, batch: Batch, noise: Tensor, next_seen: Tensor | None = None) -> Tensor:
        """Return y (B,); the target critics see `next_seen` (B, obs + parameters), else the next observations."""
        with torch.no_grad():
            config = self.config
            next_action = smoothed(
                self.target_policy(batch.next_obs), noise, config.target_noise, config.target_noise_clip
            )
            seen = batch.next_obs if next_seen is None else next_seen
            next_value: Tensor = self.target_critic(seen, next_action).amin(0)
            return batch.reward + config.gamma * (1 - batch.terminated) * next_value

    def move_targets(self) -> None:
        """Move both targets by τ."""
        soft_update(self.target_policy.parameters(), self.policy.parameters(), self.config.tau)
        soft_update(self.target_critic.parameters(), self.critic.parameters(), self.config.tau)
