"""What an agent is, and what it is given: the one interface between the papers and everything around them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, Protocol, runtime_checkable

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor


class Batch(NamedTuple):
    """Transitions side by side; every field float32 on the agent's device."""

    obs: Tensor  # (B, obs)
    action: Tensor  # (B, act), in [-1, 1]
    reward: Tensor  # (B,)
    next_obs: Tensor  # (B, obs), the true successor, also where an episode ended
    terminated: Tensor  # (B,), 1 where the task ended; a time-out is 0 and does not mask a bootstrap


class Episodes(NamedTuple):
    """Whose episode ended in a vector step; `episode_return` and `length` mean nothing elsewhere."""

    ended: Tensor  # (N,) bool
    episode_return: Tensor  # (N,) undiscounted
    length: Tensor  # (N,)


class Progress(NamedTuple):
    """What one `Agent.step` did. Metrics stay tensors, of any shape (the logger averages), until a row is written."""

    env_steps: int
    updates: int
    metrics: dict[str, Tensor]
    episodes: tuple[Episodes, ...] = ()
    done: bool = False  # the agent has reached what it was to stop at: the run ends before its budget
    notes: tuple[str, ...] = ()  # lines for people, on how it stands


class VectorEnv(Protocol):
    """N environments of one task with tensors in and out: `surefoot.envs.make_vec` makes one from any Gymnasium id.

    Autoreset is SAME_STEP. `info["final_obs"]` (N, obs) is the true successor in *every* environment; the returned obs
    differs from it only where an episode ended and the environment was reset. Actions are in [-1, 1] and scaled to the
    task's bounds.
    """

    @property
    def num_envs(self) -> int: ...
    @property
    def single_observation_space(self) -> gym.Space[Any]: ...
    @property
    def single_action_space(self) -> gym.Space[Any]: ...
    def reset(self, *, seed: int | None = None) -> tuple[Tensor, dict[str, Any]]: ...
    def step(self, actions: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, dict[str, Any]]: ...
    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state: dict[str, Any]) -> Tensor | None: ...  # observations of episodes begun instead
    def can_resume(self) -> bool: ...  # whether a state, loaded into a fresh copy, brings the task back
    def close(self) -> None: ...

    @property
    def episode_limit(self) -> int | None: ...  # steps after which an episode is truncated; None: unlimited


class UncertainEnv(VectorEnv, Protocol):
    """Environments whose episodes have parameters from a box; as made they are drawn uniformly at every reset."""

    @property
    def low(self) -> Tensor: ...  # (d,) float64
    @property
    def high(self) -> Tensor: ...
    @property
    def params(self) -> Tensor: ...  # (N, d), of the episodes that run; read it before a step for those of the step

    # (d,) for all environments or (N, d): from each one's next reset on, without further drawing; `now`: at once as
    # well
    def set_params(self, values: Tensor, *, now: bool = False) -> None: ...
    def randomise(self) -> None: ...  # draw again, from each environment's next reset on


class EpisodeOutcomes(Protocol):
    """One entry (P, E) for each of P points and E reset seeds."""

    @property
    def returns(self) -> np.ndarray: ...  # undiscounted
    @property
    def lengths(self) -> np.ndarray: ...  # steps


class PerturbedEnvs(Protocol):
    """The same box of parameters, to play policies in: an episode from each reset seed at each point, all at once."""

    @property
    def names(self) -> tuple[str, ...]: ...
    @property
    def low(self) -> np.ndarray: ...  # (d,)
    @property
    def high(self) -> np.ndarray: ...
    @property
    def nominal(self) -> np.ndarray: ...
    def play(
        self, act: Any, points: np.ndarray, seeds: Sequence[int]
    ) -> EpisodeOutcomes: ...  # `act`: a map or a StatefulPolicy


class OfflineData(Protocol):
    """Recorded transitions, as `surefoot.offline_data.load` returns them; fields as in `Batch`."""

    @property
    def obs(self) -> Tensor: ...
    @property
    def action(self) -> Tensor: ...
    @property
    def reward(self) -> Tensor: ...
    @property
    def next_obs(self) -> Tensor: ...
    @property
    def terminated(self) -> Tensor: ...
    @property
    def episode_end(self) -> Tensor: ...  # (N,) bool, last row of each episode
    def __len__(self) -> int: ...


