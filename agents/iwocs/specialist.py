"""What IWOCS learns in one model, SAC with an entropy-free critic and a predictor, and the policy of all models."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn

from surefoot.agents.interface import Progress, Setting, Spaces
from surefoot.agents.iwocs.composite import (
    Act,
    Composite,
    Gate,
    Specialist,
    prediction_error,
    prediction_loss,
)
from surefoot.agents.iwocs.config import IWOCSConfig
from surefoot.agents.iwocs.models import CompositeAmongModels, ModelGate
from surefoot.agents.parts.acceleration import accelerate, adam, step_all, take_step
from surefoot.agents.parts.networks import MLP, TwinQ, soft_update
from surefoot.agents.parts.random import make_generator, normal
from surefoot.agents.parts.state import Stateful
from surefoot.agents.sac import (
    ActorCritic,
    SACNoise,
    box_dims,
    make_collector,
    make_policy,
    make_replay,
    soft_target,
    twin_q_loss,
)

SCALE_ROWS = 100_000  # replayed transitions of which `error_quantile` is taken


# --- learning in one model --------------------------------------------------------------------------------------------


class StaticSolver(Stateful):
    """SAC in one model, with an entropy-free critic and a predictor in addition."""

    STATEFUL = (
        "nets",
        "entropy_free",
        "entropy_free_target",
        "predictor",
        "entropy_free_optimiser",
        "predictor_optimiser",
        "replay",
        "collector",
        "noise_generator",
    )

    def __init__(self, config: IWOCSConfig, setting: Setting) -> None:
        self.config = config
        obs_dim, self.action_dim = box_dims(setting.spaces)
        generator = make_generator(setting.seed, "specialist")
        self.nets = ActorCritic(config, setting)
        self.entropy_free = TwinQ(obs_dim, self.action_dim, config.entropy_free_hidden, generator=generator).to(
            setting.device
        )
        self.entropy_free_target = copy.deepcopy(self.entropy_free).requires_grad_(False)
        self.predictor = MLP(obs_dim + self.action_dim, config.hidden, obs_dim, generator=generator).to(setting.device)
        self.entropy_free_optimiser = adam(self.entropy_free.parameters(), config.critic_lr, setting, config.adam_eps)
        self.predictor_optimiser = adam(self.predictor.parameters(), config.critic_lr, setting, config.adam_eps)
        self.replay = make_replay(config.replay_capacity, setting)
        self.collector = make_collector(config, setting)
        self.noise_generator = make_generator(setting.seed, "update noise", setting.device)
        critic = self.entropy_free, self.entropy_free_target, self.entropy_free_optimiser
        owners = (*self.nets.owners(), *critic, self.predictor, self.predictor_optimiser)
        self.update = accelerate(self.update_eager, setting, owners, by_hand=self.update_by_hand)

    @property
    def gate_critic(self) -> TwinQ:
        """The critic by which the gate selects who acts."""
        return self.entropy_free if self.config.gate_critic == "entropy-free" else self.nets.critic

    def step(self) -> Progress:
        """One step in every environment and the updates it is due."""
        episodes = self.collector.advance(self.nets.policy, self.replay)
        update, env_steps = self.collector.take_update()
        if not update:
            return Progress(env_steps, 0, {}, episodes)
        shape = (self.config.batch_size, self.action_dim)
        noise = SACNoise(*normal(self.noise_generator, shape, shape))
        return Progress(env_steps, 1, self.update(self.replay.sample(self.config.batch_size), noise), episodes)

    def update_eager(self, batch: Any, noise: SACNoise) -> dict[str, Tensor]:
        """One gradient step on everything; no two losses reach the same network."""
        nets = self.nets
        y = nets.td_target(batch, noise.target)
        critic_loss = twin_q_loss(nets.critic(batch.obs, batch.action), y)
        free_loss, free_metrics = self.entropy_free_losses(batch, noise)
        actor_loss, metrics = nets.actor_loss(batch.obs, noise.policy)
        nets.descend(critic_loss + actor_loss)
        take_step([self.entropy_free_optimiser, self.predictor_optimiser], free_loss)
        soft_update(self.entropy_free_target.parameters(), self.entropy_free.parameters(), self.config.tau)
        return {"critic_loss": critic_loss.detach(), **free_metrics, **metrics}

    def update_by_hand(self, batch: Any, noise: SACNoise) -> dict[str, Tensor]:
        """`update_eager`, autograd for the entropy-free critic and the predictor alone."""
        nets = self.nets
        y = nets.native_td_target(batch, noise.target)
        free_loss, metrics = self.entropy_free_losses(batch, noise)
        free_loss.backward()
        metrics["critic_loss"] = nets.backpropagate_critic(batch.obs, batch.action, y)["critic_loss"]
        metrics |= nets.backpropagate_actor(batch.obs, noise.policy)
        nets.step()
        step_all([self.entropy_free_optimiser, self.predictor_optimiser])
        soft_update(self.entropy_free_target.parameters(), self.entropy_free.parameters(), self.config.tau)
        return metrics

    def entropy_free_losses(self, batch: Any, noise: SACNoise) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the losses of entropy-free critic and predictor as one, and what to log of them."""
        gamma, nets = self.config.gamma, self.nets
        y = soft_target(batch, nets.policy, self.entropy_free_target, noise.target, gamma, None)
        q = self.entropy_free(batch.obs, batch.action)
        q_loss = twin_q_loss(q, y)
        predictor_loss = prediction_loss(_predict(self.predictor, batch.obs, batch.action), batch.next_obs)
        logged = {"entropy_free_critic_loss": q_loss, "prediction_error": predictor_loss, "q": q.mean()}
        return q_loss + predictor_loss, {name: value.detach() for name, value in logged.items()}

    @torch.no_grad()
    def usual_error(self, quantile: float) -> float:
        """Return a quantile of the predictor's errors over the replay."""
        batch = self.replay.sample(min(len(self.replay), SCALE_ROWS))
        error = prediction_error(_predict(self.predictor, batch.obs, batch.action), batch.next_obs)
        return float(error.quantile(quantile))


