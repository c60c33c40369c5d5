"""`surefoot evaluate`: measure the policies of finished runs on fresh episodes, in any dynamics."""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro

from surefoot.agents.parts.ranges import unread_where
from surefoot.configs.casting import is_yaml
from surefoot.configs.ranges import LARGEST_SEED, require_between
from surefoot.envs import EnvConfig, examine_task, require_time_limit
from surefoot.envs.uncertainty import batched_episodes
from surefoot.evaluation import objectives
from surefoot.evaluation import uncertainty_grid as grid
from surefoot.evaluation.describe import Record, describe
from surefoot.evaluation.episodes import NUM_ENVS, divergence, evaluate
from surefoot.evaluation.figures.caption import caption_of_policy
from surefoot.evaluation.figures.video import STEPS as VIDEO_STEPS
from surefoot.evaluation.figures.video import record_episode, require_drawable
from surefoot.evaluation.policies import AnyPolicy, fitted, for_task
from surefoot.evaluation.statistics import iqm, stratified_bootstrap
from surefoot.evaluation.storage import load
from surefoot.training.cli.opening import Opening, open_all
from surefoot.training.cli.options import read_options
from surefoot.training.cli.outputs import require_output, require_own
from surefoot.training.cli.results import (
    exit_code,
    noting_unwritten,
    output_path,
    provenance,
    show,
    write_json,
    write_record,
)
from surefoot.training.comparison import grid_table, objectives_table
from surefoot.training.config.presets import from_plain, laid_over
from surefoot.training.config.unread import refuse_given
from surefoot.training.loop.engines import pick_device
from surefoot.training.runs.console import print_table
from surefoot.training.runs.folder import best_in_words, read_config, read_meta, seed_folders
from surefoot.training.runs.setting import Copy, Settings, copies_of, copy_note, in_label, setting_of, what_differs

EPISODES = 20
STATISTICS: dict[str, Callable[..., Any]] = {"iqm": iqm, "mean": np.mean, "median": np.median}


@dataclass(frozen=True)
class Request(Opening):
    """The policies to evaluate, and how."""

    runs: tyro.conf.Positional[tuple[Path, ...]]
    """Run folders, policy files (.pt), Stable-Baselines3 archives (.zip), ONNX models (.onnx), TorchScript programs,
    `module:function`, or any of these files on the Hugging Face Hub, `hf:ORG/REPO[/FILE][@REVISION]`. A run with
    several seeds (--num-seeds) counts as so many runs."""
    env: EnvConfig = field(default_factory=lambda: EnvConfig(id="", num_envs=NUM_ENVS))
    """The task. Fields not given are the run's own, with the dynamics of its `eval.physics`; `num_envs` is the number
    of episodes run in parallel."""
    objective: tuple[str, ...] = ()
    """Objectives to evaluate on the discounted return instead, for runs of dhn: mean, cvar(0.1), target(2), ... The
    policy acts for each in turn, without retraining. Results are values with 95% intervals, and figures."""
    search_episodes: int | None = None
    """Choose the initial stock of each objective by the returns of so many episodes from each of ten stocks, in place
    of the network's estimates, and predict by as many others."""
    grid: str | None = None
    """Evaluate over this uncertainty set instead: hopper-2, ..., or a YAML file (docs/guides/uncertainty_sets.md)."""
    n: int = 10
    """Grid values per parameter."""
    closed: bool = False
    """Include both ends of each range in the grid; the published grids leave out the upper end."""
    episodes: int | None = None
    """Episodes per seed: by default 20, for objectives 20,000, on a grid 10 per point; episode i starts from reset seed
    `seed + i`."""
    seeds: tuple[int, ...] = (10_000,)
    """Reset seeds; the default differs from those that training selected its best policy by."""
    video: bool = False
    """Also record the first episode of every run as an MP4."""
    video_steps: int = VIDEO_STEPS
    """Steps of that episode that are recorded at most; every 1,000 take some 200 MB of memory."""
    json: Path | None = None
    """Also write all results and the aggregate to this file."""
    device: str = "cpu"
    """Device of the policies: `auto`, `cpu`, `cuda` or `cuda:N`."""


