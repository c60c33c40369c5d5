"""Model-based RL with one dynamics model and a Lipschitz-regularised value: MBPO and the five arms beside it.

Zheng, Wang, Xu, Huang, "Is Model Ensemble Necessary? Model-based RL via a Single Model with Lipschitz Regularized Value
Function", ICLR 2023, arXiv 2302.01244, on Janner et al., MBPO, arXiv 1906.08253. The paper's appendix and code could
not be had: section numbers are those of the brief lipschitz_mbrl.md, whose reading of it this is.

| brief | here |
|---|---|
| 1, the arms PE (= MBPO), DE, SP, SD, RR, SN | `ARMS`, `LipschitzMBRLConfig.dynamics` |
| 4.1, 4.2 the model and its training call | `parts.dynamics`, `parts.dynamics_training` |
| 4.3 rollouts, k(e), D_model | `parts.imagination` |
| 4.4 SAC on real and imagined rows | `LipschitzMBRL.draw`, `sac.twin_q_loss`, `sac.ActorCritic` |
| 5.1 the attack, L_reg^(α)(φ; ε, π, …) | `parts.smoothing.find_perturbation`, `regulariser` |
| 5.2 spectral normalisation of every layer | `parts.spectral_norm.bound_layers`, `power_iterate` |
| 5.3 the whole algorithm | `LipschitzMBRL.step` |
| 7 value-aware error, Lipschitz estimates | `LipschitzMBRL.diagnose`, `parts.lipschitz` |

Where this differs, and why:
- ε, α, λ and β are ours: the paper's are not known for any task. `docs/lipschitz_mbrl.md` has the sweep behind them.
- The perturbation is the better of both sides of one gradient-sign step: plain FGSM does nothing where a = π̄(s).
- Losses of critics, policy and temperature are taken from the same parameters before any of them moves, as in `sac.py`.
- The critics' loss is a mean square without MBPO's ½: λ is relative to it. Adam does not notice the rest.
- Power iterations are taken once an update, not in every forward; a target takes its own.
- Recorded data is a second source of rows for the model alone: D_env, rollouts and minibatches are the task's.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, fields
from functools import partial
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from surefoot.agents.interface import AgentSpec, Batch, Progress, Setting
from surefoot.agents.parts.acceleration import accelerate
from surefoot.agents.parts.dynamics import MODEL_RANGES, DynamicsConfig, ModelOutput, check_model
from surefoot.agents.parts.dynamics_training import DynamicsModel
from surefoot.agents.parts.imagination import IMAGINATION_RANGES, Imagination, ImaginationConfig
from surefoot.agents.parts.interaction import Interaction, crosses
from surefoot.agents.parts.lipschitz import ball_slope, local_slopes, log_upper_bound, value_aware_error
from surefoot.agents.parts.networks import TanhGaussianPolicy, TwinQ
from surefoot.agents.parts.random import make_generator, normal, uniform
from surefoot.agents.parts.ranges import AT_LEAST_1, SHARE, check_ranges
from surefoot.agents.parts.replay import fold, join
from surefoot.agents.parts.smoothing import Attack, Ball, Norm, draw_in_ball, find_perturbation, robust_loss
from surefoot.agents.parts.spectral_norm import Bounding, Layers, bound_layers, power_iterate
from surefoot.agents.parts.state import Stateful
from surefoot.agents.parts.stopwatch import Stopwatch
from surefoot.agents.sac import (
    ActorCritic,
    ActorCriticConfig,
    box_dims,
    make_policy,
    make_real_replay,
    make_replay,
    twin_q_loss,
)

Arm = Literal["pe", "de", "sp", "sd", "rr", "sn"]


class Traits(NamedTuple):
    """What makes an arm."""

    ensemble: bool
    gaussian: bool


ARMS: dict[Arm, Traits] = {
    "pe": Traits(True, True),
    "de": Traits(True, False),
    "sp": Traits(False, True),
    "sd": Traits(False, False),
    "rr": Traits(False, False),
    "sn": Traits(False, False),
}
PHASES = ("model", "rollouts", "updates")
UNBOUNDED = (lambda x: 0 <= x < float("inf"), "at least 0 and finite")


@dataclass(frozen=True)
class LipschitzMBRLConfig(ImaginationConfig, DynamicsConfig, ActorCriticConfig):
    """Defaults: MBPO's code (brief, section 6); ε, α, λ, β and what else it marks as ours: the sweep of the docs."""

    arm: Arm = "rr"
    """`pe` is MBPO: a probabilistic ensemble. `de` its means. `sp`, `sd` the same with a single network. `rr` and `sn`,
    the paper's two, are `sd` with a robust loss, or with spectral normalisation, of the critics."""
    members: int = 7
    """Networks of the model in the arms pe and de; the others have 1."""
    elites: int = 5
    """Members that predict in pe and de: those with the least holdout error of the last training call."""
    model_output: ModelOutput = "nll_mean"
    """How the arms without sampling get their mean (ours; the paper says "deterministic"): `nll_mean` fits a Gaussian
    and takes its mean, `mse` fits the mean by squared error alone. pe and sp are Gaussian."""

    batch_size: int = 256
    """Transitions an update."""
    real_share: float = 0.05
    """Share of them from the task, rounded down; the others are imagined."""
    updates_per_step: int = 20
    """G, gradient updates an environment step."""
    random_steps: int = 5_000
    """Environment steps with uniform actions at the start, before the first model."""
    replay_capacity: int = 1_000_000
    """Transitions of the task that are kept, |D_env|."""
    learn_alpha: bool = True
    """Learn the temperature (MBPO); off: it stays at `initial_alpha` (0.2 in the authors' later code)."""
    offline_rows: int = 20_000
    """With recorded data: rows of it that every training call adds to D_env, drawn anew; the first has all of it."""

    epsilon: float = 0.05
    """ε, radius of the ball (rr)."""
    norm: Norm = "inf"
    """α, the norm of the ball."""
    scale: Literal["obs_std", "raw"] = "obs_std"
    """Unit of ε in every dimension: the standard deviation over D_env, or 1."""
    lam: float = 0.1
    """λ, weight of the robust loss beside the TD loss (rr); at 0 rr is sd, bit for bit."""
    attack: Attack = "two-sided"
    """How a point of the ball is found: the better end of a gradient-sign step, `fgsm`, `uniform` noise, `none`."""
    reference: Literal["stored", "policy"] = "stored"
    """What values in the ball are held to: Q(s, a) of the stored action, as printed, or Q(s, π̄(s))."""
    centre: Literal["obs", "next_obs"] = "obs"
    """Centre of the ball: s, as printed, or s'."""
    detach_reference: bool = False
    """Let no gradient into the reference (printed: it moves, too)."""

    beta: float = 3.0
    """β, spectral norm of a layer (sn). β³ should cover the range of Q over the typical distance of states."""
    bounding: Bounding = "normalise"
    """Bring every norm to β, or `clip` what is above it."""
    bounded_layers: Layers = "all"
    """`all` layers of the critics, as the paper has it, or the `hidden` ones."""
    power_iterations: int = 1
    """Power iterations an update."""

    diagnose_every: int = 1_000
    """Environment steps between two measurements of value-aware error and Lipschitz estimates."""
    diagnose_rows: int = 1_000
    """Transitions of D_env they are measured on."""

    def __post_init__(self) -> None:
        rules = {**MODEL_RANGES, **IMAGINATION_RANGES, **dict.fromkeys(["epsilon", "lam"], UNBOUNDED)}
        rules |= {
            "beta": (lambda x: 0 < x < float("inf"), "positive and finite"),
            "random_steps": (lambda x: x >= 2, "at least 2"),
        }
        counts = ["updates_per_step", "power_iterations", "diagnose_every", "diagnose_rows", "offline_rows"]
        rules |= dict.fromkeys(counts, AT_LEAST_1) | {"real_share": SHARE}
        rules["arm"] = (lambda x: x in ARMS, f"one of {', '.join(ARMS)}")
        rules["model_output"] = (lambda x: x in ("nll_mean", "mse"), "nll_mean or mse; the arms pe and sp are Gaussian")
        check_ranges(self, rules)
        check_model(self)
        if self.real_share > 0 and self.real_rows == 0:
            needs = f"{self.batch_size} x {self.real_share} is less than one row"
            raise ValueError(
                f"agent.real_share leaves no real transition in a batch ({needs}); raise it, or set it to 0"
            )
        if self.centre == "next_obs" and self.reference == "stored":
            raise ValueError("agent.centre next_obs has no stored action there: it needs agent.reference policy")

    @property
    def real_rows(self) -> int:
        """Transitions of the task in a batch."""
        return int(self.batch_size * self.real_share)

    @property
    def robust(self) -> bool:
        return self.arm == "rr" and self.lam > 0

    def dynamics(self) -> DynamicsConfig:
        """Return the arm's model."""
        values = {field.name: getattr(self, field.name) for field in fields(DynamicsConfig)}
        if not ARMS[self.arm].ensemble:
            values |= {"members": 1, "elites": 1}
        if ARMS[self.arm].gaussian:
            values["model_output"] = "gaussian"
        return DynamicsConfig(**values)


