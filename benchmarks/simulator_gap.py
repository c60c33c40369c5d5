"""When to trust your simulator: the return in the real dynamics against the size of the gap, for H2O and its controls.

    python benchmarks/simulator_gap.py [--cuts gravity kind …] [--jobs gravity=2/h2o/0 …] [--runs runs/simulator-gap]

A job is GAP/METHOD/SEED[/DATA]: one run with the networks, rates and budget of `h2o --preset demo`, its last policy
played for 20 episodes in the real dynamics and 20 in its simulator. GAP is a factor on a physics field of the
simulator, or a parameter of docs/guides/disturbances.md; methods that never see one have the gap `none`. DATA is a file
of `data_sets.py` without its ending, and behind a colon the fraction that is drawn from it; the demo's sample where it
is left out. What is recorded is not run again, a job that was stopped goes on from its last checkpoint: the same
command again is the rest of the work. Jobs are in the order in which they say most. Runs that the demo has made
(`demo.py`) are the same runs, and taken from its result.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import tyro
from record import RESULTS
from trained import carry_out, origin, train_to_the_end

from surefoot.envs import Physics
from surefoot.evaluation.episodes import EvalResult, evaluate, make_act
from surefoot.evaluation.policy_files import load_policy
from surefoot.offline_data import DataConfig
from surefoot.training.config.presets import load_preset
from surefoot.training.config.run import RunConfig

NAME = "simulator_gap"
NO_SIMULATOR = "none"


@dataclass(frozen=True)
class Method:
    """An agent with a preset of the demo's scale, and what is changed of its settings."""

    agent: str
    preset: str
    changes: dict[str, Any] = field(default_factory=dict)


IN_SIMULATOR = {
    "h2o": Method("h2o", "demo"),
    "sac-mix": Method("sac-mix", "demo"),
    "sac-sim": Method("sac", "demo-sim"),
    "h2o-without-regulariser": Method("h2o", "demo", {"regulariser_weight": 0.0}),
    "h2o-without-w": Method("h2o", "demo", {"importance_weights": False}),
    "darc": Method("darc", "h2o/demo"),
}
OFFLINE = {
    "sac-offline": Method("sac-offline", "demo"),
    "bc": Method("bc", "demo"),
    "cql": Method("cql", "sac-offline/demo"),
}
METHODS = IN_SIMULATOR | OFFLINE
DEMO_GAP = "gravity=2"
DEMO = {"h2o": "h2o", "sac-mix": "sac-mix", "sac": "sac-sim", "sac-offline": "sac-offline", "bc": "bc"}  # its names
GRAVITY = ("2", "0.25", "1", "4", "0.5")  # in the order of the jobs
KINDS = (  # gravity left alone, one thing wrong: the floor, an actuator that is dead, weak or wired the wrong way, time
    "friction=0.1",
    "dead_actuator=1",
    "actuator_gain.bthigh=0.3",
    "actuator_gear.bthigh=-120",
    "control_delay=2",
    "action_noise=1",
)
QUALITIES = tuple(f"halfcheetah-{quality}" for quality in ("medium", "medium-expert", "expert"))
SIZES = tuple(f"halfcheetah-replay-100k:{fraction}" for fraction in (0.02, 0.1, 0.4, 1))
SEEDS = (0, 1, 2)
EPISODES, FIRST_SEED = 20, 1000
CORRECTIONS = ("importance_weight", "reward_correction")  # means over simulated rows: w of H2O, the reward of DARC
LAST_ROWS = 10  # of metrics.csv, over which they are averaged


def main_cut() -> Iterator[str]:
    """Yield the jobs of the main cut, gravity: first what says most, then all others, a seed after the other."""
    fast = [method for method in IN_SIMULATOR if method != "darc"]
    first = [
        *(f"gravity={factor}/{method}/{SEEDS[0]}" for factor in GRAVITY[:3] for method in fast),
        *(f"gravity={GRAVITY[0]}/{method}/{seed}" for seed in SEEDS for method in fast),
        *(f"{NO_SIMULATOR}/{method}/{seed}" for seed in SEEDS for method in OFFLINE if method != "cql"),
    ]
    others = (f"gravity={factor}/{method}/{seed}" for seed in SEEDS for factor in GRAVITY for method in IN_SIMULATOR)
    last = (f"{NO_SIMULATOR}/cql/{seed}" for seed in SEEDS)  # each as long as all the others of a cell
    yield from dict.fromkeys([*first, *others, *last])


def other_kinds() -> Iterator[str]:
    """Yield the jobs of the kinds of gap beside gravity."""
    yield from (f"{gap}/{method}/{seed}" for seed in SEEDS for gap in KINDS for method in IN_SIMULATOR)


def other_data(names: Iterable[str]) -> Iterator[str]:
    """Yield the jobs with other data than the sample, gravity doubled; all methods but those that see no data."""
    gaps = {name: DEMO_GAP for name in IN_SIMULATOR if name != "sac-sim"} | dict.fromkeys(("sac-offline", "bc"), "none")
    yield from (f"{gap}/{name}/{seed}/{data}" for seed in SEEDS for data in names for name, gap in gaps.items())


