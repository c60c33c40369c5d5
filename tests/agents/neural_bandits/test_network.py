"""Gradients by hand, perturbation and kernel: docs/derivations/neural_bandits.md E4 to E7, E12."""

import itertools

import pytest
import torch
from torch import Tensor

from surefoot.agents.neural_bandits.bandit import ContextualProblem
from surefoot.agents.neural_bandits.baselines import NeuralUCB, NeuralUCBConfig, pooled
from surefoot.agents.neural_bandits.network import Diagonal, Network, Shape
from surefoot.agents.neural_bandits.regression import History, NetworkRegression, PerturbedConfig
from surefoot.agents.parts.engine.choice import native_is_missing
from surefoot.agents.parts.random import ReplicateUniforms

CPU = torch.device("cpu")
N, K, D, B = 3, 4, 5, 6


def network(shared: bool, hidden=(7,), initialisation="standard") -> Network:
    net = Network(Shape(N, K, D, shared), hidden, ReplicateUniforms(0, "weights", N), initialisation)
    for layers in (net.layers, net.start):
        layers[:] = [layer.double() for layer in layers]
    return net


def contexts_of(shared: bool, seed: int = 0, dtype=torch.float64) -> Tensor:
    shape = (N, D) if shared else (N, K, D)
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def plain(layers: list[Tensor], factors: list[float], x: Tensor) -> Tensor:
    """Return f of one input of one replicate, as the equation has it."""
    for layer, factor in zip(layers[:-1], factors[:-1], strict=True):
        x = torch.relu(factor * (x @ layer))
    return factors[-1] * (x @ layers[-1]).squeeze()


def wide(x: Tensor, arm: int, shared: bool) -> Tensor:
    """Return the input of an arm: the context in its block, or its own context."""
    if not shared:
        return x[arm]
    zeros = x.new_zeros(K * D)
    zeros[arm * D : (arm + 1) * D] = x
    return zeros


def gradient_of(net: Network, n: int, x: Tensor) -> tuple[Tensor, list[Tensor]]:
    """Return f and its gradient by autograd."""
    layers = [layer[n].clone().requires_grad_() for layer in net.layers]
    f = plain(layers, net.factors, x)
    return f.detach(), list(torch.autograd.grad(f, layers))


CASES = list(itertools.product([True, False], [(7,), (7, 6)], ["standard", "theory"]))


@pytest.mark.parametrize(("shared", "hidden", "initialisation"), CASES)
def test_outputs_and_gradients_of_every_arm_are_those_of_autograd(shared, hidden, initialisation):
    net, contexts = network(shared, hidden, initialisation), contexts_of(shared)
    found, design = net.arms(contexts), Diagonal(net, 0.1)
    design.layers = [1 + torch.rand(layer.shape, dtype=torch.float64) for layer in design.layers]
    squares, gradients = net.squared_widths(contexts, found, design.layers), net.arm_gradients(contexts, found)
    for n, arm in itertools.product(range(N), range(K)):
        f, by_layer = gradient_of(net, n, wide(contexts[n], arm, shared))
        torch.testing.assert_close(found.output[n, arm], f)
        expected = sum((g.square() / u[n]).sum() for g, u in zip(by_layer, design.layers, strict=True))
        torch.testing.assert_close(squares[n, arm], expected)
        first = by_layer[0][arm * D : (arm + 1) * D] if shared else by_layer[0]
        for own, by_autograd in zip([g[n, arm] for g in gradients], [first, *by_layer[1:]], strict=True):
            torch.testing.assert_close(own, by_autograd)


@pytest.mark.parametrize(("shared", "hidden", "initialisation"), CASES)
def test_the_gradient_of_a_minibatch_is_that_of_autograd(shared, hidden, initialisation):
    net, generator = network(shared, hidden, initialisation), torch.Generator().manual_seed(1)
    arms = torch.randint(K, (N, B), generator=generator)
    contexts = torch.randn(N, B, D, generator=generator, dtype=torch.float64)
    slope = torch.randn(N, B, generator=generator, dtype=torch.float64)
    inputs = net.encode(contexts, arms)
    gradient = net.gradient(slope, net.forward(inputs).inputs)
    for n in range(N):
        layers = [layer[n].clone().requires_grad_() for layer in net.layers]
        total = sum(slope[n, b] * plain(layers, net.factors, inputs[n, b]) for b in range(B))
        for own, expected in zip(gradient, torch.autograd.grad(total, layers), strict=True):
            torch.testing.assert_close(own[n], expected)


