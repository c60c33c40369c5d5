"""Checkpoints: written whole or not at all, and read without running code.

A file ends in the SHA-256 of what is before it, as the comment that a zip file may have. Large tensors of a training
checkpoint lie beside it in blocks, each a file named by its SHA-256: one that has not changed since the last checkpoint
is there already. A checkpoint is written after its blocks, and they go when no checkpoint names them any more.
"""

from __future__ import annotations

import hashlib
import io
import math
import os
import pickle
import re
import zipfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor

from surefoot.agents.parts import blocks
from surefoot.evaluation.torch_files import check_claims
from surefoot.offline_data.files import remove_leftovers, temporary

FORMAT = 3  # of files; 2 had neither checksum nor blocks
READABLE = (2, 3)
BLOCKS = "blocks"  # the folder of blocks, beside the checkpoints that name them
_ZIP = b"PK\x03\x04"  # how a zip file, which a checkpoint is, begins
_CHECKSUM = b"surefoot sha256 "
_COMMENT = len(_CHECKSUM) + 64
_STORED = "stored in blocks"  # the key that marks what stands for a large tensor
_DAMAGE: tuple[type[Exception], ...] = (  # what PyTorch raises at a damaged place
    *(RuntimeError, EOFError, ValueError, KeyError, TypeError, AttributeError, IndexError, AssertionError, OSError),
    *(OverflowError, RecursionError, zipfile.BadZipFile, NotImplementedError, MemoryError),
)
OWN_NAMES = frozenset(
    {"torch.Tensor", "torch.Size", "torch.device", "torch._tensor._rebuild_from_type_v2"}
    | {"torch.serialization._get_layout", "torch._utils._rebuild_parameter"}
    | {f"torch.{name}" for name in ("float16", "bfloat16", "float32", "float64", "int8", "int16", "int32", "int64")}
    | {f"torch.{name}" for name in ("uint8", "uint16", "uint32", "uint64", "bool", "complex64", "complex128")}
)  # that a checkpoint mentions beside storages and their tensors
_PLAIN = (bool, int, float, str, bytes, type(None), torch.Tensor, torch.dtype, torch.device, torch.Size)


class DamagedError(ValueError):
    """A checkpoint is not what was written."""

    def __init__(self, what: str, advice: str) -> None:
        super().__init__(f"{what}; {advice}")
        self.what = what


def save(path: Path, payload: dict[str, Any], *, in_blocks: bool = False) -> None:
    """Write tensors and plain values to `path` atomically: after a crash the file is the old one or the new one.

    With `in_blocks`, large tensors go to the folder `blocks` beside it, as far as they are not there already; else the
    file holds all there is. Raises `OSError` where the disk is full or read-only, `TypeError` for a value that `load`
    would have to refuse.
    """
    _require_plain(payload, "payload")
    written: list[Path] = []
    try:
        with explained(path):
            stored = _put_away(payload, path.parent / BLOCKS, written) if in_blocks else payload
            content = io.BytesIO()
            torch.save({"format": FORMAT, **compact(stored)}, content)
            remove_leftovers(path.parent, path.name)
            _write(path, lambda file: _write_with_checksum(file, content.getbuffer()))
    except BaseException:
        for block in written:
            block.unlink()
        raise


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
    """Return what `save` wrote, tensors on `device`.

    Raises `FileNotFoundError`, or `ValueError` for any other file.

    `DamagedError` where it is not what was written.
    """
    payload = _read(path, device)
    loaded: dict[str, Any] = _take_out(payload, path, device)
    return loaded


def _read(path: Path, device: torch.device | str) -> dict[str, Any]:
    """Return what is in the file itself, checked; large tensors are still in their blocks."""
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such checkpoint")
    damaged = DamagedError(f"{path}: truncated, damaged or not a checkpoint", "use an earlier one of the run")
    checked = _checksum_holds(path)
    if checked is False:
        raise DamagedError(f"{path}: damaged (its checksum differs)", "use an earlier one of the run, or another copy")
    try:
        _require_held(path)
        payload = torch.load(path, map_location=device, weights_only=True)
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"{path}: refused: not a Surefoot checkpoint, or it holds objects whose loading could run code"
        ) from error
    except _DAMAGE as error:
        raise damaged from error
    if not isinstance(payload, dict) or not isinstance(payload.get("format"), int):
        raise ValueError(f"{path}: not a Surefoot checkpoint")
    _require_readable(payload["format"], path)
    if payload["format"] >= 3 and checked is None:  # the end of the file is gone
        raise damaged
    return payload


def _require_held(path: Path) -> None:
    """Raise `ValueError` where a file's entries claim more than is in it: PyTorch would take the memory, or read on.

    It stores its tensors as they are, so that an entry is as long as it is stored, and a storage as its entry.
    """
    if not zipfile.is_zipfile(path):  # its index is at the end
        with path.open("rb") as file:
            cut = file.read(len(_ZIP)) in (_ZIP, b"")
        raise EOFError if cut else pickle.UnpicklingError("another format")
    with zipfile.ZipFile(path) as archive:
        try:
            check_claims(archive, path.stat().st_size, OWN_NAMES)
        except ValueError as error:
            raise pickle.UnpicklingError(str(error)) if str(error).startswith("refused") else error from error


def _require_readable(found: int, path: Path) -> None:
    if found > FORMAT:
        raise ValueError(f"{path}: format {found}, this Surefoot reads format {FORMAT}; upgrade surefoot")
    if found not in READABLE:
        raise ValueError(
            f"{path}: format {found}, of an older Surefoot, whose settings had other names; this one reads "
            f"format {FORMAT}: use the version that wrote it, or train again"
        )


