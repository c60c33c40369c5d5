"""Parameters of a set in a MuJoCo model that has others fixed: these first, then the set's on what comes of them."""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy

import mujoco
import numpy as np
import torch
from torch import Tensor

from surefoot.envs.model_parameters import ModelParameters, Slot


class FixedFirst:
    """Values (d,) of a set and then fixed ones, (D,) together; `count` of the names are the set's.

    The fixed ones are written as without a set, constants derived anew, so that at the set's nominal values the model
    is what it is without the set. The set's own switches are for its own parameters. Fixed ones change within an
    episode only where they have an onset, and then between two vectors: for each the model with them is kept.

    Raises:
        ValueError: as `ModelParameters`.
    """

    def __init__(
        self,
        model: mujoco.MjModel,
        names: Sequence[str],
        nominal: Sequence[float | None],
        count: int,
        *,
        scale_inertia: bool = False,
        recompute_constants: bool = False,
    ):
        self.count, self._names, self._own = count, list(names[:count]), list(nominal[:count])
        self._switches = {"scale_inertia": scale_inertia, "recompute_constants": recompute_constants}
        self._compiled = copy(model)
        self._fixed = ModelParameters(model, names[count:], nominal[count:], recompute_constants=True)
        self._kept: dict[bytes, ModelParameters] = {}
        self._usual = self._over(self._fixed.nominal)
        compiled = ModelParameters(model, self._names, [0.0] * count).neutral  # any nominal will do: none is asked for
        self.neutral = np.append(compiled, self._fixed.neutral)
        self.nominal = np.append(self._usual.nominal, self._fixed.nominal)

    def _over(self, fixed: np.ndarray) -> ModelParameters:
        """Return the parameters of the set in the model that has the others fixed at these values."""
        key = fixed.tobytes()
        if key not in self._kept:
            model = copy(self._compiled)
            self._fixed.write(model, fixed)
            held = self._fixed.changes
            self._kept[key] = ModelParameters(model, self._names, self._own, held=held, **self._switches)
        return self._kept[key]

    @property
    def changes(self) -> tuple[str, ...]:
        """As of `ModelParameters`."""
        return self._usual.changes

    @property
    def derives_masses(self) -> bool:
        """Whether a write may leave other masses of sub-trees than were compiled."""
        return self._usual.derives_masses or self._fixed.changes_masses

    @property
    def forces(self) -> list[tuple[int, Slot]]:
        """The external forces, with their places in the vector."""
        return [*((self.count + k, slot) for k, slot in self._fixed.forces), *self._usual.forces]

    @property
    def is_arithmetic(self) -> bool:
        """As of `ModelParameters`, the fixed ones as they are."""
        return self._usual.is_arithmetic

    def write(self, model: mujoco.MjModel, values: np.ndarray) -> None:
        """Write the values (D,) into the model, before a reset or in the middle of an episode."""
        self._over(values[self.count :]).write(model, values[: self.count])

    def push(self, data: mujoco.MjData, values: np.ndarray) -> None:
        """Write the external forces, after a reset, which clears them."""
        self._fixed.push(data, values[self.count :])
        self._usual.push(data, values[: self.count])

    def stock(self, device: torch.device) -> dict[str, Tensor]:
        """Return the arrays that a write changes as they are with the fixed parameters, float64."""
        return self._usual.stock(device)

    def arrays(self, stock: dict[str, Tensor], values: Tensor) -> dict[str, Tensor]:
        """As of `ModelParameters`, for values (N, D) of which the fixed ones are the same in all rows."""
        return self._usual.arrays(stock, values[:, : self.count])
