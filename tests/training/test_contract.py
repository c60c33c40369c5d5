"""What every registered agent must hold to: one contract, one tiny run each."""

import dataclasses

import pytest
import torch
from sameness import assert_same, assert_same_run

from surefoot import agents
from surefoot.agents.interface import Setting, Spaces
from surefoot.envs import EnvConfig, spaces_of
from surefoot.envs.termination import never
from surefoot.evaluation.policy_files import load_policy
from surefoot.offline_data import DataConfig, load_for
from surefoot.training.config.run import EvalConfig, RunConfig
from surefoot.training.loop.interrupt import StopRequest
from surefoot.training.loop.setup import resume, training_env
from surefoot.training.session import carry_out, train

NAMES = sorted(agents.REGISTRY)
BANDITS = [name for name in NAMES if not name.startswith("sb3-") and agents.get(name).regret == "round"]
EXACT = ["nora"]  # agents of finite MDPs: they act on the index of a state, and have tests of their own for it
# Applied to whichever of these fields an agent has.
SMALL = {
    "hidden": (8, 8),
    "classifier_hidden": (8, 8),
    "net_arch": (8, 8),
    "batch_size": 8,
    "real_batch_size": 8,
    "sim_batch_size": 8,
    "classifier_batch_size": 8,
    "learning_starts": 16,
    "random_steps": 10,
    "rollout_steps": 4,
    "replay_capacity": 400,
    "buffer_size": 400,
    "gap_samples": 3,
    "sampled_actions": 3,
    "n_steps": 16,
    "n_epochs": 2,
    "policy_hidden": (8, 8),
    "critic_hidden": (8, 8),
    "batch_steps": 10,
    "critic_steps": 2,
    "value_samples": 2,
    "rounds": 2,
    "ensemble": 3,
    "critic_updates": 2,
    "quantiles": 4,
    "target_every": 3,
    "episodes": 20,
    "model_hidden": (8, 8),
    "model_decay": (0.0, 0.0, 0.0),
    "model_epochs": 2,
    "members": 3,
    "elites": 2,
    "real_share": 0.25,
    "rollout_starts": 12,
    "model_interval": 14,  # the run's halves meet within one
    "epoch_length": 20,
    "rollout_schedule": (1, 3, 1, 2),
    "diagnose_every": 6,
    "diagnose_rows": 16,
    "adversaries": 3,
    "plain_hidden": (8, 8),
    "default_steps": 24,
    "model_steps": 18,
    "thresholds": (0.1, 1.0),
    "grid_n": 2,
}
# Agents with Discrete actions: their task has three numbers to see, as Pendulum has.
DISCRETE = ("dhn", "qr-dqn", "nora-deep")
# One round a step, so that runs also stop within an epoch.
SMALL_BANDIT = {"horizon": 80, "path": "rounds", "rounds_per_step": 1}


@pytest.fixture
def config_of(data_file):
    """Return a function that makes the tiny run of an agent."""
    torch.set_num_threads(1)

    def make(name: str) -> RunConfig:
        if name.startswith("sb3-"):
            pytest.importorskip("stable_baselines3", reason="extra sb3 not installed")
        spec = agents.get(name)
        known = {field.name for field in dataclasses.fields(spec.default)}
        small = SMALL | SMALL_BANDIT if name in BANDITS else SMALL
        wanted = {field: value for field, value in small.items() if field in known}
        if name == "mbpo":  # its own 20 are what takes the time
            wanted["updates_per_step"] = 1
        if getattr(spec.default, "real_batch_size", 1) == 0:  # DARC: no data in the critics
            wanted.pop("real_batch_size")
        env = EnvConfig(id="Pendulum-v1", max_episode_steps=15)
        if spec.needs_worlds:
            env = EnvConfig(id="surefoot/Pendulum-v0", max_episode_steps=15)
        if name in DISCRETE:
            env = EnvConfig(id="surefoot/Gate-v0", num_envs=2)
        if name == "nora-deep":
            kwargs = {"states": 2, "horizon": wanted.setdefault("horizon", 4)}
            env = EnvConfig(id="surefoot/RiverSwim-v0", num_envs=2, clock=True, kwargs=kwargs)
        if name in EXACT:
            env = EnvConfig("surefoot/RiverSwim-v0", num_envs=3, clock=True, kwargs={"states": 3, "horizon": 4})
        if name in BANDITS:
            env = EnvConfig(id="surefoot/DynamicalLinear-v0", num_envs=3, kwargs={"system": "real-data"})
        if spec.needs_worlds:
            env = EnvConfig(id="surefoot/Pendulum-v0", max_episode_steps=15)
        return RunConfig(
            agent=dataclasses.replace(spec.default, **wanted),
            env=env,
            uncertainty="pendulum-2" if spec.needs_worlds else None,
            data=DataConfig(source=str(data_file)) if spec.needs_data else DataConfig(),
            eval=EvalConfig(every=30, episodes=2),
            steps=80,
            log_every=17,
            checkpoint_every=33,
        )

    return make


