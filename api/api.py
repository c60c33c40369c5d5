"""The functions behind `import surefoot`: train, resume, evaluate, and open policies, data and tasks from Python."""

from __future__ import annotations

import csv
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from numbers import Integral
from pathlib import Path
from typing import Any

import gymnasium as gym
import torch

from surefoot import agents as registry
from surefoot.configs import preset_names
from surefoot.configs.allowed_modules import imports_allowed, named_modules
from surefoot.configs.casting import nested, overlay
from surefoot.configs.ranges import LARGEST_SEED
from surefoot.envs import EnvConfig, make_own, own_action_space, spaces_of
from surefoot.evaluation.episodes import NUM_ENVS, EvalResult, divergence
from surefoot.evaluation.episodes import evaluate as evaluate_act
from surefoot.evaluation.loaded_policy import LoadedPolicy
from surefoot.evaluation.policies import AnyPolicy, bound_to, load_any
from surefoot.evaluation.policies.own_units import act_of, own_policy
from surefoot.offline_data import DataConfig, Transitions, load_for
from surefoot.offline_data import load as load_recorded
from surefoot.training import session
from surefoot.training.config.presets import default_config, laid_over, load_preset, with_changes
from surefoot.training.config.run import RunConfig
from surefoot.training.config.unread import refuse_unread
from surefoot.training.loop.engines import pick_device
from surefoot.training.loop.loop import Callback
from surefoot.training.runs import folder as run_folder

Task = str | EnvConfig | Mapping[str, Any]  # a Gymnasium id, its configuration, or fields of one


@dataclass(frozen=True)
class Run:
    """A run on disk: what `train` and `resume` return. `Run(path)` opens any run folder."""

    folder: Path

    def __post_init__(self) -> None:
        object.__setattr__(self, "folder", Path(self.folder))
        run_folder.read_config(self.folder)  # FileNotFoundError where it is none

    @property
    def agent_name(self) -> str:
        """The agent that was trained."""
        return run_folder.read_config(self.folder)[0]

    @property
    def config(self) -> RunConfig[Any]:
        """The resolved configuration, every field of it."""
        return run_folder.read_config(self.folder)[1]

    @property
    def status(self) -> str:
        """`running`, `interrupted`, `failed` or `finished`."""
        return str(run_folder.read_meta(self.folder).get("status"))

    @property
    def seeds(self) -> list[Run]:
        """The runs of its seeds, where it has several (`num_seeds`): policies and rows are theirs. Else itself."""
        return [Run(folder) for folder in run_folder.seed_folders(self.folder)]

    def policy(
        self, checkpoint: str | int = "latest", *, allow_code: bool = False, device: str = "cpu"
    ) -> LoadedPolicy:
        """Return the policy at the `latest` or `best` checkpoint, or at a step; `allow_code` as for `load_policy`."""
        return load_policy(self.folder, checkpoint=checkpoint, allow_code=allow_code, device=device)

    def metrics(self) -> list[dict[str, float]]:
        """Return the rows of metrics.csv, one per log interval; cells without a value are left out."""
        return _rows(self._own("metrics.csv"))

    def evaluations(self) -> list[dict[str, float]]:
        """Return the rows of evaluations.csv, one per evaluation episode."""
        return _rows(self._own("evaluations.csv"))

    def _own(self, name: str) -> Path:
        if self.seeds[0].folder != self.folder:
            raise ValueError(f"{self.folder}: a run of several seeds, each with its own {name}: see `seeds`")
        return self.folder / name


