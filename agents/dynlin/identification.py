"""What recorded actions and rewards say of the system: Markov parameters, their sum h, and the spectral radius.

Equations and sections: docs/derivations/dynlin.md §16.

| derivation | paper | here |
|---|---|---|
| (1.5), (16.1) | – | `lagged`, `identify`: least squares on lagged actions |
| (16.2) | Newey, West (1987) | `long_run_covariance` |
| §16.1 | – | `Identified.of`: what the actions leave open has no interval |
| (16.3) | Juang, Pappa (1985) | `realise`: eigensystem realisation; `Identified.spectral_radius` |
| (16.4) | – | `Identified.bounds` |
| (16.6) | – | `excess` |
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

DRAWS = 200  # of the Markov parameters, for the interval of the spectral radius
MOST_LAGS = 32
Z95 = 1.959964


class Interval(NamedTuple):
    """An estimate with a 95 % interval; infinitely wide where the actions say nothing."""

    value: float
    low: float
    high: float


def _value(one: Interval) -> float:
    return one.value


def _half(one: Interval) -> float:
    return (one.high - one.low) / 2


@dataclass(frozen=True)
class Identified:
    """A linear system with hidden state as recorded actions and rewards show it, all float64."""

    markov: np.ndarray  # (L + 1, d) h^[0], …, h^[L]; of those the actions cannot tell apart the smallest
    covariance: np.ndarray  # ((L + 1)d, (L + 1)d) of their errors
    seen: np.ndarray  # ((L + 1)d, r) orthonormal directions in which the actions varied
    noise_std: float  # of a reward, given the actions of the last L rounds
    rounds: int  # that a reward was regressed in
    decided_by: np.ndarray  # (d, k) orthonormal directions in which every lag by itself is known

    def of(self, weights: np.ndarray) -> Interval:
        """Return Σ <weights[s], h^[s]> for weights (L + 1, d), such as an action repeated: its long-run reward."""
        flat = np.asarray(weights, dtype=np.float64).ravel()
        value, length = float(flat @ self.markov.ravel()), float(np.linalg.norm(flat))
        if np.linalg.norm(flat - self.seen @ (self.seen.T @ flat)) > 1e-6 * length:
            return Interval(value, -math.inf, math.inf)
        half = Z95 * math.sqrt(max(0.0, float(flat @ self.covariance @ flat)))
        return Interval(value, value - half, value + half)

    def long_run(self, action: np.ndarray) -> Interval:
        """Return J(u) = <h, u>, the reward per round of repeating u (d,) forever."""
        return self.of(np.tile(np.asarray(action, dtype=np.float64), (len(self.markov), 1)))

    @cached_property
    def h(self) -> list[Interval]:
        """The components of the cumulative Markov parameter."""
        return [self.long_run(axis) for axis in np.eye(self.markov.shape[1])]

    @cached_property
    def h_covariance(self) -> np.ndarray:
        """The covariance (d, d) of the error of h."""
        lags, d = self.markov.shape
        fold = np.tile(np.eye(d), lags)
        folded: np.ndarray = fold @ self.covariance @ fold.T
        return folded

    @cached_property
    def parameters(self) -> list[list[Interval]]:
        """The Markov parameters h^[0], …, h^[L], each of d components.

        Where all actions lie in one hyperplane, such as those of one budget, the effect of what they share cannot be
        told apart by lags: it is counted as immediate. No long-run reward of such an action depends on that.
        """
        lags, d = self.markov.shape
        varied = self.decided_by @ self.decided_by.T
        shared = np.tile(np.eye(d) - varied, (1, lags))  # of all lags together
        weights = np.kron(np.eye(lags), varied)
        weights[:d] += shared
        found = [self.of(row.reshape(lags, d)) for row in weights]
        return [found[s * d : (s + 1) * d] for s in range(lags)]

    def sizes(self) -> tuple[np.ndarray, np.ndarray]:
        """Return ‖h^[s]‖ (L + 1,) and the length of its standard errors, over the components that are known."""
        values, halves = (np.array([[part(one) for one in row] for row in self.parameters]) for part in (_value, _half))
        known = np.isfinite(halves)
        errors = np.where(known, halves, 0.0) / Z95
        return np.linalg.norm(np.where(known, values, 0.0), axis=1), np.linalg.norm(errors, axis=1)

    @cached_property
    def spectral_radius(self) -> Interval:
        """ρ(A) of the smallest realisation; the interval is that of realisations of Markov parameters drawn anew.

        (0, 0, 1) where no effect of an earlier round is seen.
        """
        lags = len(self.markov)
        decided = self.decided_by
        response = self.markov[1:] @ decided  # (L, k)
        spread = np.kron(np.eye(lags), decided)[:, decided.shape[1] :]
        covariance = spread.T @ self.covariance @ spread
        order = model_order(response, covariance)
        if order == 0:
            return Interval(0.0, 0.0, 1.0)
        draws = np.random.default_rng(0).multivariate_normal(
            response.ravel(), covariance, size=DRAWS, method="eigh", check_valid="ignore"
        )
        value = _radius(realise(response, order)[0])
        radii = [_radius(realise(draw.reshape(response.shape), order)[0]) for draw in draws]
        low, high = np.quantile(radii, (0.025, 0.975))
        return Interval(value, min(float(low), value), max(float(high), value))

    def bounds(self) -> dict[str, float]:
        """Return bounds for `surefoot.bandit`, two standard errors above what was found; Ω = 1, Φ̄ = 1.

        `ValueError` where the actions leave h open: the effects of what never varied have no bound.
        """
        self.require_decided()
        rho = min(self.spectral_radius.high, 0.999)
        sizes, errors = self.sizes()
        # A lag that its error hides says nothing of the envelope M ρ̄^{s−1}.
        clear = [s for s in range(1, len(sizes)) if sizes[s] > 2 * errors[s] and rho > 0]
        height = max([(sizes[s] + 2 * errors[s]) / rho ** (s - 1) for s in clear], default=0.0)
        found = {"spectral_radius": rho, "action_weight": float(sizes[0] + 2 * errors[0])}
        return found | {"input_matrix": float(height), "noise_std": self.noise_std}

    @property
    def decided(self) -> bool:
        """Whether the actions vary enough for all of h to be known."""
        return all(np.isfinite(one.high) for one in self.h)

    def require_decided(self) -> None:
        """Raise `ValueError` where they do not."""
        if not self.decided:
            raise ValueError("the logs leave h open: their actions do not vary in all components")

    def system(self) -> dict[str, Any]:
        """Return A, B, omega, theta and noise, as `surefoot/DynamicalLinear-v0` takes them: a simulator of the logs.

        `ValueError` where the actions leave h open.
        """
        self.require_decided()
        decided = self.decided_by
        response = self.markov[1:] @ decided
        lags = len(self.markov)
        spread = np.kron(np.eye(lags), decided)[:, decided.shape[1] :]
        order = max(1, model_order(response, spread.T @ self.covariance @ spread))
        A, B, omega = realise(response, order)
        radius = _radius(A)
        A = A * min(1.0, 0.999 / radius) if radius else A
        B = B @ decided.T
        # θ takes up what is left: the long-run rewards are those that were found.
        theta = self.markov.sum(0) - B.T @ np.linalg.solve((np.eye(order) - A).T, omega)
        plain = {"A": A.tolist(), "B": B.tolist(), "omega": omega.tolist(), "theta": theta.tolist()}
        return {**plain, "state_noise": 0.0, "output_noise": self.noise_std}


def identify(actions: Any, rewards: Any, *, lags: int | None = None) -> Identified:
    """Return the Markov parameters h^[s] of y_t = Σ <h^[s], u_{t−s}> + noise by least squares on lagged actions.

    Args:
        actions: (T, d) in the order of the rounds, as played; before the first of them nothing is assumed.
        rewards: (T,), NaN for one that is missing.
        lags: L; None: twice what Akaike's criterion takes, at most 32.

    Raises:
        ValueError: shapes that do not fit, actions that are not finite, or too few rounds.
    """
    u, y = _log(actions, rewards)
    lags = choose_lags(u, y) if lags is None else lags
    if lags < 0:
        raise ValueError(f"lags is {lags}; an action acts for 0 rounds after its own, or more")
    x, target = lagged(u, y, lags)
    if len(x) <= x.shape[1]:
        raise ValueError(f"{len(x)} rounds with a reward and {lags} before them, for {x.shape[1]} parameters: too few")
    left, sizes, right = np.linalg.svd(x, full_matrices=False)
    rank = int((sizes > 1e-8 * sizes[0]).sum()) if sizes[0] > 0 else 0
    if rank == 0:
        raise ValueError("all recorded actions are zero: they say nothing of their effects")
    seen = right[:rank].T  # (p, r)
    flat = seen @ ((left[:, :rank].T @ target) / sizes[:rank])
    residual = target - x @ flat
    freedom = max(1, len(x) - rank)
    inverse = (seen / sizes[:rank] ** 2) @ seen.T
    covariance = inverse @ long_run_covariance(x * residual[:, None], lags) @ inverse * (len(x) / freedom)
    noise = math.sqrt(float(residual @ residual) / freedom)
    return Identified(flat.reshape(lags + 1, -1), covariance, seen, noise, len(x), _varied(u))


def _log(actions: Any, rewards: Any) -> tuple[np.ndarray, np.ndarray]:
    u, y = np.asarray(actions, dtype=np.float64), np.asarray(rewards, dtype=np.float64)
    if u.ndim != 2 or y.shape != (len(u),) or not u.size:
        raise ValueError(f"a log is actions (T, d) and rewards (T,); these are {u.shape} and {y.shape}")
    if not np.isfinite(u).all() or np.isinf(y).any():
        raise ValueError("a recorded action or reward is not finite; a missing reward is NaN")
    return u, y


def _varied(u: np.ndarray) -> np.ndarray:
    """Return orthonormal directions (d, k) in which the actions differ from their mean."""
    _, sizes, right = np.linalg.svd(u - u.mean(0), full_matrices=False)
    varied: np.ndarray = right[sizes > 1e-8 * max(1e-300, float(sizes.max(initial=0.0)))].T
    return varied


def lagged(u: np.ndarray, y: np.ndarray, lags: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the rows (u_t, u_{t−1}, …, u_{t−L}) and y_t of every round that has L before it and a reward."""
    rows = np.concatenate([u[lags - s : len(u) - s] for s in range(lags + 1)], axis=1)
    there = ~np.isnan(y[lags:])
    return rows[there], y[lags:][there]


