"""Objectives of the return G: a utility u of stock plus return, and what the search over the initial stock does.

Ávila Pires et al., "Optimizing Return Distributions with Distributional Dynamic Programming", arXiv 2501.13028;
docs/derivations/distributional.md §1 to §3. The stock c starts at c_0 and moves as c' = (c + r)/γ (`next_stock`), so
that c_0 + (whole return) = γ^t·(c_t + G_t) at every step t, eq. (1.3): a greedy step maximises E u(c + G), where G is
the return still to come. The table is §3.1's.

| objective | u(x), x = c + G | c_0 | what is maximised |
|---|---|---|---|
| `mean` | x | any | E G |
| `cvar(τ)` | min(0, x) | max over c_0 | −c_0 + E u/τ, the mean of the worst fraction τ |
| `upper-cvar(τ)` | max(0, x) | min over c_0 | −c_0 + E u/τ bounds the mean of the best fraction τ |
| `mean-cvar(λ, τ)` | (λ + (1−λ)/τ)·min(0, x) + λ·max(0, x) | max over c_0 | −c_0 + E u = λ·E G + (1−λ)·CVaR_τ |
| `target(g)`, `homeostasis(s)` | −|x| | −g, −s | −E|G − g| |
| `shortfall(b)` | min(0, x) | −b | E min(0, G − b); 0 iff G ≥ b almost surely |
| `probability(b)` | 1{x ≥ 0} | −b | P(G ≥ b) |
| `entropic(λ)` | −exp(−λx) | 0 | −log E exp(−λG)/λ |
| `mean-variance(λ)` | x − λx² | max over c_0 | −c_0 + E u = E G − λ·Var G |

Which of them distributional dynamic programming gets right for a given γ and horizon is `soundness` (§2.4).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from surefoot.agents.distributional import distributions, utilities
from surefoot.agents.distributional.parsing import numbers_of

Number = Fraction | float


def as_fraction(number: float) -> Fraction:
    """Return the simplest of the fractions that round to this very float: 0.9 gives 9/10, not its binary expansion."""
    guesses = (Fraction(number).limit_denominator(10**digits) for digits in (3, 6))
    return next((guess for guess in guesses if float(guess) == number), Fraction(repr(float(number))))


def next_stock(stock: Any, reward: Any, gamma: Any) -> Any:
    """Return c' = (c + r)/γ, eq. (1.2); tensors, floats or fractions."""
    return (stock + reward) / gamma


