"""What a policy that is given away says of itself: its origin, and the stress test that lies next to it."""

from __future__ import annotations

import json
import re
from dataclasses import asdict
from pathlib import Path
from typing import Any

from surefoot.evaluation.describe import Record, describe
from surefoot.evaluation.policies import AnyPolicy
from surefoot.training.runs.folder import read_config, read_meta


def stress_page(path: Path) -> Path:
    """Return where the page of a policy goes: into its run folder, or next to its file; its JSON has the same name."""
    if path.is_dir():
        return path / "stress.html"
    if not path.exists():  # a function or a file of the Hub: here
        return Path(re.sub(r"[^\w.]+", "-", f"{path}-stress.html"))
    return path.with_name(f"{path.stem}-stress.html")


def read_stress(path: Path, given: Path | None = None) -> Record | None:
    """Return the stress test of a policy, of the file given or of where `surefoot stress` puts it; None: there is none.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a file that is no stress test of one policy.
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
    stress: Record = content
    return stress


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
