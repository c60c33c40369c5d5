"""The seeds of one run (`--num-seeds`): each a run of its own folder, `RUN/seed-K`, and equal to the run of that seed.

They are trained side by side where the agent can make one stacked update of theirs, else one after the other. A seed
that diverges, or whose task breaks, is left behind; the others go on.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext, redirect_stdout
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

from tqdm import tqdm

from surefoot import agents
from surefoot.agents.interface import OfflineData, Spaces
from surefoot.agents.parts.seeds import Due, SeedStack, StackableAgent, stacks
from surefoot.envs import spaces_of
from surefoot.offline_data.sources import BEHAVIOUR
from surefoot.training.config.run import RunConfig
from surefoot.training.loop.budget import settle, what_will_run
from surefoot.training.loop.engines import pick_device
from surefoot.training.loop.finite import NOT_FINITE, SeedsFailedError
from surefoot.training.loop.interrupt import StopRequest, belongs_to_a_driver
from surefoot.training.loop.loop import ActiveRun, Callback, finite, is_over, progress_bar, run_loop, save, take_in
from surefoot.training.loop.setup import load_data, require_same_settings, start_or_resume
from surefoot.training.runs import folder as run_folder
from surefoot.training.runs.folder import seed_folder
from surefoot.training.runs.lock import Lock, take

Failures = dict[int, Exception]  # by seed: what went wrong in it and says nothing of the others


@dataclass
class SeedRuns:
    """The seeds of a run that are not finished."""

    agent_name: str
    config: RunConfig[Any]  # of the run as a whole
    folder: Path
    preset: str | None
    waiting: list[int]
    opened: dict[int, ActiveRun] = field(default_factory=dict)  # all that are waiting, or the first
    plan: str = ""
    current: int = 0  # the seed that was last trained
    data: OfflineData | None = None  # that all seeds learn from
    lock: Lock | None = None  # of the folder of the run as a whole

    @property
    def side_by_side(self) -> bool:
        """Whether the seeds are trained at once."""
        return bool(self.opened) and all(stacks(run.agent, run.engine) for run in self.opened.values())

    @property
    def replayable(self) -> bool:
        return all(run.replayable for run in self.opened.values())

    @property
    def stands(self) -> str:
        """Where it stands, in words."""
        run = self.opened.get(self.current)
        return f"{run.stands} of seed {self.current}" if run else f"seed {self.current}"

    def open(self, seed: int) -> ActiveRun:
        """Return the run of a seed where it stands, or a new one."""
        if seed not in self.opened:
            config, folder = config_of(self.config, seed), seed_folder(self.folder, seed)
            said = nullcontext() if seed == self.waiting[0] else redirect_stdout(io.StringIO())
            with said:  # each would repeat the notes of the first
                run = start_or_resume(folder, self.agent_name, config, self.preset, self._data())
            assert run is not None, "it is not finished"
            run.label = f"{self.agent_name} seed {seed}"
            self.opened[seed] = run
        return self.opened[seed]

    def _data(self) -> OfflineData | None:
        """Return the data that all seeds learn from, read once; None where there are none, or of each seed its own."""
        config = self.config
        if self.data is None and config.data.fraction == 1 and not str(config.data.source).startswith(BEHAVIOUR):
            spaces = Spaces(*spaces_of(config.env))
            self.data = load_data(self.agent_name, config, spaces, pick_device(config.device))
        return self.data

    def close(self, seed: int) -> None:
        """Let go of what a seed holds that has been trained."""
        self.opened.pop(seed, None)

    def release(self) -> None:
        """Let go of the folder, and of what was opened in it and has not been trained."""
        for run in self.opened.values():
            run.close()
        if self.lock is not None:
            self.lock.release()


def seeds_apart(agent_name: str, config: RunConfig[Any]) -> int:
    """Return how many seeds of a run have folders of their own. Agents that stack seeds themselves have one folder."""
    return 1 if agents.get(agent_name).stacks_seeds else config.num_seeds


def has_seeds(agent_name: str, config: RunConfig[Any]) -> bool:
    """Whether a run is one of several seeds with a folder each."""
    return seeds_apart(agent_name, config) > 1


def seeds_of(config: RunConfig[Any]) -> range:
    """Return the seeds of a run."""
    return range(config.seed, config.seed + config.num_seeds)


def config_of(config: RunConfig[Any], seed: int) -> RunConfig[Any]:
    """Return the configuration of one of the seeds: that of the run of this seed alone."""
    return replace(config, seed=seed, num_seeds=1, baselines=())


def start_seeds(agent_name: str, config: RunConfig[Any], folder: Path, preset: str | None = None) -> SeedRuns:
    """Return a new run of several seeds at its first step; nothing is left of its folder where something is wrong."""
    if agents.get(agent_name).regret:
        raise ValueError(
            f"{agent_name} is measured by its regret and has replicates: leave out --num-seeds {config.num_seeds}"
        )
    run_folder.require_free(folder)
    config, _ = settle(agent_name, config)
    lock = run_folder.create(folder, agent_name, config, preset, subfolders=("plots",))
    try:
        runs = _opened(agent_name, config, folder, preset)
    except BaseException:
        run_folder.discard(folder, lock)
        raise
    runs.lock = lock
    run_folder.write_meta(folder, {"engine": runs.opened[config.seed].engine})
    return runs


def resume_seeds(folder: Path, agent_name: str, config: RunConfig[Any]) -> SeedRuns:
    """Return a run of several seeds where each of them stands.

    Raises `ValueError` where agent or configuration is another than the run's, but for what may change.
    """
    before_name, before = run_folder.read_config(folder)
    if before_name != agent_name:
        raise ValueError(f"{folder}: a run of {before_name}, not of {agent_name}")
    require_same_settings(agent_name, before, config, folder)
    config, _ = settle(agent_name, config)
    lock = take(folder, waits=belongs_to_a_driver())
    try:
        runs = _opened(agent_name, config, folder, run_folder.read_meta(folder).get("preset"))
        run_folder.mark_resumed(folder, agent_name, config)
    except BaseException:
        lock.release()
        raise
    runs.lock = lock
    return runs


def _opened(agent_name: str, config: RunConfig[Any], folder: Path, preset: str | None) -> SeedRuns:
    waiting = [seed for seed in seeds_of(config) if not _is_finished(seed_folder(folder, seed), config, seed)]
    runs = SeedRuns(agent_name, config, folder, preset, waiting)
    for seed in waiting[:1]:
        runs.open(seed)
    for seed in waiting[1:] if runs.side_by_side else ():
        runs.open(seed)
    plan = what_will_run(agent_name, settle(agent_name, config)[1], config)
    runs.plan = f"{plan}; {_how(runs)}"
    return runs


def _is_finished(folder: Path, config: RunConfig[Any], seed: int) -> bool:
    return (folder / "meta.json").is_file() and run_folder.is_finished(folder, config_of(config, seed))


def _how(runs: SeedRuns) -> str:
    if runs.side_by_side:
        return "seeds side by side, with one stacked update"
    if not runs.opened:
        return "every seed is finished"
    engine = next(iter(runs.opened.values())).engine
    return f"one seed after the other (the {engine} engine has no stacked update for {runs.agent_name})"


# --- side by side ----------------------------------------------------------------------------------------------------


def run_side_by_side(
    runs: Mapping[int, ActiveRun], stop: StopRequest, elapsed: Callable[[], float], callback: Callback | None = None
) -> Failures:
    """Step the agents of all runs to the end of their budget or a stop; return what was wrong with those that failed.

    A process may have been killed between the checkpoints of two seeds: those that are behind catch up alone.
    """
    failures: Failures = {}
    furthest = max((run.counters.step for run in runs.values()), default=0)
    for seed, run in runs.items():
        if run.counters.step < furthest:
            with noting(failures, seed):
                run_loop(run, stop, elapsed, with_seed(callback, seed), until=furthest)
    with progress_bar(*runs.values()) as bar:
        while not stop and (active := _under_way(runs, failures)):
            _step_together(active, failures, stop, elapsed, bar, callback)
    for seed, run in runs.items():
        if seed not in failures and run.saved_step != run.counters.step:
            with noting(failures, seed):
                save(run)
    return failures


def _under_way(runs: Mapping[int, ActiveRun], failures: Failures) -> dict[int, ActiveRun]:
    return {seed: run for seed, run in runs.items() if seed not in failures and not is_over(run)}


def _step_together(
    runs: dict[int, ActiveRun],
    failures: Failures,
    stop: StopRequest,
    elapsed: Callable[[], float],
    bar: tqdm[Any],
    callback: Callback | None,
) -> None:
    """Step the agents of some runs, which stand at the same step, until one of them ends or fails, or a stop."""
    stack = SeedStack([run.agent for run in runs.values()])
    callbacks = {seed: with_seed(callback, seed) for seed in runs}
    while not stop and not any(map(is_over, runs.values())):
        dues: dict[int, Due] = {}
        for seed, run in runs.items():
            with noting(failures, seed):
                dues[seed] = finite(run, cast(StackableAgent, run.agent).gather)
        if not dues:
            return
        if len(dues) < len(runs):
            stack = SeedStack([runs[seed].agent for seed in dues])
        for seed, progress in zip(dues, stack.update(list(dues.values())), strict=True):
            with noting(failures, seed):
                take_in(runs[seed], progress, stop, elapsed(), bar, callbacks[seed])
        if failures.keys() & runs.keys():
            return


@contextmanager
def noting(failures: Failures, seed: int) -> Iterator[None]:
    """Note what goes wrong in a seed, and go on."""
    try:
        yield
    except NOT_FINITE as error:
        failures[seed] = error
        tqdm.write(f"seed {seed} failed: {error}")


def with_seed(callback: Callback | None, seed: int) -> Callback | None:
    """Return a callback whose rows say of which seed they are."""
    if callback is None:
        return None
    told = callback
    return lambda row: told(row | {"seed": seed})


def require_all(runs: SeedRuns, failures: Failures) -> None:
    """Raise `SeedsFailedError` where some seeds failed."""
    if failures:
        seed, error = next(iter(failures.items()))
        how_many = f"{len(failures)} of {runs.config.num_seeds} seeds failed; the others are carried through"
        raise SeedsFailedError(f"{how_many}. Seed {seed}: {error}") from error
