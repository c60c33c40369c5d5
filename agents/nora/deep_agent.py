"""Deep NORA and NOAH*: rare switching, resets and optimism with a neural critic, on any task with discrete actions.

Tan, Fan, Wei, "Actor-Critics Can Achieve Optimal Sample Efficiency", ICML 2025, arXiv 2505.03710, in the form of brief
optimistic_actor_critic.md, section 5: the paper's recipe for networks is not known to us, so this design is ours. What
it keeps of the paper (5.1): max-targets by the optimistic critic on all data, a critic and bonus that are frozen until
the data ask for a refresh, an actor that is uniform again after it and climbs the frozen critic in closed form.

| brief | here |
|---|---|
| 5.2 ψ, Λ_{h,a}, its log-determinant | `deep_critic.unit_features`, `add_outer`, `log_det` |
| 5.2 b = β √(ψᵀΛ⁻¹ψ), added at read-out | `deep_critic.elliptical`, `DeepCritic.forward` |
| 5.2 fitted Q-iteration with clipped max-targets | `DeepCritic.fit`, `max_targets` |
| 5.2 switch test by g ≥ κ, `max_gap`; by loss; by Σ b² | `DeepNORA.drifted`, `DeepCritic.excess_loss` |
| 5.2 π ∝ exp(η k Q̄) | `soft_exponents`, `DeepPolicy` |
| 5.4 deep NOAH*, offline data in replay and Λ from episode 0 | `beta` 0, `DeepNORA.take_data` |

Where this differs from the brief, and why:
- β and η are relative to the value range, so that one preset serves tasks of other scales.
- Targets are computed for all data every `target_steps`, which is the same as a target network and needs no copy.
- With several lanes each plays episodes of its own, and the test is made when the first of them ends one.
- Box actions (5.3, a sketch that nobody has tested) are not offered.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import gymnasium as gym
import torch
from torch import Tensor, nn

from surefoot.agents.interface import AgentSpec, Batch, Episodes, OfflineData, Progress, Setting, Spaces
from surefoot.agents.nora.deep_critic import CriticConfig, DeepCritic, Rows, add_outer, log_det
from surefoot.agents.parts.heads import CategoricalHead
from surefoot.agents.parts.interaction import Interaction
from surefoot.agents.parts.on_policy import require_clock
from surefoot.agents.parts.random import make_generator
from surefoot.agents.parts.ranges import AT_LEAST_0, AT_LEAST_1, POSITIVE, check_ranges, optional
from surefoot.agents.parts.replay import Replay
from surefoot.agents.parts.state import Stateful

SLACK = 1e-4  # of the value range: float32 rewards add up to this much more than it says


@dataclass(frozen=True)
class DeepNORAConfig(CriticConfig):
    """Defaults: brief, section 5.5."""

    eta: float = 50.0
    """η times the value range, step size of mirror ascent."""
    switch: Literal["determinant", "loss"] = "determinant"
    """What asks for a refresh: growth of Σ log det Λ (of Σ b²/β² with an ensemble), or of the excess loss."""
    kappa: float = 3.0
    """κ, growth of the log-determinant, in nats, that does; 2 to 10."""
    switch_ratio: float = 5.0
    """Multiple of the excess loss right after the last refresh that does, with `switch` "loss"."""
    loss_slack: float = 0.1
    """σ²·d_eff, added to that multiple: excess that noise explains, in squared value ranges."""
    max_gap: int = 50
    """Episodes after which the critic is refreshed in any case."""
    reward_range: tuple[float, float] | None = None
    """Bounds of one step's reward, from which the clip range is made; None: the task's own, tighter `value_range`."""
    replay_capacity: int = 100_000
    """Transitions kept, recorded ones included; the oldest are overwritten."""

    def __post_init__(self) -> None:
        rules: dict[str, Any] = dict.fromkeys(["beta", "prior_scale", "loss_slack"], AT_LEAST_0)
        rules |= dict.fromkeys(["critic_steps", "target_steps", "max_gap", "features"], AT_LEAST_1)
        rules |= dict.fromkeys(["eta", "kappa", "lam"], POSITIVE)
        rules |= dict.fromkeys(["horizon", "step_groups"], optional(AT_LEAST_1))
        rules |= {"members": (lambda x: x >= 2, "at least 2"), "switch_ratio": (lambda x: x > 1, "above 1")}
        rules |= {"reward_range": optional((lambda x: x[0] < x[1], "LOW below HIGH"))}
        check_ranges(self, rules)


# --- the mathematics -------------------------------------------------------------------------------------------------


def soft_exponents(values: Tensor, eta: float, updates: Tensor, width: Tensor) -> Tensor:
    """Return η k Q̄/(vmax − vmin) (B, A), of which the policy is the softmax after k steps on a frozen critic."""
    return eta / width * updates * values


def sums_range(env: Any, horizon: int, reward_range: tuple[float, float] | None) -> tuple[Tensor, Tensor]:
    """Return the least and the largest sum of rewards from each step on, (H,) each: the clip range.

    Raises `ValueError` where neither the task nor the configuration tells, or the task has another horizon.
    """
    if reward_range is not None:
        left = torch.arange(horizon, 0, -1, dtype=torch.float32)
        return reward_range[0] * left, reward_range[1] * left
    if not hasattr(env, "value_range"):
        raise ValueError(
            "this task declares no range of values; pass --agent.reward-range LOW HIGH, of a step's reward"
        )
    low, high = (bound.float() for bound in env.value_range)
    if len(low) != horizon:
        raise ValueError(f"agent.horizon is {horizon}, but the task's episodes take {len(low)} steps; make them agree")
    return low, high


# --- the policy ------------------------------------------------------------------------------------------------------


class DeepPolicy(nn.Module):
    """softmax(η k Q̄_h(s, ·)) of a frozen critic. An observation's last coordinate is the step h."""

    updates: Tensor

    def __init__(self, config: DeepNORAConfig, spaces: Spaces, generator: torch.Generator) -> None:
        super().__init__()
        if not isinstance(spaces.action, gym.spaces.Discrete):
            raise ValueError(f"nora-deep needs Discrete actions, not {spaces.action}; choose another env.id")
        require_clock(spaces)
        assert spaces.observation.shape is not None
        self.head, self.eta = CategoricalHead(int(spaces.action.n), int(spaces.action.start)), config.eta
        self.critic = DeepCritic(config, spaces.observation.shape[0] - 1, self.head.dim, generator)
        self.register_buffer("updates", torch.zeros(()))  # k, mirror steps since the last reset

    def exponents(self, obs: Tensor) -> Tensor:
        """Return the logits (B, A) of observations with their clock (B, O + 1)."""
        step = obs[:, -1].long().clamp(0, self.critic.horizon - 1)
        width = self.critic.high[0] - self.critic.low[0]
        return soft_exponents(self.critic(obs[:, :-1], step), self.eta, self.updates, width)

    @torch.no_grad()
    def act(self, obs: Tensor, *, explore: bool = False, generator: torch.Generator | None = None) -> Tensor:
        """Return actions (B,) for obs (B, O + 1): the most likely, or drawn from the policy if `explore`."""
        exponents = self.exponents(obs)
        return self.head.to_task(self.head.sample(exponents, generator) if explore else self.head.mode(exponents))


