"""What a killed process leaves of a write."""

import multiprocessing
import os
import signal
from multiprocessing.connection import Connection
from pathlib import Path

from surefoot.offline_data.files import temporary

FORK = multiprocessing.get_context("fork")  # a process that imports anew takes seconds


def leave_half_a_file(path: Path, kind: str = "file") -> Path:
    """Return the temporary file, or folder, that a process had begun for `path` when it was killed."""
    ours, theirs = FORK.Pipe(duplex=False)
    process = FORK.Process(target=_begin_and_be_killed, args=(path, kind, theirs))
    process.start()
    part: Path = ours.recv()
    process.join()
    return part


def _begin_and_be_killed(path: Path, kind: str, name: Connection) -> None:
    part = temporary(path)
    part.mkdir() if kind == "folder" else part.write_bytes(b"half")
    name.send(part)
    os.kill(os.getpid(), signal.SIGKILL)
