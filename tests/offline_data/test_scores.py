import numpy as np
import pytest

from surefoot.offline_data import normalized_score
from surefoot.offline_data.scores import D4RL_DATASETS, find_d4rl


@pytest.mark.parametrize(
    ("env_id", "low", "high"),
    [
        ("HalfCheetah-v5", -280.178953, 12135.0),
        ("halfcheetah-medium-v2", -280.178953, 12135.0),
        ("Hopper-v4", -20.272305, 3234.3),
        ("Walker2d-v5", 1.629008, 4592.3),
        ("Ant-v5", -325.6, 3879.7),
    ],
)
def test_references_are_0_and_100(env_id, low, high):
    np.testing.assert_allclose(normalized_score(env_id, [low, high, (low + high) / 2]), [0, 100, 50], atol=1e-12)


@pytest.mark.parametrize("env_id", ["Pendulum-v1", "mujoco/halfcheetah/medium-v0", "AntMaze-v2", ""])
def test_undefined_scores_are_none(env_id):
    assert normalized_score(env_id, 1.0) is None


def test_registry_has_four_tasks_of_six_qualities_with_their_addresses():
    assert len(D4RL_DATASETS) == 24
    entry = find_d4rl("halfcheetah-medium-replay-v2")
    assert entry.file_name == "halfcheetah_medium_replay-v2.hdf5"
    assert entry.url.endswith("/gym_mujoco_v2/halfcheetah_medium_replay-v2.hdf5")


def test_unknown_name_is_answered_with_near_ones():
    with pytest.raises(ValueError, match="hopper-medium-v2"):
        find_d4rl("hopper-medum-v2")
