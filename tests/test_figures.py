"""Every figure says task, physics, seeds, what its band is, and units: all functions that draw one, by enumeration."""

import ast
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure

from surefoot.agents.distributional import solve
from surefoot.agents.distributional.dhn.equations import DHNConfig
from surefoot.agents.distributional.dhn.policy import make_policy
from surefoot.agents.interface import Spaces
from surefoot.agents.parts.tabular import TabularMDP
from surefoot.envs import SETS, EnvConfig, Physics, make_vec, spaces_of
from surefoot.evaluation.figures import curves, distributions, maps, robustness
from surefoot.evaluation.figures.caption import Caption, caption_of_policy, task_with_dynamics
from surefoot.evaluation.objectives import measure_objectives
from surefoot.evaluation.stress.measure import stress
from surefoot.evaluation.uncertainty_grid import GridResult
from surefoot.training.config.presets import default_config, load_preset
from surefoot.training.report import figures as report
from surefoot.training.report import stress_figures
from surefoot.training.report.data import gather
from surefoot.training.report.numbers import COMMON, Nominal, ParameterMap, improvements
from surefoot.training.report.records import Measurements
from surefoot.training.runs import folder as run_folder

ROOT = Path(__file__).resolve().parents[1]
HEAVY = EnvConfig("Pendulum-v1", Physics(gravity=2.0))
COUNTED = ("environment steps", "gradient updates", "rounds", "fraction of", "probability", "initial stock")


# --- an example of every figure ---------------------------------------------------------------------------------------


