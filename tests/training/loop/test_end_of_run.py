"""From the last checkpoint to the end of a run: whatever stops it there, the command that it prints goes on."""

import dataclasses
import shlex
import shutil
from pathlib import Path

import pytest
from fake_agent import FakeConfig
from sameness import assert_same_run

from surefoot.training import session
from surefoot.training.cli.main import main
from surefoot.training.loop import baselines, loop
from surefoot.training.loop.interrupt import StopRequest
from surefoot.training.loop.setup import require_not_beyond, resume
from surefoot.training.runs import folder as run_folder
from surefoot.training.session import execute, train

pytestmark = pytest.mark.usefixtures("unrendered")

RUN = ("--env.id", "surefoot/Pendulum-v0", "--env.max-episode-steps", "10", "--eval.episodes", "1", "--steps", "40")
OVERSHOOTS = ("--agent.env-steps", "17")  # plays 51 steps of 40
MOMENTS = [(loop, "log_metrics"), (loop, "log_evaluation"), (loop, "_drop_old"), (session, "finish")]


@pytest.fixture
def stop(monkeypatch):
    """Return the request of the command line, to be made from within."""
    found = []
    monkeypatch.setattr(
        StopRequest, "__init__", lambda self, init=StopRequest.__init__: (init(self), found.append(self))[0]
    )
    return found


def stop_in(module, name, monkeypatch, stop):
    """Let Ctrl-C come when a function is called after the last step, and the process go on as it does."""
    function = getattr(module, name)

    def stopped(run, *rest, **more):
        at_end = getattr(run, "counters", None) is None or run.counters.step >= 40
        if at_end:
            stop[0].request()
        return function(run, *rest, **more)

    monkeypatch.setattr(module, name, stopped)


def resumed_by_what_was_printed(out):
    command = shlex.split(out.partition("resume with: ")[2])
    return main(command[command.index("train") :])


@pytest.mark.parametrize(("module", "name"), MOMENTS)
def test_a_run_beyond_its_budget_is_gone_on_from_as_it_says(tmp_path, monkeypatch, capsys, stop, module, name):
    place = ("--out", str(tmp_path))
    assert main(["train", "fake", *RUN, *OVERSHOOTS, *place, "--name", "straight"]) == 0
    with monkeypatch.context() as patch:
        stop.clear()
        stop_in(module, name, patch, stop)
        assert main(["train", "fake", *RUN, *OVERSHOOTS, *place, "--name", "run"]) == 130
    run = tmp_path / "run"
    assert run_folder.read_meta(run)["status"] == "interrupted"
    out = capsys.readouterr().out
    assert "stopped at step 51; resume with:" in out
    assert resumed_by_what_was_printed(out) == 0
    assert run_folder.read_meta(run)["status"] == "finished"
    assert_same_run(tmp_path / "straight", run, 51)
    assert main(["train", "--resume", str(run), "--steps", "40"]) == 0  # it is finished


def test_a_stop_while_runs_are_compared_or_baselines_waited_for_is_gone_on_from(tmp_path, monkeypatch, capsys, stop):
    from surefoot.training.config.presets import default_config

    load = lambda agent, preset: dataclasses.replace(  # noqa: E731 - a preset of the fake agent
        default_config("fake"),
        agent=FakeConfig(env_steps=17),
        env=dataclasses.replace(default_config("fake").env, id="surefoot/Pendulum-v0"),
        steps=40,
    )
    monkeypatch.setattr(baselines, "load_preset", load)
    monkeypatch.setattr(session.BaselineRuns, "_command", lambda self, entry, folder: ["true"])
    for i, (module, name) in enumerate([(session, "compare"), (session.BaselineRuns, "wait")]):
        run = tmp_path / f"run{i}"
        with monkeypatch.context() as patch:
            stop.clear()
            patch.setattr(session, "compare", lambda *rest: None)
            stop_in(module, name, patch, stop)
            call = ["train", "fake", *RUN, *OVERSHOOTS, "--baselines", "fake/good", "--out", str(tmp_path)]
            assert main([*call, "--name", run.name]) == 130, capsys.readouterr().err
            out = capsys.readouterr().out
        with monkeypatch.context() as patch:
            patch.setattr(session, "compare", lambda *rest: None)
            assert resumed_by_what_was_printed(out) == 0
        assert run_folder.read_meta(run)["status"] == "finished"


@pytest.mark.parametrize(
    ("step", "before", "after", "fits"),
    [(51, 40, 40, True), (51, 40, 45, True), (51, 40, 39, False), (51, 90, 60, True), (51, 90, 45, False)],
)
def test_a_budget_may_be_any_that_the_run_would_not_have_ended_before(tiny, step, before, after, fits):
    budgets = [dataclasses.replace(tiny, steps=steps) for steps in (before, after)]
    if fits:
        require_not_beyond(step, *budgets, Path("run"))
    else:
        with pytest.raises(ValueError, match=f"run: already at step {step}; --steps {after} is less"):
            require_not_beyond(step, *budgets, Path("run"))


def test_a_finished_run_that_is_killed_before_it_says_so_is_finished_again(tmp_path, tiny):
    config = dataclasses.replace(tiny, agent=FakeConfig(env_steps=17))
    straight = train("fake", config, out=tmp_path, name="straight")
    shutil.copytree(straight, tmp_path / "run")
    run_folder.write_meta(tmp_path / "run", {"status": "running"})
    execute(resume(tmp_path / "run", "fake", config), StopRequest())
    assert run_folder.read_meta(tmp_path / "run")["status"] == "finished"
    assert_same_run(straight, tmp_path / "run", 68)
