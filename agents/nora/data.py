"""Recorded episodes as the critics take them, and how well they cover what the best policy does."""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor

from surefoot.agents.interface import OfflineData
from surefoot.agents.nora.tabular_critic import Episode
from surefoot.agents.nora.task import Task
from surefoot.agents.parts.episodes import episode_grid
from surefoot.agents.parts.tabular import TabularMDP, concentrability, greedy, occupancies, optimal_values


class Coverage(NamedTuple):
    """How well data cover the optimal policy."""

    concentrability: Tensor  # (N,) max d*/μ ≥ c*_off; ∞ where something that π* does is missing
    covered: Tensor  # (N,) fraction of d*, averaged over steps, that was seen at all


def recorded_episodes(data: OfflineData, env: Task, replicates: int, sharing: Literal["shared", "split"]) -> Episode:
    """Return (H, N, E) transitions: all episodes for every replicate, or E = episodes / N of its own for each.

    Raises `ValueError` where episodes do not take H steps, an action or an observation is not the task's, or there are
    fewer episodes than replicates to split them among.
    """
    episodes, horizon = episode_grid(data, env.horizon), env.horizon
    actions = TabularMDP(*env.tabular()).reward.shape[2]
    action = data.action[:, 0].round().long()
    if data.action.shape[1] != 1 or bool((action < 0).any() | (action >= actions).any()):
        raise ValueError(f"the data's actions are not numbers 0 … {actions - 1}; record them in this task")
    each = episodes if sharing == "shared" else episodes // replicates
    if each == 0:
        raise ValueError(f"{episodes} recorded episodes cannot be split among {replicates} replicates; record more")
    rows = (env.decode(data.obs), action, data.reward, env.decode(data.next_obs))
    if sharing == "shared":
        return Episode(*(row.view(episodes, horizon).T[:, None].expand(-1, replicates, -1) for row in rows))
    kept = each * replicates
    return Episode(*(row.view(episodes, horizon)[:kept].T.unflatten(1, (replicates, each)) for row in rows))


def coverage_of(mdp: TabularMDP, episode: Episode, horizon: int) -> Coverage:
    """Return the coverage of π* by the data (H, N, E), as an upper bound by densities.

    docs/derivations/nora.md eq. (6.10), eq. (6.11).
    """
    best = occupancies(mdp, greedy(optimal_values(mdp, horizon)))  # (H, S, A)
    states, actions = best.shape[1:]
    replicates, episodes = episode.state.shape[1:]
    frequency = best.new_zeros(horizon, replicates, states * actions)
    cell = episode.state * actions + episode.action
    frequency.scatter_add_(-1, cell, torch.full_like(cell, 1 / episodes, dtype=best.dtype))
    frequency = frequency.transpose(0, 1).unflatten(-1, (states, actions))  # (N, H, S, A)
    seen = (best * (frequency > 0)).sum((-3, -2, -1)) / horizon
    return Coverage(concentrability(best, frequency), seen)
