"""`--uncertainty`: any agent trains under domain randomisation, and what does not fit is one line before it starts."""

import dataclasses

import pytest
import torch
from sameness import assert_same_run

from surefoot import agents
from surefoot.envs import EnvConfig
from surefoot.training.cli.main import main
from surefoot.training.config.run import EvalConfig, RunConfig
from surefoot.training.loop.interrupt import StopRequest
from surefoot.training.loop.setup import resume
from surefoot.training.session import execute, train

pytestmark = pytest.mark.usefixtures("unrendered")

TINY = ["--env.id", "InvertedPendulum-v5", "--steps", "20", "--agent.hidden", "4", "--eval.episodes", "1"]
EARLY = ["--agent.learning-starts", "10", "--agent.random-steps", "10"]


def tiny(uncertainty):
    agent = dataclasses.replace(
        agents.get("sac").default, hidden=(8,), batch_size=8, learning_starts=10, random_steps=40, replay_capacity=200
    )
    env = EnvConfig("InvertedPendulum-v5", num_envs=2)
    settings = {"eval": EvalConfig(every=60, episodes=2), "log_every": 20, "checkpoint_every": 30}
    return RunConfig(agent=agent, env=env, uncertainty=uncertainty, steps=90, **settings)


def test_a_randomised_run_in_two_parts_is_the_run_in_one(tmp_path):
    torch.set_num_threads(1)
    config = tiny("inverted-pendulum-2")
    straight = train("sac", config, out=tmp_path, name="straight")
    parts = train("sac", dataclasses.replace(config, steps=46), out=tmp_path, name="parts")
    run = resume(parts, "sac", config)
    params = run.env.params
    assert ((params >= run.env.low) & (params <= run.env.high)).all()
    assert (params[0] != params[1]).all()
    execute(run, StopRequest())
    assert_same_run(straight, parts, run.counters.step)
    nominal = train("sac", tiny(None), out=tmp_path, name="nominal")
    with pytest.raises(AssertionError):
        assert_same_run(straight, nominal, run.counters.step)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("hoper-2", "unknown uncertainty set 'hoper-2'; give a YAML file or one of ant-1"),
        ("hopper-2", "the uncertainty set hopper-2 is for Hopper-v5, not for InvertedPendulum-v5"),
        ("absent.yaml", "absent.yaml: no such file"),
        ({"body_mass.pole": "{low: 3, high: 1}"}, "body_mass.pole has the range [3.0, 1.0]; give finite numbers"),
        ({"body_mass.pole": "{low: 1, high: 3, nominal: 5}"}, "the nominal body_mass.pole, 5.0, lies outside"),
        ({"body_mass.tail": "{low: 1, high: 3}"}, "unknown parameter 'body_mass.tail': the task has no 'tail'"),
    ],
)
def test_a_set_that_does_not_fit_is_one_line_before_anything_starts(content, message, tmp_path, capsys):
    if isinstance(content, dict):
        ((name, box),) = content.items()
        own = tmp_path / "own.yaml"
        own.write_text(f"env: InvertedPendulum-v5\nparameters: {{{name}: {box}}}\n")
        content = str(own)
    assert main(["train", "sac", *TINY, *EARLY, "--uncertainty", content, "--out", str(tmp_path / "runs")]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not (tmp_path / "runs").exists()


def test_a_parameter_without_effect_is_reported_and_an_agent_that_never_acts_refused(tmp_path, capsys):
    own = tmp_path / "rail.yaml"  # nothing touches the rail
    own.write_text(
        "env: InvertedPendulum-v5\nparameters:\n  geom_friction.rail: {low: 0.1, high: 2.0}\n"
        "  body_mass.pole: {low: 1, high: 30}\n"
    )
    assert main(["train", "sac", *TINY, *EARLY, "--uncertainty", str(own), "--out", str(tmp_path)]) == 0
    assert f"note: geom_friction.rail has no effect: every value of {own} gives" in capsys.readouterr().out
    offline = ["train", "bc", "--env.id", "HalfCheetah-v5", "--data.source", "sample:halfcheetah-demo"]
    assert main([*offline, "--uncertainty", "halfcheetah-2", "--out", str(tmp_path / "b")]) == 2
    assert "bc is offline, so there is nothing for --uncertainty halfcheetah-2 to vary" in capsys.readouterr().err
