"""The small risk tasks against docs/derivations/distributional.md E10 and E11: returns of all paths, enumerated."""

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from surefoot.envs import Bet, Crossing, Drain, EnvConfig, Fork, Gate, Pantry, make_vec

UP, DOWN, LEFT, RIGHT, STAY = range(5)
MOVES = {"U": UP, "D": DOWN, "L": LEFT, "R": RIGHT, "S": STAY}


def distribution_of(env, choose, steps):
    """Return {return: probability} of acting by `choose(step, state, return so far)`."""
    table, gamma = env.tabular(), env.discount
    alive = {(int(table.start.argmax()), 0.0): 1.0}
    for step in range(steps):
        following = {}
        for (state, total), mass in alive.items():
            row = (0, state, choose(step, state, total))
            outcomes = zip(table.probability[row], table.next_state[row], table.reward[row], strict=True)
            for chance, after, reward in outcomes:
                key = (int(after), round(total + gamma**step * float(reward), 10))
                if chance > 0:
                    following[key] = following.get(key, 0.0) + mass * float(chance)
        alive = following
    distribution = {}
    for (_, total), mass in alive.items():
        distribution[total] = distribution.get(total, 0.0) + mass
    return distribution


def cvar(distribution, tau):
    left, total = tau, 0.0
    for value in sorted(distribution):
        mass = min(left, distribution[value])
        total, left = total + mass * value, left - mass
    return total / tau


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("RRRR", [1.18834, 0.97440, 0.54652, 0.00650, -0.53963, -1.13448]),
        ("URRRRD", [1.04492, 0.97266, 0.82813, 0.45217, 0.30261, 0.10351]),
        ("UURRRRDD", [0.74869] * 6),
    ],
)
def test_the_three_ways_over_the_crossing(path, expected):
    distribution = distribution_of(Crossing(), lambda step, state, total: MOVES[path[step]], len(path))
    assert_close([cvar(distribution, tau) for tau in (1, 0.75, 0.5, 0.25, 0.1, 0.05)], expected, rtol=0, atol=6e-6)


@pytest.mark.parametrize(
    ("exits", "expected"),
    [
        ("GG", [1.349, 1.01567, 0.349, 0.349]),
        ("GB", [1.673, 1.41233, 0.944, -0.461]),
        ("BG", [1.673, 0.74567, 0.349, 0.349]),
        ("BB", [1.997, 1.17767, 0.539, -0.461]),
    ],
)
def test_the_exits_of_the_fork_if_ahead_and_if_behind(exits, expected):
    def choose(step, state, total):
        return RIGHT if step < 2 else {"G": UP, "B": DOWN}[exits[0 if total > 0 else 1]]

    distribution = distribution_of(Fork(), choose, 3)
    assert_close([cvar(distribution, tau) for tau in (1, 0.75, 0.5, 0.25)], expected, rtol=0, atol=6e-6)


def test_the_forks_coin_falls_when_its_cell_is_entered_and_not_at_a_bump():
    env = Fork()
    start, coin, junction = (env.cells.index(cell) for cell in ((1, 0), (1, 1), (1, 2)))
    table = env.tabular()
    for state, action in ((start, RIGHT), (junction, LEFT)):
        assert table.reward[0, state, action].tolist() == [0.9, -1.1]
        assert table.next_state[0, state, action].tolist() == [coin, coin]
    bump = (0, coin, UP)
    assert (table.probability[bump].tolist(), table.reward[bump].tolist()) == ([1.0, 0.0], [-0.1, 0.0])
    assert table.next_state[0, coin, UP, 0] == coin


def test_hazards_also_trigger_on_a_bump():
    env = Crossing()
    reef = env.cells.index((3, 2))
    table = env.tabular()
    assert table.next_state[0, reef, DOWN, 0] == reef
    assert_close(table.probability[0, reef, DOWN], torch.tensor([0.85, 0.15]).double())
    assert_close(table.reward[0, reef, DOWN], torch.tensor([-0.2, -1.7]).double())


