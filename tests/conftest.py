"""What tests of several packages share: a task with known returns, untrained policies in run folders, recordings."""

import csv
import importlib
import os
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import gymnasium as gym
import h5py
import numpy as np
import pytest
from matplotlib.figure import Figure

from surefoot import agents
from surefoot.agents.interface import Spaces
from surefoot.agents.sac import SACConfig
from surefoot.configs.allowed_modules import ALLOWED
from surefoot.envs import EnvConfig, own_action_space, spaces_of
from surefoot.evaluation import policy_files
from surefoot.training.config.presets import to_plain
from surefoot.training.config.run import RunConfig
from surefoot.training.loop.process import leave_out_for_good
from surefoot.training.runs import folder as run_folder

sys.path.insert(0, str(Path(__file__).resolve().parent))  # test folders are no packages; they share sameness.py
os.fsync = os.fstat  # no test cuts the power, so none waits for the disk; either raises where the file is not open
os.environ[ALLOWED] = "*"  # tests write the modules that they name; those of the permission itself take it away


def pytest_collection_finish():
    """Leave the million objects of imports and tests out of garbage collections: every run in here starts one."""
    leave_out_for_good()


class Scripted(gym.Env):
    """Reset with seed s: s % 3 + 2 steps, step t pays s + action. A reset without a seed starts a trap of one step."""

    observation_space = gym.spaces.Box(-np.inf, np.inf, (2,), np.float32)
    action_space = gym.spaces.Box(-1, 1, (1,), np.float32)

    def __init__(self, endless=False):
        self.endless = endless

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.pay, self.left = (1e6, 1) if seed is None else (seed, seed % 3 + 2)
        return self._obs(), {}

    def step(self, action):
        self.left -= 1
        ended = self.left == 0 and not self.endless
        return self._obs(), self.pay + float(action[0]), ended and self.pay % 2 == 0, ended and self.pay % 2 == 1, {}

    def _obs(self):
        return np.array([self.pay, self.left], np.float32)


gym.register("ScriptedReturns-v0", Scripted)
PENDULUM = EnvConfig("Pendulum-v1")
BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"


@pytest.fixture
def make_run(tmp_path):
    """Return a function that writes a run folder of SAC on a task; the seed decides its (random) policy and curve."""

    def make(name, seed=0, env=PENDULUM, **changes):
        config = RunConfig(replace(SACConfig(hidden=(8,)), **changes), env, seed=seed)
        spec, folder = agents.get("sac"), tmp_path / name
        run_folder.create(folder, "sac", config, None)
        spaces = Spaces(*spaces_of(env))
        policy = spec.make_policy(config.agent, spaces)
        generator = np.random.default_rng(seed)
        for value in policy.state_dict().values():
            value.copy_(value.new_tensor(generator.normal(size=tuple(value.shape)).astype(np.float32)))
        path = policy_files.checkpoint_path(folder, "policy", 100)
        policy_files.save_policy(path, to_plain("sac", config), spaces, own_action_space(env), 100, policy)
        write_curve(folder, [100, 200], lambda step: step + 10.0 * seed)
        return folder

    return make


@pytest.fixture
def load_script(monkeypatch):
    """Return a function that imports a module of benchmarks/ by its name; after the test all of them are forgotten."""
    monkeypatch.syspath_prepend(BENCHMARKS)
    before = set(sys.modules)
    yield importlib.import_module
    for name in set(sys.modules) - before:
        if Path(getattr(sys.modules[name], "__file__", None) or "/").is_relative_to(BENCHMARKS):
            del sys.modules[name]


@pytest.fixture
def unrendered(monkeypatch):
    """Make figures and write them without pixels, of which a run's own take longer than a tiny run."""
    monkeypatch.setattr(Figure, "savefig", lambda figure, file, **_: file.write(b"no pixels"))


def write_curve(folder, steps, value):
    """Write evaluations.csv with two episodes an evaluation, 1 above and 1 below the value, and metrics.csv."""
    with (folder / "evaluations.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["step", "env_steps", "updates", "episode", "episode_return", "length", "score"])
        rows.writerows([s, s, s, i, value(s) + 2 * i - 1, 200, ""] for s in steps for i in range(2))
    with (folder / "metrics.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["step", "critic_loss"])
        rows.writerows([s, value(s) / 100] for s in steps)


# --- recordings whose rows contain their episode and step ------------------------------------------------------------


def hand_made() -> dict[str, np.ndarray]:
    """Return 10 rows in D4RL's layout: 3 to a terminal, 4 to a time-out, 3 of a cut episode; obs = (episode, step)."""
    episode = np.repeat([0, 1, 2], [3, 4, 3])
    step = np.concatenate([np.arange(3), np.arange(4), np.arange(3)])
    obs = np.stack([episode, step], axis=1).astype(np.float32)
    row = np.arange(10)
    return {
        "observations": obs,
        "actions": np.linspace(-1, 1, 10, dtype=np.float32)[:, None],
        "rewards": row.astype(np.float32),
        "next_observations": obs + np.float32([0, 1]),
        "terminals": row == 2,
        "timeouts": row == 6,
    }


def write_hdf5(path: Path, arrays: Mapping[str, object]) -> Path:
    """Write arrays as they are, with no check at all."""
    with h5py.File(path, "w") as file:
        for name, values in arrays.items():
            file[name] = values
    return path


@pytest.fixture
def rows() -> dict[str, np.ndarray]:
    return hand_made()


@pytest.fixture
def save(tmp_path):
    """Return a function (arrays, name) -> path of the HDF5 file it wrote."""
    return lambda arrays, name="data.hdf5": write_hdf5(tmp_path / name, arrays)


@pytest.fixture
def data(rows):
    """Return the ten rows as `Transitions`."""
    from surefoot.offline_data.d4rl import from_d4rl_arrays

    return from_d4rl_arrays(rows, source="hand made")


@pytest.fixture
def same():
    """Return a function that asserts two `Transitions` equal in every field but the source, bit for bit."""

    def assert_same(left, right):
        for name in ("obs", "action", "reward", "next_obs", "terminated", "truncated", "episode_end"):
            a, b = getattr(left, name), getattr(right, name)
            assert a.dtype == b.dtype, name
            np.testing.assert_array_equal(a, b, err_msg=name)

    return assert_same


@pytest.fixture(scope="session")
def data_file(tmp_path_factory):
    """Return a D4RL file of made-up Pendulum transitions: 3 episodes of 40 steps."""
    from recordings import write_data

    return write_data(tmp_path_factory.mktemp("data") / "tiny.hdf5")
