"""Learners that drive real systems, on disk: made, saved and opened by the name of their kind.

A file is JSON, or NumPy's .npz by its suffix. Either holds the format, the kind of learner, its settings, what it was
made from, its state to the last bit, and a SHA-256 of all that; reading one runs no code.
"""

from __future__ import annotations

import base64
import fcntl
import hashlib
import io
import json
import math
import operator
import re
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from surefoot import agents
from surefoot.agents.parts.ask_tell import AskTell, BanditRequest, Decision
from surefoot.configs.casting import overlay, plain
from surefoot.envs.tasks.linear_system import make_actions
from surefoot.evaluation.storage import write_atomically

FORMAT = 1
MISFITS = (KeyError, TypeError, IndexError, RuntimeError, AttributeError)  # what a state of something else brings about


@dataclass(frozen=True)
class OpenBandit:
    """A learner that drives a real system, and what makes another one like it."""

    kind: str  # its name among `surefoot.agents()`
    config: Any
    request: BanditRequest
    learner: AskTell

    @property
    def pending(self) -> Decision | None:
        """What was asked for and is not wholly told."""
        return self.learner.pending

    def ask(self, contexts: Any = None) -> Decision:
        """Return what to do next: `action`, its `index`, and `rounds` to hold it, the first of which is `round`.

        contexts: of the arms of this round, for learners that choose among contexts.

        Raises:
            ValueError: rounds of the last decision have not been told; nothing changes.
        """
        return self.learner.ask(contexts)

    def tell(self, reward: Any, of: int | None = None) -> None:
        """Take in the reward of the next round of the decision, or of the earlier round number `of`.

        Args:
            reward: a number, or one for each replicate; None, alone or in places, where it is not there (yet).
            of: the number of a round whose reward was told as None. With it, None says that it never will come.

        Raises:
            ValueError: no such round, a number that is not finite, or one that is known already; nothing changes.
        """
        self.learner.tell(reward, of)

    def summary(self) -> dict[str, Any]:
        """Return how it stands as plain values: rounds, what is believed best, bounds, warnings."""
        return {"learner": self.kind, **self.learner.summary()}

    def warm_start(self, found: Any) -> None:
        """Start from what `surefoot.identify` found in logs; `ValueError` where the learner cannot, or has begun."""
        if not hasattr(self.learner, "warm_start"):
            raise ValueError(f"{self.kind} has no warm start")
        self.learner.warm_start(found)

    def state_dict(self) -> dict[str, Any]:
        """Return all there is to its state: tensors and plain values."""
        return {"kind": self.kind, "replicates": self.request.replicates, "state": self.learner.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a state of the same learner with the same settings.

        Raises:
            ValueError: a state of another learner, or none at all; nothing changes.
        """
        own = {"kind": self.kind, "replicates": self.request.replicates}
        told = {name: state.get(name) for name in own} if isinstance(state, Mapping) else {}
        if told != own:
            raise ValueError(f"no state of this learner: it is of {told or 'nothing'}, not {own}")
        before = self.learner.state_dict()
        try:
            self.learner.load_state_dict(state["state"])
        except MISFITS as error:
            self.learner.load_state_dict(before)
            raise ValueError(f"the state does not fit this {self.kind} ({error})") from error

    def save(self, path: str | Path) -> None:
        """Write it to a file, JSON or `.npz` by the suffix, whole or not at all; `surefoot.load_bandit` opens it."""
        save(Path(path), self)


def kinds() -> list[str]:
    """Return the names of the learners that can be asked and told; imports every agent."""
    return [name for name in agents.REGISTRY if agents.get(name).make_ask_tell is not None]


def make(
    kind: str,
    settings: Mapping[str, Any],
    request: BanditRequest,
    *,
    device: torch.device | str = "cpu",
    where: str = "surefoot.bandit",
) -> OpenBandit:
    """Return a new learner; `ValueError` for an unknown kind, setting or request."""
    spec = agents.get(kind)
    if spec.make_ask_tell is None:
        raise ValueError(f"{where}: {kind} cannot be asked and told; choose one of {', '.join(kinds())}")
    request = _checked(request)
    try:
        config = overlay(spec.default, _mapping("settings", settings), where)
        return OpenBandit(kind, config, request, spec.make_ask_tell(config, request, _device(device)))
    except ValueError as error:  # of a run's command line, whose flags this is not
        named = re.sub(r"--agent\.([a-z-]+)", lambda flag: flag[1].replace("-", "_"), str(error))
        raise ValueError(named) from error


def _checked(request: BanditRequest) -> BanditRequest:
    """Return the request with plain numbers; `ValueError` for what are none."""
    whole = {name: _whole(name, getattr(request, name)) for name in ("replicates", "seed")}
    if whole["seed"] < 0:
        raise ValueError(f"seed is {whole['seed']}; it must be at least 0")
    return replace(request, bounds=_mapping("bounds", request.bounds), **whole)


def _whole(name: str, value: Any) -> int:
    try:
        return operator.index(value)
    except TypeError as error:
        raise ValueError(f"{name} is {value!r}; it must be a whole number") from error


def _mapping(name: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise ValueError(f"{name} is {value!r}; it must hold names and their values")
    return dict(value)


def _device(name: torch.device | str) -> torch.device:
    """Return the device; `ValueError` where there is none of that name."""
    try:
        return torch.zeros((), device=name).device
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"device is {str(name)!r}, which is not here; cpu always is") from error


def action_set(actions: Any) -> Any:
    """Return actions as a request holds them: tables as lists, a polytope as the table of its vertices.

    A linear reward is largest at a vertex. `ValueError` for a polytope that is none.
    """
    if isinstance(actions, Mapping) and "polytope" in actions:
        if len(actions) > 1:
            raise ValueError(
                f"actions: a polytope comes alone, not with {', '.join(sorted(set(actions) - {'polytope'}))}"
            )
        matrix = actions["polytope"].get("matrix") if isinstance(actions["polytope"], Mapping) else None
        return np.asarray(make_actions(actions, _columns(matrix))).tolist()
    if isinstance(actions, Mapping):
        return dict(actions)
    return actions.tolist() if isinstance(actions, np.ndarray | Tensor) else actions


def _columns(matrix: Any) -> int:
    """Return how many columns a matrix has; 0 where it is none, of which `make_actions` says more."""
    try:
        return int(np.asarray(matrix, dtype=np.float64).shape[-1])
    except (TypeError, ValueError, IndexError):
        return 0


# --- files ------------------------------------------------------------------------------------------------------------


def save(path: Path, opened: OpenBandit) -> None:
    """Write a learner to `path` atomically; `OSError` where that cannot be done."""
    arrays: dict[str, np.ndarray] = {}
    put = (lambda array: _named(array, arrays)) if path.suffix == ".npz" else _inline
    content = {
        "format": FORMAT,
        "learner": opened.kind,
        "settings": plain(opened.config),
        "request": plain(asdict(opened.request)),
        "state": _encode(opened.learner.state_dict(), put),
    }
    text = json.dumps({**content, "sha256": _checksum(content)}, allow_nan=False)
    if path.suffix != ".npz":
        write_atomically(path, lambda file: file.write(f"{text}\n".encode()))
        return
    memory = io.BytesIO()
    np.savez(memory, header=np.frombuffer(text.encode(), np.uint8), **arrays)  # type: ignore[arg-type]
    write_atomically(path, lambda file: file.write(memory.getbuffer()))


def load(path: Path, kind: str | None = None, *, device: torch.device | str = "cpu") -> OpenBandit:
    """Return the learner in a file, as it was saved.

    kind: of the learner that is expected; None: any. Raises `FileNotFoundError`, or `ValueError` for a file that is
    damaged, of another format or another learner.
    """
    content, array_of = _read(path)
    if kind not in (None, content["learner"]):
        raise ValueError(f"{path}: holds a learner of the kind {content['learner']}, not {kind}")
    try:
        request = BanditRequest(**content["request"])
        opened = make(content["learner"], content["settings"], request, device=device, where=str(path))
        opened.learner.load_state_dict(_decode(content["state"], array_of))
    except MISFITS as error:
        raise ValueError(f"{path}: its state does not fit {content['learner']} ({error})") from error
    return opened


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock of a learner's file: another process that wants it waits."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.with_name(f".{path.name}.lock").open("a") as file:  # beside it: the file itself is replaced
        fcntl.flock(file, fcntl.LOCK_EX)
        yield  # closing the file gives the lock back


Put = Callable[[np.ndarray], dict[str, Any]]
ArrayOf = Callable[[Mapping[str, Any]], np.ndarray]


def _read(path: Path) -> tuple[dict[str, Any], ArrayOf]:
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; `surefoot bandit new` makes one")
    arrays: dict[str, np.ndarray] = {}
    try:
        raw = path.read_bytes()
        if raw[:2] == b"PK":
            with np.load(io.BytesIO(raw), allow_pickle=False) as file:
                arrays = {name: file[name] for name in file.files}
            raw = arrays.pop("header").tobytes()
        content = json.loads(raw)
    except (ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error, NotImplementedError) as error:
        raise ValueError(f"{path}: damaged, or no file of a bandit learner; use an earlier copy") from error
    if not isinstance(content, dict) or not isinstance(content.get("learner"), str):
        raise ValueError(f"{path}: no file of a bandit learner")
    if content.get("format") != FORMAT:
        raise ValueError(f"{path}: format {content.get('format')}; this Surefoot reads format {FORMAT}")
    told = content.pop("sha256", None)
    sums = {name: _digest(array) for name, array in arrays.items()}
    if told != _checksum(content) or sums != _sums(content):
        raise ValueError(f"{path}: damaged (its checksum differs); use an earlier copy")
    return content, lambda node: arrays[node["array"]] if "array" in node else _from_inline(node)


def _checksum(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _digest(array: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()


def _sums(node: Any) -> dict[str, str]:
    """Return the checksums that a header has of its arrays."""
    if isinstance(node, dict):
        own = {node["array"]: node["sha256"]} if "array" in node else {}
        return own | {name: digest for item in node.values() for name, digest in _sums(item).items()}
    return {name: digest for item in node for name, digest in _sums(item).items()} if isinstance(node, list) else {}


# --- values -----------------------------------------------------------------------------------------------------------


def _named(array: np.ndarray, arrays: dict[str, np.ndarray]) -> dict[str, Any]:
    name = f"array_{len(arrays)}"
    arrays[name] = array
    return {"array": name, "sha256": _digest(array)}


def _inline(array: np.ndarray) -> dict[str, Any]:
    data = base64.b64encode(np.ascontiguousarray(array).tobytes()).decode()
    return {"dtype": array.dtype.str, "shape": list(array.shape), "base64": data}


def _from_inline(node: Mapping[str, Any]) -> np.ndarray:
    flat = np.frombuffer(base64.b64decode(node["base64"]), np.dtype(node["dtype"]))
    return flat.reshape(node["shape"]).copy()


def _encode(value: Any, put: Put) -> Any:
    """Return nested values as JSON has them: a tensor or an infinity is a mapping with one key that names it."""
    if isinstance(value, Tensor):
        return {"tensor": put(value.detach().cpu().numpy())}
    if isinstance(value, np.ndarray):
        return {"ndarray": put(value)}
    if isinstance(value, Mapping):
        if not all(isinstance(key, str) for key in value):
            return {"items": [[_encode(key, put), _encode(item, put)] for key, item in value.items()]}
        return {"mapping": {key: _encode(item, put) for key, item in value.items()}}
    if isinstance(value, list | tuple):
        return [_encode(item, put) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return {"float": str(value)}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(f"{type(value).__name__} is no plain value; a state holds tensors, arrays and plain values")


def _decode(node: Any, array_of: ArrayOf) -> Any:
    if isinstance(node, list):
        return [_decode(item, array_of) for item in node]
    if not isinstance(node, dict):
        return node
    (kind, value), *_ = node.items()
    if kind == "tensor":
        return torch.from_numpy(np.array(array_of(value)))
    if kind == "ndarray":
        return array_of(value)
    if kind == "float":
        return float(value)
    if kind == "items":
        return {_decode(key, array_of): _decode(item, array_of) for key, item in value}
    return {key: _decode(item, array_of) for key, item in value.items()}
