"""Draw the pictures of the pages that recorded results can make.

python benchmarks/render_figures.py
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter
from tables.h2o import GAP_METHODS
from tables.robust import by_set

from surefoot.agents.interface import Style
from surefoot.envs import BatchedPerturbedEnvs, EnvConfig, find_set
from surefoot.evaluation.figures.caption import UNMODIFIED, Caption, seeds_in_words, task_with_dynamics
from surefoot.evaluation.figures.maps import Surface, parameter_maps
from surefoot.evaluation.figures.robustness import Point, nominal_against_worst
from surefoot.evaluation.figures.style import legend_below, write_figure
from surefoot.evaluation.figures.words import MEAN_RETURN
from surefoot.evaluation.statistics import stratified_bootstrap

ROOT = Path(__file__).resolve().parents[1]
RESULTS, IMAGES = ROOT / "benchmarks" / "results", ROOT / "docs" / "images"
GRID = 10  # of benchmarks/robust_curves.py
WORLDS = {  # the first seed of each
    "iwocs": ("iwocs", 35),
    "m2td3": ("m2td3", 25),
    "dr-sac": ("dr-sac (domain randomisation)", 25),
    "nominal": ("sac in the nominal model", 25),
}
GRAVITY = (0.25, 0.5, 1.0, 2.0, 4.0)  # of benchmarks/simulator_gap.py
BANDIT_TASKS = {"digits": "digits: errors", "cosine": "cosine problem: regret"}
BANDIT_STYLES = {
    "neufastcb": Style("#D55E00", "-"),
    "neusquarecb": Style("#0072B2", "-"),
    "neural-ucb, ν = 0.1": Style("#009E73", "-"),
    "neural-ts, ν = 0.001": Style("#CC79A7", "-"),
    "ε-greedy, ε = 0.05": Style("#7F7F7F", "-"),
    "greedy": Style("#7F7F7F", ":"),
    "contextual-linucb": Style("#E69F00", "--"),
    "linear-squarecb": Style("#56B4E9", "--"),
}
REAL_RETURN = "real return (sum of rewards)"
GAP_STYLES = {  # a method's own colour; H2O's ablations in its colour
    "h2o": Style("#0072B2", "-"),
    "h2o-without-w": Style("#0072B2", "--"),
    "h2o-without-regulariser": Style("#0072B2", ":"),
    "sac-mix": Style("#56B4E9", "-"),
    "darc": Style("#CC79A7", "-"),
    "sac-sim": Style("#E69F00", "-"),
    "sac-offline": Style("#009E73", ":"),
    "cql": Style("#009E73", "-"),
    "bc": Style("#000000", "-"),
}
BACKBONES = {  # of benchmarks/sac_sb3.py
    "sac": ("SAC, ours", Style("#0072B2", "-")),
    "sb3-sac": ("SAC, Stable-Baselines3", Style("#E69F00", "--")),
}
EVALUATED = 5_000  # steps between two evaluations there
CURVE_STYLES = {  # of benchmarks/robust_curves.py
    "iwocs": Style("#D55E00", "-"),
    "dr-sac": Style("#0072B2", "-"),
    "m2td3": Style("#56B4E9", "-."),
    "rarl": Style("#CC79A7", "-."),
    "nominal": Style("#E69F00", "--"),
}


def draw_iwocs_worlds(results: Path = RESULTS, images: Path = IMAGES) -> Path:
    """Draw the mean returns of four methods over both masses of InvertedPendulum, from `robust_curves.json`."""
    jobs: dict[str, Any] = json.loads((results / "robust_curves.json").read_text(encoding="utf-8"))["jobs"]
    task, masses = EnvConfig("InvertedPendulum-v5"), find_set("inverted-pendulum-2")
    nominal = BatchedPerturbedEnvs(task, masses, num_envs=1).nominal
    axes = dict(zip(masses.param_names, masses.axes(GRID, closed=False), strict=True))
    cells = {method: jobs[f"{masses.name}/{method}/{seed}"] for method, (_, seed) in WORLDS.items()}
    surfaces = {WORLDS[method][0]: _surface(cell, nominal) for method, cell in cells.items()}
    trained = f"all but the nominal one trained in the uncertainty set {masses.name}"
    shows = f"mean over 5 episodes at each of {GRID} × {GRID} grid points (half-open); no band: no interval is drawn"
    seeds = f"the first seed of each: {', '.join(f'{method} {seed}' for method, (_, seed) in WORLDS.items())}"
    caption = Caption(f"{task_with_dynamics(asdict(task))}; {trained}", seeds, shows)
    return parameter_maps(images / "iwocs_worlds.png", axes, surfaces, caption=caption)


def draw_simulator_gap() -> Path:
    """Draw the real return of each method against the simulator's gravity, from `simulator_gap.json`."""
    every: dict[str, Any] = json.loads((RESULTS / "simulator_gap.json").read_text(encoding="utf-8"))["jobs"]
    own_data = {job: figures for job, figures in every.items() if job.count("/") == 2}
    jobs = {job: figures for job, figures in own_data.items() if job.startswith(("none/", "gravity="))}
    cells: dict[str, dict[str, list[float]]] = {}
    for job, figures in jobs.items():
        gap, method, _ = job.split("/")
        cells.setdefault(method, {}).setdefault(gap, []).append(figures["real"])
    figure = Figure(figsize=(7.5, 5.0), layout="constrained")
    axes = figure.add_subplot()
    for method, style in GAP_STYLES.items():
        if method in cells:
            marker = "os^Dv<>PX"[list(GAP_STYLES).index(method)]
            _draw_gap_line(axes, GAP_METHODS[method], style, marker, cells[method])
    axes.set_xscale("log", base=2)
    axes.set_xticks(GRAVITY, [f"{x:g}" for x in GRAVITY])
    axes.set_xlim(0.22, 4.5)
    _plain(axes)
    axes.set_xlabel("gravity of the simulator, as a multiple of the real one")
    axes.set_ylabel(REAL_RETURN)
    legend_below(figure, axes)
    seeds = seeds_in_words(sorted({int(job.split("/")[2]) for job in jobs}))
    shows = "small mark: a seed, mean of 20 episodes of its last policy; large mark: mean over the seeds that were run"
    task = "HalfCheetah-v5, evaluated in unmodified dynamics; data: sample:halfcheetah-demo"
    return write_figure(figure, IMAGES / "simulator_gap.png", Caption(task, seeds, f"{shows}; no band"))