# --- the policy of all models -----------------------------------------------------------------------------------------


class IWOCSPolicy(nn.Module):
    """The default policy, a place for every specialist, and how many of them the deployed composite has."""

    rho: Tensor
    usual: Tensor
    used: Tensor
    first: Tensor

    def __init__(self, config: IWOCSConfig, spaces: Spaces, generator: torch.Generator | None = None) -> None:
        super().__init__()
        generator = generator or torch.Generator()
        obs_dim, action_dim = box_dims(spaces)
        widths = config.entropy_free_hidden if config.gate_critic == "entropy-free" else config.hidden
        self.default = make_policy(config, spaces, generator)
        models = range(config.iterations)
        self.actors = nn.ModuleList(make_policy(config, spaces, generator) for _ in models)
        self.critics = nn.ModuleList(TwinQ(obs_dim, action_dim, widths, generator=generator) for _ in models)
        self.predictors = nn.ModuleList(
            MLP(obs_dim + action_dim, config.hidden, obs_dim, generator=generator) for _ in models
        )
        self.register_buffer("rho", torch.zeros(config.iterations, dtype=torch.float64))
        self.register_buffer("usual", torch.ones(config.iterations, dtype=torch.float64))
        self.register_buffer("used", torch.tensor(0))
        self.register_buffer("first", torch.full((config.iterations + 1,), -1))  # of so many models; −1: the default
        self.searched = config.gate_first == "searched"
        first = "default" if config.gate_first == "searched" else config.gate_first
        self.gate = Gate(config.gate_memory, config.gate_choice, first)
        self.config, self.dims = config, (obs_dim, action_dim)
        self.models: ModelGate | None = None  # that of what is trained
        self.deployed_models: ModelGate | None = None  # and of what is deployed
        self.requires_grad_(False)

    def open_models(self, points: Tensor, generator: torch.Generator | None = None) -> ModelGate:
        """Make the gates of `gate="models"` for points (P, d) of the search, scaled to [−1, 1]; return the first."""
        count, dims = points.shape
        sizes = (*self.dims, dims), count, self.config.iterations + 1, self.config.hidden
        self.models = ModelGate(*sizes, generator or torch.Generator())
        self.models.points.copy_(points)
        self.deployed_models = copy.deepcopy(self.models)
        self.to(self.rho.device)
        return self.models

    def deploy(self, used: int) -> None:
        """Let so many specialists, and the gate as it is now, be what is deployed."""
        self.used.fill_(used)
        if self.models is not None and self.deployed_models is not None:
            self.deployed_models.load_state_dict(self.models.state_dict())

    def specialists(
        self, rho: Sequence[float], *, explore: bool = False, generator: torch.Generator | None = None
    ) -> list[Specialist]:
        """Return the first specialists, one for each ρ."""
        parts = zip(rho, self.actors, self.critics, self.predictors, self.usual.tolist(), strict=False)
        return [
            Specialist(_actor(actor, explore, generator), critic, partial(_predict, predictor), r, usual)
            for r, actor, critic, predictor, usual in parts
        ]

    def composite(
        self,
        rho: Sequence[float],
        models: ModelGate | None = None,
        *,
        explore: bool = False,
        generator: torch.Generator | None = None,
    ) -> Composite:
        """Return the composite of the default and the first specialists, one for each ρ, or judged by `models`."""
        specialists, first = self.specialists(rho, explore=explore, generator=generator), int(self.first[len(rho)])
        default = _actor(self.default, explore, generator)
        if models is not None:
            return CompositeAmongModels(specialists, default, models, self.config.gate_tolerance, first)
        gate = self.gate._replace(first=first) if self.searched and first >= 0 else self.gate
        return Composite(specialists, default, gate)

    def stateful(self, *, explore: bool = False, generator: torch.Generator | None = None) -> Composite:
        """Return the composite as a stateful policy."""
        rho = self.rho[: int(self.used)].tolist()
        return self.composite(rho, self.deployed_models, explore=explore, generator=generator)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *others: Any) -> None:
        kept_later = {"usual": torch.ones_like(self.usual), "first": torch.full_like(self.first, -1)}
        for name, before in kept_later.items():  # of runs before these were kept
            state_dict.setdefault(f"{prefix}{name}", before)
        for gate in ("models", "deployed_models"):
            if f"{prefix}{gate}.values" in state_dict:
                state_dict.setdefault(f"{prefix}{gate}.lowest", state_dict[f"{prefix}{gate}.values"])
        points = state_dict.get(f"{prefix}models.points")
        if points is not None and self.models is None:
            self.open_models(points.cpu())
        super()._load_from_state_dict(state_dict, prefix, *others)

    @torch.no_grad()
    def act(self, obs: Tensor, *, explore: bool = False) -> Tensor:
        """Return actions (N, act) of the first step of episodes that begin in obs (N, obs)."""
        return self.stateful(explore=explore)(obs)


def _actor(policy: nn.Module, explore: bool, generator: torch.Generator | None) -> Act:
    return partial(cast(Any, policy).act, explore=explore, generator=generator)


def _predict(predictor: nn.Module, obs: Tensor, action: Tensor) -> Tensor:
    prediction: Tensor = predictor(torch.cat([obs, action], -1))
    return prediction
