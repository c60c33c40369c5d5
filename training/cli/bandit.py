"""`surefoot bandit`: a bandit learner that drives a real system, one line of JSON per call.

The learner lives in a file. Every call locks it, reads it, and replaces it whole: processes that call at once take
turns.
"""

from __future__ import annotations

import csv
import json
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import tyro

from surefoot.agents.dynlin.identification import Identified, Interval, identify
from surefoot.agents.parts.ask_tell import BanditRequest, Decision
from surefoot.configs.casting import read_yaml
from surefoot.evaluation import bandit_files
from surefoot.evaluation.bandit_files import OpenBandit
from surefoot.training.cli.options import read_options
from surefoot.training.cli.outputs import require_output


@dataclass(frozen=True)
class New:
    """Make a learner, and the file that it lives in."""

    state: tyro.conf.Positional[Path]
    """The file: JSON, or NumPy's .npz by its suffix."""
    learner: tyro.conf.Positional[str] = "dynlin-ucb"
    """dynlin-ucb, or one of its baselines: linucb, d-linucb, exp3, batch-exp3, ar2, …"""
    actions: str | None = None
    """Actions as JSON, such as [[1,0],[0,1]], {"ball": 1, "dimension": 2} or {"polytope": {"matrix": …, "bound": …}};
    or a .json file of that."""
    bounds: dict[str, Any] = field(default_factory=dict)
    """What is known of the system: spectral_radius 0.7 action_weight 1 input_matrix 0.5 noise_std 0.1."""
    horizon: int | None = None
    """Rounds that the constants are made for; default: any number, by doubling."""
    settings: dict[str, Any] = field(default_factory=dict)
    """Settings of the learner's own, such as bias_scale 0.1."""
    preset: Path | None = None
    """YAML file with any of actions, bounds, horizon, settings, replicates and seed; options lie over it."""
    log: Path | None = None
    """CSV file of earlier rounds to start from: the components of the action, and the reward in the last column."""
    replicates: int | None = None
    """Systems in lock-step; default 1."""
    seed: int | None = None
    """Of random actions; default 0."""
    force: bool = False
    """Replace the file where there is one."""


@dataclass(frozen=True)
class Ask:
    """Print the next action, and for how many rounds to hold it."""

    state: tyro.conf.Positional[Path]
    """The learner's file."""
    contexts: str | None = None
    """Contexts of the arms as JSON, or a .json file of them, for learners that are shown some."""


@dataclass(frozen=True)
class Tell:
    """Take in the reward of the next round."""

    state: tyro.conf.Positional[Path]
    """The learner's file."""
    reward: tyro.conf.Positional[str]
    """A number, null where it is not there (yet), or a JSON list with one for each replicate."""
    of: int | None = None
    """The number of an earlier round whose reward was null; null again: it never will come."""


@dataclass(frozen=True)
class Show:
    """Print how the learner stands."""

    state: tyro.conf.Positional[Path]
    """The learner's file."""


@dataclass(frozen=True)
class Identify:
    """Print what recorded actions and rewards say of a system, with 95 % intervals."""

    log: tyro.conf.Positional[Path]
    """CSV file: the components of the action, and the reward in the last column, empty where it is missing."""
    lags: int | None = None
    """How many rounds an action acts; default: chosen by the data."""


VERBS: dict[str, tuple[type, Callable[[Any], dict[str, Any]]]] = {}
USAGE = "surefoot bandit new|ask|tell|show STATE ..., or surefoot bandit identify LOG; --help after either"


def main(arguments: list[str]) -> int:
    """Run one verb, print its line of JSON, and return the exit code."""
    verb, rest = (arguments[0], arguments[1:]) if arguments else ("", [])
    if verb in ("-h", "--help"):
        print(f"usage: {USAGE}")
        return 0
    if verb not in VERBS:
        raise ValueError(f"bandit {verb!r}: {USAGE}")
    form, run = VERBS[verb]
    request: Any = read_options(form, args=_numbers_first(rest), prog=f"surefoot bandit {verb}")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # they stand in the line
        print(json.dumps(run(request), ensure_ascii=False))
    return 0


def _numbers_first(rest: list[str]) -> list[str]:
    """Return the arguments with a negative reward where argparse takes it for no option: behind `--`, last."""
    negative = [word for word in rest[1:2] if word.startswith("-") and word[1:2] in (*"0123456789", ".")]
    return [rest[0], *rest[2:], "--", *negative] if negative and "--" not in rest else rest


def new(request: New) -> dict[str, Any]:
    """Make the file."""
    path = request.state
    given = _preset(request)
    require_output(path, force=request.force)
    actions = bandit_files.action_set(given["actions"])
    made = BanditRequest(actions, given["bounds"], given["replicates"], given["seed"])
    opened = bandit_files.make(request.learner, given["settings"], made, where="surefoot bandit new")
    if request.log is not None:
        opened.warm_start(identify(*read_log(request.log)))
    with bandit_files.locked(path):  # not sooner: it makes folders
        require_output(path, force=request.force)  # another process may have made it meanwhile
        opened.save(path)
    return {"state": str(path), **opened.summary()}