def main(arguments: list[str]) -> int:
    """Measure, print the tables, write the JSON files, and return the exit code."""
    request = parse(arguments)
    request = replace(request, runs=tuple(folder for run in request.runs for folder in seed_folders(run)))
    check(request)
    device = pick_device(request.device)
    chosen = open_all(request.runs, request, device)
    for run in request.runs if request.checkpoint == "best" else ():
        if run.is_dir():
            print(f"{run}: best.pt was chosen by {best_in_words(run)}")
    ready = [_for_task(arguments, path, policy) for path, policy in zip(request.runs, chosen, strict=True)]
    chosen, tasks = [policy for policy, _ in ready], [task for _, task in ready]
    for task in {repr(task): task for task in tasks}.values():
        examine_task(task)
        require_time_limit(task)
    for line in dict.fromkeys(f"note: {policy.label}: {note}" for policy in chosen for note in policy.notes):
        print(line)
    for task in {repr(task): task for task in tasks}.values() if request.video else ():
        require_drawable(task)
    if request.objective:
        return _for_objectives(request, chosen, tasks, device)
    if request.grid is not None:
        return _over_grid(request, chosen, tasks, device)
    records, settings, unwritten = [], [], list[str]()
    for path, policy, task in zip(request.runs, chosen, tasks, strict=True):
        records.append(measure(policy, task, request, device))
        settings.append(_setting(path) if policy.policy is not None else {})
        with noting_unwritten(unwritten):
            write_record(path, records[-1])
        if request.video:
            with noting_unwritten(unwritten):
                _film(path, policy, task, request, records[-1])
    copies = copies_of([_copy(*one) for one in zip(request.runs, chosen, settings, records, strict=True)])
    for place, counted in copies.items():
        print(f"note: {copy_note(request.runs[place], chosen[place].training_seed, request.runs[counted])}")
    once = [place for place in range(len(records)) if place not in copies]
    groups = aggregate([records[i] for i in once], [settings[i] for i in once]) if len(records) > 1 else []
    show(records, groups)
    for record in records:
        if line := divergence(record["diverged"], len(record["lengths"])):
            print(f"note: {record['label']}: {line}")
    if request.json is not None:
        with noting_unwritten(unwritten):
            write_json(request.json, {**provenance(), "results": records, "aggregate": groups})
    return exit_code(unwritten)


def _film(path: Path, policy: AnyPolicy, task: EnvConfig, request: Request, record: Record) -> None:
    """Record the first episode of a run, and say where the film is."""
    out = output_path(path, "videos", record, ".mp4")
    steps, device = request.video_steps, pick_device(request.device)
    before = signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))  # so that it tidies up
    try:
        ended = record_episode(policy.act, task, out, seed=request.seeds[0], steps=steps, device=device)
    finally:
        signal.signal(signal.SIGTERM, before)
    print(f"video: {out}" + ("" if ended else f", the first {steps:,} steps; --video-steps films more"))


def parse(arguments: Sequence[str], env: EnvConfig | None = None) -> Request:
    """Return the request; the fields of `env` are the defaults of the `--env` options."""
    default = Request(runs=()) if env is None else Request(runs=(), env=env)
    request = read_options(Request, args=arguments, default=default, prog="surefoot evaluate")
    return replace(request, env=laid_over(request.env, default.env))


def unread_of(request: Request) -> dict[str, str]:
    """Return the options that an evaluation does not read as the others are, and why."""
    return unread_where(
        (request.grid is None, ("n", "closed"), "without --grid"),
        (not request.video, ("video_steps",), "without --video"),
        (True, ("env.termination",), "on an evaluation: its episodes end where the task's do"),
    )


def check(request: Request) -> None:
    """Raise `ValueError` for requests that would count something twice or nothing at all."""
    if not request.runs:
        raise ValueError("name at least one run folder, policy file or archive to evaluate")
    require_output(request.json, ".json")
    require_own(request.json, "an evaluation", "results")
    require_between(
        request,
        {"episodes": (1, 10_000_000), "search_episodes": (1, 10_000_000), "n": (2, 10_000), "video_steps": (1, 10**9)},
    )
    if len({path.resolve() for path in request.runs}) < len(request.runs):
        raise ValueError("the same run is given twice; an interval over runs needs different ones")
    refuse_given(request, Request(runs=()), unread_of(request))
    starts, episodes = sorted(request.seeds), episodes_of(request)
    if request.grid is not None and request.video:
        raise ValueError("--video records one environment; leave it out with --grid")
    if request.grid is not None and request.objective:
        raise ValueError(
            "--objective measures the return distribution in one environment, --grid mean returns in many: choose one"
        )
    if not starts or starts[0] < 0 or starts[-1] > LARGEST_SEED:
        raise ValueError(f"--seeds must be numbers from 0 to {LARGEST_SEED:,}, not {starts}")
    if request.objective and (len(starts) > 1 or request.video):
        raise ValueError("--objective takes one of --seeds, and no --video: a tail is that of all episodes together")
    if request.search_episodes is not None and not request.objective:
        raise ValueError("--search-episodes is for --objective, whose initial stock is searched for")
    for one, following in pairwise(starts):
        if following - one < episodes:
            raise ValueError(
                f"--seeds {one} and {following} with {episodes} episodes each share start states; space them"
            )


def episodes_of(request: Request) -> int:
    """Return the episodes from each seed, by default those of the kind of measurement."""
    usual = objectives.EPISODES if request.objective else EPISODES if request.grid is None else grid.EPISODES
    return usual if request.episodes is None else request.episodes


