"""`surefoot evaluate --grid`: the table of returns over an uncertainty set, its worst case, and what goes wrong."""

import csv
import json

import numpy as np
import pytest
import stable_baselines3 as sb3
import torch
from matplotlib.image import imread

from surefoot.envs import SETS, EnvConfig, Parameter, UncertaintySet, WithParameters, indistinct, make_single
from surefoot.envs.uncertainty.batched_episodes import JobOutcomes
from surefoot.evaluation import uncertainty_grid as grid
from surefoot.evaluation.figures import maps
from surefoot.evaluation.figures.caption import Caption
from surefoot.evaluation.policies import load_any
from surefoot.training import comparison
from surefoot.training.cli import main as cli
from surefoot.training.cli.evaluate import main

SHORT = EnvConfig("InvertedPendulum-v5", max_episode_steps=30)


def still(obs):
    return torch.zeros(len(obs), 1)


def one_by_one(act, config, uncertainty, point, seeds):
    """Return the mean return of unmodified environments, stepped singly."""
    env, returns = WithParameters(make_single(config), uncertainty), []
    for seed in seeds:
        obs, _ = env.reset(seed=seed, options={"params": point})
        total, ended = 0.0, False
        while not ended:
            obs, reward, terminated, truncated, _ = env.step(act(torch.from_numpy(obs)[None])[0].numpy())
            total, ended = total + reward, terminated or truncated
        returns.append(total)
    return np.mean(returns)


def test_the_table_is_that_of_unmodified_environments_and_the_worst_is_its_minimum():
    one = SETS["inverted-pendulum-2"]
    result = grid.evaluate_static(still, SHORT, one, n=3, closed=True, episodes=2, seeds=(100, 200))
    seeds = [100, 101, 200, 201]
    expected = [one_by_one(still, SHORT, one, point, seeds) for point in one.grid(3, closed=True)]
    np.testing.assert_array_equal(result.mean, expected)
    assert result.worst == int(np.argmin(expected))
    assert 0 < result.worst < 9
    assert result.returns.shape == (9, 4)
    assert result.nominal_returns.mean() == one_by_one(still, SHORT, one, [5.018592, 10.471976], seeds)
    fresh = one_by_one(still, SHORT, one, result.points[result.worst], [202, 203, 204, 205])
    assert result.fresh_returns.mean() == fresh
    record = json.loads(json.dumps(grid.plain(result)))
    assert record["worst"]["mean"] == min(expected)
    assert list(record["worst"]["at"].values()) == result.points[result.worst].tolist()
    assert record["average"] == np.mean(expected)
    assert record["worst"]["points"] == sum(value == min(expected) for value in expected)


class KnownReturns:
    """Known returns: two points on the grid tie for the worst, the nominal one is worse still."""

    nominal = np.array([5.0, 5.0])
    jobs: list[tuple[list[list[float]], list[int]]]

    def __init__(self, *args, **kwargs):
        KnownReturns.jobs = []

    def play(self, act, points, seeds):
        KnownReturns.jobs.append((points.tolist(), list(seeds)))
        returns = np.array([[11.0, 7.0], [3.0, 1.0], [1.0, 3.0], [8.0, 8.0], [0.0, 0.0]])[: len(points)]
        broken = np.zeros(returns.shape, bool)
        broken[0, 1] = True
        return JobOutcomes(returns, np.full(returns.shape, 4), broken, np.zeros_like(broken))


def test_what_is_told_of_a_grid(monkeypatch, tmp_path):
    monkeypatch.setattr(grid, "BatchedPerturbedEnvs", KnownReturns)
    monkeypatch.setattr(grid, "indistinct", lambda *args: {})
    one = SETS["inverted-pendulum-2"]
    result = grid.evaluate_static(still, SHORT, one, n=2, closed=True, episodes=2, seeds=(100,))
    whole, again = KnownReturns.jobs
    assert whole == ([*one.grid(2, closed=True).tolist(), [5.0, 5.0]], [100, 101])
    assert again == (
        [one.grid(2, closed=True)[1].tolist()],
        [102, 103],
    )  # the first of equal ones
    assert (result.worst, result.nominal_returns.tolist(), result.broken.sum()) == (1, [0.0, 0.0], 1)
    assert result.broken[0, 1]
    record = grid.plain(result)
    assert (record["worst"]["mean"], record["worst"]["points"], record["diverged"]) == (2.0, 2, 1)
    assert (record["worst"]["fresh_seeds"], record["nominal"]["mean"], record["average"]) == (9.0, 0.0, 5.25)
    grid.write_csv(tmp_path / "table.csv", result)
    first = (tmp_path / "table.csv").read_text().splitlines()[1]
    assert [float(x) for x in first.split(",")][2:] == [9.0, 2.0, 7.0, 11.0, 4.0, 1.0]  # mean, std, least, most, steps


