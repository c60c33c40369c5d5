"""Archives of the library: the same actions as its own `predict`, without it; and what is refused."""

import io
import json
import zipfile

import gymnasium as gym
import numpy as np
import old_archives
import pytest
import sb3_contrib
import stable_baselines3 as sb3
import torch
from gymnasium.envs.classic_control import CartPoleEnv
from sb3_contrib.common.wrappers import TimeFeatureWrapper
from stable_baselines3.common.vec_env import DummyVecEnv, VecFrameStack, VecNormalize

from surefoot.envs import EnvConfig
from surefoot.evaluation.policies import fitted, for_task, load_any

LARGE = {"buffer_size": 10, "learning_starts": 100}
ELU = {"activation_fn": torch.nn.ELU}
GSDE = {"use_sde": True}


class Pictures(gym.Env):
    action_space = gym.spaces.Discrete(3)

    def __init__(self, shape=(3, 36, 36)):
        self.observation_space = gym.spaces.Box(0, 255, shape, np.uint8)

    def reset(self, *, seed=None, options=None):
        return np.zeros(self.observation_space.shape, np.uint8), {}


def find(name):
    return getattr(sb3, name, None) or getattr(sb3_contrib, name)


def trained(name, env, policy="MlpPolicy", net_arch=(8,), policy_kwargs=None, **settings):
    """A model with weights that are all different and large enough that some actions are clipped."""
    kwargs = {"net_arch": list(net_arch) if isinstance(net_arch, tuple) else net_arch, **(policy_kwargs or {})}
    if policy == "LinearPolicy":
        del kwargs["net_arch"]
    model = find(name)(policy, env, policy_kwargs=kwargs, device="cpu", seed=0, **settings)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.policy.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
    return model


def same_actions(model, path, task):
    """Assert that archive and library agree on fresh observations, in the task's own units."""
    model.save(path)
    opened = fitted(for_task(load_any(path), task), EnvConfig(task))
    shape = model.observation_space.shape
    obs = np.random.default_rng(0).normal(0, 2, (60, *shape)).astype(np.float32)
    theirs, _ = model.predict(obs, deterministic=True)
    ours = opened.act(torch.from_numpy(obs).flatten(1))
    if isinstance(opened.own_action, gym.spaces.Box):
        low, high = opened.own_action.low, opened.own_action.high
        np.testing.assert_allclose(low + (ours.numpy() + 1) * (high - low) / 2, theirs, atol=1e-6)
    else:
        assert ours.tolist() == theirs.tolist()
    assert len(np.unique(theirs)) > 1
    return opened


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("SAC", LARGE),
        ("SAC", LARGE | {"net_arch": {"pi": [8, 4], "qf": [6]}, "policy_kwargs": ELU}),
        ("SAC", LARGE | GSDE),
        ("SAC", LARGE | GSDE | {"policy_kwargs": {"clip_mean": 0.1}}),
        ("TQC", LARGE | {"net_arch": (8, 8, 8)}),
        ("TD3", LARGE | {"net_arch": {"pi": [8], "qf": [6]}}),
        ("DDPG", LARGE | {"policy_kwargs": {"activation_fn": torch.nn.Tanh}}),
        ("PPO", {}),
        ("PPO", GSDE | {"net_arch": {"pi": [8, 4], "vf": [6]}}),
        ("PPO", GSDE | {"policy_kwargs": {"squash_output": True}}),
        ("A2C", {"policy_kwargs": ELU}),
        ("TRPO", {"net_arch": ()}),
        ("ARS", {}),
        ("ARS", {"policy": "LinearPolicy"}),
        ("ARS", {"policy_kwargs": {"squash_output": False}}),
    ],
)
def test_box_actions_are_those_of_the_library(name, settings, tmp_path):
    opened = same_actions(trained(name, "Pendulum-v1", **settings), tmp_path / "model.zip", "Pendulum-v1")
    assert opened.agent_name == f"sb3-{name.lower()}"
    assert (opened.training_seed, opened.step, len(opened.sha256)) == (0, 0, 64)


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("DQN", LARGE | {"net_arch": (8, 8)}),
        ("QRDQN", LARGE | {"policy_kwargs": {"n_quantiles": 5}}),
        ("PPO", {}),
        ("A2C", {"net_arch": (8, 8)}),
        ("TRPO", {}),
        ("ARS", {}),
    ],
)
def test_discrete_actions_are_those_of_the_library(name, settings, tmp_path):
    same_actions(trained(name, "CartPole-v1", **settings), tmp_path / "model.zip", "CartPole-v1")


