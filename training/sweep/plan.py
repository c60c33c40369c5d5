"""What a sweep is: agents × presets × seeds × settings, checked as a whole before anything starts, and its folder.

A sweep's folder holds `sweep.yaml` (the request, every field of it), `plan.json` (its runs in order), `configs/`
(each run's resolved configuration), `runs/` (ordinary run folders), `logs/` and `failures.json`.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
import os
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple
from zlib import crc32

import tyro
import yaml

from surefoot import agents
from surefoot.configs.allowed_modules import require_named_allowed
from surefoot.configs.casting import is_yaml, nested, option, overlay, read_yaml
from surefoot.configs.ranges import require_between, require_finite
from surefoot.envs import Physics, find_spec
from surefoot.evaluation.storage import write_atomically
from surefoot.training.config.measure import measure_of
from surefoot.training.config.presets import default_config, from_plain, load_preset, to_plain, with_changes
from surefoot.training.config.run import RunConfig
from surefoot.training.config.unread import refuse_never_read
from surefoot.training.loop.budget import settle
from surefoot.training.loop.seeds import seeds_apart
from surefoot.training.runs.console import quoted
from surefoot.training.runs.folder import read_meta
from surefoot.training.runs.lock import is_begun, make
from surefoot.training.runs.loggers import require_installed
from surefoot.training.sweep.entry import Entry, read_entries, require_different
from surefoot.training.sweep.seeds import parse_seeds, split_words

RAY_FOLDER = "ray-tune"  # where Ray Tune keeps its own state and copies of the runs
MADE_FIRST = ("configs/*.yaml", "plan.json")  # before sweep.yaml, by which a folder is known as that of a sweep
MOST_RUNS = 10_000  # without --yes
LONGEST_NAME = 100  # characters of a run folder
ROBUST_METRICS = ("worst_case", "cvar")
OWN_OPTIONS = {"seed": "seeds", "threads": "cpus_per_run", "baselines": "agents"}  # set by a sweep: by its own options


@dataclass(frozen=True)
class SearchObjective:
    """What a search improves: a logged metric, or a measurement of its own at every evaluation."""

    metric: str | None = None
    """Metric to optimise: a column of metrics.csv (such as `regret`), `eval/episode_return`, `eval/score`,
    `eval/worst_case` (of a run in an uncertainty set), `eval/objective`, `worst_case` or `cvar`. None: what the runs
    are for, as for their best.pt, and `regret` of bandits."""
    mode: Literal["max", "min"] | None = None
    """Maximise or minimise the metric. None: minimise `regret`, maximise any other."""
    physics: Annotated[tuple[dict[str, float], ...], tyro.conf.Suppress] = ()
    """Dynamics of `worst_case` and `cvar`, such as {gravity: 1.5}, each merged over the run's `eval.physics`."""
    episodes: int = 10
    """Episodes under each of these dynamics."""
    level: float = 0.1
    """Tail level of `cvar`: the mean of the worst fraction `level` of all these episodes."""

    def __post_init__(self) -> None:
        if not 0 < self.level <= 1:
            raise ValueError(f"--objective.level is {self.level}; it must be in (0, 1]")
        require_between(self, {"episodes": (1, 1_000_000)}, "objective.")
        if self.metric in ROBUST_METRICS and not self.physics:
            raise ValueError(f"objective.metric {self.metric} needs dynamics to measure under: name objective.physics")
        for changes in self.physics:
            overlay(Physics(), changes, "objective.physics")


