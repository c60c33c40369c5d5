"""`surefoot train`: from a command line to a run."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Generic, TypeVar

import tyro

from surefoot import agents
from surefoot.configs import preset_names
from surefoot.configs.allowed_modules import flag_to_go_on
from surefoot.configs.casting import read_yaml
from surefoot.training.cli.errors import one_line_errors, program
from surefoot.training.cli.options import long_names, read_options, refuse_place
from surefoot.training.config.presets import default_config, from_plain, laid_over, load_preset
from surefoot.training.config.run import RunConfig
from surefoot.training.config.unread import refuse_unread
from surefoot.training.loop.finite import NOT_FINITE
from surefoot.training.loop.interrupt import StopRequest, parent_to_stop_with, stop_on_signals, stop_with
from surefoot.training.runs import folder as run_folder
from surefoot.training.runs.console import quoted
from surefoot.training.session import AnyRun, begin, execute, take_up

C = TypeVar("C")


@dataclass(frozen=True)
class Launch(Generic[C]):
    """The parsed command line: the run, and where it starts from."""

    run: Annotated[RunConfig[C], tyro.conf.arg(name="", help="")]
    preset: str | None = None
    """Start from a preset: the agent's own, OTHER/NAME of another agent, or a YAML file. Options override it."""
    config: Path | None = None
    """Start from the config.yaml of another run. Options override it."""
    resume: Path | None = None
    """Resume the run in this folder; --steps may extend its budget."""
    from_step: Annotated[int | None, tyro.conf.arg(name="from")] = None
    """With --resume: go on from the checkpoint of this step, not the latest. Later checkpoints and rows are deleted."""
    out: Path = Path("runs")
    """Folder in which the new run folder is made."""
    name: str | None = None
    """Name of the new run folder; default: agent, task, preset, seed and time."""
    allow_code: bool = False
    """Import the modules that a preset, a configuration or the resumed run names (`module:EnvId`), which runs their
    code. Those named on the command line are imported without."""


def main(arguments: list[str]) -> int:
    """Train, and return the exit code."""
    with stop_on_signals() as stop:
        stop_with(parent_to_stop_with())
        with one_line_errors(2):
            run = prepare(*parse(arguments))
        return 0 if run is None else _train(run, stop)


def prepare(agent_name: str, launch: Launch[Any]) -> AnyRun | None:
    """Return the run of a launch, new or resumed; None where it is finished already."""
    if launch.resume is None:
        if launch.from_step is not None:
            raise ValueError(f"--from {launch.from_step} is a step of a run that is there: add --resume RUN")
        name = launch.name or run_folder.default_name(agent_name, launch.run, launch.preset)
        return begin(agent_name, launch.run, launch.out / name, launch.preset)
    refuse_place(launch.out, launch.name, launch.resume)
    if launch.from_step is None and run_folder.is_finished(launch.resume, launch.run):
        print(f"{launch.resume} is finished; --steps more than {launch.run.steps} resumes it")
        return None
    return take_up(launch.resume, agent_name, launch.run, launch.from_step)


def _train(run: AnyRun, stop: StopRequest) -> int:
    print(f"run folder: {run.folder}")
    try:
        execute(run, stop)
    except (OSError, *NOT_FINITE) as error:
        if isinstance(error, OSError) and error.errno is not None:  # unlike ours, which are whole sentences
            raise
        with one_line_errors(1):
            raise
    if stop:
        command = f"{program()} {run.agent_name} --resume {quoted(run.folder)}"
        command += flag_to_go_on((run.folder / "config.yaml").read_text(encoding="utf-8"))
        command += "" if run.replayable else " --resume-episodes fresh"
        print(f"stopped at {run.stands}; resume with: {command}")
    return stop.exit_code


def parse(arguments: Sequence[str]) -> tuple[str, Launch[Any]]:
    """Return agent name and launch: options lie over `--preset`, `--config` or the resumed run's configuration."""
    named = arguments[0] if arguments and not arguments[0].startswith("-") else None
    short = {"--num-envs": "--env.num-envs", "--variant": "--agent.variant"}
    options = long_names(arguments[1:] if named else arguments, short)
    base = argparse.ArgumentParser(prog=f"{program()} {named or ''}", add_help=False, allow_abbrev=False)
    for name in ("preset", "config", "resume"):
        base.add_argument(f"--{name}")
    chosen, _ = base.parse_known_args(options)
    agent_name, config, preset = _starting_point(named, chosen.preset, chosen.config, chosen.resume)
    spec = agents.get(agent_name)
    presets = ", ".join(preset_names(agent_name)) or "none"
    form: Any = Launch[type(config.agent)]  # type: ignore[misc]  # only known now, which is what tyro is for
    launch = read_options(
        form,
        args=options,
        default=Launch(config, preset),
        prog=f"{program()} {agent_name}",
        description=f"{spec.summary}. Presets: {presets}.",
    )
    refuse_unread(agent_name, launch.run, chosen.preset, config)
    return agent_name, replace(launch, run=replace(launch.run, env=laid_over(launch.run.env, config.env)))


def _starting_point(
    named: str | None, preset: str | None, config: str | None, resumed: str | None
) -> tuple[str, RunConfig[Any], str | None]:
    """Return the agent, the settings that options lie over, and the preset that these come from, if any."""
    if config and (preset is not None or resumed):
        raise ValueError("--config does not go with --preset or --resume: each is a source of the settings")
    if resumed:
        agent_name, settings = run_folder.read_config(Path(resumed))
        started_from = run_folder.read_meta(Path(resumed)).get("preset")
        if preset and preset != started_from:
            raise ValueError(f"{resumed}: started from preset {started_from}, not {preset}; leave --preset out")
    elif config:
        content = read_yaml(Path(config))
        (agent_name, settings), started_from = from_plain(content, config), content.get("preset")
    elif named is None:
        raise ValueError(f"name an agent to train: {', '.join(agents.REGISTRY)}")
    else:
        return named, load_preset(named, preset) if preset is not None else default_config(named), preset
    if named not in (None, agent_name):
        raise ValueError(f"{resumed or config} is of {agent_name}, not of {named}")
    return agent_name, settings, started_from