TerminationFn = Callable[[Tensor, Tensor, Tensor], Tensor]  # (obs, action, next_obs), (N, …) -> `terminated` (N,) bool


class Spaces(NamedTuple):
    """The two spaces a policy is made for."""

    observation: gym.spaces.Space[Any]
    action: gym.spaces.Space[Any]


@dataclass(frozen=True)
class Setting:
    """Everything outside its own config that an agent is built from."""

    spaces: Spaces
    seed: int
    device: torch.device
    env: VectorEnv | None = None  # None for agents that only read data
    data: OfflineData | None = None  # None for agents that only act
    compile: bool = False  # wrap update phases in torch.compile
    cudagraph: bool = False  # capture update phases as CUDA graphs
    engine: Literal["eager", "torch", "native", "native-bf16"] = "eager"  # what computes the updates: `parts.engine`
    num_seeds: int = 1  # seeds trained side by side; the environments of `env` are divided among them
    termination: TerminationFn | None = None  # when the task ends, for model-based agents
    perturbed_envs: PerturbedEnvs | None = None  # where the run has an uncertainty set; `env` is an `UncertainEnv` then


class Policy(Protocol):
    """The part of an agent that is deployed: a torch module with an `act`."""

    def act(self, obs: Tensor, *, explore: bool = False) -> Tensor: ...
    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state: dict[str, Any]) -> Any: ...


class StatefulPolicy(Protocol):
    """A policy whose actions depend on the history of the episode, with a state for every environment.

    A policy or an agent with a method `stateful` is run by the object that it returns, any other by its `act`.
    """

    needs_rewards: bool  # whether `observe` must be called after every step, not only where an episode ended

    def __call__(self, obs: Tensor) -> Tensor: ...
    def observe(self, reward: Tensor, ended: Tensor) -> None: ...  # after every step, both (N,)
    def reset(self) -> None: ...  # all environments were reset


@runtime_checkable
class ObjectivePolicy(Protocol):
    """A policy that acts for an objective chosen after training (`agents.distributional.objectives.Objective`)."""

    @property
    def config(self) -> Any: ...  # with `gamma`, `stock` and `stock_range`
    def require_served(self, objective: Any) -> None: ...  # ValueError: an objective of another utility
    def outer(self, obs: Tensor, objective: Any = None) -> Any: ...  # the stock to start with, for states (S, obs)
    def stateful(
        self, objective: Any = None, stock: float | tuple[float, ...] | None = None, *, explore: bool = False
    ) -> StatefulPolicy: ...


class Agent(Protocol):
    """One method. `state_dict` holds everything: a run that is stopped and resumed is the same run."""

    @property
    def policy(self) -> Policy: ...
    def step(self) -> Progress: ...
    def act(self, obs: Tensor, *, explore: bool = False) -> Tensor: ...
    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state: dict[str, Any]) -> None: ...


class RegretCurve(Protocol):
    """Cumulative regret of N replicates, kept at log-spaced rounds (of a bandit) or episodes."""

    t: int  # rounds or episodes so far
    total: Tensor  # (N,) pseudo-regret: Σ (J* − J(u)) in the steady state, or Σ (V* − V^π)

    @property
    def realised(self) -> Tensor: ...  # (N,) t·J* − Σ y
    def trace(self) -> tuple[list[int], Tensor]: ...  # rounds (P,), pseudo-regret (P, N), now included


class BanditAgent(Agent, Protocol):
    """An agent whose environments are independent replicates; `env_steps` counts the steps of one of them."""

    @property
    def regret(self) -> RegretCurve: ...


class Style(NamedTuple):
    """How figures draw a method; the colours are Okabe and Ito's, safe for colour-blind readers."""

    color: str
    dash: str


