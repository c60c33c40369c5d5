"""Checkpoints: written whole or not at all, and read without running code."""

from __future__ import annotations

import os
import pickle
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import torch

FORMAT = 2  # goes up when names or contents change; other formats are refused, not translated
_PLAIN = (bool, int, float, str, bytes, type(None), torch.Tensor, torch.dtype, torch.device, torch.Size)


def save(path: Path, payload: dict[str, Any]) -> None:
    """Write tensors and plain values to `path` atomically: after a crash the file is the old one or the new one.

    Raises `OSError` where the disk is full or read-only, `TypeError` for a value that `load` would have to refuse.
    """
    _require_plain(payload, "payload")
    write_atomically(path, lambda file: torch.save({"format": FORMAT, **compact(payload)}, file))


def compact(value: Any) -> Any:
    """Return nested plain values in which no tensor is a small part of a larger memory: all of that would be written.

    Such as the networks of one of several seeds, which are parts of one stack.
    """
    if isinstance(value, torch.Tensor):
        return value.clone() if value.untyped_storage().nbytes() > value.numel() * value.element_size() else value
    if isinstance(value, dict):
        return {key: compact(item) for key, item in value.items()}
    return type(value)(map(compact, value)) if type(value) in (list, tuple) else value


def load(path: Path, device: torch.device | str = "cpu") -> dict[str, Any]:
    """Return what `save` wrote, tensors on `device`. Raises `FileNotFoundError`, or `ValueError` for any other file."""
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such checkpoint")
    try:
        payload = torch.load(path, map_location=device, weights_only=True)
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"{path}: refused: not a Surefoot checkpoint, or it holds objects whose loading could run code"
        ) from error
    except (RuntimeError, EOFError, ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        raise ValueError(f"{path}: truncated, damaged or not a checkpoint; use an earlier one of the run") from error
    if not isinstance(payload, dict) or not isinstance(payload.get("format"), int):
        raise ValueError(f"{path}: not a Surefoot checkpoint")
    if payload["format"] > FORMAT:
        raise ValueError(f"{path}: format {payload['format']}, this Surefoot reads format {FORMAT}; upgrade surefoot")
    if payload["format"] < FORMAT:
        raise ValueError(
            f"{path}: format {payload['format']}, of an older Surefoot, whose settings had other names; this one reads "
            f"format {FORMAT}: use the version that wrote it, or train again"
        )
    return payload


def write_atomically(path: Path, write: Callable[[IO[bytes]], object]) -> None:
    """Call `write` with a temporary file next to `path`, force it to disk, and rename it to `path`.

    The file has the mode that the umask leaves, so that a colleague can read what others may read.
    """
    part = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    with explained(path):
        try:
            with part.open("xb") as file:  # not of `tempfile`, whose files are the user's alone
                write(file)
                file.flush()
                os.fsync(file.fileno())
            os.replace(part, path)
        except BaseException:
            part.unlink(missing_ok=True)
            raise
        _sync_folder(path.parent)


@contextmanager
def explained(path: Path) -> Iterator[None]:
    """Turn a failure to write `path` into an `OSError` of one line (and has no `errno` of its own)."""
    try:
        yield
    except (OSError, RuntimeError) as error:  # torch reports a failed write as a RuntimeError
        cause = error if isinstance(error, OSError) else error.__context__
        reason = cause.strerror if isinstance(cause, OSError) and cause.strerror else str(error).splitlines()[0]
        raise OSError(f"{path}: could not be written ({reason}); what was written before is whole") from error


def remove_leftovers(folder: Path) -> None:
    """Delete the temporary files of writes that were killed half-way."""
    for leftover in folder.glob(".*.tmp"):
        leftover.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    """Make a rename durable; without it a power cut can bring back the old directory entry."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _require_plain(value: Any, where: str) -> None:
    """Refuse at the first save what a resume would otherwise find unreadable. Exact types: subclasses need code."""
    if isinstance(value, dict):
        for key, item in value.items():
            _require_plain(key, f"key of {where}")
            _require_plain(item, f"{where}[{key!r}]")
    elif type(value) in (list, tuple):
        for i, item in enumerate(value):
            _require_plain(item, f"{where}[{i}]")
    elif type(value) not in _PLAIN and not isinstance(value, torch.Tensor):
        raise TypeError(f"{where} is a {type(value).__name__}; checkpoints hold only tensors and plain values")
