"""The results of a run and its baseline runs: tables, figures, comparison.json."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from rich.box import SIMPLE_HEAD
from rich.table import Table

from surefoot import agents
from surefoot.configs.casting import plain
from surefoot.envs.uncertainty.batched_episodes import NUM_ENVS
from surefoot.evaluation import objectives, uncertainty_grid
from surefoot.evaluation.describe import describe
from surefoot.evaluation.episodes import EvalResult, divergence, evaluate, make_act
from surefoot.evaluation.figures.caption import caption_of_policy, caption_of_runs, configs_of, seeds_in_words
from surefoot.evaluation.objectives import SEED, Measured, measure_objectives
from surefoot.evaluation.policy_files import load_policy
from surefoot.evaluation.regret import last_decade_slope, load_regret
from surefoot.evaluation.storage import write_atomically
from surefoot.evaluation.uncertainty_grid import GridResult
from surefoot.training.config.baselines import conditions, differing, shown
from surefoot.training.config.run import RunConfig
from surefoot.training.loop.baselines import baseline_folder
from surefoot.training.runs.console import print_table
from surefoot.training.runs.folder import method_name, read_config, seed_folders


def with_baselines(run: Path, agent_name: str, config: RunConfig[Any]) -> dict[str, Path]:
    """Return label -> folder of a run and its baseline runs: the agent, or AGENT/PRESET if several use one agent."""
    agents_of = [agent_name, *(entry.split("/")[0] for entry in config.baselines)]
    pairs = zip(agents_of[1:], config.baselines, strict=True)
    labels = [entry if agents_of.count(of) > 1 else of for of, entry in pairs]
    folders = (baseline_folder(run, entry) for entry in config.baselines)
    return {method_name(agent_name, config): run} | dict(zip(labels, folders, strict=True))


class Compared(NamedTuple):
    """One of several runs side by side: what it learned from, and what else differs between them."""

    folder: Path
    saw: str  # simulator, data, or both
    config: RunConfig[Any]
    unit: str  # of its budget
    settings: dict[str, Any]  # {setting: value} of the settings in which the runs differ, the same for all


def side_by_side(runs: Mapping[str, Path]) -> dict[str, Compared]:
    """Return the runs under the same labels, each with the settings in which they differ."""
    read = {label: read_config(folder) for label, folder in runs.items()}
    found = {label: conditions(*one) for label, one in read.items()}
    names = differing(list(found.values()))
    return {
        label: Compared(
            runs[label],
            _saw(agent_name, config),
            config,
            "updates" if agents.get(agent_name).offline else "steps",
            {name: found[label].get(name) for name in names},
        )
        for label, (agent_name, config) in read.items()
    }


def _saw(agent_name: str, config: RunConfig[Any]) -> str:
    spec = agents.get(agent_name)
    used = {"simulator": not spec.offline, "data": spec.reads_data and config.data.source is not None}
    return " + ".join(name for name in used if used[name])


def columns(runs: Mapping[str, Compared]) -> dict[str, list[str]]:
    """Return {heading: one cell per run} of what else differs than what a run learned from and how long.

    A data set that all runs with data share is no column: what each learned from says who has them.
    """
    settings = [one.settings for one in runs.values()]
    sources = {values.get("data.source") for values in settings} - {None}
    passed_by = {"steps"} | ({"data.source"} if len(sources) < 2 else set())
    return {name: [shown(values[name]) for values in settings] for name in settings[0] if name not in passed_by}


def in_caption(setting: str) -> bool:
    """Whether the caption of a figure says in which runs a setting differs."""
    of_the_task = ("env.physics", "env.kwargs", "env.max_episode_steps", "env.action_repeat", "eval.physics")
    return setting.startswith((*of_the_task, "uncertainty"))


def trained_for(one: Compared, step: int) -> str:
    """Return how long a run was trained, such as `300 updates`, and its budget where it ended before."""
    budget = f" of {one.config.steps:,}" if step < one.config.steps else ""
    return f"{step:,}{budget} {one.unit}"


def in_figures(runs: Mapping[str, Compared]) -> dict[str, list[Path]]:
    """Return the folders of runs, of each seed one, by labels that say how the runs differ.

    Task and physics are in a figure's caption.
    """
    cells: list[list[str]] = [[one.saw for one in runs.values()]]
    cells.append([f"{one.config.steps:,} {one.unit}" for one in runs.values()])
    cells += [[f"{name} {cell}" for cell in row] for name, row in columns(runs).items() if not in_caption(name)]
    parts = zip(runs, *(row for row in cells if len(set(row)) > 1), strict=True)
    return {f"{label} ({', '.join(of)})" if of else label: seed_folders(runs[label].folder) for label, *of in parts}


def compare(run: Path, agent_name: str, config: RunConfig[Any], device: torch.device) -> None:
    """Draw the learning curves of a run and its baseline runs; if there are any, also print and write a table.

    Every policy is measured at its last checkpoint in the simulator (`env.physics`) and in the real dynamics
    (`eval.physics`) of this run, on the same episodes.
    """
    runs = side_by_side(with_baselines(run, agent_name, config))
    if unit := agents.get(agent_name).regret:
        compare_regret(runs, run, unit)
        return
    from surefoot.evaluation.figures.curves import diagnostics, learning_curves  # matplotlib takes half a second

    labelled = in_figures(runs)
    learning_curves(labelled, run / "plots" / "learning_curve.png")
    if drawn := agents.get(agent_name).drawn:
        alike = {label: folders for label, folders in labelled.items() if read_config(folders[0])[0] == agent_name}
        diagnostics(alike, run / "plots" / "diagnostics.png", drawn)
    own = seed_folders(run)
    if config.eval.grid is not None:
        for folder in own if config.baselines or own == [run] else ():  # without, each seed has done so itself
            compare_over_grid(_of_seed(runs, folder), folder, read_config(folder)[1], device)
        return
    if config.baselines:
        rows = [_measure(label, one, config, device) for label, one in runs.items()]
        _write_comparison(run, rows)
        print_table(_table(rows, runs, config))
        for row, one in zip(rows, runs.values(), strict=True):
            played = 2 * len(seed_folders(one.folder)) * config.eval.episodes  # in the simulator and in reality
            if line := divergence(row["diverged"], played):
                print(f"note: {row['method']}: {line}")


def _of_seed(runs: Mapping[str, Compared], folder: Path) -> dict[str, Compared]:
    """Return the runs of one seed, that of a folder."""
    beside = {label: one.folder / folder.name for label, one in runs.items()}
    return {label: one._replace(folder=beside[label]) if beside[label].is_dir() else one for label, one in runs.items()}


def compare_over_grid(runs: Mapping[str, Compared], run: Path, config: RunConfig[Any], device: torch.device) -> None:
    """Run the last policies of runs at every point of the grid; print and write the table and draw the maps.

    Reset seeds begin 10,000 above those of the evaluations: nothing was chosen by them.
    """
    assert config.uncertainty is not None
    assert config.eval.grid is not None
    uncertainty = uncertainty_grid.load_set(config.uncertainty)
    results, rows, lengths = {}, [], []
    for label, one in runs.items():
        loaded = load_policy(one.folder, device=device)
        task = replace(
            config.env.in_c(), physics=config.eval.physics, time_aware=loaded.env_config.time_aware, num_envs=NUM_ENVS
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
        lengths.append(trained_for(one, loaded.step))
        rows.append(_facts(label, one, loaded.step) | uncertainty_grid.plain(results[label]))
    _write_comparison(run, rows)
    from surefoot.evaluation.figures.maps import draw_side_by_side, grid_shows  # matplotlib takes half a second

    shows = f"{grid_shows(next(iter(results.values())))}; reset seeds from {config.eval.seed + 10_000} on"
    caption = caption_of_runs({label: configs_of([one.folder]) for label, one in runs.items()}, shows)
    figures = draw_side_by_side(results, run / "plots" / "parameter_grid.png", caption)
    kind = "closed" if config.eval.grid_closed else "half-open"
    differences = {"trained for": lengths, **columns(runs)}
    title = f"{config.uncertainty}, {kind} grid, seed {config.seed}"
    print_table(grid_table(title, list(results.items()), differences if len(runs) > 1 else {}))
    for figure in figures:
        print(f"figure: {figure}")


def compare_regret(runs: Mapping[str, Compared], run: Path, unit: str) -> None:
    """Draw the regret of runs, counted in `unit`s, in the folder of the first; of several, print and write a table."""
    from surefoot.evaluation.figures.curves import regret_curves

    regret_curves(in_figures(runs), run / "plots" / "regret.png", unit=unit)
    if len(runs) == 1:
        return
    rows = []
    for label, one in runs.items():
        rounds, regret = load_regret(one.folder)
        error = float(regret[-1].std(ddof=1)) / regret.shape[1] ** 0.5 if regret.shape[1] > 1 else None
        numbers = {"regret": float(regret[-1].mean()), "standard_error": error}
        numbers["slope"] = last_decade_slope(rounds, regret)
        numbers |= {"saw": one.saw, "settings": one.settings}
        rows.append({"method": label, f"{unit}s": int(rounds[-1]), "replicates": regret.shape[1], **numbers})
    rows.sort(key=lambda row: row["regret"])
    _write_comparison(run, rows)
    print_table(_regret_table(rows, {row["method"]: runs[row["method"]] for row in rows}, unit))


def _regret_table(rows: list[dict[str, Any]], runs: Mapping[str, Compared], unit: str) -> Table:
    """Return one row per run; what differs, number of rounds included, is a column."""
    kind = "steady-state pseudo-regret" if unit == "round" else "regret"
    caption = f"mean ± standard error over replicates; slope: log-log, last decade of {unit}s"
    table = Table(title=f"{kind} after {max(row[f'{unit}s'] for row in rows):,} {unit}s", caption=caption)
    counts, saw = [f"{row[f'{unit}s']:,}" for row in rows], [one.saw for one in runs.values()]
    differences = {"learned from": saw, f"{unit}s": counts} | columns(runs)
    differences = {name: cells for name, cells in differences.items() if len(set(cells)) > 1}
    for name in ("method", *differences, "replicates", "regret", "slope"):
        table.add_column(name, justify="left" if name in ("method", *columns(runs)) else "right")
    for row, *cells in zip(rows, *differences.values(), strict=True):
        error = "" if row["standard_error"] is None else f" ± {row['standard_error']:,.1f}"
        slope = "-" if math.isnan(row["slope"]) else f"{row['slope']:.2f}"
        table.add_row(row["method"], *cells, str(row["replicates"]), f"{row['regret']:,.1f}{error}", slope)
    return table


def _write_comparison(run: Path, rows: list[dict[str, Any]]) -> None:
    text = json.dumps(rows, indent=2) + "\n"
    write_atomically(run / "comparison.json", lambda file: file.write(text.encode()))


def _facts(label: str, one: Compared, step: int) -> dict[str, Any]:
    """Return what a row of comparison.json says of a run besides what its policy achieves."""
    budget = {"step": step, "budget": one.config.steps, "unit": one.unit}
    return {"method": label, "saw": one.saw, **budget, "settings": one.settings}


def _measure(label: str, one: Compared, config: RunConfig[Any], device: torch.device) -> dict[str, Any]:
    """Return what the last policies of all seeds of a run achieve, every seed on the same episodes."""
    loaded = [load_policy(folder, device=device) for folder in seed_folders(one.folder)]
    simulator, real = (
        [
            evaluate(
                make_act(policy.policy),
                # as the policy sees the task
                replace(config.env.in_c(), physics=physics, time_aware=policy.env_config.time_aware),
                episodes=config.eval.episodes,
                seed=config.eval.seed,
                device=device,
            )
            for policy in loaded
        ]
        for physics in (config.env.physics, config.eval.physics)
    )
    return _facts(label, one, min(policy.step for policy in loaded)) | _numbers(simulator, real)


def _numbers(simulator: Sequence[EvalResult], real: Sequence[EvalResult]) -> dict[str, Any]:
    returns = {"simulator": [one.returns for one in simulator], "real": [one.returns for one in real]}
    scores = [one.score for one in real if one.score is not None]
    numbers: dict[str, Any] = {"diverged": sum(int(one.broken.sum()) for one in (*simulator, *real))}
    for place, found in returns.items():
        numbers[f"{place}_return"] = float(np.mean(np.concatenate(found)))
        numbers[f"{place}_std"] = float(np.std(np.concatenate(found)))
    return numbers | {"score": float(np.mean(np.concatenate(scores))) if scores else None}


def _table(rows: list[dict[str, Any]], runs: Mapping[str, Compared], config: RunConfig[Any]) -> Table:
    policies = "the last policy" if config.num_seeds == 1 else "the last policy of each seed"
    caption = f"mean ± std over {config.eval.episodes} episodes of {policies}; score: D4RL-normalised"
    seeds = seeds_in_words(range(config.seed, config.seed + config.num_seeds))
    table = Table(title=f"{describe(plain(config.env.in_c()))}, {seeds}", caption=caption)
    differences = columns(runs)
    for name in ("method", "learned from", "trained for", *differences):
        table.add_column(name)
    for name in ("simulator return", "real return", "score"):
        table.add_column(name, justify="right")
    for row, one, *cells in zip(rows, runs.values(), *differences.values(), strict=True):
        returns = [_spread(row[f"{place}_return"], row[f"{place}_std"]) for place in ("simulator", "real")]
        score = "-" if row["score"] is None else f"{row['score']:.1f}"
        table.add_row(row["method"], row["saw"], trained_for(one, row["step"]), *cells, *returns, score)
    return table


def _spread(mean: float, std: float) -> str:
    """Return mean ± std; two decimals where returns are small."""
    digits = 0 if abs(mean) + std >= 10 else 2
    return f"{mean:.{digits}f} ± {std:.{digits}f}"


def objectives_table(title: str, measured: Sequence[Measured]) -> Table:
    """Return one row per objective, narrow enough for a terminal of 80 columns; predictions that missed have a mark."""
    caption = "95% bootstrap interval over episodes; mean of the discounted return"
    if missed := [m.objective for m in measured if m.misjudged]:
        caption += f"\n! the prediction lies outside of the interval: {', '.join(missed)}"
    shown = Table(title=title, caption=caption, box=SIMPLE_HEAD)
    for name in ("objective", "start", "predicted", "achieved", "mean", "steps"):
        shown.add_column(name, justify="left" if name == "objective" else "right", no_wrap=True)
    for m in measured:
        achieved = objectives.with_interval(m)
        means = objectives.written(m.returns.mean(0), 3), f"{m.lengths.mean():.1f}"
        predicted = f"{m.predicted:.3f}{'!' if m.misjudged else ' '}"
        shown.add_row(m.objective, objectives.written(m.stock, 2), predicted, achieved, *means)
    return shown


def compare_objectives(run: Path, runs: Mapping[str, Compared], device: torch.device) -> None:
    """Measure the objectives of each run's configuration; print a table, write objectives.json and figures to `run`."""
    from surefoot.evaluation.figures.distributions import draw_objectives
    from surefoot.evaluation.figures.style import file_names

    rows: list[dict[str, Any]] = []
    names = file_names(runs)
    for label, one in runs.items():
        loaded = load_policy(one.folder, device=device)
        settings = one.config.eval
        task = replace(loaded.env_config.in_c(), physics=settings.physics)
        counts: dict[str, Any] = {"episodes": settings.objective_episodes, "seed": SEED, "device": device}
        measured = measure_objectives(loaded.policy, task, settings.objectives, **counts)
        places = (run / "plots" / f"{kind}-{names[label]}.png" for kind in ("distribution", "paths"))
        caption = caption_of_policy(label, task, loaded.seed, (SEED,))
        draw_objectives(loaded.policy, task, measured, caption, *places, seed=SEED)
        rows += [{"run": label, **_facts(label, one, loaded.step), **objectives.plain(m)} for m in measured]
        parts = [label, task.id, trained_for(one, loaded.step)]
        print_table(objectives_table(", ".join(parts), measured))
    text = json.dumps(rows, indent=2) + "\n"
    write_atomically(run / "objectives.json", lambda file: file.write(text.encode()))


