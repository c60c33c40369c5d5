"""The deep agent against docs/derivations/iwocs.md §4.6: what is trained, searched, chosen, kept and counted, when."""

import copy
import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from iwocs_runs import (
    CONFIG,
    assert_the_same_run_from,
    finish,
    played_alike_alone,
    real_agent,
    saved_in_every_part,
)
from tiny import DriftEnv, make_batch, make_setting
from torch.testing import assert_close

from surefoot.agents.interface import Budget
from surefoot.agents.iwocs import Composite, is_valid
from surefoot.agents.iwocs.agent import IWOCS, OWN_EPISODES
from surefoot.agents.iwocs.composite import Gate
from surefoot.agents.iwocs.config import IWOCSConfig, plan
from surefoot.agents.iwocs.models import Recorder
from surefoot.agents.iwocs.specialist import IWOCSPolicy, StaticSolver
from surefoot.agents.iwocs.trials import Trials, others_first
from surefoot.agents.sac import SACNoise


class UncertainDrift(DriftEnv):
    """Environments with two parameters that change nothing; `calls` has every call of the agent."""

    low, high = torch.zeros(2).double(), torch.ones(2).double()

    def __init__(self, limit=None):
        super().__init__(2)
        self.calls, self.episode_limit = [], limit

    def step(self, actions):
        obs, _, *rest = super().step(actions)
        return obs, torch.ones(2), *rest

    def set_params(self, values, *, now=False):
        self.calls.append(tuple(values.tolist()))

    def randomise(self):
        self.calls.append("random")


class Scripted:
    """Environments with returns `value(call, point)` in the call-th whole search; each serves 10 steps.

    A specialist alone in its model gets what comes next in `own`, while there is something.
    """

    names, low, high, nominal = ("mass", "length"), np.zeros(2), np.ones(2), np.full(2, 0.5)

    def __init__(self, value, own=()):
        self.value, self.searches, self.seeds, self.played, self.own = value, 0, [], [], list(own)

    def play(self, act, points, seeds):
        self.seeds.append(tuple(seeds))
        self.played.append(act)
        if len(points) > 1:
            self.searches += 1
        act.reset()
        for t in range(10):
            act.track(torch.arange(len(points) * len(seeds)), len(points) * len(seeds))
            act(torch.full((len(points) * len(seeds), 3), 0.1 * t))
            act.observe(torch.zeros(1), torch.zeros(len(points) * len(seeds)))
        values = [np.resize(self.value(self.searches - 1, tuple(p)), len(seeds)) for p in points.tolist()]
        returns = np.array(values, dtype=np.float64)
        if len(points) == 1 and self.own:
            returns[:] = self.own.pop(0)
        return SimpleNamespace(returns=returns, lengths=np.full(returns.shape, 10))


def scripted(value, *, limit=None, own=(), **changes):
    perturbed_envs, env = Scripted(value, own), UncertainDrift(limit)
    setting = dataclasses.replace(make_setting(), env=env, perturbed_envs=perturbed_envs)
    return IWOCS(dataclasses.replace(CONFIG, **changes), setting), perturbed_envs, env


# Searches: 0 chooses T_1 of the default, 1 is the default on held-out seeds; then 3 thresholds and 1 held-out a model.
CORNERS = [(0.0, 0.0), (0.0, 1.0), (1.0, 0.0), (1.0, 1.0)]


