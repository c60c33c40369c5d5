"""DηN with a stock for each of several rewards, against exact solutions of LARDER.

docs/derivations/distributional.md §7.12.
"""

import json
import re
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from surefoot.agents.distributional import exact
from surefoot.agents.distributional.dhn.agent import DHN, StockEnvs
from surefoot.agents.distributional.dhn.equations import (
    DHNConfig,
    Law,
    Stocked,
    energy_distance,
    relabelled,
    scores,
)
from surefoot.agents.distributional.vector import Vector
from surefoot.agents.distributional.vectors import OBJECTIVES, parse_vector, solve_vectors
from surefoot.agents.interface import Setting, Spaces
from surefoot.agents.parts.tabular import TabularMDP
from surefoot.envs import EnvConfig, Larder, make_vec, spaces_of
from surefoot.evaluation.episodes import evaluate
from surefoot.evaluation.objectives import measure_objectives, plain

LARDER = TabularMDP(*Larder().vector_tabular())
TASK = EnvConfig("surefoot/Larder-v0", num_envs=4)
TIMED = replace(TASK, time_aware=True)
SMALL = DHNConfig(
    objective="targets(2, 1)",
    rewards=("food", "water"),
    gamma=0.9,
    stock_range=(-3.0, 1.0),
    hidden=(8, 8),
    quantiles=4,
    batch_size=8,
    learning_starts=4,
    replay_capacity=60,
)


def make_agent(config=SMALL, task=TASK, seed=0, engine="eager"):
    spaces = Spaces(*spaces_of(task))
    return DHN(config, Setting(spaces, seed, torch.device("cpu"), make_vec(task), engine=engine))


# --- what is maximised, and the loss ----------------------------------------------------------------------------------


@pytest.mark.parametrize("word", OBJECTIVES)
def test_utilities_of_tensors_are_those_of_fractions(word):
    points = torch.tensor([[a, b] for a in (-2.0, -0.5, 0.0, 1.5) for b in (-1.0, 0.0, 3.0)], dtype=torch.float64)
    by_hand = [float(OBJECTIVES[word].rational(Vector(tuple(map(Fraction, row))))) for row in points.tolist()]
    assert OBJECTIVES[word].utility(points).tolist() == pytest.approx(by_hand)
    flat = len({x for x, row in zip(by_hand, points.tolist(), strict=True) if min(row) >= 0}) == 1
    assert OBJECTIVES[word].flat == flat


def test_scores_take_the_pairs_of_returns_together_and_break_ties_by_their_sum():
    # the first action pays (1, 0) or (0, 1), the second (1, 1) or (0, 0): the same marginals
    values = torch.tensor([[[[1.0, 0.0], [0.0, 1.0]], [[1.0, 1.0], [0.0, 0.0]]]])
    both = scores(Law(values, None, True), torch.tensor([[-1.0, -1.0]]), parse_vector("joint-probability(1, 1)"))
    assert_close(both, torch.tensor([[1e-3, 0.5 + 1e-3]]))
    z = torch.tensor([0.5])
    far = scores(Law(2 * values, None, True), torch.tensor([[-2.0, 0.0]]), parse_vector("targets(2, 0)"), z)
    assert_close(far, torch.tensor([[-(0 + 2**0.5) / 2, -(1 + 1) / 2]]))