def test_discrete_actions_that_begin_elsewhere_are_refused(tmp_path, monkeypatch):
    """The library counts from 0, so the archive of another task would push to the other side."""
    trained("A2C", "CartPole-v1", net_arch=(8,)).save(tmp_path / "model.zip")
    monkeypatch.setitem(gym.registry, "Later-v0", gym.envs.registration.EnvSpec("Later-v0", Later))
    message = (
        r"gives actions Discrete\(2\), but Later-v0 takes Discrete\(2, start=1\); choose a fitting task with --env\.id$"
    )
    with pytest.raises(ValueError, match=message):
        fitted(load_any(tmp_path / "model.zip"), EnvConfig("Later-v0"))


class Later(CartPoleEnv):
    """CartPole whose actions are 1 and 2."""

    def __init__(self):
        super().__init__()
        self.action_space = gym.spaces.Discrete(2, start=1)


@pytest.mark.parametrize(("name", "settings"), [("PPO", {"n_steps": 8}), ("DQN", LARGE)])
def test_convolutions_are_those_of_the_library(name, settings, tmp_path, monkeypatch):
    kwargs = {"features_extractor_kwargs": {"features_dim": 6}}
    model = trained(name, Pictures(), "CnnPolicy", policy_kwargs=kwargs, **settings)
    model.save(tmp_path / "model.zip")
    pictures = np.random.default_rng(0).integers(0, 256, (20, 3, 36, 36), dtype=np.uint8)
    theirs, _ = model.predict(pictures, deterministic=True)
    opened = load_any(tmp_path / "model.zip")
    assert opened.act(torch.from_numpy(pictures).flatten(1).float()).tolist() == theirs.tolist()
    for shape, shown in (((3, 36, 36), pictures), ((36, 36, 3), pictures.transpose(0, 2, 3, 1)), ((36, 3, 36), None)):
        task = EnvConfig(f"test/Pictures{shape[0]}{shape[1]}-v0", flatten=True)
        monkeypatch.setitem(
            gym.registry, task.id, gym.envs.registration.EnvSpec(task.id, Pictures, kwargs={"shape": shape})
        )
        if shown is None:
            with pytest.raises(ValueError, match=r"sees pictures \(3, 36, 36\), but .* shows Box\(36, 3, 36\)"):
                fitted(opened, task)
        else:
            vectors = torch.from_numpy(shown.reshape(20, -1)).float()
            assert fitted(opened, task).act(vectors).tolist() == theirs.tolist()


# --- wrappers ---------------------------------------------------------------------------------------------------------


def zoo_env(time_feature, stack, normalize_last=False):
    """The task as RL Zoo wraps it."""

    def make():
        env = gym.make("Pendulum-v1")
        return TimeFeatureWrapper(env) if time_feature else env

    env = DummyVecEnv([make])
    if stack > 1 and normalize_last:
        env = VecFrameStack(env, stack)
    env = VecNormalize(env)
    return VecFrameStack(env, stack) if stack > 1 and not normalize_last else env


