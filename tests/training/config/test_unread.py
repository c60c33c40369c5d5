"""What is given and has no effect is refused by the command and from Python; what a preset brings along is not."""

import pytest

import surefoot
from surefoot.training.cli.train import parse
from surefoot.training.config.presets import default_config, load_preset, to_plain
from surefoot.training.runs.folder import create

CASES = [
    (
        ["h2o", "--agent.lagrange-target", "2"],
        "--agent.lagrange-target has no effect without --agent.lagrange; leave it",
    ),
    (
        ["h2o", "--agent.regulariser-weight", "0", "--agent.no-adaptive-weighting"],
        "--agent.no-adaptive-weighting has no effect with --agent.regulariser-weight 0; leave it out",
    ),
    (["sac-mix", "--agent.classifier-hidden", "8"], "--agent.classifier-hidden has no effect where no weight"),
    (
        ["iwocs", "--preset", "demo", "--agent.thresholds", "0.5"],
        "--agent.thresholds has no effect with --agent.gate m",
    ),
    (["mbpo", "--variant", "sd", "--agent.attack", "fgsm"], "--agent.attack has no effect with --agent.variant sd"),
    (["bc", "--agent.holdout-every", "5"], "--agent.holdout-every has no effect without --agent.holdout"),
    (["sac", "--data.source", "x.hdf5"], "--data.source has no effect on sac, which learns from its own steps alone;"),
    (["h2o", "--data.fraction", "0.5"], "--data.fraction has no effect without --data.source; leave it out"),
    (["h2o", "--data.source", "minari:a/b-v0", "--data.view", "qlearning"], "--data.view has no effect on minari:a/b"),
    (["hnpg", "--data.source", "behaviour:9", "--data.max-episode-steps", "9"], "steps has no effect on behaviour:9,"),
    (["sac", "--eval.worlds", "8"], "--eval.worlds has no effect without --uncertainty; leave it out"),
    (["sac", "--eval.grid-closed"], "--eval.grid-closed has no effect without --eval.grid; leave it out"),
    (["dhn", "--eval.objective-episodes", "9"], "--eval.objective-episodes has no effect without --eval.objectives;"),
    (["sac", "--env.termination", "a:b"], "--env.termination has no effect on sac, which rolls out no model; leave it"),
    (["bc", "--num-envs", "4"], "--env.num-envs has no effect on bc, which never acts in the task; leave it out"),
    (
        ["sac-offline", "--preset", "demo", "--env.physics.gravity", "4"],
        "--env.physics.gravity has no effect on sac-offline, which never acts in the task; --eval.physics is what it",
    ),
    (["nora", "--eval.episodes", "9"], "--eval.episodes has no effect on nora, which has its regret and no eval"),
]


@pytest.mark.parametrize(("arguments", "message"), CASES)
def test_an_option_without_effect_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        parse(arguments)


def test_what_a_preset_brings_along_is_not_given():
    _, launch = parse(
        ["iwocs", "--preset", "demo", "--agent.gate", "predictors"]
    )  # it has 20,000 updates for the other
    assert launch.run.agent.gate_updates == load_preset("iwocs", "demo").agent.gate_updates == 20_000
    _, launch = parse(["mbpo", "--preset", "inverted-pendulum", "--variant", "sn"])
    assert launch.run.agent.spectral_bound == 8.0
    parse(["h2o", "--agent.lagrange", "--agent.lagrange-target", "2"])
    parse(["h2o", "--agent.lagrange-target", "1"])  # as it is anyway


READ = [
    ["h2o", "--data.source", "x.hdf5", "--data.fraction", "0.5", "--data.view", "qlearning", "--data.clip-actions"],
    ["sac", "--uncertainty", "hopper-2", "--eval.worlds", "8", "--eval.grid", "3", "--eval.grid-closed"],
    ["dhn", "--eval.objectives", "cvar(0.1)", "--eval.objective-episodes", "9"],
    ["mbpo", "--env.termination", "a:b"],
    ["sac", "--num-envs", "4", "--env.physics.gravity", "4"],
    ["sac-offline", "--eval.physics.gravity", "4", "--eval.every", "9", "--env.vectorization", "async"],
    # What a baseline is given.
    ["sac", "--baselines", "h2o/demo", "--data.source", "x.hdf5", "--data.fraction", "0.5"],
    ["bc", "--baselines", "h2o/demo", "--num-envs", "4", "--env.physics.gravity", "4"],
    ["sac", "--baselines", "mbpo/hopper-sd", "--env.termination", "a:b"],
    ["sac", "--baselines", "iwocs/demo", "--eval.worlds", "8"],
]


@pytest.mark.parametrize("arguments", READ, ids=" ".join)
def test_a_setting_that_is_read_is_taken(arguments):
    parse(arguments)


def test_a_preset_of_somebodys_own_gives_all_that_it_sets(tmp_path):
    (tmp_path / "own.yaml").write_text("agent: {lagrange_target: 2.0}\n")
    with pytest.raises(ValueError, match="lagrange-target has no effect without"):
        parse(["h2o", "--preset", str(tmp_path / "own.yaml")])


def test_python_refuses_it_before_anything_is_written(tmp_path):
    with pytest.raises(ValueError, match="sampled-actions has no effect with"):
        surefoot.train("sac-offline", agent={"sampled_actions": 3}, out=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_run_that_has_such_a_setting_is_read_and_resumed(tmp_path):
    config = default_config("bc")
    config = type(config)(**{**vars(config), "agent": type(config.agent)(holdout_every=5)})
    create(tmp_path / "run", "bc", config, None)
    _, launch = parse(["--resume", str(tmp_path / "run")])
    assert to_plain("bc", launch.run) == to_plain("bc", config)
