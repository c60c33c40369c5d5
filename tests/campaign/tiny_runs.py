"""The smallest run of every agent, and how to carry runs out in forked processes, which have nothing to import."""

from __future__ import annotations

import ctypes
import importlib
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"  # a process with threads cannot be forked

import torch
from matplotlib.figure import Figure

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "benchmarks")]

import record as records  # noqa: E402
from recordings import write_data  # noqa: E402
from sameness import assert_same_run, rows  # noqa: E402

from surefoot import agents  # noqa: E402
from surefoot.envs import EnvConfig  # noqa: E402
from surefoot.offline_data import DataConfig  # noqa: E402
from surefoot.training.cli.main import main  # noqa: E402
from surefoot.training.config.run import EvalConfig, RunConfig  # noqa: E402
from surefoot.training.loop.process import leave_out_for_good  # noqa: E402

__all__ = [
    "assert_same_run",
    "draw_nothing",
    "ended",
    "forked",
    "kill_after",
    "left_over",
    "preload",
    "quiet",
    "records",
    "rows",
    "surefoot",
    "surefoot_and_imports",
    "tiny_run",
    "write_data",
]
STEPS = 80
TIMER_ABSTIME = 1  # Linux's time.h
TRIED = set[str]()  # modules that were to be preloaded


def tiny_run(name: str, data: Path, **changes: Any) -> RunConfig[Any]:
    """Return the tiny run of an agent: dozens of steps, with rows, evaluations and checkpoints between them."""
    spec = agents.get(name)
    config = RunConfig(
        agent=replace(spec.default, **spec.tiny),
        env=EnvConfig(**(spec.tiny_env or {"id": "Pendulum-v1", "max_episode_steps": 15})),
        uncertainty="pendulum-2" if spec.needs_uncertainty_set else None,
        data=DataConfig(source=str(data)) if spec.needs_data else DataConfig(),
        eval=EvalConfig(every=30, episodes=2),
        steps=STEPS,
        log_every=17,
        checkpoint_every=13,
        keep_checkpoints=3,
        keep_finished=3,
        threads=1,
        device="cpu",
    )
    return replace(config, **changes)


def forked(work: Callable[[], object], log: Path) -> int:
    """Do some work in a process of its own group that prints to `log`; return its number at once."""
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid:
        return pid
    try:
        os.setsid()
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_DFL)
        descriptor = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
        os.dup2(descriptor, 1)
        os.dup2(descriptor, 2)
        for name, number in (("stdout", 1), ("stderr", 2)):  # a test has captured what they were
            setattr(sys, name, open(number, "w", buffering=1, closefd=False))  # noqa: SIM115 - until the process ends
        torch.set_num_threads(1)
        code = work()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code if isinstance(code, int) else 0)
    except BaseException as error:
        os.write(2, f"{type(error).__name__}: {error}\n".encode())
        os._exit(99)


def kill_after(seconds: float) -> None:
    """Let the kernel send this process SIGKILL when it has used so much more CPU time: however busy the machine is."""
    libc, timer = ctypes.CDLL(None, use_errno=True), ctypes.c_void_p()
    seconds += time.process_time()
    event = (ctypes.c_int * 16)(0, 0, signal.SIGKILL)  # struct sigevent: a value of 8 bytes, the signal, SIGEV_SIGNAL
    at = (ctypes.c_long * 4)(0, 0, int(seconds), max(1, int(seconds % 1 * 1e9)))  # no interval; seconds, nanoseconds
    if libc.timer_create(time.CLOCK_PROCESS_CPUTIME_ID, event, ctypes.byref(timer)):
        raise OSError(ctypes.get_errno(), "timer_create")
    if libc.timer_settime(timer, TIMER_ABSTIME, at, None):
        raise OSError(ctypes.get_errno(), "timer_settime")


def draw_nothing() -> None:
    """Let figures be files without a picture: drawing them is two thirds of the time of a tiny run."""
    Figure.savefig = lambda figure, file, **options: file.write(b"no picture")


def surefoot(*arguments: object) -> Callable[[], int]:
    """Return the work of a command line."""
    return lambda: main(list(map(str, arguments)))


def surefoot_and_imports(names: Path, *arguments: object) -> Callable[[], int]:
    """Return the same work, which then writes the names of all modules that it has needed to a file."""

    def work() -> int:
        code = main(list(map(str, arguments)))
        names.write_text("\n".join(sorted(sys.modules)))
        return code

    return work


def preload(names: Path) -> int:
    """Import, before runs are forked, what an earlier one has needed: imports would be most of their time.

    Returns how many modules there were to import.
    """
    missing = [name for name in names.read_text().split("\n") if name not in sys.modules and name not in TRIED]
    for name in missing:
        if "__main__" not in name:
            with suppress(Exception):  # what is no module that can be imported by its name
                importlib.import_module(name)
    TRIED.update(missing)
    leave_out_for_good()  # else the collections of each fork would go through, and so copy, all of it
    if len(threads := os.listdir("/proc/self/task")) > 1:
        raise RuntimeError(f"{len(threads)} threads: forks would not be whole")
    return len(missing)


def ended(pid: int, patience: float, every: float = 0.002) -> int | None:
    """Return the exit code of a process (minus the signal), or None where it still runs after so many seconds."""
    deadline = time.monotonic() + patience
    while True:
        found, status = os.waitpid(pid, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() >= deadline:
            return None
        time.sleep(every)


def left_over(session: int, patience: float = 20.0) -> int:
    """Return how many processes of a session still run after a while."""
    deadline = time.monotonic() + patience
    while members := [stat for stat in map(_stat, Path("/proc").glob("[0-9]*")) if stat and stat[3] == str(session)]:
        if time.monotonic() > deadline:
            return len(members)
        time.sleep(0.05)
    return 0


def _stat(process: Path) -> list[str]:
    """Return state, parent, group and session of a process, as in proc(5); nothing of one that is gone or a zombie."""
    try:
        fields = (process / "stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []
    return [] if fields[0] == "Z" else fields


@contextmanager
def quiet(log: Path) -> Iterator[None]:
    """Send what is printed to a file."""
    with log.open("a") as file, redirect_stdout(file), redirect_stderr(file):
        yield
