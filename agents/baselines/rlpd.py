"""RLPD: Soft Actor-Critic on half offline and half fresh transitions, with a normalised ensemble of critics.

Ball, Smith, Kostrikov, Levine, "Efficient Online Reinforcement Learning with Offline Data", ICML 2023,
arXiv 2302.02948; as the baseline of HNPG (docs/derivations/hnpg.md §9).

| derivation | paper | here |
|---|---|---|
| §9 symmetric sampling: every batch is half offline, half online | – | `RLPD.draw` |
| §9 LayerNorm in the critics (what it bounds: E14) | – | `parts.networks.StackedMLP(layer_norm=True)` |
| (9.1) target from the least of a random subset of the ensemble | – | `ensemble_target` |
| (9.2) loss of the critics | – | `RLPD.update_critic_eager` |
| (9.3), (9.4) losses of actor and temperature | – | `mean_policy_loss`, `sac.temperature_loss` |
| (9.5) targets; several critic updates, then one of the actor | – | `RLPD.step` |

Where this differs, and why:
- HNPG's authors tuned RLPD for their lock and did not state ensemble size or LayerNorm; `configs/rlpd/lock-*.yaml` hold
  their numbers, and the published code's where they leave it open: for sparse rewards that is no entropy in the target.
  Actions are tanh-squashed to [−1, 1], which loses nothing there: the lock picks by softmax(10·a).
- Layers start as PyTorch's, weights and biases U(±1/√fan_in), and LayerNorm's ε is PyTorch's 1e-5; the authors' code
  (`ikostrikov/rlpd`, networks/mlp.py) has Xavier-uniform weights, zero biases and Flax's ε 1e-6.
- The lock presets begin to learn after 1000 steps, none of them uniformly random: ours, HNPG's authors state neither.
- The temperature is learned as log α (see `sac.py`).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from surefoot.agents.interface import AgentSpec, Batch, Progress, Setting, Style
from surefoot.agents.parts.acceleration import accelerate, adam, take_step
from surefoot.agents.parts.budget import plan_collector
from surefoot.agents.parts.interaction import RolloutConfig
from surefoot.agents.parts.networks import StackedMLP, soft_update
from surefoot.agents.parts.random import make_generator, normal
from surefoot.agents.parts.ranges import AT_LEAST_1, check_ranges
from surefoot.agents.parts.replay import join
from surefoot.agents.parts.state import Stateful
from surefoot.agents.sac import (
    SAC_SPEC,
    ActorCriticConfig,
    box_dims,
    make_collector,
    make_policy,
    make_real_replay,
    make_replay,
    temperature_loss,
    twin_q_loss,
)


@dataclass(frozen=True)
class RLPDConfig(RolloutConfig, ActorCriticConfig):
    """Defaults: the authors' code for state-based tasks (§7.2)."""

    batch_size: int = 256
    """Transitions per critic update, half of them from the data."""
    critic_updates: int = 20
    """Critic updates per update of policy and temperature (the update-to-data ratio); `updates_per_step` counts the
    latter."""
    ensemble_size: int = 10
    """Critics in the ensemble."""
    target_subset: int = 2
    """Critics drawn at random for each target, which takes their minimum."""
    layer_norm: bool = True
    """Use LayerNorm in the critics."""
    target_update_interval: int = 1
    """Critic updates between two updates of the target critics."""
    alpha_adam_beta1: float = 0.9
    """β₁ of Adam for the temperature."""
    replay_capacity: int = 1_000_000
    """Capacity of the online replay buffer in transitions."""
    target_entropy: float | None = None
    """Target entropy H̄ of the temperature loss; None: −dim(A)/2."""

    def __post_init__(self) -> None:
        rules = dict.fromkeys(
            ["critic_updates", "ensemble_size", "target_subset", "target_update_interval"], AT_LEAST_1
        )
        rules["batch_size"] = (lambda x: x >= 2 and x % 2 == 0, "even and at least 2")
        rules["alpha_adam_beta1"] = (lambda x: 0 <= x < 1, "in [0, 1)")
        check_ranges(self, rules)
        if self.target_subset > self.ensemble_size:
            raise ValueError(
                f"--agent.target-subset must be at most --agent.ensemble-size {self.ensemble_size}, "
                f"not {self.target_subset}"
            )


# --- the mathematics -------------------------------------------------------------------------------------------------


def ensemble_target(
    batch: Batch, next_q: Tensor, subset: Tensor, gamma: float, alpha: Tensor | None, next_log_prob: Tensor
) -> Tensor:
    """Return y (B,) = r + γ(1 − d)·(min over the subset of Q̄(s', a') − α log π(a'|s')); next_q (E, B), subset (Z,)."""
    value = next_q[subset].amin(0)
    if alpha is not None:
        value = value - alpha * next_log_prob
    return batch.reward + gamma * (1 - batch.terminated) * value


def mean_policy_loss(log_prob: Tensor, q: Tensor, alpha: Tensor) -> Tensor:
    """Return mean_B of α·log π(ã|s) − mean_j Q_j(s, ã), q (E, B): the actor follows the ensemble's mean."""
    return (alpha * log_prob - q.mean(0)).mean()


# --- the agent -------------------------------------------------------------------------------------------------------


