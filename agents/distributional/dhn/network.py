"""DηN's network: quantiles of the return for every action, of an observation and a stock.

docs/derivations/distributional.md §7.1.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from surefoot.agents.distributional.dhn.equations import (
    DHNConfig,
    stock_features,
)
from surefoot.agents.parts.networks import MLP, uniform_


class QuantileNetwork(nn.Module):
    """Z(s, c, ·): N quantile estimates of G per action; not of c + G. `stock_range` None: no stock goes in."""

    def __init__(
        self,
        obs_dim: int,
        actions: int,
        config: DHNConfig,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        self.actions, self.stock_range = actions, config.stock_range if config.stock else None
        width = config.hidden[0]
        self.torso: nn.Module = (
            ImageTorso(config, obs_dim, generator)
            if config.image_shape is not None
            else MLP(obs_dim, (), width, generator=generator)
        )
        self.head = MLP(width, config.hidden[1:], actions * config.quantiles, generator=generator)
        if config.stock:
            self.scale = max(map(abs, config.stock_range))
            self.of_stock = MLP(3, (width // 2 or 1,), width, generator=generator)

    def forward(self, obs: Tensor, stock: Tensor) -> Tensor:
        """Map obs (B, obs) and clamped stock (B,) to quantiles (B, A, N)."""
        x = self.torso(obs)
        if self.stock_range is not None:
            x = x + self.of_stock(stock_features(stock, self.scale))
        quantiles: Tensor = self.head(x.relu_())
        return torch.unflatten(quantiles, -1, (self.actions, -1))


class ImageTorso(nn.Module):
    """DQN's three convolutions and a linear layer, for images (frames, height, width) of bytes, flattened."""

    def __init__(self, config: DHNConfig, obs_dim: int, generator: torch.Generator) -> None:
        super().__init__()
        assert config.image_shape is not None
        self.shape = config.image_shape
        if math.prod(self.shape) != obs_dim:
            raise ValueError(f"--agent.image-shape {self.shape} does not match the {obs_dim} numbers of an observation")
        layers = [(self.shape[0], 32, 8, 4), (32, 64, 4, 2), (64, 64, 3, 1)]  # channels in, out, kernel, stride
        self.convolutions = nn.ModuleList(_convolution(*layer, generator) for layer in layers)
        with torch.no_grad():
            features = self.seen(torch.zeros(1, obs_dim)).shape[1]
        self.last = MLP(features, (), config.hidden[0], generator=generator)

    def seen(self, obs: Tensor) -> Tensor:
        """Return the features (B, …) of the convolutions."""
        x = torch.unflatten(obs, -1, self.shape) / 255
        for convolution in self.convolutions:
            x = convolution(x).relu_()
        return x.flatten(1)

    def forward(self, obs: Tensor) -> Tensor:
        """Map (B, obs) to (B, width), before the activation."""
        features: Tensor = self.last(self.seen(obs))
        return features


def _convolution(inside: int, outside: int, kernel: int, stride: int, generator: torch.Generator) -> nn.Conv2d:
    layer: nn.Conv2d = nn.utils.skip_init(nn.Conv2d, inside, outside, kernel, stride)
    for parameter in layer.parameters():
        uniform_(parameter, inside * kernel**2, generator)
    return layer
