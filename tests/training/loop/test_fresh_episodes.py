"""Tasks that cannot be brought back to their state: said at the first checkpoint, and resumed with new episodes."""

import dataclasses
import sys
from pathlib import Path

import pytest
import torch

sys.path.append(str(Path(__file__).parents[2] / "envs"))  # test folders are no packages

import faulty_tasks

from surefoot import agents
from surefoot.envs import EnvConfig
from surefoot.training.config.run import EvalConfig, RunConfig
from surefoot.training.loop.interrupt import StopRequest
from surefoot.training.loop.setup import resume
from surefoot.training.runs import folder as run_folder
from surefoot.training.session import execute, train

pytestmark = pytest.mark.usefixtures("unrendered")


def run_of(name, task, **changes):
    spec = agents.get(name)
    config = RunConfig(
        agent=dataclasses.replace(spec.default, **spec.tiny),
        env=EnvConfig(task, num_envs=2),
        eval=EvalConfig(every=1000, episodes=1),
        steps=46,
        log_every=1000,
        checkpoint_every=30,
    )
    return dataclasses.replace(config, **changes)


@pytest.mark.parametrize(
    ("name", "task"),
    [
        ("sac", "faulty_tasks:Unrepeatable-v0"),
        ("sb3-ppo", "faulty_tasks:Unrepeatable-v0"),
        ("dhn", "faulty_tasks:Hardware-v0"),
    ],
)
def test_a_task_that_cannot_come_back_goes_on_with_new_episodes(name, task, tmp_path, capsys):
    config = run_of(name, task)
    folder = train(name, config, out=tmp_path, name="run")
    assert capsys.readouterr().out.count(f"note: {task} cannot be brought back to its state") == 1
    assert run_folder.read_meta(folder)["episodes_replayable"] is False
    longer = dataclasses.replace(config, steps=90)
    played = faulty_tasks.Unrepeatable.steps_of_all
    with pytest.raises(ValueError, match=r"cannot be brought back.*--resume-episodes fresh goes on with new episodes"):
        resume(folder, name, longer)
    run = resume(folder, name, dataclasses.replace(longer, resume_episodes="fresh"))
    assert faulty_tasks.Unrepeatable.steps_of_all == played  # no action was repeated
    held = run.agent.state_dict()
    interaction = next(one for one in walk(held) if isinstance(one, dict) and "episode_return" in one)
    assert not interaction["length"].any()
    assert not interaction["episode_return"].any()
    execute(run, StopRequest())
    meta = run_folder.read_meta(folder)
    assert meta["status"] == "finished"
    assert [one["episodes"] for one in meta["resumed"]] == ["fresh"]


def walk(state):
    """Yield a nested mapping and all that is in it."""
    yield state
    for value in state.values() if isinstance(state, dict) else ():
        yield from walk(value)


def test_a_task_that_comes_back_is_not_talked_about(tmp_path, capsys):
    folder = train("sac", run_of("sac", "Pendulum-v1"), out=tmp_path, name="run")
    assert "note:" not in capsys.readouterr().out
    assert "episodes_replayable" not in run_folder.read_meta(folder)


def test_new_episodes_of_dhn_have_stocks_of_their_own(tmp_path):
    config = run_of("dhn", "CartPole-v1", resume_episodes="fresh")
    config = dataclasses.replace(config, agent=dataclasses.replace(config.agent, n_step=3, relabel_probability=0.0))
    folder = train("dhn", config, out=tmp_path, name="run")
    agent = resume(folder, "dhn", dataclasses.replace(config, steps=90)).agent
    assert agent.n_step.window == []
    assert torch.equal(agent.envs.scale, torch.ones(2))
    assert not agent.envs.earned.any()
    assert torch.equal(agent.envs.interaction.length, torch.zeros(2, dtype=torch.int64))


def test_the_time_limit_may_not_change_even_where_only_evaluations_have_it(tmp_path, data_file):
    from surefoot.offline_data import DataConfig

    data = DataConfig(str(data_file))
    config = run_of("bc", "surefoot/Pendulum-v0", data=data, steps=20)
    folder = train("bc", config, out=tmp_path, name="run")
    capped = dataclasses.replace(
        config, env=EnvConfig("surefoot/Pendulum-v0", num_envs=2, max_episode_steps=7), steps=30
    )
    advice = "or measure this one with it by `surefoot evaluate`$"
    with pytest.raises(
        ValueError, match=rf"--env\.max-episode-steps was None, not 7; only --steps, .* a new run .*{advice}"
    ):
        resume(folder, "bc", capped)
    other = train("sac", run_of("sac", "Pendulum-v1"), out=tmp_path, name="acts")
    with pytest.raises(ValueError, match=r"--env\.max-episode-steps was None, not 7"):
        resume(
            other, "sac", run_of("sac", "Pendulum-v1", env=EnvConfig("Pendulum-v1", num_envs=2, max_episode_steps=7))
        )
