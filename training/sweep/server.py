"""A warm process that the runs of a local sweep are forked from: what they import is imported once, not by every run.

The server imports and does nothing else: it has one thread, no tensor and no generator that a run could inherit. A run
is a process of its own, in a session of its own, and ends as any Python process does.
"""

from __future__ import annotations

import json
import os
import random
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from surefoot.offline_data.files import runs
from surefoot.training.loop.interrupt import DRIVER
from surefoot.training.loop.process import leave_out_for_good

LARGEST = 2**17  # bytes of a message
LOST = -signal.SIGKILL  # what stands for the exit code of a run whose server was killed
LOOK_EVERY = 0.05  # seconds between two looks at a run that is waited for


class Request(NamedTuple):
    """A run to start: what its command line says, what it has in addition to the server's environment, its log."""

    arguments: list[str]
    environment: dict[str, str]
    log: str


# --- the driver's side ------------------------------------------------------------------------------------------------


class WarmServer:
    """The server as its driver sees it."""

    def __init__(self, command: Sequence[str], pass_fds: Sequence[int]) -> None:
        """Start it by `command`, to which the descriptor of its channel is added; runs inherit `pass_fds`."""
        self.channel, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self.process = subprocess.Popen(
                [*command, str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                env=os.environ | {"OMP_NUM_THREADS": "1"},
                pass_fds=(theirs.fileno(), *pass_fds),
                start_new_session=True,  # Ctrl-C in the terminal reaches the runs through the driver only, once
            )
        self.codes: dict[int, int] = {}

    @property
    def alive(self) -> bool:
        """Whether it still runs."""
        return self.process.poll() is None

    def start(self, request: Request) -> ForkedRun:
        """Start a run; `OSError` where the server is no more."""
        self.channel.send(json.dumps(request).encode())
        while "started" not in (message := self._receive()):
            self.codes[message["ended"]] = message["code"]
        return ForkedRun(message["started"], self)

    def _receive(self) -> dict[str, Any]:
        packet = self.channel.recv(LARGEST)
        if not packet:
            raise ConnectionResetError("the process that a sweep's runs are forked from has ended")
        content: dict[str, Any] = json.loads(packet)
        return content

    def code_of(self, pid: int) -> int | None:
        """Return the exit code of a run, None while it runs; after the server was killed, `LOST` once it has ended."""
        try:
            while pid not in self.codes and select.select([self.channel], [], [], 0)[0]:
                message = self._receive()
                self.codes[message["ended"]] = message["code"]
        except OSError:
            return None if runs(pid) else LOST
        return self.codes.get(pid)

    def close(self) -> None:
        """End the server; its runs have ended."""
        self.channel.close()
        self.process.wait()


class ForkedRun:
    """A run's process, with what `subprocess.Popen` has to watch and to end it."""

    def __init__(self, pid: int, server: WarmServer) -> None:
        self.pid, self.server = pid, server

    def poll(self) -> int | None:
        """Return its exit code, minus the signal that ended it, or None while it runs."""
        return self.server.code_of(self.pid)

    def wait(self) -> int:
        """Wait for its end, and return the exit code."""
        while (code := self.poll()) is None:
            time.sleep(LOOK_EVERY)
        return code

    def send_signal(self, number: int) -> None:
        """Send a signal, unless it has ended."""
        if self.poll() is None:
            try:
                os.kill(self.pid, number)
            except ProcessLookupError:  # ended since
                return

    def kill(self) -> None:
        """End it at once."""
        self.send_signal(signal.SIGKILL)


# --- the server's side ------------------------------------------------------------------------------------------------


def serve(channel: socket.socket) -> list[str] | None:
    """Fork a process for every request. Return twice: its arguments in each of them, None here when the driver ends."""
    leave_out_for_good()  # a run's collections would write to, and so copy, every page of what it shares
    pids = set[int]()
    with _children_wake() as alarm:
        while True:
            ready, _, _ = select.select([channel.fileno(), alarm], [], [])
            if alarm in ready:
                os.read(alarm, LARGEST)
                _report_ended(channel, pids)
            if channel.fileno() not in ready:
                continue
            if not (packet := channel.recv(LARGEST)):
                return None
            server = os.getpid()
            if (pid := os.fork()) == 0:
                break
            pids.add(pid)
            channel.send(json.dumps({"started": pid}).encode())
    channel.close()
    return _become(Request(*json.loads(packet)), server)


@contextmanager
def _children_wake() -> Iterator[int]:
    """Yield a descriptor that becomes readable when a child ends; afterwards signals are as before, also in a child."""
    read, write = os.pipe()
    os.set_blocking(write, False)
    before = signal.signal(signal.SIGCHLD, lambda number, frame: None)
    signal.set_wakeup_fd(write)
    try:
        yield read
    finally:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, before)
        os.close(read)
        os.close(write)


def _report_ended(channel: socket.socket, pids: set[int]) -> None:
    for pid in list(pids):
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            pids.remove(pid)
            channel.send(json.dumps({"ended": pid, "code": os.waitstatus_to_exitcode(status)}).encode())


def _become(request: Request, server: int) -> list[str]:
    """Make this forked process what a command of its own would be, and return its arguments."""
    os.setsid()
    log = os.open(request.log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
    for stream in (sys.stdout, sys.stderr):
        os.dup2(log, stream.fileno())
    os.close(log)
    os.environ.update(request.environment | {DRIVER: str(server)})
    sys.argv = [sys.argv[0], *request.arguments]
    random.seed()  # tasks that draw from global generators: no two runs the same numbers
    np.random.seed()  # noqa: NPY002 - the global one
    torch.default_generator.seed()
    return request.arguments


def log_of(folder: Path, name: str) -> Path:
    """Return the file that a run of the sweep prints to."""
    return folder / "logs" / f"{name}.log"
