"""Baseline runs: trained, stopped, resumed and reported with the run that starts them."""

import dataclasses
import json
import sys
import time

import pytest
import yaml
from fake_agent import HERE, FakeConfig
from sameness import assert_same_run

from surefoot.configs.casting import plain
from surefoot.evaluation import policy_files
from surefoot.training import session
from surefoot.training.cli.main import main
from surefoot.training.config.presets import load_preset
from surefoot.training.loop import baselines
from surefoot.training.loop.interrupt import StopRequest
from surefoot.training.loop.loop import save
from surefoot.training.loop.setup import resume
from surefoot.training.runs import folder as run_folder
from surefoot.training.session import execute, train

pytestmark = pytest.mark.usefixtures("unrendered")

COMMAND = baselines.BaselineRuns._command  # as it is before a fixture takes its place
PRESET = """
steps: {steps}
agent: {{scale: {scale}, fail_at: {fail_at}}}
env: {{id: surefoot/Pendulum-v0, max_episode_steps: 10}}
eval: {{every: 25, episodes: 2}}
"""


@pytest.fixture
def presets(tmp_path, monkeypatch):
    """Write presets fake/good, fake/bad and fake/long, and let children know the fake agent; return their folder."""
    for name, steps, scale, fail_at in (("good", 30, 0.2, -1), ("bad", 30, 0.3, 3), ("long", 10**6, 0.2, -1)):
        (tmp_path / f"{name}.yaml").write_text(PRESET.format(steps=steps, scale=scale, fail_at=fail_at))

    def command(self, entry, folder):
        return [sys.executable, str(HERE / "fake_agent.py"), *COMMAND(self, entry, folder)[4:]]

    def load(agent_name, preset):
        return load_preset(agent_name, preset if preset.endswith(".yaml") else str(tmp_path / f"{preset}.yaml"))

    monkeypatch.setattr(baselines.BaselineRuns, "_command", command)
    monkeypatch.setattr(baselines, "load_preset", load)
    return tmp_path


@pytest.fixture
def in_process(presets, monkeypatch):
    """Train baseline runs in this process, by the arguments that their own would get: a process takes seconds."""

    def run_all(self):
        for entry in self.config.baselines:
            folder = baselines.baseline_folder(self.run, entry)
            assert main(self._command(entry, folder)[2:]) == 0

    monkeypatch.setattr(baselines.BaselineRuns, "__enter__", lambda self: self)
    monkeypatch.setattr(baselines.BaselineRuns, "__exit__", lambda self, *error: None)
    monkeypatch.setattr(baselines.BaselineRuns, "wait", run_all)


def test_the_comparison_holds_every_method_in_both_dynamics(presets, in_process, tiny, capsys):
    """The run starts from a preset of 60 steps; its baseline, of 30 on purpose, gets the time limit and the seed."""
    start = presets / "start.yaml"
    start.write_text(yaml.safe_dump({"agent": {}} | {name: plain(tiny)[name] for name in ("env", "eval", "steps")}))
    env = dataclasses.replace(tiny.env, max_episode_steps=12)
    config = dataclasses.replace(tiny, env=env, seed=3, baselines=("fake/good",))
    run = train("fake", config, out=presets, name="run", preset=str(start))
    table = json.loads((run / "comparison.json").read_text())
    assert [(row["method"], row["step"], row["budget"], row["unit"], row["saw"]) for row in table] == [
        ("fake", 60, 60, "steps", "simulator"),
        ("fake/good", 30, 30, "steps", "simulator"),
    ]
    assert [row["settings"] for row in table] == [{"steps": 60}, {"steps": 30}]
    out = capsys.readouterr().out
    assert "fake/good" in out
    assert "60 steps" in out
    assert "30 steps" in out
    child = run / "baselines" / "fake-good"
    assert run_folder.read_meta(child)["status"] == "finished"
    assert run_folder.read_meta(child)["preset"] == "good"
    _, config = run_folder.read_config(child)
    assert (config.agent, config.seed, config.threads) == (FakeConfig(scale=0.2), 3, 1)
    assert (config.env.max_episode_steps, config.steps) == (12, 30)
    last = [row for row in (run / "evaluations.csv").read_text().splitlines() if row.startswith("60,")]
    mean = sum(float(row.split(",")[4]) for row in last) / len(last)
    assert table[0]["real_return"] == table[0]["simulator_return"] == pytest.approx(mean)


