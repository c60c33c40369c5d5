"""Exact distributional dynamic programming: brute force, known figures, and every known bug with its wrong value.

The references share no code with the method: distributions of policies are enumerated here, from the gambles or the
table. Numbers, E1 to E9 and E15, and what they are for, E18 to E28, are those of docs/derivations/distributional.md.
"""

from fractions import Fraction
from itertools import pairwise, product
from types import SimpleNamespace

import pytest
import torch
from history_policies import NOTHING, achievable, mixed, outcomes_of, random_mdp

from surefoot.agents.distributional import exact, solve
from surefoot.agents.distributional.exact import best_start, make_program, reachable
from surefoot.agents.distributional.objectives import as_fraction, own, parse
from surefoot.agents.distributional.solution import _particle_policy
from surefoot.agents.parts.tabular import TabularMDP, optimal_return
from surefoot.envs import Bet, Gate

F = Fraction
TASKS = {"gate": Gate, "bet": Bet}
MDPS = {name: TabularMDP(*task().tabular()) for name, task in TASKS.items()}


def program_of(mdp, objective, gamma, horizon, scaled=False):
    objective = parse(objective) if isinstance(objective, str) else objective
    return make_program(mdp, objective, float(gamma), horizon, scaled)


def found(name, objective, method="exact", gamma=None):
    task = TASKS[name]
    return best_start(program_of(MDPS[name], objective, gamma or task.discount, len(task.gambles)), method)


# --- references -------------------------------------------------------------------------------------------------------


def exact_gambles(name):
    """Return the gambles of a ladder, [step][action], as (chance, pay) in fractions."""
    return [[[(as_fraction(c), as_fraction(r)) for c, r in gamble] for gamble in step] for step in TASKS[name].gambles]


def distributions_of_history_policies(name):
    """Return all achievable distributions: a union over actions of products over the outcomes' achievable ones."""
    gamma = as_fraction(TASKS[name].discount)
    achievable = {NOTHING}
    for step in reversed(exact_gambles(name)):
        achievable = {
            mixed([(chance, pay, child) for (chance, pay), child in zip(gamble, children, strict=True)], gamma)
            for gamble in step
            for children in product(achievable, repeat=len(gamble))
        }
    return achievable


def distribution_of_plan(name, actions):
    """Return the distribution of one action per step: what a Markov policy of a ladder is."""
    gamma, distribution = as_fraction(TASKS[name].discount), NOTHING
    for step, action in reversed(list(zip(exact_gambles(name), actions, strict=True))):
        distribution = mixed([(chance, pay, distribution) for chance, pay in step[action]], gamma)
    return distribution


def plans(name):
    return product(range(len(TASKS[name].gambles[0])), repeat=len(TASKS[name].gambles))


def cvar(distribution, tau):
    left, total = F(tau), F(0)
    for value, weight in sorted(distribution):
        mass = min(left, weight)
        total, left = total + mass * value, left - mass
    return total / F(tau)


def upper_cvar(distribution, tau):
    return -cvar([(-value, weight) for value, weight in distribution], tau)


def mean(distribution):
    return cvar(distribution, 1)


def nested_plan(name, tau):
    """Return the plan that is greedy in the CVaR of reward plus γ times a number, step by step; ties to the first."""
    gamma, value, plan = as_fraction(TASKS[name].discount), F(0), []
    for step in reversed(exact_gambles(name)):
        worth = [cvar([(pay + gamma * value, chance) for chance, pay in gamble], tau) for gamble in step]
        value = max(worth)
        plan.append(worth.index(value))
    return plan[::-1]


UTILITIES = {
    "mean": lambda x: x,
    "min": lambda x: min(x, F(0)),
    "max": lambda x: max(x, F(0)),
    "abs": lambda x: -abs(x),
    "square": lambda x: -x * x,
    "reached": lambda x: F(x >= 0),
    "two slopes": lambda x: 2 * min(x, F(0)) + max(x, F(0)) / 3,
}


def objective_of(utility, stock, degree=1):
    """Return an objective with a rational utility of the references; its tensor form is not looked at."""
    return own(lambda x: x, name="own", stock=stock, degree=degree, rational=utility)


DISTRIBUTIONS = {name: distributions_of_history_policies(name) for name in TASKS}


