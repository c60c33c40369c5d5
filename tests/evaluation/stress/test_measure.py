"""A stress test of a policy in a simulator: its numbers are those of single episodes, and come again."""

import json
from itertools import permutations

import gymnasium as gym
import numpy as np
import pytest
import torch

from surefoot.envs import (
    SETS,
    BatchedPerturbedEnvs,
    EnvConfig,
    Parameter,
    UncertaintySet,
    disturbances,
    nominal_params,
    play,
    subset,
)
from surefoot.envs.model_parameters import round_half_up
from surefoot.evaluation import worst_moment
from surefoot.evaluation.stress import measure
from surefoot.evaluation.stress.measure import curve_values, idle_parameters, stress
from surefoot.evaluation.stress.nominal import NominalPoint, nominal_point
from surefoot.evaluation.stress.plan import least_budget, make_plan
from surefoot.evaluation.stress.statistics import sample
from surefoot.training.report.stress import episodes_of, nominals_of, rank_all, summary
from surefoot.training.report.stress_figures import nominal_of

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
    assert worst["ended_early"] == sum(one < 25 for one in worst["returns"])  # a reward of 1 a step


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
    assert delays.tolist() == [round_half_up(delay) for delay in delays]


@pytest.mark.parametrize(
    ("low", "high", "ticks"),
    [
        (0.0, 5.0, [0, 1, 3, 4, 5]),  # of 0, 1.25, 2.5, 3.75, 5
        (0.5, 2.5, [1, 1, 2, 2, 2.5]),  # 3 is in force at the upper end, and lies beyond it
        (0.4, 2.4, [0.4, 1, 1, 2, 2]),  # 0 is in force at the lower end
    ],
)
def test_values_of_a_count_are_those_in_force_and_lie_in_the_range(low, high, ticks):
    some = UncertaintySet("some", "Pendulum-v1", (Parameter("control_delay", low, high), Parameter("mass", low, high)))
    delays, masses = measure._ticks(some, 5)
    assert delays.tolist() == ticks
    assert [round_half_up(tick) for tick in delays] == [round_half_up(value) for value in np.linspace(low, high, 5)]
    assert masses.tolist() == np.linspace(low, high, 5).tolist()


class Walk(gym.Env):
    """Steps that cost, to an end after the fifth: a goal worth 10, a fall that costs 10, or a time limit of its own."""

    observation_space = gym.spaces.Box(-np.inf, np.inf, (1,), np.float32)
    action_space = gym.spaces.Box(-1, 1, (1,), np.float32)
    param_names = ("cost", "wind")
    low, high, nominal = np.zeros(2), np.full(2, 0.2), np.full(2, 0.1)

    def __init__(self, end):
        self.end, self.cost = end, 0.1

    def set_params(self, values):
        self.cost = float(values.sum()) / 2

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t = 0
        return np.zeros(1, np.float32), {}

    def step(self, action):
        self.t += 1
        over = self.t == 5
        reward = -self.cost + over * {"goal": 10.0, "fall": -10.0 * (self.cost > 0.15), "limit": 0.0}[self.end]
        return np.zeros(1, np.float32), reward, over and self.end != "limit", over and self.end == "limit", {}


for end, limit in (("goal", 100), ("goal", 5), ("fall", 100), ("limit", 100)):
    if f"Walk-{end}{limit}-v0" not in gym.registry:
        gym.register(f"Walk-{end}{limit}-v0", Walk, max_episode_steps=limit, kwargs={"end": end})


@pytest.mark.parametrize(
    ("task", "ended", "failed"),
    [
        ("Walk-goal100-v0", True, False),
        ("Walk-goal5-v0", True, False),  # it ends in the last step that there is
        ("Walk-fall100-v0", True, True),
        ("Walk-limit100-v0", False, False),  # it truncates itself before the registered limit
    ],
)
def test_an_early_end_is_told_from_a_time_limit_and_a_fall_from_a_goal(task, ended, failed):
    ranges = tuple(Parameter(name, 0.0, 0.2) for name in Walk.param_names)
    box = UncertaintySet("box", task, ranges)
    config = EnvConfig(task, num_envs=64)
    record = stress(lambda obs: torch.zeros(len(obs), 1), config, [box], budget=250)
    (found,) = record["sets"]
    for part in (record["nominal"], found["average"], found["worst"]):
        assert part["ended_early"] == ended * part["episodes"]
    assert found["worst"]["ended_early_low"] == failed * found["worst"]["episodes"]
    assert found["curves"][0]["ended_early"] == [ended * found["curves"][0]["episodes"]] * 5
    drawn = found["maps"][0]
    assert (np.max(drawn["failed"]) > 0) == failed
    assert (np.array(drawn["ended_early"]) == ended * drawn["episodes"]).all()
    words = summary([{"name": "idle", **record}])
    assert ("ended early with a low return" in words) == failed


