"""From a configuration to a run that is ready to step: a new one, or one at its latest checkpoint."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium as gym
import torch
from tqdm import tqdm

from surefoot import agents
from surefoot.agents.interface import (
    AgentSpec,
    OfflineData,
    Setting,
    Spaces,
    VectorEnv,
)
from surefoot.agents.parts.engine import Engine
from surefoot.configs.casting import flattened, option
from surefoot.envs import (
    BatchedPerturbedEnvs,
    TensorVectorEnv,
    UncertainVectorEnv,
    examine_task,
    make_single,
    make_vec,
    own_action_space,
    require_time_limit,
    spaces_of,
)
from surefoot.envs.make import space_notes
from surefoot.envs.spaces import describe
from surefoot.envs.stock import refuse_changed_rewards
from surefoot.envs.termination import termination_of
from surefoot.envs.uncertainty.probe import without_effect
from surefoot.evaluation import policy_files
from surefoot.evaluation.objectives import served
from surefoot.evaluation.uncertainty_grid import load_set
from surefoot.offline_data import load_for
from surefoot.offline_data.files import remove_leftovers
from surefoot.offline_data.sources import BEHAVIOUR
from surefoot.training.config.measure import further_columns
from surefoot.training.config.presets import from_plain, to_plain
from surefoot.training.config.run import NO_NUMBER, RunConfig
from surefoot.training.loop.behaviour import behaviour_data
from surefoot.training.loop.best import keep_best, restored
from surefoot.training.loop.budget import settle, what_will_run
from surefoot.training.loop.checkpoints import Found, find_checkpoints, latest_whole, set_later_aside
from surefoot.training.loop.engines import engine_in_use, new_engine, pick_device, same_engine, wanted_engine
from surefoot.training.loop.interrupt import belongs_to_a_driver
from surefoot.training.loop.loop import ActiveRun, Counters
from surefoot.training.runs import folder as run_folder
from surefoot.training.runs.lock import remove_own, take
from surefoot.training.runs.loggers import (
    EVALUATION_COLUMNS,
    METRIC_COLUMNS,
    CsvLog,
    make_loggers,
    require_installed,
)
from surefoot.training.runs.meters import Meter

CHANGEABLE = ("steps", *NO_NUMBER, "eval.patience")


def start(
    agent_name: str,
    config: RunConfig[Any],
    folder: Path,
    preset: str | None = None,
    data: OfflineData | None = None,
) -> ActiveRun:
    """Return a new run at its first step, its folder made last, when everything else has been found in order.

    `data` are those of `config.data` where they have been read already.
    """
    run_folder.require_free(folder)
    require_installed(config.logger)
    config, plan = settle(agent_name, config)
    run = _build(agent_name, config, folder, new_engine(config), data, examine=True)
    run.plan = what_will_run(agent_name, plan, config)
    try:
        run.lock = lock = run_folder.create(folder, agent_name, config, preset, run.engine)
        try:
            run.metrics.start()
            run.evaluations.start()
            run.loggers = make_loggers(config.logger, folder, to_plain(agent_name, config))
        except BaseException:
            run_folder.discard(folder, lock)
            raise
    except BaseException:
        run.close()
        raise
    return run


def start_or_resume(
    folder: Path,
    agent_name: str,
    config: RunConfig[Any],
    preset: str | None = None,
    data: OfflineData | None = None,
) -> ActiveRun | None:
    """Return the run in `folder` where it stands, a new one if it has no checkpoint yet; None if it is finished."""
    config, _ = settle(agent_name, config)
    if (folder / "meta.json").is_file() and run_folder.is_finished(folder, config):
        return None
    if policy_files.checkpoint_steps(folder):
        return resume(folder, agent_name, config, data)
    remove_own(folder, waits=belongs_to_a_driver())  # killed before its first checkpoint
    return start(agent_name, config, folder, preset, data)


def resume(
    folder: Path,
    agent_name: str,
    config: RunConfig[Any],
    data: OfflineData | None = None,
    from_step: int | None = None,
) -> ActiveRun:
    """Return a run at its latest checkpoint that is whole, or at that of `from_step`, rows written after it dropped.

    Later checkpoints go, but for damaged ones, which get names of their own.

    Raises:
        ValueError: agent or configuration is another than the run's, but for the `CHANGEABLE` fields.
        FileNotFoundError: no checkpoint, or none of that step.
        BlockingIOError: another process has the run.
    """
    find_checkpoints(folder, from_step)
    lock = take(folder, waits=belongs_to_a_driver())
    try:
        checkpoint = latest_whole(find_checkpoints(folder, from_step))
        run = _taken_up(folder, agent_name, config, data, checkpoint)
    except BaseException:
        lock.release()
        raise
    run.lock = lock
    return run


def _taken_up(
    folder: Path, agent_name: str, config: RunConfig[Any], data: OfflineData | None, checkpoint: Found
) -> ActiveRun:
    path, state = checkpoint.path, checkpoint.state
    _require_same_run(state, agent_name, config, path)
    require_installed(config.logger)
    _require_replayable(folder, config)
    if state["device"] != (device := pick_device(config.device).type):
        raise ValueError(f"{path}: made on {state['device']}, not {device}; resume it on a machine that has one")
    config, plan = settle(agent_name, config)
    run = _build(agent_name, config, folder, same_engine(config, state.get("engine", "eager"), path), data)
    try:
        fresh = config.resume_episodes == "fresh" and _begin_fresh_episodes(run.env)
        run.agent.load_state_dict(state["agent"])
        _take_in_state(run, state)
        run.plan = what_will_run(agent_name, plan, config, run.saved_step)
        set_later_aside(folder, checkpoint)
        remove_leftovers(folder)
        plain = to_plain(agent_name, config)
        run.loggers = make_loggers(config.logger, folder, plain, run.counters.step, state["loggers"])
        run.replayable = run_folder.read_meta(folder).get("episodes_replayable", True)
        run_folder.mark_resumed(folder, agent_name, config, fresh_episodes=fresh)
    except BaseException:
        run.close()
        raise
    return run


def _take_in_state(run: ActiveRun, state: dict[str, Any]) -> None:
    """Bring all of a run but its agent to where a checkpoint was made; say which rows are lost."""
    run.meter.load_state_dict(state["meter"])
    run.best = restored(state, run.folder, run.agent_name, run.config)
    if "best" in state:
        keep_best(run.folder, run.agent_name, run.config, run.spaces, run.own_action, run.best)
    run.counters = Counters(**{name: value for name, value in state["counters"].items() if name != "best_return"})
    run.saved_step = run.counters.step
    for log, name in ((run.metrics, "metrics"), (run.evaluations, "evaluations")):
        if lost := log.load_state_dict(state[name]):
            tqdm.write(f"note: {log.path}: {lost} of {state[name]['rows']} rows are lost; the run itself is not")


def _require_replayable(folder: Path, config: RunConfig[Any]) -> None:
    """Raise where the task is known not to come back to its state: its actions are never repeated."""
    if config.resume_episodes == "replayed" and not run_folder.read_meta(folder).get("episodes_replayable", True):
        raise ValueError(
            f"{folder}: {config.env.id} cannot be brought back to its state (global random numbers, or hardware); "
            "--resume-episodes fresh goes on with new episodes"
        )


def _begin_fresh_episodes(env: Any) -> bool:
    """Let the next loading of a state begin new episodes; False where a tensor task has all of its state saved."""
    if env is None or not isinstance(env.unwrapped, TensorVectorEnv):
        return False
    env.unwrapped.fresh_episodes = True
    return True


def _build(
    agent_name: str,
    config: RunConfig[Any],
    folder: Path,
    engine: Engine,
    data: OfflineData | None = None,
    *,
    examine: bool = False,
) -> ActiveRun:
    spec, device = agents.get(agent_name), pick_device(config.device)
    assert config.num_seeds == 1 or spec.stacks_seeds, "each of several seeds is a run of its own"
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    spaces = Spaces(*spaces_of(config.env))
    _require_actions(agent_name, spec, config.env.id, spaces.action)
    for line in space_notes(config.env):
        tqdm.write(f"note: {line}")
    if (config.compile or config.cudagraph) and not spec.has_compiled_form:
        raise ValueError(f"{agent_name} has no compiled or captured form; leave --compile and --cudagraph out")
    if spec.needs_true_rewards(config.agent):
        _require_real_rewards(config)
    data = load_data(agent_name, config, spaces, device) if data is None else data
    ends = termination_of(config.env) if spec.model_based else None
    replayable = examine_task(config.env) if examine else True
    if examine and not spec.regret:
        require_time_limit(config.env)
    for_all_seeds = replace(config.env, num_envs=config.env.num_envs * config.num_seeds)
    env, perturbed_envs = training_env(agent_name, spec, replace(config, env=for_all_seeds), device)
    how = (config.compile, config.cudagraph, engine, config.num_seeds)
    setting = Setting(spaces, config.seed, device, env, data, *how, termination=ends, perturbed_envs=perturbed_envs)
    try:
        agent = spec.make_agent(config.agent, setting)
        engine = engine_in_use(agent_name, agent, engine, asked_for=wanted_engine(config) != "auto")
        if config.eval.objectives:
            served(agent.policy, config.eval.objectives)
    except BaseException:
        if env is not None:
            env.close()
        raise
    columns = (*EVALUATION_COLUMNS, *further_columns(agent_name, config))
    logs = CsvLog(folder / "metrics.csv", METRIC_COLUMNS), CsvLog(folder / "evaluations.csv", columns)
    task = spaces, own_action_space(config.env), device, env
    measured_in = perturbed_envs and perturbed_envs.in_dynamics(config.eval.physics)
    of_run = agent_name, config, folder, spec, *task, agent, Meter(device), *logs
    return ActiveRun(*of_run, engine=engine, replayable=replayable, perturbed_envs=measured_in)


def training_env(
    agent_name: str, spec: AgentSpec, config: RunConfig[Any], device: torch.device
) -> tuple[VectorEnv | None, BatchedPerturbedEnvs | None]:
    """Return the training environments, and where `uncertainty` is set the environments of that set to evaluate in."""
    if config.uncertainty is None:
        if spec.needs_uncertainty_set:
            raise ValueError(
                f"{agent_name} trains in an uncertainty set: pass --uncertainty, or a preset that names one"
            )
        return (None if spec.offline else make_vec(config.env, device=device)), None
    if spec.offline:
        raise ValueError(f"{agent_name} is offline, so there is nothing for --uncertainty {config.uncertainty} to vary")
    uncertainty = load_set(config.uncertainty)
    perturbed_envs = BatchedPerturbedEnvs(config.env, uncertainty, device=device)
    for name in without_effect(config.env, uncertainty):
        tqdm.write(f"note: {name} has no effect: every value of {config.uncertainty} gives the same motion")
    return UncertainVectorEnv(config.env, uncertainty, device=device), perturbed_envs


def _require_actions(agent_name: str, spec: AgentSpec, task: str, space: gym.Space[Any]) -> None:
    """Raise `ValueError` where the agent takes other actions than the task does; name the agents that take those."""
    kind = "Discrete" if isinstance(space, gym.spaces.Discrete) else "Box"
    if kind not in spec.actions and spec.regret is None:  # the others name the tasks that they are for
        raise ValueError(
            f"{agent_name} takes {spec.actions[0]} actions, and those of {task} are {describe(space)}; choose another "
            f"--env.id, or one of the agents for {kind} actions: {', '.join(agents.taking(kind))}"
        )


def _require_real_rewards(config: RunConfig[Any]) -> None:
    """Raise `ValueError` where the task changes rewards that a stock adds up, or ends episodes while it continues."""
    env = make_single(config.env)
    try:
        refuse_changed_rewards(env)
    finally:
        env.close()


def load_data(agent_name: str, config: RunConfig[Any], spaces: Spaces, device: torch.device) -> OfflineData | None:
    """Return the recorded data of a run; None where it has none. `ValueError` for an agent that needs some."""
    if config.data.source is None:
        if agents.get(agent_name).needs_data:
            raise ValueError(f"{agent_name} learns from recorded data: pass --data.source, or a preset that names one")
        return None
    if config.data.source.startswith(BEHAVIOUR):
        return behaviour_data(config.data, config.env, seed=config.seed).to(device)
    return load_for(config.data, *spaces, seed=config.seed).to(device)


def _require_same_run(state: dict[str, Any], agent_name: str, config: RunConfig[Any], path: Path) -> None:
    missing = {"agent", "agent_name", "config", "counters", "meter", "metrics", "evaluations"} - set(state)
    if missing:
        raise ValueError(f"{path}: not a training checkpoint (no {', '.join(sorted(missing))})")
    if state["agent_name"] != agent_name:
        raise ValueError(f"{path}: a run of {state['agent_name']}, not of {agent_name}")
    before = from_plain(state["config"], str(path))[1]
    require_same_settings(agent_name, before, config, path)
    require_not_beyond(state["counters"]["step"], before, config, path)


def require_not_beyond(step: int, before: RunConfig[Any], after: RunConfig[Any], where: Path) -> None:
    """Raise `ValueError` where a run has been trained for longer than it would be under another budget.

    A budget is spent in whole iterations, such as of 1,002 steps for --steps 100: to be beyond the budget that it was
    trained under is the way of a run, and so it is with any budget from there on.
    """
    if after.steps < min(step, before.steps):
        raise ValueError(f"{where}: already at step {step}; --steps {after.steps} is less")


def require_same_settings(agent_name: str, before: RunConfig[Any], after: RunConfig[Any], where: Path) -> None:
    """Raise `ValueError` where settings differ that a run may not change when it is resumed."""
    if changes := what_may_not_change(agent_name, before, after):
        may = f"only {', '.join(map(option, CHANGEABLE))} may change on resume"
        limit = option("env.max_episode_steps")  # of evaluations alone where nobody acts: a run's must be comparable
        advice = f"; begin a new run for another {limit}, or measure this one with it by `surefoot evaluate`"
        raise ValueError(f"{where}: {changes}; {may}{advice if limit in changes else ''}")


def what_may_not_change(agent_name: str, before: RunConfig[Any], after: RunConfig[Any]) -> str:
    """Return in words which settings differ that a run may not change when it is resumed; nothing where none does."""
    old, new = (flattened(to_plain(agent_name, settings)) for settings in (before, after))
    names = [name for name in (old | new) if name not in CHANGEABLE and old.get(name) != new.get(name)]
    return ", ".join(f"{option(name)} was {old.get(name)!r}, not {new.get(name)!r}" for name in names)
