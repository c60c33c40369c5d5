"""What a budget comes to: how many updates and iterations, and which lengths do not go together.

Every rule raises `ValueError` with a line that names the options to change, before anything is made.
"""

from __future__ import annotations

from typing import Any

from surefoot.agents.interface import Budget, Plan
from surefoot.agents.parts.interaction import whole


def plan_updates(config: Any, budget: Budget) -> Plan:
    """Return the plan of an offline agent, whose steps are its updates."""
    return Plan(budget.steps, budget.steps, (f"{budget.steps:,} updates",))


# --- off-policy: a warm-up, then updates for every step -------------------------------------------------------------


def plan_collector(config: Any, budget: Budget) -> Plan:
    """Return the plan of an agent that acts by `parts.interaction.Collector`."""
    require_warm_up(config, budget.steps)
    require_room(config, vector_steps(config.rollout_steps, budget.num_envs))
    idle, steps, updates = collected(config, budget)
    require_updates(updates, budget.steps, f"--agent.learning-starts is {config.learning_starts:,}")
    return Plan(steps, updates, (_warm_up(config, budget.steps, idle), counted(updates, "update")))


def collected(config: Any, budget: Budget) -> tuple[int, int, int]:
    """Return the steps before the first round of updates, all steps, and the updates of a `Collector`."""
    rollout = vector_steps(config.rollout_steps, budget.num_envs)
    idle = config.learning_starts // rollout * rollout
    if idle >= budget.steps:
        return idle, -(-budget.steps // rollout) * rollout, 0
    rollouts, left = divmod(budget.steps - idle, rollout)
    due = rollouts * rollout * config.updates_per_step
    steps, updates = idle + rollouts * rollout, whole(due)
    waiting, due = (rollout, due - updates + rollout * config.updates_per_step) if left else (0, 0.0)
    while left > 0:  # the last rollout is counted update by update, and the run ends within
        share = waiting // whole(due) if whole(due) else waiting
        updates += whole(due) > 0
        steps, left, waiting, due = steps + share, left - share, waiting - share, due - 1
    return idle, steps, updates


def whole_rollouts(config: Any, budget: Budget) -> tuple[int, int]:
    """Return steps and updates of a `Collector` that stops after a rollout with all its updates."""
    rollout = vector_steps(config.rollout_steps, budget.num_envs)
    rollouts = -(-budget.steps // rollout)
    learning = max(0, rollouts - config.learning_starts // rollout)
    return rollouts * rollout, whole(learning * rollout * config.updates_per_step)


def require_warm_up(config: Any, steps: int, what: str = "--steps") -> None:
    """Raise unless the warm-up ends within the steps: what is random to the end has not acted on what it learned."""
    for name in ("learning_starts", "random_steps"):
        length = getattr(config, name, 0)
        if length >= steps:
            end = "before the first update" if name == "learning_starts" else "with random actions only"
            raise ValueError(
                f"{what} {steps} would end {end}: --agent.{flag(name)} is {length}; raise the one or lower the other"
            )


def require_updates(updates: int, steps: int, because: str) -> None:
    """Raise where a run would train nothing."""
    if updates < 1:
        raise ValueError(f"--steps {steps} would end before the first update: {because}; raise --steps or lower that")


def require_room(config: Any, rollout: int, name: str = "replay_capacity") -> None:
    """Raise unless the replay holds a rollout and a batch."""
    capacity = getattr(config, name, None)
    batch = getattr(config, "batch_size", getattr(config, "sim_batch_size", 1))
    if capacity is not None and capacity < max(batch, rollout):
        least = f"a batch of {batch}" if batch >= rollout else f"a rollout of {rollout} steps"
        raise ValueError(f"--agent.{flag(name)} is {capacity}, less than {least}: raise it to {max(batch, rollout)}")


def _warm_up(config: Any, steps: int, idle: int) -> str:
    start = f", learning from step {idle:,} on" if idle else ""
    random = f", the first {config.random_steps:,} random" if config.random_steps else ""
    return f"{steps:,} environment steps{random}{start}"


# --- on-policy: whole iterations ------------------------------------------------------------------------------------


def whole_iterations(budget: Budget, length: int, options: str) -> int:
    """Return how many iterations of so many steps reach the budget; `ValueError` where it is less than one."""
    if budget.steps < length:
        raise ValueError(
            f"--steps {budget.steps} is less than one iteration, which takes {length} steps here ({options}); "
            f"pass --steps {length}, or make iterations shorter"
        )
    return -(-budget.steps // length)


def plan_on_policy(config: Any, budget: Budget) -> Plan:
    """Return the plan of an agent that acts by `parts.on_policy.OnPolicy`: batches of whole episodes."""
    episode = config.horizon or -(-config.batch_steps // budget.num_envs)
    wave = episode * budget.num_envs
    length = -(-config.batch_steps // wave) * wave
    unit = f"whole episodes of {config.horizon} steps" if config.horizon else "whole vector steps"
    iterations = whole_iterations(budget, length, f"--agent.batch-steps {config.batch_steps} in {unit}")
    return Plan(iterations * length, iterations, (f"{counted(iterations, 'iteration')} of {length:,} steps",))


# --- numbers and names ----------------------------------------------------------------------------------------------


def vector_steps(steps: int, num_envs: int) -> int:
    """Return the steps of a rollout of whole vector steps, rounded down, at least one."""
    return max(1, steps // num_envs) * num_envs


def rounded_up(steps: int, length: int) -> int:
    """Return the least multiple of `length` that is not less than `steps`."""
    return -(-steps // length) * length


def counted(number: int, noun: str) -> str:
    """Return `1 update`, `2,000 updates`."""
    return f"{number:,} {noun}{'s' * (number != 1)}"


def flag(name: str) -> str:
    """Return a field's name as the command line spells it."""
    return name.replace("_", "-")
