"""What a bandit method receives of a dynamical linear system: bounds, derived from the true one or given.

Equations and sections: docs/derivations/dynlin.md.

| derivation | paper | here |
|---|---|---|
| §1.1, §6.1 | Assumptions 2.1, 2.2 | `Bounds`, `from_system`, `from_given` |
| (1.3) | Assumption 2.1 | `non_normality` |
| (3.1), (3.2), (3.3) | – | `constants` |
| (3.8) | – | `stationary_radius` |
| (3.6) | Algorithm 1 | `epoch_repeats`, `epochs_within` |
"""

from __future__ import annotations

import itertools
import math
import warnings
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from surefoot.agents.dynlin.bandit import LinearSystem

POWERS = 999  # of A that Φ is taken over, as the official code does


class Bounds(NamedTuple):
    """Each bounds the quantity it is named after (§1.1)."""

    rho: float  # ρ̄ ≥ ρ(A)
    phi: float  # Φ̄ ≥ sup_τ ‖A^τ‖₂ / ρ(A)^τ
    omega: float  # Ω ≥ ‖ω‖₂
    theta: float  # Θ ≥ ‖θ‖₂
    b: float  # B̄ ≥ ‖B‖₂
    u: float  # Ū ≥ ‖u‖₂
    x: float  # X̄ ≥ ‖x‖₂, nominal: Gaussian states have no bound
    sigma: float  # σ


def spectral_radius(A: np.ndarray) -> float:
    """Return ρ(A), the largest modulus of an eigenvalue."""
    return float(np.abs(np.linalg.eigvals(A)).max())


def non_normality(A: np.ndarray, powers: int = POWERS) -> float:
    """Return Φ(A) = max_τ ‖A^τ‖₂ / ρ(A)^τ over τ ≤ `powers`, at least 1; `ValueError` where it is infinite (ρ = 0)."""
    rho = spectral_radius(A)
    if rho == 0.0:
        if np.any(A):
            raise ValueError(
                "A is nilpotent, so no finite Φ exists; give --agent.spectral-radius-bound > 0 and "
                "--agent.non-normality-bound"
            )
        return 1.0
    scaled = itertools.accumulate(itertools.repeat(A / rho, powers), np.matmul)
    return float(np.linalg.norm(np.stack(list(scaled)), 2, axis=(1, 2)).max(initial=1.0))


def from_system(
    system: LinearSystem, u_bound: float, given: Mapping[str, float | None] | None = None, powers: int = POWERS
) -> Bounds:
    """Return the exact bounds of a system, as the paper grants them to the learner, `given` ones in their place.

    X̄ = Ū/(1 − ρ̄), without ‖B‖, as in the official code: eq. (6.1). Warns where a given ρ̄ is below ρ(A).
    """
    known = {name: value for name, value in (given or {}).items() if value is not None}
    true_rho = spectral_radius(system.A)
    rho = known.get("rho", true_rho)
    if rho < true_rho * (1 - 1e-9):
        warnings.warn(
            f"--agent.spectral-radius-bound {rho:g} is below the spectral radius {true_rho:.6g}: epochs end before the "
            "state settles",
            stacklevel=2,
        )
    u = known.get("u", u_bound)
    derived = {
        "rho": rho,
        "omega": float(np.linalg.norm(system.omega)),
        "theta": float(np.linalg.norm(system.theta)),
        "b": float(np.linalg.norm(system.B, 2)),
        "u": u,
        "x": u / (1 - rho),
        "sigma": system.output_noise,  # of one output: the official code does not give the learner their number
    }
    if "phi" not in known:
        derived["phi"] = non_normality(system.A, powers)
    return Bounds(**(derived | known))


NAMES = {  # of the bounds of a real system, in the words of `DynLinUCBConfig`
    "spectral_radius": "rho",
    "non_normality": "phi",
    "state_weight": "omega",
    "action_weight": "theta",
    "input_matrix": "b",
    "action_norm": "u",
    "state_norm": "x",
    "noise_std": "sigma",
}


