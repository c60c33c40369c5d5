"""`surefoot solve --models`: the best mean return in the worst of several known models of one task."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table

from surefoot.agents.iwocs.tables import RobustTable, prepare, solve_worst_case
from surefoot.evaluation.tables import TableFile, read_table


def solve_files(files: Sequence[Path], gamma: float | None) -> RobustTable:
    """Return the robust solution of the models in some files; without `gamma` with that of the files, which must agree.

    One table at a time is held whole.
    """
    if len(files) < 2:
        raise ValueError("--models needs at least two files; for one, name it without --models")
    first = _read(files[0], None)
    discount = first.gamma if gamma is None else gamma
    if discount is None:
        raise ValueError(f"{files[0]} has no discount of its own; add --gamma")
    wanted = discount if gamma is None else None
    others = (_read(file, wanted).mdp for file in files[1:])
    return solve_worst_case(prepare(chain([first.mdp], others), discount))


def _read(file: Path, discount: float | None) -> TableFile:
    """Return a model; `discount` is what it must name, if it must."""
    one = read_table(file)
    if one.horizon is not None:
        raise ValueError(f"{file}: it has a horizon; --models is for tasks without one, the same at every step")
    if discount is not None and one.gamma != discount:
        raise ValueError(f"{file} names the discount {one.gamma}, the first file {discount}; add --gamma")
    return one


def table(files: Sequence[Path], found: RobustTable) -> Table:
    """Return one row per model: what the robust policy gets there, and what the best policy for it alone gets."""
    shown = Table(title="mean return in every model", box=SIMPLE_HEAD)
    shown.add_column("model", overflow="fold")
    for name in ("robust policy", "optimum of the model", "policy of the hull"):
        shown.add_column(name, justify="right", no_wrap=True)
    for file, *figures in zip(files, found.values, found.optima, found.hull_values, strict=True):
        shown.add_row(str(file), *(f"{figure:.6f}" for figure in figures))
    return shown


def summary(files: Sequence[Path], found: RobustTable) -> list[str]:
    """Return what is certain, in lines."""
    worst, gap = files[int(found.values.argmin())], found.bound - found.lower
    how = (
        "certified: no policy has a better worst case"
        if found.status == "certified"
        else f"not certified, gap {gap:.3g}"
    )
    return [
        f"worst case: {found.lower:.6f}, in {worst}; no policy exceeds {found.bound:.6f}: {how}",
        f"the policy comes from {found.source}",
        f"IWOCS: {len(found.iwocs)} models solved; hull, where nature chooses anew at every step: {found.hull:.6f}",
    ]


def plain(files: Sequence[Path], found: RobustTable) -> dict[str, Any]:
    """Return the figures and the policy as plain values."""
    return {
        "models": [str(file) for file in files],
        "worst_case": found.lower,
        "bracket": [found.lower, found.bound],
        "status": found.status,
        "source": found.source,
        "values": found.values.tolist(),
        "optima": found.optima.tolist(),
        "hull": {"value": found.hull, "values": found.hull_values.tolist()},
        "iwocs": [
            {"model": turn.model, "upper": turn.upper, "lower": float(turn.values.min())} for turn in found.iwocs
        ],
        "policy": found.policy.tolist(),
    }
