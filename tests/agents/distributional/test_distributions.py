"""Tails, distances and projections of distributions: by hand, and the bounds of the projections on random
distributions.

docs/derivations/distributional.md E22.
"""

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from surefoot.agents.distributional.distributions import (
    lower_cvar,
    mean,
    project_categorical,
    project_quantiles,
    quantile,
    upper_cvar,
    variance,
)


def wasserstein(values: Tensor, weights: Tensor, other_values: Tensor, other_weights: Tensor) -> Tensor:
    """Return w₁ = ∫|F − F'| (…) of two distributions."""
    joint, order = torch.cat([values, other_values], -1).sort(-1)
    difference = torch.cat([weights, -other_weights], -1).gather(-1, order).cumsum(-1)
    return (difference[..., :-1].abs() * joint.diff(dim=-1)).sum(-1)


def random_distributions(count=300, atoms=9, seed=0):
    g = torch.Generator().manual_seed(seed)
    weights = torch.rand(count, atoms, generator=g, dtype=torch.float64) ** 3
    values = 10 * torch.rand(count, atoms, generator=g, dtype=torch.float64) - 4
    return values, weights / weights.sum(-1, keepdim=True)


VALUES = torch.tensor([4.0, -2.0, 1.0, 1.0]).double()
WEIGHTS = torch.tensor([0.25, 0.25, 0.3, 0.2]).double()


def test_quantiles_and_tails_by_hand():
    levels = torch.tensor([0.01, 0.25, 0.26, 0.75, 0.76, 1.0]).double()
    assert quantile(VALUES, WEIGHTS, levels).tolist() == [-2, -2, 1, 1, 4, 4]
    assert_close(lower_cvar(VALUES, WEIGHTS, 0.5).item(), (-0.5 + 0.25) / 0.5)
    assert_close(upper_cvar(VALUES, WEIGHTS, 0.5).item(), (1.0 + 0.25) / 0.5)
    assert_close(lower_cvar(VALUES, WEIGHTS, 1.0), mean(VALUES, WEIGHTS))
    assert_close(variance(VALUES, WEIGHTS).item(), 4 + 1 + 0.5 - 1.0)


def test_of_many_distributions_each_is_on_its_own():
    values, weights = random_distributions(count=9)  # as many as they have atoms: no axis can be taken for another
    levels = torch.tensor([0.1, 0.5, 1.0]).double()
    for figure in (
        mean,
        variance,
        lambda x, w: lower_cvar(x, w, 0.3),
        lambda x, w: upper_cvar(x, w, 0.3),
        lambda x, w: quantile(x, w, levels),
        lambda x, w: project_quantiles(x, w, 9),
        lambda x, w: project_categorical(x, w, torch.linspace(-4, 6, 9).double()),
    ):
        assert_close(figure(values, weights), torch.stack([figure(x, w) for x, w in zip(values, weights, strict=True)]))


def test_a_level_that_rounding_alone_keeps_from_being_reached_is_reached():
    alike = torch.full((28,), 1 / 28, dtype=torch.float64)
    assert alike.cumsum(0)[6] < 0.25
    assert quantile(torch.arange(28.0).double(), alike, torch.tensor([0.25]).double()).tolist() == [6.0]


def test_the_distance_is_that_of_optimal_transport():
    assert wasserstein(VALUES, WEIGHTS, VALUES.flip(0), WEIGHTS.flip(0)) == 0
    assert_close(wasserstein(VALUES, WEIGHTS, VALUES + 0.5, WEIGHTS).item(), 0.5)
    one, other = random_distributions()[0], random_distributions(seed=1)[0]
    alike = torch.full_like(one, 1 / 9)
    assert_close(wasserstein(one, alike, other, alike), (one.sort(-1)[0] - other.sort(-1)[0]).abs().mean(-1))


@pytest.mark.parametrize("count", [1, 7, 32])
def test_quantile_projection_moves_a_distribution_by_at_most_its_range_over_2m(count):
    values, weights = random_distributions()
    projected = project_quantiles(values, weights, count)
    moved = wasserstein(values, weights, projected, torch.full_like(projected, 1 / count))
    bound = (values.amax(-1) - values.amin(-1)) / (2 * count)
    assert (moved <= bound + 1e-12).all()
    assert (moved > 0.5 * bound).any()


@pytest.mark.parametrize("count", [2, 11, 64])
def test_categorical_projection_keeps_the_mean_and_moves_by_at_most_half_a_spacing(count):
    values, weights = random_distributions()
    support = torch.linspace(-4, 6, count, dtype=torch.float64)
    projected = project_categorical(values, weights, support)
    assert_close(projected.sum(-1), torch.ones(len(values)).double())
    assert (mean(support, projected) - mean(values, weights)).abs().max() < 1e-12
    moved = wasserstein(values, weights, support.expand_as(projected), projected)
    assert (moved <= 5 / (count - 1) + 1e-12).all()
    assert (moved > 2.5 / (count - 1)).any()


def test_categorical_projection_never_flatters_a_concave_utility_nor_slights_a_convex_one():
    values, weights = random_distributions()
    support = torch.linspace(-4, 6, 11, dtype=torch.float64)
    projected = project_categorical(values, weights, support)
    for c in torch.linspace(-6, 4, 21):
        assert (mean((c + support).clamp(max=0), projected) <= mean((c + values).clamp(max=0), weights) + 1e-12).all()
        assert (mean((c + support).clamp(min=0), projected) >= mean((c + values).clamp(min=0), weights) - 1e-12).all()


def test_categorical_projection_by_hand_and_beyond_the_ends():
    support = torch.tensor([0.0, 1.0, 2.0]).double()
    values, weights = torch.tensor([0.25, 2.0, 5.0, -3.0]).double(), torch.tensor([0.4, 0.3, 0.2, 0.1]).double()
    assert_close(project_categorical(values, weights, support), torch.tensor([0.4, 0.1, 0.5]).double())
