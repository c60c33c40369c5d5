"""best.pt is the best policy by what the run is for: the return, the worst case of its set, or its objective."""

import dataclasses
import json
import types
from collections import defaultdict

import fake_agent
import numpy as np
import pytest
from fake_agent import FakeConfig
from sameness import assert_same_run, rows

from surefoot.envs import BatchedPerturbedEnvs, Physics, find_set
from surefoot.evaluation.episodes import EvalResult, make_act
from surefoot.evaluation.episodes import evaluate as evaluate_act
from surefoot.evaluation.policy_files import load_policy
from surefoot.evaluation.storage import load, save
from surefoot.evaluation.uncertainty_grid import worlds
from surefoot.training.cli.main import main
from surefoot.training.config.measure import measure_of
from surefoot.training.loop import evaluation
from surefoot.training.loop.best import Best, improves
from surefoot.training.loop.interrupt import StopRequest
from surefoot.training.loop.setup import resume
from surefoot.training.runs.folder import read_meta, write_meta
from surefoot.training.session import execute, train

pytestmark = pytest.mark.usefixtures("unrendered")

change = dataclasses.replace


@dataclasses.dataclass(frozen=True)
class ObjectiveConfig(FakeConfig):
    objective: str = "target(-25)"
    gamma: float = 0.9


@pytest.fixture
def for_objective(monkeypatch):
    """Make the fake agent one that maximises an objective."""
    spec = change(fake_agent.FAKE_SPEC, default=ObjectiveConfig(), goal="objective")
    monkeypatch.setattr(fake_agent, "FAKE_SPEC", spec)


@pytest.fixture
def robust(tiny):
    """Return a run in an uncertainty set, with five worlds and evaluations in another gravity than training's."""
    physics = Physics(action_noise=0.3)
    return change(tiny, uncertainty="pendulum-2", steps=300, seed=6, eval=change(tiny.eval, worlds=5, physics=physics))


def by_step(run, column):
    return {int(row["step"]): float(row[column]) for row in rows(run / "evaluations.csv")}


def means(run):
    table = rows(run / "evaluations.csv")
    steps = dict.fromkeys(int(row["step"]) for row in table)
    return {s: np.mean([float(row["episode_return"]) for row in table if int(row["step"]) == s]) for s in steps}


def highest(curve):
    return max(curve, key=lambda step: (curve[step], step))


def best_of(run):
    return load(run / "checkpoints" / "best.pt")["step"], read_meta(run)["best"]


def test_in_an_uncertainty_set_it_is_the_best_worst_case_and_the_return_is_as_without(tmp_path, robust):
    run = train("fake", robust, out=tmp_path, name="run")
    plain = train("fake", change(robust, uncertainty=None), out=tmp_path, name="plain")
    assert means(run) == means(plain)
    worst = by_step(run, "worst_case")
    assert len(worst) == 12
    assert all(worst[step] <= 0 for step in worst)
    assert highest(worst) != highest(means(run))  # else nothing is shown here
    record = {"measure": "worst case", "value": worst[highest(worst)], "step": highest(worst)}
    assert best_of(run) == (highest(worst), record | {"episodes": 2, "worlds": 5})
    means_of = means(plain)
    record = {"measure": "return", "value": means_of[highest(means_of)], "step": highest(means_of), "episodes": 2}
    assert best_of(plain) == (highest(means_of), record)
    assert "worst_case" not in rows(plain / "evaluations.csv")[0]


def test_the_worst_case_is_the_least_mean_return_in_the_worlds_and_the_dynamics_of_evaluations(tmp_path, robust):
    run = train("fake", change(robust, steps=60), out=tmp_path, name="run")
    step, record = best_of(run)
    points = worlds(find_set("pendulum-2"), 5, robust.eval.seed)
    envs = BatchedPerturbedEnvs(change(robust.env, physics=robust.eval.physics), find_set("pendulum-2"))
    returns = envs.play(make_act(load_policy(run, "best").policy), points, [1000, 1001]).returns
    assert record["value"] == pytest.approx(returns.mean(1).min(), abs=1e-9)
    assert by_step(run, "worst_case")[step] == record["value"]
    unperturbed = BatchedPerturbedEnvs(robust.env, find_set("pendulum-2"))
    assert unperturbed.play(make_act(load_policy(run, "best").policy), points, [1000, 1001]).returns.mean(1).min() != (
        pytest.approx(record["value"], abs=1e-6)
    )


