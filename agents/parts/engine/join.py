"""Networks and optimisers of several seeds as one: larger stacks in flat tensors, of which the seeds' become views."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from surefoot.agents.parts.engine.adam import STATE, FlatAdam
from surefoot.agents.parts.engine.choice import attach, engine_of


def joined_parts(seeds: Sequence[Any]) -> Any:
    """Return an object like each of `seeds` whose networks, parameters and optimisers (`STATEFUL`) are theirs as one.

    Theirs, in modules and in the state of optimisers, are views of it from now on: only it is updated.
    """
    whole = copy.copy(seeds[0])
    of: dict[nn.Parameter, nn.Parameter] = {}  # a parameter of the first seed -> of all
    parts: dict[nn.Parameter, list[nn.Parameter]] = {}
    for name in whole.STATEFUL:
        owners = [getattr(seed, name) for seed in seeds]
        if isinstance(owners[0], FlatAdam):
            continue
        one = copy.deepcopy(owners[0])
        for joint, *own in zip(*map(_parameters, (one, *owners)), strict=True):
            joint.data, joint.grad = joined(own), None
            of[own[0]], parts[joint] = joint, own
        setattr(whole, name, one)
    optimisers = {name: [getattr(seed, name) for seed in seeds] for name in whole.STATEFUL}
    for name, adams in optimisers.items():
        if isinstance(adams[0], FlatAdam):
            setattr(whole, name, _joined_adam(adams, of))
    every = [getattr(whole, name) for name in whole.STATEFUL]
    attach(next(filter("eager".__ne__, map(engine_of, every))), every)
    for joint, own in parts.items():
        for parameter, value in zip(own, views(joint.data, own), strict=True):
            parameter.data = value
    return whole


def _parameters(owner: nn.Module | nn.Parameter) -> list[nn.Parameter]:
    return [owner] if isinstance(owner, nn.Parameter) else list(owner.parameters())


def joined(tensors: Sequence[Tensor]) -> Tensor:
    """Return S stacks of networks (E, in, out) as one (S·E, in, out), anything else with a first axis S."""
    together = torch.stack([tensor.detach() for tensor in tensors])
    return together.flatten(0, 1) if together.dim() == 4 else together


def views(together: Tensor, tensors: Sequence[Tensor]) -> Sequence[Tensor]:
    """Undo `joined`, without a copy."""
    return together.view(len(tensors), *tensors[0].shape).unbind(0)


def _joined_adam(adams: Sequence[FlatAdam], of: dict[nn.Parameter, nn.Parameter]) -> FlatAdam:
    first = adams[0]
    groups = [group | {"params": [of[p] for p in group["params"]]} for group in first.param_groups]
    whole = FlatAdam(groups, groups[0]["lr"], groups[0]["eps"], is_native=first.is_native)
    whole.steps = first.steps_taken
    whole.step_tensor.fill_(whole.steps)
    every = zip(*([p for group in adam.param_groups for p in group["params"]] for adam in adams), strict=True)
    for own in every:
        joint = whole.state[of[own[0]]]
        for name in STATE:
            states = [adam.state[p][name] for adam, p in zip(adams, own, strict=True)]
            joint[name].copy_(joined(states))
            for adam, p, value in zip(adams, own, views(joint[name], states), strict=True):
                adam.state[p][name] = value
        for adam, p in zip(adams, own, strict=True):
            adam.state[p]["step"] = joint["step"]
    return whole
