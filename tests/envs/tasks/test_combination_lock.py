"""The combination locks against the tables and closed forms of docs/derivations/hnpg.md §8 (E8, E9, E13)."""

import math

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env
from torch.testing import assert_close

from surefoot.envs import CombinationLock, EnvConfig, ImageLock, make_single, make_vec
from surefoot.envs.tasks.combination_lock import hadamard, observation_width, synthetic_embeddings

ID = "surefoot/CombinationLock-v0"
P_STAR = math.exp(10) / (math.exp(10) + 9)


def rollout(env, act, *, seed=0):
    """Return (N,) returns, rewards (H, N) and the flags of the last step."""
    env.reset(seed=seed)
    rewards = []
    for _ in range(env.horizon):
        _, reward, terminated, truncated, _ = env.step(act(env))
        rewards.append(reward)
    assert bool(terminated.all())
    assert not truncated.any()
    return torch.stack(rewards).sum(0), torch.stack(rewards)


def right(env):
    return env.behaviour(0.0, torch.Generator())


def uniform(env):
    return torch.zeros(env.num_envs, 10)


@pytest.mark.parametrize(("horizon", "width"), [(3, 8), (5, 16), (10, 16), (15, 32), (20, 32), (30, 64), (50, 64)])
def test_observation_widths(horizon, width):
    assert observation_width(horizon) == width
    assert make_vec(EnvConfig(ID, kwargs={"horizon": horizon})).single_observation_space.shape == (width,)


def test_hadamard_is_scipys():
    expected = torch.tensor([[1, 1, 1, 1], [1, -1, 1, -1], [1, 1, -1, -1], [1, -1, -1, 1]]).float()
    assert_close(hadamard(4), expected)
    assert_close(hadamard(16) @ hadamard(16), 16 * torch.eye(16))


def test_without_noise_the_rotation_gives_latent_and_step_back():
    env = CombinationLock(50, horizon=5, noise=0.0)
    obs, _ = env.reset(seed=0)
    state = env._state
    for h in range(6):
        z = obs @ hadamard(16) / 16
        latent = torch.nn.functional.one_hot(state[0], 3).float()
        expected = torch.cat([latent, torch.zeros(50, 13)], 1)
        expected[:, 3 + h] = 1.0
        assert_close(z, expected)
        if h < 5:
            state, _, _ = env.advance(env._state, uniform(env))
            env._state, obs = state, env.observe(state)


def test_noise_is_on_the_first_coordinates_only_and_fresh():
    env = CombinationLock(20_000, horizon=5)
    obs, _ = env.reset(seed=0)
    z = obs @ hadamard(16) / 16
    assert_close(z[:, 2].std(), torch.tensor(0.1), rtol=0.03, atol=0)
    assert_close(z[:, 8:], torch.zeros(20_000, 8), rtol=0, atol=1e-6)
    assert_close(obs[:, 3].var(), torch.tensor(8 * 0.01 + 4 * 0.25), rtol=0.6, atol=0)
    again, _ = env.reset()
    assert not torch.equal(again, obs)


@pytest.mark.parametrize("mode", ["terminal", "transition"])
def test_uniform_actions_succeed_once_in_ten_to_the_horizon(mode):
    returns, _ = rollout(CombinationLock(40_000, horizon=2, reward_mode=mode), uniform)
    wins = (returns == 1).float().mean().item()
    assert wins == pytest.approx(0.01, abs=3 * math.sqrt(0.01 * 0.99 / 40_000))
    failed = returns[returns < 1]
    assert failed.mean().item() == pytest.approx(0.05, abs=3 * 0.05 / math.sqrt(len(failed)))
    assert_close(failed.unique(), torch.tensor([0.0, 0.1]))


def test_right_actions_succeed_as_often_as_the_temperature_lets_them():
    returns, _ = rollout(CombinationLock(100_000, horizon=5), right)
    p = P_STAR**5
    assert (returns == 1).float().mean().item() == pytest.approx(p, abs=3 * math.sqrt(p * (1 - p) / 100_000))
    certain, _ = rollout(CombinationLock(1000, horizon=5), lambda env: 100 * right(env))
    assert bool((certain == 1).all())  # unbounded actions reach further: nothing clips them


def test_the_modes_pay_the_bait_at_different_times():
    def wrong_at_first(env):
        return -100 * right(env) if env._state[1][0] == 0 else right(env)

    _, transition = rollout(CombinationLock(10_000, horizon=3, reward_mode="transition"), wrong_at_first)
    _, terminal = rollout(CombinationLock(10_000, horizon=3), wrong_at_first)
    assert transition.mean(1).tolist() == [pytest.approx(0.05, abs=0.002), 0.0, 0.0]
    assert terminal.mean(1).tolist() == [0.0, 0.0, pytest.approx(0.05, abs=0.002)]


