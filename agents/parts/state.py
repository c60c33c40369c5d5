"""Putting an object's stateful attributes away as plain values, and taking them out again."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, ClassVar

import torch
from torch import Tensor


class Stateful:
    """What is saved and restored by naming it: the attributes in `STATEFUL` are all the state there is."""

    STATEFUL: ClassVar[tuple[str, ...]]

    def state_dict(self) -> dict[str, Any]:
        return pack(self, self.STATEFUL)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        unpack(self, self.STATEFUL, state)


def pack(owner: Any, names: Iterable[str]) -> dict[str, Any]:
    """Return the named attributes of `owner`: modules, optimisers and parts, generators, tensors, plain numbers."""
    return {name: pack_one(getattr(owner, name)) for name in names}


def pack_one(value: Any) -> Any:
    if isinstance(value, torch.Generator):
        return value.get_state()
    if isinstance(value, Tensor):
        return value.detach().clone()
    return value.state_dict() if hasattr(value, "state_dict") else value


def unpack(owner: Any, names: Iterable[str], state: dict[str, Any]) -> None:
    """Give the named attributes of `owner` back what `pack` returned; tensors are written in place, on their device."""
    for name in names:
        value = getattr(owner, name)
        if isinstance(value, torch.Generator):
            value.set_state(state[name])
        elif isinstance(value, Tensor):
            with torch.no_grad():
                value.copy_(state[name])
        elif hasattr(value, "load_state_dict"):
            value.load_state_dict(state[name])
        else:
            setattr(owner, name, state[name])
