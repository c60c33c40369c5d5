"""Stopping a run from outside without harm."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class StopRequest:
    """Whether SIGINT (Ctrl-C) or SIGTERM requested a stop; the run loop looks after every agent step."""

    def __init__(self) -> None:
        self.signal: int | None = None
        self._owner = os.getpid()

    def __bool__(self) -> bool:
        return self.signal is not None

    @property
    def exit_code(self) -> int:
        """128 + signal, as shells report it; 0 when no stop was requested."""
        return 0 if self.signal is None else 128 + self.signal

    def request(self) -> None:
        """Ask for a stop from within, as Ctrl-C would from outside."""
        self.signal = signal.SIGINT

    def receive(self, number: int, frame: FrameType | None) -> None:
        """Note the first signal; the second one ends the process at once, which harms no file."""
        self.signal = number
        if os.getpid() == self._owner:  # forked environment workers get Ctrl-C too, and wait to be closed
            signal.signal(signal.SIGINT, signal.default_int_handler)
            signal.signal(signal.SIGTERM, signal.SIG_DFL)


@contextmanager
def stop_on_signals() -> Iterator[StopRequest]:
    """Turn the first SIGINT or SIGTERM into a request. Outside of the main thread none arrives, and none is caught."""
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    previous = {number: signal.signal(number, request.receive) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield request
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
