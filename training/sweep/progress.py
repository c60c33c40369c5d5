"""How far a sweep is."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from surefoot.training.runs.folder import last_step, seed_folders


class SweepProgress(NamedTuple):
    """How many runs of a sweep are where, and how much of all their steps is done."""

    done: int
    running: int
    failed: int
    total: int
    work: float  # runs, those under way by their fraction of steps

    def line(self, seconds: float, work_before: float) -> str:
        """Return the status line, `seconds` after this session began with `work_before` done."""
        text = f"{self.done} of {self.total} runs done, {self.running} running, {self.failed} failed"
        gained, left = self.work - work_before, self.total - self.failed - self.work
        return f"{text}, about {_duration(seconds / gained * left)} left" if gained > 0 and left > 0 else text


def _duration(seconds: float) -> str:
    minutes = round(seconds / 60)
    if minutes < 1:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 120 else f"{minutes / 60:.0f} h"


def fraction_done(run: Path, steps: int, num_seeds: int = 1) -> float:
    """Return which part of its budget a run under way has spent, by the last whole rows of its seeds' metrics.csv."""
    return sum(min(1.0, last_step(folder) / steps) for folder in seed_folders(run)) / num_seeds
