"""Render the tables of README.md and docs/ from benchmarks/results/*.json: numbers are never typed.

A table stands between `<!-- table: NAME -->` and `<!-- end -->`, each on a line of its own; NAME is a result file's,
or that of another view of one.

    python benchmarks/render_tables.py [--check]
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tyro
import yaml
from record import RESULTS

from surefoot.evaluation.statistics import stratified_bootstrap

ROOT = RESULTS.parents[1]
PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")))
OPENING = re.compile(r"^<!-- table: (\w+) -->$", re.MULTILINE)
BLOCK = re.compile(r"^(<!-- table: (\w+) -->)\n(?:(?!<!--).*\n)*?<!-- end -->$", re.MULTILINE)
PROVENANCE = ("benchmark", "command", "commit", "dirty", "versions", "hardware", "seeds", "minutes")

Result = dict[str, Any]


def main(check: bool = False) -> int:
    """Bring every table up to date and return 0.

    Args:
        check: write nothing; return 1 and name the pages where a table differs from its result file.
    """
    stale = 0
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        if (fresh := rendered(text, str(page))) != text:
            stale += 1
            print(f"{page.relative_to(ROOT)}: {'stale; run benchmarks/render_tables.py' if check else 'rendered'}")
            if not check:
                page.write_text(fresh, encoding="utf-8")
    return int(check and stale > 0)


def rendered(text: str, where: str, results: Path = RESULTS) -> str:
    """Return a page with every table replaced; `ValueError` for a table that is not closed."""
    blocks = [match.group(2) for match in BLOCK.finditer(text)]
    if (opened := OPENING.findall(text)) != blocks:
        raise ValueError(f"{where}: tables {opened} are opened, {blocks} closed by a line <!-- end -->")
    return BLOCK.sub(lambda match: f"{match.group(1)}\n{table_of(match.group(2), results)}\n<!-- end -->", text)


def table_of(name: str, results: Path) -> str:
    """Return the Markdown of one result file, or of a view of it."""
    path = results / f"{VIEWS.get(name, name)}.json"
    if not path.is_file():
        return f"*Not measured yet: there is no `benchmarks/results/{path.name}`.*"
    result = json.loads(path.read_text(encoding="utf-8"))
    return f"{RENDERERS.get(name, key_values)(result)}\n\n{provenance(result)}"


# --- one function per result file -------------------------------------------------------------------------------------

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


def with_interval(seeds: Sequence[float], digits: int = 0) -> str:
    """Return the mean over seeds and its 95% bootstrap interval, which one seed does not have."""
    values = np.array(seeds)
    interval = stratified_bootstrap([values], np.mean, generator=np.random.default_rng(0))
    spread = "" if interval is None else f" [{number(interval.low, digits)}, {number(interval.high, digits)}]"
    return number(float(values.mean()), digits) + spread


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
    minutes = sum(figures.get("minutes", 0.0) for figures in result["jobs"].values())
    commits = commits_of(result["jobs"].values())
    return (
        f"{tables}\n\nMean over seeds (each seed); a cell without a number was not run. "
        f"Steps or updates: {', '.join(f'{n:,}' for n in steps)}; runs of commits {commits}; {minutes:.0f} minutes "
        "besides the demo's runs."
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
    """Return, of pairs of methods, the difference of their real returns at every gravity, mean over seeds and each."""
    real: dict[tuple[str, str], dict[str, float]] = {}
    for job, figures in result["jobs"].items():
        gap, method, seed, *data = job.split("/")
        if not data:
            real.setdefault((method, gap), {})[seed] = figures["real"]
    gaps = sorted({gap for _, gap in real if gap.startswith("gravity=")}, key=gap_order)

    def cell(first: str, second: str, gap: str) -> str:
        one, other = real.get((first, gap), {}), real.get((second, gap)) or real.get((second, "none"), {})
        each = [one[seed] - other[seed] for seed in sorted(one.keys() & other.keys())]
        return gap_cell(each) if each else ""

    rows = [(name, *(cell(*pair, gap) for gap in gaps)) for name, pair in GAP_PAIRS.items()]
    return markdown(("real return", *(gap.replace("gravity=", "gravity × ") for gap in gaps)), rows)


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
    return markdown(("by seed", *(gap.replace("gravity=", "gravity × ") for gap in gaps)), rows)


GAP_CORRECTIONS = {"importance_weight": "mean w of simulated rows", "reward_correction": "mean Δr a step"}


def gap_table(cells: dict[tuple[str, str], list[float]]) -> str:
    """Return one cut through gaps or data sets, its columns in the order of their names, then of their numbers."""
    columns = sorted({column for _, column in cells}, key=gap_order)
    labels = [column.replace("none", "no simulator").replace("gravity=", "gravity × ") for column in columns]
    methods = [name for name in GAP_METHODS if any(method == name for method, _ in cells)]
    rows = [(GAP_METHODS[method], *(gap_cell(cells.get((method, at), [])) for at in columns)) for method in methods]
    return markdown(("method", *labels), rows)


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
        f"data: {', '.join(f'`{Path(name).name}`' for name in data)}; runs of commits {commits_of(jobs)}."
    )


def gap_order(column: str) -> tuple[bool, str, float]:
    """Return what columns such as `none`, `gravity=0.5`, `halfcheetah-replay-100k:0.1` are sorted by."""
    name, _, value = column.replace("=", ":").partition(":")
    return column != "none", name, float(value or 0)


def sac_sb3(result: Result) -> str:
    """Return last evaluation and area under the curve of SAC, ours and Stable-Baselines3's, on every task."""
    cells: dict[tuple[str, str], list[Result]] = {}
    for job, figures in sorted(result["jobs"].items()):
        task, agent, _ = job.split("/")
        cells.setdefault((task, agent), []).append(figures)
    rows = []
    for (task, agent), runs in cells.items():
        final, area = ([run[name] for run in runs] for name in ("final", "area"))
        minutes = " ".join(number(run["minutes"]) for run in runs)
        each = (with_interval(final), " ".join(map(number, final)), with_interval(area), " ".join(map(number, area)))
        rows.append((task, agent, f"{runs[0]['steps']:,}", *each, minutes))
    header = ("task", "agent", "steps", "return at the end", "by seed", "mean of all evaluations", "by seed", "minutes")
    return f"{markdown(header, rows)}\n\nRuns of commits {commits_of(result['jobs'].values())}."


def commits_of(cells: Iterable[Result]) -> str:
    """Return the commits that jobs were run at."""
    return ", ".join(sorted({f"`{cell['commit'][:10]}`" for cell in cells}))


def dmc_sac(result: Result) -> str:
    """Return the last evaluation of SAC on every task, and the public returns at as many environment steps."""
    cells: dict[str, list[Result]] = {}
    for job, figures in sorted(result["jobs"].items()):
        cells.setdefault(job.split("/")[0], []).append(figures)
    rows = []
    for task, runs in cells.items():
        pairs = [run["final"] for run in runs], runs[0]["public_sac"]
        each = [text for values in pairs for text in (with_interval(values), " ".join(map(number, values)))]
        rows.append((task, *each, " ".join(number(run["minutes"]) for run in runs)))
    header = ("task", "return", "by seed", "public SAC", "by seed", "minutes")
    return markdown(header, rows)


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


