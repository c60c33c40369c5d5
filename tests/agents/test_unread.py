"""Every option of every agent changes what is learned, or the agent says that nothing reads it, and rightly so."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any, Literal, get_args, get_origin, get_type_hints

import pytest
import torch
from agent_runs import make, run_config, tensors

from surefoot import agents
from surefoot.agents.parts.ranges import unread_by
from surefoot.configs import preset_names
from surefoot.training.config.presets import default_config, load_preset

AGENTS = [name for name in agents.REGISTRY if name not in agents.REFERENCES]
UPDATES = {"nora-deep": 5, "bc": 250}
WHERE_NONE = {"target_entropy": -0.3, "classifier_bound": 1.0, "decay_steps": 24, "max_grad_norm": 0.1, "gamma": 0.5}
WHERE_NONE |= {"repeat": 3}
# What so short a run cannot show: bounds that nothing comes near, schedules that have hardly begun, rare events,
# what needs more models, more rows, recorded data or another task.
UNSEEN = {"log_std_min", "replay_capacity", "sim_capacity_ratio", "regulariser_clip", "gap_cap", "weight_floor"}
UNSEEN |= {"reward_clip", "restart_probability", "restart_distance", "final_epsilon", "exploration_steps", "double"}
UNSEEN |= {"line_search_steps", "cg_iterations", "accept_ratio", "kl_slack", "target_steps"}
UNSEEN |= {"threshold_by", "gate_memory", "gate_choice", "gate_tolerance", "repeat_tolerance", "solved_window"}
UNSEEN |= {"model_batch_size", "holdout_rows", "model_patience", "model_improvement", "model_keep_factor"}
UNSEEN |= {"runaway_factor", "offline_rows", "max_gap", "switch_ratio", "loss_slack"}
UNSEEN |= {"solved_at", "doubling", "path", "bonus_width", "offline", "exploration_weight", "oracle_regret"}
ELSEWHERE = {("td3-bc", "exploration_noise")}  # a policy's, when it acts with noise: it learns from data alone
# The length of a run, which all agents of a comparison are given.
ELSEWHERE |= {(name, "horizon") for name in ("ar2", "human-budget", "oracle", "uniform")}
SWITCHED: list[tuple[str, dict[str, Any]]] = [
    ("h2o", {"lagrange": True}),
    ("h2o", {"regulariser_weight": 0.0}),
    ("h2o", {"importance_weights": False}),
    ("h2o", {"adaptive_weighting": False}),
    ("h2o", {"linear_regulariser": True}),
    ("h2o", {"importance_weights": False, "adaptive_weighting": False}),
    ("cql", {"min_q_weight": 0.0}),
    ("bc", {"holdout": 0.4}),
    ("iwocs", {"gate": "models", "gate_updates": 5, "thresholds": agents.get("iwocs").default.thresholds}),
    ("iwocs", {"search": "cma", "population": 4, "generations": 2}),
    ("iwocs", {"search": "random", "population": 4, "generations": 2}),
    *(("mbpo", {"variant": name}) for name in ("pe", "de", "sp", "sd", "sn")),
    ("mbpo", {"robust_weight": 0.0}),
    ("mbpo", {"attack": "none"}),
    ("mbpo", {"learn_alpha": False}),
    ("dhn", {"categories": 5, "return_range": (-0.5, 0.5)}),
    ("dhn", {"relabel_probability": 0.0}),
    ("dhn", {"decay_steps": None}),
    ("dhn", {"stock": False, "objective": "mean"}),
    ("nora-deep", {"switch": "loss"}),
    ("nora-deep", {"uncertainty": "ensemble"}),
    ("hnpg", {"success_return": -1e6}),
    ("neusquarecb", {"oracle": "linear"}),
    ("neusquarecb", {"gamma_rule": "constant"}),
    ("neusquarecb", {"gamma_rule": "theory", "horizon": 600}),
    ("neufastcb", {"gamma_rule": "theory"}),
    ("neusquarecb", {"replay": False}),
    ("neusquarecb", {"perturbation": "sampled"}),
    ("neusquarecb", {"perturbation": "none"}),
    ("nora", {"variant": "eps-greedy"}),
    ("nora", {"variant": "oppo"}),
    ("nora", {"optimism": "none"}),
    ("linucb", {"variant": "paper"}),
]


def others(config: Any, field: dataclasses.Field[Any]) -> list[Any]:
    """Return other values of a field; none where only a caller could know one."""
    value, kind = getattr(config, field.name), get_type_hints(type(config))[field.name]
    if isinstance(value, bool):
        return [not value]
    if get_origin(kind) is Literal:
        return [option for option in get_args(kind) if option != value]
    if value is None:
        return [WHERE_NONE[field.name]] if field.name in WHERE_NONE else []
    if isinstance(value, int):
        return [value + 1, 2 * value + 2]
    if isinstance(value, float):
        return [1.5 * value, value / 2] if value else [0.1]
    numbers = isinstance(value, tuple) and value and all(isinstance(x, int | float) for x in value)
    return [tuple(type(x)(1.5 * x + 1) for x in value)] if numbers else []


def steps_of(name: str, config: Any) -> Iterator[tuple[Any, dict[str, float]]]:
    """Yield the agent and what it logged but times, step by step, until it has made some updates."""
    agent, done = make(name, config, "eager"), 0
    for _ in range(300 if agents.get(name).regret is None else 60):
        progress = agent.step()
        done += progress.updates
        values = {metric: value.float().mean().item() for metric, value in progress.metrics.items()}
        yield agent, {metric: value for metric, value in values.items() if "seconds" not in metric}
        if progress.done or done >= UPDATES.get(name, 30):
            break


def learned(name: str, config: Any) -> tuple[dict[str, torch.Tensor], list[dict[str, float]]]:
    """Return the policy after some updates, and what was logged."""
    steps = list(steps_of(name, config))
    return kept(name, config, steps[-1][0]), [logged for _, logged in steps]


def kept(name: str, config: Any, agent: Any) -> dict[str, torch.Tensor]:
    """Return what was learned."""
    found = tensors(agent.state_dict() if agents.get(name).regret else agent.policy.state_dict())
    if getattr(config.agent, "trains_all_parts", True):
        return found
    return {key: value for key, value in found.items() if ".critics." not in key and ".predictors." not in key}


def differs(name: str, config: Any, state: dict[str, torch.Tensor], log: list[dict[str, float]]) -> bool:
    """Return whether a run comes to another state or log; at the first step that is another it is left."""
    made = 0
    for agent, logged in steps_of(name, config):  # noqa: B007
        if made == len(log) or str(logged) != str(log[made]):  # as text, nan is nan
            return True
        made += 1
    found = kept(name, config, agent)
    same = found.keys() == state.keys() and all(
        found[key].shape == state[key].shape and found[key].equal(state[key]) for key in state
    )
    return made < len(log) or not same


def effects(name: str, config: Any, field: dataclasses.Field[Any], before: Any) -> Iterator[bool]:
    """Yield whether another value of a field changes anything, value by value; none of those that fit nothing else.

    What is refused is not without effect either.
    """
    for value in others(config.agent, field):
        try:
            changed = dataclasses.replace(config.agent, **{field.name: value})
            yield differs(name, dataclasses.replace(config, agent=changed), *before)
        except (ValueError, RuntimeError):
            continue


def changes(name: str, config: Any, field: dataclasses.Field[Any], before: Any) -> bool:
    """Return whether any other value of a field that fits the other settings changes anything."""
    return any(effects(name, config, field, before))


def is_idle(name: str, config: Any, field: dataclasses.Field[Any], before: Any) -> bool:
    """Return whether other values fit and none changes anything; of names to choose from, each is to change it."""
    found = effects(name, config, field, before)
    if get_origin(get_type_hints(type(config.agent))[field.name]) is Literal:
        return not all(found)
    first = next(found, None)
    return first is not None and not (first or any(found))


@pytest.mark.parametrize("name", AGENTS)
def test_every_option_has_an_effect_or_is_said_to_have_none(name, data_file):
    config = run_config(name, str(data_file))
    before, unread = learned(name, config), unread_by(config.agent)
    every = dataclasses.fields(config.agent)
    asked = [field for field in every if field.name not in UNSEEN | unread.keys()]
    idle = {field.name for field in asked if is_idle(name, config, field, before)}
    assert idle - {field for agent, field in ELSEWHERE if agent == name} == set()
    assert [field.name for field in every if field.name in unread and changes(name, config, field, before)] == []


@pytest.mark.parametrize(("name", "switched"), SWITCHED, ids=[f"{name}-{change}" for name, change in SWITCHED])
def test_what_a_switch_is_said_to_leave_without_effect_has_none(name, switched, data_file):
    config = run_config(name, str(data_file), **switched)
    before, unread = learned(name, config), unread_by(config.agent)
    fields = [field for field in dataclasses.fields(config.agent) if field.name in unread]
    assert len(fields) == len(unread)
    assert [field.name for field in fields if changes(name, config, field, before)] == []
    usual = unread_by(run_config(name, str(data_file)).agent)
    read_now = [field for field in dataclasses.fields(config.agent) if field.name in usual.keys() - unread.keys()]
    assert [f.name for f in read_now if f.name not in UNSEEN and is_idle(name, config, f, before)] == []


def test_packaged_presets_set_what_nothing_reads_for_another_variant_alone():
    found = {}
    for name in agents.REGISTRY:
        default = default_config(name).agent
        for preset in preset_names(name):
            agent = load_preset(name, preset).agent
            wrong = [field for field in unread_by(agent) if getattr(agent, field) != getattr(default, field)]
            found |= {f"{name}/{preset}": wrong} if wrong else {}
    assert found == {
        "mbpo/inverted-pendulum": ["spectral_bound"],  # with --variant sn
        "iwocs/demo": ["entropy_free_hidden"],  # with --agent.gate predictors
    }
