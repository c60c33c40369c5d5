"""Several specialists and a default policy as one: who may act, who does, and how the threshold between is chosen.

Arithmetic of docs/derivations/iwocs.md §4.3 to §4.6; the table of equations is in `agent.py`. Nothing here knows how
the parts were learned.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

THRESHOLDS = tuple(k / 10 for k in range(1, 11))  # R, §4.5
Act = Callable[[Tensor], Tensor]  # (N, obs) -> (N, act)


class Specialist(NamedTuple):
    """What was learned in one model, frozen."""

    act: Act  # its mean action
    q: Callable[[Tensor, Tensor], Tensor]  # (N, obs), (N, act) -> (E, N), the unregularised critics
    predict: Callable[[Tensor, Tensor], Tensor]  # (N, obs), (N, act) -> (N, obs)
    rho: float


def prediction_error(predicted: Tensor, next_obs: Tensor) -> Tensor:
    """Return ‖T̂(s, a) − s'‖₁ (N,), summed over the observation."""
    return (predicted - next_obs).abs().sum(-1)


def prediction_loss(predicted: Tensor, next_obs: Tensor) -> Tensor:
    """Return the mean over the batch of the L1 error."""
    return prediction_error(predicted, next_obs).mean()


def is_valid(predicted: Tensor, obs: Tensor, rho: float) -> Tensor:
    """Return (N,) whether a model foresaw this observation, from the step before, to within ρ."""
    return prediction_error(predicted, obs) <= rho


def choose(q: Tensor, valid: Tensor) -> Tensor:
    """Return (N,) the usable specialist with the smallest value, of q and valid (J, N); −1 where none is usable."""
    best = torch.where(valid, q, torch.inf).argmin(0)
    return torch.where(valid.any(0), best, -1)


def best_threshold(values: Sequence[float], thresholds: Sequence[float] = THRESHOLDS) -> float:
    """Return the threshold whose composite has the highest value; of equal ones the largest."""
    return max(zip(values, thresholds, strict=True))[1]


def repeated(model: Tensor, before: Sequence[Tensor], span: Tensor, tolerance: float) -> list[int]:
    """Return which of the models (d,) before are this one, to within a fraction of the span (d,) of each parameter."""
    return [j for j, other in enumerate(before) if ((model - other).abs() / span).max() <= tolerance]


# --- the composite policy --------------------------------------------------------------------------------------------


class Composite:
    """Several specialists and a default policy as a `StatefulPolicy` with one step of memory per environment."""

    needs_rewards = False

    def __init__(self, specialists: Sequence[Specialist], default: Act):
        self.specialists, self.default = tuple(specialists), default
        self.reset()

    def reset(self) -> None:
        """Forget the step before and the counts: all environments start an episode."""
        self._before: tuple[Tensor, Tensor] | None = None
        self._fresh: Tensor | None = None
        self._job: Tensor | None = None
        self._served = torch.zeros(1, len(self.specialists) + 1, dtype=torch.int64)  # (jobs, J + 1) steps

    def observe(self, reward: Tensor, ended: Tensor) -> None:
        """Note which environments (N,) begin another episode."""
        self._fresh = ended.bool()

    def track(self, job: Tensor, jobs: int) -> None:
        """Note which of so many episodes each environment (N,) is in, −1 for none: steps are counted for each."""
        self._job = job
        if len(self._served) != jobs:
            self._served = self._served.new_zeros(jobs, self._served.shape[1])

    @property
    def fractions(self) -> Tensor:
        """The fractions (J + 1,) of the steps so far in which each specialist and the default acted."""
        return _fractions(self._served.sum(0))

    @property
    def fractions_by_job(self) -> Tensor:
        """The same for every episode (jobs, J + 1) that `track` was called with."""
        return _fractions(self._served)

    def __call__(self, obs: Tensor) -> Tensor:
        """Return actions (N, act)."""
        action, chosen = self.decide(obs, self._valid(obs))
        self._before = obs, action
        self._count(chosen)
        return action

    def decide(self, obs: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
        """Return actions (N, act) and who acts (N,), the last being the default; valid (J, N) is the gate."""
        proposals = torch.stack([*(one.act(obs) for one in self.specialists), self.default(obs)])  # (J + 1, N, act)
        chosen = torch.full_like(proposals[0, :, 0], -1, dtype=torch.int64)
        if self.specialists:
            q = torch.stack([one.q(obs, a).amin(0) for one, a in zip(self.specialists, proposals, strict=False)])
            chosen = choose(q, valid)
        chosen = chosen % len(proposals)  # −1 is the last, the default
        return proposals.gather(0, chosen[None, :, None].expand_as(proposals[:1]))[0], chosen

    def _valid(self, obs: Tensor) -> Tensor:
        """Return (J, N), by what was really executed in the step before, whoever chose it."""
        if self._before is None or self._fresh is None:
            return torch.ones(len(self.specialists), len(obs), dtype=torch.bool, device=obs.device)
        return self.foreseen(*self._before, obs) | self._fresh

    def foreseen(self, before: Tensor, action: Tensor, obs: Tensor) -> Tensor:
        """Return (J, N): whether each specialist's predictor foresaw obs (N, obs) from the step before."""
        if not self.specialists:
            return torch.ones(0, len(obs), dtype=torch.bool, device=obs.device)
        return torch.stack([is_valid(one.predict(before, action), obs, one.rho) for one in self.specialists])

    def _count(self, chosen: Tensor) -> None:
        job = torch.zeros_like(chosen) if self._job is None else self._job.to(chosen.device)
        busy = (job >= 0).long()
        self._served = self._served.to(chosen.device)
        self._served.index_put_((job.clamp(min=0), chosen), busy, accumulate=True)


def _fractions(served: Tensor) -> Tensor:
    return served / served.sum(-1, keepdim=True).clamp(min=1)
