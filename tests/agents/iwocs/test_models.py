"""The gate by models that explain an episode, against docs/derivations/iwocs.md §4.7 and E21."""

import copy
import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from iwocs_runs import assert_the_same_run_from, finish, played_alike_alone, real_agent, saved_in_every_part
from tiny import make_setting
from torch.testing import assert_close

from surefoot.agents.iwocs.composite import Composite, Specialist
from surefoot.agents.iwocs.config import IWOCSConfig
from surefoot.agents.iwocs.models import (
    CompositeAmongModels,
    Lessons,
    ModelGate,
    Recorder,
    excess,
    holding,
    plausible,
    who_acts,
)

GATE = {"gate": "models", "gate_updates": 6, "thresholds": IWOCSConfig().thresholds}


# --- the equations ----------------------------------------------------------------------------------------------------


def test_an_error_counts_as_far_as_it_exceeds_the_usual_one():
    assert_close(excess(torch.tensor([0.1, 0.2, 0.3, 1.0]), torch.tensor(0.2)), torch.tensor([0.0, 0.0, 0.5, 4.0]))


def test_a_model_explains_an_episode_where_its_excess_is_no_more_than_the_tolerance_above_the_least():
    trace = torch.tensor([[0.0, 3.0, 3.1], [5.0, 9.0, 7.9]])
    assert plausible(trace, 3.0).tolist() == [[True, True, False], [True, False, True]]


def test_a_policy_holds_where_it_gets_nine_tenths_of_the_way_from_the_least_of_all_to_the_best_there():
    lowest = torch.tensor([[0.0, 100.0, 40.0], [90.0, 89.0, 36.0], [100.0, 91.0, 35.0]])
    assert holding(lowest).tolist() == [[False, True, True], [True, False, True], [True, True, False]]


# Of three policies, the last being the default: in model 0 the first holds, in 1 the first two, in 2 the default alone.
VALUES = torch.tensor([[10.0, 9.0, 0.0], [0.0, 10.0, 0.0], [0.0, 0.0, 10.0]])


@pytest.mark.parametrize(
    ("explains", "before", "acts"),
    [
        ([1, 1, 1], 2, "nobody"),  # nobody holds in all of them: who acts then does
        ([1, 1, 1], 0, "nobody"),  # also where somebody else acted
        ([1, 1, 0], 2, 0),
        ([0, 1, 0], 2, 1),  # both hold, the second gets more
        ([0, 1, 0], 0, 0),  # but who acts goes on while it holds
        ([0, 0, 1], 0, "nobody"),  # no specialist does
        ([0, 0, 1], 2, "nobody"),
    ],
)
def test_who_acts_holds_in_every_model_that_explains_the_episode(explains, before, acts):
    explains = torch.tensor([explains]).bool()
    for nobody in range(3):
        chosen = who_acts(VALUES, holding(VALUES), explains, torch.tensor([before]), torch.tensor([nobody]))
        assert chosen.tolist() == [nobody if acts == "nobody" else acts]


def test_the_default_never_goes_on_where_a_specialist_holds():
    values = torch.tensor([[9.0, 0.0], [10.0, 10.0]])  # of the default last, which gets as much and more
    explains, default = torch.tensor([[True, False], [True, True]]), torch.tensor([1, 1])
    assert who_acts(values, holding(values), explains, default, default).tolist() == [0, 1]


# --- the composite ----------------------------------------------------------------------------------------------------


class Exact(ModelGate):
    """Of s' = s + ψ a, with two models, ψ = −1 and 1: everything is known."""

    def __init__(self, values):
        super().__init__((1, 1, 1), 2, len(values), (), torch.Generator())
        self.points.copy_(torch.tensor([[-1.0], [1.0]]))
        self.values.copy_(torch.tensor(values))
        self.lowest.copy_(self.values)
        self.usual.fill_(0.5)

    def error(self, obs, action, parameters, next_obs):
        return (obs + parameters * action - next_obs).abs().sum(-1)


def acting(action):
    return lambda obs: torch.full((len(obs), 1), action)


def specialist(action):
    return Specialist(acting(action), None, None, 0.0)


TOLD_APART = [1.0, 1.0], [2.0, 3.0], [2.0, 3.0], [2.0, 1.0]  # after a step, and not in the second episode yet
BY_ANOTHER = [3.0, 3.0], [2.0, 3.0], [2.0, 3.0], [2.0, 3.0]


