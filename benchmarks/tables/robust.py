"""Tables of IWOCS and of the methods that it is compared with."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
from record import RESULTS
from tables.markdown import Result, by_name, markdown, number, thousands, with_interval
from tables.policies import with_span


def iwocs_exact(result: Result) -> str:
    """Return how often exact IWOCS certifies, and its path on the windy walk."""
    rows = [
        (
            f"{cell['states']}, {cell['actions']}, {cell['kernels']}, {cell['discount']}",
            cell["certified"],
            cell["stagnated"],
            number(cell["mean_turns"], 2),
            cell["most_turns"],
            f"{cell['largest_error']:.0e}",
        )
        for cell in result["random"]
    ]
    header = ("S, A, K, γ", "certified", "stagnated", "mean turns", "most", "largest error of a certified value")
    steps = [
        (step["i"], number(step["alpha"], 2), number(step["U"], 5), number(step["L"], 5), step["status"])
        for step in result["windy_walk"]
    ]
    return markdown(header, rows) + "\n\n" + markdown(("windy walk, i", "α of T_i", "U_i", "L_i", "end"), steps)


# Worst case and mean of an independent implementation, on 31 × 31 states as it reports; its DR mixture comes out on
# 41 × 41 (docs/derivations/iwocs.md §10.2).
SWING_UP_REFERENCE = {
    "nominal": "−766.7, −137.7",
    "DR mixture": "−485.7, −152.5",
    "IWOCS 1": "−335.0, −113.2",
    "IWOCS 2": "−175.5, −89.4",
    "IWOCS 3": "−187.8, −91.8",
    "gate off 1": "−555.6",
    "gate off 2": "−697.7",
    "gate off 3": "−697.7",
}


def iwocs_swing_up(result: Result) -> str:
    """Return worst case and mean of every policy on each grid of states, the best of IWOCS's path in bold."""
    tables = []
    for grid in result["grids"]:
        rows = [
            (
                row["policy"],
                ", ".join(f"{value:g}" for value in row.get("model", ())),
                row.get("rho", ""),
                number(1 - row["fractions"][-1], 2) if "fractions" in row else "",
                f"**{number(row['worst'], 1)}**" if row["worst"] == round(grid["best"], 1) else number(row["worst"], 1),
                ", ".join(f"{value:g}" for value in row["at"]),
                number(row["mean"], 1),
                SWING_UP_REFERENCE.get(row["policy"], "") if grid["states"] == 31 else "",
            )
            for row in grid["rows"]
        ]
        states = f"{grid['states']} × {grid['states']} states"
        header = (states, "T_i", "ρ_i", "fraction of steps by specialists", "worst", "at (m, l)", "mean", "reference")
        corners = f"The four corner specialists, each in its own model, get at least {number(grid['corners'], 1)}."
        tables.append(f"{markdown(header, rows)}\n\n{corners} IWOCS ended with `{grid['status']}`.")
    return "\n\n".join(tables)


def by_seed(item: tuple[str, Any]) -> tuple[str, int]:
    """Return method and seed of a job METHOD/SEED and its cell, to sort by."""
    method, seed = item[0].split("/")
    return method, int(seed)


def over_the_grid(result: Result) -> str:
    """Return, per method, what its seeds get over the grid of parameters."""
    methods = list(dict.fromkeys(job.split("/")[0] for job in result["jobs"]))
    rows = []
    for method in sorted(methods):
        cells = [cell for job, cell in sorted(result["jobs"].items(), key=by_seed) if job.split("/")[0] == method]
        figures = [[cell[name] for cell in cells] for name in ("worst", "average", "nominal", "cpu_seconds")]
        listed = [" ".join(map(number, values)) for values in figures]
        half_open = [number(cell["published_grid"]["worst"]) if "published_grid" in cell else "–" for cell in cells]
        listed.insert(1, " ".join(half_open) if set(half_open) != {"–"} else "")
        steps = f"{cells[0]['steps'] // 1000}k"
        commits = " ".join(dict.fromkeys(f"`{cell['commit'][:10]}`" for cell in cells))
        rows.append((method, steps, number(np.median(figures[0])), *listed, commits))
    worst = ("median worst", "worst by seed", "on the published grid")
    header = ("method", "steps", *worst, "mean over the grid", "nominal", "CPU s", "commit")
    return markdown(header, rows)


