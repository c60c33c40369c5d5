"""What IWOCS learns in one model, SAC with a plain critic and a predictor beside it, and the policy of all models."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from surefoot.agents.interface import Progress, Setting, Spaces
from surefoot.agents.iwocs.composite import THRESHOLDS, Act, Composite, Specialist, prediction_error, prediction_loss
from surefoot.agents.iwocs.search import GENERATIONS, POPULATION
from surefoot.agents.parts.acceleration import accelerate, adam, take_step
from surefoot.agents.parts.networks import MLP, TwinQ, soft_update
from surefoot.agents.parts.random import make_generator, normal
from surefoot.agents.parts.ranges import AT_LEAST_0, AT_LEAST_1, WIDTHS, check_ranges, optional
from surefoot.agents.parts.state import Stateful
from surefoot.agents.sac import (
    ActorCritic,
    SACConfig,
    SACNoise,
    box_dims,
    make_policy,
    make_replay,
    make_rollout,
    soft_target,
    twin_q_loss,
)

SCALE_ROWS = 100_000  # replayed transitions of which `error_quantile` is taken


@dataclass(frozen=True)
class IWOCSConfig(SACConfig):
    """Defaults: the paper's table 5 and appendix H for two parameters; network widths and the rest are the brief's."""

    critic_lr: float = 1e-3
    """Adam step size of critics and predictor."""
    adam_eps: float = 1e-5
    """ε of every Adam."""
    learning_starts: int = 10_000
    """Environment steps in each model before the first round of updates."""
    random_steps: int = 10_000
    """Environment steps with uniform actions at the start of each model."""
    plain_hidden: tuple[int, ...] = (256, 256, 256)
    """Hidden layer widths of the critic without entropy: one layer more than the others."""
    default_steps: int = 1_600_000
    """N_def, environment steps of the default policy, under domain randomisation."""
    model_steps: int = 800_000
    """N_sac, environment steps in each model."""
    iterations: int = 3
    """M, the most models to train in."""
    thresholds: tuple[float, ...] = THRESHOLDS
    """R, the values that ρ is chosen from; 0 also lets a specialist be rejected, inf is no gate."""
    error_quantile: float | None = None
    """Measure prediction errors in this quantile of a model's own, over its replay (ours); None: as they are."""
    search: Literal["grid", "cma", "random"] = "grid"
    """How the worst model is searched: a grid (IWOCS*), CMA-ES (IWOCS) or uniform points."""
    grid_n: int = 10
    """Values of each parameter on the search grid."""
    grid_closed: bool = False
    """Whether the search grid has both ends of each range; the published one is half-open."""
    population: int = POPULATION
    """Points of a generation of CMA-ES."""
    generations: int = GENERATIONS
    """Generations of CMA-ES."""
    search_episodes: int = 1
    """Episodes at each point of a search, from the same reset seeds at all points."""
    repeat_tolerance: float = 0.02
    """Two models are the same if no parameter differs by more than this share of its range."""
    next_model: Literal["worst", "random"] = "worst"
    """The model to train in next; `random` is an ablation."""
    judge: Literal["plain", "soft"] = "plain"
    """The critic whose smallest value decides who acts; `soft`, SAC's own with entropy, is an ablation."""

    def __post_init__(self) -> None:
        counts = ("default_steps", "model_steps", "generations", "search_episodes")
        rules = dict.fromkeys(counts, AT_LEAST_1) | dict.fromkeys(["iterations", "repeat_tolerance"], AT_LEAST_0)
        rules |= dict.fromkeys(["grid_n", "population"], (lambda x: x >= 2, "at least 2"))
        rules["thresholds"] = (lambda x: len(x) > 0 and min(x) >= 0 and sorted(x) == list(x), "numbers from 0 on, up")
        rules["error_quantile"] = optional((lambda x: 0 < x < 1, "in (0, 1), or None"))
        rules["plain_hidden"] = WIDTHS
        check_ranges(self, rules)


# --- learning in one model --------------------------------------------------------------------------------------------


