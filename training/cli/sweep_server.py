"""`surefoot sweep-server`, which a sweep starts for itself: the process that its runs are forked from."""

from __future__ import annotations

import socket
from contextlib import suppress
from importlib import import_module
from pathlib import Path

from surefoot import agents
from surefoot.training.cli import sweep
from surefoot.training.sweep.plan import read_plan
from surefoot.training.sweep.server import serve

# What every run imports at some time: an optimiser takes the compiler, and the comparison at the end matplotlib.
MODULES = ("torch._dynamo", "surefoot.evaluation.figures.curves")


def main(arguments: list[str]) -> int:
    """Serve the sweep in a folder over a channel; in a forked process, carry out its run and return the exit code."""
    folder, descriptor = arguments
    preload(Path(folder))
    request = serve(socket.socket(fileno=int(descriptor)))
    return 0 if request is None else sweep.main(request[1:])


def preload(folder: Path) -> None:
    """Import what the runs will import. Where that fails, a run meets the same error and reports it in its log."""
    for name in MODULES:
        import_module(name)
    for agent_name in sorted({entry.agent_name for entry in read_plan(folder)}):
        with suppress(Exception):
            agents.get(agent_name)
