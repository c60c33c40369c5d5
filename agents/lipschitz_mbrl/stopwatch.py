"""How long the phases of an agent's step take."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor


class Stopwatch:
    """Seconds by phase of one agent step: CPU time, or on a GPU wall-clock time once its queue is empty."""

    def __init__(self, device: torch.device, phases: Iterable[str]) -> None:
        self.device, self.seconds = device, dict.fromkeys(phases, 0.0)

    @contextmanager
    def __call__(self, phase: str) -> Iterator[None]:
        began = self.now()
        yield
        self.seconds[phase] += self.now() - began

    def now(self) -> float:
        if self.device.type != "cuda":
            return time.process_time()
        torch.cuda.synchronize(self.device)
        return time.perf_counter()

    def per_thousand(self, steps: int) -> dict[str, Tensor]:
        """Return what the phases would take in 1000 environment steps like these; the logged mean is of all steps."""
        return {f"seconds/{phase}": torch.tensor(1000 * spent / steps) for phase, spent in self.seconds.items()}
