"""Settings out of their range, one by one: what holds at the ends, and the line that names the option."""

import math
from dataclasses import make_dataclass

import pytest

from surefoot.agents.parts.ranges import (
    AT_LEAST_0,
    AT_LEAST_1,
    FRACTION,
    POSITIVE,
    SHARED,
    UNIT_INTERVAL,
    WIDTHS,
    check_ranges,
    optional,
)

FITS = [
    (AT_LEAST_1, (1, 2), (0, 0.5, -1)),
    (AT_LEAST_0, (0, 0.5), (-0.01, math.nan)),
    (POSITIVE, (1e-9, 5.0), (0.0, -1.0, math.nan)),
    (FRACTION, (1e-9, 1.0), (0.0, 1.01, math.nan)),
    (UNIT_INTERVAL, (0.0, 0.5, 1.0), (-0.01, 1.01, math.nan)),
    (WIDTHS, ((1,), (3, 2)), ((), (0,), (4, 0))),
    (optional(AT_LEAST_1), (None, 1), (0,)),
]


@pytest.mark.parametrize(("rule", "good", "bad"), FITS)
def test_a_rule_holds_at_its_ends_and_not_beyond(rule, good, bad):
    holds, requirement = rule
    assert all(holds(value) for value in good)
    assert not any(holds(value) for value in bad)
    assert isinstance(requirement, str)


def test_a_field_out_of_range_is_named_as_its_option_and_others_are_no_matter():
    config = make_dataclass("Config", [("own_field", float), ("other", float)])
    check_ranges(config(1.0, -5.0), {"own_field": AT_LEAST_1})
    with pytest.raises(ValueError, match=r"^--agent\.own-field must be at least 1, not 0\.5"):
        check_ranges(config(0.5, -5.0), {"own_field": AT_LEAST_1})
    check_ranges(config(0.5, -5.0), {"absent": AT_LEAST_1})


def test_what_many_agents_share_is_always_checked():
    name = next(name for name, rule in SHARED.items() if rule == AT_LEAST_1)
    config = make_dataclass("Config", [(name, int)])
    check_ranges(config(1))
    with pytest.raises(ValueError, match=r"must be at least 1"):
        check_ranges(config(0))
    check_ranges(config(0), {name: UNIT_INTERVAL})  # an agent's own rule comes first
