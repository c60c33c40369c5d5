"""What all figures share: the style of a method, and how a figure is written."""

from __future__ import annotations

from pathlib import Path
from zlib import crc32

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from surefoot.configs.casting import read_yaml
from surefoot.evaluation.storage import write_atomically

# Okabe and Ito's colours, safe for colour-blind readers; an agent keeps its colour and dash in every picture.
AGENT_STYLE: dict[str, tuple[str, str]] = {
    "h2o": ("#0072B2", "-"),
    "sac": ("#E69F00", "-"),
    "bc": ("#000000", "-"),
    "sac-mix": ("#56B4E9", "-"),
    "cql": ("#009E73", "-"),
    "darc": ("#CC79A7", "-"),
    "darc-plus": ("#D55E00", "-"),
    "hnpg": ("#0072B2", "--"),
    "trpo": ("#D55E00", "--"),
    "rlpd": ("#009E73", "--"),
    "dynlin-ucb": ("#0072B2", "-"),
    "iwocs": ("#D55E00", ":"),
    "dr-sac": ("#0072B2", "-."),
    "nora": ("#CC79A7", "--"),
    "linucb": ("#E69F00", "-"),
    "linucb-paper": ("#E69F00", "--"),
    "linucb-log": ("#E69F00", ":"),
    "d-linucb": ("#CC79A7", "-"),
    "d-linucb-paper": ("#CC79A7", "--"),
    "d-linucb-log": ("#CC79A7", ":"),
    "exp3": ("#56B4E9", "-"),
    "batch-exp3": ("#009E73", "-"),
    "batch-exp3-paper": ("#009E73", "--"),
    "ar2": ("#D55E00", "-"),
    "expert": ("#7F7F7F", "-"),
    "clairvoyant": ("#000000", "-"),
    "uniform": ("#7F7F7F", ":"),
    "dhn": ("#CC79A7", ":"),
    "qr-dqn": ("#7F7F7F", "-."),
    "nora-deep": ("#0072B2", ":"),
    "mbpo": ("#000000", "--"),
    "sb3-sac": ("#E69F00", "--"),
    "sb3-td3": ("#7F7F7F", "--"),
    "sb3-ppo": ("#7F7F7F", ":"),
}


ARM_STYLE: dict[str, tuple[str, str]] = {  # of the arms of one agent: what is compared are they
    "pe": ("#000000", "-"),
    "de": ("#7F7F7F", "--"),
    "sp": ("#E69F00", "--"),
    "sd": ("#D55E00", "-"),
    "rr": ("#0072B2", "-"),
    "sn": ("#009E73", "-"),
}


def agent_style(agent: str) -> tuple[str, str]:
    """Return the colour and dash of an agent; an agent outside the table gets a fixed one by its name."""
    return AGENT_STYLE.get(agent) or (list(AGENT_STYLE.values())[crc32(agent.encode()) % 7][0], "-.")


def agent_of(folder: Path) -> str:
    return read_yaml(folder / "config.yaml")["agent_name"]


def style_of(folder: Path) -> tuple[str, str]:
    """Return the colour and dash of a run: its arm's, where its agent has arms."""
    arm = (read_yaml(folder / "config.yaml").get("agent") or {}).get("arm")
    return ARM_STYLE[arm] if arm in ARM_STYLE else agent_style(agent_of(folder))


def write_figure(figure: Figure, out: Path) -> Path:
    """Write the picture whole or not at all; the canvas is our own, so no global matplotlib state is touched."""
    FigureCanvasAgg(figure)
    out.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(out, lambda file: figure.savefig(file, dpi=150, format=out.suffix.removeprefix(".") or "png"))
    return out


def legend_below(figure: Figure, axes: Axes) -> None:
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=min(4, max(1, len(labels))), frameon=False)
