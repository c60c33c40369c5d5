"""Behaviour cloning: the policy under which the recorded actions are most likely.

The comparison every method with offline data must beat (docs/derivations/h2o.md §9.3).

| derivation | paper | here |
|---|---|---|
| (9.6) minus the mean log-likelihood | – | `cloning_loss` |
| (2.3) at recorded actions | – | `parts.networks.TanhGaussianPolicy.log_prob` |

With `holdout` the policy is the one of all training under which the actions of held-out episodes were most likely
(early stopping); without, as in H2O's comparison, the last one.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
from torch import Tensor

from surefoot.agents.interface import AgentSpec, Batch, OfflineData, Progress, Setting, Style
from surefoot.agents.parts.acceleration import accelerate, adam, take_step
from surefoot.agents.parts.budget import plan_updates
from surefoot.agents.parts.h2o_family import H2OHeads
from surefoot.agents.parts.networks import TanhGaussianPolicy
from surefoot.agents.parts.random import make_generator
from surefoot.agents.parts.ranges import AT_LEAST_1, check_ranges, unread_where
from surefoot.agents.parts.replay import FixedReplay
from surefoot.agents.parts.state import Stateful
from surefoot.agents.sac import PolicyConfig, make_policy, make_real_replay


@dataclass(frozen=True)
class BCConfig(H2OHeads, PolicyConfig):
    """Behaviour cloning with H2O's policy network (§7.2)."""

    batch_size: int = 256
    """Real transitions per update."""
    holdout: float = 0.0
    """Fraction of the episodes that are held out. The policy is then that of all training under which their actions are
    most likely (early stopping); 0: the last one, trained on everything."""
    holdout_every: int = 100
    """Updates between two looks at the held-out episodes."""

    def __post_init__(self) -> None:
        check_ranges(self, {"batch_size": AT_LEAST_1, "holdout_every": AT_LEAST_1})
        if not 0 <= self.holdout < 1:
            raise ValueError(f"--agent.holdout is {self.holdout}; a fraction of the episodes, at least 0 and below 1")

    def unread(self) -> dict[str, str]:
        """Return what is left without effect where nothing is held out, and why."""
        return unread_where((not self.holdout, ("holdout_every",), "without --agent.holdout"))


def cloning_loss(policy: TanhGaussianPolicy, batch: Batch) -> Tensor:
    """Return −mean_B log π(a|s) of the recorded actions."""
    return -policy.log_prob(batch.obs, batch.action).mean()


def split_episodes(data: OfflineData, holdout: float, generator: torch.Generator) -> tuple[Batch, Batch]:
    """Return the rows to learn from and those of randomly held-out whole episodes, at least one of each."""
    episode = data.episode_end.long().cumsum(0) - data.episode_end.long()
    episodes = int(episode[-1]) + 1
    if episodes < 2:
        raise ValueError(f"--agent.holdout {holdout:g} needs data of two episodes or more, not {episodes}")
    count = min(max(1, round(holdout * episodes)), episodes - 1)
    held = torch.zeros(episodes, dtype=torch.bool)
    held[torch.randperm(episodes, generator=generator)[:count]] = True
    of_row = held.to(episode.device)[episode]
    fields = (data.obs, data.action, data.reward, data.next_obs, data.terminated)
    return Batch(*(field[~of_row] for field in fields)), Batch(*(field[of_row] for field in fields))


class HeldOut(Stateful):
    """Held-out rows, and the policy under which their actions were most likely so far."""

    STATEFUL = ("policy", "loss", "lowest", "updates")

    def __init__(self, batch: Batch, policy: TanhGaussianPolicy, every: int) -> None:
        self.batch, self.every, self.updates = batch, every, 0
        self.policy = copy.deepcopy(policy).requires_grad_(False)
        self.loss = torch.full((), torch.inf, device=batch.obs.device)  # at the last look
        self.lowest = self.loss.clone()

    @torch.no_grad()
    def look(self, policy: TanhGaussianPolicy) -> dict[str, Tensor]:
        """Count an update of the policy; when it is time, measure it and keep it if it is the best so far."""
        self.updates += 1
        if self.updates % self.every == 0 or self.updates == 1:
            self.loss.copy_(cloning_loss(policy, self.batch))
            better = self.loss < self.lowest
            for kept, new in zip(self.policy.parameters(), policy.parameters(), strict=True):
                kept.copy_(torch.where(better, new, kept))
            self.lowest.copy_(torch.minimum(self.loss, self.lowest))
        return {"held_out_loss": self.loss.clone()}


class BC(Stateful):
    """Maximum likelihood on the data; one `step` is one update."""

    STATEFUL = ("trained", "optimiser", "real", "held_out", "noise_generator")

    def __init__(self, config: BCConfig, setting: Setting) -> None:
        self.config = config
        self.trained = make_policy(config, setting.spaces, make_generator(setting.seed, "networks")).to(setting.device)
        self.optimiser = adam(self.trained.parameters(), config.policy_lr, setting)
        self.real, self.held_out = self.split(setting)
        self.noise_generator = make_generator(setting.seed, "acting", setting.device)
        self.update = accelerate(self.update_eager, setting, [self.trained, self.optimiser])

    def split(self, setting: Setting) -> tuple[FixedReplay, HeldOut | None]:
        """Return what to learn from and what is held out; all of the data and nothing without early stopping."""
        if self.config.holdout == 0:
            return make_real_replay(setting), None
        assert setting.data is not None, "behaviour cloning needs offline data"
        rows, held = split_episodes(setting.data, self.config.holdout, make_generator(setting.seed, "held out"))
        generator = make_generator(setting.seed, "real replay", setting.device)
        on_device = Batch(*(field.to(setting.device) for field in held))
        return FixedReplay(rows, generator, setting.device), HeldOut(on_device, self.trained, self.config.holdout_every)

    @property
    def policy(self) -> TanhGaussianPolicy:
        return self.trained if self.held_out is None else self.held_out.policy

    def act(self, obs: Tensor, *, explore: bool = False) -> Tensor:
        """Return actions (N, act) for obs (N, obs): tanh(mean), or a sample."""
        return self.policy.act(obs, explore=explore, generator=self.noise_generator)

    def step(self) -> Progress:
        """One update."""
        metrics = self.update(self.real.sample(self.config.batch_size))
        if self.held_out is not None:
            metrics = metrics | self.held_out.look(self.trained)
        return Progress(0, 1, metrics)

    def update_eager(self, batch: Batch) -> dict[str, Tensor]:
        """One gradient step."""
        loss = cloning_loss(self.trained, batch)
        take_step([self.optimiser], loss)
        return {"cloning_loss": loss.detach()}


BC_SPEC = AgentSpec(
    BCConfig(),
    BC,
    make_policy,
    "behaviour cloning of the data",
    offline=True,
    needs_data=True,
    plan=plan_updates,
    page="h2o",
    style=Style("#000000", "-"),
    tiny={"hidden": (8, 8), "batch_size": 8},
)
