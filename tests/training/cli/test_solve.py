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
        ["cvar(1/2)", "-3.0000", "0.7500", "0.7500", "1.8750"]
    ]
    assert "upper-cvar(0.75)" in printed
    assert "silently wrong" in printed
    saved = json.loads(file.read_text())
    assert [one["exact_value"] for one in saved[:3]] == ["3/4", "7/2", "-9/8"]
    assert (saved[0]["exact_stock"], saved[1]["bound"]) == ("-3", 3.5)
    assert sum(saved[0]["chances"]) == pytest.approx(1)
    assert matplotlib.image.imread(figure).std() > 0.05


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
        (("surefoot/Fork-v0", "--stocks", "99999"), "more than max_bytes"),
        (("surefoot/Nothing-v0",), "unknown environment"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(arguments, words, capsys):
    assert command(*arguments) == 2
    error = capsys.readouterr().err
    assert words in error
    assert error.count("\n") == 1