def _for_task(arguments: Sequence[str], path: Path, policy: AnyPolicy) -> tuple[AnyPolicy, EnvConfig]:
    """Return the policy ready for its task, and that: its own with the `--env` options laid over it."""
    request = parse(arguments)
    of_set = grid.load_set(request.grid).env if request.grid is not None else ""
    if named := request.env.id or ("" if policy.env_config else of_set):
        policy = for_task(policy, named)
    own = policy.env_config or EnvConfig(id="")
    num_envs = NUM_ENVS if request.grid is None else batched_episodes.NUM_ENVS
    task = parse(arguments, replace(own, num_envs=num_envs)).env
    if policy.policy is None:  # `own` is what --env.id stands for today
        task = replace(task, id=own.id, kwargs=own.kwargs | task.kwargs)
    if not task.id:
        raise ValueError(f"{path}: does not say which task it was trained on; add --env.id")
    return fitted(policy, task), task


def measure(policy: AnyPolicy, task: EnvConfig, request: Request, device: torch.device) -> Record:
    """Return the results of one policy and everything needed to get them again, as plain values."""
    episodes = episodes_of(request)
    results = [
        evaluate(policy.act, task, episodes=episodes, seed=seed, device=device, num_envs=task.num_envs)
        for seed in request.seeds
    ]
    scores = [result.score for result in results if result.score is not None]
    return {
        "label": policy.label,
        "agent": policy.agent_name,
        "step": policy.step,
        "checkpoint": request.checkpoint,
        "env": asdict(task),
        "seeds": list(request.seeds),
        "episodes": episodes,
        "return": _summary(np.concatenate([result.returns for result in results])),
        "score": _summary(np.concatenate(scores)) if scores else None,
        "lengths": np.concatenate([result.lengths for result in results]).tolist(),
        "diverged": sum(int(result.broken.sum()) for result in results),
        **_origin(policy),
    }


def _origin(policy: AnyPolicy) -> Record:
    """Return where a policy of others comes from; a run's folder says it itself."""
    names = () if policy.policy is not None else ("source", "sha256", "trained_on", "wrappers", "notes")
    return {name: getattr(policy, name) for name in names}


def _summary(values: np.ndarray) -> Record:
    return {
        "mean": float(values.mean()),
        "std": float(values.std()),  # of the episodes, divided by their number
        "iqm": float(iqm(values)),
        "min": float(values.min()),
        "max": float(values.max()),
        "values": values.tolist(),
    }


def _setting(path: Path) -> Settings:
    """Return how the run or policy file at a path was trained."""
    if path.is_dir():
        return setting_of(*read_config(path), read_meta(path))
    content = load(path)
    return setting_of(*from_plain(content["config"], str(path)), content)


def _copy(path: Path, policy: AnyPolicy, setting: Settings, record: Record) -> Copy:
    """Return what tells whether a policy is of the seed and setting of another; one of others does not say."""
    seed = policy.training_seed if policy.policy is not None else None
    updated = read_meta(path).get("updated", "") if path.is_dir() else ""
    return Copy(repr((setting, record["env"])), seed, policy.step, str(updated))


def aggregate(records: Sequence[Record], settings: Sequence[Settings]) -> list[Record]:
    """Return statistics over runs, each run counting by its mean, with 95% intervals; None where a task has one run.

    Runs of an agent that differ on a task in more than their seed (`settings`) are different methods. Scores are
    comparable across tasks, so where every run has one, a method's tasks are pooled as strata; returns are not, so
    otherwise every task has a row of its own.
    """
    unit = "score" if all(record["score"] for record in records) else "return"
    tasks = [json.dumps(record["env"], sort_keys=True) for record in records]
    groups: dict[tuple[str, ...], dict[str, list[float]]] = {}
    for record, task, method in zip(records, tasks, _methods(records, tasks, settings), strict=True):
        key = (record["agent"], method) if unit == "score" else (record["agent"], method, task)
        groups.setdefault(key, {}).setdefault(task, []).append(record[unit]["mean"])
    return [_aggregate_group(key[0], key[1], unit, list(strata.values())) for key, strata in groups.items()]


def _methods(records: Sequence[Record], tasks: Sequence[str], settings: Sequence[Settings]) -> Iterator[str]:
    """Yield the name of each record's method: its agent, and the settings in which runs of it differ on some task."""
    alike: dict[tuple[str, str], list[Settings]] = {}
    for record, task, setting in zip(records, tasks, settings, strict=True):
        alike.setdefault((record["agent"], task), []).append(setting)
    for record, setting in zip(records, settings, strict=True):
        names = [name for (agent, _), many in alike.items() if agent == record["agent"] for name in what_differs(many)]
        yield ", ".join([record["agent"], *in_label(setting, names)])


