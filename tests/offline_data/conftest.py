"""Small hand-made recordings whose every row tells which episode and step it is."""

from collections.abc import Mapping
from pathlib import Path

import h5py
import numpy as np
import pytest


def hand_made() -> dict[str, np.ndarray]:
    """Return 10 rows in D4RL's layout: 3 to a terminal, 4 to a time-out, 3 of a cut episode; obs = (episode, step)."""
    episode = np.repeat([0, 1, 2], [3, 4, 3])
    step = np.concatenate([np.arange(3), np.arange(4), np.arange(3)])
    obs = np.stack([episode, step], axis=1).astype(np.float32)
    row = np.arange(10)
    return {
        "observations": obs,
        "actions": np.linspace(-1, 1, 10, dtype=np.float32)[:, None],
        "rewards": row.astype(np.float32),
        "next_observations": obs + np.float32([0, 1]),
        "terminals": row == 2,
        "timeouts": row == 6,
    }


def write_hdf5(path: Path, arrays: Mapping[str, object]) -> Path:
    """Write arrays as they are, with no check at all."""
    with h5py.File(path, "w") as file:
        for name, values in arrays.items():
            file[name] = values
    return path


@pytest.fixture
def rows() -> dict[str, np.ndarray]:
    return hand_made()


@pytest.fixture
def save(tmp_path):
    """Return a function (arrays, name) -> path of the HDF5 file it wrote."""
    return lambda arrays, name="data.hdf5": write_hdf5(tmp_path / name, arrays)


@pytest.fixture
def data(rows):
    """Return the ten rows as `Transitions`."""
    from surefoot.offline_data.d4rl import from_d4rl_arrays

    return from_d4rl_arrays(rows, source="hand made")


@pytest.fixture
def same():
    """Return a function that asserts two `Transitions` equal in every field but the source, bit for bit."""

    def assert_same(left, right):
        for name in ("obs", "action", "reward", "next_obs", "terminated", "truncated", "episode_end"):
            a, b = getattr(left, name), getattr(right, name)
            assert a.dtype == b.dtype, name
            np.testing.assert_array_equal(a, b, err_msg=name)

    return assert_same