def test_the_energy_distance_by_hand_and_its_least_value_at_the_targets():
    z, y = torch.tensor([[[0.0, 0.0], [3.0, 4.0]]]), torch.zeros(1, 1, 2)
    assert_close(energy_distance(z, y), torch.tensor([2 * (0 + 5) / 2 - (0 + 5 + 5 + 0) / 4]))
    y = torch.randn(1, 6, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    at_rest = y.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(energy_distance(at_rest, y).sum(), at_rest)
    assert_close(gradient, torch.zeros_like(gradient), rtol=0, atol=1e-9)
    for shift in (0.1, -0.3):
        assert energy_distance(y + shift, y) > energy_distance(y, y)
    assert energy_distance(y[:, torch.randperm(6)] * torch.tensor([1.0, -1.0]), y) > energy_distance(y, y)


# --- stocks and targets -----------------------------------------------------------------------------------------------


def test_every_reward_has_a_stock_that_takes_it_in():
    envs = StockEnvs(SMALL, Setting(Spaces(*spaces_of(TASK)), 0, torch.device("cpu"), make_vec(TASK)))
    start = envs.stock
    assert start.shape == (4, 2)
    assert bool(((start >= -3) & (start <= 1)).all())
    assert not torch.equal(start[:, 0], start[:, 1])
    for t in range(3):
        before = envs.stock
        rows, _ = envs.step(torch.tensor([0, 1, 2, 1]), 0)
        assert_close(rows.stock, before)
        food, water = rows.reward.T
        assert (food[0], water[0], water[1], food[2]) == (0, 0, -1, 0)
        assert water[2] in (1, 2)
        assert_close(start + rows.earned, (0.9**t * rows.stock), rtol=1e-5, atol=1e-5)
        if t < 2:
            assert_close(envs.stock, (before + rows.reward) / 0.9)
    assert bool((envs.earned == 0).all())  # all episodes are over
    assert envs.scale.tolist() == [1.0] * 4


@pytest.mark.parametrize("how", ["free", "trajectory"])
def test_relabelled_stocks_are_those_that_fresh_starts_would_have_made(how):
    envs = StockEnvs(SMALL, Setting(Spaces(*spaces_of(TASK)), 0, torch.device("cpu"), make_vec(TASK)))
    first, _ = envs.step(torch.tensor([0, 1, 2, 1]), 0)
    rows, _ = envs.step(torch.tensor([1, 1, 2, 0]), 0)
    fresh, replaced = torch.arange(8.0).view(4, 2), torch.tensor([True, False, True, True])
    moved = fresh if how == "free" else (fresh + first.reward) / 0.9
    got = relabelled(rows, fresh, replaced, replace(SMALL, relabel=how))
    assert_close(got, torch.where(replaced[:, None], moved, rows.stock))


class Exact(torch.nn.Module):
    """Stands in for a network: the exact pairs of returns of every action, as equally likely points."""

    def __init__(self, program, layers, solved, points):
        super().__init__()
        self.points, self.known = points, {}
        for node in (node for layer in layers for node in layer if not program.is_over(node)):
            laws = [exact.bellman(program, node, a, solved.distributions) for a in range(len(program.outcomes[0][0]))]
            stock = tuple(map(float, node[2].entries))
            self.known.setdefault(node[1], []).append((stock, [self.atoms(law) for law in laws]))

    def atoms(self, law):
        """Return the pairs, flat, of a distribution of which every chance is a multiple of 1/N."""
        rows = [
            list(map(float, (value if isinstance(value, Vector) else Vector((value, value))).entries))
            for value in law
            for _ in range(int(law[value] * self.points))
        ]
        assert len(rows) == self.points
        return [number for row in rows for number in row]

    def forward(self, obs, stock):
        return torch.tensor([self.at(int(o.argmax()), s) for o, s in zip(obs[:, :4], stock.tolist(), strict=True)])

    def at(self, state, stock):
        if state not in self.known:  # over: a target that looked here would be far off
            return [[1e6] * 2 * self.points] * 3
        nearest, laws = min(self.known[state], key=lambda known: np.hypot(*np.subtract(known[0], stock)))
        assert np.hypot(*np.subtract(nearest, stock)) < 1e-3, "a stock that cannot be reached"
        return laws


@pytest.mark.parametrize("objective", ["targets(2, 1)", "shortfalls(1, 2)", "joint-probability(2, 1)"])
def test_targets_of_exact_points_are_the_exact_distributions_and_greedy_actions_optimal(objective):
    goal, points = parse_vector(objective), 64
    program = exact.make_program(LARDER, goal, 0.9, 3, scaled=False)
    layers = exact.reachable(program, [goal.stock])
    solved = exact.backward_induction(program, layers)
    finite = {"horizon": 3} if goal.degree == 0 else {}
    agent = make_agent(replace(SMALL, objective=objective, quantiles=points, **finite), TIMED if finite else TASK)
    agent.target = agent.policy.net = Exact(program, layers, solved, points)
    for node in (node for layer in layers for node in layer if not program.is_over(node)):
        for action in range(3):
            outcomes = program.after(node[0], node[1], action)
            batch = batch_of(node, outcomes, bool(finite))
            y = agent.target_points(batch, batch.stock)
            found = {}
            for (chance, _, _), rows in zip(outcomes, y.tolist(), strict=True):
                for row in rows:
                    key = tuple(round(number, 3) for number in row)
                    found[key] = found.get(key, 0.0) + float(chance) / points
            law = exact.bellman(program, node, action, solved.distributions)
            wanted = {tuple(round(float(x), 3) + 0.0 for x in value.entries): float(p) for value, p in law.items()}
            assert found == pytest.approx(wanted), (node, action)
        chosen = int(agent.policy.greedy(batch.obs[:1], batch.stock[:1])[0])
        taken = exact.bellman(program, node, chosen, solved.distributions)
        best = exact.expected_utility(program, node, solved.distributions[node])
        assert float(exact.expected_utility(program, node, taken)) == pytest.approx(float(best), abs=1e-4), node


def batch_of(node, outcomes, timed):
    """Return the transition (B,) of every outcome."""
    step, state, stock = node
    count = len(outcomes)
    obs, next_obs = torch.zeros(2, count, 4 + timed)
    obs[:, state] = next_obs[:, state + 1] = 1.0
    if timed:
        obs[:, -1], next_obs[:, -1] = step, step + 1
    reward = torch.tensor([list(map(float, reward.entries)) for _, _, reward in outcomes])
    ended = torch.full((count,), float(state + 1 == 3))
    stocks = torch.tensor([list(map(float, stock.entries))]).expand(count, 2)
    one = torch.ones(count)
    return Stocked(obs, 0 * one, reward, next_obs, ended, 0.9 * one, stocks, torch.zeros(count, 2), 0.9**step * one)


# --- what is learned --------------------------------------------------------------------------------------------------

LEARNED = replace(
    SMALL,
    hidden=(64, 64),
    quantiles=16,
    batch_size=64,
    learning_starts=200,
    replay_capacity=6000,
    target_update_interval=25,
    lr=3e-3,
    exploration_steps=3000,
    decay_steps=6000,
)


def learned(config, task, steps=6000):
    torch.set_num_threads(1)
    agent = make_agent(config, replace(task, num_envs=16))
    while agent.env_steps < steps:
        agent.step()
    return agent


def test_one_network_finds_the_exact_optimum_of_larder_at_every_pair_of_targets():
    agent = learned(LEARNED, TASK)
    for objective in ("targets(2, 1)", "targets(1, 2)"):
        optimum = solve_vectors(LARDER, objective, gamma=0.9, horizon=3).value
        (m,) = measure_objectives(agent.policy, TASK, [objective], episodes=20_000, seed=3)
        assert (m.returns.shape, m.stock) == ((20_000, 2), tuple(map(float, parse_vector(objective).stock.entries)))
        assert m.value == pytest.approx(float(optimum), abs=0.02), objective  # without a stock at best −0.954


# at γ = 1/2 a stock that is not divided by γ, or stands still, chooses otherwise
HALF = replace(LEARNED, gamma=0.5, stock_range=(-3.5, 1.75), relabel="trajectory")
LONGER = {"exploration_steps": 4500, "decay_steps": 9000}


@pytest.mark.parametrize(
    ("objective", "blind", "slack", "finite"),
    [
        ("shortfalls(1, -1)", -0.156, 0.02, {}),
        ("joint-probability(0.73, 0.28)", 0.188, 0.03, {"horizon": 3}),  # no return lies on a budget
    ],
)
def test_a_short_training_comes_to_the_exact_optimum_of_two_budgets(objective, blind, slack, finite):
    task = TIMED if finite else TASK
    # With 6000 steps the probability comes to `blind` on one seed of six, and which one depends on the processor.
    agent = learned(replace(HALF, objective=objective, **LONGER, **finite), task, steps=9000)
    optimum = float(solve_vectors(LARDER, objective, gamma=0.5, horizon=3).value)
    (m,) = measure_objectives(agent.policy, task, [objective], episodes=20_000, seed=3)
    assert optimum > blind + 3 * slack  # `blind`: c' = c + r, or c' = c; without the second reward −0.789 and 0
    assert m.value == pytest.approx(optimum, abs=slack)


# --- around it --------------------------------------------------------------------------------------------------------


def test_evaluations_measure_the_discounted_returns_of_every_reward():
    policy = make_agent(replace(SMALL, final_epsilon=1.0)).policy
    rounds = [policy.stateful(explore=True, generator=torch.Generator().manual_seed(0)) for _ in range(2)]
    first, again = (evaluate(one, TASK, episodes=6, seed=1, gamma=g) for one, g in zip(rounds, (0.9, 1.0), strict=True))
    assert first.discounted.shape == (6, 2)
    np.testing.assert_allclose(again.discounted.sum(-1), again.returns)  # the reward is the sum of both
    np.testing.assert_allclose(first.returns, again.returns)
    assert not np.allclose(first.discounted, again.discounted)


def test_what_was_measured_can_be_written():
    (m,) = measure_objectives(make_agent().policy, TASK, ["targets(1, 0.5)"], episodes=50, seed=1)
    row = json.loads(json.dumps(plain(m)))
    assert row["stock"] == [-1.0, -0.5]
    assert row["mean_return"] == pytest.approx(m.returns.mean(0).tolist())
    low, high = m.interval
    assert low <= m.value <= high
    assert m.value == pytest.approx(-np.hypot(*(m.returns - [1, 0.5]).T).mean())


@pytest.mark.parametrize("more", [{}, {"horizon": 3, "relabel": "trajectory"}])
@pytest.mark.parametrize("engine", ["torch", "native"])
def test_engines_compute_several_stocks_alike(engine, more):
    task = TIMED if more else TASK
    one, other = (make_agent(replace(SMALL, **more), task, engine=name) for name in ("eager", engine))
    for _ in range(12):
        one.step(), other.step()
    assert one.updates > 5
    for found, expected in zip(other.policy.parameters(), one.policy.parameters(), strict=True):
        assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_a_run_that_is_stopped_and_resumed_is_the_same_run():
    whole, half = make_agent(), make_agent()
    for agent in (whole, half):
        for _ in range(5):
            agent.step()
    rest = make_agent(seed=1)
    rest.load_state_dict(half.state_dict())
    for _ in range(5):
        whole.step(), rest.step()
    assert all(torch.equal(a, b) for a, b in zip(whole.policy.parameters(), rest.policy.parameters(), strict=True))
    assert torch.equal(whole.envs.stock, rest.envs.stock)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rewards": ()}, "'targets(2, 1)' is of 2 rewards, --agent.rewards names 0: name one for each number"),
        ({"objective": "targets(1, 2, 3)"}, "is of 3 rewards, --agent.rewards names 2"),
        ({"objective": "cvar(0.5)"}, "--agent.rewards has no meaning for cvar(0.5), which is of one reward"),
        ({"categories": 5, "return_range": (0.0, 1.0)}, "--agent.categories is for one reward"),
        ({"n_step": 2, "relabel_probability": 0.0}, "--agent.n-step is for one reward"),
        ({"huber_threshold": 0.1}, "--agent.huber-threshold is for one reward"),
        ({"objective": "targets(1, 1e400)"}, "numbers must lie within ±1e300"),
        ({"stock": False}, "needs --agent.stock"),
    ],
)
def test_what_does_not_go_together_is_refused_in_one_line(changes, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        replace(SMALL, **changes)


def test_other_tasks_objectives_and_rewards_are_refused_in_one_line():
    with pytest.raises(ValueError, match=r"names 'salt', but this task has the rewards food, water"):
        make_agent(replace(SMALL, rewards=("food", "salt")))
    with pytest.raises(ValueError, match=r"names 'food', but this task has one reward alone; Larder has"):
        make_agent(task=EnvConfig("surefoot/Fork-v0"))
    with pytest.raises(ValueError, match=r"names 'food', but this task has one reward alone"):
        make_agent(task=EnvConfig("CartPole-v1"))
    with pytest.raises(ValueError, match=r"joint-probability\(2, 1\) is not continuous.*--agent.horizon 3"):
        make_agent(replace(SMALL, objective="joint-probability(2, 1)"))
    agent = make_agent()
    for other in ("cvar(0.5)", "shortfalls(2, 1)", "targets(1, 1, 1)"):
        with pytest.raises(ValueError, match=r"trained for targets\(2, 1\)"):
            measure_objectives(agent.policy, TASK, [other], episodes=10, seed=0)
    stateful = agent.policy.stateful()
    stateful(torch.eye(4)[:2])
    with pytest.raises(ValueError, match="takes the rewards food, water of a step, not their sum alone"):
        stateful.observe(torch.zeros(2), torch.zeros(2, dtype=torch.bool))