@pytest.mark.parametrize(("first", "expected"), [(-1, TOLD_APART), (1, BY_ANOTHER)])
def test_one_acts_until_the_models_are_told_apart_and_again_where_an_episode_begins(first, expected):
    gate = Exact([[0.0, 0.0], [9.0, 0.0], [0.0, 9.0]])  # the default, whose row is the first, holds nowhere
    composite = CompositeAmongModels([specialist(2.0), specialist(3.0)], acting(1.0), gate, tolerance=2.5, first=first)
    psi = torch.tensor([[-1.0], [1.0]])
    state, taken = torch.zeros(2, 1), []
    for ended in ([0, 0], [0, 0], [0, 1], [0, 0]):
        action = composite(state)
        taken.append(action.flatten().tolist())
        state = state + psi * action
        composite.observe(torch.zeros(2), torch.tensor(ended))
        state = torch.where(torch.tensor(ended)[:, None] > 0, 7.0, state)
    # Of a step with the action 1 the wrong model has the error 2 and the excess 2/0.5 − 1 = 3 > 2.5.
    assert taken == list(expected)
    shares = [sum(actions.count(action) for actions in expected) / 8 for action in (2.0, 3.0, 1.0)]
    assert_close(composite.fractions, torch.tensor(shares))


def test_after_the_first_step_the_default_acts_where_nobody_is_usable():
    gate = Exact([[0.0, 0.0], [9.0, 0.0], [0.0, 9.0]])
    composite = CompositeAmongModels([specialist(0.2), specialist(0.1)], acting(0.3), gate, tolerance=9.0, first=1)
    taken = []
    for _ in range(3):
        taken.append(round(composite(torch.zeros(1, 1)).item(), 1))
        composite.observe(torch.zeros(1), torch.zeros(1))
    assert taken == [0.1, 0.3, 0.3]


def test_who_holds_in_all_models_acts_first_whoever_else_would():
    gate = Exact([[0.0, 0.0], [9.0, 9.0], [0.0, 9.0]])
    composite = CompositeAmongModels([specialist(2.0), specialist(3.0)], acting(1.0), gate, tolerance=2.5, first=1)
    assert composite(torch.zeros(1, 1)).item() == 2.0


def test_excess_adds_up_over_an_episode_and_quiet_steps_add_nothing():
    gate = Exact([[0.0, 0.0], [9.0, 0.0], [0.0, 9.0]])
    composite = CompositeAmongModels([specialist(2.0), specialist(3.0)], acting(0.4), gate, tolerance=1.0)
    state, taken = torch.zeros(1, 1), []
    for _ in range(4):
        action = composite(state)
        taken.append(round(action.item(), 1))
        state = state + action
        composite.observe(torch.zeros(1), torch.zeros(1))
    assert taken == [0.4, 0.4, 3.0, 3.0]  # the wrong model: 0.8/0.5 − 1 = 0.6 a step, 1.2 after two
    quiet = CompositeAmongModels([specialist(2.0), specialist(3.0)], acting(0.2), gate, tolerance=1.0)
    for t in range(50):  # 0.4 is no more than the usual error
        assert quiet(torch.tensor([[0.2 * t]])).item() == pytest.approx(0.2)
        quiet.observe(torch.zeros(1), torch.zeros(1))


def test_every_step_is_judged_in_every_model():
    gate = ModelGate((3, 2, 2), 5, 2, (8,), torch.Generator().manual_seed(0))
    gate.points.copy_(torch.rand(5, 2))
    obs, action, after = torch.randn(4, 3), torch.randn(4, 2), torch.randn(4, 3)
    one = [[gate.error(obs[[n]], action[[n]], gate.points[[p]], after[[n]]).item() for p in range(5)] for n in range(4)]
    assert_close(gate.errors(obs, action, after), torch.tensor(one))


def test_the_ceiling_is_the_worst_case_of_who_is_best_in_each_model():
    gate = Exact([[5.0, 1.0], [3.0, 4.0], [9.0, 2.0]])
    assert [gate.ceiling(n) for n in (1, 2, 3)] == [1.0, 4.0, 4.0]


# --- learning ---------------------------------------------------------------------------------------------------------


