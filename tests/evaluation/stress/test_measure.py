"""A stress test of a policy in a simulator: its numbers are those of single episodes, and come again."""

import json

import numpy as np
import pytest
import torch

from surefoot.envs import SETS, BatchedPerturbedEnvs, EnvConfig, disturbances, play, subset
from surefoot.evaluation import worst_moment
from surefoot.evaluation.stress.measure import CheckedActions, curve_values, idle_parameters, stress
from surefoot.evaluation.stress.plan import make_plan

SHORT = EnvConfig("InvertedPendulum-v5", max_episode_steps=25, num_envs=64)
SET = SETS["inverted-pendulum-2"]


def balance(obs):
    """Hold for a while: how long depends on the masses."""
    return (obs[:, 1:2] * 4 + obs[:, 3:4] * 0.4).clamp(-1, 1)


@pytest.fixture(scope="module")
def found():
    return stress(balance, SHORT, [SET], budget=300, seed=50)


def test_every_figure_is_that_of_the_episodes_it_names(found):
    box = found["sets"][0]
    json.dumps(found)

    def returns(point, first, count):
        points = np.repeat([point], count, axis=0)
        return play(balance, SHORT, SET, points, range(first, first + count), num_envs=3).returns.tolist()

    centre = [one["nominal"] for one in box["parameters"]]
    assert found["nominal"]["returns"] == returns(centre, 50, found["nominal"]["episodes"])
    curve = box["curves"][1]
    at_last = returns([centre[0], curve["values"][-1]], 100_050, curve["episodes"])
    assert curve["mean"][-1] == pytest.approx(np.mean(at_last))
    cell = box["maps"][0]
    corner = [axis[-1] for axis in cell["axes"].values()]
    assert cell["mean"][-1][-1] == np.mean(returns(corner, 100_050, cell["episodes"]))
    worst = box["worst"]
    assert worst["returns"] == returns(list(worst["at"].values()), 300_050, worst["episodes"])
    assert worst["mean"] <= found["nominal"]["mean"]
    assert worst["fell"] == sum(one < 25 for one in worst["returns"])  # a reward of 1 a step


def test_the_same_request_gives_the_same_numbers_whatever_runs_side_by_side(found):
    again = stress(
        balance, EnvConfig("InvertedPendulum-v5", max_episode_steps=25, num_envs=7), [SET], budget=300, seed=50
    )
    assert json.dumps(again["sets"]) == json.dumps(found["sets"])


def test_what_changes_nothing_is_found_in_sets_whose_grid_would_be_too_large():
    short = EnvConfig("InvertedPendulum-v5", max_episode_steps=3)
    every = disturbances(short)
    some = subset(every, "gravity", "control_delay", *every.param_names[2:8])
    with pytest.raises(ValueError, match="more than 100000"):
        some.axes(5)
    assert not {"gravity", "control_delay"} & set(idle_parameters(short, some))
    delays = curve_values(some, make_plan(2000, [some]).sets[0])[1]
    assert delays.tolist() == np.round(delays).tolist()


def test_actions_that_mean_nothing_are_refused():
    with pytest.raises(ValueError, match="not finite"):
        CheckedActions(lambda obs: obs[:, :1] / 0)(torch.zeros(2, 3))
    with pytest.raises(ValueError, match="1 actions for 2 observations"):
        CheckedActions(lambda obs: obs[:1])(torch.zeros(2, 3))


def test_the_worst_moment_is_searched_where_the_policy_is(monkeypatch):
    devices = []

    class Noted(BatchedPerturbedEnvs):
        def __init__(self, *arguments, device="cpu", **options):
            devices.append(device)
            super().__init__(*arguments, device=device, **options)

    monkeypatch.setattr(worst_moment, "BatchedPerturbedEnvs", Noted)
    stress(balance, SHORT, [SETS["inverted-pendulum-1"]], budget=170, moment=3, device="cpu:0")
    assert devices == ["cpu:0"]
