"""A run of IWOCS from the command line to its worst case: it is an ordinary run, and its policy an ordinary policy."""

import json

import numpy as np
import pytest
import torch
import yaml

from surefoot.envs import BatchedPerturbedEnvs, EnvConfig, find_set
from surefoot.evaluation.episodes import evaluate, make_act
from surefoot.evaluation.policy_files import load_policy
from surefoot.training.cli.main import main

TINY = {
    "env": {"id": "surefoot/Pendulum-v0", "max_episode_steps": 12},
    "uncertainty": "pendulum-2",
    "agent": {
        "hidden": [8],
        "entropy_free_hidden": [8, 8],
        "batch_size": 8,
        "learning_starts": 10,
        "random_steps": 5,
        "default_steps": 20,
        "model_steps": 15,
        "thresholds": [0.1, 1.0],
        "held_out_episodes": 2,
        "repeat_tolerance": 0.0,
        "search": "random",
        "population": 3,
        "generations": 2,
    },
    "steps": 65,
    "threads": 1,
    "log_every": 10,
    "checkpoint_every": 20,
    "eval": {"every": 30, "episodes": 2, "grid": 2},
}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Return the folder of a finished tiny run with SAC under domain randomisation as its baseline."""
    folder = tmp_path_factory.mktemp("iwocs")
    theirs = {key: value for key, value in TINY.items() if key != "agent"}
    (folder / "sac.yaml").write_text(yaml.safe_dump(theirs | {"agent": {"hidden": [8], "learning_starts": 10}}))
    (folder / "tiny.yaml").write_text(yaml.safe_dump(TINY))
    assert main(["train", "iwocs", "--preset", str(folder / "tiny.yaml"), "--out", str(folder), "--name", "a"]) == 0
    return folder / "a"


def test_the_whole_budget_is_spent_and_the_path_written(run):
    path = json.loads((run / "path.json").read_text())
    assert [entry["training_steps"] for entry in path] == [20, 35, 50, 65]
    assert path[-1]["status"] == "budget"
    assert [len(entry["fractions"]) for entry in path] == [1, 2, 3, 4]
    assert all(entry["search_steps"] > 0 and len(entry["table"]) == 6 for entry in path)
    meta = json.loads((run / "meta.json").read_text())
    assert meta["status"] == "finished"


def test_the_run_ends_with_the_worst_cases_in_a_table_and_a_figure(run):
    (row,) = json.loads((run / "comparison.json").read_text())
    assert row["method"] == "iwocs"
    assert len(row["table"]) == 4
    assert row["worst"]["mean"] == min(entry["mean"] for entry in row["table"])
    assert (run / "plots" / "parameter_grid.png").stat().st_size > 1000


def test_its_policy_is_evaluated_as_any_other_with_its_memory(run, capsys):
    grid = ["--grid", "pendulum-2", "--n", "2", "--episodes", "2", "--env.max-episode-steps", "12"]
    assert main(["evaluate", str(run), "--episodes", "3"]) == 0
    assert main(["evaluate", str(run), *grid, "--json", str(run / "grid.json")]) == 0
    assert "worst at" in capsys.readouterr().out
    (result,) = json.loads((run / "grid.json").read_text())["results"]
    task, one, policy = EnvConfig(**TINY["env"], num_envs=128), find_set("pendulum-2"), load_policy(run).policy
    played = BatchedPerturbedEnvs(task, one).play(make_act(policy), np.concatenate([one.grid(2)]), [10_000, 10_001])
    assert len(result["table"]) == 4
    assert played.returns.shape == (4, 2)
    policy.used.fill_(3)
    policy.rho[:] = torch.tensor([0.1, 0.5, 1.0])
    stateful = make_act(policy)
    evaluate(stateful, EnvConfig(**TINY["env"]), episodes=4, seed=0)
    assert stateful.fractions.shape == (4,)
    assert 0 < float(stateful.fractions[:3].sum()) <= 1
    assert not torch.equal(policy.act(torch.zeros(1, 3)), policy.default.act(torch.zeros(1, 3)))


def test_an_infinite_threshold_is_no_gate_and_the_path_is_still_json(tmp_path):
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(TINY))
    one = ["--agent.thresholds", "inf", "--agent.iterations", "1", "--steps", "35", "--name", "a"]
    assert main(["train", "iwocs", "--preset", str(tmp_path / "tiny.yaml"), "--out", str(tmp_path), *one]) == 0
    path = json.loads((tmp_path / "a" / "path.json").read_text(), parse_constant=pytest.fail)
    assert [entry["rho"] for entry in path] == [None, "inf"]
    assert path[1]["by_threshold"][0][0] == "inf"
    assert path[1]["fractions"] == [1.0, 0.0]
    policy = load_policy(tmp_path / "a").policy
    assert policy.rho.tolist() == [np.inf]
    policy.used.fill_(1)
    stateful = make_act(policy)
    evaluate(stateful, EnvConfig(**TINY["env"]), episodes=2, seed=0)
    assert stateful.fractions.tolist() == [1.0, 0.0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--env.id", "Hopper-v5"], "iwocs trains in an uncertainty set: pass --uncertainty, or a preset"),
        (["--preset", "demo", "--uncertainty", "None"], "--eval.grid 5 needs --uncertainty"),
        (["--preset", "demo", "--uncertainty", "hopper-2"], "hopper-2 is for Hopper-v5, not for InvertedPendulum-v5"),
    ],
)
def test_a_request_that_cannot_be_met_is_one_line(options, message, tmp_path, capsys):
    assert main(["train", "iwocs", *options, "--baselines", "--out", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.strip().count("\n") == 0
    assert not list(tmp_path.iterdir())
