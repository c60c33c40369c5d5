"""What a run changes in the process that it is in."""

import gc

from surefoot.training.loop.process import quick_process


def test_collections_leave_out_what_is_there_before_a_run_and_after_it_only_what_the_caller_left_out():
    gc.unfreeze()  # what tests/conftest.py has left out
    with quick_process():
        assert gc.get_freeze_count() > 0
    assert gc.get_freeze_count() == 0
    gc.freeze()
    with quick_process():
        fresh = [[]]
    assert gc.get_freeze_count() > 0
    assert any(one is fresh for one in gc.get_objects())  # frozen objects are not among these
