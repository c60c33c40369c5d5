"""Search for the least value of a function over a box, a batch of points at a time: a grid, CMA-ES, random.

    search = cma_search(low, high, seed=0)
    while not search.done:
        search.tell(values_of(search.ask()))  # (P, d) -> (P,)
    search.best, search.least

A method (docs/derivations/iwocs.md §5) is a generator function on the unit box: it yields points (P, d) and is sent
their values (P,). The values received so far are the whole state: loading replays them, so a search can be saved
between two batches and loading runs no code of the file's.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import suppress
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from surefoot.agents.parts.random import make_generator

POPULATION, GENERATIONS = 100, 6  # of the paper (§5.3)
SIGMA = 0.5  # CMA-ES's first width; its first mean is the middle of the box
Proposals = Generator[Tensor, Tensor, None]


class Found(NamedTuple):
    """What a search found."""

    value: float  # the least
    point: Tensor  # (d,) the first with it
    ties: int  # different points with it
    mean: float  # of the values of all points


class Search:
    """One search over the box from low to high, (d,) each, by ask and tell; float64.

    Raises:
        ValueError: bounds that are not finite, of different lengths, or not low < high.
    """

    def __init__(self, low: Any, high: Any, method: Callable[[int], Proposals]) -> None:
        self.low, self.high = (torch.as_tensor(bound, dtype=torch.float64) for bound in (low, high))
        if self.low.shape != self.high.shape or self.low.dim() != 1 or not len(self.low):
            raise ValueError(f"a box needs as many low as high ends, not {low} and {high}")
        if not (self.low.isfinite() & self.high.isfinite() & (self.low < self.high)).all():
            raise ValueError(f"a box needs finite low < high, not {low} and {high}")
        self._method = method
        self._restart()

    def _restart(self) -> None:
        self._proposals = self._method(len(self.low))
        self._pending: Tensor | None = next(self._proposals)  # in the unit box
        self.best: Tensor | None = None  # (d,) the first point of the least value so far
        self.least = torch.inf
        self._evaluated: list[tuple[Tensor, Tensor]] = []  # points (P, d) and values (P,) of every batch

    @property
    def done(self) -> bool:
        return self._pending is None

    @property
    def found(self) -> Found:
        """The outcome so far; `ValueError` before the first values."""
        if self.best is None:
            raise ValueError("the search has no values yet")
        points, values = map(torch.cat, zip(*self._evaluated, strict=True))
        equal = points[values == self.least]
        return Found(self.least, self.best, len(equal.unique(dim=0)), float(values.mean()))

    @property
    def evaluations(self) -> int:
        """The number of points with a value."""
        return sum(len(values) for _, values in self._evaluated)

    def ask(self) -> Tensor:
        """Return the next points (P, d); the same until `tell` has their values. `ValueError` after the last."""
        if self._pending is None:
            raise ValueError(f"the search ended after {self.evaluations} points; make another one")
        return self.low + self._pending * (self.high - self.low)

    def tell(self, values: Tensor) -> None:
        """Give the values (P,) of the points last asked for; `ValueError` for another number of them or NaN."""
        points, values = self.ask(), values.detach().to("cpu", torch.float64)
        if values.shape != points.shape[:1] or values.isnan().any():
            raise ValueError(f"{len(points)} points need one number each, not {values.tolist()}")
        if values.min() < self.least:
            self.best, self.least = points[values.argmin()], float(values.min())
        self._evaluated.append((points, values))
        try:
            self._pending = self._proposals.send(values)
        except StopIteration:
            self._pending = None

    def state_dict(self) -> dict[str, Any]:
        """Return every batch with its values."""
        return {"evaluated": [tuple(part.clone() for part in batch) for batch in self._evaluated]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Search the same way again; `ValueError` where that proposes other points than the saved search."""
        self._restart()
        for points, values in state["evaluated"]:
            if self.done or not torch.equal(self.ask(), points.cpu()):
                raise ValueError("the saved search had other points: other bounds, seed, settings or version")
            self.tell(values)


