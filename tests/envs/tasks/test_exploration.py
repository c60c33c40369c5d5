"""The exploration tasks against exact values, transition by transition, and as played.

docs/derivations/nora.md §9; its exact answers E8, E11 and E13 to E21.
"""

import gymnasium as gym
import pytest
import torch
from gymnasium.utils.env_checker import check_env
from torch.testing import assert_close

from surefoot.agents.parts.tabular import (
    TabularMDP,
    check,
    concentrability,
    expected_return,
    greedy,
    occupancies,
    optimal_return,
    optimal_values,
)
from surefoot.envs import DeepSea, DiabolicalLock, EnvConfig, Forest, GapBandit, LinearMDP, RiverSwim, Tetris, make_vec
from surefoot.envs.tasks.combination_lock import hadamard
from surefoot.envs.tasks.tetris import PIECES, ROTATIONS, drop, turn

torch.set_num_threads(1)

TASKS = [
    RiverSwim(),
    DeepSea(size=5),
    DiabolicalLock(horizon=4, actions=3),
    GapBandit(),
    Forest(),
    LinearMDP(),
    LinearMDP(task_seed=1, states=6, actions=2, dim=3, horizon=4),
    Tetris(width=3),
]


def always(env, action):
    _, states, actions, _ = env.tabular().reward.shape
    return torch.eye(actions).double()[action].expand(env.horizon, states, actions)


def uniform(env):
    _, states, actions, _ = env.tabular().reward.shape
    return torch.full((env.horizon, states, actions), 1 / actions, dtype=torch.float64)


def values(env, *policies):
    """Return the optimal return and those of policies."""
    mdp = TabularMDP(*env.tabular())
    check(mdp)
    return [float(optimal_return(mdp, env.horizon)), *(float(expected_return(mdp, policy)) for policy in policies)]


@pytest.mark.parametrize(
    ("states", "horizon", "expected"),
    [
        (6, 20, [3.397264, 3.396637, 0.1, 0.043789]),
        (6, 30, [7.520811, 7.520671, 0.15, 0.071311]),
        (12, 40, [3.878714, 3.877104, 0.2, 0.056533]),
    ],
)
def test_river_swim(states, horizon, expected):
    env = RiverSwim(states=states, horizon=horizon)
    assert values(env, always(env, 1), always(env, 0), uniform(env)) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("size", [1, 3, 10, 15])
def test_deep_sea_has_one_way_to_its_treasure(size):
    env = DeepSea(size=size, task_seed=size)
    left = torch.nn.functional.one_hot(1 - env.right, 2).double()
    assert values(env, left, uniform(env)) == pytest.approx([0.99, 0.0, 2.0**-size - 0.005], abs=1e-12)
    mdp = TabularMDP(*env.tabular())
    best = occupancies(mdp, greedy(optimal_values(mdp, size)))
    assert all(best[h, h, env.right[h, h]] == 1 for h in range(size))
    assert size < 10 or 0.2 < env.right.double().mean() < 0.8


@pytest.mark.parametrize(("horizon", "actions"), [(8, 4), (8, 3), (10, 4)])
def test_the_lock_tempts_to_quit_and_hides_its_code(horizon, actions):
    env = DiabolicalLock(horizon=horizon, actions=actions)
    chance = float(actions) ** -horizon
    quits = torch.zeros_like(uniform(env))
    quits[:, 2, 0] = 1
    for good in (0, 1):
        quits[torch.arange(horizon), good, (env.codes[:, good] + 1) % actions] = 1
    expected = [1.0, chance + 0.05 * (1 - chance), 0.05]
    assert values(env, uniform(env), quits) == pytest.approx(expected, abs=1e-12)


def test_coverage_of_mixed_and_of_uniform_data_is_what_the_lock_was_made_for():
    env = DiabolicalLock(horizon=8, actions=4)
    mdp = TabularMDP(*env.tabular())
    best = greedy(optimal_values(mdp, 8))
    mixed = occupancies(mdp, (1 - 1 / 8) * best + 1 / 8 * uniform(env))
    ratio = concentrability(occupancies(mdp, best), mixed)
    assert ratio == pytest.approx((1 - 1 / 8 + 1 / 32) ** -8)
    assert ratio < (1 - 1 / 8) ** -8
    assert concentrability(occupancies(mdp, best), occupancies(mdp, uniform(env))) == pytest.approx(4**8)


