"""Who owns a folder: one process, also of those that come in the same moment, and no dead one."""

import errno
import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress

import pytest
from leftovers import FORK
from waiting import wait_until

from surefoot.evaluation import storage
from surefoot.training.runs import folder as run_folder
from surefoot.training.runs import lock as locks
from surefoot.training.runs.lock import is_ours, remove_own, take
from surefoot.training.sweep import plan
from surefoot.training.sweep.plan import Sweep


def hold(folder, told, seconds_of_a_child):
    lock = take(folder)
    if seconds_of_a_child and os.fork() == 0:
        time.sleep(seconds_of_a_child)
        os._exit(0)
    told.send("held")
    time.sleep(60)
    lock.release()


@pytest.fixture
def holder(tmp_path):
    """Return a function that starts a process that takes the lock of a folder."""
    started = []

    def start(seconds_of_a_child=0.0):
        ours, theirs = FORK.Pipe(duplex=False)
        process = FORK.Process(target=hold, args=(tmp_path, theirs, seconds_of_a_child))
        process.start()
        started.append(process)
        theirs.close()  # where it fails, there is an end to wait for
        assert ours.recv() == "held"
        return process

    yield start
    for process in started:
        process.kill()
        process.join()


def test_a_second_process_is_told_who_has_the_folder_and_a_dead_ones_lock_is_taken_over(tmp_path, holder):
    process = holder()
    began = time.monotonic()
    with pytest.raises(BlockingIOError) as refused:
        take(tmp_path)
    assert str(refused.value) == (
        f"{tmp_path}: in use by process {process.pid} on {socket.gethostname()}; wait until it ends, or stop it"
    )
    assert time.monotonic() - began < 5
    process.kill()
    process.join()
    lock = take(tmp_path)
    assert json.loads((tmp_path / "lock").read_text())["pid"] == os.getpid()
    lock.release()
    lock.release()
    assert json.loads((tmp_path / "lock").read_text()) == {"surefoot": "free"}
    take(tmp_path).release()


def test_what_a_killed_process_has_forked_is_waited_for(tmp_path, holder, monkeypatch):
    process = holder(2.0)
    process.kill()
    process.join()
    monkeypatch.setattr(locks, "FOR_THE_DEAD", 0.2)
    with pytest.raises(BlockingIOError, match=f"in use by what is left of process {process.pid} on"):
        take(tmp_path)
    monkeypatch.setattr(locks, "FOR_THE_DEAD", 60.0)
    take(tmp_path).release()


def test_the_run_of_a_killed_driver_is_given_time_to_end(tmp_path, holder, monkeypatch):
    process = holder()
    monkeypatch.setattr(locks, "FOR_THE_LIVING", 0.3)
    with pytest.raises(BlockingIOError, match=f"in use by process {process.pid} on"):
        take(tmp_path, waits=True)
    monkeypatch.setattr(locks, "FOR_THE_LIVING", 60.0)
    end = "import os, sys, time; time.sleep(1); os.kill(int(sys.argv[1]), 9)"
    other = subprocess.Popen([sys.executable, "-c", end, str(process.pid)])
    try:
        take(tmp_path, waits=True).release()
    finally:
        other.wait()


def test_a_folder_has_one_owner_also_within_a_process(tmp_path):
    lock = take(tmp_path)
    with pytest.raises(BlockingIOError, match=f"process {os.getpid()} on"):
        take(tmp_path)
    del lock  # no one refers to it any more
    take(tmp_path).release()


def test_a_file_system_without_locks_and_one_that_keeps_them_to_one_machine_say_so(tmp_path, monkeypatch, capsys):
    def none(*arguments):
        raise OSError(errno.ENOLCK, "no locks available")

    monkeypatch.setattr(fcntl, "flock", none)
    take(tmp_path).release()
    assert "has no locks; start no second process on it" in capsys.readouterr().out
    monkeypatch.undo()
    inode = (tmp_path / "lock").stat().st_ino
    for number, said in ((inode, True), (inode + 1, False)):  # the other one is a copy
        (tmp_path / "lock").write_text(
            json.dumps({"surefoot": "in use", "pid": 7, "host": "elsewhere", "inode": number})
        )
        take(tmp_path).release()
        assert ("process 7 on elsewhere has not let go of" in capsys.readouterr().out) is said

    def refused(*arguments):
        raise OSError(errno.EIO, "input/output error")

    monkeypatch.setattr(fcntl, "flock", refused)
    with pytest.raises(OSError, match=r"lock: cannot be locked \(input/output error\)"):
        take(tmp_path)