@dataclass(frozen=True)
class Objective:
    """An objective of the return distribution in the form that dynamic programming takes. Made by `parse` or `own`."""

    name: str
    """As it is written, `cvar(0.1)`."""
    utility: Callable[[Tensor], Tensor]
    """u of stock plus return, elementwise."""
    rational: Callable[[Fraction], Number]
    """The same u of a fraction, for exact arithmetic."""
    degree: int | None
    """p with u(ax) = a^p·u(x) for every a > 0, eq. (2.2), or None where there is no such p."""
    flat: bool
    """Whether u is constant somewhere: then actions tie often, and the mean return breaks the ties."""
    shape: Callable[[float, float], utilities.Shape]
    """The slopes of u between two numbers."""
    stock: Fraction | None = Fraction(0)
    """c_0, or None where it is searched for."""
    outer: Literal["max", "min"] | None = None
    """What is searched for over c_0: the best of lower bounds, the least of upper ones, or nothing."""
    weight: Fraction = Fraction(1)
    """Of E u in the figure."""
    charge: Fraction = Fraction(0)
    """Of c_0 in the figure."""
    transform: Callable[[Any], Any] | None = None
    """From E u to the figure where it is no affine function."""
    of_distribution: Callable[[Tensor, Tensor], Tensor] | None = None
    """The objective of a distribution directly, where it has a form without a search."""
    aversion: float | None = None
    """λ of `entropic`, which needs no stock: risk-sensitive dynamic programming in log space, §4.7."""

    @property
    def target(self) -> float | None:
        """The return that `target`, `shortfall` and `probability` name, −c_0; None of others, whatever their c_0."""
        names_one = self.utility in (utilities.closeness, utilities.loss, utilities.at_least_zero)
        return -float(self.stock) if names_one and self.stock is not None else None

    def score(self, stock: Any, expected: Any) -> Any:
        """Return the figure that c_0 and E u(c_0 + G) stand for, eq. (3.1); tensors, floats or fractions."""
        if self.transform is not None:
            return self.transform(expected)
        if isinstance(expected, Fraction):
            return self.weight * expected - self.charge * stock
        return float(self.weight) * expected - float(self.charge) * stock

    def expected(self, values: Tensor, weights: Tensor | None = None) -> Tensor:
        """Return E u (…) of stocks plus returns (…, K); without weights all weigh the same.

        Of the exponential its certainty equivalent, eq. (4.13), which orders alike and which a float can hold.
        """
        if self.aversion is not None:
            return self.measure(values if weights is None else values.expand_as(weights), weights)
        return self.utility(values).mean(-1) if weights is None else distributions.mean(self.utility(values), weights)

    def pooled(self, stock: Tensor, expected: Tensor, chances: Tensor) -> Tensor:
        """Return the figures (C,) of initial stocks (C,), from `expected` (S, C) at states with chances (S,)."""
        if self.aversion is not None:
            return self.measure(expected.T, chances.expand_as(expected.T))
        figures: Tensor = self.score(stock, (chances[:, None] * expected).sum(0))
        return figures

    def measure(self, values: Tensor, weights: Tensor | None = None) -> Tensor:
        """Return the objective (…) of return distributions (…, K); without weights all returns weigh the same."""
        if weights is None:
            weights = torch.full_like(values, 1.0 / values.shape[-1])
        if self.of_distribution is not None:
            return self.of_distribution(values, weights)
        start = float(self.stock or 0)
        figure: Tensor = self.score(start, distributions.mean(self.utility(start + values), weights))
        return figure


class Soundness(NamedTuple):
    """How an objective can be optimised."""

    scaled: bool
    """Whether z = γ^t must be carried along with the stock, and E u(z·(c + G)) maximised."""
    line: str
    """Why, in one line."""


def soundness(objective: Objective, gamma: float, horizon: int | None, *, ending: bool = False) -> Soundness:
    """Return whether stock alone is enough for the objective, with the reason: the table of §2.4.

    `ending`: without a horizon every policy is known to end, so that gamma = 1 is no obstacle.

    Raises:
        ValueError: where no form of the method is right, in one line that names the change to make.
    """
    if not 0 < gamma <= 1:
        raise ValueError(f"gamma must lie in (0, 1], not {gamma}: the stock update divides by it")
    if gamma == 1 and horizon is None and not ending:
        raise ValueError("gamma = 1 needs a horizon: without one the return need not be finite")
    if gamma == 1 and horizon is None and objective.degree not in (0, 1):
        raise ValueError(
            f"{objective.name} is not linear in large returns, and episodes are as long as they like; give a horizon"
        )
    if objective.degree == 0 and horizon is None and gamma < 1:
        raise ValueError(
            f"{objective.name} is not continuous in the return; give a horizon, for without one it may jump"
        )
    if gamma == 1:
        return Soundness(
            False, f"{objective.name}: with gamma = 1 the stock is the return so far, and any utility is sound"
        )
    if objective.degree is not None:
        return Soundness(False, f"{objective.name}: homogeneous of degree {objective.degree}, so stock alone is enough")
    if horizon is None:
        raise ValueError(
            f"{objective.name} is not homogeneous: with gamma = {gamma} stock alone would be silently wrong; give a "
            "horizon, so that z = gamma^t can be carried along"
        )
    line = (
        f"{objective.name} is not homogeneous: with gamma = {gamma} stock alone would be silently wrong, so "
        "z = gamma^t is carried along and E u(z·(c + G)) maximised"
    )
    return Soundness(True, line)


