"""HNPG: on-policy natural policy gradient whose critic and policy step also use offline data.

Zhou, Sekhari, Song, Sun, "Offline Data Enhanced On-Policy Policy Gradient with Provable Guarantees", ICLR 2024,
arXiv 2311.08384 (algorithms 4 and 5; the exact, tabular form is `exact.py`). Derivation: docs/derivations/hnpg.md.

| derivation | paper | here |
|---|---|---|
| §3, §4 one outer iteration | algorithm 4 | `HNPG.step` |
| §3.1, step C: the offline batch | algorithm 5, line 3 | `HNPG.draw_offline` |
| (3.5) the weights 1 : λ of two means | (1), (2), (48), (49) | `hybrid_weights` |
| (3.3), stationary (5.1): offline target | algorithm 5, line 5 | `bootstrap_target` |
| (3.4) critic loss: offline TD + λ · Monte-Carlo error | (49) | `HNPG.fit`, `parts.stochastic.fit_values` |
| §3.2 critics from the last step to the first | algorithm 5, lines 4 to 6 | `HNPG.sweep` |
| (2.1), (5.1) K rounds of f_{k−1} → f_k, discounted | (1) | `HNPG.rounds` |
| (3.6) V(s) as a mean over 10 actions | – | `parts.stochastic.state_values` |
| (4.1) to (4.3) advantages of both kinds | algorithm 4, lines 5 and 6 | `HNPG.policy_rows` |
| (4.4) to (4.14), in place of the regression (2.9) | (2), (48), (50) | `parts.trust_region.trust_region_step` |

Where this differs from the paper, and why (as the authors' code does, unless said otherwise):
- The regression (2.9) is solved as TRPO does: surrogate gradient, Fisher matrix with the exact expectation over
  actions, damping 0.1, length from the KL limit, line search. The solution is the same up to damping and the sampling
  of actions, and the factor 1 + λ cancels (§4.4).
- `offline_actions="resample"`: at offline states the policy step takes actions of the current policy; the paper's
  equations take the recorded ones ("data"), for which matrix and regression differ by more than that. Measured in
  docs/methods/hnpg.md.
- One batch and one backward sweep replace fresh data in every inner iteration and the average over them.
- λ is a parameter (the code adds the losses: λ = 1). λ enters as weights of means, so sample counts do not change it.
- Evaluations play the mode of the policy; the authors' play 30 stochastic episodes an iteration. The success rate that
  ends a run is that of the training episodes, which are stochastic, in both.
- The line search also refuses a KL above 1.5·δ (paper: δ; code: no test); `kl_slack` None drops the test.
- Not in the paper: the stationary, discounted form for ordinary tasks, Discrete actions, several seeds at once.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from surefoot.agents.interface import AgentSpec, Batch, OfflineData, Progress, Setting, Style
from surefoot.agents.parts.budget import plan_on_policy
from surefoot.agents.parts.episodes import RolloutBatch, episode_grid
from surefoot.agents.parts.on_policy import (
    ON_POLICY_RANGES,
    TASK_FIELDS,
    DeployedPolicy,
    OnPolicy,
    OnPolicyConfig,
    make_policy,
    mean_sigma,
)
from surefoot.agents.parts.random import make_generator
from surefoot.agents.parts.ranges import AT_LEAST_1, check_ranges, optional
from surefoot.agents.parts.replay import FixedReplay
from surefoot.agents.parts.state import Stateful
from surefoot.agents.parts.stochastic import CriticStack, PolicyStack, fit_values
from surefoot.agents.parts.trust_region import StepRows, trust_region_step


@dataclass(frozen=True)
class HNPGConfig(OnPolicyConfig):
    """Defaults: the paper's final values, its code where the paper leaves it open (§7.1)."""

    on_policy_weight: float = 1.0
    """Weight λ of on-policy samples relative to offline ones; 0: offline samples only, inf: on-policy only (then this
    is TRPO)."""
    critic_on_policy_weight: float | None = None
    """λ of the critics, if different; 0 removes the Monte-Carlo term (ablation)."""
    policy_on_policy_weight: float | None = None
    """λ of the policy step, if different; inf leaves the offline data to the critics (ablation)."""
    offline_actions: Literal["resample", "data"] = "resample"
    """Actions at offline states in the policy step: sampled from the current policy, or the recorded ones."""
    rounds: int = 10
    """Fitting rounds K per policy evaluation in the stationary form, of `critic_steps` gradient steps each."""

    INFINITE: ClassVar[tuple[str, ...]] = ("on_policy_weight", "critic_on_policy_weight", "policy_on_policy_weight")

    def __post_init__(self) -> None:
        weight = optional((lambda x: x >= 0, "at least 0 (inf: on-policy only)"))
        check_ranges(self, {**ON_POLICY_RANGES, "rounds": AT_LEAST_1, **dict.fromkeys(self.INFINITE, weight)})


