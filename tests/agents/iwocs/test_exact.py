"""Exact IWOCS against docs/derivations/iwocs.md E1 to E8: every number, every bound, every way to end."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from surefoot.agents.iwocs.exact import (
    CandidateModels,
    brute_force,
    constant,
    deploy,
    iwocs,
    mixture,
    robust_optimum,
    rollout_returns,
    stack,
    worst_mixture,
    worst_of,
)
from surefoot.agents.parts.tabular import TabularMDP, from_dense, stationary_optimum, stationary_values
from surefoot.envs import Arms, Coupled, EnvConfig, Maintenance, WindyWalk, make_vec

ALPHAS = np.linspace(0.0, 0.5, 25)


def candidates_of(task, **values):
    ((name, many),) = values.items()
    return stack([TabularMDP(*task(**{name: value}).tabular()) for value in many])


@pytest.fixture(scope="module")
def walk():
    return candidates_of(WindyWalk, alpha=ALPHAS.tolist())


# --- E1, E2: the windy walk -------------------------------------------------------------------------------------------


def start_optimum(candidates, k, discount=0.95):
    return float(stationary_optimum(mixture(candidates, constant(candidates, k)), discount).amax(-1) @ candidates.start)


def test_windy_walk_optimal_values(walk):
    values = [start_optimum(walk, k) for k in range(25)]
    expected = [-4.52438, -5.2084, -6.2296, -7.4993, -7.6049, -7.95215]
    np.testing.assert_allclose([values[k] for k in (0, 6, 12, 17, 18, 24)], expected, atol=6e-5)
    assert (np.diff(values) < 0).all()
    slopes = np.diff(values)
    assert (
        int(np.argmax(slopes[1:] - slopes[:-1])) == 16
    )  # the detour becomes optimal: the slope breaks at index 18 (17)


def test_windy_walk_robust_value_of_the_hull(walk):
    robust = robust_optimum(walk, 0.95).amax(-1) @ walk.start
    assert float(robust) == pytest.approx(-7.952147490, abs=1e-8)


@pytest.mark.parametrize(("first", "upper"), [(0, -4.52438), (12, -6.22962)])
def test_windy_walk_path(walk, first, upper):
    solved = iwocs(walk, 0.95, first=first)
    zero, one = solved.path
    assert (zero.upper, zero.lower) == (pytest.approx(upper, abs=1e-5), pytest.approx(-10.29441, abs=1e-5))
    assert torch.equal(zero.worst, constant(walk, 24))
    assert one.upper == pytest.approx(-7.95215, abs=1e-5) == one.lower
    assert (solved.status, solved.value) == ("certified", one.lower)
    assert zero.upper > one.upper


def test_windy_walk_from_every_start(walk):
    for first in range(25):
        solved = iwocs(walk, 0.95, first=first)
        assert solved.status == "certified"
        assert len(solved.path) == (1 if first == 24 else 2)
        assert solved.value == pytest.approx(-7.952147490, abs=1e-6)


def test_windy_walk_by_rollouts(walk):
    generator = torch.Generator().manual_seed(0)
    solved = iwocs(walk, 0.95, rollouts=300, iterations=3, generator=generator)
    assert int(solved.path[0].worst[0, 0]) in (23, 24)  # one of the two largest alphas
    assert solved.status in ("repeat", "budget")  # noise certifies nothing
    assert solved.value == pytest.approx(-7.95215, abs=0.25)
    assert worst_of(walk, solved.policy, 0.95)[1] == pytest.approx(-7.95215, abs=0.25)


def lottery(mean):
    """One model: action 0 gives 0, action 1 gives 1 or -1 with this mean, then all is over."""
    moves = torch.zeros(1, 4, 2, 4, dtype=torch.float64)
    moves[0, :, :, 3] = 1  # where all is over
    moves[0, 0, 1] = torch.tensor([0, (1 + mean) / 2, (1 - mean) / 2, 0])
    reward = torch.tensor([0.0, 2.0, -2.0, 0.0]).double()[:, None].expand(4, 2)  # discounted by 1/2
    return CandidateModels(torch.eye(4).double()[0], moves, reward[None])


def test_by_rollouts_a_later_policy_is_deployed_only_where_the_interval_says_that_it_is_better():
    safe, gamble = torch.zeros(4, dtype=torch.long), torch.ones(4, dtype=torch.long)
    deployed = []
    for seed in range(60):
        generator = torch.Generator().manual_seed(seed)
        found = deploy(lottery(-0.05), [safe, gamble], 0.5, episodes=50, generator=generator)
        deployed.append(found.chosen)
        (comparison,) = found.comparisons
        assert found.chosen == int(comparison.low >= 0 and comparison.difference > 0)
    assert sum(deployed) <= 3  # its estimate alone is above 0 in a third of them; 2.5% are allowed of equal ones
    found = deploy(lottery(0.5), [gamble, safe, gamble], 0.5, episodes=50, generator=torch.Generator().manual_seed(0))
    assert found.chosen == 0
    assert found.value == pytest.approx(0.5, abs=0.3)
    better, same = found.comparisons
    assert better.high < 0
    assert same == (0, 0, 0)  # the same policy meets the same luck


def test_the_value_by_rollouts_is_not_the_one_that_was_searched_for(walk):
    solved = iwocs(walk, 0.95, rollouts=40, iterations=3, generator=torch.Generator().manual_seed(1))
    chosen = [step for step in solved.path if torch.equal(step.policy, solved.policy)]
    assert len(solved.comparisons) == len(solved.path) - 1
    assert solved.value not in [step.lower for step in chosen]
    assert solved.value == pytest.approx(worst_of(walk, solved.policy, 0.95)[1], abs=0.6)


def test_rollouts_have_the_mean_and_the_spread_that_the_walk_gives(walk):
    policies = [step.policy for step in iwocs(walk, 0.95).path]
    generator = torch.Generator().manual_seed(0)
    windiest = walk._replace(
        transition=walk.transition[24:].repeat(20, 1, 1, 1), reward=walk.reward[24:].repeat(20, 1, 1)
    )
    for policy, error, exact in zip(policies, (0.24, 0.05), (-10.29441, -7.95215), strict=True):
        estimates = rollout_returns(windiest, policy, 0.95, generator=generator).mean(1)  # 20 times 300 episodes
        assert float(estimates.std()) == pytest.approx(error, rel=0.4)
        assert float(estimates.mean()) == pytest.approx(exact, abs=4 * error / 20**0.5)


def test_the_walk_is_played_as_its_table_says():
    envs = make_vec(EnvConfig("surefoot/WindyWalk-v0", num_envs=4000, kwargs={"alpha": 0.5}))
    envs.reset(seed=0)
    east = torch.full((4000,), 2)
    envs.step(east)
    assert envs.state.unique().tolist() == [1]  # outside the corridor there is no wind
    _, reward, *_ = envs.step(east)
    assert float((envs.state == 0).float().mean()) == pytest.approx(0.5, abs=0.03)
    assert set(envs.state.tolist()) == {0, 2}
    assert (reward == -1).all()


@pytest.mark.parametrize(("row", "wind"), [(0, 0.5), (2, 0.5**3), (4, 0.5**6), (5, 0.5**6)])
def test_the_wind_of_every_corridor(walk, row, wind):
    cell, moves = row * 6 + 2, walk.transition[24]
    assert float(moves[cell, 2, cell - 1]) == pytest.approx(wind)  # going east
    assert float(moves[cell, 3, cell - 1]) == 1.0  # going west
    for action in (0, 1):  # north and south
        assert float(moves[cell, action, cell - 1]) == pytest.approx(wind)


# --- E3, E4: random rectangular problems ------------------------------------------------------------------------------


def rectangular(generator, states, actions, kernels):
    """Return P ~ Dirichlet(0.3) per pair and kernel, R ~ N(0, 1) per pair, start in state 0."""
    moves = generator.dirichlet(0.3 * np.ones(states), size=(states, actions, kernels))
    reward = torch.from_numpy(generator.normal(size=(states, actions)))
    start = torch.zeros(states, dtype=torch.float64)
    start[0] = 1.0
    return stack([from_dense(start, torch.from_numpy(moves[:, :, k])[None], reward[None]) for k in range(kernels)])


def test_no_duality_gap_by_enumeration():
    generator = np.random.default_rng(1)
    for _ in range(20):
        candidates = rectangular(generator, 3, 2, 2)
        game = brute_force(candidates, 0.9, rectangular=True)
        robust = float(robust_optimum(candidates, 0.9).amax(-1) @ candidates.start)
        assert game.max_min == pytest.approx(robust, abs=1e-8)
        assert game.min_max == pytest.approx(robust, abs=1e-8)
        assert worst_mixture(candidates, game.policy, 0.9)[1] == pytest.approx(robust, abs=1e-8)
        for step in iwocs(candidates, 0.9, rectangular=True).path:
            assert step.lower <= game.max_min + 1e-9 <= step.upper + 2e-9


@pytest.mark.parametrize(("states", "actions", "kernels", "discount"), [(5, 2, 3, 0.9), (8, 3, 4, 0.95)])
def test_random_rectangular_problems(states, actions, kernels, discount):
    generator, certified = np.random.default_rng(2), 0
    for _ in range(200):
        candidates = rectangular(generator, states, actions, kernels)
        robust = float(robust_optimum(candidates, discount).amax(-1) @ candidates.start)
        solved = iwocs(candidates, discount, rectangular=True, iterations=10)
        uppers = [step.upper for step in solved.path]
        assert all(later <= earlier + 1e-9 for earlier, later in pairwise(uppers))  # P2
        assert all(step.lower - 1e-8 <= robust <= step.upper + 1e-8 for step in solved.path)  # P3
        assert solved.status in ("certified", "stagnated")
        if solved.status == "certified":
            certified += 1
            assert solved.value == pytest.approx(robust, abs=1e-6)
        assert solved.value == max(step.lower for step in solved.path)
    assert certified >= 194  # 97 %


def test_q_falls_pointwise_and_bounds_the_robust_q():
    candidates = rectangular(np.random.default_rng(5), 8, 3, 4)
    robust, q = robust_optimum(candidates, 0.95), torch.full((8, 3), torch.inf).double()
    for step in iwocs(candidates, 0.95, rectangular=True).path:
        solved = stationary_optimum(mixture(candidates, step.model), 0.95)
        assert (solved >= robust - 1e-9).all()  # P1
        q = torch.minimum(q, solved)
        assert torch.equal(q.argmax(-1), step.policy)
        assert float(step.fractions.sum()) == pytest.approx(1.0)


# --- E5: stagnation ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def stagnating():
    """The 51st pair of E5."""
    generator = np.random.default_rng(0)
    for _ in range(51):
        candidates = rectangular(generator, 5, 2, 3)
    return candidates


def test_stagnation_is_told_from_certainty(stagnating):
    robust = float(robust_optimum(stagnating, 0.9).amax(-1) @ stagnating.start)
    assert robust == pytest.approx(-1.988529, abs=1e-6)
    stuck = iwocs(stagnating, 0.9, rectangular=True)
    assert stuck.status == "stagnated"
    assert stuck.path[-1].upper == pytest.approx(-1.286647, abs=1e-6)
    assert stuck.path[-1].lower == pytest.approx(-4.341798, abs=1e-6)
    assert any(torch.equal(stuck.path[-1].worst, step.model) for step in stuck.path)


@pytest.mark.parametrize("first", [1, 2])
def test_another_start_does_not_stagnate(stagnating, first):
    solved = iwocs(stagnating, 0.9, first=first, rectangular=True)
    assert (solved.status, len(solved.path)) == ("certified", 2)
    assert solved.value == pytest.approx(-1.988529, abs=1e-6)


def test_the_hull_variant_never_stagnates(stagnating):
    solved = iwocs(stagnating, 0.9, rectangular=True, hull=True)
    assert (solved.status, len(solved.path)) == ("certified", 2)
    assert solved.value == pytest.approx(-1.988529, abs=1e-6)
    generator = np.random.default_rng(3)
    for _ in range(30):
        candidates = rectangular(generator, 5, 2, 3)
        solved = iwocs(candidates, 0.9, rectangular=True, hull=True, iterations=5)
        assert solved.status == "certified"


def test_a_budget_ends_the_loop(walk):
    solved = iwocs(walk, 0.95, iterations=1)
    assert (solved.status, len(solved.path)) == ("budget", 1)
    assert solved.value == pytest.approx(-10.29441, abs=1e-5)


def test_the_best_policy_of_the_path_is_returned_not_the_last():
    """In a set that is not rectangular the lower bound falls: 2.0456, −1.5238, −2.4466, 0.1229, and then repeats."""
    generator = np.random.default_rng(0)
    for _ in range(4):
        candidates = rectangular(generator, 5, 3, 6)
    solved = iwocs(candidates, 0.9)
    lowers = [step.lower for step in solved.path]
    assert solved.status == "stagnated"
    assert solved.value == max(lowers) == lowers[0] > lowers[-1] + 1
    assert torch.equal(solved.policy, solved.path[0].policy)
    assert worst_of(candidates, solved.policy, 0.9)[1] == solved.value


# --- E6: maintenance --------------------------------------------------------------------------------------------------

RUN, REPAIR = 0, 1
MAINTENANCE = [
    ([0.1, 0.2, 0.4], [9.206723, 7.786555, 6.786555], [RUN, REPAIR, REPAIR], 17.193079, 9.206723),
    ([0.2, 0.5, 0.8], [2.045420, 0.864198, 0.0], [RUN, RUN, RUN], 14.464840, -0.707246),
]


@pytest.mark.parametrize(("rates", "values", "policy", "nominal", "worst"), MAINTENANCE)
def test_maintenance(rates, values, policy, nominal, worst):
    candidates = candidates_of(Maintenance, wear=rates)
    robust = robust_optimum(candidates, 0.95)
    np.testing.assert_allclose(robust.amax(-1), values, atol=1e-6)
    assert robust.argmax(-1).tolist() == policy
    solved = iwocs(candidates, 0.95, rectangular=True)
    assert solved.status == "certified"
    assert solved.path[0].policy.tolist() == [RUN, REPAIR, REPAIR]
    assert solved.path[0].upper == pytest.approx(nominal, abs=1e-6)
    assert solved.path[0].lower == pytest.approx(worst, abs=1e-6)
    assert solved.value == pytest.approx(values[0], abs=1e-6)
    assert len(solved.path) == 2
    assert solved.policy.tolist() == policy


def test_maintenance_nominal_values():
    candidates = candidates_of(Maintenance, wear=[0.1])
    optimum = stationary_optimum(mixture(candidates, constant(candidates, 0)), 0.95).amax(-1)
    np.testing.assert_allclose(optimum, [17.193079, 15.715752, 14.715752], atol=1e-6)


# --- E7, E8: coupled sets ---------------------------------------------------------------------------------------------


def test_coupled_steps_have_a_static_value_above_that_of_the_hull():
    candidates = candidates_of(Coupled, theta=[0.0, 1.0])
    solved = iwocs(candidates, 0.9)
    assert solved.value == pytest.approx(0.9, abs=1e-12)
    assert torch.equal(solved.worst, constant(candidates, 0))
    assert float(robust_optimum(candidates, 0.9).amax(-1) @ candidates.start) == 0.0
    assert brute_force(candidates, 0.9).max_min == pytest.approx(0.9)


def test_two_arms_show_what_deterministic_policies_cannot_do():
    candidates = candidates_of(Arms, first=[True, False])
    solved = iwocs(candidates, 0.9)
    assert (solved.status, solved.value) == ("certified", 0.0)
    game = brute_force(candidates, 0.9)
    assert (game.max_min, game.min_max) == (0.0, 1.0)
    half = torch.full((2, 2), 0.5, dtype=torch.float64)
    mixed = [
        stationary_values(mixture(candidates, constant(candidates, k)), half, 0.9) @ candidates.start for k in (0, 1)
    ]
    assert min(map(float, mixed)) == 0.5


# --- fractions and bad input ------------------------------------------------------------------------------------------


def test_fractions_say_whose_value_is_smallest_where_the_time_is_spent():
    candidates = candidates_of(Maintenance, wear=[0.2, 0.8])
    first, last = iwocs(candidates, 0.95, rectangular=True).path
    assert_close(first.fractions, torch.ones(1).double())
    assert_close(last.fractions, torch.tensor([0.0, 1.0]).double())  # the worst model is the pessimist everywhere


def test_bad_input_is_one_clear_line(walk):
    one, other = (TabularMDP(*WindyWalk().tabular()), TabularMDP(*Maintenance().tabular()))
    with pytest.raises(ValueError, match="same states and actions"):
        stack([one, other])
    spread = one._replace(start=torch.full((36,), 1 / 36, dtype=torch.float64))
    with pytest.raises(ValueError, match="single start state"):
        stack([spread])
    with pytest.raises(ValueError, match="too many to enumerate"):
        brute_force(walk, 0.95)
    with pytest.raises(ValueError, match="4 states, 3 actions, 3 models are too many to enumerate"):
        brute_force(rectangular(np.random.default_rng(0), 4, 3, 3), 0.9, rectangular=True)  # 3^4 policies, 3^12 kernels
    with pytest.raises(ValueError, match="rollouts search a finite set, with a generator"):
        iwocs(walk, 0.95, rollouts=10)
    for task, kwargs in ((WindyWalk, {"alpha": 1.5}), (Maintenance, {"wear": -0.1}), (Coupled, {"theta": 2.0})):
        with pytest.raises(ValueError, match=rf"--env.kwargs {next(iter(kwargs))} must be in \[0, 1\]"):
            task(**kwargs)