class Examples:
    """What to draw, and a method a figure; the names of the methods are those of the functions."""

    def __init__(self, make_run, folder):
        self.folder, self.out = folder, folder / "figures" / "a.png"
        self.runs = {
            "sac": [make_run(f"s{seed}", seed, HEAVY) for seed in range(2)],
            "other": [make_run("o", 4, HEAVY)],
        }
        self.caption = Caption("Pendulum-v1, gravity 2.0", "seeds 0, 1", "no band")
        self.bandit = run_folder.create(folder / "bandit", "linucb", load_preset("linucb", "s1"), None)
        rounds = np.array([1, 10, 100])
        np.savez(folder / "bandit" / "regret.npz", rounds=rounds, regret=rounds[:, None] * np.array([0.9, 1.1]))

    def policy(self):
        task = EnvConfig("surefoot/Fork-v0")
        small = DHNConfig(stock_range=(-5.0, 1.0), hidden=(8,), quantiles=4)
        policy = make_policy(small, Spaces(*spaces_of(task)))
        return policy, task, measure_objectives(policy, task, ["cvar(0.5)", "shortfall(0)"], episodes=50, seed=0)

    def grid(self, d, closed=False):
        one = SETS[("inverted-pendulum-1", "inverted-pendulum-2", "hopper-3")[d - 1]]
        axes, points = one.axes(3, closed=closed), one.grid(3, closed=closed)
        returns = np.random.default_rng(0).normal(size=(len(points), 2))
        broken = np.zeros(returns.shape, bool)
        broken[0] = True
        lengths = np.ones(returns.shape, np.int64)
        nominal = np.array([*one.high[:-1], one.high[-1] * 1.3])  # beyond the half-open grid
        return GridResult(one, axes, points, returns, lengths, broken, nominal, np.ones(2), np.ones(2), {})

    def cells(self):
        for agent, seed in (("sac", 0), ("sac", 1), ("td3-bc", 0), ("td3-bc", 1)):
            folder = self.folder / "report" / f"{agent}{seed}"
            config = replace(default_config(agent), env=HEAVY, seed=seed, steps=200)
            run_folder.create(folder, agent, config, None)
            run_folder.mark(folder, "finished", 1.0)
            (folder / "metrics.csv").write_text("step,seconds\n200,50\n")
            (folder / "evaluations.csv").write_text(f"step,episode_return,score\n100,1,\n200,{3 + seed},\n")
        return gather([self.folder / "report"])

    def learning_curves(self):
        curves.learning_curves(self.runs, self.out, references={"data": 1.0})

    def metric_panels(self):
        curves.metric_panels(self.runs, self.out, ["critic_loss"])

    def diagnostics(self):
        curves.diagnostics({label: runs[0] for label, runs in self.runs.items()}, self.out, ["critic_loss"])

    def regret_curves(self):
        curves.regret_curves({"linucb": self.folder / "bandit"}, self.out)

    def draw(self):
        for d in (1, 2, 3):
            maps.draw("sac", self.grid(d), self.out, self.caption)

    def draw_side_by_side(self):
        for d in (1, 2, 3):
            maps.draw_side_by_side(
                {"sac": self.grid(d), "sac/b": self.grid(d), "c": self.grid(d)}, self.out, self.caption
            )

    def parameter_map(self):
        result = self.grid(2)
        maps.parameter_map(
            self.out, {"mass": result.axes[0], "a_b": result.axes[1]}, "x", maps.surface(result), caption=self.caption
        )

    def parameter_maps(self):
        result = self.grid(1)
        maps.parameter_maps(self.out, {"mass": result.axes[0]}, {"x": maps.surface(result)}, caption=self.caption)

    def nominal_against_worst(self):
        points = [
            robustness.Point(
                f"task {k}", "abc"[k % 3], 100.0 * k + 300, 90.0 * k, (90.0 * k, 110.0 * k + 300), (0.0, 90.0 * k)
            )
            for k in range(9)
        ]
        robustness.nominal_against_worst(points, self.out, self.caption)

    def return_histograms(self):
        _, task, measured = self.policy()
        distributions.return_histograms(measured, self.out, caption_of_policy("x", task, None, (0,)))

    def grid_paths(self):
        policy, task, measured = self.policy()
        distributions.grid_paths(policy, task, measured, self.out, caption_of_policy("x", task, 3, (0,)), seed=0)

    def draw_objectives(self):
        policy, task, measured = self.policy()
        caption = caption_of_policy("dhn", task, 0, (10_000,))
        distributions.draw_objectives(policy, task, measured, caption, self.out, self.out, seed=0)

    def solution_distributions(self):
        task = EnvConfig("surefoot/Gate-v0")
        solution = solve(TabularMDP(*make_vec(task).tabular()), "cvar(0.5)", gamma=0.5, horizon=2, method="exact")
        distributions.solution_distributions([solution], self.out, task_with_dynamics(vars_of(task)))

    def report_learning_curves(self):
        return report.learning_curves(self.cells().cells, COMMON[-1])

    def report_improvement_bars(self):
        found = self.cells()
        return report.improvement_bars(improvements(found), found.methods, found.cells)

    def report_profiles(self):
        found = self.cells()
        values = {method.label: np.array([1.0, 2.0]) for method in found.methods}
        return report.profiles(values, found.methods, found.cells, "final return (sum of rewards)", "Pendulum-v1")

    def report_return_distributions(self):
        record = {"env": vars_of(HEAVY), "return": {"values": [1.0, 2.0, 5.0]}}
        cell = self.cells().cells[0]
        runs = tuple(replace(run, measurements=Measurements(single=[record])) for run in cell.runs)
        return report.return_distributions([replace(cell, runs=runs)], "Pendulum-v1, gravity 2.0")

    def report_heat_map(self):
        labels, cell = ("gravity (factor)", "mass (factor)"), self.cells().cells[0]
        axes = np.eye(2), [1.0, 2.0], [1.0, 3.0]
        found = ParameterMap(("gravity", "mass"), *axes, labels, Nominal(1.0, 4.0, 0.5), cell.runs)
        return report.heat_map(found, cell, "Pendulum-v1")

    def report_regret_curves(self):
        run_folder.mark(self.folder / "bandit", "finished", 1.0)
        (self.folder / "bandit" / "metrics.csv").write_text("step,seconds\n")
        (self.folder / "bandit" / "evaluations.csv").write_text("step,episode_return,score\n")
        return report.regret_curves(gather([self.folder / "bandit"]).cells)

    def stressed(self):
        """Two policies that do the same."""
        task = EnvConfig("surefoot/Pendulum-v0", Physics(gravity=2.0), max_episode_steps=3, num_envs=64)
        found = stress(lambda obs: obs[:, :1], task, [SETS["pendulum-2"]], budget=230)
        return [{"name": name, "agent": "sac", "training_seed": 0, **found} for name in ("a", "b")]

    def report_moments(self):
        task = EnvConfig("surefoot/Pendulum-v0", Physics(gravity=2.0), max_episode_steps=4, num_envs=64)
        found = stress(lambda obs: obs[:, :1], task, [SETS["pendulum-2"]], budget=230, moment=1)
        return stress_figures.moments([{"name": "a", "agent": "sac", "training_seed": 0, **found}], 0)

    def report_response_curves(self):
        return stress_figures.response_curves(self.stressed(), 0, 1)

    def report_pair_map(self):
        record = self.stressed()[0]
        return stress_figures.pair_map(record, record["sets"][0], 0, stress_figures.colour_limits([record]))

    def report_tail_distributions(self):
        return stress_figures.tail_distributions(self.stressed()[0])

    def report_nominal_and_worst(self):
        return stress_figures.nominal_and_worst(self.stressed())


def vars_of(task):
    return {**vars(task), "physics": vars(task.physics)}


