"""`surefoot report`: one page of everything under some folders, and the numbers behind it as a CSV file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import tyro

from surefoot.training.cli.imports import quick_imports
from surefoot.training.cli.options import read_options
from surefoot.training.cli.outputs import require_beside, require_output


@dataclass(frozen=True)
class Request:
    """The runs to report on."""

    folders: tyro.conf.Positional[tuple[Path, ...]]
    """Run folders, sweeps, or folders that contain some."""
    out: Path | None = None
    """The HTML file; the CSV file of the same name is written next to it. Default: report.html in the first folder."""


def main(arguments: list[str]) -> int:
    """Write the page and the CSV file, and return the exit code."""
    request = read_options(Request, args=arguments, default=Request(folders=()), prog="surefoot report")
    if not request.folders:
        raise ValueError("name at least one run folder, sweep or folder that holds some")
    out = request.out or request.folders[0] / "report.html"
    require_output(out, ".html")
    require_beside(out, ".csv", "task,method,agent,metric,")
    with quick_imports():  # not sooner: `--help` needs neither PyTorch nor matplotlib
        from surefoot.evaluation.storage import write_atomically
        from surefoot.training.report.data import gather
        from surefoot.training.report.numbers import numbers, write_csv
        from surefoot.training.report.page import page
    findings = gather(request.folders)
    out.parent.mkdir(parents=True, exist_ok=True)
    statistics = numbers(findings)
    text = page(findings, statistics)
    write_csv(statistics, out.with_suffix(".csv"))
    write_atomically(out, lambda file: file.write(text.encode()))
    finished = sum(run.finished for run in findings.runs)
    print(f"{finished} finished runs, {len(findings.losses)} others, {len(findings.skipped)} skipped")
    for repeat in findings.repeats:
        print(f"note: {repeat.note}")
    print(f"page: {out}\nnumbers: {out.with_suffix('.csv')}")
    return 0
