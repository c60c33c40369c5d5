"""A run from beginning to end: set-up, training loop, baseline runs, comparison."""

from __future__ import annotations

import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from tqdm import tqdm

from surefoot.training.comparison import compare, compare_objectives, side_by_side, with_baselines
from surefoot.training.config.run import RunConfig
from surefoot.training.loop.baselines import (
    BaselineRuns,
    baseline_folder,
    plan_baselines,
    plan_resumed_baselines,
    read_baseline,
    save_baselines,
)
from surefoot.training.loop.budget import settle
from surefoot.training.loop.interrupt import StopRequest, stop_on_signals
from surefoot.training.loop.loop import ActiveRun, Callback, finish, run_loop
from surefoot.training.loop.process import quick_process
from surefoot.training.loop.setup import resume, start, start_or_resume
from surefoot.training.runs import folder as run_folder


def train(
    agent_name: str,
    config: RunConfig[Any],
    *,
    out: Path = Path("runs"),
    name: str | None = None,
    preset: str | None = None,
    callback: Callback | None = None,
) -> Path:
    """Train an agent and return its run folder `out/name`. A signal or `callback` stops it early, with a checkpoint.

    Raises `ValueError`, `FileNotFoundError`, `FileExistsError` or `ImportError` before the folder is made.
    """
    with stop_on_signals() as stop:
        run = begin(agent_name, config, out / (name or run_folder.default_name(agent_name, config, preset)), preset)
        execute(run, stop, callback)
    return run.folder


def resume_run(folder: Path, agent_name: str, config: RunConfig[Any], *, callback: Callback | None = None) -> Path:
    """Resume the run in a folder under `config`, which may extend its budget, and return the folder.

    Raises:
        ValueError: `config` changes what may not change.
        FileNotFoundError: no checkpoint.
    """
    if not run_folder.is_finished(folder, config):
        with stop_on_signals() as stop:
            execute(take_up(folder, agent_name, config), stop, callback)
    return folder


def begin(agent_name: str, config: RunConfig[Any], folder: Path, preset: str | None) -> ActiveRun:
    """Return a new run at its first step, with the configurations of its baseline runs in its folder."""
    config, _ = settle(agent_name, config)
    planned = plan_baselines(agent_name, config, preset)
    run = start(agent_name, config, folder, preset)
    save_baselines(folder, planned)
    return run


def take_up(folder: Path, agent_name: str, config: RunConfig[Any]) -> ActiveRun:
    """Return the run in a folder at its latest checkpoint; its baseline runs get what `config` changes, too."""
    planned = plan_resumed_baselines(folder, agent_name, config)
    run = resume(folder, agent_name, config)
    save_baselines(folder, planned)
    return run


def execute(run: ActiveRun, stop: StopRequest, callback: Callback | None = None) -> None:
    """Train until the budget is spent or `stop` is requested, together with its baseline runs; close everything."""
    began = time.perf_counter() - run.counters.seconds
    status = "failed"
    tqdm.write(run.plan)
    run_folder.mark(run.folder, "running", run.counters.seconds)
    try:
        apart = replace(run.config, baselines=()) if run.spec.regret else run.config
        with quick_process(), BaselineRuns(run.folder, apart, lambda: stop) as baselines:
            run_loop(run, stop, lambda: time.perf_counter() - began, callback)
            if not stop:
                finish(run)
                baselines.wait()
        if run.spec.regret:
            _run_regret_baselines(run, stop)
        if not stop:
            compare(run.folder, run.agent_name, run.config, run.device)
            if run.config.eval.objectives:
                runs = side_by_side(with_baselines(run.folder, run.agent_name, run.config))
                compare_objectives(run.folder, runs, run.device)
        status = "finished"
    finally:
        run.counters.seconds = time.perf_counter() - began
        with suppress(OSError):  # a full disk must not hide what went wrong before
            run_folder.mark(run.folder, "interrupted" if stop else status, run.counters.seconds)
        for logger in run.loggers.values():
            logger.close()
        if run.env is not None:
            run.env.close()


def _run_regret_baselines(run: ActiveRun, stop: StopRequest) -> None:
    """Train the baselines of a run that is measured by regret: same environment and length, their own data.

    In this process, one after the other: their runs take seconds, less than a process takes to start.
    """
    for entry in run.config.baselines:
        agent_name, config = read_baseline(run.folder, entry)
        folder, preset = baseline_folder(run.folder, entry), entry.partition("/")[2]
        baseline = None if stop else start_or_resume(folder, agent_name, config, preset)
        if baseline is not None:
            execute(baseline, stop)
