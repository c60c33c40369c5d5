"""The packaged presets: the cells of H2O's study hold the study's numbers, and its baselines take them too."""

import itertools

import pytest

from surefoot import agents, configs
from surefoot.agents.h2o import H2OConfig
from surefoot.configs import preset_file, preset_names
from surefoot.envs import SETS, EnvConfig, Physics
from surefoot.offline_data.scores import find_d4rl
from surefoot.training.config.presets import default_config, load_preset
from surefoot.training.config.run import EvalConfig

TASKS = {"halfcheetah": "HalfCheetah-v5", "hopper": "Hopper-v5", "walker2d": "Walker2d-v5"}
GAPS = {"gravity": Physics(gravity=2.0), "friction": Physics(friction=0.3), "noise": Physics(action_noise=1.0)}
QUALITIES = dict.fromkeys(TASKS, ("medium", "medium-replay")) | {
    "halfcheetah": ("medium", "medium-replay", "medium-expert")
}
CELLS = [(task, q, gap) for task, qualities in QUALITIES.items() for q, gap in itertools.product(qualities, GAPS)]
BASELINES = ("sac-mix", "darc", "darc-plus", "cql", "bc")


@pytest.mark.parametrize(("task", "quality", "gap"), CELLS)
def test_a_cell_of_the_study_is_what_its_name_says(task, quality, gap):
    config = load_preset("h2o", f"{task}-{quality}-{gap}")
    assert config.env == EnvConfig(TASKS[task], GAPS[gap])
    assert config.eval == EvalConfig(every=10_000, episodes=5, physics=Physics())
    assert config.data.source == f"d4rl:{find_d4rl(f'{task}-{quality}-v2').name}"
    assert config.data.clip_actions
    assert config.steps == 1_000_000
    assert config.agent == H2OConfig()


@pytest.mark.parametrize("baseline", BASELINES)
def test_a_baseline_takes_the_presets_of_h2o(baseline):
    for task, quality, gap in CELLS:
        name = f"{task}-{quality}-{gap}"
        config, cell = load_preset(baseline, f"h2o/{name}"), load_preset("h2o", name)
        assert (config.env, config.data, config.eval, config.steps) == (cell.env, cell.data, cell.eval, cell.steps)
        assert config.agent == default_config(baseline).agent


@pytest.mark.parametrize("gap", GAPS)
def test_sac_sim_is_the_baseline_of_the_study(gap):
    config = load_preset("sac", f"halfcheetah-{gap}-sim")
    cell = load_preset("h2o", f"halfcheetah-medium-{gap}")
    assert (config.env, config.eval, config.steps) == (cell.env, cell.eval, cell.steps)
    same = ("hidden", "gamma", "tau", "policy_lr", "critic_lr", "alpha_lr", "log_std_offset", "learn_log_std_affine")
    for name in (*same, "last_layer_gain", "rollout_steps", "updates_per_step", "random_steps"):
        assert getattr(config.agent, name) == getattr(cell.agent, name), name
    assert (config.agent.learning_starts, config.agent.replay_capacity) == (0, 1_000_000)
    assert config.agent.batch_size == cell.agent.real_batch_size + cell.agent.sim_batch_size
    assert config.agent.entropy_in_target
    assert config.data.source is None


@pytest.mark.parametrize(("task", "random_steps"), [("halfcheetah", 10_000), ("hopper", 1_000), ("walker2d", 1_000)])
def test_plain_sac_trains_in_the_unmodified_task(task, random_steps):
    config = load_preset("sac", task)
    assert (config.env, config.steps) == (EnvConfig(TASKS[task]), 1_000_000)
    assert (config.agent.random_steps, config.agent.learning_starts) == (random_steps, 1_000)


def test_every_packaged_preset_loads_and_says_what_it_is_for():
    seen = 0
    for agent_name in sorted(agents.REGISTRY):
        for preset in preset_names(agent_name):
            assert load_preset(agent_name, preset) != default_config(agent_name), f"{agent_name}/{preset}: no change"
            text = preset_file(agent_name, preset).read_text(encoding="utf-8")
            assert text.startswith("# "), f"{agent_name}/{preset}: no comment"
            seen += 1
    assert seen >= len(CELLS) + len(GAPS) + len(TASKS)


@pytest.mark.parametrize("name", [name for name in SETS if name in preset_names("iwocs")])
def test_an_uncertainty_set_has_a_preset_with_the_budget_of_its_dimension(name):
    config, box = load_preset("iwocs", name), SETS[name]
    assert (config.uncertainty, config.env.id, config.eval.grid) == (name, box.env, 10)
    models = config.agent.iterations
    steps = {1: (800_000, 400_000, 3), 2: (1_600_000, 800_000, 3), 3: (1_800_000, 800_000, 4)}[len(box.parameters)]
    assert (config.agent.default_steps, config.agent.model_steps, models) == steps
    assert config.steps == {1: 2_000_000, 2: 4_000_000, 3: 5_000_000}[len(box.parameters)]
    table_5 = {"policy_lr": 3e-4, "critic_lr": 1e-3, "adam_eps": 1e-5, "batch_size": 256, "replay_capacity": 1_000_000}
    table_5 |= {"gamma": 0.99, "tau": 0.005, "learning_starts": 10_000, "population": 100, "generations": 6}
    assert {key: getattr(config.agent, key) for key in table_5} == table_5


def test_every_robot_of_the_paper_has_its_presets_and_the_demo_the_budget_of_its_baseline_runs():
    robots = {"ant": 3, "halfcheetah": 3, "hopper": 3, "humanoidstandup": 3, "inverted-pendulum": 2, "walker": 3}
    assert {f"{robot}-{d}" for robot, n in robots.items() for d in range(1, n + 1)} <= set(preset_names("iwocs"))
    demo = load_preset("iwocs", "demo")
    assert demo.steps == demo.agent.default_steps + demo.agent.iterations * demo.agent.model_steps
    for entry in demo.baselines:
        baseline = load_preset(*entry.split("/"))
        assert (baseline.steps, baseline.env) == (demo.steps, demo.env)
        assert (baseline.uncertainty is None) == entry.endswith("nominal")
        same = ("hidden", "policy_lr", "critic_lr", "alpha_lr", "adam_eps", "gamma", "tau", "batch_size")
        assert [getattr(baseline.agent, field) for field in same] == [getattr(demo.agent, field) for field in same]


def test_shared_presets_are_for_agents_that_there_are():
    shared = configs._shared_folders()
    assert set(shared["linear-bandits"]) >= {"dynlin-ucb", "linucb", "oracle"}
    assert set(shared["contextual-bandits"]) >= {"neusquarecb", "neufastcb", "neural-ucb"}
    assert not {name for names in shared.values() for name in names} - set(agents.REGISTRY)
    assert preset_names("linucb") == preset_names("exp3") != preset_names("human-budget")
    assert "_agents" not in preset_names("linucb")
