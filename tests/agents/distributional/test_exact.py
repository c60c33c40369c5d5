"""Exact distributional dynamic programming: brute force, known figures, and every known bug with its wrong value.

The references share no code with the method: laws of policies are enumerated here, from the gambles or the table.
"""

from fractions import Fraction
from itertools import pairwise, product

import pytest
import torch

from surefoot.agents.distributional import exact
from surefoot.agents.distributional.exact import best_start, make_program, reachable
from surefoot.agents.distributional.objectives import as_fraction, own, parse
from surefoot.agents.parts.tabular import TabularMDP, optimal_return
from surefoot.envs import Bet, Gate

F = Fraction
TASKS = {"gate": Gate, "bet": Bet}
MDPS = {name: TabularMDP(*task().tabular()) for name, task in TASKS.items()}


def program_of(mdp, objective, gamma, horizon, scaled=False):
    wish = parse(objective) if isinstance(objective, str) else objective
    return make_program(mdp, wish, float(gamma), horizon, scaled)


def found(name, objective, method="exact", gamma=None):
    task = TASKS[name]
    return best_start(program_of(MDPS[name], objective, gamma or task.discount, len(task.gambles)), method)


# --- references -------------------------------------------------------------------------------------------------------


def exact_gambles(name):
    """Return the gambles of a ladder, [step][action], as (chance, pay) in fractions."""
    return [[[(as_fraction(c), as_fraction(r)) for c, r in gamble] for gamble in step] for step in TASKS[name].gambles]


def mixed(outcomes, gamma):
    """Return the law of reward + γ·(law that follows), of (chance, reward, law); laws are sets of (value, weight)."""
    law = {}
    for chance, reward, child in outcomes:
        for value, weight in child:
            law[reward + gamma * value] = law.get(reward + gamma * value, F(0)) + chance * weight
    return frozenset(law.items())


NOTHING = frozenset({(F(0), F(1))})


def laws_of_history_policies(name):
    """Return all achievable laws: a union over actions of products over outcomes of what is achievable after each."""
    gamma = as_fraction(TASKS[name].discount)
    achievable = {NOTHING}
    for step in reversed(exact_gambles(name)):
        achievable = {
            mixed([(chance, pay, child) for (chance, pay), child in zip(gamble, children, strict=True)], gamma)
            for gamble in step
            for children in product(achievable, repeat=len(gamble))
        }
    return achievable


def law_of_plan(name, actions):
    """Return the law of one action a step: what a Markov policy of a ladder is."""
    gamma, law = as_fraction(TASKS[name].discount), NOTHING
    for step, action in reversed(list(zip(exact_gambles(name), actions, strict=True))):
        law = mixed([(chance, pay, law) for chance, pay in step[action]], gamma)
    return law


def plans(name):
    return product(range(len(TASKS[name].gambles[0])), repeat=len(TASKS[name].gambles))


def cvar(law, tau):
    left, total = F(tau), F(0)
    for value, weight in sorted(law):
        share = min(left, weight)
        total, left = total + share * value, left - share
    return total / F(tau)


def upper_cvar(law, tau):
    return -cvar([(-value, weight) for value, weight in law], tau)


def mean(law):
    return cvar(law, 1)


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


def wish(utility, stock, degree=1):
    """Return an objective with a rational utility of the references; its tensor form is not looked at."""
    return own(lambda x: x, name="wish", stock=stock, degree=degree, rational=utility)


LAWS = {name: laws_of_history_policies(name) for name in TASKS}


# --- A1: brute force in fractions -------------------------------------------------------------------------------------


