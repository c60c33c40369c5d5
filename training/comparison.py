"""The results of a run and its baseline runs: tables, figures, comparison.json."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.box import SIMPLE_HEAD
from rich.table import Table

from surefoot import agents
from surefoot.envs.uncertainty.batched_episodes import NUM_ENVS
from surefoot.evaluation import uncertainty_grid
from surefoot.evaluation.episodes import EvalResult, evaluate, make_act
from surefoot.evaluation.figures.caption import caption_of_policy, caption_of_runs, configs_of
from surefoot.evaluation.objectives import SEED, Measured, measure_objectives, plain
from surefoot.evaluation.policy_files import load_policy
from surefoot.evaluation.regret import last_decade_slope, load_regret
from surefoot.evaluation.storage import write_atomically
from surefoot.evaluation.uncertainty_grid import GridResult
from surefoot.training.config.run import RunConfig
from surefoot.training.loop.baselines import baseline_folder
from surefoot.training.runs.console import print_table
from surefoot.training.runs.folder import method_name, read_config


def with_baselines(run: Path, agent_name: str, config: RunConfig[Any]) -> dict[str, Path]:
    """Return label -> folder of a run and its baseline runs: the agent, or AGENT/PRESET if several use one agent."""
    agents_of = [agent_name, *(entry.split("/")[0] for entry in config.baselines)]
    pairs = zip(agents_of[1:], config.baselines, strict=True)
    labels = [entry if agents_of.count(of) > 1 else of for of, entry in pairs]
    folders = (baseline_folder(run, entry) for entry in config.baselines)
    return {method_name(agent_name, config): run} | dict(zip(labels, folders, strict=True))


def compare(run: Path, agent_name: str, config: RunConfig[Any], device: torch.device) -> None:
    """Draw the learning curves of a run and its baseline runs; if there are any, also print and write a table.

    Every policy is measured at its last checkpoint in the simulator (`env.physics`) and in the real dynamics
    (`eval.physics`) of this run, on the same episodes.
    """
    runs = with_baselines(run, agent_name, config)
    if unit := agents.get(agent_name).regret:
        compare_regret(runs, run, unit)
        return
    from surefoot.evaluation.figures.curves import diagnostics, learning_curves  # matplotlib takes half a second

    learning_curves(runs, run / "plots" / "learning_curve.png")
    if drawn := agents.get(agent_name).drawn:
        alike = {label: folder for label, folder in runs.items() if read_config(folder)[0] == agent_name}
        diagnostics(alike, run / "plots" / "diagnostics.png", drawn)
    if config.eval.grid is not None:
        compare_over_grid(runs, run, config, device)
        return
    if config.baselines:
        rows = [_measure(label, folder, config, device) for label, folder in runs.items()]
        _write_comparison(run, rows)
        print_table(_table(rows, config))


def compare_over_grid(runs: dict[str, Path], run: Path, config: RunConfig[Any], device: torch.device) -> None:
    """Run the last policies of runs at every point of the grid; print and write the table and draw the maps.

    Reset seeds begin 10,000 above those of the evaluations: nothing was chosen by them.
    """
    assert config.uncertainty is not None
    assert config.eval.grid is not None
    uncertainty = uncertainty_grid.load_set(config.uncertainty)
    results, rows = {}, []
    for label, folder in runs.items():
        loaded = load_policy(folder, device=device)
        task = replace(
            config.env, physics=config.eval.physics, time_aware=loaded.env_config.time_aware, num_envs=NUM_ENVS
        )
        results[label] = uncertainty_grid.evaluate_static(
            make_act(loaded.policy),
            task,
            uncertainty,
            n=config.eval.grid,
            closed=config.eval.grid_closed,
            episodes=config.eval.episodes,
            seeds=(config.eval.seed + 10_000,),
            device=device,
        )
        rows.append({"method": label, "step": loaded.step, **uncertainty_grid.plain(results[label])})
    _write_comparison(run, rows)
    from surefoot.evaluation.figures.maps import draw_side_by_side, grid_shows  # matplotlib takes half a second

    shows = f"{grid_shows(next(iter(results.values())))}; reset seeds from {config.eval.seed + 10_000} on"
    caption = caption_of_runs({label: configs_of([folder]) for label, folder in runs.items()}, shows)
    figures = draw_side_by_side(results, run / "plots" / "parameter_grid.png", caption)
    kind = "closed" if config.eval.grid_closed else "half-open"
    print_table(grid_table(f"{config.uncertainty}, {kind} grid, seed {config.seed}", list(results.items())))
    for figure in figures:
        print(f"figure: {figure}")


def compare_regret(runs: dict[str, Path], run: Path, unit: str) -> None:
    """Draw the regret of runs, counted in `unit`s, in the folder of the first; of several, print and write a table."""
    from surefoot.evaluation.figures.curves import regret_curves

    regret_curves(runs, run / "plots" / "regret.png", unit=unit)
    if len(runs) == 1:
        return
    rows = []
    for label, folder in runs.items():
        rounds, regret = load_regret(folder)
        error = float(regret[-1].std(ddof=1)) / regret.shape[1] ** 0.5 if regret.shape[1] > 1 else None
        numbers = {"regret": float(regret[-1].mean()), "standard_error": error}
        numbers["slope"] = last_decade_slope(rounds, regret)
        rows.append({"method": label, f"{unit}s": int(rounds[-1]), "replicates": regret.shape[1], **numbers})
    rows.sort(key=lambda row: row["regret"])
    _write_comparison(run, rows)
    print_table(_regret_table(rows, unit))


def _regret_table(rows: list[dict[str, Any]], unit: str) -> Table:
    kind = "steady-state pseudo-regret" if unit == "round" else "regret"
    caption = f"mean ± standard error over replicates; slope: log-log, last decade of {unit}s"
    table = Table(title=f"{kind} after {rows[0][f'{unit}s']:,} {unit}s", caption=caption)
    for name in ("method", "replicates", "regret", "slope"):
        table.add_column(name, justify="left" if name == "method" else "right")
    for row in rows:
        error = "" if row["standard_error"] is None else f" ± {row['standard_error']:,.1f}"
        slope = "-" if math.isnan(row["slope"]) else f"{row['slope']:.2f}"
        table.add_row(row["method"], str(row["replicates"]), f"{row['regret']:,.1f}{error}", slope)
    return table


def _write_comparison(run: Path, rows: list[dict[str, Any]]) -> None:
    text = json.dumps(rows, indent=2) + "\n"
    write_atomically(run / "comparison.json", lambda file: file.write(text.encode()))


def _measure(label: str, folder: Path, config: RunConfig[Any], device: torch.device) -> dict[str, Any]:
    loaded = load_policy(folder, device=device)
    simulator, real = (
        evaluate(
            make_act(loaded.policy),
            replace(
                config.env, physics=physics, time_aware=loaded.env_config.time_aware
            ),  # as the policy sees the task
            episodes=config.eval.episodes,
            seed=config.eval.seed,
            device=device,
        )
        for physics in (config.env.physics, config.eval.physics)
    )
    spec = agents.get(loaded.agent_name)
    saw = [
        name
        for name, used in (("simulator", not spec.offline), ("data", read_config(folder)[1].data.source is not None))
        if used
    ]
    return {"method": label, "saw": " + ".join(saw), "step": loaded.step} | _numbers(simulator, real)


def _numbers(simulator: EvalResult, real: EvalResult) -> dict[str, Any]:
    return {
        "simulator_return": float(np.mean(simulator.returns)),
        "simulator_std": float(np.std(simulator.returns)),
        "real_return": float(np.mean(real.returns)),
        "real_std": float(np.std(real.returns)),
        "score": None if real.score is None else float(np.mean(real.score)),
    }


def _table(rows: list[dict[str, Any]], config: RunConfig[Any]) -> Table:
    caption = f"mean ± std over {config.eval.episodes} episodes of the last policy; score: D4RL-normalised"
    table = Table(title=f"{config.env.id}, seed {config.seed}", caption=caption)
    for name in ("method", "learned from"):
        table.add_column(name)
    for name in ("simulator return", "real return", "score"):
        table.add_column(name, justify="right")
    for row in rows:
        returns = [_spread(row[f"{place}_return"], row[f"{place}_std"]) for place in ("simulator", "real")]
        table.add_row(row["method"], row["saw"], *returns, "-" if row["score"] is None else f"{row['score']:.1f}")
    return table


def _spread(mean: float, std: float) -> str:
    """Return mean ± std; two decimals where returns are small."""
    digits = 0 if abs(mean) + std >= 10 else 2
    return f"{mean:.{digits}f} ± {std:.{digits}f}"


def objectives_table(title: str, measured: Sequence[Measured]) -> Table:
    """Return one row per objective, narrow enough for a terminal of 80 columns."""
    caption = "95% bootstrap interval over episodes; mean of the discounted return"
    shown = Table(title=title, caption=caption, box=SIMPLE_HEAD)
    for name in ("objective", "start", "predicted", "achieved", "mean", "steps"):
        shown.add_column(name, justify="left" if name == "objective" else "right", no_wrap=True)
    for m in measured:
        low, high = m.interval
        achieved = f"{m.value:.3f} [{low:.3f}, {high:.3f}]"
        means = f"{m.returns.mean():.3f}", f"{m.lengths.mean():.1f}"
        shown.add_row(m.objective, f"{m.stock:.2f}", f"{m.predicted:.3f}", achieved, *means)
    return shown


def compare_objectives(run: Path, folders: dict[str, Path], device: torch.device) -> None:
    """Measure the objectives of each run's configuration; print a table, write objectives.json and figures to `run`."""
    from surefoot.evaluation.figures.distributions import draw_objectives

    rows: list[dict[str, Any]] = []
    for label, folder in folders.items():
        loaded = load_policy(folder, device=device)
        settings = read_config(folder)[1].eval
        task = replace(loaded.env_config, physics=settings.physics)
        counts: dict[str, Any] = {"episodes": settings.objective_episodes, "seed": SEED, "device": device}
        measured = measure_objectives(loaded.policy, task, settings.objectives, **counts)
        name = label.replace("/", "-")
        places = (run / "plots" / f"{kind}-{name}.png" for kind in ("distribution", "paths"))
        caption = caption_of_policy(label, task, loaded.seed, (SEED,))
        draw_objectives(loaded.policy, task, measured, caption, *places, seed=SEED)
        rows += [{"run": label, **plain(m)} for m in measured]
        print_table(objectives_table(f"{label}, {task.id}", measured))
    text = json.dumps(rows, indent=2) + "\n"
    write_atomically(run / "objectives.json", lambda file: file.write(text.encode()))


