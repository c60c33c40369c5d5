"""Each command of the campaign, small: that it finds nothing here, and that it would find what it is for.

Each has a process of its own: after training in this one it would have threads, and what the next command forks would
not be whole.
"""

import os
import random
from pathlib import Path

import hostile_files
import kills
import pytest
import resumes
import soak
import tiny_runs
import two_writers
import wrong_lines
from matplotlib.figure import Figure

from surefoot.evaluation.storage import _checksum_holds, load, save
from surefoot.training.loop import loop
from surefoot.training.runs import lock

pytestmark = pytest.mark.campaign


@pytest.fixture(autouse=True)
def results(tmp_path, monkeypatch):
    """Let results go to a folder of the test; what a command does to figures ends with it."""
    monkeypatch.setattr(tiny_runs.records, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(Figure, "savefig", Figure.savefig)


@pytest.fixture
def call(tmp_path):
    """Return a function that carries out a command in a fork of this process, and returns its exit code."""

    def start(command, options):
        pid = tiny_runs.forked(lambda: command.main(options), tmp_path / "log")
        code = tiny_runs.ended(pid, 3600, every=0.05)
        print((tmp_path / "log").read_text())
        return code

    return start


def test_kills_are_survived_and_a_run_that_is_another_one_afterwards_is_seen(monkeypatch, call):
    assert call(kills, kills.Options(kills=2, agents=("sac",))) == 0
    found = tiny_runs.records.results_of("kills")["sac"]
    assert found["kills"] >= 2
    assert found["kills"] == found["early"] + found["between"] + found["late"]
    save = loop.save_checkpoint
    forget = lambda path, state, **more: save(path, state | {"evaluations": {"columns": [], "rows": 0}}, **more)  # noqa: E731
    monkeypatch.setattr(loop, "save_checkpoint", forget)
    assert call(kills, kills.Options(kills=12, agents=("sac",))) == 1


def test_variants_are_equal_and_one_that_is_not_is_seen(monkeypatch, call):
    assert call(resumes, resumes.Options(variants=1, agents=("sac",))) == 0
    monkeypatch.setattr(resumes, "FLIPS", {name: {"steps": 85} for name in resumes.FLIPS})
    assert call(resumes, resumes.Options(variants=2, agents=("sac",))) == 1


def test_two_writers_never_meet_and_are_seen_without_a_lock(monkeypatch, call):
    assert call(two_writers, two_writers.Options(rounds=1)) == 0
    monkeypatch.setattr(lock.fcntl, "flock", lambda *arguments: None)
    assert call(two_writers, two_writers.Options(rounds=1)) == 1


def test_growth_is_the_rise_of_the_line_after_the_warm_up():
    assert soak.growth([10**6] * 90) == 0
    assert soak.growth([*range(0, 10**6, 10**5), *[10**6] * 20]) == 0
    generator = random.Random(0)
    rising = [10**8 + 10**4 * i + generator.randrange(1000) for i in range(300)]
    assert 1.9 < soak.growth(rising) < 2.0


def test_several_agents_are_soaked_the_least_soaked_first_and_their_hours_add_up(monkeypatch):
    soaked, found = [], {"hours": 0.5, "cpu_hours": 0.25, "leaks": 0, "growth_percent": 0.5}

    def soak_one(name, folder, seconds):
        if name == "hnpg":
            raise RuntimeError("hnpg ended with 1")
        soaked.append(name)
        return found | {"growth_percent": 0.5 - len(soaked) / 10}

    monkeypatch.setattr(soak, "soak", soak_one)
    assert soak.main(soak.Options(agents=("sac",))) == 0
    assert soak.main(soak.Options(agents=("sac", "bc"))) == 0
    assert soak.main(soak.Options(agents=("sac", "hnpg"))) == 1
    assert soaked == ["sac", "bc", "sac", "sac"]
    jobs = tiny_runs.records.results_of("soak")
    assert {name: job["hours"] for name, job in jobs.items()} == {"sac": 1.5, "bc": 0.5}
    assert (jobs["sac"]["cpu_hours"], jobs["sac"]["worst_growth_percent"]) == (0.75, 0.4)
    monkeypatch.setattr(soak, "soak", lambda name, folder, seconds: found | {"leaks": 1})
    assert soak.main(soak.Options(agents=("bc",))) == 1


def test_wrong_lines_are_refused_and_one_that_is_not_is_seen(monkeypatch, call):
    some = wrong_lines.Options(only="solve table.npz --", own_process=False)
    assert call(wrong_lines, some) == 0
    for answer in (lambda words: 0, lambda words: print("Traceback") or 2, lambda words: 1 / 0, lambda words: 2):
        real = wrong_lines.surefoot
        monkeypatch.setattr(
            wrong_lines,
            "surefoot",
            lambda words, real=real, answer=answer: (
                answer(words) if words[:2] == ["solve", "table.npz"] else real(words)
            ),
        )
        assert call(wrong_lines, some) == 1
        monkeypatch.setattr(wrong_lines, "surefoot", real)


def test_hostile_files_find_nothing_and_what_they_are_for_is_seen(monkeypatch, call):
    def tables(place):
        (place / "secret").write_bytes(hostile_files.SECRET)
        return hostile_files._tables(place)

    monkeypatch.setattr(hostile_files, "prepare", tables)
    assert call(hostile_files, hostile_files.Options(readers=("table csv",), minutes=0.02)) == 0
    for read in (lambda path: {}["x"], lambda path: os.abort(), lambda path: Path("secret").read_text()):
        only_changed = lambda path, read=read: path.is_absolute() or read(path)  # noqa: E731 - not the valid file
        monkeypatch.setattr(hostile_files, "read_table", only_changed)
        assert call(hostile_files, hostile_files.Options(readers=("table csv",), minutes=0.001)) == 1


def test_changed_archives_have_checksums_that_fit(tmp_path):
    path = tmp_path / "a.pt"
    save(path, {"x": 1})
    chance, loaded = random.Random(0), 0
    for _ in range(30):
        path.write_bytes(hostile_files.changed_archive(path.read_bytes(), chance))
        assert _checksum_holds(path)
        loaded += is_read(path)
        save(path, {"x": 1})
    assert 0 < loaded < 30


def is_read(path):
    try:
        return bool(load(path))
    except ValueError:
        return False
