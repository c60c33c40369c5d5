"""Tabular MDPs in files: NumPy archives, dense or sparse, and CSV with a row per outcome. Reading one never runs code.

| key of a .npz file | shape | what it is |
|---|---|---|
| `P` | (S, A, S) or (H, S, A, S) | dense: probabilities of the next states |
| `R` | as `P`, or without the last axis | rewards; without the last axis, expected ones |
| `state`, `action`, `next_state`, `probability`, `reward` | (N,) each | sparse: a row per outcome, for `P` and `R` |
| `start` | (S,) | probabilities of the first state; default: state 0 |
| `terminal` | (S,) booleans | states that end an episode; what their rows say is not used |
| `gamma`, `horizon` | () | defaults of `--gamma` and `--horizon` |

A .csv file has the columns `state,action,next_state,probability,reward`; a row without state and action gives the
probability that an episode starts in `next_state`. In sparse tables a state without rows is terminal.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from surefoot.agents.parts.sparse import Rows, SparseMDP, absorb, check
from surefoot.envs.npz_files import read_npz, sizes_of
from surefoot.evaluation.storage import write_atomically

COLUMNS = ("state", "action", "next_state", "probability", "reward")
DENSE, OPTIONAL = ("P", "R"), ("start", "terminal", "gamma", "horizon")
MAX_BYTES = 4e9


class TableFile(NamedTuple):
    """A table with the discount and the horizon that its file names."""

    mdp: SparseMDP
    gamma: float | None
    horizon: int | None


def is_table(name: str) -> bool:
    """Whether a task is named by a file of a table."""
    return name.endswith((".npz", ".csv"))


def read_table(path: Path, max_bytes: float = MAX_BYTES) -> TableFile:
    """Return the table of a file, checked.

    Raises:
        ValueError: what is wrong, where, in one line; also a file that would need more than `max_bytes`.
        FileNotFoundError: no such file.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    try:
        found = _of_rows(_read_csv(path)) if path.suffix == ".csv" else _read_npz(path, max_bytes)
        check(found.mdp)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    return found


def write_table(path: Path, mdp: SparseMDP, **further: Any) -> None:
    """Write a table that is the same at every step to a .npz file, sparse, with further keys such as `gamma`."""
    (rows,) = mdp.steps
    arrays: dict[str, Any] = {
        "state": rows.pair // mdp.actions,
        "action": rows.pair % mdp.actions,
        "next_state": rows.after,
        "probability": rows.probability,
        "reward": rows.reward,
        "start": mdp.start,
        **further,
    }
    write_atomically(path, lambda file: np.savez_compressed(file, **arrays))


# --- NumPy archives ---------------------------------------------------------------------------------------------------


def _read_npz(path: Path, max_bytes: float) -> TableFile:
    sizes = sizes_of(path)
    _check_keys(set(sizes))
    if (need := 24.0 * sum(sizes.values())) > max_bytes:
        raise ValueError(f"reading it needs up to {need / 1e9:.2f} GB, more than {max_bytes / 1e9:.2f} GB")
    fields = read_npz(path)
    for name, field in fields.items():
        if field.dtype.kind not in "biuf":
            raise ValueError(f"{name} must hold numbers, not {field.dtype}")
    return _of_dense(fields) if "P" in fields else _of_rows(fields)


def _check_keys(keys: set[str]) -> None:
    dense, rows = set(DENSE) & keys, set(COLUMNS) & keys
    wanted = set(DENSE) if dense else set(COLUMNS)
    if dense and rows:
        raise ValueError(f"it has both P, R and rows ({', '.join(sorted(rows))}); give one of the two forms")
    if missing := wanted - keys:
        raise ValueError(f"it has no {', '.join(sorted(missing))}; a table needs P and R, or {', '.join(COLUMNS)}")
    if unknown := keys - wanted - set(OPTIONAL):
        raise ValueError(
            f"unknown keys {', '.join(sorted(unknown))}; known are {', '.join((*DENSE, *COLUMNS, *OPTIONAL))}"
        )


def _of_dense(fields: dict[str, np.ndarray]) -> TableFile:
    moves, pays = fields["P"].astype(float), fields["R"].astype(float)
    if moves.ndim not in (3, 4) or moves.shape[-1] != moves.shape[-3]:
        raise ValueError(f"P must be (S, A, S) or (H, S, A, S), not {moves.shape}")
    if pays.shape not in (moves.shape, moves.shape[:-1]):
        raise ValueError(f"R must be {moves.shape} or {moves.shape[:-1]}, as P is, not {pays.shape}")
    pays = np.broadcast_to(pays if pays.ndim == moves.ndim else pays[..., None], moves.shape)
    states, actions = moves.shape[-1], moves.shape[-2]
    steps = [
        _dense_rows(move.reshape(-1, states), pay.reshape(-1, states))
        for move, pay in zip(moves.reshape(-1, *moves.shape[-3:]), pays.reshape(-1, *moves.shape[-3:]), strict=True)
    ]
    mdp = SparseMDP(_start(fields, states), actions, tuple(steps))
    return _finished(mdp, fields, np.zeros(states, bool))


