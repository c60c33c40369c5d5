"""The variants of the family, and what all of them can be told."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

from surefoot.agents.parts.ranges import (
    AT_LEAST_0,
    AT_LEAST_1,
    POSITIVE,
    UNIT_INTERVAL,
    check_ranges,
    optional,
    unread_where,
)


class Rules(NamedTuple):
    """One row of the table of variants (§3.1)."""

    critic_target: Literal["star", "pi"] = "star"  # what is estimated: Q*, or Q of the actor
    optimism: Literal["bonus", "none"] = "bonus"
    switch: Literal["rare", "every"] = "rare"  # when the critic is planned anew
    reset: bool = True  # the actor is uniform again after each plan
    greedy: bool = False  # η = ∞
    needs_data: bool = False
    dithers: bool = False  # uniform actions with probability ε


VARIANTS = {
    "nora": Rules(),
    "douhua": Rules("pi", "bonus", "every", reset=False),
    "noah-star": Rules("star", "none", needs_data=True),
    "noah": Rules("pi", "none", "every", reset=False, needs_data=True),
    "lsvi-ucb": Rules("star", "bonus", "every", greedy=True),
    "oppo": Rules("pi", "bonus", "every", reset=False),
    "hy-q": Rules("star", "none", "every", greedy=True, needs_data=True),
    "plain-ac": Rules("pi", "none", "every", reset=False),
    "eps-greedy": Rules("star", "none", "every", greedy=True, dithers=True),
}
Variant = Literal[
    "nora", "douhua", "noah-star", "noah", "lsvi-ucb", "oppo", "hy-q", "plain-ac", "eps-greedy"
]  # with data, nora is the hybrid NORA


@dataclass(frozen=True)
class NORAConfig:
    """A variant fills the switches; `critic_target`, `optimism`, `switch` and `reset` change one of them (ablations).

    Defaults: docs/derivations/nora.md §8. The paper's constants are not known to us.
    """

    variant: Variant = "nora"
    """Variant: a row of the table of variants (docs/methods/nora.md). `nora` with data is hybrid NORA; `lsvi-ucb` with
    counts is UCBVI."""
    critic: Literal["tabular", "linear"] = "tabular"
    """`tabular` counts, or `linear` ridge regression on the task's features."""
    episodes: int | None = None
    """Number of episodes T that the bonus is computed for; None: the run's, its `steps` divided by H."""

    bonus: float = 1.0
    """Scale of the bonus: c_b of the count bonus (1: provably optimistic; in practice 0.01 to 0.1), β_b of the
    elliptical one."""
    bonus_width: Literal["range", "steps"] = "range"
    """Unit of the count bonus: vmax − vmin, or H − h + 1 whatever the clip range, as in the reference measurements
    (docs/derivations/nora.md §12)."""
    policy_step_size: float = 10.0
    """Step size η of mirror ascent; large on purpose: while the critic is frozen, a larger one is never worse."""
    failure_probability: float = 0.05
    """Failure probability δ of the optimism (c_b = 1)."""
    ridge: float = 1.0
    """Ridge parameter λ."""
    switch_ratio: float = 2.0
    """Plan again once some count, or some det Λ_h, has grown by this factor since the last plan."""
    pooled: bool = False
    """Linear critic: one Λ, and the weights of each step are fitted to the transitions of all steps. For tasks whose
    steps are alike: H times the data."""
    total_log_det: float | None = None
    """Threshold κ: plan again once Σ_h log det Λ_h has grown by this much, instead of `switch_ratio`
    (docs/derivations/nora.md eq. (5.6))."""
    epsilon: float = 0.1
    """Exploration rate ε of `eps-greedy`."""
    reward_range: tuple[float, float] | None = None
    """Range of the reward of one step, which gives the clip range of values; None: the task's own, tighter
    `value_range`."""
    offline: Literal["shared", "split"] = "shared"
    """`shared`: every replicate gets all recorded episodes; `split`: an equal part of its own."""

    critic_target: Literal["star", "pi"] | None = None
    """Target of the critic, Q* or Q^π; None: the variant's."""
    optimism: Literal["bonus", "none"] | None = None
    """Optimism; None: the variant's."""
    switch: Literal["rare", "every"] | None = None
    """When to plan again; None: the variant's."""
    reset: bool | None = None
    """When to reset the actor; None: the variant's."""
    mirror_first: bool | None = None
    """Mirror ascent before the episode instead of after it; None: by the target (before for Q*, after for Q^π)."""

    def __post_init__(self) -> None:
        rules = {"bonus": AT_LEAST_0, "policy_step_size": POSITIVE, "ridge": POSITIVE, "episodes": optional(AT_LEAST_1)}
        rules |= {"failure_probability": (lambda x: 0 < x < 1, "in (0, 1)"), "epsilon": UNIT_INTERVAL}
        rules |= {"switch_ratio": (lambda x: x > 1, "above 1"), "total_log_det": optional(POSITIVE)}
        rules |= {"reward_range": optional((lambda x: x[0] < x[1], "LOW below HIGH"))}
        check_ranges(self, rules)

    def unread(self) -> dict[str, str]:
        """Return what variant and critic leave without effect, and why."""
        rules, critic = self.rules(), f"with --agent.critic {self.critic}"
        planned = "where the critic is planned anew every episode"
        return unread_where(
            (self.critic == "tabular", ("ridge", "pooled", "total_log_det"), critic),
            (self.critic != "tabular", ("bonus_width",), critic),
            (rules.optimism == "none", ("bonus", "bonus_width", "failure_probability"), "without optimism"),
            (rules.switch == "every", ("switch_ratio", "total_log_det"), planned),
            (not rules.dithers, ("epsilon",), f"with --agent.variant {self.variant}"),
        )

    def rules(self) -> Rules:
        """Return the variant's switches, those that were named replaced."""
        changes = {name: getattr(self, name) for name in ("critic_target", "optimism", "switch", "reset")}
        return VARIANTS[self.variant]._replace(**{name: value for name, value in changes.items() if value is not None})

    @property
    def needs_episodes(self) -> bool:
        """Whether a constant is computed for T episodes."""
        counts = self.critic == "tabular" and self.rules().optimism == "bonus"
        return counts or self.variant == "oppo"
