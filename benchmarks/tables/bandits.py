"""Tables of DynLin-UCB and the neural bandits."""

from __future__ import annotations

from tables.markdown import Result, by_name, markdown, number

# R̃ at T = 10⁵, 20 seeds, of an independent implementation (docs/derivations/dynlin.md §12.1).
DYNLIN_REFERENCE = {
    "dynlin-ucb": ("2 423 ± 5", "11 285 ± 7"),
    "dynlin-ucb, ridge = 1": ("6 933 ± 10", "13 238 ± 3"),
    "linucb-log": ("3 593 ± 1 588", "21 952 ± 5"),
    "linucb-paper": ("5 490 ± 2 320", "21 927 ± 6"),
    "d-linucb-log": ("3 162 ± 887", "21 960 ± 4"),
    "d-linucb-paper": ("5 890 ± 6 856", "21 519 ± 1"),
    "exp3": ("20 590 ± 1 614", "21 256 ± 426"),
    "batch-exp3-paper": ("19 719 ± 2 284", "15 747 ± 1 456"),
    "batch-exp3": ("11 140 ± 1 565", "12 677 ± 1 740"),
    "ar2": ("17 930 ± 73", "17 195 ± 640"),
    "human-budget": ("", "21 570.9"),
    "uniform": ("22 569", "14 391"),
}


def regret(cell: Result | None) -> str:
    """Return mean ± standard deviation over replicates."""
    return "" if cell is None else f"{cell['regret_mean']:,.0f} ± {cell['regret_std']:,.0f}".replace(",", " ")


def dynlin_ucb_systems(result: Result) -> str:
    """Return the regret of every algorithm on both systems, and the reference."""
    cells = [(name, result["synthetic"].get(name), cell) for name, cell in result["real-data"].items()]
    rows = [
        (name, regret(synthetic), reference[0], regret(real), reference[1])
        for name, synthetic, real in cells
        for reference in [DYNLIN_REFERENCE.get(name, ("", ""))]
    ]
    return markdown(("algorithm", "synthetic σ = 0.01", "reference", "real data", "reference"), rows)


def dynlin_ucb_sensitivity(result: Result) -> str:
    """Return the regret of DynLin-UCB at each ρ̄ and λ."""
    names = dict.fromkeys([*result["synthetic"], *result["real-data"]])
    rows = [(name, *(regret(result[system].get(name)) for system in ("synthetic", "real-data"))) for name in names]
    return markdown(("setting", "synthetic σ = 0.01", "real data"), rows)


def bandit_real_doubling(result: Result) -> str:
    """Return the regret with T known, and by doubling."""
    rows = [(name, regret(c["known"]), regret(c["doubled"]), c["ratio"]) for name, c in result["cells"].items()]
    return markdown(("system, learner", f"T = {result['rounds']:,} known", "doubled from 64", "ratio"), rows)


def bandit_real_radius(result: Result) -> str:
    """Return what becomes of each ρ̄ on a system with a slow state."""
    rows = [
        (
            name,
            cell["regret_mean"],
            cell["rho_at_end"],
            "yes" if cell["warned"] else "no",
            cell["right_at_end"],
        )
        for name, cell in result["cells"].items()
    ]
    at = f"regret, T = {result['rounds']:,}"
    return markdown(("ρ̄ given", at, "ρ̄ at the end", "warned", "share of systems with the best action at the end"), rows)


def bandit_real_bias(result: Result) -> str:
    """Return the regret at each scale of the bias term, on each system."""
    cells = result["cells"]
    rows = [(name, *(regret(cells[system][name]) for system in cells)) for name in next(iter(cells.values()))]
    return markdown(("learner", *cells), rows)


def bandit_real_logs(result: Result) -> str:
    """Return how often the intervals held the truth."""
    keys = ("reward", "h", "radius", "radius_bound", "error", "radius_error")
    rows = [(name, *(cell[key] for key in keys)) for name, cell in result["cells"].items()]
    apart = result["apart_from_control"]
    heads = (
        "system, rounds an action is held",
        "J of an action",
        "h",
        "ρ",
        "ρ ≤ upper end",
        "error of h",
        "error of ρ",
    )
    note = (
        f"Beside `control`'s Markov parameters and eigensystem realisation, 10 logs of one system: h at most "
        f"{apart['h']:.2g} apart, ρ {apart['radius']:.2g}; mean error of h {apart['h_error']:.2g}, of ρ "
        f"{apart['radius_error']:.2g}, theirs {apart['radius_error_control']:.2g}."
    )
    return f"{markdown(heads, rows)}\n\n{note}"


