"""The measurements that are for a GPU, called on a machine without one."""

import os
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"


def call(script: str, *arguments: str, timeout: float) -> subprocess.CompletedProcess[str]:
    """Run `benchmarks/SCRIPT.sh` with this interpreter, for so many seconds at most."""
    environment = os.environ | {"PYTHON": sys.executable, "OMP_NUM_THREADS": "1"}
    command = [BENCHMARKS / f"{script}.sh", *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=timeout)


def last_words(script: str, monkeypatch: pytest.MonkeyPatch) -> str | int | None:
    """Return what `benchmarks/SCRIPT.py` ends with, without arguments: Python prints a text, and ends with 1.

    In this process, where PyTorch is; that the shell script calls it is what a dry run shows.
    """
    program = BENCHMARKS / f"{script}.py"
    monkeypatch.syspath_prepend(str(program.parent))
    monkeypatch.setattr(sys, "argv", [str(program)])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(program), run_name="__main__")
    return ended.value.code
