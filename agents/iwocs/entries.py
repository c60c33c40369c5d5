"""What the path of a run says of an iteration, in plain values, and its newest entry as a line for people."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from surefoot.agents.iwocs.trials import Outcome, Trials


def of_iteration(
    agent: Any, worst: Tensor, status: str | None, compared: dict[str, Any] | None, outcome: Outcome
) -> dict[str, Any]:
    """Return the path's entry of the iteration that an `IWOCS` has decided."""
    i, trained = agent.iteration, agent.iteration > 0
    tried = of_trials(agent.trials)
    by_threshold = trained and agent.config.gate == "predictors"
    return {
        "iteration": i,
        "model": agent.models[-1].tolist() if trained else None,
        "rounds": agent.round if trained else None,
        "error_scale": agent.scale if trained else None,
        "acts_first": int(agent.policy.first[i]) + 1 if agent.config.gate_first == "searched" else None,
        **(tried if by_threshold else tried | {"rho": None, "by_threshold": []}),
        "ceiling": None if agent.policy.models is None else agent.policy.models.ceiling(i + 1),
        "worst_model": worst.tolist(),
        "highest_possible": agent.highest if math.isfinite(agent.highest) else None,
        "compared": compared,
        "best_so_far": int(agent.policy.used),
        "in_its_own_model": agent.own_scores() if trained else None,
        "training_steps": agent.trained_steps,
        "search_steps": agent.search_steps,
        "gate_updates": 0 if agent.lessons is None else i * agent.config.gate_updates,
        "status": status,
        **of_held_out(outcome),
    }


def of_trials(trials: Trials) -> dict[str, Any]:
    """Return what the search of every composite of an iteration came to, and which was taken."""
    candidates, thresholds = trials.candidates, trials.thresholds
    trial, found = candidates[trials.taken]
    tried = [[one.value, one.mean] for one in trials.found]
    again = [[one.rho, of.value, of.mean] for (one, _), of in zip(candidates, trials.held_out, strict=True)]
    return {
        "rho": trial.rho,
        "worst": found.value,
        "equally_bad": found.ties,
        "by_threshold": [[rho, *values] for rho, values in zip(thresholds, tried, strict=False)],
        "again": again if len(again) > 1 else [],
        "others_first": [[j + 1, *values] for j, values in zip(trials.firsts, tried[len(thresholds) :], strict=True)],
    }


def of_held_out(outcome: Outcome) -> dict[str, Any]:
    """Return what the taken composite came to on seeds that chose nothing."""
    return {
        "held_out_worst": outcome.held_out.value,
        "held_out_equally_bad": outcome.held_out.ties,
        "fractions": np.mean([row[2] for row in outcome.table], 0).tolist(),
        "table": [{"at": point, "return": value, "fractions": fractions} for point, value, fractions in outcome.table],
    }


def known(path: Sequence[dict[str, Any]]) -> list[float]:
    """Return every mean return that a policy of the path got in a model, on held-out seeds."""
    return [row["return"] for entry in path for row in entry["table"]]


def metrics(last: dict[str, Any]) -> dict[str, Tensor]:
    """Return what is logged of an entry of the path."""
    values = {name: last[name] for name in ("worst", "held_out_worst", "search_steps")}
    values |= {"default_fraction": last["fractions"][-1], "rounds": last["rounds"] or 0}
    return {name: torch.tensor(float(value)) for name, value in values.items()}


def summary(last: dict[str, Any], names: Sequence[str]) -> str:
    """Return an entry of the path in a line."""
    where = ", ".join(f"{name} {x:.3g}" for name, x in zip(names, last["worst_model"], strict=True))
    who = f"model {last['iteration']}" if last["iteration"] else "default policy"
    who += "" if last["rho"] is None else f", rho {last['rho']:g}"
    line = f"iwocs, {who}: worst {last['worst']:.1f}{_more(last['equally_bad'])}"
    line += f"; on held-out seeds {last['held_out_worst']:.1f}{_more(last['held_out_equally_bad'])}; next {where}"
    line += f"; default acts in {100 * last['fractions'][-1]:.0f}% of the steps"
    if last["compared"]:
        line += ", over policy {with} by {difference:.1f} [{low:.1f}, {high:.1f}]".format(**last["compared"])
    return f"{line}; best is {last['best_so_far']}" + (f"; end: {last['status']}" if last["status"] else "")


def _more(ties: int) -> str:
    return f" in {ties} models" if ties > 1 else ""


def as_json(value: Any) -> Any:
    """Return a path for its file: JSON has no infinity, so the threshold of no gate is the text `inf`."""
    if isinstance(value, dict):
        return {key: as_json(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [as_json(item) for item in value]
    return str(value) if value == math.inf else value
