"""The stock wrapper: its identity at every step, autoreset of both kinds, and what is refused with it.

docs/derivations/distributional.md E26.
"""

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from gymnasium.wrappers import ClipReward, FlattenObservation, NormalizeReward, TransformReward

from surefoot.envs import Drain, Fork, StockObservation, StockVectorObservation
from surefoot.envs.stock import refuse_changed_rewards

GAMMA, RANGE = 0.9, (-5.0, 1.0)


class Walk(gym.Env):
    """Pays a random number and lasts 3 to 6 steps, by chance also truncated."""

    observation_space = gym.spaces.Box(-np.inf, np.inf, (2,), np.float32)
    action_space = gym.spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        assert "stock" not in (options or {})
        self.left = int(self.np_random.integers(3, 7))
        return np.array([self.left, 0], np.float32), {"options": options}

    def step(self, action):
        self.left -= 1
        reward = float(self.np_random.normal())
        obs = np.array([self.left, reward], np.float32)
        return obs, reward, self.left == 0 and action == 0, self.left == 0 and action == 1, {}


def wrapped(**kwargs):
    return StockObservation(Walk(), GAMMA, RANGE, **kwargs)


def test_the_identity_holds_at_every_step_of_a_single_task():
    env, rng = wrapped(), np.random.default_rng(0)
    starts = []
    for episode in range(30):
        obs, info = env.reset(seed=episode)
        start, total, t, ended = info["stock"], 0.0, 0, False
        starts.append(start)
        while not ended:
            obs, reward, terminated, truncated, info = env.step(int(rng.integers(2)))
            total, t = total + GAMMA**t * reward, t + 1
            assert abs(start + total - GAMMA**t * info["stock"]) < 1e-6 * max(1, abs(start))
            assert info["discounted_return"] == pytest.approx(total)
            assert obs["stock"] == np.float32(info["stock"])
            ended = terminated or truncated
    assert min(starts) < -4
    assert max(starts) > 0
    assert len(set(starts)) == 30


def test_a_chosen_stock_starts_this_episode_and_other_options_pass_through():
    env = wrapped()
    assert env.reset(options={"stock": -2.5, "level": 3})[1] == {
        "options": {"level": 3},
        "stock": -2.5,
        "discounted_return": 0.0,
    }
    assert env.reset(seed=1)[1]["stock"] != -2.5
    assert env.reset(seed=1)[1]["stock"] == env.reset(seed=1)[1]["stock"]


def test_only_what_is_shown_is_clipped():
    env = StockObservation(Walk(), 0.5, (-1.0, 1.0), clip=2.0)
    env.reset(seed=0, options={"stock": -1.0})
    for _ in range(3):
        obs, *_, info = env.step(0)
    assert obs["stock"] == [-2.0]
    assert info["stock"] < -2.0
    assert env.observation_space["stock"] == gym.spaces.Box(-2.0, 2.0, (1,), np.float32)


def test_a_long_episode_does_not_overflow():
    env = StockObservation(gym.wrappers.TransformReward(Walk(), lambda r: -abs(r)), 0.5, (-1.0, 0.0))
    env.reset(seed=0)
    for _ in range(3000):
        env.unwrapped.left = 5
        _, *_, info = env.step(0)
    assert info["stock"] == -1e30


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_gymnasiums_checker_accepts_it_and_it_flattens():
    check_env(wrapped(), skip_render_check=True)
    flat = FlattenObservation(wrapped())
    obs, info = flat.reset(seed=0)
    assert obs.tolist() == pytest.approx([flat.unwrapped.left, 0, info["stock"]])


def played(env, steps, actions):
    """Yield (before, reward, ended, info, obs) of a vector task, with the stock of the observation before."""
    obs, info = env.reset(seed=3)
    stock = info["stock"]
    for step in range(steps):
        obs, reward, terminated, truncated, info = env.step(actions(step))
        yield stock, reward, terminated | truncated, info, obs
        stock = info["stock"]


@pytest.mark.parametrize("task", [Fork, Drain])
def test_tensor_environments_reset_in_the_same_step_without_mixing_the_next_start_into_the_successor(task):
    env = StockVectorObservation(task(64, max_episode_steps=7), GAMMA, RANGE, clip=10.0)
    generator = torch.Generator().manual_seed(0)
    start, total, time = env.reset(seed=3)[1]["stock"], torch.zeros(64).double(), torch.zeros(64)
    ends = 0
    for before, reward, ended, info, obs in played(
        env, 40, lambda _: torch.randint(env.single_action_space.n, (64,), generator=generator)
    ):
        successor = (before + reward.double()) / GAMMA
        torch.testing.assert_close(info["final_stock"], successor, rtol=0, atol=1e-12)
        shown = successor.clamp(-10, 10).float()[:, None]
        assert torch.equal(info["final_obs"]["stock"], shown)
        torch.testing.assert_close(obs["stock"][~ended], shown[~ended], rtol=0, atol=0)
        total += GAMMA ** time.double() * reward.double()
        time += 1
        assert ((start + total - GAMMA ** time.double() * successor).abs() < 1e-6 * start.abs().clamp(min=1)).all()
        torch.testing.assert_close(info["discounted_return"], total)
        fresh = info["stock"][ended]
        assert ((fresh >= RANGE[0]) & (fresh <= RANGE[1])).all()
        assert not ended.any() or (fresh != successor[ended]).all()
        start = torch.where(ended, info["stock"], start)
        total, time = total.masked_fill(ended, 0.0), time.masked_fill(ended, 0.0)
        ends += int(ended.sum())
    assert ends > 100


