"""Tables of what was done to runs and files to break them."""

from __future__ import annotations

from typing import Any

import numpy as np
import yaml
from record import RESULTS
from tables.markdown import Result, by_name, markdown


def kills(result: Result) -> str:
    """Return, of all agents and of each, how many kills its runs have survived, and what became of them."""
    names = ("trials", "kills", "early", "between", "late", "lost", "unequal", "leaks")
    jobs = result["jobs"]
    rows = [(f"all {len(jobs)}", *(sum(job[name] for job in jobs.values()) for name in names))]
    rows += [(name, *(job[key] for key in names)) for name, job in jobs.items()]
    moments = ("before the first checkpoint", "between", "after the last")
    header = ("agent", "runs", "kills", *moments, "lost", "unequal", "processes left")
    return markdown(header, rows)


def resumes(result: Result) -> str:
    """Return, of all agents and of each, how many variants of a run were the same run after a stop."""

    def row(name: str, outcomes: list[str]) -> tuple[Any, ...]:
        equal, refused = outcomes.count("equal"), outcomes.count("refused")
        return name, len(outcomes), equal, refused, len(outcomes) - equal - refused

    jobs = {name: list(job.values()) for name, job in result["jobs"].items()}
    whole = row(f"all {len(jobs)}", [outcome for job in jobs.values() for outcome in job])
    header = ("agent", "variants", "equal to the last bit", "refused in a line", "unequal or lost")
    return markdown(header, [whole, *(row(name, job) for name, job in jobs.items())])


def two_writers(result: Result) -> str:
    """Return what became of two processes that resumed one run at the same moment."""
    return markdown(tuple(result["jobs"]["sac"]), [tuple(result["jobs"]["sac"].values())])


def soak(result: Result) -> str:
    """Return how much of what runs hold grew after they had warmed up."""
    sums, worst = ("hours", "cpu_hours", "steps", "leaks"), ("worst_growth_percent", "more_files", "more_threads")
    rest = ("megabytes", *worst, "leaks")
    jobs = result["jobs"]
    whole = {key: sum(of[key] for of in jobs.values()) for key in sums}
    whole |= {key: max(of[key] for of in jobs.values()) for key in worst} | {"megabytes": ""}
    rows = [
        (name, *(f"{of[key]:.2f}" for key in sums[:2]), f"{of['steps']:,}", *(of[key] for key in rest))
        for name, of in [(f"all {len(jobs)}", whole), *jobs.items()]
    ]
    more = ("worst growth (%)", "more open files", "more threads", "processes left")
    return markdown(("agent", "hours", "CPU hours", "steps", "MB", *more), rows)


def wrong_lines(result: Result) -> str:
    """Return how many wrong command lines were refused."""
    header = ("wrong lines", "refused", "in one line", "lines of the longest answer", "of these as processes, too")
    names = ("lines", "refused", "one_line", "longest", "own_processes")
    return markdown(header, [tuple(f"{result[name]:,}" for name in names)])


def hostile_files(result: Result) -> str:
    """Return, of all readers and of each, what became of changed files."""
    names = ("trials", "refused", "read", "tracebacks", "hangs", "crashes", "outside")
    jobs = result["jobs"]
    rows = [(f"all {len(jobs)}", *(sum(job[name] for job in jobs.values()) for name in ("minutes", *names)))]
    rows += [(name, *(job[key] for key in ("minutes", *names))) for name, job in jobs.items()]
    header = ("reader", "minutes", "files", "refused", "read", "tracebacks", "hangs", "dead processes", "led elsewhere")
    return markdown(header, [(name, f"{at:.1f}", *(f"{count:,}" for count in counts)) for name, at, *counts in rows])


NOTICED = ("killed", "timed out")


def mutants(result: Result) -> str:
    """Return what became of the mutants of every file, the survivors that matter, and those that do not with why."""
    known = yaml.safe_load((RESULTS.parent / "mutants.yaml").read_text(encoding="utf-8"))["accepted"]
    reasons = {(x["file"], x["where"], x["before"], x["after"]): x["reason"] for x in known}
    left = [(file, each) for file, done in sorted(result["jobs"].items()) for each in survivors(done)]
    reason = lambda file, each: reasons.get((file, each["where"], each["before"], each["after"]))  # noqa: E731
    rows, total = [], np.zeros(4, int)
    for file, done in sorted(result["jobs"].items()):
        fine = sum(reason(file, each) is not None for each in survivors(done))
        made, alive = len(done["mutants"]), len(survivors(done))
        total += (made, made - alive, fine, alive - fine)
        rows.append((f"`{file}`", done["places"], made, made - alive, fine, alive - fine))
    rows.append((f"{len(rows)} files", sum(done["places"] for done in result["jobs"].values()), *total))
    parts = [markdown(("file", "places", "mutants", "noticed", "need not be", "survive"), rows)]
    for title, wanted in (("Survivors that a test should notice", False), ("Survivors that need not be noticed", True)):
        lines = [
            (f"`{file}` `{each['where']}`", code(each["before"]), code(each["after"]), reason(file, each) or "")
            for file, each in left
            if (reason(file, each) is not None) == wanted
        ]
        header = ("where", "before", "after", "why")[: 4 if wanted else 3]
        if lines:
            parts.append(f"**{title}**\n\n{markdown(header, [line[: len(header)] for line in lines], right=False)}")
    return "\n\n".join(parts)


def survivors(done: Result) -> list[Result]:
    return [each for each in done["mutants"] if each["outcome"] not in NOTICED]


def code(text: str) -> str:
    return f"`{text}`".replace("|", "\\|")


TABLES = by_name(kills, resumes, two_writers, soak, wrong_lines, hostile_files, mutants)