def throughput(result: Result) -> str:
    """Return speeds of SAC, ours and its peers', and of the replay."""
    training, replay = result["training"], result["replay"]
    peers, sample = training["versions_of_peers"], replay["microseconds"]
    names = {
        "ours": "Surefoot, native engine",
        "bf16": "Surefoot, `--precision bf16`",
        "eager": "Surefoot, `--engine eager`",
        "sb3": f"Stable-Baselines3 {peers.get('sb3', '')}",
        "sbx": f"SBX {peers.get('sbx', '')} (JAX)",
        "floor": "the matrix products of one update alone, by PyTorch",
    }
    compared = {"ratio_to_ours": "time ÷ ours, of each round", "ratio_to_bf16": "time ÷ ours in bf16"}
    rows: list[tuple[Any, ...]] = []
    for name, label in names.items():
        if name not in training["milliseconds_per_step"]:
            continue
        ratios = [spread(training[to][name]) if name in training.get(to, {}) else "" for to in compared]
        rows.append(
            (label, training["steps_per_second"].get(name, ""), training["milliseconds_per_step"][name], *ratios)
        )
    threads = f"SAC on HalfCheetah-v5, {training['threads']} thread{'s' * (training['threads'] > 1)}"
    cpu = "CPU " * (training["threads"] == 1)
    parts, in_bf16 = (parts_of(training.get(f"milliseconds_of_{name}", {})) for name in ("ours", "bf16"))
    table = markdown((threads, f"steps per {cpu}second", f"{cpu}ms per step", *compared.values()), rows)
    in_bf16 = f" In bf16: {in_bf16}." if in_bf16 else ""
    notes = f"Medians of {training['rounds']} rounds. Of our step, {cpu}ms: {parts}.{in_bf16}"
    of_rows = f"A sample of 256 from a replay of a million rows ({replay['megabytes']} MB) takes {sample['ours']} µs"
    return f"{table}\n\n{notes} {of_rows}, Stable-Baselines3's {sample['sb3']}."


def parts_of(milliseconds: Result) -> str:
    return ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in milliseconds.items())


def spread(of: Result, middle: str = "median") -> str:
    return f"{of[middle]} ({of['low']} to {of['high']})"


def engine_speed(result: Result) -> str:
    """Return the time per update of every agent: eager, native, its floor, and with products in bf16."""
    rows = [
        (
            name,
            of["eager"],
            of["native"],
            spread(of, "ratio"),
            of["floor"],
            spread(of["above_floor"], "ratio"),
            of.get("native-bf16", ""),
            bf16_of(of),
        )
        for name, of in result["agents"].items()
    ]
    header = (
        "CPU ms per update, one thread",
        "eager",
        "native",
        "eager ÷ native, of each round",
        "floor",
        "native ÷ floor",
        "bf16",
        "native ÷ bf16",
    )
    return markdown(header, rows)


def bf16_of(figures: Result) -> str:
    return spread(figures["bf16"], "ratio") if "bf16" in figures else ""


def bf16_learning(result: Result) -> str:
    """Return last evaluation and area under the curve in float32 and in bf16 on every task, and their difference."""
    rows = []
    for task in dict.fromkeys(job.split("/")[0] for job in result["jobs"]):
        runs = {
            precision: {
                job.split("/")[2]: of for job, of in result["jobs"].items() if job.startswith(f"{task}/{precision}/")
            }
            for precision in ("float32", "bf16")
        }
        for precision, by_seed in runs.items():
            final, area = ([of[name] for of in by_seed.values()] for name in ("final", "area"))
            steps = f"{next(iter(by_seed.values()))['steps']:,}"
            each = " ".join(map(number, final)), with_interval(area), " ".join(map(number, area))
            rows.append((task, precision, steps, with_interval(final), *each))
        both = [seed for seed in runs["float32"] if seed in runs["bf16"]]
        apart = [[runs["bf16"][s][name] - runs["float32"][s][name] for s in both] for name in ("final", "area")]
        rows.append(
            (task, "bf16 − float32, seed by seed", "", with_interval(apart[0]), "", with_interval(apart[1]), "")
        )
    header = ("task", "products", "steps", "return at the end", "by seed", "mean of all evaluations", "by seed")
    return markdown(header, rows)


def seed_stack(result: Result) -> str:
    """Return the steps per second of seeds side by side, and in turn."""
    rows = [
        (name, of["seeds"], of["in_turn"], of["stacked"], f"{of['ratio']} ({of['low']} to {of['high']})")
        for name, cases in result["jobs"].items()
        for of in cases
    ]
    header = ("", "seeds", "updates per CPU second, in turn", "one stacked update", "ratio, of each round")
    return markdown(header, rows)


def checkpoints(result: Result) -> str:
    """Return what a checkpoint with a large replay costs, in blocks and whole."""
    names = {"blocks": "in blocks", "whole": "all rows in every file"}
    rows = [
        (name, f"{of['cpu_seconds']} ({of['least']} to {of['most']})", of["megabytes"], of["loading"])
        for name, of in ((names[way], result[way]) for way in names)
    ]
    header = (f"a replay of {result['rows']:,} rows", "CPU-seconds to save", "MB written", "CPU-seconds to load")
    return markdown(header, rows)


def start(result: Result) -> str:
    """Return what every command costs before it does anything."""
    of_torch = result["cpu_seconds"]["`import torch`"]["median"]
    rows = [
        (name, of["median"], f"{of['least']} to {of['most']}", f"{of['median'] / of_torch:.2f}")
        for name, of in result["cpu_seconds"].items()
    ]
    return markdown(("CPU-seconds", "median", "least to most", "÷ `import torch`"), rows)


PARTS_OF_LOOP = {
    "bare environment": "`gymnasium.make`, a bare step",
    "environment": "the environment's step",
    "interaction": "sums of the running episode",
    "act": "act",
    "push": "push",
    "sample": "sample",
    "step": "noise of the update, and the agent's Python",
    "meter": "metrics",
    "around": "all but the update",
    "update": "update",
}


def loop_parts(result: Result) -> str:
    """Return what the parts of a step cost after an update and without updates, and how they compare to a bare task."""
    taken, ratio = result["microseconds"], result["ratio_to_bare"]
    rows = [
        (
            name,
            spread(taken[part]["without"]) if part != "update" else "",
            spread(taken[part]["with"]),
            spread(ratio[part]["with"]) if part in ratio else "",
        )
        for part, name in PARTS_OF_LOOP.items()
    ]
    return markdown(("CPU µs", "without updates", "after an update", "÷ the bare step, of each round"), rows)


def data_reading(result: Result) -> str:
    """Return what reading a large file of recorded data costs."""
    took = f"{result['cpu_seconds']} ({result['least']} to {result['most']})"
    header = ("rows", "CPU-seconds to read them", "growth of peak memory ÷ what they take")
    return markdown(header, [(f"{result['rows']:,}", took, result["peak"])])


def kills(result: Result) -> str:
    """Return, of all agents and of each, how many kills its runs have survived, and what became of them."""
    names = ("trials", "kills", "early", "between", "late", "lost", "unequal", "leaks")
    jobs = result["jobs"]
    rows = [(f"all {len(jobs)}", *(sum(job[name] for job in jobs.values()) for name in names))]
    rows += [(name, *(job[key] for key in names)) for name, job in jobs.items()]
    moments = ("before the first checkpoint", "between", "after the last")
    header = ("agent", "runs", "kills", *moments, "lost", "unequal", "processes left")
    return markdown(header, rows)


