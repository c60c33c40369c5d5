"""How the seeds of a sweep are written: 0..9, or numbers separated by commas."""

from __future__ import annotations

import re
from collections.abc import Sequence

from surefoot.configs.ranges import LARGEST_SEED

MOST_SEEDS = 1_000_000


def parse_seeds(words: Sequence[str]) -> list[int]:
    """Return the seeds of words such as `0..9`, `3` and `4,5`."""
    seeds: list[int] = []
    for word in split_words(words):
        match = re.fullmatch(r"(\d+)(?:\.\.(\d+))?", word)
        if match is None:
            raise ValueError(f"--seeds: {word!r} is neither a number from 0 on nor a span such as 0..9")
        first, last = int(match[1]), int(match[2] or match[1])
        if not last <= LARGEST_SEED or last - first >= MOST_SEEDS:
            raise ValueError(f"--seeds: {word} is more than {MOST_SEEDS:,} seeds, or beyond {LARGEST_SEED:,}")
        seeds += range(first, last + 1)
    return seeds


def split_words(words: Sequence[str]) -> list[str]:
    """Return what is separated by commas, in one word or several."""
    return [part.strip() for word in words for part in str(word).split(",") if part.strip()]
