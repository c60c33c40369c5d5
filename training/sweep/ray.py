"""The Ray engine of a sweep: Ray Tune places, restarts, stops and restores the runs, here or on a cluster.

What is ours is what Ray cannot know: how a run begins or is resumed (its folder is the checkpoint that Tune stores),
what a search draws from, what it improves, and how run folders come back.
"""

from __future__ import annotations

import math
import os
import signal
import socket
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from surefoot.configs.casting import overlay
from surefoot.evaluation.episodes import evaluate, make_act
from surefoot.evaluation.statistics import cvar
from surefoot.training.config.presets import from_plain, to_plain
from surefoot.training.config.run import RunConfig
from surefoot.training.loop.finite import NOT_FINITE
from surefoot.training.loop.interrupt import StopRequest
from surefoot.training.loop.loop import ActiveRun, is_over
from surefoot.training.loop.setup import start_or_resume
from surefoot.training.runs.folder import write_meta
from surefoot.training.runs.lock import remove_own
from surefoot.training.runs.loggers import Row
from surefoot.training.session import execute
from surefoot.training.sweep import plan
from surefoot.training.sweep.entry import Entry
from surefoot.training.sweep.local import LAST_LINES, one_driver
from surefoot.training.sweep.plan import RAY_FOLDER, ROBUST_METRICS, SearchObjective, Sweep
from surefoot.training.sweep.progress import SweepProgress

try:
    import optuna  # noqa: F401
    import ray
    from ray import tune
    from ray.tune.schedulers import ASHAScheduler
    from ray.tune.search.optuna import OptunaSearch
except ModuleNotFoundError as error:
    raise ImportError('engine ray needs Ray Tune and Optuna: pip install "surefoot[ray]"') from error

SHOW_EVERY = 1.0  # seconds
DIVERGED = "diverged"  # in what a trial reports last: why


def execute_on_ray(folder: Path, sweep: Sweep, show: Callable[[SweepProgress], None], stop: StopRequest) -> None:
    """Train every run of the sweep, or every trial of its searches, that is not finished, and gather their folders.

    Raises `ConnectionError` for a cluster that does not answer and `OSError` for a storage that cannot be written.
    """
    entries = plan.read_plan(folder)
    studies = [[entry] for entry in entries] if sweep.search else [entries]
    with one_driver(folder), cluster(sweep):
        plan.save_sweep(folder, sweep)
        plan.write_json(folder / "failures.json", {})
        for study in studies:
            if stop:
                return
            _execute_study(folder, sweep, study, show, stop)


@contextmanager
def cluster(sweep: Sweep) -> Iterator[None]:
    """Join the cluster of the sweep's address, or start a local one; one that is there already is used and kept."""
    os.environ["RAY_CHDIR_TO_TRIAL_DIR"] = "0"  # relative paths in a configuration mean the same in a worker as here
    os.environ.setdefault("TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S", "0")  # run folders are small
    if ray.is_initialized():
        yield
        return
    _require_listener(sweep.address)
    try:
        ray.init(address=sweep.address, include_dashboard=None if sweep.address else False, log_to_driver=False)
    except ConnectionError as error:
        raise ConnectionError(f"no Ray cluster at {sweep.address}; start one by `ray start --head`") from error
    try:
        yield
    finally:
        ray.shutdown()


def _require_listener(address: str | None) -> None:
    """Raise `ConnectionError` where nothing listens at HOST:PORT; Ray itself would wait for minutes."""
    host, colon, port = (address or "").removeprefix("ray://").rpartition(":")
    if colon and port.isdecimal():
        try:
            socket.create_connection((host, int(port)), timeout=10).close()
        except OSError as error:
            raise ConnectionError(f"no Ray cluster at {address} ({error}); start one by `ray start --head`") from error


