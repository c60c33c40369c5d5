import errno
import fcntl
import hashlib
import shutil
import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import pytest
from leftovers import FORK

from surefoot.offline_data import download as download_module
from surefoot.offline_data import load, write_d4rl
from surefoot.offline_data.download import cached_file, download, verify_sha256


class Server(ThreadingHTTPServer):
    """Serves one body at /data.hdf5 on the loopback, as well or as badly as its settings say."""

    body = b""
    ranges = True  # honour Range
    stop_after: int | None = None  # close the connection after so many bytes of the next answer
    content_type = "application/octet-stream"

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.asked: list[str | None] = []

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}/data.hdf5"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self):
        server, asked = self.server, self.headers.get("Range")
        server.asked.append(asked)
        if self.path != "/data.hdf5":
            self.send_error(404)
            return
        first = int(asked.removeprefix("bytes=").rstrip("-")) if asked and server.ranges else 0
        if first and first >= len(server.body):
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(server.body)}")
            self.end_headers()
            return
        self.send_response(206 if asked and server.ranges else 200)
        self.send_header("Content-Type", server.content_type)
        self.send_header("Content-Length", str(len(server.body) - first))
        self.end_headers()
        stop, server.stop_after = server.stop_after, None
        self.wfile.write(server.body[first : None if stop is None else first + stop])

    def log_message(self, *_):
        pass


@pytest.fixture
def server(data, tmp_path):
    write_d4rl(tmp_path / "made.hdf5", data)
    with Server() as server:
        server.body = (tmp_path / "made.hdf5").read_bytes()
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        yield server
        server.shutdown()


@pytest.fixture
def path(tmp_path):
    return tmp_path / "cache" / "data.hdf5"


def fetch(server, path, url=None):
    return download(url or server.url, path, progress=False)


def part(path):
    return path.with_name("data.hdf5.part")


def test_a_file_arrives_whole_with_its_sha256(server, path):
    assert fetch(server, path) == path
    assert path.read_bytes() == server.body
    digest = hashlib.sha256(server.body).hexdigest()
    assert path.with_name("data.hdf5.sha256").read_text() == f"{digest}  data.hdf5\n"
    assert sorted(item.name for item in path.parent.iterdir()) == ["data.hdf5", "data.hdf5.sha256"]


@pytest.mark.parametrize("progress", [True, False])
def test_a_bar_is_shown_if_and_only_if_it_is_asked_for(progress, server, path, capsys):
    download(server.url, path, progress=progress)
    assert ("100%" in capsys.readouterr().err) == progress


def test_an_interrupted_transfer_is_resumed_where_it_stopped(server, path):
    server.stop_after = 1000
    with pytest.raises(ConnectionError, match=rf"interrupted at 1000 of {len(server.body)} bytes; .* to resume"):
        fetch(server, path)
    assert not path.exists()
    assert part(path).read_bytes() == server.body[:1000]
    fetch(server, path)
    assert server.asked == [None, "bytes=1000-"]
    assert path.read_bytes() == server.body


def test_without_range_it_starts_again(server, path):
    server.stop_after, server.ranges = 1000, False
    with pytest.raises(ConnectionError, match="interrupted"):
        fetch(server, path)
    fetch(server, path)
    assert server.asked == [None, "bytes=1000-"]
    assert path.read_bytes() == server.body


def test_a_complete_part_is_only_renamed(server, path):
    path.parent.mkdir()
    part(path).write_bytes(server.body)
    fetch(server, path)
    assert path.read_bytes() == server.body


def test_a_part_longer_than_the_file_starts_again(server, path):
    path.parent.mkdir()
    part(path).write_bytes(server.body + b"more")
    fetch(server, path)
    assert path.read_bytes() == server.body