class RLPD(Stateful):
    """Off-policy, with an online replay buffer and the data."""

    STATEFUL = (
        "policy",
        "critic",
        "target",
        "log_alpha",
        "policy_optimiser",
        "critic_optimiser",
        "alpha_optimiser",
        "offline",
        "replay",
        "collector",
        "noise_generator",
        "critic_steps",
    )

    def __init__(self, config: RLPDConfig, setting: Setting) -> None:
        self.config, self.device = config, setting.device
        obs_dim, self.action_dim = box_dims(setting.spaces)
        start = make_generator(setting.seed, "networks")
        self.policy = make_policy(config, setting.spaces, start).to(self.device)
        shape = (config.ensemble_size, obs_dim + self.action_dim, config.hidden, 1)
        self.critic = StackedMLP(*shape, generator=start, layer_norm=config.layer_norm).to(self.device)
        self.target = StackedMLP(*shape, generator=start, layer_norm=config.layer_norm).to(self.device)
        self.target.load_state_dict(self.critic.state_dict())
        self.target.requires_grad_(False)
        self.log_alpha = nn.Parameter(torch.tensor(config.initial_alpha, device=self.device).log())
        self.target_entropy = -self.action_dim / 2 if config.target_entropy is None else config.target_entropy
        eps = config.adam_eps
        self.policy_optimiser = adam(self.policy.parameters(), config.policy_lr, setting, eps)
        self.critic_optimiser = adam(self.critic.parameters(), config.critic_lr, setting, eps)
        self.alpha_optimiser = adam([self.log_alpha], config.alpha_lr, setting, eps)
        for group in self.alpha_optimiser.param_groups:
            group["betas"] = (config.alpha_adam_beta1, 0.999)
        self.offline = make_real_replay(setting)
        self.replay = make_replay(config.replay_capacity, setting)
        self.collector = make_collector(config, setting)
        self.noise_generator = make_generator(setting.seed, "update noise", self.device)
        self.critic_steps = 0
        owners = [getattr(self, name) for name in self.STATEFUL[:7]]
        self.update_critic = accelerate(self.update_critic_eager, setting, owners)
        self.update_actor = accelerate(self.update_actor_eager, setting, owners)

    def act(self, obs: Tensor, *, explore: bool = False) -> Tensor:
        """Return actions (N, act) for obs (N, obs): tanh(mean), or a sample."""
        return self.policy.act(obs, explore=explore, generator=self.noise_generator)

    def step(self) -> Progress:
        """One step in every environment, then critic updates and one update of the actor for each that is due."""
        episodes = self.collector.advance(self.policy, self.replay)
        update, env_steps = self.collector.take_update()
        if not update:
            return Progress(env_steps, 0, {}, episodes)
        for _ in range(self.config.critic_updates):
            batch, noise, subset = self.draw()
            metrics = self.update_critic(batch, noise, subset)
            self.critic_steps += 1
            if self.critic_steps % self.config.target_update_interval == 0:
                soft_update(self.target.parameters(), self.critic.parameters(), self.config.tau)
        metrics |= self.update_actor(batch, self.noise())
        return Progress(env_steps, 1, metrics, episodes)

    def draw(self) -> tuple[Batch, Tensor, Tensor]:
        """Return a batch, half offline (first) and half fresh, noise for its next actions, and a subset of critics."""
        half = self.config.batch_size // 2
        batch = join(self.offline.sample(half), self.replay.sample(half))
        order = torch.rand(self.config.ensemble_size, generator=self.noise_generator, device=self.device).argsort()
        return batch, self.noise(), order[: self.config.target_subset]

    def noise(self) -> Tensor:
        return normal(self.noise_generator, (self.config.batch_size, self.action_dim))[0]

    def update_critic_eager(self, batch: Batch, noise: Tensor, subset: Tensor) -> dict[str, Tensor]:
        """One gradient step on all critics; losses of the two halves apart."""
        config, half = self.config, self.config.batch_size // 2
        with torch.no_grad():
            next_action, next_log_prob = self.policy.sample(batch.next_obs, noise)
            next_q = self.target(torch.cat([batch.next_obs, next_action], -1)).squeeze(-1)
            alpha = self.log_alpha.exp() if config.entropy_in_target else None
            y = ensemble_target(batch, next_q, subset, config.gamma, alpha, next_log_prob)
        q = self.critic(torch.cat([batch.obs, batch.action], -1)).squeeze(-1)
        take_step([self.critic_optimiser], twin_q_loss(q, y) / config.ensemble_size)
        error = (q.detach() - y).square()
        return {"offline_loss": error[:, :half].mean(), "online_loss": error[:, half:].mean(), "q": q.detach().mean()}

    def update_actor_eager(self, batch: Batch, noise: Tensor) -> dict[str, Tensor]:
        """One gradient step on policy and temperature."""
        alpha = self.log_alpha.detach().exp()
        action, log_prob = self.policy.sample(batch.obs, noise)
        q = self.critic(torch.cat([batch.obs, action], -1), frozen=True).squeeze(-1)
        actor_loss = mean_policy_loss(log_prob, q, alpha)
        alpha_loss = temperature_loss(self.log_alpha, log_prob, self.target_entropy)
        take_step([self.policy_optimiser, self.alpha_optimiser], actor_loss + alpha_loss)
        return {"policy_loss": actor_loss.detach(), "alpha": alpha, "entropy": -log_prob.detach().mean()}


RLPD_SPEC = AgentSpec(
    RLPDConfig(),
    RLPD,
    make_policy,
    "Soft Actor-Critic on half offline, half online data (arXiv 2302.02948)",
    needs_data=True,
    plan=plan_collector,
    page="hnpg",
    style=Style("#009E73", "--"),
    tiny=SAC_SPEC.tiny
    | {
        "ensemble_size": 3,
        "critic_updates": 2,
        "target_update_interval": 3,
    },
)
