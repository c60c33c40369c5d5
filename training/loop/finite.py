"""What an agent learned must be finite: looked at with every row, evaluation and checkpoint, before it is written."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from surefoot.envs import TaskError
from surefoot.training.runs.meters import Meter


class DivergedError(ValueError):
    """A loss, another metric or a parameter is no longer a finite number."""


class SeedsFailedError(ValueError):
    """Some seeds of a run diverged, or their task did; the others were carried through."""


NOT_FINITE = (DivergedError, TaskError, SeedsFailedError)  # what the same seed would lead to again


def require_finite(meter: Meter, unbounded: tuple[str, ...], state: dict[str, Any], when: str) -> None:
    """Raise `DivergedError` where a running mean is not finite, or a tensor of a `state_dict` holds NaN.

    Infinity is a value of `unbounded` metrics, and allowed in a state: it stands for "none yet", or "no bound".
    """
    wrong = [*meter.not_finite(unbounded), *_with_nan(state)]
    if wrong:
        further = f" and {len(wrong) - 1} more" if len(wrong) > 1 else ""
        raise DivergedError(f"{wrong[0]}{further} not finite {when}: training has diverged")


def _with_nan(state: dict[str, Any]) -> list[str]:
    """Return the names of the tensors that hold NaN, after one transfer from each device."""
    tensors = {name: value for name, value in _tensors(state, "") if value.is_floating_point() and value.numel()}
    if not tensors:
        return []
    by_device: dict[torch.device, list[str]] = {}
    for name, value in tensors.items():
        by_device.setdefault(value.device, []).append(name)
    return [name for names in by_device.values() for name in _of_one_device(names, tensors)]


def _of_one_device(names: list[str], tensors: dict[str, Tensor]) -> list[str]:
    # A sum without NaN has none in it, and takes a fifth of the time and no memory; one with NaN may be of ±infinity.
    doubtful = torch.stack([tensors[name].sum().isnan() for name in names]).tolist()
    return [name for name, maybe in zip(names, doubtful, strict=True) if maybe and bool(tensors[name].isnan().any())]


def _tensors(value: Any, name: str) -> Iterator[tuple[str, Tensor]]:
    if isinstance(value, Tensor):
        yield name, value
    elif isinstance(value, dict | list | tuple):
        for key, item in value.items() if isinstance(value, dict) else enumerate(value):
            yield from _tensors(item, f"{name}.{key}" if name else str(key))
