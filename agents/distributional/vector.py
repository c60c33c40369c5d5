"""Vectors of fractions, with the arithmetic that stocks and returns need."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction


@dataclass(frozen=True, order=True)
class Vector:
    """Fractions side by side. A single number that is added stands for one in every place: 0, nothing more to earn."""

    entries: tuple[Fraction, ...]

    def __add__(self, other: Vector | Fraction) -> Vector:
        others = other.entries if isinstance(other, Vector) else (other,) * len(self.entries)
        return Vector(tuple(one + two for one, two in zip(self.entries, others, strict=True)))

    __radd__ = __add__

    def __mul__(self, factor: Fraction | int) -> Vector:
        return Vector(tuple(factor * entry for entry in self.entries))

    __rmul__ = __mul__

    def __truediv__(self, divisor: Fraction) -> Vector:
        return Vector(tuple(entry / divisor for entry in self.entries))

    def __bool__(self) -> bool:
        return any(self.entries)


def sum_of(value: Vector | Fraction) -> Fraction:
    """Return the sum of a vector's entries; a number is its own."""
    return sum(value.entries, Fraction(0)) if isinstance(value, Vector) else value
