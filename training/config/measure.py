"""What a run is for: the figure that its best policy is chosen by, and that curves, sweeps and reports go by."""

from __future__ import annotations

from typing import Any, NamedTuple

from surefoot import agents
from surefoot.training.config.run import RunConfig


class Measure(NamedTuple):
    """A figure of a policy; higher is better, but for regret."""

    name: str  # in words: `return`, `worst case`, `cvar(0.1)`, `regret`
    column: str  # of evaluations.csv, `eval/COLUMN` in loggers; of metrics.csv for regret


RETURN = Measure("return", "episode_return")
WORST_CASE = Measure("worst case", "worst_case")
REGRET = Measure("regret", "regret")
OBJECTIVE_COLUMN = "objective"


def measure_of(agent_name: str, config: RunConfig[Any]) -> Measure:
    """Return what a run is for: its objective, else the worst case of its uncertainty set, else the return."""
    spec = agents.get(agent_name)
    if spec.regret:
        return REGRET
    if spec.goal == "objective":
        return Measure(str(config.agent.objective), OBJECTIVE_COLUMN)
    return RETURN if config.uncertainty is None else WORST_CASE


def further_columns(agent_name: str, config: RunConfig[Any]) -> tuple[str, ...]:
    """Return the columns of evaluations.csv that hold figures of an evaluation as a whole, the same in all its rows."""
    objective = agents.get(agent_name).goal == "objective"
    measured = {OBJECTIVE_COLUMN: objective, WORST_CASE.column: config.uncertainty is not None}
    return tuple(column for column, wanted in measured.items() if wanted)