def test_how_many_laws_and_plans_there_are():
    assert [len(LAWS[name]) for name in TASKS] == [6, 903]
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
    assert best.score == F(value) == max(cvar(law, tau) for law in LAWS[name])
    assert best.stock == F(stock)
    assert cvar(best.law.items(), tau) == best.score
    assert frozenset(best.law.items()) in LAWS[name]


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
    neutral = max((law_of_plan(name, plan) for plan in plans(name)), key=mean)
    for tau in REFERENCE_ROWS[name]["markov"]:
        reached = {
            "markov": max(cvar(law_of_plan(name, plan), tau) for plan in plans(name)),
            "nested": cvar(law_of_plan(name, nested_plan(name, tau)), tau),
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
        brute = max(sum(w * u(c + x) for x, w in law) for law in LAWS[name])
        best = found(name, wish(u, float(c))).best
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
    assert result.best.score == result.bound == max(upper_cvar(law, tau) for law in LAWS[name])


@pytest.mark.parametrize(("aversion", "value"), [("1/10", 3.5192016), ("1/4", 2.135849), ("1", 1.383504)])
def test_mean_minus_variance_at_gamma_1(aversion, value, monkeypatch):
    def penalised(law):
        return mean(law) - F(aversion) * (sum(w * x * x for x, w in law) - mean(law) ** 2)

    monkeypatch.setattr(Bet, "discount", 1.0)
    brute = max(map(penalised, laws_of_history_policies("bet")))
    best = found("bet", f"mean-variance({aversion})", gamma=1.0).best
    assert best.score == brute == penalised(best.law.items())
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

    def penalised(law):
        return mean(law) - F(aversion) * (sum(w * x * x for x, w in law) - mean(law) ** 2)

    law = NOTHING
    for step in reversed(exact_gambles("bet")):
        law = max((mixed([(chance, pay, law) for chance, pay in gamble], F(1)) for gamble in step), key=penalised)
    assert float(penalised(law)) == pytest.approx(value)


def random_mdp(seed):
    """Return 2 states, 2 actions, at most 2 outcomes, integer rewards in [−4, 4]."""
    g = torch.Generator().manual_seed(seed)
    shape = (1, 2, 2, 2)
    first = torch.randint(0, 5, shape[:-1], generator=g) / 4.0
    probability = torch.stack([first, 1 - first], -1).double()
    return TabularMDP(
        torch.tensor([1.0, 0.0]).double(),
        torch.randint(2, shape, generator=g),
        probability,
        torch.randint(-4, 5, shape, generator=g).double(),
    )


def achievable(table, state, left, gamma):
    """Return the laws that deterministic history-dependent policies have from a state."""
    if left == 0:
        return {NOTHING}
    laws = set()
    for outcomes in table[state]:
        children = product(*(achievable(table, after, left - 1, gamma) for _, after, _ in outcomes))
        laws |= {
            mixed([(chance, pay, child) for (chance, _, pay), child in zip(outcomes, chosen, strict=True)], gamma)
            for chosen in children
        }
    return laws


@pytest.mark.parametrize("gamma", [F(1, 2), F(4, 5), F(1)])
@pytest.mark.parametrize("block", range(4))
def test_random_mdps_against_brute_force(gamma, block):
    """108 MDPs, 3 steps, every utility and stock, by equality; a third of them at each γ."""
    for seed in range(9 * block, 9 * block + 9):
        mdp = random_mdp(seed + 100 * gamma.numerator + gamma.denominator)
        fields = (field[0].tolist() for field in (mdp.probability, mdp.next_state, mdp.reward))
        table = [
            [
                [(as_fraction(p), s, as_fraction(r)) for p, s, r in zip(*cell, strict=True) if p]
                for cell in zip(*state, strict=True)
            ]
            for state in zip(*fields, strict=True)
        ]
        laws = achievable(table, 0, 3, gamma)
        for u in UTILITIES.values():
            program, stocks = program_of(mdp, wish(u, 0), gamma, 3), [F(-3), F(-1, 2), F(2)]
            solved = exact.backward_induction(program, reachable(program, stocks))
            for c in stocks:
                best = exact.expected_utility(program, (0, 0, c), solved.laws[0, 0, c])
                assert best == max(sum(w * u(c + x) for x, w in law) for law in laws)


# --- A2: the mean -----------------------------------------------------------------------------------------------------


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


# --- A3, A4: the operator ---------------------------------------------------------------------------------------------


def w1(one, other):
    points = sorted(set(one) | set(other))
    gap, total = F(0), F(0)
    for left, right in pairwise(points):
        gap += one.get(left, F(0)) - other.get(left, F(0))
        total += abs(gap) * (right - left)
    return total


def nodes_and_policies(seed, gamma):
    """Return a program, its inner nodes, and laws of two random policies of all nodes."""
    program = program_of(random_mdp(seed), wish(UTILITIES["two slopes"], 0), gamma, 3)
    layers = reachable(program, [F(-1), F(1)])
    inner = [node for layer in layers[:-1] for node in layer]
    g = torch.Generator().manual_seed(seed)
    draws = torch.randint(2, (2, len(inner)), generator=g).tolist()
    return program, layers, inner, [dict(zip(inner, draw, strict=True)) for draw in draws]


@pytest.mark.parametrize("gamma", [F(1, 2), F(9, 10)])
def test_the_operator_contracts_shifts_by_gamma(gamma):
    for seed in range(10):
        program, layers, inner, (policy, _) = nodes_and_policies(seed, gamma)
        laws = exact.evaluate(program, layers, policy)
        shift = {node: F(hash(node) % 9 - 4, 4) for node in laws}
        shifted = {node: {value + shift[node]: w for value, w in law.items()} for node, law in laws.items()}
        moved = [
            w1(exact.bellman(program, n, policy[n], laws), exact.bellman(program, n, policy[n], shifted)) for n in inner
        ]
        assert max(moved) <= gamma * 1
        assert max(moved) > gamma / 2


@pytest.mark.parametrize("kind", ["min", "max", "abs", "square", "two slopes"])
def test_the_operator_keeps_order_for_homogeneous_utilities(kind):
    """A4, with F of two laws in order at all that follows; and not for a utility that is not homogeneous."""
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
            worth = [[value_of(u, n, laws[n]) for n in following] for laws in (one, other)]
            if all(a >= b for a, b in zip(*worth, strict=True)):
                ours, theirs = (value_of(u, node, exact.bellman(program, node, action, laws)) for laws in (one, other))
                if not violations_allowed:
                    assert ours >= theirs
                count += ours < theirs if violations_allowed else 1
    return count


def value_of(u, node, law):
    return sum(weight * u(node[2] + value) for value, weight in law.items())


def test_the_operator_breaks_the_order_of_a_utility_that_is_not_homogeneous():
    assert sum(ordered_pairs(seed, lambda x: max(F(-2), min(F(3), x)), violations_allowed=True) for seed in range(40))


# --- A6: bounds of value and policy iteration -------------------------------------------------------------------------


@pytest.mark.parametrize("name", TASKS)
def test_n_sweeps_are_within_the_contraction_bound_and_T_are_exact(name):
    """B1: |F η_n − F*| ≤ L·γⁿ·ρ, with ρ the largest |return| still to come."""
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
    seen = []
    evaluate = exact.evaluate

    def watched(program, layers, actions):
        laws = evaluate(program, layers, actions)
        seen.append({node: exact.expected_utility(program, node, law) for node, law in laws.items()})
        return laws

    monkeypatch.setattr(exact, "evaluate", watched)
    result = found("bet", "shortfall(3)", "dpi")
    assert len(seen) == result.solved.sweeps > 2
    for before, after in pairwise(seen):
        assert all(after[node] >= value for node, value in before.items())
    assert seen[-1] == {
        node: exact.expected_utility(program_of(MDPS["bet"], "shortfall(3)", 0.9, 3), node, law)
        for node, law in found("bet", "shortfall(3)").solved.laws.items()
    }


# --- A7: utilities that are not homogeneous ---------------------------------------------------------------------------

CLIPPED = own(lambda x: x.clamp(-2, 3), name="clipped", rational=lambda x: max(F(-2), min(F(3), x)))


def test_a_clipped_utility_needs_the_scale_beside_the_stock(monkeypatch):
    u = CLIPPED.rational
    optimum = max(sum(w * u(x) for x, w in law) for law in LAWS["bet"])
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


# --- A10: mixtures ----------------------------------------------------------------------------------------------------


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


# --- A11: every bug with its wrong value ------------------------------------------------------------------------------

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


def ties_to_the_first(program, node, laws, keep=None):
    found = [exact.bellman(program, node, action, laws) for action in range(len(program.outcomes[0][node[1]]))]
    worth = [exact.expected_utility(program, node, law) for law in found]
    return worth.index(max(worth)), found[worth.index(max(worth))]


def check_bug(name, bug, values, monkeypatch):
    kinks = exact.returns(program_of(MDPS[name], "mean", TASKS[name].discount, len(TASKS[name].gambles)))
    monkeypatch.setattr(exact, "next_stock", BUGS[bug])
    search = exact._Search(program_of(MDPS[name], "shortfall(0)", TASKS[name].discount, 3), exact.backward_induction)
    starts = search.at(sorted(-total for total in kinks))  # one solution serves every τ
    for tau, value in values.items():
        best = max(starts, key=lambda s: (s.score / F(tau) - s.stock, mean(s.law.items()), s.stock))
        assert float(cvar(best.law.items(), tau)) == pytest.approx(value, abs=5e-7), tau


@pytest.mark.parametrize(("name", "bug", "values"), WRONG)
def test_a_wrong_stock_update_finds_the_wrong_policy(name, bug, values, monkeypatch):
    monkeypatch.setattr(exact, "greedy", ties_to_the_first)
    check_bug(name, bug, values, monkeypatch)


@pytest.mark.parametrize(("name", "bug", "values"), WRONG_BY_THE_MEAN)
def test_a_wrong_stock_update_also_shows_where_the_mean_breaks_ties(name, bug, values, monkeypatch):
    check_bug(name, bug, values, monkeypatch)


@pytest.mark.parametrize(("tau", "by_the_mean"), [("1/4", 0), ("1/2", 0), ("3/4", "1/2"), ("1", "15/8")])
def test_without_a_search_over_the_stock_the_gate_is_worth_little(tau, by_the_mean, monkeypatch):
    assert cvar(found("gate", "shortfall(0)").best.law.items(), tau) == F(by_the_mean)
    monkeypatch.setattr(exact, "greedy", ties_to_the_first)
    assert cvar(found("gate", "shortfall(0)").best.law.items(), tau) == 0


def test_the_wrong_sign_of_the_initial_stock_loses():
    """Trap 4: c_0 = −q, not +q."""
    right = found("bet", "cvar(1/2)").best
    wrong = found("bet", f"shortfall({right.stock})").best  # starts from +6.71
    assert cvar(wrong.law.items(), "1/2") < right.score


def test_adding_the_stock_to_a_law_that_already_has_it_loses():
    """Trap 2: the law is of G; a learner of c + G that adds c again is that of the utility u(2c + G)."""
    right = found("gate", "cvar(3/4)").best
    twice = [found("gate", f"shortfall({-2 * stock})").best for stock in (F(0), F(-3, 2), F(-3), F(-9, 2), F(-6))]
    scores = [(-stock / 2 + sum(w * min(F(0), stock + x) for x, w in law.items()) * F(4, 3)) for stock, _, law in twice]
    assert cvar(twice[scores.index(max(scores))].law.items(), "3/4") < right.score


def test_choosing_the_following_action_by_the_old_stock_loses(monkeypatch):
    """Trap 3: the law after the first step must be that of the action for c', not for c."""
    lawful = exact.bellman

    def stale(program, node, action, laws):
        step, state, stock = node
        law = {}
        for chance, after, reward in program.after(step, state, action):
            child = min(laws, key=lambda n: (n[0] != step + 1, n[1] != after, abs(n[2] - stock)))
            for value, weight in laws[child].items():
                total = reward + program.gamma * value
                law[total] = law.get(total, F(0)) + chance * weight
        return law

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
