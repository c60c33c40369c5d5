"""How every benchmark reports: one JSON object, printed last and kept in benchmarks/results/NAME.json."""

from __future__ import annotations

import fcntl
import json
import os
import time
from pathlib import Path
from typing import Any

from surefoot.offline_data.files import atomic_file
from surefoot.training.runs.provenance import provenance

RESULTS = Path(__file__).resolve().parent / "results"
STARTED = provenance()  # the code as it was loaded: a commit made while a benchmark runs is not what it measured


def record(name: str, figures: dict[str, Any], *, began: float, seeds: list[int]) -> None:
    """Write and print the figures with what they depend on; `began` is the script's first `time.perf_counter()`."""
    minutes = round((time.perf_counter() - began) / 60, 2)
    result = {"benchmark": name, **figures, "seeds": seeds, "minutes": minutes, **STARTED}
    RESULTS.mkdir(exist_ok=True)
    with atomic_file(RESULTS / f"{name}.json") as file:
        file.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result))


def results_of(name: str) -> dict[str, Any]:
    """Return what each job of a benchmark that is made of jobs came to so far."""
    path = RESULTS / f"{name}.json"
    return json.loads(path.read_text())["jobs"] if path.is_file() else {}


def record_job(name: str, job: str, figures: Any, *, began: float, seeds: list[int]) -> None:
    """Add what one job came to, or put it in place of what it came to before; several processes may at once.

    A job is of the code that records it, unless its figures have the `commit` that it was trained at.
    """
    if isinstance(figures, dict):
        figures = {"commit": STARTED["commit"]} | ({"dirty": True} if STARTED["dirty"] else {}) | figures
    RESULTS.mkdir(exist_ok=True)
    folder = os.open(RESULTS, os.O_RDONLY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        record(name, {"jobs": results_of(name) | {job: figures}}, began=began, seeds=seeds)
    finally:
        os.close(folder)  # which gives the lock back
