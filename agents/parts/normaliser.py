"""Scaling of network inputs by constants measured once."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Normaliser(nn.Module):
    """x ↦ (x − mean)/std with fixed constants, which travel with the networks; the identity until fitted."""

    mean: Tensor
    std: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("std", torch.ones(width))

    def fit(self, x: Tensor, floor: float = 1e-3) -> None:
        """Measure mean and std over the rows of x (B, width); a coordinate that hardly varies keeps std `floor`."""
        self.mean.copy_(x.mean(0))
        self.std.copy_(x.std(0, correction=0).clamp(min=floor))

    def forward(self, x: Tensor) -> Tensor:
        return (x - self.mean) / self.std
