"""What a policy achieves for an objective: values over all episodes, intervals, warnings, the command, figures."""

import json
from dataclasses import replace

import gymnasium as gym
import numpy as np
import pytest
import torch
from rich.console import Console

from surefoot import agents
from surefoot.agents.distributional import solve
from surefoot.agents.distributional.dhn.equations import DHNConfig
from surefoot.agents.distributional.dhn.policy import make_policy
from surefoot.agents.distributional.objectives import parse
from surefoot.agents.interface import Spaces
from surefoot.agents.parts.tabular import TabularMDP
from surefoot.envs import EnvConfig, Gate, spaces_of
from surefoot.evaluation import objectives, policy_files
from surefoot.evaluation.episodes import EvalResult
from surefoot.evaluation.figures import distributions
from surefoot.evaluation.figures.caption import Caption
from surefoot.evaluation.figures.distributions import count_moves, map_of, return_histograms, solution_distributions
from surefoot.evaluation.objectives import Measured, bootstrap, measure_objectives
from surefoot.evaluation.statistics import Interval
from surefoot.training.cli.main import main
from surefoot.training.comparison import objectives_table
from surefoot.training.config.presets import to_plain
from surefoot.training.config.run import EvalConfig, RunConfig
from surefoot.training.runs import folder as run_folder
from surefoot.training.session import train

GATE, FORK = EnvConfig("surefoot/Gate-v0"), EnvConfig("surefoot/Fork-v0")
CAPTION = Caption("gate", "seed 0", "")
SMALL = DHNConfig(stock_range=(-5.0, 1.0), gamma=0.5, hidden=(8,), quantiles=4, batch_size=8, learning_starts=8)
# GATE's distributions of G for the tail at τ = 1/2 (docs/derivations/distributional.md E1): risk at A; at B only if
# behind.
DISTRIBUTIONS = torch.tensor(
    [[[-1.5, -1.5, 3.0, 3.0], [-1.5, 3.0, 3.0, 3.0]], [[0.0] * 4, [-3.0, -3.0, 6.0, 6.0]], [[0.0] * 4, [0.0] * 4]]
)


@pytest.fixture
def exact():
    """Return a policy whose network has the exact distributions of GATE."""
    policy = make_policy(SMALL, Spaces(*spaces_of(GATE)))
    policy.net.forward = lambda obs, stock: DISTRIBUTIONS[obs.argmax(-1)]
    return policy


@pytest.fixture
def run(tmp_path):
    """Return the folder of a run of DηN on FORK that was never trained."""
    config, folder = RunConfig(SMALL, FORK), tmp_path / "run"
    run_folder.create(folder, "dhn", config, None)
    spaces = Spaces(*spaces_of(FORK))
    policy = agents.get("dhn").make_policy(config.agent, spaces)
    policy_files.save_policy(
        policy_files.checkpoint_path(folder, "policy", 7), to_plain("dhn", config), spaces, spaces.action, 7, policy
    )
    return folder


def test_the_exact_distributions_of_gate_give_its_best_tail_as_predicted(exact, capsys):
    (tail,) = measure_objectives(exact, GATE, ["cvar(1/2)"], episodes=8000, seed=0)
    assert (tail.predicted, tail.value) == (pytest.approx(0.75, abs=0.02), pytest.approx(0.75, abs=0.1))
    low, high = tail.interval
    assert low < 0.75 < high
    assert high - low < 0.25
    assert set(tail.returns.tolist()) == {-1.5, 3.0}  # discounted, and risk at B only when behind
    assert tail.lengths.tolist() == [2] * 8000
    assert not capsys.readouterr().err


def test_a_prediction_outside_of_the_interval_is_marked(exact):
    right, wrong = measure_objectives(exact, GATE, ["cvar(1/2)", "cvar(1)"], episodes=8000, seed=0)
    wrong = wrong._replace(predicted=wrong.interval.high + 0.01)
    nothing = wrong._replace(predicted=float("nan"))
    assert [m.misjudged for m in (right, wrong, nothing)] == [False, True, True]
    assert [objectives.plain(m)["misjudged"] for m in (right, wrong)] == [False, True]
    console = Console(width=80, record=True)
    console.print(objectives_table("gate", [right, wrong]))
    text = console.export_text()
    assert f"{wrong.predicted:.3f}!" in text
    assert f"{right.predicted:.3f} " in text
    assert "prediction lies outside of the interval: cvar(1)" in " ".join(text.split())


