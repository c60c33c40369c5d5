"""Settings that H2O shares with the CQL, DARC and cloning of the code it comes from: docs/derivations/h2o.md §6.1."""

from __future__ import annotations

from dataclasses import dataclass

from surefoot.agents.parts.interaction import RolloutConfig
from surefoot.agents.parts.networks import LOG_STD_MIN


@dataclass(frozen=True)
class H2OHeads:
    """The output heads of the code family that H2O, its CQL and its DARC come from (§6.1)."""

    log_std_offset: float = -1.0
    """c₂ in log std = c₁·raw + c₂, raw the network's output."""
    learn_log_std_affine: bool = True
    """Learn c₁ and c₂ along with the weights."""
    log_std_min: float = LOG_STD_MIN
    """Lower bound of the policy's log std."""
    last_layer_gain: float | None = 0.01
    """Gain of the Xavier initialisation of the output layers of policy and critics; None: PyTorch's default."""


@dataclass(frozen=True)
class SimulatorRollout(RolloutConfig):
    """How H2O and its DARC alternate (§5)."""

    rollout_steps: int = 1_000
    """Simulator steps between two rounds of updates."""
    learning_starts: int = 256
    """Simulator steps before the first round of updates; at least one classifier batch."""
    random_steps: int = 0
    """Simulator steps with uniformly random actions at the start (the authors: none)."""
