"""Tables of H2O: the demo, the gap of the simulator, the paper's row."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from tables.markdown import Result, by_name, markdown, number, with_interval

# Real returns in simulator (b) of an independent implementation of the same set-up (docs/derivations/h2o.md §11.2).
H2O_REFERENCE = {
    ("b", "h2o"): -455,
    ("b", "sac-mix"): -1072,
    ("b", "weights-only"): -379,
    ("b", "regulariser-only"): -1158,
    ("b", "sac-sim"): -1344,
}


def h2o_pendulum(result: Result) -> str:
    """Return, a simulator and method, the mean of the evaluations from 4000 steps on, best first."""
    cells = [(*name.split("/"), cell) for name, cell in result["summary"].items()]
    rows = [
        (
            f"({simulator})",
            method,
            number(cell["real"]),
            " ".join(number(np.mean(run["real"][1:])) for run in result["runs"] if is_of(run, simulator, method)),
            number(H2O_REFERENCE.get((simulator, method))),
            number(cell["sim"]),
            number(cell.get("gap"), 2),
            number(cell.get("importance_weight"), 2),
        )
        for simulator, method, cell in sorted(cells, key=lambda each: (each[0], -each[2]["real"]))
    ]
    header = ("simulator", "method", "real return", "by seed", "reference", "in its simulator", "mean û", "mean w")
    return markdown(header, rows)


def is_of(run: Result, simulator: str, method: str) -> bool:
    return (run["simulator"], run["method"]) == (simulator, method)


def demo(result: Result) -> str:
    """Return the last policy's returns of every method, mean over seeds with its interval and each."""
    rows = [
        (
            method,
            cell["saw"],
            f"{cell['steps']:,}",
            with_interval(cell["real_seeds"]),
            " ".join(map(number, cell["real_seeds"])),
            number(cell["simulator"]),
            " ".join(map(number, cell["simulator_seeds"])),
        )
        for method, cell in result["summary"].items()
    ]
    header = ("method", "learned from", "steps or updates", "real return", "by seed", "in the simulator", "by seed")
    minutes, memory = " ".join(map(number, result["minutes_a_run"])), result["largest_process_mb"]
    return markdown(header, rows) + f"\n\nMinutes per run: {minutes}; largest process: {memory} MB."


def simulator_gap(result: Result) -> str:
    """Return the real return of every method: by the simulator's gravity, by other gaps, by the data.

    A cell is the mean over the seeds that are there, and each. Methods that see no simulator have one column.
    """
    cuts: dict[str, dict[tuple[str, str], list[float]]] = {"gravity": {}, "kind": {}, "data": {}}
    for job, figures in sorted(result["jobs"].items()):
        gap, method, _, *data = job.split("/")
        cut = "data" if data else "gravity" if gap == "none" or gap.startswith("gravity=") else "kind"
        cuts[cut].setdefault((method, data[0] if data else gap), []).append(figures["real"])
    tables = "\n\n".join(gap_table(cells) for cells in cuts.values() if cells)
    steps = sorted({figures["steps"] for figures in result["jobs"].values()})
    return (
        f"{tables}\n\nMean over seeds (each seed); a cell without a number was not run. "
        f"Steps or updates: {', '.join(f'{n:,}' for n in steps)}."
    )


GAP_PAIRS = {  # what is asked: whose return, less whose
    "SAC-mix less SAC on the data": ("sac-mix", "sac-offline"),
    "H2O less SAC on the data": ("h2o", "sac-offline"),
    "H2O less SAC-mix": ("h2o", "sac-mix"),
    "H2O less H2O without w": ("h2o", "h2o-without-w"),
    "H2O less H2O without the regulariser": ("h2o", "h2o-without-regulariser"),
    "SAC in the simulator less SAC on the data": ("sac-sim", "sac-offline"),
}


