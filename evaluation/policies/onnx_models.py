"""ONNX models as policies, run by onnxruntime (extra `onnx`): observations in, actions in the task's own units out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from surefoot.evaluation.policies import task_versions
from surefoot.evaluation.policies.opened import AnyPolicy, sha256_of
from surefoot.evaluation.policies.own_units import Predict, own_policy

FLOATS = {"tensor(float)": np.float32, "tensor(double)": np.float64}
WHOLE = ("tensor(int64)", "tensor(int32)")
NAMES = ("action", "actions")  # of the output that is taken where there are several
TASK = "task"  # in the model's metadata, as `surefoot export` writes it


def load_onnx(path: Path) -> AnyPolicy:
    """Return the policy of an ONNX file: one input of observations (N, obs), one output of actions (N, act) or (N,).

    A first dimension of 1 is served row by row. Data outside the file are not read.

    Raises:
        ImportError: the extra is missing.
        ValueError: a damaged file, or a model with other inputs or outputs.
    """
    session = _session(path)
    try:
        shown, given = _input(session.get_inputs()), _output(session.get_outputs())
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    metadata = session.get_modelmeta().custom_metadata_map
    task = task_versions.task_named(metadata[TASK]) if metadata.get(TASK) else None
    known: dict[str, Any] = {"sha256": sha256_of(path), "env_config": task.config if task else None}
    known |= {"trained_on": task.trained_on if task else None, "notes": task.notes if task else ()}
    seen = int(shown.shape[-1])
    return own_policy(_predict(session, shown, given, path), str(path), "onnx", seen, **known)


def _session(path: Path) -> Any:
    try:
        import onnxruntime
    except ModuleNotFoundError as error:
        raise ImportError('onnxruntime is not installed: pip install "surefoot[onnx]"') from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    try:  # from bytes, so that no other file is read
        return onnxruntime.InferenceSession(path.read_bytes(), options, providers=["CPUExecutionProvider"])
    except OSError:
        raise
    except Exception as error:  # its exceptions have no common base but this
        raise ValueError(f"{path}: not an ONNX model that onnxruntime can run ({_first(error)})") from error


def _input(inputs: Sequence[Any]) -> Any:
    if len(inputs) != 1:
        raise ValueError(f"takes {_listed(inputs)}; known is one input, of observations (N, obs)")
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


def _predict(session: Any, shown: Any, given: Any, path: Path) -> Predict:
    """Return the model as a function of observations (N, obs)."""
    kind, batched = FLOATS[shown.type], len(shown.shape) == 2
    by_row = not batched or shown.shape[0] == 1
    single: Callable[[np.ndarray], np.ndarray] = lambda row: row[None] if batched else row  # noqa: E731

    def run(obs: np.ndarray) -> np.ndarray:
        try:
            (actions,) = session.run([given.name], {shown.name: obs})
        except Exception as error:  # as above
            raise ValueError(f"{path}: onnxruntime: {_first(error)}") from error
        result: np.ndarray = actions
        return result

    def predict(obs: np.ndarray) -> np.ndarray:
        obs = obs.astype(kind)
        if not by_row:
            return run(obs)
        rows = [run(single(row)) for row in obs]
        return np.stack([row[0] if batched and row.ndim else row for row in rows])

    return predict


def _first(error: BaseException) -> str:
    return " ".join(str(error).split())[:160]