def test_only_folders_of_ours_are_deleted(tmp_path, holder):
    victim = tmp_path / "victim"
    (victim / "checkpoints").mkdir(parents=True)
    (victim / "config.yaml").write_text("agent_name: sac\n")
    with pytest.raises(FileExistsError, match=r"victim: in the way, and not made by Surefoot; move it away"):
        remove_own(victim)
    (victim / "lock").write_text("1234\n")  # as many programs have one
    assert not is_ours(victim)
    assert (victim / "config.yaml").is_file()
    mine = tmp_path / "mine"
    mine.mkdir()
    take(mine).release()
    (mine / "config.yaml").write_text("agent_name: sac\n")
    (tmp_path / "link").symlink_to(mine)
    assert not is_ours(tmp_path / "link")
    remove_own(mine)
    remove_own(mine)  # there is none
    assert not mine.exists()


def test_a_folder_that_holds_nothing_yet_is_ours_and_one_in_use_is_not_deleted(tmp_path, holder):
    begun = tmp_path / "begun"
    (begun / "checkpoints").mkdir(parents=True)
    (begun / "lock").touch()
    assert is_ours(begun)
    (begun / "checkpoints" / "link").symlink_to(tmp_path)
    assert not is_ours(begun)
    holder()
    with pytest.raises(BlockingIOError, match="in use by process"):
        remove_own(tmp_path)
    assert begun.is_dir()


def killed(work, monkeypatch, writing):
    """Do some work in a process that is killed half-way through writing the file of that name."""
    replace = os.replace

    def kill(part, path):
        if path.name == writing:
            os.kill(os.getpid(), signal.SIGKILL)
        replace(part, path)

    if (pid := os.fork()) == 0:
        monkeypatch.setattr(storage.os, "replace", kill)
        with suppress(Exception):
            work()
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL


def test_a_run_folder_that_was_only_begun_is_taken_over_and_one_with_anything_else_is_not(
    tmp_path, tiny, monkeypatch, capsys
):
    run = tmp_path / "run"

    def make():
        return run_folder.create(run, "fake", tiny, None)

    killed(make, monkeypatch, "config.yaml")
    left = {path.name for path in run.iterdir()} - {"lock", *run_folder.SUBFOLDERS}
    assert [name[:13] for name in left] == [".config.yaml."]
    (run / "notes.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="not empty"):
        make()
    (run / "notes.txt").unlink()
    make().release()
    assert f"note: {run}: begun by a process that was killed before it had made all of it" in capsys.readouterr().out
    assert {path.name for path in run.iterdir()} == {"lock", *run_folder.SUBFOLDERS, "config.yaml", "meta.json"}
    with pytest.raises(FileExistsError, match="not empty"):
        make()


def test_a_folder_that_another_process_has_just_begun_is_not_taken_over(tmp_path, tiny, holder):
    process = holder()
    with pytest.raises(BlockingIOError, match=f"in use by process {process.pid}"):
        run_folder.create(tmp_path, "fake", tiny, None)
    with pytest.raises(BlockingIOError, match=f"in use by process {process.pid}"):
        plan.create(tmp_path, Sweep(("bc",)), [])
    assert os.listdir(tmp_path) == ["lock"]


def test_a_sweep_that_was_only_begun_is_made_anew(tmp_path, tiny, monkeypatch, capsys):
    folder = tmp_path / "many"

    def make(*names):
        plan.create(folder, Sweep(("sac",)), [plan.PlannedRun(name, "fake", None, tiny) for name in names])

    killed(lambda: make("a", "b"), monkeypatch, "sweep.yaml")
    assert (folder / "configs" / "b.yaml").is_file()
    (folder / "runs" / "notes.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="not empty"):
        make("a")
    (folder / "runs" / "notes.txt").unlink()
    make("a")
    assert "taken over" in capsys.readouterr().out
    assert [path.name for path in (folder / "configs").iterdir()] == ["a.yaml"]
    assert [entry.name for entry in plan.read_entries(folder / "plan.json")] == ["a"]
    with pytest.raises(FileExistsError, match="not empty; resume it"):
        make("a")


TRAIN = ("--env.id", "surefoot/Pendulum-v0", "--env.max-episode-steps", "10", "--steps", "600", "--log-every", "14")


def test_of_two_processes_on_one_run_one_trains_and_the_other_says_who(tmp_path, forked):
    slow = os.environ | {"FAKE_PAUSE": "1"}  # minutes for all of it
    run, rows = tmp_path / "run", tmp_path / "run" / "metrics.csv"
    first = forked("train", "fake", *TRAIN, "--checkpoint-every", "3", "--out", tmp_path, "--name", "run", env=slow)
    wait_until(lambda: list((run / "checkpoints").glob("step-*.pt")))
    second = forked("train", "--resume", run)
    out, err = second.communicate(timeout=60)
    assert (second.returncode, out) == (2, "")
    assert err.strip() == (
        f"surefoot: error: {run}: in use by process {first.pid} on {socket.gethostname()}; "
        "wait until it ends, or stop it"
    )
    first.send_signal(signal.SIGKILL)
    first.communicate()
    third = forked("train", "--resume", run)
    out, err = third.communicate(timeout=60)
    assert third.returncode == 0, err
    steps = [line.partition(",")[0] for line in rows.read_text().splitlines()]
    assert len(steps) == len(set(steps))
