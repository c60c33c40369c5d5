"""DARC: act in the simulator, paid extra where it behaves like the real system.

Eysenbach, Chaudhari, Asawa, Levine, Salakhutdinov, "Off-Dynamics Reinforcement Learning: Training for Transfer with
Domain Classifiers", ICLR 2021, arXiv 2006.13916; as the baseline of H2O
(docs/derivations/h2o.md §9.2).

| derivation | paper | here |
|---|---|---|
| (9.5) Δr = log P_real − log P_sim, for the objective (9.4) | (3) | `reward_correction` |
| (3.4), (3.5) classifier losses | – | `parts.classifiers.domain_loss` |
| (4.8) with w ≡ 1, β = 0: both domains | – | `sac.two_domain_loss` |

Where this differs, and why:
- The real class of the classifiers is fed by offline data, as in H2O's comparison; the paper has a little on-line data.
- The ring of simulated transitions holds 1e6 (`replay_capacity`), so nothing is forgotten within the study's budget;
  the comparison's code (`t6-thu/H2Oplus`, darc_main.py) has 10·|D|, as H2O.
- `darc-plus` adds real rows with their own reward to the critics' loss: ours, H2O names it without a recipe.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from surefoot.agents.interface import AgentSpec, Batch, Progress, Setting, Style
from surefoot.agents.parts.acceleration import accelerate, adam
from surefoot.agents.parts.budget import plan_collector
from surefoot.agents.parts.classifiers import (
    ClassifierConfig,
    classifier_step,
    log_ratio,
    make_classifiers,
    transition_rows,
)
from surefoot.agents.parts.h2o_family import H2OHeads, SimulatorRollout
from surefoot.agents.parts.networks import TanhGaussianPolicy
from surefoot.agents.parts.random import make_generator, normal
from surefoot.agents.parts.ranges import AT_LEAST_1, POSITIVE, check_ranges
from surefoot.agents.parts.replay import join
from surefoot.agents.parts.seeds import Due
from surefoot.agents.parts.state import Stateful
from surefoot.agents.sac import (
    ActorCritic,
    ActorCriticConfig,
    box_dims,
    make_collector,
    make_policy,
    make_real_replay,
    make_replay,
    two_domain_loss,
)


@dataclass(frozen=True)
class DARCConfig(ClassifierConfig, H2OHeads, SimulatorRollout, ActorCriticConfig):
    """Defaults: those of H2O's authors (§7.2)."""

    sim_batch_size: int = 256
    """Simulated transitions per update."""
    real_batch_size: int = 0
    """Real transitions per update, with their own reward; 0 in DARC, half of the batch in `darc-plus`."""
    replay_capacity: int = 1_000_000
    """Replay buffer capacity in simulated transitions."""
    reward_clip: float = 10.0
    """Bound of |Δr| (never reached with the default `classifier_bound`)."""

    def __post_init__(self) -> None:
        check_ranges(self, {"sim_batch_size": AT_LEAST_1, "reward_clip": POSITIVE})


def reward_correction(g: Tensor, clip: float = 10.0) -> Tensor:
    """Return Δr = log P_real − log P_sim (B,) of simulated transitions from g (B, 2), without a gradient."""
    return log_ratio(g).detach().clamp(-clip, clip)


class DARCNoise(NamedTuple):
    """Standard normal numbers of one update."""

    policy: Tensor  # (b_r + b_s, act)
    target: Tensor  # (b_r + b_s, act)
    classifier: Tensor  # (2, classifier batch, 2·obs + act)


