"""Whether the bounds, and not the data, decide what an optimistic learner plays.

Equations and sections: docs/derivations/dynlin.md §16.

| derivation | paper | here |
|---|---|---|
| (3.4), (3.8) | Theorem 3.1 | `radius_parts` |
| (16.5) | – | `bonus_ratio`, `dominance` |
"""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor

from surefoot.agents.dynlin.bounds import bias_radius, stationary_radius
from surefoot.agents.dynlin.ridge import cholesky, forward, total

FIRST = 256  # rounds before which wide bonuses are what is wanted


def radius_parts(learner: Any, t: int) -> dict[str, float]:
    """Return the three terms of β after t rounds: truncation bias, regularisation, noise."""
    t += learner.prior_rounds
    bias = bias_radius(t, learner.known, learner.lam, learner.config.bias_scale)
    regularisation = learner.known.c2 * math.sqrt(learner.lam)
    rest = stationary_radius(t, learner.known, learner.d, learner.bounds.u, learner.lam, learner.delta)
    return {"bias": bias, "regularisation": regularisation, "noise": rest - regularisation}


def bonus_ratio(learner: Any) -> Tensor:
    """Return (N,) the smallest bonus β‖a‖_{V⁻¹} over what ĥ makes of the difference between best and worst action.

    Above 1 the order of the estimates decides nothing: which action is next follows from how often each was played. On
    a ball: the bonus in the direction of ĥ over ‖ĥ‖, the radius in both.
    """
    if learner.table is not None:
        mean, squared_width = learner.table.values(learner.ridge)
        spread = mean.amax(0) - mean.amin(0)
        ratio: Tensor = learner.beta * squared_width.amin(0).clamp(min=0.0).sqrt() / spread.clamp(min=1e-300)
        return ratio
    estimate = learner.ridge.estimate()  # (d, N)
    length = total(estimate.square().unbind()).sqrt().clamp(min=1e-300)
    whitened = forward(cholesky(learner.ridge.gram), (estimate / length).unbind())
    ratio = learner.beta * total([w.square() for w in whitened]).sqrt() / length
    return ratio


def dominance(learner: Any, t: int) -> str | None:
    """Return a line on bounds that dominate DynLin-UCB after t rounds in most replicates; None where they do not."""
    if t < FIRST:
        return None
    ratio = float(bonus_ratio(learner).median())
    if not ratio > 1 or math.isinf(ratio):
        return None
    parts = radius_parts(learner, t)
    name = max(parts, key=parts.__getitem__)
    share = parts[name] / max(sum(parts.values()), 1e-300)
    help_ = {
        "bias": "bias_scale below 1 shrinks it, at the risk of a wrong winner where the bounds are tight",
        "regularisation": "a smaller ridge shrinks it",
        "noise": "a smaller noise_std, if the rewards allow it, shrinks it",
    }
    return (
        f"after {t} rounds the smallest bonus is {ratio:.2g} times the difference of the estimates: bounds decide, not "
        f"data; {share:.0%} of the radius {sum(parts.values()):.3g} is the {name} term: {help_[name]}"
    )
