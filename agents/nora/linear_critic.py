"""The linear critic: ridge regression on features, an elliptical bonus, replanned when a determinant doubles.

Tan, Fan, Wei, arXiv 2505.03710; formulas: docs/derivations/nora.md §5. Features are blocks: φ(s, a) is a short vector,
in one block of many, so that Λ is block-diagonal; ordinary features are a single block.

| derivation | paper | here |
|---|---|---|
| (5.1), (5.7) | – | `LinearCritic.observe`, `rank_one`: Λ and its inverse |
| (5.2) | – | `LinearCritic.plan`: ŵ |
| (5.12) | – | `LinearCritic.observe`, `LinearCritic.plan`: pooled data |
| (5.3) | – | `LinearCritic.optimistic`: Q̄ |
| (5.4) | – | `elliptical` |
| (5.5), (5.6) | – | `LinearCritic.drifted`: switch by determinants, at most (5.9) times |
| (5.11) | – | `Features`: blocks |
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from surefoot.agents.nora.tabular_critic import Episode, Range
from surefoot.agents.parts.state import Stateful


class Features(NamedTuple):
    """φ(s, ·) of some states: `values` of every action stand in block `block` of Λ, zeros elsewhere."""

    values: Tensor  # (…, A, k)
    block: Tensor  # (…, A) int64


# --- the mathematics -------------------------------------------------------------------------------------------------


def elliptical(values: Tensor, inverse: Tensor) -> Tensor:
    """Return ‖φ‖_{Λ⁻¹} = √(φᵀ Λ⁻¹ φ) (…) of vectors (…, k) and matrices (…, k, k)."""
    return ((values[..., None, :] @ inverse).squeeze(-2) * values).sum(-1).clamp(min=0).sqrt()


def rank_one(inverse: Tensor, phi: Tensor) -> tuple[Tensor, Tensor]:
    """Return (Λ + φφᵀ)⁻¹ and log det(Λ + φφᵀ) − log det Λ of Λ⁻¹ (…, k, k) and φ (…, k) (Sherman, Morrison)."""
    u = (inverse @ phi[..., None]).squeeze(-1)
    gain = (u * phi).sum(-1)
    return inverse - u[..., None] * u[..., None, :] / (1 + gain)[..., None, None], gain.log1p()


class History:
    """The transitions of every replicate, in a tensor that doubles when it is full."""

    def __init__(self, horizon: int, replicates: int, device: torch.device) -> None:
        self.size = 0
        self.rows = torch.zeros(4, horizon, replicates, 64, dtype=torch.float64, device=device)

    def append(self, episode: Episode) -> None:
        new = torch.stack([field.double().reshape(*field.shape[:2], -1) for field in episode])  # (4, H, N, E)
        until = self.size + new.shape[-1]
        while until > self.rows.shape[-1]:
            self.rows = torch.cat([self.rows, torch.zeros_like(self.rows)], -1)
        self.rows[..., self.size : until] = new
        self.size = until

    def of(self, h: int | None, which: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return state, action, reward, next state (M, T) of the replicates `which`, at step h, or at all (M, H·T)."""
        steps = slice(None) if h is None else slice(h, h + 1)
        chosen = self.rows[:, steps, :, : self.size].index_select(2, which)  # (4, H or 1, M, T)
        state, action, reward, following = chosen.transpose(1, 2).flatten(2)
        return state.long(), action.long(), reward, following.long()

    def state_dict(self) -> dict[str, Any]:
        return {"size": self.size, "rows": self.rows[..., : self.size].clone()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.size = 0
        if state["size"]:
            self.append(Episode(*state["rows"].to(self.rows.device)))


# --- the critic ------------------------------------------------------------------------------------------------------


class LinearCritic(Stateful):
    """Q̄_h(s, a) = clip(φᵀŵ_h + β_b·‖φ‖_{Λ_h⁻¹}), ŵ_h = Λ_h⁻¹ Σ φ·(r + V̄_{h+1}(s')); Λ = λI + Σ φφᵀ.

    Planned anew once log det Λ_h has grown by log(1 + c) at some step h, or by κ over all steps together, or every
    episode. `table`: there are few enough states to keep Q̄ of all of them. `pooled`: the steps are
    alike: there is one Λ, and ŵ_h is fitted to the transitions of all steps, with the targets of step h.
    """

    STATEFUL = ("history", "gram", "inverse", "gain", "unplanned", "frozen_inverse", "weights", "q")

    def __init__(
        self,
        features: Callable[[Tensor], Features],
        sizes: tuple[int, int, int, int],  # N, H, S, A
        dims: tuple[int, int],  # blocks B, width k
        bounds: Range,
        *,
        beta: float,
        lam: float,
        threshold: float | None,  # of log det Λ_h; None: every episode
        total: bool = False,  # the threshold is for the sum over h
        table: bool = True,
        pooled: bool = False,
        device: torch.device,
    ) -> None:
        self.features, self.bounds, self.beta, self.lam = features, bounds, beta, lam
        self.threshold, self.total, self.pooled = threshold, total, pooled
        replicates, horizon, states, actions = sizes
        blocks, width = dims
        groups = 1 if pooled else horizon  # G, how many Λ there are
        identity = torch.eye(width, dtype=torch.float64, device=device).expand(replicates, groups, blocks, -1, -1)
        self.gram, self.inverse = identity * lam, identity / lam
        self.frozen_inverse = self.inverse.clone()
        self.weights = torch.zeros(replicates, horizon, blocks, width, dtype=torch.float64, device=device)
        self.gain = torch.zeros(replicates, groups, dtype=torch.float64, device=device)  # of log det since the plan
        self.unplanned = torch.ones(replicates, dtype=torch.bool, device=device)
        self.history = History(horizon, replicates, device)
        cells = (replicates, horizon, states, actions) if table else (0, horizon, 0, actions)
        self.q = torch.zeros(cells, dtype=torch.float64, device=device)
        self.states = torch.arange(states, device=device) if table else None

    def drifted(self) -> Tensor:
        """Return (N,) bool: det Λ has grown enough since the last plan, or nothing is planned yet."""
        if self.threshold is None:
            return torch.ones_like(self.unplanned)
        grown = self.gain.sum(1) if self.total else self.gain.amax(1)
        return self.unplanned | (grown >= self.threshold)

    def plan(self, which: Tensor, policy: Tensor | None) -> None:
        """Factorise Λ anew and regress backwards, h = H … 1."""
        fresh = torch.cholesky_inverse(torch.linalg.cholesky(self.gram[which]))
        self.inverse[which] = fresh
        self.frozen_inverse[which] = fresh
        self.gain[which] = 0.0
        self.unplanned[which] = False
        horizon = self.weights.shape[1]
        for h in reversed(range(horizon)):
            state, action, reward, following = self.history.of(None if self.pooled else h, which)
            target = reward
            if h + 1 < horizon:
                target = target + self._following(h + 1, which, following, policy)
            self.weights[which, h] = self._solve(fresh[:, self._group(h)], state, action, target)
            if self.states is not None:
                self.q[which, h] = self.optimistic(h, which, self.states.expand(len(which), -1))

    def _group(self, h: int) -> int:
        """Return which Λ is that of step h."""
        return 0 if self.pooled else h

    def _following(self, h: int, which: Tensor, state: Tensor, policy: Tensor | None) -> Tensor:
        """Return V̄_h(s) (M, T) of states (M, T)."""
        rows = torch.arange(len(which), device=state.device)[:, None]
        q = self.optimistic(h, which, state) if self.states is None else self.q[which, h][rows, state]
        return q.amax(-1) if policy is None else (policy[:, h][rows, state] * q).sum(-1)

    def _solve(self, inverse: Tensor, state: Tensor, action: Tensor, target: Tensor) -> Tensor:
        """Return ŵ (M, B, k) for Λ⁻¹ (M, B, k, k)."""
        phi, block = self._taken(state, action)
        moment = inverse.new_zeros(inverse.shape[:-1])
        moment.scatter_add_(1, block[..., None].expand(phi.shape), phi * target[..., None])
        return (inverse @ moment[..., None]).squeeze(-1)

    def _taken(self, state: Tensor, action: Tensor) -> tuple[Tensor, Tensor]:
        """Return φ(s, a) (…, k) and its block (…)."""
        values, block = self.features(state)
        chosen = action[..., None]
        taken = values.gather(-2, chosen[..., None].expand(*chosen.shape, values.shape[-1])).squeeze(-2)
        return taken, block.gather(-1, chosen).squeeze(-1)

    def optimistic(self, h: int, which: Tensor, state: Tensor) -> Tensor:
        """Return Q̄_h(s, ·) (M, T, A) of states (M, T), by the plan in force."""
        values, block = self.features(state)
        rows = which.view(-1, 1, 1).expand(block.shape)
        q = (values * self.weights[:, h][rows, block]).sum(-1)
        if self.beta:
            q = q + self.beta * elliptical(values, self.frozen_inverse[:, self._group(h)][rows, block])
        return q.clamp(self.bounds.low[h], self.bounds.high[h])

    def values(self, h: int, state: Tensor) -> Tensor:
        """Return Q̄_h(s, ·) (N, A) of state indices (N,)."""
        index = torch.arange(len(state), device=state.device)
        if self.states is not None:
            return self.q[index, h, state]
        return self.optimistic(h, index, state[:, None])[:, 0]

    def observe(self, episode: Episode) -> None:
        """Keep the transitions and add their features to Λ; the plan in force does not move."""
        self.history.append(episode)
        phi, block = self._taken(episode.state, episode.action)  # (H, N, [E,] k)
        phi, block = phi.flatten(2, -2) if phi.ndim > 3 else phi[:, :, None], block.reshape(*block.shape[:2], -1)
        if self.pooled:  # the steps are so many more transitions of one Λ: (1, N, H·E)
            phi, block = phi.transpose(0, 1).flatten(1, 2)[None], block.transpose(0, 1).flatten(1)[None]
        groups, replicates, count = block.shape
        replicate = torch.arange(replicates, device=block.device)
        group = torch.arange(groups, device=block.device)[:, None]
        for e in range(count):  # rank one after rank one: several may fall into one block
            at = (replicate, group, block[:, :, e])
            self.inverse[at], gain = rank_one(self.inverse[at], phi[:, :, e])
            self.gram[at] += phi[:, :, e, :, None] * phi[:, :, e, None, :]
            self.gain += gain.T
