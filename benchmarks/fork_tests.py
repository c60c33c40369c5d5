"""Runs tests in forks of one process that has imported the packages they need: no run waits for PyTorch to load.

Started by `benchmarks/mutants.py` in a copy of the checkout. Reads jobs, one JSON object a line, answers each by one.
The first run of some tests tells what they import; of that, this process imports what is installed, and every fork
reads the copy anew.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import os
import resource
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import coverage
import pytest

ARGUMENTS = ["-q", "-p", "no:cacheprovider", "-p", "no:xdist", "--tb=short"]
MOST_MEMORY = 8 * 2**30  # bytes; a mutant may double an array for ever


class Chosen:
    """Of what is collected keeps the tests named, in that order."""

    def __init__(self, tests: list[str]) -> None:
        self.place = {test: i for i, test in enumerate(tests)}

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        items[:] = sorted((item for item in items if item.nodeid in self.place), key=lambda x: self.place[x.nodeid])


class Measured:
    """Which tests run which lines of some files, how long each test takes, and which fail."""

    def __init__(self, files: list[str]) -> None:
        self.cover = coverage.Coverage(data_file=None, include=files, config_file=False)
        self.files, self.seconds, self.failed, self.running = files, dict[str, float](), list[str](), ""

    @pytest.hookimpl(hookwrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Iterator[None]:
        self.running = item.nodeid
        self.cover.switch_context(self.running)
        began = time.perf_counter()
        yield
        self.seconds[item.nodeid] = time.perf_counter() - began

    @pytest.hookimpl(hookwrapper=True)
    def pytest_fixture_setup(self, fixturedef: Any, request: Any) -> Iterator[None]:
        """What several tests share is run by all of its file: context `FILE::`."""
        shared = fixturedef.scope != "function"
        if shared:
            self.cover.switch_context(request.node.nodeid.split("::")[0] + "::")
        yield
        if shared:
            self.cover.switch_context(self.running)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            self.failed.append(report.nodeid)

    def result(self) -> dict[str, Any]:
        data = self.cover.get_data()
        lines = {file: {str(k): v for k, v in data.contexts_by_lineno(file).items()} for file in self.files}
        return {"seconds": self.seconds, "failed": self.failed, "lines": lines}


def measure(job: dict[str, Any]) -> int:
    plugin = Measured(job["measure"])
    plugin.cover.start()
    code = pytest.main([*ARGUMENTS, *job["paths"]], plugins=[plugin])
    plugin.cover.stop()
    Path(job["out"]).write_text(json.dumps(plugin.result() | {"imported": imported()}))
    return int(code)


def imported() -> list[str]:
    """Return the installed modules that are loaded, in that order; of pytest's plugins too."""
    files = {name: str(getattr(module, "__file__", "")) for name, module in list(sys.modules.items())}
    return [name for name, file in files.items() if "site-packages" in file]


def load(names: list[str]) -> None:
    for name in names:
        with contextlib.suppress(ImportError):  # a name that its package made up
            importlib.import_module(name)
    gc.freeze()  # else every fork would walk through all of it when pytest collects garbage


def test(job: dict[str, Any]) -> int:
    limit = f"--timeout={job['limit']:.0f}"  # of each test
    return int(pytest.main([*ARGUMENTS, "-x", limit, *job["paths"]], plugins=[Chosen(job["tests"])]))


def in_fork(job: dict[str, Any]) -> int | None:
    """Return the exit code of pytest; None if it took longer than it may."""
    pid = os.fork()
    if pid == 0:
        os.setsid()
        with open(job["log"], "w") as log:
            os.dup2(log.fileno(), 1)
            os.dup2(log.fileno(), 2)
        resource.setrlimit(resource.RLIMIT_DATA, (MOST_MEMORY, MOST_MEMORY))
        # A mutant of the same length, written within the same second, would be taken for what was compiled before.
        sys.dont_write_bytecode, os.environ["PYTHONDONTWRITEBYTECODE"] = True, "1"
        try:
            code = measure(job) if "measure" in job else test(job)
        except BaseException as error:  # whatever a mutant raises, this process ends here
            print(repr(error), flush=True)
            code = 70
        os._exit(code)
    code = wait(pid, job["seconds"])
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)  # and what it started
    if "measure" in job and code == 0:
        load(json.loads(Path(job["out"]).read_text())["imported"])
    return code


def wait(pid: int, seconds: float) -> int | None:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.02)
    os.killpg(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return None


if __name__ == "__main__":
    for line in sys.stdin:
        print(json.dumps(in_fork(json.loads(line))), flush=True)
