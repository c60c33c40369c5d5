"""Stopping a run from outside without harm."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

DRIVER = "SUREFOOT_DRIVER"  # names the process that a run belongs to, in the run's environment


class StopRequest:
    """Whether Ctrl-C, SIGTERM or SIGHUP requested a stop; the run loop looks after every agent step."""

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
            if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:
                signal.signal(signal.SIGHUP, signal.SIG_DFL)


@contextmanager
def stop_on_signals() -> Iterator[StopRequest]:
    """Turn the first Ctrl-C, SIGTERM or SIGHUP into a request; a SIGHUP that `nohup` has ignored stays so.

    Outside of the main thread no signal arrives, and none is caught.
    """
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    caught = [signal.SIGINT, signal.SIGTERM]
    if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:
        caught.append(signal.SIGHUP)  # the terminal was closed, or the connection to it broke
    previous = {number: signal.signal(number, request.receive) for number in caught}
    try:
        yield request
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def stop_with(parent: int | None) -> None:
    """End this process, by a signal that saves the run, when the process that started it is no more.

    `parent` is that process's number, None where no one waits for this one.
    """

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os.kill(os.getpid(), signal.SIGTERM)

    if parent is not None:
        threading.Thread(target=watch, daemon=True).start()


def belongs_to_a_driver() -> bool:
    """Whether another process started this one for a run of its own, as it may have started one before."""
    return DRIVER in os.environ


def parent_to_stop_with() -> int | None:
    """Return the number of the process that started this one for a run of its own: a sweep, or a run with baselines."""
    parent = os.environ.get(DRIVER)
    return None if parent is None else int(parent)
