"""A policy and a task: whether they fit, and what is done to make them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from surefoot.agents.interface import Spaces
from surefoot.envs import EnvConfig, spaces_of
from surefoot.envs.spaces import describe
from surefoot.evaluation.policies import task_versions
from surefoot.evaluation.policies.opened import AnyPolicy


def fitted(policy: AnyPolicy, task: EnvConfig) -> AnyPolicy:
    """Return the policy ready for a task: observations of older versions made, units converted; `notes` say what.

    Raises:
        ValueError: it sees or does something else than the task shows and takes.
    """
    ready = policy.fit(policy, replace(task, num_envs=1)) if policy.fit else policy
    require_fit(ready.label, ready.spaces, task)
    return ready


def for_task(policy: AnyPolicy, env_id: str) -> AnyPolicy:
    """Return a policy of others for a task that is named anew: unmodified, an older MuJoCo task as its v5 one.

    What it was trained on stays known where only the version is another. A run of ours is returned as it is.
    """
    if policy.policy is not None:
        return policy
    task = task_versions.task_named(env_id)
    trained_on = task.trained_on
    if trained_on is None and _name(policy.trained_on) == _name(env_id):
        trained_on = policy.trained_on
    notes = task_versions.notes_on(trained_on, task.config) if trained_on else ()
    return policy._replace(env_config=task.config, trained_on=trained_on, notes=notes)


def bound_to(policy: AnyPolicy, task: EnvConfig) -> AnyPolicy:
    """Return a policy whose own task is `task`; an id other than its own is one that is named anew."""
    if policy.policy is None and (policy.env_config is None or task.id != policy.env_config.id):
        policy = for_task(policy, task.id)
        own = policy.env_config or task
        task = replace(task, id=own.id, kwargs=own.kwargs | task.kwargs)
    return policy._replace(env_config=task)


def ready_for(policy: AnyPolicy, task: EnvConfig) -> tuple[AnyPolicy, EnvConfig]:
    """Return a policy of others `fitted` to a task whose id is named anew, and what that id stands for today.

    A run of ours is returned as it is.
    """
    if policy.policy is not None:
        return policy, task
    policy = for_task(policy, task.id)
    own = policy.env_config or task
    task = replace(task, id=own.id, kwargs=own.kwargs | task.kwargs)
    return fitted(policy, task), task


def _name(env_id: str | None) -> str | None:
    return env_id and task_versions.split(env_id)[0]


def require_fit(where: str | Path, spaces: Spaces, task: EnvConfig) -> None:
    """Raise `ValueError` where a policy for `spaces` sees or does something else than the task shows and takes."""
    wanted, given = (tuple(map(describe, pair)) for pair in (spaces, spaces_of(replace(task, num_envs=1))))
    if given != wanted:
        raise ValueError(
            f"{where}: maps observations {wanted[0]} to actions {wanted[1]}, but {task.id} has observations {given[0]} "
            f"and actions {given[1]}; choose a fitting task"
        )
