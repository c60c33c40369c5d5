"""What can be loaded, what is refused, and that an archive's actions arrive in our bounds."""

import base64
import json
import pickle
import re
import sys
import zipfile

import gymnasium as gym
import numpy as np
import old_archives
import pytest
import stable_baselines3 as sb3
import torch
from old_archives import Trap
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy

from surefoot.agents.interface import Spaces
from surefoot.envs import EnvConfig, Physics
from surefoot.envs.spaces import describe
from surefoot.evaluation.episodes import evaluate
from surefoot.evaluation.policies import fit, load_any, require_fit
from surefoot.evaluation.policy_files import load_policy


def random_obs(n=6):
    return torch.randn(n, 3, generator=torch.Generator().manual_seed(0))


def write_archive(path, data):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("data", json.dumps(data))


def trapped_data(tmp_path):
    code = base64.b64encode(pickle.dumps(Trap(tmp_path / "sprung"))).decode()
    policy_class = {":serialized:": code, "__module__": "stable_baselines3.sac.policies"}
    return {"policy_class": policy_class, "num_timesteps": 1}


@pytest.mark.parametrize("as_file", [False, True])
def test_a_run_and_its_policy_file_are_the_same_policy(make_run, as_file):
    run = make_run("a", seed=3)
    loaded = load_any(run / "checkpoints" / "policy-000000100.pt" if as_file else run)
    torch.testing.assert_close(loaded.act(random_obs()), load_policy(run).policy.act(random_obs()), rtol=0, atol=0)
    assert (loaded.agent_name, loaded.step, loaded.env_config.id) == ("sac", 100, "Pendulum-v1")
    assert [space.shape for space in loaded.spaces] == [(3,), (1,)]


@pytest.mark.parametrize("checkpoint", ["best", "100", 100])
@pytest.mark.parametrize("kind", ["file", "archive", "function", "hub"])
def test_a_checkpoint_is_refused_of_what_has_but_one_policy(make_run, tmp_path, kind, checkpoint):
    run = make_run("a")
    (tmp_path / "archive.zip").write_bytes(b"never opened")
    names = {"file": run / "checkpoints" / "policy-000000100.pt", "archive": tmp_path / "archive.zip"}
    names |= {"function": "math:sin", "hub": "hf:org/repo"}
    message = f"{names[kind]}: --checkpoint {checkpoint} chooses among those of a run folder, and this is none; leave"
    with pytest.raises(ValueError, match=re.escape(message)):
        load_any(names[kind], checkpoint=checkpoint)
    with pytest.raises(FileNotFoundError, match="no run folder"):
        load_any(tmp_path / "absent.pt", checkpoint=checkpoint)
    assert load_any(run, checkpoint=100).step == 100


def test_a_policy_is_brought_to_the_device_that_it_is_asked_for(make_run, monkeypatch):
    run, seen = make_run("a"), []
    monkeypatch.setattr(torch.nn.Module, "to", lambda self, device: seen.append((type(self).__name__, device)) or self)
    policy = load_policy(run, device="cpu").policy
    assert seen[-1] == (type(policy).__name__, "cpu")


def test_evaluation_defaults_to_the_real_dynamics_of_the_run(make_run):
    run = make_run("a", env=EnvConfig("InvertedPendulum-v5", Physics(gravity=2.0), num_envs=4))
    loaded = load_any(run)
    assert loaded.env_config == EnvConfig("InvertedPendulum-v5")


@pytest.mark.parametrize(
    ("task", "message"),
    [
        ("CartPole-v1", r"Box\(4,\) to actions Discrete\(3\), but CartPole-v1 has .* Discrete\(2\)"),
        ("Reacher-v5", "Box"),
    ],
)
def test_a_policy_is_refused_where_it_does_not_fit(task, message):
    spaces = Spaces(gym.spaces.Box(-1, 1, (4,)), gym.spaces.Discrete(3))
    with pytest.raises(ValueError, match=message):
        require_fit("model.zip", spaces, EnvConfig(task))