# --- E18: brute force in fractions (values E1 to E6, E8) --------------------------------------------------------------


def test_how_many_distributions_and_plans_there_are():
    assert [len(DISTRIBUTIONS[name]) for name in TASKS] == [6, 903]
    assert [len(list(plans(name))) for name in TASKS] == [4, 27]


CVARS = [
    ("gate", "1/4", "0", "0"),
    ("gate", "1/2", "3/4", "-3"),
    ("gate", "3/4", "3/2", "-3"),
    ("gate", "1", "9/4", "-6"),
    ("bet", "1/10", "1031/2500", "-1"),
    ("bet", "1/4", "1273/1250", "-19/10"),
    ("bet", "1/2", "2967/1250", "-671/100"),
    ("bet", "3/4", "148813/37500", "-1031/100"),
    ("bet", "1", "2981/500", "-271/20"),
]


@pytest.mark.parametrize(("name", "tau", "value", "stock"), CVARS)
def test_cvar_is_that_of_the_best_of_all_policies(name, tau, value, stock):
    best = found(name, f"cvar({tau})").best
    assert best.score == F(value) == max(cvar(distribution, tau) for distribution in DISTRIBUTIONS[name])
    assert best.stock == F(stock)
    assert cvar(best.distribution.items(), tau) == best.score
    assert frozenset(best.distribution.items()) in DISTRIBUTIONS[name]


@pytest.mark.parametrize("method", ["dvi", "dpi"])
@pytest.mark.parametrize(("name", "tau"), [("gate", "1/2"), ("gate", "3/4"), ("bet", "1/2")])
def test_value_and_policy_iteration_come_to_the_same_figures(name, tau, method):
    one, other = found(name, f"cvar({tau})"), found(name, f"cvar({tau})", method)
    assert [start[:2] for start in one.tried] == [start[:2] for start in other.tried]


REFERENCE_ROWS = {
    "gate": {
        "markov": {"1/4": 0, "1/2": 0, "3/4": 1, "1": 2.25},
        "nested": {"1/4": 0, "1/2": 0, "3/4": 1, "1": 2.25},
        "neutral": {"1/4": -1.5, "1/2": 0, "3/4": 1, "1": 2.25},
    },
    "bet": {
        "markov": {"1/10": 0.2402, "1/4": 0.67808, "1/2": 1.77096, "3/4": 3.689707, "1": 5.962},
        "nested": {"1/10": 0, "1/4": 0.67808, "1/2": 1.626, "3/4": 3.689707, "1": 5.962},
        "neutral": {"1/10": -3.3788, "1/4": -0.97472, "1/2": 1.77096, "3/4": 3.689707, "1": 5.962},
    },
}


@pytest.mark.parametrize("name", TASKS)
def test_what_policies_without_a_stock_reach(name):
    """Best plan, greedy nested CVaR, and the plan of the largest mean: where they fall short, the stock is needed."""
    neutral = max((distribution_of_plan(name, plan) for plan in plans(name)), key=mean)
    for tau in REFERENCE_ROWS[name]["markov"]:
        reached = {
            "markov": max(cvar(distribution_of_plan(name, plan), tau) for plan in plans(name)),
            "nested": cvar(distribution_of_plan(name, nested_plan(name, tau)), tau),
            "neutral": cvar(neutral, tau),
        }
        for row, value in reached.items():
            assert float(value) == pytest.approx(REFERENCE_ROWS[name][row][tau], abs=5e-7), (row, tau)


EXPECTED = [
    ("gate", "-3", {"min": "-9/8", "max": "3/4", "abs": "-9/8", "square": "-9/2", "reached": "3/4"}),
    ("gate", "-1", {"min": "-1/2", "max": "15/8", "abs": "-1", "square": "-1", "reached": "3/4"}),
    ("gate", "0", {"min": "0", "max": "21/8", "abs": "0", "square": "0", "reached": "1"}),
    ("gate", "2", {"min": "0", "max": "17/4", "abs": "-2", "square": "-4", "reached": "1"}),
    (
        "bet",
        "-3",
        {
            "min": "-17239/25000",
            "max": "51309/12500",
            "abs": "-4747/6250",
            "square": "-3928099/2500000",
            "reached": "102/125",
        },
    ),
    (
        "bet",
        "-1",
        {"min": "-1469/25000", "max": "13641/2500", "abs": "-79/1250", "square": "-46361/500000", "reached": "123/125"},
    ),
    ("bet", "2", {"min": "0", "max": "102261/12500", "abs": "-2", "square": "-4", "reached": "1"}),
]


