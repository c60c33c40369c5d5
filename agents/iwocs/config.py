"""The settings of IWOCS, which of them go together, and the phases of a run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import ClassVar, Literal

from surefoot.agents.interface import Budget, Plan
from surefoot.agents.iwocs.composite import THRESHOLDS
from surefoot.agents.iwocs.search import GENERATIONS, POPULATION
from surefoot.agents.parts.budget import counted, flag, require_room, require_warm_up, vector_steps, whole_rollouts
from surefoot.agents.parts.ranges import AT_LEAST_0, AT_LEAST_1, WIDTHS, check_ranges, optional, unread_where
from surefoot.agents.sac import SAC_SPEC, SACConfig

# What another search does not look at, and what the other gate does not.
OF_POINTS, OF_GRID = ("population", "generations"), ("grid_n", "grid_closed")
OF_MODELS = ("gate_updates", "gate_tolerance", "train_all_parts")
OF_PREDICTORS = ("error_quantile", "gate_critic", "gate_memory", "gate_choice", "thresholds", "threshold_ties")
OF_WHO_ACTS_FIRST = ("gate_first", "threshold_by")  # unless that is searched


@dataclass(frozen=True)
class IWOCSConfig(SACConfig):
    """Defaults: the paper's table 5 and appendix H for two parameters, else ours: docs/derivations/iwocs.md §6.1."""

    critic_lr: float = 1e-3
    """Learning rate of critics and predictor (Adam)."""
    adam_eps: float = 1e-5
    """ε of the Adam optimisers."""
    learning_starts: int = 10_000
    """Environment steps in each model before the first round of updates."""
    random_steps: int = 10_000
    """Environment steps with uniformly random actions at the start of each model."""
    entropy_free_hidden: tuple[int, ...] = (256, 256, 256)
    """Hidden layer widths of the entropy-free critic: one layer more than the others."""
    default_steps: int = 1_600_000
    """Environment steps of the default policy (N_def), trained by domain randomisation."""
    model_steps: int = 800_000
    """Environment steps in each model (N_sac)."""
    iterations: int = 3
    """Maximum number of models to train in (M)."""
    thresholds: tuple[float, ...] = THRESHOLDS
    """Candidate values of the gate threshold ρ (R); 0 also allows a specialist to be rejected, inf means no gate."""
    threshold_by: Literal["worst", "mean"] = "worst"
    """Value of a threshold's search that it is chosen by: the `worst` one, or the `mean` over all points (ours), which
    tells thresholds apart while another model stays the worst whatever they are."""
    threshold_ties: Literal["largest", "middle", "again"] = "largest"
    """Which of equally good thresholds is taken: the `largest`, or the `middle` one (ours), as the largest lies next to
    those that are worse; `again` (ours): the one that is best on the held-out seeds."""
    error_quantile: float | None = None
    """Measure prediction errors in units of this quantile of a model's own errors over its replay buffer (ours); None:
    unscaled."""
    search: Literal["grid", "cma", "random"] = "grid"
    """Search for the worst model: a grid (IWOCS*), CMA-ES (IWOCS) or uniformly random points."""
    grid_n: int = 10
    """Values per parameter on the search grid."""
    grid_closed: bool = False
    """Include both ends of each range in the search grid; the published grid is half-open."""
    population: int = POPULATION
    """Population size of CMA-ES."""
    generations: int = GENERATIONS
    """Generations of CMA-ES."""
    search_episodes: int = 1
    """Episodes at each point of a search, with the same reset seeds at all points."""
    held_out_episodes: int = 20
    """Episodes at each point of the search on held-out seeds, which decides whether a composite is deployed."""
    repeat_tolerance: float = 0.02
    """Two models count as the same if no parameter differs by more than this fraction of its range."""
    next_model: Literal["worst", "random"] = "worst"
    """Which model to train in next: the worst one, or a `random` one (ablation)."""
    gate_critic: Literal["entropy-free", "soft"] = "entropy-free"
    """Critic whose minimum selects the acting policy: the entropy-free one, or `soft`, SAC's own (ablation)."""
    gate: Literal["predictors", "models"] = "predictors"
    """Who may act: a specialist whose predictor foresaw the step before to within ρ (`predictors`, the paper), or one
    that was seen to hold in every model of the search that still explains the episode (`models`, ours)."""
    gate_updates: int = 10_000
    """With `gate models`: gradient steps, after each model, on the predictor that it judges by."""
    gate_tolerance: float = 3.0
    """With `gate models`: by how many usual errors more than the best model of an episode another may have and explain
    it, too."""
    train_all_parts: bool = False
    """With `gate models`: train the specialists' entropy-free critics and predictors, too. That gate does not ask them,
    and they take more than half the time of an update; `gate predictors` always has them."""
    gate_memory: float = 0.0
    """Factor by which a remembered prediction error fades in a step: the gate judges by a faded mean of the episode's
    errors (ours); 0: by that of the last step alone."""
    gate_choice: Literal["pessimistic", "accurate"] = "pessimistic"
    """Who acts of the usable specialists: the one with the smallest value (`pessimistic`), or with the smallest error
    in the unit of `error_quantile` (`accurate`, ours)."""
    gate_first: Literal["pessimistic", "default", "searched"] = "pessimistic"
    """Who acts in the first step of an episode, where nothing was foreseen: the specialist whose own action has the
    smallest value (`pessimistic`), the `default` policy, which was trained in all models (ours), or the one whom
    searches find best there (`searched`, ours). With `gate models` the default does, unless that is `searched`."""
    prolong: int = 0
    """Maximum number of further rounds of `model_steps` in a model in which its specialist does not hold yet (ours);
    each counts as one of `iterations`."""
    on_repeat: Literal["end", "next-worst"] = "end"
    """Where the worst model was trained in before: end the run, or train in the worst of the others (ours)."""

    INFINITE: ClassVar[tuple[str, ...]] = ("thresholds",)

    def __post_init__(self) -> None:
        counts = ("default_steps", "model_steps", "generations", "search_episodes", "gate_updates")
        rules = dict.fromkeys(counts, AT_LEAST_1)
        rules |= dict.fromkeys(["iterations", "repeat_tolerance", "prolong", "gate_tolerance"], AT_LEAST_0)
        rules |= dict.fromkeys(["grid_n", "population"], (lambda x: x >= 2, "at least 2"))
        rules["held_out_episodes"] = (lambda x: x >= 2, "at least 2, for an interval")
        rules["thresholds"] = (lambda x: len(x) > 0 and min(x) >= 0 and sorted(x) == list(x), "numbers from 0 on, up")
        rules["gate_memory"] = (lambda x: 0 <= x < 1, "in [0, 1)")
        rules["error_quantile"] = optional((lambda x: 0 < x < 1, "in (0, 1), or None"))
        rules["entropy_free_hidden"] = WIDTHS
        check_ranges(self, rules)
        if self.threshold_by == "mean" and self.search == "cma":
            raise ValueError(
                "--agent.threshold-by mean does not go with --agent.search cma, whose points crowd where the return is "
                "low; pass --agent.search grid or random"
            )
        if self.gate == "models" and self.search != "grid":
            raise ValueError(
                f"--agent.gate models does not go with --agent.search {self.search}, whose points change from model to "
                "model; pass --agent.search grid"
            )

    @property
    def trains_all_parts(self) -> bool:
        return self.gate == "predictors" or self.train_all_parts

    def unread(self) -> dict[str, str]:
        """Return what the search and the gate do not look at, and why."""
        gate, search = f"with --agent.gate {self.gate}", f"with --agent.search {self.search}"
        return unread_where(
            (self.gate != "models", OF_MODELS, gate),
            (self.gate == "models", OF_PREDICTORS, gate),
            (not self.trains_all_parts, ("entropy_free_hidden",), "without --agent.train-all-parts"),
            (self.gate == "models" and self.gate_first != "searched", OF_WHO_ACTS_FIRST, gate),
            (self.search == "grid", OF_POINTS, search),
            (self.search != "grid", OF_GRID, search),
        )


