"""What is deployed: the first replicate's most likely action at every step and state, as a table."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import torch
from torch import Tensor

from surefoot.agents.interface import Spaces

LARGEST_CODE = 62  # bits that fit into an integer


class TablePolicy:
    """Actions by step and state. Observations are the state, one-hot or as bits, followed by the step."""

    def __init__(self) -> None:
        self.actions = torch.zeros(0, 0, dtype=torch.int16)  # (H, S)
        self.codes = torch.zeros(0, dtype=torch.int64)  # (S,) the bits that show each state; empty: one-hot

    def act(self, obs: Tensor, *, explore: bool = False) -> Tensor:
        """Return the actions (M,) for observations (M, O + 1); after the last step, those of the last step.

        The bits of no state, and an empty policy, are a `ValueError`.
        """
        if not len(self.actions):
            raise ValueError("the policy holds no actions yet; load its state first")
        table = self.actions.to(obs.device)
        step = obs[:, -1].long().clamp(0, len(table) - 1)
        return table[step, self.state_of(obs[:, :-1])].long()

    def state_of(self, shown: Tensor) -> Tensor:
        """Return the index (M,) of the state that observations without the step (M, O) show."""
        if not len(self.codes):
            return shown.argmax(-1)
        order = self.codes.to(shown.device).sort()
        code = bits_to_code(shown)
        place = torch.searchsorted(order.values, code).clamp(max=len(order.values) - 1)
        if bool((order.values[place] != code).any()):
            raise ValueError("an observation shows no state of the task this policy was trained in")
        return order.indices[place]

    def state_dict(self) -> dict[str, Any]:
        return {"actions": self.actions.clone(), "codes": self.codes.clone()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.actions, self.codes = state["actions"].clone(), state["codes"].clone()


def make_policy(config: Any, spaces: Spaces) -> TablePolicy:
    """Return an empty policy, to be loaded."""
    return TablePolicy()


def bits_to_code(bits: Tensor) -> Tensor:
    """Return Σ 2^i bit_i (…) of bits (…, O)."""
    return (bits.round().long() << torch.arange(bits.shape[-1], device=bits.device)).sum(-1)


def state_codes(env: Any, space: gym.Space[Any], states: int, device: torch.device) -> Tensor:
    """Return the codes (S,) of a task's states, or nothing where they are shown one-hot; `space` is time-aware.

    Raises `ValueError` where a state's observation is neither.
    """
    assert space.shape is not None
    width = space.shape[0] - 1
    if width == states:
        return torch.zeros(0, dtype=torch.int64)
    if width > LARGEST_CODE or hasattr(env, "noise") or hasattr(env, "cells"):
        raise ValueError(
            f"observations have {width} coordinates for {states} states; nora's exact critics need states shown "
            "one-hot or as bits (no --env.kwargs cells, no --env.kwargs noise)"
        )
    return bits_to_code(env.observe((torch.arange(states, device=device),)))
