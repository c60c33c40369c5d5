"""The local engine of a sweep: one process per run, as many side by side as the CPUs (and GPUs) allow."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from surefoot.training.loop.interrupt import StopRequest, parent_to_stop_with, stop_with
from surefoot.training.loop.seeds import seeds_apart
from surefoot.training.runs.lock import take
from surefoot.training.session import AnyRun, begin_or_take_up
from surefoot.training.sweep import plan
from surefoot.training.sweep.entry import Entry
from surefoot.training.sweep.plan import Sweep
from surefoot.training.sweep.progress import SweepProgress, fraction_done
from surefoot.training.sweep.server import ForkedRun, Request, WarmServer, log_of

LAST_LINES = 15  # of a failed run's log, enough for the error and where it came from
SAME_AGAIN = 2  # exit code, of wrong input and of a run that diverged: another try would end the same way
STOPPED = (128 + signal.SIGINT, -signal.SIGINT)  # exit codes of a run that was asked to save and end
LOOK_EVERY = 0.1  # seconds between two looks at the processes
SHOW_EVERY = 1.0  # seconds between two counts of all their steps


def execute_locally(folder: Path, sweep: Sweep, show: Callable[[SweepProgress], None], stop: StopRequest) -> None:
    """Train every run of the sweep that is not finished, until all are or `stop` is requested.

    A run that dies is resumed from its own checkpoint, `max_restarts` times, but for one that diverged: the same seed
    would again. Then it is noted in failures.json with the end of its log, and the others continue.
    """
    with one_driver(folder) as lock:
        require_resources(sweep)
        plan.save_sweep(folder, sweep)
        pool = WorkerPool(folder, sweep, lock)
        shown = 0.0
        try:
            while pool.has_work() and not stop:
                pool.fill()
                pool.collect()
                if time.monotonic() - shown > SHOW_EVERY:
                    show(pool.progress())
                    shown = time.monotonic()
                time.sleep(LOOK_EVERY)
        finally:
            pool.end()
            show(pool.progress())


class WorkerPool:
    """The worker processes, the runs that wait, and what became of the others."""

    def __init__(self, folder: Path, sweep: Sweep, lock: int) -> None:
        self.folder, self.sweep, self.lock = folder, sweep, lock
        self.free = list(range(side_by_side(sweep, *resources(sweep))))
        self.entries = plan.read_plan(folder)
        self.done = {entry.name for entry in self.entries if plan.is_done(folder, entry.name)}
        self.waiting = [entry for entry in self.entries if entry.name not in self.done]
        self.tries = {entry.name: 0 for entry in self.waiting}
        self.children: dict[
            int, tuple[Entry, tuple[int, int], ForkedRun]
        ] = {}  # by slot: run, steps and seeds, process
        self.server: WarmServer | None = None  # started with the first run
        self.failures: dict[str, dict[str, Any]] = {}  # those of an earlier session have another chance now
        plan.write_json(folder / "failures.json", self.failures)

    def has_work(self) -> bool:
        """Whether anything runs or waits."""
        return bool(self.waiting or self.children)

    def fill(self) -> None:
        """Start runs in the free slots."""
        while self.waiting and self.free:
            slot, entry = self.free.pop(0), self.waiting.pop(0)
            self.tries[entry.name] += 1
            config = plan.read_planned_config(self.folder, entry.name)
            environment = plan.wandb_settings(self.folder, entry) | devices_of(slot, self.sweep.gpus_per_run)
            process = _start(self.warm_server(), self.folder, entry.name, environment)
            self.children[slot] = entry, (config.steps, seeds_apart(entry.agent_name, config)), process

    def warm_server(self) -> WarmServer:
        """Return the process that runs are forked from; a new one where it was killed."""
        if self.server is None or not self.server.alive:
            self.server = WarmServer(server_command(self.folder), pass_fds=(self.lock,))
        return self.server

    def collect(self, stopped: bool = False) -> None:
        """Sort the processes that have ended: finished, to be restarted, or failed for good.

        Those that have been `stopped` wait, however often they were tried: nothing has failed.
        """
        for slot, (entry, _, process) in list(self.children.items()):
            if (code := process.poll()) is None:
                continue
            del self.children[slot]
            self.free.append(slot)
            if plan.is_done(self.folder, entry.name):
                self.done.add(entry.name)
            elif (stopped and code in STOPPED) or (
                code != SAME_AGAIN and self.tries[entry.name] <= self.sweep.max_restarts
            ):
                self.waiting.insert(0, entry)
            else:
                failure = {"tries": self.tries[entry.name], "end_of_log": end_of_log(self.folder, entry.name)}
                self.failures[entry.name] = failure
                plan.write_json(self.folder / "failures.json", self.failures)

    def progress(self) -> SweepProgress:
        """Count."""
        fractions = [
            fraction_done(self.folder / "runs" / entry.name, *size) for entry, size, _ in self.children.values()
        ]
        numbers = len(self.done), len(self.children), len(self.failures), len(self.entries)
        return SweepProgress(*numbers, work=len(self.done) + sum(fractions))

    def end(self) -> None:
        """Ask whatever still runs to save and end, and wait for it; a second Ctrl-C meanwhile ends it at once."""
        processes = [process for _, _, process in self.children.values()]
        try:
            for process in processes:
                process.send_signal(signal.SIGINT)  # does nothing where the process has ended
            for process in processes:
                process.wait()
        except BaseException:
            for process in processes:
                process.kill()
            raise
        finally:
            if self.server is not None:
                self.server.close()
        self.collect(stopped=True)
        self.children.clear()


def require_resources(sweep: Sweep) -> None:
    """Raise `ValueError` where a run of the sweep needs more than this machine has; a cluster is asked by Ray."""
    if sweep.engine == "local":
        side_by_side(sweep, *resources(sweep))


def resources(sweep: Sweep) -> tuple[int, int]:
    """Return the CPUs of this process, and the machine's GPUs where the sweep wants any: counting them takes long."""
    return len(os.sched_getaffinity(0)), torch.cuda.device_count() if sweep.gpus_per_run > 0 else 0


