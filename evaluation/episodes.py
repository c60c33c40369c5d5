"""Returns of a policy on fresh episodes: the one measurement that training, tables and figures share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from surefoot.agents.interface import Agent, Policy, StatefulPolicy
from surefoot.agents.parts.interaction import require_rewards, rewards_of
from surefoot.envs import EnvConfig, TaskError, make_vec, time_limit
from surefoot.offline_data import scores

NUM_ENVS = 32  # most environments stepped side by side; more episodes run in further waves
LONGEST_EPISODE = 100_000  # steps; a task without a time limit would otherwise never return


Act = Callable[[Tensor], Tensor] | StatefulPolicy  # (N, obs) -> (N, action)


def make_act(owner: Agent | Policy, *, explore: bool = False) -> Act:
    """Return the map from observations to actions for whole episodes: `stateful()` where there is one, else `act`."""
    if hasattr(owner, "stateful"):
        policy: StatefulPolicy = owner.stateful(explore=explore)
        return policy
    return partial(owner.act, explore=True) if explore else owner.act


def reset_policy(act: Act) -> None:
    """Reset a stateful policy: an episode starts in every environment."""
    if hasattr(act, "reset"):
        act.reset()


def observe(act: Act, reward: Tensor, ended: Tensor) -> None:
    """Pass reward and end of episode (N,) to a stateful policy; (N, m) rewards to one that names them."""
    if hasattr(act, "observe"):
        act.observe(reward, ended)


class EvalResult(NamedTuple):
    """One entry per episode, in the order of the reset seeds."""

    returns: np.ndarray  # (E,) float64, undiscounted
    lengths: np.ndarray  # (E,) int64, steps; the one in which the physics diverged is the last of them
    score: np.ndarray | None  # (E,) D4RL-normalised, x100; None where the task, or its time limit, has no references
    discounted: np.ndarray  # (E,) float64, by the `gamma` that was given; (E, m) of a policy for m `rewards`
    broken: np.ndarray  # (E,) bool, the physics diverged: the return up to there


@torch.inference_mode()
def evaluate(
    act: Act,
    env_config: EnvConfig,
    *,
    episodes: int,
    seed: int,
    device: torch.device | str = "cpu",
    num_envs: int = NUM_ENVS,
    gamma: float = 1.0,
) -> EvalResult:
    """Return the outcome of `episodes` episodes of `act`, a map (N, obs) -> (N, action), in environments of its own.

    Episode `i` starts from reset seed `seed + i` in every Gymnasium task, so which environment runs it and how many
    (`num_envs`) there are does not matter, except that a matrix product over another number of rows may round its last
    bit differently. The same call on the same machine gives the same bits. Tasks that are written as one batched tensor
    program draw all starts from one generator: there they depend on `num_envs` too. So does a
    stock to start with that a policy searches for over the starts of its first call, and then keeps
    (`QuantilePolicy.stateful`). `gamma` is that of `discounted`.
    """
    if episodes < 1:
        raise ValueError(f"episodes is {episodes}; an evaluation needs at least 1")
    waves = -(-episodes // num_envs)
    env = make_vec(replace(env_config, num_envs=-(-episodes // waves)), device=device)
    try:
        outcomes = [_first_episodes(act, env, seed + wave * env.num_envs, gamma) for wave in range(waves)]
    except TaskError as error:
        raise TaskError(f"in an evaluation: {error}") from error
    finally:
        env.close()
    columns = (torch.cat(column)[:episodes].cpu().numpy() for column in zip(*outcomes, strict=True))
    returns, discounted, lengths, broken = columns
    if (wrong := np.flatnonzero(~np.isfinite(returns))).size:
        raise TaskError(f"{env_config.id}: in an evaluation the return of episode {wrong[0]} is {returns[wrong[0]]}")
    return EvalResult(returns, lengths, score_of(env_config, returns), discounted, broken)


def score_of(env_config: EnvConfig, returns: np.ndarray) -> np.ndarray | None:
    """Return D4RL's score (E,) of the returns (E,); None where its references are of no such task or time limit."""
    comparable = time_limit(env_config) == scores.EPISODE_STEPS
    return scores.normalized_score(env_config.id, returns) if comparable else None


def divergence(diverged: int, episodes: int) -> str:
    """Return what a reader of returns must know of episodes whose physics diverged, "" where none did."""
    if not diverged:
        return ""
    return f"the physics diverged in {diverged} of {episodes} episodes; those episodes count up to there"


def _first_episodes(act: Act, env: Any, seed: int, gamma: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return (N,) returns, discounted returns, lengths and `broken` of each environment's first episode.

    An environment whose episode is over waits for the others.
    """
    names: tuple[str, ...] = getattr(act, "rewards", ())
    require_rewards(env, names)
    obs, _ = env.reset(seed=seed)
    reset_policy(act)
    running = torch.ones(env.num_envs, dtype=torch.bool, device=obs.device)
    returns = torch.zeros(env.num_envs, dtype=torch.float64, device=obs.device)
    discounted = returns.new_zeros((env.num_envs, len(names)) if names else (env.num_envs,))
    lengths = torch.zeros(env.num_envs, dtype=torch.int64, device=obs.device)
    broken = torch.zeros_like(running)
    longest = env.episode_limit or LONGEST_EPISODE
    for step in range(longest):
        obs, reward, terminated, truncated, info = env.step(act(obs))
        rewards = rewards_of(info, reward.double(), names)
        returns += torch.where(running, reward.double(), 0.0)
        discounted += gamma**step * torch.where(running[:, None] if names else running, rewards, 0.0)
        lengths += running
        if "broken" in info:
            broken |= running & info["broken"]
        ended = (terminated | truncated).bool()
        observe(act, rewards, ended)
        running &= ~ended
        if not running.any():
            return returns, discounted, lengths, broken
    raise TaskError(f"no end of an episode after {longest} steps; set a limit with --env.max-episode-steps N")
