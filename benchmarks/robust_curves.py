"""The worst case over an uncertainty set against training steps: IWOCS and what it is compared with, budget for budget.

    python benchmarks/robust_curves.py [--jobs inverted-pendulum-2/iwocs/20 …] [--runs runs/robust-curves]

A job is SET/METHOD/SEED, on seeds that no setting was chosen on. All methods of a set have the same steps, networks and
rates of learning, and one update for every step after a warm-up:

- A step is one of an environment that is trained in; IWOCS's are those of all its phases, the default policy and every
  model. What its searches play is counted apart, as `search_steps`. IWOCS has a warm-up in every model, the others one.
- An update is a gradient step on a batch. SAC (`nominal`, `dr-sac`): critics, policy, temperature; IWOCS in a model:
  also its second critic and its predictor. `m2td3`: critics, and every second time policy and worst adversary vector.
  `rarl`: critics of both players, and every second time both policies, so that the adversary's gradient steps come on
  top of as many of the agent as the others have.

At every evaluation the policy that would be deployed then (of IWOCS: the best composite so far) is played on the
published half-open grid, 10 points a parameter, from reset seeds that no training saw: `curve` holds the lowest mean
return of a point. Where a run ends before its budget, its last policy stands. That is played once more, 5 episodes a
point. IWOCS deploys what held best in its own searches; for the others the policy of the curve that is best on
the same grid, from reset seeds of its own, is chosen and played in the same way: `kept`. CPU-seconds of training and of
the curve's evaluations are recorded apart. What is recorded is not run again, and a job that was stopped goes on from
its last checkpoint.
"""

from __future__ import annotations

import csv
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import tyro
from trained import ON_ONE_CORE, carry_out, origin, train_to_the_end
from worst_cases import EPISODES, FIRST_SEED, PUBLISHED_GRID, Method, played, without_tables

from surefoot.envs import SETS, BatchedPerturbedEnvs
from surefoot.evaluation.episodes import make_act
from surefoot.evaluation.policy_files import checkpoint_steps, load_policy
from surefoot.evaluation.uncertainty_grid import worst_case
from surefoot.training.config.presets import load_preset
from surefoot.training.config.run import EvalConfig, RunConfig

NAME = "robust_curves"
CHOICE_SEED = 30_000  # of the episodes by which a policy of the curve is kept
KEPT = 1_000  # policies: one an evaluation, and one wherever a run was stopped

IWOCS_PRESET = "demo"
# What a larger robot takes of that preset: its rules, and no sizes.
RULES = (
    "gate",
    "gate_updates",
    "prolong",
    "on_repeat",
    "grid_n",
    "grid_closed",
    "search_episodes",
    "held_out_episodes",
)


@dataclass(frozen=True)
class Comparison:
    """Methods with the same budget."""

    methods: dict[str, Method]
    seeds: tuple[int, ...]
    iwocs_seeds: tuple[int, ...]
    """Its own, where its rules were chosen since on one of the others."""
    steps: int
    every: int
    """Steps between two points of a curve."""
    episodes: int
    """At every point of the grid, for each of them: few enough that the curve takes less than a quarter of a job."""


PENDULUM = Comparison(
    {
        "iwocs": Method("iwocs", preset=IWOCS_PRESET),
        "dr-sac": Method("dr-sac"),
        "m2td3": Method("m2td3"),
        "rarl": Method("rarl"),
        "nominal": Method("sac", preset="iwocs-demo-nominal"),
    },
    seeds=(25, 26, 27, 28, 29),
    iwocs_seeds=(35, 36, 37, 38, 39),
    steps=96_000,
    every=9_600,
    episodes=2,
)
START = {"learning_starts": 1_000, "random_steps": 1_000}  # the published 10,000 are a quarter of a model's steps here
PHASES = {"default_steps": 80_000, "model_steps": 40_000, "iterations": 3}  # the shares of the published budget


def of_the_demo() -> dict[str, Any]:
    """Return the rules of IWOCS's preset as changes of another."""
    agent = load_preset("iwocs", IWOCS_PRESET).agent
    return {name: getattr(agent, name) for name in RULES}


