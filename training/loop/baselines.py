"""Baseline runs: other methods trained in parallel with a run, each an ordinary run with a folder of its own."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from surefoot import agents
from surefoot.evaluation.policy_files import checkpoint_steps
from surefoot.training.config.presets import load_preset
from surefoot.training.config.run import RunConfig

LAST_LINES = 15  # of a failed baseline run's log, enough for the error and where it came from


def baseline_folder(run: Path, entry: str) -> Path:
    """Return the folder of the baseline run `AGENT/PRESET` of a run."""
    return run / "baselines" / entry.replace("/", "-")


def require_baselines(config: RunConfig[Any], *, regret: str | None = None) -> None:
    """Raise before anything starts if an entry of `baselines` names no agent or preset, or is measured differently.

    `regret` is what the run's regret is counted in, as `AgentSpec.regret`.
    """
    for entry in config.baselines:
        agent_name, preset = entry.split("/")
        load_preset(agent_name, preset)
        if (theirs := agents.get(agent_name).regret) != regret:
            kinds = " and ".join(f"regret per {unit}" if unit else "return" for unit in (regret, theirs))
            raise ValueError(f"baselines: {entry}: cannot be compared: they are measured by {kinds}")


class BaselineRuns:
    """The baseline runs of a run as child processes, one CPU thread each, leaving one CPU to the run itself."""

    def __init__(self, run: Path, config: RunConfig[Any], should_stop: Callable[[], object]) -> None:
        self.run, self.config, self.should_stop = run, config, should_stop
        self.children: list[subprocess.Popen[bytes]] = []
        self.lock = threading.Lock()
        self.stopping = False

    def __enter__(self) -> BaselineRuns:
        self.pool = ThreadPoolExecutor(max_workers=max(1, (os.cpu_count() or 1) - 1))
        self.waiting = [self.pool.submit(self._train, entry) for entry in self.config.baselines]
        return self

    def __exit__(self, *error: object) -> None:
        """Ask whatever still runs to save and end, and wait for it."""
        with self.lock:
            self.stopping = True
            for child in self.children:
                if child.poll() is None:
                    child.send_signal(signal.SIGINT)
        self.pool.shutdown(wait=True, cancel_futures=True)

    def wait(self) -> None:
        """Wait for every baseline run or a request to stop; `ChildProcessError` with the log's end if one failed."""
        for future in self.waiting:
            while not self.should_stop() and not _ended(future):
                pass
            if future.done():
                future.result()

    def _train(self, entry: str) -> None:
        folder = baseline_folder(self.run, entry)
        folder.parent.mkdir(exist_ok=True)
        log = folder.with_suffix(".log")
        with log.open("ab") as output:
            with self.lock:
                if self.stopping:
                    return
                # A session of its own: Ctrl-C in the terminal reaches it through this run only, once.
                child = subprocess.Popen(
                    self._command(entry, folder),
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    start_new_session=True,
                )
                self.children.append(child)
            code = child.wait()
        if code and not self.stopping:
            end = "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-LAST_LINES:])
            raise ChildProcessError(f"the baseline run {entry} failed with exit code {code}; the end of {log}:\n{end}")

    def _command(self, entry: str, folder: Path) -> list[str]:
        agent_name, preset = entry.split("/")
        call = [sys.executable, "-m", "surefoot.training.cli.main", "train", agent_name]
        call += ["--resume-episodes", self.config.resume_episodes]
        if checkpoint_steps(folder):
            return [*call, "--resume", str(folder)]
        if folder.exists():  # killed before its first checkpoint
            shutil.rmtree(folder)
        place = ["--out", str(folder.parent), "--name", folder.name]
        return [*call, "--preset", preset, *place, "--seed", str(self.config.seed), "--threads", "1"]


def _ended(future: Future[None], patience: float = 0.2) -> bool:
    """Whether the future is done, after waiting for it a moment; its error is left for `result`."""
    try:
        future.exception(timeout=patience)
    except TimeoutError:
        return False
    return True
