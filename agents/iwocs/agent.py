"""IWOCS with neural networks: a policy for the worst case over an uncertainty set, from runs of SAC in one model each.

Zouitine, Geist, Rachelson, *Solving robust MDPs as a sequence of static RL problems*, arXiv 2410.06212. No code of the
authors was found. Equations and what the paper leaves open: docs/derivations/iwocs.md §4 to §6, §13. The exact form is
in `agents/iwocs/exact.py`.

| derivation | paper | here |
|---|---|---|
| §4.2 π, Q'(s, a), Q(s, a), T̂(s, a) in one model | App. F | `specialist.StaticSolver` |
| (4.1) target of Q'; (4.3) of Q, without entropy | SAC (3), (6) | `sac.soft_target` |
| (4.2), (4.4) L_Q', L_Q | SAC (5) | `sac.twin_q_loss` |
| (4.5) L_T̂ = E‖T̂(s, a) − s'‖₁ | – | `composite.prediction_loss` |
| (4.6) L_π, (4.7) temperature | SAC (7), (17), (18) | `sac.policy_loss`, `sac.temperature_loss` |
| (4.8) moving targets | – | `parts.networks.soft_update` |
| (4.9) tanh-Gaussian log-density | SAC app. C | `parts.networks.tanh_gaussian_log_prob` |
| (4.10), (4.11) the models that may be used in s_t | – | `composite.prediction_error`, `composite.is_valid` |
| (4.12), (4.13) the most pessimistic of them acts, or none | – | `composite.Composite`, `composite.choose` |
| (4.14) worst model under each ρ | – | `agent.IWOCS.under_test`, `agent.IWOCS.search_slice` |
| (4.15) ρ_i and T_{i+1} | – | `composite.THRESHOLDS`, `composite.best_threshold` |
| (4.16) errors in those usual for the predictor | – | `specialist.StaticSolver.usual_error` |
| (4.17) the best so far | – | `agent.IWOCS.decide` |
| (4.18) a model that repeats; §4.6 the ends | – | `composite.repeated`, `agent.IWOCS.ending` |
| §4.6 the loop | – | `agent.IWOCS.step` |
| (5.1) value of a point; grid (IWOCS*), CMA-ES (IWOCS) | – | `agent.IWOCS.play`, `search.Search` |

Where this differs from the paper, or the paper leaves it open, and why:
- Of all composites and the default policy the one with the highest worst value on seeds that chose nothing is kept: the
  paper returns the last, and worst values do fall.
- Critics, predictor and policy are networks of their own, with fresh weights and a fresh replay for every model.
- All losses of an update come from the same parameters; each network has its own Adam (the paper: one after the other).
- All models are usable in the first step of an episode: there is no step before it. Specialists propose mean actions.
- The run ends where the worst model repeats one that was trained in. |J_i − Q_i| ≤ ε ends nothing: Q is discounted and
  learned, J is neither. So nothing is ever certified here.
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

import numpy as np
import torch
from torch import Tensor

from surefoot.agents.interface import AgentSpec, Progress, Setting, Style, UncertainEnv
from surefoot.agents.iwocs.composite import Composite, best_threshold, repeated
from surefoot.agents.iwocs.search import Search, cma_search, grid_search, random_search
from surefoot.agents.iwocs.specialist import IWOCSConfig, IWOCSPolicy, StaticSolver, plan
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

    def __init__(self, config: IWOCSConfig, setting: Setting) -> None:
        assert setting.perturbed_envs is not None, "IWOCS trains in an uncertainty set"
        self.config, self.setting, self.perturbed_envs = config, setting, setting.perturbed_envs
        self.env = cast(UncertainEnv, setting.env)
        self.low, self.high = (torch.from_numpy(bound) for bound in (self.perturbed_envs.low, self.perturbed_envs.high))
        self.generator = make_generator(setting.seed, "next model")
        self.acting_generator = make_generator(setting.seed, "acting", setting.device)
        starts = torch.randint(2**20, 2**30, (2,), generator=make_generator(setting.seed, "search")).tolist()
        self.search_seeds, self.held_out_seeds = ([s + k for k in range(config.search_episodes)] for s in starts)
        self.policy = IWOCSPolicy(config, setting.spaces).to(setting.device)
        self.models: list[Tensor] = []  # T_1 … T_i, (d,) each
        self.path: list[dict[str, Any]] = []
        self.best = -math.inf
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
        """How the run ended, None before: `repeat`, `stagnated` or `budget`."""
        return self.path[-1]["status"] if self.path else None

    def begin_training(self) -> None:
        """Make networks, replay and episodes for the default policy or the newest model."""
        i = self.iteration
        seed = int(torch.randint(2**31, (), generator=make_generator(self.setting.seed, f"model {i}")))
        self.budget = self.config.model_steps if i else self.config.default_steps
        capacity = min(self.config.replay_capacity, self.budget + self.env.num_envs)
        config, setting = replace(self.config, replay_capacity=capacity), replace(self.setting, seed=seed)
        self.solver: SAC | StaticSolver | None
        if i == 0:
            self.solver = SAC(config, setting)
            self.policy.default = self.solver.nets.policy
            return
        self.env.set_params(self.models[-1].to(setting.device))
        self.solver = StaticSolver(config, setting)
        self.policy.actors[i - 1] = self.solver.nets.policy
        self.policy.critics[i - 1] = (
            self.solver.entropy_free if config.gate_critic == "entropy-free" else self.solver.nets.critic
        )
        self.policy.predictors[i - 1] = self.solver.predictor

    def step(self) -> Progress:
        """Some training, or a slice of a search."""
        if self.status is not None:
            return Progress(0, 0, {}, done=True)
        if self.solver is None:
            return self.search_slice()
        progress = self.solver.step()
        self.trained_steps += progress.env_steps
        collector = self.solver.collector
        if collector.env_steps < self.budget or collector.updates_due >= 1:
            return progress
        self.withheld = progress.env_steps
        self.begin_search()
        return progress._replace(env_steps=0)

    # --- the search -----------------------------------------------------------------------------------------------

    def begin_search(self) -> None:
        """Freeze what was trained, and look for the worst model under each threshold."""
        if isinstance(self.solver, StaticSolver) and self.config.error_quantile is not None:
            self.scale = self.solver.usual_error(self.config.error_quantile)
        self.solver = None
        self.found: list[tuple[float, Tensor]] = []  # worst value and model of each threshold so far
        self.table: list[tuple[list[float], float, list[float]]] = []  # point, return, fractions; on held-out seeds
        self.search = self.make_search()

    @property
    def candidates(self) -> tuple[float, ...]:
        """The thresholds to try; the default policy alone has none, so any will do."""
        return self.config.thresholds if self.iteration else (math.inf,)

    @property
    def held_out(self) -> bool:
        """Whether the search in progress is the one on other seeds, of the threshold that was chosen."""
        return len(self.found) == len(self.candidates)

    def make_search(self) -> Search:
        """Return a search over the box, the same for every threshold of an iteration."""
        config, seed = self.config, self.search_seeds[0] + self.iteration
        if config.search == "grid":
            batch = max(1, SIDE_BY_SIDE // config.search_episodes)
            return grid_search(self.low, self.high, config.grid_n, closed=config.grid_closed, batch=batch)
        make = cma_search if config.search == "cma" else random_search
        return make(self.low, self.high, seed=seed, population=config.population, generations=config.generations)

    def chosen(self) -> int:
        """Return the number of the best threshold."""
        values = [worst for worst, _ in self.found]
        return self.candidates.index(best_threshold(values, self.candidates))

    def under_test(self) -> Composite:
        """Return the composite that is searched for its worst model: ρ of the older specialists is frozen."""
        if not self.iteration:
            return self.policy.composite([])
        rho = self.candidates[self.chosen() if self.held_out else len(self.found)]
        return self.policy.composite([*self.policy.rho[: self.iteration - 1].tolist(), rho * self.scale])

    def search_slice(self) -> Progress:
        """Play one batch of points; at the end of the last search, decide."""
        assert self.search is not None
        composite, points = self.under_test(), self.search.ask()
        seeds = self.held_out_seeds if self.held_out else self.search_seeds
        returns = self.play(composite, points, seeds)
        self.search.tell(returns)
        if self.held_out:
            fractions = composite.fractions_by_job.view(len(points), len(seeds), -1).mean(1).cpu()
            self.table += zip(points.tolist(), returns.tolist(), fractions.tolist(), strict=True)
        if self.search.done and self.held_out:
            return self.decide()
        if self.search.done:
            assert self.search.best is not None
            self.found.append((self.search.least, self.search.best))
            self.search = self.make_search()
        return Progress(0, 0, {})

    def play(self, composite: Composite, points: Tensor, seeds: Sequence[int]) -> Tensor:
        """Return the mean returns (P,) at points (P, d), and count the steps."""
        played = self.perturbed_envs.play(composite, points.numpy(), seeds)
        self.search_steps += int(played.lengths.sum())
        return torch.from_numpy(played.returns.mean(1))

    def decide(self) -> Progress:
        """Freeze ρ_i, keep the best so far, log, and go to the next model or end."""
        assert self.search is not None
        i, k, least = self.iteration, self.chosen(), self.search.least
        if i:
            self.policy.rho[i - 1] = self.candidates[k] * self.scale
        if least > self.best:
            self.best = least
            self.policy.used.fill_(i)
        worst = self.found[k][1]
        again = repeated(worst, self.models, self.high - self.low, self.config.repeat_tolerance)
        status = self.ending(again)
        self.path.append(self.entry(worst, status))
        self.search = None
        if status is None:
            self.models.append(worst if self.config.next_model == "worst" else self.any_model())
            self.begin_training()
        fractions = torch.tensor([row[2] for row in self.table]).mean(0)
        metrics = {"worst": torch.tensor(self.found[k][0]), "held_out_worst": torch.tensor(least)}
        metrics |= {"default_fraction": fractions[-1], "search_steps": torch.tensor(float(self.search_steps))}
        return Progress(self.withheld, 0, metrics, done=status is not None, notes=(self.summary(),))

    def ending(self, again: Sequence[int]) -> str | None:
        """Return why this iteration is the last: the worst model was trained in before, just now or earlier."""
        if again and self.config.next_model == "worst":
            return "stagnated" if self.iteration - 1 in again else "repeat"
        return "budget" if self.iteration == self.config.iterations else None

    def any_model(self) -> Tensor:
        """Return a model drawn uniformly."""
        return self.low + torch.rand(len(self.low), generator=self.generator, dtype=torch.float64) * (
            self.high - self.low
        )

    # --- the log --------------------------------------------------------------------------------------------------

    def entry(self, worst: Tensor, status: str | None) -> dict[str, Any]:
        """Return the path's entry of this iteration."""
        i, k = self.iteration, self.chosen()
        assert self.search is not None
        rows = [{"at": point, "return": value, "fractions": fractions} for point, value, fractions in self.table]
        return {
            "iteration": i,
            "model": self.models[-1].tolist() if i else None,
            "rho": self.candidates[k] if i else None,
            "error_scale": self.scale if i else None,
            "worst": self.found[k][0],
            "worst_model": worst.tolist(),
            "by_threshold": [[rho, value] for rho, (value, _) in zip(self.candidates, self.found, strict=True)]
            if i
            else [],
            "held_out_worst": self.search.least,
            "best_so_far": int(self.policy.used),
            "in_its_own_model": self.own_scores() if i else None,
            "fractions": np.mean([row[2] for row in self.table], 0).tolist(),
            "training_steps": self.trained_steps,
            "search_steps": self.search_steps,
            "status": status,
            "table": rows,
        }

    def own_scores(self) -> dict[str, float]:
        """Return what the newest specialist and the default get alone in its model, from seeds that chose nothing."""
        seeds = [self.held_out_seeds[-1] + 1 + k for k in range(OWN_EPISODES)]
        alone = self.policy.specialists([0.0] * self.iteration)[-1]
        candidates = {"specialist": Composite([], alone.act), "default": self.policy.composite([])}
        model = self.models[-1][None]
        return {name: float(self.play(policy, model, seeds)) for name, policy in candidates.items()}

    def summary(self) -> str:
        """Return the newest entry of the path in a line."""
        last = self.path[-1]
        where = ", ".join(
            f"{name} {x:.3g}" for name, x in zip(self.perturbed_envs.names, last["worst_model"], strict=True)
        )
        who = f"model {last['iteration']}, rho {last['rho']:g}" if last["iteration"] else "default policy"
        line = f"iwocs, {who}: worst {last['worst']:.1f} at {where}; on held-out seeds {last['held_out_worst']:.1f}"
        line += f"; default acts in {100 * last['fractions'][-1]:.0f}% of the steps"
        return line + (f"; end: {last['status']}, best is {last['best_so_far']}" if last["status"] else "")

    # --- acting and saving ----------------------------------------------------------------------------------------

    def stateful(self, *, explore: bool = False) -> Composite:
        """Return the best composite so far as a stateful policy."""
        return self.policy.stateful(explore=explore, generator=self.acting_generator)

    def act(self, obs: Tensor, *, explore: bool = False) -> Tensor:
        """Return actions (N, act) of the first step of episodes that begin in obs (N, obs)."""
        with torch.no_grad():
            return self.stateful(explore=explore)(obs)

    def state_dict(self) -> dict[str, Any]:
        state = pack(self, PACKED)
        state |= {"models": [model.clone() for model in self.models], "path": copy.deepcopy(self.path)}
        if self.solver is not None:
            return state | {"solver": self.solver.state_dict()}
        if self.search is not None:
            state |= {"search": self.search.state_dict(), "withheld": self.withheld}
            state |= {"found": list(self.found), "table": copy.deepcopy(self.table)}
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.models, self.path = [model.cpu() for model in state["models"]], copy.deepcopy(state["path"])
        self.solver = self.search = None
        if "solver" in state:
            self.begin_training()
            cast(Any, self.solver).load_state_dict(state["solver"])
        unpack(self, PACKED, state)
        if "search" in state:
            self.withheld, self.found = state["withheld"], [(value, model.cpu()) for value, model in state["found"]]
            self.table = [tuple(row) for row in state["table"]]
            self.search = self.make_search()
            self.search.load_state_dict(state["search"])


PACKED = ("policy", "generator", "acting_generator", "best", "trained_steps", "search_steps", "scale")

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
    artefacts={"path.json": lambda agent: agent.path},
    page="iwocs",
    style=Style("#D55E00", ":"),
    tiny={
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
        "grid_n": 2,
    },
    tiny_env={"id": "surefoot/Pendulum-v0", "max_episode_steps": 15},
)
