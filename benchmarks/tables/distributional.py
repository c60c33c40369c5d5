"""Tables of stock-augmented distributional DP and DηN."""

from __future__ import annotations

from typing import Any

import numpy as np
from tables.markdown import Result, by_name, markdown, number, with_interval


def sepsis(result: Result) -> str:
    """Return the known figures, what risk-averse policies do with patients, and what robust ones do."""
    known = result["known"]["figures"]
    figures = [(name, number(value, 7)) for name, value in known.items()]
    tails = [name for name in result["risk_averse"]["policies"][0] if name.startswith("cvar(")]
    averse = [
        (
            row["objective"],
            *(number(row[name], 4) for name in ("value", "at_most")),
            *(number(row[tail], 3) for tail in tails),
            *_care(row),
        )
        for row in result["risk_averse"]["policies"]
    ]
    worst = [
        (row["policy"], number(row["worst"], 4), number(row["mean"], 4), _share(row["changed_states"]), *_care(row))
        for row in result["robust"]["policies"]
    ]
    care = ("survival", "days", "fluids", "vasopressors", "fluids, sickest third", "vasopressors, sickest third")
    robust, seconds = result["robust"], result["robust"]["seconds"]
    low, high = robust["bracket"]
    lines = [
        markdown(("survival, γ = 1", "computed"), figures),
        f"All three in {result['known']['seconds']} CPU seconds.",
        markdown(("best for", "value", "at most", *tails, *care), averse),
        f"A day costs {result['risk_averse']['cost_per_day']}; all tails in {result['risk_averse']['seconds']} CPU s.",
        markdown(("policy", "worst model", "mean over models", "states with another action", *care), worst),
        f"{robust['models']} models, each withholding {robust['sigma']:.0%} of the admissible actions. The best worst "
        f"case of a policy lies between {number(low, 5)} and {number(high, 5)} ({robust['status']}); hull "
        f"{number(robust['hull'], 5)}. CPU seconds: IWOCS {seconds['iwocs']}, robust value iteration "
        f"{seconds['robust value iteration']}, preparing {seconds['preparing']}. Largest process: "
        f"{result['largest_process_mb']} MB.",
    ]
    return "\n\n".join(lines)


def _care(row: Result) -> tuple[str, ...]:
    names = ("fluids", "vasopressors", "ill_fluids", "ill_vasopressors")
    return number(row["survival"], 3), number(row["days"], 2), *(number(row[name], 2) for name in names)


def _share(value: float | None) -> str:
    return "" if value is None else f"{value:.0%}"


# Optima of the tasks, CVaR at τ = 1, 0.75, 0.5, 0.25, 0.1: docs/derivations/distributional.md E11 for FORK,
# docs/derivations/distributional.md E10 for CROSSING.
TAIL_OPTIMA = {"fork": (1.997, 1.412, 0.944, 0.349, 0.349), "crossing": (1.18834, 0.97440, 0.82813, 0.74869, 0.74869)}


def dhn(result: Result) -> str:
    """Return medians over seeds: tails with their predictions, target returns, and the mean."""
    jobs = result["jobs"]
    rows = [
        (name, number(median(runs, "error"), 4), seeds(runs, "error", 4), number(median(runs, "slope"), 3))
        for name, runs in jobs.items()
        if "error" in runs[0]
    ]
    targets = markdown(
        ("target returns", *of_seeds("mean distance"), "by seed", *of_seeds("slope of mean in target")), rows
    )
    means = [
        (name, number(median(jobs["mean"], name), 3), seeds(jobs["mean"], name, 3))
        for name in ("dhn", "qr-dqn")
        if "mean" in jobs
    ]
    neutral = markdown(("FORK for the mean (optimum 1.997)", *of_seeds("mean return"), "by seed"), means)
    return "\n\n".join((dhn_tails(jobs), targets, neutral))


def of_seeds(*names: str) -> list[str]:
    """Return the headers of columns that are medians over seeds."""
    return [f"{name}, median" for name in names]


def dhn_tails(jobs: Result) -> str:
    """Return one row per task and τ."""
    rows = []
    for name, optima in TAIL_OPTIMA.items():
        runs = jobs.get(name, [])
        for tau, optimum in zip(runs[0]["tau"] if runs else (), optima, strict=bool(runs)):
            cells = [run["tau"][tau] for run in runs]
            figures = [number(median(cells, key), 3) for key in ("achieved", "predicted", "mean", "length")]
            rows.append((f"{name}, CVaR at {tau}", number(optimum, 3), *figures, seeds(cells, "achieved", 3)))
    return markdown(
        ("task", "exact", *of_seeds("achieved", "predicted", "mean return", "steps"), "achieved by seed"), rows
    )


