"""What every number of a configuration must be: finite, and of a size that means something."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Collection, Iterator, Mapping
from typing import Any

LARGEST = 1e18  # a number of steps that a million GPUs will not take
LARGEST_SEED = 2**32 - 1  # of the generators of NumPy and of tasks
MOST_THREADS = 1024


def require_finite(config: Any, prefix: str = "", infinite: Collection[str] = ()) -> None:
    """Raise `ValueError` for a number in a dataclass, or in a tuple of it, that is not finite or beyond ±1e18.

    Args:
        config: the dataclass; those inside it see to themselves.
        prefix: of the names of its options, such as `agent.`.
        infinite: names of fields that may be infinite, though not NaN.
    """
    for field in dataclasses.fields(config):
        for number in _numbers(getattr(config, field.name)):
            if field.name in infinite and not math.isnan(number):
                continue
            if not -LARGEST <= number <= LARGEST:
                option = f"--{prefix}{field.name}".replace("_", "-")
                raise ValueError(f"{option} must be finite and within ±{LARGEST:g}, not {number}")


def require_between(config: Any, limits: Mapping[str, tuple[float, float]], prefix: str = "") -> None:
    """Raise `ValueError` for a field, unless it is None, that is not within its limits, both included."""
    for name, (least, most) in limits.items():
        value = getattr(config, name)
        if value is not None and not least <= value <= most:
            option = f"--{prefix}{name}".replace("_", "-")
            raise ValueError(f"{option} is {value}; it must be from {least:,} to {most:,}")


def _numbers(value: Any) -> Iterator[float]:
    if isinstance(value, int | float) and not isinstance(value, bool):
        yield value
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _numbers(item)
