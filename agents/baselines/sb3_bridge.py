"""The bridge to Stable-Baselines3; `surefoot.agents.baselines.sb3` imports it when such an agent is asked for.

The library is driven through its documented calls: `learn(reset_num_timesteps=False)`, `get_parameters`,
`set_parameters`, `set_logger`, `predict`, a `VecEnv`. An exact resume also needs the counters and the last observation,
which it keeps in `_n_updates`, `_episode_num`, `_last_obs` and `_last_episode_starts`; the resume tests hold these.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3 import PPO, SAC, TD3
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.noise import NormalActionNoise
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.vec_env import VecEnv
from stable_baselines3.ppo import MlpPolicy as PPOPolicy
from stable_baselines3.sac import MlpPolicy as SACPolicy
from stable_baselines3.td3 import MlpPolicy as TD3Policy
from torch import Tensor, nn

from surefoot.agents.baselines.sb3_config import SB3Config, SB3PPOConfig, SB3SACConfig, SB3TD3Config
from surefoot.agents.interface import Episodes, Progress, Setting, Spaces, VectorEnv
from surefoot.agents.parts.interaction import Interaction

ALGORITHMS: dict[type, tuple[type[BaseAlgorithm], type[BasePolicy]]] = {
    SB3SACConfig: (SAC, SACPolicy),
    SB3TD3Config: (TD3, TD3Policy),
    SB3PPOConfig: (PPO, PPOPolicy),
}
REPLAY_COLUMNS = ("observations", "next_observations", "actions", "rewards", "dones", "timeouts")


class TensorVecEnv(VecEnv):
    """Our tensor environment as the library's `VecEnv`: NumPy in and out, last observation and time-out in the info."""

    def __init__(self, env: VectorEnv, seed: int) -> None:
        self.interaction = Interaction(env, seed)
        self.ended: list[Episodes] = []  # one entry per step since the agent last took them
        self.task_actions = env.single_action_space
        super().__init__(env.num_envs, _own(env.single_observation_space), _own(env.single_action_space))

    def reset(self) -> np.ndarray:
        """Return the current observations: the library calls this once, and `Interaction` has already reset."""
        return _array(self.interaction.obs)

    def step_async(self, actions: np.ndarray) -> None:
        self._actions = _to_task(actions, self.task_actions).to(self.interaction.obs.device)

    def step_wait(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[dict[str, Any]]]:
        batch, episodes = self.interaction.step(self._actions)
        self.ended.append(episodes)
        dones, terminated, last_obs = _array(episodes.ended), _array(batch.terminated), _array(batch.next_obs)
        infos: list[dict[str, Any]] = [{} for _ in dones]
        for i in np.flatnonzero(dones):
            infos[i] = {"terminal_observation": last_obs[i], "TimeLimit.truncated": not terminated[i]}
        return _array(self.interaction.obs), _array(batch.reward), dones, infos

    def close(self) -> None:
        self.interaction.env.close()

    def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
        if attr_name == "render_mode":
            return [None] * self.num_envs
        raise AttributeError(f"{attr_name} is not reachable through a tensor environment")

    def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:
        raise AttributeError(f"{attr_name} cannot be set through a tensor environment")

    def env_method(self, method_name: str, *args: Any, indices: Any = None, **kwargs: Any) -> list[Any]:
        raise AttributeError(f"{method_name} is not reachable through a tensor environment")

    def env_is_wrapped(self, wrapper_class: type, indices: Any = None) -> list[bool]:
        return [False] * self.num_envs


def _own(space: spaces.Space[Any]) -> spaces.Box | spaces.Discrete:
    """Return a copy of the space, which the library seeds and samples; its actions by number begin at 0."""
    if isinstance(space, spaces.Discrete):
        return spaces.Discrete(int(space.n))
    assert isinstance(space, spaces.Box), "tasks have vectors or numbers of actions"
    return spaces.Box(space.low.astype(np.float32), space.high.astype(np.float32))


def _to_task(actions: np.ndarray, space: spaces.Space[Any]) -> Tensor:
    """Return the library's actions as the task numbers them, or as a vector."""
    if isinstance(space, spaces.Discrete):
        return torch.as_tensor(actions, dtype=torch.int64) + int(space.start)
    return torch.as_tensor(actions, dtype=torch.float32)


