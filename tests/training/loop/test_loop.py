"""The run loop: what is written when, and that a run in two parts is the run in one."""

import dataclasses
import json
import shutil

import pytest
import torch
from fake_agent import FakeConfig
from leftovers import leave_half_a_file
from sameness import assert_same_run, rows

from surefoot import agents
from surefoot.agents.parts import blocks
from surefoot.evaluation import policy_files
from surefoot.evaluation.storage import load
from surefoot.training.loop import evaluation, setup
from surefoot.training.loop.interrupt import StopRequest
from surefoot.training.loop.setup import resume, start
from surefoot.training.runs import folder as run_folder
from surefoot.training.session import execute, train

pytestmark = pytest.mark.usefixtures("unrendered")


def change(config, **changes):
    return dataclasses.replace(config, **changes)


def go_on(folder, config):
    execute(resume(folder, "fake", config), StopRequest())


def train_and_stop(folder, config, iterations):
    """Train, and be asked to stop after a number of agent steps; leaves the folder as Ctrl-C would."""
    stop = StopRequest()
    run = start("fake", config, folder)
    step = run.agent.step

    def step_and_ask():
        if run.agent.steps + 1 == iterations:
            stop.signal = 2
        return step()

    run.agent.step = step_and_ask
    execute(run, stop)


def test_rows_evaluations_and_checkpoints_come_when_their_interval_is_crossed(tmp_path, tiny):
    folder = train("fake", tiny, out=tmp_path, name="run")
    # 3 environment steps per iteration: the first row at or after 14, 28, 42, 56, and one for the rest
    assert [int(row["step"]) for row in rows(folder / "metrics.csv")] == [15, 30, 42, 57, 60]
    assert [int(row["updates"]) for row in rows(folder / "metrics.csv")] == [5, 10, 14, 19, 20]
    assert [(int(row["step"]), int(row["episode"])) for row in rows(folder / "evaluations.csv")] == [
        (27, 0), (27, 1), (51, 0), (51, 1), (60, 0), (60, 1),
    ]  # fmt: skip
    assert policy_files.checkpoint_steps(folder, "policy") == [42, 60]
    assert policy_files.checkpoint_steps(folder) == [60]  # it is finished
    assert run_folder.read_meta(folder)["status"] == "finished"
    assert (folder / "plots" / "learning_curve.png").is_file()


def test_a_metric_row_is_the_mean_of_its_interval(tmp_path, tiny):
    folder = train("fake", tiny, out=tmp_path, name="run")
    generator = torch.Generator().manual_seed(tiny.seed)
    noises = torch.stack([torch.randn(1, 3, generator=generator) for _ in range(20)]).double()
    means = [noises[a:b].mean().item() for a, b in [(0, 5), (5, 10), (10, 14), (14, 19), (19, 20)]]
    table = rows(folder / "metrics.csv")
    torch.testing.assert_close(torch.tensor([float(row["noise"]) for row in table]), torch.tensor(means))
    # iterations 7 and 14 end an episode of length 5 whose return is the iteration's number
    assert [(row["episodes"], row["episode_return"], row["episode_length"]) for row in table] == [
        ("0.0", "", ""), ("1.0", "7.0", "5.0"), ("1.0", "14.0", "5.0"), ("0.0", "", ""), ("0.0", "", ""),
    ]  # fmt: skip


def test_a_metric_that_appears_late_gets_a_column_and_empty_cells_before(tmp_path, tiny):
    folder = train("fake", change(tiny, steps=120), out=tmp_path, name="run")
    late = [row["late"] for row in rows(folder / "metrics.csv")]
    assert late[:6] == [""] * 6  # LATE = 30 iterations = 90 environment steps
    assert all(late[6:])