def larger(name: str) -> Comparison:
    """Return the comparison on the set of a larger robot: networks and rates of its published presets."""
    return Comparison(
        {
            "iwocs": Method("iwocs", of_the_demo() | START | PHASES, name),
            "dr-sac": Method("dr-sac", START, name),
            "nominal": Method("sac", START, f"dr-sac/{name}"),
        },
        seeds=(25, 26, 27),
        iwocs_seeds=(35, 36, 37),
        steps=200_000,
        every=10_000,
        episodes=2,
    )


COMPARISONS = {
    "inverted-pendulum-2": PENDULUM,
    "inverted-pendulum-1": PENDULUM,
    "halfcheetah-2": larger("halfcheetah-2"),
}
LENGTHS = ("learning_starts", "random_steps", "default_steps", "model_steps")  # of an agent, in steps


@dataclass
class Options:
    """What to run."""

    sets: tuple[str, ...] = tuple(COMPARISONS)
    """Sets whose jobs are run."""
    jobs: tuple[str, ...] | None = None
    """SET/METHOD/SEED; None: all of the sets, a seed after the other."""
    runs: Path = Path("runs/robust-curves")
    """Folder of the run folders."""
    steps: int | None = None
    """Steps of a run, to try it: warm-ups, phases and what lies between evaluations shrink, too. None: the set's."""


def jobs_of(name: str) -> list[str]:
    """Return the jobs of a set, a seed after the other."""
    comparison = COMPARISONS[name]
    together = zip(comparison.iwocs_seeds, comparison.seeds, strict=True)
    return [
        f"{name}/{method}/{own if method == 'iwocs' else seed}"
        for own, seed in together
        for method in comparison.methods
    ]


def configuration(job: str, steps: int | None = None) -> RunConfig[Any]:
    """Return the run of a job: a policy is kept wherever its curve has a point, and nothing is evaluated before."""
    name, method_name, seed = job.split("/")
    comparison = COMPARISONS[name]
    method = comparison.methods[method_name]
    preset = load_preset(method.agent, method.preset)
    steps = steps or comparison.steps
    share = steps / comparison.steps
    agent = replace(preset.agent, **method.changes)
    lengths = {name: getattr(agent, name) for name in LENGTHS if hasattr(agent, name)}
    return replace(
        preset,
        agent=replace(agent, **{name: shrunk(length, share) for name, length in lengths.items()}),
        uncertainty=None if method_name == "nominal" else name,
        eval=EvalConfig(every=steps, episodes=1, worlds=2),
        steps=steps,
        seed=int(seed),
        baselines=(),
        **ON_ONE_CORE | {"checkpoint_every": shrunk(comparison.every, share), "keep_checkpoints": KEPT},
    )


def shrunk(length: int, share: float) -> int:
    """Return a share of so many steps, at least one."""
    return max(1, round(length * share))


def run(job: str, options: Options) -> dict[str, Any]:
    """Train the policy of a job, from where it stopped if it did; return its curve and what its last policy gets."""
    name, method, _ = job.split("/")
    config = configuration(job, options.steps)
    folder = options.runs / job.replace("/", "-")
    meta, seconds = trained(job, folder, COMPARISONS[name].methods[method], config)
    before = time.process_time()
    curve = worst_cases(folder, config, name)
    spent = {"training": round(seconds, 1), "curve": round(time.process_time() - before, 1)}
    return {
        "steps": config.steps,
        "ended": checkpoint_steps(folder, "policy")[-1],
        "updates": updates_of(folder),
        "curve": curve,
        "cpu_seconds": spent,
        **played_policy(folder, config, name),
        **({} if method == "iwocs" else {"kept": kept_best(folder, config, name)}),
        **origin(meta),
        **path_of(folder),
    }