def test_the_steps_of_every_episode_are_kept_with_its_model():
    """Two models of two episodes in three environments: an episode's observation counts its steps, from 100 its job."""
    recorder = Recorder(Composite([], acting(0.5)), torch.tensor([[-1.0], [1.0]]), episodes=2)
    recorder.reset()
    lengths, waiting, job, age = [3, 2, 131, 2], [3], [0, 1, 2], [0, 0, 0]
    for _ in range(135):
        recorder.track(torch.tensor(job), 4)
        recorder(torch.tensor([[1000.0 * j + a] for j, a in zip(job, age, strict=True)]))
        age = [a + 1 for a in age]
        ended = [j >= 0 and a == lengths[j] for j, a in zip(job, age, strict=True)]
        for n in range(3):
            if ended[n]:
                job[n], age[n] = (waiting.pop() if waiting else -1), 0
        recorder.observe(torch.zeros(3), torch.tensor(ended))
    obs, action, _, next_obs, _, model = (torch.cat(column) for column in zip(*recorder.rows, strict=True))
    assert (next_obs == obs + 1).all()
    assert (action == 0.5).all()
    steps = {j: [int(o) % 1000 for o in obs[:, 0] if int(o) // 1000 == j] for j in range(4)}
    assert {j: len(kept) for j, kept in steps.items()} == {0: 2, 1: 1, 2: 103, 3: 1}  # the last step is not seen
    assert steps[2] == [*range(100), 109, 119, 129]  # whose ends are the 110th, 120th and 130th
    assert (model[:, 0] == torch.where(obs[:, 0] < 2000, -1.0, 1.0)).all()


def drift(points, steps, generator):
    """Rows of s' = s + 0.3 ψ a, at every one of the points."""
    obs, action = torch.randn(2, len(points), steps, 1, generator=generator)
    next_obs = obs + 0.3 * points[:, None] * action
    return [part.flatten(0, 1) for part in (obs, action, next_obs, points[:, None].expand(-1, steps, -1))]


def test_after_its_lessons_the_right_model_explains_best_what_was_not_learned_from():
    points = torch.linspace(-1, 1, 5)[:, None]
    gate = ModelGate((1, 1, 1), 5, 2, (32, 32), torch.Generator().manual_seed(0))
    gate.points.copy_(points)
    config = SimpleNamespace(critic_lr=3e-3, adam_eps=1e-8, gate_updates=1500, batch_size=64, replay_capacity=2000)
    lessons = Lessons(gate, points.double(), config, make_setting())
    lessons.begin(config.gate_updates)
    generator = torch.Generator().manual_seed(1)

    def play(recorder, some, seeds):
        assert seeds == [7, 8]
        obs, action, next_obs, model = drift(some.float(), 200, generator)
        zero = torch.zeros(len(obs))
        recorder.rows = [lessons.replay.kind(obs, action, zero, next_obs, zero, model)]
        return torch.stack([some[:, 0], some[:, 0] + 1], -1)

    taught = 0
    while not lessons.done:
        lessons.step(1, lambda number: Composite([], acting(0.0)), play, ([7, 8], [9]), side_by_side=4)
        taught += 1
    assert taught == 3 + 3  # two points at a time, 500 updates at a time
    assert_close(gate.values[1], points[:, 0].double() + 0.5)  # means over the episodes
    assert_close(gate.lowest[1], points[:, 0].double())
    assert (gate.values[0] == 0).all()
    obs, action, next_obs, _ = drift(points, 300, generator)
    error = gate.errors(obs, action, next_obs).unflatten(0, (5, 300))
    telling = action.unflatten(0, (5, 300)).abs()[..., 0] > 0.5
    nearest = error.argmin(-1)
    assert (nearest == torch.arange(5)[:, None])[telling].float().mean() > 0.95
    own = error[torch.arange(5), :, torch.arange(5)]
    assert 0.8 < (own <= gate.usual).float().mean() < 0.97  # the usual error is that of nine in ten


def lessons_of(points, policies):
    gate = ModelGate((1, 1, 1), points, policies, (4,), torch.Generator().manual_seed(0))
    settings = {"critic_lr": 1e-3, "adam_eps": 1e-8, "gate_updates": 2, "batch_size": 4, "replay_capacity": 500}
    return gate, Lessons(gate, torch.arange(points)[:, None].double(), SimpleNamespace(**settings), make_setting())


def test_every_policy_is_played_on_held_out_seeds_at_points_in_doubt_and_nowhere_else():
    """Four points; a policy gets ten times its number, plus the point, less in its last episode at points 1 and 3."""
    gate, lessons = lessons_of(4, 3)
    called = []

    def alone(number):
        return SimpleNamespace(number=number, reset=lambda: None)

    def play(recorder, points, seeds):
        number = recorder.composite.number
        called.append((number, points[:, 0].tolist(), list(seeds)))
        zero = torch.zeros(4, 1)
        recorder.rows = [lessons.replay.kind(zero, zero, zero[:, 0], zero, zero[:, 0], zero)]
        returns = 10.0 * number + points.expand(-1, len(seeds)).clone()
        for row, point in enumerate(points[:, 0].tolist()):
            returns[row, -1] -= {1.0: seeds[-1], 3.0: 9.0 - seeds[-1]}.get(point, 0.0)
        return returns

    def teach(newest):
        lessons.begin(2 if newest else 0)
        called.clear()
        while not lessons.done:
            lessons.step(newest, alone, play, ([1, 2], [3, 4, 5]), side_by_side=4)
        return called

    searched = [([0.0, 1.0], [1, 2]), ([2.0, 3.0], [1, 2])]
    again = [([1.0], [3, 4, 5]), ([3.0], [3, 4, 5])]
    assert teach(0) == [(0, *one) for one in searched]
    lessons.doubt(torch.tensor([[9.0, 9.0], [9.0, 8.9], [9.0, 9.0], [0.0, 9.0]]), 9.0)
    assert lessons.doubtful.tolist() == [False, True, False, True]
    assert teach(1) == [(1, *one) for one in searched] + [(0, *one) for one in again] + [(1, *one) for one in again]
    lessons.doubt(torch.full((4, 2), 9.0), 9.0)  # what is in doubt stays so
    assert teach(2) == [(2, *one) for one in searched] + [(2, *one) for one in again]
    # Of two episodes and then three, in the last of which is less by 2 and 5 at point 1, by 7 and 4 at point 3.
    of_policy = torch.tensor([[0.0], [10.0], [20.0]]).double()
    assert_close(gate.values, torch.tensor([[0.0, 1 - 7 / 5, 2.0, 3 - 11 / 5]]).double() + of_policy)
    assert_close(gate.lowest, torch.tensor([[0.0, 1.0 - 5.0, 2.0, 3.0 - 7.0]]).double() + of_policy)
    _, resumed = lessons_of(4, 3)
    state = lessons.state_dict()
    resumed.load_state_dict(state)
    assert resumed.doubtful.tolist() == [False, True, False, True]
    assert resumed.settled.tolist() == [[False, True, False, True]] * 3
    del state["doubtful"], state["settled"]  # of a run before there were doubts
    resumed.load_state_dict(state)
    assert not resumed.doubtful.any()
    assert not resumed.settled.any()


def test_a_policy_that_fell_once_does_not_hold_however_seldom_that_is():
    gate = Exact([[999.0, 1000.0], [1000.0, 0.0], [0.0, 0.0]])
    gate.lowest[0, 0] = 187.0  # once of many episodes
    composite = CompositeAmongModels([specialist(2.0)], acting(1.0), gate, tolerance=2.5)
    assert composite.holds.tolist() == [[True, False], [False, True]]


# --- the agent --------------------------------------------------------------------------------------------------------


def test_a_run_stopped_while_it_searches_who_acts_first_is_the_same_run_bit_for_bit(tmp_path, monkeypatch):
    monkeypatch.setattr("surefoot.agents.iwocs.agent.SIDE_BY_SIDE", 4)
    monkeypatch.setattr(ModelGate, "ceiling", lambda self, policies: 1e6)  # so that there is something to search for
    options = GATE | {"next_model": "random", "gate_first": "searched", "threshold_by": "mean"}
    straight = real_agent(**options)
    place = lambda one: (one.iteration, None if one.search is None else len(one.trials.found))  # noqa: E731
    stops = saved_in_every_part(straight, place, tmp_path)
    assert [len(entry["others_first"]) for entry in straight.path] == [0, 1, 2]
    assert {(2, 0), (2, 1), (2, 2), (2, 3)} <= set(stops)
    assert_the_same_run_from(stops, straight, tmp_path, options)


def test_a_run_stopped_in_its_lessons_is_the_same_run_bit_for_bit(tmp_path, monkeypatch):
    monkeypatch.setattr("surefoot.agents.iwocs.agent.SIDE_BY_SIDE", 4)
    monkeypatch.setattr("surefoot.agents.iwocs.models.SLICE", 2)
    options = GATE | {"repeat_tolerance": 0.0, "gate_updates": 12}
    straight = real_agent(**options)

    def place(agent):
        if agent.search is None:
            return agent.iteration, "training"
        return agent.iteration, agent.lessons.played, agent.lessons.left, agent.held_out

    stops = saved_in_every_part(straight, place, tmp_path)
    assert len({stop[2] for stop in stops if stop[:2] == (1, 9)} - {0, 12}) >= 2  # in the middle of the updates
    assert straight.path[1]["rho"] is None
    assert straight.path[1]["by_threshold"] == []
    assert [entry["gate_updates"] for entry in straight.path] == [12 * i for i in range(len(straight.path))]
    ceilings = [straight.policy.models.ceiling(n) for n in range(1, len(straight.path) + 1)]
    assert [entry["ceiling"] for entry in straight.path] == ceilings
    assert ceilings[0] == straight.path[0]["worst"]  # the default's own: the same episodes
    assert_the_same_run_from(stops, straight, tmp_path, options)


@pytest.mark.parametrize("engine", ["eager", "native"])
def test_parts_that_the_gate_does_not_ask_change_no_policy_and_no_path(engine):
    options = GATE | {"repeat_tolerance": 0.0, "next_model": "random", "model_steps": 40}
    alone, together = (real_agent(engine=engine, train_all_parts=every, **options) for every in (False, True))
    finish(alone)
    finish(together)
    assert alone.trained_steps == 20 + 2 * 40
    assert alone.path == together.path
    without, whole = ({k: v.tolist() for k, v in one.policy.state_dict().items()} for one in (alone, together))
    unlike = {name.split(".")[0] for name in whole if whole[name] != without[name]}
    assert unlike == {"critics", "predictors"}


def test_a_run_that_had_trained_them_goes_on_without():
    before, after = (real_agent(train_all_parts=every, **GATE | {"next_model": "random"}) for every in (True, False))
    while before.iteration == 0 or before.solver.collector.updates_due < 1:
        before.step()
    before.step()
    after.load_state_dict(copy.deepcopy(before.state_dict()))
    finish(before)
    finish(after)
    assert before.path == after.path
    first, second = (one.policy.actors.state_dict() for one in (before, after))
    assert_close(first, second, rtol=0, atol=0)


def test_what_was_deployed_keeps_the_gate_it_was_deployed_with():
    agent = real_agent(**GATE)
    policy = agent.policy
    policy.deploy(1)
    before = {name: value.clone() for name, value in policy.deployed_models.state_dict().items()}
    policy.models.values.fill_(3.0)
    policy.models.usual.fill_(9.0)
    assert agent.stateful().models is policy.deployed_models
    assert agent.under_test().__class__ is Composite  # the default policy alone
    assert all(torch.equal(value, before[name]) for name, value in policy.deployed_models.state_dict().items())
    policy.deploy(2)
    assert policy.deployed_models.usual == 9.0
    assert (agent.stateful().values == 3.0).all()


def test_the_policy_alone_plays_as_the_agent_does():
    agent = real_agent(**GATE)
    gate = agent.policy.models
    gate.values.copy_(torch.tensor(np.random.default_rng(0).choice([0.0, 1.0], gate.values.shape)))
    gate.lowest.copy_(gate.values)
    gate.usual.fill_(0.2)
    agent.policy.deploy(2)
    policies = played_alike_alone(agent)
    assert isinstance(policies[1], CompositeAmongModels)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"search": "random"}, "--agent.gate models does not go with --agent.search random"),
        ({"search": "cma"}, "--agent.gate models does not go with --agent.search cma"),
        ({"gate_updates": 0}, "--agent.gate-updates must be at least 1"),
        ({"gate_tolerance": -1.0}, "--agent.gate-tolerance must be at least 0"),
    ],
)
def test_what_does_not_go_with_it_is_one_line(changes, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(IWOCSConfig(gate="models"), **changes)


def test_it_looks_at_no_setting_of_the_other_gate_and_that_at_none_of_its_own():
    of_search = {"population", "generations"}
    of_first = {"gate_first", "threshold_by"}
    of_predictors = {"error_quantile", "gate_critic", "gate_memory", "gate_choice", "thresholds", "threshold_ties"}
    assert IWOCSConfig().unread().keys() == of_search | {"gate_updates", "gate_tolerance", "train_all_parts"}
    of_critic = {"entropy_free_hidden"}
    assert IWOCSConfig(gate="models").unread().keys() == of_search | of_predictors | of_first | of_critic
    searched = IWOCSConfig(gate="models", gate_first="searched")
    assert searched.unread().keys() == of_search | of_predictors | of_critic
    assert dataclasses.replace(searched, train_all_parts=True).unread().keys() == of_search | of_predictors
    assert IWOCSConfig(gate="models").unread()["thresholds"] == "with --agent.gate models"
    assert IWOCSConfig(search="cma").unread()["grid_n"] == "with --agent.search cma"