def make_policy(config: DeepNORAConfig, spaces: Spaces) -> DeepPolicy:
    """Return the policy a config describes; its weights are only there to be loaded over."""
    return DeepPolicy(config, spaces, torch.Generator())


# --- the agent -------------------------------------------------------------------------------------------------------


class DeepNORA(Stateful):
    """One `step` plays until an episode ends, one episode where there is one lane; before it the switch test."""

    STATEFUL = (
        "start",
        "policy",
        "covariance",
        "interaction",
        "replay",
        "generator",
        "growth",
        "frozen_log_det",
        "fresh_excess",
        "fit_loss",
        "episodes",
        "refreshes",
    )

    def __init__(self, config: DeepNORAConfig, setting: Setting) -> None:
        assert setting.env is not None, "deep NORA needs an environment"
        if setting.compile or setting.cudagraph:
            raise ValueError("this agent has no compiled or captured form; leave --compile and --cudagraph out")
        self.config, self.device = config, setting.device
        self.start = make_generator(setting.seed, "networks")  # on the CPU: the same weights on every device
        self.policy = DeepPolicy(config, setting.spaces, self.start).to(self.device).requires_grad_(False)
        self.critic, self.head = self.policy.critic, self.policy.head
        low, high = sums_range(setting.env, self.critic.horizon, config.reward_range)
        self.critic.low.copy_(low), self.critic.high.copy_(high)
        self.covariance = self.critic.empty_covariance()
        self.interaction = Interaction(setting.env, setting.seed)
        width = self.interaction.obs.shape[1]
        replayed = make_generator(setting.seed, "replay", self.device)
        self.replay = Replay(config.replay_capacity, width, 1, replayed, self.device)
        self.generator = make_generator(setting.seed, "acting", self.device)
        self.growth = torch.zeros((), dtype=torch.float64, device=self.device)  # since the last refresh
        self.frozen_log_det = log_det(self.covariance)
        self.fresh_excess = torch.zeros((), device=self.device)  # excess loss right after the last refresh
        self.fit_loss = torch.zeros((), device=self.device)
        self.episodes = 0  # since the last refresh
        self.refreshes = 0
        if setting.data is not None:
            self.take_data(setting.data)

    # --- what was seen ------------------------------------------------------------------------------------------------

    def take_data(self, data: OfflineData) -> None:
        """Put recorded episodes into replay and Λ, before the first episode and once."""
        clock = recorded_steps(data, self.critic.horizon)
        if bool((data.obs[:, -1] != clock).any()):
            raise ValueError(
                "the last coordinate of the data's observations is not the step; record it with --env.clock"
            )
        if len(data) > self.replay.capacity:
            raise ValueError(f"{len(data)} recorded transitions; raise agent.replay_capacity above {len(data)}")
        number = data.action - self.head.start
        if data.action.shape[1] != 1 or bool((number < 0).any() | (number >= self.head.dim).any()):
            raise ValueError(
                f"the data's actions are not numbers of the task's {self.head.dim}; record them in this task"
            )
        self.observe(Batch(data.obs, number, data.reward, data.next_obs, data.episode_end.float()))

    def observe(self, batch: Batch) -> None:
        """Append transitions, whose `terminated` says where the episode ended in any way, to replay and Λ."""
        self.replay.push(batch)
        rows = self.rows(batch)
        psi, group = self.critic.psi(rows.obs, rows.step), self.critic.group(rows.step)
        add_outer(self.covariance, psi, group, rows.action)

    def rows(self, batch: Batch) -> Rows:
        """Return transitions with the clock taken off their observations."""
        step = batch.obs[:, -1].long()
        action = batch.action.squeeze(-1).long()
        return Rows(batch.obs[:, :-1], step, action, batch.reward, batch.next_obs[:, :-1], batch.terminated)

    def data(self) -> Rows:
        """Return all transitions there are."""
        return self.rows(self.replay.everything())

    # --- the loop -----------------------------------------------------------------------------------------------------

    def step(self) -> Progress:
        """Switch test, refresh and reset where it says so, mirror step, one episode (brief, section 5.2)."""
        updates = self.refresh() if self.drifted() else 0
        self.policy.updates += 1
        steps, episodes = self.play()
        self.episodes += 1
        if self.config.uncertainty == "covariance":
            self.growth = log_det(self.covariance) - self.frozen_log_det
        return Progress(steps * len(self.interaction.obs), updates, self.metrics(), episodes)

    def drifted(self) -> bool:
        """Return whether the data ask for another critic; this waits for the device."""
        if self.refreshes == 0 or self.episodes >= self.config.max_gap:
            return True
        if self.config.switch == "determinant":
            return bool(self.growth >= self.config.kappa)
        excess = self.critic.excess_loss(self.data(), self.generator)
        slack = self.config.loss_slack * (self.critic.high[0] - self.critic.low[0]).square()
        return bool(excess >= self.config.switch_ratio * self.fresh_excess + slack)

    def refresh(self) -> int:
        """Freeze the bonus, fit the critic, make the actor uniform; return the Adam steps taken."""
        data, updates = self.data(), 0
        if self.critic.learned is not None:
            self.critic.adopt_features()
            self.covariance = self.critic.empty_covariance()
            add_outer(self.covariance, self.critic.psi(data.obs, data.step), self.critic.group(data.step), data.action)
        self.critic.freeze(self.covariance)
        if not self.config.warm_start:
            self.critic.restart(self.start)
        if len(data.reward):
            self.fit_loss, updates = self.critic.fit(data, self.generator), self.config.critic_steps
            if self.config.switch == "loss":
                self.fresh_excess = self.critic.excess_loss(data, self.generator).clamp(min=0)
        self.policy.updates.zero_()
        self.frozen_log_det, self.growth = log_det(self.covariance), torch.zeros_like(self.growth)
        self.episodes = 0
        self.refreshes += 1
        return updates

    def play(self) -> tuple[int, tuple[Episodes, ...]]:
        """Act until an episode ends; return steps and what ended."""
        for steps in range(1, self.critic.horizon + 1):
            obs = self.interaction.obs
            batch, episodes = self.interaction.step(self.policy.act(obs, explore=True, generator=self.generator))
            self.require_horizon(episodes, batch.terminated)
            number = (batch.action - self.head.start)[:, None].float()
            self.observe(batch._replace(action=number, terminated=episodes.ended.float()))
            if self.config.uncertainty == "ensemble":
                self.growth += self.spread(batch).square().sum()
            if bool(episodes.ended.any()):
                self.require_within(episodes)
                return steps, (episodes,)
        raise AssertionError("require_horizon lets no episode go on")

    def spread(self, batch: Batch) -> Tensor:
        """Return the ensemble's standard deviation (N,) of what was done, in value ranges."""
        rows = self.rows(batch._replace(action=(batch.action - self.head.start)[:, None]))
        return self.critic.chosen(rows).std(0, correction=0) / (self.critic.high[0] - self.critic.low[0])

    def require_horizon(self, episodes: Episodes, terminated: Tensor) -> None:
        """Raise unless episodes end by the task itself or by a limit of H steps."""
        horizon = self.critic.horizon
        cut = episodes.ended & (terminated == 0)
        wrong = (episodes.length >= horizon) & ~episodes.ended | cut & (episodes.length < horizon)
        if bool(wrong.any()):
            length = int(episodes.length[wrong][0])
            says = f"are cut after {length} steps" if bool(cut[wrong][0]) else f"go on after {length} steps"
            raise ValueError(
                f"agent.horizon is {horizon}, but episodes of this task {says}; set agent.horizon and "
                "--env.max-episode-steps to the same number"
            )

    def require_within(self, episodes: Episodes) -> None:
        """Raise where an episode's return lies outside of the clip range."""
        low, high = float(self.critic.low[0]), float(self.critic.high[0])
        total = episodes.episode_return[episodes.ended]
        outside = (total < low - SLACK * (high - low)) | (total > high + SLACK * (high - low))
        if bool(outside.any()):
            raise ValueError(
                f"an episode returned {float(total[outside][0]):g}, outside of the clip range [{low:g}, {high:g}]; "
                "correct agent.reward_range, or the task's own range"
            )

    def metrics(self) -> dict[str, Tensor]:
        counts = {"refreshes": self.refreshes, "exponent": self.policy.updates, "growth": self.growth}
        named = {name: torch.as_tensor(value, dtype=torch.float32) for name, value in counts.items()}
        return named | {"fit_loss": self.fit_loss}

    def act(self, obs: Tensor, *, explore: bool = False) -> Tensor:
        """Return actions for obs (N, O + 1): the policy's most likely ones, or a sample."""
        return self.policy.act(obs, explore=explore, generator=self.generator)


def recorded_steps(data: OfflineData, horizon: int) -> Tensor:
    """Return the step (M,) of every recorded row; `ValueError` for episodes that H steps did not end."""
    ends = data.episode_end.nonzero().squeeze(-1)
    starts = torch.cat([ends.new_zeros(1), ends[:-1] + 1])
    lengths = ends - starts + 1
    wrong = ((lengths > horizon) | (lengths < horizon) & (data.terminated[ends] == 0)).nonzero()
    if len(wrong):
        first = int(wrong[0])
        raise ValueError(
            f"the data's episode {first} takes {int(lengths[first])} steps, but agent.horizon is {horizon}; choose "
            "data recorded in a task of this horizon, whole episodes only (data.fraction 1)"
        )
    return torch.arange(len(data), device=ends.device) - starts.repeat_interleave(lengths)


NORA_DEEP_SPEC = AgentSpec(
    DeepNORAConfig(),
    DeepNORA,
    make_policy,
    "NORA and NOAH* with a neural critic, discrete actions, optional offline data (after arXiv 2505.03710)",
    shown=("refreshes",),
)