def test_what_a_reader_of_the_figures_must_know(monkeypatch):
    monkeypatch.setattr(grid, "BatchedPerturbedEnvs", KnownReturns)
    spans = {"body_mass.pole": [(1.0, 31.0)], "body_mass.cart": [(1.0, 6.0)]}
    monkeypatch.setattr(grid, "indistinct", lambda *args: spans)
    result = grid.evaluate_static(still, SHORT, SETS["inverted-pendulum-2"], n=2, closed=True, episodes=2)
    assert grid.remarks(result) == [
        "body_mass.pole has no effect: every value gives the same motion",
        "body_mass.cart: the same motion from 1 to 6",
        "the physics diverged at 1 points; those episodes count up to there",
    ]
    (where,) = comparison.grid_table("", [("a", result)]).columns[-1].cells
    assert where == "body_mass.pole 1, body_mass.cart 11 and 1 more"


def test_values_that_change_nothing_are_found():
    hopper = SETS["hopper-1"]
    assert indistinct(EnvConfig("Hopper-v5"), hopper, hopper.axes()) == {
        "geom_friction.floor": [(0.1, pytest.approx(1.84))]
    }
    pendulum = SETS["pendulum-2"]
    assert indistinct(EnvConfig("surefoot/Pendulum-v0"), pendulum, pendulum.axes(3)) == {}


def test_a_parameter_without_effect_is_reported(make_run, tmp_path, capsys):
    run = make_run("a", env=SHORT)
    own = tmp_path / "rail.yaml"  # nothing touches the rail
    own.write_text(
        "env: InvertedPendulum-v5\nparameters:\n  geom_friction.rail: {low: 0.1, high: 2.0}\n"
        "  body_mass.pole: {low: 1, high: 30}\n"
    )
    assert main([str(run), "--grid", str(own), "--n", "3", "--episodes", "1"]) == 0
    assert "geom_friction.rail has no effect" in capsys.readouterr().out
    (path,) = (run / "evaluations").glob("rail-*.json")
    record = json.loads(path.read_text())
    assert record["without_effect"] == ["geom_friction.rail"]
    assert list(record["same_physics"]) == ["geom_friction.rail"]


def test_a_run_gets_a_table_in_json_and_csv_and_a_figure(make_run, tmp_path, capsys):
    runs = [make_run(f"r{i}", seed=i, env=SHORT) for i in range(2)]
    out = tmp_path / "all.json"
    options = ["--grid", "inverted-pendulum-2", "--n", "3", "--episodes", "2", "--json", str(out)]
    assert main([*map(str, runs), *options]) == 0
    printed = capsys.readouterr().out
    assert "half-open grid" in printed
    both = json.loads(out.read_text())["results"]
    for run, record in zip(runs, both, strict=True):
        files = {path.suffix: path for path in (run / "evaluations").iterdir()}
        assert set(files) == {".json", ".csv", ".png"}
        assert json.loads(files[".json"].read_text())["table"] == record["table"]
        with files[".csv"].open(newline="") as file:
            rows = list(csv.DictReader(file))
        assert [float(row["mean"]) for row in rows] == [point["mean"] for point in record["table"]]
        assert float(rows[-1]["body_mass.cart"]) == pytest.approx(1 + 2 * 10 / 3)
        assert imread(files[".png"]).std() > 0.05
        assert f"{record['worst']['mean']:.1f}" in printed
        assert (record["set"], record["grid"], record["n"], record["episodes"]) == (
            "inverted-pendulum-2",
            "half-open",
            3,
            2,
        )
        act = load_any(run).act
        again = grid.evaluate_static(act, SHORT, SETS["inverted-pendulum-2"], n=3, episodes=2)
        assert record["worst"]["mean"] == again.mean.min()
    main([str(runs[0]), *options[:-2], "--closed"])
    assert len(list((runs[0] / "evaluations").glob("*.json"))) == 2  # another grid is another record


def test_an_archive_needs_no_task_and_ten_episodes_are_the_default(tmp_path):
    path = tmp_path / "model.zip"
    sb3.PPO("MlpPolicy", "InvertedPendulum-v5", n_steps=8, batch_size=8).save(path)
    out = tmp_path / "out.json"
    call = [str(path), "--allow-pickle", "--grid", "inverted-pendulum-1", "--n", "2", "--json", str(out)]
    assert main([*call, "--env.max-episode-steps", "5"]) == 0
    (record,) = json.loads(out.read_text())["results"]
    assert {len(point["returns"]) for point in record["table"]} == {10}
    assert record["env"]["id"] == "InvertedPendulum-v5"


