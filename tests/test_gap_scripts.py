"""The data sets and the gaps of H2O's study: what a job is made of, and what a file of two parts holds."""

import pytest
import torch

from surefoot.envs import examine_task
from surefoot.offline_data import Transitions


@pytest.fixture
def scripts(load_script):
    return load_script("data_sets"), load_script("simulator_gap")


def part(rewards, truncated):
    numbers = torch.arange(len(rewards) + 1.0)[:, None]
    fields = {
        "obs": numbers[:-1],
        "next_obs": numbers[1:],
        "action": numbers[:-1] / 10,
        "reward": torch.tensor(rewards),
    }
    return Transitions.from_arrays(**fields, terminated=torch.zeros(len(rewards)), truncated=truncated, source="part")


def test_parts_are_joined_without_an_episode_across_them_and_cut_episodes_are_not_counted(scripts):
    data_sets, _ = scripts
    first = part([1.0, 2.0, 40.0], [False, True, False])  # its second episode is cut
    second = part([5.0, 7.0], [False, True])
    both = data_sets.joined([first, second])
    assert both.episode_returns().tolist() == [3.0, 40.0, 12.0]
    assert both.breaks().tolist() == [False] * 4
    figures = data_sets.figures(both)
    assert figures == {"rows": 5, "episodes": 2, "mean": 7.5, "std": 4.5, "least": 3.0, "most": 12.0}


def test_a_job_is_the_demo_with_its_gap_and_its_data(scripts, tmp_path):
    _, gaps = scripts
    options = gaps.Options(data_sets=tmp_path)
    (tmp_path / "medium.hdf5").touch()
    plain = gaps.configuration("gravity=0.5/sac-mix/2", options)
    assert (plain.env.physics.gravity, plain.env.physics.parameters, plain.seed) == (0.5, (), 2)
    assert (plain.data.source, plain.data.fraction) == ("sample:halfcheetah-demo", 1.0)
    other = gaps.configuration("control_delay=2/h2o/0/medium:0.1", options)
    assert (other.env.physics.gravity, other.env.physics.parameters) == (1.0, ("control_delay=2",))
    assert (other.data.source, other.data.fraction) == (str(tmp_path / "medium.hdf5"), 0.1)
    assert other.eval.physics == plain.eval.physics == type(plain.env.physics)()
    with pytest.raises(SystemExit, match="--only absent"):
        gaps.configuration("gravity=2/h2o/0/absent:0.1", options)


def test_every_gap_of_the_study_is_one_that_the_task_has(scripts):
    _, gaps = scripts
    for gap in (*gaps.KINDS, *(f"gravity={factor}" for factor in gaps.GRAVITY)):
        examine_task(gaps.configuration(f"{gap}/h2o/0", gaps.Options()).env)
    assert len(set(sum(gaps.CUTS.values(), ()))) == sum(map(len, gaps.CUTS.values()))


def test_names_that_are_none_and_a_missing_folder_of_policies_are_one_line(scripts):
    data_sets, _ = scripts
    with pytest.raises(SystemExit, match="--only: no-such is none of halfcheetah-medium"):
        data_sets.refuse_unknown(data_sets.Options(only=("no-such",)))
    with pytest.raises(SystemExit, match="--zoo: the folder"):
        data_sets.refuse_unknown(data_sets.Options(only=("hopper-medium",)))
    data_sets.refuse_unknown(data_sets.Options(only=("halfcheetah-replay-100k",)))


def test_the_size_of_a_correction_is_that_of_the_last_rows_that_have_one(scripts, tmp_path):
    _, gaps = scripts
    rows = ["step,importance_weight,q", *(f"{k},{0.9 if k < 5 else 0.2},1" for k in range(15)), "15,,1"]
    (tmp_path / "metrics.csv").write_text("\n".join(rows) + "\n")
    assert gaps.corrections(tmp_path) == {"importance_weight": 0.2}
