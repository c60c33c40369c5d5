"""When a task ends, as a rule on tensors: against the tasks themselves, at the edges, and when it is wrong.

Rules: docs/derivations/lipschitz_mbrl.md eq. (11.1), E14.
"""

import dataclasses
import math

import pytest
import torch

from surefoot import agents
from surefoot.agents.sac import SAC_SPEC
from surefoot.envs import EnvConfig, make_vec
from surefoot.envs import termination as rules
from surefoot.envs.termination import KNOWN, compare, never, termination_of
from surefoot.training.config.run import RunConfig
from surefoot.training.loop.setup import start

NO_FORCES = {"include_cfrc_ext_in_observation": False}
TRUNCATED = {f"include_{name}_in_observation": False for name in ("cinert", "cvel", "qfrc_actuator", "cfrc_ext")}


@pytest.mark.parametrize(
    ("env_id", "kwargs", "width", "ends"),
    [
        ("Hopper-v5", {}, 11, True),
        ("Walker2d-v5", {}, 17, True),
        ("HalfCheetah-v5", {}, 17, False),
        ("Ant-v5", NO_FORCES, 27, True),
        ("Humanoid-v5", TRUNCATED, 45, True),
        ("InvertedPendulum-v5", {}, 4, True),
        ("InvertedDoublePendulum-v5", {}, 9, True),
        ("Pendulum-v1", {}, 3, False),
        ("surefoot/Pendulum-v0", {}, 3, False),
        *(
            pytest.param(*other, True, marks=pytest.mark.slow)
            for other in [
                ("Ant-v5", {}, 105),
                ("Humanoid-v5", {}, 348),
                ("Hopper-v4", {}, 11),
                ("Walker2d-v4", {}, 17),
                ("Ant-v4", {}, 27),
                ("InvertedPendulum-v4", {}, 4),
                ("InvertedDoublePendulum-v4", {}, 11),
            ]
        ),
    ],
)
def test_a_rule_says_what_the_task_says_on_3000_random_steps(env_id, kwargs, width, ends):
    config = EnvConfig(env_id, kwargs=kwargs)
    assert make_vec(config).single_observation_space.shape == (width,)
    name = env_id.split("/")[-1].split("-")[0]
    check = compare(KNOWN[name], config, steps=3000, seed=1)
    assert check.mismatches == 0
    assert check.predicted == check.ended
    assert (check.ended >= 5) is ends


def edge(rule, width, **changes):
    """Apply a rule to one healthy row with the entries changed, named by their index."""
    healthy = {"hopper": 1.2, "walker2d": 1.2, "ant": 0.6, "humanoid": 1.4}.get(rule.__name__, 0.0)
    row = torch.zeros(1, width)
    row[0, 0] = healthy
    for index, value in changes.items():
        row[0, int(index[1:])] = value
    return bool(rule(row, torch.zeros(1, 1), row))


@pytest.mark.parametrize(
    ("rule", "width", "changes", "ends"),
    [
        (rules.hopper, 11, {}, False),
        (rules.hopper, 11, {"_0": 0.7}, True),
        (rules.hopper, 11, {"_0": 150.0}, False),  # the height has no upper bound
        (rules.hopper, 11, {"_1": -0.2}, True),
        (rules.hopper, 11, {"_5": 100.0}, True),
        (rules.hopper, 11, {"_5": -100.0}, True),  # what a misplaced parenthesis in three codes lets pass
        (rules.hopper, 11, {"_5": math.nan}, True),
        (rules.hopper, 12, {"_11": 999.0}, False),  # the step appended to the observation
        (rules.walker2d, 17, {}, False),
        (rules.walker2d, 17, {"_0": 2.0}, True),
        (rules.walker2d, 17, {"_0": 0.8}, True),
        (rules.walker2d, 17, {"_1": -1.0}, True),
        (rules.walker2d, 17, {"_0": math.nan}, True),
        (rules.ant, 27, {"_0": 0.20001}, False),
        (rules.ant, 27, {"_0": 0.19999}, True),
        (rules.ant, 27, {"_0": 1.0}, False),
        (rules.ant, 27, {"_0": 1.00001}, True),
        (rules.ant, 27, {"_26": math.inf}, True),
        (rules.humanoid, 45, {}, False),
        (rules.humanoid, 45, {"_0": 0.99}, True),
        (rules.humanoid, 45, {"_0": 2.01}, True),
        (rules.inverted_pendulum, 4, {"_1": 0.2}, False),
        (rules.inverted_pendulum, 4, {"_1": -0.2001}, True),
        (rules.inverted_pendulum, 4, {"_3": math.nan}, True),
        (rules.inverted_double_pendulum, 9, {"_3": 1.0, "_4": 1.0}, False),  # upright: 1.2
        (rules.inverted_double_pendulum, 9, {"_3": 1.0, "_2": 1.0}, True),  # the second pole level: 0.6
    ],
)
def test_the_edges_of_every_rule(rule, width, changes, ends):
    assert edge(rule, width, **changes) is ends


