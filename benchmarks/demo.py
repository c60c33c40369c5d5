"""What `make train` shows, over seeds: H2O's demo with its baseline runs.

    python benchmarks/demo.py [--seeds 0 1 2] [--out runs]

What was stopped goes on where it stopped when the same command is given again.
"""

from __future__ import annotations

import json
import resource
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tyro
from record import record

from surefoot.training.runs.folder import read_meta

ROOT = Path(__file__).resolve().parents[1]
FIGURE = ROOT / "docs" / "images" / "demo_learning_curve.png"


@dataclass
class Options:
    """What to run."""

    seeds: tuple[int, ...] = (0, 1, 2)
    out: Path = Path("runs")
    """Folder for the run folders `demo-seed-N`; those that are finished are taken as they are."""


def run(seed: int, out: Path) -> dict[str, Any]:
    """Train the demo as `make train` does; return its comparison, minutes and memory."""
    folder = out / f"demo-seed-{seed}"
    if not (folder / "comparison.json").is_file():
        new = ["h2o", "--preset", "demo", "--seed", str(seed), "--out", str(out), "--name", folder.name]
        arguments = ["--resume", str(folder)] if folder.exists() else new
        subprocess.run([sys.executable, str(ROOT / "train.py"), *arguments], check=True)
    meta, rows = read_meta(folder), json.loads((folder / "comparison.json").read_text())
    # The largest process so far; the demo runs three at once.
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    return {"seed": seed, "minutes": meta["minutes"], "largest_process_mb": round(peak), "comparison": rows}


def summarise(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Return mean and spread over seeds of every method's returns."""
    summary = {}
    for rows in zip(*(r["comparison"] for r in runs), strict=True):
        cell: dict[str, Any] = {"saw": rows[0]["saw"], "steps": rows[0]["step"]}
        for place in ("simulator", "real"):
            values = [row[f"{place}_return"] for row in rows]
            cell[place] = round(float(np.mean(values)), 1)
            cell[f"{place}_seeds"] = [round(value, 1) for value in values]
        summary[rows[0]["method"]] = cell
    return summary


def main(options: Options) -> None:
    began = time.perf_counter()
    runs = [run(seed, options.out) for seed in options.seeds]
    FIGURE.parent.mkdir(exist_ok=True)
    shutil.copy(options.out / f"demo-seed-{options.seeds[0]}" / "plots" / "learning_curve.png", FIGURE)
    figures = {
        "summary": summarise(runs),
        "minutes_a_run": [r["minutes"] for r in runs],
        "largest_process_mb": max(r["largest_process_mb"] for r in runs),
    }
    record("demo", figures, began=began, seeds=list(options.seeds))


if __name__ == "__main__":
    main(tyro.cli(Options))