TASK = "Walk-limit100-v0"
PLAIN = UncertaintySet("plain", TASK, (Parameter("wind", 0.0, 0.15, 0.1),))  # gives what the task has
DEAR = UncertaintySet("dear", TASK, (Parameter("cost", 0.1, 0.2, 0.2),))
BARE = UncertaintySet("bare", TASK, (Parameter("cost", 0.0, 0.15),))


def stress_idle(*sets):
    budget = least_budget(1, sets, nominals=2)
    return stress(lambda obs: torch.zeros(len(obs), 1), EnvConfig(TASK, num_envs=64), sets, budget=budget)


@pytest.mark.parametrize("order", list(permutations([PLAIN, DEAR, BARE])))
def test_every_set_is_judged_against_its_own_nominal_point_in_whatever_order(order, monkeypatch):
    judged = {}

    def judge(play, box, centre, plan, nominal, **settings):
        judged[box.name] = nominal
        found = sample(nominal.episodes, nominal.limit)
        return {"name": box.name, "episodes": plan.episodes(1), "average": found, "worst": found | {"at": {}}}

    monkeypatch.setattr(measure, "stress_set", judge)
    record = stress_idle(*order)
    for name, mean, box in zip(("plain", "dear", "bare"), (-0.5, -0.75, -0.5), (PLAIN, DEAR, BARE), strict=True):
        own, limit = nominal_of(record, record["sets"][order.index(box)])
        assert (own["mean"], limit) == (pytest.approx(mean), pytest.approx(1.2 * mean))
        assert (judged[name].episodes.returns.tolist(), judged[name].limit) == (own["returns"], limit)
        assert own["at"] == ({"cost": 0.2} if box is DEAR else {})
    assert judged["plain"] is judged["bare"]
    assert len(nominals_of(record)) == 2
    assert sum(episodes_of(record).values()) == record["budget"]
    record |= {"name": "idle"}
    assert "at the nominal point of dear (cost 0.2)" in summary([record])  # whose worst case is the lowest
    elsewhere = {**record, "name": "other", "sets": [one for one in record["sets"] if one["name"] != "dear"]}
    if order[0] is not DEAR:
        assert "where nothing is disturbed" in summary([elsewhere])
        assert rank_all([record, elsewhere])["nominal"] == {}  # returns of different nominal points


def test_a_nominal_point_is_what_the_set_changes_in_the_task_and_how():
    task = EnvConfig("Hopper-v5")
    every = Parameter("body_mass.*", 1.0, 9.0, 3.0)  # masses differ, so the task has no value of its own
    box = UncertaintySet("box", task.id, (every, Parameter("gravity", 5.0, 15.0, 9.81)), scale_inertia=True)
    assert nominal_point(task, box, np.array([3.0, 9.81])) == NominalPoint((("body_mass.*", 3.0),), scale_inertia=True)
    scaled = UncertaintySet("box", task.id, (Parameter("body_mass_scale.*", 0.5, 2.0, 1.0),), scale_inertia=True)
    assert nominal_point(task, scaled, np.array([1.0])) == NominalPoint()
    assert nominal_point(task, disturbances(task), nominal_params(task, disturbances(task))) == NominalPoint()


def test_the_worst_moment_is_searched_where_the_policy_is(monkeypatch):
    devices = []

    class Noted(BatchedPerturbedEnvs):
        def __init__(self, *arguments, device="cpu", **options):
            devices.append(device)
            super().__init__(*arguments, device=device, **options)

    monkeypatch.setattr(worst_moment, "BatchedPerturbedEnvs", Noted)
    stress(balance, SHORT, [SETS["inverted-pendulum-1"]], budget=170, moment=3, device="cpu:0")
    assert devices == ["cpu:0"]