@pytest.mark.parametrize("iterations", [1, 9, 14, 33])  # before and after a row, on one, after the late metric
def test_a_stopped_and_resumed_run_is_the_straight_run(tmp_path, tiny, iterations):
    config = change(tiny, steps=120)
    straight = train("fake", config, out=tmp_path, name="straight")
    train_and_stop(tmp_path / "parts", config, iterations)
    assert run_folder.read_meta(tmp_path / "parts")["status"] == "interrupted"
    go_on(tmp_path / "parts", config)
    assert_same_run(straight, tmp_path / "parts", 120)


def test_an_extended_budget_is_the_longer_run(tmp_path, tiny):
    straight = train("fake", change(tiny, steps=120), out=tmp_path, name="straight")
    parts = train("fake", change(tiny, steps=51), out=tmp_path, name="parts")
    go_on(parts, change(tiny, steps=120))
    assert_same_run(straight, parts, 120)
    assert run_folder.read_config(parts)[1].steps == 120


def test_rows_written_after_the_last_checkpoint_are_dropped_on_resume(tmp_path, tiny):
    config = change(tiny, steps=120, keep_checkpoints=9, keep_finished=9)
    straight = train("fake", config, out=tmp_path, name="straight")
    crashed = tmp_path / "crashed"
    shutil.copytree(straight, crashed)
    for step in policy_files.checkpoint_steps(crashed):
        if step > 60:  # as if killed at the end, its last checkpoint at 60
            policy_files.checkpoint_path(crashed, "step", step).unlink()
    with (crashed / "metrics.csv").open("a") as file:
        file.write("121,12")  # a row cut off by the kill
    for folder in ("checkpoints", "plots"):
        leave_half_a_file(crashed / folder / "step-000000063.pt")
    go_on(crashed, config)
    assert_same_run(straight, crashed, 120)
    assert not list(crashed.rglob(".*"))


def test_a_run_whose_checkpoints_are_in_blocks_can_be_moved_and_goes_on_as_the_same_run(tmp_path, tiny, monkeypatch):
    monkeypatch.setattr(blocks, "SIZE", 1000)  # the generators' states, another one with every checkpoint
    config = change(tiny, steps=120, checkpoint_every=9)
    straight = train("fake", config, out=tmp_path, name="straight")
    train_and_stop(tmp_path / "parts", config, 17)
    shutil.move(tmp_path / "parts", tmp_path / "moved")
    assert policy_files.checkpoint_steps(tmp_path / "moved") == [45, 51]
    of_two = set((tmp_path / "moved" / "checkpoints" / "blocks").iterdir())
    go_on(tmp_path / "moved", config)
    assert_same_run(straight, tmp_path / "moved", 120)
    of_one = set((tmp_path / "moved" / "checkpoints" / "blocks").iterdir())
    assert 0 < len(of_one) < len(of_two)


def test_a_crash_keeps_its_traceback_and_the_run_can_go_on(tmp_path, tiny):
    config = change(tiny, agent=FakeConfig(fail_at=12))
    with pytest.raises(ValueError, match="fails as configured"):
        train("fake", config, out=tmp_path, name="run")
    assert run_folder.read_meta(tmp_path / "run")["status"] == "failed"
    assert policy_files.checkpoint_steps(tmp_path / "run") == [21]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seed": 5}, "--seed was 0, not 5; only --steps, --threads"),
        ({"agent": FakeConfig(scale=2.0)}, "--agent.scale was 0.1, not 2.0"),
        ({"log_every": 3}, "--log-every was 14, not 3"),
        ({"steps": 30}, "already at step 60; --steps 30 is less"),
    ],
)
def test_resume_refuses_another_run(tmp_path, tiny, changes, message):
    folder = train("fake", tiny, out=tmp_path, name="run")
    with pytest.raises(ValueError, match=message):
        resume(folder, "fake", change(tiny, **changes))


