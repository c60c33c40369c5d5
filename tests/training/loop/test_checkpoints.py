"""Which checkpoint a run goes on from, and what becomes of rows and of later checkpoints."""

import dataclasses
import os
import shutil

import pytest
from sameness import assert_same_run, rows

from surefoot.agents.parts import blocks
from surefoot.evaluation.policy_files import checkpoint_path, checkpoint_steps, load_policy
from surefoot.evaluation.storage import DamagedError
from surefoot.training.cli.main import main
from surefoot.training.loop import loop
from surefoot.training.loop.interrupt import StopRequest
from surefoot.training.loop.setup import resume, start
from surefoot.training.runs import loggers
from surefoot.training.session import execute, train

pytestmark = pytest.mark.usefixtures("unrendered")


@pytest.fixture
def many(tiny):
    """Return a run that keeps four checkpoints, at steps 21, 42, 60 and 63 at the least."""
    return dataclasses.replace(tiny, steps=120, keep_checkpoints=9, keep_finished=9)


def flip_a_bit(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(bytes(content))


def cut(path):
    path.write_bytes(path.read_bytes()[:-700])


def go_on(folder, config, **how):
    run = resume(folder, "fake", config, **how)
    execute(run, StopRequest())
    return run


@pytest.mark.parametrize("harm", [flip_a_bit, cut, lambda path: path.write_bytes(b"")])
def test_of_a_damaged_checkpoint_the_run_goes_on_from_the_one_before_and_is_the_same(tmp_path, many, capsys, harm):
    straight = train("fake", many, out=tmp_path, name="straight")
    shutil.copytree(straight, tmp_path / "run")
    *_, before, last = checkpoint_steps(straight)
    newest = checkpoint_path(tmp_path / "run", "step", last)
    harm(newest)
    content = newest.read_bytes()
    capsys.readouterr()
    go_on(tmp_path / "run", many)
    out = capsys.readouterr().out
    assert f"note: {newest}: " in out
    assert f"the run goes on from the checkpoint before, step-{before:09d}.pt" in out
    assert_same_run(straight, tmp_path / "run", 120)
    assert newest.with_name(f"{newest.name}.damaged").read_bytes() == content


def test_a_damaged_block_is_the_checkpoints_that_name_it(tmp_path, many, monkeypatch, capsys):
    monkeypatch.setattr(blocks, "SIZE", 1000)  # the state of the generator
    straight = train("fake", many, out=tmp_path, name="straight")
    shutil.copytree(straight, tmp_path / "run")
    newest = max((tmp_path / "run" / "checkpoints" / "blocks").iterdir(), key=lambda path: path.stat().st_mtime_ns)
    newest.unlink()
    go_on(tmp_path / "run", many)
    assert "is missing; the run goes on from the checkpoint before" in capsys.readouterr().out
    assert_same_run(straight, tmp_path / "run", 120)


def test_without_a_whole_checkpoint_the_newest_is_named_and_nothing_is_changed(tmp_path, many):
    folder = train("fake", many, out=tmp_path, name="run")
    for step in checkpoint_steps(folder):
        flip_a_bit(checkpoint_path(folder, "step", step))
    files = sorted(path.name for path in folder.rglob("*"))
    damaged = rf"step-{step:09d}\.pt: damaged \(its checksum differs\); "
    with pytest.raises(DamagedError, match=damaged + "no checkpoint of the run is whole: use a copy, or train anew"):
        resume(folder, "fake", many)
    with pytest.raises(DamagedError, match=damaged + "there are others: leave --from out"):
        resume(folder, "fake", many, from_step=step)
    assert sorted(path.name for path in folder.rglob("*")) == files


def test_a_run_can_go_on_from_any_of_its_checkpoints(tmp_path, many, capsys):
    straight = train("fake", many, out=tmp_path, name="straight")
    shutil.copytree(straight, tmp_path / "run")
    first, *later = checkpoint_steps(straight)
    run = resume(tmp_path / "run", "fake", many, from_step=first)
    assert checkpoint_steps(tmp_path / "run") == checkpoint_steps(tmp_path / "run", "policy") == [first]
    assert load_policy(tmp_path / "run").step == run.counters.step == first
    assert {int(row["step"]) for row in rows(tmp_path / "run" / "metrics.csv")} <= set(range(first + 1))
    execute(run, StopRequest())
    assert_same_run(straight, tmp_path / "run", 120)
    assert checkpoint_steps(tmp_path / "run") == [first, *later]
    assert main(["train", "--resume", str(straight), "--from", str(later[0])]) == 0
    assert_same_run(straight, tmp_path / "run", 120)
    assert f"continues at step {later[0]}" in capsys.readouterr().out
    assert main(["train", "--resume", str(straight), "--from", "7"]) == 2
    there = ", ".join(map(str, [first, *later]))
    assert f"{straight}: no checkpoint of step 7; --from can be {there}" in capsys.readouterr().err
    assert main(["train", "fake", "--from", "7"]) == 2
    assert "--from 7 is a step of a run that is there: add --resume RUN" in capsys.readouterr().err


def test_rows_are_on_disk_before_the_checkpoint_that_counts_them(tmp_path, tiny, monkeypatch):
    events = []
    fsync, save = os.fsync, loop.save_checkpoint
    csv_files = lambda number: os.readlink(f"/proc/self/fd/{number}")  # noqa: E731
    monkeypatch.setattr(loggers.os, "fsync", lambda number: (events.append(csv_files(number)), fsync(number)))
    monkeypatch.setattr(
        loop, "save_checkpoint", lambda path, *rest, **more: (events.append(str(path)), save(path, *rest, **more))
    )
    train("fake", tiny, out=tmp_path, name="run")
    places = [i for i, name in enumerate(events) if "/step-" in name and name.endswith(".pt")]
    assert len(places) >= 3
    for before, after in zip([0, *places], places, strict=False):
        assert {"metrics.csv", "evaluations.csv"} <= {name.rpartition("/")[2] for name in events[before:after]}


@pytest.mark.parametrize("end", ["", "9,9", "\0\0\0\0\0\0", "1,2,3\n"])
def test_rows_that_a_crash_has_taken_are_told_and_the_others_stay(tmp_path, many, capsys, end):
    straight = train("fake", many, out=tmp_path, name="straight")
    shutil.copytree(straight, tmp_path / "run")
    kept = (tmp_path / "run" / "metrics.csv").read_text().splitlines(keepends=True)[:4]
    (tmp_path / "run" / "metrics.csv").write_text("".join(kept) + end)
    (tmp_path / "run" / "evaluations.csv").unlink()
    run = start("fake", many, tmp_path / "other")
    run.close()
    go_on(tmp_path / "run", many)
    out = capsys.readouterr().out
    number = len(rows(straight / "metrics.csv"))
    assert f"note: {tmp_path / 'run' / 'metrics.csv'}: {number - 4} of {number - 1} rows are lost" in out
    assert "evaluations.csv: 8 of 8 rows are lost; the run itself is not" in out
    assert rows(tmp_path / "run" / "metrics.csv")[:3] == rows(straight / "metrics.csv")[:3]
    assert rows(tmp_path / "run" / "metrics.csv")[3:] == rows(straight / "metrics.csv")[-1:]