# --- objectives as text -----------------------------------------------------------------------------------------------


def parse(text: str) -> Objective:
    """Return the objective that a text such as `cvar(0.1)` names. Numbers may be decimal or `1/3`.

    Raises:
        ValueError: an unknown objective, a wrong number of arguments, or one outside its range; in one line.
    """
    word, _, rest = text.strip().partition("(")
    form = next((form for form in OBJECTIVES if form.partition("(")[0] == word.strip()), None)
    if form is None or (rest and not rest.endswith(")")):
        raise ValueError(f"unknown objective {text!r}; choose one of {', '.join(OBJECTIVES)}")
    arguments = numbers_of(text, form)
    if len(arguments) != (form.count(",") + 1 if "(" in form else 0):
        raise ValueError(f"objective {text!r} has {len(arguments)} arguments; write {form}")
    return OBJECTIVES[form](text.strip(), *arguments)


def _mean(name: str) -> Objective:
    linear = utilities.shaped(1.0, 1.0, 0.0)
    return Objective(
        name,
        utilities.identity,
        utilities.identity,
        1,
        False,
        linear,
        charge=Fraction(1),
        of_distribution=distributions.mean,
    )


def _cvar(name: str, tau: Fraction) -> Objective:
    _check_tau(name, tau)
    of_distribution = partial(distributions.lower_cvar, tau=float(tau))
    return Objective(
        name,
        utilities.loss,
        utilities.exact_loss,
        1,
        True,
        utilities.shaped(0.0, 1.0),
        None,
        "max",
        1 / tau,
        Fraction(1),
        of_distribution=of_distribution,
    )


def _upper_cvar(name: str, tau: Fraction) -> Objective:
    _check_tau(name, tau)
    of_distribution = partial(distributions.upper_cvar, tau=float(tau))
    return Objective(
        name,
        utilities.gain,
        utilities.exact_gain,
        1,
        True,
        utilities.shaped(0.0, 1.0, 0.0),
        None,
        "min",
        1 / tau,
        Fraction(1),
        of_distribution=of_distribution,
    )


def _mean_cvar(name: str, weight: Fraction, tau: Fraction) -> Objective:
    _check_tau(name, tau)
    if not 0 <= weight <= 1:
        raise ValueError(f"objective {name!r}: lambda must lie in [0, 1], not {float(weight):g}")
    below, above = weight + (1 - weight) / tau, weight

    def utility(x: Tensor) -> Tensor:
        return float(below) * x.clamp(max=0) + float(above) * x.clamp(min=0)

    def of_distribution(values: Tensor, weights: Tensor) -> Tensor:
        tail = distributions.lower_cvar(values, weights, float(tau))
        return float(weight) * distributions.mean(values, weights) + float(1 - weight) * tail

    def rational(x: Fraction) -> Fraction:
        return below * min(x, Fraction(0)) + above * max(x, Fraction(0))

    return Objective(
        name,
        utility,
        rational,
        1,
        above == 0,
        utilities.shaped(float(above), float(below)),
        None,
        "max",
        charge=Fraction(1),
        of_distribution=of_distribution,
    )


def _target(name: str, goal: Fraction) -> Objective:
    return Objective(name, utilities.closeness, lambda x: -abs(x), 1, False, utilities.shaped(-1.0, 1.0), -goal)


def _shortfall(name: str, budget: Fraction) -> Objective:
    return Objective(name, utilities.loss, utilities.exact_loss, 1, True, utilities.shaped(0.0, 1.0), -budget)


def _probability(name: str, budget: Fraction) -> Objective:
    return Objective(
        name, utilities.at_least_zero, lambda x: Fraction(x >= 0), 0, True, utilities.shaped(0.0, math.inf), -budget
    )