def test_the_bandits_gap():
    env = GapBandit(actions=8, rounds=400)
    assert env.gap == pytest.approx((8 / 400) ** 0.5)
    assert values(env, uniform(env)) == pytest.approx([0.5 + env.gap, 0.5 + env.gap / 8])
    assert GapBandit(gap=0.25).gap == 0.25
    with pytest.raises(ValueError, match=r"--env.kwargs gap must be in \[0, 0.5\]"):
        GapBandit(actions=8, rounds=8)


def test_the_explicit_linear_mdp():
    env = LinearMDP()
    assert values(env, uniform(env)) == pytest.approx([2.875354922893912, 2.427613848572225], abs=1e-12)
    first = optimal_values(TabularMDP(*env.tabular()), 5)[0, 0]
    assert_close(first, torch.tensor([2.87535492, 2.63826864, 2.74731580], dtype=torch.float64), rtol=0, atol=1e-8)


@pytest.mark.parametrize("env", [LinearMDP(), LinearMDP(task_seed=3, states=7, actions=4, dim=5, horizon=6)])
def test_linear_mdps_are_linear_in_their_features(env):
    phi = env.features(torch.arange(len(env.phi)))
    mdp = TabularMDP(*env.tabular())
    check(mdp)
    assert_close(mdp.probability, torch.einsum("sai,hit->hsat", phi, env.mu))
    assert_close(mdp.mean_reward, torch.einsum("sai,hi->hsa", phi, env.theta))
    assert bool((phi.norm(dim=-1) <= 1).all())
    assert env.features(torch.zeros(2, 3).long()).shape == (2, 3, *phi.shape[1:])


def test_a_linear_mdp_of_another_size_needs_a_seed_and_the_seed_decides():
    with pytest.raises(ValueError, match="task_seed is missing"):
        LinearMDP(states=11)
    one, same, other = (LinearMDP(task_seed=seed) for seed in (1, 1, 2))
    assert torch.equal(one.phi, same.phi)
    assert not torch.equal(one.phi, other.phi)


def test_forest():
    env = Forest()
    best, random = values(env, uniform(env))
    assert (best, random) == pytest.approx((54.982, 10.09), abs=5e-3)


# --- Tetris -----------------------------------------------------------------------------------------------------------


def bits(board):
    upper, lower = board.split()
    return int(upper + lower, 2)


@pytest.mark.parametrize(
    ("board", "piece", "column", "quarters", "expected", "reward"),
    [
        ("000000 000000", 3, 4, 0, "000000 110000", 0),
        ("000000 000000", 13, 0, 0, "000011 000001", 0),
        ("000000 000000", 9, 0, 1, "000001 000010", 0),
        ("000000 001111", 3, 4, 0, "000000 000000", 0),
        ("000000 000011", 3, 0, 0, "000011 000011", 0),
        ("111100 111100", 7, 0, 0, "000000 111101", 0),
        ("000001 000001", 5, 0, 0, "000001 000001", -2),
        ("000001 000001", 5, 0, 1, "000011 000001", -1),
        ("111110 011111", 1, 4, 0, "010000 111110", -1),
    ],
)
def test_tetris_moves(board, piece, column, quarters, expected, reward):
    turned = turn(torch.tensor(piece), torch.tensor(quarters))
    after, loss = drop(torch.tensor(bits(board)), turned, torch.tensor(column), 6)
    assert (f"{int(after):012b}", -int(loss)) == (expected.replace(" ", ""), reward)


def test_a_quarter_turn_takes_bottom_left_to_bottom_right():
    assert turn(torch.tensor(1), torch.arange(4)).tolist() == [1, 2, 2, 1]  # one cell; where it is on top it settles
    assert turn(torch.tensor(11), torch.arange(4)).tolist() == [11, 14, 13, 7]  # three: a gap goes round the other way