def _draw_gap_line(axes: Axes, label: str, style: Style, marker: str, cells: dict[str, list[float]]) -> None:
    """Draw a method's seeds and their mean; one that sees no simulator is a level line."""
    color, dash = style
    if "none" in cells:
        axes.axhline(np.mean(cells["none"]), color=color, linestyle=dash, label=label, linewidth=1.2)
        return
    factors = sorted(float(gap.partition("=")[2]) for gap in cells)
    values = [cells[f"gravity={factor:g}"] for factor in factors]
    means = [np.mean(seeds) for seeds in values]
    axes.plot(factors, means, color=color, linestyle=dash, marker=marker, markersize=6, label=label)
    for factor, seeds in zip(factors, values, strict=True):
        axes.plot([factor] * len(seeds), seeds, linestyle="", marker=marker, markersize=3, color=color)


def draw_neural_bandits() -> Path:
    """Draw regret against rounds on data and where the optimum is known, from `neural_bandits.json`."""
    jobs: dict[str, Any] = json.loads((RESULTS / "neural_bandits.json").read_text(encoding="utf-8"))["jobs"]
    figure = Figure(figsize=(9.0, 5.2), layout="constrained")
    panels = figure.subplots(1, 2)
    for axes, (task, title) in zip(panels, BANDIT_TASKS.items(), strict=True):
        for method, (color, dash) in BANDIT_STYLES.items():
            curve = {name: np.array(values) for name, values in jobs[f"{task}/{method}"]["curve"].items()}
            axes.plot(curve["rounds"], curve["mean"], color=color, linestyle=dash, label=method)
            low, high = curve["mean"] - curve["se"], curve["mean"] + curve["se"]
            axes.fill_between(curve["rounds"], low, high, color=color, alpha=0.2, linewidth=0)
        axes.set_title(title)
        axes.set_xlabel("round")
        axes.set_ylabel("cumulative regret (excess loss)")
        _plain(axes)
    legend_below(figure, panels[0])
    shows = "line: mean over 10 replicates; band: one standard error"
    caption = Caption("surefoot/ContextualBandit-v0", seeds_in_words([0]), shows)
    return write_figure(figure, IMAGES / "neural_bandits.png", caption)


def draw_zoo() -> Path:
    """Draw nominal against worst case of the policies of `zoo_stress.json`, with ours of `zoo_stress_ours.json`."""
    points = sorted([*_stressed("zoo_stress"), *_stressed("zoo_stress_ours", ours=True)], key=lambda point: point.group)
    shows = (
        "panel: a task and its uncertainty set; point: a policy, ours with its training steps; worst: lowest mean "
        "return found in the set, on episodes that did not choose it; bar: 95% interval"
    )
    tasks = ", ".join(dict.fromkeys(point.group.partition(",")[0] for point in points))
    seeds = "unknown training seeds, ours 0, reset seeds from 10000"
    return nominal_against_worst(points, IMAGES / "zoo_stress.png", Caption(f"{tasks}, {UNMODIFIED}", seeds, shows))


def _stressed(name: str, *, ours: bool = False) -> list[Point]:
    """Return the points of a benchmark's policies, but of those that it refused."""
    path = RESULTS / f"{name}.json"
    jobs: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))["jobs"] if path.is_file() else {}
    return [
        Point(
            f"{job['task']}, {job['worst_set']}",
            job_name.partition("/")[0] + (f", {job['step'] // 1000}k steps" if ours else ""),
            *(job[part]["mean"] for part in ("nominal", "worst")),
            *(tuple(job[part]["interval"]) for part in ("nominal", "worst")),
            ours=ours,
        )
        for job_name, job in jobs.items()
        if "refused" not in job
    ]