# --- the mathematics -------------------------------------------------------------------------------------------------


def hybrid_weights(lam: float, offline: int, on_policy: int) -> Tensor:
    """Return weights (M + n,) of M offline and then n on-policy samples: Ê_off + λ·Ê_on, scaled to sum to 1.

    Two means: how many samples either has does not change what λ means. λ = inf leaves the on-policy mean alone.
    """
    on_fraction = 1.0 if math.isinf(lam) else lam / (1.0 + lam)
    off = torch.full((offline,), (1.0 - on_fraction) / max(offline, 1))
    return torch.cat([off, torch.full((on_policy,), on_fraction / on_policy)])


@torch.no_grad()
def bootstrap_target(
    policy: PolicyStack,
    critic: CriticStack,
    chosen: slice,
    reward: Tensor,
    next_obs: Tensor,
    discount: Tensor | float,
    generator: torch.Generator,
) -> Tensor:
    """Return z (S, B) = r + γ·f(s', a'), one a' ~ π(·|s') each, by the chosen members; no gradient."""
    outputs = policy(next_obs, policy.members(chosen))
    action = policy.head.to_critic(policy.head.sample(outputs, generator))
    return reward + discount * critic.value(next_obs, action, chosen)


# --- the agent -------------------------------------------------------------------------------------------------------