def test_tetris_values():
    """E[V_1] from the empty board, the pieces averaged over first: 12 times smaller than the table of states."""
    env, expected = (
        Tetris(),
        {
            10: [-0.119776, -7.442257, -16.333333, -13.513067],
            20: [-0.263498, -16.181648, -34.666667, -28.822896],
            40: [-0.550189, -33.660463, -71.333333, -59.442554],
            100: [-1.410250, -86.096908, -181.333333, -151.301529],
        },
    )
    best, random, worst, first = torch.zeros(4, len(env.boards.bits), dtype=torch.float64)
    for horizon in range(1, 101):
        q = [value[env.boards.next_board] - env.boards.loss for value in (best, random, worst, first)]
        choices = q[0].amax(-1), q[1].mean(-1), q[2].amin(-1), q[3][..., 0]
        best, random, worst, first = (choice.mean(-1) for choice in choices)
        if horizon in expected:
            assert [float(v[0]) for v in (best, random, worst, first)] == pytest.approx(expected[horizon], abs=1e-6)


@pytest.mark.parametrize(
    ("width", "boards", "expected"),
    [(6, 2780, None), (4, 169, [-1.007285, -40.528861]), (3, 38, [-3.002117, -45.433345])],
)
def test_tetris_is_a_table_of_this_size(width, boards, expected):
    env = Tetris(width=width)
    assert len(env.boards.bits) == boards
    assert env.tabular().reward.shape == (1, 12 * boards, 4 * (width - 1), 12)
    if expected:
        assert values(env, uniform(env)) == pytest.approx(expected, abs=1e-6)


def test_tetris_as_played_is_its_table():
    env = Tetris(25)
    table = env.tabular()
    env.reset(seed=0)
    for _ in range(400):
        before, action = env.state, torch.randint(20, (25,))
        _, reward, _, _, info = env.step(action)
        after = env.decode(info["final_obs"])
        row = table.next_state[0, before, action]
        assert bool((row == after[:, None]).any(-1).all())
        assert_close(table.reward[0, before, action, 0].float(), reward)
    pieces = env.decode(env.reset(seed=1)[0])
    assert bool((pieces < 12).all())


def test_tetris_features_by_hand():
    env = Tetris(intercept=False)
    board = int(torch.searchsorted(env.boards.bits, bits("000010 000100")))  # heights, from column 5: 0 0 0 1 2 0
    assert env.boards.bits[board] == bits("000010 000100")
    scale = float(env.board_features[board, 0]) / 2
    shown = torch.tensor([2, 1, 1, 0, 0, 1, 1, -2]).double()  # height, holes, wells, differences
    assert_close(env.board_features[board] / scale, shown)
    piece, action = 3, 4 * 2 + 1  # the piece 5 on its side is 3
    phi = env.features(torch.tensor(board * 12 + piece))
    assert PIECES[piece] == 5
    assert phi.shape == (20, 480)
    block = 12 * 2 + int((PIECES == 3).nonzero())
    assert_close(phi[action].view(60, 8)[block] / scale, shown)
    assert phi[action].count_nonzero() == shown.count_nonzero()
    with_one = Tetris().features(torch.tensor([[0, board * 12 + piece]]))
    assert with_one.shape == (1, 2, 20, 540)
    assert with_one[0, 0].count_nonzero() == 20  # the empty board has an intercept alone
    assert float(env.board_features.norm(dim=-1).max()) == pytest.approx(1.0)


def test_all_blocks_of_features_are_used():
    env = Tetris(width=4)
    assert set(env.blocks.flatten().tolist()) == set(range(36))
    assert env.single_action_space.n == ROTATIONS * 3


# --- what all of them share -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("env", TASKS, ids=lambda env: type(env).__name__)
def test_sums_of_rewards_stay_in_the_declared_range_and_can_come_close(env):
    """By dynamic programming over what is possible at all, whatever its chance."""
    table, (low, high) = env.tabular(), env.value_range
    possible = table.probability > 0
    most = least = torch.zeros(len(table.start), dtype=torch.float64)
    for h in reversed(range(env.horizon)):
        step = h if len(table.reward) > 1 else 0
        best = (table.reward[step] + most[table.next_state[step]]).masked_fill(~possible[step], -torch.inf)
        worst = (table.reward[step] + least[table.next_state[step]]).masked_fill(~possible[step], torch.inf)
        most, least = best.amax((-1, -2)), worst.amin((-1, -2))
        assert most.max() <= high[h] + 1e-12
        assert least.min() >= low[h] - 1e-12
    slack = env.horizon if isinstance(env, LinearMDP) else 0.011  # θ and φ are not at their bounds
    assert float(high[0] - most.max()) <= slack
    assert float(least.min() - low[0]) <= slack
    assert low.shape == high.shape == (env.horizon,)


