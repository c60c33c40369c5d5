"""The settings of Lipschitz MBRL, and what its six arms are."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Literal, NamedTuple

from surefoot.agents.lipschitz_mbrl.dynamics import MODEL_RANGES, DynamicsConfig, ModelOutput, check_model
from surefoot.agents.lipschitz_mbrl.imagination import IMAGINATION_RANGES, ImaginationConfig
from surefoot.agents.lipschitz_mbrl.smoothing import Attack, Norm
from surefoot.agents.lipschitz_mbrl.spectral_norm import Bounding, Layers
from surefoot.agents.parts.ranges import AT_LEAST_1, SHARE, check_ranges
from surefoot.agents.sac import (
    ActorCriticConfig,
)

Arm = Literal["pe", "de", "sp", "sd", "rr", "sn"]


class Traits(NamedTuple):
    """What makes an arm."""

    ensemble: bool
    gaussian: bool


ARMS: dict[Arm, Traits] = {
    "pe": Traits(True, True),
    "de": Traits(True, False),
    "sp": Traits(False, True),
    "sd": Traits(False, False),
    "rr": Traits(False, False),
    "sn": Traits(False, False),
}


UNBOUNDED = (lambda x: 0 <= x < float("inf"), "at least 0 and finite")


@dataclass(frozen=True)
class LipschitzMBRLConfig(ImaginationConfig, DynamicsConfig, ActorCriticConfig):
    """Defaults: MBPO's code (brief, section 6); ε, α, λ, β and what else it marks as ours: the sweep of the docs."""

    arm: Arm = "rr"
    """`pe` is MBPO: a probabilistic ensemble. `de` its means. `sp`, `sd` the same with a single network. `rr` and `sn`,
    the paper's two, are `sd` with a robust loss, or with spectral normalisation, of the critics."""
    members: int = 7
    """Networks of the model in the arms pe and de; the others have 1."""
    elites: int = 5
    """Members that predict in pe and de: those with the least holdout error of the last training call."""
    model_output: ModelOutput = "nll_mean"
    """How the arms without sampling get their mean (ours; the paper says "deterministic"): `nll_mean` fits a Gaussian
    and takes its mean, `mse` fits the mean by squared error alone. pe and sp are Gaussian."""

    batch_size: int = 256
    """Transitions an update."""
    real_share: float = 0.05
    """Share of them from the task, rounded down; the others are imagined."""
    updates_per_step: int = 20
    """G, gradient updates an environment step."""
    random_steps: int = 5_000
    """Environment steps with uniform actions at the start, before the first model."""
    replay_capacity: int = 1_000_000
    """Transitions of the task that are kept, |D_env|."""
    learn_alpha: bool = True
    """Learn the temperature (MBPO); off: it stays at `initial_alpha` (0.2 in the authors' later code)."""
    offline_rows: int = 20_000
    """With recorded data: rows of it that every training call adds to D_env, drawn anew; the first has all of it."""

    epsilon: float = 0.05
    """ε, radius of the ball (rr)."""
    norm: Norm = "inf"
    """α, the norm of the ball."""
    scale: Literal["obs_std", "raw"] = "obs_std"
    """Unit of ε in every dimension: the standard deviation over D_env, or 1."""
    lam: float = 0.1
    """λ, weight of the robust loss beside the TD loss (rr); at 0 rr is sd, bit for bit."""
    attack: Attack = "two-sided"
    """How a point of the ball is found: the better end of a gradient-sign step, `fgsm`, `uniform` noise, `none`."""
    reference: Literal["stored", "policy"] = "stored"
    """What values in the ball are held to: Q(s, a) of the stored action, as printed, or Q(s, π̄(s))."""
    centre: Literal["obs", "next_obs"] = "obs"
    """Centre of the ball: s, as printed, or s'."""
    detach_reference: bool = False
    """Let no gradient into the reference (printed: it moves, too)."""

    beta: float = 3.0
    """β, spectral norm of a layer (sn). β³ should cover the range of Q over the typical distance of states."""
    bounding: Bounding = "normalise"
    """Bring every norm to β, or `clip` what is above it."""
    bounded_layers: Layers = "all"
    """`all` layers of the critics, as the paper has it, or the `hidden` ones."""
    power_iterations: int = 1
    """Power iterations an update."""

    diagnose_every: int = 1_000
    """Environment steps between two measurements of value-aware error and Lipschitz estimates."""
    diagnose_rows: int = 1_000
    """Transitions of D_env they are measured on."""

    def __post_init__(self) -> None:
        rules = {**MODEL_RANGES, **IMAGINATION_RANGES, **dict.fromkeys(["epsilon", "lam"], UNBOUNDED)}
        rules |= {
            "beta": (lambda x: 0 < x < float("inf"), "positive and finite"),
            "random_steps": (lambda x: x >= 2, "at least 2"),
        }
        counts = ["updates_per_step", "power_iterations", "diagnose_every", "diagnose_rows", "offline_rows"]
        rules |= dict.fromkeys(counts, AT_LEAST_1) | {"real_share": SHARE}
        rules["arm"] = (lambda x: x in ARMS, f"one of {', '.join(ARMS)}")
        rules["model_output"] = (lambda x: x in ("nll_mean", "mse"), "nll_mean or mse; the arms pe and sp are Gaussian")
        check_ranges(self, rules)
        check_model(self)
        if self.real_share > 0 and self.real_rows == 0:
            needs = f"{self.batch_size} x {self.real_share} is less than one row"
            raise ValueError(
                f"agent.real_share leaves no real transition in a batch ({needs}); raise it, or set it to 0"
            )
        if self.centre == "next_obs" and self.reference == "stored":
            raise ValueError("agent.centre next_obs has no stored action there: it needs agent.reference policy")

    @property
    def real_rows(self) -> int:
        """Transitions of the task in a batch."""
        return int(self.batch_size * self.real_share)

    @property
    def robust(self) -> bool:
        return self.arm == "rr" and self.lam > 0

    def dynamics(self) -> DynamicsConfig:
        """Return the arm's model."""
        values = {field.name: getattr(self, field.name) for field in fields(DynamicsConfig)}
        if not ARMS[self.arm].ensemble:
            values |= {"members": 1, "elites": 1}
        if ARMS[self.arm].gaussian:
            values["model_output"] = "gaussian"
        return DynamicsConfig(**values)