# Worst cases on the published grid after 4 million steps, raw, ± the standard error of 10 seeds:
# docs/derivations/iwocs.md §9.2 and §9.5 (SAC in the nominal model). IWOCS is the one with the grid; DR is TD3's.
PUBLISHED_WORST = {
    "inverted-pendulum-2": {"iwocs": "1000 ± 0", "dr-sac": "57 ± 2", "m2td3": "356 ± 132", "rarl": "2 ± 0"},
    "halfcheetah-2": {"iwocs": "3020 ± 70", "dr-sac": "2120 ± 130", "nominal": "−200 ± 2"},
}


def robust_curves(result: Result) -> str:
    """Return, set by set, the worst case of every method's last policy, and what the curve behind it cost."""
    return "\n\n".join(f"**{name}**\n\n{curves_of(name, of)}" for name, of in by_set(result["jobs"]).items())


def by_set(jobs: dict[str, Result]) -> dict[str, dict[str, list[Result]]]:
    """Return the cells of jobs SET/METHOD/SEED by set and method, in the order of their names, but for rules before."""
    sets: dict[str, dict[str, list[Result]]] = {}
    for job, cell in sorted(jobs.items()):
        name, method, _ = job.split("/")
        if method not in RULES_BEFORE:
            sets.setdefault(name, {}).setdefault(method, []).append(cell)
    return sets


RULES_BEFORE = ("iwocs-default-goes-on",)  # in words: docs/methods/iwocs_ablations.md


def curves_of(name: str, methods: dict[str, list[Result]]) -> str:
    """Return the table of one set, best method first, and the public policies of its task."""
    rows = []
    for method, cells in sorted(methods.items(), key=lambda item: -float(np.mean([cell["worst"] for cell in item[1]]))):
        worst = [cell["worst"] for cell in cells]
        updates = each_of(cell["updates"] for cell in cells)
        of_gate = each_of(cell["gate_updates"] for cell in cells if "gate_updates" in cell)
        others = [with_interval([cell[key] for cell in cells]) for key in ("average", "nominal")]
        seconds = [number(np.mean([cell["cpu_seconds"][part] for cell in cells])) for part in ("training", "curve")]
        published = PUBLISHED_WORST.get(name, {}).get(method, "")
        kept = [cell["kept"]["worst"] for cell in cells if "kept" in cell]
        each = tuple(" ".join(map(number, of)) for of in (worst, kept))
        size = thousands(cells[0]["steps"]), updates, of_gate
        rows.append((method, *size, with_interval(worst), *each, published, *others, *seconds))
    header = (
        "method",
        "steps",
        "updates",
        "and of the gate",
        "worst",
        "by seed",
        "best policy kept",
        "published, 4M steps",
        "mean over the grid",
        "nominal",
        "CPU s of training",
        "of the curve",
    )
    cells = [cell for of_method in methods.values() for cell in of_method]
    searched = [cell["search_steps"] for cell in cells if "search_steps" in cell]
    beside = f"The searches of IWOCS played {thousands(np.mean(searched))} steps a run besides." if searched else ""
    return f"{markdown(header, rows)}\n\n{beside}{public_policies(name)}"


def each_of(counts: Iterable[int]) -> str:
    """Return the counts of all seeds, or the one that is all theirs."""
    counts = list(counts)
    return " ".join(f"{count:,}" for count in (counts if len({*counts}) > 1 else counts[:1]))


def public_policies(name: str) -> str:
    """Return the worst cases in a set of the public SAC and TQC policies, as `zoo_stress.py` found them in its box."""
    path = RESULTS / "zoo_stress.json"
    jobs = json.loads(path.read_text(encoding="utf-8"))["jobs"] if path.is_file() else {}
    found = [
        f"{job_name} {with_span(job['worst'])}"
        for job_name, job in jobs.items()
        if job_name.startswith(("sac/", "tqc/")) and job.get("worst_set") == name
    ]
    return f" Public policies, the worst found in the whole box: {', '.join(found)}." if found else ""