def test_the_designs_of_neural_ucb_add_up_squared_gradients():
    learner = NeuralUCB(NeuralUCBConfig(hidden=(7,), ridge=0.3), ContextualProblem(Shape(N, K, D, True), 0, CPU))
    net, arm = learner.oracle.network, torch.tensor([2, 0, 3])
    contexts = contexts_of(True, dtype=torch.float32)
    expected = [torch.full_like(layer, 0.3) for layer in net.layers]
    for n in range(N):
        for entry, g in zip(expected, gradient_of(net, n, wide(contexts[n], int(arm[n]), True))[1], strict=True):
            entry[n] += g.square()
    found = net.arms(contexts)
    before = learner.width(contexts, found)
    learner.learn(contexts, arm, torch.ones(N))
    for own, entry in zip(learner.design.layers, expected, strict=True):
        torch.testing.assert_close(own, entry)
    squares = sum(g.square().sum() for g in gradient_of(net_at_start(learner), 0, wide(contexts[0], 1, True))[1])
    torch.testing.assert_close(before[0, 1], (0.3 * 0.001 * squares / 0.3).sqrt())


def net_at_start(learner: NeuralUCB) -> Network:
    net = learner.oracle.network
    net.layers = [layer.clone() for layer in net.start]
    return net


# --- perturbation -----------------------------------------------------------------------------------------------------


def test_the_mean_over_signs_is_a_ridge_penalty_towards_the_start():
    c, width, y = 0.6, 6, 0.2
    made = regression("square", perturbation="sampled", perturbation_scale=c, perturbation_draws=60_000)
    f = float(made.network.arms(torch.full((1, 3), 0.4, dtype=torch.float64)).output[0, 0])
    distance = float(sum(step.square().sum() for step in made.network.moved()))
    penalty = c**2 / width**0.5 * distance
    perturbed = f + made.offsets()
    assert float((perturbed - y).square().mean()) == pytest.approx((f - y) ** 2 + penalty, rel=0.02)
    assert penalty > 0.2 * (f - y) ** 2


def regression(loss: str, **changes) -> NetworkRegression:
    """Return a regression in float64 that has moved from its start."""
    config = PerturbedConfig(hidden=(6,), batch_size=5, **changes)
    made = NetworkRegression(config, loss, Shape(1, 2, 3, True), 0, CPU)
    generator = torch.Generator().manual_seed(3)
    made.network.start = [layer.double() for layer in made.network.start]
    moved = [0.3 * torch.randn(layer.shape, generator=generator, dtype=torch.float64) for layer in made.network.start]
    made.network.layers = [start + step for start, step in zip(made.network.start, moved, strict=True)]
    return made


