"""What every registered agent must hold to: one contract, one tiny run each."""

import dataclasses

import gymnasium as gym
import pytest
import torch
from sameness import assert_same, assert_same_run

from surefoot import agents
from surefoot.agents.interface import Setting, Spaces
from surefoot.envs import spaces_of
from surefoot.envs.termination import never
from surefoot.evaluation.policy_files import load_policy
from surefoot.offline_data import load_for
from surefoot.training.loop.interrupt import StopRequest
from surefoot.training.loop.setup import resume, training_env
from surefoot.training.session import execute, train

NAMES = sorted(agents.REGISTRY)
INSTALLED = [name for name in NAMES if name not in agents.REFERENCES]
BANDITS = [name for name in INSTALLED if agents.get(name).regret == "round"]
EXACT = [name for name in INSTALLED if agents.get(name).regret == "episode"]  # they act on the index of a state


def build(name, config, data=None):
    spec, spaces = agents.get(name), Spaces(*spaces_of(config.env))
    env, perturbed_envs = training_env(name, spec, config, torch.device("cpu"))
    if data is None and spec.needs_data:
        data = load_for(config.data, *spaces, seed=config.seed)
    how = {"compile": config.compile, "termination": never, "perturbed_envs": perturbed_envs}
    setting = Setting(spaces, config.seed, torch.device("cpu"), env, data, **how)
    return spec.make_agent(config.agent, setting)


def advance(agent, steps):
    """Step until so many updates were made."""
    updates = 0
    while updates < steps:
        updates += agent.step().updates
    return agent


class Read(Exception):
    """Recorded data were looked at."""


class Sealed:
    """Recorded data that tell when they are looked at."""

    def __getattr__(self, name):
        raise Read

    def __len__(self):
        raise Read


@pytest.mark.parametrize("name", INSTALLED)
def test_an_agent_reads_data_if_it_says_so(name, config_of):
    config = config_of(name)
    if agents.get(name).reads_data:
        with pytest.raises(Read):
            build(name, config, Sealed())
    else:
        build(name, config, Sealed())


@pytest.mark.parametrize("name", INSTALLED)
def test_an_agent_has_a_compiled_form_if_it_says_so(name, config_of, monkeypatch):
    compiled = []
    monkeypatch.setattr(torch, "compile", lambda phase: compiled.append(phase) or phase)
    build(name, dataclasses.replace(config_of(name), compile=True))
    assert bool(compiled) == agents.get(name).has_compiled_form


@pytest.mark.parametrize("fast", ["compile", "cudagraph"])
@pytest.mark.parametrize("name", [name for name in NAMES if not agents.get(name).has_compiled_form])
def test_what_has_no_compiled_form_is_not_compiled(name, fast, config_of, tmp_path):
    config = dataclasses.replace(config_of(name), **{fast: True})
    with pytest.raises(ValueError, match=f"^{name} has no compiled or captured form; leave --compile and --cudagraph"):
        train(name, config, out=tmp_path, name="run")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", BANDITS)
def test_a_bandits_action_is_of_the_task_and_depends_on_the_context_alone(name, config_of):
    agent = build(name, config_of(name))
    width = agent.env.single_observation_space.shape[0]
    for obs in (torch.zeros(3, width), torch.ones(7, width)):
        action = agent.act(obs)
        assert action.shape == ((len(obs), 3) if name == "human-budget" else (len(obs),))
        assert name == "human-budget" or all(agent.env.single_action_space.contains(index) for index in action.tolist())
        torch.testing.assert_close(agent.act(obs, explore=True), action, rtol=0, atol=0)


@pytest.mark.parametrize("name", [name for name in NAMES if name not in BANDITS + EXACT])
def test_actions_are_in_bounds_and_deterministic(name, config_of):
    config = config_of(name)
    agent, (_, actions_of_task) = build(name, config), spaces_of(config.env)
    obs = torch.randn(7, 3, generator=torch.Generator().manual_seed(0)) * 10  # every tiny task shows three numbers
    action = agent.act(obs)
    torch.testing.assert_close(agent.act(obs), action, rtol=0, atol=0)
    for actions in (action, agent.act(obs, explore=True)):
        if isinstance(actions_of_task, gym.spaces.Discrete):
            assert (actions.shape, actions.dtype) == ((7,), torch.int64)
            assert bool(((actions >= 0) & (actions < 2)).all())
        else:
            assert (actions.shape, actions.dtype) == ((7, 1), torch.float32)
            assert bool((actions.abs() <= 1).all())