def _array(tensor: Tensor) -> np.ndarray:
    """Return a copy: the library keeps references, and PPO adds to the rewards in place."""
    return tensor.detach().cpu().numpy().copy()


class GlobalGenerators:
    """The library's own streams: it draws from torch's and NumPy's global generators, so these are lent to it.

    Inside `lent()` the global generators continue where this agent left them; outside they are as they were, so that
    an SB3 agent neither disturbs nor notices what else runs in the process.
    """

    def __init__(self, device: torch.device) -> None:
        self.cuda = [device] if device.type == "cuda" else []
        self.state = self._read()

    def _read(self) -> dict[str, Any]:
        return {
            "torch": torch.get_rng_state(),
            "cuda": [torch.cuda.get_rng_state(device) for device in self.cuda],
            "numpy": np.random.get_state(),  # noqa: NPY002 the library samples its replay from it
        }

    def _write(self, state: dict[str, Any]) -> None:
        torch.set_rng_state(state["torch"])
        for device, cuda_state in zip(self.cuda, state["cuda"], strict=True):
            torch.cuda.set_rng_state(cuda_state, device)
        np.random.set_state(state["numpy"])  # noqa: NPY002

    @contextmanager
    def lent(self) -> Iterator[None]:
        outside = self._read()
        self._write(self.state)
        try:
            yield
        finally:
            self.state = self._read()
            self._write(outside)

    def state_dict(self) -> dict[str, Any]:
        """Return the streams as tensors and plain values: `weights_only` loading refuses NumPy's legacy tuple."""
        _, key, position, has_gauss, gauss = self.state["numpy"]
        mersenne = {"key": torch.from_numpy(key.astype(np.int64)), "tail": [position, has_gauss, gauss]}
        return {**self.state, "numpy": mersenne}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        mersenne = state["numpy"]
        self.state = {
            "torch": state["torch"].cpu(),  # a checkpoint read onto a GPU brings these along
            "cuda": [cuda_state.cpu() for cuda_state in state["cuda"]],
            "numpy": ("MT19937", mersenne["key"].cpu().numpy().astype(np.uint32), *mersenne["tail"]),
        }


class SB3Policy(nn.Module):
    """A policy of the library behind our interface; it computes on its own device and passes through NumPy."""

    def __init__(self, policy: BasePolicy, task_actions: spaces.Space[Any]) -> None:
        super().__init__()
        self.policy, self.task_actions = policy, task_actions

    def act(self, obs: Tensor, *, explore: bool = False) -> Tensor:
        """Return (N, act) in [-1, 1], or (N,) numbers; exploring draws from torch's global generator, as they do."""
        actions, _ = self.policy.predict(obs.cpu().numpy(), deterministic=not explore)
        return _to_task(actions, self.task_actions).to(obs.device)


def make_policy(config: SB3Config, spaces: Spaces) -> SB3Policy:
    """Return a policy with fresh parameters of the architecture that `config` trains."""
    policy_class = ALGORITHMS[type(config)][1]
    constant: Any = lambda _: config.learning_rate  # noqa: E731 the signature wants a schedule
    observation, action = _own(spaces.observation), _own(spaces.action)
    return SB3Policy(policy_class(observation, action, constant, net_arch=list(config.net_arch)), spaces.action)


