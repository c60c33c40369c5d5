"""`make mutants`: which mutants a file has and which are left out, what becomes of one, that the record is in order."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
CONFIG = yaml.safe_load((ROOT / "benchmarks" / "mutants.yaml").read_text(encoding="utf-8"))

SOURCE = '''"""A docstring with 1 + 2."""

import torch  # 1 + 1

EPS = 1e-9


class Config:
    rate: float = 0.5


def loss(self, x: "int | None" = 1, *, gamma=0.5):
    """Another, 3 > 2."""
    assert x > 0
    if gamma == 1:
        raise ValueError(f"{x + 1:.3f}")
    self.seen += 1
    self.update(zip(x, x, strict=True))
    self.last["x"] = x.detach()
    return -x.amin(0) * 0.5
'''
AFTER = {
    "EPS = 0.001",
    "if gamma != 1:",
    "if gamma == 2:",
    "if gamma == 0:",
    "if not gamma == 1:",
    "self.seen += 2",
    "self.seen += 0",
    "pass",
    'self.last["x"] = x',
    "return x.amin(0) * 0.5",
    "return -x.amax(0) * 0.5",
    "return -x.amin(1) * 0.5",
    "return -x.amin(-1) * 0.5",
    "return -x.amin(0) / 0.5",
    "return -x.amin(0) * 0.75",
}


def test_every_place_is_changed_in_every_way_and_what_is_no_behaviour_is_not(load_script):
    mutations = load_script("mutations")
    changes = [(place, *change) for place, ways in mutations.places(SOURCE).items() for change in ways]
    drawn = [mutations.make(SOURCE, *change) for change in changes]
    assert {mutant.after for mutant in drawn} == AFTER
    assert sorted({mutant.before for mutant in drawn if mutant.after == "pass"}) == [
        "self.last[\"x\"] = x.detach()",
        "self.seen += 1",
        "self.update(zip(x, x, strict=True))",
    ]  # fmt: skip
    for mutant in drawn:
        changed = [a for a, b in zip(SOURCE.splitlines(), mutant.source.splitlines(), strict=True) if a != b]
        assert [line.strip() for line in changed] == [mutant.before]
        assert SOURCE.splitlines()[mutant.line - 1].strip() == mutant.before
        assert mutant.where == ("" if mutant.before.startswith("EPS") else "loss")


def test_a_number_to_base_16_is_a_whole_one(load_script):
    mutations, source = load_script("mutations"), "KEY = 0x1F\n"
    drawn = [mutations.make(source, place, *way) for place, ways in mutations.places(source).items() for way in ways]
    assert {mutant.after for mutant in drawn} == {"KEY = 30", "KEY = 32"}


def test_the_same_seed_draws_the_same_and_more_are_more_of_them(load_script):
    draw = load_script("mutations").draw
    few, many = (list(draw(SOURCE, count, "0")) for count in (3, 8))
    assert few == many[:3]
    assert len({mutant.source for mutant in many}) == 8
    assert few != list(draw(SOURCE, 3, "1"))


CODE = """LIMIT = 3


def clipped(x):
    return min(x, LIMIT)


def shifted(x):
    return x + 1


def unused(x):
    return x - 1
"""
TESTS = """import pytest
from toy import clipped, shifted


@pytest.fixture(scope="module")
def shared():
    return shifted(1)


def test_clipped():
    assert clipped(2) == 2


def test_that_does_not_look(shared):
    pass


def test_shared(shared):
    assert shared == 2
"""


def test_a_mutant_meets_the_tests_that_run_it(load_script, tmp_path, monkeypatch):
    mutants, mutations = load_script("mutants"), load_script("mutations")
    monkeypatch.setattr(mutants, "BUILD", tmp_path / "build")
    (tmp_path / "build").mkdir()
    tree = tmp_path / "tree"
    (tree / "benchmarks").mkdir(parents=True)
    (tree / "lib").mkdir()
    shutil.copy(ROOT / "benchmarks" / "fork_tests.py", tree / "benchmarks")
    (tree / "toy.py").write_text(CODE)
    (tree / "lib" / "toy.py").symlink_to(tree / "toy.py")
    (tree / "pytest.ini").write_text("[pytest]\n")
    (tree / "test_toy.py").write_text(TESTS)

    def mutant(before, after):
        return mutations.describe(CODE, CODE.replace(before, after), CODE[: CODE.index(before)].count("\n") + 1)

    with mutants.Tester(tree) as tester:
        measured = tester.measure(("test_toy.py",), ["toy.py"])
        assert {test.split("::")[1] for test in mutants.reached(measured, "toy.py", (5, 5))} == {"test_clipped"}
        assert len(mutants.reached(measured, "toy.py", (9, 9))) == 3  # what a fixture of the file runs, all of it
        assert len(mutants.reached(measured, "toy.py", (1, 1))) == 3  # what the import runs
        outcome = lambda *change: tester.outcome("toy.py", CODE, mutant(*change), measured)  # noqa: E731
        assert outcome("min(", "max(") == "killed"
        assert outcome("LIMIT = 3", "LIMIT = 2") == "survived"
        assert outcome("x + 1", "x - 1") == "killed"
        assert outcome("x - 1", "x + 1") == "not reached"
        assert (tree / "toy.py").read_text() == CODE
        (tree / "test_toy.py").write_text(TESTS.replace("shared == 2", "shared == 3"))
        with pytest.raises(ValueError, match=r"without any change, test_toy\.py do not pass: see .*log\.txt"):
            tester.measure(("test_toy.py",), ["toy.py"])


def test_what_takes_too_long_is_stopped(load_script):
    import os
    import time

    pid = os.fork()
    if pid == 0:
        os.setsid()
        time.sleep(60)
        os._exit(0)
    time.sleep(0.1)
    assert load_script("fork_tests").wait(pid, 0.1) is None
    with pytest.raises(ChildProcessError):
        os.waitpid(pid, 0)


def test_files_and_tests_that_are_named_are_there(load_script):
    mutants = load_script("mutants")
    for entry, tests in CONFIG["modules"].items():
        assert all((ROOT / name).exists() for name in (entry, *tests)), entry
    assert all((ROOT / name).is_file() for name in CONFIG["left_out"])
    assert mutants.chosen(("agents/hnpg",), CONFIG) == ["agents/hnpg/agent.py", "agents/hnpg/exact.py"]
    assert mutants.tests_of("agents/iwocs/exact.py", CONFIG) == ("tests/agents/iwocs/test_exact.py",)
    with pytest.raises(ValueError, match=r"names no tests for envs/make\.py; add it there"):
        mutants.chosen(("envs/make.py",), CONFIG)
    with pytest.raises(ValueError, match=r"there is no agents/sack\.py here; name a file or a folder"):
        mutants.chosen(("agents/sack.py",), CONFIG)


def test_every_reason_is_that_of_a_survivor():
    jobs = json.loads((ROOT / "benchmarks" / "results" / "mutants.json").read_text(encoding="utf-8"))["jobs"]
    alive = [
        (file, each["where"], each["before"], each["after"])
        for file, done in jobs.items()
        for each in done["mutants"]
        if each["outcome"] not in ("killed", "timed out")
    ]
    for accepted in CONFIG["accepted"]:
        assert (accepted["file"], accepted["where"], accepted["before"], accepted["after"]) in alive, accepted
        assert len(accepted["reason"]) > 10
