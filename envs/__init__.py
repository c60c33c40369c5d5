"""Tasks: Gymnasium's with changed physics, and our own as batched tensor programs."""

from surefoot.envs.combination_lock import CombinationLock, ImageLock
from surefoot.envs.config import EnvConfig
from surefoot.envs.dynamical_linear import DynamicalLinear
from surefoot.envs.finite import FiniteEnv, Outcomes
from surefoot.envs.make import find_spec, make_single, make_vec, spaces_of
from surefoot.envs.native import SingleEnv, TensorEnv, register
from surefoot.envs.pendulum import Pendulum
from surefoot.envs.physics import ActionNoise, Physics, apply_physics
from surefoot.envs.resumable import Resumable
from surefoot.envs.vector import TensorVectorEnv

__all__ = [
    "ActionNoise",
    "CombinationLock",
    "DynamicalLinear",
    "EnvConfig",
    "FiniteEnv",
    "ImageLock",
    "Outcomes",
    "Pendulum",
    "Physics",
    "Resumable",
    "SingleEnv",
    "TensorEnv",
    "TensorVectorEnv",
    "apply_physics",
    "find_spec",
    "make_single",
    "make_vec",
    "register",
    "spaces_of",
]

register("surefoot/Pendulum-v0", Pendulum, max_episode_steps=200)
register("surefoot/CombinationLock-v0", CombinationLock, max_episode_steps=None)
register("surefoot/ImageLock-v0", ImageLock, max_episode_steps=None)
register("surefoot/DynamicalLinear-v0", DynamicalLinear, max_episode_steps=None)
