"""Objectives as text, their utilities in both arithmetics, what the search over c_0 means, and when each is sound.

docs/derivations/distributional.md §3.1 and §2.4.
"""

from fractions import Fraction

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from surefoot.agents.distributional import distributions
from surefoot.agents.distributional.objectives import OBJECTIVES, as_fraction, next_stock, own, parse, soundness

ALL = [
    "mean",
    "cvar(0.1)",
    "upper-cvar(1/4)",
    "mean-cvar(0.3, 0.5)",
    "target(2)",
    "homeostasis(-1.5)",
    "shortfall(1)",
    "probability(0.5)",
    "entropic(0.7)",
    "mean-variance(0.25)",
]
RETURNS = torch.tensor([3.0, -1.0, 0.5, 2.0, -1.0, 4.0], dtype=torch.float64)
CHANCES = torch.tensor([0.1, 0.2, 0.3, 0.15, 0.05, 0.2], dtype=torch.float64)


def test_every_form_has_its_example():
    assert [text.partition("(")[0] for text in ALL] == [form.partition("(")[0] for form in OBJECTIVES]


@pytest.mark.parametrize("text", ALL)
def test_the_utility_is_the_same_function_of_tensors_and_of_fractions(text):
    objective = parse(f" {text} ")
    assert objective.name == text
    points = [Fraction(k, 8) for k in range(-40, 41)]
    exact = torch.tensor([float(objective.rational(x)) for x in points]).double()
    assert_close(objective.utility(torch.tensor([float(x) for x in points]).double()), exact)


@pytest.mark.parametrize("text", ALL)
def test_a_utility_is_called_flat_where_it_is_constant_somewhere(text):
    objective = parse(text)
    steps = [objective.rational(Fraction(k + 1, 8)) == objective.rational(Fraction(k, 8)) for k in range(-40, 40)]
    assert objective.flat == any(steps)


@pytest.mark.parametrize("text", ALL)
def test_homogeneity_is_what_is_claimed(text):
    objective = parse(text)
    points = [Fraction(k, 8) for k in range(-40, 41) if k]
    alike = {
        p
        for p in (0, 1, 2)
        if all(objective.rational(x / 2) == Fraction(1, 2) ** p * objective.rational(x) for x in points)
    }
    assert alike == ({objective.degree} if objective.degree is not None else set())


@pytest.mark.parametrize("text", ALL)
def test_the_value_of_a_distribution_is_the_best_of_the_search_over_the_stock(text):
    """By a fine grid of c_0 and E u alone; `of_distribution` knows tails and variances instead."""
    objective = parse(text)
    if objective.outer is None:
        starts = torch.tensor([float(objective.stock)]).double()
    else:
        starts = torch.cat([-RETURNS, torch.linspace(-5, 5, 100_001, dtype=torch.float64)])
    expected = distributions.mean(objective.utility(starts[:, None] + RETURNS), CHANCES)
    scores = objective.score(starts, expected)
    best = {"max": scores.max(), "min": scores.min(), None: scores[0]}[objective.outer]
    assert_close(objective.measure(RETURNS, CHANCES), best, rtol=0, atol=2e-9)


def test_figures_by_hand():
    """Worst first: −1 (0.25), 0.5 (0.3), 2 (0.15), 3 (0.1), 4 (0.2)."""
    mean = -0.25 + 0.15 + 0.3 + 0.3 + 0.8
    cvar = (-0.25 + 0.25 * 0.5) / 0.5
    variance = 0.25 + 0.3 * 0.25 + 0.6 + 0.9 + 3.2 - mean**2
    expected = {
        "mean": mean,
        "cvar(0.1)": -1.0,
        "cvar(1/2)": cvar,
        "upper-cvar(1/4)": (0.8 + 0.05 * 3) / 0.25,
        "mean-cvar(0.3, 0.5)": 0.3 * mean + 0.7 * cvar,
        "target(2)": -(0.75 + 0.45 + 0.0 + 0.1 + 0.4),
        "homeostasis(2)": -(0.75 + 0.45 + 0.0 + 0.1 + 0.4),
        "shortfall(1)": -(0.5 + 0.15),
        "probability(0.5)": 0.75,
        "probability(1)": 0.45,
        "mean-variance(0.25)": mean - 0.25 * variance,
        "entropic(0.7)": -np.log(np.exp(-0.7 * RETURNS.numpy()) @ CHANCES.numpy()) / 0.7,
    }
    assert set(expected) >= {text for text in ALL if "homeo" not in text}
    for text, figure in expected.items():
        assert parse(text).measure(RETURNS, CHANCES).item() == pytest.approx(figure), text


def test_returns_without_weights_count_alike_and_distributions_form_a_batch():
    returns = torch.stack([RETURNS, RETURNS + 1])
    assert_close(parse("cvar(0.5)").measure(returns), torch.tensor([-0.5, 0.5]).double())


def test_scores_are_exact_in_fractions():
    assert parse("cvar(1/3)").score(Fraction(-1, 7), Fraction(2, 5)) == Fraction(6, 5) + Fraction(1, 7)
    assert parse("mean").score(Fraction(1, 7), Fraction(2, 5)) == Fraction(2, 5) - Fraction(1, 7)


def test_the_stock_update():
    assert next_stock(Fraction(-3), Fraction(1), Fraction(1, 2)) == -4
    assert_close(next_stock(torch.tensor([-3.0]), torch.tensor([1.0]), 0.5), torch.tensor([-4.0]))


@pytest.mark.parametrize(("number", "fraction"), [(0.9, "9/10"), (1 / 3, "1/3"), (-2.0, "-2"), (1e-7, "1/10000000")])
def test_floats_become_the_fraction_that_was_meant(number, fraction):
    assert as_fraction(number) == Fraction(fraction)