@pytest.mark.parametrize("env", TASKS, ids=lambda env: type(env).__name__)
def test_states_are_seen_and_episodes_take_the_horizon(env):
    """With more environments than the task was written with, the step, and the state visible in every observation."""
    name = f"surefoot/{type(env).__name__}-v0"
    envs = make_vec(EnvConfig(name, num_envs=6, time_aware=True))
    obs, _ = envs.reset(seed=0)
    for step in range(1, envs.horizon + 1):
        assert torch.equal(envs.decode(obs), envs.state)
        action = torch.arange(6) % envs.single_action_space.n
        obs, reward, terminated, truncated, info = envs.step(action)
        assert info["final_obs"][:, -1].tolist() == [step] * 6
        assert obs.shape == (6, envs.single_observation_space.shape[0])
        assert not terminated.any()
        assert bool(truncated.all()) == bool(truncated.any()) == (step == envs.horizon)
        assert reward.dtype == torch.float32
    assert_close(obs[:, -1], torch.zeros(6))


# The checker refuses episodes of one step, which the bandit's are.
@pytest.mark.parametrize("env", [t for t in TASKS if t.horizon > 1], ids=lambda env: type(env).__name__)
def test_gymnasiums_checker_accepts_it(env):
    check_env(gym.make(f"surefoot/{type(env).__name__}-v0").unwrapped, skip_render_check=True)


def test_left_moves_back_and_stops_at_the_wall():
    env = DeepSea(size=4)
    table, left = env.tabular(), 1 - env.right
    assert [table.next_state[2, c, left[2, c], 0].item() for c in range(4)] == [0, 0, 1, 2]
    assert [table.next_state[2, c, env.right[2, c], 0].item() for c in range(4)] == [1, 2, 3, 3]
    assert [table.reward[3, c, env.right[3, c], 0].item() for c in range(4)] == [-0.0025] * 3 + [1 - 0.0025]


def test_the_cells_of_deep_sea():
    env = DeepSea(3, size=4, cells=True)
    obs, _ = env.reset(seed=0)
    assert obs.argmax(-1).tolist() == [0, 0, 0]
    for row in range(4):
        obs, _, _, _, info = env.step(env.right[row, env.state])
        final = info["final_obs"]
        assert final.sum(-1).tolist() == ([1.0] * 3 if row < 3 else [0.0] * 3)
        if row < 3:
            assert final.argmax(-1).tolist() == [(row + 1) * 4 + row + 1] * 3
            assert env.decode(final).tolist() == env.state.tolist() == [row + 1] * 3
    env.step(env.right[0, env.state])
    obs, *_ = env.step(1 - env.right[1, env.state])
    assert obs.argmax(-1).tolist() == [8, 8, 8]


def test_the_rotated_lock_shows_state_and_step_under_noise():
    clear, noisy = DiabolicalLock(500, horizon=4, noise=0.0), DiabolicalLock(500, horizon=4, noise=0.1)
    rotation = hadamard(8) / 8**0.5
    for env in (clear, noisy):
        obs, _ = env.reset(seed=0)
        for h in range(4):
            seen = obs @ rotation
            expected = torch.nn.functional.one_hot(env.state, 8) + torch.nn.functional.one_hot(torch.tensor(3 + h), 8)
            error = seen - expected
            assert_close(error[:, 7:], torch.zeros_like(error[:, 7:]), rtol=0, atol=1e-6)
            assert float(error[:, :7].std()) == pytest.approx(env.noise, rel=0.1, abs=1e-6)
            assert torch.equal(env.decode(obs), env.state)
            obs, *_ = env.step(env.codes[h, env.state.clamp(max=1)])
    assert not torch.equal(noisy.reset(seed=0)[0], noisy.reset()[0])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: RiverSwim(states=1), "--env.kwargs states must be at least 2, got 1"),
        (lambda: DeepSea(size=0), "--env.kwargs size must be at least 1, got 0"),
        (lambda: DiabolicalLock(actions=1), "--env.kwargs actions must be at least 2, got 1"),
        (lambda: DiabolicalLock(noise=-0.1), "--env.kwargs noise must be at least 0"),
        (lambda: Forest(fire=1.5), r"--env.kwargs fire must be in \[0, 1\], got 1.5"),
        (lambda: Tetris(width=7), "--env.kwargs width must be between 3 and 6, got 7"),
    ],
)
def test_sizes_out_of_range_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()
