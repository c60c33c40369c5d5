"""H2O: one policy from a fixed set of real transitions and an imperfect simulator.

Niu, Sharma, Qiu, Li, Zhou, Hu, Zhan, "When to Trust Your Simulator: Dynamics-Aware Hybrid Offline-and-Online
Reinforcement Learning", NeurIPS 2022, arXiv 2206.13464. Derivation: docs/derivations/h2o.md.

| derivation | paper | here |
|---|---|---|
| (3.3) log P_real/P_sim from two classifiers | – | `parts.classifiers.log_ratio` |
| (3.7) importance weight of a simulated TD error | – | `importance_weight`, `H2O.weigh` |
| (3.9), (3.10) dynamics gap u(s, a), a KL divergence | – | `dynamics_gap` |
| (3.12), padded (3.13): spread σ_D of the next state | – | `state_std` |
| (3.11), (4.4) ω, the gap over the simulated batch | – | `H2O.tilt`, `log_gap_weights` |
| (4.7), linear (4.10): value regulariser, (4.1) solved | – | `value_regulariser` |
| (4.8) loss of a critic; its first two terms | – | `H2O.critic_loss`; `sac.two_domain_loss` |
| (4.11), (4.12) Lagrange form | – | `H2O.regularise` |
| §5, steps 4.2.2 to 4.2.8 | – | `H2O.update_eager` |

The paper's own equation numbers are not known to us (§14). What the regulariser does to the values is eq. (4.14).

Where this differs from the authors' code (C1 to C12 of §6.3), and why:
- The log-ratio is g₀ − g₁ directly, the same number as their product of four softmaxes; it cannot overflow.
- σ of the widened next state is that of the real data; theirs is that of a zero-padded buffer (`gap_std="padded"`, C1).
- ω lives in log space over gaps floored at a normal number (1e-8; theirs is 1e-45, which underflows to log 0, C6).
- τ ≠ 1 means τ·log Σ ω·exp(Q/τ); theirs divides log ω by τ as well (C7). The same at the default τ = 1.
- `regulariser_weight=0` removes the regulariser and nothing else; their switch also skips every other optimiser step
  (C2).
- Dropout in the classifiers and a learned model of the real dynamics (both off or unfinished there) are left out.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from surefoot.agents.interface import AgentSpec, Batch, OfflineData, Progress, Setting, Style
from surefoot.agents.parts.acceleration import accelerate, adam
from surefoot.agents.parts.budget import plan_collector
from surefoot.agents.parts.classifiers import (
    ClassifierConfig,
    DomainClassifiers,
    classifier_step,
    log_ratio,
    make_classifiers,
    transition_rows,
)
from surefoot.agents.parts.h2o_family import H2OHeads, SimulatorRollout
from surefoot.agents.parts.networks import TanhGaussianPolicy
from surefoot.agents.parts.random import make_generator, normal
from surefoot.agents.parts.ranges import AT_LEAST_0, AT_LEAST_1, POSITIVE, check_ranges, unread_where
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

OF_CLASSIFIERS = tuple(field.name for field in fields(ClassifierConfig))
OF_GAP = ("gap_samples", "gap_std_multiplier", "gap_std", "gap_floor", "gap_cap")
OF_REGULARISER = ("adaptive_weighting", "linear_regulariser", "temperature", "regulariser_clip", "lagrange")


@dataclass(frozen=True)
class H2OConfig(ClassifierConfig, H2OHeads, SimulatorRollout, ActorCriticConfig):
    """Defaults: the authors' code (§7.1)."""

    real_batch_size: int = 128
    """Real transitions per update (b_r); 0 leaves the real data to the classifiers."""
    sim_batch_size: int = 128
    """Simulated transitions per update (b_s)."""
    sim_capacity_ratio: float = 10.0
    """Replay buffer capacity for simulated transitions, as a multiple of the number of real ones."""
    entropy_in_target: bool = False
    """Include the entropy term −α·log π(a'|s') in the TD targets."""

    importance_weights: bool = True
    """Weight simulated TD errors by the dynamics ratio w = P_real/P_sim; off: w ≡ 1 (ablation "no dynamics ratio")."""
    regulariser_weight: float = 0.01
    """Weight β of the value regulariser; 0 removes it (ablation "no value regularisation")."""
    adaptive_weighting: bool = True
    """Weight the regulariser by the dynamics gap u; off: u ≡ 1, ω = 1/b_s (ablation "no adaptive weighting")."""
    linear_regulariser: bool = False
    """Use Σ ω·Q instead of the log-sum-exp ("H2O-variant")."""
    temperature: float = 1.0
    """Temperature τ of the log-sum-exp."""
    regulariser_clip: float = 1_000.0
    """Clip |log-sum-exp − mean Q_real| at this; a clipped regulariser has no gradient."""
    lagrange: bool = False
    """Replace β by α'·β with a learned Lagrange multiplier α'."""
    lagrange_target: float = 1.0
    """Target of the gap log-sum-exp − mean Q_real, for the multiplier."""
    lagrange_lr: float = 3e-4
    """Learning rate of log α' (Adam)."""

    gap_samples: int = 10
    """Samples of the next state (N) that the dynamics gap u is averaged over."""
    gap_std_multiplier: float = 1.0
    """Standard deviation of these samples (κ), in standard deviations of the real states."""
    gap_std: Literal["data", "padded"] = "data"
    """Standard deviation σ_D: of the real states, or of the authors' zero-padded buffer (compatibility)."""
    gap_floor: float = 1e-8
    """Lower bound of the dynamics gap u."""
    gap_cap: float = 10.0
    """Upper bound of the dynamics gap u (never reached with the default `classifier_bound`)."""
    weight_floor: float = 1e-5
    """Lower bound of the importance weights; the upper bound is 1."""

    def __post_init__(self) -> None:
        positive = ["sim_capacity_ratio", "temperature", "regulariser_clip", "lagrange_lr", "gap_floor", "gap_cap"]
        rules = dict.fromkeys(positive, POSITIVE)
        rules |= dict.fromkeys(["regulariser_weight", "gap_std_multiplier", "weight_floor"], AT_LEAST_0)
        check_ranges(self, rules | dict.fromkeys(["sim_batch_size", "gap_samples"], AT_LEAST_1))
        if self.regulariser_weight > 0 and self.real_batch_size == 0:
            raise ValueError(
                "--agent.real-batch-size is 0: the regulariser needs real rows; pass --agent.regulariser-weight 0"
            )

    def unread(self) -> dict[str, str]:
        """Return what these switches leave without effect, and why."""
        return unread_where(
            (not self.uses_classifiers, OF_CLASSIFIERS, "where no weight and no gap needs the classifiers"),
            (not self.importance_weights, ("weight_floor",), "with --agent.no-importance-weights"),
            (not self.adaptive_weighting, OF_GAP, "with --agent.no-adaptive-weighting"),
            (self.linear_regulariser, ("temperature",), "with --agent.linear-regulariser"),
            (not self.lagrange, ("lagrange_target", "lagrange_lr"), "without --agent.lagrange"),
            (not self.regulariser_weight, OF_REGULARISER + OF_GAP, "with --agent.regulariser-weight 0"),
        )

    @property
    def uses_gap(self) -> bool:
        return self.regulariser_weight > 0 and self.adaptive_weighting

    @property
    def uses_classifiers(self) -> bool:
        return self.importance_weights or self.uses_gap


