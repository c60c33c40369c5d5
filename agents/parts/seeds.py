"""Several seeds of one agent side by side: each keeps its environments, replay and generators, the update is one.

Their networks become parts of larger stacks, whose tensors have the seeds as their first axis, so that a call of a
kernel and a step of Adam are one for all seeds. The update is the agent's own, by hand: its inputs have a first axis S
too. What it leaves to autograd, such as a regulariser, is computed seed by seed.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from operator import itemgetter
from typing import Any, ClassVar, NamedTuple, Protocol

import torch
from torch import Tensor

from surefoot.agents.interface import Agent, Episodes, Progress
from surefoot.agents.parts.acceleration import each_tensor
from surefoot.agents.parts.engine.join import joined_parts


class Due(NamedTuple):
    """One step of an agent but for its update."""

    inputs: tuple[Any, ...] | None  # of the update; None where none is due
    env_steps: int
    episodes: tuple[Episodes, ...] = ()

    def progress(self, metrics: dict[str, Tensor]) -> Progress:
        """Return what the step did, given what its update returned."""
        return Progress(self.env_steps, int(self.inputs is not None), metrics, self.episodes)


class StackableAgent(Agent, Protocol):
    """An agent whose update of several seeds can be one."""

    PER_SEED: ClassVar[tuple[str, ...]]  # methods that `update_by_hand` calls and that are of one seed
    nets: Any  # what the update changes but for that: `engine.join`

    def gather(self) -> Due: ...
    def update_by_hand(self, *inputs: Any) -> dict[str, Tensor]: ...


def stacks(agent: Agent, engine: str) -> bool:
    """Whether the update of several seeds of an agent can be one."""
    return engine.startswith("native") and hasattr(agent, "PER_SEED")


class SeedStack:
    """S agents that differ in their seeds, with one update. Their networks and optimisers are parts of its own."""

    def __init__(self, agents: Sequence[Any]) -> None:
        self.together = copy.copy(agents[0])
        self.together.nets = joined_parts([agent.nets for agent in agents])
        for name in self.together.PER_SEED:
            setattr(self.together, name, _seed_by_seed([getattr(agent, name) for agent in agents]))

    def update(self, dues: Sequence[Due]) -> list[Progress]:
        """Make the update that is due in all seeds or in none; return what each seed's step did."""
        inputs = [due.inputs for due in dues if due.inputs is not None]
        if not inputs:
            return [due.progress({}) for due in dues]
        assert len(inputs) == len(dues), "the seeds of a run stand at the same step"
        metrics = self.together.update_by_hand(*stacked(inputs))
        return [due.progress({name: m[s] for name, m in metrics.items()}) for s, due in enumerate(dues)]


def _seed_by_seed(methods: Sequence[Callable[..., Any]]) -> Callable[..., Any]:
    """Return a function of inputs with a first axis S that calls the method of each seed on its part."""

    def call(*inputs: Any) -> Any:
        return stacked([method(*each_tensor(itemgetter(s), inputs)) for s, method in enumerate(methods)])

    return call


def stacked(trees: Sequence[Any]) -> Any:
    """Return nested tuples and dicts of tensors of one form as one, every tensor with a first axis."""
    first = trees[0]
    if isinstance(first, Tensor):
        return torch.stack(list(trees))
    if first is None:
        return None
    if isinstance(first, dict):
        return {name: stacked([tree[name] for tree in trees]) for name in first}
    children = [stacked(parts) for parts in zip(*trees, strict=True)]
    return type(first)(*children) if hasattr(first, "_fields") else tuple(children)
