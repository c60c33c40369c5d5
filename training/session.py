"""A run from beginning to end: set up, loop, baseline runs beside it, comparison."""

from __future__ import annotations

import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from surefoot.training.comparison import compare, compare_objectives, with_companions
from surefoot.training.config.presets import load_preset
from surefoot.training.config.run import RunConfig
from surefoot.training.loop.baselines import Companions, companion_folder
from surefoot.training.loop.interrupt import StopRequest, stop_on_signals
from surefoot.training.loop.loop import Run, finish, run_loop
from surefoot.training.loop.process import quick_process
from surefoot.training.loop.setup import start, start_or_resume
from surefoot.training.runs import folder as run_folder

LENGTHS = ("horizon", "episodes")  # what an agent that is measured by regret is told of the length of its run


def train(
    agent_name: str, config: RunConfig, *, out: Path = Path("runs"), name: str | None = None, preset: str | None = None
) -> Path:
    """Train an agent and return its run folder `out/name`. A signal stops it early, with a checkpoint.

    Raises `ValueError`, `FileNotFoundError`, `FileExistsError` or `ImportError` before the folder is made.
    """
    with stop_on_signals() as stop:
        run = start(agent_name, config, out / (name or run_folder.default_name(agent_name, config, preset)), preset)
        carry_out(run, stop)
    return run.folder


def carry_out(run: Run, stop: StopRequest) -> None:
    """Train until the budget is spent or `stop` asks to end, companions beside it; leave the folder in order."""
    began = time.perf_counter() - run.counters.seconds
    status = "failed"
    run_folder.mark(run.folder, "running", run.counters.seconds)
    try:
        apart = replace(run.config, beside=()) if run.spec.regret else run.config
        with quick_process(), Companions(run.folder, apart, lambda: stop) as companions:
            run_loop(run, stop, lambda: time.perf_counter() - began)
            if not stop:
                finish(run)
                companions.wait()
        if run.spec.regret:
            _play_companions(run, stop)
        if not stop:
            compare(run.folder, run.agent_name, run.config, run.device)
            if run.config.eval.objectives:
                compare_objectives(run.folder, with_companions(run.folder, run.agent_name, run.config), run.device)
        status = "finished"
    finally:
        run.counters.seconds = time.perf_counter() - began
        with suppress(OSError):  # a full disk must not hide what went wrong before
            run_folder.mark(run.folder, "interrupted" if stop else status, run.counters.seconds)
        for logger in run.loggers.values():
            logger.close()
        if run.env is not None:
            run.env.close()


def _play_companions(run: Run, stop: StopRequest) -> None:
    """Train what is compared with this run by regret: in the same environment, for as long, with data of its own.

    In this process, one after the other: their runs take seconds, less than a process takes to start.
    """
    for entry in run.config.beside:
        agent_name, preset = entry.split("/")
        theirs = load_preset(agent_name, preset)
        told = {name: getattr(run.config.agent, name) for name in LENGTHS if hasattr(theirs.agent, name)}
        config = replace(run.config, agent=replace(theirs.agent, **told), data=theirs.data, beside=())
        folder = companion_folder(run.folder, entry)
        companion = None if stop else start_or_resume(folder, agent_name, config, preset)
        if companion is not None:
            carry_out(companion, stop)
