"""Physics that diverged: MuJoCo counts a bad state, warns on stderr, and silently restarts from the initial state."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import mujoco
import numpy as np

# A bad position, velocity, acceleration or control.
_BAD = (mujoco.mjtWarning.mjWARN_BADQPOS, mujoco.mjtWarning.mjWARN_BADQVEL, mujoco.mjtWarning.mjWARN_BADQACC)
DIVERGED = [int(kind) for kind in (*_BAD, mujoco.mjtWarning.mjWARN_BADCTRL)]


def has_diverged(data: mujoco.MjData | None, obs: Any, reward: Any) -> bool:
    """Whether an episode broke in this step: by MuJoCo's counters, or by a number that is not finite."""
    counted = data is not None and bool(data.warning.number[DIVERGED].any())
    return counted or not (np.isfinite(obs).all() and math.isfinite(reward))


@contextmanager
def quiet_mujoco() -> Iterator[None]:
    """Keep MuJoCo from reporting diverged physics to stderr and the working folder, which is counted and reported."""
    before = mujoco.get_mju_user_warning()
    mujoco.set_mju_user_warning(_warn_unless_diverged)
    try:
        yield
    finally:
        mujoco.set_mju_user_warning(before)


def _warn_unless_diverged(text: str) -> None:
    if "unstable" not in text and "Nan, Inf or huge" not in text:
        warnings.warn(text, stacklevel=2)
