"""A policy's model card: Markdown with the YAML front matter that the Hugging Face Hub reads."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import yaml

from surefoot.evaluation.describe import Record, describe
from surefoot.evaluation.figures.words import parameter_label
from surefoot.evaluation.stress.statistics import ended_early
from surefoot.training.report.page import shown
from surefoot.training.report.stress import parts_of, radius_in_words
from surefoot.training.report.stress_figures import nominal_in_words, nominal_of, where, worst_set


def card(facts: Mapping[str, Any], stress: Record | None, *, license_name: str, name: str) -> str:
    """Return the card of a policy.

    Args:
        facts: what is known of its origin: agent, task and its versions, training data, seed, step, SHA-256, commit.
        stress: what `surefoot stress` wrote of it; None: the card says that nobody looked where it fails.
        license_name: of the policy, as the Hub names it, such as `mit`.
        name: of the model.
    """
    record = stress["policies"][0] if stress else None
    front = yaml.safe_dump(front_matter(facts, record, license_name, name), sort_keys=False, allow_unicode=True)
    parts = [f"---\n{front}---", f"# {name}", _opening(facts), *_origin(facts)]
    parts += _measured(stress, record) if stress and record else [_not_measured()]
    return "\n\n".join([*parts, *_use(facts)]) + "\n"


def front_matter(facts: Mapping[str, Any], record: Record | None, license_name: str, name: str) -> Record:
    """Return the card's YAML as plain values: the Hub's fields, results as its `model-index`."""
    task = str(facts["task"])
    tags = ["reinforcement-learning", "deep-reinforcement-learning", "robustness", facts["agent"], task]
    front: Record = {
        "license": license_name,
        "library_name": "surefoot",
        "pipeline_tag": "reinforcement-learning",
        "tags": list(dict.fromkeys(map(str, tags))),
    }
    if record is not None:
        metrics = [_metric(kind, sample) for kind, sample in parts_of(record).items()]
        result = {
            "task": {"type": "reinforcement-learning", "name": "reinforcement-learning"},
            "dataset": {"name": task, "type": task},
            "metrics": metrics,
        }
        front["model-index"] = [{"name": name, "results": [result]}]
    return front


def _metric(part: str, sample: Record) -> Record:
    """Return one result; the Hub's leaderboards take `mean_reward`, as a number with its spread."""
    kind = "mean_reward" if part == "nominal" else f"mean_reward_{part}"
    text = f"{sample['mean']:.2f} +/- {sample['std']:.2f}"
    return {"type": kind, "value": text, "name": f"{part} return, {sample['episodes']} episodes", "verified": False}


def _opening(facts: Mapping[str, Any]) -> str:
    return (
        f"A policy for `{facts['task']}`, trained by `{facts['agent']}`, with what is known of where it holds and "
        "where it fails. Written by Surefoot from measured episodes."
    )


def _origin(facts: Mapping[str, Any]) -> Iterator[str]:
    yield "## Where it comes from"
    shown_as = {
        "agent": "agent",
        "task": "task",
        "dynamics": "dynamics of its evaluation",
        "data": "training data",
        "uncertainty": "trained in the uncertainty set",
        "step": "training steps",
        "seed": "training seed",
        "commit": "commit",
        "versions": "versions",
        "command": "command",
        "sha256": "SHA-256 of the file",
    }
    rows = [(words, facts[key]) for key, words in shown_as.items() if facts.get(key) not in (None, "")]
    yield markdown_table(["", ""], [[words, f"`{value}`"] for words, value in rows])


def _not_measured() -> str:
    return (
        "## Where it fails\n\n**Not measured.** Nobody has looked how this policy behaves where it was not trained: "
        "`surefoot stress` does."
    )


def _measured(stress: Record, record: Record) -> Iterator[str]:
    box = worst_set(record)
    yield "## Where it holds and where it fails"
    rows = [
        [
            part,
            _with_interval(sample),
            shown(sample["cvar"]),
            *map(str, (ended_early(sample), sample["diverged"], sample["episodes"])),
        ]
        for part, sample in parts_of(record).items()
    ]
    yield markdown_table(["", "mean return", "CVaR 10%", "ended early", "diverged", "episodes"], rows)
    yield (
        f"Task: {describe(record['env'])}. Ended early: the task itself ended the episode, and no time limit: a fall "
        f"in one task, the goal in another. Nominal: {nominal_in_words(nominal_of(record, box)[0])}. Average: uniform "
        f"over the uncertainty set `{box['name']}`. Worst: at {where(box['worst']['at'])}, found by search and "
        "measured on episodes that did not choose it. In brackets 95% intervals over episodes of this very policy."
    )
    yield "### One parameter at a time"
    rows = [_radius_row(curve) for one in record["sets"] for curve in one["curves"]]
    yield markdown_table(["parameter", "nominal", "holds down to", "holds up to", "lowest mean"], rows)
    yield (
        "Holds: until the mean return falls below 80 % of the nominal one, the other parameters nominal; the distance "
        "from the nominal value, its 95% interval, and the value there."
    )
    yield "### Not tried\n\n" + "\n".join(f"- {line}" for line in stress["not_tried"])


def _radius_row(curve: Record) -> list[str]:
    sides = [radius_in_words(curve["radius"][side]) for side in ("down", "up")]
    return [parameter_label(curve["parameter"]), shown(curve["nominal"]), *sides, shown(min(curve["mean"]))]


def _with_interval(sample: Record) -> str:
    if sample["interval"] is None:
        return shown(sample["mean"])
    low, high = map(shown, sample["interval"])
    return f"{shown(sample['mean'])} [{low}, {high}]"


def _use(facts: Mapping[str, Any]) -> Iterator[str]:
    yield "## Use"
    yield (
        f'```python\nimport surefoot\n\npolicy = surefoot.load_policy("{facts["file"]}")\n'
        "action = policy.predict(obs)  # in the task's own units\n```"
    )
    yield f"```bash\nsurefoot stress {facts['file']} --env.id {facts['task']}\n```"


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table; a bar within a cell would end it."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)
