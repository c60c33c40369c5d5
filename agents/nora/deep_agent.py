"""Deep NORA and NOAH*: rare switching, resets and optimism with a neural critic, on any task with discrete actions.

Tan, Fan, Wei, "Actor-Critics Can Achieve Optimal Sample Efficiency", ICML 2025, arXiv 2505.03710, in the form of
docs/derivations/nora.md §7: the paper's recipe for networks is not known to us, so this design is ours. What it keeps
of the paper (§7.1): max-targets by the optimistic critic on all data, a critic and bonus that are frozen until the data
trigger a refresh, an actor that is uniform again after it and climbs the frozen critic in closed form.

| derivation | paper | here |
|---|---|---|
| §7.2 | – | `DeepNORA.step`, `DeepNORA.refresh` |
| (7.1), (7.2) | – | `deep_critic.unit_features`, `deep_critic.add_outer`: ψ, Λ_{h,a} |
| (7.3), (7.4) | – | `deep_critic.elliptical`, `deep_critic.DeepCritic.forward`: the bonus, added at read-out |
| (7.5), (7.6) | – | `deep_critic.max_targets`, `deep_critic.DeepCritic.fit`: fitted Q-iteration |
| (7.7) | – | `DeepNORA.drifted`, `deep_critic.log_det`: switch by determinants |
| (7.12) | – | `DeepNORA.spread`: the same for an ensemble |
| (7.13) | – | `DeepNORA.drifted`, `deep_critic.DeepCritic.excess_loss`: switch by loss |
| (7.9) | – | `soft_exponents`, `DeepPolicy` |
| (1.3) | – | `sums_range` |
| §7.4 | – | `DeepNORA.take_data`: offline data in replay and Λ from episode 0; with β = 0 deep NOAH* |

Choices:
- β and η are relative to the value range, so that one preset serves tasks of other scales.
- Targets are computed for all data every `target_steps`, which is the same as a target network and needs no copy.
- With several environments each plays episodes of its own, and the test is made when the first of them ends one.
- Box actions (§7.5, a sketch that nobody has tested) are not offered.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

import gymnasium as gym
import torch
from torch import Tensor, nn

from surefoot.agents.interface import (
    AgentSpec,
    Batch,
    Budget,
    Episodes,
    OfflineData,
    Plan,
    Progress,
    Setting,
    Spaces,
    Style,
)
from surefoot.agents.nora.deep_critic import CriticConfig, DeepCritic, StepRows, add_outer, log_det
from surefoot.agents.parts.budget import require_room
from surefoot.agents.parts.heads import CategoricalHead
from surefoot.agents.parts.interaction import Interaction
from surefoot.agents.parts.on_policy import require_time_aware
from surefoot.agents.parts.random import make_generator
from surefoot.agents.parts.ranges import AT_LEAST_0, AT_LEAST_1, POSITIVE, check_ranges, optional, unread_where
from surefoot.agents.parts.replay import Replay
from surefoot.agents.parts.state import Stateful

SLACK = 1e-4  # of the value range: float32 rewards may exceed it by this much


@dataclass(frozen=True)
class DeepNORAConfig(CriticConfig):
    """Defaults: docs/derivations/nora.md §8."""

    policy_step_size: float = 50.0
    """Step size η of mirror ascent, times the value range."""
    switch: Literal["determinant", "loss"] = "determinant"
    """Trigger of a critic refresh: growth of Σ log det Λ (of Σ b²/β² with an ensemble), or of the excess loss."""
    switch_growth: float = 3.0
    """Growth κ of the log-determinant that triggers a refresh, in nats; 2 to 10."""
    switch_ratio: float = 5.0
    """With `switch` "loss": the excess loss, as a multiple of that right after the last refresh, that triggers a
    refresh."""
    loss_slack: float = 0.1
    """σ²·d_eff, added to that multiple: excess loss that noise explains, in squared value ranges."""
    max_gap: int = 50
    """Maximum number of episodes between two refreshes of the critic."""
    reward_range: tuple[float, float] | None = None
    """Range of the reward of one step, which gives the clip range of values; None: the task's own, tighter
    `value_range`."""
    replay_capacity: int = 100_000
    """Replay buffer capacity in transitions, recorded ones included; the oldest are overwritten."""

    def __post_init__(self) -> None:
        rules: dict[str, Any] = dict.fromkeys(["bonus_weight", "prior_scale", "loss_slack"], AT_LEAST_0)
        rules |= dict.fromkeys(["critic_steps", "target_steps", "max_gap", "features"], AT_LEAST_1)
        rules |= dict.fromkeys(["policy_step_size", "switch_growth", "ridge"], POSITIVE)
        rules |= dict.fromkeys(["horizon", "step_groups"], optional(AT_LEAST_1))
        rules |= {"ensemble_size": (lambda x: x >= 2, "at least 2"), "switch_ratio": (lambda x: x > 1, "above 1")}
        rules |= {"reward_range": optional((lambda x: x[0] < x[1], "LOW below HIGH"))}
        check_ranges(self, rules)

    def unread(self) -> dict[str, str]:
        """Return what the trigger and the uncertainty leave without effect, and why."""
        switch = f"with --agent.switch {self.switch}"
        return super().unread() | unread_where(
            (self.switch == "loss", ("switch_growth",), switch),
            (self.switch != "loss", ("switch_ratio", "loss_slack"), switch),
        )


def derive(config: DeepNORAConfig, budget: Budget) -> DeepNORAConfig:
    """Return the config with H the task's time limit, where it is not given."""
    return replace(config, horizon=budget.episode_length()) if config.horizon is None else config