def choose_lags(u: np.ndarray, y: np.ndarray) -> int:
    """Return twice the L of the smallest T ln(RSS/T) + 2p, so that what is cut off hides in the noise."""
    most: int = max(1, min(MOST_LAGS, len(u) // (4 * u.shape[1]) - 1))
    tried = sorted({min(most, lag) for lag in (1, 2, 3, 4, 6, 8, 12, 16, 24, 32)})
    scores: dict[int, float] = {}
    for lag in tried:  # all on the same rounds
        x, target = lagged(u[most - lag :], y[most - lag :], lag)
        if len(x) <= x.shape[1]:
            break
        solution, _, rank, _ = np.linalg.lstsq(x, target, rcond=1e-8)
        error = float(np.sum((target - x @ solution) ** 2))
        scores[lag] = len(x) * math.log(max(error, 1e-300) / len(x)) + 2 * rank
    best = min(scores, key=scores.__getitem__, default=1)
    return min(most, 2 * best)


def long_run_covariance(scores: np.ndarray, lags: int) -> np.ndarray:
    """Return Σ_t Σ_k w_k (s_t s_{t+k}ᵀ + …), Newey and West's with Bartlett weights over `lags` and their spare.

    The noise of the state reaches later rewards, and actions that are held repeat: neighbouring scores are correlated.
    """
    most = min(len(scores) - 1, 2 * lags + 2)
    total = scores.T @ scores
    for k in range(1, most + 1):
        moved = scores[k:].T @ scores[:-k]
        total += (1 - k / (most + 1)) * (moved + moved.T)
    values, axes = np.linalg.eigh(total)
    positive: np.ndarray = (axes * values.clip(min=0.0)) @ axes.T
    return positive


def hankel(response: np.ndarray, shift: int = 0) -> np.ndarray:
    """Return the Hankel matrix (r, c·k) of a response (L, k), its rows i the entries i + shift, i + shift + 1, …"""
    rows = (len(response) + 1) // 2
    columns = len(response) - rows
    return np.array([response[i + shift : i + shift + columns].ravel() for i in range(rows)])


def model_order(response: np.ndarray, covariance: np.ndarray) -> int:
    """Return how many singular values of the Hankel matrix stand above those of the estimates' own errors."""
    if len(response) < 2 or not response.size:
        return 0
    draws = np.random.default_rng(1).multivariate_normal(
        np.zeros(response.size), covariance, size=40, method="eigh", check_valid="ignore"
    )
    noise = [np.linalg.norm(hankel(draw.reshape(response.shape)), 2) for draw in draws]
    sizes = np.linalg.svd(hankel(response), compute_uv=False)
    return int((sizes > max(float(np.quantile(noise, 0.95)), 1e-9 * float(sizes.max(initial=0.0)), 1e-300)).sum())


def realise(response: np.ndarray, order: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return A (n, n), B (n, k), ω (n,) with ωᵀA^{s−1}B ≈ response[s − 1]: the eigensystem realisation."""
    left, sizes, right = np.linalg.svd(hankel(response), full_matrices=False)
    root = np.sqrt(np.maximum(sizes[:order], 1e-300))
    observability, controllability = left[:, :order] * root, root[:, None] * right[:order]
    A = (left[:, :order] / root).T @ hankel(response, 1) @ (right[:order] / root[:, None]).T
    return A, controllability[:, : response.shape[1]], observability[0]


def _radius(A: np.ndarray) -> float:
    return float(np.abs(np.linalg.eigvals(A)).max())


def excess(found: Identified, height: float, rho: float, z: float = 5.0) -> list[int]:
    """Return the lags s ≥ 1 at which ‖h^[s]‖ is above its bound M ρ̄^{s−1} by more than z standard errors.

    Of the later half of the lags nothing is said: what was cut off after the last weighs on them.

    The proof needs no more of the bounds than this: where it holds at every lag, ρ̄ may be below ρ(A).
    """
    sizes, doubts = found.sizes()
    return [s for s in range(1, len(sizes) // 2 + 1) if sizes[s] - z * doubts[s] > height * rho ** (s - 1)]