def test_resume_refuses_another_agent_and_another_device(tmp_path, tiny, monkeypatch):
    folder = train("fake", tiny, out=tmp_path, name="run")
    with pytest.raises(ValueError, match="a run of fake, not of sac"):
        resume(folder, "sac", tiny)
    monkeypatch.setattr(setup, "pick_device", lambda name: torch.device("meta"))
    with pytest.raises(ValueError, match="made on cpu, not meta; resume it on"):
        resume(folder, "fake", tiny)


def test_resume_without_a_checkpoint_says_so(tmp_path, tiny):
    with pytest.raises(FileNotFoundError, match="no checkpoint to resume from"):
        resume(tmp_path, "fake", tiny)


def test_best_is_the_policy_with_the_highest_mean_evaluation(tmp_path, tiny):
    folder = train("fake", change(tiny, steps=300), out=tmp_path, name="run")
    means: dict[int, float] = {}
    for row in rows(folder / "evaluations.csv"):
        means[int(row["step"])] = means.get(int(row["step"]), 0.0) + float(row["episode_return"]) / 2
    assert len(means) == 12
    assert load(folder / "checkpoints" / "best.pt")["step"] == max(means, key=lambda step: means[step])


def test_an_agent_that_never_acts_counts_updates(tmp_path, tiny, monkeypatch):
    import fake_agent

    monkeypatch.setattr(fake_agent, "FAKE_SPEC", dataclasses.replace(fake_agent.FAKE_SPEC, offline=True))
    config = change(tiny, agent=FakeConfig(env_steps=0))
    last = rows(train("fake", config, out=tmp_path, name="run") / "metrics.csv")[-1]
    assert (last["step"], last["env_steps"], last["updates"]) == ("60", "0", "60")


def test_evaluation_is_in_the_real_dynamics_whatever_the_simulator(tmp_path, tiny, monkeypatch):
    from surefoot.envs import Physics

    seen = []
    evaluate = evaluation.evaluate
    monkeypatch.setattr(evaluation, "evaluate", lambda act, env, **rest: seen.append(env) or evaluate(act, env, **rest))
    simulator = dataclasses.replace(tiny.env, id="InvertedPendulum-v5", physics=Physics(gravity=2.0))
    train("fake", change(tiny, env=simulator), out=tmp_path, name="run")
    assert {env.physics for env in seen} == {Physics()}


def test_global_generators_are_left_alone(tmp_path, tiny):
    import random

    import numpy as np

    before = torch.get_rng_state(), np.random.get_state()[1].tobytes(), random.getstate()  # noqa: NPY002
    train("fake", tiny, out=tmp_path, name="run")
    assert torch.equal(before[0], torch.get_rng_state())
    assert before[1:] == (np.random.get_state()[1].tobytes(), random.getstate())  # noqa: NPY002


def test_an_agent_that_needs_data_asks_for_it(tmp_path, tiny, monkeypatch):
    import fake_agent

    monkeypatch.setattr(fake_agent, "FAKE_SPEC", dataclasses.replace(fake_agent.FAKE_SPEC, needs_data=True))
    assert agents.get("fake").needs_data
    with pytest.raises(ValueError, match=r"fake learns from recorded data: pass --data\.source"):
        train("fake", tiny, out=tmp_path, name="run")
    assert not list(tmp_path.iterdir())


def test_asking_for_a_missing_gpu_is_an_error():
    missing = torch.cuda.device_count()
    with pytest.raises(ValueError, match=f"cuda:{missing} was requested, but PyTorch sees {missing} CUDA devices"):
        setup.pick_device(f"cuda:{missing}")
    assert setup.pick_device("cpu") == torch.device("cpu")


def test_meta_names_command_commit_versions_and_hardware(tmp_path, tiny):
    folder = train("fake", tiny, out=tmp_path, name="run", preset="demo")
    meta = json.loads((folder / "meta.json").read_text())
    assert meta["preset"] == "demo"
    assert meta["versions"]["torch"] == torch.__version__
    assert {"command", "commit", "dirty", "hardware", "started", "minutes", "seed"} <= set(meta)
