"""Waiting for what another process writes."""

import time
from contextlib import suppress


def wait_until(condition):
    """Wait for a condition on files of the other process, which may not be there yet."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        with suppress(FileNotFoundError):
            if condition():
                return
        time.sleep(0.01)
    raise TimeoutError("the other process did not come so far in a minute")
