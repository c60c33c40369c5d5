"""Several specialists and a default policy as one: who may act, who does, and how the threshold between is chosen.

Arithmetic of docs/derivations/iwocs.md §4.3 to §4.6; the table of equations is in `agent.py`. Nothing here knows how
the parts were learned.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

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
    usual: float = 1.0  # z of (4.16), the error that is usual for its predictor


class Gate(NamedTuple):
    """How errors are remembered and who of the usable acts; the defaults are the paper's."""

    memory: float = 0.0  # by which a remembered error fades in a step, (4.21); 0: that of the last step alone
    choice: Literal["pessimistic", "accurate"] = "pessimistic"  # (4.13) or (4.22)
    first: Literal["pessimistic", "default"] | int = "pessimistic"  # in an episode's first step: (4.13), (4.23), (4.26)


def prediction_error(predicted: Tensor, next_obs: Tensor) -> Tensor:
    """Return ‖T̂(s, a) − s'‖₁ (N,), summed over the observation."""
    return (predicted - next_obs).abs().sum(-1)


def prediction_loss(predicted: Tensor, next_obs: Tensor) -> Tensor:
    """Return the mean over the batch of the L1 error."""
    return prediction_error(predicted, next_obs).mean()


def is_valid(error: Tensor, rho: float) -> Tensor:
    """Return (N,) whether a model foresaw an observation, from the step before, to within ρ."""
    return error <= rho


def usable(error: Tensor, fresh: Tensor, rho: float) -> Tensor:
    """Return (N,) where a model is usable, (4.11): in first steps, fresh (N,), always; with ρ = 0, rejected, never."""
    return is_valid(error, rho) | fresh if rho > 0 else torch.zeros_like(fresh)


def remembered(trace: Tensor, error: Tensor, fresh: Tensor, memory: float) -> tuple[Tensor, Tensor]:
    """Return the next trace (J + 1, N) and the errors (J, N) by which models are judged, (4.21).

    The trace holds faded sums of the errors (J, N) of steps, and last of the steps; nothing where fresh (N,).
    """
    faded = memory * trace if memory else torch.zeros_like(trace)  # one infinite error is not remembered for ever
    trace = torch.where(fresh, 0.0, faded + torch.cat([error, torch.ones_like(trace[:1])]))
    return trace, trace[:-1] / trace[-1].clamp(min=1.0)


def choose(order: Tensor, valid: Tensor) -> Tensor:
    """Return (N,) the usable specialist that is first, of order and valid (J, N); −1 where none is usable."""
    best = torch.where(valid, order, torch.inf).argmin(0)
    return torch.where(valid.any(0), best, -1)


def best_threshold(
    values: Sequence[float],
    thresholds: Sequence[float] = THRESHOLDS,
    ties: Literal["largest", "middle", "again"] = "largest",
) -> float:
    """Return the threshold whose composite has the highest value; of equal ones the largest, or the middle, (4.27)."""
    best = [rho for value, rho in zip(values, thresholds, strict=True) if value == max(values)]
    return max(best) if ties == "largest" else sorted(best)[(len(best) - 1) // 2]


def repeated(model: Tensor, before: Sequence[Tensor], span: Tensor, tolerance: float) -> list[int]:
    """Return which of the models (d,) before are this one, to within a fraction of the span (d,) of each parameter."""
    return [j for j, other in enumerate(before) if ((model - other).abs() / span).max() <= tolerance]


# --- the composite policy --------------------------------------------------------------------------------------------


class Composite:
    """Several specialists and a default policy as a `StatefulPolicy` with a memory of each environment's steps."""

    needs_rewards = False

    def __init__(self, specialists: Sequence[Specialist], default: Act, gate: Gate | None = None):
        self.specialists, self.default, self.gate = tuple(specialists), default, gate or Gate()
        self.reset()

    def reset(self) -> None:
        """Forget the steps before and the counts: all environments start an episode."""
        self._before: tuple[Tensor, Tensor] | None = None
        self._trace: Tensor | None = None
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
        action, chosen = self.judged(obs)
        self._before = obs, action
        self._count(chosen)
        return action

    def judged(self, obs: Tensor) -> tuple[Tensor, Tensor]:
        """Return actions (N, act) and who acts (N,), and remember what that took."""
        if self._before is None or self._fresh is None:
            error, fresh = torch.zeros(len(self.specialists), len(obs)).to(obs), torch.ones_like(obs[:, 0]).bool()
        else:
            error, fresh = self.errors(*self._before, obs), self._fresh
        trace = torch.zeros(len(error) + 1, len(obs)).to(obs) if self._trace is None else self._trace
        self._trace, error = remembered(trace, error, fresh, self.gate.memory)
        return self.decide(obs, error, fresh)

    def errors(self, before: Tensor, action: Tensor, obs: Tensor) -> Tensor:
        """Return (J, N): each predictor's error in obs (N, obs), by what was executed in the step before, (4.10)."""
        if not self.specialists:
            return torch.zeros(0, len(obs)).to(obs)
        return torch.stack([prediction_error(one.predict(before, action), obs) for one in self.specialists])

    def decide(self, obs: Tensor, error: Tensor, fresh: Tensor) -> tuple[Tensor, Tensor]:
        """Return actions (N, act) and who acts (N,), the last being the default.

        Specialists are judged by their errors (J, N); where there is no step before, fresh (N,), all with ρ > 0 are
        usable, or by (4.23) none, by (4.26) one.
        """
        proposals = self.proposals(obs)
        chosen = torch.full_like(proposals[0, :, 0], -1, dtype=torch.int64)
        if self.specialists:
            valid = torch.stack([usable(e, fresh, one.rho) for e, one in zip(error, self.specialists, strict=True)])
            order = torch.stack([one.q(obs, a).amin(0) for one, a in zip(self.specialists, proposals, strict=False)])
            if self.gate.first != "pessimistic":  # one acts alone: the default where it is none of these
                alone = torch.tensor([[j == self.gate.first] for j in range(len(valid))], device=valid.device)
                valid = valid & ~fresh | alone & fresh
            if self.gate.choice == "accurate":  # with no step before nothing is known, and the pessimist acts
                usual = torch.tensor([one.usual for one in self.specialists]).to(error)
                order = torch.where(fresh, order, error / usual[:, None])
            chosen = choose(order, valid)
        chosen = chosen % len(proposals)  # −1 is the last, the default
        return self.of(proposals, chosen), chosen

    def proposals(self, obs: Tensor) -> Tensor:
        """Return the actions (J + 1, N, act) of all, the default's last."""
        return torch.stack([*(one.act(obs) for one in self.specialists), self.default(obs)])

    def of(self, proposals: Tensor, chosen: Tensor) -> Tensor:
        """Return the actions (N, act) of who was chosen (N,)."""
        return proposals.gather(0, chosen[None, :, None].expand_as(proposals[:1]))[0]

    def _count(self, chosen: Tensor) -> None:
        job = torch.zeros_like(chosen) if self._job is None else self._job.to(chosen.device)
        busy = (job >= 0).long()
        self._served = self._served.to(chosen.device)
        self._served.index_put_((job.clamp(min=0), chosen), busy, accumulate=True)


def _fractions(served: Tensor) -> Tensor:
    return served / served.sum(-1, keepdim=True).clamp(min=1)