class SB3Agent:
    """One algorithm of the library, stepped by our loop."""

    def __init__(self, config: SB3Config, setting: Setting) -> None:
        if setting.env is None:
            raise ValueError("a Stable-Baselines3 agent learns by acting; its setting has no environment")
        action = setting.spaces.action
        if isinstance(action, spaces.Box) and not action.is_bounded():
            raise ValueError(
                f"Stable-Baselines3's agents need actions within bounds, not {action}; choose another agent"
            )
        self.env = TensorVecEnv(setting.env, setting.seed)
        self.generators = GlobalGenerators(setting.device)
        with self.generators.lent():  # the library seeds the global generators in the constructor
            self.model = _make_model(config, self.env, setting)
        self.model.set_logger(Logger(folder=None, output_formats=[]))
        self.policy = SB3Policy(self.model.policy, action)

    def act(self, obs: Tensor, *, explore: bool = False) -> Tensor:
        with self.generators.lent():
            return self.policy.act(obs, explore=explore)

    def step(self) -> Progress:
        """Return the progress of the library's smallest piece of learning."""
        env_steps, updates = self.model.num_timesteps, self.model._n_updates
        with self.generators.lent():
            self.model.learn(1, reset_num_timesteps=False, log_interval=sys.maxsize)  # our loop writes the logs
        metrics = _train_metrics(self.model.logger)
        episodes, self.env.ended = tuple(self.env.ended), []
        return Progress(self.model.num_timesteps - env_steps, self.model._n_updates - updates, metrics, episodes)

    def state_dict(self) -> dict[str, Any]:
        model = self.model
        return {
            "parameters": model.get_parameters(),  # networks, targets, optimisers
            "log_ent_coef": _log_ent_coef(model),
            "replay": _replay_state(model),
            "counters": {name: getattr(model, name) for name in ("num_timesteps", "_n_updates", "_episode_num")},
            "episode_starts": _optional_tensor(model._last_episode_starts),  # None until the first step
            "interaction": self.env.interaction.state_dict(),
            "generators": self.generators.state_dict(),
            "random_actions": model.action_space.np_random.bit_generator.state,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        model = self.model
        model.set_parameters(state["parameters"], exact_match=True, device=model.device)
        if state["log_ent_coef"] is not None:
            model.log_ent_coef.data.copy_(state["log_ent_coef"])
        if state["replay"] is not None:
            _load_replay(model.replay_buffer, state["replay"])
        for name, value in state["counters"].items():
            setattr(model, name, value)
        self.env.interaction.load_state_dict(state["interaction"])
        if state["episode_starts"] is not None:
            model._last_obs = self.env.reset()
            starts = state["episode_starts"].cpu().numpy()
            model._last_episode_starts = np.ones_like(starts) if self.env.interaction.begun_anew else starts
        self.generators.load_state_dict(state["generators"])
        model.action_space.np_random.bit_generator.state = state["random_actions"]


def _make_model(config: SB3Config, env: TensorVecEnv, setting: Setting) -> Any:
    options = asdict(config)
    policy_kwargs = {"net_arch": list(options.pop("net_arch"))}
    if isinstance(config, SB3TD3Config):
        (size,) = env.action_space.shape or ()
        noise = NormalActionNoise(np.zeros(size), np.full(size, options["action_noise"]))
        options["action_noise"] = noise if config.action_noise > 0 else None
    algorithm = ALGORITHMS[type(config)][0]
    return algorithm(
        "MlpPolicy", env, policy_kwargs=policy_kwargs, seed=setting.seed, device=setting.device, verbose=0, **options
    )


def _train_metrics(logger: Logger) -> dict[str, Tensor]:
    """Return and clear what the library logged of its updates, in float64 as it counted."""
    values = {key.removeprefix("train/"): v for key, v in logger.name_to_value.items() if key.startswith("train/")}
    logger.dump()
    values.pop("n_updates", None)  # our loop counts them
    return {key: torch.tensor(float(value), dtype=torch.float64) for key, value in values.items()}


def _log_ent_coef(model: Any) -> Tensor | None:
    """Return SAC's learned coefficient; TD3, PPO and a fixed coefficient have none."""
    value = getattr(model, "log_ent_coef", None)
    return None if value is None else value.detach()


def _optional_tensor(array: np.ndarray | None) -> Tensor | None:
    return None if array is None else torch.from_numpy(array)


def _replay_state(model: Any) -> dict[str, Any] | None:
    """Return the written rows and where the next one goes; PPO has no replay, and no rollout between two steps."""
    buffer = getattr(model, "replay_buffer", None)
    if buffer is None:
        return None
    columns = {name: torch.from_numpy(getattr(buffer, name)[: buffer.size()]) for name in REPLAY_COLUMNS}
    return {"columns": columns, "pos": buffer.pos, "full": buffer.full}


def _load_replay(buffer: ReplayBuffer, state: dict[str, Any]) -> None:
    for name in REPLAY_COLUMNS:
        rows = state["columns"][name]
        getattr(buffer, name)[: len(rows)] = rows.cpu().numpy()
    buffer.pos, buffer.full = state["pos"], state["full"]
