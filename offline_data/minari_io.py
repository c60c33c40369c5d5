"""Minari data sets, read and written through Minari's own API (extra `minari`).

Minari's MuJoCo sets are new recordings in Gymnasium's v5 tasks, not conversions of D4RL's files: D4RL's reference
scores do not belong to them (docs/derivations/h2o.md §8.8). Files hold T + 1 observations per episode, so a successor
never comes from another episode.
"""

from __future__ import annotations

import json
import os
import re
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

import gymnasium as gym
import numpy as np

from surefoot.offline_data.d4rl import open_hdf5
from surefoot.offline_data.files import require_space, temporary_folder
from surefoot.offline_data.hdf5_files import MOST_TIMES
from surefoot.offline_data.transitions import ROUNDING, Transitions, are_numbers

ID = re.compile(r"([-\w]+/)*[-\w]+-v\d+", re.ASCII)
Format = Literal["hdf5", "arrow", "parquet"]


def read_minari(source: str | Path | Any) -> Transitions:
    """Return the transitions of a Minari data set: its id in the local store, its folder, or a `MinariDataset`.

    Actions recorded in other bounds than [-1, 1] are scaled into them by the set's own action space.
    """
    dataset = open_minari(source) if isinstance(source, str | Path) else source
    name = dataset.spec.dataset_id
    arrays = read_minari_arrays(dataset)
    return Transitions.from_arrays(
        obs=arrays["observations"],
        action=unit_actions(arrays["actions"], dataset.action_space),
        reward=arrays["rewards"],
        next_obs=arrays["next_observations"],
        terminated=arrays["terminals"],
        truncated=arrays["timeouts"],
        episode_end=arrays["episode_ends"],
        source=f"minari:{name}",
    )


def read_minari_arrays(dataset: Any) -> dict[str, np.ndarray]:
    """Return the rows of a `MinariDataset` as stored, under D4RL's names, with `episode_ends` added.

    `ValueError` where its spaces are not rows of numbers.
    """
    _check_spaces(dataset, dataset.spec.dataset_id)
    columns: dict[str, list[np.ndarray]] = {}
    for episode in _episodes(dataset):
        steps = len(episode.rewards)
        if len(episode.observations) != steps + 1 or len(episode.actions) != steps:
            raise ValueError(
                f"{dataset.spec.dataset_id}: episode {episode.id} has {len(episode.observations)} observations and "
                f"{len(episode.actions)} actions for {steps} rewards; expected one observation more than rewards"
            )
        rows = {
            "observations": episode.observations[:-1],
            "next_observations": episode.observations[1:],
            "actions": episode.actions,
            "rewards": episode.rewards,
            "terminals": episode.terminations,
            "timeouts": episode.truncations,
            "episode_ends": np.arange(1, steps + 1) == steps,
        }
        for name, values in rows.items():
            columns.setdefault(name, []).append(np.asarray(values))
    if not columns:
        raise ValueError(f"{dataset.spec.dataset_id}: no episodes in it")
    return {name: np.concatenate(parts) for name, parts in columns.items()}


def _episodes(dataset: Any) -> Iterator[Any]:
    episodes = iter(dataset.iterate_episodes())
    while True:
        with _one_line_errors(dataset.spec.dataset_id):
            episode = next(episodes, None)
        if episode is None:
            return
        yield episode


def write_minari(
    dataset_id: str,
    transitions: Transitions,
    metadata: Mapping[str, str] | None = None,
    *,
    action_space: gym.spaces.Discrete | None = None,
    data_format: Format = "hdf5",
    force: bool = False,
) -> Path:
    """Write a Minari data set to the local store and return its folder.

    Spaces are Box float32, actions in [-1, 1] and clipped to it where rounding left it. Numbers of actions, one column
    of whole numbers from 0 on, are written in `action_space`, by default the Discrete space that ends with the largest
    of them. `metadata` may hold Minari's text entries: description, algorithm_name, author, author_email,
    code_permalink.

    Raises `ValueError` for other actions. Minari keeps T + 1 observations per episode, so inside one every `next_obs`
    must be the next row's `obs`; otherwise `ValueError` names where it is not.
    """
    minari = _minari()
    require_id(dataset_id, force=force)
    folder = store() / dataset_id
    data = transitions.to("cpu")
    space, actions = _in_space(data, action_space)
    store().mkdir(parents=True, exist_ok=True)
    require_space(store(), 4 * data.obs.numel() + 4 * data.action.numel() + 10 * len(data))  # it writes plain arrays
    episodes = [_buffer(data, actions, rows) for rows in episode_slices(data)]
    with _temporary_store(folder) as made, warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*is set to None.*|env_spec is None.*", category=UserWarning)
        minari.create_dataset_from_buffers(
            dataset_id=dataset_id,
            buffer=episodes,
            observation_space=gym.spaces.Box(-np.inf, np.inf, data.obs.shape[1:], np.float32),
            action_space=space,
            data_format=data_format,
            **(metadata or {}),
        )
        _replace_folder(made / dataset_id, folder)
    return folder


