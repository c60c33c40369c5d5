"""IWOCS: composite policies of specialists, and the agent that learns one. Its exact form is `exact`."""

from surefoot.agents.iwocs.composite import (
    THRESHOLDS,
    Composite,
    Specialist,
    best_threshold,
    choose,
    is_valid,
    prediction_loss,
    repeated,
)

__all__ = [
    "THRESHOLDS",
    "Composite",
    "Specialist",
    "best_threshold",
    "choose",
    "is_valid",
    "prediction_loss",
    "repeated",
]
