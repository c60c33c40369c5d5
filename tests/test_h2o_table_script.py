"""The row of H2O's table as a benchmark: what its jobs are, and one from a file in D4RL's format to its score."""

import json
import sys

import numpy as np
import pytest

from surefoot.offline_data.scores import normalized_score


@pytest.fixture
def script(load_script):
    return load_script("h2o_table")


def test_every_job_of_every_row_is_a_run_of_its_gap_evaluated_without_it(script):
    found = {}
    for quality in ("medium-replay", "medium", "medium-expert"):
        jobs = list(script.row(quality))
        assert len(set(jobs)) == len(jobs) == 3 * (3 * 4 + 3)
        found |= {job: script.configuration(job, script.Options()) for job in jobs}
    for job, config in found.items():
        quality, gap, method, seed = job.split("/")
        physics = config.env.physics
        changed = {
            "gravity": physics.gravity == 2.0,
            "friction": physics.friction == 0.3,
            "noise": physics.action_noise,
        }
        assert [name for name, is_so in changed.items() if is_so] == ([] if gap == "none" else [gap]), job
        assert config.eval.physics == type(physics)(), job
        assert (config.steps, config.seed, config.agent.hidden) == (100_000, int(seed), (256, 256)), job
        source = config.data.source if config.data else None
        assert source == (None if method == "sac-sim" else f"d4rl:halfcheetah-{quality}-v2"), job


def test_a_job_reads_the_file_and_records_return_and_score(script, monkeypatch, save, tmp_path):
    numbers = np.random.default_rng(0)
    data = save(
        {
            "observations": numbers.normal(size=(60, 17)).astype(np.float32),
            "actions": numbers.uniform(-1, 1, size=(60, 6)).astype(np.float32),
            "rewards": numbers.normal(size=60).astype(np.float32),
            "terminals": np.zeros(60, bool),
            "timeouts": np.arange(60) % 20 == 19,
        }
    )
    monkeypatch.setattr(sys.modules["record"], "RESULTS", tmp_path / "results")
    for name in ("h2o_table", "simulator_gap"):
        monkeypatch.setattr(sys.modules[name], "EPISODES", 1)
    options = script.Options(data=data, jobs=("medium-replay/none/bc/1",), runs=tmp_path, steps=20)
    script.main(options)
    job = json.loads((tmp_path / "results" / "h2o_table.json").read_text())["jobs"]["medium-replay/none/bc/1"]
    assert (job["steps"], job["data"]) == (20, str(data))
    assert job["score"] == pytest.approx(float(normalized_score("HalfCheetah-v5", job["real"])), abs=0.05)
    assert job["real"] == job["simulator"]  # it has none
