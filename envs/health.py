"""When the robots of Gymnasium's MuJoCo tasks are healthy, as their code has it: one place for all who ask on tensors.

The tasks on tensors ask it of the simulator's state, model-based agents of observations that they predict.
"""

from __future__ import annotations

from torch import Tensor

Range = tuple[float, float]
LARGEST_TILT = 0.2  # rad, of the inverted pendulum


def within(values: Tensor, low: float, high: float) -> Tensor:
    """Return which values are strictly between two bounds; NaN is not."""
    return (low < values) & (values < high)


def upright(height: Tensor, angle: Tensor, heights: Range, angles: Range) -> Tensor:
    """Return which torsos (N,) are strictly between two heights in m and two angles in rad: Hopper, Walker2d."""
    return within(height, *heights) & within(angle, *angles)


def standing(state: Tensor, height: Tensor, heights: Range) -> Tensor:
    """Return which states (N, …) are finite with a height (N,) between two bounds, both included: Ant."""
    return state.isfinite().all(-1) & (height >= heights[0]) & (height <= heights[1])


def balanced(state: Tensor, angle: Tensor) -> Tensor:
    """Return which states (N, …) are finite with an angle (N,) of at most 0.2 rad: InvertedPendulum."""
    return state.isfinite().all(-1) & (angle.abs() <= LARGEST_TILT)
