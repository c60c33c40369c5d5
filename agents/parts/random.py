"""Owned generators: one stream a purpose, so that drawing more of one thing never changes another."""

from __future__ import annotations

import zlib

import numpy as np
import torch
from torch import Tensor


def make_generator(seed: int, stream: str, device: torch.device | str = "cpu") -> torch.Generator:
    """Return a generator whose numbers depend on the run's seed and the stream's name only."""
    sequence = np.random.SeedSequence([seed, zlib.crc32(stream.encode())])
    return torch.Generator(device).manual_seed(int(sequence.generate_state(1, np.uint64)[0] >> np.uint64(1)))


def normal(generator: torch.Generator, *shapes: tuple[int, ...]) -> list[Tensor]:
    """Return standard normal tensors of the shapes, on the generator's device."""
    return [torch.randn(shape, generator=generator, device=generator.device) for shape in shapes]


def uniform(generator: torch.Generator, shape: tuple[int, ...]) -> Tensor:
    """Return a tensor of the shape, uniform in [−1, 1], on the generator's device."""
    return torch.rand(shape, generator=generator, device=generator.device) * 2 - 1
