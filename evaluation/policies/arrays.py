"""NumPy arrays and numbers out of the records of a pickle (`pickles.py`), never larger than the bytes it holds."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from surefoot.evaluation.pickles import Name, Record

NAMES = frozenset(
    {
        "numpy.dtype",
        "numpy.ndarray",
        "_codecs.encode",  # how protocol 2 writes bytes
        *(
            f"numpy.{core}.{name}"
            for core in ("core", "_core")
            for name in ("multiarray._reconstruct", "multiarray.scalar", "numeric._frombuffer")
        ),
    }
)
KINDS = frozenset(f"{kind}{size}" for kind, sizes in (("f", "248"), ("i", "1248"), ("u", "1248")) for size in sizes)


def number_of(value: Any) -> float:
    """Return a plain number or a NumPy scalar; `ValueError` for anything else."""
    if isinstance(value, bool | int | float):
        return float(value)
    if isinstance(value, Record) and value.name.endswith("multiarray.scalar") and len(value.args) == 2:
        return float(_from_bytes(value.args[1], _dtype(value.args[0]), ())[()])
    if isinstance(value, Record) and not (array := array_of(value)).shape:
        return float(array)
    raise ValueError(f"{_in_words(value)} in place of a number")


def array_of(value: Any) -> np.ndarray:
    """Return an array of numbers; `ValueError` for anything else, or where shape and bytes do not agree."""
    if not isinstance(value, Record):
        raise ValueError(f"{_in_words(value)} in place of an array")
    if value.name.endswith("numeric._frombuffer") and len(value.args) == 4:
        content, dtype, shape, order = value.args
        return _from_bytes(content, _dtype(dtype), shape, fortran=order == "F")
    made_of_ndarray = value.args and isinstance(value.args[0], Name) and value.args[0].text == "numpy.ndarray"
    if value.name.endswith("multiarray._reconstruct") and made_of_ndarray and _has_length(value.state, 5):
        _, shape, dtype, fortran, content = value.state
        return _from_bytes(content, _dtype(dtype), shape, fortran=fortran is True)
    raise ValueError(f"{_in_words(value)} in place of an array")


def _dtype(value: Any) -> np.dtype[Any]:
    if isinstance(value, Record) and value.name == "numpy.dtype" and value.args and value.args[0] in tuple(KINDS):
        order = value.state[1] if _has_length(value.state, 2) else "="
        if order in ("<", ">", "=", "|"):
            return np.dtype(f"{order.replace('|', '=')}{value.args[0]}")
    raise ValueError("an array of something else than numbers")


def _from_bytes(content: Any, dtype: np.dtype[Any], shape: Any, *, fortran: bool = False) -> np.ndarray:
    data = _bytes(content)
    sizes_fit = isinstance(shape, tuple) and all(type(size) is int and size >= 0 for size in shape)
    if not sizes_fit or len(shape) > 8 or math.prod(shape) * dtype.itemsize != len(data) or not data:
        raise ValueError("an array whose shape and bytes do not agree")
    return np.frombuffer(data, dtype).reshape(shape, order="F" if fortran else "C")


def _bytes(content: Any) -> bytes:
    if isinstance(content, Record) and content.name == "_codecs.encode" and len(content.args) == 2:
        text, encoding = content.args
        if isinstance(text, str) and encoding == "latin1":
            return text.encode("latin1", errors="replace")
    if isinstance(content, str):
        return content.encode("latin1", errors="replace")  # Python 2
    if not isinstance(content, bytes | bytearray):
        raise ValueError("an array without bytes")
    return bytes(content)


def _has_length(value: Any, least: int) -> bool:
    return isinstance(value, tuple) and len(value) >= least


def _in_words(value: Any) -> str:
    return f"a {value.name}" if isinstance(value, Record) else f"a {type(value).__name__}"