@pytest.mark.parametrize("name", NAMES)
def test_acting_and_reading_the_state_change_nothing(name, config_of):
    agent = advance(build(name, config_of(name)), 2)
    other = advance(build(name, config_of(name)), 2)
    agent.act(torch.zeros(4, 3))
    agent.state_dict()
    assert_same(advance(agent, 3).state_dict(), advance(other, 3).state_dict())


def knowledge(agent):
    """Return the state of a bandit's learner alone."""
    state = agent.state_dict()
    return state["learner"] if "learner" in state else state["turns"]["learner"]


@pytest.mark.parametrize("name", [name for name in BANDITS if name not in ("oracle", "human-budget")])
def test_a_round_changes_what_a_bandit_knows(name, config_of):
    agent = build(name, config_of(name))
    before = knowledge(agent)
    progress = advance(agent, 1).step()
    with pytest.raises(AssertionError):
        assert_same(knowledge(agent), before)
    assert all(bool(value.isfinite().all()) for value in progress.metrics.values())


@pytest.mark.parametrize("name", [name for name in NAMES if name not in BANDITS + EXACT])
def test_an_update_changes_the_policy_and_reports_numbers(name, config_of):
    agent = build(name, config_of(name))
    before = {key: value.clone() for key, value in agent.policy.state_dict().items()}
    progress = advance(agent, 1).step()  # TD3's policy waits for the second update
    while not progress.updates:
        progress = agent.step()
    changed = [key for key, value in agent.policy.state_dict().items() if not torch.equal(value, before[key])]
    assert changed
    assert progress.metrics
    assert all(bool(value.isfinite().all()) and not value.requires_grad for value in progress.metrics.values())


@pytest.mark.parametrize("name", NAMES)
def test_a_state_put_into_another_agent_makes_it_the_same(name, config_of):
    config = config_of(name)
    agent = advance(build(name, config), 3)
    other = advance(build(name, dataclasses.replace(config, seed=1)), 5)
    other.load_state_dict(agent.state_dict())
    assert_same(other.state_dict(), agent.state_dict())


@pytest.mark.parametrize("name", NAMES)
def test_the_seed_decides_the_run_whole_or_in_two_parts_and_its_policy_can_be_deployed(
    name, config_of, tmp_path, request
):
    config = config_of(name)
    straight = train(name, config, out=tmp_path, name="straight")
    request.getfixturevalue("unrendered")  # from here on: the figures are those of the first run again
    parts = train(name, dataclasses.replace(config, steps=45), out=tmp_path, name="parts")
    run = resume(parts, name, config)
    execute(run, StopRequest())
    assert_same_run(straight, parts, run.counters.step)
    obs = torch.randn(5, 3, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(load_policy(parts).policy.act(obs), run.agent.act(obs), rtol=0, atol=0)
    execute(resume(parts, name, config), StopRequest())  # as after a stop in its last evaluation; most are past 80
    assert_same_run(straight, parts, run.counters.step)
    other = train(name, dataclasses.replace(config, seed=1), out=tmp_path, name="other")
    with pytest.raises(AssertionError):
        assert_same_run(straight, other, run.counters.step)


@pytest.mark.gpu
@pytest.mark.parametrize("name", NAMES)
def test_a_run_on_a_gpu_goes_on_where_it_stopped_and_its_policy_acts_on_a_cpu(name, config_of, tmp_path):
    config = dataclasses.replace(config_of(name), device="cuda")
    parts = train(name, dataclasses.replace(config, steps=45), out=tmp_path, name="parts")
    run = resume(parts, name, config)
    execute(run, StopRequest())
    assert run.counters.step >= 80 or run.counters.done
    obs = torch.randn(5, 3, generator=torch.Generator().manual_seed(1))
    here, there = load_policy(parts).policy.act(obs), run.agent.act(obs.cuda())
    assert (here.device.type, there.device.type) == ("cpu", "cuda")
    torch.testing.assert_close(there.cpu(), here, rtol=1e-3, atol=1e-4)
