"""The command line: help, errors in one line, and the entry points of the other commands."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from surefoot import agents
from surefoot.evaluation import policy_files
from surefoot.training.cli import main as cli
from surefoot.training.cli.train import parse
from surefoot.training.runs import folder as run_folder

pytestmark = pytest.mark.usefixtures("unrendered")

TASK = ("--env.id", "surefoot/Pendulum-v0", "--env.max-episode-steps", "10", "--eval.episodes", "2")


def train(*arguments: object) -> int:
    return cli.main(["train", *map(str, arguments)])


def test_train_help_lists_agents_in_the_groups_of_the_readme(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    assert train("--help") == 0
    out = capsys.readouterr().out
    titles = ["Methods:", "Baselines:", "Reference implementations:"]
    assert sorted(titles, key=out.index) == titles
    assert max(map(len, out.splitlines())) <= 100
    for title, names in cli.GROUPS.items():
        section = out[out.index(f"{title}:") :]
        for name in names:
            assert re.search(rf"^  {name} {{2,}}{re.escape(cli._summary(name).split()[0])}", section, re.M), name
    assert re.search(r"^ +presets: demo, .*halfcheetah-medium-expert-friction", out, re.M)
    assert train() == 2


@pytest.mark.parametrize(("script", "shown"), [("train.py", "python train.py"), ("surefoot", "surefoot train")])
def test_usage_names_the_program_that_was_called(script, shown, capsys, monkeypatch):
    monkeypatch.setattr("sys.argv", [f"/somewhere/{script}"])
    for arguments in (["--help"], ["fake", "--help"]):
        assert train(*arguments) == 0
        assert f"usage: {shown} " in capsys.readouterr().out


@pytest.mark.parametrize("arguments", ["train --help", "train sac --help", "data list", "--help"])
def test_a_reader_that_has_seen_enough_ends_the_command_in_silence(arguments):
    read, write = os.pipe()
    os.close(read)  # as `| head` does, only sooner
    call = [sys.executable, "-m", "surefoot.training.cli.main", *arguments.split()]
    done = subprocess.run(call, stdout=write, stderr=subprocess.PIPE, text=True, timeout=120)
    os.close(write)
    assert (done.stderr, done.returncode) == ("", 128 + 13)


def test_every_agent_has_a_summary_that_help_finds_without_importing_it():
    for name, entry in agents.REGISTRY.items():
        if name != "fake":
            assert len(cli._summary(name)) > 10, entry


def test_top_level_help_and_version(capsys):
    assert cli.main(["--help"]) == 0
    out = capsys.readouterr().out
    assert all(name in out for name in ("train", "evaluate", "data", "plot", "solve"))
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("surefoot 0.")
    assert cli.main(["fly"]) == 2
    assert "unknown command 'fly'" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["evaluate", "data", "plot", "solve"])
def test_every_command_has_help(name, capsys):
    assert cli.main([name, "--help"]) == 0
    assert "usage" in capsys.readouterr().out


def test_agent_help_documents_every_field(capsys):
    assert train("fake", "--help") == 0
    out = " ".join(capsys.readouterr().out.replace("│", " ").split())
    for text in (
        "a random walk, for tests",
        "--agent.scale FLOAT Size of one step of the walk.",
        "--preset",
        "--config",
    ):
        assert text in out
    for text in (
        "--resume",
        "--env.physics.gravity",
        "--eval.episodes INT Episodes per evaluation.",
        "--data.source",
    ):
        assert text in out


def test_options_lie_over_the_preset(tmp_path):
    preset = tmp_path / "p.yaml"
    preset.write_text("steps: 77\nagent: {scale: 2e-1, env_steps: 5}\n")
    options = ["--preset", str(preset), "--agent.scale", "0.5", "--env.physics.gravity", "2.0", "--logger", "wandb"]
    name, launch = parse(["fake", *options])
    config = launch.run
    assert (name, config.steps, config.agent.scale, config.agent.env_steps) == ("fake", 77, 0.5, 5)
    assert (config.env.physics.gravity, config.logger) == (2.0, ("wandb",))


@pytest.mark.parametrize(
    ("word", "number"), [("1e3", 1000), ("2.5e3", 2500), ("1_000", 1000), ("9007199254740993", 2**53 + 1)]
)
def test_whole_numbers_may_be_written_as_in_a_preset(word, number):
    assert parse(["fake", "--steps", word])[1].run.steps == number
    if number < 2**53:  # no network is as wide
        assert parse(["sac", "--agent.hidden", "64", word])[1].run.agent.hidden == (64, number)


def test_a_resolved_config_starts_the_same_run_again(tmp_path):
    assert train("fake", *TASK, "--steps", 9, "--agent.scale", 0.3, "--out", tmp_path, "--name", "a") == 0
    assert train("--config", tmp_path / "a" / "config.yaml", "--out", tmp_path, "--name", "b") == 0
    one, other = ((tmp_path / name / "config.yaml").read_text() for name in "ab")
    assert one == other
    assert yaml.safe_load(one)["agent"]["scale"] == 0.3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("who",), "unknown agent 'who'; choose one of "),
        (("--steps", 3), "name an agent to train"),
        (("fake", "--preset", "nope"), "no preset 'nope' for fake; available: none"),
        (("fake", "--config", "absent.yaml"), "absent.yaml: no such file"),
        (("fake", "--config", "a", "--preset", "b"), "--config does not go with --preset or --resume"),
        (("fake", "--resume", "absent"), "absent: not a run folder (no config.yaml)"),
        (("fake", "--steps", -3), "steps is -3; it must be positive"),
        (("fake", "--steps", 0), "steps is 0; it must be positive"),
        (("fake", "--device", "cuda:99"), "device cuda:99 was requested, but PyTorch sees"),
        (("fake", "--env.id", "Nope-v3"), "unknown environment 'Nope-v3'"),
        (("sac", "--env.id", "CartPole-v1"), "sac takes Box actions"),
        (("fake", "--baselines", "sac/nope"), "no preset 'nope' for sac"),
        (("bc", *TASK, "--data.source", "absent.hdf5"), "absent.hdf5"),
    ],
)
def test_wrong_input_is_one_line_and_exit_code_2(arguments, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert train(*arguments) == 2
    err = capsys.readouterr().err
    assert err.startswith("surefoot: error: ")
    assert message in err
    assert err.count("\n") == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "arguments",
    [("--agent.scales", 3), ("--steps", "many"), ("--steps", "1.5"), ("--steps", "inf"), ("--eval.episodes", -1)],
)
def test_wrong_options_show_what_was_meant_and_exit_code_2(arguments, capsys):
    assert train("fake", *arguments) == 2
    assert str(arguments[0]).lstrip("-").replace(".episodes", "") in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        (
            "train sac --env.physics.parameters control_delay=2 --env.physics.parameters dead_actuator=1",
            "--env.physics.parameters",
        ),
        ("train fake --env.kwargs g 5 --env.kwargs x 3", "--env.kwargs"),
        ("train fake --steps 5 --eval.objectives mean --eval.objectives=mean", "--eval.objectives"),
        ("sweep --agents sac --agents bc/demo", "--agents"),
        ("sweep --agents sac --set steps=1 --set seed=2", "--set"),
        ("solve model.npz --objective mean --objective cvar:0.1", "--objective"),
        ("plot run --metric regret --metric loss", "--metric"),
        ("evaluate run --seeds 1 --seeds 2", "--seeds"),
        ("bandit new x.json --bounds noise_std 1 --bounds action_weight 1", "--bounds"),
    ],
)
def test_a_list_that_is_given_twice_is_refused_by_every_command(arguments, what, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert cli.main(arguments.split()) == 2
    line = f"surefoot: error: {what} is given twice, and only the last would count; give it once, with all values\n"
    assert capsys.readouterr().err == line
    assert not list(tmp_path.iterdir())


def test_of_an_option_with_one_value_the_last_counts():
    options = ["fake", "--steps", "5", "--num-envs", "2", "--steps=6", "--env.num_envs", "3"]
    run = parse(options)[1].run
    assert (run.steps, run.env.num_envs) == (6, 3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--env.kwargs g 5 g 9", "--env.kwargs: g is given as 5 and as 9; leave one out"),
        ("--env.kwargs g 5 m 1 g 5", "--env.kwargs: g is given as 5 and as 5; leave one out"),
    ],
)
def test_a_key_that_is_given_twice_is_refused(options, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert train("fake", *options.split()) == 2
    assert capsys.readouterr().err == f"surefoot: error: {message}\n"
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        (["train", "sac", "--name", ""], "--name"),
        (["train", "--config", "", "--steps", "5"], "--config"),
        (["train", "sac", "--resume="], "--resume"),
        (["sweep", "--agents", "sac", "--name", ""], "--name"),
        (["report", ""], "an argument"),
        (["evaluate", "run", ""], "an argument"),
    ],
)
def test_an_empty_word_is_refused_whatever_it_stands_for(arguments, what, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert cli.main(arguments) == 2
    assert capsys.readouterr().err == f"surefoot: error: {what} is empty; leave it out, or say what it is to be\n"
    assert not list(tmp_path.iterdir())


def test_debug_shows_where_an_error_comes_from(monkeypatch):
    monkeypatch.setenv("SUREFOOT_DEBUG", "1")
    with pytest.raises(ValueError, match="unknown agent"):
        train("who")


def test_an_error_inside_training_keeps_its_traceback(tmp_path):
    with pytest.raises(ValueError, match="fails as configured"):
        train("fake", *TASK, "--agent.fail-at", 2, "--out", tmp_path)


def test_resume_takes_agent_and_settings_from_the_run(tmp_path, capsys):
    run = tmp_path / "a"
    assert train("fake", *TASK, "--steps", 9, "--out", tmp_path, "--name", "a") == 0
    assert train("--resume", run) == 0
    assert f"{run} is finished; --steps more than 9 resumes it" in capsys.readouterr().out
    assert train("fake", "--resume", run, "--steps", 12) == 0
    assert policy_files.checkpoint_steps(run) == [12]  # of a finished run one full checkpoint stays
    assert policy_files.checkpoint_steps(run, "policy") == [9, 12]
    for wrong, message in [
        (("sac",), f"{run} is of fake, not of sac"),
        (("fake", "--env.id", "Pendulum-v1"), "env.id was 'surefoot/Pendulum-v0', not 'Pendulum-v1'"),
        (("fake", "--preset", "demo"), "started from preset None, not demo; leave --preset out"),
    ]:
        assert train(*wrong, "--resume", run) == 2
        assert message in capsys.readouterr().err


def test_a_resumed_run_stays_where_it_is(tmp_path, capsys):
    assert train("fake", *TASK, "--steps", 9, "--out", tmp_path, "--name", "a") == 0
    capsys.readouterr()
    for name in ("--out", "--name"):
        assert train("--resume", tmp_path / "a", "--steps", 12, name, tmp_path / "b") == 2
        line = f"surefoot: error: {name} has no effect with --resume {tmp_path / 'a'}, whose folder stays; leave it out"
        assert capsys.readouterr().err == line + "\n"
    assert run_folder.last_step(tmp_path / "a") == 9
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_an_existing_folder_is_not_written_over(tmp_path, capsys):
    arguments = ("fake", *TASK, "--steps", 9, "--out", tmp_path, "--name", "a")
    assert train(*arguments) == 0
    assert train(*arguments) == 2
    assert f"--resume {tmp_path / 'a'}, or choose another --name" in capsys.readouterr().err


def test_a_disk_that_fills_up_while_training_is_one_line(tmp_path, command):
    """The kernel refuses to grow a file beyond 400 kB: the padding of the second checkpoint does not fit."""
    import resource

    arguments = (*TASK, "--steps", 9, "--agent.padding", 200_000, "--out", tmp_path, "--name", "a")
    process = command(
        "train", "fake", *arguments, preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, 400_000))
    )
    _, err = process.communicate(timeout=120)
    assert process.returncode == 1, err
    last = err.splitlines()[-1]
    assert last.startswith(f"surefoot: error: {tmp_path}/a/checkpoints/step-000000009.pt: could not be written (")
    assert run_folder.read_meta(tmp_path / "a")["status"] == "failed"


def test_train_py_is_the_same_door():
    entry_point = Path(__file__).resolve().parents[3] / "train.py"
    done = subprocess.run([sys.executable, str(entry_point), "who"], capture_output=True, text=True)
    assert done.returncode == 2
    assert "unknown agent 'who'" in done.stderr
