"""Ctrl-C, SIGTERM and SIGKILL on a real process, and resuming afterwards."""

import os
import signal
import sys
import time

import pytest
from sameness import assert_same_run
from waiting import wait_until

from surefoot.evaluation import policy_files
from surefoot.training.cli.main import main
from surefoot.training.loop.interrupt import stop_on_signals
from surefoot.training.runs import folder as run_folder

pytestmark = pytest.mark.usefixtures("unrendered")

TASK = ("--env.id", "surefoot/Pendulum-v0", "--env.max-episode-steps", "10", "--eval.episodes", "1")
RUN = ("train", "fake", *TASK, "--steps", "600", "--eval.every", "150", "--log-every", "14", "--checkpoint-every", "30")
SLOW = os.environ | {"FAKE_PAUSE": "0.01"}  # two seconds, enough to be interrupted in


def wait_for_rows(run, number):
    wait_until(lambda: (run / "metrics.csv").read_text().count("\n") > number)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_a_signal_saves_and_says_how_to_resume_and_the_run_is_the_same(tmp_path, forked, number, code):
    process = forked(*RUN, "--out", tmp_path, "--name", "parts", env=SLOW)
    wait_for_rows(tmp_path / "parts", 2)
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert process.returncode == code, err
    step = policy_files.checkpoint_steps(tmp_path / "parts")[-1]
    assert 0 < step < 600
    assert f"stopped at step {step}; resume with: " in out
    assert out.rstrip().endswith(f"train fake --resume {tmp_path / 'parts'}")
    assert run_folder.read_meta(tmp_path / "parts")["status"] == "interrupted"
    assert_goes_on_as_if_nothing_had_happened(tmp_path)


def test_a_run_under_nohup_does_not_hear_that_the_terminal_was_closed():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with stop_on_signals() as stop:
            os.kill(os.getpid(), signal.SIGHUP)
        assert not stop
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_run_saves_and_ends_when_the_process_it_belongs_to_is_killed(tmp_path, command):
    """As a sweep's runs and the baseline runs do, of which a later resume would start a second one."""
    run = tmp_path / "parts"
    begin = "import os, subprocess, sys; os.environ['SUREFOOT_DRIVER'] = str(os.getpid()); subprocess.run(sys.argv[1:])"
    parent = command(*RUN, "--out", tmp_path, "--name", "parts", env=SLOW, before=[sys.executable, "-c", begin])
    wait_until(lambda: (run / "metrics.csv").is_file())
    wait_for_rows(run, 2)
    parent.kill()
    wait_until(lambda: run_folder.read_meta(run)["status"] == "interrupted")


def test_sigkill_leaves_a_run_that_can_be_resumed(tmp_path, forked):
    process = forked(*RUN, "--out", tmp_path, "--name", "parts", env=SLOW)
    wait_for_rows(tmp_path / "parts", 6)
    process.kill()
    process.communicate()
    assert run_folder.read_meta(tmp_path / "parts")["status"] == "running"
    assert_goes_on_as_if_nothing_had_happened(tmp_path)


def assert_goes_on_as_if_nothing_had_happened(folder):
    assert main(["train", "--resume", str(folder / "parts")]) == 0
    assert main([*RUN, "--out", str(folder), "--name", "straight"]) == 0
    assert_same_run(folder / "straight", folder / "parts", 600)


def test_a_second_ctrl_c_ends_at_once(tmp_path, forked):
    env = os.environ | {"FAKE_PAUSE": "20", "FAKE_STEPPING": str(tmp_path / "stepping")}
    process = forked(*RUN, "--log-every", "1", "--out", tmp_path, "--name", "run", env=env)
    wait_until((tmp_path / "stepping").is_file)  # in its first agent step
    process.send_signal(signal.SIGINT)
    time.sleep(0.2)
    began = time.monotonic()
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    assert process.returncode == 130
    assert time.monotonic() - began < 10
    assert policy_files.checkpoint_steps(tmp_path / "run") == []
