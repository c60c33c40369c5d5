"""Stable-Baselines3's `VecNormalize`: its statistics out of `vecnormalize.pkl`, without running what is in it."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from surefoot.evaluation import pickles
from surefoot.evaluation.pickles import Record
from surefoot.evaluation.policies import arrays

LARGEST_FILE = 64 * 2**20  # bytes; statistics of vectors take kilobytes
_VEC = "stable_baselines3.common.vec_env.vec_normalize.VecNormalize"
_STATISTICS = "stable_baselines3.common.running_mean_std.RunningMeanStd"
_SPACES = frozenset(
    f"{library}.spaces.{name}"
    for library in ("gym", "gymnasium")
    for name in ("box.Box", "discrete.Discrete", "multi_discrete.MultiDiscrete", "multi_binary.MultiBinary")
)
_GENERATORS = frozenset(
    {f"numpy.random._pickle.__{name}_ctor" for name in ("randomstate", "generator", "bit_generator")}
    | {"numpy.random._mt19937.MT19937", "numpy.random._pcg64.PCG64"}
    | {f"numpy.random.bit_generator.{name}" for name in ("__pyx_unpickle_SeedSequence", "SeedSequence")}
)
NAMES = arrays.NAMES | _SPACES | _GENERATORS | {_VEC, _STATISTICS, "collections.OrderedDict"}


class Normalizer(NamedTuple):
    """The statistics that observations are normalised by."""

    mean: np.ndarray  # (obs,) float64
    variance: np.ndarray  # (obs,) float64
    epsilon: float
    clip: float

    def __call__(self, obs: Tensor) -> Tensor:
        """Return observations (N, obs) normalised and clipped, in float32; computed in float64, as the library does."""
        mean, variance = (torch.as_tensor(values, device=obs.device) for values in (self.mean, self.variance))
        return ((obs.double() - mean) / torch.sqrt(variance + self.epsilon)).clamp(-self.clip, self.clip).float()


def read_normalizer(path: Path) -> Normalizer | None:
    """Return the statistics of a `vecnormalize.pkl`; None where it normalises rewards only.

    Raises:
        FileNotFoundError: no such file.
        ValueError: another file, a damaged one, or one that would run something.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file of VecNormalize")
    if (size := path.stat().st_size) > LARGEST_FILE:
        raise ValueError(f"{path}: {size:,} bytes; statistics of VecNormalize take no more than {LARGEST_FILE:,}")
    try:
        record = pickles.read(path.read_bytes(), NAMES)
        if not (isinstance(record, Record) and record.name == _VEC and isinstance(record.state, dict)):
            raise ValueError("holds something else")
        return _statistics(record.state)
    except ValueError as error:
        raise ValueError(f"{path}: no statistics of VecNormalize: {error}") from error


def _statistics(state: dict[Any, Any]) -> Normalizer | None:
    if state.get("norm_obs") is not True:
        return None
    running = state.get("obs_rms")
    if not (isinstance(running, Record) and running.name == _STATISTICS and isinstance(running.state, dict)):
        raise ValueError("of observations that are no vector")
    mean, variance = (arrays.array_of(running.state.get(name)).astype(np.float64) for name in ("mean", "var"))
    epsilon, clip = (arrays.number_of(state.get(name)) for name in ("epsilon", "clip_obs"))
    if mean.ndim != 1 or mean.shape != variance.shape:
        raise ValueError(f"of shapes {mean.shape} and {variance.shape}, and observations here are vectors")
    if not (np.isfinite([*mean, *variance, epsilon, clip]).all() and (variance >= 0).all() and min(epsilon, clip) > 0):
        raise ValueError("with numbers that cannot be statistics")
    return Normalizer(mean, variance, epsilon, clip)
