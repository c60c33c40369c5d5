"""Recording a policy in a task, episode by episode."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor
from tqdm import trange

from surefoot.offline_data.transitions import Transitions


class RecordedEnv(Protocol):
    """What is needed of `surefoot.agents.interface.VectorEnv`: SAME_STEP autoreset, `final_obs` in every info."""

    num_envs: int

    def reset(self, *, seed: int | None = None) -> tuple[Tensor, dict[str, Any]]: ...
    def step(self, actions: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, dict[str, Any]]: ...


def collect(
    act: Callable[[Tensor], Tensor],
    env: RecordedEnv,
    steps: int,
    *,
    seed: int,
    noise_std: float = 0.0,
    epsilon: float = 0.0,
    source: str = "collected",
    progress: bool = False,
) -> Transitions:
    """Return exactly `steps` transitions of `act` (N, obs) -> (N, act), on the CPU.

    Rows are in order of environment, then time, so that each episode is contiguous; the last episode of each
    environment is cut where the recording stops and its last row ends an episode without being truncated. `noise_std`
    adds Gaussian noise to the actions, `epsilon` is the probability of a uniform one in its place; both are recorded as
    executed, clipped to [-1, 1].
    """
    if steps < 1:
        raise ValueError(f"steps must be at least 1, got {steps}")
    rounds = -(-steps // env.num_envs)
    obs, _ = env.reset(seed=seed)
    generator = torch.Generator(obs.device).manual_seed(seed)
    columns: list[tuple[Tensor, ...]] = []
    for _ in trange(rounds, desc="collect", unit="step", unit_scale=env.num_envs, disable=not progress):
        action = explore(act(obs), generator, noise_std=noise_std, epsilon=epsilon)
        following, reward, terminated, truncated, info = env.step(action)
        columns.append((obs, action, reward, info["final_obs"], terminated, truncated))
        if hasattr(act, "observe"):  # a policy that acts on the rewards so far
            act.observe(reward, terminated | truncated)
        obs = following
    by_env = [torch.stack(column, dim=1) for column in zip(*columns, strict=True)]  # (N, time, …)
    obs, action, reward, next_obs, terminated, truncated = (x.flatten(0, 1)[:steps].cpu() for x in by_env)
    last_of_env = torch.arange(1, steps + 1) % rounds == 0
    return Transitions.from_arrays(
        obs=obs,
        action=action,
        reward=reward,
        next_obs=next_obs,
        terminated=terminated,
        truncated=truncated,
        episode_end=last_of_env,
        source=source,
    )


def explore(action: Tensor, generator: torch.Generator, *, noise_std: float, epsilon: float) -> Tensor:
    """Return (N, act) actions with Gaussian noise, rows replaced by uniform ones with probability epsilon, clipped.

    Without either they stay as they are: discrete ones, and those of tasks without bounds, too.
    """
    if not (noise_std or epsilon):
        return action
    if not action.is_floating_point():
        raise ValueError("noise and epsilon are for continuous actions; these are discrete")
    if noise_std:
        action = action + noise_std * torch.randn(
            action.shape, generator=generator, device=action.device, dtype=action.dtype
        )
    if epsilon:
        uniform = 2 * torch.rand(action.shape, generator=generator, device=action.device, dtype=action.dtype) - 1
        replaced = torch.rand(len(action), 1, generator=generator, device=action.device) < epsilon
        action = torch.where(replaced, uniform, action)
    return action.clamp(-1, 1)