def dhn_cartpole(result: Result) -> str:
    """Return one row per run: CVaR predicted and achieved at every quarter, the last with its interval."""
    rows = []
    for job, cell in sorted(result["jobs"].items()):
        variant, seed = job.split("/")
        parts, last = cell["rows"], cell["rows"][-1]
        series = (" ".join(number(part[key], 1) for part in parts) for key in ("reach", "predicted", "achieved"))
        interval = f"[{number(last['low'], 1)}, {number(last['high'], 1)}]"
        rows.append((variant, seed, f"{last['steps']:,}", *series, interval))
    header = ("variant", "seed", "steps", "reach of the target", "predicted", "achieved", "the last within")
    return markdown(header, rows)


def dhn_horizon(result: Result) -> str:
    """Return one row per task and objective; an optimum that is only bracketed as two numbers."""
    rows = []
    for job, cell in result["jobs"].items():
        low, high = cell["exact"]
        exact = number(low, 3) if high - low < 5e-4 else f"{number(low, 3)} to {number(high, 3)}"
        figures = [number(median(cell["runs"], key), 3) for key in ("achieved", "predicted")]
        rows.append(
            (
                job.replace("/", ", "),
                exact,
                *figures,
                *(seeds(cell["runs"], key, 3) for key in ("achieved", "predicted")),
            )
        )
    return markdown(
        ("task and objective", "exact", *of_seeds("achieved", "predicted"), "achieved by seed", "predicted by seed"),
        rows,
    )


def minatar(result: Result) -> str:
    """Return one row per task and agent, with a figure per seed."""
    groups: dict[tuple[str, str], dict[str, Result]] = {}
    for job, cell in sorted(result["jobs"].items()):
        task, agent, seed = job.split("/")
        groups.setdefault((task, agent), {})[seed] = cell
    rows = []
    for (task, agent), of_seed in groups.items():
        cells = list(of_seed.values())
        means = ", ".join(f"{c['mean']:.1f} ± {c['std']:.1f}" for c in cells)
        over, tail = (with_interval([c[key] for c in cells], digits) for key, digits in (("mean", 1), ("tail", 2)))
        about = (task, agent, f"{cells[0]['steps']:,}", " ".join(of_seed))
        rows.append((*about, over, means, tail, seeds(cells, "tail", 2)))
    each = "mean ± deviation of 300 episodes, by seed"
    header = ("task", "agent", "steps", "seeds", "mean", each, "CVaR at 0.25, discounted", "by seed")
    return markdown(header, rows)


def median(cells: list[Result], key: str) -> float:
    return float(np.median([cell[key] for cell in cells]))


def seeds(cells: list[Result], key: str, digits: int) -> str:
    return " ".join(number(cell[key], digits) for cell in cells)


def dhn_speed(result: Result) -> str:
    """Return updates per second of ours and theirs, and the ratios."""
    rows = [
        (f"N = {size['quantiles']}, batch {size['batch']}", *rates.values(), size["qr-dqn_ratio"], size["dhn_ratio"])
        for size in result["sizes"].values()
        for rates in [size["updates_per_cpu_second"]]
    ]
    header = ("updates per CPU second", "qr-dqn", "dhn", "SB3-contrib", "qr-dqn / SB3-contrib", "dhn / SB3-contrib")
    return markdown(header, rows)


def dvi_speed(result: Result) -> str:
    """Return, per method, its time and the CVaR of its distribution, and the optimum; then the comparisons."""
    tails = list(next(iter(result["cvar"].values())))
    rows: list[tuple[Any, ...]] = [
        (
            method,
            number(cell["cpu_seconds"], 2),
            cell["sweeps"],
            *(f"{number(j, 3)} / {number(achieved, 3)}" for _, j, achieved in result["cvar"][method].values()),
        )
        for method, cell in result["methods"].items()
    ]
    scalar = result["scalar_recursion"]
    rows.append(
        ("scalar recursion", number(scalar["cpu_seconds"], 2), "", *(number(v, 3) for v in scalar["cvar"].values()))
    )
    optima = next(iter(result["cvar"].values()))
    rows.append(("*optimum*", "", "", *(number(optima[tau][0], 3) for tau in tails)))
    header = ("method", "CPU seconds", "sweeps", *(f"τ = {tau}: J / distribution" for tau in tails))
    loop = result["loop_sweep"]
    return markdown(header, rows) + (
        f"\n\n{result['stocks']} stocks, {result['atoms']} atoms, {scalar['stocks']} stocks for the scalar recursion; "
        f"memory bound {result['needs_mb']} MB. One sweep of a NumPy loop over states, stocks and actions: "
        f"{number(loop['cpu_seconds'], 2)} CPU seconds, {loop['times_ours']} times ours."
    )


TABLES = by_name(sepsis, dhn, dhn_cartpole, dhn_horizon, minatar, dhn_speed, dvi_speed)