def _in_space(data: Transitions, space: gym.spaces.Discrete | None) -> tuple[gym.spaces.Space[Any], np.ndarray]:
    """Return the space of actions to write, and the actions in it: (N,) int64 numbers, or (N, act) float32."""
    actions = data.action.numpy()
    if space is None and are_numbers(actions) and actions.any():  # zeros alone may be of either kind
        space = gym.spaces.Discrete(int(actions.max()) + 1)
    if space is not None:
        first, last = int(space.start), int(space.start + space.n) - 1
        if not are_numbers(actions - first) or actions.max() > last:
            raise ValueError(f"{data.source}: actions are not all among the numbers {first} to {last} of {space}")
        return space, actions[:, 0].astype(np.int64)
    if (largest := float(np.abs(actions).max())) > 1 + ROUNDING:
        raise ValueError(
            f"{data.source}: actions reach {largest:g}; only numbers of actions and continuous ones in [-1, 1] can be "
            "written as a Minari set, choose a .hdf5 file for others"
        )
    return gym.spaces.Box(-1.0, 1.0, actions.shape[1:], np.float32), actions.clip(-1, 1)


def require_id(dataset_id: str, *, force: bool = False) -> None:
    """Raise unless a data set of this id can be written to the local store: `ValueError`, `FileExistsError`."""
    if not ID.fullmatch(dataset_id):
        raise ValueError(
            f"{dataset_id!r} is no id of Minari: it is [NAMESPACE/]NAME-vVERSION, such as pendulum/mine-v0"
        )
    folder = store() / dataset_id
    if folder.exists() and not force:
        raise FileExistsError(f"{folder} exists already; choose another id or pass --force to replace it")


def episode_slices(data: Transitions) -> list[slice]:
    """Return one slice of rows per episode; `ValueError` where a successor is not the next observation inside one."""
    broken = data.breaks()
    if broken.any():
        raise ValueError(
            f"{data.source}: in {int(broken.sum())} rows inside an episode next_obs is not the next row's obs "
            f"(first in row {int(broken.int().argmax())}); Minari stores each observation once and cannot hold that"
        )
    ends = data.episode_end.nonzero()[:, 0].add(1).tolist()
    return [slice(start, stop) for start, stop in zip([0, *ends[:-1]], ends, strict=True)]


def reference_scores(dataset: Any) -> tuple[float, float] | None:
    """Return the set's own reference returns (random, expert), or None where it has none."""
    metadata = dataset.storage.metadata
    low, high = metadata.get("ref_min_score"), metadata.get("ref_max_score")
    with _one_line_errors(dataset.spec.dataset_id):
        return None if low is None or high is None else (float(low), float(high))


def minari_metadata(source: str | Path) -> dict[str, str]:
    """Return the set's text entries that are not about storage: id, description, author, reference scores …"""
    storage = {"observation_space", "action_space", "data_format", "total_episodes", "total_steps", "dataset_size"}
    metadata = _read_metadata(_data_folder(source))
    kept = {name: value for name, value in metadata.items() if name not in storage | {"jpeg_encoding"}}
    return {name: value if isinstance(value, str) else json.dumps(value) for name, value in kept.items()}


def open_minari(source: str | Path) -> Any:
    """Return the `MinariDataset` of a local id or a folder; `FileNotFoundError` lists the ids in the local store."""
    minari = _minari()
    data = _data_folder(source)
    if not (data / "metadata.json").is_file():
        known = ", ".join(local_ids()) or "none"
        raise FileNotFoundError(
            f"no Minari data set {str(source)!r} in {store()}; there are: {known}; fetch one with `minari download ID`"
        )
    metadata = _read_metadata(data)
    if not {"observation_space", "action_space"} <= set(metadata):
        # Minari would import and build the environment named in the file to learn the spaces: that runs code.
        raise ValueError(f"{data}: metadata.json does not state observation_space and action_space; not opened")
    _require_within(data, metadata)
    with _one_line_errors(data):
        return minari.MinariDataset(data)


def _read_metadata(data: Path) -> dict[str, Any]:
    path = data / "metadata.json"
    try:
        metadata = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(
            f"{path}: not the description of a Minari data set ({' '.join(str(error).split())})"
        ) from error
    if not isinstance(metadata, dict):
        raise ValueError(f"{path}: not the description of a Minari data set")
    return metadata