@pytest.mark.parametrize(("name", "stock", "values"), EXPECTED)
def test_expected_utilities_are_those_of_the_best_of_all_policies(name, stock, values):
    for kind, value in values.items():
        u, c = UTILITIES[kind], F(stock)
        brute = max(sum(w * u(c + x) for x, w in distribution) for distribution in DISTRIBUTIONS[name])
        best = found(name, objective_of(u, float(c))).best
        assert best.score == F(value) == brute, kind


@pytest.mark.parametrize(
    ("name", "tau", "value"),
    [
        ("gate", "1/4", 6),
        ("gate", "1/2", 4.5),
        ("gate", "3/4", 3.5),
        ("gate", "1", 2.25),
        ("bet", "1/10", 13.55),
        ("bet", "1/4", 12.77888),
        ("bet", "1/2", 10.15304),
        ("bet", "3/4", 8.27424),
    ],
)
def test_upper_tails(name, tau, value):
    result = found(name, f"upper-cvar({tau})")
    assert float(result.bound) == value
    assert (
        result.best.score == result.bound == max(upper_cvar(distribution, tau) for distribution in DISTRIBUTIONS[name])
    )


@pytest.mark.parametrize(("aversion", "value"), [("1/10", 3.5192016), ("1/4", 2.135849), ("1", 1.383504)])
def test_mean_minus_variance_at_gamma_1(aversion, value, monkeypatch):
    def penalised(distribution):
        return mean(distribution) - F(aversion) * (sum(w * x * x for x, w in distribution) - mean(distribution) ** 2)

    monkeypatch.setattr(Bet, "discount", 1.0)
    brute = max(map(penalised, distributions_of_history_policies("bet")))
    best = found("bet", f"mean-variance({aversion})", gamma=1.0).best
    assert best.score == brute == penalised(best.distribution.items())
    assert float(brute) == pytest.approx(value, abs=1e-12)


def test_the_vertices_of_mean_minus_variance_are_found_without_any_start_but_the_ends(monkeypatch):
    monkeypatch.setattr(Bet, "discount", 1.0)
    for aversion in (F(1, 10), F(1, 4), F(1)):
        program = program_of(MDPS["bet"], f"mean-variance({aversion})", 1.0, 3)
        search = exact._Search(program, exact.backward_induction)
        exact._vertices(search, F(-15), F(6))
        assert max(start.score for start in search.starts()) == found("bet", program.objective, gamma=1.0).best.score


@pytest.mark.parametrize(("aversion", "value"), [("1/10", 3.072), ("1/4", 2.13), ("1", 1.32)])
def test_mean_minus_variance_step_by_step_is_less(aversion, value, monkeypatch):
    monkeypatch.setattr(Bet, "discount", 1.0)

    def penalised(distribution):
        return mean(distribution) - F(aversion) * (sum(w * x * x for x, w in distribution) - mean(distribution) ** 2)

    distribution = NOTHING
    for step in reversed(exact_gambles("bet")):
        distribution = max(
            (mixed([(chance, pay, distribution) for chance, pay in gamble], F(1)) for gamble in step), key=penalised
        )
    assert float(penalised(distribution)) == pytest.approx(value)


@pytest.mark.parametrize("gamma", [F(1, 2), F(4, 5), F(1)])
@pytest.mark.parametrize("block", range(4))
def test_random_mdps_against_brute_force(gamma, block):
    """108 MDPs, 3 steps, every utility and stock, by equality; a third of them at each γ."""
    for seed in range(9 * block, 9 * block + 9):
        mdp = random_mdp(seed + 100 * gamma.numerator + gamma.denominator)
        distributions = achievable(outcomes_of(mdp), 0, 3, gamma)
        for u in UTILITIES.values():
            program, stocks = program_of(mdp, objective_of(u, 0), gamma, 3), [F(-3), F(-1, 2), F(2)]
            solved = exact.backward_induction(program, reachable(program, stocks))
            for c in stocks:
                best = exact.expected_utility(program, (0, 0, c), solved.distributions[0, 0, c])
                assert best == max(sum(w * u(c + x) for x, w in distribution) for distribution in distributions)


