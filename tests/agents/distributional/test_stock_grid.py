"""Projected distributions on a grid of stocks: the grids' known figures, a second opinion, bounds, and what `solve`
refuses.

Figures: docs/derivations/distributional.md E10 to E14, and E4 to E7 for the bets.
"""

import pytest
import torch
from torch.testing import assert_close

from surefoot.agents.distributional import exact, solve
from surefoot.agents.distributional import stock_grid as grid
from surefoot.agents.distributional.distributions import mean
from surefoot.agents.distributional.exact import make_program, reachable
from surefoot.agents.distributional.objectives import as_fraction, own, parse
from surefoot.agents.distributional.task import return_bounds
from surefoot.agents.parts.sparse import from_tabular
from surefoot.agents.parts.tabular import TabularMDP, optimal_values
from surefoot.envs import Bet, Crossing, Drain, Fork, Gate, Pantry

FORK_CVARS = {1: 1.997, 0.75: 1.41233, 0.5: 0.944, 0.25: 0.349}
CROSSING_CVARS = {1: 1.18834, 0.75: 0.97440, 0.5: 0.82813, 0.25: 0.74869, 0.1: 0.74869, 0.05: 0.74869}


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)


def table(task):
    return TabularMDP(*task().tabular())


def float64(*numbers):
    return torch.tensor(numbers, dtype=torch.float64)


def solved(task, objective, **kwargs):
    kwargs = {"method": "dvi", "horizon": getattr(task(), "horizon", None), "atoms": 64, "stocks": 400} | kwargs
    return solve(table(task), objective, gamma=task.discount, **kwargs)


def played(task, solution, episodes=20_000, seed=0):
    """Return the discounted returns (N,) and lengths (N,) of the first episode of every environment."""
    env = task(episodes, max_episode_steps=50)
    env.reset(seed=seed)
    stock = torch.full((episodes,), solution.stock, dtype=torch.float64)
    total, length, alive = torch.zeros_like(stock), torch.zeros_like(stock), torch.ones(episodes, dtype=torch.bool)
    for step in range(50):
        action = solution.policy(env.state, stock, step)
        _, reward, terminated, truncated, _ = env.step(action)
        total += alive * task.discount**step * reward.double()
        length += alive
        stock = (stock + reward.double()) / task.discount
        alive &= ~(terminated | truncated)
    return total, length


# --- the grids' figures, E10 to E12 and E14 ---------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["dvi", "dpi"])
def test_the_fork_at_every_tail(method):
    """The optimum within the loss of a grid of stocks, (Δ/2)·max(1, 1/τ − 1), and what the policy does is no worse."""
    first = solved(Fork, "cvar(1)", method=method, stocks=250)
    spacing = float(first.stocks.diff().max())
    for tau, optimum in FORK_CVARS.items():
        solution = first.again(f"cvar({tau})")
        assert optimum - spacing / 2 * max(1, 1 / tau - 1) <= solution.value <= optimum + 1e-4
        assert float(solution.scores.max()) <= solution.value + 1e-9
        assert_close(solution.value, optimum, rtol=0, atol=1e-3)
        returns, _ = played(Fork, solution)
        assert float(parse(f"cvar({tau})").measure(returns)) >= solution.value - 0.03


def test_where_the_tail_is_sure_the_mean_decides_and_nobody_dawdles():
    """τ = 0.25: the exits BG, mean 1.673 and 3 steps, not an equally good tail with a mean of 0.37 and 27 steps."""
    returns, length = played(Fork, solved(Fork, "cvar(0.25)"))
    assert (length == 3).all()
    assert_close(returns.mean(), float64(1.673)[0], rtol=0, atol=0.03)