@pytest.mark.parametrize(("loss", "tolerance"), [("square", 1e-9), ("kl", 0.02)])
def test_sampled_and_expected_gradients_agree_in_the_mean(loss, tolerance):
    """Over all 2ᵖ signs of a tiny step; of the log loss to second order in the scale."""
    scale = 0.4
    expected = regression(loss, perturbation="expected", perturbation_scale=scale)
    sampled = regression(loss, perturbation="sampled", perturbation_scale=scale, perturbation_draws=1)
    p, few = expected.network.size, 8
    for net in (expected.network, sampled.network):  # all but 8 parameters stay where they began
        flat = torch.cat([step.flatten() for step in net.moved()])
        flat[few:] = 0
        parts = flat.split([layer.numel() for layer in net.layers])
        net.layers = [s + part.view_as(s) for s, part in zip(net.start, parts, strict=True)]
    generator = torch.Generator().manual_seed(5)
    contexts = torch.randn(1, 5, 3, generator=generator, dtype=torch.float64)
    arms, targets = torch.randint(2, (1, 5), generator=generator), torch.rand(1, 5, generator=generator).double()
    patterns = torch.tensor(list(itertools.product([-1, 1], repeat=few)), dtype=torch.int8)
    rest = torch.ones(len(patterns), p - few, dtype=torch.int8)
    both = torch.cat([torch.cat([patterns, rest], 1), torch.cat([patterns, -rest], 1)])
    sampled.signs = both[None]
    found = expected.network.forward(expected.network.encode(contexts, arms))
    ours, theirs = expected.expected_gradient(found, targets), sampled.sampled_gradient(found, targets)
    expected.perturbation = "none"
    for own, sample in zip(ours, theirs, strict=True):
        torch.testing.assert_close(own, sample, rtol=0, atol=tolerance * float(sample.abs().max()))
    without = expected.expected_gradient(found, targets)[0]
    assert float((ours[0] - without).abs().max()) > 0.1 * float(ours[0].abs().max())  # the penalty is not nothing


def test_all_arms_share_the_draws_so_gaps_stay():
    made = regression("square", perturbation="sampled", perturbation_scale=0.5, perturbation_draws=4)
    contexts = torch.rand(1, 3, dtype=torch.float64)
    f, offsets = made.network.arms(contexts).output, made.offsets()
    assert float(offsets.abs().max()) > 0.01
    shifted = f + offsets.mean(1, keepdim=True)
    torch.testing.assert_close(shifted - shifted.min(), f - f.min())
    torch.testing.assert_close(made.predict(contexts), shifted.clamp(0, 1))
    averaged = regression("kl", perturbation="sampled", perturbation_scale=0.5, perturbation_draws=4).predict(contexts)
    torch.testing.assert_close(averaged, (f[..., None] + offsets[:, None]).sigmoid().mean(-1))


def test_layers_stay_in_their_balls():
    made = regression("square", perturbation="none", radius=0.25, lr=0.05)
    made.network.project(0.25)
    lengths = [float(step.norm()) for step in made.network.moved()]
    assert lengths == pytest.approx([0.25, 0.25])
    inside = [step.clone() for step in made.network.layers]
    made.network.project(0.5)
    for layer, before in zip(made.network.layers, inside, strict=True):
        torch.testing.assert_close(layer, before)


# --- the schedule and the kernel --------------------------------------------------------------------------------------


