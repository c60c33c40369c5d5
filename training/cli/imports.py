"""Imports that take no longer than they must."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def quick_imports() -> Iterator[None]:
    """Collect no garbage meanwhile: imports make hundreds of thousands of objects, of which almost none is garbage."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()  # modules stay: no later collection has to walk through them
        if enabled:
            gc.enable()
