"""Curves are the numbers of the files; figures are written whole, with the right words on them."""

import csv
from types import SimpleNamespace

import matplotlib as mpl
import matplotlib.image
import numpy as np
import pytest
import yaml

from surefoot import agents
from surefoot.agents.interface import Style
from surefoot.envs import EnvConfig, Physics
from surefoot.evaluation.figures import curves as plots
from surefoot.evaluation.figures import maps, style
from surefoot.evaluation.figures.curves import learning_curves, metric_panels, read_curve, spread
from surefoot.evaluation.figures.style import PALETTE, agent_style, distinct_styles
from surefoot.evaluation.figures.words import metric_label, parameter_label
from surefoot.training.cli import plot
from surefoot.training.cli.plot import group, main


@pytest.fixture
def figure(monkeypatch):
    """Return a list that each drawn figure is appended to."""
    figures, write = [], style.write_figure
    monkeypatch.setattr(plots, "write_figure", lambda drawn, *rest: (figures.append(drawn), write(drawn, *rest))[1])
    return figures


def lines(axes):
    return {line.get_label(): line for line in axes.get_lines()}


def test_a_curve_averages_the_episodes_of_an_evaluation(make_run):
    curve = read_curve([make_run("a", seed=0), make_run("b", seed=3)], "evaluations.csv", "episode_return")
    np.testing.assert_array_equal(curve.steps, [100, 200])
    np.testing.assert_array_equal(curve.values, [[100, 200], [130, 230]])


def test_spread_is_iqm_and_an_interval_over_runs():
    middle, band = spread(np.array([[0.0, 5.0], [2.0, 5.0], [4.0, 5.0], [100.0, 5.0]]))
    np.testing.assert_array_equal(middle, [3, 5])
    np.testing.assert_array_equal(band[:, 1], [5, 5])
    assert 0 <= band[0, 0] < 3 < band[1, 0] <= 100
    assert spread(np.array([[1.0, 2.0]]))[1] is None


def test_learning_curves_show_every_label_with_units(make_run, figure, tmp_path):
    several, one = [make_run(f"s{i}", seed=i) for i in range(3)], make_run("other", seed=9)
    out = learning_curves({"ours": several, "theirs": one}, tmp_path / "p" / "a.png", references={"data": 150.0})
    (axes,) = figure[0].axes
    shown = lines(axes)
    assert list(shown) == ["ours (3 runs)", "theirs", "data"]
    np.testing.assert_array_equal(shown["ours (3 runs)"].get_ydata(), [110, 210])
    np.testing.assert_array_equal(shown["theirs"].get_ydata(), [190, 290])
    np.testing.assert_array_equal(shown["data"].get_ydata(), [150, 150])
    assert len(axes.collections) == 1  # a band for the runs of several seeds only
    assert axes.get_xlabel() == "environment steps"
    assert axes.get_ylabel() == "evaluation return (sum of rewards)"
    texts = [text.get_text() for text in figure[0].legends[0].get_texts()]
    assert texts == list(shown)
    image = matplotlib.image.imread(out)
    assert image.shape[0] > 300
    assert image.std() > 0.05
    assert [path.name for path in out.parent.iterdir()] == ["a.png"]


