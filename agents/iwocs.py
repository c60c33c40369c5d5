"""IWOCS with neural networks: what a composite of policies needs, as free functions. The agent itself is not here yet.

Zouitine, Geist, Rachelson, *Solving robust MDPs as a sequence of static RL problems*, arXiv 2410.06212.

| paper | here |
|---|---|
| L_Q: the value of the policy without entropy terms | `sac.soft_target` with `alpha=None`, `sac.twin_q_loss` |
| L_T̂ = E‖T̂(s, a) − s'‖₁ | `prediction_loss` |
| model j is usable in s_t iff ‖T̂_j(s_{t−1}, a_{t−1}) − s_t‖₁ ≤ ρ_j | `is_valid` |
| the most pessimistic usable specialist acts, else the default policy | `choose`, `Composite` |
| ρ_i: the one of R whose worst value is highest | `THRESHOLDS`, `best_threshold` |

Not stated in the paper, so ours: all models are usable in the first step of an episode; specialists propose their mean
action; of equal thresholds the larger is taken. ρ is an absolute error summed over all observations, so with many of
them every model may be unusable everywhere, and the composite silently is its default: `Composite.shares` shows it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

THRESHOLDS = tuple(k / 10 for k in range(1, 11))  # R, section 5 of the paper
Act = Callable[[Tensor], Tensor]  # (N, obs) -> (N, act)


class Specialist(NamedTuple):
    """What was learned in one model, frozen."""

    act: Act  # its mean action
    q: Callable[[Tensor, Tensor], Tensor]  # (N, obs), (N, act) -> (E, N), the unregularised critics
    predict: Callable[[Tensor, Tensor], Tensor]  # (N, obs), (N, act) -> (N, obs)
    rho: float


def prediction_loss(predicted: Tensor, next_obs: Tensor) -> Tensor:
    """Return the mean over the batch of the L1 error, summed over the observation."""
    return (predicted - next_obs).abs().sum(-1).mean()


def is_valid(predicted: Tensor, obs: Tensor, rho: float) -> Tensor:
    """Return (N,) whether a model foresaw this observation, from the step before, to within ρ."""
    return (predicted - obs).abs().sum(-1) <= rho


def choose(q: Tensor, valid: Tensor) -> Tensor:
    """Return (N,) the usable specialist with the smallest value, of q and valid (J, N); −1 where none is usable."""
    best = torch.where(valid, q, torch.inf).argmin(0)
    return torch.where(valid.any(0), best, -1)


def best_threshold(worst_values: Sequence[float], thresholds: Sequence[float] = THRESHOLDS) -> float:
    """Return the threshold whose composite has the highest worst value; of equal ones the largest."""
    return max(zip(worst_values, thresholds, strict=True))[1]


class Composite:
    """A player (`interface.Player`) of several specialists and a default policy, with its one step of memory a lane."""

    def __init__(self, specialists: Sequence[Specialist], default: Act):
        self.specialists, self.default = tuple(specialists), default
        self.restart()

    def restart(self) -> None:
        """Forget the step before and the shares: all lanes start an episode."""
        self._before: tuple[Tensor, Tensor] | None = None
        self._fresh: Tensor | None = None
        self._served = torch.zeros(len(self.specialists) + 1, dtype=torch.int64)

    def see(self, reward: Tensor, ended: Tensor) -> None:
        """Note which lanes (N,) begin another episode."""
        self._fresh = ended.bool()

    @property
    def shares(self) -> Tensor:
        """The shares (J + 1,) of the steps so far that each specialist and the default served; resting lanes count."""
        return self._served / self._served.sum().clamp(min=1)

    def __call__(self, obs: Tensor) -> Tensor:
        """Return actions (N, act)."""
        proposals = torch.stack([*(one.act(obs) for one in self.specialists), self.default(obs)])  # (J + 1, N, act)
        q = torch.stack([one.q(obs, a).amin(0) for one, a in zip(self.specialists, proposals, strict=False)])
        chosen = choose(q, self._valid(obs)) % len(proposals)  # −1 is the last, the default
        action = proposals[chosen, torch.arange(len(obs), device=obs.device)]
        self._before = obs, action
        self._served = self._served.to(obs.device) + torch.bincount(chosen, minlength=len(proposals))
        return action

    def _valid(self, obs: Tensor) -> Tensor:
        """Return (J, N), by what was really executed in the step before, whoever chose it."""
        if self._before is None or self._fresh is None:
            return torch.ones(len(self.specialists), len(obs), dtype=torch.bool, device=obs.device)
        foreseen = [is_valid(one.predict(*self._before), obs, one.rho) for one in self.specialists]
        return torch.stack(foreseen) | self._fresh
