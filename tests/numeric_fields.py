"""All numbers of a configuration, found by walking its dataclasses."""

import dataclasses
from typing import get_args, get_type_hints


def kinds(hint):
    """Return all types that a hint is made of."""
    return {hint}.union(*map(kinds, get_args(hint)))


def numeric_fields(config, prefix=""):
    """Yield dataclass, option, annotation and value of every field that holds numbers."""
    hints = get_type_hints(type(config))
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            yield from numeric_fields(value, f"{prefix}{field.name}.")
        elif kinds(hints[field.name]) & {int, float}:
            yield config, prefix + field.name, hints[field.name], value
