"""The D4RL HDF5 layout (Gym-MuJoCo and kin): one flat array per field, episodes end to end.

Two views of the same file, `View` (layout and views: docs/derivations/h2o.md §8.5, §8.6):

- "exact" (default, what H2O needs): every row's `next_obs` is its true successor. With `next_observations` in the file
  all rows are kept. Without, the successor is the following row's observation, and every last row of an episode is
  dropped: time-outs, terminals, the end of the file. A classifier on (s, a, s') has no mask that could hide a wrong s'.
- "qlearning": D4RL's own conversion, row for row: rows 0 … N-2, successor = following observation, time-outs dropped,
  terminals kept. A terminal's `next_obs` is the next episode's first observation: only right under the Bellman mask.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch

from surefoot.offline_data.files import atomic_file, refuse_existing
from surefoot.offline_data.hdf5_files import require_own_numbers
from surefoot.offline_data.stored_rows import StoredRows
from surefoot.offline_data.transitions import Transitions, squeeze_column

if TYPE_CHECKING:
    import h5py  # at run time where a file is opened: commands that read none must start quickly

View = Literal["exact", "qlearning"]
REQUIRED = ("observations", "actions", "rewards", "terminals")
OPTIONAL = ("next_observations", "timeouts")
FLAGS = ("terminals", "timeouts")
LONGEST = 10**15  # steps of an episode


def read_d4rl(path: str | Path, *, view: View = "exact", max_episode_steps: int | None = None) -> Transitions:
    """Return the transitions of a D4RL file.

    `max_episode_steps` gives the time-outs of a file without `timeouts`, or whose `timeouts` name none. `ValueError`
    where others do not agree with it, and for a limit below 1.
    """
    with open_hdf5(path) as file:
        names = [name for name in REQUIRED + OPTIONAL if name in file]
        arrays = {name: (_read if name in FLAGS else _numbers)(file, name, path) for name in names}
        return from_d4rl_arrays(arrays, view=view, max_episode_steps=max_episode_steps, source=str(path))


def from_d4rl_arrays(
    arrays: Mapping[str, Any],
    *,
    view: View = "exact",
    max_episode_steps: int | None = None,
    source: str = "arrays",
) -> Transitions:
    """Return the transitions of arrays under D4RL's names, (N, ·) each; see the module docstring for the views.

    All but the flags may be HDF5 data sets, which are read a part at a time.
    """
    _check_keys(arrays, source)
    terminals, timeouts = _flag(arrays, "terminals", source), _timeouts(arrays, max_episode_steps, source)
    ends = terminals | timeouts
    keep: np.ndarray | None = None
    stored = view == "exact" and "next_observations" in arrays
    if not stored:
        if view == "exact" and terminals.any():
            warnings.warn(
                f"{source}: no 'next_observations', so {terminals.sum()} terminal rows have no successor and are left "
                "out; view 'qlearning' keeps them, for methods that use a successor only under the Bellman mask",
                stacklevel=2,
            )
        keep = ~ends if view == "exact" else ~timeouts
        keep[-1] = False
    next_obs = arrays["next_observations" if stored else "observations"]
    data = Transitions.from_arrays(
        obs=StoredRows(arrays["observations"], keep),
        action=StoredRows(arrays["actions"], keep),
        reward=StoredRows(arrays["rewards"], keep),
        next_obs=StoredRows(next_obs, keep, shift=0 if stored else 1),
        terminated=terminals if keep is None else terminals[keep],
        truncated=timeouts if keep is None else timeouts[keep],
        episode_end=_last_kept(ends, slice(None) if keep is None else keep),
        source=source,
    )
    if stored:
        _check_successors(data, ends, source)
    return data


def read_arrays(path: str | Path) -> dict[str, np.ndarray]:
    """Return the row arrays of a D4RL file as stored, under D4RL's names; nothing but readability is checked."""
    with open_hdf5(path) as file:
        return {name: _read(file, name, path) for name in REQUIRED + OPTIONAL if name in file}


def read_metadata(path: str | Path) -> dict[str, str]:
    """Return the text entries of the file's `metadata` group: how the data came to be."""
    import h5py

    with open_hdf5(path) as file:
        group = file.get("metadata")
        entries = group.items() if isinstance(group, h5py.Group) else ()
        scalars = {name: item[()] for name, item in entries if isinstance(item, h5py.Dataset) and item.shape == ()}
    return {name: value.decode() if isinstance(value, bytes) else str(value) for name, value in scalars.items()}