def train(
    agent: str,
    /,
    preset: str | None = None,
    *,
    out: str | Path = "runs",
    name: str | None = None,
    callback: Callback | None = None,
    allow_code: bool = False,
    **overrides: Any,
) -> Run:
    """Train an agent and return its run.

    Args:
        agent: one of `surefoot.agents()`.
        preset: one of `surefoot.presets(agent)`, OTHER/NAME of another agent, or a YAML file; None: the defaults.
        out: folder that the run's folder is made in.
        name: of the run's folder; made from agent, task, preset, seed and time by default.
        callback: called with the row of metrics.csv at every log interval, which says its `seed` where there are
            several; training stops where it returns True, with a checkpoint, as after Ctrl-C.
        allow_code: import the modules that a preset's file names (`module:EnvId`). Those named here are imported.
        overrides: settings that lie over the preset, named as on the command line: `steps=1000`, `env="Hopper-v5"`,
            `env={"physics": {"gravity": 2.0}}`, `agent={"hidden": (64, 64)}`, or `**{"env.physics.gravity": 2.0}`.

    Raises:
        ValueError: an unknown agent or setting, a value that does not fit, or a task that breaks Gymnasium's protocol,
            before anything is written; in training, a number that is not finite, with the last good checkpoint kept.
        FileNotFoundError: no such preset or data.
        FileExistsError: the run's folder exists.
    """
    with _allowing(overrides, allow_code):
        base = load_preset(agent, preset) if preset is not None else default_config(agent)
        config = with_changes(base, _with_id(overrides), "surefoot.train")
        refuse_unread(agent, config, preset, base)
        return Run(session.train(agent, config, out=Path(out), name=name, preset=preset, callback=callback))


def resume(
    run: str | Path | Run,
    *,
    from_step: int | None = None,
    callback: Callback | None = None,
    allow_code: bool = False,
    **overrides: Any,
) -> Run:
    """Resume a run from its latest checkpoint and return it; it ends as if it had never stopped.

    Args:
        run: a run, or its folder.
        from_step: go on from the checkpoint of this step instead; later checkpoints and rows are deleted.
        callback: as for `train`.
        allow_code: import the modules that the run's configuration names, such as that of its task.
        overrides: only what decides no number of the run may change, such as a longer budget: `steps=2_000_000`.

    Raises:
        ValueError: a setting that may not change.
        FileNotFoundError: no run, or no checkpoint in it.
        BlockingIOError: another process trains it.
    """
    folder = run.folder if isinstance(run, Run) else Path(run)
    with _allowing(overrides, allow_code):
        agent_name, before = run_folder.read_config(folder)
        config = with_changes(before, _with_id(overrides), "surefoot.resume")
        return Run(session.resume_run(folder, agent_name, config, from_step=from_step, callback=callback))


def evaluate(
    policy: str | Path | Run | LoadedPolicy | Callable[[Any], Any],
    env: Task | None = None,
    *,
    episodes: int = 20,
    seed: int = 10_000,
    checkpoint: str | int = "latest",
    allow_code: bool = False,
    device: str = "cpu",
) -> EvalResult:
    """Return the outcome of fresh episodes: `returns`, `lengths`, `broken` and, where the task has references, `score`.

    Args:
        policy: a run, a folder or file that `load_policy` takes, a loaded policy, or any function from observations
            (N, obs) to actions (N, act) in the task's own units, NumPy in and out.
        env: the task: a Gymnasium id, an `EnvConfig`, or fields that lie over the policy's own task, such as
            `{"physics": {"gravity": 2.0}}`. None: the policy's own task, in the dynamics its run was evaluated in.
        episodes: how many; episode i starts from reset seed `seed + i`.
        seed: the default is away from the seeds of evaluations during training.
        checkpoint: of a run or folder.
        allow_code: as for `load_policy`.
        device: where the policy computes: `auto`, `cpu`, `cuda` or `cuda:N`.

    Warns where the physics diverged, which ends an episode (`broken`).
    Raises:
        ValueError: a function without a task, or a policy whose spaces are not the task's.
    """
    _require_whole("episodes", episodes, 1, 10**9)
    _require_whole("seed", seed, 0, LARGEST_SEED)
    device = str(pick_device(device))
    with _allowing({"env": env}, allow_code):
        opened = _open(policy, checkpoint, allow_code, device)
        task = _task(env, opened.env if opened else None)
        if opened is None:
            predict: Any = policy
            act = act_of(predict, own_action_space(task))
        else:
            opened = opened.fitted_to(task)
            act, task = opened.act, opened.env or task
        result = evaluate_act(act, task, episodes=episodes, seed=seed, device=device, num_envs=NUM_ENVS)
    if note := divergence(int(result.broken.sum()), episodes):
        warnings.warn(f"{task.id}: {note}", stacklevel=2)
    return result


