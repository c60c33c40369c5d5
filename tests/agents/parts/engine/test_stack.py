"""The kernels of stacked networks against autograd in float64, and what they promise bit for bit."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.testing import assert_close

from surefoot.agents.parts.engine import native, stack
from surefoot.agents.parts.engine.stack import NativeKernels, Parameters, TorchKernels
from surefoot.agents.parts.networks import TanhGaussianPolicy, tanh_gaussian_log_prob

ACTIVATE = {"relu": torch.relu, "tanh": torch.tanh, "swish": F.silu}
SHAPES = [  # members, rows, widths
    (1, 1, (1, 1)),
    (2, 3, (3, 1)),
    (3, 257, (17, 12)),  # one layer; two actions' means and log stds would be 4 wide, six 12
    (1, 7, (7, 33, 1)),
    (2, 33, (3, 7, 6)),
    (7, 3, (5, 1, 3)),
    (2, 64, (23, 1, 1)),
    (3, 97, (17, 257, 33, 4)),
    (1, 1, (257, 257, 12)),
    (2, 600, (9, 13, 11, 2)),  # more rows than go through a product at once
    (2, 5, (600, 40, 3)),  # more inputs than go through a product at once
    (1, 6, (5, 1030, 7, 1)),
]
LEVELS = {"DEFAULT": [], "AVX2": ["AVX2"], "AVX512": ["AVX2", "AVX512"]}[torch.backends.cpu.get_cpu_capability()]


@pytest.fixture(params=LEVELS)
def kernels(request: pytest.FixtureRequest) -> NativeKernels:
    return NativeKernels(native.load(request.param))


@pytest.fixture(params=[*LEVELS, *native.bf16_capabilities()])
def kernels_of_any_precision(request: pytest.FixtureRequest) -> NativeKernels:
    return NativeKernels(native.load(request.param))


@pytest.fixture
def threads():
    """Return the function that sets the number of threads; the test's end restores it."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


