"""HDF5 of strangers: nothing of another file is read, and no more memory taken than the file can fill."""

import h5py
import numpy as np
import pytest

from surefoot.offline_data import load
from surefoot.offline_data.d4rl import open_hdf5, read_arrays, read_metadata
from surefoot.offline_data.hdf5_files import FREE, MOST_TIMES

ROWS = 20
ARRAYS = {
    "observations": np.arange(ROWS * 3, dtype=np.float32).reshape(ROWS, 3),
    "actions": np.zeros((ROWS, 1), np.float32),
    "rewards": np.ones(ROWS, np.float32),
    "terminals": np.zeros(ROWS, bool),
    "timeouts": np.arange(ROWS) % 5 == 4,
    "next_observations": np.arange(ROWS * 3, dtype=np.float32).reshape(ROWS, 3) + 0.5,
}


@pytest.fixture
def make(tmp_path):
    """Return a function that writes a data set without one array, and then what is to stand in its place."""

    def write(name, put):
        path = tmp_path / "data.hdf5"
        with h5py.File(path, "w") as file:
            for key, values in ARRAYS.items():
                if key != name:
                    file[key] = values
            put(file)
        return path

    return write


def refused(path, why):
    for read in (read_arrays, read_metadata, lambda p: load(str(p))):
        with pytest.raises(ValueError, match=why) as error:
            read(path)
        assert str(path) in str(error.value)


def test_a_link_to_another_file_is_refused(make, tmp_path):
    with h5py.File(tmp_path / "secret.hdf5", "w") as file:
        file["observations"] = ARRAYS["observations"]
    refused(
        make("observations", lambda f: f.__setitem__("observations", h5py.ExternalLink("secret.hdf5", "observations"))),
        "'observations' is a link",
    )
    refused(make("", lambda f: f.__setitem__("more/deep", h5py.ExternalLink("secret.hdf5", "/"))), "'deep' is a link")
    refused(make("", lambda f: f.__setitem__("soft", h5py.SoftLink("/observations"))), "'soft' is a link")


def test_storage_in_another_file_is_refused(make, tmp_path):
    (tmp_path / "secret").write_bytes(b"root:x:0:0" * 100)

    def put(file):
        external = [(str(tmp_path / "secret"), 0, h5py.h5f.UNLIMITED)]
        file.create_dataset("observations", (ROWS, 3), np.float32, external=external)

    refused(make("observations", put), "'observations' is external storage")


def test_a_virtual_data_set_is_refused(make, tmp_path):
    with h5py.File(tmp_path / "secret.hdf5", "w") as file:
        file["x"] = ARRAYS["observations"]
    layout = h5py.VirtualLayout((ROWS, 3), np.float32)
    layout[:] = h5py.VirtualSource(str(tmp_path / "secret.hdf5"), "x", (ROWS, 3))
    refused(make("observations", lambda f: f.create_virtual_dataset("observations", layout)), "is a virtual data set")


@pytest.mark.parametrize("name", ["observations", "next_observations", "unread"])
@pytest.mark.parametrize("settings", [{}, {"chunks": (1000, 3)}, {"chunks": (1000, 3), "compression": "gzip"}])
def test_numbers_that_are_not_in_the_file_are_refused(make, name, settings):
    def put(file):
        file.create_dataset(name, (500_000_000, 3), np.float32, **settings)  # 6 GB, none of it written

    path = make(name, put)
    assert path.stat().st_size < 40_000
    refused(path, "claim more than")


def test_one_chunk_larger_than_the_file_allows_is_refused(make):
    def put(file):
        file.create_dataset("observations", (ROWS, 3), np.float32, chunks=(50_000_000, 3), maxshape=(None, 3))

    refused(make("observations", put), "claim more than")


def test_an_unknown_filter_is_refused(make):
    def put(file):
        plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        plist.set_chunk((ROWS, 3))
        plist.set_filter(32123, h5py.h5z.FLAG_OPTIONAL, (1,))
        space = h5py.h5s.create_simple((ROWS, 3))
        h5py.h5d.create(file.id, b"observations", h5py.h5t.IEEE_F32LE, space, plist)

    refused(make("observations", put), "unknown filter 32123")


def test_groups_that_contain_each_other_end(make):
    def put(file):
        file.create_group("a/b")
        file["a/b/again"] = file["a"]

    assert len(load(str(make("", put)))) == ROWS


def test_what_shrinks_a_thousand_times_is_read_where_it_is_small(make):
    def put(file):
        file.create_dataset("zeros", (FREE // 2,), np.int8, chunks=(10_000,), compression="gzip")[:] = 0

    path = make("", put)
    assert 50 * path.stat().st_size < FREE // 2
    assert set(read_arrays(path)) == set(ARRAYS)


def test_a_large_file_may_be_a_hundred_times_as_large_unpacked(make):
    def put(file, times):
        file["noise"] = np.random.default_rng(0).integers(0, 255, 2**20, np.uint8)
        file.create_dataset("zeros", (times * 2**20,), np.uint8, chunks=(2**20,), compression="gzip", fillvalue=0)

    with open_hdf5(make("", lambda file: put(file, MOST_TIMES - 10))):
        pass
    refused(make("", lambda file: put(file, MOST_TIMES + 10)), "100 times its size")