# --- the mathematics -------------------------------------------------------------------------------------------------


def state_value(critic: TwinQ, policy: TanhGaussianPolicy, obs: Tensor) -> Tensor:
    """Return V(s) = min_j Q_j(s, π̄(s)) (B,), differentiable in s alone; the paper writes max_a Q(s, a)."""
    return critic(obs, policy.mode(obs), frozen=True).amin(0)


def regulariser(
    critic: TwinQ,
    policy: TanhGaussianPolicy,
    batch: Batch,
    q: Tensor,
    ball: Ball,
    config: LipschitzMBRLConfig,
    noise: Tensor | None,
) -> Tensor:
    """Return L_reg of both critics: Σ_j mean_B max over the ball of (Q_j(s̃, π̄(s̃)) − c_j)², q (2, B) = Q_j(s, a).

    Gradients flow into the critics alone: the point is a constant, and so is π̄.
    """
    centre = batch.obs if config.centre == "obs" else batch.next_obs
    reference = q if config.reference == "stored" else critic(centre, policy.mode(centre).detach())

    def value(x: Tensor) -> Tensor:
        return critic(x, policy.mode(x), frozen=True)

    delta = find_perturbation(value, centre, reference.detach(), ball, config.attack, noise)
    perturbed = centre + delta
    return robust_loss(critic(perturbed, policy.mode(perturbed)), reference, config.detach_reference)