def trained(job: str, folder: Path, method: Method, config: RunConfig[Any]) -> tuple[dict[str, Any], float]:
    """Train the run of a job to its end; return its meta and its CPU-seconds, those before it was stopped included."""
    file, began = folder / "cpu_seconds.json", time.process_time()
    before = json.loads(file.read_text()) if file.is_file() else 0.0
    try:
        meta = train_to_the_end(job, folder, method.agent, config, method.preset)
    finally:
        if folder.is_dir():
            file.write_text(json.dumps(before + time.process_time() - began))
    return meta, json.loads(file.read_text())


def worst_cases(folder: Path, config: RunConfig[Any], name: str) -> dict[str, Any]:
    """Return the lowest mean return over the grid of the policy at every evaluation."""
    steps, at = points_of(folder, config)
    episodes = COMPARISONS[name].episodes
    found = worst_of_each(folder, config, name, range(FIRST_SEED, FIRST_SEED + episodes))
    return {"episodes": episodes, "steps": steps, "worst": [round(found[step], 1) for step in at]}


def kept_best(folder: Path, config: RunConfig[Any], name: str) -> dict[str, Any]:
    """Return what the policy gets that is best at an evaluation on the grid, the last one of equals, and its step."""
    found = worst_of_each(folder, config, name, range(CHOICE_SEED, CHOICE_SEED + EPISODES))
    step = max(found, key=lambda step: (found[step], step))
    figures = played_policy(folder, config, name, step)
    del figures["table"]
    return {"step": step, "chosen_by": round(found[step], 1), "episodes": EPISODES, **figures}


def worst_of_each(folder: Path, config: RunConfig[Any], name: str, seeds: Sequence[int]) -> dict[int, float]:
    """Return the lowest mean return of a point, an episode from each reset seed, of every policy of the curve."""
    envs, points = BatchedPerturbedEnvs(config.env, SETS[name]), SETS[name].grid(PUBLISHED_GRID, closed=False)
    steps = sorted({*points_of(folder, config)[1]})
    return {step: worst_case(make_act(load_policy(folder, step).policy), envs, points, seeds)[0] for step in steps}


def played_policy(folder: Path, config: RunConfig[Any], name: str, step: str | int = "latest") -> dict[str, Any]:
    """Return what the last policy, or that of a step, gets over the published grid."""
    task, grid = replace(config.env, num_envs=128), {"n": PUBLISHED_GRID, "closed": False}
    return played(make_act(load_policy(folder, step).policy), task, **grid, uncertainty=SETS[name])


def points_of(folder: Path, config: RunConfig[Any]) -> tuple[list[int], list[int]]:
    """Return the steps of the curve, and those of the policies that stand for them."""
    steps = list(range(config.checkpoint_every, config.steps + 1, config.checkpoint_every))
    return steps, policies_at(steps, checkpoint_steps(folder, "policy"))


def policies_at(steps: Sequence[int], kept: Sequence[int]) -> list[int]:
    """Return which of the policies `kept`, ascending, stands for each step: the first from it on, else the last.

    One that was kept because the run was stopped lies before the next step, and is no other's first.
    """
    return [min((one for one in kept if one >= step), default=kept[-1]) for step in steps]


def updates_of(folder: Path) -> int:
    """Return the updates of a finished run."""
    with (folder / "metrics.csv").open(newline="") as file:
        return int([row["updates"] for row in csv.DictReader(file)][-1])


def path_of(folder: Path) -> dict[str, Any]:
    """Return the steps that IWOCS searched for, the updates of its gate, which are not among a run's, and its path."""
    if not (folder / "path.json").is_file():
        return {}
    path = without_tables(json.loads((folder / "path.json").read_text()))
    of_all = {name: path[-1][name] if path else 0 for name in ("search_steps", "gate_updates")}
    return of_all | {"path": path}


def main(options: Options) -> None:
    jobs = options.jobs if options.jobs is not None else [job for name in options.sets for job in jobs_of(name)]
    seeds = sorted({seed for of in COMPARISONS.values() for seed in of.seeds + of.iwocs_seeds})
    carry_out(NAME, jobs, lambda job: run(job, options), seeds, options.runs)


if __name__ == "__main__":
    main(tyro.cli(Options))