TINY = SAC_SPEC.tiny | {  # sizes for tests
    "entropy_free_hidden": (8, 8),
    "default_steps": 24,
    "model_steps": 18,
    "thresholds": (0.1, 1.0),
    "held_out_episodes": 2,
    "grid_n": 2,
}


def plan(config: IWOCSConfig, budget: Budget) -> Plan:
    """Return the phases: the default policy, then a model after the other; each has its own warm-up and replay."""
    require_room(config, vector_steps(config.rollout_steps, budget.num_envs))
    for name in ("default_steps", "model_steps") if config.iterations else ("default_steps",):
        require_warm_up(config, getattr(config, name), f"--agent.{flag(name)}")
    each = config.default_steps, *[config.model_steps] * config.iterations
    lengths, updates = zip(*(whole_rollouts(config, budget._replace(steps=length)) for length in each), strict=True)
    least, total = sum(lengths[:2]), sum(lengths)
    if budget.steps < least:
        models = f" and --agent.model-steps {config.model_steps} of one model" if config.iterations else ""
        raise ValueError(
            f"--steps {budget.steps} is less than --agent.default-steps {config.default_steps} of the default "
            f"policy{models}; pass --steps {least}, or {total} for {counted(config.iterations, 'model')}, or lower them"
        )
    return _phases(budget.steps, lengths, updates)


def _phases(steps: int, lengths: Sequence[int], updates: Sequence[int]) -> Plan:
    """Return what of the phases fits into the steps; the last may be cut."""
    ends = list(accumulate(lengths))
    whole = sum(end <= steps for end in ends)
    phases = [f"default policy, {lengths[0]:,} steps"]
    if whole > 1:
        phases.append(f"up to {counted(whole - 1, 'model')} of {lengths[1]:,} steps")
    if left := (steps - ends[whole - 1] if whole < len(ends) else 0):
        phases.append(f"{left:,} of {lengths[1]:,} steps in model {whole}, which stays unfinished")
    return Plan(min(steps, ends[-1]), None if left else sum(updates[:whole]), tuple(phases))
