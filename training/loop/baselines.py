"""Baseline runs: other methods trained in parallel with a run, each an ordinary run with a folder of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from operator import attrgetter
from pathlib import Path
from typing import Any

from tqdm import tqdm

from surefoot.configs.casting import read_yaml
from surefoot.evaluation.policy_files import checkpoint_steps
from surefoot.training.config.baselines import Planned, plan_baseline
from surefoot.training.config.presets import from_plain, load_preset
from surefoot.training.config.run import RunConfig
from surefoot.training.loop.budget import settle
from surefoot.training.loop.interrupt import DRIVER
from surefoot.training.loop.setup import CHANGEABLE, require_not_beyond, what_may_not_change
from surefoot.training.runs.folder import read_config, read_meta, seed_folders, write_config
from surefoot.training.runs.lock import remove_own

LAST_LINES = 15  # of a failed baseline run's log, enough for the error and where it came from


def baseline_folder(run: Path, entry: str) -> Path:
    """Return the folder of the baseline run `AGENT/PRESET` of a run."""
    return run / "baselines" / entry.replace("/", "-")


def config_file(run: Path, entry: str) -> Path:
    """Return where the configuration of a baseline run is, from before it starts."""
    folder = baseline_folder(run, entry)
    return folder.parent / f"{folder.name}.yaml"


def plan_baselines(agent_name: str, config: RunConfig[Any], preset: str | None) -> dict[str, Planned]:
    """Return {AGENT/PRESET: its run} of a new run that started from a preset, or from none.

    Raises `ValueError` or `FileNotFoundError` where an entry of `baselines` names no agent or preset, or cannot be
    compared with the run; nothing has been written by then.
    """
    return dict(_planned(config.baselines, agent_name, config, preset))


def _planned(
    entries: Sequence[str], agent_name: str, config: RunConfig[Any], preset: str | None
) -> Iterator[tuple[str, Planned]]:
    for entry in entries:
        theirs = load_preset(*entry.split("/"))
        planned = plan_baseline(entry, theirs, agent_name, config, _start_of(agent_name, preset))
        yield entry, planned._replace(config=settle(planned.agent_name, planned.config)[0])


def _start_of(agent_name: str, preset: str | None) -> RunConfig[Any] | None:
    try:
        return load_preset(agent_name, preset) if preset else None
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"{error}; baseline runs take what a run changes of its preset: put it back, or pass --baselines alone to "
            "train without them"
        ) from error


def plan_resumed_baselines(run: Path, agent_name: str, config: RunConfig[Any]) -> dict[str, Planned]:
    """Return {AGENT/PRESET: its run} of a run that is resumed under `config`: they get what that changes, too.

    Raises `ValueError` where a baseline run was trained under other settings than it would have now, or is beyond its
    budget.
    """
    before, preset = read_config(run)[1], read_meta(run).get("preset")
    planned = {}
    for entry in config.baselines:
        if config_file(run, entry).is_file():
            planned[entry] = plan_baseline(entry, read_baseline(run, entry)[1], agent_name, config, before)
        else:
            planned |= _planned([entry], agent_name, config, preset)
        _require_resumable(baseline_folder(run, entry), planned[entry])
    return planned


def _require_resumable(folder: Path, planned: Planned) -> None:
    steps = _steps_of(folder)
    if not steps:
        return
    before = read_config(folder)[1]
    if changes := what_may_not_change(planned.agent_name, before, planned.config):
        raise ValueError(f"{folder}: trained under other settings: {changes}; move it away to train it anew")
    require_not_beyond(steps[-1], before, planned.config, folder)


def _steps_of(folder: Path) -> list[int]:
    """Return the steps of the checkpoints in a run, of whichever seed, ascending."""
    return sorted(step for one in seed_folders(folder) for step in checkpoint_steps(one))


def save_baselines(run: Path, planned: Mapping[str, Planned]) -> None:
    """Write the configurations of a run's baseline runs into its folder, and say what they do not take over."""
    for entry, (agent_name, config, notes) in planned.items():
        path = config_file(run, entry)
        path.parent.mkdir(exist_ok=True)
        write_config(path, agent_name, config, entry.partition("/")[2])
        for note in notes:
            tqdm.write(f"note: {note}")


def read_baseline(run: Path, entry: str) -> tuple[str, RunConfig[Any]]:
    """Return agent and configuration of a baseline run of a run."""
    path = config_file(run, entry)
    return from_plain(read_yaml(path), str(path))


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
        log = folder.parent / f"{folder.name}.log"
        with log.open("ab") as output:
            with self.lock:
                if self.stopping:
                    return
                # A session of its own: Ctrl-C in the terminal reaches it through this run only, once.
                child = subprocess.Popen(
                    self._command(entry, folder),
                    env=os.environ | {DRIVER: str(os.getpid())},
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
        agent_name, config = read_baseline(self.run, entry)
        call = [sys.executable, "-P", "-m", "surefoot.training.cli.main", "train", agent_name]
        if _steps_of(folder):
            names = [name for name in CHANGEABLE if name not in ("threads", "logger", "baselines")]
            options = [f"--{name.replace('_', '-')}={attrgetter(name)(config)}" for name in names]
            return [*call, "--resume", str(folder), *options, "--logger", *config.logger]
        remove_own(folder, waits=True)  # killed before its first checkpoint; it may be ending with its parent
        place = ["--out", str(folder.parent), "--name", folder.name]
        return [*call, "--config", str(config_file(self.run, entry)), *place]


def _ended(future: Future[None], patience: float = 0.2) -> bool:
    """Whether the future is done, after waiting for it a moment; its error is left for `result`."""
    try:
        future.exception(timeout=patience)
    except TimeoutError:
        return False
    return True
