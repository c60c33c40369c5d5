"""What goes to a terminal: tables in its width, and paths that can be pasted back."""

from __future__ import annotations

import shlex
from pathlib import Path

from rich.console import Console
from rich.measure import Measurement
from rich.table import Table

SHORTEST_NAME = 24  # letters that a name is folded to at the least, where a terminal is narrow


class Terminal(Console):
    """Standard output; that its reader, such as `head`, has seen enough is left to the command line to end on.

    Brackets and colons are what they are: names of runs and files hold them, and none of our texts is markup.
    """

    def __init__(self, *, width: int | None = None) -> None:
        super().__init__(width=width, markup=False, emoji=False, highlight=False)

    def on_broken_pipe(self) -> None:
        raise BrokenPipeError


def print_table(table: Table) -> None:
    """Print a table in the width of the terminal, or as wide as it is where that goes to a file or another program.

    Only columns with overflow `fold` give way, down to `SHORTEST_NAME` letters; a table that needs more than the
    terminal has is printed wider: nothing is cut.
    """
    console = Terminal()
    for column in table.columns:
        if column.overflow == "fold":
            longest = max((len(str(cell)) for cell in column.cells), default=0)
            column.min_width = min(SHORTEST_NAME, longest)
    extent = Measurement.get(console, console.options.update(max_width=10_000), table)
    width = extent.minimum if console.is_terminal else extent.maximum
    Terminal(width=max(console.width, width)).print(table)


def quoted(path: Path | str) -> str:
    """Return a path as a shell takes it."""
    return shlex.quote(str(path))