def load_policy(
    path: str | Path | Run | Callable[[Any], Any],
    env: Task | None = None,
    *,
    checkpoint: str | int = "latest",
    objective: str | None = None,
    normalizer: str | Path | None = None,
    allow_pickle: bool = False,
    allow_code: bool = False,
    device: str = "cpu",
) -> LoadedPolicy:
    """Return a policy ready to act.

    Args:
        path: a run or its folder, a policy file (.pt) of one, a Stable-Baselines3 archive (.zip), which is read without
            running code and without that library, an ONNX model (.onnx), a TorchScript program, `module:function`, a
            function from observations (N, obs) to actions (N, act) in the task's own units, or a file on the Hub,
            `hf:ORG/REPO[/FILE][@REVISION]`.
        env: the task it is for, where it does not say that itself: ONNX models, programs and functions.
        checkpoint: of a run folder: `latest`, `best` or a step.
        objective: what to act for, such as `cvar(0.1)`, for policies that take one (`dhn`); None: as trained.
        normalizer: the `vecnormalize.pkl` of an archive where it does not lie beside it, or `none`.
        allow_pickle: let Stable-Baselines3 itself open an archive that cannot be read otherwise, which runs code stored
            in it.
        allow_code: run a TorchScript program, and import the module that a file names for its task (`module:EnvId`).
        device: where it computes: `auto`, `cpu`, `cuda` or `cuda:N`.

    Warns of what a reader of its numbers must know, such as another version of its task (`LoadedPolicy.notes`).
    Raises:
        FileNotFoundError: nothing there, or no such checkpoint.
        ValueError: a file that is none of these, or refused; an objective that this policy was not trained for.
    """
    device = str(pick_device(device))
    with _allowing({"env": env}, allow_code):
        path = path.folder if isinstance(path, Run) else path
        if callable(path):
            opened = own_policy(path, getattr(path, "__qualname__", type(path).__name__), "function")
        else:
            settings: dict[str, Any] = {"normalizer": normalizer and Path(normalizer), "device": device}
            settings |= {"allow_pickle": allow_pickle, "allow_code": allow_code}
            opened = load_any(path, checkpoint=checkpoint, **settings)
        if env is not None:
            opened = bound_to(opened, _task(env, opened.env_config))
    loaded = LoadedPolicy(_acting_for(opened, objective), device)
    for note in loaded.notes:
        warnings.warn(f"{opened.label}: {note}", stacklevel=2)
    return loaded


def _acting_for(opened: AnyPolicy, objective: str | None) -> AnyPolicy:
    """Return a policy that acts for an objective; None: as it was trained."""
    if objective is None:
        return opened
    from surefoot.evaluation.objectives import served

    owner, (wanted,) = served(opened.policy, [objective])
    return opened._replace(act=owner.stateful(wanted))


def load_data(source: str | Path, env: Task | None = None, *, seed: int = 0, **settings: Any) -> Transitions:
    """Return recorded transitions.

    Args:
        source: a D4RL file (.hdf5), `d4rl:NAME`, `minari:ID` or `sample:NAME`.
        env: a task that the data must fit; None: they are taken as they are.
        seed: of the choice of a fraction of the transitions, whatever their episodes.
        settings: further fields of `surefoot.offline_data.DataConfig`, such as `fraction=0.1`.

    Raises:
        FileNotFoundError: no such data, with the command that fetches them.
        ValueError: a damaged file, data of another task, or a setting that has no effect on these.
    """
    config = overlay(DataConfig(source=str(source)), settings, "surefoot.load_data")
    if env is None:
        if config.clip_actions:
            raise ValueError(
                "surefoot.load_data: clip_actions needs env, the task that says whether actions have bounds"
            )
        data = load_recorded(source, view=config.view, max_episode_steps=config.max_episode_steps)
        return data.subsample(config.fraction, torch.Generator().manual_seed(seed))
    with _allowing({"env": env}):
        return load_for(config, *spaces_of(_task(env, None)), seed=seed)


