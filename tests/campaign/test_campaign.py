"""Each command of the campaign, small: that it finds nothing here, and that it would find what it is for."""

import random

import kills
import pytest
import resumes
import soak
import tiny_runs
import two_writers

from surefoot.training.loop import loop
from surefoot.training.runs import lock

pytestmark = pytest.mark.campaign


@pytest.fixture(autouse=True)
def results(tmp_path, monkeypatch):
    """Let results go to a folder of the test."""
    monkeypatch.setattr(tiny_runs.records, "RESULTS", tmp_path / "results")


def test_kills_are_survived_and_a_run_that_is_another_one_afterwards_is_seen(monkeypatch):
    assert kills.main(kills.Options(kills=3, agents=("sac",))) == 0
    found = tiny_runs.records.results_of("kills")["sac"]
    assert found["kills"] >= 3
    assert found["kills"] == found["early"] + found["between"] + found["late"]
    save = loop.save_checkpoint
    forget = lambda path, state, **more: save(path, state | {"evaluations": {"columns": [], "rows": 0}}, **more)  # noqa: E731
    monkeypatch.setattr(loop, "save_checkpoint", forget)
    assert kills.main(kills.Options(kills=12, agents=("sac",))) == 1


def test_variants_are_equal_and_one_that_is_not_is_seen(monkeypatch):
    assert resumes.main(resumes.Options(variants=2, agents=("sac",))) == 0
    monkeypatch.setattr(resumes, "FLIPS", {name: {"steps": 85} for name in resumes.FLIPS})
    assert resumes.main(resumes.Options(variants=4, agents=("sac",))) == 1


def test_two_writers_never_meet_and_are_seen_without_a_lock(monkeypatch):
    assert two_writers.main(two_writers.Options(rounds=2)) == 0
    monkeypatch.setattr(lock.fcntl, "flock", lambda *arguments: None)
    assert two_writers.main(two_writers.Options(rounds=2)) == 1


def test_growth_is_the_rise_of_the_line_after_the_warm_up():
    assert soak.growth([10**6] * 90) == 0
    assert soak.growth([*range(0, 10**6, 10**5), *[10**6] * 20]) == 0
    generator = random.Random(0)
    rising = [10**8 + 10**4 * i + generator.randrange(1000) for i in range(300)]
    assert 1.9 < soak.growth(rising) < 2.0
