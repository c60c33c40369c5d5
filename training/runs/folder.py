"""One folder per run: what is in it, and how to make, mark and read it. Nothing inside names its own place on disk."""

from __future__ import annotations

import json
import re
import shutil
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml

from surefoot import agents
from surefoot.configs.casting import read_yaml
from surefoot.evaluation.policy_files import runs_inside
from surefoot.evaluation.storage import write_atomically
from surefoot.training.config.presets import from_plain, to_plain
from surefoot.training.config.run import RunConfig
from surefoot.training.runs.console import quoted
from surefoot.training.runs.lock import Lock, is_begun, make
from surefoot.training.runs.provenance import provenance

SUBFOLDERS = ("checkpoints", "plots", "videos")


def default_name(agent_name: str, config: RunConfig[Any], preset: str | None) -> str:
    """Return `AGENT-ENV-PRESET-sSEED-TIME`, safe as a file name."""
    parts = [agent_name, config.env.id, Path(preset).stem if preset else "", f"s{config.seed}"]
    stamp = datetime.now().strftime("%Y%m%d-%H%M%S")
    return "-".join([re.sub(r"[^\w.+-]+", "_", part) for part in parts if part] + [stamp])


def require_free(folder: Path) -> None:
    """Raise unless a new run can be made at `folder`: nothing, or what a process left that was killed at once."""
    if folder.is_dir() and any(folder.iterdir()) and not is_begun(folder):
        raise FileExistsError(
            f"{folder}: not empty; resume that run with --resume {quoted(folder)}, or choose another --name"
        )
    if folder.exists() and not folder.is_dir():
        raise FileExistsError(f"{folder}: a file is in the way of the run folder; choose another --name or --out")


def create(
    folder: Path,
    agent_name: str,
    config: RunConfig[Any],
    preset: str | None,
    engine: str = "eager",
    subfolders: tuple[str, ...] = SUBFOLDERS,
) -> Lock:
    """Make the run's folder with config.yaml and meta.json, and return its lock; nothing is left where that fails."""
    lock = make(folder, "the run folder", require_free)
    try:
        for name in subfolders:
            (folder / name).mkdir(exist_ok=True)
        write_config(folder / "config.yaml", agent_name, config, preset)
        what = {"agent": agent_name, "preset": preset, "seed": config.seed, "engine": engine}
        write_meta(folder, {**what, "started": _now(), **provenance()})
    except BaseException:
        discard(folder, lock)
        raise
    return lock


def discard(folder: Path, lock: Lock) -> None:
    """Delete a folder that `create` has just made."""
    shutil.rmtree(folder, ignore_errors=True)
    lock.release()


def seed_folder(run: Path, seed: int) -> Path:
    """Return the folder of one seed of a run that has several: a run folder like any other."""
    return run / f"seed-{seed}"


def seed_folders(run: Path) -> list[Path]:
    """Return the folders of those seeds of a run with several that have begun, in order; of any other run its own."""
    begun = [path.parent for path in run.glob("seed-*/config.yaml") if _is_seed(path.parent)]
    return sorted(begun, key=lambda folder: int(folder.name.removeprefix("seed-"))) or [run]


def whole_run(folder: Path) -> Path:
    """Return the run that a folder is a seed of; the folder itself where it is none."""
    return folder.parent if _is_seed(folder) else folder


def _is_seed(folder: Path) -> bool:
    return bool(re.fullmatch(r"seed-\d+", folder.name)) and (folder.parent / "config.yaml").is_file()


def full_name(folder: Path) -> str:
    """Return the name of a run folder, of a seed that of its run and its own."""
    run = whole_run(folder)
    return folder.name if run == folder else f"{run.name}-{folder.name}"


def write_config(path: Path, agent_name: str, config: RunConfig[Any], preset: str | None) -> None:
    """Write the resolved configuration, every field of it, and the preset that it started from."""
    content = {"preset": preset, **to_plain(agent_name, config)}
    text = f"# Resolved configuration; `--config` takes this file back.\n{yaml.safe_dump(content, sort_keys=False)}"
    write_atomically(path, lambda file: file.write(text.encode()))


def read_config(folder: Path) -> tuple[str, RunConfig[Any]]:
    """Return agent name and configuration of a run; `FileNotFoundError` where `folder` is none."""
    if not (folder / "config.yaml").is_file():
        raise FileNotFoundError(f"{folder}: not a run folder (no config.yaml){runs_inside(folder)}")
    return from_plain(read_yaml(folder / "config.yaml"), str(folder / "config.yaml"))


def method_name(agent_name: str, config: RunConfig[Any]) -> str:
    """Return what a figure or table calls a run: its agent, and its variant where the agent has variants."""
    return agents.get(agent_name).label(agent_name, config.agent)


def read_meta(folder: Path) -> dict[str, Any]:
    """Return the contents of the run's meta.json; `ValueError` where it is none."""
    path = folder / "meta.json"
    try:
        meta: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: not a JSON file that a run wrote ({' '.join(str(error).split())})") from error
    if not isinstance(meta, dict):
        raise ValueError(f"{path}: not a JSON file that a run wrote")
    return meta


def write_meta(folder: Path, changes: dict[str, Any]) -> None:
    """Lay `changes` over meta.json."""
    path = folder / "meta.json"
    meta = {**(read_meta(folder) if path.is_file() else {}), **changes}
    write_atomically(path, lambda file: file.write((json.dumps(meta, indent=2) + "\n").encode()))


def mark(folder: Path, status: str, seconds: float) -> None:
    """Record how the run stands: running, interrupted, failed or finished."""
    write_meta(folder, {"status": status, "updated": _now(), "minutes": round(seconds / 60, 3)})


def best_in_words(folder: Path) -> str:
    """Return what a run's best.pt was chosen by, and how good it was by that."""
    best = read_meta(folder).get("best")
    if not best:
        return "the mean return of an evaluation (a run of an older version)"
    over = f" over {best['worlds']} worlds" if "worlds" in best else ""
    return f"its {best['measure']}{over}, {best['value']:.4g} at step {best['step']:,}"


def last_step(folder: Path) -> int:
    """Return the step of the last whole row of a run's metrics.csv; 0 where it has none yet."""
    try:
        lines = (folder / "metrics.csv").read_text(encoding="utf-8").splitlines()
        return int(float(lines[-1].split(",")[0]))  # the first column is `step`
    except (OSError, ValueError, IndexError, OverflowError):  # not there yet, only a header, or being rewritten
        return 0


def is_finished(folder: Path, config: RunConfig[Any]) -> bool:
    """Whether the run was carried through and `config` is the same."""
    return read_meta(folder).get("status") == "finished" and config == read_config(folder)[1]


def mark_resumed(folder: Path, agent_name: str, config: RunConfig[Any], *, fresh_episodes: bool = False) -> None:
    """Record that the run was taken up again: with which budget and episodes, by which command, on which machine."""
    write_config(folder / "config.yaml", agent_name, config, read_meta(folder).get("preset"))
    episodes = "fresh" if fresh_episodes else "replayed"
    entry = {"started": _now(), "episodes": episodes, **provenance()}
    write_meta(folder, {"resumed": [*read_meta(folder).get("resumed", []), entry]})


def save_artefact(folder: Path, name: str, content: Any) -> None:
    """Write an agent's report, as plain values, to the file `name`."""
    write_atomically(folder / name, lambda file: file.write((json.dumps(content, indent=1) + "\n").encode()))


# --- provenance -------------------------------------------------------------------------------------------------------


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
