"""The search of worst cases against docs/derivations/iwocs.md E9, and its state."""

import math

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from surefoot.agents.iwocs.search import cma_search, grid_search, minimise, random_search
from surefoot.envs import SETS
from surefoot.evaluation.storage import load, save

WANTED = (0.3, 0.7, 0.4)


def bowl(at):
    return lambda x: (x - torch.tensor(at[: x.shape[1]], dtype=x.dtype)).square().sum(-1)


def two_basins(x):
    """The deeper one, of depth 0, is at 0.2; the other, wider, at 0.8."""
    return torch.minimum((x - 0.2).square().sum(-1), 0.02 + 0.5 * (x - 0.8).square().sum(-1))


def unit(dims):
    return np.zeros(dims), np.ones(dims)


def distance(point, at):
    return float((point - torch.tensor(at[: len(point)], dtype=point.dtype)).norm())


# --- E9: what is found ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("at", [WANTED, (0.0, 0.0, 0.0), (0.95, 0.05, 0.5)])
def test_cma_es_finds_a_minimum_to_within_a_fiftieth_in_600_evaluations(dims, at):
    searches = [cma_search(*unit(dims), seed=seed) for seed in range(10)]
    far = [distance(minimise(bowl(at), search)[0], at) for search in searches]
    assert sum(error <= 0.02 for error in far) >= 9, far
    assert {search.evaluations for search in searches} == {600}


@pytest.mark.parametrize("dims", [2, 3])
def test_cma_es_finds_the_deeper_of_two_basins(dims):
    far = [distance(minimise(two_basins, cma_search(*unit(dims), seed=seed))[0], [0.2] * dims) for seed in range(10)]
    assert sum(error <= 0.06 for error in far) >= 9, far


@pytest.mark.parametrize("dims", [2, 3])
def test_a_grid_finds_the_minimum_of_both(dims):
    for function, at in ((bowl(WANTED), WANTED), (two_basins, [0.2] * 3)):
        point, value = minimise(function, grid_search(*unit(dims)))
        assert distance(point, at) < 1e-12
        assert value == pytest.approx(0.0, abs=1e-12)


@pytest.mark.parametrize("dims", [2, 3])
def test_the_search_is_better_than_chance(dims):
    """The test above can fail: uniform points do not get that near."""
    far = [distance(minimise(bowl(WANTED), random_search(*unit(dims), seed=seed))[0], WANTED) for seed in range(10)]
    assert sum(error <= 0.02 for error in far) <= 7, far


# --- what is asked for ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("closed", [False, True])
def test_the_grid_is_that_of_an_evaluation(closed):
    for name in ("inverted-pendulum-1", "walker-2", "humanoidstandup-3"):
        one = SETS[name]
        asked = grid_search(one.low, one.high, 5, closed=closed).ask()
        assert_close(asked, torch.from_numpy(one.grid(5, closed=closed)))


def test_a_grid_can_be_asked_for_in_slices():
    search, whole = grid_search([0.0, 2.0], [1.0, 4.0], 3, batch=4), grid_search([0.0, 2.0], [1.0, 4.0], 3).ask()
    parts = []
    while not search.done:
        parts.append(search.ask())
        search.tell(bowl((0.4, 2.8))(parts[-1]))
    assert [len(part) for part in parts] == [4, 4, 1]
    assert torch.equal(torch.cat(parts), whole)
    assert search.evaluations == 9
    assert search.best.tolist() == pytest.approx([1 / 3, 2 + 2 / 3])


@pytest.mark.parametrize("make", [cma_search, random_search])
def test_points_stay_in_the_box_and_come_from_the_seed_alone(make):
    low, high = [1.0, -2.0], [31.0, 11.0]
    np.random.seed(0)  # noqa: NPY002 - the global generator must not matter
    global_state = np.random.get_state()[1].copy()  # noqa: NPY002
    first, second, other = (make(low, high, seed=seed) for seed in (3, 3, 4))
    for search in (first, second, other):
        while not search.done:
            points = search.ask()
            assert points.shape == (100, 2)
            assert bool(((points >= torch.tensor(low)) & (points <= torch.tensor(high))).all())
            assert len(points.unique(dim=0)) > 50
            search.tell(points.sum(-1))
    assert torch.equal(first.best, second.best)
    assert not torch.equal(first.best, other.best)
    assert (global_state == np.random.get_state()[1]).all()  # noqa: NPY002


def test_in_one_dimension_cma_es_is_random_search():
    one, other = cma_search([2.0], [4.0], seed=1), random_search([2.0], [4.0], seed=1)
    assert torch.equal(one.ask(), other.ask())
    point, value = minimise(lambda x: (x[:, 0] - 3.3).square(), one)
    assert float(point) == pytest.approx(3.3, abs=0.02)
    assert value < 4e-4


def test_the_best_sample_ever_seen_counts_and_of_equal_ones_the_first():
    search = random_search([0.0], [1.0], seed=0, population=3, generations=3)
    asked = []
    for values in ([5.0, 2.0, 2.0], [2.0, 9.0, 9.0], [math.inf, 3.0, 4.0]):
        asked.append(search.ask())
        search.tell(torch.tensor(values))
    assert search.done
    assert (search.best.tolist(), search.least) == (asked[0][1].tolist(), 2.0)


