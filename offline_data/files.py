"""Writing files so that a half-written one never stands in a good one's place."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def refuse_existing(path: Path, force: bool) -> None:
    """Raise `FileExistsError` when something is at `path` and it was not allowed to go."""
    if path.exists() and not force:
        raise FileExistsError(f"{path} exists already; choose another name or pass --force to replace it")


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Yield a temporary name next to `path`; on success it is flushed to disk and renamed, on failure removed."""
    part = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield part
            sync(part)
            os.replace(part, path)
        finally:
            part.unlink(missing_ok=True)
    except OSError as error:
        raise OSError(f"{path}: cannot be written ({error.strerror or error}); nothing was changed") from error


def require_space(folder: Path, needed: int) -> None:
    """Raise `OSError` (ENOSPC) when fewer than `needed` bytes are free on the disk of `folder`."""
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise OSError(errno.ENOSPC, f"{needed} bytes needed, {free} free", str(folder))


def sync(path: Path) -> None:
    """Flush a closed file to disk."""
    with open(path, "rb") as file:
        os.fsync(file.fileno())
