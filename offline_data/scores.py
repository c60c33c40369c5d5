"""D4RL's Gym-MuJoCo data sets: names, addresses, reference scores (Fu et al. 2020, arXiv 2004.07219).

Sets and scores: docs/derivations/h2o.md §8.4, §8.7, eq. (8.4).
"""

from __future__ import annotations

import re
from difflib import get_close_matches
from typing import Any, NamedTuple

import numpy as np

# Undiscounted returns of a random and of an expert policy, the same for every data set and version of an environment.
REFERENCE_SCORES = {
    "halfcheetah": (-280.178953, 12135.0),
    "hopper": (-20.272305, 3234.3),
    "walker2d": (1.629008, 4592.3),
    "ant": (-325.6, 3879.7),
}
EPISODE_STEPS = 1_000  # the time limit of the tasks that these are returns of
QUALITIES = ("random", "medium", "medium-replay", "medium-expert", "expert", "full-replay")
ADDRESS = "http://rail.eecs.berkeley.edu/datasets/offline_rl/gym_mujoco_v2"


class D4RLDataset(NamedTuple):
    """One published data set."""

    name: str  # as in "d4rl:NAME"
    env: str  # key of REFERENCE_SCORES
    file_name: str
    url: str


def _entry(env: str, quality: str) -> D4RLDataset:
    file_name = f"{env}_{quality.replace('-', '_')}-v2.hdf5"
    return D4RLDataset(f"{env}-{quality}-v2", env, file_name, f"{ADDRESS}/{file_name}")


D4RL_DATASETS = {entry.name: entry for entry in (_entry(e, q) for e in REFERENCE_SCORES for q in QUALITIES)}


def find_d4rl(name: str) -> D4RLDataset:
    """Return the registry entry of a data set; `ValueError` names similar ones."""
    if name not in D4RL_DATASETS:
        near = get_close_matches(name, D4RL_DATASETS, n=3) or list(D4RL_DATASETS)[:3]
        raise ValueError(f"unknown D4RL data set {name!r}; near: {', '.join(near)}; all: `surefoot data list`")
    return D4RL_DATASETS[name]


def d4rl_references(env_id: str) -> tuple[float, float] | None:
    """Return D4RL's (random, expert) returns for a Gymnasium id of any version or a D4RL name; None where undefined."""
    known = D4RL_DATASETS.get(env_id)
    env = known.env if known else re.sub(r"-v\d+$", "", env_id).lower()
    return REFERENCE_SCORES.get(env)


def scale_score(returns: Any, low: float, high: float) -> np.ndarray:
    """Return 100 · (R - low) / (high - low)."""
    return 100 * (np.asarray(returns, np.float64) - low) / (high - low)


def normalized_score(env_id: str, returns: Any) -> np.ndarray | None:
    """Return D4RL's normalised score (x 100) of undiscounted returns, or None where no references are defined.

    `env_id` is a Gymnasium id of any version ("HalfCheetah-v5") or the name of a D4RL data set.
    """
    references = d4rl_references(env_id)
    return None if references is None else scale_score(returns, *references)