class StaticSolver(Stateful):
    """SAC in one model, with a critic without entropy and a predictor beside it."""

    STATEFUL = (
        "nets",
        "plain",
        "plain_target",
        "predictor",
        "plain_optimiser",
        "predictor_optimiser",
        "replay",
        "rollout",
        "noise_generator",
    )

    def __init__(self, config: IWOCSConfig, setting: Setting) -> None:
        self.config = config
        obs_dim, self.action_dim = box_dims(setting.spaces)
        generator = make_generator(setting.seed, "specialist")
        self.nets = ActorCritic(config, setting)
        self.plain = TwinQ(obs_dim, self.action_dim, config.plain_hidden, generator=generator).to(setting.device)
        self.plain_target = copy.deepcopy(self.plain).requires_grad_(False)
        self.predictor = MLP(obs_dim + self.action_dim, config.hidden, obs_dim, generator=generator).to(setting.device)
        self.plain_optimiser = adam(self.plain.parameters(), config.critic_lr, setting, config.adam_eps)
        self.predictor_optimiser = adam(self.predictor.parameters(), config.critic_lr, setting, config.adam_eps)
        self.replay = make_replay(config.replay_capacity, setting)
        self.rollout = make_rollout(config, setting)
        self.noise_generator = make_generator(setting.seed, "update noise", setting.device)
        critic = self.plain, self.plain_target, self.plain_optimiser
        owners = (*self.nets.owners(), *critic, self.predictor, self.predictor_optimiser)
        self.update = accelerate(self.update_eager, setting, owners)

    def step(self) -> Progress:
        """One environment step in every lane and the updates it is due."""
        episodes = self.rollout.advance(self.nets.policy, self.replay)
        update, env_steps = self.rollout.take_update()
        if not update:
            return Progress(env_steps, 0, {}, episodes)
        shape = (self.config.batch_size, self.action_dim)
        noise = SACNoise(*normal(self.noise_generator, shape, shape))
        return Progress(env_steps, 1, self.update(self.replay.sample(self.config.batch_size), noise), episodes)

    def update_eager(self, batch: Any, noise: SACNoise) -> dict[str, Tensor]:
        """One gradient step on everything; no two losses reach the same network."""
        nets = self.nets
        y = nets.td_target(batch, noise.target)
        plain_y = soft_target(batch, nets.policy, self.plain_target, noise.target, self.config.gamma, None)
        critic_loss = twin_q_loss(nets.critic(batch.obs, batch.action), y)
        plain_q = self.plain(batch.obs, batch.action)
        plain_loss = twin_q_loss(plain_q, plain_y)
        predictor_loss = prediction_loss(_predict(self.predictor, batch.obs, batch.action), batch.next_obs)
        actor_loss, metrics = nets.actor_loss(batch.obs, noise.policy)
        nets.descend(critic_loss + actor_loss)
        take_step([self.plain_optimiser, self.predictor_optimiser], plain_loss + predictor_loss)
        soft_update(self.plain_target.parameters(), self.plain.parameters(), self.config.tau)
        losses = {"critic_loss": critic_loss, "plain_critic_loss": plain_loss, "prediction_error": predictor_loss}
        return {name: loss.detach() for name, loss in losses.items()} | {"q": plain_q.detach().mean(), **metrics}

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
    used: Tensor

    def __init__(self, config: IWOCSConfig, spaces: Spaces, generator: torch.Generator | None = None) -> None:
        super().__init__()
        generator = generator or torch.Generator()
        obs_dim, action_dim = box_dims(spaces)
        widths = config.plain_hidden if config.judge == "plain" else config.hidden
        self.default = make_policy(config, spaces, generator)
        models = range(config.iterations)
        self.actors = nn.ModuleList(make_policy(config, spaces, generator) for _ in models)
        self.critics = nn.ModuleList(TwinQ(obs_dim, action_dim, widths, generator=generator) for _ in models)
        self.predictors = nn.ModuleList(
            MLP(obs_dim + action_dim, config.hidden, obs_dim, generator=generator) for _ in models
        )
        self.register_buffer("rho", torch.zeros(config.iterations, dtype=torch.float64))
        self.register_buffer("used", torch.tensor(0))
        self.requires_grad_(False)

    def specialists(
        self, rho: Sequence[float], *, explore: bool = False, generator: torch.Generator | None = None
    ) -> list[Specialist]:
        """Return the first specialists, one for each ρ."""
        return [
            Specialist(_actor(actor, explore, generator), critic, partial(_predict, predictor), r)
            for r, actor, critic, predictor in zip(rho, self.actors, self.critics, self.predictors, strict=False)
        ]

    def composite(
        self, rho: Sequence[float], *, explore: bool = False, generator: torch.Generator | None = None
    ) -> Composite:
        """Return the composite of the default and the first specialists, one for each ρ."""
        specialists = self.specialists(rho, explore=explore, generator=generator)
        return Composite(specialists, _actor(self.default, explore, generator))

    def player(self, *, explore: bool = False, generator: torch.Generator | None = None) -> Composite:
        """Return what acts through whole episodes."""
        rho = self.rho[: int(self.used)].tolist()
        return self.composite(rho, explore=explore, generator=generator)

    @torch.no_grad()
    def act(self, obs: Tensor, *, explore: bool = False) -> Tensor:
        """Return actions (N, act) of the first step of episodes that begin in obs (N, obs)."""
        return self.player(explore=explore)(obs)


def _actor(policy: nn.Module, explore: bool, generator: torch.Generator | None) -> Act:
    return partial(cast(Any, policy).act, explore=explore, generator=generator)


def _predict(predictor: nn.Module, obs: Tensor, action: Tensor) -> Tensor:
    return predictor(torch.cat([obs, action], -1))