def _preset(request: New) -> dict[str, Any]:
    known: dict[str, Any] = {"actions": None, "bounds": {}, "settings": {}, "horizon": None, "replicates": 1, "seed": 0}
    content = read_yaml(request.preset) if request.preset else {}
    if unknown := sorted(set(content) - set(known)):
        raise ValueError(f"{request.preset}: unknown key {unknown[0]!r}; known: {', '.join(known)}")
    given = known | {name: value for name, value in content.items() if value is not None}
    for name in ("bounds", "settings"):
        if not isinstance(given[name], dict):
            raise ValueError(f"{request.preset}: {name} is {given[name]!r}; it must hold names and their values")
        given[name] = {**given[name], **getattr(request, name)}
    for name in ("horizon", "replicates", "seed"):
        given[name] = given[name] if getattr(request, name) is None else getattr(request, name)
    if given["horizon"] is not None:
        given["settings"]["horizon"] = given["horizon"]
    given["actions"] = given["actions"] if request.actions is None else _json(request.actions, "--actions")
    return given


def ask(request: Ask) -> dict[str, Any]:
    """Ask, and keep that."""
    contexts = None if request.contexts is None else _json(request.contexts, "--contexts")

    def call(opened: OpenBandit) -> dict[str, Any]:
        return shown(opened.ask(contexts)) | _said(opened)

    return _changed(request.state, call)


def tell(request: Tell) -> dict[str, Any]:
    """Tell, and keep that."""
    reward = _json(request.reward, "the reward")

    def call(opened: OpenBandit) -> dict[str, Any]:
        opened.tell(reward, request.of)
        summary = opened.summary()
        return {name: summary[name] for name in ("rounds", "pending", "missing", "open") if name in summary} | _said(
            opened
        )

    return _changed(request.state, call)


def show(request: Show) -> dict[str, Any]:
    """Look, and change nothing."""
    return bandit_files.load(request.state).summary()


def _changed(path: Path, call: Callable[[OpenBandit], dict[str, Any]]) -> dict[str, Any]:
    """Return what `call` says of the learner in a file, which is replaced by what has become of it."""
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; `surefoot bandit new` makes one")
    with bandit_files.locked(path):
        opened = bandit_files.load(path)
        line = call(opened)
        opened.save(path)
    return line


def _said(opened: OpenBandit) -> dict[str, Any]:
    said = opened.summary().get("warnings")
    return {"warnings": said} if said else {}


def shown(decision: Decision) -> dict[str, Any]:
    """Return a decision as plain values."""
    index = decision.index.tolist() if isinstance(decision.index, np.ndarray) else decision.index
    return {"round": decision.round, "rounds": decision.rounds, "index": index, "action": decision.action.tolist()}


def _json(text: str, what: str) -> Any:
    """Return a JSON value, or that in a .json file; `ValueError` for neither."""
    if text.endswith(".json") and not Path(text).is_file():
        raise FileNotFoundError(f"{what} {text}: no such file")
    try:
        return json.loads(Path(text).read_text(encoding="utf-8") if text.endswith(".json") else text)
    except ValueError as error:
        raise ValueError(f"{what} {text!r} is no JSON ({error})") from error


# --- logs -------------------------------------------------------------------------------------------------------------


def read_log(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Return the actions (T, d) and rewards (T,) of a CSV file, NaN where a reward is missing; a header is skipped."""
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    with path.open(newline="", encoding="utf-8") as file:
        rows = [row for row in csv.reader(file) if row]
    rows = rows[1:] if rows and not _is_number(rows[0][0]) else rows
    if not rows or len(rows[0]) < 2 or any(len(row) != len(rows[0]) for row in rows):
        raise ValueError(f"{path}: a log has the components of the action and the reward in every row, as many in each")
    try:
        table = np.array([[float(cell) if cell.strip() else np.nan for cell in row] for row in rows])
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    return table[:, :-1], table[:, -1]


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def identified(request: Identify) -> dict[str, Any]:
    """Return the estimates with their intervals."""
    found: Identified = identify(*read_log(request.log), lags=request.lags)
    intervals = {"h": [_interval(one) for one in found.h], "spectral_radius": _interval(found.spectral_radius)}
    markov = [[_interval(one) for one in row] for row in found.parameters]
    rest = {"noise_std": found.noise_std, "rounds": found.rounds, "lags": len(markov) - 1}
    made = {"bounds": found.bounds(), "system": found.system()} if found.decided else {"bounds": None, "system": None}
    return {**intervals, **rest, **made, "markov": markov}


def _interval(one: Interval) -> list[float | None]:
    return [value if np.isfinite(value) else None for value in one]


VERBS |= {"new": (New, new), "ask": (Ask, ask), "tell": (Tell, tell), "show": (Show, show)}
VERBS |= {"identify": (Identify, identified)}