def test_the_forks_decision_at_the_junction():
    """f = min(0, ·): B below −2.9, G up to −0.9, and above, where both are sure, B by the mean."""
    solution = solved(Fork, "cvar(0.5)", stocks=torch.linspace(-6, 1, 1401, dtype=torch.float64))
    junction = Fork().cells.index((1, 2))
    stock = float64(-4, -2.95, -2.85, -2, -0.95, -0.85, 0.5)
    up, down = 0, 1
    action = solution.policy(torch.full((7,), junction), stock)
    assert action.tolist() == [down, down, up, up, up, down, down]


def test_the_crossing_at_every_tail():
    """One solution serves every τ; the ways have 4 moves at τ = 1 and 8 from τ = 0.25 down."""
    first = solved(Crossing, "cvar(1)", atoms=128, stocks=torch.arange(-3, 1, 0.015, dtype=torch.float64))
    for tau, optimum in CROSSING_CVARS.items():
        solution = first.again(f"cvar({tau})")
        assert_close(solution.value, optimum, rtol=0, atol=0.012)
        assert solution.lower - 1e-9 <= optimum + 5e-6
        assert solution.bound >= optimum - 5e-6
        returns, length = played(Crossing, solution, 5000)
        assert float(parse(f"cvar({tau})").measure(returns)) >= solution.value - 0.08
        if tau in (1, 0.25, 0.1):
            assert (length == {1: 4, 0.25: 8, 0.1: 8}[tau]).all()


def test_the_scalar_recursion_is_a_second_opinion_on_the_crossing():
    stocks = torch.arange(-4, 3, 0.002, dtype=torch.float64)
    worth = grid.scalar_recursion(table(Crossing), parse("cvar(1)"), 0.95, stocks)
    start = int(table(Crossing).start.argmax())
    for tau, optimum in CROSSING_CVARS.items():
        assert_close(float(parse(f"cvar({tau})").score(stocks, worth[start]).max()), optimum, rtol=0, atol=0.01)
    first = solved(Crossing, "cvar(1)", stocks=stocks[::20], atoms=64)
    problem, values = first.projected
    assert (values.values[start] - worth[start, ::20]).abs().max() < 0.05
    assert problem.scaled is False


@pytest.mark.parametrize(("task", "error"), [(Pantry, 0.001), (Drain, 0.011)])
def test_the_pantry_reaches_every_target(task, error):
    """E|c_0 + G| is 0 to 4 decimals, but 0.0101 at c_0 = −6 with losses by chance; leaving at once averages 27/11."""
    starts = [-6, -4, -2, -1, -0.5, 0, 0.5, 1, 2, 4, 6]
    stocks = torch.linspace(-12, 12, 2401, dtype=torch.float64)
    worth = grid.scalar_recursion(table(task), parse("target(0)"), 0.9, stocks)
    centre = task().cells.index((1, 1))
    errors = {c: -float(worth[centre, (stocks - c).abs().argmin()]) for c in starts}
    assert max(errors.values()) < error
    assert all(value < 0.001 for c, value in errors.items() if c != -6)
    assert sum(map(abs, starts)) / 11 == 27 / 11


def test_a_solution_for_one_target_is_played_to_it():
    solution = solved(Drain, "target(3)", stocks=torch.linspace(-8, 8, 321, dtype=torch.float64), atoms=16)
    returns, _ = played(Drain, solution, 5000)
    assert solution.stock == -3
    assert (returns - 3).abs().mean() < 0.1


# --- E19, E23, E24, E25, E27 on the grid ------------------------------------------------------------------------------


@pytest.mark.parametrize("task", [Gate, Bet, Fork, Crossing])
def test_the_mean_is_that_of_classic_value_iteration_and_the_policy_needs_no_stock(task):
    mdp, gamma, horizon = table(task), task.discount, task().horizon
    classic = float(optimal_values(mdp, horizon or 400, gamma)[0].amax(-1) @ mdp.start)
    low, high = return_bounds(from_tabular(mdp), gamma, horizon)
    several = {"stocks": torch.linspace(-2, 2, 5, dtype=torch.float64), "tolerance": 1e-12}
    quantiles = solved(task, "mean", **several)
    total = sum(gamma**t for t in range(horizon or 400))
    assert abs(quantiles.value - classic) <= (high - low) / 128 * total
    for actions in quantiles.projected[1].actions:
        assert (actions == actions[..., :1]).all()
    weights = solved(task, "mean", representation="categorical", atoms=100, **several)
    assert_close(weights.value, classic, rtol=0, atol=1e-9)


