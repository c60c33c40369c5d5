"""What each part of IWOCS costs its worst case: the same trained parts under gates that know more, and the paper's.

    python benchmarks/iwocs_oracles.py [--jobs 18 19 …] [--runs runs/iwocs-oracles]

A job is a seed of `iwocs --preset demo` (`iwocs-models` of `iwocs.py`, the same run): it is trained, from where it
stopped if it did, and the policy that it deploys is taken apart. Its default and specialists play on the published
half-open 10 × 10 grid, 2 episodes a point from seeds that no training saw, under

- `known`: the model is known from the first step, and who gets most there alone acts;
- `simulator`: the gate by models, with the simulator in place of its learned predictor;
- `models`: the gate as it was learned, which is what is deployed;
- `every error counts`: the same, without the usual error taken off, so that D of (4.30) is the sum of e/z;
- `the last step alone`: the same, with nothing remembered of the steps before it;
- `nobody goes on`: the same, where who acted has no precedence, (4.33);
- `predictors`: the paper's gate, one ρ for all, the best of its R on other seeds.

What is recorded is not run again, and neither is a run that has ended.
"""

from __future__ import annotations

from collections.abc import Callable
from copy import copy, deepcopy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import mujoco
import numpy as np
import torch
import tyro
from mujoco import rollout
from torch import Tensor
from trained import carry_out, train_to_the_end
from worst_cases import FIRST_SEED, PUBLISHED_GRID
from worst_cases import SET as UNCERTAINTY

from surefoot.agents.iwocs import THRESHOLDS
from surefoot.agents.iwocs.models import CompositeAmongModels, ModelGate
from surefoot.envs import BatchedPerturbedEnvs, make_single
from surefoot.envs.task_parameters import TaskParameters
from surefoot.evaluation.policy_files import load_policy
from surefoot.training.config.presets import load_preset

NAME = "iwocs_oracles"
SEEDS = (18, 19, 20, 21, 22)  # on which nothing was chosen
GRID = UNCERTAINTY.grid(PUBLISHED_GRID, closed=False)
EPISODES, CHOOSING_SEED = 2, 30_000  # that of the episodes by which ρ is chosen
ROUNDING = 1e-4  # of float32 observations: the simulator's own usual error, in units of the gate


@dataclass
class Options:
    """What to take apart."""

    jobs: tuple[str, ...] = tuple(map(str, SEEDS))
    """Seeds."""
    runs: Path = Path("runs/iwocs-oracles")
    """Folder of the run folders."""