def with_column(run, name, value):
    """Add a figure of every evaluation as a whole to a run's evaluations.csv."""
    with (run / "evaluations.csv").open(newline="") as file:
        table = list(csv.DictReader(file))
    with (run / "evaluations.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, [*table[0], name])
        writer.writeheader()
        writer.writerows(row | {name: value(int(row["step"]))} for row in table)
    return run


def test_what_runs_are_for_is_drawn_next_to_the_return_and_only_of_runs_that_measured_it(make_run, figure, tmp_path):
    robust, plain = with_column(make_run("a"), "worst_case", lambda step: -step), make_run("b", seed=3)
    mixed = [with_column(make_run("c", seed=1), "worst_case", lambda step: 0), make_run("old", seed=2)]
    learning_curves({"robust": robust, "plain": plain, "mixed": mixed}, tmp_path / "a.png")
    worst, returns = figure[0].axes
    assert list(lines(worst)) == ["robust"]
    np.testing.assert_array_equal(lines(worst)["robust"].get_ydata(), [-100, -200])
    assert worst.get_ylabel() == "worst case over worlds, mean return (sum of rewards)"
    assert list(lines(returns)) == ["robust", "plain", "mixed (2 runs)"]
    assert [text.get_text() for text in figure[0].legends[0].get_texts()] == list(lines(returns))
    learning_curves({"dhn": with_column(make_run("d"), "objective", lambda step: 0.5)}, tmp_path / "b.png")
    assert [axes.get_ylabel() for axes in figure[1].axes] == [
        "objective of the discounted return (sum of rewards)",
        "evaluation return (sum of rewards)",
    ]


def test_labels_that_differ_in_a_slash_have_files_of_their_own(monkeypatch, tmp_path):
    """With three parameters each policy has a figure: that of `a/b` was lost under `a-b`."""
    assert style.file_names(["a/b", "a-b", "a-b-2", "c"]) == {
        "a/b": "a-b",
        "a-b": "a-b-2",
        "a-b-2": "a-b-2-2",
        "c": "c",
    }
    monkeypatch.setattr(maps, "shared_limits", lambda results: None)
    monkeypatch.setattr(maps, "draw", lambda label, result, path, *rest: path)
    several = dict.fromkeys(("a/b", "a-b"), SimpleNamespace(axes=[np.zeros(2)] * 3))
    drawn = maps.draw_side_by_side(several, tmp_path / "grid.png", None)
    assert [path.name for path in drawn] == ["grid-a-b.png", "grid-a-b-2.png"]


def test_the_command_draws_what_runs_are_for_and_one_metric_where_it_is_named(make_run, figure, tmp_path):
    run = with_column(make_run("a"), "worst_case", lambda step: -step)
    assert main([str(run), "--out", str(tmp_path / "a.png")]) == 0
    assert main([str(run), "--metric", "worst_case", "--out", str(tmp_path / "b.png")]) == 0
    assert main([str(run), "--metric", "episode_return", "--out", str(tmp_path / "c.png")]) == 0
    assert [len(drawn.axes) for drawn in figure] == [2, 1, 1]
    np.testing.assert_array_equal(figure[1].axes[0].get_lines()[0].get_ydata(), [-100, -200])
    with pytest.raises(ValueError, match="no column 'worst_case'; it has step"):
        main([str(make_run("old", seed=1)), "--metric", "worst_case", "--out", str(tmp_path / "d.png")])


def test_steps_that_not_all_runs_reached_are_left_out(make_run, figure, tmp_path):
    runs = [make_run("a"), make_run("b")]
    rows = list(csv.reader((runs[1] / "evaluations.csv").open()))
    with (runs[1] / "evaluations.csv").open("w", newline="") as file:
        csv.writer(file).writerows(row for row in rows if row[0] != "200")
    learning_curves({"x": runs}, tmp_path / "a.png")
    np.testing.assert_array_equal(lines(figure[0].axes[0])["x (2 runs)"].get_xdata(), [100])


def test_runs_without_a_step_in_common_have_a_note_and_no_line(make_run, figure, tmp_path):
    """Such as seeds that were solved before the first evaluation of the others; it ended in a `TypeError`."""
    runs = [make_run("a"), make_run("b", seed=1)]
    for run, left_out in zip(runs, ("200", "100"), strict=True):
        rows = list(csv.reader((run / "evaluations.csv").open()))
        with (run / "evaluations.csv").open("w", newline="") as file:
            csv.writer(file).writerows(row for row in rows if row[0] != left_out)
    learning_curves({"x": runs, "y": make_run("c", seed=2)}, tmp_path / "a.png")
    shown = lines(figure[0].axes[0])
    assert list(shown) == ["x (2 runs, no step in common)", "y"]
    assert len(shown["x (2 runs, no step in common)"].get_xdata()) == 0
    np.testing.assert_array_equal(shown["y"].get_xdata(), [100, 200])


def test_of_runs_of_one_seed_and_setting_the_longest_is_drawn(make_run, figure, tmp_path, capsys):
    runs = [make_run("a"), make_run("b"), make_run("c", seed=1)]
    for run, step in zip(runs, (100, 200, 200), strict=True):
        (run / "metrics.csv").write_text(f"step,seconds\n{step},1\n")
    assert main([*map(str, runs), "--out", str(tmp_path / "a.png")]) == 0
    assert list(lines(figure[0].axes[0])) == ["sac (2 runs)"]
    said = f"note: {runs[0]}: seed 0 again, in the settings of {runs[1]}, which counts in its place\n"
    assert said in capsys.readouterr().out


def test_an_agent_keeps_its_colour_in_every_figure_and_its_baseline_runs_have_others(make_run, figure, tmp_path):
    run = make_run("a")
    learning_curves({"x": run}, tmp_path / "a.png")
    learning_curves({"first": make_run("b"), "y": run}, tmp_path / "b.png")
    (alone,), (first, second) = ([line.get_color() for line in drawn.axes[0].get_lines()] for drawn in figure)
    assert alone == first == agent_style("sac").color
    assert second != first
    markers = [line.get_marker() for line in figure[1].axes[0].get_lines()]
    assert len(set(markers)) == 2
    bandits = {name for name, entry in agents.REGISTRY.items() if "dynlin" in entry}
    contextual = {name for name, entry in agents.REGISTRY.items() if "neural_bandits" in entry}
    for names in (bandits, contextual, set(agents.REGISTRY) - bandits - contextual):  # kinds that never share a figure
        assert len({agent_style(name) for name in names}) == len(names)
    assert agent_style("a new one") == agent_style("a new one")


def test_lines_of_one_figure_have_different_colours_while_there_are_any():
    blue, orange = Style(PALETTE[0], "-"), Style(PALETTE[1], "--")
    first, other, second = distinct_styles([blue, blue, orange])
    assert (first, second) == (blue, orange)  # a later wish is kept, too
    assert other.color not in (blue.color, orange.color)
    assert len({style.color for style in distinct_styles([blue] * 7)}) == 7
    assert len(set(distinct_styles([blue] * 28))) == 28


def test_updates_and_environment_steps_share_no_axis_unmarked(make_run, figure, tmp_path):
    sac, bc = make_run("a"), make_run("b")
    config = yaml.safe_load((bc / "config.yaml").read_text())
    (bc / "config.yaml").write_text(yaml.safe_dump(config | {"agent_name": "bc"}))
    long = "bc (data, 300 updates)"
    for runs in ({"sac": sac, "bc": bc}, {"bc": bc}, {"sac": sac, long: bc}):
        learning_curves(runs, tmp_path / "a.png")
    both, alone, labelled = (drawn.axes[0] for drawn in figure)
    assert labelled.get_xlabel() == both.get_xlabel()  # a long label would leave the figure
    assert list(lines(labelled)) == ["sac", long]
    assert both.get_xlabel() == "environment steps; gradient updates for bc"
    assert list(lines(both)) == ["sac", "bc (updates)"]
    assert alone.get_xlabel() == "gradient updates"
    assert list(lines(alone)) == ["bc"]


def test_the_caption_names_what_differs_between_the_runs(make_run, figure, tmp_path):
    heavy = EnvConfig("Pendulum-v1", Physics(gravity=2.0))
    runs = {"light": [make_run(f"l{seed}", seed) for seed in (0, 1, 2, 5)], "heavy": make_run("h", 7, heavy)}
    learning_curves(runs, tmp_path / "a.png")
    assert " ".join(figure[0].get_suptitle().split()) == (
        "Pendulum-v1, unmodified dynamics (light); Pendulum-v1, gravity 2.0; evaluated in the unmodified dynamics "
        "(heavy); seeds 0–2, 5, 7 Point: mean over 5 evaluation episodes; line: interquartile mean over runs, "
        "at the steps that all have; band: its 95% bootstrap interval; no band where there is a single run"
    )


def test_labels_are_words():
    assert metric_label("lip_upper", ["mbpo"]).startswith("ln of the upper bound of the slope of Q")
    assert metric_label("lip_upper", ["sac"]) == "lip upper (as logged)"
    assert metric_label("seconds/model", ["sac"]) == "seconds of model (as logged)"
    assert parameter_label("body_mass.front_left_leg") == "mass of front left leg (kg)"
    assert parameter_label("geom_friction.*") == "sliding friction of everything (coefficient)"
    assert parameter_label("body_mass.4") == "mass of number 4 (kg)"
    assert parameter_label("dof_damping_scale.@actuated") == "damping of actuated (factor)"
    assert parameter_label("sensor_noise.@qpos") == "noise of sensor qpos (units of the observation)"
    assert parameter_label("sensor_noise.*") == "noise of every sensor (units of the observation)"
    assert parameter_label("control_delay") == "control delay (steps)"
    assert parameter_label("pole_length") == "pole length (in the task's unit)"


def test_metric_panels_have_a_panel_a_metric(make_run, figure, tmp_path):
    metric_panels({"x": make_run("a")}, tmp_path / "m.png", ["critic_loss"])
    assert [axes.get_ylabel() for axes in figure[0].axes] == ["critic loss (as logged)"]
    np.testing.assert_array_equal(lines(figure[0].axes[0])["x"].get_ydata(), [1, 2])


def test_no_global_state_of_matplotlib_is_touched(make_run, tmp_path):
    import matplotlib.pyplot as plt

    before, backend = dict(mpl.rcParams), mpl.get_backend()
    learning_curves({"x": make_run("a")}, tmp_path / "a.png")
    assert (dict(mpl.rcParams), mpl.get_backend(), plt.get_fignums()) == (before, backend, [])


def test_wrong_input_is_named(make_run, tmp_path):
    run = make_run("a")
    with pytest.raises(ValueError, match=r"no column 'nope'; it has step, critic_loss"):
        metric_panels({"x": run}, tmp_path / "a.png", ["nope"])
    (run / "evaluations.csv").unlink()
    with pytest.raises(FileNotFoundError, match=r"evaluations\.csv: not found"):
        learning_curves({"x": run}, tmp_path / "a.png")
    assert not (tmp_path / "a.png").exists()


def test_every_method_has_a_label_of_its_own_whatever_its_folders_are_called(make_run, monkeypatch):
    runs = {f"{run}/seed-0": {"gamma": gamma} for run, gamma in (("a", 0.9), ("b", 0.8), ("c", 0.7))}
    folders = [make_run(name, **changes) for name, changes in runs.items()]
    pendulum = make_run("d/seed-0", env=EnvConfig("Pendulum-v1", max_episode_steps=5))
    assert group(folders) == {f"sac: gamma {0.9 - i / 10:.1f}": [folder] for i, folder in enumerate(folders)}
    with_task = group([*folders[:1], pendulum, make_run("e", env=EnvConfig("Reacher-v5"))])
    assert list(map(len, with_task.values())) == [1, 1, 1]
    monkeypatch.setattr(plot, "LONGEST", 3)  # what differs is too much for a legend
    assert group(folders) == {f"sac: {folder}": [folder] for folder in folders}
    for folder in folders:
        (folder.parent / "config.yaml").write_bytes((folder / "config.yaml").read_bytes())  # a run of several seeds
    assert group(folders) == {f"sac: {name}": [folder] for name, folder in zip("abc", folders, strict=True)}


def test_the_command_pools_seeds_and_names_what_differs(make_run, tmp_path, capsys):
    runs = [make_run("a", seed=0), make_run("b", seed=1), make_run("c", gamma=0.5)]
    assert group(runs) == {"sac: gamma 0.99": runs[:2], "sac: gamma 0.5": runs[2:]}
    assert group(runs[:2]) == {"sac": runs[:2]}
    out = tmp_path / "curve.svg"
    assert main([*map(str, runs), "--out", str(out)]) == 0
    assert out.read_text().startswith("<?xml")
    assert str(out) in capsys.readouterr().out
    assert main([str(runs[0]), "--metric", "critic_loss", "--out", str(tmp_path / "m.png")]) == 0
    with pytest.raises(ValueError, match="at least one run"):
        main([])
    with pytest.raises(ValueError, match="plot evaluation metrics separately"):
        main([str(runs[0]), "--metric", "score", "critic_loss"])
