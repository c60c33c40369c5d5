"""What a command is to write is looked at before it begins."""

import os
from pathlib import Path

import pytest

from surefoot.training.cli.main import main
from surefoot.training.cli.outputs import require_beside, require_output, require_own


def test_a_file_that_can_be_written_passes_and_nothing_is_made(tmp_path):
    require_output(None, ".json")
    require_output(tmp_path / "new" / "folder" / "x.JSON", ".json", ".html")
    require_output(tmp_path / "x.anything")
    assert list(tmp_path.iterdir()) == []


def test_what_is_in_the_way_is_said(tmp_path):
    there = tmp_path / "x.json"
    there.write_text("")
    require_output(there, ".json")
    with pytest.raises(FileExistsError, match="pass --force to replace it"):
        require_output(there, ".json", force=False)
    with pytest.raises(ValueError, match=r"x\.txt: the file to write ends in \.json or \.html"):
        require_output(tmp_path / "x.txt", ".json", ".html")
    with pytest.raises(ValueError, match="a folder; name the file to write"):
        require_output(tmp_path)
    with pytest.raises(OSError, match=r"x\.json is a file, not a folder"):
        require_output(there / "y.json", ".json")


def test_a_folder_that_cannot_be_written_is_said(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: path != tmp_path)  # permissions do not stop a root user
    with pytest.raises(OSError, match="cannot be written"):
        require_output(tmp_path / "x.json")


@pytest.mark.parametrize(
    ("words", "name", "own"),
    [
        ("report {run}", "metrics.csv", "task,method,agent,metric,unit\n"),
        ("stress {run} --budget 50", "meta.json", '{\n "stress": 1,\n "time": 3}'),
    ],
)
def test_the_numbers_beside_a_page_replace_only_such_numbers(make_run, capsys, words, name, own):
    run = make_run("run")
    (run / "metrics.csv").write_text("step,seconds\n1,1\n")
    before = (run / name).read_text()
    page = (run / name).with_suffix(".html")
    assert main([*words.format(run=run).split(), "--out", str(page)]) == 2
    said = f"{run / name}: the numbers of {page.name} would replace this file, which holds none; choose another --out"
    assert capsys.readouterr().err == f"surefoot: error: {said}\n"
    assert (run / name).read_text() == before
    for content in (own, ""):
        (run / name).write_text(content)
        require_beside(page, Path(name).suffix, "".join(own.split())[:10])
    (run / name).unlink()
    require_beside(page, Path(name).suffix, "task")


@pytest.mark.parametrize(
    ("words", "name", "what", "own"),
    [
        ("evaluate {run} --json {file}", "meta.json", "an evaluation", '{"time": "now", "results": []}'),
        ("solve surefoot/Fork-v0 --json {file}", "meta.json", "a solution", '[{"objective": "mean"}]'),
        ("solve surefoot/Fork-v0 --json {file}", "other.json", "a solution", '{"worst_case": 0.5}'),
        ("parameters Pendulum-v1 --yaml {file}", "config.yaml", "an uncertainty set", "env: a\nparameters: {}\n"),
    ],
)
def test_numbers_replace_only_numbers_of_their_kind(make_run, capsys, words, name, what, own):
    run = make_run("run")
    file = run / name
    for content in (file.read_text() if file.exists() else "[]", "no: [numbers", "[1, 2]", '{"stress": 1}'):
        file.write_text(content)
        assert main(words.format(run=run, file=file).split()) == 2
        assert capsys.readouterr().err == (
            f"surefoot: error: {file}: {what} would replace this file, which holds none; choose another name\n"
        )
        assert file.read_text() == content
    keys = ("results", "objective", "worst_case", "parameters")
    for content in (own, ""):
        file.write_text(content)
        require_own(file, what, *keys)
    require_own(run / "new.json", what, *keys)
    require_own(None, what, *keys)


def test_a_report_in_a_folder_that_cannot_be_written_is_refused_before_the_runs_are_read(make_run, monkeypatch, capsys):
    run = make_run("run")
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != run.absolute())
    assert main(["report", str(run)]) == 2
    assert f"{run}/report.html: {run} cannot be written; choose another place" in capsys.readouterr().err
    assert not list(run.glob("report.*"))


@pytest.mark.parametrize(
    "words",
    [
        "evaluate {run} --json out.txt",
        "stress {run} --out out.txt",
        "plot {run} --out out.txt",
        "report {run} --out out.txt",
        "card {run} --out out.txt",
        "export {run} out.txt",
        "parameters Pendulum-v1 --yaml out.txt",
        "solve surefoot/Fork-v0 --out out.txt",
        "solve surefoot/Fork-v0 --json out.txt",
        "data collect {run} out.txt --steps 5",
        "data convert sample:halfcheetah-demo out.txt",
        "data collect {run} {run} --force",
        "data convert sample:halfcheetah-demo minari:pendulum",
    ],
)
def test_every_command_refuses_an_output_of_another_kind_at_once(words, make_run, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    run = make_run("run")
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    assert main(words.format(run=run).split()) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert len(err.splitlines()) == 1
    assert "ends in" in err or ".html file" in err or "[NAMESPACE/]NAME-vVERSION" in err
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before
