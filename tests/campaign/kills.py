"""Kill runs of every agent at random moments until they are through, and compare them with runs that no one killed.

    python tests/campaign/kills.py --kills 1000            # adds to what earlier calls have come to
    python tests/campaign/kills.py --kills 3 --agents sac  # seconds, and recorded as well

Each trial is one run: SIGKILL after a random time, `--resume` (or a new start, where there was no checkpoint yet), and
so on until it ends by itself. Then everything that it wrote must be, to the last bit, what the undisturbed run wrote. A
trial is lost where a resume fails, unequal where anything differs; a process that outlives its run is a leak.

A kill costs a fraction of a second: runs are forked from this process, which has imported everything already, figures
are files without a picture, and it is the kernel that kills, by a timer of the CPU time that a run has used since a
part of it began: set-up, training or end. So moments are spread over what a run does, not over how long it waits for a
busy machine, every part has its share of them, and nobody has to look on.
"""

from __future__ import annotations

import itertools
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import tyro
from tiny_runs import (
    assert_same_run,
    draw_nothing,
    ended,
    forked,
    kill_after,
    left_over,
    preload,
    records,
    tiny_run,
    write_data,
)

from surefoot import agents
from surefoot.evaluation.policy_files import checkpoint_steps
from surefoot.training import session
from surefoot.training.runs.folder import read_config, read_meta
from surefoot.training.runs.lock import is_begun