def _entropic(name: str, aversion: Fraction) -> Objective:
    rate = _positive(name, aversion)

    def certainty(expected: Any) -> Any:
        return -(torch.log(-expected) if isinstance(expected, Tensor) else math.log(-expected)) / rate

    def of_distribution(values: Tensor, weights: Tensor) -> Tensor:
        return -torch.logsumexp(weights.log() - rate * values, -1) / rate

    def shape(low: float, high: float) -> utilities.Shape:
        return utilities.Shape(rate * utilities.exponential(-rate * high), rate * utilities.exponential(-rate * low))

    return Objective(
        name,
        lambda x: -torch.exp(-rate * x),
        lambda x: -utilities.exponential(-rate * x),
        None,
        False,
        shape,
        transform=certainty,
        of_distribution=of_distribution,
        aversion=rate,
    )


def _mean_variance(name: str, aversion: Fraction) -> Objective:
    rate = _positive(name, aversion)

    def of_distribution(values: Tensor, weights: Tensor) -> Tensor:
        return distributions.mean(values, weights) - rate * distributions.variance(values, weights)

    return Objective(
        name,
        lambda x: x - rate * x.square(),
        lambda x: x - aversion * x * x,
        None,
        False,
        lambda low, high: utilities.Shape(1 - 2 * rate * high, 1 - 2 * rate * low, rate),
        None,
        "max",
        charge=Fraction(1),
        of_distribution=of_distribution,
    )


OBJECTIVES: dict[str, Callable[..., Objective]] = {
    "mean": _mean,
    "cvar(tau)": _cvar,
    "upper-cvar(tau)": _upper_cvar,
    "mean-cvar(lambda, tau)": _mean_cvar,
    "target(g)": _target,
    "homeostasis(set-point)": _target,
    "shortfall(b)": _shortfall,
    "probability(b)": _probability,
    "entropic(lambda)": _entropic,
    "mean-variance(lambda)": _mean_variance,
}


def _check_tau(name: str, tau: Fraction) -> None:
    if not 0 < tau <= 1:
        raise ValueError(f"objective {name!r}: tau must lie in (0, 1], not {float(tau):g}")


def _positive(name: str, aversion: Fraction) -> float:
    if aversion <= 0:
        raise ValueError(f"objective {name!r}: lambda must be positive, not {float(aversion):g}; 0 is `mean`")
    return float(aversion)


# --- your own utility -------------------------------------------------------------------------------------------------


def own(
    utility: Callable[[Tensor], Tensor],
    *,
    name: str = "own",
    stock: float = 0.0,
    degree: int | None = None,
    rational: Callable[[Fraction], Number] | None = None,
) -> Objective:
    """Return the objective E u(c_0 + G) of your utility u, a function of tensors, elementwise.

    Args:
        utility: u, finite on finite numbers.
        name: how messages and figures call it.
        stock: c_0.
        degree: p where u(ax) = a^p·u(x) for every a > 0; checked. Without one, u is held to be not homogeneous.
        rational: u of a fraction, for exact arithmetic; without it `utility` is evaluated in float64.

    Raises:
        ValueError: u is not elementwise, not finite, or not homogeneous of the degree that is claimed.
    """
    if not math.isfinite(stock):
        raise ValueError(f"objective {name!r}: its stock must be a finite number, not {stock}")
    points = torch.linspace(-8.0, 8.0, 65, dtype=torch.float64)
    u = utility(points)
    if not isinstance(u, Tensor) or u.shape != points.shape or not torch.isfinite(u).all():
        raise ValueError(f"objective {name!r}: its utility must give one finite number for each of a tensor's entries")
    if degree is not None:
        utilities.check_degree(name, utility, degree)

    def evaluated(x: Fraction) -> float:
        return float(utility(torch.tensor(float(x), dtype=torch.float64)))

    flat = bool((u.diff() == 0).any())
    shape = partial(utilities.sampled_shape, utility)
    return Objective(name, utility, rational or evaluated, degree, flat, shape, as_fraction(stock))
