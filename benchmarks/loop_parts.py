"""What a step of SAC costs besides its update: CPU µs of every part of the loop, beside a bare environment's.

    python benchmarks/loop_parts.py              # about a minute

HalfCheetah-v5, one environment, networks of 256-256, batch 256, one update a step, one thread. A bare `gymnasium.make`
takes steps alone, in a row, and each after an update, as in a loop: the update has then driven the environment's code
and data out of the caches. Ours is timed within the loop, with its updates and where they do nothing.
"""

from __future__ import annotations

import statistics
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import torch
import tyro
from record import record
from throughput import WARM_UP, make_agent, spread

from surefoot.training.loop.process import quick_process
from surefoot.training.runs.meters import Meter

# The parts of a step, and what is called within them that is a part itself.
WITHIN: dict[str, tuple[str, ...]] = {
    "step": ("act", "interaction", "push", "sample", "update"),
    "act": (),
    "interaction": ("environment",),
    "environment": (),
    "push": (),
    "sample": (),
    "update": (),
    "meter": (),
    "bare environment": (),
}
AROUND = ("act", "environment", "interaction", "push", "sample", "step", "meter")  # all but the update
KINDS = ("without", "with")  # updates
SEGMENT = 10  # steps in a row of one kind


@dataclass
class Options:
    """How much to time."""

    rounds: int = 7
    """Rounds, a median each."""
    steps: int = 150
    """Steps of each kind a round: ours and bare ones, with updates and without."""


class Clock:
    """CPU µs of the calls of every part, with updates or without."""

    def __init__(self) -> None:
        self.taken: dict[str, dict[str, list[float]]] = {kind: defaultdict(list) for kind in KINDS}
        self.kind = "with"

    def timed(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*given: Any) -> Any:
            began = time.thread_time_ns()
            result = function(*given)
            self.taken[self.kind][name].append((time.thread_time_ns() - began) / 1000)
            return result

        return call

    def read(self, kind: str) -> dict[str, float]:
        """Return the median µs of every part since the last reading, without the parts within it."""
        medians = {name: statistics.median(taken) for name, taken in self.taken[kind].items()}
        self.taken[kind].clear()
        own = {name: whole - sum(medians[part] for part in WITHIN[name]) for name, whole in medians.items()}
        return own | {"around": sum(own[part] for part in AROUND)}


class Loop:
    """What a run does at every step, its parts timed; and a bare environment."""

    def __init__(self, clock: Clock) -> None:
        self.agent, self.meter = make_agent("native"), Meter(torch.device("cpu"))
        self.update, self.clock = self.agent.update, clock
        interaction, replay = self.agent.collector.interaction, self.agent.replay
        for name, owner, method in (
            ("act", self.agent.collector, "choose"),
            ("environment", interaction.env, "step"),
            ("interaction", interaction, "step"),
            ("push", replay, "push"),
            ("sample", replay, "sample"),
            ("step", self.agent, "step"),
            ("meter", self.meter, "add"),
        ):
            setattr(owner, method, clock.timed(name, getattr(owner, method)))
        self.bare = gym.make("HalfCheetah-v5")
        self.bare.reset(seed=0)
        self.inputs: tuple[Any, ...] = ()

    def steps(self, number: int) -> None:
        updating = self.clock.kind == "with"

        def update(*inputs: Any) -> dict[str, torch.Tensor]:
            self.inputs = inputs
            return self.update(*inputs) if updating else {}

        self.agent.update = self.clock.timed("update", update)
        for _ in range(number):
            self.meter.add(self.agent.step())

    def bare_steps(self, number: int) -> None:
        step = self.clock.timed("bare environment", self.bare.step)
        for action in [self.bare.action_space.sample() for _ in range(number)]:
            if self.clock.kind == "with":
                self.update(*self.inputs)
            *_, terminated, truncated, _ = step(action)
            if terminated or truncated:
                self.bare.reset()


def measure(options: Options) -> dict[str, list[dict[str, float]]]:
    """Return the µs of every part, round by round, without updates and with them."""
    clock = Clock()
    loop = Loop(clock)
    loop.steps(WARM_UP)
    clock.taken["with"].clear()
    found: dict[str, list[dict[str, float]]] = {kind: [] for kind in KINDS}
    for _ in range(options.rounds):
        for _ in range(options.steps // SEGMENT):  # in turn, so that what else the machine does is the same for all
            for clock.kind in KINDS:
                loop.steps(SEGMENT)
                loop.bare_steps(SEGMENT)
        for kind, rounds in found.items():
            rounds.append(clock.read(kind))
    return found


def figures(found: dict[str, list[dict[str, float]]]) -> dict[str, Any]:
    """Return medians and spread over rounds, and the ratios to the bare environment in the same place."""
    microseconds = {
        part: {name: spread_of([of[part] for of in rounds]) for name, rounds in found.items()}
        for part in found["with"][0]
    }
    ratio = {
        part: {
            name: spread([of[part] for of in rounds], [of["bare environment"] for of in rounds])
            for name, rounds in found.items()
        }
        for part in ("environment", "around")
    }
    return {"microseconds": microseconds, "ratio_to_bare": ratio}


def spread_of(taken: list[float]) -> dict[str, float]:
    """Return median, least and greatest."""
    of = {"median": statistics.median(taken), "low": min(taken), "high": max(taken)}
    return {name: round(value, 1) for name, value in of.items()}


def main(options: Options) -> None:
    began = time.perf_counter()
    torch.set_num_threads(1)
    with quick_process():
        found = measure(options)
    record("loop_parts", figures(found) | {"rounds": options.rounds}, began=began, seeds=[0])


if __name__ == "__main__":
    main(tyro.cli(Options))