# --- the mathematics -------------------------------------------------------------------------------------------------


def importance_weight(log_p_ratio: Tensor, floor: float = 1e-5) -> Tensor:
    """Return w = clip(P_real/P_sim, floor, 1) (B,) of simulated transitions, without a gradient."""
    return log_p_ratio.detach().exp().clamp(floor, 1.0)


def dynamics_gap(classifiers: DomainClassifiers, sim: Batch, spread: Tensor) -> Tensor:
    """Return u = KL(P_sim ‖ P_real) (B,), before clipping, of simulated pairs, without a gradient.

    The simulator gives one s' a pair; its distribution is replaced by s' + spread, `spread` (N, B, obs) = κ·σ_D·ε, and
    the divergence by the mean of log P_sim/P_real over the N points. Noisy: often below zero.
    """
    samples = len(spread)
    pair = torch.cat([sim.obs, sim.action], -1).expand(samples, -1, -1)
    rows = torch.cat([pair, sim.next_obs + spread], -1)
    with torch.no_grad():
        return -log_ratio(classifiers.g(rows.flatten(0, 1))).view(samples, -1).mean(0)


def log_gap_weights(gap: Tensor) -> Tensor:
    """Return log ω (B,) of positive gaps (B,): ω = u/Σu over the simulated batch."""
    return gap.log().log_softmax(0)


def value_regulariser(
    q_real: Tensor, q_sim: Tensor, log_omega: Tensor, *, temperature: float = 1.0, linear: bool = False
) -> Tensor:
    """Return τ·log Σ ω·exp(Q_sim/τ) − mean Q_real for each critic (2,), or Σ ω·Q_sim − mean Q_real if `linear`.

    q_real (2, b_r), q_sim (2, b_s), log ω (b_s,). The sum runs over the simulated batch: no actions are sampled.
    """
    if linear:
        tilted = (log_omega.exp() * q_sim).sum(-1)
    else:
        tilted = temperature * (log_omega + q_sim / temperature).logsumexp(-1)
    return tilted - q_real.mean(-1)