@pytest.mark.parametrize("starts", [(0, 1), (1, 0), (2, -1)])
def test_a_policy_is_refused_where_its_actions_are_numbered_from_elsewhere(starts, monkeypatch):
    own, other = (gym.spaces.Discrete(3, start=start) for start in starts)
    seen = gym.spaces.Box(-1, 1, (4,))
    monkeypatch.setattr(fit, "spaces_of", lambda task: (seen, other))
    wanted, given = (re.escape(describe(space)) for space in (own, other))
    with pytest.raises(ValueError, match=f"to actions {wanted}, but .* actions {given}"):
        require_fit("model.zip", Spaces(seen, own), EnvConfig("CartPole-v1"))
    monkeypatch.setattr(fit, "spaces_of", lambda task: (seen, own))
    require_fit("model.zip", Spaces(seen, own), EnvConfig("CartPole-v1"))


def test_an_archive_earns_what_the_library_measures(tmp_path):
    model = sb3.TD3("MlpPolicy", "Pendulum-v1", policy_kwargs={"net_arch": [8]}, device="cpu", seed=0, buffer_size=10)
    model.save(tmp_path / "model.zip")
    ours = evaluate(load_any(tmp_path / "model.zip").act, EnvConfig("Pendulum-v1"), episodes=2, seed=5)
    env = make_vec_env("Pendulum-v1", n_envs=2, seed=5)
    returns, lengths = evaluate_policy(model, env, n_eval_episodes=2, return_episode_rewards=True)
    np.testing.assert_allclose(ours.returns, returns, rtol=1e-4)
    np.testing.assert_array_equal(ours.lengths, lengths)


def test_no_code_in_an_archive_runs_without_the_flag(tmp_path):
    write_archive(tmp_path / "evil.zip", trapped_data(tmp_path))
    with pytest.raises(ValueError, match=r"evil\.zip.*policy\.pth.*runs code.*--allow-pickle"):
        load_any(tmp_path / "evil.zip")
    assert not (tmp_path / "sprung").exists()
    # With the flag the same file does spring its trap: what was refused was real.
    with pytest.raises(Exception, match=r".*"):  # whatever the library makes of it
        load_any(tmp_path / "evil.zip", allow_pickle=True)
    assert (tmp_path / "sprung").exists()


def test_an_archive_that_can_be_read_is_not_unpickled_with_the_flag_either(tmp_path):
    data = old_archives.sac_data() | {"lr_schedule": trapped_data(tmp_path)["policy_class"]}
    old_archives.write(tmp_path / "Pendulum-v1.zip", data)
    assert load_any(tmp_path / "Pendulum-v1.zip", allow_pickle=True).agent_name == "sb3-sac"
    assert not (tmp_path / "sprung").exists()


def test_a_pickle_named_as_a_policy_file_is_refused(tmp_path):
    (tmp_path / "evil.pt").write_bytes(pickle.dumps(Trap(tmp_path / "sprung")))
    with pytest.raises(ValueError, match=r"evil\.pt"):
        load_any(tmp_path / "evil.pt")
    torch.save({"format": 1, "policy": Trap(tmp_path / "sprung")}, tmp_path / "evil2.pt")
    with pytest.raises(ValueError, match="refused"):
        load_any(tmp_path / "evil2.pt")
    assert not (tmp_path / "sprung").exists()


def test_unsupported_archives_are_named_before_anything_is_unpickled(tmp_path):
    data = trapped_data(tmp_path)
    write_archive(
        tmp_path / "lstm.zip", data | {"policy_class": {"__module__": "sb3_contrib.common.recurrent.policies"}}
    )
    with pytest.raises(ValueError, match=r"sb3_contrib\.common\.recurrent\.policies; known are"):
        load_any(tmp_path / "lstm.zip", allow_pickle=True)
    (tmp_path / "page.zip").write_text("<html>")
    with pytest.raises(ValueError, match="not a Stable-Baselines3 archive"):
        load_any(tmp_path / "page.zip", allow_pickle=True)
    assert not (tmp_path / "sprung").exists()


def test_what_is_not_there_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"gone: no run folder, policy file \(\.pt\)"):
        load_any(tmp_path / "gone")


def test_without_the_library_the_extra_is_named(tmp_path, monkeypatch):
    write_archive(tmp_path / "model.zip", trapped_data(tmp_path))
    monkeypatch.setitem(sys.modules, "stable_baselines3", None)
    with pytest.raises(ImportError, match=r"surefoot\[sb3\]"):
        load_any(tmp_path / "model.zip", allow_pickle=True)