def test_a_longer_budget_is_that_of_the_baselines_too(presets, in_process, tiny):
    config = dataclasses.replace(tiny, baselines=("fake/good",))
    run = train("fake", config, out=presets, name="run")
    child = run / "baselines" / "fake-good"
    assert policy_files.checkpoint_steps(child)[-1] == 60  # the run has no preset: all of the comparison is its own
    session.resume_run(run, "fake", dataclasses.replace(config, steps=90))
    assert policy_files.checkpoint_steps(child)[-1] == 90
    assert [row["step"] for row in json.loads((run / "comparison.json").read_text())] == [90, 90]
    whole = train("fake", dataclasses.replace(config, steps=90), out=presets, name="whole")
    assert_same_run(child, whole / "baselines" / "fake-good", 90)


def test_a_finished_baseline_run_is_taken_only_with_the_settings_of_the_comparison(presets, tiny, monkeypatch):
    config = dataclasses.replace(tiny, baselines=("fake/good",))
    run = session.begin("fake", config, presets / "run", None)
    child = session.begin("fake", run.config, run.folder / "baselines" / "fake-good", None)
    monkeypatch.setattr(child, "config", dataclasses.replace(config, baselines=(), seed=9))
    run_folder.write_config(child.folder / "config.yaml", "fake", child.config, None)
    for one in (run, child):
        save(one)
        one.close()
    with pytest.raises(ValueError, match=r"fake-good: trained under other settings: .*seed was 9, not 0.*; move it"):
        session.resume_run(run.folder, "fake", dataclasses.replace(config, steps=90))
    assert baselines.read_baseline(run.folder, "fake/good")[1].steps == 60  # nothing half-written
    child.counters.step = 80
    longer = dataclasses.replace(baselines.read_baseline(run.folder, "fake/good")[1], steps=90)
    run_folder.write_config(child.folder / "config.yaml", "fake", longer, None)
    save(child)
    with pytest.raises(ValueError, match=r"fake-good: already at step 80; --steps 70 is less"):
        session.resume_run(run.folder, "fake", dataclasses.replace(config, steps=70))


def test_a_baseline_run_that_fails_is_reported_with_its_log(tmp_path, tiny, presets):
    with pytest.raises(ChildProcessError, match=r"(?s)fake/bad failed with exit code 1.*fails as configured"):
        train("fake", dataclasses.replace(tiny, baselines=("fake/bad",)), out=tmp_path, name="run")
    assert policy_files.checkpoint_steps(tmp_path / "run") == [60]


def test_baseline_runs_are_stopped_with_the_run_and_resumed_with_it(tmp_path, tiny, presets):
    config = dataclasses.replace(tiny, baselines=("fake/long",))
    (tmp_path / "start.yaml").write_text(
        "steps: 60\ncheckpoint_every: 20\nenv: {id: surefoot/Pendulum-v0, max_episode_steps: 10}\n"
    )
    stop, run = StopRequest(), session.begin("fake", config, tmp_path / "run", str(tmp_path / "start.yaml"))
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
    assert call[call.index("--resume") + 1] == str(child)
    assert "--steps=1000000" in call
    name, settings = run_folder.read_config(child)
    resumed = resume(child, name, dataclasses.replace(settings, steps=step_of_child + 3))
    execute(resumed, StopRequest())
    assert policy_files.checkpoint_steps(child)[-1] == step_of_child + 3


def test_a_baseline_run_knows_the_run_it_belongs_to_and_imports_nothing_of_the_working_folder(
    presets, tiny, monkeypatch
):
    config = dataclasses.replace(tiny, baselines=("fake/good",))
    baselines.save_baselines(presets, baselines.plan_baselines("fake", config, None))
    command = COMMAND(baselines.BaselineRuns(presets, config, lambda: False), "fake/good", presets / "none")
    assert command[:2] == [sys.executable, "-P"]
    check = "import os; assert os.environ['SUREFOOT_DRIVER'] == str(os.getppid())"
    monkeypatch.setattr(baselines.BaselineRuns, "_command", lambda *_: [sys.executable, "-c", check])
    with baselines.BaselineRuns(presets, config, lambda: False) as runs:
        runs.wait()


def test_an_unknown_baseline_run_is_found_before_anything_starts(tiny):
    with pytest.raises(FileNotFoundError, match="no preset 'nope' for fake"):
        baselines.plan_baselines("fake", dataclasses.replace(tiny, baselines=("fake/nope",)), None)