def test_one_episode_has_no_interval_and_no_prediction_is_called_wrong_by_it(exact, tmp_path):
    """The interval was [3, 3], or [−1.5, −1.5], and the right prediction, 0.75, outside of it."""
    (one,) = measure_objectives(exact, GATE, ["cvar(1/2)"], episodes=1, seed=0)
    assert (one.interval, one.misjudged, one.by_episodes) == (None, False, False)
    assert objectives.plain(one)["interval"] is None
    assert objectives.with_interval(one) == f"{one.value:.3f}"
    assert objectives.with_interval(one._replace(interval=Interval(0, 1))) == f"{one.value:.3f} [0.000, 1.000]"
    assert return_histograms([one], tmp_path / "a.png", CAPTION).stat().st_size > 0
    options = {"episodes": 200, "seed": 0, "search_episodes": 1}
    (searched,) = measure_objectives(exact, GATE, ["cvar(1/2)"], **options)
    assert (searched.forecast, searched.by_episodes, searched.misjudged) == (None, True, False)
    assert objectives.plain(searched)["predicted_by"] == "episodes"


@pytest.mark.parametrize(
    ("objective", "target"),
    [
        ("mean", None),
        ("cvar(0.5)", None),
        ("upper-cvar(0.5)", None),
        ("mean-cvar(0.5, 0.5)", None),
        ("mean-variance(1)", None),
        ("entropic(2)", None),
        ("target(1)", 1.0),
        ("target(0)", 0.0),
        ("shortfall(-1)", -1.0),
        ("probability(2)", 2.0),
    ],
)
def test_what_is_a_return_is_marked_and_what_names_a_target_has_it_dashed(objective, target, monkeypatch, tmp_path):
    """An entropic objective starts from a stock of 0, which is no target."""
    drawn = []
    monkeypatch.setattr(distributions, "write_figure", lambda figure, *rest: drawn.append(figure))
    stock = -1.5 if target is None and "entropic" not in objective else -(target or 0.0)
    returns = np.array([0.0, 1.0, 4.0])
    return_histograms([Measured(objective, stock, 0.7, 0.7, Interval(0, 1), returns, returns)], tmp_path, CAPTION)
    solution_distributions([solve(TabularMDP(*Gate().tabular()), objective, gamma=0.5, horizon=2)], tmp_path, "gate")
    measured, solved = (figure.axes[0] for figure in drawn)
    value = float(solved.get_title().partition("= ")[2])
    for axis, own in ((measured, 0.7), (solved, value)):
        (line,) = axis.get_lines()
        place, dash = (own, "-") if target is None else (target, "--")
        assert (line.get_xdata()[0], line.get_linestyle()) == (pytest.approx(place, abs=1e-3), dash)


def test_a_search_by_episodes_corrects_a_network_that_promises_too_much(exact, monkeypatch):
    figures = exact.outer(torch.eye(3)[:1], parse("cvar(1/2)"))
    monkeypatch.setattr(exact, "outer", lambda obs, objective: figures._replace(stock=-5.0, predicted=9.0))
    (misled,) = measure_objectives(exact, GATE, ["cvar(1/2)"], episodes=4000, seed=0)
    assert (misled.stock, misled.misjudged, misled.forecast) == (-5.0, True, None)
    (found,) = measure_objectives(exact, GATE, ["cvar(1/2)"], episodes=4000, seed=0, search_episodes=4000)
    assert found.value == pytest.approx(0.75, abs=0.1)
    assert misled.value < found.value - 0.3
    assert found.predicted == pytest.approx(0.75, abs=0.1)
    assert found.forecast.low < found.predicted < found.forecast.high
    assert not found.misjudged
    assert (objectives.plain(misled)["predicted_by"], objectives.plain(found)["predicted_by"]) == (
        "network",
        "episodes",
    )
    off = found._replace(forecast=found.forecast._replace(low=found.interval.high + 0.01, high=9.0))
    assert off.misjudged