def simulator_gap_pairs(result: Result) -> str:
    """Return, of pairs of methods, the difference of their real returns at every gravity and other kind of gap."""
    real: dict[tuple[str, str], dict[str, float]] = {}
    for job, figures in result["jobs"].items():
        gap, method, seed, *data = job.split("/")
        if not data:
            real.setdefault((method, gap), {})[seed] = figures["real"]
    gaps = sorted({gap for _, gap in real if gap != "none"}, key=gap_order)

    def cell(first: str, second: str, gap: str) -> str:
        one, other = real.get((first, gap), {}), real.get((second, gap)) or real.get((second, "none"), {})
        each = [one[seed] - other[seed] for seed in sorted(one.keys() & other.keys())]
        return gap_cell(each) if each else ""

    def table(columns: list[str]) -> str:
        rows = [(name, *(cell(*pair, gap) for gap in columns)) for name, pair in GAP_PAIRS.items()]
        header = ("real return", *map(gap_label, columns))
        return markdown(header, [row for row in rows if any(row[1:])])

    of_gravity = [gap for gap in gaps if gap.startswith("gravity=")]
    others = [gap for gap in gaps if gap not in of_gravity]
    return "\n\n".join(table(columns) for columns in (of_gravity, others) if columns)


def simulator_gap_corrections(result: Result) -> str:
    """Return how large the classifiers' corrections were at every gravity, at the end of each run that logged them."""
    cells: dict[tuple[str, str], list[float]] = {}
    for job, figures in sorted(result["jobs"].items()):
        gap, method, *_ = job.split("/")
        for name in GAP_CORRECTIONS.keys() & figures.keys():
            cells.setdefault((f"{GAP_METHODS[method]}: {GAP_CORRECTIONS[name]}", gap), []).append(figures[name])
    gaps = sorted({gap for _, gap in cells}, key=gap_order)
    names = list(dict.fromkeys(name for name, _ in cells))
    rows = [(name, *(" ".join(number(x, 2) for x in cells.get((name, gap), [])) for gap in gaps)) for name in names]
    return markdown(("by seed", *map(gap_label, gaps)), rows)


GAP_CORRECTIONS = {"importance_weight": "mean w of simulated rows", "reward_correction": "mean Δr a step"}


def gap_table(cells: dict[tuple[str, str], list[float]]) -> str:
    """Return one cut through gaps or data sets, its columns in the order of their names, then of their numbers."""
    columns = sorted({column for _, column in cells}, key=gap_order)
    methods = [name for name in GAP_METHODS if any(method == name for method, _ in cells)]
    rows = [(GAP_METHODS[method], *(gap_cell(cells.get((method, at), [])) for at in columns)) for method in methods]
    return markdown(("method", *map(gap_label, columns)), rows)


def h2o_table(result: Result) -> str:
    """Return D4RL's normalised score of every method, by data set and gap."""
    cells: dict[tuple[str, str], list[float]] = {}
    for job, figures in sorted(result["jobs"].items()):
        quality, gap, method, _ = job.split("/")
        cells.setdefault((method, f"{quality}, {gap}"), []).append(figures["score"])
    jobs = result["jobs"].values()
    steps, data = (sorted({figures[name] for figures in jobs}) for name in ("steps", "data"))
    return (
        f"{gap_table(cells)}\n\nMean over seeds (each seed). Steps or updates: {', '.join(f'{n:,}' for n in steps)}; "
        f"data: {', '.join(f'`{Path(name).name}`' for name in data)}."
    )


def gap_label(column: str) -> str:
    """Return how a column such as `none` or `gravity=0.5` is headed."""
    return column.replace("none", "no simulator").replace("gravity=", "gravity × ")


def gap_order(column: str) -> tuple[bool, str, float]:
    """Return what columns such as `none`, `gravity=0.5`, `halfcheetah-replay-100k:0.1` are sorted by."""
    name, _, value = column.replace("=", ":").partition(":")
    return column != "none", name, float(value or 0)


GAP_METHODS = {
    "h2o": "H2O",
    "h2o-without-w": "H2O without w",
    "h2o-without-regulariser": "H2O without the regulariser",
    "sac-mix": "SAC-mix",
    "darc": "DARC",
    "sac-sim": "SAC in the simulator",
    "sac-offline": "SAC on the data",
    "cql": "CQL",
    "bc": "behaviour cloning",
}


def gap_cell(seeds: list[float]) -> str:
    each = " ".join(map(number, seeds))
    return f"{number(float(np.mean(seeds)))} ({each})" if len(seeds) > 1 else each


TABLES = by_name(demo, h2o_pendulum, h2o_table, simulator_gap, simulator_gap_pairs, simulator_gap_corrections)
