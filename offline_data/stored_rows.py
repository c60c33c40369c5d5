"""Rows of an array in memory or in a file, read a part at a time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

PART = 2**13  # rows of a part, which the cache of a CPU holds


@dataclass(frozen=True)
class StoredRows:
    """The rows of `values` (N, ·), an array or HDF5 data set, that `keep` (N,) names, each `shift` rows further on."""

    values: Any
    keep: np.ndarray | None = None  # bool; None: all of them
    shift: int = 0

    def __len__(self) -> int:
        return self.values.shape[0] if self.keep is None else int(self.keep.sum())

    def chunk(self) -> int:
        """Return how many rows are compressed together; 1 where none are."""
        chunks = getattr(self.values, "chunks", None)
        return int(chunks[0]) if chunks else 1

    def parts(self, step: int = PART) -> Iterator[np.ndarray]:
        """Yield all rows in their order, those of `step` stored rows at a time; `ValueError` for a damaged file."""
        for start in range(0, self.values.shape[0], step):
            part = self._read(start + self.shift, start + self.shift + step)
            yield part if self.keep is None else part[self.keep[start : start + len(part)]]

    def _read(self, start: int, stop: int) -> np.ndarray:
        try:
            part: np.ndarray = self.values[start:stop]
            return part
        except OSError as error:
            raise ValueError(
                f"{self.values.file.filename}: '{self.values.name.lstrip('/')}' cannot be read ({error}); the file is "
                "damaged, download it again"
            ) from error


def fill(columns: Mapping[str, np.ndarray], rows: Mapping[str, StoredRows], source: str) -> None:
    """Write named rows into the float32 arrays (N, D) of the same names, all fields of some rows before the next rows.

    Raises `ValueError` where one holds NaN or infinity, or is too large for float32.
    """
    chunk = max(stored.chunk() for stored in rows.values())
    step = chunk * -(-PART // chunk)  # so that what is compressed together is unpacked once
    faults = {name: Faults() for name in rows}
    done = 0
    with np.errstate(over="ignore"):  # a float64 beyond float32 becomes inf and is reported below
        for parts in zip(*(stored.parts(step) for stored in rows.values()), strict=True):
            for (name, fault), part in zip(faults.items(), parts, strict=True):
                place = columns[name][done : done + len(part)]
                place[...] = part.reshape(place.shape)  # not (·, -1), of which there is none without rows
                finite = np.isfinite(part if part.dtype == np.float32 else place)
                if not finite.all():
                    fault.note(~finite, done)
            done += len(parts[0])
    for name, fault in faults.items():
        if fault.count:
            message = f"{name} holds {fault.count} NaN or infinite values, the first in row {fault.first}"
            raise ValueError(f"{source}: {message}")


@dataclass
class Faults:
    """How many values of a field are not finite, and the row of the first."""

    count: int = 0
    first: int = 0

    def note(self, wrong: np.ndarray, before: int) -> None:
        """Count those of a part, before which there are so many rows."""
        self.first = self.first if self.count else before + int(np.argwhere(wrong)[0][0])
        self.count += int(wrong.sum())
