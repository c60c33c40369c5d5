"""Settings of the process that make the training loop quicker."""

from __future__ import annotations

import ctypes
import gc
from collections.abc import Iterator
from contextlib import contextmanager

import torch

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # glibc's malloc.h


@contextmanager
def quick_process() -> Iterator[None]:
    """Flush denormals, keep freed memory, and leave what exists now out of garbage collections.

    - Denormals (weights of dead units decay into them) take the slow path of every instruction that meets them.
    - PyTorch gives every freed CPU tensor back to malloc, which by default gives pages back to the system: an update
      of 256-unit networks then takes hundreds of page faults.
    - Imports leave half a million objects, and an update makes enough new ones for Python to walk through them often.
      Where the caller has left them out already, as a sweep's server and the tests do, they stay so.
    """
    torch.set_flush_denormal(True)
    keep_freed_memory()
    frozen = gc.get_freeze_count() > 0
    if not frozen:
        gc.collect()
        gc.freeze()
    try:
        yield
    finally:
        if not frozen:
            gc.unfreeze()


def keep_freed_memory() -> None:
    """Tell glibc to keep what is freed, up to half a gigabyte; elsewhere do nothing, it is only about speed."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_MMAP_THRESHOLD, 32 * 2**20)
        mallopt(M_TRIM_THRESHOLD, 512 * 2**20)
