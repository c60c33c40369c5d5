"""MinAtar's games as tasks: observations channel by channel, episodes that can be replayed, what is missing."""

import builtins

import numpy as np
import pytest
import torch

from surefoot.envs import EnvConfig, make_vec
from surefoot.envs.make import make_single
from surefoot.envs.minatar import register_games

pytest.importorskip("minatar", reason="extra benchmarks not installed")
BREAKOUT = EnvConfig("MinAtar/Breakout-v1", num_envs=2, max_episode_steps=30)


def test_observations_are_the_channels_one_after_the_other():
    env = make_single(BREAKOUT)
    obs, _ = env.reset(seed=0)
    image = env.unwrapped.game.state()
    assert (obs.shape, obs.dtype, env.action_space.n) == ((400,), np.float32, 3)
    np.testing.assert_array_equal(obs.reshape(4, 10, 10), np.moveaxis(image, -1, 0))
    assert env.observation_space.contains(obs)


def played(env, steps, seed=None):
    """Return what is seen, of two environments that take the same actions each time."""
    actions = torch.randint(0, 3, (steps, 2), generator=torch.Generator().manual_seed(1))
    seen = [] if seed is None else [env.reset(seed=seed)[0]]
    return torch.stack(seen + [env.step(action)[0] for action in actions])


def test_a_seed_decides_and_an_episode_can_be_resumed_in_its_middle():
    env = make_vec(BREAKOUT)
    first = played(env, 100, seed=3)  # more than one episode: the last action may stick over a reset
    assert torch.equal(played(env, 100, seed=3), first)
    assert not torch.equal(played(env, 100, seed=4), first)
    assert env.can_resume()
    state = env.state_dict()
    again = make_vec(BREAKOUT)
    again.load_state_dict(state)
    assert torch.equal(played(again, 60), played(env, 60))


def test_a_missing_package_is_named_with_its_extra(monkeypatch):
    real = builtins.__import__

    def without(name, *rest):
        if name.startswith("minatar"):
            raise ModuleNotFoundError(f"No module named {name!r}")
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ImportError, match=r"MinAtar cannot be imported.*surefoot\[benchmarks\]"):
        register_games()
