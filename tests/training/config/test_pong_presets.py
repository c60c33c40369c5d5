"""The Atari presets, as far as a CPU carries them; skipped without the extra `atari`."""

from dataclasses import replace

import pytest
import torch

from surefoot.envs import EnvConfig, make_single, make_vec
from surefoot.evaluation.policy_files import load_policy
from surefoot.training.config.presets import load_preset
from surefoot.training.session import train

pytest.importorskip("ale_py", reason="extra atari not installed")
pytest.importorskip("cv2", reason="extra atari not installed")
SMALL = {"replay_capacity": 120, "learning_starts": 40, "batch_size": 4, "quantiles": 8}


def test_pong_is_four_grey_frames_in_real_rewards_and_no_life_ends_an_episode():
    env = make_single(load_preset("dhn", "pong").env)
    obs, _ = env.reset(seed=0)
    assert (obs.shape, str(obs.dtype), obs.min() >= 0, obs.max() > 50) == ((4 * 84 * 84,), "float32", True, True)
    wrappers = []
    layer = env
    while layer is not env.unwrapped:
        wrappers.append(type(layer).__name__)
        assert not getattr(layer, "terminal_on_life_loss", False)
        layer = layer.env
    assert "AtariPreprocessing" in wrappers
    assert not {"ClipReward", "NormalizeReward"} & set(wrappers)


def test_a_game_that_skips_frames_itself_is_refused():
    with pytest.raises(ValueError, match="skips frames itself"):
        make_vec(EnvConfig("ale_py:ALE/Pong-v5"))


@pytest.mark.parametrize("name", ["dhn", "qr-dqn"])
def test_the_preset_learns_and_is_deployed(name, tmp_path):
    torch.set_num_threads(1)
    config = load_preset(name, "pong")
    env = replace(config.env, num_envs=2, max_episode_steps=60)
    quick = replace(config.eval, episodes=1, objectives=(), every=1000)
    agent = replace(config.agent, **SMALL)
    config = replace(config, agent=agent, env=env, eval=quick, steps=100, log_every=50, checkpoint_every=1000)
    folder = train(name, config, out=tmp_path, name="run")
    policy = load_policy(folder).policy
    action = policy.act(torch.zeros(2, 4 * 84 * 84))
    assert action.shape == (2,)
    assert bool(((action >= 0) & (action < 6)).all())