def grid_table(
    title: str, labelled: Sequence[tuple[str, GridResult]], differences: Mapping[str, Sequence[str]] | None = None
) -> Table:
    """Return a table with one row per run; `differences` are columns with one cell per run."""
    extra = differences or {}
    first = labelled[0][1]
    episodes = f"{first.returns.shape[1]} episodes at each of {len(first.points)} points"
    table = Table(title=title, caption=f"{episodes}; again: the worst point from fresh seeds; nominal: at {_at(first)}")
    table.add_column("run", overflow="fold")
    for name in extra:
        table.add_column(name)
    for name in ("worst", "again", "average", "nominal"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("worst at", overflow="fold")
    for (label, result), *cells in zip(labelled, *extra.values(), strict=True):
        figures = (result.mean.min(), result.fresh_returns.mean(), result.mean.mean(), result.nominal_returns.mean())
        table.add_row(label, *cells, *(f"{figure:.1f}" for figure in figures), _worst_at(result))
    return table


def _worst_at(result: GridResult) -> str:
    where = ", ".join(f"{name} {value:.4g}" for name, value in _named(result, result.points[result.worst]))
    others = int((result.mean == result.mean.min()).sum()) - 1
    return f"{where} and {others} more" if others else where


def _at(result: GridResult) -> str:
    return ", ".join(f"{name} {value:.4g}" for name, value in _named(result, result.nominal))


def _named(result: GridResult, values: np.ndarray) -> Iterator[tuple[str, float]]:
    return zip(result.uncertainty.param_names, values, strict=True)
