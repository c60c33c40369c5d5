"""Model-based RL with one dynamics model and a Lipschitz-regularised value: MBPO and five variants of it.

Zheng, Wang, Xu, Huang, "Is Model Ensemble Necessary? Model-based RL via a Single Model with Lipschitz Regularized Value
Function", ICLR 2023, arXiv 2302.01244, on Janner et al., MBPO, arXiv 1906.08253. The paper's method section, appendix
and code could not be had, so its own numbers are not known. Derivation: docs/derivations/lipschitz_mbrl.md.

| derivation | paper | here |
|---|---|---|
| §1.1 the variants PE (= MBPO), DE, SP, SD, RR, SN | – | `settings.VARIANTS`, `settings.LipschitzMBRLConfig.dynamics` |
| (1.1) V(s) | – | `state_value` |
| §3 the model and its training call | – | `dynamics`, `dynamics_training` |
| §4 rollouts, k(e), D_model | – | `imagination` |
| (5.1) to (5.5) SAC | – | `sac.ActorCritic`, `sac.soft_target`, `sac.twin_q_loss` |
| (5.6) real and imagined rows of a minibatch | – | `LipschitzMBRL.draw` |
| (6.3), (6.10) for (6.1): L_reg^(α)(φ; ε, π, …) | – (the authors' page) | `regulariser` |
| (6.4) to (6.9) the ball and the attack | – | `smoothing`, `LipschitzMBRL.draw_attack` |
| (6.2), (6.11) an update, as in §6.4 | – (the authors' page) | `LipschitzMBRL.update_eager` |
| §7 spectral normalisation of every layer | – | `spectral_norm`, `make_nets` |
| §8 the whole algorithm; (8.1) when a model is due | – | `LipschitzMBRL.step`; `LipschitzMBRL.model_is_due` |
| (9.1) to (9.6) value-aware error, Lipschitz estimates | – | `LipschitzMBRL.diagnose`, `lipschitz` |

Where this differs, and why:
- ε, α, λ and β are ours: the paper's are not known for any task. Their sweep: `docs/methods/lipschitz_mbrl.md`.
- The perturbation is the better of both sides of one gradient-sign step: plain FGSM does nothing where a = π̄(s).
- Losses of critics, policy and temperature are taken from the same parameters before any of them moves, as in `sac.py`.
- The critics' loss is a mean square without MBPO's ½: λ is relative to it. Adam does not notice the rest.
- Power iterations are taken once per update, not in every forward; a target takes its own.
- Recorded data is a second source of rows for the model alone: D_env, rollouts and minibatches are the task's.
"""

from __future__ import annotations

import copy
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from surefoot.agents.interface import AgentSpec, Batch, Progress, Setting, Style
from surefoot.agents.lipschitz_mbrl.dynamics_training import DynamicsModel
from surefoot.agents.lipschitz_mbrl.imagination import Imagination
from surefoot.agents.lipschitz_mbrl.lipschitz import ball_slope, local_slopes, log_upper_bound, value_aware_error
from surefoot.agents.lipschitz_mbrl.settings import LipschitzMBRLConfig, plan
from surefoot.agents.lipschitz_mbrl.smoothing import Ball, draw_in_ball, find_perturbation, robust_loss
from surefoot.agents.lipschitz_mbrl.spectral_norm import bound_layers, power_iterate
from surefoot.agents.lipschitz_mbrl.stopwatch import Stopwatch
from surefoot.agents.parts.acceleration import accelerate
from surefoot.agents.parts.interaction import Interaction, crosses
from surefoot.agents.parts.networks import TanhGaussianPolicy, TwinQ
from surefoot.agents.parts.random import make_generator, normal, uniform
from surefoot.agents.parts.replay import fold, join
from surefoot.agents.parts.state import Stateful
from surefoot.agents.sac import (
    ActorCritic,
    box_dims,
    make_policy,
    make_real_replay,
    make_replay,
    twin_q_loss,
)

PHASES = {"model": "model training", "rollouts": "model rollouts", "updates": "updates"}  # in words


# --- the mathematics -------------------------------------------------------------------------------------------------


def state_value(critic: TwinQ, policy: TanhGaussianPolicy, obs: Tensor) -> Tensor:
    """Return V(s) = min_j Q_j(s, π̄(s)) (B,), differentiable in s alone; the paper writes max_a Q(s, a)."""
    q: Tensor = critic(obs, policy.mode(obs), frozen=True)
    return q.amin(0)


