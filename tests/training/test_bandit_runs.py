"""Bandits from the command line: regret in place of evaluations, baseline runs, own systems, wrong input."""

import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import yaml
from sameness import rows

from surefoot.configs import preset_names
from surefoot.evaluation.policy_files import load_policy
from surefoot.evaluation.regret import last_decade_slope, load_regret
from surefoot.training.cli.main import main
from surefoot.training.cli.train import parse
from surefoot.training.config.presets import load_preset
from surefoot.training.loop.baselines import plan_baselines
from surefoot.training.loop.loop import _shown

SHORT = ("--preset", "s1", "--steps", "300", "--agent.horizon", "300", "--log-every", "100", "--threads", "1")


def train(tmp_path, *arguments, name="run"):
    return main(["train", *map(str, arguments), "--out", str(tmp_path), "--name", name])


def test_a_run_is_measured_by_its_regret(tmp_path):
    assert train(tmp_path, "dynlin-ucb", *SHORT, "--num-envs", 7) == 0
    run = tmp_path / "run"
    rounds, regret = load_regret(run)
    assert (rounds[-1], regret.shape) == (300, (len(rounds), 7))
    last = rows(run / "metrics.csv")[-1]
    assert (last["step"], last["env_steps"]) == ("300", "300")  # rounds of one replicate
    assert float(last["regret"]) == pytest.approx(regret[-1].mean())
    assert float(last["regret_se"]) == pytest.approx(regret[-1].std(ddof=1) / 7**0.5)
    assert {"realised_regret", "beta", "gap", "epoch"} <= set(last)
    assert rows(run / "evaluations.csv") == []
    assert (run / "plots" / "regret.png").stat().st_size > 10_000
    assert load_policy(run).policy.act(torch.zeros(7, 1)).shape == (7,)


def test_one_replicate_has_no_standard_error(tmp_path):
    """It was 0.0, as if the regret were known."""
    assert train(tmp_path, "dynlin-ucb", *SHORT, "--num-envs", 1) == 0
    assert {row["regret_se"] for row in rows(tmp_path / "run" / "metrics.csv")} == {""}
    spec = SimpleNamespace(regret="round", shown=())
    assert _shown(spec, {"regret": 12.34, "regret_se": None}) == ["regret 12.3"]
    assert _shown(spec, {"regret": 12.34, "regret_se": 1.0}) == ["regret 12.3 ± 1.0 (standard error)"]


def test_replicates_are_the_same_runs_whatever_their_number(tmp_path):
    for num_envs in (3, 11):
        assert train(tmp_path, "dynlin-ucb", *SHORT, f"--num-envs={num_envs}", name=str(num_envs)) == 0
    few, many = (load_regret(tmp_path / name)[1] for name in ("3", "11"))
    np.testing.assert_array_equal(few, many[:, :3])


def test_baseline_runs_use_the_same_environment(tmp_path, capsys):
    baselines = ("--baselines", "linucb-log/s1", "oracle/s1")
    noiseless = ("--num-envs", 4, "--env.kwargs", "noise", "0", "--agent.horizon", 400)
    assert train(tmp_path, "dynlin-ucb", *SHORT, *noiseless, *baselines) == 0
    table = {row["method"]: row for row in json.loads((tmp_path / "run" / "comparison.json").read_text())}
    assert list(table) == ["oracle", "dynlin-ucb", "linucb-log"]
    assert all(row["replicates"] == 4 and 300 <= row["rounds"] < 310 for row in table.values())
    assert table["oracle"]["regret"] == 0
    config = yaml.safe_load((tmp_path / "run" / "baselines" / "linucb-log-s1" / "config.yaml").read_text())
    assert (config["env"]["kwargs"], config["agent"]["horizon"]) == ({"system": "s1", "noise": 0}, 400)
    assert "pseudo-regret after 30" in capsys.readouterr().out
    assert main(["train", "dynlin-ucb", "--resume", str(tmp_path / "run"), "--steps", "400"]) == 0
    table = json.loads((tmp_path / "run" / "comparison.json").read_text())
    assert {row["rounds"] for row in table} == {400}  # the horizon cuts the last epoch