def write_d4rl(
    path: str | Path,
    transitions: Transitions,
    metadata: Mapping[str, object] | None = None,
    *,
    force: bool = False,
    successors: bool = True,
) -> None:
    """Write transitions as a D4RL file (gzip + shuffle), atomically; `metadata` values are stored as text.

    Without `successors` the file has no `next_observations`: half the size, and read back without the last row of each
    episode. The view "qlearning" does not know the successors of terminal rows: write what it returned without.

    An episode that the recording cut in the middle of the file is written as a time-out, the only way the layout has to
    end it. A cut at the very end of the file carries neither flag, as in D4RL's own files.
    """
    import h5py

    path = Path(path)
    refuse_existing(path, force)
    data = transitions.to("cpu")
    timeouts = (data.episode_end & (data.terminated == 0)).numpy().copy()
    timeouts[-1] = bool(data.truncated[-1])
    arrays = {
        "observations": data.obs.numpy(),
        "actions": data.action.numpy(),
        "rewards": data.reward.numpy(),
        "next_observations": data.next_obs.numpy(),
        "terminals": data.terminated.numpy().astype(bool),
        "timeouts": timeouts,
    }
    if not successors:
        del arrays["next_observations"]
    image = io.BytesIO()  # HDF5's library crashes when the disk fills under it; Python's own write raises
    with h5py.File(image, "w") as file:
        for name, values in arrays.items():
            file.create_dataset(name, data=values, compression="gzip", shuffle=True)
        for name, value in (metadata or {}).items():
            file[f"metadata/{name}"] = np.bytes_(str(value).encode())
    with atomic_file(path) as part:
        part.write_bytes(image.getbuffer())


def open_hdf5(path: str | Path) -> h5py.File:
    """Return the opened file; `FileNotFoundError` or `ValueError` names what else it is (HTML, truncated, not HDF5)."""
    import h5py

    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; `surefoot data list` shows the known data sets")
    with open(path, "rb") as file:
        start = file.read(512).lstrip().lower()
    if start.startswith((b"<!doctype", b"<html", b"<?xml", b"<head")):
        raise ValueError(f"{path}: this is a web page, not HDF5: the download failed; delete it and download again")
    if not h5py.is_hdf5(path):
        raise ValueError(f"{path}: not an HDF5 file ({path.stat().st_size} bytes)")
    try:
        opened = h5py.File(path, "r")
    except OSError as error:
        raise ValueError(f"{path}: truncated or damaged HDF5 ({error}); download it again") from error
    try:
        require_own_numbers(opened, path)
    except BaseException:
        opened.close()
        raise
    return opened


def _numbers(file: h5py.File, name: str, path: str | Path) -> h5py.Dataset:
    import h5py

    item = file[name]
    if not isinstance(item, h5py.Dataset) or item.dtype.kind not in "biuf":
        kind = f"dtype {item.dtype}" if isinstance(item, h5py.Dataset) else "a group"
        raise ValueError(f"{path}: '{name}' must be a plain array of numbers, found {kind}")
    return item


def _read(file: h5py.File, name: str, path: str | Path) -> np.ndarray:
    item = _numbers(file, name, path)
    try:
        values: np.ndarray = item[()]
        return values
    except OSError as error:
        raise ValueError(
            f"{path}: '{name}' cannot be read ({error}); the file is damaged, download it again"
        ) from error


def _check_keys(arrays: Mapping[str, Any], source: str) -> None:
    missing = [name for name in REQUIRED if name not in arrays]
    if missing:
        raise ValueError(f"{source}: missing {', '.join(missing)}; found {', '.join(sorted(arrays)) or 'none of them'}")
    lengths = {name: values.shape[0] if values.shape else 1 for name, values in arrays.items()}
    if len(set(lengths.values())) > 1:
        raise ValueError(f"{source}: arrays differ in length: {', '.join(f'{k} {v}' for k, v in lengths.items())}")
    if lengths["observations"] == 0:
        raise ValueError(f"{source}: no transitions in it")