# --- E19: the mean ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["exact", "dvi", "dpi"])
def test_the_mean_is_that_of_classic_dynamic_programming_whatever_the_stock(method):
    for seed in range(20):
        mdp = random_mdp(seed)
        program = program_of(mdp, "mean", 0.8, 3)
        best = best_start(program, method).best
        assert float(best.score) == pytest.approx(float(optimal_return(mdp, 3, 0.8)), abs=1e-12)
        solved = exact.METHODS[method](program, reachable(program, [F(-3), F(0), F(2)]))
        actions = {}
        for (step, state, _), action in solved.actions.items():
            assert actions.setdefault((step, state), action) == action


# --- E20, E21: the operator -------------------------------------------------------------------------------------------


def w1(one, other):
    points = sorted(set(one) | set(other))
    gap, total = F(0), F(0)
    for left, right in pairwise(points):
        gap += one.get(left, F(0)) - other.get(left, F(0))
        total += abs(gap) * (right - left)
    return total


def nodes_and_policies(seed, gamma):
    """Return a program, its inner nodes, and distributions of two random policies of all nodes."""
    program = program_of(random_mdp(seed), objective_of(UTILITIES["two slopes"], 0), gamma, 3)
    layers = reachable(program, [F(-1), F(1)])
    inner = [node for layer in layers[:-1] for node in layer]
    g = torch.Generator().manual_seed(seed)
    draws = torch.randint(2, (2, len(inner)), generator=g).tolist()
    return program, layers, inner, [dict(zip(inner, draw, strict=True)) for draw in draws]


@pytest.mark.parametrize("gamma", [F(1, 2), F(9, 10)])
def test_the_operator_contracts_shifts_by_gamma(gamma):
    for seed in range(10):
        program, layers, inner, (policy, _) = nodes_and_policies(seed, gamma)
        distributions = exact.evaluate(program, layers, policy)
        shift = {node: F(hash(node) % 9 - 4, 4) for node in distributions}
        shifted = {
            node: {value + shift[node]: w for value, w in distribution.items()}
            for node, distribution in distributions.items()
        }
        moved = [
            w1(exact.bellman(program, n, policy[n], distributions), exact.bellman(program, n, policy[n], shifted))
            for n in inner
        ]
        assert max(moved) <= gamma * 1
        assert max(moved) > gamma / 2


@pytest.mark.parametrize("kind", ["min", "max", "abs", "square", "two slopes"])
def test_the_operator_keeps_order_for_homogeneous_utilities(kind):
    """E21, with F of two distributions in order at all that follows; and not for a utility that is not homogeneous."""
    compared = 0
    for seed in range(40):
        compared += ordered_pairs(seed, UTILITIES[kind], violations_allowed=False)
    assert compared > 100


def ordered_pairs(seed, u, violations_allowed):
    """Compare two policies wherever one is no worse at all nodes that can follow; return how often."""
    program, layers, inner, policies = nodes_and_policies(seed, F(4, 5))
    one, other = (exact.evaluate(program, layers, policy) for policy in policies)
    count = 0
    for node in inner:
        for action in range(2):
            following = [
                (node[0] + 1, after, exact.next_stock(node[2], reward, program.gamma))
                for _, after, reward in program.after(node[0], node[1], action)
            ]
            worth = [[value_of(u, n, distributions[n]) for n in following] for distributions in (one, other)]
            if all(a >= b for a, b in zip(*worth, strict=True)):
                ours, theirs = (
                    value_of(u, node, exact.bellman(program, node, action, distributions))
                    for distributions in (one, other)
                )
                if not violations_allowed:
                    assert ours >= theirs
                count += ours < theirs if violations_allowed else 1
    return count


def value_of(u, node, distribution):
    return sum(weight * u(node[2] + value) for value, weight in distribution.items())


def test_the_operator_breaks_the_order_of_a_utility_that_is_not_homogeneous():
    assert sum(ordered_pairs(seed, lambda x: max(F(-2), min(F(3), x)), violations_allowed=True) for seed in range(40))