def drawing_functions():
    """Return the names of all public functions that reach `write_figure`, or the report's `drawing`."""
    found = set()
    evaluation, reports = ROOT / "evaluation" / "figures", ROOT / "training" / "report"
    for path in [*sorted(evaluation.glob("*.py")), *sorted(reports.glob("*figures.py"))]:
        functions = [node for node in ast.parse(path.read_text()).body if isinstance(node, ast.FunctionDef)]
        called = {f.name: {getattr(n, "id", "") for n in ast.walk(f) if isinstance(n, ast.Name)} for f in functions}
        reached = {"write_figure", "drawing"}
        for _ in called:
            reached |= {name for name, names in called.items() if names & reached}
        prefix = "report_" if path.parent.name == "report" else ""
        public = [name for name in called if name in reached and not name.startswith("_")]
        found |= {prefix + name for name in public} - {"write_figure", "report_drawing"}
    return found


FUNCTIONS = sorted(drawing_functions())


def test_every_function_that_draws_has_an_example():
    examples = {name for name in vars(Examples) if not name.startswith("_")} - {"policy", "grid", "cells", "stressed"}
    assert set(FUNCTIONS) == examples
    assert len(FUNCTIONS) >= 18


def test_nothing_else_writes_a_figure():
    """The two gates take a caption; a `savefig` elsewhere would be a figure without one."""
    packages = ("agents", "envs", "evaluation", "training", "benchmarks", "api", "offline_data")
    files = [path for package in packages for path in (ROOT / package).rglob("*.py")]
    writing = {str(path.relative_to(ROOT)) for path in files if ".savefig(" in path.read_text()}
    assert writing == {"evaluation/figures/style.py", "training/report/figures.py"}


# --- what every one of them says --------------------------------------------------------------------------------------


@pytest.fixture
def drawn(monkeypatch, make_run, tmp_path):
    """Return a function that draws an example and returns its figures, laid out, each with its caption."""
    kept, save = [], Figure.savefig

    def keep(figure, *args, **settings):
        kept.append(figure)
        if settings["format"] == "svg":
            save(figure, *args, **settings)
        else:
            figure.draw_without_rendering()

    monkeypatch.setattr(Figure, "savefig", keep)
    monkeypatch.setattr(distributions, "WALKERS", 20)

    def draw(name):
        text = getattr(Examples(make_run, tmp_path), name)()
        words = re.findall(r"<figcaption>(.*?)</figcaption>", text or "")
        return list(zip(kept, words or [figure.get_suptitle() for figure in kept], strict=True))

    return draw


def labels(figure):
    """Return all axis labels, those of colour bars and of whole figures included."""
    own = [text for axes in figure.axes if axes.axison for text in (axes.get_xlabel(), axes.get_ylabel())]
    return [text for text in [*own, figure.get_supxlabel(), figure.get_supylabel()] if text]


@pytest.mark.parametrize("name", FUNCTIONS)
def test_every_figure_says_task_physics_seeds_band_and_units(name, drawn):
    found = drawn(name)
    assert found
    for figure, caption in found:
        assert re.search(r"\b(Pendulum-v1|surefoot/\w+-v0)", caption), caption
        assert re.search(r"gravity 2\.0|unmodified dynamics", caption), caption
        assert re.search(r"\bseeds?\b", caption), caption
        assert re.search(r"\b(band|interval)\b", caption), caption
        shown = labels(figure)
        assert shown or not any(axes.axison for axes in figure.axes)
        for label in shown:
            assert not re.search(r"_|\w\.\w", label), label
            assert re.search(r"\(.+\)", label, re.DOTALL) or label.startswith(COUNTED), f"{label}: no unit"
        for axes in figure.axes:
            logarithms = {axes.get_xlabel(): axes.get_xscale(), axes.get_ylabel(): axes.get_yscale()}
            assert all("log" in label for label, scale in logarithms.items() if scale == "log"), logarithms
        if not name.startswith("report_"):
            require_whole(figure)


def require_whole(figure):
    """Fail where a word is cut, or the legend covers a panel or its label."""
    texts = [figure._suptitle, *(text for legend in figure.legends for text in legend.get_texts())]
    axis_labels = [axes.xaxis.label for axes in figure.axes] + [axes.yaxis.label for axes in figure.axes]
    for text in [*texts, *axis_labels, *(axes.title for axes in figure.axes)]:
        box = text.get_window_extent()
        inside = box.x0 >= -1 and box.y0 >= -1 and box.x1 <= figure.bbox.width + 1 and box.y1 <= figure.bbox.height + 1
        assert inside or not text.get_text(), text
    for legend in figure.legends:
        box = legend.get_window_extent()
        assert not any(box.overlaps(axes.get_window_extent()) for axes in figure.axes)
        assert not any(box.overlaps(label.get_window_extent()) for label in axis_labels if label.get_text())
