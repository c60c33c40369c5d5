"""A comparison is one: what a run changes, its baselines get, or say why not; what differs is a column of the table."""

from dataclasses import replace

import pytest

from surefoot import agents
from surefoot.configs import preset_names
from surefoot.configs.casting import flattened, nested, overlay, plain
from surefoot.training import comparison
from surefoot.training.config.baselines import plan_baseline
from surefoot.training.config.presets import default_config, load_preset
from surefoot.training.config.run import RunConfig
from surefoot.training.runs.folder import write_config

COMPARISONS = [
    (name, preset, entry)
    for name in agents.REGISTRY
    for preset in preset_names(name)
    for entry in load_preset(name, preset).baselines
]
OWN = ("agent", "baselines", "threads", "compile", "cudagraph")  # the method, and how it is computed
# Whatever is not a number has its other value here.
OTHER = {
    "env.id": "Hopper-v5",
    "env.vectorization": "async",
    "env.backend": "warp",
    "env.nconmax": 40,
    "env.njmax": 200,
    "env.max_episode_steps": 77,
    "env.action_bound": 0.5,
    "env.termination": "mine:ends",
    "env.kwargs": {"wind": 3},
    "env.physics.parameters": ("control_delay=1",),
    "eval.physics.parameters": ("control_delay=2",),
    "uncertainty": "hopper-2",
    "data.source": "other.hdf5",
    "data.fraction": 0.25,
    "data.view": "qlearning",
    "data.max_episode_steps": 55,
    "eval.objectives": ("mean",),
    "eval.grid": 7,
    "eval.patience": 3,
    "device": "cuda:1",
    "resume_episodes": "fresh",
    "engine": "eager",
    "precision": "bf16",
    "logger": ("tensorboard",),
}
WITHOUT_DATA = ("sac/demo-sim", "trpo/demo", "trpo/lock-h5", "trpo/lock-h10", "trpo/lock-h15")


def changed(config, name):
    """Return the configuration with another value of one setting, and that value."""
    value = OTHER[name] if name in OTHER else another(value_of(config, name))
    if name == "eval.grid" and config.uncertainty is None:
        config = replace(config, uncertainty="hopper-2")
    return overlay(config, nested({name: value}), "the command line"), value


def another(value):
    return not value if isinstance(value, bool) else value + 1


def settings_of(config):
    whole = plain(config)
    whole["env"]["kwargs"] = {}
    return list(flattened({name: value for name, value in whole.items() if name not in OWN}))


def value_of(config, name):
    for part in name.split("."):
        config = getattr(config, part)
    return config


def exempt(name, entry):
    """Say whether a baseline of the packaged presets goes without a setting: it cannot take it, or means to lack it."""
    agent_name = entry.partition("/")[0]
    if name.startswith("data."):
        return not agents.get(agent_name).reads_data or entry in WITHOUT_DATA
    if name == "uncertainty":
        return entry in ("bc/demo", "sac-offline/demo", "sac/iwocs-demo-nominal")
    if name == "num_seeds":
        return agents.get(agent_name).regret is not None
    return name in ("eval.grid", "eval.grid_closed")  # measured by the run itself, for all


@pytest.mark.parametrize(("agent_name", "preset", "entry"), COMPARISONS)
def test_a_baseline_gets_every_setting_that_the_run_changes(agent_name, preset, entry):
    base, theirs = load_preset(agent_name, preset), load_preset(*entry.split("/"))
    for name in settings_of(base):
        config, value = changed(base, name)
        planned = plan_baseline(entry, theirs, agent_name, config, base)
        took = value_of(planned.config, name)
        if name == "env.kwargs":
            assert took == config.env.kwargs == value, name
        elif name == "eval.objectives":
            flag = any("--eval.objectives" in note for note in planned.notes)
            assert (took == value) != flag, name  # taken, or said why not
        elif exempt(name, entry):
            assert took == value_of(theirs, name), name
            said = any(f"--{name.replace('_', '-')} " in note for note in planned.notes)
            assert said != name.startswith("eval.grid"), name
        else:
            assert took == value, name
            assert planned.notes == (), name


def test_every_setting_of_a_run_is_tried_and_most_presets_have_baselines():
    tried = set(settings_of(RunConfig(agent=None)))
    assert {"steps", "seed", "env.id", "env.physics.gravity", "env.kwargs", "uncertainty", "data.source"} <= tried
    assert set(OTHER) <= tried
    methods = {"h2o", "hnpg", "nora", "iwocs", "dhn", "mbpo", "dynlin-ucb", "neusquarecb", "neufastcb"}
    assert methods <= {name for name, *_ in COMPARISONS}


@pytest.mark.parametrize(("agent_name", "preset"), sorted({one[:2] for one in COMPARISONS}))
def test_whatever_differs_is_a_column(agent_name, preset, tmp_path):
    """A setting that decides numbers is the same in a run and its baselines, or each has its own in the table."""
    config = load_preset(agent_name, preset)
    folders = {}
    for label, name, one in [("run", agent_name, config)] + [
        (entry, *plan_baseline(entry, load_preset(*entry.split("/")), agent_name, config, config)[:2])
        for entry in config.baselines
    ]:
        folders[label] = tmp_path / label.replace("/", "-")
        folders[label].mkdir()
        write_config(folders[label] / "config.yaml", name, one, None)
    runs = comparison.side_by_side(folders)
    columns, saw = comparison.columns(runs), {one.saw for one in runs.values()}
    lengths = {comparison.trained_for(one, one.config.steps) for one in runs.values()}
    flat = [flattened(plain(one.config)) for one in runs.values()]
    different = {
        name for name in flat[0] if name.partition(".")[0] not in OWN and len({repr(one.get(name)) for one in flat}) > 1
    }
    technical = {"log_every", "checkpoint_every", "eval.grid", "eval.grid_closed"}
    of_their_own_table = {"eval.objectives", "eval.objective_episodes"}
    for name in different - technical - of_their_own_table:
        assert name in columns or (name == "steps" and len(lengths) > 1) or (name == "data.source" and len(saw) > 1)


