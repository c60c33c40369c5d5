"""`surefoot sweep-server`, which a sweep starts for itself: the process that its runs are forked from."""

from __future__ import annotations

import atexit
import os
import socket
import sys
import threading
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import NoReturn

from surefoot import agents
from surefoot.training.cli import sweep
from surefoot.training.sweep.plan import read_plan
from surefoot.training.sweep.server import serve

MODULES = ("surefoot.evaluation.figures.curves",)  # what every run imports at its end: matplotlib


def main(arguments: list[str]) -> int:
    """Serve the sweep in a folder over a channel; in a forked process, carry out its run and return the exit code."""
    folder, descriptor = arguments
    preload(Path(folder))
    request = serve(socket.socket(fileno=int(descriptor)))
    return 0 if request is None else end_quickly(sweep.main(request[1:]))


def end_quickly(code: int) -> NoReturn:
    """End this process as Python does, but for taking every module apart: that writes to all it shares with the server.

    An error or an interrupt does not come here, and ends the process in the ordinary way.
    """
    for thread in threading.enumerate():
        if thread is not threading.current_thread() and not thread.daemon:
            thread.join()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def preload(folder: Path) -> None:
    """Import what the runs will import. Where that fails, a run meets the same error and reports it in its log."""
    for name in MODULES:
        import_module(name)
    for agent_name in sorted({entry.agent_name for entry in read_plan(folder)}):
        with suppress(Exception):
            agents.get(agent_name)
