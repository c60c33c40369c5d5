"""Value iteration over states and stocks: right for every objective, by enumeration; and what its bracket holds.

Ways: every stock that can be reached (`enumerated`), a grid of them (`interpolated`), none (`neutral`).
"""

import math
from functools import cache

import numpy as np
import pytest
import torch
from history_policies import achievable, outcomes_of, random_mdp

from surefoot.agents.distributional import enumerated, policy, solve
from surefoot.agents.distributional.objectives import as_fraction, own, parse
from surefoot.agents.parts.tabular import TabularMDP
from surefoot.envs import Bet, Crossing, Drain, Fork, Gate, Pantry
from surefoot.envs.tasks.exploration import Forest

OBJECTIVES = [
    "mean",
    "cvar(0.1)",
    "cvar(0.3)",
    "cvar(0.75)",
    "upper-cvar(0.3)",
    "mean-cvar(0.3, 0.25)",
    "target(2)",
    "shortfall(1.5)",
    "probability(3)",
    "entropic(0.5)",
    "entropic(30)",
    "mean-variance(0.1)",
    "mean-variance(1)",
]
FEW = {"atoms": 2, "stocks": 2}
OWN = {
    "window": own(lambda x: ((x >= 1) & (x <= 3)).to(x.dtype), name="window"),
    "clip": own(lambda x: x.clamp(-1, 5), name="clip"),
    "square": own(lambda x: -x.square(), name="square", stock=-1.0, degree=2),
    "wave": own(lambda x: (2 * x).sin(), name="wave"),
}


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)


def float64(*numbers):
    return torch.tensor(numbers, dtype=torch.float64)


def chosen(objective):
    return OWN[objective] if objective in OWN else parse(objective)


@cache
def every_law(seed, gamma):
    """Return the distributions of all deterministic history-dependent policies, (L, K) values and weights."""
    laws = achievable(outcomes_of(random_mdp(seed)), 0, 3, as_fraction(gamma))
    width = max(map(len, laws))
    padded = [[*((float(x), float(w)) for x, w in law), *[(0.0, 0.0)] * (width - len(law))] for law in laws]
    return torch.tensor(padded, dtype=torch.float64).unbind(-1)


def numbered(gamma):
    return (number + round(100 * gamma) for number in range(3))


@pytest.mark.parametrize("gamma", [0.5, 0.9, 1.0])
@pytest.mark.parametrize("objective", [*OBJECTIVES, *OWN])
def test_the_optimum_of_all_policies_is_found_and_certified(objective, gamma):
    goal = chosen(objective)
    for seed in numbered(gamma):
        mdp = random_mdp(seed)
        optimum = float(goal.measure(*every_law(seed, gamma)).max())
        solution = solve(mdp, goal, gamma=gamma, horizon=3, method="vi")
        assert solution.value == pytest.approx(optimum, abs=2e-8), seed
        assert solution.error == 0
        assert solution.lower - 1e-9 <= optimum <= solution.bound + 1e-9
        if goal.outer != "min":
            assert solution.bound == pytest.approx(optimum, abs=1e-6)


@pytest.mark.parametrize("gamma", [0.5, 0.9, 1.0])
@pytest.mark.parametrize("objective", [one for one in [*OBJECTIVES, *OWN] if one != "window"])
def test_a_grid_of_stocks_brackets_the_optimum(objective, gamma, monkeypatch):
    monkeypatch.setattr(enumerated, "partial_sums", lambda task: None)
    goal = chosen(objective)
    for seed in numbered(gamma):
        mdp = random_mdp(seed)
        optimum = float(goal.measure(*every_law(seed, gamma)).max())
        solution = solve(mdp, goal, gamma=gamma, horizon=3, method="vi", stocks=50)
        assert solution.lower - 1e-9 <= optimum <= solution.bound + 1e-9
        assert solution.value <= optimum + 1e-9
        assert float(goal.measure(solution.returns, solution.chances)) == pytest.approx(solution.value)


