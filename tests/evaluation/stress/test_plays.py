"""Outcomes are remembered for the same points, seeds and set, and only where the nominal episodes are the same."""

import numpy as np
import pytest

from surefoot.evaluation.stress.plays import Plays, require_plays
from surefoot.evaluation.stress.statistics import Episodes


def counted(calls):
    def play(points, seeds):
        calls.append((points.tolist(), list(seeds)))
        returns = points.sum(1) / 3 + np.array(seeds)
        return Episodes(returns, returns > 2, returns > 4)

    return play


def test_what_differs_in_anything_is_played():
    plays, calls, saved = Plays(), [], []
    plays.save = lambda: saved.append(len(plays.outcomes))
    play, elsewhere = (plays.remembered(counted(calls), about) for about in ("a set", "another set"))
    points = np.array([[1.0, 0.1], [2.0, 0.2]])
    first = play(points, [3, 4])
    again = play(points.copy(), (3, 4))
    assert len(calls) == 1
    for one, other in zip(first, again, strict=True):
        assert one.dtype == other.dtype
        assert one.tolist() == other.tolist()
    assert play(points, [3, 5]).returns.tolist() != first.returns.tolist()
    play(np.nextafter(points, 9), [3, 4])
    elsewhere(points, [3, 4])
    assert len(calls) == 4
    assert saved == [1, 2, 3, 4]


def test_other_nominal_episodes_make_all_forgotten():
    calls, nominal = [], Episodes(np.array([0.1 + 0.2, 1.0]), np.zeros(2, bool), np.zeros(2, bool))
    plays = Plays()
    assert plays.trust_if([nominal])
    plays.remembered(counted(calls), "")(np.ones((1, 1)), [0])
    assert plays.trust_if([nominal])
    assert len(plays.outcomes) == 2
    assert not plays.trust_if([nominal._replace(returns=np.array([0.3, 1.0]))])  # the last bit of a sum
    assert list(plays.outcomes) == ["nominal"]


def test_outcomes_without_nominal_episodes_are_not_trusted():
    plays = Plays({"key": [[1.0], [False], [False]]})
    assert not plays.trust_if([])
    assert "key" not in plays.outcomes


@pytest.mark.parametrize("columns", [[[1.0], [True, False], [False]], [[1.0], [True]], [["a"], [True], [True]], [3]])
def test_columns_that_are_no_outcomes_are_refused(columns):
    with pytest.raises((ValueError, TypeError)):
        require_plays({"a": {"key": columns}})
