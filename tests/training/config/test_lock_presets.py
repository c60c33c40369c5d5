"""The presets of HNPG, TRPO and RLPD: the numbers of docs/derivations/hnpg.md §7, each written out."""

import dataclasses
import math

import pytest

from surefoot.agents.baselines.rlpd import RLPDConfig
from surefoot.configs import preset_names
from surefoot.envs import EnvConfig
from surefoot.offline_data import DataConfig
from surefoot.training.config.presets import load_preset

HORIZONS = (5, 10, 15, 30, 50)
LOCKS = {f"lock-h{horizon}" for horizon in HORIZONS}
IMAGE_HORIZONS = {5: 500_000, 10: 2_000_000, 15: 6_000_000, 30: 20_000_000}  # samples, about twice what the paper needs
IMAGE_LOCKS = {f"image-h{horizon}" for horizon in IMAGE_HORIZONS}
STATIONARY = {"halfcheetah": "HalfCheetah-v5", "hopper": "Hopper-v5"}

TRUST_REGION = {
    "kl_limit": 0.01,
    "damping": 0.1,
    "cg_iterations": 10,
    "cg_tolerance": 1e-10,
    "line_search_steps": 10,
    "accept_ratio": 0.1,
    "kl_slack": 1.5,
}
ON_POLICY = TRUST_REGION | {
    "policy_hidden": (16, 16),
    "critic_hidden": (64, 64),
    "batch_steps": 1_000,
    "gae_lambda": 0.97,
    "critic_lr": 3e-4,
    "critic_steps": 30,
    "value_samples": 10,
}
HYBRID = {
    "on_policy_weight": 1.0,
    "critic_on_policy_weight": None,
    "policy_on_policy_weight": None,
    "offline_actions": "resample",
}
SOLVED = {"success_return": 1.0, "solved_at": 0.5, "solved_window": 50, "stop_when_solved": True}
RLPD_TUNED = {
    "gamma": 0.99,
    "initial_alpha": 0.1,
    "alpha_adam_beta1": 0.5,
    "alpha_lr": 1e-4,
    "policy_lr": 1e-3,
    "critic_lr": 1e-3,
    "tau": 0.01,
    "target_update_interval": 2,
    "updates_per_step": 1.0,
    "rollout_steps": 1,
    "critic_updates": 1,
    "batch_size": 128,
    "replay_capacity": 1_000_000,
    "log_std_min": -10.0,
}
RLPD_PUBLISHED = {  # where HNPG's authors say nothing
    "hidden": (256, 256),
    "ensemble_size": 10,
    "target_subset": 2,
    "layer_norm": True,
    "target_entropy": None,
}
SPARSE = {"entropy_in_target": False}  # the published code's choice where rewards are sparse


def assert_holds(config, expected):
    assert {name: getattr(config, name) for name in expected} == expected


def lock(horizon: int, num_envs: int, *, time_aware: bool) -> EnvConfig:
    kwargs = {"horizon": horizon, "code_seed": 0, "reward_mode": "terminal"}
    return EnvConfig("surefoot/CombinationLock-v0", num_envs=num_envs, kwargs=kwargs, time_aware=time_aware)


def test_no_preset_is_left_out_here():
    gym = {f"{task}-medium-replay" for task in STATIONARY}
    assert set(preset_names("hnpg")) == LOCKS | IMAGE_LOCKS | gym | {"demo"}
    assert set(preset_names("trpo")) == LOCKS | {"demo"}
    assert set(preset_names("rlpd")) == LOCKS | {"demo", "lock-h5-published"}


@pytest.mark.parametrize("horizon", HORIZONS)
def test_hnpg_opens_the_paper_s_locks_with_the_paper_s_numbers(horizon):
    config = load_preset("hnpg", f"lock-h{horizon}")
    assert config.env == lock(horizon, math.ceil(1_000 / horizon), time_aware=True)  # whole episodes of one batch
    assert config.data == DataConfig("behaviour:50000")
    assert config.steps == 100_000_000
    assert_holds(config.agent, ON_POLICY | HYBRID | SOLVED | {"horizon": horizon})


@pytest.mark.parametrize("horizon", HORIZONS)
def test_trpo_is_hnpg_without_its_data(horizon):
    config, hnpg = load_preset("trpo", f"lock-h{horizon}"), load_preset("hnpg", f"lock-h{horizon}")
    assert (config.env, config.eval) == (hnpg.env, hnpg.eval)
    assert config.data == DataConfig()
    for field in dataclasses.fields(config.agent):
        assert getattr(config.agent, field.name) == getattr(hnpg.agent, field.name), field.name
    assert config.steps < hnpg.steps


