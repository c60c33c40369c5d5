"""Tables of other people's policies: where they fail, and how much of a set a map finds."""

from __future__ import annotations

import json

from record import RESULTS
from tables.markdown import Result, by_name, markdown, number

from surefoot.evaluation.stress.statistics import ended_early

ZOO_REASONS = {
    "ars/Walker2d-v3": "the archive was trained for 10 million steps, the published policy for 75 million; a program "
    "of NumPy alone gets 1613 ± 598 from it on v4 with Gymnasium 0.29 and MuJoCo 2.3.7.",
}


def zoo_reason(name: str) -> str:
    """Return why the return of a public policy is not the published one: what it is in the bodies of its time."""
    path = RESULTS / "zoo_older.json"
    jobs = json.loads(path.read_text(encoding="utf-8"))["jobs"] if path.is_file() else {}
    if name not in jobs:
        return ZOO_REASONS.get(name, "not explained.")
    job = jobs[name]
    return (
        f"with the masses that MuJoCo gave capsules until 2.1.1 it earns {number(job['mean'])} ± {number(job['std'])} "
        f"({job['episodes']} episodes), which {'agrees' if job['agrees'] else 'does not agree either'}."
    )


def zoo(result: Result) -> str:
    """Return what each public policy earns here and where it was published; a sentence for those that differ."""
    rows, differs = [], []
    for name, job in sorted(result["jobs"].items()):
        published, compared = job["published"], job.get("library", {})
        means = [f"{number(m['mean'])} ± {number(m['std'])}" for m in (published, job)]
        difference = compared.get("largest_difference")
        same = "" if difference is None else f"{difference:.0e}"
        rows.append((name, job["task"], *means, "yes" if job["agrees"] else "no", same, f"`{job['sha256'][:8]}`"))
        if not job["agrees"]:
            differs.append(f"- {name}: {zoo_reason(name)}")
    header = ("policy", "run on", "published", "here", "agrees", "largest difference of an action", "SHA-256")
    summary = f"{sum(job['agrees'] for job in result['jobs'].values())} of {len(rows)} agree."
    return "\n".join([markdown(header, rows), "", summary, *(["", *differs] if differs else [])])


def zoo_stress(result: Result) -> str:
    """Return a row per policy, task by task, by what is left at the worst point; then what was refused."""
    jobs = {name: job for name, job in result["jobs"].items() if "refused" not in job}
    ordered = sorted(jobs.items(), key=lambda item: (item[1]["task"], -item[1]["worst"]["mean"]))
    rows = [
        (
            job["task"],
            name.partition("/")[0],
            with_span(job["nominal"]),
            with_span(job["average"]),
            with_span(job["worst"]),
            number(job["worst"]["cvar"]),
            where_of(job["worst"]["at"]),
            ended(job["worst"]),
            job.get("episodes", job["budget"]),
            f"`{job['sha256'][:12]}`",
        )
        for name, job in ordered
    ]
    header = (
        "task",
        "policy",
        "nominal",
        "average",
        "worst",
        "CVaR 10% there",
        "where",
        "ended early there",
        "episodes",
        "SHA-256",
    )
    cpu = sum(job["cpu_seconds"] for job in jobs.values())
    refused = [f"{name}: {job['refused']}" for name, job in result["jobs"].items() if "refused" in job]
    notes = f"{len(jobs)} policies, {cpu / 60:.0f} CPU minutes in all."
    left_out = f" Not opened: {'; '.join(refused)}." if refused else ""
    return f"{markdown(header, rows, right=False)}\n\n{notes}{left_out}"


def ended(sample: Result) -> str:
    """Return how many episodes of a sample the task ended, or the physics by diverging."""
    return f"{ended_early(sample) + sample['diverged']} of {sample['episodes']}"


def where_of(point: dict[str, float]) -> str:
    """Return a point of an uncertainty set; one of many parameters is in the result file alone."""
    if len(point) > 4:
        return f"{len(point)} parameters at once"
    return ", ".join(f"`{key}` {value:.3g}" for key, value in point.items())


def zoo_stress_ours(result: Result) -> str:
    """Return a row per policy of ours: what it was trained for, and what is left at its worst point."""
    rows = [
        (
            job["task"],
            name.partition("/")[0],
            f"{job['step']:,}",
            job["training_cpu_seconds"],
            *(with_span(job[part]) for part in ("nominal", "average", "worst")),
            number(job["worst"]["cvar"]),
            ended(job["worst"]),
            job["episodes"],
        )
        for name, job in sorted(result["jobs"].items(), key=lambda item: (item[1]["task"], -item[1]["worst"]["mean"]))
    ]
    trained = ("task", "agent", "training steps", "CPU seconds of training")
    header = (*trained, "nominal", "average", "worst", "CVaR 10% there", "ended early there", "episodes")
    return markdown(header, rows, right=False)


def with_span(sample: Result) -> str:
    """Return a mean and its interval."""
    low, high = sample["interval"]
    return f"{number(sample['mean'])} [{number(low)}, {number(high)}]"


def stress_coverage(result: Result) -> str:
    """Return, a kind of policy, the share whose worst case its interval covers, and how wide that is."""
    kinds = {"all": result}
    kinds |= {f"noise: {name}": one for name, one in result["by_noise"].items()}
    kinds |= {f"shape: {name}": one for name, one in result["by_shape"].items()}
    kinds |= {f"parameters: {name}": one for name, one in result["by_parameters"].items()}
    rows = [
        (
            name,
            f"{one['covered']:.1%}",
            one["truth_below"],
            one["truth_above"],
            one["median_width"],
            one["median_width_of_mean"],
            one["median_gap"],
        )
        for name, one in kinds.items()
    ]
    header = (
        "policies",
        "covered",
        "truth below it",
        "above it",
        "median width",
        "of which the mean's own",
        "the found point lies above the worst by",
    )
    return (
        f"{markdown(header, rows)}\n\n{result['policies']} policies of a nominal return of about 1000, "
        f"{result['budget']} episodes each; gap and widths are medians. The interval of the found point's mean alone "
        f"would cover {result['mean_only']:.1%}, one as wide around the least mean of the search "
        f"{result['least_mean_of_the_search']:.1%}."
    )


TABLES = by_name(stress_coverage, zoo_stress, zoo_stress_ours, zoo)
