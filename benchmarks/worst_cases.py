"""Benchmarks of worst cases: a policy is trained, and played over a grid of its uncertainty set."""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from record import record_job

from surefoot.envs import SETS, EnvConfig, UncertaintySet
from surefoot.evaluation.episodes import Act, make_act
from surefoot.evaluation.policy_files import load_policy
from surefoot.evaluation.uncertainty_grid import evaluate_static
from surefoot.training.config.presets import load_preset
from surefoot.training.runs.folder import read_meta
from surefoot.training.session import train

SET = SETS["inverted-pendulum-2"]
GRID, EPISODES, FIRST_SEED = 5, 5, 20_000
PUBLISHED_GRID = 10  # half-open, as in the paper


@dataclass(frozen=True)
class Method:
    """An agent with one of its presets and what is changed of its settings."""

    agent: str
    changes: dict[str, Any] = field(default_factory=dict)
    preset: str = "demo"
    steps: int | None = None  # those of the preset


def run(method: Method, seed: int) -> dict[str, Any]:
    """Train one policy and return what it gets over two grids, and the path of an agent that has one."""
    preset = load_preset(method.agent, method.preset)
    steps = method.steps or preset.steps
    agent = replace(preset.agent, **method.changes)
    config = replace(preset, agent=agent, seed=seed, steps=steps, device="cpu", baselines=())
    started = time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        place = train(method.agent, config, out=Path(folder))
        if read_meta(place)["status"] != "finished":
            raise SystemExit(f"{method.agent}, seed {seed}: stopped by a signal; nothing is recorded of it")
        policy = load_policy(place).policy
        path = json.loads((place / "path.json").read_text()) if (place / "path.json").is_file() else []
    seconds = time.process_time() - started
    task = replace(config.env, num_envs=128)
    return {
        "steps": steps,
        **played(make_act(policy), task, GRID, closed=True),
        "published_grid": played(make_act(policy), task, PUBLISHED_GRID, closed=False),
        "cpu_seconds": round(seconds, 1),
        **({"path": without_tables(path)} if path else {}),
    }


def without_tables(path: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the entries of a path.json but for what each of their policies got point by point."""
    return [{key: entry[key] for key in entry if key != "table"} for entry in path]


def played(act: Act, task: EnvConfig, n: int, *, closed: bool, uncertainty: UncertaintySet = SET) -> dict[str, Any]:
    """Return what a policy gets over a grid of n points an axis."""
    grid = {"n": n, "closed": closed, "episodes": EPISODES, "seeds": (FIRST_SEED,)}
    result = evaluate_static(act, task, uncertainty, **grid, device="cpu")
    return {
        "worst": round(float(result.mean.min()), 1),
        "at": result.points[result.worst].tolist(),
        "fresh_worst": round(float(result.fresh_returns.mean()), 1),
        "average": round(float(result.mean.mean()), 1),
        "nominal": round(float(result.nominal_returns.mean()), 1),
        "table": result.mean.round(1).tolist(),
    }


def measure(name: str, methods: dict[str, Method], jobs_to_do: tuple[str, ...], seeds: Sequence[int]) -> None:
    """Carry out METHOD/SEED after METHOD/SEED, each recorded in addition to what results/NAME.json has already."""
    began = time.perf_counter()
    torch.set_num_threads(1)
    for job in jobs_to_do:
        method, seed = job.split("/")
        figures = run(methods[method], int(seed))
        print(job, figures["worst"], figures["average"], figures["cpu_seconds"], flush=True)
        record_job(name, job, figures, began=began, seeds=list(seeds))
