"""The mixture of policies that an upper tail needs: by hand, against a search over weights, and through `solve`."""

import numpy as np
import pytest
import torch

from surefoot.agents.distributional import solve
from surefoot.agents.distributional.distributions import upper_cvar
from surefoot.agents.distributional.mixture import best_mixture
from surefoot.agents.parts.tabular import TabularMDP


def tail(laws, weights, tau):
    values = torch.from_numpy(np.concatenate([values for values, _ in laws]))
    chances = np.concatenate([weight * chances for weight, (_, chances) in zip(weights, laws, strict=True)])
    return float(upper_cvar(values, torch.from_numpy(chances), tau))


def test_two_arms_by_hand():
    laws = [(np.array([2.0]), np.array([1.0])), (np.array([0.0, 10.0]), np.array([0.9, 0.1]))]
    found = best_mixture(laws, 0.2)
    assert found.value == pytest.approx(50 / 9)
    assert {which: chance for chance, which in found.parts} == {0: pytest.approx(1 / 9), 1: pytest.approx(8 / 9)}


def test_a_law_that_is_a_little_better_is_not_taken_for_an_equal_one():
    """The best quarter of the second pays 2·10⁻⁸ more than a sure 3; a share of the first would take from that."""
    laws = [(np.array([3.0]), np.array([1.0])), (np.array([2.0, 3.00000002]), np.array([0.75, 0.25]))]
    assert best_mixture(laws, 0.25) == (pytest.approx(3.00000002, abs=1e-12), ((1.0, 1),))


@pytest.mark.parametrize("tau", [0.1, 0.35, 0.8, 1.0])
def test_no_weights_of_random_laws_do_better_and_the_value_is_that_of_the_mixture(tau):
    generator = np.random.default_rng(0)
    for _ in range(20):
        laws = [(generator.normal(size=4), generator.dirichlet(np.ones(4))) for _ in range(4)]
        found = best_mixture(laws, tau)
        weights = np.zeros(4)
        for chance, which in found.parts:
            weights[which] += chance
        assert weights.sum() == pytest.approx(1)
        assert tail(laws, weights, tau) == pytest.approx(found.value, abs=1e-9)
        others = [*np.eye(4), *generator.dirichlet(0.4 * np.ones(4), 200)]
        assert max(tail(laws, other, tau) for other in others) <= found.value + 1e-9


@pytest.mark.parametrize("method", ["vi", "exact"])
def test_solve_returns_the_policies_of_the_mixture_and_their_chances(method):
    nothing = torch.zeros(2, 2, dtype=torch.float64)
    mdp = TabularMDP(  # arm 0 pays 2, arm 1 pays 10 with chance 0.1
        torch.tensor([1.0, 0.0], dtype=torch.float64),
        torch.ones(1, 2, 2, 2, dtype=torch.int64),
        torch.tensor([[[1.0, 0.0], [0.1, 0.9]], [[1.0, 0.0], [1.0, 0.0]]], dtype=torch.float64)[None],
        torch.stack([torch.tensor([[2.0, 0.0], [10.0, 0.0]], dtype=torch.float64), nothing])[None],
    )
    solution = solve(mdp, "upper-cvar(0.2)", gamma=1.0, horizon=1, method=method)
    assert (solution.value, solution.mixed) == (pytest.approx(5), pytest.approx(50 / 9, abs=1e-6))
    chances = {}
    for part in solution.mixture:
        action = int(part.policy(torch.tensor([0]), torch.tensor([part.stock]).double())[0])
        chances[action] = chances.get(action, 0.0) + part.chance
    assert chances == {0: pytest.approx(1 / 9), 1: pytest.approx(8 / 9)}
    alone = solve(mdp, "cvar(0.2)", gamma=1.0, horizon=1, method=method)
    assert (alone.mixed, alone.mixture) == (None, ())