def test_a_stopped_connection_keeps_the_part(server, path, monkeypatch):
    monkeypatch.setattr("surefoot.offline_data.download.TIMEOUT", 0.2)
    waiting = threading.Event()
    original = Handler.do_GET

    def stall(self):
        self.send_response(200)
        self.send_header("Content-Length", str(len(server.body)))
        self.end_headers()
        self.wfile.write(server.body[:500])
        waiting.wait(5)

    monkeypatch.setattr(Handler, "do_GET", stall)
    with pytest.raises(ConnectionError, match=r"interrupted at .* to resume"):
        fetch(server, path)
    waiting.set()
    monkeypatch.setattr(Handler, "do_GET", original)
    assert part(path).read_bytes() == server.body[:500]
    fetch(server, path)
    assert server.asked == ["bytes=500-"]
    assert path.read_bytes() == server.body


def test_of_two_downloads_at_once_one_fetches_and_the_other_takes_its_file(server, path, monkeypatch, capfd):
    """Both would go on with the same part: twice its end, under a checksum of its own."""
    path.parent.mkdir()
    part(path).write_bytes(server.body[:1000])
    original, asked, told = Handler.do_GET, threading.Event(), threading.Event()

    def slowly(self):
        asked.set()
        told.wait(20)
        original(self)

    monkeypatch.setattr(Handler, "do_GET", slowly)
    processes = [FORK.Process(target=fetch, args=(server, path)) for _ in range(2)]
    for process in processes:
        process.start()
        asked.wait(20)
    out = ""
    while "note" not in out and processes[1].is_alive():
        out += capfd.readouterr().out
    told.set()
    for process in processes:
        process.join(20)
    assert (
        out.strip() == f"note: waiting for process {processes[0].pid} on {socket.gethostname()}, which fetches {path}"
    )
    assert [process.exitcode for process in processes] == [0, 0]
    assert server.asked == ["bytes=1000-"]
    assert path.read_bytes() == server.body
    verify_sha256(path)
    assert sorted(item.name for item in path.parent.iterdir()) == ["data.hdf5", "data.hdf5.sha256"]


def test_who_waited_goes_on_with_what_a_failed_download_has_left(server, path, monkeypatch):
    server.stop_after = 1000
    failed = []
    original = fcntl.flock

    def wait(file, how):
        """Let another fetch first, as the process that holds the lock does."""
        monkeypatch.setattr(fcntl, "flock", original)
        with pytest.raises(ConnectionError, match="interrupted at 1000"):
            fetch(server, path)
        failed.append(True)
        return original(file, how)

    monkeypatch.setattr(fcntl, "flock", wait)
    fetch(server, path)
    assert (failed, server.asked) == ([True], [None, "bytes=1000-"])
    assert path.read_bytes() == server.body
    assert sorted(item.name for item in path.parent.iterdir()) == ["data.hdf5", "data.hdf5.sha256"]


def test_the_lock_of_a_killed_process_is_taken_and_file_systems_without_locks_say_so(server, path, monkeypatch, capsys):
    path.parent.mkdir()
    path.with_name("data.hdf5.lock").write_text("process 1 on mars")

    def none(*_):
        raise OSError(errno.ENOLCK, "no locks available")

    monkeypatch.setattr(fcntl, "flock", none)
    server.stop_after = 1000
    with pytest.raises(ConnectionError, match="interrupted at 1000"):
        fetch(server, path)
    assert "has no locks; start no second download of this file" in capsys.readouterr().out
    monkeypatch.undo()
    path.with_name("data.hdf5.lock").write_text("process 1 on mars")
    fetch(server, path)
    assert (capsys.readouterr().out, path.read_bytes()) == ("", server.body)


def test_a_part_that_another_has_written_to_is_not_taken_for_the_file(server, path, monkeypatch):
    """As on a file system without locks."""
    original = download_module._copy

    def copy(response, part, *rest):
        original(response, part, *rest)
        with open(part, "ab") as file:
            file.write(b"another's")

    monkeypatch.setattr(download_module, "_copy", copy)
    with pytest.raises(ConnectionError, match=rf"at {len(server.body) + 9} of {len(server.body)} bytes; run the same"):
        fetch(server, path)
    monkeypatch.undo()
    assert not path.exists()
    assert fetch(server, path).read_bytes() == server.body


