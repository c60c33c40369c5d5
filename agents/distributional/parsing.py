"""Numbers in the texts of objectives, exactly: 1/3 is a third."""

from __future__ import annotations

import re
from fractions import Fraction


def numbers_of(text: str, form: str) -> list[Fraction]:
    """Return the numbers of an objective's text, such as 0.1 of `cvar(0.1)`; `form` is what the message says to write.

    Raises:
        ValueError: what are no numbers, or none that a float can hold; in one line.
    """
    rest = text.strip().partition("(")[2]
    given = [piece.strip() for piece in rest[:-1].split(",")] if rest else []
    try:
        return [_fraction(piece) for piece in given]
    except (ValueError, ZeroDivisionError):
        raise ValueError(f"objective {text!r}: {', '.join(given)} must be numbers; write {form}") from None
    except OverflowError:
        raise ValueError(
            f"objective {text!r}: numbers must lie within ±1e300, and not nearer to 0 than 1e-300"
        ) from None


def _fraction(text: str) -> Fraction:
    """Return the fraction that a text names; `OverflowError` where a float cannot hold it."""
    for part in text.split("/"):
        size = abs(float(part))  # first: as a fraction 1e999999999 would be a billion digits
        if size > 1e300 or (size < 1e-300 and re.search("[1-9]", part.lower().partition("e")[0])):
            raise OverflowError(text)
    return Fraction(text)
