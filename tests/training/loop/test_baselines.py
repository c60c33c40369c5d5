"""Baseline runs: trained, stopped, resumed and reported with the run that starts them."""

import dataclasses
import json
import sys
import time

import pytest
from fake_agent import HERE, FakeConfig

from surefoot.evaluation import policy_files
from surefoot.training import session
from surefoot.training.loop import baselines
from surefoot.training.loop.interrupt import StopRequest
from surefoot.training.loop.setup import resume, start
from surefoot.training.runs import folder as run_folder
from surefoot.training.session import execute, train

PRESET = """
steps: {steps}
agent: {{scale: {scale}}}
env: {{id: surefoot/Pendulum-v0, max_episode_steps: 10}}
eval: {{every: 25, episodes: 2}}
"""


@pytest.fixture
def baseline_commands(tmp_path, monkeypatch):
    """Presets fake/good and fake/bad, and children that know the fake agent and these presets."""
    for name, steps, scale in (("good", 30, 0.2), ("bad", 30, 0.3), ("long", 10**6, 0.2)):
        (tmp_path / f"{name}.yaml").write_text(PRESET.format(steps=steps, scale=scale))

    def command(self, entry, folder):
        arguments = whole(self, entry, folder)[3:]
        preset = tmp_path / f"{entry.split('/')[1]}.yaml"
        arguments = [str(preset) if word == entry.split("/")[1] else word for word in arguments]
        return [sys.executable, str(HERE / "fake_agent.py"), *arguments, *extra.get(entry, [])]

    extra = {"fake/bad": ["--agent.fail-at", "3"]}
    whole = baselines.BaselineRuns._command
    monkeypatch.setattr(baselines.BaselineRuns, "_command", command)
    monkeypatch.setattr(session, "require_baselines", lambda config, regret: None)  # the presets are none of ours


def test_the_comparison_holds_every_method_in_both_dynamics(tmp_path, tiny, baseline_commands, capsys):
    run = train("fake", dataclasses.replace(tiny, seed=3, baselines=("fake/good",)), out=tmp_path, name="run")
    table = json.loads((run / "comparison.json").read_text())
    assert [(row["method"], row["step"], row["saw"]) for row in table] == [
        ("fake", 60, "simulator"),
        ("fake/good", 30, "simulator"),
    ]
    assert "fake/good" in capsys.readouterr().out
    child = run / "baselines" / "fake-good"
    assert run_folder.read_meta(child)["status"] == "finished"
    _, config = run_folder.read_config(child)
    assert (config.agent, config.seed, config.threads) == (FakeConfig(scale=0.2), 3, 1)
    last = [row for row in (run / "evaluations.csv").read_text().splitlines() if row.startswith("60,")]
    mean = sum(float(row.split(",")[4]) for row in last) / len(last)
    assert table[0]["real_return"] == table[0]["simulator_return"] == pytest.approx(mean)


def test_a_baseline_run_that_fails_is_reported_with_its_log(tmp_path, tiny, baseline_commands):
    with pytest.raises(ChildProcessError, match=r"(?s)fake/bad failed with exit code 1.*fails as configured"):
        train("fake", dataclasses.replace(tiny, baselines=("fake/bad",)), out=tmp_path, name="run")
    assert policy_files.checkpoint_steps(tmp_path / "run") == [42, 60]


def test_baseline_runs_are_stopped_with_the_run_and_resumed_with_it(tmp_path, tiny, baseline_commands):
    config = dataclasses.replace(tiny, baselines=("fake/long",))
    stop, run = StopRequest(), start("fake", config, tmp_path / "run")
    child = tmp_path / "run" / "baselines" / "fake-long"
    evaluations, step = child / "evaluations.csv", run.agent.step

    def step_and_ask():
        while "25," not in evaluations.read_text() if evaluations.is_file() else True:
            time.sleep(0.05)
        stop.signal = 2
        return step()

    run.agent.step = step_and_ask
    execute(run, stop)
    assert run_folder.read_meta(child)["status"] == "interrupted"
    (step_of_child,) = policy_files.checkpoint_steps(child)
    call = baselines.BaselineRuns(run.folder, config, lambda: True)._command("fake/long", child)
    assert call[-2:] == ["--resume", str(child)]
    name, settings = run_folder.read_config(child)
    resumed = resume(child, name, dataclasses.replace(settings, steps=step_of_child + 3))
    execute(resumed, StopRequest())
    assert policy_files.checkpoint_steps(child)[-1] == step_of_child + 3


def test_an_unknown_baseline_run_is_found_before_anything_starts(tiny):
    with pytest.raises(FileNotFoundError, match="no preset 'nope' for fake"):
        baselines.require_baselines(dataclasses.replace(tiny, baselines=("fake/nope",)))
