"""Parameters as views of one flat tensor."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class Flat:
    """One tensor with all numbers of some parameters, which become views of it."""

    def __init__(self, parameters: Sequence[nn.Parameter]) -> None:
        self.parameters = list(parameters)
        if any(hasattr(p, "flat") for p in self.parameters):
            raise ValueError("a parameter of two optimisers: under an engine each belongs to one; pass --engine eager")
        self.values = torch.cat([p.detach().reshape(-1) for p in self.parameters])
        for parameter, value in zip(self.parameters, self.views(self.values), strict=True):
            parameter.data = value
            parameter.flat = self  # type: ignore[attr-defined]

    def views(self, flat: Tensor) -> list[Tensor]:
        """Return the parameters' parts of a flat tensor, in their shapes."""
        pieces = flat.split([p.numel() for p in self.parameters])
        return [piece.view(p.shape) for piece, p in zip(pieces, self.parameters, strict=True)]


def flat_of(parameters: Sequence[Tensor]) -> Flat | None:
    """Return the flat tensor that holds these parameters and no others, in their order; None if there is none."""
    flat: Flat | None = getattr(parameters[0], "flat", None) if parameters else None
    if flat is None or len(flat.parameters) != len(parameters):
        return None
    return flat if all(a is b for a, b in zip(flat.parameters, parameters, strict=True)) else None


def flat_pair(targets: Sequence[Tensor], sources: Sequence[Tensor]) -> tuple[Tensor, Tensor] | None:
    """Return the flat tensors of two sets of parameters of the same shapes, or None."""
    pair = flat_of(targets), flat_of(sources)
    return None if pair[0] is None or pair[1] is None else (pair[0].values, pair[1].values)