def _aggregate_group(agent: str, method: str, unit: str, strata: list[list[float]]) -> Record:
    pooled = np.concatenate(strata)
    group: Record = {"agent": agent, "method": method, "unit": unit, "tasks": len(strata), "runs": len(pooled)}
    for name, statistic in STATISTICS.items():
        generator = np.random.default_rng(0)
        interval = stratified_bootstrap([np.array(runs) for runs in strata], statistic, generator=generator)
        group[name] = {"value": float(statistic(pooled)), "interval": None if interval is None else list(interval)}
    return group


def _for_objectives(
    request: Request, chosen: Sequence[AnyPolicy], tasks: Sequence[EnvConfig], device: torch.device
) -> int:
    """Measure every objective on every run; print a table each, write numbers and figures."""
    from surefoot.evaluation.figures.distributions import draw_objectives  # matplotlib takes half a second

    records, unwritten = [], list[str]()
    for path, policy, task in zip(request.runs, chosen, tasks, strict=True):
        record: Record = {"label": policy.label, "agent": policy.agent_name, "step": policy.step, "env": asdict(task)}
        record |= {"checkpoint": request.checkpoint, "seeds": list(request.seeds), "episodes": episodes_of(request)}
        settings = {"episodes": record["episodes"], "seed": request.seeds[0], "device": device}
        settings["search_episodes"] = request.search_episodes
        measured = objectives.measure_objectives(policy.policy, task, request.objective, **settings)
        record["objectives"] = list(request.objective)
        if request.search_episodes is not None:
            record["search_episodes"] = request.search_episodes
        where = (output_path(path, "plots", record, f"-{name}.png") for name in ("distribution", "paths"))
        caption = caption_of_policy(policy.label, task, policy.training_seed, request.seeds)
        with noting_unwritten(unwritten):
            for figure in draw_objectives(policy.policy, task, measured, caption, *where, seed=request.seeds[0]):
                print(f"figure: {figure}")
        records.append(record | {"results": [objectives.plain(m) for m in measured]})
        with noting_unwritten(unwritten):
            write_json(output_path(path, "evaluations", record, ".json"), {**provenance(), **records[-1]})
        print_table(objectives_table(f"{policy.label}: {describe(record['env'])}", measured))
    if request.json is not None:
        with noting_unwritten(unwritten):
            write_json(request.json, {**provenance(), "results": records})
    return exit_code(unwritten)


def _over_grid(request: Request, chosen: Sequence[AnyPolicy], tasks: Sequence[EnvConfig], device: torch.device) -> int:
    """Measure every run at every point of the set; print a table, write JSON, CSV and a figure a run."""
    from surefoot.evaluation.figures import maps  # matplotlib takes half a second

    assert request.grid is not None
    uncertainty, episodes = grid.load_set(request.grid), episodes_of(request)
    shared: Record = {
        "n": request.n,
        "closed": request.closed,
        "episodes": episodes,
        "seeds": request.seeds,
        "device": device,
    }
    results = [
        grid.evaluate_static(policy.act, task, uncertainty, **shared)
        for policy, task in zip(chosen, tasks, strict=True)
    ]
    limits = maps.shared_limits(results)
    records, unwritten = [], list[str]()
    for path, policy, task, result in zip(request.runs, chosen, tasks, results, strict=True):
        record: Record = {"label": policy.label, "agent": policy.agent_name, "step": policy.step, "env": asdict(task)}
        record |= {"checkpoint": request.checkpoint, "seeds": list(request.seeds), "episodes": episodes}
        record |= {"set": Path(request.grid).stem, **_origin(policy)}
        if is_yaml(request.grid):  # of which there can be several of a name
            record["set_code"] = grid.code_of(uncertainty)
        record |= {"grid": "closed" if request.closed else "half-open", "n": request.n}
        out = {suffix: output_path(path, "evaluations", record, suffix) for suffix in (".json", ".csv", ".png")}
        records.append(record | grid.plain(result))
        caption = caption_of_policy(policy.label, task, policy.training_seed, request.seeds, maps.grid_shows(result))
        with noting_unwritten(unwritten):
            write_json(out[".json"], {**provenance(), **records[-1]})
            grid.write_csv(out[".csv"], result)
            figure = maps.draw(policy.label, result, out[".png"], caption, limits)
            print(f"table: {out['.csv']}" + (f", figure: {figure}" if figure else ""))
    labelled = [(policy.label, result) for policy, result in zip(chosen, results, strict=True)]
    print_table(grid_table(f"{records[0]['set']}, {records[0]['grid']} grid", labelled))
    for line in dict.fromkeys(line for result in results for line in grid.remarks(result)):
        print(f"note: {line}")
    if request.json is not None:
        with noting_unwritten(unwritten):
            write_json(request.json, {**provenance(), "results": records})
    return exit_code(unwritten)
