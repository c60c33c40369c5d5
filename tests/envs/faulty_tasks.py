"""Tasks that break the rules, each in the way that its `fault` names; importing this registers them."""

from typing import Any

import gymnasium as gym
import numpy as np

LARGEST = np.finfo(np.float64).max


class Faulty(gym.Env):
    """Observation (3,), reward 1, from the `at`-th step of all its life on broken; without a fault it is sound."""

    def __init__(self, fault: str = "", at: int = 1, dtype: str = "float32"):
        self.fault, self.at, self.life = fault, at, 0
        high = LARGEST if dtype == "float64" else np.inf
        self.observation_space = gym.spaces.Box(-high, high, (3,), np.dtype(dtype).type)
        self.action_space = gym.spaces.Box(-2.0, 2.0, (1,), np.float32)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None):
        super().reset(seed=seed)
        self.obs = self.np_random.uniform(-1, 1, 3).astype(self.observation_space.dtype)
        if self.fault == "reset" and self.life >= self.at:
            self.obs[1] = np.nan
        return self.obs.copy(), {}

    def step(self, action):
        self.life += 1
        self.obs = (0.9 * self.obs + 0.1 * float(action[0])).astype(self.observation_space.dtype)
        obs, reward = self.obs.copy(), 1.0
        if self.life >= self.at:
            if self.fault in ("reward", "action"):
                reward = float(np.nan) if self.fault == "reward" else float(action[0])
            elif self.fault == "huge reward":
                reward = 1e300
            elif self.fault == "observation":
                obs[2] = np.inf
            elif self.fault == "huge observation":
                obs[2] = -1e300
            elif self.fault == "end":
                obs[0] = np.nan
        return obs, reward, self.fault == "end" and self.life >= self.at, False, {}


class WithActions(Faulty):
    """A sound task with other actions, which it keeps."""

    def __init__(self, space: gym.Space):
        super().__init__()
        self.action_space = space

    def step(self, action):
        assert self.action_space.contains(action), action
        return super().step(np.zeros(1))


class Unrepeatable(Faulty):
    """A sound task but for its noise, which is from a generator that nobody can put back; it counts all steps."""

    steps_of_all = 0

    def step(self, action):
        Unrepeatable.steps_of_all += 1
        obs, reward, terminated, truncated, info = super().step(action)
        return obs + np.random.default_rng().normal(size=3).astype(np.float32), reward, terminated, truncated, info


ACTIONS = {
    "Whole": gym.spaces.Box(0, 10, (2,), np.int64),
    "Fixed": gym.spaces.Box(np.array([0, 0.5], np.float32), np.array([1, 0.5], np.float32)),
    "Huge": gym.spaces.Box(-1e300, 1e300, (1,), np.float64),
}

if "Faulty-v0" not in gym.registry:
    gym.register("Faulty-v0", Faulty, max_episode_steps=50)
    gym.register("Unrepeatable-v0", Unrepeatable, max_episode_steps=20)
    for name, space in ACTIONS.items():
        gym.register(f"{name}Actions-v0", WithActions, max_episode_steps=50, kwargs={"space": space})


class Careless(gym.Env):
    """A task that breaks the protocol in the way that its `breach` names; without one it is sound."""

    observation_space = gym.spaces.Box(-1, 1, (2,), np.float32)
    action_space = gym.spaces.Discrete(2)

    def __init__(self, breach: str = ""):
        self.breach = breach

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None):
        super().reset(seed=seed)
        first = self.np_random.uniform(-1, 1, 2).astype(np.float32)
        if self.breach == "reset a list":
            return first.tolist(), {}
        return first if self.breach == "no info" else (first, {})

    def step(self, action):
        obs = np.full(2, action / 2, np.float32)
        answers = {
            "four": (obs, 1.0, False, {}),
            "a list": (obs.tolist(), 1.0, False, False, {}),
            "another shape": (np.zeros(3, np.float32), 1.0, False, False, {}),
            "outside": (np.array([0, 1.5], np.float32), 1.0, False, False, {}),
            "an array": (obs, np.ones(1), False, False, {}),
            "no reward": (obs, None, False, False, {}),
            "no flag": (obs, 1.0, None, False, {}),
            "no dictionary": (obs, 1.0, False, False, None),
            "double": (obs.astype(np.float64), np.float64(1.0), np.bool_(False), 0, {}),
        }
        if self.breach == "raises":
            raise KeyError("power")
        if self.breach == "global":
            return obs, float(np.random.random()), False, False, {}  # noqa: NPY002
        return answers.get(self.breach, (obs, 1.0, False, False, {}))


class NoSeed(Careless):
    """Its `reset` takes no seed."""

    def reset(self, *, options: dict[str, Any] | None = None):
        return super().reset(options=options)


class Unseeded(Careless):
    """Its first observation is from a generator of its own."""

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None):
        super().reset(seed=seed)
        return np.random.default_rng().uniform(-1, 1, 2).astype(np.float32), {}


class CarelessBox(Careless):
    """The same with continuous actions."""

    action_space = gym.spaces.Box(-1, 1, (1,), np.float32)


class Ends(Careless):
    """Ends by itself after three steps, in the way that its `breach` names."""

    steps = 0

    def step(self, action):
        self.steps += 1
        ended = self.steps % 3 == 0
        return np.zeros(2, np.float32), 1.0, ended and self.breach == "terminated", ended and self.breach == "own", {}


if "Careless-v0" not in gym.registry:
    gym.register("Careless-v0", Careless, max_episode_steps=20)
    gym.register("CarelessBox-v0", CarelessBox, max_episode_steps=20)
    gym.register("EndlessBox-v0", CarelessBox)
    gym.register("NoSeed-v0", NoSeed, max_episode_steps=20)
    gym.register("Unseeded-v0", Unseeded, max_episode_steps=20)
    gym.register("Hardware-v0", Careless, max_episode_steps=20, nondeterministic=True)
    gym.register("Ends-v0", Ends)