@pytest.mark.parametrize("objective", ["cvar(0.3)", "target(2)", "clip", "mean-variance(0.1)", "mean-cvar(0.3, 0.25)"])
def test_a_finer_grid_has_a_narrower_bracket(objective, monkeypatch):
    monkeypatch.setattr(enumerated, "partial_sums", lambda task: None)
    goal, mdp = chosen(objective), random_mdp(90)
    coarse, fine = (solve(mdp, goal, gamma=0.9, horizon=6, method="vi", stocks=stocks) for stocks in (30, 3000))
    assert fine.bound - fine.lower <= 0.02
    assert coarse.lower - 1e-9 <= fine.lower <= fine.bound <= coarse.bound + 1e-9


@pytest.mark.parametrize("stocks", [200, 2001])
def test_a_threshold_out_of_reach_is_not_taken_for_one_that_is_met(stocks):
    """CROSSING's 8-step path pays 0.749 for certain; stocks below the grid counted as its end, and 0.614 came out."""
    crossing = TabularMDP(*Crossing().tabular())
    found = solve(crossing, "probability(0.7)", gamma=0.95, horizon=12, method="vi", stocks=stocks)
    assert (found.value, found.bound) == (pytest.approx(1.0), pytest.approx(1.0))
    hopeless = solve(crossing, "probability(1.9)", gamma=0.95, horizon=12, method="vi", stocks=stocks)
    assert (hopeless.value, hopeless.bound) == (0.0, 0.0)  # 1.83 is the most that can be earned


def test_between_the_points_of_a_grid_a_jump_is_refused(monkeypatch):
    monkeypatch.setattr(enumerated, "partial_sums", lambda task: None)
    with pytest.raises(ValueError, match="window: the stocks are too many to be enumerated, and its utility jumps"):
        solve(random_mdp(0), OWN["window"], gamma=0.9, horizon=3, method="vi", stocks=50)


# --- figures of issues ------------------------------------------------------------------------------------------------


MANY = 33_000  # actions, more than two bytes can count


@pytest.mark.parametrize("way", ["enumerated", "grid", "dvi", "dpi"])
@pytest.mark.parametrize(("objective", "value"), [(f"target({MANY - 1})", 0.0), ("mean", MANY - 1.0)])
def test_actions_beyond_32767_are_named_by_their_own_number(way, objective, value, monkeypatch):
    """Action k pays k; the last one is the best, and came out as number -32,537."""
    if way == "grid":
        monkeypatch.setattr(enumerated, "partial_sums", lambda task: None)
    reward = torch.arange(MANY, dtype=torch.float64).view(1, 1, MANY, 1)
    mdp = TabularMDP(float64(1.0), torch.zeros(reward.shape).long(), torch.ones_like(reward), reward)
    method = way if way in ("dvi", "dpi") else "vi"
    solution = solve(mdp, objective, gamma=1.0, horizon=1, method=method, **({} if method == "vi" else FEW))
    assert int(solution.policy(torch.zeros(1).long(), float64(solution.stock))) == MANY - 1
    assert (solution.value, solution.bound) == pytest.approx((value, value), abs=1e-6)


def test_an_endless_mean_names_actions_beyond_32767_by_their_own_number():
    reward = torch.arange(MANY, dtype=torch.float64).view(1, 1, MANY, 1)
    mdp = TabularMDP(float64(1.0), torch.zeros(reward.shape).long(), torch.ones_like(reward), reward)
    solution = solve(mdp, "mean", gamma=0.5, method="vi")
    assert solution.policy.actions[0].tolist() == [[MANY - 1]]


def two_arms(one, other):
    """One state, for ever: arm 0 pays one of `one`, arm 1 one of `other`, with equal chances."""
    reward = float64(*one, *other).view(1, 1, 2, 2)
    return TabularMDP(float64(1.0), torch.zeros(1, 1, 2, 2).long(), torch.full_like(reward, 0.5), reward)


@pytest.mark.parametrize("method", ["vi", "exact", "dvi"])
def test_a_policy_that_needs_stocks_beyond_the_returns_is_found(method):
    """Mean minus variance, γ = 1: stocks leave [−(largest), −(least return)], where a grid used to end."""
    forest = TabularMDP(*Forest(horizon=5).tabular())
    options = {"gamma": 1.0, "method": method, "atoms": 64, "stocks": 400}
    grown = solve(forest, "mean-variance(0.1)", horizon=5, **options)
    assert grown.value == pytest.approx(8.0669, abs=1e-4 if method != "dvi" else 0.02)
    arms = solve(two_arms((1, 1), (6, 0)), "mean-variance(0.1)", horizon=3, **options)
    assert arms.value == pytest.approx(6.55, abs=1e-9 if method != "dvi" else 0.05)


