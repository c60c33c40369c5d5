"""`surefoot data`: list, inspect, download, collect and convert recorded transitions."""

from __future__ import annotations

import importlib.metadata
import json
import sys
from collections.abc import Callable
from dataclasses import asdict, replace
from functools import partial, wraps
from pathlib import Path
from typing import Annotated, Any

import gymnasium as gym
import torch
import tyro
from rich.table import Table

from surefoot.agents.interface import Spaces
from surefoot.configs.ranges import LARGEST_SEED
from surefoot.envs import EnvConfig, examine_task, make_vec, spaces_of
from surefoot.evaluation import policy_files
from surefoot.evaluation.episodes import Act, make_act
from surefoot.evaluation.policies import AnyPolicy, load_any, ready_for
from surefoot.offline_data import Transitions, load, write_d4rl, write_minari
from surefoot.offline_data import collect as record
from surefoot.offline_data.d4rl import View, read_metadata, require_limit
from surefoot.offline_data.download import cache_dir
from surefoot.offline_data.download import download as fetch
from surefoot.offline_data.health import Health, check_health
from surefoot.offline_data.minari_io import Format, local_ids, minari_metadata, open_minari, require_id
from surefoot.offline_data.scores import ADDRESS, D4RL_DATASETS, REFERENCE_SCORES, find_d4rl
from surefoot.offline_data.sources import d4rl_path, is_minari, sample_names
from surefoot.training.cli.options import read_options
from surefoot.training.cli.outputs import require_output
from surefoot.training.config.presets import laid_over
from surefoot.training.loop.behaviour import documented_epsilon, record_behaviour, steps_of_behaviour
from surefoot.training.loop.engines import pick_device
from surefoot.training.runs import folder as run_folder
from surefoot.training.runs import provenance as provenance_of
from surefoot.training.runs.console import Terminal, print_table

MOST_STEPS = 10**10  # of a recording
Json = Annotated[bool, tyro.conf.arg(name="json", help="print JSON instead of a table")]


def main(arguments: list[str]) -> int:
    """Run `surefoot data COMMAND …` and return its exit code."""
    name, rest = (arguments[0], arguments[1:]) if arguments else ("", [])
    if name not in COMMANDS:
        if name not in ("", "-h", "--help"):
            print(f"surefoot data: error: unknown command {name!r}", file=sys.stderr)
        print(_overview(), file=sys.stdout if name in ("-h", "--help") else sys.stderr)
        return 0 if name in ("-h", "--help") else 2
    command = COMMANDS[name]
    if name == "collect":
        command = partial(collect, env=_task_of_policy(rest))
    prog = f"surefoot data {name}"
    call = read_options(_later(command), args=rest, prog=prog, description=command_help(name))
    return call() or 0


def _later(command: Callable[..., Any]) -> Callable[..., Callable[[], Any]]:
    """Return a function with the parameters of `command` that returns its call: what reads options is done by then."""

    @wraps(command)
    def call(*given: Any, **named: Any) -> Callable[[], Any]:
        return partial(command, *given, **named)

    return call


def list_sources(*, as_json: Json = False) -> None:
    """List D4RL's data sets with addresses and reference scores, packaged samples and the local Minari store."""
    rows: list[dict[str, Any]] = [
        {
            "source": f"d4rl:{entry.name}",
            "random": REFERENCE_SCORES[entry.env][0],
            "expert": REFERENCE_SCORES[entry.env][1],
            "local": (cache_dir() / entry.file_name).is_file(),
            "address": entry.url,
        }
        for entry in D4RL_DATASETS.values()
    ]
    rows += [{"source": f"sample:{name}", "local": True} for name in sample_names()]
    rows += [{"source": f"minari:{name}", "local": True} for name in local_ids()]
    if as_json:
        print(json.dumps(rows, indent=2))
        return
    table = Table("source", "random", "expert", "local", "file")
    for row in rows:
        scores = (f"{row.get(key, '')}" for key in ("random", "expert"))
        table.add_row(row["source"], *scores, "yes" if row["local"] else "", row.get("address", "").rpartition("/")[2])
    print_table(table)
    print(f"D4RL files come from {ADDRESS}/FILE and go to {cache_dir()}")