def plan(config: DeepNORAConfig, budget: Budget) -> Plan:
    """Return what will run: rounds of an episode in every environment; the data decide when the critic is fitted."""
    episode = (config.horizon or 1) * budget.num_envs
    if not budget.has_data and budget.steps <= episode:
        raise ValueError(
            f"--steps {budget.steps} would end before the first update: the critic is fitted after the first episodes, "
            f"which take up to {episode} steps; raise --steps"
        )
    require_room(config, config.horizon or 1)
    rounds = f"{budget.steps:,} environment steps in episodes of up to {config.horizon}"
    return Plan(budget.steps, None, (rounds, f"{config.critic_steps} updates at every refresh of the critic"))


# --- the mathematics -------------------------------------------------------------------------------------------------


def soft_exponents(values: Tensor, eta: float, updates: Tensor, width: Tensor) -> Tensor:
    """Return η k Q̄/(vmax − vmin) (B, A), of which the policy is the softmax after k steps on a frozen critic."""
    return eta / width * updates * values


def sums_range(env: Any, horizon: int, reward_range: tuple[float, float] | None) -> tuple[Tensor, Tensor]:
    """Return the least and the largest sum of rewards from each step on, (H,) each: the clip range.

    Raises `ValueError` where neither the task nor the configuration has it, or the task has another horizon.
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
        raise ValueError(f"--agent.horizon is {horizon}, but the task's episodes take {len(low)} steps; set it to that")
    return low, high


# --- the policy ------------------------------------------------------------------------------------------------------


class DeepPolicy(nn.Module):
    """softmax(η k Q̄_h(s, ·)) of a frozen critic. An observation's last coordinate is the step h."""

    updates: Tensor

    def __init__(self, config: DeepNORAConfig, spaces: Spaces, generator: torch.Generator) -> None:
        super().__init__()
        if not isinstance(spaces.action, gym.spaces.Discrete):
            raise ValueError(f"nora-deep needs Discrete actions, not {spaces.action}; choose another --env.id")
        require_time_aware(spaces)
        assert spaces.observation.shape is not None
        self.head, self.eta = CategoricalHead(int(spaces.action.n), int(spaces.action.start)), config.policy_step_size
        self.critic = DeepCritic(config, spaces.observation.shape[0] - 1, self.head.dim, generator)
        self.register_buffer("updates", torch.zeros(()))  # k, mirror steps since the last reset

    def exponents(self, obs: Tensor) -> Tensor:
        """Return the logits (B, A) of time-aware observations (B, O + 1)."""
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
    """One `step` plays until an episode ends, one episode where there is one environment; before it the switch test."""

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
        steps = recorded_steps(data, self.critic.horizon)
        if bool((data.obs[:, -1] != steps).any()):
            raise ValueError(
                "the last coordinate of the data's observations is not the step; record it with --env.time-aware"
            )
        if len(data) > self.replay.capacity:
            raise ValueError(f"{len(data)} recorded transitions; raise --agent.replay-capacity above {len(data)}")
        number = data.action - self.head.start
        if data.action.shape[1] != 1 or bool((number < 0).any() | (number >= self.head.dim).any()):
            raise ValueError(
                f"the data's actions are not numbers of the task's {self.head.dim}; record them in this task"
            )
        self.observe(Batch(data.obs, number, data.reward, data.next_obs, data.episode_end.float()))

    def observe(self, batch: Batch) -> None:
        """Append transitions, whose `terminated` marks any end of an episode, to replay and Λ."""
        self.replay.push(batch)
        rows = self.rows(batch)
        psi, group = self.critic.psi(rows.obs, rows.step), self.critic.group(rows.step)
        add_outer(self.covariance, psi, group, rows.action)

    def rows(self, batch: Batch) -> StepRows:
        """Return transitions with the step split off their time-aware observations."""
        step = batch.obs[:, -1].long()
        action = batch.action.squeeze(-1).long()
        return StepRows(batch.obs[:, :-1], step, action, batch.reward, batch.next_obs[:, :-1], batch.terminated)

    def data(self) -> StepRows:
        """Return all transitions there are."""
        return self.rows(self.replay.everything())

    # --- the loop -----------------------------------------------------------------------------------------------------

    def step(self) -> Progress:
        """Switch test, refresh and reset where it triggers, mirror step, one episode (§7.2)."""
        updates = self.refresh() if self.drifted() else 0
        self.policy.updates += 1
        steps, episodes = self.play()
        self.episodes += len(self.interaction.obs)
        if self.config.uncertainty == "covariance":
            self.growth = log_det(self.covariance) - self.frozen_log_det
        return Progress(steps * len(self.interaction.obs), updates, self.metrics(), episodes)

    def drifted(self) -> bool:
        """Return whether the data trigger another critic; this waits for the device."""
        if self.refreshes == 0 or self.episodes >= self.config.max_gap:
            return True
        if self.config.switch == "determinant":
            return bool(self.growth >= self.config.switch_growth)
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
        raise AssertionError("require_horizon lets no episode continue")

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
            observed = f"are cut after {length} steps" if bool(cut[wrong][0]) else f"continue after {length} steps"
            raise ValueError(
                f"--agent.horizon is {horizon}, but episodes of this task {observed}; set --agent.horizon and "
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
                "correct --agent.reward-range, or the task's own range"
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
            f"the data's episode {first} takes {int(lengths[first])} steps, but --agent.horizon is {horizon}; choose "
            "data recorded in a task of this horizon, whole episodes only (--data.fraction 1)"
        )
    return torch.arange(len(data), device=ends.device) - starts.repeat_interleave(lengths)


NORA_DEEP_SPEC = AgentSpec(
    DeepNORAConfig(),
    DeepNORA,
    make_policy,
    "NORA and NOAH* with a neural critic, discrete actions, optional offline data (after arXiv 2505.03710)",
    actions=("Discrete",),
    takes_data=True,
    shown=("refreshes",),
    derive=derive,
    plan=plan,
    has_compiled_form=False,
    page="nora_deep",
    style=Style("#0072B2", ":"),
    tiny={
        "hidden": (8, 8),
        "batch_size": 8,
        "replay_capacity": 400,
        "critic_steps": 2,
        "ensemble_size": 3,
        "horizon": 4,
    },
    tiny_env={"id": "surefoot/RiverSwim-v0", "num_envs": 2, "time_aware": True, "kwargs": {"states": 2, "horizon": 4}},
)
