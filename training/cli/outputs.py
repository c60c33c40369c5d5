"""Files that a command is to write, looked at before it begins its work."""

from __future__ import annotations

import os
from pathlib import Path


def require_output(path: Path | None, *suffixes: str, force: bool = True) -> None:
    """Raise unless a file can be written: its suffix is known, nothing is in the way, and its folder can be written.

    Args:
        path: the file; None: nothing is to be written.
        suffixes: one of which it must end in; none: any.
        force: whether a file that is there may be replaced.

    Raises:
        ValueError: another suffix, or a folder.
        FileExistsError: a file that is there.
        OSError: its folder cannot be made or written.
    """
    if path is None:
        return
    if suffixes and path.suffix.lower() not in suffixes:
        raise ValueError(f"{path}: the file to write ends in {' or '.join(suffixes)}")
    if path.is_dir():
        raise ValueError(f"{path}: a folder; name the file to write")
    if path.exists() and not force:
        raise FileExistsError(f"{path} exists already; choose another name or pass --force to replace it")
    folder = next(parent for parent in path.absolute().parents if parent.exists())
    if not folder.is_dir():
        raise OSError(f"{path}: {folder} is a file, not a folder; choose another place")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise OSError(f"{path}: {folder} cannot be written; choose another place")
