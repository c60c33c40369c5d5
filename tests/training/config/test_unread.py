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
