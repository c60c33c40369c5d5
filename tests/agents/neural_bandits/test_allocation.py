"""Inverse-gap weighting against exact answers: docs/derivations/neural_bandits.md E1 to E3, E9, E10."""

import math

import numpy as np
import pytest
import torch

from surefoot.agents.neural_bandits.allocation import (
    doubled,
    draw_arm,
    fast_rate,
    growing_rate,
    inverse_gap,
    reweighted_inverse_gap,
    square_rate,
)
from surefoot.agents.parts.random import ReplicateUniforms

RULES = [inverse_gap, reweighted_inverse_gap]


def f64(*values):
    return torch.tensor(values, dtype=torch.float64)


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        (inverse_gap, (0.845964, 0.111111, 0.029412, 0.013514)),
        (reweighted_inverse_gap, (0.956199, 0.034483, 0.006494, 0.002825)),
    ],
)
def test_the_allocations_are_those_of_the_derivation(rule, expected):
    losses = f64(0.2, 0.25, 0.5, 0.9)
    torch.testing.assert_close(rule(losses, 100.0), f64(*expected), rtol=0, atol=5e-7)
    torch.testing.assert_close(rule(losses.flip(0)[None], f64(100.0)), f64(*expected[::-1])[None], rtol=0, atol=5e-7)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_probabilities_are_probabilities(rule, dtype):
    generator = torch.Generator().manual_seed(0)
    losses = torch.rand(4000, 7, generator=generator).to(dtype)
    losses[:500] = losses[:500].round(decimals=1)  # with ties, and zeros
    gamma = 10 ** (8 * torch.rand(4000, generator=generator, dtype=torch.float64) - 2)  # up to 10⁶
    p = rule(losses, gamma)
    assert bool((p >= 0).all())
    torch.testing.assert_close(p.sum(1), torch.ones(4000, dtype=dtype), rtol=0, atol=1e-6)
    assert bool((p.amax(1) == p.gather(1, losses.argmin(1, keepdim=True)).squeeze(1)).all())


def test_the_price_of_exploration_is_bounded():
    generator = torch.Generator().manual_seed(1)
    losses = torch.rand(2000, 5, generator=generator, dtype=torch.float64)
    gamma = 10 ** (6 * torch.rand(2000, generator=generator, dtype=torch.float64))
    gap = losses - losses.amin(1, keepdim=True)
    price = (inverse_gap(losses, gamma) * gap).sum(1)
    assert bool((price <= 4 / gamma + 1e-12).all())
    assert float((price * gamma).max()) > 3.5  # nearly reached
    first_order = (reweighted_inverse_gap(losses, gamma) * gap).sum(1)
    assert bool((first_order <= 4 * losses.amin(1) / gamma + 1e-12).all())


def test_without_loss_the_fast_rule_stops_exploring():
    losses = f64([0.0, 0.0, 0.3, 1.0], [0.0, 0.2, 0.3, 1.0], [0.0, 0.0, 0.0, 0.0])
    expected = f64([0.5, 0.5, 0, 0], [1, 0, 0, 0], [0.25, 0.25, 0.25, 0.25])
    torch.testing.assert_close(reweighted_inverse_gap(losses, 100.0), expected, rtol=0, atol=1e-6)
    assert float(inverse_gap(losses, 100.0)[1, 1]) == pytest.approx(1 / 24)


@pytest.mark.parametrize("rule", RULES)
def test_with_the_true_losses_the_regret_of_a_round_is_that_of_the_closed_form(rule):
    losses = f64(0.1, 0.3, 0.35, 0.8)
    p = rule(losses, 15.0)
    gap = losses - losses.min()
    rounds = 200_000
    arms = draw_arm(p.expand(rounds, 4), ReplicateUniforms(0, "arms", rounds).next())
    played = gap[arms]
    error = float(played.std()) / math.sqrt(rounds)
    assert abs(float(played.mean() - (p * gap).sum())) < 3 * error
    frequency = torch.bincount(arms, minlength=4) / rounds
    np.testing.assert_allclose(frequency, p, atol=0.004)


def test_a_number_on_a_border_is_of_the_next_arm_and_no_arm_without_a_chance_is_drawn():
    p = f64([0.0, 0.25, 0.25, 0.5]).expand(6, 4)
    uniform = f64(0.0, 0.2499, 0.25, 0.4999, 0.5, 0.9999)
    assert draw_arm(p, uniform).tolist() == [1, 1, 2, 2, 3, 3]
    assert draw_arm(f64([0.5, 0.0, 0.5]).expand(2, 3), f64(0.4999, 0.5)).tolist() == [0, 2]


def test_the_learning_rates_are_those_of_the_theory():
    assert square_rate(10, 10_000, 90.0, 0.05) == pytest.approx(math.sqrt(1e5 / (90 + math.log(40))))
    rates = fast_rate(4, f64(0.0, 3e5, 1200.0), 10.0)
    torch.testing.assert_close(rates, f64(40.0, 200.0, 40.0))  # the floor 10K, √(4·3e5/30), and again the floor
    assert [growing_rate(10.0, 0.5, t) for t in (1, 4, 100)] == [10.0, 20.0, 100.0]
    torch.testing.assert_close(doubled(f64(0, 0.7, 1, 1.1, 4, 4.5, 1000)), f64(1, 1, 1, 2, 4, 8, 1024))