def minimise(values_of: Callable[[Tensor], Tensor], search: Search) -> tuple[Tensor, float]:
    """Carry a search out and return its best point (d,) and the value there; `values_of` maps (P, d) to (P,)."""
    while not search.done:
        search.tell(values_of(search.ask()))
    assert search.best is not None
    return search.best, search.least


# --- the methods ------------------------------------------------------------------------------------------------------


def grid_search(low: Any, high: Any, n: int = 10, *, closed: bool = False, batch: int | None = None) -> Search:
    """Return a search of n values per dimension, the last changing fastest, `batch` points at a time, all by default.

    Half-open by default, as IWOCS's published paths are: low + k·(high − low)/n, eq. (5.2). `closed`, eq. (5.3), has
    both ends.
    """
    if n < 2:
        raise ValueError(f"a grid needs at least 2 values per dimension, not {n}")
    return Search(low, high, partial(_grid, n=n, closed=closed, batch=batch))


def random_search(
    low: Any, high: Any, *, seed: int, population: int = POPULATION, generations: int = GENERATIONS
) -> Search:
    """Return a search of uniform points (§5.4)."""
    _check_budget(population, generations)
    return Search(low, high, partial(_uniform, seed=seed, population=population, generations=generations))


def cma_search(
    low: Any,
    high: Any,
    *,
    seed: int,
    population: int = POPULATION,
    generations: int = GENERATIONS,
    start: Any = None,
    sigma: float = SIGMA,
) -> Search:
    """Return a search by CMA-ES (Hansen; the `cma` package); uniform points in one dimension, where there is no C.

    The best sample counts, not the final mean. §5.3 has the equations, and what the package does otherwise. It begins
    at `start` (d,), by default the middle of the box, with the width `sigma`, a fraction of the box.
    """
    _check_budget(population, generations)
    low, high = (torch.as_tensor(bound, dtype=torch.float64) for bound in (low, high))
    begin = 0.5 if start is None else ((torch.as_tensor(start, dtype=torch.float64) - low) / (high - low)).numpy()
    settings: dict[str, Any] = {
        "seed": seed,
        "population": population,
        "generations": generations,
        "start": begin,
        "sigma": sigma,
    }
    return Search(low, high, partial(_cma, **settings))


def _check_budget(population: int, generations: int) -> None:
    if population < 2 or generations < 1:
        raise ValueError(f"a search needs a population of 2 and a generation, not {population} and {generations}")


def _grid(dims: int, *, n: int, closed: bool, batch: int | None) -> Proposals:
    axis = torch.from_numpy(np.linspace(0.0, 1.0, n, endpoint=closed))
    points = torch.cartesian_prod(*[axis] * dims).view(-1, dims)
    for part in points.split(batch or len(points)):  # noqa: UP028 - a tuple cannot be sent values
        yield part


def _uniform(dims: int, *, seed: int, population: int, generations: int) -> Proposals:
    generator = make_generator(seed, "random search")
    for _ in range(generations):
        yield torch.rand(population, dims, generator=generator, dtype=torch.float64)


def _within(middle: float, sigma: float, **settings: int) -> Proposals:
    """Yield uniform points of one dimension, no farther than `sigma` from the middle."""
    low, high = max(0.0, middle - sigma), min(1.0, middle + sigma)
    proposals = _uniform(1, **settings)
    points = next(proposals)
    with suppress(StopIteration):
        while True:
            points = proposals.send((yield low + points * (high - low)))


def _cma(dims: int, *, seed: int, population: int, generations: int, start: Any, sigma: float) -> Proposals:
    middle = np.broadcast_to(start, dims)
    if dims == 1:
        yield from _within(float(middle[0]), sigma, seed=seed, population=population, generations=generations)
        return
    import cma  # takes a second, and a grid needs none of it

    generator = np.random.default_rng(seed)  # its own default is NumPy's global one
    options = {"popsize": population, "bounds": [0, 1], "verbose": -9}
    options["randn"] = lambda *shape: generator.standard_normal(shape)
    strategy = cma.CMAEvolutionStrategy(middle.copy(), sigma, options)
    for _ in range(generations):
        asked = strategy.ask()
        values = yield torch.from_numpy(np.array(asked))
        strategy.tell(asked, values.tolist())