@pytest.mark.parametrize("d", [1, 2, 3])
def test_figures_show_the_worst_point(d, monkeypatch, tmp_path):
    kept = []
    monkeypatch.setattr(maps, "write_figure", lambda figure, out, caption: kept.append(figure) or out)
    axes = {f"p{k}": np.linspace(0, 1, 3 + k) for k in range(d)}
    values = np.random.default_rng(0).normal(size=[len(axis) for axis in axes.values()])
    flags = np.zeros(values.shape, bool)
    flags.flat[0] = True
    returns = maps.Surface(values, flags, np.full(d, 0.5), 0.0)
    maps.parameter_map(tmp_path / "map.png", axes, "x", returns, caption=Caption("t", "seed 0", "no band"))
    (figure,) = kept
    panels = figure.axes[: 3 if d == 3 else 1]
    worst = np.unravel_index(values.argmin(), values.shape)
    panel = panels[worst[0]] if d == 3 else panels[0]
    rings = [line for line in panel.lines if line.get_marker() == "o" and line.get_markersize() >= 12]
    rings = [ring for ring in rings if len(ring.get_xydata())]  # a curve's legend has one without data
    (ring,) = rings
    where = [axis[i] for axis, i in zip(axes.values(), worst, strict=True)][-2:]
    expected = [*where, values.min()] if d == 1 else where
    np.testing.assert_allclose(np.ravel(ring.get_xydata()), expected)
    crosses = [line for panel in panels for line in panel.lines if line.get_marker() == "x"]
    assert len(crosses) == 1
    if d > 1:
        mesh = panel.collections[0].get_array()
        np.testing.assert_array_equal(np.asarray(mesh), (values[worst[0]] if d == 3 else values).T)


@pytest.mark.parametrize("d", [1, 2, 3])
@pytest.mark.parametrize("last", [0.4, 0.95, 1.7, -3.0])  # within the grid, in its open half, beyond either end
def test_the_nominal_point_is_drawn_where_it_is_with_its_value(d, last, monkeypatch, tmp_path):
    kept = []
    monkeypatch.setattr(maps, "write_figure", lambda figure, out, caption: kept.append((figure, caption)) or out)
    axes = {f"p{k}": np.linspace(0, 1, 4, endpoint=False) for k in range(d)}
    nominal = np.array([0.55, 0.3, last][-d:])
    returns = maps.Surface(np.zeros([4] * d), np.zeros([4] * d, bool), nominal, -1.5)
    for label in ("x", "y"):
        maps.parameter_map(tmp_path / "map.png", axes, label, returns, caption=Caption("t", "seed 0", "no band"))
    figure, caption = kept[0]
    starred = {i: line for i, panel in enumerate(figure.axes) for line in panel.lines if line.get_label() == "_nominal"}
    ((i, star),) = starred.items()
    assert i == (2 if d == 3 else 0)  # of three parameters: on the map whose value, 0.5, is nearest
    np.testing.assert_allclose(np.ravel(star.get_xydata()), [last, -1.5] if d == 1 else nominal[-2:])
    figure.draw_without_rendering()
    assert figure.axes[i].get_window_extent().contains(*figure.axes[i].transData.transform(star.get_xydata()[0]))
    edges = {star.get_markeredgecolor(), *(effect._gc.get("foreground") for effect in star.get_path_effects()[:1])}
    assert edges == {"white", maps.NEARLY_BLACK}  # seen on every colour
    words = [text.get_text() for panel in figure.axes for text in (*panel.texts, panel.title)]
    words += [text.get_text() for legend in figure.legends for text in legend.get_texts()]
    assert any("-1.5" in word for word in words)
    assert d == 1 or f"{last:.4g}" in caption.shows


def test_a_grid_of_more_than_three_parameters_has_no_figure(tmp_path):
    one = UncertaintySet("many", "Hopper-v5", tuple(Parameter(f"body_mass.{i}", 1.0, 2.0) for i in range(1, 5)))
    short = EnvConfig("Hopper-v5", max_episode_steps=2)
    result = grid.evaluate_static(lambda obs: torch.zeros(len(obs), 3), short, one, n=2, episodes=1)
    assert result.returns.shape == (16, 1)
    assert maps.draw("x", result, tmp_path / "none.png", Caption("t", "seed 0", "no band")) is None
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--grid", "hoper-1"], "unknown uncertainty set 'hoper-1'"),
        (["--grid", "hopper-1"], "hopper-1 is for Hopper-v5, not for InvertedPendulum-v5"),
        (["--grid", "absent.yaml"], "absent.yaml: no such file"),
        (["--grid", "inverted-pendulum-1", "--n", "1"], "--n is 1; it must be from 2 to 10,000"),
        (["--grid", "inverted-pendulum-1", "--episodes", "0"], "--episodes is 0; it must be from 1 to 10,000,000"),
        (["--grid", "inverted-pendulum-1", "--video"], "leave it out with --grid"),
    ],
)
def test_wrong_requests_are_one_line_and_exit_code_2(make_run, options, message, capsys):
    run = make_run("a", env=SHORT)
    assert cli.main(["evaluate", str(run), *options]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