def _flag(arrays: Mapping[str, Any], name: str, source: str) -> np.ndarray:
    """Return (N,) bool from booleans or from the 0.0 and 1.0 of older files."""
    values = squeeze_column(np.asarray(arrays[name]))
    if values.dtype == bool and values.ndim == 1:
        return values
    wrong = np.flatnonzero((values != 0) & (values != 1)) if values.ndim == 1 else np.zeros(1, int)
    if wrong.size:
        raise ValueError(f"{source}: '{name}' must be (N,) of 0 and 1, row {wrong[0]} holds {values[wrong[0]]}")
    return values.astype(bool)


def _timeouts(arrays: Mapping[str, Any], max_episode_steps: int | None, source: str) -> np.ndarray:
    """Return (N,) bool: stored, or counted as D4RL does."""
    stored = _flag(arrays, "timeouts", source) if "timeouts" in arrays else None
    if stored is None and max_episode_steps is None:
        raise ValueError(
            f"{source}: no 'timeouts'; pass --data.max-episode-steps (surefoot data: --max-episode-steps), which gives "
            "the ends of episodes"
        )
    try:
        return settled_timeouts(_flag(arrays, "terminals", source), stored, max_episode_steps)
    except ValueError as error:
        raise ValueError(f"{source}: {error}") from error


def settled_timeouts(terminals: np.ndarray, stored: np.ndarray | None, max_episode_steps: int | None) -> np.ndarray:
    """Return (N,) bool: stored time-outs, or those of a time limit where none are; `ValueError` where they differ."""
    if max_episode_steps is None:
        assert stored is not None, "there is nothing to know them by"
        return stored
    counted = infer_timeouts(terminals, max_episode_steps)
    if stored is None or not stored.any():
        return counted
    if (other := (stored != counted) & ~terminals).any():
        raise ValueError(
            f"its 'timeouts' are not those of episodes of {max_episode_steps} steps (first in row {other.argmax()}); "
            "leave max-episode-steps out, or take that array out of the file"
        )
    return stored


def infer_timeouts(terminals: np.ndarray, max_episode_steps: int) -> np.ndarray:
    """Return (N,) bool: rows at which an episode that began after the last terminal reaches the time limit."""
    require_limit(max_episode_steps, "max_episode_steps")
    row = np.arange(len(terminals))
    first = np.maximum.accumulate(np.where(np.roll(terminals, 1), row, 0))  # first row after the last terminal
    timeouts: np.ndarray = (row - first + 1) % max_episode_steps == 0
    return timeouts


def require_limit(max_episode_steps: int | None, name: str) -> None:
    """Raise `ValueError` for a time limit, called `name`, that no episode can have."""
    if max_episode_steps is not None and not 1 <= max_episode_steps <= LONGEST:
        raise ValueError(f"{name} is {max_episode_steps}; it must be from 1 to {LONGEST:,}")


def _check_successors(data: Transitions, ends: np.ndarray, source: str) -> None:
    """Refuse successors that were made by shifting the observations, which cross every episode end; warn of some.

    Some may be right: where a task goes on after a time-out, or where an episode can end in the state that the next
    begins in; so may all, where every episode begins in one state.
    """
    last = torch.from_numpy(np.flatnonzero(ends[:-1]))
    crossing = last[(data.next_obs[last] == data.obs[last + 1]).all(1)]
    said = f"{source}: 'next_observations' holds the next episode's first observation at"
    first = data.obs[torch.cat([last.new_zeros(1), last + 1])]
    if len(last) and len(crossing) == len(last) and bool((first != first[0]).any()):
        raise ValueError(
            f"{said} all {len(last)} episode ends;"
            " take that array out of the file, or use view 'qlearning', which does not read it"
        )
    if len(crossing):
        warnings.warn(
            f"{said} {len(crossing)} of {len(last)} episode ends (first in row {int(crossing[0])}); where these are not"
            " true successors, take that array out of the file, or use view 'qlearning', which does not read it",
            stacklevel=3,
        )


def _last_kept(ends: np.ndarray, keep: slice | np.ndarray) -> np.ndarray:
    """Return, for kept rows, whether the next kept row belongs to another episode."""
    episode = (np.cumsum(ends) - ends)[keep]
    return np.append(episode[1:] != episode[:-1], True) if episode.size else np.zeros(0, bool)
