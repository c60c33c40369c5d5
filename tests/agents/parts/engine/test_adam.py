"""The flat Adam against PyTorch's: the same numbers, the same state, the same file."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from surefoot.agents.interface import Setting, Spaces
from surefoot.agents.parts.acceleration import adam, set_lr, take_step
from surefoot.agents.parts.engine.adam import Adam, FlatAdam
from surefoot.agents.parts.engine.flat import Flat, flat_of
from surefoot.agents.parts.networks import StackedMLP, soft_update
from surefoot.envs import EnvConfig, spaces_of

SHAPES = [(3, 5), (2, 1, 7), (1,), (), (130, 70)]  # the last: more than a piece of the tensors
ENGINES = ["torch", "native"]


def parameters() -> list[nn.Parameter]:
    g = torch.Generator().manual_seed(0)
    return [nn.Parameter(torch.randn(shape, generator=g)) for shape in SHAPES]


def gradients(step: int) -> list[Tensor]:
    """Return gradients of very different sizes, some zero."""
    g = torch.Generator().manual_seed(step)
    return [torch.randn(shape, generator=g).pow(5).where(torch.rand(shape, generator=g) > 0.1, 0.0) for shape in SHAPES]


def groups(params: list[nn.Parameter]) -> list[dict[str, Any]]:
    return [{"params": params[:2], "weight_decay": 0.0}, {"params": params[2:], "weight_decay": 0.3}]


def flat(params: list[nn.Parameter], engine: str, eps: float = 1e-8) -> FlatAdam:
    return FlatAdam(groups(params), lr=1e-2, eps=eps, is_native=engine == "native")


def pytorchs(params: list[nn.Parameter], eps: float = 1e-8) -> torch.optim.Adam:
    return torch.optim.Adam(groups(params), lr=1e-2, eps=eps, fused=True)


@pytest.mark.parametrize("fused", [True, False])
def test_adam_without_the_compiler_is_pytorchs(fused):
    """The same numbers and state, step by step and after loading, none of it recorded by autograd."""
    ours, theirs = parameters(), parameters()
    setting = {"lr": 1e-2, "fused": fused, "foreach": False}
    pair = [(Adam(groups(ours), **setting), ours), (torch.optim.Adam(groups(theirs), **setting), theirs)]
    for optimiser, params in pair:
        steps(optimiser, params, range(3))
    (one, _), (other, _) = pair
    assert_close(one.state_dict(), other.state_dict(), rtol=0, atol=0)
    one.load_state_dict(copy.deepcopy(other.state_dict()))
    for optimiser, params in pair:
        steps(optimiser, params, range(3, 6))
    assert_close(state(one, ours), state(other, theirs), rtol=0, atol=0)
    assert all(tensor.grad_fn is None for tensor in state(one, ours))


def steps(optimiser: torch.optim.Optimizer, params: list[nn.Parameter], which: range) -> None:
    """Take steps along sums whose gradients are `gradients`."""
    for step in which:
        loss = sum(((p * g).sum() for p, g in zip(params, gradients(step), strict=True)), torch.zeros(()))
        take_step([optimiser], loss)


def state(optimiser: torch.optim.Optimizer, params: list[nn.Parameter]) -> list[Tensor]:
    return [*params, *(optimiser.state[p][name] for p in params for name in ("exp_avg", "exp_avg_sq", "step"))]


def views_of_one(optimiser: FlatAdam) -> bool:
    """Return whether parameters, gradients and moments lie where the step reads them."""
    return all(
        p.data_ptr() == value.data_ptr()
        and p.grad is not None
        and p.grad.data_ptr() == gradient.data_ptr()
        and optimiser.state[p]["exp_avg"].data_ptr() == mean.data_ptr()
        and optimiser.state[p]["exp_avg_sq"].data_ptr() == square.data_ptr()
        for group in optimiser.flat
        for p, value, gradient, mean, square in zip(
            group.parameters,
            *(group.views(part) for part in (group.values, group.gradient, group.mean, group.square)),
            strict=True,
        )
    )


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("eps", [1e-8, 1e-2])
@pytest.mark.parametrize("betas", [(0.9, 0.999), (0.5, 0.9)])
def test_fifty_steps_are_pytorchs(engine, eps, betas):
    ours, theirs = parameters(), parameters()
    first, second = flat(ours, engine, eps), pytorchs(theirs, eps)
    for group in (*first.param_groups, *second.param_groups):
        group["betas"] = betas
    steps(first, ours, range(50))
    steps(second, theirs, range(50))
    assert_close(state(first, ours), state(second, theirs), rtol=1e-5, atol=1e-5)  # of gradients up to 1000
    assert views_of_one(first)


@pytest.mark.parametrize("engine", ENGINES)
def test_a_state_goes_over_from_pytorchs_and_back(engine):
    ours, theirs, again = parameters(), parameters(), parameters()
    first, second, third = flat(ours, engine), pytorchs(theirs), pytorchs(again)
    steps(second, theirs, range(7))
    for mine, his in zip(ours, theirs, strict=True):
        mine.data.copy_(his)
    first.load_state_dict(copy.deepcopy(second.state_dict()))
    assert_close(state(first, ours), state(second, theirs), rtol=0, atol=0)
    assert views_of_one(first)
    steps(first, ours, range(7, 20))
    steps(second, theirs, range(7, 20))
    assert_close(state(first, ours), state(second, theirs), rtol=1e-5, atol=1e-6)
    for mine, his in zip(again, ours, strict=True):
        mine.data.copy_(his)
    third.load_state_dict(copy.deepcopy(first.state_dict()))
    steps(third, again, range(20, 30))
    steps(first, ours, range(20, 30))
    assert_close(state(third, again), state(first, ours), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("engine", ENGINES)
def test_a_state_before_the_first_step_goes_over(engine):
    ours, theirs = parameters(), parameters()
    first, second = flat(ours, engine), pytorchs(theirs)
    steps(first, ours, range(3))
    first.load_state_dict(second.state_dict())  # empty: back to no step taken
    assert first.steps == 0
    assert all(part.eq(0).all() for group in first.flat for part in (group.mean, group.square))
    second.load_state_dict(flat(parameters(), engine).state_dict())
    steps(second, theirs, range(2))
    assert float(second.state[theirs[0]]["step"]) == 2


@pytest.mark.parametrize("engine", ENGINES)
def test_a_state_put_away_and_taken_up_again_is_the_same_run(engine):
    whole, before, after = parameters(), parameters(), parameters()
    optimiser = flat(whole, engine)
    steps(optimiser, whole, range(9))
    first, second = flat(before, engine), flat(after, engine)
    steps(first, before, range(4))
    saved = copy.deepcopy(first.state_dict())
    steps(first, before, range(4, 6))  # what was saved does not move with it
    for mine, his in zip(after, parameters(), strict=True):
        mine.data.copy_(his)
    replay = flat(again := parameters(), engine)
    steps(replay, again, range(4))
    for mine, his in zip(after, again, strict=True):
        mine.data.copy_(his)
    second.load_state_dict(saved)
    steps(second, after, range(4, 9))
    assert_close(state(second, after), state(optimiser, whole), rtol=0, atol=0)


@pytest.mark.parametrize("engine", ENGINES)
def test_the_step_size_can_be_set(engine):
    ours, theirs = parameters(), parameters()
    first, second = flat(ours, engine), pytorchs(theirs)
    for step, lr in enumerate((1e-2, 1e-3, 0.5, 0.0)):
        for optimiser, params in ((first, ours), (second, theirs)):
            set_lr(optimiser, lr)
            steps(optimiser, params, range(step, step + 1))
    assert_close(ours, theirs, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("set_to_none", [True, False])
def test_gradients_are_zeroed_where_they_lie(set_to_none):
    params = parameters()
    optimiser = flat(params, "torch")
    for p in params:
        p.grad.fill_(3.0)
    optimiser.zero_grad(set_to_none=set_to_none)
    assert views_of_one(optimiser)
    assert all(p.grad.eq(0).all() for p in params)


@pytest.mark.parametrize("engine", ENGINES)
def test_two_threads_take_the_same_step(engine):
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            params = [nn.Parameter(torch.randn(50_000, generator=torch.Generator().manual_seed(1)))]
            optimiser = FlatAdam([{"params": params, "weight_decay": 0.1}], 1e-2, 1e-8, is_native=engine == "native")
            for _ in range(3):
                take_step([optimiser], params[0].square().sum())
            found.append(params[0].detach())
    finally:
        torch.set_num_threads(before)
    assert torch.equal(*found)


@pytest.mark.parametrize("engine", ENGINES)
def test_gradients_that_a_module_dropped_are_taken_in(engine):
    """`Module.zero_grad` sets them to None: the next ones lie elsewhere."""
    ours, theirs = parameters(), parameters()
    for optimiser, params in ((flat(ours, engine), ours), (pytorchs(theirs), theirs)):
        for step in range(3):
            for p in params:
                p.grad = None
            sum((p * g).sum() for p, g in zip(params, gradients(step), strict=True)).backward()
            optimiser.step()
    assert_close(ours, theirs, rtol=1e-5, atol=1e-6)


def test_a_parameter_of_two_optimisers_is_refused():
    params = parameters()
    flat(params, "torch")
    with pytest.raises(ValueError, match=r"a parameter of two optimisers.* pass --engine eager"):
        flat(params, "torch")


def setting(engine: str) -> Setting:
    return Setting(Spaces(*spaces_of(EnvConfig(id="Pendulum-v1"))), 0, torch.device("cpu"), None, engine=engine)


@pytest.mark.parametrize("engine", ENGINES)
def test_agents_get_the_optimiser_of_their_engine(engine):
    params = [*parameters()[:2], nn.Parameter(torch.ones(2), requires_grad=False)]
    optimiser = adam(params, 1e-3, setting(engine), 1e-5, decay=[(params[1], 0.5)])
    assert isinstance(optimiser, FlatAdam)
    assert optimiser.is_native == (engine == "native")
    assert [group["weight_decay"] for group in optimiser.param_groups] == [0.0, 0.5]
    assert {group["eps"] for group in optimiser.param_groups} == {1e-5}
    assert not isinstance(adam(parameters(), 1e-3, setting("eager")), FlatAdam)


def test_flat_tensors_hold_the_parameters_and_no_others():
    nets = [StackedMLP(2, 3, (4,), 1, generator=torch.Generator().manual_seed(s)) for s in range(2)]
    target, online = (list(net.parameters()) for net in nets)
    before = [p.detach().clone() for p in online]
    Flat(online)
    assert_close([p.detach() for p in online], before, rtol=0, atol=0)
    assert flat_of(online) is not None
    assert flat_of(online[:-1]) is None
    assert flat_of(online[::-1]) is None
    assert flat_of(target) is None
    assert flat_of([]) is None
    assert flat_of(list(copy.deepcopy(nets[1]).parameters())) is None  # a copy lies elsewhere


@pytest.mark.parametrize("both", [True, False])
def test_targets_move_the_same_whether_flat_or_not(both: bool):
    pairs: list[list[list[nn.Parameter]]] = [[parameters(), [nn.Parameter(p + 1) for p in parameters()]] for _ in "ab"]
    for params in pairs[1] if both else pairs[1][:1]:
        Flat(params)
    for target, online in pairs:
        soft_update(target, online, 0.3)
    assert_close(pairs[1], pairs[0], rtol=0, atol=0)
    assert flat_of(pairs[1][0]) is not None


def test_names_of_a_state_are_pytorchs():
    make: list[Callable[[list[nn.Parameter]], torch.optim.Optimizer]] = [lambda p: flat(p, "native"), pytorchs]
    states = []
    for optimiser in make:
        params = parameters()
        steps(one := optimiser(params), params, range(1))
        states.append(one.state_dict())
    assert [set(s["state"][0]) for s in states] == [{"step", "exp_avg", "exp_avg_sq"}] * 2
    assert set(states[0]["param_groups"][0]) == set(states[1]["param_groups"][0])


def test_a_native_step_moves_a_flat_target_as_a_soft_update_would():
    ours, theirs = parameters(), parameters()
    g = torch.Generator().manual_seed(3)
    start = [torch.randn(shape, generator=g) for shape in SHAPES]
    targets, wanted = [nn.Parameter(t.clone()) for t in start], [nn.Parameter(t.clone()) for t in start]
    whole = Flat(targets)
    for optimiser, params in ((FlatAdam([{"params": ours}], 1e-2, 1e-8, is_native=True), ours), (None, theirs)):
        for p, gradient in zip(params, gradients(0), strict=True):
            p.grad = gradient.clone() if optimiser is None else p.grad.copy_(gradient)
        if optimiser is not None:
            optimiser.take(whole.values, 0.25)
    torch.optim.Adam(theirs, lr=1e-2, fused=True).step()
    soft_update(wanted, theirs, 0.25)
    assert_close(targets, wanted, rtol=1e-5, atol=1e-6)


def test_the_torch_step_takes_any_type():
    ours, theirs = ([nn.Parameter(p.detach().double()) for p in parameters()] for _ in range(2))
    for optimiser, params in ((flat(ours, "torch"), ours), (pytorchs(theirs), theirs)):
        take_step([optimiser], sum(p.square().sum() for p in params))
    assert_close(ours, theirs, rtol=1e-12, atol=1e-12)