def test_rules_look_at_the_successor_and_keep_its_device_and_shape():
    alive, fallen = torch.tensor([[0.0, 0.0, 0, 0]]).repeat(5, 1), torch.tensor([[0.0, 1.0, 0, 0]]).repeat(5, 1)
    for rule in KNOWN.values():
        assert rule(torch.zeros(5, 27), torch.zeros(5, 3), torch.zeros(5, 27)).shape == (5,)
    assert rules.inverted_pendulum(alive, torch.zeros(5, 1), fallen).all()
    assert not rules.inverted_pendulum(fallen, torch.zeros(5, 1), alive).any()


# --- what is checked before a run -------------------------------------------------------------------------------------


def test_the_known_rule_is_found_by_the_tasks_name():
    assert termination_of(EnvConfig("Hopper-v5"), steps=50) is rules.hopper
    assert termination_of(EnvConfig("surefoot/Pendulum-v0"), steps=50) is never


def falls_early(obs, action, next_obs):
    return next_obs[:, 1].abs() > 0.1


def gives_numbers(obs, action, next_obs):
    return next_obs[:, 1]


def test_a_rule_of_ones_own_is_taken_by_name_and_checked():
    own = EnvConfig("InvertedPendulum-v5", termination="surefoot.envs.termination:inverted_pendulum")
    assert termination_of(own, steps=300) is rules.inverted_pendulum
    wrong = dataclasses.replace(own, termination=f"{__name__}:falls_early")
    with pytest.raises(ValueError, match=r"InvertedPendulum-v5: .*falls_early is wrong on \d+ of 300 .*MODULE"):
        termination_of(wrong, steps=300)


def test_a_task_whose_ends_were_changed_needs_another_rule():
    changed = EnvConfig("Walker2d-v5", kwargs={"terminate_when_unhealthy": False})
    with pytest.raises(ValueError, match=r"termination:walker2d is wrong on .*the task 0\); pass --env.termination"):
        termination_of(changed, steps=300)
    assert termination_of(dataclasses.replace(changed, termination="surefoot.envs.termination:never"), steps=300)


@pytest.mark.parametrize(
    ("config", "error", "message"),
    [
        (EnvConfig("Pusher-v5"), ValueError, "Pusher-v5: no termination rule is known for it; pass --env.termination"),
        (EnvConfig("Pendulum-v1", termination="nowhere:rule"), ImportError, "cannot import 'nowhere'"),
        (EnvConfig("Pendulum-v1", termination="rule"), ImportError, "cannot import 'rule'"),
        (EnvConfig("Pendulum-v1", termination=":rule"), ImportError, "cannot import ''"),
        (EnvConfig("Pendulum-v1", termination="math:rule"), ValueError, "'math' has no function 'rule'"),
        (EnvConfig("Pendulum-v1", termination="math:sin"), ValueError, "rule fails on 5 rows: .*one argument"),
        (EnvConfig("Pendulum-v1", termination="torch:stack"), ValueError, "rule fails on 5 rows"),
        (EnvConfig("Pendulum-v1", termination=f"{__name__}:gives_numbers"), ValueError, "float32 .* not .5,. bool"),
    ],
)
def test_a_rule_that_cannot_be_had_is_named(config, error, message):
    with pytest.raises(error, match=message) as raised:
        termination_of(config, steps=5)
    assert "\n" not in str(raised.value)


class ModelBased:
    """What a run hands a model-based agent."""

    def __init__(self, config, setting):
        raise ValueError(f"was given {setting.termination.__name__}")


def begin(config, tmp_path, monkeypatch):
    spec = dataclasses.replace(SAC_SPEC, make_agent=ModelBased, model_based=True)
    monkeypatch.setattr(agents, "get", lambda name: spec)
    start("model-based", RunConfig(SAC_SPEC.default, config), tmp_path / "run")


def test_a_run_hands_the_rule_to_a_model_based_agent(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="was given hopper"):
        begin(EnvConfig("Hopper-v5"), tmp_path, monkeypatch)
    with pytest.raises(ValueError, match="Pusher-v5: no termination rule"):
        begin(EnvConfig("Pusher-v5"), tmp_path, monkeypatch)
    with pytest.raises(ValueError, match="takes Box actions"):  # not: no rule is known for CartPole
        begin(EnvConfig("CartPole-v1"), tmp_path, monkeypatch)
    assert not (tmp_path / "run").exists()
