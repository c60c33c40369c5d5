"""Lengths that belong together: what will run is known before anything starts, and what cannot train is refused."""

import dataclasses

import pytest
import torch

from surefoot import agents
from surefoot.agents.interface import Setting, Spaces
from surefoot.configs import preset_names
from surefoot.envs import EnvConfig, spaces_of
from surefoot.envs.termination import never
from surefoot.offline_data import DataConfig, load_for
from surefoot.training.cli.main import main
from surefoot.training.config.presets import default_config, load_preset
from surefoot.training.config.run import RunConfig
from surefoot.training.loop.budget import settle, what_will_run
from surefoot.training.loop.setup import start, training_env

pytestmark = pytest.mark.usefixtures("unrendered")

NAMES = sorted(agents.REGISTRY)
LEARN_FROM_THE_FIRST_STEP = [name for name in NAMES if agents.get(name).offline or agents.get(name).regret]
DECIDED_BY_WHAT_IS_SEEN = ("iwocs", "nora-deep")  # when they end, or when they learn


def tiny(name, num_envs=2, data=None, **agent):
    spec = agents.get(name)
    task = spec.tiny_env or {"id": "surefoot/Pendulum-v0", "max_episode_steps": 15}
    return RunConfig(
        agent=dataclasses.replace(spec.default, **spec.tiny | agent),
        env=dataclasses.replace(EnvConfig(**task), num_envs=num_envs),
        uncertainty="pendulum-2" if spec.needs_uncertainty_set else None,
        data=DataConfig(source=str(data)) if spec.needs_data else DataConfig(),
        steps=80,
    )


def played(name, config):
    """Return the steps and updates that an agent takes until its budget is spent."""
    spec, spaces, device = agents.get(name), Spaces(*spaces_of(config.env)), torch.device("cpu")
    env, perturbed = training_env(name, spec, config, device)
    data = load_for(config.data, *spaces, seed=0) if spec.needs_data else None
    agent = spec.make_agent(
        config.agent, Setting(spaces, 0, device, env, data, termination=never, perturbed_envs=perturbed)
    )
    steps = updates = 0
    while steps < config.steps:
        progress = agent.step()
        updates += progress.updates
        steps = updates if spec.offline else steps + progress.env_steps
        if progress.done:
            break
    return steps, updates


@pytest.mark.parametrize("name", NAMES)
def test_every_preset_and_the_defaults_of_every_agent_hold_together(name):
    task = EnvConfig(**(agents.get(name).tiny_env or {"id": "surefoot/Pendulum-v0"}))
    defaults = dataclasses.replace(default_config(name), env=dataclasses.replace(task, num_envs=1))
    for config in (defaults, *(load_preset(name, preset) for preset in preset_names(name))):
        settled, plan = settle(name, config)
        assert plan.phases
        assert plan.updates is None or plan.updates > 0
        assert settle(name, settled) == (settled, plan)


@pytest.mark.parametrize("name", [name for name in NAMES if name not in DECIDED_BY_WHAT_IS_SEEN])
@pytest.mark.parametrize(
    ("num_envs", "steps", "changes"), [(2, 80, {}), (3, 67, {"updates_per_step": 2}), (1, 45, {"rollout_steps": 7})]
)
def test_what_will_run_is_what_runs(name, num_envs, steps, changes, data_file):
    if name in agents.REFERENCES:
        pytest.importorskip("stable_baselines3", reason="extra sb3 not installed")
    has = {field.name for field in dataclasses.fields(agents.get(name).default)}
    config = tiny(name, num_envs, data_file, **{key: value for key, value in changes.items() if key in has})
    config, plan = settle(name, dataclasses.replace(config, steps=steps))
    if agents.get(name).regret == "round":  # a learner's epochs decide where its last step ends
        assert played(name, config)[0] >= plan.steps == steps
    else:
        assert played(name, config) == (plan.steps, plan.updates)


def test_half_an_update_a_step_is_planned_as_it_is_made():
    for steps in range(21, 60):
        config = dataclasses.replace(tiny("sac", updates_per_step=0.5, rollout_steps=6), steps=steps)
        config, plan = settle("sac", config)
        assert played("sac", config) == (plan.steps, plan.updates)


def test_the_phases_of_iwocs_are_what_runs():
    config = dataclasses.replace(tiny("iwocs", iterations=1, repeat_tolerance=0.0), steps=44)
    config, plan = settle("iwocs", config)
    assert plan.phases == ("default policy, 24 steps", "up to 1 model of 20 steps")
    assert played("iwocs", config) == (plan.steps, plan.updates)