def worst_at(*corners):
    """Worst model by iteration, whatever the threshold."""
    return lambda call, point: -1.0 if point == CORNERS[corners[max(0, (call - 2) // 4 + 1)]] else 0.0


def test_it_trains_in_the_default_then_in_each_worst_model_and_counts_both_kinds_of_steps():
    agent, _, env = scripted(worst_at(2, 1, 3, 0))
    progress = finish(agent)
    assert env.calls == [CORNERS[2], CORNERS[1], CORNERS[3]]
    assert [entry["model"] for entry in agent.path] == [None, *map(list, (CORNERS[2], CORNERS[1], CORNERS[3]))]
    assert [entry["worst_model"] for entry in agent.path] == [list(CORNERS[k]) for k in (2, 1, 3, 0)]
    assert [entry["training_steps"] for entry in agent.path] == [20, 32, 44, 56]
    assert [entry["gate_updates"] for entry in agent.path] == [0] * 4  # the gate by predictors has no updates
    assert sum(p.env_steps for p in progress) == 56
    assert sum(p.updates for p in progress) == (20 - 4) + 3 * (12 - 4)
    grid, held_out, own = 4 * 10, 3 * 4 * 10, 2 * OWN_EPISODES * 10
    assert [entry["search_steps"] for entry in agent.path] == [
        grid + held_out + i * (3 * grid + held_out + own) for i in range(4)
    ]
    assert [len(p.notes) for p in progress if p.notes] == [1] * 4
    assert agent.status == "budget"
    assert agent.step() == (0, 0, {}, (), True, ())


def test_the_last_steps_of_a_model_are_counted_when_its_search_is_done():
    """Else a run whose budget is the sum of them would end before the last search."""
    agent, _, _ = scripted(worst_at(2, 1, 3, 0))
    progress = finish(agent)
    ends = [i for i, p in enumerate(progress) if p.notes]
    counted = np.cumsum([p.env_steps for p in progress])
    assert [int(counted[i]) for i in ends] == [20, 32, 44, 56]
    assert [int(counted[i - 1]) for i in ends] == [19, 31, 43, 55]


@pytest.mark.parametrize(
    ("corners", "status", "iterations"),
    [((2, 2), "stagnated", 1), ((2, 1, 1), "stagnated", 2), ((2, 1, 2), "repeat", 2), ((2, 1, 3, 0), "budget", 3)],
)
def test_how_it_ends(corners, status, iterations):
    agent, _, _ = scripted(worst_at(*corners))
    finish(agent)
    assert (agent.status, len(agent.path) - 1) == (status, iterations)


def test_random_models_are_an_ablation_that_nothing_stops():
    agent, _, env = scripted(worst_at(2, 2, 2, 2), next_model="random")
    finish(agent)
    assert agent.status == "budget"
    assert len(set(env.calls)) == 3
    assert all(0 < x < 1 for model in env.calls for x in model)


def test_rho_is_the_best_of_the_search_and_frozen():
    """The worst value of the thresholds is 1, 3, 2 in the first model, 5, 4, 5 in the second."""
    value = {2: 1.0, 3: 3.0, 4: 2.0, 6: 5.0, 7: 4.0, 8: 5.0}
    corner = lambda call: CORNERS[(call - 2) // 4 + 1] if call >= 2 else CORNERS[0]  # noqa: E731
    agent, perturbed_envs, _ = scripted(
        lambda call, point: value.get(call, 0.5) if point == corner(call) else 9.0, iterations=2
    )
    finish(agent)
    assert [entry["rho"] for entry in agent.path] == [None, 0.5, 1.0]  # of equal ones the larger
    assert agent.policy.rho.tolist() == [0.5, 1.0]
    assert [entry["by_threshold"] for entry in agent.path[1:]] == [
        [[0.1, 1.0, 7.0], [0.5, 3.0, 7.5], [1.0, 2.0, 7.25]],  # and the mean over the corners
        [[0.1, 5.0, 8.0], [0.5, 4.0, 7.75], [1.0, 5.0, 8.0]],
    ]
    assert [entry["worst"] for entry in agent.path] == [0.5, 3.0, 5.0]
    tried = [[one.rho for one in act.specialists] for act in perturbed_envs.played]
    first, second = [[0.1], [0.5], [1.0], [0.5]], [[0.5, 0.1], [0.5, 0.5], [0.5, 1.0], [0.5, 1.0]]
    assert tried == [[], [], *first, [], [], *second, [], []]  # two a model are its own scores


def test_rho_by_the_mean_looks_at_the_models_that_are_not_the_worst():
    """A corner stays worst whatever ρ is, a little less so for the smallest; the others are better for the middle."""
    worst, others = {2: 0.3, 3: 0.2, 4: 0.1}, {2: 5.0, 3: 9.0, 4: 7.0}

    def value(call, point):
        return (worst if point == CORNERS[3] else others).get(call, 0.0)

    chosen = {}
    for by in ("worst", "mean"):
        agent, _, _ = scripted(value, iterations=1, threshold_by=by)
        finish(agent)
        chosen[by] = agent.path[1]["rho"], agent.path[1]["worst"], agent.path[1]["worst_model"]
    assert chosen == {"worst": (0.1, 0.3, list(CORNERS[3])), "mean": (0.5, 0.2, list(CORNERS[3]))}


def test_of_equal_thresholds_the_middle_one_is_frozen_where_that_is_asked_for():
    agent, _, _ = scripted(worst_at(2, 1), iterations=1, threshold_ties="middle")
    finish(agent)
    assert agent.path[1]["rho"] == 0.5 == float(agent.policy.rho[0])


@pytest.mark.parametrize(
    ("fall", "held_out", "rho", "again", "best"),
    [
        (3.0, {5: 1.0, 6: 4.0}, 1.0, [[0.1, 1.0, 5.5], [1.0, 4.0, 6.25]], 1),
        (8.0, {5: 4.0, 6: 1.0}, 0.1, [[0.1, 4.0, 6.25], [1.0, 1.0, 5.5]], 1),
        (8.0, {5: 1.0, 6: 1.0}, 0.1, [[0.1, 1.0, 5.5], [1.0, 1.0, 5.5]], 0),  # no better than the default's 1
    ],
)
def test_equal_thresholds_are_played_again_and_the_better_one_is_taken(fall, held_out, rho, again, best):
    """0.1 and 1.0 tie in the search, which sees the second corner fall or none; the held-out seeds see the fourth."""
    search, highest = {2: fall, 3: 2.0, 4: fall}, 8.0

    def value(call, point):
        if call in search:
            return search[call] if point == CORNERS[1] else highest
        return held_out.get(call, 1.0) if point == CORNERS[3 if call > 1 else 2] else 7.0

    agent, perturbed_envs, env = scripted(value, limit=8, iterations=2, threshold_ties="again")
    while len(agent.path) < 2:
        agent.step()
    entry, taken = agent.path[1], max(held_out.values())
    assert env.calls == [CORNERS[2], CORNERS[3 if fall == highest else 1]]
    assert (entry["rho"], entry["again"], entry["worst_model"]) == (rho, again, list(env.calls[1]))
    assert (entry["worst"], entry["held_out_worst"], entry["best_so_far"]) == (fall, taken, best)
    assert [row["return"] for row in entry["table"]] == [7.0, 7.0, 7.0, taken]
    tried = [[one.rho for one in act.specialists] for act in perturbed_envs.played]
    assert tried[2:7] == [[0.1], [0.5], [1.0], [0.1], [1.0]]
    assert perturbed_envs.seeds[5:7] == [tuple(agent.held_out_seeds)] * 2


def test_points_of_cma_have_no_mean_to_go_by():
    with pytest.raises(ValueError, match=r"--agent.threshold-by mean does not go with --agent.search cma"):
        IWOCSConfig(threshold_by="mean", search="cma")


def test_where_no_model_can_give_more_no_further_model_is_trained_in():
    """Every step gave a reward of 1 and episodes have at most 7: no return exceeds 7."""
    agent, _, env = scripted(lambda call, point: 7.0 if call >= 2 else 7.0 - (point == CORNERS[1]), limit=7)
    finished = finish(agent)
    assert (agent.status, len(agent.path), env.calls) == ("solved", 2, [CORNERS[1]])
    assert [entry["highest_possible"] for entry in agent.path] == [7.0, 7.0]
    assert [entry["equally_bad"] for entry in agent.path] == [1, 4]
    assert "worst 7.0 in 4 models; on held-out seeds 7.0 in 4 models" in finished[-1].notes[0]
    default, _, env = scripted(lambda call, point: 7.0, limit=7)
    finish(default)
    assert (default.status, len(default.path), env.calls) == ("solved", 1, [])


def test_rewards_that_have_left_the_replay_may_have_been_higher():
    agent, _, _ = scripted(lambda call, point: 7.0, limit=7, iterations=1, replay_capacity=8)
    finish(agent)
    assert (agent.status, agent.path[0]["highest_possible"]) == ("stagnated", None)


def test_a_tie_below_the_highest_return_is_a_worst_model_like_any_other():
    agent, _, env = scripted(lambda call, point: 6.9, limit=7, iterations=1)
    finish(agent)
    assert (agent.status, env.calls) == ("stagnated", [CORNERS[0]])
    assert [entry["equally_bad"] for entry in agent.path] == [4, 4]
    unlimited, _, env = scripted(lambda call, point: 7.0, iterations=1)
    finish(unlimited)
    assert (unlimited.status, env.calls, unlimited.path[0]["highest_possible"]) == ("stagnated", [CORNERS[0]], None)


def test_where_only_the_search_saw_no_loss_the_next_model_is_that_of_the_held_out_seeds():
    """Its one episode a point was perfect everywhere; of three on held-out seeds one was not, at the third corner."""
    held_out = lambda point: [7.0, 7.0, 1.0] if point == CORNERS[2] else 7.0  # noqa: E731
    agent, _, env = scripted(lambda call, point: held_out(point) if call == 1 else 7.0, limit=7)
    finish(agent)
    assert env.calls == [CORNERS[2]]
    assert agent.path[0]["worst_model"] == list(CORNERS[2])
    assert (agent.path[0]["worst"], agent.path[0]["held_out_worst"]) == (7.0, 5.0)
    assert agent.status == "solved"


def test_a_later_policy_is_deployed_only_where_the_same_episodes_tell_them_apart():
    """Better on two seeds of three and far worse on one: a higher worst value by chance, maybe."""
    for returns, better in (([9.0, 9.0, 1.0], False), ([9.0, 6.0, 5.0], True), ([5.0, 5.0, 5.0], False)):
        agent, _, _ = scripted(
            lambda call, point, returns=returns: returns if call == 5 else 5.0 if call == 1 else 4.0, iterations=1
        )
        finish(agent)
        found = agent.path[1]["compared"]
        assert (found["with"], found["better"], found["episodes"]) == (0, better, 3)
        assert found["difference"] == pytest.approx(np.mean(returns) - 5)
        assert found["low"] <= found["difference"] <= found["high"]
        assert (agent.path[1]["best_so_far"], int(agent.policy.used)) == (int(better), int(better))
    assert agent.path[0]["compared"] is None


def test_the_best_worst_value_on_held_out_seeds_is_kept_not_the_last():
    held_out = {1: 5.0, 5: 9.0, 9: 7.0}
    agent, perturbed_envs, _ = scripted(
        lambda call, point: held_out.get(call, 20.0) - (point == CORNERS[min(3, call // 3)]), iterations=2
    )
    finish(agent)
    assert [entry["held_out_worst"] for entry in agent.path] == [4.0, 8.0, 6.0]
    assert [entry["best_so_far"] for entry in agent.path] == [0, 1, 1]
    assert int(agent.policy.used) == 1
    assert len(agent.stateful().specialists) == 1
    chose = {seeds for seeds, act in zip(perturbed_envs.seeds, perturbed_envs.played, strict=True)}
    assert not set(agent.search_seeds) & set(agent.held_out_seeds)
    assert chose >= {tuple(agent.search_seeds), tuple(agent.held_out_seeds)}
    assert perturbed_envs.seeds[:2] == [tuple(agent.search_seeds), tuple(agent.held_out_seeds)]


def test_a_composite_that_is_worse_than_its_default_is_not_deployed():
    agent, _, _ = scripted(lambda call, point: (5.0 if call < 2 else 1.0) - (point == CORNERS[1]))
    finish(agent)
    assert (agent.status, agent.path[-1]["best_so_far"], int(agent.policy.used)) == ("stagnated", 0, 0)
    obs = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
    assert_close(agent.act(obs), agent.policy.default.act(obs))


def test_the_fractions_at_every_point_are_logged():
    agent, _, _ = scripted(worst_at(2, 1, 3, 0), search_episodes=3, iterations=1)
    finish(agent)
    for entry in agent.path:
        assert [row["at"] for row in entry["table"]] == [list(corner) for corner in CORNERS]
        fractions = torch.tensor([row["fractions"] for row in entry["table"]])
        assert fractions.shape == (4, entry["iteration"] + 1)
        assert_close(fractions.sum(1), torch.ones(4))
        assert_close(fractions.mean(0), torch.tensor(entry["fractions"]))
    assert agent.path[1]["table"][0]["fractions"][0] >= 0.1  # all are usable in the first of ten steps


# --- going on where a run would end -----------------------------------------------------------------------------------


def test_a_specialist_that_needs_two_rounds_in_its_model_gets_them():
    """1 in its own model after the first round, of 9 known: far from it; 8.5 after the second."""
    agent, _, env = scripted(
        lambda call, point: 9.0 if point == CORNERS[1] else 5.0 - (point == CORNERS[2]), own=[1.0, 8.5], prolong=3
    )
    kept, begin = [], agent.begin_search

    def spy():
        kept.append(len(agent.solver.replay))
        begin()

    agent.begin_search = spy
    progress = finish(agent)
    assert env.calls == [CORNERS[2]]
    assert [entry["rounds"] for entry in agent.path] == [None, 2]
    assert [entry["training_steps"] for entry in agent.path] == [20, 44]
    assert kept == [20, 24]  # nothing of the first round is lost
    assert sum(p.env_steps for p in progress) == 44
    assert sum(p.updates for p in progress) == (20 - 4) + (24 - 4)  # it starts to learn once
    notes = [note for p in progress for note in p.notes]
    assert notes[1] == "iwocs, model 1: its specialist gets 1.0 there; round 2 begins"
    assert len(notes) == 3
    assert [float(p.metrics["rounds"]) for p in progress if "rounds" in p.metrics] == [0, 2]


@pytest.mark.parametrize(
    ("prolong", "iterations", "rounds", "status"),
    [(0, 3, [1, 1, 1], "budget"), (1, 3, [2, 1], "budget"), (1, 4, [2, 2], "budget"), (9, 3, [3], "budget")],
)
def test_a_round_is_an_iteration_of_the_budget_and_a_model_has_no_more_than_asked_for(
    prolong, iterations, rounds, status
):
    changes = {"prolong": prolong, "iterations": iterations}
    calls = [2, 1, 3, 0]

    def value(call, point):
        return 9.0 - 9 * (point == CORNERS[calls[max(0, (call - 2) // 4 + 1)]])

    agent, _, _ = scripted(value, own=[0.0] * 50, **changes)
    progress = finish(agent)
    assert [entry["rounds"] for entry in agent.path[1:]] == rounds
    assert agent.status == status
    assert sum(p.env_steps for p in progress) == 20 + 12 * sum(rounds)


def test_where_the_worst_model_repeats_the_worst_of_the_others_is_next():
    """Its specialist cannot help the third corner; the others get better one by one, the fourth last."""
    later = {CORNERS[0]: 2, CORNERS[1]: 1, CORNERS[3]: 3}

    def value(call, point):
        iteration = max(0, (call - 2) // 4 + 1)
        return 1.0 if point == CORNERS[2] else 7.0 if iteration >= later[point] else 2.0 + later[point]

    agent, _, env = scripted(value, limit=7, iterations=9, on_repeat="next-worst")
    finish(agent)
    assert env.calls == [CORNERS[2], CORNERS[0], CORNERS[3]]  # the second corner is perfect from the first model on
    assert (agent.status, agent.path[-1]["worst_model"]) == ("repeat", list(CORNERS[2]))
    stubborn, _, _ = scripted(value, limit=7, iterations=9)
    finish(stubborn)
    assert (stubborn.status, len(stubborn.path)) == ("stagnated", 2)


# What a policy of so many specialists gets, by who acts first in it.
BY_WHO_ACTS_FIRST = {
    1: {"default": 2.0, 0: 9.0},
    2: {0: 2.0, 1: 1.0, "default": 2.0},  # no better than who did before
    3: {0: 2.0, 2: 5.0, 1: 7.0, "default": 7.0},  # of equals the newest
}


def test_who_acts_first_is_searched_among_all():
    """Of an iteration's searches three are of thresholds, then one of everybody else, then one on held-out seeds."""

    def value(call, point):
        act = perturbed_envs.played[-1]
        corner = CORNERS[(2, 1, 3, 0)[len(act.specialists)]]
        first = BY_WHO_ACTS_FIRST[len(act.specialists)][act.gate.first] if act.specialists else 0.0
        return first - (point == corner)

    agent, perturbed_envs, _ = scripted(value, gate_first="searched", threshold_by="mean")
    finish(agent)
    assert [entry["acts_first"] for entry in agent.path] == [0, 1, 1, 2]
    assert [entry["others_first"] for entry in agent.path] == [
        [],
        [[1, 8.0, 8.75]],
        [[2, 0.0, 0.75], [0, 1.0, 1.75]],
        [[3, 4.0, 4.75], [2, 6.0, 6.75], [0, 6.0, 6.75]],
    ]
    searches = [act for act in perturbed_envs.played if act.specialists]
    assert [act.gate.first for act in searches] == [
        *["default", "default", "default", 0, 0],
        *[0, 0, 0, 1, "default", 0],
        *[0, 0, 0, 2, 1, "default", 1],
    ]
    assert [entry["rho"] for entry in agent.path[1:]] == [1.0, 1.0, 1.0]
    agent.policy.used.fill_(2)
    assert agent.stateful().gate.first == 0


def test_nobody_else_is_tried_first_where_no_return_can_be_higher():
    agent, _, _ = scripted(lambda call, point: 7.0, limit=7, gate_first="searched", next_model="random")
    finish(agent)
    assert [(entry["acts_first"], entry["others_first"]) for entry in agent.path] == [(0, [])] * 4


def test_where_the_newest_specialist_is_rejected_nobody_else_is_tried_first():
    agent, _, _ = scripted(
        lambda call, point: -1.0 if call == 2 else 0.0, thresholds=(0.0, 1.0), gate_first="searched", iterations=1
    )
    finish(agent)
    assert agent.path[1]["rho"] == 0.0
    assert (agent.path[1]["acts_first"], agent.path[1]["others_first"]) == (0, [])


@pytest.mark.parametrize(
    ("first", "rho", "others"),
    [
        ([-1], [], [0]),
        ([-1, 0], [1.0], [1, -1]),
        ([-1, -1, -1], [1.0, 0.0], [2, 0]),  # the second was rejected
        ([-1, -1, 1], [1.0, 2.0], [2, 0, -1]),
    ],
)
def test_who_else_could_act_first(first, rho, others):
    assert others_first(torch.tensor(first), torch.tensor(rho)) == others


@pytest.mark.parametrize("thresholds", [(0.0,), (0.0, 1.0)])
def test_a_policy_is_not_played_again_where_its_newest_specialist_is_rejected(thresholds, monkeypatch):
    """The episodes would be the same ones: all that is found is, the shares of those who act included."""
    monkeypatch.setattr("surefoot.agents.iwocs.agent.SIDE_BY_SIDE", 4)  # a search of several slices
    options = {"thresholds": thresholds, "threshold_by": "mean", "next_model": "random"}
    knows, plays = (real_agent(**options) for _ in range(2))
    finish(knows)
    while not plays.step().done:
        plays.before = None
    steps = [[entry.pop("search_steps") for entry in agent.path] for agent in (knows, plays)]
    assert knows.path == plays.path
    assert steps[0][0] == steps[1][0]
    assert all(fewer < more for fewer, more in zip(steps[0][1:], steps[1][1:], strict=True))


def test_points_that_differ_from_search_to_search_are_played_in_each():
    agent = real_agent(search="random", population=3, generations=1, thresholds=(0.0, 1.0), iterations=1)
    finish(agent)
    assert agent.before is not None
    assert Trials(agent.config, 2, agent.before).found == []
    assert Trials(dataclasses.replace(agent.config, search="grid"), 2, agent.before).found == [agent.before.found]


@pytest.mark.parametrize(("together", "others"), [(7.0, []), (5.0, []), (4.0, [[1, 4.0, 4.0]])])
def test_nobody_else_is_tried_first_where_the_policy_gets_all_that_its_parts_get(together, others):
    """The ceiling is 5: what the first specialist gets alone, in every model."""

    def value(call, point):
        act = perturbed_envs.played[-1]
        return 5.0 if isinstance(act, Recorder) and agent.iteration else together if act_of(act).specialists else 3.0

    def act_of(act):
        return act.composite if isinstance(act, Recorder) else act

    options = {"gate": "models", "gate_first": "searched", "gate_updates": 1, "thresholds": IWOCSConfig().thresholds}
    agent, perturbed_envs, _ = scripted(value, limit=9, iterations=1, **options)
    finish(agent)
    assert agent.path[1]["ceiling"] == 5.0
    assert agent.path[1]["others_first"] == others


@pytest.mark.parametrize(
    ("falls", "doubtful"), [("held out", [False, True, False, False]), ("in the search", [False] * 4)]
)
def test_points_where_held_out_episodes_alone_fall_are_played_again_by_every_policy(falls, doubtful):
    """With the first specialist a composite falls in the second corner; each policy alone gets 7, the most there is."""

    def value(call, point):
        held_out, act = len(perturbed_envs.seeds[-1]) == CONFIG.held_out_episodes, perturbed_envs.played[-1]
        if isinstance(act, Recorder) or len(act.specialists) != 1:
            return 7.0 if isinstance(act, Recorder) or act.specialists else 3.0 + point[0]
        return 6.0 if point == CORNERS[1] and (held_out or falls == "in the search") else 7.0

    options = {"gate": "models", "gate_updates": 1, "thresholds": IWOCSConfig().thresholds, "grid_n": 2}
    agent, perturbed_envs, _ = scripted(value, limit=7, **options)
    while agent.iteration < 2:
        agent.step()
    assert agent.path[1]["worst"] == (7.0 if falls == "held out" else 6.0)
    assert agent.lessons.doubtful.tolist() == doubtful
    before = len(perturbed_envs.played)
    finish(agent)
    assert agent.status == "solved"
    later = list(zip(perturbed_envs.played, perturbed_envs.seeds, strict=True))[before:]
    again = [act.points.tolist() for act, seeds in later if isinstance(act, Recorder) and len(seeds) == 3]
    assert again == [[[-1.0, 1.0]]] * (3 if any(doubtful) else 0)  # the default and two specialists


# --- one model --------------------------------------------------------------------------------------------------------


def solver_of(seed=0, **changes):
    config = dataclasses.replace(CONFIG, **changes)
    return StaticSolver(config, dataclasses.replace(make_setting(seed), env=UncertainDrift()))


def noise(rows=8):
    generator = torch.Generator().manual_seed(5)
    return SACNoise(torch.randn(rows, 2, generator=generator), torch.randn(rows, 2, generator=generator))


def test_the_entropy_weight_reaches_the_soft_critic_and_not_the_entropy_free_one():
    batch, after = make_batch(8), []
    for alpha in (0.0, 1.0):
        solver = solver_of(initial_alpha=max(alpha, 1e-30))
        solver.update_eager(batch, noise())
        after.append(solver)
    for left, right in zip(after[0].entropy_free.parameters(), after[1].entropy_free.parameters(), strict=True):
        assert_close(left, right, rtol=0, atol=0)
    assert any(
        not torch.equal(*pair)
        for pair in zip(after[0].nets.critic.parameters(), after[1].nets.critic.parameters(), strict=True)
    )


def test_entropy_free_critic_and_predictor_are_learned_by_adams_of_their_own():
    """Against gradients and Adam (ε 1e-5, 1e-3) written out, from copies of the networks."""
    solver, batch, draw = solver_of(tau=0.3), make_batch(8), noise()
    entropy_free, predictor = copy.deepcopy(solver.entropy_free), copy.deepcopy(solver.predictor)
    next_action, _ = solver.nets.policy.sample(batch.next_obs, draw.target)
    y = batch.reward + 0.99 * (1 - batch.terminated) * solver.entropy_free_target(batch.next_obs, next_action).amin(0)
    pair = torch.cat([batch.obs, batch.action], -1)
    losses = {
        entropy_free: lambda: (entropy_free(batch.obs, batch.action) - y.detach()).square().mean(1).sum(),
        predictor: lambda: (predictor(pair) - batch.next_obs).abs().sum(-1).mean(),
    }
    logged = {
        "entropy_free_critic_loss": losses[entropy_free]().detach(),
        "prediction_error": losses[predictor]().detach(),
        "q": entropy_free(batch.obs, batch.action).detach().mean(),
    }
    for net, loss in losses.items():
        optimiser = torch.optim.Adam(net.parameters(), 1e-3, eps=1e-5)
        loss().backward()
        optimiser.step()
    target = [parameter.clone() for parameter in solver.entropy_free_target.parameters()]
    metrics = solver.update_eager(batch, draw)
    assert_close({name: metrics[name] for name in logged}, logged)
    for mine, theirs in ((solver.entropy_free, entropy_free), (solver.predictor, predictor)):
        for left, right in zip(mine.parameters(), theirs.parameters(), strict=True):
            assert_close(left, right)
    for before, after, online in zip(
        target, solver.entropy_free_target.parameters(), entropy_free.parameters(), strict=True
    ):
        assert_close(after.detach(), before + 0.3 * (online.detach() - before))
        assert (after - before).abs().max() > 1e-4  # far above the tolerance: 0.3 of Adam's first step


def test_errors_can_be_measured_in_those_the_predictor_is_used_to():
    agent, _, _ = scripted(worst_at(2, 1, 3, 0), iterations=1, error_quantile=0.9)
    while agent.iteration == 0:
        agent.step()
    usual = []
    begin = agent.begin_search

    def spy():
        replay = agent.solver.replay
        rows = replay.unpack(replay.rows[: len(replay)])
        predicted = agent.solver.predictor(torch.cat([rows.obs, rows.action], -1))
        usual.append((predicted - rows.next_obs).abs().sum(-1).detach())
        begin()

    agent.begin_search = spy
    finish(agent)
    scale = agent.path[1]["error_scale"]
    assert usual[0].min() < scale < usual[0].max()
    assert 0.6 < float(is_valid(usual[0], scale).float().mean()) <= 1.0
    assert_close(float(agent.policy.rho[0]), agent.path[1]["rho"] * scale)
    assert [one.usual for one in agent.policy.specialists([0.0])] == [scale]


def test_a_policy_of_before_the_unit_was_kept_has_the_unit_one():
    agent, _, _ = scripted(worst_at(2, 1, 3, 0), gate_memory=0.5, gate_choice="accurate")
    state = agent.policy.state_dict()
    agent.policy.usual.fill_(7.0), agent.policy.first.fill_(1)
    del state["usual"], state["first"]
    agent.policy.load_state_dict(state)
    assert agent.policy.usual.tolist() == [1.0, 1.0, 1.0]
    assert agent.policy.first.tolist() == [-1] * 4
    assert agent.stateful().gate == Gate(0.5, "accurate")


# --- putting away and taking out --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        {"search": "grid", "next_model": "random"},
        {"search": "cma", "population": 4, "generations": 3, "repeat_tolerance": 0.0, "iterations": 1},
    ],
    ids=["grid", "cma"],
)
def test_a_run_stopped_anywhere_is_the_same_run_bit_for_bit(options, tmp_path, monkeypatch):
    monkeypatch.setattr("surefoot.agents.iwocs.agent.SIDE_BY_SIDE", 4)  # a search of several slices
    straight = real_agent(**options)
    stops = saved_in_every_part(
        straight, lambda one: (one.iteration, one.solver is None, one.search is not None and one.held_out), tmp_path
    )
    assert len(stops) == 3 * (1 + straight.config.iterations)  # training, choosing ρ, held out; of each model
    assert_the_same_run_from(stops, straight, tmp_path, options)


def test_a_run_stopped_between_two_equal_thresholds_is_the_same_run_bit_for_bit(tmp_path, monkeypatch):
    """Both thresholds reject nobody and act alike: every episode of a cut pole is as long as the other's."""
    monkeypatch.setattr("surefoot.agents.iwocs.agent.SIDE_BY_SIDE", 4)
    options = {"threshold_ties": "again", "thresholds": (1e6, 1e7), "repeat_tolerance": 0.0, "iterations": 1}
    straight = real_agent(**options)
    place = lambda one: (one.iteration, one.solver is None, one.search is not None and len(one.trials.held_out))  # noqa: E731
    stops = saved_in_every_part(straight, place, tmp_path)
    assert (1, True, 1) in stops
    assert len(straight.path[1]["again"]) == 2
    assert_the_same_run_from(stops, straight, tmp_path, options)


def test_a_run_stopped_in_a_further_round_is_the_same_run_bit_for_bit(tmp_path, monkeypatch):
    """No specialist holds for the first three rounds: the first model has three of them, the second one."""
    monkeypatch.setattr("surefoot.agents.iwocs.agent.holds", lambda own, known: False)
    options = {"prolong": 2, "iterations": 4, "gate_first": "searched", "on_repeat": "next-worst"}
    options["thresholds"] = (0.0, 0.1, 1.0)
    straight = real_agent(**options)
    stops = saved_in_every_part(straight, lambda one: (one.iteration, one.round, one.solver is None), tmp_path)
    assert [place[:2] for place in stops if not place[2]] == [(0, 0), (1, 1), (1, 2), (1, 3), (2, 1)]
    assert_the_same_run_from(stops, straight, tmp_path, options)


@pytest.mark.parametrize(("models", "expected"), [(0, (0, 0, 20)), (2, (1, 2, 12))])
def test_a_run_of_before_there_were_rounds_goes_on(models, expected):
    straight, resumed = (scripted(worst_at(2, 1, 3, 0))[0] for _ in range(2))
    while straight.iteration < models:
        straight.step()
    state = straight.state_dict()
    del state["round"], state["rounds"]
    resumed.load_state_dict(state)
    assert (resumed.round, resumed.rounds, resumed.budget) == expected


def test_the_policy_alone_plays_as_the_agent_does():
    agent = real_agent()
    agent.policy.rho[:] = torch.tensor([0.05, 0.3])
    agent.policy.used.fill_(2)
    policies = played_alike_alone(agent)
    assert isinstance(policies[1], Composite)
    assert policies[1].fractions.count_nonzero() > 1


@pytest.mark.parametrize("gate_critic", ["entropy-free", "soft"])
def test_the_critic_that_decides_who_acts(gate_critic):
    agent, _, _ = scripted(worst_at(2, 1, 3, 0), gate_critic=gate_critic, iterations=1)
    while agent.iteration == 0:
        agent.step()
    solver = agent.solver
    finish(agent)
    obs, action = make_batch(6).obs, make_batch(6).action
    (specialist,) = agent.policy.specialists([1.0])
    of = {"entropy-free": solver.entropy_free, "soft": solver.nets.critic}
    assert_close(specialist.q(obs, action), of.pop(gate_critic)(obs, action))
    (other,) = of.values()
    assert not torch.equal(specialist.q(obs, action), other(obs, action))
    IWOCSPolicy(agent.config, agent.setting.spaces).load_state_dict(agent.policy.state_dict())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"thresholds": ()}, "--agent.thresholds must be numbers from 0 on, up"),
        ({"thresholds": (0.5, 0.1)}, "--agent.thresholds must be numbers from 0 on, up"),
        ({"error_quantile": 1.0}, r"--agent.error-quantile must be in \(0, 1\), or None, not 1.0"),
        ({"gate_memory": 1.0}, r"--agent.gate-memory must be in \[0, 1\), not 1.0"),
        ({"grid_n": 1}, "--agent.grid-n must be at least 2"),
        ({"prolong": -1}, "--agent.prolong must be at least 0"),
        ({"iterations": -1}, "--agent.iterations must be at least 0"),
        ({"model_steps": 0}, "--agent.model-steps must be at least 1"),
        ({"entropy_free_hidden": ()}, "--agent.entropy-free-hidden must be one or more widths"),
        ({"held_out_episodes": 1}, "--agent.held-out-episodes must be at least 2, for an interval, not 1"),
    ],
)
def test_settings_out_of_range_are_one_line(changes, message):
    with pytest.raises(ValueError, match=message):
        IWOCSConfig(**changes)


@pytest.mark.parametrize(
    ("steps", "iterations", "phases"),
    [
        (20, 0, ("default policy, 20 steps",)),
        (32, 3, ("default policy, 20 steps", "up to 1 model of 12 steps")),
        (
            47,
            3,
            (
                "default policy, 20 steps",
                "up to 2 models of 12 steps",
                "3 of 12 steps in model 3, which stays unfinished",
            ),
        ),
        (999, 3, ("default policy, 20 steps", "up to 3 models of 12 steps")),
    ],
)
def test_the_plan_names_the_phases_that_fit_into_the_steps(steps, iterations, phases):
    planned = plan(dataclasses.replace(CONFIG, iterations=iterations), Budget(steps, 2))
    assert planned.phases == phases
    assert planned.steps == min(steps, 20 + 12 * iterations)