def test_episodes_are_compared_by_their_exact_regret(tmp_path, capsys):
    short = (
        "--preset",
        "lock-8-hybrid",
        "--steps",
        "320",
        "--agent.episodes",
        "40",
        "--num-envs",
        "5",
        "--threads",
        "1",
    )
    assert train(tmp_path, "nora", *short, "--log-every", "80", "--baselines", "nora/lock-8-plain-ac") == 0
    table = {row["method"]: row for row in json.loads((tmp_path / "run" / "comparison.json").read_text())}
    assert list(table) == ["nora", "nora/lock-8-plain-ac"]  # by regret
    assert all((row["replicates"], row["episodes"]) == (5, 40) for row in table.values())
    config = yaml.safe_load((tmp_path / "run" / "baselines" / "nora-lock-8-plain-ac" / "config.yaml").read_text())
    assert (config["agent"]["episodes"], config["data"]["source"]) == (40, None)  # as long, with its own data
    last = rows(tmp_path / "run" / "metrics.csv")[-1]
    assert (last["step"], last["env_steps"]) == ("320", "320")  # of one replicate
    assert float(last["concentrability"]) > 1
    assert {"regret", "regret_se", "realised_regret", "gap", "switches", "exponent", "covered"} <= set(last)
    assert "regret after 40 episodes" in capsys.readouterr().out
    runs = [str(tmp_path / "run"), str(tmp_path / "run" / "baselines" / "nora-lock-8-plain-ac")]
    assert main(["plot", *runs, "--out", str(tmp_path / "both.png")]) == 0
    assert main(["evaluate", runs[0], "--episodes", "3"]) == 0
    assert "nora" in capsys.readouterr().out


def test_own_systems_lie_over_a_preset_and_are_kept_with_the_run(tmp_path):
    system = "A: [[0.3]]\nB: [[1, -1]]\nomega: [1]\ntheta: [0, 5e-1]\nnoise: 1e-2\nactions: [[1, 0], [0, 1]]"
    preset = tmp_path / "mine.yaml"
    text = "".join(f"    {line}\n" for line in system.splitlines())
    preset.write_text(
        f"env:\n  id: surefoot/DynamicalLinear-v0\n  kwargs:\n{text}agent: {{horizon: 100}}\nsteps: 100\n"
    )
    assert train(tmp_path, "dynlin-ucb", "--preset", preset, "--env.kwargs", "A", "[[0.4]]") == 0
    config = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    assert config["env"]["kwargs"]["A"] == [[0.4]]
    assert config["env"]["kwargs"]["actions"] == [[1, 0], [0, 1]]
    assert train(tmp_path, "--config", tmp_path / "run" / "config.yaml", name="again") == 0
    np.testing.assert_array_equal(load_regret(tmp_path / "again")[1], load_regret(tmp_path / "run")[1])


def test_plots_and_evaluations_of_finished_bandits(tmp_path, capsys):
    for seed in (0, 1):
        assert train(tmp_path, "exp3", *SHORT, "--num-envs", 3, "--seed", seed, name=f"run{seed}") == 0
    runs = [str(tmp_path / f"run{seed}") for seed in (0, 1)]
    assert main(["plot", *runs, "--out", str(tmp_path / "both.png")]) == 0
    assert (tmp_path / "both.png").stat().st_size > 10_000
    capsys.readouterr()
    assert main(["evaluate", runs[0], "--episodes", "3", "--env.max-episode-steps", "5"]) == 0
    assert "exp3" in capsys.readouterr().out


def test_the_slope_is_that_of_the_last_decade():
    t = np.array([1, 10, 100, 200, 500, 1000])
    curve = np.where(t < 100, t, 10 * t**0.5)[:, None] * np.array([[0.5, 1.5]])
    assert last_decade_slope(t, curve) == pytest.approx(0.5)
    assert np.isnan(last_decade_slope(t, 0 * curve))


