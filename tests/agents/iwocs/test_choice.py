"""The comparison of two worst cases against an enumeration of all resamples, and the bound on returns."""

import itertools
import math

import numpy as np
import pytest
import torch

from surefoot.agents.iwocs.choice import compare, highest_return, holds, next_model, reaches


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def every_resample(ours, theirs):
    """The difference of worst cases in each of the E^E equally likely resamples of the seeds."""
    episodes = range(ours.shape[1])
    draws = itertools.product(episodes, repeat=len(episodes))
    return [float(ours[:, list(d)].mean(1).min() - theirs[:, list(d)].mean(1).min()) for d in draws]


def test_the_interval_is_that_of_all_resamples_of_the_seeds_each_policy_with_its_own_worst_point():
    draw = np.random.default_rng(0)
    ours, theirs = (torch.from_numpy(draw.normal(size=shape)) for shape in ((3, 5), (2, 5)))
    found = compare(ours, theirs, generator())
    exact = every_resample(ours, theirs)
    assert found.difference == pytest.approx(float(ours.mean(1).min() - theirs.mean(1).min()))
    np.testing.assert_allclose([found.low, found.high], np.quantile(exact, [0.025, 0.975]), atol=0.06)
    assert np.std(exact) > 0.2  # of which the tolerance is a small part
    assert compare(ours, theirs, generator()) == found


def test_the_interval_leaves_one_in_forty_out_at_each_end():
    ours = torch.from_numpy(np.random.default_rng(0).normal(size=(1, 200)))
    found = [compare(ours, torch.zeros(1, 200).double(), generator(seed)) for seed in range(20)]
    error = float(ours.std(correction=0)) / 200**0.5  # of a mean, whose distribution is normal here
    for end, sign in (("low", -1), ("high", 1)):
        distance = np.mean([getattr(one, end) for one in found]) - found[0].difference
        assert distance / error == pytest.approx(sign * 1.96, abs=0.05)  # 1.5% out would be 2.17, 3.5% 1.81


def test_what_both_share_on_a_seed_does_not_widen_the_interval():
    luck = torch.tensor([[0.0, 500.0, 1000.0, 20.0]], dtype=torch.float64)
    found = compare(luck + 1, luck, generator())
    assert found.difference == found.low == found.high == 1.0
    assert found.better
    assert not compare(luck, luck + 1, generator()).better
    assert not compare(luck, luck, generator()).better


def test_a_loss_on_one_seed_of_many_that_the_other_never_has_is_better_though_some_resamples_miss_it():
    perfect, theirs = torch.full((2, 20), 1000.0).double(), torch.full((2, 20), 1000.0).double()
    theirs[0, 3] = 10.0
    found = compare(perfect, theirs, generator())
    assert found.low == 0.0
    assert found.better


@pytest.mark.parametrize(
    ("reward", "limit", "highest"), [(1.0, 1000, 1000.0), (2.5, None, math.inf), (0.0, None, 0.0), (-1.0, 200, -1.0)]
)
def test_no_episode_returns_more_than_its_steps_can_give(reward, limit, highest):
    assert highest_return(reward, limit) == highest


def test_a_return_reaches_the_highest_up_to_rounding_and_never_an_unbounded_one():
    assert reaches(sum([0.1] * 1000), 0.1 * 1000)
    assert not reaches(999.9, 1000.0)
    assert not reaches(1e300, math.inf)


@pytest.mark.parametrize(("own", "expected"), [(909.9, False), (910.0, True), (1000.0, True), (50.0, False)])
def test_a_specialist_holds_where_it_gets_nine_tenths_of_the_way_from_the_least_that_is_known_to_the_most(
    own, expected
):
    assert holds(own, [100.0, 640.0, 1000.0]) is expected
    assert holds(3 * own - 5000, [-4700.0, -3080.0, -2000.0]) is expected  # in other units the same


def test_the_next_model_is_the_worst_that_was_not_trained_in_and_can_get_better():
    def repeats(model):
        return [j for j, other in enumerate(before) if torch.equal(model, other)]

    table = [([3.0], 7.0, []), ([2.0], 5.0, []), ([0.0], 1.0, []), ([1.0], 5.0, [])]
    worst = torch.tensor([0.0]).double()
    before = [torch.tensor([9.0]).double()]
    assert next_model(worst, table, repeats, "next-worst", 7.0) == (worst, [])
    before += [worst]
    assert next_model(worst, table, repeats, "end", 7.0) == (worst, [1])
    assert next_model(worst, table, repeats, "next-worst", 7.0) == (torch.tensor([2.0]).double(), [])
    before += [torch.tensor([2.0]).double()]
    assert next_model(worst, table, repeats, "next-worst", 7.0) == (torch.tensor([1.0]).double(), [])
    before += [torch.tensor([1.0]).double()]
    assert next_model(worst, table, repeats, "next-worst", 7.0) == (worst, [1])  # the last is perfect
    assert next_model(worst, table, repeats, "next-worst", math.inf) == (torch.tensor([3.0]).double(), [])
