"""The interface of a critic, and the tabular critic: counts, a count bonus, backward induction.

Tan, Fan, Wei, arXiv 2505.03710; formulas: docs/derivations/nora.md §3 and §4.

| derivation | paper | here |
|---|---|---|
| (4.3) | – | `hoeffding_log` |
| (4.2) | – | `count_bonus` |
| (4.1), (4.4), (4.5) | – | `induction` |
| (4.6) | – | `TabularCritic.observe`, `TabularCritic.drifted`: switch by counts, at most (4.7) times |
| (1.3) | – | `Range` |

Replicates are the leading axis of everything: N of them, H steps, S states, A actions, float64.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from surefoot.agents.parts.state import Stateful


class Episode(NamedTuple):
    """Episodes in their order of time: one per replicate, or E recorded ones of each replicate side by side."""

    state: Tensor  # (H, N) or (H, N, E): an index, or what else the critic takes for a state
    action: Tensor  # the same shape, int64
    reward: Tensor  # the same shape
    next_state: Tensor  # the same shape; of the last step, which pooled data look at, where the episode ended


class Critic(Protocol):
    """Q̄ of N replicates: frozen between plans, whatever is observed (§3.5).

    The loop calls in this order, once per episode: `drifted`, `plan` for those that did, `values`, `observe`.
    """

    @property
    def STATEFUL(self) -> tuple[str, ...]: ...

    def drifted(self) -> Tensor:
        """Return (N,) bool: the data contradict the critic in force (or there is none yet)."""
        ...

    def plan(self, which: Tensor, policy: Tensor | None) -> None:
        """Fit Q̄ of the replicates `which` (M,) anew, to max-targets, or to those of policies (M, H, S, A)."""
        ...

    def values(self, h: int, state: Tensor) -> Tensor:
        """Return Q̄_h(s, ·) (N, A) of the states the environments are in at step h (from 0)."""
        ...

    def observe(self, episode: Episode) -> None:
        """Append transitions to the data; Q̄ stays as it is."""
        ...


class Range(NamedTuple):
    """What values may be at each step: the clip range of every critic."""

    low: Tensor  # (H,)
    high: Tensor  # (H,)


@dataclass(frozen=True)
class Optimism:
    """How much is added to a fit. The multiplier is c_b of the count bonus, β_b of the elliptical one; 0: nothing."""

    multiplier: float
    log_term: float = 0.0  # ln(2SAHT/δ); this and the width are of the count bonus alone
    width: Tensor | None = None  # (H,) in place of vmax − vmin


# --- the mathematics -------------------------------------------------------------------------------------------------


def hoeffding_log(states: int, actions: int, horizon: int, episodes: int, delta: float) -> float:
    """Return ln(2SAHT/δ), for which the bonus with c_b = 1 makes Q̄ ≥ Q* everywhere with probability 1 − δ."""
    return math.log(2 * states * actions * horizon * episodes / delta)


def count_bonus(visits: Tensor, width: Tensor, optimism: Optimism) -> Tensor:
    """Return b = c_b·(vmax − vmin)·√(ln(2SAHT/δ) / (2 max(1, n))) of visits (…); `width` broadcasts with them."""
    return optimism.multiplier * width * torch.sqrt(optimism.log_term / (2 * visits.clamp(min=1)))


def induction(
    visits: Tensor,
    successors: Tensor,
    reward_sum: Tensor,
    bounds: Range,
    optimism: Optimism | None,
    policy: Tensor | None = None,
) -> Tensor:
    """Return Q̄ (M, H, S, A) = clip(r̂ + P̂ V̄ + b), h = H … 1, of counts n (M, H, S, A) and n' (M, H, S, A, S).

    V̄ is the maximum over actions, or the mean under `policy` (M, H, S, A). What was never visited is worth vmax with
    optimism, and 0 (clipped) without.
    """
    q = torch.empty_like(visits)
    width = bounds.high - bounds.low if optimism is None or optimism.width is None else optimism.width
    inverse = 1 / visits.clamp(min=1)
    known = reward_sum * inverse  # r̂ + b
    if optimism is not None:
        optimistic = known + count_bonus(visits, width[:, None, None], optimism)
        known = torch.where(visits > 0, optimistic, bounds.high[:, None, None])  # no successor: P̂V̄ is 0 there
    following = torch.zeros_like(visits[:, 0, :, 0])  # (M, S)
    for h in reversed(range(visits.shape[1])):
        total = torch.bmm(successors[:, h].flatten(1, 2), following[..., None]).view_as(visits[:, h])
        fit = torch.addcmul(known[:, h], total, inverse[:, h])
        q[:, h] = fit.clamp_(bounds.low[h], bounds.high[h])
        following = fit.amax(-1) if policy is None else (policy[:, h] * fit).sum(-1)
    return q


# --- the critic ------------------------------------------------------------------------------------------------------

LARGEST = 2 * 10**8  # numbers in the table of transitions, 1.6 GB


class TabularCritic(Stateful):
    """Counts of every replicate; planned anew once a triple (h, s, a) has `switch_ratio` times its visits at the last
    plan, or every episode (`switch_ratio` None)."""

    STATEFUL = ("visits", "successors", "reward_sum", "planned_visits", "due", "q")

    def __init__(
        self,
        shape: tuple[int, int, int, int],
        bounds: Range,
        optimism: Optimism | None,
        switch_ratio: float | None,
        device: torch.device,
    ) -> None:
        replicates, horizon, states, actions = shape
        if (size := math.prod(shape) * states) > LARGEST:
            raise ValueError(
                f"counting the transitions of {replicates} replicates x {horizon} steps x {states} states x {actions} "
                f"actions takes {size * 8 / 1e9:.1f} GB; pass --agent.critic linear, or fewer --num-envs"
            )
        self.shape, self.bounds, self.optimism, self.switch_ratio = shape, bounds, optimism, switch_ratio
        empty = {"dtype": torch.float64, "device": device}
        self.visits = torch.zeros(shape, **empty)  # type: ignore[call-overload]
        self.successors = torch.zeros(*shape, states, **empty)  # type: ignore[call-overload]
        self.reward_sum = torch.zeros_like(self.visits)
        self.planned_visits = torch.zeros_like(self.visits)
        self.due = torch.ones(replicates, dtype=torch.bool, device=device)
        self.q = torch.zeros_like(self.visits)  # Q̄
        replicate = torch.arange(replicates, device=device)
        self._first = (replicate * horizon + torch.arange(horizon, device=device)[:, None]) * states  # (H, N) rows

    def drifted(self) -> Tensor:
        """Return (N,) bool; n ≥ ratio·max(1, n at the last plan) somewhere, or nothing is planned yet."""
        return torch.ones_like(self.due) if self.switch_ratio is None else self.due

    def plan(self, which: Tensor, policy: Tensor | None) -> None:
        """Plan from the counts as they are."""
        visits, successors, rewards = (
            x.index_select(0, which) for x in (self.visits, self.successors, self.reward_sum)
        )
        self.q[which] = induction(visits, successors, rewards, self.bounds, self.optimism, policy)
        self.planned_visits[which] = self.visits[which]
        self.due[which] = False

    def values(self, h: int, state: Tensor) -> Tensor:
        """Return Q̄_h(s, ·) (N, A) of state indices (N,)."""
        return self.q[torch.arange(len(state), device=state.device), h, state]

    def observe(self, episode: Episode) -> None:
        """Count transitions; only what was just counted can have come due."""
        _, _, states, actions = self.shape
        first = self._first.view(*self._first.shape, *[1] * (episode.state.ndim - 2))
        cell = ((first + episode.state) * actions + episode.action).flatten()
        one = torch.ones_like(cell, dtype=torch.float64)
        self.visits.view(-1).index_add_(0, cell, one)
        self.successors.view(-1).index_add_(0, cell * states + episode.next_state.flatten(), one)
        self.reward_sum.view(-1).index_add_(0, cell, episode.reward.flatten().double())
        if self.switch_ratio is not None:
            enough = self.switch_ratio * self.planned_visits.view(-1)[cell].clamp(min=1)
            doubled = (self.visits.view(-1)[cell] >= enough).view(len(episode.state), len(self.due), -1)
            self.due |= doubled.any(2).any(0)