@pytest.mark.parametrize(
    ("time_feature", "stack", "normalize_last"),
    [(True, 1, False), (False, 3, False), (True, 2, False), (False, 3, True), (False, 1, False)],
)
def test_wrappers_show_the_network_what_the_library_shows(time_feature, stack, normalize_last, tmp_path):
    env = zoo_env(time_feature, stack, normalize_last)
    model = trained("PPO", env, net_arch=(8,), n_steps=64)
    env.reset()
    for _ in range(30):  # until the statistics are some
        env.step(np.ones((1, 1)))
    normaliser = env if isinstance(env, VecNormalize) else env.venv
    normaliser.training = False
    model.save(tmp_path / "Pendulum-v1.zip")
    normaliser.save(str(tmp_path / "vecnormalize.pkl"))
    wrapper = {"env_wrapper": "sb3_contrib.common.wrappers.TimeFeatureWrapper"} if time_feature else {}
    old_archives.write_config(tmp_path, normalize=True, **wrapper, **({"frame_stack": stack} if stack > 1 else {}))
    opened = load_any(tmp_path / "Pendulum-v1.zip")
    assert len(opened.wrappers) == time_feature + (stack > 1) + 1
    opened = fitted(opened, opened.env_config)
    env.seed(3)
    theirs = env.reset()
    if hasattr(opened.act, "reset"):
        opened.act.reset()
    for step in range(203):  # beyond the end of the first episode
        wanted, _ = model.predict(theirs, deterministic=True)
        action = opened.act(torch.from_numpy(last_seen(env))[None])
        np.testing.assert_allclose(2 * action.numpy(), wanted, atol=2e-5, err_msg=str(step))
        theirs, _, ended, _ = env.step(wanted)
        if hasattr(opened.act, "observe"):
            opened.act.observe(torch.zeros(1), torch.from_numpy(ended))


def last_seen(env):
    """The plain observation that the first environment showed last."""
    return np.float32(env.unwrapped.envs[0].unwrapped._get_obs())


def test_the_statistics_are_asked_for_and_never_guessed(tmp_path):
    path = old_archives.write(tmp_path / "Pendulum-v1.zip")
    plain = load_any(path).act(torch.ones(1, 3))
    (tmp_path / "config.yml").write_text("normalize: true\n")
    with pytest.raises(ValueError, match=r"behind VecNormalize, and neither vecnormalize\.pkl .* --normalizer FILE"):
        load_any(path)
    elsewhere = tmp_path / "statistics.pkl"
    elsewhere.write_bytes(old_archives.old_statistics(np.full(3, 0.5), np.full(3, 0.25)))
    given = load_any(path, normalizer=elsewhere)
    assert given.wrappers == ("normalised",)
    torch.testing.assert_close(given.act(torch.ones(1, 3)), plain, rtol=0, atol=1e-6)  # (1 - 0.5) / 0.5
    (tmp_path / "config.yml").write_text("normalize: dict(norm_obs=False, norm_reward=True)\n")
    elsewhere.rename(tmp_path / "vecnormalize.pkl")
    with pytest.raises(ValueError, match=r"config\.yml names no normalisation; add --normalizer"):
        load_any(path)
    assert load_any(path, normalizer=tmp_path.__class__("none")).wrappers == ()
    (tmp_path / "config.yml").unlink()
    assert load_any(path).wrappers == ("normalised",)  # it lies beside it, and nothing speaks against it


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ("env_wrapper: gym_minigrid.wrappers.FlatObsWrapper", r"FlatObsWrapper is not known; known is TimeFeature"),
        ("env_wrapper:\n- rl_zoo3.wrappers.HistoryWrapper:\n    horizon: 2", "HistoryWrapper.* is not known"),
        ("vec_env_wrapper: stable_baselines3.common.vec_env.VecMonitor", "vec_env_wrapper is .* not known"),
        ("frame_stack: many", "frame_stack is many"),
        ("frame_stack: 2", r"sees 3 numbers, which are not 2 observations"),
        ("[1, 2", r"config\.yml: no mapping of settings"),
        ("just text", r"config\.yml: no mapping of settings"),
    ],
)
def test_a_wrapper_that_is_not_known_is_refused(config, message, tmp_path):
    (tmp_path / "config.yml").write_text(config + "\n")
    with pytest.raises(ValueError, match=message) as caught:
        load_any(old_archives.write(tmp_path / "Pendulum-v1.zip"))
    assert "\n" not in str(caught.value)


def test_yaml_tags_of_python_run_nothing(tmp_path):
    (tmp_path / "config.yml").write_text(f"policy: !!python/object/apply:os.mkdir ['{tmp_path}/sprung']\n")
    load_any(old_archives.write(tmp_path / "Pendulum-v1.zip"))
    assert not (tmp_path / "sprung").exists()


