"""Reading rows a part at a time: the same as reading them at once, in a fraction of the memory."""

import tracemalloc

import h5py
import numpy as np
import pytest
import torch

from surefoot.offline_data import Transitions, read_d4rl, stored_rows
from surefoot.offline_data.d4rl import from_d4rl_arrays, read_arrays
from surefoot.offline_data.stored_rows import StoredRows, fill


def recording(n, **changes):
    generator = np.random.default_rng(0)
    draw = {name: generator.normal(size=(n, 5)) for name in ("observations", "next_observations")}
    ends = {"terminals": np.arange(n) % 50 == 17, "timeouts": np.arange(n) % 50 == 49}
    return draw | ends | {"actions": generator.normal(size=(n, 2)), "rewards": generator.normal(size=n)} | changes


@pytest.fixture
def file(tmp_path):
    """Return a function that writes arrays as an HDF5 file."""

    def write(arrays, **options):
        with h5py.File(tmp_path / "data.hdf5", "w") as file:
            for name, values in arrays.items():
                file.create_dataset(name, data=values, **options)
        return tmp_path / "data.hdf5"

    return write


@pytest.mark.parametrize("options", [{}, {"chunks": True, "compression": "gzip"}])
@pytest.mark.parametrize("view", ["exact", "qlearning"])
@pytest.mark.parametrize("leave_out", ["nothing", "next_observations"])
@pytest.mark.filterwarnings("ignore:.*no 'next_observations'")
def test_parts_of_a_file_are_what_its_arrays_are(file, monkeypatch, same, options, view, leave_out):
    monkeypatch.setattr(stored_rows, "PART", 7)
    arrays = recording(501)
    arrays.pop(leave_out, None)
    path = file(arrays, **options)
    data = read_d4rl(path, view=view)
    monkeypatch.undo()
    same(data, from_d4rl_arrays(read_arrays(path), view=view))
    keep = np.arange(501) % 50 != 49
    if view == "exact":
        keep &= arrays["terminals"] == 0
    keep[-1] = False
    if view == "qlearning" or leave_out != "nothing":
        rows = np.flatnonzero(keep)
        np.testing.assert_array_equal(data.next_obs, arrays["observations"][rows + 1].astype(np.float32))
        np.testing.assert_array_equal(data.reward, arrays["rewards"][rows].astype(np.float32))


@pytest.mark.parametrize("n", [8, 9, 10, 16, 17, 33])
@pytest.mark.parametrize("view", ["exact", "qlearning"])
def test_a_part_of_which_no_row_is_kept_is_passed_over(file, monkeypatch, n, view):
    """The last row has no successor, and rows 8 to 15 are time-outs each: parts of 8 rows without any to keep."""
    monkeypatch.setattr(stored_rows, "PART", 8)
    timeouts = (np.arange(n) >= 8) & (np.arange(n) < 16)
    arrays = recording(n, terminals=np.zeros(n, bool), timeouts=timeouts)
    del arrays["next_observations"]
    kept = np.flatnonzero(~timeouts & (np.arange(n) < n - 1))
    for data in (read_d4rl(file(arrays), view=view), from_d4rl_arrays(arrays, view=view)):
        np.testing.assert_array_equal(data.reward, arrays["rewards"][kept].astype(np.float32))
        np.testing.assert_array_equal(data.next_obs, arrays["observations"][kept + 1].astype(np.float32))


def test_faults_of_all_parts_are_counted_and_the_first_field_with_some_is_named(monkeypatch):
    monkeypatch.setattr(stored_rows, "PART", 4)
    broken = np.zeros((30, 2))
    broken[[8, 20, 29], [1, 0, 0]] = np.nan, np.inf, 1e300
    whole = np.zeros(30)
    out = {"whole": np.empty((30, 1), np.float32), "broken": np.empty((30, 2), np.float32)}
    rows = {"whole": StoredRows(whole), "broken": StoredRows(broken)}
    with pytest.raises(ValueError, match=r"here: broken holds 3 .* in row 8"):
        fill(out, rows, "here")


def test_what_is_compressed_together_is_read_once(file):
    path = file({"values": np.arange(40000.0)}, chunks=(3000,), compression="gzip")
    with h5py.File(path) as opened:
        rows = StoredRows(opened["values"])
        assert rows.chunk() == 3000
        sizes = [len(part) for part in rows.parts(3000 * 3)]
        assert sizes == [9000, 9000, 9000, 9000, 4000]


def test_a_damaged_part_names_the_file_and_the_array(file):
    path = file(recording(5000), compression="gzip")
    with h5py.File(path) as opened:
        info = opened["observations"].id.get_chunk_info(0)
    with path.open("r+b") as raw:
        raw.seek(info.byte_offset)
        raw.write(b"\xff" * info.size)
    with pytest.raises(ValueError, match=r"data\.hdf5: 'observations' cannot be read .* damaged, download it again"):
        read_d4rl(path)


def test_reading_takes_little_more_memory_than_what_is_read(file):
    n = 100_000
    path = file({name: values.astype(np.float32) for name, values in recording(n).items() if name != "terminals"})
    with h5py.File(path, "r+") as opened:
        opened["terminals"] = np.zeros(n, bool)
        del opened["timeouts"]
        opened["timeouts"] = np.arange(n) % 50 == 49
    read_d4rl(path)  # imports, caches
    tracemalloc.start()
    data = read_d4rl(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    payload = sum(value.nbytes for value in vars(data).values() if isinstance(value, torch.Tensor))
    assert peak < 0.7 * payload  # of NumPy, in addition to the table itself, which is PyTorch's


def test_transitions_share_no_memory_with_what_they_were_made_of():
    rewards = np.zeros(3, np.float32)
    zeros = np.zeros((3, 1), np.float32)
    data = Transitions.from_arrays(obs=zeros, action=zeros, reward=rewards, next_obs=zeros, terminated=np.zeros(3))
    rewards[:] = 1
    assert data.reward.tolist() == [0, 0, 0]