# --- the checksum of a file -------------------------------------------------------------------------------------------


def _write_with_checksum(file: IO[bytes], content: memoryview) -> None:
    """Write a zip file and, as its comment, the SHA-256 of all before it; a zip's last two bytes are that's length."""
    content[-2:] = _COMMENT.to_bytes(2, "little")
    file.write(content)
    file.write(_CHECKSUM + hashlib.sha256(content).hexdigest().encode())


def _checksum_holds(path: Path) -> bool | None:
    """Return whether a file is what its checksum says; None where it has none."""
    with path.open("rb") as file:
        content = file.read()
    body, comment = memoryview(content)[:-_COMMENT], content[-_COMMENT:]
    if not comment.startswith(_CHECKSUM):
        return None
    return comment == _CHECKSUM + hashlib.sha256(body).hexdigest().encode()


# --- blocks -----------------------------------------------------------------------------------------------------------


def remove_unused_blocks(folder: Path, checkpoints: Iterable[Path]) -> None:
    """Delete from `folder`/blocks what none of the checkpoints there names."""
    there = {path.name: path for path in (folder / BLOCKS).glob("*")}
    if not there:
        return
    try:
        used = {name for path in checkpoints for name in _names_in(_read(path, "cpu"))}
    except ValueError:
        return  # one cannot be read, so what it needs is not known
    for name in there.keys() - used:
        there[name].unlink(missing_ok=True)


def _put_away(value: Any, folder: Path, written: list[Path]) -> Any:
    """Return `value` with every large tensor replaced by the names of its blocks, which are written."""
    if isinstance(value, Tensor) and value.nbytes >= blocks.SIZE:
        names = _write_blocks(value, folder, written)
        return {_STORED: names, "shape": list(value.shape), "dtype": value.dtype}
    if isinstance(value, dict):
        return {key: _put_away(item, folder, written) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_put_away(item, folder, written) for item in value)
    return value


def _write_blocks(tensor: Tensor, folder: Path, written: list[Path]) -> list[str]:
    folder.mkdir(exist_ok=True)
    flat, names = tensor.detach().contiguous().view(-1).view(torch.uint8), blocks.names_of(tensor)
    for i, part in enumerate(flat.split(blocks.SIZE)):
        if (known := names[i]) is not None and (folder / known).is_file():
            continue
        content = part.cpu().numpy().data
        name = names[i] = hashlib.sha256(content).hexdigest()
        if not (folder / name).is_file():
            _write_block(folder / name, content)
            written.append(folder / name)
    return [str(name) for name in names]


def _write_block(path: Path, content: memoryview) -> None:
    _write(path, lambda file: file.write(content))


def _take_out(value: Any, path: Path, device: torch.device | str) -> Any:
    """Return `value` with the tensors that its blocks hold; `path` is the checkpoint that names them."""
    if _is_stored(value):
        return _read_blocks(value, path).to(device)
    if isinstance(value, dict):
        return {key: _take_out(item, path, device) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_take_out(item, path, device) for item in value)
    return value


def _read_blocks(stored: dict[str, Any], path: Path) -> Tensor:
    _require_as_large(stored, path)
    tensor = torch.empty(stored["shape"], dtype=stored["dtype"])
    flat, names, first = tensor.view(-1).view(torch.uint8).numpy().data, stored[_STORED], 0
    for name in names:
        block = path.parent / BLOCKS / name
        with block.open("rb") as file:
            length = file.readinto(flat[first : first + block.stat().st_size])
        if hashlib.sha256(flat[first : first + length]).hexdigest() != name:
            raise DamagedError(f"{block}: damaged (its checksum differs)", "use an earlier checkpoint, or another copy")
        first += length
    return tensor


def _require_as_large(stored: dict[str, Any], path: Path) -> None:
    """Raise `ValueError` unless the blocks of a tensor are files beside the checkpoint that hold as much as it says."""
    names, shape, dtype = stored[_STORED], stored["shape"], stored["dtype"]
    whole = isinstance(names, list) and isinstance(shape, list) and isinstance(dtype, torch.dtype)
    if not whole or not all(isinstance(name, str) and re.fullmatch("[0-9a-f]{64}", name) for name in names):
        raise ValueError(f"{path}: it names parts that Surefoot did not write")
    there = [path.parent / BLOCKS / name for name in names]
    if missing := next((block.name for block in there if not block.is_file()), None):
        raise DamagedError(f"{path}: its part {BLOCKS}/{missing} is missing", f"copy the whole folder {path.parent}")
    held = sum(block.stat().st_size for block in there)
    claimed = math.prod(shape) * dtype.itemsize if all(type(n) is int and n >= 0 for n in shape) else -1
    if held != claimed:
        raise DamagedError(f"{path}: its blocks hold {held} bytes, not {claimed}", "use an earlier checkpoint")


def _names_in(value: Any) -> Iterator[str]:
    if _is_stored(value):
        yield from value[_STORED]
    elif isinstance(value, dict | list | tuple):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _names_in(item)


def _is_stored(value: Any) -> bool:
    return isinstance(value, dict) and value.keys() == {_STORED, "shape", "dtype"}


# --- writing ----------------------------------------------------------------------------------------------------------


def write_atomically(path: Path, write: Callable[[IO[bytes]], object]) -> None:
    """Call `write` with a temporary file next to `path`, force it to disk, and rename it to `path`.

    The file has the mode that the umask leaves, so that a colleague can read what others may read.
    """
    with explained(path):
        remove_leftovers(path.parent, path.name)
        _write(path, write)


def _write(path: Path, write: Callable[[IO[bytes]], object]) -> None:
    part = temporary(path)
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