CUTS = {
    "gravity": tuple(main_cut()),
    "kind": tuple(other_kinds()),
    "quality": tuple(other_data(QUALITIES)),
    "size": tuple(other_data(SIZES)),
}


@dataclass
class Options:
    """What to run."""

    cuts: tuple[Literal["gravity", "kind", "quality", "size"], ...] = ("gravity",)
    """What is varied: the gravity, the kind of gap, or, at doubled gravity, quality or size of the data."""
    jobs: tuple[str, ...] | None = None
    """GAP/METHOD/SEED[/DATA]; None: those of the cuts."""
    data_sets: Path = Path("runs/data-sets")
    """Folder of the files of `data_sets.py`."""
    runs: Path = Path("runs/simulator-gap")
    """Folder of the run folders."""
    steps: int | None = None
    """Simulator steps of a run, updates for methods without; None: those of the presets."""


def jobs_of_the_demo() -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the jobs that the demo's runs are, and what they came to."""
    path = RESULTS / "demo.json"
    demo = json.loads(path.read_text()) if path.is_file() else {"summary": {}, "seeds": []}
    for theirs, cell in demo["summary"].items():
        name = DEMO[theirs]
        gap = NO_SIMULATOR if name in OFFLINE else DEMO_GAP
        for seed, real, simulator in zip(demo["seeds"], cell["real_seeds"], cell["simulator_seeds"], strict=True):
            own = {} if name in OFFLINE else {"simulator": simulator}
            yield f"{gap}/{name}/{seed}", {"steps": cell["steps"], "real": real, **own, "commit": demo["commit"]}


def physics_of(gap: str) -> Physics:
    """Return the simulator's dynamics of a gap such as `gravity=2`."""
    if gap == NO_SIMULATOR:
        return Physics()
    name, _, value = gap.partition("=")
    if name in {field.name for field in fields(Physics)}:
        return replace(Physics(), **{name: float(value)})
    return Physics(parameters=(gap,))


def data_of(name: str, folder: Path) -> DataConfig:
    """Return the data of a job such as `halfcheetah-replay-100k:0.1`, of a file that must be there."""
    stem, _, fraction = name.partition(":")
    path = folder / f"{stem}.hdf5"
    if not path.is_file():
        raise SystemExit(f"{path} is not there; make it with `python benchmarks/data_sets.py --only {stem}`")
    return DataConfig(str(path), fraction=float(fraction or 1))


def configuration(job: str, options: Options) -> RunConfig[Any]:
    """Return the run of a job: evaluated at its end alone."""
    gap, name, seed, *data = job.split("/")
    method = METHODS[name]
    preset = load_preset(method.agent, method.preset)
    steps = options.steps or preset.steps
    return replace(
        preset,
        agent=replace(preset.agent, **method.changes),
        env=replace(preset.env, physics=physics_of(gap)),
        eval=replace(preset.eval, every=steps, episodes=EPISODES, seed=FIRST_SEED),
        data=data_of(data[0], options.data_sets) if data else preset.data,
        steps=steps,
        seed=int(seed),
        device="cpu",
        baselines=(),
    )


def run(job: str, options: Options) -> dict[str, Any]:
    """Train the policy of a job, from where it stopped if it did, and return what it comes to."""
    method, config = METHODS[job.split("/")[1]], configuration(job, options)
    folder = options.runs / job.replace("/", "-").replace(":", "-")
    meta = train_to_the_end(job, folder, method.agent, config, method.preset)
    found = measured(folder, config) | corrections(folder)
    return {"steps": config.steps, **found, **origin(meta)}


def corrections(folder: Path) -> dict[str, float]:
    """Return how large the corrections of a finished run were at its end, of methods that have any."""
    with (folder / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    logged = {name: [float(row[name]) for row in rows if row.get(name)][-LAST_ROWS:] for name in CORRECTIONS}
    return {name: round(float(np.mean(values)), 3) for name, values in logged.items() if values}


def measured(folder: Path, config: RunConfig[Any]) -> dict[str, float]:
    """Return the last policy's returns, mean and standard deviation over episodes, in both dynamics."""
    act = make_act(load_policy(folder).policy)
    places = {"real": config.eval.physics, "simulator": config.env.physics}
    found = {
        place: evaluate(act, replace(config.env, physics=physics), episodes=EPISODES, seed=FIRST_SEED)
        for place, physics in places.items()
    }
    return {name: value for place, result in found.items() for name, value in _moments(place, result).items()}


def _moments(place: str, result: EvalResult) -> dict[str, float]:
    return {
        place: round(float(np.mean(result.returns)), 1),
        f"{place}_std": round(float(np.std(result.returns)), 1),
    }


def main(options: Options) -> None:
    made = dict(jobs_of_the_demo()) if options.steps is None else {}
    jobs = options.jobs if options.jobs is not None else [job for cut in options.cuts for job in CUTS[cut]]
    every = list(dict.fromkeys([*made, *jobs]))
    carry_out(NAME, every, lambda job: made[job] if job in made else run(job, options), SEEDS, options.runs)


if __name__ == "__main__":
    main(tyro.cli(Options))
