"""`surefoot plot`: learning curves of runs, and panels of what their agents logged."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro

from surefoot import agents
from surefoot.training.cli.imports import quick_imports
from surefoot.training.cli.options import read_options
from surefoot.training.cli.outputs import require_output

LONGEST = 60  # characters by which the label of a method says in what it differs from others


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
    folders = one_a_seed([folder for run in request.runs for folder in seed_folders(run)])
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
    return read_options(Request, args=arguments, default=Request(runs=()), prog="surefoot plot")


def one_a_seed(folders: Sequence[Path]) -> list[Path]:
    """Return the runs without those of a seed and setting that another of them has, too; say which these are."""
    from surefoot.training.runs.folder import last_step, read_config, read_meta
    from surefoot.training.runs.setting import Copy, copies_of, copy_note, setting_of

    found = []
    for folder in folders:
        (agent_name, config), meta = read_config(folder), read_meta(folder)
        setting = repr(setting_of(agent_name, config, meta))
        found.append(Copy(setting, config.seed, last_step(folder), str(meta.get("updated", ""))))
    copies = copies_of(found)
    for place, counted in copies.items():
        print(f"note: {copy_note(folders[place], found[place].seed, folders[counted])}")
    return [folder for place, folder in enumerate(folders) if place not in copies]


def group(folders: Sequence[Path]) -> dict[str, list[Path]]:
    """Return label -> runs. Runs are seeds of one method where all that decides their numbers is equal but the seed."""
    from surefoot.training.runs.folder import method_name, read_config, read_meta
    from surefoot.training.runs.setting import Settings, setting_of

    methods: dict[str, list[Path]] = {}
    names: dict[str, str] = {}
    settings: dict[str, Settings] = {}
    for folder in folders:
        agent_name, config = read_config(folder)
        setting = setting_of(agent_name, config, read_meta(folder))
        methods.setdefault(repr(setting), []).append(folder)
        names[repr(setting)] = f"{method_name(agent_name, config)}, {config.env.id}"
        settings[repr(setting)] = setting
    if len({name.split(", ")[1] for name in names.values()}) == 1:  # the task goes without saying
        names = {method: name.split(", ")[0] for method, name in names.items()}
    own: dict[str, str] = {}  # what tells a method apart from those of its name
    for name in names.values():
        alike = [method for method in methods if names[method] == name]
        apart = _told_apart([settings[method] for method in alike], [methods[method][0] for method in alike])
        own |= dict(zip(alike, apart, strict=True))
    return {": ".join(filter(None, (names[method], own[method]))): runs for method, runs in methods.items()}


def _told_apart(settings: Sequence[dict[str, Any]], firsts: Sequence[Path]) -> list[str]:
    """Return what to add to the name that some methods share: in what they differ, else the name of a run, or its path.

    Nothing for one alone. No two get the same.
    """
    from surefoot.training.runs.folder import whole_run
    from surefoot.training.runs.setting import in_label, what_differs

    differ = what_differs(settings)
    said = [", ".join(in_label(setting, differ)) for setting in settings]
    named = [whole_run(folder).name for folder in firsts]
    fitting = [labels for labels in (said, named) if max(map(len, labels)) <= LONGEST and len({*labels}) == len(labels)]
    return [*fitting, list(map(str, firsts))][0]