@pytest.mark.parametrize("representation", ["quantiles", "categorical"])
def test_value_and_policy_iteration_agree(representation):
    one, two = (
        solved(Bet, "cvar(0.5)", representation=representation, stocks=100, method=method) for method in ("dvi", "dpi")
    )
    # Policy iteration keeps an action that ties, value iteration takes the larger mean: both are as good, but their
    # distributions differ, and so does what projecting them costs a step earlier.
    assert_close(one.projected[1].values, two.projected[1].values, rtol=0, atol=0.01)
    for solution in (one.again("cvar(0.25)"), two.again("cvar(0.25)")):
        assert solution.value <= BETS[0.25] + 1e-9
        assert solution.lower - 1e-9 <= BETS[0.25] <= solution.bound + 1e-9


def stocks_from(starts):
    """Return all stocks of the bets that can be reached from some: on these nothing is rounded."""
    program = make_program(table(Bet), parse("cvar(1)"), 0.9, 3, False)
    layers = reachable(program, [as_fraction(c) for c in starts])
    return float64(*sorted({float(node[2]) for layer in layers for node in layer}))


BETS = {0.1: 1031 / 2500, 0.25: 1273 / 1250, 0.5: 2967 / 1250, 0.75: 148813 / 37500}
STARTS = [-1, -1.9, -6.71, -10.31, -13.55]


@pytest.mark.parametrize(
    ("representation", "atoms", "bias"),
    [
        ("quantiles", 8, {0.5: 0.819, 0.75: 0.397}),  # the lower tails depend on which other stocks are tried
        ("quantiles", 32, {0.1: 0.316, 0.5: 0.009, 0.75: 0.015}),
        ("quantiles", 128, {0.1: -0.141, 0.25: 0.004, 0.5: 0.004, 0.75: 0.010}),
        ("quantiles", 256, {0.1: 0.024, 0.25: -0.022, 0.5: -0.002, 0.75: 0.012}),
        ("categorical", 256, {0.1: -0.172, 0.25: -0.066, 0.5: -0.017, 0.75: -0.009}),
    ],
)
def test_the_bias_of_projections_on_the_bets(representation, atoms, bias):
    """J at the best of the exact c_0 less the exact CVaR (§12; its −0.015 and −0.008 are of a grid of other stocks)."""
    first = solved(
        Bet,
        "cvar(1)",
        representation=representation,
        atoms=atoms,
        stocks=stocks_from(STARTS),
        return_range=(-5.42, 13.55),
    )
    tried = [int((first.stocks - c).abs().argmin()) for c in STARTS]
    for tau, gap in bias.items():
        best = float(first.again(f"cvar({tau})").scores[tried].max())
        assert_close(best - BETS[tau], gap, rtol=0, atol=6e-4)
        if representation == "categorical":
            assert best <= BETS[tau]


@pytest.mark.parametrize("spacing", [1.0, 0.5, 0.25])
def test_a_grid_of_starts_loses_at_most_what_its_spacing_allows(spacing):
    """E25, with particles and stocks that are exact from each start: J ≤ CVaR of the policy ≤ optimum."""
    starts = [as_fraction(c) for c in torch.arange(-13.75, 5.6, spacing).tolist()]
    program = make_program(table(Bet), parse("cvar(1)"), 0.9, 3, False)
    search = exact._Search(program, exact.backward_induction)
    tried = search.at(starts)
    for tau, optimum in BETS.items():
        scores = [-float(c) + float(value + c) / tau for c, value, _ in tried]  # at τ = 1 the score is V − c_0
        best = tried[scores.index(max(scores))]
        returns, chances = (
            float64(*map(float, side)) for side in (best.distribution.keys(), best.distribution.values())
        )
        reached = float(parse(f"cvar({tau})").measure(returns, chances))
        assert max(scores) <= reached + 1e-12 <= optimum + 1e-9
        assert max(scores) >= optimum - spacing / 2 * max(1, 1 / tau - 1)


