"""Kill runs of every agent at random moments until they are through, and compare them with runs that no one killed.

    python tests/campaign/kills.py --kills 1000            # hours; adds to what earlier calls have come to
    python tests/campaign/kills.py --kills 3 --agents sac  # seconds, and recorded as well

Each trial is one run: SIGKILL after a random time, `--resume` (or a new start, where there was no checkpoint yet), and
so on until it ends by itself. Then everything that it wrote must be, to the last bit, what the undisturbed run wrote. A
trial is lost where a resume fails, unequal where anything differs; a process that outlives its run is a leak. Runs are
forked from this process, which has imported everything already.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import tyro
from tiny_runs import (
    assert_same_run,
    ended,
    forked,
    left_over,
    preload,
    records,
    surefoot,
    surefoot_and_imports,
    tiny_run,
    write_data,
)

from surefoot import agents
from surefoot.evaluation.policy_files import checkpoint_steps
from surefoot.training.runs.folder import read_meta, write_config

NAME = "kills"
# Kills before the first checkpoint, between two, and after the last one add up to all kills.
COUNTS = ("trials", "kills", "early", "between", "late", "lost", "unequal", "leaks")
MOST_KILLS = 10  # of one run
LONGEST = 600.0  # seconds that a tiny run may take


@dataclass
class Options:
    """How many kills."""

    kills: int = 1000
    """In all, over all agents; those of earlier calls count."""
    agents: tuple[str, ...] = ()
    """Only these."""
    seed: int = 0
    """Of the random moments."""
    keep: Path | None = None
    """Where the folders of trials go that were lost or unequal."""
    minutes: float = 600.0
    """Begin no trial after that time."""


def main(options: Options) -> int:
    """Carry the campaign out, and return 1 where a trial was lost, unequal or left a process."""
    began, names = time.perf_counter(), options.agents or tuple(agents.REGISTRY)
    share = -(-options.kills // len(names))
    with tempfile.TemporaryDirectory() as folder:
        data = write_data(Path(folder) / "data.hdf5")
        for name in names:
            before = records.results_of(NAME).get(name)
            if before and before["kills"] >= share:
                continue
            found = trials(name, data, Path(folder) / name, share, before, options, began)
            if found["trials"]:
                records.record_job(NAME, name, found, began=began, seeds=[options.seed])
    return report()


def report() -> int:
    """Print the sums over all agents; return 1 where something was lost, unequal or left behind."""
    jobs = records.results_of(NAME)
    total = {key: sum(job[key] for job in jobs.values()) for key in COUNTS}
    print(f"{len(jobs)} agents: " + ", ".join(f"{value} {key}" for key, value in total.items()))
    return int(any(total[key] for key in ("lost", "unequal", "leaks")))


def trials(
    name: str, data: Path, folder: Path, share: int, before: dict[str, Any] | None, options: Options, began: float
) -> dict[str, Any]:
    """Kill runs of an agent until its share of kills is reached; return the counts, those of before included."""
    counts = {key: (before or {}).get(key, 0) for key in COUNTS}
    folder.mkdir()
    write_config(folder / "config.yaml", name, tiny_run(name, data), None)
    straight = undisturbed(folder)
    generator = random.Random(f"{options.seed} {name} {counts['kills']}")
    while counts["kills"] < share and time.perf_counter() - began < 60 * options.minutes:
        trial = folder / f"trial{counts['trials']}"
        one_trial(trial, straight, generator, counts, options.keep)
        shutil.rmtree(trial)
        print(f"{name}: " + ", ".join(f"{value} {key}" for key, value in counts.items()), flush=True)
    return counts


class Straight(NamedTuple):
    """A run that no one kills, and its times in seconds."""

    folder: Path
    last: int  # step
    seconds: float  # in all
    training: float  # from its folder to its last checkpoint
    ending: float  # from there on


def undisturbed(folder: Path) -> Straight:
    """Train twice without a kill: the first time tells what there is to import."""
    for name in ("first", "s"):
        start, imports = time.time(), folder / "imports"
        call = ("train", "--config", folder / "config.yaml", "--out", folder, "--name", name)
        pid = forked(surefoot_and_imports(imports, *call), folder / "log")
        if code := ended(pid, LONGEST):
            raise SystemExit(f"the undisturbed run ended with {code}:\n{(folder / 'log').read_text()[-2000:]}")
        end = time.time()
        preload(imports)
    run, last = folder / "s", checkpoint_steps(folder / "s")[-1]
    assert_same_run(folder / "first", run, last)
    made, saved = ((run / name).stat().st_mtime for name in ("config.yaml", f"checkpoints/step-{last:09d}.pt"))
    return Straight(run, last, end - start, saved - made, end - saved)


def one_trial(
    folder: Path, straight: Straight, generator: random.Random, counts: dict[str, int], keep: Path | None
) -> None:
    """Kill one run again and again until it ends by itself; count what became of it."""
    folder.mkdir()
    run, log, when = folder / "run0", folder / "log", list[str]()
    counts["trials"] += 1
    while True:
        if checkpoint_steps(run):
            call: Sequence[object] = ("train", "--resume", run)
        else:  # killed before its first checkpoint: a new run, as the command line says
            run = folder / f"run{len(when)}"
            call = ("train", "--config", straight.folder.parent / "config.yaml", "--out", folder, "--name", run.name)
        pid = forked(surefoot(*call), log)
        # After some kills of a kind the run is let through; else it might never end.
        through = when.count("early") >= 4 or when.count("late") >= 2 or len(when) >= MOST_KILLS
        code = ended(pid, LONGEST) if through else survived(pid, run, straight, generator)
        if code is None:
            os.kill(pid, signal.SIGKILL)
            code = ended(pid, LONGEST)
        counts["leaks"] += left_over(pid)
        if code != -signal.SIGKILL:
            break
        when.append(_when(run, straight.last))
        counts["kills"] += 1
        counts[when[-1]] += 1
    problem = _problem(code, straight, run)
    if problem:
        counts[problem[0]] += 1
        print(f"{folder}: {problem[1]}", flush=True)
        if keep is not None:
            keep.mkdir(parents=True, exist_ok=True)
            shutil.copytree(folder.parent, keep / f"{folder.parent.name}-{folder.name}", dirs_exist_ok=True)


def survived(pid: int, run: Path, straight: Straight, generator: random.Random) -> int | None:
    """Wait for a random moment; return the exit code of a run that has ended by then.

    One moment in four is any; the others are of the part that matters: within the training from when the run has its
    folder, in most cases just after another checkpoint, or within the end of a run that has been trained already.
    """
    if generator.random() < 0.25:
        return ended(pid, generator.uniform(0, 1.1 * straight.seconds))
    before = checkpoint_steps(run)
    trained = before[-1:] == [straight.last]
    for awaited in (lambda: _holds(run, pid), lambda: trained or checkpoint_steps(run) != before):
        deadline = time.monotonic() + LONGEST
        while not awaited() and time.monotonic() < deadline:
            if (code := ended(pid, 0.001)) is not None:
                return code
    return ended(pid, generator.uniform(0, straight.ending if trained else 0.6 * straight.training))


def _holds(run: Path, pid: int) -> bool:
    return (run / "lock").is_file() and f'"pid": {pid},' in (run / "lock").read_text()


def _when(run: Path, last: int) -> str:
    """Return when a run was killed: `early`, before its first checkpoint, `late`, after the last, or `between`."""
    steps = checkpoint_steps(run)
    if not steps:
        return "early"
    return "late" if steps[-1] == last else "between"


def _problem(code: int | None, straight: Straight, run: Path) -> tuple[str, str] | None:
    if code != 0:
        return "lost", f"ended with {code}: {(run.parent / 'log').read_text()[-1500:]}"
    if read_meta(run)["status"] != "finished":
        return "lost", f"its status is {read_meta(run)['status']}"
    try:
        assert_same_run(straight.folder, run, straight.last)
    except Exception as error:
        return "unequal", f"{type(error).__name__}: {str(error)[:500]}"
    return None


if __name__ == "__main__":
    raise SystemExit(main(tyro.cli(Options, description=__doc__)))