SAFE = float64(0, 0, 3, -1).view(1, 1, 2, 2)  # a sure 0, or 3 or −1


@pytest.mark.parametrize("way", ["enumerated", "grid", "dvi"])
@pytest.mark.parametrize(("objective", "first", "inside"), [("cvar(0.5)", 5, -1.0), ("mean-variance(1)", -6, -3.0)])
def test_the_bound_of_a_range_of_starts_is_that_of_all_policies(way, objective, first, inside, monkeypatch):
    """From starts so far off the gamble looks best; no policy has more than the sure 0, which is better."""
    if way == "grid":
        monkeypatch.setattr(enumerated, "partial_sums", lambda task: None)
    mdp = TabularMDP(float64(1.0), torch.zeros(SAFE.shape).long(), torch.full_like(SAFE, 0.5), SAFE)
    options = {"method": "dvi", "atoms": 4} if way == "dvi" else {"method": "vi"}
    solution = solve(mdp, objective, gamma=1.0, horizon=1, stocks=first + torch.linspace(0, 1, 11).double(), **options)
    assert solution.value == pytest.approx(inside)
    assert -1e-9 <= solution.bound <= (0.2 if way == "grid" else 1e-6)


@pytest.mark.parametrize("method", ["vi", "dvi"])
def test_a_window_is_not_cut(method):
    window = own(lambda x: ((x >= 4) & (x <= 6)).to(x.dtype), name="window")
    solution = solve(TabularMDP(*Bet().tabular()), window, gamma=1.0, horizon=3, method=method, atoms=128)
    assert solution.value == pytest.approx(0.816)
    assert solution.bound == pytest.approx(0.816)


def test_a_clipped_utility_at_a_discount_is_exact():
    clip = own(lambda x: x.clamp(-1, 5), name="clip", rational=lambda x: max(-1, min(5, x)))
    ways = [solve(TabularMDP(*Bet().tabular()), clip, gamma=0.9, horizon=3, method=m) for m in ("vi", "exact")]
    assert ways[0].value == pytest.approx(ways[1].value, abs=1e-12)


# --- the entropic objective -------------------------------------------------------------------------------------------


def risk_sensitive(mdp, rate, horizon):
    """Return −log E exp(−λG)/λ by plain exponentials, for small λ: V = min_a E exp(−λr)·V'."""
    values = np.ones(len(mdp.start))
    for _ in range(horizon):
        factor = np.exp(-rate * mdp.reward[0].numpy()) * values[mdp.next_state[0].numpy()]
        values = (mdp.probability[0].numpy() * factor).sum(-1).min(-1)
    return -math.log(mdp.start.numpy() @ values) / rate


@pytest.mark.parametrize("method", ["vi", "exact"])
def test_the_entropic_optimum_is_that_of_risk_sensitive_dynamic_programming(method):
    for rate, horizon in ((1.0, 6), (0.01, 4)):
        forest = TabularMDP(*Forest(horizon=horizon).tabular())
        solution = solve(forest, f"entropic({rate})", gamma=1.0, horizon=horizon, method=method)
        assert solution.value == pytest.approx(risk_sensitive(forest, rate, horizon), rel=1e-9)
        measured = float(parse(f"entropic({rate})").measure(solution.returns, solution.chances))
        assert measured == pytest.approx(solution.value, rel=1e-9)


@pytest.mark.parametrize("method", ["vi", "exact"])
@pytest.mark.parametrize(("unit", "rate"), [(1.0, "1"), (1e-6, "1000000"), (1e-9, "1000000000"), (1e6, "1")])
def test_what_is_safe_is_taken_whatever_the_size_of_rewards(method, unit, rate):
    """Safe 20 against {0, 60}: 60 is certain in three steps; at 10⁶ times the rewards exponents reach 6·10⁷."""
    arms = two_arms((20 * unit, 20 * unit), (0, 60 * unit))
    solution = solve(arms, f"entropic({rate})", gamma=1.0, horizon=3, method=method)
    assert solution.value == pytest.approx(60 * unit, rel=1e-9, abs=0)