def test_a_grid_that_stops_short_underestimates_the_mean():
    """E13, FORK at τ = 1: 1.997, and 1.883 where the stocks begin at −4."""
    short = solved(Fork, "cvar(1)", stocks=torch.linspace(-4, 1, 2001, dtype=torch.float64))
    assert_close(float(short.scores.max()), 1.883, rtol=0, atol=2e-3)


def test_a_utility_that_is_not_homogeneous_is_scaled_and_said_so():
    clipped = own(lambda x: x.clamp(-2, 3), name="clipped", rational=lambda x: max(-2, min(3, x)))
    precise = solve(table(Bet), clipped, gamma=0.9, horizon=3)
    assert precise.rational.best.score == as_fraction(2.38456)
    assert "silently wrong" in precise.note
    projected = solved(Bet, clipped, atoms=256, stocks=stocks_from([0]))
    assert_close(projected.value, 2.38456, rtol=0, atol=0.02)
    with pytest.raises(ValueError, match="silently wrong; give a horizon"):
        solve(table(Fork), clipped, gamma=0.9, method="dvi")


def test_upper_tails_report_the_policy_and_the_bound():
    solution = solved(Bet, "upper-cvar(0.25)", atoms=256)
    assert_close(solution.bound, 12.77888, rtol=0, atol=0.05)
    assert_close(solution.value, 12.77888, rtol=0, atol=0.05)
    precise = solve(table(Bet), "upper-cvar(0.25)", gamma=0.9, horizon=3)
    assert (precise.value, precise.bound) == (12.77888, 12.77888)


def test_ties_are_equal_to_a_billionth_and_no_more():
    """Actions 0 and 1 by worth and mean: less worth by 1e-6 loses whatever its mean; by 1e-12 the mean decides."""
    worth = float64(0.0, -1e-6, 0.0, -1e-12, 0.0, 0.0, 0.0, 0.0).view(4, 2, 1)
    means = float64(0.0, 5.0, 0.0, 5.0, 0.0, 1e-6, 0.0, 1e-12).view(4, 2, 1)
    assert grid.greedy(worth, means, 1.0).flatten().tolist() == [0, 1, 1, 0]
    keep = torch.ones(4, 1, dtype=torch.int64)
    assert grid.greedy(worth, means, 1.0, keep).flatten().tolist() == [0, 1, 1, 1]
    assert grid.greedy(1e-9 * worth, 1e-9 * means, 1e-9).flatten().tolist() == [0, 1, 1, 0]


def choice(*pays):
    """One state; action i pays pays[i] for sure, and the episode ends."""
    reward = torch.zeros(1, 2, len(pays), 1, dtype=torch.float64)
    reward[0, 0, :, 0] = float64(*pays)
    return TabularMDP(float64(1, 0), torch.ones(1, 2, len(pays), 1).long(), torch.ones_like(reward), reward)


def test_a_worth_that_is_a_ten_thousandth_larger_is_taken():
    solution = solve(choice(1.0, 1.0001), "target(1.0001)", gamma=1.0, horizon=1, method="dvi", stocks=11, atoms=4)
    assert int(solution.policy(torch.zeros(1).long(), float64(-1.0001), 0)) == 1
    assert solution.value == pytest.approx(0.0, abs=1e-12)