def grid_table(title: str, labelled: Sequence[tuple[str, GridResult]]) -> Table:
    """Return a table with one row per run."""
    first = labelled[0][1]
    episodes = f"{first.returns.shape[1]} episodes at each of {len(first.points)} points"
    table = Table(title=title, caption=f"{episodes}; again: the worst point from fresh seeds; nominal: at {_at(first)}")
    table.add_column("run", overflow="fold")
    for name in ("worst", "again", "average", "nominal"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("worst at", overflow="fold")
    for label, result in labelled:
        figures = (result.mean.min(), result.fresh_returns.mean(), result.mean.mean(), result.nominal_returns.mean())
        table.add_row(label, *(f"{figure:.1f}" for figure in figures), _worst_at(result))
    return table


def _worst_at(result: GridResult) -> str:
    where = ", ".join(f"{name} {value:.4g}" for name, value in _named(result, result.points[result.worst]))
    others = int((result.mean == result.mean.min()).sum()) - 1
    return f"{where} and {others} more" if others else where


def _at(result: GridResult) -> str:
    return ", ".join(f"{name} {value:.4g}" for name, value in _named(result, result.nominal))


def _named(result: GridResult, values: np.ndarray) -> Iterator[tuple[str, float]]:
    return zip(result.uncertainty.param_names, values, strict=True)