def td_loss(q: Tensor, y: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """Return `twin_q_loss` of q (2, B) and y (B,), and what to log of it."""
    loss = twin_q_loss(q, y)
    return loss, {"critic_loss": loss.detach(), "q": q.detach().mean(), "q_std": q.detach().std(correction=0)}


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
        values: Tensor = critic(x, policy.mode(x), frozen=True)
        return values

    delta = find_perturbation(value, centre, reference.detach(), ball, config.attack, noise)
    perturbed = centre + delta
    return robust_loss(critic(perturbed, policy.mode(perturbed)), reference, config.detach_reference)


# --- the agent -------------------------------------------------------------------------------------------------------


def make_nets(config: LipschitzMBRLConfig, setting: Setting) -> ActorCritic:
    """Return SAC's networks; in the variant sn both critics, and their targets apart, with bounded layers."""
    nets = ActorCritic(config, setting)
    nets.log_alpha.requires_grad_(config.learn_alpha)
    if config.variant == "sn":
        start = make_generator(setting.seed, "power iteration")
        bound_layers(nets.critic, config.spectral_bound, config.bounding, start, config.bounded_layers)
        nets.target = copy.deepcopy(nets.critic).requires_grad_(False)
    return nets


class UpdateNoise(NamedTuple):
    """Random numbers of one update."""

    policy: Tensor  # (B, act), standard normal
    target: Tensor  # (B, act), standard normal
    attack: Tensor  # (2, B, obs), uniform in the unit ball, for the attack of that name; else (0,)


class LipschitzMBRL(Stateful):
    """MBPO: act, learn a model of what was seen, roll it out, and train SAC on the rollouts."""

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
        owners = [*self.nets.owners(), self.obs_scale]
        by_hand = None if config.variant == "sn" else self.update_by_hand  # bounded layers need autograd
        self.update = accelerate(self.update_eager, setting, owners, by_hand=by_hand)

    @property
    def policy(self) -> TanhGaussianPolicy:
        return self.nets.policy

    def act(self, obs: Tensor, *, explore: bool = False) -> Tensor:
        """Return actions (N, act) for obs (N, obs): tanh(mean), or a sample."""
        return self.policy.act(obs, explore=explore, generator=self.noise_generator)

    # -- one environment step (§8)

    def step(self) -> Progress:
        """A new model and new rollouts where they are due, a step in every environment, and the updates it earns."""
        watch = Stopwatch(self.device, PHASES)
        metrics: dict[str, Tensor] = {}
        learned = self.env_steps - self.config.random_steps  # environment steps since the first model was due
        if self.model_is_due(learned):
            metrics |= self.learn_model(watch)
            metrics |= self.imagine(learned, watch)
        batch, episodes = self.interaction.step(self.choose())
        self.replay.push(batch)
        num_envs = len(batch.reward)
        self.env_steps += num_envs
        updates = self.config.updates_per_step * num_envs if self.trainings and len(self.imagination.replay) else 0
        if updates:
            with watch("updates"):
                metrics |= mean_of([self.update(*drawn) for drawn in self.draw(updates)])
        if self.trainings and crosses(self.env_steps - num_envs, self.env_steps, self.config.diagnose_every):
            metrics |= self.diagnose()
        if self.trainings:
            metrics |= watch.per_thousand(num_envs)
        return Progress(num_envs, updates, metrics, (episodes,))

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
        batches = zip(*join(real, imagined), strict=True)
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
        """One gradient step on everything (§6.4; in the variant sn §7.3)."""
        nets, config = self.nets, self.config
        if config.variant == "sn":
            power_iterate(nets.critic, config.power_iterations)
        y = nets.td_target(batch, noise.target)
        critic_loss, metrics = self.critic_loss(batch, y, noise)
        actor_loss, actor_metrics = nets.actor_loss(batch.obs, noise.policy)
        nets.descend(critic_loss + actor_loss)
        if config.variant == "sn":
            power_iterate(nets.target, config.power_iterations)
        return metrics | actor_metrics

    def update_by_hand(self, batch: Batch, noise: UpdateNoise) -> dict[str, Tensor]:
        """`update_eager`, autograd in the robust term alone."""
        nets = self.nets
        y = nets.native_td_target(batch, noise.target)
        if self.config.robust:
            loss, metrics = self.critic_loss(batch, y, noise)
            loss.backward()
        else:
            metrics = nets.backpropagate_through(batch.obs, batch.action, lambda q: td_loss(q, y))
        metrics |= nets.backpropagate_actor(batch.obs, noise.policy)
        nets.step()
        return metrics

    def critic_loss(self, batch: Batch, y: Tensor, noise: UpdateNoise) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the critics' loss and what to log of it."""
        nets, config = self.nets, self.config
        q = nets.critic(batch.obs, batch.action)
        loss, metrics = td_loss(q, y)
        if config.robust:
            ball = Ball(config.perturbation_radius, config.norm, self.obs_scale)
            robust = regulariser(nets.critic, nets.policy, batch, q, ball, config, noise.attack)
            loss = loss + config.robust_weight * robust
            metrics["robust_loss"] = robust.detach()
        return loss, metrics

    # -- what is measured (§9)

    def diagnose(self) -> dict[str, Tensor]:
        """Return value-aware error and Lipschitz estimates on transitions of D_env; changes nothing of the run."""
        config, critic, policy = self.config, self.nets.critic, self.nets.policy
        index = torch.randint(
            len(self.replay), (config.diagnose_rows,), generator=self.diagnose_generator, device=self.device
        )
        rows = self.replay.unpack(self.replay.rows.index_select(0, index))
        _, predicted = self.model.predict(rows.obs, rows.action, self.diagnose_generator)
        ball = Ball(config.perturbation_radius, config.norm, self.obs_scale)
        value = partial(state_value, critic, policy)
        slopes = local_slopes(value, rows.obs)
        with torch.no_grad():
            v, own = value(rows.next_obs), critic(rows.obs, policy.mode(rows.obs))
            error = value_aware_error(v, value(predicted)).clamp(min=1e-12)
            unit = torch.where(self.obs_scale < 1e-12, 1.0, self.obs_scale)  # a coordinate that never moves: its own
            miss = (predicted - rows.next_obs) / unit
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
    "MBPO with an ensemble, or one model and smooth critics (arXiv 2302.01244): --variant pe, de, sp, sd, rr or sn",
    model_based=True,
    takes_data=True,
    plan=plan,
    shown=(
        "value_aware_error",
        "lip_upper",
        "lip_local",
        "lip_ball",
        "model_holdout_mse",
        "rollout_mean_length",
        *(f"seconds/{phase}" for phase in PHASES),
    ),
    drawn={
        "value_aware_error": "ln of the value-aware\nmodel error (squared return)",
        "value_aware_error_relative": "ln of the value-aware model error\n(as a fraction of the variance of V)",
        "model_holdout_mse": "model error on held-out rows\n(squared units of the state)",
        "lip_upper": "ln of the upper bound of the slope of Q\n(return per unit of state and action)",
        "lip_local": "mean slope of V,\na lower estimate (return per unit of state)",
        "lip_ball": "largest slope of V in the ball,\na lower estimate (return per unit of state)",
        "q_std": "standard deviation of Q (return)",
        "alpha": "entropy temperature α (reward per nat)",
        "rollout_mean_length": "mean length of\nmodel rollouts (steps)",
        **{
            f"seconds/{phase}": f"time of {words}\n(seconds per 1000 environment steps)"
            for phase, words in PHASES.items()
        },
    },
    variant="variant",
    variant_styles={
        "pe": Style("#000000", "-"),
        "de": Style("#7F7F7F", "--"),
        "sp": Style("#E69F00", "--"),
        "sd": Style("#D55E00", "-"),
        "rr": Style("#0072B2", "-"),
        "sn": Style("#009E73", "-"),
    },
    page="lipschitz_mbrl",
    style=Style("#000000", "--"),
    tiny={
        "hidden": (8, 8),
        "batch_size": 8,
        "random_steps": 10,
        "replay_capacity": 400,
        "ensemble_size": 3,
        "model_hidden": (8, 8),
        "model_decay": (0.0, 0.0, 0.0),
        "model_epochs": 2,
        "elites": 2,
        "real_ratio": 0.25,
        "rollout_starts": 12,
        "model_interval": 14,
        "epoch_length": 20,
        "rollout_schedule": (1, 3, 1, 2),
        "diagnose_every": 6,
        "diagnose_rows": 16,
        "updates_per_step": 1,
    },
)