def test_404_names_the_address(server, path):
    url = server.url.replace("data", "other")
    with pytest.raises(ConnectionError, match=r"other\.hdf5: the server answers 404"):
        fetch(server, path, url)
    assert list(path.parent.iterdir()) == []


def test_a_web_page_is_refused_by_type_and_by_content(server, path):
    server.body, server.content_type = b"<html>Sign in</html>", "text/html; charset=utf-8"
    with pytest.raises(ValueError, match="answered with a web page"):
        fetch(server, path)
    server.content_type = "application/octet-stream"
    with pytest.raises(ValueError, match=r"did not give a whole HDF5 file: this is a web page"):
        fetch(server, path)
    assert list(path.parent.iterdir()) == []


def test_a_file_cut_on_the_server_is_refused(server, path):
    server.body = server.body[: len(server.body) // 2]
    with pytest.raises(ValueError, match="truncated or damaged HDF5"):
        fetch(server, path)
    assert list(path.parent.iterdir()) == []


def test_no_network_says_so(path):
    with pytest.raises(ConnectionError, match=r"no connection .*; check the network"):
        download("http://127.0.0.1:9/data.hdf5", path, progress=False)


def test_a_full_disk_is_seen_before_the_transfer(server, path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=100))
    with pytest.raises(OSError, match=r"disk full at .* to resume"):
        fetch(server, path)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="/dev/full is a Linux device")
def test_a_disk_that_fills_during_the_transfer(server, path):
    path.parent.mkdir()
    part(path).symlink_to("/dev/full")
    with pytest.raises(OSError, match=r"disk full at .* to resume"):
        fetch(server, path)
    assert not path.exists()


def test_a_file_that_is_there_is_verified_and_not_fetched(server, path):
    fetch(server, path)
    fetch(server, path)
    assert len(server.asked) == 1
    path.write_bytes(server.body + b"x")
    with pytest.raises(ValueError, match=r"SHA-256 differs .* changed; download it with replace=True$"):
        fetch(server, path)


def test_a_file_is_replaced_once_the_new_one_is_whole(server, path):
    fetch(server, path)
    path.write_bytes(b"old")
    server.stop_after = 1000
    with pytest.raises(ConnectionError, match="interrupted at 1000"):
        download(server.url, path, progress=False, replace=True)
    assert path.read_bytes() == b"old"
    assert download(server.url, path, progress=False, replace=True) == path
    assert server.asked == [None, None, "bytes=1000-"]
    assert path.read_bytes() == server.body
    verify_sha256(path)


def test_files_without_sha256_are_accepted(path):
    path.parent.mkdir()
    path.write_bytes(b"mine")
    verify_sha256(path)


def test_d4rl_names_are_loaded_from_the_cache(server, tmp_path, monkeypatch, data, same):
    monkeypatch.setenv("SUREFOOT_DATA", str(tmp_path / "cache"))
    with pytest.raises(FileNotFoundError, match=r"surefoot data download hopper-medium-v2"):
        load("d4rl:hopper-medium-v2")
    fetch(server, tmp_path / "cache" / "hopper_medium-v2.hdf5")
    assert cached_file("hopper-medium-v2") == tmp_path / "cache" / "hopper_medium-v2.hdf5"
    same(load("d4rl:hopper-medium-v2"), data)
    (tmp_path / "cache" / "hopper_medium-v2.hdf5").write_bytes(server.body[:-1])
    advice = "changed; run `surefoot data download hopper-medium-v2 --force`$"
    with pytest.raises(ValueError, match=f"SHA-256 differs .* {advice}"):
        load("d4rl:hopper-medium-v2")
