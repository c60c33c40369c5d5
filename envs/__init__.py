"""Tasks: Gymnasium's with changed physics, and our own as batched tensor programs."""

from surefoot.envs.check import examine_task, require_time_limit
from surefoot.envs.config import EnvConfig
from surefoot.envs.finite import TaskError
from surefoot.envs.make import (
    episode_limit,
    find_spec,
    make_own,
    make_single,
    make_vec,
    own_action_space,
    spaces_of,
    time_limit,
)
from surefoot.envs.parameters import Parameter, Uncertain, UncertaintySet
from surefoot.envs.physics import ActionNoise, Physics, apply_physics
from surefoot.envs.resumable import Resumable
from surefoot.envs.stock import StockObservation, StockVectorObservation
from surefoot.envs.tasks.combination_lock import CombinationLock, ImageLock
from surefoot.envs.tasks.contextual import ContextualBandit
from surefoot.envs.tasks.dynamical_linear import DynamicalLinear
from surefoot.envs.tasks.exploration import DeepSea, DiabolicalLock, Forest, GapBandit, RiverSwim
from surefoot.envs.tasks.finite import FiniteEnv, Outcomes
from surefoot.envs.tasks.linear_mdp import LinearMDP
from surefoot.envs.tasks.pendulum import Pendulum
from surefoot.envs.tasks.risk import Bet, Crossing, Drain, Fork, Gate, Larder, Pantry
from surefoot.envs.tasks.robust import Arms, Coupled, Maintenance, WindyWalk
from surefoot.envs.tasks.tetris import Tetris
from surefoot.envs.tensor_env import SingleEnv, TensorEnv, register
from surefoot.envs.uncertainty.batched_episodes import BatchedEpisodes, JobOutcomes, play
from surefoot.envs.uncertainty.disturbances import disturbances, point, subset
from surefoot.envs.uncertainty.probe import indistinct, nominal_params
from surefoot.envs.uncertainty.published import SETS, find_set, set_from_mapping
from surefoot.envs.uncertainty.vector_env import BatchedPerturbedEnvs, UncertainVectorEnv
from surefoot.envs.vector import TensorVectorEnv
from surefoot.envs.with_parameters import WithParameters

__all__ = [
    "SETS",
    "ActionNoise",
    "Arms",
    "BatchedEpisodes",
    "BatchedPerturbedEnvs",
    "Bet",
    "CombinationLock",
    "ContextualBandit",
    "Coupled",
    "Crossing",
    "DeepSea",
    "DiabolicalLock",
    "Drain",
    "DynamicalLinear",
    "EnvConfig",
    "FiniteEnv",
    "Forest",
    "Fork",
    "GapBandit",
    "Gate",
    "ImageLock",
    "JobOutcomes",
    "Larder",
    "LinearMDP",
    "Maintenance",
    "Outcomes",
    "Pantry",
    "Parameter",
    "Pendulum",
    "Physics",
    "Resumable",
    "RiverSwim",
    "SingleEnv",
    "StockObservation",
    "StockVectorObservation",
    "TaskError",
    "TensorEnv",
    "TensorVectorEnv",
    "Tetris",
    "Uncertain",
    "UncertainVectorEnv",
    "UncertaintySet",
    "WindyWalk",
    "WithParameters",
    "apply_physics",
    "disturbances",
    "episode_limit",
    "examine_task",
    "find_set",
    "find_spec",
    "indistinct",
    "make_own",
    "make_single",
    "make_vec",
    "nominal_params",
    "own_action_space",
    "play",
    "point",
    "register",
    "require_time_limit",
    "set_from_mapping",
    "spaces_of",
    "subset",
    "time_limit",
]

register("surefoot/Pendulum-v0", Pendulum, max_episode_steps=200)
register("surefoot/CombinationLock-v0", CombinationLock, max_episode_steps=None)
register("surefoot/ImageLock-v0", ImageLock, max_episode_steps=None)
register("surefoot/ContextualBandit-v0", ContextualBandit, max_episode_steps=None)
register("surefoot/DynamicalLinear-v0", DynamicalLinear, max_episode_steps=None)
register("surefoot/Gate-v0", Gate, max_episode_steps=None)
register("surefoot/Bet-v0", Bet, max_episode_steps=None)
register("surefoot/Larder-v0", Larder, max_episode_steps=None)
for grid in (Crossing, Fork, Pantry, Drain):
    register(f"surefoot/{grid.__name__}-v0", grid, max_episode_steps=50)
for task in (RiverSwim, DeepSea, DiabolicalLock, GapBandit, Forest, LinearMDP, Tetris):
    register(f"surefoot/{task.__name__}-v0", task, max_episode_steps=None)
for known in (WindyWalk, Maintenance, Coupled, Arms):
    register(f"surefoot/{known.__name__}-v0", known, max_episode_steps=200)
