import json

import gymnasium as gym
import numpy as np
import pytest
import torch

from surefoot import agents
from surefoot.agents.interface import Spaces
from surefoot.envs import EnvConfig, Physics, own_action_space, spaces_of
from surefoot.evaluation.policy_files import save_policy
from surefoot.offline_data import load, read_d4rl, scores, write_d4rl, write_minari
from surefoot.offline_data.d4rl import read_metadata
from surefoot.offline_data.minari_io import open_minari
from surefoot.training.cli import data as commands_data
from surefoot.training.cli.main import main as surefoot
from surefoot.training.config.presets import to_plain
from surefoot.training.config.run import RunConfig


@pytest.fixture(autouse=True)
def stores(tmp_path, monkeypatch):
    monkeypatch.setenv("SUREFOOT_DATA", str(tmp_path / "cache"))
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))


@pytest.fixture
def file(data, tmp_path):
    write_d4rl(tmp_path / "data.hdf5", data, {"seed": 3})
    return tmp_path / "data.hdf5"


def call(*arguments):
    return surefoot(["data", *map(str, arguments)])


def test_overview_names_every_command(capsys):
    assert call("--help") == 0
    overview = capsys.readouterr().out
    assert all(f"  {name}" in overview for name in ("list", "info", "download", "collect", "convert"))
    assert call("lst") == 2
    assert "unknown command 'lst'" in capsys.readouterr().err


@pytest.mark.parametrize("name", sorted(commands_data.COMMANDS))
def test_every_command_has_help(name, capsys):
    assert call(name, "--help") == 0
    assert commands_data.command_help(name)[:40] in " ".join(capsys.readouterr().out.split())


def test_list_shows_names_addresses_scores_and_what_is_here(data, tmp_path, capsys):
    write_d4rl(tmp_path / "cache" / "hopper_medium-v2.hdf5", data)
    call("convert", tmp_path / "cache" / "hopper_medium-v2.hdf5", "minari:toy/line-v0")
    capsys.readouterr()
    assert call("list") == 0
    table = capsys.readouterr().out
    assert "gym_mujoco_v2/FILE" in table
    assert "halfcheetah_medium_replay-v2.hdf5" in table
    call("list", "--json")
    entries = {row["source"]: row for row in json.loads(capsys.readouterr().out)}
    assert entries["d4rl:halfcheetah-medium-v2"]["expert"] == 12135.0
    assert entries["d4rl:hopper-medium-v2"]["local"]
    assert not entries["d4rl:hopper-expert-v2"]["local"]
    assert entries["minari:toy/line-v0"]["local"]


def test_info_of_a_healthy_file(file, capsys):
    assert call("info", file) == 0
    assert "no problems found" in capsys.readouterr().out
    assert call("info", file, "--json") == 0
    assert json.loads(capsys.readouterr().out)["facts"]["episodes"] == 3


def test_info_of_a_sick_file_fails_and_says_why(rows, save, capsys):
    rows["rewards"][2] = np.nan
    assert call("info", save(rows)) == 1
    assert "PROBLEM: rewards: 1 NaN" in capsys.readouterr().out


def test_info_checks_the_fit_to_an_environment(file, capsys):
    assert call("info", file, "--env", "Pendulum-v1") == 1
    assert "observations have shape (2,), the environment's have (3,)" in capsys.readouterr().out
    assert call("info", file, "--env", "Pendulumm-v1") == 2


def test_info_of_a_missing_file_is_one_line(tmp_path, capsys):
    assert call("info", tmp_path / "none.hdf5") == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "no such file" in error


def test_download_fetches_to_the_cache(file, tmp_path, monkeypatch, capsys):
    called = []
    monkeypatch.setattr(
        commands_data, "fetch", lambda url, path, replace: (called.append((url, replace)), path.write_bytes(b"x"))
    )
    (tmp_path / "cache").mkdir()
    assert call("download", "d4rl:hopper-medium-v2") == 0
    assert call("download", "hopper-medium-v2", "--url", "http://mirror/x.hdf5", "--force") == 0
    assert called == [(scores.find_d4rl("hopper-medium-v2").url, False), ("http://mirror/x.hdf5", True)]
    assert "use it as d4rl:hopper-medium-v2" in capsys.readouterr().out
    assert call("download", "hopper") == 2


def test_download_without_a_network_is_one_line(capsys):
    assert call("download", "hopper-medium-v2", "--url", "http://127.0.0.1:9/x.hdf5") == 2
    assert "check the network" in capsys.readouterr().err


