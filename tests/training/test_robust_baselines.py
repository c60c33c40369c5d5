"""`dr-sac`, `rarl`, `m2td3` by the command: presets of every published set, runs in two parts, bad input."""

import dataclasses

import pytest
import torch
from sameness import assert_same_run

from surefoot import agents
from surefoot.configs import preset_names
from surefoot.envs import SETS, EnvConfig
from surefoot.evaluation.policy_files import load_policy
from surefoot.training.cli.main import main
from surefoot.training.config.presets import load_preset
from surefoot.training.config.run import EvalConfig, RunConfig
from surefoot.training.loop.interrupt import StopRequest
from surefoot.training.loop.setup import resume
from surefoot.training.session import execute, train

pytestmark = pytest.mark.usefixtures("unrendered")

NAMES = ("dr-sac", "rarl", "m2td3")
PUBLISHED = [name for name in SETS if name.rpartition("-")[2] in "123" and name != "pendulum-2"]
BUDGET = {1: 2_000_000, 2: 4_000_000, 3: 5_000_000}


@pytest.mark.parametrize("name", NAMES)
def test_every_published_set_has_a_preset_at_published_scale(name):
    assert len(PUBLISHED) == 17
    assert set(preset_names(name)) == {*PUBLISHED, "demo"}
    for preset in PUBLISHED:
        config = load_preset(name, preset)
        assert (config.uncertainty, config.env) == (preset, EnvConfig(SETS[preset].env))
        assert config.steps == BUDGET[len(SETS[preset].parameters)]


def test_the_published_numbers_are_the_defaults():
    """docs/derivations/iwocs.md §6.2."""
    rarl, m2td3 = (load_preset(name, "hopper-2").agent for name in ("rarl", "m2td3"))
    assert (rarl.batch_size, rarl.learning_starts, rarl.random_steps) == (256, 25_000, 25_000)
    assert (m2td3.batch_size, m2td3.learning_starts, m2td3.random_steps, m2td3.adversaries) == (100, 10**5, 10**5, 5)
    for agent in (rarl, m2td3):
        assert (agent.hidden, agent.gamma, agent.tau, agent.policy_delay) == ((256, 256), 0.99, 0.005, 2)
        assert (agent.policy_lr, agent.critic_lr, agent.replay_capacity) == (3e-4, 3e-4, 1_000_000)
        assert (agent.exploration_noise, agent.target_noise, agent.target_noise_clip) == (0.1, 0.2, 0.5)
    sac = load_preset("dr-sac", "ant-3").agent
    assert (sac.policy_lr, sac.critic_lr, sac.adam_eps, sac.batch_size) == (3e-4, 1e-3, 1e-5, 256)
    assert (sac.learning_starts, sac.random_steps) == (10_000, 10_000)


def tiny(name, **changes):
    wanted = {"hidden": (8,), "batch_size": 8, "learning_starts": 10, "random_steps": 40, "replay_capacity": 200}
    agent = dataclasses.replace(agents.get(name).default, **wanted)
    env = EnvConfig("HalfCheetah-v5", num_envs=2, max_episode_steps=25)
    settings = {"eval": EvalConfig(every=60, episodes=2), "log_every": 20, "checkpoint_every": 30, "steps": 120}
    return RunConfig(agent=agent, env=env, uncertainty="halfcheetah-2", **(settings | changes))


@pytest.mark.parametrize("name", ["rarl", "m2td3"])
def test_a_run_that_is_stopped_in_the_middle_of_an_episode_goes_on_with_its_parameters(name, tmp_path):
    """MuJoCo environments, whose episodes are replayed: RARL changed their parameters at every step."""
    torch.set_num_threads(1)
    straight = train(name, tiny(name), out=tmp_path, name="straight")
    parts = train(name, tiny(name, steps=86), out=tmp_path, name="parts")
    run = resume(parts, name, tiny(name))
    assert bool((run.agent.collector.interaction.length > 0).any())
    execute(run, StopRequest())
    assert_same_run(straight, parts, run.counters.step)


def test_dr_sac_is_sac_in_environments_that_draw(tmp_path):
    torch.set_num_threads(1)
    runs = [train(name, tiny(name), out=tmp_path, name=name) for name in ("dr-sac", "sac")]
    weights = [load_policy(run).policy.state_dict() for run in runs]
    assert all(torch.equal(weights[0][key], weights[1][key]) for key in weights[0])


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--env.id", "Hopper-v5"], "trains in an uncertainty set: pass --uncertainty, or a preset that names one"),
        (
            ["--preset", "hopper-2", "--env.id", "Ant-v5"],
            "the uncertainty set hopper-2 is for Hopper-v5, not for Ant-v5",
        ),
        (["--preset", "hopper-2", "--uncertainty", "hopper-4"], "unknown uncertainty set 'hopper-4'"),
    ],
)
def test_bad_input_is_one_line(name, arguments, message, tmp_path, capsys):
    assert main(["train", name, *arguments, "--out", str(tmp_path / "runs")]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not (tmp_path / "runs").exists()
