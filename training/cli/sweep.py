"""`surefoot sweep`: many runs from one file or one command line, here or on Ray."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import tyro
import yaml

from surefoot.agents.parts.ranges import unread_where
from surefoot.configs.allowed_modules import flag_to_go_on
from surefoot.configs.casting import option
from surefoot.configs.yaml_text import parse_yaml
from surefoot.training.cli.errors import one_line_errors
from surefoot.training.cli.options import once_each, read_options, refuse_place
from surefoot.training.config.unread import refuse_given
from surefoot.training.loop.finite import NOT_FINITE
from surefoot.training.loop.interrupt import StopRequest, stop_on_signals
from surefoot.training.runs.console import quoted
from surefoot.training.session import AnyRun, execute
from surefoot.training.sweep import plan
from surefoot.training.sweep.local import SAME_AGAIN, execute_locally, prepare_one, require_resources
from surefoot.training.sweep.plan import CHANGEABLE, ROBUST_METRICS, Sweep
from surefoot.training.sweep.progress import SweepProgress


@dataclass(frozen=True)
class Launch:
    """The parsed command line: the sweep, and its folder."""

    sweep: Annotated[Sweep, tyro.conf.arg(name="", help="")] = field(default_factory=Sweep)
    file: tyro.conf.Positional[Path | None] = None
    """YAML file with fields of the sweep; options override it."""
    resume: Path | None = None
    """Resume the sweep in this folder."""
    only: str | None = None
    """With --resume: execute only this run of the sweep, in this process."""
    out: Path = Path("runs")
    """Folder in which the folder of the sweep is made."""
    name: str | None = None
    """Name of the sweep's folder; default: its agents and the time."""
    allow_code: bool = False
    """Import the modules that the file, a preset or the resumed sweep names (`module:EnvId`), which runs their code."""
    yes: bool = False
    """Accept a grid of more than 10,000 runs."""


RULES = tyro.constructors.ConstructorRegistry()


@RULES.primitive_rule
def grid_mapping(info: Any) -> Any:
    """Let `set` be written as FIELD=VALUE,VALUE, each value as in YAML: 1e-3, s1, [64,64]."""
    if info.type != dict[str, list[Any]]:
        return None
    return tyro.constructors.PrimitiveConstructorSpec(
        nargs="*",
        metavar="[FIELD=VALUE,...]",
        instance_from_str=lambda words: once_each(map(_read_setting, words)),
        is_instance=lambda value: isinstance(value, dict),
        str_from_instance=lambda value: [f"{key}={yaml.safe_dump(items)}" for key, items in value.items()],
    )


def _read_setting(word: str) -> tuple[str, list[Any]]:
    key, equals, values = word.partition("=")
    try:
        items = parse_yaml(f"[{values}]")
    except ValueError as error:
        raise ValueError(f"{word}: {error}") from error
    if not (key and equals and isinstance(items, list)):
        raise ValueError(f"{word!r} is not FIELD=VALUE,VALUE")
    return key, items


def main(arguments: list[str]) -> int:
    """Carry out a sweep, and return the exit code: 0, 1 (some runs failed), 2 (wrong input), 130 or 143 (stopped)."""
    with stop_on_signals() as stop:
        with one_line_errors(2):
            launch = parse(arguments)
            run = prepare_one(launch.resume, launch.only) if launch.resume and launch.only else None
            engine = _engine(launch.sweep)
            folder = None if launch.only else prepare(launch)
        if folder is None:
            if run is not None:
                execute_one(run, stop)
            return stop.exit_code
        line = StatusLine()
        with one_line_errors(2), closing(line):
            engine(folder, launch.sweep, line, stop)
        return _close(folder, stop)


def execute_one(run: AnyRun, stop: StopRequest) -> None:
    """Train one run of a sweep; where its numbers are the error, say so in a line and end with `SAME_AGAIN`."""
    try:
        execute(run, stop)
    except NOT_FINITE:
        with one_line_errors(SAME_AGAIN):
            raise


def parse(arguments: Sequence[str]) -> Launch:
    """Return the launch: options lie over the file, or over the sweep that is resumed."""
    default = Launch(_starting_point(arguments))
    launch = _read_launch(arguments, default)
    if launch.file and not launch.resume and arguments[0] != str(launch.file):  # behind options: known only now
        launch = _read_launch(arguments, Launch(plan.read_sweep(launch.file)))
    if launch.only and not launch.resume:
        raise ValueError("--only is one run of a sweep that is there: add --resume FOLDER")
    if launch.resume:
        refuse_place(launch.out, launch.name, launch.resume)
        if launch.file:
            raise ValueError(f"{launch.file} does not go with --resume {launch.resume}, which has its own sweep.yaml")
        _require_same_sweep(default.sweep, launch.sweep, launch.resume)
    else:
        refuse_given(launch.sweep, Sweep(), unread_of(launch.sweep))
    return launch