def info(
    source: tyro.conf.Positional[str],
    *,
    env: str | None = None,
    max_episode_steps: int | None = None,
    as_json: Json = False,
) -> int:
    """Print statistics and a health report of a data set; the exit code is 1 if there are problems.

    Args:
        source: a D4RL .hdf5, a Minari folder, or d4rl:NAME, minari:ID, sample:NAME.
        env: Gymnasium id of the task whose spaces the data should match and whose reference scores apply.
        max_episode_steps: time limit of the recorded task, for files without a timeouts array, or where it names none.
    """
    require_limit(max_episode_steps, "--max-episode-steps")
    _refuse_what_is_for_d4rl(source, {"--max-episode-steps": max_episode_steps is not None})
    observation_space, action_space = spaces_of(EnvConfig(id=env, flatten=True)) if env else (None, None)
    report = check_health(
        source,
        observation_space=observation_space,
        action_space=action_space,
        env_id=env,
        max_episode_steps=max_episode_steps,
    )
    print(json.dumps(asdict(report), indent=2)) if as_json else _print_report(report)
    return 1 if report.problems else 0


def download(name: tyro.conf.Positional[str], *, url: str | None = None, force: bool = False) -> None:
    """Download a D4RL data set to the local cache; an interrupted download is resumed by the same command.

    Args:
        name: as `surefoot data list` shows it, with or without "d4rl:".
        url: address of a mirror of the file.
        force: fetch it although it is there; the local file is replaced once the new one is whole.
    """
    entry = find_d4rl(name.removeprefix("d4rl:"))
    path = cache_dir() / entry.file_name
    try:
        fetch(url or entry.url, path, replace=force)
    except KeyboardInterrupt:
        again = f"surefoot data download {entry.name}" + (f" --url {url}" if url else "") + " --force" * force
        print(f"stopped; `{again}` resumes", file=sys.stderr)
        raise
    print(f"{path}: {path.stat().st_size} bytes, SHA-256 next to it; use it as d4rl:{entry.name}")


def collect(
    policy: tyro.conf.Positional[Path],
    out: tyro.conf.Positional[Path],
    *,
    env: EnvConfig,
    steps: int = 100_000,
    seed: int = 0,
    checkpoint: str = "latest",
    stochastic: bool = False,
    noise: float = 0.0,
    epsilon: float | None = None,
    device: str = "cpu",
    allow_pickle: bool = False,
    allow_code: bool = False,
    force: bool = False,
) -> None:
    """Record a policy in a task and write a D4RL file with its provenance.

    Args:
        policy: a run folder, a policy file (.pt), a Stable-Baselines3 archive (.zip), an ONNX model (.onnx),
            `module:function`, or `behaviour`: the behaviour policy that the task itself documents.
        out: the .hdf5 file to write.
        env: the task. Fields not given are the run's own, with the dynamics of its eval.physics.
        steps: transitions to record, over all copies of the task together.
        seed: seed of resets and exploration.
        checkpoint: latest, best or a step of the run.
        stochastic: sample from the policy instead of taking its mean action.
        noise: standard deviation of the Gaussian noise on the actions, which are in [-1, 1].
        epsilon: probability of a uniformly random action; default: 0, or as documented for `behaviour`.
        device: where policy and task run: `auto`, `cpu`, `cuda` or `cuda:N`.
        allow_pickle: let Stable-Baselines3 itself open an archive that cannot be read otherwise, which runs its code.
        allow_code: run a TorchScript program, and import the module that the policy's file names for its task.
        force: replace an existing file.
    """
    require_output(out, ".hdf5", force=force)
    device = str(pick_device(device))
    _check_recording(policy, env, steps=steps, seed=seed, noise=noise, epsilon=epsilon)
    if str(policy) == "behaviour":
        if stochastic or noise:
            raise ValueError(
                "`behaviour` acts as the task documents it: --stochastic and --noise do not apply, --epsilon does"
            )
        return _collect_behaviour(out, env, steps, seed, epsilon, force)
    chosen = load_any(policy, checkpoint=checkpoint, allow_pickle=allow_pickle, allow_code=allow_code, device=device)
    chosen, task = ready_for(chosen, laid_over(env, chosen.env_config or env))
    act = _stochastic(chosen) if stochastic else chosen.act
    recipe = {"stochastic": stochastic, "noise_std": noise, "epsilon": epsilon or 0.0, "seed": seed, "steps": steps}
    data = _record(act, chosen, task, recipe, str(out), device)
    write_d4rl(out, data, {**_provenance(policy, chosen, task), **recipe}, force=force)
    print(f"{out}: {len(data)} transitions, {int(data.episode_end.sum())} episodes; `surefoot data info` describes it")


