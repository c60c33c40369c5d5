"""A run from beginning to end: set-up, training loop, baseline runs, comparison."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from tqdm import tqdm

from surefoot.training.comparison import (
    compare,
    compare_objectives,
    side_by_side,
    with_baselines,
)
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
from surefoot.training.loop.engines import pick_device
from surefoot.training.loop.interrupt import StopRequest, belongs_to_a_driver, stop_on_signals
from surefoot.training.loop.loop import ActiveRun, Callback, finish, run_loop
from surefoot.training.loop.process import quick_process
from surefoot.training.loop.seeds import (
    Failures,
    SeedRuns,
    has_seeds,
    noting,
    require_all,
    resume_seeds,
    run_side_by_side,
    start_seeds,
    with_seed,
)
from surefoot.training.loop.setup import resume, start, start_or_resume
from surefoot.training.runs import folder as run_folder
from surefoot.training.runs.folder import seed_folder
from surefoot.training.runs.lock import remove_own

AnyRun = ActiveRun | SeedRuns


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


def resume_run(
    folder: Path,
    agent_name: str,
    config: RunConfig[Any],
    *,
    from_step: int | None = None,
    callback: Callback | None = None,
) -> Path:
    """Resume the run in a folder under `config`, which may extend its budget, and return the folder.

    It goes on from its latest checkpoint that is whole, or from that of step `from_step`; later ones are deleted then.

    Raises:
        ValueError: `config` changes what may not change.
        FileNotFoundError: no checkpoint, or none of that step.
        BlockingIOError: another process trains the run.
    """
    if from_step is not None or not run_folder.is_finished(folder, config):
        with stop_on_signals() as stop:
            execute(take_up(folder, agent_name, config, from_step), stop, callback)
    return folder


def begin(agent_name: str, config: RunConfig[Any], folder: Path, preset: str | None) -> AnyRun:
    """Return a new run at its first step, with the configurations of its baseline runs in its folder."""
    config, _ = settle(agent_name, config)
    planned = plan_baselines(agent_name, config, preset)
    run: AnyRun
    if has_seeds(agent_name, config):
        run = start_seeds(agent_name, config, folder, preset)
    else:
        run = start(agent_name, config, folder, preset)
    save_baselines(folder, planned)
    return run


def take_up(folder: Path, agent_name: str, config: RunConfig[Any], from_step: int | None = None) -> AnyRun:
    """Return the run in a folder at its latest checkpoint, or that of `from_step`.

    Its baseline runs get what `config` changes, too.
    """
    several = has_seeds(agent_name, config) or has_seeds(*run_folder.read_config(folder))
    planned = plan_resumed_baselines(folder, agent_name, config)
    if several and from_step is not None:
        raise ValueError(f"{folder}: has several seeds; resume one by itself, {seed_folder(folder, config.seed)}")
    run: AnyRun
    run = resume_seeds(folder, agent_name, config) if several else resume(folder, agent_name, config, None, from_step)
    save_baselines(folder, planned)
    return run


def begin_or_take_up(folder: Path, agent_name: str, config: RunConfig[Any], preset: str | None) -> AnyRun | None:
    """Return the run in a folder where it stands, a new one if there is none; None if it is finished.

    It goes without baseline runs.
    """
    if not has_seeds(agent_name, config):
        return start_or_resume(folder, agent_name, config, preset)
    config, _ = settle(agent_name, config)
    if not (folder / "meta.json").is_file():
        remove_own(folder, waits=belongs_to_a_driver())  # killed while it was made
        return start_seeds(agent_name, config, folder, preset)
    return None if run_folder.is_finished(folder, config) else resume_seeds(folder, agent_name, config)


def execute(run: AnyRun, stop: StopRequest, callback: Callback | None = None) -> None:
    """Train until the budget is spent or `stop` is requested, together with its baseline runs; close everything."""
    if isinstance(run, SeedRuns):
        _execute_seeds(run, stop, callback)
        return
    tqdm.write(run.plan)
    apart = replace(run.config, baselines=()) if run.spec.regret else run.config
    with _recorded([run], stop) as (elapsed, _):
        with quick_process(), BaselineRuns(run.folder, apart, lambda: stop) as baselines:
            run_loop(run, stop, elapsed, callback)
            if not stop:
                finish(run)
                baselines.wait()
        if run.spec.regret:
            _run_regret_baselines(run, stop)
        if not stop:
            _compare(run)


def _execute_seeds(run: SeedRuns, stop: StopRequest, callback: Callback | None) -> None:
    """Train the seeds of a run together with its baseline runs.

    Raises `SeedsFailedError` at the end where some failed on their own.
    """
    tqdm.write(run.plan)
    began = time.perf_counter() - 60 * float(run_folder.read_meta(run.folder).get("minutes", 0))
    status = "failed"
    run_folder.mark(run.folder, "running", time.perf_counter() - began)
    try:
        with quick_process(), BaselineRuns(run.folder, run.config, lambda: stop) as baselines:
            failures = (_train_together if run.side_by_side else _train_in_turn)(run, stop, callback)
            if not stop:
                baselines.wait()
        require_all(run, failures)
        if not stop:
            compare(run.folder, run.agent_name, run.config, pick_device(run.config.device))
        status = "finished"
    finally:
        with suppress(OSError):  # a full disk must not hide what went wrong before
            run_folder.mark(run.folder, "interrupted" if stop else status, time.perf_counter() - began)
        run.release()


def _train_together(run: SeedRuns, stop: StopRequest, callback: Callback | None) -> Failures:
    seeds = run.opened
    run.current = next(iter(seeds))
    with _recorded(list(seeds.values()), stop) as (elapsed, failed):
        failures = run_side_by_side(seeds, stop, elapsed, callback)
        for seed, one in seeds.items():
            if not stop and seed not in failures:
                with noting(failures, seed):
                    finish(one)
                    _compare(one)
        failed += [seeds[seed] for seed in failures]
    return failures


def _train_in_turn(run: SeedRuns, stop: StopRequest, callback: Callback | None) -> Failures:
    failures: Failures = {}
    for seed in run.waiting:
        if stop:
            break
        run.current = seed
        with noting(failures, seed):
            execute(run.open(seed), stop, with_seed(callback, seed))
        if not stop:
            run.close(seed)
    return failures


@contextmanager
def _recorded(runs: Sequence[ActiveRun], stop: StopRequest) -> Iterator[tuple[Callable[[], float], list[ActiveRun]]]:
    """Note in their folders how runs stand, running and then how they ended, and close what they hold.

    Yields the seconds that they have taken so far, and the list of those that have failed while others go on.
    """
    start, failed, status = time.perf_counter(), list[ActiveRun](), "failed"
    before = {run.folder: run.counters.seconds for run in runs}
    for run in runs:
        run_folder.mark(run.folder, "running", run.counters.seconds)
    try:
        yield lambda: time.perf_counter() - start + before[runs[0].folder], failed
        status = "finished"
    finally:
        for run in runs:
            run.counters.seconds = time.perf_counter() - start + before[run.folder]
            how = "failed" if run in failed else "interrupted" if stop else status
            with suppress(OSError):  # a full disk must not hide what went wrong before
                run_folder.mark(run.folder, how, run.counters.seconds)
            run.close()


def _compare(run: ActiveRun) -> None:
    compare(run.folder, run.agent_name, run.config, run.device)
    if run.config.eval.objectives:
        runs = side_by_side(with_baselines(run.folder, run.agent_name, run.config))
        compare_objectives(run.folder, runs, run.device)


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