def test_projections_refuse_the_exponential():
    with pytest.raises(ValueError, match="lose the tail that its exponential weighs most; use method='vi'"):
        solve(two_arms((20, 20), (0, 60)), "entropic(1)", gamma=1.0, horizon=3, method="dvi")


# --- without a horizon ------------------------------------------------------------------------------------------------

FORK = {"cvar(1)": 1.997, "cvar(0.75)": 1.412333, "cvar(0.5)": 0.944, "cvar(0.25)": 0.349}
CROSSING = {"cvar(1)": 1.18834, "cvar(0.75)": 0.97440, "cvar(0.5)": 0.82813, "cvar(0.1)": 0.74869}


@pytest.mark.parametrize(("task", "optima"), [(Fork, FORK), (Crossing, CROSSING)])
def test_the_grids_known_figures_lie_in_the_bracket(task, optima):
    for objective, optimum in optima.items():
        solution = solve(TabularMDP(*task().tabular()), objective, gamma=task.discount, method="vi")
        assert solution.value == pytest.approx(optimum, abs=1e-5)
        assert solution.lower - 1e-9 <= optimum + 5e-6
        assert optimum - 5e-6 <= solution.bound <= optimum + 0.02
        assert solution.settled


def test_ties_go_to_the_larger_mean_on_the_default_grid():
    """FORK at τ = 1/4: mean 1.673, not an equally good tail with a mean of 0.37."""
    solution = solve(TabularMDP(*Fork().tabular()), "cvar(0.25)", gamma=0.9, method="vi")
    assert float(solution.returns @ solution.chances) == pytest.approx(1.673)


OPTIMA = {Pantry: 0.0, Drain: -5e-5}  # of target(3), to 4 decimals


@pytest.mark.parametrize("task", [Pantry, Drain])
def test_an_iteration_that_is_stopped_says_so_and_its_bracket_holds(task, monkeypatch):
    monkeypatch.setattr(policy, "MAX_ATOMS", 200)
    mdp = TabularMDP(*task().tabular())
    few = solve(mdp, "target(3)", gamma=0.9, method="vi", max_sweeps=5, stocks=100)
    assert not few.settled
    assert few.change > 1e-3
    assert few.lower - 1e-9 <= OPTIMA[task] <= few.bound + 1e-9
    projected = solve(mdp, "target(3)", gamma=0.9, method="dvi", max_sweeps=5, stocks=50, atoms=8)
    assert not projected.settled
    assert projected.lower - 1e-9 <= OPTIMA[task] <= projected.bound + 1e-9


def test_a_square_has_no_grid_that_may_be_clamped():
    """−x² is homogeneous, but not linear beyond the returns: held to a horizon that leaves nothing."""
    square = OWN["square"]
    mdp = random_mdp(3)
    endless = solve(mdp, square, gamma=0.5, method="vi", stocks=2000)
    long = solve(mdp, square, gamma=0.5, horizon=12, method="vi")
    assert endless.lower - 0.05 <= long.value <= endless.bound + 0.05
    with pytest.raises(ValueError, match="its stocks leave every grid"):
        solve(mdp, square, gamma=0.5, method="dvi")


@pytest.mark.parametrize("cap", [20.0, 1e6])
def test_a_capped_utility_is_not_homogeneous(cap):
    with pytest.raises(ValueError, match="leave degree out"):
        own(lambda x: x.clamp(max=cap), degree=1)


@pytest.mark.parametrize("objective", ["cvar(0.1)", "cvar(0.5)", "target(1)", "mean-cvar(0.3, 0.25)"])
@pytest.mark.parametrize("task", [Gate, Bet])
def test_a_projection_is_called_by_what_its_policy_achieves(objective, task):
    """`dvi` once printed 0.433 for a CVaR whose optimum is 0.412."""
    mdp, options = TabularMDP(*task().tabular()), {"gamma": task.discount, "horizon": task().horizon}
    optimum = solve(mdp, objective, method="vi", **options).value
    for atoms in (8, 32):
        solution = solve(mdp, objective, method="dvi", atoms=atoms, stocks=60, **options)
        assert solution.value <= optimum + 1e-12
        assert solution.lower - 1e-9 <= optimum <= solution.bound + 1e-9