def _require_within(data: Path, metadata: Mapping[str, Any]) -> None:
    """Raise `ValueError` where a data set leads out of its folder, or claims more than is in it."""
    files = [path for path in data.rglob("*") if path.is_file()]
    if outside := [path for path in files if not path.resolve().is_relative_to(data.resolve())]:
        raise ValueError(f"{outside[0]}: refused: it leads out of the data set")
    size = sum(path.stat().st_size for path in files)
    for name in ("total_episodes", "total_steps"):
        if not (isinstance(metadata.get(name), int) and 0 <= metadata[name] <= MOST_TIMES * size):
            raise ValueError(f"{data}: {name} is {str(metadata.get(name))[:40]}, in {size:,} bytes: damaged")
    for path in files:
        if path.suffix in (".hdf5", ".h5"):
            open_hdf5(path).close()


@contextmanager
def _one_line_errors(name: object) -> Iterator[None]:
    """Say which data set is damaged: Minari raises whatever its parts do, assertions and missing keys among them."""
    try:
        yield
    except (FileNotFoundError, ImportError, MemoryError):
        raise
    except Exception as error:
        reason = " ".join(f"{type(error).__name__} {error}".split())[:200]
        raise ValueError(f"{name}: a damaged Minari data set, or not one that can be read ({reason})") from error


def _data_folder(source: str | Path) -> Path:
    folder = Path(source) if Path(source).is_dir() else store() / source
    return folder / "data" if (folder / "data").is_dir() else folder


def store() -> Path:
    """Return Minari's local store: the variable MINARI_DATASETS_PATH, else ~/.minari/datasets."""
    named = os.environ.get("MINARI_DATASETS_PATH")
    return Path(named).expanduser().absolute() if named else Path.home() / ".minari" / "datasets"


def local_ids() -> list[str]:
    """Return the ids in the local store."""
    found = store().glob("**/data/metadata.json")
    ids = (path.parent.parent.relative_to(store()) for path in found)
    return sorted(str(name) for name in ids if not str(name).startswith("."))


def unit_actions(actions: np.ndarray, space: gym.spaces.Box | gym.spaces.Discrete) -> np.ndarray:
    """Return actions scaled from the bounds of their space to [-1, 1]; unchanged where these are the bounds already.

    Discrete actions stay the numbers they are.
    """
    if (
        isinstance(space, gym.spaces.Discrete)
        or not space.is_bounded()
        or (np.all(space.low == -1) and np.all(space.high == 1))
    ):
        return actions
    return 2 * (actions - space.low) / (space.high - space.low) - 1


def _minari() -> ModuleType:
    try:
        import minari
    except ImportError as error:
        raise ImportError('Minari data sets need the extra: pip install "surefoot[minari]"') from error
    module: ModuleType = minari
    return module


def _check_spaces(dataset: Any, name: str) -> None:
    for what, space in (("observations", dataset.observation_space), ("actions", dataset.action_space)):
        if what == "actions" and isinstance(space, gym.spaces.Discrete):
            continue
        if not isinstance(space, gym.spaces.Box) or len(space.shape) != 1:
            raise ValueError(f"{name}: {what} are {space}; only flat Box spaces and Discrete actions can be read")


def _buffer(data: Transitions, actions: np.ndarray, rows: slice) -> Any:
    from minari.data_collector import EpisodeBuffer  # the root module does not export it

    return EpisodeBuffer(
        observations=np.concatenate([data.obs[rows].numpy(), data.next_obs[rows][-1:].numpy()]),
        actions=actions[rows],
        rewards=data.reward[rows].numpy(),
        terminations=data.terminated[rows].numpy().astype(bool),
        truncations=data.truncated[rows].numpy(),
    )


@contextmanager
def _temporary_store(folder: Path) -> Iterator[Path]:
    """Let Minari write to a hidden store on the same disk, so that a half-written set never gets its final name."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    before = os.environ.get("MINARI_DATASETS_PATH")
    with temporary_folder(store() / "new") as made:
        os.environ["MINARI_DATASETS_PATH"] = str(made)
        try:
            yield made
        finally:
            os.environ.pop("MINARI_DATASETS_PATH")
            if before is not None:
                os.environ["MINARI_DATASETS_PATH"] = before


def _replace_folder(new: Path, folder: Path) -> None:
    """Move `new` to `folder`; what was there goes to the temporary store first and disappears with it."""
    if folder.exists():
        os.replace(folder, new.with_name(f"{new.name}-replaced"))
    os.replace(new, folder)