def _check_recording(
    policy: Path, env: EnvConfig, *, steps: int, seed: int, noise: float, epsilon: float | None
) -> None:
    """Raise `ValueError` for a recording that cannot be made, before anything is opened."""
    if not env.id:  # a run names its task, so this is none
        inside = policy_files.runs_inside(policy)
        raise ValueError(f"{policy} does not say which task it is for; give --env.id{inside}")
    if not 1 <= steps <= MOST_STEPS:
        raise ValueError(f"--steps is {steps}; it must be from 1 to {MOST_STEPS:,}")
    if not 0 <= seed <= LARGEST_SEED:
        raise ValueError(f"--seed is {seed}; it must be from 0 to {LARGEST_SEED:,}")
    if not 0 <= noise <= 10:
        raise ValueError(f"--noise is {noise}; it must be from 0 to 10: actions are in [-1, 1]")
    if epsilon is not None and not 0 <= epsilon <= 1:
        raise ValueError(f"--epsilon is {epsilon}; it must be from 0 to 1")


def _record(
    act: Act, chosen: AnyPolicy, env: EnvConfig, recipe: dict[str, Any], source: str, device: str
) -> Transitions:
    """Return what `act` does in the task, once it is known to fit the policy."""
    envs = make_vec(env, device=device)
    exploration = {name: recipe[name] for name in ("seed", "noise_std", "epsilon")}
    try:
        _check_task(chosen, Spaces(envs.single_observation_space, envs.single_action_space), env.id)
        examine_task(env)
        with torch.no_grad():
            return record(act, envs, recipe["steps"], source=source, progress=True, **exploration)
    finally:
        envs.close()


