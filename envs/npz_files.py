"""NumPy archives (.npz) from anybody: only numbers, and no more than the file can hold."""

from __future__ import annotations

import math
import zipfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np

MOST_TIMES = 1032  # that deflate can shrink; an array of zeros does
LARGEST_HEADER = 10_000  # characters of the description of an array


def read_npz(path: Path, names: Iterable[str] | None = None) -> dict[str, np.ndarray]:
    """Return the arrays of an archive by name, or those of some names.

    Raises:
        ValueError: no archive, a damaged one, one without one of the names, or with something else than plain values;
            one line, without the path.
        FileNotFoundError: no such file.
    """
    with _one_line_errors(), zipfile.ZipFile(path) as archive:
        there = _names(archive)
        wanted = list(there if names is None else names)
        if missing := [name for name in wanted if name not in there]:
            raise ValueError(f"no array {missing[0]!r} in it, but {', '.join(sorted(there)) or 'none'}")
        return {name: _read(archive, there[name]) for name in wanted}


def sizes_of(path: Path) -> dict[str, int]:
    """Return how many numbers each array of an archive holds, by its description, which is checked.

    Raises:
        As `read_npz`.
    """
    with _one_line_errors(), zipfile.ZipFile(path) as archive:
        return {name: math.prod(_checked(archive, entry)[0]) for name, entry in _names(archive).items()}


@contextmanager
def _one_line_errors() -> Iterator[None]:
    try:
        yield
    except FileNotFoundError:
        raise
    except Exception as error:  # the packings of a zip file raise what has no common base
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise ValueError(f"no NumPy archive that can be read ({reason})") from error


def _names(archive: zipfile.ZipFile) -> dict[str, str]:
    return {name.removesuffix(".npy"): name for name in archive.namelist()}


def _read(archive: zipfile.ZipFile, name: str) -> np.ndarray:
    _checked(archive, name)
    with archive.open(name) as file:
        array: np.ndarray = np.lib.format.read_array(file, allow_pickle=False, max_header_size=LARGEST_HEADER)
        return array


def _checked(archive: zipfile.ZipFile, name: str) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """Return shape and type of an array; `ValueError` where they are not what its place in the file holds."""
    info = archive.getinfo(name)
    if info.file_size > MOST_TIMES * info.compress_size + LARGEST_HEADER:
        raise ValueError(f"{name} claims {info.file_size:,} bytes in {info.compress_size:,}")
    with archive.open(name) as file:
        shape, dtype = _header(file)
        if dtype.hasobject:
            raise ValueError(f"{name} holds Python objects, whose loading could run code")
        if math.prod(shape) * dtype.itemsize != info.file_size - file.tell():
            raise ValueError(f"{name} claims {shape} of {dtype} in {info.file_size - file.tell():,} bytes")
    return shape, dtype


def _header(file: IO[bytes]) -> tuple[tuple[int, ...], np.dtype[Any]]:
    version = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = read(file, max_header_size=LARGEST_HEADER)
    return shape, dtype