NAME = "kills"
# Kills before the first checkpoint, between two, and after the last one add up to all kills.
COUNTS = ("trials", "kills", "early", "between", "late", "lost", "unequal", "leaks")
MOST = 3  # kills of a kind in one run, so that it ends
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
    draw_nothing()
    began, names = time.perf_counter(), options.agents or tuple(agents.REGISTRY)
    share = -(-options.kills // len(names))
    with tempfile.TemporaryDirectory() as folder:
        data = write_data(Path(folder) / "data.hdf5")
        for name in names:
            before = records.results_of(NAME).get(name)
            if (before and before["kills"] >= share) or time.perf_counter() - began > 60 * options.minutes:
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
    straight = undisturbed(name, data, folder)
    generator = random.Random(f"{options.seed} {name} {counts['kills']}")
    while counts["kills"] < share and time.perf_counter() - began < 60 * options.minutes:
        trial = folder / f"trial{counts['trials']}"
        one_trial(trial, straight, generator, counts, share, options.keep)
        shutil.rmtree(trial)
        print(f"{name}: " + ", ".join(f"{value} {key}" for key, value in counts.items()), flush=True)
    return counts


Part = Literal["set-up", "training", "end"]


class Moment(NamedTuple):
    """When a run is killed: when it has used so many seconds of CPU time in a part of it."""

    part: Part
    seconds: float


class Straight(NamedTuple):
    """A run that no one kills, and how many seconds of CPU time its parts take."""

    folder: Path
    last: int  # step
    begin: Callable[[Path], Callable[[], object]]  # the work of such a run in a folder
    setting_up: float
    training: float
    ending: float


def undisturbed(name: str, data: Path, folder: Path) -> Straight:
    """Train without a kill; again where the first time had something to import, which is imported here then."""
    config, seconds, runs = tiny_run(name, data), folder / "seconds", list[Path]()

    def begin(run: Path) -> Callable[[], object]:
        return lambda: session.train(name, config, out=run.parent, name=run.name) and 0

    while True:
        runs.append(folder / f"s{len(runs)}")
        pid = forked(_timed(begin(runs[-1]), seconds), folder / "log")
        if code := ended(pid, LONGEST, every=0.1):
            raise SystemExit(f"the undisturbed run ended with {code}:\n{(folder / 'log').read_text()[-2000:]}")
        if not preload(folder / "imports"):
            break
    last = checkpoint_steps(runs[0])[-1]
    for other in runs[1:]:
        assert_same_run(runs[0], other, last)
    return Straight(runs[0], last, begin, *json.loads(seconds.read_text()))


def _timed(work: Callable[[], object], out: Path) -> Callable[[], object]:
    """Return the same work, which notes the CPU time of its parts, and in `imports` beside it the modules it needed."""

    def timed() -> object:
        marks = [time.process_time()]

        def loop(*arguments: Any) -> None:
            marks.append(time.process_time())
            train(*arguments)
            marks.append(time.process_time())

        train, session.run_loop = session.run_loop, loop
        code = work()
        marks.append(time.process_time())
        out.write_text(json.dumps([after - before for before, after in itertools.pairwise(marks)]))
        out.with_name("imports").write_text("\n".join(sorted(sys.modules)))
        return code

    return timed


def one_trial(
    folder: Path, straight: Straight, generator: random.Random, counts: dict[str, int], share: int, keep: Path | None
) -> None:
    """Kill one run again and again until it ends by itself; count what became of it."""
    folder.mkdir()
    run, when = folder / "run0", list[str]()
    counts["trials"] += 1
    while True:
        begun = checkpoint_steps(run)
        if not begun and run.exists() and any(run.iterdir()) and not is_begun(run):
            run = folder / f"run{len(when)}"  # killed before its first checkpoint: a new run, as the command line says
        moment = None if counts["kills"] >= share else _moment(straight, begun, when, generator)
        work = _resume(run) if begun else straight.begin(run)
        pid = forked(work if moment is None else _killed(work, moment), folder / "log")
        code = ended(pid, LONGEST, every=0.05)
        if code is None:
            os.killpg(pid, signal.SIGKILL)
            ended(pid, LONGEST)
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


def _resume(run: Path) -> Callable[[], object]:
    return lambda: session.resume_run(run, *read_config(run)) and 0


def _killed(work: Callable[[], object], moment: Moment) -> Callable[[], object]:
    """Return the same work, in a process that is killed at a moment of it."""

    def begins(part: str) -> None:
        if part == moment.part:
            kill_after(moment.seconds)

    def killed() -> object:
        def loop(*arguments: Any) -> None:
            begins("training")
            train(*arguments)
            begins("end")

        train, session.run_loop = session.run_loop, loop
        begins("set-up")
        return work()

    return killed


def _moment(straight: Straight, steps: list[int], when: list[str], generator: random.Random) -> Moment | None:
    """Return when a run with checkpoints of these steps is killed; None: it is let through.

    There are `MOST` of the beginning, then as many between two checkpoints, then of the end; once there is one, one
    moment in five is any of what is left of the run.
    """
    _, last, _, setting_up, training, ending = straight
    left = training * (1 - (steps[-1] if steps else 0) / last)

    def one(part: Part, until: float, since: float = 0.0) -> Moment:
        return Moment(part, generator.uniform(since, until))

    if when.count("late") >= MOST:
        return None
    if steps and generator.random() < 0.2:
        return _at(generator.uniform(0, setting_up + left + ending), setting_up, left)
    if not steps and when.count("early") < MOST:
        return _at(generator.uniform(0, setting_up + 0.2 * training), setting_up, training)
    anew = bool(steps) and generator.random() < 0.3  # while it is set up again
    if left > 0 and when.count("between") < MOST:
        first = 0 if steps else 0.2 * training  # where there is no checkpoint yet, one is to be made before
        return one("set-up", setting_up) if anew else one("training", left, first)
    return one("set-up", setting_up) if anew and left == 0 else one("end", ending)


def _at(seconds: float, setting_up: float, training: float) -> Moment:
    """Return the moment of a run that is so many seconds after its beginning."""
    if seconds < setting_up:
        return Moment("set-up", seconds)
    seconds -= setting_up
    return Moment("training", seconds) if seconds < training else Moment("end", seconds - training)


def _when(run: Path, last: int) -> str:
    """Return when a run was killed: `early`, before its first checkpoint, `late`, after the last, or `between`."""
    steps = checkpoint_steps(run)
    if not steps:
        return "early"
    return "late" if steps[-1] == last else "between"


def _problem(code: int | None, straight: Straight, run: Path) -> tuple[str, str] | None:
    if code != 0:  # None: it hung
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
