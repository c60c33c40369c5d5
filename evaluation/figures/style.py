"""What all figures share: the style of a method, and how a figure is written."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import chain, count, product
from pathlib import Path
from zlib import crc32

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from surefoot import agents
from surefoot.agents.interface import Style
from surefoot.evaluation.figures.caption import Caption, config_of
from surefoot.evaluation.storage import write_atomically

# Okabe and Ito's colours; an agent keeps the colour and dash of its `AgentSpec` in every figure.
PALETTE = ("#0072B2", "#E69F00", "#000000", "#56B4E9", "#009E73", "#CC79A7", "#D55E00")
DASHES = ("-", "--", ":", "-.")


def agent_style(agent: str) -> Style:
    """Return the style of an agent; one that has none, or is not registered, gets a fixed one by its name."""
    style = agents.get(agent).style if agent in agents.REGISTRY else None
    return style or Style(PALETTE[crc32(agent.encode()) % len(PALETTE)], "-.")


def distinct_styles(wanted: Sequence[Style]) -> list[Style]:
    """Return the styles of the lines of one figure: those wanted, but no colour twice while there is another.

    The first of several with one colour keeps it; colours that another line wants are not given away.
    """
    styles: list[Style] = []
    for style in wanted:
        taken = {one.color for one in styles}
        free = [color for color in PALETTE if color not in taken | {one.color for one in wanted}]
        if style.color in taken:
            other = (Style(color, dash) for dash, color in product(DASHES, PALETTE))
            style = Style(free[0], style.dash) if free else next(one for one in other if one not in styles)
        styles.append(style)
    return styles


def agent_of(folder: Path) -> str:
    """Return which agent made a run."""
    name: str = config_of(folder)["agent_name"]
    return name


def style_of(folder: Path) -> Style:
    """Return the style of a run: that of its variant, where its agent has variants, else of its agent."""
    agent = agent_of(folder)
    settings = config_of(folder).get("agent") or {}
    style = agents.get(agent).style_of(settings) if agent in agents.REGISTRY else None
    return style or agent_style(agent)


def file_names(labels: Iterable[str]) -> dict[str, str]:
    """Return a name for each label that a file may have, no two of them alike: `a/b` and `a-b` both come to `a-b`."""
    names: dict[str, str] = {}
    for label in labels:
        plain = label.replace("/", "-")
        numbered = (f"{plain}-{number}" for number in count(2))
        names[label] = next(name for name in chain([plain], numbered) if name not in names.values())
    return names


def write_figure(figure: Figure, out: Path, caption: Caption) -> Path:
    """Write the figure with its caption above, whole or not at all; no global matplotlib state is touched."""
    FigureCanvasAgg(figure)  # a canvas of our own
    entitle(figure, caption)
    out.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(out, lambda file: figure.savefig(file, dpi=150, format=out.suffix.removeprefix(".") or "png"))
    return out


def entitle(figure: Figure, caption: Caption) -> None:
    """Put the caption above the figure."""
    width = figure.get_figwidth()
    size = min(max(8.0, width), 11.0)  # points: a wide figure is shown smaller
    figure.suptitle(caption.wrapped(int(width * 132 / size)), x=0.01, ha="left", fontsize=size, color="0.25")


def legend_below(figure: Figure, axes: Axes) -> None:
    """Put the legend below the axes, in as many columns as the figure has room for."""
    handles, labels = axes.get_legend_handles_labels()
    longest = max((len(label) for label in labels), default=0)
    columns = int(figure.get_figwidth() * 12 / (longest + 8))
    figure.legend(
        handles, labels, loc="outside lower center", ncols=max(1, min(4, columns, len(labels))), frameon=False
    )