# --- E23: bounds of value and policy iteration ------------------------------------------------------------------------


@pytest.mark.parametrize("name", TASKS)
def test_n_sweeps_are_within_the_contraction_bound_and_T_are_exact(name):
    """Eq. (4.6), |F η_n − F*| ≤ L·γⁿ·ρ, with ρ the largest |return| still to come."""
    task, full = TASKS[name], found(name, "shortfall(1)").best.score
    gamma, steps = as_fraction(task.discount), len(task.gambles)
    reward = max(abs(pay) for step in exact_gambles(name) for gamble in step for _, pay in gamble)
    for n in range(1, steps + 1):
        reached = best_start(program_of(MDPS[name], "shortfall(1)", gamma, n), "exact").best.score
        rest = sum(gamma**k * reward for k in range(n, steps))
        assert abs(reached - full) <= rest
    assert reached == full
    assert best_start(program_of(MDPS[name], "shortfall(1)", gamma, steps), "dvi").solved.sweeps == steps + 1


def test_policy_iteration_never_gets_worse(monkeypatch):
    """At any node: eq. (4.7)."""
    seen = []
    evaluate = exact.evaluate

    def watched(program, layers, actions):
        distributions = evaluate(program, layers, actions)
        seen.append(
            {node: exact.expected_utility(program, node, distribution) for node, distribution in distributions.items()}
        )
        return distributions

    monkeypatch.setattr(exact, "evaluate", watched)
    result = found("bet", "shortfall(3)", "dpi")
    assert len(seen) == result.solved.sweeps > 2
    for before, after in pairwise(seen):
        assert all(after[node] >= value for node, value in before.items())
    assert seen[-1] == {
        node: exact.expected_utility(program_of(MDPS["bet"], "shortfall(3)", 0.9, 3), node, distribution)
        for node, distribution in found("bet", "shortfall(3)").solved.distributions.items()
    }


# --- E24: utilities that are not homogeneous (values E7) --------------------------------------------------------------

CLIPPED = own(lambda x: x.clamp(-2, 3), name="clipped", rational=lambda x: max(F(-2), min(F(3), x)))


def test_a_clipped_utility_needs_the_scale_beside_the_stock(monkeypatch):
    u = CLIPPED.rational
    optimum = max(sum(w * u(x) for x, w in distribution) for distribution in DISTRIBUTIONS["bet"])
    assert optimum == F(29807, 12500)
    assert best_start(program_of(MDPS["bet"], CLIPPED, 0.9, 3, scaled=True), "exact").best.score == optimum
    plain = program_of(MDPS["bet"], CLIPPED, 0.9, 3, scaled=False)
    assert best_start(plain, "exact").best.score == F("2.3473")  # wrong, and by how much depends on how ties break
    monkeypatch.setattr(exact, "greedy", ties_to_the_first)
    assert best_start(plain, "exact").best.score == F("2.34916")


def test_among_equal_scores_the_larger_mean_starts():
    """τ = 1/2: 1 or 3, from c_0 = −1, and 0, 2 or 10, from −2, have the tail 1 both; the second has the larger mean."""
    pays, chances = [[1, 3, 0], [0, 2, 10]], [[0.5, 0.5, 0], [0.25, 0.25, 0.5]]
    mdp = TabularMDP(
        torch.ones(1, dtype=torch.float64),
        torch.zeros(1, 1, 2, 3, dtype=torch.int64),
        torch.tensor(chances, dtype=torch.float64)[None, None],
        torch.tensor(pays, dtype=torch.float64)[None, None],
    )
    best = best_start(program_of(mdp, "cvar(1/2)", 1.0, 1), "exact").best
    assert best == (-2, 1, {F(0): F(1, 4), F(2): F(1, 4), F(10): F(1, 2)})


# --- E27: mixtures (values E15) ---------------------------------------------------------------------------------------


