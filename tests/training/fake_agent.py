"""The smallest agent that uses every part of the interface: a random walk of the parameters of a linear policy."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from surefoot.agents.interface import AgentSpec, Episodes, Progress, Setting, Spaces

HERE = Path(__file__).resolve().parent
PAUSE = float(
    os.environ.get("FAKE_PAUSE", 0)
)  # seconds an agent step takes; in no config, so that it may change on resume
LATE = 30  # agent steps before a metric appears that was not there before


@dataclass(frozen=True)
class FakeConfig:
    """A random walk."""

    scale: float = 0.1
    """Size of one step of the walk."""
    env_steps: int = 3
    """Environment steps that it reports for one agent step."""
    fail_at: int = -1
    """Agent step that raises."""
    padding: int = 0
    """Further float32 numbers in the state."""
    nan_in: str = ""
    """What is NaN from agent step 12 on: `metric`, `policy`, `state`, or `state, then fails` at step 14."""

    def __post_init__(self) -> None:
        if self.scale <= 0:
            raise ValueError(f"--agent.scale must be positive, not {self.scale}")


class LinearPolicy(nn.Module):
    def __init__(self, spaces: Spaces) -> None:
        super().__init__()
        width, actions = spaces.observation.shape[0], spaces.action.shape[0]
        with torch.random.fork_rng(devices=[]):  # leaves the global generator alone; `skip_init` imports SymPy
            self.linear = nn.Linear(width, actions)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def act(self, obs: Tensor, *, explore: bool = False) -> Tensor:
        return self.linear(obs).tanh()


class Fake:
    def __init__(self, config: FakeConfig, setting: Setting) -> None:
        self.config = config
        self.policy = LinearPolicy(setting.spaces).requires_grad_(False)
        self.generator = torch.Generator().manual_seed(setting.seed)
        self.steps = 0
        self.padding = torch.zeros(config.padding)

    def act(self, obs: Tensor, *, explore: bool = False) -> Tensor:
        return self.policy.act(obs, explore=explore)

    def step(self) -> Progress:
        self.steps += 1
        if self.steps == self.config.fail_at:
            raise ValueError("the fake agent fails as configured")
        if "FAKE_STEPPING" in os.environ:  # names a file that tells a test that an agent step has begun
            Path(os.environ["FAKE_STEPPING"]).touch()
        time.sleep(PAUSE)
        noise = torch.randn(self.policy.linear.weight.shape, generator=self.generator)
        self.policy.linear.weight += self.config.scale * noise
        metrics = {"noise": noise, "walk": self.policy.linear.weight.norm()}
        if self.steps > LATE:
            metrics["late"] = noise.sum()
        if self.config.nan_in and self.steps >= 12:
            self._spoil(metrics)
        ended = torch.tensor([self.steps % 7 == 0, False])
        nothing = float("nan")  # what stands where no episode ended means nothing
        episodes = Episodes(ended, torch.tensor([float(self.steps), nothing]), torch.tensor([5, 9]))
        return Progress(self.config.env_steps, 1, metrics, (episodes,))

    def _spoil(self, metrics: dict[str, Tensor]) -> None:
        if self.config.nan_in == "metric":
            metrics["noise"] = metrics["noise"] / 0 * 0
        elif self.config.nan_in == "policy":
            self.policy.linear.bias += torch.nan
        else:
            self.padding += torch.nan
        if self.config.nan_in == "state, then fails" and self.steps == 14:
            raise torch.linalg.LinAlgError("the input has NaN")

    def state_dict(self) -> dict[str, Any]:
        state = {"policy": self.policy.state_dict(), "generator": self.generator.get_state(), "steps": self.steps}
        return state | {"padding": self.padding}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.policy.load_state_dict(state["policy"])
        self.generator.set_state(state["generator"])
        self.steps = state["steps"]


FAKE_SPEC = AgentSpec(FakeConfig(), Fake, lambda config, spaces: LinearPolicy(spaces), "a random walk, for tests")


if __name__ == "__main__":  # the command line, with the fake agent in it
    import sys

    from surefoot import agents
    from surefoot.training.cli.main import main

    agents.REGISTRY["fake"] = "fake_agent:FAKE_SPEC"
    sys.exit(main())