def make_env(env: Task, *, render_mode: str | None = None, **fields: Any) -> gym.Env[Any, Any]:
    """Return a task as a Gymnasium environment: float32 observations, actions in the task's own units.

    Args:
        env: a Gymnasium id, `module:ID` (imports the module first), an `EnvConfig` or fields of one.
        render_mode: as for `gymnasium.make`.
        fields: of `EnvConfig`, such as `physics={"gravity": 2.0}` or `max_episode_steps=100`.

    Raises:
        ValueError: an unknown id, space or field.
        ImportError: a package that the task needs is missing.
    """
    with _allowing({"env": env, **fields}):
        return make_own(_changed(_task(env, None), fields, "surefoot.make_env"), render_mode)


def presets(agent: str) -> list[str]:
    """Return the names of the presets of an agent; `ValueError` for an unknown one."""
    registry.get(agent)
    return preset_names(agent)


# --- shared -----------------------------------------------------------------------------------------------------------


def _rows(path: Path) -> list[dict[str, float]]:
    with path.open(newline="", encoding="utf-8") as file:
        return [{key: float(value) for key, value in row.items() if value} for row in csv.DictReader(file)]


def _with_id(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings with `env="ID"` as its field."""
    env = settings.get("env")
    return {**settings, "env": {"id": env}} if isinstance(env, str) else {**settings}


def _allowing(settings: Mapping[str, Any], everything: bool = False) -> AbstractContextManager[None]:
    """Let the modules be imported that a caller names in some settings; all of them where that is allowed."""
    return imports_allowed({"*"} if everything else named_modules(_texts(settings)))


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, Mapping):
        for item in value.values():
            yield from _texts(item)
    elif isinstance(value, EnvConfig):
        yield from _texts({"id": value.id, "termination": value.termination, "kwargs": value.kwargs})
    elif isinstance(value, str):
        yield value


def _task(env: Task | None, own: EnvConfig | None) -> EnvConfig:
    """Return a task: one that is named anew is unmodified, fields lie over the policy's own."""
    if isinstance(env, EnvConfig):
        return env
    if isinstance(env, str):
        return EnvConfig(id=env)
    if not isinstance(env, Mapping | None):
        raise ValueError(f"env is {env!r}; pass a Gymnasium id, an EnvConfig or a mapping of its fields")
    if own is None and not (env and "id" in env):
        raise ValueError("which task? pass env, a Gymnasium id such as 'Hopper-v5'")
    return _changed(own or EnvConfig(), env or {}, "env")


def _changed(base: EnvConfig, fields: Mapping[str, Any], where: str) -> EnvConfig:
    return laid_over(overlay(base, nested(fields, where), where), base)


def _open(policy: Any, checkpoint: str | int, allow_code: bool, device: str) -> LoadedPolicy | None:
    """Return the policy to play, None for a function."""
    if isinstance(policy, LoadedPolicy):
        return policy
    if isinstance(policy, Run):
        return policy.policy(checkpoint, allow_code=allow_code, device=device)
    allowed: dict[str, Any] = {"checkpoint": checkpoint, "allow_code": allow_code, "device": device}
    if isinstance(policy, str | Path):
        return load_policy(policy, **allowed)
    if not callable(policy):
        raise ValueError(f"policy is {policy!r}; pass a run, a path, a loaded policy or a function")
    return None


def _require_whole(name: str, value: Any, low: int, high: int) -> None:
    if isinstance(value, bool) or not isinstance(value, Integral) or not low <= int(value) <= high:
        raise ValueError(f"surefoot.evaluate: {name} is {value!r}; it must be a whole number from {low} to {high:,}")
