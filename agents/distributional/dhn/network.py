"""DηN's network: quantiles of the return for every action, of an observation and a stock.

docs/derivations/distributional.md §7.1.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from surefoot.agents.distributional.dhn.equations import (
    DHNConfig,
    elapsed_scale,
    stock_features,
    time_features,
    whole_stock_features,
)
from surefoot.agents.parts.networks import MLP, uniform_


class QuantileNetwork(nn.Module):
    """Z(s, c, ·): N quantile estimates of G per action; not of c + G. With a horizon the time is an input, too.

    With `categories` the logits of their chances in place of quantiles: `equations.law_of` says what comes out.
    """

    def __init__(
        self,
        obs_dim: int,
        actions: int,
        config: DHNConfig,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        self.actions, self.config = actions, config
        width, finite = config.hidden[0], config.horizon is not None
        self.torso: nn.Module = (
            ImageTorso(config, obs_dim, generator)
            if config.image_shape is not None
            else MLP(obs_dim - finite, (), width, generator=generator)
        )
        several = len(config.rewards) or 1
        outputs = actions * (config.categories or config.quantiles * several)
        self.head = MLP(width, config.hidden[1:], outputs, generator=generator)
        self.scale = max(map(abs, config.stock_range))
        if config.stock or finite:
            features = 3 * several * config.stock + 3 * finite
            self.of_stock = MLP(features, (width // 2 or 1,), width, generator=generator)

    def forward(self, obs: Tensor, stock: Tensor) -> Tensor:
        """Map obs (B, obs) and clamped stock (B,) to quantiles or logits (B, A, N).

        Of m rewards stocks (B, m) to points (B, A, N·m).
        """
        config = self.config
        x = self.torso(obs if config.horizon is None else obs[:, :-1])
        if config.stock or config.horizon is not None:
            x = x + self.of_stock(self.beside(obs, stock))
        quantiles: Tensor = self.head(x.relu_())
        return torch.unflatten(quantiles, -1, (self.actions, -1))

    def beside(self, obs: Tensor, stock: Tensor) -> Tensor:
        """Return the features (B, 3 or 6) of the stock, of the time, or of both; 3 of every stock."""
        config, z = self.config, elapsed_scale(obs, self.config)
        if z is None or config.horizon is None:
            return stock_features(stock, self.scale).flatten(1)
        time = time_features(obs, z, config.horizon)
        whole = whole_stock_features(stock, z, self.scale).flatten(1)
        return torch.cat([whole, time], -1) if config.stock else time


LEAST_SIDE = 36  # of an image for DQN's three convolutions


class ImageTorso(nn.Module):
    """DQN's three convolutions and a linear layer, for images (frames, height, width) of bytes, flattened.

    Smaller images are MinAtar's, channels of zeros and ones, with its one convolution (arXiv 1903.03176).
    """

    def __init__(self, config: DHNConfig, obs_dim: int, generator: torch.Generator) -> None:
        super().__init__()
        assert config.image_shape is not None
        self.shape = config.image_shape
        if math.prod(self.shape) != obs_dim:
            raise ValueError(f"--agent.image-shape {self.shape} does not match the {obs_dim} numbers of an observation")
        small = min(self.shape[1:]) < LEAST_SIDE
        self.largest = 1.0 if small else 255.0
        layers = [(self.shape[0], 32, 8, 4), (32, 64, 4, 2), (64, 64, 3, 1)]  # channels in, out, kernel, stride
        layers = [(self.shape[0], 16, 3, 1)] if small else layers
        self.convolutions = nn.ModuleList(_convolution(*layer, generator) for layer in layers)
        with torch.no_grad():
            features = self.seen(torch.zeros(1, obs_dim)).shape[1]
        self.last = MLP(features, (), config.hidden[0], generator=generator)

    def seen(self, obs: Tensor) -> Tensor:
        """Return the features (B, …) of the convolutions."""
        x = torch.unflatten(obs, -1, self.shape) / self.largest
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
