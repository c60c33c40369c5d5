"""NumPy archives of strangers: numbers alone, as many as are there."""

import io
import zipfile

import numpy as np
import pytest

from surefoot.envs.npz_files import read_npz, sizes_of


def header(shape, descr="<f8"):
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"descr": descr, "fortran_order": False, "shape": shape})
    return file.getvalue()


def archive(path, content, method=zipfile.ZIP_DEFLATED):
    with zipfile.ZipFile(path, "w", method) as file:
        file.writestr("x.npy", content)
    return path


def test_arrays_come_back(tmp_path):
    path = tmp_path / "a.npz"
    arrays = {
        "x": np.arange(6.0).reshape(2, 3),
        "y": np.array(["a", "bc"]),
        "none": np.zeros((0, 4)),
        "one": np.array(3),
    }
    np.savez_compressed(path, **arrays)
    assert sizes_of(path) == {"x": 6, "y": 2, "none": 0, "one": 1}
    read = read_npz(path)
    assert all(np.array_equal(read[name], array) for name, array in arrays.items())
    assert set(read_npz(path, ["x"])) == {"x"}
    np.savez(path, zeros=np.zeros(10**6))
    assert read_npz(path)["zeros"].shape == (10**6,)
    np.savez_compressed(path, zeros=np.zeros(10**6))  # shrinks a thousand times
    assert read_npz(path)["zeros"].shape == (10**6,)


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (header((10**10,)) + bytes(80), "claims"),  # 80 GB
        (header((10**10, 10**10)) + bytes(80), "claims"),
        (header((11,)) + bytes(80), "claims"),
        (header((9,)) + bytes(80), "claims"),
        (header((10,), "|O") + bytes(80), "Python objects"),
        (header((-1,)) + bytes(80), "claims"),
        (b"\x93NUMPY\x01\x00" + b"\xff\xff" + b"(" * 65535, "no NumPy archive that can be read"),
        (b"\x93NUMPY\x09\x00" + bytes(80), "no NumPy archive that can be read"),
        (b"", "no NumPy archive that can be read"),
    ],
    ids=["large", "larger", "long", "short", "objects", "negative", "header", "version", "empty"],
)
def test_what_an_array_claims_is_checked(content, why, tmp_path):
    path = archive(tmp_path / "a.npz", content)
    for read in (read_npz, sizes_of):
        with pytest.raises(ValueError, match=why) as error:
            read(path)
        assert "\n" not in str(error.value)


def test_what_is_no_archive_or_damaged_is_refused(tmp_path):
    path = tmp_path / "a.npz"
    path.write_bytes(b"PK nothing")
    with pytest.raises(ValueError, match="no NumPy archive that can be read"):
        read_npz(path)
    content = bytearray(archive(path, header((1000,)) + bytes(range(250)) * 32).read_bytes())
    content[120] ^= 0xFF  # in the packed numbers
    path.write_bytes(content)
    with pytest.raises(ValueError, match="no NumPy archive that can be read"):
        read_npz(path)
    with pytest.raises(FileNotFoundError):
        read_npz(tmp_path / "none.npz")
    np.savez(path, x=np.zeros(3))
    with pytest.raises(ValueError, match="no array 'y' in it, but x"):
        read_npz(path, ["y"])
