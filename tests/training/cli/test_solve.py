"""`surefoot solve`: numbers in the table and the file, figures of them, and errors in one line."""

import json

import matplotlib.image
import numpy as np
import pytest

from surefoot.evaluation.figures import distributions as plots
from surefoot.training.cli import main as cli
from surefoot.training.cli import solve as commands_solve
from surefoot.training.cli.solve import Request, solve_all


def command(*arguments):
    return cli.main(["solve", *map(str, arguments)])


def test_exact_values_in_the_table_the_file_and_the_figure(capsys, tmp_path):
    figure, file = tmp_path / "distributions.png", tmp_path / "distributions.json"
    objectives = ("cvar(1/2)", "upper-cvar(0.75)", "shortfall(3)", "mean-variance(0.1)")
    options = ("--method", "exact", "--out", figure, "--json", file)
    assert command("surefoot/Gate-v0", "--objective", *objectives, *options) == 0
    printed = capsys.readouterr().out
    assert [line.split() for line in printed.splitlines() if "cvar(1/2)  " in line] == [
        ["cvar(1/2)", "0.7500", "0.7500", "-3.0000", "1.8750"]
    ]
    assert "upper-cvar(0.75)" in printed
    assert "silently wrong" in printed
    saved = json.loads(file.read_text())
    assert [one["exact_value"] for one in saved[:3]] == ["3/4", "7/2", "-9/8"]
    assert (saved[0]["exact_stock"], saved[1]["bracket"]) == ("-3", [3.5, 3.5])
    assert sum(saved[0]["chances"]) == pytest.approx(1)
    assert matplotlib.image.imread(figure).std() > 0.05


def test_several_budgets_at_once(capsys, tmp_path):
    file = tmp_path / "larder.json"
    objectives = ("shortfalls(2, 1)", "targets(1, 2)")
    assert command("surefoot/Larder-v0", "--objective", *objectives, "--json", file) == 0
    printed = capsys.readouterr().out
    assert "shortfalls(2, 1)   -0.5469   -2.0000, -1.0000   1.6519, 1.3119" in printed
    saved = json.loads(file.read_text())
    assert [one["exact_value"] for one in saved] == ["-35/64", None]
    assert saved[1]["value"] == pytest.approx(-0.917206, abs=1e-6)
    assert np.dot(saved[0]["chances"], saved[0]["returns"]) == pytest.approx([1.651875, 1.311875])


def test_a_grid_solves_all_cvars_at_once(monkeypatch):
    calls, solve = [], commands_solve.solve
    monkeypatch.setattr(commands_solve, "solve", lambda *a, **k: (calls.append(a), solve(*a, **k))[1])
    request = Request("surefoot/Fork-v0", ("cvar(1)", "cvar(0.5)", "target(1)"), atoms=32, stock_range=(-5.0, 0.5))
    solutions = solve_all(request)
    assert len(calls) == 2
    assert solutions[1].value == pytest.approx(0.944, abs=0.01)
    assert (float(solutions[0].stocks[0]), float(solutions[0].stocks[-1])) == (-5.0, 0.5)


