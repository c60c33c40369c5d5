"""What a hyper-parameter may be, and rules for those that mean the same in every agent."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from surefoot.agents.parts.networks import LOG_STD_MAX
from surefoot.configs.ranges import require_finite

Rule = tuple[Callable[[Any], bool], str]  # whether a value holds, and what it should be

AT_LEAST_0: Rule = (lambda x: x >= 0, "at least 0")
AT_LEAST_1: Rule = (lambda x: x >= 1, "at least 1")
POSITIVE: Rule = (lambda x: x > 0, "positive")
FRACTION: Rule = (lambda x: 0 < x <= 1, "in (0, 1]")
UNIT_INTERVAL: Rule = (lambda x: 0 <= x <= 1, "in [0, 1]")
WIDTHS: Rule = (lambda x: len(x) > 0 and min(x) >= 1 and max(x) <= 2**16, "one or more widths from 1 to 65,536")
RATE: Rule = (lambda x: 0 < x <= 10, "positive, at most 10")


def optional(rule: Rule) -> Rule:
    """Return a rule that also lets None pass."""
    return (lambda x: x is None or rule[0](x)), rule[1]


SHARED: dict[str, Rule] = {
    "gamma": UNIT_INTERVAL,
    **dict.fromkeys(["hidden", "net_arch", "classifier_hidden"], WIDTHS),
    "tau": FRACTION,
    "log_std_min": (lambda x: x < LOG_STD_MAX, f"below {LOG_STD_MAX:g}"),
    **dict.fromkeys(["policy_lr", "critic_lr", "alpha_lr", "classifier_lr", "learning_rate", "lr"], RATE),
    **dict.fromkeys(["initial_alpha", "updates_per_step", "adam_eps"], POSITIVE),
    **dict.fromkeys(
        ["batch_size", "replay_capacity", "rollout_steps", "classifier_batch_size", "policy_delay"], AT_LEAST_1
    ),
    **dict.fromkeys(["random_steps", "learning_starts", "real_batch_size", "classifier_noise"], AT_LEAST_0),
    **dict.fromkeys(["exploration_noise", "target_noise", "target_noise_clip"], AT_LEAST_0),
}
SHARED |= {
    "horizon": optional(AT_LEAST_1),
    "last_layer_gain": optional(AT_LEAST_0),
    "classifier_bound": optional(POSITIVE),
}


def unread_by(config: Any) -> dict[str, str]:
    """Return the fields of an agent's configuration that nothing reads as it is, and why: `without --agent.lagrange`.

    A configuration whose fields depend on each other says so by a method `unread`.
    """
    found: dict[str, str] = config.unread() if hasattr(config, "unread") else {}
    return found


def unread_where(*cases: tuple[bool, Iterable[str], str]) -> dict[str, str]:
    """Return the fields, and why, of the cases (whether it is so, fields that are then not read, why) that are so.

    A field of several has the reason of the last.
    """
    return {name: why for is_so, names, why in cases if is_so for name in names}


def check_ranges(config: Any, more: Mapping[str, Rule] | None = None) -> None:
    """Raise `ValueError` for a hyper-parameter out of its range; `more` adds an agent's own rules.

    Whatever no rule is for is finite at least, but for the fields that the class names in `INFINITE`.
    """
    for name, (holds, requirement) in {**SHARED, **(more or {})}.items():
        if hasattr(config, name) and not holds(getattr(config, name)):
            raise ValueError(f"--agent.{name.replace('_', '-')} must be {requirement}, not {getattr(config, name)}")
    require_finite(config, "agent.", getattr(config, "INFINITE", ()))