@pytest.mark.parametrize(
    ("pays", "objective", "ends"),
    [
        ((-3.0, 2.0), "target(0)", (-2.0, 3.0)),  # −(largest), −(least return)
        ((-3.0, 2.0), "upper-cvar(0.5)", (-2.0, 3.0)),
        ((1.0, 2.0), "target(0)", (-2.0, 0.0)),  # nothing yet is among the returns
        ((-3.0, -2.0), "cvar(0.5)", (0.0, 2.0)),  # min(0, ·) is flat above 0: −2 is guaranteed
        ((-3.0, 2.0), "cvar(0.5)", (-2.0, 0.0)),
    ],
)
def test_the_default_stocks_are_even_from_minus_the_largest_to_minus_the_least_return(pays, objective, ends):
    solution = solve(choice(*pays), objective, gamma=1.0, horizon=1, method="dvi", stocks=6, atoms=4)
    expected = torch.linspace(*ends, 6, dtype=torch.float64)
    fixed = solution.objective.stock
    assert_close(solution.stocks, expected if fixed is None else float64(float(fixed)))


# --- what comes back --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "objective", ["cvar(0.5)", "mean-cvar(0.2, 0.25)", "probability(2)", "shortfall(1)", "entropic(1)"]
)
def test_the_exact_policy_is_followed_to_its_distribution(objective):
    solution = solve(table(Bet), objective, gamma=0.9, horizon=3)
    assert float(solution.chances.sum()) == pytest.approx(1)
    assert float(parse(objective).measure(solution.returns, solution.chances)) == pytest.approx(solution.value)
    returns, _ = played(Bet, solution, 40_000)
    assert_close(returns.mean(), mean(solution.returns, solution.chances), rtol=0, atol=0.08)
    assert_close(float(parse(objective).measure(returns)), solution.value, rtol=0, atol=0.05)


def test_one_solution_serves_all_objectives_of_a_utility_and_no_others():
    for first in (solve(table(Gate), "cvar(1)", gamma=0.5, horizon=2), solved(Gate, "cvar(1)")):
        assert first.again("cvar(0.5)").value == pytest.approx(0.75, abs=0.05)
        assert first.again("shortfall(1)").value == pytest.approx(-0.5, abs=0.05)
        with pytest.raises(ValueError, match="target\\(1\\) has another utility than cvar"):
            first.again("target(1)")
    with pytest.raises(ValueError, match=r"starts from stock -9, outside \[-6, "):
        first.again("shortfall(9)")


def test_several_start_states_share_one_initial_stock():
    """CVaR of the mixture: two states, each sure, worth 0 and 4; the worst half is the first."""
    mdp = TabularMDP(
        float64(0.5, 0.5, 0.0),
        torch.full((1, 3, 1, 1), 2),
        torch.ones(1, 3, 1, 1, dtype=torch.float64),
        float64(0.0, 4.0, 0.0).view(1, 3, 1, 1),
    )
    for method, representation in (("exact", None), ("dvi", "quantiles"), ("dpi", "categorical")):
        solution = solve(
            mdp, "cvar(3/4)", gamma=1.0, horizon=1, method=method, representation=representation, atoms=41, stocks=401
        )
        assert_close(solution.value, 4 / 3, rtol=0, atol=1e-2)
        assert sorted(set(solution.returns.tolist())) == [0, 4]


