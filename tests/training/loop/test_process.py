"""What a run changes in the process that it is in."""

import gc

import pytest

from surefoot.training.loop import process
from surefoot.training.loop.process import leave_out_for_good, quick_process


@pytest.fixture
def nothing_left_out(monkeypatch):
    """Let collections go through everything, what tests/conftest.py has left out too, until the test's end."""
    monkeypatch.setattr(process, "_left_out_for_good", False)
    gc.unfreeze()
    yield
    gc.freeze()


def test_collections_leave_out_what_is_there_before_a_run_and_no_longer(nothing_left_out):
    with quick_process():
        assert gc.get_freeze_count() > 0
    assert gc.get_freeze_count() == 0


def test_what_is_left_out_for_good_stays_so_and_a_run_leaves_out_no_more(nothing_left_out):
    leave_out_for_good()
    with quick_process():
        fresh = [[]]
    assert gc.get_freeze_count() > 0
    assert any(one is fresh for one in gc.get_objects())  # frozen objects are not among these