class DARC(Stateful):
    """SAC in the simulator with a corrected reward; real rows, if any, keep their own."""

    STATEFUL = ("nets", "real", "sim", "collector", "classifiers", "classifier_optimiser", "noise_generator")
    PER_SEED = ("corrected", "td_loss")

    def __init__(self, config: DARCConfig, setting: Setting) -> None:
        self.config = config
        _, self.action_dim = box_dims(setting.spaces)
        self.nets = ActorCritic(config, setting)
        self.real = make_real_replay(setting)
        self.sim = make_replay(config.replay_capacity, setting)
        self.collector = make_collector(config, setting)
        self.noise_generator = make_generator(setting.seed, "update noise", setting.device)
        self.classifiers = make_classifiers(config, setting)
        self.classifier_optimiser = adam(self.classifiers.parameters(), config.classifier_lr, setting)
        owners = [*self.nets.owners(), self.classifiers, self.classifier_optimiser]
        self.update = accelerate(self.update_eager, setting, owners, by_hand=self.update_by_hand)

    @property
    def policy(self) -> TanhGaussianPolicy:
        return self.nets.policy

    def act(self, obs: Tensor, *, explore: bool = False) -> Tensor:
        """Return actions (N, act) for obs (N, obs): tanh(mean), or a sample."""
        return self.policy.act(obs, explore=explore, generator=self.noise_generator)

    def step(self) -> Progress:
        """A rollout in the simulator if no update is due, then one update."""
        due = self.gather()
        return due.progress({} if due.inputs is None else self.update(*due.inputs))

    def gather(self) -> Due:
        """`step` but for the update."""
        episodes = self.collector.advance(self.policy, self.sim)
        update, env_steps = self.collector.take_update()
        if not update:
            return Due(None, env_steps, episodes)
        config = self.config
        sizes = (config.real_batch_size, config.sim_batch_size, config.classifier_batch_size)
        batches = self.real.sample(sizes[0]), self.sim.sample(sizes[1])
        rows = self.real.sample(sizes[2]), self.sim.sample(sizes[2])
        action = (sizes[0] + sizes[1], self.action_dim)
        noise = DARCNoise(*normal(self.noise_generator, action, action, (2, sizes[2], self.classifiers.width)))
        return Due((*batches, *rows, noise), env_steps, episodes)

    def update_eager(
        self, real: Batch, sim: Batch, real_rows: Batch, sim_rows: Batch, noise: DARCNoise
    ) -> dict[str, Tensor]:
        """One gradient step on everything."""
        nets = self.nets
        both, metrics = self.corrected(real, sim, real_rows, sim_rows, noise)
        actor_loss, actor_metrics = nets.actor_loss(both.obs, noise.policy)
        y = nets.td_target(both, noise.target)
        td_loss, td_metrics = self.td_loss(nets.critic(both.obs, both.action), y)
        nets.descend(td_loss + actor_loss)
        return metrics | td_metrics | actor_metrics

    def update_by_hand(
        self, real: Batch, sim: Batch, real_rows: Batch, sim_rows: Batch, noise: DARCNoise
    ) -> dict[str, Tensor]:
        """`update_eager`, autograd between the critics' values and their loss alone."""
        nets = self.nets
        both, metrics = self.corrected(real, sim, real_rows, sim_rows, noise)
        y = nets.native_td_target(both, noise.target)
        metrics |= nets.backpropagate_through(both.obs, both.action, lambda q: self.td_loss(q, y))
        metrics |= nets.backpropagate_actor(both.obs, noise.policy)
        nets.step()
        return metrics

    def corrected(
        self, real: Batch, sim: Batch, real_rows: Batch, sim_rows: Batch, noise: DARCNoise
    ) -> tuple[Batch, dict[str, Tensor]]:
        """Take one step of the classifiers; return all rows, real ones first, the others with corrected rewards."""
        scaled = self.config.classifier_noise * noise.classifier
        metrics = classifier_step(self.classifiers, self.classifier_optimiser, real_rows, sim_rows, scaled)
        with torch.no_grad():
            correction = reward_correction(self.classifiers.g(transition_rows(sim)), self.config.reward_clip)
        both = join(real, sim._replace(reward=sim.reward + correction))
        return both, metrics | {"reward_correction": correction.mean()}

    def td_loss(self, q: Tensor, y: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the critics' loss of q (2, B) and y (B,), and what to log of it."""
        loss = two_domain_loss(q, y, self.config.real_batch_size)
        return loss, {"td_loss": loss.detach(), "q": q.detach().mean()}


DARC_SPEC = AgentSpec(
    DARCConfig(),
    DARC,
    make_policy,
    "SAC in the simulator, reward corrected by classifiers (arXiv 2006.13916)",
    needs_data=True,
    plan=plan_collector,
    page="h2o",
    style=Style("#CC79A7", "-"),
    tiny={
        "hidden": (8, 8),
        "classifier_hidden": (8, 8),
        "sim_batch_size": 8,
        "classifier_batch_size": 8,
        "learning_starts": 16,
        "random_steps": 10,
        "rollout_steps": 4,
        "replay_capacity": 400,
    },
)
DARC_PLUS_SPEC = AgentSpec(
    DARCConfig(sim_batch_size=128, real_batch_size=128),
    DARC,
    make_policy,
    "DARC that also learns values from the real transitions",
    needs_data=True,
    plan=plan_collector,
    page="h2o",
    style=Style("#D55E00", "-"),
    tiny=DARC_SPEC.tiny | {"real_batch_size": 8},
)
