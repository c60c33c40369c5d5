"""What a run is made of. The field docstrings are the help text of the command line."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field, is_dataclass
from typing import Generic, Literal, TypeVar

from surefoot.configs.casting import option
from surefoot.configs.ranges import LARGEST_SEED, MOST_THREADS, require_between, require_finite
from surefoot.envs import EnvConfig, Physics
from surefoot.offline_data import DataConfig

C = TypeVar("C")

# What decides no number of a run, only how it is watched, kept and carried out: it may change when a run is resumed.
NO_NUMBER = (
    "threads",
    "logger",
    "checkpoint_every",
    "keep_checkpoints",
    "keep_finished",
    "baselines",
    "resume_episodes",
)

LIMITS = {  # of an evaluation: what none that ends goes beyond
    "episodes": (1, 1_000_000),
    "objective_episodes": (1, 10_000_000),
    "worlds": (2, 1_000_000),
    "grid": (2, 10_000),
    "seed": (0, LARGEST_SEED),
    "patience": (1, 1_000_000),
}


@dataclass(frozen=True)
class EvalConfig:
    """Evaluation of the deterministic policy on fresh episodes, by default in the real (unchanged) dynamics."""

    every: int = 10_000
    """Steps between evaluations; there is always one at the end."""
    episodes: int = 5
    """Episodes per evaluation."""
    seed: int = 1000
    """Reset seed: episode i starts from seed `seed + i`, the same in every evaluation."""
    physics: Physics = field(default_factory=Physics)
    """Dynamics of the evaluation, independent of `env.physics`; unmodified dynamics stand for the real system."""
    objectives: tuple[str, ...] = ()
    """Objectives of the return, such as cvar(0.1), that the last policy is evaluated on when the run ends, for agents
    whose objective is chosen at evaluation: a table, the return distributions and, on a grid, the paths."""
    objective_episodes: int = 20_000
    """Episodes per objective."""
    grid: int | None = None
    """Grid values per parameter of `uncertainty`. When the run ends, the last policies of the run and of its baselines
    are evaluated at every grid point, `episodes` each, with a table and a figure. None: no grid evaluation."""
    grid_closed: bool = False
    """Include both ends of each range in that grid; the published one is half-open."""
    worlds: int = 16
    """Points of `uncertainty` in which every evaluation measures the worst case, `episodes` each, so that it takes this
    many times longer: the largest grid that fits, with both ends of each range, and then random points, the same in all
    evaluations. The policy with the best worst case is kept as best.pt."""
    patience: int | None = None
    """Stop where this many evaluations in a row were no better than the best before them, by what the run is for: its
    return, worst case or objective. None: the budget alone ends a run."""

    def __post_init__(self) -> None:
        require_finite(self, "eval.")
        _require_positive("eval.every", self.every)
        _require_positive("eval.objective_episodes", self.objective_episodes)
        _require_positive("eval.episodes", self.episodes)
        _require_not_negative("eval.seed", self.seed)
        require_between(self, LIMITS, "eval.")
        if self.worlds < 2:
            raise ValueError(f"--eval.worlds is {self.worlds}; a worst case needs at least 2")
        if self.grid is not None and self.grid < 2:
            raise ValueError(f"--eval.grid is {self.grid}; a grid needs at least 2 values per parameter")


@dataclass(frozen=True)
class RunConfig(Generic[C]):
    """One run: an agent, where it acts, what it was given, and for how long."""

    agent: C
    """The settings of the agent."""
    env: EnvConfig = field(default_factory=EnvConfig)
    """The task, with the dynamics that the agent trains in."""
    uncertainty: str | None = None
    """Uncertainty set whose parameters vary in training: hopper-2, ..., or a YAML file; see
    docs/guides/uncertainty_sets.md. They are drawn uniformly for each episode (domain randomisation), unless the agent
    chooses them itself. Evaluations during training are at the nominal values, and for the worst case at `eval.worlds`
    points of the set."""
    data: DataConfig = field(default_factory=DataConfig)
    """Recorded transitions, for agents that learn from data."""
    eval: EvalConfig = field(default_factory=EvalConfig)
    """Evaluation of the policy during training."""
    steps: int = 1_000_000
    """Budget of the run: environment steps, or gradient updates for an offline agent."""
    seed: int = 0
    """Seed of all random generators of the run: parameters, exploration, replay, environments."""
    num_seeds: int = 1
    """Seeds to train in one run: `seed`, `seed` + 1, ... Each has a run folder of its own inside, RUN/seed-K, equal to
    the run of this seed alone; side by side with one stacked update where the agent has one, else one after the other.
    `env.num_envs` and `steps` are per seed. hnpg and trpo stack seeds within one run instead: metrics are logged for
    each, policy files and evaluations are of the first."""
    device: str = "auto"
    """`auto` (CUDA where there is one), `cpu`, `cuda` or `cuda:N`."""
    threads: int | None = None
    """CPU threads of PyTorch; None: PyTorch's default."""
    logger: tuple[Literal["wandb", "tensorboard"], ...] = ()
    """Loggers in addition to the CSV files, which are always written."""
    log_every: int = 1_000
    """Steps between rows of metrics.csv; each row is the mean over its interval."""
    checkpoint_every: int = 50_000
    """Steps between checkpoints; there is always one at the end and one when the run is interrupted."""
    keep_checkpoints: int = 2
    """Number of newest checkpoints to keep while training; the best policy is always kept."""
    keep_finished: int = 1
    """Number of full checkpoints to keep of a finished run; of the policies stay as many as while training."""
    engine: Literal["auto", "native", "torch", "eager"] = "auto"
    """What computes the updates: `native` (C++ kernels, float32 on a CPU), `torch` (the same plan in PyTorch), `eager`
    (autograd, the definition). All give the same numbers up to rounding. `auto`: the fastest there is."""
    precision: Literal["float32", "bf16"] = "float32"
    """Of the products in the native engine's layers of 32 units and more: `bf16` rounds what is multiplied to 8 binary
    digits and adds up in float32, where the processor has AVX512_BF16; all else stays float32. docs/guides/speed.md."""
    resume_episodes: Literal["replayed", "fresh"] = "replayed"
    """What a resumed run does with the episodes that were under way: bring them back to their exact state, or begin
    fresh ones, for tasks that cannot be brought back (global random numbers, hardware)."""
    compile: bool = False
    """Compile the updates with torch.compile."""
    cudagraph: bool = False
    """Capture the updates as CUDA graphs."""
    baselines: tuple[str, ...] = ()
    """Baseline runs, as AGENT/PRESET: trained in parallel, each in a folder of its own, and compared at the end."""

    def __post_init__(self) -> None:
        for name in ("steps", "log_every", "checkpoint_every", "keep_checkpoints", "keep_finished", "num_seeds"):
            _require_positive(name, getattr(self, name))
        require_finite(self)
        if is_dataclass(self.agent):
            require_finite(self.agent, "agent.", getattr(self.agent, "INFINITE", ()))
        _require_not_negative("seed", self.seed)
        if self.threads is not None:
            _require_positive("threads", self.threads)
        require_between(self, {"seed": (0, LARGEST_SEED), "num_seeds": (1, 10_000), "threads": (1, MOST_THREADS)})
        if (last := self.seed + self.num_seeds - 1) > LARGEST_SEED:
            raise ValueError(
                f"--num-seeds {self.num_seeds} from --seed {self.seed} on ends at {last}, beyond {LARGEST_SEED}"
            )
        require_device(self.device)
        if self.eval.grid is not None and self.uncertainty is None:
            raise ValueError(f"--eval.grid {self.eval.grid} needs --uncertainty, whose parameters are on the grid")
        for entry in self.baselines:
            if [bool(part) for part in entry.split("/")] != [True, True]:
                raise ValueError(f"--baselines: {entry!r} is not AGENT/PRESET, such as sac/demo-sim")
            if self.baselines.count(entry) > 1:
                raise ValueError(f"--baselines: {entry} is named twice")


def require_device(name: str) -> None:
    """Raise `ValueError` for a name that is no device; whether it is there is another question."""
    if not re.fullmatch(r"auto|cpu|cuda|cuda:\d{1,3}", name):
        raise ValueError(f"--device is {name!r}; choose auto, cpu, cuda or cuda:N")


def _require_positive(name: str, value: float) -> None:
    if not (math.isfinite(value) and value > 0):
        raise ValueError(f"{option(name)} is {value}; it must be positive")


def _require_not_negative(name: str, value: int) -> None:
    if value < 0:
        raise ValueError(f"{option(name)} is {value}; it must not be negative")
