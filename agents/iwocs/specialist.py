"""What IWOCS learns in one model, SAC with an entropy-free critic and a predictor, and the policy of all models."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import partial
from itertools import accumulate
from typing import Any, ClassVar, Literal, cast

import torch
from torch import Tensor, nn

from surefoot.agents.interface import Budget, Plan, Progress, Setting, Spaces
from surefoot.agents.iwocs.composite import (
    THRESHOLDS,
    Act,
    Composite,
    Gate,
    Specialist,
    prediction_error,
    prediction_loss,
)
from surefoot.agents.iwocs.models import CompositeAmongModels, ModelGate
from surefoot.agents.iwocs.search import GENERATIONS, POPULATION
from surefoot.agents.parts.acceleration import accelerate, adam, step_all, take_step
from surefoot.agents.parts.budget import counted, flag, require_room, require_warm_up, vector_steps, whole_rollouts
from surefoot.agents.parts.networks import MLP, TwinQ, soft_update
from surefoot.agents.parts.random import make_generator, normal
from surefoot.agents.parts.ranges import AT_LEAST_0, AT_LEAST_1, WIDTHS, check_ranges, optional
from surefoot.agents.parts.state import Stateful
from surefoot.agents.sac import (
    ActorCritic,
    SACConfig,
    SACNoise,
    box_dims,
    make_collector,
    make_policy,
    make_replay,
    soft_target,
    twin_q_loss,
)

# What `gate="models"` does not look at.
OF_PREDICTORS = ("error_quantile", "gate_critic", "gate_memory", "gate_choice", "thresholds", "threshold_ties")
OF_WHO_ACTS_FIRST = ("gate_first", "threshold_by")  # unless that is searched
SCALE_ROWS = 100_000  # replayed transitions of which `error_quantile` is taken


@dataclass(frozen=True)
class IWOCSConfig(SACConfig):
    """Defaults: the paper's table 5 and appendix H for two parameters, else ours: docs/derivations/iwocs.md §6.1."""

    critic_lr: float = 1e-3
    """Learning rate of critics and predictor (Adam)."""
    adam_eps: float = 1e-5
    """ε of the Adam optimisers."""
    learning_starts: int = 10_000
    """Environment steps in each model before the first round of updates."""
    random_steps: int = 10_000
    """Environment steps with uniformly random actions at the start of each model."""
    entropy_free_hidden: tuple[int, ...] = (256, 256, 256)
    """Hidden layer widths of the entropy-free critic: one layer more than the others."""
    default_steps: int = 1_600_000
    """Environment steps of the default policy (N_def), trained by domain randomisation."""
    model_steps: int = 800_000
    """Environment steps in each model (N_sac)."""
    iterations: int = 3
    """Maximum number of models to train in (M)."""
    thresholds: tuple[float, ...] = THRESHOLDS
    """Candidate values of the gate threshold ρ (R); 0 also allows a specialist to be rejected, inf means no gate."""
    threshold_by: Literal["worst", "mean"] = "worst"
    """Value of a threshold's search that it is chosen by: the `worst` one, or the `mean` over all points (ours), which
    tells thresholds apart while another model stays the worst whatever they are."""
    threshold_ties: Literal["largest", "middle", "again"] = "largest"
    """Which of equally good thresholds is taken: the `largest`, or the `middle` one (ours), as the largest lies next to
    those that are worse; `again` (ours): the one that is best on the held-out seeds."""
    error_quantile: float | None = None
    """Measure prediction errors in units of this quantile of a model's own errors over its replay buffer (ours); None:
    unscaled."""
    search: Literal["grid", "cma", "random"] = "grid"
    """Search for the worst model: a grid (IWOCS*), CMA-ES (IWOCS) or uniformly random points."""
    grid_n: int = 10
    """Values per parameter on the search grid."""
    grid_closed: bool = False
    """Include both ends of each range in the search grid; the published grid is half-open."""
    population: int = POPULATION
    """Population size of CMA-ES."""
    generations: int = GENERATIONS
    """Generations of CMA-ES."""
    search_episodes: int = 1
    """Episodes at each point of a search, with the same reset seeds at all points."""
    held_out_episodes: int = 20
    """Episodes at each point of the search on held-out seeds, which decides whether a composite is deployed."""
    repeat_tolerance: float = 0.02
    """Two models count as the same if no parameter differs by more than this fraction of its range."""
    next_model: Literal["worst", "random"] = "worst"
    """Which model to train in next: the worst one, or a `random` one (ablation)."""
    gate_critic: Literal["entropy-free", "soft"] = "entropy-free"
    """Critic whose minimum selects the acting policy: the entropy-free one, or `soft`, SAC's own (ablation)."""
    gate: Literal["predictors", "models"] = "predictors"
    """Who may act: a specialist whose predictor foresaw the step before to within ρ (`predictors`, the paper), or one
    that was seen to hold in every model of the search that still explains the episode (`models`, ours)."""
    gate_updates: int = 10_000
    """Gradient steps on the predictor that `--agent.gate models` judges by, after each model."""
    gate_tolerance: float = 3.0
    """By how much more of the usual error than the best model of an episode another may have and explain it, too."""
    gate_memory: float = 0.0
    """Factor by which a remembered prediction error fades in a step: the gate judges by a faded mean of the episode's
    errors (ours); 0: by that of the last step alone."""
    gate_choice: Literal["pessimistic", "accurate"] = "pessimistic"
    """Who acts of the usable specialists: the one with the smallest value (`pessimistic`), or with the smallest error
    in the unit of `error_quantile` (`accurate`, ours)."""
    gate_first: Literal["pessimistic", "default", "searched"] = "pessimistic"
    """Who acts in the first step of an episode, where nothing was foreseen: the specialist whose own action has the
    smallest value (`pessimistic`), the `default` policy, which was trained in all models (ours), or the one whom
    searches find best there (`searched`, ours). With `gate models` the default does, unless that is `searched`."""
    prolong: int = 0
    """Maximum number of further rounds of `model_steps` in a model in which its specialist does not hold yet (ours);
    each counts as one of `iterations`."""
    on_repeat: Literal["end", "next-worst"] = "end"
    """Where the worst model was trained in before: end the run, or train in the worst of the others (ours)."""

    INFINITE: ClassVar[tuple[str, ...]] = ("thresholds",)

    def __post_init__(self) -> None:
        counts = ("default_steps", "model_steps", "generations", "search_episodes", "gate_updates")
        rules = dict.fromkeys(counts, AT_LEAST_1)
        rules |= dict.fromkeys(["iterations", "repeat_tolerance", "prolong", "gate_tolerance"], AT_LEAST_0)
        rules |= dict.fromkeys(["grid_n", "population"], (lambda x: x >= 2, "at least 2"))
        rules["held_out_episodes"] = (lambda x: x >= 2, "at least 2, for an interval")
        rules["thresholds"] = (lambda x: len(x) > 0 and min(x) >= 0 and sorted(x) == list(x), "numbers from 0 on, up")
        rules["gate_memory"] = (lambda x: 0 <= x < 1, "in [0, 1)")
        rules["error_quantile"] = optional((lambda x: 0 < x < 1, "in (0, 1), or None"))
        rules["entropy_free_hidden"] = WIDTHS
        check_ranges(self, rules)
        if self.threshold_by == "mean" and self.search == "cma":
            raise ValueError(
                "--agent.threshold-by mean does not go with --agent.search cma, whose points crowd where the return is "
                "low; pass --agent.search grid or random"
            )
        if self.gate == "models":
            self._check_gate_of_models()

    def _check_gate_of_models(self) -> None:
        if self.search != "grid":
            raise ValueError(
                f"--agent.gate models does not go with --agent.search {self.search}, whose points change from model to "
                "model; pass --agent.search grid"
            )
        unused = OF_PREDICTORS if self.gate_first == "searched" else (*OF_PREDICTORS, *OF_WHO_ACTS_FIRST)
        for field in fields(self):
            if field.name in unused and getattr(self, field.name) != field.default:
                raise ValueError(f"--agent.gate models has no use for --agent.{flag(field.name)}; leave it out")