def test_for_an_objective_it_is_the_best_objective_of_the_discounted_returns(tmp_path, tiny, for_objective):
    config = change(tiny, agent=ObjectiveConfig(), steps=300, eval=change(tiny.eval, episodes=8))
    run = train("fake", config, out=tmp_path, name="run")
    found = by_step(run, "objective")
    assert highest(found) != highest(means(run))
    step, record = best_of(run)
    assert record == {"measure": "target(-25)", "value": found[highest(found)], "step": highest(found), "episodes": 8}
    again = evaluate_act(
        make_act(load_policy(run, "best").policy), config.env, episodes=8, seed=config.eval.seed, gamma=0.9
    )
    assert record["value"] == pytest.approx(-np.abs(again.discounted + 25).mean(), abs=1e-9)
    assert -np.abs(again.returns + 25).mean() != pytest.approx(record["value"])
    assert step == highest(found)


def test_an_objective_goes_before_the_worst_case_which_is_measured_too(tmp_path, robust, for_objective):
    config = change(robust, agent=ObjectiveConfig(), steps=60)
    run = train("fake", config, out=tmp_path, name="run")
    assert measure_of("fake", config).name == "target(-25)"
    assert read_meta(run)["best"]["measure"] == "target(-25)"
    assert {"objective", "worst_case"} <= set(rows(run / "evaluations.csv")[0])


def test_of_equally_good_policies_the_later_is_kept_and_nan_never(tmp_path, tiny, monkeypatch):
    same = EvalResult(np.full(2, 7.0), np.full(2, 10), None, np.full(2, 7.0), np.zeros(2, bool))
    monkeypatch.setattr(evaluation, "evaluate", lambda *rest, **more: same)
    run = train("fake", tiny, out=tmp_path, name="run")
    assert best_of(run) == (60, {"measure": "return", "value": 7.0, "step": 60, "episodes": 2})
    nothing = types.SimpleNamespace(value=float("nan"))
    assert not improves(nothing, None)
    assert not improves(nothing, Best("return", -5.0, 1, {}))


def script_returns(monkeypatch, figures):
    """Let evaluations find the return of `figures` that belongs to their environment step."""
    found, evaluate = [], evaluation.evaluate

    def scripted(act, env, **rest):
        return evaluate(act, env, **rest)._replace(returns=np.full(2, figures[3 * found[-1].steps]))

    class Watched(fake_agent.Fake):
        def __init__(self, *args):
            super().__init__(*args)
            found.append(self)

    monkeypatch.setattr(fake_agent, "FAKE_SPEC", change(fake_agent.FAKE_SPEC, make_agent=Watched))
    monkeypatch.setattr(evaluation, "evaluate", scripted)


def test_a_run_whose_budget_is_extended_has_the_best_policy_of_the_longer_run(tmp_path, tiny, monkeypatch):
    """The last evaluation of the shorter run, here the best of all, is none of the longer one."""
    short = change(tiny, steps=60, eval=change(tiny.eval, every=40))
    script_returns(monkeypatch, defaultdict(float, {42: 1.0, 60: 9.0}))
    longer = change(short, steps=120)
    straight = train("fake", longer, out=tmp_path, name="straight")
    parts = train("fake", short, out=tmp_path, name="parts")
    assert best_of(parts)[0] == 60
    execute(resume(parts, "fake", longer), StopRequest())
    assert best_of(straight)[0] == best_of(parts)[0] == 42
    assert_same_run(straight, parts, 120)


def ended_by(curve, patience):
    """Return the step at which so many figures in a row were not above the highest before."""
    highest, waited = -np.inf, 0
    for step, value in curve.items():
        highest, waited = (value, 0) if value > highest else (highest, waited + 1)
        if waited == patience:
            return step
    return None


def test_patience_is_for_what_the_run_is_for(tmp_path, tiny, for_objective):
    config = change(tiny, agent=ObjectiveConfig(), steps=300, eval=change(tiny.eval, episodes=8))
    straight = train("fake", config, out=tmp_path, name="straight")
    expected = ended_by(by_step(straight, "objective"), 2)
    assert expected not in (None, 300, ended_by(means(straight), 2))  # else nothing is shown here
    stopped = train("fake", change(config, eval=change(config.eval, patience=2)), out=tmp_path, name="stopped")
    assert max(by_step(stopped, "objective")) == expected
    assert read_meta(stopped)["status"] == "finished"