def test_a_forced_download_that_fails_leaves_the_file_that_is_there(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("SUREFOOT_DATA", str(tmp_path))
    (tmp_path / "hopper_medium-v2.hdf5").write_bytes(b"good")
    assert call("download", "hopper-medium-v2", "--url", "http://127.0.0.1:9/x.hdf5", "--force") == 2
    assert "check the network" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["hopper_medium-v2.hdf5"]
    assert (tmp_path / "hopper_medium-v2.hdf5").read_bytes() == b"good"


def test_an_interrupted_download_says_that_it_resumes(monkeypatch, capsys):
    def interrupt(*_, replace):
        raise KeyboardInterrupt

    monkeypatch.setattr(commands_data, "fetch", interrupt)
    assert call("download", "hopper-medium-v2") == 130
    assert capsys.readouterr().err.startswith("stopped; `surefoot data download hopper-medium-v2` resumes\n")
    assert call("download", "hopper-medium-v2", "--url", "http://mirror/x", "--force") == 130
    again = "stopped; `surefoot data download hopper-medium-v2 --url http://mirror/x --force` resumes\n"
    assert capsys.readouterr().err.startswith(again)


@pytest.mark.parametrize("format", ["hdf5", "arrow", "parquet"])
def test_there_and_back_loses_nothing(file, data, tmp_path, format, same):
    assert call("convert", file, "minari:toy/line-v0", "--format", format) == 0
    assert call("convert", "minari:toy/line-v0", tmp_path / "back.hdf5") == 0
    same(load("minari:toy/line-v0"), data)
    same(read_d4rl(tmp_path / "back.hdf5"), data)
    kept = json.loads(read_metadata(tmp_path / "back.hdf5")["description"])
    assert kept == {"seed": "3", "converted_from": "data.hdf5"}


def test_convert_keeps_the_numbers_of_actions_and_how_many_there_are(rows, save, tmp_path, same):
    path = save(rows | {"actions": np.arange(10) % 3})
    write_minari("toy/poles/first-v0", read_d4rl(path), action_space=gym.spaces.Discrete(5))
    assert call("convert", "minari:toy/poles/first-v0", "minari:toy/poles/second-v0") == 0
    assert call("convert", "minari:toy/poles/second-v0", tmp_path / "back.hdf5") == 0
    same(read_d4rl(tmp_path / "back.hdf5"), read_d4rl(path))
    assert call("convert", path, "minari:toy/poles/third-v0") == 0
    spaces = [open_minari(f"toy/poles/{name}-v0").action_space for name in ("second", "third")]
    assert spaces == [gym.spaces.Discrete(5), gym.spaces.Discrete(3)]


def test_convert_refuses_what_it_would_lose_or_replace(file, rows, save, tmp_path, capsys):
    assert call("convert", file, file) == 2
    assert "--force" in capsys.readouterr().err
    assert call("convert", file, tmp_path / "data.txt") == 2
    assert "neither minari:ID nor a path that ends in .hdf5" in capsys.readouterr().err
    assert call("convert", file, tmp_path / "other.hdf5", "--format", "arrow") == 2
    assert "--format arrow has no effect on" in capsys.readouterr().err
    rows["next_observations"][4] += 1
    assert call("convert", save(rows, "odd.hdf5"), "minari:toy/odd-v0") == 2
    assert "first in row 4" in capsys.readouterr().err


def test_how_a_d4rl_file_is_read_is_refused_where_there_is_none(file, tmp_path, capsys):
    assert call("convert", file, "minari:toy/line-v0", "--max-episode-steps", "4") == 0
    options = (["--view", "qlearning"], ["--max-episode-steps", "5"])
    calls = [["convert", "minari:toy/line-v0", tmp_path / "back.hdf5", *words] for words in options]
    for words in (*calls, ["info", "minari:toy/line-v0", "--max-episode-steps", "5"]):
        assert call(*words) == 2
        assert "has no effect on minari:toy/line-v0, which is no D4RL file; leave it out" in capsys.readouterr().err
    assert not (tmp_path / "back.hdf5").exists()


@pytest.mark.parametrize("target", ["minari:toy/line-v0", "out.hdf5"])
def test_convert_claims_no_successor_that_its_view_does_not_know(
    rows, save, tmp_path, monkeypatch, capsys, target, same
):
    monkeypatch.chdir(tmp_path)
    del rows["next_observations"]
    assert call("convert", save(rows), target, "--view", "qlearning") == 2
    error = capsys.readouterr().err
    assert f"does not know the successors of 1 terminal rows, which {target} would hold; leave --view out" in error
    assert not (tmp_path / "out.hdf5").exists()
    rows["timeouts"] |= rows["terminals"]
    rows["terminals"][:] = False
    expected = load(save(rows, "timed.hdf5"))
    assert call("convert", "timed.hdf5", target, "--view", "qlearning") == 0
    written = load(target)
    for name in ("obs", "next_obs", "reward", "episode_end"):
        assert torch.equal(getattr(written, name), getattr(expected, name)), name


@pytest.mark.parametrize("limit", ["0", "-5"])
def test_a_time_limit_below_one_is_one_line(file, tmp_path, capsys, limit):
    for words in (["info", file], ["convert", file, tmp_path / "out.hdf5"]):
        assert call(*words, "--max-episode-steps", limit) == 2
        assert f"error: --max-episode-steps is {limit}; it must be from 1 to" in capsys.readouterr().err


@pytest.fixture
def archive(tmp_path):
    """Return an untrained Stable-Baselines3 policy for Pendulum."""
    sb3 = pytest.importorskip("stable_baselines3")
    model = sb3.SAC("MlpPolicy", "Pendulum-v1", policy_kwargs={"net_arch": [8]}, buffer_size=10, seed=0)
    model.save(tmp_path / "policy.zip")
    return tmp_path / "policy.zip"


def test_collect_writes_a_file_with_its_provenance(archive, tmp_path, capsys):
    out = tmp_path / "out.hdf5"
    arguments = ("collect", archive, out, "--env.id", "Pendulum-v1", "--env.num-envs", 2, "--steps", 450)
    assert call(*arguments, "--noise", 0.1, "--seed", 4) == 0
    assert "450 transitions, 4 episodes" in capsys.readouterr().out
    data = read_d4rl(out)
    assert data.episode_lengths().tolist() == [200, 25, 200, 25]
    metadata = read_metadata(out)
    assert (
        metadata.items() >= {"env_id": "Pendulum-v1", "noise_std": "0.1", "seed": "4", "algorithm": "sb3-sac"}.items()
    )
    assert str(tmp_path) not in str(metadata)
    assert call(*arguments) == 2
    assert "exists already" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "does not say which task it is for; give --env.id"),
        (
            ["--env.id", "Hopper-v5"],
            "gives actions Box(1,) in [-2, 2], but Hopper-v5 takes Box(3,) in [-1, 1]",
        ),
        (["--env.id", "Pendulum-v1", "--stochastic"], "--stochastic is for runs of ours"),
    ],
)
def test_collect_refuses_what_cannot_work(archive, tmp_path, capsys, options, message):
    assert call("collect", archive, tmp_path / "out.hdf5", "--steps", 10, *options) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out.hdf5").exists()


