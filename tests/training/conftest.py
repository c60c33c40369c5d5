"""The fake agent, known to the registry of every test here, and tiny runs of it."""

import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(
    0, str(Path(__file__).resolve().parent)
)  # test folders are no packages; the registry finds agents by module name

from fake_agent import HERE, FakeConfig

from surefoot import agents
from surefoot.envs import EnvConfig
from surefoot.training.config.run import EvalConfig, RunConfig


@pytest.fixture(autouse=True)
def fake(monkeypatch):
    """Register the fake agent."""
    monkeypatch.setitem(agents.REGISTRY, "fake", "fake_agent:FAKE_SPEC")


@pytest.fixture
def tiny():
    """Return a run of the fake agent that takes well under a second: 20 iterations of 3 environment steps."""
    return RunConfig(
        agent=FakeConfig(),
        env=EnvConfig(id="surefoot/Pendulum-v0", max_episode_steps=10),
        eval=EvalConfig(every=25, episodes=2),
        steps=60,
        log_every=14,
        checkpoint_every=20,
    )


@pytest.fixture
def command():
    """Return a function that starts the command line, fake agent included, in a process of its own."""

    def start(*arguments: object, before=(), **options):
        call = [*before, sys.executable, str(HERE / "fake_agent.py"), *map(str, arguments)]
        return subprocess.Popen(call, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options)

    return start