def test_a_run_that_ended_early_goes_on_without_patience_as_the_same_run(tmp_path, tiny, monkeypatch, capsys):
    """An evaluation that is as good is no better: the second in a row ends the run, and an extension forgets that."""
    figures = {27: 1.0, 51: 3.0, 75: 3.0, 102: float("nan"), 120: 9.0}
    script_returns(monkeypatch, figures)
    longer = change(tiny, steps=120)
    straight = train("fake", longer, out=tmp_path, name="straight")
    impatient = change(longer, eval=change(tiny.eval, patience=2))
    parts = train("fake", impatient, out=tmp_path, name="parts")
    assert list(means(parts)) == [27, 51, 75, 102]
    assert (
        "before --steps 120: 2 evaluations were no better than 3 (return; --eval.patience)" in capsys.readouterr().out
    )
    execute(resume(parts, "fake", impatient), StopRequest())
    assert list(means(parts)) == [27, 51, 75, 102]
    execute(resume(parts, "fake", longer), StopRequest())
    assert list(means(parts)) == [*figures]
    assert best_of(straight)[0] == best_of(parts)[0] == 120
    assert_same_run(straight, parts, 120)


def test_a_run_in_a_set_is_resumed_as_the_same_run(tmp_path, robust):
    robust = change(robust, steps=90)
    straight = train("fake", robust, out=tmp_path, name="straight")
    parts = train("fake", change(robust, steps=33), out=tmp_path, name="parts")
    execute(resume(parts, "fake", robust), StopRequest())
    assert_same_run(straight, parts, 90)


def test_a_run_begun_by_an_older_version_goes_on_and_keeps_its_best_return(tmp_path, tiny):
    run = train("fake", tiny, out=tmp_path, name="run")
    path = run / "checkpoints" / "step-000000060.pt"
    state = load(path)
    kept = state.pop("best")
    state["counters"]["best_return"] = 1e9
    save(path, {name: value for name, value in state.items() if name != "format"})
    write_meta(run, {"best": None})
    resumed = resume(run, "fake", change(tiny, steps=120))
    assert (resumed.best.value, resumed.best.step) == (1e9, kept["step"] if kept else None)
    execute(resumed, StopRequest())
    assert best_of(run)[0] == resumed.best.step
    assert best_of(run)[0] <= 60


def test_evaluation_names_what_best_was_chosen_by_and_of_an_older_run_that_it_was_the_return(tmp_path, robust, capsys):
    run = train("fake", change(robust, steps=60), out=tmp_path, name="run")
    best = read_meta(run)["best"]
    capsys.readouterr()
    assert main(["evaluate", str(run), "--checkpoint", "best", "--episodes", "1"]) == 0
    line = f"{run}: best.pt was chosen by its worst case over 5 worlds, {best['value']:.4g} at step {best['step']}"
    assert line in capsys.readouterr().out
    meta = json.loads((run / "meta.json").read_text())
    meta.pop("best")
    (run / "meta.json").write_text(json.dumps(meta))
    assert main(["evaluate", str(run), "--checkpoint", "best", "--episodes", "1"]) == 0
    assert "best.pt was chosen by the mean return of an evaluation (a run of an older" in capsys.readouterr().out


def test_worlds_are_the_largest_grid_with_its_corners_and_then_random_points_of_the_seed():
    two, three = find_set("hopper-2"), find_set("hopper-3")
    np.testing.assert_array_equal(worlds(two, 16, 0), two.grid(4, closed=True))
    np.testing.assert_array_equal(worlds(three, 64, 0), three.grid(4, closed=True))
    found = worlds(three, 11, 5)
    np.testing.assert_array_equal(found[:8], three.grid(2, closed=True))
    np.testing.assert_array_equal(found, worlds(three, 11, 5))
    assert (worlds(three, 11, 6)[8:] != found[8:]).all()
    few = worlds(three, 7, 5)
    assert few.shape == (7, 3)
    assert ((few > three.low) & (few < three.high)).all()


def test_a_worst_case_of_one_world_is_refused(tiny):
    with pytest.raises(ValueError, match=r"--eval\.worlds is 1; it must be from 2 to 1,000,000"):
        change(tiny.eval, worlds=1)
