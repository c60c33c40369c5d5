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
    """Return the commits that jobs were run at."""
    return ", ".join(sorted({f"`{cell['commit'][:10]}`" for cell in cells}))


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
    """Return the line under a table: what it takes to get the same numbers."""
    hardware = result["hardware"]
    machine = f"{hardware['cpus']} CPUs ({hardware['processor']})" + (f", {hardware['gpu']}" if hardware["gpu"] else "")
    commit = f"commit `{(result['commit'] or 'unknown')[:10]}`" + (" with changes" if result["dirty"] else "")
    seeds = f"seed{'s' * (len(result['seeds']) > 1)} {', '.join(map(str, result['seeds']))}"
    return f"`python {result['command']}`; {commit}; {machine}; {seeds}; {result['minutes']:g} minutes."