def resumes(result: Result) -> str:
    """Return, of all agents and of each, how many variants of a run were the same run after a stop."""

    def row(name: str, outcomes: list[str]) -> tuple[Any, ...]:
        equal, refused = outcomes.count("equal"), outcomes.count("refused")
        return name, len(outcomes), equal, refused, len(outcomes) - equal - refused

    jobs = {name: list(job.values()) for name, job in result["jobs"].items()}
    whole = row(f"all {len(jobs)}", [outcome for job in jobs.values() for outcome in job])
    header = ("agent", "variants", "equal to the last bit", "refused in a line", "unequal or lost")
    return markdown(header, [whole, *(row(name, job) for name, job in jobs.items())])


def two_writers(result: Result) -> str:
    """Return what became of two processes that resumed one run at the same moment."""
    return markdown(tuple(result["jobs"]["sac"]), [tuple(result["jobs"]["sac"].values())])


def soak(result: Result) -> str:
    """Return how much of what runs hold grew after they had warmed up."""
    sums, worst = ("hours", "cpu_hours", "steps", "leaks"), ("worst_growth_percent", "more_files", "more_threads")
    rest = ("megabytes", *worst, "leaks")
    jobs = result["jobs"]
    whole = {key: sum(of[key] for of in jobs.values()) for key in sums}
    whole |= {key: max(of[key] for of in jobs.values()) for key in worst} | {"megabytes": ""}
    rows = [
        (name, *(f"{of[key]:.2f}" for key in sums[:2]), f"{of['steps']:,}", *(of[key] for key in rest))
        for name, of in [(f"all {len(jobs)}", whole), *jobs.items()]
    ]
    more = ("worst growth (%)", "more open files", "more threads", "processes left")
    return markdown(("agent", "hours", "CPU hours", "steps", "MB", *more), rows)


def wrong_lines(result: Result) -> str:
    """Return how many wrong command lines were refused."""
    header = ("wrong lines", "refused", "in one line", "lines of the longest answer", "of these as processes, too")
    names = ("lines", "refused", "one_line", "longest", "own_processes")
    return markdown(header, [tuple(f"{result[name]:,}" for name in names)])


def hostile_files(result: Result) -> str:
    """Return, of all readers and of each, what became of changed files."""
    names = ("trials", "refused", "read", "tracebacks", "hangs", "crashes", "outside")
    jobs = result["jobs"]
    rows = [(f"all {len(jobs)}", *(sum(job[name] for job in jobs.values()) for name in ("minutes", *names)))]
    rows += [(name, *(job[key] for key in ("minutes", *names))) for name, job in jobs.items()]
    header = ("reader", "minutes", "files", "refused", "read", "tracebacks", "hangs", "dead processes", "led elsewhere")
    return markdown(header, [(name, f"{at:.1f}", *(f"{count:,}" for count in counts)) for name, at, *counts in rows])


def grid_speed(result: Result) -> str:
    """Return the speeds over a grid, in parallel and one environment after another, in wall-clock and CPU time."""
    rows: list[tuple[Any, ...]] = []
    for name, speed in result["steps_a_second"].items():
        ratio = result["ratio"].get(name.removeprefix("grid, ").removesuffix(" threads"), {"wall": 1, "cpu": 1})
        name = name.replace(" 1 threads", " 1 thread")
        rows.append((name, speed["wall"], ratio["wall"], speed["cpu"], ratio["cpu"], speed["cores"]))
    physics = result["mujoco_rollout_physics_only"]
    rows.append(("`mujoco.rollout`, physics only", physics["wall"], "", physics["cpu"], "", physics["cores"]))
    memory = "; ".join(f"{grid}: {peak} MB" for grid, peak in result["peak_mb"].items())
    speeds = ("steps per second", "ratio", "steps per CPU second", "ratio", "cores it got")
    header = ("HalfCheetah, 10 x 10 points", *speeds)
    return markdown(header, rows) + f"\n\nLargest process with a grid of {memory}."


def worlds(result: Result) -> str:
    """Return the speed and memory of both backends against the number of worlds; of a CPU by its own time alone."""
    parts, gpu = result["parts"], result["device"] != "CPU"
    speed = "steps_per_second" if gpu else "steps_per_cpu_second"
    unit = "control steps per second" if gpu else "control steps per second of CPU time"
    header = (
        f"HalfCheetah on {result['device']}, backend",
        "worlds",
        unit,
        "GPU MB" if gpu else "peak MB of the process",
    )
    rows = [
        (part["backend"], f"{part['worlds']:,}", f"{part[speed]:,}", part.get("gpu_mb", part.get("peak_mb")))
        for name, part in parts.items()
        if name.startswith("speed") and "error" not in part
    ]
    same, error = parts["determinism"]["the_same_bit_for_bit"], parts["equality"]["largest_error_after_10_steps"]
    notes = [
        f"Largest error against C after ten steps {error:.0e}",
        f"two runs {'the same' if same else 'not the same'}",
    ]
    if "cpu_seconds" in parts["compile"] and parts["compile"]["fresh_cache"]:
        notes.append(f"{parts['compile']['cpu_seconds']} s of CPU time until the first step, kernels compiled")
    return markdown(header, rows) + f"\n\n{'; '.join(notes)}."


def worlds_against_c(result: Result) -> str:
    """Return how the difference of Warp to C grows beside C's to itself, where it arises, and what Newton does."""

    def of(part: str) -> list[tuple[str, dict[str, Any]]]:
        return [(name.removeprefix(f"{part}, "), one) for name, one in result["jobs"].items() if part in name]

    rows = []
    for name, one in of("growth"):
        at = [f"{one[who][step]:.0e}" for who in ("warp", "c_rounded") for step in (1, 10, 40)]
        ratios = (one["size_ratio"], one["growth_ratio"])
        both = f"{one['size_ratio_with_mass']:.1f}"
        rows.append((name, *at, *(f"{x:.1f}" for x in ratios), "yes" if min(ratios) <= 2 else "**no**", both))
    header = ("Warp to C after 1 step", "10", "40", "C to itself, rounded, after 1", "10", "40")
    more = ("most times as large", "most times the growth", "one is at most 2", "as large as C, its mass too")
    tables = [markdown(("task", *header, *more), rows), _rounding(of("rounding"))]
    return "\n\n".join([*tables, *(_solvers(name, one) for name, one in of("solvers"))])


def _rounding(jobs: list[tuple[str, dict[str, Any]]]) -> str:
    """Return what one physics step changes differently in Warp, and in C with one thing rounded."""
    causes = ("condition", "acceleration")
    who = ("mass_error", "warp", "with_warps_mass", "with_single_mass", "rounded_state")
    forces = ("distance_error", "forces_warp", "forces_with_both")
    rows = [
        (
            name,
            *(f"{one[key]:,.0f}" for key in causes),
            *(f"{one[key]:.1e}" if key in one else "–" for key in (*who, *forces)),
        )
        for name, one in jobs
    ]
    of_mass = ("condition of the mass matrix", "largest acceleration", "Warp's mass matrix off by")
    changes = ("C with Warp's mass matrix", "C, mass matrix rounded to single precision", "C, state rounded by 1e-7")
    contacts = ("contacts off by (m)", "outer forces off C: Warp", "C with Warp's mass matrix and contacts")
    return markdown(("task", *of_mass, "a physics step off C: Warp", *changes, *contacts), rows)