def _dense_rows(move: np.ndarray, pay: np.ndarray) -> Rows:
    pair, after = np.nonzero(move)  # NaN counts: `check` sees it
    return Rows(pair, after, move[pair, after], pay[pair, after])


def _of_rows(fields: dict[str, np.ndarray]) -> TableFile:
    state, action, after = (_whole(name, fields[name]) for name in COLUMNS[:3])
    probability, reward = (fields[name].astype(float) for name in COLUMNS[3:])
    if len({len(one) for one in (state, action, after, probability, reward)}) > 1 or not len(state):
        raise ValueError(f"{', '.join(COLUMNS)} must have the same length, at least 1")
    if min(state.min(), action.min(), after.min()) < 0:
        raise ValueError("state, action and next_state are counted from 0; one is negative")
    states, actions = 1 + int(max(state.max(), after.max(), len(fields.get("start", ())) - 1)), 1 + int(action.max())
    if 24.0 * states * actions > MAX_BYTES:
        raise ValueError(f"its largest numbers stand for {states:,} states of {actions:,} actions: too many to solve")
    pair = state * actions + action
    order = np.lexsort((after, pair))
    kept = order[probability[order] != 0]
    rows = Rows(*(one[kept] for one in (pair, after, probability, reward)))
    empty = np.bincount(rows.pair, minlength=states * actions).reshape(states, actions) == 0
    if (partly := empty.any(1) & ~empty.all(1)).any():
        place = int(partly.argmax())
        raise ValueError(f"state {place} has no outcome for action {int(empty[place].argmax())}; give all {actions}")
    return _finished(SparseMDP(_start(fields, states), actions, (rows,)), fields, empty.all(1))


def _whole(name: str, numbers: np.ndarray) -> np.ndarray:
    whole = numbers.astype(np.int64)
    if not np.array_equal(whole, numbers):
        raise ValueError(f"{name} must be whole numbers, one is {numbers[whole != numbers][0]}")
    return whole


def _start(fields: dict[str, np.ndarray], states: int) -> np.ndarray:
    start = np.eye(1, states)[0] if "start" not in fields else fields["start"].astype(float)
    if start.shape != (states,):
        raise ValueError(f"start must have one probability for each of {states} states, not the shape {start.shape}")
    return start


def _finished(mdp: SparseMDP, fields: dict[str, np.ndarray], terminal: np.ndarray) -> TableFile:
    """Return the table with its terminal states ended."""
    named = fields.get("terminal", np.zeros(mdp.states, bool))
    if named.shape != (mdp.states,) or named.dtype != np.bool_:
        raise ValueError(f"terminal must be {mdp.states} booleans, one a state, not {named.dtype} {named.shape}")
    terminal = terminal | named
    if (starts := (mdp.start > 0) & terminal).any():
        raise ValueError(f"state {int(starts.argmax())} is terminal, but an episode can start in it")
    horizon = fields.get("horizon")
    steps = len(mdp.steps) if len(mdp.steps) > 1 else None
    limit = steps if horizon is None else int(_whole("horizon", horizon.reshape(1))[0])
    return TableFile(absorb(mdp, terminal), float(fields["gamma"]) if "gamma" in fields else None, limit)


# --- CSV --------------------------------------------------------------------------------------------------------------


def _read_csv(path: Path) -> dict[str, np.ndarray]:
    with path.open(newline="", encoding="utf-8") as file:
        try:
            rows = list(_csv_rows(csv.reader(file)))
        except (csv.Error, UnicodeDecodeError) as error:
            raise ValueError(f"no CSV file ({error})") from error
    starts = [(int(row[2]), row[3]) for row in rows if math.isnan(row[0])]
    table = np.array([row for row in rows if not math.isnan(row[0])], dtype=float).reshape(-1, len(COLUMNS))
    fields = dict(zip(COLUMNS, table.T, strict=True))
    if starts:
        states = 1 + int(max(table[:, [0, 2]].max(initial=0), *(state for state, _ in starts)))
        chances = np.array([chance for _, chance in starts])
        fields["start"] = np.bincount(np.array([state for state, _ in starts]), chances, states)
    return fields


def _csv_rows(lines: Iterator[list[str]]) -> Iterator[list[float]]:
    header = [name.strip() for name in next(lines, [])]
    if header != list(COLUMNS):
        raise ValueError(f"its first line must be {','.join(COLUMNS)}")
    for number, line in enumerate(lines, 2):
        words = [word.strip() for word in line]
        if not any(words):
            continue
        start = len(words) == len(COLUMNS) and not words[0] and not words[1]
        try:
            row = [float(word) for word in (["nan", "nan", words[2], words[3], "0"] if start else words)]
        except ValueError:
            raise ValueError(f"line {number}: {','.join(line)!r} must be numbers") from None
        if len(row) != len(COLUMNS) or not all(map(math.isfinite, row[2 if start else 0 :])):
            raise ValueError(f"line {number} needs {len(COLUMNS)} finite numbers, has {','.join(line)!r}")
        yield row