def test_a_float_that_no_short_fraction_rounds_to_keeps_its_decimals():
    assert as_fraction(np.pi) == Fraction("3.141592653589793")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("cvat(0.1)", r"unknown objective 'cvat\(0.1\)'; choose one of mean, cvar\(tau\)"),
        ("", "unknown objective ''"),
        ("cvar(0.1", "unknown objective"),
        ("cvar", r"'cvar' has 0 arguments; write cvar\(tau\)"),
        ("mean(1)", "has 1 arguments; write mean"),
        ("cvar(0.1, 2)", "has 2 arguments"),
        ("cvar(x)", r"x must be numbers; write cvar\(tau\)"),
        ("cvar(1/0)", "must be numbers"),
        ("target(nan)", "must be numbers"),
        ("target(inf)", "numbers must lie within"),
        ("target(1e400)", "numbers must lie within ±1e300"),
        ("cvar(1e-999999999)", "not nearer to 0 than 1e-300"),
        ("cvar(0)", r"tau must lie in \(0, 1\], not 0"),
        ("cvar(-0.1)", r"tau must lie in \(0, 1\]"),
        ("upper-cvar(1.5)", r"tau must lie in \(0, 1\], not 1.5"),
        ("mean-cvar(0.5, 2)", r"tau must lie in \(0, 1\]"),
        ("mean-cvar(1.5, 0.1)", r"lambda must lie in \[0, 1\], not 1.5"),
        ("entropic(0)", "lambda must be positive, not 0"),
        ("mean-variance(-1)", "lambda must be positive"),
    ],
)
def test_bad_text_is_refused_in_one_line(text, words):
    with pytest.raises(ValueError, match=words) as error:
        parse(text)
    assert "\n" not in str(error.value)


def test_numbers_may_be_as_large_and_as_small_as_a_message_says():
    for text in ("1e300", "-9.9e299", "1e-300", "-2e-300", "0", "0e-400", "1/9"):
        assert parse(f"target({text})").stock == -Fraction(text)
    for text in ("1.01e300", "-1.4e300", "9.9e-301", "1/9.9e-301"):
        with pytest.raises(ValueError, match="numbers must lie within ±1e300, and not nearer to 0 than 1e-300"):
            parse(f"target({text})")


@pytest.mark.parametrize("text", ALL)
def test_the_slopes_of_a_utility_lie_where_its_shape_says_and_come_to_both_ends(text):
    """x − λx², from 1 − 2λ·2 to 1 + 2λ·3; what jumps may have any slope."""
    objective, low, high = parse(text), -3.0, 2.0
    x = torch.linspace(low, high, 5001, dtype=torch.float64)
    u = objective.utility(x)
    slopes, shape = u.diff() / x.diff(), objective.shape(low, high)
    assert float(slopes.min()) == pytest.approx(shape.least_slope, abs=5e-3)
    if np.isfinite(shape.largest_slope):
        assert float(slopes.max()) == pytest.approx(shape.largest_slope, abs=5e-3)
    if np.isfinite(shape.curvature):
        assert float((u + shape.curvature * x.square()).diff().diff().min()) > -1e-12
        assert shape.curvature == (0.25 if "variance" in text else 0)


# --- soundness --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ALL)
def test_what_is_homogeneous_needs_the_stock_alone(text):
    objective = parse(text)
    assert not soundness(objective, 1.0, 10).scaled
    scaled = soundness(objective, 0.9, 10)
    assert scaled.scaled == (text.startswith(("entropic", "mean-variance")))
    assert ("silently wrong" in scaled.line) == scaled.scaled
    assert "\n" not in scaled.line
    if objective.degree:
        assert not soundness(objective, 0.9, None).scaled


@pytest.mark.parametrize(
    ("text", "gamma", "horizon", "words"),
    [
        ("cvar(0.1)", 0.0, 5, r"gamma must lie in \(0, 1\], not 0.0"),
        ("cvar(0.1)", 1.5, 5, r"gamma must lie in \(0, 1\]"),
        ("mean", 1.0, None, "gamma = 1 needs a horizon"),
        ("probability(1)", 0.9, None, "is not continuous in the return; give a horizon"),
        ("mean-variance(1)", 0.9, None, "silently wrong; give a horizon"),
        ("entropic(1)", 0.9, None, "silently wrong; give a horizon"),
    ],
)
def test_what_would_be_wrong_is_refused_in_one_line(text, gamma, horizon, words):
    with pytest.raises(ValueError, match=words) as error:
        soundness(parse(text), gamma, horizon)
    assert "\n" not in str(error.value)


def test_an_own_utility_is_scaled_unless_its_degree_holds():
    clipped = own(lambda x: x.clamp(-2, 3), name="clip", rational=lambda x: max(-2, min(3, x)))
    assert soundness(clipped, 0.9, 3).scaled
    assert clipped.flat
    assert clipped.rational(Fraction(7, 2)) == 3
    square = own(lambda x: -x.square(), degree=2, stock=0.1)
    assert not soundness(square, 0.9, None).scaled
    assert (square.stock, square.flat, square.rational(Fraction(1, 2))) == (Fraction(1, 10), False, -0.25)


@pytest.mark.parametrize(
    ("utility", "degree", "words"),
    [
        (lambda x: x.clamp(-2, 3), 1, r"u\(3.16228\) is not 3.16228\^1·u\(1\); leave degree out"),
        (lambda x: x.sum(), None, "one finite number for each"),
        (lambda x: x.log(), None, "one finite number for each"),
    ],
)
def test_a_wrong_own_utility_is_refused(utility, degree, words):
    with pytest.raises(ValueError, match=words):
        own(utility, degree=degree)