def test_an_upper_tail_that_only_a_mixture_reaches():
    """Arm 1 pays 2; arm 2 pays 10 with chance 0.1. τ = 0.2: the arms alone 2 and 5, 8/9 on arm 2 gives 50/9."""
    nothing = torch.zeros(2, 2, dtype=torch.float64)
    mdp = TabularMDP(
        torch.tensor([1.0, 0.0], dtype=torch.float64),
        torch.ones(1, 2, 2, 2, dtype=torch.int64),
        torch.tensor([[[1.0, 0.0], [0.1, 0.9]], [[1.0, 0.0], [1.0, 0.0]]], dtype=torch.float64)[None],
        torch.stack([torch.tensor([[2.0, 0.0], [10.0, 0.0]], dtype=torch.float64), nothing])[None],
    )
    result = best_start(program_of(mdp, "upper-cvar(0.2)", 1.0, 1), "exact")
    assert (result.best.score, result.bound) == (5, F(50, 9))
    assert next(start.stock for start in result.tried if start.score == result.bound) == F(-10, 9)
    mixture = {F(2): F(1, 9), F(10): F(8, 90), F(0): F(8, 9) * F(9, 10)}
    assert upper_cvar(mixture.items(), "1/5") == F(50, 9)


# --- E28: every bug with its wrong value (E9, E1) ---------------------------------------------------------------------

BUGS = {
    "c' = c + r": lambda stock, reward, gamma: stock + reward,
    "c' = γc + r": lambda stock, reward, gamma: gamma * stock + reward,
    "c' = c": lambda stock, reward, gamma: stock,
}
WRONG = [  # where ties go to the first action
    ("gate", "c' = c + r", {"1/4": 0, "1/2": 0, "3/4": 1, "1": 15 / 8}),
    ("bet", "c' = c + r", {"1/10": 0.4124, "1/4": 1.0184, "1/2": 2.3736, "3/4": 3.968347, "1": 5.962}),  # invisible
    ("bet", "c' = γc + r", {"1/10": 0.4124, "1/4": 1.0184, "1/2": 1.90704, "3/4": 3.927307, "1": 5.55376}),
    ("bet", "c' = c", {"1/10": 0.2402, "1/4": 0.67808, "1/2": 1.77096, "3/4": 3.689707, "1": 5.962}),
]
WRONG_BY_THE_MEAN = [  # where they go to the larger mean, ours: the gate does not see the first bug, and the bets do
    ("gate", "c' = c + r", {"1/4": 0, "1/2": 0.75, "3/4": 1.5, "1": 2.25}),
    ("bet", "c' = c + r", {"1/4": 1.01648, "1/2": 2.3736}),
    ("bet", "c' = γc + r", {"1/4": 1.01648, "1/2": 1.90704, "1": 5.55376}),
    ("bet", "c' = c", {"1/4": 0.67808, "1/2": 1.77096}),
]


def ties_to_the_first(program, node, distributions, keep=None):
    found = [exact.bellman(program, node, action, distributions) for action in range(len(program.outcomes[0][node[1]]))]
    worth = [exact.expected_utility(program, node, distribution) for distribution in found]
    return worth.index(max(worth)), found[worth.index(max(worth))]


def check_bug(name, bug, values, monkeypatch):
    kinks = exact.returns(program_of(MDPS[name], "mean", TASKS[name].discount, len(TASKS[name].gambles)))
    monkeypatch.setattr(exact, "next_stock", BUGS[bug])
    search = exact._Search(program_of(MDPS[name], "shortfall(0)", TASKS[name].discount, 3), exact.backward_induction)
    starts = search.at(sorted(-total for total in kinks))  # one solution serves every τ
    for tau, value in values.items():
        best = max(starts, key=lambda s: (s.score / F(tau) - s.stock, mean(s.distribution.items()), s.stock))
        assert float(cvar(best.distribution.items(), tau)) == pytest.approx(value, abs=5e-7), tau


@pytest.mark.parametrize(("name", "bug", "values"), WRONG)
def test_a_wrong_stock_update_finds_the_wrong_policy(name, bug, values, monkeypatch):
    monkeypatch.setattr(exact, "greedy", ties_to_the_first)
    check_bug(name, bug, values, monkeypatch)


@pytest.mark.parametrize(("name", "bug", "values"), WRONG_BY_THE_MEAN)
def test_a_wrong_stock_update_also_shows_where_the_mean_breaks_ties(name, bug, values, monkeypatch):
    check_bug(name, bug, values, monkeypatch)


