"""Videos that really decode, and one clear line where none can be made."""

import itertools
import os

import gymnasium as gym
import imageio.v3 as iio
import numpy as np
import pytest
import torch

from surefoot.envs import EnvConfig
from surefoot.evaluation.episodes import evaluate
from surefoot.evaluation.figures import video
from surefoot.evaluation.figures.video import choose_gl, record_episode, require_drawable

TINY = EnvConfig("InvertedPendulum-v5", max_episode_steps=100, kwargs={"width": 64, "height": 48})
CAN_DRAW = "DISPLAY" in os.environ or any(video._draws(backend) for backend in ("egl", "osmesa"))


def push(obs):
    return torch.full((len(obs), 1), 0.1)


@pytest.mark.skipif(not CAN_DRAW, reason="nothing here can draw: no screen, no EGL, no OSMesa (apt install libegl1)")
def test_the_film_has_a_frame_a_step_and_moves(tmp_path):
    out = tmp_path / "videos" / "a.mp4"
    assert record_episode(push, TINY, out, seed=1)
    frames = iio.imread(out)
    (length,) = evaluate(push, TINY, episodes=1, seed=1).lengths
    assert 5 < length < 100
    assert frames.shape == (length + 1, 48, 64, 3)
    assert frames[0].std() > 10  # not one colour
    assert np.abs(frames[-1].astype(float) - frames[0]).max() > 50  # the cart has moved
    assert [path.name for path in out.parent.iterdir()] == ["a.mp4"]  # no leftovers


@pytest.fixture
def drawn(monkeypatch):
    """Let every task draw black frames, without a screen."""
    monkeypatch.setattr(video, "choose_gl", lambda: None)
    task = gym.wrappers.TransformReward(gym.make("Pendulum-v1", render_mode="rgb_array"), lambda reward: reward)
    monkeypatch.setattr(task.unwrapped, "render", lambda: np.zeros((48, 64, 3), np.uint8))
    monkeypatch.setattr(video, "make_single", lambda config, mode=None: task)
    return EnvConfig("Pendulum-v1")


def still(obs):
    return torch.zeros(len(obs), 1)


def test_a_film_has_a_bound_and_says_whether_the_episode_ended(tmp_path, drawn):
    pytest.importorskip("moviepy", reason="extra video not installed")
    out = tmp_path / "a.mp4"
    assert not record_episode(still, drawn, out, seed=1, steps=7)
    assert len(iio.imread(out)) == 8
    assert record_episode(still, drawn, out, seed=1, steps=200)  # its time limit


@pytest.mark.parametrize("how", [KeyboardInterrupt, SystemExit])
def test_a_film_that_is_stopped_leaves_nothing_and_the_old_one(tmp_path, drawn, how):
    pytest.importorskip("moviepy", reason="extra video not installed")
    out, count = tmp_path / "a.mp4", itertools.count()
    out.write_bytes(b"the old one")

    def stopped(obs):
        if next(count) == 5:
            raise how
        return still(obs)

    with pytest.raises(how):
        record_episode(stopped, drawn, out, seed=1)
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("a.mp4", b"the old one")]


def test_a_machine_that_cannot_draw_is_told_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setattr(video, "_draws", lambda backend: False)
    for name in ("DISPLAY", "MUJOCO_GL"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(OSError, match=r"neither EGL nor OSMesa works; install.*libegl1"):
        record_episode(push, TINY, tmp_path / "a.mp4", seed=1)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("working", "chosen"), [({"egl", "osmesa"}, "egl"), ({"osmesa"}, "osmesa")])
def test_egl_comes_before_osmesa(working, chosen, monkeypatch):
    monkeypatch.setattr(video, "_draws", lambda backend: backend in working)
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.setenv("MUJOCO_GL", "")  # so that the choice is undone after the test
    monkeypatch.delenv("MUJOCO_GL")
    choose_gl()
    assert os.environ["MUJOCO_GL"] == chosen


def test_the_users_choice_and_a_screen_are_respected(monkeypatch):
    monkeypatch.setattr(video, "_draws", lambda backend: pytest.fail("probed"))
    monkeypatch.setenv("MUJOCO_GL", "glfw")
    choose_gl()
    assert os.environ["MUJOCO_GL"] == "glfw"
    monkeypatch.delenv("MUJOCO_GL")
    monkeypatch.setenv("DISPLAY", ":0")
    choose_gl()
    assert "MUJOCO_GL" not in os.environ


def test_a_probe_that_fails_says_no(monkeypatch):
    video._draws.cache_clear()
    monkeypatch.setattr(video, "PROBE", "raise SystemExit(3)")
    assert not video._draws("egl")
    video._draws.cache_clear()


def test_without_moviepy_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(video, "find_module", lambda name: None)
    with pytest.raises(ImportError, match=r"surefoot\[video\]"):
        record_episode(push, TINY, tmp_path / "a.mp4", seed=1)


def test_a_task_that_draws_nothing_is_told_before_it_is_measured():
    message = r"^surefoot/Pendulum-v0 cannot be drawn: it has no render mode rgb_array; leave --video out$"
    with pytest.raises(ValueError, match=message):
        require_drawable(EnvConfig("surefoot/Pendulum-v0"))


@pytest.mark.parametrize(
    ("error", "kind", "words"),
    [
        (gym.error.DependencyNotInstalled("no pygame, run `pip install it`"), ImportError, ": no pygame, run `pip in"),
        (OSError("no screen"), OSError, "no screen"),
        (RuntimeError("no\ncontext"), ValueError, r" \(RuntimeError: no context\); leave --video out"),
    ],
)
def test_what_keeps_a_task_from_being_drawn_is_one_line(error, kind, words, monkeypatch):
    class Undrawn(gym.Wrapper):
        def render(self):
            raise error

    monkeypatch.setattr(video, "_drawn", lambda config: Undrawn(gym.make("Pendulum-v1", render_mode="rgb_array")))
    with pytest.raises(kind, match=words):
        require_drawable(EnvConfig("Pendulum-v1"))


def test_a_task_that_draws_passes(drawn):
    require_drawable(drawn)
