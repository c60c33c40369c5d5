"""`surefoot stress`: where policies hold and where they fail, as one page and one JSON file."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from itertools import combinations
from pathlib import Path
from typing import Any

import torch
import tyro

from surefoot.configs.casting import option
from surefoot.configs.ranges import LARGEST_SEED, require_between
from surefoot.envs import SETS, EnvConfig, UncertaintySet, disturbances, examine_task, require_time_limit
from surefoot.envs.uncertainty.batched_episodes import NUM_ENVS
from surefoot.evaluation.describe import Record, describe
from surefoot.evaluation.policies import AnyPolicy, fitted, for_task
from surefoot.evaluation.storage import write_atomically
from surefoot.evaluation.stress.measure import SEED, stress
from surefoot.evaluation.stress.plays import Outcomes, Plays, require_plays
from surefoot.evaluation.uncertainty_grid import code_of, load_set
from surefoot.training.cli.opening import Opening, open_all
from surefoot.training.cli.options import read_options
from surefoot.training.cli.outputs import require_beside, require_output
from surefoot.training.config.presets import laid_over
from surefoot.training.config.unread import refuse_given
from surefoot.training.loop.engines import pick_device
from surefoot.training.runs.folder import seed_folders
from surefoot.training.runs.provenance import provenance
from surefoot.training.runs.setting import what_differs
from surefoot.training.runs.shared_policy import stress_page

BUDGET, EVERYTHING = 2_000, "disturbances"


@dataclass(frozen=True)
class Request(Opening):
    """The policies to stress, and how."""

    policies: tyro.conf.Positional[tuple[Path, ...]]
    """Run folders or whatever else `surefoot evaluate` opens, of one task; several are ranked."""
    env: EnvConfig = field(default_factory=lambda: EnvConfig(id="", num_envs=NUM_ENVS))
    """The task. Fields not given are the first policy's own; `num_envs` is the number of episodes run in parallel."""
    sets: tuple[str, ...] = ()
    """Uncertainty sets: halfcheetah-2, ..., YAML files, or `disturbances`: all that can differ in the task, with our
    ranges. By default that and the task's largest published set."""
    budget: int = BUDGET
    """Episodes per policy, all parts together."""
    worst_moment: int = 0
    """Also search for the moment of an episode at which the worst point of each set hurts most, if it lasts so many
    steps and the dynamics are nominal before and after; 0: not. Its episodes come on top of the budget."""
    seed: int = SEED
    """First reset seed; the parts of the test take theirs from it, 100,000 apart."""
    out: Path | None = None
    """The HTML file; the JSON file is written next to it. Default: `stress.html` in the first policy's run folder, or
    its name with `-stress.html` next to its file."""
    device: str = "cpu"
    """Device of the policies: `auto`, `cpu`, `cuda` or `cuda:N`."""


def main(arguments: list[str]) -> int:
    """Measure, write page and JSON, print what matters, and return the exit code."""
    request = parse(arguments)
    request = replace(request, policies=tuple(folder for path in request.policies for folder in seed_folders(path)))
    check(request)
    require_output(out_of(request))
    require_beside(out_of(request), ".json", '{"stress":')
    torch.set_num_threads(1)  # the cores are the physics'; a policy's small products would only wait for each other
    device = pick_device(request.device)
    chosen, task = _opened(arguments, request, device)
    examine_task(task)
    require_time_limit(task)
    sets = chosen_sets(request.sets, task)
    content = measure(request, chosen, task, sets, device)
    write(request, content)
    unfinished(request).unlink(missing_ok=True)
    return 0


def parse(arguments: Sequence[str], env: EnvConfig | None = None) -> Request:
    """Return the request; the fields of `env` are the defaults of the `--env` options."""
    default = Request(policies=()) if env is None else Request(policies=(), env=env)
    request = read_options(Request, args=arguments, default=default, prog="surefoot stress")
    return replace(request, env=laid_over(request.env, default.env))


def check(request: Request) -> None:
    """Raise `ValueError` for a request that names no policy, or one twice, or writes over what is none of its own."""
    if not request.policies:
        raise ValueError("name at least one run folder, policy file or archive to stress")
    if len({path.resolve() for path in request.policies}) < len(request.policies):
        raise ValueError("the same policy is given twice")
    of_models = {"env.termination": "on a stress test: its episodes end where the task's do"}
    refuse_given(request, Request(policies=()), of_models)
    if not 0 <= request.seed <= LARGEST_SEED:
        raise ValueError(f"--seed is {request.seed}; reset seeds are numbers from 0 to {LARGEST_SEED:,}")
    require_between(request, {"budget": (1, 100_000_000), "worst_moment": (0, 1_000_000)})
    if request.out is not None and request.out.suffix != ".html":
        raise ValueError(f"--out {request.out}: the page is an .html file; the JSON file is written next to it")