def draws(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def make(members: int, widths: tuple[int, ...], activation: str, dtype: torch.dtype, seed: int = 0) -> Parameters:
    g, pairs = draws(seed), list(itertools.pairwise(widths))
    weights = [torch.randn(members, i, o, generator=g).div(i**0.5).to(dtype).requires_grad_() for i, o in pairs]
    biases = [torch.randn(members, 1, o, generator=g).to(dtype).requires_grad_() for _, o in pairs]
    return Parameters(weights, biases, activation)


def copy(net: Parameters, dtype: torch.dtype) -> Parameters:
    copies = [[t.detach().to(dtype).clone().requires_grad_() for t in part] for part in (net.weights, net.biases)]
    return Parameters(*copies, net.activation)


def by_autograd(net: Parameters, x: Tensor) -> Tensor:
    """The definition: layer by layer, in PyTorch's operations."""
    x = x.expand(len(net.weights[0]), -1, -1) if x.dim() == 2 else x
    for weight, bias in zip(net.weights[:-1], net.biases[:-1], strict=True):
        x = ACTIVATE[net.activation](x @ weight + bias)
    return x @ net.weights[-1] + net.biases[-1]


def results(net: Parameters, x: Tensor, grad: Tensor, run: Any) -> list[Tensor]:
    """Return the output and the gradient of every weight, bias and input."""
    x = x.detach().requires_grad_()
    out = run(net, x)
    out.backward(grad.to(out.dtype))
    return [out.detach(), *(t.grad for t in (*net.weights, *net.biases, x))]  # type: ignore[misc]


def through(kernels: Any, *, frozen: bool = False) -> Any:
    return lambda net, x: stack.run(kernels, net, x, frozen=frozen)


def off(found: list[Tensor], expected: list[Tensor]) -> float:
    """Return the largest difference, relative to the largest number of its tensor."""
    return max(
        float((a.double() - b.double()).abs().max() / b.double().abs().max().clamp(min=1e-30))
        for a, b in zip(found, expected, strict=True)
    )


def case(members: int, rows: int, widths: tuple[int, ...], *, shared: bool, seed: int = 1) -> tuple[Tensor, Tensor]:
    """Return an input and a gradient by the output, in float32."""
    g = draws(seed)
    x = torch.randn(*([] if shared else [members]), rows, widths[0], generator=g)
    return x, torch.randn(members, rows, widths[-1], generator=g)


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("activation", stack.ACTIVATIONS)
@pytest.mark.parametrize(("members", "rows", "widths"), SHAPES)
def test_pytorchs_kernels_are_autograd(members, rows, widths, activation, shared):
    net = make(members, widths, activation, torch.float64)
    x, grad = (t.double() for t in case(members, rows, widths, shared=shared))
    expected = results(copy(net, torch.float64), x, grad, by_autograd)
    assert_close(results(net, x, grad, through(TorchKernels())), expected, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("activation", stack.ACTIVATIONS)
@pytest.mark.parametrize(("members", "rows", "widths"), SHAPES)
def test_native_kernels_are_autograd_up_to_rounding(kernels, members, rows, widths, activation, shared):
    net = make(members, widths, activation, torch.float32)
    x, grad = case(members, rows, widths, shared=shared)
    expected = results(copy(net, torch.float64), x.double(), grad.double(), by_autograd)
    found = results(net, x, grad, through(kernels))
    assert [t.shape for t in found] == [t.shape for t in expected]
    assert off(found, expected) < 2e-6
    with torch.no_grad():
        assert torch.equal(stack.run(kernels, net, x, frozen=False), found[0])  # nothing kept: another way through


@pytest.mark.parametrize("members", [1, 3])
def test_an_input_is_read_where_it_lies_in_a_packed_row(kernels, members):
    packed = torch.randn(members, 40, 31, generator=draws(2))
    net = make(members, (11, 19, 2), "relu", torch.float32)
    grad = torch.randn(members, 40, 2, generator=draws(3))
    for view in (packed[..., 4:15], packed[0, :, 20:31], packed[0, :1, 5:16].expand(40, -1), packed.mT[..., :11]):
        rows = grad[:, : view.shape[-2]]
        expected = results(copy(net, torch.float32), view.contiguous(), rows, through(kernels))
        found = results(copy(net, torch.float32), view, rows, through(kernels))
        assert_close(found, expected, rtol=0, atol=0)


@pytest.mark.parametrize("engine", ["torch", "native"])
def test_frozen_networks_pass_gradients_on_and_keep_none(engine):
    net, (x, grad) = make(2, (5, 8, 3), "relu", torch.float32), case(2, 9, (5, 3), shared=True)
    *_, expected = results(copy(net, torch.float32), x, grad, by_autograd)
    x.requires_grad_()
    stack.run(stack.kernels_of(engine), net, x, frozen=True).backward(grad)
    assert all(t.grad is None for t in (*net.weights, *net.biases))
    assert_close(x.grad, expected, rtol=1e-5, atol=1e-6)
    assert not stack.run(stack.kernels_of(engine), net, x.detach(), frozen=True).requires_grad


@pytest.mark.parametrize("engine", ["torch", "native"])
def test_a_gradient_by_inputs_alone_leaves_the_weights_gradients_alone(engine):
    net, (x, grad) = make(2, (5, 8, 3), "relu", torch.float32), case(2, 9, (5, 3), shared=True)
    *_, expected = results(copy(net, torch.float32), x, grad, by_autograd)
    x.requires_grad_()
    out = stack.run(stack.kernels_of(engine), net, x, frozen=False)
    (found,) = torch.autograd.grad(out, x, grad)
    assert_close(found, expected, rtol=1e-5, atol=1e-6)
    assert all(t.grad is None for t in (*net.weights, *net.biases))


@pytest.mark.parametrize("engine", ["torch", "native"])
def test_gradients_add_up_over_uses_and_calls(engine):
    net, once = make(2, (5, 8, 3), "tanh", torch.float32), through(stack.kernels_of(engine))
    x, grad = case(2, 9, (5, 3), shared=True)
    other = torch.randn(2, 4, 5, generator=draws(5), requires_grad=True)

    def twice(run: Any) -> list[Tensor]:
        own = copy(net, torch.float32)
        (run(own, x) * grad).sum().backward()
        (run(own, x).square().mean() + run(own, other).sum()).backward()
        return [t.grad for t in (*own.weights, *own.biases)]  # type: ignore[misc]

    assert_close(twice(once), twice(by_autograd), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("activation", stack.ACTIVATIONS)
@pytest.mark.parametrize("live", [0, 1, 20, 74, 75, 99])
@pytest.mark.parametrize("widths", [(5, 1), (6, 33, 1), (17, 40, 9, 4)])
def test_rows_without_a_gradient_change_nothing(kernels, activation, live, widths):
    """As where only the smaller of two critics is followed: below three quarters of rows only these are computed."""
    net, (x, grad) = make(2, widths, activation, torch.float32), case(2, 100, widths, shared=False)
    grad[0, torch.randperm(100, generator=draws(6))[live:]] = 0
    grad[1, torch.randperm(100, generator=draws(7))[: 100 - live]] = 0
    found = results(copy(net, torch.float32), x, grad, through(kernels))
    expected = results(copy(net, torch.float64), x.double(), grad.double(), by_autograd)
    assert off(found, expected) < 2e-6
    *_, by_input = found
    dense = results(copy(net, torch.float32), x, grad.where(grad != 0, 1.0), through(kernels))[-1]
    kept = grad.any(-1)
    assert torch.equal(by_input[kept], dense[kept])
    assert by_input[~kept].eq(0).all()


@pytest.mark.parametrize("activation", stack.ACTIVATIONS)
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_number_that_is_none_is_not_hidden(kernels, activation, value):
    net, (x, grad) = make(2, (5, 8, 6, 1), activation, torch.float32), case(2, 9, (5, 1), shared=True)
    whole = through(kernels)(net, x).detach()
    x[4, 2] = value
    out, *gradients, _ = results(net, x, grad, through(kernels))
    expected, *its_gradients, _ = results(copy(net, torch.float32), x, grad, by_autograd)
    if value != value:
        assert out[:, 4].isnan().all()
        assert all(torch.equal(a.isnan(), b.isnan()) for a, b in zip(gradients, its_gradients, strict=True))
    else:
        assert_close(out, expected, equal_nan=True)
    others = [i for i in range(9) if i != 4]
    assert torch.equal(out[:, others], whole[:, others])


@pytest.mark.parametrize(("members", "rows", "widths"), SHAPES)
def test_two_threads_give_the_same_bits(kernels_of_any_precision, threads, members, rows, widths):
    net, (x, grad) = make(members, widths, "swish", torch.float32), case(members, rows, widths, shared=False)
    found = []
    for count in (1, 2, 3):
        threads(count)
        found.append(results(copy(net, torch.float32), x, grad, through(kernels_of_any_precision)))
        with torch.no_grad():
            found[-1].append(stack.run(kernels_of_any_precision, net, x, frozen=False))
    assert_close(found[1:], found[:1] * 2, rtol=0, atol=0)


@pytest.mark.parametrize("activation", stack.ACTIVATIONS)
@pytest.mark.parametrize(("members", "rows", "widths"), SHAPES)
def test_a_row_does_not_depend_on_rows_and_members_beside_it(
    kernels_of_any_precision, members, rows, widths, activation
):
    net, (x, grad) = make(members, widths, activation, torch.float32), case(members, rows, widths, shared=False)
    out, *_, by_input = results(net, x, grad, through(kernels_of_any_precision))
    for row in {0, rows // 2, rows - 1}:
        for e in range(members):
            one = Parameters(
                *([t[e : e + 1].detach().clone() for t in part] for part in (net.weights, net.biases)), net.activation
            )
            alone = x[e, row : row + 1].clone().requires_grad_()
            its_out = stack.run(kernels_of_any_precision, one, alone, frozen=True)
            its_out.backward(grad[e : e + 1, row : row + 1])
            assert torch.equal(its_out[0, 0], out[e, row])
            assert torch.equal(alone.grad[0], by_input[e, row])


def test_nothing_is_written_beside_the_results(kernels_of_any_precision, monkeypatch):
    guarded, real = [], torch.empty

    def empty(*shape: int) -> Tensor:
        flat = torch.full((int(torch.tensor(shape).prod()) + 128,), 7.25)
        guarded.append(flat)
        return flat[64:-64].view(shape)

    for members, rows, widths in SHAPES:
        for activation in stack.ACTIVATIONS:
            net, (x, grad) = make(members, widths, activation, torch.float32), case(members, rows, widths, shared=True)
            for t in (*net.weights, *net.biases):
                monkeypatch.setattr(torch, "empty", real)
                t.grad = empty(*t.shape).zero_()
            monkeypatch.setattr(torch, "empty", empty)
            results(net, x, grad, through(kernels_of_any_precision))
            results(
                net,
                x,
                grad.where(torch.rand(rows, 1, generator=draws(9)) < 0.3, 0.0),
                through(kernels_of_any_precision),
            )
            with torch.no_grad():
                stack.run(kernels_of_any_precision, net, x, frozen=False)
    assert guarded
    assert all(flat[:64].eq(7.25).all() and flat[-64:].eq(7.25).all() for flat in guarded)


@pytest.mark.parametrize("activation", stack.ACTIVATIONS)
def test_a_tapes_memory_is_used_again_when_it_is_gone_and_never_before(activation):
    kernels, net = stack.kernels_of("native"), make(2, (3, 8, 8, 1), activation, torch.float32)
    x, grad = case(2, 5, (3, 8, 8, 1), shared=False)

    def places(tape: stack.Tape) -> set[int]:
        return {kept.memory.data_ptr() for kept in tape[1:] if kept}

    first, second = (kernels.forward(net, x * k, keep=True)[1] for k in (1, 2))
    kept = [first.hidden.memory.clone(), second.hidden.memory.clone()]
    were = places(first)
    assert not were & places(second)
    del first
    third = kernels.forward(net, 3 * x, keep=True)[1]
    assert places(third) == were
    assert torch.equal(second.hidden.memory, kept[1])
    fewer = kernels.forward(net, x[:, :4], keep=True)[1]  # other sizes have memory of their own
    assert not places(fewer) & (were | places(second))
    kernels.backward(net, third, grad, weights=True, columns=(0, 0))
    alone = copy(net, torch.float32)
    kernels.backward(alone, kernels.forward(alone, 3 * x, keep=True)[1], grad, weights=True, columns=(0, 0))
    assert all(torch.equal(a.grad, b.grad) for a, b in zip(net.weights, alone.weights, strict=True))


@pytest.mark.parametrize("engine", ["torch", "native"])
def test_a_second_derivative_is_refused(engine):
    net, x = make(2, (5, 8, 3), "tanh", torch.float32), torch.randn(4, 5, generator=draws(1), requires_grad=True)
    out = stack.run(stack.kernels_of(engine), net, x, frozen=True)
    with pytest.raises(RuntimeError, match=r"create_graph: .* pass --engine eager"):
        torch.autograd.grad(out.sum(), x, create_graph=True)


@pytest.mark.parametrize(
    "x", [torch.zeros(4, 6), torch.zeros(3, 4, 5), torch.zeros(5), torch.zeros(4, 5, dtype=torch.float64)]
)
def test_an_input_that_does_not_fit_is_refused(kernels, x):
    with pytest.raises(ValueError, match=r"2 stacked networks take \(rows, 5\) or \(2, rows, 5\) of float32"):
        stack.run(kernels, make(2, (5, 8, 3), "relu", torch.float32), x, frozen=True)


def test_weights_of_another_type_are_refused(kernels):
    with pytest.raises(ValueError, match="contiguous float32 weights"):
        stack.run(kernels, make(2, (5, 3), "relu", torch.float64), torch.zeros(4, 5), frozen=True)


# --- a tanh-Gaussian's sample -----------------------------------------------------------------------------------------


def sampled(outputs: Tensor, affine: Tensor, noise: Tensor, bounds: tuple[float, float]) -> tuple[Tensor, Tensor]:
    """The definition: `TanhGaussianPolicy.sample`, after its network."""
    mean, raw = outputs.chunk(2, -1)
    log_std = (affine[0] * raw + affine[1]).clamp(*bounds)
    pre_tanh = mean + log_std.exp() * noise
    return pre_tanh.tanh(), tanh_gaussian_log_prob(noise, log_std, pre_tanh)


@pytest.mark.parametrize("affine", [(1.0, 0.0), (0.7, -1.0), (-2.0, 0.5)])
@pytest.mark.parametrize(("rows", "actions"), [(1, 1), (3, 7), (257, 6), (300, 17), (2, 2500)])
@pytest.mark.parametrize("spread", [0.05, 1.0, 12.0])  # of means and log stds: 12 saturates and clips most of them
def test_a_sample_and_its_gradient_are_autograd(affine, rows, actions, spread):
    g, bounds = draws(rows + actions), (-5.0, 2.0)
    outputs = torch.randn(rows, 2 * actions, generator=g) * spread
    noise, by_action = (torch.randn(rows, actions, generator=g) for _ in range(2))
    by_log_prob = torch.randn(rows, generator=g)

    def both(function: Any, dtype: torch.dtype) -> list[Tensor]:
        leaves = [outputs.to(dtype).requires_grad_(), torch.tensor(affine, dtype=dtype, requires_grad=True)]
        action, log_prob = function(*leaves, noise.to(dtype), bounds)
        ((action * by_action).sum() + (log_prob * by_log_prob).sum()).backward()
        return [action.detach(), log_prob.detach(), *(leaf.grad for leaf in leaves)]  # type: ignore[misc]

    expected = both(sampled, torch.float64)
    found = both(stack.SampleNode.apply, torch.float32)
    assert [t.shape for t in found] == [t.shape for t in expected]
    assert off(found[:3], expected[:3]) < 2e-6
    total = expected[2][:, actions:].abs().sum() * max(1.0, spread)  # a sum of numbers of both signs
    assert (found[3] - expected[3]).abs().max() <= 4e-6 * total


def test_a_small_standard_deviation_keeps_its_gradient():
    """It is not the difference of the sample and the mean, which float32 rounds away."""
    outputs = torch.tensor([[3.0, -12.0]], requires_grad=True)
    noise = torch.tensor([[1.5]])
    action, _ = stack.SampleNode.apply(outputs, torch.tensor([1.0, 0.0]), noise, (-20.0, 2.0))
    action.backward(torch.ones(1, 1))
    exact = (1 - torch.tensor(3.0).double().tanh() ** 2) * torch.tensor(-12.0).double().exp() * 1.5
    assert outputs.grad[0, 1].item() == pytest.approx(exact.item(), rel=1e-4)


@pytest.mark.parametrize("value", [-5.0, 2.0, -5.001, 2.001])
def test_the_log_std_has_a_gradient_up_to_its_bounds(value):
    gradients = []
    for function in (sampled, stack.SampleNode.apply):
        outputs = torch.tensor([[0.3, value]], requires_grad=True)
        action, log_prob = function(outputs, torch.tensor([1.0, 0.0]), torch.tensor([[0.4]]), (-5.0, 2.0))
        (action.sum() + log_prob.sum()).backward()
        gradients.append(outputs.grad)
    assert_close(*gradients)
    assert bool(gradients[1][0, 1]) == (-5.0 <= value <= 2.0)


def test_a_nan_reaches_the_action_and_its_log_probability():
    for column in (0, 1):
        outputs = torch.zeros(3, 2)
        outputs[1, column] = float("nan")
        action, log_prob = stack.SampleNode.apply(outputs, torch.tensor([1.0, 0.0]), torch.ones(3, 1), (-5.0, 2.0))
        assert action.isnan().flatten().tolist() == log_prob.isnan().tolist() == [False, True, False]


def test_noise_is_read_in_its_own_layout_and_broadcast_as_before():
    policies = [TanhGaussianPolicy(4, 3, (8,), generator=draws(0)) for _ in range(2)]
    policies[1].net.compute_by(stack.kernels_of("native"))
    obs, noise = torch.randn(5, 4, generator=draws(1)), torch.randn(3, 5, generator=draws(2)).mT
    for rows in (obs, obs[:1]):  # one row, five samples of it
        expected, found = (policy.sample(rows, noise) for policy in policies)
        assert_close(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("seeds", [1, 3])
def test_seeds_side_by_side_are_sampled_and_derived_as_each_alone(seeds):
    draw = lambda *shape, seed: torch.randn(seeds, *shape, generator=draws(seed))  # noqa: E731
    outputs, affine, noise = draw(5, 4, seed=0), draw(2, seed=1), draw(5, 2, seed=2)
    together = stack.sample(outputs, affine, noise, (-5.0, 2.0))
    by = draw(5, 2, seed=3), draw(5, seed=4)
    derived = stack.sample_backward(together[2], *by)
    for s in range(seeds):
        alone = stack.sample(outputs[s], affine[s], noise[s], (-5.0, 2.0))
        assert_close((together[0][s], together[1][s]), alone[:2], rtol=0, atol=0)
        one = stack.sample_backward(alone[2], by[0][s], by[1][s])
        assert_close((derived[0][s], derived[1][s]), one, rtol=0, atol=0)


def test_a_recorded_sample_and_its_gradient_are_those_of_autograd():
    eager, fast = (TanhGaussianPolicy(4, 3, (8,), generator=draws(0), learn_log_std_affine=True) for _ in range(2))
    fast.net.compute_by(stack.kernels_of("native"))
    for parameter in fast.parameters():
        parameter.grad = torch.zeros_like(parameter)
    obs, noise = torch.randn(5, 4, generator=draws(1)), torch.randn(5, 3, generator=draws(2))
    expected = eager.sample(obs, noise)
    action, log_prob, tape = fast.record(obs, noise)
    assert_close((action, log_prob), tuple(one.detach() for one in expected), rtol=1e-5, atol=1e-5)
    (expected[0].square().sum() + 2 * expected[1].sum()).backward()
    fast.backpropagate(tape, 2 * action, torch.full((5,), 2.0))
    for one, other in zip(fast.parameters(), eager.parameters(), strict=True):
        assert_close(one.grad, other.grad, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("grad", [True, False])
def test_a_sample_that_does_not_fit_is_refused(grad):
    affine, bounds = torch.tensor([1.0, 0.0]), (-5.0, 2.0)
    for outputs, noise in (((4, 6), (4, 2)), ((4, 4), (5, 2))):
        with torch.set_grad_enabled(grad), pytest.raises(ValueError, match="do not go with noise"):
            stack.run_sample(torch.zeros(outputs), affine, torch.zeros(noise), bounds)
    with pytest.raises(ValueError, match="must be contiguous"):
        stack.sample(torch.zeros(4, 4), affine, torch.zeros(4, 4)[:, :2], bounds)
