"""Tables and paths on a terminal."""

import shlex

import pytest
from rich.table import Table

from surefoot.training.runs import console

LONG = "runs/halfcheetah-2-a-name-that-says-all-20261128-101010"


def table():
    one = Table("run", "return", title="t")
    one.columns[0].overflow = "fold"
    one.columns[1].no_wrap = True
    one.add_row(LONG, "-12345.678 ± 0.123")
    return one


def test_a_table_that_goes_to_a_file_is_whole_whatever_the_width(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "20")
    console.print_table(table())
    out = capsys.readouterr().out
    assert LONG in out
    assert "-12345.678 ± 0.123" in out


@pytest.mark.parametrize("name", ["run[_b]", "sl[/b]x", "[red]a", "a:smile:b", "[link=x]", "a\\[b]"])
def test_a_name_is_printed_as_it_is(name, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    one = Table(name, title=f"title {name}", caption=f"caption {name}")
    one.add_row(f"cell {name}")
    console.print_table(one)
    lines = capsys.readouterr().out.splitlines()
    assert all(any(f"{what}{name}" in line for line in lines) for what in ("title ", "caption ", "cell ", "┃ "))


@pytest.mark.parametrize("width", [30, 60, 200])
def test_a_terminal_folds_long_names_but_never_a_number(width, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.setattr(console.Terminal, "is_terminal", True)
    console.print_table(table())
    out = capsys.readouterr().out
    assert "-12345.678 ± 0.123" in out
    folded = [line.split("│")[1].strip() for line in out.splitlines() if line.startswith("│")]
    assert "".join(folded) == LONG
    assert len(folded[0]) >= console.SHORTEST_NAME
    assert (LONG in out) == (width == 200)


def test_a_path_can_be_pasted_back():
    assert console.quoted("runs/a") == "runs/a"
    assert shlex.split(console.quoted("my runs/it's")) == ["my runs/it's"]