def _solvers(name: str, one: dict[str, Any]) -> str:
    """Return what a policy earns with each solver, and how far one control step leads from C with Newton."""

    def spread(mean: float, error: float) -> str:
        return f"{number(mean, 1)} ± {error:.1f}"

    step, rows = one["one_step"], []
    for who in dict.fromkeys([*one["returns"], *(key for key in step if "," in key)]):
        earned, apart = one["returns"].get(who), step.get(who, {})
        means = [spread(*earned["mean"]), spread(*earned["less_c_with_pgs"])] if earned else ["", ""]
        steps = [" / ".join(f"{x:.0e}" for x in apart.get(part) or ()) for part in ("contact", "none")]
        rows.append((who, *means, *steps))
    touching = f"from {step['in_contact']} states in contact", f"from {step['states'] - step['in_contact']} without"
    header = (f"{name}, {one['episodes']} episodes", "mean return ± standard error", "less C, PGS, from the same start")
    return markdown((*header, *(f"velocity off C, Newton, a step {where} (median / 95%)" for where in touching)), rows)


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


def model_works(result: Result) -> dict[str, str]:
    """Return what is timed of a dynamics model, in words."""
    return {
        "update": "one update of 7 members",
        "training_call": f"a training call, {result['epochs']} epochs of {result['rows']} rows",
        "rollouts": "100 000 one-step rollouts",
    }


def dynamics_speed(result: Result) -> str:
    """Return the time of an update, of a training call and of a rollout in every way, relative to the stack's."""
    rows = []
    for threads in (name for name in result if name.endswith(("thread", "threads"))):
        for work, text in model_works(result).items():
            ways = result[threads][work]
            first = next(iter(ways.values()))
            for way, took in ways.items():
                ratios = [number(took[kind] / first[kind], 2) for kind in ("cpu", "least_wall")]
                rows.append((f"{text}: {way}", threads, number(took["cpu"]), number(took["wall"]), *ratios))
    header = ("milliseconds", "threads", "CPU", "wall", "CPU / first", "least wall / first")
    return markdown(header, rows)