def _collect_behaviour(out: Path, env: EnvConfig, steps: int, seed: int, epsilon: float | None, force: bool) -> None:
    """Record whole episodes of a task's own behaviour policy: as many as fit into `steps`."""
    task: Any = make_vec(replace(env, num_envs=1))
    episodes = max(1, steps // steps_of_behaviour(task, env.id))
    data = record_behaviour(env, episodes, seed=seed, epsilon=epsilon, progress=True)
    recipe = {"algorithm": "behaviour", "env_id": env.id, "env": json.dumps(asdict(env)), "seed": seed}
    versions = {f"version_{name}": importlib.metadata.version(name) for name in ("surefoot", "torch")}
    epsilon = documented_epsilon(task) if epsilon is None else epsilon
    metadata = {**recipe, **versions, "epsilon": epsilon, "commit": provenance_of.git_commit()["commit"]}
    write_d4rl(out, data, metadata, force=force)
    print(f"{out}: {len(data)} transitions, {int(data.episode_end.sum())} episodes; `surefoot data info` describes it")


def convert(
    source: tyro.conf.Positional[str],
    target: tyro.conf.Positional[str],
    *,
    format: Format = "hdf5",
    view: View = "exact",
    max_episode_steps: int | None = None,
    force: bool = False,
) -> None:
    """Convert between the D4RL layout and Minari; transitions, episode ends and text metadata are kept.

    Args:
        source: a D4RL .hdf5, a Minari folder, or d4rl:NAME, minari:ID, sample:NAME.
        target: minari:ID for Minari's local store, else the path of a D4RL .hdf5 file.
        format: storage format of a Minari target.
        view: how a D4RL source without next_observations is read (docs/guides/data.md); qlearning only where it has no
            terminal rows, whose successors that view does not know.
        max_episode_steps: time limit of the recorded task, for D4RL sources without timeouts, or that name none.
        force: replace an existing target.
    """
    if not target.startswith("minari:") and not target.endswith(".hdf5"):
        raise ValueError(f"target {target!r} is neither minari:ID nor a path that ends in .hdf5")
    if target.startswith("minari:"):
        require_id(target.removeprefix("minari:"), force=force)
    else:
        require_output(Path(target), ".hdf5", force=force)
    require_limit(max_episode_steps, "--max-episode-steps")
    given = {"--view": view != "exact", "--max-episode-steps": max_episode_steps is not None}
    _refuse_what_is_for_d4rl(source, given)
    if format != "hdf5" and not target.startswith("minari:"):
        raise ValueError(f"--format {format} has no effect on {target}, which is not in Minari's store; leave it out")
    data = load(source, view=view, max_episode_steps=max_episode_steps)
    if view == "qlearning" and (unknown := int(data.terminated.sum())):
        raise ValueError(
            f"{source}: view 'qlearning' does not know the successors of {unknown} terminal rows, which {target} would "
            "hold; leave --view out, or read the source itself with --data.view qlearning"
        )
    origin = {"converted_from": source if ":" in source else Path(source).name}
    if target.startswith("minari:"):
        description = json.dumps({**_source_metadata(source), **origin})
        kind: dict[str, Any] = {"action_space": _numbered(source), "data_format": format}
        place = write_minari(target.removeprefix("minari:"), data, {"description": description}, **kind, force=force)
    else:
        place = Path(target)
        write_d4rl(place, data, {**_source_metadata(source), **origin}, force=force)
    print(f"{place}: {len(data)} transitions, {int(data.episode_end.sum())} episodes")


def _refuse_what_is_for_d4rl(source: str, given: dict[str, bool]) -> None:
    """Raise `ValueError` for an option that says how a D4RL file is read where the source is none."""
    if is_minari(source) and (idle := [name for name, is_given in given.items() if is_given]):
        raise ValueError(f"{idle[0]} has no effect on {source}, which is no D4RL file; leave it out")


COMMANDS: dict[str, Callable[..., int | None]] = {
    "list": list_sources,
    "info": info,
    "download": download,
    "collect": collect,
    "convert": convert,
}


def command_help(name: str) -> str:
    """Return the first line of a command's docstring."""
    return (COMMANDS[name].__doc__ or "").splitlines()[0]


def _overview() -> str:
    lines = [f"  {name:<10}{command_help(name)}" for name in COMMANDS]
    return "\n".join(["usage: surefoot data COMMAND …", "", *lines, "", "surefoot data COMMAND --help for more"])


def _task_of_policy(arguments: list[str]) -> EnvConfig:
    """Return the task `collect` starts from: that of the policy on the command line; no id where it names none."""
    for path in map(Path, arguments):
        if (path / "config.yaml").is_file():
            _, config = run_folder.read_config(path)
            task, physics = config.env, config.eval.physics
        elif path.suffix == ".pt" and path.is_file():
            loaded = policy_files.load_policy(path)
            task, physics = loaded.env_config, loaded.physics
        else:
            continue
        return replace(task.in_c(), physics=physics, num_envs=1, vectorization="sync")
    return EnvConfig(id="")


def _stochastic(chosen: AnyPolicy) -> Act:
    if chosen.policy is None:
        raise ValueError(f"{chosen.label}: --stochastic is for runs of ours; use --noise or --epsilon with any other")
    return make_act(chosen.policy, explore=True)


def _check_task(chosen: AnyPolicy, task: Spaces, env_id: str) -> None:
    wanted, found = ((spaces.observation.shape, spaces.action.shape) for spaces in (chosen.spaces, task))
    if wanted != found:
        raise ValueError(
            f"{chosen.label} was trained for observations {wanted[0]} and actions {wanted[1]}, "
            f"but {env_id} has {found[0]} and {found[1]}; give its own task with --env.id"
        )


def _provenance(policy: Path, chosen: AnyPolicy, env: EnvConfig) -> dict[str, object]:
    """Return how a recording came to be, without the places of this machine."""
    versions = {name: importlib.metadata.version(name) for name in ("surefoot", "gymnasium", "mujoco", "torch")}
    return {
        "algorithm": chosen.agent_name,
        "policy": policy.resolve().name,
        "policy_step": chosen.step,
        "env_id": env.id,
        "env": json.dumps(asdict(env)),
        "commit": provenance_of.git_commit()["commit"],
        **{f"version_{name}": version for name, version in versions.items()},
    }


def _source_metadata(source: str) -> dict[str, str]:
    return minari_metadata(source.removeprefix("minari:")) if is_minari(source) else read_metadata(d4rl_path(source))


def _numbered(source: str) -> gym.spaces.Discrete | None:
    """Return the Discrete space of actions that a source states; None where it states none."""
    space = open_minari(source.removeprefix("minari:")).action_space if is_minari(source) else None
    return space if isinstance(space, gym.spaces.Discrete) else None


def _print_report(report: Health) -> None:
    table = Table(show_header=False, title=report.source)
    for name, value in report.facts.items():
        table.add_row(name.replace("_", " "), _text(value))
    console = Terminal()
    print_table(table)
    for line in report.notes:
        console.print(f"note: {line}", markup=False, soft_wrap=True)
    for line in report.problems:
        console.print(f"PROBLEM: {line}", markup=False, style="bold red", soft_wrap=True)
    if not report.problems:
        console.print("no problems found")


def _text(value: Any) -> str:
    if isinstance(value, dict):
        return "\n".join(f"{name}: {_text(part)}" for name, part in value.items())
    return f"{value:.6g}" if isinstance(value, float) else "not defined" if value is None else str(value)
