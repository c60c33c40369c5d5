"""Every engine computes the updates that the eager definition makes, for every agent and switch."""

from __future__ import annotations

import dataclasses
from typing import Any, Literal, get_args, get_origin, get_type_hints

import pytest
import torch
from agent_runs import make, run_config, tensors
from sameness import assert_same
from torch import Tensor

from surefoot import agents
from surefoot.agents.parts.engine import coverage, native
from surefoot.agents.parts.seeds import SeedStack, stacks
from surefoot.training.config.run import RunConfig

ENGINES = ("eager", "torch", "native")  # equal up to rounding
UPDATES = 20
has_bf16 = pytest.mark.skipif(not native.bf16_capabilities(), reason="this processor has no bf16 products")


def after(name: str, config: RunConfig[Any], engine: str, updates: int = UPDATES) -> tuple[dict[str, Tensor], Any]:
    agent, done = make(name, config, engine), 0
    while done < updates:
        progress = agent.step()
        done += progress.updates
        if progress.done:  # such as of IWOCS, whose worst models ran out
            break
    return tensors(agent.state_dict()), agent


TRAINED = [n for n in agents.REGISTRY if n not in agents.REFERENCES and agents.get(n).regret is None]
LEFT = {"hnpg": ["nets.policy.net", "nets.critic"], "trpo": ["nets.policy.net", "nets.critic"], "rlpd": ["critic"]}
WITHOUT = {"hnpg", "trpo", "nora-deep"}  # natural gradients, and a regression of their own
KERNELS = [n for n in TRAINED if n not in WITHOUT]
VALUES = {  # of options that are None by default; None: not of the updates
    "categories": 5,
    "classifier_bound": 2.0,
    "clip_reward": None,  # not with a stock, and nothing of the network
    "decay_steps": 24,
    "error_quantile": 0.5,
    "horizon": 2,  # Gate's steps
    "image_shape": None,  # of Atari; its convolutions are PyTorch's
    "last_layer_gain": 0.5,
    "max_grad_norm": 0.1,
    "parameter_noise_updates": 12,
    "return_range": (-0.5, 0.5),
    "success_return": None,
    "target_entropy": -0.3,
}
NOT_ALONE = {("dhn", "stock"), ("qr-dqn", "stock"), ("mbpo", "model_output", "gaussian")}  # other agents and variants
WITH: dict[str, dict[str, Any]] = {  # what a switch needs beside it
    "centre": {"reference": "policy"},
    "categories": {"return_range": (-0.5, 0.5)},
    "search": {"population": 4, "generations": 2},
    "learn_log_var_bounds": {"variant": "pe"},
    "bounding": {"variant": "sn"},
    "bounded_layers": {"variant": "sn"},
    "gate": {"thresholds": agents.get("iwocs").default.thresholds, "gate_updates": 10},  # small sizes are for another
}
MORE: dict[str, list[dict[str, Any]]] = {  # switches that are numbers, and pairs
    "h2o": [
        {"regulariser_weight": 0.0},
        {"real_batch_size": 0, "regulariser_weight": 0.0},
        {"log_std_min": -1.1},
        {"lagrange": True, "linear_regulariser": True},
    ],
    "sac": [{"tau": 1.0}, {"log_std_min": 0.0}, {"hidden": (1,)}],
    "td3-bc": [{"alpha": 0.0}],
    "cql": [{"min_q_weight": 0.0}],
    "dhn": [{"huber_threshold": 0.5}, {"relabel_probability": 0.0, "n_step": 3}, {"tau": 0.3}],
    "rlpd": [{"layer_norm": False, "alpha_adam_beta1": 0.5}],
    "mbpo": [
        {"robust_weight": 0.0},
        {"variant": "sd", "model_output": "mse"},
        {"attack": "fgsm", "norm": "2", "reference": "policy"},
    ],
}


def alternatives(name: str, config: Any) -> list[dict[str, Any]]:
    """Return every change of one switch of an agent's configuration: flags, choices, and what can be None."""
    changes, hints = [], get_type_hints(type(config))
    for field in dataclasses.fields(config):
        value, kind = getattr(config, field.name), hints[field.name]
        options: list[Any] = [not value] if kind is bool else []
        if get_origin(kind) is Literal:
            options = list(get_args(kind))
        elif type(None) in get_args(kind):
            options = [VALUES[field.name] if value is None else None]
        changes += [
            {field.name: option} | WITH.get(field.name, {})
            for option in options
            if option != value and not {(name, field.name), (name, field.name, option)} & NOT_ALONE
        ]
    return changes + MORE.get(name, [])


CASES = [(name, change) for name in KERNELS for change in ({}, *alternatives(name, agents.get(name).default))]


def off(found: dict[str, Tensor], expected: dict[str, Tensor]) -> float:
    """Return the largest difference of two states, relative to the largest number of its tensor.

    Parameters below 1e-3 count as that large. Moments of Adam have no size of their own, but theirs; where a gradient
    is a difference of large numbers they are off by ten times as much.
    """
    shared = [name for name in expected if name in found and expected[name].numel()]
    assert len(shared) > 10
    differences = {name: (found[name].double() - expected[name].double()).abs().max() for name in shared}
    sizes = {name: expected[name].abs().max() for name in shared}
    return max(
        float(
            differences[name]
            / (10 * sizes[name].clamp(min=1e-12) if ".exp_avg" in name else sizes[name].clamp(min=1e-3))
        )
        for name in shared
    )


def states(config: RunConfig[Any], name: str, updates: int = UPDATES) -> dict[str, dict[str, Tensor]]:
    return {engine: after(name, config, engine, updates)[0] for engine in ENGINES}


