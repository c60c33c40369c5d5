"""Returns of a policy on fresh episodes: the one measurement that training, tables and pictures share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import NamedTuple

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor

from surefoot.agents.interface import Agent, Player, Policy
from surefoot.envs import EnvConfig, make_vec
from surefoot.offline_data import normalized_score

LANES = 32  # most environments stepped side by side; more episodes run in further waves
LONGEST_EPISODE = 100_000  # steps; a task without a time limit would otherwise never return


Act = Callable[[Tensor], Tensor] | Player  # (N, obs) -> (N, action)


def acting(owner: Agent | Policy, *, explore: bool = False) -> Act:
    """Return what acts for an agent or a policy through whole episodes: its player, if it has one, or its `act`."""
    if hasattr(owner, "player"):
        return owner.player(explore=explore)
    return partial(owner.act, explore=True) if explore else owner.act


def restart(act: Act) -> None:
    """Tell that all its episodes begin, if it wants to know."""
    if hasattr(act, "restart"):
        act.restart()


def see(act: Act, reward: Tensor, ended: Tensor) -> None:
    """Tell what its actions brought, if it wants to know; both (N,)."""
    if hasattr(act, "see"):
        act.see(reward, ended)


class EvalResult(NamedTuple):
    """One entry an episode, in the order of the reset seeds."""

    returns: np.ndarray  # (E,) float64, undiscounted unless a discount was asked for
    lengths: np.ndarray  # (E,) int64, steps
    score: np.ndarray | None  # (E,) D4RL-normalised, x100; None where the task has no reference returns


@torch.inference_mode()
def evaluate(
    act: Act,
    env_config: EnvConfig,
    *,
    episodes: int,
    seed: int,
    device: torch.device | str = "cpu",
    lanes: int = LANES,
    gamma: float = 1.0,
) -> EvalResult:
    """Return the outcome of `episodes` episodes of `act`, a map (N, obs) -> (N, action), in environments of its own.

    Episode `i` starts from reset seed `seed + i` in every Gymnasium task, so which lane runs it and how many `lanes`
    there are does not matter, except that a matrix product over another number of rows may round its last bit
    differently. The same call on the same machine gives the same bits. Tasks that are written as one batched tensor
    program draw all their lanes from one generator: there the starts depend on `lanes` too. `gamma` discounts returns.
    """
    if episodes < 1:
        raise ValueError(f"episodes is {episodes}; an evaluation needs at least 1")
    waves = -(-episodes // lanes)
    env = make_vec(replace(env_config, num_envs=-(-episodes // waves)), device=device)
    try:
        outcomes = [_first_episodes(act, env, seed + wave * env.num_envs, gamma) for wave in range(waves)]
    finally:
        env.close()
    returns, lengths = (torch.cat(column)[:episodes].cpu().numpy() for column in zip(*outcomes, strict=True))
    return EvalResult(returns, lengths, normalized_score(env_config.id, returns))


def _first_episodes(act: Act, env: gym.vector.VectorEnv, seed: int, gamma: float) -> tuple[Tensor, Tensor]:
    """Return (N,) returns and lengths of each lane's first episode; a lane that is done waits for the others."""
    obs, _ = env.reset(seed=seed)
    restart(act)
    running = torch.ones(env.num_envs, dtype=torch.bool, device=obs.device)
    returns = torch.zeros(env.num_envs, dtype=torch.float64, device=obs.device)
    lengths = torch.zeros(env.num_envs, dtype=torch.int64, device=obs.device)
    for step in range(LONGEST_EPISODE):
        obs, reward, terminated, truncated, _ = env.step(act(obs))
        returns += torch.where(running, gamma**step * reward.double(), 0.0)
        lengths += running
        ended = (terminated | truncated).bool()
        see(act, reward, ended)
        running &= ~ended
        if not running.any():
            return returns, lengths
    raise ValueError(f"no end of an episode after {LONGEST_EPISODE} steps; set a limit with --env.max-episode-steps")
