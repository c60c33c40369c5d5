"""`surefoot parameters`: what can differ in a task, with units, ranges, nominal values; also as an uncertainty set."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import mujoco
import tyro
import yaml
from rich.box import SIMPLE_HEAD
from rich.table import Table

from surefoot.envs import EnvConfig, Physics, UncertaintySet, disturbances, make_single, subset
from surefoot.envs.model_parameters import names_of
from surefoot.envs.signals import sensor_count, sensor_groups
from surefoot.envs.task_parameters import TaskParameters, has_model, is_time_aware
from surefoot.evaluation.storage import write_atomically
from surefoot.training.cli.options import read_options
from surefoot.training.cli.outputs import require_output, require_own
from surefoot.training.runs.console import print_table

KINDS = {
    "bodies": mujoco.mjtObj.mjOBJ_BODY,
    "geoms": mujoco.mjtObj.mjOBJ_GEOM,
    "joints": mujoco.mjtObj.mjOBJ_JOINT,
    "actuators": mujoco.mjtObj.mjOBJ_ACTUATOR,
}


@dataclass(frozen=True)
class Request:
    """Which task, and what to write."""

    task: tyro.conf.Positional[str]
    """Gymnasium id of the task."""
    kwargs: dict[str, Any] = field(default_factory=dict)
    """Keyword arguments of the task's constructor."""
    physics: Physics = field(default_factory=Physics)
    """Dynamics around which the ranges lie."""
    per_part: bool = False
    """Also gain and offset of every single actuator."""
    only: tuple[str, ...] = ()
    """Of the parameters these alone; default: all."""
    yaml: Path | None = None
    """Also write them to this file, as an uncertainty set for --uncertainty and --grid."""


def main(arguments: list[str]) -> int:
    """Print the parameters of a task, write the set, and return the exit code."""
    request = read_options(Request, args=arguments, prog="surefoot parameters")
    require_output(request.yaml, ".yaml", ".yml")
    require_own(request.yaml, "an uncertainty set", "parameters")
    config = EnvConfig(request.task, request.physics, kwargs=request.kwargs)
    found = disturbances(config, per_part=request.per_part)
    chosen = subset(found, *request.only) if request.only else found
    print_table(table(config, chosen))
    for line in objects(config):
        print(line)
    if request.yaml is not None:
        text = as_yaml(chosen)
        write_atomically(request.yaml, lambda file: file.write(text.encode()))
        print(f"uncertainty set: {request.yaml}")
    return 0


def table(config: EnvConfig, uncertainty: UncertaintySet) -> Table:
    """Return a row per parameter."""
    rows = Table("parameter", box=SIMPLE_HEAD)
    for column in ("nominal", "low", "high"):
        rows.add_column(column, justify="right")
    rows.add_column("unit")
    env = make_single(replace(config, physics=replace(config.physics, parameters=())))
    quantities = TaskParameters(env, uncertainty).quantities
    env.close()
    for (name, low, high, nominal), quantity in zip(uncertainty.parameters, quantities, strict=True):
        rows.add_row(name, *(f"{value:.6g}" for value in (nominal or 0.0, low, high)), quantity.unit)
    return rows


def objects(config: EnvConfig) -> Iterator[str]:
    """Return the names that can follow the dot of a parameter, a line a kind."""
    env = make_single(config)
    task: Any = env.unwrapped
    if has_model(task):
        for kind, number in KINDS.items():
            yield f"{kind}: {', '.join(names_of(task.model, number)) or 'none'}"
    if count := sensor_count(env, is_time_aware(env)):
        yield f"sensors: {', '.join([*sensor_groups(env, count), f'0 to {count - 1}'])}"
    env.close()


def as_yaml(uncertainty: UncertaintySet) -> str:
    """Return the set as a file that --uncertainty and --grid read."""
    given = {p.name: {"low": p.low, "high": p.high, "nominal": p.nominal} for p in uncertainty.parameters}
    ranges = {name: {key: x for key, x in one.items() if x is not None} for name, one in given.items()}
    switches = {name: getattr(uncertainty, name) for name in ("recompute_constants", "scale_inertia")}
    return yaml.safe_dump({"env": uncertainty.env, "parameters": ranges, **switches}, sort_keys=False)
