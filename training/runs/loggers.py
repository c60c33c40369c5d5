"""Where rows of numbers go: CSV always, TensorBoard and Weights & Biases on request."""

from __future__ import annotations

import csv
import io
import itertools
import os
from collections.abc import Iterable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

from surefoot.evaluation.storage import explained, write_atomically
from surefoot.training.runs.folder import full_name

Row = Mapping[str, float | int | None]

METRIC_COLUMNS = (
    "step",
    "env_steps",
    "updates",
    "seconds",
    "steps_per_second",
    "episode_return",
    "episode_length",
    "episodes",
)
EVALUATION_COLUMNS = ("step", "env_steps", "updates", "episode", "episode_return", "length", "score")


class CsvLog:
    """A CSV file that grows by rows, and by columns when a new name appears.

    A row is appended and flushed; a new column rewrites the file atomically with the longer header. The state is the
    number of rows and the columns: loading it cuts the file back to them, so that a resumed run writes the same file.
    Rows that are missing by then are gone; what is there stays.
    """

    def __init__(self, path: Path, columns: Iterable[str]) -> None:
        self.path = path
        self.columns = list(columns)
        self.rows = 0

    def start(self) -> None:
        """Write the header of a new file."""
        self._rewrite([])

    def write(self, rows: list[Row]) -> None:
        """Append rows; an absent or None value is an empty cell."""
        new = list(dict.fromkeys(name for row in rows for name in row if name not in self.columns))
        if new:
            self.columns += new
            self._rewrite(self._read())
        with explained(self.path), self.path.open("a", newline="", encoding="utf-8") as file:
            self._writer(file).writerows(rows)
        self.rows += len(rows)

    def state_dict(self) -> dict[str, Any]:
        return {"columns": list(self.columns), "rows": self.rows}

    def load_state_dict(self, state: dict[str, Any]) -> int:
        """Drop rows and columns written after the state was taken; return how many rows the file has lost."""
        rows = self._read() if self.path.is_file() else []
        self.columns, self.rows = list(state["columns"]), min(len(rows), state["rows"])
        self._rewrite(rows[: self.rows])
        return int(state["rows"]) - self.rows

    def sync(self) -> None:
        """Force the rows so far to disk: a checkpoint that counts them comes after them."""
        with explained(self.path), self.path.open("ab") as file:
            os.fsync(file.fileno())

    def _read(self) -> list[dict[str, str]]:
        """Return the rows up to the first that is no row of this file: one that a crash has cut off or left empty."""
        lines = self.path.read_text(encoding="utf-8", errors="replace").split("\0", 1)[0].splitlines(keepends=True)
        whole = [line for line in lines if line.endswith("\n")]
        header, *rows = csv.reader(whole) if whole else [[]]
        good = itertools.takewhile(lambda row: len(row) == len(header), rows)
        return [dict(zip(header, row, strict=True)) for row in good]

    def _rewrite(self, rows: list[dict[str, str]]) -> None:
        text = io.StringIO(newline="")
        writer = self._writer(text)
        writer.writeheader()
        writer.writerows(rows)
        write_atomically(self.path, lambda file: file.write(text.getvalue().encode()))

    def _writer(self, file: Any) -> csv.DictWriter[str]:
        return csv.DictWriter(file, self.columns, restval="", extrasaction="ignore", lineterminator="\n")


class Logger(Protocol):
    """A sink for scalars in addition to the CSV files; `step` is in the unit of the run's budget."""

    def log(self, row: Row, step: int) -> None: ...
    def state_dict(self) -> dict[str, Any]: ...
    def close(self) -> None: ...


class TensorBoardLogger:
    """Event files in RUN/tensorboard."""

    def __init__(self, folder: Path, step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        # purge_step hides what a crashed run wrote after the checkpoint it is resumed from.
        self.writer = SummaryWriter(str(folder / "tensorboard"), purge_step=step + 1 if step else None)

    def log(self, row: Row, step: int) -> None:
        for name, value in row.items():
            if value is not None:
                self.writer.add_scalar(name, value, step)

    def state_dict(self) -> dict[str, Any]:
        return {}

    def close(self) -> None:
        self.writer.close()


class WandbLogger:
    """One Weights & Biases run; its id travels in the checkpoint so that a resumed run continues the same one.

    Rows carry the run's own step: off line a resumed part knows nothing of the part before and would count from 0.
    """

    def __init__(self, folder: Path, config: dict[str, Any], run_id: str | None) -> None:
        import wandb

        project = os.environ.get("WANDB_PROJECT", "surefoot")
        # Several seeds are logged side by side from one process.
        timeout = float(os.environ.get("WANDB_INIT_TIMEOUT", 30))
        settings = wandb.Settings(init_timeout=timeout, silent=True, reinit="create_new")
        try:
            self.run = wandb.init(
                project=project,
                name=full_name(folder),
                dir=str(folder),
                config=config,
                id=run_id,
                resume="allow" if run_id else None,
                settings=settings,
            )
        except (wandb.errors.Error, OSError) as error:
            reason = " ".join(str(error).split())
            raise ValueError(
                f"Weights & Biases did not start ({reason}); log in or get on line, "
                "or set WANDB_MODE=offline and upload later with `wandb sync`"
            ) from error
        self.run.define_metric("*", step_metric="step")

    def log(self, row: Row, step: int) -> None:
        self.run.log({name: value for name, value in row.items() if value is not None} | {"step": step}, step=step)

    def state_dict(self) -> dict[str, Any]:
        return {"id": self.run.id}

    def close(self) -> None:
        self.run.finish()


def require_installed(names: Iterable[str]) -> None:
    """Raise `ImportError` naming the extra of a logger whose package is missing."""
    for name in names:
        if find_spec(name) is None:
            raise ImportError(f'the {name} logger needs the package {name}: pip install "surefoot[{name}]"')


def make_loggers(
    names: Iterable[str],
    folder: Path,
    config: dict[str, Any],
    step: int = 0,
    states: Mapping[str, Any] | None = None,
) -> dict[str, Logger]:
    """Return the configured loggers, by name; `step` and `states` come from the checkpoint of a resumed run."""
    loggers: dict[str, Logger] = {}
    for name in names:
        if name == "wandb":
            loggers[name] = WandbLogger(folder, config, (states or {}).get(name, {}).get("id"))
        else:
            loggers[name] = TensorBoardLogger(folder, step)
    return loggers
