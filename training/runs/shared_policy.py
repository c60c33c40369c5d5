"""What a policy that is given away says of itself: its origin, and the stress test that lies next to it."""

from __future__ import annotations

import json
import re
from dataclasses import asdict
from pathlib import Path
from typing import Any

from surefoot.evaluation.describe import Record, describe, in_words
from surefoot.evaluation.policies import AnyPolicy
from surefoot.training.runs.folder import read_config, read_meta


def stress_page(path: Path) -> Path:
    """Return where the page of a policy goes: into its run folder, or next to its file; its JSON has the same name."""
    if path.is_dir():
        return path / "stress.html"
    if not path.exists():  # a function or a file of the Hub: here
        return Path(re.sub(r"[^\w.]+", "-", f"{path}-stress.html"))
    return path.with_name(f"{path.stem}-stress.html")


def read_stress(path: Path, policy: AnyPolicy, given: Path | None = None) -> Record | None:
    """Return the stress test of a policy, of the file given or of where `surefoot stress` puts it; None: there is none.

    Args:
        path: where the policy lies.
        policy: what was opened there.
        given: the JSON file; None: where that command puts it.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a file that is no stress test of one policy, or one of another policy.
    """
    source = given or stress_page(path).with_suffix(".json")
    if given is None and not source.is_file():
        return None
    try:
        content = json.loads(source.read_text(encoding="utf-8"))
        policies = content["policies"] if content["stress"] == 1 else []
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ValueError(f"{source}: not a JSON file of surefoot stress") from error
    if len(policies) != 1:
        raise ValueError(f"{source}: stress tests of {len(policies)} policies; a card is of one: stress it alone")
    _require_of(policies[0], policy, source)
    stress: Record = content
    return stress


def _require_of(record: Record, policy: AnyPolicy, source: Path) -> None:
    """Raise `ValueError` where a policy's numbers were measured on another: a run that went on has a new policy."""
    try:
        theirs = {**record, "task": record["env"]["id"]}
    except (KeyError, TypeError) as error:
        raise ValueError(f"{source}: not a JSON file of surefoot stress") from error
    ours: Record = {"agent": policy.agent_name, "step": policy.step, "training_seed": policy.training_seed}
    ours |= {"task": policy.env_config.id} if policy.env_config is not None else {}
    ours |= {"sha256": policy.sha256} if policy.sha256 and theirs.get("sha256") else {}  # older tests have none of runs
    for name, value in ours.items():
        if theirs.get(name) != value:
            what = "SHA-256" if name == "sha256" else in_words(name)
            raise ValueError(f"{source}: of another policy ({what} {theirs.get(name)}, not {value}); stress it again")


def facts_of(path: Path, policy: AnyPolicy, task: str, file: str) -> dict[str, Any]:
    """Return what is known of a policy's origin, for people; `file` is how it is called where it is given away."""
    facts: dict[str, Any] = {"agent": policy.agent_name, "task": task, "step": policy.step, "file": file}
    facts |= {"seed": policy.training_seed, "sha256": policy.sha256}
    if policy.env_config is not None:
        facts["dynamics"] = describe(asdict(policy.env_config))
    if not path.is_dir():
        return facts
    _, config = read_config(path)
    meta = read_meta(path)
    facts["data"] = config.data.source
    facts["uncertainty"] = config.uncertainty
    facts["commit"] = f"{meta.get('commit')}{' (changed)' if meta.get('dirty') else ''}"
    facts["versions"] = ", ".join(f"{name} {version}" for name, version in meta.get("versions", {}).items())
    facts["command"] = meta.get("command")
    return facts