TINY = {  # sizes for tests
    "hidden": (8, 8),
    "batch_size": 8,
    "learning_starts": 16,
    "random_steps": 10,
    "rollout_steps": 4,
    "replay_capacity": 400,
    "entropy_free_hidden": (8, 8),
    "default_steps": 24,
    "model_steps": 18,
    "thresholds": (0.1, 1.0),
    "gate_updates": 10,
    "held_out_episodes": 2,
    "grid_n": 2,
}


def plan(config: IWOCSConfig, budget: Budget) -> Plan:
    """Return the phases: the default policy, then a model after the other; each has its own warm-up and replay."""
    require_room(config, vector_steps(config.rollout_steps, budget.num_envs))
    for name in ("default_steps", "model_steps") if config.iterations else ("default_steps",):
        require_warm_up(config, getattr(config, name), f"--agent.{flag(name)}")
    each = config.default_steps, *[config.model_steps] * config.iterations
    lengths, updates = zip(*(whole_rollouts(config, budget._replace(steps=length)) for length in each), strict=True)
    least, total = sum(lengths[:2]), sum(lengths)
    if budget.steps < least:
        models = f" and --agent.model-steps {config.model_steps} of one model" if config.iterations else ""
        raise ValueError(
            f"--steps {budget.steps} is less than --agent.default-steps {config.default_steps} of the default "
            f"policy{models}; pass --steps {least}, or {total} for {counted(config.iterations, 'model')}, or lower them"
        )
    return _phases(budget.steps, lengths, updates)


def _phases(steps: int, lengths: Sequence[int], updates: Sequence[int]) -> Plan:
    """Return what of the phases fits into the steps; the last may be cut."""
    ends = list(accumulate(lengths))
    whole = sum(end <= steps for end in ends)
    phases = [f"default policy, {lengths[0]:,} steps"]
    if whole > 1:
        phases.append(f"up to {counted(whole - 1, 'model')} of {lengths[1]:,} steps")
    if left := (steps - ends[whole - 1] if whole < len(ends) else 0):
        phases.append(f"{left:,} of {lengths[1]:,} steps in model {whole}, which stays unfinished")
    return Plan(min(steps, ends[-1]), None if left else sum(updates[:whole]), tuple(phases))


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
