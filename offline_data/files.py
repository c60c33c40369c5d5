"""Writing files so that a half-written one never stands in a good one's place."""

from __future__ import annotations

import errno
import glob
import os
import re
import secrets
import shutil
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from zlib import crc32

OLD = 86_400.0  # seconds after which what a process of another machine has left is no write under way
NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)  # of file systems that have none
_TEMPORARY = re.compile(r"\..+\.([0-9a-f]{8})-([0-9]+)-[0-9a-f]{8}\.tmp")


def refuse_existing(path: Path, force: bool) -> None:
    """Raise `FileExistsError` when something is at `path` and it was not allowed to go."""
    if path.exists() and not force:
        raise FileExistsError(f"{path} exists already; choose another name or pass --force to replace it")


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Yield a temporary name next to `path`; on success it is flushed to disk and renamed, on failure removed."""
    part = temporary(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        remove_leftovers(path.parent, path.name)
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


# --- temporary files --------------------------------------------------------------------------------------------------


def temporary(path: Path) -> Path:
    """Return a hidden name next to `path` for what is to become it; the name tells which process writes it."""
    return path.with_name(f".{path.name}.{_here()}-{os.getpid()}-{secrets.token_hex(4)}.tmp")


@contextmanager
def temporary_folder(path: Path) -> Iterator[Path]:
    """Yield a hidden folder next to `path` in which that is made; it goes at the end, with what is left in it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    remove_leftovers(path.parent, path.name)
    made = temporary(path)
    made.mkdir()
    try:
        yield made
    finally:
        shutil.rmtree(made, ignore_errors=True)


def remove_leftovers(folder: Path, name: str | None = None) -> None:
    """Delete what killed processes have left in a folder: of writes of the file `name`, or of all files inside.

    What a process still writes stays, and for a day what one of another machine has left. A folder that may not be
    changed is left alone.
    """
    pattern = ".*.tmp" if name is None else f".{glob.escape(name)}.*.tmp"
    for path in list(folder.glob(pattern) if name else folder.rglob(pattern)):
        if is_leftover(path):
            with suppress(OSError):
                shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()


def is_leftover(path: Path) -> bool:
    """Whether a file or folder has a name by `temporary`, and its process does not run any more."""
    if (match := _TEMPORARY.fullmatch(path.name)) is None:
        return False
    if match[1] == _here():
        return not runs(int(match[2]))
    try:
        return time.time() - path.lstat().st_mtime > OLD
    except FileNotFoundError:
        return False


def runs(pid: int) -> bool:
    """Whether a process of this machine runs; one that has ended and whose parent has not asked how does not."""
    try:
        os.kill(pid, 0)
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:  # another user's
        return True
    except FileNotFoundError:  # no /proc, or ended since
        return not Path("/proc/self").exists()


def _here() -> str:
    return f"{crc32(socket.gethostname().encode()):08x}"
