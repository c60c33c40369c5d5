"""Runs of an agent with variants: chosen by one option, labelled in tables and figures, with a diagnostics figure."""

import csv
from dataclasses import replace

import pytest
from matplotlib.colors import to_rgba

from surefoot import agents
from surefoot.envs import EnvConfig
from surefoot.evaluation.figures import curves as plots
from surefoot.evaluation.figures.curves import diagnostics
from surefoot.evaluation.policy_files import checkpoint_path
from surefoot.evaluation.storage import load
from surefoot.offline_data import DataConfig
from surefoot.training.cli.main import main
from surefoot.training.cli.train import parse
from surefoot.training.config.presets import load_preset
from surefoot.training.loop.baselines import baseline_folder
from surefoot.training.session import train

SMALL = """
env: {{id: Pendulum-v1, max_episode_steps: 20}}
agent:
  variant: {variant}
  hidden: [8, 8]
  model_hidden: [8, 8]
  model_decay: [0, 0, 0]
  model_epochs: 2
  ensemble_size: 2
  elites: 1
  batch_size: 8
  real_ratio: 0.25
  updates_per_step: 1
  random_steps: 10
  rollout_starts: 12
  model_interval: 10
  diagnose_every: 10
eval: {{every: 40, episodes: 1}}
steps: {steps}
log_every: 10
"""


def preset(tmp_path, variant="rr", steps=40):
    path = tmp_path / f"{variant}.yaml"
    path.write_text(SMALL.format(variant=variant, steps=steps))
    return str(path)


def test_a_variant_is_one_option():
    for variant in ("pe", "de", "sp", "sd", "rr", "sn"):
        _, launch = parse(["mbpo", "--preset", "pendulum", "--variant", variant])
        assert launch.run.agent.variant == variant
    assert main(["train", "mbpo", "--preset", "pendulum", "--variant", "nope"]) == 2
    assert main(["train", "sac", "--variant", "rr"]) == 2


@pytest.mark.parametrize("variant", ["rr", "pe"])
def test_every_variant_leaves_the_figure_of_its_measurements(variant, tmp_path):
    config = load_preset("mbpo", preset(tmp_path, variant))
    run = train("mbpo", config, out=tmp_path, name=variant)
    assert (run / "plots" / "diagnostics.png").stat().st_size > 20_000
    with (run / "metrics.csv").open() as file:
        last = list(csv.DictReader(file))[-1]
    for name in ("value_aware_error", "lip_upper", "lip_local", "lip_ball", "model_holdout_mse", "rollout_mean_length"):
        assert float(last[name]) == float(last[name]), name
    assert all(float(last[f"seconds/{phase}"]) >= 0 for phase in ("model", "rollouts", "updates"))


def test_what_a_run_has_not_measured_yet_has_no_figure(tmp_path):
    run = train("mbpo", load_preset("mbpo", preset(tmp_path, steps=12)), out=tmp_path, name="short")
    assert diagnostics({"mbpo": run}, tmp_path / "none.png", ["value_aware_error"]) is None
    assert not (tmp_path / "none.png").exists()
    assert (run / "plots" / "learning_curve.png").stat().st_size > 1000


def test_variants_have_colours_of_their_own(tmp_path, monkeypatch):
    runs = {}
    for variant in ("rr", "sd"):
        runs[variant] = train("mbpo", load_preset("mbpo", preset(tmp_path, variant)), out=tmp_path, name=variant)
    drawn = []
    monkeypatch.setattr(plots, "write_figure", lambda figure, out, caption: drawn.append(figure) or out)
    diagnostics(runs, tmp_path / "d.png", ["lip_local", "no such metric", "lip_upper"])
    (figure,) = drawn
    assert [axes.get_ylabel() for axes in figure.axes] == [
        agents.get("mbpo").drawn[name] for name in ("lip_local", "lip_upper")
    ]
    styles = agents.get("mbpo").variant_styles
    lines = {line.get_label(): to_rgba(line.get_color()) for line in figure.axes[0].get_lines()}
    assert lines == {variant: to_rgba(styles[variant].color) for variant in runs}


def test_recorded_data_come_from_the_readers(tmp_path, data_file, unrendered):
    config = replace(load_preset("mbpo", preset(tmp_path, steps=24)), data=DataConfig(source=str(data_file)))
    run = train("mbpo", config, out=tmp_path, name="data")
    rows = load(checkpoint_path(run, "step", 24))["agent"]
    assert rows["data"]["fingerprint"][0] == 120
    assert len(rows["replay"]["rows"]) == 24


@pytest.mark.slow
def test_baseline_runs_of_the_same_agent_share_the_figure(tmp_path):
    run = tmp_path / "demo"
    code = main(["train", "mbpo", "--preset", "demo", "--steps", "800", "--out", str(tmp_path), "--name", "demo"])
    assert code == 0
    assert (run / "plots" / "diagnostics.png").exists()
    assert (baseline_folder(run, "mbpo/demo-sd") / "metrics.csv").exists()
    assert '"mbpo rr"' in (run / "comparison.json").read_text()


def test_a_task_that_ends_by_an_unknown_rule_is_refused_with_the_way_out(tmp_path):
    config = load_preset("mbpo", preset(tmp_path))
    config = replace(config, env=EnvConfig("MountainCarContinuous-v0"))
    with pytest.raises(ValueError, match=r"MountainCarContinuous-v0: no termination rule .* --env\.termination"):
        train("mbpo", config, out=tmp_path, name="x")
    assert not (tmp_path / "x").exists()