def _opened(arguments: Sequence[str], request: Request, device: torch.device) -> tuple[list[AnyPolicy], EnvConfig]:
    """Return the policies ready for their one task, and that."""
    ready = [_for_task(arguments, request, policy) for policy in open_all(request.policies, request, device)]
    require_one_task([task for _, task in ready])
    for line in dict.fromkeys(f"note: {policy.label}: {note}" for policy, _ in ready for note in policy.notes):
        print(line)
    return [policy for policy, _ in ready], ready[0][1]


def require_one_task(tasks: Sequence[EnvConfig]) -> None:
    """Raise `ValueError` where tasks differ in anything that decides what an episode of a stress test is."""
    if names := what_differs([_by_option(task) for task in tasks]):
        named = "; ".join(dict.fromkeys(describe(asdict(task)) for task in tasks))
        by = ", ".join(option(f"env.{name}") for name in names)
        raise ValueError(
            f"the policies are of different tasks ({named}), which differ in {by}; stress those of one task together"
        )


def _by_option(task: EnvConfig) -> Record:
    """Return what decides the episodes of a task."""
    env = asdict(replace(task, num_envs=1, vectorization="sync", termination=None))  # these do not
    physics = env.pop("physics")
    fields = {f"physics.{name}": value for name, value in physics.items() if name != "parameters"}
    return env | fields | {"physics.parameters": sorted(task.physics.fixed().items())}


def _for_task(arguments: Sequence[str], request: Request, policy: AnyPolicy) -> tuple[AnyPolicy, EnvConfig]:
    """Return a policy ready for its task, and that: its own, or that of the sets, with the `--env` options over it."""
    of_sets = [load_set(name).env for name in request.sets if name != EVERYTHING]
    if named := request.env.id or ("" if policy.env_config else next(iter(of_sets), "")):
        policy = for_task(policy, named)
    own = policy.env_config or EnvConfig(id="")
    task = parse(arguments, replace(own, num_envs=NUM_ENVS)).env
    if policy.policy is None:  # `own` is what --env.id stands for today
        task = replace(task, id=own.id, kwargs=own.kwargs | task.kwargs)
    if not task.id:
        raise ValueError(f"{policy.label}: does not say which task it was trained on; add --env.id")
    return fitted(policy, task), task


def chosen_sets(names: Sequence[str], task: EnvConfig) -> list[UncertaintySet]:
    """Return the sets that are named, or the task's largest published one and all that can be disturbed in it."""
    if names:
        sets = [disturbances(task) if name == EVERYTHING else load_set(name) for name in names]
        for (name, one), (other, two) in combinations(zip(names, sets, strict=True), 2):
            if code_of(one) == code_of(two):  # whatever they are called
                raise ValueError(f"--sets names a set twice: {name} and {other}; leave one out")
        return sets
    published = [
        one for name, one in SETS.items() if _same_task(one.env, task.id) and name.rpartition("-")[2].isdigit()
    ]
    return [*sorted(published, key=lambda one: len(one.parameters))[-1:], disturbances(task)]


def _same_task(theirs: str, ours: str) -> bool:
    """Whether two ids are versions of one task."""
    return theirs.rpartition("-v")[0] == (ours.rpartition(":")[2].rpartition("-v")[0] or ours)


def measure(
    request: Request,
    chosen: Sequence[AnyPolicy],
    task: EnvConfig,
    sets: Sequence[UncertaintySet],
    device: torch.device,
) -> Record:
    """Return what all policies came to, and everything needed to get it again, as plain values."""
    policies: list[Record] = []
    known_plays = read_unfinished(request)
    for name, policy in zip(short_names(request.policies), chosen, strict=True):
        print(f"{name}: {request.budget:,} episodes on {task.id}, sets {', '.join(one.name for one in sets)}")
        settings: Any = {"budget": request.budget, "seed": request.seed, "moment": request.worst_moment}
        known = {"name": name, "label": policy.label, "agent": policy.agent_name, "step": policy.step}
        known |= {"training_seed": policy.training_seed, "sha256": policy.sha256, "notes": list(policy.notes)}
        outcomes = known_plays.setdefault(policy.label, {})
        with _keeping(request, [*policies], known, known_plays) as (keep, save):
            tools: Any = {"device": device, "tell": _tell, "keep": keep, "plays": Plays(outcomes, save)}
            found = stress(policy.act, task, sets, **settings, **tools)
        policies.append(known | found)
    when = {"time": datetime.now(UTC).isoformat(timespec="seconds")}
    return {"stress": 1, **when, **provenance(), "policies": policies, "not_tried": not_tried(policies, sets)}


