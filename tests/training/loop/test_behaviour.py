"""What HNPG needs of a run: recorded behaviour, seeds side by side, an early end, discrete actions and their data."""

import dataclasses
import json

import numpy as np
import pytest
import torch
from sameness import assert_same_run, rows

from surefoot.agents.baselines.trpo import TRPOConfig
from surefoot.agents.hnpg.agent import HNPGConfig
from surefoot.envs import DeepSea, EnvConfig
from surefoot.evaluation.policies import load_any
from surefoot.evaluation.policy_files import load_policy
from surefoot.offline_data import DataConfig, Transitions, load, load_for, write_d4rl
from surefoot.offline_data.d4rl import read_metadata
from surefoot.training.cli.main import main
from surefoot.training.config.run import EvalConfig, RunConfig
from surefoot.training.loop import behaviour
from surefoot.training.loop.behaviour import behaviour_data, record_behaviour
from surefoot.training.loop.interrupt import StopRequest
from surefoot.training.loop.setup import resume
from surefoot.training.runs.folder import read_meta
from surefoot.training.session import execute, train

pytestmark = pytest.mark.usefixtures("unrendered")

LOCK = EnvConfig("surefoot/CombinationLock-v0", num_envs=20, kwargs={"horizon": 3}, time_aware=True)
SMALL = {"policy_hidden": (8,), "critic_hidden": (8,), "batch_steps": 60, "critic_steps": 2, "value_samples": 2}


def lock_run(**changes):
    agent = HNPGConfig(horizon=3, success_return=1.0, **SMALL)
    config = RunConfig(
        agent=agent,
        env=LOCK,
        data=DataConfig(source="behaviour:40"),
        eval=EvalConfig(every=240, episodes=4),
        steps=480,
        log_every=60,
        checkpoint_every=180,
    )
    return dataclasses.replace(config, **changes)


def test_behaviour_is_whole_episodes_and_the_same_for_the_same_seed():
    one, again, other = (behaviour_data(DataConfig(source="behaviour:7"), LOCK, seed=s) for s in (0, 0, 1))
    assert len(one) == 21
    assert one.episode_lengths().tolist() == [3] * 7
    assert one.terminated.view(7, 3)[:, -1].eq(1).all()
    assert torch.equal(one.obs, again.obs)
    assert not torch.equal(one.obs, other.obs)


@pytest.mark.parametrize(("source", "expected"), [("behaviour:400", 0.2), ("behaviour:400:0.5", 0.5)])
def test_a_finite_task_has_its_epsilon_greedy_optimum_as_behaviour(source, expected):
    env = EnvConfig("surefoot/DeepSea-v0", kwargs={"size": 5}, time_aware=True)
    data, right = behaviour_data(DataConfig(source=source), env, seed=0), DeepSea(size=5).right
    step, column = data.obs[:, -1].long(), data.obs[:, :-1].argmax(-1)
    on_path = column == step
    follows = (data.action[:, 0].long() == right[step, column])[on_path].double().mean().item()
    error = 4 * (expected / 2 * (1 - expected / 2) / int(on_path.sum())) ** 0.5
    assert follows == pytest.approx(1 - expected / 2, abs=error)
    assert data.episode_lengths().tolist() == [5] * 400
    assert data.truncated.view(400, 5)[:, -1].all()


@pytest.mark.parametrize(
    ("source", "env", "message"),
    [
        ("behaviour:", LOCK, "expected behaviour:EPISODES"),
        ("behaviour:0", LOCK, "expected behaviour:EPISODES"),
        ("behaviour:9:1.5", LOCK, r"ε, the probability of a uniform action, must be in \[0, 1\]"),
        ("behaviour:9", EnvConfig("Pendulum-v1"), "Pendulum-v1 documents no behaviour policy"),
        ("behaviour:9", EnvConfig("surefoot/Crossing-v0"), "Crossing-v0 documents no behaviour policy"),
    ],
)
def test_a_source_that_records_nothing_is_refused(source, env, message):
    with pytest.raises(ValueError, match=message):
        behaviour_data(DataConfig(source=source), env, seed=0)


