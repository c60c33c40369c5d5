"""Regret of replicates in lock-step, kept at log-spaced rounds; an episode of NORA counts as a round.

Equations: docs/derivations/dynlin.md.

| derivation | paper | here |
|---|---|---|
| (1.10) | – | `Regret`: pseudo-regret |
| (1.9), (1.11) | (3) | `Regret.realised` |
| (5.7) | – | `curve_rounds` |
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from surefoot.agents.parts.state import pack, unpack

POINTS_A_DECADE = 24
LAST_ROUND = 10**9


# --- regret -----------------------------------------------------------------------------------------------------------


def curve_rounds() -> list[int]:
    """Return the rounds regret is kept at: all up to 10 or so, then 24 per decade, whatever the horizon."""
    exponents = torch.arange(9 * POINTS_A_DECADE + 1, dtype=torch.float64) / POINTS_A_DECADE
    return sorted({round(10.0**exponent) for exponent in exponents.tolist()})


class Regret:
    """Pseudo-regret R̃(t) = Σ (J* − <h, u>) and realised regret t·J* − Σ y of every replicate."""

    STATEFUL = ("t", "total", "reward", "reached", "curve")
    ROUNDS = curve_rounds()

    def __init__(self, optimum: float, replicates: int, device: torch.device) -> None:
        self.optimum = optimum
        self.t = 0
        self.total = torch.zeros(replicates, dtype=torch.float64, device=device)  # (N,)
        self.reward = torch.zeros(replicates, dtype=torch.float64, device=device)  # (N,)
        self.reached = 0  # points of the curve behind us
        self.curve = torch.zeros(len(self.ROUNDS), replicates, dtype=torch.float64, device=device)  # (P, N)

    @property
    def realised(self) -> Tensor:
        """t·J* − Σ y (N,)."""
        return self.t * self.optimum - self.reward

    def add(self, gap: Tensor, rounds: int, reward: Tensor) -> None:
        """Count rounds of one action: its gap (N,) a round, and the sum of their rewards (N,)."""
        before, self.t = self.t, self.t + rounds
        while self.reached < len(self.ROUNDS) and self.ROUNDS[self.reached] <= self.t:
            self.curve[self.reached] = self.total + gap * (self.ROUNDS[self.reached] - before)
            self.reached += 1
        self.total += gap * rounds
        self.reward += reward

    def trace(self) -> tuple[list[int], Tensor]:
        """Return the rounds (P,) so far and the pseudo-regret (P, N) at them, now included."""
        rounds, curve = self.ROUNDS[: self.reached], self.curve[: self.reached]
        if self.t and (not rounds or rounds[-1] < self.t):
            return [*rounds, self.t], torch.cat([curve, self.total[None]])
        return list(rounds), curve

    def state_dict(self) -> dict[str, Any]:
        return pack(self, self.STATEFUL)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        unpack(self, self.STATEFUL, state)