def draw_sac_sb3(results: Path = RESULTS, images: Path = IMAGES) -> Path:
    """Draw the learning curves of SAC, ours and Stable-Baselines3's, a panel a task, from `sac_sb3.json`."""
    jobs: dict[str, Any] = json.loads((results / "sac_sb3.json").read_text(encoding="utf-8"))["jobs"]
    tasks = sorted({job.split("/")[0] for job in jobs})
    figure = Figure(figsize=(2.0 + 4.0 * len(tasks), 4.2), layout="constrained")
    panels = figure.subplots(1, len(tasks), squeeze=False)[0]
    for axes, task in zip(panels, tasks, strict=True):
        for agent, (label, (color, dash)) in BACKBONES.items():
            curves = np.array([cell["curve"] for job, cell in jobs.items() if job.startswith(f"{task}/{agent}/")])
            steps = EVALUATED * (1 + np.arange(curves.shape[1]))
            axes.plot(steps, curves.T, color=color, linestyle=dash, linewidth=0.6, alpha=0.6)
            axes.plot(steps, curves.mean(0), color=color, linestyle=dash, linewidth=2.0, label=label)
        _over_steps(axes, task)
    panels[0].set_ylabel(MEAN_RETURN)
    legend_below(figure, panels[0])
    shows = "thin line: a seed, mean return of 10 episodes; thick line: mean over the seeds; no band"
    seeds = seeds_in_words(sorted({int(job.split("/")[2]) for job in jobs}))
    return write_figure(figure, images / "sac_sb3.png", Caption(f"{', '.join(tasks)}, {UNMODIFIED}", seeds, shows))


def draw_robust_curves(results: Path = RESULTS, images: Path = IMAGES) -> Path:
    """Draw the worst case of each method against its steps, a panel a set, from `robust_curves.json`."""
    jobs: dict[str, Any] = json.loads((results / "robust_curves.json").read_text(encoding="utf-8"))["jobs"]
    sets = by_set({job: figures["curve"] for job, figures in jobs.items()})
    figure = Figure(figsize=(2.0 + 4.0 * len(sets), 5.0), layout="constrained")
    panels = figure.subplots(1, len(sets), squeeze=False)[0]
    for axes, (name, methods) in zip(panels, sets.items(), strict=True):
        for method in (one for one in CURVE_STYLES if one in methods):
            _draw_worst_case(axes, method, methods[method])
        _over_steps(axes, name)
    panels[0].set_ylabel(f"worst case over the grid,\n{MEAN_RETURN}")
    legend_below(figure, max(panels, key=lambda axes: len(axes.lines)))
    episodes = ", ".join(f"{next(iter(methods.values()))[0]['episodes']} in {name}" for name, methods in sets.items())
    single = [f"{one} in {name}" for name, methods in sets.items() for one in methods if len(methods[one]) == 1]
    alone = f"; one seed, no band: {', '.join(single)}" if single else ""
    shows = (
        f"lowest mean return of a point of the half-open grid, 10 values a parameter, from seeds that no training saw "
        f"(episodes a point: {episodes}); line: mean over seeds; band: its 95% bootstrap interval{alone}"
    )
    tasks = f"{', '.join(dict.fromkeys(find_set(name).env for name in sets))} in {', '.join(sets)}"
    seeds = seeds_in_words(sorted({int(job.split("/")[2]) for job in jobs}))
    return write_figure(figure, images / "robust_curves.png", Caption(tasks, seeds, shows))


def _draw_worst_case(axes: Axes, method: str, curves: list[dict[str, Any]]) -> None:
    """Draw the mean over a method's seeds, and its interval where there are two or more."""
    color, dash = CURVE_STYLES[method]
    steps, values = curves[0]["steps"], np.array([curve["worst"] for curve in curves])  # (T,), (seeds, T)
    marker = "os^Dv"[list(CURVE_STYLES).index(method)]
    axes.plot(steps, values.mean(0), color=color, linestyle=dash, marker=marker, markersize=4, label=method)
    if len(values) > 1:
        bands = [stratified_bootstrap([of], np.mean, generator=np.random.default_rng(0)) for of in values.T]
        low, high = np.array([band for band in bands if band]).T
        axes.fill_between(steps, low, high, color=color, alpha=0.2, linewidth=0)


def _over_steps(axes: Axes, title: str) -> None:
    """Let a panel be of learning curves."""
    axes.set_title(title)
    axes.set_xlabel("environment steps of training")
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    _plain(axes)


def _plain(axes: Axes) -> None:
    """Give a panel a light grid, and no frame at the top and on the right."""
    axes.grid(True, linewidth=0.5, alpha=0.4)
    axes.spines[["top", "right"]].set_visible(False)


def _surface(cell: dict[str, Any], nominal: np.ndarray) -> Surface:
    shape = GRID, GRID
    return Surface(np.reshape(cell["table"], shape), np.zeros(shape, dtype=bool), nominal, cell["nominal"])


if __name__ == "__main__":
    print(draw_iwocs_worlds())
    print(draw_zoo())
    print(draw_simulator_gap())
    print(draw_neural_bandits())
    print(draw_sac_sb3())
    if (RESULTS / "robust_curves.json").is_file():
        print(draw_robust_curves())