class Known(CompositeAmongModels):
    """A composite that is told which model it is in: episodes are those of the points of its gate, in their order."""

    def __init__(self, of: CompositeAmongModels, episodes: int) -> None:
        super().__init__(of.specialists, of.default, of.models, of.tolerance, of.first)
        self.episodes = episodes

    def judged(self, obs: Tensor) -> tuple[Tensor, Tensor]:
        """Let the best in the model act."""
        assert self._job is not None
        chosen = self.values.argmax(0)[self._job.clamp(min=0) // self.episodes]
        return self.of(self.proposals(obs), chosen), chosen


class Forgetful(CompositeAmongModels):
    """A composite whose gate judges by the last step alone."""

    def among(self, obs: Tensor, *step: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """As the deployed one, from no excess so far."""
        before, action, fresh, trace, who = step
        return super().among(obs, before, action, fresh, torch.zeros_like(trace), who)


class Restless(CompositeAmongModels):
    """A composite in which nobody goes on because he acted before."""

    def among(self, obs: Tensor, *step: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """As the deployed one, after the default."""
        *others, who = step
        return super().among(obs, *others, torch.full_like(who, len(self.specialists)))


def counting_every_error(of: CompositeAmongModels) -> CompositeAmongModels:
    """Return the composite with D = Σ e/z: (4.30) in a unit so small that what is taken off is the same for all."""
    models, unit = deepcopy(of.models), 1e-6
    models.usual.mul_(unit)
    return CompositeAmongModels(of.specialists, of.default, models, of.tolerance / unit, of.first)


class Simulator(ModelGate):
    """A gate whose predictor is MuJoCo, from observations that are the whole state."""

    def __init__(self, of: ModelGate, env: Any) -> None:
        super().__init__(of.dims, *of.values.T.shape, (), torch.Generator())
        for name in ("points", "values", "lowest", "unit"):
            getattr(self, name).copy_(getattr(of, name))
        self.usual.fill_(ROUNDING)
        self.task: Any = env.unwrapped
        self.high = float(self.task.action_space.high[0])
        parameters = TaskParameters(env, UNCERTAINTY)
        self.simulators = []
        for point in GRID:
            self.task.model = copy(self.task.model)
            parameters.write(self.task, parameters.full(point))
            self.simulators.append(self.task.model)
        self.data = mujoco.MjData(self.task.model)

    def errors(self, obs: Tensor, action: Tensor, next_obs: Tensor) -> Tensor:
        """Return (N, P) the error of steps (N, …) in every model: (4.29), by its own step from the same state."""
        rows, models = len(obs), len(self.simulators)
        state = np.repeat(np.pad(obs.numpy().astype(np.float64), ((0, 0), (1, 0))), models, axis=0)  # the time is first
        control = np.repeat(self.high * action.numpy().astype(np.float64), models, axis=0)[:, None]
        control = np.repeat(control, self.task.frame_skip, axis=1)
        states, _ = rollout.rollout(self.simulators * rows, self.data, initial_state=state, control=control)
        after = torch.from_numpy(states[:, -1, 1:].astype(np.float32)).view(rows, models, -1)
        return ((after - next_obs[:, None]) / self.unit).abs().sum(-1)


def take_apart(seed: str, runs: Path) -> dict[str, Any]:
    """Return what the parts of a run get under every gate."""
    demo = load_preset("iwocs", "demo")
    agent = replace(demo.agent, train_all_parts=True)  # for the paper's gate; the policies are the same
    config = replace(demo, agent=agent, seed=int(seed), device="cpu", baselines=())
    meta = train_to_the_end(seed, runs / seed, "iwocs", config, "demo")
    file = load_policy(runs / seed)
    envs = BatchedPerturbedEnvs(file.env_config, UNCERTAINTY)
    deployed: Any = file.policy.stateful()
    among, rest = (deployed.specialists, deployed.default), (deployed.tolerance, deployed.first)
    simulator = Simulator(deployed.models, make_single(file.env_config))
    gates = {
        "known": Known(deployed, EPISODES),
        "simulator": CompositeAmongModels(*among, simulator, *rest),
        "models": deployed,
        "every error counts": counting_every_error(deployed),
        "the last step alone": Forgetful(*among, deployed.models, *rest),
        "nobody goes on": Restless(*among, deployed.models, *rest),
    }
    seeds = range(FIRST_SEED, FIRST_SEED + EPISODES)
    found = {name: outcome(envs.play(act, GRID, seeds).returns) for name, act in gates.items()}
    found["predictors"] = of_predictors(file.policy, len(deployed.specialists), lambda *what: envs.play(*what).returns)
    return {
        "specialists": len(deployed.specialists),
        "gates": found,
        "trained_at": meta["commit"],
    }


def of_predictors(policy: Any, specialists: int, returns_of: Callable[..., np.ndarray]) -> dict[str, Any]:
    """Return what the paper's gate gets, with the ρ that is best on seeds of its own."""
    choosing = range(CHOOSING_SEED, CHOOSING_SEED + EPISODES)
    worst = {rho: returns_of(policy.composite([rho] * specialists), GRID, choosing).mean(1).min() for rho in THRESHOLDS}
    rho = max(worst, key=lambda one: (worst[one], one))
    seeds = range(FIRST_SEED, FIRST_SEED + EPISODES)
    return {"rho": rho} | outcome(returns_of(policy.composite([rho] * specialists), GRID, seeds))


def outcome(returns: np.ndarray) -> dict[str, Any]:
    """Return the worst mean return of a point, where, and how many episodes were not the longest possible."""
    means = returns.mean(1)
    return {
        "worst": round(float(means.min()), 1),
        "at": GRID[means.argmin()].tolist(),
        "mean": round(float(means.mean()), 1),
        "fell": int((returns < returns.max()).sum()),
        "models_with_a_fall": int((returns < returns.max()).any(1).sum()),
        "episodes": returns.size,
    }


def main(options: Options) -> None:
    carry_out(NAME, options.jobs, lambda job: take_apart(job, options.runs), SEEDS, options.runs)


if __name__ == "__main__":
    main(tyro.cli(Options))
