"""Every agent at the smallest sizes that it takes: what it logs is a number."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from agent_runs import make, run_config

from surefoot import agents
from surefoot.training.config.run import RunConfig

AGENTS = [name for name in agents.REGISTRY if name not in agents.REFERENCES]
SIZES = ("batch_size", "real_batch_size", "sim_batch_size", "classifier_batch_size", "model_batch_size", "quantiles")
SIZES += ("diagnose_rows", "gap_samples", "value_samples", "batch_steps", "categories")


def smallest(name: str, data: str, size: str) -> RunConfig[Any] | None:
    """Return the agent's settings with the least of a size that they take; None where it has no such size."""
    if not hasattr(agents.get(name).default, size):
        return None
    for least in (0, 1, 2, 3):
        try:
            return run_config(name, data, **{size: least})
        except (ValueError, TypeError):
            continue
    return None


@pytest.mark.parametrize("name", AGENTS)
def test_what_is_logged_at_the_least_of_every_size_is_finite(name, data_file):
    wrong = {}
    for size in SIZES:
        config = smallest(name, str(data_file), size)
        if config is None:
            continue
        agent, updates = make(name, config, "eager"), 0
        for _ in range(80):
            progress = agent.step()
            updates += progress.updates
            unbounded = agents.get(name).unbounded
            odd = [key for key, value in progress.metrics.items() if key not in unbounded and not is_finite(value)]
            wrong |= {f"{size}={getattr(config.agent, size)}": odd} if odd else {}
            if progress.done or updates >= 4 or odd:
                break
    assert wrong == {}


def is_finite(value: Any) -> bool:
    return bool(value.float().isfinite().all())


def test_every_size_that_is_tried_is_one_of_some_agent():
    fields = {field.name for name in AGENTS for field in dataclasses.fields(agents.get(name).default)}
    assert set(SIZES) <= fields