def _read_launch(arguments: Sequence[str], default: Launch) -> Launch:
    return read_options(
        Launch,
        args=arguments,
        default=default,
        prog="surefoot sweep",
        description="Train many runs: every agent with every preset, seed and setting, or a search for settings.",
        registry=RULES,
    )


def unread_of(sweep: Sweep) -> dict[str, str]:
    """Return the options that a sweep does not read as the others are, and why."""
    robust = sweep.objective.metric in ROBUST_METRICS
    of_robust = ("objective.physics", "objective.episodes", "objective.level")
    of_search = ("trials", "asha_grace", "asha_reduction", "objective.metric", "objective.mode", *of_robust)
    return unread_where(
        (sweep.engine == "local", ("address", "storage"), "with --engine local"),
        (sweep.asha_grace is None, ("asha_reduction",), "without --asha-grace"),
        (sweep.objective.metric != "cvar", ("objective.level",), "on an objective that is not cvar"),
        (not robust, of_robust, "on an objective that is neither worst_case nor cvar"),
        (not sweep.search, of_search, "without a search, whose fields a YAML file names"),
    )


def _starting_point(options: Sequence[str]) -> Sweep:
    """Return the sweep of the YAML file or the resumed folder that the command line names."""
    words = [word for option in options for word in option.split("=", 1)]
    if "--resume" in words[:-1]:
        folder = Path(words[words.index("--resume") + 1])
        plan.read_plan(folder)
        return plan.read_sweep(folder / "sweep.yaml")
    if options and not options[0].startswith("-"):
        return plan.read_sweep(Path(options[0]))
    return Sweep()


def _require_same_sweep(before: Sweep, now: Sweep, folder: Path) -> None:
    changed = [name for name in vars(before) if getattr(before, name) != getattr(now, name) and name not in CHANGEABLE]
    if changed:
        may = ", ".join(map(option, CHANGEABLE))
        raise ValueError(f"{folder}: {', '.join(map(option, changed))} may not change on resume, only {may}")


def prepare(launch: Launch) -> Path:
    """Return the sweep's folder, made anew or, with `resume`, as it is; whatever is wrong is found here."""
    if launch.resume:
        return launch.resume
    if not launch.sweep.agents:
        raise ValueError("name the agents to train: a YAML file, or --agents h2o,sac")
    runs = plan.expand(launch.sweep, allow_many=launch.yes)
    require_resources(launch.sweep)
    stamp = datetime.now().strftime("%Y%m%d-%H%M%S")
    label = "-".join(dict.fromkeys(run.agent_name for run in runs))[:60]
    folder = launch.out / (launch.name or f"sweep-{label}-{stamp}")
    plan.create(folder, launch.sweep, runs)
    print(f"sweep of {len(runs)} runs: {folder}")
    return folder


def _engine(sweep: Sweep) -> Callable[[Path, Sweep, StatusLine, StopRequest], None]:
    if sweep.engine == "local":
        return execute_locally
    from surefoot.training.sweep.ray import execute_on_ray

    return execute_on_ray


class StatusLine:
    """How the sweep stands: one line that changes on a terminal, and a new line for every change elsewhere."""

    def __init__(self) -> None:
        self.began = time.monotonic()
        self.work_before: float | None = None  # the work of an earlier session is no measure of the speed of this one
        self.counts: tuple[int, ...] = ()

    def __call__(self, progress: SweepProgress) -> None:
        """Show where the runs are and when they will be done."""
        if self.work_before is None:
            self.work_before = progress.work
        line = progress.line(time.monotonic() - self.began, self.work_before)
        if sys.stdout.isatty():
            print(f"\r\033[K{line}", end="", flush=True)
        elif progress[:3] != self.counts:
            print(line, flush=True)
        self.counts = progress[:3]

    def close(self) -> None:
        """End the line."""
        if sys.stdout.isatty():
            print()


def _close(folder: Path, stop: StopRequest) -> int:
    """Say how the sweep ended, and how to resume it."""
    failures = plan.read_failures(folder)
    for name, failure in failures.items():
        end = failure["end_of_log"]
        print(
            f"\n{name} failed {failure['tries']} times; the end of {folder / 'logs' / name}.log:\n{end}",
            file=sys.stderr,
        )
    if stop:
        configurations = (path.read_text(encoding="utf-8") for path in (folder / "configs").glob("*.yaml"))
        flag = flag_to_go_on(" ".join(configurations))
        print(f"stopped; resume with: surefoot sweep --resume {quoted(folder)}{flag}")
        return stop.exit_code
    print(f"a page of all runs: surefoot report {quoted(folder)}")
    return 1 if failures else 0
