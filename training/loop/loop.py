"""One run: step the agent, log, evaluate, checkpoint, until the budget is spent; and resume where a run stopped.

Whatever decides when a row, an evaluation or a checkpoint is due depends on counters alone, and what is pending between
two rows is part of the checkpoint: N + M steps are the same run as N, a stop anywhere, and M.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeVar, cast

import gymnasium as gym
import torch
from tqdm import tqdm

from surefoot.agents.interface import (
    Agent,
    AgentSpec,
    BanditAgent,
    Progress,
    Spaces,
    VectorEnv,
)
from surefoot.agents.parts.engine import engine_of
from surefoot.agents.parts.interaction import crosses
from surefoot.envs import BatchedPerturbedEnvs, TaskError
from surefoot.envs.check import global_generators_restored
from surefoot.evaluation import policy_files, regret
from surefoot.evaluation.storage import remove_unused_blocks
from surefoot.evaluation.storage import save as save_checkpoint
from surefoot.training.config.presets import to_plain
from surefoot.training.config.run import RunConfig
from surefoot.training.loop.best import Best, improves, keep_best
from surefoot.training.loop.evaluation import evaluate_policy
from surefoot.training.loop.finite import require_finite
from surefoot.training.loop.interrupt import StopRequest
from surefoot.training.runs import folder as run_folder
from surefoot.training.runs.lock import Lock
from surefoot.training.runs.loggers import (
    CsvLog,
    Logger,
    Row,
)
from surefoot.training.runs.meters import Meter

Result = TypeVar("Result")
Callback = Callable[[dict[str, Any]], bool | None]  # gets a row of metrics.csv; True: stop, with a checkpoint


@dataclass
class Counters:
    """Where a run stands. `step` counts in the budget's unit."""

    step: int = 0
    env_steps: int = 0
    updates: int = 0
    seconds: float = 0.0
    logged_step: int = 0
    logged_seconds: float = 0.0
    evaluated_step: int = -1
    unimproved: int = 0  # evaluations since one that was better than all before it
    done: bool = False

    def advance(self, progress: Progress, offline: bool) -> None:
        """Count one agent step; the budget is in environment steps, or in updates for an offline agent."""
        self.env_steps += progress.env_steps
        self.updates += progress.updates
        self.step = self.updates if offline else self.env_steps
        self.done = progress.done


@dataclass
class ActiveRun:
    """All that a run in progress holds."""

    agent_name: str
    config: RunConfig[Any]
    folder: Path
    spec: AgentSpec
    spaces: Spaces
    own_action: gym.Space[Any]
    device: torch.device
    env: VectorEnv | None
    agent: Agent
    meter: Meter
    metrics: CsvLog
    evaluations: CsvLog
    perturbed_envs: BatchedPerturbedEnvs | None = None  # of its uncertainty set, in the dynamics of evaluations
    best: Best | None = None
    loggers: dict[str, Logger] = field(default_factory=dict)
    counters: Counters = field(default_factory=Counters)
    saved_step: int = -1
    engine: str = "eager"  # what computes the updates
    replayable: bool = True  # whether its episodes can be replayed, as far as is known
    plan: str = ""  # what will run, in a line
    label: str = ""  # what lines for people call it; its agent, if nothing else
    lock: Lock | None = None  # of its folder
    closed: bool = False

    @property
    def stands(self) -> str:
        """Where it stands, in words."""
        return f"step {self.counters.step}"

    def close(self) -> None:
        """Close its loggers and environments, and let go of its folder; does nothing the second time."""
        if self.closed:
            return
        self.closed = True
        try:
            for logger in self.loggers.values():
                logger.close()
            if self.env is not None:
                self.env.close()
        finally:
            if self.lock is not None:
                self.lock.release()


def run_loop(
    run: ActiveRun,
    stop: StopRequest,
    elapsed: Callable[[], float],
    callback: Callback | None = None,
    until: int | None = None,
) -> None:
    """Step the agent until its budget (or step `until`) or a stop; `callback` sees each log interval's row."""
    with progress_bar(run) as bar:
        while not is_over(run, until) and not stop:
            take_in(run, step(run), stop, elapsed(), bar, callback)
    if run.saved_step != run.counters.step:
        save(run)


def progress_bar(*runs: ActiveRun) -> tqdm[Any]:
    """Return a bar of the steps of all runs."""
    total, done = sum(run.config.steps for run in runs), sum(run.counters.step for run in runs)
    return tqdm(total=total, initial=done, unit="step", disable=None, desc=runs[0].agent_name if runs else None)