@pytest.mark.parametrize("mode", [AutoresetMode.SAME_STEP, AutoresetMode.NEXT_STEP])
def test_array_environments_with_either_autoreset(mode):
    env = StockVectorObservation(SyncVectorEnv([Walk] * 5, autoreset_mode=mode), GAMMA, RANGE)
    rng, resets = np.random.default_rng(0), 0
    start, total, time = env.reset(seed=3)[1]["stock"].copy(), np.zeros(5), np.zeros(5)
    waiting = np.zeros(5, bool)
    for before, reward, ended, info, obs in played(env, 60, lambda _: rng.integers(2, size=5)):
        successor = (before + reward) / GAMMA
        next_step = mode is AutoresetMode.NEXT_STEP
        went_on = ~waiting if next_step else np.ones(5, bool)
        np.testing.assert_allclose(info["final_stock"][went_on], successor[went_on], rtol=1e-12)
        total, time = total + went_on * GAMMA**time * reward, time + went_on
        gap = np.abs(start + total - GAMMA**time * info["final_stock"])
        assert (gap[went_on] < 1e-6 * np.maximum(1, np.abs(start))[went_on]).all()
        np.testing.assert_allclose(info["discounted_return"][went_on], total[went_on])
        assert obs["stock"].dtype == np.float32
        if not next_step:
            for i in np.flatnonzero(ended):
                assert info["final_obs"][i]["stock"] == np.float32(successor[i])
        fresh = waiting if next_step else ended
        assert ((info["stock"][fresh] >= RANGE[0]) & (info["stock"][fresh] <= RANGE[1])).all()
        assert (info["discounted_return"][waiting] == 0).all()
        start, total, time = np.where(fresh, info["stock"], start), total * ~fresh, time * ~fresh
        waiting, resets = ended & next_step, resets + int(fresh.sum())
    assert resets > 20


@pytest.mark.parametrize("chosen", [float("nan"), float("inf")])
def test_a_chosen_stock_that_is_no_number_is_refused(chosen):
    for env, stock in ((wrapped(), chosen), (StockVectorObservation(Fork(2), GAMMA, RANGE), [0.0, chosen])):
        with pytest.raises(ValueError, match="the stock of reset's options must be finite"):
            env.reset(options={"stock": stock})


def test_a_chosen_stock_also_starts_the_environments_that_reset_themselves():
    env = StockVectorObservation(Fork(3, max_episode_steps=2), GAMMA, RANGE)
    chosen = [-1.0, -2.0, -3.0]
    assert env.reset(seed=0, options={"stock": chosen})[1]["stock"].tolist() == chosen
    for _ in range(2):
        *_, info = env.step(torch.zeros(3).long())
    assert info["stock"].tolist() == chosen
    assert (env.reset(seed=0)[1]["stock"] != torch.tensor(chosen).double()).all()


class LifeLoss(gym.Wrapper):
    def __init__(self, env):
        super().__init__(env)
        self.terminal_on_life_loss = True


class EpisodicLifeEnv(gym.Wrapper):
    """Called as Stable-Baselines3's."""


@pytest.mark.parametrize(
    ("below", "words"),
    [
        (lambda env: ClipReward(env, -1, 1), "ClipReward changes rewards"),
        (lambda env: TransformReward(NormalizeReward(env), lambda r: r), "NormalizeReward changes rewards"),
        (LifeLoss, "LifeLoss ends an episode at the loss of a life"),
        (EpisodicLifeEnv, "EpisodicLifeEnv ends an episode at the loss of a life"),
    ],
)
def test_changed_rewards_and_lost_lives_are_refused(below, words):
    with pytest.raises(ValueError, match=words):
        StockObservation(below(Walk()), GAMMA, RANGE)
    with pytest.raises(ValueError, match=words):
        StockVectorObservation(SyncVectorEnv([lambda: below(Walk())]), GAMMA, RANGE)
    with pytest.raises(ValueError, match=words):
        refuse_changed_rewards(below(wrapped()))


def test_normalisation_of_a_whole_vector_task_is_refused():
    with pytest.raises(ValueError, match="NormalizeReward changes rewards"):
        StockVectorObservation(gym.wrappers.vector.NormalizeReward(SyncVectorEnv([Walk])), GAMMA, RANGE)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((0.0, RANGE), r"gamma must lie in \(0, 1\], not 0.0"),
        ((1.1, RANGE), r"gamma must lie in \(0, 1\]"),
        ((0.9, (1.0, 0.0)), "the range of the stock must be two finite numbers in order"),
        ((0.9, (0.0, np.inf)), "the range of the stock must be two finite numbers in order"),
        ((0.9, RANGE, 4.0), "clip must reach over the range of the stock"),
    ],
)
def test_bad_arguments(arguments, words):
    for make in (lambda: StockObservation(Walk(), *arguments), lambda: StockVectorObservation(Fork(), *arguments)):
        with pytest.raises(ValueError, match=words) as error:
            make()
        assert "\n" not in str(error.value)


def test_rewards_that_are_not_finite_and_environments_without_autoreset_are_refused():
    broken = TransformReward(Walk(), lambda r: r / np.float64(0))
    env = StockObservation(broken, GAMMA, RANGE)
    env.reset(seed=0)
    with np.errstate(divide="ignore"), pytest.raises(ValueError, match="a stock needs finite rewards"):
        env.step(0)
    envs = StockVectorObservation(SyncVectorEnv([lambda: TransformReward(Walk(), lambda r: np.nan)]), GAMMA, RANGE)
    envs.reset(seed=0)
    with pytest.raises(ValueError, match="a stock needs finite rewards"):
        envs.step(np.zeros(1, int))
    with pytest.raises(ValueError, match="a stock needs SAME_STEP or NEXT_STEP"):
        StockVectorObservation(SyncVectorEnv([Walk], autoreset_mode=AutoresetMode.DISABLED), GAMMA, RANGE)
