"""The files that lie beside a run's own in its folder: read and looked through, and odd ones left out by name.

They can be of other versions, other programs or other people. What the tables and figures of a report take from them is
taken once here, so that a file that lacks something is found before a page depends on it.
"""

from __future__ import annotations

import csv
import dataclasses
import json
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple
from zipfile import BadZipFile

import numpy as np

from surefoot.evaluation import objectives
from surefoot.evaluation.describe import Record, describe, dynamics, in_words
from surefoot.training.config.run import RunConfig
from surefoot.training.sweep import plan

# What reading a file can end in that holds something else than was expected; RecursionError: thousands of brackets.
ODD = (
    ArithmeticError,
    AttributeError,
    EOFError,
    LookupError,
    OSError,
    RecursionError,
    TypeError,
    ValueError,
    BadZipFile,
    csv.Error,
)


class Skipped(NamedTuple):
    """A folder that looks like a run, or a file in one, that cannot be read."""

    path: Path
    reason: str


@contextmanager
def skipping(path: Path, skipped: list[Skipped]) -> Iterator[None]:
    """Note that a folder or file is odd, and go on without it."""
    try:
        yield
    except ODD as error:
        reason = str(error) if isinstance(error, OSError | ValueError) else f"{type(error).__name__}: {error}"
        skipped.append(Skipped(path, " ".join(reason.split()) or type(error).__name__))


@dataclass
class Measurements:
    """What was measured of a run besides its own evaluations."""

    single: list[Record] = field(default_factory=list)  # records of `surefoot evaluate`, one per environment
    grids: dict[str, Record] = field(default_factory=dict)  # of `surefoot evaluate --grid`, by uncertainty set
    objectives: dict[str, Record] = field(default_factory=dict)  # rows of `--objective` and of the run's own, by name
    skipped: list[Skipped] = field(default_factory=list)


def read_measurements(run: Path, config: RunConfig[Any]) -> Measurements:
    """Return what was measured when a run ended, and since; what older policies of it did is skipped by name."""
    files, skipped = [], list[Skipped]()
    for path in [*run.glob("objectives.json"), *sorted(run.glob("evaluations/*.json"))]:
        with skipping(path, skipped):
            content = json.loads(path.read_text(encoding="utf-8"))
            files.append(_own(path, content, config) if path.parent == run else _read(path, content))
    found: dict[str, dict[str, Record]] = {"single": {}, "grids": {}, "objectives": {}}
    times: dict[tuple[str, str], str] = {}
    for file in _of_newest_policies(files, skipped):
        for name, record in file.records.items():
            if times.setdefault((file.kind, name), file.time) <= file.time:  # the last measurement counts
                times[file.kind, name] = file.time
                found[file.kind][name] = record
    return Measurements(list(found["single"].values()), found["grids"], found["objectives"], skipped)


class _File(NamedTuple):
    """What a file holds of one policy of a run."""

    path: Path
    kind: str  # a field of `Measurements`
    checkpoint: str  # that was asked for: `latest`, `best` or a step
    step: int | None  # of the policy; None where the file does not say
    time: str  # ISO
    records: dict[str, Record]  # by where and how they were measured


def _of_newest_policies(files: Sequence[_File], skipped: list[Skipped]) -> Iterator[_File]:
    """Yield the files of the newest policy that was measured for each kind and checkpoint; the others are skipped.

    A run that is extended has measurements of the policy that it had before.
    """
    newest: dict[tuple[str, str], int] = {}
    for file in files:
        key = file.kind, file.checkpoint
        newest[key] = max(newest.get(key, 0), file.step or 0)
    for file in files:
        last = newest[file.kind, file.checkpoint]
        if file.step is None or file.step == last:
            yield file
        else:
            reason = f"of the policy at step {file.step:,}; the run was measured at step {last:,} since, which counts"
            skipped.append(Skipped(file.path, reason))


def read_failures(sweep: Path, skipped: list[Skipped]) -> dict[str, Record]:
    """Return {run: how often it was tried, and the end of its log} of the runs that a sweep has given up."""
    failures: dict[str, Record] = {}
    with skipping(sweep / "failures.json", skipped):
        for name, failure in plan.read_failures(sweep).items():
            failures[name] = {"tries": int(failure["tries"]), "end_of_log": str(failure["end_of_log"])}
    return failures


