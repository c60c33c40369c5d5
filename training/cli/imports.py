"""Imports that take no longer than they must."""

from __future__ import annotations

import atexit
import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def quick_imports() -> Iterator[None]:
    """Collect no garbage meanwhile: imports make hundreds of thousands of objects, of which almost none is garbage.

    Nor when Python ends, which would walk through all of them again, a quarter of a second for PyTorch's.
    """
    atexit.register(gc.freeze)
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