# --- state ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "make",
    [
        lambda seed=0: grid_search([0.0, 1.0], [1.0, 3.0], 4, batch=5),
        lambda seed=0: random_search([0.0, 1.0], [1.0, 3.0], seed=seed, population=5),
        lambda seed=0: cma_search([0.0, 1.0], [1.0, 3.0], seed=seed, population=8),
        lambda seed=0: cma_search([0.0], [1.0], seed=seed, population=8),
    ],
)
@pytest.mark.parametrize("batches", [0, 1, 3])
def test_a_search_goes_on_where_it_was_saved_bit_for_bit(make, batches, tmp_path):
    straight, parts = make(), make()
    for _ in range(batches):
        parts.tell(two_basins(parts.ask()))
    save(tmp_path / "search.pt", {"search": parts.state_dict()})
    resumed = make()
    resumed.tell(two_basins(resumed.ask()))  # what it had before is forgotten
    resumed.load_state_dict(load(tmp_path / "search.pt")["search"])
    assert resumed.evaluations == parts.evaluations
    if batches:
        assert (resumed.best.tolist(), resumed.least) == (parts.best.tolist(), parts.least)
    for _ in range(batches):
        straight.tell(two_basins(straight.ask()))
    while not straight.done:
        assert torch.equal(resumed.ask(), straight.ask())
        for search in (straight, resumed):
            search.tell(two_basins(search.ask()))
    assert resumed.done
    assert torch.equal(resumed.best, straight.best)


def test_another_search_does_not_take_the_state():
    search = cma_search([0.0, 0.0], [1.0, 1.0], seed=0, population=8)
    search.tell(two_basins(search.ask()))
    with pytest.raises(ValueError, match="other bounds, seed, settings or version"):
        cma_search([0.0, 0.0], [1.0, 1.0], seed=1, population=8).load_state_dict(search.state_dict())
    ended = random_search([0.0, 0.0], [1.0, 1.0], seed=0, population=8, generations=1)
    longer = random_search([0.0, 0.0], [1.0, 1.0], seed=0, population=8, generations=2)
    minimise(two_basins, longer)
    with pytest.raises(ValueError, match="other bounds, seed, settings or version"):
        ended.load_state_dict(longer.state_dict())


def test_a_saved_search_is_not_changed_by_the_one_that_goes_on():
    search = grid_search([0.0], [1.0], 4, batch=1)
    search.tell(torch.zeros(1))
    state = search.state_dict()
    search.tell(torch.ones(1))
    assert len(state["evaluated"]) == 1


# --- bad input --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("low", "high", "message"),
    [
        ([0.0], [1.0, 2.0], "as many low as high"),
        ([], [], "as many low as high"),
        ([0.0, 3.0], [1.0, 2.0], "finite low < high"),
        ([0.0], [math.inf], "finite low < high"),
    ],
)
def test_a_box_that_is_none_is_refused(low, high, message):
    with pytest.raises(ValueError, match=message):
        grid_search(low, high)


def test_values_that_do_not_fit_are_refused():
    search = grid_search([0.0], [1.0], 2)
    for values in (torch.zeros(3), torch.tensor([0.0, math.nan])):
        with pytest.raises(ValueError, match="2 points need one number each"):
            search.tell(values)
    search.tell(torch.zeros(2))
    for after in (search.ask, lambda: search.tell(torch.zeros(2))):
        with pytest.raises(ValueError, match="ended after 2 points"):
            after()


def test_budgets_out_of_range_are_refused():
    with pytest.raises(ValueError, match="at least 2 values"):
        grid_search([0.0], [1.0], 1)
    for make in (cma_search, random_search):
        with pytest.raises(ValueError, match="population of 2 and a generation"):
            make([0.0], [1.0], seed=0, population=1)
        with pytest.raises(ValueError, match="population of 2 and a generation"):
            make([0.0], [1.0], seed=0, generations=0)


def test_equally_bad_points_are_counted_once_each_and_only_those_of_the_least_value():
    search = grid_search(*unit(2), n=3, closed=True, batch=2)
    with pytest.raises(ValueError, match="the search has no values yet"):
        _ = search.found
    values = iter([4.0, 2.0, 2.0, 3.0, 1.0, 1.0, 5.0, 1.0, 1.0])
    while not search.done:
        points = search.ask()
        search.tell(torch.tensor([next(values) for _ in points]))
    assert search.found.ties == 4
    assert (search.found.value, search.found.point.tolist()) == (1.0, [0.5, 0.5])
    assert search.found.mean == pytest.approx(20 / 9)  # of all points, though the batches have two, the last one
    one = random_search(*unit(1), seed=0, population=2, generations=1)
    one.tell(torch.zeros(2))
    assert one.found.ties == 2
    same = cma_search(*unit(2), seed=0, population=4, generations=2)
    same._evaluated = [(torch.zeros(3, 2), torch.zeros(3))]  # CMA-ES may propose a corner of the box twice
    same.best, same.least = torch.zeros(2), 0.0
    assert same.found.ties == 1


@pytest.mark.parametrize(
    ("around", "ends"),
    [({}, (2.0, 12.0)), ({"start": [7.0], "sigma": 0.2}, (5.0, 9.0)), ({"start": [11.5], "sigma": 0.1}, (10.5, 12.0))],
)
def test_in_one_dimension_the_points_fill_the_interval_around_the_start(around, ends):
    """Of a box from 2 to 12: all of it by default, else so many tenths on both sides, as far as the box goes."""
    search, asked = cma_search([2.0], [12.0], seed=0, population=2_000, generations=2, **around), []
    while not search.done:
        asked.append(search.ask()[:, 0])
        search.tell(asked[-1])
    for points in asked:
        assert ends[0] <= points.min() < ends[0] + 0.1
        assert ends[1] - 0.1 < points.max() <= ends[1]
    assert not torch.equal(*asked)
