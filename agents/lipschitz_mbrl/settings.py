"""The settings of Lipschitz MBRL, and what its six variants are (docs/derivations/lipschitz_mbrl.md §1.1)."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Literal, NamedTuple

from surefoot.agents.interface import Budget, Plan
from surefoot.agents.lipschitz_mbrl.dynamics import MODEL_RANGES, DynamicsConfig, ModelOutput, check_model
from surefoot.agents.lipschitz_mbrl.imagination import IMAGINATION_RANGES, ImaginationConfig
from surefoot.agents.lipschitz_mbrl.smoothing import Attack, Norm
from surefoot.agents.lipschitz_mbrl.spectral_norm import Bounding, Layers
from surefoot.agents.parts.budget import counted, require_room, require_warm_up, rounded_up
from surefoot.agents.parts.ranges import AT_LEAST_1, UNIT_INTERVAL, check_ranges, unread_where
from surefoot.agents.sac import (
    ActorCriticConfig,
)

Variant = Literal["pe", "de", "sp", "sd", "rr", "sn"]


class Traits(NamedTuple):
    """What makes a variant."""

    ensemble: bool
    gaussian: bool


VARIANTS: dict[Variant, Traits] = {
    "pe": Traits(True, True),
    "de": Traits(True, False),
    "sp": Traits(False, True),
    "sd": Traits(False, False),
    "rr": Traits(False, False),
    "sn": Traits(False, False),
}


OF_ROBUST_LOSS = ("attack", "reference", "centre", "detach_reference")  # the ball is also that of the diagnostics
OF_SPECTRAL_NORMS = ("spectral_bound", "bounding", "bounded_layers", "power_iterations")

UNBOUNDED = (lambda x: 0 <= x < float("inf"), "at least 0 and finite")


@dataclass(frozen=True)
class LipschitzMBRLConfig(ImaginationConfig, DynamicsConfig, ActorCriticConfig):
    """Defaults: MBPO's code (§10). ε, α, λ, β and what else is marked as ours there: the sweep of the docs."""

    variant: Variant = "rr"
    """`pe` is MBPO: a probabilistic ensemble; `de` a deterministic one; `sp`, `sd` the same with a single network. `rr`
    and `sn`, the paper's two, are `sd` with a robust loss, or with spectral normalisation, of the critics."""
    ensemble_size: int = 7
    """Networks in the model ensemble of pe and de; the other variants have 1."""
    elites: int = 5
    """Ensemble members that predict in pe and de: those with the lowest holdout error in the last training call."""
    model_output: ModelOutput = "nll_mean"
    """How deterministic variants fit the mean (ours; the paper says "deterministic"): `nll_mean` fits a Gaussian and
    takes its mean, `mse` minimises the squared error. pe and sp are always Gaussian."""

    batch_size: int = 256
    """Transitions per update."""
    real_ratio: float = 0.05
    """Real ratio: the fraction of real transitions in each batch, rounded down; the others are from model rollouts."""
    updates_per_step: int = 20
    """Gradient updates per environment step (G)."""
    random_steps: int = 5_000
    """Environment steps with uniformly random actions at the start, before the first model."""
    replay_capacity: int = 1_000_000
    """Capacity of the replay buffer of real transitions, |D_env|."""
    learn_alpha: bool = True
    """Learn the temperature (MBPO); off: fixed at `initial_alpha` (0.2 in the authors' later code)."""
    offline_rows: int = 20_000
    """With recorded data: transitions of it that each training call adds to D_env, drawn anew; the first takes all of
    it."""

    perturbation_radius: float = 0.05
    """Radius ε of the ball (rr)."""
    norm: Norm = "inf"
    """Norm of the ball (α)."""
    scale: Literal["obs_std", "raw"] = "obs_std"
    """Unit of ε in every dimension: the standard deviation over D_env, or 1."""
    robust_weight: float = 0.1
    """Weight λ of the robust loss relative to the TD loss (rr); with 0, rr equals sd bit for bit."""
    attack: Attack = "two-sided"
    """How the perturbed state is found: the better end of a gradient-sign step, `fgsm`, `uniform` noise, `none`."""
    reference: Literal["stored", "policy"] = "stored"
    """Reference value of the robust loss: Q(s, a) of the stored action, as printed, or Q(s, π̄(s))."""
    centre: Literal["obs", "next_obs"] = "obs"
    """Centre of the ball: s, as printed, or s'."""
    detach_reference: bool = False
    """Stop the gradient through the reference (as printed it is not stopped)."""

    spectral_bound: float = 3.0
    """Spectral norm bound β of each layer (sn). β³ should cover the range of Q over the typical distance of states."""
    bounding: Bounding = "normalise"
    """`normalise` every spectral norm to β, or `clip` only larger ones."""
    bounded_layers: Layers = "all"
    """`all` layers of the critics, as in the paper, or only the `hidden` ones."""
    power_iterations: int = 1
    """Power iterations per update."""

    diagnose_every: int = 1_000
    """Environment steps between two measurements of value-aware error and Lipschitz estimates."""
    diagnose_rows: int = 1_000
    """Transitions of D_env used for these measurements."""

    def __post_init__(self) -> None:
        rules = {
            **MODEL_RANGES,
            **IMAGINATION_RANGES,
            **dict.fromkeys(["perturbation_radius", "robust_weight"], UNBOUNDED),
        }
        rules |= {
            "spectral_bound": (lambda x: 0 < x < float("inf"), "positive and finite"),
            **dict.fromkeys(["random_steps", "diagnose_rows"], (lambda x: x >= 2, "at least 2")),
        }
        counts = ["updates_per_step", "power_iterations", "diagnose_every", "offline_rows"]
        rules |= dict.fromkeys(counts, AT_LEAST_1) | {"real_ratio": UNIT_INTERVAL}
        rules["variant"] = (lambda x: x in VARIANTS, f"one of {', '.join(VARIANTS)}")
        rules["model_output"] = (lambda x: x in ("nll_mean", "mse"), "nll_mean or mse; pe and sp are Gaussian")
        check_ranges(self, rules)
        check_model(self)
        if self.real_ratio > 0 and self.real_rows == 0:
            needs = f"{self.batch_size} x {self.real_ratio} is less than one row"
            raise ValueError(
                f"--agent.real-ratio leaves no real transition in a batch ({needs}); raise it, or set it to 0"
            )
        if self.centre == "next_obs" and self.reference == "stored":
            raise ValueError("--agent.centre next_obs has no stored action there: it needs --agent.reference policy")

    def unread(self) -> dict[str, str]:
        """Return what the variant, and what else is chosen, leave without effect, and why."""
        variant, its_name = VARIANTS[self.variant], f"with --agent.variant {self.variant}"
        return unread_where(
            (not self.learn_alpha, ("alpha_lr", "target_entropy"), "with --agent.no-learn-alpha"),
            (not variant.ensemble, ("ensemble_size", "elites"), its_name),
            (variant.gaussian, ("model_output",), its_name),
            (not self.robust_weight, OF_ROBUST_LOSS, "with --agent.robust-weight 0"),
            (self.variant != "rr", ("robust_weight", *OF_ROBUST_LOSS), its_name),
            (self.variant != "sn", OF_SPECTRAL_NORMS, its_name),
        )

    @property
    def real_rows(self) -> int:
        """Transitions of the task in a batch."""
        return int(self.batch_size * self.real_ratio)

    @property
    def robust(self) -> bool:
        return self.variant == "rr" and self.robust_weight > 0

    def dynamics(self) -> DynamicsConfig:
        """Return the variant's model."""
        values = {field.name: getattr(self, field.name) for field in fields(DynamicsConfig)}
        if not VARIANTS[self.variant].ensemble:
            values |= {"ensemble_size": 1, "elites": 1}
        if VARIANTS[self.variant].gaussian:
            values["model_output"] = "gaussian"
        return DynamicsConfig(**values)


def plan(config: LipschitzMBRLConfig, budget: Budget) -> Plan:
    """Return what will run: random steps, then a model at every interval and updates for every step."""
    require_warm_up(config, budget.steps)
    require_room(config, budget.num_envs)
    steps, idle = (rounded_up(length, budget.num_envs) for length in (budget.steps, config.random_steps))
    updates = (steps - idle) * config.updates_per_step
    models = -(-(steps - idle) // max(config.model_interval, budget.num_envs))
    start = f"{steps:,} environment steps, the first {idle:,} random"
    return Plan(steps, updates, (start, f"then {counted(models, 'model')} and {counted(updates, 'update')}"))