def state_std(data: OfflineData, kind: str, padding: float = 10.0) -> Tensor:
    """Return σ_D (obs,) + 1e-3 of the real states; "padded": over them and `padding` times as many rows of zeros."""
    obs = data.obs.contiguous()  # sums of columns of a wider array round otherwise
    if kind == "data":
        return obs.std(0, correction=0) + 1e-3
    second, mean = obs.square().mean(0) / (1 + padding), obs.mean(0) / (1 + padding)
    return (second - mean.square()).clamp(min=0).sqrt() + 1e-3


# --- the agent -------------------------------------------------------------------------------------------------------


class H2ONoise(NamedTuple):
    """Standard normal numbers of one update."""

    policy: Tensor  # (b_r + b_s, act)
    target: Tensor  # (b_r + b_s, act)
    classifier: Tensor  # (2, classifier batch, 2·obs + act)
    gap: Tensor  # (N, b_s, obs)


class H2O(Stateful):
    """SAC on real and simulated transitions, with the two corrections of the critics."""

    STATEFUL = (
        "nets",
        "real",
        "sim",
        "collector",
        "classifiers",
        "classifier_optimiser",
        "log_multiplier",
        "multiplier_optimiser",
        "noise_generator",
    )
    PER_SEED = ("update_classifiers", "critic_loss", "step_multiplier")

    def __init__(self, config: H2OConfig, setting: Setting) -> None:
        assert setting.data is not None, "H2O needs offline data"
        self.config = config
        self.obs_dim, self.action_dim = box_dims(setting.spaces)
        self.nets = ActorCritic(config, setting)
        self.real = make_real_replay(setting)
        self.sim = make_replay(max(1, round(config.sim_capacity_ratio * len(setting.data))), setting)
        self.collector = make_collector(config, setting)
        self.noise_generator = make_generator(setting.seed, "update noise", setting.device)
        self.sigma = state_std(setting.data, config.gap_std, config.sim_capacity_ratio).to(setting.device)
        self.classifiers = make_classifiers(config, setting)
        self.classifier_optimiser = adam(self.classifiers.parameters(), config.classifier_lr, setting)
        self.log_multiplier = nn.Parameter(torch.ones((), device=setting.device))  # log α', 1.0 in the authors' code
        self.multiplier_optimiser = adam([self.log_multiplier], config.lagrange_lr, setting)
        self.update = accelerate(self.update_eager, setting, self.owners(), by_hand=self.update_by_hand)

    def owners(self) -> list[Any]:
        mine = [self.classifiers, self.classifier_optimiser, self.log_multiplier, self.multiplier_optimiser]
        return [*self.nets.owners(), *mine]

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
        critic_batches = self.real.sample(config.real_batch_size), self.sim.sample(config.sim_batch_size)
        rows = config.classifier_batch_size if config.uses_classifiers else 0
        classifier_batches = self.real.sample(rows), self.sim.sample(rows)
        return Due((*critic_batches, *classifier_batches, self.draw_noise()), env_steps, episodes)

    def draw_noise(self) -> H2ONoise:
        config = self.config
        batch = config.real_batch_size + config.sim_batch_size
        action = (batch, self.action_dim)
        classifier = (2, config.classifier_batch_size * config.uses_classifiers, self.classifiers.width)
        gap = (config.gap_samples * config.uses_gap, config.sim_batch_size, self.obs_dim)
        return H2ONoise(*normal(self.noise_generator, action, action, classifier, gap))

    def update_eager(
        self, real: Batch, sim: Batch, real_rows: Batch, sim_rows: Batch, noise: H2ONoise
    ) -> dict[str, Tensor]:
        """One gradient step on everything (§5, steps 4.2.2 to 4.2.8)."""
        nets, config = self.nets, self.config
        metrics = self.update_classifiers(real_rows, sim_rows, noise)
        both = join(real, sim)
        actor_loss, actor_metrics = nets.actor_loss(both.obs, noise.policy)
        y = nets.td_target(both, noise.target)
        critic_loss, critic_metrics = self.critic_loss(nets.critic(both.obs, both.action), y, sim, noise)
        self.multiplier_optimiser.zero_grad(set_to_none=True)
        nets.descend(critic_loss + actor_loss)
        if config.lagrange:
            self.multiplier_optimiser.step()
        return metrics | actor_metrics | critic_metrics

    def update_by_hand(
        self, real: Batch, sim: Batch, real_rows: Batch, sim_rows: Batch, noise: H2ONoise
    ) -> dict[str, Tensor]:
        """`update_eager`, autograd between the critics' values and their loss alone."""
        nets = self.nets
        metrics = self.update_classifiers(real_rows, sim_rows, noise)
        both = join(real, sim)
        y = nets.native_td_target(both, noise.target)
        metrics |= nets.backpropagate_through(both.obs, both.action, lambda q: self.critic_loss(q, y, sim, noise))
        metrics |= nets.backpropagate_actor(both.obs, noise.policy)
        nets.step()
        self.step_multiplier()
        return metrics

    def step_multiplier(self) -> None:
        """One step of log α' along its gradient, in the Lagrange form."""
        if self.config.lagrange:
            self.multiplier_optimiser.step()

    def update_classifiers(self, real: Batch, sim: Batch, noise: H2ONoise) -> dict[str, Tensor]:
        """One step of the classifiers, where anything needs them."""
        if not self.config.uses_classifiers:
            return {}
        scaled = self.config.classifier_noise * noise.classifier
        return classifier_step(self.classifiers, self.classifier_optimiser, real, sim, scaled)

    def critic_loss(self, q: Tensor, y: Tensor, sim: Batch, noise: H2ONoise) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the sum of both critics' losses of q (2, B) and y (B,), real rows first, and what to log of it."""
        real_rows = self.config.real_batch_size
        weight, metrics = self.weigh(sim)
        td_loss = two_domain_loss(q, y, real_rows, weight)
        q_real, q_sim = q[:, :real_rows], q[:, real_rows:]
        metrics |= {"td_loss": td_loss.detach(), "q_sim": q_sim.detach().mean()}
        if real_rows:
            metrics["q_real"] = q_real.detach().mean()
        if self.config.regulariser_weight == 0:
            return td_loss, metrics
        penalty, penalty_metrics = self.regularise(q_real, q_sim, sim, noise)
        return td_loss + penalty, metrics | penalty_metrics

    def weigh(self, sim: Batch) -> tuple[Tensor | None, dict[str, Tensor]]:
        """Return the importance weights of simulated transitions, None where they are all 1."""
        if not self.config.importance_weights:
            return None, {}
        with torch.no_grad():
            weight = importance_weight(log_ratio(self.classifiers.g(transition_rows(sim))), self.config.weight_floor)
        return weight, {"importance_weight": weight.mean()}

    def regularise(
        self, q_real: Tensor, q_sim: Tensor, sim: Batch, noise: H2ONoise
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return Σ_j β·clip(regulariser_j), times α' in the Lagrange form, with the loss of log α' added."""
        config = self.config
        log_omega, metrics = self.tilt(sim, noise)
        gap = value_regulariser(
            q_real, q_sim, log_omega, temperature=config.temperature, linear=config.linear_regulariser
        )
        clipped = gap.clamp(-config.regulariser_clip, config.regulariser_clip)
        metrics["regulariser"] = gap.detach().mean()
        metrics["regulariser_clipped"] = (gap.detach() != clipped.detach()).float().mean()
        if not config.lagrange:
            return config.regulariser_weight * clipped.sum(), metrics
        multiplier = self.log_multiplier.exp().clamp(0.0, 1e6)
        excess = clipped - config.lagrange_target
        multiplier_loss = -0.5 * (multiplier * config.regulariser_weight * excess.detach()).sum()
        metrics["multiplier"] = multiplier.detach()
        return config.regulariser_weight * (multiplier.detach() * excess).sum() + multiplier_loss, metrics

    def tilt(self, sim: Batch, noise: H2ONoise) -> tuple[Tensor, dict[str, Tensor]]:
        """Return log ω (b_s,), uniform without adaptive weighting."""
        config = self.config
        if not config.adaptive_weighting:
            return log_gap_weights(torch.ones_like(sim.reward)), {}
        raw = dynamics_gap(self.classifiers, sim, config.gap_std_multiplier * self.sigma * noise.gap)
        gap = raw.clamp(config.gap_floor, config.gap_cap)
        log_omega = log_gap_weights(gap)
        floored = (raw <= config.gap_floor).float().mean()
        return log_omega, {"gap": gap.mean(), "gap_floored": floored, "omega_std": log_omega.exp().std(correction=0)}


H2O_SPEC = AgentSpec(
    H2OConfig(),
    H2O,
    make_policy,
    "offline data of the real system and an imperfect simulator together (arXiv 2206.13464)",
    needs_data=True,
    plan=plan_collector,
    page="h2o",
    style=Style("#0072B2", "-"),
    tiny={
        "hidden": (8, 8),
        "classifier_hidden": (8, 8),
        "real_batch_size": 8,
        "sim_batch_size": 8,
        "classifier_batch_size": 8,
        "learning_starts": 16,
        "random_steps": 10,
        "rollout_steps": 4,
        "gap_samples": 3,
    },
)
SAC_MIX_SPEC = replace(
    H2O_SPEC,
    default=H2OConfig(importance_weights=False, regulariser_weight=0.0),
    summary="SAC on real and simulated transitions alike: H2O without its two corrections (control)",
    style=Style("#56B4E9", "-"),
)