def test_gate_and_bet_are_laddered_gambles():
    gate = {(0, 0): {0.0: 1.0}, (0, 1): {3.0: 0.5, -1.5: 0.5}, (1, 0): {3.0: 0.5, 0.0: 0.5}}
    for actions, distribution in gate.items():
        assert distribution_of(Gate(), lambda step, *_: actions[step], 2) == distribution  # noqa: B023 - called at once
    assert Gate().horizon == 2
    distribution = distribution_of(Bet(), lambda *_: 2, 3)
    assert (min(distribution), max(distribution)) == (-5.42, 13.55)
    assert_close(cvar(distribution, 1.0), 5.962)
    assert_close(cvar(distribution_of(Bet(), lambda *_: 1, 3), 1.0), 0.8 * 2.71)


@pytest.mark.parametrize(("task", "drains"), [(Pantry, False), (Drain, True)])
def test_the_pantry_pays_where_one_lands(task, drains):
    env = task()
    table, centre = env.tabular(), env.cells.index((1, 1))
    larder, fast = env.cells.index((1, 2)), env.cells.index((1, 0))
    pays = {(centre, RIGHT): 1, (larder, STAY): 1, (larder, RIGHT): 1, (fast, STAY): -1, (centre, DOWN): 0}
    for (state, action), pay in pays.items():
        expected = [(0.8, pay), (0.2, pay - 1)] if drains else [(1.0, pay)]
        row = (0, state, action)
        assert list(zip(table.probability[row].tolist(), table.reward[row].tolist(), strict=True)) == expected
    assert table.reward[0, centre, UP, 0] == 0
    assert table.probability[0, centre, UP, 0] == 1
    assert env.mark(env.cells[int(table.next_state[0, centre, UP, 0])]) == "E"


def test_the_larder_pays_food_and_water_apart_and_together():
    env = make_vec(EnvConfig("surefoot/Larder-v0", num_envs=400))
    table = env.vector_tabular()
    env.reset(seed=0)
    for _ in range(3):
        state, action = env.state, torch.arange(400) % 3
        _, reward, terminated, _, info = env.step(action)
        pair = torch.stack([info["food"], info["water"]], -1)
        possible = (table.reward[0, state, action].float() == pair[:, None]).all(-1)
        assert (possible & (table.probability[0, state, action] > 0)).any(-1).all()
        assert torch.equal(pair.sum(-1), reward)
    assert terminated.all()
    assert len(torch.cat([action[:, None], pair], -1).unique(dim=0)) == 5  # every outcome occurs
    assert_close(table.reward.sum(-1), env.tabular().reward)
    assert not table.reward[0, 3].any()


@pytest.mark.parametrize("name", ["Gate", "Bet", "Larder", "Crossing", "Fork", "Pantry", "Drain"])
def test_environments_play_the_table_and_end_where_it_says(name):
    env = make_vec(EnvConfig(f"surefoot/{name}-v0", num_envs=500))
    table = env.tabular()
    seen = env.reset(seed=0)[0]
    generator, returns, lengths = torch.Generator().manual_seed(0), torch.zeros(500), torch.zeros(500)
    truncations = 0
    for _ in range(60):
        state = env.state
        assert torch.equal(seen.argmax(-1), state)
        action = torch.randint(env.single_action_space.n, (500,), generator=generator)
        seen, reward, terminated, truncated, info = env.step(action)
        after = info["final_obs"].argmax(-1)
        possible = (table.probability[0, state, action] > 0) & (table.next_state[0, state, action] == after[:, None])
        assert ((table.reward[0, state, action].float() == reward[:, None]) & possible).any(-1).all()
        absorbing = (table.next_state[0, after] == after[:, None, None]) & (table.reward[0, after] == 0)
        assert torch.equal((absorbing | (table.probability[0, after] == 0)).all(-1).all(-1), terminated)
        lengths += 1
        ended = terminated | truncated
        assert (lengths[truncated & ~terminated] == 50).all()
        truncations += int((truncated & ~terminated).sum())
        lengths[ended] = 0
        returns += reward
    assert (truncations > 0) == (env.horizon is None)
    assert np.isfinite(returns.numpy()).all()