def _execute_study(
    folder: Path, sweep: Sweep, study: Sequence[Entry], show: Callable[[SweepProgress], None], stop: StopRequest
) -> None:
    """Let Ray Tune execute the runs of a grid, or one search."""
    configs = {entry.name: plan.read_planned_config(folder, entry.name) for entry in study}
    total = sweep.trials if sweep.search else len(study)
    # Set on the class: Ray pickles the instance into its own state, and a resumed sweep has a line of its own.
    Watch.show, Watch.total = staticmethod(show), total
    Watch.steps = {name: config.steps for name, config in configs.items()}
    grid = _tuner(folder, sweep, study, configs).fit()
    results = [grid[i] for i in range(len(grid))]
    unfinished = gather(folder, sweep, study, results)
    if (unfinished or len(results) < total) and not stop:
        stop.signal = signal.SIGINT  # Ray catches Ctrl-C by itself and returns
    if sweep.search and not stop:
        write_best(folder, sweep, study[0], configs[study[0].name], results)


def _tuner(folder: Path, sweep: Sweep, study: Sequence[Entry], configs: Mapping[str, RunConfig[Any]]) -> tune.Tuner:
    """Return Ray's tuner, restored where it was under way before."""
    storage = sweep.storage or str((folder / RAY_FOLDER).resolve())
    name = study[0].name if sweep.search else "grid"
    runs = {
        entry.name: (to_plain(entry.agent_name, configs[entry.name]), entry.preset, plan.wandb_settings(folder, entry))
        for entry in study
    }
    objective = sweep.objective if sweep.search else None
    trainable = tune.with_resources(
        tune.with_parameters(execute_trial, runs=runs, objective=objective),
        {"cpu": sweep.cpus_per_run, "gpu": sweep.gpus_per_run},
    )
    place = f"{storage.rstrip('/')}/{name}"
    if tune.Tuner.can_restore(place):
        return tune.Tuner.restore(place, trainable=trainable, resume_unfinished=True, resume_errored=True)
    return tune.Tuner(
        trainable,
        param_space=_space(sweep, study, configs),
        tune_config=_search_settings(sweep, study[0], configs) if sweep.search else tune.TuneConfig(reuse_actors=True),
        run_config=tune.RunConfig(
            name=name,
            storage_path=storage,
            failure_config=tune.FailureConfig(max_failures=sweep.max_restarts),
            checkpoint_config=tune.CheckpointConfig(num_to_keep=1),
            callbacks=[Watch()],
            verbose=0,
        ),
    )


# --- search -----------------------------------------------------------------------------------------------------------


def _space(sweep: Sweep, study: Sequence[Entry], configs: Mapping[str, RunConfig[Any]]) -> dict[str, Any]:
    if not sweep.search:
        return {"run": tune.grid_search([entry.name for entry in study])}
    (config,) = configs.values()
    return {"run": study[0].name} | {field: domain_of(config, field, what) for field, what in sweep.search.items()}


def domain_of(config: RunConfig[Any], field: str, what: Any) -> Any:
    """Return Ray's domain for one field of a search: whole numbers where the field holds one."""
    kind, value = plan.search_range(field, what)
    if kind == "choices":
        return tune.choice(value)
    low, high = value
    current: Any = config
    for part in field.split("."):
        current = getattr(current, part)
    if isinstance(current, int) and not isinstance(current, bool):
        return (tune.lograndint if kind == "log_range" else tune.randint)(int(low), int(high) + 1)
    return (tune.loguniform if kind == "log_range" else tune.uniform)(low, high)


def _search_settings(sweep: Sweep, entry: Entry, configs: Mapping[str, RunConfig[Any]]) -> tune.TuneConfig:
    config = configs[entry.name]
    objective = plan.resolved(sweep.objective, entry.agent_name, config)
    scheduler = None
    if sweep.asha_grace is not None:
        scheduler = ASHAScheduler(
            time_attr="step",
            max_t=config.steps,
            grace_period=min(sweep.asha_grace, config.steps),
            reduction_factor=sweep.asha_reduction,
        )
    search = OptunaSearch(seed=config.seed)
    return tune.TuneConfig(
        metric=objective.metric,
        mode=objective.mode,
        num_samples=sweep.trials,
        search_alg=search,
        scheduler=scheduler,
        reuse_actors=True,  # a worker takes seconds to start
    )