def is_over(run: ActiveRun, until: int | None = None) -> bool:
    """Whether the budget is spent, the agent has reached what it was to stop at, or nothing gets better any more."""
    return (
        run.counters.done or out_of_patience(run) or run.counters.step >= (run.config.steps if until is None else until)
    )


def out_of_patience(run: ActiveRun) -> bool:
    """Whether as many evaluations in a row as `eval.patience` were no better than the best before them."""
    patience = run.config.eval.patience
    return patience is not None and run.counters.unimproved >= patience


def take_in(
    run: ActiveRun, progress: Progress, stop: StopRequest, seconds: float, bar: tqdm[Any], callback: Callback | None
) -> None:
    """Count one agent step; write the rows and the checkpoint that are due after it."""
    config, counters, before = run.config, run.counters, run.counters.step
    counters.advance(progress, run.spec.offline)
    run.meter.add(progress)
    for line in progress.notes:
        tqdm.write(line)
    bar.update(counters.step - before)
    counters.seconds = seconds
    due = {name: crosses(before, counters.step, every) for name, every in _intervals(config).items()}
    row: dict[str, Any] = {}
    if due["log"] or due["evaluation"]:
        require_finite(run.meter, run.spec.unbounded, run.agent.policy.state_dict(), _when(run))
    if due["log"]:
        row |= log_metrics(run, bar)
    if due["evaluation"] and not run.spec.regret:
        row |= log_evaluation(run)
    _send(run, row)
    if due["log"] and callback is not None and callback(row):
        stop.request()
    if due["checkpoint"]:
        save(run)


def step(run: ActiveRun) -> Progress:
    """Step the agent; where it fails on numbers that are no longer finite, that is the error."""
    return finite(run, run.agent.step)


def finite(run: ActiveRun, work: Callable[[], Result]) -> Result:
    """Do some work of the agent; where it fails on numbers that are no longer finite, that is the error."""
    try:
        return work()
    except TaskError:
        raise
    except (ArithmeticError, RuntimeError, ValueError):
        require_finite(run.meter, run.spec.unbounded, run.agent.state_dict(), _when(run))
        raise


def _when(run: ActiveRun) -> str:
    kept = f"the checkpoint of step {run.saved_step} is the last good one" if run.saved_step >= 0 else "no checkpoint"
    return f"by step {run.counters.step} ({kept})"


def finish(run: ActiveRun) -> None:
    """Write the rows of the last, incomplete intervals, and keep what a finished run keeps of its checkpoints.

    They come after the last checkpoint on purpose: a run whose budget is extended drops them and is the same run as
    one that had the longer budget from the start.
    """
    row: dict[str, Any] = {}
    if run.counters.logged_step != run.counters.step:
        row |= log_metrics(run)
    if run.counters.evaluated_step != run.counters.step and not run.spec.regret:
        row |= log_evaluation(run)
    _send(run, row)
    _drop_old(run, "step", run.config.keep_finished)


def _intervals(config: RunConfig[Any]) -> dict[str, int]:
    return {"log": config.log_every, "evaluation": config.eval.every, "checkpoint": config.checkpoint_every}


def log_metrics(run: ActiveRun, bar: tqdm[Any] | None = None) -> Row:
    """Append the means since the last row to metrics.csv and return them."""
    counters, means = run.counters, run.meter.read()
    rate = (counters.step - counters.logged_step) / max(counters.seconds - counters.logged_seconds, 1e-9)
    row = {**_place(run), "seconds": counters.seconds, "steps_per_second": rate, **means, **_regret(run)}
    run.metrics.write([row])
    counters.logged_step, counters.logged_seconds = counters.step, counters.seconds
    if bar is not None:
        bar.set_postfix_str(", ".join(_shown(run.spec, row)), refresh=False)
    return row


def _shown(spec: AgentSpec, row: Row) -> list[str]:
    """Return the text of the progress line."""
    error = row.get("regret_se")  # of one replicate there is none
    either_side = "" if error is None else f" ± {error:,.1f} (standard error)"
    regret = [f"regret {row['regret']:,.1f}{either_side}"] if spec.regret else []
    first = {} if spec.regret else {"episode return": row.get("episode_return")}
    named = first | {name: row.get(name) for name in spec.shown}
    shown = {name: value for name, value in named.items() if value is not None}
    return regret + [f"{name} {value:.{1 if abs(value) >= 10 else 2}f}" for name, value in shown.items()]


def _regret(run: ActiveRun) -> Row:
    """Return the regret so far: mean over replicates, its standard error (None of one), and the realised one."""
    if not run.spec.regret:
        return {}
    regret = cast(BanditAgent, run.agent).regret
    replicates = len(regret.total)
    error = float(regret.total.std()) / replicates**0.5 if replicates > 1 else None
    return {"regret": float(regret.total.mean()), "regret_se": error, "realised_regret": float(regret.realised.mean())}


