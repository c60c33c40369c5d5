"""The figures of a stress test: curves, maps, distributions, made of what `surefoot stress` wrote as JSON."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from surefoot.agents.interface import Style
from surefoot.evaluation.describe import Record
from surefoot.evaluation.figures.caption import Caption, seeds_in_words, task_with_dynamics
from surefoot.evaluation.figures.maps import NEARLY_BLACK, RING, mark_nominal
from surefoot.evaluation.figures.style import agent_style, distinct_styles
from surefoot.evaluation.figures.words import MEAN_RETURN, parameter_label
from surefoot.training.report.figures import INK, SIZE, drawing

PARTS = {"nominal": ("#0072B2", "-"), "average": ("#009E73", "--"), "worst": ("#D55E00", "-.")}


def styles(records: Sequence[Record]) -> list[Style]:
    """Return a line style per policy."""
    return distinct_styles([agent_style(record["agent"]) for record in records])


def caption_of_stress(records: Sequence[Record], part: str, episodes: int, shows: str) -> Caption:
    """Return the caption of a figure of one part of the stress tests of policies in one task."""
    first = records[0]["method"]["seeds"][part]
    trained = sorted({one["training_seed"] for one in records if one["training_seed"] is not None})
    own = f"training {seeds_in_words(trained)}" if trained else "unknown training seeds"
    seeds = f"{own}, reset {seeds_in_words(range(first, first + episodes))}"
    return Caption(task_with_dynamics(records[0]["env"]), seeds, shows)


def response_curves(records: Sequence[Record], box: int, number: int) -> str:
    """Draw the mean return of each policy over one parameter of a set, the others nominal, with pointwise intervals."""
    curves = [record["sets"][box]["curves"][number] for record in records]
    name = curves[0]["parameter"]

    def draw(axes: Axes) -> None:
        for record, curve, style in zip(records, curves, styles(records), strict=True):
            axes.plot(curve["values"], curve["mean"], style.dash, marker="o", ms=3, color=style.color, lw=1.6)
            axes.plot([], [], style.dash, color=style.color, label=record["name"])
            if all(curve["interval"]):
                axes.fill_between(curve["values"], *np.array(curve["interval"]).T, color=style.color, alpha=0.2, lw=0)
            nominal, limit = nominal_of(record, record["sets"][box])
            axes.plot(curve["nominal"], nominal["mean"], "*", ms=13, color=style.color, mec=INK, mew=0.6)
            axes.axhline(limit, color=style.color, lw=0.8, ls=":")
        axes.plot([], [], "*", ms=11, color="none", mec=INK, label="nominal")
        axes.plot([], [], ":", color=INK, label="80 % of nominal")
        axes.set(xlabel=parameter_label(name), ylabel=MEAN_RETURN)
        axes.xaxis.set_major_locator(MaxNLocator(5))  # more of numbers such as −0.075 run into one another
        axes.grid(True, linewidth=0.5, alpha=0.35)
        _legend_below(axes)

    shows = f"point: mean over {curves[0]['episodes']} episodes; band: its 95% interval, point by point"
    shows += f"; star: over {records[0]['nominal']['episodes']}"
    caption = caption_of_stress(records, "choosing", curves[0]["episodes"], shows)
    return drawing(f"{records[0]['sets'][box]['name']}: {parameter_label(name)}", draw, caption)


def pair_map(record: Record, box: Record, number: int, limits: tuple[float, float]) -> str:
    """Draw the mean return of a policy over two parameters of a set, the others nominal."""
    found = box["maps"][number]
    (across, x), (up, y) = found["axes"].items()
    means, failed = np.array(found["mean"]), np.array(found["failed"])

    def draw(axes: Axes) -> None:
        low, high = limits
        image = axes.pcolormesh(x, y, means.T, shading="nearest", cmap="cividis", vmin=low, vmax=high)
        axes.set(xlabel=parameter_label(across), ylabel=parameter_label(up))
        for i, j in np.argwhere(failed > 0):
            ink = "#ffffff" if means[i, j] < (low + high) / 2 else NEARLY_BLACK
            axes.plot(x[i], y[j], "x", color=ink, ms=3 + 3 * failed[i, j] / found["episodes"], mew=0.8)
        worst = np.unravel_index(means.argmin(), means.shape)
        axes.plot(x[worst[0]], y[worst[1]], "o", color="none", markeredgecolor=RING, mew=2, ms=15)
        figure = axes.figure
        assert isinstance(figure, Figure)
        figure.colorbar(image, ax=axes, label=MEAN_RETURN)
        at_x, at_y = found["nominal"]
        mark_nominal(axes, at_x, at_y, nominal_of(record, box)[0]["mean"], image)

    episodes = found["episodes"]
    shows = (
        f"mean over {episodes} episode{'s' * (episodes > 1)} at each of {len(x)} × {len(y)} points, other parameters "
        "nominal; star: nominal; ring: lowest cell; cross: cells with episodes that diverged, or ended early below "
        "80 % of the nominal return, larger for more of them; no interval is drawn"
    )
    caption = caption_of_stress([record], "choosing", episodes, shows)
    return drawing(f"{record['name']}, {box['name']}: {parameter_label(across)}, {parameter_label(up)}", draw, caption)


def moments(records: Sequence[Record], box: int) -> str:
    """Draw the mean return of each policy over the step at which the worst point of a set begins to hold."""
    found = [record["sets"][box]["worst_moment"] for record in records]

    def draw(axes: Axes) -> None:
        for record, one, style in zip(records, found, styles(records), strict=True):
            onsets, means = zip(*((int(onset), mean) for onset, mean in one["tried"].items()), strict=True)
            axes.plot(onsets, means, style.dash, marker="o", ms=3, color=style.color, lw=1.6)
            axes.plot([], [], style.dash, color=style.color, label=record["name"])
            axes.plot(one["onset"], one["mean"], "s", ms=9, color="none", mec=style.color, mew=1.6)
            axes.axhline(one["nominal"], color=style.color, lw=0.8, ls=":")
        axes.plot([], [], "s", ms=9, color="none", mec=INK, label="worst, on fresh seeds")
        axes.plot([], [], ":", color=INK, label="without the disturbance")
        axes.set(xlabel="onset of the disturbance (environment steps)", ylabel=MEAN_RETURN)
        axes.grid(True, linewidth=0.5, alpha=0.35)
        _legend_below(axes)

    episodes = found[0]["episodes_per_onset"]
    shows = (
        f"point: mean over {episodes} episodes in which the worst point holds for {found[0]['duration']} steps; no band"
    )
    caption = caption_of_stress(records, "moment", episodes, shows)
    return drawing(f"{records[0]['sets'][box]['name']}: when the worst point hurts most", draw, caption)


def tail_distributions(record: Record) -> str:
    """Draw which fraction of episodes returned at most so much: nominal, over the worst set, at the worst point."""
    box = worst_set(record)
    nominal, limit = nominal_of(record, box)
    samples = {"nominal": nominal, "average": box["average"], "worst": box["worst"]}

    def draw(axes: Axes) -> None:
        for part, sample in samples.items():
            color, dash = PARTS[part]
            label = f"{part}, {sample['episodes']} episodes"
            axes.ecdf(sample["returns"], color=color, linestyle=dash, linewidth=1.6, label=label)
        axes.axvline(limit, color=INK, lw=0.8, ls=":", label="80 % of nominal")
        axes.set(xlabel="return of an episode (sum of rewards)", ylabel="fraction of episodes")
        axes.grid(True, linewidth=0.5, alpha=0.35)
        _legend_below(axes)

    shows = (
        f"line: fraction of episodes with at most this return; nominal: {nominal_in_words(nominal)}; average: "
        f"uniform over {box['name']}, worst: at its worst point; no band"
    )
    caption = caption_of_stress([record], "worst", box["worst"]["episodes"], shows)
    return drawing(f"{record['name']}: nominal returns, on average, and at the worst", draw, caption)


def nominal_and_worst(records: Sequence[Record]) -> str:
    """Draw the nominal and the worst mean return of each policy with their intervals."""

    def draw(axes: Axes) -> None:
        for i, record in enumerate(reversed(records)):
            box = worst_set(record)
            for part, sample in (("nominal", nominal_of(record, box)[0]), ("worst", box["worst"])):
                color, _ = PARTS[part]
                if sample["interval"] is not None:
                    axes.plot(sample["interval"], (i, i), color=color, lw=3, alpha=0.5, solid_capstyle="butt")
                axes.plot(sample["mean"], i, "o" if part == "nominal" else "s", color=color)
        for part, marker in (("nominal", "o"), ("worst", "s")):
            axes.plot([], [], marker, color=PARTS[part][0], label=part)
        axes.set_yticks(range(len(records)), [record["name"] for record in reversed(records)])
        axes.set_ylim(-0.6, len(records) - 0.4)
        axes.set_xlabel(MEAN_RETURN)
        axes.grid(True, axis="x", linewidth=0.5, alpha=0.35)
        _legend_below(axes)

    episodes = worst_set(records[0])["worst"]["episodes"]
    kinds = [nominal_in_words(nominal_of(record, worst_set(record))[0]) for record in records]
    wheres = " or ".join(dict.fromkeys(kinds))
    shows = f"mean return {wheres}, and at the worst point found of all sets; bar: 95% interval"
    caption = caption_of_stress(records, "worst", episodes, shows)
    return drawing("Nominal and worst", draw, caption, (SIZE[0], 1.4 + 0.45 * len(records)))


def worst_set(record: Record) -> Record:
    """Return the set in which a policy's worst mean return is lowest."""
    found: Record = min(record["sets"], key=lambda one: one["worst"]["mean"])
    return found


