"""AR2: auto-regressive arms with triggers (docs/derivations/dynlin.md §10.6)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from surefoot.agents.dynlin.bandit import BanditConfig, BanditProblem
from surefoot.agents.dynlin.learners import LearnerDefaults, bounds_of, replicate_uniforms, table_of
from surefoot.agents.parts.ranges import AT_LEAST_1, check_ranges


@dataclass(frozen=True)
class AR2Config(BanditConfig):
    """Arms with AR(1) rewards."""

    def __post_init__(self) -> None:
        check_ranges(self, {"rounds_per_step": AT_LEAST_1})

    @property
    def needs_horizon(self) -> bool:
        return False


class AR2(LearnerDefaults):
    """Alternate between the better of the last two arms and the arm that was triggered first.

    An arm is triggered once its reward may have drifted above the superior one's. As in the authors' code a triggered
    arm is never released, so the odd rounds draw from the arms that were triggered first. Unlike there, estimates decay
    from the first round on, also while every arm is played once (§10.6). Where the noise is so large that
    their formulas give an epoch shorter than that, or the root of a negative number, each arm has a round and c₀ is 0.
    """

    STATEFUL = ("estimates", "drift", "triggered", "recent", "uniforms", "t")

    def __init__(self, config: AR2Config, problem: BanditProblem) -> None:
        bounds, arms, replicates = (
            bounds_of(problem, ("rho", "sigma")),
            len(table_of(problem).actions),
            problem.replicates,
        )
        alpha, sigma = bounds.rho, bounds.sigma
        if alpha == 0.0 or sigma == 0.0:
            raise ValueError(f"AR2 divides by the spectral radius {alpha:g} and the noise {sigma:g}; both must be > 0")
        self.alpha, self.arms = alpha, arms
        self.epoch = max(arms, math.ceil(arms * alpha**-3 * sigma**-3))
        squared = 4 * math.log(1 / (alpha * sigma)) + 4 * math.log(self.epoch) + 2 * math.log(4 * arms)
        self.threshold = 24 * math.sqrt(max(0.0, squared)) * sigma  # c₀, the root, times 24σ
        like = {"dtype": torch.float64, "device": problem.device}
        self.estimates = torch.zeros(arms, replicates, **like)  # type: ignore[call-overload]
        self.drift = torch.full((arms, replicates), alpha**2, **like)  # type: ignore[call-overload]  # α^{2(t − τ + 1)}
        self.triggered = torch.full((arms, replicates), math.inf, **like)  # type: ignore[call-overload]  # round
        self.recent = torch.zeros(2, replicates, dtype=torch.int64, device=problem.device)  # arms, the last one first
        self.rows = torch.arange(arms, device=problem.device)[:, None]
        self.uniforms = replicate_uniforms(problem, "ties")
        self.t = 0

    def choose(self, t: int) -> tuple[Tensor, int]:
        """Return the arm of the next round: each once at the start of an epoch, in reverse order, then by turns."""
        place = self.t % self.epoch
        if place < self.arms:
            return torch.full_like(self.recent[0], self.arms - 1 - place), 1
        superior, value = self.superior()
        width = ((self.alpha**2 - self.drift).clamp(min=0.0) / (1 - self.alpha**2)).sqrt()
        due = (value - self.estimates <= self.threshold * width) & (self.rows != superior)
        self.triggered = torch.where(due, self.triggered.clamp(max=float(self.t)), self.triggered)
        return (superior if self.t % 2 else self.earliest(superior)), 1

    def superior(self) -> tuple[Tensor, Tensor]:
        """Return the better-estimated of the last two arms and its estimate, both (N,)."""
        last, previous = self.estimates.gather(0, self.recent)
        return torch.where(last >= previous, self.recent[0], self.recent[1]), torch.maximum(last, previous)

    def earliest(self, otherwise: Tensor) -> Tensor:
        """Return the arm that was triggered first, drawn among equals; `otherwise` where none was."""
        first = self.triggered.amin(0)
        candidates = (self.triggered == first).long().cumsum(0)  # 1, 2, … at the candidates
        wanted = (self.uniforms.next() * candidates[-1]).long()
        chosen = (candidates <= wanted).sum(0)
        return torch.where(first.isfinite(), chosen, otherwise)

    def observe(self, action: Tensor, last: Tensor, mean: Tensor) -> None:
        """Decay every estimate by α; that of the arm played is α·y."""
        self.skip(action)
        self.estimates = self.estimates.scatter(0, action[None], self.alpha * last[None])
        self.drift = self.drift.scatter(0, action[None], torch.full_like(last[None], self.alpha**4))

    def skip(self, action: Tensor) -> None:
        """Decay every estimate by α."""
        self.estimates = self.alpha * self.estimates
        self.drift = self.drift * self.alpha**2
        self.recent = torch.stack([action, self.recent[0]])
        self.t += 1

    def late(self, action: Tensor, reward: Tensor, memo: Tensor | None, age: int) -> None:
        """Take α^{age + 1}·y for the arm, unless a later reward of it is known."""
        arm, drift = action[None], self.alpha ** (2 * age + 4)
        newer = self.drift.gather(0, arm) < drift
        estimate = torch.where(newer, self.alpha ** (age + 1) * reward[None], self.estimates.gather(0, arm))
        self.estimates = self.estimates.scatter(0, arm, estimate)
        self.drift = self.drift.scatter(0, arm, self.drift.gather(0, arm).clamp(min=drift))

    def greedy(self) -> Tensor:
        """Return the better of the last two arms."""
        return self.superior()[0]

    def metrics(self) -> dict[str, Tensor]:
        return {"triggered": self.triggered.isfinite().double().sum(0)}