def log_evaluation(run: ActiveRun) -> Row:
    """Measure the policy in `eval.physics`, append its episodes to evaluations.csv, keep the best policy."""
    found = evaluate_policy(run.agent_name, run.config, run.agent, run.perturbed_envs, run.device)
    run.evaluations.write([{**_place(run), **row} for row in found.rows()])
    counters, highest = run.counters, run.best.value if run.best else -math.inf
    counters.evaluated_step = counters.step
    counters.unimproved = 0 if found.value > highest else counters.unimproved + 1
    if improves(found, run.best):
        policy = copy.deepcopy(run.agent.policy.state_dict())
        engine = engine_of(run.agent.policy)
        run.best = Best(found.measure.name, found.value, counters.step, policy, engine)
        keep_best(run.folder, run.agent_name, run.config, run.spaces, run.own_action, run.best)
    tqdm.write(f"{run.label or run.agent_name} at {counters.step:,}: {found.summary()}")
    if out_of_patience(run) and counters.step < run.config.steps:
        name, before = found.measure.name, f"{counters.unimproved} evaluations were no better than {highest:.4g}"
        tqdm.write(f"it ends here, before --steps {run.config.steps:,}: {before} ({name}; --eval.patience)")
    return found.row()


def _place(run: ActiveRun) -> dict[str, int]:
    return {name: getattr(run.counters, name) for name in ("step", "env_steps", "updates")}


def _send(run: ActiveRun, row: Row) -> None:
    if row:
        for logger in run.loggers.values():
            logger.log(row, run.counters.step)


# --- checkpoints ------------------------------------------------------------------------------------------------------


def save(run: ActiveRun) -> None:
    """Write the checkpoint of this step, then drop the oldest.

    What it counts on goes first: after a power cut, too, there is no checkpoint without its rows or its policy.
    """
    step, state = run.counters.step, _state(run)
    require_finite(run.meter, run.spec.unbounded, state["agent"], _when(run))
    for log in (run.metrics, run.evaluations):
        log.sync()
    _save_policy(run, policy_files.checkpoint_path(run.folder, "policy", step))
    if run.spec.regret:
        regret.save_regret(run.folder, *cast(BanditAgent, run.agent).regret.trace())
    for name, content_of in run.spec.artefacts.items():
        run_folder.save_artefact(run.folder, name, content_of(run.agent))
    save_checkpoint(policy_files.checkpoint_path(run.folder, "step", step), state, in_blocks=True)
    if run.saved_step < 0:
        note_not_replayable(run)
    run.saved_step = step
    for kind in ("step", "policy"):
        _drop_old(run, kind, run.config.keep_checkpoints)


def _drop_old(run: ActiveRun, kind: str, keep: int) -> None:
    paths = [
        policy_files.checkpoint_path(run.folder, kind, at) for at in policy_files.checkpoint_steps(run.folder, kind)
    ]
    for old in paths[:-keep]:
        old.unlink()
    if kind == "step":
        remove_unused_blocks(run.folder / "checkpoints", paths[-keep:])


def note_not_replayable(run: ActiveRun) -> None:
    """Say at the first checkpoint, and in meta.json, where the task cannot be brought back to its state."""
    if run.env is None:
        return
    with global_generators_restored():
        run.replayable = run.replayable and run.env.can_resume()
    if not run.replayable:
        run_folder.write_meta(run.folder, {"episodes_replayable": False})
        tqdm.write(
            f"note: {run.config.env.id} cannot be brought back to its state (it draws from other generators than its "
            "np_random, or is hardware): resume this run with --resume-episodes fresh, which begins new episodes"
        )


def _state(run: ActiveRun) -> dict[str, Any]:
    return {
        "agent_name": run.agent_name,
        "config": to_plain(run.agent_name, run.config),
        "device": run.device.type,
        "engine": run.engine,
        "agent": run.agent.state_dict(),
        "meter": run.meter.state_dict(),
        "counters": asdict(run.counters),
        "metrics": run.metrics.state_dict(),
        "evaluations": run.evaluations.state_dict(),
        "best": None if run.best is None else run.best._asdict(),
        "loggers": {name: logger.state_dict() for name, logger in run.loggers.items()},
    }


def _save_policy(run: ActiveRun, path: Path) -> None:
    step, policy = run.counters.step, run.agent.policy
    policy_files.save_policy(path, to_plain(run.agent_name, run.config), run.spaces, run.own_action, step, policy)
