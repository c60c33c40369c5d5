"""Archives of Stable-Baselines3 and sb3-contrib, read without the library and without its pickles.

`policy.pth` holds the weights, `data` is JSON: what could not be written as JSON is a pickle there (never read), with
its attributes beside it as text, which says spaces and class. The shapes of the weights give the architecture; it must
agree with that text.
"""

from __future__ import annotations

import json
import re
import zipfile
from pathlib import Path
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
from torch import Tensor

from surefoot.evaluation.policies.zip_files import open_zip, read_entry, read_tensors

ACTOR_CRITIC = "stable_baselines3.common.policies"
FAMILIES = {
    "stable_baselines3.sac.policies": "SAC",
    "stable_baselines3.td3.policies": "TD3",
    "stable_baselines3.dqn.policies": "DQN",
    "sb3_contrib.tqc.policies": "TQC",
    "sb3_contrib.qrdqn.policies": "QRDQN",
    "sb3_contrib.ars.policies": "ARS",
}
READABLE = "SAC, TD3, DDPG, DQN, PPO, A2C, TQC, TRPO, QR-DQN and ARS"


class Unreadable(ValueError):
    """An archive that only the library itself may be able to open."""


class Archive(NamedTuple):
    """What is read of an archive."""

    algorithm: str  # the class of the library that wrote it, such as `SAC`
    data: dict[str, Any]  # the hyper-parameters; pickles in it are strings
    weights: dict[str, Tensor]  # the state dict of its policy
    observation: gym.Space[Any]  # of the network, behind all wrappers
    action: gym.Space[Any]  # in the task's own units

    @property
    def kwargs(self) -> dict[str, Any]:
        """The settings of the policy's networks."""
        found = self.data.get("policy_kwargs")
        return found if isinstance(found, dict) else {}


def is_archive(path: Path) -> bool:
    """Whether a file is an archive, whatever its name ends in."""
    if not path.is_file() or not zipfile.is_zipfile(path):
        return False
    try:
        with zipfile.ZipFile(path) as archive:
            return {"data", "policy.pth"} <= set(archive.namelist())
    except (zipfile.BadZipFile, ValueError, EOFError, NotImplementedError, OSError):
        return False


def read_data(path: Path) -> dict[str, Any]:
    """Return the archive's JSON; `ValueError` where the file is no archive."""
    with path.open("rb") as file:
        try:
            data = json.loads(read_entry(open_zip(file), "data"))
        except (KeyError, ValueError, RecursionError, *_BROKEN) as error:
            raise ValueError(f"{path}: not a Stable-Baselines3 archive ({_first(error)})") from error
    if not isinstance(data, dict) or not isinstance(data.get("policy_class"), dict):
        raise ValueError(f"{path}: not a Stable-Baselines3 archive (its data name no policy class)")
    return data


def read(path: Path) -> Archive:
    """Return an archive.

    Raises:
        ValueError: no archive, or a damaged one.
        Unreadable: a policy or a space that is not known here.
    """
    data = read_data(path)
    algorithm = algorithm_of(path, data)
    try:
        with path.open("rb") as file:
            weights = read_tensors(read_entry(open_zip(file), "policy.pth"))
    except (KeyError, ValueError, *_BROKEN) as error:
        raise Unreadable(f"{path}: policy.pth: {_first(error)}") from error
    try:
        spaces = [_space(data.get(f"{name}_space"), name) for name in ("observation", "action")]
    except ValueError as error:
        raise Unreadable(f"{path}: {error}") from error
    return Archive(algorithm, data, weights, *spaces)


_BROKEN = (zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError, OSError)  # of an entry, or of its method


def algorithm_of(path: Path, data: dict[str, Any]) -> str:
    """Return which class wrote the archive: the archive does not name it, but the policy's module and the settings do.

    Raises:
        Unreadable: a policy that is not known here.
    """
    module = str(data["policy_class"].get("__module__"))
    if module == ACTOR_CRITIC:
        return "PPO" if "clip_range" in data else "TRPO" if "cg_max_steps" in data else "A2C"
    if module not in FAMILIES:
        raise Unreadable(f"{path}: holds a policy of {module}; known are {READABLE}")
    family = FAMILIES[module]
    kwargs = data.get("policy_kwargs")
    return "DDPG" if family == "TD3" and isinstance(kwargs, dict) and kwargs.get("n_critics") == 1 else family


# --- spaces out of their text -----------------------------------------------------------------------------------------


def _space(text: Any, what: str) -> gym.Space[Any]:
    if not isinstance(text, dict):
        raise ValueError(f"does not say its {what} space")
    kind = re.search(r"\.(\w+)'>$", str(text.get(":type:")))
    if kind and kind[1] == "Discrete" and str(text.get("n", "")).isdecimal() and int(text["n"]) > 0:
        if str(text.get("start", "0")) != "0":
            raise ValueError(f"its {what} space starts at {text['start']}, and Stable-Baselines3 counts from 0")
        return gym.spaces.Discrete(int(text["n"]))
    if kind and kind[1] == "Box":
        shape = text.get("_shape", text.get("shape"))
        if isinstance(shape, list) and all(type(size) is int and 0 < size < 2**31 for size in shape) and shape:
            return _box(text, tuple(shape))
    raise ValueError(f"its {what} space is {str(text.get(':type:'))[:80]}; known are Box and Discrete")


def _box(text: dict[str, Any], shape: tuple[int, ...]) -> gym.spaces.Box:
    count = int(np.prod(np.array(shape, dtype=object)))
    if count > 10**7:
        raise ValueError(f"a Box of {count} numbers")
    low, high = (_numbers(text.get(name), count) for name in ("low", "high"))
    known = low is not None and high is not None and bool((low <= high).all())
    dtype = np.uint8 if text.get("dtype") == "uint8" else np.float32
    if not known:  # a long array is abbreviated in text; only that of an image is needed
        low, high = (np.full(count, bound) for bound in ((0, 255) if dtype == np.uint8 else (-np.inf, np.inf)))
    assert low is not None
    assert high is not None
    return gym.spaces.Box(low.reshape(shape).astype(dtype), high.reshape(shape).astype(dtype), shape, dtype)


def _numbers(text: Any, count: int) -> np.ndarray | None:
    """Return the numbers of an array as NumPy prints it; None where it is abbreviated or something else."""
    words = re.sub(r"[\[\],]", " ", str(text)).split()
    if len(words) != count:
        return None
    try:
        return np.array([float(word) for word in words])
    except ValueError:
        return None


def _first(error: BaseException) -> str:
    return " ".join(str(error).split())[:160] or type(error).__name__
