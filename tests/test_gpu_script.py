"""The measurement on a GPU: on a CPU it goes through all of its parts, or says in one line what it needs."""

import json
import os
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import torch

SCRIPT = Path(__file__).resolve().parents[1] / "benchmarks" / "gpu.sh"


def call(*arguments: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHON": sys.executable, "OMP_NUM_THREADS": "1"}
    return subprocess.run([SCRIPT, *arguments], env=environment, capture_output=True, text=True, timeout=120)


def test_a_dry_run_goes_through_every_part_and_prints_a_line_of_each():
    done = call("--dry-run", "--seeds", "1", "2")
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.returncode == 0, done.stdout + done.stderr
    assert [line["part"] for line in lines] == [
        "equality, sac",
        "equality, h2o",
        "frames, sac, eager",
        "frames, sac, captured",
        "frames, h2o, eager",
        "frames, h2o, captured",
        "updates, 1 seed, eager",
        "updates, 1 seeds, captured",
        "updates, 2 seeds, captured",
    ]
    assert all(line.get("updates_per_second", 1) > 0 and line.get("frames_per_second", 1) > 0 for line in lines)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU, and it would be measured")
def test_without_a_gpu_one_line_says_what_can_be_done(monkeypatch, capsys):
    """In this process, where PyTorch is; that the shell script calls it is what the dry run shows."""
    program = SCRIPT.with_suffix(".py")
    monkeypatch.syspath_prepend(str(program.parent))
    monkeypatch.setattr(sys, "argv", [str(program)])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(program), run_name="__main__")
    said = "gpu.py: error: no CUDA device here; --dry-run goes through all of it in tiny sizes on the CPU"
    assert (ended.value.code, capsys.readouterr().out) == (said, "")  # Python prints it, and ends with 1
