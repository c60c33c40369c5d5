"""Numbers that are not finite end a run: one line, status failed, and no checkpoint that holds them."""

import csv
import dataclasses
from pathlib import Path

import pytest
import torch
from fake_agent import FakeConfig

from surefoot.agents.interface import Progress
from surefoot.envs import EnvConfig, TaskError
from surefoot.evaluation import policy_files
from surefoot.evaluation.episodes import evaluate
from surefoot.evaluation.storage import load
from surefoot.training.cli import main as cli
from surefoot.training.loop.finite import DivergedError, require_finite
from surefoot.training.runs import folder as run_folder
from surefoot.training.runs.meters import Meter
from surefoot.training.session import train

pytestmark = pytest.mark.usefixtures("unrendered")


@pytest.fixture(autouse=True)
def _tasks_are_importable(monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / "envs")


@pytest.mark.parametrize(
    ("nan_in", "message"),
    [
        ("metric", r"^noise not finite by step 42 \(the checkpoint of step 21 is the last good one\)"),
        ("policy", r"^linear\.bias not finite by step 42"),
        ("state", r"^padding not finite by step 42"),
        ("state, then fails", r"^padding not finite by step 39"),
    ],
)
def test_a_run_that_diverges_stops_before_anything_of_it_is_written(tmp_path, tiny, nan_in, message):
    config = dataclasses.replace(tiny, agent=FakeConfig(nan_in=nan_in, padding=3))
    with pytest.raises(DivergedError, match=message):
        train("fake", config, out=tmp_path, name="run")
    assert run_folder.read_meta(tmp_path / "run")["status"] == "failed"
    assert policy_files.checkpoint_steps(tmp_path / "run") == [21]
    state = load(policy_files.checkpoint_path(tmp_path / "run", "step", 21))["agent"]
    assert state["padding"].isfinite().all()
    with (tmp_path / "run" / "metrics.csv").open() as file:
        assert not [row for row in csv.DictReader(file) if "nan" in row.values()]


def test_infinities_that_cancel_are_no_nan_and_one_nan_among_many_is_found():
    meter = Meter(torch.device("cpu"))
    state = {"bounds": torch.tensor([torch.inf, -torch.inf]), "large": torch.full((9,), 3e38), "empty": torch.empty(0)}
    require_finite(meter, (), state, "now")
    state["nested"] = [{"rows": torch.zeros(1000, 7)}]
    state["nested"][0]["rows"][613, 2] = torch.nan
    with pytest.raises(DivergedError, match=r"^nested\.0\.rows not finite now"):
        require_finite(meter, (), state, "now")


def test_an_error_of_an_agent_that_is_finite_stays_what_it_is(tmp_path, tiny):
    with pytest.raises(ValueError, match="fails as configured"):
        train("fake", dataclasses.replace(tiny, agent=FakeConfig(fail_at=5, padding=3)), out=tmp_path)


AGENTS = {
    "sac": "--agent.learning-starts 16 --agent.random-steps 10 --agent.hidden 8",
    "sb3-sac": "--agent.learning-starts 16 --agent.net-arch 8",
    "trpo": "--agent.policy-hidden 8 --agent.critic-hidden 8 --agent.batch-steps 100",
}


@pytest.mark.parametrize("agent", AGENTS)
def test_one_nan_of_a_task_is_one_line_and_exit_code_1(agent, tmp_path, capsys):
    task = "--env.id faulty_tasks:Faulty-v0 --env.kwargs fault reward at 130"
    options = f"{task} {AGENTS[agent]} --steps 400 --checkpoint-every 100 --log-every 1000 --eval.every 1000"
    code = cli.main(["train", agent, *options.split(), "--out", str(tmp_path), "--name", "run"])
    err = capsys.readouterr().err
    assert code == 1, err
    lines = [line for line in err.splitlines() if line.startswith("surefoot: error: ")]
    assert lines == [err.splitlines()[-1]]
    assert "faulty_tasks:Faulty-v0: at step 130 the reward of environment 0 is nan" in lines[0]
    assert run_folder.read_meta(tmp_path / "run")["status"] == "failed"
    assert policy_files.checkpoint_steps(tmp_path / "run") == [100]


def test_a_nan_in_an_evaluation_says_where_it_was():
    task = EnvConfig("faulty_tasks:Faulty-v0", kwargs={"fault": "observation", "at": 30})
    with pytest.raises(TaskError, match=r"^in an evaluation: faulty_tasks:Faulty-v0: at step 30 the observation of"):
        evaluate(lambda obs: torch.zeros(len(obs), 1), task, episodes=2, seed=0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--env.id faulty_tasks:Ends-v0", "no time limit"),
        ("--env.id faulty_tasks:Careless-v0 --env.kwargs breach four", "step returned a tuple of 4"),
        ("--env.id faulty_tasks:WholeActions-v0", "whole numbers"),
    ],
)
def test_what_is_wrong_with_a_task_is_said_before_anything_is_made(options, message, tmp_path, capsys):
    agent = "qr-dqn" if "Actions" not in options else "sac"
    assert cli.main(["train", agent, *options.split(), "--out", str(tmp_path), "--name", "run"]) == 2
    err = capsys.readouterr().err
    assert message in err
    assert err.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_infinity_is_a_value_of_metrics_that_say_so_and_nan_never():
    def meter_of(value: float) -> Meter:
        meter = Meter(torch.device("cpu"))
        meter.add(Progress(1, 1, {"concentrability": torch.tensor(value)}))
        return meter

    require_finite(meter_of(float("inf")), ("concentrability",), {}, "by step 1")
    for value, unbounded in ((float("inf"), ()), (float("nan"), ("concentrability",))):
        with pytest.raises(DivergedError, match="concentrability not finite by step 1"):
            require_finite(meter_of(value), unbounded, {}, "by step 1")
