"""Settings of the process that make the training loop quicker."""

from __future__ import annotations

import ctypes
import gc
from collections.abc import Iterator
from contextlib import contextmanager

import torch

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # glibc's malloc.h


_left_out_for_good = False


def leave_out_for_good() -> None:
    """Leave what exists now out of garbage collections until the process ends."""
    global _left_out_for_good
    gc.collect()
    gc.freeze()
    _left_out_for_good = True


@contextmanager
def quick_process() -> Iterator[None]:
    """Flush denormals, keep freed memory, and leave what exists now out of garbage collections.

    - Denormals (weights of dead units decay into them) take the slow path of every instruction that meets them.
    - PyTorch gives every freed CPU tensor back to malloc, which by default gives pages back to the system: an update
      of 256-unit networks then takes hundreds of page faults.
    - Imports leave half a million objects, and an update makes enough new ones for Python to walk through them often.
      Where they are left out for good, as by a sweep's server and the tests, they stay so.
    """
    torch.set_flush_denormal(True)
    keep_freed_memory()
    for_good = _left_out_for_good  # counting what is left out would go through all of it
    if not for_good:
        gc.collect()
        gc.freeze()
    try:
        yield
    finally:
        if not for_good:
            gc.unfreeze()


def keep_freed_memory() -> None:
    """Tell glibc to keep what is freed, up to half a gigabyte; elsewhere do nothing, it is only about speed."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_MMAP_THRESHOLD, 32 * 2**20)
        mallopt(M_TRIM_THRESHOLD, 512 * 2**20)