def nominal_of(record: Record, box: Record) -> tuple[Record, float]:
    """Return the sample at a set's nominal point, and the return below which the policy no longer holds there.

    A set has its own where that is another point than the first set's.
    """
    own = box if "nominal" in box else record
    return own["nominal"], own["limit"]


def nominal_in_words(nominal: Record) -> str:
    """Return what a nominal sample is of: where nothing is disturbed, or the nominal point of which set."""
    if nominal.get("at"):  # files of earlier versions have none
        return f"at the nominal point of {nominal['of']} ({where(nominal['at'])})"
    return "where nothing is disturbed"


def where(at: dict[str, float]) -> str:
    """Return a point in words: `mass of pole 3 kg, …`."""
    return ", ".join(f"{_short(name)} {value:.4g}{_unit(name)}" for name, value in at.items())


def _short(name: str) -> str:
    return parameter_label(name).partition(" (")[0]


def _unit(name: str) -> str:
    unit = parameter_label(name).partition(" (")[2].removesuffix(")")
    return f" {unit}" if unit in ("kg", "N", "steps", "rad", "°") else ""


def colour_limits(records: Sequence[Record]) -> tuple[float, float]:
    """Return the range of all maps and nominal returns, so that maps of one page compare."""
    cells = [value for r in records for one in r["sets"] for m in one["maps"] for row in m["mean"] for value in row]
    cells += [nominal_of(record, box)[0]["mean"] for record in records for box in record["sets"]]
    return min(cells), max(cells)


def _legend_below(axes: Axes) -> None:
    handles, labels = axes.get_legend_handles_labels()
    figure = axes.figure
    assert isinstance(figure, Figure)
    columns = 1 if max(map(len, labels)) > 34 else 2
    figure.legend(handles, labels, loc="outside lower center", ncols=columns, fontsize=9)
