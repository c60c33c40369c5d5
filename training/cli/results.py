"""What `surefoot evaluate` prints and writes."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from zlib import crc32

from rich.table import Table

from surefoot.evaluation.describe import Record, describe
from surefoot.evaluation.statistics import Interval
from surefoot.evaluation.storage import explained, write_atomically
from surefoot.training.runs.console import print_table
from surefoot.training.runs.provenance import git_commit

ASKED = ("step", "env", "seeds", "episodes", "objectives", "search_episodes", "set", "set_code", "grid", "n")


def show(records: Sequence[Record], groups: Sequence[Record]) -> None:
    """Print one table per task with one row per run and, for several runs, a table with one row per agent."""
    by_task: dict[str, list[Record]] = {}
    for record in records:
        by_task.setdefault(describe(record["env"]), []).append(record)
    for task, runs in by_task.items():
        print_table(_task_table(task, runs))
    if groups:
        print_table(_aggregate_table(groups))


def _task_table(task: str, runs: Sequence[Record]) -> Table:
    title = f"{task}: {len(runs[0]['lengths'])} episodes per run"
    table = Table(title=title, caption="± std, IQM, min and max over the episodes; score: D4RL-normalised")
    for name in ("run", "agent", "step"):
        table.add_column(name, overflow="fold")
    diverged = ["diverged"] if any(record["diverged"] for record in runs) else []
    for name in ("return", "IQM", "min", "max", "score", *diverged):
        table.add_column(name, justify="right", no_wrap=True)
    for record in runs:
        mean, std, *others = [f"{record['return'][name]:.1f}" for name in ("mean", "std", "iqm", "min", "max")]
        score = f"{record['score']['mean']:.1f}" if record["score"] else "-"
        counts = [str(record[name]) for name in diverged]
        table.add_row(record["label"], record["agent"], str(record["step"]), f"{mean} ± {std}", *others, score, *counts)
    return table


def _aggregate_table(groups: Sequence[Record]) -> Table:
    table = Table(
        title=f"Over runs: {groups[0]['unit']}", caption="95% stratified bootstrap interval over runs (seeds)"
    )
    for name in ("method", "tasks", "runs", "IQM", "interval", "mean", "median"):
        table.add_column(name, justify="left" if name == "method" else "right", no_wrap=name != "method")
    for group in groups:
        interval = group["iqm"]["interval"]
        shown = "none: a single run" if interval is None else "[{:.1f}, {:.1f}]".format(*Interval(*interval))
        values = {name: f"{group[name]['value']:.1f}" for name in ("iqm", "mean", "median")}
        counts = (group["method"], str(group["tasks"]), str(group["runs"]))
        table.add_row(*counts, values["iqm"], shown, values["mean"], values["median"])
    return table


def write_record(path: Path, record: Record) -> None:
    """Write the record into the run folder; for a file next to it, for a function or a file of the Hub here."""
    write_json(output_path(path, "evaluations", record, ".json"), {**provenance(), **record})


def output_path(path: Path, subfolder: str, record: Record, suffix: str) -> Path:
    """Return a path that depends on task, set, seed and checkpoint, so that only the same request overwrites it."""
    asked = {name: record[name] for name in ASKED if name in record}
    if record["checkpoint"] != "latest":  # the usual one has the names that it had before there was a choice
        asked["checkpoint"] = record["checkpoint"]
    code = crc32(json.dumps(asked, sort_keys=True).encode())
    what = record.get("set") or record["env"]["id"].replace("/", "-").replace(":", "-")
    name = f"{what}-{record['step']:09d}-{code:08x}{suffix}"
    if path.is_dir():
        return path / subfolder / name
    if not path.exists():  # a function or a file of the Hub: here
        return Path(re.sub(r"[^\w.]+", "-", f"{path}-{name}"))
    return path.with_name(f"{path.stem}-{name}")


def write_json(path: Path, content: Record) -> None:
    """Write plain values atomically, and the folder above them."""
    with explained(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, lambda file: file.write((json.dumps(content, indent=2) + "\n").encode()))


@contextmanager
def noting_unwritten(unwritten: list[str]) -> Iterator[None]:
    """Note that a file could not be written, and go on: what was measured is shown all the same."""
    try:
        yield
    except OSError as error:
        unwritten.append(" ".join(str(error).split()))


def exit_code(unwritten: Sequence[str]) -> int:
    """Say on stderr what could not be written; return the exit code."""
    for line in dict.fromkeys(unwritten):
        print(f"surefoot: error: {line}", file=sys.stderr)
    return 1 if unwritten else 0


def provenance() -> Record:
    """Return when and by what a result was made."""
    return {"time": datetime.now(UTC).isoformat(timespec="seconds"), "command": " ".join(sys.argv), **git_commit()}