def build(name, config):
    spec, spaces = agents.get(name), Spaces(*spaces_of(config.env))
    env, worlds = training_env(name, spec, config, torch.device("cpu"))
    data = load_for(config.data, *spaces, seed=config.seed) if spec.needs_data else None
    setting = Setting(spaces, config.seed, torch.device("cpu"), env, data, termination=never, worlds=worlds)
    return spec.make_agent(config.agent, setting)


def advance(agent, steps):
    """Step until so many updates were made."""
    updates = 0
    while updates < steps:
        updates += agent.step().updates
    return agent


@pytest.mark.parametrize("name", BANDITS)
def test_a_bandits_action_is_of_the_task_and_constant(name, config_of):
    agent = build(name, config_of(name))
    for obs in (torch.zeros(3, 1), torch.ones(7, 1)):
        action = agent.act(obs)
        assert action.shape == ((len(obs), 3) if name == "expert" else (len(obs),))
        assert name == "expert" or all(agent.env.single_action_space.contains(index) for index in action.tolist())
        torch.testing.assert_close(agent.act(obs, explore=True), action, rtol=0, atol=0)


@pytest.mark.parametrize("name", [name for name in NAMES if name not in BANDITS + EXACT])
def test_actions_are_in_bounds_and_deterministic(name, config_of):
    agent = build(name, config_of(name))
    obs = torch.randn(7, 3, generator=torch.Generator().manual_seed(0)) * 10
    action = agent.act(obs)
    torch.testing.assert_close(agent.act(obs), action, rtol=0, atol=0)
    for actions in (action, agent.act(obs, explore=True)):
        if name in DISCRETE:
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


@pytest.mark.parametrize("name", [name for name in BANDITS if name not in ("clairvoyant", "expert")])
def test_a_round_changes_what_a_bandit_knows(name, config_of):
    agent = build(name, config_of(name))
    before = agent.state_dict()["learner"]
    progress = advance(agent, 1).step()
    with pytest.raises(AssertionError):
        assert_same(agent.state_dict()["learner"], before)
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
def test_a_run_in_two_parts_is_the_run_in_one_and_its_policy_can_be_deployed(name, config_of, tmp_path):
    config = config_of(name)
    straight = train(name, config, out=tmp_path, name="straight")
    parts = train(name, dataclasses.replace(config, steps=45), out=tmp_path, name="parts")
    run = resume(parts, name, config)
    carry_out(run, StopRequest())
    assert_same_run(straight, parts, run.counters.step)
    obs = torch.randn(5, 3, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(load_policy(parts).policy.act(obs), run.agent.act(obs), rtol=0, atol=0)


@pytest.mark.gpu
@pytest.mark.parametrize("name", NAMES)
def test_a_run_on_a_gpu_goes_on_where_it_stopped_and_its_policy_acts_on_a_cpu(name, config_of, tmp_path):
    config = dataclasses.replace(config_of(name), device="cuda")
    parts = train(name, dataclasses.replace(config, steps=45), out=tmp_path, name="parts")
    run = resume(parts, name, config)
    carry_out(run, StopRequest())
    assert run.counters.step >= 80 or run.counters.done
    obs = torch.randn(5, 3, generator=torch.Generator().manual_seed(1))
    here, there = load_policy(parts).policy.act(obs), run.agent.act(obs.cuda())
    assert (here.device.type, there.device.type) == ("cpu", "cuda")
    torch.testing.assert_close(there.cpu(), here, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_the_seed_decides_the_run(name, config_of, tmp_path):
    config = config_of(name)
    runs = [train(name, config, out=tmp_path, name=part) for part in "ab"]
    assert_same_run(*runs, load_policy(runs[0]).step)
    other = train(name, dataclasses.replace(config, seed=1), out=tmp_path, name="c")
    with pytest.raises(AssertionError):
        assert_same_run(runs[0], other, load_policy(runs[0]).step)