def test_the_demo_names_every_algorithm():
    config = load_preset("dynlin-ucb", "demo")
    assert len(plan_baselines("dynlin-ucb", config, "demo")) == 12
    assert preset_names("dynlin-ucb") == [
        "ball-random", "demo", "real-data", "s1", "synthetic-0.001", "synthetic-0.01", "synthetic-0.1",
    ]  # fmt: skip
    assert preset_names("human-budget") == ["real-data"]


def test_keyword_arguments_of_a_task_are_yaml_on_the_command_line():
    _, launch = parse(["dynlin-ucb", *SHORT, "--env.kwargs", "A", "[[0.5, 1]]", "system", "null", "noise", "1.0e-3"])
    assert launch.run.env.kwargs == {"system": None, "A": [[0.5, 1]], "noise": 1e-3}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("dynlin-ucb", *SHORT, "--agent.horizon", 299), "--agent.horizon is 299, but the run has 300 rounds"),
        (("linucb", "--preset", "s1", "--agent.horizon", 50), "--agent.horizon is 50, but the run has 20000 rounds"),
        (("nora", "--env.id", "Pendulum-v1"), "this task is not one"),
        (("nora", "--env.id", "surefoot/RiverSwim-v0"), "pass --env.time-aware"),
        (
            ("nora", "--preset", "lock-8", "--baselines", "linucb/s1"),
            "measured by regret per episode and regret per round",
        ),
        (("dynlin-ucb", "--env.id", "Pendulum-v1"), "a bandit plays surefoot/DynamicalLinear-v0"),
        (("dynlin-ucb", *SHORT, "--env.kwargs", "A", "[[1.5]]"), "spectral radius 1.5; the system is unstable"),
        (("dynlin-ucb", *SHORT, "--env.kwargs", "actions", "[[1, 0]]"), "1 distinct point(s)"),
        (("dynlin-ucb", *SHORT, "--env.kwargs", "wheels", "4"), "wheels"),
        (("dynlin-ucb", *SHORT, "--baselines", "fake/none"), "no preset 'none' for fake"),
        (("sac", "--env.id", "surefoot/DynamicalLinear-v0"), "sac takes Box actions"),
        (("human-budget", *SHORT[2:], "--env.id", "surefoot/DynamicalLinear-v0"), "agent.budgets names 3 campaigns"),
    ],
)
def test_wrong_input_is_one_line(arguments, message, capsys, tmp_path):
    assert train(tmp_path, *arguments) == 2
    err = capsys.readouterr().err
    assert message in err
    assert err.count("\n") == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("option", "value"), [("spectral-radius-bound", 1), ("failure-probability", 2), ("ridge", 0)])
def test_options_out_of_range_are_named(option, value, capsys, tmp_path):
    assert train(tmp_path, "dynlin-ucb", *SHORT, f"--agent.{option}", value) == 2
    assert f"--agent.{option} must be" in capsys.readouterr().err


def test_bandits_are_compared_with_bandits_only():
    config = replace(load_preset("sac", "demo-sim"), baselines=("linucb/s1",))
    with pytest.raises(ValueError, match="cannot be compared: they are measured by return and regret per round"):
        plan_baselines("sac", config, "demo-sim")


def test_a_horizon_below_the_steps_is_refused_and_doubling_needs_none(tmp_path, capsys):
    short = ("dynlin-ucb", "--preset", "s1", "--steps", "300", "--threads", "1", "--num-envs", 2)
    assert train(tmp_path, *short, "--agent.horizon", "200") == 2
    assert "--agent.horizon is 200, but the run has 300 rounds (--steps)" in capsys.readouterr().err
    assert train(tmp_path, *short, "--agent.doubling", name="anytime") == 0
    config = yaml.safe_load((tmp_path / "anytime" / "config.yaml").read_text())
    assert (config["agent"]["doubling"], config["agent"]["horizon"], config["steps"]) == (True, 64, 300)
