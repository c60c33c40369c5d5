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
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from surefoot import agents
from surefoot.agents.parts.ask_tell import AskTell, BanditRequest
from surefoot.configs.casting import overlay, plain
from surefoot.evaluation.storage import write_atomically

FORMAT = 1


class OpenBandit(NamedTuple):
    """A learner, and what makes another one like it."""

    kind: str
    config: Any
    request: BanditRequest
    learner: AskTell


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
    config = overlay(spec.default, dict(settings), where)
    return OpenBandit(kind, config, request, spec.make_ask_tell(config, request, torch.device(device)))


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
    except (KeyError, TypeError, IndexError, RuntimeError, AttributeError) as error:
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