@dataclass(frozen=True)
class Sweep:
    """Many runs at once. Without a search: every agent with every preset, seed and combination of settings."""

    agents: tuple[str, ...] = ()
    """Agents, separated by commas; AGENT/PRESET binds an agent to a preset."""
    presets: tuple[str, ...] = ()
    """Presets to combine with every agent: NAME of the agent's own, OTHER/NAME of another's, or a YAML file."""
    seeds: tuple[str, ...] = ("0",)
    """Seeds: 0..9, or numbers separated by commas."""
    set: dict[str, list[Any]] = field(default_factory=dict)
    """Fields and the values to try, such as env.physics.gravity=1.5,2.0 agent.hidden=[64,64],[128,128]."""
    search: Annotated[dict[str, Any], tyro.conf.Suppress] = field(default_factory=dict)
    """Fields and their search spaces: {range: [a, b]}, {log_range: [a, b]} or {choices: [...]}. Needs engine ray."""
    trials: int = 20
    """Number of trials of a search."""
    objective: SearchObjective = field(default_factory=SearchObjective)
    """What a search optimises."""
    asha_grace: int | None = None
    """Grace period of ASHA: steps before a trial may be stopped; None: no early stopping."""
    asha_reduction: int = 3
    """Reduction factor of ASHA: at every rung one of this many trials continues."""
    engine: Literal["local", "ray"] = "local"
    """`local`: processes on this machine. `ray`: Ray Tune, on this machine or a cluster."""
    address: str | None = None
    """Ray cluster to join (`auto`, host:port); None: start a local one."""
    storage: str | None = None
    """Where Ray Tune stores checkpoints and its state: a path or any fsspec address; default: inside the sweep
    folder."""
    cpus_per_run: float = 1.0
    """CPUs per run, which limits how many run at once; whole numbers are also the threads of a run."""
    gpus_per_run: float = 0.0
    """GPUs per run, a part of one or a whole number; with 0.25 four runs share one."""
    max_restarts: int = 2
    """How often a run that crashes is restarted from its own checkpoint before it counts as failed. One that diverges
    is not restarted: the same seed would diverge again."""

    def __post_init__(self) -> None:
        require_finite(self)
        for name in ("trials", "asha_reduction"):
            if getattr(self, name) < 1:
                raise ValueError(f"{option(name)} is {getattr(self, name)}; it must be at least 1")
        if not (math.isfinite(self.cpus_per_run) and self.cpus_per_run > 0):
            raise ValueError(f"--cpus-per-run is {self.cpus_per_run}; it must be positive")
        if not 0 <= self.gpus_per_run < math.inf:
            raise ValueError(f"--gpus-per-run is {self.gpus_per_run}; it must not be negative")
        if self.gpus_per_run > 1 and self.gpus_per_run != int(self.gpus_per_run):
            raise ValueError(f"--gpus-per-run is {self.gpus_per_run}; above 1 it must be a whole number of GPUs")
        require_between(self, {"max_restarts": (0, 1_000), "asha_grace": (1, 10**15)})


def resolved(objective: SearchObjective, agent_name: str, config: RunConfig[Any]) -> SearchObjective:
    """Return the objective of a search over an agent's settings with its metric and mode named."""
    column = measure_of(agent_name, config).column
    metric = objective.metric or (column if agents.get(agent_name).regret else f"eval/{column}")
    return replace(objective, metric=metric, mode=objective.mode or ("min" if metric == "regret" else "max"))


# May change when a sweep is resumed: how it is executed, but no number of its runs.
CHANGEABLE = ("address", "cpus_per_run", "gpus_per_run", "max_restarts")


class PlannedRun(NamedTuple):
    """One run of a sweep."""

    name: str  # of its folder
    agent_name: str
    preset: str | None
    config: RunConfig[Any]


# --- from the request to runs -----------------------------------------------------------------------------------------


def read_sweep(path: Path) -> Sweep:
    """Return the sweep of a YAML file."""
    content = read_yaml(path)
    for name in ("agents", "presets", "seeds"):
        if name in content:
            content[name] = [str(item) for item in listed(content[name])]
    if isinstance(content.get("set"), Mapping):
        content["set"] = {key: listed(values) for key, values in content["set"].items()}
    return overlay(Sweep(), content, str(path))


def listed(value: Any) -> list[Any]:
    """Return a list as it is and anything else as the only item of one."""
    return value if isinstance(value, list) else [value]


def expand(sweep: Sweep, *, allow_many: bool = False) -> list[PlannedRun]:
    """Return every run of a sweep, in order. A search has one run a method here, whose settings its trials change.

    Raises `ValueError` or `FileNotFoundError` for whatever would fail later: an unknown agent, preset, field or value,
    an empty grid, one of more than `MOST_RUNS` runs, and runs that would be the same.
    """
    methods, seeds = list(_methods(sweep)), parse_seeds(sweep.seeds)
    _require_runs(sweep, methods, seeds, allow_many)
    runs = [
        _planned_run(agent_name, preset, settings, seed, sweep)
        for agent_name, preset in methods
        for settings in _grid(sweep.set)
        for seed in seeds
    ]
    refuse_never_read([(run.agent_name, run.config) for run in runs], sweep.set)
    require_different([(run.name, repr((run.agent_name, run.config))) for run in runs])
    for run in runs:
        _require_possible(run)
        _require_apart(run, seeds, sweep)
        _require_searchable(run.config, sweep.search)
    return runs


def _methods(sweep: Sweep) -> Iterator[tuple[str, str | None]]:
    """Yield agent and preset."""
    presets: list[str | None] = [*split_words(sweep.presets)] or [None]
    for word in split_words(sweep.agents):
        agent_name, _, own = word.partition("/")
        agents.get(agent_name)
        yield from [(agent_name, preset) for preset in ([own] if own else presets)]


