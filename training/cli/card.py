"""`surefoot card`: a policy's model card, with where it fails if `surefoot stress` has looked."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import tyro

from surefoot.evaluation.describe import Record
from surefoot.evaluation.policies import AnyPolicy
from surefoot.evaluation.policy_files import policy_path
from surefoot.evaluation.storage import write_atomically
from surefoot.training.cli.opening import Opening, open_all
from surefoot.training.cli.options import read_options
from surefoot.training.cli.outputs import require_output
from surefoot.training.report.card import card
from surefoot.training.runs.shared_policy import facts_of, read_stress


@dataclass(frozen=True)
class Request(Opening):
    """The policy, and what its file does not say."""

    policy: tyro.conf.Positional[Path]
    """A run folder or whatever else `surefoot evaluate` opens."""
    stress: Path | None = None
    """JSON file of `surefoot stress`; default: where that command puts it."""
    out: Path | None = None
    """The Markdown file; default: README.md in the run folder, or the file's name with `-card.md` next to it."""
    license: str = "other"
    """Licence of the policy, as the Hub names it: mit, apache-2.0, ..."""
    task: str | None = None
    """Gymnasium id of the task, where neither file nor stress test says it."""


def main(arguments: list[str]) -> int:
    """Write the card and return the exit code."""
    request = read_options(Request, args=arguments, prog="surefoot card")
    out = request.out or _default_out(request.policy)
    require_output(out, ".md")
    text = text_of(request)
    out.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(out, lambda file: file.write(text.encode()))
    print(f"card: {out}")
    return 0


def text_of(request: Request, name: str | None = None) -> str:
    """Return the card of a request; `ValueError` where the task is not known, or another than `--task`."""
    path = request.policy
    (policy,) = open_all([path], request)
    stress = read_stress(path, policy, request.stress)
    task = _task_of(request, policy, stress)
    file = policy_path(path, request.checkpoint) if path.is_dir() else path
    facts = facts_of(path, policy, task, file.name)
    return card(facts, stress, license_name=request.license, name=name or (path.name if path.is_dir() else path.stem))


def _task_of(request: Request, policy: AnyPolicy, stress: Record | None) -> str:
    """Return the task of the card: what the file or its stress test says, which --task may not contradict."""
    known = [policy.env_config.id] if policy.env_config else []
    known += [stress["policies"][0]["env"]["id"]] if stress else []
    if request.task is None and not known:
        raise ValueError(f"{request.policy}: neither the file nor a stress test says which task it is for; add --task")
    if request.task is not None and known and request.task not in (*known, policy.trained_on):
        raise ValueError(f"{request.policy}: is for {known[0]}, not {request.task}; leave --task out")
    return request.task or known[0]


def _default_out(path: Path) -> Path:
    return path / "README.md" if path.is_dir() else path.with_name(f"{path.stem}-card.md")
