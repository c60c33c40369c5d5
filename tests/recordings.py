"""Recorded data for tiny runs."""

from pathlib import Path

import h5py
import numpy as np


def write_data(path: Path) -> Path:
    """Write a D4RL file of made-up Pendulum transitions, 3 episodes of 40 steps; return it."""
    generator, size = np.random.default_rng(0), 120
    with h5py.File(path, "w") as file:
        for name in ("observations", "next_observations"):
            file[name] = generator.uniform(-1, 1, (size, 3)).astype(np.float32)
        file["actions"] = generator.uniform(-0.9, 0.9, (size, 1)).astype(np.float32)
        file["rewards"] = generator.normal(size=size).astype(np.float32)
        file["terminals"] = np.zeros(size, bool)
        file["timeouts"] = np.arange(1, size + 1) % 40 == 0
    return path
