"""Stock-augmented observations: reward so far, less the target, in the units of the return to come.

Ávila Pires et al., arXiv 2501.13028: c starts at c_0, which the user sets, and c' = (c + r)/γ. At every step t of an
episode, c_0 + Σ_{k<t} γ^k·r_{k+1} = γ^t·c_t: docs/derivations/distributional.md eq. (1.2), eq. (1.4) and §9.6. The
reward must be the one that the learner sees, in its real scale.
"""

from __future__ import annotations

import math
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium.vector import AutoresetMode
from gymnasium.vector.utils import batch_space
from torch import Tensor

CHANGED_REWARDS = ("ClipReward", "NormalizeReward", "ClipRewardEnv", "VecNormalize")  # Gymnasium's and SB3's, by name
LARGEST = 1e30  # |c| grows as γ^-t once the target is out of reach; such numbers are alike, and float32 must hold them


class StockObservation(gym.Wrapper, gym.utils.RecordConstructorArgs):
    """Observations {"obs": the task's, "stock": (1,) float32}; `FlattenObservation` around it makes one vector.

    c_0 is `reset(options={"stock": c_0})`, or uniform on `stock_range`. The stock that is shown is clipped to ±`clip`,
    the one that is carried is not. `info` has "stock" (unclipped) and "discounted_return" (so far).

    Raises:
        ValueError: gamma outside (0, 1], no range, a wrapper below that clips or normalises rewards or ends episodes at
            the loss of a life; at a step, a reward that is not finite.
    """

    def __init__(self, env: gym.Env, gamma: float, stock_range: tuple[float, float], clip: float | None = None):
        gym.utils.RecordConstructorArgs.__init__(self, gamma=gamma, stock_range=stock_range, clip=clip)
        super().__init__(env)
        _check(env, gamma, stock_range, clip)
        self.gamma, self.stock_range, self.clip = gamma, stock_range, math.inf if clip is None else clip
        self.observation_space = _with_stock(env.observation_space, self.clip)
        self._generator = np.random.default_rng()
        self.stock = self._discount = self._return = 0.0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        if seed is not None:
            self._generator = np.random.default_rng(seed)
        rest = dict(options or {})
        chosen = rest.pop("stock", None)
        self.stock = self._generator.uniform(*self.stock_range) if chosen is None else float(chosen)
        _check_chosen(math.isfinite(self.stock), chosen)
        self._discount, self._return = 1.0, 0.0
        obs, info = self.env.reset(seed=seed, options=rest or None)
        return self._shown(obs), info | self._info()

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        obs, reward, terminated, truncated, info = self.env.step(action)
        if not math.isfinite(reward):
            raise ValueError(f"the task gave the reward {reward}; a stock needs finite rewards")
        self._return += self._discount * float(reward)
        self._discount *= self.gamma
        self.stock = min(max((self.stock + float(reward)) / self.gamma, -LARGEST), LARGEST)
        return self._shown(obs), reward, terminated, truncated, info | self._info()

    def _shown(self, obs: Any) -> dict[str, Any]:
        return {"obs": obs, "stock": np.array([self.stock], np.float32).clip(-self.clip, self.clip)}

    def _info(self) -> dict[str, float]:
        return {"stock": self.stock, "discounted_return": self._return}


