"""Cumulative regret: its file, and its slope."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from surefoot.envs.npz_files import read_npz
from surefoot.evaluation.storage import write_atomically


def last_decade_slope(rounds: np.ndarray, regret: np.ndarray) -> float:
    """Return the slope of log mean regret (P, N) against log round (P,) over the last decade; NaN without regret."""
    t, mean = np.asarray(rounds, dtype=np.float64), regret.mean(axis=1)
    last = (t >= t[-1] / 10) & (mean > 0)
    if last.sum() < 2:
        return float("nan")
    return float(np.polyfit(np.log(t[last]), np.log(mean[last]), 1)[0])


def save_regret(run: Path, rounds: list[int], regret: torch.Tensor) -> None:
    """Write cumulative regret (P, N) at log-spaced rounds or episodes (P,) to regret.npz."""
    t, curve = np.array(rounds, dtype=np.int64), regret.numpy(force=True)
    write_atomically(run / "regret.npz", lambda file: np.savez(file, rounds=t, regret=curve))


def load_regret(run: Path) -> tuple[np.ndarray, np.ndarray]:
    """Return rounds or episodes (P,) and regret (P, N) of a run; `FileNotFoundError` where there is none."""
    path = run / "regret.npz"
    if not path.is_file():
        raise FileNotFoundError(
            f"{path}: not found; is {run} a run that is measured by regret and got as far as a checkpoint?"
        )
    try:
        arrays = read_npz(path, ("rounds", "regret"))
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    return arrays["rounds"], arrays["regret"]