def _grid(settings: Mapping[str, list[Any]]) -> Iterator[dict[str, Any]]:
    """Yield every combination of the values, the last field varying fastest."""
    for values in itertools.product(*settings.values()):
        yield dict(zip(settings, values, strict=True))


def _require_runs(sweep: Sweep, methods: list[Any], seeds: list[int], allow_many: bool) -> None:
    counts = {"agents": len(methods), "seeds": len(seeds)} | {key: len(values) for key, values in sweep.set.items()}
    if empty := [name for name, count in counts.items() if not count]:
        raise ValueError(f"an empty grid: no {empty[0]} given")
    total = math.prod(counts.values()) * (sweep.trials if sweep.search else 1)
    if total > MOST_RUNS and not allow_many:
        raise ValueError(f"the grid has {total:,} runs; add --yes if you mean more than {MOST_RUNS:,}")
    if sweep.search and len(seeds) > 1:
        raise ValueError("a search compares settings on one seed; give one, then sweep the best over many seeds")
    if sweep.search and sweep.engine != "ray":
        raise ValueError("search needs Ray Tune: add --engine ray")


def search_range(field: str, what: Any) -> tuple[str, list[Any]]:
    """Return what a field of a search is drawn from: `range`, `log_range` or `choices`, and its numbers or values."""
    if not (isinstance(what, Mapping) and len(what) == 1 and set(what) <= {"range", "log_range", "choices"}):
        raise ValueError(f"search: {field} is {what!r}; expected range: [a, b], log_range: [a, b] or choices: [...]")
    ((kind, values),) = what.items()
    if not isinstance(values, list) or not values:
        raise ValueError(f"search: {field}: {kind} needs a list, not {values!r}")
    if kind == "choices":
        return kind, values
    try:
        low, high = (float(value) for value in values)  # YAML reads 1e-5 as a string
    except (TypeError, ValueError):
        raise ValueError(f"search: {field}: {kind} is {values!r}; expected two numbers") from None
    if not low < high or (kind == "log_range" and low <= 0):
        raise ValueError(f"search: {field}: {kind} is {values!r}; expected a < b{', above 0' * (kind == 'log_range')}")
    return kind, [low, high]


def _require_searchable(config: RunConfig[Any], search: Mapping[str, Any]) -> None:
    """Raise where a field of a search is unknown or given twice, or one of its ends or choices does not fit."""
    nested({name: search_range(name, what)[1][0] for name, what in search.items()}, "search")
    for field_name, what in search.items():
        for value in search_range(field_name, what)[1]:
            with_settings(config, {field_name: _whole(value)}, "search")


def _whole(value: Any) -> Any:
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _planned_run(agent_name: str, preset: str | None, settings: dict[str, Any], seed: int, sweep: Sweep) -> PlannedRun:
    base = load_preset(agent_name, preset) if preset else default_config(agent_name)
    config = with_settings(base, settings, f"{agent_name}: set")
    # A run of a sweep stands alone: baseline runs of a preset would take CPUs reserved for other runs.
    config = replace(config, seed=seed, threads=max(1, int(sweep.cpus_per_run)), baselines=())
    varied = {key: value for key, value in settings.items() if len(sweep.set[key]) > 1}
    return PlannedRun(_name(agent_name, preset, config, varied), agent_name, preset, config)


def with_settings(config: RunConfig[Any], settings: Mapping[str, Any], where: str) -> RunConfig[Any]:
    """Return a configuration with dotted fields replaced, each cast to its type and checked."""
    for key in settings:
        if key in OWN_OPTIONS:
            raise ValueError(f"{where}: {key} is the sweep's own; use {OWN_OPTIONS[key]}")
    return with_changes(config, settings, where)


def _name(agent_name: str, preset: str | None, config: RunConfig[Any], settings: Mapping[str, Any]) -> str:
    """Return a descriptive folder name of the run, shortened where it would be too long."""
    short = [key.rpartition(".")[2] for key in settings]
    keys = short if len(set(short)) == len(short) else list(settings)
    parts = [agent_name, preset_label(preset) if preset else config.env.id]
    parts += map("{}={}".format, keys, settings.values())
    text = "-".join(re.sub(r"[^\w.+=-]+", "_", part).strip("_") for part in parts)
    if len(text) > LONGEST_NAME:
        text = f"{text[:LONGEST_NAME]}-{crc32('-'.join(parts).encode()):08x}"
    return f"{text}-s{config.seed}"


def preset_label(preset: str) -> str:
    """Return a short name: that of a preset file without its folders."""
    return Path(preset).stem if is_yaml(preset) else preset.replace("/", "-")