def test_the_figure_shows_distribution_and_search(monkeypatch, tmp_path):
    figures = []
    monkeypatch.setattr(plots, "write_figure", lambda figure, out, caption: (figures.append(figure), out)[1])
    request = Request("surefoot/Gate-v0", ("cvar(1/2)", "target(2)"), method="exact")
    plots.solution_distributions(solve_all(request), tmp_path / "a.png", "surefoot/Gate-v0")
    distribution, search, target, _ = figures[0].axes
    heights = np.array([bar.get_height() for bar in distribution.patches])
    assert heights.sum() == pytest.approx(1)
    assert distribution.lines[0].get_xdata()[0] == 0.75
    assert target.lines[0].get_xdata()[0] == 2
    np.testing.assert_allclose(search.lines[0].get_ydata().max(), 0.75)
    assert [float(x) for x in search.lines[1].get_xydata()[0]] == [-3, 0.75]
    assert distribution.get_title() == "cvar(1/2) = 0.750"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("surefoot/Pendulum-v0",), "surefoot/Pendulum-v0 is not a tabular MDP"),
        (("surefoot/Fork-v0", "--objective", "cvar(2)"), "tau must lie in (0, 1], not 2"),
        (("surefoot/Fork-v0", "--objective"), "name at least one objective"),
        (("surefoot/Fork-v0", "--gamma", "0"), "gamma must lie in (0, 1], not 0.0"),
        (("surefoot/Fork-v0", "--method", "exact"), "needs a horizon"),
        (("surefoot/Fork-v0", "--method", "dvi", "--stocks", "99999"), "more than max_bytes"),
        (("surefoot/Fork-v0", "--objective", "target(1e400)"), "numbers must lie within ±1e300"),
        (("surefoot/Fork-v0", "--objective", "targets(1, 2)"), "surefoot/Fork-v0 has one reward alone"),
        (("surefoot/Larder-v0", "--objective", "targets(1)"), "targets(1) has 1 numbers, the task 2 rewards"),
        (("surefoot/Larder-v0", "--objective", "targets(1, 2)", "mean"), "targets(1, 2) is of a vector of rewards"),
        (("surefoot/Larder-v0", "--objective", "targets(1, 2)", "--atoms", "9"), "--atoms has no effect with"),
        (("surefoot/Larder-v0", "--objective", "targets(1, 2)", "--method", "dvi"), "--method has no effect with"),
        (("surefoot/Larder-v0", "--objective", "targets(1, 2)", "--out", "a.png"), "--out has no effect with"),
        (("--objective", "targets(1, 2)"), "name a task, such as surefoot/Fork-v0"),
        (("surefoot/Fork-v0", "--horizon", "0"), "--horizon must be at least 1, got 0"),
        (("surefoot/Fork-v0", "--stocks", "1"), "--stocks must be at least 2, got 1"),
        (("surefoot/Fork-v0", "--stock-range", "nan", "1"), "--stock-range must be two finite numbers"),
        (("surefoot/Fork-v0", "--gamma", "1"), "a policy can go on for ever in state"),
        ((), "name a task"),
        (("surefoot/Fork-v0", "--models", "a.npz", "b.npz"), "TASK has no meaning beside --models"),
        (("--models", "a.npz"), "--models needs at least two files"),
        (("--models", "a.npz", "b.npz", "--objective", "cvar(0.5)"), "--models is for the mean return"),
        (("--models", "a.npz", "b.npz", "--method", "dvi"), "--method has no effect beside --models; leave it out"),
        (("--models", "a.npz", "b.npz", "--out", "a.png"), "--out has no effect beside --models; leave it out"),
        (("surefoot/Fork-v0", "--atoms", "9"), "--atoms has no effect with --method vi; leave it out"),
        (("surefoot/Fork-v0", "--representation", "quantiles"), "--representation has no effect with --method vi"),
        (("surefoot/Fork-v0", "--method", "exact", "--atoms", "9"), "--atoms has no effect on particles, of which"),
        (("surefoot/Gate-v0", "--method", "exact", "--stocks", "9"), "--stocks has no effect on particles, which"),
        (("surefoot/Gate-v0", "--method", "exact", "--stock-range", "0", "1"), "--stock-range has no effect on"),
        (("surefoot/Fork-v0", "--method", "dvi", "--return-range", "0", "1"), "--return-range has no effect without"),
        (("nothing.npz",), "nothing.npz: no such file"),
        (("surefoot/Nothing-v0",), "unknown environment"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(arguments, words, capsys):
    assert command(*arguments) == 2
    error = capsys.readouterr().err
    assert words in error
    assert error.count("\n") == 1


# --- tables in files, and several models ------------------------------------------------------------------------------


def coin(tmp_path, name="coin.npz", chance=0.5, **further):
    """State 0: a sure 1, or 3 with a chance and 0 else; state 1 is the end, whose rows still pay."""
    moves, pays = np.zeros((3, 2, 3)), np.zeros((3, 2, 3))
    moves[0, 0], moves[0, 1] = [0, 1, 0], [0, 1 - chance, chance]
    moves[1:, :, 0], pays[1:] = 1.0, 15.0
    pays[0, 0, 1], pays[0, 1, 2] = 1.0, 3.0
    path = tmp_path / name
    np.savez(path, P=moves, R=pays, terminal=[False, True, True], **further)
    return path


def test_a_table_file_is_solved_and_its_terminal_rows_are_not_paid(tmp_path, capsys):
    path, out = coin(tmp_path, gamma=1.0), ("--out", tmp_path / "a.png", "--json", tmp_path / "a.json")
    assert command(path, "--objective", "mean", "cvar(0.25)", "upper-cvar(0.25)", *out) == 0
    rows = {line.split()[0]: line.split()[1:] for line in capsys.readouterr().out.splitlines() if "0.25" in line}
    assert rows["cvar(0.25)"] == ["1.0000", "1.0000", "-1.0000", "1.0000"]
    saved = json.loads((tmp_path / "a.json").read_text())
    assert [one["value"] for one in saved] == pytest.approx([1.5, 1.0, 3.0])
    assert command(path, "--kwargs", "horizon", 2, *out) == 2
    assert "--kwargs is for registered tasks" in capsys.readouterr().err


def test_keyword_arguments_reach_the_task(tmp_path):
    one, other = (
        solve_all(Request("surefoot/Forest-v0", ("mean",), gamma=1.0, kwargs=kwargs))[0].value
        for kwargs in ({"horizon": 5}, {"horizon": 6})
    )
    assert one < other
    arguments = ("--objective", "mean", "--gamma", 1, "--kwargs", "horizon", 5, "--out", tmp_path / "a.png")
    assert command("surefoot/Forest-v0", *arguments, "--json", tmp_path / "a.json") == 0
    assert json.loads((tmp_path / "a.json").read_text())[0]["value"] == pytest.approx(one)


def test_the_worst_of_several_models(tmp_path, capsys):
    """The gamble is worth 1.5 or 0.6, the sure 1 in both: the best worst case is 1, and no policy exceeds it."""
    files = coin(tmp_path, "a.npz", 0.5), coin(tmp_path, "b.npz", 0.2)
    assert command("--models", *files, "--gamma", 1, "--json", tmp_path / "worst.json") == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "no policy exceeds 1.000000: certified" in printed
    saved = json.loads((tmp_path / "worst.json").read_text())
    assert (saved["worst_case"], saved["values"], saved["policy"][0]) == (1.0, [1.0, 1.0], 0)
    assert saved["optima"] == pytest.approx([1.5, 1.0])
    assert command("--models", *files) == 2
    assert "a.npz has no discount of its own; add --gamma" in capsys.readouterr().err
    assert command("--models", *files, "--gamma", 1, "--horizon", 3) == 2
    assert "--horizon has no meaning beside --models" in capsys.readouterr().err


def test_a_table_keeps_to_the_terminal(monkeypatch):
    from rich.measure import Measurement

    from surefoot.training.runs import console

    printed = []
    monkeypatch.setattr(console.Terminal, "print", lambda self, table: printed.append((self.width, table)))
    solutions = solve_all(Request("surefoot/Gate-v0", ("mean-cvar(0.333333, 0.123456789)", "mean")))
    shown = commands_solve.table("surefoot/Gate-v0", solutions)
    console.print_table(shown)
    narrow = console.Terminal(width=80)
    assert Measurement.get(narrow, narrow.options.update(max_width=10_000), shown).minimum <= 80