def bandit_real_replay(result: Result) -> str:
    """Return the regret of learners in the identified system and in the true one."""
    rows = [(name, regret(cell["replayed"]), regret(cell["true"])) for name, cell in result["cells"].items()]
    return markdown(("learner", "in the identified system", "in the true one"), rows)


def dynlin_ucb_ball(result: Result) -> str:
    """Return regret, slope and angle on each random system."""
    keys = ("slope", "angle_mean", "angle_max", "beta")
    rows = [(cell["system"], regret(cell), *(cell[key] for key in keys)) for cell in result["systems"]]
    return markdown(
        ("system", "regret", "slope of the last decade", "mean angle", "largest angle", "β at the end"), rows
    )


def dynlin_ucb_full(result: Result) -> str:
    """Return regret and slope of each configuration at T = 10⁶."""
    rows = [
        (configuration, name, regret(cell), cell["slope"], f"{cell['cpu_seconds']:.0f}")
        for configuration, cells in result.items()
        if isinstance(cells, dict) and "dynlin-ucb" in cells
        for name, cell in cells.items()
    ]
    return markdown(("configuration", "algorithm", "regret", "slope of the last decade", "CPU seconds"), rows)


# The order of the methods on the pages; the two of the paper first.
BANDITS = (
    "neufastcb",
    "neusquarecb",
    "neural-ucb, ν = 0.1",
    "neural-ucb, ν = 0.001",
    "neural-ts, ν = 0.1",
    "neural-ts, ν = 0.001",
    "ee-net",
    "ε-greedy, ε = 0.05",
    "ε-greedy on losses",
    "greedy",
    "contextual-linucb",
    "linear-squarecb",
    "uniform",
)


def neural_bandits(result: Result) -> str:
    """Return regret by method and task, then slopes, then what the two methods' own settings are worth on digits."""
    jobs = {tuple(name.split("/", 1)): job for name, job in result["jobs"].items()}
    tasks = list(dict.fromkeys(task for task, _ in jobs))
    header = ["regret", *(f"{task}, T = {_rounds(jobs, task):,}" for task in tasks)]
    rows = [[method, *(regret_cell(jobs.get((task, method))) for task in tasks)] for method in BANDITS]
    slopes = [[method, *(slope_cell(jobs.get((task, method))) for task in tasks)] for method in BANDITS]
    own = [
        (method, regret_cell(job), number(job["quarters"][0]), number(job["last_quarter"]), f"{job['slope']:.2f}")
        for (task, method), job in jobs.items()
        if task == "digits" and method not in BANDITS
    ]
    parts = [markdown(header, rows), markdown(["slope of the last decade", *tasks], slopes)]
    parts += [markdown(("on digits", "errors", "first quarter", "last quarter", "slope"), own)] if own else []
    return "\n\n".join(parts)


def _rounds(jobs: dict[tuple[str, ...], Result], task: str) -> int:
    return next(int(job["rounds"]) for (of, _), job in jobs.items() if of == task)


def regret_cell(job: Result | None) -> str:
    return "" if job is None else f"{job['regret_mean']:.0f} ± {job['regret_std']:.0f}"


def slope_cell(job: Result | None) -> str:
    return "" if job is None else f"{job['slope']:.2f}"


def neural_bandits_speed(result: Result) -> str:
    """Return CPU time of a replicate-round in a loop of one and in a batch."""
    rows = [
        (*name.split("/"), number(cell["loop_us"]), number(cell["batch_us"]), number(cell["ratio"], 1))
        for name, cell in result["cells"].items()
    ]
    return markdown(("data", "method", "one at a time, µs", f"{result['replicates']} at a time, µs", "ratio"), rows)


def dynlin_speed(result: Result) -> str:
    """Return the time of a replicate-round of every path relative to the plain loop."""
    cells = {"plain NumPy loop, one replicate": result["numpy_loop"], "epoch path, dynlin-ucb": result["epoch_path"]}
    cells |= {f"round path, {name}": cell for name, cell in result["round_path"].items()}
    rows = [(name, c["seconds"], c["cpu_seconds"], c["cpu_ns"], c.get("ratio", 1)) for name, c in cells.items()]
    return markdown(("path", "seconds", "CPU seconds", "CPU ns per replicate-round", "ratio"), rows)


TABLES = by_name(
    dynlin_ucb_systems,
    dynlin_ucb_sensitivity,
    bandit_real_doubling,
    bandit_real_radius,
    bandit_real_bias,
    bandit_real_logs,
    bandit_real_replay,
    dynlin_ucb_ball,
    dynlin_ucb_full,
    dynlin_speed,
    neural_bandits,
    neural_bandits_speed,
)
