"""The benchmark of IWOCS: what a row of before is called is what it runs, whatever the demo is by now."""

from dataclasses import fields, replace

import pytest

from surefoot.agents.iwocs.config import IWOCSConfig
from surefoot.training.config.presets import load_preset

DEMO_OF_BEFORE = {  # configs/iwocs/demo.yaml of commit fccf2bcde1: what was not a default there
    "hidden": (64, 64),
    "entropy_free_hidden": (64, 64, 64),
    "policy_lr": 1e-3,
    "critic_lr": 1e-3,
    "alpha_lr": 1e-3,
    "adam_eps": 1e-5,
    "gamma": 0.98,
    "tau": 0.02,
    "learning_starts": 500,
    "random_steps": 500,
    "default_steps": 16_000,
    "model_steps": 10_000,
    "iterations": 8,
    "thresholds": (0.0, 1.0, 3.0, 10.0, 30.0, 100.0),
    "threshold_by": "mean",
    "threshold_ties": "again",
    "prolong": 2,
    "on_repeat": "next-worst",
    "error_quantile": 0.9,
    "gate_memory": 0.9,
    "gate_choice": "accurate",
    "grid_n": 5,
    "grid_closed": True,
    "search_episodes": 2,
    "held_out_episodes": 10,
}


@pytest.fixture
def script(load_script):
    return load_script("iwocs")


def test_the_demo_of_before_is_still_what_it_was(script):
    run = replace(load_preset("iwocs", "demo").agent, **script.METHODS["iwocs-goes-on-again"].changes)
    was = replace(IWOCSConfig(), **DEMO_OF_BEFORE)
    differs = {
        field.name: (getattr(run, field.name), getattr(was, field.name))
        for field in fields(was)
        if getattr(run, field.name) != getattr(was, field.name)
    }
    assert differs == {}


def test_every_row_is_a_configuration_and_only_the_demo_has_its_gate(script):
    demo = load_preset("iwocs", "demo").agent
    gates = {name: replace(demo, **of.changes).gate for name, of in script.METHODS.items() if of.agent == "iwocs"}
    assert [name for name, gate in gates.items() if gate == "models"] == ["iwocs-models"]