@pytest.mark.parametrize(("horizon", "success", "value"), [(5, 0.3700, 0.4015), (10, 0.3878, 0.4185)])
def test_the_behaviour_succeeds_as_often_as_the_closed_form_says(horizon, success, value):
    env = CombinationLock(20_000, horizon=horizon)
    generator = torch.Generator().manual_seed(1)
    returns, _ = rollout(env, lambda env: env.behaviour(env.behaviour_epsilon, generator))
    assert ((1 - 1 / horizon) * P_STAR + 0.1 / horizon) ** horizon == pytest.approx(success, abs=5e-5)
    assert (returns == 1).float().mean().item() == pytest.approx(success, abs=3 * math.sqrt(success / 20_000))
    assert returns.mean().item() == pytest.approx(value, abs=0.011)


def test_the_authors_constants_are_options():
    def wrong(env):
        return -100 * right(env)

    env = CombinationLock(20_000, horizon=1, actions=3, anti_reward=0.3, anti_chance=0.2)
    assert env.single_action_space.shape == (3,)
    assert set(env.codes.unique().tolist()) <= {0, 1, 2}
    returns, _ = rollout(env, wrong)
    assert_close(returns.unique(), torch.tensor([0.0, 0.3]))
    assert returns.mean().item() == pytest.approx(0.06, abs=3 * 0.3 * 0.4 / math.sqrt(20_000))
    for chance in (0.0, 1.0):
        env = CombinationLock(50, horizon=2, switch_chance=chance)
        env.reset(seed=0)
        before = env._state[0]
        env.step(100 * right(env))
        assert bool((env._state[0] != before).all()) == bool(chance)
        assert bool((env._state[0] == before).all()) != bool(chance)


def test_code_words_belong_to_the_code_seed_alone():
    one, other = CombinationLock(3, horizon=7), CombinationLock(9, horizon=7, reward_mode="transition")
    one.reset(seed=1), other.reset(seed=2)
    assert torch.equal(one.codes, other.codes)
    assert torch.equal(one.codes[1], one.codes[2])
    assert not torch.equal(one.codes, CombinationLock(3, horizon=7, code_seed=1).codes)


def test_the_seed_decides_and_a_state_resumes():
    env, fresh = (make_vec(EnvConfig(ID, num_envs=4, kwargs={"horizon": 3}, time_aware=True)) for _ in range(2))
    actions = torch.randn(8, 4, 10, generator=torch.Generator().manual_seed(0))
    env.reset(seed=3), fresh.reset(seed=3)
    for action in actions[:4]:
        first, second = env.step(action), fresh.step(action)
        assert_close(first[:4], second[:4], rtol=0, atol=0)
    fresh.reset(seed=9)
    fresh.load_state_dict(env.state_dict())
    for action in actions[4:]:
        assert_close(env.step(action)[:4], fresh.step(action)[:4], rtol=0, atol=0)


def test_time_aware_observations_count_steps_in_every_kind_of_environment():
    batch = make_vec(EnvConfig(ID, num_envs=2, kwargs={"horizon": 3}, time_aware=True))
    single = make_single(EnvConfig(ID, kwargs={"horizon": 3}, time_aware=True))
    assert batch.single_observation_space == single.observation_space
    obs, _ = batch.reset(seed=0)
    row, _ = single.reset(seed=0)
    assert obs[:, -1].tolist() == [0.0, 0.0]
    assert row[-1] == 0.0
    for step in (1, 2, 3):
        obs, _, _, _, info = batch.step(torch.zeros(2, 10))
        assert info["final_obs"][:, -1].tolist() == [step, step]
        assert single.step(np.zeros(10, np.float32))[0][-1] == step
    assert obs[:, -1].tolist() == [0.0, 0.0]
    ordinary = make_vec(EnvConfig("Pendulum-v1", max_episode_steps=2, time_aware=True))
    ordinary.reset(seed=0)
    assert [float(ordinary.step(torch.zeros(1, 1))[0][0, -1]) for _ in range(3)] == [1.0, 0.0, 1.0]


