"""Files that a command is to write, looked at before it begins its work."""

from __future__ import annotations

import json
import os
from pathlib import Path

from surefoot.configs.yaml_text import parse_yaml


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


def require_own(path: Path | None, what: str, *keys: str) -> None:
    """Raise `ValueError` where a JSON or YAML file would be replaced that holds something else, such as a `meta.json`.

    Args:
        path: the file; None, not there or empty: there is nothing to replace.
        what: it is to hold.
        keys: one of which the mapping in it has, or the first of a list of mappings, where it holds that.
    """
    if path is None or not path.is_file() or path.stat().st_size == 0:
        return
    try:
        text = path.read_text(encoding="utf-8")
        content = json.loads(text) if path.suffix.lower() == ".json" else parse_yaml(text)
    except (ValueError, RecursionError):
        content = None
    first = next(iter(content), None) if isinstance(content, list) else content
    if not (isinstance(first, dict) and first.keys() & set(keys)):
        raise ValueError(f"{path}: {what} would replace this file, which holds none; choose another name")


def require_beside(page: Path, suffix: str, start: str) -> None:
    """Raise unless the numbers of a page can be written next to it, under its name.

    Nobody has named that file: one that is there is replaced only where it holds the numbers of such a page.

    Args:
        page: the page.
        suffix: of the file with its numbers.
        start: what that begins with, without white space.

    Raises:
        ValueError: a file that begins otherwise, or a folder.
        OSError: its folder cannot be made or written.
    """
    beside = page.with_suffix(suffix)
    require_output(beside)
    if not beside.is_file():
        return
    with beside.open(encoding="utf-8", errors="replace") as file:
        found = "".join(file.read(2 * len(start)).split())
    if found and not found.startswith(start):
        raise ValueError(
            f"{beside}: the numbers of {page.name} would replace this file, which holds none; choose another --out"
        )
