"""Agents that choose the physics of their worlds: the worlds have what was chosen, and the same run is the same run."""

from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from sameness import assert_same_run
from worlds_against_c import error, row_of

from surefoot import agents
from surefoot.envs import EnvConfig, UncertainVectorEnv, find_set, make_vec
from surefoot.envs.warp.vector_env import WarpVectorEnv
from surefoot.training.config.run import EvalConfig, RunConfig
from surefoot.training.loop import setup
from surefoot.training.loop.interrupt import StopRequest
from surefoot.training.loop.setup import resume, start
from surefoot.training.session import execute, train

SETS = {
    "dr-sac": "inverted-pendulum-2",
    "m2td3": "inverted-pendulum-2",
    "rarl": "inverted-pendulum-force",
    "iwocs": "inverted-pendulum-2",
}
SMALL = {"hidden": (8,), "batch_size": 8, "learning_starts": 20, "random_steps": 60, "replay_capacity": 400}
SEARCH = {"default_steps": 80, "model_steps": 80, "iterations": 1, "thresholds": (1.0,), "grid_n": 2}
SEARCH |= {"search_episodes": 1, "held_out_episodes": 2, "entropy_free_hidden": (8,)}
POLE = EnvConfig("InvertedPendulum-v5", num_envs=4, backend="warp", max_episode_steps=12)
CLOSE = 1e-4  # of 1 + |value|


def tiny(name: str) -> RunConfig[Any]:
    agent = replace(agents.get(name).default, **SMALL, **(SEARCH if name == "iwocs" else {}))
    settings = {"eval": EvalConfig(every=80, episodes=1, worlds=2), "log_every": 36, "checkpoint_every": 80}
    return RunConfig(agent=agent, env=POLE, uncertainty=SETS[name], steps=160, **settings)


class Recorded(UncertainVectorEnv):
    """Keeps what an agent asks of its environments in the order of its calls, and their parameters in every step."""

    def __init__(self, *arguments: Any, **options: Any):
        super().__init__(*arguments, **options)
        self.asked: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = []
        self.answers: list[tuple[torch.Tensor, ...]] = []
        self.had: list[torch.Tensor] = []  # parameters (N, d) of each step

    def set_params(self, values: torch.Tensor, *, now: bool = False) -> None:
        self.asked.append(("set_params", (values.clone(),), {"now": now}))
        super().set_params(values, now=now)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        self.asked.append(("reset", (), {"seed": seed}))
        started = super().reset(seed=seed, options=options)
        self.answers.append((started[0],))
        return started

    def step(self, actions: torch.Tensor) -> Any:
        self.asked.append(("step", (actions.clone(),), {}))
        self.had.append(self.params.clone())
        stepped = super().step(actions)
        self.answers.append(row_of(stepped))
        return stepped


class Run(NamedTuple):
    name: str
    folder: Any
    agent: Any
    env: Recorded
    step: int


def in_c(asked: Any, uncertainty: Any) -> list[tuple[torch.Tensor, ...]]:
    """What MuJoCo in C answers to the same calls; without a set it has the task's own parameters."""
    config = replace(POLE, backend="mujoco")
    env = make_vec(config) if uncertainty is None else UncertainVectorEnv(config, uncertainty)
    answers: list[tuple[torch.Tensor, ...]] = []
    for name, arguments, options in asked:
        if name == "set_params" and uncertainty is None:
            continue
        found = getattr(env, name)(*arguments, **options)
        if name != "set_params":
            answers.append((found[0],) if name == "reset" else row_of(found))
    return answers


def largest(some: Any, others: Any) -> float:
    return float(np.max([error(one, other).max() for one, other in zip(some, others, strict=True)]))


@pytest.fixture(scope="module", params=SETS)
def run(request, tmp_path_factory):
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(setup, "UncertainVectorEnv", Recorded)
        begun = start(request.param, tiny(request.param), tmp_path_factory.mktemp("runs") / "straight")
    assert isinstance(begun.env.unwrapped, WarpVectorEnv)
    execute(begun, StopRequest())
    return Run(request.param, begun.folder, begun.agent, begun.env, begun.counters.step)


def test_what_an_agent_does_among_worlds_has_the_effect_that_it_has_in_c(run):
    """Every observation, reward and end of a whole run, given the calls that its agent made."""
    assert len(run.env.answers) > 40
    assert largest(run.env.answers, in_c(run.env.asked, find_set(SETS[run.name]))) < CLOSE
    assert largest(run.env.answers, in_c(run.env.asked, None)) > 100 * CLOSE


def test_every_world_has_physics_of_its_own_that_its_agent_chose(run):
    had, box = torch.stack(run.env.had), find_set(SETS[run.name])  # (T, N, d)
    assert (had >= torch.from_numpy(box.low)).all()
    assert (had <= torch.from_numpy(box.high)).all()
    if run.name == "iwocs":  # first by domain randomisation, then all worlds of the specialist are its model
        model = run.agent.models[0]
        at = [name for name, *_ in run.env.asked if name in ("step", "reset")].index("reset", 1) - 1
        assert (had[at:] == model).all()
        assert (had[:at] != model).any(-1).all()
        had = had[:at]
    assert (had.std(1) > 0).all()
    if run.name == "rarl":  # its adversary acts in every step
        assert (had[1:] != had[:-1]).all()


def test_the_same_seed_among_worlds_is_the_same_run_also_in_two_parts(run, tmp_path):
    """Stopped within an episode, of IWOCS within the training of its specialist."""
    parts = train(run.name, tiny(run.name), out=tmp_path, name="parts", callback=lambda row: row["step"] >= 108)
    rest = resume(parts, run.name, tiny(run.name))
    assert rest.counters.step == 108
    execute(rest, StopRequest())
    assert_same_run(run.folder, parts, run.step)