class StockVectorObservation(gym.vector.VectorWrapper):
    """As `StockObservation`, for N environments with arrays or tensors, and SAME_STEP or NEXT_STEP autoreset.

    A c_0 given to `reset` (a number or (N,)) also starts the episodes that follow by autoreset. `info` has, each (N,),
    "stock", of the observation that is returned; "final_stock", of the step's true successor, before any autoreset;
    "discounted_return", of the episode up to this step. `info["final_obs"]` carries the true successor's stock too.

    Raises:
        As `StockObservation`; `ValueError` also for an environment without autoreset.
    """

    def __init__(
        self, env: gym.vector.VectorEnv, gamma: float, stock_range: tuple[float, float], clip: float | None = None
    ):
        super().__init__(env)
        _check(env, gamma, stock_range, clip)
        self.mode = env.metadata.get("autoreset_mode")
        if self.mode not in (AutoresetMode.SAME_STEP, AutoresetMode.NEXT_STEP):
            raise ValueError(
                f"autoreset mode {self.mode}: a stock needs SAME_STEP or NEXT_STEP, which define where it starts"
            )
        self.gamma, self.stock_range, self.clip = gamma, stock_range, math.inf if clip is None else clip
        self.single_observation_space = _with_stock(env.single_observation_space, self.clip)
        self.observation_space = batch_space(self.single_observation_space, env.num_envs)
        self.device = torch.device(getattr(env, "device", "cpu"))
        self._generator = torch.Generator(self.device)
        self._generator.seed()
        self._chosen: Tensor | None = None
        self.stock = self._zeros()

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        if seed is not None:
            self._generator.manual_seed(seed)
        rest = dict(options or {})
        chosen = rest.pop("stock", None)
        self._chosen = None if chosen is None else torch.as_tensor(chosen, dtype=torch.float64).to(self.device)
        _check_chosen(self._chosen is None or bool(torch.isfinite(self._chosen).all()), chosen)
        self.stock, self._return, self._discount = self._start(), self._zeros(), self._zeros() + 1.0
        self._waiting = self._zeros().bool()  # whose next step is NEXT_STEP's reset
        obs, info = self.env.reset(seed=seed, options=rest or None)
        return self._shown(obs, self.stock), info | {
            "stock": _like(self.stock, obs),
            "discounted_return": _like(self._return, obs),
        }

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        obs, reward, terminated, truncated, info = self.env.step(actions)
        rewards = torch.as_tensor(reward).double().masked_fill(self._waiting, 0.0)
        if not torch.isfinite(rewards).all():
            raise ValueError("the task gave a reward that is not finite; a stock needs finite rewards")
        successor = ((self.stock + rewards) / self.gamma).clamp(-LARGEST, LARGEST)
        self._return = self._return + self._discount * rewards
        self._discount = self._discount * self.gamma
        ended = torch.as_tensor(terminated) | torch.as_tensor(truncated)
        same_step = self.mode is AutoresetMode.SAME_STEP
        fresh = ended if same_step else self._waiting
        self.stock = torch.where(fresh, self._start(), successor)
        final = successor if same_step else self.stock
        earned = self._return if same_step else self._return.masked_fill(fresh, 0.0)
        self._return, self._discount = earned.masked_fill(fresh, 0.0), self._discount.masked_fill(fresh, 1.0)
        self._waiting = ended & (not same_step)
        info = info | {
            "stock": _like(self.stock, obs),
            "final_stock": _like(final, obs),
            "discounted_return": _like(earned, obs),
        }
        if "final_obs" in info:
            info["final_obs"] = self._final(info["final_obs"], final)
        return self._shown(obs, self.stock), reward, terminated, truncated, info

    def _start(self) -> Tensor:
        low, high = self.stock_range
        if self._chosen is not None:
            return self._zeros() + self._chosen
        return low + (high - low) * torch.rand(
            self.num_envs, generator=self._generator, device=self.device, dtype=torch.float64
        )

    def _zeros(self) -> Tensor:
        return torch.zeros(self.num_envs, device=self.device, dtype=torch.float64)

    def _shown(self, obs: Any, stock: Tensor) -> dict[str, Any]:
        return {"obs": obs, "stock": _like(stock.clamp(-self.clip, self.clip).float()[:, None], obs)}

    def _final(self, final_obs: Any, stock: Tensor) -> Any:
        """Join the true successors with their stock: a batch of them (ours), or Gymnasium's array with None between."""
        if not (isinstance(final_obs, np.ndarray) and final_obs.dtype == object):
            return self._shown(final_obs, stock)
        shown = self._shown(final_obs, stock)["stock"]
        joined = np.full(len(final_obs), None, dtype=object)
        for i, obs in enumerate(final_obs):
            joined[i] = None if obs is None else {"obs": obs, "stock": shown[i]}
        return joined


def refuse_changed_rewards(env: Any) -> None:
    """Raise `ValueError` where a wrapper changes the scale of rewards, or ends an episode that the stock outlives.

    Call it on the outermost environment: a wrapper around the stock would change what the learner sees, but not the
    stock. The sub-environments of a process-based vector environment cannot be seen from here.
    """
    layer = env
    while layer is not None:
        name = type(layer).__name__
        if name in CHANGED_REWARDS:
            raise ValueError(f"{name} changes rewards; a stock is carried in their real scale: take {name} away")
        if name == "EpisodicLifeEnv" or getattr(layer, "__dict__", {}).get("terminal_on_life_loss"):
            raise ValueError(f"{name} ends an episode at the loss of a life while the stock continues; switch that off")
        for env in getattr(layer, "__dict__", {}).get("envs", ()):
            refuse_changed_rewards(env)
        layer = getattr(layer, "__dict__", {}).get("env")


def _check_chosen(finite: bool, chosen: Any) -> None:
    if not finite:
        raise ValueError(f"the stock of reset's options must be finite, not {chosen}")


def _check(env: Any, gamma: float, stock_range: tuple[float, float], clip: float | None) -> None:
    if not 0 < gamma <= 1:
        raise ValueError(f"gamma must lie in (0, 1], not {gamma}: the stock update divides by it")
    low, high = stock_range
    if not (math.isfinite(low) and math.isfinite(high) and low <= high):
        raise ValueError(f"the range of the stock must be two finite numbers in order, not {stock_range}")
    if clip is not None and clip < max(abs(low), abs(high)):
        raise ValueError(f"clip must reach over the range of the stock {stock_range}, not {clip}")
    refuse_changed_rewards(env)


def _with_stock(space: gym.Space[Any], clip: float) -> gym.spaces.Dict:
    return gym.spaces.Dict({"obs": space, "stock": gym.spaces.Box(-clip, clip, (1,), np.float32)})


def _like(value: Tensor, obs: Any) -> Any:
    """Return a tensor where observations are tensors, else an array."""
    return value if isinstance(obs, Tensor) else value.numpy(force=True)
