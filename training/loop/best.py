"""The best policy of a run, by what the run is for, and its file `checkpoints/best.pt`."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import gymnasium as gym

from surefoot.agents.interface import Spaces
from surefoot.evaluation import policy_files
from surefoot.evaluation.storage import load
from surefoot.training.config.measure import RETURN, WORST_CASE, measure_of
from surefoot.training.config.presets import to_plain
from surefoot.training.config.run import RunConfig
from surefoot.training.loop.evaluation import Evaluation
from surefoot.training.runs import folder as run_folder


class Best(NamedTuple):
    """The best evaluation so far, and its policy. It is part of a checkpoint: best.pt itself may be of a later step."""

    measure: str  # `Measure.name`
    value: float
    step: int
    policy: dict[str, Any]
    engine: str = "eager"  # what computed it


def improves(found: Evaluation, best: Best | None) -> bool:
    """Whether an evaluation is the best so far; of equal ones the later is.

    Where the figure cannot rise any more (a pole that is held in every world) it says nothing between two policies,
    and the later has learned for longer. NaN is never the best.
    """
    return found.value >= (best.value if best else -float("inf"))


def keep_best(
    folder: Path,
    agent_name: str,
    config: RunConfig[Any],
    spaces: Spaces,
    own_action: gym.Space[Any],
    best: Best | None,
) -> None:
    """Write best.pt and name its measure in meta.json; without a best policy, remove both."""
    path = folder / "checkpoints" / "best.pt"
    if best is None:
        path.unlink(missing_ok=True)
        run_folder.write_meta(folder, {"best": None})
        return
    plain = to_plain(agent_name, config)
    policy_files.save_policy_state(path, plain, spaces, own_action, best.step, best.policy, best.engine)
    record = {"measure": best.measure, "value": best.value, "step": best.step, "episodes": config.eval.episodes}
    worlds = {"worlds": config.eval.worlds} if best.measure == WORST_CASE.name else {}
    run_folder.write_meta(folder, {"best": record | worlds})


def restored(state: dict[str, Any], folder: Path, agent_name: str, config: RunConfig[Any]) -> Best | None:
    """Return the best policy of a checkpoint.

    One of an older version has the return of its best.pt alone, which is kept where the run is for the return.
    """
    if "best" in state:
        return None if state["best"] is None else Best(**state["best"])
    path = folder / "checkpoints" / "best.pt"
    if measure_of(agent_name, config) != RETURN or not path.is_file():
        return None
    file = load(path)
    return Best(
        RETURN.name, state["counters"]["best_return"], file["step"], file["policy"], file.get("engine", "eager")
    )