# --- the task ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "folder", "task"),
    [
        ("HalfCheetah-v3.zip", "a", "HalfCheetah-v5"),
        ("ppo-Pendulum-v1.zip", "a", "Pendulum-v1"),
        ("best_model.zip", "Hopper-v4_1", "Hopper-v5"),
        ("model.zip", "a", None),
        ("NoSuchTask-v9.zip", "a", None),
    ],
)
def test_the_task_is_that_of_the_name(name, folder, task, tmp_path):
    (tmp_path / folder).mkdir()
    opened = load_any(old_archives.write(tmp_path / folder / name))
    assert (opened.env_config and opened.env_config.id) == task


def test_the_arguments_beside_an_archive_name_its_task(tmp_path):
    (tmp_path / "args.yml").write_text("env: Walker2d-v3\n")
    (tmp_path / "env_kwargs.yml").write_text("forward_reward_weight: 2.0\n")
    opened = load_any(old_archives.write(tmp_path / "Pendulum-v1.zip"))
    assert (opened.env_config.id, opened.trained_on) == ("Walker2d-v5", "Walker2d-v3")
    assert opened.env_config.kwargs == {"xml_file": "walker2d.xml", "forward_reward_weight": 2.0}


@pytest.mark.parametrize(
    ("data", "task", "message"),
    [
        ({}, "Acrobot-v1", r"gives actions Box\(1,\) in \[-2, 2\], but Acrobot-v1 takes Discrete\(3\)"),
        ({}, "MountainCarContinuous-v0", r"in \[-2, 2\], but MountainCarContinuous-v0 takes Box\(1,\) in \[-1, 1\]"),
        ({"obs": 5, "bound": "1."}, "MountainCarContinuous-v0", r"sees Box\(5,\), but .* shows Box\(2,\)"),
        ({"obs": 3, "bound": "1."}, "MountainCarContinuous-v0", "one more may be a time feature"),
        ({"obs": 111, "act": 8, "bound": "1."}, "Ant-v5", r"name that: --env\.id Ant-v3"),
    ],
)
def test_a_policy_for_another_task_is_refused_with_its_shapes(data, task, message, tmp_path):
    weights = old_archives.sac_weights(data.get("obs", 3), data.get("act", 1))
    opened = load_any(old_archives.write(tmp_path / "model.zip", old_archives.sac_data(**data), weights))
    with pytest.raises(ValueError, match=message):
        fitted(for_task(opened, task), EnvConfig(task))


# --- what is refused --------------------------------------------------------------------------------------------------


def weights_with(**changes):
    return {**old_archives.sac_weights(), **{name.replace("__", "."): value for name, value in changes.items()}}


@pytest.mark.parametrize(
    ("data", "weights", "message"),
    [
        ({"policy_kwargs": {"net_arch": [8]}}, None, r"weights have hidden layers \[8, 8\], its settings say \[8\]"),
        ({"policy_kwargs": {"activation_fn": "<class 'my.Sine'>"}}, None, r"its activation is <class 'my\.Sine'>"),
        ({"observation_space": old_archives.box(4)}, None, r"first layer \(8, 3\) does not take observations \(4,\)"),
        ({"action_space": old_archives.box(2, "-1.", "1.")}, None, "has 1 outputs, its action space 2"),
        ({"action_space": old_archives.box(1, "?", "?")}, None, "does not say the bounds of its actions"),
        ({"action_space": old_archives.box(1)}, None, "does not say the bounds of its actions"),
        ({"observation_space": old_archives.old_space("dict.Dict")}, None, r"observation space is .*dict\.Dict"),
        ({"observation_space": None}, None, "does not say its observation space"),
        ({"action_space": old_archives.old_space("discrete.Discrete", n="2", start="1")}, None, "starts at 1"),
        ({}, weights_with(actor__extra__weight=torch.zeros(2)), r"weights 'actor\.extra\.weight' belong to no network"),
        ({}, weights_with(actor__mu__weight=torch.zeros(8)), r"no linear layer 'actor\.mu'"),
        ({}, weights_with(actor__mu__weight=torch.full((1, 8), torch.nan)), "not finite"),
        ({}, weights_with(actor__mu__bias=torch.zeros(1).expand(1)), None),
        ({}, [torch.zeros(1)], "no mapping of names to tensors"),
    ],
)
def test_weights_and_text_must_agree(data, weights, message, tmp_path):
    path = old_archives.write(tmp_path / "model.zip", old_archives.sac_data(**data), weights)
    if message is None:
        load_any(path)
        return
    with pytest.raises(ValueError, match=message) as caught:
        load_any(path)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


