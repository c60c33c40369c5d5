"""Every agent with every kind of space: it trains, or one line says what to do, before anything is written."""

import dataclasses
import re
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
import yaml
from space_tasks import ACTIONS, OBSERVATIONS

import surefoot
from surefoot import agents
from surefoot.envs import EnvConfig, spaces_of
from surefoot.envs.termination import never
from surefoot.offline_data import DataConfig
from surefoot.training.config.run import EvalConfig, RunConfig
from surefoot.training.loop import setup
from surefoot.training.loop.setup import start

pytestmark = pytest.mark.usefixtures("unrendered")

NEEDS_OWN_TASK = {name for name in agents.REGISTRY if agents.get(name).regret or agents.get(name).needs_uncertainty_set}
# What an agent needs of any task: NORA an horizon, rewards within known bounds, and the step in the observation.
EXTRA = {"nora-deep": ({"reward_range": (0.0, 1.0)}, {"time_aware": True})}
FLATTENED = [
    *((observation, "Force") for observation in ("Image", "Scalar", "Nested", "Cell", "Cells", "Switches")),
    *(("Vector", action) for action in ("Matrix", "Parts", "Numbers", "Buttons")),
]
BOUNDED = [("Vector", action) for action in ("Unbounded", "Positive", "Huge")]
NEVER = [
    *((observation, "Force") for observation in ("Words", "Graph", "Many")),
    *(("Vector", action) for action in ("TooMany", "Hybrid", "Letters")),
]
REFUSED = [(*spaces, {}) for spaces in FLATTENED + BOUNDED] + [(*spaces, {"flatten": True}) for spaces in NEVER]
# Agents see one vector and one kind of action, whatever these were made of: tests/envs/test_spaces.py goes through all.
CASES = [
    ("Nested", "Force", {"flatten": True}),
    ("Vector", "Matrix", {"flatten": True}),  # float64, which is no bound of an agent's own
    ("Vector", "Unbounded", {"action_bound": 2.0}),
    ("Bytes", "Number", {}),  # the first action is 2
    ("Cell", "Numbers", {"flatten": True}),
]


def test_the_cases_are_all_there_are():
    assert {case[0] for case in CASES + REFUSED} == set(OBSERVATIONS)
    assert {case[1] for case in CASES + REFUSED} == set(ACTIONS)


@pytest.fixture(scope="module")
def recording(tmp_path_factory):
    """Return a function that makes a recording of 40 steps of a task."""
    folder, generator = tmp_path_factory.mktemp("data"), np.random.default_rng(0)

    def make(case: tuple[str, str], env: EnvConfig) -> str:
        path, (seen, taken) = folder / f"{'-'.join(case)}.hdf5", spaces_of(env)
        if not path.exists():
            with h5py.File(path, "w") as file:
                for name in ("observations", "next_observations"):
                    file[name] = generator.uniform(0, 1, (40, *seen.shape)).astype(np.float32)
                file["actions"] = np.stack([np.atleast_1d(taken.sample()) for _ in range(40)]).astype(np.float32)
                file["rewards"], file["terminals"] = np.ones(40, np.float32), np.zeros(40, bool)
                file["timeouts"] = np.arange(1, 41) % 4 == 0
        return str(path)

    return make


def config_of(name, recording, observation, action, flags) -> RunConfig:
    spec = agents.get(name)
    of_agent, of_task = EXTRA.get(name, ({}, {}))
    env = EnvConfig(
        "space_tasks:Shows-v0",
        kwargs={"observation": observation, "action": action},
        termination="surefoot.envs.termination:never" if spec.model_based else None,
        **of_task,
        **flags,
    )
    data = DataConfig(source=recording((observation, action), env)) if spec.needs_data and recording else DataConfig()
    return RunConfig(
        agent=dataclasses.replace(spec.default, **spec.tiny, **of_agent),
        env=env,
        data=data,
        eval=EvalConfig(every=30, episodes=2),
        steps=90 if name == "iwocs" else 40,  # its phases, and less than one of them, is another matter
        device="cpu",
    )


