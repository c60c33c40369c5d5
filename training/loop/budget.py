"""Whether the lengths of a run go together, and what they come to, before anything of it is made."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any, TypeVar

from surefoot import agents
from surefoot.agents.interface import Budget, Plan
from surefoot.envs import EnvConfig, make_vec
from surefoot.training.config.run import RunConfig

C = TypeVar("C", bound=RunConfig[Any])


def settle(agent_name: str, config: C) -> tuple[C, Plan]:
    """Return the configuration with the lengths filled in that follow from the run, and what will run.

    Raises `ValueError` where lengths do not go together, such as a budget that ends before the first update.
    """
    spec = agents.get(agent_name)
    if spec.regret and config.eval.patience is not None:
        raise ValueError(f"--eval.patience has no meaning for {agent_name}, which has its regret and no evaluations")
    length = partial(_episode_length, config.env)
    budget = Budget(config.steps, config.env.num_envs, config.data.source is not None, length)
    settled = replace(config, agent=spec.derive(config.agent, budget))
    return settled, spec.plan(settled.agent, budget)


def _episode_length(task: EnvConfig) -> int | None:
    """Return the task's horizon or time limit; None where it has none."""
    env: Any = make_vec(replace(task.in_c(), num_envs=1))
    try:
        length: int | None = getattr(env, "horizon", None) or env.episode_limit
        return length
    finally:
        env.close()


def what_will_run(agent_name: str, plan: Plan, config: RunConfig[Any], step: int = 0) -> str:
    """Return what will run in a line; `step` is where a resumed run stands."""
    phases = "; ".join(plan.phases)
    rounded = f" (--steps {config.steps:,} in whole iterations: {plan.steps:,})" if plan.steps > config.steps else ""
    ends = f" (then it ends, before --steps {config.steps:,})" if plan.steps < config.steps else ""
    seeds = f", for each of {config.num_seeds} seeds" if config.num_seeds > 1 else ""
    resumed = f"; continues at step {step:,}" if step else ""
    return f"{agent_name} will run {phases}{seeds}{rounded}{ends}{resumed}"
