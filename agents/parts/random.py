"""Owned generators: one stream a purpose, so that drawing more of one thing never changes another."""

from __future__ import annotations

import zlib

import numpy as np
import torch


def make_generator(seed: int, stream: str, device: torch.device | str = "cpu") -> torch.Generator:
    """Return a generator whose numbers depend on the run's seed and the stream's name only."""
    sequence = np.random.SeedSequence([seed, zlib.crc32(stream.encode())])
    return torch.Generator(device).manual_seed(int(sequence.generate_state(1, np.uint64)[0] >> np.uint64(1)))
