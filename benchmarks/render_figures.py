"""Draw the pictures of the pages that recorded results can make.

python benchmarks/render_figures.py
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from surefoot.envs import BatchedPerturbedEnvs, EnvConfig, find_set
from surefoot.evaluation.figures.caption import Caption, seeds_in_words, task_with_dynamics
from surefoot.evaluation.figures.maps import Surface, parameter_maps

ROOT = Path(__file__).resolve().parents[1]
RESULTS, IMAGES = ROOT / "benchmarks" / "results", ROOT / "docs" / "images"
GRID, SEED = 5, 0  # of benchmarks/iwocs.py
WORLDS = {"iwocs": "iwocs", "nominal": "sac in the nominal model", "dr-sac": "dr-sac (domain randomisation)"}


def draw_iwocs_worlds() -> Path:
    """Draw the mean returns of three methods over both masses of InvertedPendulum, from `iwocs.json`."""
    jobs: dict[str, Any] = json.loads((RESULTS / "iwocs.json").read_text(encoding="utf-8"))["jobs"]
    task, masses = EnvConfig("InvertedPendulum-v5"), find_set("inverted-pendulum-2")
    nominal = BatchedPerturbedEnvs(task, masses, num_envs=1).nominal
    surfaces = {
        label: _surface(np.array(jobs[f"{method}/{SEED}"]["table"]), nominal, jobs[f"{method}/{SEED}"]["nominal"])
        for method, label in WORLDS.items()
    }
    axes = dict(zip(masses.param_names, masses.axes(GRID, closed=True), strict=True))
    trained = f"iwocs and dr-sac trained in the uncertainty set {masses.name}"
    shows = f"mean over 5 episodes at each of {GRID} × {GRID} grid points (closed grid); no band: no interval is drawn"
    caption = Caption(f"{task_with_dynamics(asdict(task))}; {trained}", seeds_in_words([SEED]), shows)
    return parameter_maps(IMAGES / "iwocs_worlds.png", axes, surfaces, caption=caption)


def _surface(table: np.ndarray, nominal: np.ndarray, nominal_value: float) -> Surface:
    return Surface(table.reshape(GRID, GRID), np.zeros((GRID, GRID), dtype=bool), nominal, nominal_value)


if __name__ == "__main__":
    print(draw_iwocs_worlds())
