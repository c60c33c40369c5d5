"""What trains and measures with C does so with worlds; what is trained there is measured in C unless told otherwise."""

import csv
import dataclasses
import json

import pytest
import torch
from sameness import assert_same_run

from surefoot import agents
from surefoot.envs import EnvConfig, Physics, disturbances, find_set, play
from surefoot.envs.uncertainty.vector_env import BatchedPerturbedEnvs
from surefoot.envs.warp.vector_env import WarpVectorEnv
from surefoot.evaluation.episodes import evaluate
from surefoot.evaluation.policies import load_any
from surefoot.training.cli.main import main
from surefoot.training.cli.stress import not_tried
from surefoot.training.config.run import EvalConfig, RunConfig
from surefoot.training.loop.interrupt import StopRequest
from surefoot.training.loop.setup import resume
from surefoot.training.session import execute, train


def tiny(**changes):
    agent = dataclasses.replace(
        agents.get("sac").default, hidden=(8,), batch_size=8, learning_starts=10, random_steps=20, replay_capacity=200
    )
    env = EnvConfig("Hopper-v5", num_envs=2, backend="warp", max_episode_steps=15)
    settings = {"eval": EvalConfig(every=30, episodes=2, worlds=4), "log_every": 20, "checkpoint_every": 30}
    return RunConfig(agent=agent, env=env, uncertainty="hopper-2", **settings, **changes)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    torch.set_num_threads(1)
    return train("sac", tiny(steps=60), out=tmp_path_factory.mktemp("runs"), name="straight")


def test_a_run_among_worlds_in_two_parts_is_the_run_in_one(run, tmp_path):
    parts = train("sac", tiny(steps=34), out=tmp_path, name="parts")
    rest = resume(parts, "sac", tiny(steps=60))
    assert isinstance(rest.env.unwrapped, WarpVectorEnv)
    execute(rest, StopRequest())
    assert_same_run(run, parts, rest.counters.step)


def test_evaluations_of_the_run_are_those_of_c_bit_for_bit(run):
    policy = load_any(run)
    assert policy.env_config.backend == "mujoco"
    with (run / "evaluations.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["step"] == "60"]
    task = EnvConfig("Hopper-v5", max_episode_steps=15)
    again = evaluate(policy.act, task, episodes=2, seed=EvalConfig().seed)
    assert [float(row["episode_return"]) for row in rows] == again.returns.tolist()
    envs = BatchedPerturbedEnvs(tiny(steps=1).env, find_set("hopper-2"))
    assert envs.config.backend == "warp"  # what an agent plays in
    assert envs.in_dynamics(Physics()).config.backend == "mujoco"  # what it is measured in


def test_evaluate_takes_either_backend_and_both_give_the_same_returns(run, capsys):
    found = {}
    for backend, options in (("mujoco", []), ("warp", ["--env.backend", "warp"])):
        out = run / f"{backend}.json"
        call = ["evaluate", str(run), "--grid", "hopper-2", "--n", "2", "--episodes", "1", "--json", str(out)]
        assert main([*call, *options]) == 0, capsys.readouterr().err
        text = out.read_text()
        assert ('"backend": "warp"' in text) == (backend == "warp")
        found[backend] = json.loads(text)["results"][0]
    means = [[point["mean"] for point in one["table"]] for one in found.values()]
    assert len(means[0]) == 4
    assert means[0] == pytest.approx(means[1], rel=1e-4)
    assert means[0] != means[1]  # of single precision


def test_stress_takes_either_backend_and_both_find_the_same(run, tmp_path, capsys):
    found = {}
    for backend in ("mujoco", "warp"):
        out = tmp_path / f"{backend}.html"
        call = ["stress", str(run), "--sets", "hopper-1", "--budget", "170", "--env.backend", backend]
        assert main([*call, "--out", str(out)]) == 0, capsys.readouterr().err
        assert ("Hopper-v5, backend warp" in out.read_text()) == (backend == "warp")
        (found[backend],) = json.loads(out.with_suffix(".json").read_text())["policies"]
    mine, theirs = found["warp"], found["mujoco"]
    assert mine["nominal"]["returns"] == pytest.approx(theirs["nominal"]["returns"], rel=1e-4)
    assert mine["nominal"]["returns"] != theirs["nominal"]["returns"]  # of single precision
    curves = [one["sets"][0]["curves"][0]["mean"] for one in (mine, theirs)]
    assert curves[0] == pytest.approx(curves[1], rel=1e-4)
    assert len(set(curves[1])) > 3  # the mass of the torso matters
    worst = [one["sets"][0]["worst"]["mean"] for one in (mine, theirs)]
    assert worst[0] == pytest.approx(worst[1], rel=0.01)


def test_all_that_can_be_disturbed_among_worlds_is_what_each_may_have_of_its_own():
    task = EnvConfig("Hopper-v5", backend="warp")
    theirs, ours = (disturbances(one) for one in (task.in_c(), task))
    assert [one for one in theirs.parameters if one not in ours.parameters] == [theirs.parameters[-2]]
    assert theirs.param_names[-2] == "frame_skip"
    points = ours.low[None] + 0.5 * (ours.high - ours.low)[None]
    task = dataclasses.replace(task, max_episode_steps=3)
    assert play(lambda obs: torch.zeros(len(obs), 3), task, ours, points, [0]).lengths.tolist() == [3]
    left_out = "frame_skip: the worlds of --env.backend warp all make the same physics steps"
    box = {"name": "disturbances", "pairs_left_out": [], "without_effect": []}
    policies = [{"env": dataclasses.asdict(one), "sets": [box]} for one in (task, task.in_c())]
    assert [left_out in not_tried([one], [ours]) for one in policies] == [True, False]


def test_what_is_not_served_is_one_line_before_a_run_starts(tmp_path, capsys):
    early = ["--agent.learning-starts", "5", "--agent.random-steps", "5", "--steps", "20"]
    options = ["--env.id", "Pendulum-v1", "--env.backend", "warp", "--out", str(tmp_path), *early]
    assert main(["train", "sac", *options]) != 0
    assert "--env.backend warp does not serve Pendulum-v1; it serves Ant-v5" in capsys.readouterr().err
    assert not list(tmp_path.rglob("config.yaml"))
