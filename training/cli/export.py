"""`surefoot export`: a policy as an ONNX model that runs without PyTorch and without Surefoot."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import tyro

from surefoot.envs import EnvConfig
from surefoot.envs.names import action_signals, observation_signals
from surefoot.evaluation.describe import describe
from surefoot.evaluation.onnx_export import CHECKED, TOLERANCE, deployed, difference_of, export
from surefoot.evaluation.policies import AnyPolicy
from surefoot.evaluation.policies.onnx_models import ENV, STEP, TASK
from surefoot.training.cli.opening import Opening, open_all
from surefoot.training.cli.options import read_options
from surefoot.training.cli.outputs import require_output
from surefoot.training.runs.shared_policy import read_stress


@dataclass(frozen=True)
class Request(Opening):
    """The policy, and the file to write."""

    policy: tyro.conf.Positional[Path]
    """A run folder or whatever else `surefoot evaluate` opens whose policy is a network."""
    out: tyro.conf.Positional[Path]
    """The .onnx file."""


def main(arguments: list[str]) -> int:
    """Write the model, say what goes in and out, and return the exit code."""
    request = read_options(Request, args=arguments, prog="surefoot export")
    require_output(request.out, ".onnx")
    (policy,) = open_all([request.policy], request)
    export(policy, request.out, metadata_of(request.policy, policy), checkpoint=request.checkpoint)
    module = deployed(policy, request.checkpoint)
    inputs, outputs = (["obs", *module.signature.inputs], ["action", *module.signature.outputs])
    print(f"model: {request.out}, from {', '.join(inputs)} to {', '.join(outputs)}")
    difference = difference_of(request.out, module, policy)
    coarser = "" if difference <= TOLERANCE else ", the rounding of this policy in float32"
    print(f"compared with the policy on {CHECKED} inputs: the same to {max(difference, TOLERANCE):.2g}{coarser}")
    return 0


def metadata_of(path: Path, policy: AnyPolicy) -> dict[str, Any]:
    """Return what the model says of itself: names, units and bounds of both ends, origin, where it was stressed."""
    stress = read_stress(path, policy)
    known: dict[str, Any] = {
        "surefoot": metadata.version("surefoot"),
        "agent": policy.agent_name,
        STEP: str(policy.step),
        "observation": bounds_of(policy.spaces.observation),
        "action": bounds_of(policy.own_action),
        "stressed_in": [one["name"] for one in stress["policies"][0]["sets"]] if stress else [],
    }
    if policy.env_config is not None:
        task = policy.env_config
        known |= {TASK: task.id, ENV: asdict(task), "dynamics": describe(asdict(task)), **names_of(task)}
    return known


def names_of(task: EnvConfig) -> dict[str, Any]:
    """Return names and units of every number of the task's observations and actions."""
    seen, done = observation_signals(task), action_signals(task)
    return {
        "observation_names": seen.names,
        "observation_units": seen.units,
        "action_names": done.names,
        "action_units": done.units,
    }


def bounds_of(space: gym.Space[Any]) -> dict[str, Any]:
    """Return what values a space has; a missing bound is null."""
    if isinstance(space, gym.spaces.Box):
        low, high = ([float(x) if np.isfinite(x) else None for x in bound.ravel()] for bound in (space.low, space.high))
        return {"shape": list(space.shape), "low": low, "high": high}
    if isinstance(space, gym.spaces.Discrete):
        return {"numbers": int(space.n), "first": int(space.start)}
    return {"space": str(space)}
