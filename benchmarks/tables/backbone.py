"""Tables of SAC beside other people's, and in bf16."""

from __future__ import annotations

from tables.markdown import Result, by_name, markdown, number, with_interval


def sac_sb3(result: Result) -> str:
    """Return last evaluation and area under the curve of SAC, ours and Stable-Baselines3's, on every task."""
    cells: dict[tuple[str, str], list[Result]] = {}
    for job, figures in sorted(result["jobs"].items()):
        task, agent, _ = job.split("/")
        cells.setdefault((task, agent), []).append(figures)
    rows = []
    for (task, agent), runs in cells.items():
        final, area = ([run[name] for run in runs] for name in ("final", "area"))
        minutes = " ".join(number(run["minutes"]) for run in runs)
        each = (with_interval(final), " ".join(map(number, final)), with_interval(area), " ".join(map(number, area)))
        rows.append((task, agent, f"{runs[0]['steps']:,}", *each, minutes))
    header = ("task", "agent", "steps", "return at the end", "by seed", "mean of all evaluations", "by seed", "minutes")
    return markdown(header, rows)


def dmc_sac(result: Result) -> str:
    """Return the last evaluation of SAC on every task, and the public returns at as many environment steps."""
    cells: dict[str, list[Result]] = {}
    for job, figures in sorted(result["jobs"].items()):
        task, _, *changes = job.split("/")
        cells.setdefault(", ".join([task, *(change.replace("-", " ") for change in changes)]), []).append(figures)
    rows = []
    for task, runs in sorted(cells.items()):
        pairs = [run["final"] for run in runs], runs[0]["public_sac"]
        each = [text for values in pairs for text in (with_interval(values), " ".join(map(number, values)))]
        rows.append((task, *each, " ".join(number(run["minutes"]) for run in runs)))
    header = ("task", "return", "by seed", "public SAC", "by seed", "minutes")
    return markdown(header, rows)


def bf16_learning(result: Result) -> str:
    """Return last evaluation and area under the curve in float32 and in bf16 on every task, and their difference."""
    rows = []
    for task in dict.fromkeys(job.split("/")[0] for job in result["jobs"]):
        runs = {
            precision: {
                job.split("/")[2]: of for job, of in result["jobs"].items() if job.startswith(f"{task}/{precision}/")
            }
            for precision in ("float32", "bf16")
        }
        for precision, by_seed in runs.items():
            final, area = ([of[name] for of in by_seed.values()] for name in ("final", "area"))
            steps = f"{next(iter(by_seed.values()))['steps']:,}"
            each = " ".join(map(number, final)), with_interval(area), " ".join(map(number, area))
            rows.append((task, precision, steps, with_interval(final), *each))
        both = [seed for seed in runs["float32"] if seed in runs["bf16"]]
        apart = [[runs["bf16"][s][name] - runs["float32"][s][name] for s in both] for name in ("final", "area")]
        rows.append(
            (task, "bf16 − float32, seed by seed", "", with_interval(apart[0]), "", with_interval(apart[1]), "")
        )
    header = ("task", "products", "steps", "return at the end", "by seed", "mean of all evaluations", "by seed")
    return markdown(header, rows)


TABLES = by_name(sac_sb3, dmc_sac, bf16_learning)
