"""Equality of nested states and of run folders, to the last bit."""

import csv
from pathlib import Path
from typing import Any

import torch

from surefoot.evaluation.policy_files import checkpoint_path
from surefoot.evaluation.storage import load
from surefoot.training.runs.folder import read_meta

WALL_CLOCK = ("seconds", "steps_per_second")
PHASES = "seconds/"  # metrics of wall-clock time that an agent measures


def assert_same(one: Any, other: Any, where: str = "state") -> None:
    """Compare tensors bitwise and plain values exactly; NaN equals NaN."""
    assert type(one) is type(other), where
    if isinstance(one, torch.Tensor):
        torch.testing.assert_close(one, other, rtol=0, atol=0, equal_nan=True, msg=lambda text: f"{where}: {text}")
    elif isinstance(one, dict):
        assert list(one) == list(other), where
        for key in one:
            assert_same(one[key], other[key], f"{where}.{key}")
    elif isinstance(one, list | tuple):
        assert len(one) == len(other), where
        for i, (a, b) in enumerate(zip(one, other, strict=True)):
            assert_same(a, b, f"{where}[{i}]")
    else:
        assert one == other or (one != one and other != other), where


def rows(path: Path) -> list[dict[str, str]]:
    """Return the rows of a CSV file without its wall-clock columns."""
    with path.open(newline="") as file:
        table = list(csv.DictReader(file))
    return [{name: value for name, value in row.items() if not is_wall_clock(name)} for row in table]


def is_wall_clock(name: str) -> bool:
    return name in WALL_CLOCK or name.startswith(PHASES)


def assert_same_run(one: Path, other: Path, step: int) -> None:
    """Compare all that two runs wrote: metric rows, evaluation rows, and the whole state at `step`."""
    for name in ("metrics.csv", "evaluations.csv"):
        assert rows(one / name) == rows(other / name), name
    if (one / "checkpoints" / "best.pt").is_file() or (other / "checkpoints" / "best.pt").is_file():
        files = [load(run / "checkpoints" / "best.pt") for run in (one, other)]
        assert_same(*[{"step": file["step"], "policy": file["policy"]} for file in files], "best.pt")
        assert read_meta(one)["best"] == read_meta(other)["best"]
    states = [load(checkpoint_path(run, "step", step)) for run in (one, other)]
    for state in states:
        for name in ("seconds", "logged_seconds"):
            state["counters"].pop(name)
        for name in ("loggers", "config"):  # the first half had another budget
            state.pop(name)
        sums = state["meter"]["sums"]
        state["meter"]["sums"] = {name: total for name, total in sums.items() if not is_wall_clock(name)}
    assert_same(*states)
