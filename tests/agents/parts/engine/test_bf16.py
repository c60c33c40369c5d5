"""Products in bf16: of which numbers, how exactly added up, and in which layers."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from surefoot.agents.parts.engine import native, stack
from surefoot.agents.parts.engine.stack import NativeKernels, Parameters

BF16 = native.bf16_capabilities()
pytestmark = pytest.mark.skipif(not BF16, reason="this processor has no bf16 products")


@pytest.fixture(params=BF16)
def kernels(request: pytest.FixtureRequest) -> NativeKernels:
    return NativeKernels(native.load(request.param), "native-bf16")


def draws(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def rounded(x: Tensor) -> Tensor:
    return x.bfloat16().double()


def one_layer(members: int, rows: int, widths: tuple[int, int]) -> tuple[Parameters, Tensor, Tensor]:
    g, (width_in, width_out) = draws(rows), widths
    weight, bias = (
        torch.randn(members, width_in, width_out, generator=g),
        torch.randn(members, 1, width_out, generator=g),
    )
    x, grad = torch.randn(members, rows, width_in, generator=g), torch.randn(members, rows, width_out, generator=g)
    return Parameters([weight.requires_grad_()], [bias.requires_grad_()], "relu"), x, grad


def differentiated(kernels: NativeKernels, net: Parameters, x: Tensor, grad: Tensor) -> list[Tensor]:
    """Return the output and its gradients by weight, bias and input."""
    x = x.detach().requires_grad_()
    out = stack.run(kernels, net, x, frozen=False)
    out.backward(grad)
    return [out.detach(), *(t.grad for t in (*net.weights, *net.biases, x))]  # type: ignore[misc]


def in_float64(net: Parameters, x: Tensor, grad: Tensor) -> list[Tensor]:
    """The same by the definition: of rounded factors, exactly added up. A bias and its gradient are no products."""
    weight, bias = net.weights[0].detach(), net.biases[0].detach()
    return [
        rounded(x) @ rounded(weight) + bias.double(),
        rounded(x).mT @ rounded(grad),
        grad.double().sum(1, keepdim=True),
        rounded(grad) @ rounded(weight).mT,
    ]


def off(found: Tensor, expected: Tensor) -> float:
    return float((found.double() - expected).abs().max() / expected.abs().max())


SHAPES = [  # rows, widths: odd ones, and more than go through a product at once
    (1, (32, 32)),
    (7, (33, 47)),
    (16, (64, 48)),
    (33, (65, 257)),
    (256, (256, 256)),
    (257, (97, 33)),
    (600, (45, 32)),
    (5, (600, 40)),
    (3, (1030, 70)),
]


@pytest.mark.parametrize("members", [1, 3])
@pytest.mark.parametrize(("rows", "widths"), SHAPES)
def test_products_are_those_of_rounded_factors(kernels, members, rows, widths):
    net, x, grad = one_layer(members, rows, widths)
    for found, expected in zip(differentiated(kernels, net, x, grad), in_float64(net, x, grad), strict=True):
        assert off(found, expected) < 2e-6


@pytest.mark.parametrize("live", [0, 1, 20, 74, 99])
def test_rows_without_a_gradient_change_nothing(kernels, live):
    net, x, grad = one_layer(2, 100, (70, 45))
    for e in range(2):
        grad[e, torch.randperm(100, generator=draws(6 + e))[live:]] = 0
    for found, expected in zip(differentiated(kernels, net, x, grad), in_float64(net, x, grad), strict=True):
        assert_close(found.double(), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_number_that_is_none_is_not_hidden(kernels, value):
    net, x, grad = one_layer(2, 9, (40, 33))
    whole = stack.run(kernels, net, x, frozen=True).detach()
    x[:, 4, 2] = value
    out, by_weight, *_ = differentiated(kernels, net, x, grad)
    assert not out[:, 4].isfinite().any()
    assert not by_weight[:, 2].isfinite().any()
    others = [i for i in range(9) if i != 4]
    assert torch.equal(out[:, others], whole[:, others])


@pytest.mark.parametrize("members", [1, 3])
def test_an_input_is_read_where_it_lies_in_a_packed_row(kernels, members):
    net, _, grad = one_layer(members, 40, (50, 33))
    packed = torch.randn(members, 40, 71, generator=draws(2))
    for view in (packed[..., 4:54], packed[0, :, 20:70], packed[0, :1, 5:55].expand(40, -1)):
        both = [
            differentiated(kernels, Parameters(net.weights, net.biases, "relu"), x, grad) for x in (view, view.clone())
        ]
        for t in (*net.weights, *net.biases):
            t.grad = None
        assert torch.equal(both[0][0], both[1][0])
        assert torch.equal(both[0][3], both[1][3])


def whole_numbers(members: int, widths: tuple[int, ...]) -> Parameters:
    """Weights of -1, 0 and 1, so few that activations and gradients of a few small whole numbers are exact in bf16."""
    weights, biases = [], []
    for i, o in itertools.pairwise(widths):
        weight = torch.zeros(members, i, o)
        for e, k in itertools.product(range(members), range(o)):
            weight[e, torch.randperm(i, generator=draws(97 * k + e))[:3], k] = torch.tensor([1.0, -1.0, 1.0])
        weights.append(weight.requires_grad_())
        biases.append(torch.randint(-2, 3, (members, 1, o), generator=draws(o)).float().requires_grad_())
    return Parameters(weights, biases, "relu")


@pytest.mark.parametrize("rows", [1, 6, 40])
@pytest.mark.parametrize("widths", [(5, 40, 33, 1), (35, 64, 64, 64, 2), (40, 50, 34)])
def test_whole_numbers_go_through_all_layers_exactly(kernels, rows, widths):
    net = whole_numbers(2, widths)
    x = torch.randint(-3, 4, (2, rows, widths[0]), generator=draws(rows)).float().requires_grad_()
    grad = torch.randint(-1, 2, (2, rows, widths[-1]), generator=draws(9)).float()
    found = differentiated(kernels, net, x, grad)
    by_kernels = [t.grad.clone() for t in (*net.weights, *net.biases)]
    for t in (*net.weights, *net.biases):
        t.grad = None
    hidden = x
    for weight, bias in zip(net.weights[:-1], net.biases[:-1], strict=True):
        hidden = torch.relu(hidden @ weight + bias)
    out = hidden @ net.weights[-1] + net.biases[-1]
    out.backward(grad)
    assert torch.equal(found[0], out)
    assert torch.equal(found[-1], x.grad)
    assert all(torch.equal(a, t.grad) for a, t in zip(by_kernels, (*net.weights, *net.biases), strict=True))
    assert out.abs().max() > 2


@pytest.mark.parametrize("widths", [(31, 256), (256, 31), (31, 31)])
def test_narrow_layers_stay_float32_bit_for_bit(kernels, widths):
    results = [differentiated(k, *one_layer(2, 40, widths)) for k in (kernels, NativeKernels())]
    assert_close(*results, rtol=0, atol=0)


@pytest.mark.parametrize("activation", stack.ACTIVATIONS)
def test_deep_networks_are_those_of_float32_up_to_the_rounding_of_bf16(kernels, activation):
    """And are not those of float32. The input of a ReLU that changes its sign turns a gradient on or off."""
    g, widths = draws(0), (17, 256, 256, 6)
    weights = [torch.randn(2, i, o, generator=g).div(i**0.5).requires_grad_() for i, o in itertools.pairwise(widths)]
    biases = [torch.randn(2, 1, o, generator=g).requires_grad_() for o in widths[1:]]
    x, grad = torch.randn(2, 100, 17, generator=g), torch.randn(2, 100, 6, generator=g)

    def run(by: Any) -> list[Tensor]:
        copies = [[t.detach().clone().requires_grad_() for t in part] for part in (weights, biases)]
        return differentiated(by, Parameters(*copies, activation), x, grad)

    differences = [float((a - b).norm() / b.norm()) for a, b in zip(run(kernels), run(NativeKernels()), strict=True)]
    of_the_last_bias = differences.pop(-2)  # its gradient is a sum of what is given
    assert of_the_last_bias == 0
    assert 5e-4 < min(differences) < max(differences) < (4e-2 if activation == "relu" else 4e-3)
