"""A policy in every environment of an uncertainty set: worst case, average, the whole table of returns."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple
from zlib import crc32

import numpy as np
import torch
from torch import Tensor

from surefoot.configs.casting import is_yaml, read_yaml
from surefoot.envs import BatchedPerturbedEnvs, EnvConfig, UncertaintySet, find_set, indistinct, set_from_mapping
from surefoot.envs.uncertainty.probe import inert
from surefoot.evaluation.storage import write_atomically

EPISODES = 10  # per point and seed: IWOCS does not say how many; M2TD3 takes 30
Record = dict[str, Any]


class GridResult(NamedTuple):
    """The outcome of E episodes at each of the P points of a grid.

    Every point has the same E reset seeds, and in Gymnasium tasks so the same starts. Tasks that are written as one
    batched tensor program draw the starts of a wave of environments from one generator: there points differ in them.
    """

    uncertainty: UncertaintySet
    axes: list[np.ndarray]  # the grid values of each of the d parameters
    points: np.ndarray  # (P, d), the last parameter changing fastest
    returns: np.ndarray  # (P, E) float64, undiscounted
    lengths: np.ndarray  # (P, E) int64, steps
    broken: np.ndarray  # (P, E) bool, the physics diverged: the return up to there
    nominal: np.ndarray  # (d,)
    nominal_returns: np.ndarray  # (E,)
    fresh_returns: np.ndarray  # (E,), at the worst point, from seeds that did not choose it
    indistinct: dict[str, list[tuple[float, float]]]  # ranges of grid values within which a parameter changes nothing

    @property
    def mean(self) -> np.ndarray:
        """The mean return of every point (P,)."""
        means: np.ndarray = self.returns.mean(1)
        return means

    @property
    def worst(self) -> int:
        """The first point whose mean return is lowest."""
        return int(self.mean.argmin())


def load_set(name: str) -> UncertaintySet:
    """Return a published uncertainty set, or that of a YAML file.

    Raises:
        ValueError: no such set, or a file that does not describe one.
        FileNotFoundError: no such file.
    """
    return set_from_mapping(read_yaml(Path(name)), name) if is_yaml(name) else find_set(name)


def code_of(uncertainty: UncertaintySet) -> str:
    """Return eight digits of all that a set is but its name, by which sets of one name are told apart."""
    content = {name: value for name, value in asdict(uncertainty).items() if name != "name"}
    return f"{crc32(json.dumps(content, sort_keys=True).encode()):08x}"


def evaluate_static(
    act: Callable[[Tensor], Tensor],
    task: EnvConfig,
    uncertainty: UncertaintySet,
    *,
    n: int = 10,
    closed: bool = False,
    episodes: int = EPISODES,
    seeds: Sequence[int] = (10_000,),
    device: torch.device | str = "cpu",
) -> GridResult:
    """Return what `act` gets at every grid point, with the parameters fixed for whole episodes (the static model).

    Episode i of a seed starts from reset seed `seed + i` at every point, but for tasks that are one batched tensor
    program (`GridResult`). The minimum over many noisy means is biased low: the worst point is therefore measured again
    from fresh seeds. `task.num_envs` episodes run side by side.

    Raises:
        ValueError: as `play`; fewer than one episode.
    """
    if episodes < 1:
        raise ValueError(f"episodes is {episodes}; an evaluation needs at least 1")
    axes, points = uncertainty.axes(n, closed=closed), uncertainty.grid(n, closed=closed)
    envs = BatchedPerturbedEnvs(task, uncertainty, device=device, num_envs=task.num_envs)
    starts = [seed + i for seed in seeds for i in range(episodes)]
    returns, lengths, broken, _ = envs.play(act, np.concatenate([points, envs.nominal[None]]), starts)
    worst = points[returns[:-1].mean(1).argmin()]
    fresh = envs.play(act, worst[None], [max(starts) + 1 + i for i in range(len(starts))]).returns
    same = indistinct(task, uncertainty, axes)
    return GridResult(
        uncertainty, axes, points, returns[:-1], lengths[:-1], broken[:-1], envs.nominal, returns[-1], fresh[0], same
    )


def worlds(uncertainty: UncertaintySet, count: int, seed: int) -> np.ndarray:
    """Return `count` points (count, d) that stand for a set where a whole grid would cost too much.

    They are the largest closed grid that fits, which has all corners, and then points drawn uniformly from the seed;
    where not even the corners fit, all are drawn.
    """
    dims = len(uncertainty.parameters)
    n = int(count ** (1 / dims) + 1e-9)  # 64 ** (1/3) is just below 4
    grid = uncertainty.grid(n, closed=True) if n >= 2 else np.empty((0, dims))
    unit = np.random.default_rng(seed).random((count - len(grid), dims))
    return np.concatenate([grid, uncertainty.low + unit * (uncertainty.high - uncertainty.low)])


def worst_case(
    act: Callable[[Tensor], Tensor], envs: BatchedPerturbedEnvs, points: np.ndarray, seeds: Sequence[int]
) -> tuple[float, np.ndarray]:
    """Return the lowest mean return at the points (P, d), an episode from each reset seed, and the first such point."""
    means = envs.play(act, points, seeds).returns.mean(1)
    return float(means.min()), points[means.argmin()]


# --- as plain values --------------------------------------------------------------------------------------------------


def plain(result: GridResult) -> Record:
    """Return everything as plain values, for JSON."""
    names, mean = result.uncertainty.param_names, result.mean

    def at(values: np.ndarray) -> Record:
        return dict(zip(names, values.tolist(), strict=True))

    rows = zip(result.points, mean, result.returns, result.lengths, result.broken, strict=True)
    return {
        "worst": {
            "mean": float(mean.min()),
            "at": at(result.points[result.worst]),
            "points": int((mean == mean.min()).sum()),
            "fresh_seeds": float(result.fresh_returns.mean()),
        },
        "average": float(mean.mean()),
        "nominal": {"mean": float(result.nominal_returns.mean()), "at": at(result.nominal)},
        "without_effect": inert(result.uncertainty, result.axes, result.indistinct),
        "same_physics": {name: [list(span) for span in spans] for name, spans in result.indistinct.items()},
        "diverged": int(result.broken.sum()),
        "axes": {name: axis.tolist() for name, axis in zip(names, result.axes, strict=True)},
        "table": [
            {"at": at(p), "mean": float(m), "returns": r.tolist(), "lengths": ls.tolist(), "diverged": int(b.sum())}
            for p, m, r, ls, b in rows
        ],
    }


def write_csv(out: Path, result: GridResult) -> None:
    """Write one row per point: its parameters, statistics of the returns, mean length, episodes that diverged."""
    text = io.StringIO(newline="")
    rows = csv.writer(text)
    rows.writerow([*result.uncertainty.param_names, "mean", "std", "min", "max", "length", "diverged"])
    for i, point in enumerate(result.points):
        returns = result.returns[i]
        statistics = [returns.mean(), returns.std(), returns.min(), returns.max(), result.lengths[i].mean()]
        rows.writerow([*map(float, [*point, *statistics]), int(result.broken[i].sum())])
    out.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(out, lambda file: file.write(text.getvalue().encode()))


# --- for people -------------------------------------------------------------------------------------------------------


def remarks(result: GridResult) -> list[str]:
    """Return what a reader of the figures must know: parameters without effect, ranges of equal effect, divergence."""
    idle = inert(result.uncertainty, result.axes, result.indistinct)
    lines = [f"{name} has no effect: every value gives the same motion" for name in idle]
    for name, spans in result.indistinct.items():
        if name not in idle:
            ranges = ", ".join(f"{low:.4g} to {high:.4g}" for low, high in spans)
            lines.append(f"{name}: the same motion from {ranges}")
    if result.broken.any():
        points = int(result.broken.any(1).sum())
        lines.append(f"the physics diverged at {points} points; those episodes count up to there")
    return lines
