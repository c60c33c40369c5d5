"""Owned generators: one stream a purpose, so that drawing more of one thing never changes another."""

from __future__ import annotations

import zlib
from typing import Any

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


class ReplicateUniforms:
    """One stream of uniform numbers per replicate: that of replicate i does not depend on the number of replicates.

    Counter-based: the number of a draw is a hash of (seed, stream, replicate, draw), by SplitMix64 (Steele, Lea, Flood
    2014), so that the state is one key each and the number of draws. Meant for a few numbers per round.
    """

    def __init__(self, seed: int, stream: str, replicates: int, device: torch.device | str = "cpu") -> None:
        start = torch.randint(2**62, (), generator=make_generator(seed, stream)).to(device)
        self.keys = _mix(_mix(torch.arange(replicates, device=device) + start))  # (N,) int64
        self.draws = 0

    def next(self) -> Tensor:
        """Return the next number (N,) of every replicate, float64 in [0, 1)."""
        self.draws += 1
        step = (_GOLDEN * self.draws + 2**63) % 2**64 - 2**63  # wrapped to int64
        hashed = _mix(self.keys + step)
        return _shift(hashed, 11).double() * 2.0**-53

    def block(self, count: int) -> Tensor:
        """Return the next `count` numbers (N, count) of every replicate."""
        place = torch.arange(self.draws + 1, self.draws + count + 1, device=self.keys.device)
        self.draws += count
        hashed = _mix(self.keys[:, None] + place * (_GOLDEN - 2**64))  # int64 products wrap, as in `next`
        uniform: Tensor = _shift(hashed, 11).double() * 2.0**-53
        return uniform

    def normals(self, count: int) -> Tensor:
        """Return standard normal numbers (N, count), by Box and Muller's transform of two uniform ones each."""
        radius, angle = self.block(2 * count).unflatten(1, (count, 2)).unbind(-1)
        normal: Tensor = (-2 * (-radius).log1p()).sqrt() * (2 * torch.pi * angle).cos()
        return normal

    def state_dict(self) -> dict[str, Any]:
        return {"keys": self.keys.clone(), "draws": self.draws}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.keys.copy_(state["keys"])
        self.draws = state["draws"]


_GOLDEN = 0x9E3779B97F4A7C15


def _mix(z: Tensor) -> Tensor:
    """Return SplitMix64's finaliser of int64 numbers; the products wrap as unsigned ones do."""
    z = (z ^ _shift(z, 30)) * (0xBF58476D1CE4E5B9 - 2**64)
    z = (z ^ _shift(z, 27)) * (0x94D049BB133111EB - 2**64)
    return z ^ _shift(z, 31)


def _shift(z: Tensor, bits: int) -> Tensor:
    """Return z >> bits with zeros moved in, which int64 alone does not do."""
    return (z >> bits) & ((1 << (64 - bits)) - 1)
