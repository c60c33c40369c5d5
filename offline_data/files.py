"""Writing files so that a half-written one never stands in a good one's place."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def refuse_existing(path: Path, force: bool) -> None:
    """Raise `FileExistsError` when something is at `path` and it was not allowed to go."""
    if path.exists() and not force:
        raise FileExistsError(f"{path} exists already; choose another name or pass --force to replace it")


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Yield a temporary name beside `path`; on success it is flushed to disk and renamed, on failure removed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield part
        sync(part)
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def sync(path: Path) -> None:
    """Flush a closed file to disk."""
    with open(path, "rb") as file:
        os.fsync(file.fileno())
