"""IWOCS with neural networks: a policy for the worst case over an uncertainty set, from runs of SAC in one model each.

Zouitine, Geist, Rachelson, *Solving robust MDPs as a sequence of static RL problems*, arXiv 2410.06212. No code of the
authors was found. Equations and what the paper leaves open: docs/derivations/iwocs.md §4 to §6, §13. The exact form is
in `agents/iwocs/exact.py`.

| derivation | paper | here |
|---|---|---|
| §4.2 π, Q'(s, a), Q(s, a), T̂(s, a) in one model | App. F | `specialist.StaticSolver`; π, Q' alone: `sac.SAC` |
| (4.1) target of Q'; (4.3) of Q, without entropy | SAC (3), (6) | `sac.soft_target` |
| (4.2), (4.4) L_Q', L_Q | SAC (5) | `sac.twin_q_loss` |
| (4.5) L_T̂ = E‖T̂(s, a) − s'‖₁ | – | `composite.prediction_loss` |
| (4.6) L_π, (4.7) temperature | SAC (7), (17), (18) | `sac.policy_loss`, `sac.temperature_loss` |
| (4.8) moving targets | – | `parts.networks.soft_update` |
| (4.9) tanh-Gaussian log-density | SAC app. C | `parts.networks.tanh_gaussian_log_prob` |
| (4.10), (4.11) the models that may be used in s_t | – | `composite.prediction_error`, `composite.is_valid` |
| (4.12), (4.13) the most pessimistic of them acts, or none | – | `composite.Composite`, `composite.choose` |
| (4.14) worst model under each ρ | – | `agent.IWOCS.under_test`, `agent.IWOCS.search_slice` |
| (4.15) ρ_i and T_{i+1} | – | `composite.THRESHOLDS`, `composite.best_threshold`, `trials.Trials` |
| (4.16) errors in those usual for the predictor | – | `specialist.StaticSolver.usual_error` |
| (4.17) the best so far, with its interval | – | `choice.compare`, `agent.IWOCS.deploy` |
| (4.18) a model that repeats; §4.6 the ends | – | `composite.repeated`, `agent.IWOCS.ending` |
| (4.19) nothing better is possible | – | `choice.highest_return`, `agent.IWOCS.ending` |
| (4.20) ρ_i by the mean over the models; (4.27), (4.28) ties | – | `trials.Trials.value`; `trials.Trials.taken` |
| (4.21) errors remembered, (4.22) the most accurate acts | – | `composite.remembered`, `composite.Composite.decide` |
| (4.23) the default acts first; (4.26) who a search found to | – | `composite.Composite.decide`; `trials.Trials` |
| (4.29) to (4.34) who holds in all models that explain the episode | – | `models` |
| (4.24) a specialist that does not hold yet; (4.25) the next model | – | `choice.holds`; `choice.next_model` |
| §4.6 the loop | – | `agent.IWOCS.step` |
| (5.1) value of a point; grid (IWOCS*), CMA-ES (IWOCS) | – | `agent.IWOCS.play`, `search.Search` |

Where this differs from the paper, or the paper leaves it open, and why:
- A composite is deployed where its worst value on seeds that chose nothing is higher than that of the best before it,
  the default policy first, with confidence: the paper returns the last, and worst values do fall.
- Where a policy gets the highest possible return in every model that was searched, no further model is trained in.
- Critics, predictor and policy are networks of their own, with fresh weights and a fresh replay for every model.
- All losses of an update come from the same parameters; each network has its own Adam (the paper: one after the other).
- All models that were not rejected (ρ = 0) are usable in the first step of an episode: there is no step before it.
  `gate_first` lets the default act there, (4.23), or who a search found to be best, (4.26). Specialists propose mean
  actions.
- The run ends where the worst model repeats one that was trained in; `on_repeat="next-worst"` takes the worst of the
  others, (4.25). |J_i − Q_i| ≤ ε ends nothing: Q is discounted and learned, J is neither. So nothing is certified here.
- `gate="models"` lets a policy act where it was seen to hold in every model that still explains the episode, (4.32). It
  asks neither Q nor T̂, so a specialist is SAC alone there: the same policy to the last bit, in half the time.
- `prolong` goes on training in a model until its specialist holds there, (4.24): the paper solves each model to
  optimality in its pseudo-code, and trains for a fixed number of steps in appendix H.
- `threshold_by="mean"` chooses ρ by the mean over the models of the search, (4.20): by the worst value alone it is
  arbitrary for as long as another model stays the worst. `threshold_ties="again"` plays ties on the held-out seeds.
- `gate_memory` and `gate_choice="accurate"` judge a specialist by the whole episode and let the one act that foresees
  best, (4.21), (4.22): the model is the same in every step, and near an equilibrium all of them foresee the next.
- ρ is an absolute error summed over all observations, so with many of them every model may be unusable everywhere, and
  the composite silently is its default (pitfall 4): the `fractions` in the path show it. `error_quantile` makes ρ
  relative.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, cast

import torch
from torch import Tensor

from surefoot.agents.interface import AgentSpec, Progress, Setting, Style, UncertainEnv
from surefoot.agents.iwocs import entries
from surefoot.agents.iwocs.choice import compare, highest_return, holds, most_reward, next_model, reaches
from surefoot.agents.iwocs.composite import Composite, repeated
from surefoot.agents.iwocs.config import TINY, IWOCSConfig, plan
from surefoot.agents.iwocs.models import Lessons, Recorder
from surefoot.agents.iwocs.search import Search, cma_search, grid_search, random_search
from surefoot.agents.iwocs.specialist import IWOCSPolicy, StaticSolver
from surefoot.agents.iwocs.trials import Outcome, Trial, trials_of
from surefoot.agents.parts.engine import compute_by
from surefoot.agents.parts.env_parameters import ParameterScaling
from surefoot.agents.parts.random import make_generator
from surefoot.agents.parts.state import pack, unpack
from surefoot.agents.sac import SAC

SIDE_BY_SIDE = 128  # episodes of a slice of the search
OWN_EPISODES = 5  # in which a specialist shows what it is worth in its own model


class IWOCS:
    """A default policy by domain randomisation, then a model at a time: train in it, choose ρ, find the next.

    A step is a step in every environment with its updates, or a slice of the search. The last environment steps
    of a model are counted when its search is done, so that "n steps" always means with the search behind them.
    `path` has one entry per iteration, of plain values.
    """

    STATEFUL = ("policy", "solver")  # where its networks are

    def __init__(self, config: IWOCSConfig, setting: Setting) -> None:
        assert setting.perturbed_envs is not None, "IWOCS trains in an uncertainty set"
        self.config, self.setting, self.perturbed_envs = config, setting, setting.perturbed_envs
        self.env = cast(UncertainEnv, setting.env)
        self.low, self.high = (torch.from_numpy(bound) for bound in (self.perturbed_envs.low, self.perturbed_envs.high))
        self.generator = make_generator(setting.seed, "next model")
        self.acting_generator = make_generator(setting.seed, "acting", setting.device)
        starts = torch.randint(2**20, 2**30, (2,), generator=make_generator(setting.seed, "search")).tolist()
        self.search_seeds = [starts[0] + k for k in range(config.search_episodes)]
        self.held_out_seeds = [starts[1] + k for k in range(config.held_out_episodes)]
        self.policy = IWOCSPolicy(config, setting.spaces).to(setting.device)
        self.lessons = self.make_lessons() if config.gate == "models" else None
        compute_by(setting.engine, self.policy)  # those of a resumed run's earlier models are never trained again
        self.models: list[Tensor] = []  # T_1 … T_i, (d,) each
        self.round = self.rounds = 0  # of `model_steps` in the newest model, and in all of them
        self.path: list[dict[str, Any]] = []
        self.before: Outcome | None = None  # of the newest iteration that is decided
        self.incumbent: Tensor | None = None  # returns (P, E) on the held-out seeds of what would be deployed
        self.most_reward = -math.inf  # of a step so far
        self.trained_steps = self.search_steps = 0
        self.scale = 1.0  # of prediction errors of the newest predictor
        self.search: Search | None = None
        self.begin_training()

    # --- training -------------------------------------------------------------------------------------------------

    @property
    def iteration(self) -> int:
        """i: 0 for the default policy, then the number of the model."""
        return len(self.models)

    @property
    def status(self) -> str | None:
        """How the run ended, None before: `solved`, `repeat`, `stagnated` or `budget`."""
        return self.path[-1]["status"] if self.path else None

    def make_lessons(self) -> Lessons:
        """Make the gate that judges by all models of the search, and what teaches it."""
        points = grid_search(self.low, self.high, self.config.grid_n, closed=self.config.grid_closed).ask()
        scaled = ParameterScaling(self.env).scaled(points.to(self.setting.device))
        gate = self.policy.open_models(scaled, make_generator(self.setting.seed, "gate"))
        return Lessons(gate, points, self.config, self.setting)

    def begin_training(self) -> None:
        """Make networks, replay and episodes for the default policy or the newest model."""
        i = self.iteration
        seed = int(torch.randint(2**31, (), generator=make_generator(self.setting.seed, f"model {i}")))
        self.budget = self.config.model_steps * self.round if i else self.config.default_steps
        config, setting = replace(self.config, replay_capacity=self.capacity), replace(self.setting, seed=seed)
        if i:
            self.env.set_params(self.models[-1].to(setting.device))
        solver = (StaticSolver if i and config.trains_all_parts else SAC)(config, setting)
        self.solver: SAC | StaticSolver | None = solver
        if i == 0:
            self.policy.default = solver.nets.policy
            return
        self.policy.actors[i - 1] = solver.nets.policy
        if isinstance(solver, StaticSolver):
            self.policy.critics[i - 1] = solver.gate_critic
            self.policy.predictors[i - 1] = solver.predictor

    @property
    def capacity(self) -> int:
        """Of the replay in the newest model: no larger than what it will hold."""
        return min(self.config.replay_capacity, self.budget + self.env.num_envs)

    def step(self) -> Progress:
        """Some training, or a slice of a search."""
        if self.status is not None:
            return Progress(0, 0, {}, done=True)
        if self.solver is None:
            return self.search_slice()
        progress = self.solver.step()
        self.trained_steps += progress.env_steps
        collector = self.solver.collector
        if collector.env_steps < self.budget or collector.due:
            return progress
        if self.may_go_on and not holds(own := self.own_value(), entries.known(self.path)):
            return self.go_on(progress, own)
        self.withheld = progress.env_steps
        self.begin_search()
        return progress._replace(env_steps=0)

    @property
    def may_go_on(self) -> bool:
        """Whether a further round in the newest model is allowed, and left."""
        return 0 < self.round <= self.config.prolong and self.rounds < self.config.iterations

    def own_value(self) -> float:
        """Return what the newest specialist gets alone in its model, from seeds that serve nothing else."""
        seeds = [self.held_out_seeds[-1] + 1 + OWN_EPISODES + k for k in range(OWN_EPISODES)]
        return float(self.play(self.alone(self.iteration), self.models[-1][None], seeds).mean())

    def alone(self, number: int) -> Composite:
        """Return a specialist, or with 0 the default, as a policy."""
        return Composite([], self.policy.specialists([0.0] * number)[-1].act if number else self.policy.default.act)

    def own_scores(self) -> dict[str, float]:
        """Return what the newest specialist and the default get alone in its model, from seeds that chose nothing."""
        seeds = [self.held_out_seeds[-1] + 1 + k for k in range(OWN_EPISODES)]
        both, model = {"specialist": self.alone(self.iteration), "default": self.alone(0)}, self.models[-1][None]
        return {name: float(self.play(policy, model, seeds).mean()) for name, policy in both.items()}

    def go_on(self, progress: Progress, own: float) -> Progress:
        """Begin another round in the newest model, (4.24), with all that was learned and seen there."""
        assert self.solver is not None
        self.round, self.rounds = self.round + 1, self.rounds + 1
        self.budget += self.config.model_steps
        self.solver.replay.resize(self.capacity)
        note = f"iwocs, model {self.iteration}: its specialist gets {own:.1f} there; round {self.round} begins"
        return progress._replace(notes=(note,))

    # --- the search -----------------------------------------------------------------------------------------------

    def begin_search(self) -> None:
        """Freeze what was trained, and look for the worst model under each threshold."""
        if isinstance(self.solver, StaticSolver) and self.config.error_quantile is not None:
            self.scale = self.solver.usual_error(self.config.error_quantile)
            self.policy.usual[self.iteration - 1] = self.scale
        assert self.solver is not None
        seen = most_reward(self.solver.replay, self.solver.collector.env_steps)
        self.most_reward = max(self.most_reward, seen)
        self.solver = None
        if self.lessons is not None:
            self.lessons.begin(self.config.gate_updates if self.iteration else 0)
        self.trials = trials_of(self)
        self.search = self.make_search()

    @property
    def held_out(self) -> bool:
        """Whether the search in progress is one on other seeds, of the trials that were best."""
        return self.trials.next is None

    def make_search(self) -> Search:
        """Return a search over the box, the same for every threshold of an iteration."""
        config, seed = self.config, self.search_seeds[0] + self.iteration
        if config.search == "grid":
            batch = max(1, SIDE_BY_SIDE // len(self.held_out_seeds if self.held_out else self.search_seeds))
            return grid_search(self.low, self.high, config.grid_n, closed=config.grid_closed, batch=batch)
        make = cma_search if config.search == "cma" else random_search
        return make(self.low, self.high, seed=seed, population=config.population, generations=config.generations)

    def under_test(self) -> Composite:
        """Return the composite that is searched for its worst model: ρ of the older specialists is frozen."""
        if not self.iteration:
            return self.alone(0)
        trial, newest = self.trials.now, self.iteration - 1
        self.set_first(trial)
        rho = [*self.policy.rho[:newest].tolist(), trial.rho * self.scale]
        return self.policy.composite(rho, self.policy.models)

    def set_first(self, trial: Trial) -> None:
        """Let somebody act in first steps, or who did in the policy before."""
        i, first = self.iteration, self.policy.first
        first[i] = first[i - 1] if trial.first is None else trial.first

    def search_slice(self) -> Progress:
        """Play one batch of points; at the end of the last search, decide."""
        if self.lessons is not None and not self.lessons.done:
            seeds = self.search_seeds, self.held_out_seeds
            self.lessons.step(self.iteration, self.alone, self.play, seeds, SIDE_BY_SIDE)
            return Progress(0, 0, {})
        if self.search is not None and not self.trials.done:
            self.play_points(self.search)
            if not self.search.done:
                return Progress(0, 0, {})
            self.trials.add(self.search.found)
        if self.trials.done:
            return self.decide()
        self.search = self.make_search()
        return Progress(0, 0, {})

    def play_points(self, search: Search) -> None:
        """Play the points that a search asks for."""
        composite, points = self.under_test(), search.ask()
        seeds = self.held_out_seeds if self.held_out else self.search_seeds
        returns = self.play(composite, points, seeds)
        search.tell(returns.mean(1))
        if self.held_out:
            self.trials.note(points, returns, composite.fractions_by_job.view(*returns.shape, -1).mean(1).cpu())

    def play(self, composite: Composite | Recorder, points: Tensor, seeds: Sequence[int]) -> Tensor:
        """Return the returns (P, E) at points (P, d) from E reset seeds, and count the steps."""
        played = self.perturbed_envs.play(composite, points.numpy(), seeds)
        self.search_steps += int(played.lengths.sum())
        return torch.from_numpy(played.returns)

    def decide(self) -> Progress:
        """Freeze ρ_i, keep the best so far, log, and go to the next model or end."""
        i, (trial, outcome) = self.iteration, self.trials.outcome
        self.before, found, held_out = outcome, outcome.found, outcome.held_out
        if i:
            self.policy.rho[i - 1] = trial.rho * self.scale
            self.set_first(trial)
        comparison = self.deploy(outcome.returns)
        perfect = reaches(found.value, self.highest)
        worst = held_out.point if perfect else found.point  # a tie at the highest return says nothing
        if perfect and self.lessons is not None:
            self.lessons.doubt(outcome.returns, self.highest)
        worst, again = next_model(worst, outcome.table, self.repeats, self.config.on_repeat, self.highest)
        status = self.ending(again, solved=perfect and reaches(held_out.value, self.highest))
        self.path.append(entries.of_iteration(self, worst, status, comparison, outcome))
        self.search = None
        if status is None:
            self.models.append(worst if self.config.next_model == "worst" else self.any_model())
            self.round, self.rounds = 1, self.rounds + 1
            self.begin_training()
        metrics = entries.metrics(self.path[-1])
        note = entries.summary(self.path[-1], self.perturbed_envs.names)
        return Progress(self.withheld, 0, metrics, done=status is not None, notes=(note,))

    def deploy(self, returns: Tensor) -> dict[str, Any] | None:
        """Deploy this iteration's policy, with returns (P, E), if better than that before it; return the comparison."""
        before = int(self.policy.used)
        if self.incumbent is None:
            self.incumbent = returns
            return None
        found = compare(returns, self.incumbent, make_generator(self.setting.seed, f"comparison {self.iteration}"))
        if found.better:
            self.incumbent = returns
            self.policy.deploy(self.iteration)
        return {"with": before, **found._asdict(), "better": found.better, "episodes": len(self.held_out_seeds)}

    @property
    def highest(self) -> float:
        """What no episode can exceed, if no step gives more reward than the most that was ever seen."""
        return highest_return(self.most_reward, self.env.episode_limit)

    def ending(self, again: Sequence[int], *, solved: bool) -> str | None:
        """Return why this iteration is the last: nothing better is possible, or the worst model was trained in."""
        if self.config.next_model == "worst" and (solved or again):
            return "solved" if solved else "stagnated" if self.iteration - 1 in again else "repeat"
        return "budget" if self.rounds == self.config.iterations else None

    def repeats(self, model: Tensor) -> list[int]:
        """Return which of the models so far this one (d,) repeats, (4.18)."""
        return repeated(model, self.models, self.high - self.low, self.config.repeat_tolerance)

    def any_model(self) -> Tensor:
        """Return a model drawn uniformly."""
        drawn = torch.rand(len(self.low), generator=self.generator, dtype=torch.float64)
        return self.low + drawn * (self.high - self.low)

    # --- acting and saving ----------------------------------------------------------------------------------------

    def stateful(self, *, explore: bool = False) -> Composite:
        """Return the best composite so far as a stateful policy."""
        return self.policy.stateful(explore=explore, generator=self.acting_generator)

    def act(self, obs: Tensor, *, explore: bool = False) -> Tensor:
        """Return actions (N, act) of the first step of episodes that begin in obs (N, obs)."""
        with torch.no_grad():
            return self.stateful(explore=explore)(obs)

    def state_dict(self) -> dict[str, Any]:
        state = pack(self, PACKED) | {"incumbent": self.incumbent, "round": self.round}
        state |= {"models": [model.clone() for model in self.models], "path": copy.deepcopy(self.path)}
        state["before"] = self.before and self.before.plain()
        state |= {"lessons": self.lessons.state_dict()} if self.lessons else {}
        if self.solver is not None:
            return state | {"solver": self.solver.state_dict()}
        if self.search is not None:
            state |= {"search": self.search.state_dict(), "withheld": self.withheld, **self.trials.state_dict()}
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.models, self.path = [model.cpu() for model in state["models"]], copy.deepcopy(state["path"])
        self.incumbent = None if state["incumbent"] is None else state["incumbent"].cpu()
        older = {"round": len(self.models[:1]), "rounds": len(self.models), "before": None}  # one round in each
        state = older | state
        self.round = state["round"]
        self.before = None if state["before"] is None else Outcome.of(state["before"])
        self.solver = self.search = None
        if "solver" in state:
            self.begin_training()
            cast(Any, self.solver).load_state_dict(state["solver"])
        unpack(self, PACKED, state)
        if self.lessons is not None:
            self.lessons.load_state_dict(state["lessons"])
        if "search" in state:
            self.withheld = state["withheld"]
            self.trials = trials_of(self)
            self.trials.load_state_dict(state)
            self.search = self.make_search()
            self.search.load_state_dict(state["search"])


PACKED = ("policy", "generator", "acting_generator", "most_reward", "trained_steps", "search_steps", "scale", "rounds")

IWOCS_SPEC = AgentSpec(
    IWOCSConfig(),
    IWOCS,
    IWOCSPolicy,
    "IWOCS: specialists for iteratively found worst models, and a gate that selects who acts (arXiv 2410.06212)",
    needs_uncertainty_set=True,
    steps=4_000_000,  # all phases of the defaults
    plan=plan,
    shown=("worst", "default_fraction"),
    goal="worst case",
    artefacts={"path.json": lambda agent: entries.as_json(agent.path)},
    page="iwocs",
    style=Style("#D55E00", ":"),
    tiny=TINY,
    tiny_env={"id": "surefoot/Pendulum-v0", "max_episode_steps": 15},
)
