"""What all figures share: the style of a method, and how a figure is written."""

from __future__ import annotations

from pathlib import Path
from zlib import crc32

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from surefoot import agents
from surefoot.agents.interface import Style
from surefoot.configs.casting import read_yaml
from surefoot.evaluation.storage import write_atomically

# Okabe and Ito's colours; an agent keeps the colour and dash of its `AgentSpec` in every figure.
PALETTE = ("#0072B2", "#E69F00", "#000000", "#56B4E9", "#009E73", "#CC79A7", "#D55E00")
DASHES = ("-", "--", ":", "-.")


def agent_style(agent: str) -> Style:
    """Return the style of an agent; one that has none, or is not registered, gets a fixed one by its name."""
    style = agents.get(agent).style if agent in agents.REGISTRY else None
    return style or Style(PALETTE[crc32(agent.encode()) % len(PALETTE)], "-.")


def turn_style(turn: int) -> Style:
    """Return the style of the turn-th of several curves of the same agent."""
    return Style(PALETTE[turn % len(PALETTE)], DASHES[turn // len(PALETTE) % len(DASHES)])


def agent_of(folder: Path) -> str:
    """Return which agent made a run."""
    name: str = read_yaml(folder / "config.yaml")["agent_name"]
    return name


def style_of(folder: Path) -> Style:
    """Return the style of a run: that of its variant, where its agent has variants, else of its agent."""
    agent = agent_of(folder)
    settings = read_yaml(folder / "config.yaml").get("agent") or {}
    style = agents.get(agent).style_of(settings) if agent in agents.REGISTRY else None
    return style or agent_style(agent)


def write_figure(figure: Figure, out: Path) -> Path:
    """Write the figure whole or not at all; the canvas is our own, so no global matplotlib state is touched."""
    FigureCanvasAgg(figure)
    out.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(out, lambda file: figure.savefig(file, dpi=150, format=out.suffix.removeprefix(".") or "png"))
    return out


def legend_below(figure: Figure, axes: Axes) -> None:
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=min(4, max(1, len(labels))), frameon=False)
