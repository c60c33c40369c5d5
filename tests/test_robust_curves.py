"""Worst case against steps: the same budget for every method, a job that stops and goes on, its table and figure."""

import csv
import json
import sys
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from surefoot.training.config.presets import load_preset
from surefoot.training.loop.budget import settle

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"


@pytest.fixture
def curves(load_script):
    return load_script("robust_curves")


def configurations(curves, name, seed=20):
    """Return method and run of every job of a set with one seed."""
    methods = curves.COMPARISONS[name].methods
    return {method: curves.configuration(f"{name}/{method}/{seed}") for method in methods}


@pytest.mark.parametrize("name", ["inverted-pendulum-1", "inverted-pendulum-2", "halfcheetah-2"])
def test_methods_of_a_set_have_the_same_task_networks_and_budget(curves, name):
    comparison, found = curves.COMPARISONS[name], configurations(curves, name)
    preset = load_preset("iwocs", "demo" if "pendulum" in name else name)
    for method, config in found.items():
        agent = comparison.methods[method].agent
        _, plan = settle(agent, config)  # refuses lengths that do not go together
        assert (plan.steps, config.env) == (comparison.steps, preset.env)
        assert config.agent.updates_per_step == 1.0
        assert (config.agent.hidden, config.agent.gamma) == (preset.agent.hidden, preset.agent.gamma)
        assert config.agent.critic_lr == preset.agent.critic_lr
        assert config.uncertainty == (None if method == "nominal" else name)
        assert comparison.steps % config.checkpoint_every == 0
        warm_ups = 1 + (config.agent.iterations if method == "iwocs" else 0)
        # the first update follows the rollout that ends the warm-up
        least = comparison.steps - warm_ups * (config.agent.learning_starts + config.agent.rollout_steps)
        assert plan.updates is not None
        assert least <= plan.updates < comparison.steps


def test_iwocs_searches_the_grid_that_it_is_measured_on_by_the_rules_of_its_preset(curves):
    demo = load_preset("iwocs", curves.IWOCS_PRESET).agent
    for name in curves.COMPARISONS:
        agent = configurations(curves, name)["iwocs"].agent
        assert (agent.grid_n, agent.grid_closed) == (10, False)
        assert {rule: getattr(agent, rule) for rule in curves.RULES} == {
            rule: getattr(demo, rule) for rule in curves.RULES
        }
    assert configurations(curves, "inverted-pendulum-2")["iwocs"].agent == demo


def test_a_point_of_the_curve_is_the_first_policy_from_its_step_on(curves):
    # kept at 12 and 23, where steps are rounds of several, at 17, where the run was stopped, and at its end
    assert curves.policies_at([10, 20, 30, 40], [12, 17, 23, 26]) == [12, 23, 26, 26]


def test_the_policy_that_is_kept_is_chosen_by_other_episodes_than_it_is_reported_with(curves, monkeypatch):
    seen = {}

    def worst_of_each(folder, config, name, seeds):
        seen["chosen"] = set(seeds)
        return {10: 300.0, 20: 700.0, 30: 700.0, 40: 50.0}

    def evaluate_static(act, task, uncertainty, *, episodes, seeds, **_):
        seen["reported"] = set(range(*seeds, seeds[0] + 2 * episodes))  # as many again at the worst point
        point = np.array([690.0])
        return SimpleNamespace(
            mean=point, worst=0, points=point[None], fresh_returns=point, nominal_returns=point, returns=point[None]
        )

    monkeypatch.setattr(curves, "worst_of_each", worst_of_each)
    monkeypatch.setattr(sys.modules["worst_cases"], "evaluate_static", evaluate_static)
    monkeypatch.setattr(curves, "make_act", lambda policy: policy)
    monkeypatch.setattr(curves, "load_policy", lambda folder, step: SimpleNamespace(policy=seen.update(step=step)))
    name = "inverted-pendulum-2"
    kept = curves.kept_best(Path(), curves.configuration(f"{name}/rarl/25"), name)
    assert (seen["step"], kept["step"], kept["chosen_by"], kept["worst"]) == (30, 30, 700.0, 690.0)
    assert len(seen["chosen"]) == kept["episodes"]
    assert seen["chosen"].isdisjoint(seen["reported"])


