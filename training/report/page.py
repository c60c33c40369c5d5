"""The report as one HTML file: no script, nothing fetched, light and dark, on a phone and in print."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from html import escape
from importlib import metadata
from typing import Any

import numpy as np

from surefoot.evaluation.statistics import Interval
from surefoot.training.report import figures
from surefoot.training.report.data import Cell, Findings, RunFacts
from surefoot.training.report.numbers import (
    OBJECTIVE_UNIT,
    TAIL,
    EvalFigure,
    Statistic,
    changes,
    differences,
    episodes_by_env,
    final_values,
    grid_map,
    improvements,
    measured_by,
    misjudged,
    physics_map,
    shared,
    slopes,
)
from surefoot.training.runs.provenance import git_commit

# The policy of the page forbids every request, so that opening it cannot be traced.
POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
STYLE = """
:root { color-scheme: light dark; --ink: #16191d; --soft: #59616b; --line: #d4d8dd; --ground: #ffffff; --card: #f6f7f9;
  --warn: #8a3b00; --shade: #0006; }
@media (prefers-color-scheme: dark) { :root { --ink: #e8eaed; --soft: #a3abb5; --line: #3a4048; --ground: #14171a;
  --card: #1c2024; --warn: #ffb37a; --shade: #fff6; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1rem; max-width: 78rem; color: var(--ink); background: var(--ground);
  font: 1rem/1.5 system-ui, sans-serif; }
h1 { font-size: 1.5rem; margin: 0 0 .25rem; } h2 { font-size: 1.2rem; margin: 2.5rem 0 .5rem; }
h3 { font-size: 1rem; margin: 1.5rem 0 .5rem; overflow-wrap: anywhere; }
p, li { max-width: 46rem; } .soft { color: var(--soft); } .warn { color: var(--warn); }
.figures { display: grid; gap: 1rem; grid-template-columns: repeat(auto-fill, minmax(min(100%, 24rem), 1fr)); }
figure { margin: 0; padding: .75rem; background: var(--card); border: 1px solid var(--line); border-radius: .5rem; }
figure svg { display: block; width: 100%; height: auto; }
figcaption { font-size: .875rem; color: var(--soft); overflow-wrap: anywhere; }
.table { overflow-x: auto; background: linear-gradient(to right, var(--ground) 40%, transparent) 0 0 / 3rem 100%,
  linear-gradient(to left, var(--ground) 40%, transparent) 100% 0 / 3rem 100%,
  linear-gradient(to right, var(--shade), transparent) 0 0 / 1.25rem 100%,
  linear-gradient(to left, var(--shade), transparent) 100% 0 / 1.25rem 100%;
  background-repeat: no-repeat; background-attachment: local, local, scroll, scroll; }
.figures + .table { margin-top: 1rem; } .table:focus-visible { outline: 2px solid currentColor; }
table { border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .75rem .3rem 0; text-align: right; border-bottom: 1px solid var(--line); white-space: nowrap; }
th:first-child, td:first-child, .words td, .words th { text-align: left; }
.words td { white-space: normal; overflow-wrap: anywhere; min-width: 6rem; vertical-align: top; }
pre { overflow-x: auto; font-size: .8rem; background: var(--card); padding: .5rem; border-radius: .25rem; }
.swatch { width: 1.75em; height: .6em; vertical-align: middle; }
@media print { :root { --ink: #000; --soft: #444; --line: #bbb; --ground: #fff; --card: #fff; --warn: #000; }
  .table { background: none; } body { font-size: 10pt; max-width: none; padding: 0; }
  figure, tr, pre { break-inside: avoid; }
  h2, h3 { break-after: avoid; } .figures { grid-template-columns: 1fr 1fr; } pre { white-space: pre-wrap; } }
"""


def page(findings: Findings, numbers: Sequence[Statistic]) -> str:
    """Return the whole page."""
    sections = (
        _summary(findings),
        *_learning(findings, numbers),
        *_comparisons(findings),
        *_perturbed(findings, numbers),
        *_regret(findings),
        *_cost(findings, numbers),
        *_configurations(findings),
        *_provenance(findings),
        *_losses(findings),
    )
    return document(
        f"Surefoot report: {', '.join(dict.fromkeys(method.agent for method in findings.methods))}", sections
    )


def document(title: str, sections: Iterable[str]) -> str:
    """Return an HTML document: a heading and sections."""
    return (
        f'<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<title>{escape(title)}</title>\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n'
        f"<style>{STYLE}</style>\n</head>\n<body>\n<main>\n<h1>{escape(title)}</h1>\n"
        + "\n".join(sections)
        + "\n</main>\n</body>\n</html>\n"
    )


# --- pieces -----------------------------------------------------------------------------------------------------------


def section(title: str, *parts: str) -> str:
    """Return a section with a heading."""
    return "\n".join((f"<section>\n<h2>{escape(title)}</h2>", *parts, "</section>"))


def table(header: Sequence[str], rows: Sequence[Sequence[str]], words: bool = False) -> str:
    """Return a table that scrolls by itself where it is wider than the page; cells are HTML.

    A shade at an edge tells that there is more beyond it: it stays while its cover, in the colour of the page, scrolls
    along with the table. The keyboard and screen readers get there by the region's tab stop and name.
    """
    head = "".join(f"<th>{escape(name)}</th>" for name in header)
    body = "\n".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows)
    kind = ' class="words"' if words else ""
    name = escape(f"Table of {', '.join(header)}; scrolls sideways where it is wider than the page")
    region = f'<div class="table" role="region" tabindex="0" aria-label="{name}">'
    return f"{region}<table{kind}><thead><tr>{head}</tr></thead><tbody>\n{body}\n</tbody></table></div>"


def gallery(drawings: Sequence[str]) -> str:
    """Return figures side by side, or one below the other on a phone."""
    return '<div class="figures">\n' + "\n".join(drawings) + "\n</div>"


def shown(value: float, digits: int = 4) -> str:
    """Return a number with its significant digits."""
    if value != value:
        return "–"
    whole = f"{value:,.0f}" if abs(value) >= 10 ** (digits - 1) else f"{value:.{digits}g}"
    return whole.replace("-", "−")


def with_interval(statistic: Statistic) -> str:
    """Return a number with its interval, or with the reason why there is none."""
    if statistic.interval is None:
        return f'{shown(statistic.value)} <span class="soft">1 seed: no interval</span>'
    low, high = map(shown, statistic.interval)
    return f'{shown(statistic.value)} <span class="soft">[{low}, {high}]</span>'


def name_of(findings: Findings, label: str) -> str:
    """Return a method's name behind a piece of its line."""
    method = next(method for method in findings.methods if method.label == label)
    return f"{figures.swatch(method)} {escape(label)}"


def _grouped(cells: Sequence[Cell]) -> dict[str, list[Cell]]:
    """Return {task: cells with finished runs}."""
    groups: dict[str, list[Cell]] = {}
    for cell in cells:
        if cell.runs:
            groups.setdefault(cell.task, []).append(cell)
    return groups


# --- sections ---------------------------------------------------------------------------------------------------------


def _summary(findings: Findings) -> str:
    finished = sum(run.finished for run in findings.runs)
    text = f"{finished} finished runs of {len(findings.methods)} methods on {len(findings.tasks)} tasks."
    if findings.losses or findings.skipped:
        text += f" <span class='warn'>Runs that did not finish: {len(findings.losses)}; folders and files skipped: "
        text += f"{len(findings.skipped)}; see the end of the page.</span>"
    if findings.repeats:
        text += f" <span class='warn'>Runs of a seed that another run has, too, and left out: {len(findings.repeats)}; "
        text += "see the end of the page.</span>"
    return (
        f"<p>{text}</p>\n<p class='soft'>The seed is the unit of replication: episodes of one run never count as "
        "replicates. Every number is an interquartile mean over seeds, with a 95% interval from a stratified bootstrap "
        "over seeds (Agarwal et al. 2021); from fewer than five seeds such intervals come out too narrow. One seed has "
        "no interval and no band. Only finished runs are part of a number; the column “seeds” has how "
        "many, and of how many that were begun.</p>"
    )


def _learning(findings: Findings, numbers: Sequence[Statistic]) -> Iterator[str]:
    drawings = []
    for cells in _grouped(findings.cells).values():
        by_figure: dict[EvalFigure, list[Cell]] = {}
        for cell in cells:
            for measured in measured_by(cell.runs):
                by_figure.setdefault(measured, []).append(cell)
        drawings += [figures.learning_curves(drawn, measured) for measured, drawn in by_figure.items()]
    if drawings:
        parts = [gallery(drawings), *_scores(findings, numbers)]
        yield section("Learning", *parts)


def _scores(findings: Findings, numbers: Sequence[Statistic]) -> Iterator[str]:
    """Yield one table per task of the last and the best evaluation."""
    for task in dict.fromkeys(statistic.task for statistic in numbers):
        mine = [statistic for statistic in numbers if statistic.task == task and _is_of_training(statistic)]
        present = list(dict.fromkeys(statistic.metric for statistic in mine))
        if present:
            yield f"<h3>{escape(task)}</h3>" + _metric_table(findings, mine, present)
    yield "<p class='soft'>“Best” takes of each seed the evaluation of its best.pt: the best by what the run is for, "
    yield "its objective, its worst case over the uncertainty set, or the return. It is chosen on the episodes that it "
    yield "is measured by, so it is optimistic. “Final” is what a run ends with.</p>"


def _is_of_training(statistic: Statistic) -> bool:
    """Whether a number is of a run's own evaluations."""
    return statistic.metric.startswith(("final ", "best ")) and statistic.metric != "final regret"


def _metric_table(findings: Findings, mine: Sequence[Statistic], metrics: Sequence[str]) -> str:
    labels = list(dict.fromkeys(statistic.method for statistic in mine))
    rows, settings = [], differences(findings, mine[0].task, labels)
    for label, *values in zip(labels, *settings.values(), strict=True):
        found = {statistic.metric: statistic for statistic in mine if statistic.method == label}
        first = next(iter(found.values()))
        seeds = f"{first.seeds} of {first.begun}" if first.seeds < first.begun else str(first.seeds)
        cells = [with_interval(found[metric]) if metric in found else "–" for metric in metrics]
        rows.append([name_of(findings, label), *map(escape, values), seeds, *cells])
    units = {statistic.metric: statistic.unit for statistic in mine}
    return table(["method", *settings, "seeds", *(f"{metric} ({units[metric]})" for metric in metrics)], rows)


def _comparisons(findings: Findings) -> Iterator[str]:
    measured, values = final_values(findings)
    pairs = improvements(findings)
    if not pairs:
        return
    cells = [cell for cell in findings.cells if cell.method.label in values and cell.task in values[cell.method.label]]
    drawings = [figures.improvement_bars(pairs, findings.methods, cells)]
    what = f"final {measured.axis}"
    pooled = {"all tasks": {m: np.concatenate(list(tasks.values())) for m, tasks in values.items()}}
    by_task = {task: {m: tasks[task] for m, tasks in values.items() if task in tasks} for task in findings.tasks}
    for where, runs in (pooled if measured.name == "score" else by_task).items():
        if len(runs) > 1:
            mine = [cell for cell in cells if measured.name == "score" or cell.task == where]
            drawings.append(figures.profiles(runs, findings.methods, mine, what, where))
    rows = [
        [
            f"{name_of(findings, pair.ours)} over {escape(pair.theirs)}",
            str(pair.tasks),
            f"{pair.seeds[0]} and {pair.seeds[1]}",
            f"{pair.probability.value:.2f}",
            "1 seed: none" if pair.probability.interval is None else _span(pair.probability.interval),
        ]
        for pair in pairs
    ]
    header = ["method", "tasks", "seeds per task", "P(better)", "95% interval"]
    yield section("Between methods", gallery(drawings), table(header, rows))


def _span(interval: Interval) -> str:
    return f"[{interval.low:.2f}, {interval.high:.2f}]"


def _perturbed(findings: Findings, numbers: Sequence[Statistic]) -> Iterator[str]:
    """Yield what `surefoot evaluate` found in other dynamics: heat maps, distributions of returns, CVaR."""
    drawings, rows = [], []
    for task, cells in _grouped(findings.cells).items():
        by_env: dict[str, list[Cell]] = {}
        for cell in cells:
            maps = {task: physics_map(cell)} | {name: grid_map(cell, name) for name in shared("grids", cell)}
            for where, found in maps.items():
                if found is not None:
                    drawings.append(figures.heat_map(found, cell, where))
            for env in episodes_by_env(cell.runs[0]):
                if all(env in episodes_by_env(run) for run in cell.runs):
                    by_env.setdefault(env, []).append(cell)
        for env, drawn in by_env.items():
            drawings.append(figures.return_distributions(drawn, env))
    for statistic in numbers:
        elsewhere = statistic.metric.startswith(("CVaR", "worst case", "average"))
        if elsewhere or (statistic.unit == OBJECTIVE_UNIT and not _is_of_training(statistic)):
            rows.append(
                [
                    name_of(findings, statistic.method),
                    escape(statistic.metric + misjudged(findings, statistic)),
                    str(statistic.seeds),
                    with_interval(statistic),
                ]
            )
    if rows:
        text = (
            f"<p class='soft'>CVaR is the mean of the worst {TAIL:.0%} of a run's episodes, then over seeds. "
            "Objectives are of the discounted return: predicted by the network, and achieved by the policy.</p>"
        )
        parts = (gallery(drawings), table(["method", "measure", "seeds", "value (reward)"], rows, words=True), text)
        yield section("Under other dynamics, and in the tail", *parts)


def _regret(findings: Findings) -> Iterator[str]:
    groups = {
        task: [cell for cell in cells if all(run.regret is not None for run in cell.runs)]
        for task, cells in _grouped(findings.cells).items()
    }
    drawings = [figures.regret_curves(cells) for cells in groups.values() if cells]
    if drawings:
        rows = []
        for cells in groups.values():
            for cell in cells:
                slope, replicates = slopes(cell)
                final = np.concatenate([run.regret[1][-1] for run in cell.runs if run.regret is not None])
                name = name_of(findings, cell.method.label)
                rows.append([name, escape(cell.task), str(replicates), shown(float(final.mean())), shown(slope, 3)])
        header = ["method", "task", "replicates", "mean regret", "slope"]
        text = "<p class='soft'>Slope: of log regret against log round over the last decade.</p>"
        yield section("Regret", gallery(drawings), table(header, rows, words=True), text)


def _cost(findings: Findings, numbers: Sequence[Statistic]) -> Iterator[str]:
    parts = []
    for task in dict.fromkeys(statistic.task for statistic in numbers):
        mine = [statistic for statistic in numbers if statistic.task == task and statistic.metric in ("time", "speed")]
        if mine:
            present = [metric for metric in ("time", "speed") if any(statistic.metric == metric for statistic in mine)]
            parts.append(f"<h3>{escape(task)}</h3>" + _metric_table(findings, mine, present))
    if parts:
        parts.append("<p class='soft'>Wall-clock, evaluations included. Speeds compare only on one idle machine.</p>")
        yield section("Time", *parts)


def _configurations(findings: Findings) -> Iterator[str]:
    parts = []
    for cell in findings.cells:
        run = (cell.runs or _begun(findings, cell))[0]
        rows = [[f"<code>{escape(n)}</code>", _code(old), _code(new)] for n, (old, new) in changes(run).items()]
        body = table(["field", "default", "this report"], rows, words=True) if rows else "<p>All defaults.</p>"
        parts.append(f"<h3>{name_of(findings, cell.method.label)}: {escape(cell.task)}</h3>{body}")
    yield section("Settings that differ from the defaults", *parts)


def _begun(findings: Findings, cell: Cell) -> list[RunFacts]:
    return [run for run in findings.runs if run.agent == cell.method.agent]


def _code(value: Any) -> str:
    return f"<code>{escape(str(value))}</code>"


def _provenance(findings: Findings) -> Iterator[str]:
    """Yield which code, versions and machines the runs were made with; more than one is worth a look."""
    kinds: dict[tuple[str, ...], int] = {}
    for run in findings.runs:
        meta = run.meta
        commit = str(meta.get("commit"))[:10] + (" (changed)" if meta.get("dirty") else "")
        versions = ", ".join(f"{name} {version}" for name, version in meta.get("versions", {}).items())
        hardware = meta.get("hardware", {})
        machine = f"{hardware.get('cpus')} CPUs {hardware.get('processor')}, GPU {hardware.get('gpu') or 'none'}"
        kinds[commit, versions, machine] = kinds.get((commit, versions, machine), 0) + 1
    rows = [[escape(text) for text in kind] + [str(count)] for kind, count in kinds.items()]
    version, commit = metadata.version("surefoot"), str(git_commit()["commit"])[:10]
    text = f"<p class='soft'>This page: surefoot {version}, commit {commit}.</p>"
    yield section("Versions", table(["commit", "versions", "machine", "runs"], rows, words=True), text)


def _losses(findings: Findings) -> Iterator[str]:
    if findings.losses:
        parts = [
            f"<h3>{escape(loss.name)}: {escape(loss.status)}</h3>"
            + (f"<pre>{escape(loss.end_of_log)}</pre>" if loss.end_of_log else "")
            for loss in findings.losses
        ]
        yield section("Runs that did not finish", *parts)
    if findings.repeats:
        lines = [f"<li>{escape(repeat.note)}</li>" for repeat in findings.repeats]
        yield section("Seeds that were run twice", "<ul>", *lines, "</ul>")
    if findings.skipped:
        rows = [[escape(str(one.path)), escape(one.reason)] for one in findings.skipped]
        yield section("Skipped", table(["folder or file", "reason"], rows, words=True))
