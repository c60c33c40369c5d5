"""Downloading D4RL files: resumable, checked, never half in place."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.client import HTTPResponse
from pathlib import Path
from typing import IO
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

from tqdm import tqdm

from surefoot.offline_data.d4rl import open_hdf5
from surefoot.offline_data.files import NO_LOCKS, atomic_file, require_space, sync
from surefoot.offline_data.scores import D4RL_DATASETS, find_d4rl

CHUNK = 1 << 20
TIMEOUT = 30.0  # seconds without a byte


def cache_dir() -> Path:
    """Return the folder of downloaded files: the variable SUREFOOT_DATA, else ~/.surefoot/datasets."""
    return Path(os.environ.get("SUREFOOT_DATA") or Path.home() / ".surefoot" / "datasets")


def cached_file(name: str) -> Path:
    """Return the verified local file of a D4RL data set; `FileNotFoundError` explains how to get it."""
    path = cache_dir() / find_d4rl(name).file_name
    if not path.is_file():
        raise FileNotFoundError(f"{path}: not downloaded yet; run `surefoot data download {name}`")
    verify_sha256(path)
    return path


def download(url: str, path: Path, *, progress: bool = True, replace: bool = False) -> Path:
    """Fetch an HDF5 file to `path` and return it; an interrupted call is resumed by the next one.

    Bytes go to `path` + ".part" first. When they are complete and open as HDF5, the file gets its name and its SHA-256
    is written to `path` + ".sha256". A file that is there already is only verified; one that is to be replaced stays
    until the new one is whole. Where another process fetches it, this one says so and waits; it takes the other's file,
    or goes on with what that has left.
    """
    if replace or not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        with _alone(path):
            if replace or not path.exists():  # made by whoever was waited for
                _fetch_whole(url, path, progress)
                return path
    verify_sha256(path)
    return path


def _fetch_whole(url: str, path: Path, progress: bool) -> None:
    part = path.with_name(path.name + ".part")
    try:
        _fetch(url, part, progress)
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise OSError(f"disk full at {part}; free some space and run the same command to resume") from error
        raise
    try:
        open_hdf5(part).close()
    except ValueError as error:
        part.unlink()
        raise ValueError(f"{url} did not give a whole HDF5 file: {str(error).split(': ', 1)[1]}") from error
    sync(part)
    _write_sha256(path, _sha256(part))
    os.replace(part, path)


def verify_sha256(path: Path) -> None:
    """Raise `ValueError` if the checksum file of `path` differs from its SHA-256; silent if there is none."""
    checksum = _checksum_path(path)
    if checksum.exists() and checksum.read_text().split()[0] != _sha256(path):
        raise ValueError(
            f"{path}: SHA-256 differs from {checksum.name}; the file is damaged or changed; {_how_to_replace(path)}"
        )


def _how_to_replace(path: Path) -> str:
    name = next((entry.name for entry in D4RL_DATASETS.values() if entry.file_name == path.name), None)
    return f"run `surefoot data download {name} --force`" if name else "download it with replace=True"


def _fetch(url: str, part: Path, progress: bool) -> None:
    """Append the bytes that `part` lacks; `ConnectionError` when they did not all come."""
    have = part.stat().st_size if part.exists() else 0
    headers = {"Range": f"bytes={have}-"} if have else {}
    try:
        response = urlopen(Request(url, headers=headers), timeout=TIMEOUT)
    except HTTPError as error:
        if error.code == 416 and error.headers.get("Content-Range") == f"bytes */{have}":
            return  # nothing is missing: stopped between the last byte and the rename
        if error.code == 416:
            part.unlink()  # longer than the file: another's
            return _fetch(url, part, progress)
        raise ConnectionError(f"{url}: the server answers {error.code} {error.reason}") from error
    except URLError as error:
        raise ConnectionError(f"{url}: no connection ({error.reason}); check the network and run it again") from error
    with response:
        if response.status != 206:  # no Range on this server: from the start
            have = 0
        _refuse_page(url, response.headers.get_content_type())
        total = have + int(response.headers["Content-Length"]) if response.headers["Content-Length"] else None
        require_space(part.parent, (total or have) - have)
        _copy(response, part, have, total, progress)
    got = part.stat().st_size
    if total is not None and got != total:
        raise ConnectionError(f"{url}: interrupted at {got} of {total} bytes; run the same command to resume")


def _copy(response: HTTPResponse, part: Path, have: int, total: int | None, progress: bool) -> None:
    """Write the answer's bytes behind the first `have` of `part`."""
    bar = tqdm(total=total, initial=have, unit="B", unit_scale=True, desc=part.stem, disable=not progress)
    with bar, open(part, "ab" if have else "wb") as file:
        try:
            while chunk := response.read1(CHUNK):
                file.write(chunk)
                have += len(chunk)
                bar.update(len(chunk))
        except (TimeoutError, ConnectionError) as error:
            raise ConnectionError(f"interrupted at {have} bytes ({error}); run the same command to resume") from error


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Hold the lock of `path` + ".lock", the kernel's, which ends with its process; wait for one that holds it.

    The file names the holder, for people, and goes with it. The part's own lock is what HDF5 asks for when it opens it.
    """
    name = path.with_name(path.name + ".lock")
    while True:
        with open(name, "a+b", buffering=0) as lock:
            _wait_for(lock, path)
            if not (name.exists() and os.path.samestat(os.fstat(lock.fileno()), name.stat())):
                continue  # it went with the holder that was waited for
            with suppress(OSError):  # a full disk: the lock holds, its file says less
                lock.truncate(0)
                lock.write(f"process {os.getpid()} on {socket.gethostname()}".encode())
            try:
                yield
            finally:
                name.unlink(missing_ok=True)
            return


def _wait_for(lock: IO[bytes], path: Path) -> None:
    """Take a lock, once no one holds it."""
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        lock.seek(0)
        tqdm.write(
            f"note: waiting for {lock.read().decode(errors='replace') or 'another process'}, which fetches {path}"
        )
        fcntl.flock(lock, fcntl.LOCK_EX)
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
        tqdm.write(f"note: the file system of {path.parent} has no locks; start no second download of this file")


def _refuse_page(url: str, content_type: str) -> None:
    if content_type in ("text/html", "application/xhtml+xml"):
        raise ValueError(f"{url}: the server answered with a web page, not with a file; is the address right?")


def _checksum_path(path: Path) -> Path:
    return path.with_name(path.name + ".sha256")


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _write_sha256(path: Path, digest: str) -> None:
    with atomic_file(_checksum_path(path)) as temporary:
        temporary.write_text(f"{digest}  {path.name}\n")  # as `sha256sum -c` reads it
