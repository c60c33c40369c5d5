"""ReLU networks of N replicates as one batch, their gradients by hand, and arms that have weights of their own.

An arm has a context of its own (N, K, d), or all share one (N, d), which stands in the arm's block of Kd inputs, the
others being 0. Then the first layer (N, Kd, m) is a stack of K blocks, of which an arm reads its own.
Equations: docs/derivations/neural_bandits.md.

| derivation | paper | here |
|---|---|---|
| (4.1) | – | `Network.arms`, `Network.forward`, `multipliers` |
| (4.2) | – | `Network.encode`, `Network.first_layer` |
| (4.3), (4.4) | – | `Network.backward`, `Network.gradient` |
| (4.5) | – | `Network.squared_widths` |
| (4.6) | – | `Network.add_squares` |
| (5.6) | – | `Network.project` |
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from surefoot.agents.parts.random import ReplicateUniforms

Initialisation = Literal["standard", "theory"]


class Shape(NamedTuple):
    """What is chosen from: K arms with d features each, or with d features that they share, in N replicates."""

    replicates: int
    arms: int
    features: int
    shared: bool

    @property
    def blocks(self) -> int:
        """Blocks of weights: one for each arm where they share a context."""
        return self.arms if self.shared else 1


class Pass(NamedTuple):
    """A forward pass: outputs (N, B), and what each layer was given, (N, B, in)."""

    output: Tensor
    inputs: list[Tensor]


def multipliers(widths: Sequence[int], initialisation: Initialisation) -> list[float]:
    """Return the factor of each layer: m^(−1/2) in theory, none in practice."""
    theory = [1 / math.sqrt(width) for width in (*widths, widths[-1])]
    return theory if initialisation == "theory" else [1.0] * len(theory)


class Network:
    """f(θ; x) = vᵀφ(… φ(Wx)) with φ the ReLU, without biases; layers are (N, in, out), float32."""

    def __init__(
        self,
        shape: Shape,
        hidden: Sequence[int],
        uniforms: ReplicateUniforms,
        initialisation: Initialisation = "standard",
        *,
        intercept: bool = False,
    ) -> None:
        self.shape, self.width, self.intercept = shape, hidden[-1], intercept
        self.features = shape.features + intercept
        self.factors = multipliers(hidden, initialisation)
        sizes = [shape.blocks * self.features, *hidden, 1]
        fans = [self.features, *hidden]
        self.layers = [
            _draw(uniforms, rows, columns, fan, initialisation)
            for rows, columns, fan in zip(sizes[:-1], sizes[1:], fans, strict=True)
        ]
        if initialisation == "theory":  # a last layer of norm 1
            self.layers[-1] /= self.layers[-1].norm(dim=1, keepdim=True)
        self.start = [layer.clone() for layer in self.layers]

    @property
    def size(self) -> int:
        """Number of parameters p of one replicate."""
        return sum(layer[0].numel() for layer in self.layers)

    def blocks(self, layer: Tensor) -> Tensor:
        """Return a first layer (N, Kd, m) as blocks (N, K, d, m)."""
        return torch.unflatten(layer, 1, (self.shape.blocks, self.features))

    def widen(self, contexts: Tensor) -> Tensor:
        """Return contexts with a 1 at their end where there is an intercept."""
        return torch.nn.functional.pad(contexts, (0, 1), value=1.0) if self.intercept else contexts

    def first_layer(self, layer: Tensor, contexts: Tensor) -> Tensor:
        """Return contexts times a first layer (N, K, m), each arm by its own block."""
        if not self.shape.shared:
            return contexts @ layer
        return (contexts[:, None, None] @ self.blocks(layer)).squeeze(2)

    def encode(self, contexts: Tensor, arms: Tensor) -> Tensor:
        """Return contexts (N, B, d) of arms (N, B) as inputs (N, B, Kd), or as they are where arms have their own."""
        if not self.shape.shared:
            return contexts
        place = torch.nn.functional.one_hot(arms, self.shape.arms).to(contexts.dtype)
        return (place[..., None] * contexts[:, :, None]).flatten(2)

    def arms(self, contexts: Tensor) -> Pass:
        """Return f of every arm (N, K); the first input is left out."""
        return self._above(self.first_layer(self.layers[0], self.widen(contexts)) * self.factors[0], [])

    def forward(self, inputs: Tensor) -> Pass:
        """Return f of inputs (N, B, in)."""
        return self._above(inputs @ self.layers[0] * self.factors[0], [inputs])

    def _above(self, z: Tensor, inputs: list[Tensor]) -> Pass:
        """Return the pass, given what the first layer made of its input."""
        for layer, factor in zip(self.layers[1:], self.factors[1:], strict=True):
            inputs.append(z.relu())
            z = inputs[-1] @ layer * factor
        return Pass(z.squeeze(-1), inputs)

    def backward(self, slope: Tensor, hidden: Sequence[Tensor]) -> list[Tensor]:
        """Return ∂(Σ slope·f)/∂z (N, B, out) of every layer's output z, given slope (N, B) and hidden activations."""
        errors = [slope[..., None] * self.factors[-1]]
        for layer, active, factor in zip(self.layers[:0:-1], hidden[::-1], self.factors[-2::-1], strict=True):
            errors.append(errors[-1] @ layer.mT * (active > 0) * factor)
        return errors[::-1]

    def gradient(self, slope: Tensor, inputs: Sequence[Tensor]) -> list[Tensor]:
        """Return Σ_b slope_b ∇f(x_b) of every layer, given slope (N, B) and a pass's inputs."""
        errors = self.backward(slope, inputs[1:])
        return [given.mT @ error for given, error in zip(inputs, errors, strict=True)]

    # --- the gradients of single arms ---------------------------------------------------------------------------------

    def squared_widths(self, contexts: Tensor, found: Pass, scale: Sequence[Tensor]) -> Tensor:
        """Return Σ_j g_{a,j}²/U_j (N, K), g_a = ∇f(x_a), of a diagonal U in layers; `found` is of `arms`."""
        errors = self.backward(torch.ones_like(found.output), found.inputs)
        total = (self.first_layer(1 / scale[0], self.widen(contexts).square()) * errors[0].square()).sum(-1)
        for given, error, entries in zip(found.inputs, errors[1:], scale[1:], strict=True):
            total = total + (given.square() @ (1 / entries) * error.square()).sum(-1)
        return total

    def add_squares(self, contexts: Tensor, arm: Tensor, scale: Sequence[Tensor]) -> None:
        """Add g∘g of the arms (N,) to a diagonal U in place."""
        context = self.of_arm(contexts, arm)
        found = self.forward(self.encode(context, arm[:, None]))
        for entries, squares in zip(scale, self._squares(found), strict=True):
            entries += squares

    def _squares(self, found: Pass) -> list[Tensor]:
        """Return g∘g of every layer, for a pass of one row."""
        errors = self.backward(torch.ones_like(found.output), found.inputs[1:])
        return [g.square().mT @ e.square() for g, e in zip(found.inputs, errors, strict=True)]

    def of_arm(self, contexts: Tensor, arm: Tensor) -> Tensor:
        """Return the context (N, 1, d) of an arm (N,), with its intercept."""
        contexts = self.widen(contexts)
        if self.shape.shared:
            return contexts[:, None]
        return contexts.gather(1, arm[:, None, None].expand(-1, 1, contexts.shape[-1]))

    def sizes_of_arm(self) -> list[int]:
        """Return the numbers of weights of each layer that an arm uses."""
        first = self.features * self.layers[0].shape[2]
        return [first, *(layer[0].numel() for layer in self.layers[1:])]

    def arm_gradients(self, contexts: Tensor, found: Pass) -> list[Tensor]:
        """Return ∇f(x_a) of every arm and layer, (N, K, in, out), of the first layer the arm's own block."""
        errors = self.backward(torch.ones_like(found.output), found.inputs)
        first = self.widen(contexts)
        first = first[:, None].expand(-1, self.shape.arms, -1) if self.shape.shared else first
        return [g[..., None] * e[:, :, None] for g, e in zip([first, *found.inputs], errors, strict=True)]

    # --- distance from the start --------------------------------------------------------------------------------------

    def moved(self) -> list[Tensor]:
        """Return θ − θ₀ of every layer."""
        return [layer - start for layer, start in zip(self.layers, self.start, strict=True)]

    def project(self, radius: float) -> None:
        """Put every layer back into the ball of a Frobenius radius around where it started."""
        for layer, start, step in zip(self.layers, self.start, self.moved(), strict=True):
            length = step.flatten(1).norm(dim=1)
            layer.copy_(start + step * (radius / length.clamp(min=radius))[:, None, None])

    def state_dict(self) -> dict[str, Any]:
        return {"layers": [x.clone() for x in self.layers], "start": [x.clone() for x in self.start]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for own, saved in ((self.layers, state["layers"]), (self.start, state["start"])):
            for layer, value in zip(own, saved, strict=True):
                layer.copy_(value)


class Diagonal:
    """A diagonal matrix U over the parameters, as one tensor for each layer."""

    def __init__(self, network: Network, start: float) -> None:
        self.layers = [torch.full_like(layer, start) for layer in network.layers]

    def state_dict(self) -> dict[str, Any]:
        return {"layers": [layer.clone() for layer in self.layers]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for layer, value in zip(self.layers, state["layers"], strict=True):
            layer.copy_(value)


def _draw(uniforms: ReplicateUniforms, rows: int, columns: int, fan: int, initialisation: Initialisation) -> Tensor:
    """Return a Gaussian layer (N, in, out): of variance 1 in theory, 2/in in practice (He); the last one 1/in."""
    variance = 1.0 if initialisation == "theory" else (1.0 if columns == 1 else 2.0) / fan
    normal = uniforms.normals(rows * columns) * math.sqrt(variance)
    return torch.unflatten(normal.float(), 1, (rows, columns))