@contextmanager
def _keeping(
    request: Request, policies: list[Record], known: Record, plays: dict[str, Outcomes]
) -> Iterator[tuple[Callable[[Record], None], Callable[[], None]]]:
    """Yield what keeps all that was found so far in a file of its own, and what writes that file again.

    If the rest fails, say where it is.
    """
    path, kept, origin = unfinished(request), list(policies), provenance()

    def save() -> None:
        numbers = json.dumps({"unfinished": 1, **origin, "policies": kept, "plays": plays}, indent=1) + "\n"
        with suppress(OSError):  # no reason to stop here: where the final numbers cannot be written, that is said
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(path, lambda file: file.write(numbers.encode()))

    def keep(found: Record) -> None:
        kept[len(policies) :] = [known | found]
        save()

    try:
        yield keep, save
    except BaseException:
        if kept and path.is_file():
            print(f"what was measured until here: {path}; the same command goes on from it", flush=True)
        raise


def read_unfinished(request: Request) -> dict[str, Outcomes]:
    """Return the outcomes that a test of this name played before it was stopped, by policy.

    Raises:
        ValueError: a file of that name is not such a test's.
    """
    path = unfinished(request)
    if not path.is_file():
        return {}
    try:
        plays = require_plays(json.loads(path.read_text())["plays"])
    except (ValueError, KeyError, TypeError, AttributeError):
        raise ValueError(f"{path}: not what a stress test keeps until it is done; move it away") from None
    print(f"going on from {path}")
    return plays


def unfinished(request: Request) -> Path:
    """Return where the numbers are kept until all are measured."""
    return out_of(request).with_suffix(".unfinished.json")


def _tell(line: str) -> None:
    print(f"  {line}", flush=True)


def short_names(paths: Sequence[Path]) -> list[str]:
    """Return what tells the policies apart: a file's or folder's own name, with as many folders above as it takes."""
    parts = [path.resolve().with_suffix("").parts if path.is_file() else path.resolve().parts for path in paths]
    for depth in range(1, max(map(len, parts)) + 1):
        names = [os.sep.join(one[-depth:]) for one in parts]
        if len(set(names)) == len(names):
            return names
    return [str(path) for path in paths]


def not_tried(policies: Sequence[Record], sets: Sequence[UncertaintySet]) -> list[str]:
    """Return what a reader may not take for tried, a line each."""
    lines = [f"{one.name}: values beyond its ranges" for one in sets]
    for box in policies[0]["sets"]:
        if box["pairs_left_out"]:
            count = len(box["pairs_left_out"])
            lines.append(f"{box['name']}: maps of {count} pairs; the search for the worst point varies all together")
    if len(sets) > 1:
        lines.append(f"parameters of different sets at once ({', '.join(one.name for one in sets)})")
    idle = {name for policy in policies for box in policy["sets"] for name in box["without_effect"]}
    lines += [f"{name}: no value of it changed anything in 100 random steps" for name in sorted(idle)]
    if policies[0]["env"]["backend"] == "warp":
        lines.append("frame_skip: the worlds of --env.backend warp all make the same physics steps")
    published = {one.name for one in SETS.values() if _same_task(one.env, policies[0]["env"]["id"])}
    if rest := sorted(published - {one.name for one in sets}):
        lines.append(f"further published sets of the task: {', '.join(rest)}")
    moment = policies[0]["sets"][0].get("worst_moment")
    change = f" otherwise than for {moment['duration']} steps" if moment else ""
    lines.append(f"parameters that change within an episode{change}, other starts than the task's own, longer episodes")
    return lines


def out_of(request: Request) -> Path:
    """Return where the page goes."""
    return request.out or stress_page(request.policies[0])


def write(request: Request, content: Record) -> None:
    """Write the page and the JSON file, and print where they are and what stands first on the page."""
    from surefoot.training.report.stress import page, parts_of  # matplotlib takes half a second
    from surefoot.training.report.stress_figures import where, worst_set

    out, text = out_of(request), page(content)
    out.parent.mkdir(parents=True, exist_ok=True)
    numbers = json.dumps(content, indent=1) + "\n"
    write_atomically(out.with_suffix(".json"), lambda file: file.write(numbers.encode()))
    write_atomically(out, lambda file: file.write(text.encode()))
    for record in content["policies"]:
        parts = {name: f"{sample['mean']:.4g}" for name, sample in parts_of(record).items()}
        print(f"{record['name']}: {', '.join(f'{name} {value}' for name, value in parts.items())}")
        print(f"  worst at {where(worst_set(record)['worst']['at'])}")
    print(f"page: {out}\nnumbers: {out.with_suffix('.json')}")
