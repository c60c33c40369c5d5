"""HDF5 files from anybody: one file, all of whose numbers are in it.

HDF5 can name other files (external links, external raw storage, virtual data sets) and claim any size for what it does
not hold. Both are refused before a number is read: a conversion would copy bytes of another file, and 2 kB could ask
for 5 GB.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import h5py  # at run time where a file is opened: commands that read none must start quickly

MOST_TIMES = 100  # that all data sets together may be larger than their file; recordings shrink 1 to 8 times
FREE = 64 * 2**20  # bytes that they may have in any case: a small file of zeros shrinks a thousand times
MOST_OBJECTS = 2_000_000
KNOWN_FILTERS = {1, 2, 3, 4, 5, 6, 32000}  # of HDF5 itself, and lzf; others are programs that HDF5 would look for


def require_own_numbers(file: h5py.File, path: str | Path) -> None:
    """Raise `ValueError` where a file refers to another, or claims more than it can hold."""
    most = max(FREE, MOST_TIMES * Path(path).stat().st_size)
    claimed = 0
    try:
        for item in _datasets(file, path):
            _require_own_storage(item, path)
            claimed += _largest(item)
            if claimed > most:
                raise ValueError(
                    f"{path}: damaged, or made to fill the memory: its data sets claim more than {most:,} bytes, "
                    f"{MOST_TIMES} times its size"
                )
    except (OSError, RuntimeError, KeyError, TypeError) as error:  # what h5py raises at a damaged place
        raise ValueError(f"{path}: damaged HDF5 ({' '.join(str(error).split())[:200]}); download it again") from error


def _datasets(file: h5py.File, path: str | Path) -> Iterator[h5py.Dataset]:
    """Yield every data set once; `ValueError` for a link that leaves the file."""
    import h5py

    waiting: list[Any] = [file]
    seen = {h5py.h5o.get_info(file.id).addr}
    while waiting:
        group = waiting.pop()
        for name in group:
            if not isinstance(group.get(name, getlink=True), h5py.HardLink):
                raise ValueError(f"{path}: refused: {name!r} is a link, and may lead to another file")
            item = group[name]
            place = h5py.h5o.get_info(item.id).addr
            if place in seen:
                continue
            seen.add(place)
            if len(seen) > MOST_OBJECTS:
                raise ValueError(f"{path}: more than {MOST_OBJECTS:,} objects in it")
            if isinstance(item, h5py.Group):
                waiting.append(item)
            elif isinstance(item, h5py.Dataset):
                yield item


def _require_own_storage(item: h5py.Dataset, path: str | Path) -> None:
    created = item.id.get_create_plist()
    if item.is_virtual or created.get_external_count():
        kind = "a virtual data set" if item.is_virtual else "external storage"
        raise ValueError(f"{path}: refused: {item.name.lstrip('/')!r} is {kind}: its numbers are in another file")
    filters = {created.get_filter(i)[0] for i in range(created.get_nfilters())}
    if unknown := filters - KNOWN_FILTERS:
        raise ValueError(f"{path}: refused: {item.name.lstrip('/')!r} is packed by the unknown filter {min(unknown)}")


def _largest(item: h5py.Dataset) -> int:
    """Return the bytes that reading a data set takes, or one of its chunks where that is more."""
    size: int = item.dtype.itemsize
    return max(math.prod(item.shape or ()), math.prod(item.chunks or ())) * size