def test_collect_writes_the_behaviour_that_a_run_reads(tmp_path):
    out = tmp_path / "lock.hdf5"
    options = ["--env.id", LOCK.id, "--env.kwargs", "horizon", "3", "--env.time-aware", "--steps", "62"]
    assert main(["data", "collect", "behaviour", str(out), *options]) == 0
    data = load(str(out))
    assert torch.equal(data.obs, record_behaviour(LOCK, 20, seed=0).obs)
    run = train("hnpg", lock_run(data=DataConfig(source=str(out))), out=tmp_path, name="run")
    assert read_meta(run)["status"] == "finished"
    played = tmp_path / "played.hdf5"
    assert main(["data", "collect", str(run), str(played), "--env.kwargs", "noise", "0.2", "--steps", "9"]) == 0
    assert json.loads(read_metadata(played)["env"])["kwargs"] == LOCK.kwargs | {"noise": 0.2}


@pytest.mark.parametrize("env_id", ["surefoot/Crossing-v0", "surefoot/Pendulum-v0", "Pendulum-v1"])
def test_a_task_without_a_behaviour_is_one_line_before_many_of_it_are_made(env_id, tmp_path, capsys, monkeypatch):
    """Crossing is finite, but its episodes have no number of steps."""
    monkeypatch.setattr(behaviour, "make_vec", lambda env: pytest.fail(f"{env.num_envs} made"))
    assert main(["data", "collect", "behaviour", str(tmp_path / "b.hdf5"), "--env.id", env_id, "--steps", "10"]) == 2
    error = capsys.readouterr().err
    assert f"{env_id} documents no behaviour policy; record a run with `surefoot data collect` instead" in error
    assert list(tmp_path.iterdir()) == []


def test_a_lock_run_in_two_parts_is_the_run_in_one_also_with_seeds_side_by_side(tmp_path):
    for seeds in (1, 2):
        config = lock_run(num_seeds=seeds)
        straight = train("hnpg", config, out=tmp_path, name=f"straight-{seeds}")
        parts = train("hnpg", dataclasses.replace(config, steps=240), out=tmp_path, name=f"parts-{seeds}")
        run = resume(parts, "hnpg", config)
        execute(run, StopRequest())
        assert_same_run(straight, parts, run.counters.step)
        obs = torch.randn(6, 9).abs()
        assert torch.equal(load_policy(parts).policy.act(obs), run.agent.act(obs))
    table = rows(tmp_path / "straight-2" / "metrics.csv")
    assert {"success/seed-0", "success/seed-1", "success_average/seed-1"} <= set(table[0])
    assert table[-1]["env_steps"] == "480"  # of one seed
    assert float(table[-1]["episodes"]) == 40


def test_a_solved_run_ends_before_its_budget_and_stays_ended(tmp_path):
    agent = TRPOConfig(horizon=3, success_return=0.0, stop_when_solved=True, **SMALL)  # every episode is a success
    config = lock_run(agent=agent, data=DataConfig(), checkpoint_every=100)
    folder = train("trpo", config, out=tmp_path, name="run")
    assert load_policy(folder).step == 60
    assert read_meta(folder)["status"] == "finished"
    run = resume(folder, "trpo", dataclasses.replace(config, steps=960))
    execute(run, StopRequest())
    assert run.counters.step == 60


def discrete_data(actions):
    rows = len(actions)
    return Transitions.from_arrays(
        obs=np.zeros((rows, 4)),
        action=np.asarray(actions),
        reward=np.ones(rows),
        next_obs=np.zeros((rows, 4)),
        terminated=np.arange(rows) == rows - 1,
    )


def test_a_discrete_run_trains_from_a_file_and_can_be_deployed(tmp_path):
    write_d4rl(tmp_path / "cart.hdf5", discrete_data([0, 1] * 20))
    agent = HNPGConfig(**SMALL, rounds=2)
    config = lock_run(
        agent=agent, env=EnvConfig("CartPole-v1", num_envs=2), data=DataConfig(str(tmp_path / "cart.hdf5"))
    )
    folder = train("hnpg", config, out=tmp_path, name="run")
    actions = load_any(folder).act(torch.zeros(5, 4))
    assert actions.shape == (5,)
    assert set(actions.tolist()) <= {0, 1}
    assert main(["evaluate", str(folder), "--episodes", "2"]) == 0


def test_actions_that_are_no_numbers_of_the_space_are_refused(tmp_path):
    import gymnasium as gym

    path = tmp_path / "cart.hdf5"
    write_d4rl(path, discrete_data([0, 1, 2]))
    spaces = gym.spaces.Box(-1, 1, (4,)), gym.spaces.Discrete(2)
    with pytest.raises(ValueError, match="the action of row 2 is 2, but the environment has actions 0 to 1"):
        load_for(DataConfig(str(path)), *spaces, seed=0)