# --- the agent -------------------------------------------------------------------------------------------------------


def make_nets(config: LipschitzMBRLConfig, setting: Setting) -> ActorCritic:
    """Return SAC's networks; in the arm sn both critics, and their targets apart, with bounded layers."""
    nets = ActorCritic(config, setting)
    nets.log_alpha.requires_grad_(config.learn_alpha)
    if config.arm == "sn":
        start = make_generator(setting.seed, "power iteration")
        bound_layers(nets.critic, config.beta, config.bounding, start, config.bounded_layers)
        nets.target = copy.deepcopy(nets.critic).requires_grad_(False)
    return nets


class UpdateNoise(NamedTuple):
    """Random numbers of one update."""

    policy: Tensor  # (B, act), standard normal
    target: Tensor  # (B, act), standard normal
    attack: Tensor  # (2, B, obs), uniform in the unit ball, for the attack of that name; else (0,)


class LipschitzMBRL(Stateful):
    """MBPO: act, learn a model of what was seen, imagine, and train SAC on what was imagined."""

    STATEFUL = (
        "nets",
        "replay",
        "model",
        "imagination",
        "interaction",
        "data",
        "obs_scale",
        "env_steps",
        "trainings",
        "generator",
        "noise_generator",
        "attack_generator",
        "diagnose_generator",
    )

    def __init__(self, config: LipschitzMBRLConfig, setting: Setting) -> None:
        assert setting.env is not None, "this agent acts in an environment"
        self.config, self.device = config, setting.device
        self.obs_dim, self.action_dim = box_dims(setting.spaces)
        shape = (self.obs_dim, self.action_dim)
        self.nets = make_nets(config, setting)
        self.replay = make_replay(config.replay_capacity, setting)  # D_env
        self.model = DynamicsModel(config.dynamics(), setting, *shape)
        self.imagination = Imagination(config, setting, *shape)
        self.interaction = Interaction(setting.env, setting.seed)
        self.data = make_real_replay(setting) if setting.data is not None else None
        self.obs_scale = torch.ones(self.obs_dim, device=self.device)  # S of the ball
        self.env_steps = self.trainings = 0
        self.generator, self.noise_generator, self.attack_generator, self.diagnose_generator = (
            make_generator(setting.seed, stream, self.device)
            for stream in ("acting", "update noise", "attack", "diagnostics")
        )
        self.update = accelerate(self.update_eager, setting, [*self.nets.owners(), self.obs_scale])

    @property
    def policy(self) -> TanhGaussianPolicy:
        return self.nets.policy

    def act(self, obs: Tensor, *, explore: bool = False) -> Tensor:
        """Return actions (N, act) for obs (N, obs): tanh(mean), or a sample."""
        return self.policy.act(obs, explore=explore, generator=self.noise_generator)

    # -- one environment step (brief, 5.3)

    def step(self) -> Progress:
        """A new model and new rollouts where they are due, a step in every lane, and the updates it earns."""
        watch = Stopwatch(self.device, PHASES)
        metrics: dict[str, Tensor] = {}
        learned = self.env_steps - self.config.random_steps  # environment steps since the first model was due
        if self.model_is_due(learned):
            metrics |= self.learn_model(watch)
            metrics |= self.imagine(learned, watch)
        batch, episodes = self.interaction.step(self.choose())
        self.replay.push(batch)
        lanes = len(batch.reward)
        self.env_steps += lanes
        updates = self.config.updates_per_step * lanes if self.trainings and len(self.imagination.replay) else 0
        if updates:
            with watch("updates"):
                metrics |= mean_of([self.update(*drawn) for drawn in self.draw(updates)])
        if self.trainings and crosses(self.env_steps - lanes, self.env_steps, self.config.diagnose_every):
            metrics |= self.diagnose()
        if self.trainings:
            metrics |= watch.per_thousand(lanes)
        return Progress(lanes, updates, metrics, (episodes,))

    def model_is_due(self, learned: int) -> bool:
        return learned >= self.trainings * self.config.model_interval

    def choose(self) -> Tensor:
        """Return exploring actions (N, act): uniform in the first `random_steps`, then sampled from the policy."""
        obs = self.interaction.obs
        if self.env_steps >= self.config.random_steps:
            return self.policy.act(obs, explore=True, generator=self.generator)
        return uniform(self.generator, (len(obs), self.action_dim))

    # -- the model

    def learn_model(self, watch: Stopwatch) -> dict[str, Tensor]:
        """One training call on D_env and recorded data; the unit of ε follows the observations."""
        rows = self.replay.everything()
        if self.config.scale == "obs_std":
            self.obs_scale.copy_(rows.obs.std(0, correction=0))
        if self.data is not None:
            recorded = self.data.everything() if not self.trainings else self.data.sample(self.config.offline_rows)
            rows = join(rows, recorded)
        with watch("model"):
            metrics = self.model.train(rows)
        self.trainings += 1
        return metrics

    def imagine(self, learned: int, watch: Stopwatch) -> dict[str, Tensor]:
        """Fill D_model with rollouts of the epoch's length from states of D_env."""
        with watch("rollouts"):
            self.imagination.begin_epoch(learned // self.config.epoch_length)
            return self.imagination.roll_out(self.policy, self.model, self.replay)

    # -- the updates

    def draw(self, updates: int) -> list[tuple[Batch, UpdateNoise]]:
        """Return a batch for each update, its real rows first, and the random numbers of the update on it.

        Drawn for all of them at once: on a GPU, starting so many small operations would cost more than they do.
        """
        config, rows, action = self.config, self.config.batch_size, (updates, self.config.batch_size, self.action_dim)
        real = fold(self.replay.sample(updates * config.real_rows), updates)
        imagined = fold(self.imagination.replay.sample(updates * (rows - config.real_rows)), updates)
        batches = zip(*join(real, imagined, 1), strict=True)
        noises = zip(*normal(self.noise_generator, action, action), self.draw_attack(updates), strict=True)
        return [(Batch(*batch), UpdateNoise(*noise)) for batch, noise in zip(batches, noises, strict=True)]

    def draw_attack(self, updates: int) -> Tensor:
        """Return points of the unit ball for every update (updates, 2, B, obs); (updates, 0) for other attacks."""
        config = self.config
        if not (config.robust and config.attack == "uniform"):
            return torch.empty(updates, 0, device=self.device)
        points = (updates, 2, config.batch_size, self.obs_dim)
        return draw_in_ball(self.attack_generator, points, config.norm)

    def update_eager(self, batch: Batch, noise: UpdateNoise) -> dict[str, Tensor]:
        """One gradient step on everything (brief, 5.1)."""
        nets, config = self.nets, self.config
        if config.arm == "sn":
            power_iterate(nets.critic, config.power_iterations)
        y = nets.td_target(batch, noise.target)
        q = nets.critic(batch.obs, batch.action)
        critic_loss = twin_q_loss(q, y)
        metrics = {"critic_loss": critic_loss.detach(), "q": q.detach().mean(), "q_std": q.detach().std()}
        if config.robust:
            ball = Ball(config.epsilon, config.norm, self.obs_scale)
            robust = regulariser(nets.critic, nets.policy, batch, q, ball, config, noise.attack)
            critic_loss = critic_loss + config.lam * robust
            metrics["robust_loss"] = robust.detach()
        actor_loss, actor_metrics = nets.actor_loss(batch.obs, noise.policy)
        nets.descend(critic_loss + actor_loss)
        if config.arm == "sn":
            power_iterate(nets.target, config.power_iterations)
        return metrics | actor_metrics

    # -- what is measured (brief, 7)

    def diagnose(self) -> dict[str, Tensor]:
        """Return value-aware error and Lipschitz estimates on transitions of D_env; changes nothing of the run."""
        config, critic, policy = self.config, self.nets.critic, self.nets.policy
        index = torch.randint(
            len(self.replay), (config.diagnose_rows,), generator=self.diagnose_generator, device=self.device
        )
        rows = self.replay.unpack(self.replay.rows.index_select(0, index))
        _, predicted = self.model.predict(rows.obs, rows.action, self.diagnose_generator)
        ball = Ball(config.epsilon, config.norm, self.obs_scale)
        value = partial(state_value, critic, policy)
        slopes = local_slopes(value, rows.obs)
        with torch.no_grad():
            v, own = value(rows.next_obs), critic(rows.obs, policy.mode(rows.obs))
            error = value_aware_error(v, value(predicted)).clamp(min=1e-12)
            miss = (predicted - rows.next_obs) / self.obs_scale.clamp(min=1e-12)
            return {
                "value_aware_error": error.log(),
                "value_aware_error_relative": (error / v.var().clamp(min=1e-12)).log(),
                "lip_upper": log_upper_bound(critic).mean(),
                "lip_local": slopes.mean(),
                "lip_local_p99": slopes.quantile(0.99),
                "lip_ball": ball_slope(value, rows.obs, ball),
                "action_gap": (own - critic(rows.obs, rows.action)).abs().mean(),
                "model_error": miss.square().mean().sqrt(),
            }


def mean_of(metrics: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Return the mean of every metric over the updates of a step."""
    return {name: torch.stack([one[name] for one in metrics]).mean() for name in metrics[0]}


MBPO_SPEC = AgentSpec(
    LipschitzMBRLConfig(),
    LipschitzMBRL,
    make_policy,
    "MBPO with an ensemble, or with one model and smooth critics (arXiv 2302.01244): --arm pe, de, sp, sd, rr or sn",
    imagines=True,
    shown=(
        "value_aware_error",
        "lip_upper",
        "lip_local",
        "lip_ball",
        "model_holdout_mse",
        "rollout_mean_length",
        *(f"seconds/{phase}" for phase in PHASES),
    ),
    drawn=(
        "value_aware_error",
        "value_aware_error_relative",
        "model_holdout_mse",
        "lip_upper",
        "lip_local",
        "lip_ball",
        "q_std",
        "alpha",
        "rollout_mean_length",
        *(f"seconds/{phase}" for phase in PHASES),
    ),
)
