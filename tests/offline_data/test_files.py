"""Temporary files: named by the process that writes them, and gone with the next write after it was killed."""

import os
import time

import pytest
from leftovers import leave_half_a_file

from surefoot.evaluation.storage import write_atomically
from surefoot.offline_data import files
from surefoot.offline_data.files import atomic_file, is_leftover, remove_leftovers, temporary, temporary_folder


def test_what_a_killed_process_left_of_a_file_goes_with_the_next_write_of_it(tmp_path):
    out = tmp_path / "curves[1].png"
    with atomic_file(out) as part:
        part.write_bytes(b"a")
    left, other = leave_half_a_file(out), leave_half_a_file(tmp_path / "other.png")
    assert left.read_bytes() == b"half"
    with atomic_file(out) as part:
        part.write_bytes(b"b")
    assert sorted(tmp_path.iterdir()) == sorted([out, other])
    left = leave_half_a_file(other.with_name("x.json"))
    write_atomically(tmp_path / "x.json", lambda file: file.write(b"{}"))
    assert not left.exists()


def test_a_write_under_way_is_let_alone(tmp_path):
    mine = temporary(tmp_path / "a")
    mine.touch()
    other = mine.with_name(mine.name.replace(f"-{os.getpid()}-", "-1-"))
    other.touch()  # of a process that runs
    (tmp_path / ".hidden.tmp").touch()  # not ours
    remove_leftovers(tmp_path)
    assert len(list(tmp_path.iterdir())) == 3


def test_what_another_machine_has_left_goes_after_a_day(tmp_path, monkeypatch):
    monkeypatch.setattr(files.socket, "gethostname", lambda: "elsewhere")
    left = temporary(tmp_path / "a")
    monkeypatch.undo()
    left.touch()
    assert not is_leftover(left)
    os.utime(left, (0, time.time() - 2 * files.OLD))
    assert is_leftover(left)
    remove_leftovers(tmp_path)
    assert not left.exists()


def test_what_has_gone_meanwhile_and_what_another_user_writes_is_left_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(files.socket, "gethostname", lambda: "elsewhere")
    gone = temporary(tmp_path / "a")
    monkeypatch.undo()
    assert not is_leftover(gone)

    def another_users(pid, signal):
        raise PermissionError

    monkeypatch.setattr(files.os, "kill", another_users)
    assert files.runs(1)
    assert not is_leftover(temporary(tmp_path / "a"))


def test_folders_in_the_making_go_too_and_links_are_not_followed(tmp_path):
    left = leave_half_a_file(tmp_path / "set", "folder")
    (left / "data").mkdir()
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "a").touch()
    link = leave_half_a_file(tmp_path / "set")
    link.unlink()
    link.symlink_to(tmp_path / "kept")
    with temporary_folder(tmp_path / "set") as made:
        assert made.is_dir()
        assert not left.exists()
        assert not link.is_symlink()
        (made / "data").mkdir()
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]
    assert (tmp_path / "kept" / "a").is_file()


def test_a_folder_in_the_making_goes_also_with_an_error(tmp_path):
    with pytest.raises(ZeroDivisionError), temporary_folder(tmp_path / "set"):
        raise ZeroDivisionError
    assert not list(tmp_path.iterdir())