@pytest.mark.parametrize("horizon", HORIZONS)
def test_rlpd_is_as_hnpgs_authors_tuned_it(horizon):
    config, hnpg = load_preset("rlpd", f"lock-h{horizon}"), load_preset("hnpg", f"lock-h{horizon}")
    assert config.env == lock(horizon, 1, time_aware=False)  # one network for all time steps
    assert (config.data, config.eval) == (hnpg.data, hnpg.eval)
    assert config.steps == load_preset("trpo", f"lock-h{horizon}").steps
    assert_holds(config.agent, RLPD_TUNED | RLPD_PUBLISHED | SPARSE)


def test_rlpd_on_the_lock_with_its_published_defaults():
    tuned, published = load_preset("rlpd", "lock-h5"), load_preset("rlpd", "lock-h5-published")
    assert dataclasses.replace(tuned, agent=published.agent) == published
    assert published.agent == RLPDConfig(entropy_in_target=False)


def test_rlpd_without_a_preset_is_the_published_code():
    learning = {
        "policy_lr": 3e-4,
        "critic_lr": 3e-4,
        "alpha_lr": 3e-4,
        "tau": 0.005,
        "gamma": 0.99,
        "target_update_interval": 1,
    }
    rates = {"batch_size": 256, "critic_updates": 20, "updates_per_step": 1.0, "learning_starts": 5_000}
    start = {"initial_alpha": 1.0, "random_steps": 5_000, "alpha_adam_beta1": 0.9}
    assert_holds(
        RLPDConfig(), RLPD_PUBLISHED | learning | rates | start | {"entropy_in_target": True, "log_std_min": -20.0}
    )


def test_the_demos_are_one_lock_of_horizon_five():
    hnpg, trpo, rlpd = (load_preset(agent, "demo") for agent in ("hnpg", "trpo", "rlpd"))
    assert hnpg.env == trpo.env == dataclasses.replace(rlpd.env, num_envs=200, time_aware=True)
    assert hnpg.env.kwargs == {"horizon": 5}
    assert hnpg.data == rlpd.data == DataConfig("behaviour:20000")
    assert trpo.data == DataConfig()
    assert {config.steps for config in (hnpg, trpo, rlpd)} == {80_000}
    assert_holds(hnpg.agent, ON_POLICY | HYBRID | {"horizon": 5, "success_return": 1.0, "stop_when_solved": False})
    assert_holds(trpo.agent, ON_POLICY | {"horizon": 5, "success_return": 1.0, "stop_when_solved": False})
    assert_holds(rlpd.agent, RLPD_TUNED | RLPD_PUBLISHED | SPARSE)


@pytest.mark.parametrize("horizon", IMAGE_HORIZONS)
def test_the_image_lock_says_that_its_embeddings_are_a_stand_in(horizon):
    config = load_preset("hnpg", f"image-h{horizon}")
    kwargs = {"horizon": horizon, "embeddings": "stand-in"}
    assert config.env == EnvConfig(
        "surefoot/ImageLock-v0", num_envs=math.ceil(1_000 / horizon), kwargs=kwargs, time_aware=True
    )
    assert config.data == DataConfig("behaviour:20000")
    assert config.steps == IMAGE_HORIZONS[horizon]
    assert_holds(config.agent, ON_POLICY | HYBRID | {"horizon": horizon, "success_return": 1.0})


@pytest.mark.parametrize("task", STATIONARY)
def test_ordinary_tasks_take_the_stationary_discounted_form(task):
    config = load_preset("hnpg", f"{task}-medium-replay")
    assert config.env == EnvConfig(STATIONARY[task], num_envs=4)
    assert config.data == DataConfig(f"d4rl:{task}-medium-replay-v2")
    assert config.steps == 1_000_000
    own = {"horizon": None, "gamma": 0.99, "rounds": 10, "batch_steps": 2_000, "policy_hidden": (64, 64)}
    assert_holds(config.agent, ON_POLICY | HYBRID | own)


def test_the_baseline_runs_of_a_preset_exist_and_have_the_same_task():
    for preset in preset_names("hnpg"):
        config = load_preset("hnpg", preset)
        for other in config.baselines:
            agent, _, name = other.partition("/")
            assert load_preset(agent, name).env == config.env, other