@pytest.mark.parametrize("device", ["gpu", "cuda:99"])
def test_a_device_that_is_not_there_is_no_damaged_file(device, archive, tmp_path, capsys):
    assert call("collect", archive, tmp_path / "out.hdf5", "--env.id", "Pendulum-v1", "--device", device) == 2
    error = capsys.readouterr().err
    assert "--device is 'gpu'; choose auto" in error or "device cuda:99 was requested, but PyTorch sees" in error
    assert "damaged" not in error


def test_a_function_has_no_distribution_to_sample_from(tmp_path, capsys, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "zero_policy.py").write_text("def act(observations):\n    return observations[:, :1] * 0\n")
    task = ["--env.id", "Pendulum-v1", "--steps", 10]
    assert call("collect", "zero_policy:act", tmp_path / "out.hdf5", *task, "--stochastic") == 2
    assert "zero_policy:act: --stochastic is for runs of ours; use --noise or" in capsys.readouterr().err
    assert call("collect", "zero_policy:act", tmp_path / "out.hdf5", *task, "--device", "auto") == 0


def test_collect_takes_the_task_of_a_run_in_its_evaluation_dynamics(tmp_path):
    sac = agents.get("sac")
    simulator = EnvConfig("Pendulum-v1", physics=Physics(action_noise=0.5), max_episode_steps=50)
    config = RunConfig(agent=sac.default, env=simulator)
    spaces = Spaces(*spaces_of(simulator))
    policy = sac.make_policy(config.agent, spaces)
    save_policy(
        tmp_path / "policy-000000010.pt", to_plain("sac", config), spaces, own_action_space(simulator), 10, policy
    )
    returned = {}
    for name, options in {"mean": [], "sampled": ["--stochastic"]}.items():
        out = tmp_path / f"{name}.hdf5"
        assert call("collect", tmp_path / "policy-000000010.pt", out, "--steps", 100, *options) == 0
        returned[name] = read_d4rl(out)
        task = json.loads(read_metadata(out)["env"])
        assert (task["id"], task["max_episode_steps"], task["physics"]["action_noise"]) == ("Pendulum-v1", 50, 0.0)
    mean = returned["mean"]
    assert mean.episode_lengths().tolist() == [50, 50]
    torch.testing.assert_close(policy.act(mean.obs).detach(), mean.action)
    assert not torch.equal(returned["sampled"].action[:1], mean.action[:1])


def test_collect_without_a_policy_is_one_line(tmp_path, capsys):
    assert call("collect", tmp_path / "none", tmp_path / "out.hdf5", "--env.id", "Pendulum-v1") == 2
    assert "none" in capsys.readouterr().err
