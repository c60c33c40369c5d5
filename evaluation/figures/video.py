"""One episode as an MP4, through Gymnasium's recorder; on a machine without a screen, through EGL or OSMesa."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from functools import cache
from importlib.util import find_spec as find_module
from pathlib import Path
from typing import Any

import gymnasium as gym
import torch
from gymnasium.wrappers import RecordVideo
from tqdm import tqdm

from surefoot.envs import EnvConfig, find_spec, make_single
from surefoot.evaluation.episodes import Act, observe, reset_policy
from surefoot.offline_data.files import temporary_folder

# The recorder keeps every frame of the episode in memory: 230 MB for 1000 of these, 690 MB at the tasks' own 480 x 480.
FRAME: dict[str, bool | int | float | str] = {"width": 320, "height": 240}
STEPS = 1_000  # that a film has at most
# Renders one image. In a process of its own: a broken driver may abort instead of raising.
PROBE = """
import mujoco
model = mujoco.MjModel.from_xml_string("<mujoco><worldbody><geom size='1'/></worldbody></mujoco>")
mujoco.Renderer(model, 32, 32).render()
"""


def require_drawable(config: EnvConfig) -> None:
    """Draw one image of a task, so that what is missing is known before its policy is measured.

    Raises:
        ImportError: a package that draws is not installed, named.
        OSError: nothing here can draw without a screen; what to install is named.
        ValueError: a task that draws nothing.
    """
    env = make_single(config)
    modes = env.metadata.get("render_modes") or ()
    env.close()
    if "rgb_array" not in modes:
        raise ValueError(f"{config.id} cannot be drawn: it has no render mode rgb_array; leave --video out")
    try:
        env = _drawn(config)
        try:
            env.reset(seed=0)
            env.render()
        finally:
            env.close()
    except (ImportError, OSError):
        raise
    except gym.error.DependencyNotInstalled as error:
        raise ImportError(f"{config.id} cannot be drawn: {error}") from error
    except Exception as error:  # whatever a driver or the code of others raises
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise ValueError(f"{config.id} cannot be drawn ({reason}); leave --video out") from error


def _drawn(config: EnvConfig) -> gym.Env:
    """Return a task that draws its frames."""
    if find_module("moviepy") is None:
        raise ImportError('videos need moviepy: pip install "surefoot[video]"')
    if "mujoco" in str(find_spec(config.id).entry_point):
        choose_gl()
        config = replace(config, kwargs={**FRAME, **config.kwargs})
    return make_single(config, "rgb_array")


def record_episode(
    act: Act,
    config: EnvConfig,
    out: Path,
    *,
    seed: int,
    steps: int = STEPS,
    device: torch.device | str = "cpu",
) -> bool:
    """Write the episode of `act` from reset seed `seed` to `out`, one frame at the start and one per step.

    Returns whether the episode had ended when the film did, after at most `steps` steps. Stopped on the way it leaves
    nothing, also no film that ends there.

    `ImportError` names the extra where moviepy is missing; `OSError` names what to install where nothing can draw.
    """
    task = _drawn(config)
    with temporary_folder(out) as folder:
        frames = str(folder / "new")  # the recorder warns of a folder that exists
        env: Any = RecordVideo(task, frames, episode_trigger=lambda _: True)
        try:
            ended = _play(act, env, seed, steps, device)
        except BaseException:
            env.recorded_frames = []  # closing would write them
            raise
        finally:
            env.close()  # writes the file
        os.replace(next(Path(frames).glob("*.mp4")), out)
    return ended


@torch.inference_mode()
def _play(act: Act, env: gym.Env, seed: int, steps: int, device: torch.device | str) -> bool:
    """Play an episode, at most so many steps of it; return whether it ended."""
    obs, _ = env.reset(seed=seed)
    reset_policy(act)
    for _ in tqdm(range(steps), unit="frame", desc="video", disable=None, leave=False):
        action = act(torch.as_tensor(obs, device=device)[None])[0]
        obs, reward, terminated, truncated, _ = env.step(action.cpu().numpy())
        ended = terminated or truncated
        observe(act, *(torch.tensor([value], device=device) for value in (float(reward), ended)))
        if ended:
            return True
    return False


def choose_gl() -> None:
    """Set MUJOCO_GL to a renderer that works here, unless the user chose one or there is a screen."""
    if "MUJOCO_GL" in os.environ or "DISPLAY" in os.environ or sys.platform != "linux":
        return
    for backend in ("egl", "osmesa"):
        if _draws(backend):
            os.environ["MUJOCO_GL"] = backend
            return
    raise OSError(
        "no way to draw without a screen: neither EGL nor OSMesa works; install one of them "
        "(Debian and Ubuntu: apt install libegl1 libgl1, or libosmesa6) and PyOpenGL, or set MUJOCO_GL yourself"
    )


@cache
def _draws(backend: str) -> bool:
    environ = {**os.environ, "MUJOCO_GL": backend}
    try:
        return not subprocess.run(
            [sys.executable, "-c", PROBE], env=environ, capture_output=True, timeout=60
        ).returncode
    except subprocess.TimeoutExpired:
        return False