def rezipped(path, compression, **claims):
    """Write the entries of an archive again; `claims` are sizes that the directory gives for entries."""
    with zipfile.ZipFile(path) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in entries.items():
            archive.writestr(name, content)
        for name, size in claims.items():
            archive.getinfo(name).file_size = size
    return path


def test_an_archive_that_was_zipped_again_is_the_same(tmp_path):
    path = old_archives.write(tmp_path / "Pendulum-v1.zip")
    before = load_any(path).act(torch.ones(1, 3))
    assert torch.equal(load_any(rezipped(path, zipfile.ZIP_DEFLATED)).act(torch.ones(1, 3)), before)


@pytest.mark.parametrize("name", ["model", "model.pt", "model.onnx"])
def test_an_archive_that_was_renamed_is_the_same(name, tmp_path):
    path = old_archives.write(tmp_path / "Pendulum-v1.zip")
    before = load_any(path).act(torch.ones(1, 3))
    assert torch.equal(load_any(path.rename(tmp_path / name)).act(torch.ones(1, 3)), before)


def test_an_archive_that_claims_ten_gigabytes_is_refused(tmp_path):
    path = rezipped(old_archives.write(tmp_path / "model.zip"), zipfile.ZIP_DEFLATED, data=10 * 2**30)
    with pytest.raises(ValueError, match=r"not a Stable-Baselines3 archive \(data claims 10,737,418,240 bytes in"):
        load_any(path)


def test_a_storage_that_claims_more_than_it_holds_is_refused(tmp_path):
    path = old_archives.write(tmp_path / "model.zip")
    with zipfile.ZipFile(path) as archive:
        content = archive.read("policy.pth")
    forged = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as inner, zipfile.ZipFile(forged, "w") as written:
        for name in inner.namelist():
            entry = inner.read(name)
            if name.endswith("data.pkl"):
                assert b"K\x18" in entry  # the 24 numbers of the first layer
                entry = entry.replace(b"K\x18", b"J\x00\x00\x00\x40")
            written.writestr(name, entry)
    old_archives.write(path, **{"policy.pth": forged.getvalue()})
    with pytest.raises(ValueError, match=r"storage \d+ claims 1073741824 numbers in 96 bytes"):
        load_any(path)


@pytest.mark.parametrize("legacy", [False, True])
def test_a_damaged_archive_is_one_line(legacy, tmp_path):
    buffer = io.BytesIO()
    torch.save(old_archives.sac_weights(), buffer, _use_new_zipfile_serialization=not legacy)
    path = old_archives.write(tmp_path / "Pendulum-v1.zip", **{"policy.pth": buffer.getvalue()})
    whole, generator = path.read_bytes(), np.random.default_rng(0)
    before = load_any(path).act(torch.ones(1, 3))
    for cut in generator.integers(0, len(whole), 25):
        path.write_bytes(whole[:cut])
        with pytest.raises(ValueError, match=r"Pendulum-v1\.zip") as caught:
            load_any(path)
        assert "\n" not in str(caught.value)
    for _ in range(60):  # some changes hit what nobody reads
        changed = bytearray(whole)
        for place in generator.integers(0, len(whole), 4):
            changed[place] = generator.integers(256)
        path.write_bytes(changed)
        outcome = outcome_of(path)
        assert isinstance(outcome, str) or torch.equal(outcome, before)


def outcome_of(path):
    try:
        return load_any(path).act(torch.ones(1, 3))
    except ValueError as error:
        assert "\n" not in str(error)  # noqa: PT017 - whether there is one is not known
        return str(error)


def test_data_without_a_class_is_no_archive(tmp_path):
    path = old_archives.write(tmp_path / "model.zip", {"learning_rate": 1})
    with pytest.raises(ValueError, match="its data name no policy class"):
        load_any(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("data", json.dumps([1]))
    with pytest.raises(ValueError, match="its data name no policy class"):
        load_any(path)
