"""One run: step the agent, log, evaluate, checkpoint, until the budget is spent; and go on where a run stopped.

Whatever decides when a row, an evaluation or a checkpoint is due depends on counters alone, and what is pending between
two rows is part of the checkpoint: N + M steps are the same run as N, a stop anywhere, and M.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import torch
from tqdm import tqdm

from surefoot import agents
from surefoot.agents.interface import (
    Agent,
    AgentSpec,
    BanditAgent,
    OfflineData,
    Progress,
    Setting,
    Spaces,
    Termination,
    VectorEnv,
)
from surefoot.agents.parts.interaction import crosses
from surefoot.envs import UncertainLanes, Worlds, make_single, make_vec, spaces_of
from surefoot.envs.probe import without_effect
from surefoot.envs.stock import refuse_changed_rewards
from surefoot.envs.termination import termination_of
from surefoot.offline_data import load_for
from surefoot.training import run_folder
from surefoot.training.behaviour import BEHAVIOUR, behaviour_data
from surefoot.training.beside import Companions, companion_folder, compare, with_companions
from surefoot.training.checkpoint import load as load_checkpoint
from surefoot.training.checkpoint import remove_leftovers
from surefoot.training.checkpoint import save as save_checkpoint
from surefoot.training.config import RunConfig
from surefoot.training.evaluation import EvalResult, acting, evaluate
from surefoot.training.grid import load_set
from surefoot.training.interrupt import StopRequest, stop_on_signals
from surefoot.training.loggers import (
    EVALUATION_COLUMNS,
    METRIC_COLUMNS,
    CsvLog,
    Logger,
    Row,
    make_loggers,
    require_installed,
)
from surefoot.training.meters import Meter
from surefoot.training.objectives import report, served
from surefoot.training.presets import from_plain, load_preset, to_plain
from surefoot.training.process import quick_process

# What may change on resume: the budget, and what decides no number of the run. `threads` can move the last bit.
LENGTHS = ("horizon", "episodes")  # what an agent that is measured by regret is told of the length of its run
CHANGEABLE = ("steps", "threads", "logger", "checkpoint_every", "keep_checkpoints", "beside")


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
    done: bool = False
    best_return: float = -float("inf")

    def advance(self, progress: Progress, acts: bool) -> None:
        """Count one agent step; the budget is in environment steps, or in updates for an agent that never acts."""
        self.env_steps += progress.env_steps
        self.updates += progress.updates
        self.step = self.env_steps if acts else self.updates
        self.done = progress.done


@dataclass
class Run:
    """All that a run in progress holds."""

    agent_name: str
    config: RunConfig
    folder: Path
    spec: AgentSpec
    spaces: Spaces
    device: torch.device
    env: VectorEnv | None
    agent: Agent
    meter: Meter
    metrics: CsvLog
    evaluations: CsvLog
    loggers: dict[str, Logger] = field(default_factory=dict)
    counters: Counters = field(default_factory=Counters)
    saved_step: int = -1


def train(
    agent_name: str, config: RunConfig, *, out: Path = Path("runs"), name: str | None = None, preset: str | None = None
) -> Path:
    """Train an agent and return its run folder `out/name`. A signal stops it early, with a checkpoint.

    Raises `ValueError`, `FileNotFoundError`, `FileExistsError` or `ImportError` before the folder is made.
    """
    with stop_on_signals() as stop:
        run = start(agent_name, config, out / (name or run_folder.default_name(agent_name, config, preset)), preset)
        carry_out(run, stop)
    return run.folder


# --- set-up -----------------------------------------------------------------------------------------------------------


def start(agent_name: str, config: RunConfig, folder: Path, preset: str | None = None) -> Run:
    """Return a new run at its first step, its folder made last, when everything else has been found in order."""
    run_folder.require_free(folder)
    require_installed(config.logger)
    run = _build(agent_name, config, folder)
    run_folder.create(folder, agent_name, config, preset)
    try:
        run.metrics.start()
        run.evaluations.start()
        run.loggers = make_loggers(config.logger, folder, to_plain(agent_name, config))
    except BaseException:
        shutil.rmtree(folder)
        raise
    return run


def start_or_resume(folder: Path, agent_name: str, config: RunConfig, preset: str | None = None) -> Run | None:
    """Return the run in `folder` where it stands, a new one if it has no checkpoint yet; None if it is finished."""
    if (folder / "meta.json").is_file() and run_folder.is_finished(folder, config):
        return None
    if run_folder.checkpoint_steps(folder):
        return resume(folder, agent_name, config)
    shutil.rmtree(folder, ignore_errors=True)  # killed before its first checkpoint
    return start(agent_name, config, folder, preset)


def resume(folder: Path, agent_name: str, config: RunConfig) -> Run:
    """Return a run at its latest checkpoint, rows written after it dropped.

    Raises `ValueError` where agent or configuration is another than the run's, but for the `CHANGEABLE` fields.
    """
    steps = run_folder.checkpoint_steps(folder)
    if not steps:
        raise FileNotFoundError(f"{folder}: no checkpoint to resume from; start the run again under another --name")
    path = run_folder.checkpoint_path(folder, "step", steps[-1])
    state = load_checkpoint(path)
    _require_same_run(state, agent_name, config, path)
    require_installed(config.logger)
    if state["device"] != (device := pick_device(config.device).type):
        raise ValueError(f"{path}: made on {state['device']}, not {device}; go on with it on a machine that has one")
    run = _build(agent_name, config, folder)
    run.agent.load_state_dict(state["agent"])
    run.meter.load_state_dict(state["meter"])
    run.counters = Counters(**state["counters"])
    run.saved_step = run.counters.step
    run.metrics.load_state_dict(state["metrics"])
    run.evaluations.load_state_dict(state["evaluations"])
    remove_leftovers(folder / "checkpoints")
    run.loggers = make_loggers(
        config.logger, folder, to_plain(agent_name, config), run.counters.env_steps, state["loggers"]
    )
    run_folder.mark_resumed(folder, agent_name, config)
    return run


def pick_device(name: str) -> torch.device:
    """Return the device that `auto`, `cpu`, `cuda` or `cuda:N` stands for; `ValueError` where it is missing."""
    available = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if name == "auto":
        return torch.device("cuda" if available else "cpu")
    device = torch.device(name)
    if device.type == "cuda" and (device.index or 0) >= available:
        raise ValueError(f"device {name} was asked for, but PyTorch sees {available} CUDA devices; pass --device cpu")
    return device


def _build(agent_name: str, config: RunConfig, folder: Path) -> Run:
    spec, device = agents.get(agent_name), pick_device(config.device)
    if config.num_seeds > 1 and not spec.stacks_seeds:
        raise ValueError(
            f"{agent_name} trains one seed a run, not num_seeds {config.num_seeds}; start one run for each"
        )
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    spaces = Spaces(*spaces_of(config.env))
    if getattr(config.agent, "stock", False):
        _require_real_rewards(config)
    data = _load_data(agent_name, spec, config, spaces, device)
    ends = _termination(spec, config, spaces)
    lanes = replace(config.env, num_envs=config.env.num_envs * config.num_seeds)
    env, worlds = training_env(agent_name, spec, replace(config, env=lanes), device)
    how = (config.compile, config.cudagraph, config.num_seeds)
    setting = Setting(spaces, config.seed, device, env, data, *how, termination=ends, worlds=worlds)
    try:
        agent = spec.make_agent(config.agent, setting)
        if config.eval.objectives:
            served(agent.policy, config.eval.objectives)
    except BaseException:
        if env is not None:
            env.close()
        raise
    logs = CsvLog(folder / "metrics.csv", METRIC_COLUMNS), CsvLog(folder / "evaluations.csv", EVALUATION_COLUMNS)
    return Run(agent_name, config, folder, spec, spaces, device, env, agent, Meter(device), *logs)


def training_env(
    agent_name: str, spec: AgentSpec, config: RunConfig, device: torch.device
) -> tuple[VectorEnv | None, Worlds | None]:
    """Return the lanes to train in, with the parameters of `uncertainty` if there is one, and its worlds to play in."""
    if config.uncertainty is None:
        if spec.needs_worlds:
            raise ValueError(
                f"{agent_name} trains in an uncertainty set: pass --uncertainty, or a preset that names one"
            )
        return (make_vec(config.env, device=device) if spec.acts else None), None
    if not spec.acts:
        raise ValueError(f"{agent_name} never acts, so there is nothing for --uncertainty {config.uncertainty} to vary")
    uncertainty = load_set(config.uncertainty)
    worlds = Worlds(config.env, uncertainty, device=device)
    for name in without_effect(config.env, uncertainty):
        tqdm.write(f"note: {name} has no effect: every value of {config.uncertainty} gives the same motion")
    return UncertainLanes(config.env, uncertainty, device=device), worlds


def _require_real_rewards(config: RunConfig) -> None:
    """Raise `ValueError` where the task changes rewards that a stock adds up, or ends episodes while it goes on."""
    env = make_single(config.env)
    try:
        refuse_changed_rewards(env)
    finally:
        env.close()


def _load_data(
    agent_name: str, spec: AgentSpec, config: RunConfig, spaces: Spaces, device: torch.device
) -> OfflineData | None:
    if config.data.source is None:
        if spec.needs_data:
            raise ValueError(f"{agent_name} learns from recorded data: pass --data.source, or a preset that names one")
        return None
    if config.data.source.startswith(BEHAVIOUR):
        return behaviour_data(config.data, config.env, seed=config.seed).to(device)
    return load_for(config.data, *spaces, seed=config.seed).to(device)


def _termination(spec: AgentSpec, config: RunConfig, spaces: Spaces) -> Termination | None:
    if not spec.imagines:
        return None
    spec.make_policy(config.agent, spaces)  # a task that the agent cannot play is the better message
    return termination_of(config.env)


def _require_same_run(state: dict[str, Any], agent_name: str, config: RunConfig, path: Path) -> None:
    missing = {"agent", "agent_name", "config", "counters", "meter", "metrics", "evaluations"} - set(state)
    if missing:
        raise ValueError(f"{path}: not a training checkpoint (no {', '.join(sorted(missing))})")
    if state["agent_name"] != agent_name:
        raise ValueError(f"{path}: a run of {state['agent_name']}, not of {agent_name}")
    _, before = from_plain(state["config"], str(path))
    old, new = (_flat(to_plain(agent_name, settings)) for settings in (before, config))
    changed = [name for name in new if new[name] != old[name] and name not in CHANGEABLE]
    if changed:
        changes = ", ".join(f"{name} was {old[name]!r}, not {new[name]!r}" for name in changed)
        raise ValueError(f"{path}: {changes}; only {', '.join(CHANGEABLE)} may change on resume")
    if config.steps < state["counters"]["step"]:
        raise ValueError(f"{path}: already at step {state['counters']['step']}; --steps {config.steps} is less")


def _flat(plain: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in plain.items():
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, dict) and value else {prefix + name: value}
    return flat


# --- the loop ---------------------------------------------------------------------------------------------------------


def carry_out(run: Run, stop: StopRequest) -> None:
    """Train until the budget is spent or `stop` asks to end, companions beside it; leave the folder in order."""
    began = time.perf_counter() - run.counters.seconds
    status = "failed"
    run_folder.mark(run.folder, "running", run.counters.seconds)
    try:
        apart = replace(run.config, beside=()) if run.spec.regret else run.config
        with quick_process(), Companions(run.folder, apart, lambda: stop) as companions:
            _loop(run, stop, lambda: time.perf_counter() - began)
            if not stop:
                _finish(run)
                companions.wait()
        if run.spec.regret:
            _play_companions(run, stop)
        if not stop:
            compare(run.folder, run.agent_name, run.config, run.device)
            if run.config.eval.objectives:
                report(run.folder, with_companions(run.folder, run.agent_name, run.config), run.device)
        status = "finished"
    finally:
        run.counters.seconds = time.perf_counter() - began
        with suppress(OSError):  # a full disk must not hide what went wrong before
            run_folder.mark(run.folder, "interrupted" if stop else status, run.counters.seconds)
        for logger in run.loggers.values():
            logger.close()
        if run.env is not None:
            run.env.close()


def _loop(run: Run, stop: StopRequest, clock: Callable[[], float]) -> None:
    config, counters = run.config, run.counters
    with tqdm(total=config.steps, initial=counters.step, unit="step", disable=None, desc=run.agent_name) as bar:
        while counters.step < config.steps and not counters.done and not stop:
            before = counters.step
            progress = run.agent.step()
            counters.advance(progress, run.spec.acts)
            run.meter.add(progress)
            for line in progress.notes:
                tqdm.write(line)
            bar.update(counters.step - before)
            counters.seconds = clock()
            due = {name: crosses(before, counters.step, every) for name, every in _intervals(config).items()}
            row: dict[str, Any] = {}
            if due["log"]:
                row |= log_metrics(run, bar)
            if due["evaluation"] and not run.spec.regret:
                row |= log_evaluation(run)
            _send(run, row)
            if due["checkpoint"]:
                save(run)
    if run.saved_step != counters.step:
        save(run)


def _finish(run: Run) -> None:
    """Write the rows of the last, incomplete intervals.

    They come after the last checkpoint on purpose: a run whose budget is extended drops them and is the same run as
    one that had the longer budget from the start.
    """
    row: dict[str, Any] = {}
    if run.counters.logged_step != run.counters.step:
        row |= log_metrics(run)
    if run.counters.evaluated_step != run.counters.step and not run.spec.regret:
        row |= log_evaluation(run)
    _send(run, row)


def _play_companions(run: Run, stop: StopRequest) -> None:
    """Train what is compared with this run by regret: in the same environment, for as long, with data of its own.

    In this process, one after the other: their runs take seconds, less than a process takes to start.
    """
    for entry in run.config.beside:
        agent_name, preset = entry.split("/")
        theirs = load_preset(agent_name, preset)
        told = {name: getattr(run.config.agent, name) for name in LENGTHS if hasattr(theirs.agent, name)}
        config = replace(run.config, agent=replace(theirs.agent, **told), data=theirs.data, beside=())
        folder = companion_folder(run.folder, entry)
        companion = None if stop else start_or_resume(folder, agent_name, config, preset)
        if companion is not None:
            carry_out(companion, stop)


def _intervals(config: RunConfig) -> dict[str, int]:
    return {"log": config.log_every, "evaluation": config.eval.every, "checkpoint": config.checkpoint_every}


def log_metrics(run: Run, bar: tqdm | None = None) -> Row:
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
    """Return what the progress line says."""
    regret = [f"regret {row['regret']:,.1f} ± {row['regret_se']:,.1f} (standard error)"] if spec.regret else []
    first = {} if spec.regret else {"episode return": row.get("episode_return")}
    named = first | {name: row.get(name) for name in spec.shown}
    shown = {name: value for name, value in named.items() if value is not None}
    return regret + [f"{name} {value:.{1 if abs(value) >= 10 else 2}f}" for name, value in shown.items()]


def _regret(run: Run) -> Row:
    """Return the regret so far: mean over replicates, its standard error (0 for one), and the realised one."""
    if not run.spec.regret:
        return {}
    regret = cast(BanditAgent, run.agent).regret
    replicates = len(regret.total)
    error = float(regret.total.std()) / replicates**0.5 if replicates > 1 else 0.0
    return {"regret": float(regret.total.mean()), "regret_se": error, "realised_regret": float(regret.realised.mean())}


def log_evaluation(run: Run) -> Row:
    """Measure the policy in `eval.physics`, append its episodes to evaluations.csv, keep the best policy."""
    settings = run.config.eval
    env = replace(run.config.env, physics=settings.physics)
    result = evaluate(acting(run.agent), env, episodes=settings.episodes, seed=settings.seed, device=run.device)
    run.evaluations.write(_evaluation_rows(run, result))
    run.counters.evaluated_step = run.counters.step
    mean = float(result.returns.mean())
    if mean > run.counters.best_return:
        run.counters.best_return = mean
        _save_policy(run, run.folder / "checkpoints" / "best.pt")
    score = {} if result.score is None else {"eval/score": float(result.score.mean())}
    suffix = f", score {score['eval/score']:.1f}" if score else ""
    tqdm.write(f"{run.agent_name} at {run.counters.step:,}: return {mean:.1f} ± {result.returns.std():.1f}{suffix}")
    return {"eval/episode_return": mean, "eval/length": float(result.lengths.mean()), **score}


def _evaluation_rows(run: Run, result: EvalResult) -> list[Row]:
    scores = [None] * len(result.returns) if result.score is None else result.score.tolist()
    columns = zip(result.returns.tolist(), result.lengths.tolist(), scores, strict=True)
    return [
        {**_place(run), "episode": i, "episode_return": episode_return, "length": length, "score": score}
        for i, (episode_return, length, score) in enumerate(columns)
    ]


def _place(run: Run) -> dict[str, int]:
    return {name: getattr(run.counters, name) for name in ("step", "env_steps", "updates")}


def _send(run: Run, row: Row) -> None:
    if row:
        for logger in run.loggers.values():
            logger.log(row, run.counters.env_steps)


# --- checkpoints ------------------------------------------------------------------------------------------------------


def save(run: Run) -> None:
    """Write the checkpoint of this step, then drop the oldest. The policy goes first: no checkpoint is without one."""
    step = run.counters.step
    _save_policy(run, run_folder.checkpoint_path(run.folder, "policy", step))
    if run.spec.regret:
        run_folder.save_regret(run.folder, *cast(BanditAgent, run.agent).regret.trace())
    if hasattr(run.agent, "path"):
        run_folder.save_path(run.folder, run.agent.path)
    save_checkpoint(run_folder.checkpoint_path(run.folder, "step", step), _state(run))
    run.saved_step = step
    for kind in ("step", "policy"):
        for old in run_folder.checkpoint_steps(run.folder, kind)[: -run.config.keep_checkpoints]:
            run_folder.checkpoint_path(run.folder, kind, old).unlink()


def _state(run: Run) -> dict[str, Any]:
    return {
        "agent_name": run.agent_name,
        "config": to_plain(run.agent_name, run.config),
        "device": run.device.type,
        "agent": run.agent.state_dict(),
        "meter": run.meter.state_dict(),
        "counters": asdict(run.counters),
        "metrics": run.metrics.state_dict(),
        "evaluations": run.evaluations.state_dict(),
        "loggers": {name: logger.state_dict() for name, logger in run.loggers.items()},
    }


def _save_policy(run: Run, path: Path) -> None:
    step, policy = run.counters.step, run.agent.policy
    run_folder.save_policy(path, run.agent_name, run.config, run.spaces, step, policy)
