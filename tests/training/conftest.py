"""The fake agent, known to the registry of every test here, and tiny runs of it."""

import dataclasses
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(
    0, str(Path(__file__).resolve().parent)
)  # test folders are no packages; the registry finds agents by module name

import fake_agent
from fake_agent import HERE, FakeConfig
from leftovers import FORK

from surefoot import agents
from surefoot.envs import EnvConfig
from surefoot.offline_data import DataConfig
from surefoot.training.cli.main import main
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
def config_of(data_file):
    """Return a function that makes the tiny run of an agent."""
    torch.set_num_threads(1)

    def make(name: str) -> RunConfig:
        if name in agents.REFERENCES:
            pytest.importorskip("stable_baselines3", reason="extra sb3 not installed")
        spec = agents.get(name)
        return RunConfig(
            agent=dataclasses.replace(spec.default, **spec.tiny),
            env=EnvConfig(**(spec.tiny_env or {"id": "Pendulum-v1", "max_episode_steps": 15})),
            uncertainty="pendulum-2" if spec.needs_uncertainty_set else None,
            data=DataConfig(source=str(data_file)) if spec.needs_data else DataConfig(),
            eval=EvalConfig(every=30, episodes=2),
            steps=80,
            log_every=17,
            checkpoint_every=33,
        )

    return make


@pytest.fixture
def command():
    """Return a function that starts the command line, fake agent included, in a process of its own."""

    def start(*arguments: object, before=(), **options):
        call = [*before, sys.executable, str(HERE / "fake_agent.py"), *map(str, arguments)]
        return subprocess.Popen(call, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options)

    return start


@pytest.fixture
def forked():
    """Return a function that starts the command line, fake agent included, in a fork, which has nothing to import.

    As `command`, where nothing depends on what this process has imported or read.
    """
    started = []

    def start(*arguments: object, env=os.environ):
        started.append(ForkedCommand(list(map(str, arguments)), dict(env)))
        return started[-1]

    yield start
    for one in started:
        one.kill()


class ForkedCommand:
    """A forked process, with what tests use of `subprocess.Popen`."""

    def __init__(self, arguments, environment):
        (self.out, out), (self.err, err) = os.pipe(), os.pipe()
        self.process = FORK.Process(target=be_command, args=(arguments, environment, out, err))
        self.process.start()
        self.pid = self.process.pid
        for descriptor in (out, err):  # what is read ends with the process
            os.close(descriptor)

    @property
    def returncode(self):
        return self.process.exitcode

    def send_signal(self, number):
        os.kill(self.pid, number)

    def kill(self):
        self.process.kill()

    def communicate(self, timeout=None):
        """Wait for its end, and return what it wrote, a few lines."""
        self.process.join(timeout)
        assert self.returncode is not None, f"still running after {timeout} s"
        with os.fdopen(self.out) as out, os.fdopen(self.err) as err:
            return out.read(), err.read()


def be_command(arguments, environment, *descriptors):
    """Make this process what `fake_agent.py` is when it begins, and carry its command out."""
    os.environ.clear()
    os.environ.update(environment)
    fake_agent.PAUSE = float(environment.get("FAKE_PAUSE", 0))
    for name, number, descriptor in zip(("stdout", "stderr"), (1, 2), descriptors, strict=True):
        os.dup2(descriptor, number)
        setattr(sys, name, os.fdopen(number, "w", closefd=False))
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
    sys.argv = [str(HERE / "fake_agent.py"), *arguments]
    sys.exit(main())
