"""What commands cost before they do anything: CPU-seconds of help texts, and of commands on a tiny run.

    python benchmarks/start.py                   # about two minutes

Rounds alternate with `import torch` alone, the floor of all that computes with PyTorch, and with Python that does
nothing, the floor of all. The run is 20 steps of a tiny SAC on the pendulum. CPU-seconds are user and system time of a
process and all of its children; bytecode is compiled before, as it is when a package was installed.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import tyro
from record import record

TASK = ["--env.id", "surefoot/Pendulum-v0", "--env.max-episode-steps", "10", "--eval.episodes", "1", "--steps", "20"]
TINY = ["--agent.hidden", "8", "--agent.learning-starts", "10", "--agent.random-steps", "10", "--threads", "1"]


@dataclass
class Options:
    """How much to measure."""

    rounds: int = 7


def cpu_seconds(*arguments: str, cache: str) -> float:
    """Return the CPU-seconds of a Python process; `cache` is where its bytecode is."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    environment |= {"OMP_NUM_THREADS": "1", "PYTHONPYCACHEPREFIX": cache}
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, *arguments], env=environment, check=True, capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def calls(folder: Path) -> dict[str, list[str]]:
    """Return the processes to time, by name."""
    run, surefoot = str(folder / "run"), ["-m", "surefoot.training.cli.main"]
    helps = ("train", "train sac", "train dhn", "evaluate", "sweep", "data", "plot", "report")
    return {
        "Python": ["-c", "pass"],
        "`import torch`": ["-c", "import gc; gc.disable(); import torch"],
        **{f"`{words} --help`": [*surefoot, *words.split(), "--help"] for words in helps},
        "`evaluate`": [*surefoot, "evaluate", run, "--episodes", "1"],
        "`plot`": [*surefoot, "plot", run, "--out", str(folder / "curve.png")],
        "`report`": [*surefoot, "report", run],
    }


def main(options: Options) -> None:
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as name:
        folder, cache = Path(name), str(Path(name) / "cache")
        make_run = ["-m", "surefoot.training.cli.main", "train", "sac", *TASK, *TINY, "--out", name, "--name", "run"]
        cpu_seconds(*make_run, cache=cache)
        found: dict[str, list[float]] = {call: [] for call in calls(folder)}
        for i in range(options.rounds + 1):
            for call, arguments in calls(folder).items():
                seconds = cpu_seconds(*arguments, cache=cache)
                if i:  # in the first the bytecode was compiled
                    found[call].append(seconds)
    figures = {
        call: {name: round(of(seconds), 2) for name, of in (("median", median), ("least", min), ("most", max))}
        for call, seconds in found.items()
    }
    record("start", {"cpu_seconds": figures, "rounds": options.rounds}, began=began, seeds=[0])


if __name__ == "__main__":
    main(tyro.cli(Options))
