"""Normal numbers for N replicates: those of replicate i do not depend on how many replicates there are.

docs/derivations/dynlin.md §5.1.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


class ReplicateNoise:
    """A counter-based stream per replicate: the numbers of a step are a function of (key, replicate, step) alone.

    Drawn in blocks by NumPy's Philox on the CPU, also for a GPU, so that both see the same noise. What has to be saved
    is the key and the position.
    """

    def __init__(self, key: int, replicates: int, width: int, device: torch.device, block: int = 256) -> None:
        self.key, self.replicates, self.width, self.device, self.block = key, replicates, width, device, block
        self.position = 0
        self._numbers = torch.empty(0)

    def next(self) -> Tensor:
        """Return the normal numbers (width, N) of the next step, float64."""
        offset = self.position % self.block
        if offset == 0 or not len(self._numbers):
            self._numbers = self._draw(self.position // self.block)
        self.position += 1
        return self._numbers[offset]

    def _draw(self, block: int) -> Tensor:
        numbers = np.empty((self.replicates, self.block, self.width))
        philox = np.random.Philox(key=[self.key, 0])
        generator, state = np.random.Generator(philox), philox.state
        for replicate in range(self.replicates):
            state["state"]["key"][:] = self.key, replicate
            # A block starts 2**192 numbers after the one before it: they never overlap.
            state["state"]["counter"][:] = 0, 0, 0, block
            philox.state = state  # a fifth of the time that making a new one takes
            generator.standard_normal(out=numbers[replicate])
        return torch.from_numpy(numbers).permute(1, 2, 0).contiguous().to(self.device)
