"""Classification data as features and labels: scikit-learn's packaged sets, and files; never by running code."""

from __future__ import annotations

import csv
import gzip
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

PACKAGED = {"digits": 16.0, "wine": None, "breast-cancer": None, "iris": None}  # what pixels are divided by, if any
MISSING = -1.0  # what stands for a number that is not there
EMPTY = ("?", "")  # cells without one


class Classes(NamedTuple):
    """Features (n, d), each row of length 1, and labels (n,) from 0 to K − 1; what the data call them."""

    features: np.ndarray
    labels: np.ndarray
    names: tuple[str, ...]


def load_classes(data: str, labels: str | None = None, label_column: int = -1) -> Classes:
    """Return a packaged set by name, or a file: .npz with x and y, .csv, or images and labels in IDX format (MNIST's).

    Raises `ValueError` or `FileNotFoundError`, in one line, for what is none of these or has fewer than two classes.
    """
    if data in PACKAGED:
        return _packaged(data)
    path = Path(data)
    if not path.is_file():
        known = ", ".join(PACKAGED)
        raise FileNotFoundError(f"{data}: no such data set; give one of {known}, or a .npz, .csv or IDX file")
    try:
        if path.suffix == ".npz":
            return _from_npz(path)
        return _from_csv(path, label_column) if path.suffix in (".csv", ".data") else _from_idx(path, labels)
    except (OSError, KeyError, EOFError, UnicodeDecodeError) as error:
        raise ValueError(
            f"{path}: not readable as classification data ({error}); see docs/methods/neural_bandits.md"
        ) from error


def _packaged(name: str) -> Classes:
    try:
        from sklearn import datasets
    except ImportError as error:
        raise ImportError(f"the data set {name} is scikit-learn's: pip install surefoot[sklearn]") from error
    bunch: Any = getattr(datasets, f"load_{name.replace('-', '_')}")()
    scale = PACKAGED[name]
    features = bunch.data / scale if scale else by_column(bunch.data)
    return make_classes(features, bunch.target, name)


def by_column(table: np.ndarray) -> np.ndarray:
    """Return columns scaled to [0, 1] each; a missing number (NaN) is −1, a constant column 0. What is infinite stays.

    `make_classes` refuses that, and says in which row it is.
    """
    infinite = np.isinf(table)
    finite = np.where(infinite, np.nan, table)
    low, high = np.fmin.reduce(finite), np.fmax.reduce(finite)  # pass over NaN
    scaled = (finite - low) / np.where(high > low, high - low, 1.0)
    return np.where(infinite, table, np.where(np.isnan(scaled), MISSING, scaled))


def make_classes(features: np.ndarray, labels: np.ndarray, where: str) -> Classes:
    """Return rows of length 1 and labels counted from 0; `ValueError` where they do not fit."""
    x, y = np.asarray(features, dtype=np.float64), np.asarray(labels)
    if x.ndim != 2 or y.ndim != 1 or len(x) != len(y) or not len(x):
        raise ValueError(f"{where}: features {x.shape} and labels {y.shape}; needed are (n, d) and (n,), n at least 1")
    if not np.isfinite(x).all():
        raise ValueError(f"{where}: row {np.argwhere(~np.isfinite(x))[0][0]} has a feature that is not finite")
    names, index = np.unique(y, return_inverse=True)
    if len(names) < 2:
        raise ValueError(f"{where}: {len(names)} class; a bandit needs at least two")
    length = np.linalg.norm(x, axis=1, keepdims=True)
    return Classes((x / np.where(length > 0, length, 1.0)).astype(np.float32), index, tuple(map(str, names)))


def _from_npz(path: Path) -> Classes:
    with np.load(path, allow_pickle=False) as arrays:
        x, y = arrays["x"], arrays["y"]
    return make_classes(by_column(x.reshape(len(x), -1).astype(np.float64)), y, str(path))


def _from_csv(path: Path, label_column: int) -> Classes:
    """Read rows of numbers or words; a column with a word in it becomes one column per word. "?" and "" are missing."""
    with path.open(newline="", encoding="utf-8") as file:
        rows = [[cell.strip() for cell in row] for row in csv.reader(file) if row]
    rows = rows[1:] if _has_header(rows, label_column) else rows
    widths = {len(row) for row in rows}
    if len(widths) != 1 or not -min(widths) <= label_column < min(widths):
        raise ValueError(
            f"{path}: rows of {sorted(widths) or 'no'} cells, label column {label_column}; needed is a table"
        )
    columns = [list(column) for column in zip(*rows, strict=True)]
    labels = columns.pop(label_column)
    return make_classes(np.concatenate([_column(column) for column in columns], 1), np.array(labels), str(path))


def _has_header(rows: list[list[str]], label_column: int) -> bool:
    """Return whether the first row names columns: no number in it, though others have some, and no row of data itself.

    It may be that where numbers are missing, so a word has to stand above numbers, or in place of a label that no other
    row has.
    """
    numeric = [any(_number(cell) is not None for cell in row) for row in rows]
    if not any(numeric) or numeric[0]:
        return False
    columns = list(zip(*rows, strict=False))
    above_numbers = any(_is_word(first) and not any(map(_is_word, rest)) for first, *rest in columns)
    fits = -len(columns) <= label_column < len(columns)
    return above_numbers or not fits or columns[label_column][0] not in columns[label_column][1:]


def _is_word(cell: str) -> bool:
    return cell not in EMPTY and _number(cell) is None


def _column(cells: list[str]) -> np.ndarray:
    """Return numbers (n, 1) scaled to [0, 1], or words as indicators (n, words)."""
    known = [cell for cell in cells if cell not in EMPTY]
    if not any(map(_is_word, known)):
        numbers = [np.nan if cell in EMPTY else float(cell) for cell in cells]
        return by_column(np.array(numbers)[:, None]) if known else np.full((len(cells), 1), MISSING)
    words = sorted(set(known))
    shown = np.array([[float(cell == word) for word in words] for cell in cells])
    return np.where(np.array([cell in EMPTY for cell in cells])[:, None], MISSING, shown)


def _number(cell: str) -> float | None:
    try:
        return float(cell)
    except ValueError:
        return None


def _from_idx(images: Path, labels: str | None) -> Classes:
    """Read images and labels in the format of MNIST's files, compressed or not; pixels are divided by 255."""
    if labels is None or not Path(labels).is_file():
        raise ValueError(f"{images}: images in IDX format need --env.kwargs labels FILE, got {labels}")
    x = _read_idx(images)
    return make_classes(x.reshape(len(x), -1) / 255.0, _read_idx(Path(labels)), str(images))


def _read_idx(path: Path) -> np.ndarray:
    raw = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    if len(raw) < 4 or raw[:3] != b"\x00\x00\x08":
        raise ValueError(f"{path}: not an IDX file of bytes (MNIST's format), nor .npz or .csv")
    shape = np.frombuffer(raw, ">u4", raw[3], 4)
    if len(raw) != 4 + 4 * raw[3] + int(shape.prod()):
        raise ValueError(
            f"{path}: {len(raw)} bytes for an IDX file of shape {shape.tolist()}; it is cut off or damaged"
        )
    return np.frombuffer(raw, np.uint8, offset=4 + 4 * raw[3]).reshape(shape)
