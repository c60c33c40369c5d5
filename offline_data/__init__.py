"""Recorded transitions: reading, writing, downloading, collecting and checking them."""

from surefoot.offline_data.collect import collect
from surefoot.offline_data.d4rl import read_d4rl, write_d4rl
from surefoot.offline_data.minari_io import read_minari, write_minari
from surefoot.offline_data.scores import normalized_score
from surefoot.offline_data.sources import DataConfig, load, load_for
from surefoot.offline_data.transitions import Transitions

__all__ = [
    "DataConfig",
    "Transitions",
    "collect",
    "load",
    "load_for",
    "normalized_score",
    "read_d4rl",
    "read_minari",
    "write_d4rl",
    "write_minari",
]