@pytest.mark.parametrize(("name", "change"), CASES, ids=[f"{n}-{c or 'default'}" for n, c in CASES])
def test_every_switch_of_every_agent_is_computed_alike(name, change, data_file):
    found = states(run_config(name, str(data_file), **change), name)
    for engine in ("torch", "native"):
        assert off(found[engine], found["eager"]) < 1e-5, engine


@pytest.mark.parametrize("name", TRAINED)
def test_engines_compute_every_network_but_those_known(name, data_file):
    """The measure above sees learning: what the updates change is a thousand times what it allows."""
    config = run_config(name, str(data_file))
    before, (state, agent) = tensors(make(name, config, "native").state_dict()), after(name, config, "native")
    computed, left = coverage(agent)
    assert left == LEFT.get(name, [])
    assert bool(computed) == (name not in WITHOUT)
    assert off(state, before) > 1e-2


@pytest.mark.parametrize("name", KERNELS)
def test_odd_batches_and_two_threads_are_computed_alike(name, data_file):
    sizes = {f.name: 5 for f in dataclasses.fields(agents.get(name).default) if f.name.endswith("batch_size")}
    odd = {"hidden": (9, 33), **sizes, **({"batch_size": 6} if name == "rlpd" else {})}
    config = run_config(name, str(data_file), **odd)
    eager, one = (after(name, config, engine)[0] for engine in ("eager", "native"))
    assert off(one, eager) < 1e-5
    torch.set_num_threads(2)
    two = after(name, config, "native")[0]
    assert all(torch.equal(two[key], one[key]) for key in one)


@pytest.mark.parametrize("name", ["sac", "h2o"])
def test_two_hundred_updates_stay_together(name, data_file):
    config = run_config(name, str(data_file), hidden=(64, 64))
    found = states(config, name, 200)
    eager = {key: value for key, value in found["eager"].items() if ".exp_avg" not in key}
    for engine in ("torch", "native"):
        assert off(found[engine], eager) < 4e-4, engine


@has_bf16
@pytest.mark.parametrize("name", KERNELS)
def test_wide_layers_of_every_agent_are_in_bf16_and_near_float32(name, data_file):
    """Moments are left out: of gradients that are near zero the rounding is what they are.

    A single step of Adam moves some output layers, which begin small, by a twentieth.
    """
    config = run_config(name, str(data_file), hidden=(40, 33))
    float32, bf16 = (after(name, config, engine)[0] for engine in ("native", "native-bf16"))
    learned = {key: value for key, value in float32.items() if ".exp_avg" not in key}
    assert 1e-5 < off(bf16, learned) < 0.1


@has_bf16
def test_what_two_hundred_updates_log_in_bf16_is_within_a_hundredth_of_float32(data_file):
    config, logged = run_config("sac", str(data_file), hidden=(64, 64)), []
    for engine in ("native", "native-bf16"):
        agent, metrics = make("sac", config, engine), {}
        for _ in range(220):
            metrics = agent.step().metrics or metrics
        logged.append(metrics)
    float32, bf16 = logged
    differences = {name: float((bf16[name] - value).abs() / value.abs()) for name, value in float32.items()}
    assert 0 < differences["alpha"] < 1e-4
    assert max(differences.values()) < 1e-2


@has_bf16
def test_narrow_networks_are_those_of_float32_bit_for_bit(data_file):
    config = run_config("sac", str(data_file), hidden=(31, 31))
    float32, bf16 = (after("sac", config, engine)[0] for engine in ("native", "native-bf16"))
    assert all(torch.equal(float32[key], bf16[key]) for key in float32)


OF_A_STACK = [  # of what differs between seeds, every form that the update by hand has
    ("sac", {}),
    ("sac", {"learn_log_std_affine": True, "entropy_in_target": False}),
    ("h2o", {}),
    ("h2o", {"lagrange": True, "linear_regulariser": True}),
    ("h2o", {"real_batch_size": 0, "regulariser_weight": 0.0}),
    ("sac-mix", {}),
    ("darc", {}),
    ("darc-plus", {}),
]


@pytest.mark.parametrize("engine", ["native", pytest.param("native-bf16", marks=has_bf16)])
@pytest.mark.parametrize(("name", "change"), OF_A_STACK, ids=[f"{n}-{c or 'default'}" for n, c in OF_A_STACK])
def test_seeds_side_by_side_are_each_seed_alone_bit_for_bit(name, change, engine, data_file):
    """Also after one of them has left, as one that diverges does: what remains is stacked anew."""
    wide = {"hidden": (32, 33)} if engine == "native-bf16" else {}
    config = run_config(name, str(data_file), **change, **wide)
    alone, beside = ([make(name, config, engine, seed) for seed in (3, 4, 5)] for _ in range(2))
    left = list(zip(alone, beside, strict=True))
    for updates in (7, 5):
        stack, done = SeedStack([agent for _, agent in left]), 0
        while done < updates:
            found = stack.update([agent.gather() for _, agent in left])
            for (one, _), progress in zip(left, found, strict=True):
                assert_same(one.step().metrics, progress.metrics)
            done += found[0].updates
        left = left[1:]
    for one, other in zip(alone, beside, strict=True):
        assert_same(one.state_dict(), other.state_dict())


def test_which_agents_stack_their_seeds(data_file):
    stacked = [name for name in TRAINED if hasattr(agents.get(name).make_agent, "PER_SEED")]
    assert stacked == ["h2o", "sac-mix", "sac", "dr-sac", "darc", "darc-plus"]
    agent = make("sac", run_config("sac", str(data_file)), "native")
    assert stacks(agent, "native")
    assert stacks(agent, "native-bf16")
    assert not stacks(agent, "eager")