class HNPG(Stateful):
    """One `step` is one outer iteration: act, evaluate the current policy, move it once."""

    STATEFUL = ("nets", "offline")

    def __init__(self, config: HNPGConfig, setting: Setting) -> None:
        assert setting.data is not None, "HNPG needs offline data"
        self.config, self.device = config, setting.device
        self.episodes = 0 if config.horizon is None else episode_grid(setting.data, config.horizon)
        self.nets = OnPolicy(config, setting)
        generator = make_generator(setting.seed, "offline data", self.device)
        self.offline = FixedReplay(self.encoded(setting.data), generator, self.device)
        critic, policy = config.critic_on_policy_weight, config.policy_on_policy_weight
        self.critic_on_policy_weight = config.on_policy_weight if critic is None else critic
        self.policy_on_policy_weight = config.on_policy_weight if policy is None else policy

    def encoded(self, data: OfflineData) -> Batch:
        """Return the data as the networks see it: without the step, discrete actions one-hot."""
        width = -1 if self.config.horizon is not None else None
        action = self.nets.head.from_data(data.action)
        return Batch(data.obs[:, :width], action, data.reward, data.next_obs[:, :width], data.terminated)

    @property
    def policy(self) -> DeployedPolicy:
        return self.nets.deployed()

    def act(self, obs: Tensor, *, explore: bool = False) -> Tensor:
        """Return actions of the first seed's policy for obs (N, obs): its mode, or a sample."""
        return self.nets.act(obs, explore=explore)

    def step(self) -> Progress:
        """One outer iteration (§3 and §4); environment steps are counted for one seed."""
        before = self.nets.env_steps
        rollout, episodes, success = self.nets.collect()
        off = self.draw_offline(rollout)
        critic = self.evaluate_policy(rollout, off)
        policy = trust_region_step(self.nets.policy, self.policy_rows(rollout, off), self.config)
        metrics = success | critic | policy | mean_sigma(self.nets.policy)
        return Progress(self.nets.env_steps - before, 1, metrics, tuple(episodes), self.nets.success.done)

    def draw_offline(self, rollout: RolloutBatch) -> Batch:
        """Return (E, M, …) offline transitions, as many as on-policy ones for every member, with replacement.

        With a horizon member (h, s) gets transitions of step h only.
        """
        horizon, seeds = self.config.horizon, self.nets.seeds
        rows = rollout.reward[0, 0].numel() if horizon else rollout.reward[:, 0].numel()
        random = {"generator": self.offline.generator, "device": self.device}
        if horizon is None:
            index = torch.randint(len(self.offline), (seeds, rows), **random)  # type: ignore[call-overload]
        else:
            episode = torch.randint(self.episodes, (horizon, seeds, rows), **random)  # type: ignore[call-overload]
            step = torch.arange(horizon, device=self.device)[:, None, None]
            index = (episode * horizon + step).flatten(0, 1)
        batch = self.offline.unpack(self.offline.rows.index_select(0, index.flatten()))
        return Batch(*(field.unflatten(0, index.shape) for field in batch))

    # --- the critics --------------------------------------------------------------------------------------------------

    def evaluate_policy(self, rollout: RolloutBatch, off: Batch) -> dict[str, Tensor]:
        """Fit f to the current policy; return both losses (E,), each over its own samples."""
        nets, returns = self.nets, self.nets.returns(rollout)
        action = nets.head.to_critic(nets.by_member(rollout.action))
        on_x = torch.cat([nets.by_member(rollout.obs), action], -1)
        off_x = torch.cat([off.obs, off.action], -1)
        rows = off_x.shape[1]
        scale = (
            1.0 if math.isinf(self.critic_on_policy_weight) else 1.0 + self.critic_on_policy_weight
        )  # the paper's sum, not our mean
        weight = scale * hybrid_weights(self.critic_on_policy_weight, rows, on_x.shape[1]).to(self.device)
        fit = self.rounds if self.config.horizon is None else self.sweep
        error = fit(torch.cat([off_x, on_x], 1), off, returns, weight)
        losses = {"on_policy_loss": error[:, rows:].mean(1)}
        if self.config.horizon is not None and math.isinf(self.critic_on_policy_weight):
            return losses  # `sweep` bootstraps nothing then: there is no z to compare the offline values with
        return losses | {"offline_loss": error[:, :rows].mean(1)}

    def fit(self, chosen: slice, x: Tensor, target: Tensor, weight: Tensor) -> Tensor:
        lr, steps = self.config.critic_lr, self.config.critic_steps
        return fit_values(self.nets.critic, chosen, x, target, weight, lr=lr, steps=steps)

    def sweep(self, x: Tensor, off: Batch, returns: Tensor, weight: Tensor) -> Tensor:
        """Fit the critics from the last step to the first, each to a target by the one just fitted; f_H = 0."""
        nets, horizon = self.nets, self.config.horizon or 1
        if math.isinf(self.critic_on_policy_weight):  # nothing is bootstrapped, so all steps can be fitted at once
            return self.fit(slice(None), x, torch.cat([off.reward, returns], 1), weight)
        errors = []
        for h in reversed(range(horizon)):
            now, following = nets.members(h), nets.members(h + 1)
            z = off.reward[now]
            if h < horizon - 1:
                z = bootstrap_target(nets.policy, nets.critic, following, z, off.next_obs[now], 1.0, nets.generator)
            errors.append(self.fit(now, x[now], torch.cat([z, returns[now]], 1), weight))
        return torch.cat(errors[::-1])

    def rounds(self, x: Tensor, off: Batch, returns: Tensor, weight: Tensor) -> Tensor:
        """Fit the one critic K times, each time to targets by what the round before left (eq. (2.1), (5.1))."""
        nets, error = self.nets, torch.zeros_like(returns)
        discount = self.config.gamma * (1 - off.terminated)
        for _ in range(1 if math.isinf(self.critic_on_policy_weight) else self.config.rounds):
            z = bootstrap_target(
                nets.policy, nets.critic, slice(None), off.reward, off.next_obs, discount, nets.generator
            )
            error = self.fit(slice(None), x, torch.cat([z, returns], 1), weight)
        return error

    # --- the policy ---------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def policy_rows(self, rollout: RolloutBatch, off: Batch) -> StepRows:
        """Return what the policy step regresses on: offline samples, then on-policy ones, weighed by λ."""
        nets = self.nets
        obs, action = nets.by_member(rollout.obs), nets.by_member(rollout.action)
        advantage = nets.advantages(rollout)
        if math.isinf(self.policy_on_policy_weight):
            return StepRows(
                obs, action, advantage, hybrid_weights(self.policy_on_policy_weight, 0, obs.shape[1]).to(self.device)
            )
        off_action = off.action
        if self.config.offline_actions == "resample":
            off_action = nets.head.sample(nets.policy(off.obs), nets.generator)
        f = nets.critic.value(off.obs, nets.head.to_critic(off_action))
        return StepRows(
            torch.cat([off.obs, obs], 1),
            torch.cat([off_action, action], 1),
            torch.cat([f - nets.values(off.obs), advantage], 1),
            hybrid_weights(self.policy_on_policy_weight, off.obs.shape[1], obs.shape[1]).to(self.device),
        )


HNPG_SPEC = AgentSpec(
    HNPGConfig(),
    HNPG,
    make_policy,
    "natural policy gradient from on-policy and offline data together (arXiv 2311.08384)",
    actions=("Box", "Discrete"),
    needs_data=True,
    stacks_seeds=True,
    task_fields=TASK_FIELDS,
    shown=("success",),
    plan=plan_on_policy,
    has_compiled_form=False,
    page="hnpg",
    style=Style("#0072B2", "--"),
    tiny={
        "policy_hidden": (8, 8),
        "critic_hidden": (8, 8),
        "batch_steps": 10,
        "critic_steps": 2,
        "value_samples": 2,
        "rounds": 2,
    },
)
