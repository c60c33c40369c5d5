"""The process that a sweep's runs are forked from: each run is a process like any other, and none sees another's."""

import os
import signal
import subprocess
import sys
import textwrap
from contextlib import contextmanager

import pytest
from waiting import wait_until

from surefoot.training.sweep.server import LOST, Request, WarmServer

SERVER = """
import os, random, socket, sys, time
from pathlib import Path
import numpy as np
import torch
from surefoot.training.sweep.server import serve
arguments = serve(socket.socket(fileno=int(sys.argv[1])))
if arguments is not None:
    exec(arguments[0])
"""


@contextmanager
def serving():
    server = WarmServer([sys.executable, "-c", SERVER], ())
    yield server
    server.close()


@pytest.fixture(scope="module")
def shared():
    """Start one server for all tests that leave it as it was: it takes seconds."""
    with serving() as server:
        yield server


@pytest.fixture
def server():
    """Start a server that a test may end."""
    with serving() as server:
        yield server


def request(code, log, **environment):
    return Request([textwrap.dedent(code)], environment, str(log))


@pytest.fixture
def run(shared, tmp_path):
    """Return a function that starts a run of some code, whose log has that name."""
    return lambda code, name="log", **environment: shared.start(request(code, tmp_path / name, **environment))


def test_a_run_ends_with_its_own_code_and_its_output_is_in_its_log(run, tmp_path):
    ends = {"sys.exit(3)": 3, "print('out')": 0, "raise ValueError('why')": 1, "os.kill(os.getpid(), 9)": -9}
    assert [run(code, f"log{i}").wait() for i, code in enumerate(ends)] == list(ends.values())
    assert (tmp_path / "log1").read_text() == "out\n"
    assert (tmp_path / "log2").read_text().endswith("ValueError: why\n")


def test_a_run_has_a_session_threads_and_signals_of_its_own_and_keeps_nothing_of_another(run, tmp_path):
    left = "global left; left = 1; os.environ['LEFT'] = '1'"
    run(f"{left}\nprint(random.random(), np.random.random(), torch.rand(()).item())", "one").wait()
    code = """
    import signal
    print(random.random(), np.random.random(), torch.rand(()).item())
    assert os.getsid(0) == os.getpid() and "left" not in globals() and "LEFT" not in os.environ
    assert os.environ["OMP_NUM_THREADS"] == "1" and os.environ["MINE"] == "yes"
    assert int(os.environ["SUREFOOT_DRIVER"]) == os.getppid()
    assert len(os.listdir("/proc/self/task")) == 1 and signal.getsignal(signal.SIGCHLD) == signal.SIG_DFL
    assert signal.getsignal(signal.SIGINT) == signal.default_int_handler and sys.stdin.read() == ""
    """
    assert run(code, "two", MINE="yes").wait() == 0, (tmp_path / "two").read_text()
    one, two = ((tmp_path / name).read_text().split() for name in ("one", "two"))
    assert not set(one) & set(two)  # the global generators of Python, NumPy and PyTorch are seeded anew
    assert len(two) == 3


def test_a_log_is_appended_to(run, tmp_path):
    for word in ("first", "second"):
        run(f"print({word!r})").wait()
    assert (tmp_path / "log").read_text() == "first\nsecond\n"


def test_signals_reach_a_run_and_one_that_has_ended_is_left_alone(run):
    sleeping = run("time.sleep(60)")
    assert sleeping.poll() is None
    sleeping.send_signal(signal.SIGTERM)
    assert sleeping.wait() == -signal.SIGTERM
    sleeping.kill()
    assert sleeping.poll() == -signal.SIGTERM


def test_when_the_server_is_killed_a_run_counts_until_it_has_ended(server, tmp_path):
    code = "Path('LOG.on').touch()\nwhile not Path('LOG.off').exists(): time.sleep(0.01)"
    waiting = server.start(request(code.replace("LOG", str(tmp_path / "log")), tmp_path / "log"))
    wait_until((tmp_path / "log.on").exists)
    server.process.kill()
    server.process.wait()
    assert not server.alive
    assert waiting.poll() is None
    (tmp_path / "log.off").touch()
    assert waiting.wait() == LOST
    with pytest.raises(OSError, match=r"Broken pipe|has ended"):
        server.start(request("pass", tmp_path / "log"))


def test_the_server_ends_with_its_driver(server):
    server.channel.close()
    assert server.process.wait(timeout=60) == 0


def test_what_a_sweep_preloads_starts_no_thread(tmp_path):
    code = """
    import os
    from surefoot import agents
    from surefoot.training.cli import sweep_server
    from surefoot.training.sweep.entry import Entry
    sweep_server.read_plan = lambda folder: [Entry("run", name, None, 0) for name in agents.REGISTRY]
    sweep_server.preload(None)
    import torch
    assert len(os.listdir("/proc/self/task")) == 1, os.listdir("/proc/self/task")
    assert not torch.cuda.is_initialized()
    """
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, "-c", textwrap.dedent(code)], env=environment, check=True, timeout=120)


def test_a_log_that_cannot_be_written_fails_the_run_alone(shared, run):
    assert run("pass", "nowhere/log").wait() == 1
    assert shared.alive


def test_a_quick_end_still_flushes_joins_threads_and_carries_out_what_was_registered():
    code = """
    import atexit, threading, time
    from surefoot.training.cli.sweep_server import end_quickly
    atexit.register(print, "registered", flush=True)
    threading.Thread(target=lambda: (time.sleep(0.2), print("thread"))).start()
    threading.Thread(target=time.sleep, args=(60,), daemon=True).start()
    print("main")
    end_quickly(7)
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout.split()) == (7, ["main", "thread", "registered"]), done.stderr
