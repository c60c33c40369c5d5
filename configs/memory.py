"""How much memory there is, for the estimate of what is asked for: of the machine, or of the container."""

from __future__ import annotations

import os
from pathlib import Path

CGROUP = Path("/sys/fs/cgroup")
LIMITS = ("memory.max", "memory/memory.limit_in_bytes")  # of version 2 and 1


def total_memory(root: Path = CGROUP) -> int:
    """Return the bytes that this process may have: those of the machine, or the limit of its container."""
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return min([machine, *(int(text) for name in LIMITS if (text := _read(root / name)).isdecimal())])


def require_memory(needed: float, what: str, there: int | None = None) -> None:
    """Raise `ValueError` where something needs more bytes than there are; `there` is that of another device.

    What is free is not asked: memory is taken as it is filled, and a short run fills little of a large buffer.
    """
    there = total_memory() if there is None else there
    if needed > there:
        raise ValueError(
            f"{what} needs {needed / 1e9:,.1f} GB of memory, and there are {there / 1e9:,.1f} GB; lower it"
        )


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8").strip()
    except OSError:
        return ""