@pytest.mark.parametrize("name", sorted(agents.REGISTRY))
def test_an_agent_trains_in_any_space_or_says_in_one_line_what_to_do(name, recording, tmp_path, monkeypatch):
    monkeypatch.setattr(setup, "termination_of", lambda config: never)  # without comparing it over 3000 steps
    torch.set_num_threads(1)
    spec = agents.get(name)
    for observation, action, flags in CASES:
        config = config_of(name, recording, observation, action, flags)
        space = spaces_of(config.env)[1]
        kind = type(space).__name__
        if name in NEEDS_OWN_TASK or kind not in spec.actions:
            message = None if name in NEEDS_OWN_TASK else rf"{name} takes \w+ actions, .* {kind} actions: .*sb3-ppo"
            assert_one_line(name, config, tmp_path, message)
            continue
        run = start(name, config, tmp_path / f"{observation}-{action}")
        while not run.agent.step().updates:
            pass
        acted = run.agent.act(torch.zeros(2, *spaces_of(config.env)[0].shape))
        assert acted.shape == (2, *space.shape)
        assert all(space.contains(one) for one in acted.numpy().astype(space.dtype))
        if run.env is not None:
            run.env.close()


@pytest.mark.parametrize("name", sorted(agents.REGISTRY))
def test_without_the_flag_the_line_names_it(name, tmp_path):
    for observation, action, flags in REFUSED:
        config = config_of(name, None, observation, action, flags)
        assert_one_line(name, config, tmp_path, r"--env.flatten|--env.action-bound|gymnasium.\w+Wrapper")


def test_the_page_names_the_agents_for_each_kind_of_action():
    text = (Path(__file__).resolve().parents[2] / "docs/guides/environments.md").read_text(encoding="utf-8")
    found = re.search(r"Discrete actions: (.*?), and of them (.*?) take Box actions too", text, re.DOTALL)
    discrete, both = (re.findall(r"`([\w-]+)`", names) for names in found.groups())
    assert discrete == agents.taking("Discrete")
    assert both == [name for name in discrete if name in agents.taking("Box")]


@pytest.mark.parametrize(
    ("name", "observation", "action", "fields", "note"),
    [
        ("sac", "Nested", "Parts", {}, "actions Dict(push: Box(2,), turn: Box(1,)) become Box(3,)"),
        ("sac", "Vector", "Matrix", {"action_bound": 0.5}, "actions are within ±0.5"),
        ("sb3-ppo", "Cell", "Number", {}, "observations Discrete(4, start=1) become Box(4,)"),
        ("qr-dqn", "Cells", "Numbers", {}, "actions MultiDiscrete([3, 2], start=[0, 1]) become Discrete(6)"),
    ],
)
def test_a_policy_is_evaluated_and_deployed_behind_the_wrappers_it_was_trained_behind(
    name, observation, action, fields, note, tmp_path, capfd
):
    spec = agents.get(name)
    flags = {"flatten": True, **fields}
    run = surefoot.train(
        name,
        out=tmp_path,
        name="run",
        agent=spec.tiny,
        env={"id": "space_tasks:Shows-v0", "kwargs": {"observation": observation, "action": action}, **flags},
        steps=40,
        eval={"every": 20, "episodes": 2},
        device="cpu",
    )
    assert f"note: {note}\n" in capfd.readouterr().out
    written = yaml.safe_load((run.folder / "config.yaml").read_text())["env"]
    assert {field: written[field] for field in flags} == flags
    result = surefoot.evaluate(run, episodes=3)
    assert (result.returns.tolist(), result.lengths.tolist()) == ([4.0] * 3, [4] * 3)
    policy = surefoot.load_policy(run.folder)
    env = surefoot.make_env(policy.env)
    obs, _ = env.reset(seed=0)
    policy.reset()
    chosen = policy.predict(obs)
    assert env.action_space.contains(chosen), (env.action_space, chosen)
    env.step(chosen)  # the task itself checks that the action is one of its own
    assert surefoot.resume(run, steps=60).status == "finished"
    with pytest.raises(ValueError, match="predict takes the vector"):
        policy.predict({"arm": obs})


def assert_one_line(name, config, folder, message):
    with pytest.raises(ValueError, match=message) as error:
        start(name, config, folder / "refused")
    assert "\n" not in str(error.value)
    assert not (folder / "refused").exists()
