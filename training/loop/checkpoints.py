"""Which checkpoint a run goes on from: the latest that is whole, or one that was asked for."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tqdm import tqdm

from surefoot.evaluation.policy_files import checkpoint_path, checkpoint_steps
from surefoot.evaluation.storage import DamagedError, load, remove_unused_blocks

KINDS = ("step", "policy")


class Found(NamedTuple):
    """A checkpoint that is whole."""

    path: Path
    state: dict[str, Any]
    damaged: list[Path]  # later ones


def find_checkpoints(folder: Path, from_step: int | None = None) -> list[Path]:
    """Return the checkpoints that a run can go on from, the latest first: all, or that of a step alone.

    Raises `FileNotFoundError` where there is none.
    """
    steps = checkpoint_steps(folder)
    if not steps:
        raise FileNotFoundError(f"{folder}: no checkpoint to resume from; start the run again under another --name")
    if from_step is None:
        return [checkpoint_path(folder, "step", step) for step in reversed(steps)]
    if from_step not in steps:
        there = ", ".join(map(str, steps))
        raise FileNotFoundError(f"{folder}: no checkpoint of step {from_step}; --from can be {there}")
    return [checkpoint_path(folder, "step", from_step)]


def latest_whole(paths: Sequence[Path]) -> Found:
    """Return the first checkpoint that can be read; say which ones before it are damaged.

    Raises `DamagedError` that names the first one where none is whole.
    """
    errors: list[tuple[Path, DamagedError]] = []
    for path in paths:
        try:
            state = load(path)
        except DamagedError as error:
            errors.append((path, error))
            continue
        for _, passed in errors:
            tqdm.write(f"note: {passed.what}; the run goes on from the checkpoint before, {path.name}")
        return Found(path, state, [damaged for damaged, _ in errors])
    if len(paths) < len(checkpoint_steps(paths[0].parents[1])):
        raise DamagedError(errors[0][1].what, "there are others: leave --from out")
    raise DamagedError(errors[0][1].what, "no checkpoint of the run is whole: use a copy, or train anew")


def set_later_aside(folder: Path, found: Found) -> None:
    """Delete the checkpoints later than that which a run goes on from; damaged ones are only renamed.

    What the run writes from now on belongs to the one that it goes on from, and the latest is what counts next time.
    """
    for path in found.damaged:
        path.replace(path.with_name(f"{path.name}.damaged"))
    for path in _later(folder, found.path):
        path.unlink()
    remove_unused_blocks(
        folder / "checkpoints", [checkpoint_path(folder, "step", at) for at in checkpoint_steps(folder)]
    )


def _later(folder: Path, than: Path) -> Iterator[Path]:
    step = int(than.stem.rpartition("-")[2])
    for kind in KINDS:
        yield from (checkpoint_path(folder, kind, at) for at in checkpoint_steps(folder, kind) if at > step)