def side_by_side(sweep: Sweep, cpus: int, gpus: int) -> int:
    """Return how many runs go side by side; `ValueError` where a single one needs more than there is."""
    if sweep.gpus_per_run > gpus:
        raise ValueError(f"--gpus-per-run is {sweep.gpus_per_run}, but PyTorch sees {gpus} CUDA devices")
    number = int(cpus / sweep.cpus_per_run)
    if sweep.gpus_per_run > 0:  # a run sees a part of one device, or whole ones; never parts of two
        per_run = sweep.gpus_per_run
        number = min(number, gpus * int(1 / per_run) if per_run <= 1 else gpus // int(per_run))
    if number < 1:
        raise ValueError(f"--cpus-per-run is {sweep.cpus_per_run}, but this machine has {cpus}")
    return number


def devices_of(slot: int, gpus_per_run: float) -> dict[str, str]:
    """Return the environment by which the run in a slot sees its CUDA devices; empty where it needs none.

    They are of those that this process sees, by the names that it was given: numbers of the machine's, or UUIDs.
    """
    if gpus_per_run <= 0:
        return {}
    width = max(1, int(gpus_per_run))
    first = slot // int(1 / gpus_per_run) if gpus_per_run < 1 else slot * width
    names = [name.strip() for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name.strip()]
    seen = range(first, first + width)
    return {"CUDA_VISIBLE_DEVICES": ",".join(names[i] if names else str(i) for i in seen)}


def end_of_log(folder: Path, name: str) -> str:
    """Return the last lines that a run of the sweep printed."""
    text = log_of(folder, name).read_text(encoding="utf-8", errors="replace")
    return "\n".join(text.splitlines()[-LAST_LINES:])


@contextmanager
def one_driver(folder: Path) -> Iterator[int]:
    """Hold the sweep's lock, and yield its descriptor; the caller saves what is asked for now, once that is possible.

    Its runs inherit the descriptor: after the driver was killed the lock stays until the last of them has noticed.

    Raises:
        BlockingIOError: another process holds it; the folder is as it was.
    """
    lock = take(folder)
    try:
        yield lock.descriptor
    finally:
        lock.release()


def server_command(folder: Path) -> list[str]:
    """Return the command of the process that the runs of a sweep are forked from, but for its channel."""
    return [sys.executable, "-P", "-m", "surefoot.training.cli.main", "sweep-server", str(folder)]


def _start(server: WarmServer, folder: Path, name: str, environment: dict[str, str]) -> ForkedRun:
    arguments = ["sweep", "--resume", str(folder), "--only", name]
    return server.start(Request(arguments, environment, str(log_of(folder, name))))


# --- one run, in its own process --------------------------------------------------------------------------------------


def prepare_one(folder: Path, name: str) -> AnyRun | None:
    """Return one run of a sweep where it stands, for this process to execute; None where it is finished."""
    entries = {entry.name: entry for entry in plan.read_plan(folder)}
    if name not in entries:
        raise ValueError(f"{folder}: no run {name!r} in its plan.json")
    stop_with(parent_to_stop_with())
    entry, config = entries[name], plan.read_planned_config(folder, name)
    return begin_or_take_up(folder / "runs" / name, entry.agent_name, config, entry.preset)