@pytest.mark.parametrize("name", [name for name in NAMES if name not in LEARN_FROM_THE_FIRST_STEP])
def test_a_budget_that_trains_nothing_is_one_line_and_leaves_nothing(name, tmp_path, capsys):
    spec = agents.get(name)
    task = spec.tiny_env or {"id": "surefoot/Pendulum-v0"}
    horizon = ["--env.kwargs", "horizon", "4", "--env.time-aware"] if name == "nora-deep" else []
    data = ["--data.source", str(tmp_path / "absent.hdf5")] if spec.needs_data else []
    sets = ["--uncertainty", "pendulum-2"] if spec.needs_uncertainty_set else []
    call = [name, "--env.id", task["id"], *horizon, *data, *sets, "--steps", "1", "--out", str(tmp_path / "runs")]
    assert main(["train", *call]) == 2
    error = capsys.readouterr().err
    assert error.startswith("surefoot: error: ")
    assert error.count("\n") == 1
    assert "--steps 1 " in error
    assert "--agent." in error or name == "nora-deep"
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        (
            "iwocs",
            {"steps": 30},
            "--steps 30 is less than .*-steps 24 .* 18 of one model; pass --steps 44",
        ),
        ("iwocs", {"agent.model_steps": 10}, "--agent.model-steps 10 would end before .*--agent.learning-starts is 16"),
        ("mbpo", {"steps": 10}, "--steps 10 would end with random actions only: --agent.random-steps is 10"),
        ("sac", {"steps": 16}, "--steps 16 would end before the first update: --agent.learning-starts is 16"),
        (
            "sac",
            {"agent.random_steps": 90},
            "--steps 80 would end with random actions only: .*random-steps is 90",
        ),
        ("sac", {"agent.updates_per_step": 1e-3}, "--steps 80 would end before the first update"),
        ("sac", {"agent.replay_capacity": 5}, "--agent.replay-capacity is 5, less than a batch of 8"),
        ("sac", {"agent.rollout_steps": 500, "steps": 600}, "400, less than a rollout of 500 steps"),
        (
            "trpo",
            {"steps": 9},
            "--steps 9 is less than one iteration, which takes 10 steps here .*batch-steps 10",
        ),
        ("sb3-ppo", {"steps": 31}, "--steps 31 is less than one iteration, which takes 32 steps"),
        ("sb3-ppo", {"agent.batch_size": 64}, "--agent.batch-size is 64, more than a rollout of 32 steps"),
        ("sb3-sac", {"agent.buffer_size": 5}, "--agent.buffer-size is 5, less than a batch of 8: raise it to 8"),
        ("dhn", {"agent.n_step": 12, "agent.relabel_probability": 0}, "nothing is there to learn from before step 22"),
        ("dynlin-ucb", {"steps": 90}, "--agent.horizon is 80, but the run has 90 rounds"),
        ("nora", {"steps": 81}, "--agent.episodes is 20, but the run has 21 episodes"),
        ("nora-deep", {"steps": 8}, "--steps 8 would end before the first update"),
    ],
)
def test_lengths_that_do_not_go_together_are_one_line(name, changes, message):
    agent = {key.removeprefix("agent."): value for key, value in changes.items() if key.startswith("agent.")}
    config = dataclasses.replace(tiny(name, **agent), steps=changes.get("steps", 80))
    with pytest.raises(ValueError, match=message) as raised:
        settle(name, config)
    assert "\n" not in str(raised.value)


def test_patience_is_not_for_what_has_no_evaluations():
    config = load_preset("dynlin-ucb", "s1")
    impatient = dataclasses.replace(config, eval=dataclasses.replace(config.eval, patience=3))
    with pytest.raises(ValueError, match="has no meaning for dynlin-ucb, which has its regret"):
        settle("dynlin-ucb", impatient)


def test_lengths_that_follow_from_the_run_are_filled_in_and_kept(tmp_path):
    config = dataclasses.replace(load_preset("dynlin-ucb", "s1"), steps=300)
    run = start("dynlin-ucb", config, tmp_path / "run")
    assert run.config.agent.horizon == 300
    assert "horizon: 300" in (tmp_path / "run" / "config.yaml").read_text()
    settled, _ = settle("nora", dataclasses.replace(load_preset("nora", "river-swim"), steps=410))
    assert settled.agent.episodes == 21
    deep, _ = settle("nora-deep", tiny("nora-deep", horizon=None))
    assert deep.agent.horizon == 4
    anytime = dataclasses.replace(config, agent=dataclasses.replace(config.agent, ridge=1.0, failure_probability=0.1))
    assert settle("dynlin-ucb", anytime)[0].agent.horizon == 300  # no constant needs it, and the last epoch ends there


def test_what_will_run_is_said(data_file):
    def said(name, config, **more):
        settled, plan = settle(name, config)
        return what_will_run(name, plan, settled, **more)

    rounded = said("hnpg", dataclasses.replace(tiny("hnpg", data=data_file), steps=13))
    assert rounded == "hnpg will run 2 iterations of 10 steps (--steps 13 in whole iterations: 20)"
    iwocs = dataclasses.replace(tiny("iwocs"), steps=1000)
    assert "default policy, 24 steps; up to 3 models of 20 steps (then it ends, before" in said("iwocs", iwocs)
    cut = said("iwocs", dataclasses.replace(iwocs, steps=50))
    assert "6 of 20 steps in model 2, which stays unfinished" in cut
    assert said("sac", tiny("sac"), step=40).endswith("64 updates; continues at step 40")


def test_a_run_says_what_it_runs_and_a_resumed_one_is_checked_too(tmp_path, capsys):
    call = ["train", "dynlin-ucb", "--preset", "s1", "--num-envs", "2", "--threads", "1", "--out", str(tmp_path)]
    assert main([*call, "--steps", "300", "--name", "run"]) == 0
    assert "dynlin-ucb will run 300 rounds\n" in capsys.readouterr().out
    assert main(["train", "--resume", str(tmp_path / "run"), "--steps", "400"]) == 2
    assert "--agent.horizon is 300, but the run has 400 rounds" in capsys.readouterr().err
    sweep = ["sweep", "--agents", "sac", "--set", "env.id=surefoot/Pendulum-v0", "steps=300", "--out", str(tmp_path)]
    assert main([*sweep, "--name", "sweep"]) == 2
    assert "--steps 300 would end before the first update" in capsys.readouterr().err
    assert not (tmp_path / "sweep").exists()