def teach(made: NetworkRegression, rounds: int, seed: int = 0) -> Tensor:
    shape, generator = made.shape, torch.Generator().manual_seed(seed)
    for _ in range(rounds):
        size = (shape.replicates, shape.features) if shape.shared else shape[:3]
        contexts = torch.randn(size, generator=generator) * (torch.rand(size, generator=generator) < 0.7)
        arm = torch.randint(shape.arms, (shape.replicates,), generator=generator)
        loss = made.learn(contexts, arm, torch.rand(shape.replicates, generator=generator))
    return loss


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("loss", ["square", "kl"])
@pytest.mark.parametrize("perturbation", ["none", "expected"])
@pytest.mark.parametrize("hidden", [(9,), (40,), (75,)])
def test_the_kernel_makes_the_steps_of_the_definition(shared, loss, perturbation, hidden):
    if native_is_missing():
        pytest.skip("no native kernels here")
    config = PerturbedConfig(
        hidden=hidden, batch_size=5, perturbation=perturbation, perturbation_scale=2.0, lr=0.02, lr_schedule="inverse"
    )
    both = [NetworkRegression(config, loss, Shape(N, K, 7, shared), 0, CPU, engine) for engine in ("eager", "native")]
    assert [made.computed_by for made in both] == [(), ("native",)]
    losses = [teach(made, 30) for made in both]
    torch.testing.assert_close(losses[0], losses[1], rtol=1e-4, atol=1e-5)
    for ours, theirs, start in zip(*(made.network.layers for made in both), both[0].network.start, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
        assert float((ours - start).abs().max()) > 0.01


def test_a_kernel_is_not_taken_for_what_it_lacks():
    for changes in ({"perturbation": "sampled"}, {"radius": 1.0}, {"hidden": (5, 5)}):
        made = NetworkRegression(PerturbedConfig(**changes), "square", Shape(1, 2, 3, True), 0, CPU, "native")
        assert made.computed_by == ()
        teach(made, 2)


def test_every_minibatch_has_the_newest_sample_and_none_from_the_future():
    made = NetworkRegression(PerturbedConfig(hidden=(4,), replay_capacity=50), "square", Shape(N, K, 7, True), 0, CPU)
    for t in range(1, 121):
        teach(made, 1, seed=t)
        index = made.minibatch()
        assert index.shape == (N, 5, 32)
        assert bool((index[..., 0] == (t - 1) % 50).all())
        assert int(index.max()) < min(t, 50)
    one = NetworkRegression(PerturbedConfig(hidden=(4,), replay=False), "square", Shape(N, K, 7, True), 0, CPU)
    teach(one, 3)
    assert one.minibatch().shape == (N, 5, 1)


def test_a_history_keeps_the_latest_and_comes_back_from_its_state():
    history = History(2, 1, 5, CPU)
    for t in range(8):
        history.add(torch.full((2, 1, 1), float(t)), torch.full((2,), t), torch.full((2,), t / 10))
    assert sorted(history.contexts[0, :, 0].tolist()) == [3, 4, 5, 6, 7]
    assert (len(history), history.contexts[1, history.newest, 0]) == (5, 7)
    other = History(2, 1, 5, CPU)
    other.load_state_dict(history.state_dict())
    other.add(*(torch.full(shape, 8) for shape in ((2, 1, 1), (2,), (2,))))
    assert sorted(other.arms[0].tolist()) == [4, 5, 6, 7, 8]
    contexts, arms, targets = other.take(torch.tensor([[other.newest], [other.newest]]))
    assert (contexts.flatten().tolist(), arms.flatten().tolist(), targets.flatten().tolist()) == (
        [8, 8],
        [8, 8],
        [8, 8],
    )


def test_replicates_have_streams_of_their_own():
    config = PerturbedConfig(hidden=(4,))
    few, many = (NetworkRegression(config, "square", Shape(n, K, D, True), 0, CPU) for n in (2, 5))
    for own, more in zip(few.network.layers, many.network.layers, strict=True):
        torch.testing.assert_close(own, more[:2], rtol=0, atol=0)
        assert not torch.equal(own[0], own[1])
    assert bool((few.uniforms.block(40) == many.uniforms.block(40)[:2]).all())


def test_an_intercept_is_a_feature_that_is_one():
    uniforms = [ReplicateUniforms(0, "weights", N) for _ in range(2)]
    net = Network(Shape(N, K, D, False), (7,), uniforms[0], intercept=True)
    plain_net = Network(Shape(N, K, D + 1, False), (7,), uniforms[1])
    contexts = contexts_of(False, dtype=torch.float32)
    with_one, arm = torch.cat([contexts, torch.ones(N, K, 1)], -1), torch.tensor([0, 3, 1])
    found, expected = net.arms(contexts), plain_net.arms(with_one)
    torch.testing.assert_close(found.output, expected.output)
    torch.testing.assert_close(net.of_arm(contexts, arm), plain_net.of_arm(with_one, arm))
    designs = [Diagonal(one, 0.2) for one in (net, plain_net)]
    torch.testing.assert_close(
        net.squared_widths(contexts, found, designs[0].layers),
        plain_net.squared_widths(with_one, expected, designs[1].layers),
    )
    for own, other in zip(net.arm_gradients(contexts, found), plain_net.arm_gradients(with_one, expected), strict=True):
        torch.testing.assert_close(own, other)


def test_neighbours_are_pooled():
    found = pooled(torch.tensor([[1.0, 3, 5, 7, 9]]), 2)
    torch.testing.assert_close(found, torch.tensor([[2.0, 6, 4.5]]))