@pytest.mark.parametrize(("tau", "by_the_mean"), [("1/4", 0), ("1/2", 0), ("3/4", "1/2"), ("1", "15/8")])
def test_without_a_search_over_the_stock_the_gate_is_worth_little(tau, by_the_mean, monkeypatch):
    assert cvar(found("gate", "shortfall(0)").best.distribution.items(), tau) == F(by_the_mean)
    monkeypatch.setattr(exact, "greedy", ties_to_the_first)
    assert cvar(found("gate", "shortfall(0)").best.distribution.items(), tau) == 0


def test_the_wrong_sign_of_the_initial_stock_loses():
    """The sign, pitfall 4: c_0 = −q, not +q."""
    right = found("bet", "cvar(1/2)").best
    wrong = found("bet", f"shortfall({right.stock})").best  # starts from +6.71
    assert cvar(wrong.distribution.items(), "1/2") < right.score


def test_adding_the_stock_to_a_distribution_that_already_has_it_loses():
    """Pitfall 2: the distribution is of G; a learner of c + G that adds c again is that of the utility u(2c + G)."""
    right = found("gate", "cvar(3/4)").best
    twice = [found("gate", f"shortfall({-2 * stock})").best for stock in (F(0), F(-3, 2), F(-3), F(-9, 2), F(-6))]
    scores = [
        (-stock / 2 + sum(w * min(F(0), stock + x) for x, w in distribution.items()) * F(4, 3))
        for stock, _, distribution in twice
    ]
    assert cvar(twice[scores.index(max(scores))].distribution.items(), "3/4") < right.score


def test_choosing_the_following_action_by_the_old_stock_loses(monkeypatch):
    """Pitfall 3: the distribution after the first step must be that of the action for c', not for c."""
    lawful = exact.bellman

    def stale(program, node, action, distributions):
        step, state, stock = node
        distribution = {}
        for chance, after, reward in program.after(step, state, action):
            child = min(distributions, key=lambda n: (n[0] != step + 1, n[1] != after, abs(n[2] - stock)))
            for value, weight in distributions[child].items():
                total = reward + program.gamma * value
                distribution[total] = distribution.get(total, F(0)) + chance * weight
        return distribution

    right = found("gate", "cvar(1/2)").best
    monkeypatch.setattr(exact, "bellman", stale)
    wrong = found("gate", "cvar(1/2)")
    monkeypatch.setattr(exact, "bellman", lawful)
    program = program_of(MDPS["gate"], "cvar(1/2)", 0.5, 2)
    layers = reachable(program, [start.stock for start in wrong.tried])
    true = exact.evaluate(program, layers, wrong.solved.actions)[0, 0, wrong.best.stock]
    assert cvar(true.items(), "1/2") < right.score


# --- size -------------------------------------------------------------------------------------------------------------


def test_too_many_stocks_are_refused_in_one_line(monkeypatch):
    monkeypatch.setattr(exact, "MAX_NODES", 50)
    with pytest.raises(ValueError, match="more than 50 pairs of state and stock") as error:
        found("bet", "cvar(1/2)")
    assert "\n" not in str(error.value)


def test_an_action_beyond_32767_is_named_by_its_own_number():
    program = SimpleNamespace(outcomes=[[None]], horizon=1)
    policy = _particle_policy(program, {(0, 0, F(0)): 32_999})
    assert policy.actions[0].tolist() == [[32_999]]


def test_stocks_that_float32_takes_for_equal_have_actions_of_their_own():
    """0.01 or .02, then 1,000,000.02 or .01: the target is met to the cent, as the value says, and by the table too."""
    reward = torch.zeros(2, 1, 2, 2, dtype=torch.float64)
    reward[0] = torch.tensor([0.01, 0.02], dtype=torch.float64)
    reward[1] = torch.tensor([[1_000_000.02], [1_000_000.01]], dtype=torch.float64)
    mdp = TabularMDP(
        torch.ones(1, dtype=torch.float64), torch.zeros(reward.shape).long(), torch.full_like(reward, 0.5), reward
    )
    solution = solve(mdp, "target(1000000.03)", gamma=1.0, horizon=2, method="exact")
    after = solution.stock + reward[0, 0, 0]
    assert solution.value == 0
    assert solution.policy(torch.zeros(2).long(), after, 1).tolist() == [0, 1]