# --- each kind --------------------------------------------------------------------------------------------------------


def _read(path: Path, content: Any) -> _File:
    if not isinstance(content, dict):
        raise ValueError("not what surefoot evaluate writes: no object")
    if "axes" in content:
        kind, records = "grids", {_grid_name(content): _grid(content)}
    elif "objectives" in content:
        kind, records = "objectives", dict(_objectives(content))
    else:
        kind, records = "single", {where(content): _single(content)}
    checkpoint, time = str(content.get("checkpoint", "latest")), str(content.get("time", ""))
    return _File(path, kind, checkpoint, _step(content), time, records)


def _own(path: Path, rows: Any, config: RunConfig[Any]) -> _File:
    """Return the objectives that were measured when the run ended."""
    records = dict(_own_objectives(rows, config))
    return _File(path, "objectives", "latest", _step(rows[0]) if rows else None, "", records)


def _step(record: Record) -> int | None:
    return int(_number(record["step"])) if "step" in record else None


def _single(record: Record) -> Record:
    """Return a measurement in one environment, all that is used of it looked at."""
    values = np.array(record["return"]["values"], dtype=np.float64)
    if values.ndim != 1 or not len(values):
        raise ValueError("its returns are no list of numbers")
    where(record)
    for value in dynamics(record["env"]["physics"]).values():
        _number(value)
    _number(record["return"]["mean"])
    return record


def _grid(record: Record) -> Record:
    axes = {str(name): [_number(value) for value in values] for name, values in record["axes"].items()}
    table = [_number(point["mean"]) for point in record["table"]]
    if len(table) != math.prod(map(len, axes.values())):
        raise ValueError(f"its table has {len(table)} points, not those of its axes")
    for value in (record["worst"]["mean"], record["average"], record["nominal"]["mean"]):
        _number(value)
    for name in axes:
        _number(record["nominal"]["at"][name])
    return record


def _own_objectives(rows: Any, config: RunConfig[Any]) -> Iterator[tuple[str, Record]]:
    """Yield `cvar(0.1) in ENVIRONMENT` and its row, of what was measured when the run ended."""
    env = asdict(dataclasses.replace(config.env, physics=config.eval.physics))
    for row in rows:
        if row["run"] == rows[0]["run"]:
            yield f"{row['objective']} in {where({**row, 'env': env, 'seeds': [objectives.SEED]})}", _objective(row)


def _objectives(record: Record) -> Iterator[tuple[str, Record]]:
    for row in record["results"]:
        yield f"{row['objective']} in {where(record)}", _objective(row)


def _objective(row: Record) -> Record:
    for name in ("value", "predicted"):
        _number(row[name])
    return row


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"{value!r} is no number")
    return float(value)


# --- in words ---------------------------------------------------------------------------------------------------------


def where(record: Record) -> str:
    """Return where and how `surefoot evaluate` measured: only measurements that differ in nothing are pooled."""
    return ", ".join([describe(record["env"]), *_how(record)])


def _grid_name(record: Record) -> str:
    """Return the uncertainty set of a grid, and how it was measured."""
    changes = describe(record["env"]).split(", ")[1:] if "env" in record else []
    per_axis = f"n={record['n']}"
    name = " ".join(str(record[part]) for part in ("set", "set_code") if part in record)  # a code of sets from files
    return f"{name} ({', '.join([record['grid'], per_axis, *changes, *_how(record)])})"


def _how(record: Record) -> Iterator[str]:
    env = record.get("env", {})
    for name in ("time_aware", "flatten", "action_bound"):
        if env.get(name):
            yield in_words(name) if env[name] is True else f"{in_words(name)} {env[name]}"
    if "episodes" in record and "seeds" in record:
        seeds = ", ".join(map(str, record["seeds"]))
        yield f"{record['episodes']:,} episodes from seed {seeds}"
    if "search_episodes" in record:
        yield f"stocks searched by {record['search_episodes']:,} episodes"
    if record.get("checkpoint", "latest") != "latest":
        yield f"checkpoint {record['checkpoint']}"
