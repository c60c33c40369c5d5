"""A smooth surface through all mean returns that were tried: where its least lies, and how far below what was found.

A Gaussian process with a Matérn kernel of smoothness 5/2, a length per parameter, and noise that falls with the number
of episodes behind a mean (Rasmussen and Williams 2006, chapter 2 and section 5.4.1). Its hyper-parameters maximise the
posterior under weak log-normal priors. It shares what neighbouring points say, so that the choice of the worst one is
not that of the unluckiest; and the spread of the least value over draws of the whole surface says what the points not
tried may hide. Returns with cliffs are no such surface: there the spread is a rough guess, which the least that was
found bounds from above all the same.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

MOST, LEARNED = 600, 150  # points that the surface goes through, and that its hyper-parameters are learned from
CELL = 0.02  # of the box: points that share a cell of this width are one
CANDIDATES = 400
ITERATIONS = 15
JITTER = 1e-8
# Means and standard deviations of the logarithms: lengths in units of the box, noise of one episode and signal in those
# of the spread of the means.
LENGTH, SIGNAL, NOISE = (np.log(0.4), 0.8), (0.0, 1.0), (-1.0, 1.5)


class Surface(NamedTuple):
    """A fitted process over the unit box; values are standardised."""

    points: Tensor  # (P, d)
    weights: Tensor  # (P,) the inverse covariance times the values
    factor: Tensor  # (P, P) lower Cholesky factor of the covariance of the values
    logs: Tensor  # (d + 2,) logarithms of the hyper-parameters: a length per parameter, signal and noise variance
    centre: float
    scale: float


def fit(points: np.ndarray, means: np.ndarray, episodes: np.ndarray, like: Surface | None = None) -> Surface:
    """Return the surface through mean returns (P,) of so many episodes (P,) at points (P, d) of the unit box.

    `like` is one whose hyper-parameters are taken, which saves nearly all of the time.
    """
    points, means, episodes = (column[_some(len(column), MOST)] for column in _merged(points, means, episodes))
    x, counts = torch.from_numpy(points), torch.from_numpy(episodes)
    centre, scale = (float(means.mean()), float(means.std()) or 1.0) if like is None else like[-2:]
    y = torch.from_numpy((means - centre) / scale)
    some = _some(len(y), LEARNED)
    logs = _learned(x[some], y[some], counts[some]) if like is None else like.logs
    factor = _factor(logs, x, counts)
    weights = torch.cholesky_solve(y[:, None], factor)[:, 0]
    return Surface(x, weights, factor, logs, centre, scale)


def _learned(x: Tensor, y: Tensor, counts: Tensor) -> Tensor:
    """Return the logarithms of the hyper-parameters (d + 2,)."""
    start = [LENGTH[0]] * x.shape[1] + [SIGNAL[0], NOISE[0]]
    logs = torch.tensor(start, dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.LBFGS([logs], max_iter=ITERATIONS, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimiser.zero_grad()
        loss = -_log_posterior(logs, x, y, counts)
        loss.backward()
        return loss

    optimiser.step(closure)
    return logs.detach()


def _merged(points: np.ndarray, means: np.ndarray, episodes: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the points with those of one cell averaged, each weighing as much as it has episodes, and their counts."""
    _, of = np.unique(np.floor(points / CELL), axis=0, return_inverse=True)
    counts = np.bincount(of.ravel(), episodes)
    columns = [np.bincount(of.ravel(), episodes * column) / counts for column in (*points.T, means)]
    return np.stack(columns[:-1], 1), columns[-1], counts


def _some(count: int, most: int) -> np.ndarray:
    """Return which of so many points to take, evenly: a choice by their means would take the unlucky ones."""
    chosen: np.ndarray = np.linspace(0, count - 1, min(count, most)).astype(int)
    return chosen


def _log_posterior(logs: Tensor, x: Tensor, y: Tensor, counts: Tensor) -> Tensor:
    factor = _factor(logs, x, counts)
    whitened = torch.linalg.solve_triangular(factor, y[:, None], upper=False)
    likelihood = -0.5 * whitened.square().sum() - factor.diagonal().log().sum()
    prior = -0.5 * ((logs[:-2] - LENGTH[0]) / LENGTH[1]).square().sum()
    prior = prior - 0.5 * ((logs[-2] - SIGNAL[0]) / SIGNAL[1]).square()
    total: Tensor = likelihood + prior - 0.5 * ((logs[-1] - NOISE[0]) / NOISE[1]).square()
    return total


def _factor(logs: Tensor, x: Tensor, counts: Tensor) -> Tensor:
    covariance = _kernel(x, x, logs)
    noise = logs[-1].exp() / counts + JITTER
    factor: Tensor = torch.linalg.cholesky(covariance + torch.diag(noise))
    return factor


def _kernel(x: Tensor, y: Tensor, logs: Tensor) -> Tensor:
    """Return (P, Q) Matérn covariances."""
    lengths, signal = logs[:-2].exp(), logs[-2].exp()
    x, y = x / lengths, y / lengths
    square = x.square().sum(1)[:, None] + y.square().sum(1)[None] - 2 * x @ y.T
    distance = (5 * square.clamp_min(0) + 1e-12).sqrt()
    return signal * (1 + distance + distance.square() / 3) * (-distance).exp()


def candidates(surface: Surface, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Return points (C, d) of the unit box where the least may lie, and the surface's mean (C,) there, as returns.

    Half are drawn evenly, a quarter around the lowest of these and of the fitted points, a quarter more narrowly around
    the lowest of those.
    """
    dims = surface.points.shape[1]
    found = np.concatenate([surface.points.numpy(), generator.random((CANDIDATES // 2, dims))])
    for width in (0.15, 0.04):
        lowest = found[np.argsort(predict(surface, found), kind="stable")[:10]]
        around = np.repeat(lowest, CANDIDATES // 40, axis=0)
        found = np.concatenate([found, np.clip(around + width * generator.standard_normal(around.shape), 0, 1)])
    return found, predict(surface, found)


def predict(surface: Surface, points: np.ndarray) -> np.ndarray:
    """Return the posterior mean (C,), in units of the return."""
    kernel = _kernel(torch.from_numpy(points), surface.points, surface.logs)
    means: np.ndarray = (kernel @ surface.weights).numpy() * surface.scale + surface.centre
    return means


class Leasts(NamedTuple):
    """The least value of each of some draws of the whole surface, in units of the return, and where it lies."""

    values: np.ndarray  # (draws,)
    points: np.ndarray  # (draws, d) of the unit box


def draw_leasts(surface: Surface, draws: int, generator: np.random.Generator) -> Leasts:
    """Return where and how low the surface may be: the least of each draw of it over the candidates and even points."""
    found, means = candidates(surface, generator)
    lowest = found[np.argsort(means, kind="stable")[:CANDIDATES]]
    points = np.concatenate([lowest, generator.random((CANDIDATES // 2, lowest.shape[1]))])
    x = torch.from_numpy(points)
    kernel = _kernel(x, surface.points, surface.logs)
    half = torch.linalg.solve_triangular(surface.factor, kernel.T, upper=False)  # (P, C)
    covariance = _kernel(x, x, surface.logs) - half.T @ half
    noise = 1e-6 * float(surface.logs[-2].exp())
    factor = torch.linalg.cholesky(covariance + noise * torch.eye(len(x), dtype=torch.float64))
    normal = torch.from_numpy(generator.standard_normal((len(x), draws)))
    least = ((kernel @ surface.weights)[:, None] + factor @ normal).min(0)
    return Leasts(least.values.numpy() * surface.scale + surface.centre, points[least.indices.numpy()])