def test_the_known_differences_are_shown_as_they_are(tmp_path):
    config = load_preset("iwocs", "demo")
    for name, one in (("iwocs", config), ("sac", load_preset("sac", "iwocs-demo-nominal"))):
        (tmp_path / name).mkdir()
        write_config(tmp_path / name / "config.yaml", name, one, None)
    runs = comparison.side_by_side({name: tmp_path / name for name in ("iwocs", "sac")})
    assert comparison.columns(runs) == {"uncertainty": ["inverted-pendulum-2", "none"]}
    assert [comparison.trained_for(one, 300) for one in runs.values()] == ["300 of 96,000 steps"] * 2
    assert list(comparison.in_figures(runs)) == ["iwocs", "sac"]  # the caption names the set


def test_a_figure_says_what_runs_learned_from_and_how_long(tmp_path):
    for name, preset in (("h2o", "demo"), ("sac", "demo-sim"), ("bc", "demo")):
        (tmp_path / name).mkdir()
        write_config(tmp_path / name / "config.yaml", name, replace(load_preset(name, preset), baselines=()), None)
    runs = comparison.side_by_side({name: tmp_path / name for name in ("h2o", "sac", "bc")})
    assert list(comparison.in_figures(runs)) == [
        "h2o (simulator + data, 30,000 steps)",
        "sac (simulator, 30,000 steps)",
        "bc (data, 15,000 updates)",
    ]


def of_demo(config, entry="sac/demo-sim", base="demo"):
    start = load_preset("h2o", base) if base else None
    return plan_baseline(entry, load_preset(*entry.split("/")), "h2o", config, start).config


def test_what_a_run_does_not_change_stays_as_the_presets_have_it():
    config = overlay(load_preset("h2o", "demo"), {"steps": 300, "env": {"physics": {"gravity": 3.0}}}, "")
    theirs = load_preset("sac", "demo-sim")
    physics = replace(theirs.env.physics, gravity=3.0)
    expected = replace(theirs, steps=300, env=replace(theirs.env, physics=physics), threads=1)
    assert of_demo(config) == expected
    own = overlay(theirs, {"steps": 40, "env": {"physics": {"friction": 0.5}}}, "")
    planned = plan_baseline("sac/demo-sim", own, "h2o", load_preset("h2o", "demo"), load_preset("h2o", "demo"))
    assert (planned.config.steps, planned.config.env.physics.friction) == (40, 0.5)


def test_without_a_preset_the_whole_comparison_is_the_runs():
    config = overlay(load_preset("h2o", "demo"), {"steps": 777, "env": {"max_episode_steps": 50}}, "")
    follower = of_demo(config, "bc/demo", base=None)
    for name in ("env", "data", "eval", "steps", "seed", "uncertainty", "num_seeds", "log_every"):
        assert getattr(follower, name) == getattr(config, name), name
    assert of_demo(config, base=None).data.source is None  # SAC reads none


def test_arguments_of_the_task_are_taken_one_by_one_and_with_another_task_as_a_whole():
    base = load_preset("hnpg", "lock-h5")
    theirs = overlay(load_preset("trpo", "lock-h5"), {"env": {"kwargs": {"reward_mode": "dense", "horizon": 5}}}, "")
    kwargs = {"horizon": 7, "reward_mode": "terminal"}  # horizon changed, code_seed dropped, reward_mode as it was
    config = replace(base, env=replace(base.env, kwargs=kwargs), agent=replace(base.agent, horizon=7))
    follower = plan_baseline("trpo/lock-h5", theirs, "hnpg", config, base).config
    assert follower.env.kwargs == {"reward_mode": "dense", "horizon": 7}
    assert follower.agent.horizon == 7  # the task's, not the method's
    config = replace(base, env=replace(base.env, id="surefoot/DeepSea-v0", kwargs={"size": 3}))
    follower = plan_baseline("trpo/lock-h5", theirs, "hnpg", config, base).config
    assert (follower.env.id, follower.env.kwargs) == ("surefoot/DeepSea-v0", {"size": 3})


def test_a_baseline_of_another_task_is_refused():
    config = load_preset("h2o", "demo")
    with pytest.raises(ValueError, match=r"baselines: mbpo/demo: its task is Pendulum-v1, the run's HalfCheetah-v5"):
        of_demo(config, "mbpo/demo")


@pytest.mark.parametrize("base", [None, "demo-sim"])
def test_a_preset_of_another_task_is_refused_though_the_run_passes_its_own_on(base):
    base = base and load_preset("sac", base)
    config = default_config("sac")
    config = replace(config, env=replace(config.env, id="Hopper-v5"))
    with pytest.raises(ValueError, match=r"^baselines: mbpo/demo: its task is Pendulum-v1, the run's Hopper-v5; name"):
        plan_baseline("mbpo/demo", load_preset("mbpo", "demo"), "sac", config, base)
    pendulum = replace(config, env=replace(config.env, id="Pendulum-v1"))
    assert plan_baseline("mbpo/demo", load_preset("mbpo", "demo"), "sac", pendulum, base).config.env.id == "Pendulum-v1"


@pytest.mark.parametrize("entries", [("sac",), ("sac//x",), ("sac/x", "sac/x")])
def test_entries_that_are_none_are_refused(entries):
    with pytest.raises(ValueError, match="baselines: "):
        replace(load_preset("h2o", "demo"), baselines=entries)