def test_memory_is_bounded_by_the_formula_and_checked_before_it_is_taken(monkeypatch):
    from torch.profiler import ProfilerActivity, profile

    for representation, method, count in (
        ("quantiles", "dvi", 64),
        ("categorical", "dvi", 64),
        ("quantiles", "dpi", 32),
    ):
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
            solution = solved(
                Crossing,
                "cvar(0.5)",
                representation=representation,
                method=method,
                atoms=count,
                stocks=100,
                max_sweeps=3,
            )
        held = peak = 0
        for event in seen.profiler.kineto_results.events():
            if event.name() == "[memory]":
                held += event.nbytes()
                peak = max(peak, held)
        bound = grid.memory_bytes(solution.projected[0].rows, 20, 100, count, None, method)
        assert bound / 4 < peak < bound, (representation, method, peak, bound)
    monkeypatch.setattr(grid, "no_return", None)  # nothing is allocated before the refusal
    with pytest.raises(
        ValueError, match=r"dvi, for 10000 stocks and 256 atoms, needs up to 11\.83 GB, more than"
    ) as error:
        solved(Crossing, "cvar(0.5)", atoms=256, stocks=10_000)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("kwargs", "words"),
    [
        ({"gamma": 0.0}, r"gamma must lie in \(0, 1\], not 0.0"),
        ({"gamma": 1.0, "horizon": None}, "gamma = 1 needs a horizon"),
        ({"method": "exact", "horizon": None}, "needs a horizon, without which the number of particles is unbounded"),
        ({"method": "exact", "representation": "quantiles"}, "needs representation='particles', not 'quantiles'"),
        ({"method": "magic"}, "unknown method or representation 'magic'; choose one of vi, exact, dvi, dpi"),
        ({"representation": "samples"}, "unknown method or representation 'samples'"),
        ({"horizon": 0}, "horizon must be at least 1, got 0"),
        ({"atoms": 1}, "atoms must be at least 2"),
        ({"stocks": 1}, "stocks must be at least 2"),
        ({"stocks": torch.tensor([1.0, 0.0])}, "finite numbers in order"),
        ({"representation": "categorical", "atoms": 4}, "4 categories are too few"),
        ({"objective": "cvar(2)"}, r"tau must lie in \(0, 1\]"),
    ],
)
def test_bad_arguments_are_refused_in_one_line(kwargs, words):
    kwargs = {"objective": "cvar(0.5)", "gamma": 0.9, "horizon": 3, "method": "dvi"} | kwargs
    with pytest.raises(ValueError, match=words) as error:
        solve(table(Bet), **kwargs)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("horizon", "gamma"), [(3, 1.0), (3, 0.9), (None, 0.9)])
@pytest.mark.parametrize("method", ["dvi", "dpi"])
def test_categories_where_every_reward_is_zero_lie_on_the_one_return_there_is(method, horizon, gamma):
    mdp = table(Bet)
    nothing = mdp._replace(reward=torch.zeros_like(mdp.reward))
    solution = solve(nothing, "cvar(0.5)", gamma=gamma, horizon=horizon, method=method, representation="categorical")
    assert (solution.value, solution.returns.abs().max().item()) == (0.0, 0.0)


def test_a_broken_table_is_refused():
    mdp = table(Bet)
    with pytest.raises(ValueError, match="state 0, action 0: the reward is nan; it must be finite"):
        solve(mdp._replace(reward=mdp.reward * torch.inf), "cvar(0.5)", gamma=0.9, horizon=3)
    two_steps = mdp._replace(**{name: getattr(mdp, name).repeat(2, 1, 1, 1) for name in mdp._fields[1:]})
    with pytest.raises(ValueError, match="the table has 2 steps, the horizon is 3"):
        solve(two_steps, "cvar(0.5)", gamma=0.9, horizon=3)


def test_a_table_that_differs_by_step_is_solved_by_step():
    """The gate's two gambles as two steps of one state."""
    pay = float64(0, 0, 3, 0, 0, 0, 6, -3).view(2, 1, 2, 2)
    chance = float64(1, 0, 0.5, 0.5).view(1, 1, 2, 2).expand(2, 1, 2, 2)
    mdp = TabularMDP(float64(1), torch.zeros(2, 1, 2, 2, dtype=torch.int64), chance, pay)
    assert solve(mdp, "cvar(0.5)", gamma=0.5, horizon=2).rational.best[:2] == (-3, as_fraction(0.75))
    for method in ("dvi", "dpi"):
        solution = solve(mdp, "cvar(0.5)", gamma=0.5, horizon=2, method=method, stocks=361, atoms=64)
        assert_close(solution.value, 0.75, rtol=0, atol=0.03)
