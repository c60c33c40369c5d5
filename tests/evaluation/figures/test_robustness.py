"""Nominal return against worst case: every name can be read, however close the points are."""

from itertools import combinations

from matplotlib.figure import Figure
from matplotlib.transforms import Bbox

from surefoot.evaluation.figures.caption import Caption
from surefoot.evaluation.figures.robustness import Point, nominal_against_worst


def test_no_name_covers_another_or_a_point(tmp_path, monkeypatch):
    figures = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, *args, **settings: figures.append(figure))
    points = [
        Point("Pendulum-v1", name, -150.0 - k, -1800.0 - 9 * k, (-160.0, -140.0), (-2400.0, -1780.0), ours=k == 0)
        for k, name in enumerate(("dr-sac, 20k steps", "a2c", "ars", "ddpg", "ppo", "sac", "tqc", "trpo"))
    ]
    nominal_against_worst(points, tmp_path / "a.png", Caption("Pendulum-v1", "seeds 0", "points"))
    (figure,) = figures
    figure.draw_without_rendering()
    axes = figure.axes[0]
    names = [text.get_window_extent() for text in axes.texts if text.get_text()]
    spots = [axes.transData.transform((point.nominal, point.worst)) for point in points]
    marks = [Bbox.from_bounds(x - 3, y - 3, 6, 6) for x, y in spots]
    assert len(names) == len(points)
    assert not any(one.overlaps(other) for one, other in combinations(names, 2))
    assert not any(name.overlaps(mark) for name in names for mark in marks)
