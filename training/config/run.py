"""What a run is made of. The field docstrings are the help text of the command line."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Generic, Literal, TypeVar

from surefoot.envs import EnvConfig, Physics
from surefoot.offline_data import DataConfig

C = TypeVar("C")


@dataclass(frozen=True)
class EvalConfig:
    """Evaluation of the deterministic policy on fresh episodes, by default in the real (unchanged) dynamics."""

    every: int = 10_000
    """Steps between evaluations; there is always one at the end."""
    episodes: int = 5
    """Episodes of one evaluation."""
    seed: int = 1000
    """Episode i starts from reset seed `seed + i`, the same in every evaluation."""
    physics: Physics = field(default_factory=Physics)
    """Dynamics of the evaluation, whatever `env.physics` the agent trains in; neutral stands for the real machine."""
    objectives: tuple[str, ...] = ()
    """Objectives that the last policy is measured on when the run ends, such as cvar(0.1), for agents that act for one
    chosen at evaluation: a table, the laws of their returns and, on a grid, their paths."""
    objective_episodes: int = 20_000
    """Episodes for each of these."""
    grid: int | None = None
    """Values of each parameter of `uncertainty` at which the last policies, also those `beside`, are played when the
    run ends: `episodes` at each point, a table and a picture. None: they are not."""
    grid_closed: bool = False
    """Whether that grid has both ends of each range; the published one is half-open."""

    def __post_init__(self) -> None:
        _require_positive("eval.every", self.every)
        _require_positive("eval.objective_episodes", self.objective_episodes)
        _require_positive("eval.episodes", self.episodes)
        _require_not_negative("eval.seed", self.seed)
        if self.grid is not None and self.grid < 2:
            raise ValueError(f"eval.grid is {self.grid}; a grid needs at least 2 values a parameter")


@dataclass(frozen=True)
class RunConfig(Generic[C]):
    """One run: an agent, where it acts, what it was given, and for how long."""

    agent: C
    """The method's own settings."""
    env: EnvConfig = field(default_factory=EnvConfig)
    """The task, in the dynamics the agent trains in."""
    uncertainty: str | None = None
    """Uncertainty set whose parameters vary while the agent trains: hopper-2, ..., or a YAML file (docs/iwocs.md). Each
    episode draws them uniformly (domain randomisation), unless the agent chooses them itself. The evaluations on the
    way are at the nominal values."""
    data: DataConfig = field(default_factory=DataConfig)
    """Recorded transitions, for agents that read them."""
    eval: EvalConfig = field(default_factory=EvalConfig)
    """How the policy is measured while it trains."""
    steps: int = 1_000_000
    """The budget: environment steps, or updates for an agent that never acts."""
    seed: int = 0
    """Seed of every generator of the run: parameters, exploration, replay, environments."""
    num_seeds: int = 1
    """Seeds trained side by side in one run, for agents that can stack their networks. `env.num_envs` and `steps` count
    for one of them; metrics come for each; policy files and evaluations are of the first."""
    device: str = "auto"
    """`auto` (CUDA where there is one), `cpu`, `cuda` or `cuda:N`."""
    threads: int | None = None
    """CPU threads for tensor operations; None leaves the choice to PyTorch."""
    logger: tuple[Literal["wandb", "tensorboard"], ...] = ()
    """Loggers beside the CSV files, which are always written."""
    log_every: int = 1_000
    """Steps between rows of metrics.csv; each row averages over its interval."""
    checkpoint_every: int = 50_000
    """Steps between checkpoints; there is always one at the end and one when the run is interrupted."""
    keep_checkpoints: int = 2
    """How many of the newest checkpoints stay on disk; the best policy stays as well."""
    compile: bool = False
    """Wrap the update phases in torch.compile."""
    cudagraph: bool = False
    """Replay the update phases as CUDA graphs."""
    beside: tuple[str, ...] = ()
    """Presets, as AGENT/PRESET, that are trained in parallel as runs of their own and compared at the end."""

    def __post_init__(self) -> None:
        for name in ("steps", "log_every", "checkpoint_every", "keep_checkpoints", "num_seeds"):
            _require_positive(name, getattr(self, name))
        _require_not_negative("seed", self.seed)
        if self.threads is not None:
            _require_positive("threads", self.threads)
        if not (self.device in ("auto", "cpu", "cuda") or self.device.removeprefix("cuda:").isdecimal()):
            raise ValueError(f"device is {self.device!r}; choose auto, cpu, cuda or cuda:N")
        if self.eval.grid is not None and self.uncertainty is None:
            raise ValueError(f"eval.grid {self.eval.grid} needs uncertainty, the set whose parameters are on the grid")
        for entry in self.beside:
            if len([part for part in entry.split("/") if part]) != 2:
                raise ValueError(f"beside: {entry!r} is not AGENT/PRESET, such as sac/demo-sim")


def _require_positive(name: str, value: float) -> None:
    if not (math.isfinite(value) and value > 0):
        raise ValueError(f"{name} is {value}; it must be positive")


def _require_not_negative(name: str, value: int) -> None:
    if value < 0:
        raise ValueError(f"{name} is {value}; it must not be negative")
