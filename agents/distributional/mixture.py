"""The mixture of policies that an upper tail may need, drawn once at the start of an episode.

docs/derivations/distributional.md §5.4: the upper tail is concave in the distribution, so drawing between two policies
can beat both. By (3.3) and the minimax theorem the best mixture of given distributions has

    max_w CVaR⁺_τ(Σ w_i ν_i) = min_q max_i φ_i(q),   φ_i(q) = q + E_i max(0, X − q)/τ,

and at the minimum of that convex function one distribution that falls with q and one that rises meet: these two are
mixed, so that the slopes cancel.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from surefoot.agents.distributional.policy import SolvedPolicy

MET = 1e-12  # relative: a cut that lies this little above both tangents lies on them


class Drawn(NamedTuple):
    """A policy of a mixture."""

    chance: float
    stock: float  # c_0
    policy: SolvedPolicy


class Weights(NamedTuple):
    """Which distributions are mixed, and what that achieves."""

    value: float
    parts: tuple[tuple[float, int], ...]  # chances, and which


class _Line(NamedTuple):
    q: float
    height: float
    slope: float
    which: int

    def at(self, q: float) -> float:
        return self.height + self.slope * (q - self.q)


def best_mixture(laws: Sequence[tuple[np.ndarray, np.ndarray]], tau: float) -> Weights:
    """Return the mixture of distributions (values (K,), chances (K,)) with the largest mean of its best fraction τ."""
    low, high = (float(end([end(values) for values, _ in laws])) for end in (np.min, np.max))
    left, right = _tangent(laws, low, tau), _tangent(laws, high, tau)
    while left.slope < 0 < right.slope:
        q = (right.at(0.0) - left.at(0.0)) / (left.slope - right.slope)
        cut = _tangent(laws, q, tau)
        if cut.height <= left.at(q) + MET * (1 + abs(cut.height)) or not left.q < q < right.q:
            share = right.slope / (right.slope - left.slope)
            return Weights(cut.height, ((share, left.which), (1 - share, right.which)))
        left, right = (cut, right) if cut.slope < 0 else (left, cut)
    least = min(left, right, key=lambda line: line.height)
    return Weights(least.height, ((1.0, least.which),))


def _tangent(laws: Sequence[tuple[np.ndarray, np.ndarray]], q: float, tau: float) -> _Line:
    """Return the highest of the φ_i at q, with its slope to the right."""
    heights = [q + float(chances @ np.maximum(values - q, 0.0)) / tau for values, chances in laws]
    which = int(np.argmax(heights))
    values, chances = laws[which]
    return _Line(q, heights[which], 1 - float(chances[values > q].sum()) / tau, which)