IWOCS_CHOSE = range(3)  # seeds


def iwocs(result: Result) -> str:
    """Return what the seeds of IWOCS as it is now get over the grid, beside the paper's rules and what has no gate."""
    return iwocs_rows(result, lambda method: method in IWOCS_NOW)


def iwocs_ablations(result: Result) -> str:
    """Return the same of all rules before, and of what was tried on the way."""
    return iwocs_rows(result, lambda method: method not in IWOCS_NOW)


def iwocs_rows(result: Result, shown: Callable[[str], bool]) -> str:
    """Return what the seeds of some methods get over the grid, and the paths of those that searched the published one.

    Seeds on which settings were chosen are rows of their own.
    """
    jobs, paths = {}, list[str]()
    own = {job: cell for job, cell in sorted(result["jobs"].items(), key=by_seed) if shown(by_seed((job, cell))[0])}
    for job, cell in own.items():
        method, seed = by_seed((job, cell))
        jobs[f"{method}{', chose' * (seed in IWOCS_CHOSE)}/{seed}"] = cell
    for method, column in IWOCS_PATHS.items():
        of_method = {job: cell for job, cell in own.items() if by_seed((job, cell))[0] == method}
        rows = [row for job, cell in of_method.items() for row in iwocs_path(job, cell["path"], column)]
        alone = "specialist, default in T_i"
        header = ("seed", "i", "T_i", column, "J_i", "held-out", alone, "fraction of steps by default", "end")
        paths += [f"`{method}`:\n\n{markdown(header, rows)}"] if rows else []
    return "\n\n".join([over_the_grid(result | {"jobs": jobs}), *paths])


IWOCS_NOW = ("iwocs-models", "iwocs-as-published", "dr-sac", "nominal")
# Methods whose paths are shown, and which of their columns.
IWOCS_PATHS = {
    "iwocs-models": "ceiling",
    "iwocs-models-by-means": "ceiling",
    "iwocs-goes-on-again-published-grid": "rho",
}


def iwocs_path(job: str, path: list[dict[str, Any]], column: str) -> list[tuple[object, ...]]:
    """Return a row for every iteration of a run, with one of its columns."""
    rows: list[tuple[object, ...]] = []
    for entry in path:
        own, rounds = entry["in_its_own_model"], entry.get("rounds") or 1
        rows.append(
            (
                job.split("/")[1],
                entry["iteration"],
                ", ".join(number(x, 1) for x in entry["model"] or ()) + (f" ({rounds} rounds)" * (rounds > 1)),
                number(entry[column], 0 if column == "ceiling" else 1),
                number(entry["worst"]),
                number(entry["held_out_worst"]),
                f"{number(own['specialist'])}, {number(own['default'])}" if own else "",
                number(entry["fractions"][-1], 2),
                entry["status"] or "",
            )
        )
    return rows


def iwocs_oracles(result: Result) -> str:
    """Return what the parts of every run get under each gate, seed by seed."""
    cells = [cell for _, cell in sorted(result["jobs"].items(), key=lambda job: int(job[0]))]
    seeds = " ".join(sorted(result["jobs"], key=int))
    rows = [
        (
            gate,
            " ".join(number(cell["gates"][gate]["worst"]) for cell in cells),
            " ".join(number(cell["gates"][gate]["mean"]) for cell in cells),
            " ".join(f"{cell['gates'][gate]['fell']}" for cell in cells),
            " ".join(f"{cell['gates'][gate]['models_with_a_fall']}" for cell in cells),
        )
        for gate in cells[0]["gates"]
    ]
    episodes = cells[0]["gates"]["known"]["episodes"]
    header = ("gate", f"worst, seeds {seeds}", "mean", f"of {episodes} episodes fell", "in so many of 100 models")
    chosen = ", ".join(f"{cell['gates']['predictors']['rho']:g}" for cell in cells)
    specialists = ", ".join(str(cell["specialists"]) for cell in cells)
    return f"{markdown(header, rows)}\n\nSpecialists: {specialists}; ρ of `predictors`: {chosen}."


TABLES = by_name(iwocs, iwocs_exact, iwocs_oracles, iwocs_swing_up, robust_curves, iwocs_ablations)