def test_a_search_by_episodes_compares_starts_on_the_same_seeds_and_predicts_on_others():
    seen = []

    def play(stock, episodes, seed):
        seen.append((stock, episodes, seed))
        return EvalResult(None, None, None, np.array([0.0, 4.0 - (stock + 1) ** 2]), None)

    assert objectives.best_of(parse("cvar(1)"), [-3.0, -1.0, 2.0], 2, 7, play) == -1.0
    assert seen == [(-3.0, 2, 7), (-1.0, 2, 7), (2.0, 2, 7)]


def test_an_objective_with_a_start_of_its_own_is_not_searched_for(exact):
    (m,) = measure_objectives(exact, GATE, ["shortfall(1)"], episodes=100, seed=0, search_episodes=50)
    assert (m.stock, m.forecast) == (-1.0, None)


def test_a_tail_is_that_of_all_episodes_not_the_mean_over_batches(exact, monkeypatch):
    monkeypatch.setattr(objectives, "BATCHED_NUM_ENVS", 4)
    (tail,) = measure_objectives(exact, GATE, ["cvar(1/2)"], episodes=2000, seed=0)
    together = float(parse("cvar(1/2)").measure(torch.from_numpy(tail.returns)))
    apart = np.mean(np.sort(tail.returns.reshape(-1, 4))[:, :2])
    assert len(tail.returns) == 2000
    assert tail.value == together
    assert abs(apart - together) > 0.05


def test_a_start_outside_of_the_trained_range_is_warned_of_with_the_range(exact, capsys):
    measure_objectives(exact, GATE, ["shortfall(9)", "shortfall(1)"], episodes=2000, seed=0)
    warned = capsys.readouterr().err
    assert "shortfall(9) starts from the stock -9, outside of the trained range [-5, 1]" in warned
    assert "shortfall(1)" not in warned


def test_few_episodes_are_warned_of(exact, capsys):
    measure_objectives(exact, GATE, ["cvar(0.1)"], episodes=1999, seed=0)
    assert "1999 episodes are few for a tail" in capsys.readouterr().err


def test_another_utility_and_another_agent_are_refused(exact):
    with pytest.raises(ValueError, match="trained for cvar"):
        measure_objectives(exact, GATE, ["target(1)"], episodes=2000, seed=0)
    box = gym.spaces.Box(-1, 1, (3,), np.float32)
    sac = agents.get("sac")
    with pytest.raises(ValueError, match="objectives are for runs of dhn"):
        measure_objectives(sac.make_policy(sac.default, Spaces(box, box)), GATE, ["mean"], seed=0)


def test_the_bootstrap_interval_of_a_mean_is_the_normal_one():
    returns = np.random.default_rng(3).normal(2.0, 1.0, 2000)
    low, high = bootstrap(parse("mean"), returns)
    assert high - low == pytest.approx(2 * 1.96 / 2000**0.5, rel=0.1)
    assert (low + high) / 2 == pytest.approx(returns.mean(), abs=0.005)


def test_evaluate_measures_objectives_writes_them_and_draws(run, tmp_path, capsys):
    out = tmp_path / "out.json"
    call = ["evaluate", run, "--objective", "cvar(0.5)", "shortfall(1)", "--episodes", "2000", "--json", out]
    assert main(list(map(str, call))) == 0
    printed = capsys.readouterr().out
    assert "cvar(0.5)" in printed
    (result,) = json.loads(out.read_text())["results"]
    assert [figure["objective"] for figure in result["results"]] == ["cvar(0.5)", "shortfall(1)"]
    assert result["results"][0]["episodes"] == 2000
    assert len(list((run / "evaluations").glob("*.json"))) == 1
    figures = sorted(path.name.rpartition("-")[2] for path in (run / "plots").glob("*.png"))
    assert figures == ["distribution.png", "paths.png"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--objective", "cvar(2)"], "tau must lie in (0, 1]"),
        (["--objective", "luck"], "unknown objective 'luck'"),
        (["--objective", "mean", "--seeds", "1", "90000"], "--objective takes one of --seeds"),
    ],
)
def test_wrong_requests_are_one_line(run, arguments, message, capsys):
    assert main(["evaluate", str(run), *arguments]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("agent", "objective", "message"),
    [
        ("dhn", "mean", "trained for cvar"),
        ("dhn", "luck", "unknown objective"),
        ("sac", "mean", "objectives are for runs of dhn"),
    ],
)
def test_objectives_that_a_run_cannot_end_with_are_refused_before_it_begins(tmp_path, agent, objective, message):
    task = FORK if agent == "dhn" else EnvConfig("Pendulum-v1")
    early = {"learning_starts": 10, "random_steps": 10}
    settings = SMALL if agent == "dhn" else replace(agents.get("sac").default, **early)
    config = RunConfig(settings, task, eval=EvalConfig(objectives=(objective,)), steps=24)
    with pytest.raises(ValueError, match=message):
        train(agent, config, out=tmp_path, name="run")
    assert not (tmp_path / "run").exists()


