"""Markdown, and what every table has: numbers, intervals, commits, provenance."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from surefoot.evaluation.statistics import stratified_bootstrap

PROVENANCE = ("benchmark", "command", "commit", "dirty", "versions", "hardware", "seeds", "minutes")
Result = dict[str, Any]
Table = Callable[[Result], str]


def by_name(*tables: Table) -> dict[str, Table]:
    """Return tables by the names of their functions, which are those of their result files."""
    return {table.__name__: table for table in tables}


def with_interval(seeds: Sequence[float], digits: int = 0) -> str:
    """Return the mean over seeds and its 95% bootstrap interval, which one seed does not have."""
    values = np.array(seeds)
    interval = stratified_bootstrap([values], np.mean, generator=np.random.default_rng(0))
    spread = "" if interval is None else f" [{number(interval.low, digits)}, {number(interval.high, digits)}]"
    return number(float(values.mean()), digits) + spread


def commits_of(cells: Iterable[Result]) -> str:
    """Return the commits that jobs were begun or resumed at."""
    return ", ".join(sorted({_commit(one) for cell in cells for one in (cell["commit"], *cell.get("resumed_at", ()))}))


def _commit(commit: str | None) -> str:
    return f"`{commit[:10]}`" if commit else "unknown"


def spread(of: Result, middle: str = "median") -> str:
    return f"{of[middle]} ({of['low']} to {of['high']})"


def key_values(result: Result) -> str:
    """Return every single figure of a result file that has no table of its own."""
    figures = {key: value for key, value in result.items() if key not in PROVENANCE}
    return markdown(("figure", "value"), flatten(figures))


def thousands(steps: float | None) -> str:
    return "—" if steps is None else f"{steps / 1000:.0f}k"


def flatten(value: Any, name: str = "") -> Iterator[tuple[str, str]]:
    """Yield (dotted name, value) of every number and text in nested mappings; lists of records stay in the file."""
    if isinstance(value, dict):
        for key, item in value.items():
            if key not in PROVENANCE:
                yield from flatten(item, f"{name}.{key}".lstrip("."))
    elif not isinstance(value, list):
        yield name, str(value)
    elif not any(isinstance(item, dict | list) for item in value):
        yield name, ", ".join(map(str, value))


def markdown(
    header: Sequence[str], rows: Iterator[tuple[Any, ...]] | Sequence[tuple[Any, ...]], right: bool = True
) -> str:
    """Return a Markdown table; columns after the first are set right."""
    lines = [header, ["---", *["---:" if right else "---"] * (len(header) - 1)], *rows]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)


def number(value: float | None, digits: int = 0) -> str:
    return "" if value is None else f"{value:.{digits}f}".replace("-", "−")


def provenance(result: Result) -> str:
    """Return the line under a table: what it takes to get the same numbers.

    A file of jobs has what the last of its calls was, and the commits, seeds and minutes of all of them.
    """
    hardware, jobs = result["hardware"], result.get("jobs", {})
    machine = f"{hardware['cpus']} CPUs ({hardware['processor']})" + (f", {hardware['gpu']}" if hardware["gpu"] else "")
    commit = f"commit {_commit(result['commit'])}" + (" with changes" if result["dirty"] else "")
    call = f"{'Last call: ' if len(jobs) > 1 else ''}`python {result['command']}`"
    parts = [call, commit, *_of_jobs(jobs, result["commit"]), machine]
    seeds = sorted({int(job.rpartition("/")[2]) for job in jobs}) if jobs and _seeded(jobs) else result["seeds"]
    parts.append(f"seed{'s' * (len(seeds) > 1)} {', '.join(map(str, seeds))}")
    return f"{'; '.join(parts)}; {_minutes(result, jobs)}."


def _seeded(jobs: Iterable[str]) -> bool:
    """Whether the last part of every job's name is its seed."""
    return all(job.rpartition("/")[2].isdigit() for job in jobs)


def _of_jobs(jobs: Result, last: str | None) -> list[str]:
    """Return the commits of jobs, where they are others than the last call's, and how many do not name theirs."""
    named = [job for job in jobs.values() if isinstance(job, dict) and "commit" in job]
    parts = []
    if named and commits_of(named) != _commit(last):
        parts.append(f"runs of commits {commits_of(named)}")
    if any(job.get("dirty") for job in named):
        parts.append("some with changes")
    if 1 < len(jobs) != len(named):
        missing = f"{len(jobs) - len(named)} of {len(jobs)}" if named else f"all {len(jobs)}"
        parts.append(f"without a commit of their own: {missing} jobs")
    return parts


def _minutes(result: Result, jobs: Result) -> str:
    """Return the minutes of all jobs, where they say them, else those of the last call."""
    known = [job["minutes"] for job in jobs.values() if isinstance(job, dict) and "minutes" in job]
    if not known:
        return f"{result['minutes']:g} minutes" + (" of the last call" if len(jobs) > 1 else "")
    of = f" of {len(known)} of {len(jobs)} jobs" if len(known) < len(jobs) else ""
    return f"{sum(known):.0f} minutes{of}"
