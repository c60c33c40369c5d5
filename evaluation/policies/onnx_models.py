"""ONNX models as policies, run by onnxruntime (extra `onnx`): observations in, actions in the task's own units out.

A model with a memory is one as `surefoot export` writes it: every state NAME among its inputs has an output next_NAME,
which is fed in again at the next step; `fresh` is 1 for rows in which an episode begins, `reward` what the step before
earned.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from surefoot.configs.casting import overlay
from surefoot.envs import EnvConfig
from surefoot.evaluation.policies import task_versions
from surefoot.evaluation.policies.opened import AnyPolicy, sha256_of
from surefoot.evaluation.policies.own_units import Predict, own_policy

FLOATS = {"tensor(float)": np.float32, "tensor(double)": np.float64}
WHOLE = ("tensor(int64)", "tensor(int32)")
NAMES = ("action", "actions")  # of the output that is taken where there are several
TASK, ENV, STEP = "task", "env", "step"  # in the model's metadata, as `surefoot export` writes it: id, settings, step
NEXT = "next_"  # before the name of a state: the output that is fed in at the next step
FRESH, REWARD = "fresh", "reward"  # inputs of a model with a memory that are no state
LARGEST = 2**31  # bytes of a protobuf message, as which a model is read whole


def load_onnx(path: Path) -> AnyPolicy:
    """Return the policy of an ONNX file: one input of observations (N, obs), one output of actions (N, act) or (N,).

    A first dimension of 1 is served row by row. Further inputs are the memory that `surefoot export` writes, which the
    policy keeps itself. Data outside the file are not read.

    Raises:
        ImportError: the extra is missing.
        ValueError: a damaged file, or a model with other inputs or outputs.
    """
    session = _session(path)
    try:
        states = _states(session)
        kept = {FRESH, REWARD, *states, *(NEXT + name for name in states)} if states else set()
        shown = _input([one for one in session.get_inputs() if one.name not in kept])
        given = _output([one for one in session.get_outputs() if one.name not in kept])
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    known = {"sha256": sha256_of(path), **_origin(session.get_modelmeta().custom_metadata_map, path)}
    seen = int(shown.shape[-1])
    predict = Remembering(session, shown, given, states, path) if states else _predict(session, shown, given, path)
    return own_policy(predict, str(path), "onnx", seen, **known)


def _origin(metadata: Mapping[str, str], path: Path) -> dict[str, Any]:
    """Return what a model says of where it comes from, as fields of `AnyPolicy`; what it does not say is left out."""
    step = metadata.get(STEP, "")
    known: dict[str, Any] = {"step": int(step)} if re.fullmatch(r"[0-9]{1,18}", step) else {}
    if metadata.get(ENV):
        return known | {"env_config": _env(metadata[ENV], path)}
    if metadata.get(TASK):  # a model of others, or of an older version: the task as it is
        task = task_versions.task_named(metadata[TASK])
        return known | {"env_config": task.config, "trained_on": task.trained_on, "notes": task.notes}
    return known


def _env(text: str, path: Path) -> EnvConfig:
    """Return the task of a model with all its settings; they are plain values, so that reading them runs no code."""
    where = f"{path}: {ENV!r} in its metadata"
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{where}: not JSON; export it anew") from error
    return replace(overlay(EnvConfig(), content, where, "env."), num_envs=1, vectorization="sync")


def _session(path: Path) -> Any:
    try:
        import onnxruntime
    except ModuleNotFoundError as error:
        raise ImportError('onnxruntime is not installed: pip install "surefoot[onnx]"') from error
    if (size := path.stat().st_size) > LARGEST:
        raise ValueError(f"{path}: no ONNX model: it has {size:,} bytes, and one is at most {LARGEST:,}")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    try:  # from bytes, so that no other file is read
        return onnxruntime.InferenceSession(path.read_bytes(), options, providers=["CPUExecutionProvider"])
    except OSError:
        raise
    except Exception as error:  # its exceptions have no common base but this
        raise ValueError(f"{path}: not an ONNX model that onnxruntime can run ({_first(error)})") from error


def _states(session: Any) -> dict[str, int]:
    """Return the states of a model with a memory and how many numbers a row they are, 0 for (N,); {}: it has none."""
    names = {output.name for output in session.get_outputs()}
    found = [one for one in session.get_inputs() if NEXT + one.name in names]
    for one in found:
        wide = len(one.shape) == 2 and isinstance(one.shape[1], int)
        if one.type != "tensor(float)" or not (wide or len(one.shape) == 1) or isinstance(one.shape[0], int):
            raise ValueError(f"has the state {_listed([one])}; known are floats (N, width) or (N,), of any number N")
    return {one.name: int(one.shape[1]) if len(one.shape) == 2 else 0 for one in found}


def _input(inputs: Sequence[Any]) -> Any:
    if len(inputs) != 1:
        raise ValueError(
            f"takes {_listed(inputs)}; known is one input, of observations (N, obs), and of a memory each NAME with an "
            "output next_NAME"
        )
    (shown,) = inputs
    if shown.type not in FLOATS or len(shown.shape) not in (1, 2):
        raise ValueError(f"takes {_listed(inputs)}; known are floats (N, obs)")
    if not isinstance(shown.shape[-1], int) or shown.shape[-1] < 1:
        raise ValueError(f"takes {_listed(inputs)}, of no fixed number of values; export it with one")
    if len(shown.shape) == 2 and isinstance(shown.shape[0], int) and shown.shape[0] != 1:
        raise ValueError(f"takes {_listed(inputs)}; export it with a dynamic first dimension, or 1")
    return shown


def _output(outputs: Sequence[Any]) -> Any:
    named = [output for output in outputs if output.name in NAMES] or outputs
    if len(named) != 1:
        raise ValueError(f"gives {_listed(outputs)}; name the one of the actions `action`")
    if named[0].type not in (*FLOATS, *WHOLE):
        raise ValueError(f"gives {_listed(named)}; known are floats and whole numbers")
    return named[0]


def _listed(values: Sequence[Any]) -> str:
    return " and ".join(f"{v.name} {v.type.removeprefix('tensor')} {v.shape}" for v in values) or "nothing"


class Remembering:
    """A model with a memory as a function of observations (N, obs): it feeds its state in again at every step."""

    def __init__(self, session: Any, shown: Any, given: Any, states: dict[str, int], path: Path):
        self._session, self._obs, self._kind, self._path = session, shown.name, FLOATS[shown.type], path
        self._widths, self._outputs = states, [given.name, *(NEXT + name for name in states)]
        inputs = {one.name for one in session.get_inputs()}
        self.needs_rewards, self._takes_fresh = REWARD in inputs, FRESH in inputs
        self.reset()

    def reset(self) -> None:
        """Begin an episode in every row."""
        self._state: dict[str, np.ndarray] | None = None

    def observe(self, reward: Tensor, ended: Tensor) -> None:
        """Note what the step before earned (N,), and in which rows (N,) an episode ended."""
        self._reward, self._fresh = reward.numpy(force=True), ended.numpy(force=True)

    def __call__(self, obs: np.ndarray) -> np.ndarray:
        """Return actions of observations (N, obs), and keep the state for the next step."""
        rows = len(obs)
        if self._state is None:
            self._state = {name: np.zeros((rows, w) if w else rows, np.float32) for name, w in self._widths.items()}
            self.observe(torch.zeros(rows), torch.ones(rows))
        inputs = {self._obs: obs.astype(self._kind), **self._state}
        inputs |= {REWARD: self._reward.astype(np.float32)} if self.needs_rewards else {}
        inputs |= {FRESH: self._fresh.astype(np.float32)} if self._takes_fresh else {}
        actions, *following = _run(self._session, self._outputs, inputs, self._path)
        self._state = dict(zip(self._widths, following, strict=True))
        return actions


def _run(session: Any, outputs: list[str], inputs: dict[str, np.ndarray], path: Path) -> list[np.ndarray]:
    try:
        given: list[np.ndarray] = session.run(outputs, inputs)
    except Exception as error:  # its exceptions have no common base but this
        raise ValueError(f"{path}: onnxruntime: {_first(error)}") from error
    return given


def _predict(session: Any, shown: Any, given: Any, path: Path) -> Predict:
    """Return the model as a function of observations (N, obs)."""
    kind, batched = FLOATS[shown.type], len(shown.shape) == 2
    by_row = not batched or shown.shape[0] == 1
    single: Callable[[np.ndarray], np.ndarray] = lambda row: row[None] if batched else row  # noqa: E731

    def run(obs: np.ndarray) -> np.ndarray:
        return _run(session, [given.name], {shown.name: obs}, path)[0]

    def predict(obs: np.ndarray) -> np.ndarray:
        obs = obs.astype(kind)
        if not by_row:
            return run(obs)
        rows = [run(single(row)) for row in obs]
        return np.stack([row[0] if batched and row.ndim else row for row in rows])

    return predict


def _first(error: BaseException) -> str:
    return " ".join(str(error).split())[:160]