def write_best(folder: Path, sweep: Sweep, entry: Entry, config: RunConfig[Any], results: Sequence[Any]) -> None:
    """Write the settings of the best trial as a preset, to be tried over many seeds."""
    objective = plan.resolved(sweep.objective, entry.agent_name, config)
    metric, sign = str(objective.metric), 1 if objective.mode == "max" else -1
    measured = [result for result in results if metric in (result.metrics or {}) and DIVERGED not in result.metrics]
    if not measured:
        raise ValueError(f"no trial of {entry.name} has reported {metric}; see the columns of a run's metrics.csv")
    best = max(measured, key=lambda result: sign * result.metrics[metric])
    plain = to_plain(entry.agent_name, plan.with_settings(config, settings_of(best.config), "search"))
    kept = {name: value for name, value in plain.items() if name not in ("agent_name", *plan.OWN_OPTIONS)}
    place = folder / f"best-{entry.name}.yaml"
    head = f"# {entry.agent_name}: {metric} {best.metrics[metric]:g}, the best of {len(measured)} trials on one seed\n"
    place.write_text(head + yaml.safe_dump(kept, sort_keys=False), encoding="utf-8")
    print(f"\nbest settings: {place}; try them over seeds: --agents {entry.agent_name} --presets {place} --seeds 0..9")


