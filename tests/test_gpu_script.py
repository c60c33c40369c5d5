"""The measurement on a GPU: on a CPU it goes through all of its parts, or says in one line what it needs."""

import json

import pytest
import torch
from gpu_scripts import call, last_words


def test_a_dry_run_goes_through_every_part_and_prints_a_line_of_each():
    done = call("gpu", "--dry-run", "--seeds", "1", "2", timeout=120)
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
    said = "gpu.py: error: no CUDA device here; --dry-run goes through all of it in tiny sizes on the CPU"
    assert (last_words("gpu", monkeypatch), capsys.readouterr().out) == (said, "")
