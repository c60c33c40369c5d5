"""What a checkpoint of a run with a large replay costs in steady state: CPU-seconds and bytes written.

    python benchmarks/checkpoints.py             # less than a minute

A replay of a million rows of HalfCheetah's size is full; between two checkpoints 50,000 rows come. `blocks` is how a
run saves; `whole` puts all rows into every file, as versions did that had no blocks. All that a run does at a
checkpoint is in it: taking the state, looking for NaN, writing, removing what is needed no more. Rounds alternate.
"""

from __future__ import annotations

import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch
import tyro
from record import record

from surefoot.agents.interface import Batch
from surefoot.agents.parts.replay import Replay
from surefoot.evaluation import storage
from surefoot.training.loop.finite import require_finite
from surefoot.training.runs.meters import Meter


@dataclass
class Options:
    """How much to measure."""

    rows: int = 1_000_000
    between: int = 50_000
    rounds: int = 5


def push(replay: Replay, count: int, generator: torch.Generator) -> None:
    numbers = [torch.randn(count, *shape, generator=generator) for shape in ((17,), (6,), (), (17,))]
    replay.push(Batch(*numbers, torch.zeros(count)))


class Checkpoints:
    """The two newest checkpoints of a run, in a folder of their own."""

    def __init__(self, folder: Path, *, in_blocks: bool) -> None:
        self.folder, self.in_blocks, self.kept = folder, in_blocks, list[Path]()
        folder.mkdir()

    def save(self, replay: Replay) -> dict[str, float]:
        """Save one more; return its CPU-seconds and the megabytes that came to the disk."""
        before, start = self._files(), time.process_time()
        state = {"agent": {"replay": replay.state_dict()}}
        require_finite(Meter(torch.device("cpu")), (), state, "at a checkpoint")
        self.kept.append(self.folder / f"step-{time.monotonic_ns()}.pt")
        storage.save(self.kept[-1], state, in_blocks=self.in_blocks)
        came = sum(size for path, size in self._files().items() if path not in before)
        for old in self.kept[:-2]:
            old.unlink()
        self.kept = self.kept[-2:]
        storage.remove_unused_blocks(self.folder, self.kept)
        return {"cpu_seconds": time.process_time() - start, "megabytes": came / 1e6}

    def load(self) -> float:
        """Return the CPU-seconds of loading the newest, its checksums compared."""
        start = time.process_time()
        storage.load(self.kept[-1])
        return time.process_time() - start

    def _files(self) -> dict[Path, int]:
        return {path: path.stat().st_size for path in self.folder.rglob("*") if path.is_file()}


def summary(rounds: list[dict[str, float]]) -> dict[str, Any]:
    seconds = [each["cpu_seconds"] for each in rounds]
    figures = {"cpu_seconds": median(seconds), "least": min(seconds), "most": max(seconds)}
    rounded = {name: round(value, 3) for name, value in figures.items()}
    return rounded | {"megabytes": round(median(each["megabytes"] for each in rounds), 1)}


def main(options: Options) -> None:
    began, generator = time.perf_counter(), torch.Generator().manual_seed(0)
    torch.set_num_threads(1)
    replay = Replay(options.rows, 17, 6, torch.Generator())
    push(replay, options.rows, generator)
    with tempfile.TemporaryDirectory() as folder:
        ways = {name: Checkpoints(Path(folder) / name, in_blocks=name == "blocks") for name in ("blocks", "whole")}
        rounds: dict[str, list[dict[str, float]]] = {name: [] for name in ways}
        for i in range(options.rounds + 1):
            push(replay, options.between, generator)
            for name, checkpoints in ways.items():
                figures = checkpoints.save(replay)
                if i:  # the first writes all blocks
                    rounds[name].append(figures)
        loading = {name: round(checkpoints.load(), 3) for name, checkpoints in ways.items()}
    figures = {name: summary(each) | {"loading": loading[name]} for name, each in rounds.items()}
    record("checkpoints", figures | {"rows": options.rows, "between": options.between}, began=began, seeds=[0])


if __name__ == "__main__":
    main(tyro.cli(Options))
