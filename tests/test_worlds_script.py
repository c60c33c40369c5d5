"""The measurement of many worlds: on a CPU it goes through all of its parts, or says in one line what it needs."""

import importlib.util
import json

import pytest
import torch
from gpu_scripts import call, last_words


@pytest.mark.skipif(importlib.util.find_spec("mujoco_warp") is None, reason="the extra warp is not installed")
def test_a_dry_run_goes_through_every_part_and_prints_a_line_of_each():
    done = call("worlds", "--dry-run", timeout=280)
    lines = {line.pop("part"): line for line in map(json.loads, done.stdout.splitlines())}
    assert done.returncode == 0, done.stdout + done.stderr
    ends = ("speed, {}, 1", "speed, {}, 2", "parameters of every step, {}, 2")
    speeds = [end.format(backend) for backend in ("mujoco", "warp") for end in ends]
    equal, same = ("equality", "equality, parameters of every step"), ("determinism", "resuming")
    assert list(lines) == ["compile", *equal, *same, *speeds, "grid"]
    assert all(lines[name]["passed"] for name in equal)
    assert all(lines[name]["the_same_bit_for_bit"] for name in same)
    assert all(lines[name]["steps_per_second"] > 0 for name in speeds)
    assert (lines["grid"]["episodes"], lines["grid"]["steps"]) == (8, 16)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU, and it would be measured")
def test_without_a_gpu_one_line_says_what_can_be_done(monkeypatch, capsys):
    said = "worlds.py: error: no CUDA device here; --device cpu measures this machine, --dry-run goes through all of it"
    assert (last_words("worlds", monkeypatch), capsys.readouterr().out) == (said, "")
