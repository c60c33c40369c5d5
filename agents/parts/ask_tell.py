"""Ask and tell: how a bandit learner drives a real system, which it cannot step itself.

`ask` returns a decision: an action and for how many rounds it is to be held. `tell` takes the rewards of these rounds
in their order. Rounds are numbered from 1. A reward that is not there (yet) is told as None, and later, if it comes,
with the number of its round.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch


class Decision(NamedTuple):
    """What to do next. With one replicate `index` is a number and `action` (d,); with N they are (N,) and (N, d)."""

    round: int  # the number of its first round
    rounds: int  # for how many rounds the action is held
    index: int | np.ndarray | None  # type: ignore[assignment]  # the row of the action, in the set or among the contexts; None on a ball
    action: np.ndarray  # float64: the action, or the context of the arm


class AskTell(Protocol):
    """A learner that is asked and told. Every refused call (`ValueError`) leaves it as it was."""

    @property
    def replicates(self) -> int: ...  # N independent systems in lock-step

    @property
    def pending(self) -> Decision | None: ...  # what was asked for and is not wholly told

    def ask(self, contexts: Any = None) -> Decision:
        """Return the next decision; `ValueError` while rounds of the last one have not been told.

        contexts: (K, d), or (N, K, d), of the arms of this round, for learners that choose among contexts.
        """
        ...

    def tell(self, reward: Any, of: int | None = None) -> None:
        """Take in the reward of the next round of the decision, or of the earlier round number `of`.

        reward: a number, or N of them; None, alone or in places, for a reward that is not there. With `of`, None says
        that it never will be.
        """
        ...

    def summary(self) -> dict[str, Any]:
        """Return how it stands as plain values, for people: rounds, what is believed best, warnings."""
        ...

    def state_dict(self) -> dict[str, Any]: ...  # nested dictionaries and lists of tensors and plain values
    def load_state_dict(self, state: dict[str, Any]) -> None: ...


@dataclass(frozen=True)
class BanditRequest:
    """What a learner of the ask-and-tell kind is made from, besides its config; plain values, kept in its file."""

    actions: Any = None  # a table (K, d) as lists, {"ball": radius}; None for learners that are shown contexts
    bounds: Mapping[str, float] = field(default_factory=dict)  # what is known of the system
    replicates: int = 1
    seed: int = 0


MakeAskTell = Callable[[Any, BanditRequest, torch.device], AskTell]  # of a config of the learner's own


def given_rewards(reward: Any, replicates: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the rewards (N,) float64 and which of them are there (N,) bool; `ValueError` for anything else."""
    entries = _entries(reward)
    if entries is None:
        return np.zeros(replicates), np.zeros(replicates, dtype=bool)
    if len(entries) != replicates:
        raise ValueError(f"{len(entries)} reward(s) were told, of {replicates} replicate(s)")
    there = np.array([entry is not None for entry in entries])
    values = np.array([_number(entry) if entry is not None else 0.0 for entry in entries])
    return values, there


def _entries(reward: Any) -> list[Any] | None:
    if reward is None:
        return None
    if isinstance(reward, torch.Tensor | np.ndarray | np.generic):
        reward = reward.tolist()
    return list(reward) if isinstance(reward, list | tuple) else [reward]


def _number(entry: Any) -> float:
    try:
        value = float(entry) if not isinstance(entry, str | bool) else math.nan
    except (TypeError, ValueError):
        value = math.nan
    if not math.isfinite(value):
        raise ValueError(
            f"the reward {entry!r} is not a finite number; tell None (in JSON null) for one that is not there"
        )
    return value
