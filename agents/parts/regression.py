"""Least squares by Adam for stacks of small networks, with the gradient written out.

HNPG fits its critics H times per iteration, 30 steps each, deep NORA its critic by hundreds of steps per refresh, one
after the other, on batches so small that autograd and the optimiser class cost as much as the arithmetic. Here a step
is the products and nothing else (tests hold it to both).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

BETA_1, BETA_2, EPSILON = 0.9, 0.999, 1e-8  # Adam's usual constants


class Adam:
    """Adam from rest on a list of tensors, which it changes in place."""

    def __init__(self, parameters: Sequence[Tensor], lr: float) -> None:
        self.parameters, self.lr, self.steps = list(parameters), lr, 0
        self.mean = [torch.zeros_like(p) for p in self.parameters]
        self.square = [torch.zeros_like(p) for p in self.parameters]

    def step(self, gradients: list[Tensor]) -> None:
        self.steps += 1
        torch._foreach_lerp_(self.mean, gradients, 1 - BETA_1)
        torch._foreach_mul_(self.square, BETA_2)
        torch._foreach_addcmul_(self.square, gradients, gradients, 1 - BETA_2)
        correction = (1 - BETA_2**self.steps) ** 0.5
        scale = torch._foreach_sqrt(self.square)
        torch._foreach_add_(scale, EPSILON * correction)
        torch._foreach_addcdiv_(
            self.parameters, self.mean, scale, value=-self.lr * correction / (1 - BETA_1**self.steps)
        )


def squared_error_gradients(
    weights: Sequence[Tensor], biases: Sequence[Tensor], x: Tensor, target: Tensor, weight: Tensor
) -> tuple[Tensor, list[Tensor]]:
    """Return (f(x) − z)² (E, B), and the gradients of its weighted sum by weights and then biases.

    f is a stack of tanh networks with one output; x (E, B, in), z (E, B), weight (B,). No gradient reaches z.
    """
    layers = [x]
    for matrix, bias in zip(weights[:-1], biases[:-1], strict=True):
        layers.append(torch.baddbmm(bias, layers[-1], matrix).tanh_())
    # A product with a single column is slow on a CPU, so the output layer is a multiply-and-sum.
    gap = (layers[-1] * weights[-1].mT).sum(-1) + biases[-1].squeeze(-1) - target
    back = (2 * weight * gap).unsqueeze(-1)  # (E, B, 1)
    by_weight, by_bias = [(layers[-1] * back).sum(1).unsqueeze(-1)], [back.sum(1, keepdim=True)]
    back = back * weights[-1].mT
    for i in range(len(weights) - 2, -1, -1):
        h = layers[i + 1]
        back = torch.addcmul(back, back * h, h, value=-1)  # through tanh: back·(1 − h²)
        by_weight.append(torch.bmm(layers[i].mT, back))
        by_bias.append(back.sum(1, keepdim=True))
        if i:
            back = torch.bmm(back, weights[i].mT)
    return gap.square(), by_weight[::-1] + by_bias[::-1]


def chosen_error_gradients(
    weights: Sequence[Tensor], biases: Sequence[Tensor], x: Tensor, chosen: Tensor, target: Tensor
) -> tuple[Tensor, list[Tensor]]:
    """Return (f(x)_a − z)² (E, B), and the gradients of its mean over B by weights and then biases.

    f is a stack of ReLU networks that see the same x (B, in) and have A outputs, of which the one-hot `chosen` (B, A)
    picks one per row; z (B,).
    """
    layers = [x.expand(len(weights[0]), -1, -1)]
    for matrix, bias in zip(weights[:-1], biases[:-1], strict=True):
        layers.append(torch.baddbmm(bias, layers[-1], matrix).relu_())
    outputs = torch.baddbmm(biases[-1], layers[-1], weights[-1])
    gap = (outputs * chosen).sum(-1) - target
    back = (2 / len(target)) * gap.unsqueeze(-1) * chosen  # (E, B, A)
    by_weight, by_bias = [], []
    for i in range(len(weights) - 1, -1, -1):
        by_weight.append(torch.bmm(layers[i].mT, back))
        by_bias.append(back.sum(1, keepdim=True))
        if i:
            back = torch.bmm(back, weights[i].mT) * (layers[i] > 0)
    return gap.square(), by_weight[::-1] + by_bias[::-1]