def _require_possible(run: PlannedRun) -> None:
    require_named_allowed((run.config.env.id, run.config.env.termination or ""), run.name)
    find_spec(run.config.env.id)
    require_installed(run.config.logger)
    settle(run.agent_name, run.config)
    if agents.get(run.agent_name).needs_data and run.config.data.source is None:
        raise ValueError(f"{run.agent_name} learns from recorded data: set --data.source, or name a preset that does")


def _require_apart(run: PlannedRun, seeds: Sequence[int], sweep: Sweep) -> None:
    """Raise where runs of several seeds each share some, or where an engine or a search takes one seed a run."""
    count = seeds_apart(run.agent_name, run.config)
    if count > 1 and (sweep.engine == "ray" or sweep.search):
        raise ValueError(f"{run.name}: --num-seeds {count} needs --engine local and no search; give --seeds instead")
    for one, following in itertools.pairwise(sorted(seeds)):
        if following - one < count:
            raise ValueError(
                f"{run.name}: --seeds {one} and {following} share some with --num-seeds {count}; space by {count}"
            )


# --- the folder -------------------------------------------------------------------------------------------------------


def create(folder: Path, sweep: Sweep, runs: Sequence[PlannedRun]) -> None:
    """Make the folder of a new sweep; one that a killed process has only begun is made anew.

    Raises:
        FileExistsError: something is in the way.
        BlockingIOError: another process makes it.
        OSError: it cannot be made.
    """
    lock = make(folder, "the sweep's folder", _require_free)
    try:
        _fill(folder, sweep, runs)
    finally:
        lock.release()


def _require_free(folder: Path) -> None:
    if folder.exists() and not (folder.is_dir() and (is_begun(folder, MADE_FIRST) or not any(folder.iterdir()))):
        raise FileExistsError(f"{folder}: not empty; resume it with --resume {quoted(folder)}, or take another --name")


def _fill(folder: Path, sweep: Sweep, runs: Sequence[PlannedRun]) -> None:
    shutil.rmtree(folder / "configs", ignore_errors=True)  # those of one that was killed meanwhile
    for name in ("configs", "runs", "logs"):
        (folder / name).mkdir(exist_ok=True)
    for run in runs:
        text = yaml.safe_dump(to_plain(run.agent_name, run.config), sort_keys=False)
        (folder / "configs" / f"{run.name}.yaml").write_text(text, encoding="utf-8")
    entries = [Entry(run.name, run.agent_name, run.preset, run.config.seed)._asdict() for run in runs]
    write_json(folder / "plan.json", entries)
    save_sweep(folder, sweep)  # last: a folder with sweep.yaml is whole


def save_sweep(folder: Path, sweep: Sweep) -> None:
    """Write the request, every field of it; `surefoot sweep FOLDER/sweep.yaml` repeats it."""
    text = yaml.safe_dump(_plain(dataclasses.asdict(sweep)), sort_keys=False)
    write_atomically(folder / "sweep.yaml", lambda file: file.write(text.encode()))


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value


def write_json(path: Path, content: Any) -> None:
    """Write plain values atomically."""
    write_atomically(path, lambda file: file.write((json.dumps(content, indent=1) + "\n").encode()))


def read_plan(folder: Path) -> list[Entry]:
    """Return the runs of a sweep in order.

    `FileNotFoundError` where `folder` is none, `ValueError` for a plan that no sweep has made.
    """
    if not (folder / "sweep.yaml").is_file():
        raise FileNotFoundError(f"{folder}: not the folder of a sweep (no sweep.yaml)")
    return read_entries(folder / "plan.json")


def read_planned_config(folder: Path, name: str) -> RunConfig[Any]:
    """Return the resolved configuration of one run of a sweep."""
    path = folder / "configs" / f"{name}.yaml"
    return from_plain(read_yaml(path), str(path))[1]


def status_of(run: Path) -> str | None:
    """Return the contents of a run's meta.json; None where there is no run yet."""
    return read_meta(run).get("status") if (run / "meta.json").is_file() else None


def is_done(folder: Path, name: str) -> bool:
    """Whether a run of the sweep was carried through."""
    return status_of(folder / "runs" / name) == "finished"


def read_failures(folder: Path) -> dict[str, dict[str, Any]]:
    """Return {run: how often it was tried, and the end of its log} of the runs that were given up."""
    path = folder / "failures.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def wandb_settings(folder: Path, entry: Entry) -> dict[str, str]:
    """Return the environment by which W&B groups the runs of a sweep and tags them."""
    tags = [
        folder.name,
        entry.agent_name,
        *([preset_label(entry.preset)] if entry.preset else []),
        f"seed-{entry.seed}",
    ]
    return {"WANDB_RUN_GROUP": os.environ.get("WANDB_RUN_GROUP", folder.name), "WANDB_TAGS": ",".join(tags)}