def test_a_job_that_was_stopped_goes_on_as_if_it_was_not_and_is_recorded_once(
    curves, load_script, monkeypatch, tmp_path
):
    record, trained = load_script("record"), load_script("trained")
    monkeypatch.setattr(record, "RESULTS", tmp_path / "results")
    job, wholly = "inverted-pendulum-1/nominal/20", tmp_path / "whole"
    options = curves.Options(jobs=(job,), runs=wholly, steps=100)
    monkeypatch.setattr(curves, "PUBLISHED_GRID", 3)
    curves.main(options)
    whole = record.results_of(curves.NAME)[job]
    assert whole["curve"]["steps"] == list(range(10, 101, 10))
    assert (whole["steps"], whole["ended"], len(whole["table"])) == (100, 100, 3)
    folder = wholly / job.replace("/", "-")
    assert len(list(folder.glob("checkpoints/policy-*.pt"))) == 10
    with (folder / "metrics.csv").open() as file:
        assert whole["updates"] == int(list(csv.DictReader(file))[-1]["updates"]) > 80

    (record.RESULTS / f"{curves.NAME}.json").unlink()
    with monkeypatch.context() as patch:
        patch.setattr(trained, "stop_on_signals", stopping_after(35))
        with pytest.raises(SystemExit, match="goes on with it"):
            curves.main(replace(options, runs=tmp_path / "parts"))
    assert record.results_of(curves.NAME) == {}
    curves.main(replace(options, runs=tmp_path / "parts"))
    parts = record.results_of(curves.NAME)[job]
    same = ("curve", "kept", "worst", "table", "updates", "steps", "ended")
    assert {name: parts[name] for name in same} == {name: whole[name] for name in same}
    monkeypatch.setattr(curves, "train_to_the_end", None)  # whoever calls it fails
    curves.main(replace(options, runs=tmp_path / "again"))


class Stop:
    """A request to stop that comes after so many looks."""

    def __init__(self, looks):
        self.looks = looks

    def __bool__(self):
        self.looks -= 1
        return self.looks < 0


def stopping_after(looks):
    @contextmanager
    def stop_on_signals():
        yield Stop(looks)

    return stop_on_signals


def made_up(worst, **more):
    """Return what a job could have recorded."""
    curve = {"episodes": 2, "steps": [10, 20], "worst": [5.0, worst]}
    cost = {"cpu_seconds": {"training": 60.4, "curve": 8.0}, "commit": "0123456789abcdef", "minutes": 1.0}
    cell = {"steps": 96_000, "updates": 95_500, "curve": curve, "worst": worst, "average": 500.0, "nominal": 1000.0}
    return cell | cost | more


JOBS = {
    "inverted-pendulum-2/iwocs/20": made_up(900.0, updates=91_000, gate_updates=0, search_steps=3_000_000),
    "inverted-pendulum-2/iwocs/21": made_up(1000.0, updates=91_008, gate_updates=20_000, search_steps=1_000_000),
    "inverted-pendulum-2/iwocs-default-goes-on/20": made_up(1.0),  # stands elsewhere
    "inverted-pendulum-2/rarl/20": made_up(30.0, kept={"worst": 700.0}),
    "halfcheetah-2/nominal/20": made_up(-300.0, steps=200_000, kept={"worst": -250.0}),
}


def test_every_set_has_a_table_with_its_methods_from_the_best_on(load_script):
    tables = load_script("tables.robust")
    cheetah, pendulum = tables.robust_curves({"jobs": JOBS}).split("**inverted-pendulum-2**")
    rows = [line for line in pendulum.splitlines() if line.startswith("|")][2:]
    assert rows == [
        "| iwocs | 96k | 91,000 91,008 | 0 20,000 | 950 [900, 1000] | 900 1000 |  | 1000 ± 0 | 500 [500, 500] "
        "| 1000 [1000, 1000] | 60 | 8 |",
        "| rarl | 96k | 95,500 |  | 30 | 30 | 700 | 2 ± 0 | 500 | 1000 | 60 | 8 |",
    ]
    assert "The searches of IWOCS played 2000k steps a run besides." in pendulum
    assert "| nominal | 200k | 95,500 |  | −300 | −300 | −250 | −200 ± 2 |" in cheetah
    zoo = json.loads((BENCHMARKS / "results" / "zoo_stress.json").read_text())["jobs"]["sac/HalfCheetah-v3"]["worst"]
    assert f"sac/HalfCheetah-v3 {tables.number(zoo['mean'])} [" in cheetah
    assert "Public" not in pendulum


def test_the_figure_has_a_panel_a_set_a_line_a_method_and_a_band_where_there_are_seeds(
    load_script, monkeypatch, tmp_path
):
    render_figures = load_script("render_figures")
    drawn = []
    monkeypatch.setattr(render_figures, "write_figure", lambda figure, out, caption: drawn.append((figure, caption)))
    (tmp_path / "robust_curves.json").write_text(json.dumps({"jobs": JOBS}))
    render_figures.draw_robust_curves(tmp_path, tmp_path)
    ((figure, caption),) = drawn
    cheetah, pendulum = figure.axes
    assert [axes.get_title() for axes in figure.axes] == ["halfcheetah-2", "inverted-pendulum-2"]
    assert [line.get_label() for line in pendulum.lines] == ["iwocs", "rarl"]
    np.testing.assert_array_equal(pendulum.lines[0].get_xydata(), [[10, 5], [20, 950]])
    assert (len(pendulum.collections), len(cheetah.collections)) == (1, 0)
    corners = pendulum.collections[0].get_paths()[0].vertices
    assert (corners[:, 1].min(), corners[:, 1].max()) == (5, 1000)
    assert "episodes a point: 2 in halfcheetah-2" in caption.shows
    assert caption.shows.endswith("; one seed, no band: nominal in halfcheetah-2, rarl in inverted-pendulum-2")
    assert caption.seeds == "seeds 20, 21"
