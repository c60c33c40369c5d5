"""The wrapped update phase is the eager one: same inputs, same parameters afterwards."""

import dataclasses

import pytest
import torch
from tiny import DriftEnv, make_batch, make_data, make_setting, small
from torch.testing import assert_close

from surefoot import agents
from surefoot.agents.interface import Batch, Setting
from surefoot.agents.parts import acceleration
from surefoot.agents.parts.acceleration import (
    accelerate,
    adam,
    clone,
    each_tensor,
    leaves,
    set_lr,
    tensors_of,
    uncompiled,
)
from surefoot.envs.termination import never

PHASED = ("sac", "h2o", "darc", "cql", "bc", "mbpo")


def make_agent(name: str, setting: Setting):
    spec = agents.get(name)
    return spec.make_agent(small(spec.default), setting)


def parameters_after(name: str, setting: Setting, updates: int = 10) -> list[torch.Tensor]:
    agent = make_agent(name, setting)
    done = 0
    while done < updates:
        done += agent.step().updates
    return parameters_of(agent)


def parameters_of(agent) -> list[torch.Tensor]:
    policy = [p.detach().cpu() for p in agent.policy.parameters()]
    return policy + [p.detach().cpu() for p in agent.nets.critic.parameters()] if hasattr(agent, "nets") else policy


def test_functions_are_kept_from_tracing_once_something_is_compiled_and_not_sooner(monkeypatch):
    disabled: list[object] = []
    monkeypatch.setattr(torch.compiler, "disable", lambda function: disabled.append(function) or (lambda x: -x))
    monkeypatch.setattr(torch, "compile", lambda phase: phase)
    monkeypatch.setattr(acceleration, "_kept_from_tracing", [])

    @uncompiled
    def double(x):
        """Doubles."""
        return 2 * x

    assert (double(3), disabled, double.__doc__) == (6, [], "Doubles.")
    for _ in range(2):
        accelerate(lambda: {}, dataclasses.replace(make_setting(), compile=True), [])
        assert (double(3), len(disabled)) == (-3, 1)


def test_unwrapped_phase_is_the_function_itself():
    def phase(x):
        return {"x": x}

    assert accelerate(phase, make_setting(), []) is phase


@pytest.mark.parametrize("name", PHASED)
def test_graphs_without_a_gpu_are_refused_with_a_way_out(name):
    setting = dataclasses.replace(make_setting(), cudagraph=True)
    with pytest.raises(ValueError, match=r"--cudagraph needs a CUDA device, not cpu; drop the flag"):
        make_agent(name, setting)


def test_nested_inputs_are_flattened_and_copied_in_order():
    batch, extra = make_batch(3), torch.ones(2)
    copies = clone((batch, (extra,)))
    assert isinstance(copies[0], Batch)
    assert_close(leaves(copies), [*batch, extra])
    copies[0].obs.zero_()
    assert batch.obs.abs().sum() > 0


def test_everything_a_step_changes_is_found():
    layer = torch.nn.Linear(2, 1)
    optimiser = adam(layer.parameters(), 1e-3, make_setting())
    layer(torch.ones(1, 2)).sum().backward()
    optimiser.step()
    assert len(tensors_of(layer)) == 2
    assert len(tensors_of(optimiser)) == 6  # step, first and second moment of weight and of bias
    assert len(tensors_of(torch.ones(1))) == 1


@pytest.mark.parametrize("cudagraph", [False, True])
def test_state_of_adam_is_there_from_the_start_where_a_graph_will_record_its_step(cudagraph):
    parameters = [torch.nn.Parameter(torch.ones(2, 3)), torch.nn.Parameter(torch.ones(4))]
    optimiser = adam(parameters, 1e-3, dataclasses.replace(make_setting(), cudagraph=cudagraph))
    expected = {p: {"step": torch.tensor(0.0), "exp_avg": 0 * p, "exp_avg_sq": 0 * p} for p in parameters}
    assert len(optimiser.state) == (2 if cudagraph else 0)
    for parameter, state in optimiser.state.items():
        assert_close(state, {name: value.detach() for name, value in expected[parameter].items()})
    assert optimiser.defaults["capturable"] is cudagraph


def test_a_recorded_step_reads_its_size_from_a_tensor_that_stays_the_same():
    plain, recorded = ([torch.nn.Parameter(torch.ones(1))] for _ in range(2))
    optimisers = [torch.optim.Adam(plain, lr=0.1), torch.optim.Adam(recorded, lr=0.1, capturable=True)]
    for optimiser in optimisers:
        set_lr(optimiser, 0.5)
    first = optimisers[1].param_groups[0]["lr"]
    for optimiser in optimisers:
        set_lr(optimiser, 0.25)
    assert optimisers[0].param_groups[0]["lr"] == 0.25
    assert optimisers[1].param_groups[0]["lr"] is first
    assert first.item() == 0.25


@pytest.mark.slow
@pytest.mark.parametrize("name", PHASED)
def test_compiled_equals_eager_over_ten_updates(name):
    eager = parameters_after(name, make_setting())
    compiled = parameters_after(name, dataclasses.replace(make_setting(), compile=True))
    assert_close(compiled, eager, rtol=1e-4, atol=1e-5)


def gpu_setting(**fast: bool) -> Setting:
    device, data = torch.device("cuda"), make_data()
    for field, value in vars(data).items():
        setattr(data, field, value.to(device))
    return Setting(make_setting().spaces, 0, device, DriftEnv(device=device), data, termination=never, **fast)


@pytest.mark.gpu
@pytest.mark.parametrize("name", PHASED)
def test_graph_equals_eager_over_ten_updates(name):
    graphed, eager = (parameters_after(name, gpu_setting(cudagraph=fast)) for fast in (True, False))
    assert_close(graphed, eager, rtol=1e-4, atol=1e-5)


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["sac", "mbpo"])
def test_a_graph_of_compiled_updates_equals_eager_over_ten_updates(name):
    fast = parameters_after(name, gpu_setting(compile=True, cudagraph=True))
    assert_close(fast, parameters_after(name, gpu_setting()), rtol=1e-3, atol=1e-5)


@pytest.mark.gpu
@pytest.mark.parametrize("name", PHASED)
def test_a_gpu_computes_the_updates_of_a_cpu(name):
    """The same batches and noises on both; generators of two devices draw different numbers."""
    here, there = make_agent(name, make_setting()), make_agent(name, gpu_setting())
    calls: list[tuple] = []

    def update(*inputs):
        calls.append(clone(inputs))
        return here.update_eager(*inputs)

    here.update = update
    while len(calls) < 10:
        here.step()
    if name == "mbpo":
        there.obs_scale.copy_(here.obs_scale)  # measured where the data is
    for inputs in calls:
        there.update_eager(*each_tensor(torch.Tensor.cuda, inputs))
    assert_close(parameters_of(there), parameters_of(here), rtol=1e-3, atol=1e-5)
