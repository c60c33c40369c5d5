"""`surefoot plot`: learning curves of runs, and panels of what their agents logged."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import tyro

from surefoot import agents
from surefoot.training.cli.imports import quick_imports
from surefoot.training.cli.outputs import require_output


@dataclass(frozen=True)
class Request:
    """The runs and metrics to plot."""

    runs: tyro.conf.Positional[tuple[Path, ...]]
    """Run folders; runs that differ only in their seed share a curve with an interval, and so do those of one run with
    several (--num-seeds)."""
    metric: tuple[str, ...] = ()
    """`worst_case`, `objective`, `episode_return`, `score` or `length` of the evaluations, or columns of metrics.csv,
    one panel each. Default: the return and, next to it, the worst case or the objective of runs that are for it; of
    bandit runs, which have no evaluations, the cumulative regret."""
    out: Path = Path("learning_curves.png")
    """File to write; its suffix selects the format (png, pdf, svg)."""


def main(arguments: list[str]) -> int:
    """Draw, and return the exit code."""
    request = parse(arguments)
    if not request.runs:
        raise ValueError("name at least one run folder to plot")
    require_output(request.out, ".png", ".pdf", ".svg")
    with quick_imports():  # not sooner: `--help` needs neither PyTorch nor matplotlib
        from surefoot.evaluation.figures.curves import EVALUATION_LABELS, learning_curves, metric_panels, regret_curves
        from surefoot.training.runs.folder import read_config, seed_folders
    folders = [folder for run in request.runs for folder in seed_folders(run)]
    runs = group(folders)
    logged = [name for name in request.metric if name not in EVALUATION_LABELS]
    if request.metric in ((), ("episode_return",)) and all((run / "regret.npz").is_file() for run in folders):
        units = {agents.get(read_config(run)[0]).regret for run in folders}
        if len(units) > 1:
            raise ValueError("regret per round and regret per episode do not share a figure; plot these runs apart")
        regret_curves(runs, request.out, unit=str(units.pop()))
    elif logged and len(logged) < len(request.metric):
        raise ValueError(f"{', '.join(logged)}: logged while training; plot evaluation metrics separately")
    elif logged:
        metric_panels(runs, request.out, logged)
    elif len(request.metric) > 1:
        raise ValueError(f"one evaluation metric per figure, not {', '.join(request.metric)}")
    else:
        learning_curves(runs, request.out, metric=request.metric[0] if request.metric else None)
    print(f"figure: {request.out}")
    return 0


def parse(arguments: Sequence[str]) -> Request:
    """Return the request; wrong options end the process, as `argparse` does."""
    return tyro.cli(Request, args=arguments, default=Request(runs=()), prog="surefoot plot")


def group(folders: Sequence[Path]) -> dict[str, list[Path]]:
    """Return label -> runs. Runs are seeds of one method where all that decides their numbers is equal but the seed."""
    from surefoot.training.runs.folder import method_name, read_config, read_meta
    from surefoot.training.runs.setting import setting_of

    methods: dict[str, list[Path]] = {}
    names: dict[str, str] = {}
    for folder in folders:
        agent_name, config = read_config(folder)
        method = repr(setting_of(agent_name, config, read_meta(folder)))
        methods.setdefault(method, []).append(folder)
        names[method] = f"{method_name(agent_name, config)}, {config.env.id}"
    if len({name.split(", ")[1] for name in names.values()}) == 1:  # the task goes without saying
        names = {method: name.split(", ")[0] for method, name in names.items()}
    shared = [name for name in names.values() if list(names.values()).count(name) > 1]
    return {
        f"{names[method]}: {runs[0].name}" if names[method] in shared else names[method]: runs
        for method, runs in methods.items()
    }