def named(bounds: Mapping[str, float]) -> dict[str, float]:
    """Return bounds by the fields of `Bounds`; `ValueError` for an unknown name or a value out of range."""
    known = {}
    for name, value in bounds.items():
        if name not in NAMES:
            raise ValueError(f"bounds: unknown name {name!r}; choose from {', '.join(NAMES)}")
        low, high = (1, math.inf) if name == "non_normality" else (0, 1 if name == "spectral_radius" else math.inf)
        if not isinstance(value, int | float) or isinstance(value, bool) or not low <= value < high:
            raise ValueError(f"bounds: {name} is {value!r}; it must be in [{low}, {high:g})")
        known[NAMES[name]] = float(value)
    return known


def from_given(known: Mapping[str, float], u_bound: float, needs: Sequence[str] = Bounds._fields) -> Bounds:
    """Return the bounds of a system whose matrices nobody has; `ValueError` where one that is needed is missing.

    Φ̄ = 1, as of a normal A, and Ω = 1, since the scale of the hidden state is free, where they are left out; Ū is that
    of the actions and X̄ = Ū/(1 − ρ̄), as in `from_system`. What is neither known nor needed is NaN.
    """
    bounds = {"phi": 1.0, "omega": 1.0, "u": u_bound, **known}
    if "rho" in bounds:
        bounds.setdefault("x", bounds["u"] / (1 - bounds["rho"]))
    missing = [name for name, field in NAMES.items() if field in needs and field not in bounds and field != "x"]
    if missing:
        raise ValueError(
            f"bounds: {', '.join(missing)} missing; give what is known of the system, as in docs/guides/bandits.md"
        )
    return Bounds(**{field: bounds.get(field, math.nan) for field in Bounds._fields})


class Constants(NamedTuple):
    """c1 and c2 of the radius, and the noise proxy σ̃², eq. (3.1) to eq. (3.3)."""

    c1: float
    c2: float
    sigma2: float


def constants(bounds: Bounds) -> Constants:
    """Return c1 = ŪΩΦ̄(ŪB̄/(1−ρ̄) + X̄), c2 = Θ + ΩB̄Φ̄/(1−ρ̄), σ̃² = σ²(1 + Ω²Φ̄²/(1−ρ̄²))."""
    rho, phi, omega, theta, b, u, x, sigma = bounds
    c1 = u * omega * phi * (u * b / (1 - rho) + x)
    c2 = theta + omega * b * phi / (1 - rho)
    return Constants(c1, c2, sigma**2 * (1 + omega**2 * phi**2 / (1 - rho**2)))


def bias_radius(t: int, known: Constants, lam: float, scale: float = 1.0) -> float:
    """Return (c₁/√λ)·ln(e(t+1)), the part of β that the truncation bias needs, times `scale`."""
    return scale * (known.c1 / math.sqrt(lam) * (1 + math.log1p(t)))


def stationary_radius(t: int, known: Constants, d: int, u: float, lam: float, delta: float) -> float:
    """Return c2√λ + √(2σ̃²[ln(1/δ) + (d/2)·ln(1 + tŪ²/(dλ))]), the part of β without truncation bias."""
    log_det = 0.5 * d * math.log1p(t * u**2 / (d * lam))
    return known.c2 * math.sqrt(lam) + math.sqrt(2 * known.sigma2 * (math.log(1 / delta) + log_det))


def epoch_repeats(m: int, rho: float, rounding: str = "floor") -> int:
    """Return H = ln m / ln(1/ρ̄), rounded: epoch m lasts H + 1 rounds. 1e-12 keeps exact powers on their side."""
    if rho == 0.0:
        return 0
    ratio = math.log(m) / math.log(1 / rho)
    return math.floor(ratio + 1e-12) if rounding == "floor" else math.ceil(ratio - 1e-12)


def epochs_within(horizon: int, rho: float) -> int:
    """Return the number of epochs in `horizon` rounds, the last of which may be cut."""
    m, t = 0, 0
    while t < horizon:
        m += 1
        t += epoch_repeats(m, rho) + 1
    return m
