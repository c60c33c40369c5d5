"""What reading recorded data costs: CPU-seconds and peak memory of a D4RL file with five million rows.

    python benchmarks/data_reading.py            # about a minute; writes a file of 0.9 GB to the temporary folder

The file has HalfCheetah's sizes and all of D4RL's fields, as they are published: float32, not compressed here, so that
decompression, which is not ours, is not in it. Each round is a process of its own that reads the file once; what it
takes before, for imports, is subtracted. The payload is what the rows take in memory, float32 numbers and three flags.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import h5py
import numpy as np
import tyro
from record import record

WIDTHS = {"observations": 17, "actions": 6, "rewards": None, "next_observations": 17}
READ = """
import json, resource, sys, time
import torch
from surefoot.offline_data import read_d4rl
torch.set_num_threads(1)
kilobytes = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
before, memory = time.process_time(), kilobytes()
data = read_d4rl(sys.argv[1])
seconds = time.process_time() - before
payload = sum(value.nbytes for value in vars(data).values() if isinstance(value, torch.Tensor))
print(json.dumps([seconds, (kilobytes() - memory) * 1024 / payload]))
"""


@dataclass
class Options:
    """How much to measure."""

    rows: int = 5_000_000
    episode: int = 1_000
    rounds: int = 5


def write(path: Path, options: Options) -> None:
    """Write a file with random numbers in it, part by part."""
    generator = np.random.default_rng(0)
    with h5py.File(path, "w") as file:
        for name, width in WIDTHS.items():
            stored = file.create_dataset(name, (options.rows, width) if width else (options.rows,), np.float32)
            for start in range(0, options.rows, 2**18):
                shape = (min(2**18, options.rows - start), *stored.shape[1:])
                stored[start : start + shape[0]] = generator.random(shape, np.float32)
        file["terminals"] = np.zeros(options.rows, bool)
        file["timeouts"] = np.arange(1, options.rows + 1) % options.episode == 0


def main(options: Options) -> None:
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rows.hdf5"
        write(path, options)
        calls = [
            subprocess.run([sys.executable, "-c", READ, path], check=True, capture_output=True, text=True)
            for _ in range(options.rounds)
        ]
    seconds, peaks = zip(*(json.loads(call.stdout) for call in calls), strict=True)
    figures = {"cpu_seconds": median(seconds), "least": min(seconds), "most": max(seconds), "peak": max(peaks)}
    rounded = {name: round(value, 3) for name, value in figures.items()}
    record("data_reading", rounded | {"rows": options.rows}, began=began, seeds=[0])


if __name__ == "__main__":
    main(tyro.cli(Options))
