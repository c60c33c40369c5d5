"""Each command of the campaign, small: that it finds nothing here, and that it would find what it is for.

Each has a process of its own: after training in this one it would have threads, and what the next command forks would
not be whole.
"""

import os
import random
import signal
import time
from collections import Counter
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


def test_every_part_of_a_run_has_its_moments():
    straight = kills.Straight(Path(), 80, lambda run: lambda: 0, setting_up=0.1, training=1.0, ending=0.2)
    chance = random.Random(0)

    def parts(steps, when):
        return Counter(kills._moment(straight, steps, when, chance).part for _ in range(500))

    assert parts([], []).keys() == {"set-up", "training"}
    assert parts([], [])["set-up"] > 100
    assert parts([26, 39], []).keys() == {"set-up", "training", "end"}
    assert parts([], ["early"] * 3)["training"] == 500  # until there are checkpoints
    assert parts([26, 39], ["early"] * 3)["set-up"] > 80  # of the resume
    assert parts([26, 39], ["early"] * 3)["training"] > 250
    assert parts([39], ["between"] * 3)["end"] > 350
    assert parts([80], [])["end"] > 250
    assert parts([80], [])["training"] == 0
    assert kills._moment(straight, [80], ["late"] * 3, chance) is None
    last = [kills._moment(straight, [39], [], chance) for _ in range(500)]
    assert max(one.seconds for one in last if one.part == "training") < 41 / 80


def test_a_kill_comes_so_much_cpu_time_after_it_was_asked_for(tmp_path):
    def work():
        while time.process_time() < 0.2:
            pass
        tiny_runs.kill_after(0.2)
        while True:
            pass

    before = os.times()
    code = tiny_runs.ended(tiny_runs.forked(work, tmp_path / "log"), 60)
    assert code == -signal.SIGKILL, (tmp_path / "log").read_text()
    used = os.times().children_user + os.times().children_system - before.children_user - before.children_system
    assert used > 0.35


def test_a_run_that_hangs_is_lost(tmp_path, monkeypatch):
    monkeypatch.setattr(kills, "LONGEST", 0.2)
    straight = kills.Straight(Path(), 80, lambda run: lambda: time.sleep(60), 0.1, 1.0, 0.2)
    counts = dict.fromkeys(kills.COUNTS, 0)
    kills.one_trial(tmp_path / "trial", straight, random.Random(0), counts, 0, None)
    assert (counts["lost"], counts["kills"], counts["leaks"]) == (1, 0, 0)


def test_variants_are_equal_and_one_that_is_not_is_seen(monkeypatch, call):
    assert call(resumes, resumes.Options(variants=1, agents=("sac",))) == 0
    monkeypatch.setattr(resumes, "FLIPS", {name: {"steps": 85} for name in resumes.FLIPS})
    assert call(resumes, resumes.Options(variants=2, agents=("sac",))) == 1


def test_two_writers_never_meet_and_are_seen_without_a_lock(monkeypatch, call):
    assert call(two_writers, two_writers.Options(rounds=1)) == 0
    monkeypatch.setattr(lock.fcntl, "flock", lambda *arguments: None)
    assert call(two_writers, two_writers.Options(rounds=1)) == 1


def samples(resident, every=100):
    return [soak.Sample(every * (i + 1), bytes_, 5, 1) for i, bytes_ in enumerate(resident)]


def test_growth_is_the_rise_of_the_line_over_steps_after_the_warm_up():
    assert soak.growth(samples([10**6] * 90)) == 0
    noise = random.Random(0)
    rising = [10**8 + 10**4 * i + noise.randrange(1000) for i in range(300)]
    assert 2.94 < soak.growth(samples(rising)) < 2.95  # 299e4 of 10**8 + 149.5e4
    thinned = sorted(noise.sample(samples(rising), 100))  # a busy machine: not every checkpoint is seen
    assert 2.85 < soak.growth(thinned) < 2.95
    assert soak.after_warm_up(samples([0] * 25))[0].step == soak.WARM_UP + 100
    assert soak.after_warm_up(samples([0] * 90))[0].step == 3100
    assert soak.after_warm_up([]) == []


def test_what_is_open_for_a_moment_is_no_rise():
    assert soak.rise([5, 5, 6, 5, 5, 5, 5, 6]) == 0
    assert soak.rise([5, 5, 5, 5, 6, 6, 7, 7]) == 2
    assert soak.rise([5]) == 0


def test_a_soak_goes_on_until_it_has_seen_enough_and_counts_for_nothing_without():
    one = soak.Soak("sac", Path(), 0)
    for sampled, over in ((19, [False, True]), (20, [True, True])):
        one.samples = samples([10**6] * (soak.WARM_UP // 100 + sampled))
        for minutes, expected in zip((1.5, 3.5), over, strict=True):
            one.began = time.monotonic() - 60 * minutes
            assert soak.is_over(one, 60) is expected


def test_runs_without_an_end_are_watched_and_one_that_ends_or_does_too_little_is_seen(call, monkeypatch):
    monkeypatch.setattr(soak, "WARM_UP", 300)
    monkeypatch.setattr(soak, "ENOUGH", 3)
    monkeypatch.setattr(soak, "BOUND", 20.0)  # so early, memory grows
    monkeypatch.setattr(soak, "PATIENCE", 1000)  # on a busy machine
    assert call(soak, soak.Options(agents=("sac", "linucb"), minutes=0.1, at_once=2)) == 0
    found = tiny_runs.records.results_of("soak")
    assert {name: job["exit_code"] for name, job in found.items()} == {"sac": 130, "linucb": 130}
    assert min(job["steps"] for job in found.values()) >= 600
    monkeypatch.setattr(soak, "ENDLESS", 200)
    assert call(soak, soak.Options(agents=("sac",), minutes=0.1)) == 1
    assert tiny_runs.records.results_of("soak") == found
    monkeypatch.setattr(soak, "ENDLESS", 10**9)
    monkeypatch.setattr(soak, "ENOUGH", 10**6)
    monkeypatch.setattr(soak, "PATIENCE", 3)
    assert call(soak, soak.Options(agents=("sac",), minutes=0.05)) == 1
    assert tiny_runs.records.results_of("soak") == found


def test_several_agents_are_soaked_the_least_soaked_first_and_their_hours_add_up(monkeypatch):
    soaked = []
    fine = {"hours": 0.5, "cpu_hours": 0.25, "steps": 5000, "growth_percent": 0.5} | dict.fromkeys(soak.MORE, 0)

    def soak_all(names, options, done):
        for name in names:
            soaked.append(name)
            done(name, None if name == "hnpg" else fine | {"growth_percent": 0.5 - len(soaked) / 10})

    monkeypatch.setattr(soak, "soak_all", soak_all)
    assert soak.main(soak.Options(agents=("sac",))) == 0
    assert soak.main(soak.Options(agents=("sac", "bc"))) == 0
    assert soak.main(soak.Options(agents=("sac", "hnpg"))) == 1
    assert soaked == ["sac", "bc", "sac", "hnpg", "sac"]
    jobs = tiny_runs.records.results_of("soak")
    assert {name: job["hours"] for name, job in jobs.items()} == {"sac": 1.5, "bc": 0.5}
    assert (jobs["sac"]["cpu_hours"], jobs["sac"]["steps"], jobs["sac"]["worst_growth_percent"]) == (0.75, 15000, 0.4)
    for bad in (*({name: 1} for name in soak.MORE), {"growth_percent": 1.001}):
        monkeypatch.setattr(soak, "soak_all", lambda names, options, done, bad=bad: done("bc", fine | bad))
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