def mbpo_update_speed(result: Result) -> str:
    """Return the time of an update in every variant relative to sd."""
    ways = result["milliseconds"]
    first = next(iter(ways.values()))
    rows = [(way, number(took["cpu"], 1), number(took["cpu"] / first["cpu"], 2)) for way, took in ways.items()]
    return markdown(("an update of batch 256", "CPU milliseconds", "ratio"), rows)


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
        updates = " ".join(dict.fromkeys(f"{cell['updates']:,}" for cell in cells))
        others = [with_interval([cell[key] for cell in cells]) for key in ("average", "nominal")]
        seconds = [number(np.mean([cell["cpu_seconds"][part] for cell in cells])) for part in ("training", "curve")]
        published = PUBLISHED_WORST.get(name, {}).get(method, "")
        kept = [cell["kept"]["worst"] for cell in cells if "kept" in cell]
        each = tuple(" ".join(map(number, of)) for of in (worst, kept))
        size = thousands(cells[0]["steps"]), updates
        rows.append((method, *size, with_interval(worst), *each, published, *others, *seconds))
    header = (
        "method",
        "steps",
        "updates",
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
    beside = f" The searches of IWOCS played {thousands(np.mean(searched))} steps a run besides." if searched else ""
    return f"{markdown(header, rows)}\n\nRuns of commits {commits_of(cells)}.{beside}{public_policies(name)}"


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


ZOO_REASONS = {
    "ars/Walker2d-v3": "the archive was trained for 10 million steps, the published policy for 75 million; a program "
    "of NumPy alone gets 1613 ± 598 from it on v4 with Gymnasium 0.29 and MuJoCo 2.3.7.",
}


def zoo_reason(name: str) -> str:
    """Return why the return of a public policy is not the published one: what it is in the bodies of its time."""
    path = RESULTS / "zoo_older.json"
    jobs = json.loads(path.read_text(encoding="utf-8"))["jobs"] if path.is_file() else {}
    if name not in jobs:
        return ZOO_REASONS.get(name, "not explained.")
    job = jobs[name]
    return (
        f"with the masses that MuJoCo gave capsules until 2.1.1 it earns {number(job['mean'])} ± {number(job['std'])} "
        f"({job['episodes']} episodes), which {'agrees' if job['agrees'] else 'does not agree either'}."
    )


def zoo(result: Result) -> str:
    """Return what each public policy earns here and where it was published; a sentence for those that differ."""
    rows, differs = [], []
    for name, job in sorted(result["jobs"].items()):
        published, compared = job["published"], job.get("library", {})
        means = [f"{number(m['mean'])} ± {number(m['std'])}" for m in (published, job)]
        difference = compared.get("largest_difference")
        same = "" if difference is None else f"{difference:.0e}"
        rows.append((name, job["task"], *means, "yes" if job["agrees"] else "no", same, f"`{job['sha256'][:8]}`"))
        if not job["agrees"]:
            differs.append(f"- {name}: {zoo_reason(name)}")
    header = ("policy", "run on", "published", "here", "agrees", "largest difference of an action", "SHA-256")
    summary = f"{sum(job['agrees'] for job in result['jobs'].values())} of {len(rows)} agree."
    return "\n".join([markdown(header, rows), "", summary, *(["", *differs] if differs else [])])


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


def key_values(result: Result) -> str:
    """Return every single figure of a result file that has no table of its own."""
    figures = {key: value for key, value in result.items() if key not in PROVENANCE}
    return markdown(("figure", "value"), flatten(figures))


def hnpg_lock(result: Result) -> str:
    """Return, a lock and method, when each seed was solved and how it ended."""
    rows = [
        (
            job,
            cell["seeds"],
            f"{cell['curve']['env_steps'][-1] // 1000}k",
            " ".join(thousands(steps) for steps in cell["solved_at"]),
            " ".join(thousands(steps) for steps in cell["first_above_half"]),
            " ".join(number(rate, 2) for rate in cell["last10_success"]),
            number(max(cell["last10_on_policy_loss"]), 3),
            number(max(cell["last10_offline_loss"]), 3) if "last10_offline_loss" in cell else "",
            number(max(cell["largest_kl"]), 4) if "largest_kl" in cell else "",
            number(cell["cpu_seconds"]),
            f"`{cell['commit'][:10]}`",
        )
        for job, cell in result["jobs"].items()
    ]
    losses = ("on-policy loss", "offline loss", "largest KL")
    last = ("success, last 10 iterations", *losses, "CPU s", "commit")
    return markdown(("lock / method", "seeds", "samples", "solved at (MA50)", "first above ½", *last), rows)


def nora_deep(result: Result) -> str:
    """Return, per job, when each seed first succeeded, how it ended and how often its critic was refreshed."""
    rows = [
        (
            job,
            cell["episodes"],
            " ".join(map(str, (first or "never" for first in cell["first_success"]))),
            " ".join(number(total, 2) for total in cell["last20"]),
            " ".join(map(str, cell["refreshes"])) if any(cell["refreshes"]) else "",
            " ".join(number(seconds) for seconds in cell["cpu_seconds"]),
        )
        for job, cell in result["jobs"].items()
    ]
    header = ("task", "episodes", "first success in episode", "return, last 20 episodes", "refreshes", "CPU s")
    return markdown(header, rows)


def thousands(steps: float | None) -> str:
    return "—" if steps is None else f"{steps / 1000:.0f}k"


def hnpg_speed(result: Result) -> str:
    """Return CPU seconds of an outer iteration, and each as a multiple of one stacked seed."""
    names = {
        "plain": "plain loop, V(s) sample by sample",
        "plain_batched_values": "plain loop, V(s) in batches",
        "stacked_1_seeds": "stacked, 1 seed",
        "stacked_2_seeds": "stacked, 2 seeds",
        "stacked_5_seeds": "stacked, 5 seeds",
    }
    seconds = result["cpu_seconds"]
    one = seconds["stacked_1_seeds"]
    rows = [(text, number(seconds[name], 3), number(seconds[name] / one, 2)) for name, text in names.items()]
    return markdown(("one outer iteration, H = 10, batch 1000", "CPU seconds", "ratio"), rows)


def hnpg_stationary(result: Result) -> str:
    """Return each seed's mean return at every evaluation."""
    places = len(next(iter(result["returns"]["hnpg"].values())))
    rows = [
        (agent, *(" ".join(number(curve[i]) for curve in curves.values()) for i in range(places)))
        for agent, curves in result["returns"].items()
    ]
    rows.append(("the data", *[number(result["data_return"])] * places))
    return markdown(("agent", *(f"at {(i + 1) * 20}k" for i in range(places))), rows)


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
BANDITS = ("neufastcb", "neusquarecb", "neural-ucb, ν = 0.1", "neural-ucb, ν = 0.001", "neural-ts, ν = 0.1")
BANDITS += ("neural-ts, ν = 0.001", "ee-net", "ε-greedy, ε = 0.05", "ε-greedy on losses", "greedy")
BANDITS += ("contextual-linucb", "linear-squarecb", "uniform")


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
    targets = markdown(("target returns", "mean distance from the target", "by seed", "slope of mean in target"), rows)
    means = [
        (name, number(median(jobs["mean"], name), 3), seeds(jobs["mean"], name, 3))
        for name in ("dhn", "qr-dqn")
        if "mean" in jobs
    ]
    neutral = markdown(("FORK for the mean (optimum 1.997)", "mean return", "by seed"), means)
    return "\n\n".join((dhn_tails(jobs), targets, neutral))


def dhn_tails(jobs: Result) -> str:
    """Return one row per task and τ."""
    rows = []
    for name, optima in TAIL_OPTIMA.items():
        runs = jobs.get(name, [])
        for tau, optimum in zip(runs[0]["tau"] if runs else (), optima, strict=bool(runs)):
            cells = [run["tau"][tau] for run in runs]
            figures = [number(median(cells, key), 3) for key in ("achieved", "predicted", "mean", "length")]
            rows.append((f"{name}, CVaR at {tau}", number(optimum, 3), *figures, seeds(cells, "achieved", 3)))
    return markdown(("task", "exact", "achieved", "predicted", "mean return", "steps", "achieved by seed"), rows)


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
        ("task and objective", "exact", "achieved", "predicted", "achieved by seed", "predicted by seed"), rows
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


def nora_regret(result: Result) -> str:
    """Return, per cell, the regret, the reference, the regret per episode at the end, the slope and the switches.

    The reference: docs/derivations/nora.md §12.1, docs/derivations/nora.md §12.2 and docs/derivations/nora.md §12.3.
    """
    rows = [
        (
            name,
            cell["episodes"],
            f"{figure(cell['regret']['mean'])} ± {figure(cell['regret']['error'])}",
            f"{figure(cell['regret']['low'])} … {figure(cell['regret']['high'])}",
            number(cell["reference"], 1 if (cell["reference"] or 0) % 1 else 0),
            number(cell["last_tenth"]["mean"], 3),
            number(cell["slope"], 2),
            f"{number(cell['switches']['low'])} … {number(cell['switches']['high'])}",
        )
        for name, cell in result["cells"].items()
    ]
    header = ("cell", "T", "regret", "range", "reference", "an episode, last tenth", "slope", "plans")
    return markdown(header, rows) + f"\n\n{result['replicates']} replicates each; mean ± standard error."


def figure(value: float) -> str:
    return number(value, 0 if abs(value) >= 100 else 1 if abs(value) >= 0.05 else 2)


def nora_tetris(result: Result) -> str:
    """Return the reward per step at the start and the end of every method, beside docs/derivations/nora.md §12.4."""
    rows = [
        (
            name,
            number(cell["reward_a_step"][0], 3),
            number(cell["reward_a_step"][1], 3),
            number(cell["reference"], 3),
            f"{number(cell['switches']['low'])} … {number(cell['switches']['high'])}",
            number(cell["greedy"], 2),
            number(cell["reference_greedy"], 1),
        )
        for name, cell in result["cells"].items()
    ]
    header = (
        "method",
        "reward per step, first 10 episodes",
        "last 50",
        "reference, last 50",
        "plans",
        "V of the last greedy policy",
        "reference",
    )
    return markdown(header, rows) + f"\n\n{result['replicates']} replicates each; greedy: of the first."


def nora_speed(result: Result) -> str:
    """Return the seconds of one call and of the loops over seeds, and how many times ours theirs are."""
    names = {
        "one_call": f"{result['seeds_in_one_call']} seeds in one call",
        "numpy_loop": "NumPy loop over as many seeds, vectorised over states",
        "plain_loop": "NumPy loop over as many seeds, one state and action at a time",
    }
    rows = [
        (
            text,
            number(result[name]["seconds"], 1),
            number(result[name]["cpu_seconds"], 1),
            number(result[name]["cpu_seconds"] / result["one_call"]["cpu_seconds"], 1),
            number(result[name]["regret"], 1),
        )
        for name, text in names.items()
    ]
    return markdown(("path", "seconds", "CPU seconds", "ratio", "regret"), rows)


def sweep_overhead(result: Result) -> str:
    """Return the seconds of the same runs by hand and by each engine, as multiples of the ideal."""
    hand = result["by_hand"]
    rows = [("half the sum of the runs: the ideal", number(hand["ideal"]), "1")]
    rows.append(("by hand, two at a time", number(hand["seconds"]), number(hand["seconds"] / hand["ideal"], 2)))
    for engine in ("local", "ray"):
        if engine in result:
            cell = result[engine]
            rows.append((f"`--engine {engine}`, start-up included", number(cell["seconds"]), number(cell["ratio"], 2)))
    return markdown((f"{result['runs']} runs of {number(hand['a_run'])} s", "seconds", "ratio"), rows)


# --- Lipschitz MBRL ---------------------------------------------------------------------------------------------------

MBPO_VARIANTS = ("sd", "rr", "sn", "sp", "pe", "de")


def by_setting(result: Result) -> dict[str, list[Result]]:
    """Return the results of each variant or setting, seed by seed, variants first."""
    settings: dict[str, list[Result]] = {variant: [] for variant in MBPO_VARIANTS}
    for job in sorted(result["jobs"]):
        settings.setdefault(job.split("/")[1], []).append(result["jobs"][job])
    return {name: cells for name, cells in settings.items() if cells}


def span(values: Sequence[float], digits: int = 0) -> str:
    """Return median, least and most."""
    if len(values) == 1:
        return number(values[0], digits)
    return (
        f"{number(float(np.median(values)), digits)} ({number(min(values), digits)} to {number(max(values), digits)})"
    )


def lipschitz_mbrl_pendulum(result: Result) -> str:
    """Return variants, their expected directions (docs/derivations/lipschitz_mbrl.md §14.1), times, and the sweep."""
    settings = by_setting(result)
    variants = {name: cells for name, cells in settings.items() if name in MBPO_VARIANTS}
    sweep = {name: settings[name] for name in ("sd", "rr", "sn") if name in settings}
    sweep |= {name: cells for name, cells in settings.items() if name not in MBPO_VARIANTS}
    parts = [smoothness(variants, "variant"), directions(variants), times(variants), smoothness(sweep, "setting")]
    return "\n\n".join(part for part in parts if part)


def at(cell: Result, name: str, step: int) -> float:
    """Return what was measured after so many learned steps; NaN where the run did not get there."""
    return cell[name][cell["steps"].index(step)] if step in cell["steps"] else float("nan")


def between(cell: Result, name: str, first: int = 1000, last: int = 2500) -> float:
    """Return the mean of the measurements from one learned step to another."""
    return float(np.mean([x for step, x in zip(cell["steps"], cell[name], strict=True) if first <= step <= last]))


def smoothness(settings: dict[str, list[Result]], kind: str) -> str:
    """Return slopes, value-aware error and last return of each setting: median, least and most of its seeds."""
    slopes = {"lip_local": 0, "lip_upper": 2, "lip_ball": 0, "q_std": 0, "action_gap": 2}
    errors = {"value_aware_error": 2, "value_aware_error_relative": 2, "model_error": 3}
    rows = [
        (
            name,
            len(cells),
            *(span([at(cell, metric, 2000) for cell in cells], digits) for metric, digits in slopes.items()),
            *(span([between(cell, metric) for cell in cells], digits) for metric, digits in errors.items()),
            span([cell["returns"][-1] for cell in cells]),
        )
        for name, cells in settings.items()
    ]
    named = ("ln value-aware error", "relative to var V", "model error / std")
    return markdown((kind, "seeds", *(f"{name} at 2000" for name in slopes), *named, "last return"), rows)


def directions(variants: dict[str, list[Result]]) -> str:
    """Return what must come out beside what did, seed by seed: docs/derivations/lipschitz_mbrl.md §14.1."""
    if not {"sd", "rr", "sn", "sp", "pe"} <= set(variants):
        return ""

    def each(variant: str, name: str, of: Callable[[Result, str], float], minus: bool = False) -> str:
        pairs = zip(variants[variant], variants["sd"], strict=False)
        values = [of(a, name) - of(b, name) if minus else of(a, name) / of(b, name) for a, b in pairs]
        return " ".join(number(value, 2) for value in values)

    def at_2000(cell: Result, name: str) -> float:
        return at(cell, name, 2000)

    rows = [
        ("1. lip_local RR/SD at 2000", "≤ 0.8", each("rr", "lip_local", at_2000)),
        (
            "2. lip_upper SN at 2000",
            "3.30 ± 0.1",
            " ".join(number(at(c, "lip_upper", 2000), 2) for c in variants["sn"]),
        ),
        ("2. largest ‖∇Q‖ on D_env, SN", "≤ 29.7", " ".join(number(c["steepest_q"], 1) for c in variants["sn"])),
        *(
            (f"3. {name} {variant.upper()} − SD at 2000", "< 0", each(variant, name, at_2000, minus=True))
            for variant in ("pe", "sp")
            for name in ("lip_local", "lip_upper")
        ),
        ("4. ln value-aware error RR − SD", "< 0", each("rr", "value_aware_error", between, minus=True)),
        ("4. the same, SN − SD", "lower still", each("sn", "value_aware_error", between, minus=True)),
    ]
    return markdown(("direction", "expected", "by seed"), rows)


def times(variants: dict[str, list[Result]]) -> str:
    """Return CPU seconds of each variant by phase, and ratios of the sums over the seeds that both have."""
    phases: dict[str, Callable[[Result], float]] = {
        "all": lambda cell: cell["cpu_seconds"],
        "updates": lambda cell: cell["seconds"]["updates"],
        "rollouts": lambda cell: cell["seconds"]["rollouts"],
        "model": lambda cell: cell["seconds"]["model"],
        "epochs of the model": lambda cell: cell["model_epochs"],
        "model, ms per epoch": lambda cell: 1000 * cell["seconds"]["model"] / cell["model_epochs"],
    }
    rows: list[tuple[Any, ...]] = [
        (variant, *(span([of(cell) for cell in cells], int(phase == "rollouts")) for phase, of in phases.items()))
        for variant, cells in variants.items()
    ]
    for above, below in (("rr", "pe"), ("sd", "pe"), ("sn", "sd"), ("rr", "sd"), ("pe", "sd")):
        if above in variants and below in variants:
            pairs = list(zip(variants[above], variants[below], strict=False))
            ratios = [sum(of(a) for a, _ in pairs) / sum(of(b) for _, b in pairs) for of in phases.values()]
            rows.append((f"{above.upper()}/{below.upper()}", *(number(ratio, 2) for ratio in ratios)))
    return markdown(("CPU seconds", *phases), rows)


def lipschitz_mbrl_inverted_pendulum(result: Result) -> str:
    """Return when each run first had nothing but 1000, and every evaluation."""
    rows = []
    for setting, cells in by_setting(result).items():
        for seed, cell in enumerate(cells):
            steps = (f"{(i + 1) * cell['evaluate_every']}" for i, x in enumerate(cell["returns"]) if x == 1000)
            returns = " ".join(number(x) for x in cell["returns"])
            rows.append((f"{setting}, seed {seed}", next(steps, "never"), returns, number(cell["cpu_seconds"])))
    return markdown(("InvertedPendulum-v5", "first 1000 at step", "mean return at each evaluation", "CPU s"), rows)


# Mean returns of MBPO on Hopper at its first steps, from the logs of x35f/model_based_rl (Hopper-v3, one seed):
# docs/derivations/lipschitz_mbrl.md §12.
X35F_HOPPER = {6: 204, 7: 323, 8: 167, 9: 10, 10: 1003, 11: 1018, 12: 196, 13: 1003, 14: 241, 15: 331, 16: 223, 17: 332}


def lipschitz_mbrl_hopper(result: Result) -> str:
    """Return the returns of every run at each thousand steps and a log of another MBPO, then what was measured."""
    settings = by_setting(result)
    first = 6  # thousands of steps: the first 5000 are random
    longest = max(len(cell["returns"]) for cells in settings.values() for cell in cells)
    columns = range(first, longest + 1)
    rows = [("MBPO of x35f, 1 seed", *(X35F_HOPPER.get(k, "") for k in columns))]
    for variant, cells in settings.items():
        for k, cell in enumerate(cells):
            known = [number(x) for x in cell["returns"][first - 1 :]]
            rows.append((f"{variant}, seed {k}", *known, *[""] * (len(columns) - len(known))))
    table = markdown(("return at step", *(f"{k}k" for k in columns)), rows)
    return f"{table}\n\n{hopper_diagnostics(settings)}"


def hopper_diagnostics(settings: dict[str, list[Result]], step: int = 8000) -> str:
    """Return slopes and errors after as many learned steps as every run has, and seconds for 1000 of them."""
    slopes = {"lip_local": 0, "lip_upper": 2, "lip_ball": 0, "q": 0, "q_std": 0, "action_gap": 1, "model_error": 3}
    errors = ("value_aware_error", "value_aware_error_relative")
    rows = []
    for variant, cells in settings.items():
        learned = [(cell["env_steps"] - 5000) / 1000 for cell in cells]
        seconds = (
            " ".join(number(cell["seconds"][phase] / k, 1) for cell, k in zip(cells, learned, strict=True))
            for phase in ("updates", "model")
        )
        rows.append(
            (
                variant,
                *(" ".join(number(at(cell, name, step), digits) for cell in cells) for name, digits in slopes.items()),
                *(" ".join(number(between(cell, name, 1000, step), 2) for cell in cells) for name in errors),
                *seconds,
            )
        )
    header = ("", *(f"{name} at {step}" for name in slopes), "ln value-aware error", "relative to var V")
    return markdown((*header, "seconds of updates", "of the model, per 1000 steps"), rows)


def mbpo_update_speed_gpu(result: Result) -> str:
    """Return updates per second of every variant, eager, compiled and captured, and the speed-up over eager."""
    ways = result["milliseconds"]
    rows = []
    for way, took in ways.items():
        variant = way.split(", as a CUDA graph")[0].removesuffix(", compiled")
        rate = took["updates_per_second"]
        faster = number(rate / ways[variant]["updates_per_second"], 1)
        rows.append((way, number(took["wall"], 2), number(rate), faster))
    return markdown(("an update of batch 256", "milliseconds", "updates per second", "× eager"), rows)


def dynamics_speed_gpu(result: Result) -> str:
    """Return the time of an update, a training call and a rollout in every way, and the plain way's multiple of it."""
    rows = []
    for work, text in model_works(result).items():
        ways = result["1 thread"][work]
        plain = ways.get("plain, one after another")
        for way, took in ways.items():
            times = number(plain["wall"] / took["wall"], 1) if plain else ""
            rows.append((f"{text}: {way}", number(took["wall"], 1), times))
    return markdown(("", "milliseconds", "plain / this"), rows)


NOTICED = ("killed", "timed out")


def mutants(result: Result) -> str:
    """Return what became of the mutants of every file, the survivors that matter, and those that do not with why."""
    known = yaml.safe_load((ROOT / "benchmarks" / "mutants.yaml").read_text(encoding="utf-8"))["accepted"]
    reasons = {(x["file"], x["where"], x["before"], x["after"]): x["reason"] for x in known}
    left = [(file, each) for file, done in sorted(result["jobs"].items()) for each in survivors(done)]
    reason = lambda file, each: reasons.get((file, each["where"], each["before"], each["after"]))  # noqa: E731
    rows, total = [], np.zeros(4, int)
    for file, done in sorted(result["jobs"].items()):
        fine = sum(reason(file, each) is not None for each in survivors(done))
        made, alive = len(done["mutants"]), len(survivors(done))
        total += (made, made - alive, fine, alive - fine)
        rows.append((f"`{file}`", done["places"], made, made - alive, fine, alive - fine))
    rows.append((f"{len(rows)} files", sum(done["places"] for done in result["jobs"].values()), *total))
    parts = [markdown(("file", "places", "mutants", "noticed", "need not be", "survive"), rows)]
    for title, wanted in (("Survivors that a test should notice", False), ("Survivors that need not be noticed", True)):
        lines = [
            (f"`{file}` `{each['where']}`", code(each["before"]), code(each["after"]), reason(file, each) or "")
            for file, each in left
            if (reason(file, each) is not None) == wanted
        ]
        header = ("where", "before", "after", "why")[: 4 if wanted else 3]
        if lines:
            parts.append(f"**{title}**\n\n{markdown(header, [line[: len(header)] for line in lines], right=False)}")
    return "\n\n".join(parts)


def survivors(done: Result) -> list[Result]:
    return [each for each in done["mutants"] if each["outcome"] not in NOTICED]


def code(text: str) -> str:
    return f"`{text}`".replace("|", "\\|")


def zoo_stress(result: Result) -> str:
    """Return a row per policy, task by task, by what is left at the worst point; then what was refused."""
    jobs = {name: job for name, job in result["jobs"].items() if "refused" not in job}
    ordered = sorted(jobs.items(), key=lambda item: (item[1]["task"], -item[1]["worst"]["mean"]))
    rows = [
        (
            job["task"],
            name.partition("/")[0],
            with_span(job["nominal"]),
            with_span(job["average"]),
            with_span(job["worst"]),
            number(job["worst"]["cvar"]),
            where_of(job["worst"]["at"]),
            f"{job['worst']['fell'] + job['worst']['diverged']} of {job['worst']['episodes']}",
            job.get("episodes", job["budget"]),
            f"`{job['sha256'][:12]}`",
        )
        for name, job in ordered
    ]
    header = (
        "task",
        "policy",
        "nominal",
        "average",
        "worst",
        "CVaR 10% there",
        "where",
        "falls there",
        "episodes",
        "SHA-256",
    )
    cpu = sum(job["cpu_seconds"] for job in jobs.values())
    refused = [f"{name}: {job['refused']}" for name, job in result["jobs"].items() if "refused" in job]
    notes = f"{len(jobs)} policies, {cpu / 60:.0f} CPU minutes in all."
    commits = sorted({job["commit"][:10] for job in jobs.values() if "commit" in job})
    if len(commits) > 1:
        notes += f" Policies were measured one by one, at the commits {', '.join(f'`{one}`' for one in commits)}."
    left_out = f" Not opened: {'; '.join(refused)}." if refused else ""
    return f"{markdown(header, rows, right=False)}\n\n{notes}{left_out}"


def where_of(point: dict[str, float]) -> str:
    """Return a point of an uncertainty set; one of many parameters is in the result file alone."""
    if len(point) > 4:
        return f"{len(point)} parameters at once"
    return ", ".join(f"`{key}` {value:.3g}" for key, value in point.items())


def zoo_stress_ours(result: Result) -> str:
    """Return a row per policy of ours: what it was trained for, and what is left at its worst point."""
    rows = [
        (
            job["task"],
            name.partition("/")[0],
            f"{job['step']:,}",
            job["training_cpu_seconds"],
            *(with_span(job[part]) for part in ("nominal", "average", "worst")),
            number(job["worst"]["cvar"]),
            f"{job['worst']['fell'] + job['worst']['diverged']} of {job['worst']['episodes']}",
            job["episodes"],
        )
        for name, job in sorted(result["jobs"].items(), key=lambda item: (item[1]["task"], -item[1]["worst"]["mean"]))
    ]
    trained = ("task", "agent", "training steps", "CPU seconds of training")
    header = (*trained, "nominal", "average", "worst", "CVaR 10% there", "falls there", "episodes")
    return markdown(header, rows, right=False)


def with_span(sample: Result) -> str:
    """Return a mean and its interval."""
    low, high = sample["interval"]
    return f"{number(sample['mean'])} [{number(low)}, {number(high)}]"


def stress_coverage(result: Result) -> str:
    """Return, a kind of policy, the share whose worst case its interval covers, and how wide that is."""
    kinds = {"all": result}
    kinds |= {f"noise: {name}": one for name, one in result["by_noise"].items()}
    kinds |= {f"shape: {name}": one for name, one in result["by_shape"].items()}
    kinds |= {f"parameters: {name}": one for name, one in result["by_parameters"].items()}
    rows = [
        (
            name,
            f"{one['covered']:.1%}",
            one["truth_below"],
            one["truth_above"],
            one["median_width"],
            one["median_width_of_mean"],
            one["median_gap"],
        )
        for name, one in kinds.items()
    ]
    header = (
        "policies",
        "covered",
        "truth below it",
        "above it",
        "median width",
        "of which the mean's own",
        "the found point lies above the worst by",
    )
    return (
        f"{markdown(header, rows)}\n\n{result['policies']} policies of a nominal return of about 1000, "
        f"{result['budget']} episodes each; gap and widths are medians. The interval of the found point's mean alone "
        f"would cover {result['mean_only']:.1%}, one as wide around the least mean of the search "
        f"{result['least_mean_of_the_search']:.1%}."
    )


def stress_speed(result: Result) -> str:
    """Return the cost of a map, of one environment after another, and the floor."""
    rows = [
        ("side by side", result["microseconds_of_cpu_a_step"], result["cpu_seconds"]),
        ("MuJoCo's step alone: the floor", *result["floor"].values()),
        ("one environment after another", result["one_by_one"]["microseconds_of_cpu_a_step"], ""),
    ]
    text = (
        f"By CPU time {result['ratio_of_cpu']} × as fast as one after another, by the clock {result['ratio_of_wall']} ×"
    )
    return (
        f"{markdown((result['map'], 'µs of CPU a step', 'CPU seconds'), rows)}\n\n{text} ({result['wall_seconds']} s)."
    )


RENDERERS: dict[str, Callable[[Result], str]] = {
    "demo": demo,
    "grid_speed": grid_speed,
    "kills": kills,
    "resumes": resumes,
    "two_writers": two_writers,
    "soak": soak,
    "worlds": worlds,
    "worlds_against_c": worlds_against_c,
    "wrong_lines": wrong_lines,
    "hostile_files": hostile_files,
    "iwocs": iwocs,
    "sepsis": sepsis,
    "iwocs_exact": iwocs_exact,
    "iwocs_oracles": iwocs_oracles,
    "iwocs_swing_up": iwocs_swing_up,
    "h2o_pendulum": h2o_pendulum,
    "hnpg_lock": hnpg_lock,
    "hnpg_speed": hnpg_speed,
    "hnpg_stationary": hnpg_stationary,
    "lipschitz_mbrl_hopper": lipschitz_mbrl_hopper,
    "lipschitz_mbrl_inverted_pendulum": lipschitz_mbrl_inverted_pendulum,
    "lipschitz_mbrl_pendulum": lipschitz_mbrl_pendulum,
    "nora_deep": nora_deep,
    "nora_long": nora_regret,
    "nora_short": nora_regret,
    "nora_speed": nora_speed,
    "nora_tetris": nora_tetris,
    "stress_coverage": stress_coverage,
    "stress_speed": stress_speed,
    "zoo_stress": zoo_stress,
    "zoo_stress_ours": zoo_stress_ours,
    "sac_sb3": sac_sb3,
    "dmc_sac": dmc_sac,
    "h2o_table": h2o_table,
    "simulator_gap": simulator_gap,
    "simulator_gap_pairs": simulator_gap_pairs,
    "simulator_gap_corrections": simulator_gap_corrections,
    "sweep_overhead": sweep_overhead,
    "robust_curves": robust_curves,
    "iwocs_ablations": iwocs_ablations,
    "zoo": zoo,
    "throughput": throughput,
    "throughput_2_threads": throughput,
    "checkpoints": checkpoints,
    "start": start,
    "loop_parts": loop_parts,
    "data_reading": data_reading,
    "engine_speed": engine_speed,
    "bf16_learning": bf16_learning,
    "seed_stack": seed_stack,
    "dynlin_ucb_systems": dynlin_ucb_systems,
    "dynlin_ucb_sensitivity": dynlin_ucb_sensitivity,
    "bandit_real_doubling": bandit_real_doubling,
    "bandit_real_radius": bandit_real_radius,
    "bandit_real_bias": bandit_real_bias,
    "bandit_real_logs": bandit_real_logs,
    "bandit_real_replay": bandit_real_replay,
    "dynlin_ucb_ball": dynlin_ucb_ball,
    "dynlin_ucb_full": dynlin_ucb_full,
    "dynlin_speed": dynlin_speed,
    "neural_bandits": neural_bandits,
    "neural_bandits_speed": neural_bandits_speed,
    "dynamics_speed": dynamics_speed,
    "dynamics_speed_gpu": dynamics_speed_gpu,
    "mbpo_update_speed": mbpo_update_speed,
    "mbpo_update_speed_gpu": mbpo_update_speed_gpu,
    "mutants": mutants,
    "dhn": dhn,
    "dhn_cartpole": dhn_cartpole,
    "dhn_horizon": dhn_horizon,
    "minatar": minatar,
    "dhn_speed": dhn_speed,
    "dvi_speed": dvi_speed,
}


VIEWS = {  # tables that are another view of a result file
    "iwocs_ablations": "iwocs",
    "simulator_gap_pairs": "simulator_gap",
    "simulator_gap_corrections": "simulator_gap",
}


# --- Markdown ---------------------------------------------------------------------------------------------------------


def flatten(value: Any, name: str = "") -> Iterator[tuple[str, str]]:
    """Yield (dotted name, value) of every number and text in nested mappings; lists of records stay in the file."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield from flatten(item, f"{name}.{key}".lstrip("."))
    elif not isinstance(value, list):
        yield name, str(value)
    elif not any(isinstance(item, dict | list) for item in value):
        yield name, ", ".join(map(str, value))


def markdown(
    header: Sequence[str], rows: Iterator[tuple[Any, ...]] | Sequence[tuple[Any, ...]], right: bool = True
) -> str:
    """Return a Markdown table; columns after the first are set right."""
    lines = [header, ["---", *["---:" if right else "---"] * (len(header) - 1)], *rows]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)


def number(value: float | None, digits: int = 0) -> str:
    return "" if value is None else f"{value:.{digits}f}".replace("-", "−")


def provenance(result: Result) -> str:
    """Return the line under a table: what it takes to get the same numbers."""
    hardware = result["hardware"]
    machine = f"{hardware['cpus']} CPUs ({hardware['processor']})" + (f", {hardware['gpu']}" if hardware["gpu"] else "")
    commit = f"commit `{(result['commit'] or 'unknown')[:10]}`" + (" with changes" if result["dirty"] else "")
    seeds = f"seed{'s' * (len(result['seeds']) > 1)} {', '.join(map(str, result['seeds']))}"
    return f"`python {result['command']}`; {commit}; {machine}; {seeds}; {result['minutes']:g} minutes."


if __name__ == "__main__":
    sys.exit(tyro.cli(main))
