"""Utilities u of stock plus return, of tensors and of fractions, and what is known of their slopes.

docs/derivations/distributional.md §3.1 (utilities) and §6.6 (what their slopes are for).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction
from typing import Any, NamedTuple

import torch
from torch import Tensor

SAMPLES = 4097  # points at which an own utility is looked at for its slopes


class Shape(NamedTuple):
    """What is known of a utility u on an interval; eq. (6.9) and (6.10) bracket values with it."""

    least_slope: float
    largest_slope: float  # of u, ∞ where it jumps up
    curvature: float = math.inf  # κ with u(x) + κx² convex


def identity(x: Any) -> Any:
    return x


def loss(x: Tensor) -> Tensor:
    return x.clamp(max=0)


def gain(x: Tensor) -> Tensor:
    return x.clamp(min=0)


def closeness(x: Tensor) -> Tensor:
    return -x.abs()


def at_least_zero(x: Tensor) -> Tensor:
    return (x >= 0).to(x.dtype)


def exact_loss(x: Fraction) -> Fraction:
    return min(x, Fraction(0))


def exact_gain(x: Fraction) -> Fraction:
    return max(x, Fraction(0))


def exponential(x: Any) -> float:
    """Return eˣ, ∞ where a float cannot hold it."""
    try:
        return math.exp(x)
    except OverflowError:
        return math.inf


def shaped(least: float, largest: float, curvature: float = math.inf) -> Callable[[float, float], Shape]:
    """Return a shape that is the same between any two numbers."""
    return lambda low, high: Shape(least, largest, curvature)


# --- of a user's utility ----------------------------------------------------------------------------------------------


def check_degree(name: str, utility: Callable[[Tensor], Tensor], degree: int) -> None:
    """Raise unless u(±a) = a^p·u(±1), from a = 10⁻⁹ to 10⁹: what is capped at 20 is like x near 0."""
    sizes = torch.logspace(-9, 9, 73, dtype=torch.float64)
    for sign in (1.0, -1.0):
        claimed = sizes**degree * float(utility(torch.tensor([sign], dtype=torch.float64)))
        wrong = ~torch.isclose(utility(sign * sizes), claimed, rtol=1e-9, atol=0.0)
        if wrong.any():
            a = float(sizes[wrong][0])
            raise ValueError(f"objective {name!r}: u({sign * a:g}) is not {a:g}^{degree}·u({sign:g}); leave degree out")


def sampled_shape(utility: Callable[[Tensor], Tensor], low: float, high: float) -> Shape:
    """Return the slopes between `SAMPLES` points, ±∞ where they grow as points come closer: a jump."""
    if not high > low:
        return Shape(0.0, 0.0)
    points = torch.linspace(low, high, SAMPLES, dtype=torch.float64)
    u = utility(points)
    ends, twice = (u[step:] - u[:-step] for step in (1, 2))
    width = (high - low) / (SAMPLES - 1)
    least, largest = float(ends.min()) / width, float(ends.max()) / width
    jumps_down, jumps_up = least < 0.75 * float(twice.min()) / width, largest > 0.75 * float(twice.max()) / width
    return Shape(-math.inf if jumps_down and least < 0 else least, math.inf if jumps_up and largest > 0 else largest)