def test_a_run_ends_with_what_its_preset_wants_to_know(tmp_path):
    wanted = EvalConfig(every=20, episodes=2, objectives=("cvar(0.5)", "cvar(1)"), objective_episodes=2000)
    config = RunConfig(SMALL, replace(FORK, num_envs=4), eval=wanted, steps=24, log_every=12)
    folder = train("dhn", config, out=tmp_path, name="run")
    written = json.loads((folder / "objectives.json").read_text())
    assert [(row["run"], row["objective"]) for row in written] == [("dhn", "cvar(0.5)"), ("dhn", "cvar(1)")]
    assert {path.name for path in (folder / "plots").glob("*-dhn.png")} == {"distribution-dhn.png", "paths-dhn.png"}


def clipped_cartpole(wrapper, **settings):
    return wrapper(gym.make("CartPole-v1"), **settings)


gym.register("ClippedCartPole-v0", lambda: clipped_cartpole(gym.wrappers.ClipReward, max_reward=0.5))
gym.register("NormalizedCartPole-v0", lambda: clipped_cartpole(gym.wrappers.NormalizeReward))


@pytest.mark.parametrize(("task", "name"), [("Clipped", "ClipReward"), ("Normalized", "NormalizeReward")])
def test_changed_rewards_are_refused_beside_a_stock_and_taken_without(task, name, tmp_path):
    config = RunConfig(SMALL, EnvConfig(f"{task}CartPole-v0", max_episode_steps=9), eval=EvalConfig(100, 1), steps=12)
    with pytest.raises(ValueError, match=f"{name} changes rewards; a stock is carried in their real scale"):
        train("dhn", config, out=tmp_path)
    plain = replace(SMALL, objective="mean", stock=False, relabel_probability=0.0)
    train("qr-dqn", replace(config, agent=plain), out=tmp_path)


def test_paths_count_the_moves_of_an_episode(exact):
    assert map_of(GATE) is None
    assert map_of(EnvConfig("CartPole-v1")) is None
    assert map_of(FORK) == ("##G", "Sn.", "##B")
    policy = make_policy(SMALL, Spaces(*spaces_of(FORK)))
    right = torch.tensor([[[0.0] * 4, [0.0] * 4, [0.0] * 4, [9.0] * 4]])
    policy.net.forward = lambda obs, stock: right.expand(len(obs), -1, -1)
    (m,) = measure_objectives(policy, FORK, ["shortfall(0)"], episodes=2000, seed=0)
    moves, stocks, cells = count_moves(policy, FORK, m, seed=0)
    walked = {(cells[a], cells[b]): count for (a, b), count in moves.items()}
    start, coin = cells.index((1, 0)), cells.index((1, 1))
    assert stocks[start, coin] == 0
    assert stocks[coin, cells.index((1, 2))] == pytest.approx(-0.1 / 0.5, abs=0.1)  # ±1 by a coin, and the move's cost
    # always right: two moves to the junction, then 48 bumps until the time limit
    assert walked == {((1, 0), (1, 1)): 2000, ((1, 1), (1, 2)): 2000, ((1, 2), (1, 2)): 48 * 2000}