class Budget(NamedTuple):
    """What a run gives its agent to do it in: with the agent's config it decides what will run."""

    steps: int  # environment steps of each seed; updates for an offline agent
    num_envs: int = 1  # of each seed
    has_data: bool = False
    episode_length: Callable[[], int | None] = lambda: None  # the task's horizon or time limit; makes the task


class Plan(NamedTuple):
    """What will run, before anything does."""

    steps: int  # that the run ends at, in whole iterations; an upper bound where it may end early
    updates: int | None  # None: decided by what will be seen
    phases: tuple[str, ...]  # in order, for people


def _never(config: Any) -> bool:
    return False


def _as_given(config: Any, budget: Budget) -> Any:
    return config


def _one_phase(config: Any, budget: Budget) -> Plan:
    return Plan(budget.steps, None, (f"{budget.steps:,} steps",))


@dataclass(frozen=True)
class AgentSpec:
    """One entry of the registry: how to configure, build and deploy an agent."""

    default: Any  # an instance of its frozen config dataclass; the command line and presets change fields of it
    make_agent: Callable[[Any, Setting], Agent]
    make_policy: Callable[[Any, Spaces], Policy]  # what evaluation builds: needs neither data nor a training task
    summary: str  # one line for `train.py --help`
    actions: tuple[Literal["Box", "Discrete"], ...] = ("Box",)  # what it takes; observations are always one vector
    offline: bool = False  # never steps an environment; its budget counts updates
    needs_data: bool = False
    takes_data: bool = False  # learns from recorded data where it is given some
    model_based: bool = False  # rolls out a learned model, so it needs the task's termination function
    needs_uncertainty_set: bool = False  # trains in an uncertainty set
    stacks_seeds: bool = False  # can train several seeds at once
    has_compiled_form: bool = True  # or captured: torch.compile and CUDA graphs reach its updates
    shown: tuple[str, ...] = ()  # metrics that the progress line shows in addition to the episode return
    unbounded: tuple[str, ...] = ()  # metrics of which infinity is a value, not a sign that training has diverged
    drawn: Mapping[str, str] = field(default_factory=dict)  # metrics of plots/diagnostics.png -> axis label, with unit
    regret: Literal["round", "episode"] | None = None  # a `BanditAgent`: measured by its regret, never evaluated
    # (config, parts.ask_tell.BanditRequest, device) -> parts.ask_tell.AskTell: drives a real system
    make_ask_tell: Callable[[Any, Any, Any], Any] | None = None
    goal: Literal["return", "worst case", "objective"] = "return"  # what it maximises
    needs_true_rewards: Callable[[Any], bool] = _never  # given its config: not with rewards changed on the way
    task_fields: tuple[str, ...] = ()  # config fields that are the task's or the run's length: baseline runs take them
    steps: int = 1_000_000  # budget of a run that names none
    derive: Callable[[Any, Budget], Any] = _as_given  # its config with the lengths filled in that follow from the run
    plan: Callable[[Any, Budget], Plan] = _one_phase  # ValueError: lengths that do not go together; of a derived config
    variant: str | None = None  # config field whose values are methods of their own in figures and tables
    variant_styles: Mapping[str, Style] = field(default_factory=dict)
    artefacts: Mapping[str, Callable[[Any], Any]] = field(default_factory=dict)  # file -> plain values
    style: Style | None = None  # None: one by its name
    page: str | None = None  # docs/methods/PAGE.md, whose tables explain its metrics
    tiny: dict[str, Any] = field(default_factory=dict)  # fields that make it train in milliseconds, for tests
    tiny_env: dict[str, Any] = field(default_factory=dict)  # fields of the task such a test trains in

    @property
    def reads_data(self) -> bool:
        """Whether recorded data change what it learns."""
        return self.needs_data or self.takes_data

    def label(self, agent_name: str, config: Any) -> str:
        """Return what figures and tables call a run: its agent, and its variant where the agent has variants."""
        return f"{agent_name} {getattr(config, self.variant)}" if self.variant else agent_name

    def style_of(self, config: Mapping[str, Any]) -> Style | None:
        """Return the style of a run by its agent's config as plain values."""
        return self.variant_styles.get(str(config.get(self.variant)), self.style) if self.variant else self.style
