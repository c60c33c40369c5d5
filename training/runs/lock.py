"""One owner per folder: whoever trains into a run or a sweep holds the lock of its folder while it does.

The lock is the kernel's (`flock` of the file `lock`), so that it ends with the process that holds it, however that
ends, and with what that has forked, such as environment workers. The file names the holder, for people, and stays: it
is also the mark by which a folder is known as ours before anything else is in it.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import socket
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from tqdm import tqdm

from surefoot.evaluation.storage import explained
from surefoot.offline_data.files import NO_LOCKS, is_leftover, runs

NAME = "lock"
MARK = "surefoot"  # the key by which the file is known as ours; its value says whether someone holds it
FOR_THE_DEAD = 30.0  # seconds for what a killed process has started to end
FOR_THE_LIVING = 60.0  # seconds for the run of a killed driver to save and end
LOOK_EVERY = 0.1


class Lock:
    """The lock of a folder, held until `release` or the end of the process and of those that inherit its descriptor."""

    def __init__(self, folder: Path, descriptor: int) -> None:
        self.folder = folder
        self._file = os.fdopen(descriptor, "r+b", buffering=0)  # closed at the latest when no one refers to it

    @property
    def descriptor(self) -> int:
        """What a process that is to hold it, too, inherits."""
        return self._file.fileno()

    def release(self) -> None:
        """Let go of the folder; does nothing the second time."""
        if not self._file.closed:
            _write(self.descriptor, {MARK: "free"})
            with suppress(OSError):
                fcntl.flock(self.descriptor, fcntl.LOCK_UN)
            self._file.close()


def take(folder: Path, *, waits: bool = False) -> Lock:
    """Return the lock of a folder that is there; what a dead process held is taken over.

    With `waits`, one that holds it is given a minute to save and end: the run of a driver that was killed does.

    Raises:
        BlockingIOError: another process holds it; the text says which.
        OSError: the folder cannot be written.
    """
    began, told = time.monotonic(), False
    while (lock := _try(folder)) is None:
        holder, waited = _holder(folder / NAME), time.monotonic() - began
        if waited > (FOR_THE_LIVING if waits else FOR_THE_DEAD if _is_dead(holder) else 0):
            raise BlockingIOError(f"{folder}: in use by {_in_words(holder)}; wait until it ends, or stop it")
        if not told and waited > 1:
            tqdm.write(f"note: waiting for {_in_words(holder)} to let go of {folder}")
            told = True
        time.sleep(LOOK_EVERY)
    return lock


def make(folder: Path, what: str, require_free: Callable[[Path], None]) -> Lock:
    """Make a folder and return its lock; one that a killed process has begun is taken over, in a line.

    Raises:
        FileExistsError: by `require_free`, where something else is there.
        BlockingIOError: another process makes it.
        OSError: it cannot be made.
    """
    require_free(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OSError(f"{folder}: cannot make {what} ({error.strerror}); choose another --out") from error
    left = (folder / NAME).exists()
    lock = take(folder)
    try:
        require_free(folder)  # made by another process since?
    except BaseException:
        lock.release()
        raise
    if left:
        tqdm.write(f"note: {folder}: begun by a process that was killed before it had made all of it; taken over")
    return lock


def _try(folder: Path) -> Lock | None:
    """Return the lock; None where another process holds it, or has just deleted it with its folder."""
    path = folder / NAME
    with explained(path):
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in NO_LOCKS:
            os.close(descriptor)
            if isinstance(error, BlockingIOError):
                return None
            raise OSError(f"{path}: cannot be locked ({error.strerror})") from error
        tqdm.write(f"note: the file system of {folder} has no locks; start no second process on it")
    lock, inode = Lock(folder, descriptor), os.fstat(descriptor).st_ino
    if not path.exists() or path.stat().st_ino != inode:
        return None
    _note_another_host(_holder(path), folder, inode)
    _write(descriptor, {MARK: "in use", "pid": os.getpid(), "host": socket.gethostname(), "inode": inode})
    return lock


def _note_another_host(holder: dict[str, Any], folder: Path, inode: int) -> None:
    """Say where one of another machine has not let go: it was killed, or locks do not reach from there to here."""
    if holder.get("inode") == inode and holder.get("host") != socket.gethostname():  # a copied file tells nothing
        tqdm.write(
            f"note: {_in_words(holder)} has not let go of {folder}: it was killed, or this file system does not share "
            "locks between machines; make sure that it does not run any more"
        )


def _write(descriptor: int, content: dict[str, Any]) -> None:
    text = json.dumps(content).encode() + b"\n"
    with suppress(OSError):  # a full disk: the lock holds, its file says less
        os.pwrite(descriptor, text, 0)
        os.ftruncate(descriptor, len(text))


def _holder(path: Path) -> dict[str, Any]:
    """Return who holds a lock, by its file; nothing where no one does, or where the file is none of ours."""
    content = _read(path)
    return content if content.get(MARK) == "in use" else {}


def _read(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _is_dead(holder: dict[str, Any]) -> bool:
    """Whether a holder of this machine is known not to run any more; then others hold what they got from it."""
    pid = holder.get("pid")
    return holder.get("host") == socket.gethostname() and isinstance(pid, int) and not runs(pid)


def _in_words(holder: dict[str, Any]) -> str:
    if not holder:
        return "another process"
    dead = "what is left of " if _is_dead(holder) else ""
    return f"{dead}process {holder.get('pid')} on {holder.get('host')}"


# --- folders that are ours --------------------------------------------------------------------------------------------


def is_ours(folder: Path) -> bool:
    """Whether a folder was made by us, and so may be deleted: it has our mark, or nothing that could be lost.

    That is: no file with content, but for those of writes that were killed half-way.
    """
    if folder.is_symlink() or not folder.is_dir():
        return False
    if MARK in _read(folder / NAME):
        return True
    return all(_is_nothing(path) for path in folder.rglob("*"))


def is_begun(folder: Path, first: Sequence[str] = ()) -> bool:
    """Whether a folder holds our lock and no more than was written before it was whole: who made it was killed then.

    That is: empty folders, half-written files, and what matches the patterns `first`.
    """
    lock = folder / NAME
    if not (MARK in _read(lock) or (lock.is_file() and lock.stat().st_size == 0)):
        return False
    others = [path for path in folder.rglob("*") if path != lock and not is_leftover(path)]
    return all(
        not path.is_symlink() and (path.is_dir() or any(path.relative_to(folder).match(name) for name in first))
        for path in others
    )


def _is_nothing(path: Path) -> bool:
    if path.is_symlink():
        return False
    return path.is_dir() or is_leftover(path) or (path.is_file() and path.stat().st_size == 0)


def remove_own(folder: Path, *, waits: bool = False) -> None:
    """Delete a folder that we made, such as that of a run that was killed early; does nothing where there is none.

    Raises:
        FileExistsError: it was not made by us.
        BlockingIOError: a process is at work in it.
    """
    if not (folder.exists() or folder.is_symlink()):
        return
    if not is_ours(folder):
        raise FileExistsError(f"{folder}: in the way, and not made by Surefoot; move it away")
    lock = take(folder, waits=waits)
    try:
        shutil.rmtree(folder)
    finally:
        lock.release()