@pytest.mark.filterwarnings("ignore::UserWarning")  # advice against unbounded actions, which are the task's definition
def test_gymnasiums_checker_accepts_both_locks():
    for env_id, kwargs in ((ID, {}), ("surefoot/ImageLock-v0", {"embeddings": "stand-in"})):
        check_env(gym.make(env_id, **kwargs).unwrapped, skip_render_check=True)


def test_image_lock_shows_images_of_the_right_class_and_split(tmp_path):
    generator = np.random.default_rng(0)
    arrays = {name: generator.normal(size=(12, n, 4)).astype(np.float32) for name, n in (("train", 5), ("test", 3))}
    path = tmp_path / "clip.npz"
    np.savez(path, **arrays)
    kwargs = {"horizon": 3, "embeddings": str(path)}
    train = ImageLock(200, **kwargs)
    test = ImageLock(200, split="test", **kwargs)
    assert torch.equal(train.codes, test.codes)
    for env, pool in ((train, arrays["train"]), (test, arrays["test"])):
        obs, _ = env.reset(seed=0)
        for h in range(3):
            latent = env._state[0]
            for i in range(0, 200, 17):
                assert (pool[3 * h + latent[i]] == obs[i].numpy()).all(1).any()
            obs, *_ = env.step(right(env))
    assert not np.isin(train.images.numpy(), test.images.numpy()).any()


def test_the_stand_in_is_as_hard_to_read_as_the_papers_features():
    images = [synthetic_embeddings(93, split) for split in ("train", "test")]
    assert [tuple(x.shape) for x in images] == [(93, 500, 512), (93, 100, 512)]
    nearest = (images[1] @ images[0].mean(1).T).argmax(-1)
    accuracy = (nearest == torch.arange(93)[:, None]).float().mean().item()
    assert 0.68 < accuracy < 0.82


@pytest.mark.parametrize(
    ("env_id", "kwargs", "message"),
    [
        (ID, {"horizon": 0}, "horizon must be at least 1, got 0"),
        (ID, {"reward_mode": "early"}, "terminal or transition, got 'early'"),
        (ID, {"actions": 1}, "actions must be at least 2, got 1"),
        (ID, {"anti_chance": 1.5}, r"anti_chance must be in \[0, 1\], got 1.5"),
        (ID, {"hrizon": 3}, "hrizon"),
        ("surefoot/ImageLock-v0", {}, "needs embeddings: --env.kwargs embeddings FILE.npz"),
        ("surefoot/ImageLock-v0", {"embeddings": "stand-in", "split": "val"}, "split must be train or test"),
    ],
)
def test_bad_settings_are_one_line(env_id, kwargs, message):
    with pytest.raises(ValueError, match=message) as error:
        make_vec(EnvConfig(env_id, kwargs=kwargs))
    assert "\n" not in str(error.value)


def test_bad_embeddings_say_what_is_wrong(tmp_path):
    def make(**kwargs):
        make_vec(EnvConfig("surefoot/ImageLock-v0", kwargs={"horizon": 5, **kwargs}))

    with pytest.raises(FileNotFoundError, match="no such embeddings file"):
        make(embeddings=str(tmp_path / "none.npz"))
    np.savez(tmp_path / "few.npz", train=np.zeros((6, 2, 3)))
    with pytest.raises(ValueError, match="6 classes; horizon 5 needs 18"):
        make(embeddings=str(tmp_path / "few.npz"))
    with pytest.raises(ValueError, match="no readable array 'test'"):
        make(embeddings=str(tmp_path / "few.npz"), split="test")
    np.savez(tmp_path / "flat.npz", train=np.zeros((6, 2)))
    with pytest.raises(ValueError, match=r"got shape \(6, 2\)"):
        make(embeddings=str(tmp_path / "flat.npz"))
    (tmp_path / "text.npz").write_text("not numpy")
    with pytest.raises(ValueError, match="no readable array"):
        make(embeddings=str(tmp_path / "text.npz"))


def test_a_right_action_leads_to_either_good_latent_and_the_last_one_stays():
    env = CombinationLock(20_000, horizon=2)
    env.reset(seed=0)
    for step in range(2):
        before = env._state[0]
        (after, h, _), _, terminated = env.advance(env._state, 100 * right(env))
        switched = (before != after).float().mean().item()
        assert switched == (pytest.approx(0.5, abs=0.015) if step == 0 else 0.0)
        assert bool((h == step + 1).all())
        assert bool(terminated.all()) == (step == 1)
        env._state = (after, h, env._state[2])
    (after, _, _), _, _ = env.advance((torch.full_like(h, 2), torch.zeros_like(h), env._state[2]), uniform(env))
    assert bool((after == 2).all())  # dead for ever