def settings_of(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a trial sets of its run."""
    return {field: value for field, value in config.items() if field != "run"}


# --- one trial, in a worker -------------------------------------------------------------------------------------------


def execute_trial(config: dict[str, Any], *, runs: Mapping[str, Any], objective: SearchObjective | None) -> None:
    """Train one run, from the checkpoint that Ray Tune holds for this trial if there is one."""
    name = config["run"]
    plain, preset, environment = runs[name]
    os.environ.update(environment)
    agent_name, run_config = from_plain(plain, name)
    run_config = plan.with_settings(run_config, settings_of(config), name)
    folder = Path(tune.get_context().get_trial_dir()) / name
    remove_own(folder, waits=True)  # what Ray stores is the truth, also where a worker died on this machine
    checkpoint = tune.get_checkpoint()
    if checkpoint is not None:
        checkpoint.to_directory(str(folder))
    run = start_or_resume(folder, agent_name, run_config, preset)
    if run is not None:
        reporter = run.loggers["ray"] = Reporter(run, objective)
        try:
            execute(run, StopRequest())
        except NOT_FINITE as error:  # not an error for Ray, which would try again
            reporter.give_up(error)
            return
        reporter.send()


class Reporter:
    """Tells Ray Tune how a run does, and hands its folder over after every checkpoint."""

    def __init__(self, run: ActiveRun, objective: SearchObjective | None) -> None:
        self.run, self.objective = run, objective
        wanted = objective and plan.resolved(objective, run.agent_name, run.config)
        self.metric = wanted and wanted.metric
        self.worst = math.inf if wanted and wanted.mode == "min" else -math.inf
        self.latest: dict[str, float] = {}
        self.handed_over = run.saved_step

    def log(self, row: Row, env_steps: int) -> None:
        """Take in a row; report it where it has the objective."""
        self.latest |= {name: value for name, value in row.items() if value is not None}
        if self.objective is not None and self.metric in ROBUST_METRICS and "eval/episode_return" in row:
            self.latest[str(self.metric)] = measure(self.run, self.objective)
            self.send()
        elif self.metric is None or self.metric in row:
            self.send()

    def send(self) -> None:
        """Report the latest values, with the run's folder where it holds a new checkpoint or is finished."""
        counters = self.run.counters
        finished = is_over(self.run)
        folder = None
        if finished or self.run.saved_step > self.handed_over:
            folder = tune.Checkpoint.from_directory(str(self.run.folder))
            self.handed_over = self.run.saved_step
        tune.report(self.latest | {"step": counters.step}, checkpoint=folder)

    def give_up(self, error: Exception) -> None:
        """Report that the run diverged, as bad as can be for a search, and hand over the folder of the failed run."""
        worst = {str(self.metric): self.worst} if self.metric else {}
        row = self.latest | worst | {"step": self.run.counters.step, DIVERGED: str(error)}
        tune.report(row, checkpoint=tune.Checkpoint.from_directory(str(self.run.folder)))

    def state_dict(self) -> dict[str, Any]:
        return {}

    def close(self) -> None:
        """There is nothing to close."""


def measure(run: ActiveRun, objective: SearchObjective) -> float:
    """Return the worst mean return over the objective's dynamics, or the CVaR of all their episodes.

    MuJoCo in C steps them, as in every other evaluation, whatever steps those of training.
    """
    settings = run.config.eval
    returns = []
    for changes in objective.physics:
        env = replace(run.config.env.in_c(), physics=overlay(settings.physics, changes, "objective.physics"))
        found = evaluate(make_act(run.agent), env, episodes=objective.episodes, seed=settings.seed, device=run.device)
        returns.append(found.returns)
    if objective.metric == "worst_case":
        return float(min(values.mean() for values in returns))
    return float(cvar(np.concatenate(returns), objective.level))


# --- back in the driver -----------------------------------------------------------------------------------------------


class Watch(tune.Callback):
    """Shows the progress of the trials."""

    show: Callable[[SweepProgress], None]
    total: int
    steps: dict[str, int]
    shown = 0.0

    def on_step_end(self, iteration: int, trials: list[Any], **info: Any) -> None:
        """Count the trials, at most once per second."""
        if time.monotonic() - Watch.shown < SHOW_EVERY:
            return
        Watch.shown = time.monotonic()
        by_status = {status: [t for t in trials if t.status == status] for status in ("TERMINATED", "RUNNING", "ERROR")}
        done, running, failed = map(len, by_status.values())
        diverged = sum(DIVERGED in (trial.last_result or {}) for trial in by_status["TERMINATED"])
        done, failed = done - diverged, failed + diverged
        fractions = [
            min(1.0, (trial.last_result or {}).get("step", 0) / Watch.steps[trial.config["run"]])
            for trial in by_status["RUNNING"]
        ]
        Watch.show(SweepProgress(done, running, failed, Watch.total, done + sum(fractions)))


def gather(folder: Path, sweep: Sweep, study: Sequence[Entry], results: Sequence[Any]) -> int:
    """Bring the run folders of a study back, note its failures, and return how many trials are under way still."""
    failures, unfinished = plan.read_failures(folder), 0
    for i, result in enumerate(results):
        name = f"{study[0].name}-t{i:03d}" if sweep.search else result.config["run"]
        place = folder / "runs" / name
        if plan.is_done(folder, name):
            continue
        if result.checkpoint is not None:
            remove_own(place)
            result.checkpoint.to_directory(str(place))
        diverged = (result.metrics or {}).get(DIVERGED)
        if diverged or result.error is not None:
            end = "\n".join(str(diverged or result.error).splitlines()[-LAST_LINES:])
            failures[name] = {"tries": 1 if diverged else sweep.max_restarts + 1, "end_of_log": end}
            if place.exists():
                write_meta(place, {"status": "failed"})
        elif not plan.is_done(folder, name):
            if (result.metrics or {}).get("done") and place.exists():
                write_meta(place, {"status": "stopped early"})  # by ASHA
            else:
                unfinished += 1
    plan.write_json(folder / "failures.json", failures)
    return unfinished
